"""What the server answers: which resource a path means, and how every answer ends up."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from aiohttp import hdrs, web

from xmtp_history.server import _cors, _uploads
from xmtp_history.server import _problems as problems
from xmtp_history.server._access import shown_token
from xmtp_history.server._downloads import Downloads
from xmtp_history.server._exchange import Exchange
from xmtp_history.server._limits import client_key
from xmtp_history.server._problems import Refused
from xmtp_history.server._tus import OVERRIDE, VERSION, Tus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xmtp_history.server._body import Body
    from xmtp_history.server._exchange import House

_Handler: TypeAlias = "Callable[[Exchange], Awaitable[web.StreamResponse]]"

#: An id of a resumable upload.
_UPLOAD_ID = re.compile("[0-9a-f]{32}", re.ASCII)
_TOKEN = re.compile(r"/t/([^/]+)(/.*)", re.ASCII)

#: How long the storage is taken to be ready, or not, after it was looked at, seconds.
_READY_SECONDS = 5.0

_logger = logging.getLogger("xmtp_history.server")
_requests = logging.getLogger("xmtp_history.server.requests")


class Service:
    """Answers requests."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._tus = Tus(house)
        self._downloads = Downloads(house)
        self._draining = False
        self._running: set[asyncio.Task[object]] = set()
        self._ready = False
        self._ready_at = float("-inf")
        self._probing = asyncio.Lock()
        #: The resources whose paths are always the same.
        self._fixed: dict[str, tuple[str, dict[str, _Handler]]] = {
            "/": ("health", {hdrs.METH_GET: _alive}),
            "/healthz": ("health", {hdrs.METH_GET: _alive, hdrs.METH_HEAD: _alive}),
            "/readyz": ("ready", {hdrs.METH_GET: self._readiness, hdrs.METH_HEAD: self._readiness}),
            "/upload": ("upload", {hdrs.METH_POST: self._post, hdrs.METH_OPTIONS: self._options}),
        }

    @property
    def downloads(self) -> Downloads:
        """The downloads that are going on."""
        return self._downloads

    async def answer(self, request: web.BaseRequest, body: Body) -> web.StreamResponse:
        """The answer to a request, whatever happens."""
        task = asyncio.current_task()
        if task is not None:
            # The task goes on after this method, until the answer is sent.
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        exchange = Exchange(request, body, request.method)
        status: int | None = None
        try:
            response = await self._answer(exchange)
            status = response.status
        finally:
            self._note(exchange, status)
        if not response.prepared:
            exchange.dress(response)
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

    async def ready(self) -> bool:
        """Whether uploads and downloads would work now."""
        if self._draining:
            return False
        async with self._probing:
            clock = asyncio.get_running_loop().time
            if clock() - self._ready_at >= _READY_SECONDS:
                try:
                    with self._house.metrics.storage("probe"):
                        async with asyncio.timeout(_READY_SECONDS):
                            await self._house.storage.probe()
                    self._ready = True
                except (OSError, TimeoutError) as error:
                    self._ready = False
                    _logger.error("the storage is not ready: %s", problems.cause(error))  # noqa: TRY400 - enough
                self._ready_at = clock()
        return self._ready

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._route(exchange)
        except Refused as refused:
            if not exchange.body.done:
                exchange.aborted = refused.kind
            return self._refuse(exchange, refused)
        except OSError as error:
            return self._refuse(exchange, problems.storage_failed(error))
        except asyncio.CancelledError:
            exchange.aborted = "shutdown"
            raise
        except Exception:
            _logger.exception("a request failed")
            return self._refuse(exchange, problems.internal())

    @staticmethod
    def _refuse(exchange: Exchange, refused: Refused) -> web.Response:
        response = problems.answer(refused)
        if VERSION in exchange.request.headers or exchange.route == "resumable":
            response.headers[VERSION] = "1.0.0"
        return response

    async def _route(self, exchange: Exchange) -> web.StreamResponse:
        request = exchange.request
        if not request.content.is_eof():
            # aiohttp understood what _framing did not.
            raise problems.bad_request("Say in one way only how long the body is.")
        if self._draining:
            raise problems.unavailable("stopping", "The server is stopping.")
        if _cors.is_preflight(request):
            return _cors.preflight(request)
        path, token = self._enter(exchange)
        exchange.route, handlers = self._handlers(path)
        if not handlers:
            raise problems.not_found()
        self._check_token(exchange, token)
        if exchange.route == "resumable":
            exchange.method = request.headers.get(OVERRIDE, exchange.method)
        handler = handlers.get(exchange.method)
        if handler is None:
            methods = ", ".join(handlers)
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "method", f"Use {methods}.", {hdrs.ALLOW: methods})
        return await handler(exchange)

    def _enter(self, exchange: Exchange) -> tuple[str, str | None]:
        """The path below prefix and token, and that token; notes what stood before, and whose request it is."""
        policy, request = self._house.policy, exchange.request
        exchange.client = client_key(policy.proxies.client(request))
        # A server URL that ends in a slash makes clients ask for "//upload".
        path = re.sub("/{2,}", "/", request.rel_url.raw_path)
        if policy.prefix:
            if path == policy.prefix:
                path += "/"
            if not path.startswith(policy.prefix + "/"):
                raise problems.not_found()
            exchange.before = policy.prefix
            path = path.removeprefix(policy.prefix)
        if policy.tokens is not None and (found := _TOKEN.fullmatch(path)):
            exchange.before += f"/t/{found[1]}"
            return found[2], unquote(found[1])
        return path, None

    def _check_token(self, exchange: Exchange, in_path: str | None) -> None:
        """Checks the token that a request has to show, if it has to. A resumable upload's own URL is as good as one."""
        policy = self._house.policy
        guarded = exchange.route == "upload" or (policy.token_for_downloads and exchange.route == "file")
        if policy.tokens is not None and guarded and exchange.method != hdrs.METH_OPTIONS:
            exchange.token = policy.tokens.check(shown_token(exchange.request, in_path))
            exchange.client = f"token {exchange.token}"

    def _handlers(self, path: str) -> tuple[str, dict[str, _Handler]]:
        """The name of a resource, and what its methods do. Nothing: there is no such resource."""
        if path in self._fixed:
            return self._fixed[path]
        folder, _, name = path.rpartition("/")
        if folder == "/upload" and _UPLOAD_ID.fullmatch(name):
            return "resumable", {
                hdrs.METH_HEAD: partial(self._tus.head, upload_id=name),
                hdrs.METH_PATCH: partial(self._tus.patch, upload_id=name),
                hdrs.METH_DELETE: partial(self._tus.delete, upload_id=name),
                hdrs.METH_OPTIONS: self._options,
            }
        if folder == "/files" and name:
            get = partial(self._downloads.get, name=name)
            delete = partial(self._downloads.delete, name=name)
            return "file", {hdrs.METH_GET: get, hdrs.METH_HEAD: get, hdrs.METH_DELETE: delete}
        return "other", {}

    async def _post(self, exchange: Exchange) -> web.StreamResponse:
        if VERSION in exchange.request.headers:
            exchange.route = "resumable"
            return await self._tus.create(exchange)
        return await _uploads.upload(self._house, exchange)

    async def _options(self, exchange: Exchange) -> web.StreamResponse:
        return self._tus.options(exchange)

    async def _readiness(self, _exchange: Exchange) -> web.StreamResponse:
        if not await self.ready():
            raise problems.unavailable("not-ready", "The storage does not work.")
        return web.Response()

    def _note(self, exchange: Exchange, status: int | None) -> None:
        """Counts a request, and logs it: its kind, never its path, for ids are secrets."""
        metrics = self._house.metrics
        seconds = time.perf_counter() - exchange.began
        method = exchange.method if exchange.method in _METHODS else "other"
        metrics.requests.labels(exchange.route, method, status or "none").inc()
        metrics.seconds.labels(exchange.route).observe(seconds)
        metrics.received.inc(exchange.body.received)
        metrics.sent.inc(exchange.sent)
        if exchange.aborted is not None:
            metrics.aborted.labels(exchange.route, exchange.aborted).inc()
        if _requests.isEnabledFor(logging.INFO):
            fields = {
                "request": exchange.request_id,
                "route": exchange.route,
                "method": method,
                "status": status,
                "id": exchange.short_id,
                "token": exchange.token,
                "received": exchange.body.received,
                "sent": exchange.sent,
                "seconds": round(seconds, 6),
                "aborted": exchange.aborted,
            }
            text = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
            _requests.info("%s", text, extra={"fields": fields})


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})


async def _alive(_exchange: Exchange) -> web.StreamResponse:
    return web.Response()
