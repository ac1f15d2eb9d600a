"""Bodies of requests, read from the socket by whoever wants them.

aiohttp reads heads and writes answers. A body that went through its parser and its buffers would cost more than receiving,
hashing and writing it together, and would take memory for every client that sends one.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11, hdrs, web

from xmtp_history.server import _problems as problems
from xmtp_history.server._framing import BrokenFraming, Framing, Length
from xmtp_history.server._problems import Refused
from xmtp_history.server._sockets import own_socket, wake

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from xmtp_history.server._limits import ServerLimits

#: An upload gathers a piece before it is written: every write waits for a thread, and clients send chunks of 4 KiB. So many
#: pieces are in memory at once, whatever the number of uploads; what has not been taken waits in the kernel, and at last
#: with the client.
_PIECE_BYTES = 1024 * 1024
_PIECES = 8

#: What may have been taken from the socket already when somebody asks for less, bytes.
_SLACK_BYTES = 128 * 1024

#: An upload may keep as much while it waits for more, bytes.
_KEPT_BYTES = 16 * 1024

#: Most bytes taken from a socket at once.
_RECEIVE_BYTES = 256 * 1024

#: Clients may be slow for so long before their average counts, seconds.
_GRACE_SECONDS = 60.0


class Pieces:
    """The memory for pieces of all uploads of a server. It is used again and again: asking the system for it costs more."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_PIECES)
        self._free: list[bytearray] = []

    async def acquire(self) -> bytearray:
        """Memory for one piece."""
        await self._turns.acquire()
        return self._free.pop() if self._free else bytearray(_PIECE_BYTES)

    def release(self, memory: bytearray | None) -> None:
        """Gives memory back; None: it may still be in use, and is left to whoever uses it."""
        if memory is not None:
            self._free.append(memory)
        self._turns.release()


class Body:
    """The body of a request.

    Args:
        transport: what it arrives on; nobody else may read from it until the body is done.
        framing: finds its end.
        start: what has arrived already.
        limits: how fast it has to come.
    """

    def __init__(
        self,
        transport: asyncio.BaseTransport | None,
        framing: Framing,
        start: bytes,
        limits: ServerLimits,
    ) -> None:
        self._transport = transport
        self._framing = framing
        self._arrived = start
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None
        self._socket: socket.socket | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._lost = False
        #: What was announced, bytes; None for chunks.
        self.length = framing.length
        self.received = 0
        #: What came behind the body, once it is done.
        self.rest = b""

    @classmethod
    def none(cls, limits: ServerLimits) -> Body:
        """The body of a request that has none."""
        return cls(None, Length(0), b"", limits)

    @property
    def done(self) -> bool:
        """Whether its end has come."""
        return self._framing.done

    async def invite(self, request: web.BaseRequest) -> None:
        """Sends for the body, if the client waits to be told that it is welcome."""
        if self.done or self._arrived or request.version != HttpVersion11:
            return
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            try:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            except ConnectionError:
                raise problems.broken_body() from None
            # The answer itself has not begun.
            request.writer.output_size = 0

    def take(self, most: int) -> bytes | None:
        """What has arrived, nothing at the end of the body; None: wait for more.

        Args:
            most: bytes to take at once; a little more if they have been taken from the socket already.

        Raises:
            Refused: it ended otherwise.
        """
        if self.done:
            return b""
        data = self._receive(min(most, _RECEIVE_BYTES))
        if data is None:
            return None
        try:
            content, rest = self._framing.take(data)
        except BrokenFraming:
            raise problems.broken_body() from None
        self.received += len(content)
        if rest is not None:
            self.rest = rest
            self.close()
        elif not content:
            return None
        return content

    async def wait(self) -> None:
        """Waits until something arrives.

        Raises:
            Refused: nothing does, or all of it comes too slowly.
        """
        now = self._loop.time()
        if self._began is None:
            self._began = now
        lasted = now - self._began
        if lasted > _GRACE_SECONDS and self.received < lasted * self._limits.min_bytes_per_second:
            raise _too_slow("The upload is too slow.")
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                await self._readable()
        except TimeoutError:
            raise _too_slow(f"Nothing arrived for {self._limits.idle_seconds:.0f} seconds.") from None

    async def discard(self, seconds: float) -> None:
        """Reads on for a while, and throws it away: were the connection closed at once, the answer could be lost."""
        try:
            async with asyncio.timeout(seconds):
                while not self.done:
                    data = self._receive(_RECEIVE_BYTES)
                    if data is None:
                        await self._readable()
                    else:
                        self._framing.take(data)
                        # Whoever sends without a pause must not hold up the others.
                        await asyncio.sleep(0)
        except (OSError, Refused, BrokenFraming):
            return
        finally:
            self.close()

    def feed(self, data: bytes) -> None:
        """Some of it, which others have read: a transport that sends a file reads on when it has."""
        self._arrived += data

    def lose(self) -> None:
        """Nobody is there any more."""
        self._lost = True
        if self._waiting is not None:
            wake(self._waiting)

    def close(self) -> None:
        """Lets go of the socket."""
        taken, self._socket = self._socket, None
        if taken is not None:
            self._loop.remove_reader(taken)
            taken.close()

    def _receive(self, most: int) -> bytes | None:
        if self._arrived:
            data, self._arrived = self._arrived, b""
            return data
        if self._lost:
            raise problems.broken_body()
        taken = self._opened()
        try:
            data = taken.recv(most)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            raise problems.broken_body() from None
        if not data:
            raise problems.broken_body()
        return data

    async def _readable(self) -> None:
        if self._lost or self._arrived:
            return
        taken = self._opened()
        self._waiting = self._loop.create_future()
        self._loop.add_reader(taken, wake, self._waiting)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if self._socket is not None:
                self._loop.remove_reader(taken)

    def _opened(self) -> socket.socket:
        if self._socket is None:
            if self._transport is None or self._transport.is_closing():
                raise problems.broken_body()
            self._socket = own_socket(self._transport)
        return self._socket


