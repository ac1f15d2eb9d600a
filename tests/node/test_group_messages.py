"""Group messages: what is stored, once and in order, and what is given back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from support.node_client import (
    APPLICATION,
    COMMIT,
    INVALID,
    PROPOSAL,
    TOO_LARGE,
    NodeClient,
    at_once,
    check_alive,
    fresh,
    message_input,
    new_group,
    private_message,
    public_message,
    refused,
    sized_message,
)
from xmtp_history._proto import mls_api_pb2 as mls_api

if TYPE_CHECKING:
    from collections.abc import Callable

# Databases in memory are read and written differently.
pytestmark = pytest.mark.parametrize("node_url", ["memory", "disk"], indirect=True, scope="module")

# --- what is stored ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_size", [1, 16, 63, 64, 255])
@pytest.mark.parametrize("content_type", [APPLICATION, PROPOSAL, COMMIT])
@pytest.mark.parametrize("build", [private_message, public_message])
def test_a_message_comes_back_with_everything(
    client: NodeClient, build: Callable[..., bytes], content_type: int, group_size: int
) -> None:
    # One byte does not make a group of one's own for all cases.
    group_id = fresh(group_size) if group_size > 1 else bytes([content_type + (10 if build is public_message else 0)])
    data = build(group_id, b"hello", content_type=content_type, epoch=2**64 - 1)
    before = time.time_ns()
    client.send(message_input(data, hmac=b"\x12" * 32, push=True))
    (message,) = client.messages(group_id)
    assert message.id >= 1
    assert before - 10**6 <= message.created_ns <= time.time_ns() + 10**6
    expected = mls_api.GroupMessage.V1(
        id=message.id,
        created_ns=message.created_ns,
        group_id=group_id,
        data=data,
        sender_hmac=b"\x12" * 32,
        should_push=True,
        is_commit=content_type == COMMIT,
    )
    assert message == expected


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("hmac", [b"", b"\0" * 32, b"\x80" * 32])
def test_hmac_and_push_are_stored_as_they_are(client: NodeClient, hmac: bytes, push: bool) -> None:
    group_id = new_group()
    client.send(message_input(private_message(group_id), hmac=hmac, push=push))
    (message,) = client.messages(group_id)
    assert (message.sender_hmac, message.should_push) == (hmac, push)


@pytest.mark.parametrize("sender_type", [1, 2, 3, 4])
@pytest.mark.parametrize("content_type", [APPLICATION, PROPOSAL, COMMIT])
def test_public_messages_of_every_sender(client: NodeClient, content_type: int, sender_type: int) -> None:
    group_id = new_group()
    client.send(public_message(group_id, b"rest", content_type=content_type, sender_type=sender_type))
    assert [message.is_commit for message in client.messages(group_id)] == [content_type == COMMIT]


@pytest.mark.parametrize("size", [63, 64, (1 << 14) - 1, 1 << 14, 1 << 20])
def test_bodies_on_both_sides_of_each_length_of_a_length(client: NodeClient, size: int) -> None:
    group_id = new_group()
    data = private_message(group_id, bytes(size))
    client.send(data)
    assert [message.data for message in client.messages(group_id)] == [data]


def test_ids_are_unique_and_rise_across_all_groups(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    sent = []
    for number in range(30):
        group_id = group_ids[number * number % 3]
        data = private_message(group_id, b"%d" % number)
        client.send(data)
        sent.append(data)
    stored = [message for group_id in group_ids for message in client.messages(group_id)]
    stored.sort(key=lambda message: message.id)
    assert len({message.id for message in stored}) == 30
    assert [message.data for message in stored] == sent
    times = [message.created_ns for message in stored]
    assert times == sorted(times)


def test_one_call_may_carry_many_messages_of_several_groups(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    sent = [private_message(group_ids[number % 3], b"%d" % number) for number in range(300)]
    client.send(*sent)
    stored = [message for group_id in group_ids for message in client.messages(group_id)]
    assert [message.data for message in sorted(stored, key=lambda message: message.id)] == sent


def test_a_message_is_there_for_the_next_query_of_anybody(client: NodeClient, node_url: str) -> None:
    group_id = new_group()
    with NodeClient(node_url) as other:
        for count in range(1, 50):
            client.send(private_message(group_id, b"%d" % count))
            assert len(other.messages(group_id)) == count
            assert other.newest(group_id)[0].group_message.v1.id == other.messages(group_id)[-1].id


def test_competing_commits_are_all_accepted_and_the_first_has_the_lowest_id(client: NodeClient) -> None:
    group_id = new_group()
    commits = [private_message(group_id, b"commit %d" % number, content_type=COMMIT, epoch=5) for number in range(3)]
    for commit in commits:
        client.send(commit)
    stored = client.messages(group_id)
    assert [message.data for message in stored] == commits
    assert [message.id for message in stored] == sorted(message.id for message in stored)


def test_clients_that_send_at_once_get_ids_of_their_own(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(4)]
    calls = [
        client.future(
            "SendGroupMessages",
            mls_api.SendGroupMessagesRequest(
                messages=[message_input(private_message(group_ids[number % 4], b"%d" % number))]
            ),
        )
        for number in range(400)
    ]
    for call in calls:
        call.result()
    stored = [message for group_id in group_ids for message in client.messages(group_id)]
    assert len({message.id for message in stored}) == 400
    by_id = [message.created_ns for message in sorted(stored, key=lambda message: message.id)]
    assert by_id == sorted(by_id)


def test_messages_become_visible_in_the_order_of_their_ids(client: NodeClient, node_url: str) -> None:
    """Whoever has seen an id knows everything with a lower one: there is nothing in between that comes later."""
    first, second = new_group(), new_group()
    seen: list[tuple[int, list[int]]] = []

    def send(group_id: bytes) -> None:
        with NodeClient(node_url) as own:
            for number in range(300):
                own.send(private_message(group_id, b"%d" % number))

    with at_once(lambda: send(first), lambda: send(second)) as senders:
        while not all(sender.done() for sender in senders):
            newest = client.newest(first)[0].group_message.v1.id
            seen.append((newest, [message.id for message in client.messages(second)]))
    final = [message.id for message in client.messages(second)]
    assert len(seen) > 10
    for newest, ids in seen:
        assert [one for one in final if one < newest] == [one for one in ids if one < newest]


# --- the same again ---------------------------------------------------------------------------------------------------


def test_a_repeated_message_is_answered_with_success_and_not_stored_again(client: NodeClient) -> None:
    group_id = new_group()
    data = private_message(group_id, b"once")
    client.send(data)
    (first,) = client.messages(group_id)
    for _ in range(5):
        client.send(data)
    assert client.messages(group_id) == [first]


def test_a_repetition_is_recognised_by_group_and_data_alone(client: NodeClient) -> None:
    group_id = new_group()
    data = private_message(group_id, b"once")
    client.send(message_input(data, hmac=b"\1" * 32, push=True))
    client.send(message_input(data, hmac=b"\2" * 32, push=False))
    (stored,) = client.messages(group_id)
    assert (stored.sender_hmac, stored.should_push) == (b"\1" * 32, True)


def test_a_message_twice_in_one_call_is_stored_once(client: NodeClient) -> None:
    group_id = new_group()
    first, second = (private_message(group_id, body) for body in (b"first", b"second"))
    client.send(first, first, second, first)
    assert [message.data for message in client.messages(group_id)] == [first, second]


def test_new_messages_beside_repeated_ones_are_stored(client: NodeClient) -> None:
    group_id = new_group()
    old, new = (private_message(group_id, body) for body in (b"old", b"new"))
    client.send(old)
    client.send(old, new)
    assert [message.data for message in client.messages(group_id)] == [old, new]


def test_the_same_body_in_another_group_is_another_message(client: NodeClient) -> None:
    # The second id is the first and a byte more: where one ends and the data begins must not matter.
    short = new_group()
    long = short + b"\x10"
    for group_id in (short, long):
        client.send(private_message(group_id, b"same"))
    assert [len(client.messages(group_id)) for group_id in (short, long)] == [1, 1]


def test_repetitions_at_the_same_time_are_stored_once(client: NodeClient, node_url: str) -> None:
    group_id = new_group()
    sent = [private_message(group_id, b"%d" % number) for number in range(20)]
    start = threading.Barrier(6)

    def send_all() -> None:
        with NodeClient(node_url) as own:
            start.wait()
            for data in sent:
                own.send(data)

    with at_once(*[send_all] * 6):
        pass
    stored = client.messages(group_id)
    assert [message.data for message in stored] == sent


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_call_without_messages_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.send()


def test_a_message_of_no_version_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.send(mls_api.GroupMessageInput())


def test_a_call_is_stored_as_a_whole_or_not_at_all(client: NodeClient) -> None:
    group_id = new_group()
    good = [private_message(group_id, b"%d" % number) for number in range(3)]
    no_version = mls_api.GroupMessageInput()
    for bad, code in (
        (b"", INVALID),
        (b"\0", INVALID),
        (good[0][:-1], INVALID),
        (good[0] + b"\0", INVALID),
        (private_message(b""), INVALID),
        (no_version, INVALID),
        (sized_message(group_id, (5 << 20) + 1), TOO_LARGE),
    ):
        for position in range(len(good) + 1):
            with refused(code):
                client.send(*good[:position], bad, *good[position:])
            assert client.messages(group_id) == []
    client.send(*good)
    assert [message.data for message in client.messages(group_id)] == good


def test_a_message_of_the_largest_size_is_accepted_and_a_byte_more_is_not(client: NodeClient) -> None:
    group_id = new_group()
    largest = sized_message(group_id, 5 << 20)
    client.send(largest)
    with refused(TOO_LARGE):
        client.send(sized_message(group_id, (5 << 20) + 1))
    assert [message.data for message in client.messages(group_id)] == [largest]


@pytest.mark.parametrize("group_id", [b"", b"\1" * 256, b"\1" * 5000])
def test_queries_need_a_group_id_of_a_possible_length(client: NodeClient, group_id: bytes) -> None:
    with refused(INVALID):
        client.page(group_id)


def test_an_unknown_group_has_an_empty_page(client: NodeClient) -> None:
    answer = client.page(new_group())
    assert list(answer.messages) == []
    assert answer.paging_info.id_cursor == 0
    assert answer.paging_info.limit == 100


# --- the newest message -----------------------------------------------------------------------------------------------


def test_the_newest_message_of_each_group_in_the_order_asked_for(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(3)]
    unknown = new_group()
    for number, group_id in enumerate(group_ids):
        client.send(*(private_message(group_id, b"%d %d" % (number, place)) for place in range(3)))
    asked = [group_ids[2], unknown, group_ids[0], group_ids[2], group_ids[1], unknown]
    answers = client.newest(*asked, content=True)
    assert len(answers) == len(asked)
    for group_id, answer in zip(asked, answers, strict=True):
        if group_id == unknown:
            assert not answer.HasField("group_message")
        else:
            assert answer.group_message.v1 == client.messages(group_id)[-1]


def test_without_content_the_newest_message_says_only_what_it_is(client: NodeClient) -> None:
    group_id = new_group()
    for content_type in (APPLICATION, COMMIT, APPLICATION):
        client.send(private_message(group_id, fresh(100), content_type=content_type))
        stored = client.messages(group_id)[-1]
        (answer,) = client.newest(group_id)
        assert answer.group_message.v1 == mls_api.GroupMessage.V1(
            id=stored.id, created_ns=stored.created_ns, group_id=group_id, is_commit=content_type == COMMIT
        )


def test_asking_for_the_newest_message_of_no_group_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.newest()


def test_a_thousand_groups_can_be_asked_for_at_a_time(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(1000)]
    client.send(*(private_message(group_id) for group_id in group_ids[::2]))
    for content in (False, True):
        answers = client.newest(*group_ids, content=content)
        assert [answer.HasField("group_message") for answer in answers] == [True, False] * 500
        found = [answer.group_message.v1.group_id for answer in answers[::2]]
        assert found == group_ids[::2]


def test_the_newest_messages_are_refused_when_they_do_not_fit_into_an_answer(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(6)]
    for group_id in group_ids:
        client.send(sized_message(group_id, 5 << 20))
    assert len(client.newest(*group_ids)) == 6
    with refused(TOO_LARGE):
        client.newest(*group_ids, content=True)
    assert len(client.newest(*group_ids[:4], content=True)) == 4
    check_alive(client)
