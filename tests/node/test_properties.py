"""Random payloads, random logs and random identities, against what they have to give."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.node_client import (
    ASCENDING,
    DESCENDING,
    INVALID,
    TOO_LARGE,
    KeyPackage,
    NodeClient,
    add,
    address_member,
    check_alive,
    commit_log_input,
    create,
    created_inbox,
    fresh,
    inbox_id_of,
    message_input,
    new_address,
    new_group,
    paging,
    pointee_input,
    pointer_input,
    private_message,
    public_message,
    revoke,
    update,
    welcome_input,
)
from xmtp_history._proto import identity_api_pb2 as identity_api
from xmtp_history._proto import mls_api_pb2 as mls_api

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

MLS: Final = "/xmtp.mls.api.v1.MlsApi/"
IDENTITY: Final = "/xmtp.identity.api.v1.IdentityApi/"


@pytest.fixture(scope="module")
def shared(node_url: str) -> Iterator[NodeClient]:
    """One connection for all examples."""
    with NodeClient(node_url) as connected:
        yield connected


# --- payloads ---------------------------------------------------------------------------------------------------------

_GROUP: Final = bytes(range(16))
_KEY: Final = bytes(range(32))
_ADDRESS: Final = new_address()
_INBOX: Final = created_inbox(_ADDRESS)


def _requests() -> dict[str, Message]:
    """A good request for each call."""
    infos = paging(limit=5, cursor=3)
    identity_requests = {
        "PublishIdentityUpdate": identity_api.PublishIdentityUpdateRequest(identity_update=_INBOX),
        "GetIdentityUpdates": identity_api.GetIdentityUpdatesRequest(
            requests=[identity_api.GetIdentityUpdatesRequest.Request(inbox_id=_INBOX.inbox_id, sequence_id=1)]
        ),
        "GetInboxIds": identity_api.GetInboxIdsRequest(
            requests=[identity_api.GetInboxIdsRequest.Request(identifier=_ADDRESS)]
        ),
    }
    mls_requests = {
        "UploadKeyPackage": mls_api.UploadKeyPackageRequest(
            key_package=mls_api.KeyPackageUpload(key_package_tls_serialized=KeyPackage(_KEY).encode())
        ),
        "FetchKeyPackages": mls_api.FetchKeyPackagesRequest(installation_keys=[_KEY, b""]),
        "SendGroupMessages": mls_api.SendGroupMessagesRequest(
            messages=[message_input(private_message(_GROUP, b"1")), message_input(public_message(_GROUP, b"2"))]
        ),
        "QueryGroupMessages": mls_api.QueryGroupMessagesRequest(group_id=_GROUP, paging_info=infos),
        "GetNewestGroupMessage": mls_api.GetNewestGroupMessageRequest(group_ids=[_GROUP], include_content=True),
        "SendWelcomeMessages": mls_api.SendWelcomeMessagesRequest(
            messages=[welcome_input(_KEY, b"1"), pointee_input(_KEY, b"2"), pointer_input(_KEY, b"3")]
        ),
        "QueryWelcomeMessages": mls_api.QueryWelcomeMessagesRequest(installation_key=_KEY, paging_info=infos),
        "BatchPublishCommitLog": mls_api.BatchPublishCommitLogRequest(requests=[commit_log_input(_GROUP, b"entry")]),
        "BatchQueryCommitLog": mls_api.BatchQueryCommitLogRequest(
            requests=[mls_api.QueryCommitLogRequest(group_id=_GROUP, paging_info=infos)]
        ),
    }
    return {MLS + name: request for name, request in mls_requests.items()} | {
        IDENTITY + name: request for name, request in identity_requests.items()
    }


REQUESTS: Final = {path: request.SerializeToString() for path, request in _requests().items()}

_Change = tuple[str, int, int, bytes]
CHANGES: Final[st.SearchStrategy[list[_Change]]] = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "insert", "delete", "repeat"]),
        st.integers(0, 2**16),
        st.integers(1, 40),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            # Lengths at their edges, as TLS and as protobuf write them.
            st.sampled_from(
                [b"\xff" * 9, b"\x80\0\0\0", b"\xbf\xff\xff\xff", b"\xc0", b"\x40\0", b"\xff\xff\xff\xff\x0f"]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


def _changed(data: bytes, changes: list[_Change]) -> bytes:
    for kind, place, size, new in changes:
        at = place % (len(data) + 1)
        if kind == "cut":
            data = data[:at]
        elif kind == "flip":
            data = data[:at] + bytes(byte ^ 0xFF for byte in data[at : at + 1]) + data[at + 1 :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + size :]
        else:
            data = data[: at + size] + data[at:]
    return data


def _answers(client: NodeClient, path: str, data: bytes) -> None:
    """The call is answered, or refused for what it says."""
    try:
        client.raw(path, data)
    except grpc.RpcError as error:
        assert error.code() in {INVALID, TOO_LARGE}, (error.code(), error.details())


@pytest.mark.parametrize("path", REQUESTS)
def test_good_requests_are_accepted(shared: NodeClient, path: str) -> None:
    shared.raw(path, REQUESTS[path])


@settings(max_examples=250)
@given(st.sampled_from(sorted(REQUESTS)), CHANGES)
def test_damaged_requests_are_answered_or_refused(shared: NodeClient, path: str, changes: list[_Change]) -> None:
    _answers(shared, path, _changed(REQUESTS[path], changes))
    check_alive(shared)


@settings(max_examples=120)
@given(st.sampled_from([private_message, public_message]), CHANGES, st.integers(1, 255))
def test_damaged_messages_are_accepted_or_refused(
    shared: NodeClient, build: Any, changes: list[_Change], size: int
) -> None:
    data = _changed(build(bytes(size), b"body"), changes)
    request = mls_api.SendGroupMessagesRequest(messages=[message_input(data)])
    _answers(shared, MLS + "SendGroupMessages", request.SerializeToString())
    check_alive(shared)


@settings(max_examples=120)
@given(CHANGES)
def test_damaged_key_packages_are_accepted_or_refused(shared: NodeClient, changes: list[_Change]) -> None:
    package = KeyPackage(_KEY).encode()
    upload = mls_api.KeyPackageUpload(key_package_tls_serialized=_changed(package, changes))
    request = mls_api.UploadKeyPackageRequest(key_package=upload)
    _answers(shared, MLS + "UploadKeyPackage", request.SerializeToString())
    check_alive(shared)


@settings(max_examples=100)
@given(st.sampled_from(sorted(REQUESTS)), st.binary(max_size=200))
def test_any_bytes_are_answered_or_refused(shared: NodeClient, path: str, data: bytes) -> None:
    _answers(shared, path, data)
    check_alive(shared)


@settings(max_examples=100)
@given(CHANGES, st.binary(max_size=60))
def test_any_frames_on_a_mutable_stream(shared: NodeClient, changes: list[_Change], data: bytes) -> None:
    mutate = mls_api.SubscribeRequest.V1.Mutate(
        adds=[mls_api.SubscribeRequest.V1.Mutate.Subscription(topic=b"\0" + _GROUP, id_cursor=1)],
        removes=[b"\1" + _KEY],
        mutate_id=1,
    )
    good = mls_api.SubscribeRequest(v1=mls_api.SubscribeRequest.V1(mutate=mutate)).SerializeToString()
    requests: Any = iter([good, _changed(good, changes), data])
    call: Any = shared.channel.stream_stream(MLS + "Subscribe")(requests, timeout=30)
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        assert error.code() in {INVALID, TOO_LARGE}
    check_alive(shared)


# --- logs -------------------------------------------------------------------------------------------------------------

#: A log: how many messages each call sends, and which of them are repetitions of an earlier one.
LOGS: Final = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=40), max_size=8)
QUERIES: Final = st.lists(
    st.tuples(
        st.sampled_from([0, ASCENDING, DESCENDING]),
        st.one_of(st.integers(0, 12), st.sampled_from([50, 99, 100, 101, 2**32 - 1])),
        st.integers(-3, 70),
        st.integers(-1, 1),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(LOGS, QUERIES)
@example([list(range(60)), [61]], [(ASCENDING, 100, -1, 0), (DESCENDING, 100, -1, 0)])
def test_pages_of_random_logs(
    shared: NodeClient, calls: list[list[int]], queries: list[tuple[int, int, int, int]]
) -> None:
    group_id = new_group()
    log: list[int] = []
    for numbers in calls:
        shared.send(*(private_message(group_id, b"%d" % number) for number in numbers))
        log += [number for number in dict.fromkeys(numbers) if number not in log]
    ids = [message.id for message in shared.messages(group_id)]
    data = {private_message(group_id, b"%d" % number): number for number in log}
    assert [data[message.data] for message in shared.messages(group_id)] == log
    for direction, limit, place, shift in queries:
        # An id, one beside it, or none.
        cursor = ids[place % len(ids)] + shift if ids and place >= 0 else 0
        page = shared.page(group_id, paging(direction, limit=limit, cursor=cursor))
        if direction == ASCENDING:
            expected = [entry_id for entry_id in ids if entry_id > cursor]
        else:
            expected = [entry_id for entry_id in reversed(ids) if not cursor or entry_id < cursor]
        effective = limit if 1 <= limit <= 100 else 100
        expected = expected[:effective]
        assert [message.v1.id for message in page.messages] == expected
        assert page.paging_info.limit == effective
        assert page.paging_info.id_cursor == (expected[-1] if len(expected) == effective else 0)


# --- identities -------------------------------------------------------------------------------------------------------


class _Addresses:
    """Who belongs to which inbox, by the rule and nothing else."""

    def __init__(self) -> None:
        #: Address, inbox, when it was added, and whether it is still there.
        self.rows: list[list[Any]] = []
        self.clock = itertools.count()

    def apply(self, inbox: int, actions: list[tuple[bool, int]]) -> None:
        before = {row[0] for row in self.rows if row[1] == inbox and row[3]}
        after = set(before)
        for adds, address in actions:
            (after.add if adds else after.discard)(address)
        now = next(self.clock)
        self.rows += [[address, inbox, now, True] for address in after - before]
        for address in before - after:
            newest = max((row for row in self.rows if row[:2] == [address, inbox]), key=lambda row: row[2])
            newest[3] = False

    def inbox(self, address: int) -> int | None:
        rows = [row for row in self.rows if row[0] == address and row[3]]
        return max(rows, key=lambda row: row[2])[1] if rows else None


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=3),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_addresses_of_random_updates(shared: NodeClient, steps: list[tuple[int, list[tuple[bool, int]], bool]]) -> None:
    creators = [new_address() for _ in range(3)]
    addresses = [*(new_address() for _ in range(4)), *creators]
    inboxes = [inbox_id_of(address) for address in creators]
    model = _Addresses()
    logs: list[list[Any]] = [[], [], []]
    for inbox, address in enumerate(creators):
        logs[inbox].append(update(inboxes[inbox], create(address)))
        shared.publish(logs[inbox][0])
        model.apply(inbox, [(True, 4 + inbox)])
    for inbox, actions, again in steps:
        made = [(add if adds else revoke)(address_member(addresses[address])) for adds, address in actions]
        sent = update(inboxes[inbox], *made)
        for _ in range(1 + again):
            shared.publish(sent)
        logs[inbox].append(sent)
        model.apply(inbox, actions)
        found = [None if place is None else inboxes[place] for place in map(model.inbox, range(7))]
        assert shared.inbox_ids(*addresses) == found
    assert [[entry.update for entry in log] for log in shared.updates(*inboxes)] == logs


def test_the_model_of_addresses_has_the_rule_of_the_specification() -> None:
    model = _Addresses()
    model.apply(0, [(True, 9)])
    model.apply(1, [(True, 9)])
    assert model.inbox(9) == 1
    model.apply(1, [(False, 9)])
    assert model.inbox(9) == 0
    assert model.inbox(8) is None
    assert fresh(4) != fresh(4), "examples do not meet"
