"""Inboxes with several installations and accounts, as real libxmtp clients see them through our node."""

from __future__ import annotations

from pathlib import Path

import pytest

from interop.account import Installation, RealFailsError, account_key
from interop.conftest import Start
from interop.proxy import Proxy
from xmtp_history._proto import mls_api_pb2 as pb


@pytest.fixture
def alice(start: Start) -> Installation:
    return start("alice")


def test_six_installations_are_welcomed_through_pointers(proxy: Proxy, start: Start) -> None:
    alice = start("alice", node=proxy.url)
    devices = []
    for number in range(6):
        devices.append(start("bob", f"device {number}"))
        bob_inbox = devices[-1].do("inbox_id")
    group = alice.do("group", [bob_inbox])
    alice.do("send", group, "to all of you")
    keys = sorted(device.do("installation_id") for device in devices)
    assert alice.do("members", group)[bob_inbox] == keys
    for device in devices:
        device.begin("sync")
    for device in devices:
        device.finish()
        assert device.do("texts", group) == ["to all of you"]
    (call,) = proxy.calls_of("SendWelcomeMessages")
    versions = [
        message.WhichOneof("version") for message in pb.SendWelcomeMessagesRequest.FromString(call.request).messages
    ]
    assert sorted(versions) == ["v1", *["welcome_pointer"] * 6]


def test_an_installation_without_a_key_package_is_left_out(proxy: Proxy, start: Start, alice: Installation) -> None:
    first = start("bob")
    bob_inbox = first.do("inbox_id")
    # Whatever else the library says about it, the node never gets it.
    proxy.swallow("UploadKeyPackage", 1000)
    second = start("bob", "second", node=proxy.url)
    assert second.do("inbox_id") == bob_inbox
    assert len(first.do("inbox_state")["installations"]) == 2
    group = alice.do("group", [bob_inbox])
    alice.do("send", group, "hello")
    first.do("sync")
    second.do("sync")
    assert first.do("texts", group) == ["hello"]
    assert second.do("listing") == {}
    first.do("send", group, "hello yourself")
    alice.do("sync")
    assert alice.do("texts", group) == ["hello", "hello yourself"]


def test_an_inbox_without_any_key_package_cannot_be_added(proxy: Proxy, start: Start, alice: Installation) -> None:
    proxy.swallow("UploadKeyPackage", 1000)
    bob_inbox = start("bob", node=proxy.url).do("inbox_id")
    with pytest.raises(RealFailsError, match="verify all installations"):
        alice.do("group", [bob_inbox])


def test_a_second_installation_comes_and_goes(start: Start, alice: Installation) -> None:
    first = start("bob")
    bob_inbox, first_key = first.do("inbox_id"), first.do("installation_id")
    group = alice.do("group", [bob_inbox])
    alice.do("send", group, "before")
    first.do("sync")

    second = start("bob", "second")
    assert second.do("inbox_id") == bob_inbox
    second_key = second.do("installation_id")
    assert first.do("inbox_state")["installations"] == sorted([first_key, second_key])
    _look_again(alice, group, bob_inbox)
    alice.do("send", group, "to both")
    for device in (first, second):
        device.do("sync")
    assert first.do("texts", group) == ["before", "to both"]
    assert second.do("texts", group) == ["to both"]
    second.do("send", group, "from the second one")
    for device in (first, alice):
        device.do("sync")
        assert device.do("texts", group)[-1] == "from the second one"

    first.do("revoke_installation", second_key)
    for device in (first, second):
        assert device.do("inbox_state")["installations"] == [first_key]
    _look_again(alice, group, bob_inbox)
    alice.do("send", group, "to the first one only")
    for device in (first, second):
        device.do("sync")
    assert first.do("texts", group)[-1] == "to the first one only"
    assert second.do("texts", group) == ["to both", "from the second one"]
    assert second.do("is_active", group) is False
    assert alice.do("members", group)[bob_inbox] == [first_key]


def _look_again(member: Installation, group: str, inbox: str) -> None:
    """Makes a member notice at once that an inbox's installations have changed, which it looks at every few seconds."""
    member.do("add", group, [inbox])


def test_a_wallet_comes_and_goes(start: Start, alice: Installation, tmp_path: Path) -> None:
    bob = start("bob")
    wallet = account_key(f"wallet {tmp_path.name}")
    inbox, bob_inbox = alice.do("inbox_id"), bob.do("inbox_id")
    addresses = alice.do("inbox_state")["addresses"]
    assert bob.do("inbox_of", wallet) is None

    alice.do("add_wallet", wallet)
    assert bob.do("inbox_of", wallet) == inbox
    assert len(alice.do("inbox_state")["addresses"]) == 2
    alice.do("revoke_wallet", wallet)
    assert bob.do("inbox_of", wallet) is None
    assert alice.do("inbox_state")["addresses"] == addresses

    # To another inbox, while the first one has it too: the later one counts, as long as it lasts.
    other = account_key(f"other wallet {tmp_path.name}")
    alice.do("add_wallet", other)
    bob.do("add_wallet", other)
    assert alice.do("inbox_of", other) == bob_inbox
    bob.do("revoke_wallet", other)
    assert alice.do("inbox_of", other) == inbox


def test_an_installation_can_be_made_with_an_added_wallet(start: Start, alice: Installation, tmp_path: Path) -> None:
    """The account that signs is found in the inbox of another one."""
    inbox = alice.do("inbox_id")
    alice.do("add_wallet", account_key(f"wallet {tmp_path.name}"))
    assert start("wallet").do("inbox_id") == inbox
    assert len(alice.do("inbox_state")["installations"]) == 2
