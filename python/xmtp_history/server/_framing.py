"""Where the body of a request ends (RFC 9112, 6 and 7). Bodies do not go through aiohttp: see ``_body``."""

from __future__ import annotations

import re
from typing import Protocol

#: Longest line of a chunked body: a size with its extensions, or a trailer, bytes. And all trailers together.
_LINE_BYTES = 4_096
_TRAILER_BYTES = 8_192

_DIGITS = re.compile(rb"\d{1,18}")
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\r\n]*)?")

_FRAMING = (b"content-length", b"transfer-encoding")


class BrokenFraming(Exception):
    """The body breaks the rules of chunks."""


class Unclear(Exception):
    """The head says about its body what must not be said, or what is not understood here."""


class Framing(Protocol):
    """Finds the end of a body."""

    #: How long the body is, bytes; None if that shows only at its end.
    length: int | None

    @property
    def done(self) -> bool:
        """Whether the end has come."""

    def take(self, data: bytes, /) -> tuple[bytes, bytes | None]:
        """The content in what has arrived, and what comes behind the body; None before its end.

        Raises:
            BrokenFraming: it is none.
        """


class Length:
    """A body whose length is told in advance."""

    def __init__(self, length: int) -> None:
        self.length: int | None = length
        self._left = length

    @property
    def done(self) -> bool:
        return not self._left

    def take(self, data: bytes, /) -> tuple[bytes, bytes | None]:
        content, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(content)
        return content, None if self._left else rest


class Chunked:
    """A body in chunks."""

    def __init__(self) -> None:
        self.length: int | None = None
        self._done = False
        #: What is left of the chunk, of a line that is not complete, and of the trailers that may come.
        self._left = 0
        self._line = b""
        self._trailers = _TRAILER_BYTES
        self._next = self._size
        #: Clients send chunks of one size: how long the one before was, and what stands between two of them.
        self._chunk = 0
        self._between = b""

    @property
    def done(self) -> bool:
        return self._done

    def take(self, data: bytes, /) -> tuple[bytes, bytes | None]:
        if self._line:
            data, self._line = self._line + data, b""
        pieces: list[memoryview] = []
        view = memoryview(data)
        position, size = 0, len(data)
        while position < size and not self._done:
            if self._left:
                position = self._take_alike(data, view, position, pieces)
                count = min(self._left, size - position)
                pieces.append(view[position : position + count])
                position += count
                self._left -= count
                continue
            end = data.find(b"\r\n", position, position + _LINE_BYTES)
            if end < 0:
                self._line = data[position:]
                position = size
                if len(self._line) >= _LINE_BYTES or (self._next == self._end and self._line != b"\r"):
                    raise BrokenFraming
            else:
                line, position = data[position:end], end + 2
                self._next(line)
        content = data if len(pieces) == 1 and len(pieces[0]) == size else b"".join(pieces)
        return content, data[position:] if self._done else None

    def _take_alike(self, data: bytes, view: memoryview, position: int, pieces: list[memoryview]) -> int:
        """Takes whole chunks as long as another one of the same size follows each: looking at lines costs ten times that."""
        if self._left == self._chunk:
            size, between = self._chunk, self._between
            while data.startswith(between, position + size):
                pieces.append(view[position : position + size])
                position += size + len(between)
        return position

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise BrokenFraming
        self._left = self._chunk = int(found[1], 16)
        self._between = b"\r\n%b\r\n" % line
        self._next = self._end if self._left else self._trailer

    def _end(self, line: bytes) -> None:
        if line:
            raise BrokenFraming
        self._next = self._size

    def _trailer(self, line: bytes) -> None:
        self._trailers -= len(line)
        if self._trailers < 0 or b"\n" in line or b"\r" in line:
            raise BrokenFraming
        self._done = not line


def split(head: bytes) -> tuple[bytes, Framing | None]:
    """The head of a request without what it says about its body, and the framing of that body, if it has one.

    Nothing is forgiven: of what is not perfectly clear two readers could think differently, and attackers live on that.

    Args:
        head: from the request line up to and with the empty line.

    Raises:
        Unclear: it says it twice, in two ways, in another way, or has lines that are none.
    """
    request_line, *lines = head[:-4].split(b"\r\n")
    kept = [request_line]
    said: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or name != name.strip() or b"\n" in line or b"\r" in line:
            raise Unclear
        if name.lower() in _FRAMING:
            said.append((name.lower(), value.strip(b" \t")))
        else:
            kept.append(line)
    if not said:
        return head, None
    ((name, value), *others) = said
    if others or (name == b"transfer-encoding" and not request_line.endswith(b" HTTP/1.1")):
        raise Unclear
    framing: Framing
    if name == b"content-length" and _DIGITS.fullmatch(value):
        framing = Length(int(value))
    elif name == b"transfer-encoding" and value.lower() == b"chunked":
        framing = Chunked()
    else:
        raise Unclear
    return b"\r\n".join(kept) + b"\r\n\r\n", framing
