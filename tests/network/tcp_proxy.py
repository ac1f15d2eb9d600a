"""A proxy that treats connections as networks do: breaks them, forgets them, slows them down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self


class TcpProxy:
    """Hands on bytes between clients and a node on this machine.

    Attributes:
        url: where clients connect to.
        connections: how many were made.
        bytes_a_second: how fast a node's bytes go to its clients; None as they come.
    """

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self._open: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.bytes_a_second: float | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        """Breaks all connections."""
        for pair in list(self._open):
            pair.cut()

    def freeze(self) -> None:
        """Drops, from now on, whatever is sent on the connections that there are; nobody is told."""
        for pair in self._open:
            pair.frozen = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        pair = _Pair(self, writer, node_writer)
        self._open.add(pair)
        try:
            await asyncio.gather(pair.copy(reader, node_writer), pair.copy(node_reader, writer, slow=True))
        finally:
            self._open.discard(pair)


class _Pair:
    def __init__(self, proxy: TcpProxy, *writers: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = writers
        self.frozen = False

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.frozen:
                    continue
                if slow and self._proxy.bytes_a_second:
                    await asyncio.sleep(len(data) / self._proxy.bytes_a_second)
                writer.write(data)
                await writer.drain()
        if not self.frozen:
            self.cut()
