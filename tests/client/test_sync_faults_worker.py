"""The worker itself: closed at any moment, failing and started again, held up by others, and read by slow readers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.clients import KEY, path_of
from client.sync_world import (
    MANY,
    REPLY,
    REQUEST,
    Following,
    World,
    arrived,
    assert_same,
    fill,
    hasty,
    heard,
    meet,
    run,
    tasks,
    until,
    world,
)
from network.faulty_node import FaultyNode, fail, hang
from support import child
from support.faulty_server import Exchange, Fault, FaultyServer, on, stall, status
from xmtp_history import (
    ArchivePolicy,
    ArchiveRequest,
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    ConsentUpdate,
    StoreLocked,
    SyncPhase,
)
from xmtp_history.client import _database, _events, _tasks

INBOX = ConsentEntityType.INBOX_ID

#: What closing may take, by the brief of the worker (device sync specification, section 4.1).
CLOSING_S = 2.0


async def two(here: World, *, size: int = 0, **options: Any) -> tuple[Client, Client]:
    old = await here.open("old", **options)
    fill(old.history, size=size)
    new = await here.open("new")
    await meet(old, new)
    return old, new


async def decide(client: Client, number: int) -> None:
    await client.preferences.set_consent_states([Consent(INBOX, ConsentState.ALLOWED, f"{number:064x}", 0)])


async def knows(client: Client, number: int) -> bool:
    return await client.preferences.get_consent_state(INBOX, f"{number:064x}") is ConsentState.ALLOWED


async def closed(client: Client) -> None:
    """Closes a client, in time."""
    began = time.monotonic()
    await client.aclose()
    assert time.monotonic() - began < CLOSING_S


# --- closing ----------------------------------------------------------------------------------------------------------


async def _half_up(_server: FaultyServer, exchange: Exchange) -> None:
    async for _ in exchange.body():
        break
    await asyncio.Event().wait()


async def _half_down(server: FaultyServer, exchange: Exchange) -> None:
    code, headers, body = server.content(exchange, server.files[exchange.name])
    await exchange.answer(code, headers, body[: len(body) // 2], length=len(body))
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("method", "moment", "size"),
    [
        pytest.param("POST", stall, 0, id="upload begins"),
        pytest.param("POST", _half_up, 0, id="upload"),
        pytest.param("POST", _half_up, 12_000, id="large upload"),
        pytest.param("GET", stall, 0, id="download begins"),
        pytest.param("GET", _half_down, 0, id="download"),
        pytest.param("GET", _half_down, 12_000, id="large download"),
    ],
)
def test_closed_during_a_transfer(tmp_path: Path, method: str, moment: Fault, size: int) -> None:
    """It is fast, and both stores are fit for use; later everything comes, once."""

    async def main() -> None:
        reached = asyncio.Event()

        async def fault(server: FaultyServer, exchange: Exchange) -> None:
            reached.set()
            await moment(server, exchange)

        async with world(tmp_path, FaultyServer(on(method, fault), tus=False)) as here:
            old, new = await two(here, size=size)
            await new.send_sync_request()
            await reached.wait()
            # What is under way has begun on both sides of the thread, too.
            await asyncio.sleep(0.05)
            await closed(new)
            await closed(old)
            old, new = await here.reopen("old"), await here.reopen("new")
            await arrived(new)
            await until(_no_tasks, old, new)
            assert_same(old, new)
            assert len(await heard(new, REQUEST)) == len(await heard(new, REPLY)) == 1

    run(main)


async def _no_tasks(*clients: Client) -> bool:
    return not any([await tasks(client) for client in clients])


@pytest.mark.parametrize("fraction", [0.0, 0.7])
def test_closed_during_an_import(tmp_path: Path, fraction: float) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            _, new = await two(here, size=12_000)
            await new.send_sync_request()
            importing = (SyncPhase.DOWNLOADING, SyncPhase.IMPORTING)
            state = await until(lambda: (found := new.sync_status()).phase in importing and found)
            while state.phase in importing and state.bytes_done < fraction * (state.bytes_total or 1):
                await asyncio.sleep(0.001)
                state = new.sync_status()
            await closed(new)
            with here.store("new") as history:
                assert history.counts().messages in {0, MANY}
            new = await here.reopen("new")
            await arrived(new)

    run(main)


def test_closed_while_waiting_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(*[on("POST", status(503))] * 8, tus=False)) as here:
            old, new = await two(here)
            monkeypatch.setattr(_tasks, "_delay", lambda _attempts: 3600.0)
            await new.send_sync_request()
            await until(_failed_once, old)
            await closed(old)
            # How long it waits is kept: it does not begin anew with every start.
            old = await here.reopen("old")
            await meet(old, new)
            (task,) = await tasks(old)
            assert task["next_attempt_at_ns"] > time.time_ns() + 3500 * 10**9
            assert here.server.methods().count("POST") == 8

    run(main)


async def _failed_once(client: Client) -> bool:
    return [task["attempts"] for task in await tasks(client)] == [1]


def test_closed_while_the_owner_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def ask(_request: ArchiveRequest) -> bool:
            asked.set()
            await asyncio.Event().wait()
            return True

        async with world(tmp_path) as here:
            old, new = await two(here, archive_policy=ArchivePolicy(ask=ask))
            await new.send_sync_request()
            await asked.wait()
            await closed(old)
            old = await here.reopen("old")
            await arrived(new)

    run(main)


@pytest.mark.parametrize("method", ["GetIdentityUpdates", "QueryGroupMessages", "SendGroupMessages"])
def test_closed_while_the_node_does_not_answer(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old", node=node.url)
            new = await here.open("new")
            await meet(old, new)
            before = len(node.calls_of(method))
            node.answer(method, hang)
            await decide(new, 1)
            await decide(old, 2)
            await until(lambda: len(node.calls_of(method)) > before)
            await closed(old)
            old = await here.reopen("old")
            await until(knows, old, 1)
            await until(knows, new, 2)

    run(main)


def test_closed_while_calls_wait(tmp_path: Path) -> None:
    """Whoever waits hears of it; streams end."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(on("POST", stall), tus=False)) as here:
            _, new = await two(here)
            streams = [
                Following(stream)
                for stream in (
                    new.stream_events(),
                    new.preferences.stream_consent(),
                    new.preferences.stream_preferences(),
                    new.conversations.stream_all_messages(),
                )
            ]
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await until(lambda: here.server.requests)
            await closed(new)
            await closed(new)
            async with asyncio.timeout(2):
                (result,) = await asyncio.gather(syncing, return_exceptions=True)
                assert isinstance(result, RuntimeError)
                await asyncio.gather(*(stream.ended() for stream in streams))
            with pytest.raises(RuntimeError):
                await new.sync_history()

    run(main)


