"""What no well-behaved installation says in a sync group: it is left out, and what is beside and behind it counts.

Only installations of the inbox can say anything there; theirs may be old, new, broken, or in other hands for a while.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from client.sync_world import (
    ACKNOWLEDGE,
    MANY,
    NOTICE,
    PREFERENCES,
    REPLY,
    REQUEST,
    World,
    assert_nothing,
    assert_same,
    consent_update,
    fill,
    following,
    heard,
    hmac_update,
    meet,
    preferences,
    reply,
    request,
    run,
    say,
    tasks,
    until,
    world,
)
from independent import encode_element
from independent.protobuf import encode_varint, field_bytes
from support.build import ALICE, consent, group, group_id, message
from support.faulty_server import FaultyServer
from xmtp_history import (
    ArchiveNotFound,
    ArchivePolicy,
    ArchiveSent,
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    HistoryImported,
    HistorySyncFailed,
    XmtpHistoryError,
)

INBOX = ConsentEntityType.INBOX_ID
KEY = bytes(range(32))

#: No more than a node takes in one message.
LARGE = 900_000


_PLAIN = {
    "request": request("pin00", "http://127.0.0.1:1"),
    "reply": reply("pin00", "http://127.0.0.1:1/files/x", KEY),
    "preferences": preferences(consent_update("ab" * 32, 3, 5), hmac_update(bytes(42), 5)),
}

MALFORMED: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(1000),
    "one byte": b"\xff",
    "a group number": b"\x0b\x0c",
    "an endless varint": b"\x0a" + b"\xff" * 20,
    "a length beyond the end": field_bytes(REQUEST, b"x" * 100)[:20],
    "a length of 2**64": b"\x0a" + encode_varint(2**64 - 1),
    "varints for messages": b"".join(field_bytes(number, 7) for number in (1, 2, 3, 4, NOTICE)),
    "no variant": field_bytes(99, b"unknown"),
    "an acknowledgement": field_bytes(ACKNOWLEDGE, field_bytes(1, b"pin00")),
    "all variants": b"".join(_PLAIN.values()),
    "empty request": field_bytes(REQUEST, b""),
    "empty reply": field_bytes(REPLY, b""),
    "empty preferences": field_bytes(PREFERENCES, b""),
    "empty notice": field_bytes(ACKNOWLEDGE, b"") + field_bytes(NOTICE, b""),
    "empty update": preferences(b"", b""),
    "updates of unknown kinds": preferences(field_bytes(9, b"x"), field_bytes(1, b""), field_bytes(2, b"")),
    "a pin that is no text": request(b"\xff\xfe\x80", "http://127.0.0.1:1"),
    "a URL that is no text": request("pin01", b"\xff\xfe\x80"),
    "a large pin": request("p" * LARGE, "http://127.0.0.1:1"),
    "a large URL": request("pin02", "http://127.0.0.1:1/" + "u" * LARGE),
    "unknown elements": request("pin03", "http://127.0.0.1:1", elements=b"\x00\x03\x7f"),
    "many elements": request("pin04", "http://127.0.0.1:1", elements=b"\x01" * 100_000),
    "a reply without a key": field_bytes(REPLY, field_bytes(1, b"pin05") + field_bytes(2, b"http://127.0.0.1:1/f")),
    "a reply of the first generation": reply("pin06", "http://127.0.0.1:1/files/x", KEY, more=field_bytes(5, 1)),
    "a reply with a large key": reply("pin07", "http://127.0.0.1:1/files/x", b"k" * LARGE),
    "a group update": field_bytes(1, ALICE.encode()) + field_bytes(2, field_bytes(1, ALICE.encode())),
    "an address": preferences(consent_update("0x" + "ab" * 20, 2, 5, entity_type=3)),
    "an unknown entity type": preferences(consent_update("ab" * 32, 2, 5, entity_type=99)),
    "a negative entity type": preferences(consent_update("ab" * 32, 2, 5, entity_type=-1)),
    "state 0": preferences(consent_update("ab" * 32, 0, 5)),
    "state 99": preferences(consent_update("ab" * 32, 99, 5)),
    "an entity that is no text": preferences(consent_update(b"\xff\xfe", 2, 5)),
    "an entity that is no id": preferences(consent_update("'; DROP TABLE consent_records; --", 2, 5)),
    "an empty entity": preferences(consent_update("", 2, 5)),
    "a large entity": preferences(consent_update("ab" * (LARGE // 2), 2, 5)),
    "HMAC key of 41 bytes": preferences(hmac_update(bytes(41), time.time_ns() + 10**18)),
    "HMAC key of 43 bytes": preferences(hmac_update(bytes(43), time.time_ns() + 10**18)),
    "no HMAC key": preferences(hmac_update(b"", time.time_ns() + 10**18)),
    "a refusal of nothing": field_bytes(ACKNOWLEDGE, b"") + field_bytes(NOTICE, field_bytes(2, b"")),
    "a refusal with large words": field_bytes(ACKNOWLEDGE, b"")
    + field_bytes(NOTICE, field_bytes(2, b"".join(field_bytes(number, b"w" * (LARGE // 3)) for number in (1, 2, 3)))),
    "recorded rubbish": field_bytes(ACKNOWLEDGE, b"")
    + field_bytes(NOTICE, field_bytes(1, field_bytes(1, b"\xff\xff") + field_bytes(1, b""))),
    **{
        f"{name}, cut at {at}": content[:at]
        for name, content in _PLAIN.items()
        for at in (1, 2, 3, 10, len(content) - 1)
    },
}


async def two(here: World, **options: Any) -> tuple[Client, Client]:
    """One that is to be unimpressed, and one that says anything."""
    options = {"archive_policy": ArchivePolicy(burst=1000)} | options
    old = await here.open("old", **options)
    fill(old.history)
    new = await here.open("new", sync_interval=None)
    await meet(old, new)
    return old, new


async def unimpressed(old: Client, new: Client) -> None:
    """It hears what is said next, says something itself, and answers a request."""
    entity = random.randbytes(32).hex()
    await new.preferences.set_consent_states([Consent(INBOX, ConsentState.DENIED, entity, 0)])
    await new.preferences.sync()

    async def told() -> bool:
        return await old.preferences.get_consent_state(INBOX, entity) is ConsentState.DENIED

    await until(told)
    await old.preferences.set_consent_states([Consent(INBOX, ConsentState.ALLOWED, entity, 0)])
    await old.preferences.sync()

    async def told_too() -> bool:
        await new.preferences.sync()
        return await new.preferences.get_consent_state(INBOX, entity) is ConsentState.ALLOWED

    await until(told_too)
    async with following(old) as events:
        pin = await new.send_sync_request()
        await until(lambda: [event for event in events.of(ArchiveSent) if event.pin == pin])


async def settled(client: Client, content: bytes) -> None:
    """A client has heard something, and done what there was to do."""

    async def is_settled() -> bool:
        return any(said.content == content for said in await heard(client)) and not await tasks(client)

    await until(is_settled)


def test_malformed_contents(tmp_path: Path) -> None:
    """All of them, one after the other, and between them what is not malformed."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            before = {consent.entity: consent for consent in old.history.consents()}
            async with following(old) as events:
                for content in MALFORMED.values():
                    await say(new, content)
                await unimpressed(old, new)
                # Requests that can be understood wait for their server, which there is not.
                assert {task["kind"] for task in await tasks(old)} <= {"answer"}
                assert not events.of(HistoryImported)
                assert len({event.pin for event in events.of(ArchiveSent)}) == 1
            after = {consent.entity: consent for consent in old.history.consents()}
            changed = {entity for entity in after if after[entity] != before.get(entity)}
            assert len(changed) == 2, "the one of the plain update, and the one that shows that all is well"
            assert "ab" * 32 in changed
            _, root = await old._parts.core.call("hmac_root")
            assert root not in {bytes(41), bytes(43)}
            # It was understood the same way when it was stored, and is when the store is opened again.
            await old.aclose()
            old = await here.reopen("old", archive_policy=ArchivePolicy(burst=1000))
            await unimpressed(old, new)
            assert {consent.entity for consent in old.history.consents()} >= set(after)

    run(main, 90)


