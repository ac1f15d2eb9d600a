"""An installation of this library in groups and DMs of real clients (identity specification, section 9, steps 8 and 9).

Real installations of the same inbox are there too, and what they know is what ours has to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from interop import logs
from interop.account import OURS, Installation, User
from interop.conftest import Start
from xmtp_history.testing import LocalXmtp


class Party(NamedTuple):
    """Bob's group with Alice, who has a real installation and one of ours."""

    bob: Installation
    real: Installation
    ours: Installation
    group: str

    @property
    def alice_inbox(self) -> str:
        return str(self.real.do("inbox_id"))

    def agree(self) -> dict[str, Any]:
        """Has everybody fetch, and makes sure that they are in the same epoch of the same group."""
        _sync(self.bob, self.real, self.ours)
        return _same_state(self.group, self.bob, self.real, self.ours)

    def assert_next_message_arrives(self, text: str) -> None:
        """What is sent in the epoch that everybody is in is read, and so is everything before."""
        sent = self.bob.do("send", self.group, text)
        _sync(self.real, self.ours)
        assert list(self.ours.do("held", self.group))[-1] == sent
        _assert_same_messages(self.group, self.real, self.ours)


@pytest.fixture(scope="module")
def cast(node: LocalXmtp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, ...]]:
    """Bob, Alice and Alice's installation of this library."""
    folder = tmp_path_factory.mktemp("groups")
    bob, alice = (User(f"{name} {folder.name}", node.node_url, folder) for name in ("bob", "alice"))
    with bob.start() as first, alice.start() as real:
        inbox = real.do("inbox_id")
        with alice.start("ours", module=OURS) as ours:
            assert ours.do("inbox_id") == inbox
            yield first, real, ours


@pytest.fixture
def shared(cast: tuple[Installation, ...]) -> Party:
    """A group of people who stay as they are."""
    return _party(*cast)


@pytest.fixture
def party(start: Start) -> Party:
    """A group of people whom no other test knows."""
    bob, real = start("bob"), start("alice")
    inbox = real.do("inbox_id")
    ours = start("alice", "ours", module=OURS)
    assert ours.do("inbox_id") == inbox
    return _party(bob, real, ours)


def _party(bob: Installation, real: Installation, ours: Installation) -> Party:
    group = bob.do("group", [real.do("inbox_id")], {"name": "a name", "description": "a description"})
    return Party(bob, real, ours, group)


def _sync(*installations: Installation) -> None:
    for each in installations:
        each.begin("sync")
    for each in installations:
        each.finish()


def _same_state(group: str, *installations: Installation) -> dict[str, Any]:
    """What installations know about a group, which is the same: epoch, its authenticator, members, names, admins."""
    states = [each.do("state", group) for each in installations]
    common = set.intersection(*({*state} for state in states))
    first, *others = ({name: state[name] for name in common} for state in states)
    for other in others:
        assert other == first
    for each in installations:
        assert each.do("debug_info", group)["maybe_forked"] is False
    return first


def _assert_same_messages(group: str, real: Installation, ours: Installation) -> None:
    """Two installations that came at the same time have the same messages, in the same order, to the last bit.

    What a welcome leaves behind is named after the welcome, of which everybody has an own one.
    """
    expected, found = (each.do("raw_messages", group) for each in (real, ours))
    welcomed = {key for key, facts in expected.items() if key not in found and facts["kind"] == "membership_change"}
    for key in welcomed:
        # The same is said at the same place, by the time of the own welcome.
        facts = expected[key]
        own = [other for other, own in found.items() if own["sequence_id"] == facts["sequence_id"]]
        assert [{**found[other], "sent_at_ns": facts["sent_at_ns"]} for other in own] == [facts]
        found.pop(own[0])
    expected = {key: facts for key, facts in expected.items() if key not in welcomed}
    assert list(found.items()) == list(expected.items())
    assert len({facts["sequence_id"] for facts in found.values() if facts["kind"] == "application"}) == len(
        [facts for facts in found.values() if facts["kind"] == "application"]
    )


