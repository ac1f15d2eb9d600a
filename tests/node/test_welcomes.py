"""Welcomes and pointers to them: stored with every field, in order, once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.node_client import (
    INVALID,
    TOO_LARGE,
    NodeClient,
    fresh,
    new_group,
    new_key,
    pointee_input,
    pointer_input,
    private_message,
    refused,
    welcome_input,
)
from xmtp_history._proto import mls_api_pb2 as mls_api
from xmtp_history._proto.welcome_wrapper_pb2 import (
    WELCOME_WRAPPER_ALGORITHM_CURVE25519,
    WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY,
    WELCOME_WRAPPER_ALGORITHM_UNSPECIFIED,
    WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CURVE = WELCOME_WRAPPER_ALGORITHM_CURVE25519
XWING = WELCOME_WRAPPER_ALGORITHM_XWING_MLKEM_768_DRAFT_6
SYMMETRIC = WELCOME_WRAPPER_ALGORITHM_SYMMETRIC_KEY


@pytest.mark.parametrize("algorithm", [CURVE, XWING, SYMMETRIC])
@pytest.mark.parametrize("metadata", [b"", b"where to begin"])
def test_a_welcome_comes_back_with_everything(client: NodeClient, algorithm: int, metadata: bytes) -> None:
    key = new_key()
    fields = {"hpke_public_key": b"\x31" * 1216, "wrapper_algorithm": algorithm, "welcome_metadata": metadata}
    client.welcome(welcome_input(key, b"welcome", **fields))
    (message,) = client.welcomes(key)
    stored = message.v1
    assert stored.id >= 1
    assert stored.created_ns > 0
    assert stored == mls_api.WelcomeMessage.V1(
        id=stored.id, created_ns=stored.created_ns, installation_key=key, data=b"welcome", **fields
    )


def test_a_pointer_comes_back_with_everything(client: NodeClient) -> None:
    key = new_key()
    client.welcome(pointer_input(key, b"points there", hpke_public_key=b"\x32" * 1216))
    (message,) = client.welcomes(key)
    stored = message.welcome_pointer
    assert stored.id >= 1
    assert stored.created_ns > 0
    assert stored == mls_api.WelcomeMessage.WelcomePointer(
        id=stored.id,
        created_ns=stored.created_ns,
        installation_key=key,
        welcome_pointer=b"points there",
        hpke_public_key=b"\x32" * 1216,
        wrapper_algorithm=XWING,
    )


def test_an_algorithm_that_is_not_named_is_curve25519(client: NodeClient) -> None:
    key = new_key()
    client.welcome(welcome_input(key, b"welcome", wrapper_algorithm=WELCOME_WRAPPER_ALGORITHM_UNSPECIFIED))
    assert [message.v1.wrapper_algorithm for message in client.welcomes(key)] == [CURVE]


def test_an_algorithm_of_the_future_is_stored_as_it_is(client: NodeClient) -> None:
    key = new_key()
    client.welcome(welcome_input(key, b"welcome", wrapper_algorithm=77))
    assert [message.v1.wrapper_algorithm for message in client.welcomes(key)] == [77]


def test_what_pointers_point_to_is_found_under_its_random_destination(client: NodeClient) -> None:
    destination, keys = new_key(), [new_key() for _ in range(6)]
    pointers = [pointer_input(key, destination + b"%d" % number) for number, key in enumerate(keys)]
    client.welcome(pointee_input(destination, b"the welcome of all"), *pointers)
    (pointee,) = client.welcomes(destination)
    assert pointee.v1.data == b"the welcome of all"
    assert (pointee.v1.wrapper_algorithm, pointee.v1.hpke_public_key) == (SYMMETRIC, b"")
    ids = [pointee.v1.id]
    for number, key in enumerate(keys):
        (pointer,) = client.welcomes(key)
        assert pointer.welcome_pointer.welcome_pointer == destination + b"%d" % number
        ids.append(pointer.welcome_pointer.id)
    assert ids == sorted(set(ids)), "a receiver that has its pointer finds what it points to"


def test_welcomes_and_pointers_of_one_installation_are_in_the_order_they_came(client: NodeClient) -> None:
    key = new_key()
    makers: list[Callable[[bytes, bytes], mls_api.WelcomeMessageInput]] = [welcome_input, pointer_input, pointee_input]
    sent = [makers[number % 3](key, b"%d" % number) for number in range(30)]
    client.welcome(*sent[:20])
    for message in sent[20:]:
        client.welcome(message)
    stored = client.welcomes(key)
    contents = [message.v1.data or message.welcome_pointer.welcome_pointer for message in stored]
    assert contents == [b"%d" % number for number in range(30)]
    ids = [message.v1.id or message.welcome_pointer.id for message in stored]
    assert ids == sorted(set(ids))


def test_ids_rise_across_welcomes_and_group_messages(client: NodeClient) -> None:
    ids = []
    for number in range(10):
        key, group_id = new_key(), new_group()
        client.welcome(welcome_input(key, b"%d" % number))
        client.send(private_message(group_id))
        ids += [client.welcomes(key)[0].v1.id, client.messages(group_id)[0].id]
    assert ids == sorted(set(ids))


def test_fifty_real_sized_welcomes_go_in_one_call(client: NodeClient) -> None:
    keys = [new_key() for _ in range(50)]
    client.welcome(*(welcome_input(key, fresh(2800)) for key in keys))
    assert [len(client.welcomes(key)) for key in keys] == [1] * 50


# --- the same again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [welcome_input, pointer_input, pointee_input])
def test_a_repeated_welcome_is_not_stored_again(
    client: NodeClient, make: Callable[[bytes, bytes], mls_api.WelcomeMessageInput]
) -> None:
    key, other = new_key(), new_key()
    client.welcome(make(key, b"welcome"))
    first = client.welcomes(key)
    for _ in range(3):
        client.welcome(make(key, b"welcome"))
    client.welcome(make(key, b"welcome"), make(key, b"welcome"))
    assert client.welcomes(key) == first
    client.welcome(make(other, b"welcome"))
    assert len(client.welcomes(other)) == 1, "another installation's is another welcome"
    client.welcome(make(key, b"another"), make(key, b"welcome"))
    assert len(client.welcomes(key)) == 2


# --- what is refused --------------------------------------------------------------------------------------------------

_KEY = bytes(range(32))


@pytest.mark.parametrize(
    "bad",
    [
        mls_api.WelcomeMessageInput(),
        mls_api.WelcomeMessageInput(v1=mls_api.WelcomeMessageInput.V1()),
        mls_api.WelcomeMessageInput(welcome_pointer=mls_api.WelcomeMessageInput.WelcomePointer()),
        *(make(key, b"data") for make in (welcome_input, pointer_input, pointee_input) for key in (b"", b"\1" * 31)),
        *(make(b"\1" * 33, b"data") for make in (welcome_input, pointer_input, pointee_input)),
        *(make(_KEY, b"") for make in (welcome_input, pointer_input, pointee_input)),
        *(welcome_input(_KEY, b"data", hpke_public_key=b"", wrapper_algorithm=number) for number in (0, 1, 2, 77)),
        pointer_input(_KEY, b"pointer", hpke_public_key=b""),
        *(pointer_input(_KEY, b"pointer", wrapper_algorithm=number) for number in (0, 1, 3, 77)),
    ],
)
def test_incomplete_welcomes_are_refused(client: NodeClient, bad: mls_api.WelcomeMessageInput) -> None:
    key = new_key()
    for messages in ([bad], [welcome_input(key, b"data"), bad], [bad, welcome_input(key, b"data")]):
        with refused(INVALID):
            client.welcome(*messages)
    assert client.welcomes(key) == [], "nothing of a refused call is stored"
    assert client.welcomes(_KEY) == []


def test_a_call_without_welcomes_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.welcome()


def test_a_welcome_that_is_too_large_is_refused(client: NodeClient) -> None:
    key = new_key()
    with refused(TOO_LARGE):
        client.welcome(welcome_input(key, b"small"), welcome_input(key, bytes((5 << 20) + 1)))
    with refused(TOO_LARGE):
        client.welcome(pointer_input(key, bytes((5 << 20) + 1)))
    assert client.welcomes(key) == []
    client.welcome(welcome_input(key, bytes(5_200_000)))
    assert len(client.welcomes(key)) == 1


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_queries_need_a_key_of_32_bytes(client: NodeClient, size: int) -> None:
    with refused(INVALID):
        client.welcome_page(bytes(size))


def test_an_unknown_installation_has_no_welcomes(client: NodeClient) -> None:
    answer = client.welcome_page(new_key())
    assert list(answer.messages) == []
    assert answer.paging_info.id_cursor == 0
