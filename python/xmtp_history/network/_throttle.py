"""How many requests a client makes at most; nodes refuse more, or block who sends them (node specification, section 1)."""

from __future__ import annotations

import asyncio
import time
from typing import Final

#: At once, and then by the minute. Together no minute sees more than 5,000, which is where XMTP's own library stops.
_BURST: Final = 1_000
_A_MINUTE: Final = 4_000

# Tests replace them.
_clock = time.monotonic
_sleep = asyncio.sleep


class Throttle:
    """A bucket of permits that fills up by itself."""

    def __init__(self, *, burst: int = _BURST, a_minute: int = _A_MINUTE) -> None:
        self._burst = burst
        self._a_second = a_minute / 60
        self._permits = float(burst)
        self._counted = _clock()

    async def take(self) -> None:
        """Waits for the permit of one request; those who wait get theirs in the order in which they came."""
        now = _clock()
        self._permits = min(self._burst, self._permits + (now - self._counted) * self._a_second) - 1
        self._counted = now
        if self._permits < 0:
            try:
                await _sleep(-self._permits / self._a_second)
            except asyncio.CancelledError:
                self._permits += 1
                raise
