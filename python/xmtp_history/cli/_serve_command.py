"""``serve``: a history server, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from xmtp_history.cli._logging import log_to_stderr
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._serve_options import ENVIRONMENT, LIMITS, as_toml, default_storage, serve_options

if TYPE_CHECKING:
    from pathlib import Path

    from xmtp_history import HistoryServer
    from xmtp_history.server.storage import Storage

_logger = logging.getLogger("xmtp_history.server")


@click.command(context_settings={"auto_envvar_prefix": ENVIRONMENT})
@serve_options
def serve(*, as_json: bool, print_config: bool, config: Path | None, **given: Any) -> None:  # noqa: ARG001 - read early
    """Run a history server.

    Any XMTP SDK that is given its URL as history sync URL uses it. It runs until it is interrupted, and then lets
    running transfers come to their end; a second interrupt stops it at once.

    Every option can also stand in the file of --config, and in the environment, as XMTP_HISTORY_SERVER_ and its name
    in capitals. Credentials of a bucket come from the environment that its provider documents.
    """
    given["storage"] = given["storage"] or str(default_storage())
    if print_config:
        # Always in the same order; click's depends on where a value comes from.
        names = [option.name for option in serve.params if option.name in given]
        for line in as_toml({name: given[name] for name in names if given[name] not in (None, ()) or name in _NONES}):
            print_line(line)
        return
    server = _server(given)
    as_json_log = given["log_format"] == "json" or (given["log_format"] == "auto" and not sys.stderr.isatty())
    log_to_stderr(given["log_level"], as_json=as_json_log)
    _allow_many_files()
    asyncio.run(_run(server, given["storage"], as_json=as_json))


#: Options for which "none" means something.
_NONES = {"retention", *(limit.name for limit in LIMITS)}


def _server(given: dict[str, Any]) -> HistoryServer:
    from xmtp_history import HistoryServer, ServerLimits, UploadTokens

    tokens = given["upload_tokens"]
    try:
        return HistoryServer(
            _storage(given),
            host=given["host"],
            port=given["port"],
            limits=ServerLimits(**{limit.field: given[limit.name] for limit in LIMITS}),
            retention_seconds=given["retention"],
            resumable_seconds=given["resumable_retention"],
            sweep_seconds=given["sweep"],
            delete_after_download=given["delete_after_download"],
            upload_tokens=None if tokens is None else UploadTokens.from_file(tokens),
            token_for_downloads=given["token_for_downloads"],
            trusted_proxies=given["trusted_proxy"],
            prefix=given["prefix"],
            metrics_host=given["metrics_host"],
            metrics_port=None if given["no_metrics"] else given["metrics_port"],
        )
    except (ValueError, ImportError) as error:
        raise click.UsageError(str(error)) from None


def _storage(given: dict[str, Any]) -> Storage:
    from xmtp_history import LocalStorage, ObjectStorage

    place = given["storage"]
    if "://" in place:
        if given["redirect"] and given["delete_after_download"]:
            raise click.UsageError("with --redirect nobody sees downloads end: leave out --delete-after-download")
        return ObjectStorage(
            place, spool=given["spool"], redirect=given["redirect"], redirect_seconds=int(given["redirect_lifetime"])
        )
    if given["redirect"]:
        raise click.UsageError("--redirect needs a bucket: --storage s3://bucket/prefix")
    return LocalStorage(place)


def _allow_many_files() -> None:
    """Every upload takes three descriptors, and systems begin with few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # What the system does not allow is not needed to begin with.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(server: HistoryServer, storage: str, *, as_json: bool) -> None:
    stop: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        try:
            await server.start()
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        stack.push_async_callback(server.aclose, seconds=0)
        # From here on a signal stops in order; before, it interrupts like everywhere else.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.put_nowait, None)
        _announce(server, storage, as_json=as_json)
        await stop.get()
        _logger.info("stopping: running transfers come to their end; another signal stops at once")
        closing = asyncio.create_task(server.aclose())
        hurry = asyncio.create_task(stop.get())
        await asyncio.wait([closing, hurry], return_when=asyncio.FIRST_COMPLETED)
        for task in (hurry, closing):
            task.cancel()
        await asyncio.gather(hurry, closing, return_exceptions=True)


def _announce(server: HistoryServer, storage: str, *, as_json: bool) -> None:
    """Says where the server is, once it is there."""
    if as_json:
        print_json({"history_sync_url": server.url, "metrics_url": server.metrics_url, "storage": storage})
    else:
        print_fields(
            [
                ("history server", server.url),
                ("metrics", server.metrics_url or "none"),
                ("storage", storage),
            ]
        )
        print_line("Press Ctrl-C to stop.")
    # Whoever started this may be waiting for the line in a pipe.
    sys.stdout.flush()


COMMANDS = (serve,)
