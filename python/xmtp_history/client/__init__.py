"""A client: one installation of an inbox on the network.

``_client`` is what applications use, ``_parts`` what it is made of. ``_identity`` knows inboxes, ``_groups`` syncs groups,
``_conversations`` shows them; ``_core`` runs the native installation on a thread of its own, ``_database`` is where it
lives, ``_types`` what it tells.
"""

from __future__ import annotations

from xmtp_history.client._client import Client
from xmtp_history.client._conversations import Conversations
from xmtp_history.client._types import (
    GroupInfo,
    GroupState,
    GroupSyncSummary,
    InboxState,
    InstallationInfo,
    SyncGroupMessage,
)

__all__ = [
    "Client",
    "Conversations",
    "GroupInfo",
    "GroupState",
    "GroupSyncSummary",
    "InboxState",
    "InstallationInfo",
    "SyncGroupMessage",
]

for _public in (Client, GroupInfo, GroupState, GroupSyncSummary, InboxState, InstallationInfo, SyncGroupMessage):
    _public.__module__ = "xmtp_history"
