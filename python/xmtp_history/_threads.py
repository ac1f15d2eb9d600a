"""Blocking work, away from the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def in_thread(work: Callable[[], _Result], *, on_cancel: Callable[[], object] | None = None) -> _Result:
    """Runs work on a thread. It is over when this returns, also when the caller was cancelled meanwhile.

    A file that is closed while a thread still uses it could make the thread use the file that is opened next.

    Args:
        work: what to do.
        on_cancel: called once the caller is cancelled, to have the work end soon.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            # So that nobody complains that an exception was never looked at.
            running.exception()
        raise
