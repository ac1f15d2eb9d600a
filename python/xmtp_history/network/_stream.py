"""What streams have in common: they outlast connections and nodes (node specification, section 6)."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

from xmtp_history._backoff import full_jitter
from xmtp_history.network._errors import NetworkEnded
from xmtp_history.network._subscription import Slot, Subscription

if TYPE_CHECKING:
    from types import TracebackType

    from xmtp_history.network._connection import Connection
    from xmtp_history.network._subscription import Kind, StreamedMessage, Topic
    from xmtp_history.network._throttle import Throttle

#: The longest wait after the first failure, and in the end, seconds.
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0
#: Changes of the topics are told to the node so far apart, seconds: each time it is told all of them.
_APART_S: Final = 0.25

_logger = logging.getLogger("xmtp_history.network")

# Tests replace them.
_sleep = asyncio.sleep
_random = random.random


@dataclass(frozen=True, slots=True)
class StreamState:
    """How a stream is doing.

    Attributes:
        connected: whether messages come as soon as the node has them.
        since_ns: since when that is so, nanoseconds since 1970.
        cause: what ended the last connection, or kept it from being made; None if nothing did so far.
        losses: how often a connection was lost.
    """

    connected: bool
    since_ns: int
    cause: str | None = None
    losses: int = 0


class Stream:
    """Messages of topics, each once, rising by id within a topic, until the stream is closed.

    To be read by one task, with ``async for``. It connects when it is first read, entered or waited for; whenever the
    connection ends, for whatever reason, it makes another one, after growing and random waits, and goes on after the last
    message that was read. A reader that is slow slows the node down: of what was not read, one message is in memory for each
    connection, beside what HTTP/2 lets the node send ahead.

    Reading raises:
        NetworkEnded: the node says that this version of the network is over.
        RuntimeError: the client is closed.
    """

    def __init__(
        self, connection: Connection, throttle: Throttle, streams: set[Stream], kind: Kind, topics: dict[bytes, Topic]
    ) -> None:
        self._connection = connection
        self._throttle = throttle
        self._streams = streams
        self._kind = kind
        self._topics = topics
        #: Counts the changes of the topics.
        self._version = 0
        self._state = StreamState(connected=False, since_ns=time.time_ns())
        self._slot = Slot()
        #: Something happened: a connection ended, or the topics changed.
        self._news = asyncio.Event()
        #: The node knows all topics.
        self._complete = asyncio.Event()
        self._what = f"{connection.name}, {kind.method.rpartition('/')[2]}"
        #: What messages come from, and what is to take its place.
        self._current: Subscription | None = None
        self._fresh: Subscription | None = None
        self._subscribed_at = 0.0
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def state(self) -> StreamState:
        """How the stream is doing."""
        return self._state

    @property
    def cursors(self) -> dict[bytes, int]:
        """The id of the last message of each topic that was read, or the cursor with which the topic began."""
        return {topic: reading.reached for topic, reading in self._topics.items()}

    async def wait_connected(self) -> None:
        """Waits until messages of all topics come as soon as the node has them.

        Raises:
            NetworkEnded, RuntimeError: that will not be; as reading does.
        """
        self._start()
        await self._complete.wait()
        self._check()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamedMessage:
        if not self._closed:
            self._start()
        while not self._closed and (item := await self._slot.take()) is not None:
            reading, message = item
            # Connections overlap, and topics come and go.
            if self._topics.get(message.topic) is reading and message.id > reading.reached:
                reading.reached = message.id
                return message
        if not self._closed:
            self._check()
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the stream: whoever reads it comes to its end. Closing twice is fine."""
        self._closed = True
        self._streams.discard(self)
        self._slot.close()
        self._complete.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _change(self) -> None:
        self._version += 1
        self._complete.clear()
        self._news.set()

    def _start(self) -> None:
        if self._closed:
            raise RuntimeError("the stream is closed")
        if self._task is None:
            self._connection.check_open()
            self._streams.add(self)
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._streams.discard(self)
        self._slot.close()
        self._complete.set()
        if not task.cancelled():
            # Readers raise it; nobody needs to be told that it was never looked at.
            task.exception()

    def _check(self) -> None:
        if self._closed:
            raise RuntimeError("the stream was closed")
        if self._task is not None and self._task.done():
            self._task.result()

    async def _run(self) -> None:
        try:
            while True:
                self._news.clear()
                if self._current is not None and self._current.ended:
                    ended, self._current = self._current, None
                    self._failures = 0 if ended.fruitful else self._failures
                    await self._lost(ended)
                elif not self._topics:
                    await self._settle(None)
                    await self._news.wait()
                elif self._current is None or self._current.version != self._version:
                    await self._subscribe()
                else:
                    await self._news.wait()
        finally:
            for subscription in (self._current, self._fresh):
                if subscription is not None:
                    await subscription.aclose()

    async def _subscribe(self) -> None:
        """Subscribes to all topics. What there is goes on until the new subscription stands."""
        now = asyncio.get_running_loop().time
        if self._current is not None:
            await _sleep(max(0.0, self._subscribed_at + _APART_S - now()))
        await self._throttle.take()
        self._subscribed_at = now()
        topics = dict(self._topics)
        fresh = self._fresh = Subscription(
            self._connection, self._kind, topics, self._slot, version=self._version, on_end=self._news.set
        )
        if await fresh.opened():
            self._fresh = None
            await self._settle(fresh)
        else:
            await self._lost(fresh)

    async def _settle(self, fresh: Subscription | None) -> None:
        """Puts a subscription in the place of the current one."""
        # All at once: no subscription is ever without somebody who ends it.
        old, self._current = self._current, fresh
        if not self._state.connected:
            self._state = replace(self._state, connected=True, since_ns=time.time_ns())
            _logger.info("%s: connected", self._what)
        if fresh is None or fresh.version == self._version:
            self._complete.set()
        if old is not None:
            await old.aclose()

    async def _lost(self, subscription: Subscription) -> None:
        """Waits, after a subscription ended that was wanted."""
        await subscription.aclose()
        self._fresh = None
        failure = subscription.failure
        if isinstance(failure, NetworkEnded):
            raise failure
        self._failures += 1
        if self._current is None or self._current.ended:
            state = self._state
            self._complete.clear()
            self._state = StreamState(
                connected=False,
                since_ns=time.time_ns() if state.connected else state.since_ns,
                cause=str(failure),
                losses=state.losses + state.connected,
            )
        delay = full_jitter(self._failures, _random(), first=_FIRST_DELAY, longest=_LONGEST_DELAY)
        _logger.info("%s; connecting again in %.1f s", failure, delay)
        await _sleep(delay)
