"""The identity log: what is accepted, once, and which inbox an identifier belongs to."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TYPE_CHECKING

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
    installation_signature,
    new_address,
    new_key,
    passkey_member,
    passkey_signature,
    refused,
    revoke,
    update,
    wallet_signature,
)
from xmtp_history._proto import association_pb2 as assoc
from xmtp_history._proto import identity_api_pb2 as identity_api

if TYPE_CHECKING:
    from collections.abc import Callable

Update = assoc.IdentityUpdate


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
    # Field 1000 of the update, and of its second action.
    unknown = b"\xc2\x3e\x06future"
    action = sent.actions[1].SerializeToString() + unknown
    data = (
        b"".join(b"\x0a" + _varint(len(part)) + part for part in (sent.actions[0].SerializeToString(), action))
        + b"\x1a\x40"
        + sent.inbox_id.encode()
        + unknown
    )
    client.publish(Update.FromString(data))
    request = identity_api.GetIdentityUpdatesRequest.Request(inbox_id=sent.inbox_id)
    answer = client.raw(
        "/xmtp.identity.api.v1.IdentityApi/GetIdentityUpdates",
        identity_api.GetIdentityUpdatesRequest(requests=[request]).SerializeToString(),
    )
    assert answer.count(unknown) == 2
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
    for _ in range(150):
        sent.append(update(inbox_id, add(installation_member(new_key()))))
        client.publish(sent[-1])
    (entries,) = client.updates(inbox_id)
    assert [entry.update for entry in entries] == sent, "all of them: this log has no pages"
    ids = [entry.sequence_id for entry in entries]
    assert ids == sorted(set(ids))
    times = [entry.server_timestamp_ns for entry in entries]
    assert times == sorted(times)
    for place in (0, 1, 100, 149):
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


def test_an_inbox_has_at_most_256_updates_and_repetitions_stay_fine(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    for _ in range(255):
        client.publish(update(inbox_id, add(installation_member(new_key()))))
    log = client.log(inbox_id)
    assert len(log) == 256
    with refused(TOO_LARGE):
        client.publish(update(inbox_id, add(installation_member(new_key()))))
    for sent in (log[0], log[100], log[255]):
        client.publish(sent)
    assert client.log(inbox_id) == log


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


def test_the_address_is_taken_in_lower_case(client: NodeClient) -> None:
    address = "0x" + fresh(20).hex().upper()
    client.publish(update(inbox_id_of(address.lower()), create(address)))
    assert client.inbox_ids(address.lower()) == [inbox_id_of(address)]


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


@pytest.mark.parametrize("make", [wallet_signature, installation_signature, passkey_signature])
def test_a_signature_of_an_earlier_update_is_not_used_again(
    client: NodeClient, make: Callable[[], assoc.Signature]
) -> None:
    address = new_address()
    inbox_id = inbox_id_of(address)
    used = [make() for _ in range(5)]
    first = [create(address, signature=used[0]), add(address_member(new_address()), existing=used[1], new=used[2])]
    client.publish(update(inbox_id, *first))
    client.publish(update(inbox_id, revoke(address_member(new_address()), signature=used[3])))
    client.publish(update(inbox_id, change_recovery(new_address(), signature=used[4])))
    log = client.log(inbox_id)
    for signature in used:
        for action in (
            add(address_member(new_address()), existing=signature),
            add(address_member(new_address()), new=signature),
            revoke(address_member(new_address()), signature=signature),
            change_recovery(new_address(), signature=signature),
        ):
            with refused(INVALID):
                client.publish(update(inbox_id, action))
            with refused(INVALID):
                client.publish(update(inbox_id, add(installation_member(new_key())), action))
    assert client.log(inbox_id) == log


def test_within_one_update_a_signature_may_occur_twice(client: NodeClient) -> None:
    address = new_address()
    shared = wallet_signature()
    sent = update(
        inbox_id_of(address),
        create(address, signature=shared),
        add(installation_member(new_key()), existing=shared),
        add(installation_member(new_key()), existing=shared),
    )
    client.publish(sent)
    assert client.log(sent.inbox_id) == [sent]


def test_the_signatures_of_another_inbox_do_not_matter(client: NodeClient) -> None:
    shared = wallet_signature()
    for address in (new_address(), new_address()):
        client.publish(update(inbox_id_of(address), create(address, signature=shared)))
        assert client.inbox_ids(address) == [inbox_id_of(address)]


_NO_SIGNATURE = assoc.Signature()
_ADDRESS = "0x" + "12" * 20
_MEMBER = installation_member(b"\1" * 32)


def _without_signature(kind: str, field: str) -> assoc.IdentityAction:
    """An action that lacks a signature."""
    action = {
        "create_inbox": create(_ADDRESS),
        "add": add(_MEMBER),
        "revoke": revoke(_MEMBER),
        "change_recovery_address": change_recovery(_ADDRESS),
    }[kind]
    getattr(action, kind).ClearField(field)
    return action


@pytest.mark.parametrize(
    "action",
    [
        assoc.IdentityAction(),
        assoc.IdentityAction(add=assoc.AddAssociation()),
        assoc.IdentityAction(revoke=assoc.RevokeAssociation()),
        assoc.IdentityAction(change_recovery_address=assoc.ChangeRecoveryAddress()),
        add(assoc.MemberIdentifier()),
        revoke(assoc.MemberIdentifier()),
        *(add(installation_member(bytes(size))) for size in (0, 31, 33)),
        *(revoke(installation_member(bytes(size))) for size in (0, 31, 33)),
        *(
            make(address_member(text))
            for make in (add, revoke)
            for text in ("", "0x", "12" * 20, "0x" + "12" * 19, "0x" + "12" * 21, "0x" + "zz" * 20, _ADDRESS + "\n")
        ),
        add(passkey_member(b"")),
        change_recovery("nobody"),
        _without_signature("add", "existing_member_signature"),
        _without_signature("add", "new_member_signature"),
        _without_signature("revoke", "recovery_identifier_signature"),
        _without_signature("change_recovery_address", "existing_recovery_identifier_signature"),
        add(_MEMBER, existing=_NO_SIGNATURE),
        add(_MEMBER, new=_NO_SIGNATURE),
        *(add(_MEMBER, existing=wallet_signature(bytes(size))) for size in (0, 64, 66)),
        *(add(_MEMBER, new=installation_signature(bytes(size))) for size in (0, 63, 65)),
        add(_MEMBER, new=installation_signature(key=b"\1" * 31)),
        add(_MEMBER, new=passkey_signature(b"")),
        add(_MEMBER, existing=assoc.Signature(erc_6492=assoc.SmartContractWalletSignature())),
        add(_MEMBER, existing=assoc.Signature(delegated_erc_191=assoc.LegacyDelegatedSignature())),
    ],
)
def test_an_incomplete_action_is_refused_with_its_update(client: NodeClient, action: assoc.IdentityAction) -> None:
    inbox_id, _ = _inbox(client)
    log = client.log(inbox_id)
    other = new_address()
    for actions in ([action], [add(address_member(other)), action], [action, add(address_member(other))]):
        with refused(INVALID):
            client.publish(update(inbox_id, *actions))
    assert client.log(inbox_id) == log
    assert client.inbox_ids(other) == [None], "nothing of a refused update is kept"


@pytest.mark.parametrize("identifier", ["", "0x12", "not an address", "0x" + "12" * 21])
def test_an_inbox_is_not_created_for_what_is_no_address(client: NodeClient, identifier: str) -> None:
    with refused(INVALID):
        client.publish(update(inbox_id_of(identifier), create(identifier)))


def test_every_kind_of_signature_is_accepted(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    delegated = assoc.LegacyDelegatedSignature(
        delegated_key=b"a key", signature=assoc.RecoverableEcdsaSignature(bytes=fresh(65))
    )
    contract = assoc.SmartContractWalletSignature(
        account_id="eip155:1:" + new_address(), block_number=1, signature=fresh(200)
    )
    for signature in (
        wallet_signature(),
        installation_signature(),
        passkey_signature(),
        assoc.Signature(erc_6492=contract),
        assoc.Signature(delegated_erc_191=delegated),
    ):
        client.publish(update(inbox_id, add(address_member(new_address()), new=signature)))
    assert len(client.log(inbox_id)) == 6


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
    key = b"\x02" + fresh(32)
    client.publish(update(inbox_id, add(passkey_member(key), new=passkey_signature())))
    assert client.inbox_ids(key.hex(), key.hex().upper(), kind=PASSKEY) == [inbox_id] * 2
    assert client.inbox_ids(key.hex(), kind=ETHEREUM) == [None]
    client.publish(update(inbox_id, revoke(passkey_member(key))))
    assert client.inbox_ids(key.hex(), kind=PASSKEY) == [None]


def test_an_inbox_of_a_passkey_is_found(client: NodeClient) -> None:
    key = (b"\x03" + fresh(32)).hex()
    client.publish(update(inbox_id_of(key), create(key, kind=PASSKEY, signature=passkey_signature())))
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


def test_case_does_not_matter_for_who_is_revoked(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    address = new_address()
    client.publish(update(inbox_id, add(address_member("0x" + address[2:].upper()))))
    assert client.inbox_ids(address) == [inbox_id]
    client.publish(update(inbox_id, revoke(address_member(address))))
    assert client.inbox_ids(address) == [None]


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
    client.publish(update(inbox_id, revoke(installation_member(key))))
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


def test_the_largest_log_fits_into_one_answer(client: NodeClient) -> None:
    inbox_id, _ = _inbox(client)
    # A signature of a smart contract wallet may have any length.
    large = assoc.Signature(
        erc_6492=assoc.SmartContractWalletSignature(account_id="eip155:1:0x", signature=bytes(60_000))
    )
    for number in range(255):
        large.erc_6492.signature = number.to_bytes(2, "big") + bytes(60_000)
        client.publish(update(inbox_id, revoke(installation_member(new_key()), signature=large)))
    assert len(client.log(inbox_id)) == 256
    large.erc_6492.signature = bytes(64 << 10)
    with refused(TOO_LARGE):
        client.publish(update(inbox_id, revoke(installation_member(new_key()), signature=large)))
