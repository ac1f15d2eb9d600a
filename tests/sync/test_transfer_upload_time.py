"""Uploads and time: stalled servers, slow sources, cancellation; and faults on our own side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.faulty_server import FaultyServer, drop, on, stall, status, until
from support.files import BoomError, Fails
from support.uploads import DATA, KINDS, SHORT, check, stream, upload
from xmtp_history import NetworkError, Progress, SyncError, UploadedArchive, upload_archive

# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH"])
def test_a_server_that_stalls(small_pieces: int, method: str) -> None:
    server = FaultyServer(on(method, stall))
    check(server, upload(server, stream(DATA), stall_timeout=0.2), DATA)


def test_a_server_that_does_not_read() -> None:
    server = FaultyServer(*[on("POST", stall)] * 10, tus=False)
    with pytest.raises(NetworkError, match="nothing happened"):
        upload(server, bytes(20_000_000), stall_timeout=0.1)


def test_a_server_that_does_not_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmtp_history.sync import _http

    monkeypatch.setattr(_http, "_CONNECT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        with pytest.raises(NetworkError, match="does not accept"):
            asyncio.run(upload_archive(SHORT, f"http://127.0.0.1:{full.getsockname()[1]}"))


def test_a_slow_server_is_no_stalled_one() -> None:
    async def slow(server: FaultyServer, exchange: Any) -> None:
        data = b""
        async for piece in exchange.body():
            data += piece
            await asyncio.sleep(0.005)
        await exchange.answer(200, {}, server._store(data).encode())

    data = random.Random(7).randbytes(20_000_000)
    server = FaultyServer(on("POST", slow), tus=False)
    upload(server, data, stall_timeout=0.5)
    assert list(server.files.values()) == [data]
    assert server.methods() == ["OPTIONS", "POST"]


def test_a_slow_source_is_not_the_servers_fault(small_pieces: int) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for start in range(0, 3000, 1000):
            await asyncio.sleep(0.3)
            yield DATA[start : start + 1000]

    for tus in (True, False):
        server = FaultyServer(tus=tus)
        check(server, upload(server, slow(), stall_timeout=0.2), DATA[:3000])


# --- faults on our side ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tus", [True, False])
def test_a_source_that_fails(small_pieces: int, tus: bool) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield DATA[:3500]
        raise BoomError

    for source in (failing(), Fails(DATA, 3500)):
        server = FaultyServer(tus=tus)
        with pytest.raises(BoomError):
            upload(server, source)
        assert server.files == {}
        assert server.uploads == {}


def test_a_stream_is_closed(small_pieces: int) -> None:
    closed = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield DATA
        finally:
            closed.append(True)

    with pytest.raises(SyncError):
        upload(FaultyServer(on("PATCH", status(403))), endless())
    assert closed == [True]


def test_a_callback_that_fails(small_pieces: int) -> None:
    def failing(progress: Progress) -> None:
        raise BoomError

    for tus in (True, False):
        server = FaultyServer(tus=tus)
        with pytest.raises(BoomError):
            upload(server, DATA, on_progress=failing)
        assert server.uploads == {}


def test_a_file_that_shrinks(small_pieces: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(DATA)

    async def shrink(server: FaultyServer, exchange: Any) -> None:
        os.truncate(path, 2000)
        await server.answer(exchange)

    with pytest.raises(OSError, match="shorter"):
        upload(FaultyServer(on("PATCH", shrink)), path)


def test_a_file_that_changes(small_pieces: int, tmp_path: Path) -> None:
    """Sent again after an interruption, its digest is not the one of what was sent at first."""
    path = tmp_path / "x"
    path.write_bytes(DATA)

    async def change(server: FaultyServer, exchange: Any) -> None:
        path.write_bytes(bytes(10_000))
        server.uploads.clear()
        exchange.reset()

    with pytest.raises(SyncError, match="something else"):
        upload(FaultyServer(on("PATCH", change)), path)


# --- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tus", [True, False])
@pytest.mark.parametrize("kind", ["path", "stream", "drips"])
def test_cancelled_at_any_time(small_pieces: int, tmp_path: Path, kind: str, tus: bool) -> None:
    """After any number of steps of the event loop, nothing runs on, and nothing complains."""

    async def attempt(steps: int) -> bool:
        async with FaultyServer(tus=tus) as server:
            task = asyncio.create_task(upload_archive(KINDS[kind](DATA[:3000], tmp_path / "x"), server.url))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            outcome = await asyncio.gather(task, return_exceptions=True)
            await server.settled()
            return isinstance(outcome[0], UploadedArchive)

    async def main() -> None:
        steps = 0
        while not await attempt(steps):
            steps += 1 + steps // 8

    asyncio.run(main())


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH", "HEAD"])
def test_cancelled_while_the_server_stalls(small_pieces: int, method: str) -> None:
    async def main() -> None:
        async with FaultyServer(on("PATCH", drop(100)) if method == "HEAD" else on(method, stall)) as server:
            if method == "HEAD":
                server.faults.append(on("HEAD", stall))
            task = asyncio.create_task(upload_archive(stream(DATA), server.url))
            await until(lambda: not server.faults)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.settled()
            assert server.uploads == {}, "the server is told"

    asyncio.run(main())


def test_a_deadline_of_the_caller(small_pieces: int) -> None:
    async def main() -> None:
        async with FaultyServer(*[on("PATCH", stall)] * 3) as server:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await upload_archive(stream(DATA), server.url)
            await server.settled()

    asyncio.run(main())
