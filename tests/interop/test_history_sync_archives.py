"""Archives that nobody has asked for, and that are imported by hand, both ways (device sync, section 5, d)."""

from __future__ import annotations

from typing import Any

import pytest

from interop import devices
from interop.account import RealFailsError
from interop.devices import (
    REQUEST,
    Family,
    assert_same,
    assert_whole,
    everything,
    failed,
    gather,
    messages,
    pending,
    say,
    spoken,
    sync_until,
)

family = devices.family


@pytest.mark.parametrize("kind", ["ours", "real"])
def test_archives_are_sent_listed_and_imported_by_pin(family: Family, kind: str) -> None:
    """The newest one is listed first; nothing is imported before somebody says so, and then what it was made of."""
    life = family.life(kind, "old")
    old = life.old
    new = family.real("new") if kind == "ours" else family.ours("new")
    gather(old, new)
    key, early = old.do("installation_id"), messages(old, life.denied).keys()
    old.do("send_archive", family.server, "one")
    say(life.bob, [life.denied], "in between")
    old.do("sync")
    if kind == "real":
        # They do not fetch what is denied, unless they are told to.
        old.do("sync_conversation", life.denied)
    old.do("send_archive", family.server, "two")
    sync_until(lambda: len(new.do("archives")) == 2, new)
    assert new.do("archives") == [["two", key], ["one", key]]
    assert not messages(new, life.denied).keys() & early
    new.do("take_archive", "one")
    assert messages(new, life.denied).keys() >= early
    new.do("take_archive", "two")
    assert_same(old, new)
    assert len(messages(new, life.denied)) == len(early) + 1
    assert new.do("get_consent", "inbox", life.bob_inbox) == "denied"
    # Once more does no harm, and says so.
    again = new.do("take_archive", "one")
    assert again in (None, dict.fromkeys(("conversations", "messages", "consents"), 0))
    assert_same(old, new)
    real = old if kind == "real" else new
    sync_until(lambda: not pending(real), real)
    assert failed(real) == []


@pytest.mark.parametrize("kind", ["ours", "real"])
def test_the_newest_archive_is_imported_where_no_pin_is_given(family: Family, kind: str) -> None:
    """Two devices have sent one; ours never takes its own for the newest, as real ones do."""
    life = family.life("real", "old")
    old = life.old
    new = family.ours("new") if kind == "ours" else family.real("new")
    gather(old, new)
    old.do("send_archive", family.server, "theirs")
    sync_until(lambda: len(new.do("archives")) == 1, new)
    if kind == "ours":
        new.do("send_archive", family.server, "own")
        assert [pin for pin, _ in new.do("archives")] == ["theirs"]
    new.do("take_archive", None)
    assert_whole(life, new)


def test_an_unknown_pin_is_an_error(family: Family) -> None:
    """Neither has an archive of which nobody has heard."""
    ours, real = family.ours(), family.real()
    gather(ours, real)
    for device in (ours, real):
        assert device.do("archives") == []
        for pin in ("nobody", None):
            with pytest.raises(RealFailsError):
                device.do("take_archive", pin)


@pytest.mark.parametrize("kind", ["ours", "real"])
def test_an_archive_with_the_pin_of_a_request_is_imported_without_being_told_to(family: Family, kind: str) -> None:
    """Somebody is asked, does not answer, and then sends by hand what was asked for."""
    quiet: dict[str, Any] = {"allow": []} if kind == "ours" else {"device_sync": False}
    life = family.life(kind, "old", **quiet)
    old = life.old
    new = family.real("new") if kind == "ours" else family.ours("new")
    if kind == "ours":
        gather(old, new)
    new.do("request_archive", family.server)
    ours = old if kind == "ours" else new
    sync_until(lambda: bool(spoken(ours, REQUEST)), ours)
    old.do("sync_devices")
    (asked,) = spoken(ours, REQUEST)
    old.do("send_archive", family.server, asked.fields[1].decode())
    sync_until(lambda: everything(new) == everything(old), new)
    assert_whole(life, new)
