"""What ours say to each other alone: real clients in the same sync group take no notice, and no harm."""

from __future__ import annotations

import pytest

from interop import devices
from interop.account import Installation
from interop.devices import (
    NOTICE,
    Family,
    assert_same,
    assert_whole,
    everything,
    failed,
    gather,
    happened,
    life_of,
    messages,
    pending,
    say,
    spoken,
    sync_history,
    sync_until,
)

family = devices.family

#: A conversation of an application, which no node knows.
RECORDED = "a7" * 16


def _assert_unharmed(real: Installation, ours: Installation) -> None:
    """What was said is done with, and both go on hearing of each other."""
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []
    number = len(real.do("device_messages"))
    for sender, receiver, entity in ((ours, real, f"{number:064x}"), (real, ours, f"{number + 1:064x}")):
        sender.do("consent", "inbox", entity, "denied")
        sync_until(lambda to=receiver, who=entity: to.do("get_consent", "inbox", who) == "denied", real)
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []


@pytest.mark.parametrize("count", [3, 1000])
def test_recorded_messages_reach_ours_alone(family: Family, count: int) -> None:
    """Also many at once, which are more than one message; a real one gets them with an archive, when it asks."""
    real, ours = family.real(), family.ours()
    gather(real, ours)
    other = family.ours("other")
    gather(real, ours, other)
    recorded = ours.do("record", RECORDED, [f"recorded {number}" for number in range(count)])
    sync_until(lambda: len(messages(other, RECORDED)) == count)
    assert messages(other, RECORDED) == messages(ours, RECORDED)
    told = [key for each in happened(other, "MessagesShared") for key in each["message_ids"]]
    assert sorted(told) == sorted(recorded)
    assert happened(ours, "MessagesShared") == []
    assert spoken(other, NOTICE)
    real.do("sync")
    assert everything(real) == {}
    _assert_unharmed(real, ours)
    if count == 3:
        real.do("request_archive", family.server)
        sync_until(lambda: messages(real, RECORDED) == messages(ours, RECORDED), real)
        assert failed(real) == []


def test_a_refusal_is_for_ours_alone(family: Family) -> None:
    """One of ours that answers nobody tells so; a real client that has asked waits for the next one, who answers."""
    refusing = family.ours("refusing", allow=[])
    other = family.real("other")
    gather(refusing, other)
    life = life_of(other, family.bob())
    new = family.real("new")
    gather(refusing, other, new)
    new.do("request_archive", family.server)
    sync_until(lambda: bool(happened(refusing, "ArchiveRefused")))
    (refused,) = happened(refusing, "ArchiveRefused")
    assert (refused["requested_by_installation"], refused["reason"]) == (new.do("installation_id"), "refused")
    assert len(spoken(refusing, NOTICE)) == 1
    new.do("sync_devices")
    assert messages(new, life.denied) == {}
    sync_until(lambda: everything(new) == everything(other), new, other)
    assert_whole(life, new)
    for real in (new, other):
        _assert_unharmed(real, refusing)


def test_one_of_ours_is_refused_by_one_and_answered_by_another(family: Family) -> None:
    """Who has asked is told about both."""
    refusing, other = family.ours("refusing", allow=[]), family.real("other")
    gather(refusing, other)
    life = life_of(other, family.bob())
    new = family.ours("new")
    gather(refusing, other, new)
    report = sync_history(new, other)
    sync_until(lambda: bool(happened(new, "HistorySyncFailed")))
    (failure,) = happened(new, "HistorySyncFailed")
    assert (failure["sent_by_installation"], failure["reason"]) == (refusing.do("installation_id"), "refused")
    assert report["archives"] == 1
    assert_whole(life, new)
    assert_same(new, other)
    _assert_unharmed(other, new)


def test_what_devices_say_is_no_conversation(family: Family) -> None:
    """Neither listed nor streamed as one, be it said by a real client or by ours; what people say is."""
    life = family.life("real")
    real, ours = life.old, family.ours()
    gather(real, ours)
    ours.do("follow", "messages")
    other = family.ours("other")
    gather(real, ours, other)
    for device, entity in ((real, "b0" * 32), (ours, "e1" * 32)):
        device.do("consent", "inbox", entity, "denied")
    other.do("record", RECORDED, ["for ours alone"])
    sync_until(lambda: len(happened(ours, "MessagesShared")) == 1, real)
    sync_until(lambda: ours.do("get_consent", "inbox", "b0" * 32) == "denied", real)
    life.bob.do("sync")
    said = say(life.bob, [life.group], "to be heard")
    sync_until(lambda: bool(ours.do("followed", "messages", 0, 0)), real)
    assert [[each[0], each[1], each[2]] for each in ours.do("followed", "messages", 0, 0)] == [
        [said[0], life.group, "to be heard 0"]
    ]
    groups = {*ours.do("sync_groups")}
    assert len(groups) == 2
    assert not groups & {*everything(ours)}
    assert not groups & {*ours.do("hmac_keys")}
