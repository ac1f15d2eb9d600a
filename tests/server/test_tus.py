"""Resumable uploads by tus 1.0.0: what the protocol lets clients do."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support import tus
from support.history_server import (
    serving,
    some_bytes,
    stored,
    upload,
)
from support.tus import ask, check_finished, check_unfinished, create, created, head, patch, resume

DATA = some_bytes(700_001)
FEW = some_bytes(11)
METADATA = "filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential"


# --- discovery -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "told"), [(1000, "1000"), (None, None)])
def test_the_server_tells_what_it_speaks(tmp_path: Path, limit: int | None, told: str | None) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=limit) as (_, client):
            for path in ("/upload", f"/upload/{'0' * 32}"):
                # Clients need not say what they speak themselves, and it does not matter what they say.
                for headers in ({}, {"Tus-Resumable": "0.2.2"}):
                    answer = await ask(client, "OPTIONS", path, headers)
                    assert answer.status == 204
                    assert answer.body == b""
                    assert answer.headers["Tus-Version"] == "1.0.0"
                    assert answer.headers["Tus-Extension"] == (
                        "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum"
                    )
                    assert answer.headers["Tus-Checksum-Algorithm"] == "sha1,sha256,sha512,md5"
                    assert answer.headers.get("Tus-Max-Size") == told

    asyncio.run(main())


# --- creation and continuation ---------------------------------------------------------------------------------------


def test_an_upload_in_pieces_becomes_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await create(client, len(DATA))
            assert answer.status == 201
            assert answer.body == b""
            check_unfinished(answer, 0)
            path = answer.headers["Location"]
            assert path.startswith("/upload/")
            assert len(path) == len("/upload/") + 32
            offset = 0
            for size in (1, 4095, 0, 300_000, 262_144):
                answer = await patch(client, path, offset, DATA[offset : offset + size])
                assert answer.status == 204
                offset += size
                check_unfinished(answer, offset)
                answer = await head(client, path)
                assert answer.status == 200
                check_unfinished(answer, offset)
                assert answer.headers["Upload-Length"] == str(len(DATA))
                assert answer.headers["Cache-Control"] == "no-store"
                assert "Upload-Defer-Length" not in answer.headers
                assert "Upload-Metadata" not in answer.headers
            assert stored(tmp_path / "00") == []
            answer = await patch(client, path, offset, DATA[offset:])
            assert answer.status == 204
            check_finished(answer, len(DATA))
            await tus.check_file(client, answer.file_id, DATA)

    asyncio.run(main())


def test_a_body_in_chunks(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            assert (await patch(client, path, 0, tus.pieces(DATA[:500_000]))).offset == 500_000
            answer = await patch(client, path, 500_000, tus.pieces(DATA[500_000:], 1000))
            check_finished(answer, len(DATA))
            await tus.check_file(client, answer.file_id, DATA)

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 300_000, 700_001])
def test_a_body_with_the_creation_is_the_beginning(tmp_path: Path, size: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            for data in (DATA[:size], tus.pieces(DATA[:size])):
                answer = await create(client, len(DATA), data)
                assert answer.status == 201
                if size < len(DATA):
                    check_unfinished(answer, size)
                    await resume(client, answer.headers["Location"], DATA, size)
                else:
                    check_finished(answer, size)
                    await tus.check_file(client, answer.file_id, DATA)

    asyncio.run(main())


def test_a_body_of_another_type_is_no_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await create(client, 11, FEW, content_type="text/plain")
            assert answer.status == 201
            check_unfinished(answer, 0)
            await resume(client, answer.headers["Location"], FEW, 0)

    asyncio.run(main())


@pytest.mark.parametrize("with_body", [False, True])
def test_an_empty_file_is_complete_at_once(tmp_path: Path, with_body: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await create(client, 0, b"" if with_body else None)
            assert answer.status == 201
            check_finished(answer, 0)
            await tus.check_file(client, answer.file_id, b"")
            again = await head(client, answer.headers["Location"])
            check_finished(again, 0)
            assert again.headers["Upload-Length"] == "0"

    asyncio.run(main())


def test_metadata_are_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11, upload_metadata=METADATA)
            assert (await head(client, path)).headers["Upload-Metadata"] == METADATA
            await resume(client, path, FEW, 0)
            assert (await head(client, path)).headers["Upload-Metadata"] == METADATA

    asyncio.run(main())


@pytest.mark.parametrize("when", ["with the last piece", "with the first piece", "with nothing"])
def test_a_length_that_comes_later(tmp_path: Path, when: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, None)
            answer = await head(client, path)
            assert answer.headers["Upload-Defer-Length"] == "1"
            assert "Upload-Length" not in answer.headers
            told = {"upload_length": "11"}
            answer = await patch(client, path, 0, FEW[:4], **(told if when == "with the first piece" else {}))
            assert answer.status == 204
            check_unfinished(answer, 4)
            answer = await patch(client, path, 4, FEW[4:], **(told if when == "with the last piece" else {}))
            if when == "with nothing":
                check_unfinished(answer, 11)
                answer = await patch(client, path, 11, b"", **told)
            check_finished(answer, 11)
            await tus.check_file(client, answer.file_id, FEW)
            answer = await head(client, path)
            assert answer.headers["Upload-Length"] == "11"
            assert "Upload-Defer-Length" not in answer.headers

    asyncio.run(main())


def test_a_length_may_be_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            assert (await patch(client, path, 0, FEW[:4], upload_length="11")).status == 204
            assert (await patch(client, path, 4, FEW[4:], upload_length="11")).offset == 11

    asyncio.run(main())


def test_a_finished_upload_tells_what_it_has_become(tmp_path: Path) -> None:
    """Also to a client that did not get the answer to its last piece, and to one that sends the end once more."""

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            last = await patch(client, path, 0, FEW)
            for data in (None, b"", tus.pieces(b"")):
                again = await (head(client, path) if data is None else patch(client, path, 11, data))
                assert again.status == (200 if data is None else 204)
                check_finished(again, 11)
                assert again.file_id == last.file_id
                assert again.headers["Delete-Capability"] == last.headers["Delete-Capability"]

    asyncio.run(main())


def test_what_it_has_become_is_a_file_like_any_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await create(client, len(DATA), DATA)
            plain_id = await upload(client, DATA)
            path = answer.headers["Content-Location"]
            seen = []
            for one in (path, f"/files/{plain_id}"):
                async with client.get(one) as response:
                    assert await response.read() == DATA
                    seen.append(
                        {k.lower(): v for k, v in response.headers.items() if k not in {"Date", "Last-Modified"}}
                    )
            assert seen[0] == seen[1]
            async with client.get(path, headers={"Range": "bytes=10-19"}) as response:
                assert await response.read() == DATA[10:20]
            async with client.get(path, headers={"If-None-Match": seen[0]["etag"]}) as response:
                assert response.status == 304
            for capability, status in (("0" * 32, 403), (answer.headers["Delete-Capability"], 204)):
                async with client.delete(path, headers={"Delete-Capability": capability}) as response:
                    assert response.status == status
            async with client.get(path) as response:
                assert response.status == 404
            # The upload knows.
            assert (await head(client, answer.headers["Location"])).status == 404

    asyncio.run(main())
