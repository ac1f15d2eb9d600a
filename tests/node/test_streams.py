"""Streams: what was stored after a cursor, then what is stored, without gap, repetition or disorder."""

from __future__ import annotations

import grpc
import pytest

from support import child
from support.node_client import (
    INVALID,
    MAX_ID,
    NodeClient,
    at_once,
    new_group,
    new_key,
    pointer_input,
    private_message,
    refused,
    wait_until,
    welcome_input,
)

# The mutable stream is tested on disk.
pytestmark = pytest.mark.parametrize("node_url", ["memory"], indirect=True, scope="module")


def _fill(client: NodeClient, group_id: bytes, count: int, *, start: int = 0) -> None:
    client.send(*(private_message(group_id, b"%d" % number) for number in range(start, start + count)))


# --- opening ----------------------------------------------------------------------------------------------------------


def test_headers_come_at_once(client: NodeClient) -> None:
    with client.follow({new_group(): 0}) as stream:
        assert stream.headers()["subscribed"] == "true"
    with client.follow_welcomes({new_key(): 0}) as stream:
        assert stream.headers()["subscribed"] == "true"


def test_a_stream_of_no_group_is_silent(client: NodeClient) -> None:
    group_id = new_group()
    with client.follow({}) as silent, client.follow({group_id: 0}) as other:
        assert silent.headers()["subscribed"] == "true"
        _fill(client, group_id, 1)
        other.take(1)
        assert client.follow({}).headers()["subscribed"] == "true"
        silent.cancel()
        assert silent.end() is grpc.StatusCode.CANCELLED


def test_a_stream_of_no_installation_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.follow_welcomes({}).next()


@pytest.mark.parametrize("key", [b"", b"\1" * 31, b"\1" * 33])
def test_a_welcome_stream_needs_keys_of_32_bytes(client: NodeClient, key: bytes) -> None:
    with refused(INVALID):
        client.follow_welcomes({new_key(): 0, key: 0}).next()


@pytest.mark.parametrize("group_id", [b"", b"\1" * 256])
def test_a_group_stream_needs_ids_of_a_possible_length(client: NodeClient, group_id: bytes) -> None:
    with refused(INVALID):
        client.follow({new_group(): 0, group_id: 0}).next()


@pytest.mark.parametrize("cursor", [2**63, 2**64 - 1])
def test_a_cursor_that_no_id_can_have_is_refused(client: NodeClient, cursor: int) -> None:
    with refused(INVALID):
        client.follow({new_group(): 0, new_group(): cursor}).next()
    with refused(INVALID):
        client.follow_welcomes({new_key(): cursor}).next()


# --- replay -----------------------------------------------------------------------------------------------------------


def test_the_messages_of_a_stream_are_those_of_a_query(client: NodeClient) -> None:
    group_id = new_group()
    _fill(client, group_id, 3)
    with client.follow({group_id: 0}) as stream:
        _fill(client, group_id, 3, start=3)
        assert stream.take(6) == client.messages(group_id)


def test_the_welcomes_of_a_stream_are_those_of_a_query(client: NodeClient) -> None:
    key = new_key()
    client.welcome(welcome_input(key, b"1"), pointer_input(key, b"2"))
    with client.follow_welcomes({key: 0}) as stream:
        client.welcome(pointer_input(key, b"3"), welcome_input(key, b"4"))
        found = stream.take(4)
    stored = client.welcomes(key)
    assert found == [stored[0].v1, stored[1].welcome_pointer, stored[2].welcome_pointer, stored[3].v1]