def test_closed_again_and_again(tmp_path: Path) -> None:
    """At any moment of its life; in the end everything is there."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            await new.send_sync_request()
            for number in range(15):
                await asyncio.sleep(0.004 * number)
                await closed(new)
                await closed(old)
                old, new = await here.reopen("old"), await here.reopen("new")
            await arrived(new)
            await until(_no_tasks, old, new)
            await meet(old, new)
            assert len(await heard(new, REPLY)) == 1
            assert_same(old, new)

    run(main)


# --- failing ----------------------------------------------------------------------------------------------------------


def test_it_starts_again_after_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            failures = 0
            ask = new._parts.core.call

            async def broken(name: str, *arguments: Any, **options: Any) -> Any:
                nonlocal failures
                if failures < 5 and name in {"sync_groups", "sync_tasks", "outbox"}:
                    failures += 1
                    raise [RuntimeError, KeyError, OSError, ZeroDivisionError, ValueError][failures % 5]("a bug")
                return await ask(name, *arguments, **options)

            monkeypatch.setattr(new._parts.core, "call", broken)
            await until(lambda: failures == 5)
            await decide(old, 1)
            await until(knows, new, 1)
            assert new.metrics().failures >= 1

    run(main)


def test_it_outlasts_a_node_that_answers_rubbish(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old")
            new = await here.open("new", node=node.url)
            await meet(old, new)
            methods = ("GetIdentityUpdates", "QueryWelcomeMessages", "GetNewestGroupMessage", "QueryGroupMessages")
            scripts = (b"\xff\xff rubbish", fail(grpc.StatusCode.INTERNAL), fail(grpc.StatusCode.UNKNOWN))
            for number, (method, script) in enumerate(itertools.product(methods, scripts)):
                before = len(node.calls_of(method))
                node.answer(method, script)
                await decide(old, number)
                await until(_called, node, method, before + 1)
                node.answer(method, _handed_on(node, method))
                await until(knows, new, number)

    run(main)


def _called(node: FaultyNode, method: str, times: int) -> bool:
    return len(node.calls_of(method)) >= times


def _handed_on(node: FaultyNode, method: str) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        return await node.forward(path_of(method), request, context)

    return answer


# --- others who write -------------------------------------------------------------------------------------------------

#: Imports an archive into a store, of which the second half has to be asked for.
_WRITER = """
import io, sys
from xmtp_history import History

