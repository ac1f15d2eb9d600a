"""The history of a client: what the application records in it is told to the user's other installations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xmtp_history import _rows
from xmtp_history._history import History

if TYPE_CHECKING:
    from collections.abc import Callable

    from xmtp_history._ffi import Store
    from xmtp_history._types import ImportReport, Message


class RecordingHistory(History):
    """A :class:`History` whose new messages are noted for the other installations, in the transaction that stores them.

    Args:
        store: the store.
        on_recorded: called when there are some, on whatever thread; None where nothing is told to others.
    """

    def __init__(self, store: Store, on_recorded: Callable[[], object] | None = None) -> None:
        super().__init__(store)
        self._on_recorded = on_recorded

    def message(self, message_id: str) -> Message | None:
        """The message of this id, or None."""
        batch, blob, _ = self._store.list("message", id=message_id)
        return next(_rows.records(batch, blob), None)  # type: ignore[return-value]

    def _add(self, kind: str, records: list[Any], rows: list[list[Any]], blob: bytes = b"") -> ImportReport:
        if kind != "m" or self._on_recorded is None:
            return super()._add(kind, records, rows, blob)
        report = super()._add("t", records, rows, blob)
        if report.new.messages:
            self._on_recorded()
        return report
