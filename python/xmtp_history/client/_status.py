"""How history sync is doing: what is shown, and what is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from xmtp_history._types import ArchiveElement
from xmtp_history.client._sync_types import SyncMetrics, SyncPhase, SyncStatus

if TYPE_CHECKING:
    from xmtp_history._types import ArchiveMetadata, Progress
    from xmtp_history.sync._transfer import ReceivedArchive, SentArchive

#: What a transfer calls the time until everything has arrived.
_DOWNLOAD: Final = "download"


class Status:
    """The state that :meth:`Client.sync_status` and :meth:`Client.metrics` show.

    Attributes:
        phase: how far history sync is, while nothing is imported.
        reason: why it failed, or what is in the way.
        pending_requests: own requests that are open.
    """

    def __init__(self) -> None:
        self.phase = SyncPhase.OFF
        self.reason = ""
        self.pending_requests = 0
        self._progress: Progress | None = None
        self._counts: Counter[str] = Counter()

    def importing(self, progress: Progress | None) -> None:
        """How far an import is; None once there is none."""
        self._progress = progress

    def snapshot(self, other_installations: int) -> SyncStatus:
        """What there is to show now."""
        phase, progress = self.phase, self._progress
        if progress is None:
            return SyncStatus(phase, self.pending_requests, other_installations, reason=self.reason)
        return SyncStatus(
            SyncPhase.DOWNLOADING if progress.phase == _DOWNLOAD else SyncPhase.IMPORTING,
            self.pending_requests,
            other_installations,
            progress.done,
            progress.total,
            progress.bytes_done,
            progress.bytes_total,
        )

    def count(self, name: str, number: int = 1) -> None:
        """Counts something; the names are those of :class:`SyncMetrics`."""
        self._counts[name] += number

    def sent(self, archive: SentArchive) -> None:
        """Counts an archive that was sent."""
        self._count_archive("sent", archive.report.metadata)
        self.count("upload_bytes", archive.size)

    def processed(self, archive: ReceivedArchive) -> None:
        """Counts an archive that was imported."""
        self._count_archive("processed", archive.report.metadata)
        self.count("download_bytes", archive.size)

    def _count_archive(self, verb: str, metadata: ArchiveMetadata | None) -> None:
        self.count(f"payload_{verb}")
        for element in () if metadata is None else metadata.elements:
            if isinstance(element, ArchiveElement):
                self.count(f"{element.name.lower()}_payload_{verb}")

    def metrics(self) -> SyncMetrics:
        """What was counted."""
        return SyncMetrics(**{field.name: self._counts[field.name] for field in fields(SyncMetrics)})
