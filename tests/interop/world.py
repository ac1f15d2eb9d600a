"""What the interop tests know about the archive that real libxmtp wrote for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from interop.account import User

KEY: Final = bytes(range(7, 39))
TEXTS: Final = ("plain", "Träger 組 🚀 \u202eRTL\u202c", "line\nline\ttab\0nul", "x" * 500, "")


@dataclass(frozen=True)
class World:
    """What real libxmtp wrote, and what it says about it."""

    alice: User
    alice_inbox: str
    bob_inbox: str
    group: str
    empty_group: str
    dm: str
    deleted: str
    archive: Path
    listing: dict[str, Any]
