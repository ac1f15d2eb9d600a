"""A history server for tests, and clients for it, some of whom do everything wrong."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from xmtp_history import HistoryServer, LocalStorage, ServerLimits

UNKNOWN: Final = "00000000-0000-4000-8000-000000000000"
HEAD: Final = b"POST /upload HTTP/1.1\r\nHost: test\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
#: More than is gathered before something is written.
MUCH: Final = bytes(600_000)
#: What a stored file has behind its content.
TRAILER_BYTES: Final = 80

TUS: Final = {"Tus-Resumable": "1.0.0"}
OFFSET_STREAM: Final = "application/offset+octet-stream"

_LIMITS = {field.name for field in dataclasses.fields(ServerLimits)}


def some_bytes(count: int) -> bytes:
    """Always the same ones, for a count."""
    return random.Random(count).randbytes(count)


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; without data, its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def make_server(storage: Any, **options: Any) -> HistoryServer:
    """A server on any port; options are those of the server and of its limits."""
    storage = LocalStorage(storage) if isinstance(storage, str | os.PathLike) else storage
    limits = {"shutdown_seconds": 1.0, **{name: options.pop(name) for name in list(options) if name in _LIMITS}}
    return HistoryServer(storage, port=0, limits=ServerLimits(**limits), **options)


@asynccontextmanager
async def serving(storage: Any, **options: Any) -> AsyncIterator[tuple[HistoryServer, ClientSession]]:
    """A server that runs, and a client of it."""
    async with make_server(storage, **options) as server, ClientSession(server.url) as client:
        yield server, client


class Connection:
    """A client that may do everything wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
        await self._writer.drain()

    async def head(self) -> bytes:
        return await self._reader.readuntil(b"\r\n\r\n")

    async def status(self) -> int:
        return int((await self.head()).split()[1])

    async def read(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything until the server closes, or breaks the connection off."""
        with contextlib.suppress(ConnectionError):
            return await self._reader.read()
        return b""

    def reset(self) -> None:
        """Closing is going to be a reset."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@asynccontextmanager
async def connected(server: HistoryServer, *, receive_bytes: int | None = None) -> AsyncIterator[Connection]:
    """A bare connection; ``receive_bytes`` makes its buffer small, so that not reading is felt by the server."""
    host, port = server.url.removeprefix("http://").split("/")[0].split(":")
    raw = socket.socket()
    if receive_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    except BaseException:
        raw.close()
        raise
    reader, writer = await asyncio.open_connection(sock=raw, limit=receive_bytes or 2**16)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Waits until something is so."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it does not happen")


def partial(folder: Path) -> list[Path]:
    """Uploads on their way, in the folder of a local storage."""
    return list((folder / "partial").iterdir())


def files(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def stored(folder: Path) -> list[bytes]:
    """The contents of the files in a local storage, which nothing else may be in."""
    return [path.read_bytes()[:-TRAILER_BYTES] for path in files(folder)]


async def upload(client: ClientSession, data: bytes, path: str = "/upload") -> str:
    """Uploads, and returns the id."""
    async with client.post(path, data=data) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def download(client: ClientSession, file_id: str) -> bytes:
    """Downloads all of a file."""
    async with client.get(f"/files/{file_id}") as response:
        assert response.status == 200
        return await response.read()
