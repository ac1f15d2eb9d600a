"""Resumable uploads by tus 1.0.0: what is refused, how, and what is left then."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from support import tus
from support.history_server import OFFSET_STREAM, TUS, connected, files, partial, serving, some_bytes, stored, until
from support.tus import ask, check_unfinished, create, created, delete, head, patch, patch_head, resume
from xmtp_history.server.storage import _local_resumable

#: More than is written at once.
DATA = some_bytes(3_000_001)
FEW = some_bytes(11)

#: What is no number of bytes.
NO_NUMBERS = ["", "-1", "+1", "1.0", "1e3", "0x10", "1_000", "1 0", "1,1", "ten", "٣", "9" * 19, "1" * 5000]


# --- what is said wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "", "1.0", "1.0.1", "0.2.2", "1.0.0, 0.2.2", "tus"])
def test_another_version(tmp_path: Path, version: str | None) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            told = {"Upload-Length": "11", "Upload-Offset": "0", "Content-Type": OFFSET_STREAM}
            told |= {} if version is None else {"Tus-Resumable": version}
            requests: list[tuple[str, str, Any]] = [("HEAD", path, None), ("PATCH", path, FEW), ("DELETE", path, None)]
            if version is not None:
                # Without a version, it is an upload of the plain kind.
                requests.append(("POST", "/upload", FEW))
            for method, where, data in requests:
                answer = await ask(client, method, where, told, data)
                assert answer.status == 412
                assert answer.headers["Tus-Version"] == "1.0.0"
                assert answer.headers["Tus-Resumable"] == "1.0.0"
            assert (await head(client, path)).offset == 0
        assert len(files(tmp_path)) == 2

    asyncio.run(main())


@pytest.mark.parametrize("length", NO_NUMBERS)
def test_a_length_that_is_none(tmp_path: Path, length: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            answer = await ask(client, "POST", "/upload", TUS | {"Upload-Length": length})
            assert (answer.status, answer.kind) == (400, "bad-request")
            assert answer.headers["Tus-Resumable"] == "1.0.0"
            assert files(tmp_path) == []
            path = await created(client, None)
            assert (await patch(client, path, 0, FEW, upload_length=length)).status == 400
            assert (await head(client, path)).offset == 0

    asyncio.run(main())


@pytest.mark.parametrize("offset", [None, *NO_NUMBERS])
def test_an_offset_that_is_none(tmp_path: Path, offset: str | None) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            told = TUS | {"Content-Type": OFFSET_STREAM} | ({} if offset is None else {"Upload-Offset": offset})
            answer = await ask(client, "PATCH", path, told, FEW)
            assert (answer.status, answer.kind) == (400, "bad-request")
            await resume(client, path, FEW, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Defer-Length": "0"},
        {"Upload-Defer-Length": ""},
        {"Upload-Defer-Length": "yes"},
        {"Upload-Length": "11", "Upload-Defer-Length": "1"},
        {"Upload-Length": "11", "Upload-Metadata": "a" * 5000},
        {"Upload-Length": "11", "Upload-Metadata": "key \t"},
    ],
)
def test_a_creation_that_makes_no_sense(tmp_path: Path, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            # A space at the end would be dropped.
            told = {name: value + "x" if "\t" in value else value for name, value in headers.items()}
            answer = await ask(client, "POST", "/upload", TUS | told)
            assert answer.status == 400
            assert "Location" not in answer.headers
        assert files(tmp_path) == []

    asyncio.run(main())


@pytest.mark.parametrize("offset", [0, 3, 5, 11, 12, 10**17])
def test_the_wrong_offset(tmp_path: Path, offset: int) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            await patch(client, path, 0, FEW[:4])
            for data in (FEW[4:], b"", tus.pieces(FEW[4:])):
                answer = await patch(client, path, offset, data)
                assert (answer.status, answer.kind) == (409, "wrong-offset")
                assert answer.offset == 4
            await resume(client, path, FEW, 4)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "application/partial-upload", OFFSET_STREAM + "x"])
def test_the_wrong_type(tmp_path: Path, kind: str | None) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            told = TUS | {"Upload-Offset": "0"} | ({} if kind is None else {"Content-Type": kind})
            answer = await ask(client, "PATCH", path, told, FEW)
            assert answer.status == 415
            assert (await head(client, path)).offset == 0

    asyncio.run(main())


def test_an_upload_that_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            for path in (f"/upload/{'0' * 32}", f"/upload/{'A' * 32}", "/upload/x", f"/upload/{'0' * 32}/"):
                for answer in (await head(client, path), await patch(client, path, 0, FEW), await delete(client, path)):
                    assert answer.status == 404
                    assert answer.headers["Tus-Resumable"] == "1.0.0"
                    assert "Upload-Offset" not in answer.headers
        assert files(tmp_path) == []

    asyncio.run(main())


def test_a_length_does_not_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, None)
            await patch(client, path, 0, FEW[:4])
            # It is shorter already than what is there.
            assert (await patch(client, path, 4, b"", upload_length="3")).status == 400
            assert (await patch(client, path, 4, b"", upload_length="11")).status == 204
            for length in ("4", "10", "12"):
                assert (await patch(client, path, 4, FEW[4:], upload_length=length)).status == 400
            await resume(client, path, FEW, 4)
            assert (await patch(client, path, 11, b"", upload_length="12")).status == 400

    asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_more_than_the_length(tmp_path: Path, chunked: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            many = DATA + b"x"
            body = tus.pieces if chunked else bytes
            assert (await create(client, len(DATA), body(many))).status == 400
            path = await created(client, len(DATA))
            assert (await patch(client, path, 0, body(many))).status == 400
            offset = (await head(client, path)).offset
            assert offset <= len(DATA)
            assert chunked or offset == 0
            file_id = await resume(client, path, DATA, offset)
            # Nor behind its end.
            assert (await patch(client, path, len(DATA), body(b"x"))).status == 400
            await tus.check_file(client, file_id, DATA)

    asyncio.run(main())


# --- checksums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_wrong_checksum_takes_everything_back(tmp_path: Path, size: int, chunked: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            await patch(client, path, 0, DATA[:1])
            wrong = tus.checksum("sha1", b"something else")
            body = DATA[1 : 1 + size]
            answer = await patch(client, path, 1, tus.pieces(body) if chunked else body, upload_checksum=wrong)
            assert (answer.status, answer.kind) == (460, "checksum-mismatch")
            check_unfinished(await head(client, path), 1)
            assert tus.part_bytes(tmp_path, path) == 1
        async with serving(tmp_path) as (_, client):
            await resume(client, path, DATA, 1)

    asyncio.run(main())


@pytest.mark.parametrize(
    "header", ["crc32 AAAA", "sha1", "sha1 ###", "sha1 é", "", "SHA1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "sha1  A"]
)
def test_a_checksum_that_nobody_can_check(tmp_path: Path, header: str) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, 11)
            answer = await patch(client, path, 0, FEW, upload_checksum=header)
            assert answer.status == (460 if header == "sha1" else 400)
            assert (await head(client, path)).offset == 0
            await resume(client, path, FEW, 0)

    asyncio.run(main())


@pytest.mark.parametrize("body", [DATA[:2_000_000], b"%x\r\n%b\r\nZZ\r\n" % (2_000_000, DATA[:2_000_000])])
def test_a_body_with_a_checksum_that_breaks_off(tmp_path: Path, body: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            path = await created(client, len(DATA))
            await patch(client, path, 0, DATA[:1])
            line = f"Upload-Checksum: {tus.checksum('sha1', DATA[1:])}"
            length = None if body.endswith(b"ZZ\r\n") else len(DATA) - 1
            async with connected(server) as connection:
                await connection.send(patch_head(path, 1, length, line), body)
                if length is None:
                    assert await connection.status() == 400
            # Waits for whatever is still being done.
            assert (await head(client, path)).offset == 1
            assert tus.part_bytes(tmp_path, path) == 1
            await resume(client, path, DATA, 1)

    asyncio.run(main())


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large(tmp_path: Path, chunked: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=10) as (_, client):
            for length in (11, 10**18 - 1):
                answer = await create(client, length)
                assert answer.status == 413
                assert answer.headers["Tus-Max-Size"] == "10"
                assert answer.headers["Upload-Limit"] == "max-size=10"
            assert files(tmp_path) == []
            path = await created(client, None)
            assert (await patch(client, path, 0, b"", upload_length="11")).status == 413
            assert (await patch(client, path, 0, b"12345")).offset == 5
            body = b"6789ab"
            answer = await patch(client, path, 5, tus.pieces(body) if chunked else body)
            assert answer.status == 413
            assert answer.headers["Tus-Max-Size"] == "10"
            answer = await head(client, path)
            assert answer.headers["Upload-Defer-Length"] == "1"
            assert answer.offset == 5
            answer = await patch(client, path, 5, b"6789a", upload_length="10")
            await tus.check_file(client, answer.file_id, b"123456789a")

    asyncio.run(main())


def test_no_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_total_bytes=100_000, metrics_port=0) as (server, client):
            await tus.swept(server, client)
            assert (await create(client, 100_001)).status == 507
            assert files(tmp_path) == []
            path = await created(client, None)
            assert (await patch(client, path, 0, b"", upload_length="100001")).status == 507
            assert (await patch(client, path, 0, DATA[:60_000])).status == 204
            # What is on its way counts.
            async with client.post("/upload", data=DATA[:60_000]) as response:
                assert response.status == 507
            answer = await patch(client, path, 60_000, DATA[60_000:])
            assert (answer.status, answer.kind) == (507, "no-room")
            assert (await head(client, path)).offset <= 100_000
            assert (await delete(client, path)).status == 204
            # What is ended does not.
            path = await created(client, 99_000)
            await resume(client, path, DATA[:99_000], 0)

    asyncio.run(main())


def test_a_beginning_that_is_refused_is_not_kept(tmp_path: Path) -> None:
    """Nobody has been told where it is."""
    resumable = tmp_path / "resumable"

    async def main() -> None:
        limits = {"max_file_bytes": 2_000_000, "max_total_bytes": 4_000_000}
        async with serving(tmp_path, metrics_port=0, **limits) as (server, client):
            await tus.swept(server, client)
            wrong = tus.checksum("sha1", b"something else")
            assert (await create(client, 11, FEW, upload_checksum=wrong)).status == 460
            assert (await create(client, 11, FEW, upload_checksum="crc32 AAAA")).status == 400
            assert (await create(client, None, tus.pieces(DATA))).status == 413
            assert (await create(client, 1_500_000, tus.pieces(DATA))).status == 400
            assert files(resumable) == []
            async with connected(server) as connection:
                request = patch_head("/upload", 0, 1_900_000, "Upload-Length: 1900000").replace(b"PATCH", b"POST")
                await connection.send(request, DATA[:1_800_000])
                await until(lambda: sum(path.stat().st_size for path in files(resumable)) > 1_000_000)
            await until(lambda: not files(resumable))
            # Its place is free again.
            path = await created(client, None)
            assert (await patch(client, path, 0, DATA[:2_000_000])).status == 204
            assert (await create(client, 1_900_000)).status == 201

    asyncio.run(main())


# --- the disk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "status"), [(errno.ENOSPC, 507), (errno.EIO, 503)])
@pytest.mark.parametrize("checked", [False, True])
def test_a_disk_that_fails_meanwhile(
    tmp_path: Path, checked: bool, error: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there stays, but not what has a checksum that was not looked at yet."""

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            await patch(client, path, 0, DATA[:1000])
            write, calls = _local_resumable.write_all, []

            def failing(file: Any, data: memoryview) -> None:
                calls.append(len(data))
                write(file, data[: len(data) // 2])
                if len(calls) == 2:
                    raise OSError(error, os.strerror(error))
                write(file, data[len(data) // 2 :])

            headers = {"upload_checksum": tus.checksum("md5", DATA[1000:])} if checked else {}
            with monkeypatch.context() as patching:
                patching.setattr(_local_resumable, "write_all", failing)
                answer = await patch(client, path, 1000, DATA[1000:], **headers)
            assert answer.status == status
            assert len(calls) == 2
            assert (await head(client, path)).offset == 1000 + (0 if checked else calls[0])
            await resume(client, path, DATA)

    asyncio.run(main())


def test_a_disk_that_fails_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is there, and asking how far it has come finishes it."""

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = await created(client, len(DATA))
            with monkeypatch.context() as patching:
                patching.setattr(Path, "rename", _full)
                assert (await patch(client, path, 0, DATA)).status == 507
                assert (await head(client, path)).status == 507
            answer = await head(client, path)
            assert answer.offset == len(DATA)
            await tus.check_file(client, answer.file_id, DATA)
        assert partial(tmp_path) == []
        assert stored(tmp_path / answer.file_id[:2]) == [DATA]

    asyncio.run(main())


def _full(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
