"""What the log's entries are filed under: a kind, and an id within it (XIP-49)."""

from __future__ import annotations

from typing import Final

GROUP_MESSAGES: Final = b"\0"
WELCOME_MESSAGES: Final = b"\1"
IDENTITY_UPDATES: Final = b"\2"
#: Not a topic that XMTP names: its entries are read by group only.
COMMIT_LOG: Final = b"\xff"


def group(group_id: bytes) -> bytes:
    """The topic of a group's messages."""
    return GROUP_MESSAGES + group_id


def welcome(installation_key: bytes) -> bytes:
    """The topic of an installation's welcomes."""
    return WELCOME_MESSAGES + installation_key


def identity(inbox_id: str) -> bytes:
    """The topic of an inbox's updates."""
    return IDENTITY_UPDATES + bytes.fromhex(inbox_id)


def commit_log(group_id: bytes) -> bytes:
    """The topic of what is reported about a group's commits."""
    return COMMIT_LOG + group_id
