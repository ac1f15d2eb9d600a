"""Writes ``legacy-shaped.xmtp`` and its description: an archive as clients wrote them before November 2025.

Every element is sealed with the same nonce, message types are in the deprecated ``content_type_save``, the cursor's two
halves are swapped, and one body is no EncodedContent. No client wrote this file; its values are made up.
Run ``python tests/data/make_legacy_shaped.py`` to make both files again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from independent import read, write  # noqa: E402 - the path has to be set first
from independent.elements import Element  # noqa: E402
from support.build import BOB, consent, encoded, group, group_id, message, metadata, text_content  # noqa: E402

KEY = hashlib.sha256(b"legacy-shaped key").digest()
NONCE = hashlib.sha256(b"legacy-shaped nonce").digest()[:12]

_OLD = {"content_type": "", "authority_id": "", "version_major": 0, "sequence_id": 10}
ELEMENTS: list[Element] = [
    metadata(),
    group(1, last_message_ns=1_700_000_000_000_001_003, attributes={"group_name": "My group", "description": ""}),
    message(1, content=b"hello there", content_type_save=1, originator_id=188765, **_OLD),
    message(2, content=text_content("hello again"), content_type_save=2, originator_id=188766, **_OLD),
    message(
        3, content=encoded("reaction", b"{}"), content_type_save=5, originator_id=188767, sender_inbox_id=BOB, **_OLD
    ),
    consent(group_id(1)),
]


def main() -> None:
    data = write(HERE / "legacy-shaped.xmtp", KEY, ELEMENTS, nonce=NONCE, legacy=True)
    archive = read(data, KEY)
    facts = {
        "name": "legacy-shaped",
        "description": __doc__.splitlines()[0],
        "producer": "tests/data/make_legacy_shaped.py",
        "key_hex": KEY.hex(),
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "file_size": len(data),
        "header": {"version": archive.version, "nonce_hex": archive.nonce.hex()},
        "legacy_nonce_decrements": len(archive.plaintexts) - 1,
        "counts": {
            "groups": len(archive.of_kind("group")),
            "messages": len(archive.of_kind("group_message")),
            "consents": len(archive.of_kind("consent")),
        },
        "expected": {
            "element_order": [["metadata", 1], ["group", 1], ["group_message", 3], ["consent", 1]],
            "metadata": archive.metadata,
            "groups": archive.of_kind("group"),
            "messages": archive.of_kind("group_message"),
            "consents": archive.of_kind("consent"),
        },
    }
    text = json.dumps(facts, indent=1, ensure_ascii=True)
    (HERE / "legacy-shaped.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
