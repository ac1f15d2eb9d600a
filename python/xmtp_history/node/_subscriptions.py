"""Who waits for what, and reading what they have not had yet (node specification, section 6).

Nothing is queued for a stream. What it has is a cursor for each topic; a commit marks topics as having news, and the
stream reads them from the store when it is ready. So a slow reader costs no memory and is never dropped, and replay and
live delivery are one thing.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from xmtp_history.node._store import Store

#: How many ids of a topic are read at a time, and how many topics before others get their turn.
_IDS: Final = 128
_TOPICS: Final = 128


class Closing(Exception):
    """The node is shutting down, and with it every stream."""


class Entry(NamedTuple):
    """One entry of the log on its way to a client."""

    id: int
    topic: bytes
    payload: bytes


class Subscription:
    """The topics of one stream, and how far its client has them. To be closed when the stream ends."""

    def __init__(self, hub: Subscriptions) -> None:
        self._hub = hub
        hub.open_streams.add(self)
        self._event = asyncio.Event()
        #: The last id of each topic that the client has had.
        self.reached: dict[bytes, int] = {}
        #: Topics in which there may be more.
        self.news: set[bytes] = set()

    def add(self, topic: bytes, cursor: int) -> None:
        """Begins to watch a topic, and takes it as having news."""
        self.reached[topic] = cursor
        self._hub.watchers[topic].add(self)
        self.notify(topic)

    def remove(self, topic: bytes) -> None:
        """Stops watching a topic."""
        if self.reached.pop(topic, None) is not None:
            self.news.discard(topic)
            self._hub.unwatch(topic, self)

    def notify(self, topic: bytes) -> None:
        """Marks a topic as having news."""
        self.news.add(topic)
        self._event.set()

    def wake(self) -> None:
        """Lets :meth:`wait` return."""
        self._event.set()

    async def wait(self) -> None:
        """Waits until something happened since the last call.

        Raises:
            Closing: the node is shutting down.
        """
        self.check()
        await self._event.wait()
        self._event.clear()
        self.check()

    def check(self) -> None:
        """Raises Closing if the node is shutting down."""
        if self._hub.closing:
            raise Closing

    def close(self) -> None:
        """Stops watching everything."""
        for topic in self.reached:
            self._hub.unwatch(topic, self)
        self.reached.clear()
        self._hub.open_streams.discard(self)


class Subscriptions:
    """All open streams."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.closing = False
        self.open_streams: set[Subscription] = set()
        self.watchers: collections.defaultdict[bytes, set[Subscription]] = collections.defaultdict(set)
        store.on_commit = self._notify

    def unwatch(self, topic: bytes, subscription: Subscription) -> None:
        """Forgets that a stream watches a topic."""
        if watchers := self.watchers.get(topic):
            watchers.discard(subscription)
            if not watchers:
                del self.watchers[topic]

    def close(self) -> None:
        """Ends every stream."""
        self.closing = True
        for subscription in self.open_streams:
            subscription.wake()

    async def follow(self, cursors: Mapping[bytes, int]) -> AsyncIterator[bytes]:
        """What topics hold after their cursors, and then what is added, without gap or repetition, for ever.

        Raises:
            Closing: the node is shutting down.
        """
        subscription = Subscription(self)
        reached = subscription.reached
        try:
            # First watch, then read: what is stored in between is news and is read in the next round.
            for topic, cursor in cursors.items():
                subscription.add(topic, cursor)
            while True:
                await subscription.wait()
                fresh, subscription.news = subscription.news, set()
                async for entry in self.entries({topic: reached[topic] for topic in fresh}, self._store.last_id):
                    reached[entry.topic] = entry.id
                    yield entry.payload
                    subscription.check()
        finally:
            subscription.close()

    async def entries(self, cursors: Mapping[bytes, int], upto: int) -> AsyncIterator[Entry]:
        """Entries of topics after their cursors up to an id, rising by id across the topics.

        Other work is let through in between. Memory is taken for ids, and for one payload.
        """
        store = self._store
        heads: list[tuple[int, bytes, int, list[int]]] = []
        for number, (topic, cursor) in enumerate(cursors.items(), 1):
            if number % _TOPICS == 0:
                await asyncio.sleep(0)
            if ids := store.ids(topic, cursor, upto, _IDS):
                heads.append((ids[0], topic, 0, ids))
        heapq.heapify(heads)
        while heads:
            entry_id, topic, position, ids = heads[0]
            payload = store.payload(entry_id)
            if payload is not None:  # else retention has just deleted it
                yield Entry(entry_id, topic, payload)
            position += 1
            if position == len(ids):
                position, ids = 0, store.ids(topic, entry_id, upto, _IDS) if len(ids) == _IDS else []
            if ids:
                heapq.heapreplace(heads, (ids[position], topic, position, ids))
            else:
                heapq.heappop(heads)

    def _notify(self, topics: Iterable[bytes]) -> None:
        for topic in topics:
            for subscription in self.watchers.get(topic, ()):
                subscription.notify(topic)
