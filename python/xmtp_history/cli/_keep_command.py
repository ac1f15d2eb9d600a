"""``keep``: an installation that is always on and answers for the others, until it is stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from xmtp_history import NotRegistered, XmtpHistoryError
from xmtp_history.cli import _client_options as client_options
from xmtp_history.cli import _options as options
from xmtp_history.cli._ask import Program
from xmtp_history.cli._client_logging import show_log
from xmtp_history.cli._client_text import contents
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._records import counts_json
from xmtp_history.cli._running import run

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from xmtp_history import Client
    from xmtp_history.cli._client_options import Place

_logger = logging.getLogger("xmtp_history.keep")


@click.command
@client_options.installation
@click.option(
    "--allow",
    multiple=True,
    type=options.installation_id,
    metavar="ID",
    help="Answer this installation only; may be repeated.  [default: all of the inbox]",
)
@click.option(
    "--ask",
    metavar="PROGRAM",
    help="Answer only if this program, which gets the request as JSON, exits with 0.",
)
@click.option(
    "--ask-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="Time for the program to decide.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Answer each installation so seldom, after --burst answers.",
)
@click.option(
    "--burst",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Answers that one installation may have at once.",
)
@click.option(
    "--max-archive-bytes",
    type=click.IntRange(min=1),
    show_default="no limit",
    metavar="N",
    help="Refuse to send a larger archive.",
)
@click.option(
    "--max-age-days",
    type=click.FloatRange(min=0, min_open=True),
    default=7,
    show_default=True,
    metavar="DAYS",
    help="Do not answer older requests.",
)
@click.option("--no-sync", is_flag=True, help="Do not ask for history at the first start.")
@click.option(
    "--summary",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="Log so often what was done; 0 for never.",
)
@options.log_level
@options.log_format
@options.as_json
def keep(
    *,
    at: Place,
    allow: tuple[str, ...],
    ask: str | None,
    ask_timeout: float,
    interval: float,
    burst: int,
    max_archive_bytes: int | None,
    max_age_days: float,
    no_sync: bool,
    summary: float,
    log_level: str,
    log_format: str,
    as_json: bool,
) -> None:
    """Keep an installation going.

    It follows all conversations, and sends the history to the inbox's other installations when they ask for it, day
    and night. It runs until it is interrupted.
    """
    from xmtp_history import ArchivePolicy

    chosen = at.options()
    policy = ArchivePolicy(
        allow=frozenset(allow) or None,
        ask=None if ask is None else Program(ask),
        ask_timeout=ask_timeout,
        max_bytes=max_archive_bytes,
        burst=burst,
        interval=interval,
        max_age_days=max_age_days,
    )
    show_log(log_level, as_json=options.wants_json_log(log_format))
    work = _keep(
        at, {**chosen, "archive_policy": policy, "auto_history_sync": not no_sync}, summary * 60, as_json=as_json
    )
    run(work)


async def _keep(at: Place, chosen: dict[str, Any], summary_seconds: float, *, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with await client_options.build(at, chosen) as client:
        # From here on a signal stops in order; before, it interrupts like everywhere else.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await _until(stop, _look(client))
        if not stop.is_set():
            _announce(at, client, as_json=as_json)
            work = [client.wait()]
            if summary_seconds:
                work.append(_summarise(client, summary_seconds))
            await _until(stop, *work)
        _logger.info("stopping")


async def _until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Works until the first part of it ends or fails, or until it is to be stopped."""
    stopped = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(part) for part in work]
    try:
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)


async def _look(client: Client) -> None:
    """The first look at the node; one that cannot be reached is no reason not to start."""
    try:
        await client.conversations.sync_all()
    except NotRegistered:
        # It was revoked, and never comes back.
        raise
    except XmtpHistoryError as error:
        _logger.warning("conversations cannot be read, later again: %s", error)


async def _summarise(client: Client, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        done, counts = client.metrics(), client.history.counts()
        fields = {"message": "summary", **dataclasses.asdict(done), **counts_json(counts)}
        _logger.info(
            "since the start: %s archives sent (%s bytes), %s requests refused, %s archives imported (%s bytes), "
            "%s failures; here now: %s",
            *(f"{number:,}" for number in (done.payload_sent, done.upload_bytes, done.refusals_sent)),
            *(f"{number:,}" for number in (done.payload_processed, done.download_bytes, done.failures)),
            contents(counts),
            extra={"fields": fields},
        )


def _announce(at: Place, client: Client, *, as_json: bool) -> None:
    """Says who is there, once it is."""
    if as_json:
        print_json(
            {
                "inbox_id": client.inbox_id,
                "installation_id": client.installation_id,
                "database": str(at.existing()),
                "env": at.env,
                "node": at.node,
                "history_server": at.history_server,
            }
        )
    else:
        print_fields(
            [
                ("inbox", client.inbox_id),
                ("installation", client.installation_id),
                ("database", str(at.existing())),
                ("history server", at.history_server or "none: no request can be answered"),
            ]
        )
        print_line("Press Ctrl-C to stop.")
    # Whoever started this may be waiting for the line in a pipe.
    sys.stdout.flush()


COMMANDS = (keep,)
