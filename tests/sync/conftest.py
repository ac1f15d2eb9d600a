"""What every test of a transfer needs: no proxies, and no real waiting between two tries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from xmtp_history.sync import _retry


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which last no time here."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    monkeypatch.setattr(_retry, "_sleep", sleep)
    monkeypatch.setattr(_retry, "_random", lambda: 1.0)
    return waited


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Uploads in pieces of 1,000 bytes and blocks of 100, so that little data has many of them."""
    from xmtp_history.sync import _sources, _upload

    monkeypatch.setattr(_sources, "PIECE_BYTES", 1000)
    monkeypatch.setattr(_upload, "PIECE_BYTES", 1000)
    monkeypatch.setattr(_sources, "BLOCK_BYTES", 100)
    return 1000
