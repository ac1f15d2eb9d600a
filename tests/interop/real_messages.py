"""Steps of a real installation: messages and streams."""

from __future__ import annotations

import asyncio
from typing import Any

from interop.following import Following, text_of
from interop.real_base import Steps, x

_NO_PUSH = x.FfiSendMessageOpts(should_push=False)
_EVERY_CONVERSATION = x.FfiListConversationsOptions(
    created_after_ns=None,
    created_before_ns=None,
    last_activity_before_ns=None,
    last_activity_after_ns=None,
    order_by=None,
    limit=None,
    # By default conversations that were denied are not listed.
    consent_states=[x.FfiConsentState.ALLOWED, x.FfiConsentState.UNKNOWN, x.FfiConsentState.DENIED],
    include_duplicate_dms=True,
)
_EVERY_MESSAGE = x.FfiListMessagesOptions(
    sent_before_ns=None,
    sent_after_ns=None,
    limit=None,
    delivery_status=None,
    direction=x.FfiDirection.ASCENDING,
    content_types=None,
    exclude_content_types=None,
    exclude_sender_inbox_ids=None,
    sort_by=None,
    inserted_after_ns=None,
    inserted_before_ns=None,
)


class MessageSteps(Steps):
    """Sending, receiving, reading."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._following: dict[str, Following] = {}
        self._sending: asyncio.Task[dict[str, list[str]]]
        self._stop = False

    async def send(self, conversation_id: str, text: str) -> str:
        """Sends a text."""
        return str((await self._conversation(conversation_id).send(x.encode_text(text), _NO_PUSH)).hex())

    async def send_each(self, conversation_ids: list[str], texts: list[str]) -> list[str]:
        """Sends texts, each to the next one of some conversations."""
        turns = (conversation_ids[number % len(conversation_ids)] for number in range(len(texts)))
        return [await self.send(conversation_id, text) for conversation_id, text in zip(turns, texts, strict=True)]

    async def start_sending(self, conversation_id: str) -> None:
        """Sends numbered texts one after another in the background, whatever becomes of each."""
        self._sending = asyncio.create_task(self._send_on(conversation_id))

    async def stop_sending(self) -> dict[str, list[str]]:
        """Ends that, and says which texts were reported as sent and which not."""
        self._stop = True
        return await self._sending

    async def _send_on(self, conversation_id: str) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {"sent": [], "failed": []}
        while not self._stop:
            text = f"number {len(out['sent']) + len(out['failed'])}"
            try:
                await self.send(conversation_id, text)
            except x.FfiError:
                out["failed"].append(text)
            else:
                out["sent"].append(text)
        return out

    async def keep(self, conversation_id: str, text: str, times: int = 1) -> None:
        """Stores texts without publishing them."""
        conversation, content = self._conversation(conversation_id), x.encode_text(text)
        for _ in range(times):
            conversation.send_optimistic(content, _NO_PUSH)

    async def publish(self, conversation_id: str) -> None:
        """Publishes what is kept."""
        await self._conversation(conversation_id).publish_messages()

    async def delete(self, conversation_id: str, message_id: str) -> None:
        """Deletes a message for everybody."""
        self._conversation(conversation_id).delete_message(bytes.fromhex(message_id))

    async def send_text(self, conversation_id: str, text: str) -> str:
        """Sends a text by the library's own step for that, which pushes it too."""
        return str((await self._conversation(conversation_id).send_text(text)).hex())

    async def sync(self) -> None:
        """Fetches everything that others have sent."""
        await self.sync_all()

    async def sync_all(self) -> list[int]:
        """Does that, and says how many conversations there are and how many of them had something new."""
        summary = await self._client.conversations().sync_all_conversations(None)
        return [summary.num_eligible, summary.num_synced]

    async def sync_welcomes(self) -> None:
        """Fetches only what the installation was added to."""
        await self._client.conversations().sync()

    async def sync_conversation(self, conversation_id: str) -> None:
        """Fetches only what is new in one conversation."""
        await self._conversation(conversation_id).sync()

    async def held(self, conversation_id: str) -> dict[str, list[Any]]:
        """The texts of a conversation by message id, each with its id at the node and whoever sent it."""
        messages = await self._conversation(conversation_id).find_messages(_EVERY_MESSAGE)
        return {
            message.id.hex(): [message.sequence_id, message.sender_inbox_id, text_of(message)]
            for message in messages
            if message.kind.name == "APPLICATION"
        }

    async def raw_messages(self, conversation_id: str) -> dict[str, dict[str, Any]]:
        """Everything that is stored of a conversation, be it a group of devices, by message id, in the node's order."""
        return self._database.messages(conversation_id)

    async def texts(self, conversation_id: str) -> list[str]:
        """The texts of a conversation, in order."""
        messages = await self._conversation(conversation_id).find_messages(_EVERY_MESSAGE)
        return [text_of(message) for message in messages if message.kind.name == "APPLICATION"]

    async def listing(self) -> dict[str, Any]:
        """Every conversation with its messages, by id."""
        out = {}
        for item in self._client.conversations().list(_EVERY_CONVERSATION):
            conversation = item.conversation()
            kind = conversation.conversation_type().name.lower()
            messages = await conversation.find_messages(_EVERY_MESSAGE)
            out[conversation.id().hex()] = {
                "type": kind,
                "names": [
                    conversation.group_name(),
                    conversation.group_description(),
                    conversation.group_image_url_square(),
                ]
                if kind == "group"
                else [],
                "is_active": conversation.is_active(),
                "consent": conversation.consent_state().name.lower(),
                "messages": {
                    message.id.hex(): [
                        message.sent_at_ns,
                        message.sender_inbox_id,
                        message.kind.name.lower(),
                        message.delivery_status.name.lower(),
                        message.content.hex(),
                    ]
                    for message in messages
                },
            }
        return out

    # --- streams -------------------------------------------------------------------------------------------------------

    async def follow(self, kind: str) -> None:
        """Opens a stream of "messages", "conversations" or "consents"."""
        self._following[kind] = await Following.open(self._client.conversations(), kind)

    async def followed(self, kind: str, count: int, seconds: float) -> list[Any]:
        """What a stream has delivered, once there are so many or the time is over."""
        return await self._following[kind].until(count, seconds)

    async def until_closed(self, kind: str, seconds: float) -> dict[str, Any]:
        """Waits for a stream to be closed from the other end."""
        return await self._following[kind].until_closed(seconds)

    async def unfollow(self, kind: str) -> None:
        """Ends a stream."""
        await self._following.pop(kind).close()
