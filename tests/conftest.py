"""Fixtures that every suite may use."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
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

#: No test takes as long. One that hangs says where, and does not hold up the others for ever.
HANGS_AFTER_SECONDS: Final = 300

#: The thread that watches the test that is running.
_WATCH: Final = pytest.StashKey[threading.Timer]()
#: Standard error as it is when nothing is captured.
_STDERR: Final = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    stderr = item.config.stash[_STDERR]
    watch = threading.Timer(HANGS_AFTER_SECONDS, _give_up, [item.nodeid, stderr])
    watch.daemon = True
    item.config.stash[_WATCH] = watch
    watch.start()
    # Where native code hangs and lets no thread of Python run, this one at least says where.
    faulthandler.dump_traceback_later(HANGS_AFTER_SECONDS + 10, exit=True, file=stderr)
    try:
        return (yield)
    finally:
        _watch_no_more(item.config)


def pytest_enter_pdb(config: pytest.Config) -> None:
    _watch_no_more(config)


def _watch_no_more(config: pytest.Config) -> None:
    faulthandler.cancel_dump_traceback_later()
    if watch := config.stash.get(_WATCH, None):
        watch.cancel()


def _give_up(test: str, stderr: int) -> None:
    """Ends everything. The last line names the test, because the stacks end with what all tests have in common."""
    os.write(stderr, b"\n")
    faulthandler.dump_traceback(stderr)
    os.write(stderr, f"\n{test} hangs: it has been running for {HANGS_AFTER_SECONDS} s\n".encode())
    os._exit(1)


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
