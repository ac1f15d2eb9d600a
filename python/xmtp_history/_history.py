"""The encrypted history store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from xmtp_history import _io, _rows
from xmtp_history._ffi import Store, Stream
from xmtp_history._types import ArchiveElement, ArchiveOptions, Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from xmtp_history._ffi import BytesLike
    from xmtp_history._io import OnProgress, Source, Target
    from xmtp_history._types import (
        ArchiveReport,
        Consent,
        Conversation,
        ConversationType,
        ImportReport,
        Message,
    )

#: Records fetched at a time.
_PAGE = 1000

#: Longest time to wait for other writers, seconds.
_MAX_TIMEOUT = 1_000_000


class History:
    """Conversations, messages and consent in one encrypted file.

    Open it with :meth:`open`, best in a ``with`` block. It may be used from several threads, and several processes may open
    one file: readers never wait, writers wait for each other. Every method that writes is one transaction; if it raises,
    nothing was stored. In asyncio, call the methods that do much work through ``asyncio.to_thread``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @classmethod
    def open(cls, path: str | os.PathLike[str], key: BytesLike, *, timeout: float = 5.0) -> Self:
        """Opens the store at ``path``, or creates it, readable by its owner alone.

        Args:
            path: the file; two more, ending in ``-wal`` and ``-shm``, are beside it while it is open.
            key: 32 random bytes. They are used as they are: a passphrase is not a key.
            timeout: how long a write waits for other writers, seconds.

        Raises:
            StoreKeyError: the key does not open the file, or is not 32 bytes long.
            StoreError: the file cannot be opened, or was made by a newer release.
        """
        return cls(Store(os.fsencode(path), key, _milliseconds(timeout)))

    def close(self) -> None:
        """Closes the store; closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def counts(self) -> Counts:
        """How many records can be listed. Expired messages, and those whose conversation is not known, do not count."""
        return Counts(*self._store.counts())

    def conversations(
        self, *, conversation_type: ConversationType | None = None, limit: int | None = None
    ) -> Iterator[Conversation]:
        """Lists conversations, the one with the newest activity first. Sync groups are not conversations.

        Args:
            conversation_type: only groups, or only DMs.
            limit: at most this many.
        """
        return self._pages("conversations", limit, conversation_type=conversation_type)

    def conversation(self, conversation_id: str) -> Conversation | None:
        """The conversation of this id, or None.

        Raises:
            ValueError: the id is not hexadecimal.
        """
        batch, blob, _ = self._store.list("conversation", id=conversation_id)
        return next(_rows.records(batch, blob), None)  # type: ignore[return-value]

    def messages(
        self,
        conversation_id: str,
        *,
        after_ns: int | None = None,
        before_ns: int | None = None,
        limit: int | None = None,
        descending: bool = False,
    ) -> Iterator[Message]:
        """Lists a conversation's messages by the time they were sent.

        Args:
            conversation_id: the conversation; an unknown one has no messages.
            after_ns: only messages sent later than this.
            before_ns: only messages sent earlier than this.
            limit: at most this many.
            descending: newest first.

        Raises:
            ValueError: the id is not hexadecimal.
        """
        return self._pages(
            "messages",
            limit,
            conversation_id=conversation_id,
            after_ns=after_ns,
            before_ns=before_ns,
            descending=descending,
        )

    def consents(self) -> Iterator[Consent]:
        """Lists all consent records, by entity type and entity."""
        return self._pages("consents", None)

    def _pages(self, kind: str, limit: int | None, **request: object) -> Iterator[Any]:
        if limit is not None and limit < 0:
            msg = "limit must not be negative"
            raise ValueError(msg)
        # The first page is read at once, so that a wrong argument raises here and not in somebody else's loop.
        size = _PAGE if limit is None else min(limit, _PAGE)
        page = self._store.list(kind, after=None, limit=size, **request)
        return self._iterate(kind, page, limit, request)

    def _iterate(
        self, kind: str, page: tuple[Any, bytes, Any], limit: int | None, request: dict[str, object]
    ) -> Iterator[Any]:
        given = 0
        while True:
            batch, blob, following = page
            for record in _rows.records(batch, blob):
                given += 1
                yield record
            if following is None or given == limit:
                return
            size = _PAGE if limit is None else min(limit - given, _PAGE)
            page = self._store.list(kind, after=following, limit=size, **request)

    def add_conversations(self, records: Iterable[Conversation]) -> ImportReport:
        """Adds conversations; one that the store has is replaced. Whether it is active follows from its membership state.

        Raises:
            TypeError: a record of another type.
            ValueError: a record breaks the format's rules; nothing was stored.
            StoreLocked: another writer holds the store.
        """
        records = list(records)
        return self._add("g", records, _rows.conversation_rows(records))

    def add_messages(self, records: Iterable[Message]) -> ImportReport:
        """Adds messages. The first of an id stays, but a published one replaces one that was not.

        Messages of an unknown conversation are kept, and listed as soon as it is added or imported.

        Raises:
            TypeError: a record of another type.
            ValueError: a record breaks the format's rules; nothing was stored.
            StoreLocked: another writer holds the store.
        """
        records = list(records)
        return self._add("m", records, *_rows.message_rows(records))

    def set_consents(self, records: Iterable[Consent]) -> ImportReport:
        """Sets consents, whatever was decided before.

        Raises:
            TypeError: a record of another type.
            ValueError: a record breaks the format's rules; nothing was stored.
            StoreLocked: another writer holds the store.
        """
        records = list(records)
        return self._add("c", records, _rows.consent_rows(records))

    def _add(self, kind: str, records: list[Any], rows: list[list[Any]], blob: bytes = b"") -> ImportReport:
        try:
            return _rows.import_report(self._store.add(kind, rows, blob))
        except (TypeError, ValueError) as error:
            misfit = _rows.misfit(records)
            if misfit is None:
                raise
            raise type(error)(misfit) from None

    def create_archive(
        self,
        target: Target,
        key: BytesLike,
        options: ArchiveOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> ArchiveReport:
        """Exports to an archive that every XMTP SDK can import.

        It shows the store as it is at the start, while others go on writing.

        Args:
            target: a path, which is replaced in one step once the archive is complete and synced to disk, or a binary file
                object, whose content is only an archive if this returns.
            key: key for the archive, 32 bytes. Use a new one for each.
            options: what to export; by default everything.
            on_progress: called at most ten times a second, and once more when the archive is complete.

        Raises:
            OSError: the target cannot be written.
            StoreError: the store cannot be read.
        """
        options = options or ArchiveOptions()
        total = None if on_progress is None else self._expected(options)
        buffer = bytearray(_io.CHUNK_BYTES)
        with self._export(key, options) as stream, _io.writing(target) as file:
            reporter = _io.Reporter("export", stream, on_progress, total=total)
            while filled := stream.read_into(buffer):
                _io.write_all(file, memoryview(buffer)[:filled])
                reporter.add(filled)
            report = _rows.archive_report(stream.finish())
        reporter.report(report.counts.conversations + report.counts.messages + report.counts.consents)
        return report

    def _export(self, key: BytesLike, options: ArchiveOptions) -> Stream:
        """An export to be read to its end. It shows the store as it is now."""
        return Stream(
            "export",
            key,
            store=self._store,
            elements=[element.value for element in options.elements],
            start_ns=options.start_ns,
            end_ns=options.end_ns,
            exclude_disappearing_messages=options.exclude_disappearing_messages,
            include_context_groups=options.include_context_groups,
        )

    def _expected(self, options: ArchiveOptions) -> int | None:
        """How many records an export is going to have, but for hidden ones; None where counting would mean reading them."""
        if options.start_ns is not None or options.end_ns is not None or options.exclude_disappearing_messages:
            return None
        counts = self.counts()
        sizes = {
            ArchiveElement.MESSAGES: counts.conversations + counts.messages,
            ArchiveElement.CONSENT: counts.consents,
        }
        return sum(sizes[element] for element in options.elements)

    def import_archive(
        self,
        source: Source,
        key: BytesLike,
        *,
        lenient: bool = False,
        inbox_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> ImportReport:
        """Imports an archive that any XMTP SDK made, as one transaction. Importing it again changes nothing.

        Args:
            source: a path, bytes, or a binary file object, which is read to its end.
            key: the archive's key, 32 bytes.
            lenient: skip records that break the format's rules and report them, instead of refusing the archive.
            inbox_id: the user's own inbox; DMs that it is not a member of are then counted in the report, and decisions
                about consent of a clock that is ahead are dated now.
            on_progress: called at most ten times a second, and once more when the import is committed.

        Raises:
            ArchiveError: the subclass says what is wrong with the archive; nothing was stored.
            InvalidRecords: the archive has invalid records; nothing was stored.
            StoreLocked: another writer holds the store.
            OSError: the source cannot be read.
        """
        # Before the store is locked: whoever named a wrong file need not wait for other writers.
        pieces = _io.begun(_io.chunks(source))
        with self._import(key, lenient=lenient, inbox_id=inbox_id) as stream:
            reporter = _io.Reporter("import", stream, on_progress, bytes_total=_io.size_of(source))
            _io.push_all(stream, pieces, reporter)
            records = stream.records()
            report = _rows.import_report(stream.finish())
        reporter.report(records)
        return report

    def _import(self, key: BytesLike, *, lenient: bool, inbox_id: str | None) -> Stream:
        """An import to be filled and finished. Nobody else writes to the store until it ends; closing it undoes it.

        Raises:
            StoreLocked: another writer holds the store.
        """
        return Stream("import", key, store=self._store, lenient=lenient, inbox_id=inbox_id)


def _milliseconds(timeout: float) -> int:
    if not 0 <= timeout <= _MAX_TIMEOUT:
        msg = f"timeout must be between 0 and {_MAX_TIMEOUT} seconds"
        raise ValueError(msg)
    return int(timeout * 1000)
