"""Archives between a store and a history server, without a file in between and without all of one in memory.

Each transfer works on the store on a thread of its own. Going up, the thread reads the export a little ahead of the
upload. Coming down, a few pieces wait between the download and the import; an import keeps all other writers out, so it only
begins once they are full, or once everything is there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from xmtp_history import _rows
from xmtp_history._errors import NetworkError
from xmtp_history._threads import in_thread
from xmtp_history._types import Progress
from xmtp_history.sync import _urls
from xmtp_history.sync._http import STALL_SECONDS
from xmtp_history.sync._stream import MAX_BYTES, ArchiveStream
from xmtp_history.sync._upload import upload_archive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from types import TracebackType

    from xmtp_history._ffi import BytesLike, Stream
    from xmtp_history._history import History
    from xmtp_history._io import OnProgress
    from xmtp_history._types import ArchiveOptions, ArchiveReport, ImportReport

_Result = TypeVar("_Result")

#: Bytes that go to a thread, or come from it, at a time: a hop costs as much as importing some 30 KiB.
_EXPORT_BYTES: Final = 1024 * 1024
_IMPORT_BYTES: Final = 512 * 1024

#: Pieces that are read ahead of an upload: 4 MiB.
_EXPORTED_AHEAD: Final = 4
#: Pieces that may wait for an import: 4 MiB, or a little more, as a piece ends with what was read last.
_ARRIVED_AHEAD: Final = 8

_PROGRESS_INTERVAL: Final = 0.1

# Other clients put "/files/" behind the server's URL also where that ends in a slash.
_TWO_SLASHES = re.compile(r"(?<=[^/:])/{2,}(?=files/[^/?#]+$)")


@dataclass(frozen=True, slots=True)
class SentArchive:
    """An archive that went from a store to a history server.

    Attributes:
        url: where it can be fetched, by everybody who knows the URL; not part of the repr.
        size: its size in bytes.
        sha256: its SHA-256 in hexadecimal.
        report: what is in it.
    """

    url: str = field(repr=False)
    size: int
    sha256: str
    report: ArchiveReport


@dataclass(frozen=True, slots=True)
class ReceivedArchive:
    """An archive that went from a history server into a store.

    Attributes:
        report: what it brought.
        size: its size in bytes.
        verified: whether the server had named its SHA-256.
    """

    report: ImportReport
    size: int
    verified: bool


async def send_archive(
    history: History,
    server_url: str,
    key: BytesLike,
    options: ArchiveOptions,
    *,
    max_bytes: int | None = None,
    on_progress: OnProgress | None = None,
    stall_timeout: float = STALL_SECONDS,
) -> SentArchive:
    """Exports a store to a history server.

    The archive shows the store as it is at the start, while others go on writing. It is made while it is uploaded; see
    :func:`upload_archive` for what that survives. When this returns or raises, the export is over, also if cancelled.

    Args:
        history: the store.
        server_url: the history server, as for :func:`upload_archive`.
        key: key for the archive, 32 bytes; a new one for each.
        options: what to export.
        max_bytes: a larger archive is refused, None for any size.
        on_progress: called at most ten times a second, and once more at the end; in phase ``export`` until the first byte
            has gone, then in phase ``upload``. Records are those exported so far; their total is None where the options
            leave some out.
        stall_timeout: a try ends if the server takes nothing and says nothing for so many seconds.

    Raises:
        StoreError: the store cannot be read.
        PayloadTooLarge, NoHistoryServer, SyncError, NetworkError, ValueError: as for :func:`upload_archive`.
    """
    meter = _Meter("export", on_progress)
    export = _Export(history, key, options, meter)
    async with aclosing(export.pieces()) as pieces:
        uploaded = await upload_archive(
            pieces, server_url, max_bytes=max_bytes, on_progress=meter.uploaded, stall_timeout=stall_timeout
        )
    meter.bytes_done = meter.bytes_total = uploaded.size
    meter.finished()
    return SentArchive(uploaded.url, uploaded.size, uploaded.sha256, export.report)


async def receive_archive(
    history: History,
    url: str,
    key: BytesLike,
    *,
    inbox_id: str | None = None,
    max_bytes: int | None = MAX_BYTES,
    on_progress: OnProgress | None = None,
    stall_timeout: float = STALL_SECONDS,
    max_seconds: float | None = None,
) -> ReceivedArchive:
    """Imports an archive from a history server, as one transaction. Importing it again changes nothing.

    After an interruption the download goes on where it was. If that does not help, or anything else is wrong, nothing is
    stored; nor if this is cancelled, unless the transaction is being committed already. When this returns or raises, the
    store is free. Records that break the rules of the format are left out and reported: another client's archive is not
    going to be better the next time.

    Args:
        history: the store. Others can write to it until 4 MiB or the whole archive have arrived, then not before the end.
        url: where the archive is; a user and password may be in it.
        key: the archive's key, 32 bytes.
        inbox_id: the user's own inbox; DMs that it is not a member of are then counted in the report.
        max_bytes: a larger archive is refused, None for any size.
        on_progress: called at most ten times a second, and once more after the commit; in phase ``download`` until
            everything has arrived, then in phase ``import``. How many records there are is only known at the end.
        stall_timeout: a try ends if nothing arrives for so many seconds.
        max_seconds: longest time that other writers are kept waiting for a slow server, None for any.

    Raises:
        ArchiveError: the subclass says what is wrong with the archive.
        StoreError: the store cannot be written; with StoreLocked, because somebody else does.
        NetworkError: the server cannot be reached, keeps failing, or is too slow.
        ArchiveNotFound, ArchiveExpired, PayloadTooLarge, SyncError, ValueError: as for :func:`download_archive`.
    """
    url = _TWO_SLASHES.sub("/", url)
    meter = _Meter("download", on_progress)
    async with ArchiveStream(url, max_bytes=max_bytes, stall_timeout=stall_timeout) as archive:
        arrivals = _Arrivals(archive, meter)
        importing = _Aside(partial(history._import, key, lenient=True, inbox_id=inbox_id))  # noqa: SLF001 - one package
        merging = _merged(arrivals, importing, meter, max_seconds, _urls.archive(url, None).archive)
        report = await _beside(arrivals.receive(), merging)
    meter.finished()
    return ReceivedArchive(report, archive.received, archive.verified)


async def _merged(
    arrivals: _Arrivals, importing: _Aside, meter: _Meter, max_seconds: float | None, what: str
) -> ImportReport:
    """Imports what arrives."""
    await arrivals.begun.wait()
    limit = asyncio.timeout(max_seconds)
    try:
        async with limit, importing:
            while piece := await arrivals.next():
                meter.records = await importing.run(partial(_push, piece))
                meter.tick()
            # The rest does not depend on the server; and a commit cannot be taken back.
            limit.reschedule(None)
            return await importing.run(_imported)
    except TimeoutError:
        if not limit.expired():
            raise
        raise NetworkError(f"{what}: it does not arrive within {max_seconds:g} s, and others wait to write") from None


async def _beside(other: Coroutine[Any, Any, None], work: Coroutine[Any, Any, _Result]) -> _Result:
    """Does two things at once. When one of them fails, so does the other, and both are over when this raises."""
    tasks = asyncio.create_task(other), asyncio.create_task(work)
    try:
        _, result = await asyncio.gather(*tasks)
        return result
    finally:
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            with suppress(asyncio.CancelledError):
                await asyncio.wait(tasks)


class _Meter:
    """Reports to a callback how far a transfer is, at most ten times a second."""

    def __init__(self, phase: str, on_progress: OnProgress | None) -> None:
        self.phase = phase
        self.records = 0
        self.records_total: int | None = None
        self.bytes_done = 0
        self.bytes_total: int | None = None
        self._on_progress = on_progress
        self._next = 0.0

    def tick(self) -> None:
        """Something has changed; reports if it is time to."""
        if self._on_progress is not None and time.monotonic() >= self._next:
            self._report(self._on_progress)
            self._next = time.monotonic() + _PROGRESS_INTERVAL

    def uploaded(self, upload: Progress) -> None:
        """The upload is as far as it says."""
        self.phase = "upload"
        self.bytes_done, self.bytes_total = upload.bytes_done, upload.bytes_total
        self.tick()

    def finished(self) -> None:
        """Everything is done; reports now."""
        self.records_total = self.records
        if self._on_progress is not None:
            self._report(self._on_progress)

    def _report(self, on_progress: OnProgress) -> None:
        on_progress(Progress(self.phase, self.records, self.records_total, self.bytes_done, self.bytes_total))


class _Aside:
    """A stream of the store's, worked on by a thread of its own, one thing after the other; closed with this.

    The threads that an application shares could all be waiting for the store, which is what an import keeps.
    """

    def __init__(self, opened: Callable[[], Stream]) -> None:
        self._opened = opened
        self._stream: Stream
        self._closing = ExitStack()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="xmtp-transfer")

    async def __aenter__(self) -> Self:
        try:
            await self._run(self._open)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def run(self, work: Callable[[Stream], _Result]) -> asyncio.Future[_Result]:
        """Does something with the stream, after what was asked for before."""
        return self._run(lambda: work(self._stream))

    def _run(self, work: Callable[[], _Result]) -> asyncio.Future[_Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> None:
        self._stream = self._closing.enter_context(self._opened())

    async def _close(self) -> None:
        # Behind what still runs, which nobody can stop.
        self._thread.submit(self._closing.close)
        await in_thread(self._thread.shutdown)


class _Export:
    """An archive that is made while it is uploaded."""

    def __init__(self, history: History, key: BytesLike, options: ArchiveOptions, meter: _Meter) -> None:
        self._history, self._key, self._options = history, key, options
        self._meter = meter
        self.report: ArchiveReport

    async def pieces(self) -> AsyncGenerator[memoryview]:
        """The archive."""
        exported = 0
        async with _Aside(self._opened) as export:
            reading = deque(export.run(_read) for _ in range(_EXPORTED_AHEAD))
            try:
                while True:
                    piece, self._meter.records = await reading.popleft()
                    if not piece:
                        break
                    reading.append(export.run(_read))
                    exported += len(piece)
                    if self._meter.phase == "export":
                        self._meter.bytes_done = exported
                    self._meter.tick()
                    yield piece
            finally:
                # Those that failed already are not complained about any more either.
                for rest in reading:
                    rest.cancel()
            self.report = await export.run(_exported)

    def _opened(self) -> Stream:
        self._meter.records_total = self._history._expected(self._options)  # noqa: SLF001 - one package
        return self._history._export(self._key, self._options)  # noqa: SLF001


class _Arrivals:
    """The pieces of an archive that have arrived, as many as may wait.

    Attributes:
        begun: set once no more may wait, or everything is there.
    """

    def __init__(self, archive: ArchiveStream, meter: _Meter) -> None:
        self.begun = asyncio.Event()
        self._archive = archive
        self._meter = meter
        self._room = asyncio.Semaphore(_ARRIVED_AHEAD)
        self._arrived: asyncio.Queue[bytearray] = asyncio.Queue()

    async def receive(self) -> None:
        """Downloads everything. Only when that is over is it known to be undamaged."""
        gathered = bytearray()
        async for data in self._archive:
            gathered += data
            if len(gathered) >= _IMPORT_BYTES:
                await self._add(gathered)
                gathered = bytearray()
            self._meter.bytes_done, self._meter.bytes_total = self._archive.received, self._archive.size
            self._meter.tick()
        self._meter.phase, self._meter.bytes_total = "import", self._archive.received
        if gathered:
            await self._add(gathered)
        self._arrived.put_nowait(bytearray())
        self.begun.set()

    async def _add(self, piece: bytearray) -> None:
        if self._room.locked():
            self.begun.set()
        await self._room.acquire()
        self._arrived.put_nowait(piece)

    async def next(self) -> bytearray:
        """Takes the next piece, and makes room for another one. An empty one is the end of an undamaged archive."""
        piece = await self._arrived.get()
        self._room.release()
        return piece


def _read(export: Stream) -> tuple[memoryview, int]:
    piece = bytearray(_EXPORT_BYTES)
    filled = export.read_into(piece)
    return memoryview(piece)[:filled], export.records()


def _exported(export: Stream) -> ArchiveReport:
    return _rows.archive_report(export.finish())


def _push(piece: bytearray, stream: Stream) -> int:
    stream.push(memoryview(piece))
    return stream.records()


def _imported(stream: Stream) -> ImportReport:
    return _rows.import_report(stream.finish())
