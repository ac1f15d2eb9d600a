"""What the tests of clients need: short waits between tries of calls, and no proxies."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from xmtp_history.client import _client
from xmtp_history.network import NodeApi, _calls


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        await real(seconds / 100)

    monkeypatch.setattr(_calls, "_sleep", sleep)


@pytest.fixture
def real_waits(_short_waits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits in which a node can start; a fifth of the longest ones."""
    monkeypatch.setattr(_calls, "_sleep", asyncio.sleep)
    monkeypatch.setattr(_calls, "_random", lambda: 0.2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that wait for a node as long as tests can."""
    monkeypatch.setattr(_client, "NodeApi", partial(NodeApi, timeout=1.0, keepalive_s=0.2))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
