"""Commands that write: import, export, rewrite, keygen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from xmtp_history import ArchiveElement, ArchiveOptions, History, archive_metadata, rewrite_archive
from xmtp_history.cli import _options as options
from xmtp_history.cli._keys import ARCHIVE_KEY, STORE_KEY, TARGET_KEY, write_new_key
from xmtp_history.cli._output import print_json, print_line, warn
from xmtp_history.cli._progress import ProgressBar
from xmtp_history.cli._records import archive_report_json, import_report_json
from xmtp_history.cli._text import print_archive_report, print_import_report, warn_if_legacy

if TYPE_CHECKING:
    from pathlib import Path

    from xmtp_history import ArchiveReport

_ELEMENTS = {element.name.lower(): element for element in ArchiveElement}


@click.command("import")
@options.archive
@options.store
@options.archive_key
@options.store_key
@click.option("--lenient", is_flag=True, help="Skip records that break the rules of the format, and report them.")
@click.option(
    "--inbox-id",
    type=options.inbox_id,
    metavar="ID",
    help="Your inbox: DMs that it is not a member of are counted.",
)
@options.as_json
def import_(
    *,
    archive: Path,
    store: Path,
    key_file: Path | None,
    store_key_file: Path | None,
    lenient: bool,
    inbox_id: str | None,
    as_json: bool,
) -> None:
    """Add an archive to a history store.

    The store is created if it does not exist. All of the archive is imported or, on any error, nothing. Importing the
    same archive again changes nothing.
    """
    key, store_key = ARCHIVE_KEY.load(key_file), STORE_KEY.load(store_key_file)
    if str(archive) != "-":
        # So that a wrong name or key does not leave an empty new store behind.
        archive_metadata(archive, key)
    with History.open(store, store_key) as history, ProgressBar() as bar:
        report = history.import_archive(
            options.source(archive),
            key,
            lenient=lenient,
            inbox_id=inbox_id,
            on_progress=bar,
        )
    if as_json:
        print_json({"path": str(archive), "store": str(store), **import_report_json(report)})
    else:
        print_import_report(report)
        warn_if_legacy(legacy=report.legacy)


@click.command
@options.store
@options.target
@options.archive_key
@options.store_key
@click.option(
    "--element",
    "elements",
    type=click.Choice(tuple(_ELEMENTS)),
    multiple=True,
    help="Only this section; may be given twice.  [default: both]",
)
@click.option("--start", type=options.iso_time_ns, metavar="TIME", help="Only what is later than this time.")
@click.option("--end", type=options.iso_time_ns, metavar="TIME", help="Only what is no later than this time.")
@click.option("--start-ns", type=options.time_ns, metavar="N", help="--start in nanoseconds since 1970.")
@click.option("--end-ns", type=options.time_ns, metavar="N", help="--end in nanoseconds since 1970.")
@click.option("--exclude-disappearing", is_flag=True, help="Leave out messages that disappear.")
@click.option(
    "--no-context-groups",
    is_flag=True,
    help="Leave out conversations older than --start even if a message needs them.",
)
@options.force
@options.as_json
def export(
    *,
    store: Path,
    target: Path,
    key_file: Path | None,
    store_key_file: Path | None,
    elements: tuple[str, ...],
    start: int | None,
    end: int | None,
    start_ns: int | None,
    end_ns: int | None,
    exclude_disappearing: bool,
    no_context_groups: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a history store to a new archive.

    Any XMTP client can import it. TARGET appears complete or not at all. TIME is a date or time in ISO 8601, in UTC
    unless it names an offset.
    """
    chosen = ArchiveOptions(
        elements=tuple(_ELEMENTS[element] for element in elements or _ELEMENTS),
        start_ns=_either("start", start, start_ns),
        end_ns=_either("end", end, end_ns),
        exclude_disappearing_messages=exclude_disappearing,
        include_context_groups=not no_context_groups,
    )
    options.existing_store(store)
    if target.exists() and target.samefile(store):
        raise click.UsageError("TARGET is the store itself")
    options.new_file(target, replace=force)
    key, store_key = ARCHIVE_KEY.load(key_file), STORE_KEY.load(store_key_file)
    with History.open(store, store_key) as history, ProgressBar() as bar:
        report = history.create_archive(target, key, chosen, on_progress=bar)
    _print_written(target, report, as_json=as_json)


@click.command
@options.archive
@options.target
@options.archive_key
@options.target_key
@options.force
@options.as_json
def rewrite(
    *,
    archive: Path,
    target: Path,
    key_file: Path | None,
    target_key_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write an archive anew under another key.

    For archives of before November 2025, whose sealing is weak, for a new key, and for archives that other clients
    cannot finish reading.
    """
    options.new_file(target, replace=force)
    key, target_key = ARCHIVE_KEY.load(key_file), TARGET_KEY.load(target_key_file)
    with ProgressBar() as bar:
        report = rewrite_archive(options.source(archive), key, target, target_key, on_progress=bar)
    _print_written(target, report, as_json=as_json)
    if report.legacy and key == target_key:
        warn("the old archive gives away enough to forge records under its key: use a new key")


@click.command
@click.argument("file", metavar="FILE", type=options.FILE)
@options.as_json
def keygen(*, file: Path, as_json: bool) -> None:
    """Write a new random key to a file.

    FILE must not exist yet. The key is 32 random bytes in hexadecimal; only you can read the file. Whoever loses it
    loses the archive.
    """
    write_new_key(file)
    if as_json:
        print_json({"path": str(file)})
    else:
        print_line(f"Wrote a new key to {file}")


def _either(name: str, iso: int | None, ns: int | None) -> int | None:
    if iso is not None and ns is not None:
        raise click.UsageError(f"give either --{name} or --{name}-ns")
    return iso if ns is None else ns


def _print_written(target: Path, report: ArchiveReport, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(target), **archive_report_json(report)})
    else:
        print_archive_report(target, report)


COMMANDS = (import_, export, rewrite, keygen)
