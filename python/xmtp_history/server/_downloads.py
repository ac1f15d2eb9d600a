"""``/files/{id}``: GET and HEAD with ranges and conditions (RFC 9110), and DELETE."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import ETag, hdrs, web
from aiohttp.helpers import ETAG_ANY

from xmtp_history.server import _problems as problems
from xmtp_history.server._ids import parse_id
from xmtp_history.server._problems import Refused
from xmtp_history.server._sending import send_file
from xmtp_history.server._uploads import CAPABILITY

if TYPE_CHECKING:
    from uuid import UUID

    from xmtp_history.server._exchange import Exchange, House
    from xmtp_history.server.storage import FileInfo, StoredFile

_HEADERS = {
    hdrs.CONTENT_TYPE: "application/octet-stream",
    hdrs.CONTENT_DISPOSITION: "attachment",
    hdrs.CACHE_CONTROL: "private, no-transform",
    hdrs.ACCEPT_RANGES: "bytes",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

#: States of a connection that takes what is sent: established, and ended by the client for what it sends itself.
_CONNECTED = (1, 8)

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Downloads:
    """Answers requests for files."""

    def __init__(self, house: House) -> None:
        self._house = house
        #: How many downloads of each file are going on.
        self.in_use: dict[UUID, int] = {}
        self._active = 0

    async def get(self, exchange: Exchange, name: str) -> web.StreamResponse:
        """GET and HEAD."""
        file_id = _parse(exchange, name)
        reads = exchange.method == hdrs.METH_GET
        # A storage that asks for the content along with the rest does it only where all of it is going to be sent.
        plain = reads and not any(header in exchange.request.headers for header in _CONDITIONS)
        storage = self._house.storage
        if reads and self._active >= self._house.limits.max_downloads:
            raise problems.unavailable("busy", "The server is busy.")
        location = await storage.location(file_id) if reads else None
        with self._house.metrics.storage("open"):
            stored = await storage.open(file_id, content=plain and location is None)
        if stored is None:
            raise problems.not_found()
        try:
            if self._expired(stored.info):
                raise problems.not_found()
            if location is not None:
                return _redirect(location)
            return await self._answer(exchange, file_id, stored)
        finally:
            await asyncio.shield(stored.aclose())

    async def delete(self, exchange: Exchange, name: str) -> web.StreamResponse:
        """Removes a file for whoever may."""
        file_id = _parse(exchange, name)
        storage = self._house.storage
        with self._house.metrics.storage("open"):
            stored = await storage.open(file_id, content=False)
        if stored is None:
            raise problems.not_found()
        await stored.aclose()
        if self._expired(stored.info):
            raise problems.not_found()
        if not stored.info.may_delete(exchange.request.headers.get(CAPABILITY, "")):
            detail = f"Show the {CAPABILITY} that came with the upload."
            raise Refused(HTTPStatus.FORBIDDEN, "capability", detail)
        await self._remove(file_id, stored.info, "deleted")
        return web.Response(status=HTTPStatus.NO_CONTENT)

    def _expired(self, info: FileInfo) -> bool:
        age = self._house.policy.retention_seconds
        return age is not None and self._house.clock.now() - info.committed >= age

    async def _answer(self, exchange: Exchange, file_id: UUID, stored: StoredFile) -> web.StreamResponse:
        request, info = exchange.request, stored.info
        tag = info.sha256.hex()
        headers = {**_HEADERS, hdrs.ETAG: f'"{tag}"'}
        verdict = _conditions(request, tag, info.committed)
        if verdict is HTTPStatus.PRECONDITION_FAILED:
            raise Refused(verdict, "precondition", "The file is another one.")
        if verdict is not None:
            kept = {name: headers[name] for name in (hdrs.ETAG, hdrs.CACHE_CONTROL)}
            unchanged = web.Response(status=verdict, headers=kept)
            unchanged.last_modified = int(info.committed)
            return unchanged
        start, end, status = 0, info.size, HTTPStatus.OK
        asked = _range(request, tag, info.committed, info.size) if exchange.method == hdrs.METH_GET else None
        if asked is not None:
            start, end = asked
            status = HTTPStatus.PARTIAL_CONTENT
            headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{info.size}"
        response: web.StreamResponse
        if exchange.method == hdrs.METH_HEAD or stored.content is None:
            response = web.StreamResponse(status=status, headers=headers)
            response.content_length = end - start
        else:
            response = web.Response(status=status, headers=headers, body=stored.content[start:end])
        response.last_modified = int(info.committed)
        if exchange.method == hdrs.METH_GET:
            await self._send(exchange, file_id, stored, response, (start, end))
            if self._house.policy.delete_after_download and (start, end) == (0, info.size):
                await self._delete_when_taken(exchange, file_id, info)
        return response

    async def _send(
        self, exchange: Exchange, file_id: UUID, stored: StoredFile, response: web.StreamResponse, part: tuple[int, int]
    ) -> None:
        self.in_use[file_id] = self.in_use.get(file_id, 0) + 1
        self._active += 1
        self._house.metrics.downloads.set(self._active)
        try:
            await exchange.begin(response)
            if not isinstance(response, web.Response):
                await self._send_slices(exchange, stored, response, *part)
            else:
                exchange.sent = part[1] - part[0]
            async with asyncio.timeout(self._house.limits.stall_seconds):
                await response.write_eof()
        except TimeoutError:
            exchange.aborted = "stalled"
            _cut(exchange)
        except OSError as error:
            # The head has been sent: nothing is left to say but to end before the announced length.
            exchange.aborted = "client" if isinstance(error, ConnectionError) else "storage"
            _cut(exchange)
        finally:
            self._active -= 1
            self._house.metrics.downloads.set(self._active)
            self.in_use[file_id] -= 1
            if not self.in_use[file_id]:
                del self.in_use[file_id]

    async def _send_slices(
        self, exchange: Exchange, stored: StoredFile, response: web.StreamResponse, start: int, end: int
    ) -> None:
        stall = self._house.limits.stall_seconds
        transport = exchange.request.transport
        if transport is None:
            raise ConnectionResetError
        if stored.file is not None:
            async with asyncio.timeout(stall):
                # The head goes first.
                await exchange.request.writer.drain()
            async for sent in send_file(transport, stored.file, start, end, stall):
                exchange.sent += sent
            return
        async for data in stored.read(start, end):
            async with asyncio.timeout(stall):
                await response.write(data)
            exchange.sent += len(data)

    async def _delete_when_taken(self, exchange: Exchange, file_id: UUID, info: FileInfo) -> None:
        """Deletes a file, once the client's machine has all of it: what is in our buffers can still be lost."""
        if exchange.aborted is None and await _taken(exchange, self._house.limits.stall_seconds):
            try:
                await self._remove(file_id, info, "downloaded")
            except OSError as error:
                problems.storage_failed(error)

    async def _remove(self, file_id: UUID, info: FileInfo, reason: str) -> None:
        with self._house.metrics.storage("delete"):
            removed = await self._house.storage.delete(file_id)
        if removed:
            self._house.ledger.add(-1, -info.size)
            self._house.metrics.removed.labels(reason).inc()


