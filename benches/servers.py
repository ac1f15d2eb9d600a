"""History servers to be measured, each in a process of its own; what is sent to them; and the disk alone beside them."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import nginx_rival
import processes
from h2 import Refused
from lines import Child, Unavailable
from plan import ACCEPT, DEFAULT_SERVER_MIB, LIBRARY, NGINX, server_mib
from server_child import SMALL_BYTES
from server_load import CHUNK_BYTES, CHUNK_END, CHUNK_HEAD, Download, Outcome, Small, Upload

MIB = 1 << 20
#: Parts of the random bytes that are files of their own, so that clients have different ones.
PARTS = 16
_READY_S = 60.0
_JOB_S = 600.0
_HERE = Path(__file__).resolve().parent
_PROGRAMS = {
    LIBRARY: ("server_child.py", "library"),
    ACCEPT: ("server_child.py", "accept"),
    NGINX: ("nginx_rival.py",),
}


class Server:
    """A running server; close it when done.

    Attributes:
        address: where it listens.
        pids: its processes.
    """

    def __init__(self, subject: str, folder: Path) -> None:
        if subject == NGINX and nginx_rival.found() is None:
            raise Unavailable("nginx is not installed")
        self._data = folder / f"server-{time.monotonic_ns()}"
        program, *arguments = _PROGRAMS[subject]
        self._child = Child([sys.executable, str(_HERE / program), *arguments, str(self._data)], folder)
        answer = json.loads(self._child.line(_READY_S))
        self.address = "127.0.0.1", int(answer["port"])
        self.pids: list[int] = answer["pids"]

    def close(self) -> None:
        """Ends its processes and removes what it has stored."""
        self._child.finish()
        shutil.rmtree(self._data, ignore_errors=True)

    def size(self, file_id: str) -> int:
        """How large a stored file is, as the server says."""
        with closing(http.client.HTTPConnection(*self.address)) as connection:
            connection.request("HEAD", f"/files/{file_id}")
            return int(connection.getresponse().getheader("Content-Length", -1))

    def digest(self, file_id: str) -> tuple[int, str]:
        """How large a stored file is, and its SHA-256, when it is downloaded."""
        digest, size = hashlib.sha256(), 0
        buffer = bytearray(MIB)
        with closing(http.client.HTTPConnection(*self.address)) as connection, memoryview(buffer) as view:
            connection.request("GET", f"/files/{file_id}")
            answer = connection.getresponse()
            if answer.status != 200:
                raise Refused(f"{answer.status} {answer.reason}")
            while received := answer.readinto(buffer):
                digest.update(view[:received])
                size += received
        return size, digest.hexdigest()


class Watch:
    """What a server's processes take while a block runs.

    Attributes:
        used: seconds that the processor worked for them.
        peak: the most memory that they had.
        resident: the memory that they had at the end.
    """

    def __init__(self, server: Server) -> None:
        self._pids = server.pids
        self.used = 0.0
        self.peak = self.resident = 0

    def __enter__(self) -> Self:
        processes.forget_peak(self._pids)
        self.used = -processes.processor_seconds(self._pids)
        return self

    def __exit__(self, *_: object) -> None:
        self.used += processes.processor_seconds(self._pids)
        self.peak, self.resident = processes.peak_bytes(self._pids), processes.resident_bytes(self._pids)

    def facts(self, name: str, outcome: Outcome, unit: int = 1) -> dict[str, float]:
        """What is stored beside the time of an operation."""
        found = {f"{name} load": outcome.used / outcome.seconds}
        if self.used:
            found[f"{name} processor"] = self.used / (outcome.made / unit)
        if self.peak:
            found[f"{name} peak"] = self.peak
        return found


class Bodies:
    """Random bytes in a file, as they are and in chunks; whole, or in parts."""

    def __init__(self, folder: Path, size: int) -> None:
        self.plain = folder / "bodies"
        self.chunked = folder / "bodies-in-chunks"
        self.size = size // (PARTS * CHUNK_BYTES) * (PARTS * CHUNK_BYTES)
        self._digests: dict[tuple[int, int], str] = {}
        with self.plain.open("wb") as plain, self.chunked.open("wb") as chunked:
            for _ in range(self.size // (PARTS * CHUNK_BYTES)):
                data = os.urandom(PARTS * CHUNK_BYTES)
                plain.write(data)
                pieces = (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))
                chunked.write(b"".join(CHUNK_HEAD + piece + CHUNK_END for piece in pieces))
            for file in (plain, chunked):
                file.flush()
                os.fsync(file.fileno())

    def source(self, *, chunked: bool) -> Path:
        """The file that is sent from."""
        return self.chunked if chunked else self.plain

    def upload(self, part: int, parts: int, *, chunked: bool = False) -> Upload:
        """A client that sends one of so many parts."""
        size = self.size // parts
        length = size // CHUNK_BYTES * (len(CHUNK_HEAD) + CHUNK_BYTES + len(CHUNK_END)) if chunked else size
        return Upload(part * length, length, size, chunked)

    def digest(self, offset: int, size: int) -> str:
        """The SHA-256 of a piece."""
        if (offset, size) not in self._digests:
            digest = hashlib.sha256()
            with self.plain.open("rb") as file:
                file.seek(offset)
                for at in range(0, size, MIB):
                    digest.update(file.read(min(MIB, size - at)))
            self._digests[offset, size] = digest.hexdigest()
        return self._digests[offset, size]

    def stored_right(self, server: Server, file_id: str, part: int, parts: int) -> bool:
        """Whether a server has one of so many parts as it is."""
        size = self.size // parts
        return server.digest(file_id) == (size, self.digest(part * size, size))

    def stored_small(self, server: Server, file_id: str, client: int) -> bool:
        """Whether a server has the small file of a client as it is."""
        return server.digest(file_id) == (SMALL_BYTES, self.digest(client * SMALL_BYTES, SMALL_BYTES))


class Load:
    """The processes that all the clients are in: one for each core, as long as there are clients for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    @cached_property
    def _most(self) -> int:
        return min(2, os.cpu_count() or 1)

    def transfers(
        self, server: Server, source: Path, uploads: list[Upload] | None = None, downloads: list[Download] | None = None
    ) -> Outcome:
        """All these clients at the same time."""
        uploads, downloads = uploads or [], downloads or []
        each = range(min(self._most, max(len(uploads), len(downloads))))
        return self._do(
            {
                "address": server.address,
                "source": str(source),
                "uploads": [asdict(upload) for upload in uploads[at :: len(each)]],
                "downloads": [asdict(download) for download in downloads[at :: len(each)]],
            }
            for at in each
        )

    def calls(self, server: Server, source: Path, clients: list[Small], seconds: float, *, fresh: bool) -> Outcome:
        """Every client sends its request, waits for the answer and sends it again, perhaps on a new connection."""
        each = range(min(self._most, len(clients)))
        return self._do(
            {
                "address": server.address,
                "source": str(source),
                "clients": [asdict(client) for client in clients[at :: len(each)]],
                "seconds": seconds,
                "fresh": fresh,
            }
            for at in each
        )

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children:
            child.close()
        self._children.clear()

    def _do(self, jobs: Iterable[dict[str, Any]]) -> Outcome:
        lines = [json.dumps(job) for job in jobs]
        while len(self._children) < len(lines):
            self._children.append(Child([sys.executable, str(_HERE / "server_load.py")], self._folder))
        working = self._children[: len(lines)]
        try:
            for child, line in zip(working, lines, strict=True):
                child.tell(line)
            answers = [json.loads(child.line(_JOB_S)) for child in working]
        except Unavailable as reason:
            # The next job gets new ones.
            self.close()
            raise Refused(f"the clients: {reason}") from None
        for answer in answers:
            if "refused" in answer:
                raise Refused(answer["refused"])
        return _together([Outcome(**answer) for answer in answers])


