"""The native installation, away from the event loop: one thread, on which its calls wait for each other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from xmtp_history._errors import StoreLocked
from xmtp_history._threads import in_thread
from xmtp_history.client._types import GroupInfo, GroupState, InboxState, InstallationInfo, SyncGroupMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xmtp_history import _ffi

#: What only reads, and so does not wait for whoever writes.
_READING: Final = frozenset(
    {
        "get_consent",
        "group",
        "groups",
        "identity_cursors",
        "outbox",
        "outgoing_groups",
        "status",
        "sync_messages",
        "sync_replies",
        "sync_reply",
        "sync_requests",
        "sync_task_key",
        "sync_tasks",
    }
)


class _Import:
    """An import that is under way.

    Attributes:
        over: set once it is not any more.
        writing: whether it is known to keep others from writing.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.writing = False


class Core:
    """Calls of a native installation. Each is one transaction, and is carried out whoever is cancelled meanwhile.

    While an archive is imported nobody else can write to the store. Calls that try to wait until it is over; the import
    waits for none of them.
    """

    def __init__(self, installation: _ffi.Installation) -> None:
        self._installation = installation
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xmtp-installation")
        self._import: _Import | None = None
        self._imports = 0
        self._closed = False

    @contextmanager
    def importing(self) -> Iterator[None]:
        """For the time of an import, of which there is one at a time; nothing inside may call what writes."""
        current = self._import = _Import()
        self._imports += 1
        try:
            yield
        finally:
            self._import = None
            current.over.set()

    async def call(
        self, name: str, data: bytes = b"", *, tell: Callable[[Any], object] | None = None, **request: Any
    ) -> tuple[Any, bytes]:
        """Does one thing; see ``rust/ffi/installation.rs``.

        Args:
            name: the call.
            data: bytes of a node's.
            tell: gets the result as well, also if the caller is cancelled meanwhile: nothing else will ever tell it again.
            **request: what belongs to the call.

        Raises:
            RuntimeError: the installation is closed.
            StoreLocked: another process writes to the store, for longer than five seconds.
        """
        work = partial(self._installation.call, name, data, **request)
        while True:
            under_way, imports = self._import, self._imports
            if under_way is not None and under_way.writing and name not in _READING:
                await under_way.over.wait()
                continue
            try:
                return await self._run(work, tell)
            except StoreLocked:
                if under_way is None and imports == self._imports:
                    raise
                if self._import is not None:
                    self._import.writing = True

    async def ask(
        self, name: str, data: bytes = b"", *, tell: Callable[[Any], object] | None = None, **request: Any
    ) -> Any:
        """Does one thing that gives nothing for the node."""
        return (await self.call(name, data, tell=tell, **request))[0]

    def ask_now(self, name: str, **request: Any) -> Any:
        """Asks something that is only read, without waiting for other calls.

        Raises:
            RuntimeError: the installation is closed.
        """
        self._check_open()
        return self._installation.call(name, **request)[0]

    async def _run(
        self, work: Callable[[], tuple[Any, bytes]], tell: Callable[[Any], object] | None
    ) -> tuple[Any, bytes]:
        self._check_open()
        running = asyncio.get_running_loop().run_in_executor(self._thread, work)
        if tell is None:
            return await running
        running.add_done_callback(partial(_tell, tell))
        return await asyncio.shield(running)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the client is closed")

    async def aclose(self) -> None:
        """Closes the installation, after the call that is under way. It is closed when this returns, also if cancelled."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._installation.close)
        await in_thread(self._thread.shutdown)

    async def inbox_state(self, inbox_id: str) -> InboxState | None:
        """The state of an inbox, as far as its log is here."""
        row = await self.ask("inbox_state", inbox_id=inbox_id)
        return None if row is None else inbox_state(row)

    async def groups(self) -> list[GroupInfo]:
        """All groups, in the order in which they came."""
        return [_group(row) for row in await self.ask("groups")]

    async def group(self, group_id: str) -> GroupInfo | None:
        """One group, with its members."""
        row = await self.ask("group", id=group_id)
        return None if row is None else _group(row)

    async def sync_messages(self, group_id: str | None, after: int, limit: int) -> list[SyncGroupMessage]:
        """What was said in sync groups."""
        rows, content = await self.call("sync_messages", id=group_id, after=after, limit=limit)
        messages, start = [], 0
        for row in rows:
            end = start + row.pop()
            row.append(content[start:end])
            messages.append(SyncGroupMessage(*row))
            start = end
        return messages


def _tell(tell: Callable[[Any], object], done: asyncio.Future[tuple[Any, bytes]]) -> None:
    if not done.cancelled() and done.exception() is None:
        tell(done.result()[0])


def inbox_state(row: dict[str, Any]) -> InboxState:
    """An inbox's state from its row."""
    members: list[tuple[str, str, int | None, str | None]] = row["members"]
    installations = [InstallationInfo(name, added) for kind, name, added, _ in members if kind == "installation"]
    return InboxState(
        inbox_id=row["inbox_id"],
        recovery_identifier=row["recovery_identifier"],
        identifiers=tuple(name for kind, name, *_ in members if kind != "installation"),
        installations=tuple(sorted(installations, key=lambda info: (info.added_at_ns or 0, info.id))),
        sequence_id=row["sequence_id"],
    )


def _group(row: dict[str, Any]) -> GroupInfo:
    members = row.pop("members", None)
    state = GroupState(row.pop("state"))
    return GroupInfo(state=state, members=None if members is None else tuple(map(tuple, members)), **row)
