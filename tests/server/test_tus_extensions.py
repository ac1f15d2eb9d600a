"""Resumable uploads by tus 1.0.0: checksums, ends, and clients that are not quite free."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from support import tus
from support.history_server import (
    OFFSET_STREAM,
    TUS,
    connected,
    files,
    make_server,
    serving,
    some_bytes,
    stored,
    until,
    upload,
)
from support.tus import Answer, ask, check_finished, create, created, delete, head, patch, resume
from xmtp_history import UploadTokens

DATA = some_bytes(700_001)
FEW = some_bytes(11)
METADATA = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential"


# --- checksums, termination, expiration ------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512", "md5"])
def test_a_checksum_that_is_right(tmp_path: Path, algorithm: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            begin, end = DATA[:300_000], DATA[300_000:]
            answer = await create(client, len(DATA), begin, upload_checksum=tus.checksum(algorithm, begin))
            assert answer.status == 201
            path = answer.headers["Location"]
            nothing = await patch(client, path, 300_000, b"", upload_checksum=tus.checksum(algorithm, b""))
            assert nothing.status == 204
            answer = await patch(client, path, 300_000, end, upload_checksum=tus.checksum(algorithm, end))
            check_finished(answer, len(DATA))
            await tus.check_file(client, answer.file_id, DATA)

    asyncio.run(main())


def test_an_unfinished_upload_can_be_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            await patch(client, path, 0, DATA[:500_000])
            answer = await delete(client, path)
            assert answer.status == 204
            assert answer.headers["Tus-Resumable"] == "1.0.0"
            assert files(tmp_path) == []
            for answer in (await head(client, path), await patch(client, path, 0, FEW), await delete(client, path)):
                assert answer.status == 404
                assert "Upload-Offset" not in answer.headers

    asyncio.run(main())


def test_ending_a_finished_upload_deletes_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await create(client, 11, FEW)
            assert (await delete(client, answer.headers["Location"])).status == 204
            assert files(tmp_path) == []
            async with client.get(answer.headers["Content-Location"]) as response:
                assert response.status == 404

    asyncio.run(main())


def test_an_expired_upload_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, resumable_seconds=0.3) as (_, client):
            answer = await create(client, 11)
            path = answer.headers["Location"]
            assert parsedate_to_datetime(answer.headers["Upload-Expires"]).timestamp() < time.time() + 1
            while (await head(client, path)).status == 200:
                pass
            for answer in (await head(client, path), await patch(client, path, 0, FEW), await delete(client, path)):
                assert answer.status == 410
                assert "Upload-Offset" not in answer.headers
        # They were not removed: the next server may have more patience.
        async with serving(tmp_path) as (_, client):
            await resume(client, path, FEW, 0)

    asyncio.run(main())


def test_expired_uploads_are_removed(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, resumable_seconds=0.3, sweep_seconds=0.01) as (_, client):
            finished = await create(client, 11, FEW)
            unfinished = await create(client, 12, FEW)
            resumable = tmp_path / "resumable"
            assert len(files(resumable)) <= 3
            await until(lambda: not files(resumable))
            for answer in (finished, unfinished):
                assert (await head(client, answer.headers["Location"])).status == 404
            # The file itself expires as files do.
            await tus.check_file(client, finished.file_id, FEW)
        assert stored(tmp_path) == [FEW]

    asyncio.run(main())


# --- by way of proxies, from pages -----------------------------------------------------------------------------------


def test_methods_that_a_proxy_lets_not_through(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 12)

            async def instead(method: str, *, of: str, data: Any = None, **headers: str) -> Answer:
                return await ask(client, of, path, TUS | {"X-HTTP-Method-Override": method, **headers}, data)

            told = {"Upload-Offset": "0", "Content-Type": OFFSET_STREAM}
            assert (await instead("PATCH", of="POST", data=FEW, **told)).offset == 11
            assert (await instead("HEAD", of="GET")).offset == 11
            assert (await instead("PUT", of="PATCH")).status == 405
            assert (await instead("DELETE", of="POST")).status == 204
            assert (await head(client, path)).status == 404

    asyncio.run(main())


def test_locations_below_a_prefix_and_a_token(tmp_path: Path) -> None:
    token = "t" * 16

    async def main() -> None:
        tokens = UploadTokens({"one": token})
        server = make_server(tmp_path, prefix="/history", upload_tokens=tokens)
        async with server, ClientSession(server.url.removesuffix("/history")) as client:
            assert (await create(client, 11, path="/history/upload")).status == 401
            assert (await create(client, 11, path="/upload")).status == 404
            assert files(tmp_path) == []
            for before, headers in (
                (f"/history/t/{token}", {}),
                ("/history", {"authorization": f"Bearer {token}"}),
            ):
                answer = await create(client, 11, path=f"{before}/upload", **headers)
                path = answer.headers["Location"]
                assert path.startswith(f"{before}/upload/")
                # The URL is a secret, and enough.
                answer = await patch(client, path, 0, FEW)
                assert answer.headers["Content-Location"].startswith(f"{before}/files/")
                async with client.get(answer.headers["Content-Location"]) as response:
                    assert await response.read() == FEW

    asyncio.run(main())


def test_pages_may_read_what_clients_need(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            origin = {"Origin": "https://example.org"}
            asked = {
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "content-type,tus-resumable,upload-offset",
            }
            preflight = await ask(client, "OPTIONS", f"/upload/{'0' * 32}", origin | asked)
            assert preflight.status == 200
            assert {"POST", "HEAD", "PATCH", "DELETE"} <= set(
                preflight.headers["Access-Control-Allow-Methods"].split(", ")
            )
            assert preflight.headers["Access-Control-Allow-Headers"] == asked["Access-Control-Request-Headers"]
            path = await created(client, 12)
            told = origin | TUS | {"Upload-Length": "12", "Upload-Metadata": METADATA}
            answers = [
                await ask(client, "POST", "/upload", told),
                await patch(client, path, 0, FEW, **origin),
                await patch(client, path, 0, FEW, **origin),
                await ask(client, "HEAD", path, origin | TUS),
                await patch(client, path, 11, b"x", **origin),
                await ask(client, "OPTIONS", path, origin),
                await ask(client, "POST", "/upload", origin | TUS | {"Upload-Length": str(1 << 50)}),
                await ask(client, "PATCH", path, origin),
            ]
            assert [answer.status for answer in answers] == [201, 204, 409, 200, 204, 204, 413, 412]
            for answer in answers:
                assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
                exposed = set(answer.headers["Access-Control-Expose-Headers"].split(", "))
                sent = {
                    name for name in answer.headers if name.startswith(("Tus-", "Upload-", "Delete-", "Content-Loc"))
                }
                assert sent | {"Location"} <= exposed
            # Not only by this client's kindness.
            async with connected(server) as connection:
                await connection.send(tus.patch_head(path, 5, 0, "Origin: https://example.org"))
                assert b"Access-Control-Allow-Origin: https://example.org" in await connection.head()

    asyncio.run(main())


def test_ids_of_uploads_and_files_are_different_things(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            finished, unfinished = await create(client, 11, FEW), await create(client, 12, FEW)
            for answer in (finished, unfinished):
                async with client.get(f"/files/{answer.headers['Location'].rpartition('/')[2]}") as response:
                    assert response.status == 404
            for file_id in (finished.file_id, await upload(client, FEW)):
                for name in (file_id, file_id.replace("-", "")):
                    for answer in (
                        await head(client, f"/upload/{name}"),
                        await patch(client, f"/upload/{name}", 0, FEW),
                        await delete(client, f"/upload/{name}"),
                    ):
                        assert answer.status == 404
                await tus.check_file(client, file_id, FEW)

    asyncio.run(main())
