"""Syncing: fetching what others have sent, and sending what is intended (identity specification, sections 3 and 4).

All decisions about bytes are the core's; here is the order of things, and what is asked of the node. One pass runs at a
time, because two would fetch the same.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from xmtp_history._errors import GroupError, NetworkError
from xmtp_history.client._types import GroupState, GroupSyncSummary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xmtp_history._errors import XmtpHistoryError
    from xmtp_history.client._core import Core
    from xmtp_history.client._identity import Identity
    from xmtp_history.client._observer import Observer
    from xmtp_history.client._types import GroupInfo
    from xmtp_history.network import NodeApi

_log = logging.getLogger(__name__)

#: States in which a group's messages are worth fetching. A paused one is asked as well: this release may be the newer one.
_FOLLOWED: Final = {GroupState.ACTIVE, GroupState.FORKED, GroupState.PAUSED}
#: What the core says of an answer's entries when they are handled.
_TOLD_ONCE: Final = {"joined", "dropped", "messages", "sync_messages", "refused"}
#: How often in one pass, and how long, the node is given time to show an identity update that it does not have yet.
_PATIENCE: Final = 3
_PAUSE_SECONDS: Final = 0.5
#: Groups that are fetched at the same time.
_AT_ONCE: Final = 8
#: How often something is prepared, published and looked for in one pass, before the rest waits for the next one.
_ROUNDS: Final = 20


class Groups:
    """Syncs the groups of an installation.

    Args:
        api: the node.
        core: the native installation.
        identity: inboxes.
        installation_id: the installation.
        observer: is told what comes, at once and also if the caller is cancelled.
    """

    def __init__(self, api: NodeApi, core: Core, identity: Identity, installation_id: str, observer: Observer) -> None:
        self._api = api
        self._core = core
        self._identity = identity
        self._installation_key = bytes.fromhex(installation_id)
        self._observer = observer
        self._turn = asyncio.Lock()
        self._patience = _PATIENCE
        #: The last message that was handled of each group to be followed, and which groups are sync groups, as last seen.
        self._cursors: dict[str, int] = {}
        self._sync_groups: set[str] = set()

    async def sync_welcomes(self) -> list[str]:
        """Joins the groups that the installation was added to. Returns their ids."""
        async with self._turn:
            return await self._welcomes()

    async def sync_conversations(self, group_ids: Iterable[str] | None = None) -> GroupSyncSummary:
        """Fetches welcomes, and the messages of all conversations, or of those named."""
        async with self._turn:
            await self._identity.check_registered()
            await self._welcomes()
            wanted = None if group_ids is None else set(group_ids)
            return await self._receive_all(
                lambda group: not group.is_sync_group and (wanted is None or group.id in wanted)
            )

    async def sync_sync_groups(self, *, create: bool) -> GroupSyncSummary:
        """Fetches welcomes and the messages of the inbox's sync groups, and sends what is to be sent there.

        Where a new sync group is wanted and ``create`` is true, it is made.
        """
        async with self._turn:
            return await self._sync_sync_groups(create=create)

    async def sync_everything(self) -> None:
        """Syncs sync groups, then conversations. What is wrong with one of these is logged, and waits for the next time."""
        async with self._turn:
            await self._sync_sync_groups(create=True)
            try:
                await self._receive_all(lambda group: not group.is_sync_group)
            except (NetworkError, GroupError) as error:
                if getattr(error, "transient", False):
                    raise
                _log.warning("a conversation cannot be read now: %s", error)

    async def sync_news(self, *, welcomes: bool, messages: Mapping[str, int]) -> dict[str, int]:
        """Fetches what a stream says to be there.

        Args:
            welcomes: whether there is one.
            messages: the id of a message in each group that has one.

        Returns:
            Those of the messages that the node did not give when it was asked for them.
        """
        async with self._turn:
            behind = {
                group_id: self._cursors[group_id]
                for group_id, message_id in messages.items()
                if self._cursors.get(group_id, message_id) < message_id
            }
            from_us = welcomes or not self._sync_groups.isdisjoint(behind)
            if from_us:
                # So that nobody is listened to who was revoked a moment ago.
                await self._identity.check_registered()
            for group_id in await self._welcomes() if welcomes else ():
                if group_id in self._cursors:
                    behind[group_id] = self._cursors[group_id]
            await self._receive_each(behind)
            if from_us:
                await self._tell(create=True)
            return {group_id: last for group_id, last in messages.items() if self._cursors.get(group_id, last) < last}

    async def send_outbox(self) -> None:
        """Sends what is to be told to the other installations."""
        async with self._turn:
            await self._identity.check_registered()
            await self._tell(create=True)

    async def send_sync_message(self, content: bytes) -> str:
        """Says something in the primary sync group, which is made if there is none. Returns the message's id."""
        async with self._turn:
            primary = await self._place_to_talk()
            message_id = str(await self._core.ask("send_sync_message", content, id=primary))
            await self._send()
            return message_id

    async def say(self, call: str, data: bytes = b"", *, to: str | None = None, **request: Any) -> Any:
        """Makes a message for the primary sync group, which is made if there is none, and sends it.

        Args:
            call: what makes the message.
            data: what belongs to the call.
            to: the installation that it is for; if it is not one of the inbox any more, nothing is said.
            **request: what belongs to the call.

        Returns:
            What the call says; None if nothing was said.

        Raises:
            NetworkError: the node cannot be reached, and nothing was said. If it cannot be reached afterwards, the message
                is kept and sent later.
        """
        async with self._turn:
            primary = await self._place_to_talk()
            if to is not None and to not in self._identity.others:
                return None
            answer = await self._core.ask(call, data, id=primary, **request)
            try:
                await self._send()
            except NetworkError as error:
                _log.warning("what was said in the sync group is sent later: %s", error)
            return answer

    async def followed(self) -> list[GroupInfo]:
        """The groups whose messages are worth fetching."""
        return [group for group in await self._listed() if group.state in _FOLLOWED]

    async def _place_to_talk(self) -> str:
        await self._identity.check_registered()
        await self._welcomes()
        return await self._sync_group()

    async def _listed(self) -> list[GroupInfo]:
        groups = await self._core.groups()
        self._cursors = {group.id: group.cursor for group in groups if group.state in _FOLLOWED}
        self._sync_groups = {group.id for group in groups if group.is_sync_group}
        return groups

    async def _sync_sync_groups(self, *, create: bool) -> GroupSyncSummary:
        await self._identity.check_registered()
        await self._welcomes()
        summary = await self._receive_all(lambda group: group.is_sync_group)
        await self._tell(create=create)
        return summary

    # --- welcomes -------------------------------------------------------------------------------------------------------

    async def _welcomes(self) -> list[str]:
        self._patience = _PATIENCE
        joined: list[str] = []
        while True:
            cursor = (await self._core.ask("status"))["welcome_cursor"]
            answer = await self._api.query_welcome_messages(self._installation_key, cursor)
            welcomed = await self._with_identities("receive_welcomes", answer, give_up=False)
            if welcomed["missing"]:
                # The node was asked and does not have it, and the welcomes behind this one must not wait for ever.
                welcomed = await self._core.ask("receive_welcomes", answer, fresh=[], give_up=True)
            joined += welcomed["joined"]
            for _, reason in welcomed["dropped"]:
                _log.warning("a welcome was dropped: %s", reason)
            if welcomed["cursor"] == cursor or not (welcomed["more"] or welcomed["missing"]):
                break
        if joined:
            groups = await self._listed()
            self._observer.joined(sum(group.is_sync_group for group in groups if group.id in set(joined)))
        # After welcomes a new key package is due.
        await self._identity.upload_key_package()
        return joined

    async def _with_identities(self, call: str, answer: bytes, **request: object) -> dict[str, Any]:
        """Hands an answer to the core, and fetches the identity logs that it misses, as often as it misses others."""
        fresh: set[str] = set()
        before: dict[str, list[Any]] = {}
        while True:
            tell = self._observer.received if call == "receive_messages" else None
            result: dict[str, Any] = await self._core.ask(call, answer, tell=tell, fresh=sorted(fresh), **request)
            # What came before the entry that misses them is done, and is not told again.
            for name in _TOLD_ONCE & result.keys():
                result[name] = before[name] = before.get(name, []) + result[name]
            missing = {inbox_id: sequence_id for inbox_id, sequence_id in result["missing"] if inbox_id not in fresh}
            fetched = await self._identity.fetch(missing)
            while self._patience and await self._identity.is_behind(missing):
                # A node may show what it has a moment later than what refers to it. Nobody can make us wait for long.
                self._patience -= 1
                await asyncio.sleep(_PAUSE_SECONDS)
                fetched = await self._identity.fetch(missing)
            if not fetched:
                return result
            fresh |= fetched

    # --- messages -------------------------------------------------------------------------------------------------------

    async def _receive_all(self, wanted: Callable[[GroupInfo], bool]) -> GroupSyncSummary:
        followed = [group for group in await self._listed() if group.state in _FOLLOWED and wanted(group)]
        if not followed:
            return GroupSyncSummary(0, 0)
        newest = await self._api.newest_group_messages([bytes.fromhex(group.id) for group in followed])
        pairs = zip(followed, newest, strict=True)
        behind = {
            group.id: group.cursor
            for group, message_id in pairs
            if message_id is not None and message_id > group.cursor
        }
        return GroupSyncSummary(len(followed), await self._receive_each(behind))

    async def _receive_each(self, behind: Mapping[str, int]) -> int:
        """Reads groups from after a cursor each. Returns how many were read to their end."""
        gate = asyncio.Semaphore(_AT_ONCE)
        failed: list[XmtpHistoryError] = []

        async def receive(group_id: str, cursor: int) -> bool:
            async with gate:
                try:
                    return await self._receive(group_id, cursor)
                except (NetworkError, GroupError) as error:
                    if getattr(error, "transient", False):
                        raise
                    # What is wrong with one group must not keep the others from being read.
                    failed.append(error)
                    return False

        # A node that does not answer ends it for all groups, so that nobody waits for it once for each.
        tasks: list[asyncio.Task[bool]] = []
        try:
            async with asyncio.TaskGroup() as running:
                tasks.extend(running.create_task(receive(group_id, cursor)) for group_id, cursor in behind.items())
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        if failed:
            raise failed[0]
        return sum(task.result() for task in tasks)

    async def _receive(self, group_id: str, cursor: int) -> bool:
        """Reads a group to its end. Returns whether it got there."""
        while True:
            answer = await self._api.query_group_messages(bytes.fromhex(group_id), cursor)
            received = await self._with_identities("receive_messages", answer, id=group_id)
            for _, reason in received["refused"]:
                _log.warning("a commit in group %s was refused: %s", group_id, reason)
            group = received["group"]
            self._cursors[group_id] = group["cursor"]
            if group["reason"] and group["state"] != "removed":
                _log.warning("group %s is %s: %s", group_id, group["state"], group["reason"])
            if received["missing"]:
                return False
            if not received["more"] or group["cursor"] <= cursor:
                return True
            cursor = group["cursor"]

    # --- sending --------------------------------------------------------------------------------------------------------

    async def _tell(self, *, create: bool) -> None:
        """Sends everything that is to be sent; with ``create``, what the other installations are to be told as well."""
        if create:
            primary = await self._sync_group()
            await self._core.ask("flush_outbox", tell=self._observer.told, id=primary)
        await self._send()

    async def _sync_group(self) -> str:
        """The primary sync group; a new one where one is wanted."""
        groups = await self._core.ask("sync_groups")
        if groups["wanted"] is None:
            return str(groups["primary"])
        _log.info("a sync group is made: %s", groups["wanted"])
        others = await self._core.ask("other_installations")
        # The empty answer says that nobody was asked for.
        packages = await self._api.fetch_key_packages([bytes.fromhex(other) for other in others]) if others else b""
        return str(await self._core.ask("create_sync_group", packages, tell=self._made, others=others))

    def _made(self, group_id: str) -> None:
        self._cursors.setdefault(group_id, 0)
        self._sync_groups.add(group_id)
        self._observer.made()

    async def _send(self) -> None:
        """Sends what is intended, and looks for it, until nothing is left or somebody keeps being faster."""
        for group_id in await self._core.ask("outgoing_groups"):
            try:
                await self._send_to(group_id)
            except GroupError:
                # The group is not one to send to any more; what was intended stays, in case it comes back.
                continue
        while True:
            keys, request = await self._core.call("prepare_welcomes")
            if keys is None:
                return
            await self._api.send_welcome_messages(request)
            await self._core.ask("welcomes_sent", keys=keys)

    async def _send_to(self, group_id: str) -> None:
        again = False
        for _ in range(_ROUNDS):
            keys, request = await self._core.call("prepare", id=group_id, again=again)
            if keys is not None:
                await self._api.send_group_messages(request)
                await self._core.ask("published", keys=keys)
                if not again:
                    continue
            before = await self._core.group(group_id)
            if before is None or group_id not in await self._core.ask("outgoing_groups"):
                return
            await self._receive(group_id, before.cursor)
            after = await self._core.group(group_id)
            if after is None or after.cursor == before.cursor:
                if again:
                    # The node has it, but does not show it yet: the next pass looks again.
                    return
                # It was said to be there and is not; sent twice, it is one message all the same.
                again = True


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of errors that happened together."""
    error: BaseException = errors.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
