"""Who may upload, and who may read what was."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.history_metrics import eventually, problem, status, uploaded
from support.history_server import (
    CHUNKED,
    HEAD,
    MUCH,
    TUS,
    chunk,
    connected,
    files,
    partial,
    serving,
    until,
)
from xmtp_history import HistoryServer, LocalStorage, UploadTokens
from xmtp_history.server import _access

FLEET, GUEST = "fleet-0123456789", "guest-0123456789"
TOKENS = {"fleet": FLEET, "guest": GUEST}


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _basic(user: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}


def _file(path: Path, text: str) -> Path:
    """Replaces a file in one step, as one should."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
    return path


@pytest.fixture
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_access, "_LOOK_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("", _bearer(FLEET)),
        ("", _bearer(GUEST)),
        ("", {"Authorization": f"bearer   {FLEET} "}),
        ("", _basic(f"fleet:{FLEET}")),
        ("", _basic(f":{FLEET}")),
        ("", _basic(FLEET)),
        ("", _basic(f"{FLEET}:")),
        (f"/t/{FLEET}", {}),
        (f"//t//{FLEET}/", {}),
        # What a header shows goes before the path.
        ("/t/wrong", _bearer(FLEET)),
    ],
)
def test_an_upload_has_to_show_a_token(tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(tmp_path, upload_tokens=UploadTokens(TOKENS)) as (server, client):
            async with client.post(f"{server.url}{path}/upload", data=b"archive", headers=headers) as response:
                assert response.status == 200
                location = response.headers["Location"]
                assert location.endswith(f"/files/{await response.text()}")
            # Fetching needs none, and the way that the answer names works.
            async with client.get(location) as response:
                assert await response.read() == b"archive"
            create = headers | TUS | {"Upload-Length": "3"}
            async with client.post(f"{server.url}{path}/upload", headers=create) as response:
                assert response.status == 201
                location = response.headers["Location"]
            patch = headers | TUS | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
            async with client.patch(location, data=b"abc", headers=patch) as response:
                assert response.status == 204
                location = response.headers["Content-Location"]
            async with client.get(location) as response:
                assert await response.read() == b"abc"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("", {}),
        ("", _bearer("")),
        ("", _bearer(FLEET[:-1])),
        ("", _bearer(FLEET + "x")),
        ("", _bearer(FLEET.upper())),
        ("", _bearer(hashlib.sha256(FLEET.encode()).hexdigest())),
        ("", _bearer("fleet")),
        ("", {"Authorization": FLEET}),
        ("", {"Authorization": f"Digest {FLEET}"}),
        ("", _basic(f"{FLEET}:wrong")),
        ("", _basic("")),
        ("", {"Authorization": "Basic ***"}),
        ("", {"Authorization": "Basic ä"}),
        ("", {"Authorization": "Basic /w=="}),
        ("", {"Authorization": "Bearer ä"}),
        ("/t/wrong-0123456789", {}),
        ("/t/%ff", {}),
        ("/t/%ed%a0%80", {}),
        (f"/t/{FLEET}", _bearer("wrong")),
    ],
)
def test_without_one_it_is_refused(tmp_path: Path, path: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(tmp_path, upload_tokens=UploadTokens(TOKENS)) as (_, client):
            for more in ({}, TUS | {"Upload-Length": "3"}):
                code, kind, said = await problem(client, "POST", f"{path}/upload", data=b"abc", headers=headers | more)
                assert (code, kind) == (401, "unauthorized")
                said = {name.lower(): value for name, value in said.items()}
                assert said["www-authenticate"] == 'Bearer realm="xmtp-history", Basic realm="xmtp-history"'

    asyncio.run(main())
    assert files(tmp_path) == []


def test_bytes_that_are_no_text_are_no_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path, upload_tokens=UploadTokens(TOKENS)) as (server, _):
            for shown in (b"Bearer \xff\xfe", b"Basic \xff\xfe", b"\xff"):
                async with connected(server) as connection:
                    await connection.send(HEAD, b"Authorization: " + shown + b"\r\nContent-Length: 0\r\n\r\n")
                    assert await connection.status() == 401

    asyncio.run(main())


