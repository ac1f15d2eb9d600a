"""A client of a node that does everything by hand: payloads byte by byte, calls on plain grpc, one node for one test.

Nothing here is shared with the node but the generated protobuf classes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import queue
import random
import signal
import socket
import struct
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support import child
from support.signing import Installation, LegacyKey, Passkey, Signer, Wallet, text_of
from xmtp_history import LocalNode
from xmtp_history._proto import association_pb2 as assoc
from xmtp_history._proto import identity_api_pb2 as identity_api
from xmtp_history._proto import mls_api_pb2 as mls_api
from xmtp_history._proto.credential_pb2 import MlsCredential
from xmtp_history._proto.welcome_wrapper_pb2 import (
    WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
    WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY,
    WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
)

if TYPE_CHECKING:
    import os
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping


#: Nothing in these suites takes as long. What has not come by then does not come.
DEADLINE_S: Final = 30.0
MAX_ID: Final = 2**63 - 1
#: What libxmtp reads in one message, and no byte more.
CLIENT_LIMIT: Final = 25 << 20

ASCENDING, DESCENDING = mls_api.SORT_DIRECTION_ASCENDING, mls_api.SORT_DIRECTION_DESCENDING
APPLICATION, PROPOSAL, COMMIT = 1, 2, 3
PUBLIC, PRIVATE = 1, 2
ETHEREUM, PASSKEY = assoc.IDENTIFIER_KIND_ETHEREUM, assoc.IDENTIFIER_KIND_PASSKEY

#: Words by which clients recognise the end of the network, and leave it.
FORBIDDEN: Final = (
    "publishing to xmtp v3 is no longer available",
    "xmtp v3 streaming is no longer available",
)

_unique = itertools.count(1)

#: Who signs for the addresses, installations and passkeys that these helpers make, so that updates get their signatures
#: without being told whose; and the address that each inbox was made with.
_signers: dict[str | bytes, Signer] = {}
_owners: dict[str, str] = {}


def fresh(size: int, label: str = "") -> bytes:
    """Bytes that no other call gives."""
    seed = b"%d %s" % (next(_unique), label.encode())
    return hashlib.shake_128(seed).digest(size)


def new_group() -> bytes:
    """A group id that no other test uses."""
    return fresh(16, "group")


def new_key() -> bytes:
    """An installation key that no other test uses."""
    installation = Installation(fresh(32, "installation"))
    _signers[installation.id] = installation
    return installation.id


# --- MLS payloads -----------------------------------------------------------------------------------------------------


def vec(data: bytes) -> bytes:
    """A variable-size vector (RFC 9420, section 2.1.2)."""
    size = len(data)
    if size < 1 << 6:
        return bytes([size]) + data
    if size < 1 << 14:
        return struct.pack(">H", size | 0x4000) + data
    return struct.pack(">I", size | 0x8000_0000) + data


def wide_vec(data: bytes, width: int) -> bytes:
    """A vector whose length is written in so many bytes, needed or not."""
    prefix = {1: 0x00, 2: 0x40, 4: 0x80}[width] << 8 * (width - 1)
    return (prefix | len(data)).to_bytes(width, "big") + data


def private_message(
    group_id: bytes,
    body: bytes = b"",
    *,
    content_type: int = APPLICATION,
    epoch: int = 1,
    version: int = 1,
    wire_format: int = PRIVATE,
) -> bytes:
    """An MLSMessage that carries a PrivateMessage. ``body`` stands where the ciphertext does."""
    head = struct.pack(">HH", version, wire_format) + vec(group_id) + struct.pack(">QB", epoch, content_type)
    return head + vec(b"") + vec(b"sender data") + vec(body)


def public_message(
    group_id: bytes, body: bytes = b"", *, content_type: int = COMMIT, epoch: int = 1, sender_type: int = 1
) -> bytes:
    """An MLSMessage that carries a PublicMessage. ``body`` stands for content, signature and tags."""
    sender = bytes([sender_type]) + (struct.pack(">I", 7) if sender_type in {1, 2} else b"")
    head = struct.pack(">HH", 1, PUBLIC) + vec(group_id) + struct.pack(">Q", epoch)
    return head + sender + vec(b"aad") + bytes([content_type]) + body


def sized_message(group_id: bytes, size: int, number: int = 0) -> bytes:
    """A private message of exactly so many bytes."""
    for overhead in (len(private_message(group_id)) + more for more in (0, 1, 3)):
        message = private_message(group_id, struct.pack(">Q", number) + bytes(max(size - overhead - 8, 0)))
        if len(message) == size:
            return message
    raise AssertionError(f"no message has {size} bytes")


def credential(inbox_id: str = "a1" * 32) -> bytes:
    """What a key package says about its inbox."""
    return MlsCredential(inbox_id=inbox_id).SerializeToString()


@dataclass
class KeyPackage:
    """A KeyPackage of an XMTP installation (RFC 9420, section 10), field by field, each to be replaced at will."""

    signature_key: bytes = field(default_factory=new_key)
    version: int = 1
    suite: int = 3
    init_key: bytes = b"\x11" * 32
    encryption_key: bytes = b"\x22" * 32
    credential_type: int = 1
    identity: bytes = field(default_factory=credential)
    #: Versions, cipher suites, extensions, proposals, credentials.
    capabilities: tuple[bytes, ...] = (b"\0\1", b"\0\3", b"\0\3\0\2\0\5\0\x0a\xff\0", b"\0\3\0\2\xff\1", b"\0\1")
    source: int = 1
    lifetime: bytes = bytes(8) + b"\xff" * 8
    leaf_extensions: bytes = b"\xff\0" + vec(b"something")
    leaf_signature: bytes = b"\x33" * 64
    extensions: bytes = b"\0\x0a" + vec(b"") + b"\xff\1" + vec(bytes(1216))
    signature: bytes = b"\x44" * 64
    #: How vectors are written.
    vec: Callable[[bytes], bytes] = vec

    def parts(self) -> dict[str, bytes]:
        """The fields as they stand in the package, in order."""
        out = {"version": struct.pack(">H", self.version), "suite": struct.pack(">H", self.suite)}
        out |= {name: self.vec(getattr(self, name)) for name in ("init_key", "encryption_key", "signature_key")}
        out |= {"credential_type": struct.pack(">H", self.credential_type), "identity": self.vec(self.identity)}
        out |= {f"capabilities_{number}": self.vec(entry) for number, entry in enumerate(self.capabilities)}
        out |= {"source": bytes([self.source]), "lifetime": self.lifetime}
        for name in ("leaf_extensions", "leaf_signature", "extensions", "signature"):
            out[name] = self.vec(getattr(self, name))
        return out

    def encode(self) -> bytes:
        """The package's bytes."""
        return b"".join(self.parts().values())


