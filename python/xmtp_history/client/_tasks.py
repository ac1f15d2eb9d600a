"""What the other installations want done: tasks in the database, done one after the other, away from the event path."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from xmtp_history._errors import NotRegistered, XmtpHistoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xmtp_history.client._core import Core
    from xmtp_history.client._status import Status

_log = logging.getLogger(__name__)

#: The longest wait, whatever the clock says, which may be set meanwhile, seconds.
_LONGEST_SLEEP: Final = 60.0

# The back-off of the device-sync specification, section 4.5, seconds.
_FIRST_DELAY: Final = 2.0
_GROWTH: Final = 1.5
_LONGEST_DELAY: Final = 60.0
#: From here on the delay does not grow any more.
_LAST_GROWTH: Final = 10


def _delay(attempts: int) -> float:
    """Seconds from a failure to the next try, after so many failures."""
    return min(_FIRST_DELAY * _GROWTH ** min(attempts, _LAST_GROWTH), _LONGEST_DELAY)


@dataclass(frozen=True, slots=True)
class Task:
    """Something that a message of another installation asks for.

    Attributes:
        message_id: the message.
        sent_at_ns: when the node had it.
        sender: the other installation.
        pin: the request's.
        attempts: how often it failed.
        next_attempt_at_ns: when it is to be tried again.
        subject: what it is about: a request or a reply.
    """

    message_id: str
    sent_at_ns: int
    sender: str
    pin: str
    attempts: int
    next_attempt_at_ns: int
    subject: Mapping[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """A task from the core's row."""
        return cls(
            row["message_id"],
            row["sent_at_ns"],
            row["sender_installation_id"],
            row["pin"],
            row["attempts"],
            row["next_attempt_at_ns"],
            row,
        )


class TaskRunner:
    """Does the tasks of one kind, one at a time."""

    #: The core's name of the kind.
    kind: str

    def __init__(self, core: Core, status: Status) -> None:
        self._core = core
        self._status = status
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be new tasks."""
        self._news.set()

    async def run(self) -> None:
        """Does tasks for ever."""
        while True:
            self._news.clear()
            wait = _LONGEST_SLEEP
            # What failed before waits behind what is new, so that one server that hangs does not hold up everybody.
            for task in sorted(await pending(self._core, self.kind), key=lambda task: task.next_attempt_at_ns):
                until = max((task.next_attempt_at_ns - time.time_ns()) / 1e9, self._held(task))
                if until <= 0:
                    await self._try(task)
                    break
                wait = min(wait, until)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()

    def _held(self, task: Task) -> float:  # noqa: ARG002 - for those who know better
        """Seconds that a task has to wait for another reason than its own."""
        return 0.0

    async def _do(self, task: Task) -> None:
        raise NotImplementedError

    async def _failed(self, task: Task, error: Exception) -> None:
        raise NotImplementedError

    async def _try(self, task: Task) -> None:
        try:
            await self._do(task)
        except NotRegistered:
            raise
        except Exception as error:  # noqa: BLE001 - what goes on has to go on
            if not isinstance(error, XmtpHistoryError | OSError | ValueError):
                _log.exception("a task failed for a reason that nobody thought of")
            self._status.count("failures")
            await self._failed(task, error)

    async def _again(self, task: Task, what: str, error: Exception) -> None:
        """The task is to be tried again."""
        seconds = _delay(task.attempts + 1)
        self._status.count("retries")
        _log.info("%s: again in %.1f s: %s", what, seconds, reason_of(error))
        at_ns = time.time_ns() + int(seconds * 1e9)
        await self._core.ask(
            "task_retry", message_id=task.message_id, reason=reason_of(error), next_attempt_at_ns=at_ns
        )


async def pending(core: Core, kind: str) -> list[Task]:
    """The pending tasks of a kind, in the order in which they were asked for."""
    return [Task.of(row) for row in await core.ask("sync_tasks") if row["kind"] == kind]


def reason_of(error: Exception) -> str:
    """What went wrong, to be kept and shown. Messages of other errors than ours could have anything in them."""
    return str(error) if isinstance(error, XmtpHistoryError) else type(error).__name__
