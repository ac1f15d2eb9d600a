"""The node's calls, whatever carries them: which there are, from bytes to requests, from exceptions to status codes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode

from xmtp_history.node._limits import LARGEST_REQUESTS, MAX_LIST, MAX_REQUEST_BYTES
from xmtp_history.node._refused import Refused
from xmtp_history.node._store import StorageUnavailable
from xmtp_history.node._subscriptions import Closing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.descriptor import ServiceDescriptor

logger = logging.getLogger("xmtp_history.node")

#: Parsed, two bytes that say "an empty entry" become forty. So in larger requests entries are counted first.
_CHEAP_BYTES: Final = 1 << 20
_OTHER_FIELDS: Final = 8
_VARINT, _LENGTH, _FIXED = 0, 2, {1: 8, 5: 4}  # the rest, beginnings and ends of groups, have no content of their own


class Service(Protocol):
    """A class with a coroutine for each method of its service, by the method's name in snake case.

    Of a request, or an asynchronous iterator of them, it makes a response, or an asynchronous iterator of them. A response
    may be bytes: it is serialized already.
    """

    @property
    def DESCRIPTOR(self) -> ServiceDescriptor: ...  # noqa: N802 - as in generated code


@dataclass(frozen=True, slots=True)
class Call:
    """One method of a service."""

    name: str
    function: Callable[[Any], Awaitable[Any]]
    request_class: type[Message]
    client_streaming: bool
    server_streaming: bool

    def decode(self, data: bytes) -> Message:
        """A request from its bytes.

        Raises:
            Refused: INVALID_ARGUMENT, or RESOURCE_EXHAUSTED if parsing it would take much more memory than it has itself.
        """
        limit = LARGEST_REQUESTS.get(self.name, MAX_REQUEST_BYTES)
        if len(data) > limit:
            raise Refused(StatusCode.RESOURCE_EXHAUSTED, f"{self.name}: a request has at most {limit} bytes")
        if len(data) > _CHEAP_BYTES and _has_more_fields(data, MAX_LIST + _OTHER_FIELDS):
            raise Refused(StatusCode.INVALID_ARGUMENT, f"{self.name}: at most {MAX_LIST} entries are accepted")
        try:
            return self.request_class.FromString(data)
        except DecodeError:
            raise Refused(StatusCode.INVALID_ARGUMENT, "the request does not parse") from None


def calls(service: Service) -> list[Call]:
    """What a service offers."""
    return [
        Call(
            method.name,
            getattr(service, _snake_case(method.name)),
            GetMessageClass(method.input_type),
            method.client_streaming,
            method.server_streaming,
        )
        for method in service.DESCRIPTOR.methods
    ]


def encode(response: Message | bytes) -> bytes:
    """A response as bytes."""
    return response if isinstance(response, bytes) else response.SerializeToString()


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


def _has_more_fields(data: bytes, limit: int) -> bool:
    """Whether a protobuf message has more than so many fields. What does not parse is left to the parser."""
    at = 0
    for _ in range(limit + 1):
        if at >= len(data):
            return False
        tag, at = _varint(data, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type == _LENGTH:
            size, at = _varint(data, at)
            at += size
        else:
            at += _FIXED.get(wire_type, 0)
    return True


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends; past the end if it does not."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift > 63:  # noqa: PLR2004 - the top bit, the most bits of a number
            return value, at
        shift += 7
    return value, at + 1


def _snake_case(name: str) -> str:
    return re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
