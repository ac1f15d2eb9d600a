"""Archives without a store: look, verify, read, write anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmtp_history import _io, _rows
from xmtp_history._errors import ArchiveError
from xmtp_history._ffi import Stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from xmtp_history._ffi import BytesLike
    from xmtp_history._io import OnProgress, Source, Target
    from xmtp_history._types import ArchiveMetadata, ArchiveReport, Consent, Conversation, Message

_MAX_ELEMENT_BYTES = 64 * 1024 * 1024

#: Enough to hold the metadata of any archive that was not made to annoy.
_FIRST_BYTES = 4096


class ArchiveReader:
    """The records of an archive, one after the other; made by :func:`open_archive`.

    A damaged archive raises where the damage is met: until the iteration has ended by itself, nothing says that the archive
    is complete. Records are given as they are, valid or not (see :func:`verify_archive`).

    Attributes:
        metadata: the archive's first element.
        legacy: whether it was sealed with one nonce throughout. None while that is not known: the second element shows it,
            which is mostly read together with the metadata.
    """

    def __init__(self, source: Source, key: BytesLike, max_element_bytes: int) -> None:
        self._closed = False
        self._stream = Stream("records", key, max_element_bytes=max_element_bytes)
        self._chunks = _io.chunks(source)
        self._rest = memoryview(b"")
        self._records = self._iterate()
        self.legacy: bool | None = None
        try:
            self.metadata: ArchiveMetadata = self._read_metadata()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Conversation | Message | Consent]:
        return self._records

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the archive; a file object that was passed in stays open."""
        self._closed = True
        self._stream.close()
        # Closes the file, if it was opened here.
        self._chunks.close()

    def _push(self) -> bool:
        """Pushes the next bytes; False at the end of the source."""
        if not self._rest:
            self._rest = next(self._chunks, memoryview(b""))
            if not self._rest:
                return False
        self._rest = self._rest[self._stream.push(self._rest) :]
        return True

    def _read_metadata(self) -> ArchiveMetadata:
        # A small first step, so that looking at the metadata of a large archive costs nothing.
        chunk = next(self._chunks, memoryview(b""))
        if chunk:
            taken = self._stream.push(chunk[:_FIRST_BYTES])
            self._rest = chunk[taken:]
        while (head := self._stream.head()) is None:
            if not self._push():
                self._stream.finish()
                msg = "the archive has no metadata"
                raise ArchiveError(msg)
        row, self.legacy = head
        return _rows.metadata(row)

    def _iterate(self) -> Iterator[Conversation | Message | Consent]:
        more = True
        while more:
            more = self._push()
            for record in _rows.records(*self._stream.take()):
                yield record
                if self._closed:
                    msg = "the archive is closed"
                    raise ValueError(msg)
        self.legacy = self._stream.finish()["legacy"]


def open_archive(source: Source, key: BytesLike, *, max_element_bytes: int = _MAX_ELEMENT_BYTES) -> ArchiveReader:
    """Opens an archive to iterate over its records.

    Args:
        source: a path, bytes, or a binary file object, which is read to its end.
        key: the archive's key, 32 bytes.
        max_element_bytes: largest single record accepted, sealed, in bytes; it has to fit in memory.

    Raises:
        ArchiveError: the subclass says what is wrong with the archive.
        OSError: the source cannot be read.
    """
    return ArchiveReader(source, key, max_element_bytes)


def archive_metadata(source: Source, key: BytesLike) -> ArchiveMetadata:
    """Reads an archive's metadata, and no more of it than that takes. What follows is not checked.

    Raises:
        ArchiveError: the subclass says what is wrong with the archive.
        OSError: the source cannot be read.
    """
    with open_archive(source, key) as reader:
        return reader.metadata


def verify_archive(source: Source, key: BytesLike, *, on_progress: OnProgress | None = None) -> ArchiveReport:
    """Reads an archive to its end, opens and decodes everything in it, and says what it holds.

    Nothing is stored. Records that open but break the format's rules do not fail the call: they are listed in the report,
    and an import would refuse them.

    Raises:
        ArchiveError: the subclass says what is wrong with the archive.
        OSError: the source cannot be read.
    """
    with Stream("verify", key) as stream:
        reporter = _io.Reporter("verify", stream, on_progress, bytes_total=_io.size_of(source))
        _io.push_all(stream, _io.chunks(source), reporter)
        report = _rows.archive_report(stream.finish())
    reporter.report(_total(report))
    return report


def rewrite_archive(
    source: Source, key: BytesLike, target: Target, target_key: BytesLike, *, on_progress: OnProgress | None = None
) -> ArchiveReport:
    """Writes the elements of an archive into a new one, under another key or nonce.

    Each element is copied byte for byte, so that also what this release does not know survives. The way to mend a legacy
    archive, and to change the key of one.

    Args:
        source: a path, bytes, or a binary file object.
        key: key of the old archive, 32 bytes.
        target: a path, which is replaced in one step once the new archive is complete, or a binary file object.
        target_key: key of the new archive, 32 bytes.
        on_progress: called at most ten times a second.

    Returns:
        What the old archive held.

    Raises:
        ArchiveError: the subclass says what is wrong with the old archive; the new one is not made.
        OSError: source or target cannot be used.
    """
    buffer = bytearray(_io.CHUNK_BYTES)
    with Stream("rewrite", key, target_key=target_key) as stream, _io.writing(target) as file:
        reporter = _io.Reporter("rewrite", stream, on_progress, bytes_total=_io.size_of(source))

        def write_ready() -> None:
            while filled := stream.read_into(buffer):
                _io.write_all(file, memoryview(buffer)[:filled])

        for chunk in _io.chunks(source):
            rest = chunk
            while rest:
                rest = rest[stream.push(rest) :]
                write_ready()
            reporter.add(len(chunk))
        # An empty push ends the input.
        stream.push(memoryview(b""))
        write_ready()
        report = _rows.archive_report(stream.finish())
    reporter.report(_total(report))
    return report


def _total(report: ArchiveReport) -> int:
    return report.counts.conversations + report.counts.messages + report.counts.consents
