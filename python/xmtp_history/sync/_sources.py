"""Where the bytes of an upload come from: a path, bytes, a file object, or a stream that is written while it is sent.

An upload asks for pieces, from the place that the server is at. Bytes and files can be read again from everywhere. Of a
stream the newest piece is kept: enough for a server that can resume, over any number of interruptions.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

from xmtp_history import _io
from xmtp_history._errors import PayloadTooLarge
from xmtp_history._threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from xmtp_history._ffi import BytesLike

#: What an upload can be read from.
UploadSource: TypeAlias = "_io.Source | AsyncIterable[BytesLike]"

#: Most bytes of one piece: the most that is kept in memory, and the most that is sent again after an interruption.
PIECE_BYTES = 8 * 1024 * 1024

#: Bytes handed to a connection at a time.
BLOCK_BYTES = 64 * 1024


class Source(ABC):
    """The bytes of an upload.

    Attributes:
        size: how many there are, or None until the end of a stream has been seen.
        limit: more than so many are refused, or None.
        seen: how many have been read.
    """

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.limit: int | None = None
        self._digest = hashlib.sha256()
        self.seen = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of everything read so far, in hexadecimal."""
        return self._digest.hexdigest()

    @abstractmethod
    def has(self, start: int) -> bool:
        """Whether the bytes from ``start`` on can still be read."""

    @abstractmethod
    async def _piece(self, start: int) -> memoryview: ...

    async def piece(self, start: int) -> memoryview:
        """The next bytes from ``start`` on, which is where it was before or no further than what has been read.

        Nothing at the end, and only then.

        Raises:
            PayloadTooLarge: there are more than the limit.
            OSError: the source cannot be read.
        """
        self.check_limit(self.size or 0)
        piece = await self._piece(start)
        end = start + len(piece)
        self.check_limit(end)
        if end > self.seen:
            await in_thread(partial(self._digest.update, piece[self.seen - start :]))
            self.seen = end
        return piece

    def check_limit(self, size: int) -> None:
        """Checks a size against the limit.

        Raises:
            PayloadTooLarge: it is larger.
        """
        if self.limit is not None and size > self.limit:
            raise PayloadTooLarge(f"the archive is larger than {self.limit:,} bytes, the most allowed")


class _Bytes(Source):
    """Bytes in memory."""

    def __init__(self, data: BytesLike) -> None:
        self._view = memoryview(data).cast("B")
        super().__init__(len(self._view))

    def has(self, start: int) -> bool:
        return start <= len(self._view)

    async def _piece(self, start: int) -> memoryview:
        return self._view[start : start + PIECE_BYTES]


class _File(Source):
    """A file that can be read at any place, from where it is to the end that it has now."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = file.tell()
        self._end = max(self._start, file.seek(0, os.SEEK_END))
        file.seek(self._start)
        super().__init__(self._end - self._start)

    def has(self, start: int) -> bool:
        return start <= self._end - self._start

    async def _piece(self, start: int) -> memoryview:
        return memoryview(await in_thread(partial(self._read, self._start + start)))

    def _read(self, start: int) -> bytes:
        wanted = min(PIECE_BYTES, self._end - start)
        self._file.seek(start)
        parts = []
        while wanted:
            part = self._file.read(wanted)
            if not part:
                raise OSError("the file became shorter while it was uploaded")
            if not isinstance(part, bytes | bytearray | memoryview):
                raise TypeError(f"the file object gives {type(part).__name__}; open it in binary mode")
            parts.append(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class _Stream(Source):
    """Bytes that come once. The piece that was read last stays at hand."""

    def __init__(self, chunks: AsyncIterator[BytesLike]) -> None:
        super().__init__(None)
        self._chunks = chunks
        self._start = 0
        self._kept = memoryview(b"")
        self._rest = memoryview(b"")

    def has(self, start: int) -> bool:
        return start >= self._start

    async def _piece(self, start: int) -> memoryview:
        if not self.has(start):
            raise OSError("the server lost data that cannot be read again")
        end = self._start + len(self._kept)
        if start < end or self.size is not None:
            return self._kept[start - self._start :]
        # A new buffer each time: the connection may still hold on to the old one.
        buffer = bytearray()
        while len(buffer) < PIECE_BYTES:
            if not self._rest:
                self._rest = await self._next()
                if not self._rest:
                    self.size = end + len(buffer)
                    break
            taken = self._rest[: PIECE_BYTES - len(buffer)]
            buffer += taken
            self._rest = self._rest[len(taken) :]
        self._start, self._kept = end, memoryview(buffer).toreadonly()
        return self._kept

    async def _next(self) -> memoryview:
        """The next chunk that is not empty; empty at the end."""
        async for chunk in self._chunks:
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise TypeError(f"the stream gives {type(chunk).__name__}, not bytes")
            if view := memoryview(chunk).cast("B"):
                return view
        return memoryview(b"")


def in_blocks(piece: memoryview) -> Generator[memoryview]:
    """A piece in blocks."""
    for start in range(0, len(piece), BLOCK_BYTES):
        yield piece[start : start + BLOCK_BYTES]


@asynccontextmanager
async def opened(source: UploadSource) -> AsyncGenerator[Source]:
    """The bytes of a source, opened and, if that was done here, closed. A file object stays the caller's.

    An asynchronous generator is closed: what it has given is lost to everybody else.

    Raises:
        TypeError: the source is none of the kinds.
        OSError: it cannot be opened.
    """
    if isinstance(source, str | os.PathLike):
        with io.FileIO(source) as file:
            # Pipes and devices have no size and no places to go back to.
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                yield _File(cast("BinaryIO", file))
            else:
                async with aclosing(_read_along(file)) as chunks:
                    yield _Stream(chunks)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield _Bytes(source)
    elif isinstance(source, AsyncIterable):
        iterator = aiter(source)
        try:
            yield _Stream(iterator)
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()
    elif hasattr(source, "seekable") and source.seekable():
        yield _File(cast("BinaryIO", source))
    else:
        async with aclosing(_read_along(source)) as chunks:
            yield _Stream(chunks)


async def _read_along(source: _io.Source) -> AsyncGenerator[memoryview]:
    """What a file object gives, read on threads."""
    chunks = _io.chunks(source)
    while chunk := await in_thread(partial(next, chunks, memoryview(b""))):
        yield chunk
