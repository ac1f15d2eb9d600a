"""One clock for work in this process and in others.

libxmtp and the limits run in processes of their own and time themselves. Their figures must stand beside the rest in
pytest-benchmark's results, so the benchmarks use this clock: it runs like ``time.perf_counter``, and can be told to show
the time that a piece of work took elsewhere instead of the time that passed here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """A clock that can be corrected."""

    def __init__(self) -> None:
        self._correction = 0.0

    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter() + self._correction

    @contextmanager
    def shows(self, seconds: float) -> Iterator[None]:
        """Makes the clock advance by this time over the block, whatever the block itself takes."""
        started = time.perf_counter()
        yield
        self._correction += seconds - (time.perf_counter() - started)


CLOCK = Clock()
