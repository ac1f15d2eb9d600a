"""Child processes that answer a line with a line, each within a deadline."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from pathlib import Path
from typing import IO

_FINISH_S = 15.0


class Unavailable(RuntimeError):
    """A subject cannot be measured here; the text says why."""


class Child:
    """A child process; close it when done."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put("")

    def line(self, seconds: float) -> str:
        """The next line of the child. One that does not come in time costs the child its life."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            raise Unavailable(f"no answer within {seconds:.0f} s") from None
        if not line:
            self.close()
            raise Unavailable(f"the process ended with code {self._process.returncode}")
        return line

    def tell(self, request: str) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise Unavailable("the process has ended") from None

    def ask(self, request: str, seconds: float) -> str:
        """Sends a line and waits for the answer."""
        self.tell(request)
        return self.line(seconds)

    def finish(self) -> None:
        """Ends the child's standard input and lets the child end by itself, within reason."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FINISH_S)
        self.close()

    def close(self) -> None:
        """Ends the child, at once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdin is not None:
            # Unsent requests to a dead child are not worth an error.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
