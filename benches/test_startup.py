"""What it costs to have the library at hand: importing it, and the command line's help, in fresh processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from plan import LIBRARY, LIBXMTP, PYTHON, startup_cases
from rig import Turn

MODULES = {
    LIBRARY: "xmtp_history",
    PYTHON: "cryptography.hazmat.primitives.ciphers.aead, zstandard, google.protobuf.message_factory",
    LIBXMTP: "xmtp_bindings.xmtpv3",
}
INTERPRETER = "interpreter"


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return done.stdout


@pytest.mark.parametrize("turn", startup_cases("startup", LIBRARY, PYTHON, LIBXMTP), indirect=True, ids=str)
def test_import(turn: Turn) -> None:
    """The import statement, timed inside a new process."""
    if turn.subject == LIBRARY:
        turn.need_library()
    code = f"import time; t = time.perf_counter(); import {MODULES[turn.subject]}; print(time.perf_counter() - t)"
    turn.time_elsewhere(lambda: float(_run("-c", code)))
    turn.correct(right=True)


@pytest.mark.parametrize("turn", startup_cases("help", LIBRARY, INTERPRETER), indirect=True, ids=str)
def test_help(turn: Turn) -> None:
    """``xmtp-history --help``, start of the process to its end."""
    if turn.subject == LIBRARY:
        turn.need_library()
    script = Path(sys.executable).with_name("xmtp-history")
    command = [str(script)] if script.exists() else ["-m", "xmtp_history"]
    arguments = [*command, "--help"] if turn.subject == LIBRARY else ["-c", "pass"]
    # Whether it works at all shows before the clock runs.
    _run(*arguments)
    text = turn.time(lambda: _run(*arguments))
    turn.correct(right=turn.subject != LIBRARY or "import" in text)
