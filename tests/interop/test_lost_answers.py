"""Answers that are lost after the node has done its work: clients repeat the call, and nothing is there twice."""

from __future__ import annotations

import pytest

from interop import logs
from interop.conftest import Start
from interop.proxy import Proxy
from xmtp_history.testing import LocalXmtp


@pytest.mark.parametrize("times", [1, 3])
def test_every_write_is_stored_once(node: LocalXmtp, proxy: Proxy, start: Start, times: int) -> None:
    proxy.lose("UploadKeyPackage", times)
    proxy.lose("PublishIdentityUpdate", times)
    alice, bob = start("alice", node=proxy.url), start("bob")
    alice_inbox, bob_inbox, bob_key = alice.do("inbox_id"), bob.do("inbox_id"), bob.do("installation_id")
    for method in ("UploadKeyPackage", "PublishIdentityUpdate"):
        assert len(proxy.calls_of(method)) == times + 1
    assert len(logs.identity_updates(node.node_url, alice_inbox)) == 1

    proxy.lose("SendGroupMessages", times)
    proxy.lose("SendWelcomeMessages", times)
    group = alice.do("group", [bob_inbox])
    assert len(logs.welcomes(node.node_url, bob_key)) == 1
    assert [message.is_commit for message in logs.group_messages(node.node_url, group)] == [True]

    proxy.lose("SendGroupMessages", times)
    sent = alice.do("send", group, "hello")
    assert len(proxy.calls_of("SendWelcomeMessages")) == times + 1
    assert len(proxy.calls_of("SendGroupMessages")) == 2 * (times + 1)
    assert [message.is_commit for message in logs.group_messages(node.node_url, group)] == [True, False]

    bob.do("sync")
    bob.do("send", group, "hello yourself")
    alice.do("sync")
    for who in (alice, bob):
        assert who.do("texts", group) == ["hello", "hello yourself"]
        assert sent in who.do("listing")[group]["messages"]


def test_further_updates_of_an_inbox_are_stored_once(node: LocalXmtp, proxy: Proxy, start: Start) -> None:
    alice = start("alice", node=proxy.url)
    inbox = alice.do("inbox_id")
    proxy.lose("PublishIdentityUpdate", 1)
    second = start("alice", "second", node=proxy.url)
    assert second.do("inbox_id") == inbox
    assert len(logs.identity_updates(node.node_url, inbox)) == 2
    assert len(alice.do("inbox_state")["installations"]) == 2


def test_a_sender_finds_its_message_when_every_answer_was_lost(node: LocalXmtp, proxy: Proxy, start: Start) -> None:
    """After six calls the library looks at the group, before it takes the message for lost."""
    alice, bob = start("alice", node=proxy.url), start("bob")
    group = alice.do("group", [bob.do("inbox_id")])
    calls = len(proxy.calls_of("SendGroupMessages"))
    proxy.lose("SendGroupMessages", 6)
    alice.do("send", group, "lost?")
    assert len(proxy.calls_of("SendGroupMessages")) == calls + 6
    alice.do("send", group, "and on")
    bob.do("sync")
    assert alice.do("texts", group) == bob.do("texts", group) == ["lost?", "and on"]
    assert [message.is_commit for message in logs.group_messages(node.node_url, group)] == [True, False, False]
