"""gRPC-Web: what a browser sends and reads, over plain HTTP/1.1."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest

from support.node_client import message_input, private_message
from xmtp_history import LocalNode
from xmtp_history._proto import identity_api_pb2 as identity
from xmtp_history._proto import mls_api_pb2 as mls

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP_ID = bytes(range(16))
BINARY, TEXT = "application/grpc-web+proto", "application/grpc-web-text"
OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE = 0, 3, 8, 12, 14
MLS = "/xmtp.mls.api.v1.MlsApi/"


class Node(NamedTuple):
    host: str
    port: int
    loop: asyncio.AbstractEventLoop
    node: LocalNode

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=20)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.node.aclose(), self.loop).result()


@pytest.fixture
def node() -> Iterator[Node]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    local = LocalNode(port=0, web_port=0)
    asyncio.run_coroutine_threadsafe(local.start(), loop).result()
    assert local.web_url is not None
    host, _, port = local.web_url.removeprefix("http://").partition(":")
    running = Node(host, int(port), loop, local)
    yield running
    running.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def message(text: bytes) -> bytes:
    """A request that sends a message."""
    sent = message_input(private_message(GROUP_ID, text))
    return mls.SendGroupMessagesRequest(messages=[sent]).SerializeToString()


def frame(body: bytes) -> bytes:
    return struct.pack(">BI", 0, len(body)) + body


def read_frame(answer: http.client.HTTPResponse) -> tuple[int, bytes]:
    flags, size = struct.unpack(">BI", answer.read(5))
    return flags, answer.read(size)


def read_all(body: bytes) -> tuple[list[bytes], int]:
    """The messages of an answer, and its status."""
    messages = []
    while body:
        flags, size = struct.unpack_from(">BI", body)
        content, body = body[5 : 5 + size], body[5 + size :]
        if flags == 0x80:
            assert body == b""
            trailers = dict(line.split(":", 1) for line in content.decode().split("\r\n") if line)
            return messages, int(trailers["grpc-status"])
        messages.append(content)
    raise AssertionError("no trailers")


def call(
    node: Node, path: str, body: bytes, content_type: str = BINARY, method: str = "POST"
) -> tuple[http.client.HTTPResponse, bytes]:
    with contextlib.closing(node.connect()) as connection:
        headers = {"Content-Type": content_type, "X-Grpc-Web": "1", "Origin": "https://app.example"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer, answer.read()


def test_a_call_and_its_answer(node: Node) -> None:
    answer, body = call(node, MLS + "SendGroupMessages", frame(message(b"hello")))
    assert (answer.status, answer.headers["Content-Type"]) == (200, BINARY)
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "grpc-status" in answer.headers["Access-Control-Expose-Headers"]
    assert read_all(body) == ([b""], OK)
    _, body = call(
        node, MLS + "QueryGroupMessages", frame(mls.QueryGroupMessagesRequest(group_id=GROUP_ID).SerializeToString())
    )
    (page,), status = read_all(body)
    assert status == OK
    assert [m.v1.id for m in mls.QueryGroupMessagesResponse.FromString(page).messages] == [1]


def test_the_identity_service_is_there(node: Node) -> None:
    request = identity.GetInboxIdsRequest(requests=[{"identifier": "0x" + "ab" * 20}])
    _, body = call(node, "/xmtp.identity.api.v1.IdentityApi/GetInboxIds", frame(request.SerializeToString()))
    (page,), status = read_all(body)
    (answer,) = identity.GetInboxIdsResponse.FromString(page).responses
    assert (status, answer.HasField("inbox_id")) == (OK, False)


def test_base64(node: Node) -> None:
    answer, body = call(node, MLS + "SendGroupMessages", base64.b64encode(frame(message(b"hi"))), TEXT)
    assert answer.headers["Content-Type"].startswith(TEXT)
    # Each frame is encoded by itself.
    parts = [base64.b64decode(part + b"==="[: -len(part) % 4]) for part in body.replace(b"=", b"= ").split()]
    assert read_all(b"".join(parts))[1] == OK


def test_a_stream_gives_what_is_there_and_what_comes(node: Node) -> None:
    call(node, MLS + "SendGroupMessages", frame(message(b"before")))
    with contextlib.closing(node.connect()) as connection:
        filters = [{"group_id": GROUP_ID, "id_cursor": 0}]
        request = mls.SubscribeGroupMessagesRequest(filters=filters).SerializeToString()
        connection.request("POST", MLS + "SubscribeGroupMessages", frame(request), {"Content-Type": BINARY})
        answer = connection.getresponse()
        flags, first = read_frame(answer)
        assert (flags, mls.GroupMessage.FromString(first).v1.id) == (0, 1)
        call(node, MLS + "SendGroupMessages", frame(message(b"after")))
        flags, second = read_frame(answer)
        assert (flags, mls.GroupMessage.FromString(second).v1.id) == (0, 2)
        node.close()
        flags, trailers = read_frame(answer)
        assert (flags, trailers.startswith(b"grpc-status:%d\r\n" % UNAVAILABLE)) == (0x80, True)


def test_headers_come_before_the_first_message(node: Node) -> None:
    with contextlib.closing(node.connect()) as connection:
        filters = [{"group_id": GROUP_ID}]
        request = mls.SubscribeGroupMessagesRequest(filters=filters).SerializeToString()
        connection.request("POST", MLS + "SubscribeGroupMessages", frame(request), {"Content-Type": BINARY})
        assert connection.getresponse().status == 200


def test_preflight(node: Node) -> None:
    with contextlib.closing(node.connect()) as connection:
        headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        connection.request("OPTIONS", MLS + "QueryGroupMessages", headers=headers)
        answer = connection.getresponse()
        answer.read()
    assert answer.status == 200
    assert answer.headers["Access-Control-Max-Age"] == "1728000"
    allowed = answer.headers["Access-Control-Allow-Headers"].split(",")
    assert {"content-type", "x-grpc-web", "x-libxmtp-version", "x-app-version", "grpc-timeout"} <= set(allowed)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (MLS + "SendGroupMessages", frame(b""), INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", frame(b"\xff"), INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", b"", INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", b"\0\0", INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", frame(message(b"x"))[:-1], INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", frame(message(b"x")) * 2, INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", b"\1" + frame(message(b"x"))[1:], INVALID_ARGUMENT),
        (MLS + "SendGroupMessages", b"\0\xff\xff\xff\xff", INVALID_ARGUMENT),
        (MLS + "Subscribe", frame(b""), UNIMPLEMENTED),
        (MLS + "RegisterInstallation", frame(b""), UNIMPLEMENTED),
        ("/", frame(b""), UNIMPLEMENTED),
        ("/%00/..%2f", frame(b""), UNIMPLEMENTED),
    ],
)
def test_what_is_wrong_gets_its_status(node: Node, path: str, body: bytes, status: int) -> None:
    answer, content = call(node, path, body)
    assert (answer.status, read_all(content)) == (200, ([], status))
    assert read_all(call(node, MLS + "SendGroupMessages", frame(message(b"fine")))[1])[1] == OK


def test_a_request_that_is_too_large(node: Node) -> None:
    with contextlib.closing(node.connect()) as connection:
        connection.putrequest("POST", MLS + "SendGroupMessages")
        connection.putheader("Content-Type", BINARY)
        connection.putheader("Content-Length", str(51 << 20))
        connection.endheaders()
        # It need not take all of it: an answer may come before.
        with contextlib.suppress(ConnectionError):
            for _ in range(51):
                connection.send(bytes(1 << 20))
        assert read_all(connection.getresponse().read()) == ([], RESOURCE_EXHAUSTED)
    assert read_all(call(node, MLS + "SendGroupMessages", frame(message(b"fine")))[1])[1] == OK


@pytest.mark.parametrize(("method", "content_type"), [("GET", BINARY), ("POST", "application/json"), ("PUT", BINARY)])
def test_what_is_no_call_at_all(node: Node, method: str, content_type: str) -> None:
    answer, _ = call(node, MLS + "QueryGroupMessages", frame(b""), content_type, method)
    assert answer.status == 415


def test_without_a_web_port_there_is_no_web_url() -> None:
    async def check() -> None:
        async with LocalNode(port=0) as local:
            assert local.web_url is None

    asyncio.run(check())
