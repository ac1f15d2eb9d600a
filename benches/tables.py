"""What the parts of the report have in common: figures as text, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from aims import Verdict

NONE = "-"
_WORDS = {True: "reached", False: "**not reached**", None: "not measured"}


def seconds(value: float | None) -> str:
    """A time with its unit."""
    if value is None:
        return NONE
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.1f} ms" if value >= 0.01 else f"{value * 1e3:.2f} ms"


def times(value: float | None) -> str:
    """How many times as much."""
    if value is None:
        return NONE
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x"


def share(value: float | None) -> str:
    """What part of something."""
    return NONE if value is None else f"{value:.2f}"


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: int) -> str:
    """A table in Markdown; columns from the second up to ``numbers`` are aligned to the right."""
    marks = ["---" if at == 0 or at >= numbers else "--:" for at in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, tuple(marks), *rows))


def aims(verdicts: Iterable[Verdict]) -> str:
    """The aims, and whether they were reached."""
    rows = ((verdict.aim, verdict.measured, _WORDS[verdict.reached]) for verdict in verdicts)
    return table(("aim", "measured", ""), rows, numbers=0)


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)
