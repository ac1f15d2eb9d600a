"""Short ways to write elements for a test: only what matters to it is named."""

from __future__ import annotations

from typing import Any, Final

from independent.elements import Element
from independent.protobuf import field_bytes
from independent.schema import ENCODED_CONTENT

#: A key for archives whose key does not matter.
KEY: Final = bytes(range(32))
STORE_KEY: Final = bytes(range(100, 132))

#: Two inboxes, in sorted order.
ALICE: Final = "a1" * 32
BOB: Final = "b0" * 32

#: A time in 2023, in nanoseconds.
T0: Final = 1_700_000_000_000_000_000


def group_id(number: int) -> str:
    """The id of the test's conversation of that number."""
    return f"{number:032x}"


def message_id(number: int) -> str:
    """The id of the test's message of that number. They differ in their first bytes, as hashes do."""
    return f"{number:016x}" + 48 * "e"


def number_of_id(hex_id: str) -> int:
    """The number of a conversation or message of the test's."""
    return int(hex_id.removesuffix(48 * "e"), 16)


def text_content(text: str) -> bytes:
    """An EncodedContent of type ``xmtp.org/text:1.0``."""
    return encoded("text", text.encode(), parameters={"encoding": "UTF-8"})


def encoded(type_id: str, content: bytes, *, authority: str = "xmtp.org", **more: Any) -> bytes:
    """An EncodedContent of any type, version 1.0."""
    kind = {"authority_id": authority, "type_id": type_id, "version_major": 1, "version_minor": 0}
    return ENCODED_CONTENT.encode({"type": kind, "content": content, **more})


def metadata(*elements: int, exported_at_ns: int = T0, **more: Any) -> Element:
    """The first element."""
    return "metadata", {"elements": list(elements or (1, 2)), "exported_at_ns": exported_at_ns, **more}


def group(number: int = 1, **changes: Any) -> Element:
    """A group's record. ``attributes``, ``admins`` and ``super_admins`` go into its mutable metadata."""
    mutable = {
        "attributes": changes.pop("attributes", {"group_name": f"group {number}"}),
        "admin_list": changes.pop("admins", []),
        "super_admin_list": changes.pop("super_admins", [ALICE]),
    }
    record = {
        "id": group_id(number),
        "created_at_ns": T0 + number,
        "membership_state": 1,
        "installations_last_checked": 0,
        "added_by_inbox_id": ALICE,
        "rotated_at_ns": 0,
        "conversation_type": 1,
        "metadata": {"creator_inbox_id": ALICE},
        "mutable_metadata": mutable,
    }
    return "group", _changed(record, changes)


def dm(number: int = 1, *, first: str = ALICE, second: str = BOB, **changes: Any) -> Element:
    """A DM's record."""
    low, high = sorted((first, second))
    return group(number, **{"conversation_type": 2, "dm_id": f"dm:{low}:{high}", "attributes": {}, **changes})


def message(number: int, of: int = 1, *, content: bytes | None = None, **changes: Any) -> Element:
    """A published text message in a conversation."""
    record = {
        "id": message_id(number),
        "group_id": group_id(of),
        "decrypted_message_bytes": (text_content(f"message {number}") if content is None else content).hex(),
        "sent_at_ns": T0 + 1000 + number,
        "kind": 1,
        "sender_installation_id": "17" * 32,
        "sender_inbox_id": ALICE,
        "delivery_status": 2,
        "content_type_save": 0,
        "version_major": 1,
        "version_minor": 0,
        "authority_id": "xmtp.org",
        "sequence_id": number,
        "originator_id": 10,
        "content_type": "text",
    }
    return "group_message", _changed(record, changes)


def delete_message(number: int, target: int, of: int = 1, **changes: Any) -> Element:
    """A message that asks for another one to be deleted for everybody."""
    content = encoded("deleteMessage", field_bytes(1, message_id(target).encode()))
    reference = {"reference_id": message_id(target)}
    return message(number, of, content=content, **({"content_type": "deleteMessage"} | reference | changes))


def consent(entity: str, state: int = 2, *, entity_type: int = 1, at: int = T0) -> Element:
    """A consent record."""
    return "consent", {"entity_type": entity_type, "state": state, "entity": entity, "consented_at_ns": at}


def small() -> list[Element]:
    """One of everything: a group with two messages, a DM with one, a consent for each."""
    return [
        metadata(),
        group(1),
        dm(2),
        message(1),
        message(2),
        message(3, 2),
        consent(group_id(1)),
        consent(BOB, 3, entity_type=2),
    ]


def _changed(record: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Applies changes; a change to None takes the field away."""
    record = record | changes
    return {key: value for key, value in record.items() if value is not None}
