"""The conversations of a client: what the history has of them, kept in step with the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmtp_history.client._sync_types import HmacKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xmtp_history._types import Conversation, ConversationType, Message
    from xmtp_history.client._core import Core
    from xmtp_history.client._events import EventStream, Hub
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._recording import RecordingHistory
    from xmtp_history.client._types import GroupSyncSummary


class Conversations:
    """Groups and DMs that the installation was added to, or that an archive brought.

    The installation only listens: it reads every message and follows every change, and never makes any.
    """

    def __init__(self, history: RecordingHistory, core: Core, groups: Groups, hub: Hub) -> None:
        self._history = history
        self._core = core
        self._groups = groups
        self._hub = hub

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

    def stream_all_messages(self) -> EventStream[Message]:
        """Messages of all conversations as they come, each once, in the order in which each conversation has them.

        It is fed by whatever reads the groups: the worker, or :meth:`sync_all`. What archives bring, and what another
        installation's application recorded, is not among it: see :meth:`Client.stream_events`. Messages that disappeared
        before they are read do not come.

        Raises:
            RuntimeError: the client is closed.
        """

        async def read(message_id: str) -> Message | None:
            return self._history.message(message_id)

        return self._hub.messages.stream(read)

    async def hmac_keys(self) -> dict[str, tuple[HmacKey, ...]]:
        """Keys by which a push service knows the inbox's own messages, for each conversation that the installation is in.

        Three for each: of the last 30 days' period, of this one and of the next one. All installations of the inbox have the
        same ones, once they know the same root key (device sync specification, section 5e).

        Returns:
            Conversation ids and their keys.
        """
        ids = [group.id for group in await self._groups.followed() if not group.is_sync_group]
        found = await self._core.ask("hmac_keys", ids=ids)
        return {
            group_id: tuple(HmacKey(epoch, bytes.fromhex(key)) for epoch, key in keys)
            for group_id, keys in found.items()
        }
