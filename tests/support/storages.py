"""Every kind of storage that the history server can keep files in, each on a place of its own."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from support.history_server import files, some_bytes
from support.s3 import S3Server
from xmtp_history.server.storage import (
    LocalStorage,
    NewFile,
    ObjectStorage,
    ResumableInfo,
    ResumableUpload,
    Storage,
    StoredFile,
    Upload,
    UploadBusy,
    _disk,
    _local,
    _local_resumable,
)
from xmtp_history.server.storage._object_bucket import Bucket

#: How long anything may take, seconds; what takes longer hangs.
PATIENCE: Final = 60.0

#: After how many turns of the loop, or seconds, something is cancelled.
MOMENTS: Final = [0, 1, 2, 3, 5, 8, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02]

_MORE: Final = some_bytes(1 << 20)


class Fuse:
    """Lets so many changes of a place happen, and then has the next one fail, or all that follow."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.stays = False
        self.changes = 0

    def change(self) -> None:
        """Something is about to change."""
        self.changes += 1
        if self.left is None:
            return
        if self.left:
            self.left -= 1
            return
        if not self.stays:
            self.left = None
        raise OSError(errno.EIO, "the fuse has blown")

    @contextmanager
    def after(self, count: int, *, stays: bool = False) -> Iterator[None]:
        """Fails after so many changes: once, or, as for a process that was killed, always from then on."""
        self.left, self.stays, self.changes = count, stays, 0
        try:
            yield
        finally:
            self.left = None


class Place(Protocol):
    """Where files are kept. What one storage leaves there another one finds, as when a server starts again."""

    def new(self) -> Storage:
        """A storage that is not prepared yet."""

    async def traces(self) -> list[str]:
        """Everything that is there, also what is half-way; and besides, where uploads wait."""

    def fuse(self, monkeypatch: pytest.MonkeyPatch) -> Fuse:
        """A fuse for everything that storages change there."""


class LocalPlace:
    """A directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "local"

    def new(self) -> Storage:
        return LocalStorage(self._folder)

    async def traces(self) -> list[str]:
        return [str(path.relative_to(self._folder)) for path in files(self._folder)]

    def fuse(self, monkeypatch: pytest.MonkeyPatch) -> Fuse:
        fuse = Fuse()
        for owner, name in (
            (os, "fsync"),
            (os, "ftruncate"),
            (Path, "rename"),
            (Path, "unlink"),
            (_local, "write_all"),
            (_disk, "write_all"),
            (_local_resumable, "write_all"),
        ):
            monkeypatch.setattr(owner, name, _fused(fuse, getattr(owner, name)))
        system_open = os.open

        def fused_open(path: Any, flags: int, *mode: int) -> int:
            if flags & os.O_CREAT:
                fuse.change()
            return system_open(path, flags, *mode)

        monkeypatch.setattr(os, "open", fused_open)
        return fuse


class _BucketPlace:
    """A bucket, and a directory for uploads on their way."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"

    def fuse(self, monkeypatch: pytest.MonkeyPatch) -> Fuse:
        fuse = Fuse()
        for name in ("put", "delete"):
            monkeypatch.setattr(Bucket, name, _async_fused(fuse, getattr(Bucket, name)))
        return fuse


class MemoryPlace(_BucketPlace):
    """A bucket in memory."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bucket = Bucket("memory:///", {}, 20)

    def new(self) -> Storage:
        storage = ObjectStorage("memory:///", spool=self.spool)
        storage._bucket = self._bucket
        return storage

    async def traces(self) -> list[str]:
        found = [one["path"] async for batch in self._bucket.objects("") for one in batch]
        return sorted([*found, *(path.name for path in files(self.spool))])


class S3Place(_BucketPlace):
    """A part of a bucket of a real S3 server."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        super().__init__(folder)
        self._server = server
        self._prefix = secrets.token_hex(8)

    def new(self) -> Storage:
        url = f"s3://{self._server.folder.name}/{self._prefix}"
        return ObjectStorage(url, spool=self.spool, options=self._server.options())

    async def traces(self) -> list[str]:
        root = self._server.folder / self._prefix
        found = [str(path.relative_to(root)) for path in files(root)]
        return sorted(found + [path.name for path in (*self._server.unfinished(), *files(self.spool))])


