"""The records and reports of xmtp_history: frozen dataclasses with XMTP's own field names.

Ids are lower-case hexadecimal strings, times are integer nanoseconds since 1970 (``*_ns``). Enumerations carry the numbers
of the archive format; a number that the format does not name stays a plain ``int``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class ArchiveElement(enum.Enum):
    """What an archive is asked to contain (``BackupElementSelection``)."""

    MESSAGES = 1
    CONSENT = 2


class ConversationType(enum.IntEnum):
    """Kind of a conversation."""

    GROUP = 1
    DM = 2


class MembershipState(enum.IntEnum):
    """The user's own standing in a conversation."""

    ALLOWED = 1
    REJECTED = 2
    PENDING = 3
    RESTORED = 4
    PENDING_REMOVE = 5


class MessageKind(enum.IntEnum):
    """Kind of a message."""

    APPLICATION = 1
    MEMBERSHIP_CHANGE = 2


class DeliveryStatus(enum.IntEnum):
    """Whether a message reached the network."""

    UNPUBLISHED = 1
    PUBLISHED = 2
    FAILED = 3


class ConsentEntityType(enum.IntEnum):
    """What a consent record is about."""

    CONVERSATION_ID = 1
    INBOX_ID = 2


class ConsentState(enum.IntEnum):
    """The user's decision about an entity."""

    UNKNOWN = 1
    ALLOWED = 2
    DENIED = 3


@dataclass(frozen=True, slots=True)
class ArchiveOptions:
    """What to put in an archive.

    Attributes:
        elements: the sections to write, in this order.
        start_ns: only messages sent, and conversations created, after this time (exclusive).
        end_ns: only messages sent, and conversations created, up to this time (inclusive).
        exclude_disappearing_messages: leave out every message that has an expiry.
        include_context_groups: also write conversations outside the time window that a written message belongs to.
            Without it the messages arrive without their conversation, and XMTP's own SDKs drop them.
    """

    elements: tuple[ArchiveElement, ...] = (ArchiveElement.MESSAGES, ArchiveElement.CONSENT)
    start_ns: int | None = None
    end_ns: int | None = None
    exclude_disappearing_messages: bool = False
    include_context_groups: bool = True


@dataclass(frozen=True, slots=True)
class ArchiveMetadata:
    """The first element of an archive.

    Attributes:
        backup_version: version of the container format.
        elements: the sections asked for at export; a number the format does not name stays an int.
        exported_at_ns: when the export began.
        start_ns: start of the time window (exclusive), or None.
        end_ns: end of the time window (inclusive), or None.
    """

    backup_version: int
    elements: tuple[ArchiveElement | int, ...]
    exported_at_ns: int
    start_ns: int | None
    end_ns: int | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A group or a DM.

    ``None`` for ``name``, ``description``, ``image_url_square`` and ``app_data`` means absent, which is not the same as
    empty. ``attributes`` holds the group's other attributes; among them can be a secret (``_commit_log_signer``), so they
    are not part of the repr. ``is_active`` is False for a conversation that was restored from an archive and that no
    member has added this installation to since.
    """

    id: str
    conversation_type: ConversationType | int = ConversationType.GROUP
    name: str | None = None
    description: str | None = None
    image_url_square: str | None = None
    app_data: str | None = None
    created_at_ns: int = 0
    last_message_ns: int | None = None
    dm_id: str | None = None
    creator_inbox_id: str | None = None
    added_by_inbox_id: str = ""
    admins: tuple[str, ...] = ()
    super_admins: tuple[str, ...] = ()
    membership_state: MembershipState | int = MembershipState.ALLOWED
    is_active: bool = True
    message_disappear_from_ns: int | None = None
    message_disappear_in_ns: int | None = None
    installations_last_checked: int = 0
    rotated_at_ns: int = 0
    welcome_id: int | None = None
    paused_for_version: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class ContentType:
    """Type of an EncodedContent."""

    authority_id: str
    type_id: str
    version_major: int
    version_minor: int

    def __str__(self) -> str:
        return f"{self.authority_id}/{self.type_id}:{self.version_major}.{self.version_minor}"


@dataclass(frozen=True, slots=True)
class DecodedContent:
    """A message's EncodedContent, opened.

    Attributes:
        type: the content type.
        parameters: the type's parameters, for example ``{"encoding": "UTF-8"}``.
        fallback: text for clients that do not know the type, or None.
        body: ``str`` for text and markdown, otherwise the type's own bytes, decompressed.
    """

    type: ContentType
    parameters: Mapping[str, str]
    fallback: str | None
    body: str | bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was sent.

    ``content`` is the stored EncodedContent, byte for byte; :meth:`decoded` opens it. It is not part of the repr.
    ``expire_at_ns`` is when a disappearing message goes, ``deleted_by_inbox_id`` who deleted it for everybody, or None.
    """

    id: str
    conversation_id: str
    sent_at_ns: int
    kind: MessageKind | int
    sender_inbox_id: str
    sender_installation_id: str
    delivery_status: DeliveryStatus | int
    content_type: str
    content: bytes = field(repr=False)
    reference_id: str | None = None
    expire_at_ns: int | None = None
    sequence_id: int | None = None
    originator_id: int | None = None
    authority_id: str = ""
    version_major: int = 0
    version_minor: int = 0
    content_type_save: int = 0
    deleted_by_inbox_id: str | None = None

    def decoded(self) -> DecodedContent:
        """Opens :attr:`content`.

        Raises:
            ContentError: the bytes are not an EncodedContent, or do not decompress within 64 MiB.
        """
        from xmtp_history._content import decode_content

        return decode_content(self.content)


