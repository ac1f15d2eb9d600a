"""Commands that serve until they are stopped: node, up."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xmtp_history.cli import _options as options
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._running import keep_grpc_quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from xmtp_history import HistoryServer, LocalNode

_PORT = click.IntRange(0, 65_535)

_data = click.option(
    "--data", type=options.FILE, metavar="DIR", help="Where to keep everything; without it, nothing is kept."
)
_host = click.option(
    "--host", default="localhost", show_default=True, help="Address to listen on; 0.0.0.0 for emulators and phones."
)
_node_port = click.option("--port", type=_PORT, default=5556, show_default=True, help="Port of the node; 0 for any.")
_web_port = click.option(
    "--web-port", type=_PORT, default=5557, show_default=True, help="Port of the node for browsers; 0 for any."
)
_no_web = click.option("--no-web", is_flag=True, help="Do not serve browsers.")
_retain = click.option(
    "--retain",
    "retain_days",
    type=click.FloatRange(0, 100_000, min_open=True, max_open=True),
    metavar="DAYS",
    help="Delete messages after so many days, welcomes and key packages after three times as many.",
)


@click.command
@_data
@_host
@_node_port
@_web_port
@_no_web
@_retain
@options.as_json
def node(
    *,
    data: Path | None,
    host: str,
    port: int,
    web_port: int,
    no_web: bool,
    retain_days: float | None,
    as_json: bool,
) -> None:
    """Run a local XMTP node.

    Any XMTP SDK with env "local" finds it. It runs until it is interrupted. There is no authentication: whoever
    reaches the port can use the node.
    """
    keep_grpc_quiet()
    from xmtp_history import LocalNode

    running = LocalNode(data, host=host, port=port, web_port=None if no_web else web_port, retain_days=retain_days)
    asyncio.run(_serve([running], lambda: _announce(_node_urls(running), data, as_json=as_json)))


@click.command
@_data
@_host
@_node_port
@_web_port
@_no_web
@click.option(
    "--history-server-port",
    type=_PORT,
    default=5558,
    show_default=True,
    help="Port of the history server; 0 for any.",
)
@_retain
@options.as_json
def up(
    *,
    data: Path | None,
    host: str,
    port: int,
    web_port: int,
    no_web: bool,
    history_server_port: int,
    retain_days: float | None,
    as_json: bool,
) -> None:
    """Run a node and a history server on XMTP's local ports.

    Any XMTP SDK with env "local" finds them. Both run until they are interrupted. There is no authentication:
    whoever reaches the ports can use them.
    """
    keep_grpc_quiet()
    from xmtp_history import HistoryServer, LocalNode, LocalStorage, ServerLimits

    with contextlib.ExitStack() as stack:
        kept = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xmtp-history-")))
        # Everybody is the same client here, and whoever stops it does not want to wait.
        limits = ServerLimits(max_uploads_per_client=1_000, uploads_per_minute=None, shutdown_seconds=5.0)
        server = HistoryServer(LocalStorage(kept / "archives"), host=host, port=history_server_port, limits=limits)
        running = LocalNode(
            data and data / "node",
            host=host,
            port=port,
            web_port=None if no_web else web_port,
            retain_days=retain_days,
        )

        def announce() -> None:
            _announce({**_node_urls(running), "history_sync_url": server.url}, data, as_json=as_json)

        asyncio.run(_serve([running, server], announce))


async def _serve(services: list[LocalNode | HistoryServer], announce: Callable[[], None]) -> None:
    """Runs services until SIGINT or SIGTERM, which is how they are meant to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for service in services:
            await service.start()
            stack.push_async_callback(service.aclose)
        # From here on a signal stops in order; before, it interrupts like everywhere else.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        announce()
        await stop.wait()


def _node_urls(running: LocalNode) -> dict[str, str | None]:
    return {"node_url": running.url, "web_url": running.web_url}


_LABELS = {"node_url": "node", "web_url": "node for browsers", "history_sync_url": "history server"}


def _announce(urls: dict[str, str | None], data: Path | None, *, as_json: bool) -> None:
    """Says where the services are, once they are there."""
    if as_json:
        print_json({**urls, "data": None if data is None else str(data)})
    else:
        print_fields(
            [
                *((_LABELS[name], url) for name, url in urls.items() if url is not None),
                ("data", "in memory" if data is None else str(data)),
            ]
        )
        print_line("Press Ctrl-C to stop.")
    # Whoever started this may be waiting for the line in a pipe.
    sys.stdout.flush()


COMMANDS = (node, up)
