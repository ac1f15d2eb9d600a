"""Where uploads are kept: what the server asks of a storage, and one that is a directory.

An id exists only once its upload is committed, and a commit has returned only once the file survives a power cut.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import stat
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xmtp_history._io import write_all

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A committed upload."""

    path: Path
    size: int


class Upload(Protocol):
    """An upload on its way. Exactly one of :meth:`commit` and :meth:`abort` ends it; after a failed commit, abort it."""

    async def write(self, data: bytes | bytearray, /) -> None:
        """Appends data.

        Raises:
            OSError: the storage cannot take it.
        """

    async def commit(self, file_id: UUID, /) -> None:
        """Makes the file durable and visible under its id, in one step.

        Raises:
            OSError: the storage cannot, and the file is not there.
        """

    async def abort(self) -> None:
        """Removes every trace, also of a write or a commit that was cancelled and is still at work.

        Raises:
            OSError: something is left, invisible until the next start removes it.
        """


class Storage(Protocol):
    """What the server keeps files in."""

    async def prepare(self) -> None:
        """Gets ready, and removes what an earlier process left unfinished.

        Raises:
            OSError: the storage cannot be used.
        """

    def create(self) -> Upload:
        """A new upload, which takes up nothing before its first write or its commit."""

    async def open(self, file_id: UUID, /) -> StoredFile | None:
        """The file of this id, or None.

        Raises:
            OSError: the storage cannot be read.
        """


class LocalStorage:
    """Files in one directory of the local file system, readable by their owner alone.

    Several servers may share the directory, on one machine. Files are kept in ``00`` to ``ff``, by the first digits of
    their ids, and uploads on their way in ``partial``.

    Args:
        path: the directory; it is created if it is missing. Everything in it belongs to the server.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = Path(path).absolute()
        self._partial = self._root / "partial"

    async def prepare(self) -> None:
        """Creates the directories that are missing, and removes what killed processes left."""
        await asyncio.to_thread(self._prepare)

    def create(self) -> Upload:
        """A new upload; its temporary file appears with the first write."""
        return _LocalUpload(self, self._partial / os.urandom(16).hex())

    async def open(self, file_id: UUID, /) -> StoredFile | None:
        """The file of this id, or None."""
        return await asyncio.to_thread(self._open, file_id)

    def target(self, file_id: UUID) -> Path:
        """Where the file of this id is, or would be. An id cannot lead anywhere else."""
        name = str(file_id)
        return self._root / name[:2] / name

    def _prepare(self) -> None:
        created = not self._root.exists()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._partial.mkdir(mode=0o700, exist_ok=True)
        # All at once: a directory made along with an upload would have to be synced with it, also by the next upload
        # that finds it there.
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _sync_folder(self._root)
        if created:
            # It may be a directory in which others' names are not for us to read.
            with suppress(PermissionError):
                _sync_folder(self._root.parent)
        for leftover in self._partial.iterdir():
            # One that cannot be removed is not served either, and stands in nobody's way.
            with suppress(OSError):
                _remove_unless_in_use(leftover)

    def _open(self, file_id: UUID) -> StoredFile | None:
        path = self.target(file_id)
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return StoredFile(path, found.st_size) if stat.S_ISREG(found.st_mode) else None


class _LocalUpload:
    """A temporary file that a commit renames.

    All work is done on threads, and a thread goes on when its caller is cancelled. The lock makes the next step wait for
    it: were the file closed under a write, the rest of the data would go to whichever file is opened next.
    """

    def __init__(self, storage: LocalStorage, path: Path) -> None:
        self._storage = storage
        self._path = path
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._over = False

    async def write(self, data: bytes | bytearray, /) -> None:
        await asyncio.to_thread(self._write, data)

    async def commit(self, file_id: UUID, /) -> None:
        await asyncio.to_thread(self._commit, file_id)

    async def abort(self) -> None:
        await asyncio.to_thread(self._abort)

    def _write(self, data: bytes | bytearray) -> None:
        with self._lock, memoryview(data) as view:
            write_all(self._opened(), view)

    def _commit(self, file_id: UUID) -> None:
        with self._lock:
            file = self._opened()
            os.fsync(file.fileno())
            target = self._storage.target(file_id)
            self._path.rename(target)
            # From here on this is what an abort removes.
            self._path = target
            _sync_folder(target.parent)
            self._close()

    def _abort(self) -> None:
        with self._lock:
            self._close()
            self._path.unlink(missing_ok=True)

    def _opened(self) -> io.FileIO:
        if self._over:
            raise RuntimeError("the upload is over")
        if self._file is None:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self._file = io.FileIO(descriptor, "wb")
            # Tells other servers on this directory that the file is in use, for as long as this process lives.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._file

    def _close(self) -> None:
        self._over = True
        if self._file is not None:
            self._file.close()


def _remove_unless_in_use(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
