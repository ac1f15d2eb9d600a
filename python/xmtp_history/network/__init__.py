"""A client of an XMTP node (node specification, sections 1 to 7).

``_connection`` makes connections, ``_calls`` makes one call until it has an answer, ``_identity_calls`` and ``_mls_calls``
say which there are, ``_answers`` takes apart what is not for the Rust core. ``_subscription`` is one call of a stream,
``_stream`` what outlasts it, ``_streams`` which streams there are. ``_throttle`` slows everything down.
"""

from __future__ import annotations

from xmtp_history.network._api import NodeApi
from xmtp_history.network._environments import Environment, environment
from xmtp_history.network._errors import AnswerTooLarge, InvalidAnswer, NetworkEnded, NodeError
from xmtp_history.network._stream import StreamState
from xmtp_history.network._streams import GroupStream, WelcomeStream
from xmtp_history.network._subscription import StreamedMessage

__all__ = [
    "AnswerTooLarge",
    "Environment",
    "GroupStream",
    "InvalidAnswer",
    "NetworkEnded",
    "NodeApi",
    "NodeError",
    "StreamState",
    "StreamedMessage",
    "WelcomeStream",
    "environment",
]
