"""Starting a node, and keeping it running: the time until it answers, and its memory after many messages."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import plan
import pytest
from h2 import Loop
from node_load import QUERY, Deliveries, ask, group, page_of
from plan import BARE, LIBRARY, PLAIN, STARTUP_CYCLES, node_cases
from rig import Turn

CLIENTS = 64
#: Messages a second to the node whose turn it is while memory is watched, and how often that is done.
RATE = 1_000
EVERY_S = 30.0
MEMORY = "node memory"


@pytest.mark.parametrize(
    "turn", node_cases("first answer", [0], LIBRARY, PLAIN, BARE, turns=STARTUP_CYCLES), indirect=True, ids=str
)
def test_start(turn: Turn) -> None:
    """From starting the process to the answer to its first call; and starting the node inside it, alone."""
    started = time.perf_counter()
    with closing(turn.rig.new_node(turn.subject)) as node, closing(Loop()) as loop:
        ask(loop, node.address, QUERY, page_of(group(0, 0), 1))
        seconds = time.perf_counter() - started
        turn.record(seconds, right=True, also={"start": node.starting})


@pytest.mark.parametrize("turn", node_cases(MEMORY, [CLIENTS], LIBRARY, PLAIN, BARE, turns=1), indirect=True, ids=str)
def test_memory(turn: Turn) -> None:
    """Resident memory while clients send, read and listen for minutes; all nodes at the same time, a second each."""
    if not _watched:
        _watch(turn)
    samples, complete = _watched[turn.subject]
    if not samples[0][1]:
        pytest.skip("this system does not say how much memory another process has")
    # Afterwards everything that is kept for ever has been used once, and everything that grows has begun to.
    settled = next(size for seconds, size in samples if seconds >= samples[-1][0] / 10)
    also = {f"{MEMORY} settled": float(settled), f"{MEMORY} most": float(max(size for _, size in samples))}
    turn.record(1.0, right=complete, also=also, value=samples[-1][1], series=samples)


_watched: dict[str, tuple[list[tuple[float, int]], bool]] = {}


def _watch(turn: Turn) -> None:
    subjects = (LIBRARY, PLAIN, BARE)
    length = 60 * plan.node_minutes()
    with ExitStack() as stack:
        nodes = {subject: stack.enter_context(closing(turn.rig.new_node(subject))) for subject in subjects}
        loop = stack.enter_context(closing(Loop()))
        loads = {
            subject: Deliveries(loop, loop.connect(node.address, CLIENTS), time.time_ns())
            for subject, node in nodes.items()
        }
        samples: dict[str, list[tuple[float, int]]] = {subject: [] for subject in subjects}
        started = time.perf_counter()
        for due in _every(min(EVERY_S, length / 10), length):
            while (now := time.perf_counter() - started) < due:
                for load in loads.values():
                    load.at_rate(RATE, 1.0, load.read)
            for subject, node in nodes.items():
                samples[subject].append((now, node.resident_bytes()))
        _watched.update({subject: (samples[subject], loads[subject].complete) for subject in subjects})


def _every(seconds: float, length: float) -> Iterator[float]:
    due = 0.0
    while due < length:
        due = min(due + seconds, length)
        yield due