# --- requests ---------------------------------------------------------------------------------------------------------


def message_input(data: bytes, *, hmac: bytes = b"\x55" * 32, push: bool = True) -> mls_api.GroupMessageInput:
    """A group message as clients send it."""
    return mls_api.GroupMessageInput(
        v1=mls_api.GroupMessageInput.V1(data=data, sender_hmac=hmac, should_push=push),
    )


def welcome_input(key: bytes, data: bytes, **changes: Any) -> mls_api.WelcomeMessageInput:
    """A welcome as clients send it."""
    values = {
        "installation_key": key,
        "data": data,
        "hpke_public_key": b"\x66" * 1216,
        "wrapper_algorithm": WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
        "welcome_metadata": b"metadata",
    }
    return mls_api.WelcomeMessageInput(v1=mls_api.WelcomeMessageInput.V1(**(values | changes)))


def pointee_input(destination: bytes, data: bytes) -> mls_api.WelcomeMessageInput:
    """A welcome that pointers point to: its key is random, and it is not encrypted to one."""
    return welcome_input(
        destination, data, hpke_public_key=b"", wrapper_algorithm=WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY
    )


def pointer_input(key: bytes, pointer: bytes, **changes: Any) -> mls_api.WelcomeMessageInput:
    """A pointer to a welcome."""
    values = {
        "installation_key": key,
        "welcome_pointer": pointer,
        "hpke_public_key": b"\x77" * 1216,
        "wrapper_algorithm": WELCOME_POINTER_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
    }
    pointer_class = mls_api.WelcomeMessageInput.WelcomePointer
    return mls_api.WelcomeMessageInput(welcome_pointer=pointer_class(**(values | changes)))


def commit_log_input(group_id: bytes, entry: bytes) -> mls_api.PublishCommitLogRequest:
    """An entry of the commit log."""
    signature = assoc.RecoverableEd25519Signature(bytes=b"\x88" * 64, public_key=b"\x99" * 32)
    return mls_api.PublishCommitLogRequest(group_id=group_id, serialized_commit_log_entry=entry, signature=signature)


