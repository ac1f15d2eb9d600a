"""Own requests for history: sending them, what became of each, and waiting for it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from xmtp_history._errors import NoHistoryServer, NoOtherInstallation, SyncError, SyncRefused, SyncTimeout
from xmtp_history._types import ArchiveOptions, Counts, ImportReport
from xmtp_history.client._sync_types import HistoryRequested, SyncPhase, SyncRefusal, SyncReport
from xmtp_history.client._tasks import pending
from xmtp_history.client._transfers import options_row, server_url_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xmtp_history._io import OnProgress
    from xmtp_history._types import Progress
    from xmtp_history.client._core import Core
    from xmtp_history.client._events import Hub
    from xmtp_history.client._groups import Groups
    from xmtp_history.client._identity import Identity
    from xmtp_history.client._status import Status

_log = logging.getLogger(__name__)

#: An automatic request that is younger serves whoever asks for the same, seconds.
_SHARED_SECONDS: Final = 60.0
#: Nobody answers a request that is older; servers do not keep archives for longer.
_LONGEST_WAIT_NS: Final = 7 * 86_400 * 10**9
#: How long the others have for an answer after one was imported, seconds.
_GRACE_SECONDS: Final = 1.0
#: An answer that failed more often is not waited for where another one was imported.
_WORTH_WAITING: Final = 3
_MOST_INVALID_RECORDS: Final = 1000


@dataclass(slots=True)
class Outcome:
    """What became of a request since the client was opened.

    Attributes:
        asked: whether it was sent since then.
        reports: what was imported, and how many bytes that were, by sender.
        failures: what cannot be imported, by sender.
        imported_at: when the last of them was imported, by the monotonic clock.
        trouble: what is in the way of an answer that is tried again.
        watchers: who wants to know how far an import is.
    """

    asked: bool = False
    reports: dict[str, tuple[ImportReport, int]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    imported_at: float = 0.0
    trouble: str = ""
    watchers: list[OnProgress] = field(default_factory=list)


class Requests:
    """The requests of this installation.

    Args:
        core: the native installation.
        identity: the inbox.
        groups: where requests are sent.
        status: what is shown.
        hub: where it is told.
        server_url: the history server that requests name; None if there is none.
    """

    def __init__(
        self, core: Core, identity: Identity, groups: Groups, *, status: Status, hub: Hub, server_url: str | None
    ) -> None:
        self._core = core
        self._identity = identity
        self._groups = groups
        self._status = status
        self._hub = hub
        self._server_url = server_url
        self._outcomes: dict[str, Outcome] = {}
        #: Two who ask at the same time shall know of each other.
        self._asking = asyncio.Lock()
        self._news = asyncio.Event()
        self._stale = asyncio.Event()
        self._ended: Exception | None = None

    # --- what is heard --------------------------------------------------------------------------------------------------

    def outcome(self, pin: str) -> Outcome:
        """What became of a request."""
        return self._outcomes.setdefault(pin, Outcome())

    def imported(self, pin: str, sender: str, report: ImportReport, size: int) -> None:
        """An answer was imported."""
        self.outcome(pin).reports[sender] = (report, size)
        self.outcome(pin).imported_at = time.monotonic()
        self.changed()

    def failed(self, pin: str, sender: str, error: Exception) -> None:
        """An answer cannot be imported."""
        self.outcome(pin).failures[sender] = error
        self.changed()

    def troubled(self, pin: str, trouble: str) -> None:
        """An answer cannot be imported now."""
        self.outcome(pin).trouble = trouble
        self.changed()

    def progress(self, pin: str, progress: Progress) -> None:
        """An answer is being imported."""
        self._status.importing(progress)
        watchers = self.outcome(pin).watchers
        for watcher in list(watchers):
            try:
                watcher(progress)
            except Exception:  # noqa: BLE001 - logged
                # The archive is everybody's, the callback that of one.
                _log.exception("on_progress failed, and is not called any more")
                watchers.remove(watcher)

    def changed(self) -> None:
        """Something may be different: whoever waits looks again."""
        self._stale.set()
        news, self._news = self._news, asyncio.Event()
        news.set()

    def end(self, error: Exception | None) -> None:
        """Nothing comes any more, because of an error; or it may come again."""
        self._ended = error
        self.changed()

    async def run(self) -> None:
        """Keeps the status up to date, for ever."""
        while True:
            self._stale.clear()
            await self.refresh()
            await self._stale.wait()

    async def refresh(self) -> None:
        """Brings the status up to date with the database."""
        rows = await self._core.ask("sync_requests")
        status = self._status
        status.pending_requests = sum(self._is_open(row) for row in rows)
        if not rows:
            return
        newest = rows[0]
        if newest["imported"]:
            status.phase, status.reason = SyncPhase.DONE, ""
        elif self._is_open(newest):
            status.phase, status.reason = SyncPhase.WAITING, self.outcome(newest["pin"]).trouble
        else:
            status.phase, status.reason = SyncPhase.FAILED, self._why(newest)

    def _is_open(self, row: Mapping[str, Any]) -> bool:
        if row["imported"] or time.time_ns() - row["sent_at_ns"] > _LONGEST_WAIT_NS:
            return False
        settled = {installation_id for installation_id, *_ in row["refused"]}
        settled |= self.outcome(row["pin"]).failures.keys()
        return not settled or not self._identity.others <= settled

    def _why(self, row: Mapping[str, Any]) -> str:
        for error in self.outcome(row["pin"]).failures.values():
            return str(error)
        for _, reason, detail in row["refused"]:
            return detail or f"another installation refused: {reason}"
        return "nobody has answered within seven days"

    # --- asking ---------------------------------------------------------------------------------------------------------

    def server_url(self, given: str | None = None) -> str:
        """The history server to be used.

        Raises:
            NoHistoryServer: there is none.
            ValueError: the one that was given is no URL of one.
        """
        if given:
            return server_url_of(given)
        if given is None and self._server_url is not None:
            return self._server_url
        raise NoHistoryServer(
            "history sync is switched off: name a history server (history_sync_url, or server_url of the call)"
        )

    async def ask(self, options: ArchiveOptions, server_url: str) -> str:
        """Asks the other installations, and returns the request's pin. It is kept until the node has it."""
        async with self._asking:
            return await self._send(options, server_url)

    async def _send(self, options: ArchiveOptions, server_url: str, *, automatic: bool = False) -> str:
        everything = options == ArchiveOptions()
        answer = await self._groups.say(
            "send_sync_request", server_url=server_url, options=options_row(options), automatic=automatic
        )
        pin = str(answer["pin"])
        self.outcome(pin).asked = True
        if everything and not automatic:
            # It need not be asked for by itself any more.
            await self._core.ask("history_asked")
        self._status.count("request_sent")
        _log.info(
            "history was asked for%s; the inbox has %d other installations",
            " because the installation is new" if automatic else "",
            len(self._identity.others),
        )
        self._hub.events.publish(HistoryRequested(pin, automatic))
        await self.refresh()
        self.changed()
        return pin

    async def ask_once(self) -> None:
        """Asks for everything, the first time a new installation starts and others exist."""
        async with self._asking:
            if self._server_url is None or (await self._core.ask("status"))["history_asked"]:
                return
            if self._identity.others:
                await self._send(ArchiveOptions(), self._server_url, automatic=True)
            else:
                await self._core.ask("history_asked")

    async def sync(
        self,
        options: ArchiveOptions,
        *,
        timeout: float | None,  # noqa: ASYNC109 - what was waited for is said
        on_progress: OnProgress | None,
    ) -> SyncReport:
        """Asks, and waits until there is an answer, and what has arrived is imported; see :meth:`Client.sync_history`."""
        began = time.monotonic()
        server_url = self.server_url()
        pin: str | None = None
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self._identity.check_registered(recently=True)
                others = self._identity.others
                if not others:
                    raise NoOtherInstallation("the inbox has no other installation that could be asked for history")
                pin = await self._ask_or_join(options, server_url)
                if on_progress is not None:
                    self.outcome(pin).watchers.append(on_progress)
                await self._settled(pin, others)
        except TimeoutError:
            if not limit.expired():
                raise
            if pin is None or not self.outcome(pin).reports:
                raise SyncTimeout(f"no history within {timeout:g} s: {await self._awaited(pin)}") from None
        finally:
            if pin is not None and on_progress in self.outcome(pin).watchers:
                self.outcome(pin).watchers.remove(on_progress)
        reports = self.outcome(pin).reports.values()
        return SyncReport(
            pin=pin,
            imported=summed(report for report, _ in reports),
            archives=len(reports),
            bytes=sum(size for _, size in reports),
            refused=_refusals(await self._row(pin)),
            seconds=time.monotonic() - began,
        )

    async def _ask_or_join(self, options: ArchiveOptions, server_url: str) -> str:
        async with self._asking:
            if options == ArchiveOptions():
                for row in await self._core.ask("sync_requests"):
                    age = (time.time_ns() - row["sent_at_ns"]) / 1e9
                    same = row["automatic"] and row["server_url"] == server_url
                    if same and abs(age) < _SHARED_SECONDS and not row["imported"] and self._is_open(row):
                        return str(row["pin"])
            return await self._send(options, server_url)

    async def _settled(self, pin: str, others: frozenset[str]) -> None:
        """Waits until there is something, and nothing more is to be expected soon."""
        while True:
            # What happens while it is looked at counts as well.
            news = self._news
            patience = await self._patience(pin, others)
            if patience is not None and patience <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await news.wait()

    async def _patience(self, pin: str, others: frozenset[str]) -> float | None:
        """Seconds to wait for more, 0 for nothing more; None as long as there is nothing that one could do without."""
        if self._ended is not None:
            raise self._ended
        outcome = self.outcome(pin)
        row = await self._row(pin)
        refusals = _refusals(row)
        silent = others - outcome.reports.keys() - outcome.failures.keys()
        silent -= {refusal.installation_id for refusal in refusals}
        if outcome.reports:
            arrived = (
                [task for task in await pending(self._core, "import") if task.pin == pin] if row["pending"] else []
            )
            if any(task.attempts <= _WORTH_WAITING for task in arrived if task.sender not in outcome.reports):
                return None
            return outcome.imported_at + _GRACE_SECONDS - time.monotonic() if silent else 0.0
        if row["pending"] or silent:
            return None
        if refusals:
            reasons = ", ".join(sorted({refusal.reason for refusal in refusals}))
            raise SyncRefused(f"the other installations do not send their history: {reasons}", refusals=refusals)
        raise next(iter(outcome.failures.values()), SyncError("the archive could not be imported"))

    async def _row(self, pin: str) -> Mapping[str, Any]:
        row: Mapping[str, Any] = next(row for row in await self._core.ask("sync_requests") if row["pin"] == pin)
        return row

    async def _awaited(self, pin: str | None) -> str:
        """What somebody was waiting for in vain."""
        if pin is None:
            return "the node does not answer"
        outcome = self.outcome(pin)
        progress = self._status.snapshot(len(self._identity.others))
        if progress.phase in {SyncPhase.DOWNLOADING, SyncPhase.IMPORTING}:
            total = "" if progress.bytes_total is None else f" of {progress.bytes_total:,}"
            return f"an archive is being imported ({progress.bytes_done:,}{total} bytes); it goes on if a worker runs"
        if any(task.pin == pin for task in await pending(self._core, "import")):
            return f"an archive was sent, and is not here yet: {outcome.trouble or 'it is about to be fetched'}"
        if outcome.failures:
            failure = next(iter(outcome.failures.values()))
            return f"an archive could not be imported ({failure}), and nobody else has answered"
        others = len(self._identity.others)
        who = "1 other installation has" if others == 1 else f"{others} other installations have"
        return f"{who} not answered; one has to be running, and its answer is imported whenever it comes"


def _refusals(row: Mapping[str, Any]) -> tuple[SyncRefusal, ...]:
    return tuple(SyncRefusal(*refusal) for refusal in row["refused"])


def summed(reports: Iterable[ImportReport]) -> ImportReport:
    """What several imports did together."""
    each = list(reports)
    if len(each) == 1:
        return each[0]
    foreign = [report.foreign_dms for report in each if report.foreign_dms is not None]
    invalid = [record for report in each for record in report.invalid_records]
    return ImportReport(
        new=_total(report.new for report in each),
        duplicate=_total(report.duplicate for report in each),
        updated=_total(report.updated for report in each),
        skipped=_total(report.skipped for report in each),
        expired=sum(report.expired for report in each),
        invalid_records=tuple(invalid[:_MOST_INVALID_RECORDS]),
        orphans=sum(report.orphans for report in each),
        foreign_dms=sum(foreign) if foreign else None,
        unknown_elements=sum(report.unknown_elements for report in each),
        legacy=any(report.legacy for report in each),
    )


def _total(counts: Iterable[Counts]) -> Counts:
    total = Counts()
    for each in counts:
        total = Counts(
            total.conversations + each.conversations, total.messages + each.messages, total.consents + each.consents
        )
    return total
