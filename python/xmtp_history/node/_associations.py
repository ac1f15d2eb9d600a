"""What can be said of an identity update without verifying signatures (node specification, section 8, "always").

Signatures themselves are checked by every client that reads the log.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from xmtp_history._proto.association_pb2 import (
    IDENTIFIER_KIND_ETHEREUM,
    IDENTIFIER_KIND_PASSKEY,
    AddAssociation,
    ChangeRecoveryAddress,
    CreateInbox,
    IdentityAction,
    IdentityUpdate,
    MemberIdentifier,
    RevokeAssociation,
    Signature,
)
from xmtp_history.node._payloads import is_inbox_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: An address or passkey as the node knows it: its kind, and lower-case text.
Identifier = tuple[int, str]

MAX_UPDATES: Final = 256

_ADDRESS: Final = re.compile("0x[0-9a-f]{40}", re.ASCII)
_HEX: Final = re.compile("(?:[0-9a-f]{2})+", re.ASCII)
_ECDSA_BYTES, _ED25519_BYTES, _KEY_BYTES = 65, 64, 32


class InvalidUpdate(ValueError):
    """The update breaks a rule. The message says which."""


def identifier(kind: int, text: str) -> Identifier:
    """An identifier in the form in which it is stored and looked up; kind 0 is Ethereum."""
    return (kind or IDENTIFIER_KIND_ETHEREUM, text.lower())


def check_form(update: IdentityUpdate) -> None:
    """Checks what needs no log: that every part is there and has its form.

    Raises:
        InvalidUpdate: something is missing or malformed.
    """
    if not is_inbox_id(update.inbox_id):
        raise InvalidUpdate("an inbox id has 64 hexadecimal characters")
    if not update.actions:
        raise InvalidUpdate("an update has at least one action")
    for action in update.actions:
        body = _body(action)
        for member in _identifiers(body):
            _check_identifier(*member)
        for signature in _signatures(body):
            _check_signature(signature)


def check_against_log(update: IdentityUpdate, log: Sequence[IdentityUpdate]) -> None:
    """Checks an update against those that the inbox has already.

    Raises:
        InvalidUpdate: it cannot follow them.
    """
    creations = [position for position, action in enumerate(update.actions) if action.HasField("create_inbox")]
    if log:
        if creations:
            raise InvalidUpdate("the inbox was created before")
    elif creations != [0]:
        raise InvalidUpdate("the first update of an inbox creates it, once and first")
    else:
        created = update.actions[0].create_inbox
        preimage = f"{created.initial_identifier.lower()}{created.nonce}"
        if hashlib.sha256(preimage.encode()).hexdigest() != update.inbox_id.lower():
            raise InvalidUpdate("the inbox id does not follow from the identifier and the nonce")
    seen = {signature for earlier in log for signature in _signature_bytes(earlier)}
    if not seen.isdisjoint(_signature_bytes(update)):
        raise InvalidUpdate("a signature of an earlier update is used again")


def identifiers_after(update: IdentityUpdate, before: Iterable[Identifier]) -> set[Identifier]:
    """The addresses and passkeys of an inbox after an update."""
    members = set(before)
    for action in update.actions:
        if action.HasField("create_inbox"):
            created = action.create_inbox
            members.add(identifier(created.initial_identifier_kind, created.initial_identifier))
        elif action.HasField("add"):
            members |= set(_findable(action.add.new_member_identifier))
        elif action.HasField("revoke"):
            members -= set(_findable(action.revoke.member_to_revoke))
    return members


_Body = CreateInbox | AddAssociation | RevokeAssociation | ChangeRecoveryAddress


def _body(action: IdentityAction) -> _Body:
    name = action.WhichOneof("kind")
    if name is None:
        raise InvalidUpdate("an action is of no known kind")
    body: _Body = getattr(action, name)
    return body


def _identifiers(body: _Body) -> Iterator[tuple[int, str]]:
    """Kind and text of the address or passkey that an action is about; an installation is only checked."""
    if isinstance(body, CreateInbox):
        yield body.initial_identifier_kind, body.initial_identifier
    elif isinstance(body, ChangeRecoveryAddress):
        yield body.new_recovery_identifier_kind, body.new_recovery_identifier
    else:
        member = body.new_member_identifier if isinstance(body, AddAssociation) else body.member_to_revoke
        name = member.WhichOneof("kind")
        if name is None:
            raise InvalidUpdate("a member is of no known kind")
        if name == "installation_public_key":
            if len(member.installation_public_key) != _KEY_BYTES:
                raise InvalidUpdate(f"an installation key has {_KEY_BYTES} bytes")
        elif name == "passkey":
            yield IDENTIFIER_KIND_PASSKEY, member.passkey.key.hex()
        else:
            yield IDENTIFIER_KIND_ETHEREUM, member.ethereum_address


def _check_identifier(kind: int, text: str) -> None:
    kind, text = identifier(kind, text)
    if kind == IDENTIFIER_KIND_ETHEREUM:
        if not _ADDRESS.fullmatch(text):
            raise InvalidUpdate("an Ethereum address is 0x and 40 hexadecimal characters")
    elif kind == IDENTIFIER_KIND_PASSKEY:
        if not _HEX.fullmatch(text):
            raise InvalidUpdate("a passkey is written in hexadecimal characters")
    else:
        raise InvalidUpdate(f"{kind} is not a kind of identifier")


def _signatures(body: _Body) -> Sequence[Signature]:
    """The signatures that an action has to carry."""
    if isinstance(body, CreateInbox):
        return (body.initial_identifier_signature,)
    if isinstance(body, AddAssociation):
        return (body.existing_member_signature, body.new_member_signature)
    if isinstance(body, RevokeAssociation):
        return (body.recovery_identifier_signature,)
    return (body.existing_recovery_identifier_signature,)


def _check_signature(signature: Signature) -> None:
    name = signature.WhichOneof("signature")
    if name is None:
        raise InvalidUpdate("a signature is missing")
    size = len(_raw(signature))
    if name in {"erc_191", "delegated_erc_191"}:
        well_formed = size == _ECDSA_BYTES
    elif name == "installation_key":
        well_formed = size == _ED25519_BYTES and len(signature.installation_key.public_key) == _KEY_BYTES
    else:
        well_formed = size > 0
    if not well_formed:
        raise InvalidUpdate("a signature has the wrong length")


def _raw(signature: Signature) -> bytes:
    """The bytes by which a signature is recognised when it is used again."""
    name = signature.WhichOneof("signature")
    if name == "erc_191":
        return signature.erc_191.bytes
    if name == "erc_6492":
        return signature.erc_6492.signature
    if name == "installation_key":
        return signature.installation_key.bytes
    if name == "delegated_erc_191":
        return signature.delegated_erc_191.signature.bytes
    return signature.passkey.signature


def _signature_bytes(update: IdentityUpdate) -> Iterator[bytes]:
    for action in update.actions:
        yield from map(_raw, _signatures(_body(action)))


def _findable(member: MemberIdentifier) -> Iterator[Identifier]:
    """A member that an inbox can be looked up by: anything but an installation."""
    if member.HasField("ethereum_address"):
        yield identifier(IDENTIFIER_KIND_ETHEREUM, member.ethereum_address)
    elif member.HasField("passkey"):
        yield identifier(IDENTIFIER_KIND_PASSKEY, member.passkey.key.hex())
