"""A client that is killed without notice, at any moment, and started again on the same database."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from client.clients import (
    Wallet,
    additions,
    all_messages,
    build,
    create,
    group_messages,
    handed_on,
    held,
    log_of,
    said,
    sync_groups,
    welcomes,
)
from network.faulty_node import FaultyNode
from support import child
from xmtp_history import EoaSigner, LocalNode

#: Makes workers by forking, because loading the package takes longer than what a worker lives.
_FORKS = """
import asyncio, os, sys
from client.clients import Wallet, create
from xmtp_history import EoaSigner
import eth_account.messages

async def work(url, path, key, run):
    wallet = Wallet(EoaSigner.from_key(key))
    async with await create(url, wallet, path) as client:
        number = 0
        while True:
            await client.sync_all_device_sync_groups()
            await client.send_sync_message(f"child {run} {number}".encode())
            await client.conversations.sync_all()
            number += 1
            if number == 2:
                os.write(1, b"done\\n")

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(work(*line.split()))
        finally:
            os._exit(1)
    os.write(1, b"%d\\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(1, b"ended %d\\n" % os.waitstatus_to_exitcode(status))
"""


class Worker:
    """Runs clients on one database, one after another."""

    def __init__(self, process: subprocess.Popen[str], path: Path, key: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._path = path
        self._key = key
        self._runs = 0
        self._pid = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pid:
            await self.kill()

    async def run(self, url: str) -> None:
        """Starts a client."""
        self._in.write(f"{url} {self._path} {self._key} {self._runs}\n")
        self._in.flush()
        self._runs += 1
        self._pid = int(await self.line())

    async def line(self) -> str:
        """The next thing that it says."""
        async with asyncio.timeout(30):
            return str(await asyncio.to_thread(self._out.readline)).strip()

    async def kill(self, reading: asyncio.Future[str] | None = None) -> None:
        """Kills the client, while its next line is being read, perhaps."""
        os.kill(self._pid, signal.SIGKILL)
        self._pid = 0
        line = await (reading or self.line())
        while line == "done":
            line = await self.line()
        assert line == f"ended {-signal.SIGKILL}"


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """What makes the workers."""
    with child.start(_FORKS) as process:
        yield process
        _, errors = process.communicate(timeout=30)
        assert errors == ""


def _key() -> tuple[str, Wallet]:
    key = random.randbytes(32).hex()
    return key, Wallet(EoaSigner.from_key(key))


async def _check(node: LocalNode, parent: Any, wallet: Wallet, path: Path, sent: list[bytes]) -> None:
    """Everything is there, once."""
    async with await create(node.url, wallet, path) as killed:
        await parent.sync_all_device_sync_groups()
        await killed.sync_all_device_sync_groups()
        assert len(wallet.signed) <= 1, "the parent's own; nobody was asked again"
        added = await additions(node, parent.inbox_id)
        assert added == [parent.installation_id, killed.installation_id]
        assert len(await log_of(node, parent.inbox_id)) == 2
        messages = await all_messages(killed)
        contents = [message.content for message in messages]
        assert [content for content in contents if content.startswith(b"parent")] == sent
        assert len(set(contents)) == len(contents)
        # The parent has all that was said where both are: nothing of ours was lost or said twice.
        assert [message for message in await all_messages(parent) if message.content not in sent] == [
            message for message in messages if message.content not in sent
        ]
        assert all(message.sequence_id for message in messages)
        # One group was made, with one commit for the one key update that was due, if any; nothing was sent twice.
        (group_id,) = await sync_groups(killed)
        payloads = await group_messages(node, group_id)
        assert len(payloads) == len(set(payloads))
        await killed.send_sync_message(b"the end")
        await parent.sync_all_device_sync_groups()
        assert b"the end" in await said(parent)


@pytest.mark.parametrize(
    "method",
    [
        "GetInboxIds",
        "GetIdentityUpdates",
        "UploadKeyPackage",
        "PublishIdentityUpdate",
        "QueryWelcomeMessages",
        "FetchKeyPackages",
        "SendGroupMessages",
        "QueryGroupMessages",
        "SendWelcomeMessages",
    ],
)
def test_killed_at_a_call(tmp_path: Path, forks: subprocess.Popen[str], method: str) -> None:
    async def main() -> None:
        key, wallet = _key()
        async with (
            LocalNode(port=0) as behind,
            FaultyNode(behind.url) as node,
            await create(behind.url, wallet) as parent,
            Worker(forks, tmp_path / "b", key) as worker,
        ):
            sent: list[bytes] = []
            # Before and after the node did its work, and then at the next such call.
            for after, skipped in ((False, 0), (True, 0), (False, 1), (True, 1)):
                arrived = asyncio.Event()
                passed = [handed_on(node, method)] * skipped
                node.answer(method, *passed, held(node, method, arrived, after=after))
                await worker.run(node.url)
                reached = asyncio.ensure_future(arrived.wait())
                # Some calls are made only once in a life.
                done = asyncio.ensure_future(worker.line())
                await asyncio.wait([reached, done], return_when=asyncio.FIRST_COMPLETED)
                if done.done():
                    assert done.result() == "done"
                await worker.kill(None if done.done() else done)
                reached.cancel()
                node.script.clear()
                groups = await parent.sync_all_device_sync_groups()
                if groups.num_eligible > 1:
                    sent.append(b"parent %d" % len(sent))
                    await parent.send_sync_message(sent[-1])
            await worker.run(node.url)
            assert await worker.line() == "done"
            await worker.kill()
            if method != "SendWelcomeMessages":
                assert len(await welcomes(behind, parent.installation_id)) == 1
            await _check(behind, parent, wallet, tmp_path / "b", sent)

    asyncio.run(main())


def test_killed_at_any_moment(tmp_path: Path, forks: subprocess.Popen[str]) -> None:
    async def main() -> None:
        key, wallet = _key()
        async with LocalNode(port=0) as node, await create(node.url, wallet) as parent:
            async with Worker(forks, tmp_path / "b", key) as worker:
                sent: list[bytes] = []
                for number in range(30):
                    await worker.run(node.url)
                    pause = asyncio.ensure_future(asyncio.sleep(random.uniform(0, 0.02 if number < 10 else 0.15)))
                    groups = await parent.sync_all_device_sync_groups()
                    if groups.num_eligible > 1:
                        sent.append(b"parent %d" % len(sent))
                        await parent.send_sync_message(sent[-1])
                    await pause
                    await worker.kill()
                await worker.run(node.url)
                assert await worker.line() == "done"
                await worker.kill()
            await _check(node, parent, wallet, tmp_path / "b", sent)
            async with await build(node.url, tmp_path / "b") as killed:
                assert len(await said(killed)) > len(sent)

    asyncio.run(main())
