"""Keys that sign identity updates, and the text that they sign (identity specification, sections 1.3 and 1.4).

Written from the specification alone. Fast and not at all safe: every wallet signs with the same secret number.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Final, Protocol

from Crypto.Hash import SHA512, keccak
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from xmtp_history._proto import association_pb2 as assoc

#: The order of secp256k1, and of P-256.
_WALLET_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_PASSKEY_ORDER: Final = 0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551
#: The secret number of every signature of a wallet, and the point that belongs to it.
_NUMBER: Final = 0x1234567890ABCDEF
_POINT: Final = ec.derive_private_key(_NUMBER, ec.SECP256K1()).public_key().public_numbers()
_CONTEXT: Final = b"IDENTITY UPDATE SIGNATURE"
_PERSONAL: Final = b"\x19Ethereum Signed Message:\n"


class Signer(Protocol):
    """Who can sign a text."""

    def sign(self, text: str) -> assoc.Signature:
        """The signature, as it stands in an update."""


class Wallet:
    """An Ethereum account."""

    def __init__(self, seed: bytes) -> None:
        self._secret = int.from_bytes(seed, "big") % (_WALLET_ORDER - 1) + 1
        public = ec.derive_private_key(self._secret, ec.SECP256K1()).public_key()
        self.point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.address = "0x" + _keccak(self.point[1:])[-20:].hex()

    def sign_raw(self, text: str) -> bytes:
        """r, s and v of a personal message (EIP-191), with s in its low half."""
        message = text.encode()
        hashed = int.from_bytes(_keccak(_PERSONAL + b"%d" % len(message) + message), "big")
        s = pow(_NUMBER, -1, _WALLET_ORDER) * (hashed + _POINT.x * self._secret) % _WALLET_ORDER
        odd = _POINT.y & 1
        if s > _WALLET_ORDER // 2:
            s, odd = _WALLET_ORDER - s, odd ^ 1
        return _POINT.x.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([27 + odd])

    def sign(self, text: str) -> assoc.Signature:
        """The signature, as it stands in an update."""
        return assoc.Signature(erc_191=assoc.RecoverableEcdsaSignature(bytes=self.sign_raw(text)))


class Installation:
    """The key of an installation."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        # The library that signs in a context takes ten times as long for this.
        self.id = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()

    def sign(self, text: str) -> assoc.Signature:
        """Ed25519ph (RFC 8032) in the context of identity updates."""
        signer = eddsa.new(ECC.construct(curve="Ed25519", seed=self._seed), "rfc8032", context=_CONTEXT)
        raw = signer.sign(SHA512.new(text.encode()))
        return assoc.Signature(installation_key=assoc.RecoverableEd25519Signature(bytes=raw, public_key=self.id))


class Passkey:
    """A passkey."""

    def __init__(self, seed: bytes) -> None:
        self._secret = ec.derive_private_key(int.from_bytes(seed, "big") % (_PASSKEY_ORDER - 1) + 1, ec.SECP256R1())
        self.key = self._secret.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, text: str) -> assoc.Signature:
        """An assertion (Web Authentication) whose challenge is the text."""
        challenge = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
        client_data = json.dumps({"type": "webauthn.get", "challenge": challenge, "origin": "https://example.org"})
        data = b"authenticator data"
        signed = data + hashlib.sha256(client_data.encode()).digest()
        assertion = assoc.RecoverablePasskeySignature(
            public_key=self.key,
            signature=self._secret.sign(signed, ec.ECDSA(hashes.SHA256())),
            authenticator_data=data,
            client_data_json=client_data.encode(),
        )
        return assoc.Signature(passkey=assertion)


class LegacyKey:
    """A key that a wallet approved in XMTP V2, and that signs in its place."""

    def __init__(self, seed: bytes, wallet: Wallet) -> None:
        self._key = Wallet(seed)
        point = _field(3, _field(1, self._key.point))
        approval = f"XMTP : Create Identity\n{point.hex()}\n\nFor more info: https://xmtp.org/signatures/"
        *compact, v = wallet.sign_raw(approval)
        recovery = b"\x10" + bytes([v - 27])
        self._approved = _field(1, point) + _field(2, _field(2, _field(1, bytes(compact)) + recovery))

    def sign(self, text: str) -> assoc.Signature:
        """The key's signature, with the wallet's approval of the key."""
        own = assoc.RecoverableEcdsaSignature(bytes=self._key.sign_raw(text))
        legacy = assoc.LegacyDelegatedSignature(delegated_key=self._approved, signature=own)
        return assoc.Signature(delegated_erc_191=legacy)


def text_of(update: assoc.IdentityUpdate) -> str:
    """The text that all signers of an update sign."""
    time = datetime.fromtimestamp(update.client_timestamp_ns // 10**9, UTC)
    return "\n".join(
        [
            "XMTP : Authenticate to inbox",
            "",
            f"Inbox ID: {update.inbox_id}",
            f"Current time: {time:%Y-%m-%dT%H:%M:%SZ}",
            "",
            *map(_text_of_action, update.actions),
            "",
            "For more info: https://xmtp.org/signatures",
        ]
    )


_TITLES: Final = {
    ("add", "ID"): "Grant messaging access to app",
    ("add", "Address"): "Link address to inbox",
    ("add", "Passkey"): "Link passkey to inbox",
    ("revoke", "ID"): "Revoke messaging access from app",
    ("revoke", "Address"): "Unlink address from inbox",
    ("revoke", "Passkey"): "Unlink passkey from inbox",
}


def _text_of_action(action: assoc.IdentityAction) -> str:
    name = action.WhichOneof("kind")
    if name == "create_inbox":
        return f"- Create inbox\n  (Owner: {action.create_inbox.initial_identifier})"
    if name == "change_recovery_address":
        recovery = action.change_recovery_address.new_recovery_identifier
        return f"- Change inbox recovery address\n  (Address: {recovery})"
    member = action.add.new_member_identifier if name == "add" else action.revoke.member_to_revoke
    label, text = {
        "ethereum_address": ("Address", member.ethereum_address),
        "installation_public_key": ("ID", member.installation_public_key.hex()),
        "passkey": ("Passkey", member.passkey.key.hex()),
        None: ("ID", ""),
    }[member.WhichOneof("kind")]
    return f"- {_TITLES['add' if name == 'add' else 'revoke', label]}\n  ({label}: {text})"


def _keccak(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes; a length has up to 14 bits."""
    size = bytes([len(data)]) if len(data) < 1 << 7 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data
