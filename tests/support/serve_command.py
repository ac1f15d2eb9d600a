"""``xmtp-history serve`` as an operator runs it."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from support import child
from support.command import start


def fresh_home(folder: Path) -> dict[str, str]:
    """The environment of a user who has never configured anything."""
    return {"HOME": os.fspath(folder), "XDG_DATA_HOME": os.fspath(folder / "data")}


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Runs the command to its end: its exit code, output and errors."""
    with start("serve", *map(os.fspath, arguments), environment=environment) as process:
        out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
        return process.returncode, out, err


def fetch(url: str, body: bytes | None = None) -> bytes:
    """Fetches a URL; with a body, posts to it."""
    with urllib.request.urlopen(url, body, timeout=30) as answer:  # noqa: S310 - a URL of ours
        content: bytes = answer.read()
    return content


def one_sentence(err: str) -> str:
    """What is said of an error: one line, and no traceback; with wrong usage, below how to use the command."""
    lines = err.splitlines()
    assert lines[-1].startswith("Error: "), err
    assert len(lines) == 1 or lines[0].startswith("Usage: xmtp-history serve"), err
    assert "Traceback" not in err
    return lines[-1].removeprefix("Error: ")
