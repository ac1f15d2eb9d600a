"""The server: listens, and closes without breaking off what is nearly done."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from aiohttp import http_exceptions, web

from xmtp_history.server._http import READ_BYTES, Service

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType
    from typing import Self

    from xmtp_history.server._storage import Storage

#: Most bytes taken from a socket at once. With what waits in the two buffers after it, an upload stays below 256 KiB.
_RECEIVE_BYTES = 64 * 1024

#: How long running transfers may go on when the server closes, seconds.
_GRACE_SECONDS = 5.0

#: How long a body is read on and thrown away after an answer that did not wait for it, seconds.
_LINGER_SECONDS = 2.0

_KEEP_ALIVE_SECONDS = 60.0

#: How long connections that nobody is to be answered on any more have to close by themselves, seconds.
_CLOSE_SECONDS = 0.1

#: Longest request line, bytes: nonsense in place of an id gets the 404 that all nonsense gets, within reason.
_MAX_LINE_BYTES = 16 * 1024


class HistoryServer:
    """A history server on one port, best used in an ``async with`` block.

    Uploads are anonymous. The server speaks plain HTTP: put a proxy with TLS before it where strangers listen.

    Args:
        storage: where the files are kept.
        host: the address to listen on; by default only this machine can connect.
        port: the port to listen on; 0 picks a free one.
        max_file_bytes: larger uploads are refused; None accepts every size.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        host: str = "127.0.0.1",
        port: int = 5558,
        max_file_bytes: int | None = None,
    ) -> None:
        if max_file_bytes is not None and max_file_bytes < 0:
            raise ValueError("max_file_bytes must not be negative")
        self._storage = storage
        self._host = host
        self._port = port
        self._max_file_bytes = max_file_bytes
        self._service: Service | None = None
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where the server is reached, for example ``http://127.0.0.1:5558``.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._runner is None:
            raise RuntimeError("the server is not running")
        host, port = self._runner.addresses[0][:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Gets the storage ready, and listens.

        Raises:
            RuntimeError: the server is running.
            OSError: the storage cannot be used, or the port is taken.
        """
        if self._runner is not None:
            raise RuntimeError("the server is running")
        await self._storage.prepare()
        service = Service(self._storage, self._max_file_bytes)
        listener = _Listener(
            service.answer,
            logger=_logger,
            # Paths hold ids.
            access_log=None,
            # What is stored is what was sent.
            auto_decompress=False,
            read_bufsize=READ_BYTES,
            max_line_size=_MAX_LINE_BYTES,
            lingering_time=_LINGER_SECONDS,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
        )
        runner = web.ServerRunner(listener, shutdown_timeout=_CLOSE_SECONDS)
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._service, self._runner = service, runner

    async def aclose(self) -> None:
        """Stops listening, gives running transfers a few seconds, and closes. Closing twice is fine."""
        service, runner = self._service, self._runner
        self._service = self._runner = None
        if service is None or runner is None:
            return
        try:
            for site in runner.sites:
                await site.stop()
            # Not left to aiohttp, which takes no more data of running uploads when it closes.
            await service.drain(_GRACE_SECONDS)
        finally:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Listener(web.Server):
    """Makes connections take no more at once than the memory of an upload allows."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        # Only asyncio's own transports have this, and take up to 256 KiB without it.
        if hasattr(transport, "max_size"):
            transport.max_size = _RECEIVE_BYTES


def _may_be_logged(record: logging.LogRecord) -> bool:
    """Not what clients get wrong: aiohttp would quote the request, with ids and whatever else it holds."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError | web.RequestPayloadError)


_logger = logging.getLogger("xmtp_history.server.connections")
_logger.addFilter(_may_be_logged)
