"""An HTTP proxy on the way to a server, that has or makes the faults that networks and servers have.

It passes on bytes, so signatures stay valid, and expects a server that closes the connection after each answer.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PIECE: Final = 64 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(slots=True)
class Fault:
    """What happens to requests of a kind.

    Attributes:
        request: what is found in ``METHOD target`` of these requests.
        status: the server is not asked, and this is the answer.
        delay: how long everything takes, seconds.
        cut: how many bytes of the answer's body come through.
        lose_answer: the server has done it, but its answer does not come through.
        hang: there is no answer, and no end.
        skip: so many requests are let through first.
        times: so many requests are hit.
    """

    request: str
    status: int | None = None
    delay: float = 0
    cut: int | None = None
    lose_answer: bool = False
    hang: bool = False
    skip: int = 0
    times: int = 1_000_000

    def hits(self, line: str) -> bool:
        """Whether it is this request's turn."""
        if not re.search(self.request, line):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return self.times >= 0


@dataclass(slots=True)
class FaultyProxy:
    """The proxy.

    Attributes:
        server_port: where the server is.
        port: where the proxy is.
        faults: what goes wrong.
        requests: ``METHOD target`` of all that came.
    """

    server_port: int
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, request: str) -> int:
        """How many requests of a kind came."""
        return sum(re.search(request, line) is not None for line in self.requests)

    async def seen(self, request: str) -> None:
        """Waits until a request of a kind has come."""
        while not self.count(request):
            self._came.clear()
            await self._came.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one connection."""
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            await _aborted(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.partition(b" HTTP/")[0].decode()
        self.requests.append(line)
        self._came.set()
        fault = next((fault for fault in self.faults if fault.hits(line)), None) or Fault("")
        await asyncio.sleep(fault.delay)
        if fault.hang:
            await asyncio.Event().wait()
        length = _LENGTH.search(head)
        body = int(length[1]) if length else 0
        if fault.status is not None:
            while body:
                body -= len(await reader.readexactly(min(body, _PIECE)))
            error = b"<Error><Code>SlowDown</Code><Message>a secret of the server's</Message></Error>"
            answer = b"HTTP/1.1 %d Fault\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            writer.write(answer % (fault.status, len(error), error))
            await _closed(writer)
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        try:
            server_writer.write(head)
            while body:
                piece = await reader.readexactly(min(body, _PIECE))
                body -= len(piece)
                server_writer.write(piece)
                await server_writer.drain()
            await _answer(server_reader, writer, fault)
        finally:
            await _aborted(server_writer)


@asynccontextmanager
async def faulty_proxy(server_port: int, *faults: Fault) -> AsyncIterator[FaultyProxy]:
    """A proxy before a server, on a free port of the loopback address."""
    proxy = FaultyProxy(server_port, faults=list(faults))
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(proxy.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if fault.lose_answer:
        await reader.read()
        return
    writer.write(head)
    rest = fault.cut
    while (piece := await reader.read(_PIECE)) and rest != 0:
        writer.write(piece[:rest])
        await writer.drain()
        rest = None if rest is None else max(0, rest - len(piece))
    await _closed(writer)


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def _aborted(writer: asyncio.StreamWriter) -> None:
    # A connection that is lost already has no loop.
    with suppress(AttributeError):
        writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
