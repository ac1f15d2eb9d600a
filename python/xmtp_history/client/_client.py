"""A client: one installation on the network."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from xmtp_history._errors import IdentityError, NotRegistered
from xmtp_history._signer import Wallet
from xmtp_history.client._conversations import Conversations
from xmtp_history.client._database import Database, key_of, path_of
from xmtp_history.client._history_sync import HistorySyncCalls
from xmtp_history.client._identity import find_inbox
from xmtp_history.client._parts import Parts, SyncOptions, stored_inbox_id
from xmtp_history.client._policy import ArchivePolicy
from xmtp_history.client._transfers import server_url_of
from xmtp_history.network import NodeApi, environment

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from xmtp_history._ffi import BytesLike
    from xmtp_history._history import History
    from xmtp_history._signer import Signer
    from xmtp_history.client._database import DbPath
    from xmtp_history.client._preferences import Preferences
    from xmtp_history.client._types import GroupInfo, GroupSyncSummary, InboxState, SyncGroupMessage

#: Stands for the history server of ``env``.
BY_ENV: Final = "by env"
#: Intervals between ticks of the worker, seconds.
_SHORTEST_INTERVAL: Final = 0.05
_LONGEST_INTERVAL: Final = 86_400.0


class Client(HistorySyncCalls):
    """One installation of an inbox, which real XMTP clients see as any other.

    Make it with :meth:`create`, or reopen one without a wallet with :meth:`build`; it is an async context manager. Only one
    client at a time can have an installation open, on whatever process. It is to be used on one event loop.

    While it is open, its sync worker keeps it in step: it reads conversations and sync groups as messages come, sends what
    is to be sent, asks once for the history of the user's other installations, and gives them its own when they ask.
    """

    def __init__(self, parts: Parts, wallet: Wallet | None) -> None:
        super().__init__(parts)
        self._wallet = wallet
        self._conversations = Conversations(parts.history, parts.core, parts.groups, parts.hub)

    @classmethod
    async def create(
        cls,
        signer: Signer,
        *,
        env: str = "dev",
        api_url: str | None = None,
        db_path: DbPath = None,
        db_encryption_key: BytesLike | str | None = None,
        history_sync_url: str | None = BY_ENV,
        disable_device_sync: bool = False,
        auto_history_sync: bool = True,
        sync_interval: float | None = 20.0,
        archive_policy: ArchivePolicy | None = None,
        app_version: str | None = None,
        nonce: int = 0,
    ) -> Self:
        """Opens the installation in a database; if there is none, registers a new one with one signature of a wallet.

        The wallet's inbox is looked up, and created if there is none. With device sync, a new installation makes a sync
        group with all the other ones of the inbox, by which they learn of it.

        Args:
            signer: the wallet: an :class:`EoaSigner`, a signer of the package ``xmtp``, or anything with
                ``get_identifier()`` and ``sign_message()``.
            env: ``local``, ``dev`` or ``production``.
            api_url: the node, instead of that of ``env``.
            db_path: the file; or None for one that is gone with the client; or a function that names the file of an inbox
                id. Two files beside it end in ``-wal`` and ``-shm``, one that says who uses it in ``-installation``.
            db_encryption_key: 32 random bytes, or 64 hexadecimal digits.
            history_sync_url: the history server that archives go through, instead of that of ``env``; a path and a user and
                password may be in it. None or an empty string switches history sync off: nothing is asked for, requests of
                others are refused, and what needs a server raises :class:`NoHistoryServer`.
            disable_device_sync: make no sync group, and have no worker in the background. What is called explicitly works.
            auto_history_sync: the first time a new installation starts and others exist, ask them for their history, once.
                What comes of it is an event (:meth:`stream_events`), and in :meth:`sync_status`.
            sync_interval: seconds between the worker's looks at everything, at least 0.05; news come at once all the same.
                None for no worker in the background: then only what is called happens.
            archive_policy: who gets the history of this installation; by default all other ones of the inbox.
            app_version: what the node is told of the application.
            nonce: of a new inbox's id; an address has one inbox for each.

        Raises:
            TooManyInstallations: the inbox has ten installations.
            NotRegistered: the installation in the database was revoked.
            InstallationInUse: another client has it open.
            IdentityError: the signature is not the wallet's, or the inbox's log does not verify.
            StoreError, ValueError: the database cannot be opened, or belongs to another inbox; or an option cannot be used.
            NetworkError: the node cannot be reached, which an installation that is registered already can do without.
        """
        options = _options(
            env,
            history_sync_url=history_sync_url,
            disable_device_sync=disable_device_sync,
            auto_history_sync=auto_history_sync,
            sync_interval=sync_interval,
            archive_policy=archive_policy,
        )
        wallet = await Wallet.of(signer)
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(NodeApi(api_url or environment(env).api_url, app_version=app_version))
            database, inbox_id = None, None
            if not callable(db_path):
                database = stack.enter_context(Database(db_path, key_of(db_encryption_key)))
                inbox_id = stored_inbox_id(database)
            if inbox_id is None:
                inbox_id = await find_inbox(api, wallet.address, nonce)
            if database is None:
                database = stack.enter_context(Database(path_of(db_path, inbox_id), key_of(db_encryption_key)))
            parts = await Parts.open(stack, api, database, inbox_id, options)
            await parts.start(wallet, nonce)
            parts.closing = stack.pop_all()
            parts.work()
            return cls(parts, wallet)

    @classmethod
    async def build(
        cls,
        *,
        env: str = "dev",
        api_url: str | None = None,
        db_path: str | os.PathLike[str],
        db_encryption_key: BytesLike | str,
        history_sync_url: str | None = BY_ENV,
        disable_device_sync: bool = False,
        auto_history_sync: bool = True,
        sync_interval: float | None = 20.0,
        archive_policy: ArchivePolicy | None = None,
        app_version: str | None = None,
    ) -> Self:
        """Opens the installation in a database, without its wallet. The node is not asked, but by the worker afterwards.

        The options are those of :meth:`create`.

        Raises:
            NotRegistered: there is no installation in the database, or its registration was not finished.
            InstallationInUse, StoreError, ValueError: as for :meth:`create`.
        """
        options = _options(
            env,
            history_sync_url=history_sync_url,
            disable_device_sync=disable_device_sync,
            auto_history_sync=auto_history_sync,
            sync_interval=sync_interval,
            archive_policy=archive_policy,
        )
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(NodeApi(api_url or environment(env).api_url, app_version=app_version))
            database = stack.enter_context(Database(db_path, key_of(db_encryption_key)))
            parts = await Parts.open(stack, api, database, None, options)
            if not await parts.was_registered():
                raise NotRegistered("the installation was never registered; create it with a signer")
            parts.closing = stack.pop_all()
            parts.work()
            return cls(parts, None)

    async def aclose(self) -> None:
        """Ends the worker and the streams, and closes connections, installation and history; closing twice is fine.

        What the worker was doing goes on when the installation is opened again: nothing is lost, and nothing done by halves.
        """
        await self._parts.closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def inbox_id(self) -> str:
        """The inbox."""
        return self._parts.inbox_id

    @property
    def installation_id(self) -> str:
        """The installation's public key, hexadecimal."""
        return self._parts.installation_id

    @property
    def history(self) -> History:
        """Everything that the installation has: open as long as the client."""
        return self._parts.history

    @property
    def conversations(self) -> Conversations:
        """Groups and DMs."""
        return self._conversations

    @property
    def preferences(self) -> Preferences:
        """Consent, and what else all installations of the inbox share."""
        return self._parts.preferences

    # --- inboxes --------------------------------------------------------------------------------------------------------

    async def inbox_state(self, *, refresh: bool = True) -> InboxState:
        """Who belongs to the inbox.

        Args:
            refresh: ask the node for what is new.

        Raises:
            NotRegistered: nothing is known of the inbox.
            NetworkError: the node cannot be reached.
        """
        state = await self._parts.identity.state(self._parts.inbox_id, refresh=refresh)
        if state is None:
            raise NotRegistered("nothing is known of the inbox yet")
        return state

    async def inbox_states(self, inbox_ids: Sequence[str], *, refresh: bool = True) -> list[InboxState | None]:
        """Who belongs to some inboxes, in their order; None for one that does not exist, or whose log does not verify."""
        if refresh:
            await self._parts.identity.fetch(inbox_ids)
        return [await self._parts.identity.state(inbox_id, refresh=False) for inbox_id in inbox_ids]

    async def can_message(self, identifiers: Iterable[str]) -> dict[str, bool]:
        """Which Ethereum addresses have an inbox.

        Raises:
            ValueError: one is not an address.
        """
        wanted = list(identifiers)
        found = await self._parts.api.get_inbox_ids(wanted)
        return {identifier: inbox_id is not None for identifier, inbox_id in zip(wanted, found, strict=True)}

    async def get_inbox_id(self, identifier: str) -> str | None:
        """The inbox of an Ethereum address, or None."""
        (inbox_id,) = await self._parts.api.get_inbox_ids([identifier])
        return inbox_id

    async def revoke_installations(self, installation_ids: Sequence[str]) -> None:
        """Revokes installations of the inbox, for ever, and makes a fresh sync group without them.

        Asks the wallet for one signature; it has to be the inbox's recovery address.

        Raises:
            IdentityError: the client has no wallet, or not the recovery address.
            ValueError: nothing is to be revoked, or an installation that is not one of the inbox.
            NetworkError: the node cannot be reached.
        """
        if self._wallet is None:
            raise IdentityError("revoking needs the wallet: open the installation with Client.create")
        if not installation_ids:
            raise ValueError("there is no installation to revoke")
        await self._parts.identity.revoke(self._wallet, installation_ids)
        if self._parts.options.device_sync and await self._parts.identity.is_registered(refresh=False):
            await self._parts.groups.sync_sync_groups(create=True)

    async def revoke_all_other_installations(self) -> tuple[str, ...]:
        """Revokes all installations of the inbox but this one. Returns their ids; see :meth:`revoke_installations`."""
        state = await self.inbox_state()
        others = tuple(info.id for info in state.installations if info.id != self._parts.installation_id)
        if others:
            await self.revoke_installations(others)
        return others

    async def rotate_key_package(self) -> None:
        """Replaces the key package by which others add this installation.

        It happens by itself every 30 days, and after the installation was added to something.
        """
        await self._parts.core.ask("rotate_key_package")
        await self._parts.identity.upload_key_package()

    # --- groups ---------------------------------------------------------------------------------------------------------

    async def groups(self) -> list[GroupInfo]:
        """The MLS groups of the installation, sync groups included, and where each stands."""
        return await self._parts.core.groups()

    async def group(self, group_id: str) -> GroupInfo | None:
        """One MLS group with its members, or None. Of one that could not be joined, the members are not known."""
        return await self._parts.core.group(group_id)

    async def sync_all_device_sync_groups(self) -> GroupSyncSummary:
        """Joins and reads the inbox's sync groups, and sends what is to be sent there.

        What the others ask for, and where their archives are, is noted; the worker does the rest, where one runs. A sync
        group with members of other inboxes is not joined; one with a revoked installation is replaced.

        Raises:
            NotRegistered: the installation was revoked.
            NetworkError: the node cannot be reached. What was done before stays, and is not done again.
        """
        return await self._parts.groups.sync_sync_groups(create=self._parts.options.device_sync)

    async def send_sync_message(self, content: bytes) -> str:
        """Says something to the inbox's other installations, in the sync group that was made or joined last.

        One is made if there is none. The message is kept until the node has it, also across restarts.

        Args:
            content: a serialised ``DeviceSyncContent``.

        Returns:
            The message's id.
        """
        return await self._parts.groups.send_sync_message(content)

    async def sync_group_messages(
        self, group_id: str | None = None, *, after: int = 0, limit: int = 1000
    ) -> list[SyncGroupMessage]:
        """What was said in the inbox's sync groups, or in one of them, in the node's order.

        Only what installations said that belonged to the inbox when it was read is here.

        Args:
            group_id: only this one.
            after: only what comes after this ``sequence_id``.
            limit: at most so many.
        """
        return await self._parts.core.sync_messages(group_id, after, limit)


def _options(
    env: str,
    *,
    history_sync_url: str | None,
    disable_device_sync: bool,
    auto_history_sync: bool,
    sync_interval: float | None,
    archive_policy: ArchivePolicy | None,
) -> SyncOptions:
    """What the options of a client come to.

    Raises:
        ValueError: one cannot be used.
    """
    if sync_interval is not None and not _SHORTEST_INTERVAL <= sync_interval <= _LONGEST_INTERVAL:
        raise ValueError("sync_interval: seconds, from 0.05 to a day, or None")
    url = environment(env).history_sync_url if history_sync_url == BY_ENV else history_sync_url
    return SyncOptions(
        device_sync=not disable_device_sync,
        server_url=server_url_of(url) if url else None,
        automatic=auto_history_sync,
        interval=sync_interval,
        policy=archive_policy or ArchivePolicy(),
    )
