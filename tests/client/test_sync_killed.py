"""Installations that are killed while they answer, and while they import: afterwards everything is done, and once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from client.clients import handed_on, held
from client.sync_world import (
    MANY,
    REPLY,
    World,
    arrived,
    assert_same,
    fill,
    heard,
    meet,
    run,
    tasks,
    until,
    world,
)
from network.faulty_node import FaultyNode
from support import child
from support.faulty_server import Exchange, Fault, FaultyServer, on, stall
from xmtp_history import Client

#: Makes installations by forking, because loading the package takes longer than what they live. One that is given a number
#: of steps kills itself before the one that follows: a step is a call of the native installation.
_FORKS = """
import asyncio, os, signal, sys
from client.clients import Wallet, create
from client.sync_world import MANY, quick
from xmtp_history import EoaSigner
from xmtp_history.client._core import Core
import eth_account.messages, aiohttp, grpc.aio

def say(what):
    os.write(1, f"{os.getpid()} {what}\\n".encode())

def limit(steps):
    left, call = steps, Core.call
    async def counted(self, *arguments, **options):
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return await call(self, *arguments, **options)
    Core.call = counted

async def work(node, server, path, key, what, steps):
    options = {"history_sync_url": server, "auto_history_sync": False, "sync_interval": 0.1}
    with quick():
        client = await create(node, Wallet(EoaSigner.from_key(key)), path, **options)
        if steps >= 0:
            limit(steps)
        if what == "asks":
            await client.send_sync_request()
        say("ready")
        while what != "answers" and client.history.counts().messages < MANY:
            await asyncio.sleep(0.005)
        if what != "answers":
            say("done")
        await asyncio.Event().wait()