def test_a_refused_upload_is_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            serving(tmp_path, upload_tokens=UploadTokens(TOKENS)) as (server, _),
            connected(server) as connection,
        ):
            await connection.send(HEAD + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
            assert await connection.status() == 401

    asyncio.run(main())


def test_without_tokens_the_path_for_them_leads_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as (_, client):
            assert await status(client, "POST", f"/t/{FLEET}/upload", data=b"archive") == 404
            assert await status(client, "POST", "/upload", data=b"archive", headers=_bearer("whatever")) == 200

    asyncio.run(main())


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        (datetime.now(UTC).date() + timedelta(days=1), 200),
        # To its end.
        (datetime.now(UTC).date(), 200),
        (datetime.now(UTC).date() - timedelta(days=1), 403),
        ((datetime.now(UTC) + timedelta(hours=1)).isoformat(), 200),
        ((datetime.now(UTC) - timedelta(seconds=1)).isoformat(), 403),
        # In UTC where it does not say.
        ((datetime.now(UTC) + timedelta(hours=1)).replace(tzinfo=None).isoformat(), 200),
        ((datetime.now(UTC) - timedelta(hours=1)).replace(tzinfo=None).isoformat(), 403),
    ],
)
def test_a_token_may_expire(tmp_path: Path, expires: object, expected: int) -> None:
    path = _file(tmp_path / "tokens.toml", f'[tokens.fleet]\ntoken = "{FLEET}"\nexpires = {expires}\n')

    async def main() -> None:
        async with serving(tmp_path / "files", upload_tokens=UploadTokens.from_file(path)) as (_, client):
            options = {"data": b"archive", "headers": _bearer(FLEET)}
            if expected == 403:
                assert (await problem(client, "POST", "/upload", **options))[:2] == (403, "token-expired")
            else:
                assert await status(client, "POST", "/upload", **options) == 200

    asyncio.run(main())


def test_the_file_may_hold_the_hash_in_place_of_the_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(f'[tokens.fleet]\nsha256 = "{hashlib.sha256(FLEET.encode()).hexdigest().upper()}"\n')

    async def main() -> None:
        async with serving(tmp_path / "files", upload_tokens=UploadTokens.from_file(path)) as (_, client):
            assert await status(client, "POST", "/upload", headers=_bearer(FLEET)) == 200
            assert await status(client, "POST", "/upload", headers=_bearer(GUEST)) == 401

    asyncio.run(main())


@pytest.mark.usefixtures("_looks_often")
def test_a_file_that_changes_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _file(tmp_path / "tokens.toml", f'[tokens.fleet]\ntoken = "{FLEET}"\n')

    async def main() -> None:
        async with serving(tmp_path / "files", upload_tokens=UploadTokens.from_file(path)) as (_, client):

            async def accepted(*expected: int) -> None:
                found = [await status(client, "POST", "/upload", headers=_bearer(token)) for token in (FLEET, GUEST)]
                assert found == list(expected)

            await accepted(200, 401)
            _file(path, f'[tokens.guest]\ntoken = "{GUEST}"\n')
            await accepted(401, 200)
            # What cannot be read changes nothing.
            for broken in ("[tokens.fleet", '[tokens.fleet]\ntoken = "short"\n', "tokens = 1\n", "\0"):
                _file(path, broken)
                await accepted(401, 200)
            assert caplog.text.count("was not read again") == 4
            path.unlink()
            await accepted(401, 200)
            _file(path, f'[tokens.fleet]\ntoken = "{FLEET}"\n[tokens.guest]\ntoken = "{GUEST}"\n')
            await accepted(200, 200)
            # Nobody any more.
            _file(path, "")
            await accepted(401, 401)

    asyncio.run(main())
    assert FLEET not in caplog.text
    assert GUEST not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "tokens = 1",
        "tokens.fleet = 1",
        "[tokens.fleet]",
        '[tokens.fleet]\ntoken = "short"',
        "[tokens.fleet]\ntoken = 1234567890123456",
        '[tokens.fleet]\nsha256 = "00"',
        '[tokens.fleet]\nsha256 = "{0}x"',
        "[tokens.fleet]\nsha256 = 1",
        '[tokens.fleet]\ntoken = "{0}"\nsha256 = "{0}"',
        '[tokens.fleet]\ntoken = "{0}"\nexpires = "tomorrow"',
        '[tokens.fleet]\ntoken = "{0}"\nexpires = 12:00:00',
        '[tokens.fleet]\ntoken = "{0}"\nexpire = 2030-01-01',
        "[tokens.fleet]\ntoken = {0}",
    ],
)
def test_a_file_that_is_wrong_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    secret = "0" * 63
    with pytest.raises(ValueError) as caught:
        UploadTokens.from_file(_file(tmp_path / "tokens.toml", text.replace("{0}", secret)))
    assert secret not in str(caught.value)


