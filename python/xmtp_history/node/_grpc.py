"""The node's services on grpc.aio: from bytes to calls, and from exceptions to status codes."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

from xmtp_history.node._limits import MAX_REQUEST_BYTES
from xmtp_history.node._refused import Refused
from xmtp_history.node._store import StorageUnavailable
from xmtp_history.node._subscriptions import Closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

logger = logging.getLogger("xmtp_history.node")

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Two nodes on one port would each get some of the connections.
    ("grpc.so_reuseport", 0),
    # By default more than 1,000 calls at once, such as when all clients of a node come back to it, are cancelled at random.
    ("grpc.server.max_pending_requests", 1 << 15),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
    # libxmtp pings every 16 s, also when no call is open; by default that counts as abuse.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A peer that vanished is noticed, and its streams end.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)

_Handler = Any  # grpc's own name for it is private


class Service(Protocol):
    """A class with a coroutine for each method of its service, by the method's name in snake case."""

    @property
    def DESCRIPTOR(self) -> ServiceDescriptor: ...  # noqa: N802 - as in generated code


def handlers(service: Service) -> grpc.GenericRpcHandler:
    """What grpc.aio needs to serve a service. A method that the class does not have answers UNIMPLEMENTED."""
    methods = {
        method.name: _handler(method, getattr(service, _snake_case(method.name)))
        for method in service.DESCRIPTOR.methods
    }
    return grpc.method_handlers_generic_handler(service.DESCRIPTOR.full_name, methods)


def status(error: Exception) -> tuple[StatusCode, str]:
    """The code and the text with which a call ends that raised an exception."""
    if isinstance(error, Refused):
        return error.code, error.details
    if isinstance(error, StorageUnavailable):
        return StatusCode.UNAVAILABLE, str(error)
    if isinstance(error, Closing):
        return StatusCode.UNAVAILABLE, "the node is shutting down"
    # What it was about stays here: a payload is nobody else's business.
    logger.error("a call failed unexpectedly", exc_info=error)
    return StatusCode.INTERNAL, "internal error"


def decode(request_class: type[Message], data: bytes) -> Message:
    """A request from its bytes.

    Raises:
        Refused: INVALID_ARGUMENT.
    """
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise Refused(StatusCode.INVALID_ARGUMENT, "the request does not parse") from None


def encode(response: Message | bytes) -> bytes:
    """A response as bytes; some are already."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _handler(method: MethodDescriptor, call: Callable[[Any], Awaitable[Any]]) -> _Handler:
    request_class = GetMessageClass(method.input_type)
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(request_class, call))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(request_class, call))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(request_class, call))


def _unary_unary(request_class: type[Message], call: Callable[[Any], Awaitable[Any]]) -> Any:
    async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            return encode(await call(decode(request_class, data)))
        except Exception as error:  # noqa: BLE001 - every exception has a status
            await context.abort(*status(error))

    return handle


def _unary_stream(request_class: type[Message], call: Callable[[Any], Awaitable[Any]]) -> Any:
    async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        try:
            responses = await call(decode(request_class, data))
            await _send_headers(context)
            async for response in responses:
                yield encode(response)
        except Exception as error:  # noqa: BLE001
            await context.abort(*status(error))

    return handle


def _stream_stream(request_class: type[Message], call: Callable[[Any], Awaitable[Any]]) -> Any:
    async def handle(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        async def decoded() -> AsyncIterator[Message]:
            async for data in requests:
                yield decode(request_class, data)

        try:
            responses = await call(decoded())
            await _send_headers(context)
            async for response in responses:
                yield encode(response)
        except Exception as error:  # noqa: BLE001
            await context.abort(*status(error))

    return handle


async def _send_headers(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Sends the headers before there is a message: clients wait for them (section 0, fact 4)."""
    await context.send_initial_metadata((("subscribed", "true"),))


def _snake_case(name: str) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
