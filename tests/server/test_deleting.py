"""Files that are deleted: by whoever has the capability, or by being fetched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession

from support.history_metrics import Uploaded, eventually, metrics, missing, problem, status, uploaded
from support.history_server import UNKNOWN, connected, download, files, serving, some_bytes, until
from xmtp_history import HistoryServer

#: One that is read when it is opened, yet more than a socket of a client takes that does not read; and a large one.
SMALL, LARGE = 60_000, 12 * 1024 * 1024
sizes = pytest.mark.parametrize("size", [SMALL, LARGE])
UNREAD = 4_096


# --- by whoever may --------------------------------------------------------------------------------------------------


def test_who_shows_the_capability_deletes_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file, other = await uploaded(client, b"archive"), await uploaded(client, b"other")
            async with client.delete(file.path, headers=file.may_delete) as response:
                assert (response.status, await response.read()) == (204, b"")
            for method in ("GET", "HEAD"):
                assert await status(client, method, file.path) == 404
            # Once more: it is as if it had never been.
            assert (await problem(client, "DELETE", file.path, headers=file.may_delete))[:2] == (404, "not-found")
            assert await download(client, other.file_id) == b"other"

    asyncio.run(main())


def test_who_does_not_show_it_does_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            file, other = await uploaded(client, b"archive"), await uploaded(client, b"other")
            right = file.capability
            for wrong in (
                "",
                "x",
                right[:-1],
                right + "x",
                right.upper(),
                f'"{right}"',
                other.capability,
                file.tag,
                "ä",
            ):
                headers = {"Delete-Capability": wrong}
                assert (await problem(client, "DELETE", file.path, headers=headers))[:2] == (403, "capability"), wrong
            assert (await problem(client, "DELETE", file.path))[:2] == (403, "capability")
            async with connected(server) as connection:
                head = f"DELETE {file.path} HTTP/1.1\r\nHost: test\r\nDelete-Capability: ".encode()
                await connection.send(head + b"\xff\xfe\r\n\r\n")
                assert await connection.status() == 403
            assert await download(client, file.file_id) == b"archive"

    asyncio.run(main())


def test_what_is_not_there_cannot_be_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, retention_seconds=0.2, sweep_seconds=1_000.0) as (_, client):
            file = await uploaded(client, b"archive")
            for name in (UNKNOWN, "x", "..%2F.."):
                path = f"/files/{name}"
                assert (await problem(client, "DELETE", path, headers=file.may_delete))[:2] == (404, "not-found")
            await eventually(lambda: missing(client, file.path))
            # With or without the capability: who asks does not learn that it was there.
            assert await status(client, "DELETE", file.path, headers=file.may_delete) == 404
            assert await status(client, "DELETE", file.path) == 404

    asyncio.run(main())


# --- by being fetched ------------------------------------------------------------------------------------------------


async def _break_off(server: HistoryServer, file: Uploaded, *, reset: bool) -> None:
    async with connected(server, receive_bytes=UNREAD) as connection:
        await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        await connection.head()
        if reset:
            connection.reset()


async def _idle(server: HistoryServer, client: ClientSession) -> None:
    """Waits until no request is being answered."""

    async def idle() -> bool:
        counted = await metrics(server, client)
        return ("downloads_active",) not in counted and counted["connections",] == 1

    await eventually(idle)


@sizes
def test_the_first_complete_download_deletes_a_file(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)

    async def main() -> None:
        async with serving(tmp_path, delete_after_download=True, metrics_port=0) as (server, client):
            file, other = await uploaded(client, data), await uploaded(client, data)
            assert await download(client, file.file_id) == data
            await until(lambda: len(files(tmp_path)) == 1)
            assert await status(client, "GET", file.path) == 404
            assert (await metrics(server, client))["removed_files_total", "downloaded"] == 1
            assert await download(client, other.file_id) == data
            await until(lambda: not files(tmp_path))

    asyncio.run(main())


@sizes
def test_less_than_that_does_not(tmp_path: Path, size: int) -> None:
    data = some_bytes(size)

    async def main() -> None:
        async with serving(tmp_path, delete_after_download=True, metrics_port=0) as (server, client):
            file = await uploaded(client, data)
            assert await status(client, "HEAD", file.path) == 200
            for wanted in ("0-0", "1-", f"0-{size - 2}", "-1"):
                assert await status(client, "GET", file.path, headers={"Range": f"bytes={wanted}"}) == 206
            assert await status(client, "GET", file.path, headers={"Range": f"bytes={size}-"}) == 416
            assert await status(client, "GET", file.path, headers={"If-None-Match": file.tag}) == 304
            assert await status(client, "GET", file.path, headers={"If-Match": '"x"'}) == 412
            for reset in (False, True):
                await _break_off(server, file, reset=reset)
                await _idle(server, client)
            assert len(files(tmp_path)) == 1
            assert await download(client, file.file_id) == data

    asyncio.run(main())


def test_a_download_that_stalls_does_not_either(tmp_path: Path) -> None:
    async def main() -> None:
        options = {"delete_after_download": True, "stall_seconds": 0.2, "metrics_port": 0}
        async with serving(tmp_path, **options) as (server, client):
            file = await uploaded(client, some_bytes(SMALL))
            async with connected(server, receive_bytes=UNREAD) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await connection.head()
                await asyncio.sleep(0.5)
            await _idle(server, client)
            assert await status(client, "HEAD", file.path) == 200

    asyncio.run(main())


def test_without_the_option_files_stay(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file = await uploaded(client, b"archive")
            for _ in range(3):
                assert await download(client, file.file_id) == b"archive"

    asyncio.run(main())


def test_several_may_fetch_a_file_at_once_that_is_deleted_by_that(tmp_path: Path) -> None:
    data = some_bytes(LARGE)

    async def main() -> None:
        async with serving(tmp_path, delete_after_download=True) as (server, client):
            file = await uploaded(client, data)
            request = f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
            async with (
                connected(server, receive_bytes=UNREAD) as first,
                connected(server, receive_bytes=UNREAD) as second,
            ):
                for connection in (first, second):
                    await connection.send(request)
                    assert await connection.status() == 200
                assert await first.read(LARGE) == data
                await until(lambda: not files(tmp_path))
                assert await second.read(LARGE) == data

    asyncio.run(main())
