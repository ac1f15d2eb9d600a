"""What expires: it is not served any more, and then it is deleted, whatever else is in the storage."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.history_metrics import Uploaded, eventually, metrics, missing, problem, status, uploaded
from support.history_server import (
    OFFSET_STREAM,
    TUS,
    chunk,
    connected,
    download,
    files,
    make_server,
    serving,
    until,
)
from xmtp_history import HistoryServer, LocalStorage
from xmtp_history.server import _clock
from xmtp_history.server.storage import FileEntry

NEVER = 1_000_000.0
OFTEN = 0.02
WEEK = 7 * 86_400.0
OLD = time.time() - 2 * WEEK


def _path(folder: Path, file: Uploaded) -> Path:
    return folder / file.file_id[:2] / file.file_id


def _age(path: Path, moment: float = OLD) -> Path:
    os.utime(path, (moment, moment))
    return path


def _is_there(path: Path) -> bool:
    """Also if it is a link that leads nowhere."""
    return os.path.lexists(path)


async def _several_sweeps(server: HistoryServer, client: Any) -> None:
    for _ in range(3):
        last = (await metrics(server, client)).get(("last_sweep_timestamp_seconds",))

        async def another(last: float | None = last) -> bool:
            return (await metrics(server, client)).get(("last_sweep_timestamp_seconds",)) != last

        await eventually(another)


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_has_expired_is_not_served_before_it_is_swept(tmp_path: Path) -> None:
    async def main() -> None:
        # With a quota the first sweep is over before anything is served.
        async with serving(tmp_path, sweep_seconds=NEVER, max_total_bytes=10**9) as (_, client):
            small, large = await uploaded(client, b"archive"), await uploaded(client, bytes(1_000_000))
            fresh = await uploaded(client, b"fresh")
            for file in (small, large):
                _age(_path(tmp_path, file), time.time() - WEEK + 60)
                assert await status(client, "GET", file.path) == 200
                _age(_path(tmp_path, file), time.time() - WEEK)
                for method in ("GET", "HEAD", "DELETE"):
                    assert await status(client, method, file.path, headers=file.may_delete) == 404
                assert _path(tmp_path, file).exists()
            assert await download(client, fresh.file_id) == b"fresh"

    asyncio.run(main())


def test_what_has_expired_is_swept(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            old, fresh = await uploaded(client, b"archive"), await uploaded(client, b"fresh")
            _age(_path(tmp_path, old))
            await until(lambda: files(tmp_path) == [_path(tmp_path, fresh)])
            await _several_sweeps(server, client)
            assert (await metrics(server, client))["removed_files_total", "expired"] == 1
            assert (await metrics(server, client))["files",] == 1
            assert await download(client, fresh.file_id) == b"fresh"

    asyncio.run(main())


def test_a_server_sweeps_when_it_starts(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file = await uploaded(client, b"archive")
        _age(_path(tmp_path, file))
        async with make_server(tmp_path, sweep_seconds=NEVER):
            await until(lambda: not files(tmp_path))

    asyncio.run(main())


def test_without_retention_nothing_expires(tmp_path: Path) -> None:
    async def main() -> None:
        options = {"retention_seconds": None, "sweep_seconds": OFTEN, "metrics_port": 0}
        async with serving(tmp_path, **options) as (server, client):
            file = await uploaded(client, b"archive")
            _age(_path(tmp_path, file), 1.0)
            await _several_sweeps(server, client)
            assert await download(client, file.file_id) == b"archive"

    asyncio.run(main())


def test_what_is_not_ours_is_left_alone_and_hides_nothing(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "files", tmp_path / "precious"
    elsewhere.write_bytes(b"precious")
    _age(elsewhere)

    async def main() -> None:
        async with serving(folder, sweep_seconds=OFTEN) as (_, client):
            expired = [_path(folder, await uploaded(client, b"archive")) for _ in range(20)]
            kept = []
            for number, name in enumerate(["README", ".hidden", "0", f"{uuid.uuid4()}.x", str(uuid.uuid4()).upper()]):
                (folder / f"{number:02x}" / name).write_bytes(b"kept")
                kept.append(_age(folder / f"{number:02x}" / name))
            makes = [Path.mkdir, lambda path: path.symlink_to(elsewhere), os.mkfifo]
            for number, make in enumerate(makes):
                path = folder / f"{number:02x}" / f"{number:02x}{str(uuid.uuid4())[2:]}"
                make(path)
                kept.append(path)
            gone, none = [path.parent for path in expired][:2]
            shutil.rmtree(gone)
            shutil.rmtree(none, ignore_errors=True)
            none.write_bytes(b"no folder")
            for path in expired:
                if path.exists():
                    _age(path)
            await until(lambda: not any(path.exists() for path in expired))
            assert all(_is_there(path) for path in kept if path.parent not in {gone, none})
            assert await status(client, "GET", "/") == 200

    asyncio.run(main())
    assert elsewhere.read_bytes() == b"precious"


class _Stubborn(LocalStorage):
    """Lists what is not there, and does not delete everything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.kept: set[uuid.UUID] = set()
        self.errors: list[Exception] = []

    async def files(self) -> AsyncIterator[list[FileEntry]]:
        if self.errors:
            raise self.errors.pop()
        yield [FileEntry(uuid.uuid4(), 1, OLD) for _ in range(3)]
        async for entries in super().files():
            yield entries

    async def delete(self, file_id: uuid.UUID, /) -> bool:
        if file_id in self.kept:
            raise PermissionError(1, "operation not permitted", f"/a/{file_id}")
        return await super().delete(file_id)