@dataclass(frozen=True, slots=True)
class Consent:
    """A user's decision about a conversation or an inbox."""

    entity_type: ConsentEntityType | int
    state: ConsentState | int
    entity: str
    consented_at_ns: int


@dataclass(frozen=True, slots=True)
class Counts:
    """A number for each kind of record."""

    conversations: int = 0
    messages: int = 0
    consents: int = 0


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """A record that breaks the rules of the format.

    Attributes:
        element: index of the archive element, or of the record in the list given.
        kind: ``"conversation"``, ``"message"`` or ``"consent"``.
        field: the field at fault, by its name in the format.
        reason: one sentence, without content.
    """

    element: int
    kind: str
    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArchiveReport:
    """What an archive holds.

    Attributes:
        metadata: its first element.
        counts: records per kind.
        elements: number of elements, the metadata included.
        archive_bytes: size of the archive.
        plaintext_bytes: size of the records before encryption.
        first_sent_at_ns: time of the oldest message, or None without messages.
        last_sent_at_ns: time of the newest message, or None without messages.
        legacy: sealed with one nonce throughout, as before November 2025; write such an archive anew.
        unknown_elements: elements of a kind that this release does not know.
        invalid_records: records that an import would refuse (at most the first 1,000).
    """

    metadata: ArchiveMetadata
    counts: Counts
    elements: int
    archive_bytes: int
    plaintext_bytes: int
    first_sent_at_ns: int | None
    last_sent_at_ns: int | None
    legacy: bool = False
    unknown_elements: int = 0
    invalid_records: tuple[InvalidRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did, per kind of record.

    Attributes:
        new: records that were not in the store.
        duplicate: records that the store had already.
        updated: stored records that the archive changed: a consent with a newer decision, a message that is now
            published, a restored conversation with something filled in.
        skipped: records not stored: expired messages, and invalid records in a lenient import.
        expired: how many of the skipped messages had expired.
        invalid_records: the invalid records skipped in a lenient import (at most the first 1,000).
        orphans: messages of this archive kept for a conversation that neither archive nor store has; they are listed as
            soon as it arrives.
        foreign_dms: DMs that the inbox given is not a member of; None without an inbox.
        unknown_elements: elements ignored because this release does not know their kind.
        legacy: see :class:`ArchiveReport`.
        metadata: the archive's metadata; None for records that did not come from an archive.
    """

    new: Counts
    duplicate: Counts
    updated: Counts
    skipped: Counts
    expired: int = 0
    invalid_records: tuple[InvalidRecord, ...] = ()
    orphans: int = 0
    foreign_dms: int | None = None
    unknown_elements: int = 0
    legacy: bool = False
    metadata: ArchiveMetadata | None = None


@dataclass(frozen=True, slots=True)
class UploadedArchive:
    """An archive that is on a history server now.

    Attributes:
        url: where it can be fetched, by everybody who knows the URL. A user and password in the server's URL are left out.
        size: its size in bytes.
        sha256: its SHA-256 in hexadecimal.
        delete_capability: with it the archive can be deleted before it expires; None if the server gave none.
    """

    url: str
    size: int
    sha256: str
    delete_capability: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DownloadedArchive:
    """An archive that was fetched from a history server.

    Attributes:
        size: its size in bytes.
        sha256: its SHA-256 in hexadecimal.
        verified: whether the server had named that SHA-256. Without it, what is damaged shows when the archive is opened.
    """

    size: int
    sha256: str
    verified: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is.

    Attributes:
        phase: ``"import"``, ``"export"``, ``"verify"``, ``"rewrite"``, ``"upload"`` or ``"download"``.
        done: records handled so far; 0 in an upload or download of a file, to which an archive is only bytes.
        total: records expected, or None where that is not known.
        bytes_done: archive bytes read or written so far; goes back where an upload has to send some again.
        bytes_total: archive bytes expected, or None where that is not known.
    """

    phase: str
    done: int
    total: int | None
    bytes_done: int
    bytes_total: int | None = None
