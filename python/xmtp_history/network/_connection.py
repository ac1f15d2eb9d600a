"""The one connection of a client to its node: where to, with which settings, and how long it is there."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import grpc
import grpc.aio

from xmtp_history._ffi import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

#: What XMTP's library sends and takes in one message.
MAX_MESSAGE_BYTES: Final = 25 << 20
#: What this client takes in one message: more than nodes take from those who send it, 50 MiB. XMTP's library takes no more
#: than it sends; so anybody who sends more to one group ends its streams of all groups, for good.
_MAX_RECEIVED_BYTES: Final = 64 << 20
#: The version of XMTP's library whose behaviour this client has.
LIBXMTP_VERSION: Final = "1.10.0"
#: Seconds of silence before a ping, and until it has to be answered. Nodes take one every 15 s, also without a call.
KEEPALIVE_S: Final = 20.0
_KEEPALIVE_ANSWER_S: Final = 10.0
#: What a node may send of one answer before it is read; as in XMTP's library.
_AHEAD_BYTES: Final = 2 << 20

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
#: A header's value: printable, and short enough for everybody.
_APP_VERSION: Final = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?", re.ASCII)


class Address(NamedTuple):
    """A node's address, as gRPC wants it, and whether the connection is encrypted."""

    target: str
    tls: bool


def address_of(url: str) -> Address:
    """The address in a URL, such as ``http://localhost:5556`` or ``https://grpc.dev.xmtp.network:443``.

    Raises:
        ValueError: the URL is not one of a node. The message does not repeat it.
    """
    if not isinstance(url, str):
        raise TypeError("the URL of a node is a str")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("the URL of a node does not parse") from None
    default = _PORTS.get(parts.scheme)
    if default is None:
        raise ValueError("the URL of a node begins with http:// or https://")
    if "@" in parts.netloc:
        raise ValueError("the URL of a node has no user name or password")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("the URL of a node has a host and a port, and nothing after them")
    host = re.sub(r":\d*\Z", "", parts.netloc)
    if not _HOST.fullmatch(host):
        raise ValueError("the URL of a node has a host: a name, an IPv4 address, or an IPv6 address in brackets")
    if port == 0:
        raise ValueError("the port in the URL of a node is a number from 1 to 65535")
    return Address(f"{host}:{port or default}", parts.scheme == "https")


class Connection:
    """A connection that is made when it is first needed, and again whenever it breaks.

    Args:
        url: where the node is.
        app_version: what the node is told about the app; None for this package.
        root_certificates: certificates (PEM) that sign the node's; None takes the system's.
        keepalive_s: seconds of silence before a ping.

    Raises:
        ValueError: the URL, or the app's version, cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        app_version: str | None = None,
        root_certificates: bytes | None = None,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        app_version = f"xmtp-history/{__version__}" if app_version is None else app_version
        if not _APP_VERSION.fullmatch(app_version):
            raise ValueError("app_version: 1 to 128 printable ASCII characters are needed")
        self._address = address_of(url)
        self.name = f"node {self._address.target}"
        self._root_certificates = root_certificates
        self._keepalive_s = keepalive_s
        self._metadata = (("x-app-version", app_version), ("x-libxmtp-version", LIBXMTP_VERSION))
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._callables: dict[str, Callable[..., Any]] = {}
        self.closed = False

    def unary(self, method: str, request: bytes, *, timeout: float) -> grpc.aio.UnaryUnaryCall[bytes, bytes]:
        """Begins a call with one answer. Requests and answers are bytes.

        Raises:
            RuntimeError: the connection is closed, or belongs to another event loop.
        """
        begin = self._callable(method, "unary_unary")
        call: grpc.aio.UnaryUnaryCall[bytes, bytes] = begin(request, timeout=timeout, metadata=self._metadata)
        return call

    def stream(self, method: str, request: bytes) -> grpc.aio.UnaryStreamCall[bytes, bytes]:
        """Begins a call with many answers, without a limit of time.

        Raises:
            RuntimeError: the connection is closed, or belongs to another event loop.
        """
        begin = self._callable(method, "unary_stream")
        call: grpc.aio.UnaryStreamCall[bytes, bytes] = begin(request, metadata=self._metadata)
        return call

    def check_open(self) -> None:
        """Checks that the connection can be used.

        Raises:
            RuntimeError: it is closed.
        """
        if self.closed:
            raise RuntimeError("the connection to the node is closed")

    async def aclose(self) -> None:
        """Closes the connection; calls under way end."""
        self.closed = True
        channel, self._channel = self._channel, None
        self._callables.clear()
        if channel is not None:
            await channel.close()

    def _callable(self, method: str, arity: str) -> Callable[..., Any]:
        self.check_open()
        if self._channel is None:
            self._loop = asyncio.get_running_loop()
            self._channel = self._opened()
        elif self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the connection to the node belongs to another event loop")
        found = self._callables.get(method)
        if found is None:
            found = self._callables[method] = getattr(self._channel, arity)(method)
        return found

    def _opened(self) -> grpc.aio.Channel:
        target, tls = self._address
        options = _options(self._keepalive_s)
        if not tls:
            return grpc.aio.insecure_channel(f"dns:///{target}", options=options)
        credentials = grpc.ssl_channel_credentials(self._root_certificates or _system_certificates())
        return grpc.aio.secure_channel(f"dns:///{target}", credentials, options=options)


def _options(keepalive_s: float) -> list[tuple[str, Any]]:
    answer_ms = round(min(keepalive_s, _KEEPALIVE_ANSWER_S) * 1000)
    return [
        ("grpc.max_receive_message_length", _MAX_RECEIVED_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", answer_ms),
        # Without it a dead connection is there for a minute, whatever is said above.
        ("grpc.http2.ping_timeout_ms", answer_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The limit is for every ping, also for those by which gRPC measures the line. On a slow one their answers wait
        # behind the data, and the connection would be given up. So nothing is measured, and what may be sent ahead is fixed.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _AHEAD_BYTES),
        # How long a connection attempt may take, and how soon after a failed one the next is made: the default goes up to
        # two minutes, in which a node that is back is not seen.
        ("grpc.min_reconnect_backoff_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.dns_min_time_between_resolutions_ms", 2_000),
        # Tries are counted in one place, which is not here.
        ("grpc.enable_retries", 0),
        # Nobody compresses here; a small message that becomes a large one is an attack.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Clients of one process have connections of their own.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", f"xmtp-history/{__version__}"),
    ]


def _system_certificates() -> bytes | None:
    """The system's certificates, or None where there are none: then gRPC has some of its own."""
    paths = ssl.get_default_verify_paths()
    path = Path(paths.cafile or paths.openssl_cafile)
    return path.read_bytes() if path.is_file() else None
