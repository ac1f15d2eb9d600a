"""What a history server says about itself, and what its clients are told about their files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from xmtp_history import HistoryServer


@dataclass(frozen=True)
class Uploaded:
    """What the answer to an upload says."""

    file_id: str
    tag: str
    capability: str

    @property
    def path(self) -> str:
        return f"/files/{self.file_id}"

    @property
    def may_delete(self) -> dict[str, str]:
        return {"Delete-Capability": self.capability}


async def uploaded(client: ClientSession, data: bytes) -> Uploaded:
    """Uploads, and returns everything that is to know about the file."""
    async with client.post("/upload", data=io.BytesIO(data)) as response:
        assert response.status == 200, await response.text()
        return Uploaded(await response.text(), response.headers["ETag"], response.headers["Delete-Capability"])


async def status(client: ClientSession, method: str, path: str, **options: Any) -> int:
    """The status of the answer to a request."""
    async with client.request(method, path, **options) as response:
        await response.read()
        return response.status


async def missing(client: ClientSession, path: str) -> bool:
    """Whether there is no such file."""
    return await status(client, "HEAD", path) == 404


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits until something that has to be asked for is so."""
    for _ in range(10_000):
        if await condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it does not happen")


async def problem(client: ClientSession, method: str, path: str, **options: Any) -> tuple[int, str, dict[str, str]]:
    """The status of an answer that is an error, the end of its type, and its headers."""
    async with client.request(method, path, **options) as response:
        described = await response.json(content_type="application/problem+json")
        assert described["status"] == response.status
        assert described["type"].startswith("urn:xmtp-history:")
        return response.status, described["type"].rpartition(":")[2], dict(response.headers)


async def metrics(server: HistoryServer, client: ClientSession) -> dict[tuple[str, ...], float]:
    """All that is counted: values by name and labels, in the order of the labels' names, without what is 0."""
    assert server.metrics_url is not None
    async with client.get(server.metrics_url) as response:
        assert response.status == 200
        text = await response.text()
    return {
        (
            sample.name.removeprefix("xmtp_history_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.value
    }
