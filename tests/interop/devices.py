"""Two installations of an inbox, one of whom has talked to others before the other one came."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from interop.account import Installation

#: Everything that devices do here takes a second or two, and a retry that they have to wait for some seconds.
DEADLINE_SECONDS: Final = 30

#: The library lets through no more than 5,000 requests a minute, and then hangs until it is over.
_PAUSE_SECONDS: Final = 0.05

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
            device.do("sync_devices")


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