@asynccontextmanager
async def prepared(place: Place) -> AsyncIterator[Storage]:
    """A storage that works. What hangs fails."""
    storage = place.new()
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        stack.push_async_callback(storage.aclose)
        await storage.prepare()
        yield storage


def content(size: int) -> bytes:
    """Always the same bytes for a size, cheaply also many."""
    return (some_bytes(min(size, 1000)) + _MORE * (size // len(_MORE) + 1))[:size]


def new_info(length: int | None = None, **changes: Any) -> ResumableInfo:
    """What a resumable upload may be created with."""
    return ResumableInfo(**{"new": NewFile.random(), "length": length, "metadata": "", "created": 1.5} | changes)


async def store(storage: Storage, data: bytes, piece: int = 300_000) -> NewFile:
    """Stores a file."""
    upload, new = storage.create(), NewFile.random()
    count = len(data) // piece * piece
    await append(upload, data[:count], piece)
    assert await upload.commit(new, data[count:]) == hashlib.sha256(data).digest()
    return new


async def append(upload: Upload | ResumableUpload, data: bytes, piece: int = 300_000) -> None:
    """Writes data in pieces."""
    for start in range(0, len(data), piece):
        await upload.write(data[start : start + piece])


async def read(file: StoredFile, start: int = 0, end: int | None = None) -> bytes:
    """Some of a file."""
    found = [piece async for piece in file.read(start, file.info.size if end is None else end)]
    assert all(0 < len(piece) <= 256 * 1024 for piece in found)
    return b"".join(found)


async def check(storage: Storage, new: NewFile, data: bytes) -> None:
    """A file is there, and is known for what it is."""
    file = await storage.open(new.file_id)
    assert file is not None
    try:
        assert await read(file) == data
        if file.content is not None:
            assert file.content == data
        info = file.info
        assert (info.size, info.sha256) == (len(data), hashlib.sha256(data).digest())
        assert info.may_delete(new.capability)
        assert not info.may_delete(NewFile.random().capability)
    finally:
        await file.aclose()


async def exists(storage: Storage, new: NewFile) -> bool:
    """Whether a file is there."""
    file = await storage.open(new.file_id, content=False)
    if file is not None:
        await file.aclose()
    return file is not None


async def resumed(storage: Storage, upload_id: str, *, patient: bool = False) -> ResumableUpload:
    """A resumable upload that is there; maybe once nobody else has it any more."""
    while True:
        try:
            upload = await storage.resume(upload_id)
        except UploadBusy:
            if not patient:
                raise
            await asyncio.sleep(0.001)
        else:
            assert upload is not None
            return upload


async def cancelled(work: Coroutine[Any, Any, object], moment: float) -> bool:
    """Cancels some work after turns of the loop, or seconds; says whether it was not done before."""
    task = asyncio.create_task(work)
    if isinstance(moment, int):
        for _ in range(moment):
            await asyncio.sleep(0)
    else:
        await asyncio.sleep(moment)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def listed(storage: Storage) -> tuple[list[str], list[str]]:
    """The ids of all files, and those of all resumable uploads."""
    found = [str(entry.file_id) async for batch in storage.files() for entry in batch]
    unfinished = [entry.upload_id async for batch in storage.resumables() for entry in batch]
    return sorted(found), sorted(unfinished)


def _fused(fuse: Fuse, work: Callable[..., Any]) -> Callable[..., Any]:
    def change(*args: Any, **kwargs: Any) -> Any:
        fuse.change()
        return work(*args, **kwargs)

    return change


def _async_fused(fuse: Fuse, work: Callable[..., Any]) -> Callable[..., Any]:
    async def change(*args: Any, **kwargs: Any) -> Any:
        fuse.change()
        return await work(*args, **kwargs)

    return change
