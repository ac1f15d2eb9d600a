"""The history server, over real connections."""

from __future__ import annotations

import asyncio
import errno
import gzip
import io
import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientResponse

from support.history_server import (
    CHUNKED,
    HEAD,
    MUCH,
    UNKNOWN,
    chunk,
    connected,
    download,
    files,
    make_server,
    partial,
    serving,
    some_bytes,
    stored,
    until,
    upload,
)
from xmtp_history import HistoryServer, LocalStorage, ServerLimits
from xmtp_history.server import _listener
from xmtp_history.server.storage import _base, _disk, _local

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# --- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5 * 1024 * 1024])
def test_a_file_comes_back(tmp_path: Path, size: int, chunked: bool) -> None:
    data = some_bytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 4096):
            yield data[start : start + 4096]

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            async with client.post("/upload", data=pieces() if chunked else io.BytesIO(data)) as response:
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/plain"
                body = await response.read()
                assert response.headers["Location"] == f"/files/{body.decode()}"
            assert len(body) == 36
            file_id = uuid.UUID(body.decode())
            assert (str(file_id), file_id.version) == (body.decode(), 4)
            async with client.get(f"/files/{file_id}") as response:
                assert response.status == 200
                assert await response.read() == data
                _check_file_headers(response, size)
            async with client.head(f"/files/{file_id}") as response:
                assert response.status == 200
                assert await response.read() == b""
                _check_file_headers(response, size)

    asyncio.run(main())
    (file,) = files(tmp_path)
    assert stored(tmp_path) == [data]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.name == file.name[:2]


def _check_file_headers(response: ClientResponse, size: int) -> None:
    expected = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": "attachment",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-transform",
        "Referrer-Policy": "no-referrer",
        "Accept-Ranges": "bytes",
    }
    assert {name: response.headers.get(name) for name in expected} == expected


def test_every_form_of_an_id_is_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            file_id = await upload(client, b"archive")
            plain = file_id.replace("-", "")
            for form in (file_id, plain, f"{{{file_id}}}", f"urn:uuid:{file_id}"):
                for text in (form, form.upper()):
                    assert await download(client, text) == b"archive", text
            assert await download(client, f"%7B{file_id}%7D") == b"archive"
            async with client.get(f"{server.url}//files//{file_id}") as response:
                assert await response.read() == b"archive"

    asyncio.run(main())


def test_files_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file_id = await upload(client, b"archive")
        async with serving(tmp_path) as (_, client):
            assert await download(client, file_id) == b"archive"

    asyncio.run(main())


def test_ranges(tmp_path: Path) -> None:
    data = some_bytes(1000)

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            path = f"/files/{await upload(client, data)}"
            for wanted, start, end in (("0-0", 0, 1), ("10-19", 10, 20), ("990-", 990, 1000), ("-5", 995, 1000)):
                async with client.get(path, headers={"Range": f"bytes={wanted}"}) as response:
                    assert response.status == 206
                    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/1000"
                    assert await response.read() == data[start:end]
            async with client.get(path, headers={"Range": "bytes=1000-"}) as response:
                assert response.status == 416
                assert response.headers["Content-Range"] == "bytes */1000"
            async with client.get(path) as response:
                tag = response.headers["ETag"]
            async with client.get(path, headers={"If-None-Match": tag}) as response:
                assert response.status == 304

    asyncio.run(main())


def test_a_body_is_stored_as_it_was_sent(tmp_path: Path) -> None:
    data = gzip.compress(b"archive")

    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            async with client.post("/upload", data=data, headers={"Content-Encoding": "gzip"}) as response:
                file_id = await response.text()
            assert await download(client, file_id) == data

    asyncio.run(main())


