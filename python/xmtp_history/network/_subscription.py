"""One call of a stream: it lasts as long as its connection does."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import grpc.aio

from xmtp_history.network._errors import InvalidAnswer, NodeError, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xmtp_history.network._connection import Connection

#: A connection that lasts as long is a good one, seconds.
_LASTING_S: Final = 10.0
#: How long a node may take to say that it has understood, seconds; real ones say so at once (section 0, fact 4).
_OPENING_S: Final = 30.0
#: How long a stream that begins without a word is not believed to have begun, seconds.
_HESITATION_S: Final = 1.0


class StreamedMessage(NamedTuple):
    """A message from a stream.

    Attributes:
        topic: the group's id, or the installation's key.
        id: the node's number of the message; it rises within a topic.
        data: the serialised ``GroupMessage`` or ``WelcomeMessage``, as the node sent it.
    """

    topic: bytes
    id: int
    data: bytes


class Topic:
    """How far a topic has been read. One that is removed and added again is another one.

    Attributes:
        reached: the last id that whoever reads the stream has had.
    """

    __slots__ = ("reached",)

    def __init__(self, cursor: int) -> None:
        self.reached = cursor


class Item(NamedTuple):
    """A message on its way to whoever reads the stream."""

    topic: Topic
    message: StreamedMessage


class Slot:
    """Holds one item between connections and whoever reads the stream: who is faster waits."""

    def __init__(self) -> None:
        self._item: Item | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def put(self, item: Item) -> None:
        """Waits until there is room, and puts an item there."""
        while self._item is not None:
            await self._change()
        self._item = item
        self._changed.set()

    async def take(self) -> Item | None:
        """Waits for an item; None once the slot is closed."""
        while self._item is None:
            if self._closed:
                return None
            await self._change()
        item, self._item = self._item, None
        self._changed.set()
        return item

    def close(self) -> None:
        """Nothing comes any more; what is there can still be taken."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Kind(NamedTuple):
    """What is streamed.

    Attributes:
        method: the call.
        request: its request, from the topics and how far each has been read.
        parse: topic and id of a message, from what messages of errors begin with, and its bytes.
    """

    method: str
    request: Callable[[Mapping[bytes, Topic]], bytes]
    parse: Callable[[str, bytes], tuple[bytes, int]]


class Subscription:
    """One call, and the task that reads from it.

    Args:
        connection: what it goes through.
        kind: what is asked for.
        topics: of what; the mapping is kept, and has to stay as it is.
        slot: where the messages go.
        version: of the topics; for whoever made it.
        on_end: called when it may have ended.

    Attributes:
        version: as above.
        failure: how it ended, once it has.
    """

    def __init__(
        self,
        connection: Connection,
        kind: Kind,
        topics: Mapping[bytes, Topic],
        slot: Slot,
        *,
        version: int,
        on_end: Callable[[], object],
    ) -> None:
        self.version = version
        self.failure: NodeError | None = None
        self._kind = kind
        self._topics = topics
        self._slot = slot
        self._on_end = on_end
        self._what = f"{connection.name}, {kind.method.rpartition('/')[2]}"
        self._opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._opened_at: float | None = None
        self._brought = False
        self._stalled = False
        self._call = connection.stream(kind.method, kind.request(topics))
        self._call.add_done_callback(self._notify)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._settle(opened=False))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, or nothing that would not come again; as soon as that is known."""
        return self._task.done() or (self._stalled and self._call.done())

    @property
    def fruitful(self) -> bool:
        """Whether it was worth opening: it brought something new, or lasted."""
        if self._opened_at is None:
            return False
        return self._brought or asyncio.get_running_loop().time() - self._opened_at > _LASTING_S

    async def opened(self) -> bool:
        """Waits until the node has taken it on; False if it does not."""
        return await asyncio.shield(self._opened)

    async def aclose(self) -> None:
        """Ends it, and waits until it has ended.

        Raises:
            Exception: what went wrong that should not have.
        """
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    async def _run(self) -> None:
        hesitation = None
        try:
            async with asyncio.timeout(_OPENING_S):
                metadata = await self._call.initial_metadata()
            if metadata:
                self._settle(opened=True)
            else:
                # Without metadata it may as well be the beginning of a refusal.
                hesitation = asyncio.get_running_loop().call_later(_HESITATION_S, partial(self._settle, opened=True))
            async for data in self._call:
                self._settle(opened=True)
                await self._bring(data)
            self.failure = await self._status()
        except grpc.aio.AioRpcError:
            self.failure = await self._status()
        except TimeoutError:
            sentence = f"{self._what}: the node does not answer in time"
            self.failure = NodeError(sentence, code="DEADLINE_EXCEEDED", transient=True)
        except InvalidAnswer as error:
            self.failure = error
        except asyncio.CancelledError:
            if self._call.done():
                self.failure = await self._status()
            raise
        finally:
            self._call.cancel()
            if hesitation is not None:
                hesitation.cancel()

    async def _status(self) -> NodeError:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            return NodeError(f"{self._what}: the node ended the stream", code=code.name, transient=True)
        return failed(self._what, code, details)

    async def _bring(self, data: bytes) -> None:
        topic, message_id = self._kind.parse(self._what, data)
        reading = self._topics.get(topic)
        # What was not asked for is dropped, and what has been brought before.
        if reading is None or message_id <= reading.reached:
            return
        self._stalled = True
        if self._call.done():
            self._on_end()
        await self._slot.put(Item(reading, StreamedMessage(topic, message_id, data)))
        self._stalled = False
        self._brought = True

    def _notify(self, _call: object) -> None:
        self._on_end()

    def _settle(self, *, opened: bool) -> None:
        if not self._opened.done():
            self._opened.set_result(opened)
            self._opened_at = asyncio.get_running_loop().time() if opened else None
        if not opened:
            self._on_end()
