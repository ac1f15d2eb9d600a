"""Other installations: none, many, late ones, revoked ones, strangers, and ones whose owner says who may have what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from client.clients import create, group_messages, sync_groups
from client.sync_world import (
    MANY,
    REPLY,
    REQUEST,
    SPAMMER,
    World,
    arrived,
    assert_nothing,
    assert_same,
    fill,
    following,
    hasty,
    heard,
    meet,
    request,
    run,
    say,
    tasks,
    until,
    world,
)
from network.faulty_node import FaultyNode
from support.faulty_server import Exchange, FaultyServer, on, stall
from xmtp_history import (
    ArchivePolicy,
    ArchiveRefused,
    ArchiveRequest,
    ArchiveSent,
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    EoaSigner,
    HistoryImported,
    HistoryRequested,
    HistorySyncFailed,
    NoOtherInstallation,
    NotRegistered,
    SyncPhase,
    SyncRefused,
    SyncTimeout,
)
from xmtp_history._proto import identity_api_pb2 as identity_api
from xmtp_history.client import _policy


class Gate:
    """Holds uploads until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def __call__(self, server: FaultyServer, exchange: Exchange) -> None:
        self.reached.set()
        await self.opened.wait()
        await server.answer(exchange)


async def two(here: World, **options: Any) -> tuple[Client, Client]:
    old = await here.open("old", **options)
    fill(old.history)
    new = await here.open("new")
    await meet(old, new)
    return old, new


# --- none, and many ---------------------------------------------------------------------------------------------------


def test_no_other_installation(tmp_path: Path) -> None:
    """It is said at once, and nothing is asked of nobody."""

    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("only", auto_history_sync=True)
            for call in (client.sync_history, client.sync_messages, client.sync_consent):
                with pytest.raises(NoOtherInstallation):
                    await call()
            state = client.sync_status()
            assert (state.other_installations, state.pending_requests) == (0, 0)
            assert await heard(client, REQUEST) == []
            # One that comes later has not to be asked by the old one.
            other = await here.open("other")
            await meet(client, other)
            await until(lambda: client.sync_status().other_installations == 1)
            assert await heard(other, REQUEST) == []

    run(main)


