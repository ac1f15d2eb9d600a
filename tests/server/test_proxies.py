"""Servers behind proxies: whose request it is, and below which path."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession

from support.history_metrics import status
from support.history_server import make_server, serving
from xmtp_history import HistoryServer, LocalStorage, UploadTokens

TOKEN = "fleet-0123456789"  # noqa: S105 - not secret


@pytest.mark.parametrize(
    ("trusted", "forwarded", "same_as"),
    [
        # Nobody's word is taken, or not that of who connects.
        ([], ["192.0.2.1"], None),
        (["192.0.2.0/24"], ["192.0.2.1"], None),
        (["127.0.0.1"], ["192.0.2.1"], "192.0.2.1"),
        (["127.0.0.0/8", "::1"], ["192.0.2.1"], "192.0.2.1"),
        # The client may have said anything before; the last that nobody vouches for counts.
        (["127.0.0.1"], ["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1"], ["198.51.100.1", "192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1", "10.0.0.0/8"], ["192.0.2.1, 10.0.0.1,10.9.9.9"], "192.0.2.1"),
        (["127.0.0.1", "10.0.0.0/8"], ["10.0.0.1"], "10.0.0.1"),
        (["127.0.0.1"], ["2001:db8::7"], "2001:db8::1"),
        # Nonsense is nobody's address.
        (["127.0.0.1"], ["unknown"], None),
        (["127.0.0.1"], ["192.0.2.1:80"], None),
        (["127.0.0.1"], ["192.0.2.1, "], "192.0.2.1"),
        (["127.0.0.1"], ["unknown, 192.0.2.1"], "192.0.2.1"),
        (["127.0.0.1"], [""], None),
        (["127.0.0.1"], [",,,"], None),
        (["127.0.0.1"], ["x" * 8_000], None),
        (["127.0.0.1"], ["1," * 4_000], None),
    ],
)
def test_only_proxies_that_are_trusted_are_believed(
    tmp_path: Path, trusted: list[str], forwarded: list[str], same_as: str | None
) -> None:
    async def main() -> None:
        async with serving(tmp_path, trusted_proxies=trusted, uploads_per_minute=1) as (_, client):
            headers = [("X-Forwarded-For", value) for value in forwarded]
            assert await status(client, "POST", "/upload", headers=headers) == 200
            # Who is the same client may not upload once more.
            addresses = [None, "192.0.2.1", "198.51.100.1", "10.0.0.1", "2001:db8::1"] if trusted else [None]
            for address in addresses:
                said = {} if address is None else {"X-Forwarded-For": address}
                expected = 429 if address == same_as else 200
                if trusted == ["192.0.2.0/24"]:
                    expected = 429
                assert await status(client, "POST", "/upload", headers=said) == expected, address

    asyncio.run(main())


def test_a_proxy_that_is_none_is_refused(tmp_path: Path) -> None:
    for wrong in ("localhost", "10.0.0.1/8", "10.0.0.0/33", ""):
        with pytest.raises(ValueError):
            HistoryServer(LocalStorage(tmp_path), trusted_proxies=[wrong])


@pytest.mark.parametrize("prefix", ["/history", "/a/b", "/history/"])
def test_everything_may_be_below_a_prefix(tmp_path: Path, prefix: str) -> None:
    below = prefix.rstrip("/")

    async def main() -> None:
        options = {"prefix": prefix, "upload_tokens": UploadTokens({"fleet": TOKEN})}
        async with make_server(tmp_path, **options) as server, ClientSession() as client:
            assert server.url.endswith(below)
            root = server.url.removesuffix(below)
            for path in (f"{below}/upload", f"/{below}//upload"):
                async with client.post(
                    f"{root}{path}", data=b"archive", headers={"Authorization": f"Bearer {TOKEN}"}
                ) as response:
                    assert response.status == 200
                    location = response.headers["Location"]
                    assert location.startswith(f"{below}/files/")
                async with client.get(f"{root}{location}") as response:
                    assert await response.read() == b"archive"
            async with client.post(f"{root}{below}/t/{TOKEN}/upload", data=b"archive") as response:
                assert response.headers["Location"].startswith(f"{below}/t/{TOKEN}/files/")
            for path, expected in ((below, 200), (f"{below}/", 200), (f"{below}/healthz", 200), (f"{below}x/", 404)):
                assert await status(client, "GET", f"{root}{path}") == expected, path
            for path in ("/", "/healthz", location.removeprefix(below)):
                assert await status(client, "GET", f"{root}{path}") == 404, path

    asyncio.run(main())


@pytest.mark.parametrize("prefix", ["history", "history/"])
def test_a_prefix_begins_with_a_slash(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ValueError):
        HistoryServer(LocalStorage(tmp_path), prefix=prefix)
