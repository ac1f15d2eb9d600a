"""How much clients may take, and what is done about those who want more."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xmtp_history.server import _problems as problems

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xmtp_history.server.storage import Storage

#: How long a reading of the free space is taken for true, seconds, and how many bytes may go by meanwhile.
_FREE_SECONDS = 1.0
_FREE_BYTES = 64 * 1024 * 1024

#: Clients whose rate is remembered. Beyond, those who came first are forgotten, and start afresh.
_CLIENTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits of a history server. None means that there is none.

    A *client* is an upload token where tokens are in use, else an address (of IPv6, a /64 network).

    Attributes:
        max_file_bytes: larger uploads are refused with 413, as soon as it is known.
        max_total_bytes: of all files together; what does not fit is refused with 507.
        min_free_bytes: of the file system that the server leaves free for others; 507.
        max_uploads: at the same time; 503.
        max_uploads_per_client: at the same time; 429.
        uploads_per_minute: of one client, which may come at once; 429.
        max_downloads: at the same time; 503.
        max_connections: open at the same time; further ones get 503 and are closed.
        head_seconds: for sending the head of a request; 408.
        idle_seconds: without a byte of an upload; 408.
        min_bytes_per_second: on average, of an upload that lasts longer than a minute; 408.
        stall_seconds: without a download getting on, after which it is cut off.
        keep_alive_seconds: that an unused connection stays open.
        shutdown_seconds: that running requests may take when the server stops.

    Raises:
        ValueError: a limit is negative.
    """

    max_file_bytes: int | None = 16 * 1024**3
    max_total_bytes: int | None = None
    min_free_bytes: int = 64 * 1024**2
    max_uploads: int = 1_000
    max_uploads_per_client: int = 64
    uploads_per_minute: int | None = 600
    max_downloads: int = 1_000
    max_connections: int = 4_000
    head_seconds: float = 10.0
    idle_seconds: float = 30.0
    min_bytes_per_second: int = 1_024
    stall_seconds: float = 120.0
    keep_alive_seconds: float = 60.0
    shutdown_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 0:
                raise ValueError(f"{field.name} must not be negative")

    def check_size(self, size: int) -> None:
        """Refuses a file of this size, if it is too large."""
        if self.max_file_bytes is not None and size > self.max_file_bytes:
            raise problems.too_large(self.max_file_bytes)


def client_key(address: str) -> str:
    """Whom an address counts for. Whoever has one address of IPv6 has the 2^64 beside it as well."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


class Admission:
    """Who may upload now."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._rates: dict[str, tuple[float, float]] = {}

    @property
    def uploads(self) -> int:
        """Uploads that are going on."""
        return self._running.total()

    @contextmanager
    def upload(self, client: str, *, counted: bool = True) -> Iterator[None]:
        """Around an upload.

        Args:
            client: whose it is.
            counted: whether it counts towards the client's rate.

        Raises:
            Refused: there are too many.
        """
        if self._running.total() >= self._limits.max_uploads:
            raise problems.unavailable("busy", "The server is busy.")
        if self._running[client] >= self._limits.max_uploads_per_client:
            raise problems.too_many("too-many-uploads", "Too many uploads at the same time.", problems.RETRY_SECONDS)
        if counted:
            self._take(client)
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def _take(self, client: str) -> None:
        """Takes a token out of the client's bucket, which fills evenly."""
        rate = self._limits.uploads_per_minute
        if rate is None:
            return
        now = asyncio.get_running_loop().time()
        left, at = self._rates.pop(client, (float(rate), now))
        left = min(float(rate), left + (now - at) * rate / 60.0)
        allowed = left >= 1.0
        self._rates[client] = (left - 1.0 if allowed else left, now)
        if len(self._rates) > _CLIENTS:
            del self._rates[next(iter(self._rates))]
        if not allowed:
            wait = (1.0 - left) * 60.0 / rate if rate else 60.0
            raise problems.too_many("too-fast", "Too many uploads in a short time.", wait)


class Ledger:
    """What is stored, and what is on its way; and whether more fits."""

    def __init__(self, limits: ServerLimits, storage: Storage) -> None:
        self._limits = limits
        self._storage = storage
        self.files = 0
        self.stored = 0
        self.pending = 0
        self.free: int | None = None
        self._free_at = float("-inf")
        self._since_free = 0
        self._changed = (0, 0)

    async def admit(self, size: int) -> None:
        """Refuses an upload that does not fit.

        Args:
            size: bytes that are known to come.

        Raises:
            Refused: there is no room.
            OSError: the storage does not say.
        """
        self._check_total(size)
        await self._check_free(size)

    async def grow(self, size: int) -> None:
        """Some of an upload has arrived, which was not known before.

        Raises:
            Refused: there is no room any more.
            OSError: the storage does not say.
        """
        self.pending += size
        self._since_free += size
        self._check_total(0)
        if self._since_free > _FREE_BYTES:
            await self._check_free(0)

    def shrink(self, size: int) -> None:
        """As many bytes are not on their way any more."""
        self.pending -= size

    def add(self, files: int, size: int) -> None:
        """Files or parts of some came, or went."""
        self.files += files
        self.stored += size
        self._changed = (self._changed[0] + files, self._changed[1] + size)

    def drop(self, size: int) -> None:
        """A file is gone that whoever counts has left out."""
        self.files = max(0, self.files - 1)
        self.stored = max(0, self.stored - size)

    def begin_count(self) -> None:
        """Somebody begins to count."""
        self._changed = (0, 0)

    def end_count(self, files: int, size: int) -> None:
        """So much was counted; what changed meanwhile is added."""
        self.files = max(0, files + self._changed[0])
        self.stored = max(0, size + self._changed[1])

    def _check_total(self, size: int) -> None:
        most = self._limits.max_total_bytes
        if most is not None and self.stored + self.pending + size > most:
            raise problems.no_room()

    async def _check_free(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._free_at > _FREE_SECONDS or self._since_free > _FREE_BYTES:
            self._free_at = now
            self._since_free = 0
            self.free = await self._storage.free_bytes()
        if self.free is not None and self.free - size < self._limits.min_free_bytes:
            raise problems.no_room()
