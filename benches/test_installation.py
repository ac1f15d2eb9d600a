"""What an installation does: receiving messages, joining groups, opening, and verifying identity logs.

The work itself is in ``installation.rs``, which says how long it took; what two installations do against a node is here.
"""

from __future__ import annotations

import itertools
from contextlib import closing

import installations
import pytest
from lines import Unavailable
from plan import (
    COMMITS,
    FOLLOW_CYCLES,
    GROUP_MEMBERS,
    LIBRARY,
    LIBXMTP,
    MANY_GROUPS,
    OPENMLS,
    RECEIVED,
    SIGNATURES,
    SQLCIPHER,
    STORING,
    VERIFY,
    installation_cases,
)
from rig import Turn

_followers = itertools.count(1)


def _measure(turn: Turn, task: str) -> None:
    """Does a task of ``installation.rs``; the figure is of one of as many as it does."""
    figure = turn.rig.native.figure(task)
    also = {f"{turn.case.operation} processor": figure.processor / figure.count} if figure.processor else {}
    turn.record(figure.seconds / figure.count, right=figure.right, also=also)


@pytest.mark.parametrize(
    "turn",
    installation_cases("receive", GROUP_MEMBERS, LIBRARY, OPENMLS, VERIFY, STORING, COMMITS),
    indirect=True,
    ids=str,
)
def test_receive(turn: Turn) -> None:
    """Pages of 100 messages in a group, each page a transaction; the figure is of one message."""
    tasks = {LIBRARY: f"receive {turn.case.size}", OPENMLS: f"process {turn.case.size}"}
    tasks |= {VERIFY: "verify", STORING: "store", COMMITS: "commit"}
    _measure(turn, tasks[turn.subject])


@pytest.mark.parametrize("turn", installation_cases("receive memory", GROUP_MEMBERS, LIBRARY), indirect=True, ids=str)
def test_receive_memory(turn: Turn) -> None:
    """The most memory of a process that receives all messages and did nothing else."""
    figure = turn.rig.native.alone(f"receive {turn.case.size}")
    turn.record(figure.seconds, right=figure.right, value=figure.peak)


@pytest.mark.parametrize("turn", installation_cases("join", [100], LIBRARY, OPENMLS), indirect=True, ids=str)
def test_join(turn: Turn) -> None:
    """Joining a group whose members' identity logs are known."""
    _measure(turn, "join known" if turn.subject == LIBRARY else "join bare")


@pytest.mark.parametrize("turn", installation_cases("join unknown", [100], LIBRARY), indirect=True, ids=str)
def test_join_unknown(turn: Turn) -> None:
    """Joining a group whose members' identity logs have to be verified first."""
    _measure(turn, "join unknown")


@pytest.mark.parametrize("turn", installation_cases("open", [MANY_GROUPS], LIBRARY, SQLCIPHER), indirect=True, ids=str)
def test_open(turn: Turn) -> None:
    """Opening an installation in many groups, and listing them."""
    _measure(turn, "open" if turn.subject == LIBRARY else "open bare")


@pytest.mark.parametrize("turn", installation_cases("build", [MANY_GROUPS], LIBRARY), indirect=True, ids=str)
def test_build(turn: Turn) -> None:
    """``Client.build`` on the same, in a new process that has imported everything."""
    turn.need_library()
    seconds, count = installations.build_seconds(*turn.rig.native.crowded())
    turn.record(seconds, right=count == MANY_GROUPS)


@pytest.mark.parametrize("what", ["many", "one"])
@pytest.mark.parametrize("turn", installation_cases("fold", [0], LIBRARY, SIGNATURES), indirect=True, ids=str)
def test_fold(turn: Turn, what: str) -> None:
    """Folding the logs of 250 inboxes with four updates each, or one with as many as a node takes."""
    turn.named(f"fold {what}")
    _measure(turn, f"fold {what}" if turn.subject == LIBRARY else f"recover {what}")


@pytest.mark.parametrize("what", ["many", "one"])
@pytest.mark.parametrize("turn", installation_cases("ingest", [0], LIBRARY), indirect=True, ids=str)
def test_ingest(turn: Turn, what: str) -> None:
    """The same as an answer of a node: decoded, verified and stored."""
    turn.named(f"ingest {what}")
    _measure(turn, f"ingest {what}")


@pytest.mark.parametrize(
    "turn",
    installation_cases("follow", GROUP_MEMBERS, LIBRARY, LIBXMTP, turns=FOLLOW_CYCLES),
    indirect=True,
    ids=str,
)
def test_follow(turn: Turn) -> None:
    """An installation that is added to a group on a node, and then fetches its messages; the figure is of one message."""
    if turn.subject == LIBRARY:
        turn.need_library()
    rig, members = turn.rig, turn.case.size
    host, port = rig.node(LIBRARY).address
    node, native = f"http://{host}:{port}", rig.native
    try:
        database = rig.new_path(f"follower-{next(_followers)}.db3")
        with closing(installations.Follower(turn.subject, node, database)) as follower:
            group_id = native.invite(node, follower, members)
            joining, groups = follower.join()
            native.say(node, RECEIVED)
            seconds, count, peak = follower.sync(group_id)
    except Unavailable as reason:
        if turn.subject == LIBRARY:
            raise
        pytest.skip(str(reason))
    also = {"follow join": joining, "follow peak": float(peak)}
    turn.record(seconds / RECEIVED, right=groups == 1 and count == RECEIVED, also=also)