@pytest.mark.parametrize("seed", range(2))
def test_random_contents(tmp_path: Path, seed: int) -> None:
    """Bytes of chance, and well-formed contents with bits of chance."""

    async def main() -> None:
        choice = random.Random(seed)
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            for _ in range(40):
                content = bytearray(choice.choice([*_PLAIN.values(), choice.randbytes(choice.randrange(1, 300))]))
                for _ in range(choice.choice([0, 1, 1, 5])):
                    content[choice.randrange(len(content))] ^= 1 << choice.randrange(8)
                await say(new, bytes(content[: choice.choice([len(content), choice.randrange(len(content))])]))
            await unimpressed(old, new)
            assert old.history.counts().messages == MANY

    run(main)


def test_hmac_keys_of_other_lengths(tmp_path: Path) -> None:
    """They are skipped; the decision before and the one behind them count, and so does a good key."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            for number, length in enumerate([0, 1, 32, 41, 43, 84]):
                now = time.time_ns()
                before, between, behind = (f"{name}{number}" * 32 for name in "abc")
                good = bytes([number]) * 42
                updates = [
                    consent_update(before, 3, now),
                    hmac_update(b"k" * length, now + 1),
                    consent_update(between, 2, now),
                    hmac_update(good, now),
                    hmac_update(b"k" * length, now + 2),
                    consent_update(behind, 2, now),
                ]
                await say(new, preferences(*updates))
                await until(_state, old, behind)
                states = [await _state(old, entity) for entity in (before, between, behind)]
                assert states == [ConsentState.DENIED, ConsentState.ALLOWED, ConsentState.ALLOWED]
                _, root = await old._parts.core.call("hmac_root")
                assert root == good
            await unimpressed(old, new)

    run(main)


def test_bad_updates_beside_good_ones(tmp_path: Path) -> None:
    """Only the bad ones are left out."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            before = old.history.counts().consents
            now = time.time_ns()
            bad = [
                b"",
                field_bytes(1, b""),
                field_bytes(9, b"from the future"),
                consent_update("0x" + "ab" * 20, 2, now, entity_type=3),
                consent_update("ba" * 32, 2, now, entity_type=0),
                consent_update("ba" * 32, 2, now, entity_type=99),
                consent_update("ba" * 32, 0, now),
                consent_update("ba" * 32, 99, now),
                consent_update("", 2, now),
                consent_update("not hexadecimal", 2, now),
                consent_update("ba" * 10_000, 2, now),
                hmac_update(b"short", now),
            ]
            good = [f"{number:064x}" for number in range(len(bad) + 1)]
            updates = [consent_update(good[0], 3, now)]
            for each, entity in zip(bad, good[1:], strict=True):
                updates += [each, consent_update(entity, 3, now)]
            await say(new, preferences(*updates))
            await until(_state, old, good[-1])
            assert [await _state(old, entity) for entity in good] == [ConsentState.DENIED] * len(good)
            assert old.history.counts().consents == before + len(good)
            await unimpressed(old, new)

    run(main)


