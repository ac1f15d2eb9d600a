"""The figures of a run: medians over its cycles, and ratios taken inside each cycle."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from native_limits import BOUNDS
from plan import LIBRARY


class Results:
    """What pytest-benchmark saved, by operation, size, subject and cycle."""

    def __init__(self, saved: Path) -> None:
        content: dict[str, Any] = json.loads(saved.read_text())
        self.skipped: dict[str, str] = content.get("skipped", {})
        self.wrong: list[str] = []
        #: Figures of one turn over time, by subject.
        self.series: dict[str, list[tuple[float, float]]] = {}
        self._values: dict[tuple[str, int, str], dict[int, float]] = defaultdict(dict)
        for benchmark in content["benchmarks"]:
            facts = benchmark["extra_info"]
            if not facts["correct"]:
                self.wrong.append(benchmark["name"])
            value = facts.get("value", benchmark["stats"]["median"])
            size, subject, cycle = facts["size"], facts["subject"], facts["cycle"]
            for name, figure in {facts["operation"]: value, **facts.get("also", {})}.items():
                self._values[name, size, subject][cycle] = figure
            if "series" in facts:
                self.series[subject] = facts["series"]

    def sizes(self, operation: str) -> list[int]:
        """The sizes at which somebody was measured at an operation."""
        return sorted({size for name, size, _ in self._values if name == operation})

    def value(self, operation: str, size: int, subject: str = LIBRARY) -> float | None:
        """The median of a subject, or None if it was not measured."""
        found = self._values.get((operation, size, subject))
        return median(found.values()) if found else None

    def ratio(self, operation: str, size: int, subject: str, to: str = LIBRARY) -> float | None:
        """A subject's figure divided by another's, both of the same cycle; the median of that."""
        above = self._values.get((operation, size, subject), {})
        below = self._values.get((operation, size, to), {})
        common = above.keys() & below.keys()
        return median(above[cycle] / below[cycle] for cycle in common) if common else None

    def bound(self, operation: str, size: int) -> list[tuple[str, float]]:
        """The limits of an operation with their medians; empty if one is missing."""
        found = [(name, self.value(operation, size, f"limit:{name}")) for name in BOUNDS.get(operation, ())]
        return [] if any(value is None for _, value in found) else [(name, value or 0.0) for name, value in found]

    def bound_share(self, operation: str, size: int) -> float | None:
        """The sum of the limits divided by the library's time, within each cycle; the median of that."""
        names = [f"limit:{name}" for name in BOUNDS.get(operation, ())]
        parts = [self._values.get((operation, size, name), {}) for name in (LIBRARY, *names)]
        common = set.intersection(*(set(part) for part in parts)) if names else set()
        own, *limits = parts
        return median(sum(limit[cycle] for limit in limits) / own[cycle] for cycle in common) if common else None

    def reasons(self, subject: str) -> list[str]:
        """Why a subject was skipped."""
        return sorted({reason for test, reason in self.skipped.items() if test.endswith(f"{subject}]")})
