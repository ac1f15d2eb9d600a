"""What the installations of an inbox tell each other, and who can read it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from client.clients import (
    Wallet,
    all_messages,
    build,
    create,
    group_messages,
    key_package,
    said,
    sync_groups,
    welcomes,
)
from network.faulty_node import FaultyNode
from support.node_client import identity_api, mls_api
from xmtp_history import Client, GroupState, LocalNode, NotRegistered


async def sync(*clients: Client) -> None:
    for client in clients:
        await client.sync_all_device_sync_groups()


async def primary_members(client: Client) -> set[str]:
    """Who is in the sync group that was made or joined last."""
    groups = [group for group in await client.groups() if group.is_sync_group]
    newest = max(groups, key=lambda group: group.created_at_ns)
    group = await client.group(newest.id)
    assert group is not None
    assert group.members is not None
    assert {inbox_id for inbox_id, _ in group.members} == {client.inbox_id}
    return {installation_id for _, installation_id in group.members}


def test_messages_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node:
            async with await create(node.url, wallet, tmp_path / "a") as first:
                lone = await sync_groups(first)
                assert len(lone) == 1
                await first.send_sync_message(b"nobody but me")
                async with await create(node.url, wallet, tmp_path / "b") as second:
                    assert len(await sync_groups(second)) == 1
                    sent = await second.send_sync_message(b"from the second")
                    await sync(first)
                    assert await sync_groups(first) == [*lone, *(await sync_groups(second))]
                    assert await primary_members(first) == {first.installation_id, second.installation_id}
                    answer = await first.send_sync_message(b"from the first")
                    await sync(second)
                    # What was said before it came is not for the second.
                    assert await said(second) == [b"from the second", b"from the first"]
                    assert await said(first) == [b"nobody but me", b"from the second", b"from the first"]
                    messages = await all_messages(second)
                    assert [message.id for message in messages] == [sent, answer]
                    assert [message.sender_installation_id for message in messages] == [
                        second.installation_id,
                        first.installation_id,
                    ]
                    assert {message.sender_inbox_id for message in messages} == {first.inbox_id}
                    assert await all_messages(first, messages[0].group_id) == messages
                    assert (await second.sync_group_messages(after=messages[0].sequence_id))[-1:] == messages[1:]
                    assert await second.sync_group_messages(limit=1) == messages[:1]
                    assert first.history.counts().conversations == 0
                    assert first.conversations.list() == ()
                    epochs = [await client.group(messages[0].group_id) for client in (first, second)]
                    assert len({group.epoch_authenticator for group in epochs if group is not None}) == 1
            async with await build(node.url, tmp_path / "a") as first, await build(node.url, tmp_path / "b") as second:
                await first.send_sync_message(b"after a restart")
                await sync(second)
                await second.send_sync_message(b"the same")
                await sync(first)
                assert (await said(first))[1:] == await said(second)
                assert (await said(first))[-2:] == [b"after a restart", b"the same"]

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", b"\x00" * 100_000, bytes(range(256))])
def test_contents(content: bytes) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as first,
            await create(node.url, wallet) as second,
        ):
            await second.send_sync_message(content)
            await second.send_sync_message(content)
            await sync(first)
            assert await said(first) == [content, content]
            assert len({message.id for message in await all_messages(first)}) == 2

    asyncio.run(main())


def test_many_messages_at_once() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as first,
            await create(node.url, wallet) as second,
        ):
            await sync(first)
            wanted = [b"%d" % number for number in range(60)]
            # Several calls of one client at the same time take turns.
            await asyncio.gather(*(second.send_sync_message(content) for content in wanted[:30]))
            await asyncio.gather(
                *(client.send_sync_message(content) for client in (first, second) for content in wanted[30:45]),
                *(client.sync_all_device_sync_groups() for client in (first, second) for _ in range(3)),
            )
            await sync(first, second)
            expected = sorted([*wanted[:30], *wanted[30:45] * 2])
            for client in (first, second):
                assert sorted(await said(client)) == expected
            assert await said(first) == await said(second)

    asyncio.run(main())


def test_pages_of_messages() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as first,
            await create(node.url, wallet) as second,
        ):
            wanted = [b"%d" % number for number in range(130)]
            for content in wanted:
                await second.send_sync_message(content)
            summary = await first.sync_all_device_sync_groups()
            assert summary.num_synced >= 1
            assert await said(first) == wanted
            assert (await first.sync_all_device_sync_groups()).num_synced == 0

    asyncio.run(main())


def test_two_make_their_groups_at_the_same_time(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as third, AsyncExitStack() as stack:
            paths = [tmp_path / "a", tmp_path / "b"]
            for path in paths:
                await (await create(node.url, wallet, path, disable_device_sync=True)).aclose()
            opened = await asyncio.gather(*(create(node.url, wallet, path) for path in paths))
            first, second = [await stack.enter_async_context(client) for client in opened]
            await sync(first, second, third, first, second)
            everybody = {client.installation_id for client in (first, second, third)}
            for client in (first, second, third):
                assert await primary_members(client) == everybody
            # Whichever group each of them talks in, all read it.
            for name, client in ((b"1", first), (b"2", second), (b"3", third)):
                await client.send_sync_message(name)
            await sync(first, second, third)
            for client in (first, second, third):
                assert sorted(await said(client)) == [b"1", b"2", b"3"]

    asyncio.run(main())


def test_two_register_at_the_same_time() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, AsyncExitStack() as stack:
            opened = await asyncio.gather(create(node.url, wallet), create(node.url, wallet))
            # Both may have meant to create the inbox.
            first, second = [await stack.enter_async_context(client) for client in opened]
            assert first.inbox_id == second.inbox_id
            await sync(first, second, first, second)
            for name, client in ((b"1", first), (b"2", second)):
                await client.send_sync_message(name)
                await sync(first, second)
            for client in (first, second):
                assert sorted(await said(client)) == [b"1", b"2"]

    asyncio.run(main())


def test_a_third_installation_comes_in_between() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet) as first,
            await create(node.url, wallet) as second,
        ):
            await second.send_sync_message(b"request")
            await sync(first)
            async with await create(node.url, wallet) as third:
                await sync(first)
                await first.send_sync_message(b"reply")
                await sync(second, third)
                # The reply came in the third one's group, and the second has both.
                assert await said(second) == [b"request", b"reply"]
                assert await said(third) == [b"reply"]
                assert await said(first) == [b"request", b"reply"]

    asyncio.run(main())


@pytest.mark.parametrize("other_revokes", [False, True])
def test_after_a_revocation_there_is_a_fresh_group(tmp_path: Path, other_revokes: bool) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, AsyncExitStack() as stack:
            clients: list[Client] = []
            for name in "abc":
                clients.append(await stack.enter_async_context(await create(node.url, wallet, tmp_path / name)))
                await sync(*clients)
            first, second, revoked = clients
            await first.send_sync_message(b"to all three")
            await sync(second, revoked)
            known = await sync_groups(revoked)
            sent_before = {group_id: len(await group_messages(node, group_id)) for group_id in known}
            welcomed = len(await welcomes(node, revoked.installation_id))
            revoker, other = (second, first) if other_revokes else (first, second)
            await revoker.revoke_installations([revoked.installation_id])
            for client in (revoker, other):
                await sync(client)
                assert await primary_members(client) == {first.installation_id, second.installation_id}
            # It knows from the log that there was one; it does not make a group of its own for that.
            await first.send_sync_message(b"secret of the first")
            await sync(second)
            await second.send_sync_message(b"secret of the second")
            await sync(first)
            for client in (first, second):
                assert (await said(client))[-2:] == [b"secret of the first", b"secret of the second"]
            # Nothing more was said where the revoked one listens, and it was not told of the new group.
            assert {group_id: len(await group_messages(node, group_id)) for group_id in known} == sent_before
            assert len(await welcomes(node, revoked.installation_id)) == welcomed
            with pytest.raises(NotRegistered):
                await sync(revoked)
            assert b"secret of the first" not in await said(revoked)

    asyncio.run(main())


def test_what_a_revoked_installation_says_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, wallet) as first,
            await create(node.url, wallet, tmp_path / "b") as revoked,
        ):
            await sync(first)
            # It does not learn of its revocation: its node goes on giving it an old log.
            await first.revoke_installations([revoked.installation_id])

            async def nothing_new(request: bytes, _context: object) -> bytes:
                asked = identity_api.GetIdentityUpdatesRequest.FromString(request).requests
                responses = [identity_api.GetIdentityUpdatesResponse.Response(inbox_id=one.inbox_id) for one in asked]
                return identity_api.GetIdentityUpdatesResponse(responses=responses).SerializeToString()

            node.answer("GetIdentityUpdates", nothing_new)
            await revoked.send_sync_message(b"from the revoked one")
            await sync(first)
            assert await said(first) == []
            # The others get on.
            await first.send_sync_message(b"from the first")
            assert await said(first) == [b"from the first"]

    asyncio.run(main())


def test_without_device_sync_there_is_no_group(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            await create(node.url, wallet, tmp_path / "a", disable_device_sync=True) as quiet,
        ):
            assert await quiet.groups() == []
            await sync(quiet)
            assert await quiet.groups() == []
            # It is welcome to those of others, all the same.
            async with await create(node.url, wallet) as second:
                await second.send_sync_message(b"hello")
                await sync(quiet)
                assert await said(quiet) == [b"hello"]
                await second.revoke_all_other_installations()
            with pytest.raises(NotRegistered):
                await sync(quiet)

    asyncio.run(main())


def test_an_installation_without_a_usable_key_package(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            opening = [create(behind.url, wallet) for _ in range(2)]
            first, second = [await stack.enter_async_context(await client) for client in opening]

            async def one_is_missing(request: bytes, _context: object) -> bytes:
                keys = mls_api.FetchKeyPackagesRequest.FromString(request).installation_keys
                packages = [
                    b"" if key.hex() == first.installation_id else await key_package(behind, key.hex()) for key in keys
                ]
                answers = [
                    mls_api.FetchKeyPackagesResponse.KeyPackage(key_package_tls_serialized=data) for data in packages
                ]
                return mls_api.FetchKeyPackagesResponse(key_packages=answers).SerializeToString()

            node.answer("FetchKeyPackages", one_is_missing)
            third = await stack.enter_async_context(await create(node.url, wallet))
            assert await primary_members(third) == {second.installation_id, third.installation_id}
            await third.send_sync_message(b"to the second")
            await sync(second, first)
            assert await said(second) == [b"to the second"]
            assert await said(first) == []
            states = {group.state for group in await second.groups()}
            assert states == {GroupState.ACTIVE}

    asyncio.run(main())
