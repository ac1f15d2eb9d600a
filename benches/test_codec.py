"""Decoding and encoding archives, without a store.

Both sides read from a file and write to a sink that only counts: the disk is not what is compared here.
"""

from __future__ import annotations

import io

import pytest
import python_rival
from dataset import KEY
from native_limits import BOUNDS
from plan import LIBRARY, PYTHON, cases
from rig import Turn

TARGET_KEY = bytes(32)
# Archives up to this size are read back after they were rewritten.
READ_BACK = 20_000


class Discard(io.RawIOBase):
    """A binary file that keeps nothing but the number of bytes written."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self.size += len(data)
        return len(data)


@pytest.mark.parametrize("turn", cases("decode", LIBRARY, PYTHON, limits=BOUNDS["decode"]), indirect=True, ids=str)
def test_decode(turn: Turn) -> None:
    """Reading and checking everything, and saying what is there."""
    if turn.time_limit():
        return
    data = turn.data
    if turn.subject == PYTHON:
        report = turn.time(lambda: python_rival.decode(data.path, KEY))
        counts = report
    else:
        library = turn.rig.library
        report = turn.time(lambda: library.verify_archive(data.path, KEY))
        counts = report.counts
    found = (
        *(counts.conversations, counts.messages, counts.consents, report.elements, report.plaintext_bytes),
        *(report.first_sent_at_ns, report.last_sent_at_ns),
    )
    expected = (
        *(data.conversations, data.messages, data.consents, data.elements, data.plaintext_bytes),
        *(data.first_sent_at_ns, data.last_sent_at_ns),
    )
    turn.correct(right=found == expected, bytes=data.archive_bytes)


@pytest.mark.parametrize("turn", cases("rewrite", LIBRARY, PYTHON, limits=BOUNDS["rewrite"]), indirect=True, ids=str)
def test_rewrite(turn: Turn) -> None:
    """Decoding everything and encoding it again under another key."""
    if turn.time_limit():
        return
    data = turn.data
    rewrite = python_rival.rewrite if turn.subject == PYTHON else turn.rig.library.rewrite_archive
    sink = turn.time(lambda target: rewrite(data.path, KEY, target, TARGET_KEY) and target, lambda: (Discard(),))
    correct = data.archive_bytes * 0.99 < sink.size < data.archive_bytes * 1.05
    if turn.case.cycle == 0 and data.messages <= READ_BACK:
        copy = turn.rig.new_path("rewritten.xmtp")
        with copy.open("wb") as target:
            rewrite(data.path, KEY, target, TARGET_KEY)
        report = python_rival.decode(copy, TARGET_KEY)
        correct &= (report.messages, report.plaintext_bytes) == (data.messages, data.plaintext_bytes)
    turn.correct(right=correct, bytes=sink.size)
