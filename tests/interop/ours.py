"""An installation of this library in a process of its own: ``python -m interop.ours``, driven as interop.real is.

Steps that both have are called the same and answer the same, so that tests need not know whom they talk to. Ours only
listens in ordinary groups: it has no steps that send to them or change them.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from interop import lines

_KEY = bytes(32)
_ENTITIES = {"conversation": "CONVERSATION_ID", "inbox": "INBOX_ID"}
_TYPES = {1: "group", 2: "dm", 3: "sync"}


class Installation:
    """One installation; every public method is a step."""

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def create(cls, node: str, db: str, account_key: str, *, device_sync: bool = False) -> Installation:
        """Opens the store, registering the installation where that has not been done."""
        from xmtp_history import Client, EoaSigner

        client = await Client.create(
            EoaSigner.from_key(account_key),
            env="local",
            api_url=node,
            db_path=db,
            db_encryption_key=_KEY,
            disable_device_sync=not device_sync,
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
            for message in await self._client.sync_messages(group_id)
        ]

    async def say_to_devices(self, content: str) -> str:
        """Sends a serialised DeviceSyncContent (hexadecimal) to the other installations. Returns the message's id."""
        return str(await self._client.send_sync_message(bytes.fromhex(content)))

    async def request_archive(self, server: str) -> str:
        return str(await self._client.send_sync_request(server_url=server))

    async def send_archive(self, server: str, pin: str) -> None:
        await self._client.send_sync_archive(pin, server_url=server)

    async def archives(self) -> list[list[str]]:
        return [[found.pin, found.sent_by_installation] for found in self._client.list_available_archives(30)]

    async def take_archive(self, pin: str) -> None:
        await self._client.process_sync_archive(pin)


def _text_of(message: Any) -> str:
    body = message.decoded().body
    return body if isinstance(body, str) else ""


async def _main() -> None:
    from xmtp_history import XmtpHistoryError

    await lines.serve(Installation.create, XmtpHistoryError)


if __name__ == "__main__":
    asyncio.run(_main())
