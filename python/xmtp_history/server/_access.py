"""Who may upload, and whose request it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import os
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from xmtp_history.server._problems import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

#: How long the file of tokens is taken for unchanged, seconds.
_LOOK_SECONDS = 1.0

#: A token has at least so many characters: less can be guessed.
_LEAST_CHARACTERS = 16

_FORWARDED = "X-Forwarded-For"

_logger = logging.getLogger("xmtp_history.server")


@dataclass(frozen=True, slots=True)
class _Token:
    name: str
    sha256: bytes
    expires: float | None


class UploadTokens:
    """Tokens of which an upload has to show one.

    Clients show a token as ``Authorization: Bearer``, as the password of Basic authentication, which is what becomes of
    ``http://user:token@host``, or in the path, ``http://host/t/token``, which works with every XMTP SDK.

    Args:
        tokens: the tokens by the names that stand for them in limits; a token has at least 16 characters.

    Raises:
        ValueError: a token is too short.
    """

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._path: str | None = None
        self._stamp: tuple[int, int, int] | None = None
        self._looked = 0.0
        self._tokens = [_token(name, {"token": token}) for name, token in tokens.items()]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> UploadTokens:
        """Tokens of a TOML file, which is read again when it changes.

        It has a table for each token, whose name stands for the token in limits::

            [tokens.fleet]
            token = "…"             # or sha256 = "…", the hexadecimal SHA-256 of the token
            expires = 2027-06-30    # if it does; a date or a date and time, in UTC

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not such a file.
        """
        tokens = cls({})
        tokens._path = os.fspath(path)
        tokens._read()
        return tokens

    def check(self, shown: str | None) -> str:
        """The name of the token that was shown.

        Raises:
            Refused: it is none, unknown or expired.
        """
        self._look()
        # Headers may hold bytes that are no text.
        sha256 = hashlib.sha256((shown or "").encode(errors="surrogateescape")).digest()
        # All of them, so that the time does not tell how far it got.
        found = [token for token in self._tokens if hmac.compare_digest(token.sha256, sha256)]
        if not found or shown is None:
            headers: dict[str, str] = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="xmtp-history", Basic realm="xmtp-history"'}
            raise Refused(HTTPStatus.UNAUTHORIZED, "unauthorized", "An upload token is needed.", headers)
        (token, *_) = found
        if token.expires is not None and time.time() >= token.expires:
            raise Refused(HTTPStatus.FORBIDDEN, "token-expired", "The upload token has expired.")
        return token.name

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            changed = self._stamp != _stamp(self._path)
        except OSError:
            # It is being replaced, or gone by mistake: what was valid stays valid.
            return
        if changed:
            self._read_if_good()

    def _read_if_good(self) -> None:
        try:
            self._read()
        except (OSError, ValueError) as error:
            # No more than that: the file holds secrets, and so may its errors.
            _logger.error("the file of upload tokens was not read again: %s", type(error).__name__)  # noqa: TRY400

    def _read(self) -> None:
        if self._path is None:
            return
        stamp = _stamp(self._path)
        with open(self._path, "rb") as file:  # noqa: PTH123 - a str
            content = file.read()
        # Also if it is not good: it is read again, and complained about, when it has changed.
        self._stamp = stamp
        described = tomllib.loads(content.decode()).get("tokens", {})
        if not isinstance(described, dict):
            raise ValueError("tokens must be tables")  # noqa: TRY004 - of the file, not of a call
        self._tokens = [_token(name, entry) for name, entry in described.items()]


def _stamp(path: str) -> tuple[int, int, int]:
    found = os.stat(path)  # noqa: PTH116 - a str
    return found.st_mtime_ns, found.st_size, found.st_ino


def _token(name: str, described: Any) -> _Token:
    if not isinstance(described, dict) or ("token" in described) == ("sha256" in described):
        raise ValueError(f"upload token {name!r}: give either token or sha256")
    unknown = described.keys() - {"token", "sha256", "expires"}
    if unknown:
        raise ValueError(f"upload token {name!r}: unknown key {min(unknown)!r}")
    if "token" in described:
        token = described["token"]
        if not isinstance(token, str) or len(token) < _LEAST_CHARACTERS:
            raise ValueError(f"upload token {name!r}: a token is a text of at least {_LEAST_CHARACTERS} characters")
        sha256 = hashlib.sha256(token.encode()).digest()
    else:
        try:
            sha256 = bytes.fromhex(described["sha256"])
        except (TypeError, ValueError):
            sha256 = b""
        if len(sha256) != hashlib.sha256().digest_size:
            raise ValueError(f"upload token {name!r}: sha256 is a text of 64 hexadecimal digits")
    return _Token(name, sha256, _expiry(name, described.get("expires")))


def _expiry(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        # To its end.
        return (datetime(value.year, value.month, value.day, tzinfo=UTC) + timedelta(days=1)).timestamp()
    raise ValueError(f"upload token {name!r}: expires is a date, or a date and time")


def shown_token(request: web.BaseRequest, in_path: str | None) -> str | None:
    """The token that a request shows, if it shows one."""
    scheme, _, value = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value, validate=True).decode()
        except ValueError:
            return None
        user, _, password = decoded.partition(":")
        return password or user or None
    return in_path


class Proxies:
    """Proxies whose word about the client's address is taken.

    Args:
        networks: addresses or networks, such as ``10.0.0.0/8``.

    Raises:
        ValueError: one is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def client(self, request: web.BaseRequest) -> str:
        """The address of whoever sent a request."""
        peer = request.transport and request.transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) and peer else ""
        if not self._networks:
            return str(address)
        # From the last proxy back to the first one that nobody vouches for.
        return _walk(str(address), self._said(request), self._networks)

    @staticmethod
    def _said(request: web.BaseRequest) -> list[str]:
        text = ",".join(request.headers.getall(_FORWARDED, []))
        return [part.strip() for part in text.split(",") if part.strip()]


def _walk(address: str, before: list[str], trusted: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> str:
    while before:
        try:
            parsed = ipaddress.ip_address(address)
            ipaddress.ip_address(before[-1])
        except ValueError:
            break
        if not any(parsed in network for network in trusted):
            break
        address = before.pop()
    return address