def test_the_others_are_revoked(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            await new.revoke_installations([old.installation_id])
            with pytest.raises(NoOtherInstallation):
                await new.sync_history(timeout=5)
            assert new.sync_status().other_installations == 0

    run(main)


def test_several_answer_at_once(tmp_path: Path) -> None:
    """Each has something that the others do not have, and most is the same: everything is there, once."""

    async def main() -> None:
        async with world(tmp_path) as here:
            names = ["first", "second", "third"]
            olds = [await here.open(name) for name in names]
            for number, old in enumerate(olds):
                fill(old.history)
                fill(old.history, first=2000 * (number + 1), count=MANY)
            new = await here.open("new")
            await meet(*olds, new)
            async with following(new) as events:
                await new.sync_history(timeout=30)
                await until(lambda: len(events.of(HistoryImported)) == 3)
                senders = {event.sent_by_installation for event in events.of(HistoryImported)}
                assert senders == {old.installation_id for old in olds}
            counts = new.history.counts()
            assert (counts.conversations, counts.messages) == (8, 4 * MANY)
            await until(_done, new, *olds)
            assert len(await heard(new, REQUEST)) == 1
            # What each of them misses, another one has: all get in step.
            for old in olds:
                await old.sync_history(timeout=30)
            await until(_count, MANY * 4, *olds)
            assert_same(new, *olds)

    run(main)


async def _done(*clients: Client) -> bool:
    return not any([await tasks(client) for client in clients])


def _count(messages: int, *clients: Client) -> bool:
    return all(client.history.counts().messages == messages for client in clients)


def test_one_answers_and_one_never_does(tmp_path: Path) -> None:
    """The other one is away: what is there is not held up by it, and its answer is taken when it comes."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            away = await here.open("away", sync_interval=None)
            fill(away.history, first=3000)
            new = await here.open("new")
            await meet(old, new)
            async with following(new) as events:
                syncing = asyncio.ensure_future(new.sync_history(timeout=10))
                await events.first(HistoryImported)
                assert new.history.counts().messages == MANY
                # Whether it waits for the rest is its business; what came is kept.
                await asyncio.wait([syncing])
                assert syncing.exception() is None or isinstance(syncing.exception(), SyncTimeout)
                await away.aclose()
                back = await here.reopen("away")
                await arrived(new, 2 * MANY)
                await until(lambda: len(events.of(HistoryImported)) == 2)
                senders = {event.sent_by_installation for event in events.of(HistoryImported)}
                assert senders == {old.installation_id, back.installation_id}

    run(main)


def test_an_answer_comes_twice(tmp_path: Path) -> None:
    """Whoever sends a second answer to a request is not listened to again."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            async with following(new) as events:
                await new.sync_history(timeout=30)
                (answer,) = await heard(new, REPLY)
                await say(old, answer.content)
                await until(_replies, new, 2)
                await until(_done, new)
                await meet(old, new)
                assert len(events.of(HistoryImported)) == 1
            assert here.server.methods().count("GET") == 1
            assert_same(old, new)

    run(main)


async def _replies(client: Client, number: int) -> bool:
    return len(await heard(client, REPLY)) == number


# --- other sync groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_a_third_one_registers_before_the_answer(tmp_path: Path, restart: bool) -> None:
    """The answer comes in another sync group than the request went to, and is imported all the same."""

    async def main() -> None:
        gate = Gate()
        async with world(tmp_path, FaultyServer(on("POST", gate), tus=False)) as here:
            old, new = await two(here)
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await gate.reached.wait()
            third = await here.open("third")
            await meet(old, new, third)
            if restart:
                syncing.cancel()
                await asyncio.wait([syncing])
                await new.aclose()
                new = await here.reopen("new")
            gate.opened.set()
            await arrived(new)
            if not restart:
                assert (await syncing).archives == 1
            assert_same(old, new)
            ((asked,), (answered,)) = await heard(old, REQUEST), await heard(new, REPLY)
            assert asked.group_id != answered.group_id
            # Whoever has not asked gets nothing of it.
            await meet(third)
            assert_nothing(third)

    run(main)


def test_swapped_primaries(tmp_path: Path) -> None:
    """Two that register at the same time talk in each other's group, and both get what a third one has."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            paths = ["b", "c"]
            for name in paths:
                await (await here.open(name, disable_device_sync=True, sync_interval=None)).aclose()
            first, second = await asyncio.gather(*(here.open(name) for name in paths))
            await meet(first, second, old)
            await asyncio.gather(*(client.sync_history(timeout=30) for client in (first, second)))
            assert_same(old, first, second)
            for client in (first, second):
                asked = [said for said in await heard(client, REQUEST) if said.sender == client.installation_id]
                assert len(asked) == 1

    run(main)


def test_nobody_looks_for_an_hour(tmp_path: Path) -> None:
    """What is said in a sync group that was joined a moment ago is heard at once, without a tick and without a call."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", sync_interval=3600.0)
            fill(old.history)
            for entity in ("d1" * 32, "d2" * 32):
                new = await here.open(entity, sync_interval=3600.0)
                await new.sync_history(timeout=15)
                assert_same(old, new)
                await decide_and_hear(old, new, entity)
                await decide_and_hear(new, old, entity[::-1])

    run(main)


def test_an_automatic_request(tmp_path: Path) -> None:
    """Once in the life of an installation, at its start, if there are others."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", auto_history_sync=True)
            fill(old.history)
            new = await here.open("new", auto_history_sync=True)
            async with following(new) as events:
                await arrived(new)
                await until(lambda: events.of(HistoryImported))
                assert all(event.automatic for event in events.of(HistoryRequested))
            assert_same(old, new)
            assert new.sync_status().phase is SyncPhase.DONE
            for _ in range(2):
                await new.aclose()
                new = await here.reopen("new", auto_history_sync=True)
                await meet(new, old)
            (only,) = await heard(old, REQUEST)
            assert only.sender == new.installation_id

    run(main)


# --- revoked ones and strangers ---------------------------------------------------------------------------------------


def _with_an_old_log(node: FaultyNode) -> None:
    """The node does not tell what is new in the inbox's log."""

    async def nothing_new(message: bytes, _context: object) -> bytes:
        asked = identity_api.GetIdentityUpdatesRequest.FromString(message).requests
        responses = [identity_api.GetIdentityUpdatesResponse.Response(inbox_id=one.inbox_id) for one in asked]
        return identity_api.GetIdentityUpdatesResponse(responses=responses).SerializeToString()

    node.answer("GetIdentityUpdates", nothing_new)


