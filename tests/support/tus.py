"""A client for resumable uploads that says exactly what it is told to."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession
from multidict import CIMultiDictProxy

from support.history_metrics import eventually, metrics
from support.history_server import OFFSET_STREAM, TUS, download
from xmtp_history import HistoryServer

_CONTENT: Final = TUS | {"Content-Type": OFFSET_STREAM}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, all of it."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def offset(self) -> int:
        """How many bytes the server says that it has."""
        return int(self.headers["Upload-Offset"])

    @property
    def file_id(self) -> str:
        """What the upload has become."""
        return self.headers["Content-Location"].rpartition("/")[2]

    @property
    def kind(self) -> str:
        """What is wrong."""
        kind: str = json.loads(self.body)["type"]
        return kind.removeprefix("urn:xmtp-history:")


async def ask(client: ClientSession, method: str, path: str, headers: dict[str, str], data: Any = None) -> Answer:
    """Sends a request, with nothing in it that the caller does not want there."""
    skipped = {"Content-Type"} - headers.keys()
    body = io.BytesIO(data) if isinstance(data, bytes) else data
    async with client.request(method, path, headers=headers, data=body, skip_auto_headers=skipped) as response:
        return Answer(response.status, response.headers, await response.read())


async def create(
    client: ClientSession, length: int | None, data: Any = None, *, path: str = "/upload", **headers: str
) -> Answer:
    """Creates an upload, maybe with its beginning."""
    known = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    return await ask(client, "POST", path, (TUS if data is None else _CONTENT) | known | _named(headers), data)


async def created(client: ClientSession, length: int | None, **headers: str) -> str:
    """The path of a new upload."""
    answer = await create(client, length, **headers)
    assert answer.status == 201, answer
    return answer.headers["Location"]


async def head(client: ClientSession, path: str) -> Answer:
    """Asks how far an upload has come."""
    return await ask(client, "HEAD", path, TUS)


async def patch(client: ClientSession, path: str, offset: int, data: Any, **headers: str) -> Answer:
    """Continues an upload."""
    return await ask(client, "PATCH", path, _CONTENT | {"Upload-Offset": str(offset)} | _named(headers), data)


async def delete(client: ClientSession, path: str) -> Answer:
    """Ends an upload."""
    return await ask(client, "DELETE", path, TUS)


async def resume(client: ClientSession, path: str, data: bytes, offset: int | None = None) -> str:
    """Sends the rest of an upload, from where it is or should be, and checks and returns what it becomes."""
    if offset is None:
        offset = (await head(client, path)).offset
    answer = await patch(client, path, offset, data[offset:])
    assert answer.status == 204, answer
    assert answer.offset == len(data)
    await check_file(client, answer.file_id, data)
    return answer.file_id


async def check_file(client: ClientSession, file_id: str, data: bytes) -> None:
    """A file has this content, and the digest of it."""
    assert await download(client, file_id) == data
    async with client.head(f"/files/{file_id}") as response:
        assert response.headers["ETag"] == f'"{hashlib.sha256(data).hexdigest()}"'


def check_unfinished(answer: Answer, offset: int) -> None:
    """An answer says all that is to say of an upload that is not complete."""
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.offset == offset
    expires = parsedate_to_datetime(answer.headers["Upload-Expires"]).timestamp()
    assert 0 < expires - time.time() <= 86_400
    assert "Content-Location" not in answer.headers
    assert "Delete-Capability" not in answer.headers


def check_finished(answer: Answer, size: int) -> None:
    """An answer says what an upload has become."""
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.offset == size
    assert answer.headers["Content-Location"] == f"/files/{answer.file_id}"
    assert len(answer.headers["Delete-Capability"]) == 32
    assert "Upload-Expires" not in answer.headers


def checksum(algorithm: str, data: bytes) -> str:
    """A value for ``Upload-Checksum``."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


def patch_head(path: str, offset: int, length: int | None, *lines: str) -> bytes:
    """The head of a request that continues an upload; without a length, of one with chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    headers = [f"{name}: {value}" for name, value in _CONTENT.items()]
    return "\r\n".join(
        [f"PATCH {path} HTTP/1.1", "Host: test", *headers, f"Upload-Offset: {offset}", framing, *lines, "", ""]
    ).encode()


async def pieces(data: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    """A body in chunks."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def swept(server: HistoryServer, client: ClientSession) -> None:
    """Waits until a server that counts on a port of its own has counted for the first time."""

    async def counted() -> bool:
        return ("last_sweep_timestamp_seconds",) in await metrics(server, client)

    await eventually(counted)


def part(folder: Path, path: str) -> Path:
    """Where a local storage keeps what has arrived of an upload."""
    return folder / "resumable" / f"{path.rpartition('/')[2]}.part"


def part_bytes(folder: Path, path: str) -> int:
    """How much of it is there."""
    return part(folder, path).stat().st_size


def _named(headers: dict[str, str]) -> dict[str, str]:
    """``upload_checksum`` is ``Upload-Checksum``."""
    return {name.replace("_", "-").title(): value for name, value in headers.items()}
