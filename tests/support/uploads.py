"""Uploads for tests: sources of every kind, and what has to be true afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from support.faulty_server import Exchange, FaultyServer
from support.files import Drips
from xmtp_history import UploadedArchive, upload_archive

DATA = random.Random(1).randbytes(10_000)
SHORT = DATA[:900]


async def stream(data: bytes, step: int = 333) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


class Unseekable(io.BytesIO):
    """A file that is read once."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation


KINDS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, _: data,
    "memoryview": lambda data, _: memoryview(bytearray(data)),
    "path": lambda data, path: path if path.write_bytes(data) >= 0 else None,
    "file": lambda data, _: io.BytesIO(data),
    "unseekable": lambda data, _: Unseekable(data),
    "drips": lambda data, _: Drips(data, 77),
    "stream": lambda data, _: stream(data),
}
#: Those that can be read twice.
AGAIN = ("bytes", "path", "file")


def upload(server: FaultyServer, source: Any, **options: Any) -> UploadedArchive:
    """Uploads, in a loop of its own, and checks that nothing is left behind."""

    async def main() -> UploadedArchive:
        async with server:
            try:
                return await upload_archive(source, server.url, **options)
            finally:
                await server.settled()

    return asyncio.run(main())


def check(server: FaultyServer, uploaded: UploadedArchive, data: bytes) -> None:
    """The server has the data, and said so."""
    assert server.files[uploaded.url.rpartition("/")[2]] == data
    assert uploaded.url.startswith(f"{server.url}/files/")
    assert (uploaded.size, uploaded.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert uploaded.delete_capability == server.capability
    assert server.capability not in repr(uploaded)


async def proper(server: FaultyServer, exchange: Exchange) -> None:
    """No fault."""
    await server.answer(exchange)
