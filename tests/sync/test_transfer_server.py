"""Transfers with our own history server: large ones, through its restarts, and everything that it says beside the bytes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from xmtp_history import (
    ArchiveNotFound,
    HistoryServer,
    LocalStorage,
    PayloadTooLarge,
    Progress,
    SyncError,
    delete_archive,
    download_archive,
    upload_archive,
)
from xmtp_history.server import ServerLimits
from xmtp_history.sync import _retry

DATA = random.Random(6).randbytes(100_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _short_waits(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server needs a moment to start again."""
    monkeypatch.setattr(_retry, "_sleep", lambda _seconds: asyncio.sleep(0.2))


class Server:
    """A history server that can be restarted on its port."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder, self._options = folder, options
        self._port = 0
        self.restarts = 0

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def _start(self) -> None:
        self._server = HistoryServer(LocalStorage(self._folder), port=self._port, **self._options)
        await self._server.start()
        self.url = self._server.url
        self._port = int(self.url.rpartition(":")[2].partition("/")[0])

    async def restart(self) -> None:
        """Breaks off what is going on, and comes back."""
        self.restarts += 1
        await self._server.aclose()
        await self._start()


async def stream(data: bytes, step: int = 1_000_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@pytest.mark.parametrize("kind", ["path", "stream", "bytes"])
def test_100_mb_through_restarts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "archive.xmtp"
    path.write_bytes(DATA)
    source = {"path": path, "stream": stream(DATA), "bytes": DATA}[kind]

    async def main() -> None:
        limits = ServerLimits(shutdown_seconds=0.05)
        async with Server(tmp_path / "server", limits=limits) as server:
            restarts: set[asyncio.Task[None]] = set()
            places = [12_000_000, 50_000_000, 99_000_000]

            def on_progress(progress: Progress) -> None:
                if places and progress.bytes_done >= places[0]:
                    del places[0]
                    restarts.add(asyncio.ensure_future(server.restart()))

            uploaded = await upload_archive(source, server.url, on_progress=on_progress)
            await asyncio.gather(*restarts)
            assert (uploaded.size, uploaded.sha256) == (len(DATA), DIGEST)
            assert server.restarts
            done = server.restarts

            places[:] = [20_000_000, 70_000_000]
            report = await download_archive(uploaded.url, tmp_path / "copy", on_progress=on_progress)
            await asyncio.gather(*restarts)
            assert server.restarts > done
            assert (report.size, report.sha256, report.verified) == (len(DATA), DIGEST, True)
            assert uploaded.delete_capability is not None
            await delete_archive(uploaded.url, uploaded.delete_capability)
            with pytest.raises(ArchiveNotFound):
                await download_archive(uploaded.url, io.BytesIO())

    asyncio.run(main())
    assert (tmp_path / "copy").read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 1, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 16 * 1024 * 1024])
@pytest.mark.parametrize("streamed", [False, True])
def test_sizes(tmp_path: Path, size: int, streamed: bool) -> None:
    data = DATA[:size]

    async def main() -> None:
        async with Server(tmp_path) as server:
            uploaded = await upload_archive(stream(data) if streamed else data, server.url + "/")
            target = io.BytesIO()
            report = await download_archive(uploaded.url, target)
            assert target.getvalue() == data
            assert report.verified
            assert report.sha256 == uploaded.sha256
            assert uploaded.delete_capability is not None
            with pytest.raises(SyncError) as caught:
                await delete_archive(uploaded.url, "0" * 32)
            assert caught.value.status == 403
            await delete_archive(uploaded.url, uploaded.delete_capability)

    asyncio.run(main())


def test_too_large(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(tmp_path, limits=ServerLimits(max_file_bytes=10_000_000)) as server:
            for source in (DATA[:10_000_001], stream(DATA[:20_000_000])):
                with pytest.raises(PayloadTooLarge, match="10,000,000"):
                    await upload_archive(source, server.url)
            await upload_archive(stream(DATA[:10_000_000]), server.url)

    asyncio.run(main())


def test_a_prefix(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(tmp_path, prefix="/history") as server:
            uploaded = await upload_archive(DATA[:20_000_000], server.url)
            assert uploaded.url.startswith(server.url + "/files/")
            assert (await download_archive(uploaded.url, io.BytesIO())).verified

    asyncio.run(main())


def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(tmp_path) as server:
            task: asyncio.Task[Any]

            def on_progress(progress: Progress) -> None:
                if progress.bytes_done > 20_000_000:
                    task.cancel()

            task = asyncio.ensure_future(upload_archive(stream(DATA), server.url, on_progress=on_progress))
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 10_000


def test_a_slow_stream(tmp_path: Path) -> None:
    """The server waits only for pieces that are on their way, not for those that are still to be made."""

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[:9_000_000]
        await asyncio.sleep(1)
        yield DATA[9_000_000:10_000_000]

    async def main() -> None:
        async with Server(tmp_path, limits=ServerLimits(idle_seconds=0.3)) as server:
            uploaded = await upload_archive(slow(), server.url)
            assert uploaded.size == 10_000_000

    asyncio.run(main())