def test_more_than_a_page_is_replayed(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    for number in range(130):
        for group_id in group_ids:
            _fill(client, group_id, 1, start=number)
    for group_id in group_ids[:1]:
        _fill(client, group_id, 300, start=130)
    with client.follow(dict.fromkeys(group_ids, 0)) as stream:
        found = stream.take(130 * 3 + 300)
    for group_id in group_ids:
        assert [message for message in found if message.group_id == group_id] == client.messages(group_id)


def test_replay_begins_after_the_cursor(client: NodeClient) -> None:
    group_id = new_group()
    _fill(client, group_id, 10)
    ids = [message.id for message in client.messages(group_id)]
    for place in (0, 4, 9):
        with client.follow({group_id: ids[place]}) as stream:
            rest = ids[place + 1 :]
            assert stream.take_ids(len(rest)) == rest
            _fill(client, group_id, 1, start=100 + place)
            assert stream.take_ids(1) == [client.messages(group_id)[-1].id]
        ids = [message.id for message in client.messages(group_id)]


def test_every_group_of_a_stream_has_a_cursor_of_its_own(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    for group_id in group_ids:
        _fill(client, group_id, 4)
    logs = [[message.id for message in client.messages(group_id)] for group_id in group_ids]
    with client.follow({group_ids[0]: 0, group_ids[1]: logs[1][1], group_ids[2]: logs[2][3]}) as stream:
        assert sorted(stream.take_ids(6)) == logs[0] + logs[1][2:]


def test_a_group_named_twice_is_sent_once_from_the_lower_cursor(client: NodeClient) -> None:
    group_id = new_group()
    _fill(client, group_id, 5)
    ids = [message.id for message in client.messages(group_id)]
    with client.follow([(group_id, ids[3]), (group_id, ids[1]), (group_id, ids[4])]) as stream:
        _fill(client, group_id, 1, start=5)
        assert stream.take_ids(4) == [*ids[2:], client.messages(group_id)[-1].id]


def test_what_is_not_above_the_cursor_is_not_sent_live_either(client: NodeClient) -> None:
    group_id = new_group()
    _fill(client, group_id, 1)
    cursor = client.messages(group_id)[0].id + 5
    with client.follow({group_id: cursor}) as stream:
        stream.headers()
        while client.newest(group_id)[0].group_message.v1.id <= cursor + 1:
            _fill(client, group_id, 1, start=len(client.messages(group_id)))
        above = [message.id for message in client.messages(group_id) if message.id > cursor]
        assert stream.take_ids(len(above)) == above


def test_a_stream_from_the_highest_cursor_stays_open(client: NodeClient) -> None:
    group_id, other = new_group(), new_group()
    with client.follow({group_id: MAX_ID, other: 0}) as stream:
        _fill(client, group_id, 3)
        _fill(client, other, 1)
        assert stream.next().group_id == other


# --- live -------------------------------------------------------------------------------------------------------------


def test_live_messages_of_several_groups_come_in_the_order_of_their_ids(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    with client.follow(dict.fromkeys(group_ids, 0)) as stream:
        stream.headers()
        for number in range(60):
            _fill(client, group_ids[number * number % 3], 1, start=number)
        ids = stream.take_ids(60)
    assert ids == sorted(set(ids))


def test_every_subscriber_gets_everything(client: NodeClient, node_url: str) -> None:
    group_id = new_group()
    with NodeClient(node_url) as other:
        streams = [connection.follow({group_id: 0}) for connection in (client, other) for _ in range(20)]
        for stream in streams:
            stream.headers()
        _fill(client, group_id, 20)
        expected = client.messages(group_id)
        for stream in streams:
            assert stream.take(20) == expected
            stream.cancel()


def test_a_hundred_and_fifty_streams_on_one_connection(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(150)]
    streams = [client.follow({group_id: 0}) for group_id in group_ids]
    for stream in streams:
        assert stream.headers()["subscribed"] == "true"
    client.send(*(private_message(group_id) for group_id in group_ids))
    for stream, group_id in zip(streams, group_ids, strict=True):
        assert stream.next().group_id == group_id
        stream.cancel()


def test_welcomes_and_messages_on_one_connection(client: NodeClient) -> None:
    key, group_id = new_key(), new_group()
    with client.follow_welcomes({key: 0}) as welcomes, client.follow({group_id: 0}) as messages:
        assert welcomes.headers()["subscribed"] == messages.headers()["subscribed"] == "true"
        for number in range(10):
            client.welcome(welcome_input(key, b"%d" % number))
            _fill(client, group_id, 1, start=number)
            assert welcomes.next().data == b"%d" % number
            messages.next()


def test_a_second_stream_with_a_new_group_takes_over(client: NodeClient) -> None:
    known, new = new_group(), new_group()
    _fill(client, known, 5)
    with client.follow({known: 0}) as first:
        ids = first.take_ids(5)
        _fill(client, new, 3)
        _fill(client, known, 2, start=5)
        with client.follow({known: ids[-1], new: 0}) as second:
            found = second.take(5)
            assert first.take_ids(2) == [message.id for message in found if message.group_id == known]
            first.cancel()
            _fill(client, known, 1, start=7)
            _fill(client, new, 1, start=3)
            found += second.take(2)
    assert [message for message in found if message.group_id == new] == client.messages(new)
    assert ids + [message.id for message in found if message.group_id == known] == [
        message.id for message in client.messages(known)
    ]


def test_what_is_sent_while_streams_open_is_neither_lost_nor_repeated(client: NodeClient, node_url: str) -> None:
    group_ids = [new_group() for _ in range(3)]
    total, sent = 400, 0

    def send() -> None:
        nonlocal sent
        with NodeClient(node_url) as own:
            for number in range(total):
                _fill(own, group_ids[number % 3], 1, start=number)
                sent = number

    streams = []
    with at_once(send):
        for count in range(50, total, 60):
            stream = client.follow(dict.fromkeys(group_ids, 0))
            # With its first message a stream is known to be open.
            streams.append((stream, stream.next()))
            wait_until(lambda count=count: sent >= count)
    expected = {group_id: [message.id for message in client.messages(group_id)] for group_id in group_ids}
    assert sum(map(len, expected.values())) == total
    for stream, first in streams:
        found = [first, *stream.take(total - 1)]
        for group_id in group_ids:
            assert [message.id for message in found if message.group_id == group_id] == expected[group_id]
        stream.cancel()


# --- many filters -----------------------------------------------------------------------------------------------------


def test_eight_thousand_groups_in_one_stream(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(8000)]
    client.send(*(private_message(group_id, b"old") for group_id in group_ids[::100]))
    with client.follow(dict.fromkeys(group_ids, 0)) as stream:
        assert {message.group_id for message in stream.take(80)} == set(group_ids[::100])
        for group_id in (group_ids[0], group_ids[1], group_ids[7999]):
            client.send(private_message(group_id, b"new"))
            assert stream.next().group_id == group_id
    keys = [new_key() for _ in range(8000)]
    with client.follow_welcomes(dict.fromkeys(keys, 0)) as stream:
        client.welcome(welcome_input(keys[-1], b"hello"))
        assert stream.next().installation_key == keys[-1]


def test_ten_thousand_groups_in_one_stream_are_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.follow({b"%d" % number: 0 for number in range(10_000)}).next()
    with refused(INVALID):
        client.follow_welcomes({b"%032d" % number: 0 for number in range(10_000)}).next()


def test_many_streams_of_many_groups(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(140)]
    streams = [client.follow(dict.fromkeys(group_ids[number:], 0)) for number in range(40)]
    client.send(*(private_message(group_id) for group_id in group_ids[40:]))
    for stream in streams:
        found = stream.take(100)
        assert [message.group_id for message in found] == group_ids[40:]
        stream.cancel()


# --- clients that are gone --------------------------------------------------------------------------------------------

_FOLLOWER = """
import sys
from support.node_client import NodeClient
client = NodeClient(sys.argv[1])
stream = client.follow({bytes.fromhex(sys.argv[2]): 0})
stream.next()
print("following", flush=True)
sys.stdin.readline()
"""


def test_a_client_that_is_killed_does_not_disturb_others(client: NodeClient, node_url: str) -> None:
    group_id = new_group()
    _fill(client, group_id, 1)
    with client.follow({group_id: 0}) as stream:
        with child.start(_FOLLOWER, node_url, group_id.hex()) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "following\n"
            victim.kill()
        wait_until(lambda: victim.poll() is not None)
        for number in range(1, 50):
            _fill(client, group_id, 1, start=number)
        assert stream.take(50) == client.messages(group_id)
