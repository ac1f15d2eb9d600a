"""Deletes what has expired, and counts what there is."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from xmtp_history.server import _problems as problems

if TYPE_CHECKING:
    from collections.abc import Container
    from uuid import UUID

    from xmtp_history.server._exchange import House
    from xmtp_history.server.storage import FileEntry

_logger = logging.getLogger("xmtp_history.server")


class Sweeper:
    """Goes through the storage every now and then."""

    def __init__(self, house: House, in_use: Container[UUID], seconds: float) -> None:
        self._house = house
        self._in_use = in_use
        self._seconds = seconds
        self._swept = False

    async def run(self) -> None:
        """Sweeps until it is cancelled; at once, if that has not been done."""
        if self._swept:
            await asyncio.sleep(self._seconds)
        while True:
            try:
                await self.sweep()
            except OSError as error:
                self._house.metrics.storage_errors.labels("list").inc()
                _logger.error("the sweep was broken off: %s", problems.cause(error))  # noqa: TRY400 - enough
            except Exception:
                _logger.exception("the sweep failed")
            await asyncio.sleep(self._seconds)

    async def sweep(self) -> None:
        """Goes through everything once. What cannot be removed is left for the next time.

        Raises:
            OSError: the storage cannot be listed.
        """
        house = self._house
        house.ledger.begin_count()
        began = time.time()
        files = size = 0
        async for entries in house.storage.files():
            for entry in entries:
                # What has come since is added by whoever stored it.
                if not await self._remove_file(entry) and entry.committed < began:
                    files += 1
                    size += entry.size
            # One that lists without waiting for anything must not hold up requests.
            await asyncio.sleep(0)
        async for parts in house.storage.resumables():
            for part in parts:
                if not await self._remove_part(part.upload_id, part.touched):
                    size += part.size
        house.ledger.end_count(files, size)
        with suppress(OSError):
            house.ledger.free = await house.storage.free_bytes()
        house.metrics.swept.set_to_current_time()
        self._swept = True

    async def _remove_file(self, entry: FileEntry) -> bool:
        age = self._house.policy.retention_seconds
        if age is None or entry.file_id in self._in_use or self._house.clock.now() - entry.committed < age:
            return False
        try:
            with self._house.metrics.storage("delete"):
                removed = await self._house.storage.delete(entry.file_id)
        except OSError as error:
            _logger.warning("an expired file could not be removed: %s", problems.cause(error))
            return False
        if removed:
            self._house.ledger.drop(entry.size)
            self._house.metrics.removed.labels("expired").inc()
        return True

    async def _remove_part(self, upload_id: str, touched: float) -> bool:
        if self._house.clock.now() - touched < self._house.policy.resumable_seconds:
            return False
        try:
            return await self._house.storage.discard(upload_id)
        except OSError as error:
            _logger.warning("an expired upload could not be removed: %s", problems.cause(error))
            return False
