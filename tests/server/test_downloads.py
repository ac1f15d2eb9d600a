"""Downloads: what of a file is sent, and what happens when it, or who fetches it, goes away meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support import child
from support.history_metrics import eventually, metrics, missing, problem, status, uploaded
from support.history_server import connected, download, files, make_server, serving, some_bytes, until

#: One that is read when it is opened, and one that the kernel sends.
SMALL, LARGE = 1_000, 1_500_001
sizes = pytest.mark.parametrize("size", [SMALL, LARGE])


@contextmanager
def in_background(storage: Path, **options: Any) -> Iterator[http.client.HTTPConnection]:
    """A server on a thread of its own, and a client that waits for its answers."""
    server = make_server(storage, **options)
    started, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        async with server:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    try:
        assert started.wait(child.DEADLINE_SECONDS)
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=child.DEADLINE_SECONDS)
        yield connection
        connection.close()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


# --- ranges ----------------------------------------------------------------------------------------------------------


@sizes
def test_the_tag_is_the_hash_and_a_head_says_what_a_get_says(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file = await uploaded(client, data)
            assert file.tag == f'"{hashlib.sha256(data).hexdigest()}"'
            said = []
            for method in ("GET", "HEAD"):
                async with client.request(method, file.path) as response:
                    assert response.status == 200
                    assert await response.read() == (data if method == "GET" else b"")
                    said.append({name.lower(): value for name, value in response.headers.items() if name != "Date"})
            assert said[0] == said[1]
            assert said[0]["etag"] == file.tag
            assert said[0]["content-length"] == str(size)
            assert parsedate_to_datetime(said[0]["last-modified"]).timestamp() == int(
                files(tmp_path)[0].stat().st_mtime
            )

    asyncio.run(main())


@sizes
def test_one_range_is_sent_alone(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)
    half = size // 2

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file = await uploaded(client, data)
            for wanted, start, end in (
                ("0-0", 0, 1),
                ("0-", 0, size),
                (f"0-{size - 1}", 0, size),
                (f"0-{size}", 0, size),
                (f"{half}-{half}", half, half + 1),
                (f"{half}-", half, size),
                (f"{half}-{10 * size}", half, size),
                (f"{size - 1}-", size - 1, size),
                (f"{size - 1}-{size - 1}", size - 1, size),
                ("-1", size - 1, size),
                (f"-{half}", size - half, size),
                (f"-{size}", 0, size),
                (f"-{10 * size}", 0, size),
                ("-999999999999999999", 0, size),
            ):
                for unit in ("bytes", "Bytes"):
                    async with client.get(file.path, headers={"Range": f"{unit}={wanted}"}) as response:
                        assert response.status == 206, wanted
                        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
                        assert response.headers["Content-Length"] == str(end - start)
                        assert response.headers["ETag"] == file.tag
                        assert await response.read() == data[start:end]

    asyncio.run(main())


@sizes
def test_what_is_not_one_range_gets_the_whole(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = (await uploaded(client, data)).path
            for wanted in (
                "bytes=0-1,3-4",
                "bytes=0-1, -1",
                "bytes=5-4",
                "bytes=-",
                "bytes=",
                "bytes=a-b",
                "bytes=+1-2",
                "bytes=0x0-0x1",
                "bytes=1_0-",
                "bytes=0-1-2",
                "bytes= 0-1",
                "bytes 0-1",
                "items=0-1",
                "0-1",
                "bytes=0-" + "9" * 100,
                "",
            ):
                async with client.get(path, headers={"Range": wanted}) as response:
                    assert response.status == 200, wanted
                    assert "Content-Range" not in response.headers
                    assert await response.read() == data
            # Without a body there is nothing to have a part of.
            async with client.head(path, headers={"Range": "bytes=0-0"}) as response:
                assert (response.status, response.headers["Content-Length"]) == (200, str(size))

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_a_range_beyond_the_end_cannot_be_had(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = (await uploaded(client, some_bytes(size))).path
            for wanted in (f"{size}-", f"{size}-{size}", f"{size + 1}-{2 * size + 1}", "999999999999999999-", "-0"):
                code, kind, headers = await problem(client, "GET", path, headers={"Range": f"bytes={wanted}"})
                assert (code, kind, headers["Content-Range"]) == (416, "range", f"bytes */{size}")

    asyncio.run(main())


_NUMBERS = st.integers(0, 80)
_RANGES = st.tuples(st.none() | _NUMBERS, st.none() | _NUMBERS).filter(lambda ends: ends != (None, None))


def _part(data: bytes, first: int | None, last: int | None) -> tuple[int, bytes | None]:
    """The status of the answer, and the bytes that the range names."""
    if first is None:
        part = data[-last:] if last else b""
    elif last is not None and last < first:
        return 200, data
    else:
        part = data[first:] if last is None else data[first : last + 1]
    return (206, part) if part else (416, None)


def test_ranges_are_those_of_the_bytes(tmp_path: Path) -> None:
    with in_background(tmp_path, uploads_per_minute=None) as client:

        @settings(suppress_health_check=[HealthCheck.too_slow])
        @given(data=st.binary(max_size=64), ends=_RANGES)
        @example(data=b"", ends=(None, 1))
        @example(data=b"", ends=(0, None))
        def check(data: bytes, ends: tuple[int | None, int | None]) -> None:
            client.request("POST", "/upload", data)
            path = f"/files/{client.getresponse().read().decode()}"
            first, last = ("" if end is None else str(end) for end in ends)
            client.request("GET", path, headers={"Range": f"bytes={first}-{last}"})
            with client.getresponse() as answer:
                body = answer.read()
                code, part = _part(data, *ends)
                assert answer.status == code
                if part is not None:
                    assert body == part

        check()


# --- what happens meanwhile ------------------------------------------------------------------------------------------

#: More than all buffers between a server and a client that does not read.
MUCH = 12 * 1024 * 1024
#: Such a client.
UNREAD = 4_096


@pytest.mark.parametrize("receive_bytes", [None, UNREAD])
def test_a_file_deleted_while_it_is_sent_is_sent_to_its_end(tmp_path: Path, receive_bytes: int | None) -> None:
    data = some_bytes(MUCH)

    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            file = await uploaded(client, data)
            async with connected(server, receive_bytes=receive_bytes) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                assert await connection.status() == 200
                assert await status(client, "DELETE", file.path, headers=file.may_delete) == 204
                assert files(tmp_path) == []
                assert await status(client, "GET", file.path) == 404
                assert await connection.read(MUCH) == data

    asyncio.run(main())


def test_a_file_that_expires_while_it_is_sent_is_sent_to_its_end(tmp_path: Path) -> None:
    data = some_bytes(MUCH)

    async def main() -> None:
        async with serving(tmp_path, retention_seconds=0.5, sweep_seconds=0.01) as (server, client):
            file = await uploaded(client, data)
            async with connected(server, receive_bytes=UNREAD) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                assert await connection.status() == 200
                await eventually(lambda: missing(client, file.path))
                # More than one sweep: it sees the file, and that it is in use.
                await asyncio.sleep(0.1)
                assert len(files(tmp_path)) == 1
                assert await connection.read(MUCH) == data
            await until(lambda: not files(tmp_path))

    asyncio.run(main())


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_away_in_the_middle_is_noticed(tmp_path: Path, reset: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path, metrics_port=0) as (server, client):
            file = await uploaded(client, some_bytes(MUCH))
            async with connected(server, receive_bytes=UNREAD) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await connection.head()
                assert (await metrics(server, client))["downloads_active",] == 1
                if reset:
                    connection.reset()

            async def over() -> bool:
                counted = await metrics(server, client)
                return ("downloads_active",) not in counted and ("aborted_total", "client", "file") in counted

            await eventually(over)
            counted = await metrics(server, client)
            assert counted["sent_bytes_total",] < MUCH
            assert len(await download(client, file.file_id)) == MUCH

    asyncio.run(main())


def test_who_does_not_read_is_cut_off_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, stall_seconds=0.3, metrics_port=0) as (server, client):
            file = await uploaded(client, some_bytes(MUCH))
            request = f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
            async with connected(server, receive_bytes=UNREAD) as stalled, connected(server) as quick:
                await stalled.send(request)
                await stalled.head()
                for _ in range(3):
                    await quick.send(request)
                    await quick.head()
                    await quick.read(MUCH)
                while ("aborted_total", "stalled", "file") not in await metrics(server, client):
                    assert await download(client, file.file_id)
                assert len(await stalled.rest()) < MUCH

    asyncio.run(main())


def test_who_reads_slowly_but_steadily_gets_everything(tmp_path: Path) -> None:
    data = some_bytes(MUCH)

    async def main() -> None:
        async with serving(tmp_path, stall_seconds=1.0) as (server, client):
            file = await uploaded(client, data)
            async with connected(server, receive_bytes=UNREAD) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await connection.head()
                received = []
                for _ in range(48):
                    received.append(await connection.read(MUCH // 48))
                    await asyncio.sleep(0.03)
            assert b"".join(received) == data

    asyncio.run(main())


_STALLED = """
import asyncio, io, resource, sys
from pathlib import Path
from support.history_server import connected, serving, until, upload

async def main():
    async with serving(sys.argv[1]) as (server, client):
        file_id = await upload(client, io.BytesIO(bytes(64 * 1024 * 1024)))
        request = f"GET /files/{file_id} HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n".encode()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with asyncio.TaskGroup() as tasks:
            stop = asyncio.Event()
            ready = []

            async def stalled():
                async with connected(server, receive_bytes=4096) as connection:
                    await connection.send(request)
                    await connection.head()
                    ready.append(connection)
                    await stop.wait()
                    connection.reset()

            for _ in range(100):
                tasks.create_task(stalled())
            await until(lambda: len(ready) == 100)
            stop.set()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

asyncio.run(main())
"""


def test_downloads_take_no_memory_for_the_file(tmp_path: Path) -> None:
    grown = int(child.run(_STALLED, tmp_path))
    # With both ends of all connections, and a file of 64 MiB.
    assert grown * 1024 < 100 * 160 * 1024
