"""The stream whose topics its client adds and removes while it runs (XIP-83).

What a ``Mutate`` adds is replayed as a *wave*, under the client's ``mutate_id``; everything else is *live*. Each lane
gives ids in rising order, and a topic is in one of them at a time: while a wave replays it, it has no live messages.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from xmtp_history._proto import mls_api_pb2 as pb
from xmtp_history.node import _topics as topics
from xmtp_history.node._limits import MAX_LIST, MAX_STREAM_TOPICS
from xmtp_history.node._payloads import MAX_GROUP_ID_BYTES
from xmtp_history.node._refused import Refused
from xmtp_history.node._store import MAX_ID
from xmtp_history.node._subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from xmtp_history.node._store import Store
    from xmtp_history.node._subscriptions import Entry, Subscriptions

_V1 = pb.SubscribeResponse.V1
_Mutate = pb.SubscribeRequest.V1.Mutate

#: One frame carries so many messages, or so many bytes, and then others get their turn.
_FRAME_ENTRIES: Final = 128
_FRAME_BYTES: Final = 1 << 20
#: After so many intervals without an answer to a ping the client is taken for gone.
_PONG_INTERVALS: Final = 2
_KINDS: Final = (topics.GROUP_MESSAGES, topics.WELCOME_MESSAGES)


class _Wave:
    """The replay that one ``Mutate`` started."""

    def __init__(self, mutate_id: int, cursors: dict[bytes, int], upto: int, *, history_only: bool) -> None:
        self.mutate_id = mutate_id
        #: How far each topic has been replayed.
        self.cursors = cursors
        self.upto = upto
        self.history_only = history_only


class MutableStream:
    """One such stream, of one client."""

    def __init__(self, store: Store, subscriptions: Subscriptions, *, keepalive_s: float) -> None:
        self._store = store
        self._subscriptions = subscriptions
        self._subscription = Subscription(subscriptions)
        self._keepalive_s = keepalive_s
        #: Topics that are live, and the last id of each that the client has had.
        self._live = self._subscription.reached
        #: The live lane has reached this id.
        self._live_upto = 0
        self._live_paused = False
        self._waves: collections.deque[_Wave] = collections.deque()
        self._answers: collections.deque[_V1] = collections.deque()
        self._half_closed = False
        self._failure: BaseException | None = None
        #: When the client was last sent something, and by when it has to answer a ping.
        self._last_sent = self._pong_due = math.inf
        #: Nonces of the last ping, and of the last one before the client was last known to be there.
        self._pinged = self._ponged = 0

    async def run(self, requests: AsyncIterator[pb.SubscribeRequest]) -> AsyncIterator[pb.SubscribeResponse]:
        """Answers the client's frames, until it has closed its side and has had every wave.

        Raises:
            Refused: the client broke the protocol, or does not answer pings.
            Closing: the node is shutting down.
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            async for frame in self._frames():
                yield pb.SubscribeResponse(v1=frame)
                self._last_sent = _now()
        finally:
            reader.cancel()
            self._subscription.close()

    # --- what the client says -----------------------------------------------------------------------------------------

    async def _read(self, requests: AsyncIterator[pb.SubscribeRequest]) -> None:
        try:
            async for request in requests:
                self._apply(request)
                self._subscription.wake()
        except Exception as failure:  # noqa: BLE001 - raised where the client sees it
            self._failure = failure
        self._half_closed = True
        self._subscription.wake()

    def _apply(self, request: pb.SubscribeRequest) -> None:
        if not request.HasField("v1"):
            raise Refused(StatusCode.INVALID_ARGUMENT, "a request is of no known version")
        kind = request.v1.WhichOneof("request")
        if kind == "mutate":
            self._mutate(request.v1.mutate)
        elif kind == "ping":
            if len(self._answers) > MAX_LIST:
                raise Refused(StatusCode.RESOURCE_EXHAUSTED, "answers are not being read")
            self._answers.append(_V1(pong=pb.Pong(nonce=request.v1.ping.nonce)))
        elif kind == "pong" and self._ponged < request.v1.pong.nonce <= self._pinged:
            self._ponged, self._pong_due = self._pinged, math.inf
        # What later revisions add is ignored.

    def _mutate(self, mutate: _Mutate) -> None:
        self._check(mutate)
        for topic in mutate.removes:
            self._take_off(topic, self._waves)
        wanted = self._wanted(mutate)
        if len(self._live) + sum(len(wave.cursors) for wave in self._waves) + len(wanted) > MAX_STREAM_TOPICS:
            raise Refused(StatusCode.INVALID_ARGUMENT, f"a stream has at most {MAX_STREAM_TOPICS} topics")
        if not mutate.history_only:
            # From here on the topics belong to this wave, and to nothing else.
            others = [wave for wave in self._waves if not wave.history_only]
            for topic in wanted:
                self._take_off(topic, others)
        if wanted:
            upto = self._store.last_id
            self._waves.append(_Wave(mutate.mutate_id, wanted, upto, history_only=mutate.history_only))
        else:
            self._answers.append(_complete(mutate.mutate_id))

    def _check(self, mutate: _Mutate) -> None:
        if len(mutate.adds) + len(mutate.removes) > MAX_LIST:
            raise Refused(StatusCode.INVALID_ARGUMENT, f"at most {MAX_LIST} topics can be changed at once")
        if len(self._waves) + len(self._answers) > MAX_LIST:
            raise Refused(StatusCode.RESOURCE_EXHAUSTED, "too many changes are waiting")
        for topic in (*(add.topic for add in mutate.adds), *mutate.removes):
            if topic[:1] not in _KINDS or not 1 < len(topic) <= 1 + MAX_GROUP_ID_BYTES:
                raise Refused(StatusCode.INVALID_ARGUMENT, "a topic is a kind, 0 or 1, and an id")
        if any(add.id_cursor > MAX_ID for add in mutate.adds):
            raise Refused(StatusCode.INVALID_ARGUMENT, "no id is as high as the cursor")
        if mutate.adds and mutate.mutate_id == 0:
            raise Refused(StatusCode.INVALID_ARGUMENT, "a mutate_id other than 0 is needed to add topics")
        if mutate.adds and any(wave.mutate_id == mutate.mutate_id for wave in self._waves):
            raise Refused(StatusCode.INVALID_ARGUMENT, "the mutate_id is that of a replay still running")

    def _wanted(self, mutate: _Mutate) -> dict[bytes, int]:
        """The topics that are to be replayed, each from its lowest cursor."""
        wanted: dict[bytes, int] = {}
        for add in mutate.adds:
            wanted[add.topic] = min(add.id_cursor, wanted.get(add.topic, MAX_ID))
        if mutate.history_only:
            return wanted
        return {topic: cursor for topic, cursor in wanted.items() if cursor < self._reached(topic)}

    def _take_off(self, topic: bytes, waves: Iterable[_Wave]) -> None:
        """Ends what is going on with a topic: live, and in waves."""
        self._subscription.remove(topic)
        for wave in waves:
            wave.cursors.pop(topic, None)

    def _reached(self, topic: bytes) -> int:
        """How far the client has a topic; more than any cursor if it does not have it at all."""
        for wave in self._waves:
            if not wave.history_only and topic in wave.cursors:
                return wave.cursors[topic]
        return self._live.get(topic, MAX_ID + 1)

    # --- what the client gets -----------------------------------------------------------------------------------------

    async def _frames(self) -> AsyncIterator[_V1]:
        yield _V1(started=_V1.Started(keepalive_interval_ms=round(self._keepalive_s * 1000)))
        live = self._live_frames()
        while True:
            self._check_end()
            while self._answers:
                yield self._answers.popleft()
            if self._failure is not None:
                raise self._failure
            if self._waves:
                async for frame in self._replay(self._waves[0]):
                    yield frame
                    # Between two frames of a long replay the other topics go on, and so do pings.
                    if not self._live_paused and (between := await anext(live)) is not None:
                        yield between
                    while self._answers:
                        yield self._answers.popleft()
            elif (frame_or_none := await anext(live)) is not None:
                yield frame_or_none
            elif self._half_closed:
                return
            else:
                await self._wait()

    def _check_end(self) -> None:
        """Raises what ends the stream now."""
        self._subscription.check()
        if _now() >= self._pong_due and not self._half_closed:
            raise Refused(StatusCode.DEADLINE_EXCEEDED, "pings are not answered")

    async def _replay(self, wave: _Wave) -> AsyncIterator[_V1]:
        """The frames of a wave, the last of which says that it is complete."""
        async for frame in self._wave_frames(wave):
            yield frame
        # The live lane stands still until the wave's topics have joined it. What it has passed meanwhile is later than some
        # of what they got meanwhile: they are given that now, so that the lane's ids keep rising.
        self._live_paused = not wave.history_only
        if not wave.history_only and wave.upto < self._live_upto:
            wave.upto = self._store.last_id
            async for frame in self._wave_frames(wave):
                yield frame
        if wave.cursors:
            yield _V1(topics_live=_V1.TopicsLive(topics=list(wave.cursors)))
        if not wave.history_only:
            # What came since is news.
            for topic, cursor in wave.cursors.items():
                self._subscription.add(topic, cursor)
        self._live_paused = False
        self._waves.popleft()
        yield _complete(wave.mutate_id)

    async def _wave_frames(self, wave: _Wave) -> AsyncIterator[_V1]:
        frame = _Frame(wave.mutate_id)
        async for entry in self._subscriptions.entries(dict(wave.cursors), wave.upto):
            # It may have been removed, or moved to another wave.
            if entry.topic in wave.cursors and entry.id > wave.cursors[entry.topic]:
                wave.cursors[entry.topic] = entry.id
                frame.add(entry)
                if frame.full:
                    yield frame.messages
                    frame = _Frame(wave.mutate_id)
        if frame.count:
            yield frame.messages

    async def _live_frames(self) -> AsyncIterator[_V1 | None]:
        """Frames of the live lane, None when there is nothing to send now. Never ends."""
        while True:
            held = {topic for wave in self._waves for topic in wave.cursors}
            fresh = {topic for topic in self._subscription.news if topic in self._live and topic not in held}
            self._subscription.news -= fresh
            if not fresh:
                yield None
                continue
            self._live_upto = upto = self._store.last_id
            frame = _Frame(0)
            async for entry in self._subscriptions.entries({topic: self._live[topic] for topic in fresh}, upto):
                if entry.id > self._live.get(entry.topic, MAX_ID):
                    self._live[entry.topic] = entry.id
                    frame.add(entry)
                    if frame.full:
                        yield frame.messages
                        frame = _Frame(0)
            if frame.count:
                yield frame.messages

    async def _wait(self) -> None:
        """Waits for something to do, and asks whether the client is there when it was not sent anything for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._last_sent + self._keepalive_s, self._pong_due)):
                await self._subscription.wait()
                return
        if _now() < self._pong_due:
            self._pinged += 1
            self._answers.append(_V1(ping=pb.Ping(nonce=self._pinged)))
            self._pong_due = min(self._pong_due, _now() + _PONG_INTERVALS * self._keepalive_s)


class _Frame:
    """Messages on their way into one response."""

    def __init__(self, mutate_id: int) -> None:
        self.messages = _V1(messages=_V1.Messages(mutate_id=mutate_id))
        self.count = 0
        self._size = 0

    def add(self, entry: Entry) -> None:
        messages = self.messages.messages
        if entry.topic.startswith(topics.GROUP_MESSAGES):
            messages.group_messages.append(pb.GroupMessage.FromString(entry.payload))
        else:
            messages.welcome_messages.append(pb.WelcomeMessage.FromString(entry.payload))
        self.count += 1
        self._size += len(entry.payload)

    @property
    def full(self) -> bool:
        return self.count >= _FRAME_ENTRIES or self._size >= _FRAME_BYTES


def _complete(mutate_id: int) -> _V1:
    return _V1(catchup_complete=_V1.CatchupComplete(mutate_id=mutate_id))


def _now() -> float:
    return asyncio.get_running_loop().time()