def test_what_cannot_be_deleted_does_not_keep_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = _Stubborn(tmp_path)

    async def main() -> None:
        async with serving(storage, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            old = [await uploaded(client, b"archive") for _ in range(5)]
            storage.kept = {uuid.UUID(file.file_id) for file in old[:2]}
            for file in old:
                _age(_path(tmp_path, file))
            await until(lambda: len(files(tmp_path)) == 2)
            await _several_sweeps(server, client)
            counted = await metrics(server, client)
            assert counted["files",] == 2
            assert counted["storage_errors_total", "delete"] >= 2
            assert "an expired file could not be removed" in caplog.text
            assert not [file for file in old if file.file_id in caplog.text]
            # They are not served all the same, and go when they can.
            assert await missing(client, old[0].path)
            storage.kept.clear()
            await until(lambda: not files(tmp_path))

    asyncio.run(main())


def test_a_sweep_that_fails_is_logged_and_the_next_one_works(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = _Stubborn(tmp_path)

    async def main() -> None:
        async with serving(storage, sweep_seconds=OFTEN) as (_, client):
            file = await uploaded(client, b"archive")
            storage.errors += [OSError(5, "input/output error", f"/a/{file.file_id}"), RuntimeError("no reason")]
            await until(lambda: not storage.errors)
            _age(_path(tmp_path, file))
            await until(lambda: not files(tmp_path))
            assert "the sweep was broken off: input/output error" in caplog.text
            assert "the sweep failed" in caplog.text
            assert file.file_id not in caplog.text

    asyncio.run(main())


def test_a_file_from_the_future_expires_a_week_after_it_was_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            file, old = await uploaded(client, b"archive"), await uploaded(client, b"old")
            _age(_path(tmp_path, file), time.time() + 10 * 365 * 86_400)
            _age(_path(tmp_path, old))
            await until(lambda: files(tmp_path) == [_path(tmp_path, file)])
            await _several_sweeps(server, client)
            assert abs(_path(tmp_path, file).stat().st_mtime - time.time()) < 60
            assert await download(client, file.file_id) == b"archive"

    asyncio.run(main())


# --- resumable uploads -----------------------------------------------------------------------------------------------


async def _create(client: Any, length: int = 3) -> str:
    async with client.post("/upload", headers=TUS | {"Upload-Length": str(length)}) as response:
        assert response.status == 201
        return response.headers["Location"]


def test_a_resumable_upload_expires(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, resumable_seconds=0.3, sweep_seconds=NEVER, max_total_bytes=10**9) as (_, client):
            path = await _create(client)
            patch = TUS | {"Upload-Offset": "0", "Content-Type": OFFSET_STREAM}

            async def gone() -> bool:
                return await status(client, "HEAD", path, headers=TUS) == 410

            await eventually(gone)
            assert (await problem(client, "PATCH", path, headers=patch, data=b"abc"))[:2] == (410, "upload-expired")
            assert len(files(tmp_path)) == 2
        async with serving(tmp_path, resumable_seconds=0.3, sweep_seconds=OFTEN) as (_, client):
            await until(lambda: not files(tmp_path))
            assert await status(client, "HEAD", path, headers=TUS) == 404

    asyncio.run(main())


def test_a_resumable_upload_that_is_going_on_is_not_swept(tmp_path: Path) -> None:
    async def main() -> None:
        options = {"resumable_seconds": 0.5, "sweep_seconds": OFTEN, "metrics_port": 0}
        async with serving(tmp_path, **options) as (server, client), connected(server) as connection:
            path = await _create(client)
            head = f"PATCH {path} HTTP/1.1\r\nHost: test\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
            await connection.send(f"{head}Content-Type: {OFFSET_STREAM}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            await connection.send(chunk(b"ab"))
            await asyncio.sleep(0.6)
            await _several_sweeps(server, client)
            await connection.send(chunk(b"c"), chunk(b""))
            assert await connection.status() == 204

    asyncio.run(main())
    # What it was created with may be swept by now, but not the file.
    assert [path.read_bytes()[:3] for path in files(tmp_path) if path.parent.name != "resumable"] == [b"abc"]


# --- clocks ----------------------------------------------------------------------------------------------------------


class _Clocks:
    """The clocks of the machine, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.steady = 0.0
        fake = SimpleNamespace(time=lambda: time.time() + self.wall, monotonic=lambda: time.monotonic() + self.steady)
        monkeypatch.setattr(_clock, "time", fake)

    def wait(self, seconds: float) -> None:
        """Time goes by."""
        self.wall += seconds
        self.steady += seconds


def test_a_clock_that_jumps_ahead_is_not_believed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)

    async def main() -> None:
        async with serving(tmp_path, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            file = await uploaded(client, b"archive")
            path = await _create(client)
            clocks.wall += 30 * 86_400
            for _ in range(2):
                assert await download(client, file.file_id) == b"archive"
                await _several_sweeps(server, client)
                assert await status(client, "HEAD", path, headers=TUS) == 200
                await uploaded(client, b"meanwhile")
                clocks.wait(1_700)
            assert len(files(tmp_path)) == 5
            # It has insisted for an hour.
            clocks.wait(300)
            assert await missing(client, file.path)
            await until(lambda: not files(tmp_path))

    asyncio.run(main())


def test_a_clock_that_is_put_right_again_has_done_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)

    async def main() -> None:
        async with serving(tmp_path, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            file = await uploaded(client, b"archive")
            for jump in (30 * 86_400, -30 * 86_400, -30 * 86_400, 30 * 86_400):
                clocks.wall += jump
                assert await download(client, file.file_id) == b"archive"
                await _several_sweeps(server, client)
            # Long after, all is as if nothing had been.
            clocks.wait(2 * 3_600)
            assert await download(client, file.file_id) == b"archive"
            for _ in range(8):
                clocks.wait(86_400)
                await _several_sweeps(server, client)
            assert await missing(client, file.path)
            assert files(tmp_path) == []

    asyncio.run(main())


def test_a_machine_that_slept_does_not_forget_to_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = _Clocks(monkeypatch)

    async def main() -> None:
        async with serving(tmp_path, sweep_seconds=OFTEN, metrics_port=0) as (server, client):
            await uploaded(client, b"archive")
            # Steady clocks do not go on while a machine sleeps.
            clocks.wall += 30 * 86_400
            await _several_sweeps(server, client)
            assert len(files(tmp_path)) == 1
            clocks.wait(3_700)
            await until(lambda: not files(tmp_path))

    asyncio.run(main())
