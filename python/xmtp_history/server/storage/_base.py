"""What the history server asks of a storage. Storages know nothing of HTTP, and the server nothing of where files are.

A file exists only once its upload is committed, and a commit has returned only once the file survives a power cut.
Whatever the storage cannot do is an :class:`OSError`; its ``errno`` tells "no room" (``ENOSPC``, ``EDQUOT``, ``EFBIG``) from
the rest.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import io
    from collections.abc import AsyncIterator
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a file will be known by.

    Attributes:
        file_id: 122 random bits; whoever knows it may fetch the file.
        capability: whoever knows it as well may delete the file. Storages keep only its SHA-256.
    """

    file_id: UUID
    capability: str

    @classmethod
    def random(cls) -> NewFile:
        """A name that nobody can guess."""
        return cls(uuid.uuid4(), secrets.token_hex(16))

    @property
    def capability_sha256(self) -> bytes:
        """What is kept of the capability."""
        return capability_sha256(self.capability)


def capability_sha256(capability: str) -> bytes:
    """The SHA-256 of a capability, 32 bytes; also of what a client shows for one, which need not be text."""
    return hashlib.sha256(capability.encode(errors="surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A committed file.

    Attributes:
        size: bytes.
        sha256: of the content, 32 bytes.
        capability_sha256: of the capability that deletes the file, 32 bytes.
        committed: seconds since 1970, by the clock of the storage.
    """

    size: int
    sha256: bytes
    capability_sha256: bytes
    committed: float

    def may_delete(self, capability: str) -> bool:
        """Whether a capability is this file's; takes the same time for each."""
        return hmac.compare_digest(capability_sha256(capability), self.capability_sha256)


class StoredFile(Protocol):
    """A committed file that is open: it can be read to its end, even when it is deleted meanwhile."""

    @property
    def info(self) -> FileInfo:
        """What is known of the file."""

    @property
    def content(self) -> bytes | None:
        """All of the file, where it is small and came along with opening it."""

    @property
    def file(self) -> io.FileIO | None:
        """The file itself, for sending it from the kernel; its content begins at 0 and has ``info.size`` bytes.

        None where the content is not in a file of this machine.
        """

    def read(self, start: int, end: int, /) -> AsyncIterator[bytes]:
        """The bytes from ``start`` up to ``end``, in pieces of at most 256 KiB.

        Raises:
            OSError: the storage cannot be read.
        """

    async def aclose(self) -> None:
        """Lets go of the file. Closing twice is fine."""


class Upload(Protocol):
    """An upload on its way. Exactly one of :meth:`commit` and :meth:`abort` ends it; after a failed commit, abort it.

    A call may be cancelled, and its work may go on in the background; the next call waits for that work.
    """

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Appends data, which may change again when this has returned, but not when it was cancelled.

        Raises:
            OSError: the storage cannot take it.
        """

    async def commit(self, new: NewFile, last: bytes | bytearray = b"", /) -> bytes:
        """Appends the last of the data, and makes the file durable and visible under its id, in one step.

        Returns:
            The SHA-256 of the content.

        Raises:
            OSError: the storage cannot, and the file is not there.
        """

    async def abort(self) -> None:
        """Removes every trace, also of a write or a commit that was cancelled and is still at work.

        Raises:
            OSError: something is left, invisible, which the next start or the sweep removes.
        """


@dataclass(slots=True)
class ResumableInfo:
    """What a resumable upload was created with; all of it survives a restart.

    Attributes:
        new: what the file will be known by.
        length: bytes of the whole file; None as long as the client has not said.
        metadata: the client's ``Upload-Metadata``, repeated to it and not looked into.
        created: seconds since 1970.
    """

    new: NewFile
    length: int | None
    metadata: str
    created: float


class ResumableUpload(Protocol):
    """An upload that outlives its connections, and servers. Whoever has it has it alone, until :meth:`release`.

    Where a storage has no locks, two servers can have the same upload. Then one of them goes on, and each step of the other
    raises :class:`UploadBusy`. What was not flushed may be gone after :meth:`release`.
    """

    @property
    def info(self) -> ResumableInfo:
        """What it was created with."""

    @property
    def offset(self) -> int:
        """How many bytes are there; after :meth:`flush`, and when it has just been opened, all of them are durable."""

    @property
    def committed(self) -> bool:
        """Whether the file has become visible."""

    @property
    def sha256(self) -> bytes | None:
        """The SHA-256 of the content, once the file has become visible."""

    async def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Appends data, which may change again when this has returned, but not when it was cancelled.

        Raises:
            OSError: the storage cannot take it. What was there before stays.
        """

    async def flush(self) -> None:
        """Makes everything written durable.

        Raises:
            OSError: the storage cannot; the offset may be less now.
        """

    async def truncate(self, offset: int, /) -> None:
        """Takes back what was appended since the offset was this, which nobody has been told is durable.

        Raises:
            OSError: the storage cannot.
        """

    async def set_length(self, length: int, /) -> None:
        """Stores the length, where the client has not said it before.

        Raises:
            OSError: the storage cannot.
        """

    async def commit(self) -> None:
        """Makes the complete file durable and visible; ``info`` stays until it expires. Repeating it is fine.

        Raises:
            OSError: the storage cannot; everything is there still, to try again.
        """

    async def release(self) -> None:
        """Lets others have it. Does not raise."""

    async def discard(self) -> None:
        """Removes it. A committed file is not touched.

        Raises:
            OSError: the storage cannot.
        """


class UploadBusy(Exception):
    """Another process is writing to this resumable upload."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A committed file in a listing.

    Attributes:
        size: bytes of its content.
        committed: seconds since 1970, by the clock of the storage.
    """

    file_id: UUID
    size: int
    committed: float


@dataclass(frozen=True, slots=True)
class ResumableEntry:
    """A resumable upload in a listing.

    Attributes:
        size: bytes that it takes up.
        touched: seconds since 1970 when something was last stored of it.
    """

    upload_id: str
    size: int
    touched: float


class Storage(Protocol):
    """What the server keeps files in."""

    async def prepare(self) -> None:
        """Gets ready, and removes what an earlier process left unfinished.

        Raises:
            OSError: the storage cannot be used.
        """

    async def aclose(self) -> None:
        """Lets go of what :meth:`prepare` took. Preparing it again is fine."""

    async def probe(self) -> None:
        """Writes, reads and deletes something.

        Raises:
            OSError: the storage does not work at the moment.
        """

    def create(self) -> Upload:
        """A new upload, which takes up nothing before its first write or its commit."""

    async def open(self, file_id: UUID, /, *, content: bool = True) -> StoredFile | None:
        """The file of this id, or None.

        Args:
            file_id: its id.
            content: whether it is going to be read.

        Raises:
            OSError: the storage cannot be read.
        """

    async def location(self, file_id: UUID, /) -> str | None:
        """A URL, good for some minutes, where clients get this file without the server. None: from the server only.

        Raises:
            OSError: the storage cannot be asked.
        """

    async def delete(self, file_id: UUID, /) -> bool:
        """Removes a file; says whether it was there. Those who have it open can read it once, from where they like.

        Raises:
            OSError: the storage cannot.
        """

    async def create_resumable(self, info: ResumableInfo, /) -> tuple[str, ResumableUpload]:
        """A new resumable upload and its id: 32 lower-case hexadecimal digits, 128 random bits.

        Raises:
            OSError: the storage cannot.
        """

    async def resume(self, upload_id: str, /) -> ResumableUpload | None:
        """The resumable upload of this id, or None.

        Raises:
            UploadBusy: another process has it.
            OSError: the storage cannot be read.
        """

    def files(self) -> AsyncIterator[list[FileEntry]]:
        """All committed files, in batches; what cannot be looked at is left out.

        Raises:
            OSError: the storage cannot be listed.
        """

    def resumables(self) -> AsyncIterator[list[ResumableEntry]]:
        """All resumable uploads, in batches.

        Raises:
            OSError: the storage cannot be listed.
        """

    async def discard(self, upload_id: str, /) -> bool:
        """Removes a resumable upload that nobody has; says whether it did.

        Raises:
            OSError: the storage cannot.
        """

    async def free_bytes(self) -> int | None:
        """Bytes that can still be stored; None where there is no such number.

        Raises:
            OSError: the storage cannot be asked.
        """
