"""An installation of this library in an inbox with real ones (identity specification, section 9, steps 1 to 4, 10 and 11).

Whatever one of them does to the inbox, the others see; what they sign, the others verify.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interop.account import OURS, REAL, Installation, RealFailsError, User, account_key
from interop.conftest import Start
from support.node_client import NodeClient
from xmtp_history import Client, EoaSigner, TooManyInstallations
from xmtp_history.testing import LocalXmtp


def _assert_same_state(*installations: Installation, inbox: str | None = None) -> dict[str, Any]:
    """All of them say the same about an inbox."""
    first, *others = (each.do("inbox_state", inbox) for each in installations)
    for other in others:
        assert other == first
    return first


def _account(name: str, folder: Path) -> str:
    """The account of an installation that ``start`` starts."""
    return account_key(f"{name} {folder.name}")


@pytest.fixture(scope="module")
def watchers(node: LocalXmtp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Installation]]:
    """A real installation and one of ours, of inboxes that have nothing to do with others."""
    folder = tmp_path_factory.mktemp("watchers")
    users = {module: User(f"{module} {folder.name}", node.node_url, folder) for module in (REAL, OURS)}
    with users[REAL].start() as real, users[OURS].start(module=OURS) as ours:
        yield [real, ours]


@pytest.mark.parametrize("modules", [(REAL, OURS), (OURS, REAL)])
def test_either_makes_the_inbox_that_the_other_one_registers_in(
    start: Start, watchers: list[Installation], modules: tuple[str, str]
) -> None:
    """Other inboxes' installations see the same: each library verifies what the other one has signed."""
    first = start("alice", "first", module=modules[0])
    inbox, first_key = first.do("inbox_id"), first.do("installation_id")
    second = start("alice", "second", module=modules[1])
    assert second.do("inbox_id") == inbox
    state = _assert_same_state(first, second)
    assert state["installations"] == sorted([first_key, second.do("installation_id")])
    assert state["addresses"] == [state["recovery"]]
    assert _assert_same_state(*watchers, inbox=inbox) == state
    # The log goes on from either side.
    second.do("revoke_installations", [first_key])
    state["installations"] = [second.do("installation_id")]
    assert _assert_same_state(second, *watchers, inbox=inbox) == state


def test_a_log_with_everything_in_it(start: Start, watchers: list[Installation], tmp_path: Path) -> None:
    """Addresses that come and go, installations that are revoked, another recovery address."""
    real = start("alice")
    inbox = real.do("inbox_id")
    ours, another = start("alice", "ours", module=OURS), start("alice", "another", module=OURS)
    for each in (ours, another):
        assert each.do("inbox_id") == inbox
    real.do("add_wallet", _account("dora", tmp_path))
    state = _assert_same_state(real, ours, another)
    assert len(state["addresses"]) == 2
    assert len(state["installations"]) == 3
    # The second address leads to the same inbox, and may add installations to it.
    of_dora = start("dora", "ours", module=OURS)
    assert of_dora.do("inbox_id") == inbox
    real_of_dora = start("dora", "real")
    assert real_of_dora.do("inbox_id") == inbox
    state = _assert_same_state(real, ours, of_dora, real_of_dora)
    assert len(state["installations"]) == 5
    assert _assert_same_state(*watchers, inbox=inbox) == state
    # It is not the recovery address, which alone may revoke.
    with pytest.raises(RealFailsError, match="recovery address"):
        of_dora.do("revoke_installations", [another.do("installation_id")])
    ours.do("revoke_installations", [another.do("installation_id")])
    assert another.do("installation_id") not in _assert_same_state(real, ours, of_dora)["installations"]
    # With the address goes what it has added.
    real.do("revoke_wallet", _account("dora", tmp_path))
    state = _assert_same_state(real, ours, *watchers, inbox=inbox)
    assert state["installations"] == sorted(each.do("installation_id") for each in (real, ours))
    assert len(state["addresses"]) == 1
    real.do("change_recovery", _account("eve", tmp_path))
    state = _assert_same_state(real, ours, *watchers, inbox=inbox)
    assert state["recovery"] not in state["addresses"]
    with pytest.raises(RealFailsError, match="recovery address"):
        ours.do("revoke_installations", [real.do("installation_id")])
    assert _assert_same_state(real, ours, *watchers, inbox=inbox) == state


