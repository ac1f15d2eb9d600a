"""Requests to a node, and the ways in which they are sent: all of them in one thread, and all bytes prepared.

Every message is different, because the node leaves out what a group has already: each carries a number, which also says
when it was sent, so that the time to its delivery is known.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from statistics import quantiles

import grpc
from h2 import Call, Connection, Loop, Refused

from xmtp_history._proto import mls_api_pb2 as pb

SEND = "/xmtp.mls.api.v1.MlsApi/SendGroupMessages"
QUERY = "/xmtp.mls.api.v1.MlsApi/QueryGroupMessages"
SUBSCRIBE = "/xmtp.mls.api.v1.MlsApi/SubscribeGroupMessages"
MESSAGE_BYTES = 1024
WARM_UP_S = 0.3
#: As many calls as clients begin at the same moment; a server of grpc.aio refuses some when there are 1,000.
AT_A_TIME = 128
_MARK = b"number:\xff"
_NUMBER = bytes(8)
_DEADLINE_S = 60.0
#: What has not come to a stream by then will not come.
_DELIVERY_S = 10.0


def group(client: int, run: int) -> bytes:
    """A group id of 16 bytes, as libxmtp makes them; a new one for each run."""
    return random.Random(f"{run} {client}").randbytes(16)


class Messages:
    """Requests with messages for one group, one after the other, every one different."""

    def __init__(self, group_id: bytes, first: int, step: int, each: int = 1) -> None:
        self._next = first
        self._step = step
        source = random.Random(group_id)
        head = b"\0\1\0\2" + _vector(group_id) + bytes(8) + b"\1" + _vector(b"") + _vector(source.randbytes(28))
        ciphertext = source.randbytes(MESSAGE_BYTES - len(head) - 2 - len(_MARK + _NUMBER)) + _MARK + _NUMBER
        data = head + _vector(ciphertext)
        sent = pb.GroupMessageInput.V1(data=data, sender_hmac=source.randbytes(32), should_push=True)
        request = pb.SendGroupMessagesRequest(messages=[pb.GroupMessageInput(v1=sent)] * each)
        assert len(data) == MESSAGE_BYTES
        self._parts = request.SerializeToString().split(_MARK + _NUMBER)
        self._each = each

    def next_request(self) -> bytes:
        """A request."""
        return self.next()[1]

    def next(self) -> tuple[int, bytes]:
        """The number of the first message of a request, and the request."""
        number = self._next
        if self._each == 1:
            self._next += self._step
            head, tail = self._parts
            return number, b"".join((head, _MARK, number.to_bytes(8, "big"), tail))
        parts = [self._parts[0]]
        for part in self._parts[1:]:
            parts += (_MARK, self._next.to_bytes(8, "big"), part)
            self._next += self._step
        return number, b"".join(parts)


def number_in(message: bytes) -> int:
    """The number that a delivered message carries."""
    at = message.index(_MARK) + len(_MARK)
    return int.from_bytes(message[at : at + 8], "big")


def _vector(content: bytes) -> bytes:
    """A variable-size vector of TLS with its length, as MLS has them."""
    size = len(content)
    return (bytes((size,)) if size < 64 else (size | 0x4000).to_bytes(2, "big")) + content


@dataclass(slots=True)
class Window:
    """What happened in the time that counts.

    Attributes:
        seconds: how long it was.
        calls: calls answered in it, or messages delivered.
        received: bytes of the answers.
        own_share: the share of one core that the load generator took.
        latencies: of calls, or of deliveries, in seconds.
    """

    seconds: float = 0.0
    calls: int = 0
    received: int = 0
    own_share: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """How long it took at most, for so many in a hundred."""
        return quantiles(self.latencies, n=100)[percent - 1]


@contextmanager
def _counted(window: Window) -> Iterator[None]:
    gc.collect()
    gc.disable()
    started, used = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        window.seconds = time.perf_counter() - started
        window.own_share = (time.process_time() - used) / window.seconds
        gc.enable()


def keep_calling(
    loop: Loop, clients: list[Connection], path: str, requests: list[Callable[[], bytes]], seconds: float
) -> tuple[Window, int]:
    """Every client calls, waits for the answer and calls again; returns what counts and how many calls were made."""
    window = Window()
    made = answered = 0
    counting, going_on = False, True

    def begin(connection: Connection, request: Callable[[], bytes]) -> None:
        def send(call: Call) -> None:
            nonlocal made
            made += 1
            connection.call(path, request(), call)

        def again(call: Call) -> None:
            nonlocal answered
            answered += 1
            if counting:
                window.latencies.append(time.perf_counter() - call.started)
                window.received += call.received
            if going_on:
                send(call)

        send(Call(ended=again))

    for connection, request in zip(clients, requests, strict=True):
        begin(connection, request)
    _run(loop, WARM_UP_S)
    counting = True
    with _counted(window):
        _run(loop, seconds)
    counting = going_on = False
    window.calls = len(window.latencies)
    loop.until(lambda: answered == made, _DEADLINE_S, "answers")
    return window, made


class Deliveries:
    """Clients that each have a stream of their own group's messages, and send to that group."""

    def __init__(self, loop: Loop, clients: list[Connection], run: int) -> None:
        self._loop = loop
        self._clients = clients
        self._messages = [Messages(group(client, run), client, len(clients)) for client in range(len(clients))]
        self._sent: dict[int, float] = {}
        self._latencies: list[float] = []
        self._page = pb.QueryGroupMessagesRequest(group_id=group(0, run)).SerializeToString()
        self._made = self._answered = self._sends = self._delivered = 0
        self._again = False
        streams = [_subscription(client, [group(number, run)], self._delivery) for number, client in enumerate(clients)]
        in_turn(loop, streams)

    def at_rate(self, rate: float, seconds: float, between: Callable[[], None] | None = None) -> Window:
        """All clients together send so many messages a second, whether or not those before were answered.

        ``between`` is called ten times a second.
        """
        window = Window()
        started = time.perf_counter()
        number, due, next_between = 0, started, started
        with _counted(window):
            while due < started + seconds:
                now = time.perf_counter()
                while due <= now:
                    self._send(number % len(self._clients), Call(ended=self._answer))
                    number += 1
                    due = started + number / rate
                if between is not None and next_between <= now:
                    between()
                    next_between += 0.1
                self._loop.step(max(0.0, due - time.perf_counter()))
        return self._finish(window)

    def at_once(self, seconds: float) -> Window:
        """Every client sends, waits for the answer and sends again."""
        window = Window()
        self._again = True
        for client in range(len(self._clients)):
            self._send_again(client)
        _run(self._loop, WARM_UP_S)
        self._latencies.clear()
        with _counted(window):
            _run(self._loop, seconds)
        self._again = False
        return self._finish(window)

    def read(self) -> None:
        """One of the clients reads the newest messages of its group."""
        self._made += 1
        self._clients[0].call(QUERY, self._page, Call(ended=self._answer))

    @property
    def complete(self) -> bool:
        """Whether everything was answered and delivered, each message once."""
        return self._made == self._answered and self._delivered == self._sends and not self._sent

    def _finish(self, window: Window) -> Window:
        window.calls = len(self._latencies)
        try:
            self._loop.until(lambda: self.complete, _DELIVERY_S, "deliveries")
        except Refused:
            raise Refused(f"{len(self._sent)} of {self._sends} messages did not come to their streams") from None
        window.latencies, self._latencies = self._latencies, []
        return window

    def _send(self, client: int, call: Call) -> None:
        number, request = self._messages[client].next()
        self._made += 1
        self._sends += 1
        self._sent[number] = time.perf_counter()
        self._clients[client].call(SEND, request, call)

    def _send_again(self, client: int) -> None:
        def ended(call: Call) -> None:
            self._answered += 1
            if self._again:
                self._send(client, call)

        self._send(client, Call(ended=ended))

    def _answer(self, _: Call) -> None:
        self._answered += 1

    def _delivery(self, message: bytes) -> None:
        self._delivered += 1
        self._latencies.append(time.perf_counter() - self._sent.pop(number_in(message)))


