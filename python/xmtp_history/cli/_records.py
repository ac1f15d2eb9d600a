"""Records and reports as JSON objects; docs/cli.md shows their shapes.

Every field has its name from the public dataclasses. Points in time come twice: as integer nanoseconds (``sent_at_ns``),
exact, and as text (``sent_at``), because many JSON readers round integers of that size.
"""

from __future__ import annotations

import base64
import enum
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from xmtp_history import ContentError, Conversation, Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xmtp_history import ArchiveMetadata, ArchiveReport, Consent, Counts, ImportReport, InvalidRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS = 1_000_000_000


def iso_time(ns: int) -> str:
    """A time in nanoseconds since 1970 as ISO 8601 text, to the nanosecond."""
    seconds, fraction = divmod(ns, _NS)
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def enum_name(value: enum.Enum | int) -> str | int:
    """An enumeration's member as a lower-case word; a number that the format does not name stays a number."""
    return value.name.lower() if isinstance(value, enum.Enum) else value


def record_json(record: Conversation | Message | Consent) -> dict[str, object]:
    """A record; of a conversation's attributes only those that clients do not keep to themselves."""
    if isinstance(record, Message):
        return _message_json(record)
    if isinstance(record, Conversation):
        return _conversation_json(record)
    return {
        "kind": "consent",
        "entity_type": enum_name(record.entity_type),
        "entity": record.entity,
        "state": enum_name(record.state),
        **_time("consented_at", record.consented_at_ns),
    }


def _conversation_json(record: Conversation) -> dict[str, object]:
    return {
        "kind": "conversation",
        "id": record.id,
        "conversation_type": enum_name(record.conversation_type),
        "name": record.name,
        "description": record.description,
        "image_url_square": record.image_url_square,
        "app_data": record.app_data,
        **_time("created_at", record.created_at_ns),
        # The field is called last_message_ns, so the text gets a name that says what it is.
        "last_message_ns": record.last_message_ns,
        "last_message_at": None if record.last_message_ns is None else iso_time(record.last_message_ns),
        "dm_id": record.dm_id,
        "creator_inbox_id": record.creator_inbox_id,
        "added_by_inbox_id": record.added_by_inbox_id,
        "admins": list(record.admins),
        "super_admins": list(record.super_admins),
        "membership_state": enum_name(record.membership_state),
        "is_active": record.is_active,
        "message_disappear_from_ns": record.message_disappear_from_ns,
        "message_disappear_in_ns": record.message_disappear_in_ns,
        "installations_last_checked": record.installations_last_checked,
        "rotated_at_ns": record.rotated_at_ns,
        "welcome_id": record.welcome_id,
        "paused_for_version": record.paused_for_version,
        # A leading underscore marks what is private to clients; _commit_log_signer is a secret signing key.
        "attributes": {key: value for key, value in record.attributes.items() if not key.startswith("_")},
    }


def _message_json(record: Message) -> dict[str, object]:
    return {
        "kind": "message",
        "id": record.id,
        "conversation_id": record.conversation_id,
        **_time("sent_at", record.sent_at_ns),
        # "kind" says what sort of line this is.
        "message_kind": enum_name(record.kind),
        "sender_inbox_id": record.sender_inbox_id,
        "sender_installation_id": record.sender_installation_id,
        "delivery_status": enum_name(record.delivery_status),
        "content_type": record.content_type,
        "authority_id": record.authority_id,
        "version_major": record.version_major,
        "version_minor": record.version_minor,
        "content_type_save": record.content_type_save,
        "reference_id": record.reference_id,
        **_time("expire_at", record.expire_at_ns),
        "sequence_id": record.sequence_id,
        "originator_id": record.originator_id,
        "deleted_by_inbox_id": record.deleted_by_inbox_id,
        **_content_json(record),
    }


def _content_json(record: Message) -> dict[str, object]:
    try:
        decoded = record.decoded()
    except ContentError:
        return {"content": None, "content_base64": _base64(record.content)}
    body = {"body": decoded.body} if isinstance(decoded.body, str) else {"body_base64": _base64(decoded.body)}
    return {
        "content": {
            "type": str(decoded.type),
            "parameters": dict(decoded.parameters),
            "fallback": decoded.fallback,
            **body,
        },
    }


def metadata_json(metadata: ArchiveMetadata) -> dict[str, object]:
    """An archive's metadata."""
    return {
        "backup_version": metadata.backup_version,
        "elements": [enum_name(element) for element in metadata.elements],
        **_time("exported_at", metadata.exported_at_ns),
        **_time("start", metadata.start_ns),
        **_time("end", metadata.end_ns),
    }


def counts_json(counts: Counts) -> dict[str, int]:
    """A number for each kind of record."""
    return {
        "conversations": counts.conversations,
        "messages": counts.messages,
        "consents": counts.consents,
    }


def archive_report_json(report: ArchiveReport) -> dict[str, object]:
    """What ``verify``, ``export`` and ``rewrite`` report."""
    return {
        "metadata": metadata_json(report.metadata),
        "counts": counts_json(report.counts),
        "elements": report.elements,
        "archive_bytes": report.archive_bytes,
        "plaintext_bytes": report.plaintext_bytes,
        **_time("first_sent_at", report.first_sent_at_ns),
        **_time("last_sent_at", report.last_sent_at_ns),
        "legacy": report.legacy,
        "unknown_elements": report.unknown_elements,
        "invalid_records": _invalid_json(report.invalid_records),
    }


def import_report_json(report: ImportReport) -> dict[str, object]:
    """What ``import`` reports."""
    return {
        "new": counts_json(report.new),
        "duplicate": counts_json(report.duplicate),
        "updated": counts_json(report.updated),
        "skipped": counts_json(report.skipped),
        "expired": report.expired,
        "orphans": report.orphans,
        "foreign_dms": report.foreign_dms,
        "unknown_elements": report.unknown_elements,
        "invalid_records": _invalid_json(report.invalid_records),
        "legacy": report.legacy,
        "metadata": None if report.metadata is None else metadata_json(report.metadata),
    }


def _invalid_json(records: Iterable[InvalidRecord]) -> list[dict[str, object]]:
    return [
        {"element": record.element, "kind": record.kind, "field": record.field, "reason": record.reason}
        for record in records
    ]


def _time(field: str, ns: int | None) -> dict[str, object]:
    return {f"{field}_ns": ns, field: None if ns is None else iso_time(ns)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