def paging(direction: int = ASCENDING, *, limit: int = 0, cursor: int = 0) -> mls_api.PagingInfo:
    """Which page is asked for."""
    return mls_api.PagingInfo(direction=direction, limit=limit, id_cursor=cursor)  # type: ignore[arg-type]


# --- identity updates -------------------------------------------------------------------------------------------------


def new_address() -> str:
    """An Ethereum address that no other test uses."""
    wallet = Wallet(fresh(32, "wallet"))
    _signers[wallet.address] = wallet
    return wallet.address


def new_legacy_address() -> str:
    """The same, of a wallet that signs with a key that it approved in XMTP V2."""
    wallet = Wallet(fresh(32, "wallet"))
    _signers[wallet.address] = LegacyKey(fresh(32, "legacy key"), wallet)
    return wallet.address


def new_passkey() -> bytes:
    """A passkey that no other test uses."""
    passkey = Passkey(fresh(32, "passkey"))
    _signers[passkey.key] = _signers[passkey.key.hex()] = passkey
    return passkey.key


def inbox_id_of(identifier: str, nonce: int = 0) -> str:
    """The inbox id that follows from an address, or from a passkey in hexadecimal digits, and a nonce."""
    inbox_id = hashlib.sha256(f"{identifier.lower()}{nonce}".encode()).hexdigest()
    _owners[inbox_id] = identifier
    return inbox_id


def address_member(address: str) -> assoc.MemberIdentifier:
    """An address as a member."""
    return assoc.MemberIdentifier(ethereum_address=address)


def installation_member(key: bytes) -> assoc.MemberIdentifier:
    """An installation as a member."""
    return assoc.MemberIdentifier(installation_public_key=key)


def passkey_member(key: bytes) -> assoc.MemberIdentifier:
    """A passkey as a member."""
    return assoc.MemberIdentifier(passkey=assoc.Passkey(key=key, relying_party="example.org"))


def create(
    identifier: str, nonce: int = 0, *, kind: int = ETHEREUM, signature: assoc.Signature | None = None
) -> assoc.IdentityAction:
    """The action that creates an inbox; like the others it is signed with its update, unless a signature is given."""
    action = assoc.CreateInbox(
        initial_identifier=identifier,
        nonce=nonce,
        initial_identifier_signature=signature,
        initial_identifier_kind=kind,  # type: ignore[arg-type]
    )
    return assoc.IdentityAction(create_inbox=action)


def add(
    member: assoc.MemberIdentifier,
    *,
    existing: assoc.Signature | None = None,
    new: assoc.Signature | None = None,
) -> assoc.IdentityAction:
    """The action that adds a member."""
    action = assoc.AddAssociation(
        new_member_identifier=member, existing_member_signature=existing, new_member_signature=new
    )
    return assoc.IdentityAction(add=action)


def revoke(member: assoc.MemberIdentifier, *, signature: assoc.Signature | None = None) -> assoc.IdentityAction:
    """The action that removes a member."""
    action = assoc.RevokeAssociation(member_to_revoke=member, recovery_identifier_signature=signature)
    return assoc.IdentityAction(revoke=action)


def change_recovery(address: str, *, signature: assoc.Signature | None = None) -> assoc.IdentityAction:
    """The action that makes another account the one that may remove members."""
    action = assoc.ChangeRecoveryAddress(
        new_recovery_identifier=address,
        existing_recovery_identifier_signature=signature,
        new_recovery_identifier_kind=ETHEREUM,  # type: ignore[arg-type]
    )
    return assoc.IdentityAction(change_recovery_address=action)


def update(inbox_id: str, *actions: assoc.IdentityAction, by: str | bytes | None = None) -> assoc.IdentityUpdate:
    """An identity update, signed by new members and, as what they belong to, by the inbox's owner or ``by``."""
    # No two updates have the same text, whose signatures would be the same.
    made = assoc.IdentityUpdate(actions=actions, client_timestamp_ns=next(_seconds) * 10**9, inbox_id=inbox_id)
    text = text_of(made)
    owner = by or _owners.get(inbox_id, "")
    for action in made.actions:
        name = action.WhichOneof("kind")
        if name is None:
            continue
        body = getattr(action, name)
        for place, signer in _who_signs(body, owner):
            if not body.HasField(place):
                getattr(body, place).CopyFrom(sign(text, signer))
    return made


def sign(text: str, signer: str | bytes) -> assoc.Signature:
    """The signature of an address, installation or passkey; of one that was not made here, somebody else's."""
    key = signer.lower() if isinstance(signer, str) else signer
    return _signers.get(key, _STRANGER).sign(text)


