"""Servers that want to make an upload go wrong, and what must not come out in errors."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.faulty_server import FaultyServer, Upload, drop, early, on, raw, status
from support.uploads import DATA, SHORT, check, stream, upload
from xmtp_history import NetworkError, NoHistoryServer, SyncError, upload_archive


@pytest.mark.parametrize("offset", ["-1", "", "1e3", "999999999999999999", "9" * 5000, "0x10", "१", "1001", None])
@pytest.mark.parametrize("method", ["PATCH", "HEAD"])
def test_offsets_that_cannot_be(small_pieces: int, method: str, offset: str | None) -> None:
    headers = {} if offset is None else {"Upload-Offset": offset}
    code = 204 if method == "PATCH" else 200
    server = FaultyServer(
        on(method, status(code, **{name: value.encode().decode("latin-1") for name, value in headers.items()}))
    )
    if method == "HEAD":
        server.faults.insert(0, on("PATCH", drop(100)))
    if offset is not None and len(offset) > 4000:
        server.faults = server.faults * 20
    with pytest.raises((SyncError, NetworkError)):
        upload(server, stream(DATA))


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "http://attacker.invalid/upload/1",
        "https://127.0.0.1/upload/1",
        "//attacker.invalid/upload/1",
        "http://127.0.0.1:1/upload/1",
        "http://[::1/upload/1",
        "http://127.0.0.1:99999/upload/1",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
def test_uploads_that_are_elsewhere(small_pieces: int, location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    server = FaultyServer(on("POST", status(201, **headers)))
    with pytest.raises(SyncError, match="names no upload of its own"):
        upload(server, DATA, token="t0ken")  # noqa: S106
    assert server.methods() == ["OPTIONS", "POST"]


def test_a_server_that_never_says_where_the_file_is(small_pieces: int) -> None:
    class Silent(FaultyServer):
        def state(self, upload: Upload) -> dict[str, str]:
            state = super().state(upload)
            state.pop("Content-Location", None)
            return state

    for source in (DATA, stream(DATA)):
        with pytest.raises(SyncError, match="does not say where"):
            upload(Silent(), source)


def test_a_server_that_never_takes_the_length(small_pieces: int) -> None:
    class Deaf(FaultyServer):
        async def append(self, exchange: Any, upload: Upload, most: int | None = None) -> None:
            exchange.headers.pop("upload-length", None)
            await super().append(exchange, upload, most)

    server = Deaf()
    with pytest.raises(NetworkError, match="the end of the upload"):
        upload(server, stream(DATA))
    assert len(server.requests) < 50


def test_a_path_where_the_file_is(small_pieces: int) -> None:
    class Misleading(FaultyServer):
        def state(self, upload: Upload) -> dict[str, str]:
            state = super().state(upload)
            if "Content-Location" in state:
                state["Content-Location"] = self.where
            return state

    server = Misleading()
    server.where = "http://attacker.invalid/files/0123456789abcdef?x=/.."  # type: ignore[attr-defined]
    with pytest.raises(NoHistoryServer):
        upload(server, DATA)
    server = Misleading()
    server.where = "http://attacker.invalid/files/0123456789abcdef"  # type: ignore[attr-defined]
    assert upload(server, DATA).url == f"{server.url}/files/0123456789abcdef"


def test_an_answer_before_everything_was_sent() -> None:
    """A server that thinks that the archive ends in the middle."""
    server = FaultyServer(*[on("POST", early(200))] * 2, tus=False)
    data = bytes(20_000_000)
    check(server, upload(server, data), data)
    assert server.methods() == ["OPTIONS", "POST", "POST", "POST"]


def test_an_endless_answer() -> None:
    async def endless(_server: FaultyServer, exchange: Any) -> None:
        async for _ in exchange.body():
            pass
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    with pytest.raises(NoHistoryServer):
        upload(FaultyServer(endless), SHORT)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 Odd\r\n\r\n",
    ],
)
def test_answers_that_are_not_http(answer: bytes) -> None:
    with pytest.raises((NetworkError, SyncError)):
        upload(FaultyServer(*[raw(answer)] * 20), SHORT)


@pytest.mark.parametrize(
    "source",
    [None, 5, ["a"], io.StringIO("text" * 9999), object()],
    ids=lambda source: type(source).__name__,
)
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(TypeError):
        upload(FaultyServer(), source)


def test_a_stream_of_text() -> None:
    async def text() -> AsyncIterator[Any]:
        yield "text"

    with pytest.raises(TypeError, match="str"):
        upload(FaultyServer(), text())


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        upload(FaultyServer(), tmp_path / "missing")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "history.example.org",
        "ftp://history.example.org",
        "http://",
        "http:///path",
        "http://user:secret@",
        "http://h:99999",
        "http://h:port",
        "http://[::1",
        "http://h/?a=secret",
        "http://h/?",
        "file:///secret",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        asyncio.run(upload_archive(b"", url))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "a b", "secret\r\nX: y", "sécret", "\x00"])
def test_tokens_that_cannot_be_sent(token: str) -> None:
    with pytest.raises(ValueError) as caught:
        asyncio.run(upload_archive(b"", "http://h", token=token))
    assert "secret" not in str(caught.value)


def test_nothing_secret_in_errors(small_pieces: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    faults = [
        [status(403)], [status(404)], [status(200)], [on("POST", status(413))], [raw(b"x")] * 20, [drop()] * 20,
        [on("PATCH", drop(10))] * 100, [on("POST", status(201, Location="http://secret.invalid/secret"))],
        [on("HEAD", status(500))] * 20 + [on("PATCH", drop(10))], [on("PATCH", status(404))] * 100,
    ]  # fmt: skip
    for plan in faults:
        for source in (DATA, SHORT, stream(DATA)):
            server = FaultyServer(*plan)
            server.prefix = "/t/secret-path"

            async def main(server: FaultyServer = server, source: Any = source) -> None:
                async with server:
                    url = server.url.replace("://", "://user:secret-password@")
                    await upload_archive(source, url, token="secret-token")  # noqa: S106

            try:
                asyncio.run(main())
            except (SyncError, NetworkError) as error:
                assert "secret" not in str(error), error
                assert error.__suppress_context__ or error.__context__ is None or "secret" not in str(error.__context__)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("xmtp_history")]
    assert ours
    assert not [message for message in ours if re.search("secret", message)]
