"""Real libxmtp clients talk to each other through our node."""

from __future__ import annotations

from typing import Any

from interop.conftest import Start


def _messages(listing: dict[str, Any], conversation_id: str) -> list[tuple[str, int, str, str]]:
    """Id, time, sender and content of what users sent, in the order of the listing."""
    messages = listing[conversation_id]["messages"].items()
    return [
        (message_id, sent_at_ns, sender, content)
        for message_id, (sent_at_ns, sender, kind, status, content) in messages
        if kind == "application" and status == "published"
    ]


def test_a_group_and_a_dm_are_the_same_on_both_sides(start: Start) -> None:
    alice, bob = start("alice"), start("bob")
    alice_inbox, bob_inbox = alice.do("inbox_id"), bob.do("inbox_id")
    group, dm = alice.do("group", [bob_inbox], {"name": "everyone"}), alice.do("dm", bob_inbox)
    alice.do("send_each", [group, dm], [f"from alice {number}" for number in range(6)])
    bob.do("sync")
    bob.do("send_each", [dm, group], [f"from bob {number}" for number in range(6)])
    alice.do("sync")
    alice.do("rename", group, "everyone else")
    alice.do("send", group, "the last one")
    bob.do("sync")
    here, there = alice.do("listing"), bob.do("listing")
    assert set(here) == set(there) == {group, dm}
    assert len(_messages(here, group)) == 7
    assert len(_messages(here, dm)) == 6
    for conversation_id in (group, dm):
        assert _messages(here, conversation_id) == _messages(there, conversation_id)
        assert {sender for _, _, sender, _ in _messages(here, conversation_id)} == {alice_inbox, bob_inbox}
        times = [sent_at_ns for _, sent_at_ns, _, _ in _messages(here, conversation_id)]
        assert times == sorted(times)
    assert [here[group]["names"][0], there[group]["names"][0]] == ["everyone else"] * 2


def test_both_make_the_same_dm(start: Start) -> None:
    """Two DMs of one pair come to be when both begin; for both sides they are one."""
    alice, bob = start("alice"), start("bob")
    alice_inbox, bob_inbox = alice.do("inbox_id"), bob.do("inbox_id")
    dms = (alice.do("dm", bob_inbox), bob.do("dm", alice_inbox))
    alice.do("send", dms[0], "from alice")
    bob.do("send", dms[1], "from bob")
    for who in (alice, bob):
        who.do("sync")
        assert set(who.do("listing")) == set(dms)
        assert all(sorted(who.do("texts", dm)) == ["from alice", "from bob"] for dm in dms)


def test_commits_at_the_same_time_are_put_in_order(start: Start) -> None:
    """The node takes both commits of an epoch; clients agree on the first and do the other one again."""
    alice, bob = start("alice"), start("bob")
    carol_inbox = start("carol").do("inbox_id")
    group = alice.do("group", [bob.do("inbox_id")])
    alice.do("promote", group, bob.do("inbox_id"))
    bob.do("sync")
    for number in range(5):
        for who, name in ((alice, "alice"), (bob, "bob")):
            who.begin("rename", group, f"{name} {number}")
        for who in (alice, bob):
            who.finish()
    bob.do("add", group, [carol_inbox])
    for who in (alice, bob):
        who.do("sync")
        who.do("send", group, "still here")
    alice.do("sync")
    bob.do("sync")
    here, there = alice.do("listing")[group], bob.do("listing")[group]
    assert here["names"] == there["names"]
    assert _messages({group: here}, group) == _messages({group: there}, group)
    assert list(alice.do("members", group)) == list(bob.do("members", group))
