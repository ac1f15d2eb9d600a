"""A node that does what a test tells it, call by call; what it is not told about, it hands on to a real one."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Self

import grpc
import grpc.aio

#: An answer, or what makes one.
Script = bytes | Callable[[bytes, Any], Awaitable[bytes]] | Callable[[bytes, Any], AsyncIterator[bytes]]

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
_OFTEN = [("grpc.http2.min_ping_interval_without_data_ms", 10), ("grpc.keepalive_permit_without_calls", 1)]


class Call(NamedTuple):
    """A call that arrived."""

    method: str
    request: bytes
    metadata: dict[str, str]
    seconds: float | None


class FaultyNode:
    """A gRPC server. :attr:`script` has what comes first for each method; the last entry goes for all later calls.

    Args:
        behind: the URL of a node that answers what there is no script for.
    """

    def __init__(self, behind: str = "", **options: Any) -> None:
        self.calls: list[Call] = []
        self.script: collections.defaultdict[str, list[Script]] = collections.defaultdict(list)
        self.cancelled = 0
        self.credentials: grpc.ServerCredentials | None = None
        self.url = ""
        self._behind = behind.removeprefix("http://")
        self._options = options

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(self._behind or "127.0.0.1:1", options=_UNLIMITED)
        self._server = grpc.aio.server(options=[*_UNLIMITED, *_OFTEN], **self._options)
        self._server.add_generic_rpc_handlers((_Everything(self),))
        if self.credentials is None:
            self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            self.url = f"https://localhost:{self._server.add_secure_port('127.0.0.1:0', self.credentials)}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
        await self._channel.close()

    def calls_of(self, method: str) -> list[Call]:
        """The calls of a method."""
        return [call for call in self.calls if call.method == method]

    def answer(self, method: str, *script: Script) -> None:
        """What the next calls of a method get; the last entry all that follow."""
        self.script[method] = list(script)

    def take(self, path: str, request: bytes, context: Any) -> Script | None:
        """Notes a call, and finds what is to be done with it."""
        method = path.rpartition("/")[2]
        self.calls.append(Call(method, request, dict(context.invocation_metadata()), context.time_remaining()))
        script = self.script[method]
        return script.pop(0) if len(script) > 1 else script[0] if script else None

    async def forward(self, path: str, request: bytes, context: Any) -> bytes:
        """What the node behind answers."""
        try:
            answer: bytes = await self._channel.unary_unary(path)(request)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        return answer

    async def forward_stream(self, path: str, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """What the node behind streams."""
        call = self._channel.unary_stream(path)(request)
        try:
            await context.send_initial_metadata(await call.initial_metadata())
            while isinstance(data := await call.read(), bytes):
                yield data
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            call.cancel()


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, node: FaultyNode) -> None:
        self._node = node

    def service(self, handler_call_details: Any) -> Any:
        path, node = handler_call_details.method, self._node

        async def unary(request: bytes, context: Any) -> bytes:
            script: Any = node.take(path, request, context)
            try:
                if script is None:
                    return await node.forward(path, request, context)
                return script if isinstance(script, bytes) else await script(request, context)
            except asyncio.CancelledError:
                node.cancelled += 1
                raise

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            script: Any = node.take(path, request, context)
            try:
                messages = node.forward_stream(path, request, context) if script is None else script(request, context)
                async for data in messages:
                    yield data
            except asyncio.CancelledError:
                node.cancelled += 1
                raise

        if "/Subscribe" in path:
            return grpc.unary_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def fail(code: grpc.StatusCode, details: str = "") -> Script:
    """A refusal."""

    async def answer(_request: bytes, context: Any) -> bytes:
        await context.abort(code, details)
        return b""

    return answer


def fail_stream(code: grpc.StatusCode, details: str = "") -> Script:
    """The refusal of a stream."""

    async def answer(_request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.abort(code, details)
        yield b""

    return answer


def lost(node: FaultyNode, path: str) -> Script:
    """The node behind does its work, and nobody is told."""

    async def answer(request: bytes, context: Any) -> bytes:
        await node.forward(path, request, context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return b""

    return answer


async def hang(_request: bytes, _context: Any) -> bytes:
    """No answer."""
    await asyncio.Event().wait()
    return b""


def streaming(*messages: bytes, then: Script | None = None) -> Script:
    """A stream of these messages, which then goes on, or ends well."""

    async def answer(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("subscribed", "true"),))
        for data in messages:
            yield data
        if then is not None:
            await then(request, context)  # type: ignore[operation]

    return answer
