"""Where archives come from and go to: paths, bytes, file objects.

A path that is written to gets its new content in one step: everything goes to a temporary file beside it, which is synced
and renamed at the end, so the name never stands for half an archive and an old file survives a failure.
"""

from __future__ import annotations

import io
import os
import time
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeAlias

from xmtp_history._types import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from xmtp_history._ffi import BytesLike, Stream

#: What an archive can be read from.
Source: TypeAlias = "str | os.PathLike[str] | BytesLike | _Readable"
#: Called with the state of a long operation, at most ten times a second.
OnProgress: TypeAlias = "Callable[[Progress], None]"

#: Bytes moved at a time: few enough to stay in the processor's cache on their way.
CHUNK_BYTES = 256 * 1024

_PROGRESS_INTERVAL = 0.1


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | bytearray | memoryview | None: ...


class _Writable(Protocol):
    def write(self, data: memoryview, /) -> object: ...


#: What an archive can be written to.
Target: TypeAlias = "str | os.PathLike[str] | _Writable"


def chunks(source: Source) -> Generator[memoryview]:
    """The bytes of a source, piece by piece; a piece is valid until the next one is asked for.

    A path is opened here and closed; a file object stays the caller's.

    Raises:
        TypeError: the source is none of the kinds, or a file object that does not give bytes.
        OSError: the file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        with open(source, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(CHUNK_BYTES))
            while count := file.readinto(buffer):
                yield buffer[:count]
    elif isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]
    elif hasattr(source, "read"):
        yield from _file_chunks(source.read)
    else:
        msg = f"an archive is read from a path, bytes or a binary file, not from {type(source).__name__}"
        raise TypeError(msg)


def begun(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The same pieces, the first one read already: a source that cannot be read shows before anything else is done."""
    first = next(pieces, None)
    return pieces if first is None else chain((first,), pieces)


def _file_chunks(read: Callable[[int], object]) -> Iterator[memoryview]:
    while data := read(CHUNK_BYTES):
        if not isinstance(data, bytes | bytearray | memoryview):
            msg = f"the file object gives {type(data).__name__}; open it in binary mode"
            raise TypeError(msg)
        yield memoryview(data)
    if data is None:
        msg = "the file object does not wait for data; give a blocking one"
        raise BlockingIOError(msg)


def size_of(source: Source) -> int | None:
    """Size of a source in bytes, where it is known without reading."""
    if isinstance(source, str | os.PathLike):
        with suppress(OSError):
            return os.stat(source).st_size
    elif isinstance(source, bytes | bytearray | memoryview):
        return memoryview(source).nbytes
    return None


@contextmanager
def writing(target: Target) -> Iterator[_Writable]:
    """A place to write an archive to; a path only changes once the block ends without an exception.

    Raises:
        TypeError: the target is none of the kinds.
        OSError: the file cannot be written.
    """
    if not isinstance(target, str | os.PathLike):
        if not hasattr(target, "write"):
            msg = f"an archive is written to a path or a binary file, not to {type(target).__name__}"
            raise TypeError(msg)
        yield target
        return
    path = os.path.abspath(target)
    if os.path.isdir(path):
        raise IsADirectoryError(f"the target is a folder: {path}")
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.partial")
    try:
        # An archive can hold secrets, and its key is elsewhere: nobody but the owner needs to read it.
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            # The user knows the target's name, not the temporary one.
            raise OSError(error.errno, error.strerror, path) from None
        with open(descriptor, "wb", buffering=0) as file:
            yield file
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        # The first error is the one to report, whatever becomes of the temporary file.
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _sync_folder(folder: str) -> None:
    """Makes a rename durable, where the system lets folders be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(file: _Writable, data: memoryview) -> None:
    """Writes all of it, also where the file takes less at a time.

    Raises:
        OSError: the file takes no more.
    """
    while data:
        written = file.write(data)
        if written is None and isinstance(file, io.RawIOBase):
            msg = "the target does not wait until it can be written; give a blocking one"
            raise BlockingIOError(msg)
        if not isinstance(written, int):
            # Objects that only look like a file often return nothing, and have taken everything.
            return
        if written <= 0:
            msg = "the target takes no more data"
            raise OSError(msg)
        data = data[written:]


class Reporter:
    """Reports the progress of a stream to a callback."""

    def __init__(
        self,
        phase: str,
        stream: Stream,
        on_progress: OnProgress | None,
        *,
        total: int | None = None,
        bytes_total: int | None = None,
    ) -> None:
        self._phase = phase
        self._stream = stream
        self._on_progress = on_progress
        self._total = total
        self._bytes_total = bytes_total
        self._bytes_done = 0
        self._next = 0.0

    def add(self, count: int) -> None:
        """Counts archive bytes, and reports if it is time to."""
        self._bytes_done += count
        if self._on_progress is not None and time.monotonic() >= self._next:
            self.report(self._stream.records())
            self._next = time.monotonic() + _PROGRESS_INTERVAL

    def report(self, records: int) -> None:
        """Reports now."""
        if self._on_progress is not None:
            self._on_progress(Progress(self._phase, records, self._total, self._bytes_done, self._bytes_total))


def push_all(stream: Stream, pieces: Iterable[memoryview], reporter: Reporter) -> None:
    """Pushes a whole source into a stream that takes everything."""
    for chunk in pieces:
        stream.push(chunk)
        reporter.add(len(chunk))
