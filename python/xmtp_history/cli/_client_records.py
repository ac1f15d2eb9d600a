"""What the commands for an installation tell, as JSON objects; docs/cli.md shows their shapes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from xmtp_history.cli._records import counts_json, enum_name, import_report_json, iso_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xmtp_history import ArchiveRequest, Counts, GroupState, OutboxStatus, SyncRefusal, SyncReport


def sync_report_json(report: SyncReport, counts: Counts) -> dict[str, object]:
    """What ``sync`` reports; without its pin, as pins do not belong in logs."""
    imported = import_report_json(report.imported)
    # They are those of one archive.
    del imported["metadata"], imported["foreign_dms"]
    return {
        "archives": report.archives,
        "archive_bytes": report.bytes,
        "seconds": round(report.seconds, 3),
        "refused": [refusal_json(refusal) for refusal in report.refused],
        **imported,
        "counts": counts_json(counts),
    }


def refusal_json(refusal: SyncRefusal) -> dict[str, object]:
    """Who does not send an archive, and why."""
    return {"installation_id": refusal.installation_id, "reason": refusal.reason, "detail": refusal.detail}


def status_json(
    counts: Counts,
    *,
    inbox_id: str | None = None,
    installation_id: str | None = None,
    registered: bool | None = None,
    other_installations: Sequence[str] | None = None,
    conversations: Mapping[GroupState, int] | None = None,
    sync_groups: Mapping[GroupState, int] | None = None,
    pending_requests: int | None = None,
    outbox: OutboxStatus | None = None,
) -> dict[str, object]:
    """How an installation is doing; of one that another process has open, only the counts are known."""
    return {
        "in_use": inbox_id is None,
        "inbox_id": inbox_id,
        "installation_id": installation_id,
        "registered": registered,
        "other_installations": None if other_installations is None else list(other_installations),
        "conversation_groups": _states_json(conversations),
        "sync_groups": _states_json(sync_groups),
        "pending_requests": pending_requests,
        "outbox": None if outbox is None else dataclasses.asdict(outbox),
        "counts": counts_json(counts),
    }


def request_json(request: ArchiveRequest) -> dict[str, object]:
    """A request for history, for the program that decides on it; without its pin as well."""
    options = request.options
    return {
        "installation_id": request.installation_id,
        **_time("sent_at", request.sent_at_ns),
        "elements": [enum_name(element) for element in options.elements],
        **_time("start", options.start_ns),
        **_time("end", options.end_ns),
        "exclude_disappearing_messages": options.exclude_disappearing_messages,
        "server_url": request.server_url,
    }


def _states_json(states: Mapping[GroupState, int] | None) -> dict[str, int] | None:
    return None if states is None else {state.value: number for state, number in states.items()}


def _time(field: str, ns: int | None) -> dict[str, object]:
    return {f"{field}_ns": ns, field: None if ns is None else iso_time(ns)}
