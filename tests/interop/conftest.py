"""A node, installations on it, and a world: two users of real libxmtp who have talked to each other."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Protocol

import pytest

from interop.account import REAL, Installation, User
from interop.devices import Talk, talk_of
from interop.proxy import Proxy, running_proxy
from interop.world import KEY, TEXTS, World
from xmtp_history.testing import LocalXmtp, run_local_xmtp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Start(Protocol):
    """Starts installations that end with the test."""

    def __call__(
        self, name: str, db: str = ..., *, node: str = ..., device_sync: bool = ..., module: str = ...
    ) -> Installation: ...


@pytest.fixture(scope="session")
def node() -> Iterator[LocalXmtp]:
    with run_local_xmtp() as running:
        yield running


@pytest.fixture
def proxy(node: LocalXmtp) -> Iterator[Proxy]:
    """What stands between the node and clients that are to have a hard time."""
    with running_proxy(node.node_url) as running:
        yield running


@pytest.fixture
def start(node: LocalXmtp, tmp_path: Path) -> Iterator[Start]:
    """Starts installations of users whom no other test knows."""
    with contextlib.ExitStack() as stack:

        def started(
            name: str, db: str = "first", *, node: str = node.node_url, device_sync: bool = False, module: str = REAL
        ) -> Installation:
            user = User(f"{name} {tmp_path.name}", node, tmp_path)
            return stack.enter_context(user.start(db, device_sync=device_sync, module=module))

        yield started


@pytest.fixture
def talk(start: Start) -> Talk:
    return talk_of(start("alice", device_sync=True), start("bob"))


@pytest.fixture
def second(talk: Talk, start: Start) -> Installation:
    """An installation that did not exist when the messages were sent."""
    second = start("alice", "second", device_sync=True)
    assert second.do("inbox_id") == talk.first.do("inbox_id")
    second.do("sync")
    assert second.do("listing") == {}
    return second


@pytest.fixture(scope="session")
def world(node: LocalXmtp, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Alice has a group and a DM with Bob, a group of her own, decisions about all of them, and an archive."""
    folder = tmp_path_factory.mktemp("world")
    alice, bob = User("alice", node.node_url, folder), User("bob", node.node_url, folder)
    (bob_inbox,) = bob.run(("inbox_id",))
    names = {
        "name": 'Träger 組 🚀 "quoted"',
        "description": "two\nlines",
        "image": "https://e.org/ø.png",
        "app_data": "{}",
    }
    alice_inbox, group, empty_group, dm = alice.run(
        ("inbox_id",), ("group", [bob_inbox], names), ("group", []), ("dm", bob_inbox)
    )
    *_, deleted = alice.run(
        *(("send", group, text) for text in TEXTS), ("send", dm, "a DM"), ("send", group, "this one is to be deleted")
    )
    bob.run(("sync",), ("send", group, "a reply"), ("send", dm, "another"))
    archive = folder / "real.xmtp"
    *_, listing = alice.run(
        ("sync",),
        ("delete", group, deleted),
        ("consent", "conversation", dm, "denied"),
        ("consent", "conversation", empty_group, "unknown"),
        ("consent", "inbox", bob_inbox, "allowed"),
        ("export_archive", os.fspath(archive), KEY.hex()),
        ("listing",),
    )
    return World(alice, alice_inbox, bob_inbox, group, empty_group, dm, deleted, archive, listing)
