"""What a node reads in MLS bytes: whose key package, which group, whether a commit (node specification, section 5).

Nothing is verified here, and nothing beyond the framing is looked at. All bytes come from strangers.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from xmtp_history._proto.credential_pb2 import MlsCredential

_MLS_10: Final = 1
_SUITE: Final = 3  # MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_BASIC_CREDENTIAL: Final = 1
_FROM_KEY_PACKAGE: Final = 1
_PUBLIC, _PRIVATE = 1, 2
_COMMIT: Final = 3
_CONTENT_TYPES: Final = range(1, 4)
#: Members and external senders are followed by their number, new members and external joiners are not.
_SENDER_BYTES: Final = {1: 4, 2: 4, 3: 0, 4: 0}
MAX_GROUP_ID_BYTES: Final = 255

_INBOX_ID: Final = re.compile("[0-9a-f]{64}", re.IGNORECASE | re.ASCII)


class MalformedPayload(ValueError):
    """The bytes are not what they should be. The message says where, not what they are."""


class GroupMessageHeader(NamedTuple):
    """The part of an ``MLSMessage`` that is not encrypted."""

    group_id: bytes
    epoch: int
    is_commit: bool


def is_inbox_id(text: str) -> bool:
    """Whether a text has the form of an inbox id: 64 hexadecimal characters."""
    return _INBOX_ID.fullmatch(text) is not None


def group_message_header(data: bytes) -> GroupMessageHeader:
    """Reads the header of an ``MLSMessage`` (RFC 9420, section 6) that carries a private or a public message.

    A private message is read to its end. Of a public one, what follows the content type depends on it, and is left.

    Raises:
        MalformedPayload: it is truncated, too long, or something else.
    """
    reader = _Reader(data, "group message")
    reader.expect(reader.uint(2), _MLS_10, "version")
    wire_format = reader.uint(2)
    if wire_format not in {_PUBLIC, _PRIVATE}:
        raise MalformedPayload(f"group message: wire format {wire_format} is neither public nor private")
    group_id = reader.vector()
    if not 1 <= len(group_id) <= MAX_GROUP_ID_BYTES:
        raise MalformedPayload(f"group message: a group id has 1 to {MAX_GROUP_ID_BYTES} bytes, not {len(group_id)}")
    epoch = reader.uint(8)
    if wire_format == _PUBLIC:
        sender = reader.uint(1)
        if sender not in _SENDER_BYTES:
            raise MalformedPayload(f"group message: {sender} is not a kind of sender")
        reader.take(_SENDER_BYTES[sender])
        reader.vector()  # authenticated data
    content_type = reader.uint(1)
    if content_type not in _CONTENT_TYPES:
        raise MalformedPayload(f"group message: {content_type} is not a content type")
    if wire_format == _PRIVATE:
        for _ in ("authenticated data", "sender data", "ciphertext"):
            reader.vector()
        reader.end()
    return GroupMessageHeader(group_id, epoch, content_type == _COMMIT)


def installation_key(key_package: bytes) -> bytes:
    """The installation that a ``KeyPackage`` (RFC 9420, section 10) belongs to: its signature key, 32 bytes.

    The whole package has to parse; its signatures and lifetime are not checked.

    Raises:
        MalformedPayload: it is truncated, too long, or not one of an XMTP installation.
    """
    reader = _Reader(key_package, "key package")
    reader.expect(reader.uint(2), _MLS_10, "version")
    reader.expect(reader.uint(2), _SUITE, "cipher suite")
    reader.key("init key")
    reader.key("encryption key")
    signature_key = reader.key("signature key")
    reader.expect(reader.uint(2), _BASIC_CREDENTIAL, "credential type")
    _check_credential(reader.vector())
    for _ in ("versions", "cipher suites", "extensions", "proposals", "credentials"):
        if len(reader.vector()) % 2:
            raise MalformedPayload("key package: a list of capabilities ends in the middle of an entry")
    reader.expect(reader.uint(1), _FROM_KEY_PACKAGE, "leaf node source")
    reader.take(16)  # lifetime
    reader.extensions()
    reader.signature()
    reader.extensions()
    reader.signature()
    reader.end()
    return signature_key


def _check_credential(identity: bytes) -> None:
    try:
        inbox_id = MlsCredential.FromString(identity).inbox_id
    except DecodeError:
        raise MalformedPayload("key package: the credential does not parse") from None
    if not is_inbox_id(inbox_id):
        raise MalformedPayload("key package: the credential does not name an inbox")


class _Reader:
    """A cursor over bytes in the presentation language of TLS (RFC 9420, section 2.1)."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedPayload(f"{self._what}: ends too early, at byte {len(self._data)}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self) -> bytes:
        """A variable-size vector: the top two bits of the first byte say how long the length is."""
        first = self.uint(1)
        more = (0, 1, 3, -1)[first >> 6]
        if more < 0:
            raise MalformedPayload(f"{self._what}: a length cannot begin with byte {first:#x}")
        size = (first & 0x3F) << 8 * more | self.uint(more)
        if more and size < (64 if more == 1 else 1 << 14):
            raise MalformedPayload(f"{self._what}: a length is longer than it need be")
        return self.take(size)

    def key(self, name: str) -> bytes:
        return self._sized(_KEY_BYTES, name)

    def signature(self) -> None:
        self._sized(_SIGNATURE_BYTES, "signature")

    def extensions(self) -> None:
        inner = _Reader(self.vector(), self._what)
        while inner._at < len(inner._data):
            inner.uint(2)
            inner.vector()

    def expect(self, found: int, expected: int, name: str) -> None:
        if found != expected:
            raise MalformedPayload(f"{self._what}: {name} {found} instead of {expected}")

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedPayload(f"{self._what}: goes on after its end, at byte {self._at}")

    def _sized(self, size: int, name: str) -> bytes:
        value = self.vector()
        if len(value) != size:
            raise MalformedPayload(f"{self._what}: {name} of {len(value)} bytes instead of {size}")
        return value
