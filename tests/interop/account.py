"""A user of libxmtp, as a test sees it."""

from __future__ import annotations

import hashlib
import json
import queue
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from support import child

if TYPE_CHECKING:
    from pathlib import Path

#: Everything the tests ask for takes a second or two; a hang is for ever.
DEADLINE_SECONDS: Final = 40

#: What processes run: real libxmtp, and this library.
REAL: Final = "interop.real"
OURS: Final = "interop.ours"


class RealHangsError(Exception):
    """The library did not come to an end."""


class RealFailsError(Exception):
    """The library raised, or the process died."""


def account_key(name: str) -> str:
    """The private key of a name's account."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True)
class User:
    """An account with one installation per database name."""

    name: str
    node: str
    folder: Path

    def start(self, db: str = "first", *, device_sync: bool = False, module: str = REAL) -> Installation:
        """Starts an installation, and registers it if it is new, without waiting for either.

        Args:
            db: which of the user's installations.
            device_sync: whether its worker runs.
            module: what runs in the process.
        """
        path = self.folder / f"{self.name}-{db}.db3"
        who = {"node": self.node, "db": str(path), "account_key": account_key(self.name), "device_sync": device_sync}
        return Installation(who, path.with_suffix(".log"), module)

    def run(self, *steps: tuple[Any, ...], db: str = "first", deadline: float = DEADLINE_SECONDS) -> list[Any]:
        """Carries out steps in a process of their own and returns their results.

        Raises:
            RealHangsError: the process did not end in time.
            RealFailsError: it raised or died.
        """
        end = time.monotonic() + deadline
        with self.start(db) as installation:
            for step in steps:
                installation.begin(*step)
            return [installation.finish(end - time.monotonic()) for _ in steps]


class Installation:
    """A process that takes steps one by one (see interop.lines)."""

    def __init__(self, who: dict[str, Any], log: Path, module: str = REAL) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", module],
                env=child.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._write(who)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def do(self, name: str, *arguments: Any, deadline: float = DEADLINE_SECONDS) -> Any:
        """Carries out a step and returns its result.

        Raises:
            RealHangsError: no answer came in time.
            RealFailsError: the library raised, or the process died.
        """
        self.begin(name, *arguments)
        return self.finish(deadline)

    def begin(self, name: str, *arguments: Any) -> None:
        """Has a step carried out after those that were begun before; :meth:`finish` has its result."""
        self._write([name, *arguments])

    def finish(self, deadline: float = DEADLINE_SECONDS) -> Any:
        """The result of the first step that has not been asked for."""
        try:
            line = self._answers.get(timeout=max(0, deadline))
        except queue.Empty:
            self.close()
            raise RealHangsError(f"no answer after {deadline} s") from None
        if not line:
            self.close()
            raise RealFailsError(f"exit code {self._process.returncode}: {self._log.read_text()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RealFailsError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process as a crash would. What the library has reported as done is in its database."""
        if self._process.stdout is None or self._process.stdout.closed:
            return
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # What was not written any more has nobody to go to.
            try:
                pipe.close()
            except BrokenPipeError:
                continue

    def _write(self, line: Any) -> None:
        assert self._process.stdin is not None
        try:
            print(json.dumps(line), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            # It died; whoever asks for the result hears why.
            return

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")
