"""Sending files from the kernel. The event loop's own way takes up to twice the processor time."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from xmtp_history.server._sockets import own_socket, wake

if TYPE_CHECKING:
    import io
    import socket
    from collections.abc import AsyncIterator

#: Bytes handed to a socket at once. In between others have their turn, and the disk reads what comes next.
_PIECE_BYTES = 4 * 1024 * 1024


async def send_file(
    transport: asyncio.Transport, file: io.FileIO, start: int, end: int, stall_seconds: float
) -> AsyncIterator[int]:
    """Sends a part of a file behind what the transport has been given, which has to be sent already.

    Args:
        transport: of a connection without TLS; nobody else may write to it meanwhile.
        file: the file.
        start: where the part begins.
        end: where it ends.
        stall_seconds: how long the client may take nothing.

    Yields:
        How many bytes were sent.

    Raises:
        ConnectionError: the client is gone.
        TimeoutError: it takes nothing.
        OSError: the file cannot be read, or is shorter than it was.
    """
    loop = asyncio.get_running_loop()
    if transport.is_closing():
        raise ConnectionResetError
    with own_socket(transport) as taken:
        while start < end:
            count = min(_PIECE_BYTES, end - start)
            try:
                sent = os.sendfile(taken.fileno(), file.fileno(), start, count)
            except (BlockingIOError, InterruptedError):
                async with asyncio.timeout(stall_seconds):
                    await _writable(loop, taken)
                continue
            if not sent:
                raise OSError("the file is shorter than it was")
            start += sent
            yield sent
            if start < end:
                _read_ahead(file, start + _PIECE_BYTES, end)
                await asyncio.sleep(0)


async def _writable(loop: asyncio.AbstractEventLoop, taken: socket.socket) -> None:
    waiting = loop.create_future()
    loop.add_writer(taken, wake, waiting)
    try:
        await waiting
    finally:
        loop.remove_writer(taken)


def _read_ahead(file: io.FileIO, start: int, end: int) -> None:
    """Has the disk read what is sent next: waiting for it would hold up everybody."""
    if start < end and hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), start, min(_PIECE_BYTES, end - start), os.POSIX_FADV_WILLNEED)
