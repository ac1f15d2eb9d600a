"""The threads of a storage, on which it waits for the disk."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """Threads that work one thing after another. What is cancelled while it waits is not begun; what runs, runs on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Makes threads available. Starting twice is fine."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._count, "xmtp-history-storage")

    async def stop(self) -> None:
        """Waits for all work to end. Stopping twice is fine."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    def submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Has work done on a thread."""
        if self._executor is None:
            raise RuntimeError("the storage is not prepared")
        return self._executor.submit(work, *args, **kwargs)

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Has work done on a thread, and waits for it."""
        return await asyncio.wrap_future(self.submit(work, *args, **kwargs))

    async def obtain(
        self, let_go: Callable[[_T], object], work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """As :meth:`run`, for work that opens something: if the caller is cancelled, ``let_go`` gets what it opened."""
        opening = self.submit(work, *args, **kwargs)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(partial(_let_go, let_go))
            raise


def _let_go(let_go: Callable[[_T], object], opening: Future[_T]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        let_go(opening.result())
