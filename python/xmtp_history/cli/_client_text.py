"""What the commands for an installation tell, as lines for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xmtp_history import Counts
from xmtp_history.cli._output import print_fields, print_line
from xmtp_history.cli._text import print_import_report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xmtp_history import SyncReport


def print_sync_report(report: SyncReport, counts: Counts) -> None:
    """What a sync brought. Who refused was said when it happened."""
    print_import_report(report.imported)
    print_fields(
        [
            ("Archives", f"{report.archives:,}, {report.bytes:,} bytes, in {report.seconds:.1f} s"),
            ("Here now", contents(counts)),
        ]
    )


def contents(counts: Counts) -> str:
    """What is stored, in a line."""
    return f"{counts.conversations:,} conversations, {counts.messages:,} messages, {counts.consents:,} decisions on consent"


def print_status(shown: Mapping[str, Any]) -> None:
    """How an installation is doing, from its JSON object."""
    fields = [
        ("Database", shown["database"]),
        ("Network", f"{shown['env']}, {shown['node']}"),
        ("History server", shown["history_server"] or "none"),
    ]
    if not shown["in_use"]:
        fields += [
            ("Inbox", shown["inbox_id"]),
            ("Installation", shown["installation_id"]),
            ("Registered", "yes" if shown["registered"] else "no: it was revoked"),
            ("Other installations", ", ".join(shown["other_installations"]) or "none"),
            ("Groups", _states(shown["conversation_groups"])),
            ("Sync groups", _states(shown["sync_groups"])),
            ("Requests not answered", f"{shown['pending_requests']:,}"),
            ("To be sent", _outbox(shown["outbox"])),
        ]
    print_fields([*fields, ("Stored", contents(Counts(**shown["counts"])))])
    if shown["in_use"]:
        print_line("Another process has the installation open; the rest is for it to know.")


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {state}" for state, number in states.items()) or "none"


def _outbox(waiting: Mapping[str, Any]) -> str:
    kinds = [(waiting["consents"], "decisions on consent"), (waiting["messages"], "messages")]
    parts = [f"{number:,} {kind}" for number, kind in [*kinds, (waiting["intents"], "sync messages")] if number]
    return ", ".join([*parts, *(["a new HMAC key"] if waiting["hmac_due"] else [])]) or "nothing"
