"""Files of 4 KiB to and from a running history server, on connections that are kept, and on a new one for each.

Every client sends a request, waits for the answer and sends the next. What was answered is durable, on the library's
server and on nginx. A new connection for every request, and an upload in a chunk, is what libxmtp does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import plan
import pytest
from plan import ACCEPT, FILES, LIBRARY, NGINX, SMALL_CLIENTS, server_cases
from rig import Turn
from server_child import SMALL_BYTES
from server_load import Outcome, Small
from servers import Server, Watch, bare_files

#: How many uploads are looked at again.
SAMPLE = 64
_stored: dict[str, list[str]] = {}


def _measure(
    turn: Turn, server: Server, clients: list[Small], check: Callable[[Outcome], bool], *, fresh: bool
) -> None:
    """All clients keep asking; ``check`` gets what they did."""
    rig, seconds = turn.rig, plan.server_seconds()
    with Watch(server) as watch:
        outcome = rig.load.calls(server, rig.bodies.plain, clients, seconds, fresh=fresh)
    also = watch.facts(turn.case.operation, outcome)
    turn.record(outcome.seconds / outcome.moved, right=check(outcome), also=also)


def _upload(turn: Turn, *, fresh: bool) -> None:
    rig, subject = turn.rig, turn.subject
    if subject == FILES:
        seconds, files = bare_files(rig.folder, turn.case.size, SMALL_BYTES, plan.server_seconds())
        turn.record(seconds / files, right=files >= turn.case.size)
        return
    sent = [Small(client * SMALL_BYTES, SMALL_BYTES, chunked=fresh) for client in range(turn.case.size)]
    with turn.called(), closing(rig.new_server(subject)) as server:

        def check(outcome: Outcome) -> bool:
            ids = [(file_id, client) for client, own in enumerate(outcome.ids) for file_id in own]
            different = len({file_id for file_id, _ in ids}) == len(ids) == outcome.made
            sample = ids[:: max(1, len(ids) // SAMPLE)]
            return subject == ACCEPT or (different and all(rig.bodies.stored_small(server, *one) for one in sample))

        _measure(turn, server, sent, check, fresh=fresh)


def _download(turn: Turn, *, fresh: bool) -> None:
    rig, subject = turn.rig, turn.subject
    server = rig.server(subject)
    with turn.called():
        if subject not in _stored:
            sent = [Small(client * SMALL_BYTES, SMALL_BYTES) for client in range(max(SMALL_CLIENTS))]
            stored = rig.load.calls(server, rig.bodies.plain, sent, 0.0, fresh=False).ids
            _stored[subject] = [own[0] for own in stored]
        got = [
            Small(client * SMALL_BYTES, SMALL_BYTES, f"/files/{file_id}", compared=subject != ACCEPT)
            for client, file_id in enumerate(_stored[subject][: turn.case.size])
        ]
        # Every answer was compared when it came.
        _measure(turn, server, got, lambda outcome: outcome.moved > 0, fresh=fresh)


@pytest.mark.parametrize(
    "turn", server_cases("small upload", SMALL_CLIENTS, LIBRARY, NGINX, ACCEPT, FILES), indirect=True, ids=str
)
def test_upload(turn: Turn) -> None:
    """On connections that are kept, with a length."""
    _upload(turn, fresh=False)


@pytest.mark.parametrize(
    "turn", server_cases("small upload new", SMALL_CLIENTS, LIBRARY, NGINX, ACCEPT, FILES), indirect=True, ids=str
)
def test_upload_on_new_connections(turn: Turn) -> None:
    """On a new connection each, in a chunk."""
    _upload(turn, fresh=True)


@pytest.mark.parametrize(
    "turn", server_cases("small download", SMALL_CLIENTS, LIBRARY, NGINX, ACCEPT), indirect=True, ids=str
)
def test_download(turn: Turn) -> None:
    """On connections that are kept."""
    _download(turn, fresh=False)


@pytest.mark.parametrize(
    "turn", server_cases("small download new", SMALL_CLIENTS, LIBRARY, NGINX, ACCEPT), indirect=True, ids=str
)
def test_download_on_new_connections(turn: Turn) -> None:
    """On a new connection each."""
    _download(turn, fresh=True)
