"""Progress of a transfer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from xmtp_history._types import Progress

if TYPE_CHECKING:
    from xmtp_history._io import OnProgress

_INTERVAL = 0.1


class Meter:
    """Reports to a callback how many bytes have gone, at most ten times a second."""

    def __init__(self, phase: str, on_progress: OnProgress | None, total: int | None) -> None:
        self.total = total
        self._phase = phase
        self._on_progress = on_progress
        self._next = 0.0

    def at(self, done: int) -> None:
        """So many bytes have gone now; reports if it is time to."""
        if self._on_progress is not None and time.monotonic() >= self._next:
            self.report(done)
            self._next = time.monotonic() + _INTERVAL

    def report(self, done: int) -> None:
        """Reports now."""
        if self._on_progress is not None:
            self._on_progress(Progress(self._phase, 0, None, done, self.total))
