"""From the independent decoder's records to the public records that ``xmtp_history`` should give for them."""

from __future__ import annotations

from typing import Any, Final

from independent.elements import Element, number_of
from xmtp_history import (
    ArchiveElement,
    ArchiveMetadata,
    Consent,
    Conversation,
    History,
    MembershipState,
    Message,
)

#: Attributes that are fields of a Conversation of their own.
NAMED_ATTRIBUTES: Final = {
    "group_name": "name",
    "description": "description",
    "group_image_url_square": "image_url_square",
    "app_data": "app_data",
}

#: Content types by their number, which archives from before 2026 have instead of the name (section 2.5).
SAVED_CONTENT_TYPES: Final = {
    2: "text",
    3: "group_membership_change",
    4: "group_updated",
    5: "reaction",
    6: "readReceipt",
    7: "reply",
    8: "attachment",
    9: "remoteStaticAttachment",
    10: "transactionReference",
}

Record = dict[str, Any]


def conversation(record: Record, **changes: Any) -> Conversation:
    """The Conversation for a group's record, as an archive reader shows it."""
    mutable = record.get("mutable_metadata", {})
    attributes = mutable.get("attributes", {})
    named = {field: attributes[key] for key, field in NAMED_ATTRIBUTES.items() if key in attributes}
    state = number_of(record["membership_state"])
    values: Record = {
        "id": record["id"],
        "conversation_type": number_of(record["conversation_type"]),
        **named,
        "created_at_ns": record["created_at_ns"],
        "last_message_ns": record.get("last_message_ns"),
        "dm_id": record.get("dm_id"),
        "creator_inbox_id": record["metadata"]["creator_inbox_id"] if "metadata" in record else None,
        "added_by_inbox_id": record["added_by_inbox_id"],
        "admins": tuple(mutable.get("admin_list", ())),
        "super_admins": tuple(mutable.get("super_admin_list", ())),
        "membership_state": state,
        "is_active": state != MembershipState.RESTORED,
        "message_disappear_from_ns": record.get("message_disappear_from_ns"),
        "message_disappear_in_ns": record.get("message_disappear_in_ns"),
        "installations_last_checked": record["installations_last_checked"],
        "rotated_at_ns": record["rotated_at_ns"],
        "welcome_id": record.get("welcome_id"),
        "paused_for_version": record.get("paused_for_version"),
        "attributes": {key: value for key, value in attributes.items() if key not in NAMED_ATTRIBUTES},
    }
    return Conversation(**(values | changes))


def restored(record: Record, **changes: Any) -> Conversation:
    """The Conversation that a store lists after importing a group's record."""
    return conversation(record, **({"membership_state": MembershipState.RESTORED, "is_active": False} | changes))


def message(record: Record, **changes: Any) -> Message:
    """The Message for a message's record."""
    values: Record = {
        "id": record["id"],
        "conversation_id": record["group_id"],
        "sent_at_ns": record["sent_at_ns"],
        "kind": number_of(record["kind"]),
        "sender_inbox_id": record["sender_inbox_id"],
        "sender_installation_id": record["sender_installation_id"],
        "delivery_status": number_of(record["delivery_status"]),
        "content_type": record["content_type"] or SAVED_CONTENT_TYPES.get(number_of(record["content_type_save"]), ""),
        "content": bytes.fromhex(record["decrypted_message_bytes"]),
        "reference_id": record.get("reference_id"),
        "sequence_id": record.get("sequence_id"),
        "originator_id": record.get("originator_id"),
        "authority_id": record["authority_id"],
        "version_major": record["version_major"],
        "version_minor": record["version_minor"],
        "content_type_save": number_of(record["content_type_save"]),
    }
    return Message(**(values | changes))


def consent(record: Record, **changes: Any) -> Consent:
    """The Consent for a consent's record."""
    values: Record = {
        "entity_type": number_of(record["entity_type"]),
        "state": number_of(record["state"]),
        "entity": record["entity"],
        "consented_at_ns": record["consented_at_ns"],
    }
    return Consent(**(values | changes))


def metadata(record: Record) -> ArchiveMetadata:
    """The ArchiveMetadata for a metadata record."""
    known = {element.value: element for element in ArchiveElement}
    return ArchiveMetadata(
        backup_version=0,
        elements=tuple(known.get(number, number) for number in record["elements"]),
        exported_at_ns=record["exported_at_ns"],
        start_ns=record.get("start_ns"),
        end_ns=record.get("end_ns"),
    )


def public(element: Element) -> Conversation | Message | Consent:
    """The public record for any element that has one."""
    kind, record = element
    if kind == "group":
        return conversation(record)
    return message(record) if kind == "group_message" else consent(record)


def listing(history: History) -> dict[str, Any]:
    """Everything that a store lists, for comparing one store with another or with itself later."""
    conversations = {entry.id: entry for entry in history.conversations()}
    return {
        "counts": history.counts(),
        "conversations": conversations,
        "messages": {
            entry.id: entry for conversation_id in conversations for entry in history.messages(conversation_id)
        },
        "consents": {(entry.entity_type, entry.entity): entry for entry in history.consents()},
    }
