"""The archives in ``tests/data``, with what is known about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).resolve().parents[1] / "data"

#: Fixtures that the reference implementation wrote.
FIXTURE_NAMES: Final = tuple(sorted(path.stem for path in (DATA / "fixtures").glob("*.xmtp")))


@dataclass(frozen=True)
class Fixture:
    """An archive with its key and its decoded content."""

    name: str
    path: Path
    facts: dict[str, Any]

    @property
    def key(self) -> bytes:
        return bytes.fromhex(self.facts["key_hex"])

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def expected(self) -> dict[str, Any]:
        """Decoded content: ``metadata``, ``groups``, ``messages``, ``consents``."""
        return dict(self.facts["expected"])

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.facts["counts"])

    def expected_elements(self) -> list[tuple[str, dict[str, Any]]]:
        """Decoded content in archive order, the metadata left out."""
        sections = {"group": "groups", "group_message": "messages", "consent": "consents"}
        taken = dict.fromkeys(sections, 0)
        out = []
        for kind, number in self.expected["element_order"]:
            if kind != "metadata":
                start = taken[kind]
                taken[kind] += number
                out += [(kind, record) for record in self.expected[sections[kind]][start : start + number]]
        return out


@dataclass(frozen=True)
class CraftedCase:
    """A hand-made archive, what libxmtp 1.10 did with it, and what is right."""

    name: str
    data: bytes
    observed: dict[str, Any]
    required: str

    @property
    def accepted(self) -> bool:
        """Whether the container is sound; the records in it may still be invalid."""
        return not self.required.startswith("error:")

    @property
    def reasons(self) -> tuple[str, ...]:
        """The conditions that an error may name."""
        text = self.required.removeprefix("error:").split(" (")[0]
        return tuple(text.split(" or "))


@cache
def fixture(name: str) -> Fixture:
    """A fixture by name."""
    path = DATA / ("legacy-shaped.xmtp" if name == "legacy-shaped" else f"fixtures/{name}.xmtp")
    return Fixture(name, path, json.loads(path.with_suffix(".json").read_text()))


@cache
def _crafted_file() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / "crafted.json").read_text())
    return loaded


def crafted_key() -> bytes:
    """The key of every crafted archive."""
    return bytes.fromhex(_crafted_file()["key_hex"])


def crafted_inbox() -> str:
    """The inbox that the crafted archives belong to."""
    return str(_crafted_file()["own_inbox_id"])


@cache
def crafted_cases() -> tuple[CraftedCase, ...]:
    """All crafted archives."""
    return tuple(
        CraftedCase(case["name"], bytes.fromhex(case["archive_hex"]), case["libxmtp_1_10"], case["required"])
        for case in _crafted_file()["cases"]
    )


def crafted(name: str) -> CraftedCase:
    """A crafted archive by name."""
    return next(case for case in crafted_cases() if case.name == name)
