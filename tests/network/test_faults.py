"""Calls to nodes that are not there, not well, or not nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from network.faulty_node import FaultyNode, Script, fail, hang
from network.requests import sending, until
from network.tcp_proxy import TcpProxy
from support.node_client import (
    assoc,
    identity_api,
    mls_api,
    new_address,
    new_group,
    new_key,
    private_message,
    quiet_port,
    sized_message,
)
from xmtp_history import LocalNode, NetworkError
from xmtp_history.network import AnswerTooLarge, InvalidAnswer, NetworkEnded, NodeApi, NodeError

Code = grpc.StatusCode
MIB = 1 << 20
INBOX_ID = "ab" * 32


def failure_of(*script: Script, timeout: float = 120.0) -> tuple[NodeError, int]:
    """How sending fails if a node answers like that, and after how many tries."""

    async def main() -> tuple[NodeError, int]:
        async with FaultyNode() as node, NodeApi(node.url, timeout=timeout) as api:
            node.answer("SendGroupMessages", *script)
            with pytest.raises(NetworkError) as caught:
                await api.send_group_messages(b"request")
            assert isinstance(caught.value, NodeError)
            return caught.value, len(node.calls)

    return asyncio.run(main())


# --- tries ------------------------------------------------------------------------------------------------------------

PASSING = [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED]
DOUBTFUL = [Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED]


@pytest.mark.parametrize("code", [*PASSING, *DOUBTFUL])
def test_failures_that_pass(code: grpc.StatusCode) -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("VerifySmartContractWalletSignatures", fail(code), fail(code), b"answer")
            assert await api.verify_smart_contract_wallet_signatures(b"request") == b"answer"
            assert [call.request for call in node.calls] == [b"request"] * 3

    asyncio.run(main())


def test_failures_that_do_not_pass(delays: list[float]) -> None:
    error, tries = failure_of(fail(Code.UNAVAILABLE))
    assert tries == 8
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert (error.code, error.transient, error.uncertain, error.status) == ("UNAVAILABLE", True, True, None)


@pytest.mark.parametrize("code", DOUBTFUL)
def test_failures_that_seldom_pass(delays: list[float], code: grpc.StatusCode) -> None:
    error, tries = failure_of(fail(code))
    assert (tries, error.code, error.transient) == (3, code.name, True)
    assert delays == [0.1, 0.2]


def test_a_crowded_node_is_given_time(delays: list[float]) -> None:
    error, tries = failure_of(fail(Code.RESOURCE_EXHAUSTED), timeout=1000)
    assert (tries, error.code) == (8, "RESOURCE_EXHAUSTED")
    assert delays == [2, 4, 8, 16, 20, 20, 20]


@pytest.mark.parametrize(
    "code",
    [
        Code.INVALID_ARGUMENT,
        Code.NOT_FOUND,
        Code.ALREADY_EXISTS,
        Code.PERMISSION_DENIED,
        Code.UNAUTHENTICATED,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.UNIMPLEMENTED,
        Code.DATA_LOSS,
    ],
)
def test_refusals_are_final(code: grpc.StatusCode) -> None:
    error, tries = failure_of(fail(code))
    assert (tries, error.code, error.transient, error.uncertain) == (1, code.name, False, False)
    assert code.name in str(error)


def test_jitter(monkeypatch: pytest.MonkeyPatch, delays: list[float]) -> None:
    from xmtp_history.network import _calls

    monkeypatch.setattr(_calls, "_random", lambda: 0.25)
    failure_of(fail(Code.UNAVAILABLE))
    assert delays[:3] == [0.025, 0.05, 0.1]


def test_time_is_up(delays: list[float]) -> None:
    _, tries = failure_of(fail(Code.UNAVAILABLE), timeout=1.5)
    # The next wait would have been 1.6 s.
    assert (tries, len(delays)) == (5, 4)


def test_a_node_that_does_not_answer() -> None:
    start = time.monotonic()
    error, tries = failure_of(hang, timeout=0.6)
    assert time.monotonic() - start < 2
    assert (tries, error.code) == (2, "DEADLINE_EXCEEDED")


def test_a_try_that_is_not_answered_is_not_the_last() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url, timeout=0.6) as api:
            node.answer("SendGroupMessages", hang, b"")
            await api.send_group_messages(b"")
            assert len(node.calls) == 2

    asyncio.run(main())


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.FAILED_PRECONDITION, Code.UNKNOWN])
def test_the_end_of_the_network(code: grpc.StatusCode) -> None:
    error, tries = failure_of(fail(code, "error: publishing to XMTP V3 is no longer available. Go away"))
    assert isinstance(error, NetworkEnded)
    assert (tries, error.transient) == (1, False)
    assert "newer release" in str(error)
    assert "Go away" not in str(error)


def test_nothing_of_the_node_or_the_request_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    error, _ = failure_of(fail(Code.UNAVAILABLE, "secret of 0xdeadbeef"), fail(Code.INVALID_ARGUMENT, "no secret"))
    assert "secret" not in str(error) + repr(error)
    assert error.details == "no secret"
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("xmtp_history")]
    assert ours
    assert not any("secret" in message or "request" in message for message in ours)


# --- nodes that are not there -----------------------------------------------------------------------------------------


def test_nobody_there() -> None:
    async def main() -> None:
        async with NodeApi(f"http://127.0.0.1:{quiet_port()}") as api:
            with pytest.raises(NodeError, match="cannot be reached") as caught:
                await api.fetch_key_packages([new_key()])
            assert caught.value.code == "UNAVAILABLE"

    asyncio.run(main())


def test_a_name_that_nobody_has() -> None:
    async def main() -> None:
        async with NodeApi("https://node.invalid") as api:
            with pytest.raises(NodeError) as caught:
                await api.fetch_key_packages([new_key()])
            assert caught.value.code == "UNAVAILABLE"

    asyncio.run(main())


@pytest.mark.usefixtures("real_delays")
def test_a_node_that_starts_late() -> None:
    async def main() -> None:
        port = quiet_port()
        async with NodeApi(f"http://127.0.0.1:{port}") as api:
            call = asyncio.create_task(api.newest_group_messages([new_group()]))
            await asyncio.sleep(0.01)
            async with LocalNode(port=port):
                assert await call == [None]

    asyncio.run(main())


@pytest.mark.usefixtures("real_delays")
def test_a_node_that_restarts() -> None:
    async def main() -> None:
        port, group_id = quiet_port(), new_group()
        async with NodeApi(f"http://127.0.0.1:{port}") as api:
            for _ in range(3):
                async with LocalNode(port=port):
                    await api.send_group_messages(sending(private_message(group_id)))
                    assert await api.newest_group_messages([group_id]) == [1]

    asyncio.run(main())


def test_something_else_listens() -> None:
    async def main() -> None:
        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with NodeApi(f"http://127.0.0.1:{port}") as api:
                with pytest.raises(NodeError):
                    await api.newest_group_messages([new_group()])

    asyncio.run(main())


def test_a_connection_that_is_dead_without_a_word() -> None:
    async def main() -> None:
        async with FaultyNode() as node, TcpProxy(node.url) as proxy, NodeApi(proxy.url, keepalive_s=0.3) as api:
            node.answer("VerifySmartContractWalletSignatures", b"answer")
            await api.verify_smart_contract_wallet_signatures(b"")
            proxy.freeze()
            start = time.monotonic()
            assert await api.verify_smart_contract_wallet_signatures(b"") == b"answer"
            assert time.monotonic() - start < 5
            assert proxy.connections == 2

    asyncio.run(main())


@pytest.mark.usefixtures("real_delays")
def test_connections_that_break_during_calls() -> None:
    async def main() -> None:
        group_id = new_group()
        async with LocalNode(port=0) as node, TcpProxy(node.url) as proxy, NodeApi(proxy.url) as api:

            async def breaking() -> None:
                while True:
                    await asyncio.sleep(0.02)
                    proxy.cut()

            breaker = asyncio.create_task(breaking())
            for number in range(40):
                await api.send_group_messages(sending(private_message(group_id, b"%d" % number)))
                await asyncio.sleep(0.002)
            breaker.cancel()
            page = mls_api.QueryGroupMessagesResponse.FromString(await api.query_group_messages(group_id, 0))
            assert [message.v1.data for message in page.messages] == [
                private_message(group_id, b"%d" % number) for number in range(40)
            ]

    asyncio.run(main())


def test_a_slow_connection() -> None:
    async def main() -> None:
        group_id = new_group()
        async with LocalNode(port=0) as node, TcpProxy(node.url) as proxy, NodeApi(proxy.url, timeout=10) as api:
            await api.send_group_messages(sending(sized_message(group_id, 2_000_000)))
            proxy.bytes_a_second = 4e6
            assert len(await api.query_group_messages(group_id, 0)) > 2_000_000
        async with LocalNode(port=0) as node, TcpProxy(node.url) as proxy, NodeApi(proxy.url, timeout=1) as api:
            await api.send_group_messages(sending(sized_message(group_id, 2_000_000)))
            proxy.bytes_a_second = 4e5
            with pytest.raises(NodeError) as caught:
                await api.query_group_messages(group_id, 0)
            assert caught.value.code == "DEADLINE_EXCEEDED"

    asyncio.run(main())


# --- answers that make no sense ---------------------------------------------------------------------------------------


def inbox_ids(*entries: tuple[str, str | None, int]) -> bytes:
    response = identity_api.GetInboxIdsResponse.Response
    kinds: Any = assoc.IdentifierKind
    responses = [
        response(identifier=identifier, inbox_id=inbox_id, identifier_kind=kinds.Name(kind))
        for identifier, inbox_id, kind in entries
    ]
    return identity_api.GetInboxIdsResponse(responses=responses).SerializeToString()


def newest(*entries: tuple[bytes, int] | None) -> bytes:
    message = mls_api.GetNewestGroupMessageResponse()
    for entry in entries:
        response = message.responses.add()
        if entry is not None:
            response.group_message.v1.group_id, response.group_message.v1.id = entry
    return message.SerializeToString()


def check_invalid(method: str, ask: Callable[[NodeApi], Awaitable[object]], answer: bytes) -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer(method, answer)
            with pytest.raises(InvalidAnswer) as caught:
                await ask(api)
            assert len(node.calls) == 1
            assert not caught.value.transient

    asyncio.run(main())


A, B = new_address(), new_address()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff" * 100,
        inbox_ids((A, None, 1)),
        inbox_ids((A, None, 1), (B, None, 1), (B, None, 1)),
        inbox_ids((B, None, 1), (A, None, 1)),
        inbox_ids((A.upper(), None, 1), (B, None, 1)),
        inbox_ids((A, None, 2), (B, None, 1)),
        inbox_ids((A, "", 1), (B, None, 1)),
        inbox_ids((A, INBOX_ID.upper(), 1), (B, None, 1)),
        inbox_ids((A, INBOX_ID + "\n", 1), (B, None, 1)),
        inbox_ids(*[(A, None, 1)] * 5000),
    ],
)
def test_inbox_ids_that_make_no_sense(answer: bytes) -> None:
    check_invalid("GetInboxIds", lambda api: api.get_inbox_ids([A, B]), answer)


def test_inbox_ids_as_the_official_node_gives_them() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("GetInboxIds", inbox_ids((A, INBOX_ID, 0), (B, None, 0)))
            assert await api.get_inbox_ids([A, B]) == [INBOX_ID, None]

    asyncio.run(main())


G, H = new_group(), new_group()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x0a",
        newest(None),
        newest(None, None, None),
        newest((H, 1), (G, 1)),
        newest((G, 0), None),
        newest((G, 1 << 63), None),
        newest((G, 1), (b"", 1)),
        b"\x0a\0" * 100_000,
    ],
)
def test_newest_messages_that_make_no_sense(answer: bytes) -> None:
    check_invalid("GetNewestGroupMessage", lambda api: api.newest_group_messages([G, H]), answer)


def test_one_bad_part_of_an_answer_ends_all_others() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:

            async def bad(_request: bytes, _context: Any) -> bytes:
                await until(lambda: len(node.calls) == 4)
                return b""

            node.answer("GetNewestGroupMessage", hang, bad, hang)
            with pytest.raises(InvalidAnswer):
                await api.newest_group_messages([new_group() for _ in range(10_000)])
            # One more may have been on its way.
            await until(lambda: node.cancelled == len(node.calls) - 1)
            assert len(node.calls) <= 5

    asyncio.run(main())


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_an_answer_of_25_mib_and_one_that_is_larger() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("FetchKeyPackages", *map(bytes, (25 * MIB, 25 * MIB + 1, 65 * MIB)))
            assert len(await api.fetch_key_packages([new_key()])) == 25 * MIB
            for _ in range(2):
                with pytest.raises(AnswerTooLarge, match="25 MiB"):
                    await api.fetch_key_packages([new_key()])
            assert len(node.calls) == 3

    asyncio.run(main())


def test_pages_that_are_too_large_are_asked_for_in_parts() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            limits = []

            async def page(request: bytes, _context: Any) -> bytes:
                limits.append(mls_api.QueryGroupMessagesRequest.FromString(request).paging_info.limit)
                return bytes(limits[-1] * 3 * MIB)

            node.answer("QueryGroupMessages", page)
            assert len(await api.query_group_messages(new_group(), 7)) == 6 * 3 * MIB
            assert limits == [100, 50, 25, 12, 6]

            async def huge(_request: bytes, _context: Any) -> bytes:
                return bytes(26 * MIB)

            node.answer("QueryWelcomeMessages", huge)
            with pytest.raises(AnswerTooLarge):
                await api.query_welcome_messages(new_key(), 0, 4)
            assert len(node.calls_of("QueryWelcomeMessages")) == 3

    asyncio.run(main())


def test_requests_that_are_too_large() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            with pytest.raises(NodeError, match="25 MiB") as caught:
                await api.send_group_messages(bytes(25 * MIB + 1))
            assert not caught.value.transient
            assert not node.calls

    asyncio.run(main())
    error, tries = failure_of(fail(Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 4)"))
    assert (tries, error.transient, type(error)) == (1, False, NodeError)


def test_an_answer_that_inflates_is_not_inflated() -> None:
    async def main() -> None:
        async with FaultyNode(compression=grpc.Compression.Gzip) as node, NodeApi(node.url) as api:
            node.answer("FetchKeyPackages", bytes(20 * MIB))
            # gRPC either refuses it, or hands it over as it came, which nobody can parse.
            with contextlib.suppress(NodeError):
                assert len(await api.fetch_key_packages([new_key()])) < MIB

    asyncio.run(main())


# --- cancelling and closing -------------------------------------------------------------------------------------------


def test_cancelling_a_call() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SendGroupMessages", hang, b"")
            call = asyncio.create_task(api.send_group_messages(b""))
            await until(lambda: node.calls)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: node.cancelled == 1)
            await api.send_group_messages(b"")

    asyncio.run(main())


def test_cancelling_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmtp_history.network import _calls

    async def main() -> None:
        waiting = asyncio.Event()

        async def sleep(_seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(_calls, "_sleep", sleep)
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SendGroupMessages", fail(Code.UNAVAILABLE))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await api.send_group_messages(b"")
            assert waiting.is_set()
            assert len(node.calls) == 1

    asyncio.run(main())


def test_closing_ends_calls() -> None:
    async def main() -> None:
        async with FaultyNode() as node:
            api = NodeApi(node.url)
            node.answer("SendGroupMessages", hang)
            calls = [asyncio.create_task(api.send_group_messages(b"")) for _ in range(3)]
            await until(lambda: len(node.calls) == 3)
            await api.aclose()
            for call in calls:
                with pytest.raises(RuntimeError, match="closed"):
                    await call
            await api.aclose()
            with pytest.raises(RuntimeError, match="closed"):
                await api.send_group_messages(b"")
            with pytest.raises(RuntimeError, match="closed"):
                async with api:
                    pass

    asyncio.run(main())


def test_a_client_that_was_never_used() -> None:
    async def main() -> None:
        async with NodeApi("http://127.0.0.1:1"):
            pass

    asyncio.run(main())


def test_another_event_loop() -> None:
    api = NodeApi("http://127.0.0.1:1", timeout=0.01)

    async def ask() -> None:
        await api.send_group_messages(b"")

    with pytest.raises(NodeError):
        asyncio.run(ask())
    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(ask())
