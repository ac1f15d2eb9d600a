"""We ask for history, and real clients answer (device sync, section 5, a to c and f)."""

from __future__ import annotations

import re

import pytest

from interop import devices
from interop.account import Installation, RealFailsError
from interop.devices import (
    REPLY,
    REQUEST,
    Family,
    Life,
    assert_same,
    assert_whole,
    everything,
    failed,
    gather,
    happened,
    messages,
    pending,
    say,
    spoken,
    sync_history,
    sync_until,
)

family = devices.family


@pytest.mark.parametrize("interval", [300.0, None], ids=["worker", "no worker"])
def test_a_real_client_answers(family: Family, interval: float | None) -> None:
    """What comes is everything that it has, by the same ids; it has nothing to complain of."""
    life = family.life("real")
    ours = family.ours(sync_interval=interval)
    assert everything(ours) == {}
    report = sync_history(ours, life.old)
    assert (report["archives"], report["refused"]) == (1, [])
    assert report["new"]["messages"] >= 12
    assert_whole(life, ours)
    assert (failed(life.old), pending(life.old)) == ([], [])
    (asked,) = happened(ours, "HistoryRequested")
    assert asked == {"pin": report["pin"], "automatic": False}
    assert re.fullmatch("[A-Za-z0-9]{5}", report["pin"])
    (request,) = spoken(ours, REQUEST)
    assert [request.fields[1].decode(), request.fields[2].decode()] == [report["pin"], family.server]
    (imported,) = happened(ours, "HistoryImported")
    assert (imported["pin"], imported["sent_by_installation"]) == (report["pin"], life.old.do("installation_id"))
    assert happened(ours, "HistorySyncFailed") == []
    status = ours.do("status")
    assert (status["pending_requests"], status["other_installations"]) == (0, 1)


def test_a_new_installation_asks_by_itself_once(family: Family) -> None:
    """Nobody calls anything; opened again, it does not ask again."""
    life = family.life("real")
    ours = family.ours(auto=True)
    sync_until(lambda: ours.do("status")["phase"] == "waiting")
    sync_until(lambda: bool(happened(ours, "HistoryImported")), life.old)
    assert_whole(life, ours)
    (asked,) = happened(ours, "HistoryRequested")
    assert asked["automatic"] is True
    assert ours.do("status")["phase"] == "done"
    ours.close()
    ours = family.ours(auto=True)
    life.old.do("sync_devices")
    ours.do("sync_devices")
    assert happened(ours, "HistoryRequested") == []
    assert len(spoken(ours, REQUEST)) == 1


def test_a_second_request_is_answered_too(family: Family) -> None:
    """And what is said in a DM goes on arriving in between and afterwards."""
    life = family.life("real")
    ours = family.ours()
    gather(life.old, ours)
    first = sync_history(ours, life.old)
    _say_to_all(life, "in between", life.old, ours)
    second = sync_history(ours, life.old)
    assert first["pin"] != second["pin"]
    assert second["new"]["messages"] == 0
    _say_to_all(life, "afterwards", life.old, ours)
    assert ours.do("texts", life.dm)[-2:] == ["in between 0", "afterwards 0"]
    assert_same(life.old, ours)


def _say_to_all(life: Life, text: str, *members: Installation) -> None:
    for device in (life.bob, *members):
        device.do("sync")
    say(life.bob, [life.dm], text)
    for device in members:
        device.do("sync")
        assert device.do("texts", life.dm)[-1] == f"{text} 0"


def test_only_messages_or_only_consent(family: Family) -> None:
    life = family.life("real")
    ours = family.ours()
    report = sync_history(ours, life.old, what="consent")
    assert report["new"]["messages"] == 0
    assert ours.do("get_consent", "inbox", life.bob_inbox) == "denied"
    assert ours.do("get_consent", "conversation", life.denied) == "denied"
    assert messages(ours, life.group) == {}
    report = sync_history(ours, life.old, what="messages")
    assert report["new"]["consents"] == 0
    assert_whole(life, ours)


def test_two_answers_to_one_request_are_both_imported(family: Family) -> None:
    """Two real clients have seen different things."""
    bob, first = family.bob(), family.real("first")
    inbox = first.do("inbox_id")
    early = bob.do("group", [inbox], {"name": "early"})
    say(bob, [early], "early", 3)
    first.do("sync")
    first.do("consent", "conversation", early, "allowed")
    second = family.real("second")
    gather(first, second)
    late = bob.do("group", [inbox], {"name": "late"})
    say(bob, [late], "late", 3)
    second.do("sync")
    second.do("consent", "conversation", late, "allowed")
    assert messages(second, early) == messages(first, late) == {}
    ours = family.ours()
    report = sync_history(ours, first, second)
    sync_until(lambda: len(happened(ours, "HistoryImported")) == 2, first, second)
    senders = {each["sent_by_installation"] for each in happened(ours, "HistoryImported")}
    assert senders == {first.do("installation_id"), second.do("installation_id")}
    assert {each["pin"] for each in happened(ours, "HistoryImported")} == {report["pin"]}
    assert messages(ours, early) == messages(first, early)
    assert messages(ours, late) == messages(second, late)
    assert [len(messages(ours, conversation_id)) for conversation_id in (early, late)] == [3, 3]
    for conversation_id in (early, late):
        assert ours.do("get_consent", "conversation", conversation_id) == "allowed"


