"""What is left of a node without the node: grpc.aio, which parses nothing, keeps nothing and answers at once.

No node on grpc.aio can be faster than this, whatever it does between a request and its answer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc

#: Not a method of the API: what it is sent is the answer to every query from then on.
ANSWER = "/bench.Bare/Answer"


class BareNode:
    """A message that is sent goes, as it came, to the streams of its own connection, or else to all streams."""

    def __init__(self) -> None:
        self._page = b""
        self._streams: defaultdict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)

    async def send(self, request: bytes, context: Any) -> bytes:
        if self._streams:
            own = self._streams.get(context.peer())
            for streams in (own,) if own else list(self._streams.values()):
                for stream in streams:
                    stream.put_nowait(request)
        return b""

    async def query(self, _request: bytes, _context: Any) -> bytes:
        return self._page

    async def answer(self, request: bytes, _: Any) -> bytes:
        self._page = request
        return b""

    async def subscribe(self, _: bytes, context: Any) -> AsyncIterator[bytes]:
        stream: asyncio.Queue[bytes] = asyncio.Queue()
        peer = context.peer()
        self._streams[peer].add(stream)
        await context.send_initial_metadata((("subscribed", "true"),))
        try:
            while True:
                yield await stream.get()
        finally:
            self._streams[peer].discard(stream)
            if not self._streams[peer]:
                del self._streams[peer]


async def serve(port: int) -> tuple[grpc.aio.Server, int]:
    """Starts one; returns the server and its port."""
    node = BareNode()
    unary = grpc.unary_unary_rpc_method_handler
    api: dict[str, Any] = {
        "SendGroupMessages": unary(node.send),
        "QueryGroupMessages": unary(node.query),
        "SubscribeGroupMessages": grpc.unary_stream_rpc_method_handler(node.subscribe),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("xmtp.mls.api.v1.MlsApi", api),
            grpc.method_handlers_generic_handler("bench.Bare", {"Answer": unary(node.answer)}),
        )
    )
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port
