"""The conversations of a client: what the history has of them, kept in step with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xmtp_history._history import History
    from xmtp_history._types import Conversation, ConversationType
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._types import GroupSyncSummary


class Conversations:
    """Groups and DMs that the installation was added to, or that an archive brought.

    The installation only listens: it reads every message and follows every change, and never makes any.
    """

    def __init__(self, history: History, groups: Groups) -> None:
        self._history = history
        self._groups = groups

    def list(
        self, *, conversation_type: ConversationType | None = None, limit: int | None = None
    ) -> tuple[Conversation, ...]:
        """The conversations, the one with the newest activity first; see :meth:`History.conversations`."""
        return tuple(self._history.conversations(conversation_type=conversation_type, limit=limit))

    def get(self, conversation_id: str) -> Conversation | None:
        """One conversation, or None.

        Raises:
            ValueError: the id is not hexadecimal.
        """
        return self._history.conversation(conversation_id)

    async def sync(self) -> tuple[str, ...]:
        """Joins the conversations and sync groups that the installation was added to, without reading them.

        Returns:
            The ids of the groups that are new.

        Raises:
            NetworkError: the node cannot be reached. What was done before stays.
        """
        return tuple(await self._groups.sync_welcomes())

    async def sync_all(self, conversation_ids: Iterable[str] | None = None) -> GroupSyncSummary:
        """Joins what there is to be joined, and reads everything that was said in all conversations, or in those named.

        Each page of messages is one transaction, with the cursor behind it: an interruption loses nothing, and nothing
        comes twice.

        Raises:
            NotRegistered: the installation was revoked.
            NetworkError: the node cannot be reached. What was read before stays.
        """
        return await self._groups.sync_conversations(conversation_ids)
