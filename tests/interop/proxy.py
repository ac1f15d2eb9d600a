"""A proxy between a client and a node that loses answers: the node has done its work, and the client is told otherwise."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Call(NamedTuple):
    """A call that the node has answered."""

    method: str
    request: bytes
    response: bytes


class Proxy:
    """Hands on calls as bytes. :attr:`url` is where clients connect to, :attr:`calls` is what the node has answered."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[Call] = []
        self._lost: collections.Counter[str] = collections.Counter()
        self._swallowed: collections.Counter[str] = collections.Counter()

    def lose(self, method: str, times: int) -> None:
        """Answers the next calls of a method with UNAVAILABLE when the node has succeeded."""
        self._lost[method] = times

    def swallow(self, method: str, times: int) -> None:
        """Answers the next calls of a method with success, and nothing of them reaches the node."""
        self._swallowed[method] = times

    def calls_of(self, method: str) -> list[Call]:
        """The calls of a method that the node has answered."""
        return [call for call in self.calls if call.method == method]

    async def _serve(self, node: str, stop: asyncio.Event, started: threading.Event) -> None:
        # As many messages as the node lets through: the proxy is to lose what it is told to lose.
        async with grpc.aio.insecure_channel(node.removeprefix("http://"), options=_UNLIMITED) as channel:
            server = grpc.aio.server(options=_UNLIMITED)
            server.add_generic_rpc_handlers((_Everything(self, channel),))
            self.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            started.set()
            await stop.wait()
            await server.stop(None)

    async def unary(self, method: str, request: bytes, channel: grpc.aio.Channel, context: Any) -> bytes:
        """Hands on a call with one answer."""
        name = method.rpartition("/")[2]
        if self._swallowed[name] > 0:
            self._swallowed[name] -= 1
            return b""
        try:
            response: bytes = await channel.unary_unary(method)(request)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        self.calls.append(Call(name, request, response))
        if self._lost[name] > 0:
            self._lost[name] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return response

    async def stream(
        self, method: str, request: bytes, channel: grpc.aio.Channel, context: Any
    ) -> AsyncIterator[bytes]:
        """Hands on a stream."""
        call = channel.unary_stream(method)(request)
        await context.send_initial_metadata(await call.initial_metadata())
        async for response in call:
            yield response


class _Everything(grpc.GenericRpcHandler):
    def __init__(self, proxy: Proxy, channel: grpc.aio.Channel) -> None:
        self._proxy = proxy
        self._channel = channel

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if "/Subscribe" in method:

            def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
                return self._proxy.stream(method, request, self._channel, context)

            return grpc.unary_stream_rpc_method_handler(stream)

        async def unary(request: bytes, context: Any) -> bytes:
            return await self._proxy.unary(method, request, self._channel, context)

        return grpc.unary_unary_rpc_method_handler(unary)


@contextlib.contextmanager
def running_proxy(node: str) -> Iterator[Proxy]:
    """Runs a proxy before a node, on a thread of its own."""
    proxy, started, stop = Proxy(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    work: Callable[[Coroutine[Any, Any, None]], None] = loop.run_until_complete
    thread = threading.Thread(target=work, args=(proxy._serve(node, stop, started),), daemon=True)
    thread.start()
    try:
        started.wait(10)
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
