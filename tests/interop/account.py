"""A user of libxmtp, as a test sees it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from support import child

if TYPE_CHECKING:
    from pathlib import Path

#: Everything the tests ask for takes a second or two; a hang is for ever.
DEADLINE_SECONDS: Final = 40


class RealHangsError(Exception):
    """The library did not come to an end."""


class RealFailsError(Exception):
    """The library raised, or the process died."""


@dataclass(frozen=True)
class User:
    """An account with one installation per database name."""

    name: str
    node: str
    folder: Path

    def run(self, *steps: tuple[Any, ...], db: str = "first", deadline: float = DEADLINE_SECONDS) -> list[Any]:
        """Carries out steps in a process of their own and returns their results.

        Raises:
            RealHangsError: the process did not end in time.
            RealFailsError: it raised or died.
        """
        plan = {
            "node": self.node,
            "db": str(self.folder / f"{self.name}-{db}.db3"),
            "account_key": hashlib.sha256(self.name.encode()).hexdigest(),
            "steps": steps,
        }
        with subprocess.Popen(
            [sys.executable, "-m", "interop.real"],
            env=child.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                out, err = process.communicate(json.dumps(plan), timeout=deadline)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise RealHangsError(f"no end after {deadline} s") from None
        if process.returncode != 0:
            raise RealFailsError(f"exit code {process.returncode}: {err[-2000:]}")
        results: list[Any] = json.loads(out)
        return results
