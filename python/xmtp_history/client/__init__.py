"""A client: one installation of an inbox on the network.

``_client`` is what applications use, with ``_history_sync``, ``_conversations`` and ``_preferences``; ``_parts`` is what it
is made of. ``_identity`` knows inboxes, ``_groups`` syncs groups; ``_core`` runs the native installation on a thread of its
own, ``_database`` is where it lives, ``_recording`` its history, ``_types`` and ``_sync_types`` what it tells.

``_worker`` runs in the background. ``_requests`` are the own requests for history; ``_answers`` and ``_imports`` do what
others ask for, both as ``_tasks`` and by way of ``_transfers``; ``_policy`` says who gets what. ``_observer`` takes what
comes from groups to ``_events``, which are streams, and to ``_status``.
"""

from __future__ import annotations

from xmtp_history.client._client import Client
from xmtp_history.client._conversations import Conversations
from xmtp_history.client._events import EventStream
from xmtp_history.client._policy import ArchivePolicy
from xmtp_history.client._preferences import Preferences
from xmtp_history.client._sync_types import (
    ArchiveRefused,
    ArchiveRequest,
    ArchiveSent,
    AvailableArchive,
    ConsentUpdate,
    HistoryImported,
    HistoryRequested,
    HistorySyncFailed,
    HmacKey,
    HmacKeyUpdate,
    MessagesShared,
    OutboxStatus,
    SyncEvent,
    SyncMetrics,
    SyncPhase,
    SyncRefusal,
    SyncReport,
    SyncStatus,
)
from xmtp_history.client._types import (
    GroupInfo,
    GroupState,
    GroupSyncSummary,
    InboxState,
    InstallationInfo,
    SyncGroupMessage,
)

__all__ = [
    "ArchivePolicy",
    "ArchiveRefused",
    "ArchiveRequest",
    "ArchiveSent",
    "AvailableArchive",
    "Client",
    "ConsentUpdate",
    "Conversations",
    "EventStream",
    "GroupInfo",
    "GroupState",
    "GroupSyncSummary",
    "HistoryImported",
    "HistoryRequested",
    "HistorySyncFailed",
    "HmacKey",
    "HmacKeyUpdate",
    "InboxState",
    "InstallationInfo",
    "MessagesShared",
    "OutboxStatus",
    "Preferences",
    "SyncEvent",
    "SyncGroupMessage",
    "SyncMetrics",
    "SyncPhase",
    "SyncRefusal",
    "SyncReport",
    "SyncStatus",
]

for _name in __all__:
    if _name not in {"Conversations", "Preferences"}:
        globals()[_name].__module__ = "xmtp_history"
