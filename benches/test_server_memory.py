"""A history server's memory while 200 clients transfer 64 MiB each: up, down, and half of them each way."""

from __future__ import annotations

from contextlib import closing

import pytest
from plan import CROWD, LIBRARY, crowd_cases
from rig import Turn
from server_load import Download
from servers import MIB, PARTS, Watch, all_at_once

#: One in so many uploads is looked at whole. They are of different parts, because that is odd.
SAMPLED = 13


def _measure(turn: Turn, uploading: int, downloading: int) -> None:
    """All of them at once. Downloads beside uploads are repeated, because they are over sooner."""
    rig, bodies, name = turn.rig, turn.rig.bodies, turn.case.operation
    with turn.called(), closing(rig.new_server(turn.subject)) as server:
        paths = []
        if downloading:
            first = [bodies.upload(part, PARTS) for part in range(PARTS)]
            paths = [f"/files/{file_id}" for (file_id,) in rig.load.transfers(server, bodies.plain, first).ids]
        times = 2 if uploading else 1
        downloads = [Download(paths[at % PARTS], bodies.size // PARTS, times) for at in range(downloading)]
        uploads = [bodies.upload(at % PARTS, PARTS, chunked=True) for at in range(uploading)]
        with Watch(server) as watch:
            outcome = rig.load.transfers(server, bodies.source(chunked=True), uploads, downloads)
        if not watch.peak:
            pytest.skip("this system does not say how much memory another process has")
        ids = [file_id for (file_id,) in outcome.ids]
        right = (
            all_at_once(outcome, uploading + downloading)
            and len(set(ids)) == uploading
            and all(server.size(file_id) == bodies.size // PARTS for file_id in ids)
            and all(bodies.stored_right(server, ids[at], at % PARTS, PARTS) for at in range(0, uploading, SAMPLED))
        )
        also = {
            f"{name} afterwards": float(watch.resident),
            f"{name} time": outcome.seconds / (outcome.moved / MIB),
            f"{name} load": outcome.used / outcome.seconds,
        }
        turn.record(1.0, right=right, also=also, value=float(watch.peak))


@pytest.mark.parametrize("turn", crowd_cases("memory up", LIBRARY), indirect=True, ids=str)
def test_uploads(turn: Turn) -> None:
    """All upload, in chunks of 4 KiB."""
    _measure(turn, CROWD, 0)


@pytest.mark.parametrize("turn", crowd_cases("memory down", LIBRARY), indirect=True, ids=str)
def test_downloads(turn: Turn) -> None:
    """All download."""
    _measure(turn, 0, CROWD)


@pytest.mark.parametrize("turn", crowd_cases("memory both", LIBRARY), indirect=True, ids=str)
def test_both(turn: Turn) -> None:
    """Half of them each."""
    _measure(turn, CROWD // 2, CROWD // 2)
