"""A local XMTP for tests: a node and a history server, fresh for each test, on free ports of loopback.

As a pytest fixture, after ``pytest_plugins = ["xmtp_history.testing"]`` in ``conftest.py``::

    def test_something(local_xmtp):
        client = make_my_client(api_url=local_xmtp.node_url, history_sync_url=local_xmtp.history_sync_url)

Without pytest, :func:`run_local_xmtp` is the same as a context manager. Both servers run on a thread of their own, so tests
need not be asynchronous, and clients may block.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

from xmtp_history.node import LocalNode
from xmtp_history.server import HistoryServer, LocalStorage, ServerLimits

if TYPE_CHECKING:
    import os
    from collections.abc import Coroutine, Iterator
    from typing import Any

__all__ = ["LocalXmtp", "run_local_xmtp"]


@dataclass(frozen=True, slots=True)
class LocalXmtp:
    """Where a running node and history server are.

    Attributes:
        node_url: what SDKs call the API URL, such as ``http://127.0.0.1:40123``.
        history_sync_url: what SDKs call the history sync URL.
    """

    node_url: str
    history_sync_url: str


@contextlib.contextmanager
def run_local_xmtp(
    path: str | os.PathLike[str] | None = None, *, node_port: int = 0, history_server_port: int = 0
) -> Iterator[LocalXmtp]:
    """Runs a node and a history server for the length of a ``with`` block.

    Args:
        path: directory for what they keep; used again, they go on where they were. None keeps nothing.
        node_port: TCP port of the node; 0 takes a free one.
        history_server_port: TCP port of the history server; 0 takes a free one.

    Raises:
        OSError: a port or the directory cannot be used.
        StoreError: the directory holds something else.
    """
    with contextlib.ExitStack() as stack:
        files = Path(stack.enter_context(TemporaryDirectory(prefix="xmtp-")) if path is None else path)
        # A test is over when it is over: nobody waits for what it left running.
        limits = ServerLimits(shutdown_seconds=1.0)
        server = HistoryServer(LocalStorage(files / "archives"), port=history_server_port, limits=limits)
        node = LocalNode(None if path is None else files / "node", port=node_port)
        stack.enter_context(_running(server, node))
        yield LocalXmtp(node.url, server.url)


class _Service(Protocol):
    async def start(self) -> None: ...

    async def aclose(self) -> None: ...


@contextlib.contextmanager
def _running(*services: _Service) -> Iterator[None]:
    """Runs services one after the other on a thread of their own."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(_loop_on_a_thread())
        for service in services:
            _call(loop, service.start())
            stack.callback(_end, loop, service)
        yield


@contextlib.contextmanager
def _loop_on_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="local-xmtp", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        _call(loop, loop.shutdown_asyncgens())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, service: _Service) -> None:
    _call(loop, service.aclose())


def _call(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    asyncio.run_coroutine_threadsafe(work, loop).result()


# Without pytest the rest of this module is of use.
with contextlib.suppress(ModuleNotFoundError):
    import pytest

    @pytest.fixture
    def local_xmtp() -> Iterator[LocalXmtp]:
        """A node and a history server for this test alone; nothing of them is left afterwards."""
        with run_local_xmtp() as running:
            yield running

    __all__ += ["local_xmtp"]
