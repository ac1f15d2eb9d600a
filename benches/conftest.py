"""Fixtures of the benchmarks, and the reasons of what was skipped for the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from clock import CLOCK
from rig import Rig, Turn

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

_skipped: dict[str, str] = {}


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """The subjects of this run."""
    rig = Rig()
    yield rig
    rig.close()


@pytest.fixture
def turn(rig: Rig, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Turn:
    """The turn that a test is parametrised with."""
    return Turn(rig, request.param, benchmark)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives every benchmark the common clock."""
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK.now))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers why something was skipped."""
    if report.skipped and isinstance(report.longrepr, tuple):
        _skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Puts the reasons beside the results."""
    output_json["skipped"] = _skipped
