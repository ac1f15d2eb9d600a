"""The exceptions of xmtp_history.

    XmtpHistoryError
    ├── ArchiveError                    something is wrong with an archive
    │   ├── NotAnArchive                the bytes are something else
    │   ├── UnsupportedArchiveVersion   made by a newer XMTP client
    │   ├── ArchiveKeyError             the key does not open it (also a ValueError)
    │   ├── ArchiveTruncated            it ends too early
    │   ├── ArchiveCorrupted            it was damaged or tampered with
    │   │   └── InvalidRecords          it opens, but some of its records break the format's rules
    │   └── ArchiveLimitExceeded        it asks for more memory than the reader grants
    ├── StoreError                      something is wrong with a history store
    │   ├── StoreKeyError               the key does not open it (also a ValueError)
    │   ├── StoreLocked                 somebody else is writing to it for too long
    │   └── InstallationInUse           another client has the installation open
    ├── SyncError                       what installations do together does not work out
    │   ├── NoHistoryServer             there is none at the URL
    │   ├── ArchiveNotFound             the server does not have the archive
    │   ├── ArchiveExpired              the server does not have it any more
    │   ├── PayloadTooLarge             it is larger than the server or the caller allows
    │   ├── NotRegistered               the installation does not belong to its inbox (any more)
    │   ├── TooManyInstallations        the inbox has as many as it may have
    │   ├── NoOtherInstallation         there is nobody to ask for history
    │   ├── SyncRefused                 the other installations do not send theirs
    │   └── SyncTimeout                 nobody sent any in time (also a TimeoutError)
    ├── IdentityError                   an identity update, or an inbox's log, breaks a rule
    ├── GroupError                      the installation is not an active member of the group
    ├── NetworkError                    a server cannot be reached, or keeps failing: try again later
    └── ContentError                    a message's content cannot be decoded

Plain Python exceptions are used where they fit: ``FileNotFoundError`` and other ``OSError`` for files, ``TypeError`` and
``ValueError`` for arguments. No exception carries a key, a token, the whole id of a file on a server, or message content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xmtp_history._types import InvalidRecord
    from xmtp_history.client._sync_types import SyncRefusal


class XmtpHistoryError(Exception):
    """Root of every error that this package defines."""


class ArchiveError(XmtpHistoryError):
    """Something is wrong with an archive; nothing of it was imported.

    Attributes:
        reason: name of the condition in the archive specification, for example ``"AuthFailed"``.
        element: 0-based index of the archive element at fault, or None where there is none.
        offset: byte offset of the fault, or None: up to the first element counted in the file, from then on in the
            inflated stream of elements.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        element: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.element = element
        self.offset = offset


class NotAnArchive(ArchiveError):
    """The bytes are not an XMTP archive."""


class UnsupportedArchiveVersion(ArchiveError):
    """The archive has a format version that this release does not know."""


class ArchiveKeyError(ArchiveError, ValueError):
    """The key does not open the archive, or is not 32 bytes long."""


class ArchiveTruncated(ArchiveError):
    """The archive ends before it is complete."""


class ArchiveCorrupted(ArchiveError):
    """The archive was damaged or altered."""


class InvalidRecords(ArchiveCorrupted):
    """The archive opens, but holds records that break the rules of the format.

    Attributes:
        records: every offending record, in archive order (at most the first 1,000).
    """

    def __init__(self, message: str, *, records: tuple[InvalidRecord, ...] = ()) -> None:
        first = records[0].element if records else None
        super().__init__(message, reason="InvalidRecord", element=first)
        self.records = records


class ArchiveLimitExceeded(ArchiveError):
    """The archive asks for more memory than the reader grants."""


class StoreError(XmtpHistoryError):
    """Something is wrong with a history store; the operation had no effect."""


class StoreKeyError(StoreError, ValueError):
    """The key does not open the store, or is not 32 bytes long."""


class StoreLocked(StoreError):
    """Another writer holds the store for longer than the time allowed."""


class InstallationInUse(StoreError):
    """Another client, in this process or another one, has the installation open: close it first."""


class SyncError(XmtpHistoryError):
    """A history server refuses a request or answers what none should, or the installation may not take part.

    Trying again does not help.

    Attributes:
        status: the HTTP status that says so, or None: 401 or 403 ask for another token, 507 for room on the server.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoHistoryServer(SyncError):
    """What answers at the URL is not a history server: check the URL. Or the client was told to use none."""


class ArchiveNotFound(SyncError):
    """The history server does not have the archive: ask for it to be sent again. Or no archive with this pin was sent."""


class ArchiveExpired(SyncError):
    """The history server does not have the archive any more: ask for it to be sent again, and fetch it sooner."""


class PayloadTooLarge(SyncError):
    """An archive is larger than the server takes, or than the caller allows: leave something out, or raise the limit."""


class NotRegistered(SyncError):
    """The installation does not belong to its inbox: it was not registered, or it was revoked.

    A revoked one never comes back: register a new one in a new database.
    """


class TooManyInstallations(SyncError):
    """The inbox has ten installations, and XMTP's clients start no more: revoke one that is not used any more.

    Attributes:
        installation_ids: the installations of the inbox, the oldest first.
    """

    def __init__(self, message: str, *, installation_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.installation_ids = installation_ids


class NoOtherInstallation(SyncError):
    """The inbox has no other installation that could send its history: start one where the history is."""


class SyncRefused(SyncError):
    """All other installations say that they do not send their history.

    Attributes:
        refusals: which, and why.
    """

    def __init__(self, message: str, *, refusals: tuple[SyncRefusal, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals


class SyncTimeout(SyncError, TimeoutError):
    """No history arrived in time; the message says what was waited for.

    The request stays, so that an answer is imported whenever it comes, if a worker runs then.
    """


class IdentityError(XmtpHistoryError):
    """An identity update breaks a rule, or a wallet's signature is not the one that is needed. Nothing was changed."""


class GroupError(XmtpHistoryError):
    """The installation is not an active member of the group, or the group does not allow what was asked for."""


class NetworkError(XmtpHistoryError):
    """A server cannot be reached, the connection keeps breaking, or the server keeps failing: try again later.

    Attributes:
        status: the HTTP status of the last failure, or None where there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ContentError(XmtpHistoryError, ValueError):
    """A message's content is not a valid EncodedContent."""
