"""Uploading to a good server, and to others that refuse, over real connections."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.faulty_server import FaultyServer, early, on, status
from support.uploads import DATA, KINDS, SHORT, check, proper, stream, upload
from xmtp_history import NoHistoryServer, PayloadTooLarge, Progress, SyncError, upload_archive


@pytest.fixture(params=sorted(KINDS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bytes], Any]:
    return lambda data: KINDS[request.param](data, tmp_path / "archive.xmtp")


# --- without faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 9999, 10_000])
@pytest.mark.parametrize("tus", [True, False])
def test_everything_arrives(source: Callable[[bytes], Any], small_pieces: int, size: int, tus: bool) -> None:
    server = FaultyServer(tus=tus)
    check(server, upload(server, source(DATA[:size])), DATA[:size])
    expected = ["POST"] if size < 1000 or not tus else None
    if expected:
        assert [method for method in server.methods() if method != "OPTIONS"] == expected


def test_a_large_archive_goes_up_in_pieces(small_pieces: int) -> None:
    server = FaultyServer()
    check(server, upload(server, DATA), DATA)
    assert server.methods() == ["OPTIONS", "POST", *["PATCH"] * 10]
    assert {request.headers["content-length"] for request in server.requests[2:]} == {"1000"}
    assert server.requests[1].headers["upload-length"] == "10000"


def test_a_stream_tells_its_length_at_the_end(small_pieces: int) -> None:
    server = FaultyServer()
    check(server, upload(server, stream(DATA[:2500])), DATA[:2500])
    assert server.requests[1].headers["upload-defer-length"] == "1"
    assert [request.headers.get("upload-length") for request in server.requests[2:]] == [None, None, "2500"]


def test_a_short_stream_has_a_length_too() -> None:
    server = FaultyServer()
    check(server, upload(server, stream(SHORT)), SHORT)
    (request,) = server.requests
    assert request.headers["content-length"] == str(len(SHORT))
    assert request.headers["content-type"] == "application/octet-stream"
    assert request.headers["accept-encoding"] == "identity"
    assert not {"authorization", "cookie", "referer"} & set(request.headers)


def test_a_file_is_read_from_where_it_stands(small_pieces: int) -> None:
    file = io.BytesIO(b"before" + DATA)
    file.seek(6)
    server = FaultyServer()
    check(server, upload(server, file), DATA)
    assert not file.closed


def test_a_pipe_is_a_stream(tmp_path: Path, small_pieces: int) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(DATA,))
    writer.start()
    server = FaultyServer()
    check(server, upload(server, pipe), DATA)
    writer.join()


@pytest.mark.parametrize("prefix", ["", "/history/t/secrettoken"])
@pytest.mark.parametrize("slash", ["", "/", "//"])
@pytest.mark.parametrize("size", [500, 5000])
def test_forms_of_the_server_url(small_pieces: int, prefix: str, slash: str, size: int) -> None:
    server = FaultyServer()
    server.prefix = prefix

    async def main() -> None:
        async with server:
            uploaded = await upload_archive(DATA[:size], server.url + slash)
        check(server, uploaded, DATA[:size])

    asyncio.run(main())


@pytest.mark.parametrize("size", [500, 5000])
def test_credentials(small_pieces: int, size: int) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            with_user = server.url.replace("://", "://us%20er:p%40ss@")
            uploaded = await upload_archive(DATA[:size], with_user)
            check(server, uploaded, DATA[:size])
            expected = "Basic " + base64.b64encode(b"us er:p@ss").decode()
            assert {request.headers["authorization"] for request in server.requests} == {expected}
            server.requests.clear()
            # What is said explicitly comes first.
            await upload_archive(DATA[:size], with_user, token="t0ken")  # noqa: S106
            assert {request.headers["authorization"] for request in server.requests} == {"Bearer t0ken"}

    asyncio.run(main())


def test_netrc_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server = FaultyServer()
    upload(server, SHORT)
    assert "authorization" not in server.requests[0].headers


def test_proxies_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with FaultyServer() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url.replace("://", "://user:secret@"))
            proxy.prefix = "http://history.invalid"
            uploaded = await upload_archive(SHORT, proxy.prefix)
            assert uploaded.url.startswith("http://history.invalid/files/")
            headers = proxy.requests[0].headers
            assert headers["proxy-authorization"] == "Basic " + base64.b64encode(b"user:secret").decode()
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with FaultyServer() as direct:
                await upload_archive(SHORT, direct.url)
                assert len(direct.requests) == 1

    asyncio.run(main())


def test_progress(small_pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmtp_history.sync import _progress

    monkeypatch.setattr(_progress, "_INTERVAL", 0)
    for tus in (True, False):
        seen: list[Progress] = []
        upload(FaultyServer(tus=tus), stream(DATA), on_progress=seen.append)
        done = [progress.bytes_done for progress in seen]
        assert done == [*range(100, 10_001, 100), 10_000]
        assert {progress.phase for progress in seen} == {"upload"}
        assert seen[-1] == Progress("upload", 0, None, 10_000, 10_000 if tus else None)


def test_progress_is_rare_and_ends_at_the_end() -> None:
    seen: list[Progress] = []
    upload(FaultyServer(), DATA, on_progress=seen.append)
    assert seen[-1] == Progress("upload", 0, None, 10_000, 10_000)
    assert len(seen) <= 3


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (status(413), PayloadTooLarge, 413),
        (early(413), PayloadTooLarge, 413),
        (status(401), SyncError, 401),
        (status(403), SyncError, 403),
        (status(507), SyncError, 507),
        (early(507), SyncError, 507),
        (status(400), SyncError, 400),
        (status(412), SyncError, 412),
        (status(301, Location="/elsewhere"), SyncError, 301),
        (status(307, Location="/elsewhere"), SyncError, 307),
        (status(308, Location="http://127.0.0.1:1/"), SyncError, 308),
        (status(304), SyncError, 304),
    ],
)
def test_refusals_are_final(
    small_pieces: int, delays: list[float], method: str, fault: Any, kind: type[SyncError], code: int
) -> None:
    server = FaultyServer(on(method, fault))
    with pytest.raises(SyncError) as caught:
        upload(server, stream(DATA))
    assert type(caught.value) is kind
    assert caught.value.status == code
    assert delays == []
    assert server.uploads == {}
    assert all("elsewhere" not in request.target for request in server.requests)


@pytest.mark.parametrize("code", [404, 405])
def test_no_history_server(code: int) -> None:
    with pytest.raises(NoHistoryServer) as caught:
        upload(FaultyServer(status(code)), SHORT)
    assert caught.value.status == code


@pytest.mark.parametrize(
    "body", [b"", b"<html>Please log in</html>", b"..", b"a/b", b'"quoted-quoted"', b"\xff" * 36, b"x" * 5000]
)
def test_an_answer_without_an_id(body: bytes) -> None:
    """What is published must be an archive that can be fetched."""
    with pytest.raises(NoHistoryServer):
        upload(FaultyServer(status(200, body)), SHORT)
    with pytest.raises(SyncError):
        upload(FaultyServer(status(204)), SHORT)


def test_a_line_end_after_the_id_is_tolerated() -> None:
    server = FaultyServer(status(201, b"0123456789abcdef\r\n"))
    assert upload(server, SHORT).url == f"{server.url}/files/0123456789abcdef"


def test_the_reference_server_says_400_for_what_is_too_large() -> None:
    for source, kind in ((bytes(15_000_001), PayloadTooLarge), (bytes(100_000), SyncError)):
        with pytest.raises(SyncError) as caught:
            upload(FaultyServer(on("POST", status(400)), tus=False), source)
        assert type(caught.value) is kind


def test_what_the_server_announces_as_too_large(small_pieces: int) -> None:
    server = FaultyServer()
    server.max_bytes = 5000
    with pytest.raises(PayloadTooLarge, match="5,000"):
        upload(server, DATA)
    assert server.methods() == ["OPTIONS"]
    server.requests.clear()
    with pytest.raises(PayloadTooLarge, match="5,000"):
        upload(server, stream(DATA))
    assert server.uploads == {}
    assert sum(request.received for request in server.requests) == 5000


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("tus", [True, False])
def test_the_callers_limit(small_pieces: int, tmp_path: Path, kind: str, tus: bool) -> None:
    server = FaultyServer(tus=tus)
    with pytest.raises(PayloadTooLarge, match="9,999"):
        upload(server, KINDS[kind](DATA, tmp_path / "x"), max_bytes=9_999)
    assert server.files == {}
    server = FaultyServer(tus=tus)
    check(server, upload(server, KINDS[kind](DATA, tmp_path / "x"), max_bytes=10_000), DATA)


def test_a_digest_of_something_else() -> None:
    wrong = f'"{"0" * 64}"'
    with pytest.raises(SyncError, match="something else"):
        upload(FaultyServer(status(200, b"0123456789", ETag=wrong)), SHORT)
    for other in ('"abc"', f"W/{wrong}", "0" * 64):
        assert upload(FaultyServer(status(200, b"0123456789", ETag=other)), SHORT).delete_capability is None


def test_a_wrong_digest_after_pieces(small_pieces: int) -> None:
    async def altered(server: FaultyServer, exchange: Any) -> None:
        (upload,) = server.uploads.values()
        upload.data[:1] = bytes([upload.data[0] ^ 1])
        await server.answer(exchange)

    with pytest.raises(SyncError, match="something else"):
        upload(FaultyServer(on("PATCH", proper), on("PATCH", altered)), DATA)
