"""Who is entitled to which message of a group: the members of the epoch in which it was encrypted.

What the model knows is what the node tells everybody (the order of messages, the epoch of each), what the members say
about the path of commits that led from epoch to epoch, and who was in the group then. Nothing is taken from those who are
to hold a message. Where the protocol leaves it open whether somebody gets one, the model allows both:

* a message that arrives at the node when its epoch is long over, or when its reader is out already;
* a message that was not fetched before its reader was removed and added again: the new welcome takes him past it.

A message that arrives when its epoch is just over can be read, but libxmtp 1.10 fails to ("Sender is not part of the
group") or not, depending on whether others have left places in the tree empty: its MLS library takes the sender's place in
the tree for one in the list of members. The model says which messages are late, so that only others have to hold them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from interop.database import Commit
    from interop.logs import Framing

#: Keys of as many past epochs are kept, and what comes later than that is sent again.
PAST_EPOCHS: Final = 3

#: What can change who is in a group. Other commits leave it as it is.
_CHANGES: Final = frozenset({"UpdateGroupMembership", "Welcome", None})


class Entitled(NamedTuple):
    """Who may hold a message.

    Attributes:
        must: installations that have to hold it.
        may: installations that may.
        is_late: whether its epoch was over when it arrived.
    """

    must: frozenset[str]
    may: frozenset[str]
    is_late: bool


class _Stay(NamedTuple):
    """An installation's time in a group: its first and last epoch, and between which ids at the node that was."""

    first: int
    last: int
    begin: float
    end: float


class Ledger:
    """Who was where when, noted down while it happens."""

    def __init__(self) -> None:
        self._members: dict[int, frozenset[str]] = {}
        self._synced: dict[str, list[int]] = defaultdict(list)

    def note_members(self, epoch: int, members: dict[str, list[str]]) -> frozenset[str]:
        """Somebody who is in an epoch says which installations are in the group."""
        installations = frozenset(key for keys in members.values() for key in keys)
        assert self._members.setdefault(epoch, installations) == installations, f"two opinions about epoch {epoch}"
        return installations

    def note_sync(self, installation_id: str, newest: int) -> None:
        """An installation has fetched everything up to some id at the node."""
        self._synced[installation_id].append(newest)

    def entitled(self, framings: list[Framing], path: Path) -> dict[int, Entitled]:
        """Who is entitled to the messages of a group, by their ids at the node."""
        least, most = self._bounds(path)
        stays = {key: list(_stays(key, most, path)) for key in frozenset().union(*most.values())}
        out = {}
        for framing in framings:
            if framing.is_commit or framing.epoch not in most:
                continue
            may = most[framing.epoch]
            age = path.epoch_at(framing.id) - framing.epoch
            readers = () if age >= PAST_EPOCHS else least[framing.epoch]
            must = frozenset(key for key in readers if self._gets(key, framing, stays[key]))
            out[framing.id] = Entitled(must, may, age > 0)
        return out

    def _gets(self, key: str, framing: Framing, stays: list[_Stay]) -> bool:
        later = [stay for stay in stays if stay.last >= framing.epoch]
        if framing.id > later[0].end:
            return False
        if len(later) == 1:
            return True
        return any(framing.id <= position < later[1].begin for position in self._synced[key])

    def _bounds(self, path: Path) -> tuple[dict[int, frozenset[str]], dict[int, frozenset[str]]]:
        """Who was in each epoch at least and at most; they differ where nobody has looked at a change."""
        least: dict[int, frozenset[str]] = {}
        most: dict[int, frozenset[str]] = {}
        for epoch in range(path.last + 1):
            if epoch in self._members:
                least[epoch] = most[epoch] = self._members[epoch]
            elif epoch and path.kinds[epoch] not in _CHANGES:
                least[epoch], most[epoch] = least[epoch - 1], most[epoch - 1]
            else:
                following = next((self._members[later] for later in sorted(self._members) if later > epoch), None)
                before = most.get(epoch - 1, frozenset())
                least[epoch] = before if following is None else before & following
                most[epoch] = before if following is None else before | following
        return least, most


class Path:
    """The commits that led a group from epoch to epoch.

    Attributes:
        ids: of the commit that led to each epoch, at the node.
        kinds: of these commits.
        authenticators: of the epochs.
    """

    def __init__(self) -> None:
        self.ids: dict[int, int] = {0: 0}
        self.kinds: dict[int, str | None] = {0: "GroupCreation"}
        self.authenticators: dict[int, str] = {}

    @property
    def last(self) -> int:
        return max(self.ids)

    def note(self, log: Iterable[Commit], framings: Iterable[Framing]) -> None:
        """Somebody says which commits it has followed; the node has all of them."""
        for commit in log:
            known = self.authenticators.setdefault(commit.epoch, commit.authenticator)
            assert known == commit.authenticator, f"the group is forked in epoch {commit.epoch}"
            if commit.sequence_id:
                known_id = self.ids.setdefault(commit.epoch, commit.sequence_id)
                assert known_id == commit.sequence_id, f"two commits lead to epoch {commit.epoch}"
                self.kinds[commit.epoch] = commit.kind
        # Those who are there may all have come by welcomes.
        for framing in framings:
            if framing.is_commit and framing.epoch < max(self.authenticators):
                self.ids.setdefault(framing.epoch + 1, framing.id)
                self.kinds.setdefault(framing.epoch + 1, None)
        assert sorted(self.ids) == list(range(self.last + 1)), "there are commits that the node does not have"

    def epoch_at(self, position: int) -> int:
        """The epoch of the group once the node has a message."""
        return max(epoch for epoch, commit_id in self.ids.items() if commit_id <= position)


def _stays(key: str, members: dict[int, frozenset[str]], path: Path) -> Iterable[_Stay]:
    first = None
    for epoch in range(path.last + 2):
        inside = key in members.get(epoch, ())
        if inside and first is None:
            first = epoch
        elif not inside and first is not None:
            yield _Stay(first, epoch - 1, path.ids[first], path.ids.get(epoch, math.inf))
            first = None
