"""Commands that only read: inspect, verify, dump."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

import click

from xmtp_history import ArchiveError, Conversation, History, InvalidRecords, Message, open_archive, verify_archive
from xmtp_history.cli import _options as options
from xmtp_history.cli._keys import ARCHIVE_KEY, STORE_KEY
from xmtp_history.cli._output import print_fields, print_json, print_line
from xmtp_history.cli._progress import ProgressBar
from xmtp_history.cli._records import archive_report_json, counts_json, metadata_json, record_json
from xmtp_history.cli._text import (
    archive_fields,
    count_fields,
    print_archive_report,
    print_conversations,
    warn_if_legacy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xmtp_history import Consent


@click.command
@options.optional_archive
@options.optional_store
@options.archive_key
@options.store_key
@click.option("--limit", type=click.IntRange(min=0), default=10, show_default=True, help="Conversations of a store.")
@options.as_json
def inspect(
    *,
    archive: Path | None,
    store: Path | None,
    key_file: Path | None,
    store_key_file: Path | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what an archive says about itself, or what a store holds.

    Of an archive only the beginning is read: "verify" looks at all of it. Of a store the newest conversations are
    listed.
    """
    options.check_one_of(archive, store)
    if archive is not None:
        _inspect_archive(archive, ARCHIVE_KEY.load(key_file), as_json=as_json)
    elif store is not None:
        _inspect_store(store, STORE_KEY.load(store_key_file), limit=limit, as_json=as_json)


def _inspect_archive(archive: Path, key: bytes, *, as_json: bool) -> None:
    with open_archive(options.source(archive), key) as reader:
        metadata = reader.metadata
        # The second element tells whether the nonces count. Whether it is in order is not the question here.
        with contextlib.suppress(ArchiveError):
            next(iter(reader), None)
        legacy = reader.legacy
    archive_bytes = archive.stat().st_size if archive.is_file() else None
    if as_json:
        print_json(
            {
                "path": str(archive),
                "archive_bytes": archive_bytes,
                "metadata": metadata_json(metadata),
                "legacy": legacy,
            },
        )
    else:
        print_fields(archive_fields(archive, archive_bytes, metadata))
        warn_if_legacy(legacy=legacy is True)


def _inspect_store(store: Path, key: bytes, *, limit: int, as_json: bool) -> None:
    with History.open(options.existing_store(store), key) as history:
        counts = history.counts()
        newest = list(history.conversations(limit=limit))
    if as_json:
        print_json(
            {
                "path": str(store),
                "counts": counts_json(counts),
                "conversations": [record_json(conversation) for conversation in newest],
            },
        )
    else:
        print_fields([("Store", str(store)), *count_fields(counts)])
        if newest:
            print_line()
            print_conversations(newest)


@click.command
@options.archive
@options.archive_key
@options.as_json
def verify(*, archive: Path, key_file: Path | None, as_json: bool) -> None:
    """Read a whole archive and check every record.

    Nothing is stored. The command fails where an import would.
    """
    with ProgressBar() as bar:
        report = verify_archive(options.source(archive), ARCHIVE_KEY.load(key_file), on_progress=bar)
    if as_json:
        print_json({"path": str(archive), "ok": not report.invalid_records, **archive_report_json(report)})
    else:
        print_archive_report(archive, report)
        warn_if_legacy(legacy=report.legacy)
    if report.invalid_records:
        raise InvalidRecords(
            "the archive holds records that break the rules of the format; only import --lenient accepts it",
            records=report.invalid_records,
        )


@click.command
@options.optional_archive
@options.optional_store
@options.archive_key
@options.store_key
@click.option(
    "--conversation",
    type=options.conversation_id,
    metavar="ID",
    help="Only this conversation and its messages.",
)
@click.option("--json", is_flag=True, expose_value=False, help="Accepted for uniformity: the output is always JSON.")
def dump(
    *,
    archive: Path | None,
    store: Path | None,
    key_file: Path | None,
    store_key_file: Path | None,
    conversation: str | None,
) -> None:
    """Write every record as a line of JSON.

    Conversations first, then messages, then consents. The output is as confidential as the archive: it is everything,
    in the clear.
    """
    options.check_one_of(archive, store)
    if archive is not None:
        with open_archive(options.source(archive), ARCHIVE_KEY.load(key_file)) as reader:
            _write_lines(record for record in reader if conversation is None or _is_of(record, conversation))
    elif store is not None:
        with History.open(options.existing_store(store), STORE_KEY.load(store_key_file)) as history:
            _write_lines(_stored_records(history, conversation))


def _is_of(record: Conversation | Message | Consent, conversation_id: str) -> bool:
    if isinstance(record, Message):
        return record.conversation_id == conversation_id
    return isinstance(record, Conversation) and record.id == conversation_id


def _stored_records(history: History, only: str | None) -> Iterator[Conversation | Message | Consent]:
    """A store's records in the order of an archive."""
    ids = []
    for conversation in history.conversations():
        if only in {None, conversation.id}:
            ids.append(conversation.id)
            yield conversation
    for conversation_id in ids:
        yield from history.messages(conversation_id)
    if only is None:
        yield from history.consents()


def _write_lines(records: Iterator[Conversation | Message | Consent]) -> None:
    encode = json.JSONEncoder().encode
    for record in records:
        sys.stdout.write(encode(record_json(record)) + "\n")


COMMANDS = (inspect, verify, dump)
