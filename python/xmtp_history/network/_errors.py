"""What goes wrong between a client and its node.

    NetworkError
    └── NodeError               the node cannot be reached, keeps failing, or refuses a call
        ├── AnswerTooLarge      it answers more than this client takes
        ├── InvalidAnswer       it answers what no node should
        └── NetworkEnded        it says that this version of the network is over

No message has anything in it that came from the node, or anything of the request.
"""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from xmtp_history._errors import NetworkError

#: Failures that last no longer than a connection, a restart or a burst of requests.
TRANSIENT: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})
#: Failures that are mostly bugs, sometimes accidents, and proxies that reset streams.
DOUBTFUL: Final = frozenset({"INTERNAL", "UNKNOWN", "CANCELLED"})

_WORDS: Final = {
    "UNAVAILABLE": "cannot be reached, or is not available",
    "DEADLINE_EXCEEDED": "does not answer in time",
    "RESOURCE_EXHAUSTED": "takes no more requests for now",
    "ABORTED": "gave the call up",
    "INTERNAL": "has a problem of its own",
    "UNKNOWN": "has a problem of its own",
    "CANCELLED": "dropped the call",
    "UNIMPLEMENTED": "does not know this call: is it an XMTP node, and is this version recent enough for it?",
    "PERMISSION_DENIED": "does not serve this client",
    "UNAUTHENTICATED": "does not serve this client",
}
#: By these words the node tells clients of every version (node specification, section 7).
_V3: Final = "xmtp v3"
_ENDED: Final = "no longer available"
#: By these words gRPC tells on which side a message was too large.
_TOO_LARGE: Final = "larger than max"
#: By these words gRPC tells that it was the encryption that failed.
_TLS: Final = ("tls handshake", "hostname verification")
_OURS: Final = "client:"


class NodeError(NetworkError):
    """A node cannot be reached, keeps failing, or refuses a call.

    Attributes:
        code: name of the gRPC status, such as ``"UNAVAILABLE"``; ``"OK"`` for an answer that makes no sense.
        transient: whether it may be different later.
        uncertain: a write may have been carried out all the same, because a try of it ended without an answer.
        details: the node's own words, for developers. They may hold ids: do not log them.
    """

    def __init__(self, message: str, *, code: str, transient: bool = False, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.transient = transient
        self.uncertain = False
        self.details = details


class AnswerTooLarge(NodeError):
    """The node answers more than this client takes in one message: ask for less at a time."""


class InvalidAnswer(NodeError):
    """The node answers what no node should: it is faulty, or something else answers in its place."""


class NetworkEnded(NodeError):
    """The node says that this version of the network is over: look for a newer release of this package."""


def failed(what: str, status: StatusCode, details: str | None) -> NodeError:
    """The error that a call's status is.

    Args:
        what: begins the message: which node, which call.
        status: how the call ended.
        details: the node's words, or gRPC's.
    """
    code, details = status.name, details or ""
    words = details.lower()
    if _V3 in words and _ENDED in words:
        sentence = "the node no longer serves this version of the network (XMTP V3); look for a newer release"
        return NetworkEnded(f"{what}: {sentence} of xmtp-history", code=code, details=details)
    if status is StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in words:
        if _OURS in words:
            return too_large(what)
        return NodeError(f"{what}: the request is larger than the node takes", code=code, details=details)
    if status is StatusCode.UNAVAILABLE and any(part in words for part in _TLS):
        sentence = (
            f"{what}: no encrypted connection: check the certificate, and whether the URL is one of https ({code})"
        )
        return NodeError(sentence, code=code, transient=True, details=details)
    sentence = f"{what}: the node {_WORDS.get(code, 'refuses')} ({code})"
    return NodeError(sentence, code=code, transient=code in TRANSIENT or code in DOUBTFUL, details=details)


def too_large(what: str) -> AnswerTooLarge:
    """The error that an answer is which is too large."""
    return AnswerTooLarge(f"{what}: the answer is larger than 25 MiB", code="RESOURCE_EXHAUSTED")


def invalid(what: str, why: str) -> InvalidAnswer:
    """The error that an answer is which makes no sense."""
    return InvalidAnswer(f"{what}: not the answer of a node: {why}", code="OK")
