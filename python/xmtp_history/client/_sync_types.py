"""What history sync tells, and what it is told: states, reports, events, numbers. No behaviour.

Pins are no business of who reads a log, so they are not part of any repr.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xmtp_history._types import ArchiveMetadata, ArchiveOptions, Consent, ImportReport


class SyncPhase(enum.Enum):
    """How far the installation is with the history of the user's other installations."""

    #: Nothing looks after it: device sync is switched off, or no worker has run yet.
    OFF = "off"
    #: Nothing was asked for.
    IDLE = "idle"
    #: History was asked for, and another installation has to answer.
    WAITING = "waiting"
    #: An archive is arriving; what has arrived is imported meanwhile.
    DOWNLOADING = "downloading"
    #: Everything has arrived, and the rest is imported.
    IMPORTING = "importing"
    #: History was imported.
    DONE = "done"
    #: What was asked for is not going to come.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """How history sync is doing (device sync specification, section 7).

    Attributes:
        phase: how far it is.
        pending_requests: own requests that nobody has answered or finally refused yet.
        other_installations: how many other installations the inbox has, as far as is known.
        records: records of the archive that have been read, while one is imported.
        records_total: how many it has; None where that is not known.
        bytes_done: bytes of the archive that have arrived.
        bytes_total: its size in bytes; None where that is not known.
        reason: why it failed, or what is in the way, for people; empty where there is nothing to say.
    """

    phase: SyncPhase
    pending_requests: int = 0
    other_installations: int = 0
    records: int = 0
    records_total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SyncRefusal:
    """An installation that says why it does not send its history; only those of this package do.

    Attributes:
        installation_id: which one.
        reason: ``no_server`` (it has no history server, or there is none at the request's URL), ``too_large`` (for the
            server, or for what it sends), ``refused`` (its policy), ``expired`` (it tried for days), or ``failed``.
        detail: the same in words, for people.
    """

    installation_id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync of the history came to.

    Attributes:
        pin: the request's.
        imported: what all its answers brought together, each of which was one transaction. There is no metadata if there
            was more than one.
        archives: how many answers that were.
        bytes: their size together.
        refused: the installations that refused.
        seconds: how long it took.
    """

    pin: str = field(repr=False)
    imported: ImportReport
    archives: int
    bytes: int
    refused: tuple[SyncRefusal, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class AvailableArchive:
    """An archive that another installation of the user has sent, asked for or not.

    Attributes:
        pin: by which it is imported: that of a request, or one that the sender chose.
        metadata: what is in it, as the sender says; the version is 65535, which stands for unknown, as in all SDKs.
        sent_by_installation: which installation.
        sent_at_ns: when the node had the message that offers it.
    """

    pin: str = field(repr=False)
    metadata: ArchiveMetadata
    sent_by_installation: str
    sent_at_ns: int


@dataclass(frozen=True, slots=True)
class ArchiveRequest:
    """Another installation of the user asks for the history; see :class:`ArchivePolicy`.

    Attributes:
        pin: the request's.
        installation_id: who asks; it was an installation of the inbox a moment ago.
        sent_at_ns: when the node had the request.
        options: what it asks for.
        server_url: the history server that it names; empty if it names none.
    """

    pin: str = field(repr=False)
    installation_id: str
    sent_at_ns: int
    options: ArchiveOptions
    server_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What is waiting to be sent to the user's other installations; nothing of it is lost by going offline or restarting.

    Attributes:
        consents: decisions about consent.
        messages: messages that the application recorded.
        hmac_due: whether a new root key for HMACs is to be made and told.
        intents: messages and commits that the node does not have yet, or that were not seen there yet.
    """

    consents: int
    messages: int
    hmac_due: bool
    intents: int


# --- events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SyncEvent:
    """Something that happened while installations keep each other in step; each kind is a class of its own."""


@dataclass(frozen=True, slots=True)
class HistoryRequested(SyncEvent):
    """The history was asked for.

    Attributes:
        pin: the request's.
        automatic: whether the client did so by itself, as it does once for a new installation.
    """

    pin: str = field(repr=False)
    automatic: bool


@dataclass(frozen=True, slots=True)
class HistoryImported(SyncEvent):
    """An archive of another installation was imported: there may be conversations and messages older than the newest ones.

    Attributes:
        pin: the request's.
        sent_by_installation: who sent it.
        report: what it brought.
    """

    pin: str = field(repr=False)
    sent_by_installation: str
    report: ImportReport


@dataclass(frozen=True, slots=True)
class HistorySyncFailed(SyncEvent):
    """An installation does not send its history, or what it sent cannot be imported, and it is not tried again.

    Attributes:
        pin: the request's.
        sent_by_installation: who refused, or sent it.
        reason: that of a :class:`SyncRefusal`; or ``expired`` (the server does not have the archive any more: ask again),
            ``unreadable`` (it is damaged, or the key is wrong), ``too_large``, ``revoked`` (the sender was), ``failed``.
        detail: the same in words, for people.
    """

    pin: str = field(repr=False)
    sent_by_installation: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class ArchiveSent(SyncEvent):
    """Another installation got the archive that it asked for.

    Attributes:
        pin: the request's.
        requested_by_installation: who asked.
        size: the archive's size in bytes.
    """

    pin: str = field(repr=False)
    requested_by_installation: str
    size: int


@dataclass(frozen=True, slots=True)
class ArchiveRefused(SyncEvent):
    """Another installation asked for the history and does not get it. It is told why, if it is one of this package's.

    Attributes:
        pin: the request's.
        requested_by_installation: who asked.
        reason: that of a :class:`SyncRefusal`, or ``revoked``: it is no installation of the inbox any more, and is told
            nothing.
        detail: the same in words, for people.
    """

    pin: str = field(repr=False)
    requested_by_installation: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class MessagesShared(SyncEvent):
    """Another installation's application recorded messages (``client.history.add_messages``), and they are here now.

    Attributes:
        message_ids: those that are new here.
        conversation_ids: the conversation of each.
    """

    message_ids: tuple[str, ...]
    conversation_ids: tuple[str, ...]


# --- preferences ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConsentUpdate:
    """A decision about consent that has changed, here or on another installation.

    Attributes:
        consent: the decision as it is now.
    """

    consent: Consent


@dataclass(frozen=True, slots=True)
class HmacKeyUpdate:
    """The inbox has another root key for HMACs: subscribe to push topics again (``conversations.hmac_keys()``).

    Attributes:
        key: the root key, 42 bytes. It is not part of the repr.
        cycled_at_ns: when it was made, by the clock of the installation that made it.
    """

    key: bytes = field(repr=False)
    cycled_at_ns: int


@dataclass(frozen=True, slots=True)
class HmacKey:
    """A key by which a push service tells the inbox's own messages in a conversation from those of others.

    Attributes:
        epoch: number of the 30 days that it is for, counted from 1970.
        key: the key, 42 bytes. It is not part of the repr.
    """

    epoch: int
    key: bytes = field(repr=False)


# --- numbers --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SyncMetrics:
    """What a client has done since it was opened (device sync specification, section 4.6); everything counts once.

    Attributes:
        init: how often the worker was ready to work.
        sync_group_created: sync groups made.
        sync_group_welcomes_processed: sync groups joined.
        request_sent: requests for history sent.
        request_received: requests of other installations met.
        payload_task_scheduled: answers begun to be worked on, the ones that policy refused included.
        payload_sent: archives sent, asked for or not.
        messages_payload_sent: those that have messages.
        consent_payload_sent: those that have consent.
        payload_processed: archives imported.
        messages_payload_processed: those that had messages.
        consent_payload_processed: those that had consent.
        hmac_sent: root keys for HMACs sent.
        hmac_received: root keys of others taken over.
        consent_sent: decisions about consent sent.
        consent_received: decisions of others that changed something.
        messages_sent: recorded messages sent.
        messages_received: recorded messages of others that were new.
        upload_bytes: bytes of the archives that were sent.
        download_bytes: bytes of the archives that were imported.
        refusals_sent: requests that were refused.
        refusals_received: refusals of own requests.
        failures: tries of an upload or an import, and passes over the groups, that failed.
        retries: those of them that were to be tried again.
        dropped: items that readers of streams were too slow for.
    """

    init: int = 0
    sync_group_created: int = 0
    sync_group_welcomes_processed: int = 0
    request_sent: int = 0
    request_received: int = 0
    payload_task_scheduled: int = 0
    payload_sent: int = 0
    messages_payload_sent: int = 0
    consent_payload_sent: int = 0
    payload_processed: int = 0
    messages_payload_processed: int = 0
    consent_payload_processed: int = 0
    hmac_sent: int = 0
    hmac_received: int = 0
    consent_sent: int = 0
    consent_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    upload_bytes: int = 0
    download_bytes: int = 0
    refusals_sent: int = 0
    refusals_received: int = 0
    failures: int = 0
    retries: int = 0
    dropped: int = 0
