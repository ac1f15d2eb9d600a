"""Large files to and from a running history server: 1 GiB with one client, and in parts with 16.

An upload counts until it is answered, and what was answered is durable, on the library's server and on nginx. It is sent
with its length, or in chunks of 4 KiB as libxmtp does.
"""

from __future__ import annotations

from contextlib import closing

import pytest
from plan import FILES, LIBRARY, NGINX, TRANSFER_CLIENTS, server_cases, server_mib
from rig import Turn
from server_load import Download, Outcome
from servers import MIB, Server, Watch, all_at_once, bare_files

#: How often a client gets its file: one the whole, 16 a part each.
TIMES = {1: 2, 16: 4}
_stored: dict[tuple[str, int], list[str]] = {}


def _record(turn: Turn, outcome: Outcome, watch: Watch, *, right: bool) -> None:
    """The time for a MiB, and whether that many clients were at it together."""
    also = watch.facts(turn.case.operation, outcome, MIB)
    right = right and all_at_once(outcome, turn.case.size)
    turn.record(outcome.seconds / (outcome.moved / MIB), right=right, also=also)


def _all_right(turn: Turn, server: Server, ids: list[str]) -> bool:
    bodies = turn.rig.bodies
    return all(bodies.stored_right(server, file_id, part, len(ids)) for part, file_id in enumerate(ids))


def _upload(turn: Turn, *, chunked: bool) -> None:
    clients, rig = turn.case.size, turn.rig
    bodies = rig.bodies
    if turn.subject == FILES:
        seconds, files = bare_files(rig.folder, clients, bodies.size // clients)
        turn.record(seconds / (bodies.size / MIB), right=files == clients)
        return
    with turn.called(), closing(rig.new_server(turn.subject)) as server:
        rig.load.transfers(server, bodies.plain, [bodies.upload(0, server_mib())])
        uploads = [bodies.upload(part, clients, chunked=chunked) for part in range(clients)]
        with Watch(server) as watch:
            outcome = rig.load.transfers(server, bodies.source(chunked=chunked), uploads)
        ids = [file_id for (file_id,) in outcome.ids]
        _record(turn, outcome, watch, right=_all_right(turn, server, ids))


@pytest.mark.parametrize("turn", server_cases("download", TRANSFER_CLIENTS, LIBRARY, NGINX), indirect=True, ids=str)
def test_download(turn: Turn) -> None:
    """From the page cache to clients that throw away what they get."""
    clients, rig = turn.case.size, turn.rig
    server, bodies = rig.server(turn.subject), rig.bodies
    with turn.called():
        if (turn.subject, clients) not in _stored:
            uploads = [bodies.upload(part, clients) for part in range(clients)]
            stored = rig.load.transfers(server, bodies.plain, uploads).ids
            _stored[turn.subject, clients] = [file_id for (file_id,) in stored]
        ids = _stored[turn.subject, clients]
        downloads = [Download(f"/files/{file_id}", bodies.size // clients, TIMES[clients]) for file_id in ids]
        with Watch(server) as watch:
            outcome = rig.load.transfers(server, bodies.plain, downloads=downloads)
        _record(turn, outcome, watch, right=_all_right(turn, server, ids))


@pytest.mark.parametrize(
    "turn", server_cases("upload", TRANSFER_CLIENTS, LIBRARY, NGINX, FILES), indirect=True, ids=str
)
def test_upload(turn: Turn) -> None:
    """With its length."""
    _upload(turn, chunked=False)


@pytest.mark.parametrize(
    "turn", server_cases("upload chunked", TRANSFER_CLIENTS, LIBRARY, NGINX), indirect=True, ids=str
)
def test_upload_in_chunks(turn: Turn) -> None:
    """As libxmtp sends it."""
    _upload(turn, chunked=True)
