"""Errors as clients see them: a status, and a body in the form of RFC 9457."""

from __future__ import annotations

import errno
import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a client is told to wait before it tries again when nobody knows how long it takes, seconds.
RETRY_SECONDS = 5

#: Only more room helps.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_logger = logging.getLogger("xmtp_history.server")


class Refused(Exception):
    """The request gets an error for an answer.

    Args:
        status: of the answer. tus adds one that ``HTTPStatus`` does not have.
        kind: the end of the problem's type, the same for every problem of this kind.
        detail: a sentence for people.
        headers: of the answer.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})


def answer(refused: Refused) -> web.Response:
    """The answer that says what is wrong."""
    try:
        title = HTTPStatus(refused.status).phrase
    except ValueError:
        title = refused.detail.rstrip(".")
    described = {
        "type": f"urn:xmtp-history:{refused.kind}",
        "title": title,
        "status": refused.status,
        "detail": refused.detail,
    }
    return web.Response(
        status=refused.status,
        reason=title,
        body=json.dumps(described).encode(),
        content_type="application/problem+json",
        # An id that is not there yet must not be missing from caches later.
        headers={hdrs.CACHE_CONTROL: "no-store", **refused.headers},
    )


def bad_request(detail: str, headers: Mapping[str, str] | None = None) -> Refused:
    """The client does not keep to the protocol."""
    return Refused(HTTPStatus.BAD_REQUEST, "bad-request", detail, headers)


def not_found() -> Refused:
    """Unknown, malformed and expired are one: who does not know an id learns nothing."""
    return Refused(HTTPStatus.NOT_FOUND, "not-found", "There is nothing here.")


def broken_body() -> Refused:
    """The body did not end as HTTP says that a body ends."""
    return Refused(HTTPStatus.BAD_REQUEST, "incomplete-body", "The body is not complete.")


def too_large(limit: int) -> Refused:
    """The file is larger than files may be."""
    detail = f"A file may have at most {limit} bytes."
    headers = {"Upload-Limit": f"max-size={limit}", "Tus-Max-Size": str(limit)}
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", detail, headers)


def no_room() -> Refused:
    """The disk, or what the operator gives of it, is full."""
    return Refused(HTTPStatus.INSUFFICIENT_STORAGE, "no-room", "There is no room for the file.")


def too_many(kind: str, detail: str, seconds: float) -> Refused:
    """This client takes more than its share."""
    return Refused(HTTPStatus.TOO_MANY_REQUESTS, kind, detail, {hdrs.RETRY_AFTER: str(max(1, round(seconds)))})


def unavailable(kind: str, detail: str) -> Refused:
    """It is the server that cannot, at the moment."""
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, kind, detail, {hdrs.RETRY_AFTER: str(RETRY_SECONDS)})


def internal() -> Refused:
    """Nobody knows; the log does."""
    return Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The server is at fault.")


def storage_failed(error: OSError) -> Refused:
    """The storage could not do what it was asked to; the log gets the cause."""
    _logger.error("the storage failed: %s", cause(error))
    return no_room() if error.errno in _NO_ROOM else unavailable("storage-failed", "The storage does not work.")


def cause(error: OSError) -> str:
    """What went wrong, without the path: it can end in a file's id, and who reads logs is not to learn ids."""
    return error.strerror or type(error).__name__