def test_a_revoked_one_asks(tmp_path: Path) -> None:
    """It gets no answer, and no key."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old")
            fill(old.history)
            revoked = await here.open("revoked", node=node.url, sync_interval=None)
            third = await here.open("third", sync_interval=None)
            await meet(old, revoked, third)
            groups = await sync_groups(revoked)
            _with_an_old_log(node)
            async with following(old) as events:
                await third.revoke_installations([revoked.installation_id])
                await revoked.send_sync_request()
                await meet(third, old)
                await say(third, request("after", here.url))
                await events.first(ArchiveSent)
                assert events.of(HistorySyncFailed) == []
                refused = {event.requested_by_installation: event.reason for event in events.of(ArchiveRefused)}
                assert refused in ({}, {revoked.installation_id: "revoked"})
            await revoked.sync_all_device_sync_groups()
            assert await heard(revoked, REPLY) == []
            assert len(here.server.files) == 1, "that of the third one"
            assert set(await sync_groups(revoked)) == set(groups)

    run(main)


@pytest.mark.parametrize("by_itself", [True, False])
def test_revoked_between_request_and_answer(tmp_path: Path, by_itself: bool) -> None:
    """The archive is uploaded already; its key is not told where the revoked one listens."""

    async def main() -> None:
        gate = Gate()
        async with (
            world(tmp_path, FaultyServer(on("POST", gate), tus=False)) as here,
            FaultyNode(here.node_url) as node,
        ):
            old = await here.open("old")
            fill(old.history)
            revoked = await here.open("revoked", node=node.url, sync_interval=None)
            third = await here.open("third", sync_interval=None)
            await meet(old, revoked, third)
            await revoked.send_sync_request()
            _with_an_old_log(node)
            await gate.reached.wait()
            await (old if by_itself else third).revoke_installations([revoked.installation_id])
            before = {group: len(await group_messages(here.node, group)) for group in await sync_groups(revoked)}
            gate.opened.set()
            await until(_done, old)
            await meet(third, old, third)
            for client in (revoked, third):
                await client.sync_all_device_sync_groups()
                assert await heard(client, REPLY) == []
            assert {group: len(await group_messages(here.node, group)) for group in before} == before

    run(main)


def test_what_a_revoked_one_sent_is_not_imported(tmp_path: Path) -> None:
    """An answer of somebody who was revoked before it could be fetched."""

    async def main() -> None:
        gate = Gate()
        async with world(tmp_path, FaultyServer(on("GET", gate), tus=False)) as here:
            old, new = await two(here)
            third = await here.open("third", sync_interval=None)
            await meet(old, new, third)
            async with following(new) as events:
                syncing = asyncio.ensure_future(new.sync_history(timeout=30))
                await gate.reached.wait()
                await new.aclose()
                await asyncio.wait([syncing])
                await third.revoke_installations([old.installation_id])
                gate.opened.set()
                assert not events.of(HistoryImported)
            new = await here.reopen("new")
            await until(_done, new)
            assert_nothing(new)

    run(main)


def test_a_revoked_one_stops(tmp_path: Path) -> None:
    """Its worker ends and says why; it does not go on asking the node."""

    async def main() -> None:
        async with world(tmp_path) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old")
            revoked = await here.open("revoked", node=node.url, sync_interval=0.05)
            await meet(old, revoked)
            await old.revoke_installations([revoked.installation_id])
            await until(lambda: revoked.sync_status().phase is SyncPhase.FAILED)
            assert "revoked" in revoked.sync_status().reason
            with pytest.raises(NotRegistered):
                await revoked.sync_history(timeout=5)
            calls = len(node.calls)
            # Some of its ticks.
            await asyncio.sleep(0.3)
            assert len(node.calls) == calls
            fill(revoked.history)
            assert revoked.history.counts().messages == MANY

    run(main)


def test_a_stranger(tmp_path: Path) -> None:
    """Another inbox's installations hear nothing of this one's, and nothing of theirs is heard."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            options = {"history_sync_url": here.url, "sync_interval": 0.1, "auto_history_sync": True}
            strangers = [await create(here.node_url, EoaSigner.create(), tmp_path / f"s{n}", **options) for n in "12"]
            async with AsyncExitStack() as stack:
                for stranger in strangers:
                    await stack.enter_async_context(stranger)
                await meet(old, *strangers)
                with pytest.raises(NoOtherInstallation):
                    await strangers[0].sync_history(timeout=5)
                assert_nothing(*strangers)
                assert await heard(old) == []

    run(main)


