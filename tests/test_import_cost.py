"""``import xmtp_history`` loads little: what costs is loaded by those who use it."""

from __future__ import annotations

import pytest

from support import child

#: Packages that take long to import, or that are there for one part only.
COSTLY = (
    "aiohttp", "asyncio", "click", "cryptography", "email", "eth_account", "grpc", "http", "hypothesis", "logging",
    "multiprocessing", "numpy", "pydantic", "pycparser", "pytest", "rich", "socket", "sqlite3", "ssl", "urllib",
    "zstandard",
)  # fmt: skip

_SCRIPT = """
import sys
before = set(sys.modules)
import xmtp_history
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return set(child.run(_SCRIPT).split())


@pytest.mark.parametrize("name", COSTLY)
def test_not_loaded(loaded: set[str], name: str) -> None:
    assert name not in loaded


def test_only_the_standard_library_and_cffi(loaded: set[str]) -> None:
    import sys

    foreign = {name for name in loaded if name not in sys.stdlib_module_names}
    assert foreign <= {"xmtp_history", "_cffi_backend", "cffi"}


def test_the_list_means_something() -> None:
    """The same script notices a package that is loaded."""
    assert "sqlite3" in child.run(_SCRIPT.replace("import xmtp_history", "import sqlite3")).split()
