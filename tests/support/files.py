"""File objects that misbehave."""

from __future__ import annotations

import io
from typing import Any


class BoomError(Exception):
    """Raised by file objects that fail."""


class Drips(io.RawIOBase):
    """A source that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        size = self._step if size < 0 else min(size, self._step)
        self._at += size
        return self._data[self._at - size : self._at]

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class Fails(io.RawIOBase):
    """A file object that raises after some bytes or writes."""

    def __init__(self, data: bytes = b"", after: int = 0) -> None:
        self._rest, self._after = data, after

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._after <= 0:
            raise BoomError
        size = min(len(buffer), self._after, 64)
        self._after -= size
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def write(self, data: Any) -> int:
        if self._after <= 0:
            raise BoomError
        self._after -= 1
        return len(data)
