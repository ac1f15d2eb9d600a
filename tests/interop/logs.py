"""What a node has stored, asked of the node itself."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from xmtp_history._proto import identity_api_pb2 as identity
from xmtp_history._proto import mls_api_pb2 as mls

if TYPE_CHECKING:
    from google.protobuf.message import Message

_ASCENDING = mls.PagingInfo(direction=mls.SORT_DIRECTION_ASCENDING)
_UNLIMITED = [("grpc.max_receive_message_length", -1)]


def identity_updates(node: str, inbox_id: str) -> list[Any]:
    """The log of an inbox."""
    request = identity.GetIdentityUpdatesRequest(
        requests=[identity.GetIdentityUpdatesRequest.Request(inbox_id=inbox_id)]
    )
    method = "/xmtp.identity.api.v1.IdentityApi/GetIdentityUpdates"
    (answer,) = _call(node, method, request, identity.GetIdentityUpdatesResponse).responses
    return [entry.update for entry in answer.updates]


def group_messages(node: str, group_id: str) -> list[Any]:
    """The messages of a group."""
    method = "/xmtp.mls.api.v1.MlsApi/QueryGroupMessages"
    out: list[Any] = []
    cursor = -1
    while cursor:
        paging = mls.PagingInfo(direction=mls.SORT_DIRECTION_ASCENDING, id_cursor=max(cursor, 0))
        request = mls.QueryGroupMessagesRequest(group_id=bytes.fromhex(group_id), paging_info=paging)
        page = _call(node, method, request, mls.QueryGroupMessagesResponse)
        out += [message.v1 for message in page.messages]
        cursor = page.paging_info.id_cursor
    return out


def welcomes(node: str, installation_id: str) -> list[Any]:
    """The first hundred welcomes of an installation."""
    request = mls.QueryWelcomeMessagesRequest(installation_key=bytes.fromhex(installation_id), paging_info=_ASCENDING)
    method = "/xmtp.mls.api.v1.MlsApi/QueryWelcomeMessages"
    return list(_call(node, method, request, mls.QueryWelcomeMessagesResponse).messages)


class Framing(NamedTuple):
    """What anybody can see of a group's message.

    Attributes:
        id: at the node.
        epoch: in which it was encrypted.
        is_commit: whether it leads to the next one.
    """

    id: int
    epoch: int
    is_commit: bool


def framings(node: str, group_id: str) -> list[Framing]:
    """The framing of the messages of a group, in order."""
    return [_framing(message) for message in group_messages(node, group_id)]


def _framing(message: Any) -> Framing:
    # RFC 9420, 6 and 6.3: version, wire format, group id, epoch, content type.
    assert message.data[:4] == b"\x00\x01\x00\x02", "no private message"
    after = 5 + message.data[4]
    epoch, kind = struct.unpack_from(">QB", message.data, after)
    return Framing(message.id, epoch, kind == 3)


def newest(node: str, group_id: str) -> int:
    """The id of the newest message of a group; 0: there is none."""
    request = mls.QueryGroupMessagesRequest(
        group_id=bytes.fromhex(group_id),
        paging_info=mls.PagingInfo(direction=mls.SORT_DIRECTION_DESCENDING, limit=1),
    )
    method = "/xmtp.mls.api.v1.MlsApi/QueryGroupMessages"
    messages = _call(node, method, request, mls.QueryGroupMessagesResponse).messages
    return messages[0].v1.id if messages else 0


def _call(node: str, method: str, request: Message, response: type[Message]) -> Any:
    with grpc.insecure_channel(node.removeprefix("http://"), options=_UNLIMITED) as channel:
        call = channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=response.FromString
        )
        return call(request, timeout=10)
