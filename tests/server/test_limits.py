"""Limits: sizes, room, and how much one client may take."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from support import child
from support.history_metrics import eventually, metrics, problem, status, uploaded
from support.history_server import (
    CHUNKED,
    HEAD,
    MUCH,
    TUS,
    chunk,
    connected,
    download,
    files,
    partial,
    serving,
    some_bytes,
    until,
    upload,
)
from xmtp_history import LocalStorage
from xmtp_history.server import _limits

PIECE = bytes(100_000)


async def _refused(client: ClientSession, size: int = 10, **options: Any) -> tuple[int, str]:
    return (await problem(client, "POST", "/upload", data=io.BytesIO(bytes(size)), **options))[:2]


# --- how large a file may be -----------------------------------------------------------------------------------------


def test_a_length_that_is_too_large_is_refused_before_a_byte_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=1_000) as (server, client):
            for headers in (b"", b"Expect: 100-continue\r\n"):
                async with connected(server) as connection:
                    await connection.send(HEAD + headers + b"Content-Length: 1001\r\n\r\n")
                    head = await connection.head()
                    assert head.startswith(b"HTTP/1.1 413 ")
                    assert b"\r\nUpload-Limit: max-size=1000\r\n" in head
                    assert b"\r\nTus-Max-Size: 1000\r\n" in head
            assert await _refused(client, 1_001) == (413, "too-large")
            assert await _refused(client, 0, headers=TUS | {"Upload-Length": "1001"}) == (413, "too-large")

    asyncio.run(main())
    assert files(tmp_path) == []


def test_a_stream_without_end_is_refused_soon_after_the_limit(tmp_path: Path) -> None:
    async def main() -> int:
        async with serving(tmp_path, max_file_bytes=1_000_000) as (server, _), connected(server) as connection:
            answer = asyncio.create_task(connection.head())
            await connection.send(CHUNKED)
            sent = 0
            while not answer.done():
                await connection.send(chunk(PIECE))
                sent += len(PIECE)
                await asyncio.sleep(0.001)
            assert (await answer).startswith(b"HTTP/1.1 413 ")
            assert files(tmp_path) == []
            return sent

    # More than the limit by what buffers hold.
    assert asyncio.run(main()) < 16_000_000


# --- how much there is room for --------------------------------------------------------------------------------------


def test_all_files_together_have_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_total_bytes=1_000_000) as (server, client):
            first = await uploaded(client, bytes(600_000))
            assert await _refused(client, 400_001) == (507, "no-room")
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(bytes(400_001)))
                assert await connection.status() == 507
            assert await _refused(client, 0, headers=TUS | {"Upload-Length": "400001"}) == (507, "no-room")
            second = await uploaded(client, bytes(400_000))
            assert await _refused(client, 1) == (507, "no-room")
            assert len(files(tmp_path)) == 2
            # What is deleted makes room.
            assert await status(client, "DELETE", second.path, headers=second.may_delete) == 204
            await uploaded(client, bytes(300_000))
            assert await _refused(client, 200_000) == (507, "no-room")
            assert len(await download(client, first.file_id)) == 600_000

    asyncio.run(main())


def test_what_is_on_its_way_counts_and_does_not_when_it_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_total_bytes=1_000_000) as (server, client):
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(bytes(600_000)))
                await until(lambda: partial(tmp_path))
                assert await _refused(client, 500_000) == (507, "no-room")
                await upload(client, bytes(300_000))
            await until(lambda: not partial(tmp_path))
            await upload(client, bytes(600_000))

    asyncio.run(main())


def test_what_is_swept_makes_room(tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"max_total_bytes": 1_000_000, "retention_seconds": 1.5, "sweep_seconds": 0.02}
        async with serving(tmp_path, **limits) as (_, client):
            await upload(client, bytes(900_000))
            assert await _refused(client, 200_000) == (507, "no-room")
            await until(lambda: not files(tmp_path))

            async def accepted() -> bool:
                return await status(client, "POST", "/upload", data=io.BytesIO(bytes(900_000))) == 200

            # It counts when the sweep is over.
            await eventually(accepted)

    asyncio.run(main())


def test_what_an_earlier_server_stored_counts(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            await upload(client, bytes(600_000))
            assert await status(client, "POST", "/upload", headers=TUS | {"Upload-Length": "9"}) == 201
        async with serving(tmp_path, max_total_bytes=1_000_000, metrics_port=0) as (server, client):

            async def counted() -> bool:
                return ("last_sweep_timestamp_seconds",) in await metrics(server, client)

            await eventually(counted)
            assert await _refused(client, 500_000) == (507, "no-room")
            await upload(client, bytes(300_000))

    asyncio.run(main())


class _Disk(LocalStorage):
    """A disk on which so much is free."""

    free = 0

    async def free_bytes(self) -> int:
        return self.free


def test_some_of_the_disk_is_left_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_limits, "_FREE_SECONDS", 0.0)
    monkeypatch.setattr(_limits, "_FREE_BYTES", 100_000)
    disk = _Disk(tmp_path)
    disk.free = 1_000_000

    async def main() -> None:
        async with serving(disk, min_free_bytes=400_000) as (server, client):
            assert await _refused(client, 600_001) == (507, "no-room")
            await upload(client, bytes(600_000))
            # Somebody else fills the disk meanwhile.
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(MUCH))
                await until(lambda: partial(tmp_path))
                disk.free = 300_000
                await connection.send(chunk(MUCH))
                assert await connection.status() == 507
            assert len(files(tmp_path)) == 1
            assert await _refused(client, 0, headers=TUS | {"Upload-Length": "1"}) == (507, "no-room")
            disk.free = 500_000
            await upload(client, b"archive")

    asyncio.run(main())


def test_the_disk_of_this_machine_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, min_free_bytes=2**60) as (_, client):
            assert await _refused(client) == (507, "no-room")

    asyncio.run(main())


# --- how much one may take -------------------------------------------------------------------------------------------


def _from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


def test_uploads_at_the_same_time_have_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_uploads=1) as (server, client):
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(PIECE * 6))
                await until(lambda: partial(tmp_path))
                code, kind, headers = await problem(client, "POST", "/upload", data=b"archive")
                assert (code, kind) == (503, "busy")
                assert int(headers["Retry-After"]) > 0
                # Nothing else is an upload.
                assert await status(client, "GET", "/") == 200
                await connection.send(chunk(b""))
                assert await connection.status() == 200
            await upload(client, b"archive")

    asyncio.run(main())


def test_uploads_of_one_client_at_the_same_time_have_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        limits = {"max_uploads_per_client": 1, "trusted_proxies": ["127.0.0.1"]}
        async with serving(tmp_path, **limits) as (server, client):
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(PIECE * 6))
                await until(lambda: partial(tmp_path))
                code, kind, headers = await problem(client, "POST", "/upload", data=b"archive")
                assert (code, kind) == (429, "too-many-uploads")
                assert int(headers["Retry-After"]) > 0
                assert await status(client, "POST", "/upload", data=b"archive", headers=_from("192.0.2.1")) == 200
            await until(lambda: not partial(tmp_path))
            await upload(client, b"archive")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:0:ffff::", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_address_stands_for_its_network(tmp_path: Path, one: str, other: str, same: bool) -> None:
    async def main() -> None:
        limits = {"uploads_per_minute": 1, "trusted_proxies": ["127.0.0.0/8"]}
        async with serving(tmp_path, **limits) as (_, client):
            assert await status(client, "POST", "/upload", headers=_from(one)) == 200
            assert await status(client, "POST", "/upload", headers=_from(one)) == 429
            assert await status(client, "POST", "/upload", headers=_from(other)) == (429 if same else 200)

    asyncio.run(main())


def test_a_rate_is_refilled_when_the_answer_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, uploads_per_minute=60) as (_, client):
            allowed = 0
            while await status(client, "POST", "/upload", data=b"archive") == 200:
                allowed += 1
            assert 60 <= allowed < 90
            code, kind, headers = await problem(client, "POST", "/upload", data=b"archive")
            assert (code, kind, headers["Retry-After"]) == (429, "too-fast", "1")
            # It says whole seconds.
            await asyncio.sleep(1.1)
            assert await status(client, "POST", "/upload", data=b"archive") == 200

    asyncio.run(main())


def test_who_has_to_wait_long_is_told_how_long(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, uploads_per_minute=2) as (_, client):
            for _ in range(2):
                await upload(client, b"archive")
            # Asking again does not make it longer.
            for _ in range(3):
                *_, headers = await problem(client, "POST", "/upload", data=b"archive")
                assert int(headers["Retry-After"]) in {29, 30}

    asyncio.run(main())


def test_resumable_uploads_count_as_well(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, uploads_per_minute=1) as (_, client):
            create = {"headers": TUS | {"Upload-Length": "3"}}
            assert await status(client, "POST", "/upload", **create) == 201
            assert await status(client, "POST", "/upload", **create) == 429
            assert await status(client, "POST", "/upload", data=b"abc") == 429

    asyncio.run(main())


def test_downloads_at_the_same_time_have_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_downloads=1, metrics_port=0) as (server, client):
            file = await uploaded(client, bytes(12 * 1024 * 1024))
            async with connected(server, receive_bytes=4_096) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await connection.head()
                code, kind, headers = await problem(client, "GET", file.path)
                assert (code, kind) == (503, "busy")
                assert int(headers["Retry-After"]) > 0
                assert await status(client, "HEAD", file.path) == 200
                await upload(client, b"archive")

            async def accepted() -> bool:
                return await status(client, "GET", file.path, headers={"Range": "bytes=0-0"}) == 206

            await eventually(accepted)

    asyncio.run(main())


def test_connections_have_a_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_connections=2) as (server, _):
            async with connected(server) as first, connected(server) as second:
                for connection in (first, second):
                    await connection.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                    assert await connection.status() == 200
                async with connected(server) as third:
                    head = await third.head()
                    assert head.startswith(b"HTTP/1.1 503 ")
                    assert b"\r\nRetry-After: " in head
                    assert await third.rest() == b""
                await first.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                assert await first.status() == 200

            async def answers() -> bool:
                async with connected(server) as connection:
                    await connection.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                    return await connection.status() == 200

            await eventually(answers)

    asyncio.run(main())


_MANY = """
import asyncio, hashlib, resource, sys
from support.history_server import CHUNKED, chunk, connected, serving, some_bytes