_CONDITIONS = (
    hdrs.RANGE,
    hdrs.IF_MATCH,
    hdrs.IF_NONE_MATCH,
    hdrs.IF_MODIFIED_SINCE,
    hdrs.IF_UNMODIFIED_SINCE,
)


def _parse(exchange: Exchange, name: str) -> UUID:
    file_id = parse_id(unquote(name))
    if file_id is None:
        raise problems.not_found()
    exchange.short_id = str(file_id)[:8]
    return file_id


def _redirect(location: str) -> web.Response:
    # Its URL is as good as the file, and for a short time only.
    headers = {hdrs.LOCATION: location, hdrs.CACHE_CONTROL: "no-store", "Referrer-Policy": "no-referrer"}
    return web.Response(status=HTTPStatus.FOUND, headers=headers)


def _conditions(request: web.BaseRequest, tag: str, committed: float) -> HTTPStatus | None:
    """What the conditions of a request come to (RFC 9110, 13.2.2); None: go on. Times have whole seconds."""
    modified = int(committed)
    if request.if_match is not None:
        if not _matches(request.if_match, tag, weak=False):
            return HTTPStatus.PRECONDITION_FAILED
    elif (since := request.if_unmodified_since) is not None and modified > since.timestamp():
        return HTTPStatus.PRECONDITION_FAILED
    if request.if_none_match is not None:
        return HTTPStatus.NOT_MODIFIED if _matches(request.if_none_match, tag, weak=True) else None
    if (since := request.if_modified_since) is not None and modified <= since.timestamp():
        return HTTPStatus.NOT_MODIFIED
    return None


def _matches(tags: tuple[ETag, ...], tag: str, *, weak: bool) -> bool:
    return any(one.value == ETAG_ANY or (one.value == tag and (weak or not one.is_weak)) for one in tags)


def _range(request: web.BaseRequest, tag: str, committed: float, size: int) -> tuple[int, int] | None:
    """The part that is asked for: from where up to where. None: all of it.

    Raises:
        Refused: there is no such part.
    """
    header = request.headers.get(hdrs.RANGE)
    # More than one range is answered with the whole, as everything that makes no sense.
    found = _RANGE.fullmatch(header.strip().lower()) if header is not None else None
    if found is None or found.groups() == ("", "") or not _if_range(request, tag, committed):
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start = int(first)
        end = min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        headers: dict[str, str] = {hdrs.CONTENT_RANGE: f"bytes */{size}"}
        raise Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range", "The file has no such part.", headers)
    return start, end


def _if_range(request: web.BaseRequest, tag: str, committed: float) -> bool:
    header = request.headers.get(hdrs.IF_RANGE)
    if header is None:
        return True
    if header.startswith(('"', "W/")):
        return header == f'"{tag}"'
    since = request.if_range
    return since is not None and int(committed) == since.timestamp()


def _cut(exchange: Exchange) -> None:
    transport = exchange.request.transport
    if transport is not None:
        transport.abort()


async def _taken(exchange: Exchange, seconds: float) -> bool:
    """Waits until the other side has acknowledged everything; False if it does not, or nobody can tell."""
    transport = exchange.request.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if transport is None or connection is None or not sys.platform.startswith("linux"):
        return False
    import fcntl
    import termios

    descriptor = connection.fileno()
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(seconds):
            while exchange.request.transport is not None:
                waiting = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
                if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] not in _CONNECTED:
                    return False
                if not int.from_bytes(waiting, sys.byteorder) and not transport.get_write_buffer_size():
                    return True
                await asyncio.sleep(0.01)
    return False
