"""The streams of an installation: messages of its groups, and its welcomes (node specification, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xmtp_history._proto.mls_api_pb2 import SubscribeGroupMessagesRequest, SubscribeWelcomeMessagesRequest
from xmtp_history.network import _answers
from xmtp_history.network._checks import check_cursor, check_group_id, check_key
from xmtp_history.network._stream import Stream
from xmtp_history.network._subscription import Kind, Topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xmtp_history.network._connection import Connection
    from xmtp_history.network._throttle import Throttle


class GroupStream(Stream):
    """Messages of groups; groups can be added and removed at any time, also while it is read.

    What is added is told to the node in a second call, beside the first one, which ends when the second one stands; no
    message is lost by that, or comes twice. See :class:`Stream` for the rest. :attr:`StreamedMessage.data` is a serialised
    ``GroupMessage``.
    """

    def __init__(
        self,
        connection: Connection,
        throttle: Throttle,
        streams: set[Stream],
        cursors: Mapping[bytes, int] | Iterable[tuple[bytes, int]],
    ) -> None:
        pairs = dict(cursors).items()
        topics = {check_group_id(group_id): Topic(check_cursor(cursor)) for group_id, cursor in pairs}
        super().__init__(connection, throttle, streams, _GROUPS, topics)

    def add(self, group_id: bytes, cursor: int = 0) -> None:
        """Adds a group, from after a cursor on; a group that is there already stays as it is.

        Raises:
            TypeError, ValueError: the group id or the cursor is malformed.
        """
        if check_group_id(group_id) not in self._topics:
            self._topics[group_id] = Topic(check_cursor(cursor))
            self._change()

    def remove(self, group_id: bytes) -> None:
        """Removes a group, if it is there: none of its messages is read any more. It may be added again, with any cursor."""
        if self._topics.pop(group_id, None) is not None:
            self._change()


class WelcomeStream(Stream):
    """Welcomes of one installation; see :class:`Stream`. :attr:`StreamedMessage.data` is a serialised ``WelcomeMessage``."""

    def __init__(
        self, connection: Connection, throttle: Throttle, streams: set[Stream], installation_key: bytes, cursor: int
    ) -> None:
        topics = {check_key(installation_key): Topic(check_cursor(cursor))}
        super().__init__(connection, throttle, streams, _WELCOMES, topics)


def _group_request(topics: Mapping[bytes, Topic]) -> bytes:
    entry = SubscribeGroupMessagesRequest.Filter
    filters = [entry(group_id=group_id, id_cursor=reading.reached) for group_id, reading in topics.items()]
    return SubscribeGroupMessagesRequest(filters=filters).SerializeToString()


def _welcome_request(topics: Mapping[bytes, Topic]) -> bytes:
    entry = SubscribeWelcomeMessagesRequest.Filter
    filters = [entry(installation_key=key, id_cursor=reading.reached) for key, reading in topics.items()]
    return SubscribeWelcomeMessagesRequest(filters=filters).SerializeToString()


_API: Final = "/xmtp.mls.api.v1.MlsApi/"
_GROUPS: Final = Kind(f"{_API}SubscribeGroupMessages", _group_request, _answers.group_message)
_WELCOMES: Final = Kind(f"{_API}SubscribeWelcomeMessages", _welcome_request, _answers.welcome_message)
