"""A clock that does not believe everything: a wrong date must not delete a week's files at once."""

from __future__ import annotations

import time

#: What the wall clock may gain on the steady clock between two looks before it is not believed, seconds.
_JUMP_SECONDS = 3_600.0

#: How long it has to insist, seconds.
_PATIENCE_SECONDS = 3_600.0


class Clock:
    """Seconds since 1970, by the wall clock, except for a while after it has jumped ahead."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._since = 0.0
        self._wall = time.time()
        self._steady = time.monotonic()

    def now(self) -> float:
        """The time. It may go back, when the wall clock does."""
        wall, steady = time.time(), time.monotonic()
        gained = (wall - self._wall) - (steady - self._steady)
        self._wall, self._steady = wall, steady
        if gained > _JUMP_SECONDS:
            self._ahead += gained
            self._since = steady
        elif gained < -_JUMP_SECONDS:
            # It has been put right, or at least back.
            self._ahead = max(0.0, self._ahead + gained)
        if self._ahead and steady - self._since > _PATIENCE_SECONDS:
            self._ahead = 0.0
        return wall - self._ahead
