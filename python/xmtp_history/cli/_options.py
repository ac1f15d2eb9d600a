"""Options and arguments that several commands share, and the checks on them."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import click

FILE = click.Path(path_type=Path)

archive = click.argument("archive", metavar="ARCHIVE", type=FILE)
optional_archive = click.argument("archive", metavar="[ARCHIVE]", type=FILE, required=False)
target = click.argument("target", metavar="TARGET", type=FILE)
store = click.option("--store", required=True, type=FILE, metavar="STORE", help="The history store.")
optional_store = click.option("--store", type=FILE, metavar="STORE", help="Read a history store, not an archive.")
archive_key = click.option(
    "--key-file",
    type=FILE,
    metavar="FILE",
    help="File with the archive's key; else XMTP_ARCHIVE_KEY holds it.",
)
target_key = click.option(
    "--target-key-file",
    type=FILE,
    metavar="FILE",
    help="File with the new archive's key; else XMTP_TARGET_ARCHIVE_KEY holds it.",
)
store_key = click.option(
    "--store-key-file",
    type=FILE,
    metavar="FILE",
    help="File with the store's key; else XMTP_DB_ENCRYPTION_KEY holds it.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
force = click.option("--force", is_flag=True, help="Replace TARGET if it exists.")
log_level = click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged, on standard error.",
)
log_format = click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    default="auto",
    show_default=True,
    help="How; auto is text on a terminal, else JSON.",
)

_NS_PER_SECOND = 10**9
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d{1,9})(?!\d)")


def iso_time_ns(text: str) -> int:
    """A date or time in ISO 8601 as nanoseconds since 1970; in UTC unless it names an offset.

    The fraction is read here because ``datetime`` stops at microseconds, and an end that is off by some nanoseconds
    would leave out the very message it was copied from.
    """
    fraction = _FRACTION.search(text)
    whole = _FRACTION.sub("", text)
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError:
        moment = None
    # Without a dash it could be meant as a number; with a point left it is finer than nanoseconds.
    if moment is None or "-" not in whole or "." in whole:
        raise click.BadParameter("expected a time such as 2026-11-22 or 2026-11-22T18:30:00.5Z")
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    ns = (since.days * 86_400 + since.seconds) * _NS_PER_SECOND
    ns += int(fraction[1].ljust(9, "0")) if fraction else 0
    return _bounded(ns)


def time_ns(text: str) -> int:
    """A time in nanoseconds since 1970."""
    try:
        return _bounded(int(text))
    except ValueError:
        raise click.BadParameter("expected a whole number") from None


def _bounded(ns: int) -> int:
    if not _MIN_NS <= ns <= _MAX_NS:
        raise click.BadParameter("times reach from 1677 to 2262")
    return ns


def conversation_id(text: str) -> str:
    """The id of a conversation."""
    return _hex_id(text, 16)


def inbox_id(text: str) -> str:
    """The id of an inbox."""
    return _hex_id(text, 32)


def installation_id(text: str) -> str:
    """The id of an installation."""
    return _hex_id(text, 32)


def _hex_id(text: str, size: int) -> str:
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text):
        raise click.BadParameter(f"expected {2 * size} hexadecimal characters")
    return text.lower()


def wants_json_log(log_format: str) -> bool:
    """Whether logs are for programs, by ``--log-format``."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def source(path: Path) -> Path | BinaryIO:
    """The archive to read; ``-`` stands for standard input.

    Unbuffered: Python's buffer gathers a whole block before it looks for signals, so that an interrupt that comes in
    between waits for more input.
    """
    if str(path) != "-":
        return path
    buffered = sys.stdin.buffer
    return cast("BinaryIO", buffered.raw) if isinstance(buffered, io.BufferedReader) else buffered


def check_one_of(archive_path: Path | None, store_path: Path | None) -> None:
    """Checks that a command was given either an archive or a store."""
    if (archive_path is None) == (store_path is None):
        raise click.UsageError("give either ARCHIVE or --store STORE")


def existing_store(path: Path) -> Path:
    """The path of a store that is there: opening would create a missing one, and hide a mistyped name."""
    path.stat()
    return path


def new_file(path: Path, *, replace: bool) -> Path:
    """The path of a file to write; it may exist only with ``replace``."""
    if str(path) == "-":
        raise click.UsageError("TARGET must be a file: what is written to a pipe cannot be taken back on an error")
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "exists already; --force replaces it", str(path))
    return path
