"""Fixtures that every suite may use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xmtp_history import History

# Deadlines measure the machine, not the code. Making a failing example small takes minutes, as every try opens stores;
# HYPOTHESIS_PROFILE=thorough does it, and looks for more.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=100,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000, phases=list(Phase))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a test's store goes."""
    return tmp_path / "history.db3"


@pytest.fixture
def history(store_path: Path) -> Iterator[History]:
    """An empty store."""
    # Imported here: the suites that check the independent codec run without the native library.
    from support.build import STORE_KEY
    from xmtp_history import History

    with History.open(store_path, STORE_KEY) as opened:
        yield opened
