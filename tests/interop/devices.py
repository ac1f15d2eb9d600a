"""Installations of an inbox, some of whom have talked to others before other ones came."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from independent.protobuf import wire_fields
from interop.account import OURS, Installation, User, account_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xmtp_history.testing import LocalXmtp

#: Everything that devices do here takes a second or two, and a retry that they have to wait for some seconds.
DEADLINE_SECONDS: Final = 30

#: The library lets through no more than 5,000 requests a minute, and then hangs until it is over.
_PAUSE_SECONDS: Final = 0.05

#: In so many rounds nothing has to be new for there to be nothing on its way.
_QUIET_ROUNDS: Final = 10

#: Numbers in DeviceSyncContent.
REQUEST: Final = 1
REPLY: Final = 3
PREFERENCES: Final = 4
NOTICE: Final = 10417

#: Messages in each of the conversations.
MESSAGES: Final = 10


class Talk(NamedTuple):
    """What the first installation has by the time the second one comes."""

    first: Installation
    bob: Installation
    bob_inbox: str
    group: str
    dm: str


def talk_of(first: Installation, bob: Installation) -> Talk:
    """Has the owners of two installations talk, in a group and a DM; the first one then blocks the other one."""
    bob_inbox = bob.do("inbox_id")
    group, dm = first.do("group", [bob_inbox], {"name": "everyone"}), first.do("dm", bob_inbox)
    first.do("send_each", [group, dm], [f"from alice {number}" for number in range(MESSAGES)])
    bob.do("sync")
    bob.do("send_each", [group, dm], [f"from bob {number}" for number in range(MESSAGES)])
    first.do("sync")
    first.do("consent", "inbox", bob_inbox, "denied")
    return Talk(first, bob, bob_inbox, group, dm)


def sync_until(condition: Callable[[], bool], *devices: Installation) -> None:
    """Workers of the devices do the rest in the background."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(_PAUSE_SECONDS)
        for device in devices:
            device.begin("sync_devices")
        for device in devices:
            device.finish()


def messages(device: Installation, conversation_id: str) -> dict[str, Any]:
    """What people wrote in a conversation, as far as a device knows."""
    listing = device.do("listing")
    found = listing[conversation_id]["messages"] if conversation_id in listing else {}
    return {message_id: facts for message_id, facts in found.items() if facts[2] == "application"}


def has_all(talk: Talk, second: Installation) -> bool:
    """Whether the second installation has got the last of what the first one has."""
    return second.do("get_consent", "inbox", talk.bob_inbox) == "denied" and len(messages(second, talk.dm)) == MESSAGES


def assert_all_is_there(talk: Talk, second: Installation) -> None:
    """The second installation has everything that the first one has."""
    for conversation_id in (talk.group, talk.dm):
        there = messages(second, conversation_id)
        assert there == messages(talk.first, conversation_id)
        assert len(there) == MESSAGES
    assert second.do("get_consent", "inbox", talk.bob_inbox) == "denied"
    assert second.do("listing")[talk.group]["names"][0] == "everyone"


def meet(talk: Talk, second: Installation) -> None:
    """Waits until both have joined each other's groups of devices, and do nothing in the background.

    What the second one says there before, while it is being set up, the first one may never be able to read.
    """
    sync_until(lambda: len(second.do("listing")) == 2, talk.first, second)


def request_archive(talk: Talk, second: Installation, server: str) -> None:
    """Has the second installation ask the first one to send everything by way of a history server, and waits for it."""
    meet(talk, second)
    second.do("request_archive", server)
    sync_until(lambda: has_all(talk, second), talk.first, second)
    assert_all_is_there(talk, second)


def send_archive(talk: Talk, second: Installation, server: str, pin: str) -> None:
    """Has the first installation send an archive, until the second one knows of it. They have met."""
    talk.first.do("send_archive", server, pin)
    sync_until(lambda: [pin, talk.first.do("installation_id")] in second.do("archives"), second)


# --- installations of both kinds ---------------------------------------------------------------------------------------


