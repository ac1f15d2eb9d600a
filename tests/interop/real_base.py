"""What all steps of a real installation stand on: the bindings, and the installation itself."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("RUST_LOG", "off")

from xmtp_bindings import xmtpv3 as x

if TYPE_CHECKING:
    from interop.database import Database


def _copy_at_once(builder: Any, value: bytes) -> None:
    with builder._reserve(len(value)):
        start = ctypes.addressof(builder.rbuf.data.contents) + builder.rbuf.len
        ctypes.memmove(start, bytes(value), len(value))


# The bindings copy arguments byte by byte in Python, a megabyte in a third of a second.
x._UniffiRustBufferBuilder.write = _copy_at_once


class Steps:
    """An open installation."""

    def __init__(self, api: Any, client: Any, private_key: bytes, database: Database) -> None:
        self._api = api
        self._client = client
        self._private_key = private_key
        self._database = database

    def _conversation(self, conversation_id: str) -> Any:
        return self._client.conversation(bytes.fromhex(conversation_id))

    async def _apply(self, request: Any, private_key: bytes) -> None:
        await sign(request, private_key)
        await self._client.apply_signature_request(request)


def identifier(private_key: bytes) -> Any:
    """The address of an account."""
    address = x.ethereum_address_from_pubkey(x.ethereum_generate_public_key(private_key))
    return x.FfiIdentifier(identifier=address.lower(), identifier_kind=x.FfiIdentifierKind.ETHEREUM)


async def sign(request: Any, private_key: bytes) -> None:
    """Signs what is asked for with an account."""
    digest = x.ethereum_hash_personal(await request.signature_text())
    await request.add_ecdsa_signature(x.ethereum_sign_recoverable(digest, private_key, False))
