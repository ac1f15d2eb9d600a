"""An upload that can be resumed: tus 1.0.0, as our history server speaks it.

The archive goes up in pieces. After an interruption the server says how far it has come, and the upload goes on from there,
with bytes of the piece at hand. So also a stream gets through that cannot be read twice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import hdrs

from xmtp_history._errors import NetworkError, SyncError
from xmtp_history.sync import _urls
from xmtp_history.sync._http import refusal
from xmtp_history.sync._retry import Failed
from xmtp_history.sync._sources import in_blocks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from xmtp_history.sync._http import Answer, Http
    from xmtp_history.sync._progress import Meter
    from xmtp_history.sync._retry import Patience
    from xmtp_history.sync._sources import Source
    from xmtp_history.sync._urls import Place

_VERSION = {"Tus-Resumable": "1.0.0"}
_LENGTH = "Upload-Length"
_OFFSET = "Upload-Offset"

#: How long a server is asked to throw away an upload that comes to nothing, seconds; it would expire by itself.
_FAREWELL_SECONDS = 2.0


class _Gone(Exception):
    """The server does not know the upload any more."""


class TusUpload:
    """One upload to a server that speaks tus."""

    def __init__(self, http: Http, server: Place, source: Source, patience: Patience, meter: Meter) -> None:
        self._http = http
        self._server = server
        self._source = source
        self._patience = patience
        self._meter = meter
        self._what = f"upload to {server.server}"
        # Bytes that the server has, and bytes that it may have.
        self._offset = 0
        self._sent = 0
        self._length_told = False

    async def run(self) -> Answer:
        """Uploads everything; the answer names the file.

        Raises:
            SyncError: the server refuses.
            NetworkError: it cannot be reached, or does not get on.
            OSError: the source cannot be read, or not again where that is needed.
        """
        while True:
            upload = await self._create()
            try:
                return await self._fill(upload)
            except _Gone:
                lost = Failed("the server forgot the upload")
                if not self._source.has(0):
                    raise self._patience.exhausted(lost) from None
                await self._patience.wait(lost)
            except NetworkError:
                raise
            except (Exception, asyncio.CancelledError):
                await self._discard(upload)
                raise

    async def _create(self) -> Place:
        self._offset = self._sent = 0
        size = self._source.size
        self._length_told = size is not None
        length = {_LENGTH: str(size)} if size is not None else {"Upload-Defer-Length": "1"}
        answer = await self._patience.retried(lambda: self._ask(hdrs.METH_POST, self._server.below("upload"), length))
        if answer.status != 201:  # noqa: PLR2004 - created
            raise refusal(self._what, answer)
        return _urls.upload_resource(self._server, answer.headers.get(hdrs.LOCATION))

    async def _fill(self, upload: Place) -> Answer:
        while True:
            try:
                answer = await self._append(upload)
                asked = False
            except Failed as failed:
                await self._patience.wait(failed)
                answer = await self._status(upload)
                asked = True
            if not asked and self._offset == self._source.size and not _is_complete(answer):
                answer = await self._status(upload)
                asked = True
            if _is_complete(answer):
                return answer
            if asked and self._offset == self._source.size:
                if answer.number(_LENGTH) is not None:
                    raise SyncError(f"{self._what}: the server has everything, but does not say where")
                # It missed the request that told the length.
                self._length_told = False
                await self._patience.wait(Failed("the server does not take the end of the upload"))

    async def _append(self, upload: Place) -> Answer:
        """Sends the next piece, and takes note of how far the server is then."""
        start = self._offset
        piece = await self._source.piece(start)
        end = start + len(piece)
        headers = {**_VERSION, _OFFSET: str(start), hdrs.CONTENT_TYPE: "application/offset+octet-stream"}
        telling = not self._length_told and end == self._source.size
        if telling:
            headers[_LENGTH] = str(end)
            self._meter.total = end
        self._sent = max(self._sent, end)
        answer = await self._http.send(hdrs.METH_PATCH, upload, headers, self._metered(piece, start), length=len(piece))
        match answer.status:
            case 200 | 204:
                pass
            case 404 | 410:
                raise _Gone
            # Somebody is writing still, which may be our own broken connection; or the server is elsewhere than we think.
            case 409 | 423 | 460:
                raise Failed("the server is at another place in the upload", status=answer.status)
            case _:
                raise refusal(self._what, answer)
        self._length_told |= telling
        if not _is_complete(answer):
            self._move(answer, start, end)
            if self._offset < end and self._offset == start:
                raise Failed("the server took nothing")
        return answer

    async def _status(self, upload: Place) -> Answer:
        """Asks the server how far it is."""
        answer = await self._patience.retried(lambda: self._ask(hdrs.METH_HEAD, upload))
        if answer.status in {404, 410}:
            raise _Gone
        if answer.status not in {200, 204}:
            raise refusal(self._what, answer)
        if not _is_complete(answer):
            self._move(answer, 0, self._sent)
        return answer

    def _move(self, answer: Answer, least: int, most: int) -> None:
        """Goes to where the answer says that the server is."""
        offset = answer.number(_OFFSET)
        if offset is None or not least <= offset <= most:
            raise SyncError(f"{self._what}: the server claims to have what it was not sent")
        if not self._source.has(offset):
            raise SyncError(f"{self._what}: the server lost data that cannot be read again")
        self._offset = offset
        self._patience.reached(offset)

    async def _metered(self, piece: memoryview, start: int) -> AsyncGenerator[memoryview]:
        at = start
        for block in in_blocks(piece):
            yield block
            at += len(block)
            self._meter.at(at)

    async def _ask(self, method: str, place: Place, headers: dict[str, str] | None = None) -> Answer:
        return await self._http.ask(method, place, {**_VERSION, **(headers or {})})

    async def _discard(self, upload: Place) -> None:
        with suppress(Exception):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._ask(hdrs.METH_DELETE, upload)


async def is_offered(http: Http, server: Place, source: Source, patience: Patience) -> bool:
    """Whether a server takes this source by tus.

    Raises:
        PayloadTooLarge: the server says that it is too large.
        SyncError: the server refuses to be asked.
        NetworkError: it cannot be reached.
    """
    answer = await patience.retried(lambda: http.ask(hdrs.METH_OPTIONS, server.below("upload"), _VERSION))
    patience.answered()
    if answer.status in {401, 403}:
        raise refusal(f"upload to {server.server}", answer)
    versions = _words(answer, "Tus-Version")
    extensions = _words(answer, "Tus-Extension")
    needed = {"creation"} if source.size is not None else {"creation", "creation-defer-length"}
    if answer.status not in {200, 204} or "1.0.0" not in versions or not needed <= extensions:
        return False
    most = answer.number("Tus-Max-Size")
    if most is not None:
        source.limit = most if source.limit is None else min(source.limit, most)
        source.check_limit(source.size or 0)
    return True


def _is_complete(answer: Answer) -> bool:
    return hdrs.CONTENT_LOCATION in answer.headers


def _words(answer: Answer, name: str) -> set[str]:
    return {word.strip() for word in answer.headers.get(name, "").split(",")}