def test_a_connection_serves_several_requests_and_double_slashes(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _), connected(server) as connection:
            for path in (b"/upload", b"//upload"):
                await connection.send(b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc" % path)
                assert await connection.status() == 200
                await connection.read(36)

    asyncio.run(main())
    assert stored(tmp_path) == [b"abc"] * 2


def test_a_client_that_waits_for_an_invitation_gets_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=3) as (server, _):
            async with connected(server) as connection:
                await connection.send(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
                assert await connection.status() == 100
                await connection.send(b"abc")
                assert await connection.status() == 200
            async with connected(server) as connection:
                await connection.send(HEAD + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n")
                assert await connection.status() == 413

    asyncio.run(main())


# --- routes and CORS -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/", 200, None),
        ("POST", "/", 405, "GET"),
        ("GET", "/upload", 405, "POST, OPTIONS"),
        ("PUT", "/upload", 405, "POST, OPTIONS"),
        ("PUT", f"/files/{UNKNOWN}", 405, "GET, HEAD, DELETE"),
        ("GET", f"/upload/{'0' * 32}", 405, "HEAD, PATCH, DELETE, OPTIONS"),
        ("HEAD", f"/upload/{'0' * 31}", 404, None),
        ("GET", f"/files/{UNKNOWN}", 404, None),
        ("POST", "/upload/", 404, None),
        ("GET", "/files", 404, None),
        ("GET", "/files/", 404, None),
        ("GET", "/key", 404, None),
        ("POST", "/nothing", 404, None),
    ],
)
def test_routes(tmp_path: Path, method: str, path: str, status: int, allow: str | None) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client), client.request(method, path, allow_redirects=False) as response:
            assert (response.status, response.headers.get("Allow")) == (status, allow)
            assert not [name for name in response.headers if name.lower().startswith("access-control-")]
            body = await response.read()
            if status == 200:
                assert body == b""
            else:
                assert response.headers["Content-Type"] == "application/problem+json"
                assert response.headers["Cache-Control"] == "no-store"

    asyncio.run(main())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "..",
        "../{id}",
        "../../etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%5c..%5cetc%5cpasswd",
        "..\\{id}",
        "{id}%00",
        "%00",
        "{id}%0a",
        "{id}/",
        "{id}/x",
        "{id}.partial",
        "{id}%20",
        "%20{id}",
        "-{id}",
        "%7B{id}",
        "{id}%7D",
        "urn:{id}",
        "uuid:{id}",
        "urn:uuid:%7B{id}%7D",
        "%FF",
        "%C4%B0",
        "0" * 10_000,
    ],
)
def test_anything_but_an_id_is_not_found(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, client):
            file_id = await upload(client, b"archive")
            monkeypatch.delattr(LocalStorage, "open")
            async with connected(server) as connection:
                target = f"/files/{name.replace('{id}', file_id)}"
                await connection.send(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                assert await connection.status() == 404

    asyncio.run(main())


def test_what_is_in_the_directory_but_not_a_file_is_not_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            (tmp_path / "00" / UNKNOWN).mkdir()
            async with client.get(f"/files/{UNKNOWN}") as response:
                assert response.status == 404

    asyncio.run(main())


def test_pages_of_every_origin_may_use_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=10) as (_, client):
            origin = {"Origin": "https://example.org"}
            asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-y"}
            async with client.options("/upload", headers=origin | asked) as response:
                assert response.status == 200
                assert await response.read() == b""
                assert {"GET", "HEAD", "POST"} <= set(response.headers["Access-Control-Allow-Methods"].split(", "))
                assert response.headers["Access-Control-Allow-Headers"] == "content-type,x-y"
                assert response.headers["Access-Control-Max-Age"] == "3600"
                _check_cors(response)
            async with client.post("/upload", data=b"archive", headers=origin) as response:
                assert response.status == 200
                _check_cors(response)
                file_id = await response.text()
            for method, path, status in (
                ("GET", f"/files/{file_id}", 200),
                ("GET", f"/files/{UNKNOWN}", 404),
                ("GET", "/nothing", 404),
                ("PUT", "/upload", 405),
            ):
                async with client.request(method, path, headers=origin) as response:
                    assert response.status == status
                    _check_cors(response)
            async with client.post("/upload", data=bytes(11), headers=origin) as response:
                assert response.status == 413
                _check_cors(response)

    asyncio.run(main())


def _check_cors(response: ClientResponse) -> None:
    assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert response.headers["Vary"] == "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    assert "Location" in response.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in response.headers


def test_an_origin_that_is_no_text_is_not_repeated(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _), connected(server) as connection:
            await connection.send(b"GET / HTTP/1.1\r\nHost: test\r\nOrigin: http://\xff\xc4\xb0\r\n\r\n")
            head = await connection.head()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nAccess-Control-" not in head

    asyncio.run(main())


# --- what must not be stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    "request_bytes",
    [
        CHUNKED + chunk(MUCH),
        CHUNKED + chunk(MUCH) + b"0\r\n",
        CHUNKED + chunk(MUCH)[:-3],
        HEAD + b"Content-Length: 600001\r\n\r\n" + MUCH,
    ],
)
def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path, request_bytes: bytes, reset: bool) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            async with connected(server) as connection:
                await connection.send(request_bytes)
                await until(lambda: partial(tmp_path))
                if reset:
                    connection.reset()
            await until(lambda: not partial(tmp_path))

    asyncio.run(main())
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "request_bytes",
    [
        CHUNKED + b"ZZ\r\n",
        CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        HEAD + b"Content-Length: -3\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc",
    ],
)
def test_a_body_with_broken_framing_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _), connected(server) as connection:
            await connection.send(request_bytes)
            assert await connection.status() == 400

    asyncio.run(main())
    assert files(tmp_path) == []


