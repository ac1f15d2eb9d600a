"""Real clients ask for history, and we answer (device sync, section 5, a to c)."""

from __future__ import annotations

import re
import time

import pytest

from interop import devices, logs
from interop.account import Installation
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
    sync_until,
)
from xmtp_history.testing import LocalXmtp

family = devices.family


def _ask(family: Family, life: Life, new: Installation, slash: str = "") -> None:
    """Has a real installation ask for history, and sync until it is there."""
    new.do("request_archive", family.server + slash)
    sync_until(lambda: everything(new) == everything(life.old), new)


@pytest.mark.parametrize("slash", ["", "/"])
def test_we_answer_a_real_client(family: Family, slash: str) -> None:
    """Also if it names the server with a slash at the end, as the documentation has it, which its own kind trips over."""
    life = family.life("ours")
    real = family.real()
    gather(life.old, real)
    assert everything(real) == {}
    _ask(family, life, real, slash)
    assert_whole(life, real)
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []
    (request,), (reply,) = spoken(life.old, REQUEST), spoken(life.old, REPLY)
    assert reply.fields[1] == request.fields[1]
    assert re.fullmatch(f"{re.escape(family.server)}/files/[0-9a-f-]{{36}}", reply.fields[2].decode())
    # The key: field 1 of the field 3, of 32 bytes.
    assert (reply.fields[3][:2], len(reply.fields[3])) == (b"\x0a\x20", 34)
    (sent,) = happened(life.old, "ArchiveSent")
    assert sent["requested_by_installation"] == real.do("installation_id")
    # They are read only until somebody adds it, and then it is the same conversation.
    assert not real.do("is_active", life.group)
    life.bob.do("add_members", life.group, [real.do("inbox_id")])
    say(life.bob, [life.group], "to all")
    for device in (life.old, real):
        device.do("sync")
    assert real.do("is_active", life.group)
    assert_same(life.old, real)
    assert len(messages(real, life.group)) == 4


def test_we_answer_at_once(node: LocalXmtp, family: Family) -> None:
    """Nobody tells ours to do anything, in a sync group that it has joined while it was listening."""
    life = family.life("ours")
    real = family.real()
    group = gather(life.old, real)
    seconds = []
    for _ in range(3):
        real.do("request_archive", family.server)
        begin, asked = time.monotonic(), len(logs.group_messages(node.node_url, group))
        sync_until(lambda asked=asked: len(logs.group_messages(node.node_url, group)) > asked)
        seconds.append(time.monotonic() - begin)
    # The fastest of them: the machine may have other things to do.
    assert min(seconds) < 1
    sync_until(lambda: everything(real) == everything(life.old), real)
    assert_whole(life, real)


def test_a_request_is_kept_until_a_worker_runs(family: Family) -> None:
    """One of ours without a worker reads it and does nothing; the next time it is opened, it has one, and answers."""
    life = family.life("ours", sync_interval=None)
    real = family.real()
    gather(life.old, real)
    real.do("request_archive", family.server)
    sync_until(lambda: bool(spoken(life.old, REQUEST)), life.old)
    assert spoken(life.old, REPLY) == []
    life.old.close()
    life = life._replace(old=family.ours("first"))
    sync_until(lambda: everything(real) == everything(life.old), real)
    assert_whole(life, real)


def test_we_are_asked_while_we_are_away(family: Family) -> None:
    life = family.life("ours")
    real = family.real()
    gather(life.old, real)
    life.old.close()
    real.do("request_archive", family.server)
    life = life._replace(old=family.ours("first"))
    sync_until(lambda: everything(real) == everything(life.old), real)
    assert_whole(life, real)
    # Opened once more, it does not answer what it has answered.
    said = len(life.old.do("device_said"))
    life.old.close()
    again = family.ours("first")
    again.do("sync_devices")
    assert len(again.do("device_said")) == said


def test_a_second_request_is_answered_too(family: Family) -> None:
    life = family.life("ours")
    real = family.real()
    gather(life.old, real)
    _ask(family, life, real)
    say(life.bob, [life.dm], "later")
    life.old.do("sync")
    _ask(family, life, real)
    assert messages(real, life.dm) == messages(life.old, life.dm)
    assert len(messages(real, life.dm)) == 4
    assert failed(real) == []


@pytest.mark.parametrize("kind", ["ours", "real"])
def test_several_answer_a_real_client(family: Family, kind: str) -> None:
    """One of ours, and another one or a real one; each has seen what the other one has not."""
    bob, ours = family.bob(), family.ours("first")
    inbox = ours.do("inbox_id")
    early = bob.do("group", [inbox], {"name": "early"})
    say(bob, [early], "early", 3)
    ours.do("sync")
    ours.do("consent", "conversation", early, "allowed")
    other = family.ours("other") if kind == "ours" else family.real("other")
    gather(ours, other)
    late = bob.do("group", [inbox], {"name": "late"})
    say(bob, [late], "late", 3)
    other.do("sync")
    other.do("consent", "conversation", late, "allowed")
    new = family.real("new")
    gather(ours, other, new)
    new.do("request_archive", family.server)
    talking = [new] if kind == "ours" else [new, other]
    sync_until(lambda: [len(messages(new, each)) for each in (early, late)] == [3, 3], *talking)
    assert messages(new, early) == messages(ours, early)
    assert messages(new, late) == messages(other, late)
    assert [new.do("get_consent", "conversation", each) for each in (early, late)] == ["allowed", "allowed"]
    sync_until(lambda: not pending(new), *talking)
    assert failed(new) == []


def test_one_that_has_sync_turned_off_does_not_answer(family: Family) -> None:
    life = family.life("ours", device_sync=False)
    real = family.real()
    real.do("request_archive", family.server)
    for device in (life.old, real) * 2:
        device.do("sync_devices")
    assert (len(spoken(life.old, REQUEST)), spoken(life.old, REPLY)) == (1, [])
    assert everything(real) == {}
    # It can send one by hand.
    life.old.do("send_archive", family.server, "by hand")
    sync_until(lambda: bool(real.do("archives")), real)
    real.do("take_archive", "by hand")
    assert_whole(life, real)


@pytest.mark.parametrize("server", ["nowhere", "ftp://127.0.0.1/"])
def test_an_address_that_leads_nowhere_stops_nothing(family: Family, server: str) -> None:
    """Real clients send whatever they are given; what is asked for after that is answered."""
    life = family.life("ours")
    real = family.real()
    gather(life.old, real)
    real.do("request_archive", server)
    sync_until(lambda: bool(happened(life.old, "ArchiveRefused")))
    assert [each["reason"] for each in happened(life.old, "ArchiveRefused")] == ["no_server"]
    _ask(family, life, real)
    assert_whole(life, real)
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []


def test_a_request_without_an_address_is_answered_by_way_of_our_server(family: Family) -> None:
    """That is how older clients ask, and whoever is given an empty address."""
    life = family.life("ours")
    real = family.real()
    gather(life.old, real)
    real.do("request_archive", "")
    sync_until(lambda: everything(real) == everything(life.old), real)
    assert_whole(life, real)


def test_a_real_client_allows_a_dm_that_it_imports(family: Family) -> None:
    """Whatever the archive says; and it tells the others, who have to take that for a decision, as it is the last one."""
    life = family.life("ours")
    life.old.do("consent", "conversation", life.dm, "denied")
    real = family.real()
    gather(life.old, real)
    real.do("request_archive", family.server)
    for device in (real, life.old):
        sync_until(lambda to=device: to.do("get_consent", "conversation", life.dm) == "allowed", real)
    assert_whole(life, real)
