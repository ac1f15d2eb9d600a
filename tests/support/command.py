"""``xmtp-history`` commands that serve, as a user starts them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support import child

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass
class Running:
    """A command that serves."""

    process: subprocess.Popen[str]
    urls: dict[str, Any]

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=child.DEADLINE_SECONDS)
        return self.process.returncode, err


def start(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a command."""
    return subprocess.Popen(
        [sys.executable, "-m", "xmtp_history", *arguments],
        env={**child.environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def serving(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Runs a command that says where it serves, and kills it if it still runs in the end."""
    with start(*arguments, "--json", environment=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield Running(process, json.loads(line))
        finally:
            process.kill()
