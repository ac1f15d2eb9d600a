"""``xmtp_history.testing``, as other people's tests use it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from support import child
from support.node_client import is_serving
from xmtp_history.testing import run_local_xmtp

THEIR_TESTS = """
import urllib.request

pytest_plugins = ["xmtp_history.testing"]
seen = []


def use(local_xmtp):
    assert local_xmtp.node_url not in seen
    seen.append(local_xmtp.node_url)
    with urllib.request.urlopen(local_xmtp.history_sync_url) as answer:
        assert answer.status == 200


def test_one(local_xmtp):
    use(local_xmtp)


def test_another(local_xmtp):
    use(local_xmtp)
"""


def test_the_fixture_gives_each_test_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(THEIR_TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    run = subprocess.run(
        command, env=child.environment(), capture_output=True, text=True, timeout=child.DEADLINE_SECONDS, check=False
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "local-xmtp"}


def test_it_ends_with_the_block_and_leaves_no_thread() -> None:
    before = threads()
    with run_local_xmtp() as running:
        assert is_serving(running.node_url)
    with pytest.raises(grpc.RpcError) as failed:
        is_serving(running.node_url)
    assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
    assert threads() == before


def test_with_a_path_it_goes_on_on_the_same_ports(tmp_path: Path) -> None:
    with run_local_xmtp(tmp_path) as first:
        ports = [int(url.rpartition(":")[2]) for url in (first.node_url, first.history_sync_url)]
    with run_local_xmtp(tmp_path, node_port=ports[0], history_server_port=ports[1]) as second:
        assert second == first
        assert is_serving(second.node_url)
    assert {path.name for path in tmp_path.iterdir()} == {"archives", "node"}


def test_one_that_cannot_start_stops_the_other() -> None:
    with run_local_xmtp() as running:
        port = int(running.node_url.rpartition(":")[2])
        with pytest.raises(OSError, match=str(port)), run_local_xmtp(node_port=port):
            pass
        assert is_serving(running.node_url)
