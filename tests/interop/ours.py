"""An installation of this library in a process of its own: ``python -m interop.ours``, driven as interop.real is.

Steps that both have are called the same and answer the same, so that tests need not know whom they talk to. Ours only
listens in ordinary groups: it has no steps that send to them or change them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from interop import lines
from support.build import text_content
from support.signing import Wallet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_KEY = bytes(32)
_ENTITIES = {"conversation": "CONVERSATION_ID", "inbox": "INBOX_ID"}
_TYPES = {1: "group", 2: "dm", 3: "sync"}


class Installation:
    """One installation; every public method is a step."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._following = {"events": _Following(client.stream_events(), lambda event: [_facts_of(event)])}
        self._syncing: asyncio.Task[Any] | None = None

    @classmethod
    async def create(
        cls,
        node: str,
        db: str,
        account_key: str,
        *,
        device_sync: bool = False,
        server: str | None = None,
        sync_interval: float | None = None,
        auto: bool = False,
        allow: list[str] | None = None,
    ) -> Installation:
        """Opens the store, registering the installation where that has not been done.

        It is quiet unless it is told otherwise: no history server, nothing in the background, and it asks for nothing.

        Args:
            node: the node.
            db: the database file.
            account_key: the account's private key.
            device_sync: whether it takes part in device sync by itself.
            server: the history server.
            sync_interval: of the worker in the background.
            auto: whether it asks for history when it is new.
            allow: the installations that it answers; None: all of the inbox.
        """
        from xmtp_history import ArchivePolicy, Client

        client = await Client.create(
            _Signer(account_key),
            env="local",
            api_url=node,
            db_path=db,
            db_encryption_key=_KEY,
            disable_device_sync=not device_sync,
            history_sync_url=server,
            sync_interval=sync_interval,
            auto_history_sync=auto,
            # Tests ask more often than people do.
            archive_policy=ArchivePolicy(allow=allow, burst=100),
        )
        return cls(client)

    async def _facts(self, group_id: str) -> dict[str, Any]:
        info = await self._client.group(group_id)
        members: dict[str, list[str]] = {}
        for inbox, installation in sorted(info.members or ()):
            members.setdefault(inbox, []).append(installation)
        return {
            "type": _TYPES[info.conversation_type],
            "membership": info.state.value,
            "is_active": info.state.value == "active",
            "reason": info.reason,
            "epoch": info.epoch,
            "epoch_authenticator": info.epoch_authenticator,
            "cursor": info.cursor,
            "created_at_ns": info.created_at_ns,
            "adder": info.added_by_inbox_id,
            "undecryptable": info.undecryptable,
            "maybe_forked": info.maybe_forked,
            "members": members,
        }

    # --- identity ------------------------------------------------------------------------------------------------------

    async def inbox_id(self) -> str:
        return str(self._client.inbox_id)

    async def installation_id(self) -> str:
        return str(self._client.installation_id)

    async def inbox_state(self, inbox: str | None = None) -> dict[str, Any]:
        (state,) = await self._client.inbox_states([inbox or self._client.inbox_id])
        return {
            "inbox_id": state.inbox_id,
            "installations": sorted(installation.id for installation in state.installations),
            "addresses": sorted(state.identifiers),
            "recovery": state.recovery_identifier,
        }

    async def revoke_installations(self, installation_ids: list[str]) -> None:
        await self._client.revoke_installations(installation_ids)

    async def rotate_key_package(self) -> None:
        """Publishes a new one."""
        await self._client.rotate_key_package()

    # --- fetching ------------------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        await self._client.conversations.sync_all()

    async def sync_welcomes(self) -> None:
        await self._client.conversations.sync()

    async def sync_devices(self) -> None:
        await self._client.sync_all_device_sync_groups()

    # --- groups --------------------------------------------------------------------------------------------------------

    async def groups(self) -> dict[str, dict[str, Any]]:
        """What the client knows of each group; members too, which real ones do not tell here."""
        return {info.id: await self._facts(info.id) for info in await self._client.groups()}

    async def sync_groups(self) -> dict[str, dict[str, Any]]:
        return {group_id: facts for group_id, facts in (await self.groups()).items() if facts["type"] == "sync"}

    async def members(self, conversation_id: str) -> dict[str, list[str]]:
        members: dict[str, list[str]] = (await self._facts(conversation_id))["members"]
        return members

    async def is_active(self, conversation_id: str) -> bool:
        return bool((await self._facts(conversation_id))["is_active"])

    async def state(self, conversation_id: str) -> dict[str, Any]:
        facts = await self._facts(conversation_id)
        conversation = self._client.history.conversation(conversation_id)
        begin, lifetime = conversation.message_disappear_from_ns, conversation.message_disappear_in_ns
        return {
            **{name: facts[name] for name in ("is_active", "epoch", "epoch_authenticator", "members")},
            "name": conversation.name or "",
            "description": conversation.description or "",
            "image": conversation.image_url_square or "",
            "app_data": conversation.app_data or "",
            "admins": sorted(conversation.admins),
            "super_admins": sorted(conversation.super_admins),
            "disappearing": None if begin is None else [begin, lifetime],
        }

    async def conversation(self, conversation_id: str) -> dict[str, Any]:
        """What the history says about a conversation, which is what applications see."""
        found = self._client.history.conversation(conversation_id)
        return {
            "type": found.conversation_type.name.lower(),
            "is_active": found.is_active,
            "creator": found.creator_inbox_id,
        }

    async def dm_id(self, conversation_id: str) -> str | None:
        """What all DMs of the same two inboxes have in common."""
        found: str | None = self._client.history.conversation(conversation_id).dm_id
        return found

    async def debug_info(self, conversation_id: str) -> dict[str, Any]:
        facts = await self._facts(conversation_id)
        return {"epoch": facts["epoch"], "maybe_forked": facts["maybe_forked"]}

    async def commits(self, conversation_id: str) -> list[dict[str, Any]]:
        """The epoch that it is in, as :class:`interop.database.Commit`: it does not tell about those before."""
        facts = await self._facts(conversation_id)
        commit = dict.fromkeys(("before", "kind", "sender", "error"))
        commit |= {
            "sequence_id": 0,
            "result": 1,
            "epoch": facts["epoch"],
            "authenticator": facts["epoch_authenticator"],
        }
        return [commit] if facts["is_active"] else []

    # --- messages ------------------------------------------------------------------------------------------------------

    async def held(self, conversation_id: str) -> dict[str, list[Any]]:
        return {
            message.id: [message.sequence_id or 0, message.sender_inbox_id, _text_of(message)]
            for message in self._client.history.messages(conversation_id)
            if message.kind.name == "APPLICATION"
        }

    async def texts(self, conversation_id: str) -> list[str]:
        return [text for _, _, text in (await self.held(conversation_id)).values()]

    async def raw_messages(self, conversation_id: str) -> dict[str, dict[str, Any]]:
        return {
            message.id: {
                "sequence_id": message.sequence_id,
                "sent_at_ns": message.sent_at_ns,
                "kind": message.kind.name.lower(),
                "sender_inbox_id": message.sender_inbox_id,
                "sender_installation_id": message.sender_installation_id,
                "status": message.delivery_status.name.lower(),
                "content": message.content.hex(),
            }
            for message in self._client.history.messages(conversation_id)
        }

    async def listing(self) -> dict[str, Any]:
        out = {}
        for conversation in self._client.history.conversations():
            kind = conversation.conversation_type.name.lower()
            messages = await self.raw_messages(conversation.id)
            names = [conversation.name or "", conversation.description or "", conversation.image_url_square or ""]
            order = ("sent_at_ns", "sender_inbox_id", "kind", "status", "content")
            out[conversation.id] = {
                "type": kind,
                "names": names if kind == "group" else [],
                "is_active": conversation.is_active,
                "consent": await self.get_consent("conversation", conversation.id),
                "messages": {key: [facts[name] for name in order] for key, facts in messages.items()},
            }
        return out

    # --- what the inbox's installations share --------------------------------------------------------------------------

    async def consent(self, kind: str, entity: str, state: str) -> None:
        from xmtp_history import Consent, ConsentEntityType, ConsentState

        record = Consent(ConsentEntityType[_ENTITIES[kind]], ConsentState[state.upper()], entity, time.time_ns())
        await self._client.preferences.set_consent_states([record])

    async def get_consent(self, kind: str, entity: str) -> str:
        from xmtp_history import ConsentEntityType

        found = await self._client.preferences.get_consent_state(ConsentEntityType[_ENTITIES[kind]], entity)
        return str(found.name.lower())

    async def device_said(self, group_id: str | None = None) -> list[dict[str, Any]]:
        """What was said in one of the groups of devices, or in all, in the node's order; contents in hexadecimal."""
        names = ("id", "group_id", "sequence_id", "sent_at_ns", "sender_inbox_id", "sender_installation_id")
        return [
            {**{name: getattr(message, name) for name in names}, "content": message.content.hex()}
            for message in await self._client.sync_group_messages(group_id)
        ]

    async def say_to_devices(self, content: str) -> str:
        """Sends a serialised DeviceSyncContent (hexadecimal) to the other installations. Returns the message's id."""
        return str(await self._client.send_sync_message(bytes.fromhex(content)))

    async def hmac_keys(self) -> dict[str, list[list[Any]]]:
        found = await self._client.conversations.hmac_keys()
        return {group_id: [[key.epoch, key.key.hex()] for key in keys] for group_id, keys in found.items()}

    async def record(self, conversation_id: str, texts: list[str]) -> list[str]:
        """Notes texts of the inbox in a conversation of the application's own, and returns their ids."""
        from xmtp_history import Conversation, DeliveryStatus, Message, MessageKind

        inbox, now = self._client.inbox_id, time.time_ns()
        if self._client.history.conversation(conversation_id) is None:
            conversation = Conversation(conversation_id, name="recorded", created_at_ns=now, added_by_inbox_id=inbox)
            self._client.history.add_conversations([conversation])
        messages = [
            Message(
                hashlib.sha256(f"{conversation_id} {text}".encode()).hexdigest(),
                conversation_id,
                now + number,
                MessageKind.APPLICATION,
                inbox,
                self._client.installation_id,
                DeliveryStatus.PUBLISHED,
                "text",
                text_content(text),
                authority_id="xmtp.org",
                version_major=1,
            )
            for number, text in enumerate(texts)
        ]
        self._client.history.add_messages(messages)
        return [message.id for message in messages]

    # --- archives ------------------------------------------------------------------------------------------------------

    async def request_archive(self, server: str) -> str:
        return str(await self._client.send_sync_request(server_url=server))

    async def send_archive(self, server: str, pin: str) -> None:
        await self._client.send_sync_archive(pin, server_url=server)

    async def archives(self) -> list[list[str]]:
        return [[found.pin, found.sent_by_installation] for found in self._client.list_available_archives(30)]

    async def take_archive(self, pin: str | None) -> dict[str, Any]:
        """Imports an archive that another installation has sent; None: the newest one."""
        return dict(dataclasses.asdict((await self._client.process_sync_archive(pin)).new))

    # --- history -------------------------------------------------------------------------------------------------------

    async def start_sync_history(self, timeout: float = 30, what: str = "history") -> None:  # noqa: ASYNC109
        """Asks for "history", "messages" or "consent" in the background."""
        work = getattr(self._client, f"sync_{what}")
        self._syncing = asyncio.create_task(work(timeout=timeout))

    async def sync_history_report(self) -> dict[str, Any] | None:
        """What came of it; None as long as it goes on."""
        assert self._syncing is not None
        # A moment for what goes on in the background.
        done, _ = await asyncio.wait([self._syncing], timeout=0.02)
        if not done:
            return None
        report = self._syncing.result()
        return {
            "pin": report.pin,
            "archives": report.archives,
            "refused": [list(dataclasses.astuple(refusal)) for refusal in report.refused],
            "new": dataclasses.asdict(report.imported.new),
        }

    async def status(self) -> dict[str, Any]:
        status = self._client.sync_status()
        return dict(_plain(status))

    # --- streams -------------------------------------------------------------------------------------------------------

    async def events(self) -> list[list[Any]]:
        """Kind and fields of all events so far."""
        return await self.followed("events", 0, 0)

    async def follow(self, kind: str) -> None:
        """Opens a stream of "messages", "consents" or "preferences"."""
        preferences = self._client.preferences
        if kind == "messages":
            self._following[kind] = _Following(self._client.conversations.stream_all_messages(), _of_message)
        elif kind == "consents":
            self._following[kind] = _Following(preferences.stream_consent(), _of_consents)
        else:
            self._following[kind] = _Following(preferences.stream_preferences(), _of_preferences)

    async def followed(self, kind: str, count: int, seconds: float) -> list[Any]:
        """What a stream has delivered, once there are so many or the time is over."""
        return await self._following[kind].until(count, seconds)


