"""Answers that no honest node gives: a typed error or nothing, and afterwards all is well with an honest node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from client.clients import Wallet, additions, create, log_of, path_of, rewritten, said, sync_groups
from network.faulty_node import FaultyNode, Script
from support.node_client import identity_api, mls_api
from xmtp_history import Client, EoaSigner, IdentityError, LocalNode, NetworkError

Updates = identity_api.GetIdentityUpdatesResponse
Messages = mls_api.QueryGroupMessagesResponse
Welcomes = mls_api.QueryWelcomeMessagesResponse

#: What a client looks into.
READ = ["GetIdentityUpdates", "QueryWelcomeMessages", "GetNewestGroupMessage", "QueryGroupMessages", "FetchKeyPackages"]
OTHER_ANSWER = identity_api.GetInboxIdsResponse(
    responses=[identity_api.GetInboxIdsResponse.Response(identifier="0x" + "ab" * 20, inbox_id="cd" * 32)]
).SerializeToString()

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda answer: answer[: len(answer) // 2],
    "cut": lambda answer: answer[:-1],
    "longer": lambda answer: answer + b"\x0a\xff\xff\xff\x7f",
    "twice": lambda answer: answer + answer,
    "another call's": lambda _: OTHER_ANSWER,
}


async def attempt(*calls: Callable[[], Any]) -> list[Exception]:
    """Makes calls, which may fail in a way that callers can expect."""
    errors: list[Exception] = []
    for call in calls:
        try:
            async with asyncio.timeout(20):
                made = await call()
        except (NetworkError, IdentityError) as error:
            errors.append(error)
        else:
            if isinstance(made, Client):
                await made.aclose()
    return errors


async def works(*clients: Client) -> None:
    """All clients read what one of them says, each in its turn."""
    for client in clients:
        await client.sync_all_device_sync_groups()
    for number, client in enumerate(clients):
        content = f"{number} {random.random()}".encode()
        await client.send_sync_message(content)
        for other in clients:
            await other.sync_all_device_sync_groups()
            assert content in await said(other)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("method", READ)
def test_damaged_answers(tmp_path: Path, method: str, damage: str) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet))
            await first.send_sync_message(b"before")
            await first.sync_all_device_sync_groups()
            node.answer(method, rewritten(node, method, DAMAGES[damage]))
            errors = await attempt(
                second.sync_all_device_sync_groups,
                lambda: second.send_sync_message(b"during"),
                second.conversations.sync,
                second.conversations.sync_all,
                second.inbox_state,
                second.rotate_key_package,
                lambda: create(node.url, wallet, tmp_path / "c"),
            )
            # A registered installation is opened whatever becomes of its sync group.
            assert errors or method != "GetIdentityUpdates"
            node.script.clear()
            third = await stack.enter_async_context(await create(node.url, wallet, tmp_path / "c"))
            await works(first, second, third)
            assert b"before" in await said(second)
            ids = [client.installation_id for client in (first, second, third)]
            assert await additions(behind, first.inbox_id) == ids
            for client in (first, second, third):
                assert [info.id for info in (await client.inbox_state(refresh=False)).installations] == ids

    asyncio.run(main())


def _flipped(answer: bytes, choice: random.Random) -> bytes:
    damaged = bytearray(answer)
    for _ in range(choice.choice((1, 1, 1, 5))):
        if damaged:
            damaged[choice.randrange(len(damaged))] ^= 1 << choice.randrange(8)
    return bytes(damaged)


def _flipped_data(answer: bytes, kind: Any, choice: random.Random, groups: list[str]) -> bytes:
    """An answer with messages whose payloads are damaged. Their ids cannot be verified by anybody, and stay."""
    parsed = kind.FromString(answer)
    for message in parsed.messages:
        if kind is Welcomes or message.v1.group_id.hex() in groups:
            message.v1.data = _flipped(message.v1.data, choice)
    return bytes(parsed.SerializeToString())


@pytest.mark.parametrize("method", ["GetInboxIds", "GetIdentityUpdates", "GetNewestGroupMessage", "FetchKeyPackages"])
def test_flipped_bits(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        wallet, choice = Wallet(), random.Random(7)
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet, tmp_path / "b"))
            node.answer(method, rewritten(node, method, lambda answer: _flipped(answer, choice)))
            for _ in range(20):
                await attempt(
                    second.sync_all_device_sync_groups,
                    second.inbox_state,
                    lambda: second.get_inbox_id(wallet.address),
                    lambda: create(node.url, wallet, tmp_path / "c"),
                )
            node.script.clear()
            third = await stack.enter_async_context(await create(node.url, wallet, tmp_path / "c"))
            await second.sync_all_device_sync_groups()
            ids = [client.installation_id for client in (first, second, third)]
            for client in (first, second, third):
                state = await client.inbox_state()
                assert [info.id for info in state.installations] == ids
            await works(second, third)

    asyncio.run(main())


@pytest.mark.parametrize(("method", "kind"), [("QueryGroupMessages", Messages), ("QueryWelcomeMessages", Welcomes)])
def test_flipped_payloads(method: str, kind: Any) -> None:
    async def main() -> None:
        wallet, choice = Wallet(), random.Random(7)
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet))
            await first.sync_all_device_sync_groups()
            # With the commit that goes before it.
            await first.send_sync_message(b"first")
            await second.sync_all_device_sync_groups()
            groups = await sync_groups(second)
            damaged = rewritten(node, method, lambda answer: _flipped_data(answer, kind, choice, groups))
            for number in range(10):
                await first.send_sync_message(b"lost %d" % number)
                node.answer(method, damaged)
                await attempt(second.sync_all_device_sync_groups)
                node.script.clear()
                # What was damaged is lost, as anybody can post rubbish; what follows is not.
                await first.send_sync_message(b"read %d" % number)
                await second.sync_all_device_sync_groups()
                assert b"read %d" % number in await said(second)
            await works(first, second)

    asyncio.run(main())


def test_a_commit_is_lost() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet))
            await first.sync_all_device_sync_groups()
            await first.send_sync_message(b"lost, with the commit before it")

            (group_id,) = await sync_groups(second)

            def damaged(answer: bytes) -> bytes:
                parsed = Messages.FromString(answer)
                for message in parsed.messages:
                    if message.v1.group_id.hex() == group_id:
                        message.v1.data = message.v1.data[:-1] + bytes([message.v1.data[-1] ^ 1])
                return bytes(parsed.SerializeToString())

            node.answer("QueryGroupMessages", rewritten(node, "QueryGroupMessages", damaged))
            await attempt(second.sync_all_device_sync_groups)
            node.script.clear()
            (lost,) = [group for group in await second.groups() if group.maybe_forked]
            assert lost.id == group_id
            assert "commit" in lost.reason
            # The next group brings them together again.
            await first.sync_all_device_sync_groups()
            third = await stack.enter_async_context(await create(node.url, wallet))
            await works(first, third, second)

    asyncio.run(main())


# --- identity logs ----------------------------------------------------------------------------------------------------


def _changed(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed(answer: bytes) -> bytes:
        parsed = Updates.FromString(answer)
        for response in parsed.responses:
            change(response)
        return bytes(parsed.SerializeToString())

    return changed


def _forge(response: Any) -> None:
    for entry in response.updates:
        for action in entry.update.actions:
            action.add.new_member_identifier.installation_public_key = bytes(32)


def _backdate(response: Any) -> None:
    for entry in response.updates:
        entry.update.client_timestamp_ns += 10**9


def _reorder(response: Any) -> None:
    entries = list(response.updates)
    del response.updates[:]
    for entry, number in zip(reversed(entries), [entry.sequence_id for entry in entries], strict=True):
        added = response.updates.add()
        added.CopyFrom(entry)
        added.sequence_id = number


def _replay(response: Any) -> None:
    for entry in list(response.updates):
        added = response.updates.add()
        added.CopyFrom(entry)
        added.sequence_id = entry.sequence_id + 1000


def _unsign(response: Any) -> None:
    for entry in response.updates:
        for action in entry.update.actions:
            action.add.ClearField("existing_member_signature")


def _without_first(response: Any) -> None:
    del response.updates[:1]


def _same_numbers(response: Any) -> None:
    for entry in response.updates:
        entry.sequence_id = 5


def _no_numbers(response: Any) -> None:
    for entry in response.updates:
        entry.sequence_id = 2**63 + entry.sequence_id


#: Of a log that is known but for its last entry, these only hide that.
HIDING = {_without_first, _same_numbers}
FORGERIES = [_forge, _backdate, _reorder, _replay, _unsign, _without_first, _same_numbers, _no_numbers]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_log_is_not_kept(tmp_path: Path, forgery: Callable[[Any], None]) -> None:
    async def main() -> None:
        wallet, other = Wallet(), EoaSigner.create()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first, second = [await stack.enter_async_context(await create(behind.url, wallet)) for _ in range(2)]
            strangers = [await stack.enter_async_context(await create(behind.url, other)) for _ in range(2)]
            stranger = strangers[0]
            ids = [first.installation_id, second.installation_id]
            third = await stack.enter_async_context(await create(node.url, wallet, tmp_path / "c"))
            ids.append(third.installation_id)

            node.answer("GetIdentityUpdates", rewritten(node, "GetIdentityUpdates", _changed(forgery)))
            signed = len(wallet.signed)
            # Of the own inbox, by a new installation.
            with pytest.raises((IdentityError, NetworkError)):
                await create(node.url, wallet, tmp_path / "d")
            assert len(wallet.signed) == signed, "nobody is asked to sign for a log that is not in order"
            # Of another inbox.
            try:
                assert await third.inbox_states([stranger.inbox_id]) == [None]
            except NetworkError:
                assert await third.inbox_states([stranger.inbox_id], refresh=False) == [None]
            node.script.clear()
            (state,) = await third.inbox_states([stranger.inbox_id])
            assert state is not None
            assert [info.id for info in state.installations] == [client.installation_id for client in strangers]

            # Of new entries in a log that is known.
            fourth = await stack.enter_async_context(await create(behind.url, wallet, tmp_path / "d"))
            node.answer("GetIdentityUpdates", rewritten(node, "GetIdentityUpdates", _changed(forgery)))
            # One that hides an entry while the welcome is seen loses the welcome, so only the log is asked for.
            await attempt(third.inbox_state, *[] if forgery in HIDING else [third.sync_all_device_sync_groups])
            known = await third.inbox_state(refresh=False)
            if forgery is not _reorder:
                # One entry is in order.
                assert [info.id for info in known.installations] == ids
            node.script.clear()
            await works(third, fourth)
            known = await third.inbox_state()
            assert [info.id for info in known.installations] == [*ids, fourth.installation_id]

    asyncio.run(main())


def test_an_inbox_of_somebody_else(tmp_path: Path) -> None:
    async def main() -> None:
        victim, wallet = Wallet(), Wallet()
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, victim) as other,
        ):
            named = other.inbox_id.encode()

            def swap(answer: bytes) -> bytes:
                parsed = identity_api.GetInboxIdsResponse.FromString(answer)
                parsed.responses[0].inbox_id = other.inbox_id
                return bytes(parsed.SerializeToString())

            node.answer("GetInboxIds", rewritten(node, "GetInboxIds", swap))
            with pytest.raises(IdentityError):
                await create(node.url, wallet, tmp_path / "a")
            assert wallet.signed == []
            node.answer(
                "GetInboxIds",
                rewritten(node, "GetInboxIds", lambda answer: swap(answer).replace(named, b"e" * 64)),
            )
            with pytest.raises(IdentityError):
                await create(node.url, wallet, tmp_path / "a")
            node.script.clear()
            # The database is not bound to what the node said.
            async with await create(node.url, wallet, tmp_path / "a") as client:
                assert client.inbox_id != other.inbox_id
            assert len(await log_of(behind, other.inbox_id)) == 1

    asyncio.run(main())


def test_the_log_of_another_inbox() -> None:
    async def main() -> None:
        wallet, other = Wallet(), Wallet()
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, other) as stranger,
            await create(node.url, wallet) as client,
        ):

            async def others(_request: bytes, context: Any) -> bytes:
                asked = identity_api.GetIdentityUpdatesRequest(
                    requests=[identity_api.GetIdentityUpdatesRequest.Request(inbox_id=stranger.inbox_id)]
                )
                return await node.forward(path_of("GetIdentityUpdates"), asked.SerializeToString(), context)

            node.answer("GetIdentityUpdates", others)
            for call in (client.inbox_state, client.sync_all_device_sync_groups, client.conversations.sync_all):
                with pytest.raises(NetworkError, match="other inboxes"):
                    await call()

    asyncio.run(main())


def test_older_answers_come_again(tmp_path: Path) -> None:
    """Every call gets, at times, what it was answered before."""

    async def main() -> None:
        wallet, choice = Wallet(), random.Random(3)
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet))
            await first.sync_all_device_sync_groups()
            kept: dict[str, list[bytes]] = {}

            def replaying(method: str) -> Script:
                async def answer(request: bytes, context: Any) -> bytes:
                    fresh = await node.forward(path_of(method), request, context)
                    kept.setdefault(method, []).append(fresh)
                    return choice.choice([fresh, *kept[method]])

                return answer

            for method in READ:
                node.answer(method, replaying(method))
            wanted = []
            for number in range(15):
                wanted.append(b"%d" % number)
                await first.send_sync_message(wanted[-1])
                await attempt(
                    second.sync_all_device_sync_groups,
                    second.conversations.sync_all,
                    lambda: second.send_sync_message(b"mine"),
                )
            node.script.clear()
            await second.sync_all_device_sync_groups()
            assert [content for content in await said(second) if content != b"mine"] == wanted
            await works(first, second)
            assert len(await sync_groups(second)) == 1

    asyncio.run(main())


def test_pages_that_never_end() -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first = await stack.enter_async_context(await create(behind.url, wallet))
            second = await stack.enter_async_context(await create(node.url, wallet))
            await first.send_sync_message(b"x")

            def endless(kind: Any) -> Callable[[bytes], bytes]:
                def change(answer: bytes) -> bytes:
                    parsed = kind.FromString(answer)
                    parsed.paging_info.id_cursor = 2**62
                    return bytes(parsed.SerializeToString())

                return change

            node.answer("QueryGroupMessages", rewritten(node, "QueryGroupMessages", endless(Messages)))
            node.answer("QueryWelcomeMessages", rewritten(node, "QueryWelcomeMessages", endless(Welcomes)))
            async with asyncio.timeout(20):
                await second.sync_all_device_sync_groups()
                await second.send_sync_message(b"y")
            node.script.clear()
            await works(first, second)

    asyncio.run(main())


def test_a_commit_that_never_comes_back() -> None:
    """A node that takes everything and shows nothing is not asked for ever."""

    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node:
            nothing = Messages().SerializeToString()
            node.answer("QueryGroupMessages", nothing)
            async with asyncio.timeout(20), await create(node.url, wallet) as client:
                await attempt(lambda: client.send_sync_message(b"x"), client.sync_all_device_sync_groups)
                assert len(node.calls) < 60
                node.script.clear()
                await client.sync_all_device_sync_groups()
                async with await create(node.url, wallet) as second:
                    await works(client, second)

    asyncio.run(main())


def test_key_packages_of_others(tmp_path: Path) -> None:
    async def main() -> None:
        wallet, other = Wallet(), Wallet()
        async with LocalNode(port=0) as behind, FaultyNode(behind.url) as node, AsyncExitStack() as stack:
            first, second = [await stack.enter_async_context(await create(behind.url, wallet)) for _ in range(2)]
            stranger = await stack.enter_async_context(await create(behind.url, other))
            for count in (1, 2, 3):

                async def strangers(_request: bytes, context: Any, count: int = count) -> bytes:
                    keys = [bytes.fromhex(stranger.installation_id)] * count
                    request = mls_api.FetchKeyPackagesRequest(installation_keys=keys).SerializeToString()
                    return await node.forward(path_of("FetchKeyPackages"), request, context)

                node.answer("FetchKeyPackages", strangers)
                errors = await attempt(lambda: create(node.url, wallet, tmp_path / "c"))
                assert not errors, "it is registered, so it can be opened"
            async with await create(node.url, wallet, tmp_path / "c") as third:
                for group_id in await sync_groups(third):
                    group = await third.group(group_id)
                    assert group is not None
                    assert group.members is not None
                    assert stranger.installation_id not in {member for _, member in group.members}
            assert second.inbox_id == first.inbox_id

    asyncio.run(main())
