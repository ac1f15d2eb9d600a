"""Every call, with a real node."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable

import grpc
import pytest

from network.faulty_node import FaultyNode, fail, lost
from network.requests import publication, sending, welcoming
from support.node_client import (
    INVALID,
    KeyPackage,
    created_inbox,
    identity_api,
    installation_member,
    mls_api,
    new_address,
    new_group,
    new_key,
    pointer_input,
    private_message,
    sized_message,
    update,
    welcome_input,
)
from support.node_client import add as adding
from xmtp_history import LocalNode, NetworkError
from xmtp_history.network import NodeApi, NodeError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

Test = Callable[[NodeApi], Awaitable[None]]


def with_node(test: Test) -> Callable[[], None]:
    """Runs a test with a node of its own."""

    @functools.wraps(test)
    def run() -> None:
        async def main() -> None:
            async with LocalNode(port=0) as node, NodeApi(node.url) as api:
                await test(api)

        asyncio.run(main())

    del run.__wrapped__
    return run


# --- identity ---------------------------------------------------------------------------------------------------------


@with_node
async def test_inbox_ids(api: NodeApi) -> None:
    addresses = [new_address() for _ in range(3)]
    inboxes = [created_inbox(address) for address in addresses[:2]]
    for inbox in inboxes:
        await api.publish_identity_update(publication(inbox))
    asked = [addresses[1].upper().replace("X", "x"), addresses[2], addresses[0], addresses[1]]
    expected = [inboxes[1].inbox_id, None, inboxes[0].inbox_id, inboxes[1].inbox_id]
    assert await api.get_inbox_ids(asked) == expected
    assert await api.get_inbox_ids([]) == []


@with_node
async def test_inbox_ids_of_thousands(api: NodeApi) -> None:
    address = new_address()
    inbox = created_inbox(address)
    await api.publish_identity_update(publication(inbox))
    asked = [new_address() for _ in range(2500)]
    asked[1999] = address
    assert await api.get_inbox_ids(asked) == [None] * 1999 + [inbox.inbox_id] + [None] * 500


@with_node
async def test_identity_updates(api: NodeApi) -> None:
    inbox = created_inbox(new_address())
    second = update(inbox.inbox_id, adding(installation_member(new_key())))
    await api.publish_identity_update(publication(inbox))
    await api.publish_identity_update(publication(second))
    unknown = [f"{number:064x}" for number in range(119)]
    asked = [(inbox_id, 0) for inbox_id in unknown]
    asked.insert(60, (inbox.inbox_id, 0))
    raw = await api.get_identity_updates(asked)
    answers = [identity_api.GetIdentityUpdatesResponse.FromString(answer) for answer in raw]
    assert [len(answer.responses) for answer in answers] == [50, 50, 20]
    responses = [response for answer in answers for response in answer.responses]
    assert [response.inbox_id for response in responses] == [inbox_id for inbox_id, _ in asked]
    assert [entry.update for entry in responses[60].updates] == [inbox, second]
    (later,) = await api.get_identity_updates([(inbox.inbox_id, responses[60].updates[0].sequence_id)])
    (response,) = identity_api.GetIdentityUpdatesResponse.FromString(later).responses
    assert [entry.update for entry in response.updates] == [second]
    assert await api.get_identity_updates([]) == []


@with_node
async def test_smart_contract_wallets(api: NodeApi) -> None:
    request = identity_api.VerifySmartContractWalletSignaturesRequest()
    request.signatures.add(account_id="eip155:1:0x" + "1" * 40, signature=b"s", hash=bytes(32))
    answer = await api.verify_smart_contract_wallet_signatures(request.SerializeToString())
    responses = identity_api.VerifySmartContractWalletSignaturesResponse.FromString(answer).responses
    assert [response.is_valid for response in responses] == [False]


# --- key packages -----------------------------------------------------------------------------------------------------


@with_node
async def test_key_packages(api: NodeApi) -> None:
    packages = [KeyPackage() for _ in range(2)]
    for package in packages:
        await api.upload_key_package(package.encode())
    keys = [packages[1].signature_key, new_key(), packages[0].signature_key]
    answer = mls_api.FetchKeyPackagesResponse.FromString(await api.fetch_key_packages(keys))
    expected = [packages[1].encode(), b"", packages[0].encode()]
    assert [entry.key_package_tls_serialized for entry in answer.key_packages] == expected


# --- messages ---------------------------------------------------------------------------------------------------------


@with_node
async def test_pages_of_messages(api: NodeApi) -> None:
    group_id = new_group()
    sent = [private_message(group_id, b"%d" % number) for number in range(250)]
    await api.send_group_messages(sending(*sent))
    cursor, sizes, got = 0, [], []
    while True:
        page = mls_api.QueryGroupMessagesResponse.FromString(await api.query_group_messages(group_id, cursor))
        sizes.append(len(page.messages))
        got += [message.v1.data for message in page.messages]
        if not page.paging_info.id_cursor:
            break
        cursor = page.paging_info.id_cursor
    assert sizes == [100, 100, 50]
    assert got == sent
    few = mls_api.QueryGroupMessagesResponse.FromString(await api.query_group_messages(group_id, 0, 3))
    assert [message.v1.data for message in few.messages] == sent[:3]


@with_node
async def test_newest_messages(api: NodeApi) -> None:
    asked = [new_group() for _ in range(2500)]
    known = {
        number: sending(private_message(asked[number]), private_message(asked[number], b"x")) for number in (7, 2400)
    }
    for request in known.values():
        await api.send_group_messages(request)
    newest = await api.newest_group_messages(asked)
    assert {number: message_id for number, message_id in enumerate(newest) if message_id is not None} == {7: 2, 2400: 4}
    assert len(newest) == 2500
    assert await api.newest_group_messages([]) == []


@with_node
async def test_welcomes(api: NodeApi) -> None:
    key = new_key()
    await api.send_welcome_messages(welcoming(welcome_input(key, b"one"), pointer_input(key, b"two")))
    answer = mls_api.QueryWelcomeMessagesResponse.FromString(await api.query_welcome_messages(key, 0))
    first, second = answer.messages
    assert (first.v1.data, second.welcome_pointer.welcome_pointer) == (b"one", b"two")
    after = await api.query_welcome_messages(key, first.v1.id)
    assert list(mls_api.QueryWelcomeMessagesResponse.FromString(after).messages) == [second]


@with_node
async def test_large_messages_of_a_group_come_in_more_pages(api: NodeApi) -> None:
    group_id = new_group()
    for number in range(8):
        await api.send_group_messages(sending(sized_message(group_id, 4_500_000, number)))
    cursor, count = 0, 0
    while True:
        page = mls_api.QueryGroupMessagesResponse.FromString(await api.query_group_messages(group_id, cursor))
        count += len(page.messages)
        if not page.paging_info.id_cursor:
            break
        cursor = page.paging_info.id_cursor
    assert count == 8


# --- writes whose answer is lost --------------------------------------------------------------------------------------


def test_writes_are_repeated_and_stored_once() -> None:
    async def main() -> None:
        group_id, key, address, package = new_group(), new_key(), new_address(), KeyPackage()
        async with LocalNode(port=0) as real, FaultyNode(real.url) as node, NodeApi(node.url) as api:
            mls, identity = "/xmtp.mls.api.v1.MlsApi/", "/xmtp.identity.api.v1.IdentityApi/"
            for service, method in (
                (mls, "SendGroupMessages"),
                (mls, "SendWelcomeMessages"),
                (mls, "UploadKeyPackage"),
                (identity, "PublishIdentityUpdate"),
            ):
                path = service + method
                node.answer(method, *[lost(node, path)] * 2, functools.partial(node.forward, path))
            await api.send_group_messages(sending(private_message(group_id)))
            await api.send_welcome_messages(welcoming(welcome_input(key, b"welcome")))
            await api.upload_key_package(package.encode())
            inbox = created_inbox(address)
            await api.publish_identity_update(publication(inbox))
            assert len(node.calls) == 4 * 3
            page = mls_api.QueryGroupMessagesResponse.FromString(await api.query_group_messages(group_id, 0))
            assert len(page.messages) == 1
            welcomes = mls_api.QueryWelcomeMessagesResponse.FromString(await api.query_welcome_messages(key, 0))
            assert len(welcomes.messages) == 1
            (log,) = await api.get_identity_updates([(inbox.inbox_id, 0)])
            assert len(identity_api.GetIdentityUpdatesResponse.FromString(log).responses[0].updates) == 1

    asyncio.run(main())


@pytest.mark.parametrize("stored", [True, False])
def test_a_node_that_refuses_an_update_the_second_time(stored: bool) -> None:
    async def main() -> None:
        inbox = created_inbox(new_address())
        async with LocalNode(port=0) as real, FaultyNode(real.url) as node, NodeApi(node.url) as api:
            path = "/xmtp.identity.api.v1.IdentityApi/PublishIdentityUpdate"
            first = lost(node, path) if stored else fail(UNAVAILABLE)
            node.answer("PublishIdentityUpdate", first, fail(INVALID, "multiple create operations"))
            if stored:
                await api.publish_identity_update(publication(inbox))
            else:
                with pytest.raises(NodeError) as caught:
                    await api.publish_identity_update(publication(inbox))
                assert caught.value.code == "INVALID_ARGUMENT"
                assert caught.value.uncertain
            assert len(node.calls_of("PublishIdentityUpdate")) == 2

    asyncio.run(main())


def test_what_is_refused_at_once_is_certain() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url) as api:
            node.answer("PublishIdentityUpdate", fail(INVALID))
            with pytest.raises(NetworkError) as caught:
                await api.publish_identity_update(publication(created_inbox(new_address())))
            assert isinstance(caught.value, NodeError)
            assert not caught.value.uncertain
            assert len(node.calls) == 1

    asyncio.run(main())


# --- what the node is told --------------------------------------------------------------------------------------------


def test_headers() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url, app_version="my-bot/1.0 (test)", timeout=30) as api:
            node.answer("SendGroupMessages", b"")
            await api.send_group_messages(b"")
            (call,) = node.calls
            assert call.metadata["x-app-version"] == "my-bot/1.0 (test)"
            assert call.metadata["x-libxmtp-version"] == "1.10.0"
            assert call.metadata["user-agent"].startswith("xmtp-history/")
            assert call.metadata.get("grpc-accept-encoding", "identity") == "identity"
            assert call.seconds is not None
            assert 10 < call.seconds < 16  # gRPC rounds up

    asyncio.run(main())


# --- arguments --------------------------------------------------------------------------------------------------------


@with_node
async def test_arguments_are_checked(api: NodeApi) -> None:
    key, group_id = new_key(), new_group()
    for wrong in (
        lambda: api.get_inbox_ids(["0x12"]),
        lambda: api.get_inbox_ids([new_address(), new_address() + "\n"]),
        lambda: api.get_identity_updates([("A" * 64, 0)]),
        lambda: api.get_identity_updates([("a" * 64, -1)]),
        lambda: api.fetch_key_packages([key, key[1:]]),
        lambda: api.query_group_messages(b"", 0),
        lambda: api.query_group_messages(bytes(256), 0),
        lambda: api.query_group_messages(group_id, -1),
        lambda: api.query_group_messages(group_id, 1 << 63),
        lambda: api.query_group_messages(group_id, 0, 0),
        lambda: api.query_welcome_messages(key, 0, 101),
        lambda: api.query_welcome_messages(key + b"1", 0),
        lambda: api.newest_group_messages([group_id, b""]),
    ):
        with pytest.raises(ValueError) as caught:
            await wrong()
        assert key.hex() not in str(caught.value)
    with pytest.raises(TypeError):
        await api.query_group_messages(group_id.hex(), 0)  # type: ignore[arg-type]
