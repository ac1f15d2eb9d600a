"""The messages inside an archive and the names of their enum numbers (section 2 of the format's description)."""

from __future__ import annotations

from typing import Final

from independent.protobuf import Field, Kind, Label, Schema

BACKUP_METADATA: Final = Schema(
    Field(2, "elements", Kind.ENUM, Label.REPEATED),
    Field(3, "exported_at_ns", Kind.INT64),
    Field(4, "start_ns", Kind.INT64, Label.OPTIONAL),
    Field(5, "end_ns", Kind.INT64, Label.OPTIONAL),
)

GROUP: Final = Schema(
    Field(1, "id", Kind.BYTES),
    Field(2, "created_at_ns", Kind.INT64),
    Field(3, "membership_state", Kind.ENUM),
    Field(4, "installations_last_checked", Kind.INT64),
    Field(5, "added_by_inbox_id", Kind.STRING),
    Field(6, "welcome_id", Kind.INT64, Label.OPTIONAL),
    Field(7, "rotated_at_ns", Kind.INT64),
    Field(8, "conversation_type", Kind.ENUM),
    Field(9, "dm_id", Kind.STRING, Label.OPTIONAL),
    Field(10, "last_message_ns", Kind.INT64, Label.OPTIONAL),
    Field(11, "message_disappear_from_ns", Kind.INT64, Label.OPTIONAL),
    Field(12, "message_disappear_in_ns", Kind.INT64, Label.OPTIONAL),
    Field(13, "metadata", Schema(Field(1, "creator_inbox_id", Kind.STRING)), Label.OPTIONAL),
    Field(
        14,
        "mutable_metadata",
        Schema(
            Field(1, "attributes", Kind.STRING, Label.MAP),
            Field(2, "admin_list", Kind.STRING, Label.REPEATED),
            Field(3, "super_admin_list", Kind.STRING, Label.REPEATED),
        ),
        Label.OPTIONAL,
    ),
    Field(15, "paused_for_version", Kind.STRING, Label.OPTIONAL),
)

GROUP_MESSAGE: Final = Schema(
    Field(1, "id", Kind.BYTES),
    Field(2, "group_id", Kind.BYTES),
    Field(3, "decrypted_message_bytes", Kind.BYTES),
    Field(4, "sent_at_ns", Kind.INT64),
    Field(5, "kind", Kind.ENUM),
    Field(6, "sender_installation_id", Kind.BYTES),
    Field(7, "sender_inbox_id", Kind.STRING),
    Field(8, "delivery_status", Kind.ENUM),
    Field(9, "content_type_save", Kind.ENUM),
    Field(10, "version_major", Kind.INT32),
    Field(11, "version_minor", Kind.INT32),
    Field(12, "authority_id", Kind.STRING),
    Field(13, "reference_id", Kind.BYTES, Label.OPTIONAL),
    Field(14, "sequence_id", Kind.INT64, Label.OPTIONAL),
    Field(15, "originator_id", Kind.INT64, Label.OPTIONAL),
    Field(16, "content_type", Kind.STRING),
)

CONSENT: Final = Schema(
    Field(1, "entity_type", Kind.ENUM),
    Field(2, "state", Kind.ENUM),
    Field(3, "entity", Kind.STRING),
    Field(4, "consented_at_ns", Kind.INT64),
)

EVENT: Final = Schema(
    Field(1, "created_at_ns", Kind.INT64),
    Field(2, "event", Kind.STRING),
    Field(3, "details", Kind.BYTES),
    Field(4, "group_id", Kind.BYTES, Label.OPTIONAL),
    Field(5, "level", Kind.ENUM),
    Field(6, "icon", Kind.STRING, Label.OPTIONAL),
)

#: The names of the oneof's members are the kinds of elements.
BACKUP_ELEMENT: Final = Schema(
    Field(1, "metadata", BACKUP_METADATA, Label.OPTIONAL),
    Field(2, "group", GROUP, Label.OPTIONAL),
    Field(3, "group_message", GROUP_MESSAGE, Label.OPTIONAL),
    Field(4, "consent", CONSENT, Label.OPTIONAL),
    Field(5, "event", EVENT, Label.OPTIONAL),
    oneof=True,
)

