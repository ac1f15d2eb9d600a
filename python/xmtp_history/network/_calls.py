"""One call until it has an answer: deadlines, further tries, and what a failure is called."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final, TypeVar

import grpc.aio

from xmtp_history._backoff import full_jitter
from xmtp_history.network._connection import MAX_MESSAGE_BYTES
from xmtp_history.network._errors import DOUBTFUL, NodeError, failed, too_large

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from xmtp_history.network._connection import Connection
    from xmtp_history.network._throttle import Throttle

_Entry = TypeVar("_Entry")
_Result = TypeVar("_Result")

#: How many parts of one question are asked at once.
_PARALLEL: Final = 4
#: Tries of a call that fails in a way that passes: some five seconds of them, ten at most.
_TRIES: Final = 8
#: Tries of a call that fails in a way that seldom passes.
_DOUBTFUL_TRIES: Final = 3
#: The longest wait after the first failure, and in the end, seconds.
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0
#: The longest wait after the first refusal because of too many requests, which takes a node seconds to forget.
_FIRST_CROWDED_DELAY: Final = 2.0
_LONGEST_CROWDED_DELAY: Final = 20.0

_logger = logging.getLogger("xmtp_history.network")

# Tests replace them.
_sleep = asyncio.sleep
_random = random.random


class Caller:
    """Makes calls.

    Args:
        connection: what they go through.
        throttle: what slows them down.
        timeout: seconds that a call may take with all its tries; one try gets at most half of them.
    """

    def __init__(self, connection: Connection, throttle: Throttle, timeout: float) -> None:
        self._connection = connection
        self._throttle = throttle
        self._timeout = timeout

    def what(self, method: str) -> str:
        """Which node, and which call: what messages begin with."""
        return f"{self._connection.name}, {method.rpartition('/')[2]}"

    async def call(self, method: str, request: bytes) -> bytes:
        """Makes one call, in as many tries as it needs.

        Every call may be made twice: a node stores nothing twice (node specification, section 0, fact 7).

        Raises:
            NodeError: the node refuses, or failed too often.
            RuntimeError: the connection is closed, or was closed meanwhile.
        """
        what = self.what(method)
        if len(request) > MAX_MESSAGE_BYTES:
            raise NodeError(f"{what}: the request is larger than 25 MiB", code="RESOURCE_EXHAUSTED")
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        failures: list[NodeError] = []
        while True:
            try:
                return await self._try(method, request, until)
            except grpc.aio.AioRpcError as error:
                failure = failed(what, error.code(), error.details())
            failures.append(failure)
            # Another try cannot make a first one undone.
            failure.uncertain = any(earlier.transient for earlier in failures)
            delay = _delay(failures)
            if delay is None or loop.time() + delay >= until:
                raise failure
            _logger.info("%s; trying again in %.1f s", failure, delay)
            await _sleep(delay)

    async def _try(self, method: str, request: bytes, until: float) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until):
                await self._throttle.take()
        except TimeoutError:
            sentence = f"{self.what(method)}: this client makes more requests than a node takes"
            raise NodeError(sentence, code="RESOURCE_EXHAUSTED", transient=True) from None
        seconds = min(self._timeout / 2, until - loop.time())
        try:
            answer = await self._connection.unary(method, request, timeout=max(seconds, 0.001))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._connection.closed and task is not None and not task.cancelling():
                # Nobody cancelled the caller.
                raise RuntimeError("the connection to the node was closed during the call") from None
            raise
        if len(answer) > MAX_MESSAGE_BYTES:
            raise too_large(self.what(method))
        return answer


async def in_batches(
    entries: Sequence[_Entry], size: int, work: Callable[[Sequence[_Entry]], Awaitable[list[_Result]]]
) -> list[_Result]:
    """What work makes of entries, which are given to it so many at a time; nothing is given to it of no entries.

    Raises:
        Exception: the first that work raises; by then nothing is under way any more.
    """
    if len(entries) <= size:
        return await work(entries) if entries else []
    permits = asyncio.Semaphore(_PARALLEL)

    async def part(start: int) -> list[_Result]:
        async with permits:
            return await work(entries[start : start + size])

    tasks = [asyncio.create_task(part(start)) for start in range(0, len(entries), size)]
    try:
        parts = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [result for results in parts for result in results]


def _delay(failures: list[NodeError]) -> float | None:
    """Seconds until the next try; None if there is none."""
    failure = failures[-1]
    tries = _DOUBTFUL_TRIES if failure.code in DOUBTFUL else _TRIES
    if not failure.transient or len(failures) >= tries:
        return None
    crowded = failure.code == "RESOURCE_EXHAUSTED"
    first = _FIRST_CROWDED_DELAY if crowded else _FIRST_DELAY
    longest = _LONGEST_CROWDED_DELAY if crowded else _LONGEST_DELAY
    return full_jitter(len(failures), _random(), first=first, longest=longest)
