"""Resumable uploads in a bucket: an object that tells what it is, and one for each stretch of its content.

The stretches, called segments, are named after where they begin, and an object is only made where there is none: of two
servers that have the same upload, one finds that it has lost it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from xmtp_history.server.storage._base import NewFile, ResumableInfo, UploadBusy
from xmtp_history.server.storage._object_bucket import MAX_PARTS, PART_BYTES, pieces
from xmtp_history.server.storage._object_reading import open_object
from xmtp_history.server.storage._object_spool import Spool, Turns
from xmtp_history.server.storage._object_upload import Means, ObjectUpload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

RESUMABLE = "resumable/"

#: How many digits tell where a segment begins.
_DIGITS = 16

#: User metadata of a segment: who made it. Tells one's own, whose answer was lost, from another's.
_WRITER = "writer"

_ID_DIGITS = frozenset("0123456789abcdef")
_ID_LENGTH = 32


class ObjectResumable:
    """A resumable upload. What is written waits in a spool until it fills a segment, or is flushed.

    Args:
        means: what it works with.
        upload_id: its id.
        info: what it was created with.
        sha256: of the content, where the file is visible.
        segments: begin and size of each, without a gap.
        released: called when it is let go of.
    """

    def __init__(
        self,
        means: Means,
        upload_id: str,
        info: ResumableInfo,
        *,
        sha256: bytes | None,
        segments: list[tuple[int, int]],
        released: Callable[[], None],
    ) -> None:
        self.info = info
        self.sha256 = sha256
        self._means = means
        self._id = upload_id
        self._segments = segments
        self._released = released
        self._spool = Spool(means.folder, means.threads)
        self._turns = Turns(means.running)
        self._writer = _random()
        # Whether the segment of what is spooled may be in the bucket already: the same bytes have to be tried again.
        self._tried = False
        self._lost = False

    @property
    def committed(self) -> bool:
        """Whether the file is visible."""
        return self.sha256 is not None

    @property
    def offset(self) -> int:
        """How many bytes are in the bucket and in the spool."""
        return (self.info.length or 0) if self.committed else self._stored + self._spool.size

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Appends data. Each full segment goes to the bucket."""
        await self._turns.run(self._write, data)

    async def flush(self) -> None:
        """Makes a segment of what waits."""
        await self._turns.run(self._flush)

    async def truncate(self, offset: int, /) -> None:
        """Takes back what comes after the offset."""
        await self._turns.run(self._truncate, offset)

    async def set_length(self, length: int, /) -> None:
        """Stores the length."""
        await self._turns.run(self._set_length, length)

    async def commit(self) -> None:
        """Makes one object of all segments. Their removal is left to the end, and may be left undone."""
        await self._turns.run(self._commit)

    async def release(self) -> None:
        """Lets others have it, once nothing is at work any more."""
        await self._turns.run(self._spool.aclose)
        self._released()

    async def discard(self) -> None:
        """Removes its objects."""
        await self._turns.run(self._discard)

    @property
    def _stored(self) -> int:
        """How many bytes are in the bucket."""
        return sum(self._segments[-1]) if self._segments else 0

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        if self._tried:
            await self._flush()
        rest = memoryview(data)
        while rest:
            count = PART_BYTES - self._spool.size
            await self._spool.append(rest[:count])
            rest = rest[count:]
            if self._spool.size == PART_BYTES:
                await self._flush()

    async def _flush(self) -> None:
        self._check()
        if not self._spool.size:
            return
        if len(self._segments) >= MAX_PARTS:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        begin, size = self._stored, self._spool.size
        self._tried = True
        try:
            await self._means.store(self._key(begin), self._spool, {_WRITER: self._writer}, create=True)
        except FileExistsError:
            self._lost = True
            raise UploadBusy from None
        self._segments.append((begin, size))
        await self._empty()

    async def _truncate(self, offset: int) -> None:
        self._check()
        bucket = self._means.bucket
        if self._tried and await bucket.holds(self._key(self._stored), self._spool.size, {_WRITER: self._writer}):
            await bucket.delete([self._key(self._stored)])
        self._tried = False
        self._writer = _random()
        if offset >= self._stored:
            self._spool.truncate(min(self._spool.size, offset - self._stored))
            return
        await self._empty()
        while self._segments and self._segments[-1][0] >= offset:
            # The last first: what is left is always a beginning.
            await bucket.delete([self._key(self._segments[-1][0])])
            self._segments.pop()
        if offset < self._stored:
            await self._shorten(offset)

    async def _shorten(self, offset: int) -> None:
        """Replaces the last segment by its beginning, in one step."""
        begin, _ = self._segments[-1]
        spool = Spool(self._means.folder, self._means.threads)
        try:
            await self._copy(begin, offset - begin, spool.append)
            await self._means.store(self._key(begin), spool, {_WRITER: self._writer})
        finally:
            await spool.aclose()
        self._segments[-1] = begin, offset - begin
        self._writer = _random()

    async def _set_length(self, length: int) -> None:
        self._check()
        await self._put_info(length, committed=False)

    async def _commit(self) -> None:
        if not self.committed:
            await self._flush()
            length = self._stored
            # Not removed when it fails: another server may have come as far.
            upload = ObjectUpload(self._means, keep=True)
            try:
                for begin, size in self._segments:
                    await self._copy(begin, size, upload.write)
                sha256 = await upload.commit(self.info.new)
            finally:
                await upload.abort()
            # Before that is stored, a repeated commit makes the same file of the same segments.
            await self._put_info(length, committed=True)
            self.sha256 = sha256
        with suppress(OSError):
            await self._means.bucket.delete([self._key(begin) for begin, _ in self._segments])
            self._segments.clear()

    async def _discard(self) -> None:
        self._lost = True
        await self._spool.aclose()
        await remove(self._means, self._id)

    async def _copy(self, begin: int, size: int, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Hands on the beginning of a segment."""
        async for piece in pieces(await self._means.bucket.get(self._key(begin), span=(0, size))):
            size -= len(piece)
            await take(bytes(piece))
        if size:
            raise OSError(errno.EIO, "the bucket gives less than there is")

    async def _put_info(self, length: int, *, committed: bool) -> None:
        info = replace(self.info, length=length)
        await put_info(self._means, self._id, info, committed=committed)
        self.info = info

    async def _empty(self) -> None:
        await self._spool.aclose()
        self._spool = Spool(self._means.folder, self._means.threads)
        self._tried = False

    def _key(self, begin: int) -> str:
        return f"{_folder(self._id)}/{begin:0{_DIGITS}}"

    def _check(self) -> None:
        if self._lost:
            raise UploadBusy
        if self.committed:
            raise RuntimeError("the upload is committed")


def valid(upload_id: str) -> bool:
    """Whether it can be the id of a resumable upload."""
    return len(upload_id) == _ID_LENGTH and _ID_DIGITS.issuperset(upload_id)


async def put_info(means: Means, upload_id: str, info: ResumableInfo, *, committed: bool = False) -> None:
    """Stores what a resumable upload is.

    Args:
        means: what uploads work with.
        upload_id: its id.
        info: what it was created with.
        committed: whether the file is visible.

    Raises:
        OSError: the bucket does not take it.
    """
    told = {
        "file_id": str(info.new.file_id),
        "capability": info.new.capability,
        "length": info.length,
        "metadata": info.metadata,
        "created": info.created,
        "committed": committed,
    }
    content = json.dumps(told).encode()
    await means.bucket.put(_info_key(upload_id), content, {"Content-Type": "application/json"})


async def resume(means: Means, upload_id: str, released: Callable[[], None]) -> ObjectResumable | None:
    """A resumable upload from the bucket, or None.

    Args:
        means: what it works with.
        upload_id: its id.
        released: called when it is let go of.

    Raises:
        OSError: the bucket cannot be read, or what is there makes no sense.
    """
    try:
        found = await means.bucket.get(_info_key(upload_id))
        told = json.loads(b"".join([bytes(piece) async for piece in pieces(found)]))
        new = NewFile(UUID(told["file_id"]), told["capability"])
        info = ResumableInfo(new, told["length"], told["metadata"], told["created"])
        committed: bool = told["committed"]
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        raise OSError(errno.EIO, "what the bucket has of the upload is damaged") from None
    segments: list[tuple[int, int]] = []
    sha256 = None
    if not committed:
        segments = await _segments(means, upload_id)
    elif (file := await open_object(means.bucket, new.file_id, content=False)) is None:
        # Deleted since.
        return None
    else:
        sha256 = file.info.sha256
        # The commit may have been killed before it came to that.
        with suppress(OSError):
            await remove(means, upload_id, all_of_it=False)
    return ObjectResumable(means, upload_id, info, sha256=sha256, segments=segments, released=released)


async def remove(means: Means, upload_id: str, *, all_of_it: bool = True) -> bool:
    """Removes a resumable upload, or only its segments; says whether there was something.

    Raises:
        OSError: the bucket cannot be listed, or does not remove everything.
    """
    info = _info_key(upload_id)
    found = [one["path"] async for batch in means.bucket.objects(_folder(upload_id)) for one in batch]
    if all_of_it and found:
        # First, for half of an upload must not be found.
        await means.bucket.delete([info])
    await means.bucket.delete([key for key in found if key != info])
    return bool(found)


async def _segments(means: Means, upload_id: str) -> list[tuple[int, int]]:
    """The segments from the beginning up to the first gap. What comes after that is removed.

    It is what a truncation left that did not get to its end, and would be taken for new content once the gap is closed.
    """
    chain, others = await _chain(means, upload_id)
    if others:
        # Or another server has added to it while it was listed.
        chain, others = await _chain(means, upload_id)
        if others:
            await means.bucket.delete(others)
    return chain


async def _chain(means: Means, upload_id: str) -> tuple[list[tuple[int, int]], list[str]]:
    chain: list[tuple[int, int]] = []
    others: list[str] = []
    end = 0
    async for batch in means.bucket.objects(_folder(upload_id)):
        for found in batch:
            name = found["path"].rpartition("/")[2]
            if not (len(name) == _DIGITS and name.isdecimal()):
                continue
            if int(name) == end:
                chain.append((end, found["size"]))
                end += found["size"]
            else:
                others.append(found["path"])
    return chain, others


def _folder(upload_id: str) -> str:
    return f"{RESUMABLE}{upload_id}"


def _info_key(upload_id: str) -> str:
    return f"{_folder(upload_id)}/info"


def _random() -> str:
    return secrets.token_hex(16)
