"""Calls that are cancelled at each of their awaits: what they leave behind works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from client.clients import Wallet, additions, create, group_messages, key_package, log_of, said, sync_groups
from support.node_client import quiet_port
from xmtp_history import Client, LocalNode, NetworkError

#: More awaits than any call makes.
ENDLESS = 2000


class _Cancelled:
    """Awaits a coroutine, and cancels its task at the so-many-th await."""

    def __init__(self, work: Coroutine[Any, Any, Any], at: int) -> None:
        self._work = work
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._work.__await__()
        error: BaseException | None = None
        while True:
            try:
                waiting = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return end.value
            error = None
            self._at -= 1
            if self._at == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waiting
            except BaseException as raised:  # noqa: BLE001 - it goes where it belongs
                error = raised


async def cancelled(work: Coroutine[Any, Any, Any], at: int) -> bool:
    """Runs work, cancelling it at an await. Returns whether it was cancelled, and not over before."""

    async def run() -> Any:
        return await _Cancelled(work, at)

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    if task.cancelled():
        return True
    task.result()
    return False


async def at_each_await(call: Callable[[], Coroutine[Any, Any, Any]], then: Callable[[], Awaitable[None]]) -> int:
    """Cancels a call at each of its awaits. Returns how many there were."""
    for at in range(1, ENDLESS):
        was_cancelled = await cancelled(call(), at)
        await then()
        if not was_cancelled:
            return at
    raise AssertionError("it never ends")


Call = Callable[[Client], Coroutine[Any, Any, Any]]

CALLS: dict[str, Call] = {
    "sync_all_device_sync_groups": lambda client: client.sync_all_device_sync_groups(),
    "send_sync_message": lambda client: client.send_sync_message(b"mine"),
    "sync": lambda client: client.conversations.sync(),
    "sync_all": lambda client: client.conversations.sync_all(),
    "rotate_key_package": lambda client: client.rotate_key_package(),
    "inbox_state": lambda client: client.inbox_state(),
    "sync_group_messages": lambda client: client.sync_group_messages(),
    "groups": lambda client: client.groups(),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as other:
            async with await create(node.url, wallet, tmp_path / "a") as client:
                await other.sync_all_device_sync_groups()
                sent: list[bytes] = []

                async def prepare() -> None:
                    # So that there is something to do for the call.
                    sent.append(b"%d" % len(sent))
                    await other.send_sync_message(sent[-1])

                await prepare()
                awaits = await at_each_await(lambda: CALLS[name](client), prepare)
                assert awaits > 1
                await client.sync_all_device_sync_groups()
                await other.sync_all_device_sync_groups()
                assert [content for content in await said(client) if content != b"mine"] == sent
                # Each cancelled call said it once, or not at all.
                assert await said(other) == await said(client)
                mine = (await said(client)).count(b"mine")
                assert (1 <= mine <= awaits) if name == "send_sync_message" else mine == 0
                (group_id,) = await sync_groups(client)
                payloads = await group_messages(node, group_id)
                assert len(payloads) == len(set(payloads))
                assert await key_package(node, client.installation_id)
            async with await create(node.url, wallet, tmp_path / "a") as client:
                await client.send_sync_message(b"the end")
                await other.sync_all_device_sync_groups()
                assert (await said(other))[-1] == b"the end"
            assert len(wallet.signed) == 2

    asyncio.run(main())


def test_opening_and_closing(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as other:
            clients: list[Client] = []

            async def opening() -> None:
                clients.append(await create(node.url, wallet, tmp_path / "a"))

            async def closing() -> None:
                while clients:
                    await clients.pop().aclose()

            assert await at_each_await(opening, closing) > 20
            ids = await additions(node, other.inbox_id)
            assert len(ids) == len(await log_of(node, other.inbox_id)) == 2
            await opening()
            assert clients[0].installation_id == ids[1]
            await other.sync_all_device_sync_groups()
            # One group of its own, although it was cancelled while making it.
            assert await sync_groups(other) == [*(await sync_groups(other))[:1], *await sync_groups(clients[0])]
            assert len(await sync_groups(clients[0])) == 1

            async def close() -> None:
                await clients[0].aclose()

            async def reopen() -> None:
                # Also a cancelled closing closes, at once.
                clients[:] = []
                await opening()

            await at_each_await(close, reopen)
            await clients[0].send_sync_message(b"the end")
            await other.sync_all_device_sync_groups()
            assert await said(other) == [b"the end"]
            await closing()

    asyncio.run(main())


def test_closing_while_calls_are_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as other:
            for number in range(30):
                client = await create(node.url, wallet, tmp_path / "a")
                calls: list[asyncio.Future[Any]] = [
                    asyncio.ensure_future(client.send_sync_message(b"%d" % number)),
                    asyncio.ensure_future(client.sync_all_device_sync_groups()),
                    asyncio.ensure_future(client.conversations.sync_all()),
                ]
                for _ in range(random.randrange(400)):
                    await asyncio.sleep(0)
                await client.aclose()
                async with asyncio.timeout(10):
                    results = await asyncio.gather(*calls, return_exceptions=True)
                for result in results:
                    if isinstance(result, BaseException):
                        assert isinstance(result, RuntimeError | ValueError | NetworkError), repr(result)
                        assert "clos" in str(result)
            async with await create(node.url, wallet, tmp_path / "a") as client:
                await client.send_sync_message(b"the end")
                await other.sync_all_device_sync_groups()
                contents = await said(other)
                assert contents == await said(client)
                assert len(set(contents)) == len(contents)

    asyncio.run(main())


def test_revoking(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as client:
            for at in range(1, 60, 4):
                async with await create(node.url, wallet) as other:
                    await client.sync_all_device_sync_groups()
                    was_cancelled = await cancelled(client.revoke_installations([other.installation_id]), at)
                    state = await client.inbox_state()
                    if other.installation_id in {info.id for info in state.installations}:
                        await client.revoke_installations([other.installation_id])
                    await client.sync_all_device_sync_groups()
                    newest = max(await client.groups(), key=lambda group: group.created_at_ns)
                    group = await client.group(newest.id)
                    assert group is not None
                    assert group.members == ((client.inbox_id, client.installation_id),)
                if not was_cancelled:
                    break

    asyncio.run(main())


def test_waiting_for_a_node(tmp_path: Path, real_waits: None) -> None:
    async def main() -> None:
        wallet = Wallet()
        port = quiet_port()
        async with LocalNode(tmp_path / "node", port=port) as node:
            client = await create(node.url, wallet, tmp_path / "a")
        for pause in (0, 0.01, 0.2):
            task = asyncio.ensure_future(client.send_sync_message(b"in vain"))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with LocalNode(tmp_path / "node", port=port), client:
            await client.send_sync_message(b"at last")
            assert (await said(client))[-1] == b"at last"

    asyncio.run(main())
