"""The command group: the list of commands, errors as one sentence, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from xmtp_history import (
    ArchiveCorrupted,
    ArchiveExpired,
    ArchiveKeyError,
    ArchiveLimitExceeded,
    ArchiveNotFound,
    ArchiveTruncated,
    InstallationInUse,
    InvalidRecords,
    NetworkError,
    NoOtherInstallation,
    NotAnArchive,
    NotRegistered,
    StoreKeyError,
    StoreLocked,
    SyncError,
    SyncRefused,
    SyncTimeout,
    TooManyInstallations,
    UnsupportedArchiveVersion,
    XmtpHistoryError,
    __version__,
)
from xmtp_history.cli import (
    _client_commands,
    _demo_command,
    _keep_command,
    _read_commands,
    _serve_command,
    _server_commands,
    _transfer_commands,
    _write_commands,
)
from xmtp_history.cli._keys import KeyProblem
from xmtp_history.cli._output import print_line

if TYPE_CHECKING:
    from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds as Ctrl-C does, so that no partial file stays behind."""


# The contract of docs/cli.md: an exception takes the code of its nearest ancestor here. 0 is success, 2 wrong usage.
EXIT_CODES: dict[type[BaseException], int] = {
    XmtpHistoryError: 1,
    OSError: 1,
    FileNotFoundError: 10,
    ArchiveNotFound: 10,
    ArchiveExpired: 10,
    NotAnArchive: 11,
    UnsupportedArchiveVersion: 11,
    KeyProblem: 12,
    ArchiveKeyError: 12,
    StoreKeyError: 12,
    ArchiveTruncated: 13,
    ArchiveCorrupted: 13,
    ArchiveLimitExceeded: 13,
    InvalidRecords: 14,
    StoreLocked: 15,
    InstallationInUse: 15,
    FileExistsError: 16,
    NetworkError: 17,
    SyncError: 18,
    NoOtherInstallation: 19,
    SyncTimeout: 19,
    SyncRefused: 20,
    NotRegistered: 21,
    TooManyInstallations: 21,
    KeyboardInterrupt: 130,
    BrokenPipeError: 141,
    Terminated: 143,
}


class _Group(click.Group):
    """Turns exceptions of the commands into a sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result: object = super().invoke(ctx)
            # Here, where a full disk or a closed pipe can still be reported.
            sys.stdout.flush()
        except tuple(EXIT_CODES) as error:
            if isinstance(error, BrokenPipeError):
                _discard_output()
            else:
                print_line(f"Error: {_sentence(error)}", err=True)
            ctx.exit(next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES))
        return result


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="xmtp-history %(version)s")
def cli() -> None:
    """Keep an XMTP installation and its history; read, write and transfer archives; run a local XMTP.

    Keys come from a file or from the environment, never from the command line: XMTP_ARCHIVE_KEY for an archive,
    XMTP_DB_ENCRYPTION_KEY for a history store or an installation, XMTP_WALLET_KEY for a wallet. "-" as ARCHIVE reads
    standard input.
    """


for _command in (
    *_read_commands.COMMANDS,
    *_write_commands.COMMANDS,
    *_transfer_commands.COMMANDS,
    *_client_commands.COMMANDS,
    *_keep_command.COMMANDS,
    *_server_commands.COMMANDS,
    *_serve_command.COMMANDS,
    *_demo_command.COMMANDS,
):
    cli.add_command(_command)


def run() -> NoReturn:
    """Runs the command that sys.argv asks for, and exits."""
    signal.signal(signal.SIGTERM, _terminate)
    # A terminal that cannot show a character gets its escape instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(cli(prog_name="xmtp-history"))


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _sentence(error: BaseException) -> str:
    if isinstance(error, Terminated):
        return "terminated"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


def _discard_output() -> None:
    """Keeps the interpreter from writing to a closed pipe once more, and complaining, when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
