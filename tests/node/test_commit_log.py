"""The commit log: what installations report about commits, kept as it is."""

from __future__ import annotations

import grpc
import pytest

from support.node_client import (
    ASCENDING,
    CLIENT_LIMIT,
    DESCENDING,
    INVALID,
    NodeClient,
    commit_log_input,
    fresh,
    new_group,
    paging,
    refused,
)
from xmtp_history._proto import mls_api_pb2 as mls_api
from xmtp_history._proto.association_pb2 import RecoverableEd25519Signature
from xmtp_history._proto.commit_log_pb2 import CommitLogEntry


def _entries(client: NodeClient, group_id: bytes) -> list[bytes]:
    (answer,) = client.commit_log(group_id)
    return [entry.serialized_commit_log_entry for entry in answer.commit_log_entries]


def test_an_entry_comes_back_with_everything(client: NodeClient) -> None:
    group_id, entry = new_group(), fresh(93)
    signature = RecoverableEd25519Signature(bytes=fresh(64), public_key=fresh(32))
    request = mls_api.PublishCommitLogRequest(group_id=group_id, serialized_commit_log_entry=entry, signature=signature)
    client.publish_commit_log(request)
    (answer,) = client.commit_log(group_id)
    assert answer.group_id == group_id
    assert (answer.paging_info.direction, answer.paging_info.limit) == (ASCENDING, 100)
    (stored,) = answer.commit_log_entries
    assert stored.sequence_id >= 1
    assert stored == CommitLogEntry(
        sequence_id=stored.sequence_id, serialized_commit_log_entry=entry, signature=signature
    )


def test_the_signature_is_not_looked_at(client: NodeClient) -> None:
    group_id = new_group()
    unsigned = mls_api.PublishCommitLogRequest(
        group_id=group_id, serialized_commit_log_entry=b"entry", signature=RecoverableEd25519Signature()
    )
    client.publish_commit_log(unsigned)
    assert _entries(client, group_id) == [b"entry"]


def test_entries_are_stored_in_order_and_as_often_as_they_come(client: NodeClient) -> None:
    group_id = new_group()
    sent = [b"a", b"b", b"a", b"a", b"c"]
    client.publish_commit_log(*(commit_log_input(group_id, entry) for entry in sent))
    client.publish_commit_log(commit_log_input(group_id, b"a"))
    assert _entries(client, group_id) == [*sent, b"a"]
    (answer,) = client.commit_log(group_id)
    ids = [entry.sequence_id for entry in answer.commit_log_entries]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("count", [1, 10])
def test_up_to_ten_entries_are_published_at_a_time(client: NodeClient, count: int) -> None:
    group_id = new_group()
    client.publish_commit_log(*(commit_log_input(group_id, b"%d" % number) for number in range(count)))
    assert len(_entries(client, group_id)) == count


@pytest.mark.parametrize("count", [0, 11, 100])
def test_no_entries_or_more_than_ten_are_refused(client: NodeClient, count: int) -> None:
    group_id = new_group()
    with refused(INVALID):
        client.publish_commit_log(*(commit_log_input(group_id, b"%d" % number) for number in range(count)))
    assert _entries(client, group_id) == []


@pytest.mark.parametrize(
    "bad",
    [
        mls_api.PublishCommitLogRequest(),
        commit_log_input(b"", b"entry"),
        commit_log_input(b"\1" * 256, b"entry"),
        commit_log_input(b"\1" * 16, b""),
        mls_api.PublishCommitLogRequest(group_id=b"\1" * 16, serialized_commit_log_entry=b"entry"),
    ],
)
def test_an_incomplete_entry_is_refused_and_all_of_its_call(
    client: NodeClient, bad: mls_api.PublishCommitLogRequest
) -> None:
    group_id = new_group()
    good = commit_log_input(group_id, b"good")
    for entries in ([bad], [good, bad], [bad, good]):
        with refused(INVALID):
            client.publish_commit_log(*entries)
    assert _entries(client, group_id) == []