class ManyStreams:
    """Clients that each have a stream with two groups: their own, and one that all of them have.

    Attributes:
        opening: seconds until all were open.
    """

    def __init__(self, loop: Loop, clients: list[Connection], sender: Connection, run: int) -> None:
        self._loop = loop
        self._clients = clients
        self._sender = sender
        self._own = [Messages(group(client, run), client, len(clients)) for client in range(len(clients))]
        common = group(-1, run)
        self._common = Messages(common, len(clients) << 20, 1)
        self._arrived: list[int] = []
        streams = [
            _subscription(client, [group(number, run), common], self._delivery) for number, client in enumerate(clients)
        ]
        self.opening = in_turn(loop, streams)

    def one_to_all(self) -> tuple[float, bool]:
        """One message, which all streams get: seconds until the last has it, and whether each had it once."""
        number, request = self._common.next()
        self._arrived.clear()
        started = time.perf_counter()
        self._sender.call(SEND, request, Call(ended=lambda _: None))
        self._loop.until(lambda: len(self._arrived) >= len(self._clients), _DELIVERY_S, "one message to all streams")
        seconds = time.perf_counter() - started
        return seconds, self._arrived == [number] * len(self._clients)

    def one_to_each(self) -> tuple[float, bool]:
        """Every client sends a message that its own stream gets: seconds until all have theirs, and whether once."""
        sent = [messages.next() for messages in self._own]
        self._arrived.clear()
        seconds = in_turn(
            self._loop,
            [sending(client, request) for client, (_, request) in zip(self._clients, sent, strict=True)],
            until=lambda: len(self._arrived) >= len(self._clients),
        )
        return seconds, sorted(self._arrived) == sorted(number for number, _ in sent)

    def _delivery(self, message: bytes) -> None:
        self._arrived.append(number_in(message))