class _Signer:
    """Signs for an account. The library's own takes longer to be imported than all the rest of this process."""

    def __init__(self, account_key: str) -> None:
        # The wallet adds one to what it is given.
        self._wallet = Wallet((int(account_key, 16) - 1).to_bytes(32, "big"))

    def get_identifier(self) -> str:
        return self._wallet.address

    def sign_message(self, message: str) -> bytes:
        return self._wallet.sign_raw(message)


class _Following:
    """What has come from a stream."""

    def __init__(self, stream: AsyncIterator[Any], facts: Callable[[Any], list[Any]]) -> None:
        self._items: list[Any] = []
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read(stream, facts))

    async def until(self, count: int, seconds: float) -> list[Any]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self._items) < count and not self._reading.done():
                    self._changed.clear()
                    await self._changed.wait()
        if self._reading.done():
            self._reading.result()
        return list(self._items)

    async def _read(self, stream: AsyncIterator[Any], facts: Callable[[Any], list[Any]]) -> None:
        async for item in stream:
            self._items += facts(item)
            self._changed.set()


def _facts_of(event: Any) -> list[Any]:
    return [type(event).__name__, _plain(event)]


def _plain(record: Any) -> Any:
    """A dataclass as JSON has it."""
    return json.loads(json.dumps(dataclasses.asdict(record), default=lambda value: value.name.lower()))


def _of_message(message: Any) -> list[Any]:
    kind = message.kind.name.lower()
    return [[message.id, message.conversation_id, _text_of(message), kind, message.sent_at_ns]]


def _of_consents(consents: list[Any]) -> list[Any]:
    return [[consent.entity_type.name.lower(), consent.entity, consent.state.name.lower()] for consent in consents]


def _of_preferences(updates: list[Any]) -> list[Any]:
    return [["hmac", each.key.hex()] if type(each).__name__ == "HmacKeyUpdate" else ["consent"] for each in updates]


def _text_of(message: Any) -> str:
    body = message.decoded().body
    return body if isinstance(body, str) else ""


async def _main() -> None:
    from xmtp_history import XmtpHistoryError

    await lines.serve(Installation.create, XmtpHistoryError)


if __name__ == "__main__":
    asyncio.run(_main())
