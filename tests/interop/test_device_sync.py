"""Two installations of an inbox keep in step through our node and our history server (device sync, section 5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from interop.account import Installation
from interop.conftest import Start
from xmtp_history.testing import LocalXmtp

#: Everything here takes a second or two.
DEADLINE_SECONDS = 30


class Talk(NamedTuple):
    """What the first installation has by the time the second one comes."""

    first: Installation
    bob: Installation
    bob_inbox: str
    group: str
    dm: str


@pytest.fixture
def talk(start: Start) -> Talk:
    first, bob = start("alice", device_sync=True), start("bob")
    bob_inbox = bob.do("inbox_id")
    group, dm = first.do("group", [bob_inbox], {"name": "everyone"}), first.do("dm", bob_inbox)
    first.do("send_each", [group, dm], [f"from alice {number}" for number in range(10)])
    bob.do("sync")
    bob.do("send_each", [group, dm], [f"from bob {number}" for number in range(10)])
    first.do("sync")
    first.do("consent", "inbox", bob_inbox, "denied")
    return Talk(first, bob, bob_inbox, group, dm)


@pytest.fixture
def second(talk: Talk, start: Start) -> Installation:
    """An installation that did not exist when the messages were sent."""
    second = start("alice", "second", device_sync=True)
    assert second.do("inbox_id") == talk.first.do("inbox_id")
    second.do("sync")
    assert second.do("listing") == {}
    return second


def _sync_until(condition: Callable[[], bool], *devices: Installation) -> None:
    """Workers of the devices do the rest in the background."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        for device in devices:
            device.do("sync_devices")


def _messages(device: Installation, conversation_id: str) -> dict[str, Any]:
    listing = device.do("listing")
    messages = listing[conversation_id]["messages"] if conversation_id in listing else {}
    return {message_id: facts for message_id, facts in messages.items() if facts[2] == "application"}


def _assert_all_is_there(talk: Talk, second: Installation) -> None:
    for conversation_id in (talk.group, talk.dm):
        there = _messages(second, conversation_id)
        assert there == _messages(talk.first, conversation_id)
        assert len(there) == 10
    assert second.do("get_consent", "inbox", talk.bob_inbox) == "denied"
    assert second.do("listing")[talk.group]["names"][0] == "everyone"


def test_what_was_before_is_sent_on_request(node: LocalXmtp, talk: Talk, second: Installation) -> None:
    second.do("request_archive", node.history_sync_url)
    _sync_until(
        lambda: second.do("get_consent", "inbox", talk.bob_inbox) == "denied" and len(_messages(second, talk.dm)) == 10,
        talk.first,
        second,
    )
    _assert_all_is_there(talk, second)
    _assert_both_take_part(talk, second)


def _assert_both_take_part(talk: Talk, second: Installation) -> None:
    """What is sent from now on reaches both, and both can send."""
    second.do("sync")
    second.do("send", talk.group, "from the second one")
    talk.bob.do("sync")
    talk.bob.do("send", talk.group, "to both")
    for device in (talk.first, second):
        device.do("sync")
        assert device.do("texts", talk.group)[-2:] == ["from the second one", "to both"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_archive_is_sent_without_a_request(node: LocalXmtp, talk: Talk, second: Installation, slash: str) -> None:
    """Also where the server's address ends in a slash, as the documentation writes it."""
    # Has the worker of the first one join the second one's group before it sends there.
    _sync_until(lambda: len(second.do("listing")) == 2, talk.first, second)
    talk.first.do("send_archive", node.history_sync_url + slash, "a pin")
    _sync_until(lambda: bool(second.do("archives")), second)
    assert second.do("archives") == [["a pin", talk.first.do("installation_id")]]
    assert _messages(second, talk.group) == {}
    second.do("take_archive", "a pin")
    _assert_all_is_there(talk, second)


def test_a_consent_travels_both_ways(talk: Talk, second: Installation) -> None:
    _sync_until(lambda: len(second.do("listing")) == 2, talk.first, second)
    _assert_consent_travels(talk.bob_inbox, "allowed", talk.first, second)
    _assert_consent_travels(talk.bob_inbox, "denied", second, talk.first)


def _assert_consent_travels(inbox: str, state: str, sender: Installation, receiver: Installation) -> None:
    receiver.do("follow", "consents")
    sender.do("consent", "inbox", inbox, state)
    _sync_until(lambda: ["inbox_id", inbox, state] in receiver.do("followed", "consents", 0, 0), receiver)
    assert receiver.do("get_consent", "inbox", inbox) == state
