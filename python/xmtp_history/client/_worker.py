"""The sync worker: keeps an installation in step, and does what the others ask for (device-sync specification, section 4).

One task, in which each part goes on by itself after a failure. Streams and ticks only say that there may be news; what there
is, the cursors in the database know. So nothing depends on a stream having told everything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from xmtp_history._backoff import full_jitter
from xmtp_history._errors import NotRegistered, XmtpHistoryError
from xmtp_history.client._groups import first_error
from xmtp_history.client._sync_types import SyncPhase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from xmtp_history._history import History
    from xmtp_history.client._core import Core
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._requests import Requests
    from xmtp_history.client._status import Status
    from xmtp_history.client._tasks import TaskRunner
    from xmtp_history.client._types import GroupInfo
    from xmtp_history.network import NodeApi
    from xmtp_history.network._streams import GroupStream

_log = logging.getLogger(__name__)

#: The longest wait before what failed goes on, after the first failure, and in the end, seconds.
_RESTART_SECONDS: Final = 1.0
_LONGEST_RESTART_SECONDS: Final = 60.0
#: What went well for so long has recovered, seconds.
_RECOVERED_SECONDS: Final = 60.0
#: Groups in one stream; those beyond are read on every tick.
_MOST_STREAMED: Final = 8_000
#: Ticks come up to so much earlier and later, so that clients do not all come at once.
_JITTER: Final = 0.2
#: How long a node may not give what it has told, seconds; what takes longer comes with a tick.
_LAG_SECONDS: Final = 0.5
#: How long closing waits for what was cancelled, seconds.
_CLOSING_SECONDS: Final = 2.0

# Tests replace it.
_random = random.random


class SyncWorker:
    """The background task of a client.

    Args:
        api: the node.
        core: the native installation.
        groups: what is synced.
        requests: own requests.
        history: which conversations are recent.
        status: what is shown.
        runners: those who do tasks.
        installation_id: whose welcomes are listened to.
        interval: seconds between ticks.
        automatic: whether a new installation asks for history by itself.
    """

    def __init__(
        self,
        api: NodeApi,
        core: Core,
        groups: Groups,
        requests: Requests,
        *,
        history: History,
        status: Status,
        runners: tuple[TaskRunner, ...],
        installation_id: str,
        interval: float,
        automatic: bool,
    ) -> None:
        self._api = api
        self._core = core
        self._groups = groups
        self._requests = requests
        self._history = history
        self._status = status
        self._runners = runners
        self._installation_key = bytes.fromhex(installation_id)
        self._interval = interval
        self._automatic = automatic
        self._task: asyncio.Task[None] | None = None
        #: How it ended: closed, or for good.
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: How many have asked for it to run.
        self._users = 0
        #: One ends before the next one begins.
        self._life = asyncio.Lock()
        self._initialised = False
        self._wanted = asyncio.Event()
        #: What is wanted: a look at everything, at welcomes, at groups' messages up to an id, at the outbox, at the list of
        #: groups.
        self._everything = True
        self._welcomes = False
        self._messages: dict[str, int] = {}
        #: Messages that the node has told and not given.
        self._missed: dict[str, int] = {}
        self._outbox = False
        self._unfollowed = True
        self._stream: GroupStream | None = None
        self._closed = False

    # --- life -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the worker, until it is closed."""
        self._begin()
        self._users += 1

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Has the worker run, if it does not.

        Raises:
            NotRegistered: it has ended for good.
            RuntimeError: the client is closed.
        """
        async with self._life:
            self._begin()
            self._users += 1
        try:
            yield
        finally:
            async with self._life:
                self._users -= 1
                if not self._users:
                    await self._end()

    async def aclose(self) -> None:
        """Ends the worker, whatever it is doing. Closing twice is fine."""
        self._closed = True
        self._requests.end(RuntimeError("the client is closed"))
        try:
            await self._end()
        finally:
            if not self._over.done():
                self._over.set_result(None)

    async def wait(self) -> None:
        """Waits until the worker has ended; see :meth:`Client.wait`."""
        await asyncio.shield(self._over)

    def wake_outbox(self) -> None:
        """There is something to be told to the other installations."""
        self._outbox = True
        self._wanted.set()

    def wake_groups(self) -> None:
        """There are groups that were not there before."""
        self._unfollowed = True
        self._wanted.set()

    def wake_runners(self) -> None:
        """There are tasks."""
        for runner in self._runners:
            runner.wake()

    def _begin(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._over.done():
            # A revoked installation never comes back.
            self._over.result()
        if self._task is None or self._task.done():
            self._requests.end(None)
            self._everything = self._unfollowed = True
            self._task = asyncio.create_task(self._run(), name="xmtp-sync-worker")

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        _, unfinished = await asyncio.wait([task], timeout=_CLOSING_SECONDS)
        if unfinished:
            _log.warning("the sync worker has not ended yet, and is not waited for any longer")

    async def _run(self) -> None:
        if self._status.phase is SyncPhase.OFF:
            self._status.phase = SyncPhase.IDLE
        _log.info(
            "the sync worker has started; it looks for news every %.0f s, and whenever the node says so", self._interval
        )
        parts = {
            "following groups": self._passes,
            "listening for welcomes": self._listen_for_welcomes,
            "listening to groups": self._listen_to_groups,
            "looking after requests": self._requests.run,
            **{f"doing tasks ({runner.kind})": runner.run for runner in self._runners},
        }
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tick())
                for name, part in parts.items():
                    group.create_task(self._keep(name, part))
        except BaseExceptionGroup as errors:
            error = first_error(errors)
            if not isinstance(error, NotRegistered):
                raise
            _log.warning("the sync worker has ended for good: %s", error)
            self._status.phase, self._status.reason = SyncPhase.FAILED, str(error)
            self._requests.end(error)
            if not self._over.done():
                self._over.set_exception(error)
                # Nobody has to wait.
                self._over.exception()
        except asyncio.CancelledError:
            _log.info("the sync worker has ended")
            raise

    async def _keep(self, name: str, part: Callable[[], Awaitable[None]]) -> None:
        """Has a part go on, whatever happens to it. Only if the installation was revoked all parts end."""
        failures = 0
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            try:
                await part()
            except NotRegistered:
                raise
            except XmtpHistoryError as error:
                cause = str(error)
            except Exception as error:  # noqa: BLE001 - the other parts have to go on
                cause = type(error).__name__
                _log.exception("%s failed for a reason that nobody thought of", name)
            else:
                return
            failures = 1 if now() - began > _RECOVERED_SECONDS else failures + 1
            self._status.count("failures")
            await self._pause(name, part, failures, cause)

    async def _pause(self, name: str, part: Callable[[], Awaitable[None]], failures: int, cause: str) -> None:
        self._status.count("retries")
        seconds = full_jitter(failures, _random(), first=_RESTART_SECONDS, longest=_LONGEST_RESTART_SECONDS)
        _log.info("%s: again in %.1f s: %s", name, seconds, cause)
        if part == self._passes:
            # News are a sign that the node is back.
            await asyncio.sleep(min(seconds, _RESTART_SECONDS))
            seconds -= _RESTART_SECONDS
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wanted.wait()
        else:
            await asyncio.sleep(seconds)

    # --- news -----------------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._interval * (1 - _JITTER + 2 * _JITTER * _random()))
            self._everything = True
            self._wanted.set()

    async def _listen_for_welcomes(self) -> None:
        cursor = (await self._core.ask("status"))["welcome_cursor"]
        async with self._api.welcome_stream(self._installation_key, cursor) as stream:
            async for _ in stream:
                self._welcomes = True
                self._wanted.set()

    async def _listen_to_groups(self) -> None:
        groups = await self._streamed()
        async with self._api.group_stream((bytes.fromhex(group.id), group.cursor) for group in groups) as stream:
            self._stream = stream
            # Some may have come since they were listed.
            self.wake_groups()
            try:
                async for message in stream:
                    self._messages[message.topic.hex()] = message.id
                    self._wanted.set()
            finally:
                self._stream = None

    async def _streamed(self) -> list[GroupInfo]:
        """The groups that are streamed: all of them, or sync groups and what was most active last."""
        groups = await self._groups.followed()
        if len(groups) <= _MOST_STREAMED:
            return groups
        rank = {recent.id: place for place, recent in enumerate(self._history.conversations(limit=_MOST_STREAMED))}
        groups.sort(key=lambda group: -1 if group.is_sync_group else rank.get(group.id, _MOST_STREAMED))
        return groups[:_MOST_STREAMED]

    async def _follow(self) -> None:
        """Has the stream follow the groups that there are now."""
        stream = self._stream
        if stream is None:
            # It begins with all of them.
            return
        groups = {bytes.fromhex(group.id): group.cursor for group in await self._streamed()}
        for group_id in stream.cursors.keys() - groups.keys():
            stream.remove(group_id)
        for group_id in groups.keys() - stream.cursors.keys():
            stream.add(group_id, groups[group_id])

    # --- passes ---------------------------------------------------------------------------------------------------------

    async def _passes(self) -> None:
        """Looks at what is wanted, for ever. What comes meanwhile is looked at together."""
        while True:
            self._wanted.clear()
            if not self._initialised:
                await self._initialise()
            await self._pass()
            await self._wanted.wait()

    async def _initialise(self) -> None:
        await self._look_at_everything()
        if self._automatic:
            await self._requests.ask_once()
        self._initialised = True
        self._status.count("init")

    async def _pass(self) -> None:
        if self._everything:
            await self._look_at_everything()
        elif self._welcomes or self._messages:
            welcomes, messages = self._welcomes, self._messages
            self._welcomes, self._messages = False, {}
            try:
                missing = await self._groups.sync_news(welcomes=welcomes, messages=messages)
            except BaseException:
                self._everything = True
                raise
            # Asked for a moment later, the node may show what it has told; once, since groups may have other reasons.
            later = {group_id: last for group_id, last in missing.items() if self._missed.get(group_id) != last}
            if later:
                self._missed = missing
                asyncio.get_running_loop().call_later(_LAG_SECONDS, self._look_again, later)
        if self._outbox:
            self._outbox = False
            try:
                await self._groups.send_outbox()
            except BaseException:
                self._everything = True
                raise
        if self._unfollowed:
            self._unfollowed = False
            try:
                await self._follow()
            except BaseException:
                self._unfollowed = True
                raise

    def _look_again(self, messages: dict[str, int]) -> None:
        self._messages = messages | self._messages
        self._wanted.set()

    async def _look_at_everything(self) -> None:
        self._everything = self._welcomes = self._outbox = False
        self._messages = {}
        self._unfollowed = True
        try:
            await self._groups.sync_everything()
        except BaseException:
            self._everything = True
            raise