def test_a_strangers_sync_group(tmp_path: Path) -> None:
    """A real client adds our installation to its inbox's sync group, asks there, and decides something there."""
    account = pytest.importorskip("interop.account")
    devices = pytest.importorskip("interop.devices")
    pytest.importorskip("xmtp_bindings")

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, FaultyNode(here.node_url) as node:
            old = await here.open("old", node=node.url)
            fill(old.history)
            before = await sync_groups(old)
            user = account.User("mallory", here.node_url, tmp_path)
            with user.start(device_sync=True) as mallory:

                def attack() -> str:
                    mallory.do("inbox_id")
                    devices.sync_until(lambda: bool(mallory.do("sync_groups")), mallory)
                    group = max(mallory.do("sync_groups").items(), key=lambda item: item[1]["created_at_ns"])[0]
                    assert mallory.do("add_members", group, [old.inbox_id])["failed"] == []
                    mallory.do("request_archive", here.url)
                    mallory.do("consent", "inbox", SPAMMER, "allowed")
                    return str(group)

                group = await asyncio.to_thread(attack)
            await old.sync_all_device_sync_groups()
            # Something of its own goes on.
            new = await here.open("new")
            await meet(old, new)
            await new.sync_history(timeout=30)
            assert_same(old, new)
            assert await sync_groups(old) == [*before, *await sync_groups(new)]
            assert len(here.server.files) == 1
            # Messages have the group's id in the clear.
            told = b"".join(call.request for call in node.calls_of("SendGroupMessages"))
            assert bytes.fromhex(group) not in told
            assert all(bytes.fromhex(known) in told for known in before)
            assert await old.preferences.get_consent_state(_INBOX, SPAMMER) is ConsentState.DENIED

    run(main, 60)


_INBOX = ConsentEntityType.INBOX_ID


# --- policy -----------------------------------------------------------------------------------------------------------


def _raises(_request: ArchiveRequest) -> bool:
    raise RuntimeError("the hook's own secret")


async def _hangs(_request: ArchiveRequest) -> bool:
    await asyncio.Event().wait()
    return True


async def _no(_request: ArchiveRequest) -> bool:
    return False


HOOKS: dict[str, Callable[[ArchiveRequest], Any]] = {
    "says no": lambda _: False,
    "says no later": _no,
    "says nothing": lambda _: None,
    "raises": _raises,
    "hangs": _hangs,
}


def test_hooks_that_do_not_say_yes(tmp_path: Path) -> None:
    """Who asked is told, and the worker goes on."""

    async def main() -> None:
        asked: list[ArchiveRequest] = []
        hooks = iter(HOOKS.values())

        def ask(request: ArchiveRequest) -> Any:
            asked.append(request)
            return next(hooks)(request)

        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, archive_policy=ArchivePolicy(ask=ask, ask_timeout=0.2, burst=100))
            for name in HOOKS:
                with pytest.raises(SyncRefused) as caught:
                    await new.sync_history(timeout=10)
                (refusal,) = caught.value.refusals
                assert refusal.reason == "refused", name
                assert "secret" not in refusal.detail
                assert asked[-1].installation_id == new.installation_id
            assert len(asked) == len(HOOKS)
            assert here.server.requests == []
            await decide_and_hear(new, old)

    run(main)


async def decide_and_hear(one: Client, other: Client, entity: str = "ee" * 32) -> None:
    """One decides something, and the other one hears of it."""
    decision = Consent(_INBOX, ConsentState.DENIED, entity, 0)
    await one.preferences.set_consent_states([decision])

    async def told() -> bool:
        return await other.preferences.get_consent_state(_INBOX, decision.entity) is ConsentState.DENIED

    await until(told)


