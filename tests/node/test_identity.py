"""The identity log: what is accepted, once, and which inbox an identifier belongs to."""

from __future__ import annotations

import hashlib
import threading
import time

import grpc
import pytest

from support.node_client import (
    ETHEREUM,
    INVALID,
    PASSKEY,
    TOO_LARGE,
    NodeClient,
    add,
    address_member,
    at_once,
    change_recovery,
    create,
    created_inbox,
    fresh,
    inbox_id_of,
    installation_member,
    new_address,
    new_key,
    new_legacy_address,
    new_passkey,
    passkey_member,
    refused,
    revoke,
    sign,
    update,
)
from support.signing import text_of
from xmtp_history import _ffi
from xmtp_history._proto import association_pb2 as assoc
from xmtp_history._proto import identity_api_pb2 as identity_api

Update = assoc.IdentityUpdate

#: Field 1000 of a message.
_UNKNOWN = b"\xc2\x3e\x06future"


def _inbox(client: NodeClient) -> tuple[str, str]:
    """A new inbox, and the address that it was made with."""
    address = new_address()
    client.publish(created_inbox(address))
    return inbox_id_of(address), address


# --- the log ----------------------------------------------------------------------------------------------------------


def test_an_update_comes_back_as_it_was_sent(client: NodeClient) -> None:
    sent = created_inbox(new_address())
    before = time.time_ns()
    client.publish(sent)
    ((entry,),) = client.updates(sent.inbox_id)
    assert entry.sequence_id >= 1
    assert before - 10**6 <= entry.server_timestamp_ns <= time.time_ns() + 10**6
    assert entry.update.SerializeToString() == sent.SerializeToString()


