"""What the system says about processes that are measured; nothing where it does not say."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def processor_seconds(pids: Iterable[int]) -> float:
    """How long the processor has worked for processes, in all their threads; 0 where nobody knows."""
    fields = [_proc(pid, "stat").rpartition(")")[2].split()[11:13] for pid in pids]
    return sum(sum(map(int, pair)) for pair in fields) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids: Iterable[int]) -> int:
    """The memory that processes have now; 0 where nobody knows."""
    return _status(pids, "VmRSS:")


def peak_bytes(pids: Iterable[int]) -> int:
    """The most memory that processes had, each at its own moment; 0 where nobody knows."""
    return _status(pids, "VmHWM:")


def forget_peak(pids: Iterable[int]) -> None:
    """Makes the peak begin anew, where that is possible."""
    for pid in pids:
        with suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def children(pid: int) -> list[int]:
    """The processes that a process has started; empty where nobody knows."""
    return [int(child) for child in _proc(pid, f"task/{pid}/children").split()]


def _status(pids: Iterable[int], name: str) -> int:
    lines = [line for pid in pids for line in _proc(pid, "status").splitlines() if line.startswith(name)]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def _proc(pid: int, name: str) -> str:
    path = Path(f"/proc/{pid}/{name}")
    return path.read_text() if path.exists() else ""
