"""Resumable uploads with a client that others wrote: tuspy."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError, TusUploadFailed
from tusclient.uploader import Uploader

from support import tus
from support.history_server import serving, some_bytes
from xmtp_history import HistoryServer, UploadTokens

DATA = some_bytes(3_000_001)

# So it uses aiohttp.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by way of a proxy that the machine may have."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _client(server: HistoryServer, before: str = "") -> TusClient:
    return TusClient(f"{server.url}{before}/upload")


async def _upload(uploader: Any, stop_at: int | None = None) -> None:
    """Outside of the loop, which the server needs."""
    await asyncio.to_thread(uploader.upload, stop_at)


async def _upload_async(uploader: Any) -> None:
    """In a loop of its own: in between, it waits without letting others work."""
    await asyncio.to_thread(lambda: asyncio.run(uploader.upload()))


async def _check(client: ClientSession, uploader: Any, data: bytes) -> None:
    answer = await tus.head(client, uploader.url)
    tus.check_finished(answer, len(data))
    await tus.check_file(client, answer.file_id, data)


@asynccontextmanager
async def _cutting(server: HistoryServer, *cuts: int) -> AsyncIterator[str]:
    """The URL of a proxy that cuts each connection after so many bytes from the client; in the end it does not any more."""
    host, port = server.url.removeprefix("http://").split(":")
    left = list(cuts)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: float) -> None:
        while count > 0 and (data := await reader.read(min(65_536, int(min(count, 65_536))))):
            writer.write(data)
            await writer.drain()
            count -= len(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(host, int(port))
        there = asyncio.create_task(pass_on(reader, to_server[1], left.pop(0) if left else float("inf")))
        back = asyncio.create_task(pass_on(to_server[0], writer, float("inf")))
        with suppress(OSError):
            _, running = await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                task.cancel()
            await asyncio.wait([there, back])
            for task in (there, back):
                if not task.cancelled():
                    task.exception()
            for one in (to_server[1], writer):
                one.close()
            await asyncio.gather(to_server[1].wait_closed(), writer.wait_closed(), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("piece", [10_000_000, 3_000_001, 1_000_000, 300_000])
def test_a_whole_upload(tmp_path: Path, piece: int, checked: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            options = {"chunk_size": piece, "upload_checksum": checked, "metadata": {"name": "ärchive"}}
            for make, upload in ((Uploader, _upload), (_async, _upload_async)):
                uploader = make(file_stream=io.BytesIO(DATA), client=_client(server), **options)
                await upload(uploader)
                await _check(client, uploader, DATA)

    asyncio.run(main())


def _async(client: TusClient, **options: Any) -> Any:
    return client.async_uploader(**options)


def test_an_empty_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            uploader = _client(server).uploader(file_stream=io.BytesIO(b""))
            await _upload(uploader)
            await _check(client, uploader, b"")

    asyncio.run(main())


def test_with_a_token_in_the_url(tmp_path: Path) -> None:
    token = "t" * 16

    async def main() -> None:
        async with serving(tmp_path, upload_tokens=UploadTokens({"one": token})) as (server, client):
            with pytest.raises(TusCommunicationError, match="401"):
                await _upload(_client(server).uploader(file_stream=io.BytesIO(DATA)))
            uploader = _client(server, f"/t/{token}").uploader(file_stream=io.BytesIO(DATA))
            await _upload(uploader)
            answer = await tus.head(client, uploader.url)
            await tus.check_file(client, answer.file_id, DATA)

    asyncio.run(main())


def test_resuming_at_another_server(tmp_path: Path) -> None:
    async def main() -> None:
        path, offset = "", 0
        for end in (1_000_000, 2_000_000, len(DATA)):
            async with serving(tmp_path) as (server, client):
                options = {"file_stream": io.BytesIO(DATA), "chunk_size": 500_000}
                # It asks for the offset with its first breath.
                uploader = await asyncio.to_thread(_client(server).uploader, url=path and server.url + path, **options)
                assert uploader.offset == offset
                await _upload(uploader, end)
                path = uploader.url.removeprefix(server.url)
                offset = uploader.offset
                assert offset == end
                if end == len(DATA):
                    await _check(client, uploader, DATA)

    asyncio.run(main())


@pytest.mark.parametrize("make", [TusClient.uploader, TusClient.async_uploader])
def test_resuming_after_cuts(tmp_path: Path, make: Callable[..., Any]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            # The creation and each question for the offset go through.
            cuts = [
                10_000_000,
                700_000,
                10_000_000,
                100,
                10_000_000,
                900_000,
                10_000_000,
                1_400_000,
                10_000_000,
                50_000,
            ]
            async with _cutting(server, *cuts) as url:
                options = {"file_stream": io.BytesIO(DATA), "retries": 20, "retry_delay": 0}
                uploader = make(TusClient(f"{url}/upload"), **options)
                await (_upload if make is TusClient.uploader else _upload_async)(uploader)
                assert uploader.url.startswith(url)
                uploader.url = uploader.url.removeprefix(url)
                await _check(client, uploader, DATA)

    asyncio.run(main())


def test_what_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=2_000_000) as (server, client):
            with pytest.raises(TusCommunicationError, match="413"):
                await _upload(_client(server).uploader(file_stream=io.BytesIO(DATA)))
            uploader = _client(server).uploader(file_stream=io.BytesIO(DATA[:1_000_000]))
            await _upload(uploader, 500_000)
            await tus.delete(client, uploader.url)
            with pytest.raises(TusUploadFailed):
                await _upload(uploader)
            # A piece that is altered on its way is refused, and may be sent again.
            uploader = _client(server).uploader(file_stream=io.BytesIO(DATA[:1_000_000]), upload_checksum=True)
            await _upload(uploader, 500_000)
            wrong = await tus.patch(
                client,
                uploader.url,
                500_000,
                b"x" * 500_000,
                upload_checksum=tus.checksum("sha1", DATA[500_000:1_000_000]),
            )
            assert wrong.status == 460
            await _upload(uploader)
            await _check(client, uploader, DATA[:1_000_000])

    asyncio.run(main())
