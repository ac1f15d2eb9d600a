"""Requests, as the core makes them: in bytes. And waiting for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from support.node_client import assoc, identity_api, message_input, mls_api


def sending(*messages: bytes) -> bytes:
    """A request to send messages to groups."""
    inputs = [message_input(message) for message in messages]
    return mls_api.SendGroupMessagesRequest(messages=inputs).SerializeToString()


def welcoming(*messages: mls_api.WelcomeMessageInput) -> bytes:
    """A request to send welcomes."""
    return mls_api.SendWelcomeMessagesRequest(messages=messages).SerializeToString()


def publication(update: assoc.IdentityUpdate) -> bytes:
    """A request to publish an identity update."""
    return identity_api.PublishIdentityUpdateRequest(identity_update=update).SerializeToString()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions are of any kind
            await asyncio.sleep(0.005)
