"""Metadata and reports as lines for people; :mod:`xmtp_history.cli._records` is the same for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmtp_history.cli._output import print_fields, print_line, print_table, warn
from xmtp_history.cli._records import enum_name, iso_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xmtp_history import ArchiveMetadata, ArchiveReport, Conversation, Counts, ImportReport, InvalidRecord

# Enough to see what is wrong; --json has them all.
_INVALID_SHOWN = 20


def when(ns: int) -> str:
    """A time to the second."""
    return iso_time(ns).partition(".")[0].replace("T", " ") + " UTC"


def archive_fields(path: Path, archive_bytes: int | None, metadata: ArchiveMetadata) -> list[tuple[str, str]]:
    """What an archive says about itself."""
    after, until = metadata.start_ns, metadata.end_ns
    bounds = [f"after {when(after)}"] if after is not None else []
    bounds += [f"up to {when(until)}"] if until is not None else []
    size = [] if archive_bytes is None else [("Size", f"{archive_bytes:,} bytes")]
    return [
        ("Archive", str(path)),
        *size,
        ("Format version", str(metadata.backup_version)),
        ("Exported", when(metadata.exported_at_ns)),
        ("Sections", ", ".join(str(enum_name(element)) for element in metadata.elements) or "none"),
        ("Time window", ", ".join(bounds) or "everything"),
    ]


def count_fields(counts: Counts) -> list[tuple[str, str]]:
    """How many records of each kind."""
    return [
        ("Conversations", f"{counts.conversations:,}"),
        ("Messages", f"{counts.messages:,}"),
        ("Consents", f"{counts.consents:,}"),
    ]


def print_archive_report(path: Path, report: ArchiveReport) -> None:
    """What is in an archive that was read or written to its end."""
    fields = [*archive_fields(path, report.archive_bytes, report.metadata), *count_fields(report.counts)]
    if report.first_sent_at_ns is not None and report.last_sent_at_ns is not None:
        fields.append(("First message", when(report.first_sent_at_ns)))
        fields.append(("Last message", when(report.last_sent_at_ns)))
    if report.unknown_elements:
        fields.append(("Unknown elements", f"{report.unknown_elements:,}"))
    print_fields(fields)
    print_invalid_records(report.invalid_records)


def print_import_report(report: ImportReport) -> None:
    """What an import did."""
    outcomes = (report.new, report.duplicate, report.updated, report.skipped)
    print_table(
        ("", "new", "duplicate", "updated", "skipped"),
        [
            ("Conversations", *(f"{counts.conversations:,}" for counts in outcomes)),
            ("Messages", *(f"{counts.messages:,}" for counts in outcomes)),
            ("Consents", *(f"{counts.consents:,}" for counts in outcomes)),
        ],
    )
    notes = [
        (report.expired, "messages skipped because they had expired"),
        (report.orphans, "messages kept until their conversation arrives"),
        (report.foreign_dms or 0, "DMs that this inbox is not a member of"),
        (report.unknown_elements, "elements ignored because this release does not know their kind"),
    ]
    for count, note in notes:
        if count:
            print_line(f"{count:,} {note}")
    print_invalid_records(report.invalid_records)


def print_invalid_records(records: Sequence[InvalidRecord]) -> None:
    """Records that break the rules of the format."""
    for record in records[:_INVALID_SHOWN]:
        print_line(f"Invalid {record.kind} in element {record.element}: {record.field}: {record.reason}")
    if len(records) > _INVALID_SHOWN:
        print_line(f"and {len(records) - _INVALID_SHOWN:,} more, see --json")


def print_conversations(conversations: Sequence[Conversation]) -> None:
    """One line for each conversation."""
    print_table(
        ("Last message", "Kind", "Id", "Name"),
        [
            (
                "-" if conversation.last_message_ns is None else when(conversation.last_message_ns),
                str(enum_name(conversation.conversation_type)),
                conversation.id,
                conversation.name or "",
            )
            for conversation in conversations
        ],
    )


def warn_if_legacy(*, legacy: bool) -> None:
    """Says that an archive should be written anew."""
    if legacy:
        warn("this archive was sealed with one nonce for all records, as before November 2025: rewrite it, new key")
