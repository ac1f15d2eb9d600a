"""Just enough of gRPC over HTTP/2 to load a node with: one thread, prepared bytes, no copy of what is only counted.

A load generator has to cost less than what it measures. gRPC's own Python client costs as much per call as a server does;
this one costs a fraction of it, because it knows its requests beforehand and looks at no more of an answer than it has to.
A server sees what it sees of any client: the same headers, compressed after the first call, one connection for each client.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from itertools import count

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_MAX_WINDOW = (1 << 31) - 1
_WINDOW = (1 << 16) - 1
_FRAME = 1 << 14
_RECEIVE = 1 << 18
_HEAD = struct.Struct(">IBI")  # length and type in one number, flags, stream
_MESSAGE_HEAD = struct.Struct(">BI")


class Refused(RuntimeError):
    """A call did not succeed, or a connection broke."""


class Call:
    """A call on its way.

    Attributes:
        started: when it was sent.
        received: bytes of messages that have come, with their five bytes of gRPC framing each.
        ended: called with the call when a unary one was answered.
        opened: called when the headers of a stream have come.
        message: called with each message of a stream; None if they need only be counted.
    """

    __slots__ = ("ended", "message", "opened", "received", "rest", "started")

    def __init__(
        self,
        ended: Callable[[Call], None] | None = None,
        opened: Callable[[], None] | None = None,
        message: Callable[[bytes], None] | None = None,
    ) -> None:
        self.started = 0.0
        self.received = 0
        self.ended = ended
        self.opened = opened
        self.message = message
        self.rest = b""


class Loop:
    """Waits for connections to have something to do."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []

    def connect(self, address: tuple[str, int], number: int = 1) -> list[Connection]:
        """New connections, ready to be used."""
        opened = [Connection(self._selector, address) for _ in range(number)]
        self._connections += opened
        return opened

    def step(self, timeout: float) -> None:
        """Waits for at most so many seconds, and deals with everything that has come."""
        for key, events in self._selector.select(timeout):
            if events & selectors.EVENT_READ:
                key.data.receive()
            if events & selectors.EVENT_WRITE:
                key.data.flush()

    def until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Goes on until something is done; it has to be within some seconds."""
        deadline = time.perf_counter() + seconds
        while not done():
            left = deadline - time.perf_counter()
            if left <= 0:
                raise Refused(f"{what}: not within {seconds:.0f} s")
            self.step(left)

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._selector.close()


class Connection:
    """One client."""

    def __init__(self, selector: selectors.BaseSelector, address: tuple[str, int]) -> None:
        self._selector = selector
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        selector.register(self._socket, selectors.EVENT_READ, self)
        self._headers = _Headers(f"{address[0]}:{address[1]}")
        self._numbers = count(1, 2)
        self._calls: dict[int, Call] = {}
        self._rest = b""
        self._unsent = bytearray()
        # How much the other side will still take, what waits for that, and how much it may still send.
        self._window = _WINDOW
        self._held: deque[tuple[int, bytes]] = deque()
        self._granted = _MAX_WINDOW
        settings = struct.pack(">HIHI", 2, 0, 4, _MAX_WINDOW)  # no pushed streams; as much of a stream as there is
        more = struct.pack(">I", _MAX_WINDOW - _WINDOW)
        self._write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def call(self, path: str, request: bytes, call: Call) -> None:
        """Sends a request; what comes back goes to the call."""
        number = next(self._numbers)
        self._calls[number] = call
        block = self._headers.block(path)
        head = _HEAD.pack(len(block) << 8 | _HEADERS, _END_HEADERS, number)
        size = len(request) + 5
        call.received = 0
        call.started = time.perf_counter()
        if size <= self._window and size <= _FRAME and not self._held:
            self._window -= size
            self._write(
                b"".join(
                    (
                        head,
                        block,
                        _HEAD.pack(size << 8 | _DATA, _END_STREAM, number),
                        _MESSAGE_HEAD.pack(0, len(request)),
                        request,
                    )
                )
            )
        else:
            self._write(head + block)
            self._held.append((number, _MESSAGE_HEAD.pack(0, len(request)) + request))
            self._send_held()

    def receive(self) -> None:
        """Reads what has come."""
        try:
            data = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        if not data:
            raise Refused("the server closed the connection")
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= 9:
            size, flags, number = _HEAD.unpack_from(data, at)
            kind, size = size & 0xFF, size >> 8
            begin = at + 9
            if begin + size > end:
                break
            at = begin + size
            if kind == _DATA:
                self._granted -= size
                call = self._calls[number]
                call.received += size
                if call.message is not None:
                    _split(call, data[begin:at])
            elif kind == _HEADERS:
                self._answer(number, ended=bool(flags & _END_STREAM))
            else:
                self._control(kind, flags, data[begin:at], number)
        self._rest = data[at:]
        if self._granted < _MAX_WINDOW // 2:
            self._write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _MAX_WINDOW - self._granted)))
            self._granted = _MAX_WINDOW

    def flush(self) -> None:
        """Sends what the socket did not take before."""
        unsent, self._unsent = self._unsent, bytearray()
        self._selector.modify(self._socket, selectors.EVENT_READ, self)
        self._write(unsent)

    def close(self) -> None:
        """Closes the connection, whatever is going on."""
        self._selector.unregister(self._socket)
        self._socket.close()

    def _answer(self, number: int, *, ended: bool) -> None:
        call = self._calls[number]
        if not ended:
            if call.opened is not None:
                call.opened()
            return
        del self._calls[number]
        # A call that fails is answered with a status and without a message, even an empty one.
        if call.ended is None or not call.received:
            raise Refused("a call failed")
        call.ended(call)

    def _control(self, kind: int, flags: int, content: bytes, number: int) -> None:
        if kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, content))
        elif kind == _SETTINGS and not flags & _ACK:
            self._write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _WINDOW_UPDATE and number == 0:
            self._window += int.from_bytes(content, "big")
            self._send_held()
        elif kind in {_RESET, _GOAWAY}:
            raise Refused("the server ended a call or the connection")

    def _send_held(self) -> None:
        while self._held and self._window:
            number, data = self._held.popleft()
            size = min(len(data), self._window, _FRAME)
            part, left = data[:size], data[size:]
            if left:
                self._held.appendleft((number, left))
            self._window -= size
            self._write(_frame(_DATA, 0 if left else _END_STREAM, number, part))

    def _write(self, data: bytes | bytearray) -> None:
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._unsent += data[sent:]
            self._selector.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)


def _split(call: Call, data: bytes) -> None:
    """Hands on the messages of a stream; one may come in several frames, and several in one."""
    assert call.message is not None
    if call.rest:
        data = call.rest + data
    at, end = 0, len(data)
    while end - at >= 5:
        _, size = _MESSAGE_HEAD.unpack_from(data, at)
        if at + 5 + size > end:
            break
        call.message(data[at + 5 : at + 5 + size])
        at += 5 + size
    call.rest = data[at:]


def _frame(kind: int, flags: int, number: int, content: bytes) -> bytes:
    return _HEAD.pack(len(content) << 8 | kind, flags, number) + content


class _Headers:
    """The headers of requests (RFC 7541): literally the first time, by their number in the table afterwards."""

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self._table: list[tuple[str, str]] = []
        self._blocks: dict[str, bytes] = {}

    def block(self, path: str) -> bytes:
        known = self._blocks.get(path)
        if known is not None:
            return known
        before = len(self._table)
        block = b"\x83\x86" + b"".join(  # POST, http
            self._field(name, value)
            for name, value in (
                (":path", path),
                (":authority", self._authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "xmtp-history-benches/1"),
                ("x-app-version", "xmtp-history-benches/1"),
                ("x-libxmtp-version", "1.10.0"),
            )
        )
        if len(self._table) == before:
            self._blocks[path] = block
        else:
            self._blocks.clear()  # the numbers have changed
        return block

    def _field(self, name: str, value: str) -> bytes:
        if (name, value) in self._table:
            return bytes((0x80 | 62 + self._table.index((name, value)),))
        self._table.insert(0, (name, value))
        return b"\x40" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))
