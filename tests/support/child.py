"""Child processes: for limits that would hurt the tests' own process, and for being killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parents[1]

#: No child works longer; one that hangs fails its test.
DEADLINE_SECONDS: Final = 60


def environment() -> dict[str, str]:
    """The environment in which a child finds the same packages as its parent."""
    paths = [str(TESTS), *(path for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def start(script: str, *arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
    """Starts a Python script that can import what the tests can."""
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script, *(os.fspath(argument) for argument in arguments)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *arguments: str | os.PathLike[str], expect: int = 0) -> str:
    """Runs a script to its end and returns what it printed; its exit code has to be the one expected."""
    with start(script, *arguments) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"no end after {DEADLINE_SECONDS} s: {out}\n{err}") from None
    assert process.returncode == expect, f"exit code {process.returncode}: {out}\n{err}"
    return out
