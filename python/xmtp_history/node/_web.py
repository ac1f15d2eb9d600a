"""gRPC-Web: the same calls for browsers, over HTTP/1.1 (node specification, section 10).

A request is one frame; the answer is a frame for each message and a last one with the status. Pages of every origin may
call, as on the network itself. A bidirectional stream cannot be carried.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import struct
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from aiohttp import hdrs, web
from grpc import StatusCode

from xmtp_history.node._calls import calls, encode, status
from xmtp_history.node._limits import MAX_REQUEST_BYTES
from xmtp_history.node._refused import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from xmtp_history.node._calls import Service

_HEAD: Final = struct.Struct(">BI")
_MESSAGE, _TRAILERS = 0x00, 0x80
_BINARY: Final = "application/grpc-web+proto"
_TEXT: Final = "application/grpc-web-text"
#: What the proxy in front of the official node allows.
_CORS: Final = {
    hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*",
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, PUT, DELETE, POST, OPTIONS",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: (
        "keep-alive,user-agent,cache-control,content-type,content-transfer-encoding,x-accept-content-transfer-encoding,"
        "x-accept-response-streaming,x-user-agent,x-grpc-web,grpc-timeout,x-libxmtp-version,x-app-version"
    ),
    hdrs.ACCESS_CONTROL_MAX_AGE: "1728000",
    hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: "grpc-status,grpc-message,grpc-status-details-bin",
}


class WebServer:
    """Serves services to browsers on a port of its own."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._calls = {
            f"/{service.DESCRIPTOR.full_name}/{call.name}": call
            for service in services
            for call in calls(service)
            if not call.client_streaming
        }
        self._runner: web.AppRunner | None = None

    async def start(self, hosts: list[str], port: int) -> int:
        """Listens on the first host, and on the others where they exist; returns the port.

        Raises:
            OSError: the port is in use, or the host is not one of this machine.
        """
        application = web.Application(client_max_size=MAX_REQUEST_BYTES + _HEAD.size)
        application.router.add_route("*", "/{path:.*}", self._answer)
        # A stream ends when its page is closed. The log would hold nothing of use.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        first, *others = hosts
        await web.TCPSite(self._runner, first, port).start()
        bound: int = self._runner.addresses[0][1]
        for host in others:
            with contextlib.suppress(OSError):
                await web.TCPSite(self._runner, host, bound).start()
        return bound

    async def aclose(self) -> None:
        """Stops listening. Streams have to be ended before."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(headers=_CORS)
        if request.method in {hdrs.METH_GET, hdrs.METH_HEAD} and request.path in {"/", "/healthz", "/readyz"}:
            return web.Response(headers=_CORS)
        content_type = request.content_type
        if request.method != hdrs.METH_POST or not content_type.startswith("application/grpc-web"):
            return web.Response(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, headers=_CORS)
        text = content_type.startswith(_TEXT)
        response = web.StreamResponse(headers={**_CORS, hdrs.CONTENT_TYPE: f"{_TEXT}+proto" if text else _BINARY})
        # Before the first message: a page would wait for the headers otherwise.
        await response.prepare(request)
        code, details = StatusCode.OK, ""
        try:
            async for message in self._call(request, text=text):
                await _write(response, _MESSAGE, message, text=text)
        except ConnectionResetError:
            return response
        except Exception as error:  # noqa: BLE001 - every exception has a status
            code, details = status(error)
        trailers = f"grpc-status:{code.value[0]}\r\ngrpc-message:{quote(details)}\r\n"
        with contextlib.suppress(ConnectionResetError):
            await _write(response, _TRAILERS, trailers.encode(), text=text)
            await response.write_eof()
        return response

    async def _call(self, request: web.Request, *, text: bool) -> AsyncIterator[bytes]:
        call = self._calls.get(request.path)
        if call is None:
            raise Refused(StatusCode.UNIMPLEMENTED, "there is no such method, or it cannot be called from a browser")
        result = await call.function(call.decode(await _message(request, text=text)))
        if not call.server_streaming:
            yield encode(result)
            return
        async for response in result:
            yield encode(response)


async def _message(request: web.Request, *, text: bool) -> bytes:
    """The one message of a request."""
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refused(StatusCode.RESOURCE_EXHAUSTED, f"a request has at most {MAX_REQUEST_BYTES} bytes") from None
    if text:
        try:
            body = base64.b64decode(body, validate=True)
        except binascii.Error:
            raise Refused(StatusCode.INVALID_ARGUMENT, "the request is not base64") from None
    if len(body) < _HEAD.size:
        raise Refused(StatusCode.INVALID_ARGUMENT, "the request has no frame")
    flags, size = _HEAD.unpack_from(body)
    if flags != _MESSAGE or size != len(body) - _HEAD.size:
        raise Refused(StatusCode.INVALID_ARGUMENT, "the request is not one whole uncompressed frame")
    return body[_HEAD.size :]


async def _write(response: web.StreamResponse, flags: int, message: bytes, *, text: bool) -> None:
    frame = _HEAD.pack(flags, len(message)) + message
    await response.write(base64.b64encode(frame) if text else frame)
