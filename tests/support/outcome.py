"""What a command of ``xmtp-history`` came to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def sentence(self) -> str:
        """What is said of an error: one line below warnings, or below how to use the command, and no traceback."""
        lines = [line for line in self.err.splitlines() if not line.startswith("Warning: ")]
        assert self.out == ""
        assert lines[-1].startswith("Error: "), self.err
        assert len(lines) == 1 or lines[0].startswith("Usage: xmtp-history "), self.err
        return lines[-1].removeprefix("Error: ")
