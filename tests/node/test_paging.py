"""Pages of messages, welcomes and the commit log: the same rules for all three."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from support.node_client import (
    ASCENDING,
    CLIENT_LIMIT,
    DESCENDING,
    INVALID,
    MAX_ID,
    NodeClient,
    commit_log_input,
    new_group,
    new_key,
    paging,
    private_message,
    refused,
    serving,
    sized_message,
    welcome_input,
)
from xmtp_history._proto import mls_api_pb2 as mls_api

if TYPE_CHECKING:
    from collections.abc import Callable

UNSPECIFIED = mls_api.SORT_DIRECTION_UNSPECIFIED

#: A page: the numbers of its entries, their ids, and what it says about itself.
Page = tuple[list[int], list[int], mls_api.PagingInfo]


class Log:
    """Entries under one topic, numbered from 0 as they are stored."""

    def __init__(self, client: NodeClient) -> None:
        self.client = client
        self.topic = new_group()

    def fill(self, count: int) -> None:
        raise NotImplementedError

    def page(self, info: mls_api.PagingInfo | None = None) -> Page:
        raise NotImplementedError

    def ids(self) -> list[int]:
        """The ids of all entries, read one at a time."""
        out: list[int] = []
        while True:
            _, ids, _ = self.page(paging(limit=1, cursor=out[-1] if out else 0))
            if not ids:
                return out
            assert not out or ids[0] > out[-1]
            out += ids


class Messages(Log):
    def fill(self, count: int) -> None:
        self.client.send(*(private_message(self.topic, b"%d" % number) for number in range(count)))

    def page(self, info: mls_api.PagingInfo | None = None) -> Page:
        answer = self.client.page(self.topic, info)
        prefix = len(private_message(self.topic)) - 1
        messages = [message.v1 for message in answer.messages]
        numbers = [int(message.data[prefix + 1 :]) for message in messages]
        return numbers, [message.id for message in messages], answer.paging_info


class Welcomes(Log):
    def __init__(self, client: NodeClient) -> None:
        super().__init__(client)
        self.topic = new_key()

    def fill(self, count: int) -> None:
        self.client.welcome(*(welcome_input(self.topic, b"%d" % number) for number in range(count)))

    def page(self, info: mls_api.PagingInfo | None = None) -> Page:
        answer = self.client.welcome_page(self.topic, info)
        welcomes = [message.v1 for message in answer.messages]
        return [int(entry.data) for entry in welcomes], [entry.id for entry in welcomes], answer.paging_info


class CommitLog(Log):
    def fill(self, count: int) -> None:
        entries = [commit_log_input(self.topic, b"%d" % number) for number in range(count)]
        for start in range(0, count, 10):
            self.client.publish_commit_log(*entries[start : start + 10])

    def page(self, info: mls_api.PagingInfo | None = None) -> Page:
        (answer,) = self.client.commit_log(self.topic, info=info)
        entries = answer.commit_log_entries
        numbers = [int(entry.serialized_commit_log_entry) for entry in entries]
        return numbers, [entry.sequence_id for entry in entries], answer.paging_info


@pytest.fixture(params=[Messages, Welcomes, CommitLog])
def log(request: pytest.FixtureRequest, client: NodeClient) -> Log:
    """An empty log."""
    empty: Log = request.param(client)
    return empty


@pytest.fixture(params=[Messages, Welcomes])
def two_way_log(request: pytest.FixtureRequest, client: NodeClient) -> Log:
    """An empty log that can be read from its end, too."""
    empty: Log = request.param(client)
    return empty


# --- order and cursors ------------------------------------------------------------------------------------------------


def test_ascending_pages_go_on_after_the_cursor(log: Log) -> None:
    log.fill(20)
    ids = log.ids()
    assert ids == sorted(ids)
    assert len(ids) == 20
    for number, cursor in enumerate(ids):
        assert log.page(paging(limit=5, cursor=cursor))[0] == list(range(number + 1, 20))[:5]
    assert log.page(paging(cursor=0))[0] == list(range(20))


def test_descending_pages_go_on_before_the_cursor(two_way_log: Log) -> None:
    two_way_log.fill(20)
    ids = two_way_log.ids()
    for number, cursor in enumerate(ids):
        found, _, _ = two_way_log.page(paging(DESCENDING, limit=5, cursor=cursor))
        assert found == list(reversed(range(number)))[:5]
    assert two_way_log.page(paging(DESCENDING))[0] == list(reversed(range(20)))


def test_the_latest_entry_is_asked_for_by_descending_and_one(two_way_log: Log) -> None:
    two_way_log.fill(3)
    assert two_way_log.page(paging(DESCENDING, limit=1))[0] == [2]


@pytest.mark.parametrize("info", [None, paging(UNSPECIFIED), paging(UNSPECIFIED, limit=3)])
def test_without_a_direction_pages_are_descending(two_way_log: Log, info: mls_api.PagingInfo | None) -> None:
    two_way_log.fill(5)
    numbers, _, answered = two_way_log.page(info)
    assert numbers == [4, 3, 2, 1, 0][: info.limit or None if info else None]
    assert answered.direction == DESCENDING


def test_a_cursor_need_not_be_the_id_of_an_entry_of_the_topic(two_way_log: Log) -> None:
    other = type(two_way_log)(two_way_log.client)
    two_way_log.fill(1)
    other.fill(1)
    (between,) = other.ids()
    # Under the same topic, but of another number: a welcome or message that is not there yet.
    if isinstance(two_way_log, Messages):
        two_way_log.client.send(private_message(two_way_log.topic, b"7"))
    else:
        two_way_log.client.welcome(welcome_input(two_way_log.topic, b"7"))
    assert two_way_log.page(paging(cursor=between))[0] == [7]
    assert two_way_log.page(paging(DESCENDING, cursor=between))[0] == [0]


@pytest.mark.parametrize("beyond", [1, 1000, 2**40, MAX_ID])
def test_a_cursor_beyond_the_end_gives_an_empty_page(log: Log, beyond: int) -> None:
    log.fill(3)
    cursor = beyond if beyond == MAX_ID else log.ids()[-1] + beyond
    numbers, _, info = log.page(paging(cursor=cursor))
    assert numbers == []
    assert (info.direction, info.limit, info.id_cursor) == (ASCENDING, 100, 0)


@pytest.mark.parametrize("beyond", [1, 2**40, MAX_ID])
def test_descending_from_beyond_the_end_gives_everything(two_way_log: Log, beyond: int) -> None:
    two_way_log.fill(3)
    cursor = beyond if beyond == MAX_ID else two_way_log.ids()[-1] + beyond
    assert two_way_log.page(paging(DESCENDING, cursor=cursor))[0] == [2, 1, 0]


@pytest.mark.parametrize("cursor", [2**63, 2**64 - 1])
@pytest.mark.parametrize("direction", [ASCENDING, DESCENDING])
def test_a_cursor_that_no_id_can_have_is_refused(log: Log, direction: int, cursor: int) -> None:
    log.fill(1)
    with refused(INVALID):
        log.page(paging(direction, cursor=cursor))


# --- size of pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 100), (1, 1), (2, 2), (50, 50), (99, 99), (100, 100), (101, 100), (1000, 100), (2**31, 100), (2**32 - 1, 100)],
)
def test_limits(log: Log, asked: int, given: int) -> None:
    log.fill(120)
    numbers, ids, info = log.page(paging(limit=asked))
    assert numbers == list(range(given))
    assert (info.direction, info.limit, info.id_cursor) == (ASCENDING, given, ids[-1])


@pytest.mark.parametrize("direction", [ASCENDING, DESCENDING])
def test_the_answer_says_where_a_full_page_ends_and_nothing_if_it_is_not_full(two_way_log: Log, direction: int) -> None:
    two_way_log.fill(5)
    for limit in range(1, 8):
        _, ids, info = two_way_log.page(paging(direction, limit=limit))
        assert (info.direction, info.limit) == (direction, limit)
        assert info.id_cursor == (ids[-1] if limit <= 5 else 0)


def test_exactly_a_hundred_entries_are_a_full_page_and_an_empty_one(log: Log) -> None:
    log.fill(100)
    numbers, ids, info = log.page(paging(limit=100))
    assert numbers == list(range(100))
    assert info.id_cursor == ids[-1] != 0
    numbers, _, info = log.page(paging(limit=100, cursor=info.id_cursor))
    assert numbers == []
    assert info.id_cursor == 0


def test_two_hundred_and_fifty_entries_are_three_pages(log: Log) -> None:
    log.fill(250)
    cursor, sizes, numbers = 0, [], []
    while True:
        page, _, info = log.page(paging(limit=100, cursor=cursor))
        sizes.append(len(page))
        numbers += page
        if not (cursor := info.id_cursor):
            break
    assert sizes == [100, 100, 50]
    assert numbers == list(range(250))


def test_what_others_store_in_between_makes_no_page_smaller(client: NodeClient) -> None:
    logs = [Messages(client), Messages(client)]
    keys = Welcomes(client)
    for number in range(120):
        for log in logs:
            client.send(private_message(log.topic, b"%d" % number))
        if number % 10 == 0:
            client.welcome(welcome_input(keys.topic, b"%d" % number))
    for log in logs:
        assert log.page(paging(limit=100))[0] == list(range(100))


# --- bytes of pages ---------------------------------------------------------------------------------------------------


def _pages_by_bytes(client: NodeClient, group_id: bytes, direction: int) -> list[mls_api.QueryGroupMessagesResponse]:
    """All pages of a group, as long as they say that there is another one."""
    pages, cursor = [], 0
    while not pages or cursor:
        pages.append(client.page(group_id, paging(direction, limit=100, cursor=cursor)))
        assert pages[-1].paging_info.id_cursor != cursor or not cursor
        cursor = pages[-1].paging_info.id_cursor
    return pages


@pytest.mark.parametrize(("count", "size"), [(100, 300_000), (30, 1 << 20), (7, 5 << 20)])
def test_a_page_ends_before_it_is_too_large_for_clients_and_says_where(
    client: NodeClient, count: int, size: int
) -> None:
    group_id = new_group()
    for number in range(count):
        client.send(sized_message(group_id, size, number))
    for direction in (ASCENDING, DESCENDING):
        pages = _pages_by_bytes(client, group_id, direction)
        assert len(pages) > 1
        for page in pages:
            assert page.ByteSize() <= CLIENT_LIMIT
        for page in pages[:-1]:
            # As much as fits: one more would not have.
            assert page.ByteSize() + size > 24 << 20
            assert page.paging_info.id_cursor == page.messages[-1].v1.id
        assert [len(message.v1.data) for page in pages for message in page.messages] == [size] * count
        ids = [message.v1.id for page in pages for message in page.messages]
        assert ids == sorted(ids, reverse=direction == DESCENDING)
        assert len(set(ids)) == count


def test_a_page_of_large_welcomes_ends_before_it_is_too_large(client: NodeClient) -> None:
    key = new_key()
    for number in range(6):
        client.welcome(welcome_input(key, b"%d" % number + bytes(5_000_000)))
    pages, cursor = [], 0
    while not pages or cursor:
        pages.append(client.welcome_page(key, paging(limit=100, cursor=cursor)))
        assert pages[-1].ByteSize() <= CLIENT_LIMIT
        cursor = pages[-1].paging_info.id_cursor
    assert [int(message.v1.data[:1]) for page in pages for message in page.messages] == list(range(6))
    assert len(pages) == 2


def test_a_message_larger_than_a_page_is_a_page_of_its_own() -> None:
    with serving(max_message_bytes=40 << 20) as own, NodeClient(own.url, receive_limit=-1) as client:
        group_id = new_group()
        bodies = [b"small", bytes(30 << 20), b"small again"]
        for body in bodies:
            client.send(private_message(group_id, body))
        pages = _pages_by_bytes(client, group_id, ASCENDING)
        sizes = [[len(message.v1.data) > 30 << 20 for message in page.messages] for page in pages]
        assert sizes == [[False], [True], [False]]


def test_reading_while_others_write_gives_everything_once(client: NodeClient) -> None:
    log = Messages(client)
    log.fill(150)
    seen: list[int] = []
    cursor = 0
    for round_number in itertools.count():
        numbers, ids, _ = log.page(paging(limit=7, cursor=cursor))
        if not numbers:
            break
        seen += numbers
        cursor = ids[-1]
        if round_number < 20:
            client.send(private_message(log.topic, b"%d" % (150 + round_number)))
    assert seen == list(range(170))


def test_every_kind_of_log_has_the_same_pages(client: NodeClient) -> None:
    makers: list[Callable[[NodeClient], Any]] = [Messages, Welcomes, CommitLog]
    answers = []
    for make in makers:
        log = make(client)
        log.fill(23)
        ids = log.ids()
        pages = []
        for limit, start in itertools.product((1, 10, 23, 24), (0, 5, 22)):
            numbers, _, info = log.page(paging(limit=limit, cursor=ids[start]))
            pages.append((numbers, info.limit, info.direction, info.id_cursor and ids.index(info.id_cursor)))
        answers.append(pages)
    assert answers[0] == answers[1] == answers[2]
