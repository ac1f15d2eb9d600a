"""Streams of real libxmtp clients on our node (node specification, sections 0 and 6)."""

from __future__ import annotations

import os

import pytest

from interop.account import Installation
from interop.conftest import Start
from interop.pings import may_ping
from xmtp_history.testing import LocalXmtp

#: Long enough for one ping of the client, or with INTEROP_LONG=1 for those that make strict servers hang up.
IDLE_SECONDS = 180 if os.environ.get("INTEROP_LONG") == "1" else 21


@pytest.fixture
def alice(start: Start) -> Installation:
    return start("alice")


@pytest.fixture
def bob(start: Start) -> Installation:
    return start("bob")


def _followed(alice: Installation, bob: Installation, groups: list[str], count: int) -> list[list[str]]:
    """So many messages that Bob's stream delivers by itself, and no more: what comes next was sent when they were there."""
    items = bob.do("followed", "messages", count, 20)
    assert len(items) == len({message_id for message_id, *_ in items}) == count
    alice.do("send_each", groups, ["the end"] * len(groups))
    later = bob.do("followed", "messages", count + len(groups), 20)
    assert {text for _, _, text, *_ in later[count:]} == {"the end"}
    return list(items)


def _texts(items: list[list[str]], conversation_id: str) -> list[str]:
    return [text for _, found, text, kind, _ in items if kind == "application" and found == conversation_id]


def _three_groups(alice: Installation, bob: Installation) -> list[str]:
    bob_inbox = bob.do("inbox_id")
    groups = [alice.do("group", [bob_inbox]) for _ in range(3)]
    bob.do("sync")
    return groups


def test_interleaved_messages_of_three_groups_arrive_once_and_in_order(alice: Installation, bob: Installation) -> None:
    groups = _three_groups(alice, bob)
    bob.do("follow", "messages")
    texts = [f"number {number}" for number in range(90)]
    alice.do("send_each", groups, texts)
    items = _followed(alice, bob, groups, 90)
    assert [text for _, _, text, _, _ in items] == texts
    assert [conversation_id for _, conversation_id, *_ in items] == groups * 30
    listing = bob.do("listing")
    assert all(listing[group]["messages"][message_id][0] == sent for message_id, group, *_, sent in items)


def test_several_senders(start: Start, alice: Installation, bob: Installation) -> None:
    """Ids rise across all groups, whoever sends."""
    groups = _three_groups(alice, bob)
    others = [start(name) for name in ("carol", "dora")]
    for group in groups:
        alice.do("add", group, [other.do("inbox_id") for other in others])
    senders = {"alice": alice, "carol": others[0], "dora": others[1]}
    for member in (bob, *others):
        member.do("sync")
    bob.do("follow", "messages")
    texts = {name: [f"{name} {number}" for number in range(30)] for name in senders}
    for name, sender in senders.items():
        sender.begin("send_each", groups, texts[name])
    for sender in senders.values():
        sender.finish()
    items = _followed(alice, bob, groups, 90)
    for name in senders:
        for turn, group in enumerate(groups):
            assert [t for t in _texts(items, group) if t.startswith(name)] == texts[name][turn::3]


def test_a_new_group_joins_the_stream(alice: Installation, bob: Installation) -> None:
    groups = _three_groups(alice, bob)
    for kind in ("messages", "conversations"):
        bob.do("follow", kind)
    alice.begin("send_each", groups, [f"old {number}" for number in range(60)])
    new = _groups_after_that(alice, bob, 2)
    alice.do("send_each", [*groups, *new], [f"new {number}" for number in range(50)])
    items = _followed(alice, bob, [*groups, *new], 110)
    for turn, group in enumerate([*groups, *new]):
        old = [f"old {number}" for number in range(60)][turn::3] if turn < 3 else []
        assert _texts(items, group) == old + [f"new {number}" for number in range(50)][turn::5]
    assert sorted(bob.do("followed", "conversations", 2, 5)) == sorted(new)


def _groups_after_that(alice: Installation, bob: Installation, count: int) -> list[str]:
    """Groups made after what was begun before, which is finished here too."""
    bob_inbox = bob.do("inbox_id")
    for _ in range(count):
        alice.begin("group", [bob_inbox])
    alice.finish()
    return [alice.finish() for _ in range(count)]


def test_messages_sent_while_older_ones_are_replayed(alice: Installation, bob: Installation) -> None:
    """One group goes on meanwhile, the others have nothing but older messages."""
    groups = _three_groups(alice, bob)
    before = [f"before {number}" for number in range(210)]
    for turn, group in enumerate(groups):
        for text in before[turn::3]:
            alice.begin("keep", group, text)
        alice.begin("publish", group)
    for _ in range(213):
        alice.finish()
    during = [f"during {number}" for number in range(60)]
    alice.begin("send_each", groups[:1], during)
    bob.do("follow", "messages")
    alice.finish()
    items = _followed(alice, bob, groups, 270)
    for turn, group in enumerate(groups):
        assert _texts(items, group) == before[turn::3] + (during if turn == 0 else [])


def test_a_stream_that_has_been_silent_goes_on(node: LocalXmtp, alice: Installation, bob: Installation) -> None:
    """Meanwhile clients ping, also without a call. Servers by default take the fourth ping for an attack."""
    groups = _three_groups(alice, bob)
    bob.do("follow", "messages")
    assert may_ping(node.node_url, every=5.2, seconds=IDLE_SECONDS)
    alice.do("send", groups[1], "hello?")
    assert _texts(bob.do("followed", "messages", 1, 20), groups[1]) == ["hello?"]
    assert bob.do("until_closed", "messages", 0) == {"closed": False, "errors": []}


def test_consents_are_streamed(alice: Installation, bob: Installation) -> None:
    bob_inbox = bob.do("inbox_id")
    alice.do("follow", "consents")
    for state in ("denied", "allowed"):
        alice.do("consent", "inbox", bob_inbox, state)
    expected = [["inbox_id", bob_inbox, "denied"], ["inbox_id", bob_inbox, "allowed"]]
    assert alice.do("followed", "consents", 2, 20) == expected