#: Begins something, and calls what it is given when that is done.
Task = Callable[[Callable[[], None]], None]


def in_turn(loop: Loop, tasks: list[Task], until: Callable[[], bool] = lambda: True) -> float:
    """Does everything, so many at a time; returns the seconds that it took until all is done."""
    waiting = iter(tasks)
    left = len(tasks)

    def done() -> None:
        nonlocal left
        left -= 1
        for task in waiting:
            task(done)
            return

    started = time.perf_counter()
    for task in list(islice(waiting, AT_A_TIME)):
        task(done)
    loop.until(lambda: left == 0 and until(), _DELIVERY_S, "calls, and what they bring about")
    return time.perf_counter() - started


def _subscription(client: Connection, groups: list[bytes], message: Callable[[bytes], None]) -> Task:
    filters = [pb.SubscribeGroupMessagesRequest.Filter(group_id=group_id) for group_id in groups]
    request = pb.SubscribeGroupMessagesRequest(filters=filters).SerializeToString()
    return lambda done: client.call(SUBSCRIBE, request, Call(opened=done, message=message))


def sending(client: Connection, request: bytes) -> Task:
    """Sending one request."""
    return lambda done: client.call(SEND, request, Call(ended=lambda _: done()))


def ask(loop: Loop, address: tuple[str, int], path: str, request: bytes) -> bytes:
    """One call on a connection of its own."""
    answers: list[bytes] = []
    ended: list[Call] = []
    (connection,) = loop.connect(address)
    connection.call(path, request, Call(ended=ended.append, message=answers.append))
    loop.until(lambda: bool(ended), _DEADLINE_S, "an answer")
    return answers[0]


def count_messages(address: tuple[str, int], groups: Iterable[bytes]) -> int:
    """How many different messages a node has of groups, asked with gRPC's own client."""
    found: set[bytes] = set()
    with grpc.insecure_channel("{}:{}".format(*address)) as channel:
        query = channel.unary_unary(
            QUERY,
            pb.QueryGroupMessagesRequest.SerializeToString,
            pb.QueryGroupMessagesResponse.FromString,
        )
        for group_id in groups:
            cursor = 0
            while True:
                paging = pb.PagingInfo(direction=pb.SORT_DIRECTION_ASCENDING, limit=100, id_cursor=cursor)
                page = query(pb.QueryGroupMessagesRequest(group_id=group_id, paging_info=paging), timeout=_DEADLINE_S)
                found.update(message.v1.data for message in page.messages)
                cursor = page.paging_info.id_cursor
                if not cursor:
                    break
    return len(found)


def page_of(group_id: bytes, limit: int) -> bytes:
    """A request for the first messages of a group."""
    paging = pb.PagingInfo(direction=pb.SORT_DIRECTION_ASCENDING, limit=limit)
    return pb.QueryGroupMessagesRequest(group_id=group_id, paging_info=paging).SerializeToString()


def _run(loop: Loop, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        loop.step(left)