async def _state(client: Client, entity: str) -> ConsentState | None:
    state = await client.preferences.get_consent_state(INBOX, entity)
    return None if state is ConsentState.UNKNOWN else state


def test_times_that_cannot_be(tmp_path: Path) -> None:
    """Decisions and keys that were made at the beginning or the end of time do not stand for ever."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            for number, at_ns in enumerate([0, -1, -(2**63), 2**63 - 1]):
                entity = f"e{number}" * 32
                await say(new, preferences(consent_update(entity, 3, at_ns), hmac_update(b"K" * 42, at_ns)))
                await until(_state, old, entity)
                await old.preferences.set_consent_states([Consent(INBOX, ConsentState.ALLOWED, entity, 0)])
                await old.preferences.sync()
                await new.preferences.sync()
                for client in (old, new):
                    assert await _state(client, entity) is ConsentState.ALLOWED
                # A new key can be made, which is newer, and which others take over.
                await old._parts.core.ask("cycle_hmac")
                await old.preferences.sync()
                await new.preferences.sync()
                roots = [(await client._parts.core.call("hmac_root"))[1] for client in (old, new)]
                assert roots[0] == roots[1] != b"K" * 42
                assert not (await old.outbox()).hmac_due
            await unimpressed(old, new)

    run(main)


ODD_PINS = ["", " ", "💥🧨", "a\nb", "../../x", "%s%n{0}", "\x1b[2J", "'; --", "x" * 32, "x" * 500]


def test_odd_pins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are answered or refused like others, or left out, and steer no terminal."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            for pin in ODD_PINS:
                content = request(pin, here.url)
                await say(new, content)
                await settled(old, content)
                content = reply(pin, f"{here.url}/files/{'0' * 36}", KEY)
                await say(new, content)
                await settled(old, content)
                assert here.server.methods().count("GET") == 0, "nobody has asked for it"
                try:
                    await old.process_sync_archive(pin)
                except (XmtpHistoryError, ValueError) as error:
                    assert "\x1b" not in str(error)
                here.server.requests.clear()
            await meet(old, new)
            # Only such as no message could have are left out.
            answered = {
                said.fields[1].decode() for said in await heard(new, REPLY) if said.sender != new.installation_id
            }
            assert {"💥🧨", "../../x", "%s%n{0}", "'; --", "x" * 32} <= answered <= set(ODD_PINS)
            await unimpressed(old, new)

    caplog.set_level("DEBUG")
    run(main)
    for record in caplog.records:
        text = record.getMessage()
        assert "\n" not in text
        assert "\x1b" not in text


def test_ten_megabytes_of_updates(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            began = time.monotonic()
            size = len(preferences(consent_update(f"{0:064x}", 2, 5)))
            each = LARGE // size
            total = 0
            for start in range(0, 10_000_000 // size, each):
                entities = [f"{number:064x}" for number in range(start, start + each)]
                await say(new, preferences(*(consent_update(entity, 2, 5) for entity in entities)))
                total += each
            await until(_state, old, f"{total - 1:064x}")
            assert old.history.counts().consents == total + 3
            await unimpressed(old, new)
            assert time.monotonic() - began < 30

    run(main, 60)


def test_replies_nobody_has_asked_for(tmp_path: Path) -> None:
    """They are offered, and fetched by nobody but the user."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            for number in range(60):
                await say(new, reply(f"pin {number}", f"{here.url}/files/{number:036}", KEY))
            await until(_heard, old, 60)
            await unimpressed(old, new)
            assert here.server.methods().count("GET") == 0
            pins = [archive.pin for archive in old.list_available_archives()]
            assert pins[:60] == [f"pin {number}" for number in reversed(range(60))]
            with pytest.raises(ArchiveNotFound):
                await old.process_sync_archive("pin 60")
            with pytest.raises(XmtpHistoryError):
                await old.process_sync_archive("pin 1")

    run(main)


