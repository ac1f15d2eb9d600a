"""Answers that are looked into here, taken apart with the suspicion that strangers' bytes deserve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from xmtp_history._proto.association_pb2 import IDENTIFIER_KIND_ETHEREUM, IDENTIFIER_KIND_UNSPECIFIED
from xmtp_history._proto.identity_api_pb2 import GetIdentityUpdatesResponse, GetInboxIdsResponse
from xmtp_history._proto.mls_api_pb2 import GetNewestGroupMessageResponse, GroupMessage, WelcomeMessage
from xmtp_history.network._checks import MAX_ID, is_inbox_id
from xmtp_history.network._errors import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

_Answer = TypeVar("_Answer", bound=Message)

#: No entry of these answers needs as much. Parsed, an answer is many times larger than its bytes.
_ENTRY_BYTES: Final = 1024
#: The official node leaves the kind out.
_ETHEREUM: Final = {IDENTIFIER_KIND_ETHEREUM, IDENTIFIER_KIND_UNSPECIFIED}


def inbox_ids(what: str, answer: bytes, addresses: Sequence[str]) -> list[str | None]:
    """What a ``GetInboxIdsResponse`` says of each address.

    Raises:
        InvalidAnswer: it does not match the addresses, or does not parse.
    """
    responses = _parsed(what, answer, GetInboxIdsResponse, len(addresses)).responses
    _check_count(what, len(responses), len(addresses))
    out: list[str | None] = []
    for address, response in zip(addresses, responses, strict=True):
        if response.identifier != address or response.identifier_kind not in _ETHEREUM:
            raise invalid(what, "it is about somebody else")
        inbox_id = response.inbox_id if response.HasField("inbox_id") else None
        if inbox_id is not None and not is_inbox_id(inbox_id):
            raise invalid(what, "what stands there is no inbox id")
        out.append(inbox_id)
    return out


def newest_ids(what: str, answer: bytes, group_ids: Sequence[bytes]) -> list[int | None]:
    """What a ``GetNewestGroupMessageResponse`` says of each group.

    Raises:
        InvalidAnswer: it does not match the groups, or does not parse.
    """
    responses = _parsed(what, answer, GetNewestGroupMessageResponse, len(group_ids)).responses
    _check_count(what, len(responses), len(group_ids))
    out: list[int | None] = []
    for group_id, response in zip(group_ids, responses, strict=True):
        if not response.HasField("group_message"):
            out.append(None)
            continue
        newest = response.group_message.v1
        if newest.group_id != group_id:
            raise invalid(what, "it is about another group")
        out.append(_checked_id(what, newest.id))
    return out


def has_update(answers: Sequence[bytes], update: Message) -> bool:
    """Whether a log holds an update."""
    try:
        parsed = [GetIdentityUpdatesResponse.FromString(answer) for answer in answers]
    except DecodeError:
        return False
    logs = (response.updates for answer in parsed for response in answer.responses)
    return any(entry.update == update for log in logs for entry in log)


def group_message(what: str, data: bytes) -> tuple[bytes, int]:
    """The group and the id of a streamed ``GroupMessage``.

    Raises:
        InvalidAnswer: it has none, or does not parse.
    """
    message = _parsed(what, data, GroupMessage).v1
    return message.group_id, _checked_id(what, message.id)


def welcome_message(what: str, data: bytes) -> tuple[bytes, int]:
    """The installation's key and the id of a streamed ``WelcomeMessage``.

    Raises:
        InvalidAnswer: it has none, or does not parse.
    """
    welcome = _parsed(what, data, WelcomeMessage)
    message = welcome.v1 if welcome.HasField("v1") else welcome.welcome_pointer
    return message.installation_key, _checked_id(what, message.id)


def _parsed(what: str, answer: bytes, kind: type[_Answer], entries: int | None = None) -> _Answer:
    if entries is not None and len(answer) > entries * _ENTRY_BYTES:
        raise invalid(what, "it is much too large")
    try:
        return kind.FromString(answer)
    except DecodeError:
        raise invalid(what, "it does not parse") from None


def _check_count(what: str, entries: int, expected: int) -> None:
    if entries != expected:
        raise invalid(what, f"{expected} entries were asked for, {entries} came")


def _checked_id(what: str, message_id: int) -> int:
    if not 1 <= message_id <= MAX_ID:
        raise invalid(what, "what stands there is no id")
    return message_id
