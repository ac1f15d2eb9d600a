"""Clients that are slow, on purpose or not: they are given up in the end, and nobody else notices them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from support.history_metrics import eventually, metrics, status
from support.history_server import (
    CHUNKED,
    HEAD,
    MUCH,
    Connection,
    chunk,
    connected,
    files,
    partial,
    serving,
    until,
    upload,
)
from xmtp_history import HistoryServer
from xmtp_history.server import _body, _listener

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def _drip(connection: Connection, data: bytes, seconds: float) -> None:
    """Sends a byte at a time until the server has had enough."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            await connection.send(bytes([byte]))
            await asyncio.sleep(seconds)


# --- heads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"G", b"GET / HTTP/1.1\r\n", GET[:-1], HEAD, b"\r\n\r\n"])
def test_a_head_that_is_not_finished_is_given_up(tmp_path: Path, start: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path, head_seconds=0.1) as (server, _), connected(server) as connection:
            await connection.send(start)
            assert await connection.status() == 408
            assert await connection.rest() == b""

    asyncio.run(main())


def test_a_head_that_comes_byte_by_byte_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, head_seconds=0.3) as (server, _), connected(server) as connection:
            began = time.monotonic()
            dripping = asyncio.create_task(_drip(connection, GET[:-2] + b"X: " + b"x" * 10_000, 0.01))
            assert await connection.status() == 408
            assert 0.2 < time.monotonic() - began < 10
            await connection.rest()
            await dripping

    asyncio.run(main())


@pytest.mark.parametrize("first", [GET, HEAD + b"Content-Length: 3\r\n\r\nabc", CHUNKED + chunk(b"abc") + chunk(b"")])
def test_the_next_head_on_a_connection_has_to_come_in_time_too(tmp_path: Path, first: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path, head_seconds=0.2) as (server, _), connected(server) as connection:
            await connection.send(first)
            assert await connection.status() == 200
            await connection.read(0 if first == GET else 36)
            # Nobody has to hurry between two requests.
            await asyncio.sleep(0.5)
            await connection.send(first)
            assert await connection.status() == 200
            await connection.read(0 if first == GET else 36)
            await connection.send(GET[:10])
            assert await connection.status() == 408
            assert await connection.rest() == b""

    asyncio.run(main())


def test_a_connection_that_is_not_used_is_closed_after_a_while(tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"keep_alive_seconds": 0.2, "head_seconds": 60.0}
        async with serving(tmp_path, **limits) as (server, _), connected(server) as connection:
            await connection.send(GET)
            assert await connection.status() == 200
            assert await connection.rest() == b""

    asyncio.run(main())


def test_two_hundred_unfinished_heads_do_not_keep_others_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, metrics_port=0) as (server, client), AsyncExitStack() as stack:
            hanging = [await stack.enter_async_context(connected(server)) for _ in range(200)]
            dripping = [asyncio.create_task(_drip(one, HEAD + b"X: " + b"x" * 10_000, 0.2)) for one in hanging]
            try:
                for _ in range(20):
                    await upload(client, b"archive")
                assert (await metrics(server, client))["connections",] > 200
            finally:
                for task in dripping:
                    task.cancel()

    asyncio.run(main())


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        CHUNKED,
        CHUNKED + chunk(MUCH),
        CHUNKED + chunk(MUCH) + b"10",
        CHUNKED + chunk(MUCH)[:-1],
        CHUNKED + chunk(MUCH) + b"0\r\n",
        HEAD + b"Content-Length: 1\r\n\r\n",
        HEAD + b"Content-Length: 1000000\r\n\r\n" + MUCH,
    ],
)
def test_an_upload_that_does_not_go_on_is_given_up(tmp_path: Path, start: bytes) -> None:
    async def main() -> None:
        async with (
            serving(tmp_path, idle_seconds=0.2, metrics_port=0) as (server, client),
            connected(server) as connection,
        ):
            await connection.send(start)
            head = await connection.head()
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"\r\nConnection: close\r\n" in head
            assert files(tmp_path) == []
            assert (await metrics(server, client))["aborted_total", "too-slow", "upload"] == 1

    asyncio.run(main())


def test_an_upload_that_is_slow_for_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_body, "_GRACE_SECONDS", 0.3)

    async def main() -> None:
        async with serving(tmp_path, min_bytes_per_second=10_000) as (server, _), connected(server) as connection:
            await connection.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
            dripping = asyncio.create_task(_drip(connection, MUCH, 0.01))
            head = await connection.head()
            assert head.startswith(b"HTTP/1.1 408 ")
            await until(lambda: files(tmp_path) == [])
            await connection.rest()
            await dripping

    asyncio.run(main())


