"""A real libxmtp installation in a process of its own: ``python -m interop.real`` carries out a plan.

The library may hang or abort on archives, its own included, so it never runs in the tests' process. A plan is JSON on
standard input: the node, the database file, the account's private key, and steps, each a name and its arguments. The
results of the steps are printed as a list. Standard output is theirs alone; the library gets standard error for both.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

os.environ.setdefault("RUST_LOG", "off")

from xmtp_bindings import xmtpv3 as x

_STATES = {"unknown": "UNKNOWN", "allowed": "ALLOWED", "denied": "DENIED"}
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

    def __init__(self, client: Any) -> None:
        self._client = client

    @classmethod
    async def create(cls, node: str, db: str, account_key: str) -> Installation:
        """Opens the database, registering the installation where that has not been done."""
        private_key = bytes.fromhex(account_key)
        address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(private_key))
        api = await x.connect_to_backend(node, None, False, None, "tests", None, None)
        who = x.FfiIdentifier(identifier=address.lower(), identifier_kind=x.FfiIdentifierKind.ETHEREUM)
        inbox = await x.get_inbox_id_for_identifier(api, who) or x.generate_inbox_id(who, 1)
        options = x.DbOptions(db=db, encryption_key=bytes(32), max_db_pool_size=None, min_db_pool_size=None)
        sync = x.FfiDeviceSyncMode.DISABLED
        client = await x.create_client(api, api, options, inbox, who, 1, None, sync, False, None)
        request = client.signature_request()
        if request is not None:
            digest = x.ethereum_hash_personal(await request.signature_text())
            await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, private_key, False))
            await client.register_identity(request)
        return cls(client)

    def _conversation(self, conversation_id: str) -> Any:
        return self._client.conversation(bytes.fromhex(conversation_id))

    async def inbox_id(self) -> str:
        return str(self._client.inbox_id())

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

    async def send(self, conversation_id: str, text: str) -> str:
        """Sends a text."""
        conversation = self._conversation(conversation_id)
        return str((await conversation.send(x.encode_text(text), x.FfiSendMessageOpts(should_push=False))).hex())

    async def keep(self, conversation_id: str, text: str, times: int = 1) -> None:
        """Stores texts without publishing them."""
        conversation, options = self._conversation(conversation_id), x.FfiSendMessageOpts(should_push=False)
        for _ in range(times):
            conversation.send_optimistic(x.encode_text(text), options)

    async def delete(self, conversation_id: str, message_id: str) -> None:
        """Deletes a message for everybody."""
        self._conversation(conversation_id).delete_message(bytes.fromhex(message_id))

    async def consent(self, kind: str, entity: str, state: str) -> None:
        """Sets a consent; the kind is "conversation" or "inbox"."""
        types = {"conversation": x.FfiConsentEntityType.CONVERSATION_ID, "inbox": x.FfiConsentEntityType.INBOX_ID}
        record = x.FfiConsent(entity_type=types[kind], state=x.FfiConsentState[_STATES[state]], entity=entity)
        await self._client.set_consent_states([record])

    async def get_consent(self, kind: str, entity: str) -> str:
        """A consent as the library knows it."""
        types = {"conversation": x.FfiConsentEntityType.CONVERSATION_ID, "inbox": x.FfiConsentEntityType.INBOX_ID}
        return str((await self._client.get_consent_state(types[kind], entity)).name.lower())

    async def sync(self) -> None:
        """Fetches everything that others have sent."""
        await self._client.conversations().sync_all_conversations(None)

    async def export_archive(self, path: str, key: str) -> None:
        """Writes an archive with all sections."""
        sections = [x.FfiBackupElementSelection.MESSAGES, x.FfiBackupElementSelection.CONSENT]
        options = x.FfiArchiveOptions(
            start_ns=None, end_ns=None, exclude_disappearing_messages=False, elements=sections
        )
        await self._client.create_archive(path, options, bytes.fromhex(key))

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


async def main() -> None:
    """Carries out a plan."""
    results_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    plan = json.load(sys.stdin)
    installation = await Installation.create(plan["node"], plan["db"], plan["account_key"])
    results = []
    for name, *arguments in plan["steps"]:
        named = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        results.append(await getattr(installation, name)(*arguments, **named))
    json.dump(results, results_to)
    results_to.close()
    # Some of the library's threads do not end by themselves.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
