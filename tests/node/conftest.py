"""A node for each module, and a client for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.node_client import IdleConnection, NodeClient, check_alive
from xmtp_history.testing import run_local_xmtp

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def node_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the module's node is. Tests share it: they use groups, keys and addresses of their own.

    On disk, unless a module asks for both.
    """
    path = None if getattr(request, "param", "disk") == "memory" else tmp_path_factory.mktemp("node")
    with run_local_xmtp(path) as running:
        yield running.node_url


@pytest.fixture(scope="session", autouse=True)
def idle_connections() -> Iterator[list[IdleConnection]]:
    """Clients that only ping, with and without an open stream, from the first test on: that takes time."""
    with run_local_xmtp() as running:
        connections = [IdleConnection(running.node_url, stream=stream) for stream in (False, True)]
        yield connections
        for connection in connections:
            connection.close()


@pytest.fixture
def client(node_url: str) -> Iterator[NodeClient]:
    """A connection to the module's node, which has to be well after the test."""
    with NodeClient(node_url) as connected:
        yield connected
        check_alive(connected)
