"""``xmtp.mls.api.v1.MlsApi``: key packages, messages, welcomes, the commit log (node specification, sections 4 and 6)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.empty_pb2 import Empty
from grpc import StatusCode

from xmtp_history._proto import mls_api_pb2 as pb
from xmtp_history._proto.commit_log_pb2 import CommitLogEntry
from xmtp_history._proto.welcome_wrapper_pb2 import (
    WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
    WELCOME_WRAPPER_ALGORITHM_CURVE25519,
    WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY,
    WELCOME_WRAPPER_ALGORITHM_UNSPECIFIED,
)
from xmtp_history.node import _topics as topics
from xmtp_history.node._limits import (
    MAX_COMMIT_LOG_ENTRY_BYTES,
    MAX_HMAC_BYTES,
    MAX_KEY_PACKAGE_BYTES,
    MAX_RESPONSE_BYTES,
    ResponseBudget,
    check_list,
    check_size,
)
from xmtp_history.node._mutable_stream import MutableStream
from xmtp_history.node._payloads import (
    MAX_GROUP_ID_BYTES,
    MalformedPayload,
    group_message_header,
    installation_key,
)
from xmtp_history.node._refused import Refused
from xmtp_history.node._store import MAX_ID, Kind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from xmtp_history.node._store import Page, Store, Transaction
    from xmtp_history.node._subscriptions import Subscriptions

_PAGE: Final = 100
_INSTALLATION_KEY_BYTES: Final = 32
_COMMIT_LOG_PUBLISH: Final = 10
_COMMIT_LOG_QUERY: Final = 20

T = TypeVar("T")

#: What an operation appends: topic, kind, digest, and what makes the payload of id and time.
_Append = tuple[bytes, Kind, bytes | None, "Callable[[int, int], bytes]"]


class MlsApi:
    """The calls, by their names in snake case. Some answer with bytes that are the serialized message already."""

    DESCRIPTOR: Final = pb.DESCRIPTOR.services_by_name["MlsApi"]

    def __init__(
        self, store: Store, subscriptions: Subscriptions, *, max_message_bytes: int, keepalive_s: float
    ) -> None:
        self._store = store
        self._subscriptions = subscriptions
        self._max_message_bytes = max_message_bytes
        self._keepalive_s = keepalive_s

    # --- key packages -------------------------------------------------------------------------------------------------

    async def upload_key_package(self, request: pb.UploadKeyPackageRequest) -> Empty:
        """Keeps the latest key package of an installation, whether or not an inbox has it already."""
        key_package = request.key_package.key_package_tls_serialized
        check_size(len(key_package), MAX_KEY_PACKAGE_BYTES, "key package")
        key = _parsed(installation_key, key_package)
        await self._store.write(lambda transaction: transaction.put_key_package(key, key_package))
        return Empty()

    async def fetch_key_packages(self, request: pb.FetchKeyPackagesRequest) -> pb.FetchKeyPackagesResponse:
        """The key package of each installation, an empty one where there is none."""
        check_list(request.installation_keys, "installation keys")
        response = pb.FetchKeyPackagesResponse()
        budget = ResponseBudget("installations")
        for key in request.installation_keys:
            found = self._store.key_package(key) or b""
            budget.spend(len(found))
            response.key_packages.add(key_package_tls_serialized=found)
        return response

    # --- group messages -----------------------------------------------------------------------------------------------

    async def send_group_messages(self, request: pb.SendGroupMessagesRequest) -> Empty:
        """Stores messages, all or none. One that the group has already is left out."""
        check_list(request.messages, "messages", at_least=1)
        await self._append([self._group_message(message) for message in request.messages])
        return Empty()

    def _group_message(self, message: pb.GroupMessageInput) -> _Append:
        if not message.HasField("v1"):
            raise Refused(StatusCode.INVALID_ARGUMENT, "a group message is of no known version")
        sent = message.v1
        check_size(len(sent.data), self._max_message_bytes, "group message")
        check_size(len(sent.sender_hmac), MAX_HMAC_BYTES, "sender HMAC")
        header = _parsed(group_message_header, sent.data)

        def build(entry_id: int, created_ns: int) -> bytes:
            stored = pb.GroupMessage.V1(
                id=entry_id,
                created_ns=created_ns,
                group_id=header.group_id,
                data=sent.data,
                sender_hmac=sent.sender_hmac,
                should_push=sent.should_push,
                is_commit=header.is_commit,
            )
            return pb.GroupMessage(v1=stored).SerializeToString()

        topic = topics.group(header.group_id)
        return topic, Kind.COMMIT if header.is_commit else Kind.APPLICATION, _digest(topic, sent.data), build

    async def query_group_messages(self, request: pb.QueryGroupMessagesRequest) -> bytes:
        """A page of a group's messages."""
        topic = topics.group(_group_id(request.group_id))
        return _page_of_messages(*self._page(topic, request.paging_info))

    async def get_newest_group_message(
        self, request: pb.GetNewestGroupMessageRequest
    ) -> pb.GetNewestGroupMessageResponse:
        """The newest message of each group, with or without what it says."""
        check_list(request.group_ids, "group ids", at_least=1)
        response = pb.GetNewestGroupMessageResponse()
        budget = ResponseBudget("groups")
        for group_id in request.group_ids:
            answer = response.responses.add()
            newest = self._store.newest(topics.group(group_id))
            if newest is None:
                continue
            if not request.include_content:
                stored = answer.group_message.v1
                stored.id, stored.created_ns, stored.group_id = newest.id, newest.created_ns, group_id
                stored.is_commit = newest.kind == Kind.COMMIT
                continue
            payload = self._store.payload(newest.id) or b""
            budget.spend(len(payload))
            answer.group_message.MergeFromString(payload)
        return response

    async def subscribe_group_messages(self, request: pb.SubscribeGroupMessagesRequest) -> AsyncIterator[bytes]:
        """Messages of groups: those after each cursor, then all that come. Without filters nothing ever comes."""
        check_list(request.filters, "filters")
        return self._follow((topics.group(_group_id(f.group_id)), f.id_cursor) for f in request.filters)

    # --- welcomes -----------------------------------------------------------------------------------------------------

    async def send_welcome_messages(self, request: pb.SendWelcomeMessagesRequest) -> Empty:
        """Stores welcomes in the order given, all or none. One that the installation has already is left out."""
        check_list(request.messages, "messages", at_least=1)
        await self._append([self._welcome(message) for message in request.messages])
        return Empty()

    def _welcome(self, message: pb.WelcomeMessageInput) -> _Append:
        version = message.WhichOneof("version")
        if version is None:
            raise Refused(StatusCode.INVALID_ARGUMENT, "a welcome is of no known version")
        check_size(message.ByteSize(), self._max_message_bytes, "welcome")
        return _welcome_v1(message.v1) if version == "v1" else _welcome_pointer(message.welcome_pointer)

    async def query_welcome_messages(self, request: pb.QueryWelcomeMessagesRequest) -> bytes:
        """A page of an installation's welcomes."""
        topic = topics.welcome(_welcome_key(request.installation_key))
        return _page_of_messages(*self._page(topic, request.paging_info))

    async def subscribe_welcome_messages(self, request: pb.SubscribeWelcomeMessagesRequest) -> AsyncIterator[bytes]:
        """Welcomes of installations: those after each cursor, then all that come."""
        check_list(request.filters, "filters", at_least=1)
        return self._follow((topics.welcome(_welcome_key(f.installation_key)), f.id_cursor) for f in request.filters)

    # --- both at once -------------------------------------------------------------------------------------------------

    async def subscribe(self, requests: AsyncIterator[pb.SubscribeRequest]) -> AsyncIterator[pb.SubscribeResponse]:
        """One stream for messages and welcomes, whose topics the client changes while it runs (XIP-83)."""
        return MutableStream(self._store, self._subscriptions, keepalive_s=self._keepalive_s).run(requests)

    # --- commit log ---------------------------------------------------------------------------------------------------

    async def batch_publish_commit_log(self, request: pb.BatchPublishCommitLogRequest) -> Empty:
        """Stores what an installation reports about commits, unverified and in order."""
        check_list(request.requests, "requests", at_least=1, at_most=_COMMIT_LOG_PUBLISH)
        await self._append([self._commit_log_entry(entry) for entry in request.requests])
        return Empty()

    def _commit_log_entry(self, entry: pb.PublishCommitLogRequest) -> _Append:
        if not (entry.serialized_commit_log_entry and entry.HasField("signature")):
            raise Refused(StatusCode.INVALID_ARGUMENT, "a commit log entry has content and a signature")
        check_size(entry.ByteSize(), MAX_COMMIT_LOG_ENTRY_BYTES, "commit log entry")

        def build(sequence_id: int, _created_ns: int) -> bytes:
            stored = CommitLogEntry(
                sequence_id=sequence_id,
                serialized_commit_log_entry=entry.serialized_commit_log_entry,
                signature=entry.signature,
            )
            return stored.SerializeToString()

        return topics.commit_log(_group_id(entry.group_id)), Kind.COMMIT_LOG, None, build

    async def batch_query_commit_log(self, request: pb.BatchQueryCommitLogRequest) -> pb.BatchQueryCommitLogResponse:
        """A page of the commit log of each group."""
        check_list(request.requests, "requests", at_least=1, at_most=_COMMIT_LOG_QUERY)
        response = pb.BatchQueryCommitLogResponse()
        for query in request.requests:
            paging = query.paging_info
            if paging.direction == pb.SORT_DIRECTION_DESCENDING:
                raise Refused(StatusCode.INVALID_ARGUMENT, "the commit log can only be read in ascending order")
            topic = topics.commit_log(_group_id(query.group_id))
            ascending = pb.PagingInfo(
                direction=pb.SORT_DIRECTION_ASCENDING, limit=paging.limit, id_cursor=paging.id_cursor
            )
            page, paging_info = self._page(topic, ascending, budget=MAX_RESPONSE_BYTES // len(request.requests))
            answer = response.responses.add(group_id=query.group_id, paging_info=paging_info)
            answer.commit_log_entries.extend(map(CommitLogEntry.FromString, page.payloads))
        return response

    # --- common parts -------------------------------------------------------------------------------------------------

    async def _append(self, entries: list[_Append]) -> None:
        def operation(transaction: Transaction) -> None:
            for topic, kind, digest, build in entries:
                transaction.append(topic, kind, build, digest)

        await self._store.write(operation)

    def _page(
        self, topic: bytes, paging: pb.PagingInfo, budget: int = MAX_RESPONSE_BYTES
    ) -> tuple[Page, pb.PagingInfo]:
        descending = paging.direction != pb.SORT_DIRECTION_ASCENDING
        limit = paging.limit if 1 <= paging.limit <= _PAGE else _PAGE
        cursor = _cursor(paging.id_cursor)
        page = self._store.page(topic, cursor, descending=descending, limit=limit, budget=budget)
        direction = pb.SORT_DIRECTION_DESCENDING if descending else pb.SORT_DIRECTION_ASCENDING
        return page, pb.PagingInfo(direction=direction, limit=limit, id_cursor=page.next_cursor)

    def _follow(self, filters: Iterable[tuple[bytes, int]]) -> AsyncIterator[bytes]:
        cursors: dict[bytes, int] = {}
        for topic, id_cursor in filters:
            # Named twice, a topic is replayed from the lower cursor.
            cursors[topic] = min(_cursor(id_cursor), cursors.get(topic, MAX_ID))
        return self._subscriptions.follow(cursors)


def _welcome_v1(sent: pb.WelcomeMessageInput.V1) -> _Append:
    symmetric = sent.wrapper_algorithm == WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY
    if not sent.data or not (sent.hpke_public_key or symmetric):
        raise Refused(StatusCode.INVALID_ARGUMENT, "a welcome has data, and the key it is encrypted to")
    topic = topics.welcome(_welcome_key(sent.installation_key))
    unset = sent.wrapper_algorithm == WELCOME_WRAPPER_ALGORITHM_UNSPECIFIED

    def build(entry_id: int, created_ns: int) -> bytes:
        stored = pb.WelcomeMessage.V1(
            id=entry_id,
            created_ns=created_ns,
            installation_key=sent.installation_key,
            data=sent.data,
            hpke_public_key=sent.hpke_public_key,
            wrapper_algorithm=WELCOME_WRAPPER_ALGORITHM_CURVE25519 if unset else sent.wrapper_algorithm,
            welcome_metadata=sent.welcome_metadata,
        )
        return pb.WelcomeMessage(v1=stored).SerializeToString()

    return topic, Kind.POINTEE if symmetric else Kind.WELCOME, _digest(topic, sent.data), build


def _welcome_pointer(sent: pb.WelcomeMessageInput.WelcomePointer) -> _Append:
    if not (sent.welcome_pointer and sent.hpke_public_key):
        raise Refused(StatusCode.INVALID_ARGUMENT, "a welcome pointer has data, and the key it is encrypted to")
    if sent.wrapper_algorithm != WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6:
        raise Refused(StatusCode.INVALID_ARGUMENT, f"{sent.wrapper_algorithm} is not an algorithm for welcome pointers")
    topic = topics.welcome(_welcome_key(sent.installation_key))

    def build(entry_id: int, created_ns: int) -> bytes:
        stored = pb.WelcomeMessage.WelcomePointer(
            id=entry_id,
            created_ns=created_ns,
            installation_key=sent.installation_key,
            welcome_pointer=sent.welcome_pointer,
            hpke_public_key=sent.hpke_public_key,
            wrapper_algorithm=sent.wrapper_algorithm,
        )
        return pb.WelcomeMessage(welcome_pointer=stored).SerializeToString()

    return topic, Kind.WELCOME, _digest(topic, sent.welcome_pointer), build


def _parsed(parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except MalformedPayload as error:
        raise Refused(StatusCode.INVALID_ARGUMENT, str(error)) from None


def _group_id(group_id: bytes) -> bytes:
    if not 1 <= len(group_id) <= MAX_GROUP_ID_BYTES:
        raise Refused(StatusCode.INVALID_ARGUMENT, f"a group id has 1 to {MAX_GROUP_ID_BYTES} bytes")
    return group_id


def _welcome_key(key: bytes) -> bytes:
    if len(key) != _INSTALLATION_KEY_BYTES:
        raise Refused(StatusCode.INVALID_ARGUMENT, f"an installation key has {_INSTALLATION_KEY_BYTES} bytes")
    return key


def _cursor(id_cursor: int) -> int:
    if id_cursor > MAX_ID:
        raise Refused(StatusCode.INVALID_ARGUMENT, "no id is as high as the cursor")
    return id_cursor


def _digest(topic: bytes, data: bytes) -> bytes:
    return hashlib.sha256(topic + data).digest()


def _page_of_messages(page: Page, paging_info: pb.PagingInfo) -> bytes:
    """``QueryGroupMessagesResponse`` or ``QueryWelcomeMessagesResponse`` around messages as they were stored."""
    parts: list[bytes] = []
    for payload in page.payloads:
        parts += (b"\x0a", _varint(len(payload)), payload)
    info = paging_info.SerializeToString()
    parts += (b"\x12", _varint(len(info)), info)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """A number as protobuf writes it: seven bits a byte, the lowest first."""
    out = bytearray()
    while number >> 7:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
