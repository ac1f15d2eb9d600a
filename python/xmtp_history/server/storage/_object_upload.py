"""Uploads into a bucket: first to this machine, for the digest is to be known before the first byte goes to the bucket."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xmtp_history.server.storage._object_bucket import MAX_PARTS, PART_BYTES, PARTS_AT_ONCE, Bucket
from xmtp_history.server.storage._object_spool import Room, Spool, Turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from uuid import UUID

    from xmtp_history.server.storage._base import NewFile
    from xmtp_history.server.storage._threads import Threads

FILES = "files/"

#: User metadata of a file. Names are as plain as the pickiest kind of bucket wants them.
SHA256 = "sha256"
CAPABILITY_SHA256 = "capabilitysha256"

#: For those who get a file from the bucket itself.
_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Content-Disposition": "attachment",
    "Cache-Control": "private, no-transform",
}

#: Most bytes of all uploads in memory at once.
_MEMORY_BYTES = 40 * 1024 * 1024


@dataclass(slots=True)
class Means:
    """What all uploads of a storage work with.

    Attributes:
        bucket: where they end.
        threads: what works on spools.
        folder: where spools are; None is the system's folder for temporary files.
        room: bounds what is in memory.
        running: steps at work.
    """

    bucket: Bucket
    threads: Threads
    folder: Path | None
    room: Room = field(default_factory=lambda: Room(_MEMORY_BYTES))
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def store(
        self,
        key: str,
        spool: Spool,
        attributes: Mapping[str, str],
        *,
        create: bool = False,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Stores what a spool holds.

        Args:
            key: where.
            spool: the content.
            attributes: of the object; in them, something that no other object has.
            create: whether there must not be an object yet.
            wanted: asked as long as it can be given up.

        Raises:
            FileExistsError: another object is there.
            OSError: the object is not there; or, where the bucket does not even answer that, it may be.
        """
        size = spool.size
        if size > MAX_PARTS * PART_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        async with self.room.take(min(size, PARTS_AT_ONCE * PART_BYTES)):
            content = await spool.read(0, size) if size <= PART_BYTES else _while(wanted, spool.pieces())
            try:
                await self.bucket.put(key, content, attributes, create=create)
            except OSError:
                # The answer may have been lost, not the object.
                if not await self.bucket.holds(key, size, attributes):
                    raise


class ObjectUpload:
    """An upload that waits in a spool until its commit sends it to the bucket, where it appears as a whole.

    Args:
        means: what it works with.
        keep: whether the file stays when its commit fails, as others may have committed the same.
    """

    def __init__(self, means: Means, *, keep: bool = False) -> None:
        self._means = means
        self._keep = keep
        self._digest = hashlib.sha256()
        self._spool = Spool(means.folder, means.threads, self._digest)
        self._turns = Turns(means.running)
        self._key: str | None = None
        self._over = False

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Appends data."""
        if self._over:
            raise RuntimeError("the upload is over")
        if self._turns.idle and self._spool.keeps(len(data)):
            self._spool.keep(data)
        else:
            await self._turns.run(self._spool.append, data)

    async def commit(self, new: NewFile, last: bytes | bytearray = b"", /) -> bytes:
        """Sends everything to the bucket, and removes it again when that fails or is cancelled."""
        if self._over:
            raise RuntimeError("the upload is over")
        try:
            return await self._turns.run(self._commit, new, last)
        finally:
            # Also tells a commit that goes on without its caller.
            self._over = True

    async def abort(self) -> None:
        """Removes what is in the bucket and in the spool."""
        self._over = True
        await self._turns.run(self._abort)

    async def _commit(self, new: NewFile, last: bytes | bytearray) -> bytes:
        if last:
            await self._spool.append(last)
        key = file_key(new.file_id)
        attributes = {**_HEADERS, SHA256: self._digest.hexdigest(), CAPABILITY_SHA256: new.capability_sha256.hex()}
        if not self._keep:
            self._key = key
        try:
            await self._means.store(key, self._spool, attributes, wanted=lambda: not self._over)
            if self._over:
                raise _cancelled()
        except OSError:
            if self._key is not None and await self._means.bucket.forget(key):
                self._key = None
            raise
        await self._spool.aclose()
        return self._digest.digest()

    async def _abort(self) -> None:
        await self._spool.aclose()
        if self._key is not None:
            if not await self._means.bucket.forget(self._key):
                raise OSError(errno.EIO, "the bucket may still have the file")
            self._key = None


def file_key(file_id: UUID) -> str:
    """Where a file is. An id cannot lead anywhere else."""
    return f"{FILES}{file_id}"


async def _while(wanted: Callable[[], bool], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, as long as somebody wants them."""
    async for piece in pieces:
        if not wanted():
            raise _cancelled()
        yield piece


def _cancelled() -> OSError:
    return OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
