"""What real clients and ours tell each other about consent and the key of push topics (device sync, section 5, e)."""

from __future__ import annotations

from typing import Any

import pytest

from interop import devices
from interop.account import Installation
from interop.devices import PREFERENCES, Family, chat, failed, gather, pending, spoken, sync_until

family = devices.family

#: Entities that neither device has heard of.
SOMEBODY, SOMEBODY_ELSE, GROUP = "b0" * 32, "e1" * 32, "c2" * 16


def _sees(device: Installation, kind: str, entity: str, state: str) -> bool:
    return bool(device.do("get_consent", kind, entity) == state)


def _keys(device: Installation, conversations: list[str]) -> list[list[list[Any]]]:
    """Of each conversation the keys of three epochs."""
    keys = device.do("hmac_keys")
    return [keys.get(conversation_id, []) for conversation_id in conversations]


@pytest.mark.parametrize("kind", ["inbox", "conversation"])
def test_consent_travels_both_ways(family: Family, kind: str) -> None:
    """All states, of entities that nobody knows yet, and whoever of them says it."""
    real, ours = family.real(), family.ours()
    gather(real, ours)
    entity = SOMEBODY if kind == "inbox" else GROUP
    assert _sees(ours, kind, entity, "unknown")
    states = ["allowed", "denied", "unknown", "denied", "allowed"]
    for number, state in enumerate([*states, *states]):
        sender, receiver = (real, ours) if number % 2 else (ours, real)
        sender.do("consent", kind, entity, state)
        sync_until(lambda to=receiver, state=state: _sees(to, kind, entity, state), real)
        assert _sees(sender, kind, entity, state)
    # What does not change is not said again.
    heard = len(spoken(ours, PREFERENCES))
    for device in (real, ours):
        device.do("consent", kind, entity, states[-1])
        device.do("sync_devices")
    ours.do("sync_devices")
    assert len(spoken(ours, PREFERENCES)) == heard
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []


@pytest.mark.parametrize("last", ["ours", "real"])
def test_the_last_one_to_decide_wins(family: Family, last: str) -> None:
    """Two decide differently before they hear of each other; whose message comes first does not matter."""
    real, ours = family.real(), family.ours(sync_interval=None)
    gather(real, ours)
    devices_in_order = [real, ours] if last == "ours" else [ours, real]
    for kind, entity in (("inbox", SOMEBODY), ("conversation", GROUP)):
        for device, state in zip(devices_in_order, ("allowed", "denied"), strict=True):
            device.do("consent", kind, entity, state)
    key = real.do("installation_id")
    # The key of push topics, and two decisions.
    sync_until(lambda: len([each for each in spoken(ours, PREFERENCES) if each.sender == key]) == 3, real, ours)
    said = {message["id"] for message in ours.do("device_said")}
    sync_until(lambda: said <= real.do("device_messages").keys() and not pending(real), real)
    for device in (real, ours):
        for kind, entity in (("inbox", SOMEBODY), ("conversation", GROUP)):
            assert _sees(device, kind, entity, "denied")


def test_two_of_ours_agree_whatever_the_order(family: Family) -> None:
    """Of what a real client and both of ours say about one record again and again, the last word is the same for both."""
    real = family.real()
    one, two = family.ours("one", sync_interval=None), family.ours("two", sync_interval=None)
    gather(real, one, two)
    states = ["denied", "allowed", "unknown", "allowed", "denied", "allowed", "unknown", "allowed", "denied"]
    for number, state in enumerate(states):
        (real, one, two)[number % 3].do("consent", "inbox", SOMEBODY, state)
        if number % 4 == 3:
            one.do("sync_devices")
    ours = (one, two)
    sync_until(lambda: all(_sees(device, "inbox", SOMEBODY, "denied") for device in ours), real, *ours)
    for device in (real, one, two) * 2:
        device.do("sync_devices")
    assert all(_sees(device, "inbox", SOMEBODY, "denied") for device in ours)


def test_all_derive_the_same_keys(family: Family) -> None:
    """From the first newcomer on, and after every other one."""
    bob = family.bob()
    real, ours = family.real("real"), family.ours()
    gather(real, ours)
    conversations = chat(bob, real.do("inbox_id"), 1)
    for device in (real, ours):
        device.do("sync")
    members = [real, ours]
    for newcomer in (None, family.real, family.ours):
        if newcomer is not None:
            members.append(newcomer(f"number {len(members)}"))
            gather(*members)
            bob.do("add_members", conversations[0], [real.do("inbox_id")])
            bob.do("send", conversations[0], "to all")
            members[-1].do("sync")
        sync_until(lambda: len({str(_keys(device, conversations[:1])) for device in members}) == 1, *members)
        ((first, second, third),) = _keys(ours, conversations[:1])
        assert [second[0], third[0]] == [first[0] + 1, first[0] + 2]
        assert {len(key) for _, key in (first, second, third)} == {84}
    assert real.do("hmac_keys") == ours.do("hmac_keys")
    assert ours.do("hmac_keys").keys() == {*conversations}


