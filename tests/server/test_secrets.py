"""What must not be found out: nothing that opens a file or a door is in logs, metrics or error messages."""

from __future__ import annotations

import asyncio
import base64
import logging
import uuid
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from support.history_server import CHUNKED, HEAD, MUCH, TUS, chunk, connected, partial, serving, until
from xmtp_history import HistoryServer, LocalStorage, UploadTokens

TOKEN, WRONG, EXPIRED = "right-token-0123456789", "wrong-token-0123456789", "expired-token-0123456789"
QUERY = "query-0123456789"
AGENT = "agent-0123456789"
METADATA = "bWV0YWRhdGEtMDEyMzQ1Njc4OQ=="
BASIC = base64.b64encode(f"user:{WRONG}".encode()).decode()
PATCH = TUS | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}


class _Client:
    """A client that remembers its secrets, and what it was told when something was wrong."""

    def __init__(self, client: ClientSession) -> None:
        self._client = client
        self.secrets = {TOKEN, WRONG, EXPIRED, QUERY, AGENT, METADATA, BASIC}
        self.told: list[str] = []

    async def ask(self, method: str, path: str, expected: int, **options: Any) -> ClientResponse:
        headers = {"User-Agent": AGENT, **options.pop("headers", {})}
        url = f"{path}?{QUERY}={QUERY}"
        async with self._client.request(method, url, headers=headers, allow_redirects=False, **options) as response:
            assert response.status == expected, (method, path)
            body = await response.text(errors="replace")
            if expected >= 400:
                self.told.append(body)
            for name in ("Location", "Content-Location", "Delete-Capability"):
                self.secrets.add(response.headers.get(name, TOKEN).rpartition("/")[2])
            return response


async def _everything(server: HistoryServer, client: _Client, folder: Path) -> None:
    """All kinds of requests, right and wrong."""
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    response = await client.ask("POST", f"/t/{TOKEN}/upload", 200, data=b"archive")
    capability = {"Delete-Capability": response.headers["Delete-Capability"]}
    location = response.headers["Location"]
    name = location.rpartition("/")[2]
    for path in (location, location.replace("-", ""), f"/files/%7B{name}%7D", f"/files/urn:uuid:{name.upper()}"):
        client.secrets.add(path.rpartition("/")[2])
        await client.ask("GET", path, 200)
    await client.ask("HEAD", location, 200)
    await client.ask("GET", location, 206, headers={"Range": "bytes=0-0"})
    await client.ask("GET", location, 416, headers={"Range": "bytes=99-"})
    await client.ask("GET", location, 412, headers={"If-Match": '"x"'})
    await client.ask("PUT", location, 405)
    await client.ask("GET", f"{location}/{QUERY}", 404)
    await client.ask("DELETE", location, 403, headers={"Delete-Capability": QUERY})
    for wrong in (f"/t/{WRONG}/upload", f"/t/{EXPIRED}/upload"):
        await client.ask("POST", wrong, 403 if EXPIRED in wrong else 401, data=b"archive")
    await client.ask("POST", "/upload", 401, data=b"archive", headers={"Authorization": f"Basic {BASIC}"})
    await client.ask("POST", "/upload", 413, data=bytes(1_000_001), headers=bearer)
    for path in (f"/{name}", f"/client-events/{QUERY}", f"/t/{TOKEN}/nothing", f"/upload/{name}"):
        await client.ask("GET", path, 404)
    create = bearer | TUS | {"Upload-Metadata": f"key {METADATA}"}
    await client.ask("POST", "/upload", 400, headers=create)
    upload_path = (await client.ask("POST", "/upload", 201, headers=create | {"Upload-Length": "3"})).headers[
        "Location"
    ]
    await client.ask("HEAD", upload_path, 200, headers=TUS)
    await client.ask("PATCH", upload_path, 409, headers=PATCH | {"Upload-Offset": "2"}, data=b"c")
    await client.ask("PATCH", upload_path, 400, headers=PATCH | {"Upload-Checksum": f"md5 {QUERY}"}, data=b"abc")
    await client.ask("PATCH", upload_path, 400, headers=PATCH, data=b"abcd")
    await client.ask("PATCH", upload_path, 204, headers=PATCH, data=b"abc")
    await client.ask("DELETE", upload_path, 204, headers=TUS)
    await client.ask("HEAD", upload_path, 404, headers=TUS)
    for words in (
        f"GET {location} HTTP/1.1 {QUERY}\r\n\r\n",
        f"GET {location}\x00 HTTP/1.1\r\nHost: test\r\n\r\n",
        f"{QUERY}({name} / HTTP/1.1\r\nHost: test\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: test\r\n{TOKEN} {name}\r\n\r\n",
        f"POST /t/{TOKEN}/upload HTTP/1.1\r\nHost: test\r\nContent-Length: {QUERY}\r\n\r\n",
        f"POST /t/{TOKEN}/upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{QUERY}\r\n",
        f"GET /{location * 1_000} HTTP/1.1\r\nHost: test\r\n\r\n",
        f"GET / HTTP/1.1\r\nHost: test\r\nX: {location * 1_000}\r\n\r\n",
        f"GET http://[{name} HTTP/1.1\r\nHost: test\r\n\r\n",
    ):
        async with connected(server) as connection:
            await connection.send(words.encode())
            client.told.append((await connection.rest()).decode(errors="replace"))
    async with connected(server) as connection:
        await connection.send(CHUNKED.replace(HEAD[5:12], f"/t/{TOKEN}/upload".encode()), chunk(MUCH))
        await until(lambda: partial(folder))
        connection.reset()
    await until(lambda: not partial(folder))
    await client.ask("DELETE", location, 204, headers=capability)
    await client.ask("GET", location, 404)


