"""Uploads that are interrupted, and go on."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from support.faulty_server import FaultyServer, drop, early, lose, on, raw, status
from support.uploads import AGAIN, DATA, KINDS, SHORT, check, proper, stream, upload
from xmtp_history import NetworkError, SyncError, upload_archive

#: Where a body of these is cut.
TENTHS = range(11)


@pytest.mark.parametrize("tenth", TENTHS)
@pytest.mark.parametrize("kind", ["stream", "path"])
def test_a_piece_that_breaks_off_goes_on_there(small_pieces: int, tmp_path: Path, kind: str, tenth: int) -> None:
    server = FaultyServer(*(on("PATCH", drop(tenth * 100)) for _ in range(5)))
    check(server, upload(server, KINDS[kind](DATA, tmp_path / "x")), DATA)
    assert server.faults == []
    assert server.methods().count("HEAD") >= (0 if tenth == 10 else 3)
    # What had arrived is not sent again.
    offsets = [int(request.headers["upload-offset"]) for request in server.requests if request.method == "PATCH"]
    assert offsets == sorted(offsets)
    assert sum(request.received for request in server.requests) <= len(DATA) + 100 * 100


@pytest.mark.parametrize("tenth", TENTHS)
@pytest.mark.parametrize("kind", sorted(AGAIN))
def test_one_request_that_breaks_off_begins_again(tmp_path: Path, kind: str, tenth: int) -> None:
    data = random.Random(3).randbytes(1_000_000)
    server = FaultyServer(*(on("POST", drop(tenth * 100_000)) for _ in range(3)), tus=False)
    check(server, upload(server, KINDS[kind](data, tmp_path / "x")), data)
    assert server.methods() == ["POST"] * 4


def test_a_short_stream_can_be_sent_again() -> None:
    server = FaultyServer(drop(500), lose)
    check(server, upload(server, stream(SHORT)), SHORT)
    assert server.methods() == ["POST"] * 3


def test_a_long_stream_cannot_be_sent_again(small_pieces: int, delays: list[float]) -> None:
    server = FaultyServer(on("POST", drop(5000)), tus=False)
    with pytest.raises(NetworkError, match="cannot be sent again"):
        upload(server, stream(DATA))
    assert server.methods() == ["OPTIONS", "POST"]
    assert delays == []


def test_a_long_stream_is_sent_again_as_long_as_it_can(small_pieces: int) -> None:
    server = FaultyServer(on("POST", status(503)), tus=False)

    async def refusing(server: FaultyServer, exchange: Any) -> None:
        await exchange.answer(503)
        exchange.reset()

    server.faults = [on("POST", refusing)]
    try:
        check(server, upload(server, stream(DATA)), DATA)
    except NetworkError as error:
        # The client was faster than the answer.
        assert "cannot be sent again" in str(error)


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH"])
def test_failures_of_the_server_are_tried_again(small_pieces: int, delays: list[float], method: str, code: int) -> None:
    server = FaultyServer(on(method, status(code)), on(method, early(code)))
    check(server, upload(server, stream(DATA)), DATA)
    assert delays == [0.5, 1.0]


@pytest.mark.parametrize("code", [408, 429, 503])
def test_failures_of_the_server_while_asking_for_the_offset(small_pieces: int, code: int) -> None:
    server = FaultyServer(on("PATCH", drop(10)), on("HEAD", status(code)), on("HEAD", raw()), on("HEAD", drop()))
    check(server, upload(server, stream(DATA)), DATA)


def test_retry_after(delays: list[float]) -> None:
    date = "Sun, 22 Nov 2026 12:00:00 GMT"
    server = FaultyServer(
        status(429, Retry_After="7"),
        status(503, Retry_After="Sun, 22 Nov 2026 12:00:11 GMT", Date=date),
        status(503, Retry_After="Sun, 22 Nov 2026 11:00:00 GMT", Date=date),
        status(503, Retry_After="99999999999999999999999"),
        status(503, Retry_After="soon"),
        status(503, Retry_After="-5"),
    )
    check(server, upload(server, SHORT), SHORT)
    assert delays == [0.5 + 7, 1 + 11, 2, 4 + 120, 8, 15]


def test_a_date_without_a_clock_of_the_server(delays: list[float]) -> None:
    server = FaultyServer(status(503, Retry_After="Fri, 31 Dec 2100 00:00:00 GMT"))
    upload(server, SHORT)
    assert delays == [0.5 + 120]


def test_jitter(monkeypatch: pytest.MonkeyPatch, delays: list[float]) -> None:
    from xmtp_history.sync import _retry

    monkeypatch.setattr(_retry, "_random", lambda: 0.25)
    upload(FaultyServer(*[status(500)] * 4), SHORT)
    assert delays == [0.125, 0.25, 0.5, 1.0]


def test_tries_are_limited(delays: list[float]) -> None:
    server = FaultyServer(*[status(503)] * 100)
    with pytest.raises(NetworkError, match="status 503") as caught:
        upload(server, SHORT)
    assert caught.value.status == 503
    assert len(server.requests) == 8
    assert len(delays) == 7


def test_nobody_there(delays: list[float]) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.url
        with pytest.raises(NetworkError, match=r"upload to http://127\.0\.0\.1:[0-9]+: ") as caught:
            await upload_archive(SHORT, url)
        assert caught.value.status is None

    asyncio.run(main())
    # Fewer: it is probably the URL.
    assert len(delays) == 3


def test_progress_renews_the_tries(small_pieces: int) -> None:
    server = FaultyServer(*[on("PATCH", drop(50))] * 60)
    check(server, upload(server, stream(DATA)), DATA)


def test_no_progress_ends_it(small_pieces: int) -> None:
    server = FaultyServer(*[on("PATCH", drop(0))] * 60)
    with pytest.raises(NetworkError):
        upload(server, stream(DATA))
    assert server.methods().count("PATCH") == 8


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_the_answer_to_the_last_piece_is_lost(small_pieces: int, tmp_path: Path, kind: str) -> None:
    for size in (2500, 3000):

        async def last(server: FaultyServer, exchange: Any, size: int = size) -> None:
            (upload,) = server.uploads.values()
            complete = len(upload.data) + int(exchange.headers["content-length"]) == size
            await (lose(server, exchange) if complete else server.answer(exchange))

        server = FaultyServer(*[on("PATCH", last)] * 10)
        check(server, upload(server, KINDS[kind](DATA[:size], tmp_path)), DATA[:size])
        assert len(server.files) == 1, "it is not uploaded twice"


def test_the_end_of_a_stream_does_not_arrive(small_pieces: int) -> None:
    """The data came, the connection broke before the length was noticed."""

    async def forgetful(server: FaultyServer, exchange: Any) -> None:
        if "upload-length" not in exchange.headers:
            await server.answer(exchange)
            return
        server.faults.clear()
        del exchange.headers["upload-length"]
        await lose(server, exchange)

    for size in (2500, 2000):
        server = FaultyServer(*[on("PATCH", forgetful)] * 5)
        check(server, upload(server, stream(DATA[:size])), DATA[:size])
        assert server.requests[-1].headers["content-length"] == "0"


def test_the_answer_to_the_creation_is_lost(small_pieces: int) -> None:
    server = FaultyServer(on("POST", lose))
    check(server, upload(server, stream(DATA)), DATA)
    assert len(server.uploads) == 2


def test_the_server_takes_less_than_it_was_sent(small_pieces: int) -> None:
    async def some(server: FaultyServer, exchange: Any) -> None:
        (upload,) = server.uploads.values()
        data = b"".join([piece async for piece in exchange.body()])
        upload.data += data[:300]
        await exchange.answer(204, server.state(upload))

    server = FaultyServer(*[on("PATCH", some)] * 20)
    check(server, upload(server, stream(DATA)), DATA)


def test_the_server_takes_nothing(small_pieces: int) -> None:
    async def nothing(server: FaultyServer, exchange: Any) -> None:
        (upload,) = server.uploads.values()
        _ = [piece async for piece in exchange.body()]
        await exchange.answer(204, server.state(upload))

    server = FaultyServer(*[on("PATCH", nothing)] * 100)
    with pytest.raises(NetworkError):
        upload(server, DATA)
    assert server.methods().count("PATCH") == 8


def test_the_server_is_ahead(small_pieces: int) -> None:
    """The broken request was written after we had asked, so the next offset is wrong."""

    async def ahead(server: FaultyServer, exchange: Any) -> None:
        (upload,) = server.uploads.values()
        await exchange.answer(200, server.state(upload))
        upload.data += DATA[len(upload.data) : 700]

    server = FaultyServer(on("PATCH", drop(100)), on("HEAD", ahead))
    check(server, upload(server, stream(DATA)), DATA)


@pytest.mark.parametrize("code", [423, 409, 460])
def test_the_upload_is_in_use(small_pieces: int, code: int) -> None:
    server = FaultyServer(on("PATCH", early(code)))
    check(server, upload(server, stream(DATA)), DATA)


@pytest.mark.parametrize("code", [404, 410])
def test_a_forgotten_upload_begins_again(small_pieces: int, tmp_path: Path, code: int) -> None:
    for kind in AGAIN:
        for forgotten in (on("PATCH", status(code)), on("HEAD", status(code))):
            server = FaultyServer(*[on("PATCH", drop(500))] * 2)
            server.faults.append(forgotten)
            check(server, upload(server, KINDS[kind](DATA, tmp_path / "x")), DATA)


def test_a_stream_in_a_forgotten_upload_is_lost(small_pieces: int) -> None:
    async def forget(server: FaultyServer, exchange: Any) -> None:
        server.uploads.clear()
        exchange.reset()

    server = FaultyServer(on("PATCH", proper), on("PATCH", proper), on("PATCH", forget))
    with pytest.raises(NetworkError, match="forgot"):
        upload(server, stream(DATA))
    # While nothing else was read, it can begin again.
    server = FaultyServer(on("PATCH", forget))
    check(server, upload(server, stream(DATA)), DATA)


def test_a_server_that_always_forgets(small_pieces: int) -> None:
    async def forget(server: FaultyServer, exchange: Any) -> None:
        server.uploads.clear()
        await exchange.answer(404)
        exchange.reset()

    server = FaultyServer(*[on("PATCH", proper), on("PATCH", forget)] * 50)
    with pytest.raises(NetworkError, match="forgot"):
        upload(server, DATA)
    assert len(server.requests) < 50


def test_a_server_that_lost_data(small_pieces: int, tmp_path: Path) -> None:
    """Its disk failed, say. What can be read again is sent again."""

    def losing(to: int) -> FaultyServer:
        async def lose_data(server: FaultyServer, exchange: Any) -> None:
            (upload,) = server.uploads.values()
            del upload.data[to:]
            exchange.reset()

        return FaultyServer(*[on("PATCH", proper)] * 3, on("PATCH", lose_data))

    for kind in AGAIN:
        server = losing(1500)
        check(server, upload(server, KINDS[kind](DATA, tmp_path / "x")), DATA)
    server = losing(1500)
    with pytest.raises(SyncError, match="cannot be read again"):
        upload(server, stream(DATA))
    assert server.uploads == {}, "the upload is thrown away"
