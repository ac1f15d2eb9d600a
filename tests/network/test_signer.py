"""Who may sign: our own signer, those of the PyPI package ``xmtp``, and whatever else looks like one."""

from __future__ import annotations

import asyncio
import copy
import enum
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from xmtp_history._signer import EoaSigner, Identifier, Signer, Wallet

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
ADDRESS = "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23"
TEXT = "XMTP : Authenticate to inbox\n\nInbox ID: ä"
SIGNATURE = bytes(Account.from_key(KEY).sign_message(encode_defunct(text=TEXT)).signature)


async def signed(signer: Any) -> tuple[str, bytes]:
    wallet = await Wallet.of(signer)
    return wallet.address, await wallet.sign(TEXT)


# --- our own ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [KEY, "0x" + KEY, KEY.upper(), f" 0x{KEY}\n", bytes.fromhex(KEY), bytearray.fromhex(KEY)]
)
def test_a_key(key: Any) -> None:
    signer = EoaSigner.from_key(key)
    assert isinstance(signer, Signer)
    assert signer.address == ADDRESS
    assert asyncio.run(signer.get_identifier()) == Identifier("ethereum", ADDRESS)
    assert asyncio.run(signer.get_address()) == ADDRESS
    assert asyncio.run(signed(signer)) == (ADDRESS, SIGNATURE)
    assert asyncio.run(signer.sign_message(TEXT.encode())) == SIGNATURE


def test_keys_of_its_own() -> None:
    first, second = EoaSigner.create(), EoaSigner.create()
    assert first.address != second.address
    address, signature = asyncio.run(signed(first))
    assert Account.recover_message(encode_defunct(text=TEXT), signature=signature).lower() == address == first.address


@pytest.mark.parametrize(
    "key",
    ["", "0x", KEY[1:], KEY + "00", "g" * 64, "０" * 64, bytes(31), bytes(33), bytes(32), b"\xff" * 32],
)
def test_what_is_no_key(key: Any) -> None:
    with pytest.raises(ValueError, match="private key") as caught:
        EoaSigner.from_key(key)
    error: BaseException | None = caught.value
    assert isinstance(key, bytes) or not key or key not in str(error)
    assert error is not None
    assert error.__context__ is None
    with pytest.raises(TypeError):
        EoaSigner.from_key(int(KEY, 16))  # type: ignore[arg-type]


def test_the_key_stays_where_it_is() -> None:
    signer = EoaSigner.from_key(KEY)
    wallet = asyncio.run(Wallet.of(signer))
    for text in (repr(signer), str(signer), f"{signer}", repr(wallet)):
        assert ADDRESS in text
        assert KEY not in text.lower()
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled or copied") as caught:
            copied(signer)  # type: ignore[operator]
        assert KEY not in str(caught.value)


