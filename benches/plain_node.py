"""The rival of the local node: the node that most people would write to have something to run their tests against.

It keeps messages in dictionaries, checks nothing, and has forgotten everything when it ends. Of the API it has the three
calls that the benchmarks use. Requests and answers go through the classes that protobuf generates, as in gRPC's examples.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from xmtp_history._proto import mls_api_pb2 as pb

_PAGE = 100


class PlainNode:
    """Everything in memory."""

    def __init__(self) -> None:
        self._last_id = 0
        self._messages: defaultdict[bytes, list[pb.GroupMessage]] = defaultdict(list)
        self._streams: defaultdict[bytes, list[asyncio.Queue[pb.GroupMessage]]] = defaultdict(list)

    async def send_group_messages(self, request: pb.SendGroupMessagesRequest, _: Any) -> Empty:
        for sent in request.messages:
            self._last_id += 1
            group_id = sent.v1.data[5 : 5 + sent.v1.data[4]]
            message = pb.GroupMessage(
                v1=pb.GroupMessage.V1(
                    id=self._last_id,
                    created_ns=time.time_ns(),
                    group_id=group_id,
                    data=sent.v1.data,
                    sender_hmac=sent.v1.sender_hmac,
                    should_push=sent.v1.should_push,
                )
            )
            self._messages[group_id].append(message)
            for stream in self._streams[group_id]:
                stream.put_nowait(message)
        return Empty()

    async def query_group_messages(
        self, request: pb.QueryGroupMessagesRequest, _: Any
    ) -> pb.QueryGroupMessagesResponse:
        paging = request.paging_info
        ascending = paging.direction == pb.SORT_DIRECTION_ASCENDING
        limit, cursor = paging.limit or _PAGE, paging.id_cursor
        found = self._messages[request.group_id]
        if ascending:
            page = [message for message in found if message.v1.id > cursor][:limit]
        else:
            page = [message for message in reversed(found) if not cursor or message.v1.id < cursor][:limit]
        following = pb.PagingInfo(direction=paging.direction, limit=limit)
        if len(page) == limit:
            following.id_cursor = page[-1].v1.id
        return pb.QueryGroupMessagesResponse(messages=page, paging_info=following)

    async def subscribe_group_messages(
        self, request: pb.SubscribeGroupMessagesRequest, context: Any
    ) -> AsyncIterator[pb.GroupMessage]:
        stream: asyncio.Queue[pb.GroupMessage] = asyncio.Queue()
        for wanted in request.filters:
            self._streams[wanted.group_id].append(stream)
        # Clients wait for the headers before they take the stream for open.
        await context.send_initial_metadata((("subscribed", "true"),))
        try:
            while True:
                yield await stream.get()
        finally:
            for wanted in request.filters:
                self._streams[wanted.group_id].remove(stream)


async def serve(port: int) -> tuple[grpc.aio.Server, int]:
    """Starts one; returns the server and its port."""
    node = PlainNode()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    encode = Empty.SerializeToString
    handlers: dict[str, Any] = {
        "SendGroupMessages": unary(node.send_group_messages, pb.SendGroupMessagesRequest.FromString, encode),
        "QueryGroupMessages": unary(node.query_group_messages, pb.QueryGroupMessagesRequest.FromString, encode),
        "SubscribeGroupMessages": stream(
            node.subscribe_group_messages, pb.SubscribeGroupMessagesRequest.FromString, encode
        ),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("xmtp.mls.api.v1.MlsApi", handlers),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port
