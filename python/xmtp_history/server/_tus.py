"""Resumable uploads by tus 1.0.0 (https://tus.io/protocols/resumable-upload), beside plain ones and at the same URL.

Core, creation (with upload, with deferred length), expiration, termination and checksum. An upload is a resource with a
secret URL; when it is complete, it has become a file like any other, and ``Content-Location`` says which.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from contextlib import asynccontextmanager
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from xmtp_history.server import _problems as problems
from xmtp_history.server._body import pour
from xmtp_history.server._problems import Refused
from xmtp_history.server._uploads import CAPABILITY
from xmtp_history.server.storage import NewFile, ResumableInfo, UploadBusy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xmtp_history.server._exchange import Exchange, House
    from xmtp_history.server.storage import ResumableUpload

VERSION = "Tus-Resumable"
OVERRIDE = "X-HTTP-Method-Override"
_OFFSET = "Upload-Offset"
_LENGTH = "Upload-Length"
_DEFER = "Upload-Defer-Length"
_METADATA = "Upload-Metadata"
_CHECKSUM = "Upload-Checksum"
_EXPIRES = "Upload-Expires"

_SPOKEN = "1.0.0"
_EXTENSIONS = "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum"
_HASHES = ("sha1", "sha256", "sha512", "md5")
_CONTENT_TYPE = "application/offset+octet-stream"

#: Longest metadata that are kept for a client, characters. Nothing needs them.
_METADATA_CHARACTERS = 2_048

_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class _Checksum:
    """What the client says that this part of the file hashes to."""

    def __init__(self, header: str) -> None:
        name, _, encoded = header.partition(" ")
        if name not in _HASHES:
            raise problems.bad_request(f"Use one of {', '.join(_HASHES)}.")
        try:
            self._expected = base64.b64decode(encoded.strip(), validate=True)
        except ValueError:
            raise problems.bad_request("The checksum is not in base64.") from None
        self._digest = hashlib.new(name, usedforsecurity=False)

    def update(self, data: bytes | memoryview) -> None:
        self._digest.update(data)

    def check(self) -> None:
        """Refuses what has another one."""
        if self._digest.digest() != self._expected:
            raise Refused(460, "checksum-mismatch", "Checksum mismatch.")


class Tus:
    """Creates and continues resumable uploads."""

    def __init__(self, house: House) -> None:
        self._house = house
        #: What works on each upload: its connection, and when it is done with it.
        self._working: dict[str, tuple[asyncio.Transport | None, asyncio.Event]] = {}

    def options(self, _exchange: Exchange) -> web.StreamResponse:
        """What is spoken here."""
        headers = {
            VERSION: _SPOKEN,
            "Tus-Version": _SPOKEN,
            "Tus-Extension": _EXTENSIONS,
            "Tus-Checksum-Algorithm": ",".join(_HASHES),
        }
        if self._house.limits.max_file_bytes is not None:
            headers["Tus-Max-Size"] = str(self._house.limits.max_file_bytes)
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    async def create(self, exchange: Exchange) -> web.StreamResponse:
        """Begins an upload; what the request has for a body is its beginning."""
        request = exchange.request
        _check_version(request)
        length = _number(request, _LENGTH)
        if (length is None) == (request.headers.get(_DEFER) is None) or request.headers.get(_DEFER, "1") != "1":
            raise problems.bad_request(f"Give either {_LENGTH} or {_DEFER}: 1.")
        metadata = request.headers.get(_METADATA, "")
        if len(metadata) > _METADATA_CHARACTERS or not (metadata.isascii() and metadata.isprintable()):
            raise problems.bad_request(f"{_METADATA} has at most {_METADATA_CHARACTERS} printable characters.")
        house = self._house
        if length is not None:
            house.limits.check_size(length)
        with house.admission.upload(exchange.client):
            await house.ledger.admit(length or 0)
            now = house.clock.now()
            info = ResumableInfo(NewFile.random(), length, metadata, now)
            with house.metrics.storage("create"):
                upload_id, upload = await house.storage.create_resumable(info)
            exchange.short_id = upload_id[:8]
            async with self._alone(upload_id, exchange), _released(upload):
                try:
                    if request.content_type == _CONTENT_TYPE:
                        await self._receive(exchange, upload)
                    await self._finish(upload)
                except BaseException:
                    # The client has not been told where it is.
                    await asyncio.shield(self._remove(upload))
                    raise
                headers = self._headers(exchange, upload) | {
                    hdrs.LOCATION: f"{exchange.before}/upload/{upload_id}",
                    _OFFSET: str(upload.offset),
                }
        return web.Response(status=HTTPStatus.CREATED, headers=headers)

    async def head(self, exchange: Exchange, upload_id: str) -> web.StreamResponse:
        """How far an upload has come."""
        _check_version(exchange.request)
        async with self._resumed(exchange, upload_id) as upload:
            await self._finish(upload)
            headers = self._headers(exchange, upload) | {
                _OFFSET: str(upload.offset),
                hdrs.CACHE_CONTROL: "no-store",
            }
            if upload.info.length is None:
                headers[_DEFER] = "1"
            else:
                headers[_LENGTH] = str(upload.info.length)
            if upload.info.metadata:
                headers[_METADATA] = upload.info.metadata
        return web.Response(headers=headers)

    async def patch(self, exchange: Exchange, upload_id: str) -> web.StreamResponse:
        """Continues an upload."""
        request = exchange.request
        _check_version(request)
        if request.content_type != _CONTENT_TYPE:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "media-type", f"Use {_CONTENT_TYPE}.")
        offset = _number(request, _OFFSET)
        if offset is None:
            raise problems.bad_request(f"{_OFFSET} is missing.")
        length = _number(request, _LENGTH)
        with self._house.admission.upload(exchange.client, counted=False):
            async with self._resumed(exchange, upload_id) as upload:
                if offset != upload.offset:
                    raise _conflict(upload.offset)
                if length is not None:
                    await self._set_length(upload, length)
                await self._receive(exchange, upload)
                await self._finish(upload)
                headers = self._headers(exchange, upload) | {_OFFSET: str(upload.offset)}
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    async def delete(self, exchange: Exchange, upload_id: str) -> web.StreamResponse:
        """Ends an upload, and removes what it has become."""
        _check_version(exchange.request)
        async with self._resumed(exchange, upload_id) as upload:
            await self._remove(upload)
        return web.Response(status=HTTPStatus.NO_CONTENT, headers={VERSION: _SPOKEN})

    async def _remove(self, upload: ResumableUpload) -> None:
        if upload.committed:
            if await self._house.storage.delete(upload.info.new.file_id):
                self._house.ledger.add(-1, -upload.offset)
        else:
            self._house.ledger.add(0, -upload.offset)
        await upload.discard()

    async def _set_length(self, upload: ResumableUpload, length: int) -> None:
        if upload.info.length == length:
            return
        if upload.info.length is not None or length < upload.offset:
            raise problems.bad_request(f"{_LENGTH} cannot be changed.")
        self._house.limits.check_size(length)
        await self._house.ledger.admit(length - upload.offset)
        await upload.set_length(length)

    async def _receive(self, exchange: Exchange, upload: ResumableUpload) -> None:
        """Appends a body. What has arrived of it stays when it breaks off, unless it had a checksum to keep to."""
        house = self._house
        header = exchange.request.headers.get(_CHECKSUM)
        checksum = None if header is None else _Checksum(header)
        body = exchange.body
        start = upload.offset
        if body.length is not None:
            _check_room(upload, start + body.length)
            house.limits.check_size(start + body.length)
        await body.invite(exchange.request)
        pending = 0

        async def account(size: int) -> None:
            nonlocal pending
            _check_room(upload, start + body.received)
            house.limits.check_size(start + body.received)
            pending += size
            await house.ledger.grow(size)

        async def write(data: bytes | memoryview) -> None:
            if checksum is not None:
                checksum.update(data)
            await upload.write(data)

        try:
            last = await pour(body, house.pieces, account, write, keep=True)
            if last:
                await write(last)
            if checksum is not None:
                checksum.check()
        except BaseException:
            if checksum is not None and not upload.committed:
                await asyncio.shield(upload.truncate(start))
            raise
        finally:
            house.ledger.shrink(pending)
            try:
                # One that is complete takes nothing more, and clients may say so once more.
                if not upload.committed:
                    await asyncio.shield(upload.flush())
            finally:
                house.ledger.add(0, upload.offset - start)

    async def _finish(self, upload: ResumableUpload) -> None:
        """Makes a file of an upload that is complete, also where an earlier process died before it did."""
        if upload.offset == upload.info.length and not upload.committed:
            with self._house.metrics.storage("commit"):
                await upload.commit()
            self._house.ledger.add(1, 0)

    def _headers(self, exchange: Exchange, upload: ResumableUpload) -> dict[str, str]:
        headers = {VERSION: _SPOKEN}
        if upload.sha256 is not None:
            new = upload.info.new
            headers[hdrs.ETAG] = f'"{upload.sha256.hex()}"'
            headers[hdrs.CONTENT_LOCATION] = f"{exchange.before}/files/{new.file_id}"
            headers[CAPABILITY] = new.capability
        else:
            headers[_EXPIRES] = formatdate(self._expires(upload.info), usegmt=True)
        return headers

    def _expires(self, info: ResumableInfo) -> float:
        return info.created + self._house.policy.resumable_seconds

    @asynccontextmanager
    async def _resumed(self, exchange: Exchange, upload_id: str) -> AsyncIterator[ResumableUpload]:
        """The upload, for this request alone."""
        exchange.short_id = upload_id[:8]
        async with self._alone(upload_id, exchange):
            try:
                with self._house.metrics.storage("resume"):
                    upload = await self._house.storage.resume(upload_id)
            except UploadBusy:
                raise _busy() from None
            if upload is None:
                raise problems.not_found()
            async with _released(upload):
                if self._house.clock.now() >= self._expires(upload.info):
                    raise Refused(HTTPStatus.GONE, "upload-expired", "The upload has expired.")
                try:
                    yield upload
                except UploadBusy:
                    raise _busy() from None

    @asynccontextmanager
    async def _alone(self, upload_id: str, exchange: Exchange) -> AsyncIterator[None]:
        """Ends the connection of whoever works on this upload: it is a client's earlier try, which it has given up."""
        while (working := self._working.get(upload_id)) is not None:
            transport, done = working
            if transport is not None:
                transport.abort()
            await done.wait()
        done = asyncio.Event()
        self._working[upload_id] = exchange.request.transport, done
        try:
            yield
        finally:
            del self._working[upload_id]
            done.set()


@asynccontextmanager
async def _released(upload: ResumableUpload) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await asyncio.shield(upload.release())


def _check_version(request: web.BaseRequest) -> None:
    if request.headers.get(VERSION) != _SPOKEN:
        detail = f"This server speaks tus {_SPOKEN}."
        raise Refused(HTTPStatus.PRECONDITION_FAILED, "tus-version", detail, {"Tus-Version": _SPOKEN})


def _number(request: web.BaseRequest, name: str) -> int | None:
    value = request.headers.get(name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value):
        raise problems.bad_request(f"{name} is not a number of bytes.")
    return int(value)


def _check_room(upload: ResumableUpload, size: int) -> None:
    if upload.info.length is not None and size > upload.info.length:
        raise problems.bad_request(f"That is more than {_LENGTH} said.")


def _conflict(offset: int) -> Refused:
    return Refused(HTTPStatus.CONFLICT, "wrong-offset", "The upload is at another offset.", {_OFFSET: str(offset)})


def _busy() -> Refused:
    return Refused(HTTPStatus.LOCKED, "upload-busy", "Another server works on this upload.")
