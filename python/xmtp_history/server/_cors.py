"""Cross-origin requests: pages of every origin may upload and download, without credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from collections.abc import Mapping

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#: What scripts may read of an answer, beyond what they always may.
_EXPOSED = (
    "Location, Content-Location, ETag, Content-Range, Accept-Ranges, Retry-After, Delete-Capability, Tus-Resumable, "
    "Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm, Upload-Offset, Upload-Length, Upload-Defer-Length, "
    "Upload-Metadata, Upload-Expires, Upload-Limit"
)
_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
_MAX_AGE = "3600"


def is_preflight(request: web.BaseRequest) -> bool:
    """Whether a browser asks if it may send the request that a page wants."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def preflight(request: web.BaseRequest) -> web.Response:
    """The answer to a preflight: yes."""
    headers = {hdrs.ACCESS_CONTROL_ALLOW_METHODS: _METHODS, hdrs.ACCESS_CONTROL_MAX_AGE: _MAX_AGE}
    wanted = _repeatable(request.headers, hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
    if wanted is not None:
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    return web.Response(headers=headers)


def allow(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Lets the page that sent the request read the answer, whatever the answer is."""
    response.headers[hdrs.VARY] = _VARY
    origin = _repeatable(request.headers, hdrs.ORIGIN)
    if origin is not None:
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


def _repeatable(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, if it may go into an answer: a request can hold bytes that no answer can be written with."""
    value = headers.get(name)
    return value if value is not None and value.isascii() and value.isprintable() else None
