"""A history server that does what a test tells it, on raw sockets: also what no HTTP library would do.

Left alone it is a good server, with ranges, ETags, deletion and tus. A test puts faults in :attr:`FaultyServer.faults`; each
takes the place of the answer to one request, in order.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

#: Longest head of a request.
_LIMIT = 64 * 1024

TUS = {
    "Tus-Resumable": "1.0.0",
    "Tus-Version": "1.0.0",
    "Tus-Extension": "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum",
}


class Hangup(Exception):
    """The connection is over."""


@dataclass
class Upload:
    """An upload by tus."""

    data: bytearray = field(default_factory=bytearray)
    length: int | None = None
    file_id: str | None = None


class Exchange:
    """One request, and the connection that it came on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader, self._writer = reader, writer
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines if line)
        self.headers = {name.strip().lower(): value.strip() for name, value in pairs}
        self.name = self.target.partition("?")[0].rpartition("/")[2]
        self.received = 0
        self.body_read = not {"content-length", "transfer-encoding"} & set(self.headers)
        self.keep = True

    async def body(self) -> AsyncIterator[bytes]:
        """The body, as it arrives."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                yield self._count(await self._reader.readexactly(size))
                await self._reader.readexactly(2)
            await self._reader.readuntil(b"\r\n")
        else:
            missing = int(self.headers.get("content-length", "0"))
            while missing:
                data = await self._reader.read(min(missing, 65_536))
                if not data:
                    raise Hangup
                missing -= len(data)
                yield self._count(data)
        self.body_read = True

    def _count(self, data: bytes) -> bytes:
        self.received += len(data)
        return data

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._writer.write(piece)
        await self._writer.drain()

    async def answer(
        self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, length: int | None = None
    ) -> None:
        """Answers. ``length`` is what is claimed of the body."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in (headers or {}).items())]
        if status != 204:
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        await self.send("\r\n".join([*lines, "", ""]).encode(), b"" if self.method == "HEAD" else body)
        self.keep = self.keep and self.body_read

    def reset(self) -> None:
        """Ends the connection with a reset."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()
        raise Hangup


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that others do."""
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


def names(folder: Path) -> set[str]:
    """What is in a folder."""
    return {path.name for path in folder.iterdir()}


Fault = Callable[["FaultyServer", Exchange], Awaitable[None]]


class FaultyServer:
    """A history server in memory, to be used in an ``async with`` block.

    Attributes:
        files: what it has.
        uploads: uploads by tus.
        requests: every request so far.
        faults: what happens instead of the next answers; an entry may be restricted to a method by :func:`on`.
    """

    def __init__(self, *faults: Fault, tus: bool = True, ranges: bool = True, tags: bool = True) -> None:
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, Upload] = {}
        self.requests: list[Exchange] = []
        self.faults = list(faults)
        self.tus, self.ranges, self.tags = tus, ranges, tags
        self.max_bytes: int | None = None
        self.prefix = ""
        self.capability = "c0ffee" * 5 + "c0"
        self._connections: set[asyncio.Task[Any]] = set()
        self.errors: list[Exception] = []
        # They notice nothing, not even that the client has gone.
        self._stalled: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{self.prefix}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        await self._server.wait_closed()
        for error in self.errors:
            raise error

    async def settled(self) -> None:
        """Waits until nothing runs in this loop but the caller and the server, and the client has closed its connections."""
        await until(
            lambda: self._connections <= self._stalled and len(asyncio.all_tasks()) == 1 + len(self._connections)
        )

    def add(self, data: bytes) -> str:
        """Stores a file; its URL."""
        file_id = str(uuid.uuid4())
        self.files[file_id] = data
        return f"{self.url}/files/{file_id}"

    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    async def stall(self) -> None:
        """Never returns."""
        task = asyncio.current_task()
        assert task is not None
        self._stalled.add(task)
        await asyncio.Event().wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            keep = True
            while keep:
                exchange = Exchange(reader, writer, (await reader.readuntil(b"\r\n\r\n"))[:-4])
                self.requests.append(exchange)
                await self._serve(exchange)
                keep = exchange.keep
        except (Hangup, ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        except Exception as error:  # noqa: BLE001 - the test's own
            self.errors.append(error)
        finally:
            self._connections.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _serve(self, exchange: Exchange) -> None:
        for number, fault in enumerate(self.faults):
            if getattr(fault, "method", exchange.method) == exchange.method:
                del self.faults[number]
                await fault(self, exchange)
                return
        await self.answer(exchange)

    async def answer(self, exchange: Exchange) -> None:
        """What a good server does."""
        path = exchange.target.removeprefix(self.prefix).partition("?")[0]
        tus = self.tus and exchange.headers.get("tus-resumable") == "1.0.0"
        match exchange.method, path.strip("/").split("/"):
            case "POST", ["upload"] if not tus:
                await self.take(exchange)
            case "POST", ["upload"]:
                await self._create(exchange)
            case "OPTIONS", ["upload"] if self.tus:
                limit = {} if self.max_bytes is None else {"Tus-Max-Size": str(self.max_bytes)}
                await exchange.answer(204, {**TUS, **limit})
            case "PATCH" | "HEAD" | "DELETE", ["upload", name] if tus:
                await self._resume(exchange, name)
            case "GET" | "HEAD" | "DELETE", ["files", name] if name in self.files:
                await self._file(exchange, name)
            case _, ["files", _]:
                await exchange.answer(404)
            case _:
                await exchange.answer(405)

    async def take(self, exchange: Exchange) -> None:
        """An upload in one request."""
        data = b"".join([piece async for piece in exchange.body()])
        if self.max_bytes is not None and len(data) > self.max_bytes:
            await exchange.answer(413)
            return
        file_id = self._store(data)
        await exchange.answer(200, {"Content-Type": "text/plain", **self._named(file_id)}, file_id.encode())

    def _store(self, data: bytes) -> str:
        file_id = str(uuid.uuid4())
        self.files[file_id] = data
        return file_id

    def _named(self, file_id: str) -> dict[str, str]:
        return {
            "Location": f"/files/{file_id}",
            "Delete-Capability": self.capability,
            **self.tag(self.files[file_id]),
        }

    def tag(self, data: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'} if self.tags else {}

    async def _create(self, exchange: Exchange) -> None:
        length = exchange.headers.get("upload-length")
        assert (length is None) == (exchange.headers.get("upload-defer-length") == "1")
        name = uuid.uuid4().hex
        self.uploads[name] = Upload(length=None if length is None else int(length))
        await exchange.answer(201, {**TUS, "Location": f"/upload/{name}"})

    async def _resume(self, exchange: Exchange, name: str) -> None:
        upload = self.uploads.get(name)
        if upload is None:
            await exchange.answer(404)
        elif exchange.method == "DELETE":
            del self.uploads[name]
            await exchange.answer(204, TUS)
        elif exchange.method == "HEAD":
            await exchange.answer(200, self.state(upload))
        else:
            await self.append(exchange, upload)

    async def append(self, exchange: Exchange, upload: Upload, most: int | None = None) -> None:
        """A PATCH; after ``most`` bytes of it the connection is reset."""
        assert exchange.headers["content-type"] == "application/offset+octet-stream"
        if int(exchange.headers["upload-offset"]) != len(upload.data):
            await exchange.answer(409, TUS)
            return
        async for piece in exchange.body():
            room = len(piece) if most is None else most + len(piece) - exchange.received
            upload.data += piece[:room]
            if room < len(piece):
                exchange.reset()
        if "upload-length" in exchange.headers:
            upload.length = int(exchange.headers["upload-length"])
        if upload.length == len(upload.data) and upload.file_id is None:
            upload.file_id = self._store(bytes(upload.data))
        await exchange.answer(204, self.state(upload))

    def state(self, upload: Upload) -> dict[str, str]:
        state = {**TUS, "Upload-Offset": str(len(upload.data)), "Cache-Control": "no-store"}
        if upload.length is not None:
            state["Upload-Length"] = str(upload.length)
        if upload.file_id is not None:
            state |= {"Content-Location": f"/files/{upload.file_id}", **self._named(upload.file_id)}
            del state["Location"]
        return state

    async def _file(self, exchange: Exchange, name: str) -> None:
        if exchange.method == "DELETE":
            allowed = exchange.headers.get("delete-capability") == self.capability
            if allowed:
                del self.files[name]
            await exchange.answer(204 if allowed else 403)
            return
        await exchange.answer(*self.content(exchange, self.files[name]))

    def content(self, exchange: Exchange, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """The answer to a download."""
        tag = self.tag(data)
        wanted = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("range", ""))
        if not self.ranges or wanted is None or exchange.headers.get("if-range", tag.get("ETag")) != tag.get("ETag"):
            return 200, tag, data
        start = int(wanted[1])
        if start >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}", **tag}, b""
        return 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}", **tag}, data[start:]


