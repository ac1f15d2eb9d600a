"""Memory stays bounded, however much goes through. Each measurement has a process of its own."""

from __future__ import annotations

from pathlib import Path

from support import child

_EXPORT = """
import sys
from support.memory import peak_bytes
from xmtp_history import History, Message

class Nowhere:
    size = 0
    def write(self, data):
        self.size += len(data)
        return len(data)

key = bytes(32)
with History.open(sys.argv[1], key) as history:
    for number in range(160):
        history.add_messages([Message(
            id=number.to_bytes(32).hex(), conversation_id="01" * 16, sent_at_ns=number, kind=1, sender_inbox_id="",
            sender_installation_id="", delivery_status=2, content_type="text", content=bytes([number]) * 600_000,
        )])
    before = peak_bytes()
    target = Nowhere()
    history.create_archive(target, key)
    print(target.size, peak_bytes() - before)
"""


def test_an_export_holds_a_small_part_of_what_it_writes(tmp_path: Path) -> None:
    size, grown = map(int, child.run(_EXPORT, tmp_path / "store.db3").split())
    assert size > 96_000_000
    assert grown < 24_000_000
