"""Nodes that are down before, during and after, or fail in one call: nothing is lost, and nothing comes twice."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.clients import path_of
from client.sync_world import (
    PREFERENCES,
    REPLY,
    REQUEST,
    SPAMMER,
    Said,
    World,
    arrived,
    assert_nothing,
    assert_same,
    fill,
    following,
    heard,
    meet,
    run,
    tasks,
    until,
    world,
)
from network.faulty_node import FaultyNode, fail, hang, lost
from support.faulty_server import Exchange, Fault, FaultyServer, on
from xmtp_history import (
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    HistoryImported,
    NetworkError,
    SyncTimeout,
)

INBOX = ConsentEntityType.INBOX_ID
ALLOWED, DENIED, UNKNOWN = ConsentState.ALLOWED, ConsentState.DENIED, ConsentState.UNKNOWN
PERSON = "ab" * 32

#: What clients that know each other call.
METHODS = [
    "GetIdentityUpdates",
    "QueryWelcomeMessages",
    "GetNewestGroupMessage",
    "QueryGroupMessages",
    "SendGroupMessages",
]


async def decide(client: Client, state: ConsentState, entity: str = PERSON) -> Consent:
    """Takes a decision about a person, which is a change."""
    (changed,) = await client.preferences.set_consent_states([Consent(INBOX, state, entity, 0)])
    return changed


def decision(client: Client, entity: str = PERSON) -> Consent | None:
    """What a client's store says of a person."""
    return next((each for each in client.history.consents() if each.entity == entity), None)


async def told(client: Client, entity: str = PERSON) -> list[Said]:
    """The messages that tell a decision about a person."""
    return [said for said in await heard(client, PREFERENCES) if entity.encode() in said.content]


def _then_down(here: World) -> Fault:
    """The node goes, and then the history server answers."""

    async def then_down(server: FaultyServer, exchange: Exchange) -> None:
        await here.stop_node()
        await server.answer(exchange)

    return then_down


async def _pair(here: World, **options: Any) -> tuple[Client, Client]:
    old = await here.open("old", **options)
    new = await here.open("new", **options)
    await meet(old, new)
    return old, new


@pytest.mark.parametrize("restart", [False, True])
def test_a_decision_without_the_node(tmp_path: Path, restart: bool) -> None:
    """It is told later, with the time at which it was taken, once."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await _pair(here)
            await here.stop_node()
            await decide(old, DENIED)
            changed = await decide(old, ALLOWED)
            assert await old.preferences.get_consent_state(INBOX, PERSON) is ALLOWED
            assert decision(old) == changed
            assert decision(new) is None
            if restart:
                await old.aclose()
                old = await here.reopen("old")
                assert decision(old) == changed
            await here.start_node()
            await until(lambda: decision(new) == changed)
            assert decision(old) == changed
            await meet(new, old, new)
            (only,) = await told(new)
            assert only.sent_at_ns > changed.consented_at_ns
            assert (await old.outbox()).consents == 0

    run(main)


def test_decisions_on_both_sides_without_the_node(tmp_path: Path) -> None:
    """The later one stands on both, whoever is heard first."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await _pair(here, sync_interval=None)
            others = [f"{number:064x}" for number in range(4)]
            await here.stop_node()
            latest = {}
            for number, entity in enumerate(others):
                first, second = (old, new) if number % 2 else (new, old)
                await decide(first, DENIED, entity)
                latest[entity] = await decide(second, ALLOWED, entity)
            await here.start_node()
            await old.preferences.sync()
            await meet(new, old, new)
            for client in (old, new):
                assert {entity: decision(client, entity) for entity in others} == latest

    run(main)


def test_what_was_decided_long_ago_does_not_win(tmp_path: Path) -> None:
    """A decision that could not be told for long is older than what others decided meanwhile."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await _pair(here, sync_interval=None)
            await here.stop_node()
            await decide(old, DENIED)
            await old.aclose()
            await here.start_node()
            latest = await decide(new, ALLOWED)
            await new.preferences.sync()
            old = await here.reopen("old", sync_interval=None)
            await old.preferences.sync()
            await meet(new, old)
            assert decision(old) == decision(new) == latest

    run(main)


def test_down_when_history_is_asked_for(tmp_path: Path) -> None:
    """It is said that nothing was asked for; once the node is back, it can be."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await _pair(here)
            fill(old.history)
            await here.stop_node()
            for call in (new.sync_history, new.send_sync_request, new.sync_all_device_sync_groups):
                with pytest.raises(NetworkError):
                    await call()
            assert new.sync_status().pending_requests == 0
            await here.start_node()
            await _insisting(new)
            assert_same(old, new)
            assert len(await heard(old, REQUEST)) == 1
            assert len(await heard(new, REPLY)) == 1

    run(main)