def _who_signs(body: Any, owner: str | bytes) -> list[tuple[str, str | bytes]]:
    if isinstance(body, assoc.CreateInbox):
        return [("initial_identifier_signature", body.initial_identifier)]
    if isinstance(body, assoc.RevokeAssociation):
        return [("recovery_identifier_signature", owner)]
    if isinstance(body, assoc.ChangeRecoveryAddress):
        return [("existing_recovery_identifier_signature", owner)]
    member = body.new_member_identifier
    new = member.ethereum_address or member.installation_public_key or member.passkey.key
    return [("existing_member_signature", owner), ("new_member_signature", new)]


#: Times of updates, seconds since 1970: from 2026 on.
_seconds = itertools.count(1_767_225_600)
_STRANGER: Final = Wallet(b"a stranger")


def created_inbox(address: str, nonce: int = 0) -> assoc.IdentityUpdate:
    """The first update of an address's inbox, with an installation, as clients send it."""
    return update(inbox_id_of(address, nonce), create(address, nonce), add(installation_member(new_key())))


# --- calls ------------------------------------------------------------------------------------------------------------


class NodeClient:
    """One connection to a node."""

    def __init__(self, url: str, *options: tuple[str, Any], receive_limit: int = CLIENT_LIMIT) -> None:
        self.url = url
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", receive_limit)]
        # Channels to one address share a connection otherwise.
        own = ("grpc.use_local_subchannel_pool", 1)
        self.channel = grpc.insecure_channel(url.removeprefix("http://"), options=[*sizes, own, *options])
        self._calls: dict[str, Any] = {}
        for descriptor in (mls_api.DESCRIPTOR, identity_api.DESCRIPTOR):
            for service in descriptor.services_by_name.values():
                for method in service.methods:
                    self._calls[method.name] = self._stub(service.full_name, method)

    def _stub(self, service: str, method: Any) -> Any:
        arity = "_".join(
            "stream" if streaming else "unary" for streaming in (method.client_streaming, method.server_streaming)
        )
        make = getattr(self.channel, arity)
        return make(
            f"/{service}/{method.name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self.channel.close()

    def call(self, name: str, request: Any, **options: Any) -> Any:
        """A call by its name, in its time."""
        return self._calls[name](request, **({"timeout": DEADLINE_S} | options))

    def future(self, name: str, request: Any) -> Any:
        """A call that is under way."""
        return self._calls[name].future(request, timeout=DEADLINE_S)

    def raw(self, path: str, data: bytes, **options: Any) -> bytes:
        """A call of bytes, answered with bytes."""
        answer: bytes = self.channel.unary_unary(path)(data, **({"timeout": DEADLINE_S} | options))
        return answer

    # --- group messages

    def send(self, *messages: bytes | mls_api.GroupMessageInput) -> None:
        """Sends messages in one call."""
        inputs = [message_input(message) if isinstance(message, bytes) else message for message in messages]
        self.call("SendGroupMessages", mls_api.SendGroupMessagesRequest(messages=inputs))

    def page(self, group_id: bytes, info: mls_api.PagingInfo | None = None) -> mls_api.QueryGroupMessagesResponse:
        """One page of a group's messages."""
        answer: mls_api.QueryGroupMessagesResponse = self.call(
            "QueryGroupMessages", mls_api.QueryGroupMessagesRequest(group_id=group_id, paging_info=info)
        )
        return answer

    def messages(self, group_id: bytes, cursor: int = 0) -> list[mls_api.GroupMessage.V1]:
        """All messages of a group after a cursor, page by page."""
        out: list[mls_api.GroupMessage.V1] = []
        while True:
            answer = self.page(group_id, paging(cursor=cursor))
            out += [message.v1 for message in answer.messages]
            if not answer.paging_info.id_cursor:
                return out
            assert answer.paging_info.id_cursor > cursor
            cursor = answer.paging_info.id_cursor

    def newest(self, *group_ids: bytes, content: bool = False) -> list[mls_api.GetNewestGroupMessageResponse.Response]:
        """The newest message of each group."""
        request = mls_api.GetNewestGroupMessageRequest(group_ids=group_ids, include_content=content)
        return list(self.call("GetNewestGroupMessage", request).responses)

    # --- welcomes

    def welcome(self, *messages: mls_api.WelcomeMessageInput) -> None:
        """Sends welcomes in one call."""
        self.call("SendWelcomeMessages", mls_api.SendWelcomeMessagesRequest(messages=messages))

    def welcome_page(self, key: bytes, info: mls_api.PagingInfo | None = None) -> mls_api.QueryWelcomeMessagesResponse:
        """One page of an installation's welcomes."""
        answer: mls_api.QueryWelcomeMessagesResponse = self.call(
            "QueryWelcomeMessages", mls_api.QueryWelcomeMessagesRequest(installation_key=key, paging_info=info)
        )
        return answer

    def welcomes(self, key: bytes) -> list[mls_api.WelcomeMessage]:
        """The first hundred welcomes of an installation."""
        return list(self.welcome_page(key, paging()).messages)

    # --- key packages

    def upload(self, key_package: bytes) -> None:
        """Uploads a key package."""
        upload = mls_api.KeyPackageUpload(key_package_tls_serialized=key_package)
        self.call("UploadKeyPackage", mls_api.UploadKeyPackageRequest(key_package=upload, is_inbox_id_credential=True))

    def fetch(self, *keys: bytes) -> list[bytes]:
        """Key packages of installations."""
        answer = self.call("FetchKeyPackages", mls_api.FetchKeyPackagesRequest(installation_keys=keys))
        return [entry.key_package_tls_serialized for entry in answer.key_packages]

    # --- identity

    def publish(self, identity_update: assoc.IdentityUpdate) -> None:
        """Publishes an identity update."""
        request = identity_api.PublishIdentityUpdateRequest(identity_update=identity_update)
        self.call("PublishIdentityUpdate", request)

    def updates(
        self, *inbox_ids: str, after: int = 0
    ) -> list[list[identity_api.GetIdentityUpdatesResponse.IdentityUpdateLog]]:
        """The logs of inboxes."""
        request_class = identity_api.GetIdentityUpdatesRequest
        requests = [request_class.Request(inbox_id=inbox_id, sequence_id=after) for inbox_id in inbox_ids]
        responses = self.call("GetIdentityUpdates", request_class(requests=requests)).responses
        assert [response.inbox_id for response in responses] == list(inbox_ids)
        return [list(response.updates) for response in responses]

    def log(self, inbox_id: str, after: int = 0) -> list[assoc.IdentityUpdate]:
        """The updates of one inbox."""
        return [entry.update for entry in self.updates(inbox_id, after=after)[0]]

    def inbox_ids(self, *identifiers: str, kind: int = ETHEREUM) -> list[str | None]:
        """The inboxes that identifiers belong to."""
        request_class = identity_api.GetInboxIdsRequest
        requests = [
            request_class.Request(identifier=identifier, identifier_kind=kind)  # type: ignore[arg-type]
            for identifier in identifiers
        ]
        responses = self.call("GetInboxIds", request_class(requests=requests)).responses
        assert [response.identifier for response in responses] == list(identifiers)
        assert all(response.identifier_kind == kind for response in responses)
        return [response.inbox_id if response.HasField("inbox_id") else None for response in responses]

    # --- commit log

    def publish_commit_log(self, *entries: mls_api.PublishCommitLogRequest) -> None:
        """Reports about commits."""
        self.call("BatchPublishCommitLog", mls_api.BatchPublishCommitLogRequest(requests=entries))

    def commit_log(
        self, *group_ids: bytes, info: mls_api.PagingInfo | None = None
    ) -> list[mls_api.QueryCommitLogResponse]:
        """A page of the commit log of each group."""
        requests = [mls_api.QueryCommitLogRequest(group_id=group_id, paging_info=info) for group_id in group_ids]
        return list(self.call("BatchQueryCommitLog", mls_api.BatchQueryCommitLogRequest(requests=requests)).responses)

    # --- streams

    def follow(
        self, cursors: Mapping[bytes, int] | Iterable[tuple[bytes, int]], *, timeout: float = DEADLINE_S
    ) -> Following:
        """A stream of groups' messages."""
        pairs = cursors.items() if hasattr(cursors, "items") else cursors
        filter_class = mls_api.SubscribeGroupMessagesRequest.Filter
        filters = [filter_class(group_id=group_id, id_cursor=cursor) for group_id, cursor in pairs]
        request = mls_api.SubscribeGroupMessagesRequest(filters=filters)
        return Following(self.call("SubscribeGroupMessages", request, timeout=timeout))

    def follow_welcomes(self, cursors: Mapping[bytes, int], *, timeout: float = DEADLINE_S) -> Following:
        """A stream of installations' welcomes."""
        filter_class = mls_api.SubscribeWelcomeMessagesRequest.Filter
        filters = [filter_class(installation_key=key, id_cursor=cursor) for key, cursor in cursors.items()]
        request = mls_api.SubscribeWelcomeMessagesRequest(filters=filters)
        return Following(self.call("SubscribeWelcomeMessages", request, timeout=timeout))

    def mutable(self, timeout: float = DEADLINE_S) -> MutableFollowing:
        """A stream whose topics can be changed."""
        return MutableFollowing(self, timeout)


class Following:
    """A stream of messages. It has the time of a call: what does not come in time ends it with an error."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def headers(self) -> dict[str, str]:
        """The response's headers, once they have come."""
        return dict(self._call.initial_metadata())

    def next(self) -> Any:
        """The next message's content."""
        message = next(self._call)
        return getattr(message, message.WhichOneof("version"))

    def take(self, count: int) -> list[Any]:
        """The next messages' content."""
        return [self.next() for _ in range(count)]

    def take_ids(self, count: int) -> list[int]:
        """The next messages' ids."""
        return [message.id for message in self.take(count)]

    def cancel(self) -> None:
        """Ends the stream."""
        self._call.cancel()

    def end(self) -> grpc.StatusCode:
        """How the stream ends, once everything that comes before has come."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError:
            pass
        code: grpc.StatusCode = self._call.code()
        return code


class MutableFollowing:
    """A bidirectional stream, frame by frame."""

    def __init__(self, client: NodeClient, timeout: float) -> None:
        self._requests: queue.SimpleQueue[mls_api.SubscribeRequest | None] = queue.SimpleQueue()
        self._call = client.call("Subscribe", iter(self._requests.get, None), timeout=timeout)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def headers(self) -> dict[str, str]:
        """The response's headers, once they have come."""
        return dict(self._call.initial_metadata())

    def started(self) -> mls_api.SubscribeResponse.V1.Started:
        """The first frame."""
        frame = self.frame()
        assert frame.WhichOneof("response") == "started"
        return frame.started

    def send(self, request: mls_api.SubscribeRequest) -> None:
        """Sends any frame."""
        self._requests.put(request)

    def mutate(
        self,
        adds: Mapping[bytes, int] | Iterable[tuple[bytes, int]] = (),
        removes: Iterable[bytes] = (),
        *,
        history_only: bool = False,
        mutate_id: int | None = None,
    ) -> int:
        """Changes the topics, and returns the id of the change."""
        pairs = adds.items() if hasattr(adds, "items") else adds
        mutate_class = mls_api.SubscribeRequest.V1.Mutate
        mutate_id = next(self._numbers) if mutate_id is None else mutate_id
        mutate = mutate_class(
            adds=[mutate_class.Subscription(topic=topic, id_cursor=cursor) for topic, cursor in pairs],
            removes=removes,
            history_only=history_only,
            mutate_id=mutate_id,
        )
        self.send(mls_api.SubscribeRequest(v1=mls_api.SubscribeRequest.V1(mutate=mutate)))
        return mutate_id

    def ping(self, nonce: int) -> None:
        """Asks whether the node is there."""
        self.send(mls_api.SubscribeRequest(v1=mls_api.SubscribeRequest.V1(ping=mls_api.Ping(nonce=nonce))))

    def pong(self, nonce: int) -> None:
        """Says that the client is there."""
        self.send(mls_api.SubscribeRequest(v1=mls_api.SubscribeRequest.V1(pong=mls_api.Pong(nonce=nonce))))

    def half_close(self) -> None:
        """Says that nothing more will be asked."""
        self._requests.put(None)

    def frame(self) -> mls_api.SubscribeResponse.V1:
        """The next frame."""
        response: mls_api.SubscribeResponse.V1 = next(self._call).v1
        return response

    def until_complete(self, mutate_id: int) -> list[mls_api.SubscribeResponse.V1]:
        """Frames up to the one that says that a change is complete, that one included."""
        return self.until(lambda frame: _is_completion(frame) and frame.catchup_complete.mutate_id == mutate_id)

    def until(self, condition: Callable[[mls_api.SubscribeResponse.V1], bool]) -> list[mls_api.SubscribeResponse.V1]:
        """Frames up to one, that one included."""
        out = [self.frame()]
        while not condition(out[-1]):
            out.append(self.frame())
        return out

    def messages(self, count: int) -> list[tuple[int, Any]]:
        """The next messages, each with the number of its lane. No other frames may be among them."""
        out: list[tuple[int, Any]] = []
        while len(out) < count:
            frame = self.frame()
            assert frame.WhichOneof("response") == "messages", frame
            out += messages_of([frame])
        assert len(out) == count
        return out

    def rest(self) -> list[mls_api.SubscribeResponse.V1]:
        """All frames up to the stream's end, whatever its status."""
        out = []
        with contextlib.suppress(grpc.RpcError):
            out.extend(response.v1 for response in self._call)
        return out

    def end(self) -> grpc.StatusCode:
        """How the stream ends, once everything that comes before has come."""
        self.rest()
        code: grpc.StatusCode = self._call.code()
        return code

    def details(self) -> str:
        """What the node says about the end."""
        return str(self._call.details())

    def cancel(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        # The thread that waits for requests ends too.
        self._requests.put(None)


def _is_completion(frame: mls_api.SubscribeResponse.V1) -> bool:
    return frame.WhichOneof("response") == "catchup_complete"


def messages_of(frames: Iterable[mls_api.SubscribeResponse.V1]) -> list[tuple[int, Any]]:
    """The messages in frames, each with the number of its lane."""
    out: list[tuple[int, Any]] = []
    for frame in frames:
        if frame.WhichOneof("response") == "messages":
            carried = frame.messages
            assert carried.group_messages or carried.welcome_messages
            both = (*carried.group_messages, *carried.welcome_messages)
            out += [(carried.mutate_id, getattr(entry, entry.WhichOneof("version"))) for entry in both]
    return out


def kinds_of(frames: Iterable[mls_api.SubscribeResponse.V1]) -> list[str]:
    """What frames are."""
    return [str(frame.WhichOneof("response")) for frame in frames]


def group_topic(group_id: bytes) -> bytes:
    """A group's messages as a topic."""
    return b"\0" + group_id


def welcome_topic(key: bytes) -> bytes:
    """An installation's welcomes as a topic."""
    return b"\1" + key


@contextlib.contextmanager
def refused(*codes: grpc.StatusCode) -> Iterator[Any]:
    """Expects a call to be refused, with a text that fits into a header and is nobody's trigger."""
    with pytest.raises(grpc.RpcError) as caught:
        yield caught
    error: Any = caught.value
    details = error.details()
    assert error.code() in codes, (error.code(), details)
    assert "CLIENT" not in details, "it was the node that refused"
    assert len(details.encode()) < 1024
    assert not any(words in details.lower() for words in FORBIDDEN)


INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
TOO_LARGE: Final = grpc.StatusCode.RESOURCE_EXHAUSTED


def is_serving(url: str) -> bool:
    """Whether a node says of itself that it is well."""
    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def check_alive(client: NodeClient) -> None:
    """A node that is well takes a message and gives it back."""
    group_id = new_group()
    data = private_message(group_id, b"are you there?")
    client.send(data)
    assert [message.data for message in client.messages(group_id)] == [data]


@contextlib.contextmanager
def at_once(*jobs: Callable[[], object]) -> Iterator[list[Future[object]]]:
    """Runs functions on threads of their own; what they raise is raised at the end, when all have returned."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
        yield futures
    for future in futures:
        future.result()


def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not happen"
        time.sleep(0.002)


# --- HTTP/2 by hand ---------------------------------------------------------------------------------------------------

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _GOAWAY = 0, 1, 4, 6, 7
_ACK = END_STREAM = 1
_END_HEADERS = 4


def http2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def http2_headers(stream: int, path: str) -> bytes:
    """The frame that begins a call."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Literals that are not indexed, with lengths of one byte.
    block = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in header) for header in headers.items()
    )
    return http2_frame(_HEADERS, _END_HEADERS, stream, block)


