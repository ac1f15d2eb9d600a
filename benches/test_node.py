"""Calls to a running node: sending messages of 1 KiB, and reading them back, with 1, 8 and 64 clients.

Every client has a connection of its own, sends a request, waits for the answer and sends the next. What the library's
node has answered is on the disk. The official node is whatever listens where ``BENCH_OFFICIAL_NODE`` says.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import closing
from itertools import repeat

import plan
import pytest
from bare_node import ANSWER
from h2 import Loop
from node_load import (
    MESSAGE_BYTES,
    QUERY,
    SEND,
    Messages,
    Window,
    ask,
    count_messages,
    group,
    in_turn,
    keep_calling,
    page_of,
    sending,
)
from nodes import bare_inserts, bare_syncs
from plan import BARE, DISK, LIBRARY, NODE_CLIENTS, OFFICIAL, PLAIN, SQLITE, node_cases
from rig import Turn

SEVERAL = 16
#: Messages in each group that is read; a page has at most 100.
STORED = 13 * SEVERAL
EVERYBODY = (LIBRARY, PLAIN, OFFICIAL, BARE)
_runs = itertools.count(time.time_ns())
_filled: dict[str, int] = {}


def _measure(turn: Turn, path: str, requests: list[Callable[[], bytes]], check: Callable[[Window, int], bool]) -> None:
    """Every client keeps calling. ``check`` gets what counts and the number of calls that were made in all."""
    node, name = turn.rig.node(turn.subject), turn.case.operation
    with turn.called(), closing(Loop()) as loop:
        clients = loop.connect(node.address, len(requests))
        before = node.processor_seconds()
        window, made = keep_calling(loop, clients, path, requests, plan.node_seconds())
        used = node.processor_seconds() - before
    also = {f"{name} p99": window.percentile(99), f"{name} load": window.own_share}
    if used:
        also[f"{name} processor"] = used / made
    turn.record(window.seconds / window.calls, right=check(window, made), also=also)


def _send(turn: Turn, each: int) -> None:
    clients, rig = turn.case.size, turn.rig
    if turn.subject == SQLITE:
        seconds, rows = bare_inserts(rig.node(LIBRARY).database, rig.folder, clients * each, plan.node_seconds())
        turn.record(seconds / rows * each, right=rows > 0)
        return
    run = next(_runs)
    groups = [group(client, run) for client in range(clients)]
    messages = [Messages(group_id, client, clients, each) for client, group_id in enumerate(groups)]

    def check(_: Window, made: int) -> bool:
        return turn.subject == BARE or count_messages(rig.node(turn.subject).address, groups) == made * each

    _measure(turn, SEND, [own.next_request for own in messages], check)


def _query(turn: Turn, limit: int) -> None:
    run = _stored(turn)
    requests = [page_of(group(client, run), limit) for client in range(turn.case.size)]
    if turn.subject == BARE:
        with closing(Loop()) as loop:
            page = ask(loop, turn.rig.node(LIBRARY).address, QUERY, requests[0])
            ask(loop, turn.rig.node(BARE).address, ANSWER, page)

    def check(window: Window, _: int) -> bool:
        return window.received >= window.calls * limit * MESSAGE_BYTES

    _measure(turn, QUERY, [repeat(request).__next__ for request in requests], check)


def _stored(turn: Turn) -> int:
    """The run whose groups hold messages to read, on the node of this turn; on the library's, if it keeps none."""
    subject = LIBRARY if turn.subject == BARE else turn.subject
    if subject not in _filled:
        node, run = turn.rig.node(subject), next(_runs)
        with turn.called(), closing(Loop()) as loop:
            clients = loop.connect(node.address, max(NODE_CLIENTS))
            for client, connection in enumerate(clients):
                messages = Messages(group(client, run), 0, 1, SEVERAL)
                in_turn(loop, [sending(connection, messages.next_request()) for _ in range(STORED // SEVERAL)])
        _filled[subject] = run
    return _filled[subject]


@pytest.mark.parametrize("turn", node_cases("send", NODE_CLIENTS, *EVERYBODY, SQLITE), indirect=True, ids=str)
def test_send(turn: Turn) -> None:
    """One message in a call."""
    _send(turn, 1)


@pytest.mark.parametrize("turn", node_cases("send 16", NODE_CLIENTS, *EVERYBODY, SQLITE), indirect=True, ids=str)
def test_send_several(turn: Turn) -> None:
    """Sixteen messages in a call."""
    _send(turn, SEVERAL)


@pytest.mark.parametrize("turn", node_cases("query 100", NODE_CLIENTS, *EVERYBODY), indirect=True, ids=str)
def test_query(turn: Turn) -> None:
    """A page of 100 messages."""
    _query(turn, 100)


@pytest.mark.parametrize("turn", node_cases("query 1", NODE_CLIENTS, *EVERYBODY), indirect=True, ids=str)
def test_query_one(turn: Turn) -> None:
    """A page of one message."""
    _query(turn, 1)


@pytest.mark.parametrize("turn", node_cases("sync", [0], DISK), indirect=True, ids=str)
def test_sync(turn: Turn) -> None:
    """The disk alone: a page is written over, and waited for."""
    seconds, syncs = bare_syncs(turn.rig.folder, plan.node_seconds() / 2)
    turn.record(seconds / syncs, right=syncs > 0)