ENCODED_CONTENT: Final = Schema(
    Field(
        1,
        "type",
        Schema(
            Field(1, "authority_id", Kind.STRING),
            Field(2, "type_id", Kind.STRING),
            Field(3, "version_major", Kind.UINT32),
            Field(4, "version_minor", Kind.UINT32),
        ),
        Label.OPTIONAL,
    ),
    Field(2, "parameters", Kind.STRING, Label.MAP),
    Field(3, "fallback", Kind.STRING, Label.OPTIONAL),
    Field(4, "content", Kind.BYTES),
    Field(5, "compression", Kind.ENUM, Label.OPTIONAL),
)

#: Enum names by field name and number. A number without a name keeps only its number.
ENUM_NAMES: Final[dict[str, dict[int, str]]] = {
    "membership_state": {
        0: "GROUP_MEMBERSHIP_STATE_SAVE_UNSPECIFIED",
        1: "GROUP_MEMBERSHIP_STATE_SAVE_ALLOWED",
        2: "GROUP_MEMBERSHIP_STATE_SAVE_REJECTED",
        3: "GROUP_MEMBERSHIP_STATE_SAVE_PENDING",
        4: "GROUP_MEMBERSHIP_STATE_SAVE_RESTORED",
        5: "GROUP_MEMBERSHIP_STATE_SAVE_PENDING_REMOVE",
    },
    "conversation_type": {
        0: "CONVERSATION_TYPE_SAVE_UNSPECIFIED",
        1: "CONVERSATION_TYPE_SAVE_GROUP",
        2: "CONVERSATION_TYPE_SAVE_DM",
        3: "CONVERSATION_TYPE_SAVE_SYNC",
    },
    "kind": {
        0: "GROUP_MESSAGE_KIND_SAVE_UNSPECIFIED",
        1: "GROUP_MESSAGE_KIND_SAVE_APPLICATION",
        2: "GROUP_MESSAGE_KIND_SAVE_MEMBERSHIP_CHANGE",
    },
    "delivery_status": {
        0: "DELIVERY_STATUS_SAVE_UNSPECIFIED",
        1: "DELIVERY_STATUS_SAVE_UNPUBLISHED",
        2: "DELIVERY_STATUS_SAVE_PUBLISHED",
        3: "DELIVERY_STATUS_SAVE_FAILED",
    },
    "content_type_save": {
        0: "CONTENT_TYPE_SAVE_UNSPECIFIED",
        1: "CONTENT_TYPE_SAVE_UNKNOWN",
        2: "CONTENT_TYPE_SAVE_TEXT",
        3: "CONTENT_TYPE_SAVE_GROUP_MEMBERSHIP_CHANGE",
        4: "CONTENT_TYPE_SAVE_GROUP_UPDATED",
        5: "CONTENT_TYPE_SAVE_REACTION",
        6: "CONTENT_TYPE_SAVE_READ_RECEIPT",
        7: "CONTENT_TYPE_SAVE_REPLY",
        8: "CONTENT_TYPE_SAVE_ATTACHMENT",
        9: "CONTENT_TYPE_SAVE_REMOTE_ATTACHMENT",
        10: "CONTENT_TYPE_SAVE_TRANSACTION_REFERENCE",
    },
    "entity_type": {
        0: "CONSENT_TYPE_SAVE_UNSPECIFIED",
        1: "CONSENT_TYPE_SAVE_CONVERSATION_ID",
        2: "CONSENT_TYPE_SAVE_INBOX_ID",
        3: "CONSENT_TYPE_SAVE_ADDRESS",
    },
    "state": {
        0: "CONSENT_STATE_SAVE_UNSPECIFIED",
        1: "CONSENT_STATE_SAVE_UNKNOWN",
        2: "CONSENT_STATE_SAVE_ALLOWED",
        3: "CONSENT_STATE_SAVE_DENIED",
    },
}
