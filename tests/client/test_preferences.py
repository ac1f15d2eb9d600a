"""What installations of an inbox keep in step: consent, and the key of push notifications."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from client.sync_world import Following, fill, meet, run, until, world
from support.build import group_id, message, message_id
from support.public import public
from xmtp_history import (
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    ConsentUpdate,
    HmacKey,
    HmacKeyUpdate,
    Message,
)
from xmtp_history.client import _core

STREAMS_ONLY = {"sync_interval": 3600.0}
INBOX, CONVERSATION = ConsentEntityType.INBOX_ID, ConsentEntityType.CONVERSATION_ID
SOMEBODY = "b0" * 32


async def decided(client: Client, state: ConsentState, entity: str = SOMEBODY) -> None:
    """Waits until a client knows a decision."""

    async def is_known() -> bool:
        return await client.preferences.get_consent_state(INBOX, entity) is state

    await until(is_known)


def test_decisions_here(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a", **STREAMS_ONLY)
            preferences = client.preferences
            assert await preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.UNKNOWN
            consents, updates = Following(preferences.stream_consent()), Following(preferences.stream_preferences())
            before = time.time_ns()
            wanted = [
                Consent(INBOX, ConsentState.DENIED, SOMEBODY.upper(), 1),
                Consent(CONVERSATION, ConsentState.ALLOWED, group_id(1), 2),
            ]
            changed = await preferences.set_consent_states(iter(wanted))
            assert [(each.entity_type, each.state, each.entity) for each in changed] == [
                (INBOX, ConsentState.DENIED, SOMEBODY),
                (CONVERSATION, ConsentState.ALLOWED, group_id(1)),
            ]
            assert all(before <= each.consented_at_ns <= time.time_ns() for each in changed)
            assert await preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.DENIED
            assert {each.entity: each for each in client.history.consents()} == {each.entity: each for each in changed}
            # The same again is no change.
            assert await preferences.set_consent_states(wanted) == []
            assert await preferences.set_consent_states([]) == []
            (unknown,) = await preferences.set_consent_state(INBOX, SOMEBODY, ConsentState.UNKNOWN)
            assert await preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.UNKNOWN
            await until(lambda: len(consents.all) == len(updates.all) == 2)
            assert consents.all == [changed, [unknown]]
            assert updates.all == [[ConsentUpdate(each) for each in changed], [ConsentUpdate(unknown)]]
            await consents.close()
            await updates.close()

    run(main)


@pytest.mark.parametrize(
    ("records", "error"),
    [
        ([Consent(INBOX, ConsentState.DENIED, "nonsense", 0)], ValueError),
        ([Consent(INBOX, ConsentState.DENIED, "", 0)], ValueError),
        ([Consent(7, ConsentState.DENIED, SOMEBODY, 0)], ValueError),
        ([Consent(INBOX, 9, SOMEBODY, 0)], ValueError),
        ([(INBOX, ConsentState.DENIED, SOMEBODY)], TypeError),
        (["x"], TypeError),
    ],
)
def test_decisions_that_are_none(tmp_path: Path, records: list[Any], error: type[Exception]) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a", sync_interval=None)
            good = Consent(INBOX, ConsentState.DENIED, SOMEBODY, 0)
            with pytest.raises(error):
                await client.preferences.set_consent_states([good, *records])
            # All of them or none.
            assert await client.preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.UNKNOWN
            assert (await client.outbox()).consents == 0

    run(main)


def test_decisions_reach_the_others_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            clients = [await here.open(name, **STREAMS_ONLY) for name in "abc"]
            await until(lambda: all(client.metrics().init for client in clients))
            for number, client in enumerate(clients):
                streams = [Following(other.preferences.stream_consent()) for other in clients]
                entity = f"{number:064x}"
                changed = await client.preferences.set_consent_state(INBOX, entity, ConsentState.DENIED)
                for other in clients:
                    await decided(other, ConsentState.DENIED, entity)
                # Once each, here and there.
                await until(lambda streams=streams: all(stream.all for stream in streams))
                assert [stream.all for stream in streams] == [[changed]] * 3
                for stream in streams:
                    await stream.close()
            await until(lambda: sum(client.metrics().consent_sent for client in clients) == 3)
            assert [client.metrics().consent_received for client in clients] == [2, 2, 2]
            for client in clients:
                waiting = await client.outbox()
                assert (waiting.consents, waiting.messages, waiting.hmac_due) == (0, 0, False)

    run(main)


def test_decisions_without_a_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            one, other = [await here.open(name, sync_interval=None) for name in "ab"]
            await meet(one, other)
            await one.preferences.set_consent_state(INBOX, SOMEBODY, ConsentState.ALLOWED)
            assert (await one.outbox()).consents == 1
            await other.preferences.sync()
            assert await other.preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.UNKNOWN
            await one.preferences.sync()
            assert (await one.outbox()).consents == 0
            summary = await other.preferences.sync()
            assert summary.num_synced >= 1
            await decided(other, ConsentState.ALLOWED)

    run(main)


def test_decisions_taken_offline_are_sent_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            one, other = await here.open("one"), await here.open("other")
            await meet(one, other)
            await one.aclose()
            await here.stop_node()
            one = await here.reopen("one")
            (changed,) = await one.preferences.set_consent_state(INBOX, SOMEBODY, ConsentState.DENIED)
            await one.aclose()
            await here.start_node()
            await here.reopen("one")
            await decided(other, ConsentState.DENIED)
            (there,) = [each for each in other.history.consents() if each.entity == SOMEBODY]
            # The time at which it was taken, not the one at which it was sent.
            assert there.consented_at_ns == changed.consented_at_ns

    run(main)


def test_decisions_of_all_at_the_same_time_end_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            clients = [await here.open(name, **STREAMS_ONLY) for name in "abc"]
            await until(lambda: all(client.metrics().init for client in clients))
            states = list(ConsentState)
            for turn in range(4):
                await asyncio.gather(
                    *(
                        client.preferences.set_consent_state(INBOX, SOMEBODY, states[(turn + number) % 3])
                        for number, client in enumerate(clients)
                    )
                )
            await meet(*clients)
            await meet(*clients)
            found = [[each for each in client.history.consents() if each.entity == SOMEBODY] for client in clients]
            assert found[0] == found[1] == found[2]
            assert len(found[0]) == 1

    run(main)


def test_whoever_is_cancelled_has_decided(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a", sync_interval=None)
            stream = client.preferences.stream_consent()
            task = asyncio.create_task(client.preferences.set_consent_state(INBOX, SOMEBODY, ConsentState.DENIED))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                (consent,) = await anext(stream)
            assert consent.state is ConsentState.DENIED
            assert await client.preferences.get_consent_state(INBOX, SOMEBODY) is ConsentState.DENIED

    run(main)


def test_hmac_keys_change_when_an_installation_comes(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            one = await here.open("one", **STREAMS_ONLY)
            stream = Following(one.preferences.stream_preference_updates())
            consents = Following(one.preferences.stream_consent())
            other = await here.open("other", **STREAMS_ONLY)
            theirs = Following(other.preferences.stream_preferences())
            await until(lambda: stream.all and theirs.all)
            ((here_update,), *_), ((there_update,), *_) = stream.all, theirs.all
            assert isinstance(here_update, HmacKeyUpdate)
            assert here_update == there_update
            assert len(here_update.key) == 42
            assert here_update.key.hex() not in repr(here_update)
            assert str(list(here_update.key)) not in repr(here_update)
            assert "key" not in repr(HmacKey(1, b"secret"))
            assert abs(here_update.cycled_at_ns - time.time_ns()) < 60e9
            assert one.metrics().hmac_sent == other.metrics().hmac_received == 1
            assert await one.conversations.hmac_keys() == {}
            # Whoever only wants to know of consent gets no empty lists.
            assert consents.all == []
            await other.revoke_installations([one.installation_id])
            await until(lambda: other.metrics().hmac_sent)
            # There is nobody to tell, but who was revoked must not know the key.
            await until(lambda: len(theirs.all) == 2)
            (changed,) = theirs.all[1]
            assert changed.key != here_update.key
            for each in (stream, consents, theirs):
                await each.close()

    run(main)


def test_hmac_keys_are_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            clients = [await here.open(name, **STREAMS_ONLY) for name in "ab"]
            await until(lambda: clients[1].metrics().hmac_received)
            ids = [group_id(1), group_id(2)]
            one, other = [await client._parts.core.ask("hmac_keys", ids=ids) for client in clients]
            assert one == other
            assert [len(keys) for keys in one.values()] == [3, 3]

            async def groups(_self: Any) -> list[Any]:
                kinds = [(group_id(1), 1), (group_id(9), 3)]
                return [
                    _core._group(
                        {
                            "id": each,
                            "conversation_type": kind,
                            "state": "active",
                            "reason": "",
                            "maybe_forked": False,
                            "epoch": 1,
                            "cursor": 0,
                            "created_at_ns": 0,
                            "creator_inbox_id": "",
                            "added_by_inbox_id": "",
                            "undecryptable": 0,
                        }
                    )
                    for each, kind in kinds
                ]

            monkeypatch.setattr(_core.Core, "groups", groups)
            keys = await clients[0].conversations.hmac_keys()
            expected = tuple(HmacKey(epoch, bytes.fromhex(key)) for epoch, key in one[group_id(1)])
            assert keys == {group_id(1): expected}
            assert [later.epoch - earlier.epoch for earlier, later in itertools.pairwise(expected)] == [
                1,
                1,
            ]

    run(main)


def test_messages_as_they_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a", sync_interval=None)
            stream = client.conversations.stream_all_messages()
            fill(client.history, count=0)
            client.history.add_messages([public(message(number)) for number in range(3)])  # type: ignore[misc]
            for number in (2, 7, 0):
                # As a group's page would tell it; the seventh is not there any more.
                client._parts.hub.messages.publish(message_id(number))
            found = [await anext(stream), await anext(stream)]
            assert all(isinstance(each, Message) for each in found)
            assert [each.id for each in found] == [message_id(2), message_id(0)]
            assert found[0] in list(client.history.messages(group_id(1)))

    run(main)
