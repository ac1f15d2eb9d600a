"""Sockets beside their transports: for what goes past aiohttp, the bodies of requests and files that are sent."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


def own_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """A descriptor of our own: that of the transport may be closed, and be another connection's, at any time.

    Raises:
        OSError: there are no descriptors left.
    """
    taken = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    taken.settimeout(0)
    return taken


def wake(waiting: asyncio.Future[None]) -> None:
    """Ends the waiting for a socket, which the loop may report more than once."""
    if not waiting.done():
        waiting.set_result(None)
