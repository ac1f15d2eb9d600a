"""One request and its answer, and what all parts of the server share."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import hdrs

from xmtp_history.server import _cors

if TYPE_CHECKING:
    from aiohttp import web

    from xmtp_history.server._access import Proxies, UploadTokens
    from xmtp_history.server._body import Body, Pieces
    from xmtp_history.server._clock import Clock
    from xmtp_history.server._limits import Admission, Ledger, ServerLimits
    from xmtp_history.server._metrics import Metrics
    from xmtp_history.server.storage import Storage


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator decided, beside limits.

    Attributes:
        retention_seconds: age at which files expire; None: never.
        resumable_seconds: age at which resumable uploads expire.
        delete_after_download: whether the first complete download deletes a file.
        tokens: what an upload has to show; None: anybody may upload.
        token_for_downloads: whether downloads have to show it as well.
        proxies: whose word about addresses is taken.
        prefix: path that everything is below, without a slash at its end.
    """

    retention_seconds: float | None
    resumable_seconds: float
    delete_after_download: bool
    tokens: UploadTokens | None
    token_for_downloads: bool
    proxies: Proxies
    prefix: str


@dataclass(frozen=True, slots=True)
class House:
    """What the parts of one running server share."""

    storage: Storage
    limits: ServerLimits
    policy: Policy
    clock: Clock
    admission: Admission
    ledger: Ledger
    pieces: Pieces
    metrics: Metrics


@dataclass(slots=True)
class Exchange:
    """One request, and what is to be said of it in the log."""

    request: web.BaseRequest
    body: Body
    method: str
    request_id: str = field(default_factory=lambda: secrets.token_hex(6))
    began: float = field(default_factory=time.perf_counter)
    route: str = "other"
    #: What stood in the path before the resource; it comes back in ``Location``.
    before: str = ""
    #: Who the request counts for in limits.
    client: str = ""
    #: The name of the token that was shown.
    token: str | None = None
    #: What a log may know of an id.
    short_id: str | None = None
    sent: int = 0
    aborted: str | None = None

    def dress(self, response: web.StreamResponse) -> None:
        """Gives an answer the headers that all answers have."""
        _cors.allow(self.request, response)
        # Not what it is made of: whoever looks for servers with a known weakness would find it there.
        response.headers[hdrs.SERVER] = "xmtp-history"

    async def begin(self, response: web.StreamResponse) -> None:
        """Sends the head of an answer whose body follows piece by piece."""
        self.dress(response)
        await response.prepare(self.request)
