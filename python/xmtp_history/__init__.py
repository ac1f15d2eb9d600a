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
    ArchiveExpired,
    ArchiveKeyError,
    ArchiveLimitExceeded,
    ArchiveNotFound,
    ArchiveTruncated,
    ContentError,
    GroupError,
    IdentityError,
    InstallationInUse,
    InvalidRecords,
    NetworkError,
    NoHistoryServer,
    NotAnArchive,
    NotRegistered,
    PayloadTooLarge,
    StoreError,
    StoreKeyError,
    StoreLocked,
    SyncError,
    TooManyInstallations,
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
    DownloadedArchive,
    ImportReport,
    InvalidRecord,
    MembershipState,
    Message,
    MessageKind,
    Progress,
    UploadedArchive,
)

if TYPE_CHECKING:
    from xmtp_history._signer import EoaSigner, Signer
    from xmtp_history.client import (
        Client,
        GroupInfo,
        GroupState,
        GroupSyncSummary,
        InboxState,
        InstallationInfo,
        SyncGroupMessage,
    )
    from xmtp_history.node import LocalNode
    from xmtp_history.server import HistoryServer, LocalStorage, ObjectStorage, ServerLimits, UploadTokens
    from xmtp_history.sync import delete_archive, download_archive, upload_archive

__all__ = [
    "ArchiveCorrupted",
    "ArchiveElement",
    "ArchiveError",
    "ArchiveExpired",
    "ArchiveKeyError",
    "ArchiveLimitExceeded",
    "ArchiveMetadata",
    "ArchiveNotFound",
    "ArchiveOptions",
    "ArchiveReader",
    "ArchiveReport",
    "ArchiveTruncated",
    "Client",
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
    "DownloadedArchive",
    "EoaSigner",
    "GroupError",
    "GroupInfo",
    "GroupState",
    "GroupSyncSummary",
    "History",
    "HistoryServer",
    "IdentityError",
    "ImportReport",
    "InboxState",
    "InstallationInUse",
    "InstallationInfo",
    "InvalidRecord",
    "InvalidRecords",
    "LocalNode",
    "LocalStorage",
    "MembershipState",
    "Message",
    "MessageKind",
    "NetworkError",
    "NoHistoryServer",
    "NotAnArchive",
    "NotRegistered",
    "ObjectStorage",
    "PayloadTooLarge",
    "Progress",
    "ServerLimits",
    "Signer",
    "StoreError",
    "StoreKeyError",
    "StoreLocked",
    "SyncError",
    "SyncGroupMessage",
    "TooManyInstallations",
    "UnsupportedArchiveVersion",
    "UploadTokens",
    "UploadedArchive",
    "XmtpHistoryError",
    "__version__",
    "archive_metadata",
    "delete_archive",
    "download_archive",
    "open_archive",
    "rewrite_archive",
    "upload_archive",
    "verify_archive",
]

#: What needs gRPC or HTTP is loaded when it is asked for.
_LAZY = {
    "Client": "client",
    "EoaSigner": "_signer",
    "GroupInfo": "client",
    "GroupState": "client",
    "GroupSyncSummary": "client",
    "HistoryServer": "server",
    "InboxState": "client",
    "InstallationInfo": "client",
    "LocalNode": "node",
    "LocalStorage": "server",
    "ObjectStorage": "server",
    "ServerLimits": "server",
    "Signer": "_signer",
    "SyncGroupMessage": "client",
    "UploadTokens": "server",
    "delete_archive": "sync",
    "download_archive": "sync",
    "upload_archive": "sync",
}

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
