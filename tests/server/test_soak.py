"""Many clients who do everything, a server that starts again now and then: nothing acknowledged is lost or altered.

So many operations as the environment variable SOAK_OPERATIONS says, from the seed SOAK_SEED.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import io
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import ClientError, ClientResponse, ClientSession

from support import tus
from support.history_metrics import metrics
from support.history_server import (
    HEAD,
    TRAILER_BYTES,
    UNKNOWN,
    chunk,
    connected,
    files,
    make_server,
    partial,
    some_bytes,
)
from xmtp_history import HistoryServer

OPERATIONS = int(os.environ.get("SOAK_OPERATIONS", "10000"))
SEED = int(os.environ.get("SOAK_SEED", "1"))

CLIENTS = 8
RESTART_EVERY = 1000
#: About so many files are there at once.
FILES = 300

_BLOCK = some_bytes(8 << 20)
_T = TypeVar("_T")


class _Refused(Exception):
    """The server is closing."""


class _File:
    """A file that a client has been told is stored."""

    def __init__(self, data: bytes, file_id: str, capability: str) -> None:
        self.data = data
        self.path = f"/files/{file_id}"
        self.capability = capability
        self.tag = f'"{hashlib.sha256(data).hexdigest()}"'
        self.deleted = False


class _Begun:
    """A resumable upload on its way."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data
        self.acknowledged = 0


