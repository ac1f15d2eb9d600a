"""A second reader and writer of XMTP archives, format 0, for checking the first.

Written from the format's description alone, on ``cryptography``, ``zstandard`` and a protobuf codec of its own. It
shares no code with ``xmtp_history`` and never imports it: where the two agree, they agree because both follow the
format. It values being easy to check over speed and holds whole archives in memory.
"""

from __future__ import annotations

from independent.container import (
    Archive,
    ArchiveFaultError,
    assemble,
    frame,
    nonce_at,
    read,
    seal,
    seal_all,
    with_cure,
    write,
)
from independent.elements import decode_element, encode_element

__all__ = [
    "Archive",
    "ArchiveFaultError",
    "assemble",
    "decode_element",
    "encode_element",
    "frame",
    "nonce_at",
    "read",
    "seal",
    "seal_all",
    "with_cure",
    "write",
]