# Whether a broken chunk is noticed at once depends on which of its two parsers aiohttp was installed with.
@pytest.mark.parametrize(("continuation", "statuses"), [(b"", {408}), (b"ZZ\r\n", {400, 408})])
def test_a_body_that_does_not_go_on_is_given_up(
    tmp_path: Path, continuation: bytes, statuses: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(tmp_path, idle_seconds=0.1) as (server, _), connected(server) as connection:
            await connection.send(CHUNKED, chunk(MUCH))
            await connection.send(continuation)
            assert await connection.status() in statuses
            assert files(tmp_path) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("limit", "request_bytes"),
    [
        # Nothing of the body was sent, or not all of it: the answer does not wait for more.
        (10, HEAD + b"Content-Length: 11\r\n\r\n"),
        (10, CHUNKED + chunk(bytes(11))),
        (0, CHUNKED + chunk(b"x")),
        (599_999, CHUNKED + chunk(MUCH)),
    ],
)
def test_too_large_a_file_is_refused_and_not_kept(tmp_path: Path, limit: int, request_bytes: bytes) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=limit) as (server, _), connected(server) as connection:
            await connection.send(request_bytes)
            head = await connection.head()
            assert head.startswith(b"HTTP/1.1 413 ")
            assert b"\r\nConnection: close\r\n" in head
            assert files(tmp_path) == []

    asyncio.run(main())


def test_a_file_of_exactly_the_limit_is_accepted(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=10) as (server, client):
            await upload(client, bytes(10))
            async with connected(server) as connection:
                await connection.send(CHUNKED, chunk(bytes(10)), chunk(b""))
                assert await connection.status() == 200

    asyncio.run(main())
    assert len(files(tmp_path)) == 2


def test_a_refused_client_that_goes_on_sending_still_sees_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the machine is; it ends with the body.
    monkeypatch.setattr(_listener, "LINGER_SECONDS", 60.0)

    async def main() -> None:
        async with serving(tmp_path, max_file_bytes=10) as (server, _), connected(server) as connection:
            # More than the buffers of the connection hold: the server has to read on, or the client never stops.
            await connection.send(HEAD + b"Content-Length: 16777216\r\n\r\n", *([bytes(65536)] * 256))
            assert await connection.status() == 413

    asyncio.run(main())


def test_a_file_is_invisible_until_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_id = uuid.uuid4()
    monkeypatch.setattr(_base.uuid, "uuid4", lambda: file_id)

    async def main() -> None:
        async with serving(tmp_path) as (server, client), connected(server) as connection:
            await connection.send(CHUNKED, chunk(MUCH))
            await until(lambda: partial(tmp_path))
            (unfinished,) = partial(tmp_path)
            assert unfinished.stat().st_mode & 0o777 == 0o600
            for name in (str(file_id), unfinished.name, f"../partial/{unfinished.name}"):
                async with client.get(f"/files/{name}") as response:
                    assert response.status == 404
            await connection.send(chunk(b""))
            assert await connection.status() == 200
            assert await download(client, str(file_id)) == MUCH

    asyncio.run(main())
    assert partial(tmp_path) == []


def test_small_chunks_are_gathered_before_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = _local.write_all

    def recorded(file: Any, data: memoryview) -> None:
        written.append(len(data))
        write(file, data)

    monkeypatch.setattr(_local, "write_all", recorded)

    async def main() -> None:
        async with serving(tmp_path) as (server, _), connected(server) as connection:
            await connection.send(CHUNKED, *([chunk(bytes(4096))] * 512), chunk(b""))
            assert await connection.status() == 200

    asyncio.run(main())
    assert sum(written) == 2 * 1024 * 1024
    *full, _ = written
    assert full
    assert all(size >= 256 * 1024 for size in full)


# --- durability and faults -------------------------------------------------------------------------------------------


