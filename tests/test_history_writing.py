"""What an application adds to a store itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import public
from support.build import (
    T0,
    group_id,
    message,
)
from xmtp_history import (
    Consent,
    Conversation,
    Counts,
    History,
    Message,
)


def _message(number: int, of: int = 1, **changes: Any) -> Message:
    return public.message(message(number, of)[1], **changes)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_adding_reports_what_happened(history: History) -> None:
    assert history.add_conversations([Conversation(id=group_id(1))]).new == Counts(conversations=1)
    assert history.add_conversations([Conversation(id=group_id(1))]).duplicate == Counts(conversations=1)
    assert history.add_conversations([Conversation(id=group_id(1), name="x")]).updated == Counts(conversations=1)
    report = history.add_messages([_message(1), _message(2), _message(1)])
    assert (report.new, report.duplicate) == (Counts(messages=2), Counts(messages=1))
    assert (report.metadata, report.legacy, report.foreign_dms) == (None, False, None)
    decision = Consent(1, 2, "x", T0)
    assert history.set_consents([decision]).new == Counts(consents=1)
    assert history.set_consents([decision]).duplicate == Counts(consents=1)
    assert history.add_messages([]).new == Counts()
    assert history.add_messages(iter([_message(3)])).new == Counts(messages=1)


def test_consents_are_set_unconditionally(history: History) -> None:
    history.set_consents([Consent(1, 2, "x", T0)])
    assert history.set_consents([Consent(1, 3, "x", T0 - 1000)]).updated == Counts(consents=1)
    assert list(history.consents()) == [Consent(1, 3, "x", T0 - 1000)]


_GOOD_MESSAGE = public.message(message(1)[1])
_INVALID: list[tuple[str, list[Any], str]] = [
    ("add_conversations", [Conversation(id=group_id(1)), Conversation(id="00")], "id"),
    ("add_conversations", [Conversation(id=group_id(1)), Conversation(id="zz" * 16)], "id"),
    (
        "add_conversations",
        [Conversation(id=group_id(1)), Conversation(id=group_id(2), conversation_type=3)],
        "conversation_type",
    ),
    ("add_conversations", [Conversation(id=group_id(1)), Conversation(id=group_id(2), conversation_type=2)], "dm_id"),
    (
        "add_conversations",
        [Conversation(id=group_id(1)), Conversation(id=group_id(2), created_at_ns=2**63)],
        "created_at_ns",
    ),
    ("add_messages", [_GOOD_MESSAGE, _message(2, id="00" * 31)], "id"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, id="xx" * 32)], "id"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, conversation_id="00")], "conversation_id|group_id"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, kind=0)], "kind"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, delivery_status=9)], "delivery_status"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, sent_at_ns=-(2**63) - 1)], "sent_at_ns"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, version_major=2**31)], "version_major"),
    ("add_messages", [_GOOD_MESSAGE, _message(2, sender_inbox_id="\ud800")], "sender_inbox_id"),
    ("set_consents", [Consent(1, 2, "x", T0), Consent(0, 2, "y", T0)], "entity_type"),
    ("set_consents", [Consent(1, 2, "x", T0), Consent(1, 0, "y", T0)], "state"),
    ("set_consents", [Consent(1, 2, "x", T0), Consent(1, 2, "y", 2**64)], "consented_at_ns"),
]


@pytest.mark.parametrize(("method", "records", "field"), _INVALID)
def test_invalid_records_are_named_and_nothing_is_stored(
    history: History, method: str, records: list[Any], field: str
) -> None:
    with pytest.raises(ValueError, match=rf"(?s)\b1\b.*({field})|({field}).*\b1\b"):
        getattr(history, method)(records)
    assert history.counts() == Counts()
    getattr(history, method)(records[:1])


@pytest.mark.parametrize("records", [[None], ["x"], [Consent(1, 2, "x", 0)], [Conversation(id=group_id(1))], None])
def test_records_of_another_type(history: History, records: Any) -> None:
    with pytest.raises(TypeError):
        history.add_messages(records)
    assert history.counts() == Counts()


def test_a_generator_that_raises_stores_nothing(history: History) -> None:
    def some() -> Iterator[Message]:
        yield _message(1)
        raise LookupError

    with pytest.raises(LookupError):
        history.add_messages(some())
    history.add_conversations([Conversation(id=group_id(1))])
    assert history.counts() == Counts(conversations=1)
