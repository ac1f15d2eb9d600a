"""All that real libxmtp clients do on our node and history server, which are stopped and started again all the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.account import Installation
from interop.conftest import Start
from interop.devices import DEADLINE_SECONDS, sync_until
from xmtp_history.testing import LocalXmtp, run_local_xmtp


class Xmtp:
    """A node and a history server that keep their data and their ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = run_local_xmtp(folder)
        self.urls: LocalXmtp = self._running.__enter__()

    def restart(self) -> None:
        self.stop()
        ports = [int(url.rpartition(":")[2]) for url in (self.urls.node_url, self.urls.history_sync_url)]
        self._running = run_local_xmtp(self._folder, node_port=ports[0], history_server_port=ports[1])
        assert self._running.__enter__() == self.urls

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@pytest.fixture
def xmtp(tmp_path: Path) -> Iterator[Xmtp]:
    running = Xmtp(tmp_path / "xmtp")
    yield running
    running.stop()


def _texts(device: Installation, conversation: str) -> list[str]:
    device.do("sync")
    texts: list[str] = device.do("texts", conversation)
    return texts


def test_everything_survives_restarts(xmtp: Xmtp, start: Start) -> None:
    node = xmtp.urls.node_url
    first = start("alice", node=node, device_sync=True)
    bob = start("bob", node=node)
    bob_inbox = bob.do("inbox_id")

    xmtp.restart()
    group, dm = first.do("group", [bob_inbox]), first.do("dm", bob_inbox)
    xmtp.restart()
    first.do("send_each", [group, dm], ["from alice"] * 2)
    assert [_texts(bob, chat) for chat in (group, dm)] == [["from alice"]] * 2
    xmtp.restart()
    bob.do("follow", "messages")
    bob.do("send_each", [group, dm], ["from bob"] * 2)
    assert [_texts(first, chat) for chat in (group, dm)] == [["from alice", "from bob"]] * 2
    first.do("send", group, "to the stream")
    assert "to the stream" in {text for _, _, text, *_ in bob.do("followed", "messages", 3, DEADLINE_SECONDS)}
    first.do("consent", "inbox", bob_inbox, "denied")

    xmtp.restart()
    assert bob.do("until_closed", "messages", DEADLINE_SECONDS)["closed"] is True
    second = start("alice", "second", node=node, device_sync=True)
    assert second.do("inbox_id") == first.do("inbox_id")
    second.do("sync")
    assert second.do("listing") == {}
    xmtp.restart()
    # As in interop.devices.meet: what it asks for while it is being set up, the first one may never be able to read.
    sync_until(lambda: len(second.do("listing")) == 2, first, second)
    second.do("request_archive", xmtp.urls.history_sync_url)
    xmtp.restart()
    before = _texts(first, group)
    sync_until(lambda: group in second.do("listing") and len(second.do("texts", group)) == len(before), first, second)
    assert second.do("texts", group) == before == ["from alice", "from bob", "to the stream"]
    assert second.do("texts", dm) == ["from alice", "from bob"]
    assert second.do("get_consent", "inbox", bob_inbox) == "denied"

    xmtp.restart()
    bob.do("add", group, [first.do("inbox_id")])
    bob.do("send", group, "to both")
    assert [_texts(device, group)[-1] for device in (first, second)] == ["to both"] * 2
    second.do("send", group, "from the second one")
    assert _texts(bob, group)[-1] == "from the second one"

    xmtp.restart()
    first.do("revoke_installation", second.do("installation_id"))
    assert first.do("inbox_state")["installations"] == [first.do("installation_id")]
    xmtp.restart()
    bob.do("add", group, [first.do("inbox_id")])
    bob.do("send", group, "to the first one only")
    assert _texts(first, group)[-1] == "to the first one only"
    assert "to the first one only" not in _texts(second, group)
    assert second.do("is_active", group) is False