class _Soak:
    """The server, what should be in it, and those who use it."""

    def __init__(self, folder: Path, operations: int, seed: int) -> None:
        self._folder = folder
        self._choice = random.Random(seed)
        self._left = operations
        self._up = asyncio.Event()
        self._server: HistoryServer
        self._client: ClientSession
        self.model: dict[str, _File] = {}
        self.begun: list[_Begun] = []
        self._deleted: list[str] = [f"/files/{UNKNOWN}"]
        self.done: Counter[str] = Counter()
        operations_and_weights: dict[Callable[[], Awaitable[None]], int] = {
            self._upload: 20,
            self._upload_in_chunks: 10,
            self._upload_that_is_cut: 8,
            self._begin: 10,
            self._go_on: 14,
            self._end_one: 2,
            self._download: 20,
            self._download_some: 10,
            self._download_if: 8,
            self._miss: 3,
            self._may_not_delete: 3,
            self._delete: 15,
        }
        self._operations = list(operations_and_weights)
        self._weights = list(operations_and_weights.values())

    # --- the server

    async def start(self) -> None:
        self._server = make_server(self._folder, uploads_per_minute=None, shutdown_seconds=60.0, metrics_port=0)
        await self._server.start()
        self._client = ClientSession(self._server.url)
        self._up.set()

    async def stop(self) -> None:
        self._up.clear()
        await self._server.aclose()
        await self._client.close()

    async def _insist(self, request: Callable[[ClientSession], Awaitable[_T]]) -> _T:
        """Repeats a request until it has been answered; by a server that closes, it is not taken up."""
        while True:
            await self._up.wait()
            client = self._client
            try:
                return await request(client)
            except (_Refused, ClientError, OSError):
                assert client is not self._client or not self._up.is_set(), "only a server that closes turns away"
                self.done["repeated"] += 1

    async def _ask(self, method: str, path: str, *, data: Any = None, **headers: str) -> tuple[ClientResponse, bytes]:
        async def request(client: ClientSession) -> tuple[ClientResponse, bytes]:
            body = tus.pieces(data, size) if size else io.BytesIO(data) if data is not None else None
            told = {name.replace("_", "-"): value for name, value in headers.items()}
            async with client.request(method, path, data=body, headers=told) as response:
                if response.status == 503:
                    raise _Refused
                return response, await response.read()

        size = int(headers.pop("chunks", "0"))
        return await self._insist(request)

    # --- the clients

    async def client(self) -> None:
        """Does one thing after the other."""
        while self._left > 0:
            self._left -= 1
            if not self._left % RESTART_EVERY and self._up.is_set():
                await self.stop()
                await self.start()
                self.done["restart"] += 1
            (operation,) = self._choice.choices(self._operations, self._weights)
            await operation()
            self.done[operation.__name__.removeprefix("_")] += 1

    def _data(self) -> bytes:
        size = self._choice.choice([0, 1, self._choice.randrange(5000), *[self._choice.randrange(200_000)] * 5])
        if self._choice.random() < 0.01:
            size = self._choice.randrange(5 << 20)
        start = self._choice.randrange(len(_BLOCK) - size)
        return _BLOCK[start : start + size]

    def _stored(self, data: bytes, file_id: str, response: Any) -> None:
        assert file_id not in self.model
        self.model[file_id] = file = _File(data, file_id, response.headers["Delete-Capability"])
        assert response.headers["ETag"] == file.tag

    def _some(self) -> _File | None:
        return self._choice.choice(list(self.model.values())) if self.model else None

    async def _upload(self) -> None:
        data = self._data()
        response, body = await self._ask("POST", "/upload", data=data)
        assert response.status == 200
        self._stored(data, body.decode(), response)

    async def _upload_in_chunks(self) -> None:
        data = self._data()
        response, body = await self._ask("POST", "/upload", data=data, chunks=str(self._choice.randint(500, 50_000)))
        assert response.status == 200
        self._stored(data, body.decode(), response)

    async def _upload_that_is_cut(self) -> None:
        data = self._data()
        sent = data[: self._choice.randrange(len(data) + 1)]
        if self._choice.random() < 0.5:
            await self._send_and_cut(HEAD + b"Content-Length: %d\r\n\r\n" % (len(data) + 1), sent)
        else:
            await self._send_and_cut(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk(sent) if sent else b"")

    async def _send_and_cut(self, *pieces: bytes) -> None:
        # Between two servers there is none.
        with contextlib.suppress(OSError, RuntimeError):
            async with connected(self._server) as connection:
                await connection.send(*pieces)
                await asyncio.sleep(self._choice.choice([0, 0, 0.001, 0.01]))
                if self._choice.random() < 0.5:
                    connection.reset()

    async def _begin(self) -> None:
        data = self._data()
        told = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(data))}
        first = data[: self._choice.randrange(len(data) + 1)]
        if self._choice.random() < 0.3:
            told["Content-Type"] = "application/offset+octet-stream"
            response, _ = await self._ask("POST", "/upload", data=first, **told)
        else:
            first = b""
            response, _ = await self._ask("POST", "/upload", **told)
        assert response.status == 201
        assert response.headers["Upload-Offset"] == str(len(first))
        self._went_on(_Begun(response.headers["Location"], data), response)

    def _went_on(self, one: _Begun, response: ClientResponse) -> None:
        one.acknowledged = int(response.headers["Upload-Offset"])
        if "Content-Location" in response.headers:
            assert one.acknowledged == len(one.data)
            self._stored(one.data, response.headers["Content-Location"].rpartition("/")[2], response)
        else:
            self.begun.append(one)

    def _take(self) -> _Begun | None:
        """One that nobody else works on meanwhile."""
        return self.begun.pop(self._choice.randrange(len(self.begun))) if self.begun else None

    async def _go_on(self) -> None:
        if (one := self._take()) is not None:
            if self._choice.random() < 0.3:
                await self._go_on_and_be_cut(one)
            await self.go_on(one, self._choice.choice([1.0, 1.0, self._choice.random()]))

    async def _go_on_and_be_cut(self, one: _Begun) -> None:
        rest = one.data[one.acknowledged :]
        head = tus.patch_head(one.path, one.acknowledged, len(rest) + 1)
        await self._send_and_cut(head.replace(b"%d\r\n\r\n" % (len(rest) + 1), b"%d\r\n\r\n" % len(rest)), rest[:-1])

    async def go_on(self, one: _Begun, share: float) -> None:
        """Sends a share of what is missing."""
        response, _ = await self._ask("HEAD", one.path, Tus_Resumable="1.0.0")
        offset = int(response.headers["Upload-Offset"])
        assert one.acknowledged <= offset <= len(one.data)
        data = one.data[offset:]
        data = data[: int(len(data) * share)]
        told = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": str(offset),
            "Content-Type": "application/offset+octet-stream",
        }
        if self._choice.random() < 0.3:
            told["Upload-Checksum"] = tus.checksum("sha256", data + b"x")
            response, _ = await self._ask("PATCH", one.path, data=data, **told)
            assert response.status == 460
            told["Upload-Checksum"] = tus.checksum("sha256", data)
        response, _ = await self._ask("PATCH", one.path, data=data, **told)
        assert response.status == 204
        assert response.headers["Upload-Offset"] == str(offset + len(data))
        self._went_on(one, response)

    async def _end_one(self) -> None:
        if (one := self._take()) is not None:
            response, _ = await self._ask("DELETE", one.path, Tus_Resumable="1.0.0")
            assert response.status == 204

    async def _get(self, file: _File, status: int, expected: bytes, **headers: str) -> ClientResponse | None:
        response, body = await self._ask("GET", file.path, **headers)
        if file.deleted and response.status == 404:
            return None
        assert response.status == status
        assert response.headers["ETag"] == file.tag
        assert body == expected
        return response

    async def _download(self) -> None:
        if (file := self._some()) is not None:
            await self._get(file, 200, file.data)

    async def _download_some(self) -> None:
        if (file := self._some()) is not None and file.data:
            start = self._choice.randrange(len(file.data))
            end = self._choice.randrange(start, len(file.data)) + 1
            response = await self._get(file, 206, file.data[start:end], Range=f"bytes={start}-{end - 1}")
            if response is not None:
                assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(file.data)}"

    async def _download_if(self) -> None:
        if (file := self._some()) is not None:
            await self._get(file, 304, b"", If_None_Match=file.tag)
            await self._get(file, 200, file.data, If_None_Match='"other"', If_Match=file.tag)
            response, _ = await self._ask("GET", file.path, If_Match='"other"')
            assert response.status == 412 or file.deleted

    async def _miss(self) -> None:
        for method in ("GET", "HEAD", "DELETE"):
            response, _ = await self._ask(method, self._choice.choice(self._deleted[-1000:]))
            assert response.status == 404

    async def _may_not_delete(self) -> None:
        if (file := self._some()) is not None:
            other = self._some() or file
            shown = self._choice.choice(["", "0" * 32, file.capability[:-1], other.capability * (other is not file)])
            response, _ = await self._ask("DELETE", file.path, Delete_Capability=shown)
            assert response.status == 403 or (file.deleted and response.status == 404)

    async def _delete(self) -> None:
        while (file := self._some()) is not None and (self._choice.random() < 0.3 or len(self.model) > FILES):
            # From now on others may miss it.
            del self.model[file.path.rpartition("/")[2]]
            file.deleted = True
            response, _ = await self._ask("DELETE", file.path, Delete_Capability=file.capability)
            assert response.status == 204
            self._deleted.append(file.path)

    # --- the end

    async def check(self) -> None:
        """There is what has to be there, and nothing else."""
        for file in self.model.values():
            await self._get(file, 200, file.data)
        counted = await metrics(self._server, self._client)
        assert counted["files",] == len(self.model)
        unfinished = sum(path.stat().st_size for path in files(self._folder / "resumable"))
        assert counted["stored_bytes",] == sum(len(file.data) for file in self.model.values()) + unfinished
        assert not {("pending_bytes",), ("uploads_active",), ("downloads_active",)} & counted.keys()
        assert not [name for name in counted if name[0] == "aborted_total"]

    def check_folder(self) -> None:
        """In the directory as well."""
        assert partial(self._folder) == []
        found = {path.name: path for path in files(self._folder) if path.parent.name != "resumable"}
        assert found.keys() == self.model.keys()
        for name, path in found.items():
            assert path.read_bytes()[:-TRAILER_BYTES] == self.model[name].data
        unfinished = {path.stem for path in (self._folder / "resumable").glob("*.part")}
        assert unfinished == {one.path.rpartition("/")[2] for one in self.begun}


# asyncio forgets a connection that it accepts in the moment in which a server closes. Anything else that stays open is
# found below.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        soak = _Soak(tmp_path, OPERATIONS, SEED)
        await soak.start()
        try:
            await asyncio.gather(*(soak.client() for _ in range(CLIENTS)))
            for one in soak.begun[: len(soak.begun) // 2]:
                soak.begun.remove(one)
                await soak.go_on(one, 1.0)
        finally:
            await soak.stop()
        soak.check_folder()
        await soak.start()
        await tus.swept(soak._server, soak._client)
        await soak.check()
        await soak.stop()
        soak.check_folder()
        assert len(soak.done) >= 12, soak.done

    before = _open_files()
    asyncio.run(main())
    gc.collect()
    assert _open_files() == before


def _open_files() -> int:
    """How many descriptors this process has; they are not to become more."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0
