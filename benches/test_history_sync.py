"""A new installation gets the history of an old one: from asking for it to the last message, with all that is in between."""

from __future__ import annotations

import history_sync
import pytest
from lines import Unavailable
from plan import LIBRARY, LIBXMTP, NEW_LIBXMTP, OLD_LIBXMTP, history_sync_cases
from rig import Turn


@pytest.mark.parametrize(
    "turn",
    history_sync_cases("history sync", LIBRARY, OLD_LIBXMTP, NEW_LIBXMTP, LIBXMTP),
    indirect=True,
    ids=str,
)
def test_history_sync(turn: Turn) -> None:
    """Both are on the network, and have met; what each takes is measured beside the time."""
    if turn.subject == LIBRARY:
        turn.need_library()
    try:
        outcome = history_sync.sync(turn.subject, turn.case.size, turn.rig.folder)
    except Unavailable as reason:
        if turn.subject == LIBRARY:
            raise
        pytest.skip(str(reason))
    name = turn.case.operation
    also = {f"{name} {step}": seconds for step, seconds in outcome.steps.items()}
    also |= {f"{name} {side} memory": float(taken) for side, taken in zip(("old", "new"), outcome.memory, strict=True)}
    turn.record(outcome.seconds, right=outcome.count == turn.case.size, also=also)