def test_every_change_is_followed(shared: Party, start: Start) -> None:
    """After each commit the epochs are the same, and the next message arrives."""
    bob, real, group = shared.bob, shared.real, shared.group
    carol = start("carol")
    alice_inbox, carol_inbox = shared.alice_inbox, carol.do("inbox_id")
    changes: list[tuple[Installation, tuple[Any, ...], Callable[[dict[str, Any]], Any], Any]] = [
        (bob, ("update_metadata", group, "name", "renamed ø"), lambda state: state["name"], "renamed ø"),
        (real, ("update_metadata", group, "description", "new"), lambda state: state["description"], "new"),
        (bob, ("update_metadata", group, "app_data", "{}"), lambda state: state["app_data"], "{}"),
        (bob, ("update_metadata", group, "image", "https://e.org/i"), lambda state: state["image"], "https://e.org/i"),
        (bob, ("add_admin", group, alice_inbox), lambda state: state["admins"], [alice_inbox]),
        (bob, ("add_super_admin", group, alice_inbox), lambda state: alice_inbox in state["super_admins"], True),
        (real, ("add_members", group, [carol_inbox]), lambda state: carol_inbox in state["members"], True),
        (bob, ("set_permission", group, "ADD_MEMBER", "ADMIN"), lambda state: state["name"], "renamed ø"),
        (bob, ("set_disappearing", group, 1, 10**18), lambda state: state["disappearing"], [1, 10**18]),
        (bob, ("set_disappearing", group, None), lambda state: state["disappearing"] in ([0, 0], None), True),
        (bob, ("remove_admin", group, alice_inbox), lambda state: state["admins"], []),
        (bob, ("remove_super_admin", group, alice_inbox), lambda state: alice_inbox in state["super_admins"], False),
        (bob, ("remove_members", group, [carol_inbox]), lambda state: carol_inbox in state["members"], False),
    ]
    epoch = shared.agree()["epoch"]
    shared.assert_next_message_arrives("in the beginning")
    for number, (who, step, read, expected) in enumerate(changes):
        who.do(*step)
        state = shared.agree()
        assert state["epoch"] > epoch
        epoch = state["epoch"]
        assert read(state) == expected, step
        shared.assert_next_message_arrives(f"after {number}")
        if step[0] == "add_members":
            # Others than those who were there from the start are read as well.
            carol.do("sync")
            carol.do("send", group, "from carol")
            assert shared.agree()["members"][carol_inbox] == [carol.do("installation_id")]
    # The path that every member was on is the one that ours was on.
    assert shared.ours.do("groups")[group]["undecryptable"] == 0
    assert len(shared.ours.do("texts", group)) == len(changes) + 2


def test_a_dm_of_somebody_else(shared: Party, start: Start) -> None:
    carol, real, ours = start("carol"), shared.real, shared.ours
    dm = carol.do("dm", shared.alice_inbox)
    carol.do("send", dm, "from carol")
    real.do("sync")
    real.do("send", dm, "from alice")
    carol.do("sync")
    carol.do("send", dm, "once more")
    _sync(real, ours)
    expected, found = (each.do("groups")[dm] for each in (real, ours))
    for name in ("type", "epoch", "epoch_authenticator", "adder"):
        assert found[name] == expected[name], name
    assert found["type"] == "dm"
    assert found["members"] == real.do("members", dm)
    assert ours.do("texts", dm) == ["from carol", "from alice", "once more"]
    _assert_same_messages(dm, real, ours)
    assert ours.do("conversation", dm) == {"type": "dm", "is_active": True, "creator": carol.do("inbox_id")}


def test_what_our_inbox_makes_is_joined(shared: Party) -> None:
    """Groups and DMs of another installation of the own inbox, in which ours is from the start."""
    bob, real, ours = shared.bob, shared.real, shared.ours
    bob_inbox = bob.do("inbox_id")
    made = [real.do("group", [bob_inbox], {"name": "of alice"}), real.do("dm", bob_inbox)]
    bob.do("sync")
    for conversation in made:
        real.do("send", conversation, "a question")
        bob.do("send", conversation, "an answer")
    _sync(real, ours)
    for conversation in made:
        assert ours.do("texts", conversation) == ["a question", "an answer"]
        for name in ("epoch", "epoch_authenticator"):
            assert ours.do("groups")[conversation][name] == real.do("groups")[conversation][name]
        assert ours.do("groups")[conversation]["adder"] == shared.alice_inbox


def test_installations_of_ours_come_and_are_revoked(party: Party, start: Start) -> None:
    """A real one and one of this library come to the group, and leave it once they are revoked."""
    inbox, ours = party.alice_inbox, party.ours
    party.agree()
    others = [start("alice", "another", module=OURS), start("alice", "a real one")]
    keys = [other.do("installation_id") for other in others]
    party.bob.do("add_members", party.group, [inbox])
    assert set(keys) < set(party.agree()["members"][inbox])
    for other in others:
        other.do("sync")
    _same_state(party.group, ours, *others)
    party.assert_next_message_arrives("to the new ones too")
    for other in others:
        other.do("sync")
        assert other.do("texts", party.group) == ["to the new ones too"]
    # One is revoked by ours, the other one by the real one.
    ours.do("revoke_installations", keys[1:])
    party.real.do("revoke_installations", keys[:1])
    assert party.bob.do("inbox_state", inbox) == ours.do("inbox_state")
    party.bob.do("add_members", party.group, [inbox])
    assert not set(keys) & set(party.agree()["members"][inbox])
    party.assert_next_message_arrives("without them")
    others[1].do("sync")
    assert others[1].do("is_active", party.group) is False


