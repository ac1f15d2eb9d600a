"""Resumable uploads of a local storage.

One is two files: ``<id>.json`` says what it was created with, ``<id>.part`` is what has arrived. Finishing it gives the
latter its trailer and its name for good. Whoever writes has a lock on it, which ends with the process at the latest.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from xmtp_history._io import write_all
from xmtp_history.server.storage import _disk
from xmtp_history.server.storage._base import NewFile, ResumableEntry, ResumableInfo, UploadBusy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xmtp_history.server.storage._threads import Threads

_ID = re.compile("[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Paths:
    """Where things are: what is known, what has arrived, and the file for good."""

    state: Path
    part: Path
    target: Path


class LocalResumables:
    """The resumable uploads in a directory."""

    def __init__(self, folder: Path, target: Callable[[UUID], Path], threads: Threads) -> None:
        self._folder = folder
        self._target = target
        self._threads = threads

    def prepare(self) -> None:
        """Makes the directory. Blocks."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    async def create(self, info: ResumableInfo) -> tuple[str, LocalResumable]:
        """A new one, and its id."""
        upload_id = os.urandom(16).hex()
        return upload_id, await self._threads.obtain(LocalResumable.give_up, self._create, upload_id, info)

    async def resume(self, upload_id: str) -> LocalResumable | None:
        """The one of this id."""
        return await self._threads.obtain(_release, self._resume, upload_id)

    async def entries(self) -> list[ResumableEntry]:
        """All of them."""
        return await self._threads.run(self._list)

    async def discard(self, upload_id: str) -> bool:
        """Removes one that nobody has."""
        return await self._threads.run(self._discard, upload_id)

    def _create(self, upload_id: str, info: ResumableInfo) -> LocalResumable:
        state, part = self._paths(upload_id)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        file = io.FileIO(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            store_info(state, info)
        except BaseException:
            file.close()
            _remove(state, part)
            raise
        paths = _Paths(state, part, self._target(info.new.file_id))
        return LocalResumable(paths, info, file, 0, self._threads)

    def _resume(self, upload_id: str) -> LocalResumable | None:
        if not _ID.fullmatch(upload_id):
            return None
        state, part = self._paths(upload_id)
        info = load_info(state)
        if info is None:
            return None
        paths = _Paths(state, part, self._target(info.new.file_id))
        opened = _open_part(part)
        if opened is None:
            finished = _disk.open_stored(paths.target)
            if finished is None:
                return None
            finished.file.close()
            # Whoever gave it its name may have been killed before it had made that durable.
            _disk.sync_folder(paths.target.parent)
            info.length = finished.info.size
            upload = LocalResumable(paths, info, None, finished.info.size, self._threads)
            upload.sha256 = finished.info.sha256
            return upload
        try:
            # After a crash nobody knows how much of what was written had reached the disk; now it has.
            os.fsync(opened.fileno())
            offset = os.fstat(opened.fileno()).st_size
            if info.length is not None and offset > info.length:
                # It was about to be finished.
                os.ftruncate(opened.fileno(), info.length)
                offset = info.length
        except BaseException:
            opened.close()
            raise
        return LocalResumable(paths, info, opened, offset, self._threads)

    def _list(self) -> list[ResumableEntry]:
        found: dict[str, ResumableEntry] = {}
        with os.scandir(self._folder) as items:
            for item in items:
                upload_id = item.name.partition(".")[0]
                if _ID.fullmatch(upload_id):
                    with suppress(OSError):
                        status = item.stat(follow_symlinks=False)
                        one = found.get(upload_id, ResumableEntry(upload_id, 0, 0.0))
                        touched = max(one.touched, status.st_mtime)
                        found[upload_id] = ResumableEntry(upload_id, one.size + status.st_size, touched)
        return list(found.values())

    def _discard(self, upload_id: str) -> bool:
        if not _ID.fullmatch(upload_id):
            return False
        state, part = self._paths(upload_id)
        try:
            opened = _open_part(part)
        except UploadBusy:
            return False
        try:
            return _remove(state, part)
        finally:
            if opened is not None:
                opened.close()

    def _paths(self, upload_id: str) -> tuple[Path, Path]:
        return self._folder / f"{upload_id}.json", self._folder / f"{upload_id}.part"


class LocalResumable:
    """A resumable upload that one request has for itself. As with other uploads, a lock makes steps wait for each other."""

    def __init__(
        self, paths: _Paths, info: ResumableInfo, file: io.FileIO | None, offset: int, threads: Threads
    ) -> None:
        self._paths = paths
        self._file = file
        self._threads = threads
        self._lock = threading.Lock()
        self.info = info
        self.offset = offset
        self.sha256: bytes | None = None

    @property
    def committed(self) -> bool:
        return self.sha256 is not None

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        await self._threads.run(self._write, data)

    async def flush(self) -> None:
        await self._threads.run(self._flush)

    async def truncate(self, offset: int, /) -> None:
        await self._threads.run(self._truncate, offset)

    async def set_length(self, length: int, /) -> None:
        await self._threads.run(self._set_length, length)

    async def commit(self) -> None:
        await self._threads.run(self._commit)

    async def release(self) -> None:
        await self._threads.run(self.let_go)

    async def discard(self) -> None:
        await self._threads.run(self._discard)

    def give_up(self) -> None:
        """Removes it, and lets go of it. Blocks."""
        with suppress(OSError):
            self._discard()
        self.let_go()

    def let_go(self) -> None:
        """Lets others have it. Blocks."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        with self._lock:
            file = self._opened()
            try:
                file.seek(self.offset)
                with memoryview(data) as view:
                    write_all(file, view)
            except BaseException:
                # What is half-written would be taken for what the client sent.
                os.ftruncate(file.fileno(), self.offset)
                raise
            self.offset += len(data)

    def _flush(self) -> None:
        with self._lock:
            os.fsync(self._opened().fileno())

    def _truncate(self, offset: int) -> None:
        with self._lock:
            os.ftruncate(self._opened().fileno(), offset)
            self.offset = offset

    def _set_length(self, length: int) -> None:
        with self._lock:
            changed = ResumableInfo(self.info.new, length, self.info.metadata, self.info.created)
            store_info(self._paths.state, changed)
            self.info = changed

    def _commit(self) -> None:
        with self._lock:
            if self.committed:
                return
            file = self._opened()
            sha256 = _disk.hash_file(file)
            file.seek(self.offset)
            try:
                _disk.finish(file, sha256, self.info.new.capability_sha256)
                self._publish()
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), self.offset)
                raise
            self.sha256 = sha256

    def _publish(self) -> None:
        self._paths.part.rename(self._paths.target)
        try:
            _disk.sync_folder(self._paths.target.parent)
        except BaseException:
            self._paths.target.rename(self._paths.part)
            raise

    def _discard(self) -> None:
        with self._lock:
            _remove(self._paths.state, self._paths.part)

    def _opened(self) -> io.FileIO:
        if self._file is None or self._file.closed or self.committed:
            raise RuntimeError("the upload is over")
        return self._file


def store_info(path: Path, info: ResumableInfo) -> None:
    """Writes what an upload was created with; durable, and all or nothing."""
    described = {
        "file_id": str(info.new.file_id),
        "capability": info.new.capability,
        "length": info.length,
        "metadata": info.metadata,
        "created": info.created,
    }
    temporary = _next(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with io.FileIO(descriptor, "wb") as file, memoryview(json.dumps(described).encode()) as view:
        write_all(file, view)
        os.fsync(descriptor)
    temporary.rename(path)
    _disk.sync_folder(path.parent)


def load_info(path: Path) -> ResumableInfo | None:
    """What an upload was created with; None if there is no such upload."""
    try:
        described = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise OSError("the state of a resumable upload is damaged") from None
    new = NewFile(UUID(described["file_id"]), described["capability"])
    return ResumableInfo(new, described["length"], described["metadata"], described["created"])


def _next(state: Path) -> Path:
    """What replaces a state, while it is written."""
    return state.with_suffix(".new")


def _remove(state: Path, part: Path) -> bool:
    """Removes what there is of an upload; says whether there was something."""
    # In another order, a crash in between would leave a part that nothing tells apart from a new one.
    found = [path for path in (part, _next(state), state) if path.exists()]
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def _release(upload: LocalResumable | None) -> None:
    if upload is not None:
        upload.let_go()


def _open_part(path: Path) -> io.FileIO | None:
    """Opens what has arrived of an upload, and locks it.

    Raises:
        UploadBusy: somebody else has it.
    """
    try:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except BlockingIOError:
        file.close()
        raise UploadBusy from None
    except FileNotFoundError:
        same = False
    except BaseException:
        file.close()
        raise
    if not same:
        # Whoever had it has finished or removed it before we got the lock.
        file.close()
        return None
    return file
