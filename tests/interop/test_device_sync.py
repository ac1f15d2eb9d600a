"""Two installations of an inbox keep in step through our node and our history server (device sync, section 5)."""

from __future__ import annotations

import pytest

from interop.account import Installation
from interop.devices import Talk, assert_all_is_there, meet, messages, request_archive, send_archive, sync_until
from xmtp_history.testing import LocalXmtp


def test_what_was_before_is_sent_on_request(node: LocalXmtp, talk: Talk, second: Installation) -> None:
    request_archive(talk, second, node.history_sync_url)
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
    meet(talk, second)
    send_archive(talk, second, node.history_sync_url + slash, "a pin")
    assert second.do("archives") == [["a pin", talk.first.do("installation_id")]]
    assert messages(second, talk.group) == {}
    second.do("take_archive", "a pin")
    assert_all_is_there(talk, second)


def test_a_consent_travels_both_ways(talk: Talk, second: Installation) -> None:
    meet(talk, second)
    _assert_consent_travels(talk.bob_inbox, "allowed", talk.first, second)
    _assert_consent_travels(talk.bob_inbox, "denied", second, talk.first)


def _assert_consent_travels(inbox: str, state: str, sender: Installation, receiver: Installation) -> None:
    receiver.do("follow", "consents")
    sender.do("consent", "inbox", inbox, state)
    sync_until(lambda: ["inbox_id", inbox, state] in receiver.do("followed", "consents", 0, 0), receiver)
    assert receiver.do("get_consent", "inbox", inbox) == state
