"""What the server answers. Knows HTTP and the interface of a storage, nothing of sockets, files or other storages."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import uuid
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from aiohttp import HttpVersion11, hdrs, web

from xmtp_history.server import _cors
from xmtp_history.server._ids import parse_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp import StreamReader

    from xmtp_history.server._storage import Storage, Upload

#: Bytes of a body taken at a time, and gathered before they are written: clients send chunks of 4 KiB.
READ_BYTES = 16 * 1024
GATHER_BYTES = 64 * 1024

#: Longest time without a byte of a body, seconds. It also ends a body with a broken chunk in the middle, where the compiled
#: parser of aiohttp falls silent.
_IDLE_SECONDS = 30.0

#: What a client is told to wait before it tries again, seconds.
_RETRY_SECONDS = "5"

_FILE_HEADERS = {
    hdrs.CONTENT_TYPE: "application/octet-stream",
    hdrs.CONTENT_DISPOSITION: "attachment",
    hdrs.CACHE_CONTROL: "private, no-transform",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

#: Only more room helps.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_logger = logging.getLogger("xmtp_history.server")

_Handler: TypeAlias = "Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]"


class _Refused(Exception):
    """The request gets an error for an answer."""

    def __init__(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class Service:
    """Answers requests from a storage."""

    def __init__(self, storage: Storage, max_file_bytes: int | None) -> None:
        self._storage = storage
        self._max_file_bytes = max_file_bytes
        self._draining = False
        self._running: set[asyncio.Task[object]] = set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to a request, whatever happens."""
        task = asyncio.current_task()
        if task is not None:
            # The task goes on after this method, until the answer is sent.
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        try:
            response = await self._route(request)
        except _Refused as refused:
            response = _problem(request, refused)
        except Exception:
            _logger.exception("a request failed")
            response = _problem(request, _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "The server is at fault."))
        _cors.allow(request, response)
        return response

    async def drain(self, seconds: float) -> None:
        """Waits for the running requests, and cancels what is left of them after some time. New ones are turned away."""
        self._draining = True
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._draining:
            raise _unavailable("The server is closing.")
        if _cors.is_preflight(request):
            return _cors.preflight(request)
        handlers = self._handlers(request.rel_url.raw_path)
        if handlers is None:
            raise _not_found()
        handler = handlers.get(request.method)
        if handler is None:
            methods = ", ".join(handlers)
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"Use {methods}.", {hdrs.ALLOW: methods})
        try:
            return await handler(request)
        except OSError as error:
            raise _storage_failed(error) from error

    def _handlers(self, path: str) -> dict[str, _Handler] | None:
        """The methods of a resource, or None if there is no such resource."""
        # A server URL that ends in a slash makes clients ask for "//upload".
        path = re.sub("/{2,}", "/", path)
        if path == "/":
            return {hdrs.METH_GET: _health}
        if path == "/upload":
            return {hdrs.METH_POST: self._upload}
        folder, _, name = path.rpartition("/")
        if folder == "/files" and name:
            download = partial(self._download, unquote(name))
            return {hdrs.METH_GET: download, hdrs.METH_HEAD: download}
        return None

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        length = request.content_length
        if length is not None:
            self._check_size(length)
        await _invite_body(request)
        upload = self._storage.create()
        try:
            await self._receive(request.content, length, upload)
            file_id = uuid.uuid4()
            await upload.commit(file_id)
        except BaseException:
            # Goes on to the end even if this task is cancelled once more.
            await asyncio.shield(_abort(upload))
            raise
        # Clients take the body as it is for the id: nothing may stand beside it.
        return web.Response(
            body=str(file_id).encode(),
            content_type="text/plain",
            headers={hdrs.LOCATION: f"/files/{file_id}"},
        )

    async def _receive(self, content: StreamReader, length: int | None, upload: Upload) -> None:
        """Writes the whole body; returns only if it ended as HTTP says that a body ends."""
        received = 0
        gathered = bytearray()
        while data := await _read(content):
            received += len(data)
            self._check_size(received)
            gathered += data
            if len(gathered) >= GATHER_BYTES:
                await upload.write(gathered)
                # A new one: after a cancellation a thread may still be writing the old one.
                gathered = bytearray()
        if length is not None and received != length:
            raise _broken_body()
        if gathered:
            await upload.write(gathered)

    def _check_size(self, size: int) -> None:
        if self._max_file_bytes is not None and size > self._max_file_bytes:
            detail = f"A file may have at most {self._max_file_bytes} bytes."
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)

    async def _download(self, name: str, _request: web.BaseRequest) -> web.StreamResponse:
        file_id = parse_id(name)
        stored = None if file_id is None else await self._storage.open(file_id)
        if stored is None:
            raise _not_found()
        return web.FileResponse(stored.path, chunk_size=GATHER_BYTES, headers=_FILE_HEADERS)


async def _health(_request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def _invite_body(request: web.BaseRequest) -> None:
    """Sends for the body, if the client waits to be told that it is welcome."""
    if request.version == HttpVersion11 and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        try:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        except ConnectionError:
            raise _broken_body() from None
        # The answer itself has not begun.
        request.writer.output_size = 0


async def _read(content: StreamReader) -> bytes:
    """The next piece of a body, nothing at its proper end.

    Raises:
        _Refused: it ended otherwise, or does not go on.
    """
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            return await content.read(READ_BYTES)
    except TimeoutError:
        raise _Refused(HTTPStatus.REQUEST_TIMEOUT, f"Nothing arrived for {_IDLE_SECONDS:.0f} seconds.") from None
    except (ConnectionError, RuntimeError, web.RequestPayloadError):
        # The client went away (RuntimeError: before the first byte was asked for), or broke the rules of chunks.
        raise _broken_body() from None


async def _abort(upload: Upload) -> None:
    try:
        await upload.abort()
    except OSError as error:
        _logger.warning("an unfinished upload could not be removed: %s", _cause(error))


def _problem(request: web.BaseRequest, refused: _Refused) -> web.Response:
    described = {"title": refused.status.phrase, "status": refused.status, "detail": refused.detail}
    response = web.Response(
        status=refused.status,
        body=json.dumps(described).encode(),
        content_type="application/problem+json",
        # An id that is not there yet must not be missing from caches later.
        headers={hdrs.CACHE_CONTROL: "no-store", **refused.headers},
    )
    if not request.content.is_eof():
        # aiohttp reads on for a while before it closes, so that the answer is not lost to a reset.
        response.force_close()
    return response


def _not_found() -> _Refused:
    return _Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")


def _broken_body() -> _Refused:
    return _Refused(HTTPStatus.BAD_REQUEST, "The body is not complete.")


def _unavailable(detail: str) -> _Refused:
    return _Refused(HTTPStatus.SERVICE_UNAVAILABLE, detail, {hdrs.RETRY_AFTER: _RETRY_SECONDS})


def _storage_failed(error: OSError) -> _Refused:
    _logger.error("the storage failed: %s", _cause(error))
    if error.errno in _NO_ROOM:
        return _Refused(HTTPStatus.INSUFFICIENT_STORAGE, "There is no room for the file.")
    return _unavailable("The storage does not work at the moment.")


def _cause(error: OSError) -> str:
    """What went wrong, without the path: it can end in a file's id, and who reads logs is not to learn ids."""
    return error.strerror or type(error).__name__
