"""The table of faults names tests that exist, and every test of faults."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"

_NAMED = re.compile(r"`([\w/]+\.(?:py|rs))::(\w+)`")
_TEST = re.compile(r"^def (test_\w+)\(", re.MULTILINE)


def _source(path: str) -> str:
    here = TESTS / "client" / path
    return (here if here.exists() else TESTS / path).read_text()


def test_every_test_that_is_named_exists() -> None:
    named = set(_NAMED.findall(PAGE.read_text()))
    sources = {path: _source(path) for path, _ in named}
    missing = [(path, name) for path, name in named if not re.search(rf"(?:def|fn) {name}\(", sources[path])]
    assert missing == []


def test_every_test_of_faults_is_named() -> None:
    named = set(_NAMED.findall(PAGE.read_text()))
    files = {path for path, _ in named if path.startswith("test_sync_")}
    assert len(files) == 8
    unnamed = [(path, name) for path in files for name in _TEST.findall(_source(path)) if (path, name) not in named]
    assert unnamed == []