class _Broken(LocalStorage):
    """Fails, sometimes in ways that nobody thought of."""

    error: BaseException | None = None

    async def open(self, file_id: uuid.UUID, /, *, content: bool = True) -> Any:
        if self.error is not None:
            raise self.error
        return await super().open(file_id, content=content)


def test_nothing_secret_is_in_logs_metrics_and_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.NOTSET)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        f'[tokens.fleet]\ntoken = "{TOKEN}"\n[tokens.old]\ntoken = "{EXPIRED}"\nexpires = 2001-01-01\n',
        encoding="utf-8",
    )
    storage = _Broken(tmp_path / "files")

    async def main() -> _Client:
        options: dict[str, Any] = {"upload_tokens": UploadTokens.from_file(tokens), "max_file_bytes": 1_000_000}
        async with serving(storage, **options, metrics_port=0, sweep_seconds=0.05) as (server, session):
            client = _Client(session)
            await _everything(server, client, tmp_path / "files")
            for error, expected in (
                (OSError(5, "input/output error", f"/files/{QUERY}"), 503),
                (RuntimeError("no reason"), 500),
            ):
                storage.error = error
                await client.ask("GET", f"/files/{uuid.uuid4()}", expected)
            storage.error = None
            assert server.metrics_url is not None
            async with session.get(server.metrics_url) as response:
                client.told.append(await response.text())
            return client

    client = asyncio.run(main())
    shown = "\n".join(
        [caplog.text, *(str(vars(record)) for record in caplog.records if record.name != "asyncio"), *client.told]
    )
    assert len(client.secrets) > 10
    assert "xmtp_history_requests_total" in shown
    assert "route=file" in caplog.text
    assert {secret for secret in client.secrets if secret in shown} == set()


def test_the_log_has_the_beginning_of_an_id_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xmtp_history.server.requests")

    async def main() -> str:
        async with serving(tmp_path) as (_, session), session.post("/upload", data=b"archive") as response:
            return await response.text()

    name = asyncio.run(main())
    (record,) = [record for record in caplog.records if record.name == "xmtp_history.server.requests"]
    assert vars(record)["fields"]["id"] == name[:8]
    assert name[:9] not in str(vars(record))
