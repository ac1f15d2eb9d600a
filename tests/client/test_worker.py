"""The sync worker: what sets it going, what keeps it going, what ends it. And streams of events, and rates."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from client.clients import handed_on
from client.clients import held as held_answer
from client.sync_world import MANY, SPAMMER, fill, following, run, until, world
from network.faulty_node import FaultyNode
from support.faulty_server import Exchange, FaultyServer, status
from xmtp_history import (
    ArchivePolicy,
    ArchiveRequest,
    ConsentEntityType,
    ConsentState,
    HistoryImported,
    NotRegistered,
    SyncPhase,
)
from xmtp_history.client import _events, _policy, _worker
from xmtp_history.client._events import Hub
from xmtp_history.client._policy import Buckets

STREAMS_ONLY = {"sync_interval": 3600.0}
#: How long closing may take.
CLOSING_S = 2.0


async def closes(client: Any) -> None:
    """Closes a client, in time."""
    began = time.monotonic()
    await client.aclose()
    assert time.monotonic() - began < CLOSING_S


# --- what sets it going -----------------------------------------------------------------------------------------------


def test_streams_are_enough(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", **STREAMS_ONLY)
            fill(old.history)
            # Each joins a sync group that was made after the old one's stream began.
            for name in "abc":
                new = await here.open(name, **STREAMS_ONLY)
                began = time.monotonic()
                await new.sync_history(timeout=20)
                assert time.monotonic() - began < 5
                assert new.history.counts().messages == MANY
            assert old.metrics().sync_group_welcomes_processed == 3
            assert new.metrics().sync_group_created == 1

    run(main)


def test_ticks_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        # Nothing is streamed, and whoever listens hears nothing.
        monkeypatch.setattr(_worker, "_MOST_STREAMED", 0)

        async def deaf(_self: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(_worker.SyncWorker, "_listen_for_welcomes", deaf)
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            new = await here.open("new")
            await new.sync_history(timeout=20)
            assert new.history.counts().messages == MANY

    run(main)


def test_a_node_that_tells_before_it_gives(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old", node=node.url, **STREAMS_ONLY)
            new = await here.open("new", **STREAMS_ONLY)
            await until(lambda: old.metrics().init and old.metrics().sync_group_welcomes_processed)
            await until(lambda: new.metrics().hmac_received)

            async def nothing_yet(_request: bytes, _context: object) -> bytes:
                return b""

            node.answer("QueryGroupMessages", nothing_yet, handed_on(node, "QueryGroupMessages"))
            about = (ConsentEntityType.INBOX_ID, "ab" * 32)
            await new.preferences.set_consent_state(*about, ConsentState.DENIED)

            async def has_come() -> bool:
                return await old.preferences.get_consent_state(*about) is ConsentState.DENIED

            await until(has_come)
            assert len(node.calls_of("QueryGroupMessages")) > 1

    run(main)


def test_the_most_recent_groups_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(_worker, "_MOST_STREAMED", 2)
        async with world(tmp_path) as here:
            client = await here.open("a", **STREAMS_ONLY)
            for name in "bcd":
                await here.open(name, **STREAMS_ONLY)
            await until(lambda: client.metrics().sync_group_welcomes_processed == 3)
            streamed = await client._parts.worker._streamed()
            assert len(streamed) == 2
            assert all(group.is_sync_group for group in streamed)

    run(main)


# --- what keeps it going ----------------------------------------------------------------------------------------------


def test_a_node_that_goes_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            await here.stop_node()
            changed = await new.preferences.set_consent_state(
                ConsentEntityType.INBOX_ID, "ab" * 32, ConsentState.DENIED
            )
            assert (await new.outbox()).consents == 1
            assert len(changed) == 1
            await until(lambda: new.metrics().failures)
            await here.start_node()

            async def has_come() -> bool:
                return await old.preferences.get_consent_state(*about) is ConsentState.DENIED

            about = (ConsentEntityType.INBOX_ID, "ab" * 32)
            await until(has_come)
            await new.sync_history(timeout=20)

    run(main)


def test_what_nobody_thought_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", **STREAMS_ONLY)
            fill(old.history)
            real, times = _worker.SyncWorker._pass, 0

            async def fails(self: Any) -> None:
                nonlocal times
                times += 1
                if times <= 3:
                    raise KeyError("not ours")
                await real(self)

            monkeypatch.setattr(_worker.SyncWorker, "_pass", fails)
            new = await here.open("new", **STREAMS_ONLY)
            await new.sync_history(timeout=20)
            assert old.metrics().failures + new.metrics().failures == 3

    with caplog.at_level(logging.INFO, "xmtp_history.client"):
        run(main)
    assert "nobody thought of" in caplog.text
    assert "KeyError" in caplog.text


def test_a_failed_upload_is_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(*[status(503)] * 500, tus=False)) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            await new.send_sync_request()
            await until(lambda: old.metrics().retries >= 2)
            assert old.metrics().payload_sent == 0
            assert new.sync_status().phase is SyncPhase.WAITING

    run(main)


# --- what ends it -----------------------------------------------------------------------------------------------------


def test_a_revoked_installation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            await until(lambda: new.metrics().init)
            waiting = asyncio.create_task(new.wait())
            asking = asyncio.create_task(new.sync_history(timeout=None))
            await old.revoke_all_other_installations()
            for task in (waiting, asking):
                with pytest.raises(NotRegistered):
                    await task
            with pytest.raises(NotRegistered):
                await new.wait()
            now = new.sync_status()
            assert now.phase is SyncPhase.FAILED
            assert "revoked" in now.reason
            with pytest.raises(NotRegistered):
                await new.sync_history()
            waiting = asyncio.create_task(old.wait())
            await asyncio.sleep(0)
            await old.aclose()
            await waiting

    with caplog.at_level(logging.INFO, "xmtp_history.client"):
        run(main)
    assert "ended for good" in caplog.text


async def _hangs(server: FaultyServer, _exchange: Exchange) -> None:
    await server.stall()


def test_closing_during_an_upload(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(_hangs, tus=False)) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            await new.send_sync_request()
            await until(lambda: here.server.requests)
            await closes(old)
            await closes(new)

    run(main)


def test_closing_during_an_import(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history, count=30_000)
            asking = asyncio.create_task(new.sync_history())
            await until(lambda: new.sync_status().phase in {SyncPhase.DOWNLOADING, SyncPhase.IMPORTING})
            await closes(new)
            with pytest.raises(RuntimeError, match="closed"):
                await asking
            # All of it or nothing, and what is missing comes when it is opened again.
            with here.store("new") as store:
                assert store.counts().messages in {0, 30_000}
            new = await here.reopen("new")
            await until(lambda: new.history.counts().messages == 30_000)

    run(main)


def test_closing_while_somebody_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def thinks(_request: ArchiveRequest) -> bool:
            asked.set()
            await asyncio.sleep(60)
            return True

        async with world(tmp_path) as here:
            old, new = await here.open("old", archive_policy=ArchivePolicy(ask=thinks)), await here.open("new")
            await new.send_sync_request()
            await asked.wait()
            await closes(old)

    run(main)


@pytest.mark.parametrize("method", ["GetIdentityUpdates", "QueryWelcomeMessages", "GetNewestGroupMessage"])
def test_closing_during_a_call_of_the_node(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here, FaultyNode(here.node_url) as node:
            client = await here.open("a", node=node.url, sync_interval=0.05)
            arrived = asyncio.Event()
            node.answer(method, held_answer(node, method, arrived, after=False))
            await arrived.wait()
            await closes(client)

    run(main)


def test_closing_while_it_waits_after_a_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a")
            await here.stop_node()
            await until(lambda: client.metrics().retries)
            await closes(client)
            client = await here.reopen("a")
            await closes(client)

    run(main)


def test_a_worker_for_as_long_as_somebody_waits(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new", sync_interval=None)
            fill(old.history)
            await asyncio.gather(*(new.sync_history(timeout=20) for _ in range(3)))
            assert new._parts.worker._task is None
            # Nothing happens by itself afterwards.
            await old.send_sync_archive("later")
            await asyncio.sleep(0.3)
            assert len(new.list_available_archives()) == 3

    run(main)


# --- streams of events ------------------------------------------------------------------------------------------------


def test_streams_begin_where_they_are_made_and_end_with_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            early, closed = new.stream_events(), new.stream_events()
            await closed.aclose()
            assert [event async for event in closed] == []
            await new.sync_history(timeout=20)
            late = new.stream_events()
            async for event in early:
                if isinstance(event, HistoryImported):
                    break
            async with new.stream_events() as third:
                reading = asyncio.create_task(anext(third, None))
                await asyncio.sleep(0)
                await new.aclose()
                assert await reading is None
            assert [event async for event in late] == []
            assert [event async for event in early] == []

    run(main)


def test_a_reader_that_is_slow_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        lost: list[int] = []
        hub = Hub(lost.append)

        async def read(item: int) -> int | None:
            return item if item % 2 else None

        slow, fast = hub.messages.stream(read), hub.messages.stream(read)
        for item in range(7):
            hub.messages.publish(item)
            if item % 2:
                assert await anext(fast) == item
        assert (slow.dropped, fast.dropped, sum(lost)) == (4, 0, 4)
        assert await anext(slow) == 5
        hub.close()
        with pytest.raises(RuntimeError, match="closed"):
            hub.messages.stream(read)

    monkeypatch.setattr(_events, "_LONGEST_QUEUE", 3)
    asyncio.run(main())
    assert caplog.text.count("too slow") == 1


def test_what_could_not_be_read_stays() -> None:
    async def main() -> None:
        hub = Hub(lambda _: None)
        slow = asyncio.Event()

        async def read(item: int) -> int:
            if item == 1 and not slow.is_set():
                await slow.wait()
            if item == 2:
                hub.close()
                raise ValueError("the store is closed")
            return item

        stream = hub.events.stream(read)
        for item in (1, 2):
            hub.events.publish(item)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(stream)
        slow.set()
        assert await anext(stream) == 1
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    asyncio.run(main())


def test_a_stream_that_was_left_is_nobodys() -> None:
    async def main() -> None:
        hub = Hub(lambda _: None)

        async def read(item: int) -> int:
            return item

        async def reads() -> None:
            async for _ in hub.events.stream(read):
                break

        task = asyncio.create_task(reads())
        await asyncio.sleep(0)
        hub.events.publish(1)
        await task
        gc.collect()
        assert len(hub.events._streams) == 0

    asyncio.run(main())


# --- rates ------------------------------------------------------------------------------------------------------------


def test_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(_policy, "_clock", lambda: now)
    buckets = Buckets(3, 60.0)
    waits = []
    for _ in range(5):
        waits.append(buckets.wait("a"))
        buckets.take("a")
    assert waits == [0, 0, 0, 60, 120]
    assert buckets.wait("b") == 0
    now += 180
    assert buckets.wait("a") == 0
    buckets.take("a")
    assert buckets.wait("a") == 60
    now += 10_000
    for _ in range(3):
        assert buckets.wait("a") == 0
        buckets.take("a")
    assert buckets.wait("a") == 60


# --- logging ----------------------------------------------------------------------------------------------------------


def test_what_an_operator_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[list[str], list[str]]:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            new = await here.open("new")
            async with following(new):
                report = await new.sync_history(timeout=20)
            refuses = await here.open("refuses", history_sync_url=None)
            await new.send_sync_request()
            await until(lambda: refuses.metrics().refusals_sent and new.metrics().refusals_received)
            (archive, *_) = new.list_available_archives()
            _, key = await new._parts.core.call(
                "sync_task_key", message_id=(await new._parts.core.ask("sync_reply", pin=report.pin))["message_id"]
            )
            secrets = [report.pin, archive.pin, key.hex(), here.key, SPAMMER, "/files/"]
            return secrets, [old.installation_id[:8], new.installation_id[:8]]

    with caplog.at_level(logging.INFO, "xmtp_history"):
        secrets, shown = run(main)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("xmtp_history.client")]
    text = "\n".join(ours)
    for line in (
        "the sync worker has started",
        "history was asked for",
        f"installation {shown[1]} asks for the history",
        f"an archive of {MANY + 5} records",
        f"installation {shown[1]} was told",
        f"an archive of installation {shown[0]}",
        "does not get the history: no_server",
        "does not send its history: no_server",
        "HMAC keys",
        "the sync worker has ended",
    ):
        assert line in text, line
    for secret in secrets:
        assert secret not in text
    levels = {record.levelname for record in caplog.records if "no_server" in record.getMessage()}
    assert levels == {"WARNING"}
