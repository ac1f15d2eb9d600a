"""The stream whose topics its client adds and removes while it runs (XIP-83)."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support.node_client import (
    INVALID,
    MAX_ID,
    TOO_LARGE,
    MutableFollowing,
    NodeClient,
    at_once,
    group_topic,
    kinds_of,
    messages_of,
    new_group,
    new_key,
    pointer_input,
    private_message,
    refused,
    sized_message,
    wait_until,
    welcome_input,
    welcome_topic,
)
from xmtp_history._proto import mls_api_pb2 as mls_api

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVE = 0


@pytest.fixture
def stream(client: NodeClient) -> Iterator[MutableFollowing]:
    """A stream that has said that it started."""
    with client.mutable() as opened:
        opened.started()
        yield opened


def _fill(client: NodeClient, group_id: bytes, count: int, *, start: int = 0) -> list[int]:
    """Sends messages to a group and returns their ids."""
    client.send(*(private_message(group_id, b"%d" % number) for number in range(start, start + count)))
    return _ids(client, group_id)[-count:]


def _ids(client: NodeClient, group_id: bytes) -> list[int]:
    return [message.id for message in client.messages(group_id)]


def _lane(frames: list[Any], mutate_id: int) -> list[int]:
    return [entry.id for lane, entry in messages_of(frames) if lane == mutate_id]


def _topics_live(frames: list[Any]) -> list[bytes]:
    return [topic for frame in frames for topic in frame.topics_live.topics]


# --- opening and waves ------------------------------------------------------------------------------------------------


def test_started_comes_first_and_by_itself(client: NodeClient) -> None:
    with client.mutable() as opened:
        assert opened.headers()["subscribed"] == "true"
        started = opened.started()
        assert started.keepalive_interval_ms == 30_000
        assert list(started.capabilities) == []


def test_a_wave_is_history_then_the_topics_then_its_end(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    ids = _fill(client, group_id, 300)
    mutate_id = stream.mutate({group_topic(group_id): 0})
    frames = stream.until_complete(mutate_id)
    assert kinds_of(frames[-2:]) == ["topics_live", "catchup_complete"]
    assert set(kinds_of(frames[:-2])) == {"messages"}
    assert [(lane, entry.id) for lane, entry in messages_of(frames)] == [(mutate_id, one) for one in ids]
    assert [entry for _, entry in messages_of(frames)] == client.messages(group_id)
    assert _topics_live(frames) == [group_topic(group_id)]


def test_what_is_sent_after_a_wave_is_live(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    stream.until_complete(stream.mutate({group_topic(group_id): 0}))
    for number in range(10):
        (sent,) = _fill(client, group_id, 1, start=number)
        ((lane, entry),) = stream.messages(1)
        assert (lane, entry.id) == (LIVE, sent)


def test_a_topic_without_history_becomes_live_too(client: NodeClient, stream: MutableFollowing) -> None:
    topics = {group_topic(new_group()): 0, welcome_topic(new_key()): 0}
    frames = stream.until_complete(stream.mutate(topics))
    assert kinds_of(frames) == ["topics_live", "catchup_complete"]
    assert sorted(_topics_live(frames)) == sorted(topics)


def test_groups_and_welcomes_share_a_stream(client: NodeClient, stream: MutableFollowing) -> None:
    group_id, key = new_group(), new_key()
    _fill(client, group_id, 2)
    client.welcome(welcome_input(key, b"1"), pointer_input(key, b"2"))
    stored = [message.v1 for message in client.welcomes(key)[:1]]
    stored += [message.welcome_pointer for message in client.welcomes(key)[1:]]
    mutate_id = stream.mutate({group_topic(group_id): 0, welcome_topic(key): 0})
    frames = stream.until_complete(mutate_id)
    found = [entry for _, entry in messages_of(frames)]
    assert sorted(found, key=lambda entry: int(entry.id)) == [*client.messages(group_id), *stored]
    client.welcome(welcome_input(key, b"3"))
    assert [entry.data for _, entry in stream.messages(1)] == [b"3"]
    _fill(client, group_id, 1, start=2)
    assert [entry.id for _, entry in stream.messages(1)] == [client.messages(group_id)[-1].id]


@pytest.mark.parametrize("place", [0, 5, 9])
def test_replay_begins_after_the_cursor(client: NodeClient, stream: MutableFollowing, place: int) -> None:
    group_id = new_group()
    ids = _fill(client, group_id, 10)
    mutate_id = stream.mutate({group_topic(group_id): ids[place]})
    assert _lane(stream.until_complete(mutate_id), mutate_id) == ids[place + 1 :]


def test_a_cursor_beyond_the_end_holds_live_messages_back_up_to_it(
    client: NodeClient, stream: MutableFollowing
) -> None:
    group_id = new_group()
    (last,) = _fill(client, group_id, 1)
    frames = stream.until_complete(stream.mutate({group_topic(group_id): last + 3}))
    assert kinds_of(frames) == ["topics_live", "catchup_complete"]
    for number in range(1, 20):
        _fill(client, group_id, 1, start=number)
    expected = [one for one in _ids(client, group_id) if one > last + 3]
    assert [entry.id for _, entry in stream.messages(len(expected))] == expected


def test_topics_named_twice_in_one_change_are_one_from_the_lowest_cursor(
    client: NodeClient, stream: MutableFollowing
) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 6)
    mutate_id = stream.mutate([(topic, ids[4]), (topic, ids[1]), (topic, ids[3])])
    frames = stream.until_complete(mutate_id)
    assert _lane(frames, mutate_id) == ids[2:]
    assert _topics_live(frames) == [topic]


def test_a_wave_of_several_topics_is_in_the_order_of_ids(client: NodeClient, stream: MutableFollowing) -> None:
    group_ids = [new_group() for _ in range(5)]
    for number in range(60):
        _fill(client, group_ids[number * number % 5], 1, start=number)
    expected = sorted(one for group_id in group_ids for one in _ids(client, group_id))
    mutate_id = stream.mutate({group_topic(group_id): 0 for group_id in group_ids})
    assert _lane(stream.until_complete(mutate_id), mutate_id) == expected


def test_waves_keep_their_numbers_apart(client: NodeClient, stream: MutableFollowing) -> None:
    logs = {}
    for _ in range(10):
        group_id = new_group()
        logs[group_id] = _fill(client, group_id, 30)
    numbers = {stream.mutate({group_topic(group_id): 0}): group_id for group_id in logs}
    frames = list(itertools.chain(*(stream.until_complete(number) for number in numbers)))
    completed = [frame.catchup_complete.mutate_id for frame in frames if frame.HasField("catchup_complete")]
    assert sorted(completed) == sorted(numbers)
    for number, group_id in numbers.items():
        assert _lane(frames, number) == logs[group_id]


def test_large_histories_come_in_frames_of_moderate_size(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    for number in range(40):
        client.send(sized_message(group_id, 1 << 20, number))
    mutate_id = stream.mutate({group_topic(group_id): 0})
    frames = stream.until_complete(mutate_id)
    assert len(_lane(frames, mutate_id)) == 40
    assert max(frame.ByteSize() for frame in frames) < 8 << 20


# --- adding what is there, removing -----------------------------------------------------------------------------------


def test_adding_what_the_stream_has_changes_nothing(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 5)
    stream.until_complete(stream.mutate({topic: 0}))
    for cursor in (ids[-1], ids[-1] + 1, MAX_ID):
        frames = stream.until_complete(stream.mutate({topic: cursor}))
        assert kinds_of(frames) == ["catchup_complete"]
    (sent,) = _fill(client, group_id, 1, start=5)
    ((lane, entry),) = stream.messages(1)
    assert (lane, entry.id) == (LIVE, sent)


@pytest.mark.parametrize("place", [None, 2, 3])
def test_adding_a_live_topic_at_a_lower_cursor_replays_it(
    client: NodeClient, stream: MutableFollowing, place: int | None
) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 5)
    stream.until_complete(stream.mutate({topic: 0}))
    mutate_id = stream.mutate({topic: 0 if place is None else ids[place]})
    frames = stream.until_complete(mutate_id)
    assert _lane(frames, mutate_id) == (ids if place is None else ids[place + 1 :])
    assert kinds_of(frames[-2:]) == ["topics_live", "catchup_complete"]
    (sent,) = _fill(client, group_id, 1, start=5)
    ((lane, entry),) = stream.messages(1)
    assert (lane, entry.id) == (LIVE, sent)


def test_of_a_change_only_what_is_new_is_replayed(client: NodeClient, stream: MutableFollowing) -> None:
    old, new = new_group(), new_group()
    old_ids, new_ids = _fill(client, old, 3), _fill(client, new, 3)
    stream.until_complete(stream.mutate({group_topic(old): 0}))
    mutate_id = stream.mutate({group_topic(old): old_ids[-1], group_topic(new): 0})
    assert _lane(stream.until_complete(mutate_id), mutate_id) == new_ids


def test_a_removed_topic_is_silent(client: NodeClient, stream: MutableFollowing) -> None:
    kept, removed = new_group(), new_group()
    stream.until_complete(stream.mutate({group_topic(kept): 0, group_topic(removed): 0}))
    frames = stream.until_complete(stream.mutate(removes=[group_topic(removed)]))
    assert kinds_of(frames) == ["catchup_complete"]
    for number in range(5):
        _fill(client, removed, 1, start=number)
        (sent,) = _fill(client, kept, 1, start=number)
        assert [entry.id for _, entry in stream.messages(1)] == [sent]


def test_a_removed_topic_is_replayed_when_it_is_added_again(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 4)
    for _ in range(3):
        mutate_id = stream.mutate({topic: 0})
        frames = stream.until_complete(mutate_id)
        assert _lane(frames, mutate_id) == ids
        stream.until_complete(stream.mutate(removes=[topic]))


def test_removals_of_a_change_come_before_its_additions(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 4)
    stream.until_complete(stream.mutate({topic: 0}))
    mutate_id = stream.mutate({topic: 0}, [topic])
    assert _lane(stream.until_complete(mutate_id), mutate_id) == ids
    mutate_id = stream.mutate({topic: ids[1]}, [topic])
    assert _lane(stream.until_complete(mutate_id), mutate_id) == ids[2:]


def test_removing_what_is_not_there_is_fine(client: NodeClient, stream: MutableFollowing) -> None:
    topic = group_topic(new_group())
    frames = stream.until_complete(stream.mutate(removes=[topic, topic, welcome_topic(new_key())]))
    assert kinds_of(frames) == ["catchup_complete"]


def test_every_change_is_answered_once(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    numbers = [
        stream.mutate(),
        stream.mutate({topic: 0}),
        stream.mutate({topic: MAX_ID}),
        stream.mutate(removes=[topic]),
        stream.mutate({topic: 0}, history_only=True),
    ]
    stream.half_close()
    completed = [frame.catchup_complete.mutate_id for frame in stream.rest() if frame.HasField("catchup_complete")]
    assert sorted(completed) == numbers
    assert stream.end() is grpc.StatusCode.OK


def test_a_change_without_a_number_is_fine_if_it_adds_nothing(client: NodeClient, stream: MutableFollowing) -> None:
    topic = group_topic(new_group())
    stream.until_complete(stream.mutate({topic: 0}))
    for removes in ([], [topic]):
        assert stream.mutate(removes=removes, mutate_id=0) == 0
        assert kinds_of(stream.until_complete(0)) == ["catchup_complete"]


def test_a_topic_removed_in_the_middle_of_its_wave_is_replayed_no_further(
    client: NodeClient, stream: MutableFollowing
) -> None:
    group_id, other = new_group(), new_group()
    for number in range(60):
        client.send(sized_message(group_id, 400_000, number))
    _fill(client, other, 1)
    mutate_id = stream.mutate({group_topic(group_id): 0, group_topic(other): 0})
    # The node cannot send all of it before it is read.
    first = stream.frame()
    stream.mutate(removes=[group_topic(group_id)])
    frames = [first, *stream.until_complete(mutate_id)]
    ids = _lane(frames, mutate_id)
    assert len(ids) < 61
    assert ids == sorted(set(ids))
    assert _ids(client, other)[0] in ids
    assert _topics_live(frames) == [group_topic(other)]


def test_a_topic_removed_while_the_client_is_behind_is_sent_no_further(
    client: NodeClient, stream: MutableFollowing
) -> None:
    group_id, other = new_group(), new_group()
    stream.until_complete(stream.mutate({group_topic(group_id): 0, group_topic(other): 0}))
    for number in range(60):
        client.send(sized_message(group_id, 400_000, number))
    # In the middle of what it did not want to read.
    frames = [stream.frame() for _ in range(8)]
    mutate_id = stream.mutate(removes=[group_topic(group_id)])
    frames += stream.until_complete(mutate_id)
    (sent,) = _fill(client, other, 1)
    frames += stream.until(lambda frame: sent in _lane([frame], LIVE))
    ids = _lane(frames, LIVE)
    assert len(ids) < 61
    assert ids == sorted(set(ids))


# --- history only -----------------------------------------------------------------------------------------------------


def test_history_only_ends_with_what_is_there(client: NodeClient, stream: MutableFollowing) -> None:
    group_id, other = new_group(), new_group()
    ids = _fill(client, group_id, 250)
    stream.until_complete(stream.mutate({group_topic(other): 0}))
    mutate_id = stream.mutate({group_topic(group_id): 0}, history_only=True)
    frames = stream.until_complete(mutate_id)
    assert _lane(frames, mutate_id) == ids
    assert kinds_of(frames[-2:]) == ["topics_live", "catchup_complete"]
    assert _topics_live(frames) == [group_topic(group_id)]
    _fill(client, group_id, 3, start=250)
    (sent,) = _fill(client, other, 1)
    assert [entry.id for _, entry in stream.messages(1)] == [sent], "nothing of the first group comes live"


def test_history_only_of_a_live_topic_leaves_it_live(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    topic = group_topic(group_id)
    ids = _fill(client, group_id, 5)
    stream.until_complete(stream.mutate({topic: 0}))
    mutate_id = stream.mutate({topic: ids[1]}, history_only=True)
    assert _lane(stream.until_complete(mutate_id), mutate_id) == ids[2:]
    (sent,) = _fill(client, group_id, 1, start=5)
    ((lane, entry),) = stream.messages(1)
    assert (lane, entry.id) == (LIVE, sent)


def test_catching_up_is_a_change_and_a_half_close(client: NodeClient, stream: MutableFollowing) -> None:
    group_id, key = new_group(), new_key()
    ids = _fill(client, group_id, 200)
    client.welcome(welcome_input(key, b"1"))
    mutate_id = stream.mutate({group_topic(group_id): 0, welcome_topic(key): 0}, history_only=True)
    stream.half_close()
    frames = stream.rest()
    assert kinds_of(frames[-2:]) == ["topics_live", "catchup_complete"]
    assert _lane(frames, mutate_id) == [*ids, client.welcomes(key)[0].v1.id]
    assert sorted(_topics_live(frames)) == sorted([group_topic(group_id), welcome_topic(key)])
    assert stream.end() is grpc.StatusCode.OK


# --- half-close -------------------------------------------------------------------------------------------------------


def test_half_closed_a_stream_ends_at_once_without_waves(client: NodeClient, stream: MutableFollowing) -> None:
    stream.until_complete(stream.mutate({group_topic(new_group()): 0}))
    stream.half_close()
    assert stream.rest() == []
    assert stream.end() is grpc.StatusCode.OK


def test_half_closed_a_stream_ends_after_all_of_its_waves(client: NodeClient, stream: MutableFollowing) -> None:
    logs = {}
    for _ in range(5):
        group_id = new_group()
        logs[stream.mutate({group_topic(group_id): 0})] = _fill(client, group_id, 1)
        # Before or after the node has seen the change: then it is live.
        _fill(client, group_id, 1, start=1)
    stream.half_close()
    frames = stream.rest()
    completed = [frame.catchup_complete.mutate_id for frame in frames if frame.HasField("catchup_complete")]
    assert sorted(completed) == sorted(logs)
    assert stream.end() is grpc.StatusCode.OK


def test_half_closed_before_anything_was_asked_a_stream_ends(client: NodeClient) -> None:
    with client.mutable() as opened:
        opened.half_close()
        assert kinds_of(opened.rest()) == ["started"]
        assert opened.end() is grpc.StatusCode.OK


# --- pings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [0, 1, 2**64 - 1])
def test_a_ping_is_answered_with_its_nonce(client: NodeClient, stream: MutableFollowing, nonce: int) -> None:
    stream.ping(nonce)
    frame = stream.frame()
    assert frame.WhichOneof("response") == "pong"
    assert frame.pong.nonce == nonce


def test_pings_are_answered_in_the_middle_of_a_long_wave(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    for number in range(60):
        client.send(sized_message(group_id, 400_000, number))
    mutate_id = stream.mutate({group_topic(group_id): 0})
    stream.frame()
    stream.ping(77)
    kinds = kinds_of(stream.until_complete(mutate_id))
    assert "messages" in kinds[kinds.index("pong") :], "not only when the wave is over"


# --- what is refused --------------------------------------------------------------------------------------------------


def _change(**fields: Any) -> mls_api.SubscribeRequest:
    mutate_class = mls_api.SubscribeRequest.V1.Mutate
    adds = [mutate_class.Subscription(topic=topic, id_cursor=cursor) for topic, cursor in fields.pop("adds", ())]
    mutate = mutate_class(adds=adds, **fields)
    return mls_api.SubscribeRequest(v1=mls_api.SubscribeRequest.V1(mutate=mutate))


_GROUP = b"\0" + b"\1" * 16


@pytest.mark.parametrize(
    "request_",
    [
        mls_api.SubscribeRequest(),
        _change(adds=[(_GROUP, 0)]),
        *(_change(adds=[(_GROUP, 0), (topic, 0)], mutate_id=1) for topic in (b"", b"\0", b"\1", b"\2" + b"\1" * 32)),
        *(_change(removes=[_GROUP, topic], mutate_id=1) for topic in (b"", b"\0", b"\1", b"\3abc", b"\xff" * 17)),
        _change(adds=[(b"\0" + b"\1" * 256, 0)], mutate_id=1),
        *(_change(adds=[(_GROUP, cursor)], mutate_id=1) for cursor in (2**63, 2**64 - 1)),
        *(_change(adds=[(_GROUP, cursor)], mutate_id=1, history_only=True) for cursor in (2**63, 2**64 - 1)),
        _change(adds=[(b"\0%d" % number, 0) for number in range(10_000)], mutate_id=1),
    ],
)
def test_a_change_that_breaks_the_rules_ends_the_stream(
    client: NodeClient, stream: MutableFollowing, request_: mls_api.SubscribeRequest
) -> None:
    stream.send(request_)
    with refused(INVALID):
        stream.frame()


def test_the_number_of_a_running_wave_is_not_used_again(client: NodeClient, stream: MutableFollowing) -> None:
    group_id = new_group()
    for number in range(60):
        client.send(sized_message(group_id, 400_000, number))
    stream.mutate({group_topic(group_id): 0}, mutate_id=7)
    stream.frame()
    stream.mutate({group_topic(new_group()): 0}, mutate_id=7)
    assert stream.end() is INVALID


def test_the_number_of_a_wave_that_is_over_may_be_used_again(client: NodeClient, stream: MutableFollowing) -> None:
    for _ in range(3):
        group_id = new_group()
        ids = _fill(client, group_id, 2)
        stream.mutate({group_topic(group_id): 0}, mutate_id=7)
        assert _lane(stream.until_complete(7), 7) == ids


def test_bytes_that_are_no_request_end_the_stream(client: NodeClient) -> None:
    requests: Any = iter([b"\xff\xff\xff"])
    call = client.channel.stream_stream("/xmtp.mls.api.v1.MlsApi/Subscribe")(requests, timeout=30)
    with refused(INVALID):
        for _ in call:
            pass


@pytest.mark.parametrize("history_only", [False, True])
def test_a_stream_has_a_limit_of_topics(client: NodeClient, stream: MutableFollowing, history_only: bool) -> None:
    """In waves that wait, too: a client that does not read could ask for any number."""
    big = new_group()
    for number in range(20):
        client.send(sized_message(big, 1 << 20, number))
    # While this is not read, nothing that comes after it is done with.
    stream.mutate({group_topic(big): 0})
    stream.frame()
    for round_number in range(14):
        topics = [b"\0%d %d" % (round_number, number) for number in range(8000)]
        stream.mutate(dict.fromkeys(topics, 0), history_only=history_only)
    assert stream.end() in {INVALID, TOO_LARGE}


def test_a_flood_of_pings_without_reading_ends_the_stream_or_is_answered(
    client: NodeClient, stream: MutableFollowing
) -> None:
    for number in range(9000):
        stream.ping(number)
    stream.half_close()
    nonces = [frame.pong.nonce for frame in stream.rest()]
    assert nonces == list(range(len(nonces)))
    assert stream.end() in {grpc.StatusCode.OK, TOO_LARGE}
    assert len(nonces) == 9000 or stream.end() is TOO_LARGE


# --- everything at once -----------------------------------------------------------------------------------------------


class _Model:
    """What a client of the stream has got, checked as it comes."""

    def __init__(self, stream: MutableFollowing) -> None:
        self.stream = stream
        #: For each group that is on the stream: what has come of it since it was added, and after which cursor that was.
        self.have: dict[bytes, list[int]] = {}
        self.after: dict[bytes, int] = {}
        self.reached: dict[int, int] = {}

    def cursor(self, group_id: bytes) -> int:
        have = self.have.get(group_id)
        return have[-1] if have else self.after.get(group_id, 0)

    def mutate(self, adds: dict[bytes, int], removes: list[bytes]) -> None:
        """Asks for a change, and takes everything up to its completion."""
        topics = {group_topic(group_id): cursor for group_id, cursor in adds.items()}
        mutate_id = self.stream.mutate(topics, map(group_topic, removes))
        frames = self.stream.until_complete(mutate_id)
        replayed: dict[bytes, list[int]] = {topic[1:]: [] for topic in _topics_live(frames)}
        assert replayed.keys() <= adds.keys()
        for lane, entry in messages_of(frames):
            self._rises(lane, entry.id)
            if lane == mutate_id:
                replayed[entry.group_id].append(entry.id)
            else:
                assert not replayed.get(entry.group_id), "it is not live before its replay is complete"
                self._live(lane, entry)
        for group_id, ids in replayed.items():
            self.have[group_id], self.after[group_id] = ids, adds[group_id]
        for group_id in set(removes) - set(adds):
            self.have.pop(group_id, None)

    def finish(self, stored: dict[bytes, list[int]]) -> None:
        """Takes what is still to come, and compares everything with what is stored."""
        expected = {group_id: [one for one in stored[group_id] if one > self.after[group_id]] for group_id in self.have}
        while self.have != expected:
            self.read()

    def read(self) -> None:
        """Takes one live frame."""
        for lane, entry in messages_of([self.stream.frame()]):
            self._rises(lane, entry.id)
            self._live(lane, entry)

    def _live(self, lane: int, entry: Any) -> None:
        assert lane == LIVE
        # Not there: it is not on the stream.
        self.have[entry.group_id].append(entry.id)

    def _rises(self, lane: int, entry_id: int) -> None:
        assert entry_id > self.reached.get(lane, 0), f"in lane {lane} ids do not rise"
        self.reached[lane] = entry_id


def test_lanes_rise_and_nothing_is_lost_while_topics_come_and_go(client: NodeClient, node_url: str) -> None:
    choice = random.Random(83)
    group_ids = [new_group() for _ in range(6)]
    steady, *others = group_ids

    def send(seed: int) -> None:
        own_choice = random.Random(seed)
        with NodeClient(node_url) as own:
            for number in range(250):
                own.send(private_message(own_choice.choice([steady, *group_ids]), b"%d %d" % (seed, number)))

    with client.mutable() as stream:
        stream.started()
        model = _Model(stream)
        model.mutate({steady: 0}, [])
        changes = 0
        with at_once(lambda: send(1), lambda: send(2)) as senders:
            while not all(sender.done() for sender in senders):
                # Some are new, some are there already and are replayed from where they were, or from their beginning.
                chosen = choice.sample(others, choice.randint(1, 3))
                adds = {group_id: model.cursor(group_id) if choice.random() < 0.9 else 0 for group_id in chosen}
                model.mutate(adds, choice.sample(others, choice.randint(0, 3)))
                changes += 1
        model.finish({group_id: _ids(client, group_id) for group_id in group_ids})
    assert changes > 20


def test_live_ids_rise_when_a_busy_topic_joins_a_busy_lane(client: NodeClient, node_url: str) -> None:
    """The wave takes its time, as it has many topics to look into; meanwhile both groups go on."""
    steady, joining = new_group(), new_group()
    stop = threading.Event()

    def send() -> None:
        with NodeClient(node_url) as own:
            for number in itertools.count():
                if stop.is_set():
                    return
                # The lower id is that of the group that joins.
                own.send(*(private_message(group_id, b"%d" % number) for group_id in (joining, steady)))

    with client.mutable() as stream, at_once(send):
        try:
            stream.started()
            model = _Model(stream)
            model.mutate({steady: 0}, [])
            for number in range(10):
                quiet = {new_group(): 0 for _ in range(1000)}
                model.mutate({joining: _ids(client, joining)[-1] if number else 0, **quiet}, [])
                replayed = len(model.have[joining])
                while len(model.have[joining]) == replayed:
                    model.read()
                model.mutate({}, [joining, *quiet])
        finally:
            stop.set()


def test_nothing_is_lost_between_a_wave_and_live(client: NodeClient, node_url: str) -> None:
    group_ids = [new_group() for _ in range(3)]
    total, sent = 400, 0

    def send() -> None:
        nonlocal sent
        with NodeClient(node_url) as own:
            for number in range(total):
                own.send(private_message(group_ids[number % 3], b"%d" % number))
                sent = number

    opened = []
    with at_once(send):
        for count in range(40, total, 40):
            stream = client.mutable()
            stream.started()
            stream.mutate({group_topic(group_id): 0 for group_id in group_ids})
            opened.append(stream)
            wait_until(lambda count=count: sent >= count)
    expected = {group_id: _ids(client, group_id) for group_id in group_ids}
    for stream in opened:
        found: list[tuple[int, Any]] = []
        while len(found) < total:
            found += messages_of([stream.frame()])
        for group_id in group_ids:
            assert [entry.id for _, entry in found if entry.group_id == group_id] == expected[group_id]
        lanes = [lane for lane, _ in found]
        assert lanes == sorted(lanes, reverse=True), "first the wave, then live"
        stream.cancel()
