"""A real libxmtp installation in a process of its own: ``python -m interop.real``.

The library may hang or abort on archives, its own included, so it never runs in the tests' process. The first line of
standard input says who it is: the node, the database file, the account's private key. Every line after it is a step, a
name and its arguments, in JSON. Each line is answered with one: the result, or the error, after which the next step may
follow. Standard output is for that alone; the library gets standard error for both.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from typing import Any

os.environ.setdefault("RUST_LOG", "off")

from xmtp_bindings import xmtpv3 as x

from interop.following import Following, text_of


def _copy_at_once(builder: Any, value: bytes) -> None:
    with builder._reserve(len(value)):
        start = ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len
        ctypes.memmove(start, bytes(value), len(value))


# The bindings copy arguments byte by byte in Python, a megabyte in a third of a second.
x._UniffiRustBufferBuilder.write = _copy_at_once

_STATES = {"unknown": "UNKNOWN", "allowed": "ALLOWED", "denied": "DENIED"}
_ENTITIES = {"conversation": x.FfiConsentEntityType.CONVERSATION_ID, "inbox": x.FfiConsentEntityType.INBOX_ID}
_NO_PUSH = x.FfiSendMessageOpts(should_push=False)
_WHOLE_ARCHIVE = x.FfiArchiveOptions(
    start_ns=None,
    end_ns=None,
    exclude_disappearing_messages=False,
    elements=[x.FfiBackupElementSelection.MESSAGES, x.FfiBackupElementSelection.CONSENT],
)
_EVERY_CONVERSATION = x.FfiListConversationsOptions(
    created_after_ns=None,
    created_before_ns=None,
    last_activity_before_ns=None,
    last_activity_after_ns=None,
    order_by=None,
    limit=None,
    # By default conversations that were denied are not listed.
    consent_states=[x.FfiConsentState.ALLOWED, x.FfiConsentState.UNKNOWN, x.FfiConsentState.DENIED],
    include_duplicate_dms=True,
)
_EVERY_MESSAGE = x.FfiListMessagesOptions(
    sent_before_ns=None,
    sent_after_ns=None,
    limit=None,
    delivery_status=None,
    direction=x.FfiDirection.ASCENDING,
    content_types=None,
    exclude_content_types=None,
    exclude_sender_inbox_ids=None,
    sort_by=None,
    inserted_after_ns=None,
    inserted_before_ns=None,
)


class Installation:
    """One installation; every public method is a step."""

    def __init__(self, api: Any, client: Any, private_key: bytes) -> None:
        self._api = api
        self._client = client
        self._private_key = private_key
        self._following: dict[str, Following] = {}
        self._sending: asyncio.Task[dict[str, list[str]]]
        self._stop = False

    @classmethod
    async def create(cls, node: str, db: str, account_key: str, *, device_sync: bool) -> Installation:
        """Opens the database, registering the installation where that has not been done."""
        private_key = bytes.fromhex(account_key)
        api = await x.connect_to_backend(node, None, False, None, "tests", None, None)
        who = _identifier(private_key)
        inbox = await x.get_inbox_id_for_identifier(api, who) or x.generate_inbox_id(who, 1)
        options = x.DbOptions(db=db, encryption_key=bytes(32), max_db_pool_size=None, min_db_pool_size=None)
        sync = x.FfiDeviceSyncMode.ENABLED if device_sync else x.FfiDeviceSyncMode.DISABLED
        client = await x.create_client(api, api, options, inbox, who, 1, None, sync, False, None)
        request = client.signature_request()
        if request is not None:
            await _sign(request, private_key)
            await client.register_identity(request)
        return cls(api, client, private_key)

    def _conversation(self, conversation_id: str) -> Any:
        return self._client.conversation(bytes.fromhex(conversation_id))

    # --- identity ------------------------------------------------------------------------------------------------------

    async def inbox_id(self) -> str:
        return str(self._client.inbox_id())

    async def installation_id(self) -> str:
        return str(self._client.installation_id().hex())

    async def inbox_of(self, account_key: str) -> str | None:
        """The inbox that an account's address leads to, as the node says."""
        found: str | None = await x.get_inbox_id_for_identifier(self._api, _identifier(bytes.fromhex(account_key)))
        return found

    async def inbox_state(self) -> dict[str, list[str]]:
        """Installations and addresses of the own inbox, as the node's log says."""
        state = await self._client.inbox_state(True)
        return {
            "installations": sorted(installation.id.hex() for installation in state.installations),
            "addresses": sorted(identity.identifier for identity in state.account_identities),
        }

    async def add_wallet(self, account_key: str) -> None:
        """Adds another account to the inbox."""
        wallet = bytes.fromhex(account_key)
        await self._apply(await self._client.add_identity(_identifier(wallet)), wallet)

    async def revoke_wallet(self, account_key: str) -> None:
        """Takes an account from the inbox."""
        request = await self._client.revoke_identity(_identifier(bytes.fromhex(account_key)))
        await self._apply(request, self._private_key)

    async def revoke_installation(self, installation_id: str) -> None:
        """Takes an installation from the inbox."""
        request = await self._client.revoke_installations([bytes.fromhex(installation_id)])
        await self._apply(request, self._private_key)

    async def _apply(self, request: Any, private_key: bytes) -> None:
        await _sign(request, private_key)
        await self._client.apply_signature_request(request)

    # --- conversations -------------------------------------------------------------------------------------------------

    async def group(self, members: list[str], **names: str) -> str:
        """Makes a group with other inboxes in it."""
        options = x.FfiCreateGroupOptions(
            permissions=None,
            group_name=names.get("name"),
            group_description=names.get("description"),
            group_image_url_square=names.get("image"),
            custom_permission_policy_set=None,
            message_disappearing_settings=None,
            app_data=names.get("app_data"),
        )
        return str((await self._client.conversations().create_group(members, options)).id().hex())

    async def dm(self, inbox: str) -> str:
        """Finds or makes the DM with an inbox."""
        options = x.FfiCreateDmOptions(message_disappearing_settings=None)
        return str((await self._client.conversations().find_or_create_dm(inbox, options)).id().hex())

    async def members(self, conversation_id: str) -> dict[str, list[str]]:
        """The installations of each inbox in a conversation."""
        members = await self._conversation(conversation_id).list_members()
        return {member.inbox_id: sorted(key.hex() for key in member.installation_ids) for member in members}

    async def is_active(self, conversation_id: str) -> bool:
        return bool(self._conversation(conversation_id).is_active())

    async def add(self, conversation_id: str, inboxes: list[str]) -> None:
        """Adds inboxes to a group."""
        await self._conversation(conversation_id).add_members(inboxes)

    async def promote(self, conversation_id: str, inbox: str) -> None:
        """Lets an inbox do in a group whatever its creator can."""
        await self._conversation(conversation_id).add_super_admin(inbox)

    async def rename(self, conversation_id: str, name: str) -> None:
        await self._conversation(conversation_id).update_group_name(name)

    # --- messages ------------------------------------------------------------------------------------------------------

    async def send(self, conversation_id: str, text: str) -> str:
        """Sends a text."""
        return str((await self._conversation(conversation_id).send(x.encode_text(text), _NO_PUSH)).hex())

    async def send_each(self, conversation_ids: list[str], texts: list[str]) -> list[str]:
        """Sends texts, each to the next one of some conversations."""
        turns = (conversation_ids[number % len(conversation_ids)] for number in range(len(texts)))
        return [await self.send(conversation_id, text) for conversation_id, text in zip(turns, texts, strict=True)]

    async def start_sending(self, conversation_id: str) -> None:
        """Sends numbered texts one after another in the background, whatever becomes of each."""
        self._sending = asyncio.create_task(self._send_on(conversation_id))

    async def stop_sending(self) -> dict[str, list[str]]:
        """Ends that, and says which texts were reported as sent and which not."""
        self._stop = True
        return await self._sending

    async def _send_on(self, conversation_id: str) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {"sent": [], "failed": []}
        while not self._stop:
            text = f"number {len(out['sent']) + len(out['failed'])}"
            try:
                await self.send(conversation_id, text)
            except x.FfiError:
                out["failed"].append(text)
            else:
                out["sent"].append(text)
        return out

    async def keep(self, conversation_id: str, text: str, times: int = 1) -> None:
        """Stores texts without publishing them."""
        conversation, content = self._conversation(conversation_id), x.encode_text(text)
        for _ in range(times):
            conversation.send_optimistic(content, _NO_PUSH)

    async def publish(self, conversation_id: str) -> None:
        """Publishes what is kept."""
        await self._conversation(conversation_id).publish_messages()

    async def delete(self, conversation_id: str, message_id: str) -> None:
        """Deletes a message for everybody."""
        self._conversation(conversation_id).delete_message(bytes.fromhex(message_id))

    async def sync(self) -> None:
        """Fetches everything that others have sent."""
        await self._client.conversations().sync_all_conversations(None)

    async def texts(self, conversation_id: str) -> list[str]:
        """The texts of a conversation, in order."""
        messages = await self._conversation(conversation_id).find_messages(_EVERY_MESSAGE)
        return [text_of(message) for message in messages if message.kind.name == "APPLICATION"]

    async def listing(self) -> dict[str, Any]:
        """Every conversation with its messages, by id."""
        out = {}
        for item in self._client.conversations().list(_EVERY_CONVERSATION):
            conversation = item.conversation()
            kind = conversation.conversation_type().name.lower()
            messages = await conversation.find_messages(_EVERY_MESSAGE)
            out[conversation.id().hex()] = {
                "type": kind,
                "names": [
                    conversation.group_name(),
                    conversation.group_description(),
                    conversation.group_image_url_square(),
                ]
                if kind == "group"
                else [],
                "is_active": conversation.is_active(),
                "consent": conversation.consent_state().name.lower(),
                "messages": {
                    message.id.hex(): [
                        message.sent_at_ns,
                        message.sender_inbox_id,
                        message.kind.name.lower(),
                        message.delivery_status.name.lower(),
                        message.content.hex(),
                    ]
                    for message in messages
                },
            }
        return out

    # --- streams -------------------------------------------------------------------------------------------------------

    async def follow(self, kind: str) -> None:
        """Opens a stream of "messages", "conversations" or "consents"."""
        self._following[kind] = await Following.open(self._client.conversations(), kind)

    async def followed(self, kind: str, count: int, seconds: float) -> list[Any]:
        """What a stream has delivered, once there are so many or the time is over."""
        return await self._following[kind].until(count, seconds)

    async def until_closed(self, kind: str, seconds: float) -> dict[str, Any]:
        """Waits for a stream to be closed from the other end."""
        return await self._following[kind].until_closed(seconds)

    async def unfollow(self, kind: str) -> None:
        """Ends a stream."""
        await self._following.pop(kind).close()

    # --- consent -------------------------------------------------------------------------------------------------------

    async def consent(self, kind: str, entity: str, state: str) -> None:
        """Sets a consent; the kind is "conversation" or "inbox"."""
        record = x.FfiConsent(entity_type=_ENTITIES[kind], state=x.FfiConsentState[_STATES[state]], entity=entity)
        await self._client.set_consent_states([record])

    async def get_consent(self, kind: str, entity: str) -> str:
        """A consent as the library knows it."""
        return str((await self._client.get_consent_state(_ENTITIES[kind], entity)).name.lower())

    # --- archives ------------------------------------------------------------------------------------------------------

    async def export_archive(self, path: str, key: str) -> None:
        """Writes an archive with all sections."""
        await self._client.create_archive(path, _WHOLE_ARCHIVE, bytes.fromhex(key))

    async def import_archive(self, path: str, key: str) -> None:
        """Imports an archive."""
        await self._client.import_archive(path, bytes.fromhex(key))

    async def archive_metadata(self, path: str, key: str) -> dict[str, Any]:
        """An archive's metadata."""
        found = await self._client.archive_metadata(path, bytes.fromhex(key))
        return {
            "backup_version": found.backup_version,
            "elements": [element.name for element in found.elements],
            "exported_at_ns": found.exported_at_ns,
            "start_ns": found.start_ns,
            "end_ns": found.end_ns,
        }

    # --- device sync ---------------------------------------------------------------------------------------------------

    async def sync_devices(self) -> None:
        """Fetches what the inbox's other installations have sent."""
        await self._client.sync_all_device_sync_groups()

    async def request_archive(self, server: str) -> None:
        """Asks the other installations for what they have."""
        await self._client.send_sync_request(_WHOLE_ARCHIVE, server)

    async def send_archive(self, server: str, pin: str) -> None:
        """Sends the other installations what there is here."""
        await self._client.send_sync_archive(_WHOLE_ARCHIVE, server, pin)

    async def archives(self) -> list[list[str]]:
        """Pin and sender of each archive that can be imported."""
        found = self._client.list_available_archives(30)
        return [[archive.pin, archive.sent_by_installation.hex()] for archive in found]

    async def take_archive(self, pin: str) -> None:
        """Imports an archive that another installation has sent."""
        await self._client.process_sync_archive(pin)


def _identifier(private_key: bytes) -> Any:
    address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(private_key))
    return x.FfiIdentifier(identifier=address.lower(), identifier_kind=x.FfiIdentifierKind.ETHEREUM)


async def _sign(request: Any, private_key: bytes) -> None:
    digest = x.ethereum_hash_personal(await request.signature_text())
    await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, private_key, False))


async def _answer(installation: Installation, name: str, *arguments: Any) -> dict[str, Any]:
    *positional, last = arguments or (None,)
    named = last if isinstance(last, dict) else {}
    positional = positional if isinstance(last, dict) else list(arguments)
    try:
        return {"result": await getattr(installation, name)(*positional, **named)}
    except x.FfiError as error:
        return {"error": str(error)}


async def main() -> None:
    """Carries out steps until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    installation = await Installation.create(**json.loads(sys.stdin.readline()))
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await _answer(installation, *json.loads(line))), file=answers)
    # Some of the library's threads do not end by themselves.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