def http2_connection(url: str) -> socket.socket:
    """A connection on which HTTP/2 has begun."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
    connection.sendall(HTTP2_PREFACE + http2_frame(_SETTINGS, 0, 0))
    return connection


class IdleConnection:
    """A client that does nothing but ping every ten seconds, on a thread of its own."""

    INTERVAL_S: Final = 10.0
    #: Servers of the usual settings end a connection with the fourth.
    PINGS: Final = 4

    def __init__(self, url: str, *, stream: bool) -> None:
        self.url = url
        self.group_id = new_group() if stream else None
        self.answered = 0
        self.received = b""
        self.failure = ""
        self._closed = False
        self._connection = http2_connection(url)
        if self.group_id is not None:
            filters = [mls_api.SubscribeGroupMessagesRequest.Filter(group_id=self.group_id)]
            request = mls_api.SubscribeGroupMessagesRequest(filters=filters).SerializeToString()
            data = struct.pack(">BI", 0, len(request)) + request
            opening = http2_headers(1, "/xmtp.mls.api.v1.MlsApi/SubscribeGroupMessages")
            self._connection.sendall(opening + http2_frame(_DATA, END_STREAM, 1, data))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Waits until it has pinged often enough; it has to be connected still, and its stream to be open."""
        end = time.monotonic() + self.INTERVAL_S * (self.PINGS + 1)
        while self.answered < self.PINGS and not self.failure:
            assert time.monotonic() < end, "pings are not answered"
            time.sleep(0.01)
        assert self.failure == ""
        if self.group_id is not None:
            message = private_message(self.group_id, b"after a long silence")
            with NodeClient(self.url) as client:
                client.send(message)
            wait_until(lambda: message in self.received, "the message")

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        try:
            self._ping_and_read()
        except OSError as error:
            if not self._closed:
                self.failure = self.failure or repr(error)

    def _ping_and_read(self) -> None:
        next_ping = time.monotonic()
        data = b""
        while True:
            now = time.monotonic()
            if now >= next_ping:
                self._connection.sendall(http2_frame(_PING, 0, 0, b"are you?"))
                next_ping = now + self.INTERVAL_S
            self._connection.settimeout(max(next_ping - time.monotonic(), 0.001))
            try:
                more = self._connection.recv(65_536)
            except TimeoutError:
                continue
            if not more:
                raise ConnectionResetError
            self.received += more
            data = self._frames(data + more)

    def _frames(self, data: bytes) -> bytes:
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            kind, flags, payload = data[3], data[4], data[9 : 9 + size]
            data = data[9 + size :]
            if kind == _GOAWAY:
                self.failure = repr(payload)
            elif kind == _PING and flags & _ACK:
                self.answered += 1
            elif kind in {_SETTINGS, _PING} and not flags & _ACK:
                self._connection.sendall(http2_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        return data


# --- nodes ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_loop() -> Iterator[Callable[[Any], Any]]:
    """An event loop on a thread; what it gives runs a coroutine there and returns its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(DEADLINE_S)

    try:
        yield run
    finally:
        run(loop.shutdown_asyncgens())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.contextmanager
def serving(path: str | os.PathLike[str] | None = None, **options: Any) -> Iterator[NodeClient]:
    """A node with options of its own, and a client of it."""
    with running_loop() as run:
        node = LocalNode(path, **({"port": 0} | options))
        run(node.start())
        try:
            with NodeClient(node.url) as client:
                yield client
        finally:
            run(node.aclose())


_NODE: Final = """
import asyncio, resource, signal, sys
from support.memory import peak_bytes
from xmtp_history import LocalNode

async def main():
    async with LocalNode(sys.argv[1], port=int(sys.argv[2])) as node:
        print(node.url, flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            if line[0] == "limit":
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(line[1]) if line[1] != "none" else hard, hard))
            elif line[0] == "exit":
                sys.exit(0)
            print(peak_bytes(), flush=True)

