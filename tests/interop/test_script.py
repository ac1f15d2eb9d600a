"""A group in which everything happens, for a while; everybody holds what it is entitled to.

``XMTP_SCRIPT_STEPS`` and ``XMTP_SCRIPT_SEED`` make it longer, and another one.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys

import pytest

from interop import logs
from interop.database import Commit
from interop.entitlement import Ledger, Path
from interop.script import Script
from xmtp_history.testing import LocalXmtp

_STEPS = int(os.environ.get("XMTP_SCRIPT_STEPS", "60"))
_SEED = int(os.environ.get("XMTP_SCRIPT_SEED", "1"))


@pytest.mark.parametrize("ours", [False, True], ids=["real clients only", "ours listens"])
def test_everybody_holds_what_it_is_entitled_to(node: LocalXmtp, tmp_path: pathlib.Path, ours: bool) -> None:
    with contextlib.closing(Script(_SEED, node.node_url, tmp_path, ours=ours)) as script:
        script.run(_STEPS)
    # Shown by pytest -rP, and where the test fails.
    sys.stdout.write("\n".join([*script.log, str(dict(script.counts))]))


def _commit(epoch: int) -> Commit:
    """What leads to an epoch; its id at the node is ten times the epoch."""
    return Commit(10 * epoch, 1, epoch, f"{epoch - 1}", f"{epoch}", "UpdateGroupMembership", None, None)


def test_the_model_knows_who_is_entitled() -> None:
    """Alice stays, bob comes with epoch 1, goes with 3 and comes back with 5."""
    both, alone = {"a": ["alice"], "b": ["bob"]}, {"a": ["alice"]}
    ledger = Ledger()
    for epoch, members in enumerate([alone, both, both, alone, alone, both]):
        ledger.note_members(epoch, members)
    sent = {5: 0, 15: 1, 25: 2, 26: 1, 35: 3, 36: 2, 45: 4, 46: 1, 55: 5}
    framings = [logs.Framing(10 * epoch, epoch - 1, True) for epoch in range(1, 6)]
    framings += [logs.Framing(number, epoch, False) for number, epoch in sent.items()]
    path = Path()
    path.note([_commit(epoch) for epoch in range(1, 6)], framings)
    assert [path.epoch_at(number) for number in (9, 10, 59)] == [0, 1, 5]

    def rights() -> tuple[list[int], list[int], list[int]]:
        entitled = ledger.entitled(framings, path)
        alice = [number for number, who in entitled.items() if "alice" in who.must]
        must = [number for number, who in entitled.items() if "bob" in who.must]
        return alice, must, [number for number, who in entitled.items() if "bob" in who.may]

    # Message 46 comes three epochs late. Bob has fetched nothing before he was added again.
    assert rights() == ([5, 15, 25, 26, 35, 36, 45, 55], [55], [15, 25, 26, 36, 46, 55])
    ledger.note_sync("bob", 25)
    assert rights()[1] == [15, 25, 55]
    ledger.note_sync("bob", 49)
    assert rights()[1] == [15, 25, 26, 55]
    assert [number for number, who in ledger.entitled(framings, path).items() if who.is_late] == [26, 36, 46]
