"""The node goes away and comes back; real libxmtp clients go on where they were (node specification, sections 0 and 9)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from interop import logs
from interop.account import Installation
from interop.conftest import Start
from support import child
from xmtp_history.testing import LocalXmtp, run_local_xmtp

_NODE = """
import asyncio, sys
from xmtp_history import LocalNode

async def main():
    async with LocalNode(sys.argv[1], port=int(sys.argv[2])) as node:
        print(node.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

#: For what clients do in less than a second.
DEADLINE_SECONDS = 30


class Pair(NamedTuple):
    alice: Installation
    bob: Installation
    group: str


def _pair(start: Start, node: str) -> Pair:
    """Two users with a group, one of whom streams."""
    alice, bob = start("alice", node=node), start("bob", node=node)
    group = alice.do("group", [bob.do("inbox_id")])
    bob.do("sync")
    bob.do("follow", "messages")
    return Pair(alice, bob, group)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


@contextlib.contextmanager
def _killable(folder: Path, port: int = 0) -> Iterator[str]:
    """A node in a process of its own, which ends without a warning."""
    with child.start(_NODE, folder, str(port)) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _rising_ids(node: str, group: str) -> bool:
    ids = [message.id for message in logs.group_messages(node, group)]
    return ids == sorted(set(ids))


def test_clients_go_on_after_a_restart(start: Start, tmp_path: Path) -> None:
    with run_local_xmtp(tmp_path / "xmtp") as running:
        pair = _pair(start, running.node_url)
        carol = start("carol", node=running.node_url)
        pair.bob.do("follow", "conversations")
        pair.alice.do("add", pair.group, [carol.do("inbox_id")])
        pair.alice.do("send", pair.group, "before")
        assert _texts(pair.bob.do("followed", "messages", 2, DEADLINE_SECONDS)) == ["before"]
    for kind in ("messages", "conversations"):
        end = pair.bob.do("until_closed", kind, DEADLINE_SECONDS)
        assert end["closed"] is True
        assert "shutting down" in "".join(end["errors"])
    with _again(tmp_path / "xmtp", running) as url:
        # What was there before is there before anything is written.
        carol.do("follow", "messages")
        assert _texts(carol.do("followed", "messages", 1, DEADLINE_SECONDS)) == ["before"]
        pair.alice.do("send", pair.group, "after")
        pair.bob.do("follow", "messages")
        new = pair.alice.do("group", [pair.bob.do("inbox_id")])
        pair.alice.do("send", new, "in a new group")
        assert _texts(pair.bob.do("followed", "messages", 2, DEADLINE_SECONDS)) == ["after", "in a new group"]
        pair.bob.do("send", pair.group, "an answer")
        pair.alice.do("sync")
        for who in (pair.alice, pair.bob):
            assert who.do("texts", pair.group) == ["before", "after", "an answer"]
        assert _rising_ids(url, pair.group)


@contextlib.contextmanager
def _again(folder: Path, before: LocalXmtp) -> Iterator[str]:
    ports = {"node_port": _port(before.node_url), "history_server_port": _port(before.history_sync_url)}
    with run_local_xmtp(folder, **ports) as running:
        assert running == before
        yield running.node_url


def test_what_is_sent_while_the_node_is_away_waits_for_it(start: Start, tmp_path: Path) -> None:
    """The library tries for two seconds; nothing else than a delay comes of a quick restart."""
    with run_local_xmtp(tmp_path / "xmtp") as running:
        pair = _pair(start, running.node_url)
    pair.alice.begin("send", pair.group, "is somebody there?")
    with _again(tmp_path / "xmtp", running):
        pair.alice.finish()
        pair.bob.do("sync")
        assert pair.bob.do("texts", pair.group) == ["is somebody there?"]


def test_nothing_that_was_reported_as_sent_is_lost_when_the_node_is_killed(start: Start, tmp_path: Path) -> None:
    streamed: list[str] = []
    with _killable(tmp_path / "node") as url:
        pair = _pair(start, url)
        pair.alice.do("start_sending", pair.group)
        streamed += _texts(pair.bob.do("followed", "messages", 30, DEADLINE_SECONDS))
    for _ in range(3):
        assert pair.bob.do("until_closed", "messages", DEADLINE_SECONDS)["closed"] is True
        with _killable(tmp_path / "node", _port(url)) as same:
            assert same == url
            pair.bob.do("follow", "messages")
            streamed += _texts(pair.bob.do("followed", "messages", 30, DEADLINE_SECONDS))
    with _killable(tmp_path / "node", _port(url)):
        reported = pair.alice.do("stop_sending")
        for who in (pair.alice, pair.bob):
            who.do("sync")
        texts = pair.bob.do("texts", pair.group)
        assert len(texts) == len(set(texts)) >= 120
        assert set(reported["sent"]) <= set(texts) <= {*reported["sent"], *reported["failed"]}
        assert [text for text in texts if text in reported["sent"]] == reported["sent"]
        assert pair.alice.do("texts", pair.group) == texts
        assert set(streamed) <= set(texts)
        assert _rising_ids(url, pair.group)
        new = pair.bob.do("group", [pair.alice.do("inbox_id")])
        pair.bob.do("send", new, "all is well")
        pair.alice.do("sync")
        assert pair.alice.do("texts", new) == ["all is well"]


def _texts(items: list[list[str]]) -> list[str]:
    return [text for _, _, text, kind, _ in items if kind == "application"]
