"""The progress bar: on stderr, only on a terminal, only for work that takes a while."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    from rich import progress

    from xmtp_history import Progress

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


class ProgressBar:
    """A context manager to be given as ``on_progress``."""

    def __init__(self) -> None:
        self._show_at = time.monotonic() + _SHOW_AFTER_SECONDS if sys.stderr.isatty() else float("inf")
        self._bar: progress.Progress | None = None
        self._task: progress.TaskID | None = None

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

    def __call__(self, state: Progress) -> None:
        """Shows how far the work is."""
        if time.monotonic() < self._show_at:
            return
        if self._bar is None or self._task is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task(_PHASES.get(state.phase, state.phase), total=None, records="")
            self._bar.start()
        # Bytes where their total is known (an archive that is read), records otherwise (a store that is exported).
        transfer = state.phase in _TRANSFERS
        by_bytes = transfer or state.bytes_total is not None
        self._bar.update(
            self._task,
            completed=state.bytes_done if by_bytes else state.done,
            total=state.bytes_total if by_bytes else state.total,
            records=f"{state.bytes_done / 1e6:,.1f} MB" if transfer else f"{state.done:,} records",
        )


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
