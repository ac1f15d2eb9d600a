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
    from collections.abc import Iterable

    from xmtp_history._errors import XmtpHistoryError
    from xmtp_history.client._core import Core
    from xmtp_history.client._identity import Identity
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
    """Syncs the groups of an installation."""

    def __init__(self, api: NodeApi, core: Core, identity: Identity, installation_id: str) -> None:
        self._api = api
        self._core = core
        self._identity = identity
        self._installation_key = bytes.fromhex(installation_id)
        self._turn = asyncio.Lock()
        self._patience = _PATIENCE

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
            groups = [
                group
                for group in await self._core.groups()
                if not group.is_sync_group and (wanted is None or group.id in wanted)
            ]
            return await self._receive_all(groups)

    async def sync_sync_groups(self, *, create: bool) -> GroupSyncSummary:
        """Fetches welcomes and the messages of the inbox's sync groups, and sends what is to be sent there.

        Where a new sync group is wanted and ``create`` is true, it is made.
        """
        async with self._turn:
            await self._identity.check_registered()
            await self._welcomes()
            summary = await self._receive_all([group for group in await self._core.groups() if group.is_sync_group])
            if create:
                await self._sync_group()
            await self._send()
            return summary

    async def send_sync_message(self, content: bytes) -> str:
        """Says something in the primary sync group, which is made if there is none. Returns the message's id."""
        async with self._turn:
            await self._identity.check_registered()
            await self._welcomes()
            primary = await self._sync_group()
            message_id = str(await self._core.ask("send_sync_message", content, id=primary))
            await self._send()
            return message_id

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
        # After welcomes a new key package is due.
        await self._identity.upload_key_package()
        return joined

    async def _with_identities(self, call: str, answer: bytes, **request: object) -> dict[str, Any]:
        """Hands an answer to the core, and fetches the identity logs that it misses, as often as it misses others."""
        fresh: set[str] = set()
        before: dict[str, list[Any]] = {}
        while True:
            result: dict[str, Any] = await self._core.ask(call, answer, fresh=sorted(fresh), **request)
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

    async def _receive_all(self, groups: list[GroupInfo]) -> GroupSyncSummary:
        followed = [group for group in groups if group.state in _FOLLOWED]
        if not followed:
            return GroupSyncSummary(0, 0)
        newest = await self._api.newest_group_messages([bytes.fromhex(group.id) for group in followed])
        pairs = zip(followed, newest, strict=True)
        behind = [group for group, message_id in pairs if message_id is not None and message_id > group.cursor]
        gate = asyncio.Semaphore(_AT_ONCE)
        failed: list[XmtpHistoryError] = []

        async def receive(group: GroupInfo) -> bool:
            async with gate:
                try:
                    return await self._receive(group.id, group.cursor)
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
                tasks.extend(running.create_task(receive(group)) for group in behind)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        if failed:
            raise failed[0]
        return GroupSyncSummary(len(followed), sum(task.result() for task in tasks))

    async def _receive(self, group_id: str, cursor: int) -> bool:
        """Reads a group to its end. Returns whether it got there."""
        while True:
            answer = await self._api.query_group_messages(bytes.fromhex(group_id), cursor)
            received = await self._with_identities("receive_messages", answer, id=group_id)
            for _, reason in received["refused"]:
                _log.warning("a commit in group %s was refused: %s", group_id, reason)
            group = received["group"]
            if group["reason"] and group["state"] != "removed":
                _log.warning("group %s is %s: %s", group_id, group["state"], group["reason"])
            if received["missing"]:
                return False
            if not received["more"] or group["cursor"] <= cursor:
                return True
            cursor = group["cursor"]

    # --- sending --------------------------------------------------------------------------------------------------------

    async def _sync_group(self) -> str:
        """The primary sync group; a new one where one is wanted."""
        groups = await self._core.ask("sync_groups")
        if groups["wanted"] is None:
            return str(groups["primary"])
        _log.info("a sync group is made: %s", groups["wanted"])
        others = await self._core.ask("other_installations")
        # The empty answer says that nobody was asked for.
        packages = await self._api.fetch_key_packages([bytes.fromhex(other) for other in others]) if others else b""
        return str(await self._core.ask("create_sync_group", packages, others=others))

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


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of errors that happened together."""
    error: BaseException = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
