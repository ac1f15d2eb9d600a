"""The native installation, away from the event loop: one thread, on which its calls wait for each other."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from xmtp_history._threads import in_thread
from xmtp_history.client._types import GroupInfo, GroupState, InboxState, InstallationInfo, SyncGroupMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from xmtp_history import _ffi


class Core:
    """Calls of a native installation. Each is one transaction, and is carried out whoever is cancelled meanwhile."""

    def __init__(self, installation: _ffi.Installation) -> None:
        self._installation = installation
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xmtp-installation")
        self._closed = False

    async def run(self, work: Callable[[], Any]) -> Any:
        """Runs work where the calls run.

        Raises:
            RuntimeError: the installation is closed.
        """
        if self._closed:
            raise RuntimeError("the client is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def call(self, name: str, data: bytes = b"", **request: object) -> tuple[Any, bytes]:
        """Does one thing; see ``rust/ffi/installation.rs``."""
        answer: tuple[Any, bytes] = await self.run(partial(self._installation.call, name, data, **request))
        return answer

    async def ask(self, name: str, data: bytes = b"", **request: object) -> Any:
        """Does one thing that gives nothing for the node."""
        return (await self.call(name, data, **request))[0]

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
