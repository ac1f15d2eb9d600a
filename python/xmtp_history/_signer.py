"""Who signs for an inbox: the protocol that wallets fulfil, one for plain keys, and what is made of either.

An installation is registered with one signature of a wallet (identity specification, sections 1.2 to 1.4). Wallets come from
other packages, XMTP's Python SDK among them, so what is needed of them is little, and found out by looking.
"""

from __future__ import annotations

import inspect
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})+)", re.ASCII)
_ETHEREUM: Final = "ethereum"
_EOA: Final = "EOA"
_SCW: Final = "SCW"
_KEY_BYTES: Final = 32
#: r, s and v of an account with a key.
_SIGNATURE_BYTES: Final = 65
#: Signatures of smart contract wallets are whatever the contract makes of them.
_MAX_CONTRACT_SIGNATURE_BYTES: Final = 1 << 16
_MAX_NUMBER: Final = 2**63 - 1


@runtime_checkable
class Signer(Protocol):
    """What a wallet has to offer: who it is, and its signature of a text. Both may be plain functions or coroutines.

    Signers of the PyPI package ``xmtp`` fulfil it. Two more things are looked at where they exist: ``type``, which is
    ``"SCW"`` for a smart contract wallet (a string, or an enumeration with such a value), and with it the functions
    ``get_chain_id()`` and, optionally, ``get_block_number()``.
    """

    def get_identifier(self) -> Any:
        """The address, ``0x`` and 40 hexadecimal digits: as a string, or as an object with a ``value`` and a ``kind``."""

    def sign_message(self, message: Any, /) -> Any:
        """The wallet's personal signature (EIP-191) of a text: 65 bytes, or as many as hexadecimal digits.

        Who annotates the parameter as ``bytes``, or has a ``type``, gets the text in UTF-8; others get a string.
        """


@dataclass(frozen=True, slots=True)
class Identifier:
    """Who a wallet is.

    Attributes:
        kind: ``"ethereum"``.
        value: the address.
    """

    kind: str
    value: str


class EoaSigner:
    """The signer of an Ethereum account whose key is at hand. Needs ``xmtp-history[eth]``.

    The key is in memory as long as the object, and appears nowhere else: it is not printed, pickled or copied.
    """

    type = _EOA

    def __init__(self, account: Any) -> None:
        self._account = account

    @classmethod
    def from_key(cls, key: str | bytes) -> EoaSigner:
        """The signer of a private key: 32 bytes, or 64 hexadecimal digits with or without ``0x``.

        Raises:
            ImportError: the extra is not installed.
            TypeError, ValueError: it is no key. The message does not repeat it.
        """
        raw = _key_bytes(key)
        account_class = _eth_account().Account
        try:
            account = account_class.from_key(raw)
        except Exception:  # noqa: BLE001 - whatever it is, it may have the key in it
            account = None
        if account is None:
            # Here the other exception is over, and nothing leads to it.
            raise ValueError("the private key is not one of Ethereum's curve")
        return cls(account)

    @classmethod
    def create(cls) -> EoaSigner:
        """The signer of a new random account, which is gone with the object: for tests.

        Raises:
            ImportError: the extra is not installed.
        """
        return cls.from_key(secrets.token_bytes(_KEY_BYTES))

    @property
    def address(self) -> str:
        """The account's address, lower case."""
        address: str = self._account.address
        return address.lower()

    async def get_address(self) -> str:
        """The account's address, lower case."""
        return self.address

    async def get_identifier(self) -> Identifier:
        """The account's address as an identifier."""
        return Identifier(_ETHEREUM, self.address)

    async def sign_message(self, message: str | bytes) -> bytes:
        """The personal signature (EIP-191) of a text, 65 bytes; bytes are the text in UTF-8."""
        raw = message.encode() if isinstance(message, str) else bytes(message)
        signable = _eth_account().messages.encode_defunct(primitive=raw)
        return bytes(self._account.sign_message(signable).signature)

    def __repr__(self) -> str:
        return f"<EoaSigner {self.address}>"

    def __reduce__(self) -> str:
        raise TypeError("a signer is not pickled or copied: its key would be")


