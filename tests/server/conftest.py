"""Fixtures of the history server's suites."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.s3 import S3Server, s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.storages import Place


@pytest.fixture(scope="session")
def shared_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server for everything that keeps to a prefix of its own."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a storage keeps files."""
    # Imported here: not every suite needs the server.
    from support.storages import LocalPlace, MemoryPlace, S3Place

    if request.param == "local":
        return LocalPlace(tmp_path)
    if request.param == "memory":
        return MemoryPlace(tmp_path)
    return S3Place(tmp_path, request.getfixturevalue("shared_s3"))
