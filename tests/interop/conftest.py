"""A node and a world: two users of real libxmtp who have talked to each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from interop.account import User
from interop.node import Node
from interop.world import KEY, TEXTS, World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    with Node() as running:
        yield running


@pytest.fixture(scope="session")
def world(node: Node, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Alice has a group and a DM with Bob, a group of her own, decisions about all of them, and an archive."""
    folder = tmp_path_factory.mktemp("world")
    alice, bob = User("alice", node.url, folder), User("bob", node.url, folder)
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
