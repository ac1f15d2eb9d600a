"""Inboxes: fetching and verifying their logs, registering and revoking (identity specification, section 1)."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from xmtp_history import _ffi
from xmtp_history._errors import IdentityError, NetworkError, NotRegistered, TooManyInstallations
from xmtp_history._proto.identity_api_pb2 import GetIdentityUpdatesResponse
from xmtp_history._threads import in_thread
from xmtp_history.client._core import inbox_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xmtp_history._signer import Wallet
    from xmtp_history.client._core import Core
    from xmtp_history.client._types import InboxState
    from xmtp_history.network import NodeApi

_log = logging.getLogger(__name__)

#: More installations XMTP's clients do not start (identity specification, section 1.5).
MAX_INSTALLATIONS: Final = 10
#: What was asked for so long ago is recent, seconds.
_RECENT_SECONDS: Final = 1.0


def inbox_id_of(address: str, nonce: int) -> str:
    """The id of the inbox that an address creates."""
    return str(_ffi.identity_call("inbox_id", address=address, nonce=nonce))


async def find_inbox(api: NodeApi, address: str, nonce: int) -> str:
    """The inbox of an address, or the one that it is to create. A database is bound to it, so the node is not just believed.

    Raises:
        IdentityError: the inbox that the node names is not the address's.
        NetworkError: the node cannot be reached.
    """
    (inbox_id,) = await api.get_inbox_ids([address])
    if inbox_id is None:
        return inbox_id_of(address, nonce)
    (log,) = await api.get_identity_updates([(inbox_id, 0)])
    _check_answer([log], [inbox_id])
    # Contract wallets are believed here. Before anything is signed, the log is verified once more, with them.
    row = await in_thread(partial(_ffi.identity_call, "verify_log", log, trust_contracts=True))
    if not _belongs(inbox_state(row), address):
        raise IdentityError("the node names an inbox that is not one of the wallet's")
    return inbox_id


class Identity:
    """The identity logs that an installation needs, and its own place in one."""

    def __init__(self, api: NodeApi, core: Core, inbox_id: str, installation_id: str) -> None:
        self._api = api
        self._core = core
        self._inbox_id = inbox_id
        self._installation_id = installation_id
        #: The other installations of the inbox, when it was last looked at.
        self.others: frozenset[str] = frozenset()
        #: When the node was last asked for the inbox's own log, by the event loop's clock.
        self._asked_at = -math.inf

    async def fetch(self, inbox_ids: Iterable[str]) -> set[str]:
        """Fetches what is new in inboxes' logs. What does not verify is not kept.

        Returns:
            The inboxes of which now everything is known that the node has and that is valid. Those whose smart contract
            wallets could not be verified are missing.

        Raises:
            IdentityError: the log of the installation's own inbox does not verify.
            NetworkError: the node cannot be reached, or answers something else.
        """
        wanted = sorted(set(inbox_ids))
        if not wanted:
            return set()
        now = asyncio.get_running_loop().time()
        cursors = await self._core.ask("identity_cursors", inbox_ids=wanted)
        fetched: set[str] = set(wanted)
        answers = await self._api.get_identity_updates(list(zip(wanted, cursors, strict=True)))
        _check_answer(answers, wanted)
        for answer in answers:
            ingested = await self._ingest(answer)
            for inbox_id, reason in ingested["refused"].items():
                if inbox_id == self._inbox_id:
                    # Without it nothing can be judged, and what was judged all the same would stay so.
                    raise IdentityError(f"the inbox's own log, as the node gives it, is refused: {reason}")
                _log.warning("the identity log of inbox %s is refused: %s", inbox_id, reason)
            for inbox_id in ingested["undecided"]:
                _log.warning("signatures of a contract wallet in the log of inbox %s cannot be verified now", inbox_id)
                fetched.discard(inbox_id)
        if self._inbox_id in fetched:
            self._asked_at = now
        return fetched

    async def is_behind(self, wanted: Mapping[str, int]) -> bool:
        """Whether the log of one of the inboxes does not reach to an entry."""
        cursors = await self._core.ask("identity_cursors", inbox_ids=list(wanted))
        return any(cursor < entry for cursor, entry in zip(cursors, wanted.values(), strict=True))

    async def _ingest(self, answer: bytes) -> dict[str, Any]:
        ingested, questions = await self._core.call("ingest_identity", answer)
        if ingested["undecided"]:
            verdicts = await self._api.verify_smart_contract_wallet_signatures(questions)
            await self._core.ask("ingest_verdicts", verdicts, request=questions.hex())
            ingested = await self._core.ask("ingest_identity", answer)
        result: dict[str, Any] = ingested
        return result

    async def state(self, inbox_id: str, *, refresh: bool) -> InboxState | None:
        """The state of an inbox; None if it does not exist, as far as is known."""
        if refresh:
            await self.fetch([inbox_id])
        state = await self._core.inbox_state(inbox_id)
        if state is not None and inbox_id == self._inbox_id:
            self.others = frozenset(info.id for info in state.installations) - {self._installation_id}
        return state

    async def is_registered(self, *, refresh: bool) -> bool:
        """Whether the installation belongs to its inbox."""
        return _has(await self.state(self._inbox_id, refresh=refresh), self._installation_id)

    async def had(self, installation_id: str) -> bool:
        """Whether an installation belonged to the inbox a second ago; for what is checked again before it counts."""
        return _has(await self.state(self._inbox_id, refresh=self._is_stale()), installation_id)

    def _is_stale(self) -> bool:
        return asyncio.get_running_loop().time() - self._asked_at > _RECENT_SECONDS

    async def check_registered(self, *, recently: bool = False) -> None:
        """Makes sure that the installation belongs to its inbox.

        Args:
            recently: whether it serves that it did a second ago.

        Raises:
            NotRegistered: it does not.
        """
        if not await self.is_registered(refresh=not recently or self._is_stale()):
            raise NotRegistered(
                "the installation was revoked, or never registered; register a new one in a new database"
            )

    async def register(self, wallet: Wallet, *, nonce: int, was_registered: bool) -> None:
        """Makes the installation one of its inbox, creating the inbox if there is none. Asks for one signature.

        Where somebody else creates the inbox at the same moment, it asks for another one.

        The key package goes first, so that nobody meets the installation without one (section 1.6). Whatever was done
        before an interruption is not done again.

        Raises:
            TooManyInstallations: the inbox has ten.
            NotRegistered: the installation was revoked.
            IdentityError: the signature is not the wallet's, or the inbox's log is not valid.
            ValueError: the wallet is not one of the inbox.
        """
        state = await self.state(self._inbox_id, refresh=True)
        if _has(state, self._installation_id):
            await self.check_wallet(wallet, nonce)
            await self.upload_key_package()
            return
        if was_registered:
            raise NotRegistered("the installation was revoked; register a new one in a new database")
        await self.check_wallet(wallet, nonce)
        if state is not None and len(state.installations) >= MAX_INSTALLATIONS:
            message = f"the inbox has {len(state.installations)} installations, the most there may be; revoke one first"
            raise TooManyInstallations(message, installation_ids=tuple(info.id for info in state.installations))
        await self.upload_key_package()
        update = {"update": "create", "nonce": nonce} if state is None else {"update": "add"}
        try:
            await self._publish(wallet, update)
        except NetworkError:
            if state is not None or (state := await self.state(self._inbox_id, refresh=True)) is None:
                raise
            # The inbox was created meanwhile, from another device, or by this update, whose answer was lost.
            if not _has(state, self._installation_id):
                await self._publish(wallet, {"update": "add"})
        if not await self.is_registered(refresh=True):
            raise NetworkError("the node took the identity update, but its log does not have it: try again later")

    async def check_wallet(self, wallet: Wallet, nonce: int) -> None:
        """Makes sure that a wallet is one of the inbox, as far as is known, or may create it.

        Raises:
            ValueError: it is not.
        """
        state = await self.state(self._inbox_id, refresh=False)
        may = _belongs(state, wallet.address) if state else inbox_id_of(wallet.address, nonce) == self._inbox_id
        if not may:
            raise ValueError(
                "the installation in this database belongs to another inbox; use a database of its own for each inbox"
            )

    async def revoke(self, wallet: Wallet, installation_ids: Sequence[str]) -> None:
        """Revokes installations. Asks for one signature, of the inbox's recovery address.

        Raises:
            ValueError: an installation is not one of the inbox.
            IdentityError: the wallet is not the inbox's recovery address.
        """
        state = await self.state(self._inbox_id, refresh=True)
        present = {info.id for info in state.installations} if state is not None else set()
        for installation_id in installation_ids:
            if installation_id not in present:
                raise ValueError("an installation to be revoked is not one of the inbox")
        if state is None or wallet.address != state.recovery_identifier:
            raise IdentityError("only the inbox's recovery address may revoke installations")
        await self._publish(wallet, {"update": "revoke", "installation_ids": list(installation_ids)})
        await self.fetch([self._inbox_id])

    async def _publish(self, wallet: Wallet, update: dict[str, Any]) -> None:
        what: dict[str, Any] = {"update": update, "address": wallet.address, "timestamp_ns": time.time_ns()}
        text = await self._core.ask("signature_text", **what)
        signature: dict[str, Any] = {"signature": "eoa", "bytes": (await wallet.sign(text)).hex()}
        if wallet.chain_id is not None:
            account = f"eip155:{wallet.chain_id}:{wallet.address}"
            signature |= {"signature": "contract", "account_id": account, "block_number": wallet.block_number or 0}
        _, request = await self._core.call("signed_update", **what, signature=signature)
        await self._api.publish_identity_update(request)

    async def upload_key_package(self) -> None:
        """Uploads a new key package where one is due (section 2.3)."""
        init_key, package = await self._core.call("key_package_to_upload")
        if init_key is not None:
            await self._api.upload_key_package(package)
            await self._core.ask("key_package_uploaded", init_key=init_key)


def _has(state: InboxState | None, installation_id: str) -> bool:
    return state is not None and any(info.id == installation_id for info in state.installations)


def _belongs(state: InboxState, address: str) -> bool:
    return address in state.identifiers or address == state.recovery_identifier


def _check_answer(answers: Sequence[bytes], inbox_ids: Sequence[str]) -> None:
    """Makes sure that a node has answered for the inboxes that it was asked about, and for no others."""
    try:
        parsed = [GetIdentityUpdatesResponse.FromString(answer) for answer in answers]
    except DecodeError:
        raise NetworkError("the node's answer is malformed: identity updates cannot be decoded") from None
    if sorted(response.inbox_id for answer in parsed for response in answer.responses) != sorted(inbox_ids):
        raise NetworkError("the node's answer is malformed: it is about other inboxes")
