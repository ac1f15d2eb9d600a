"""The ids of files, as they stand in paths."""

from __future__ import annotations

import re
from uuid import UUID

_HYPHENATED = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_FORMS = re.compile(rf"(?:urn:uuid:)?{_HYPHENATED}|\{{{_HYPHENATED}\}}|[0-9a-f]{{32}}", re.ASCII)


def parse_id(text: str) -> UUID | None:
    """The id that a text stands for: hyphenated, 32 digits, in braces or as a URN, in any case. None for any other text.

    The parser of the standard library is no help against strangers: it takes hyphens and braces anywhere.
    """
    text = text.lower()
    return UUID(text) if _FORMS.fullmatch(text) else None