def test_our_key_package_is_good_before_and_after_it_is_replaced(node: LocalXmtp, start: Start) -> None:
    """Real clients say so, and add the installation to groups by it."""
    bob, ours = start("bob"), start("alice", module=OURS)
    inbox, key = ours.do("inbox_id"), ours.do("installation_id")
    packages: list[bytes] = []
    with NodeClient(node.node_url) as client:

        def note_package() -> None:
            packages.extend(client.fetch(bytes.fromhex(key)))
            status = bob.do("key_package_statuses", [key])[key]
            assert status["error"] is None
            assert status["lifetime"][1] - status["lifetime"][0] == 84 * 24 * 3600

        note_package()
        for number in range(3):
            group = bob.do("group", [inbox], {"name": f"group {number}"})
            bob.do("send", group, "hello")
            if number == 2:
                # The welcome is for a package that is not the newest one any more.
                ours.do("rotate_key_package")
                note_package()
            ours.do("sync")
            assert ours.do("texts", group) == ["hello"]
            # After welcomes a new one is due.
            note_package()
            if number == 1:
                ours.do("rotate_key_package")
                note_package()
        ours.do("sync")
        assert client.fetch(bytes.fromhex(key)) == packages[-1:], "nothing new, no new one"
    assert len(set(packages)) == len(packages) == 6
    # What it was added to by older ones goes on.
    groups = ours.do("groups")
    assert len(groups) == 3
    for group in groups:
        bob.do("send", group, "bye")
    ours.do("sync")
    assert [ours.do("texts", group) for group in groups] == [["hello", "bye"]] * 3


def test_ten_installations_are_the_most_there_may_be(node: LocalXmtp, start: Start, tmp_path: Path) -> None:
    """Neither a real client nor ours makes an eleventh one, and both do once there is room."""
    signer = EoaSigner.from_key(_account("alice", tmp_path))

    async def register(*names: str) -> list[str]:
        ids = []
        for name in names:
            options = {"db_path": tmp_path / name, "db_encryption_key": bytes(32), "disable_device_sync": True}
            async with await Client.create(signer, env="local", api_url=node.node_url, **options) as client:
                ids.append(client.installation_id)
        return ids

    real = start("alice", "real")
    keys = [real.do("installation_id"), *asyncio.run(register(*(f"ours {number}" for number in range(8))))]
    keys.append(start("alice", "another real one").do("installation_id"))
    assert real.do("inbox_state")["installations"] == sorted(keys)
    with pytest.raises(TooManyInstallations) as refused:
        asyncio.run(register("eleventh"))
    assert sorted(refused.value.installation_ids) == sorted(keys)
    with pytest.raises(RealFailsError, match="10/10 installations"):
        start("alice", "eleventh real one").do("inbox_id")
    assert real.do("inbox_state")["installations"] == sorted(keys)
    # One that is there already is opened all the same.
    assert asyncio.run(register("ours 0")) == keys[1:2]
    real.do("revoke_installations", keys[2:4])
    # The database that could not be registered is of use once there is room.
    later = [*asyncio.run(register("eleventh")), start("alice", "twelfth").do("installation_id")]
    assert real.do("inbox_state")["installations"] == sorted([*keys[:2], *keys[4:], *later])
    with pytest.raises(TooManyInstallations):
        asyncio.run(register("thirteenth"))


def test_a_real_client_revokes_ours(start: Start) -> None:
    """It says so to whoever uses it, hears nothing more, and is not opened again."""
    real, bob = start("alice", device_sync=True), start("bob")
    inbox = real.do("inbox_id")
    devices = [start("alice", db, module=OURS, device_sync=True) for db in ("ours", "silent")]
    keys = [device.do("installation_id") for device in devices]
    group = bob.do("group", [inbox])
    for device in devices:
        device.do("sync")
        assert device.do("is_active", group)
    ours, silent = devices
    silent.close()
    real.do("revoke_installations", keys)
    assert real.do("inbox_state")["installations"] == [real.do("installation_id")]
    bob.do("add_members", group, [inbox])
    bob.do("send", group, "not for the revoked ones")
    assert bob.do("members", group)[inbox] == [real.do("installation_id")]
    for step in (("sync",), ("sync_devices",), ("say_to_devices", "0a00")):
        with pytest.raises(RealFailsError, match="revoked"):
            ours.do(*step)
    assert ours.do("texts", group) == []
    assert ours.do("inbox_state") == real.do("inbox_state")
    with pytest.raises(RealFailsError, match="NotRegistered"):
        start("alice", "silent", module=OURS).do("inbox_id")
    # The others do not even notice.
    real.do("sync")
    assert real.do("texts", group) == ["not for the revoked ones"]