def test_a_hook_that_says_yes_late(tmp_path: Path) -> None:
    async def main() -> None:
        answers: asyncio.Queue[bool] = asyncio.Queue()

        async def ask(_request: ArchiveRequest) -> bool:
            return await answers.get()

        async with world(tmp_path) as here:
            old, new = await two(here, archive_policy=ArchivePolicy(ask=ask))
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await until(lambda: answers._getters)  # type: ignore[attr-defined]
            # Meanwhile everything else goes on.
            await decide_and_hear(new, old)
            answers.put_nowait(True)
            assert (await syncing).archives == 1

    run(main)


def test_who_is_not_on_the_list(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            listed = await here.open("listed")
            await listed.aclose()
            old = await here.open("old", archive_policy=ArchivePolicy(allow=[listed.installation_id.upper()]))
            fill(old.history)
            listed, new = await here.reopen("listed"), await here.open("new")
            await meet(old, listed, new)
            async with following(new) as events:
                pin = await new.send_sync_request()
                failed = await events.first(HistorySyncFailed)
                assert (failed.pin, failed.sent_by_installation) == (pin, old.installation_id)
                assert failed.reason == "refused"
            await listed.sync_history(timeout=30)
            assert_same(old, listed)

    run(main)


def test_many_requests_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are answered at once, the others in their turn; none is lost."""

    async def main() -> None:
        now = 1000.0
        monkeypatch.setattr(_policy, "_clock", lambda: now)
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old = await here.open("old", archive_policy=ArchivePolicy(burst=2, interval=60.0))
            fill(old.history)
            new, third = await here.open("new", sync_interval=None), await here.open("third", sync_interval=None)
            await meet(old, new, third)
            for _ in range(5):
                await new.send_sync_request()
            await until(_told, new, 2)
            # Others do not have to wait for it.
            await third.send_sync_request()
            await until(_told, new, 3)
            await meet(old, new)
            assert len(here.server.files) == len(await tasks(old)) == 3
            for number in (4, 5, 6):
                now += 60
                await until(_told, new, number)
                assert len(here.server.files) == number
            await until(_done, old)
            pins = [said.fields[1] for said in await heard(new, REPLY)]
            assert sorted(pins) == sorted(said.fields[1] for said in await heard(new, REQUEST))

    run(main)


async def _told(client: Client, replies: int) -> bool:
    await client.sync_all_device_sync_groups()
    return await _replies(client, replies)


def test_servers_that_hang_do_not_hold_up_others(tmp_path: Path) -> None:
    """Requests that name a server that hangs are tried again and again; in between those of others have their turn."""

    async def main() -> None:
        async with world(tmp_path) as here, FaultyServer(*[stall] * 1000, tus=False) as hanging:
            old, new = await here.open("old"), await here.open("new", sync_interval=None)
            await meet(old, new)
            with hasty(0.1):
                for number in range(3):
                    await say(new, request(f"hang{number}", hanging.url))
                await until(lambda: hanging.requests)
                third = await here.open("third")
                await meet(old, third)
                assert (await third.sync_history(timeout=20)).archives == 1

    run(main)


def test_old_requests(tmp_path: Path) -> None:
    """Nobody waits for the answer any more."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, archive_policy=ArchivePolicy(max_age_days=0.0))
            pin = await new.send_sync_request()
            await until(_asked, old, pin)
            await until(_done, old)
            assert here.server.requests == []
            assert await heard(new, REPLY) == []

    run(main)


async def _asked(client: Client, pin: str) -> bool:
    return any(said.fields[1].decode() == pin for said in await heard(client, REQUEST))


def test_a_quiet_installation_does_not_answer(tmp_path: Path) -> None:
    """Device sync is switched off: no answers, no imports; explicit calls work."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old = await here.open("old", disable_device_sync=True)
            fill(old.history)
            new = await here.open("new")
            await meet(old, new)
            assert old.sync_status().phase is SyncPhase.OFF
            with pytest.raises(SyncTimeout):
                await new.sync_history(timeout=0.5)
            assert here.server.requests == []
            await old.send_sync_archive("by hand")
            await meet(new)
            assert_nothing(new)
            await new.process_sync_archive("by hand")
            assert_same(old, new)

    run(main)