def test_an_upload_that_is_just_fast_enough_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_body, "_GRACE_SECONDS", 0.1)

    async def main() -> None:
        async with serving(tmp_path, min_bytes_per_second=10_000) as (server, _), connected(server) as connection:
            await connection.send(CHUNKED)
            for _ in range(20):
                await connection.send(chunk(bytes(10_000)))
                await asyncio.sleep(0.03)
            await connection.send(chunk(b""))
            assert await connection.status() == 200

    asyncio.run(main())


def test_slow_uploads_do_not_keep_others_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"max_uploads_per_client": 1_000}
        async with serving(tmp_path, **limits) as (server, client), AsyncExitStack() as stack:
            for _ in range(100):
                slow = await stack.enter_async_context(connected(server))
                await slow.send(CHUNKED, chunk(MUCH))
            await until(lambda: len(partial(tmp_path)) == 100)
            for _ in range(20):
                await upload(client, b"archive")

    asyncio.run(main())


# --- after an early answer -------------------------------------------------------------------------------------------


def test_who_goes_on_after_a_refusal_is_read_for_a_while_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listener, "LINGER_SECONDS", 0.3)

    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=10) as (server, client), connected(server) as connection:
            began = time.monotonic()
            await connection.send(HEAD + b"Content-Length: 1000000\r\n\r\n")
            assert await connection.status() == 413
            dripping = asyncio.create_task(_drip(connection, MUCH, 0.01))
            await connection.rest()
            assert 0.2 < time.monotonic() - began < 10
            await dripping
            assert await status(client, "GET", "/") == 200

    asyncio.run(main())


@contextmanager
def _flood(host: str, port: int) -> Iterator[list[bytes]]:
    """A client that sends as fast as it can, whatever it is told. What it is told is in the list in the end."""
    told: list[bytes] = []

    def send() -> None:
        with socket.create_connection((host, port)) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(HEAD + b"Content-Length: 1000000000000\r\n\r\n")
                while True:
                    connection.sendall(MUCH)
            with contextlib.suppress(OSError):
                told.append(connection.recv(65_536))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield told
    finally:
        thread.join()


def test_who_floods_the_server_after_a_refusal_does_not_keep_others_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=1_000, metrics_port=0) as (server, client):
            host, _, port = server.url.removeprefix("http://").partition(":")
            with _flood(host, int(port)) as told:

                async def refused() -> bool:
                    return ("requests_total", "413", "POST", "upload") in await metrics(server, client)

                await eventually(refused)
                # Still within the time that it is read on.
                began = time.monotonic()
                for _ in range(10):
                    await upload(client, b"archive")
                assert time.monotonic() - began < _listener.LINGER_SECONDS
                await asyncio.to_thread(lambda: [time.sleep(0.01) for _ in range(1_000) if not told])

    asyncio.run(main())


@pytest.mark.parametrize("what", ["file", "nothing"])
def test_who_asks_on_and_never_reads_answers_is_cut_off(tmp_path: Path, what: str) -> None:
    async def main() -> None:
        async with serving(tmp_path, stall_seconds=0.3, metrics_port=0) as (server, client):
            path = f"/files/{await upload(client, bytes(60_000))}" if what == "file" else "/nothing"
            request = f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
            async with connected(server, receive_bytes=4_096) as connection:
                await connection.send(request)
                await connection.head()

                async def ask() -> None:
                    with contextlib.suppress(ConnectionError):
                        while True:
                            await connection.send(request)

                asking = asyncio.create_task(ask())
                await eventually(lambda: _alone(server, client))
                asking.cancel()

    asyncio.run(main())


def test_the_last_of_an_answer_that_nobody_reads_does_not_keep_a_connection(tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"stall_seconds": 0.3, "keep_alive_seconds": 0.5}
        async with serving(tmp_path, **limits, metrics_port=0) as (server, client):
            path = f"/files/{await upload(client, bytes(60_000))}"
            async with connected(server, receive_bytes=4_096) as connection:
                left = 0
                # The server has answered, and holds what does not fit into the socket.
                while not left:
                    await connection.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                    await asyncio.sleep(0.02)
                    assert server._running is not None
                    transports = [one.transport for one in server._running.runner.server.connections]
                    left = sum(one.get_write_buffer_size() for one in transports if one is not None)
                await eventually(lambda: _alone(server, client))

    asyncio.run(main())


async def _alone(server: HistoryServer, client: ClientSession) -> bool:
    """Whether the client's own connection is the only one."""
    assert await status(client, "GET", "/") == 200
    return (await metrics(server, client))["connections",] == 1
