"""How imported conversations and consents meet stored ones, in any order (sections 4.4 to 4.9 of the format)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from independent.elements import Element, plain
from support import public
from support.build import (
    ALICE,
    BOB,
    T0,
    consent,
    delete_message,
    dm,
    group,
    group_id,
    message,
    message_id,
    metadata,
    small,
    text_content,
)
from support.data import fixture
from support.model import Model
from support.store import export, exported_records, import_elements, new_store, snapshot
from support.strategies import archives
from xmtp_history import (
    Conversation,
    Counts,
    History,
    MembershipState,
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


# --- order and repetition --------------------------------------------------------------------------------------------


@given(elements=archives(), generator=st.randoms(use_true_random=False))
def test_the_order_of_elements_does_not_matter(elements: list[Element], generator: object) -> None:
    shuffled = elements[1:]
    generator.shuffle(shuffled)  # type: ignore[attr-defined]
    with new_store() as first, new_store() as second:
        reports = [import_elements(first, elements), import_elements(second, [elements[0], *shuffled])]
        assert snapshot(first) == snapshot(second)
    assert reports[0] == reports[1]


@given(elements=archives(), cut=st.integers(0, 20))
def test_two_archives_are_as_good_as_one(elements: list[Element], cut: int) -> None:
    """In whichever archive a record comes, and although its conversation comes in another one."""
    model = Model()
    model.import_elements(elements)
    with new_store() as history:
        import_elements(history, [metadata(), *elements[1 + cut :]])
        import_elements(history, elements[: 1 + cut])
        assert exported_records(history) == model.exported()
        assert history.counts() == model.listing()["counts"]
        assert public.listing(history)["messages"] == model.listing()["messages"]


@given(elements=archives())
def test_importing_again_changes_nothing(elements: list[Element]) -> None:
    with new_store() as history:
        first = import_elements(history, elements)
        before = snapshot(history)
        again = import_elements(history, elements)
        assert snapshot(history) == before
        assert again.new == again.updated == Counts()
        assert again.duplicate == first.new
        assert again.skipped == first.skipped


def test_a_fixture_again_is_all_duplicates(history: History) -> None:
    known = fixture("many-pages")
    history.import_archive(known.path, known.key)
    again = history.import_archive(known.path, known.key)
    assert (again.new, again.updated) == (Counts(), Counts())
    assert again.duplicate == history.counts()


def test_all_orders_of_a_small_archive() -> None:
    """Exhaustive where it is cheap: a disappearing conversation, its messages, a deletion."""
    elements = [
        group(1, message_disappear_from_ns=T0, message_disappear_in_ns=GONE, last_message_ns=3),
        message(1, sent_at_ns=T0 - 1),
        message(2, sent_at_ns=T0 + 1),
        delete_message(3, 1, sent_at_ns=T0 - 2),
    ]
    states = []
    for order in itertools.permutations(elements):
        with new_store() as history:
            report = import_elements(history, [metadata(), *order])
            states.append((snapshot(history), report))
    assert all(state == states[0] for state in states)
    listing = states[0][0]
    assert set(listing["messages"]) == {message_id(1), message_id(3)}
    assert listing["conversations"][group_id(1)].last_message_ns == T0 - 1
    assert listing["messages"][message_id(1)].deleted_by_inbox_id == ALICE


# --- conversations ---------------------------------------------------------------------------------------------------


def test_an_imported_conversation_is_restored_and_keeps_everything(history: History) -> None:
    element = group(
        1,
        membership_state=3,
        installations_last_checked=7,
        rotated_at_ns=8,
        welcome_id=9,
        added_by_inbox_id=BOB,
        admins=[BOB],
        super_admins=[BOB, ALICE],
        paused_for_version="1.2",
        attributes={"group_name": "n", "description": "", "_commit_log_signer": "secret", "else": "x"},
    )
    import_elements(history, [metadata(), element])
    stored = _stored(history)
    assert stored == public.restored(element[1])
    assert (stored.membership_state, stored.is_active) == (MembershipState.RESTORED, False)
    assert (stored.name, stored.description, stored.app_data) == ("n", "", None), "absent is not empty"
    assert stored.super_admins == (BOB, ALICE)
    assert stored.attributes == {"_commit_log_signer": "secret", "else": "x"}
    assert "secret" not in repr(stored)
    assert exported_records(history) == [("group", element[1])]


def test_an_active_conversation_is_left_alone(history: History) -> None:
    mine = Conversation(id=group_id(1), name="mine", created_at_ns=T0, last_message_ns=T0 + 50, super_admins=(ALICE,))
    history.add_conversations([mine])
    theirs = group(
        1, membership_state=2, last_message_ns=T0 + 10, attributes={"group_name": "x", "description": "y"}, admins=[BOB]
    )
    report = import_elements(history, [metadata(), theirs])
    assert report.duplicate == Counts(conversations=1)
    assert _stored(history) == mine
    newer = import_elements(history, [metadata(), group(1, last_message_ns=T0 + 60)])
    assert newer.new == Counts()
    assert _stored(history).last_message_ns == T0 + 60, "activity is the newest known"
    assert (_stored(history).name, _stored(history).is_active) == ("mine", True)


def test_a_restored_conversation_is_filled_but_not_overwritten(history: History) -> None:
    sparse = group(1, attributes={"group_name": "kept"}, super_admins=[], metadata=None, last_message_ns=5)
    import_elements(history, [metadata(), sparse])
    full = group(
        1,
        attributes={"group_name": "other", "description": "filled"},
        admins=[BOB],
        super_admins=[ALICE],
        message_disappear_from_ns=T0 + 10**15,
        message_disappear_in_ns=FAR,
        paused_for_version="2",
        welcome_id=3,
        last_message_ns=4,
    )
    report = import_elements(history, [metadata(), full])
    assert report.updated == Counts(conversations=1)
    stored = _stored(history)
    assert (stored.name, stored.description) == ("kept", "filled")
    assert (stored.admins, stored.super_admins, stored.creator_inbox_id) == ((BOB,), (ALICE,), ALICE)
    assert (stored.message_disappear_in_ns, stored.paused_for_version, stored.welcome_id) == (FAR, "2", 3)
    assert stored.last_message_ns == 5
    assert stored.membership_state == MembershipState.RESTORED


def test_a_restored_conversation_can_become_active(history: History) -> None:
    import_elements(history, [metadata(), group(1), message(1)])
    history.add_conversations([Conversation(id=group_id(1), name="active again")])
    assert (_stored(history).name, _stored(history).is_active) == ("active again", True)
    assert [entry.id for entry in history.messages(group_id(1))] == [message_id(1)]
    assert _stored(history).last_message_ns == _message(1).sent_at_ns
    import_elements(history, [metadata(), group(1)])
    assert _stored(history).is_active, "an old archive does not deactivate"
    (record,) = export(history).of_kind("group")
    assert plain(record)["membership_state"] == MembershipState.ALLOWED


def test_nothing_is_invented(history: History) -> None:
    elements = [metadata(), dm(1), dm(2), group(3), message(1)]
    import_elements(history, elements)
    assert history.counts() == Counts(3, 1)
    assert [(kind, plain(record)) for kind, record in elements[1:]] == exported_records(history)


# --- last_message_ns -------------------------------------------------------------------------------------------------


_UNTOUCHED = [
    (None, None, None, None),
    (None, None, 500, 500),
    (None, 100, None, 100),
    (None, 100, 500, 500),
    (None, 900, 500, 900),
]
_BEFORE = [
    (100, None, None, 100),
    (100, None, 500, 500),
    (100, 50, 60, 100),
    (-5, None, -7, -5),
    (-5, -3, -4, -3),
]


@pytest.mark.parametrize(
    ("kind", "before", "archived", "sent", "after"),
    [
        *(("new", *case) for case in _UNTOUCHED),
        *((kind, *case) for kind in ("restored", "active") for case in _UNTOUCHED + _BEFORE),
    ],
)
def test_last_message_ns_is_the_newest_of_all(
    history: History, kind: str, before: int | None, archived: int | None, sent: int | None, after: int | None
) -> None:
    if kind == "restored":
        import_elements(history, [metadata(), group(1, last_message_ns=before)])
    elif kind == "active":
        history.add_conversations([Conversation(id=group_id(1), last_message_ns=before)])
    sent_message = [] if sent is None else [message(1, sent_at_ns=sent)]
    import_elements(history, [metadata(), group(1, last_message_ns=archived), *sent_message])
    assert _stored(history).last_message_ns == after


def test_a_message_alone_raises_it_too(history: History) -> None:
    import_elements(history, [metadata(), group(1, last_message_ns=1), message(1)])
    import_elements(history, [metadata(), message(2)])
    assert _stored(history).last_message_ns == _message(2).sent_at_ns
    import_elements(history, [metadata(), message(0)])
    assert _stored(history).last_message_ns == _message(2).sent_at_ns


# --- consent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "state", "expected", "kind"),
    [
        (T0 - 1, 3, (2, T0), "duplicate"),  # older loses
        (T0, 3, (2, T0), "duplicate"),  # a tie keeps what is stored
        (T0 + 1, 3, (3, T0 + 1), "updated"),  # newer wins, with its time
        (T0 + 1, 1, (1, T0 + 1), "updated"),
        (T0, 2, (2, T0), "duplicate"),
    ],
)
def test_consent(history: History, at: int, state: int, expected: tuple[int, int], kind: str) -> None:
    import_elements(history, [metadata(), consent("x", 2, at=T0)])
    report = import_elements(history, [metadata(), consent("x", state, at=at)])
    assert [(entry.state, entry.consented_at_ns) for entry in history.consents()] == [expected]
    assert getattr(report, kind) == Counts(consents=1)


def test_the_winners_time_is_stored(history: History) -> None:
    """With the loser's time a decision from between the two would win later (section 4.6)."""
    for state, at in ((2, T0), (3, T0 + 100), (2, T0 + 50)):
        import_elements(history, [metadata(), consent("x", state, at=at)])
    assert [(entry.state, entry.consented_at_ns) for entry in history.consents()] == [(3, T0 + 100)]


