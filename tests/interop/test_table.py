"""The table of the reference's test cases names tests that exist, and misses no file of ours."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "device-sync-tests.md"

_NAMED = re.compile(r"`([\w/]+\.(?:py|rs))::(\w+)`")


def test_every_test_that_is_named_exists() -> None:
    named = set(_NAMED.findall(PAGE.read_text()))
    assert len(named) > 50
    sources = {path: (TESTS / path).read_text() for path, _ in named}
    missing = [f"{path}::{name}" for path, name in sorted(named) if not _defines(sources[path], name)]
    assert missing == []


def _defines(source: str, name: str) -> bool:
    return re.search(rf"^\s*(?:async )?(?:def|fn) {name}\(", source, re.MULTILINE) is not None


def test_every_case_has_a_test_or_a_reason() -> None:
    """A row without a test says why in a sentence, or that another row has it."""
    rows = re.findall(r"^\| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 60
    for case, here in rows:
        assert case == "---" or here in ("here", "as above", "There are none") or _NAMED.search(here), case


def test_every_file_about_history_sync_is_named() -> None:
    text = PAGE.read_text()
    for path in TESTS.glob("*/test_history_sync*.py"):
        assert f"`{path.relative_to(TESTS)}::" in text