def test_tokens_that_can_be_guessed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 16 characters"):
        UploadTokens({"fleet": "0123456789abcde"})
    with pytest.raises(OSError):
        UploadTokens.from_file(tmp_path / "missing")
    with pytest.raises(ValueError):
        HistoryServer(LocalStorage(tmp_path), token_for_downloads=True)


def test_downloads_may_need_a_token_too(tmp_path: Path) -> None:
    async def main() -> None:
        options = {"upload_tokens": UploadTokens(TOKENS), "token_for_downloads": True}
        async with serving(tmp_path, **options) as (_, client):
            async with client.post(f"/t/{FLEET}/upload", data=b"archive") as response:
                location, capability = response.headers["Location"], response.headers["Delete-Capability"]
            bare = location.removeprefix(f"/t/{FLEET}")
            for path, headers, expected in (
                (location, {}, 200),
                (bare, _bearer(GUEST), 200),
                (bare, {}, 401),
                (bare, _bearer("wrong"), 401),
                (location.replace(FLEET, "wrong"), {}, 401),
            ):
                assert await status(client, "GET", path, headers=headers) == expected
                assert await status(client, "HEAD", path, headers=headers) == expected
            # Who has none does not learn either which files there are.
            assert await status(client, "GET", "/files/x") == 401
            assert await status(client, "DELETE", bare, headers={"Delete-Capability": capability}) == 401
            headers = _bearer(GUEST) | {"Delete-Capability": capability}
            assert await status(client, "DELETE", bare, headers=headers) == 204
            assert await status(client, "GET", "/healthz") == 200

    asyncio.run(main())


def test_limits_count_for_each_token(tmp_path: Path) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"upload_tokens": UploadTokens(TOKENS), "max_uploads_per_client": 1}
        async with serving(tmp_path, **options, uploads_per_minute=2) as (server, client):
            async with connected(server) as connection:
                await connection.send(CHUNKED.replace(b"/upload", f"/t/{FLEET}/upload".encode()), chunk(MUCH))
                await until(lambda: partial(tmp_path))
                assert await status(client, "POST", "/upload", headers=_bearer(FLEET)) == 429
                assert await status(client, "POST", "/upload", headers=_bearer(GUEST)) == 200
            await until(lambda: not partial(tmp_path))

            async def accepted() -> bool:
                return await status(client, "POST", "/upload", headers=_basic(FLEET)) == 200

            await eventually(accepted)
            assert await status(client, "POST", "/upload", headers=_basic(FLEET)) == 429
            assert await status(client, "POST", "/upload", headers=_bearer(GUEST)) == 200

    asyncio.run(main())


def test_other_processes_cannot_read_what_is_stored(tmp_path: Path) -> None:
    old = os.umask(0)

    async def main() -> None:
        async with serving(tmp_path / "files") as (_, client):
            await uploaded(client, b"archive")
            await status(client, "POST", "/upload", headers=TUS | {"Upload-Length": "3"})

    try:
        asyncio.run(main())
    finally:
        os.umask(old)
    for path in [tmp_path / "files", *(tmp_path / "files").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_log_says_whose_token_it_was(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xmtp_history.server.requests")

    async def main() -> None:
        async with serving(tmp_path, upload_tokens=UploadTokens(TOKENS)) as (_, client):
            async with client.post("/upload", data=b"archive", headers=_bearer(FLEET)) as response:
                assert response.status == 200
            async with client.post("/upload", data=b"archive", headers=_bearer("wrong")) as response:
                assert response.status == 401

    asyncio.run(main())
    logged = [vars(record)["fields"] for record in caplog.records]
    assert [(fields["route"], fields["token"]) for fields in logged] == [("upload", "fleet"), ("upload", None)]
    assert FLEET not in caplog.text
