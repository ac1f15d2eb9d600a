"""The node's services on grpc.aio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from xmtp_history.node._calls import calls, encode, status
from xmtp_history.node._limits import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message

    from xmtp_history.node._calls import Call, Service

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Two nodes on one port would each get some of the connections.
    ("grpc.so_reuseport", 0),
    # By default more than 1,000 calls at once, such as when all clients of a node come back to it, are cancelled at random.
    ("grpc.server.max_pending_requests", 1 << 15),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
    # libxmtp pings every 16 s, also when no call is open; by default that counts as abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A peer that vanished is noticed, and its streams end.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_Context = grpc.aio.ServicerContext


def handlers(service: Service) -> grpc.GenericRpcHandler:
    """What grpc.aio needs to serve a service. Any other method is answered with UNIMPLEMENTED."""
    methods = {call.name: _handler(call) for call in calls(service)}
    return grpc.method_handlers_generic_handler(service.DESCRIPTOR.full_name, methods)


def _handler(call: Call) -> Any:
    if call.client_streaming:
        return grpc.stream_stream_rpc_method_handler(_streaming(call))
    if call.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_streaming(call))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(call))


def _unary_unary(call: Call) -> Any:
    async def handle(data: bytes, context: _Context[Any, Any]) -> bytes:
        try:
            return encode(await call.function(call.decode(data)))
        except Exception as error:  # noqa: BLE001 - every exception has a status
            await context.abort(*status(error))

    return handle


def _streaming(call: Call) -> Any:
    async def handle(received: Any, context: _Context[Any, Any]) -> AsyncIterator[bytes]:
        try:
            request = _decoded(call, received) if call.client_streaming else call.decode(received)
            responses = await call.function(request)
            # Before there is a message: clients wait for the headers (section 0, fact 4).
            await context.send_initial_metadata((("subscribed", "true"),))
            async for response in responses:
                yield encode(response)
        except Exception as error:  # noqa: BLE001
            await context.abort(*status(error))

    return handle


async def _decoded(call: Call, requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for data in requests:
        yield call.decode(data)
