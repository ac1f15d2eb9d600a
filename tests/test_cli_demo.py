"""The demo: history sync from end to end, in one command."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xmtp_history", "demo", *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)


@pytest.mark.parametrize("peer", ["xmtp-history", "libxmtp"])
def test_both_hold_the_same_in_the_end(peer: str) -> None:
    run = _demo("--messages", "600", "--conversations", "7", "--peer", peer, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    shown = json.loads(run.stdout)
    assert (shown["peer"], shown["conversations"], shown["messages"], shown["differences"]) == (peer, 7, 600, [])
    assert shown["imported"]["messages"] == 600
    assert {"sync", "consent, old to new"} <= shown["seconds"].keys()


def test_it_says_what_it_does() -> None:
    run = _demo("--messages", "60", "--conversations", "2")
    assert run.returncode == 0
    for text in ("1. A local XMTP node", "2 conversations, 60 messages", "Rate", "All is well."):
        assert text in run.stdout


def test_wrong_numbers_are_refused() -> None:
    run = _demo("--messages", "0")
    assert (run.returncode, run.stdout) == (2, "")
    assert "0 is not in the range" in run.stderr
