"""What a client is made of, and how the parts are opened, set going and closed."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from xmtp_history import _ffi
from xmtp_history._errors import NetworkError, NotRegistered
from xmtp_history.client._answers import Answers
from xmtp_history.client._core import Core
from xmtp_history.client._events import Hub
from xmtp_history.client._groups import Groups
from xmtp_history.client._identity import Identity
from xmtp_history.client._imports import Imports
from xmtp_history.client._observer import Observer
from xmtp_history.client._preferences import Preferences
from xmtp_history.client._recording import RecordingHistory
from xmtp_history.client._requests import Requests
from xmtp_history.client._status import Status
from xmtp_history.client._sync_types import SyncPhase
from xmtp_history.client._transfers import Transfers
from xmtp_history.client._worker import SyncWorker

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from typing import Self

    from xmtp_history._signer import Wallet
    from xmtp_history.client._database import Database
    from xmtp_history.client._policy import ArchivePolicy
    from xmtp_history.network import NodeApi

_log = logging.getLogger(__name__)


#: Seconds between the ticks of a worker that only runs while somebody waits for it.
_DEFAULT_INTERVAL: Final = 20.0


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """How a client takes part in history sync.

    Attributes:
        device_sync: whether sync groups are made, and a worker may run in the background.
        server_url: the history server; None if there is none.
        automatic: whether a new installation asks for history by itself.
        interval: seconds between ticks of the worker; None if none runs in the background.
        policy: who gets the history.
    """

    device_sync: bool
    server_url: str | None
    automatic: bool
    interval: float | None
    policy: ArchivePolicy


class Parts:
    """The parts of a client.

    Attributes:
        api: the node.
        core: the native installation.
        identity: inboxes.
        groups: syncing.
        history: what is stored.
        hub: streams of what happens.
        status: how history sync is doing.
        requests: own requests for history.
        transfers: archives on their way.
        preferences: what all installations share.
        worker: the background task.
        options: how the client takes part in history sync.
        inbox_id: the inbox.
        installation_id: the installation.
        closing: what is to be closed, the last one first.
    """

    def __init__(
        self,
        closing: AsyncExitStack,
        api: NodeApi,
        database: Database,
        core: Core,
        *,
        inbox_id: str,
        installation_id: str,
        options: SyncOptions,
    ) -> None:
        self.closing = closing
        self.api = api
        self.core = core
        self.inbox_id = inbox_id
        self.installation_id = installation_id
        self.options = options
        self._loop = asyncio.get_running_loop()
        self.status = Status()
        self.hub = Hub(partial(self.status.count, "dropped"))
        self.history = RecordingHistory(database.store, self._recorded if options.device_sync else None)
        self.identity = Identity(api, core, inbox_id, installation_id)
        observer = Observer(self.hub, self.status)
        self.groups = Groups(api, core, self.identity, installation_id, observer)
        self.transfers = Transfers(core, self.groups, self.history, inbox_id)
        self.requests = Requests(
            core, self.identity, self.groups, status=self.status, hub=self.hub, server_url=options.server_url
        )
        answers = Answers(
            core,
            self.status,
            identity=self.identity,
            groups=self.groups,
            transfers=self.transfers,
            hub=self.hub,
            policy=options.policy,
            server_url=options.server_url,
        )
        imports = Imports(
            core,
            self.status,
            identity=self.identity,
            transfers=self.transfers,
            hub=self.hub,
            requests=self.requests,
        )
        self.worker = SyncWorker(
            api,
            core,
            self.groups,
            self.requests,
            history=self.history,
            status=self.status,
            runners=(answers, imports),
            installation_id=installation_id,
            interval=options.interval or _DEFAULT_INTERVAL,
            automatic=options.automatic and self.runs_in_background,
        )
        self.preferences = Preferences(
            core,
            self.groups,
            self.hub,
            observer,
            device_sync=options.device_sync,
            on_change=self.worker.wake_outbox,
        )
        observer.on_tasks = self.worker.wake_runners
        observer.on_groups = self.worker.wake_groups
        observer.on_requests = self.requests.changed

    @classmethod
    async def open(
        cls, closing: AsyncExitStack, api: NodeApi, database: Database, inbox_id: str | None, options: SyncOptions
    ) -> Self:
        """Opens the installation in a database, or makes one for an inbox.

        Raises:
            NotRegistered: there is none, and no inbox to make one for.
        """
        core = Core(_ffi.Installation(database.store, inbox_id))
        closing.push_async_callback(core.aclose)
        status = await core.ask("status")
        parts = cls(
            closing,
            api,
            database,
            core,
            inbox_id=status["inbox_id"],
            installation_id=status["installation_id"],
            options=options,
        )
        closing.callback(parts.hub.close)
        closing.push_async_callback(parts.worker.aclose)
        await parts.identity.state(parts.inbox_id, refresh=False)
        if parts.runs_in_background:
            parts.status.phase = SyncPhase.IDLE
            parts.transfers.prepare()
        await parts.requests.refresh()
        return parts

    @property
    def runs_in_background(self) -> bool:
        """Whether the worker runs as long as the client is open."""
        return self.options.device_sync and self.options.interval is not None

    def work(self) -> None:
        """Starts the worker, if it is to run."""
        if self.runs_in_background:
            self.worker.start()

    def _recorded(self) -> None:
        # On whatever thread; and the loop may be gone, if somebody keeps the history for longer than the client.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.worker.wake_outbox)

    async def was_registered(self) -> bool:
        """Whether the installation was once seen in its inbox's log."""
        return (await self.core.ask("status"))["registered_at_ns"] is not None

    async def start(self, wallet: Wallet, nonce: int) -> None:
        """Registers the installation if it is new, and brings it in step if the node can be reached."""
        registered = await self.was_registered()
        try:
            await self.identity.register(wallet, nonce=nonce, was_registered=registered)
            if self.options.device_sync:
                await self.groups.sync_sync_groups(create=True)
        except NetworkError as error:
            if not await self.was_registered():
                raise
            await self.identity.check_wallet(wallet, nonce)
            _log.warning("the installation is opened without the node: %s", error)


def stored_inbox_id(database: Database) -> str | None:
    """Whose installation is in a database."""
    try:
        installation = _ffi.Installation(database.store, None)
    except NotRegistered:
        return None
    try:
        return str(installation.call("status")[0]["inbox_id"])
    finally:
        installation.close()