class _Writer:
    """Gathers what arrives into pieces, and writes one while the next is gathered."""

    def __init__(self, write: Callable[[memoryview], Awaitable[None]], pieces: Pieces) -> None:
        self._write = write
        self._pieces = pieces
        self._writing: asyncio.Future[None] | None = None
        self._memory: bytearray | None = None
        self._kept = b""
        self.size = 0

    @property
    def busy(self) -> bool:
        """Whether something is being written, or nobody has looked whether it went well."""
        return self._writing is not None

    async def open(self) -> None:
        """Gets memory for a piece, which begins with what was kept."""
        self._memory = await self._pieces.acquire()
        self.size, kept, self._kept = 0, self._kept, b""
        self.gather(kept)

    def gather(self, data: bytes) -> None:
        """Takes some of a piece."""
        if self._memory is not None:
            end = self.size + len(data)
            self._memory[self.size : end] = data
            self.size = end

    def close(self) -> None:
        """Gives the memory back, and keeps the little that is in it."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._kept = bytes(memoryview(memory)[: self.size])
            self._pieces.release(memory)

    def begin(self) -> None:
        """Begins to write what has been gathered; the memory goes back when it is written."""
        memory, self._memory = self._memory, None
        if memory is None:
            return
        self._writing = asyncio.ensure_future(self._write(memoryview(memory)[: self.size]))
        self.size = 0
        # Not by the task itself, which may be cancelled before it has begun. When it is, a thread may still be reading.
        self._writing.add_done_callback(lambda done: self._pieces.release(None if done.cancelled() else memory))

    def rest(self) -> bytes:
        """What was kept, which is not kept any more."""
        kept, self._kept = self._kept, b""
        self.size = 0
        return kept

    async def settle(self) -> None:
        """Waits for what is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def stop(self) -> None:
        """Waits for it as well, but whether it goes well does not matter any more."""
        self.close()
        if self._writing is not None:
            await asyncio.wait([self._writing])
            if not self._writing.cancelled():
                self._writing.exception()


async def pour(
    body: Body,
    pieces: Pieces,
    account: Callable[[int], Awaitable[None]],
    write: Callable[[memoryview], Awaitable[None]],
    *,
    keep: bool = False,
) -> bytes:
    """Writes a body as it arrives, and returns the little that is left to write.

    When it raises, nothing is being written any more.

    Args:
        body: what is received.
        pieces: the memory.
        account: told of bytes before they are kept; may refuse.
        write: takes a piece, which is overwritten when it has returned; the next call comes then.
        keep: whether to write what has arrived also of a body that breaks off.
    """
    writer = _Writer(write, pieces)
    try:
        while not body.done:
            await writer.open()
            while (room := _PIECE_BYTES - writer.size - _SLACK_BYTES) > 0 and (data := body.take(room)):
                await account(len(data))
                writer.gather(data)
            if writer.size > _KEPT_BYTES:
                await writer.settle()
                writer.begin()
                continue
            writer.close()
            if writer.busy:
                # More arrives while the disk is busy: fewer and larger pieces cost less.
                await writer.settle()
            elif not body.done:
                await body.wait()
        await writer.settle()
    except BaseException as error:
        await writer.stop()
        if keep and isinstance(error, Refused) and (rest := writer.rest()):
            await write(memoryview(rest))
        raise
    return writer.rest()


def _too_slow(detail: str) -> Refused:
    return Refused(HTTPStatus.REQUEST_TIMEOUT, "too-slow", detail)
