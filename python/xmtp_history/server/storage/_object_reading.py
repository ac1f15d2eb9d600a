"""Reading files from a bucket, also when it breaks off."""

from __future__ import annotations

import asyncio
import errno
import random
from typing import TYPE_CHECKING, cast

from xmtp_history.server.storage._base import FileInfo
from xmtp_history.server.storage._object_bucket import pieces
from xmtp_history.server.storage._object_spool import SMALL_BYTES
from xmtp_history.server.storage._object_upload import CAPABILITY_SHA256, SHA256, file_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from uuid import UUID

    from obstore import GetResult

    from xmtp_history.server.storage._object_bucket import Bucket

#: Most bytes that are handed out at once.
_PIECE_BYTES = 256 * 1024

#: How often the rest is asked for again in the same place.
_TRIES = 3

#: How long is waited before that, seconds: on average as long as this, times the number of tries before.
_WAIT_SECONDS = 0.2

_DIGEST_BYTES = 32


class ObjectFile:
    """A file in the bucket.

    Its content comes with the answer that told of it, which is good for reading all of it, once; what else is read is asked
    for anew.
    """

    file = None

    def __init__(self, bucket: Bucket, key: str, info: FileInfo, found: GetResult | None, etag: str | None) -> None:
        self.info = info
        self.content: bytes | None = None
        self._bucket = bucket
        self._key = key
        self._etag = etag
        self._found = found

    async def read(self, start: int, end: int, /) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``end``; where the bucket breaks off, it is asked for the rest."""
        if self.content is not None:
            start, end, content = max(start, 0), min(end, self.info.size), self.content
            for position in range(start, end, _PIECE_BYTES):
                yield content[position : min(end, position + _PIECE_BYTES)]
            return
        position, failures = start, 0
        while position < end:
            try:
                async for piece in self._once(position, end):
                    position += len(piece)
                    failures = 0
                    yield piece
            except FileNotFoundError:
                raise
            except OSError:
                failures += 1
                if failures == _TRIES:
                    raise
                await asyncio.sleep(random.uniform(0, 2 * failures * _WAIT_SECONDS))  # noqa: S311 - not a secret

    async def aclose(self) -> None:
        """Lets go of the answer."""
        self._found = None

    async def _once(self, start: int, end: int) -> AsyncIterator[bytes]:
        """What comes of the bytes from ``start`` up to ``end`` with one answer."""
        skip = 0
        if (start, end) == (0, self.info.size) and self._found is not None:
            found, self._found = self._found, None
        else:
            try:
                found = await self._bucket.get(self._key, span=(start, end), etag=self._etag)
            except FileNotFoundError:
                if self._found is None:
                    raise
                # Deleted since it was opened: only the first answer still has it.
                found, self._found, skip = self._found, None, start
        position = start - skip
        async for piece in pieces(found):
            for begin in range(0, len(piece), _PIECE_BYTES):
                part = piece[begin : begin + _PIECE_BYTES]
                wanted = part[max(0, start - position) : max(0, end - position)]
                position += len(part)
                if wanted:
                    yield bytes(wanted)
            if position >= end:
                return
        raise OSError(errno.EIO, "the bucket gives less than there is")


async def open_object(bucket: Bucket, file_id: UUID, *, content: bool) -> ObjectFile | None:
    """A file in a bucket, or None.

    Args:
        bucket: where it is.
        file_id: its id.
        content: whether it is going to be read.

    Raises:
        OSError: the bucket cannot be read.
    """
    key = file_key(file_id)
    try:
        found = await bucket.get(key, head=not content)
    except FileNotFoundError:
        return None
    info = _info(found)
    if info is None:
        return None
    file = ObjectFile(bucket, key, info, found if content else None, found.meta["e_tag"])
    if content and info.size <= SMALL_BYTES:
        file.content = b"".join([piece async for piece in file.read(0, info.size)])
    return file


def _info(found: GetResult) -> FileInfo | None:
    """What the bucket knows of a file; None where the object is no file of ours."""
    attributes = cast("Mapping[str, str]", found.attributes)
    try:
        sha256, capability_sha256 = (bytes.fromhex(attributes[name]) for name in (SHA256, CAPABILITY_SHA256))
    except (KeyError, ValueError):
        return None
    if len(sha256) != _DIGEST_BYTES or len(capability_sha256) != _DIGEST_BYTES:
        return None
    return FileInfo(found.meta["size"], sha256, capability_sha256, found.meta["last_modified"].timestamp())
