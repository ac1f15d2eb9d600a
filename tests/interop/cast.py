"""Everybody who takes part in a script, what they have done, and whether they hold what they should."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from interop import logs
from interop.account import User
from interop.entitlement import Ledger, Path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path as FilePath

    from interop.participants import Held, Participant

#: The library lets through no more than 5,000 requests a minute, and then hangs until it is over.
_PAUSE_SECONDS: Final = 0.05

FIELDS: Final = ("name", "description", "image", "app_data")


class Cast:
    """The installations around a group.

    Attributes:
        group: the group.
        log: what has been done.
    """

    group: str

    def __init__(self, node: str, folder: FilePath) -> None:
        self.log: list[str] = []
        self._begin = time.monotonic()
        self._node = node
        self._folder = folder
        self._ledger = Ledger()
        self._path = Path()
        self._cast: list[Participant] = []
        self._revoked: set[Participant] = set()
        #: Who does not fetch anything for now.
        self._away: set[Participant] = set()
        #: Who is in the group as far as the last one who acted knows, and who of them knows it.
        self._inside: frozenset[str] = frozenset()
        self._ready: set[Participant] = set()
        self._sent: dict[str, Participant] = {}
        #: Message ids by ids at the node, of which one message may have several.
        self._names: dict[int, str] = {}
        #: Texts whose senders have been told that they are sent.
        self._reported: set[str] = set()
        #: What each field may be: more than one after a race.
        self._metadata: dict[str, set[str]] = {field: {""} for field in FIELDS}
        #: What it may also be, as somebody who has given up tries again when it likes.
        self._delayed: dict[str, set[str]] = {field: set() for field in FIELDS}
        self._admins: set[str] = set()

    def close(self) -> None:
        """Ends all processes."""
        for participant in self._cast:
            participant.kill()

    def _join(self, kind: type[Participant], name: str, db: str) -> Participant:
        participant = kind(User(f"{name} {self._folder.name}", self._node, self._folder), db)
        self._cast.append(participant)
        return participant

    def _name(self, inbox: str) -> str:
        return next(each.who for each in self._cast if each.inbox == inbox)

    def _live(self) -> list[Participant]:
        return [each for each in self._cast if each not in self._revoked]

    def _present(self) -> list[Participant]:
        return [each for each in self._live() if each not in self._away]

    def _actors(self) -> list[Participant]:
        """Who can do something in the group."""
        return [each for each in self._present() if each in self._ready and not each.is_ours]

    def _texts(self, sender: Participant, count: int) -> list[str]:
        texts = [f"{sender}: {len(self._sent) + number}" for number in range(count)]
        self._sent.update(dict.fromkeys(texts, sender))
        return texts

    def _send_texts(self, sender: Participant, count: int) -> None:
        texts = self._texts(sender, count)
        sender.send(self.group, *texts)
        self._reported.update(texts)
        self._observe(sender)

    def _sync(self, *participants: Participant) -> None:
        newest = logs.newest(self._node, self.group)
        for participant in participants:
            participant.begin("sync")
        for participant in participants:
            participant.finish()
            self._ledger.note_sync(participant.installation_id, newest)
            if participant.installation_id in self._inside and participant not in self._revoked:
                self._ready.add(participant)

    def _observe(self, actor: Participant) -> None:
        """Notes what somebody who has just acted knows about the group."""
        state = actor.state(self.group)
        installations = self._ledger.note_members(state["epoch"], state["members"])
        self._inside = installations
        self._ready = {each for each in self._ready if each.installation_id in installations}

    def _retire(self, participant: Participant) -> None:
        self._note(f"{participant} is gone for good")
        participant.kill()
        self._cast.remove(participant)
        self._away.discard(participant)

    def _note(self, what: str) -> None:
        self.log.append(f"{time.monotonic() - self._begin:7.2f} s: {what}")

    def _settle(self, present: list[Participant]) -> None:
        """Has everybody fetch until nothing is new."""
        newest = -1
        while newest != logs.newest(self._node, self.group):
            newest = logs.newest(self._node, self.group)
            self._sync(*present)
            time.sleep(_PAUSE_SECONDS)

    def _compare(self) -> None:
        """Compares what everybody who is there has with what it should have."""
        present = [each for each in self._cast if each not in self._away]
        self._settle(present)
        knowing = [each for each in present if each.knows(self.group)]
        states = {each: each.state(self.group) for each in knowing}
        path, framings = self._path, logs.framings(self._node, self.group)
        for each in knowing:
            path.note(each.applied(self.group), framings)
        self._compare_states(present, states, path)
        held = {each: each.messages(self.group) for each in knowing}
        self._compare_messages(present, held, self._message_rights(framings, path, held.values()))
        self._note(f"all is well in epoch {path.last}, with {len(framings)} messages at the node")
        for each in present:
            if each in self._revoked and each.installation_id not in self._inside:
                self._retire(each)

    def _compare_states(self, present: list[Participant], states: dict[Participant, Any], path: Path) -> None:
        active = {each: state for each, state in states.items() if state["is_active"]}
        for each, state in active.items():
            self._ledger.note_members(state["epoch"], state["members"])
            assert state == active[self._first(active)], f"{each} and {self._first(active)} do not agree"
            info = each.do("debug_info", self.group)
            assert (info["epoch"], info["maybe_forked"]) == (path.last, False), f"{each}: {info}"
        state = active[self._first(active)]
        assert state["epoch"] == path.last
        assert state["epoch_authenticator"] == path.authenticators[path.last]
        for field, values in self._metadata.items():
            assert state[field] in values | self._delayed[field], f"{field} is lost"
        assert set(state["admins"]) == self._admins
        self._inside = frozenset(key for keys in state["members"].values() for key in keys)
        for each in present:
            assert (each.installation_id in self._inside) == (each in active), f"whether {each} is a member"
        self._ready = {each for each in active if each not in self._revoked}

    @staticmethod
    def _first(active: Iterable[Participant]) -> Participant:
        return next(iter(active))

    def _message_rights(
        self, framings: list[logs.Framing], path: Path, held: Iterable[dict[str, Held]]
    ) -> dict[str, tuple[set[str], set[str]]]:
        """By message id who must hold it and who may."""
        names = self._names
        for messages in held:
            for message_id, facts in messages.items():
                if facts.sequence_id:
                    assert names.setdefault(facts.sequence_id, message_id) == message_id
        ours = {each.installation_id for each in self._cast if each.is_ours}
        rights: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for sequence_id, entitled in self._ledger.entitled(framings, path).items():
            readers = entitled.must & ours if entitled.is_late else entitled.must
            if sequence_id not in names:
                # Somebody who was killed sends again what others have long had, and tells once he is back.
                assert not readers or self._away, f"nobody can read message {sequence_id}, of all who have to hold it"
                continue
            must, may = rights[names[sequence_id]]
            must |= readers
            may |= entitled.may
        return rights

    def _compare_messages(
        self,
        present: list[Participant],
        held: dict[Participant, dict[str, Held]],
        rights: dict[str, tuple[set[str], set[str]]],
    ) -> None:
        for each in present:
            messages = held.get(each, {})
            own = {message_id for message_id, facts in messages.items() if self._sent.get(facts.text) is each}
            texts = {facts.text for facts in messages.values()}
            lost = {text for text in self._reported if self._sent[text] is each} - texts
            assert not lost, f"{each} does not hold what it sent: {lost}"
            unsent = {messages[message_id] for message_id in own if not messages[message_id].sequence_id}
            assert not {facts.text for facts in unsent} & self._reported, f"{each} has not sent {unsent}"
            missing = {message_id for message_id, (must, _) in rights.items() if each.installation_id in must}
            missing -= messages.keys()
            assert not missing, f"{each} lacks {self._describe(missing, held)}"
            allowed = {message_id for message_id, (_, may) in rights.items() if each.installation_id in may}
            surplus = messages.keys() - allowed - own
            assert not surplus, f"{each} holds {self._describe(surplus, held)}"

    def _describe(self, message_ids: Iterable[str], held: dict[Participant, dict[str, Held]]) -> str:
        everything = {key: facts for messages in held.values() for key, facts in messages.items()}
        epochs = {framing.id: framing.epoch for framing in logs.framings(self._node, self.group)}
        return ", ".join(
            f"{facts.text!r}, message {facts.sequence_id} of epoch {epochs.get(facts.sequence_id)} when it was"
            f" {self._path.epoch_at(facts.sequence_id)}, which {[each for each in held if message_id in held[each]]} have"
            for message_id, facts in everything.items()
            if message_id in message_ids
        )
