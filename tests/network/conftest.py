"""What the tests of the client's network need: short waits, and no proxies."""

from __future__ import annotations

import asyncio

import pytest

from xmtp_history.network import _calls, _stream


@pytest.fixture(autouse=True)
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest waits between tries of calls, a hundredth of which is waited."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(seconds / 100)

    monkeypatch.setattr(_calls, "_sleep", sleep)
    monkeypatch.setattr(_calls, "_random", lambda: 1.0)
    return waited


@pytest.fixture
def real_delays(delays: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits in which a node can start; a fifth of the longest ones."""
    monkeypatch.setattr(_calls, "_sleep", asyncio.sleep)
    monkeypatch.setattr(_calls, "_random", lambda: 0.2)


@pytest.fixture(autouse=True)
def stream_delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest waits of streams, a twentieth of which is waited."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(min(seconds / 20, 0.2))

    monkeypatch.setattr(_stream, "_sleep", sleep)
    monkeypatch.setattr(_stream, "_random", lambda: 1.0)
    return waited


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
