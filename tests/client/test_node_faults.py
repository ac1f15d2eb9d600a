"""Nodes that are not there, are killed, hang, or are slow: errors in time, and nothing half-done afterwards."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.clients import (
    Wallet,
    additions,
    create,
    group_messages,
    handed_on,
    log_of,
    path_of,
    rewritten,
    said,
    sync_groups,
    welcomes,
)
from network.faulty_node import FaultyNode, fail, hang, lost
from network.tcp_proxy import TcpProxy
from support.node_client import NodeProcess
from xmtp_history import LocalNode, NetworkError

#: Every method that a client calls.
METHODS = [
    "GetInboxIds",
    "GetIdentityUpdates",
    "UploadKeyPackage",
    "PublishIdentityUpdate",
    "QueryWelcomeMessages",
    "GetNewestGroupMessage",
    "FetchKeyPackages",
    "SendGroupMessages",
    "QueryGroupMessages",
    "SendWelcomeMessages",
]
FAULTS = ["refused", "lost", "hanging", "rubbish"]


def _fault(node: FaultyNode, method: str, name: str) -> Any:
    return {
        "refused": fail(grpc.StatusCode.INVALID_ARGUMENT),
        "lost": lost(node, path_of(method)),
        "hanging": hang,
        "rubbish": rewritten(node, method, lambda _: b"\xff\xff rubbish"),
    }[name]


async def _tell(node: Any, wallet: Wallet, path: Path, content: bytes) -> None:
    """An installation comes, takes part, and says something."""
    async with await create(node.url, wallet, path) as client:
        await client.sync_all_device_sync_groups()
        await client.send_sync_message(content)
        await client.conversations.sync_all()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", METHODS)
def test_each_call_fails(tmp_path: Path, impatient: None, method: str, fault: str) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, wallet, tmp_path / "a") as first,
        ):
            await first.sync_all_device_sync_groups()
            began = time.monotonic()
            failed = 0
            # Each time a later call of the method fails, so that many steps are interrupted; hanging takes its time.
            for nth in [METHODS.index(method) % 3] if fault == "hanging" else range(3):
                node.answer(method, *[handed_on(node, method)] * nth, _fault(node, method, fault))
                try:
                    await _tell(node, wallet, tmp_path / "b", b"%d" % nth)
                except NetworkError as error:
                    failed += 1
                    assert "rubbish" not in str(error)
            assert time.monotonic() - began < 20
            assert failed or fault in {"rubbish", "lost"} or len(node.calls_of(method)) < 4
            node.script.clear()
            await _tell(node, wallet, tmp_path / "b", b"in the end")
            await first.sync_all_device_sync_groups()
            contents = await said(first)
            assert contents.count(b"in the end") == 1
            assert len(contents) == len(set(contents)), "nothing is said twice"
            async with await create(node.url, wallet, tmp_path / "b") as second:
                assert await said(second) == contents
                assert len(await log_of(behind, first.inbox_id)) == 2
                assert await additions(behind, first.inbox_id) == [first.installation_id, second.installation_id]
                assert len(wallet.signed) <= 5
                # No group that was begun is left alone.
                assert await sync_groups(first) == [*(await sync_groups(first))[:1], *await sync_groups(second)]
                for group_id in await sync_groups(second):
                    payloads = await group_messages(behind, group_id)
                    assert len(payloads) == len(set(payloads))
                welcomed = len(await welcomes(behind, first.installation_id))
                assert welcomed == 1 or (method == "SendWelcomeMessages" and fault == "lost")

    asyncio.run(main())


def test_a_node_is_killed_between_calls(tmp_path: Path, real_waits: None) -> None:
    async def main() -> None:
        wallet = Wallet()
        port = 0
        processes = 0
        wanted: list[bytes] = []
        contexts: list[Any] = []

        def start() -> Any:
            nonlocal port, processes
            contexts.append(NodeProcess.start(tmp_path / "node", port))
            process = contexts[-1].__enter__()
            port = int(process.url.rpartition(":")[2])
            processes += 1
            return process

        (tmp_path / "node").mkdir()
        process = await asyncio.to_thread(start)
        try:
            async with (
                await create(process.url, wallet, tmp_path / "a") as first,
                await create(process.url, wallet, tmp_path / "b") as second,
            ):
                for number in range(4):
                    # It is killed while messages are under way, and comes back while they are tried again.
                    sending = asyncio.gather(*(first.send_sync_message(b"%d %d" % (number, n)) for n in range(5)))
                    await asyncio.sleep(0.01 * number)
                    await asyncio.to_thread(process.kill)
                    process = await asyncio.to_thread(start)
                    await sending
                    wanted += [b"%d %d" % (number, n) for n in range(5)]
                    await second.sync_all_device_sync_groups()
                    assert await said(second) == wanted
        finally:
            for context in contexts:
                context.__exit__(None, None, None)

    asyncio.run(main())


def test_half_open_connections(tmp_path: Path, impatient: None) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with (
            LocalNode(port=0) as node,
            TcpProxy(node.url) as proxy,
            await create(proxy.url, wallet, tmp_path / "a") as client,
        ):
            for number in range(3):
                proxy.freeze()
                began = time.monotonic()
                try:
                    await client.send_sync_message(b"%d" % number)
                except NetworkError:
                    await client.sync_all_device_sync_groups()
                assert time.monotonic() - began < 10
            # What was accepted before the failure was sent; what was not is not there.
            contents = await said(client)
            assert sorted(set(contents)) == sorted(contents)
            (group_id,) = await sync_groups(client)
            assert len(await group_messages(node, group_id)) == 1 + len(contents)

    asyncio.run(main())


def test_cut_and_slow_connections(tmp_path: Path) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with LocalNode(port=0) as node, TcpProxy(node.url) as proxy:
            proxy.bytes_a_second = 40_000
            async with (
                await create(proxy.url, wallet, tmp_path / "a") as first,
                await create(node.url, wallet, tmp_path / "b") as second,
            ):
                wanted = [b"%d" % number * 1000 for number in range(5)]
                for content in wanted:
                    await second.send_sync_message(content)
                syncing = asyncio.ensure_future(first.sync_all_device_sync_groups())
                while not syncing.done():
                    await asyncio.sleep(0.05)
                    proxy.cut()
                    proxy.bytes_a_second = None
                await syncing
                assert await said(first) == wanted

    asyncio.run(main())


def test_no_node_ever_answers(tmp_path: Path, impatient: None) -> None:
    async def main() -> None:
        wallet = Wallet()
        async with FaultyNode() as node:
            for method in METHODS:
                node.answer(method, hang)
            began = time.monotonic()
            with pytest.raises(NetworkError, match="DEADLINE_EXCEEDED"):
                await create(node.url, wallet, tmp_path / "a")
            assert time.monotonic() - began < 5
        assert wallet.signed == []

    asyncio.run(main())
