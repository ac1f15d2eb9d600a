"""Progress bars: on stderr, only on a terminal, only for work that takes a while."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from rich import progress

    from xmtp_history import Progress, SyncStatus

# Below this nobody waits, and loading the drawing library would take longer than the work.
_SHOW_AFTER_SECONDS = 0.5

_PHASES = {
    "import": "Importing",
    "export": "Exporting",
    "verify": "Verifying",
    "rewrite": "Rewriting",
    "upload": "Uploading",
    "download": "Downloading",
}
# They know nothing of records.
_TRANSFERS = ("upload", "download")
# How often a client is asked how far it is.
_ASK_EVERY_SECONDS = 0.1


class _Bar:
    """A bar that appears when it is worth it, and is gone in the end."""

    def __init__(self, *, at_once: bool = False) -> None:
        after = 0.0 if at_once else _SHOW_AFTER_SECONDS
        self._show_at = time.monotonic() + after if sys.stderr.isatty() else float("inf")
        self._bar: progress.Progress | None = None
        self._task: progress.TaskID | None = None
        self._description = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, description: str, done: int, total: int | None, records: str) -> None:
        if time.monotonic() < self._show_at:
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        if self._task is None or description != self._description:
            # A bar of its own for each phase: rates and times of one say nothing of the next.
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task, self._description = self._bar.add_task(description, total=total, records=""), description
        self._bar.update(self._task, completed=done, total=total, records=records)


class ProgressBar(_Bar):
    """A context manager to be given as ``on_progress``."""

    def __call__(self, state: Progress) -> None:
        """Shows how far the work is."""
        # Bytes where their total is known (an archive that is read), records otherwise (a store that is exported).
        transfer = state.phase in _TRANSFERS
        by_bytes = transfer or state.bytes_total is not None
        self._show(
            _PHASES.get(state.phase, state.phase),
            state.bytes_done if by_bytes else state.done,
            state.bytes_total if by_bytes else state.total,
            _megabytes(state.bytes_done) if transfer else f"{state.done:,} records",
        )


class SyncBar(_Bar):
    """How far a sync is; a context manager."""

    @contextlib.asynccontextmanager
    async def working(self, description: str) -> AsyncIterator[None]:
        """Says what is done, as long as it takes."""
        async with self._repeated(lambda: self._show(description, 0, None, "")):
            yield

    @contextlib.asynccontextmanager
    async def following(self, status: Callable[[], SyncStatus]) -> AsyncIterator[None]:
        """Shows what a client says about its sync, as long as it takes."""
        async with self._repeated(lambda: self._show_status(status())):
            yield

    @contextlib.asynccontextmanager
    async def _repeated(self, show: Callable[[], None]) -> AsyncIterator[None]:
        if self._show_at == float("inf"):
            yield
            return

        async def repeat() -> None:
            while True:
                show()
                await asyncio.sleep(_ASK_EVERY_SECONDS)

        showing = asyncio.create_task(repeat())
        try:
            yield
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

    def _show_status(self, status: SyncStatus) -> None:
        from xmtp_history import SyncPhase

        if status.phase is SyncPhase.DOWNLOADING:
            amount = f"{_megabytes(status.bytes_done)}, {status.records:,} records"
            self._show("Downloading", status.bytes_done, status.bytes_total, amount)
        elif status.phase is SyncPhase.IMPORTING:
            self._show("Importing", status.records, status.records_total, f"{status.records:,} records")
        else:
            others = f"{status.other_installations} other{'' if status.other_installations == 1 else 's'}"
            self._show(f"Waiting for another installation ({others})…", 0, None, "")


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _new_bar() -> progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[records]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
