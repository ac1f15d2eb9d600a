"""Answering requests for history (device-sync specification, section 5b): one upload at a time."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from xmtp_history._errors import (
    GroupError,
    NetworkError,
    NoHistoryServer,
    PayloadTooLarge,
    StoreError,
    SyncError,
    XmtpHistoryError,
)
from xmtp_history.client._policy import Buckets
from xmtp_history.client._sync_types import ArchiveRefused, ArchiveRequest, ArchiveSent
from xmtp_history.client._tasks import Task, TaskRunner, reason_of
from xmtp_history.client._transfers import host_of, metadata_row, options_of, server_url_of

if TYPE_CHECKING:
    from xmtp_history.client._core import Core
    from xmtp_history.client._events import Hub
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._identity import Identity
    from xmtp_history.client._policy import ArchivePolicy
    from xmtp_history.client._status import Status
    from xmtp_history.client._transfers import Transfers

_log = logging.getLogger(__name__)

#: How long an upload is tried for, and how often at least, since a request may be old when it is met (section 4.5).
_EXPIRY_NS: Final = 3 * 86_400 * 10**9
_FEWEST_TRIES: Final = 20


class Answers(TaskRunner):
    """Sends archives to those who ask for them."""

    kind = "answer"

    def __init__(
        self,
        core: Core,
        status: Status,
        *,
        identity: Identity,
        groups: Groups,
        transfers: Transfers,
        hub: Hub,
        policy: ArchivePolicy,
        server_url: str | None,
    ) -> None:
        super().__init__(core, status)
        self._identity = identity
        self._groups = groups
        self._transfers = transfers
        self._hub = hub
        self._policy = policy
        self._server_url = server_url
        self._buckets = Buckets(policy.burst, policy.interval)
        self._met: set[str] = set()
        self._allowed: set[str] = set()

    def _held(self, task: Task) -> float:
        if task.message_id in self._allowed:
            return 0.0
        wait = self._buckets.wait(task.sender)
        if wait > 0:
            self._meet(task)
        return wait

    def _meet(self, task: Task) -> None:
        if task.message_id not in self._met:
            self._met.add(task.message_id)
            self._status.count("request_received")
            _log.info("installation %s asks for the history", task.sender[:8])

    async def _do(self, task: Task) -> None:
        self._meet(task)
        if self._policy.is_too_old(task.sent_at_ns, time.time_ns()):
            _log.info("the request of installation %s is too old to be answered", task.sender[:8])
            await self._core.ask("task_done", message_id=task.message_id)
            return
        if not await self._identity.had(task.sender):
            await self._dismiss(task)
            return
        if self._server_url is None:
            await self._refuse(task, "no_server", "history sync is switched off there")
            return
        options = options_of(task.subject["options"])
        server_url = str(task.subject["server_url"] or self._server_url)
        if task.message_id not in self._allowed:
            self._status.count("payload_task_scheduled")
            self._buckets.take(task.sender)
            request = ArchiveRequest(task.pin, task.sender, task.sent_at_ns, options, server_url)
            if not await self._policy.allows(request):
                await self._refuse(task, "refused", "its policy does not allow it")
                return
            self._allowed.add(task.message_id)
        try:
            server_url = server_url_of(server_url)
        except ValueError:
            await self._refuse(task, "no_server", "the request names no history server's URL")
            return
        began = time.monotonic()
        sent, key = await self._transfers.send(server_url, options, max_bytes=self._policy.max_bytes)
        counts = sent.report.counts
        _log.info(
            "an archive of %d records, %d bytes, was uploaded to %s in %.1f s",
            counts.conversations + counts.messages + counts.consents,
            sent.size,
            host_of(server_url),
            time.monotonic() - began,
        )
        metadata = metadata_row(sent.report)
        said = await self._groups.say(
            "send_sync_reply",
            key,
            to=task.sender,
            pin=task.pin,
            url=sent.url,
            metadata=metadata,
            task=task.message_id,
        )
        if said is None:
            await self._dismiss(task)
            return
        self._allowed.discard(task.message_id)
        self._status.sent(sent)
        _log.info("installation %s was told where the archive is", task.sender[:8])
        self._hub.events.publish(ArchiveSent(task.pin, task.sender, sent.size))

    async def _failed(self, task: Task, error: Exception) -> None:
        match error:
            case PayloadTooLarge():
                await self._refuse(task, "too_large", reason_of(error))
            case NoHistoryServer():
                await self._refuse(task, "no_server", reason_of(error))
            # Without a status, a server did something wrong that concerned this one upload.
            case SyncError() if error.status is not None:
                await self._refuse(task, "failed", reason_of(error))
            case ValueError() if not isinstance(error, XmtpHistoryError):
                await self._refuse(task, "failed", "the request cannot be carried out")
            case _ if task.attempts >= _FEWEST_TRIES and time.time_ns() - task.sent_at_ns > _EXPIRY_NS:
                await self._refuse(task, "expired", f"it was tried for days; last: {reason_of(error)}")
            case _:
                await self._again(task, "sending an archive failed", error)

    async def _refuse(self, task: Task, reason: str, detail: str) -> None:
        """Tells whoever asked why there is no answer."""
        try:
            said = await self._groups.say(
                "send_refusal", to=task.sender, pin=task.pin, reason=reason, detail=detail, task=task.message_id
            )
        except (NetworkError, GroupError, StoreError) as error:
            # It comes to the same the next time.
            await self._again(task, "refusing a request failed", error)
            return
        if said is None:
            await self._dismiss(task)
            return
        self._allowed.discard(task.message_id)
        self._status.count("refusals_sent")
        _log.warning("installation %s does not get the history: %s (%s)", task.sender[:8], reason, detail)
        self._hub.events.publish(ArchiveRefused(task.pin, task.sender, reason, detail))

    async def _dismiss(self, task: Task) -> None:
        """Whoever asked is none of the inbox's any more, and is told nothing."""
        await self._core.ask("task_failed", message_id=task.message_id, reason="revoked")
        self._allowed.discard(task.message_id)
        self._status.count("refusals_sent")
        detail = "it is no installation of the inbox any more"
        _log.warning("installation %s does not get the history: %s", task.sender[:8], detail)
        self._hub.events.publish(ArchiveRefused(task.pin, task.sender, "revoked", detail))
