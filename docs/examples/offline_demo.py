"""What `make demo` shows: an archive made by libxmtp is imported, shown, exported again and verified.

Without arguments it takes the archive from the tests; with two, your own: ``offline_demo.py ARCHIVE KEY_FILE``, where the
file holds the archive's key in hexadecimal.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from xmtp_history import ConsentState, ContentError, History, archive_metadata, verify_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xmtp_history import Counts, Message

FIXTURE = Path(__file__).parents[2] / "tests/data/fixtures/rich-content.xmtp"


def main() -> None:
    """Runs the demo."""
    if len(sys.argv) > 1:
        source, key = Path(sys.argv[1]), bytes.fromhex(Path(sys.argv[2]).read_text())
    else:
        source, key = FIXTURE, bytes.fromhex(json.loads(FIXTURE.with_suffix(".json").read_text())["key_hex"])

    with tempfile.TemporaryDirectory() as directory:
        store, target = Path(directory, "history.db"), Path(directory, "again.xmtp")
        new_key = secrets.token_bytes(32)

        heading(f"1. An archive made by libxmtp: {source.name}, {source.stat().st_size:,} bytes")
        with timed("read its metadata"):
            metadata = archive_metadata(source, key)
        print(f"  format version {metadata.backup_version}, exported {moment(metadata.exported_at_ns)}")

        heading("2. Import into a new encrypted store")
        with History.open(store, secrets.token_bytes(32)) as history:
            with timed("import"):
                imported = history.import_archive(source, key)
            print(f"  new: {listed(imported.new)}")
            with timed("import once more"):
                repeated = history.import_archive(source, key)
            print(f"  new: {listed(repeated.new)}; already there: {listed(repeated.duplicate)}")

            heading("3. What is in it")
            show(history)

            heading("4. Export under a new key")
            with timed("export"):
                exported = history.create_archive(target, new_key)
            print(f"  {exported.archive_bytes:,} bytes, {exported.elements} elements")

        heading("5. Verify the export")
        with timed("verify"):
            verified = verify_archive(target, new_key)
        print(f"  {listed(verified.counts)}")
        if verified.counts != exported.counts or verified.invalid_records:
            sys.exit("the export does not hold what was exported")
        print("\nAll is well: any XMTP SDK can import the result.")


def show(history: History) -> None:
    """Prints conversations, messages and consent."""
    for conversation in history.conversations(limit=5):
        print(f"  {conversation.name or conversation.dm_id!r}  ({conversation.id})")
        for message in history.messages(conversation.id, limit=25):
            print(f"    {moment(message.sent_at_ns)}  {message.sender_inbox_id[:8]}  {summary(message)}")
    for consent in history.consents():
        print(f"  consent: {consent.entity[:8]}… is {ConsentState(consent.state).name.lower()}")


def summary(message: Message) -> str:
    """A message's type and text on one line, safe for a terminal."""
    try:
        decoded = message.decoded()
    except ContentError:
        return f"{len(message.content)} bytes that are no XMTP content"
    text = decoded.body if isinstance(decoded.body, str) else decoded.fallback or f"{len(decoded.body)} bytes"
    deleted = "  [deleted]" if message.deleted_by_inbox_id else ""
    return f"{decoded.type.type_id:<27} {text if text.isprintable() else ascii(text):.60}{deleted}"


def listed(counts: Counts) -> str:
    """Counts as a phrase."""
    return f"{counts.conversations} conversations, {counts.messages} messages, {counts.consents} consents"


def moment(ns: int) -> str:
    """A time in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ns // 10**9))


def heading(text: str) -> None:
    """Prints a step's title."""
    print(f"\n{text}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints how long a step took."""
    start = time.perf_counter()
    yield
    print(f"  {what}: {(time.perf_counter() - start) * 1000:.2f} ms")


if __name__ == "__main__":
    main()
