"""A storage that is one directory of the local file system."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from xmtp_history._io import write_all
from xmtp_history.server.storage import _disk
from xmtp_history.server.storage._base import FileEntry
from xmtp_history.server.storage._local_resumable import LocalResumables
from xmtp_history.server.storage._threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future

    from xmtp_history.server.storage._base import (
        FileInfo,
        NewFile,
        ResumableEntry,
        ResumableInfo,
        ResumableUpload,
        StoredFile,
        Upload,
    )

#: How many threads wait for the disk. Syncs that come together cost little more than one.
_THREADS = 16

#: The kernel would not write anything before the last sync, which then takes as long as the whole upload: so a sync
#: runs beside the upload after so many bytes.
_SYNC_BYTES = 32 * 1024 * 1024

#: A file dated further ahead than this was stored while the clock was wrong, seconds.
_AHEAD_SECONDS = 86_400.0


class LocalStorage:
    """Files in one directory of the local file system, readable by their owner alone.

    Several servers may share the directory, on one machine. Files are kept in ``00`` to ``ff``, by the first digits of
    their ids, uploads on their way in ``partial``, and resumable ones in ``resumable``.

    Args:
        path: the directory; it is created if it is missing. Everything in it belongs to the server.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = Path(path).absolute()
        self._partial = self._root / "partial"
        self._threads = Threads(_THREADS)
        self._resumables = LocalResumables(self._root / "resumable", self._target, self._threads)

    async def prepare(self) -> None:
        """Creates the directories that are missing, and removes what killed processes left."""
        self._threads.start()
        await self._threads.run(self._prepare)

    async def aclose(self) -> None:
        """Waits for what threads are doing."""
        await self._threads.stop()

    async def probe(self) -> None:
        """Writes, reads and deletes a file."""
        await self._threads.run(self._probe)

    def create(self) -> Upload:
        """A new upload; its temporary file appears with the first write."""
        return _LocalUpload(self._target, self._partial / os.urandom(16).hex(), self._threads)

    async def open(self, file_id: UUID, /, *, content: bool = True) -> StoredFile | None:  # noqa: ARG002 - costs nothing
        """The file of this id, or None."""
        opened = await self._threads.obtain(_close, _disk.open_stored, self._target(file_id))
        return None if opened is None else _LocalFile(opened, self._threads)

    async def location(self, file_id: UUID, /) -> str | None:  # noqa: ARG002 - the interface
        """None: the files are here."""
        return None

    async def delete(self, file_id: UUID, /) -> bool:
        """Removes a file; says whether it was there."""
        return await self._threads.run(_delete, self._target(file_id))

    async def create_resumable(self, info: ResumableInfo, /) -> tuple[str, ResumableUpload]:
        """A new resumable upload, and its id."""
        return await self._resumables.create(info)

    async def resume(self, upload_id: str, /) -> ResumableUpload | None:
        """The resumable upload of this id, or None."""
        return await self._resumables.resume(upload_id)

    async def files(self) -> AsyncIterator[list[FileEntry]]:
        """All committed files, a folder at a time. One that cannot be listed does not hide the others."""
        failed: OSError | None = None
        for number in range(256):
            try:
                entries = await self._threads.run(_list_files, self._root / f"{number:02x}")
            except OSError as error:
                failed = error
            else:
                yield entries
        if failed is not None:
            raise failed

    async def resumables(self) -> AsyncIterator[list[ResumableEntry]]:
        """All resumable uploads, in one batch."""
        yield await self._resumables.entries()

    async def discard(self, upload_id: str, /) -> bool:
        """Removes a resumable upload that nobody has."""
        return await self._resumables.discard(upload_id)

    async def free_bytes(self) -> int | None:
        """Bytes that the file system has left for the server's user."""
        found = await self._threads.run(os.statvfs, self._root)
        return found.f_bavail * found.f_frsize

    def _target(self, file_id: UUID) -> Path:
        """Where the file of this id is, or would be. An id cannot lead anywhere else."""
        name = str(file_id)
        return self._root / name[:2] / name

    def _prepare(self) -> None:
        created = not self._root.exists()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._partial.mkdir(mode=0o700, exist_ok=True)
        self._resumables.prepare()
        # All at once: a directory made along with an upload would have to be synced with it, also by the next upload
        # that finds it there.
        for number in range(256):
            (self._root / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
        _disk.sync_folder(self._root)
        if created:
            # It may be a directory in which others' names are not for us to read.
            with suppress(PermissionError):
                _disk.sync_folder(self._root.parent)
        for leftover in self._partial.iterdir():
            # One that cannot be removed is not served either, and stands in nobody's way.
            with suppress(OSError):
                _remove_unless_in_use(leftover)

    def _probe(self) -> None:
        path = self._partial / f"probe-{os.urandom(8).hex()}"
        try:
            path.write_bytes(b"probe")
            if path.read_bytes() != b"probe":
                raise OSError("what was written is not what is read")
        finally:
            path.unlink(missing_ok=True)


class _LocalFile:
    """A stored file that is open."""

    def __init__(self, opened: _disk.OpenFile, threads: Threads) -> None:
        self._opened = opened
        self._threads = threads

    @property
    def info(self) -> FileInfo:
        return self._opened.info

    @property
    def content(self) -> bytes | None:
        return self._opened.content

    @property
    def file(self) -> io.FileIO | None:
        return self._opened.file

    async def read(self, start: int, end: int, /) -> AsyncIterator[bytes]:
        while start < end:
            data = await self._threads.run(_disk.read_piece, self._opened.file, start, end)
            start += len(data)
            yield data

    async def aclose(self) -> None:
        self._opened.file.close()


class _LocalUpload:
    """A temporary file that a commit renames.

    All work is done on threads, and a thread goes on when its caller is cancelled. The lock makes the next step wait for
    it: were the file closed under a write, the rest of the data would go to whichever file is opened next.
    """

    def __init__(self, target: Callable[[UUID], Path], path: Path, threads: Threads) -> None:
        self._target = target
        self._path = path
        self._threads = threads
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._digest = hashlib.sha256()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._over = False

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        await self._threads.run(self._write, data)

    async def commit(self, new: NewFile, last: bytes | bytearray = b"", /) -> bytes:
        return await self._threads.run(self._commit, new, last)

    async def abort(self) -> None:
        await self._threads.run(self._abort)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        with self._lock:
            self._append(data)

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        file = self._opened()
        with memoryview(data) as view:
            write_all(file, view)
        self._digest.update(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_BYTES and (self._syncing is None or self._syncing.done()):
            self._end_sync()
            self._unsynced = 0
            self._syncing = self._threads.submit(os.fdatasync, file.fileno())

    def _commit(self, new: NewFile, last: bytes | bytearray) -> bytes:
        with self._lock:
            if last:
                self._append(last)
            file = self._opened()
            self._end_sync()
            sha256 = self._digest.digest()
            _disk.finish(file, sha256, new.capability_sha256)
            target = self._target(new.file_id)
            self._path.rename(target)
            # From here on this is what an abort removes.
            self._path = target
            _disk.sync_folder(target.parent)
            self._close()
            return sha256

    def _abort(self) -> None:
        with self._lock:
            with suppress(OSError):
                self._end_sync()
            self._close()
            self._path.unlink(missing_ok=True)

    def _end_sync(self) -> None:
        """Waits for the sync that runs beside, and for its error: the kernel reports each only once."""
        syncing, self._syncing = self._syncing, None
        # One that has not begun must not be waited for: it may stand in line behind this very thread.
        if syncing is not None and not syncing.cancel():
            syncing.result()

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


def _list_files(folder: Path) -> list[FileEntry]:
    now = time.time()
    entries = []
    with os.scandir(folder) as found:
        for item in found:
            # What cannot be looked at, or is no file of ours, must not keep the others from being found.
            with suppress(OSError, ValueError):
                file_id = UUID(item.name)
                status = item.stat(follow_symlinks=False)
                if str(file_id) == item.name and item.is_file(follow_symlinks=False):
                    committed = status.st_mtime
                    if committed > now + _AHEAD_SECONDS:
                        os.utime(item.path, (now, now), follow_symlinks=False)
                        committed = now
                    size = max(0, status.st_size - _disk.TRAILER_BYTES)
                    entries.append(FileEntry(file_id, size, committed))
    return entries


def _close(opened: _disk.OpenFile | None) -> None:
    if opened is not None:
        opened.file.close()


def _delete(path: Path) -> bool:
    try:
        path.unlink()
    except (FileNotFoundError, IsADirectoryError):
        return False
    _disk.sync_folder(path.parent)
    return True


def _remove_unless_in_use(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)