class Family:
    """A user's installations, of real libxmtp and of this library, and whom the user talks to. They end with the test.

    Attributes:
        server: the history server that all of them know.
    """

    def __init__(self, node: LocalXmtp, folder: Path, stack: contextlib.ExitStack) -> None:
        self.server = node.history_sync_url
        self._node = node.node_url
        self._folder = folder
        self._stack = stack

    def real(self, db: str = "real", *, device_sync: bool = True) -> Installation:
        """Starts one of real libxmtp, and waits until it is registered."""
        return _registered(self._start_real("alice", db, device_sync=device_sync))

    def bob(self, db: str = "first") -> Installation:
        """Starts an installation of somebody else, of real libxmtp, that does not take part in device sync."""
        return self._start_real("bob", db, device_sync=False)

    def _start_real(self, name: str, db: str, *, device_sync: bool) -> Installation:
        user = User(f"{name} {self._folder.name}", self._node, self._folder)
        return self._stack.enter_context(user.start(db, device_sync=device_sync))

    def ours(self, db: str = "ours", *, device_sync: bool = True, **options: Any) -> Installation:
        """Starts one of ours, and waits until it is registered.

        Its worker listens in the background, and never comes to look of itself while a test runs. See
        :meth:`interop.ours.Installation.create` for more options.
        """
        name = f"alice {self._folder.name}"
        path = self._folder / f"{name}-{db}.db3"
        who = {"node": self._node, "db": str(path), "account_key": account_key(name), "device_sync": device_sync}
        options = {"server": self.server, "sync_interval": 300.0, **options}
        return _registered(
            self._stack.enter_context(Installation({**who, **options}, path.with_suffix(".log"), module=OURS))
        )

    def life(self, kind: str, db: str = "first", **options: Any) -> Life:
        """Starts an installation, "real" or "ours", and gives it a past."""
        bob = self.bob()
        return life_of(self.ours(db, **options) if kind == "ours" else self.real(db, **options), bob)


def _registered(installation: Installation) -> Installation:
    installation.do("installation_id")
    return installation


@pytest.fixture
def family(node: LocalXmtp, tmp_path: Path) -> Iterator[Family]:
    """The installations of a user whom no other test knows."""
    with contextlib.ExitStack() as stack:
        yield Family(node, tmp_path, stack)


def chat(bob: Installation, inbox: str, count: int = 3) -> list[str]:
    """Has somebody write to an inbox in a group, in a DM, and in two other groups. Returns the conversations."""
    conversations = [
        bob.do("group", [inbox], {"name": "everyone", "description": "what for", "image": "https://e.org/x.png"}),
        bob.do("dm", inbox),
        *(bob.do("group", [inbox], {"name": name}) for name in ("others", "more")),
    ]
    say(bob, conversations, "from bob", count)
    return conversations


class Life(NamedTuple):
    """What an installation has by the time other ones come.

    Attributes:
        old: the installation.
        bob: whom its owner talks to.
        bob_inbox: that one's inbox, which is denied.
        group: is allowed.
        dm: is allowed. Real clients allow a DM that they import, whatever is said about it.
        denied: is denied. Real clients do not add installations to such a group.
        undecided: nothing is decided about it.
    """

    old: Installation
    bob: Installation
    bob_inbox: str
    group: str
    dm: str
    denied: str
    undecided: str

    @property
    def consents(self) -> dict[str, str]:
        """What is decided about conversations."""
        states = ("allowed", "allowed", "denied", "unknown")
        return dict(zip((self.group, self.dm, self.denied, self.undecided), states, strict=True))


def life_of(old: Installation, bob: Installation) -> Life:
    """Has an installation of either kind be written to, and its owner decide about that."""
    life = Life(old, bob, bob.do("inbox_id"), *chat(bob, old.do("inbox_id")))
    old.do("sync")
    for conversation_id, state in life.consents.items():
        if state != "unknown":
            old.do("consent", "conversation", conversation_id, state)
    old.do("consent", "inbox", life.bob_inbox, "denied")
    return life


def say(who: Installation, conversations: list[str], text: str, count: int = 1) -> list[str]:
    """Has somebody write numbered texts to each of some conversations. Returns the ids of the messages."""
    texts = [f"{text} {number}" for number in range(count) for _ in conversations]
    message_ids: list[str] = who.do("send_each", conversations, texts)
    return message_ids


def gather(*devices: Installation) -> str:
    """Waits until devices, of whom the last one has just come, know each other. Returns their sync group.

    What a real one says there before, some may never be able to read. All but the one that has made the group commit
    once, before they say there what they know; only real ones that do so at the same time may leave it at that.
    """
    keys = {device.do("installation_id") for device in devices}
    seen: list[tuple[str, int]] = []

    def is_over() -> bool:
        seen.append(_common(keys, [device.do("sync_groups") for device in devices]))
        group_id, epoch = seen[-1]
        is_quiet = len(seen) > _QUIET_ROUNDS and len({*seen[-_QUIET_ROUNDS:]}) == 1
        return bool(group_id) and (epoch == len(devices) or (is_quiet and epoch > 1))

    sync_until(is_over, *devices)
    return seen[-1][0]