def test_a_third_installation_registers_before_the_answer(family: Family) -> None:
    """It is imported, whether the real client puts it into the group of the question or into the newest one."""
    life = family.life("real")
    ours = family.ours()
    gather(life.old, ours)
    ours.do("request_archive", family.server)
    (asked,) = spoken(ours, REQUEST)
    family.real("third")
    sync_until(lambda: len(ours.do("sync_groups")) == 2)
    sync_until(lambda: bool(happened(ours, "HistoryImported")), life.old)
    (answer,) = spoken(ours, REPLY)
    assert {asked.group, answer.group} <= ours.do("sync_groups").keys()
    assert_whole(life, ours)


def test_an_answer_comes_when_nobody_waits_any_more(family: Family) -> None:
    """Whoever waits hears what for; whoever answers later is heard all the same."""
    life = family.life("real")
    ours = family.ours()
    ours.do("start_sync_history", {"timeout": 0.2})
    with pytest.raises(RealFailsError, match="installation"):
        sync_until(lambda: ours.do("sync_history_report") is not None)
    status = ours.do("status")
    assert (status["phase"], status["pending_requests"]) == ("waiting", 1)
    sync_until(lambda: bool(happened(ours, "HistoryImported")), life.old)
    assert_whole(life, ours)
    assert ours.do("status")["pending_requests"] == 0


def test_a_real_client_whose_sync_is_off_does_not_answer(family: Family) -> None:
    life = family.life("real", device_sync=False)
    ours = family.ours()
    ours.do("start_sync_history", {"timeout": 0.2})
    with pytest.raises(RealFailsError, match="installation"):
        sync_until(lambda: ours.do("sync_history_report") is not None, life.old)
    assert everything(ours) == {}
    # Once it is turned on, it answers what lies there, as soon as something wakes it.
    life.old.close()
    life = life._replace(old=family.real("first"))
    ours.do("consent", "inbox", "b0" * 32, "denied")
    sync_until(lambda: bool(happened(ours, "HistoryImported")), life.old)
    assert_whole(life, ours)


def test_a_decision_in_an_archive_is_worth_more_than_being_added(family: Family) -> None:
    """A group that the inbox has made itself is allowed, unless it was denied, be it before we came."""
    bob, first = family.bob(), family.real("first")
    group = first.do("group", [bob.do("inbox_id")], {"name": "mine"})
    say(first, [group], "mine", 2)
    bob.do("sync")
    first.do("consent", "conversation", group, "denied")
    ours = family.ours()
    bob.do("add_members", group, [first.do("inbox_id")])
    say(bob, [group], "to both")
    ours.do("sync")
    # Of what is denied, real ones only fetch what they are told to.
    first.do("sync_conversation", group)
    assert ours.do("texts", group) == ["to both 0"]
    assert ours.do("get_consent", "conversation", group) == "allowed"
    sync_history(ours, first)
    assert ours.do("get_consent", "conversation", group) == "denied"
    assert ours.do("is_active", group)
    assert_same(first, ours)


def test_a_real_client_adds_us_to_its_conversations(family: Family) -> None:
    """Not to those that were denied: of them there is what an archive brings, and they are not active."""
    life = family.life("real")
    ours = family.ours()
    gather(life.old, ours)
    added = {life.group, life.dm, life.undecided}
    ours.do("sync")
    assert everything(ours).keys() == added
    sync_history(ours, life.old)
    assert_whole(life, ours)
    assert {key for key, facts in ours.do("listing").items() if facts["is_active"]} == added


def test_a_dm_that_is_made_again_has_the_same_dm_id(family: Family) -> None:
    """Whoever talks to us has a new installation too, which does not know the DM."""
    life = family.life("real")
    ours = family.ours()
    sync_history(ours, life.old)
    newcomer = family.bob("second")
    again = newcomer.do("dm", life.old.do("inbox_id"))
    assert again != life.dm
    say(newcomer, [again], "it is me again")
    for device in (ours, life.old):
        device.do("sync")
    # A real client shows both as one.
    earlier = [f"from bob {number}" for number in range(3)]
    assert life.old.do("texts", again) == life.old.do("texts", life.dm) == [*earlier, "it is me again 0"]
    assert [ours.do("texts", life.dm), ours.do("texts", again)] == [earlier, ["it is me again 0"]]
    members = sorted([life.old.do("inbox_id"), life.bob_inbox])
    assert [ours.do("dm_id", key) for key in (life.dm, again)] == ["dm:" + ":".join(members)] * 2
