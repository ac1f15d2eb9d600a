"""The bytes of an archive on a server, however often the connection breaks."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import TYPE_CHECKING, Self

from aiohttp import hdrs

from xmtp_history._errors import ArchiveExpired, ArchiveNotFound, PayloadTooLarge, SyncError
from xmtp_history.sync import _urls
from xmtp_history.sync._http import STALL_SECONDS, Http, failures, number, refusal
from xmtp_history.sync._retry import Failed, Patience

if TYPE_CHECKING:
    from types import TracebackType

    from aiohttp import ClientResponse

#: Largest archive that is downloaded unless the caller says otherwise, bytes.
MAX_BYTES = 4 * 1024**3

_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18}|\*)", re.ASCII)
_STRONG_TAG = re.compile(r'"[\x21\x23-\x7e]{1,256}"')
_SHA256_TAG = re.compile(r'"([0-9a-fA-F]{64})"', re.ASCII)


class ArchiveStream:
    """The bytes of an archive on a server, each exactly once and in order: an asynchronous context manager and iterator.

    Entering it sends the first request. Only the end of the iteration says that the bytes are complete. Not more than two
    reads of 64 KiB wait to be fetched, and the time until they are fetched does not count as the server's.

    Args:
        url: where the archive is.
        token: a token, where the server wants one also for downloads.
        max_bytes: a larger archive is refused, None for any size.
        stall_timeout: a try ends if nothing arrives for so many seconds.

    Attributes:
        size: size of the archive, or None while the server has not said it.
        received: how many bytes have been given.
        verified: whether their SHA-256 is the one that the server named; False until the end.

    Raises:
        ArchiveNotFound: see :func:`download_archive`, also for the others; raised on entering and while iterating.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        max_bytes: int | None = MAX_BYTES,
        stall_timeout: float = STALL_SECONDS,
    ) -> None:
        self.size: int | None = None
        self.received = 0
        self.verified = False
        self._place = _urls.archive(url, token)
        self._what = self._place.archive
        self._max_bytes = max_bytes
        self._http = Http(stall_timeout)
        self._patience = Patience(self._what)
        self._response: ClientResponse | None = None
        self._complete = False
        self._digest = hashlib.sha256()
        # The strong ETag that the archive had at first; it decides whether a later answer is about the same bytes.
        self._tag: str | None = None
        # Bytes to throw away, because they have been given already, and their digest.
        self._again = 0
        self._again_digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """SHA-256 of what was given, in hexadecimal."""
        return self._digest.hexdigest()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        try:
            await self._connected()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._complete:
            response = await self._connected()
            if response is None:
                break
            try:
                data = await self._read(response)
            except Failed as failed:
                await self._interrupted(failed)
                continue
            if data:
                data = self._without_known(data)
            else:
                await self._ended()
            if data:
                self._take(data)
                return data
        if self._response is not None:
            self._verify()
        raise StopAsyncIteration

    async def _close(self) -> None:
        self._drop()
        await self._http.__aexit__(None, None, None)

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _interrupted(self, failed: Failed) -> None:
        self._drop()
        await self._patience.wait(failed)

    async def _read(self, response: ClientResponse) -> bytes:
        with failures(self._place.url, self._http.stall_seconds):
            async with asyncio.timeout(self._http.stall_seconds):
                return await response.content.readany()

    async def _connected(self) -> ClientResponse | None:
        """The response that goes on where we are, from a new request if need be. None if there is nothing to go on with."""
        while self._response is None:
            headers: dict[str, str] = {}
            if self.received and self._tag is not None:
                headers = {hdrs.RANGE: f"bytes={self.received}-", hdrs.IF_RANGE: self._tag}
            try:
                response = await self._http.get(self._place, headers)
            except Failed as failed:
                await self._patience.wait(failed)
                continue
            self._response = response
            self._patience.answered()
            self._look_at(response)
        return None if self._complete else self._response

    def _look_at(self, response: ClientResponse) -> None:
        """Checks that an answer goes on where we are, and how large the archive is."""
        start: int | None
        match response.status:
            case 200:
                start, size = 0, response.content_length
            case 206 if self.received:
                start, size = self._range(response)
                if size is None:
                    raise SyncError(f"{self._what}: the server sends a part of it, and does not say of how much")
            case 416 if self.received and self._range(response) == (None, self.received):
                # There was nothing left to send but the end.
                self._complete = True
                return
            case _:
                raise self._refused(response)
        if response.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise SyncError(f"{self._what}: the server sends it encoded, which it was asked not to do")
        tag = response.headers.get(hdrs.ETAG, "")
        strong_tag = tag if _STRONG_TAG.fullmatch(tag) else None
        if start not in {0, self.received} or _differ(self.size, size) or _differ(self._tag, strong_tag):
            raise self._changed()
        self._tag = self._tag or strong_tag
        self.size = size if self.size is None else self.size
        self._check_size(self.size or 0)
        self._again = self.received if start == 0 else 0
        self._again_digest = hashlib.sha256()

    def _refused(self, response: ClientResponse) -> SyncError:
        match response.status:
            case 404:
                return ArchiveNotFound(f"{self._what}: the server does not have it", status=404)
            case 410:
                return ArchiveExpired(f"{self._what}: the server does not have it any more", status=410)
            case 412 | 416 if self.received:
                return self._changed()
            case _:
                return refusal(self._what, response)

    def _range(self, response: ClientResponse) -> tuple[int | None, int | None]:
        """First byte and size of the whole, as the answer to a range says them; None where it names none."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            raise SyncError(f"{self._what}: the server sends a part of it, and does not say which")
        return number(found[1]), number(found[3])

    def _without_known(self, data: bytes) -> bytes:
        """What is new of the data, where a server begins again at the start."""
        if not self._again:
            return data
        known, data = data[: self._again], data[self._again :]
        self._again_digest.update(known)
        self._again -= len(known)
        if not self._again and self._again_digest.digest() != self._digest.digest():
            raise self._changed()
        return data

    def _take(self, data: bytes) -> None:
        received = self.received + len(data)
        self._check_size(received)
        if self.size is not None and received > self.size:
            raise SyncError(f"{self._what}: the server sends more than it said")
        self._digest.update(data)
        self.received = received
        self._patience.reached(received)

    def _check_size(self, size: int) -> None:
        if self._max_bytes is not None and size > self._max_bytes:
            raise PayloadTooLarge(f"{self._what}: it is larger than {self._max_bytes:,} bytes, the most allowed")

    async def _ended(self) -> None:
        """The body is over; is it all?"""
        if self._again or (self.size is not None and self.received < self.size):
            await self._interrupted(Failed("the connection ended too early"))
        else:
            self._complete = True

    def _verify(self) -> None:
        """Checks the digest, if the server named one. Called once."""
        self._drop()
        named = _SHA256_TAG.fullmatch(self._tag or "")
        if named is None:
            return
        if named[1].lower() != self.sha256:
            raise SyncError(f"{self._what}: it arrived damaged, its SHA-256 is not the one that the server names")
        self.verified = True

    def _changed(self) -> SyncError:
        return SyncError(f"{self._what}: it changed while it was downloaded")


def _differ(before: object, now: object) -> bool:
    """Whether two answers contradict each other; one that says nothing contradicts nothing."""
    return before is not None and now is not None and before != now
