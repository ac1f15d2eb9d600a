"""Resumable uploads whose connections are cut, hang, or are one too many, and servers that start again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession

from support import tus
from support.history_metrics import eventually
from support.history_server import Connection, chunk, connected, files, serving, some_bytes, until
from support.tus import Answer, ask, create, created, delete, head, part, part_bytes, patch, patch_head, resume
from xmtp_history import HistoryServer, LocalStorage

#: More than is written at once.
DATA = some_bytes(3_000_001)
MEGABYTE = 1 << 20


async def _send_some(connection: Connection, path: str, offset: int, count: int, *, chunked: bool = False) -> None:
    """Sends the head of a request for all of the rest, and as much of the body."""
    body = DATA[offset : offset + count]
    await connection.send(patch_head(path, offset, None if chunked else len(DATA) - offset))
    await connection.send(chunk(body) if chunked else body)


# --- cut -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("count", [2_000_000, 3_000_000])
def test_what_arrived_before_a_cut_stays(tmp_path: Path, count: int, chunked: bool, reset: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, len(DATA))
            async with connected(server) as connection:
                await _send_some(connection, path, 0, count, chunked=chunked)
                await until(lambda: part_bytes(tmp_path, path) >= MEGABYTE)
                if reset:
                    connection.reset()
            answer = await head(client, path)
            assert MEGABYTE <= answer.offset <= count
            assert part(tmp_path, path).read_bytes() == DATA[: answer.offset]
            await resume(client, path, DATA, answer.offset)

    asyncio.run(main())


def test_little_by_little(tmp_path: Path) -> None:
    """A client whose connections never last long gets to the end."""
    data = DATA[:200_000]

    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, len(data))
            offset = 0
            while offset < len(data) - 30_000:
                async with connected(server) as connection:
                    await connection.send(patch_head(path, offset, len(data) - offset), data[offset : offset + 30_000])
                    await until(lambda offset=offset: part_bytes(tmp_path, path) > offset)
                came = (await head(client, path)).offset
                assert offset < came <= offset + 30_000
                offset = came
            await resume(client, path, data, offset)

    asyncio.run(main())


def test_a_body_that_does_not_go_on_stays_as_far_as_it_came(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, idle_seconds=0.2) as (server, client):
            path = await created(client, len(DATA))
            async with connected(server) as connection:
                await _send_some(connection, path, 0, 1_500_000)
                assert await connection.status() == 408
            assert MEGABYTE <= (await head(client, path)).offset <= 1_500_000
            await resume(client, path, DATA)

    asyncio.run(main())


def test_broken_chunks_are_not_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, len(DATA))
            async with connected(server) as connection:
                await _send_some(connection, path, 0, 1_500_000, chunked=True)
                await connection.send(b"ZZ\r\nwrong")
                assert await connection.status() == 400
            assert (await head(client, path)).offset <= 1_500_000
            await resume(client, path, DATA)

    asyncio.run(main())


def test_a_client_that_waits_for_an_invitation_gets_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, 11)
            for offset, status in ((1, 409), (0, 100)):
                async with connected(server) as connection:
                    await connection.send(patch_head(path, offset, 11, "Expect: 100-continue"))
                    assert await connection.status() == status
                    if status == 100:
                        await connection.send(DATA[:11])
                        assert await connection.status() == 204
            assert (await head(client, path)).offset == 11

    asyncio.run(main())


# --- one too many ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE", "HEAD instead"])
def test_a_new_request_ends_one_that_hangs(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client), connected(server) as connection:
            path = await created(client, len(DATA))
            await _send_some(connection, path, 0, 2_000_000)
            await until(lambda: part_bytes(tmp_path, path) >= MEGABYTE)
            if method == "PATCH":
                # At the wrong offset, but the client learns the right one.
                answer = await patch(client, path, 0, b"")
                assert answer.status == 409
                assert answer.offset >= MEGABYTE
            elif method == "DELETE":
                assert (await delete(client, path)).status == 204
                assert files(tmp_path) == []
            elif method == "HEAD":
                assert (await head(client, path)).offset >= MEGABYTE
            else:
                told = {"X-HTTP-Method-Override": "HEAD", "Tus-Resumable": "1.0.0"}
                assert (await ask(client, "POST", path, told)).offset >= MEGABYTE
            assert await connection.rest() == b""
            if method != "DELETE":
                await resume(client, path, DATA)

    asyncio.run(main())


def test_of_many_at_once_the_last_one_wins(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, len(DATA))
            done: list[Answer | None] = await asyncio.gather(*(_try(server, path) for _ in range(8)))
            answers = [answer for answer in done if answer is not None]
            assert {answer.status for answer in answers} <= {204, 409}
            answer = await head(client, path)
            if "Content-Location" in answer.headers:
                await tus.check_file(client, answer.file_id, DATA)
            else:
                await resume(client, path, DATA, answer.offset)

    asyncio.run(main())


async def _try(server: HistoryServer, path: str) -> Answer | None:
    async with ClientSession(server.url) as client:
        try:
            return await patch(client, path, 0, DATA)
        except OSError:
            return None


def test_requests_on_one_connection_wait_for_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client), connected(server) as connection:
            path = await created(client, 22)
            one, two = (patch_head(path, offset, 11) + DATA[offset : offset + 11] for offset in (0, 11))
            await connection.send(one + two)
            assert await connection.status() == 204
            assert await connection.status() == 204
            await tus.check_file(client, (await head(client, path)).file_id, DATA[:22])

    asyncio.run(main())


def test_two_servers_on_one_directory(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client), serving(tmp_path) as (_, other):
            path = await created(client, len(DATA))
            assert (await patch(other, path, 0, DATA[:10])).status == 204
            async with connected(server) as connection:
                await connection.send(patch_head(path, 10, len(DATA) - 10), DATA[10:2_000_000])
                await until(lambda: part_bytes(tmp_path, path) >= MEGABYTE)
                for answer in (await head(other, path), await patch(other, path, 10, b""), await delete(other, path)):
                    assert answer.status == 423

            async def free() -> bool:
                return (await head(other, path)).status == 200

            await eventually(free)
            file_id = await resume(other, path, DATA)
            await tus.check_file(client, file_id, DATA)

    asyncio.run(main())


# --- servers that start again ----------------------------------------------------------------------------------------


def test_an_upload_outlives_its_server(tmp_path: Path) -> None:
    async def main() -> None:
        path, offset = "", 0
        for end in (0, 1, 1_500_000, 1_500_000, 2_999_999, len(DATA)):
            async with serving(tmp_path) as (_, client):
                if not path:
                    path = await created(client, None, upload_metadata="a Yg==")
                answer = await head(client, path)
                assert (answer.offset, answer.headers["Upload-Metadata"]) == (offset, "a Yg==")
                told = {} if "Upload-Length" in answer.headers else {"upload_length": str(len(DATA))}
                answer = await patch(client, path, offset, DATA[offset:end], **(told if end > 1 else {}))
                offset = answer.offset
                assert offset == end
        async with serving(tmp_path) as (_, client):
            again = await head(client, path)
            assert again.headers["Delete-Capability"] == answer.headers["Delete-Capability"]
            assert again.headers["Upload-Length"] == str(len(DATA))
            await tus.check_file(client, again.file_id, DATA)

    asyncio.run(main())


def test_a_server_that_closes_keeps_what_has_arrived(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=0) as (server, client), connected(server) as connection:
            path = await created(client, len(DATA))
            await _send_some(connection, path, 0, 2_000_000)
            await until(lambda: part_bytes(tmp_path, path) >= MEGABYTE)
            await server.aclose()
        async with serving(tmp_path) as (_, client):
            assert MEGABYTE <= (await head(client, path)).offset <= 2_000_000
            await resume(client, path, DATA)

    asyncio.run(main())


def test_a_server_that_closes_lets_an_upload_get_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=60) as (server, client), connected(server) as connection:
            path = await created(client, len(DATA))
            await _send_some(connection, path, 0, 2_000_000)
            await until(lambda: part_bytes(tmp_path, path) >= MEGABYTE)
            closing = asyncio.create_task(server.aclose())
            await asyncio.sleep(0)
            await connection.send(DATA[2_000_000:])
            assert await connection.status() == 204
            await closing
        async with serving(tmp_path) as (_, client):
            await tus.check_file(client, (await head(client, path)).file_id, DATA)

    asyncio.run(main())


def test_asking_finishes_what_an_earlier_server_did_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            with monkeypatch.context() as patching:
                patching.setattr(Path, "rename", _broken)
                assert (await patch(client, path, 0, DATA)).status == 503
                assert (await create(client, 0)).status == 503
        assert part_bytes(tmp_path, path) == len(DATA)
        async with serving(LocalStorage(tmp_path)) as (_, client):
            await tus.check_file(client, (await head(client, path)).file_id, DATA)

    asyncio.run(main())


def _broken(*_arguments: object) -> None:
    raise OSError("broken")
