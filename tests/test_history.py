"""The encrypted store: opening and asking."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import child, public
from support.build import (
    ALICE,
    BOB,
    KEY,
    STORE_KEY,
    T0,
    consent,
    dm,
    group,
    group_id,
    message,
    message_id,
    metadata,
    number_of_id,
    small,
)
from support.data import fixture
from support.store import import_elements, snapshot
from xmtp_history import (
    Consent,
    ConsentEntityType,
    ConsentState,
    Conversation,
    ConversationType,
    Counts,
    DeliveryStatus,
    History,
    Message,
    MessageKind,
    StoreError,
    StoreKeyError,
)


def _message(number: int, of: int = 1, **changes: Any) -> Message:
    return public.message(message(number, of)[1], **changes)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty_and_private(store_path: Path) -> None:
    with History.open(store_path, STORE_KEY) as history:
        assert history.counts() == Counts()
        assert list(history.conversations()) == []
        assert list(history.consents()) == []
        assert list(history.messages("00" * 16)) == []
    assert store_path.stat().st_mode & 0o077 == 0


def test_content_survives_closing(store_path: Path) -> None:
    with History.open(store_path, STORE_KEY) as history:
        import_elements(history, small())
        before = snapshot(history)
    with History.open(store_path, STORE_KEY) as history:
        assert snapshot(history) == before
    with History.open(str(store_path), bytearray(STORE_KEY)) as history:
        assert history.counts() == Counts(2, 3, 2)


def test_nothing_readable_is_on_disk(store_path: Path) -> None:
    with History.open(store_path, STORE_KEY) as history:
        conversation = group(1, id="c5" * 16, attributes={"group_name": "find me if you can"})
        import_elements(history, [metadata(), conversation, message(1, group_id="c5" * 16)])
        files = [path for path in store_path.parent.iterdir() if path.is_file()]
        for path in files:
            data = path.read_bytes()
            for secret in (
                b"find me",
                b"message 1",
                ALICE.encode(),
                bytes.fromhex("c5" * 16),
                b"SQLite format",
                b"CREATE",
            ):
                assert secret not in data, path.name


@pytest.mark.parametrize("key", [bytes(32), STORE_KEY[::-1]])
def test_a_wrong_key(store_path: Path, key: bytes) -> None:
    with History.open(store_path, STORE_KEY) as history:
        import_elements(history, small())
    content = store_path.read_bytes()
    with pytest.raises(StoreKeyError):
        History.open(store_path, key)
    assert store_path.read_bytes() == content
    with History.open(store_path, STORE_KEY) as history:
        assert history.counts() == Counts(2, 3, 2)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)], ids=len)
def test_keys_of_another_length(store_path: Path, key: bytes) -> None:
    with pytest.raises(StoreKeyError, match="32"):
        History.open(store_path, key)
    with pytest.raises(ValueError, match="32"):
        History.open(store_path, key)
    assert not store_path.exists()


@pytest.mark.parametrize("key", ["k" * 32, None, 7])
def test_keys_of_another_type(store_path: Path, key: Any) -> None:
    with pytest.raises(TypeError):
        History.open(store_path, key)
    assert not store_path.exists()


@pytest.mark.parametrize(
    "content", [b"hello", b"x" * 100_000, fixture("many-pages").data], ids=["short", "long", "archive"]
)
def test_not_a_store(store_path: Path, content: bytes) -> None:
    store_path.write_bytes(content)
    with pytest.raises(StoreError):
        History.open(store_path, STORE_KEY)
    assert store_path.read_bytes() == content


def test_a_plain_database_is_not_a_store(store_path: Path) -> None:
    connection = sqlite3.connect(store_path)
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.close()
    content = store_path.read_bytes()
    with pytest.raises(StoreError):
        History.open(store_path, STORE_KEY)
    assert store_path.read_bytes() == content


def test_a_damaged_store(store_path: Path) -> None:
    """A byte in any page: the damage is found when the page is read, or the page did not matter."""
    known = fixture("dms-consents")
    with History.open(store_path, STORE_KEY) as history:
        history.import_archive(known.path, known.key)
        before = snapshot(history)
    content = store_path.read_bytes()
    outcomes: list[type[StoreError] | None] = []
    for at in range(7, len(content), 4096):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        store_path.write_bytes(bytes(damaged))
        try:
            with History.open(store_path, STORE_KEY) as history:
                assert snapshot(history) == before
                outcomes.append(None)
        except StoreError as error:
            outcomes.append(type(error))
    assert outcomes[0] is StoreKeyError, "as with a wrong key: the first page does not open"
    # Many pages are of tables that only an installation fills.
    assert outcomes.count(StoreError) >= len(outcomes) // 4


def test_missing_folders_and_folders(tmp_path: Path) -> None:
    with pytest.raises((OSError, StoreError)):
        History.open(tmp_path / "no" / "store.db3", STORE_KEY)
    with pytest.raises((OSError, StoreError)):
        History.open(tmp_path, STORE_KEY)


def test_closed_stores_say_so(history: History, tmp_path: Path) -> None:
    import_elements(history, small())
    pending = history.messages(group_id(1))
    history.close()
    history.close()
    calls: list[Callable[[], Any]] = [
        history.counts,
        lambda: list(history.conversations()),
        lambda: history.conversation(group_id(1)),
        lambda: list(history.messages(group_id(1))),
        lambda: list(history.consents()),
        lambda: history.add_messages([_message(1)]),
        lambda: history.add_conversations([]),
        lambda: history.set_consents([]),
        lambda: history.create_archive(tmp_path / "x.xmtp", KEY),
        lambda: import_elements(history, small()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()
    assert not (tmp_path / "x.xmtp").exists()
    # A list that was begun before either ends or says so.
    try:
        assert len(list(pending)) <= 2
    except ValueError as error:
        assert "closed" in str(error)


# --- queries ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def talkative(history: History) -> History:
    """A conversation of 1,000 messages, ten of them at any one time, stored in no order."""
    numbers = [(n * 387) % 1000 for n in range(1000)]
    history.add_conversations([Conversation(id=group_id(1), created_at_ns=T0)])
    history.add_messages([_message(n, sent_at_ns=T0 + n // 10) for n in numbers])
    return history


def _numbers(messages: Iterator[Message]) -> list[int]:
    return [number_of_id(entry.id) for entry in messages]


def test_messages_come_by_time_then_id(talkative: History) -> None:
    assert _numbers(talkative.messages(group_id(1))) == list(range(1000))
    assert _numbers(talkative.messages(group_id(1), descending=True)) == list(range(999, -1, -1))


@pytest.mark.parametrize("limit", [0, 1, 7, 256, 999, 1000, 5000])
def test_limit(talkative: History, limit: int) -> None:
    assert _numbers(talkative.messages(group_id(1), limit=limit)) == list(range(1000))[:limit]
    newest = list(range(999, -1, -1))[:limit]
    assert _numbers(talkative.messages(group_id(1), limit=limit, descending=True)) == newest


@pytest.mark.parametrize("limit", [-1, -(2**70)])
def test_limits_that_mean_nothing(talkative: History, limit: int) -> None:
    with pytest.raises(ValueError):
        list(talkative.messages(group_id(1), limit=limit))
    with pytest.raises(ValueError):
        list(talkative.conversations(limit=limit))


@pytest.mark.parametrize(("after", "before"), [(10, None), (None, 20), (10, 20), (20, 10), (50, 51), (-(2**62), 2**61)])
def test_time_range(talkative: History, after: int | None, before: int | None) -> None:
    """Both ends are exclusive, so a page can begin where the last one ended."""
    bounds: dict[str, Any] = {
        "after_ns": None if after is None else T0 + after,
        "before_ns": None if before is None else T0 + before,
    }
    expected = [n for n in range(1000) if (after is None or n // 10 > after) and (before is None or n // 10 < before)]
    assert _numbers(talkative.messages(group_id(1), **bounds)) == expected
    assert _numbers(talkative.messages(group_id(1), **bounds, limit=15)) == expected[:15]
    assert _numbers(talkative.messages(group_id(1), **bounds, descending=True)) == expected[::-1]


@pytest.mark.parametrize("bad", ["0", "zz" * 16, "00" * 16 + "0", " ", "é" * 16])
def test_ids_that_are_none(talkative: History, bad: str) -> None:
    with pytest.raises(ValueError):
        talkative.conversation(bad)
    with pytest.raises(ValueError):
        list(talkative.messages(bad))


@pytest.mark.parametrize("unknown", [group_id(99), "", "00" * 15, "00" * 17])
def test_unknown_conversations_are_none_and_empty(talkative: History, unknown: str) -> None:
    assert talkative.conversation(unknown) is None
    assert list(talkative.messages(unknown)) == []


def test_conversations_come_by_activity(history: History) -> None:
    times = {1: 50, 2: None, 3: 10, 4: 99, 5: None}
    history.add_conversations(
        [
            Conversation(
                id=group_id(number),
                created_at_ns=T0 + number * 20,
                last_message_ns=None if newest is None else T0 + newest,
                conversation_type=ConversationType.DM if number == 4 else ConversationType.GROUP,
                dm_id=dm(4)[1]["dm_id"] if number == 4 else None,
            )
            for number, newest in times.items()
        ]
    )
    order = [number_of_id(entry.id) for entry in history.conversations()]
    assert order == [5, 4, 1, 2, 3], "one without a message counts from its creation"
    history.add_messages([_message(1, 3, sent_at_ns=T0 + 1000)])
    assert next(iter(history.conversations())).id == group_id(3)
    assert [number_of_id(entry.id) for entry in history.conversations(limit=2)] == [3, 5]
    assert [number_of_id(entry.id) for entry in history.conversations(conversation_type=ConversationType.DM)] == [4]
    assert len(list(history.conversations(conversation_type=ConversationType.GROUP))) == 4
    assert list(history.conversations(limit=0)) == []


def test_many_conversations_and_consents(history: History) -> None:
    """More than any page."""
    count = 3000
    history.add_conversations([Conversation(id=group_id(n), created_at_ns=T0 + n) for n in range(count)])
    history.set_consents([public.consent(consent(f"{n:05}")[1]) for n in range(count)])
    assert [number_of_id(entry.id) for entry in history.conversations()] == list(range(count - 1, -1, -1))
    assert sorted(entry.entity for entry in history.consents()) == [f"{n:05}" for n in range(count)]
    assert history.counts() == Counts(count, 0, count)


def test_large_messages_come_whole(history: History) -> None:
    history.add_conversations([Conversation(id=group_id(1))])
    big = [_message(n, content=bytes([n]) * 10_000_000) for n in range(3)]
    history.add_messages(big)
    assert list(history.messages(group_id(1))) == big


def test_a_list_may_be_abandoned_and_nested(talkative: History) -> None:
    first = talkative.messages(group_id(1))
    next(first)
    for entry in talkative.conversations():
        assert len(list(talkative.messages(entry.id))) == 1000
    talkative.add_messages([_message(2000)])
    assert next(first).id == message_id(1)
    del first
    assert talkative.counts().messages == 1001


def test_records_with_every_value(history: History) -> None:
    conversation = Conversation(
        id="ff" * 16,
        conversation_type=ConversationType.DM,
        name="\0 ü 🚀 \u202e",
        description="",
        image_url_square="",
        app_data="{}",
        created_at_ns=-(2**63),
        last_message_ns=2**63 - 1,
        dm_id=dm(1)[1]["dm_id"],
        creator_inbox_id="",
        added_by_inbox_id="",
        admins=(BOB, ALICE, BOB),
        super_admins=(),
        membership_state=5,
        message_disappear_from_ns=0,
        message_disappear_in_ns=-1,
        installations_last_checked=-1,
        rotated_at_ns=2**63 - 1,
        welcome_id=0,
        paused_for_version="",
        attributes={"": "", "key": "\0"},
    )
    history.add_conversations([conversation])
    assert history.conversation("ff" * 16) == conversation
    entry = Message(
        id="ff" * 32,
        conversation_id="ff" * 16,
        sent_at_ns=-(2**63),
        kind=MessageKind.MEMBERSHIP_CHANGE,
        sender_inbox_id="",
        sender_installation_id="",
        delivery_status=DeliveryStatus.FAILED,
        content_type="ü/\0",
        content=bytes(range(256)),
        reference_id="",
        sequence_id=-(2**63),
        originator_id=0,
        authority_id="",
        version_major=-(2**31),
        version_minor=2**31 - 1,
        content_type_save=99,
    )
    history.add_messages([entry])
    assert list(history.messages("ff" * 16)) == [entry]
    decision = Consent(ConsentEntityType.INBOX_ID, ConsentState.UNKNOWN, "\0é", -(2**63))
    history.set_consents([decision])
    assert list(history.consents()) == [decision]


_WRONG_STORE_KEY = """
import sys
from xmtp_history import History, StoreKeyError
History.open(sys.argv[1], bytes(32)).close()
try:
    History.open(sys.argv[1], bytes([1] * 32))
except StoreKeyError:
    print("refused")
"""


def test_nothing_but_the_exception_tells_of_a_wrong_store_key(tmp_path: Path) -> None:
    with child.start(_WRONG_STORE_KEY, tmp_path / "store.db3") as process:
        assert process.communicate(timeout=child.DEADLINE_SECONDS) == ("refused\n", "")