def test_importing_does_not_allow_a_denied_dm(history: History) -> None:
    for order in ([dm(1), consent(group_id(1), 3)], [consent(group_id(2), 3), dm(2)]):
        import_elements(history, [metadata(), *order])
    assert {(entry.entity, entry.state) for entry in history.consents()} == {(group_id(1), 3), (group_id(2), 3)}


def test_an_entity_is_a_type_and_a_name(history: History) -> None:
    import_elements(history, [metadata(), consent("x", 2, entity_type=1), consent("x", 3, entity_type=2)])
    assert {(entry.entity_type, entry.state) for entry in history.consents()} == {(1, 2), (2, 3)}


@given(
    decisions=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 50)), min_size=1, max_size=6, unique_by=lambda d: d[1]
    )
)
def test_the_newest_decision_wins_in_any_order(decisions: list[tuple[int, int]]) -> None:
    with new_store() as history:
        import_elements(history, [metadata(), *(consent("x", state, at=at) for state, at in decisions)])
        newest = max(decisions, key=lambda decision: decision[1])
        assert [(entry.state, entry.consented_at_ns) for entry in history.consents()] == [newest]


# --- what the application adds ---------------------------------------------------------------------------------------


def test_added_records_are_exported_like_imported_ones(history: History) -> None:
    elements = small()
    by_kind: dict[str, list[Any]] = {kind: [] for kind in ("group", "group_message", "consent")}
    for element in elements[1:]:
        by_kind[element[0]].append(public.public(element))
    history.add_conversations(by_kind["group"])
    history.add_messages(by_kind["group_message"])
    history.set_consents(by_kind["consent"])
    with new_store() as other:
        import_elements(other, elements)
        imported = exported_records(other)
    # The application's own conversations have no archived activity, so their own is written.
    newest = {group_id(1): _message(2).sent_at_ns, group_id(2): _message(3).sent_at_ns}
    expected = [
        (kind, record | {"last_message_ns": newest[record["id"]]} if kind == "group" else record)
        for kind, record in imported
    ]
    assert exported_records(history) == expected


def test_an_import_does_not_touch_added_messages(history: History) -> None:
    history.add_conversations([Conversation(id=group_id(1))])
    history.add_messages([_message(1, content=text_content("mine"))])
    import_elements(history, small())
    (first, *_) = history.messages(group_id(1))
    assert first.decoded().body == "mine"
