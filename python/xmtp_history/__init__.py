"""Archives and encrypted history for XMTP."""

from __future__ import annotations

from xmtp_history._archive import (
    ArchiveReader,
    archive_metadata,
    open_archive,
    rewrite_archive,
    verify_archive,
)
from xmtp_history._errors import (
    ArchiveCorrupted,
    ArchiveError,
    ArchiveKeyError,
    ArchiveLimitExceeded,
    ArchiveTruncated,
    ContentError,
    InvalidRecords,
    NotAnArchive,
    StoreError,
    StoreKeyError,
    StoreLocked,
    UnsupportedArchiveVersion,
    XmtpHistoryError,
)
from xmtp_history._ffi import __version__
from xmtp_history._history import History
from xmtp_history._types import (
    ArchiveElement,
    ArchiveMetadata,
    ArchiveOptions,
    ArchiveReport,
    Consent,
    ConsentEntityType,
    ConsentState,
    ContentType,
    Conversation,
    ConversationType,
    Counts,
    DecodedContent,
    DeliveryStatus,
    ImportReport,
    InvalidRecord,
    MembershipState,
    Message,
    MessageKind,
    Progress,
)

__all__ = [
    "ArchiveCorrupted",
    "ArchiveElement",
    "ArchiveError",
    "ArchiveKeyError",
    "ArchiveLimitExceeded",
    "ArchiveMetadata",
    "ArchiveOptions",
    "ArchiveReader",
    "ArchiveReport",
    "ArchiveTruncated",
    "Consent",
    "ConsentEntityType",
    "ConsentState",
    "ContentError",
    "ContentType",
    "Conversation",
    "ConversationType",
    "Counts",
    "DecodedContent",
    "DeliveryStatus",
    "History",
    "ImportReport",
    "InvalidRecord",
    "InvalidRecords",
    "MembershipState",
    "Message",
    "MessageKind",
    "NotAnArchive",
    "Progress",
    "StoreError",
    "StoreKeyError",
    "StoreLocked",
    "UnsupportedArchiveVersion",
    "XmtpHistoryError",
    "__version__",
    "archive_metadata",
    "open_archive",
    "rewrite_archive",
    "verify_archive",
]

# Users see where a name is to be imported from, not where it happens to be defined.
for _name in __all__:
    if _name != "__version__":
        globals()[_name].__module__ = __name__
