"""What stands before history servers: a proxy that hands one connection after the other to the next of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_PIECE_BYTES = 64 * 1024


class Passed(NamedTuple):
    """A request that has come by.

    Attributes:
        method: of the request.
        port: the server that got it; None: nobody did.
    """

    method: str
    port: int | None


class Front:
    """The proxy: a service for :func:`xmtp_history.testing._running`.

    Attributes:
        ports: of the servers, by turns. Where there is none, the proxy hangs up.
        passed: the requests that have come by, in order.
    """

    def __init__(self, *ports: int) -> None:
        self.ports: Sequence[int] = ports
        self.passed: list[Passed] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients connect to."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def aclose(self) -> None:
        """Breaks off everything."""
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            ports = self.ports
            port = ports[len(self.passed) % len(ports)] if ports else None
            self.passed.append(Passed(head.split()[0].decode(), port))
            if port is not None:
                await self._pass_on(head, reader, writer, port)
        writer.transport.abort()

    @staticmethod
    async def _pass_on(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(head)
        asking, answering = (asyncio.create_task(_copy(*way)) for way in ((reader, back), (there, writer)))
        try:
            await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
            back.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
