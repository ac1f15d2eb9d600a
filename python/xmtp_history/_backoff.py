"""How long to wait before another try, whatever it is that is tried."""

from __future__ import annotations

from typing import Final

#: From here on the bound does not grow any more, whatever it is: numbers stay small however long something fails.
_DOUBLINGS: Final = 30


def full_jitter(failures: int, fraction: float, *, first: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row: a part of a bound that doubles with each of them.

    With a random part, clients that a server lost all at once do not come back all at once.

    Args:
        failures: how many, 1 or more.
        fraction: the part, from 0 to 1.
        first: the bound after the first failure, seconds.
        longest: the bound in the end, seconds.
    """
    return fraction * min(longest, first * 2.0 ** min(failures - 1, _DOUBLINGS))
