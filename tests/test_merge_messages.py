"""How imported messages meet stored ones: duplicates, orphans, expiry, deletion (sections 4.5 and 4.9)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from independent.elements import plain
from support import public
from support.build import (
    ALICE,
    BOB,
    STORE_KEY,
    T0,
    delete_message,
    group,
    group_id,
    message,
    message_id,
    metadata,
    number_of_id,
)
from support.data import fixture
from support.store import export, exported_records, import_elements
from xmtp_history import (
    Conversation,
    Counts,
    DeliveryStatus,
    History,
    Message,
)

GONE = 1  # a lifetime of one nanosecond: expired since 2023
FAR = 10**9 * 86400 * 36500


def _message(number: int, of: int = 1, **changes: object) -> Message:
    return public.message(message(number, of)[1], **changes)


def _stored(history: History, number: int = 1) -> Conversation:
    found = history.conversation(group_id(number))
    assert found is not None
    return found


# --- messages --------------------------------------------------------------------------------------------------------


def test_the_first_message_of_an_id_wins(history: History) -> None:
    import_elements(history, [metadata(), group(1), group(2), message(1)])
    second = message(1, 2, content=b"another", sender_inbox_id=BOB, sent_at_ns=T0 + 9999)
    report = import_elements(history, [metadata(), second])
    assert report.duplicate == Counts(messages=1)
    assert list(history.messages(group_id(1))) == [_message(1)]
    assert list(history.messages(group_id(2))) == []


@pytest.mark.parametrize("stored", [DeliveryStatus.UNPUBLISHED, DeliveryStatus.FAILED])
def test_a_published_message_replaces_one_that_is_not(history: History, stored: DeliveryStatus) -> None:
    import_elements(
        history, [metadata(), group(1), message(1, delivery_status=int(stored), sequence_id=0, sent_at_ns=T0 + 1)]
    )
    report = import_elements(history, [metadata(), message(1)])
    assert (report.updated, report.duplicate) == (Counts(messages=1), Counts())
    assert list(history.messages(group_id(1))) == [_message(1)]
    assert _stored(history).last_message_ns == _message(1).sent_at_ns
    assert [plain(record) for record in export(history).of_kind("group_message")] == [message(1)[1]]


@pytest.mark.parametrize("status", [1, 3])
@pytest.mark.parametrize("stored", [1, 2, 3])
def test_an_unpublished_message_never_replaces(history: History, stored: int, status: int) -> None:
    import_elements(history, [metadata(), group(1), message(1, delivery_status=stored)])
    report = import_elements(history, [metadata(), message(1, delivery_status=status, sent_at_ns=5, content=b"x")])
    assert report.duplicate == Counts(messages=1)
    assert list(history.messages(group_id(1))) == [_message(1, delivery_status=stored)]


def test_a_replaced_message_is_found_at_its_new_time_only(history: History) -> None:
    import_elements(history, [metadata(), group(1), message(1, delivery_status=1, sent_at_ns=T0)])
    import_elements(history, [metadata(), message(1, sent_at_ns=T0 + 500)])
    assert [entry.id for entry in history.messages(group_id(1), after_ns=T0 + 400)] == [message_id(1)]
    assert list(history.messages(group_id(1), before_ns=T0 + 400)) == []
    assert history.counts().messages == 1


@pytest.mark.parametrize("published_first", [True, False])
def test_within_one_archive_too(history: History, *, published_first: bool) -> None:
    pair = [message(1), message(1, delivery_status=1, content=b"draft")]
    import_elements(history, [metadata(), group(1), *(pair if published_first else reversed(pair))])
    assert list(history.messages(group_id(1))) == [_message(1)]


def test_ids_that_begin_alike_are_different_ids(history: History) -> None:
    """The first bytes of an id are no key: neither for storing, nor finding, nor replacing."""
    ids = [f"{'11' * 8}{number:02x}{'22' * 23}" for number in range(50)]
    numbers = [*range(25, 50), *range(25)]
    import_elements(history, [metadata(), group(1), *(message(n, id=ids[n], delivery_status=1) for n in numbers)])
    report = import_elements(history, [metadata(), *(message(n, id=ids[n]) for n in range(0, 50, 2))])
    assert report.updated == Counts(messages=25)
    assert [entry.id for entry in history.messages(group_id(1))] == ids
    exported = [record for kind, record in exported_records(history) if kind == "group_message"]
    assert [record["id"] for record in exported] == ids
    assert [record["delivery_status"] for record in exported] == [2, 1] * 25
    again = import_elements(history, [metadata(), *(message(n, id=ids[n]) for n in range(50))])
    assert (again.updated, again.duplicate) == (Counts(messages=25), Counts(messages=25))


# --- orphans ---------------------------------------------------------------------------------------------------------


def test_orphans_wait_hidden_for_their_conversation(history: History) -> None:
    report = import_elements(history, [metadata(), message(1, 5), message(2, 5), group(1), message(3)])
    assert (report.orphans, report.new) == (2, Counts(1, 3))
    assert history.counts() == Counts(1, 1)
    assert history.conversation(group_id(5)) is None
    assert list(history.messages(group_id(5))) == []
    assert [entry.id for entry in history.conversations()] == [group_id(1)]
    assert [record["id"] for record in export(history).of_kind("group_message")] == [message_id(n) for n in (1, 2, 3)]
    assert [record["id"] for record in export(history).of_kind("group")] == [group_id(1)]

    later = import_elements(history, [metadata(), group(5)])
    assert (later.orphans, later.new) == (0, Counts(conversations=1))
    assert [entry.id for entry in history.messages(group_id(5))] == [message_id(1), message_id(2)]
    assert history.counts() == Counts(2, 3)
    assert _stored(history, 5).last_message_ns == _message(2).sent_at_ns


def test_orphans_are_shown_when_the_application_adds_the_conversation(history: History) -> None:
    import_elements(history, [metadata(), message(1, 5)])
    history.add_conversations([Conversation(id=group_id(5), name="here I am")])
    assert [entry.id for entry in history.messages(group_id(5))] == [message_id(1)]
    assert history.counts() == Counts(1, 1)
    assert _stored(history, 5).is_active


def test_orphans_obey_the_settings_that_come_with_the_conversation(history: History) -> None:
    import_elements(
        history,
        [metadata(), message(1, 5, sent_at_ns=T0 - 1), message(2, 5), delete_message(3, 1, 5, sent_at_ns=T0 - 1)],
    )
    import_elements(history, [metadata(), group(5, message_disappear_from_ns=T0, message_disappear_in_ns=GONE)])
    listed = list(history.messages(group_id(5)))
    assert {entry.id for entry in listed} == {message_id(1), message_id(3)}
    assert {entry.id: entry.deleted_by_inbox_id for entry in listed}[message_id(1)] == ALICE
    assert len(export(history).of_kind("group_message")) == 2


def test_the_same_orphan_again_is_a_duplicate(history: History) -> None:
    import_elements(history, [metadata(), message(1, 5)])
    again = import_elements(history, [metadata(), message(1, 5)])
    assert (again.new, again.duplicate, again.orphans) == (Counts(), Counts(messages=1), 0)


def test_orphans_survive_closing(store_path: Path) -> None:
    with History.open(store_path, STORE_KEY) as history:
        import_elements(history, [metadata(), message(1, 5)])
    with History.open(store_path, STORE_KEY) as history:
        import_elements(history, [metadata(), group(5)])
        assert history.counts() == Counts(1, 1)


# --- disappearing messages -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "changes", "stays"),
    [
        ((T0, GONE), {}, False),
        ((T0 + 1001, GONE), {}, False),  # sent in the very nanosecond that the setting began
        ((T0 + 1002, GONE), {}, True),  # sent before
        ((0, GONE), {}, True),  # off
        ((-1, GONE), {}, True),
        ((T0, 0), {}, True),
        ((T0, -1), {}, True),
        ((T0, None), {}, True),
        ((None, GONE), {}, True),
        ((T0, GONE), {"delivery_status": 1}, True),  # not published, no expiry
        ((T0, GONE), {"delivery_status": 3}, True),
        ((T0, GONE), {"kind": 2}, True),  # no application message
        ((T0, FAR), {}, True),
        ((1, 2**63 - 1), {}, True),  # the sum is beyond the end of time
    ],
)
@pytest.mark.parametrize("message_first", [False, True])
def test_expiry(
    history: History,
    settings: tuple[int | None, int | None],
    changes: dict[str, Any],
    *,
    stays: bool,
    message_first: bool,
) -> None:
    begin, lifetime = settings
    pair = [group(1, message_disappear_from_ns=begin, message_disappear_in_ns=lifetime), message(1, **changes)]
    report = import_elements(history, [metadata(), *(reversed(pair) if message_first else pair)])
    assert history.counts() == Counts(1, int(stays))
    assert len(list(history.messages(group_id(1)))) == int(stays)
    exported = export(history).of_kind("group_message")
    assert len(exported) == int(stays and changes.get("kind") != 2)
    gone = Counts() if stays else Counts(messages=1)
    assert (report.skipped, report.expired) == (gone, gone.messages)
    assert report.new.messages == int(stays)


def test_expiry_is_shown(history: History) -> None:
    settings = {"message_disappear_from_ns": T0, "message_disappear_in_ns": FAR}
    import_elements(history, [metadata(), group(1, **settings), message(1, sent_at_ns=T0 - 1), message(2)])
    import_elements(
        history, [metadata(), group(2, message_disappear_from_ns=1, message_disappear_in_ns=2**63 - 1), message(3, 2)]
    )
    listed = {entry.id: entry.expire_at_ns for number in (1, 2) for entry in history.messages(group_id(number))}
    assert listed == {
        message_id(1): None,
        message_id(2): _message(2).sent_at_ns + FAR,
        message_id(3): 2**63 - 1,
    }


def test_a_later_archive_finds_the_settings_in_the_store(history: History) -> None:
    history.add_conversations(
        [Conversation(id=group_id(1), message_disappear_from_ns=T0, message_disappear_in_ns=GONE)]
    )
    report = import_elements(history, [metadata(), message(1)])
    assert report.expired == 1
    assert history.counts().messages == 0


def test_a_message_disappears_while_the_store_is_open(history: History, tmp_path: Path) -> None:
    """Waits for its time by asking, not by sleeping: hidden in lists, counts and exports at once, without any sweep."""
    expire_at_ns = time.time_ns() + 300_000_000
    history.add_conversations([Conversation(id=group_id(1))])
    history.add_messages([_message(1, expire_at_ns=expire_at_ns), _message(2)])
    both = [entry.id for entry in history.messages(group_id(1))]
    assert both == [message_id(1), message_id(2)] or time.time_ns() >= expire_at_ns
    while time.time_ns() <= expire_at_ns:
        pass
    assert [entry.id for entry in history.messages(group_id(1))] == [message_id(2)]
    assert history.counts().messages == 1
    assert [record["id"] for record in export(history).of_kind("group_message")] == [message_id(2)]
    # Opening sweeps it out; the id is free again, and its neighbours with the same beginning are not affected.
    with History.open(tmp_path / "history.db3", STORE_KEY) as second:
        assert import_elements(second, [metadata(), message(2), message(1)]).duplicate.messages == 1
        assert [entry.id for entry in second.messages(group_id(1))] == [message_id(1), message_id(2)]


# --- deletions -------------------------------------------------------------------------------------------------------


def _deleted(history: History) -> dict[int, str | None]:
    return {number_of_id(entry.id): entry.deleted_by_inbox_id for entry in history.messages(group_id(1))}


@pytest.mark.parametrize("delete_first", [False, True])
def test_a_sender_may_delete(history: History, *, delete_first: bool) -> None:
    pair = [message(1, sender_inbox_id=BOB), delete_message(2, 1, sender_inbox_id=BOB)]
    import_elements(history, [metadata(), group(1), *(reversed(pair) if delete_first else pair)])
    assert _deleted(history) == {1: BOB, 2: None}
    exported = [record for kind, record in exported_records(history) if kind == "group_message"]
    assert exported == [plain(record) for _, record in pair], "both are still in the archive"


def test_a_super_admin_may_delete(history: History) -> None:
    import_elements(
        history,
        [
            metadata(),
            group(1, super_admins=[ALICE]),
            message(1, sender_inbox_id=BOB),
            delete_message(2, 1, sender_inbox_id=ALICE),
        ],
    )
    assert _deleted(history) == {1: ALICE, 2: None}


def test_nobody_else_may(history: History) -> None:
    import_elements(
        history,
        [
            metadata(),
            group(1, admins=[BOB], super_admins=[]),
            group(2),
            message(1, sender_inbox_id=ALICE),
            delete_message(2, 1, sender_inbox_id=BOB),  # an admin, but no super admin
            delete_message(3, 1, of=2, sender_inbox_id=ALICE),  # the sender, but in another conversation
            delete_message(4, 1, sender_inbox_id=ALICE, kind=2),  # no application message
            delete_message(5, 1, sender_inbox_id=ALICE, content_type="text"),  # no deletion
            delete_message(6, 9, sender_inbox_id=ALICE),  # of a message that is not here
        ],
    )
    assert set(_deleted(history).values()) == {None}


def test_the_reference_deleted_a_message_in_rich_content(history: History) -> None:
    known = fixture("rich-content")
    history.import_archive(known.path, known.key)
    (conversation,) = history.conversations()
    deleted = [entry for entry in history.messages(conversation.id) if entry.deleted_by_inbox_id]
    assert [entry.deleted_by_inbox_id for entry in deleted] == [known.facts["own_inbox_id"]]
    assert deleted[0].decoded().body == "this one is deleted by its sender"
