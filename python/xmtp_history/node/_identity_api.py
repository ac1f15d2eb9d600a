"""``xmtp.identity.api.v1.IdentityApi``: the log of every inbox, and finding inboxes (node specification, section 3)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from xmtp_history import IdentityError
from xmtp_history._proto import identity_api_pb2 as pb
from xmtp_history.node import _associations as associations
from xmtp_history.node import _topics as topics
from xmtp_history.node._limits import MAX_RESPONSE_BYTES, ResponseBudget, check_list
from xmtp_history.node._payloads import is_inbox_id
from xmtp_history.node._refused import Refused
from xmtp_history.node._store import MAX_ID, Kind

if TYPE_CHECKING:
    from xmtp_history._proto.association_pb2 import IdentityUpdate
    from xmtp_history.node._store import Store, Transaction


class IdentityApi:
    """The calls, by their names in snake case."""

    DESCRIPTOR: Final = pb.DESCRIPTOR.services_by_name["IdentityApi"]

    def __init__(self, store: Store) -> None:
        self._store = store

    async def publish_identity_update(
        self, request: pb.PublishIdentityUpdateRequest
    ) -> pb.PublishIdentityUpdateResponse:
        """Appends to an inbox's log, together with what it changes about finding the inbox.

        The same update once more is answered as if it were the first time: clients repeat calls whose answer they did
        not get, and an inbox that was created twice is lost.
        """
        update = request.identity_update
        topic = _topic(update.inbox_id)
        stored = False
        while not stored:
            log = self._store.page(topic, 0, descending=False, limit=None, budget=MAX_RESPONSE_BYTES).payloads
            try:
                # A long log takes tens of milliseconds.
                after = await asyncio.to_thread(associations.identifiers_after, log, update)
            except IdentityError as error:
                raise Refused(StatusCode.INVALID_ARGUMENT, str(error)) from None
            except associations.FullLog:
                raise Refused(
                    StatusCode.RESOURCE_EXHAUSTED, f"an inbox has at most {associations.MAX_UPDATES} updates"
                ) from None
            if after is None:
                break
            stored = await self._store.write(partial(_append, topic=topic, seen=len(log), update=update, after=after))
        return pb.PublishIdentityUpdateResponse()

    async def get_identity_updates(self, request: pb.GetIdentityUpdatesRequest) -> pb.GetIdentityUpdatesResponse:
        """Every entry of the logs asked for that is later than what the client has."""
        check_list(request.requests, "requests")
        response = pb.GetIdentityUpdatesResponse()
        budget = ResponseBudget("inboxes")
        for query in request.requests:
            topic = _topic(query.inbox_id)
            answer = response.responses.add(inbox_id=query.inbox_id)
            if query.sequence_id > MAX_ID:
                continue
            page = self._store.page(topic, query.sequence_id, descending=False, limit=None, budget=budget.bytes_left)
            if page.next_cursor:
                raise budget.refusal()
            budget.spend(sum(map(len, page.payloads)))
            answer.updates.extend(map(associations.Entry.FromString, page.payloads))
        return response

    async def get_inbox_ids(self, request: pb.GetInboxIdsRequest) -> pb.GetInboxIdsResponse:
        """The inbox that each identifier belongs to now."""
        check_list(request.requests, "requests")
        response = pb.GetInboxIdsResponse()
        for query in request.requests:
            found = self._store.inbox_id(*associations.identifier(query.identifier_kind, query.identifier))
            response.responses.add(identifier=query.identifier, inbox_id=found, identifier_kind=query.identifier_kind)
        return response

    async def verify_smart_contract_wallet_signatures(
        self, request: pb.VerifySmartContractWalletSignaturesRequest
    ) -> pb.VerifySmartContractWalletSignaturesResponse:
        """Says of each signature that it cannot be verified: that takes a chain."""
        check_list(request.signatures, "signatures")
        response = pb.VerifySmartContractWalletSignaturesResponse()
        for _ in request.signatures:
            response.responses.add(is_valid=False, error="no chain configured")
        return response


def _append(
    transaction: Transaction, topic: bytes, seen: int, update: IdentityUpdate, after: set[associations.Identifier]
) -> bool:
    """Appends an update that was verified against so many entries; false if there are more by now."""
    if len(transaction.payloads(topic)) != seen:
        return False

    def build(sequence_id: int, created_ns: int) -> bytes:
        entry = associations.Entry(sequence_id=sequence_id, server_timestamp_ns=created_ns, update=update)
        return entry.SerializeToString()

    update_id = transaction.append(topic, Kind.IDENTITY, build)
    assert update_id is not None  # noqa: S101 - without a digest nothing is a duplicate
    before = transaction.identifiers(update.inbox_id)
    for kind, identifier in after - before:
        transaction.associate(kind, identifier, update.inbox_id, update_id)
    for kind, identifier in before - after:
        transaction.revoke(kind, identifier, update.inbox_id, update_id)
    return True


def _topic(inbox_id: str) -> bytes:
    if not is_inbox_id(inbox_id):
        raise Refused(StatusCode.INVALID_ARGUMENT, "an inbox id has 64 hexadecimal characters")
    return topics.identity(inbox_id)
