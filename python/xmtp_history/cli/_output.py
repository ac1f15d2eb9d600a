"""Printing, and the one place that makes strangers' text safe for a terminal.

Names and texts in an archive are written by other people. Printed as they are, escape sequences in them could rewrite
the screen, and direction marks could make one name look like another. So every line of text output goes through
:func:`printable`; JSON output is pure ASCII, which escapes the same characters.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Not printable by Unicode's rules, yet harmless, and part of many scripts and of composed emoji.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    r"""The text with every character that could steer a terminal shown as an escape such as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in text)


def print_line(text: str = "", *, err: bool = False) -> None:
    """Prints one line of text."""
    click.echo(printable(text), err=err)


def print_json(value: Mapping[str, object]) -> None:
    """Prints one JSON object on one line."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Prints label and value pairs in two columns."""
    rows = list(fields)
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print_line(f"{label:<{width}}  {value}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints aligned columns, numbers to the right.

    The last column is not padded: it is the place for text of unknown width.
    """
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header) - 1)]
    numeric = [all(row[column].replace(",", "").isdigit() for row in rows) for column in range(len(header))]
    last_width = max(len(row[-1]) for row in cells) if numeric[-1] else 0
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, [*widths, last_width], numeric, strict=True)
        ]
        print_line("  ".join(padded).rstrip())


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    print_line(f"Warning: {text}", err=True)
