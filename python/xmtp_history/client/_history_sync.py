"""The calls of a client that are about history sync (device-sync specification, sections 5 and 6)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from xmtp_history._errors import ArchiveNotFound
from xmtp_history._types import ArchiveElement, ArchiveOptions
from xmtp_history.client._sync_types import AvailableArchive, OutboxStatus
from xmtp_history.client._transfers import metadata_from, metadata_of, metadata_row

if TYPE_CHECKING:
    from xmtp_history._ffi import BytesLike
    from xmtp_history._io import OnProgress, Source, Target
    from xmtp_history._types import ArchiveMetadata, ArchiveReport, ImportReport
    from xmtp_history.client._events import EventStream
    from xmtp_history.client._parts import Parts
    from xmtp_history.client._sync_types import SyncEvent, SyncMetrics, SyncReport, SyncStatus
    from xmtp_history.sync._transfer import SentArchive

_DAY_NS: Final = 86_400 * 10**9
#: How long ``sync_history`` waits, seconds.
_TIMEOUT: Final = 300.0
#: Longer pins are not looked at, bytes.
_LONGEST_PIN: Final = 128


class HistorySyncCalls:
    """History from the user's other installations, and to them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # --- everything in one call -----------------------------------------------------------------------------------------

    async def sync_history(
        self,
        *,
        timeout: float | None = _TIMEOUT,  # noqa: ASYNC109 - what was waited for is said
        options: ArchiveOptions | None = None,
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """Asks the other installations for conversations, messages and consent, waits, and imports what they send.

        It returns once all have answered; or once one answer is imported, no other one that has arrived is still to be, and
        for a second nothing more has come. Each answer is imported as one transaction, and importing the same records again
        changes nothing. Answers that come later are imported by the worker; so are all of them if this is cancelled, since
        the request stays. A request that a new installation has sent by itself a moment ago serves, if it asks for the same.

        Args:
            timeout: seconds to wait; None waits for ever.
            options: what to ask for; by default everything.
            on_progress: called on the event loop, at most ten times a second while an archive is imported: in phase
                ``download`` until everything has arrived, then in phase ``import``.

        Raises:
            NoHistoryServer: history sync is switched off (``history_sync_url``).
            NoOtherInstallation: there is nobody to ask.
            SyncRefused: all others refuse; only installations of this package say so.
            SyncTimeout: nothing arrived in time; the message says what was waited for.
            ArchiveExpired, ArchiveError, PayloadTooLarge: what was sent cannot be imported; nothing of it was stored.
            NotRegistered: this installation was revoked.
            NetworkError: the node cannot be reached to begin with. Later failures are waited out.
        """
        self._parts.transfers.prepare()
        async with self._parts.worker.running():
            return await self._parts.requests.sync(
                options or ArchiveOptions(), timeout=timeout, on_progress=on_progress
            )

    async def sync_messages(
        self,
        *,
        timeout: float | None = _TIMEOUT,  # noqa: ASYNC109 - as above
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """As :meth:`sync_history`, for conversations and messages only."""
        options = ArchiveOptions(elements=(ArchiveElement.MESSAGES,))
        return await self.sync_history(timeout=timeout, options=options, on_progress=on_progress)

    async def sync_consent(
        self,
        *,
        timeout: float | None = _TIMEOUT,  # noqa: ASYNC109 - as above
        on_progress: OnProgress | None = None,
    ) -> SyncReport:
        """As :meth:`sync_history`, for consent only."""
        options = ArchiveOptions(elements=(ArchiveElement.CONSENT,))
        return await self.sync_history(timeout=timeout, options=options, on_progress=on_progress)

    # --- step by step ---------------------------------------------------------------------------------------------------

    async def send_sync_request(self, options: ArchiveOptions | None = None, server_url: str | None = None) -> str:
        """Asks the other installations for their history, without waiting (specification, section 5a).

        Each that runs uploads an archive and says where it is. The worker imports what arrives; without one,
        :meth:`sync_all_device_sync_groups` and :meth:`process_sync_archive` do it. The request is kept until the node has
        it, also across restarts.

        Args:
            options: what to ask for; by default everything.
            server_url: the history server that they are to use, instead of the client's.

        Returns:
            The request's pin, by which its answers are known.

        Raises:
            NoHistoryServer: history sync is switched off, and no server is named.
            ValueError: the URL cannot be used.
            NotRegistered: this installation was revoked.
            NetworkError: the node cannot be reached, and nothing was asked for.
        """
        url = self._parts.requests.server_url(server_url)
        return await self._parts.requests.ask(options or ArchiveOptions(), url)

    async def send_sync_archive(
        self,
        pin: str,
        options: ArchiveOptions | None = None,
        server_url: str | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> SentArchive:
        """Sends the other installations an archive that they have not asked for (specification, section 5d).

        They list it (:meth:`list_available_archives`) and import it if they want to (:meth:`process_sync_archive`). It goes
        from the store to the server without a file in between, sealed with a key of its own, which only they learn. There is
        one attempt.

        Args:
            pin: by which they find it; any printable text of up to 128 bytes.
            options: what to send; by default everything.
            server_url: the history server, instead of the client's.
            on_progress: called on the event loop, at most ten times a second.

        Returns:
            What was uploaded, and where it is.

        Raises:
            NoHistoryServer: history sync is switched off, or there is no history server at the URL.
            PayloadTooLarge: the archive is larger than the server takes: leave something out.
            SyncError: the server refuses it.
            NotRegistered: this installation was revoked.
            NetworkError: the server or the node cannot be reached; the others have not learned of the archive.
            ValueError: the pin or the URL cannot be used.
        """
        if not 0 < len(pin.encode()) <= _LONGEST_PIN or not pin.isprintable():
            # Before anything is uploaded for nothing.
            raise ValueError(f"a pin is a printable text of 1 to {_LONGEST_PIN} bytes")
        parts = self._parts
        url = parts.requests.server_url(server_url)
        await parts.identity.check_registered()
        sent, key = await parts.transfers.send(url, options or ArchiveOptions(), on_progress=on_progress)
        metadata = metadata_row(sent.report)
        await parts.groups.say("send_sync_reply", key, pin=pin, url=sent.url, metadata=metadata, task=None)
        parts.status.sent(sent)
        return sent

    def list_available_archives(self, days_cutoff: float = 30) -> list[AvailableArchive]:
        """The archives that other installations have sent, the newest first; the node is not asked (section 5d).

        Those that were asked for are among them, imported or not. A server keeps an archive for some days only.

        Args:
            days_cutoff: none that were sent earlier, days ago; 0 and less gives an empty list.

        Raises:
            RuntimeError: the client is closed.
        """
        if days_cutoff <= 0:
            return []
        since_ns = max(0, time.time_ns() - int(days_cutoff * _DAY_NS))
        return [
            AvailableArchive(
                row["pin"], metadata_from(row["metadata"]), row["sender_installation_id"], row["sent_at_ns"]
            )
            for row in self._parts.core.ask_now("sync_replies", since_ns=since_ns)
        ]

    async def process_sync_archive(
        self, pin: str | None = None, *, on_progress: OnProgress | None = None
    ) -> ImportReport:
        """Imports an archive that another installation has sent, as one transaction (section 5d).

        Args:
            pin: which; the newest one of this pin, or of all.
            on_progress: called on the event loop, at most ten times a second.

        Raises:
            ArchiveNotFound: no such archive was sent, as far as was synced; or the server does not have it.
            ArchiveExpired: the server does not have it any more.
            ArchiveError: the subclass says what is wrong with it; nothing was stored.
            PayloadTooLarge: it is larger than 4 GiB.
            NetworkError: the server cannot be reached.
        """
        parts = self._parts
        reply = await parts.core.ask("sync_reply", pin=pin)
        if reply is None:
            which = "" if pin is None else " with this pin"
            raise ArchiveNotFound(
                f"no other installation has sent an archive{which}; sync the device sync groups first"
            )
        _, key = await parts.core.call("sync_task_key", message_id=reply["message_id"])
        received = await parts.transfers.receive(reply["url"], key, patient=False, on_progress=on_progress)
        parts.status.processed(received)
        return received.report

    # --- files ----------------------------------------------------------------------------------------------------------

    async def create_archive(
        self,
        target: Target,
        key: BytesLike,
        options: ArchiveOptions | None = None,
        *,
        on_progress: OnProgress | None = None,
    ) -> ArchiveReport:
        """Exports the history to an archive; see :meth:`History.create_archive`. The event loop goes on meanwhile.

        If it is cancelled before everything is there, a path stays as it was.

        Args:
            target: a path, or a binary file object.
            key: key for the archive, 32 bytes; a new one for each.
            options: what to export; by default everything.
            on_progress: called on the event loop, at most ten times a second.
        """
        return await self._parts.transfers.create_file(target, key, options, on_progress)

    async def import_archive(
        self,
        source: Source,
        key: BytesLike,
        *,
        lenient: bool = False,
        on_progress: OnProgress | None = None,
    ) -> ImportReport:
        """Imports an archive as one transaction; see :meth:`History.import_archive`. The event loop goes on meanwhile.

        If it is cancelled before everything is there, nothing was stored.

        Args:
            source: a path, bytes, or a binary file object.
            key: the archive's key, 32 bytes.
            lenient: skip records that break the format's rules and report them, instead of refusing the archive.
            on_progress: called on the event loop, at most ten times a second.
        """
        return await self._parts.transfers.import_file(source, key, lenient=lenient, on_progress=on_progress)

    async def archive_metadata(self, source: Source, key: BytesLike) -> ArchiveMetadata:
        """What an archive says of itself; see :func:`archive_metadata`."""
        return await metadata_of(source, key)

    # --- looking on -----------------------------------------------------------------------------------------------------

    def sync_status(self) -> SyncStatus:
        """How history sync is doing. It asks nobody, and may be called as often as one likes."""
        return self._parts.status.snapshot(len(self._parts.identity.others))

    def metrics(self) -> SyncMetrics:
        """What was done since the client was opened, in numbers."""
        return self._parts.status.metrics()

    def stream_events(self) -> EventStream[SyncEvent]:
        """What happens from now on: history that is asked for, arrives, fails, is sent or refused; messages shared.

        History arrives behind what an application has read already: :class:`HistoryImported` and :class:`MessagesShared` say
        when to look again.

        Raises:
            RuntimeError: the client is closed.
        """

        async def read(event: SyncEvent) -> SyncEvent:
            return event

        return self._parts.hub.events.stream(read)

    async def wait(self) -> None:
        """Waits as long as the sync worker can work: until the client is closed.

        Failures that pass do not end the worker.

        Raises:
            NotRegistered: the installation was revoked, so that the worker has ended for good.
        """
        await self._parts.worker.wait()

    async def outbox(self) -> OutboxStatus:
        """What is waiting to be sent to the other installations. The node is not asked."""
        waiting = await self._parts.core.ask("outbox")
        return OutboxStatus(waiting["consents"], waiting["messages"], waiting["hmac_due"], waiting["intents"])
