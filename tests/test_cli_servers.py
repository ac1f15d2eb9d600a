"""``xmtp-history node`` and ``up``, as a user meets them: started, used, interrupted, started again."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from typing import TYPE_CHECKING

import pytest

from support import child
from support.command import serving, start
from support.node_client import NodeClient, is_serving, private_message

if TYPE_CHECKING:
    from pathlib import Path

ANY_PORT = ("--port", "0", "--web-port", "0")
GROUP_ID = bytes(range(16))
MESSAGE = private_message(GROUP_ID)


def refused(*arguments: str) -> tuple[int, str]:
    with start(*arguments) as process:
        out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
    assert out == ""
    return process.returncode, err


def fetch(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, body, timeout=10) as answer:  # noqa: S310 - a URL of ours
        content: bytes = answer.read()
    return content


def send(url: str) -> None:
    with NodeClient(url) as client:
        client.send(MESSAGE)


def messages(url: str) -> list[tuple[int, bytes]]:
    with NodeClient(url) as client:
        return [(message.id, message.data) for message in client.messages(GROUP_ID)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_node_runs_until_it_is_stopped(number: signal.Signals) -> None:
    with serving("node", *ANY_PORT) as running:
        assert is_serving(running.urls["node_url"])
        assert fetch(running.urls["web_url"] + "/healthz") == b""
        assert running.urls["data"] is None
        assert running.stop(number) == (0, "")


def test_what_a_node_has_is_there_after_the_next_start(tmp_path: Path) -> None:
    data = os.fspath(tmp_path / "new" / "data")
    seen = []
    for _ in range(2):
        with serving("node", *ANY_PORT, "--no-web", "--data", data) as running:
            assert running.urls["web_url"] is None
            send(running.urls["node_url"])
            seen.append(messages(running.urls["node_url"]))
            assert running.stop() == (0, "")
    assert seen[0] == seen[1] == [(1, MESSAGE)]


def test_up_runs_a_node_and_a_history_server(tmp_path: Path) -> None:
    environment = {"TMPDIR": os.fspath(tmp_path)}
    with serving("up", *ANY_PORT, "--history-server-port", "0", environment=environment) as running:
        assert is_serving(running.urls["node_url"])
        server = running.urls["history_sync_url"]
        file_id = fetch(f"{server}/upload", b"archive").decode()
        assert fetch(f"{server}/files/{file_id}") == b"archive"
        assert running.stop() == (0, "")
    assert list(tmp_path.iterdir()) == [], "without --data nothing is left"


def test_up_keeps_everything_in_its_directory(tmp_path: Path) -> None:
    arguments = ("up", *ANY_PORT, "--history-server-port", "0", "--data", os.fspath(tmp_path))
    with serving(*arguments) as running:
        send(running.urls["node_url"])
        file_id = fetch(f"{running.urls['history_sync_url']}/upload", b"archive").decode()
        assert running.stop() == (0, "")
    with serving(*arguments) as running:
        assert messages(running.urls["node_url"]) == [(1, MESSAGE)]
        assert fetch(f"{running.urls['history_sync_url']}/files/{file_id}") == b"archive"


def test_text_says_where_and_how_to_stop() -> None:
    with start("up", *ANY_PORT, "--history-server-port", "0") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=child.DEADLINE_SECONDS)
    labels = ["node", "node for browsers", "history server", "data", "Press"]
    assert [line.startswith(label) for line, label in zip(lines, labels, strict=True)] == [True] * 5


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments in (
            ("node", "--port", port, "--no-web"),
            ("node", "--port", "0", "--web-port", port),
            ("up", *ANY_PORT, "--history-server-port", port),
        ):
            code, err = refused(*arguments)
            assert code == 1
            assert err.startswith("Error: ")
            assert port in err
            assert err.count("\n") == 1


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    arguments = ("node", *ANY_PORT, "--data", os.fspath(tmp_path))
    with serving(*arguments) as running:
        assert refused(*arguments) == (15, f"Error: another node uses {tmp_path}\n")
        assert is_serving(running.urls["node_url"])


def test_foreign_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.db3").write_bytes(b"no database" * 1000)
    code, err = refused("node", *ANY_PORT, "--data", os.fspath(tmp_path))
    assert code == 1
    assert "node.db3" in err
    assert (tmp_path / "node.db3").read_bytes() == b"no database" * 1000


@pytest.mark.parametrize(
    "arguments", [("--port", "65536"), ("--retain", "0"), ("--retain", "soon"), ("--web-port", "-1"), ("extra",)]
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    code, err = refused("node", *arguments)
    assert code == 2
    assert err.startswith("Usage: ")