def all_at_once(outcome: Outcome, clients: int) -> bool:
    """Whether so many bodies were on their way together; in a quick run the first is over before the last has begun."""
    return outcome.at_once == clients or server_mib() < DEFAULT_SERVER_MIB


def _together(outcomes: list[Outcome]) -> Outcome:
    """What several processes did at the same time; the clients of each were every so many of all."""
    ids: list[list[str]] = [[]] * sum(len(outcome.ids) for outcome in outcomes)
    for at, outcome in enumerate(outcomes):
        ids[at :: len(outcomes)] = outcome.ids
    return Outcome(
        started=min(outcome.started for outcome in outcomes),
        ended=max(outcome.ended for outcome in outcomes),
        used=sum(outcome.used for outcome in outcomes),
        moved=sum(outcome.moved for outcome in outcomes),
        made=sum(outcome.made for outcome in outcomes),
        ids=ids,
        at_once=sum(outcome.at_once for outcome in outcomes),
    )


def bare_files(folder: Path, threads: int, size: int, seconds: float | None = None) -> tuple[float, int]:
    """Every thread makes a durable file, or one after the other until a time has passed; nothing else.

    Returns the time it took, and how many files that were.
    """
    target = folder / "bare-files"
    target.mkdir()
    data = memoryview(os.urandom(min(size, MIB)))
    done = [0] * threads
    started = time.perf_counter()

    def work(thread: int) -> None:
        path = target / f"partial-{thread}"
        while not done[thread] or (seconds is not None and time.perf_counter() - started < seconds):
            with path.open("xb", buffering=0) as file:
                for at in range(0, size, len(data)):
                    file.write(data[: size - at])
            nginx_rival.keep(path, target)
            done[thread] += 1

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taken = time.perf_counter() - started
    shutil.rmtree(target)
    return taken, sum(done)
