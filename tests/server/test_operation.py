"""Operating a server: what it counts, logs and says about its health, and how it stops."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from support.history_metrics import eventually, metrics, status, uploaded
from support.history_server import (
    CHUNKED,
    HEAD,
    MUCH,
    OFFSET_STREAM,
    TRAILER_BYTES,
    TUS,
    UNKNOWN,
    chunk,
    connected,
    download,
    files,
    make_server,
    partial,
    serving,
    some_bytes,
    until,
    upload,
)
from xmtp_history import HistoryServer, LocalStorage
from xmtp_history.server import _http

LARGE = 12 * 1024 * 1024
UNREAD = 4_096


# --- metrics and logs ------------------------------------------------------------------------------------------------


async def _script(server: HistoryServer, client: ClientSession, folder: Path) -> None:
    """Some of everything, and what is counted while an upload is going on."""
    small, large = await uploaded(client, bytes(100)), await uploaded(client, bytes(200_000))
    assert len(await download(client, small.file_id)) == 100
    assert len(await download(client, large.file_id)) == 200_000
    for method, path, headers, expected in (
        ("GET", large.path, {"Range": "bytes=0-999"}, 206),
        ("HEAD", large.path, {}, 200),
        ("GET", f"/files/{UNKNOWN}", {}, 404),
        ("PUT", "/upload", {}, 405),
        ("PROPFIND", "/nothing", {}, 404),
        ("GET", "/", {}, 200),
        ("DELETE", small.path, small.may_delete, 204),
    ):
        assert await status(client, method, path, headers=headers) == expected
    for request_bytes, expected in ((CHUNKED + b"ZZ\r\n", 400), (HEAD + b"Content-Length: 1000001\r\n\r\n", 413)):
        async with connected(server) as connection:
            await connection.send(request_bytes)
            assert await connection.status() == expected
    async with connected(server) as connection:
        await connection.send(CHUNKED, chunk(MUCH))
        await until(lambda: partial(folder))
        during = await metrics(server, client)
        assert during["uploads_active",] == 1
        assert during["pending_bytes",] > 0
        assert during["connections",] >= 2

    async def idle() -> bool:
        return ("uploads_active",) not in await metrics(server, client)

    await eventually(idle)


def test_what_is_counted(tmp_path: Path) -> None:
    async def main() -> dict[tuple[str, ...], float]:
        limits = {"max_file_bytes": 1_000_000, "max_total_bytes": 50_000_000}
        async with serving(tmp_path, **limits, metrics_port=0) as (server, client):

            async def counted() -> bool:
                return ("last_sweep_timestamp_seconds",) in await metrics(server, client)

            # What comes while the first sweep counts may be counted twice, until the next one.
            await eventually(counted)
            await _script(server, client, tmp_path)
            return await metrics(server, client)

    counted = asyncio.run(main())
    # Labels are in the order of their names: code, method, route.
    assert {key[1:]: value for key, value in counted.items() if key[0] == "requests_total"} == {
        ("200", "POST", "upload"): 2,
        ("200", "GET", "file"): 2,
        ("206", "GET", "file"): 1,
        ("200", "HEAD", "file"): 1,
        ("404", "GET", "file"): 1,
        ("405", "PUT", "upload"): 1,
        ("404", "other", "other"): 1,
        ("200", "GET", "health"): 1,
        ("204", "DELETE", "file"): 1,
        ("400", "POST", "upload"): 2,
        ("413", "POST", "upload"): 1,
    }
    assert {key[1:]: value for key, value in counted.items() if key[0] == "aborted_total"} == {
        ("incomplete-body", "upload"): 2,
        ("too-large", "upload"): 1,
    }
    assert counted["sent_bytes_total",] == 100 + 200_000 + 1_000
    assert counted["received_bytes_total",] == 100 + 200_000 + len(MUCH)
    assert counted["removed_files_total", "deleted"] == 1
    assert counted["files",] == 1
    assert 200_000 <= counted["stored_bytes",] <= 200_000 + TRAILER_BYTES
    assert counted["quota_bytes",] == 50_000_000
    assert counted["free_bytes",] > 0
    assert counted["storage_seconds_count", "commit"] == 2
    assert counted["request_seconds_count", "upload"] == 6
    for gone in ("pending_bytes", "downloads_active", "uploads_active"):
        assert (gone,) not in counted


def test_what_an_earlier_server_stored_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            for _ in range(3):
                await upload(client, bytes(1_000))
        async with serving(tmp_path, metrics_port=0) as (server, client):

            async def counted() -> bool:
                found = await metrics(server, client)
                return found.get(("files",)) == 3 and 3_000 <= found["stored_bytes",] <= 3 * (1_000 + TRAILER_BYTES)

            await eventually(counted)

    asyncio.run(main())


def test_each_request_is_logged_with_its_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xmtp_history.server.requests")

    async def main() -> str:
        async with serving(tmp_path) as (server, client):
            file_id = await upload(client, bytes(100))
            await download(client, file_id)
            assert await status(client, "PROPFIND", "/nothing") == 404
            async with connected(server) as connection:
                await connection.send(CHUNKED + b"ZZ\r\n")
                assert await connection.status() == 400
            return file_id

    file_id = asyncio.run(main())
    logged: list[dict[str, Any]] = [vars(record)["fields"] for record in caplog.records]
    assert len({fields.pop("request") for fields in logged}) == 4
    assert all(0 <= fields.pop("seconds") < 60 for fields in logged)
    assert all(fields.pop("token") is None for fields in logged)
    assert {fields.pop("token", None) for fields in logged} == {None}
    named = {"id": file_id[:8], "aborted": None}
    assert logged == [
        {"route": "upload", "method": "POST", "status": 200, "received": 100, "sent": 0, **named},
        {"route": "file", "method": "GET", "status": 200, "received": 0, "sent": 100, **named},
        {"route": "other", "method": "other", "status": 404, "received": 0, "sent": 0, "id": None, "aborted": None},
        {
            "route": "upload",
            "method": "POST",
            "status": 400,
            "received": 0,
            "sent": 0,
            "id": None,
            "aborted": "incomplete-body",
        },
    ]
    assert "route=upload method=POST status=200" in caplog.text


# --- health ----------------------------------------------------------------------------------------------------------


async def _health(server: HistoryServer, client: ClientSession) -> tuple[int, int, int, int]:
    """Whether the process lives, and is ready; on the port for that, and on the one for all."""
    assert server.metrics_url is not None
    about = server.metrics_url.removesuffix("/metrics")
    places = [f"{about}/healthz", f"{about}/readyz", f"{server.url}/healthz", f"{server.url}/readyz"]
    alive, ready, also_alive, also_ready = [await status(client, "GET", place) for place in places]
    return alive, ready, also_alive, also_ready


def test_a_storage_that_does_not_work_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_http, "_READY_SECONDS", 0.05)

    async def main() -> None:
        async with serving(tmp_path, metrics_port=0) as (server, client):
            assert await _health(server, client) == (200, 200, 200, 200)
            assert files(tmp_path) == [], "what was written to try is gone"
            (tmp_path / "partial").rename(tmp_path / "away")

            async def healthy() -> bool:
                return (await _health(server, client))[1] == 200

            async def broken() -> bool:
                return not await healthy()

            await eventually(broken)
            assert await _health(server, client) == (200, 503, 200, 503)
            assert await status(client, "POST", "/upload", data=b"archive") == 503
            (tmp_path / "away").rename(tmp_path / "partial")
            await eventually(healthy)
            assert await _health(server, client) == (200, 200, 200, 200)
            await upload(client, b"archive")

    asyncio.run(main())
    assert "the storage is not ready" in caplog.text


class _Hanging(LocalStorage):
    async def probe(self) -> None:
        await asyncio.Event().wait()


def test_a_storage_that_does_not_answer_is_not_ready_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "_READY_SECONDS", 0.1)

    async def main() -> None:
        async with serving(_Hanging(tmp_path), metrics_port=0) as (server, client):
            assert await _health(server, client) == (200, 503, 200, 503)

    asyncio.run(main())


def test_the_port_for_metrics_has_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, metrics_port=0) as (server, client):
            assert server.metrics_url is not None
            about = server.metrics_url.removesuffix("/metrics")
            async with client.get(server.metrics_url) as response:
                assert response.content_type == "text/plain"
            for method, path, expected in (
                ("HEAD", "/metrics", 200),
                ("POST", "/metrics", 405),
                ("GET", "/", 404),
                ("POST", "/upload", 405),
                ("GET", f"/files/{UNKNOWN}", 404),
            ):
                assert await status(client, method, f"{about}{path}") == expected
            # And only it has them.
            assert await status(client, "GET", "/metrics") == 404
        async with serving(tmp_path) as (server, _):
            assert server.metrics_url is None

    asyncio.run(main())


def test_a_port_for_metrics_that_is_taken_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "a") as (server, _):
            taken = int(server.url.rpartition(":")[2])
            second = make_server(tmp_path / "b", metrics_port=taken)
            for _ in range(2):
                with pytest.raises(OSError) as caught:
                    await second.start()
                assert caught.value.errno == errno.EADDRINUSE
                with pytest.raises(RuntimeError):
                    _ = second.url

    # Nothing is left of it: no port, no thread, no task.
    asyncio.run(main())


# --- stopping --------------------------------------------------------------------------------------------------------


def test_a_server_that_stops_says_so_and_lets_a_download_end(tmp_path: Path) -> None:
    data = some_bytes(LARGE)

    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=60.0, metrics_port=0) as (server, client):
            file = await uploaded(client, data)
            assert server.metrics_url is not None
            about = server.metrics_url.removesuffix("/metrics")
            async with connected(server, receive_bytes=UNREAD) as connection:
                await connection.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await connection.head()
                closing = asyncio.create_task(server.aclose())
                await asyncio.sleep(0)
                assert await status(client, "GET", f"{about}/readyz") == 503
                assert await status(client, "GET", f"{about}/healthz") == 200
                assert not closing.done()
                assert await connection.read(LARGE) == data
                await closing

    asyncio.run(main())


def test_what_takes_longer_is_broken_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xmtp_history.server.requests")

    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=0.2) as (server, client):
            file = await uploaded(client, bytes(LARGE))
            async with connected(server, receive_bytes=UNREAD) as download_one, connected(server) as upload_one:
                await download_one.send(f"GET {file.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                await download_one.head()
                await upload_one.send(CHUNKED, chunk(MUCH))
                await until(lambda: partial(tmp_path))
                await server.aclose()
                assert partial(tmp_path) == []
                assert len(await download_one.rest()) < LARGE
                assert await upload_one.rest() == b""

    asyncio.run(main())
    aborted = {vars(record)["fields"]["route"] for record in caplog.records if vars(record)["fields"]["aborted"]}
    assert aborted == {"file", "upload"}
    assert "aborted=shutdown" in caplog.text


def test_who_does_not_want_to_wait_does_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=1_000.0) as (server, _):
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(MUCH))
                await until(lambda: partial(tmp_path))
                await server.aclose(seconds=0)
                assert partial(tmp_path) == []
            # Once more, and somebody loses patience.
            await server.start()
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(MUCH))
                await until(lambda: partial(tmp_path))
                closing = asyncio.create_task(server.aclose())
                await asyncio.sleep(0.05)
                closing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await closing
                assert partial(tmp_path) == []
                with pytest.raises(RuntimeError):
                    _ = server.url

    asyncio.run(main())


def test_what_has_arrived_of_a_resumable_upload_is_kept(tmp_path: Path) -> None:
    data = some_bytes(2 * len(MUCH))

    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=0.1) as (server, client), connected(server) as connection:
            create = TUS | {"Upload-Length": str(len(data))}
            async with client.post("/upload", headers=create) as response:
                path = response.headers["Location"]
            head = f"PATCH {path} HTTP/1.1\r\nHost: test\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            head += f"Content-Type: {OFFSET_STREAM}\r\nContent-Length: {len(data)}\r\n\r\n"
            await connection.send(head.encode(), data[: len(MUCH)])
            await until(lambda: any(one.stat().st_size > 100_000 for one in files(tmp_path)))
            await server.aclose()
        async with serving(tmp_path) as (_, client):
            async with client.head(path, headers=TUS) as response:
                offset = int(response.headers["Upload-Offset"])
                assert 100_000 < offset <= len(MUCH)
            patch = TUS | {"Upload-Offset": str(offset), "Content-Type": OFFSET_STREAM}
            async with client.patch(path, headers=patch, data=data[offset:]) as response:
                assert response.status == 204
                assert await download(client, response.headers["Content-Location"].rpartition("/")[2]) == data

    asyncio.run(main())
