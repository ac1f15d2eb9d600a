"""What comes from groups, on its way to whom it may concern."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from xmtp_history._types import Consent, ConsentEntityType, ConsentState
from xmtp_history.client._sync_types import HistorySyncFailed, MessagesShared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xmtp_history.client._events import Hub
    from xmtp_history.client._status import Status

_log = logging.getLogger(__name__)


class Observer:
    """Publishes and counts what the core says once and never again. Nothing here waits.

    Attributes:
        on_tasks: called when there is something to be done.
        on_requests: called when something is known about own requests.
        on_groups: called when there are groups that were not there before.
    """

    def __init__(self, hub: Hub, status: Status) -> None:
        self._hub = hub
        self._status = status
        self.on_tasks: Callable[[], object] = _nothing
        self.on_requests: Callable[[], object] = _nothing
        self.on_groups: Callable[[], object] = _nothing

    def received(self, result: dict[str, Any]) -> None:
        """A page of a group's messages was handled."""
        for message_id in result["messages"]:
            self._hub.messages.publish(message_id)
        news: dict[str, Any] = result["device_sync"]
        if news["consents"]:
            self.decided(consents(news["consents"]))
            self._status.count("consent_received", len(news["consents"]))
        if news["hmac"]:
            _log.info("another installation has cycled the HMAC keys")
            self._status.count("hmac_received")
            self._hub.preferences.publish(None)
        if news["shared"]:
            self._status.count("messages_received", len(news["shared"]))
            conversation_ids, message_ids = zip(*news["shared"], strict=True)
            self._hub.events.publish(MessagesShared(message_ids, conversation_ids))
        for pin, reason, detail, installation_id in news["refusals"]:
            self._status.count("refusals_received")
            _log.warning("installation %s does not send its history: %s (%s)", installation_id[:8], reason, detail)
            self._hub.events.publish(HistorySyncFailed(pin, installation_id, reason, detail))
        if news["tasks"]:
            self.on_tasks()
        if news["refusals"] or news["tasks"]:
            self.on_requests()

    def decided(self, changed: tuple[Consent, ...]) -> None:
        """Consents have changed."""
        if changed:
            self._hub.preferences.publish(changed)

    def told(self, flushed: dict[str, Any]) -> None:
        """What was waiting has become messages."""
        self._status.count("consent_sent", flushed["preferences"])
        self._status.count("messages_sent", flushed["messages"])
        if flushed["hmac"]:
            self._status.count("hmac_sent")
            _log.info("the HMAC keys were cycled")
            self._hub.preferences.publish(None)

    def joined(self, sync_groups: int) -> None:
        """Groups were joined."""
        self._status.count("sync_group_welcomes_processed", sync_groups)
        self.on_groups()

    def made(self) -> None:
        """A sync group was made."""
        self._status.count("sync_group_created")
        self.on_groups()


def consents(rows: Iterable[tuple[int, str, int, int]]) -> tuple[Consent, ...]:
    """Consents from the core's rows."""
    return tuple(
        Consent(ConsentEntityType(entity_type), ConsentState(state), entity, at_ns)
        for entity_type, entity, state, at_ns in rows
    )


def _nothing() -> None:
    pass