class Slow(io.RawIOBase):
    def __init__(self, data):
        self.data, self.at = data, 0
    def readable(self):
        return True
    def read(self, size=-1):
        if self.at >= len(self.data):
            return b""
        if self.at:
            print("locked", flush=True)
            sys.stdin.readline()
        start, self.at = self.at, self.at + len(self.data) // 2 + 1
        return self.data[start : self.at]

with History.open(sys.argv[1], bytes.fromhex(sys.argv[2])) as history, open(sys.argv[3], "rb") as archive:
    history.import_archive(Slow(archive.read()), bytes(32))
print("done", flush=True)
"""


@asynccontextmanager
async def _writer(here: World, name: str, archive: Path) -> AsyncIterator[Any]:
    """Another process that keeps everybody else from writing to an installation's store, until it is told to go on."""
    with child.start(_WRITER, here.path / name, KEY.hex(), archive) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            line = (await asyncio.to_thread(process.stdout.readline)).strip()
            assert line == "locked", await asyncio.to_thread(process.stderr.read)  # type: ignore[union-attr]

            async def go_on() -> None:
                print(file=process.stdin, flush=True)
                assert (await asyncio.to_thread(process.stdout.readline)).strip() == "done"  # type: ignore[union-attr]

            yield go_on
        finally:
            process.kill()


def test_another_process_writes_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass fails and is made again; a call of the application's says so."""

    async def main() -> None:
        archive = tmp_path / "archive"
        # Others are waited for for five seconds.
        monkeypatch.setattr(_database, "_TIMEOUT_MS", 300)
        async with world(tmp_path) as here:
            old, new = await two(here)
            filler = here.store("old")
            filler.create_archive(archive, bytes(32))
            filler.close()
            async with _writer(here, "new", archive) as go_on:
                failures = new.metrics().failures
                await new.preferences.get_consent_state(INBOX, "00" * 32)
                await decide(old, 1)
                with pytest.raises(StoreLocked):
                    await decide(new, 2)
                await until(lambda: new.metrics().failures > failures)
                await go_on()
            await until(knows, new, 1)
            await decide(new, 3)
            await until(knows, old, 3)

    run(main)


def test_another_process_writes_while_an_archive_comes(tmp_path: Path) -> None:
    """The import waits for its turn, or is made again: it brings everything."""

    async def main() -> None:
        archive = tmp_path / "archive"
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            await new.create_archive(archive, bytes(32))
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await until(lambda: here.server.files)
            async with _writer(here, "new", archive) as go_on:
                await asyncio.sleep(0.3)
                await go_on()
            await syncing
            assert_same(old, new)

    run(main)


