"""What a node keeps, in one SQLite file or in memory (node specification, sections 2 and 9).

Messages, welcomes, identity updates and the commit log are entries of one log with one counter, so ids rise across all
topics, in the order in which entries are stored and become visible. An entry is kept as it is sent to clients.

Reads run on the caller's thread and see what has been committed. Writes go through :meth:`Store.write`: operations that
arrive while the disk is busy are committed together, so that one sync serves many callers.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from xmtp_history import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

T = TypeVar("T")

#: Ids and cursors are signed 64-bit numbers in clients' databases, and here.
MAX_ID: Final = 2**63 - 1

_APPLICATION_ID: Final = 0x786D6E64  # "xmnd"
_SCHEMA_VERSION: Final = 1
#: Operations, or entries, of one transaction. Others get their turn in between.
_BATCH: Final = 256
#: How much is written before SQLite's log is copied into the database.
_CHECKPOINT_BYTES: Final = 4 << 20
_PAGE_BYTES: Final = 4096
_SCHEMA: Final = """
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    topic BLOB NOT NULL,
    created_ns INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    digest BLOB UNIQUE,      -- of what must not be stored twice
    payload BLOB NOT NULL    -- the protobuf message that clients get
) STRICT;
CREATE INDEX log_by_topic ON log (topic, id);
CREATE TABLE key_package (
    installation_key BLOB PRIMARY KEY,
    uploaded_ns INTEGER NOT NULL,
    key_package BLOB NOT NULL
) STRICT;
CREATE TABLE address (
    kind INTEGER NOT NULL,
    identifier TEXT NOT NULL,
    inbox_id TEXT NOT NULL,
    associated_id INTEGER NOT NULL,   -- the identity update that did it
    revoked_id INTEGER
) STRICT;
CREATE INDEX address_by_identifier ON address (kind, identifier, associated_id);
CREATE INDEX address_by_inbox ON address (inbox_id);
CREATE TABLE counter (last_id INTEGER NOT NULL, last_created_ns INTEGER NOT NULL) STRICT;
INSERT INTO counter VALUES (0, 0);
"""


class Kind(enum.IntEnum):
    """What an entry of the log is, as far as retention is concerned."""

    APPLICATION = 1
    COMMIT = 2
    WELCOME = 3
    #: A welcome that pointers point to: it has to outlive them.
    POINTEE = 4
    COMMIT_LOG = 5
    IDENTITY = 6


class Newest(NamedTuple):
    """The newest entry of a topic."""

    id: int
    created_ns: int
    kind: int


class Page(NamedTuple):
    """Entries of one topic."""

    payloads: list[bytes]
    #: Id of the last one if there may be more, else 0.
    next_cursor: int


class StorageUnavailable(Exception):
    """What was to be written is not stored: the disk is full, or fails, or the node is closing."""


class Store:
    """The tables, and the only code that knows SQL.

    Opened in a running event loop, and used from its thread only.

    Raises:
        StoreError: the file is not a node's, is damaged, or was made by a later version.
    """

    def __init__(self, path: Path | None) -> None:
        self._in_memory = path is None
        try:
            self._writer = _connect(path)
            self._reader = self._writer if path is None else _connect(path)
            self._copier = self._writer if path is None else _connect(path)
        except sqlite3.Error as error:
            raise StoreError(f"{path} cannot be used as a node's data: {error}") from None
        last_id, self._last_created_ns = self._reader.execute("SELECT last_id, last_created_ns FROM counter").fetchone()
        #: The highest id that is visible. All ids up to it that will ever be visible are.
        self.last_id: int = last_id
        self._allocated: int = last_id
        #: Called on the event loop with the topics that have new entries.
        self.on_commit: Callable[[Iterable[bytes]], None] = lambda _topics: None
        self._queue: collections.deque[tuple[Callable[[Transaction], Any], asyncio.Future[Any]]] = collections.deque()
        self._closing = False
        self._wake = asyncio.Event()
        self._disk = ThreadPoolExecutor(2, thread_name_prefix="xmtp-node-disk")
        self._written_bytes = 0
        self._copying: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._write_queued())

    async def aclose(self) -> None:
        """Stores what is queued, and closes the file."""
        self._closing = True
        self._wake.set()
        await self._task
        if self._copying is not None:
            await self._copying
        self._disk.shutdown()
        for connection in (self._copier, self._reader, self._writer):
            connection.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def page(self, topic: bytes, cursor: int, *, descending: bool, limit: int | None, budget: int) -> Page:
        """Entries after a cursor, or before it if descending, up to a count and a number of bytes."""
        if descending:
            query = "SELECT id, payload FROM log WHERE topic = ? AND id < ? ORDER BY id DESC"
            cursor = cursor or MAX_ID
        else:
            query = "SELECT id, payload FROM log WHERE topic = ? AND id > ? ORDER BY id"
        payloads: list[bytes] = []
        last = size = 0
        with contextlib.closing(self._reader.execute(query + " LIMIT ?", (topic, cursor, limit or -1))) as rows:
            for entry_id, payload in rows:
                size += len(payload)
                if size > budget and payloads:
                    return Page(payloads, last)
                payloads.append(payload)
                last = entry_id
        return Page(payloads, last if len(payloads) == limit else 0)

    def newest(self, topic: bytes) -> Newest | None:
        """The newest entry of a topic, without its payload."""
        row = self._reader.execute(
            "SELECT id, created_ns, kind FROM log WHERE topic = ? ORDER BY id DESC LIMIT 1", (topic,)
        ).fetchone()
        return None if row is None else Newest(*row)

    def ids(self, topic: bytes, after: int, upto: int, limit: int) -> list[int]:
        """Ids of a topic's entries, rising; ``after`` is exclusive and ``upto`` inclusive."""
        rows = self._reader.execute(
            "SELECT id FROM log WHERE topic = ? AND id > ? AND id <= ? ORDER BY id LIMIT ?", (topic, after, upto, limit)
        )
        return [entry_id for (entry_id,) in rows]

    def payload(self, entry_id: int) -> bytes | None:
        """One entry; None if it is gone."""
        row = self._reader.execute("SELECT payload FROM log WHERE id = ?", (entry_id,)).fetchone()
        return None if row is None else row[0]

    def key_package(self, installation_key: bytes) -> bytes | None:
        """The latest key package of an installation."""
        row = self._reader.execute(
            "SELECT key_package FROM key_package WHERE installation_key = ?", (installation_key,)
        ).fetchone()
        return None if row is None else row[0]

    def inbox_id(self, kind: int, identifier: str) -> str | None:
        """The inbox that an identifier was last added to and not removed from."""
        row = self._reader.execute(
            "SELECT inbox_id FROM address WHERE kind = ? AND identifier = ? AND revoked_id IS NULL"
            " ORDER BY associated_id DESC LIMIT 1",
            (kind, identifier),
        ).fetchone()
        return None if row is None else row[0]

    # --- writing ------------------------------------------------------------------------------------------------------

    async def write(self, operation: Callable[[Transaction], T]) -> T:
        """Runs an operation in a transaction, and returns its result once that is on disk.

        Operations run in the order of the calls. One that refuses must do so before it writes: it is not rolled back
        by itself. When the caller is cancelled the operation may still be carried out.

        Raises:
            StorageUnavailable: nothing was stored.
        """
        if self._closing:
            raise StorageUnavailable("the node is shutting down")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, done))
        self._wake.set()
        return await done

    async def _write_queued(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._gather()
            transaction = Transaction(self._writer, self._allocated, self._last_created_ns)
            waiting: list[asyncio.Future[Any]] = []
            outcomes: list[tuple[Any, BaseException | None]] = []
            try:
                while self._queue and len(waiting) < _BATCH and transaction.last_id - self._allocated < _BATCH:
                    operation, done = self._queue.popleft()
                    waiting.append(done)
                    if not self._writer.in_transaction:
                        self._writer.execute("BEGIN IMMEDIATE")
                    outcomes.append(_attempt(operation, transaction))
                await self._commit(transaction)
            except sqlite3.Error as error:
                self._roll_back()
                outcomes = [(None, StorageUnavailable(f"cannot store: {error}")) for _ in waiting]
            else:
                self.last_id, self._last_created_ns = transaction.last_id, transaction.last_created_ns
                self.on_commit(transaction.topics)
                self._written_bytes += transaction.written_bytes
            # Ids that were rolled back are left out: no client can have seen them, but gaps cost nothing.
            self._allocated = transaction.last_id
            _settle(waiting, outcomes)
            if not self._in_memory and self._written_bytes >= _CHECKPOINT_BYTES:
                await self._checkpoint()

    async def _gather(self) -> None:
        """Lets calls that have arrived already get as far as the queue: one sync serves many as well as one."""
        before = 0
        while before < len(self._queue) < _BATCH:
            before = len(self._queue)
            await asyncio.sleep(0)

    async def _commit(self, transaction: Transaction) -> None:
        if transaction.last_id != self._allocated:
            counter = (transaction.last_id, transaction.last_created_ns)
            self._writer.execute("UPDATE counter SET last_id = ?, last_created_ns = ?", counter)
        if self._in_memory:
            self._writer.execute("COMMIT")
        else:
            # The sync takes its time. The statements before it only reach the page cache: they are quicker than handing
            # them to a thread, which would have to wait for the interpreter's lock after each of them.
            await asyncio.get_running_loop().run_in_executor(self._disk, self._writer.execute, "COMMIT")

    async def _checkpoint(self) -> None:
        """Copies SQLite's log into the database, which takes as long as many commits: beside them, not in one of them."""
        loop = asyncio.get_running_loop()
        if self._copying is None:
            self._copying = asyncio.create_task(_ended(loop.run_in_executor(self._disk, _copy_log, self._copier)))
        elif self._copying.done():
            # Only now nothing is being written. What came since is little, and with it the log can begin anew.
            await _ended(loop.run_in_executor(self._disk, _copy_log, self._writer))
            self._copying, self._written_bytes = None, 0

    def _roll_back(self) -> None:
        # SQLite has done so by itself after some errors, and then says that there is no transaction.
        with contextlib.suppress(sqlite3.Error):
            self._writer.execute("ROLLBACK")


class Transaction:
    """What an operation may do. It reads what earlier operations of the same batch wrote."""

    def __init__(self, connection: sqlite3.Connection, last_id: int, last_created_ns: int) -> None:
        self._connection = connection
        self.last_id = last_id
        self.last_created_ns = last_created_ns
        #: Topics that have new entries.
        self.topics: set[bytes] = set()
        self.written_bytes = 0

    def append(
        self, topic: bytes, kind: Kind, build: Callable[[int, int], bytes], digest: bytes | None = None
    ) -> int | None:
        """Appends an entry and returns its id, or None if its digest is there already.

        Args:
            topic: where it belongs.
            kind: what it is.
            build: makes the payload of the id and the time in ns.
            digest: of what must not be stored twice.
        """
        # Never below the last one, whatever the clock does: clients show messages by this time.
        created_ns = max(time.time_ns(), self.last_created_ns)
        entry_id = self.last_id + 1
        payload = build(entry_id, created_ns)
        row = (entry_id, topic, created_ns, kind, digest, payload)
        stored = self._connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", row)
        if stored.rowcount == 0:
            return None
        self.last_id, self.last_created_ns = entry_id, created_ns
        self.topics.add(topic)
        self.written_bytes += len(payload)
        return entry_id

    def payloads(self, topic: bytes) -> list[bytes]:
        """All entries of a topic, in order."""
        return [
            row for (row,) in self._connection.execute("SELECT payload FROM log WHERE topic = ? ORDER BY id", (topic,))
        ]

    def put_key_package(self, installation_key: bytes, key_package: bytes) -> None:
        """Replaces the key package of an installation."""
        self._connection.execute(
            "INSERT OR REPLACE INTO key_package VALUES (?, ?, ?)", (installation_key, time.time_ns(), key_package)
        )
        self.written_bytes += len(key_package)

    def identifiers(self, inbox_id: str) -> set[tuple[int, str]]:
        """Kind and identifier of what belongs to an inbox now."""
        rows = self._connection.execute(
            "SELECT kind, identifier FROM address WHERE inbox_id = ? AND revoked_id IS NULL", (inbox_id,)
        )
        return {(kind, identifier) for kind, identifier in rows}

    def associate(self, kind: int, identifier: str, inbox_id: str, update_id: int) -> None:
        """Notes that an identifier belongs to an inbox from an update on."""
        row = (kind, identifier, inbox_id, update_id)
        self._connection.execute("INSERT INTO address VALUES (?, ?, ?, ?, NULL)", row)

    def revoke(self, kind: int, identifier: str, inbox_id: str, update_id: int) -> None:
        """Notes that it no longer does: in the newest row of the pair only."""
        self._connection.execute(
            "UPDATE address SET revoked_id = ? WHERE rowid = (SELECT rowid FROM address WHERE kind = ? AND"
            " identifier = ? AND inbox_id = ? ORDER BY associated_id DESC LIMIT 1)",
            (update_id, kind, identifier, inbox_id),
        )

    def delete_entries(self, kind: Kind, *, after_id: int, before_ns: int, limit: int) -> tuple[int, bool]:
        """Looks at the next entries that are old, and deletes those of a kind.

        Returns:
            How far it got, and whether there may be more.
        """
        rows = self._connection.execute(
            "SELECT id, kind FROM log WHERE id > ? AND created_ns < ? ORDER BY id LIMIT ?", (after_id, before_ns, limit)
        ).fetchall()
        doomed = [(entry_id,) for entry_id, found in rows if found == kind]
        self._connection.executemany("DELETE FROM log WHERE id = ?", doomed)
        self.written_bytes += _PAGE_BYTES * len(doomed)
        return (rows[-1][0] if rows else after_id), len(rows) == limit

    def delete_key_packages(self, *, before_ns: int) -> None:
        """Deletes key packages that were last uploaded before a time."""
        self._connection.execute("DELETE FROM key_package WHERE uploaded_ns < ?", (before_ns,))


def _attempt(operation: Callable[[Transaction], Any], transaction: Transaction) -> tuple[Any, BaseException | None]:
    """The result of an operation, or its refusal. What goes wrong with the database concerns the whole batch."""
    try:
        return operation(transaction), None
    except sqlite3.Error:
        raise
    except Exception as refusal:  # noqa: BLE001 - it belongs to the caller
        return None, refusal


def _settle(waiting: list[asyncio.Future[Any]], outcomes: list[tuple[Any, BaseException | None]]) -> None:
    """Gives callers what their operations came to, unless they have gone."""
    for done, (result, refusal) in zip(waiting, outcomes, strict=True):
        if done.cancelled():
            continue
        if refusal is None:
            done.set_result(result)
        else:
            done.set_exception(refusal)


async def _ended(work: asyncio.Future[None]) -> None:
    """Waits for work that may fail: a full disk is met again, and reported, by whoever writes next."""
    with contextlib.suppress(sqlite3.Error):
        await work


def _copy_log(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


def _connect(path: Path | None) -> sqlite3.Connection:
    # Commits run on another thread than the other statements, but never at the same time.
    connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application_id != _APPLICATION_ID:
        raise sqlite3.DatabaseError("it is a database of something else")
    if tables and version != _SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it has version {version}, this release knows version {_SCHEMA_VERSION}")
    # Not before: it changes the file.
    connection.execute("PRAGMA journal_mode = WAL")
    # A write is acknowledged when it would survive a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    # Not within a commit, whose caller waits: see Store._checkpoint.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    if not tables:
        header = f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_SCHEMA_VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {header} COMMIT;")
