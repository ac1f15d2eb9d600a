"""Nodes to be measured, each in a process of its own; and what stands beside them: the disk and SQLite alone."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import processes
from lines import Child, Unavailable
from plan import BARE, LIBRARY, OFFICIAL, PLAIN

_READY_S = 60.0
_PROGRAM = Path(__file__).with_name("node_child.py")
_NAMES = {LIBRARY: "library", PLAIN: "plain", BARE: "bare"}
_SYNC_BYTES = 4096
_SYNC_PLACES = 1024
_ROWS = 50_000


class Node:
    """A running node; close it when done.

    Attributes:
        address: where it listens.
        starting: seconds that starting took, after everything was imported.
    """

    def __init__(self, subject: str, folder: Path, *, durable: bool = True) -> None:
        self._child: Child | None = None
        self.starting = 0.0
        self._data = folder / f"node-{time.monotonic_ns()}"
        if subject == OFFICIAL:
            named = os.environ.get("BENCH_OFFICIAL_NODE", "")
            host, colon, port = named.rpartition(":")
            if not colon:
                raise Unavailable("BENCH_OFFICIAL_NODE does not say where it is")
            self.address = host, int(port)
            return
        data = [str(self._data)] if subject == LIBRARY and durable else []
        self._child = Child([sys.executable, str(_PROGRAM), _NAMES[subject], *data], folder)
        answer = json.loads(self._child.line(_READY_S))
        self.address = "127.0.0.1", int(answer["port"])
        self.starting = float(answer["start"])

    def close(self) -> None:
        """Ends the process and removes its data."""
        if self._child is not None:
            self._child.close()
        shutil.rmtree(self._data, ignore_errors=True)

    @property
    def database(self) -> Path:
        """The file of a node that is durable."""
        return self._data / "node.db3"

    def processor_seconds(self) -> float:
        """How long the processor has worked for the node, in all its threads; 0 where nobody knows."""
        return processes.processor_seconds(self._pids)

    def resident_bytes(self) -> int:
        """The memory that the node has now; 0 where nobody knows."""
        return processes.resident_bytes(self._pids)

    @property
    def _pids(self) -> list[int]:
        return [] if self._child is None else [self._child.pid]


def bare_inserts(database: Path, folder: Path, each: int, seconds: float) -> tuple[float, int]:
    """Inserts the rows that a node has stored into a new file, with a sync for every so many, and nothing else.

    Tables, indexes and settings are the node's own. Returns the time it took, and how many rows that were.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source:
        schema = [
            sql for (sql,) in source.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")
        ]
        (page_size,) = source.execute("PRAGMA page_size").fetchone()
        rows = source.execute("SELECT * FROM log ORDER BY id DESC LIMIT ?", (_ROWS,)).fetchall()
    rows.reverse()
    target = folder / "bare-inserts.db3"
    connection = sqlite3.connect(target, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size = {page_size}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        for statement in schema:
            connection.execute(statement)
        insert = f"INSERT INTO log VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608 - question marks only
        done = 0
        started = time.perf_counter()
        while done < len(rows) and time.perf_counter() - started < seconds:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, rows[done : done + each])
            connection.execute("COMMIT")
            done = min(done + each, len(rows))
        return time.perf_counter() - started, done
    finally:
        connection.close()
        for left in folder.glob("bare-inserts.db3*"):
            left.unlink()


def bare_syncs(folder: Path, seconds: float) -> tuple[float, int]:
    """Writes a page of a file and waits for the disk, again and again; returns the time, and how often."""
    path = folder / "bare-syncs"
    sync = getattr(os, "fdatasync", os.fsync)
    with path.open("wb", buffering=0) as file:
        file.write(bytes(_SYNC_BYTES * _SYNC_PLACES))
        os.fsync(file.fileno())
        done = 0
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            os.pwrite(file.fileno(), bytes((done & 0xFF,)) * _SYNC_BYTES, done % _SYNC_PLACES * _SYNC_BYTES)
            sync(file.fileno())
            done += 1
        taken = time.perf_counter() - started
    path.unlink()
    return taken, done
