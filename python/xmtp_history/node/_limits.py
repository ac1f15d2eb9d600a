"""How much one call may ask for (node specification, section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from grpc import StatusCode

from xmtp_history.node._refused import Refused

if TYPE_CHECKING:
    from collections.abc import Sized

#: What the official node accepts.
MAX_REQUEST_BYTES: Final = 50 << 20
#: Requests with lists within lists, which could be anything when they are parsed. An inbox's log, 256 updates, has to fit
#: into one answer.
LARGEST_REQUESTS: Final = {"PublishIdentityUpdate": 64 << 10, "Subscribe": 1 << 20}
#: Clients refuse more than 25 MiB, and ask again and again (section 0, fact 3).
MAX_RESPONSE_BYTES: Final = 24 << 20
#: A commit that adds 2,500 installations has 4.2 MB.
MAX_MESSAGE_BYTES: Final = 5 << 20
#: A real one has 1,660 bytes. 2,500 of them are fetched in one call.
MAX_KEY_PACKAGE_BYTES: Final = 9 << 10
#: A real one has 32.
MAX_HMAC_BYTES: Final = 64
#: A real one has 93. Twenty groups are asked for in one call, and each gets at least one entry.
MAX_COMMIT_LOG_ENTRY_BYTES: Final = 64 << 10
#: Entries of any list in a request. A group has at most 2,500 installations; clients ask about 1,000 groups at a time.
MAX_LIST: Final = 8192
#: Topics of one stream that its client changes as it goes.
MAX_STREAM_TOPICS: Final = 100_000


class ResponseBudget:
    """What may still go into an answer that has no pages."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.bytes_left = MAX_RESPONSE_BYTES

    def spend(self, size: int) -> None:
        """Takes so many bytes of it.

        Raises:
            Refused: RESOURCE_EXHAUSTED.
        """
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise self.refusal()

    def refusal(self) -> Refused:
        """What is raised when an answer would be too large."""
        return Refused(StatusCode.RESOURCE_EXHAUSTED, f"the answer is too large: ask for fewer {self._what}")


def check_size(size: int, limit: int, name: str) -> None:
    """Checks how many bytes something has.

    Raises:
        Refused: RESOURCE_EXHAUSTED.
    """
    if size > limit:
        raise Refused(StatusCode.RESOURCE_EXHAUSTED, f"{name}: at most {limit} bytes are accepted")


def check_list(entries: Sized, name: str, *, at_least: int = 0, at_most: int = MAX_LIST) -> None:
    """Checks how many entries a list has.

    Raises:
        Refused: INVALID_ARGUMENT.
    """
    if not at_least <= len(entries) <= at_most:
        raise Refused(StatusCode.INVALID_ARGUMENT, f"{name}: {at_least} to {at_most} are accepted, not {len(entries)}")
