"""Streams of a running node: how long a message takes from its sender to a stream, and what a thousand streams cost."""

from __future__ import annotations

import itertools
import resource
import time
from contextlib import closing
from statistics import median

import plan
import pytest
from h2 import Loop
from node_load import Deliveries, ManyStreams, Window
from plan import BARE, LIBRARY, NODE_STREAMS, OFFICIAL, PLAIN, node_cases
from rig import Turn

#: Messages a second from all clients together, when they are not to be too many.
RATE = 1_000
CLIENTS = 64
EVERYBODY = (LIBRARY, PLAIN, OFFICIAL, BARE)
_ROUNDS = 7
_runs = itertools.count(time.time_ns())


def _record(turn: Turn, window: Window, *, complete: bool) -> None:
    name = turn.case.operation
    also = {
        f"{name} p50": window.percentile(50),
        f"{name} p99": window.percentile(99),
        f"{name} load": window.own_share,
    }
    turn.record(window.seconds / window.calls, right=complete, also=also)


@pytest.mark.parametrize("turn", node_cases("delivery", [CLIENTS], *EVERYBODY), indirect=True, ids=str)
def test_delivery(turn: Turn) -> None:
    """From sending to the stream, at a rate that leaves the node time."""
    with turn.called(), closing(Loop()) as loop:
        clients = loop.connect(turn.rig.node(turn.subject).address, CLIENTS)
        deliveries = Deliveries(loop, clients, next(_runs))
        deliveries.at_rate(RATE, 0.5)
        window = deliveries.at_rate(RATE, 1.5 * plan.node_seconds())
        _record(turn, window, complete=deliveries.complete)


@pytest.mark.parametrize("turn", node_cases("delivery at once", [CLIENTS], *EVERYBODY), indirect=True, ids=str)
def test_delivery_at_once(turn: Turn) -> None:
    """From sending to the stream, when every client sends again as soon as it has an answer."""
    with turn.called(), closing(Loop()) as loop:
        clients = loop.connect(turn.rig.node(turn.subject).address, CLIENTS)
        deliveries = Deliveries(loop, clients, next(_runs))
        window = deliveries.at_once(1.5 * plan.node_seconds())
        _record(turn, window, complete=deliveries.complete)


@pytest.mark.parametrize(
    "turn", node_cases("open streams", [NODE_STREAMS], *EVERYBODY, turns=3), indirect=True, ids=str
)
def test_many_streams(turn: Turn) -> None:
    """A thousand clients, each with a stream: opening them, one message to all, and one to each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * NODE_STREAMS:
        pytest.skip(f"a process may only have {most} files open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    node, size = turn.rig.new_node(turn.subject), turn.case.size
    with turn.called(), closing(node), closing(Loop()) as loop:
        sender, *clients = loop.connect(node.address, size + 1)
        before = node.resident_bytes()
        streams = ManyStreams(loop, clients, sender, next(_runs))
        opened = node.resident_bytes() - before
        to_all = [streams.one_to_all() for _ in range(_ROUNDS)]
        to_each = [streams.one_to_each() for _ in range(_ROUNDS)]
        also = {
            name: median(seconds for seconds, _ in found) for name, found in (("to all", to_all), ("to each", to_each))
        }
        if before:
            also["stream memory"] = opened / size
        turn.record(streams.opening, right=all(right for _, right in to_all + to_each), also=also)