class Wallet:
    """A signer as this package uses it.

    Attributes:
        address: its address, lower case.
        chain_id: the chain of a smart contract wallet; None for an account with a key.
        block_number: the block at which a smart contract wallet's signatures are to be checked, or None.
    """

    def __init__(self, signer: Signer, address: str, chain_id: int | None, block_number: int | None) -> None:
        self._signer = signer
        self.address = address
        self.chain_id = chain_id
        self.block_number = block_number

    @classmethod
    async def of(cls, signer: Signer) -> Wallet:
        """Asks a signer who it is.

        Raises:
            TypeError: it is no signer, or answers with something else than an identifier.
            ValueError: it is not identified by an Ethereum address.
            Exception: whatever the signer raises.
        """
        if isinstance(signer, type) or not isinstance(signer, Signer):
            raise TypeError("a signer has get_identifier() and sign_message()")
        address = _address(await _result(signer.get_identifier))
        chain_id = block_number = None
        if _name(getattr(signer, "type", None)).upper() == _SCW:
            get_chain_id = getattr(signer, "get_chain_id", None)
            if get_chain_id is None:
                raise TypeError("the signer of a smart contract wallet has get_chain_id()")
            chain_id = _number(await _result(get_chain_id), "get_chain_id()")
            get_block_number = getattr(signer, "get_block_number", None)
            if get_block_number is not None and (block := await _result(get_block_number)) is not None:
                block_number = _number(block, "get_block_number()")
        return cls(signer, address, chain_id, block_number)

    async def sign(self, text: str) -> bytes:
        """The wallet's signature of a text: 65 bytes of an account with a key, any number of a smart contract wallet.

        Raises:
            TypeError: the signer returns something else than bytes or hexadecimal digits.
            ValueError: it returns too few or too many of them.
            Exception: whatever the signer raises.
        """
        sign = self._signer.sign_message
        message = text.encode() if _wants_bytes(self._signer) else text
        signature = _signature_bytes(await _result(sign, message))
        if self.chain_id is None:
            if len(signature) != _SIGNATURE_BYTES:
                raise ValueError(f"sign_message(): a signature has 65 bytes, not {len(signature)}")
        elif not 1 <= len(signature) <= _MAX_CONTRACT_SIGNATURE_BYTES:
            raise ValueError("sign_message(): the signature is empty, or longer than 64 KiB")
        return signature

    def __repr__(self) -> str:
        return f"<Wallet {self.address}>"


async def _result(function: Callable[..., Any], *arguments: object) -> Any:
    """What a function returns, or what it returns awaits."""
    returned: Awaitable[Any] | Any = function(*arguments)
    return await returned if inspect.isawaitable(returned) else returned


def _wants_bytes(signer: Signer) -> bool:
    try:
        parameters = list(inspect.signature(signer.sign_message).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    annotation = parameters[0].annotation if parameters else inspect.Parameter.empty
    if annotation is inspect.Parameter.empty:
        # Those of the SDK, on which the type is required, take bytes.
        return hasattr(signer, "type")
    return "str" not in (name := getattr(annotation, "__name__", str(annotation))) and "bytes" in name


def _address(identifier: object) -> str:
    """The address in an identifier, lower case."""
    value = identifier
    if not isinstance(value, str):
        # XMTP's SDKs call it either way.
        kind = getattr(identifier, "kind", getattr(identifier, "identifier_kind", None))
        value = getattr(identifier, "value", getattr(identifier, "identifier", None))
        if not isinstance(value, str):
            raise TypeError("get_identifier(): an address is needed, or an object with a value and a kind")
        if kind is not None and _name(kind).lower() != _ETHEREUM:
            raise ValueError("get_identifier(): only Ethereum addresses can sign here, no passkeys")
    if not _ADDRESS.fullmatch(value):
        raise ValueError("get_identifier(): an address is 0x and 40 hexadecimal digits")
    return value.lower()


def _name(value: object) -> str:
    """What an enumeration's member, or a string, says."""
    if isinstance(value, str):
        # Also the members of enumerations that are strings.
        return str.__str__(value)
    return str(getattr(value, "name", value))


def _number(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what}: a number is needed")
    if not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{what}: the number is out of range")
    return value


def _signature_bytes(returned: object) -> bytes:
    # Objects of eth-account have the signature in them.
    signature = getattr(returned, "signature", returned)
    if isinstance(signature, (bytes, bytearray, memoryview)):
        return bytes(signature)
    if not isinstance(signature, str):
        raise TypeError("sign_message(): bytes are needed, or hexadecimal digits")
    digits = _HEX.fullmatch(signature)
    if digits is None:
        raise ValueError("sign_message(): the string is not one of hexadecimal digits")
    return bytes.fromhex(digits[1])


def _key_bytes(key: str | bytes) -> bytes:
    if isinstance(key, str):
        digits = _HEX.fullmatch(key.strip())
        raw = b"" if digits is None else bytes.fromhex(digits[1])
    elif isinstance(key, (bytes, bytearray, memoryview)):
        raw = bytes(key)
    else:
        raise TypeError("a private key is bytes, or a string of hexadecimal digits")
    if len(raw) != _KEY_BYTES:
        raise ValueError("a private key is 32 bytes, or 64 hexadecimal digits")
    return raw


def _eth_account() -> Any:
    """The library for accounts with a key; it takes seconds to load."""
    try:
        import eth_account.messages
    except ImportError:
        raise ImportError("accounts with a key need eth-account: pip install 'xmtp-history[eth]'") from None
    return eth_account


EoaSigner.__module__ = Signer.__module__ = "xmtp_history"