class _Disk:
    """Notes the steps of a commit, and fails in one of them if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[str] = []
        self.failing: str | None = None
        self.error = 0
        self._open, self._write, self._fsync = os.open, _local.write_all, os.fsync
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(_local, "write_all", self.write)
        monkeypatch.setattr(_disk, "write_all", self.write_trailer)
        monkeypatch.setattr(os, "fsync", self.fsync)
        system_rename = Path.rename

        def rename(source: Path, target: Path) -> None:
            self._step("rename")
            system_rename(source, target)

        monkeypatch.setattr(Path, "rename", rename)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.failing:
            raise OSError(self.error, os.strerror(self.error), f"/a/{UNKNOWN}")

    def open(self, path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            self._step("create")
        return self._open(path, flags, *mode)

    def write(self, file: Any, data: memoryview) -> None:
        self._step("write")
        self._write(file, data)

    def write_trailer(self, file: Any, data: memoryview) -> None:
        self._step("write trailer")
        self._write(file, data)

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        self._step("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")


def test_the_answer_comes_after_everything_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            disk = _Disk(monkeypatch)
            await upload(client, b"archive")
            assert disk.steps == ["create", "write", "write trailer", "sync file", "rename", "sync folder"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "status"), [(errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 503), (errno.EROFS, 503)]
)
@pytest.mark.parametrize("step", ["create", "write", "write trailer", "sync file", "rename", "sync folder"])
def test_a_failing_disk_is_reported_and_leaves_nothing(
    tmp_path: Path,
    step: str,
    error: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            disk = _Disk(monkeypatch)
            disk.failing, disk.error = step, error
            async with client.post("/upload", data=b"archive") as response:
                assert response.status == status
                assert ("Retry-After" in response.headers) == (status == 503)
            assert files(tmp_path) == []
            disk.failing = None
            assert await download(client, await upload(client, b"archive")) == b"archive"

    asyncio.run(main())
    assert os.strerror(error) in caplog.text
    assert UNKNOWN not in caplog.text


def test_what_a_killed_process_left_is_removed_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            file_id = await upload(client, b"archive")
        (tmp_path / "partial" / "leftover").write_bytes(b"half")
        # Cannot be removed like a file, and must not keep the rest from being removed.
        (tmp_path / "partial" / "folder").mkdir()
        async with serving(tmp_path) as (_, client):
            assert [path.name for path in partial(tmp_path)] == ["folder"]
            assert await download(client, file_id) == b"archive"

    asyncio.run(main())


def test_a_second_server_on_the_directory_spares_the_uploads_of_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (first, _), connected(first) as connection:
            await connection.send(CHUNKED, chunk(MUCH))
            await until(lambda: partial(tmp_path))
            async with serving(tmp_path) as (_, client):
                await connection.send(chunk(b""))
                assert await connection.status() == 200
                assert await download(client, (await connection.read(36)).decode()) == MUCH

    asyncio.run(main())


# --- start and end ---------------------------------------------------------------------------------------------------


def test_an_upload_may_end_while_the_server_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=60.0) as (server, client), connected(server) as connection:
            port = int(server.url.rpartition(":")[2])
            async with client.get("/") as response:
                assert response.status == 200
            await connection.send(CHUNKED, chunk(MUCH))
            await until(lambda: partial(tmp_path))
            closing = asyncio.create_task(server.aclose())
            # One turn of the loop: the server has stopped listening, and waits.
            await asyncio.sleep(0)
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)
            # The connection of before is still there.
            async with client.get("/") as response:
                assert response.status == 503
                assert "Retry-After" in response.headers
            await connection.send(chunk(MUCH), chunk(b""))
            assert await connection.status() == 200
            await closing

    asyncio.run(main())
    assert stored(tmp_path) == [MUCH * 2]


def test_an_upload_that_takes_longer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(tmp_path, shutdown_seconds=0) as (server, _), connected(server) as connection:
            await connection.send(CHUNKED, chunk(MUCH))
            await until(lambda: partial(tmp_path))
            await server.aclose()
            assert files(tmp_path) == []

    asyncio.run(main())


def test_the_url_is_known_while_the_server_runs(tmp_path: Path) -> None:
    server = make_server(os.fspath(tmp_path / "a" / "b"))

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError):
                _ = server.url
            await server.start()
            assert server.url.startswith("http://127.0.0.1:")
            assert not server.url.endswith(":0")
            with pytest.raises(RuntimeError):
                await server.start()
            await server.aclose()
            await server.aclose()
        with pytest.raises(RuntimeError):
            _ = server.url

    asyncio.run(main())


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (server, _):
            second = HistoryServer(LocalStorage(tmp_path), port=int(server.url.rpartition(":")[2]))
            with pytest.raises(OSError, match="address already in use"):
                await second.start()
            with pytest.raises(RuntimeError):
                _ = second.url

    asyncio.run(main())


def test_a_limit_must_make_sense(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        ServerLimits(max_file_bytes=-1)


def test_no_id_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)

    async def main() -> str:
        async with serving(tmp_path) as (server, client):
            file_id = await upload(client, b"archive")
            await download(client, file_id)
            async with connected(server) as connection:
                await connection.send(f"GET /files/{file_id} HTTP/1.1 nonsense\r\n\r\n".encode())
                assert (await connection.head()).startswith(b"HTTP/1.0 400 ")
            return file_id

    assert asyncio.run(main()) not in caplog.text


def test_the_package_itself_does_not_load_aiohttp() -> None:
    code = "import sys, xmtp_history; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
