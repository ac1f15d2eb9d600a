"""Streams: every message once and in order, whatever happens to connections and nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from network.faulty_node import FaultyNode, fail_stream, hang, streaming
from network.requests import sending, until, welcoming
from network.tcp_proxy import TcpProxy
from support.node_client import (
    NodeProcess,
    mls_api,
    new_group,
    new_key,
    pointer_input,
    private_message,
    quiet_port,
    welcome_input,
)
from xmtp_history import LocalNode
from xmtp_history.network import (
    GroupStream,
    NetworkEnded,
    NodeApi,
    NodeError,
    StreamedMessage,
    WelcomeStream,
    _subscription,
)

Code = grpc.StatusCode
UNAVAILABLE = fail_stream(Code.UNAVAILABLE)


def message(group_id: bytes, message_id: int, size: int = 0) -> bytes:
    """A message as nodes send it."""
    inner = mls_api.GroupMessage.V1(id=message_id, group_id=group_id, data=bytes(size))
    return mls_api.GroupMessage(v1=inner).SerializeToString()


def cursors_of(request: bytes) -> dict[bytes, int]:
    """What a subscription asks for."""
    filters = mls_api.SubscribeGroupMessagesRequest.FromString(request).filters
    return {entry.group_id: entry.id_cursor for entry in filters}


async def take(stream: GroupStream | WelcomeStream, count: int) -> list[StreamedMessage]:
    """The next messages."""
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)]


async def take_ids(stream: GroupStream | WelcomeStream, count: int) -> list[int]:
    """The ids of the next messages."""
    return [entry.id for entry in await take(stream, count)]


async def send(api: NodeApi, group_id: bytes, *bodies: bytes) -> None:
    """Sends messages to a group."""
    await api.send_group_messages(sending(*(private_message(group_id, body) for body in bodies)))


async def insist(api: NodeApi, request: bytes) -> None:
    """Sends messages, however long the node takes to start."""
    while True:
        try:
            return await api.send_group_messages(request)
        except NodeError as error:
            assert error.transient


# --- with nodes that are well -----------------------------------------------------------------------------------------


def test_what_was_stored_and_what_comes() -> None:
    async def main() -> None:
        group_id = new_group()
        async with LocalNode(port=0) as node, NodeApi(node.url) as api:
            await send(api, group_id, b"0", b"1", b"2")
            async with api.group_stream({group_id: 1}) as stream:
                assert await take_ids(stream, 2) == [2, 3]
                await send(api, group_id, b"3")
                (last,) = await take(stream, 1)
                assert last.topic == group_id
                parsed = mls_api.GroupMessage.FromString(last.data).v1
                assert (parsed.id, parsed.data) == (last.id, private_message(group_id, b"3"))
                assert stream.cursors == {group_id: 4}
                assert stream.state.connected
                assert (stream.state.cause, stream.state.losses) == (None, 0)

    asyncio.run(main())


def test_welcomes() -> None:
    async def main() -> None:
        key = new_key()
        async with LocalNode(port=0) as node, NodeApi(node.url) as api:
            async with api.welcome_stream(key) as stream:
                await stream.wait_connected()
                await api.send_welcome_messages(
                    welcoming(
                        welcome_input(key, b"one"), pointer_input(key, b"two"), welcome_input(new_key(), b"not ours")
                    )
                )
                first, second = await take(stream, 2)
                assert (first.topic, first.id, second.id) == (key, 1, 2)
                assert mls_api.WelcomeMessage.FromString(first.data).v1.data == b"one"
                assert mls_api.WelcomeMessage.FromString(second.data).welcome_pointer.welcome_pointer == b"two"
            async with api.welcome_stream(key, 1) as again:
                assert await take_ids(again, 1) == [2]

    asyncio.run(main())


def test_a_stream_without_groups_waits_for_some() -> None:
    async def main() -> None:
        first, second = new_group(), new_group()
        async with (
            LocalNode(port=0) as real,
            FaultyNode(real.url) as node,
            NodeApi(node.url) as api,
            api.group_stream() as stream,
        ):
            await stream.wait_connected()
            assert not node.calls
            reader = asyncio.create_task(take(stream, 1))
            stream.add(first)
            await stream.wait_connected()
            await send(api, first, b"")
            await reader
            stream.remove(first)
            stream.remove(first)
            await until(lambda: node.cancelled)
            stream.add(second)
            await send(api, second, b"")
            assert [entry.topic for entry in await take(stream, 1)] == [second]
            assert stream.cursors == {second: 2}

    asyncio.run(main())


def test_groups_that_are_added_are_told_together() -> None:
    async def main() -> None:
        groups = [new_group() for _ in range(1000)]
        async with LocalNode(port=0) as real, FaultyNode(real.url) as node, NodeApi(node.url) as api:
            await api.send_group_messages(sending(*map(private_message, groups)))
            async with api.group_stream(dict.fromkeys(groups[:10], 0)) as stream:
                got = {entry.topic for entry in await take(stream, 10)}
                for group_id in groups[10:]:
                    stream.add(group_id)
                got |= {entry.topic for entry in await take(stream, 990)}
                assert got == set(groups)
                await stream.wait_connected()
                assert len(node.calls_of("SubscribeGroupMessages")) == 2

    asyncio.run(main())


def test_a_group_that_is_there_stays_as_it_is() -> None:
    async def main() -> None:
        group_id = new_group()
        async with LocalNode(port=0) as real, FaultyNode(real.url) as node, NodeApi(node.url) as api:
            await send(api, group_id, b"0", b"1")
            async with api.group_stream([(group_id, 0)]) as stream:
                await take(stream, 2)
                stream.add(group_id, 0)
                await send(api, group_id, b"2")
                assert await take_ids(stream, 1) == [3]
                assert len(node.calls_of("SubscribeGroupMessages")) == 1

    asyncio.run(main())


def test_a_group_that_is_added_again_begins_where_it_is_told_to() -> None:
    async def main() -> None:
        group_id = new_group()
        async with LocalNode(port=0) as node, NodeApi(node.url) as api:
            await send(api, group_id, b"0", b"1", b"2", b"3")
            async with api.group_stream({group_id: 0}) as stream:
                assert await take_ids(stream, 2) == [1, 2]
                # The third message is on its way already.
                stream.remove(group_id)
                stream.add(group_id, 1)
                assert await take_ids(stream, 3) == [2, 3, 4]
                stream.remove(group_id)
                stream.add(group_id, 3)
                assert await take_ids(stream, 1) == [4]

    asyncio.run(main())


def test_changing_groups_repeats_nothing() -> None:
    """What was brought before the change, and not read, is brought again by the new subscription."""

    async def main() -> None:
        first, second = new_group(), new_group()
        async with LocalNode(port=0) as real, FaultyNode(real.url) as node, NodeApi(node.url) as api:
            await send(api, first, b"0", b"1", b"2")
            stream = api.group_stream({first: 0})
            await stream.wait_connected()
            await until(lambda: stream._slot._item is not None)
            stream.add(second)
            await stream.wait_connected()
            await send(api, second, b"")
            assert sorted(await take_ids(stream, 4)) == [1, 2, 3, 4]
            await send(api, first, b"3")
            assert await take_ids(stream, 1) == [5]

    asyncio.run(main())


def test_changing_groups_stops_nothing() -> None:
    """What is subscribed to goes on while a new subscription does not come about."""

    async def main() -> None:
        first, second = new_group(), new_group()
        async with (
            LocalNode(port=0) as real,
            FaultyNode(real.url) as node,
            NodeApi(node.url) as api,
            api.group_stream({first: 0}) as stream,
        ):
            await stream.wait_connected()
            node.answer("SubscribeGroupMessages", UNAVAILABLE)
            stream.add(second)
            await send(api, second, b"")
            for number in range(5):
                tried = len(node.calls_of("SubscribeGroupMessages"))
                await until(lambda tried=tried: len(node.calls_of("SubscribeGroupMessages")) > tried)
                await send(api, first, b"%d" % number)
                assert (await take(stream, 1))[0].topic == first
                assert stream.state.connected
            node.answer("SubscribeGroupMessages")
            assert (await take(stream, 1))[0].topic == second
            assert stream.state.losses == 0

    asyncio.run(main())


# --- nodes that stop and start ----------------------------------------------------------------------------------------


def test_a_node_that_is_not_there_yet() -> None:
    async def main() -> None:
        port, group_id, key = quiet_port(), new_group(), new_key()
        async with (
            NodeApi(f"http://127.0.0.1:{port}") as api,
            api.group_stream({group_id: 0}) as stream,
            api.welcome_stream(key) as welcomes,
        ):
            await until(lambda: stream.state.cause and welcomes.state.cause)
            assert not stream.state.connected
            assert "cannot be reached" in str(stream.state.cause)
            async with LocalNode(port=port):
                await stream.wait_connected()
                await api.send_welcome_messages(welcoming(welcome_input(key, b"welcome")))
                await send(api, group_id, b"")
                assert await take_ids(welcomes, 1) == [1]
                assert await take_ids(stream, 1) == [2]
                assert stream.state.losses == 0

    asyncio.run(main())


@pytest.mark.usefixtures("real_delays")
def test_a_node_that_is_killed(tmp_path: Path) -> None:
    async def main() -> None:
        port, groups = quiet_port(), [new_group() for _ in range(3)]
        sent: list[bytes] = []

        async def publish(api: NodeApi, name: str) -> None:
            for number in range(5):
                for group_id in groups:
                    sent.append(private_message(group_id, f"{name} {number}".encode()))
                    await insist(api, sending(sent[-1]))

        async with NodeApi(f"http://127.0.0.1:{port}") as api, api.group_stream(dict.fromkeys(groups, 0)) as stream:
            with NodeProcess.start(tmp_path, port) as node:
                await publish(api, "before")
                got = await take(stream, 7)
                await publish(api, "not read yet")
                node.kill()
                await until(lambda: not stream.state.connected)
            # What is published meanwhile is tried again until the node is there.
            publishing = asyncio.create_task(publish(api, "meanwhile"))
            with contextlib.ExitStack() as stack:
                again = NodeProcess.start(tmp_path, port)
                await asyncio.to_thread(stack.enter_context, again)
                got += await take(stream, 10)
                await publishing
                await publish(api, "afterwards")
                got += await take(stream, len(sent) - len(got))
                assert stream.state.losses == 1
        assert sorted(entry.id for entry in got) == [entry.id for entry in got] == list(range(1, len(sent) + 1))
        assert [mls_api.GroupMessage.FromString(entry.data).v1.data for entry in got] == sent

    asyncio.run(main())


@pytest.mark.usefixtures("real_delays")
def test_a_node_that_restarts_often(tmp_path: Path) -> None:
    async def main() -> None:
        port, group_id = quiet_port(), new_group()
        async with NodeApi(f"http://127.0.0.1:{port}") as api, api.group_stream({group_id: 0}) as stream:
            for number in range(4):
                async with LocalNode(tmp_path, port=port):
                    await send(api, group_id, b"%d" % number)
                    assert await take_ids(stream, 1) == [number + 1]
                await until(lambda number=number: stream.state.losses == number + 1)

    asyncio.run(main())


# --- connections that break -------------------------------------------------------------------------------------------


def test_a_connection_that_is_dead_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        group_id = new_group()
        async with (
            LocalNode(port=0) as node,
            TcpProxy(node.url) as proxy,
            NodeApi(node.url) as other,
            NodeApi(proxy.url, keepalive_s=0.3) as api,
            api.group_stream({group_id: 0}) as stream,
        ):
            await send(other, group_id, b"0")
            assert await take_ids(stream, 1) == [1]
            proxy.freeze()
            await send(other, group_id, b"1", b"2")
            assert await take_ids(stream, 2) == [2, 3]
            assert stream.state.losses == 1
            assert proxy.connections == 2

    asyncio.run(main())
    told = [record.getMessage() for record in caplog.records if record.name == "xmtp_history.network"]
    assert [text.rpartition("; ")[2].split(" in ")[0] for text in told if "node" in text][-2:] == [
        "connecting again",
        told[-1],
    ]
    assert told[-1].endswith("SubscribeGroupMessages: connected")


def test_an_idle_stream_is_left_alone() -> None:
    async def main() -> None:
        group_id = new_group()
        async with FaultyNode() as node, NodeApi(node.url, keepalive_s=0.05) as api:
            node.answer("SubscribeGroupMessages", streaming(message(group_id, 1), then=hang))
            async with api.group_stream({group_id: 0}) as stream:
                await take(stream, 1)
                # Twenty pings.
                await asyncio.sleep(1)
                assert stream.state.losses == 0

    asyncio.run(main())


# --- nodes that are not well ------------------------------------------------------------------------------------------


def test_every_end_leads_to_another_connection(stream_delays: list[float]) -> None:
    async def main() -> None:
        group_id = new_group()
        ends = [
            streaming(message(group_id, 3)),
            UNAVAILABLE,
            fail_stream(Code.INVALID_ARGUMENT),
            fail_stream(Code.UNIMPLEMENTED),
            fail_stream(Code.PERMISSION_DENIED),
            fail_stream(Code.UNKNOWN),
            streaming(),
            streaming(b"\xff"),
            streaming(message(group_id, 0)),
            streaming(message(group_id, 1 << 63)),
            streaming(b""),
            streaming(message(group_id, 4, 65 << 20)),
            streaming(message(group_id, 4), message(group_id, 5)),
            streaming(message(group_id, 6), then=hang),
        ]
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", *ends)
            async with api.group_stream({group_id: 2}) as stream:
                assert await take_ids(stream, 4) == [3, 4, 5, 6]
                await stream.wait_connected()
                cursors = [cursors_of(call.request)[group_id] for call in node.calls]
                assert cursors == [2] + [3] * 12 + [5]
                assert stream.state.connected
                assert (
                    stream.state.cause == f"{'node ' + node.url[7:]}, SubscribeGroupMessages: the node ended the stream"
                )

    asyncio.run(main())
    waits = [wait for wait in stream_delays if wait]
    # What brings something new begins anew.
    assert waits[:4] == [0.25, 0.5, 1, 2]
    assert max(waits) == 30
    assert waits[-1] == 0.25


def test_a_message_that_other_clients_cannot_read_stops_nothing() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            messages = message(G, 1), message(G, 2, 50 << 20), message(G, 3)
            node.answer("SubscribeGroupMessages", streaming(*messages, then=hang))
            async with api.group_stream({G: 0}) as stream:
                assert await take_ids(stream, 3) == [1, 2, 3]
                assert stream.state.losses == 0

    asyncio.run(main())


def test_what_nobody_asked_for_is_dropped() -> None:
    async def main() -> None:
        group_id = new_group()
        messages = [message(group_id, number) for number in (2, 3, 3, 1, 5, 4, 5, 7)]
        messages.insert(3, message(new_group(), 1))
        messages.insert(3, message(b"", 1))
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", streaming(*messages, then=hang))
            async with api.group_stream({group_id: 2}) as stream:
                assert await take_ids(stream, 3) == [3, 5, 7]

    asyncio.run(main())


def test_a_node_that_does_not_say_that_it_has_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_subscription, "_OPENING_S", 0.2)

    async def main() -> None:
        group_id = new_group()

        async def silent(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", silent, silent, streaming(message(group_id, 1), then=hang))
            async with api.group_stream({group_id: 0}) as stream:
                assert await take_ids(stream, 1) == [1]
                assert "in time" in str(stream.state.cause)
                await until(lambda: node.cancelled == 2)

    asyncio.run(main())


def test_a_node_that_begins_without_a_word() -> None:
    async def main() -> None:
        async def silent(_request: bytes, context: Any) -> AsyncIterator[bytes]:
            await context.send_initial_metadata(())
            await asyncio.Event().wait()
            yield b""

        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", silent)
            async with api.group_stream({G: 0}) as stream, asyncio.timeout(5):
                await stream.wait_connected()
                assert stream.state.losses == 0

    asyncio.run(main())


def test_the_end_of_the_network() -> None:
    async def main() -> None:
        end = fail_stream(Code.FAILED_PRECONDITION, "XMTP V3 streaming is no longer available")
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", streaming(message(G, 1)), end)
            async with api.group_stream({G: 0}) as stream:
                assert await take_ids(stream, 1) == [1]
                for _ in range(2):
                    with pytest.raises(NetworkEnded):
                        await anext(stream)
                with pytest.raises(NetworkEnded):
                    await stream.wait_connected()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            # Nobody has to look.
            async with api.group_stream({G: 0}):
                await until(lambda: len(node.calls) == 3)

    asyncio.run(main())


G = new_group()


# --- readers ----------------------------------------------------------------------------------------------------------


def test_a_slow_reader_slows_the_node_down() -> None:
    async def main() -> None:
        group_id = new_group()
        produced = 0

        async def endless(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            nonlocal produced
            while True:
                produced += 1
                yield message(group_id, produced, 100_000)

        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("SubscribeGroupMessages", endless)
            async with api.group_stream({group_id: 0}) as stream:
                assert await take_ids(stream, 3) == [1, 2, 3]
                before = -1
                while produced > before:
                    before = produced
                    await asyncio.sleep(0.2)
                # What HTTP/2 lets the node send ahead, and the buffers of the system.
                assert produced < 200
                assert await take_ids(stream, 300) == list(range(4, 304))

    asyncio.run(main())


def test_readers_that_give_up_lose_nothing() -> None:
    async def main() -> None:
        group_id, count = new_group(), 200
        async with LocalNode(port=0) as node, NodeApi(node.url) as api, api.group_stream({group_id: 0}) as stream:

            async def produce() -> None:
                for number in range(count):
                    await send(api, group_id, b"%d" % number)

            producer = asyncio.create_task(produce())
            got: list[int] = []
            patience = 0
            while len(got) < count:
                patience = (patience + 1) % 7
                reader = asyncio.create_task(anext(stream))
                for _ in range(patience * 3):
                    await asyncio.sleep(0)
                reader.cancel()
                try:
                    got.append((await reader).id)
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
            assert got == list(range(1, count + 1))
            await producer

    asyncio.run(main())


def test_closing_ends_reading() -> None:
    async def main() -> None:
        async with LocalNode(port=0) as node, NodeApi(node.url) as api:
            stream = api.group_stream({G: 0})
            await stream.wait_connected()
            readers = [asyncio.create_task(anext(stream, None)), asyncio.create_task(stream.wait_connected())]
            await asyncio.sleep(0)
            await stream.aclose()
            assert await readers[0] is None
            await stream.aclose()
            assert [entry async for entry in stream] == []
            with pytest.raises(RuntimeError, match="closed"):
                async with stream:
                    pass
            with pytest.raises(RuntimeError, match="closed"):
                await stream.wait_connected()

    asyncio.run(main())


def test_closing_the_client_closes_its_streams() -> None:
    async def main() -> None:
        async with LocalNode(port=0) as node:
            api = NodeApi(node.url)
            streams = [api.group_stream({G: 0}), api.welcome_stream(new_key())]
            waiting = [asyncio.create_task(anext(stream, None)) for stream in streams]
            for stream in streams:
                await stream.wait_connected()
            never_read = api.group_stream({G: 0})
            await api.aclose()
            assert await asyncio.gather(*waiting) == [None, None]
            with pytest.raises(RuntimeError, match="closed"):
                await anext(never_read)

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["nobody there", "waiting", "opening", "changing"])
def test_closing_never_hangs(moment: str) -> None:
    async def main() -> None:
        async def silent(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        async with FaultyNode() as node, NodeApi("http://127.0.0.1:1" if moment == "nobody there" else node.url) as api:
            good = streaming(then=hang)
            node.answer(
                "SubscribeGroupMessages", *{"waiting": [UNAVAILABLE], "opening": [silent]}.get(moment, [good, silent])
            )
            stream = api.group_stream({G: 0})
            reader = asyncio.create_task(anext(stream, None))
            if moment == "nobody there":
                await until(lambda: stream.state.cause)
            elif moment == "changing":
                await stream.wait_connected()
                stream.add(new_group())
                await until(lambda: len(node.calls) == 2)
            else:
                await until(lambda: node.calls)
            async with asyncio.timeout(1):
                await stream.aclose()
            assert await reader is None

    asyncio.run(main())


def test_a_client_that_is_forgotten_does_not_disturb_the_end() -> None:
    async def main() -> None:
        async with LocalNode(port=0) as node:
            api = NodeApi(node.url)
            await api.group_stream({G: 0}).wait_connected()

    asyncio.run(main())


def test_arguments_are_checked() -> None:
    api = NodeApi("http://127.0.0.1:1")
    stream = api.group_stream()
    for wrong in (
        lambda: api.group_stream({b"": 0}),
        lambda: api.group_stream({G: -1}),
        lambda: api.welcome_stream(G),
        lambda: api.welcome_stream(new_key(), 1 << 63),
        lambda: stream.add(bytes(256)),
        lambda: stream.add(G, -1),
    ):
        with pytest.raises(ValueError):
            wrong()
    for wrong in (lambda: api.group_stream({G.hex(): 0}), lambda: stream.add(bytearray(G))):  # type: ignore[assignment,arg-type,dict-item]
        with pytest.raises(TypeError):
            wrong()
    assert stream.cursors == {}
