"""Bytes on their way into a bucket, on this machine: where they wait, and who waits for whom."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from xmtp_history._io import write_all

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path
    from typing import Protocol

    from xmtp_history.server.storage._threads import Threads

    class _Hash(Protocol):
        def update(self, data: bytes | bytearray | memoryview, /) -> None: ...


#: As much stays in memory, and never sees a disk.
SMALL_BYTES = 64 * 1024

#: As much is read from the file at once.
_PIECE_BYTES = 1024 * 1024

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Spool:
    """Bytes that wait: in memory as long as they are few, then in a file without a name, which no crash leaves behind.

    Args:
        folder: where the file is made; None is the system's folder for temporary files.
        threads: what works on the file.
        digest: gets everything that is appended.
    """

    def __init__(self, folder: Path | None, threads: Threads, digest: _Hash | None = None) -> None:
        self._folder = folder
        self._threads = threads
        self._digest = digest
        self._memory: list[bytes | bytearray | memoryview] = []
        self._file: io.FileIO | None = None
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size

    def keeps(self, count: int) -> bool:
        """Whether as many bytes more stay in memory."""
        return self._file is None and self._size + count <= SMALL_BYTES

    def keep(self, data: bytes | bytearray | memoryview) -> None:
        """Appends data that stays in memory."""
        if self._digest is not None:
            self._digest.update(data)
        self._memory.append(bytes(data))
        self._size += len(data)

    async def append(self, data: bytes | bytearray | memoryview) -> None:
        """Appends data; all of it or nothing.

        Raises:
            OSError: there is no room.
        """
        if self.keeps(len(data)):
            self.keep(data)
        else:
            await self._threads.run(self._write, data)

    async def read(self, start: int, count: int) -> bytes:
        """Bytes that wait.

        Raises:
            OSError: they cannot be read.
        """
        if self._file is None:
            return b"".join(self._memory)[start : start + count]
        return await self._threads.run(self._read, start, count)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Everything, piece by piece.

        Raises:
            OSError: it cannot be read.
        """
        for start in range(0, self._size, _PIECE_BYTES):
            yield await self.read(start, min(_PIECE_BYTES, self._size - start))

    def truncate(self, size: int) -> None:
        """Forgets what comes after so many bytes. The file keeps its length, and what comes next its place in it."""
        if self._file is None:
            self._memory = [b"".join(self._memory)[:size]]
        self._size = size

    async def aclose(self) -> None:
        """Forgets everything. Closing twice is fine."""
        file, self._file = self._file, None
        self._memory.clear()
        self._size = 0
        if file is not None:
            # Freeing what a large file took up may take a while.
            await self._threads.run(file.close)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._file is None:
            file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - closed with the spool
            try:
                with memoryview(b"".join(self._memory)) as view:
                    write_all(file, view)
            except BaseException:
                file.close()
                raise
            self._file = file
            self._memory.clear()
        # Where a write that failed has begun.
        self._file.seek(self._size)
        with memoryview(data) as view:
            write_all(self._file, view)
        if self._digest is not None:
            self._digest.update(data)
        self._size += len(data)

    def _read(self, start: int, count: int) -> bytes:
        if self._file is None:
            raise RuntimeError("the spool is closed")
        self._file.seek(start)
        data = bytearray()
        while len(data) < count and (piece := self._file.read(count - len(data))):
            if len(piece) == count:
                return piece
            data += piece
        return bytes(data)


class Turns:
    """Has the steps of one upload done one after the other, each to its end, although its caller is cancelled.

    Args:
        running: where steps are found that nobody waits for any more.
    """

    def __init__(self, running: set[asyncio.Task[Any]]) -> None:
        self._running = running
        self._step: asyncio.Task[Any] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is being done."""
        return self._step is None or self._step.done()

    async def run(self, step: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Does a step after those before it, and returns what it returns."""
        await self.wait()
        task: asyncio.Task[_T] = asyncio.ensure_future(_awaited(step(*args, **kwargs)))
        self._step = task
        self._running.add(task)
        task.add_done_callback(self._done)
        await asyncio.wait([task])
        return task.result()

    async def wait(self) -> None:
        """Waits until nothing is being done."""
        while self._step is not None and not self._step.done():
            await asyncio.wait([self._step])

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Whoever would have been told may be gone.
            task.exception()


class Room:
    """Bounds the bytes in memory on their way into the bucket: first come, first served.

    Args:
        size: bytes at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def take(self, count: int) -> AsyncIterator[None]:
        """Waits until there is room for so many bytes, which are taken inside of the block."""
        count = min(count, self._size)
        async with self._turn:
            while self._free < count:
                self._freed.clear()
                await self._freed.wait()
            self._free -= count
        try:
            yield
        finally:
            self._free += count
            self._freed.set()


async def _awaited(step: Awaitable[_T]) -> _T:
    return await step