# --- slow readers -----------------------------------------------------------------------------------------------------


def test_readers_that_lag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lose the oldest items and can know it; nobody else is held up by them."""

    async def main() -> None:
        monkeypatch.setattr(_events, "_LONGEST_QUEUE", 8)
        async with world(tmp_path) as here:
            old, new = await two(here)
            slow = new.preferences.stream_preferences()
            fast = Following(new.preferences.stream_consent())
            abandoned = new.stream_events()
            for number in range(20):
                await decide(old, number)
                await until(knows, new, number)
            await until(lambda: len(fast.all) == 20)
            assert slow.dropped == 12
            assert new.metrics().dropped >= 12
            items = []
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    async for updates in slow:
                        items += [update for update in updates if isinstance(update, ConsentUpdate)]
            assert [int(update.consent.entity, 16) for update in items] == list(range(12, 20))
            await abandoned.aclose()
            await fast.close()

    run(main)


def test_a_reader_that_raises(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)

            async def careless() -> None:
                async for _ in new.preferences.stream_consent():
                    raise RuntimeError("the reader's own")

            reading = asyncio.ensure_future(careless())
            await asyncio.sleep(0)
            await decide(old, 1)
            with pytest.raises(RuntimeError, match="the reader's own"):
                await reading
            await decide(old, 2)
            await until(knows, new, 2)

    run(main)


def test_progress_that_raises(tmp_path: Path) -> None:
    """It ends the caller's wait, or is logged; the import is whole in the end."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)

            def careless(_progress: Any) -> None:
                raise RuntimeError("the caller's own")

            with suppress(RuntimeError):
                await new.sync_history(timeout=30, on_progress=careless)
            await arrived(new)
            assert_same(old, new)
            assert len(await heard(new, REPLY)) == 1

    run(main)


def test_a_slow_import_does_not_stop_the_worker(tmp_path: Path) -> None:
    """While an archive comes down slowly, decisions go both ways."""

    async def main() -> None:
        opened = asyncio.Event()

        async def held_back(server: FaultyServer, exchange: Exchange) -> None:
            code, headers, body = server.content(exchange, server.files[exchange.name])
            await exchange.answer(code, headers, body[:1000], length=len(body))
            await opened.wait()
            await exchange.send(body[1000:])

        async with world(tmp_path, FaultyServer(on("GET", held_back), tus=False)) as here:
            old, new = await two(here)
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await until(lambda: "GET" in here.server.methods())
            await decide(old, 1)
            await decide(new, 2)
            await until(knows, new, 1)
            await until(knows, old, 2)
            assert_nothing_but_consent(new)
            opened.set()
            await syncing
            assert old.history.counts() == new.history.counts()

    run(main)


def assert_nothing_but_consent(client: Client) -> None:
    counts = client.history.counts()
    assert (counts.conversations, counts.messages) == (0, 0)


def test_a_server_that_is_too_slow_for_others(tmp_path: Path) -> None:
    """A download that stands still does not keep others from writing for ever."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(on("GET", _half_down), tus=False)) as here:
            old, new = await two(here, size=12_000)
            with hasty(0.4):
                syncing = asyncio.ensure_future(new.sync_history(timeout=30))
                await until(lambda: "GET" in here.server.methods())
                await syncing
            assert_same(old, new)

    run(main)


def test_nothing_is_left_running(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            before = asyncio.all_tasks()
            old, new = await two(here)
            await new.sync_history(timeout=30)
            await closed(new)
            await closed(old)

            def left() -> list[asyncio.Task[Any]]:
                # Of the node's server, one task always waits for the next call.
                tasks = asyncio.all_tasks() - before
                return [task for task in tasks if "AioServer" not in repr(task)]

            await until(lambda: not left())
            assert_same_stores(here)

    run(main)


def assert_same_stores(here: World) -> None:
    with here.store("old") as old, here.store("new") as new:
        assert old.counts() == new.counts()