COUNT = 1_000

async def one(server, number, gate):
    data = some_bytes(20_000 + number)
    async with connected(server) as connection:
        await connection.send(CHUNKED, chunk(data[:10_000]))
        gate.append(number)
        while len(gate) < COUNT:
            await asyncio.sleep(0.01)
        await connection.send(chunk(data[10_000:]), chunk(b""))
        head = await connection.head()
        file_id = (await connection.read(36)).decode()
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert hashlib.sha256(data).hexdigest().encode() in head
    async with connected(server) as connection:
        await connection.send(f"GET /files/{file_id} HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n".encode())
        assert await connection.status() == 200
        assert await connection.read(len(data)) == data
    return file_id

async def main():
    wanted = 8 * COUNT
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    limits = {"max_uploads": COUNT, "max_uploads_per_client": COUNT, "uploads_per_minute": None}
    async with serving(sys.argv[1], **limits) as (server, _):
        gate = []
        print(len(set(await asyncio.gather(*(one(server, number, gate) for number in range(COUNT))))))

asyncio.run(main())
"""


def test_a_thousand_uploads_at_once(tmp_path: Path) -> None:
    assert int(child.run(_MANY, tmp_path)) == 1_000
    assert len(files(tmp_path)) == 1_000
    assert some_bytes(20_500) in [path.read_bytes()[:-80] for path in files(tmp_path)]
