"""What arguments have to look like (node specification, sections 2, 3 and 5). No message repeats one."""

from __future__ import annotations

import re
from typing import Final

#: Clients store ids as signed numbers of 64 bits.
MAX_ID: Final = 2**63 - 1
_KEY_BYTES: Final = 32
_MAX_GROUP_ID_BYTES: Final = 255
_INBOX_ID: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def check_group_id(group_id: bytes) -> bytes:
    """A group's id, 1 to 255 bytes.

    Raises:
        TypeError, ValueError: it is not.
    """
    _check_bytes(group_id, "a group id")
    if not 1 <= len(group_id) <= _MAX_GROUP_ID_BYTES:
        raise ValueError("a group id has 1 to 255 bytes")
    return group_id


def check_key(installation_key: bytes) -> bytes:
    """An installation's key, 32 bytes.

    Raises:
        TypeError, ValueError: it is not.
    """
    _check_bytes(installation_key, "an installation key")
    if len(installation_key) != _KEY_BYTES:
        raise ValueError("an installation key has 32 bytes")
    return installation_key


def check_inbox_id(inbox_id: str) -> str:
    """An inbox id, 64 lower-case hexadecimal digits.

    Raises:
        ValueError: it is not.
    """
    if not is_inbox_id(inbox_id):
        raise ValueError("an inbox id is 64 lower-case hexadecimal digits")
    return inbox_id


def is_inbox_id(text: str) -> bool:
    """Whether a text is an inbox id."""
    return _INBOX_ID.fullmatch(text) is not None


def check_cursor(cursor: int) -> int:
    """The id of a message or of a log's entry, or 0 for the beginning.

    Raises:
        ValueError: it is negative, or no id.
    """
    if not 0 <= cursor <= MAX_ID:
        raise ValueError("a cursor is an id, or 0: a number of at most 63 bits")
    return cursor


def _check_bytes(value: object, name: str) -> None:
    # bytearrays change, and cannot be keys of dictionaries.
    if not isinstance(value, bytes):
        raise TypeError(f"{name} is bytes")
