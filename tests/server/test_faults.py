"""The machine fails: disks that are full or locked, and too few descriptors."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from support import child
from support.history_server import partial, stored

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of other systems differ")

_PRELUDE = """
import asyncio, io, os, resource, sys
from pathlib import Path
from support.history_metrics import eventually, status, uploaded
from support.history_server import OFFSET_STREAM, TUS, download, files, serving, some_bytes, until
from xmtp_history.server import _http

folder = Path(sys.argv[1])
_http._READY_SECONDS = 0.05

def run(main):
    async def whole():
        async with serving(folder, sweep_seconds=0.05) as (server, client):
            await main(client)
    asyncio.run(whole())

async def post(client, data):
    return await status(client, "POST", "/upload", data=io.BytesIO(data))
"""

_FULL = (
    _PRELUDE
    + """
def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(client):
    kept = await uploaded(client, b"kept")
    async with client.post("/upload", headers=TUS | {"Upload-Length": "3000000"}) as response:
        path = response.headers["Location"]
    async def patch(offset, count):
        headers = TUS | {"Upload-Offset": str(offset), "Content-Type": OFFSET_STREAM}
        return await status(client, "PATCH", path, headers=headers, data=io.BytesIO(data[offset : offset + count]))
    async def offset():
        async with client.head(path, headers=TUS) as response:
            return int(response.headers["Upload-Offset"])

    data = some_bytes(3_000_000)
    assert await patch(0, 1_000) == 204
    # The limit is within the content, and within what is written behind it.
    for limit in (0, 100_000, 1_000_000, 1_999_999, 2_000_000, 2_000_079):
        allow(limit)
        assert await post(client, data[:2_000_000]) == 507, limit
        assert not list((folder / "partial").iterdir())
    assert await patch(1_000, 2_999_000) == 507
    assert 1_000 <= await offset() <= 2_000_079
    assert await download(client, kept.file_id) == b"kept"
    allow(2_000_080)
    assert await post(client, data[:2_000_000]) == 200
    assert await patch(await offset(), 3_000_000) == 507
    allow(resource.RLIM_INFINITY)
    assert await post(client, data) == 200
    assert await patch(await offset(), 3_000_000) == 204
    print(len(files(folder)))

run(main)
"""
)


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    # Four files, and what the resumable one was created with.
    assert int(child.run(_FULL, tmp_path)) == 5
    assert sorted(map(len, stored(tmp_path)))[-3:] == [2_000_000, 3_000_000, 3_000_000]


_LOCKED = (
    _PRELUDE
    + """
def locked(yes):
    # Of the administrator nothing can be withheld.
    if os.getuid() == 0:
        os.seteuid(65534 if yes else 0)
    else:
        folder.chmod(0 if yes else 0o700)

async def main(client):
    kept = await uploaded(client, b"kept")
    assert await status(client, "GET", "/readyz") == 200
    locked(True)
    try:
        for method, path, headers in (
            ("POST", "/upload", {}),
            ("POST", "/upload", TUS | {"Upload-Length": "3"}),
            ("GET", kept.path, {}),
            ("HEAD", kept.path, {}),
            ("DELETE", kept.path, kept.may_delete),
        ):
            assert await status(client, method, path, headers=headers) == 503, (method, path)
        async def noticed():
            return await status(client, "GET", "/readyz") == 503
        await eventually(noticed)
        assert await status(client, "GET", "/healthz") == 200
        # Some sweeps go wrong as well.
        await asyncio.sleep(0.2)
    finally:
        locked(False)
    assert await download(client, kept.file_id) == b"kept"
    assert await post(client, b"archive") == 200
    async def ready():
        return await status(client, "GET", "/readyz") == 200
    await eventually(ready)

run(main)
"""
)


def test_a_directory_that_is_locked(tmp_path: Path) -> None:
    child.run(_LOCKED, tmp_path / "files")
    assert sorted(stored(tmp_path)) == [b"archive", b"kept"]
    assert partial(tmp_path / "files") == []


_FEW_DESCRIPTORS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
sys.argv[1:] = ["serve", "--storage", sys.argv[1], "--port", "0", "--metrics-port", "0", "--host", "127.0.0.1", "--json"]
from xmtp_history.__main__ import main
main()
"""


def test_too_few_descriptors(tmp_path: Path) -> None:
    with child.start(_FEW_DESCRIPTORS, tmp_path) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["history_sync_url"]
            host, _, port = url.removeprefix("http://").partition(":")
            with contextlib.ExitStack() as stack:
                # More than it can have; those that wait are let in when others go.
                for _ in range(200):
                    stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            file_id = _post(url, b"archive")
            with urllib.request.urlopen(f"{url}/files/{file_id}", timeout=60) as answer:  # noqa: S310 - a URL of ours
                assert answer.read() == b"archive"
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=child.DEADLINE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0
    said = [json.loads(line) for line in err.splitlines()]
    complaints = [line for line in said if "Too many open files" in line.get("exception", "")]
    # It says so, and not a thousand times.
    assert 1 <= len(complaints) < 100


def _post(url: str, data: bytes) -> str:
    with urllib.request.urlopen(f"{url}/upload", data, timeout=60) as answer:  # noqa: S310 - a URL of ours
        text: str = answer.read().decode()
    return text
