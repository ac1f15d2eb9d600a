"""Deleting what is old, when asked to (node specification, section 9). By default a node keeps everything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final

from xmtp_history.node._store import Kind, StorageUnavailable

if TYPE_CHECKING:
    from xmtp_history.node._store import Store

_DAY_NS: Final = 86_400 * 10**9
_STEP: Final = 200
#: What the official network keeps 30 days, and 90 days.
_LONGER: Final = 3


class Retention:
    """Application messages are kept for some days, welcomes and key packages three times as long, all else for ever.

    Commits stay because without them nobody can follow a group; identity updates and the commit log are never deleted.
    What a welcome pointer points to is kept a day longer than the pointer.
    """

    def __init__(self, store: Store, days: float) -> None:
        self._store = store
        longer = days * _LONGER
        self._days = {Kind.APPLICATION: days, Kind.WELCOME: longer, Kind.POINTEE: longer + 1}
        self._key_package_days = longer
        #: Up to where the log has been looked through for each kind: what is left there stays.
        self._done = dict.fromkeys(self._days, 0)

    async def run(self, every_s: float = 3600) -> None:
        """Deletes what is old enough, again and again, until cancelled."""
        while True:
            # What cannot be deleted now, because the disk is full, is deleted later.
            with contextlib.suppress(StorageUnavailable):
                await self.delete_old()
            await asyncio.sleep(every_s)

    async def delete_old(self) -> None:
        """Deletes what is old enough now, a little at a time."""
        now = time.time_ns()
        for kind, days in self._days.items():
            before_ns = now - round(days * _DAY_NS)
            while await self._step(kind, before_ns):
                pass
        before_ns = now - round(self._key_package_days * _DAY_NS)
        await self._store.write(lambda transaction: transaction.delete_key_packages(before_ns=before_ns))

    async def _step(self, kind: Kind, before_ns: int) -> bool:
        after_id = self._done[kind]
        reached, more = await self._store.write(
            lambda transaction: transaction.delete_entries(kind, after_id=after_id, before_ns=before_ns, limit=_STEP)
        )
        self._done[kind] = reached
        return more