def test_removed_and_added_again(shared: Party) -> None:
    inbox = shared.alice_inbox
    shared.assert_next_message_arrives("before")
    shared.bob.do("remove_members", shared.group, [inbox])
    for each in (shared.real, shared.ours):
        each.do("sync")
        assert each.do("is_active", shared.group) is False
    assert shared.ours.do("groups")[shared.group]["membership"] == "removed"
    assert shared.ours.do("conversation", shared.group)["is_active"] is False
    _assert_same_messages(shared.group, shared.real, shared.ours)
    # Nobody hears what is said now, and nobody fails because of it.
    shared.bob.do("send", shared.group, "without you")
    shared.bob.do("rename", shared.group, "changed meanwhile")
    shared.ours.do("sync")
    shared.bob.do("add_members", shared.group, [inbox])
    assert shared.agree()["name"] == "changed meanwhile"
    assert shared.ours.do("groups")[shared.group]["membership"] == "active"
    assert shared.ours.do("conversation", shared.group)["is_active"] is True
    shared.assert_next_message_arrives("with you again")
    assert shared.ours.do("texts", shared.group) == ["before", "with you again"]


def test_many_commits_while_it_was_away(party: Party, start: Start) -> None:
    """Twenty of them, with messages of each epoch in between, in a group that it has joined and in one that is new."""
    new = party._replace(group=party.bob.do("group", [party.alice_inbox], {"name": "new", "description": "new"}))
    party.ours.do("sync_welcomes")
    party.ours.close()
    parties = {party: 20, new: 6}
    for each, commits in parties.items():
        for number in range(commits):
            party.bob.begin("send", each.group, f"message {number}")
            party.bob.begin("update_metadata", each.group, "description", f"{number}")
    for _ in range(2 * sum(parties.values())):
        party.bob.finish()
    ours = start("alice", "ours", module=OURS)
    for each, commits in parties.items():
        again = each._replace(ours=ours)
        assert again.agree()["epoch"] > commits
        again.assert_next_message_arrives("at last")
        assert ours.do("texts", each.group) == [*(f"message {number}" for number in range(commits)), "at last"]
        assert ours.do("groups")[each.group]["undecryptable"] == 0


def test_two_of_ours_and_two_real_ones_converge(party: Party, start: Start) -> None:
    """However often and in whatever order each of them fetches."""
    second_real, second_ours = start("alice", "second"), start("alice", "second ours", module=OURS)
    everybody = [party.real, second_real, party.ours, second_ours]
    for each in everybody:
        each.do("sync")
    party.bob.do("add_members", party.group, [party.alice_inbox])
    for number in range(6):
        for each in everybody[number % 4 :: 2]:
            each.do("sync")
        for sender in (everybody[number % 2], party.bob):
            sender.do("sync")
            sender.do("send", party.group, f"message {number}")
            sender.do("update_metadata", party.group, "name", f"name {number}")
    _sync(party.bob, *everybody)
    _sync(*everybody)
    state = _same_state(party.group, party.bob, *everybody)
    assert state["name"] == "name 5"
    assert len(state["members"][party.alice_inbox]) == 4
    _assert_same_messages(party.group, party.real, party.ours)
    texts = party.ours.do("texts", party.group)
    assert sorted(texts) == sorted(f"message {number}" for number in range(6) for _ in range(2))
    assert (
        second_ours.do("held", party.group) == second_real.do("held", party.group) == party.ours.do("held", party.group)
    )


def test_ours_is_killed_between_any_two_steps(node: LocalXmtp, party: Party, start: Start) -> None:
    """While it fetches, too, at moments that the machine chooses: nothing is skipped, and nothing comes twice."""
    ours = party.ours
    for number in range(6):
        for text in range(3):
            party.bob.do("send", party.group, f"message {number}.{text}")
        party.bob.do("update_metadata", party.group, "description", f"{number}")
        if number == 4:
            party.bob.do("add_members", party.group, [start("carol").do("inbox_id")])
        if number % 2:
            ours.do("sync")
        else:
            ours.begin("sync")
            time.sleep(0.015 * number)
        ours.close()
        ours = start("alice", "ours", module=OURS)
    party = party._replace(ours=ours)
    party.agree()
    party.assert_next_message_arrives("at last")
    held = party.ours.do("held", party.group)
    assert [text for _, _, text in held.values()] == [
        *(f"message {number}.{text}" for number in range(6) for text in range(3)),
        "at last",
    ]
    assert party.ours.do("groups")[party.group]["cursor"] == logs.newest(node.node_url, party.group)
    assert party.ours.do("groups")[party.group]["undecryptable"] == 0