def test_without_the_extra() -> None:
    code = """
import sys
sys.modules["eth_account"] = None
from xmtp_history._signer import EoaSigner
try:
    EoaSigner.create()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'xmtp-history[eth]'" in run.stdout


def test_eth_account_is_loaded_when_it_is_needed() -> None:
    code = "import sys, xmtp_history._signer; print('eth_account' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# --- as in the PyPI package xmtp --------------------------------------------------------------------------------------


class Kind(str, enum.Enum):  # noqa: UP042 - as it is there
    ETHEREUM = "ethereum"
    PASSKEY = "passkey"


class Type(str, enum.Enum):  # noqa: UP042
    EOA = "EOA"
    SCW = "SCW"


@dataclass(frozen=True, slots=True)
class PyPiIdentifier:
    kind: Kind
    value: str


class PyPiEoaSigner:
    def __init__(self) -> None:
        self._account = Account.from_key(KEY)
        self.type = Type.EOA

    async def get_identifier(self) -> PyPiIdentifier:
        return PyPiIdentifier(kind=Kind.ETHEREUM, value=self._account.address)

    async def sign_message(self, message: bytes) -> Any:
        return self._account.sign_message(encode_defunct(message)).signature

    async def get_chain_id(self) -> int:
        raise ValueError("EOA signer does not support chain_id")

    async def get_block_number(self) -> int | None:
        return None


class PyPiScwSigner:
    def __init__(self, chain_id: Any = 8453, block_number: Any = 7, signature: bytes = b"s" * 300) -> None:
        self.type = Type.SCW
        self.signature, self.chain_id, self.block_number = signature, chain_id, block_number

    async def get_identifier(self) -> PyPiIdentifier:
        return PyPiIdentifier(kind=Kind.ETHEREUM, value=ADDRESS)

    async def sign_message(self, message: bytes) -> bytes:
        assert message == TEXT.encode()
        return self.signature

    async def get_chain_id(self) -> int:
        return self.chain_id

    async def get_block_number(self) -> int | None:
        return self.block_number


def test_a_signer_of_the_sdk() -> None:
    assert asyncio.run(signed(PyPiEoaSigner())) == (ADDRESS, SIGNATURE)
    wallet = asyncio.run(Wallet.of(PyPiEoaSigner()))
    assert (wallet.chain_id, wallet.block_number) == (None, None)


def test_our_signer_in_the_sdk() -> None:
    signer = EoaSigner.from_key(KEY)
    identifier = asyncio.run(signer.get_identifier())
    assert {Kind.ETHEREUM: 1}[identifier.kind] == 1  # type: ignore[index]
    assert signer.type == Type.EOA
    assert signer.type != Type.SCW


def test_smart_contract_wallets() -> None:
    async def main() -> None:
        wallet = await Wallet.of(PyPiScwSigner())
        assert (wallet.address, wallet.chain_id, wallet.block_number) == (ADDRESS, 8453, 7)
        assert await wallet.sign(TEXT) == b"s" * 300
        assert (await Wallet.of(PyPiScwSigner(block_number=None))).block_number is None
        for wrong in (b"", bytes(65_537)):
            with pytest.raises(ValueError, match="signature"):
                await (await Wallet.of(PyPiScwSigner(signature=wrong))).sign(TEXT)
        for values in ((None, 1), ("1", 1), (True, 1), (1, "1")):
            with pytest.raises(TypeError, match="number"):
                await Wallet.of(PyPiScwSigner(*values))
        with pytest.raises(ValueError, match="range"):
            await Wallet.of(PyPiScwSigner(-1))

    asyncio.run(main())


# --- as they come -----------------------------------------------------------------------------------------------------


class Plain:
    """A signer that gives what it is told to."""

    def __init__(self, identifier: Any = ADDRESS, signature: Any = SIGNATURE) -> None:
        self.identifier, self.signature = identifier, signature
        self.asked: list[Any] = []

    def get_identifier(self) -> Any:
        return self.identifier

    def sign_message(self, message):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        self.asked.append(message)
        return self.signature


class Numbered(enum.Enum):
    Ethereum = 0
    Passkey = 1


@dataclass
class SdkIdentifier:
    identifier: str
    identifier_kind: Any


@pytest.mark.parametrize(
    "identifier",
    [
        ADDRESS,
        Account.from_key(KEY).address,
        Identifier("ethereum", ADDRESS),
        Identifier("Ethereum", ADDRESS),
        SdkIdentifier(ADDRESS, Numbered.Ethereum),
        SdkIdentifier(ADDRESS, None),
    ],
)
def test_identifiers(identifier: Any) -> None:
    assert asyncio.run(signed(Plain(identifier))) == (ADDRESS, SIGNATURE)


@pytest.mark.parametrize(
    ("identifier", "error"),
    [
        (None, TypeError),
        (ADDRESS.encode(), TypeError),
        (Identifier("ethereum", None), TypeError),  # type: ignore[arg-type]
        ("", ValueError),
        (ADDRESS[2:], ValueError),
        (ADDRESS + "\n", ValueError),
        (PyPiIdentifier(Kind.PASSKEY, ADDRESS), ValueError),
        (SdkIdentifier(ADDRESS, Numbered.Passkey), ValueError),
    ],
)
def test_identifiers_that_are_none(identifier: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="get_identifier"):
        asyncio.run(Wallet.of(Plain(identifier)))


class Signed:
    signature = SIGNATURE


@pytest.mark.parametrize(
    "signature",
    [
        SIGNATURE,
        bytearray(SIGNATURE),
        memoryview(SIGNATURE),
        SIGNATURE.hex(),
        "0x" + SIGNATURE.hex().upper(),
        Account.from_key(KEY).sign_message(encode_defunct(text=TEXT)),
        Signed(),
    ],
)
def test_signatures(signature: Any) -> None:
    signer = Plain(signature=signature)
    assert asyncio.run(signed(signer)) == (ADDRESS, SIGNATURE)
    # Without a type or an annotation it is a string.
    assert signer.asked == [TEXT]


@pytest.mark.parametrize(
    ("signature", "error"),
    [
        (None, TypeError),
        (65, TypeError),
        ([0] * 65, TypeError),
        (b"", ValueError),
        (SIGNATURE[1:], ValueError),
        (SIGNATURE + b"\0", ValueError),
        (SIGNATURE.hex()[1:], ValueError),
        (SIGNATURE.hex()[2:], ValueError),
        ("not hexadecimal", ValueError),
    ],
)
def test_signatures_that_are_none(signature: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="sign_message"):
        asyncio.run(signed(Plain(signature=signature)))


@pytest.mark.parametrize("signer", [None, "0x" + KEY, object(), EoaSigner, Plain])
def test_what_is_no_signer(signer: Any) -> None:
    with pytest.raises(TypeError, match="signer") as caught:
        asyncio.run(Wallet.of(signer))
    assert KEY not in str(caught.value)


def test_what_a_signer_raises_arrives() -> None:
    class Refusing(Plain):
        async def sign_message(self, message: str) -> bytes:
            raise PermissionError("the user said no")

    with pytest.raises(PermissionError, match="the user said no"):
        asyncio.run(signed(Refusing()))


def test_which_form_of_the_text_a_signer_gets() -> None:
    class Text(Plain):
        type = "EOA"

        def sign_message(self, message: str) -> bytes:
            self.asked.append(message)
            return SIGNATURE

    class Either(Text):
        def sign_message(self, message: str | bytes) -> bytes:
            return super().sign_message(message)  # type: ignore[arg-type]

    class Untold(Plain):
        type = "EOA"

    for signer, expected in ((Text(), TEXT), (Either(), TEXT), (Untold(), TEXT.encode())):
        asyncio.run(signed(signer))
        assert signer.asked == [expected]
