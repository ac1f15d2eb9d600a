"""The load on a history server: a process that answers each line on its standard input, a job, with a line, its outcome.

One thread waits for all its clients. Files go to the server with sendfile, those in chunks too, from a file in which the
chunks stand already; what is downloaded goes into one buffer and is counted. Requests have the headers that libxmtp sends
and no others. Small requests are prepared, and the answer to each is looked at.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

from h2 import Refused

WARM_UP_S = 0.3
#: As much as libxmtp puts into a chunk, and what comes before and after it.
CHUNK_BYTES = 4096
CHUNK_HEAD, CHUNK_END = b"1000\r\n", b"\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
#: Bytes handed to the system at once, or taken from it, so that every client has its turn.
_PIECE = 1 << 20
_BUFFER = 1 << 18
_STUCK_S = 60.0
_HEAD_END = b"\r\n\r\n"
_RIGHT = b"HTTP/1.1 200 "
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(frozen=True, slots=True)
class Upload:
    """A client that sends a part of a file, and what that is without the frames of its chunks."""

    offset: int
    length: int
    size: int
    chunked: bool


@dataclass(frozen=True, slots=True)
class Download:
    """A client that gets a file, so many times one after the other."""

    path: str
    size: int
    times: int = 1


@dataclass(frozen=True, slots=True)
class Small:
    """A client that sends the same 4 KiB again and again, from a place of a file; or gets the file that has them.

    A limit answers with other bytes, and is not compared.
    """

    offset: int
    size: int
    path: str | None = None
    chunked: bool = False
    compared: bool = True


@dataclass(slots=True)
class Outcome:
    """What a job did.

    Attributes:
        started: when it began, by the clock that all processes share.
        ended: when it was over.
        used: seconds that the processor worked for this process meanwhile.
        moved: bytes of files, without anything around them; or requests, if they were small.
        made: the same, with what came before and after the time that counts.
        ids: of what was uploaded, by client.
        at_once: how many bodies were on their way at one moment, at most.
    """

    started: float = 0.0
    ended: float = 0.0
    used: float = 0.0
    moved: int = 0
    made: int = 0
    ids: list[list[str]] = field(default_factory=list)
    at_once: int = 0

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


@contextmanager
def _counted(outcome: Outcome) -> Iterator[None]:
    gc.collect()
    gc.disable()
    outcome.started, used = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        outcome.ended = time.perf_counter()
        outcome.used = time.process_time() - used
        gc.enable()


class _Transfers:
    """Large bodies, each on a connection of its own, all at the same time."""

    def __init__(self, address: tuple[str, int], source: BinaryIO) -> None:
        self.address = address
        self.source = source.fileno()
        self.selector = selectors.DefaultSelector()
        self.outcome = Outcome()
        self.buffer = memoryview(bytearray(_BUFFER))
        self._left = 0
        self._on_their_way = 0

    def run(self, uploads: list[Upload], downloads: list[Download]) -> Outcome:
        sending = [_Sending(self, upload) for upload in uploads]
        clients: list[_Sending | _Getting] = [*sending, *(_Getting(self, download) for download in downloads)]
        self._left = len(clients)
        with closing(self.selector), _counted(self.outcome):
            for client in clients:
                client.begin()
            while self._left:
                ready = self.selector.select(_STUCK_S)
                if not ready:
                    raise Refused(f"nothing moved for {_STUCK_S:.0f} s")
                for key, events in ready:
                    key.data.step(events)
        self.outcome.ids = [[client.file_id] for client in sending]
        self.outcome.made = self.outcome.moved
        return self.outcome

    def under_way(self) -> None:
        self._on_their_way += 1
        self.outcome.at_once = max(self.outcome.at_once, self._on_their_way)

    def arrived(self, size: int) -> None:
        self._on_their_way -= 1
        self.outcome.moved += size

    def done(self, connection: socket.socket) -> None:
        self._left -= 1
        self.selector.unregister(connection)
        connection.close()


class _Sending:
    def __init__(self, transfers: _Transfers, upload: Upload) -> None:
        self.file_id = ""
        self._transfers = transfers
        self._upload = upload
        self._socket = _connected(transfers.address)
        self._unsent = _head(transfers.address, "POST /upload", upload.size, chunked=upload.chunked)
        self._at = upload.offset
        self._end = upload.offset + upload.length
        self._answer = b""

    def begin(self) -> None:
        self._transfers.selector.register(self._socket, _READ | _WRITE, self)

    def step(self, events: int) -> None:
        if events & _READ:
            self._receive()
        elif events & _WRITE:
            try:
                self._send()
            except BlockingIOError:
                pass
            except ConnectionError as reason:
                raise Refused(f"the server does not take the body: {reason}") from None

    def _send(self) -> None:
        if self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
            if self._at == self._upload.offset:
                self._transfers.under_way()
        elif self._at < self._end:
            piece = min(_PIECE, self._end - self._at)
            self._at += os.sendfile(self._socket.fileno(), self._transfers.source, self._at, piece)
            if self._at == self._end and self._upload.chunked:
                self._unsent = _LAST_CHUNK
        if self._at == self._end and not self._unsent:
            self._transfers.selector.modify(self._socket, _READ, self)

    def _receive(self) -> None:
        self._answer += _received(self._socket)
        head, there, body = self._answer.partition(_HEAD_END)
        if not there or len(body) < _length(head):
            return
        if self._unsent or self._at < self._end:
            raise Refused("the server answered before it had the body")
        self.file_id = body.decode()
        self._transfers.arrived(self._upload.size)
        self._transfers.done(self._socket)


class _Getting:
    def __init__(self, transfers: _Transfers, download: Download) -> None:
        self._transfers = transfers
        self._download = download
        self._socket = _connected(transfers.address)
        self._request = _head(transfers.address, f"GET {download.path}", None, chunked=False)
        self._times = 0
        self._head = b""
        self._left = 0

    def begin(self) -> None:
        self._transfers.selector.register(self._socket, _READ, self)
        self._socket.send(self._request)

    def step(self, _: int) -> None:
        try:
            size = self._socket.recv_into(self._transfers.buffer)
        except BlockingIOError:
            return
        if not size:
            raise Refused("the server closed the connection")
        if not self._left:
            self._head += self._transfers.buffer[:size]
            head, there, rest = self._head.partition(_HEAD_END)
            if not there:
                return
            self._left = _length(head)
            if self._left != self._download.size:
                raise Refused(f"a file of {self._download.size:,} bytes came with {self._left:,}")
            self._transfers.under_way()
            self._head, size = b"", len(rest)
        self._left -= size
        if not self._left:
            self._arrived()

    def _arrived(self) -> None:
        self._times += 1
        self._transfers.arrived(self._download.size)
        if self._times < self._download.times:
            self._socket.send(self._request)
        else:
            self._transfers.done(self._socket)


class _Calls:
    """Small requests, one after the other by every client."""

    def __init__(self, address: tuple[str, int], *, fresh: bool) -> None:
        self.address = address
        self.fresh = fresh
        self.selector = selectors.DefaultSelector()
        self.answered = 0
        self.made = 0
        self.going_on = True

    def run(self, source: BinaryIO, clients: list[Small], seconds: float) -> Outcome:
        outcome = Outcome(at_once=len(clients))
        callers = [_Caller(self, client, _part(source, client)) for client in clients]
        with closing(self.selector):
            for caller in callers:
                caller.begin()
            self._run(WARM_UP_S)
            before = self.answered
            with _counted(outcome):
                self._run(seconds)
            outcome.moved = self.answered - before
            self.going_on = False
            deadline = time.perf_counter() + _STUCK_S
            while self.answered < self.made:
                self._step(deadline - time.perf_counter())
            for caller in callers:
                caller.close()
        outcome.ids = [caller.ids for caller in callers]
        outcome.made = self.made
        return outcome

    def _run(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self._step(left)

    def _step(self, timeout: float) -> None:
        if timeout <= 0:
            raise Refused(f"no answer within {_STUCK_S:.0f} s")
        for key, events in self.selector.select(timeout):
            key.data(events)


class _Caller:
    def __init__(self, calls: _Calls, client: Small, content: bytes) -> None:
        self.ids: list[str] = []
        self._calls = calls
        self._answer = b""
        self._expected = content if client.compared else b""
        self._is_upload = client.path is None
        self._answer_bytes = 36 if self._is_upload else client.size
        if not self._is_upload:
            self._request = _head(calls.address, f"GET {client.path}", None, chunked=False)
        else:
            frames = (CHUNK_HEAD, content, CHUNK_END, _LAST_CHUNK) if client.chunked else (content,)
            self._request = _head(calls.address, "POST /upload", client.size, chunked=client.chunked) + b"".join(frames)
        self._socket: socket.socket | None = None

    def begin(self) -> None:
        self._calls.made += 1
        if self._socket is None:
            self._socket = _socket()
            with suppress(BlockingIOError):
                self._socket.connect(self._calls.address)
            try:
                self._send(self._socket)
            except BlockingIOError:
                # It is not connected yet.
                self._calls.selector.register(self._socket, _WRITE, self._connected)
                return
            self._calls.selector.register(self._socket, _READ, self._receive)
        else:
            self._send(self._socket)

    def close(self) -> None:
        if self._socket is not None:
            self._calls.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _send(self, connection: socket.socket) -> None:
        if connection.send(self._request) != len(self._request):
            raise Refused("a small request did not go at once")

    def _connected(self, _: int) -> None:
        assert self._socket is not None
        self._send(self._socket)
        self._calls.selector.modify(self._socket, _READ, self._receive)

    def _receive(self, _: int) -> None:
        assert self._socket is not None
        answer = self._answer + _received(self._socket)
        body = answer.find(_HEAD_END) + len(_HEAD_END)
        if body < len(_HEAD_END) or (answer.startswith(_RIGHT) and len(answer) < body + self._answer_bytes):
            self._answer = answer
            return
        if not answer.startswith(_RIGHT):
            raise Refused(answer[: answer.find(b"\r")].decode())
        if self._is_upload:
            self.ids.append(answer[body:].decode())
        elif not answer.endswith(self._expected):
            raise Refused("a small file did not come back as it was sent")
        self._answer = b""
        self._calls.answered += 1
        if self._calls.fresh:
            self.close()
        if self._calls.going_on:
            self.begin()


def _socket() -> socket.socket:
    opened = socket.socket()
    opened.setblocking(False)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def _connected(address: tuple[str, int]) -> socket.socket:
    connection = socket.create_connection(address)
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _head(address: tuple[str, int], request: str, size: int | None, *, chunked: bool) -> bytes:
    framing = "transfer-encoding: chunked\r\n" if chunked else "" if size is None else f"content-length: {size}\r\n"
    return f"{request} HTTP/1.1\r\naccept: */*\r\nhost: {address[0]}:{address[1]}\r\n{framing}\r\n".encode()


def _received(connection: socket.socket) -> bytes:
    try:
        data = connection.recv(1 << 16)
    except BlockingIOError:
        return b""
    except ConnectionError as reason:
        raise Refused(f"the server broke the connection: {reason}") from None
    if not data:
        raise Refused("the server closed the connection")
    return data


def _length(head: bytes) -> int:
    """The length of the body after a head that says that all is well."""
    status, *lines = head.split(b"\r\n")
    if not status.startswith(_RIGHT):
        raise Refused(status.decode())
    for line in lines:
        if line.lower().startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise Refused("an answer does not say how long it is")


def _part(source: BinaryIO, client: Small) -> bytes:
    return os.pread(source.fileno(), client.size, client.offset)


def _do(job: dict[str, Any]) -> Outcome:
    address = job["address"][0], job["address"][1]
    with open(job["source"], "rb", buffering=0) as source:  # noqa: PTH123 - a plain file, without buffer
        if "clients" in job:
            clients = [Small(**client) for client in job["clients"]]
            return _Calls(address, fresh=job["fresh"]).run(source, clients, job["seconds"])
        uploads, downloads = [Upload(**one) for one in job["uploads"]], [Download(**one) for one in job["downloads"]]
        return _Transfers(address, source).run(uploads, downloads)


def main(answer: Callable[[str], None]) -> None:
    """Does jobs until standard input ends."""
    for line in sys.stdin:
        try:
            done = asdict(_do(json.loads(line)))
        except (Refused, OSError) as reason:
            done = {"refused": str(reason)}
        answer(json.dumps(done))


if __name__ == "__main__":
    main(lambda line: print(line, flush=True))
