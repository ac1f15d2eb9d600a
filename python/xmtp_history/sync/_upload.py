"""Uploading an archive, and deleting it again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import hdrs

from xmtp_history._errors import (
    ArchiveExpired,
    ArchiveNotFound,
    NetworkError,
    NoHistoryServer,
    PayloadTooLarge,
    SyncError,
)
from xmtp_history._types import UploadedArchive
from xmtp_history.sync import _urls
from xmtp_history.sync._http import STALL_SECONDS, Http, refusal
from xmtp_history.sync._progress import Meter
from xmtp_history.sync._retry import Failed, Patience
from xmtp_history.sync._sources import PIECE_BYTES, in_blocks, opened
from xmtp_history.sync._tus import TusUpload, is_offered

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from xmtp_history._io import OnProgress
    from xmtp_history.sync._http import Answer
    from xmtp_history.sync._sources import Source, UploadSource
    from xmtp_history.sync._urls import Place

#: What XMTP's reference server takes; above, it answers 400 and says nothing.
_REFERENCE_LIMIT = 15_000_000

# Ours are UUIDs; another server's only have to fit in a URL as they are.
_FILE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._~-]{7,127}", re.ASCII)
_CAPABILITY = re.compile(r"[\x21-\x7e]{1,256}")
_SHA256_TAG = re.compile(r'"([0-9a-f]{64})"', re.ASCII)


async def upload_archive(
    source: UploadSource,
    server_url: str,
    *,
    token: str | None = None,
    max_bytes: int | None = None,
    on_progress: OnProgress | None = None,
    stall_timeout: float = STALL_SECONDS,
) -> UploadedArchive:
    """Uploads an archive to a history server.

    Where the server can resume uploads (tus 1.0.0), one of more than 8 MiB survives any number of interruptions, for all
    kinds of sources. Elsewhere it is sent again from the start, except for a stream of more than 8 MiB. At most some
    8 MiB of the archive are in memory. Connection errors, 408, 429 and 5xx are tried again, with growing delays.

    Args:
        source: a path, bytes, a binary file object, which is read from where it stands, or an asynchronous iterable of
            bytes.
        server_url: the history server; a path, a final slash, and a user and password (sent as Basic authentication) may be
            in it.
        token: the server's upload token, where it wants one; sent as Bearer authentication.
        max_bytes: a larger archive is refused, None for any size.
        on_progress: called at most ten times a second.
        stall_timeout: a try ends if the server takes nothing and says nothing for so many seconds.

    Raises:
        PayloadTooLarge: the archive is larger than the server or ``max_bytes`` allows.
        NoHistoryServer: something else is at the URL.
        SyncError: the server refuses; ``status`` says why.
        NetworkError: the server cannot be reached, or keeps failing.
        OSError: the source cannot be read.
        TypeError: the source is none of the kinds.
        ValueError: the URL or the token cannot be used.
    """
    server = _urls.history_server(server_url, token)
    async with opened(source) as archive, Http(stall_timeout) as http:
        archive.limit = max_bytes
        # For a stream: is it a short one?
        await archive.piece(0)
        meter = Meter("upload", on_progress, archive.size)
        patience = Patience(f"upload to {server.server}")
        small = archive.size is not None and archive.size <= PIECE_BYTES
        if not small and await is_offered(http, server, archive, patience):
            answer = await TusUpload(http, server, archive, patience, meter).run()
            file_id = answer.headers[hdrs.CONTENT_LOCATION].rpartition("/")[2]
        else:
            answer = await _post(http, server, archive, patience, meter)
            file_id = answer.body.decode("ascii", "replace").strip()
        uploaded = _uploaded(server, archive, file_id, answer)
    meter.report(uploaded.size)
    return uploaded


async def delete_archive(
    url: str, capability: str, *, token: str | None = None, stall_timeout: float = STALL_SECONDS
) -> None:
    """Deletes an archive from a history server before it expires.

    Args:
        url: the archive's URL.
        capability: what the server gave out at the upload (``delete_capability``).
        token: the server's token, where it wants one.
        stall_timeout: a try ends if the server says nothing for so many seconds.

    Raises:
        ArchiveNotFound: the server does not have the archive.
        ArchiveExpired: it does not have it any more.
        SyncError: the server refuses: with status 403, the capability is not the archive's.
        NetworkError: the server cannot be reached, or keeps failing.
        ValueError: the URL, the token or the capability cannot be used.
    """
    place = _urls.archive(url, token)
    headers = {"Delete-Capability": _urls.header_value(capability, "delete capability")}
    patience = Patience(place.archive)
    async with Http(stall_timeout) as http:
        answer = await patience.retried(lambda: http.ask(hdrs.METH_DELETE, place, headers))
    match answer.status:
        case 200 | 202 | 204:
            return
        case 404 | 410 if http.requests > 1:
            # An earlier request was carried out, and its answer lost.
            return
        case 404:
            raise ArchiveNotFound(f"{place.archive}: the server does not have it", status=404)
        case 410:
            raise ArchiveExpired(f"{place.archive}: the server does not have it any more", status=410)
        case 403:
            raise SyncError(f"{place.archive}: the server does not accept the delete capability", status=403)
        case _:
            raise refusal(place.archive, answer)


async def _post(http: Http, server: Place, source: Source, patience: Patience, meter: Meter) -> Answer:
    """Uploads in one request, the way every history server takes it."""
    what = f"upload to {server.server}"

    async def post() -> Answer:
        headers = {"Content-Type": "application/octet-stream"}
        blocks = _metered(source, meter)
        try:
            return await http.send(hdrs.METH_POST, server.below("upload"), headers, blocks, length=source.size)
        except Failed as failed:
            if source.has(0):
                raise
            cause = f"{failed.cause}; the stream cannot be sent again, and the server cannot resume uploads"
            raise NetworkError(f"{what}: {cause}", status=failed.status) from None

    answer = await patience.retried(post)
    match answer.status:
        case 200 | 201:
            return answer
        case 404 | 405:
            raise NoHistoryServer(f"{what}: there is no history server at this URL", status=answer.status)
        case 400 if max(source.size or 0, source.seen) > _REFERENCE_LIMIT:
            raise PayloadTooLarge(f"{what}: the archive is probably larger than the server takes", status=400)
        case _:
            raise refusal(what, answer)


async def _metered(source: Source, meter: Meter) -> AsyncGenerator[memoryview]:
    at = 0
    while piece := await source.piece(at):
        for block in in_blocks(piece):
            yield block
            at += len(block)
            meter.at(at)


def _uploaded(server: Place, source: Source, file_id: str, answer: Answer) -> UploadedArchive:
    # The SDKs publish whatever is answered. An error page that says 200 would be an archive that nobody can fetch.
    if not _FILE_ID.fullmatch(file_id):
        raise NoHistoryServer(f"upload to {server.server}: what answers is not a history server", status=answer.status)
    tag = _SHA256_TAG.fullmatch(answer.headers.get(hdrs.ETAG, ""))
    if tag is not None and tag[1] != source.sha256:
        raise SyncError(f"upload to {server.server}: the server stored something else than it was sent")
    capability = answer.headers.get("Delete-Capability", "")
    return UploadedArchive(
        url=str(server.below(f"files/{file_id}").url),
        size=source.size or 0,
        sha256=source.sha256,
        delete_capability=capability if _CAPABILITY.fullmatch(capability) else None,
    )