def _common(keys: set[str], views: list[dict[str, Any]]) -> tuple[str, int]:
    """The sync group in which exactly some installations are, and its epoch, if all see it in the same one."""
    for group_id, facts in views[0].items():
        here = [view.get(group_id, {}) for view in views]
        epochs = {(each.get("epoch"), each.get("epoch_authenticator")) for each in here}
        if keys == {key for inbox in facts["members"].values() for key in inbox} and len(epochs) == 1:
            return group_id, facts["epoch"]
    return "", 0


def settle(*devices: Installation) -> None:
    """Has devices sync until nothing is new for any of them for some time."""
    seen: list[str] = []

    def is_quiet() -> bool:
        seen.append(
            str([[facts["epoch_authenticator"] for facts in each.do("sync_groups").values()] for each in devices])
        )
        return len(seen) > _QUIET_ROUNDS and len({*seen[-_QUIET_ROUNDS:]}) == 1

    sync_until(is_quiet, *devices)


def everything(device: Installation) -> dict[str, Any]:
    """What a device shows of its history: conversations with names and consent, and what people wrote there.

    Whether it is a member is left out: that does not come with the history.
    """
    return {
        conversation_id: {
            **{name: facts[name] for name in ("type", "names", "consent")},
            "messages": {key: message for key, message in facts["messages"].items() if message[2] == "application"},
        }
        for conversation_id, facts in device.do("listing").items()
    }


def assert_whole(life: Life, new: Installation) -> None:
    """A new installation shows all that the old one has."""
    there = everything(new)
    assert there == everything(life.old)
    assert {key: facts["consent"] for key, facts in there.items()} == life.consents
    assert [len(facts["messages"]) for facts in there.values()] == [3] * 4
    assert there[life.group]["names"] == ["everyone", "what for", "https://e.org/x.png"]
    assert new.do("get_consent", "inbox", life.bob_inbox) == "denied"


def same(*devices: Installation) -> bool:
    """Whether all of some devices show the same."""
    first, *others = map(everything, devices)
    return all(each == first for each in others)


def assert_same(*devices: Installation) -> None:
    """All of some devices show the same."""
    first, *others = map(everything, devices)
    for each in others:
        assert each == first


def sync_history(device: Installation, *others: Installation, what: str = "history") -> dict[str, Any]:
    """Has one of ours ask for history, real ones of the others sync until it is through, and returns the report."""
    device.do("start_sync_history", {"timeout": DEADLINE_SECONDS, "what": what})
    reports: list[dict[str, Any]] = []

    def is_through() -> bool:
        report = device.do("sync_history_report")
        reports.extend([report] if report else [])
        return bool(reports)

    sync_until(is_through, *others)
    return reports[0]


class Spoken(NamedTuple):
    """Something that was said to the inbox's devices.

    Attributes:
        group: the sync group.
        sender: the installation.
        fields: of the request, the reply and so on, by number; of one that comes several times the last one.
    """

    group: str
    sender: str
    fields: dict[int, Any]


def spoken(ours: Installation, kind: int) -> list[Spoken]:
    """What was said of a kind, as one of ours has heard it."""
    out = []
    for message in ours.do("device_said"):
        content = _fields(bytes.fromhex(message["content"]))
        if kind in content:
            out.append(Spoken(message["group_id"], message["sender_installation_id"], _fields(content[kind])))
    return out


def _fields(data: bytes) -> dict[int, Any]:
    return {number: value for number, _, value, _ in wire_fields(data)}


def happened(ours: Installation, kind: str) -> list[dict[str, Any]]:
    """The events of a kind that one of ours has reported."""
    return [fields for name, fields in ours.do("events") if name == kind]


def failed(device: Installation) -> list[str]:
    """What was said to a real device and what it has given up."""
    return _in_state(device, 2)


def pending(device: Installation) -> list[str]:
    """What was said to a real device and what it has not dealt with."""
    return _in_state(device, 0)


def _in_state(device: Installation, state: int) -> list[str]:
    """The library notes its own joining of a group there too, takes that for something that was said, and is stuck."""
    said = {
        message_id
        for group in device.do("sync_groups")
        for message_id, facts in device.do("raw_messages", group).items()
        if facts["kind"] == "application"
    }
    return [key for key, found in device.do("device_messages").items() if found == state and key in said]
