"""Requests to a history server: how they are sent, and which failures are worth another try."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Self
from urllib.request import getproxies, proxy_bypass

from aiohttp import (
    ClientConnectorCertificateError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    ServerTimeoutError,
    TraceConfig,
    hdrs,
)
from yarl import URL

from xmtp_history._errors import NetworkError, PayloadTooLarge, SyncError
from xmtp_history._ffi import __version__
from xmtp_history.sync import _urls
from xmtp_history.sync._retry import Failed, asked_wait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from types import TracebackType

    from aiohttp import ClientResponse

    from xmtp_history.sync._urls import Place

#: Longest time without a byte in either direction, seconds.
STALL_SECONDS = 120.0

#: Longest time until one address of the server accepts a connection, seconds.
_CONNECT_SECONDS = 30.0

#: Answers that may be another one the next time. 507 is not among them: what is stored now stays for days.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
#: What is below says that all went well.
_FIRST_REDIRECT = 300
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 10
#: More of the body of an answer is not looked at.
_ANSWER_BYTES = 1024
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

_HEADERS = {
    hdrs.ACCEPT: "*/*",
    # Archives are compressed, and a range of a compressed body is a range of something else.
    hdrs.ACCEPT_ENCODING: "identity",
    hdrs.USER_AGENT: f"xmtp-history/{__version__}",
}


class Answer:
    """A whole answer.

    Attributes:
        status: the HTTP status.
        headers: its headers.
        body: the beginning of its body.
    """

    def __init__(self, response: ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self.body = body

    def number(self, name: str) -> int | None:
        """A header that is a number of bytes, or None."""
        return number(self.headers.get(name))


class Http:
    """The connections of one transfer.

    Proxies are those of the environment. Cookies and ``.netrc`` are left alone: the only credentials are those that came
    with the URL.

    Attributes:
        stall_seconds: longest time without a byte in either direction.
        requests: how many were sent, also those that aiohttp sends again by itself when a connection is closed under it.
    """

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self.requests = 0

    async def __aenter__(self) -> Self:
        trace = TraceConfig()
        trace.on_request_headers_sent.append(self._count)
        self._session = ClientSession(
            headers=_HEADERS,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            # All other time is kept here, where it is known what is being waited for.
            timeout=ClientTimeout(total=None, connect=None, sock_connect=_CONNECT_SECONDS, sock_read=None),
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, method: str, place: Place, headers: Mapping[str, str] | None = None) -> Answer:
        """Sends a request without a body.

        Raises:
            Failed: there is no answer, or one that may be different the next time.
        """
        with failures(place.url, self.stall_seconds):
            async with asyncio.timeout(self.stall_seconds):
                return await self._answer(method, place, headers or {}, None)

    async def send(
        self,
        method: str,
        place: Place,
        headers: Mapping[str, str],
        blocks: AsyncGenerator[memoryview],
        *,
        length: int | None,
    ) -> Answer:
        """Sends a request with a body of ``length`` bytes (None: until it ends), less of it if the answer comes early.

        The blocks are made in the caller's task, so that what goes wrong there arrives unchanged, and is over with the call.

        Raises:
            Failed: there is no answer, or one that may be different the next time.
        """
        body = _Body(length)
        if length is not None:
            headers = {**headers, hdrs.CONTENT_LENGTH: str(length)}
        sending = asyncio.create_task(self._answer(method, place, headers, body))
        sending.add_done_callback(body.refuse)
        try:
            async with aclosing(blocks):
                async for block in blocks:
                    with failures(place.url, self.stall_seconds):
                        async with asyncio.timeout(self.stall_seconds):
                            taken = await body.put(block)
                    if not taken:
                        break
            # The end of the body is still in the buffers of the system, and goes as slowly as the rest did.
            patience = 2 * self.stall_seconds
            with failures(place.url, patience):
                async with asyncio.timeout(patience):
                    await body.put(None)
                    return await sending
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait([sending])
            if not sending.cancelled():
                # So that nobody complains that an exception was never looked at.
                sending.exception()

    async def get(self, place: Place, headers: Mapping[str, str]) -> ClientResponse:
        """Sends a request for a body, and follows redirects; whatever the last status is, the caller closes the response.

        Credentials are for the server that the URL names: a redirect gets none, wherever it leads.

        Raises:
            Failed: there is no answer, or one that may be different the next time.
            SyncError: a redirect leads where it may not.
        """
        at = place
        for _ in range(_MOST_REDIRECTS + 1):
            with failures(at.url, self.stall_seconds):
                async with asyncio.timeout(self.stall_seconds):
                    response = await self._request(hdrs.METH_GET, at, headers, None)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            at = _urls.Place(_urls.redirected(at.url, response.headers.get(hdrs.LOCATION)))
        raise SyncError(f"{place.archive}: more than {_MOST_REDIRECTS} redirects")

    async def _count(self, _session: ClientSession, _context: object, _sent: object) -> None:
        self.requests += 1

    async def _answer(self, method: str, place: Place, headers: Mapping[str, str], body: _Body | None) -> Answer:
        async with await self._request(method, place, headers, body) as response:
            answer = Answer(response, await _beginning(response))
            if body is not None and not body.taken:
                response.close()
                if answer.status < _FIRST_REDIRECT:
                    raise Failed("the server answered before it had everything")
        return answer

    async def _request(
        self, method: str, place: Place, headers: Mapping[str, str], body: _Body | None
    ) -> ClientResponse:
        proxy, for_proxy = _proxy(place.url)
        tunnelled = place.url.scheme == "https"
        response = await self._session.request(
            method,
            place.url,
            headers={**headers, **place.headers, **({} if tunnelled else for_proxy)},
            data=body,
            allow_redirects=False,
            proxy=proxy,
            proxy_headers=for_proxy if tunnelled else None,
        )
        if response.status in _TRANSIENT:
            response.close()
            raise Failed(f"status {response.status}", status=response.status, wait=asked_wait(response.headers))
        return response


class _Body:
    """The blocks of a body on their way from the caller's task to the connection: one at a time.

    Attributes:
        taken: whether the connection has had everything.
    """

    def __init__(self, length: int | None) -> None:
        self.taken = length == 0
        self._missing = length
        self._blocks: asyncio.Queue[memoryview | None] = asyncio.Queue(1)
        self._refused = False

    async def put(self, block: memoryview | None) -> bool:
        """Waits until there is room for a block (None: the end); False once nobody takes any."""
        if not self._refused:
            await self._blocks.put(block)
        return not self._refused

    def refuse(self, _request: asyncio.Future[Answer]) -> None:
        """No more blocks are taken; a block that waits for room has it."""
        self._refused = True
        if not self._blocks.empty():
            self._blocks.get_nowait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        block = None if self.taken else await self._blocks.get()
        if block is None:
            self.taken = True
            raise StopAsyncIteration
        if self._missing is not None:
            # The server knows the length too, and may answer before we come to the end that follows the last block.
            self._missing -= len(block)
            self.taken = self._missing <= 0
        return block


def number(text: str | None) -> int | None:
    """A number of bytes as servers write it, or None where there is none, or something else."""
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def refusal(what: str, answer: Answer | ClientResponse) -> SyncError:
    """The error that an answer stands for which another try will not change. Nothing in it is the server's own words."""
    status = answer.status
    match status:
        case 401 | 403:
            reason = "the server wants a token, or another one"
        case 413:
            most = number(answer.headers.get("Tus-Max-Size"))
            limit = "" if most is None else f", which are {most:,} bytes"
            return PayloadTooLarge(f"{what}: the archive is larger than the server takes{limit}", status=status)
        case 507:
            reason = "the server has no room for it"
        case _ if status in _REDIRECTS:
            reason = "the server redirects what cannot be sent twice; use the URL that it redirects to"
        case _:
            reason = "the server refuses"
    return SyncError(f"{what}: {reason} (status {status})", status=status)


