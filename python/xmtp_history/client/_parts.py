"""What a client is made of, and how the parts are opened, set going and closed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from xmtp_history import _ffi
from xmtp_history._errors import NetworkError, NotRegistered
from xmtp_history._history import History
from xmtp_history.client._core import Core
from xmtp_history.client._groups import Groups
from xmtp_history.client._identity import Identity

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from typing import Self

    from xmtp_history._signer import Wallet
    from xmtp_history.client._database import Database
    from xmtp_history.network import NodeApi

_log = logging.getLogger(__name__)


class Parts:
    """The parts of a client.

    Attributes:
        api: the node.
        core: the native installation.
        identity: inboxes.
        groups: syncing.
        history: what is stored.
        inbox_id: the inbox.
        installation_id: the installation.
        device_sync: whether sync groups are made.
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
        device_sync: bool,
    ) -> None:
        self.closing = closing
        self.api = api
        self.core = core
        self.inbox_id = inbox_id
        self.installation_id = installation_id
        self.device_sync = device_sync
        self.history = History(database.store)
        self.identity = Identity(api, core, inbox_id, installation_id)
        self.groups = Groups(api, core, self.identity, installation_id)

    @classmethod
    async def open(
        cls, closing: AsyncExitStack, api: NodeApi, database: Database, inbox_id: str | None, *, device_sync: bool
    ) -> Self:
        """Opens the installation in a database, or makes one for an inbox.

        Raises:
            NotRegistered: there is none, and no inbox to make one for.
        """
        core = Core(_ffi.Installation(database.store, inbox_id))
        closing.push_async_callback(core.aclose)
        status = await core.ask("status")
        return cls(
            closing,
            api,
            database,
            core,
            inbox_id=status["inbox_id"],
            installation_id=status["installation_id"],
            device_sync=device_sync,
        )

    async def was_registered(self) -> bool:
        """Whether the installation was once seen in its inbox's log."""
        return (await self.core.ask("status"))["registered_at_ns"] is not None

    async def start(self, wallet: Wallet, nonce: int) -> None:
        """Registers the installation if it is new, and brings it in step if the node can be reached."""
        registered = await self.was_registered()
        try:
            await self.identity.register(wallet, nonce=nonce, was_registered=registered)
            if self.device_sync:
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