asyncio.run(main())
"""


def quiet_port() -> int:
    """A free port that no connection takes by chance while nobody listens on it: systems give those higher numbers."""
    while True:
        port = random.randint(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class NodeProcess:
    """A node in a process of its own, which can be measured, limited and killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._readline()

    @classmethod
    @contextlib.contextmanager
    def start(cls, path: str | os.PathLike[str], port: int = 0) -> Iterator[Self]:
        """Starts a node; it is gone afterwards."""
        with child.start(_NODE, path, str(port)) as process:
            try:
                yield cls(process)
            finally:
                if process.poll() is None:
                    process.kill()

    def greatest_size(self) -> int:
        """The most memory that it ever had, in bytes."""
        return int(self._tell("size"))

    def limit_files(self, size: int | None) -> None:
        """Makes writing beyond a size of file fail, as on a full disk; None ends that."""
        self._tell(f"limit {'none' if size is None else size}")

    def kill(self) -> None:
        """Kills it without notice."""
        self._process.kill()
        assert self._process.wait(child.DEADLINE_SECONDS) == -signal.SIGKILL

    def stop(self) -> None:
        """Closes the node, and ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(child.DEADLINE_SECONDS) == 0, self._errors()

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._readline()

    def _readline(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, self._errors()
        return line

    def _errors(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read()