@contextmanager
def failures(url: URL, stall_seconds: float) -> Generator[None]:
    """Makes one exception of all that can happen to a connection.

    Their own messages, and those of their causes, can hold whole URLs.
    """
    try:
        yield
    except ClientConnectorCertificateError:
        raise NetworkError(f"{url.origin()} has no certificate that can be trusted") from None
    except ServerTimeoutError:
        raise Failed("the server does not accept the connection") from None
    except TimeoutError:
        raise Failed(f"nothing happened for {stall_seconds:.0f} s") from None
    except OSError as error:
        # aiohttp and asyncio put words of their own in place of the system's; names that do not resolve have no number.
        code = error.errno or 0
        known = os.strerror(code) if code in errno.errorcode else error.strerror
        raise Failed(known or "the connection broke") from None
    except ClientError:
        raise Failed("the connection broke, or the server does not speak HTTP") from None


async def _beginning(response: ClientResponse) -> bytes:
    body = b""
    try:
        while len(body) < _ANSWER_BYTES and (data := await response.content.read(_ANSWER_BYTES - len(body))):
            body += data
    except ClientError:
        # Of an error the status is enough; a server that refuses what is still being sent often cuts its answer short.
        if response.status < _FIRST_REDIRECT:
            raise
    return body


def _proxy(url: URL) -> tuple[URL | None, dict[str, str]]:
    """The environment's proxy for a URL, and the headers for it.

    aiohttp would find it as well, but ask ``.netrc`` at the same time.
    """
    proxy = getproxies().get(url.scheme)
    if not proxy or proxy_bypass(url.host or ""):
        return None, {}
    parsed = URL(proxy)
    headers = {} if parsed.user is None else {"Proxy-Authorization": _urls.basic(parsed.user, parsed.password)}
    return parsed.with_user(None), headers
