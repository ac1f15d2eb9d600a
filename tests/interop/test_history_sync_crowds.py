"""Three and four installations of both kinds come one after another and end with the same (device sync, section 2)."""

from __future__ import annotations

from typing import Any

import pytest

from interop import devices
from interop.account import Installation
from interop.devices import (
    PREFERENCES,
    REPLY,
    REQUEST,
    Family,
    assert_same,
    assert_whole,
    chat,
    everything,
    failed,
    gather,
    happened,
    life_of,
    pending,
    same,
    say,
    settle,
    spoken,
    sync_history,
    sync_until,
)

family = devices.family


class Crowd:
    """The installations of a user, each with who it is."""

    def __init__(self, family: Family, bob: Installation) -> None:
        self.members: list[Installation] = []
        self._family = family
        self._bob = bob
        self._reals: list[Installation] = []

    @property
    def reals(self) -> list[Installation]:
        """Those of real libxmtp, which do nothing unless they are told to."""
        return self._reals

    def add(self, kind: str) -> Installation:
        """Adds one, and waits until everybody knows it."""
        name = f"{kind} {len(self.members)}"
        new = self._family.ours(name) if kind == "ours" else self._family.real(name)
        self.members.append(new)
        self._reals += [new] if kind == "real" else []
        if len(self.members) > 1:
            gather(*self.members)
        return new

    def ask(self, new: Installation) -> None:
        """Has one ask for history, until it shows what the first one does."""
        if new in self._reals:
            new.do("request_archive", self._family.server)
        else:
            sync_history(new, *self._reals)
        sync_until(lambda: everything(new) == everything(self.members[0]), *self._reals)

    def talk(self, conversations: list[str], text: str) -> None:
        """Has somebody say something, which everybody hears who is there."""
        self._bob.do("add_members", conversations[0], [self.members[0].do("inbox_id")])
        say(self._bob, conversations[:1], text)
        for device in self.members:
            device.do("sync")


@pytest.mark.parametrize(
    "kinds",
    [("real", "ours", "real"), ("ours", "real", "real", "ours"), ("ours", "ours", "real"), ("real", "real", "ours")],
    ids="-".join,
)
def test_they_end_with_the_same(family: Family, kinds: tuple[str, ...]) -> None:
    """Each newcomer asks; people talk in between; in the end everybody decides something, all at once."""
    bob = family.bob()
    crowd = Crowd(family, bob)
    first = crowd.add(kinds[0])
    conversations = chat(bob, first.do("inbox_id"))
    first.do("sync")
    first.do("consent", "conversation", conversations[0], "allowed")
    for number, kind in enumerate(kinds[1:]):
        crowd.ask(crowd.add(kind))
        crowd.talk(conversations, f"after {number + 2} of them")
    assert_same(*crowd.members)
    sync_until(lambda: len({_keys(device, conversations[0]) for device in crowd.members}) == 1, *crowd.reals)
    somebody = [f"{number:x}" * 64 for number in range(len(kinds))]
    for inbox, conversation_id, device in zip(somebody, conversations, crowd.members, strict=False):
        device.do("consent", "inbox", inbox, "denied")
        device.do("consent", "conversation", conversation_id, "denied")
    sync_until(lambda: all(_has_denied(each, somebody) for each in crowd.members), *crowd.reals)
    sync_until(lambda: same(*crowd.members), *crowd.reals)
    assert {everything(first)[each]["consent"] for each in conversations[: len(kinds)]} == {"denied"}
    for real in crowd.reals:
        sync_until(lambda real=real: not pending(real), *crowd.reals)
        assert failed(real) == []


def _has_denied(device: Installation, inboxes: list[str]) -> bool:
    return all(device.do("get_consent", "inbox", inbox) == "denied" for inbox in inboxes)


def _keys(device: Installation, conversation_id: str) -> str:
    return str(device.do("hmac_keys")[conversation_id])


def test_all_are_asked_and_all_answer(family: Family) -> None:
    """Of three, one asks; two real ones answer it, or one of each kind; the history is there once."""
    bob = family.bob()
    crowd = Crowd(family, bob)
    life = life_of(crowd.add("real"), bob)
    crowd.ask(crowd.add("real"))
    ours = crowd.add("ours")
    report = sync_history(ours, *crowd.reals)
    sync_until(lambda: len(happened(ours, "HistoryImported")) == 2, *crowd.reals)
    senders = {each["sent_by_installation"] for each in happened(ours, "HistoryImported")}
    assert senders == {real.do("installation_id") for real in crowd.reals}
    assert report["refused"] == []
    assert ours.do("get_consent", "conversation", life.group) == "allowed"
    assert_same(*crowd.members)


def test_a_newcomer_is_not_in_older_sync_groups(family: Family) -> None:
    """The one that came first knows two, the one that came last its own; what is said is said there."""
    first, second = family.real("first"), family.ours("second")
    group = gather(first, second)
    assert len(first.do("sync_groups")) == 2
    assert list(second.do("sync_groups")) == [group]
    third = family.real("third")
    newest = gather(first, second, third)
    assert [len(device.do("sync_groups")) for device in (first, second, third)] == [3, 2, 1]
    second.do("consent", "inbox", "b0" * 32, "denied")
    sync_until(lambda: third.do("get_consent", "inbox", "b0" * 32) == "denied", third)
    assert spoken(second, PREFERENCES)[-1].group == newest


@pytest.mark.parametrize("asking", ["ours", "real"])
def test_two_that_come_at_once_and_have_swapped_primaries(family: Family, asking: str) -> None:
    """Each has made a group, then got the other one's: they speak in different ones, and all of it is heard."""
    life = family.life("real")
    # Both are there before any of them makes a group.
    for new in (family.ours(device_sync=False, sync_interval=None), family.real("second", device_sync=False)):
        new.close()
    ours, real = family.ours(), family.real("second")
    everybody = (life.old, ours, real)
    settle(*everybody)
    primary = [max(groups, key=lambda key: groups[key]["created_at_ns"]) for groups in map(_sync_groups, (ours, real))]
    assert len({*primary}) == 2
    new = ours if asking == "ours" else real
    new.do("request_archive", family.server)
    sync_until(lambda: everything(new) == everything(life.old), life.old, real)
    assert_whole(life, new)
    (asked,), answers = spoken(ours, REQUEST), spoken(ours, REPLY)
    assert asked.group in primary
    assert {each.group for each in answers} <= {*primary}
    # Consent too.
    for sender, receiver, entity in ((ours, real, "b0" * 32), (real, ours, "e1" * 32)):
        sender.do("consent", "inbox", entity, "denied")
        sync_until(lambda to=receiver, who=entity: to.do("get_consent", "inbox", who) == "denied", real)


def _sync_groups(device: Installation) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = device.do("sync_groups")
    assert len(groups) == 2
    return groups