def test_fields_of_the_future_are_kept(client: NodeClient) -> None:
    sent = created_inbox(new_address())
    action = sent.actions[1].SerializeToString() + _UNKNOWN
    data = (
        b"".join(b"\x0a" + _varint(len(part)) + part for part in (sent.actions[0].SerializeToString(), action))
        + b"\x10"
        + _varint(sent.client_timestamp_ns)
        + b"\x1a\x40"
        + sent.inbox_id.encode()
        + _UNKNOWN
    )
    client.publish(Update.FromString(data))
    request = identity_api.GetIdentityUpdatesRequest.Request(inbox_id=sent.inbox_id)
    answer = client.raw(
        "/xmtp.identity.api.v1.IdentityApi/GetIdentityUpdates",
        identity_api.GetIdentityUpdatesRequest(requests=[request]).SerializeToString(),
    )
    assert answer.count(_UNKNOWN) == 2
    (stored,) = client.log(sent.inbox_id)
    assert sorted(stored.SerializeToString()) == sorted(data), "nothing more, nothing less"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_a_log_is_in_the_order_of_arrival_with_ids_that_never_change(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    sent = client.log(inbox_id)
    for _ in range(120):
        sent.append(update(inbox_id, add(installation_member(new_key()))))
        client.publish(sent[-1])
    (entries,) = client.updates(inbox_id)
    assert [entry.update for entry in entries] == sent, "all of them: this log has no pages"
    ids = [entry.sequence_id for entry in entries]
    assert ids == sorted(set(ids))
    times = [entry.server_timestamp_ns for entry in entries]
    assert times == sorted(times)
    for place in (0, 1, 100, 119):
        (later,) = client.updates(inbox_id, after=ids[place])
        assert later == entries[place + 1 :]
    assert client.updates(inbox_id, after=ids[-1]) == [[]]
    assert client.updates(inbox_id, after=2**63 - 1) == [[]]


def test_sequence_ids_rise_across_inboxes(client: NodeClient) -> None:
    inboxes = [_inbox(client)[0] for _ in range(4)]
    for number in range(12):
        client.publish(update(inboxes[number % 4], add(installation_member(new_key()))))
    logs = client.updates(*inboxes)
    in_order = sorted((entry.sequence_id, entry.server_timestamp_ns) for log in logs for entry in log)
    assert len({sequence_id for sequence_id, _ in in_order}) == 16
    assert [moment for _, moment in in_order] == sorted(moment for _, moment in in_order)


def test_logs_are_answered_in_the_order_asked_for(client: NodeClient) -> None:
    first, second = _inbox(client)[0], _inbox(client)[0]
    unknown = inbox_id_of(new_address())
    logs = client.updates(second, unknown, first, second)
    assert [len(log) for log in logs] == [1, 0, 1, 1]
    assert [log[0].update.inbox_id for log in (logs[0], logs[2], logs[3])] == [second, first, second]


def test_fifty_inboxes_in_one_call(client: NodeClient) -> None:
    inboxes = [_inbox(client)[0] for _ in range(50)]
    assert [log[0].update.inbox_id for log in client.updates(*inboxes)] == inboxes


def test_each_inbox_of_a_query_has_a_cursor_of_its_own(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    client.publish(update(inbox_id, add(installation_member(new_key()))))
    first, second = (entry.sequence_id for entry in client.updates(inbox_id)[0])
    request_class = identity_api.GetIdentityUpdatesRequest
    requests = [request_class.Request(inbox_id=inbox_id, sequence_id=cursor) for cursor in (second, 0, first)]
    answer = client.call("GetIdentityUpdates", request_class(requests=requests))
    found = [[entry.sequence_id for entry in response.updates] for response in answer.responses]
    assert found == [[], [first, second], [second]]


def test_a_query_for_nothing_is_answered_with_nothing(client: NodeClient) -> None:
    assert client.updates() == []
    assert client.inbox_ids() == []


@pytest.mark.parametrize(
    "inbox_id", ["", "a" * 63, "a" * 65, "g" * 64, "0x" + "a" * 62, "a" * 63 + "\n", "\u0661" * 64]
)
def test_an_inbox_id_is_64_hexadecimal_characters(client: NodeClient, inbox_id: str) -> None:
    with refused(INVALID):
        client.updates(inbox_id)
    with refused(INVALID):
        client.publish(update(inbox_id, create(new_address())))


# --- the same again ---------------------------------------------------------------------------------------------------


def test_a_repeated_update_is_answered_with_success_and_not_stored_again(client: NodeClient) -> None:
    sent = created_inbox(new_address())
    for _ in range(6):
        client.publish(sent)
    assert client.log(sent.inbox_id) == [sent]
    later = update(sent.inbox_id, add(installation_member(new_key())))
    for _ in range(3):
        client.publish(later)
    client.publish(sent)
    assert client.log(sent.inbox_id) == [sent, later]


def test_repetitions_at_the_same_time_are_stored_once(client: NodeClient, node_url: str) -> None:
    sent = [created_inbox(new_address()) for _ in range(10)]
    start = threading.Barrier(6)

    def publish_all() -> None:
        with NodeClient(node_url) as own:
            start.wait()
            for one in sent:
                own.publish(one)

    with at_once(*[publish_all] * 6):
        pass
    for one in sent:
        assert client.log(one.inbox_id) == [one]
        assert client.inbox_ids(one.actions[0].create_inbox.initial_identifier) == [one.inbox_id]


def test_different_updates_at_the_same_time_follow_each_other(client: NodeClient, node_url: str) -> None:
    inbox_id, _ = _inbox(client)
    sent = [[update(inbox_id, add(installation_member(new_key()))) for _ in range(6)] for _ in range(4)]
    start = threading.Barrier(4)

    def publish(own: list[Update]) -> None:
        with NodeClient(node_url) as connected:
            start.wait()
            for one in own:
                connected.publish(one)

    with at_once(*(lambda own=own: publish(own) for own in sent)):
        pass
    log = client.log(inbox_id)
    assert len(log) == 25
    for own in sent:
        places = [log.index(one) for one in own]
        assert places == sorted(places)
    (entries,) = client.updates(inbox_id)
    answer = identity_api.GetIdentityUpdatesResponse()
    answer.responses.add(inbox_id=inbox_id, updates=entries)
    state = _ffi.identity_call("verify_log", answer.SerializeToString(), trust_contracts=False)
    assert len(state["members"]) == 26


def test_of_updates_that_exclude_each_other_one_is_stored(client: NodeClient, node_url: str) -> None:
    inbox_id, _ = _inbox(client)
    sent = update(inbox_id, add(installation_member(new_key())))
    # The same signatures in other bytes.
    forms = [Update.FromString(sent.SerializeToString() + number * _UNKNOWN) for number in range(4)]
    start = threading.Barrier(4)
    stored = []

    def publish(form: Update) -> None:
        with NodeClient(node_url) as connected:
            start.wait()
            try:
                connected.publish(form)
            except grpc.RpcError as error:
                assert error.code() is INVALID
            else:
                stored.append(form)

    with at_once(*(lambda form=form: publish(form) for form in forms)):
        pass
    assert client.log(inbox_id)[1:] == stored
    assert len(stored) == 1


def test_an_inbox_has_at_most_256_updates_and_repetitions_stay_fine(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    for _ in range(255):
        client.publish(update(inbox_id, revoke(installation_member(new_key()))))
    log = client.log(inbox_id)
    assert len(log) == 256
    with refused(TOO_LARGE):
        client.publish(update(inbox_id, add(installation_member(new_key()))))
    for sent in (log[0], log[100], log[255]):
        client.publish(sent)
    assert client.log(inbox_id) == log


def test_256_of_the_largest_updates_fit_into_one_answer(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    for _ in range(15):
        client.publish(_padded(update(inbox_id, revoke(installation_member(new_key()))), 65_000))
    logs = client.updates(*[inbox_id] * 17)
    assert len(logs[0]) == 16
    assert all(log == logs[0] for log in logs)
    with refused(TOO_LARGE):
        client.publish(_padded(update(inbox_id, revoke(installation_member(new_key()))), 64 << 10))


def _padded(sent: Update, size: int) -> Update:
    """An update with so many bytes of the future, which nobody has signed."""
    return Update.FromString(sent.SerializeToString() + b"\xc2\x3e" + _varint(size) + bytes(size))


# --- rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [0, 1, 10, 2**32, 2**64 - 1])
def test_the_inbox_id_follows_from_address_and_nonce(client: NodeClient, nonce: int) -> None:
    address = new_address()
    expected = hashlib.sha256(f"{address}{nonce}".encode()).hexdigest()
    client.publish(update(expected, create(address, nonce)))
    assert client.inbox_ids(address) == [expected]
    other = new_address()
    for wrong in (
        inbox_id_of(address, nonce),
        inbox_id_of(other, nonce ^ 1),
        hashlib.sha256(other.encode()).hexdigest(),
    ):
        with refused(INVALID):
            client.publish(update(wrong, create(other, nonce)))
    assert client.inbox_ids(other) == [None]


def test_an_address_is_written_in_lower_case(client: NodeClient) -> None:
    address = new_address()
    capitals = "0x" + address[2:].upper()
    for action in (create(capitals), create(address)):
        action.create_inbox.initial_identifier = capitals
        with refused(INVALID):
            client.publish(update(inbox_id_of(address), action))
    inbox_id, _ = _inbox(client)
    with refused(INVALID):
        client.publish(update(inbox_id, add(address_member(capitals))))
    assert client.inbox_ids(address) == [None]


def test_the_first_update_creates_the_inbox_first(client: NodeClient) -> None:
    address = new_address()
    inbox_id = inbox_id_of(address)
    installation = add(installation_member(new_key()))
    for actions in (
        [installation],
        [installation, create(address)],
        [add(address_member(address))],
        [revoke(address_member(address))],
        [change_recovery(address)],
    ):
        with refused(INVALID):
            client.publish(update(inbox_id, *actions))
    assert client.log(inbox_id) == []
    client.publish(update(inbox_id, create(address), installation))
    assert len(client.log(inbox_id)) == 1


def test_an_inbox_is_created_once(client: NodeClient) -> None:
    address = new_address()
    inbox_id = inbox_id_of(address)
    with refused(INVALID):
        client.publish(update(inbox_id, create(address), create(address)))
    assert client.log(inbox_id) == []
    client.publish(created_inbox(address))
    log = client.log(inbox_id)
    for actions in (
        [create(address)],
        [create(address), add(installation_member(new_key()))],
        [add(installation_member(new_key())), create(address)],
    ):
        with refused(INVALID):
            client.publish(update(inbox_id, *actions))
    assert client.log(inbox_id) == log


@pytest.mark.parametrize("first", [False, True])
def test_an_update_has_at_least_one_action(client: NodeClient, first: bool) -> None:
    inbox_id = inbox_id_of(new_address()) if first else _inbox(client)[0]
    log = client.log(inbox_id)
    with refused(INVALID):
        client.publish(update(inbox_id))
    assert client.log(inbox_id) == log


def test_a_request_without_an_update_is_refused(client: NodeClient) -> None:
    with refused(INVALID):
        client.call("PublishIdentityUpdate", identity_api.PublishIdentityUpdateRequest())


# --- signatures -------------------------------------------------------------------------------------------------------


def _members() -> list[assoc.MemberIdentifier]:
    """A new member of each kind, and of each kind of signature."""
    return [
        address_member(new_address()),
        address_member(new_legacy_address()),
        installation_member(new_key()),
        passkey_member(new_passkey()),
    ]


def test_every_kind_of_signature_is_verified(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    for member in _members():
        sent = update(inbox_id, add(member))
        for damaged in _damaged(sent):
            with refused(INVALID):
                client.publish(damaged)
        client.publish(sent)
    assert len(client.log(inbox_id)) == 5


def _damaged(sent: Update) -> list[Update]:
    """The update with a bit of each signature changed, and with another time."""
    out = []
    for field in ("existing_member_signature", "new_member_signature"):
        damaged = Update()
        damaged.CopyFrom(sent)
        signature = getattr(damaged.actions[0].add, field)
        inner = getattr(signature, signature.WhichOneof("signature"))
        if isinstance(inner, assoc.LegacyDelegatedSignature):
            inner = inner.signature
        name = "signature" if isinstance(inner, assoc.RecoverablePasskeySignature) else "bytes"
        raw = bytearray(getattr(inner, name))
        raw[20] ^= 1
        setattr(inner, name, bytes(raw))
        out.append(damaged)
    later = Update()
    later.CopyFrom(sent)
    later.client_timestamp_ns += 10**9
    return [*out, later]


def test_signatures_of_smart_contract_wallets_are_refused(client: NodeClient) -> None:
    contract = assoc.Signature(
        erc_6492=assoc.SmartContractWalletSignature(
            account_id="eip155:1:" + new_address(), block_number=1, signature=fresh(200)
        )
    )
    address = new_address()
    with refused(INVALID) as caught:
        client.publish(update(inbox_id_of(address), create(address, signature=contract)))
    assert "smart contract wallet" in caught.value.details()
    inbox_id, _ = _inbox(client)
    with refused(INVALID):
        client.publish(update(inbox_id, add(address_member(address), new=contract)))
    assert client.inbox_ids(address) == [None]


def test_only_members_add_members(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    stranger, second, key = new_address(), new_address(), new_key()
    for by in (stranger, key):
        with refused(INVALID):
            client.publish(update(inbox_id, add(address_member(second)), by=by))
    client.publish(update(inbox_id, add(installation_member(key))))
    client.publish(update(inbox_id, add(address_member(second)), by=key))
    with refused(INVALID):
        client.publish(update(inbox_id, add(installation_member(new_key())), by=key))
    with refused(INVALID):
        client.publish(update(inbox_id, add(address_member(address)), by=address))
    assert len(client.log(inbox_id)) == 3


def test_only_the_recovery_address_revokes(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    second, key = new_address(), new_key()
    client.publish(update(inbox_id, add(address_member(second)), add(installation_member(key))))
    for by in (new_address(), second, key):
        for action in (revoke(address_member(address)), change_recovery(second)):
            with refused(INVALID):
                client.publish(update(inbox_id, action, by=by))
    client.publish(update(inbox_id, change_recovery(second)))
    with refused(INVALID):
        client.publish(update(inbox_id, revoke(address_member(address))))
    client.publish(update(inbox_id, revoke(address_member(address)), by=second))
    assert client.inbox_ids(address, second) == [None, inbox_id]


def test_who_is_added_signs(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    log = client.log(inbox_id)
    for member in _members():
        sent = update(inbox_id, add(member))
        for signer in (new_address(), new_key(), new_passkey()):
            changed = Update()
            changed.CopyFrom(sent)
            changed.actions[0].add.new_member_signature.CopyFrom(sign(text_of(sent), signer))
            with refused(INVALID):
                client.publish(changed)
    assert client.log(inbox_id) == log


def test_a_signature_of_an_earlier_update_is_not_used_again(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    sent = [update(inbox_id, add(member)) for member in _members()]
    sent += [update(inbox_id, revoke(address_member(new_address()))), update(inbox_id, change_recovery(address))]
    for one in sent:
        client.publish(one)
    log = client.log(inbox_id)
    for one in log:
        # The text is the same, and so are the signatures; the bytes are not.
        with refused(INVALID):
            client.publish(Update.FromString(one.SerializeToString() + _UNKNOWN))
    assert client.log(inbox_id) == log


def test_within_one_update_a_signature_may_occur_twice(client: NodeClient) -> None:
    address = new_address()
    actions = [create(address), *(add(installation_member(new_key())) for _ in range(2))]
    sent = update(inbox_id_of(address), *actions)
    shared = sent.actions[0].create_inbox.initial_identifier_signature
    assert all(action.add.existing_member_signature == shared for action in sent.actions[1:])
    client.publish(sent)
    assert client.log(sent.inbox_id) == [sent]


def test_an_update_is_for_its_inbox_only(client: NodeClient) -> None:
    (first, address), second = _inbox(client), inbox_id_of(address_of_both := new_address())
    client.publish(created_inbox(address_of_both))
    sent = update(first, add(installation_member(new_key())))
    sent.inbox_id = second
    with refused(INVALID):
        client.publish(sent)
    # The same owner, another nonce: signatures for the one are none for the other.
    sent = created_inbox(address, 1)
    sent.actions[0].create_inbox.nonce = 2
    sent.inbox_id = inbox_id_of(address, 2)
    with refused(INVALID):
        client.publish(sent)


_ADDRESS = "0x" + "12" * 20
_MEMBER = installation_member(new_key())


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("add", "existing_member_signature"),
        ("add", "new_member_signature"),
        ("revoke", "recovery_identifier_signature"),
        ("change_recovery_address", "existing_recovery_identifier_signature"),
    ],
)
def test_a_missing_signature_is_refused(client: NodeClient, kind: str, field: str, empty: bool) -> None:
    inbox_id, address = _inbox(client)
    log = client.log(inbox_id)
    actions = [add(_MEMBER), revoke(_MEMBER), change_recovery(address)]
    (action,) = (action for action in actions if action.WhichOneof("kind") == kind)
    other = new_address()
    sent = update(inbox_id, add(address_member(other)), action)
    body = getattr(sent.actions[1], kind)
    body.ClearField(field)
    if empty:
        getattr(body, field).SetInParent()
    with refused(INVALID):
        client.publish(sent)
    assert client.log(inbox_id) == log
    assert client.inbox_ids(other) == [None]


def _wallet_signature(size: int) -> assoc.Signature:
    return assoc.Signature(erc_191=assoc.RecoverableEcdsaSignature(bytes=bytes(size)))


def _installation_signature(size: int, key: bytes = bytes(32)) -> assoc.Signature:
    return assoc.Signature(installation_key=assoc.RecoverableEd25519Signature(bytes=bytes(size), public_key=key))


@pytest.mark.parametrize(
    "action",
    [
        assoc.IdentityAction(),
        assoc.IdentityAction(add=assoc.AddAssociation()),
        assoc.IdentityAction(revoke=assoc.RevokeAssociation()),
        add(assoc.MemberIdentifier()),
        revoke(assoc.MemberIdentifier()),
        *(add(installation_member(bytes(size))) for size in (0, 31, 33)),
        *(
            add(address_member(text))
            for text in ("", "0x", "12" * 20, "0x" + "12" * 19, "0x" + "12" * 21, "0x" + "zz" * 20, _ADDRESS + "\n")
        ),
        add(passkey_member(b"")),
        *(add(_MEMBER, existing=_wallet_signature(size)) for size in (0, 64, 65, 66)),
        *(add(_MEMBER, new=_installation_signature(size)) for size in (0, 63, 64, 65)),
        add(_MEMBER, new=_installation_signature(64, b"\1" * 31)),
        add(_MEMBER, new=assoc.Signature(passkey=assoc.RecoverablePasskeySignature())),
        add(_MEMBER, existing=assoc.Signature(erc_6492=assoc.SmartContractWalletSignature())),
        add(_MEMBER, existing=assoc.Signature(delegated_erc_191=assoc.LegacyDelegatedSignature())),
    ],
)
def test_a_malformed_action_is_refused_with_its_update(client: NodeClient, action: assoc.IdentityAction) -> None:
    inbox_id, _ = _inbox(client)
    log = client.log(inbox_id)
    other = new_address()
    for actions in ([action], [add(address_member(other)), action], [action, add(address_member(other))]):
        with refused(INVALID):
            client.publish(update(inbox_id, *actions))
    assert client.log(inbox_id) == log
    assert client.inbox_ids(other) == [None], "nothing of a refused update is kept"


@pytest.mark.parametrize(
    "member", [installation_member(b"\1" * 31), address_member("nobody"), passkey_member(b""), address_member(_ADDRESS)]
)
def test_revoking_nobody_is_fine(client: NodeClient, member: assoc.MemberIdentifier) -> None:
    inbox_id, address = _inbox(client)
    client.publish(update(inbox_id, revoke(member)))
    assert len(client.log(inbox_id)) == 2
    assert client.inbox_ids(address) == [inbox_id]


@pytest.mark.parametrize("identifier", ["", "0x12", "not an address", "0x" + "12" * 21])
def test_an_inbox_is_not_created_for_what_is_no_address(client: NodeClient, identifier: str) -> None:
    with refused(INVALID):
        client.publish(update(inbox_id_of(identifier), create(identifier)))


def test_an_update_that_is_too_large_is_refused(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    log = client.log(inbox_id)
    key = fresh(1 << 20)
    with refused(TOO_LARGE):
        client.publish(update(inbox_id, add(passkey_member(key))))
    assert client.log(inbox_id) == log
    assert client.inbox_ids(key.hex(), kind=PASSKEY) == [None]


# --- which inbox an identifier belongs to -----------------------------------------------------------------------------


def test_an_identifier_is_echoed_byte_for_byte_whatever_its_case(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    forms = [address, address.upper().replace("0X", "0x"), "0x" + address[2:].title()]
    # The helper compares every echo with what was asked for.
    assert client.inbox_ids(*forms) == [inbox_id] * 3
    assert client.inbox_ids("nobody", "", " ", address[2:], "é" * 40) == [None] * 5


def test_identifiers_are_answered_in_the_order_asked_for(client: NodeClient) -> None:
    (first, first_address), (second, second_address) = _inbox(client), _inbox(client)
    unknown = new_address()
    asked = [second_address, unknown, first_address, second_address, unknown]
    assert client.inbox_ids(*asked) == [second, None, first, second, None]


def test_an_unset_kind_is_ethereum_and_every_kind_is_echoed(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    for kind, expected in ((0, inbox_id), (ETHEREUM, inbox_id), (PASSKEY, None), (7, None)):
        # The helper compares the echoed kind with the one asked for.
        assert client.inbox_ids(address, kind=kind) == [expected]


def test_a_passkey_is_found_as_a_passkey_only(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    key = new_passkey()
    client.publish(update(inbox_id, add(passkey_member(key))))
    assert client.inbox_ids(key.hex(), key.hex().upper(), kind=PASSKEY) == [inbox_id] * 2
    assert client.inbox_ids(key.hex(), kind=ETHEREUM) == [None]
    client.publish(update(inbox_id, revoke(passkey_member(key))))
    assert client.inbox_ids(key.hex(), kind=PASSKEY) == [None]


def test_an_inbox_of_a_passkey_is_found(client: NodeClient) -> None:
    key = new_passkey().hex()
    client.publish(update(inbox_id_of(key), create(key, kind=PASSKEY)))
    assert client.inbox_ids(key, kind=PASSKEY) == [inbox_id_of(key)]


def test_an_address_is_found_as_long_as_it_is_a_member(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    second = new_address()
    assert client.inbox_ids(second) == [None]
    for _ in range(3):
        client.publish(update(inbox_id, add(address_member(second))))
        assert client.inbox_ids(address, second) == [inbox_id, inbox_id]
        client.publish(update(inbox_id, revoke(address_member(second))))
        assert client.inbox_ids(address, second) == [inbox_id, None]


def test_an_address_moved_to_a_second_inbox_is_found_there_and_revoked_there_in_the_first_again(
    client: NodeClient,
) -> None:
    (first, _), (second, _) = _inbox(client), _inbox(client)
    address = new_address()
    client.publish(update(first, add(address_member(address))))
    assert client.inbox_ids(address) == [first]
    client.publish(update(second, add(address_member(address))))
    assert client.inbox_ids(address) == [second]
    client.publish(update(second, revoke(address_member(address))))
    assert client.inbox_ids(address) == [first]
    client.publish(update(first, revoke(address_member(address))))
    assert client.inbox_ids(address) == [None]


def test_revoked_in_the_first_inbox_a_moved_address_stays_in_the_second(client: NodeClient) -> None:
    (first, first_address), (second, _) = _inbox(client), _inbox(client)
    client.publish(update(second, add(address_member(first_address))))
    client.publish(update(first, revoke(address_member(first_address))))
    assert client.inbox_ids(first_address) == [second]
    client.publish(update(second, revoke(address_member(first_address))))
    assert client.inbox_ids(first_address) == [None]


def test_revoking_what_is_not_a_member_changes_nothing(client: NodeClient) -> None:
    (first, first_address), (second, _) = _inbox(client), _inbox(client)
    client.publish(update(second, revoke(address_member(first_address))))
    assert client.inbox_ids(first_address) == [first]


def test_with_a_member_go_the_installations_that_it_added_and_no_addresses(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    parent, address, key = new_address(), new_address(), new_key()
    client.publish(update(inbox_id, add(address_member(parent))))
    client.publish(update(inbox_id, add(address_member(address)), add(installation_member(key)), by=parent))
    client.publish(update(inbox_id, add(address_member(new_address())), by=key))
    client.publish(update(inbox_id, revoke(address_member(parent))))
    assert client.inbox_ids(parent, address) == [None, inbox_id]
    with refused(INVALID):
        client.publish(update(inbox_id, add(address_member(new_address())), by=key))
    client.publish(update(inbox_id, add(address_member(new_address())), by=address))


def test_one_update_may_add_and_revoke(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    new, brief = new_address(), new_address()
    client.publish(
        update(
            inbox_id,
            add(address_member(new)),
            add(address_member(brief)),
            revoke(address_member(address)),
            revoke(address_member(brief)),
        )
    )
    assert client.inbox_ids(address, new, brief) == [None, inbox_id, None]


def test_other_actions_change_nothing_about_finding(client: NodeClient) -> None:
    inbox_id, address = _inbox(client)
    recovery, key = new_address(), new_key()
    client.publish(update(inbox_id, change_recovery(recovery)))
    client.publish(update(inbox_id, add(installation_member(key))))
    client.publish(update(inbox_id, revoke(installation_member(key)), by=recovery))
    assert client.inbox_ids(address, recovery, key.hex(), "0x" + key.hex()) == [inbox_id, None, None, None]


def test_an_update_and_what_it_changes_are_visible_together(client: NodeClient, node_url: str) -> None:
    inbox_id, _ = _inbox(client)
    address = new_address()
    stop = threading.Event()
    contradictions: list[str] = []
    looks = 0

    def watch() -> None:
        nonlocal looks
        with NodeClient(node_url) as own:
            while not stop.is_set():
                before = len(own.log(inbox_id))
                found = own.inbox_ids(address)[0]
                after = len(own.log(inbox_id))
                looks += 1
                # An odd number of updates: the address is out. If nothing happened meanwhile, this is exact.
                if before == after and (found is None) != (before % 2 == 1):
                    contradictions.append(f"{before} updates, {found}")

    with at_once(watch):
        try:
            for _ in range(40):
                client.publish(update(inbox_id, add(address_member(address))))
                client.publish(update(inbox_id, revoke(address_member(address))))
        finally:
            stop.set()
    assert looks > 5
    assert contradictions == []


def test_an_update_is_read_by_the_next_call(client: NodeClient, node_url: str) -> None:
    with NodeClient(node_url) as other:
        for _ in range(20):
            inbox_id, address = _inbox(client)
            assert other.inbox_ids(address) == [inbox_id]
            assert len(other.log(inbox_id)) == 1


# --- smart-contract wallets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5])
def test_smart_contract_signatures_cannot_be_verified_without_a_chain(client: NodeClient, count: int) -> None:
    signature = identity_api.VerifySmartContractWalletSignatureRequestSignature(
        account_id="eip155:1:0x" + "12" * 20, block_number=5, signature=b"signature", hash=bytes(32)
    )
    request = identity_api.VerifySmartContractWalletSignaturesRequest(signatures=[signature] * count)
    responses = client.call("VerifySmartContractWalletSignatures", request).responses
    assert [(response.is_valid, response.error) for response in responses] == [(False, "no chain configured")] * count
