"""URLs of servers and archives, and what of them may be shown.

A URL can hold a user's password, a token in its path, and an id that is all it takes to fetch an archive. So a message
only ever names the server and the first characters of an id.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from yarl import URL

from xmtp_history._errors import SyncError

_SHOWN = 8
_PLAIN = re.compile(r"[\x21-\x7e]+")
_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Place:
    """A URL without user and password, and what to send to nobody but its server."""

    url: URL = field(repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that show who asks."""
        return {} if self.authorization is None else {"Authorization": self.authorization}

    @property
    def server(self) -> str:
        """Scheme, host and port."""
        return str(self.url.origin())

    @property
    def archive(self) -> str:
        """The archive at this URL, to be named in a message."""
        return f"archive {self.url.raw_name[:_SHOWN]}… on {self.server}"

    def at(self, url: URL) -> Place:
        """Another URL of the same server."""
        return Place(url, self.authorization)

    def below(self, path: str) -> Place:
        """A path below this URL."""
        return self.at(URL(f"{self.url}/{path}", encoded=True))


def history_server(url: str, token: str | None) -> Place:
    """The base URL of a history server, which may have a path, a final slash, and a user and password.

    Raises:
        ValueError: it is not such a URL, or the token cannot be sent.
    """
    place = archive(url, token)
    if place.url.raw_query_string or "?" in url:
        # Every SDK appends "/upload" to it.
        raise ValueError("the URL of a history server cannot have a query")
    return place.at(URL(str(place.url).rstrip("/"), encoded=True))


def archive(url: str, token: str | None) -> Place:
    """The URL of an archive, which may have a user and password.

    Raises:
        ValueError: it is not such a URL, or the token cannot be sent.
    """
    try:
        parsed = _parsed(url) if _PLAIN.fullmatch(url) else URL(url)
        user, password = parsed.user, parsed.password
    except (ValueError, TypeError):
        # The original message could repeat a password.
        parsed, user, password = URL(), None, None
    if parsed.scheme not in _SCHEMES or not parsed.host:
        raise ValueError("expected a URL such as https://history.example.org")
    authorization = None
    if token is not None:
        authorization = f"Bearer {header_value(token, 'token')}"
    elif user is not None or password is not None:
        authorization = basic(user, password)
    return Place(_bare(parsed), authorization)


def basic(user: str | None, password: str | None) -> str:
    """Basic authentication, as a header has it."""
    pair = f"{user or ''}:{password or ''}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def header_value(text: str, what: str) -> str:
    """A secret, if it can be sent in a header.

    Raises:
        ValueError: it cannot; the message does not repeat it.
    """
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"the {what} is empty, or has spaces or characters outside of ASCII")
    return text


def redirected(url: URL, location: str | None) -> URL:
    """Where an answer with this ``Location`` sends a download: never from one scheme to another.

    Raises:
        SyncError: nowhere that it may go.
    """
    target = _joined(url, location)
    if target is None:
        raise SyncError(f"{url.origin()} redirects to something that is not a URL")
    if target.scheme != url.scheme:
        # http to https as well: who could change the redirect can read along, and the URL was given as it was.
        raise SyncError(f"{url.origin()} redirects from {url.scheme} to another scheme, which is not followed")
    return _bare(target)


def upload_resource(server: Place, location: str | None) -> Place:
    """The resource of a resumable upload, which has to be on the same server.

    Like the SDKs do it with files, the name is put below the URL we were given: the server may not know what stands before
    it in the path.

    Raises:
        SyncError: it is not there.
    """
    target = _joined(server.url, location)
    if target is None or target.origin() != server.url.origin():
        raise SyncError(f"{server.server} names no upload of its own to continue with")
    before, _, name = target.raw_path.rpartition("/")
    if before.endswith("/upload") and name and not target.raw_query_string:
        return server.below(f"upload/{name}")
    return server.at(_bare(target))


def _joined(base: URL, location: str | None) -> URL | None:
    """What a ``Location`` means, or None if it is not a URL that leads to a host."""
    if location is None or not _PLAIN.fullmatch(location):
        return None
    try:
        target = base.join(_parsed(location))
    except ValueError:
        return None
    return target if target.host else None


def _parsed(text: str) -> URL:
    # As it stands: the signature of a presigned URL covers its exact spelling.
    url = URL(text, encoded=True)
    # A port that is none is only noticed now.
    _ = url.port
    return url


def _bare(url: URL) -> URL:
    return url.with_user(None).with_fragment(None) if url.host else url
