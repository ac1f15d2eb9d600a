"""Heads that are too large, and requests that two readers could understand differently."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from support.history_server import CHUNKED, HEAD, chunk, connected, download, files, serving, upload
from xmtp_history import HistoryServer
from xmtp_history.server import _listener

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
#: What an attacker wants to be taken for another request.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not read on for long after it has refused something."""
    monkeypatch.setattr(_listener, "LINGER_SECONDS", 0.2)


async def _answers(server: HistoryServer, request: bytes) -> list[int]:
    """The statuses of all answers, until the server closes."""
    loop = asyncio.get_running_loop()
    async with connected(server) as connection:
        # Also what is answered before all of it is sent.
        sending = loop.create_task(connection.send(request))
        async with asyncio.timeout(20):
            received = await connection.rest()
            with contextlib.suppress(ConnectionError):
                await sending
    return [int(code) for code in re.findall(rb"(?:^|\n|\})HTTP/1\.[01] (\d\d\d) ", received)]


# --- how large a head may be -----------------------------------------------------------------------------------------

_MANY = b"".join(b"X-%d: x\r\n" % number for number in range(1_000))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b\r\n" % _MANY, 431),
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b\r\n" % _MANY[:-2], 431),
        (b"GET / HTTP/1.1\r\nHost: test\r\nX: %b\r\n\r\n" % bytes(2**20).replace(b"\0", b"x"), 431),
        (b"GET / HTTP/1.1\r\nHost: test\r\nX: %b\r\n\r\n" % bytes(20_000).replace(b"\0", b"x"), 431),
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b: x\r\n\r\n" % bytes(20_000).replace(b"\0", b"x"), 431),
        (b"GET / HTTP/1.1\r\nHost: test\r\n%b\r\n" % (b"X: %b\r\n" % (b"x" * 10_000) * 20), 431),
        (b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n" % bytes(2**16).replace(b"\0", b"x"), 414),
        (b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n" % bytes(20_000).replace(b"\0", b"x"), 414),
        (b"GET /files/%b" % bytes(2**20).replace(b"\0", b"x"), 414),
        (b"GET /?%b HTTP/1.1\r\nHost: test\r\n\r\n" % bytes(2**16).replace(b"\0", b"x"), 414),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else str(value),
)
def test_a_head_that_is_too_large_is_refused(tmp_path: Path, head: bytes, expected: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            assert await _answers(server, head) == [expected]
            # Also in pieces, and behind another request.
            assert await _answers(server, GET + head) == [200, expected]

    asyncio.run(main())


def test_a_head_of_usual_size_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            headers = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 1_000) for number in range(30))
            for target in (b"/", b"/?" + b"x" * 8_000):
                request = b"GET %b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n%b\r\n" % (target, headers)
                assert await _answers(server, request) == [200]

    asyncio.run(main())


# --- what is not clear -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\x0b\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: chunked;q=1\r\n",
        b'Transfer-Encoding: "chunked"\r\n',
        b"Transfer-Encoding:\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding\t: chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"X: x\r\n Transfer-Encoding: chunked\r\n",
        b"X: x\nTransfer-Encoding: chunked\r\n",
        b"X: x\rTransfer-Encoding: chunked\r\n",
        b"X: \0\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nContent-Length: 0\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: 3,\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: -3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length: 3.0\r\n",
        b"Content-Length: 3_0\r\n",
        b"Content-Length: 3 3\r\n",
        b"Content-Length:\r\n",
        "Content-Length: ٣\r\n".encode(),
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length : 3\r\n",
        b" Content-Length: 3\r\n",
        b"Content-Length\r\n",
    ],
)
def test_a_body_without_a_clear_end_is_refused(tmp_path: Path, framing: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            for body in (b"0\r\n\r\n", b"abc", b"3\r\nabc\r\n0\r\n\r\n"):
                assert await _answers(server, HEAD + framing + b"\r\n" + body + SMUGGLED) == [400], body
                assert await _answers(server, GET + HEAD + framing + b"\r\n" + body + SMUGGLED) == [200, 400], body

    asyncio.run(main())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "body",
    [
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"3_0\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nab\r\n0\r\n\r\n",
        b"3;x\nx\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"3;" + b"x" * 10_000 + b"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n" + b"X: x\r\n" * 10_000 + b"\r\n",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_chunks_that_break_the_rules_are_refused(tmp_path: Path, body: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            assert await _answers(server, CHUNKED + body + SMUGGLED) == [400]

    asyncio.run(main())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD.replace(b" HTTP/1.1", b" x HTTP/1.1") + b"Content-Length: 3\r\n\r\nabc",
        HEAD.replace(b"POST", b"PO ST") + b"Content-Length: 3\r\n\r\nabc",
        HEAD.replace(b"POST", b"P(ST") + b"Content-Length: 3\r\n\r\nabc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"hello\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _), connected(server) as connection:
            await connection.send(request_bytes)
            assert await connection.status() == 400
            await connection.rest()

    asyncio.run(main())
    assert files(tmp_path) == []


# --- what is -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"3\r\nabc\r\n0\r\n\r\n",
        b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        b"003\r\nabc\r\n000\r\n\r\n",
        b"3;name=value\r\nabc\r\n0;last\r\n\r\n",
        b"3\r\nabc\r\n0\r\nTrailer: value\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [1, 3, 1_000])
def test_chunks_may_be_cut_anywhere(tmp_path: Path, body: bytes, step: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client), connected(server) as connection:
            request = CHUNKED + body + GET
            for start in range(0, len(request), step):
                await connection.send(request[start : start + step])
                await asyncio.sleep(0)
            assert await connection.status() == 200
            assert await download(client, (await connection.read(36)).decode()) == b"abc"
            # What comes behind the body is the next request.
            assert await connection.status() == 200

    asyncio.run(main())


def test_requests_may_be_sent_ahead_and_are_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client), connected(server) as connection:
            stored = (await upload(client, b"stored")).encode()
            upload_one = HEAD + b"Content-Length: 3\r\n\r\none"
            upload_two = CHUNKED + chunk(b"two") + chunk(b"")
            fetch = b"GET /files/%b HTTP/1.1\r\nHost: test\r\n\r\n" % stored
            missing = b"GET /missing HTTP/1.1\r\nHost: test\r\n\r\n"
            await connection.send(b"".join([GET, upload_one, missing, upload_two, b"\r\n", fetch] * 20))
            for _ in range(20):
                assert await connection.status() == 200
                assert await connection.status() == 200
                one = (await connection.read(36)).decode()
                head = await connection.head()
                assert head.startswith(b"HTTP/1.1 404 ")
                await connection.read(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]))
                assert await connection.status() == 200
                two = (await connection.read(36)).decode()
                assert await connection.status() == 200
                assert await connection.read(6) == b"stored"
                assert await download(client, one) == b"one"
                assert await download(client, two) == b"two"

    asyncio.run(main())
    assert len(files(tmp_path)) == 41
