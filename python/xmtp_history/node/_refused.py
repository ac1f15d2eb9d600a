"""The one way a call is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc


class Refused(Exception):
    """A call that gets a status instead of an answer. Nothing of it was stored.

    Attributes:
        code: the gRPC status (node specification, section 7).
        details: one short sentence. It carries nothing of the payload: it goes into a response header.
    """

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