def test_answers_are_in_the_order_of_the_groups_asked_for(client: NodeClient) -> None:
    group_ids = [new_group() for _ in range(4)]
    unknown = new_group()
    for number, group_id in enumerate(group_ids):
        client.publish_commit_log(commit_log_input(group_id, b"%d" % number))
    asked = [group_ids[2], unknown, group_ids[0], group_ids[2], group_ids[3], group_ids[1]]
    answers = client.commit_log(*asked)
    assert [answer.group_id for answer in answers] == asked
    found = [[entry.serialized_commit_log_entry for entry in answer.commit_log_entries] for answer in answers]
    assert found == [[b"2"], [], [b"0"], [b"2"], [b"3"], [b"1"]]


def test_each_group_of_a_query_has_a_page_of_its_own(client: NodeClient) -> None:
    group_id = new_group()
    client.publish_commit_log(*(commit_log_input(group_id, b"%d" % number) for number in range(10)))
    (answer,) = client.commit_log(group_id)
    ids = [entry.sequence_id for entry in answer.commit_log_entries]
    requests = [
        mls_api.QueryCommitLogRequest(group_id=group_id, paging_info=paging(limit=limit, cursor=cursor))
        for limit, cursor in ((3, 0), (3, ids[2]), (100, ids[8]), (0, ids[9]))
    ]
    answers = client.call("BatchQueryCommitLog", mls_api.BatchQueryCommitLogRequest(requests=requests)).responses
    found = [[ids.index(entry.sequence_id) for entry in answer.commit_log_entries] for answer in answers]
    assert found == [[0, 1, 2], [3, 4, 5], [9], []]
    assert [answer.paging_info.id_cursor for answer in answers] == [ids[2], ids[5], 0, 0]
    assert [answer.paging_info.limit for answer in answers] == [3, 3, 100, 100]


@pytest.mark.parametrize("count", [1, 20])
def test_up_to_twenty_groups_are_asked_for_at_a_time(client: NodeClient, count: int) -> None:
    assert len(client.commit_log(*(new_group() for _ in range(count)))) == count


@pytest.mark.parametrize("count", [0, 21, 1000])
def test_no_group_or_more_than_twenty_are_refused(client: NodeClient, count: int) -> None:
    with refused(INVALID):
        client.commit_log(*(new_group() for _ in range(count)))


def test_the_commit_log_has_no_descending_order(client: NodeClient) -> None:
    group_id = new_group()
    client.publish_commit_log(commit_log_input(group_id, b"entry"))
    with refused(INVALID):
        client.commit_log(group_id, info=paging(DESCENDING))
    (answer,) = client.commit_log(group_id, info=mls_api.PagingInfo(limit=5))
    assert (len(answer.commit_log_entries), answer.paging_info.direction) == (1, ASCENDING)


@pytest.mark.parametrize("group_id", [b"", b"\1" * 256])
def test_queries_need_a_group_id_of_a_possible_length(client: NodeClient, group_id: bytes) -> None:
    with refused(INVALID):
        client.commit_log(new_group(), group_id)


def test_the_commit_log_is_not_among_the_group_s_messages(client: NodeClient) -> None:
    group_id = new_group()
    client.publish_commit_log(commit_log_input(group_id, b"entry"))
    assert client.messages(group_id) == []
    assert not client.newest(group_id)[0].HasField("group_message")


def test_twenty_groups_of_the_largest_entries_fit_into_one_answer(client: NodeClient) -> None:
    """Of whatever size an entry may be: an answer that is too large for a client is asked for again and again."""
    group_ids = [new_group() for _ in range(20)]
    size = next(size for size in (1 << exponent for exponent in range(22, 9, -1)) if _accepted(client, size))
    # Asked for alone, each group has more than its share.
    batch = [bytes(size - 256)] * 10
    for group_id in group_ids:
        for _ in range(CLIENT_LIMIT // size // 20 // len(batch) + 1):
            client.publish_commit_log(*(commit_log_input(group_id, entry) for entry in batch))
    answers = client.commit_log(*group_ids)
    assert sum(answer.ByteSize() for answer in answers) < CLIENT_LIMIT
    for answer in answers:
        assert answer.paging_info.id_cursor == answer.commit_log_entries[-1].sequence_id


def _accepted(client: NodeClient, size: int) -> bool:
    try:
        # Less a little, as other fields may count.
        client.publish_commit_log(commit_log_input(new_group(), bytes(size - 256)))
    except grpc.RpcError:
        return False
    return True
