"""How much memory an import and an export take, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from plan import LIBRARY, PYTHON, memory_cases
from rig import Turn


def _measure(turn: Turn, operation: str, archive: Path, store: Path) -> None:
    script = Path(__file__).with_name("memory_child.py")
    command = [sys.executable, str(script), operation, turn.subject, str(archive), str(store)]
    done = turn.time(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    if done.returncode:
        raise RuntimeError(done.stderr)
    answer = json.loads(done.stdout)
    turn.correct(right=True, value=answer["peak"] - answer["idle"], idle=answer["idle"])


@pytest.mark.parametrize("turn", memory_cases("import memory", LIBRARY, PYTHON), indirect=True, ids=str)
def test_import_memory(turn: Turn) -> None:
    """Memory of importing into an empty store."""
    if turn.subject == LIBRARY:
        turn.need_library()
    _measure(turn, "import", turn.data.path, turn.rig.new_path("memory.db"))
    turn.rig.new_path("memory.db")


@pytest.mark.parametrize("turn", memory_cases("export memory", LIBRARY, PYTHON), indirect=True, ids=str)
def test_export_memory(turn: Turn) -> None:
    """Memory of exporting a store."""
    if turn.subject == LIBRARY:
        turn.need_library()
    size, rig = turn.case.size, turn.rig
    if turn.subject == LIBRARY:
        store = rig.library_store(size)
    else:
        rig.python_store(size).close()
        store = rig.folder / f"python-export-{size}.db"
    target = rig.new_path("memory.xmtp")
    _measure(turn, "export", target, store)
    target.unlink()
