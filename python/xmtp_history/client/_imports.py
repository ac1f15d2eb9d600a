"""Importing the archives that were asked for (device-sync specification, section 5c): one at a time."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from xmtp_history._errors import (
    ArchiveError,
    ArchiveExpired,
    ArchiveNotFound,
    PayloadTooLarge,
    SyncError,
    XmtpHistoryError,
)
from xmtp_history._types import Progress
from xmtp_history.client._sync_types import HistoryImported, HistorySyncFailed
from xmtp_history.client._tasks import Task, TaskRunner, reason_of
from xmtp_history.client._transfers import host_of

if TYPE_CHECKING:
    from xmtp_history.client._core import Core
    from xmtp_history.client._events import Hub
    from xmtp_history.client._identity import Identity
    from xmtp_history.client._requests import Requests
    from xmtp_history.client._status import Status
    from xmtp_history.client._transfers import Transfers

_log = logging.getLogger(__name__)

#: How long a server may not have what was uploaded to it a moment ago, seconds.
_FRESH_SECONDS: Final = 60.0
#: How long servers keep archives, and how often one is tried at least.
_EXPIRY_NS: Final = 7 * 86_400 * 10**9
_FEWEST_TRIES: Final = 20

_KEY_BYTES: Final = 32


class Imports(TaskRunner):
    """Fetches and imports archives."""

    kind = "import"

    def __init__(
        self, core: Core, status: Status, *, identity: Identity, transfers: Transfers, hub: Hub, requests: Requests
    ) -> None:
        super().__init__(core, status)
        self._identity = identity
        self._transfers = transfers
        self._hub = hub
        self._requests = requests
        #: When each was tried first, by the monotonic clock.
        self._began: dict[str, float] = {}

    async def _do(self, task: Task) -> None:
        if task.sender in self._requests.outcome(task.pin).reports:
            await self._core.ask("task_done", message_id=task.message_id)
            return
        if not await self._identity.had(task.sender):
            await self._give_up(task, "revoked", SyncError("the sender is no installation of the inbox any more"))
            return
        _, key = await self._core.call("sync_task_key", message_id=task.message_id)
        if len(key) != _KEY_BYTES:
            await self._give_up(task, "unreadable", SyncError("the archive's key does not have 32 bytes"))
            return
        began = time.monotonic()
        self._began.setdefault(task.message_id, began)
        url = str(task.subject["url"])

        def report(progress: Progress) -> None:
            self._requests.progress(task.pin, progress)

        report(Progress("download", 0, None, 0))
        try:
            received = await self._transfers.receive(url, key, patient=True, on_progress=report)
        finally:
            self._status.importing(None)
        await self._core.ask("task_done", message_id=task.message_id)
        self._began.pop(task.message_id, None)
        imported = received.report
        self._status.processed(received)
        _log.info(
            "an archive of installation %s, %d bytes from %s, was imported in %.1f s: %d conversations, %d messages and"
            " %d consents are new",
            task.sender[:8],
            received.size,
            host_of(url),
            time.monotonic() - began,
            imported.new.conversations,
            imported.new.messages,
            imported.new.consents,
        )
        if imported.invalid_records:
            _log.warning("%d records of the archive are not valid, and were left out", len(imported.invalid_records))
        self._hub.events.publish(HistoryImported(task.pin, task.sender, imported))
        self._requests.imported(task.pin, task.sender, imported, received.size)

    async def _failed(self, task: Task, error: Exception) -> None:
        match error:
            case ArchiveNotFound() if self._is_fresh(task):
                await self._later(task, error)
            case ArchiveNotFound() | ArchiveExpired():
                await self._give_up(task, "expired", ArchiveExpired(f"{error}: ask again", status=error.status))
            case ArchiveError():
                await self._give_up(task, "unreadable", error)
            case PayloadTooLarge():
                await self._give_up(task, "too_large", error)
            case SyncError():
                await self._give_up(task, "failed", error)
            case ValueError() if not isinstance(error, XmtpHistoryError):
                await self._give_up(task, "failed", SyncError("the archive has no URL that could be fetched"))
            case _ if task.attempts >= _FEWEST_TRIES and time.time_ns() - task.sent_at_ns > _EXPIRY_NS:
                await self._give_up(
                    task, "expired", ArchiveExpired("the archive could not be fetched for days: ask again")
                )
            case _:
                await self._later(task, error)

    def _is_fresh(self, task: Task) -> bool:
        """Whether the server may just not show the archive yet."""
        if (time.time_ns() - task.sent_at_ns) / 1e9 < _FRESH_SECONDS:
            return True
        # The clock may be wrong; what was asked for since the client was opened is seldom old.
        since = time.monotonic() - self._began.get(task.message_id, 0.0)
        return self._requests.outcome(task.pin).asked and since < _FRESH_SECONDS

    async def _later(self, task: Task, error: Exception) -> None:
        await self._again(task, "importing an archive failed", error)
        self._requests.troubled(task.pin, reason_of(error))

    async def _give_up(self, task: Task, reason: str, error: Exception) -> None:
        await self._core.ask("task_failed", message_id=task.message_id, reason=str(error))
        self._began.pop(task.message_id, None)
        _log.warning("the archive of installation %s is not imported: %s", task.sender[:8], error)
        self._hub.events.publish(HistorySyncFailed(task.pin, task.sender, reason, str(error)))
        self._requests.failed(task.pin, task.sender, error)
