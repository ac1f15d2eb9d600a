"""What an identity update does to its inbox, and whether it may (node specification, section 8).

The rules and the signatures are the identity room's of the native library, so that the node takes what clients take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xmtp_history import IdentityError, _ffi
from xmtp_history._proto.association_pb2 import IDENTIFIER_KIND_ETHEREUM, IDENTIFIER_KIND_PASSKEY, IdentityUpdate
from xmtp_history._proto.identity_api_pb2 import GetIdentityUpdatesResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

#: An address or passkey as the node knows it: its kind, and lower-case text.
Identifier = tuple[int, str]

Entry = GetIdentityUpdatesResponse.IdentityUpdateLog

MAX_UPDATES: Final = 256

#: The kinds of members that an inbox can be looked up by: all but installations.
_FINDABLE: Final = {"ethereum": IDENTIFIER_KIND_ETHEREUM, "passkey": IDENTIFIER_KIND_PASSKEY}


def identifier(kind: int, text: str) -> Identifier:
    """An identifier in the form in which it is stored and looked up; kind 0 is Ethereum."""
    return (kind or IDENTIFIER_KIND_ETHEREUM, text.lower())


class FullLog(Exception):
    """The inbox has as many updates as it may have."""


def identifiers_after(log: Sequence[bytes], update: IdentityUpdate) -> set[Identifier] | None:
    """Verifies an inbox's log with one more update, and says by what the inbox can be looked up after it.

    It takes about a quarter of a millisecond for each entry, most of it without the interpreter lock.

    Args:
        log: the entries as they are stored.
        update: what is to follow them.

    Returns:
        The identifiers, or None if the update is in the log already.

    Raises:
        IdentityError: the update cannot follow the log, a signature does not hold, or it is one of a smart contract
            wallet, which only a chain could verify.
        FullLog: there is no room for it.
    """
    entries = [Entry.FromString(payload) for payload in log]
    serialized = update.SerializeToString(deterministic=True)
    if any(entry.update.SerializeToString(deterministic=True) == serialized for entry in entries):
        return None
    if len(entries) >= MAX_UPDATES:
        raise FullLog
    if not update.actions:
        raise IdentityError("an update has at least one action")
    answer = GetIdentityUpdatesResponse()
    inbox = answer.responses.add(inbox_id=update.inbox_id, updates=entries)
    # Which number it really gets is known when it is stored.
    inbox.updates.add(sequence_id=entries[-1].sequence_id + 1 if entries else 1, update=update)
    state = _ffi.identity_call("verify_log", answer.SerializeToString(), trust_contracts=False)
    return {identifier(_FINDABLE[kind], name) for kind, name, *_ in state["members"] if kind in _FINDABLE}
