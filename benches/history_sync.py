"""History sync from one installation to another: a node and a history server, and the two, each in a process of its own.

The old installation gets an archive to begin with, in a process that ends before anything is measured. Then it is
opened anew, a new installation of the same inbox is registered, and the two meet: they join each other's groups. What
libxmtp says there before may never be readable for the other one. After that the new one asks for the history, and
the time runs until it has the last message.
"""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataset
import processes
from lines import Child, Unavailable
from plan import LIBRARY, LIBXMTP, NEW_LIBXMTP, OLD_LIBXMTP

_HERE = Path(__file__).resolve().parent
_READY_S = 60.0
_DEADLINE_S = 900.0
_LOOK_S = 0.05
#: How long both have nothing to say to each other before anything is measured.
_QUIET_S = 1.0

#: What the old and the new installation are of.
SIDES = {
    LIBRARY: (LIBRARY, LIBRARY),
    LIBXMTP: (LIBXMTP, LIBXMTP),
    OLD_LIBXMTP: (LIBXMTP, LIBRARY),
    NEW_LIBXMTP: (LIBRARY, LIBXMTP),
}

#: What the time consists of, one after the other, and what each part ends with, as the servers see it.
STEPS = {
    "request": "message",
    "noticed": "upload",
    "upload": "uploaded",
    "reply": "message",
    "fetched": "download",
    "download": "downloaded",
}
#: From the end of the download to the end of everything.
LAST_STEP = "rest"

_numbers = itertools.count(1)


class Servers:
    """A node and a history server; close them when done."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "history-sync-servers"
        self._child = Child([sys.executable, str(_HERE / "history_sync_servers.py"), str(self._data)], folder)
        answer = json.loads(self._child.line(_READY_S))
        self.node: str = answer["node"]
        self.server: str = answer["server"]

    def close(self) -> None:
        """Ends the process and removes what it has stored."""
        self._child.close()
        shutil.rmtree(self._data, ignore_errors=True)

    def noted(self) -> list[tuple[str, float]]:
        """What has come by so far: names and times."""
        noted: list[tuple[str, float]] = json.loads(self._child.ask("noted", _READY_S))
        return noted

    def wait_for(self, wanted: str) -> None:
        """Waits until something has come by, and nothing else for a while."""

        def quiet() -> bool:
            noted = self.noted()
            return any(name == wanted for name, _ in noted) and time.monotonic() - noted[-1][1] > _QUIET_S

        _until(quiet, f"no {wanted} has come to the node")


class Installation:
    """An installation in a process of its own; close it when done."""

    def __init__(self, subject: str, servers: Servers, database: Path, account: str, *, quiet: bool = False) -> None:
        self.subject = subject
        command = [sys.executable, str(_HERE / "history_sync_child.py"), subject, servers.node, servers.server]
        command += [str(database), account, *(["quiet"] if quiet else [])]
        self._child = Child(command, database.parent, {"RUST_LOG": "off"})
        self._answer(self._child.line(_READY_S))
        self.idle = 0

    def close(self) -> None:
        """Ends the process, which closes what is open."""
        self._child.finish()

    def _answer(self, line: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def ask(self, name: str, *arguments: str) -> dict[str, Any]:
        """Has something done; returns its value, and when it began and ended."""
        return self._answer(self._child.ask(json.dumps([name, *arguments]), _DEADLINE_S))

    def fetch(self) -> None:
        """Lets it fetch what others send from now on, which this library does anyway."""
        if self.subject == LIBXMTP:
            self.ask("fetch")

    def count(self) -> int:
        """How many messages it has."""
        return int(self.ask("count")["value"])

    def begin(self) -> None:
        """From here on memory counts."""
        self.idle = processes.resident_bytes([self._child.pid])
        processes.forget_peak([self._child.pid])

    def added(self) -> int:
        """The most memory since then, above what there was."""
        return processes.peak_bytes([self._child.pid]) - self.idle


@dataclass(frozen=True, slots=True)
class Outcome:
    """A sync.

    Attributes:
        seconds: from asking to the last message.
        count: how many messages the new installation has.
        steps: what the time consists of.
        memory: the most that the old and the new process had above what they had before.
    """

    seconds: float
    count: int
    steps: dict[str, float]
    memory: tuple[int, int]


def sync(subject: str, size: int, folder: Path) -> Outcome:
    """Syncs a history of so many messages once.

    Raises:
        Unavailable: one of the processes has failed, or it took too long.
    """
    old_subject, new_subject = SIDES[subject]
    source, account, number = dataset.dataset(size).path, secrets.token_hex(32), next(_numbers)
    place = folder / f"history-sync-{number}"
    place.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        servers = stack.enter_context(closing(Servers(place)))
        with closing(Installation(old_subject, servers, place / "old.db3", account, quiet=True)) as filled:
            filled.ask("load", str(source), dataset.KEY.hex())
        old = stack.enter_context(closing(Installation(old_subject, servers, place / "old.db3", account)))
        old.fetch()
        servers.wait_for("commit")
        new = stack.enter_context(closing(Installation(new_subject, servers, place / "new.db3", account)))
        new.fetch()
        # The old one has joined the new one's group, and greets it.
        servers.wait_for("message")
        last = _last(source) if new_subject == LIBXMTP else ""
        old.begin()
        new.begin()
        asked = new.ask("ask", last)
        began, ended = asked["began"], asked["ended"]
        memory = old.added(), new.added()
        return Outcome(ended - began, new.count(), _steps(began, ended, servers.noted()), memory)


def _last(archive: Path) -> str:
    """The id of the message that comes last in libxmtp's archives and in ours, which are in the order of the ids."""
    from xmtp_history import Message, open_archive

    with open_archive(archive, dataset.KEY) as records:
        return max(record.id for record in records if isinstance(record, Message))


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise Unavailable(otherwise)
        time.sleep(_LOOK_S)


def _steps(began: float, ended: float, noted: list[tuple[str, float]]) -> dict[str, float]:
    """What the time consists of; empty where something has not come by."""
    found: dict[str, float] = {}
    passing = iter(noted)
    before = began
    for step, end in STEPS.items():
        at = next((time for name, time in passing if name == end and time >= before), None)
        if at is None:
            return {}
        found[step], before = at - before, at
    # What is on its way to a client has left the server.
    found[LAST_STEP] = ended - before
    return found
