"""Archives and encrypted history for XMTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from xmtp_history.node import LocalNode
    from xmtp_history.server import HistoryServer, LocalStorage

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
    "HistoryServer",
    "ImportReport",
    "InvalidRecord",
    "InvalidRecords",
    "LocalNode",
    "LocalStorage",
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

#: What needs gRPC or an HTTP server is loaded when it is asked for.
_LAZY = {"HistoryServer": "server", "LocalNode": "node", "LocalStorage": "server"}

# Users see where a name is to be imported from, not where it happens to be defined.
for _name in __all__:
    if _name != "__version__" and _name not in _LAZY:
        globals()[_name].__module__ = __name__


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return __all__