async def _heard(client: Client, replies: int) -> bool:
    return len(await heard(client, REPLY)) >= replies


def test_answers_with_urls_that_are_none(tmp_path: Path) -> None:
    """What was asked for and cannot be fetched is given up, and said."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            # The one that asks is the one with a worker, and the one that answers says anything.
            old, new = await two(here)
            urls = [
                "",
                "files/x",
                "file:///etc/passwd",
                "ftp://127.0.0.1/x",
                "http://",
                "http://127.0.0.1:1/ x",
                "js:1",
            ]
            async with following(old) as events:
                for number, url in enumerate(urls, 1):
                    pin = await old.send_sync_request()
                    await say(new, reply(pin, url, KEY))
                    failed = await events.first(HistorySyncFailed, number)
                    assert (failed.pin, failed.sent_by_installation) == (pin, new.installation_id)
            assert await tasks(old) == []
            assert here.server.requests == []

    run(main)


def test_recorded_messages_of_every_kind(tmp_path: Path) -> None:
    """Of what is told as recorded, what is no message or breaks the rules is left out."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            good = [group(9000), message(9001, 9000), message(9002, 9000)]
            bad = [
                consent("ab" * 32, 3, entity_type=2),
                message(9003, 9000, sent_at_ns=-5),
                message(9004, 9000, id="ab"),
                message(9005, 9000, group_id=""),
                group(9006, id=""),
            ]
            elements = [encode_element(element) for element in [good[0], *bad, *good[1:]]]
            elements[2:2] = [b"", b"\xff\xff", b"\x00" * 100]
            said = b"".join(field_bytes(1, element) for element in elements)
            await say(new, field_bytes(ACKNOWLEDGE, b"") + field_bytes(NOTICE, field_bytes(1, said)))
            await until(lambda: list(old.history.messages(group_id(9000))))
            numbers = {each.sequence_id for each in old.history.messages(group_id(9000))}
            assert numbers <= {9001, 9002, 9003}
            assert {9001, 9002} <= numbers
            assert await _state(old, "ab" * 32) is None, "decisions are not told like this"
            # What is there is not replaced.
            first = next(iter(old.history.messages(group_id(1), limit=1)))
            forged = message(first.sequence_id or 0, 1, content=b"forged", id=first.id)
            await say(
                new,
                field_bytes(ACKNOWLEDGE, b"")
                + field_bytes(NOTICE, field_bytes(1, field_bytes(1, encode_element(forged)))),
            )
            await unimpressed(old, new)
            assert next(iter(old.history.messages(group_id(1), limit=1))) == first

    run(main)


def test_a_flood_of_requests(tmp_path: Path) -> None:
    """Of one installation only a few are answered at once; everything else goes on meanwhile."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, archive_policy=ArchivePolicy())
            for number in range(30):
                await say(new, request(f"f{number:04}", here.url))
            await until(lambda: len(here.server.files) == 3)
            third = await here.open("third")
            await meet(old, third)
            await third.sync_history(timeout=20)
            assert_same(old, third)
            assert len(here.server.files) < 10
            assert_nothing(new)

    run(main)
