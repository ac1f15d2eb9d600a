"""Downloading from servers that misbehave, and deleting, over real connections."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import random
from pathlib import Path
from typing import Any

import pytest

from support.faulty_server import Exchange, FaultyServer, Hangup, cut, drop, lose, names, raw, stall, status, until
from support.files import BoomError, Fails
from xmtp_history import (
    ArchiveExpired,
    ArchiveNotFound,
    DownloadedArchive,
    NetworkError,
    PayloadTooLarge,
    Progress,
    SyncError,
    delete_archive,
    download_archive,
)
from xmtp_history.sync._stream import ArchiveStream

DATA = random.Random(2).randbytes(200_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
TENTHS = range(11)
WRONG_TAG = f'"{"0" * 64}"'


def download(server: FaultyServer, data: bytes = DATA, **options: Any) -> tuple[bytes, DownloadedArchive]:
    """Downloads a file that the server has, and checks that nothing is left behind."""

    async def main() -> tuple[bytes, DownloadedArchive]:
        async with server:
            url = server.add(data)
            target = io.BytesIO()
            try:
                report = await download_archive(url, target, **options)
            finally:
                await server.settled()
            return target.getvalue(), report

    return asyncio.run(main())


def check(server: FaultyServer, *, verified: bool = True, **options: Any) -> None:
    received, report = download(server, **options)
    assert received == DATA
    assert report == DownloadedArchive(len(DATA), DIGEST, verified)


# --- without faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
def test_everything_arrives(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)

    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(data)
            report = await download_archive(url, tmp_path / "archive.xmtp")
            assert report == DownloadedArchive(size, hashlib.sha256(data).hexdigest(), verified=True)
            (request,) = server.requests
            assert request.headers["accept-encoding"] == "identity"
            assert not {"range", "authorization", "cookie", "referer"} & set(request.headers)

    asyncio.run(main())
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == data
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_digest_it_says_so() -> None:
    check(FaultyServer(tags=False), verified=False)


def test_credentials() -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(DATA)
            with_user = url.replace("://", "://user:p%40ss@")
            await download_archive(with_user + "#fragment", io.BytesIO())
            await download_archive(with_user, io.BytesIO(), token="t0ken")  # noqa: S106
            first, second = server.requests
            assert first.headers["authorization"] == "Basic " + base64.b64encode(b"user:p@ss").decode()
            assert second.headers["authorization"] == "Bearer t0ken"
            assert "@" not in first.target
            assert "#" not in first.target

    asyncio.run(main())


def test_the_query_of_a_presigned_url_stays_as_it_is() -> None:
    query = "X-Signature=a%2Fb%2bc+d~%7e&empty=&X-Date=2026"

    async def main() -> None:
        async with FaultyServer() as server:
            await download_archive(f"{server.add(DATA)}?{query}", io.BytesIO())
            assert server.requests[0].target.partition("?")[2] == query

    asyncio.run(main())


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmtp_history.sync import _progress

    monkeypatch.setattr(_progress, "_INTERVAL", 0)
    seen: list[Progress] = []
    download(FaultyServer(cut(70_000)), on_progress=seen.append)
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == Progress("download", 0, None, len(DATA), len(DATA))


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenth", TENTHS)
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("tags", [False, True])
def test_a_download_that_breaks_off_goes_on_there(
    tenth: int, reset: bool, chunked: bool, ranges: bool, tags: bool
) -> None:
    part = tenth * len(DATA) // 10
    server = FaultyServer(*[cut(part, reset=reset, chunked=chunked)] * 2, ranges=ranges, tags=tags)
    check(server, verified=tags)
    if ranges and tags and 0 < tenth < 10 and not reset:
        assert [request.headers.get("range") for request in server.requests[:2]] == [None, f"bytes={part}-"]
        assert server.requests[1].headers["if-range"] == f'"{DIGEST}"'
    else:
        assert tags or all("range" not in request.headers for request in server.requests)


def test_everything_came_but_the_end() -> None:
    """Chunked, without the last chunk: only the server knows that nothing is missing."""
    server = FaultyServer(cut(len(DATA), chunked=True))
    check(server)
    assert server.requests[1].headers["range"] == f"bytes={len(DATA)}-"


def test_progress_renews_the_tries() -> None:
    check(FaultyServer(*[cut(2000)] * 60))


@pytest.mark.parametrize("ranges", [False, True])
def test_no_progress_ends_it(ranges: bool) -> None:
    server = FaultyServer(cut(2000), *[cut(0 if ranges else 2000)] * 60, ranges=ranges)
    with pytest.raises(NetworkError, match=r"ended too early|broke"):
        download(server)
    assert len(server.requests) == 8


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_failures_of_the_server_are_tried_again(code: int, delays: list[float]) -> None:
    check(FaultyServer(status(code), status(code, Retry_After="3"), cut(1000), status(code)))
    assert delays == [0.5, 4.0, 0.5, 1.0]


def test_tries_are_limited(delays: list[float]) -> None:
    with pytest.raises(NetworkError) as caught:
        download(FaultyServer(*[status(503, Retry_After="1")] * 50))
    assert caught.value.status == 503
    assert len(delays) == 7


def test_nobody_there(delays: list[float]) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(DATA)
        with pytest.raises(NetworkError):
            await download_archive(url, io.BytesIO())

    asyncio.run(main())
    assert len(delays) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
def test_answers_that_are_not_http(answer: bytes) -> None:
    with pytest.raises(NetworkError):
        download(FaultyServer(*[raw(answer)] * 20))
    check(FaultyServer(raw(answer), cut(1000), raw(answer)))


# --- is it the same file? --------------------------------------------------------------------------------------------


def changing(server: FaultyServer, data: bytes, **properties: Any) -> Any:
    """A fault: part of the old file is sent, and then there is a new one."""

    async def fault(_server: FaultyServer, exchange: Exchange) -> None:
        old = server.files[exchange.name]
        server.files[exchange.name] = data
        for key, value in properties.items():
            setattr(server, key, value)
        await exchange.answer(200, server.tag(old), old[:50_000], length=len(old))
        raise Hangup

    server.faults.append(fault)
    return server


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        random.Random(5).randbytes(200_000),
        DATA + b"more",
        DATA[:-1],
        DATA[:10],
        b"",
        bytes([DATA[0] ^ 1]) + DATA[1:],
        DATA[:49_999] + bytes([DATA[49_999] ^ 1]) + DATA[50_000:],
    ],
    ids=["other", "longer", "shorter", "tiny", "empty", "first", "boundary"],
)
def test_a_file_that_changes(ranges: bool, tags: bool, other: bytes) -> None:
    with pytest.raises(SyncError, match="changed"):
        download(changing(FaultyServer(ranges=ranges, tags=tags), other))


def test_a_file_that_changes_while_its_size_is_unknown() -> None:
    server = FaultyServer(cut(50_000, chunked=True))

    async def swap(server: FaultyServer, exchange: Exchange) -> None:
        server.files = dict.fromkeys(server.files, b"other" * 10)
        await server.answer(exchange)

    server.faults.append(swap)
    with pytest.raises(SyncError, match="changed"):
        download(server)


def test_a_file_that_goes_away() -> None:
    for code, kind in ((404, ArchiveNotFound), (410, ArchiveExpired)):
        with pytest.raises(kind):
            download(FaultyServer(cut(50_000), status(code)))


def test_a_server_that_ignores_if_range() -> None:
    """It sends the rest of another file; its ETag and its size give it away."""
    for headers in (
        {"ETag": WRONG_TAG, "Content-Range": "bytes 50000-199999/200000"},
        {"Content-Range": "bytes 50000-199999/200001"},
        {"Content-Range": "bytes 50001-199999/200000"},
        {"Content-Range": "bytes 0-199999/200001"},
    ):

        async def rest(_server: FaultyServer, exchange: Exchange, headers: dict[str, str] = headers) -> None:
            await exchange.answer(206, headers, DATA[50_000:])

        with pytest.raises(SyncError, match="changed"):
            download(FaultyServer(cut(50_000), rest))


def test_other_bytes_under_the_same_tag() -> None:
    async def rest(server: FaultyServer, exchange: Exchange) -> None:
        headers = {"Content-Range": "bytes 50000-199999/200000", **server.tag(DATA)}
        await exchange.answer(206, headers, bytes(150_000))

    with pytest.raises(SyncError, match="damaged"):
        download(FaultyServer(cut(50_000), rest))


def test_a_lying_tag() -> None:
    with pytest.raises(SyncError, match="damaged"):
        download(FaultyServer(status(200, DATA, ETag=WRONG_TAG)))


@pytest.mark.parametrize("tag", [f"W/{WRONG_TAG}", "0" * 64, '"abc"', '"', f'"{"g" * 64}"', '"a"b"'])
def test_tags_that_are_no_digest(tag: str) -> None:
    check(FaultyServer(status(200, DATA, ETag=tag)), verified=False)


def test_only_strong_tags_decide_about_ranges() -> None:
    async def half(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(200, {"ETag": '"abc"'}, DATA[:1000], length=len(DATA))
        raise Hangup

    async def rest(_server: FaultyServer, exchange: Exchange) -> None:
        assert exchange.headers["if-range"] == '"abc"'
        await exchange.answer(206, {"Content-Range": "bytes 1000-199999/200000"}, DATA[1000:])

    check(FaultyServer(half, rest), verified=False)

    async def weak(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(200, {"ETag": 'W/"abc"'}, DATA[:1000], length=len(DATA))
        raise Hangup

    server = FaultyServer(weak, tags=False)
    check(server, verified=False)
    assert "range" not in server.requests[1].headers


@pytest.mark.parametrize(
    "content_range",
    [
        None, "", "bytes", "bytes */*", "bytes 50000-199999/*", "bytes -5-7/200000", "bytes 50000-199999/-1",
        "bytes ५००००-199999/200000", "items 50000-199999/200000", "bytes 50000-199999/200000, bytes 1-2/3",
        f"bytes {'9' * 5000}-199999/200000",
    ],
)  # fmt: skip
def test_ranges_that_say_nothing(content_range: str | None) -> None:
    headers = {} if content_range is None else {"Content-Range": content_range.encode().decode("latin-1")}

    async def rest(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(206, headers, DATA[50_000:])

    with pytest.raises(SyncError):
        download(FaultyServer(cut(50_000), rest))


def test_a_part_that_nobody_asked_for() -> None:
    for code in (206, 416, 412, 304):
        with pytest.raises(SyncError):
            download(FaultyServer(status(code, b"", Content_Range="bytes 0-0/1")))


def test_less_than_the_range_asked_for() -> None:
    async def some(_server: FaultyServer, exchange: Exchange) -> None:
        start = int(exchange.headers["range"][6:-1])
        await exchange.answer(206, {"Content-Range": f"bytes {start}-{start + 9}/200000"}, DATA[start : start + 10])

    server = FaultyServer(cut(50_000), *[some] * 30)
    check(server)


def test_more_than_was_said() -> None:
    async def rest(server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(206, {"Content-Range": "bytes 50000-199999/200000"}, DATA[50_000:] + b"more")

    with pytest.raises(SyncError, match="more than it said"):
        download(FaultyServer(cut(50_000), rest))


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    with pytest.raises(SyncError, match="encoded"):
        download(FaultyServer(status(200, DATA, Content_Encoding=encoding)))


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (404, ArchiveNotFound),
        (410, ArchiveExpired),
        (401, SyncError),
        (403, SyncError),
        (400, SyncError),
        (405, SyncError),
        (507, SyncError),
        (204, SyncError),
        (201, SyncError),
        (304, SyncError),
        (505, SyncError),
    ],
)
def test_refusals_are_final(delays: list[float], tmp_path: Path, code: int, kind: type[SyncError]) -> None:
    async def main() -> None:
        async with FaultyServer(status(code)) as server:
            with pytest.raises(SyncError) as caught:
                await download_archive(server.add(DATA), tmp_path / "x")
            assert type(caught.value) is kind
            assert caught.value.status == code
            assert len(server.requests) == 1

    asyncio.run(main())
    assert delays == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit(chunked: bool) -> None:
    check(FaultyServer(cut(1_000_000, chunked=chunked)) if chunked else FaultyServer(), max_bytes=len(DATA))
    with pytest.raises(PayloadTooLarge, match="199,999"):
        download(FaultyServer(cut(1_000_000, chunked=True)) if chunked else FaultyServer(), max_bytes=len(DATA) - 1)


def test_an_endless_body() -> None:
    async def endless(_server: FaultyServer, exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await exchange.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    with pytest.raises(PayloadTooLarge):
        download(FaultyServer(endless), max_bytes=1_000_000)


@pytest.mark.parametrize("length", [4 * 1024**3 + 1, 10**18])
def test_a_size_that_is_too_large_is_not_even_begun(length: int) -> None:
    server = FaultyServer(*[raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)] * 20)
    with pytest.raises(PayloadTooLarge):
        download(server)
    assert len(server.requests) == 1


def test_a_body_without_length_ends_with_the_connection() -> None:
    check(FaultyServer(raw(b"HTTP/1.0 200 OK\r\n\r\n" + DATA)), verified=False)


# --- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_to_another_host(code: int) -> None:
    async def main() -> None:
        async with FaultyServer() as store, FaultyServer() as server:
            presigned = store.add(DATA).replace("127.0.0.1", "user:secret@localhost") + "?Signature=a%2Fb"
            for plan in ([], [cut(50_000)]):
                store.faults = list(plan)
                server.faults = [status(code, Location=presigned)] * (1 + len(plan))
                server.requests.clear()
                store.requests.clear()
                url = server.url.replace("://", "://user:secret@") + "/files/0123456789"
                target = io.BytesIO()
                await download_archive(url, target)
                assert target.getvalue() == DATA
                assert all("authorization" in request.headers for request in server.requests)
                for request in store.requests:
                    assert not {"authorization", "referer", "cookie"} & set(request.headers)
                    assert request.target.endswith("?Signature=a%2Fb")
                # A presigned URL may have expired meanwhile: the way begins at the start.
                assert len(server.requests) == len(store.requests) == 1 + len(plan)
                assert [request.headers.get("range") for request in store.requests] == [None, "bytes=50000-"][
                    : 1 + len(plan)
                ]

    asyncio.run(main())


def test_a_redirect_on_the_same_server_gets_no_credentials_either() -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            path = server.add(DATA).removeprefix(server.url)
            server.faults = [status(302, Location=path), status(307, Location="../files/" + path.rpartition("/")[2])]
            await download_archive(f"{server.url}/files/first", io.BytesIO(), token="t0ken")  # noqa: S106
            assert [request.headers.get("authorization") for request in server.requests] == ["Bearer t0ken", None, None]

    asyncio.run(main())


@pytest.mark.parametrize(
    "location",
    [
        None, "", " ", "https://127.0.0.1:1/", "https:///x", "ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x",
        "javascript:alert(1)", "http://[::1", "http://127.0.0.1:99999/", "http://127.0.0.1:x/", "\x7f", "é",
    ],
)  # fmt: skip
def test_redirects_that_are_not_followed(delays: list[float], location: str | None) -> None:
    headers = {} if location is None else {"Location": location}
    with pytest.raises(SyncError, match="redirects"):
        download(FaultyServer(status(302, **headers)))
    assert delays == []


def test_from_https_to_http_neither() -> None:
    from yarl import URL

    from xmtp_history.sync._urls import redirected

    with pytest.raises(SyncError, match="scheme"):
        redirected(URL("https://h/files/x"), "http://h/files/x")
    assert str(redirected(URL("https://h/files/x"), "//other/y?z")) == "https://other/y?z"


def test_a_redirect_loop() -> None:
    server = FaultyServer(*[status(302, Location="/files/again")] * 100)
    with pytest.raises(SyncError, match="redirects"):
        download(server)
    assert len(server.requests) == 11


# --- time ------------------------------------------------------------------------------------------------------------


def stalling(after: int) -> Any:
    async def fault(server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(200, server.tag(DATA), DATA[:after], length=len(DATA))
        await server.stall()

    return fault


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_download_that_stalls(after: int) -> None:
    check(FaultyServer(stall, stalling(after)), stall_timeout=0.1)


def test_a_slow_server_is_no_stalled_one() -> None:
    async def slow(server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(200, {}, b"", length=100)
        for number in range(20):
            await asyncio.sleep(0.03)
            await exchange.send(DATA[5 * number : 5 * number + 5])

    received, _ = download(FaultyServer(slow), stall_timeout=0.3)
    assert received == DATA[:100]


def test_a_slow_consumer_is_not_the_servers_fault() -> None:
    data = random.Random(8).randbytes(2_000_000)

    async def main() -> None:
        async with FaultyServer() as server:
            received = []
            async with ArchiveStream(server.add(data), stall_timeout=0.1) as stream:
                assert stream.size == len(data)
                async for chunk in stream:
                    if len(received) in {1, 3}:
                        await asyncio.sleep(0.3)
                    received.append(chunk)
            assert b"".join(received) == data
            assert len(server.requests) == 1

    asyncio.run(main())


def test_a_consumer_that_stops_early() -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            async with ArchiveStream(server.add(bytes(10_000_000))) as stream:
                async for _ in stream:
                    break
            await server.settled()

    asyncio.run(main())


# --- faults on our side ----------------------------------------------------------------------------------------------


def test_an_old_file_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "archive.xmtp"
    path.write_bytes(b"old")

    async def main(*faults: Any) -> None:
        async with FaultyServer(*faults) as server:
            await download_archive(server.add(DATA), path)

    for faults in ([status(404)], [cut(1000), status(410)], [status(200, DATA, ETag=WRONG_TAG)], [drop()] * 50):
        with pytest.raises((SyncError, NetworkError)):
            asyncio.run(main(*faults))
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    asyncio.run(main())
    assert path.read_bytes() == DATA


def test_a_target_that_fails() -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            with pytest.raises(BoomError):
                await download_archive(server.add(DATA), Fails())
            await server.settled()

    asyncio.run(main())


def test_targets_that_are_none(tmp_path: Path) -> None:
    async def main(target: Any) -> None:
        async with FaultyServer() as server:
            try:
                await download_archive(server.add(DATA), target)
            finally:
                assert server.requests == [], "what is wrong here shows before anything is fetched"

    for target, kind in ((5, TypeError), (tmp_path, IsADirectoryError), (tmp_path / "no" / "x", FileNotFoundError)):
        with pytest.raises(kind):
            asyncio.run(main(target))


def test_a_callback_that_fails(tmp_path: Path) -> None:
    def failing(progress: Progress) -> None:
        raise BoomError

    async def main() -> None:
        async with FaultyServer() as server:
            with pytest.raises(BoomError):
                await download_archive(server.add(DATA), tmp_path / "x", on_progress=failing)
            await server.settled()

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["", "files/x", "ftp://h/x", "http://", "http://user:secret@/x", "http://h:99999/x"])
def test_urls_that_are_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        asyncio.run(download_archive(url, tmp_path / "x"))
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_secret_in_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    faults = [
        [status(403)], [status(404)], [status(410)], [raw(b"x")] * 20, [drop()] * 20, [status(503)] * 20,
        [status(302, Location="https://secret.invalid/secret")], [status(200, DATA, ETag=WRONG_TAG)],
        [status(302, Location="http://secret:secret@127.0.0.1:1/secret")] * 20, [cut(10)] + [cut(0)] * 20,
    ]  # fmt: skip

    async def main(plan: list[Any]) -> str:
        async with FaultyServer(*plan) as server:
            url = server.add(DATA).replace("://", "://user:secret-password@").replace("/files/", "/t/secret/files/")
            server.prefix = "/t/secret"
            with pytest.raises((SyncError, NetworkError)) as caught:
                await download_archive(url + "?X-Signature=secret", io.BytesIO(), token="secret-token")  # noqa: S106
            (name,) = server.files
            assert not [record for record in caplog.records if name in record.getMessage()]
            return str(caught.value).replace(name, "secret")

    for plan in faults:
        message = asyncio.run(main(plan))
        assert "secret" not in message
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("xmtp_history")]
    assert ours
    assert not [message for message in ours if "secret" in message]


# --- cancellation ----------------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """It is all there, or not at all; for the next try it is away."""
    assert not path.exists() or path.read_bytes() == DATA
    path.unlink(missing_ok=True)


def test_cancelled_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "x"

    async def attempt(steps: int) -> bool:
        async with FaultyServer(cut(50_000), status(503)) as server:
            task = asyncio.create_task(download_archive(server.add(DATA), path))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            await server.settled()
            assert names(tmp_path) <= {path.name}, "nothing is left"
            check_file(path)
            return isinstance(outcome, DownloadedArchive)

    async def main() -> None:
        steps = 0
        while not await attempt(steps):
            steps += 1 + steps // 8

    asyncio.run(main())


def test_cancelled_while_the_server_stalls(tmp_path: Path) -> None:
    async def main() -> None:
        for fault in (stall, stalling(0), stalling(100_000)):
            async with FaultyServer(fault) as server:
                task = asyncio.create_task(download_archive(server.add(DATA), tmp_path / "x"))
                await until(lambda server=server: not server.faults)
                await asyncio.sleep(0.02)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await server.settled()
            assert names(tmp_path) == set()

    asyncio.run(main())


# --- delete ----------------------------------------------------------------------------------------------------------


def delete(*faults: Any, capability: str | None = None, **options: Any) -> FaultyServer:
    server = FaultyServer(*faults)

    async def main() -> None:
        async with server:
            url = server.add(DATA).replace("://", "://user:pass@")
            await delete_archive(url, server.capability if capability is None else capability, **options)

    try:
        asyncio.run(main())
    finally:
        assert all(request.method == "DELETE" for request in server.requests)
        assert all("@" not in request.target for request in server.requests)
    return server


def test_delete() -> None:
    server = delete()
    assert server.files == {}
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    assert delete(token="t0ken").requests[0].headers["authorization"] == "Bearer t0ken"  # noqa: S106


def test_delete_is_tried_again() -> None:
    assert delete(status(503), drop(), raw()).files == {}
    # Done, but not said.
    assert delete(lose).files == {}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(404, ArchiveNotFound), (410, ArchiveExpired), (403, SyncError), (405, SyncError), (307, SyncError)],
)
def test_delete_is_refused(delays: list[float], code: int, kind: type[SyncError]) -> None:
    with pytest.raises(SyncError) as caught:
        delete(status(code, Location="/files/other"))
    assert type(caught.value) is kind
    assert caught.value.status == code
    assert delays == []


def test_a_wrong_capability() -> None:
    with pytest.raises(SyncError, match="delete capability") as caught:
        delete(capability="0" * 32)
    assert caught.value.status == 403
    for wrong in ("", "a b", "secret\r\nX: y", "é"):
        with pytest.raises(ValueError) as malformed:
            delete(capability=wrong)
        assert "secret" not in str(malformed.value)


def test_delete_stalls_and_is_cancelled() -> None:
    async def main() -> None:
        async with FaultyServer(stall, stall) as server:
            url = server.add(DATA)
            task = asyncio.create_task(delete_archive(url, server.capability, stall_timeout=0.1))
            await until(lambda: len(server.requests) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.settled()

    asyncio.run(main())
