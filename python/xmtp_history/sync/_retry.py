"""Trying again: when, how often, and how long to wait before it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from xmtp_history._backoff import full_jitter
from xmtp_history._errors import NetworkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_Result = TypeVar("_Result")

#: Tries without any progress, before the first of which there was no answer at all: mostly a mistyped URL.
_FIRST_TRIES = 4
#: Tries without any progress otherwise: some half a minute, which a server needs to start again.
_TRIES = 8
#: The longest wait after the first failure, seconds; it doubles with each one.
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 15.0
#: How much a server can ask for with Retry-After, seconds.
_LONGEST_ASKED_FOR = 120.0

_logger = logging.getLogger("xmtp_history.sync")

# Tests replace them.
_sleep = asyncio.sleep
_random = random.random


class Failed(Exception):
    """A try failed in a way that another one may not.

    Attributes:
        cause: what happened, to be shown; without URLs.
        status: the HTTP status, or None without an answer.
        wait: what the server asked to wait, seconds.
    """

    def __init__(self, cause: str, *, status: int | None = None, wait: float = 0.0) -> None:
        super().__init__(cause)
        self.cause = cause
        self.status = status
        self.wait = wait


class Patience:
    """How often one transfer is tried again; progress renews it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0
        self._answered = False
        self._furthest = 0

    def answered(self) -> None:
        """There is a server."""
        self._answered = True

    def reached(self, done: int) -> None:
        """So many bytes are done: progress, if it was never as many."""
        self._answered = True
        if done > self._furthest:
            self._furthest = done
            self._failures = 0

    async def retried(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """Does something until it does not fail any more.

        Raises:
            NetworkError: it failed too often.
        """
        while True:
            try:
                return await work()
            except Failed as failed:
                await self.wait(failed)

    async def wait(self, failed: Failed) -> None:
        """Waits until the next try.

        Raises:
            NetworkError: there is none.
        """
        self._failures += 1
        self._answered |= failed.status is not None
        if self._failures >= (_TRIES if self._answered else _FIRST_TRIES):
            raise self.exhausted(failed)
        delay = full_jitter(self._failures, _random(), first=_FIRST_DELAY, longest=_LONGEST_DELAY)
        delay += min(failed.wait, _LONGEST_ASKED_FOR)
        _logger.info("%s: %s; trying again in %.1f s", self._what, failed.cause, delay)
        await _sleep(delay)

    def exhausted(self, failed: Failed) -> NetworkError:
        """The error that a failure without another try is."""
        return NetworkError(f"{self._what}: {failed.cause}", status=failed.status)


def asked_wait(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks to wait (Retry-After: a number, or a date by the server's clock); 0 if it does not."""
    value = headers.get("Retry-After", "").strip()
    # Longer than any sensible number, where int() would get slow.
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until = _timestamp(value)
    if until is None:
        return 0.0
    now = _timestamp(headers.get("Date", ""))
    return max(0.0, until - (time.time() if now is None else now))


def _timestamp(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
