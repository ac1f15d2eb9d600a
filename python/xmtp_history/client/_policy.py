"""Who gets the history that they ask for, how often, and how much of it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from xmtp_history.client._sync_types import ArchiveRequest

_log = logging.getLogger(__name__)

# Tests replace it.
_clock = time.monotonic

_DAY_NS: Final = 86_400 * 10**9


@dataclass(frozen=True, slots=True)
class ArchivePolicy:
    """Which requests for history this client answers (device sync specification, section 5b).

    Only installations that belong to the inbox, when they ask and when they are answered, ever get an archive; this is about
    the others. By default all of them do.

    Attributes:
        allow: ids of the installations that get one; None for all of the inbox.
        ask: is asked for each request, plain or asynchronous, on the event loop, and says whether it is answered. One
            that raises, or takes longer than ``ask_timeout``, says no.
        ask_timeout: seconds that ``ask`` has.
        max_bytes: a larger archive is not sent; None for any size that the server takes.
        burst: requests of one installation that are answered at once.
        interval: seconds after which one more is. Requests above that wait, and are not lost; 0 lets none wait.
        max_age_days: requests that are older are not answered: whoever asked has long given up.
    """

    allow: Collection[str] | None = None
    ask: Callable[[ArchiveRequest], bool | Awaitable[bool]] | None = None
    ask_timeout: float = 30.0
    max_bytes: int | None = None
    burst: int = 3
    interval: float = 60.0
    max_age_days: float = 7.0

    def __post_init__(self) -> None:
        """Checks the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if self.burst < 1:
            raise ValueError("burst: at least 1 is needed")
        if self.max_bytes is not None and self.max_bytes < 0:
            raise ValueError("max_bytes must not be negative")
        for name, least in (("interval", 0.0), ("ask_timeout", 0.0), ("max_age_days", 0.0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must not be negative")

    def is_too_old(self, sent_at_ns: int, now_ns: int) -> bool:
        """Whether a request is so old that nobody waits for the answer."""
        return now_ns - sent_at_ns > self.max_age_days * _DAY_NS

    async def allows(self, request: ArchiveRequest) -> bool:
        """Whether whoever asks may get an archive."""
        if self.allow is not None and request.installation_id not in {known.lower() for known in self.allow}:
            return False
        if self.ask is None:
            return True
        try:
            async with asyncio.timeout(self.ask_timeout):
                answer = self.ask(request)
                return bool(await answer if inspect.isawaitable(answer) else answer)
        except TimeoutError:
            _log.warning("the policy's ask() took longer than %.0f s: the request is refused", self.ask_timeout)
        except Exception:  # noqa: BLE001 - whatever it is, it is no permission
            _log.exception("the policy's ask() failed: the request is refused")
        return False


class Buckets:
    """Permits to be answered: each installation has a bucket of them, which fills up by itself."""

    def __init__(self, burst: int, interval: float) -> None:
        self._burst = burst
        self._interval = interval
        self._full: dict[str, float] = {}

    def wait(self, installation_id: str) -> float:
        """Seconds until the installation has a permit."""
        # When the bucket is going to be full says how many permits are missing now.
        missing = self._full.get(installation_id, 0.0) - _clock()
        return max(0.0, missing - (self._burst - 1) * self._interval)

    def take(self, installation_id: str) -> None:
        """Takes a permit."""
        now = _clock()
        self._full[installation_id] = max(self._full.get(installation_id, 0.0), now) + self._interval
