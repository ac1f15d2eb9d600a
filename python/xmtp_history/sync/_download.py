"""Downloading an archive, over any number of interruptions."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from xmtp_history import _io
from xmtp_history._threads import in_thread
from xmtp_history._types import DownloadedArchive
from xmtp_history.sync._http import STALL_SECONDS
from xmtp_history.sync._progress import Meter
from xmtp_history.sync._stream import MAX_BYTES, ArchiveStream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from xmtp_history._io import OnProgress, Target, _Writable

#: Bytes gathered before they are written.
_GATHER_BYTES = 1024 * 1024


async def download_archive(
    url: str,
    target: Target,
    *,
    token: str | None = None,
    max_bytes: int | None = MAX_BYTES,
    on_progress: OnProgress | None = None,
    stall_timeout: float = STALL_SECONDS,
) -> DownloadedArchive:
    """Downloads an archive from a history server.

    After an interruption the download goes on where it was. Connection errors, 408, 429 and 5xx are tried again, with
    growing delays. Redirects are followed, also to other servers, but not to another scheme, and without credentials.

    Args:
        url: where the archive is; a user and password (sent as Basic authentication) may be in it.
        target: a path, which is replaced in one step once everything is there, or a binary file object, in which a part
            stays if the download fails.
        token: a token, where the server wants one also for downloads; sent as Bearer authentication.
        max_bytes: a larger archive is refused, None for any size.
        on_progress: called at most ten times a second.
        stall_timeout: a try ends if nothing arrives for so many seconds. There is no limit for the whole.

    Raises:
        ArchiveNotFound: the server does not have the archive.
        ArchiveExpired: it does not have it any more.
        PayloadTooLarge: the archive is larger than ``max_bytes``.
        SyncError: the server refuses, or what it sends is not what it was.
        NetworkError: the server cannot be reached, or keeps failing.
        OSError: the target cannot be written.
        TypeError: the target is none of the kinds.
        ValueError: the URL or the token cannot be used.
    """
    async with (
        # First what is wrong here, then what is wrong elsewhere.
        _writing(target) as file,
        ArchiveStream(url, token=token, max_bytes=max_bytes, stall_timeout=stall_timeout) as stream,
    ):
        meter = Meter("download", on_progress, stream.size)
        gathered = bytearray()
        async for chunk in stream:
            gathered += chunk
            if len(gathered) >= _GATHER_BYTES:
                await in_thread(partial(_io.write_all, file, memoryview(gathered)))
                gathered = bytearray()
            meter.total = stream.size
            meter.at(stream.received)
        await in_thread(partial(_io.write_all, file, memoryview(gathered)))
    meter.report(stream.received)
    return DownloadedArchive(stream.received, stream.sha256, stream.verified)


@asynccontextmanager
async def _writing(target: Target) -> AsyncGenerator[_Writable]:
    """As :func:`xmtp_history._io.writing`; syncing and renaming do not block the event loop."""
    place = _io.writing(target)
    file = place.__enter__()
    try:
        yield file
    except BaseException as error:
        await in_thread(partial(place.__exit__, type(error), error, error.__traceback__))
        raise
    await in_thread(partial(place.__exit__, None, None, None))