for line in sys.stdin:
    *who, steps = line.split()
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(work(*who, int(steps)))
        finally:
            os._exit(1)
    os.write(1, b"%d lives\\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(1, b"%d ended %d\\n" % (pid, os.waitstatus_to_exitcode(status)))
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """What makes the installations."""
    with child.start(_FORKS) as process:
        yield process
        _, errors = process.communicate(timeout=30)
        # What is logged is said there; an error that ends it is not expected.
        assert "Traceback" not in errors, errors


class Mortal:
    """An installation in a process of its own, one after the other on one database."""

    def __init__(self, here: World, name: str, forks: subprocess.Popen[str], node: str | None = None) -> None:
        assert forks.stdin is not None
        assert forks.stdout is not None
        self._in, self._out = forks.stdin, forks.stdout
        self._who = [node or here.node_url, here.url, str(here.path / name), here.key]
        self._pid = 0

    async def run(self, what: str, steps: int = -1) -> None:
        """Starts it, which ``asks``, ``answers`` or ``resumes``."""
        self._in.write(" ".join([*self._who, what, str(steps)]) + "\n")
        self._in.flush()
        # What another test has left unread comes first.
        while not (line := await self._line()).endswith("lives"):
            continue
        self._pid = int(line.split()[0])

    async def _line(self) -> str:
        async with asyncio.timeout(30):
            return str(await asyncio.to_thread(self._out.readline)).strip()

    async def says(self, wanted: str) -> bool:
        """Waits until it says something, or is dead, and then says no."""
        while (line := await self._line()) != f"{self._pid} {wanted}":
            if line.startswith(f"{self._pid} ended"):
                assert line == f"{self._pid} ended {-signal.SIGKILL}"
                self._pid = 0
                return False
        return True

    async def kill(self) -> None:
        """Kills it, if it lives."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            await self.says("never said")


@asynccontextmanager
async def mortal(
    here: World, name: str, forks: subprocess.Popen[str], node: str | None = None
) -> AsyncIterator[Mortal]:
    """An installation to be killed, which is dead afterwards."""
    started = Mortal(here, name, forks, node)
    try:
        yield started
    finally:
        await started.kill()


async def _answers(client: Client, number: int) -> bool:
    return len(await heard(client, REPLY)) >= number


# --- the answering side -----------------------------------------------------------------------------------------------


async def _half(_server: FaultyServer, exchange: Exchange) -> None:
    async for _ in exchange.body():
        break
    await asyncio.Event().wait()


async def _all(server: FaultyServer, exchange: Exchange) -> None:
    async def nothing(*_: object, **_more: object) -> None:
        await asyncio.Event().wait()

    exchange.answer = nothing  # type: ignore[method-assign]
    await server.answer(exchange)


@pytest.mark.parametrize(
    "moment", [pytest.param(stall, id="begins"), pytest.param(_half, id="half"), pytest.param(_all, id="all")]
)
def test_killed_while_uploading(tmp_path: Path, forks: subprocess.Popen[str], moment: Fault) -> None:
    """The same request is answered once it is back."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, mortal(here, "old", forks) as old:
            await (await _filled(here)).aclose()
            new = await here.open("new")
            reached = asyncio.Event()

            async def fault(server: FaultyServer, exchange: Exchange) -> None:
                reached.set()
                await moment(server, exchange)

            here.server.faults = [on("POST", fault)] * 2
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            for _ in range(2):
                await old.run("answers")
                await reached.wait()
                await until(lambda: moment is not _all or here.server.files)
                await old.kill()
                reached.clear()
                assert not syncing.done()
            await old.run("answers")
            report = await syncing
            assert (report.archives, report.imported.new.messages) == (1, MANY)
            assert len(await heard(new, REPLY)) == 1

    run(main)


async def _filled(here: World) -> Client:
    old = await here.open("old", sync_interval=None)
    fill(old.history)
    return old


@pytest.mark.parametrize("after", [False, True])
def test_killed_while_the_answer_is_said(tmp_path: Path, forks: subprocess.Popen[str], after: bool) -> None:
    """The archive is uploaded. Whether or not the node has the answer already, it is said once."""

    async def main() -> None:
        async with (
            world(tmp_path, FaultyServer(tus=False)) as here,
            FaultyNode(here.node_url) as node,
            mortal(here, "old", forks, node.url) as old,
        ):
            await (await _filled(here)).aclose()
            new = await here.open("new")
            reached = asyncio.Event()

            async def then_hold(server: FaultyServer, exchange: Exchange) -> None:
                node.answer("SendGroupMessages", held(node, "SendGroupMessages", reached, after=after))
                await server.answer(exchange)

            here.server.faults = [on("POST", then_hold)]
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            await old.run("answers")
            await reached.wait()
            await old.kill()
            node.answer("SendGroupMessages", handed_on(node, "SendGroupMessages"))
            await old.run("answers")
            assert (await syncing).archives == 1
            await old.says("ready")
            await new.sync_all_device_sync_groups()
            assert len(await heard(new, REPLY)) == 1
            assert len(here.server.files) == 1, "what was uploaded is not uploaded again"

    run(main)


def test_killed_between_any_two_steps_of_answering(tmp_path: Path, forks: subprocess.Popen[str]) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, mortal(here, "old", forks) as old:
            filled = await _filled(here)
            new = await here.open("new")
            await meet(filled, new)
            await filled.aclose()
            imported = new.metrics().payload_processed
            for number, steps in enumerate([*range(1, 41, 5), 60], 1):
                pin = await new.send_sync_request()
                await old.run("answers", steps)
                ready = asyncio.ensure_future(old.says("never said"))
                answered = asyncio.ensure_future(until(_answers, new, number))
                await asyncio.wait([ready, answered], return_when=asyncio.FIRST_COMPLETED)
                if not ready.done():
                    os.kill(old._pid, signal.SIGKILL)
                await ready
                answered.cancel()
                await old.run("answers")
                await until(_answers, new, number)
                await until(_imported, new, imported + number)
                await old.kill()
                await new.sync_all_device_sync_groups()
                replies = [said.fields[1].decode() for said in await heard(new, REPLY)]
                assert replies.count(pin) == 1
                assert len(replies) == number
            assert new.history.counts().messages == MANY

    run(main, 80)


def _imported(client: Client, archives: int) -> bool:
    return client.metrics().payload_processed == archives


# --- the importing side -----------------------------------------------------------------------------------------------


def _sent(part: Callable[[bytes], int]) -> Fault:
    async def fault(server: FaultyServer, exchange: Exchange) -> None:
        code, headers, body = server.content(exchange, server.files[exchange.name])
        await exchange.answer(code, headers, body[: part(body)], length=len(body))
        await asyncio.Event().wait()

    return fault


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(stall, id="begins"),
        pytest.param(_sent(lambda _: 0), id="head"),
        pytest.param(_sent(lambda body: len(body) // 2), id="half"),
        pytest.param(_sent(lambda body: len(body) - 1), id="all but a byte"),
    ],
)
def test_killed_while_downloading(tmp_path: Path, forks: subprocess.Popen[str], moment: Fault) -> None:
    """Nothing is half done, and it is done again without being asked for again."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, mortal(here, "new", forks) as new:
            old = await here.open("old")
            fill(old.history)
            reached = asyncio.Event()

            async def fault(server: FaultyServer, exchange: Exchange) -> None:
                reached.set()
                await moment(server, exchange)

            here.server.faults = [on("GET", fault)] * 2
            for what in ("asks", "resumes"):
                await new.run(what)
                await reached.wait()
                await new.kill()
                reached.clear()
                _is_empty(here)
            await new.run("resumes")
            assert await new.says("done")
            await new.kill()
            await _is_whole(here, old)
            assert len(here.server.files) == 1

    run(main)


def _is_empty(here: World) -> None:
    with here.store("new") as history:
        counts = history.counts()
        assert (counts.conversations, counts.messages, counts.consents) == (0, 0, 0)


async def _is_whole(here: World, old: Client) -> None:
    new = await here.reopen("new")
    await until(_no_tasks, new)
    await meet(old, new)
    assert_same(old, new)
    assert len(await heard(new, REPLY)) == 1
    assert (await new.sync_all_device_sync_groups()).num_synced == 0


async def _no_tasks(client: Client) -> bool:
    return not await tasks(client)


def test_killed_while_importing(tmp_path: Path, forks: subprocess.Popen[str]) -> None:
    """At moments of chance, while an import that takes a while is under way: all of it is there, or nothing."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here, mortal(here, "new", forks) as new:
            old = await here.open("old")
            fill(old.history, size=10_000)
            outcomes: list[int] = []
            reached = asyncio.Event()

            async def noted(server: FaultyServer, exchange: Exchange) -> None:
                reached.set()
                here.server.faults.append(on("GET", noted))
                await server.answer(exchange)

            here.server.faults = [on("GET", noted)]
            for number in range(12):
                reached.clear()
                await new.run("resumes" if number else "asks")
                await reached.wait()
                await asyncio.sleep(random.uniform(0, 0.01 + 0.01 * number))
                await new.kill()
                with here.store("new") as history:
                    outcomes.append(history.counts().messages)
                assert outcomes[-1] in {0, MANY}
                if outcomes[-1]:
                    break
            await new.run("resumes")
            assert await new.says("done")
            await new.kill()
            await _is_whole(here, old)

    run(main, 60)


def test_killed_between_any_two_steps_of_importing(tmp_path: Path, forks: subprocess.Popen[str]) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old = await here.open("old")
            fill(old.history)
            for steps in range(0, 95, 9):
                name = f"new-{steps}"
                async with mortal(here, name, forks) as new:
                    await new.run("asks", steps)
                    finished = await new.says("done")
                    await new.kill()
                    with here.store(name) as history:
                        assert history.counts().messages in ({MANY} if finished else {0, MANY})
                client = await here.reopen(name)
                sent = await client._parts.core.ask("sync_requests")
                if not sent:
                    await client.send_sync_request()
                await arrived(client)
                await until(_no_tasks, client)
                await meet(old, client)
                assert_same(old, client)
                assert len(await heard(client, REPLY)) == 1
                await client.aclose()
                # An inbox has ten installations at most.
                await old.revoke_installations([client.installation_id])

    run(main, 80)
