"""Connections: how many, and how fast and how large the head of a request may come. Bodies are kept from aiohttp."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler

from xmtp_history.server import _framing
from xmtp_history.server import _problems as problems
from xmtp_history.server._body import Body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xmtp_history.server._limits import ServerLimits
    from xmtp_history.server._metrics import Metrics

#: How long a body is read on and thrown away after an answer that did not wait for it, seconds.
LINGER_SECONDS = 2.0

#: Longest head of a request, line in it, bytes, and most headers: nonsense in place of an id gets the 404 that all
#: nonsense gets, within reason.
_HEAD_BYTES = 64 * 1024
_LINE_BYTES = 16 * 1024
_HEADERS = 96

#: Bytes taken from a connection at once, as long as it is not clear what it wants.
_RECEIVE_BYTES = 16 * 1024

_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"


def _last_words(status: str, header: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n".encode()


_BUSY = _last_words("503 Service Unavailable", "Retry-After: 5\r\n")
_BAD = _last_words("400 Bad Request")
_LATE = _last_words("408 Request Timeout")
_LONG = _last_words("414 URI Too Long")
_LARGE = _last_words("431 Request Header Fields Too Large")


class Listener(web.Server):
    """Makes a protocol for each connection."""

    def __init__(
        self,
        answer: Callable[[web.BaseRequest, Body], Awaitable[web.StreamResponse]],
        limits: ServerLimits,
        metrics: Metrics,
    ) -> None:
        self._options: dict[str, Any] = {
            "logger": _logger,
            # Paths hold ids.
            "access_log": None,
            "max_line_size": _LINE_BYTES,
            "max_field_size": _LINE_BYTES,
            "max_headers": _HEADERS,
            "lingering_time": LINGER_SECONDS,
            "keepalive_timeout": limits.keep_alive_seconds,
        }
        super().__init__(self._answer, **self._options)
        self._handle = answer
        self.limits = limits
        self.metrics = metrics
        self.open = 0

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._options)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        if not isinstance(connection, _Connection):
            raise TypeError("a connection of another listener")
        body = connection.begin()
        try:
            response = await self._handle(request, body)
            if not body.done:
                response.force_close()
            # Not left to aiohttp: what is said of the next request must not come before it.
            with suppress(ConnectionError):
                if not response.prepared:
                    await response.prepare(request)
                await response.write_eof()
            if not body.done:
                await body.discard(LINGER_SECONDS)
        finally:
            body.close()
        connection.end()
        return response


class _Connection(RequestHandler):
    """Hands heads to aiohttp, one request at a time, and keeps bodies from it.

    It closes itself when there are too many, when a head takes too long, and when answers are not taken.
    """

    __slots__ = ("_body", "_busy", "_counted", "_deadline", "_listener", "_raw", "_refused", "_unread")

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None
        self._counted = False
        #: What has arrived and was not looked at yet.
        self._raw = bytearray()
        #: From the end of a head to the end of its answer; then also the body.
        self._busy = False
        self._body: Body | None = None
        self._refused = False
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        listener = self._listener
        # Only asyncio's own transports have this.
        if hasattr(transport, "max_size"):
            transport.max_size = _RECEIVE_BYTES
        if isinstance(transport, asyncio.WriteTransport):
            # So that it is known whenever something is left that the client does not take.
            transport.set_write_buffer_limits(0)
        listener.open += 1
        self._counted = True
        listener.metrics.connections.set(listener.open)
        if listener.open > listener.limits.max_connections:
            self._refuse(_BUSY)
        else:
            self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._counted:
            self._counted = False
            self._listener.open -= 1
            self._listener.metrics.connections.set(self._listener.open)
        self._stop_waiting()
        self._stop_watching()
        if self._body is not None:
            self._body.lose()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._body is not None:
            self._body.feed(data)
            self._pause()
        else:
            self._raw += data
            if self._busy:
                self._pause()
            else:
                self._look_for_head()

    def pause_writing(self) -> None:
        """Something is left, and closing would wait for the client to take it, for ever."""
        super().pause_writing()
        transport = self.transport
        if transport is not None and self._unread is None:
            stall = self._listener.limits.stall_seconds
            self._unread = asyncio.get_running_loop().call_later(stall, transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()

    def eof_received(self) -> None:
        if self._refused:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is no request, in the form of all others: aiohttp would quote it."""
        super().handle_error(request, status, exc, message)
        wrong = isinstance(exc, http_exceptions.HttpProcessingError)
        refused = problems.bad_request("That is no request.") if wrong else problems.internal()
        self._listener.metrics.requests.labels("other", "other", refused.status).inc()
        response = problems.answer(refused)
        response.force_close()
        return response

    def begin(self) -> Body:
        """A request is about to be answered; its body."""
        listener = self._listener
        self._busy = True
        self._stop_waiting()
        return self._body or Body.none(listener.limits)

    def end(self) -> None:
        """A request has been answered. The next one may be there already."""
        body, self._body, self._busy = self._body, None, False
        if body is None or body.done:
            self._raw[:0] = b"" if body is None else body.rest
            self._resume()
            self._look_for_head()

    def _look_for_head(self) -> None:
        while not self._busy:
            # Empty lines before a request are none.
            while self._raw.startswith(_END_OF_LINE):
                del self._raw[: len(_END_OF_LINE)]
            if not self._raw:
                return
            if self._deadline is None:
                self._expect_head()
            end = self._raw.find(_END_OF_HEAD)
            if (words := _too_much(self._raw if end < 0 else self._raw[:end])) is not None:
                self._refuse(words)
                return
            if end < 0:
                return
            end += len(_END_OF_HEAD)
            try:
                head, framing = _framing.split(bytes(self._raw[:end]))
            except _framing.Unclear:
                self._refuse(_BAD)
                return
            del self._raw[:end]
            requests = self._request_count
            super().data_received(head)
            if self._request_count == requests:
                # It is no request to aiohttp, which has left HTTP behind after CONNECT or an upgrade.
                self._refuse(_BAD)
                return
            self._busy = True
            self._pause()
            if framing is not None:
                start = bytes(self._raw)
                self._raw.clear()
                self._body = Body(self.transport, framing, start, self._listener.limits)

    def _pause(self) -> None:
        if self.transport is not None:
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def _expect_head(self) -> None:
        seconds = self._listener.limits.head_seconds
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._refuse, _LATE)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_watching(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, last_words: bytes) -> None:
        """Says why, and closes. What still comes is thrown away for a while: else the answer could be lost."""
        self._stop_waiting()
        self._listener.metrics.requests.labels("other", "other", last_words.split(maxsplit=2)[1].decode()).inc()
        self._refused = True
        self._raw.clear()
        if self.transport is not None:
            self.transport.write(last_words)
            self.transport.write_eof()
        self._deadline = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.force_close)


def _too_much(head: bytearray) -> bytes | None:
    """What to say to a head, or to the beginning of one, that is too large."""
    if len(head) <= _LINE_BYTES and head.count(_END_OF_LINE) <= _HEADERS:
        return None
    request_line, *lines = head.split(_END_OF_LINE)
    if len(request_line) > _LINE_BYTES:
        return _LONG
    if len(head) > _HEAD_BYTES or len(lines) > _HEADERS or max(map(len, lines), default=0) > _LINE_BYTES:
        return _LARGE
    return None


def _may_be_logged(record: logging.LogRecord) -> bool:
    """Not what clients get wrong: aiohttp would quote the request, with ids and whatever else it holds."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError | web.RequestPayloadError)


_logger = logging.getLogger("xmtp_history.server.connections")
_logger.addFilter(_may_be_logged)
