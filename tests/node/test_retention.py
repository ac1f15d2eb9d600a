"""Deleting what is old: application messages first, welcomes and key packages later, everything else never."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from support import child
from support.node_client import (
    COMMIT,
    PROPOSAL,
    KeyPackage,
    NodeClient,
    add,
    check_alive,
    commit_log_input,
    created_inbox,
    installation_member,
    new_address,
    new_group,
    new_key,
    paging,
    pointee_input,
    pointer_input,
    private_message,
    serving,
    update,
    wait_until,
    welcome_input,
)

if TYPE_CHECKING:
    from pathlib import Path

_DAY_S = 86_400
#: So old, in days, that everything is older a moment after it was stored.
_MOMENT = 1e-6


def _age(seconds: float) -> None:
    """Waits until what was stored before is older."""
    end = time.time() + seconds
    wait_until(lambda: time.time() > end)


def test_what_is_old_goes_by_its_kind(tmp_path: Path) -> None:
    group_id, key, destination = new_group(), new_key(), new_key()
    package = KeyPackage()
    sent = created_inbox(new_address())
    later = update(sent.inbox_id, add(installation_member(new_key())))
    commits = [private_message(group_id, b"%d" % number, content_type=COMMIT) for number in range(20)]

    def kept(client: NodeClient) -> list[Any]:
        return [
            client.log(sent.inbox_id),
            client.updates(sent.inbox_id),
            client.inbox_ids(sent.actions[0].create_inbox.initial_identifier),
            client.commit_log(group_id),
            client.welcomes(destination),
        ]

    with serving(tmp_path) as client:
        for number, commit in enumerate(commits):
            # More than is looked through at a time.
            client.send(*(private_message(group_id, b"%d %d" % (number, place)) for place in range(40)), commit)
            client.send(private_message(group_id, b"proposal %d" % number, content_type=PROPOSAL))
        client.welcome(pointee_input(destination, b"pointee"), pointer_input(key, b"pointer"))
        client.welcome(welcome_input(key, b"welcome"))
        client.upload(package.encode())
        client.publish(sent)
        client.publish(later)
        client.publish_commit_log(commit_log_input(group_id, b"entry"))
        before = kept(client)
        ids = {message.data: message.id for message in client.messages(group_id)}
        assert len(ids) == 20 * 42
        assert [len(entries) for entries in before] == [2, 1, 1, 1, 1]
    _age(3 * _MOMENT * _DAY_S)
    with serving(tmp_path, retain_days=_MOMENT) as client:
        wait_until(lambda: client.fetch(package.signature_key) == [b""], "deleting")
        # Key packages are the last to be deleted.
        assert [message.data for message in client.messages(group_id)] == commits
        assert [message.id for message in client.messages(group_id)] == [ids[commit] for commit in commits]
        assert client.newest(group_id, content=True)[0].group_message.v1.data == commits[-1]
        assert client.welcomes(key) == []
        assert kept(client) == before, "what is pointed to outlives what points to it"
        with client.follow({group_id: 0}) as stream:
            assert [message.data for message in stream.take(20)] == commits
        # What comes now is not old yet.
        client.send(private_message(group_id, b"new"))
        assert client.messages(group_id)[-1].id > max(ids.values())
        assert len(client.messages(group_id)) == 21


def test_ids_go_on_rising_when_everything_was_deleted(tmp_path: Path) -> None:
    highest = 0
    for _ in range(3):
        group_id = new_group()
        with serving(tmp_path) as client:
            client.send(*(private_message(group_id, b"%d" % number) for number in range(10)))
            ids = [message.id for message in client.messages(group_id)]
            assert ids[0] > highest
            highest = ids[-1]
        _age(_MOMENT * _DAY_S)
        with serving(tmp_path, retain_days=_MOMENT) as client:
            wait_until(lambda group_id=group_id, client=client: client.messages(group_id) == [], "deleting")
            answer = client.page(group_id, paging(cursor=ids[4]))
            assert (list(answer.messages), answer.paging_info.id_cursor) == ([], 0)


def test_what_is_not_old_yet_stays(tmp_path: Path) -> None:
    """Key packages count from their last upload, and welcomes three times as long as messages."""
    old, renewed = KeyPackage(), KeyPackage()
    group_id, key = new_group(), new_key()
    with serving(tmp_path) as client:
        client.upload(old.encode())
        client.upload(renewed.encode())
        client.send(private_message(group_id, b"old"))
        _age(1.0)
        client.upload(renewed.encode())
        client.send(private_message(group_id, b"young"))
        client.welcome(welcome_input(key, b"welcome"))
    _age(0.5)
    # Messages of 0.3 s and welcomes and key packages of 0.9 s ago are old.
    with serving(tmp_path, retain_days=0.3 / _DAY_S) as client:
        wait_until(lambda: client.fetch(old.signature_key) == [b""], "deleting")
        assert client.fetch(renewed.signature_key) == [renewed.encode()]
        assert client.messages(group_id) == []
        assert len(client.welcomes(key)) == 1


def test_by_default_nothing_is_deleted(tmp_path: Path) -> None:
    group_id = new_group()
    for count in range(1, 4):
        with serving(tmp_path) as client:
            client.send(private_message(group_id, b"%d" % count))
            check_alive(client)
            assert len(client.messages(group_id)) == count


def test_streams_and_senders_go_on_while_much_is_deleted(tmp_path: Path) -> None:
    group_ids = [new_group() for _ in range(2)]
    with serving(tmp_path) as client:
        for number in range(20):
            client.send(*(private_message(group_ids[0], b"%d %d" % (number, place)) for place in range(300)))
    _age(_MOMENT * _DAY_S)
    with serving(tmp_path, retain_days=_MOMENT) as client, client.follow(dict.fromkeys(group_ids, 0)) as stream:
        client.send(*(private_message(group_ids[1], b"%d" % number) for number in range(50)))
        found = []
        while len(found) < 50:
            message = stream.next()
            # Some of the old may have been under way.
            if message.group_id == group_ids[1]:
                found.append(message)
        assert found == client.messages(group_ids[1])
        wait_until(lambda: client.messages(group_ids[0]) == [], "deleting")


_FULL_DISK = """
import asyncio, resource, sys
from support.node_client import NodeClient, grpc, new_group, refused, sized_message
from xmtp_history import LocalNode

def fail(url):
    with NodeClient(url) as client, refused(grpc.StatusCode.UNAVAILABLE):
        client.send(sized_message(new_group(), 100_000))

async def main():
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    node = LocalNode(sys.argv[1], port=0, retain_days=1e-6)
    await node.start()
    # Deleting begins with the start, and writing is done in order: when this was refused, that was.
    await asyncio.to_thread(fail, node.url)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await node.aclose()
    print("closed")

asyncio.run(main())
"""


def test_a_disk_that_is_full_when_something_is_to_be_deleted_is_no_error(tmp_path: Path) -> None:
    group_id = new_group()
    with serving(tmp_path) as client:
        client.send(*(private_message(group_id, b"%d" % number) for number in range(1000)))
    _age(_MOMENT * _DAY_S)
    assert child.run(_FULL_DISK, tmp_path) == "closed\n"
    with serving(tmp_path) as client:
        assert 0 < len(client.messages(group_id)) <= 1000