@pytest.mark.parametrize("who", ["ours", "real"])
def test_whoever_is_revoked_does_not_get_the_next_key(family: Family, who: str) -> None:
    """Whichever of the others revokes it: there is a fresh sync group with a fresh key, which real clients follow."""
    bob = family.bob()
    revoked, real, ours = family.real("to be revoked"), family.real("other"), family.ours()
    gather(revoked, real, ours)
    conversations = chat(bob, ours.do("inbox_id"), 1)
    everybody = (revoked, real, ours)
    for device in everybody:
        device.do("sync")
    sync_until(lambda: len({str(_keys(device, conversations)) for device in everybody}) == 1, *everybody)
    old = _keys(ours, conversations)
    (ours if who == "ours" else real).do("revoke_installations", [revoked.do("installation_id")])
    sync_until(lambda: _keys(ours, conversations) == _keys(real, conversations) != old, real, ours)
    group = gather(real, ours)
    sync_until(lambda: _keys(ours, conversations) == _keys(real, conversations), real, ours)
    # It is told what is said where it still is. What is said now is not said there.
    root = real.do("hmac_root")
    ours.do("consent", "inbox", SOMEBODY, "denied")
    sync_until(lambda: _sees(real, "inbox", SOMEBODY, "denied"), real)
    real.do("consent", "inbox", SOMEBODY_ELSE, "denied")
    sync_until(lambda: _sees(ours, "inbox", SOMEBODY_ELSE, "denied"), real)
    assert {each.group for each in spoken(ours, PREFERENCES)[-2:]} == {group}
    revoked.do("sync_devices")
    assert revoked.do("hmac_root") != root
    assert _keys(revoked, conversations) != _keys(ours, conversations)
    for entity in (SOMEBODY, SOMEBODY_ELSE):
        assert _sees(revoked, "inbox", entity, "unknown")


def test_whoever_is_revoked_gets_no_archive(family: Family) -> None:
    """It asks where it still is; a real client would answer that."""
    revoked, ours = family.real("to be revoked"), family.ours()
    gather(revoked, ours)
    ours.do("revoke_installations", [revoked.do("installation_id")])
    heard = len(ours.do("device_said"))
    revoked.do("request_archive", family.server)
    for device in (ours, revoked) * 2:
        device.do("sync_devices")
    assert len(ours.do("device_said")) == heard
    assert revoked.do("archives") == []
    assert [name for name, _ in ours.do("events") if name.startswith("Archive")] == []


def test_streams_tell_each_change_once(family: Family) -> None:
    """On the device that makes it, and on the other one; of what is said again nothing."""
    real, ours = family.real(), family.ours()
    gather(real, ours)
    for device in (real, ours):
        device.do("follow", "consents")
    changes = [["inbox_id", entity, state] for entity in (SOMEBODY, SOMEBODY_ELSE) for state in ("denied", "allowed")]
    for number, (_, entity, state) in enumerate(changes):
        (ours, real)[number % 2].do("consent", "inbox", entity, state)
        (ours, real)[number % 2].do("consent", "inbox", entity, state)
        sync_until(lambda e=entity, s=state: all(_sees(each, "inbox", e, s) for each in (real, ours)), real)
    for device in (real, ours):
        sync_until(lambda to=device: len(to.do("followed", "consents", 0, 0)) >= 4, real)
        assert device.do("followed", "consents", 0, 0) == changes


def test_the_stream_of_preferences_tells_of_consent_and_keys(family: Family) -> None:
    """With three installations: two decisions, and a key for each one that joins the other's group."""
    ours = family.ours()
    ours.do("follow", "preferences")
    first = family.real("first")
    first.do("follow_preferences")
    gather(ours, first)
    second = family.real("second")
    gather(ours, first, second)
    ours.do("consent", "inbox", SOMEBODY, "denied")
    second.do("consent", "inbox", SOMEBODY_ELSE, "denied")
    for entity in (SOMEBODY, SOMEBODY_ELSE):
        sync_until(
            lambda who=entity: all(_sees(each, "inbox", who, "denied") for each in (ours, first, second)), first, second
        )
    told = ours.do("followed", "preferences", 0, 0)
    assert [each for each in told if each[0] == "consent"] == [["consent"], ["consent"]]
    (root, _) = first.do("hmac_root")
    assert [each for each in told if each[0] == "hmac"][-1] == ["hmac", root]
    # Real ones also tell of keys that they do not take, because they know a newer one.
    sync_until(lambda: ["hmac", root] in first.do("followed_preferences", 0, 0), first)
