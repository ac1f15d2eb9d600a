"""Importing archives into a store and exporting them from it.

A store is opened before the clock starts, as libxmtp's is; the data are on the disk when it stops, except with libxmtp,
which does not wait for that when it writes an archive. The Python rival's store is not encrypted.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import python_rival
from dataset import KEY, SPAN_NS, START_NS, Dataset
from native_limits import BOUNDS
from plan import LIBRARY, LIBXMTP, PYTHON, cases
from rig import STORE_KEY, Turn


def _counts(data: Dataset) -> tuple[int, int, int]:
    return data.conversations, data.messages, data.consents


@pytest.mark.parametrize(
    "turn", cases("import", LIBRARY, PYTHON, LIBXMTP, limits=BOUNDS["import"]), indirect=True, ids=str
)
def test_import(turn: Turn) -> None:
    """An archive into an empty store."""
    if turn.time_limit():
        return
    data, rig = turn.data, turn.rig
    if turn.subject == LIBXMTP:
        turn.time_elsewhere(lambda: rig.libxmtp_import(data.messages))
        # It reports nothing; its export is counted when it is that one's turn.
        turn.correct(right=True)
    elif turn.subject == PYTHON:
        report = turn.time(
            lambda connection: python_rival.import_archive(connection, data.path, KEY),
            lambda: (python_rival.create_store(rig.new_path("python-import.db")),),
            lambda connection: connection.close(),
        )
        turn.correct(right=(report.conversations, report.messages, report.consents) == _counts(data))
    else:
        history = rig.library.History
        stored: list[Any] = []

        def prepare() -> tuple[Any, ExitStack]:
            stack = ExitStack()
            return stack.enter_context(history.open(rig.new_path("import.db"), STORE_KEY)), stack

        def clear(store: Any, stack: ExitStack) -> None:
            stored.append(store.counts())
            stack.close()

        report = turn.time(lambda store, _: store.import_archive(data.path, KEY), prepare, clear)
        found = [(counts.conversations, counts.messages, counts.consents) for counts in (report.new, *stored)]
        turn.correct(right=all(counts == _counts(data) for counts in found))
        rig.new_path("import.db")


@pytest.mark.parametrize(
    "turn", cases("export", LIBRARY, PYTHON, LIBXMTP, limits=BOUNDS["export"]), indirect=True, ids=str
)
def test_export(turn: Turn) -> None:
    """A store into an archive."""
    if turn.time_limit():
        return
    data, rig = turn.data, turn.rig
    target = rig.new_path("export.xmtp")
    if turn.subject == LIBXMTP:
        turn.time_elsewhere(lambda: rig.libxmtp_export(data.messages, target))
    elif turn.subject == PYTHON:
        connection = rig.python_store(data.messages)

        def export() -> None:
            with python_rival.archive_file(target) as sink:
                python_rival.create_archive(connection, sink, KEY, START_NS + SPAN_NS)

        turn.time(export)
        connection.close()
    else:
        history, path = rig.library.History, rig.library_store(data.messages)

        def prepare() -> tuple[Any, ExitStack]:
            stack = ExitStack()
            return stack.enter_context(history.open(path, STORE_KEY)), stack

        turn.time(lambda store, _: store.create_archive(target, KEY), prepare, lambda _, stack: stack.close())
    correct = target.stat().st_size > data.archive_bytes * 0.9
    if turn.case.cycle == 0:
        report = python_rival.decode(target, KEY)
        correct &= (report.conversations, report.messages, report.consents) == _counts(data)
    turn.correct(right=correct, bytes=target.stat().st_size)
    target.unlink()
