"""The process of a history server that is measured: ``server_child.py SUBJECT FOLDER``.

Prints a line once it listens: the port, and its number. It ends with its standard input. The subjects are ``library``,
which is the server itself, and ``accept``, which answers small requests without looking at them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

SMALL_BYTES = 4096
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n"
_FILE = _ANSWER % SMALL_BYTES + bytes(SMALL_BYTES)
_ID = _ANSWER % 36 + b"00000000-0000-4000-8000-000000000000"


class Accept(asyncio.Protocol):
    """Answers a request that has come whole with a constant; keeps and reads nothing."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        if received.startswith(b"GET"):
            answer = _FILE if received.endswith(_HEAD_END) else b""
        else:
            at = received.find(_HEAD_END) + len(_HEAD_END)
            left = len(received) - at
            whole = received.endswith(_LAST_CHUNK) if b"chunked" in received[:at] else left == SMALL_BYTES
            answer = _ID if whole and at >= len(_HEAD_END) else b""
        if answer:
            self._received = b""
            self._transport.write(answer)


async def main(subject: str, folder: str) -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        if subject == "library":
            from xmtp_history import HistoryServer, LocalStorage, ServerLimits

            # One address makes all requests: what one client may do is no limit here.
            limits = ServerLimits(max_uploads_per_client=1_000, uploads_per_minute=None)
            server = await stack.enter_async_context(HistoryServer(LocalStorage(folder), port=0, limits=limits))
            port = urlsplit(server.url).port
        else:
            listener = await loop.create_server(Accept, "127.0.0.1", 0, backlog=1024)
            stack.callback(listener.close)
            port = listener.sockets[0].getsockname()[1]
        print(json.dumps({"port": port, "pids": [os.getpid()]}), flush=True)
        ended = asyncio.Event()
        loop.add_reader(sys.stdin, lambda: None if sys.stdin.readline() else ended.set())
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