# --- faults ----------------------------------------------------------------------------------------------------------


def on(method: str, fault: Fault) -> Fault:
    """A fault for requests with this method only."""

    async def restricted(server: FaultyServer, exchange: Exchange) -> None:
        await fault(server, exchange)

    restricted.method = method  # type: ignore[attr-defined]
    return restricted


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Answers something, without a look at the body."""

    async def fault(_server: FaultyServer, exchange: Exchange) -> None:
        async for _ in exchange.body():
            pass
        await exchange.answer(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)

    return fault


def early(code: int, **headers: str) -> Fault:
    """Answers at once, reads on for a moment, and closes."""

    async def fault(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(code, {name.replace("_", "-"): value for name, value in headers.items()})
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                async for _ in exchange.body():
                    pass
        raise Hangup

    return fault


def raw(*pieces: bytes) -> Fault:
    """Sends bytes, and closes."""

    async def fault(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.send(*pieces)
        raise Hangup

    return fault


def drop(after: int = 0) -> Fault:
    """Resets the connection when so many bytes of the body have arrived; tus keeps them."""

    async def fault(server: FaultyServer, exchange: Exchange) -> None:
        upload = server.uploads.get(exchange.name)
        if exchange.method == "PATCH" and upload is not None:
            await server.append(exchange, upload, most=after)
        elif after:
            async for _ in exchange.body():
                if exchange.received >= after:
                    break
        exchange.reset()

    return fault


async def lose(server: FaultyServer, exchange: Exchange) -> None:
    """Does what is asked, and says nothing."""

    async def silence(*_: object, **_more: object) -> None:
        exchange.reset()

    exchange.answer = silence  # type: ignore[method-assign]
    await server.answer(exchange)


def cut(after: int, *, reset: bool = False, chunked: bool = False) -> Fault:
    """Ends a download after so many bytes of what was asked for."""

    async def fault(server: FaultyServer, exchange: Exchange) -> None:
        data = server.files[exchange.name]
        code, headers, body = server.content(exchange, data)
        sent = body[:after]
        if chunked:
            head = [f"HTTP/1.1 {code} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
            await exchange.send("\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode())
            await exchange.send(b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b"")
            if after > len(body):
                await exchange.send(b"0\r\n\r\n")
        else:
            await exchange.answer(code, headers, sent, length=len(body))
        if reset:
            # What was sent is to arrive first.
            await asyncio.sleep(0.02)
            exchange.reset()
        raise Hangup

    return fault


async def stall(server: FaultyServer, _exchange: Exchange) -> None:
    """Does nothing, for ever."""
    await server.stall()
