"""``LocalNode``: start, stop, and what belongs to one node."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from xmtp_history import StoreLocked
from xmtp_history.node._grpc import OPTIONS, handlers
from xmtp_history.node._identity_api import IdentityApi
from xmtp_history.node._limits import MAX_MESSAGE_BYTES
from xmtp_history.node._mls_api import MlsApi
from xmtp_history.node._retention import Retention
from xmtp_history.node._store import Store
from xmtp_history.node._subscriptions import Subscriptions

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from xmtp_history.node._calls import Service

_DATABASE: Final = "node.db3"
_LOCK: Final = "node.lock"
#: How long calls may take to end when the node stops. Streams are ended at once.
_GRACE_S: Final = 3.0


class LocalNode:
    """An XMTP node in this process, for development, tests and a single machine.

    It speaks the gRPC API of XMTP's v3 nodes (``xmtp.mls.api.v1.MlsApi``, ``xmtp.identity.api.v1.IdentityApi``, health and
    reflection), so that any XMTP SDK works with it. There is no authentication, as on the network itself; listen on
    loopback unless you want others to store things here.

        async with LocalNode("node-data") as node:
            print(node.url)

    What a call has answered with success is on disk. Stopping and starting again with the same directory goes on with the
    same ids, so clients notice no more than a closed connection.

    Args:
        path: directory for the node's data, created if absent; None keeps everything in memory until the node stops.
        host: address or name to listen on. ``localhost`` listens on IPv4 and, where there is one, on IPv6.
        port: TCP port; 0 takes a free one.
        web_port: TCP port for gRPC-Web, which browsers need (XMTP's is 5557); 0 takes a free one, None serves none.
        retain_days: application messages older than this are deleted, welcomes and key packages after three times as
            long; commits and identity updates never. None deletes nothing.
        max_message_bytes: larger messages are refused with RESOURCE_EXHAUSTED.
        keepalive_s: seconds of silence after which a bidirectional stream is asked whether its client is there.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 5556,
        web_port: int | None = None,
        retain_days: float | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        keepalive_s: float = 30.0,
    ) -> None:
        if not all(0 <= number <= 65_535 for number in (port, web_port or 0)):  # noqa: PLR2004
            raise ValueError("port and web_port are numbers from 0 to 65535")
        if retain_days is not None and not 0 < retain_days < 100_000:  # noqa: PLR2004 - days since before 1970
            raise ValueError("retain_days: a positive number of days is needed")
        if max_message_bytes < 1:
            raise ValueError("max_message_bytes: a positive number of bytes is needed")
        if not 0 < keepalive_s <= 86_400:  # noqa: PLR2004 - clients are told in milliseconds, of 32 bits
            raise ValueError("keepalive_s: a positive number of seconds is needed, at most a day")
        self._path = None if path is None else Path(path)
        self._host = host
        self._port = port
        self._web_port = web_port
        self._retain_days = retain_days
        self._max_message_bytes = max_message_bytes
        self._keepalive_s = keepalive_s
        self._running: contextlib.AsyncExitStack | None = None
        self._url: str | None = None
        self._web_url: str | None = None

    @property
    def url(self) -> str:
        """Where clients connect to, such as ``http://127.0.0.1:5556``.

        Raises:
            RuntimeError: the node is not running.
        """
        if self._url is None:
            raise RuntimeError("the node is not running")
        return self._url

    @property
    def web_url(self) -> str | None:
        """Where browsers connect to; None if the node does not serve them.

        Raises:
            RuntimeError: the node is not running.
        """
        return self._web_url if self.url else None

    async def start(self) -> None:
        """Opens the data and begins to listen.

        Raises:
            OSError: the directory or the port cannot be used.
            StoreError: the directory holds something else, or data of a later version.
            StoreLocked: another node uses the directory.
            RuntimeError: the node is running already.
        """
        if self._running is not None:
            raise RuntimeError("the node is running already")
        async with contextlib.AsyncExitStack() as stack:
            database = None if self._path is None else _own_directory(self._path, stack)
            store = Store(database)
            stack.push_async_callback(store.aclose)
            if self._retain_days is not None:
                stack.push_async_callback(_cancel, asyncio.create_task(Retention(store, self._retain_days).run()))
            await self._serve(store, stack)
            self._running = stack.pop_all()

    async def aclose(self) -> None:
        """Ends streams with UNAVAILABLE, lets calls come to their end, and closes the data. Closing twice is fine."""
        running, self._running = self._running, None
        self._url = self._web_url = None
        if running is not None:
            await running.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _serve(self, store: Store, stack: contextlib.AsyncExitStack) -> None:
        subscriptions = Subscriptions(store)
        mls = MlsApi(store, subscriptions, max_message_bytes=self._max_message_bytes, keepalive_s=self._keepalive_s)
        server = grpc.aio.server(options=OPTIONS)
        services: list[Service] = [mls, IdentityApi(store)]
        server.add_generic_rpc_handlers(tuple(map(handlers, services)))
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names = [service.DESCRIPTOR.full_name for service in services]
        for name in ("", *names):
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        hosts = ["127.0.0.1", "::1"] if self._host == "localhost" else [self._host]
        web_url = None
        if self._web_port is not None:
            # aiohttp takes longer to import than everything else here.
            from xmtp_history.node._web import WebServer

            web = WebServer(services)
            stack.push_async_callback(web.aclose)
            web_url = _url(self._host, await web.start(hosts, self._web_port))
        port = _listen(server, hosts, self._port)
        await server.start()

        async def stop() -> None:
            await servicer.enter_graceful_shutdown()
            subscriptions.close()
            await server.stop(_GRACE_S)

        stack.push_async_callback(stop)
        self._url, self._web_url = _url(self._host, port), web_url


def _own_directory(path: Path, stack: contextlib.ExitStack | contextlib.AsyncExitStack) -> Path:
    """Makes a directory this node's for as long as it runs, and returns the path of its database."""
    path.mkdir(parents=True, exist_ok=True)
    lock = stack.enter_context((path / _LOCK).open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreLocked(f"another node uses {path}") from None
    return path / _DATABASE


def _listen(server: grpc.aio.Server, hosts: list[str], port: int) -> int:
    first, *others = hosts
    bound = _bind(server, first, port)
    if bound is None:
        raise OSError(errno.EADDRINUSE, f"cannot listen on {first}, port {port}: in use, or not this machine's address")
    # Not every machine has IPv6.
    for host in others:
        _bind(server, host, bound)
    return bound


def _bind(server: grpc.aio.Server, host: str, port: int) -> int | None:
    try:
        return server.add_insecure_port(f"{_bracketed(host)}:{port}") or None
    except RuntimeError:
        return None


def _url(host: str, port: int) -> str:
    return f"http://{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
