"""What real clients change about groups and inboxes is seen by the others: the steps that later tests stand on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from interop import logs
from interop.account import Installation, RealFailsError
from interop.conftest import Start
from interop.devices import meet, sync_until, talk_of
from xmtp_history.testing import LocalXmtp


class Pair(NamedTuple):
    """Two users with a group that the first one has made."""

    alice: Installation
    bob: Installation
    group: str

    def of_both(self, read: Callable[[dict[str, Any]], Any]) -> Any:
        """Something about the group that both agree about, once both are up to date."""
        states = []
        for who in (self.alice, self.bob):
            who.do("sync")
            states.append(who.do("state", self.group))
        assert states[0] == states[1]
        return read(states[0])


@pytest.fixture
def pair(start: Start) -> Pair:
    alice, bob = start("alice"), start("bob")
    group = alice.do("group", [bob.do("inbox_id")], {"name": "a name"})
    bob.do("sync_welcomes")
    return Pair(alice, bob, group)


def test_members_come_and_go(pair: Pair, start: Start) -> None:
    carol = start("carol")
    carol_inbox = carol.do("inbox_id")
    assert pair.bob.do("add_members", pair.group, [carol_inbox])["failed"] == []
    assert pair.of_both(lambda state: state["members"][carol_inbox]) == [carol.do("installation_id")]
    carol.do("sync")
    assert carol.do("state", pair.group) == pair.of_both(lambda state: state)
    pair.alice.do("send_text", pair.group, "to all of you")

    # Only admins may.
    with pytest.raises(RealFailsError):
        pair.bob.do("remove_members", pair.group, [carol_inbox])
    pair.alice.do("remove_members", pair.group, [carol_inbox])
    assert carol_inbox not in pair.of_both(lambda state: state["members"])
    pair.bob.do("send", pair.group, "without carol")
    carol.do("sync")
    assert carol.do("is_active", pair.group) is False
    assert carol.do("texts", pair.group) == ["to all of you"]

    pair.bob.do("add_members", pair.group, [carol_inbox])
    pair.alice.do("sync")
    pair.alice.do("send", pair.group, "with carol again")
    carol.do("sync")
    assert carol.do("texts", pair.group) == ["to all of you", "with carol again"]
    assert carol.do("state", pair.group) == pair.of_both(lambda state: state)


def test_metadata_is_seen(pair: Pair) -> None:
    for field in ("name", "description", "image", "app_data"):
        for who in (pair.alice, pair.bob):
            who.do("sync")
            who.do("update_metadata", pair.group, field, f"{field} ø")
            assert pair.of_both(lambda state, field=field: state[field]) == f"{field} ø"
    pair.alice.do("set_disappearing", pair.group, 1, 10**18)
    assert pair.of_both(lambda state: state["disappearing"]) == [1, 10**18]
    pair.alice.do("set_disappearing", pair.group, None)
    assert pair.of_both(lambda state: state["disappearing"]) in ([0, 0], None)
    pair.alice.do("set_permission", pair.group, "UPDATE_METADATA", "SUPER_ADMIN", "GROUP_NAME")
    pair.bob.do("sync")
    with pytest.raises(RealFailsError):
        pair.bob.do("rename", pair.group, "not allowed")


def test_admins_are_seen(pair: Pair) -> None:
    alice_inbox, bob_inbox = pair.alice.do("inbox_id"), pair.bob.do("inbox_id")
    assert pair.of_both(lambda state: state["super_admins"]) == [alice_inbox]
    pair.alice.do("add_admin", pair.group, bob_inbox)
    assert pair.of_both(lambda state: state["admins"]) == [bob_inbox]
    pair.alice.do("remove_admin", pair.group, bob_inbox)
    assert pair.of_both(lambda state: state["admins"]) == []
    pair.alice.do("add_super_admin", pair.group, bob_inbox)
    assert pair.of_both(lambda state: state["super_admins"]) == sorted([alice_inbox, bob_inbox])
    pair.bob.do("remove_super_admin", pair.group, alice_inbox)
    assert pair.of_both(lambda state: state["super_admins"]) == [bob_inbox]


def test_installations_are_seen(pair: Pair, start: Start) -> None:
    bob_inbox, first_key = pair.bob.do("inbox_id"), pair.bob.do("installation_id")
    others = [start("bob", f"device {number}") for number in range(2)]
    other_keys = [other.do("installation_id") for other in others]
    nobody = "00" * 32
    statuses = pair.alice.do("key_package_statuses", [first_key, *other_keys, nobody])
    assert statuses.pop(nobody)["error"]
    for status in statuses.values():
        assert status["error"] is None
        # From an hour ago for 84 days.
        assert status["lifetime"][1] - status["lifetime"][0] == 84 * 24 * 3600 + 3600
    pair.alice.do("add_members", pair.group, [bob_inbox])
    assert pair.of_both(lambda state: state["members"][bob_inbox]) == sorted([first_key, *other_keys])
    state = pair.alice.do("inbox_state", bob_inbox)
    assert state == pair.bob.do("inbox_state")
    assert state["installations"] == sorted([first_key, *other_keys])
    assert state["addresses"] == [state["recovery"]]

    pair.bob.do("revoke_installations", other_keys)
    assert pair.alice.do("inbox_state", bob_inbox)["installations"] == [first_key]
    pair.alice.do("add_members", pair.group, [bob_inbox])
    assert pair.of_both(lambda state: state["members"][bob_inbox]) == [first_key]


def test_a_member_leaves(pair: Pair) -> None:
    pair.bob.do("leave", pair.group)
    # The worker of a super admin takes him out.
    sync_until(lambda: pair.alice.do("sync") or len(pair.alice.do("members", pair.group)) == 1, pair.alice)
    pair.bob.do("sync")
    assert pair.bob.do("is_active", pair.group) is False


def test_epochs_are_told(pair: Pair, node: LocalXmtp) -> None:
    pair.bob.do("send", pair.group, "a text")
    pair.alice.do("rename", pair.group, "another name")
    pair.alice.do("send", pair.group, "another text")
    epoch = pair.of_both(lambda state: state["epoch"])
    commits = pair.alice.do("commits", pair.group)
    assert [(commit["kind"], commit["epoch"]) for commit in commits if commit["result"] == 1] == [
        ("GroupCreation", 0),
        ("UpdateGroupMembership", 1),
        ("KeyUpdate", 2),
        ("MetadataUpdate", 3),
    ]
    # Alice had not seen bob's.
    (lost,) = (commit for commit in commits if commit["result"] != 1)
    assert lost["error"] == "OldEpoch(1, 2)"
    framings = logs.framings(node.node_url, pair.group)
    assert [framing.id for framing in framings if framing.is_commit] == [
        commit["sequence_id"] for commit in commits if commit["sequence_id"]
    ]
    # The first message of a new member comes after the update of its key.
    assert [framing.epoch for framing in framings] == [0, 1, 2, 1, 2, 3]
    for who in (pair.alice, pair.bob):
        info = who.do("debug_info", pair.group)
        assert (info["epoch"], info["maybe_forked"]) == (epoch, False)
        assert max(info["cursor"].values()) == framings[-1].id == logs.newest(node.node_url, pair.group)
        texts = {text: sequence for sequence, _, text in who.do("held", pair.group).values()}
        assert texts == {"a text": framings[2].id, "another text": framings[5].id}
    sent = [facts for facts in pair.bob.do("raw_messages", pair.group).values() if facts["kind"] == "application"]
    assert [facts["sender_installation_id"] for facts in sent] == [
        pair.bob.do("installation_id"),
        pair.alice.do("installation_id"),
    ]


def test_groups_of_devices_are_told(start: Start) -> None:
    talk = talk_of(start("alice", device_sync=True), start("bob"))
    second = start("alice", "second", device_sync=True)
    meet(talk, second)
    (own,) = second.do("sync_groups").values()
    first_groups = talk.first.do("sync_groups")
    assert list(first_groups.values())[-1]["members"] == own["members"]
    keys = sorted(device.do("installation_id") for device in (talk.first, second))
    assert own["members"] == {second.do("inbox_id"): keys}
    sync_until(lambda: talk.first.do("hmac_root") == second.do("hmac_root"), talk.first, second)
    for device in (talk.first, second):
        assert set(device.do("device_messages").values()) <= {0, 1}
    assert talk.first.do("hmac_keys") == second.do("hmac_keys")
    group_id = next(iter(second.do("sync_groups")))
    states = [device.do("sync_groups")[group_id] for device in (talk.first, second)]
    assert states[0]["epoch_authenticator"] == states[1]["epoch_authenticator"]
    assert second.do("raw_messages", group_id)
