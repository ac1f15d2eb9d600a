"""Whatever comes in: the answer is a refusal, nothing is stored, and the node goes on.

What is wrong with one kind of payload only is tested with that kind.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support.node_client import (
    HTTP2_PREFACE,
    INVALID,
    TOO_LARGE,
    NodeClient,
    NodeProcess,
    check_alive,
    fresh,
    http2_connection,
    http2_frame,
    http2_headers,
    new_group,
    new_key,
    private_message,
    public_message,
    refused,
    sized_message,
    vec,
    welcome_input,
    wide_vec,
)
from xmtp_history._proto import identity_api_pb2 as identity_api
from xmtp_history._proto import mls_api_pb2 as mls_api

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MLS, IDENTITY = "/xmtp.mls.api.v1.MlsApi/", "/xmtp.identity.api.v1.IdentityApi/"
PATHS = [
    f"/{service.full_name}/{method.name}"
    for descriptor in (mls_api.DESCRIPTOR, identity_api.DESCRIPTOR)
    for service in descriptor.services_by_name.values()
    for method in service.methods
    if not (method.server_streaming or method.client_streaming)
]
STREAMS = [MLS + "SubscribeGroupMessages", MLS + "SubscribeWelcomeMessages"]

# --- group messages ---------------------------------------------------------------------------------------------------


def _refuse(client: NodeClient, group_id: bytes, *payloads: bytes) -> None:
    for payload in payloads:
        with refused(INVALID):
            client.send(payload)
    assert client.messages(group_id) == []


@pytest.mark.parametrize("group_size", [1, 16, 70, 255])
def test_a_truncated_private_message_is_refused_wherever_it_ends(client: NodeClient, group_size: int) -> None:
    group_id = fresh(group_size) if group_size > 1 else b"\xee"
    whole = private_message(group_id, bytes(100))
    _refuse(client, group_id, *(whole[:size] for size in range(len(whole))))
    client.send(whole)
    assert len(client.messages(group_id)) == 1


@pytest.mark.parametrize("sender_type", [1, 2, 3, 4])
def test_a_public_message_is_refused_if_it_ends_before_its_content_type(client: NodeClient, sender_type: int) -> None:
    group_id = new_group()
    whole = public_message(group_id, sender_type=sender_type)
    _refuse(client, group_id, *(whole[:size] for size in range(len(whole))))
    client.send(whole)
    assert len(client.messages(group_id)) == 1


@pytest.mark.parametrize("more", [b"\0", b"\xff" * 50])
def test_a_private_message_does_not_go_on_after_its_end(client: NodeClient, more: bytes) -> None:
    group_id = new_group()
    _refuse(client, group_id, private_message(group_id) + more)


@pytest.mark.parametrize("build", [private_message, public_message])
@pytest.mark.parametrize("content_type", [0, 4, 5, 127, 255])
def test_an_unknown_content_type_is_refused(client: NodeClient, build: Callable[..., bytes], content_type: int) -> None:
    group_id = new_group()
    _refuse(client, group_id, build(group_id, content_type=content_type))


@pytest.mark.parametrize("sender_type", [0, 5, 255])
def test_an_unknown_kind_of_sender_is_refused(client: NodeClient, sender_type: int) -> None:
    group_id = new_group()
    _refuse(client, group_id, public_message(group_id, sender_type=sender_type))


@pytest.mark.parametrize("wire_format", [0, 3, 4, 5, 0x0100, 0xFFFF])
def test_a_wire_format_other_than_private_and_public_is_refused(client: NodeClient, wire_format: int) -> None:
    group_id = new_group()
    _refuse(client, group_id, private_message(group_id, wire_format=wire_format))


@pytest.mark.parametrize("version", [0, 2, 0x0100, 0xFFFF])
def test_another_version_of_mls_is_refused(client: NodeClient, version: int) -> None:
    group_id = new_group()
    _refuse(client, group_id, private_message(group_id, version=version))


@pytest.mark.parametrize("build", [private_message, public_message])
@pytest.mark.parametrize("size", [0, 256, 1000, 100_000])
def test_a_message_for_a_group_id_of_an_impossible_length_is_refused(
    client: NodeClient, build: Callable[..., bytes], size: int
) -> None:
    with refused(INVALID):
        client.send(build(bytes(size)))


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("place", range(4))
def test_a_length_longer_than_it_need_be_is_refused(client: NodeClient, place: int, width: int) -> None:
    group_id = new_group()
    vectors = [vec(part) for part in (group_id, b"", b"sender data", b"ciphertext")]
    assert _assembled(*vectors) == private_message(group_id, b"ciphertext")
    vectors[place] = wide_vec((group_id, b"", b"sender data", b"ciphertext")[place], width)
    _refuse(client, group_id, _assembled(*vectors))


def test_a_length_of_four_bytes_for_what_fits_into_two_is_refused(client: NodeClient) -> None:
    group_id = new_group()
    for size in (64, 1000, (1 << 14) - 1):
        body = bytes(size)
        _refuse(client, group_id, _assembled(vec(group_id), vec(b""), vec(b"sender data"), wide_vec(body, 4)))
    client.send(_assembled(vec(group_id), vec(b""), vec(b"sender data"), wide_vec(bytes(1 << 14), 4)))
    assert len(client.messages(group_id)) == 1


@pytest.mark.parametrize(
    "length",
    [
        b"\x80\0\0\0" + b"\x40",  # not the shortest form of nothing
        struct.pack(">I", 0x8000_0000 | (1 << 30) - 1),  # the most that can be said: 2^30 - 1
        b"\xc0\0\0\0",  # the prefix that means nothing; read as a length it would be 2^30
        b"\xc0\0\0\0\0\0\0\1",
        b"\xff",
        b"\x7f\xff",
        b"\x3f",
    ],
)
@pytest.mark.parametrize("place", range(4))
def test_a_length_that_promises_more_than_there_is_is_refused(client: NodeClient, place: int, length: bytes) -> None:
    group_id = new_group()
    vectors = [vec(part) for part in (group_id, b"", b"sender data", b"ciphertext")]
    vectors[place] = length + vectors[place][1:]
    _refuse(client, group_id, _assembled(*vectors), _assembled(*vectors[:place], length))


@pytest.mark.parametrize("size", [0, 10, 100, 20_000])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_length_with_the_prefix_that_means_nothing_is_refused(client: NodeClient, width: int, size: int) -> None:
    """Elsewhere it begins a length of eight bytes."""
    group_id = new_group()
    length = bytearray(size.to_bytes(8, "big")[-width:])
    length[0] |= 0xC0
    _refuse(client, group_id, _assembled(vec(group_id), vec(b""), vec(b"sender data"), bytes(length) + bytes(size)))


def _assembled(group_id: bytes, *vectors: bytes) -> bytes:
    head = b"\0\1\0\2" + group_id + struct.pack(">QB", 1, 1)
    return head + b"".join(vectors)


def test_a_message_of_one_byte_is_refused(client: NodeClient) -> None:
    for byte in range(256):
        with refused(INVALID):
            client.send(bytes([byte]))


def test_an_hmac_of_absurd_size_is_refused(client: NodeClient) -> None:
    group_id = new_group()
    message = mls_api.GroupMessageInput.V1(data=private_message(group_id), sender_hmac=bytes(100_000))
    with refused(INVALID, TOO_LARGE):
        client.send(mls_api.GroupMessageInput(v1=message))
    assert client.messages(group_id) == []


# --- requests that are no requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x08" * 7, os.urandom(1000) + b"\xff" * 20]
)
@pytest.mark.parametrize("path", PATHS)
def test_bytes_that_are_not_protobuf_are_refused(client: NodeClient, path: str, data: bytes) -> None:
    with refused(INVALID):
        client.raw(path, data)


@pytest.mark.parametrize("path", STREAMS)
def test_bytes_that_are_not_protobuf_open_no_stream(client: NodeClient, path: str) -> None:
    call: Any = client.channel.unary_stream(path)(b"\xff\xff", timeout=30)
    with refused(INVALID):
        next(call)


@pytest.mark.parametrize("path", PATHS)
def test_empty_requests_are_answered_or_refused(client: NodeClient, path: str) -> None:
    # Lists of which something is stored or looked for must not be empty; an empty list of answers is one.
    fine = {"FetchKeyPackages", "GetIdentityUpdates", "GetInboxIds", "VerifySmartContractWalletSignatures"}
    if path.rpartition("/")[2] in fine:
        assert client.raw(path, b"") == b""
    else:
        with refused(INVALID):
            client.raw(path, b"")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        (MLS + "FetchKeyPackages", 1),
        (MLS + "SendGroupMessages", 1),
        (MLS + "GetNewestGroupMessage", 1),
        (MLS + "SendWelcomeMessages", 1),
        (MLS + "BatchPublishCommitLog", 1),
        (MLS + "BatchQueryCommitLog", 1),
        (IDENTITY + "GetIdentityUpdates", 1),
        (IDENTITY + "GetInboxIds", 1),
        (IDENTITY + "VerifySmartContractWalletSignatures", 1),
    ],
)
def test_lists_of_ten_thousand_entries_are_refused(client: NodeClient, path: str, field: int) -> None:
    empty_entry = bytes([field << 3 | 2, 0])
    with refused(INVALID):
        client.raw(path, empty_entry * 10_000)


def test_unknown_fields_of_a_request_are_let_pass(client: NodeClient) -> None:
    group_id = new_group()
    message = mls_api.GroupMessageInput(v1=mls_api.GroupMessageInput.V1(data=private_message(group_id)))
    request = mls_api.SendGroupMessagesRequest(messages=[message]).SerializeToString()
    client.raw(MLS + "SendGroupMessages", request + b"\xc2\x3e\x06future")
    assert len(client.messages(group_id)) == 1


def test_invalid_utf8_in_a_text_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.raw(IDENTITY + "GetInboxIds", b"\x0a\x04\x0a\x02\xff\xfe")


@pytest.mark.parametrize(
    "path",
    [
        *(MLS + name for name in ("RegisterInstallation", "RevokeInstallation", "GetIdentityUpdates", "Nothing", "")),
        "/xmtp.message_api.v1.MessageApi/Query",
        "/xmtp.migration.api.v1.D14NMigrationApi/FetchD14NCutover",
        "/xmtp.mls.api.v2.MlsApi/SendGroupMessages",
        "/nothing/Nothing",
    ],
)
def test_calls_that_are_not_there_are_unimplemented(client: NodeClient, path: str) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        client.raw(path, b"")


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_request_above_50_mib_is_refused(client: NodeClient) -> None:
    group_id = new_group()
    # Each message is fine, and so are 49 MiB of them.
    messages = [sized_message(group_id, 1 << 20, number) for number in range(50)]
    client.send(*messages[:49])
    with refused(TOO_LARGE):
        client.send(*messages)
    assert len(client.messages(group_id)) == 49


@pytest.mark.parametrize(
    ("path", "compression"),
    [
        (MLS + "SendGroupMessages", grpc.Compression.NoCompression),
        (MLS + "QueryGroupMessages", grpc.Compression.Gzip),
        (IDENTITY + "GetInboxIds", grpc.Compression.NoCompression),
    ],
)
def test_a_request_of_a_hundred_megabytes_is_refused(client: NodeClient, path: str, compression: Any) -> None:
    with refused(TOO_LARGE):
        client.raw(path, bytes(100_000_000), compression=compression)


def test_a_compressed_request_is_understood(client: NodeClient) -> None:
    group_id = new_group()
    message = mls_api.GroupMessageInput(v1=mls_api.GroupMessageInput.V1(data=private_message(group_id, bytes(50_000))))
    request = mls_api.SendGroupMessagesRequest(messages=[message])
    client.call("SendGroupMessages", request, compression=grpc.Compression.Gzip)
    assert len(client.messages(group_id)) == 1


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """Requests that would be larger than they are: compressed, of many entries that are nothing, or so they say."""
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        with refused(INVALID):
            # As large as a request may be.
            client.raw(MLS + "SendGroupMessages", bytes(49 << 20))
        before = process.greatest_size()
        with refused(TOO_LARGE):
            client.raw(MLS + "SendGroupMessages", bytes(150_000_000), compression=grpc.Compression.Gzip)
        for path in (MLS + "SendGroupMessages", MLS + "FetchKeyPackages", IDENTITY + "GetInboxIds"):
            with refused(INVALID):
                client.raw(path, b"\x0a\0" * (10 << 20))
        for size in (1 << 30, (1 << 32) - 1):
            _send_by_hand(process.url, struct.pack(">BI", 0, size) + bytes(1000))
        check_alive(client)
        assert process.greatest_size() - before < 100 << 20
        process.stop()


def _send_by_hand(url: str, data: bytes) -> None:
    """Sends what is to be a request in HTTP/2, and goes when the node has read it."""
    with http2_connection(url) as connection:
        request = http2_headers(1, MLS + "SendGroupMessages") + http2_frame(0, 0, 1, data)
        connection.sendall(request + http2_frame(6, 0, 0, b"12345678"))
        received = b""
        while b"12345678" not in received:
            more = connection.recv(65_536)
            assert more, "the connection goes on"
            received += more


# --- what is no gRPC at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HTTP2_PREFACE,
        HTTP2_PREFACE + b"\xff" * 1000,
        HTTP2_PREFACE + http2_frame(4, 0, 0) + http2_frame(1, 4, 1, b"\xff" * 100),
        bytes(100_000),
    ],
)
def test_connections_that_speak_something_else(client: NodeClient, node_url: str, data: bytes) -> None:
    host, _, port = node_url.removeprefix("http://").rpartition(":")
    connections = []
    for _ in range(20):
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(data)
        connections.append(connection)
    check_alive(client)
    for number, connection in enumerate(connections):
        if number % 2:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def test_a_client_that_goes_while_its_calls_are_under_way(client: NodeClient, node_url: str) -> None:
    group_id = new_group()
    key = new_key()
    for number in range(20):
        leaving = NodeClient(node_url)
        for place in range(20):
            message = mls_api.GroupMessageInput(
                v1=mls_api.GroupMessageInput.V1(data=private_message(group_id, b"%d %d" % (number, place)))
            )
            leaving.future("SendGroupMessages", mls_api.SendGroupMessagesRequest(messages=[message]))
            leaving.future(
                "SendWelcomeMessages",
                mls_api.SendWelcomeMessagesRequest(messages=[welcome_input(key, b"%d %d" % (number, place))]),
            )
        leaving.close()
    # What they sent is there or not, but never half, and never twice.
    stored = [message.data for message in client.messages(group_id)]
    assert len(stored) == len(set(stored))
    check_alive(client)
