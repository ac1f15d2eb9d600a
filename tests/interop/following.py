"""Streams of real libxmtp: what they deliver, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from xmtp_bindings import xmtpv3 as x

if TYPE_CHECKING:
    from collections.abc import Callable


def text_of(message: Any) -> str:
    """What a message says; nothing if it is no text."""
    try:
        return x.decode_text(message.content)
    except x.FfiError:
        return ""


class Following:
    """One open stream."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._items: list[Any] = []
        self._errors: list[str] = []
        self._closed = False
        self._closer: Any = None

    @classmethod
    async def open(cls, conversations: Any, kind: str) -> Self:
        """Opens a stream of "messages", "conversations" or "consents", and waits until it runs."""
        following = cls()
        if kind == "messages":
            following._closer = await conversations.stream_all_messages(_Messages(following), None)
        elif kind == "conversations":
            following._closer = await conversations.stream(_Conversations(following))
        else:
            following._closer = await conversations.stream_consent(_Consents(following))
        await following._closer.wait_for_ready()
        return following

    async def until(self, count: int, seconds: float) -> list[Any]:
        """What has come, once there are so many or the time is over."""
        await self._until(lambda: len(self._items) >= count, seconds)
        return list(self._items)

    async def until_closed(self, seconds: float) -> dict[str, Any]:
        """Whether the library has closed the stream by itself, waiting for that, and the errors that it reported."""
        await self._until(lambda: self._closed, seconds)
        return {"closed": self._closed, "errors": list(self._errors)}

    async def close(self) -> None:
        """Ends the stream."""
        await self._closer.end_and_wait()

    def note(self, *, items: tuple[Any, ...] = (), errors: tuple[str, ...] = (), closed: bool = False) -> None:
        """Takes what the library says; it does so on threads of its own."""
        self._loop.call_soon_threadsafe(self._note, items, errors, closed)

    def _note(self, items: tuple[Any, ...], errors: tuple[str, ...], closed: bool) -> None:
        self._items += items
        self._errors += errors
        self._closed |= closed
        self._changed.set()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()


class _Callback:
    def __init__(self, following: Following) -> None:
        self._following = following

    def on_error(self, error: Any) -> None:
        self._following.note(errors=(str(error),))

    def on_close(self) -> None:
        self._following.note(closed=True)


class _Messages(_Callback, x.FfiMessageCallback):
    def on_message(self, message: Any) -> None:
        kind = message.kind.name.lower()
        item = [message.id.hex(), message.conversation_id.hex(), text_of(message), kind, message.sent_at_ns]
        self._following.note(items=(item,))


class _Conversations(_Callback, x.FfiConversationCallback):
    def on_conversation(self, conversation: Any) -> None:
        self._following.note(items=(conversation.id().hex(),))


class _Consents(_Callback, x.FfiConsentCallback):
    def on_consent_update(self, consent: Any) -> None:
        # Updates of other kinds arrive as empty lists.
        items = ([record.entity_type.name.lower(), record.entity, record.state.name.lower()] for record in consent)
        self._following.note(items=tuple(items))