def test_down_when_an_installation_starts_that_wants_history(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            # It was registered, and stopped before it could ask.
            await (await here.open("new", sync_interval=None)).aclose()
            await here.stop_node()
            new = await here.reopen("new", auto_history_sync=True)
            async with following(new) as events:
                await here.start_node()
                imported = await events.first(HistoryImported)
                assert imported.sent_by_installation == old.installation_id
            assert_same(old, new)
            assert len(await heard(old, REQUEST)) == 1

    run(main)


def test_down_before_the_answer(tmp_path: Path) -> None:
    """The archive is uploaded, and the node is gone: the answer is said when it is back."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await _pair(here)
            fill(old.history)
            here.server.faults = [on("POST", _then_down(here))]
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await until(lambda: here.server.files)
            for client in (old, new):
                with pytest.raises(NetworkError):
                    await client.sync_all_device_sync_groups()
            assert not syncing.done()
            await here.start_node()
            assert (await syncing).archives == 1
            assert_same(old, new)
            assert len(await heard(new, REPLY)) == 1

    run(main)


def test_down_after_the_answer(tmp_path: Path) -> None:
    """The archive comes although the node is gone; what is to be told of it can wait."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await _pair(here)
            fill(old.history)
            here.server.faults = [on("GET", _then_down(here))]
            assert (await new.sync_history(timeout=30)).archives == 1
            assert_same(old, new)
            await here.start_node()
            changed = await decide(new, DENIED)
            await until(lambda: decision(old) == changed)
            assert here.server.methods().count("GET") == 1

    run(main)


def test_never_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            _, new = await _pair(here)
            await here.stop_node()
            with pytest.raises((NetworkError, SyncTimeout)):
                await new.sync_history(timeout=1)
            assert_nothing(new)
            await here.start_node()

    run(main)


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        *itertools.product(METHODS, ["refused", "lost"]),
        ("QueryGroupMessages", "hanging"),
        ("SendGroupMessages", "hanging"),
    ],
)
def test_each_call_fails(tmp_path: Path, impatient: None, method: str, fault: str) -> None:
    """Of either side, at several moments, while history and a decision are on their way."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, FaultyNode(here.node_url) as node:
            failure = {
                "refused": fail(grpc.StatusCode.INVALID_ARGUMENT),
                "lost": lost(node, path_of(method)),
                "hanging": hang,
            }[fault]

            async def handed_on(request: bytes, context: Any) -> bytes:
                return await node.forward(path_of(method), request, context)

            old, new = await here.open("old", node=node.url), await here.open("new", node=node.url)
            await meet(old, new)
            fill(old.history)
            many = 1 if fault == "hanging" else 3
            node.answer(method, *[failure, handed_on, handed_on] * many, handed_on)
            syncing = asyncio.ensure_future(_insisting(new))
            denied = await decide(new, DENIED, SPAMMER)
            await syncing
            await arrived(new)
            await until(lambda: decision(old, SPAMMER) == denied)
            await until(_settled, old, new)
            node.script.clear()
            await meet(old, new, old)
            assert_same(old, new)
            assert len(await heard(old, REQUEST)) == len(await heard(new, REPLY)) == 1
            assert len(await told(old, SPAMMER)) == 1
            # What was uploaded before the node failed is uploaded again, and told once.
            assert len(here.server.files) <= 1 + many

    run(main)


async def _insisting(client: Client) -> None:
    """Asks for history until it was asked for."""
    while True:
        with suppress(NetworkError):
            await client.sync_history(timeout=20)
            return


async def _settled(*clients: Client) -> bool:
    waiting = [await client.outbox() for client in clients]
    pending = [await tasks(client) for client in clients]
    return not any(pending) and not any(each.consents or each.intents for each in waiting)
