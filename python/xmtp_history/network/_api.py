"""``NodeApi``: the calls of a node that an installation makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from xmtp_history.network._calls import Caller
from xmtp_history.network._connection import KEEPALIVE_S, Connection
from xmtp_history.network._identity_calls import IdentityCalls
from xmtp_history.network._mls_calls import MlsCalls
from xmtp_history.network._streams import GroupStream, WelcomeStream
from xmtp_history.network._throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from xmtp_history.network._stream import Stream


class NodeApi(IdentityCalls, MlsCalls):
    """A client of one XMTP node: the calls of node-api.md (sections 3, 4 and 6) that an installation makes.

    The connection is made with the first call, and again whenever it breaks. A call is tried again, after growing and
    random waits, when it fails in a way that passes; nodes store nothing twice, so that writes may be repeated. Everything
    is bounded: time, tries, sizes of messages, and requests in a minute. One object belongs to one event loop; its
    calls may be made by any number of tasks.

        async with NodeApi("http://localhost:5556") as node:
            inbox_id, = await node.get_inbox_ids(["0x…"])

    All calls raise:
        NodeError: the node refuses, or failed for too long; :attr:`NodeError.transient` says whether to try later.
        RuntimeError: the client is closed.
        asyncio.CancelledError: the calling task was cancelled; a write may have been carried out.

    Args:
        url: the node: ``http://host:port`` (plain HTTP/2) or ``https://host:port`` (TLS).
        app_version: what the node is told about the app, such as ``"my-bot/1.0"``.
        timeout: seconds that a call may take with all its tries; one try gets at most half of them.
        root_certificates: certificates (PEM) that sign the node's, instead of the system's.
        keepalive_s: seconds of silence after which the node is asked whether it is there; it has as long to answer, at
            most 10. Nodes close connections on which that happens more often than every 15 s.

    Raises:
        ValueError: an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        app_version: str | None = None,
        timeout: float = 120.0,
        root_certificates: bytes | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        if not 0 < timeout <= 86_400:  # noqa: PLR2004 - a day
            raise ValueError("timeout: a positive number of seconds is needed, at most a day")
        if not 0 < keepalive_s <= 86_400:  # noqa: PLR2004
            raise ValueError("keepalive_s: a positive number of seconds is needed, at most a day")
        self._connection = Connection(
            url, app_version=app_version, root_certificates=root_certificates, keepalive_s=keepalive_s
        )
        self._throttle = Throttle()
        caller = Caller(self._connection, self._throttle, timeout)
        IdentityCalls.__init__(self, caller)
        MlsCalls.__init__(self, caller)
        self._streams: set[Stream] = set()

    async def __aenter__(self) -> Self:
        self._connection.check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the streams, and closes the connection; calls under way fail. Closing twice is fine."""
        for stream in list(self._streams):
            await stream.aclose()
        await self._connection.aclose()

    def group_stream(self, cursors: Mapping[bytes, int] | Iterable[tuple[bytes, int]] = ()) -> GroupStream:
        """Messages of groups after a cursor each, as they come; see :class:`GroupStream`.

        Raises:
            ValueError: a group id or a cursor is malformed.
        """
        return GroupStream(self._connection, self._throttle, self._streams, cursors)

    def welcome_stream(self, installation_key: bytes, cursor: int = 0) -> WelcomeStream:
        """Welcomes of an installation after a cursor, as they come; see :class:`WelcomeStream`.

        Raises:
            ValueError: the key or the cursor is malformed.
        """
        return WelcomeStream(self._connection, self._throttle, self._streams, installation_key, cursor)
