"""A random script for an ordinary group: what may happen to one in an hour, in seconds, and who holds what in the end.

Two real inboxes make a group; a third one comes and goes; more installations of all of them come and are revoked. They
send, rename, appoint admins, are killed in the middle of it and start again, do not fetch anything for long, or are away.
Installations of this library, if there are any, listen. A phase of the script ends with everybody fetching until nothing
is new; then everybody has to hold every message that it is entitled to and no other (see interop.entitlement), and the
members have to be in the same epoch with the same keys and agree about everything else.

The steps are drawn from a seed. Where the library is free, as in races, two runs of a seed differ.

By hand: ``XMTP_SCRIPT_STEPS=2000 XMTP_SCRIPT_SEED=7 pytest -rP tests/interop/test_script.py``. A failure tells seed, steps
and the node's messages; RUST_LOG=xmtp_mls::groups::mls_sync=info has the clients' logs beside their databases.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from interop import logs
from interop.account import RealFailsError
from interop.cast import FIELDS, Cast
from interop.participants import OurParticipant, Participant, RealParticipant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Steps between two comparisons.
PHASE_STEPS: Final = 25

#: Installations of an inbox that are not revoked.
DEVICES: Final = 3


class Script(Cast):
    """One run.

    Attributes:
        counts: how often each step has been done.
    """

    def __init__(self, seed: int, node: str, folder: Path, *, ours: bool = False) -> None:
        """Makes the group.

        Args:
            seed: of all that is random.
            node: where everybody is.
            folder: for databases.
            ours: whether installations of this library take part, as an inbox of its own and as another installation
                of an inbox of real ones.
        """
        super().__init__(node, folder)
        self.counts: dict[str, int] = defaultdict(int)
        self._seed = seed
        self._choose = random.Random(seed)
        self._devices: dict[str, int] = defaultdict(lambda: 1)
        self._kinds: list[type[Participant]] = [RealParticipant, OurParticipant] if ours else [RealParticipant]
        self._actions: list[tuple[int, Callable[[], bool]]] = [
            (10, self._send),
            (4, self._burst),
            (3, self._chorus),
            (6, self._change_guest),
            (6, self._change_metadata),
            (2, self._race),
            (3, self._change_admin),
            (4, self._start_device),
            (4, self._look_again),
            (3, self._revoke),
            (3, self._restart),
            (2, self._kill_while_sending),
            (8, self._fetch),
        ]
        alice, bob, self._carol = (self._join(RealParticipant, name, "1") for name in ("alice", "bob", "carol"))
        self._owner = alice
        self._guests = [self._carol.inbox]
        if ours:
            self._guests.append(self._join(OurParticipant, "olive", "1").inbox)
            self._join(OurParticipant, "bob", "ours")
        self.group: str = alice.do("group", [bob.inbox, *self._guests[1:]])
        self._observe(alice)
        for participant in self._cast:
            self._sync(participant)

    def run(self, steps: int) -> None:
        """Goes through so many steps, and compares now and then.

        Raises:
            AssertionError: somebody lacks something, or holds what it should not.
        """
        try:
            while (done := sum(self.counts.values())) < steps:
                self._phase(min(PHASE_STEPS, steps - done))
            self._come_back(everybody=True)
            self._compare()
        except Exception as error:
            error.add_note(f"seed {self._seed}:\n" + "\n".join(self.log))
            error.add_note(f"at the node: {logs.framings(self._node, self.group)}")
            raise

    # --- phases --------------------------------------------------------------------------------------------------------

    def _phase(self, steps: int) -> None:
        self._go_away()
        for _ in range(steps):
            action = self._draw()
            while not action():
                action = self._draw()
            self.counts[action.__name__.lstrip("_")] += 1
        self._come_back()
        self._compare()

    def _draw(self) -> Callable[[], bool]:
        weights = [weight for weight, _ in self._actions]
        return self._choose.choices(self._actions, weights)[0][1]

    def _go_away(self) -> None:
        """Has some not fetch anything, or not run at all. Somebody has to be there to act."""
        for participant in self._live():
            if len(self._actors()) > 2 and participant not in self._away and self._choose.random() < 0.2:
                self._away.add(participant)
                offline = self._choose.random() < 0.5
                self._note(f"{participant} {'is offline' if offline else 'does not fetch'}")
                if offline:
                    participant.kill()

    def _come_back(self, *, everybody: bool = False) -> None:
        for participant in self._cast:
            if participant in self._away and (everybody or self._choose.random() < 0.7):
                self._away.discard(participant)
                self._note(f"{participant} is back")
                if not participant.is_running:
                    participant.restart()

    # --- what happens --------------------------------------------------------------------------------------------------

    def _send(self) -> bool:
        sender = self._actor()
        self._note(f"{sender} sends")
        self._send_texts(sender, 1)
        return True

    def _burst(self) -> bool:
        sender = self._actor()
        self._note(f"{sender} sends many")
        self._send_texts(sender, self._choose.randint(3, 15))
        return True

    def _chorus(self) -> bool:
        """Everybody sends at once."""
        senders = self._actors()
        self._note(f"{senders} send at once")
        texts = {sender: self._texts(sender, self._choose.randint(1, 4)) for sender in senders}
        for sender in senders:
            sender.begin("send_each", [self.group], texts[sender])
        for sender in senders:
            if self._succeeds(sender):
                self._reported.update(texts[sender])
        for sender in senders:
            self._observe(sender)
        return True

    def _change_guest(self) -> bool:
        """Adds an inbox or takes it out."""
        guest = self._choose.choice(self._guests)
        admins = {self._owner.inbox, *self._admins}
        inside = any(each.installation_id in self._inside for each in self._cast if each.inbox == guest)
        actor = self._actor(lambda each: each.inbox != guest and (not inside or each.inbox in admins))
        if actor is None:
            return False
        self._note(f"{actor} {'removes' if inside else 'adds'} {self._name(guest)}")
        actor.do("remove_members" if inside else "add_members", self.group, [guest])
        self._observe(actor)
        return True

    def _change_metadata(self) -> bool:
        actor, field = self._actor(), self._choose.choice(FIELDS)
        value = f"{field} {self._choose.random()}"
        self._note(f"{actor} changes {field}")
        actor.do("update_metadata", self.group, field, value)
        self._metadata[field] = {value}
        self._observe(actor)
        return True

    def _race(self) -> bool:
        """Two change the same thing at once."""
        actors = self._actors()
        if len(actors) < 2:
            return False
        actors = self._choose.sample(actors, 2)
        field = self._choose.choice(FIELDS)
        values = [f"{field} {self._choose.random()}" for _ in actors]
        self._note(f"{actors} change {field} at once")
        for actor, value in zip(actors, values, strict=True):
            actor.begin("update_metadata", self.group, field, value)
        before, self._metadata[field] = self._metadata[field], set(values)
        for actor, value in zip(actors, values, strict=True):
            if not self._succeeds(actor):
                self._delayed[field] |= {value, *before}
        for actor in actors:
            self._observe(actor)
        return True

    def _change_admin(self) -> bool:
        owner = self._actor(lambda each: each.inbox == self._owner.inbox)
        others = list(
            dict.fromkeys(each.inbox for each in self._cast if each in self._ready and each.who != self._owner.who)
        )
        if owner is None or not others:
            return False
        inbox = self._choose.choice(others)
        step = "remove_admin" if inbox in self._admins else "add_admin"
        self._note(f"{owner}: {step} {self._name(inbox)}")
        owner.do(step, self.group, inbox)
        self._admins ^= {inbox}
        self._observe(owner)
        return True

    def _start_device(self) -> bool:
        """Starts another installation. It gets into the group once somebody looks, or sends after a while."""
        who = self._choose.choice(
            [each.who for each in self._cast if each.name == f"{each.who} 1" and not each.is_ours]
        )
        devices = [each for each in self._live() if each.who == who]
        if len(devices) >= DEVICES:
            return False
        self._devices[who] += 1
        self._note(f"{who} {self._devices[who]} is new")
        self._join(self._choose.choice(self._kinds), who, str(self._devices[who]))
        return True

    def _look_again(self) -> bool:
        """A member looks whether an inbox has other installations than it had."""
        inboxes = list(dict.fromkeys(each.inbox for each in self._cast if each.installation_id in self._inside))
        actor, inbox = self._actor(), self._choose.choice(inboxes)
        self._note(f"{actor} looks at {self._name(inbox)}")
        actor.do("add_members", self.group, [inbox])
        self._observe(actor)
        return True

    def _revoke(self) -> bool:
        devices = [each for each in self._live() if not each.name.endswith(" 1")]
        if not devices:
            return False
        device = self._choose.choice(devices)
        first = next(each for each in self._cast if each.inbox == device.inbox)
        if not first.is_running:
            return False
        self._note(f"{first} revokes {device}")
        first.do("revoke_installations", [device.installation_id])
        self._revoked.add(device)
        self._ready.discard(device)
        if device.is_ours:
            # It notices by itself and does nothing any more, while real ones go on until they are put out of the group.
            self._retire(device)
        return True

    def _restart(self) -> bool:
        participant = self._choose.choice(self._present())
        self._note(f"{participant} restarts")
        participant.restart()
        return True

    def _kill_while_sending(self) -> bool:
        """It may have sent some, without having been told."""
        sender = self._actor()
        self._note(f"{sender} is killed while it sends")
        sender.begin("send_each", [self.group], self._texts(sender, 20))
        time.sleep(self._choose.uniform(0, 0.3))
        sender.restart()
        self._observe(sender)
        return True

    def _fetch(self) -> bool:
        participant = self._choose.choice(self._present())
        self._note(f"{participant} fetches")
        self._sync(participant)
        return True

    # --- who can ---------------------------------------------------------------------------------------------------------

    def _actor(self, may: Callable[[Participant], bool] = lambda _: True) -> Any:
        """Somebody who can do something in the group; may be up to date."""
        actors = [each for each in self._actors() if may(each)]
        if not actors:
            return None
        actor = self._choose.choice(actors)
        if self._choose.random() < 0.5:
            self._sync(actor)
        return actor

    def _succeeds(self, actor: Participant) -> bool:
        """Whether somebody succeeds with what others do at the same time.

        After three lost races libxmtp reports a failure. It keeps what it was to do, and does it when it fetches next.
        """
        try:
            actor.finish()
        except RealFailsError as error:
            if "Sync failed to wait for intent" not in str(error):
                raise
            self._note(f"{actor} gives up for now")
            return False
        return True
