"""The calls of ``IdentityApi`` (node specification, section 3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from xmtp_history._proto.association_pb2 import IDENTIFIER_KIND_ETHEREUM
from xmtp_history._proto.identity_api_pb2 import (
    GetIdentityUpdatesRequest,
    GetInboxIdsRequest,
    PublishIdentityUpdateRequest,
)
from xmtp_history.network import _answers
from xmtp_history.network._calls import in_batches
from xmtp_history.network._checks import check_cursor, check_inbox_id, is_inbox_id
from xmtp_history.network._errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xmtp_history.network._calls import Caller

_API: Final = "/xmtp.identity.api.v1.IdentityApi/"
#: Inboxes and addresses in one call.
_INBOXES: Final = 50
_ADDRESSES: Final = 1_000

_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)


class IdentityCalls:
    """Inboxes: who they belong to, and their logs."""

    def __init__(self, caller: Caller) -> None:
        self._identity = caller

    async def get_inbox_ids(self, addresses: Sequence[str]) -> list[str | None]:
        """The inboxes that Ethereum addresses belong to (node specification, section 3).

        Args:
            addresses: ``0x`` and 40 hexadecimal digits each, in any case.

        Returns:
            For each address the inbox id, 64 lower-case hexadecimal digits, or None where there is no inbox.

        Raises:
            ValueError: an address is malformed.
            InvalidAnswer: the answer does not match the question.
        """
        if not all(_ADDRESS.fullmatch(address) for address in addresses):
            raise ValueError("an Ethereum address is 0x and 40 hexadecimal digits")
        return await in_batches([address.lower() for address in addresses], _ADDRESSES, self._inbox_ids)

    async def get_identity_updates(self, inboxes: Sequence[tuple[str, int]]) -> list[bytes]:
        """The logs of inboxes after a sequence id each (0: all of it), 50 inboxes in a call (section 3).

        Returns:
            Serialised ``GetIdentityUpdatesResponse`` messages, which together answer for the inboxes in their order. They
            are as the node sent them: that each answers what was asked is for the reader to check.

        Raises:
            ValueError: an inbox id or a sequence id is malformed.
        """
        for inbox_id, sequence_id in inboxes:
            check_inbox_id(inbox_id)
            check_cursor(sequence_id)
        return await in_batches(inboxes, _INBOXES, self._identity_updates)

    async def publish_identity_update(self, request: bytes) -> None:
        """Publishes an identity update; it is stored once, and in whole, or not at all (section 3).

        Where a try ended without an answer and a later one is refused, the log is read: an update that is in it was
        published.

        Args:
            request: a serialised ``PublishIdentityUpdateRequest``.
        """
        method = f"{_API}PublishIdentityUpdate"
        try:
            await self._identity.call(method, request)
        except NodeError as error:
            if error.transient or not error.uncertain or not await self._is_published(request):
                raise

    async def verify_smart_contract_wallet_signatures(self, request: bytes) -> bytes:
        """Asks whether signatures of smart contract wallets are valid (section 3).

        Args:
            request: a serialised ``VerifySmartContractWalletSignaturesRequest``.

        Returns:
            The ``VerifySmartContractWalletSignaturesResponse`` as the node sent it.
        """
        return await self._identity.call(f"{_API}VerifySmartContractWalletSignatures", request)

    async def _inbox_ids(self, addresses: Sequence[str]) -> list[str | None]:
        method = f"{_API}GetInboxIds"
        kind = IDENTIFIER_KIND_ETHEREUM
        entries = [GetInboxIdsRequest.Request(identifier=address, identifier_kind=kind) for address in addresses]
        answer = await self._identity.call(method, GetInboxIdsRequest(requests=entries).SerializeToString())
        return _answers.inbox_ids(self._identity.what(method), answer, addresses)

    async def _identity_updates(self, inboxes: Sequence[tuple[str, int]]) -> list[bytes]:
        entry = GetIdentityUpdatesRequest.Request
        entries = [entry(inbox_id=inbox_id, sequence_id=sequence_id) for inbox_id, sequence_id in inboxes]
        request = GetIdentityUpdatesRequest(requests=entries).SerializeToString()
        return [await self._identity.call(f"{_API}GetIdentityUpdates", request)]

    async def _is_published(self, request: bytes) -> bool:
        try:
            update = PublishIdentityUpdateRequest.FromString(request).identity_update
        except DecodeError:
            return False
        if not is_inbox_id(update.inbox_id):
            return False
        return _answers.has_update(await self.get_identity_updates([(update.inbox_id, 0)]), update)
