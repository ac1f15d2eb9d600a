"""Streams of what happens in a client, for any number of readers of which none can hold the client up."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

_log = logging.getLogger(__name__)

Item = TypeVar("Item")

#: What may wait for a reader; of more, the oldest is gone.
_LONGEST_QUEUE: Final = 10_000


class EventStream(Generic[Item]):
    """What happens from now on: an asynchronous iterator, which ends when the client is closed or the stream is.

    It begins where it is made, also if it is read later. Whoever does not read loses the oldest items once 10,000 wait; that
    is logged, and counted in :attr:`dropped`. It may be left at any time, by ``break`` as well.
    """

    def __init__(
        self, channel: Channel, read: Callable[[Any], Awaitable[Item | None]], lost: Callable[[int], object]
    ) -> None:
        self._channel = channel
        self._read = read
        self._lost = lost
        self._queue: deque[Any] = deque()
        self._news = asyncio.Event()
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many items are lost because they were not read in time."""
        return self._dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while True:
            while not self._queue and not self._closed:
                self._news.clear()
                await self._news.wait()
            if self._closed:
                raise StopAsyncIteration
            raw = self._queue.popleft()
            try:
                item = await self._read(raw)
            except BaseException:
                # It was not given to anybody, who may come again.
                self._queue.appendleft(raw)
                if self._closed:
                    raise StopAsyncIteration from None
                raise
            if item is not None:
                return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the stream: whoever reads it comes to its end. Closing twice is fine."""
        self._channel.leave(self)
        self._close()

    def _put(self, item: object) -> None:
        if len(self._queue) >= _LONGEST_QUEUE:
            self._queue.popleft()
            self._dropped += 1
            self._lost(1)
            if self._dropped == 1:
                _log.warning("whoever reads a stream of events is too slow: the oldest are lost")
        self._queue.append(item)
        self._news.set()

    def _close(self) -> None:
        self._closed = True
        self._news.set()


class Channel:
    """Hands items to all streams that were made of it."""

    def __init__(self, lost: Callable[[int], object]) -> None:
        # A stream that was left by break is nobody's, and goes.
        self._streams: WeakSet[EventStream[Any]] = WeakSet()
        self._lost = lost
        self._closed = False

    def publish(self, item: object) -> None:
        """Something happened. Only on the event loop."""
        for stream in list(self._streams):
            stream._put(item)  # noqa: SLF001 - one module

    def stream(self, read: Callable[[Any], Awaitable[Item | None]]) -> EventStream[Item]:
        """A stream of what is published from now on.

        Args:
            read: what the reader gets of an item; None leaves it out.

        Raises:
            RuntimeError: the client is closed.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        stream = EventStream(self, read, self._lost)
        self._streams.add(stream)
        return stream

    def leave(self, stream: EventStream[Any]) -> None:
        """A stream gets nothing any more."""
        self._streams.discard(stream)

    def close(self) -> None:
        """All streams end, and none begins."""
        self._closed = True
        for stream in list(self._streams):
            stream._close()  # noqa: SLF001
        self._streams.clear()


class Hub:
    """The channels of a client.

    Attributes:
        events: what :meth:`Client.stream_events` gives.
        preferences: tuples of changed consents, and None for a changed root key of HMACs.
        messages: ids of messages that came from groups.
    """

    def __init__(self, lost: Callable[[int], object]) -> None:
        self.events = Channel(lost)
        self.preferences = Channel(lost)
        self.messages = Channel(lost)

    def close(self) -> None:
        """All streams end."""
        for channel in (self.events, self.preferences, self.messages):
            channel.close()
