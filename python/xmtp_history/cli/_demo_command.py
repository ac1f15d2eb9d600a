"""The command that shows history sync from end to end: demo."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import click

from xmtp_history import XmtpHistoryError
from xmtp_history.cli import _options as options
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._progress import ProgressBar
from xmtp_history.cli._running import keep_grpc_quiet, run

_KINDS = ("xmtp-history", "libxmtp")


@click.command
@click.option("--messages", type=click.IntRange(1, 5_000_000), default=20_000, show_default=True, help="How many.")
@click.option(
    "--conversations", type=click.IntRange(1, 100_000), default=50, show_default=True, help="That they are in."
)
@click.option(
    "--peer",
    type=click.Choice(_KINDS),
    default=_KINDS[0],
    show_default=True,
    help="What the old installation is: one of this package, or the real library, if xmtp-bindings is installed.",
)
@options.as_json
def demo(*, messages: int, conversations: int, peer: str, as_json: bool) -> None:
    """Show history sync from end to end on this machine.

    Starts a node and a history server, fills an old installation, registers a new one, syncs it, compares both,
    and changes consent on one to see it on the other. Nothing is left behind. Needs the extra "eth".
    """
    keep_grpc_quiet()
    from xmtp_history.cli._demo import Demo

    steps = iter(range(1, 100))

    def on_step(what: str) -> None:
        if not as_json:
            print_line(f"{next(steps)}. {what}")

    with tempfile.TemporaryDirectory(prefix="xmtp-history-demo-") as folder, ProgressBar(at_once=True) as bar:
        try:
            shown = Demo(Path(folder), peer, on_step=on_step, on_progress=bar)
        except (ImportError, ValueError) as error:
            # The extra for wallets, or the real library.
            raise click.UsageError(str(error)) from None
        outcome = run(shown.run(messages, conversations))
    report = outcome.report
    if as_json:
        print_json(
            {
                "peer": outcome.peer,
                "conversations": outcome.conversations,
                "messages": outcome.messages,
                "archive_bytes": report.bytes,
                "imported": dataclasses.asdict(report.imported.new),
                "seconds": {name: round(seconds, 4) for name, seconds in outcome.seconds.items()},
                "differences": list(outcome.differences),
            }
        )
    else:
        print_line()
        print_fields(
            [
                ("Both have", f"{outcome.conversations:,} conversations, {outcome.messages:,} messages"),
                ("Archive", f"{report.bytes:,} bytes, which only the two can read"),
                *((name.capitalize(), _duration(seconds)) for name, seconds in outcome.seconds.items()),
                (
                    "Rate",
                    f"{outcome.messages / outcome.seconds['sync']:,.0f} messages a second, from asking to the last row",
                ),
            ]
        )
    if outcome.differences:
        raise XmtpHistoryError("the two differ: " + ", ".join(outcome.differences[:5]))
    if not as_json:
        print_line("All is well.")


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.2f} s"


COMMANDS = (demo,)
