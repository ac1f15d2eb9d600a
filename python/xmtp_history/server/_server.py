"""The server: listens, and closes without breaking off what is nearly done."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from xmtp_history.server._access import Proxies
from xmtp_history.server._body import Pieces
from xmtp_history.server._clock import Clock
from xmtp_history.server._exchange import House, Policy
from xmtp_history.server._http import Service
from xmtp_history.server._limits import Admission, Ledger, ServerLimits
from xmtp_history.server._listener import Listener
from xmtp_history.server._metrics import Metrics
from xmtp_history.server._retention import Sweeper

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from xmtp_history.server._access import UploadTokens
    from xmtp_history.server.storage import Storage

#: How long connections that nobody is to be answered on any more have to close by themselves, seconds.
_CLOSE_SECONDS = 0.1

_BACKLOG = 1_024


class HistoryServer:
    """A history server on one port, best used in an ``async with`` block.

    It speaks plain HTTP: put a proxy with TLS before it where strangers listen.

    Args:
        storage: where the files are kept.
        host: the address to listen on; by default only this machine can connect.
        port: the port to listen on; 0 picks a free one.
        limits: sizes, rates and times that clients have to keep.
        retention_seconds: age at which files expire, counted from the end of their upload; None keeps them for ever.
        resumable_seconds: age at which resumable uploads expire that were not finished.
        sweep_seconds: how often what has expired is deleted; it is not served in between either.
        delete_after_download: delete a file after its first complete download.
        upload_tokens: tokens of which an upload has to show one; None: anybody may upload.
        token_for_downloads: whether downloads have to show one too.
        trusted_proxies: addresses or networks whose ``X-Forwarded-For`` is believed.
        prefix: path below which everything is served, for a proxy that hands on a part of its paths.
        metrics_port: port for ``/metrics``, ``/healthz`` and ``/readyz``; 0 picks a free one, None opens none.
        metrics_host: the address of that port.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        host: str = "127.0.0.1",
        port: int = 5558,
        limits: ServerLimits | None = None,
        retention_seconds: float | None = 7 * 86_400.0,
        resumable_seconds: float = 86_400.0,
        sweep_seconds: float = 300.0,
        delete_after_download: bool = False,
        upload_tokens: UploadTokens | None = None,
        token_for_downloads: bool = False,
        trusted_proxies: Iterable[str] = (),
        prefix: str = "",
        metrics_port: int | None = None,
        metrics_host: str = "127.0.0.1",
    ) -> None:
        for name, value in (
            ("retention_seconds", retention_seconds),
            ("resumable_seconds", resumable_seconds),
            ("sweep_seconds", sweep_seconds),
        ):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive")
        if token_for_downloads and upload_tokens is None:
            raise ValueError("token_for_downloads needs upload_tokens")
        prefix = prefix.rstrip("/")
        if prefix and not prefix.startswith("/"):
            raise ValueError("prefix must begin with a slash")
        self._storage = storage
        self._host = host
        self._port = port
        self._limits = limits or ServerLimits()
        self._policy = Policy(
            retention_seconds=retention_seconds,
            resumable_seconds=resumable_seconds,
            delete_after_download=delete_after_download,
            tokens=upload_tokens,
            token_for_downloads=token_for_downloads,
            proxies=Proxies(trusted_proxies),
            prefix=prefix,
        )
        self._sweep_seconds = sweep_seconds
        self._metrics_host = metrics_host
        self._metrics_port = metrics_port
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        """Where the server is reached, for example ``http://127.0.0.1:5558``.

        Raises:
            RuntimeError: the server is not running.
        """
        return _url(self._started().runner) + self._policy.prefix

    @property
    def metrics_url(self) -> str | None:
        """Where its metrics are, for example ``http://127.0.0.1:9558/metrics``; None without a port for them.

        Raises:
            RuntimeError: the server is not running.
        """
        runner = self._started().metrics_runner
        return None if runner is None else f"{_url(runner)}/metrics"

    async def start(self) -> None:
        """Gets the storage ready, and listens.

        Raises:
            RuntimeError: the server is running.
            OSError: the storage cannot be used, or a port is taken.
            ValueError: an option of the storage is not valid.
        """
        if self._running is not None:
            raise RuntimeError("the server is running")
        async with AsyncExitStack() as stack:
            # Pushed first, because a storage may have to let go of what it took before it failed.
            stack.push_async_callback(self._storage.aclose)
            await self._storage.prepare()
            house = self._house()
            service = Service(house)
            sweeper = Sweeper(house, service.downloads.in_use, self._sweep_seconds)
            if self._limits.max_total_bytes is not None:
                # What is there already counts from the first upload on.
                await sweeper.sweep()
            listener = Listener(service.answer, self._limits, house.metrics)
            runner = await _listen(stack, listener, self._host, self._port)
            metrics_runner = None
            if self._metrics_port is not None:
                about = web.Server(_About(service, house.metrics).answer, access_log=None)
                metrics_runner = await _listen(stack, about, self._metrics_host, self._metrics_port)
            sweeping = asyncio.create_task(sweeper.run(), name="xmtp-history sweep")
            stack.push_async_callback(_end, sweeping)
            self._running = _Running(service, runner, metrics_runner, stack.pop_all())

    async def aclose(self, *, seconds: float | None = None) -> None:
        """Stops listening, lets running transfers come to their end, and closes. Closing twice is fine.

        Args:
            seconds: how long transfers may take, instead of ``limits.shutdown_seconds``. What is left of them then is
                broken off; what clients can resume is kept.
        """
        running, self._running = self._running, None
        if running is None:
            return
        try:
            for site in list(running.runner.sites):
                await site.stop()
            # Not left to aiohttp, which takes no more data of running uploads when it closes.
            await running.service.drain(self._limits.shutdown_seconds if seconds is None else seconds)
        finally:
            # What is left, also when this was cancelled: nothing may still be at work in a storage that is closed.
            await running.service.drain(0)
            await running.stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _started(self) -> _Running:
        if self._running is None:
            raise RuntimeError("the server is not running")
        return self._running

    def _house(self) -> House:
        admission = Admission(self._limits)
        ledger = Ledger(self._limits, self._storage)
        return House(
            storage=self._storage,
            limits=self._limits,
            policy=self._policy,
            clock=Clock(),
            admission=admission,
            ledger=ledger,
            pieces=Pieces(),
            metrics=Metrics(admission, ledger, self._limits.max_total_bytes),
        )


class _Running:
    """What there is while the server runs."""

    def __init__(
        self, service: Service, runner: web.ServerRunner, metrics_runner: web.ServerRunner | None, stack: AsyncExitStack
    ) -> None:
        self.service = service
        self.runner = runner
        self.metrics_runner = metrics_runner
        self.stack = stack


class _About:
    """Answers those who watch the server."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Metrics, liveness, readiness."""
        if request.method not in {hdrs.METH_GET, hdrs.METH_HEAD}:
            return web.Response(status=405, headers={hdrs.ALLOW: "GET, HEAD"})
        if request.path == "/metrics":
            headers = {hdrs.CONTENT_TYPE: self._metrics.content_type}
            return web.Response(body=self._metrics.text(), headers=headers)
        if request.path == "/healthz":
            return web.Response()
        if request.path == "/readyz":
            return web.Response(status=200 if await self._service.ready() else 503)
        return web.Response(status=404)


async def _listen(stack: AsyncExitStack, server: web.Server, host: str, port: int) -> web.ServerRunner:
    runner = web.ServerRunner(server, shutdown_timeout=_CLOSE_SECONDS)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    return runner


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _url(runner: web.ServerRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
