"""Reading an archive record by record into Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import python_rival
from dataset import KEY
from native_limits import BOUNDS
from plan import LIBRARY, PYTHON, cases
from rig import Turn


def _library(library: Any, path: Path) -> tuple[int, int, int]:
    """Looks at what a bot looks at: who wrote what, where and when."""
    messages = text = newest = 0
    kind = library.Message
    with library.open_archive(path, KEY) as reader:
        for record in reader:
            if isinstance(record, kind) and record.id and record.conversation_id and record.sender_inbox_id:
                messages += 1
                text += len(record.content)
                newest = max(newest, record.sent_at_ns)
    return messages, text, newest


def _python(path: Path) -> tuple[int, int, int]:
    """The same with protobuf's own objects; ids are only readable in hexadecimal."""
    messages = text = newest = 0
    for element, _ in python_rival.read_elements(path, KEY):
        if element.WhichOneof("kind") == "group_message":
            record = element.group_message
            if record.id.hex() and record.group_id.hex() and record.sender_inbox_id:
                messages += 1
                text += len(record.decrypted_message_bytes)
                newest = max(newest, record.sent_at_ns)
    return messages, text, newest


@pytest.mark.parametrize("turn", cases("iterate", LIBRARY, PYTHON, limits=BOUNDS["iterate"]), indirect=True, ids=str)
def test_iterate(turn: Turn) -> None:
    """A loop over all records."""
    if turn.time_limit():
        return
    data = turn.data
    if turn.subject == PYTHON:
        messages, text, newest = turn.time(lambda: _python(data.path))
    else:
        library = turn.rig.library
        messages, text, newest = turn.time(lambda: _library(library, data.path))
    turn.correct(right=(messages, newest) == (data.messages, data.last_sent_at_ns), bytes=text)
