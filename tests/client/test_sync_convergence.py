"""Decisions that several installations take at once, out of step, and by clocks that are wrong: all agree in the end.

The rule (device sync specification, section 5e): the decision with the latest time stands, where no time counts that is
later than the node's of the message; among equal ones that of the later message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.sync_world import (
    MANY,
    PREFERENCES,
    World,
    assert_same,
    consent_update,
    fields_of,
    fill,
    heard,
    meet,
    preferences,
    run,
    say,
    until,
    world,
)
from independent.protobuf import wire_fields
from network.faulty_node import FaultyNode
from support import child
from support.build import ALICE, BOB
from xmtp_history import ArchiveElement, ArchiveOptions, Client, Consent, ConsentEntityType, ConsentState
from xmtp_history._proto import mls_api_pb2 as mls_api

INBOX = ConsentEntityType.INBOX_ID
ALLOWED, DENIED, UNKNOWN = ConsentState.ALLOWED, ConsentState.DENIED, ConsentState.UNKNOWN
DAY_NS = 86_400 * 10**9

_entities = itertools.count(1)


async def decide(client: Client, entity: str, state: ConsentState) -> None:
    await client.preferences.set_consent_states([Consent(INBOX, state, entity, 0)])


def decisions(client: Client) -> dict[str, tuple[int, int]]:
    """State and time of all decisions."""
    return {each.entity: (each.state, each.consented_at_ns) for each in client.history.consents()}


async def told(client: Client) -> dict[str, tuple[int, int]]:
    """What all that was said comes to, by the rule, put together by hand."""
    latest: dict[str, tuple[int, int, int]] = {}
    for said in await heard(client, PREFERENCES):
        for _, _, content, _ in wire_fields(said.content):
            for _, _, update, _ in wire_fields(content):  # type: ignore[arg-type]
                save = fields_of(fields_of(update).get(1, b""))  # type: ignore[arg-type]
                if not save:
                    continue
                # An int64 comes as the unsigned number of its bits.
                at_ns = (save.get(4, 0) + 2**63) % 2**64 - 2**63
                candidate = (max(1, min(at_ns, said.sent_at_ns)), said.sequence_id, save[2])
                entity = save[3].decode()
                latest[entity] = max(candidate, latest.get(entity, candidate))
    return {entity: (state, at_ns) for entity, (at_ns, _, state) in latest.items()}


# --- any order --------------------------------------------------------------------------------------------------------


class Veil:
    """Hides what is said in some groups from a client, as if it had not arrived."""

    def __init__(self, node: FaultyNode) -> None:
        self.hidden: set[bytes] = set()
        self._node = node
        node.answer("QueryGroupMessages", self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        if mls_api.QueryGroupMessagesRequest.FromString(request).group_id in self.hidden:
            return mls_api.QueryGroupMessagesResponse().SerializeToString()
        return await self._node.forward("/xmtp.mls.api.v1.MlsApi/QueryGroupMessages", request, context)


class Decide(NamedTuple):
    who: int
    entity: int
    state: ConsentState


class Claim(NamedTuple):
    """A decision by a clock that is wrong, as the messages of such an installation are."""

    who: int
    entity: int
    state: ConsentState
    skew_ns: int


class Sync(NamedTuple):
    """Somebody fetches what there is, but in some of the groups."""

    who: int
    hidden: int


WHO, ENTITIES, STATES = st.integers(0, 2), st.integers(0, 1), st.sampled_from([ALLOWED, DENIED, UNKNOWN])
SKEWS = st.sampled_from([-DAY_NS, -1_000_000, -1, 0, 0, 1, 1_000_000, DAY_NS])
SCRIPTS = st.lists(
    st.one_of(
        st.builds(Decide, WHO, ENTITIES, STATES),
        st.builds(Claim, WHO, ENTITIES, STATES, SKEWS),
        st.builds(Sync, WHO, st.integers(0, 3)),
    ),
    min_size=3,
    max_size=12,
)


class Three:
    """Three installations, two of whom registered at the same time, so that they talk in different groups."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self, stack: AsyncExitStack) -> None:
        here = await stack.enter_async_context(world(self._path))
        nodes = [await stack.enter_async_context(FaultyNode(here.node_url)) for _ in range(3)]
        self.veils = [Veil(node) for node in nodes]
        options = {"sync_interval": None}
        third = await here.open("c", node=nodes[2].url, **options)
        for name in ("a", "b"):
            await (await here.open(name, disable_device_sync=True, **options)).aclose()
        first, second = await asyncio.gather(
            *(here.open(name, node=node.url, **options) for name, node in zip("ab", nodes, strict=False))
        )
        self.clients = [first, second, third]
        await meet(*self.clients)
        self.groups = [bytes.fromhex(group.id) for group in await first.groups() if group.is_sync_group]
        assert len(self.groups) == 2

    async def play(self, script: list[Any]) -> None:
        entities = [f"{next(_entities):064x}" for _ in range(2)]
        for step in script:
            client, veil = self.clients[step.who], self.veils[step.who]
            match step:
                case Decide(_, entity, state):
                    await decide(client, entities[entity], state)
                case Claim(_, entity, state, skew_ns):
                    update = consent_update(entities[entity], state, time.time_ns() + skew_ns)
                    await say(client, preferences(update))
                case Sync(_, hidden):
                    veil.hidden = {group for bit, group in enumerate(self.groups) if hidden & 1 << bit}
                    await client.preferences.sync()
        for veil in self.veils:
            veil.hidden.clear()
        for _ in range(2):
            for client in self.clients:
                await client.preferences.sync()
        expected = await told(self.clients[0])
        for client in self.clients:
            found = decisions(client)
            assert {entity: found.get(entity) for entity in entities} == {
                entity: expected.get(entity) for entity in entities
            }


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Three]]:
    with asyncio.Runner() as runner:
        stack, installations = AsyncExitStack(), Three(tmp_path_factory.mktemp("three"))
        runner.run(installations.open(stack))
        yield runner, installations
        runner.run(stack.aclose())


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(script=SCRIPTS)
def test_any_order(three: tuple[asyncio.Runner, Three], script: list[Any]) -> None:
    runner, installations = three
    runner.run(installations.play(script))


# --- one after the other, and at once ---------------------------------------------------------------------------------


def test_the_last_one_wins(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            clients = [await here.open(name, sync_interval=None) for name in "abc"]
            await meet(*clients)
            states = [ALLOWED, DENIED, UNKNOWN, ALLOWED, DENIED]
            for number, state in enumerate(states):
                await decide(clients[number % 3], ALICE, state)
                for client in clients[number % 3 :] + clients[: number % 3]:
                    await client.preferences.sync()
                assert {(await client.preferences.get_consent_state(INBOX, ALICE)) for client in clients} == {state}

    run(main)


@pytest.mark.parametrize("first", [0, 1])
def test_two_at_once(tmp_path: Path, first: int) -> None:
    """Neither knows of the other's decision; whoever is first at the node, both come to the same."""

    async def main() -> None:
        async with world(tmp_path) as here:
            one, other = await here.open("a", sync_interval=None), await here.open("b", sync_interval=None)
            await meet(one, other)
            await decide(one, ALICE, ALLOWED)
            await decide(other, ALICE, DENIED)
            await decide(other, BOB, ALLOWED)
            await decide(one, BOB, DENIED)
            order = [one, other] if first == 0 else [other, one]
            for client in [*order, *order]:
                await client.preferences.sync()
            # The later decision stands, not the one that came later.
            assert decisions(one) == decisions(other)
            assert {entity: state for entity, (state, _) in decisions(one).items()} == {ALICE: DENIED, BOB: DENIED}

    run(main)


def test_two_workers_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            one, other = await here.open("a"), await here.open("b")
            await meet(one, other)
            entities = [f"{number:064x}" for number in range(20)]
            await asyncio.gather(
                *(decide(one, entity, ALLOWED) for entity in entities),
                *(decide(other, entity, DENIED) for entity in entities),
            )
            await until(lambda: _agree(one, other, len(entities)))

    run(main)


async def _agree(one: Client, other: Client, number: int) -> bool:
    waiting = [await client._parts.core.ask("outbox") for client in (one, other)]
    quiet = not any(each["consents"] or each["intents"] for each in waiting)
    return quiet and len(decisions(one)) == number and decisions(one) == decisions(other)


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noted", [ALLOWED, DENIED])
def test_a_decision_in_an_archive_beats_what_was_only_noted(tmp_path: Path, noted: ConsentState) -> None:
    """What was noted without the user has the time 0, whenever it was; any decision is later than that."""
    taken = DENIED if noted is ALLOWED else ALLOWED

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            await meet(old, new)
            long_ago = time.time_ns() - 300 * DAY_NS
            old.history.set_consents([Consent(INBOX, taken, ALICE, long_ago), Consent(INBOX, noted, BOB, 0)])
            new.history.set_consents([Consent(INBOX, noted, ALICE, 0), Consent(INBOX, taken, BOB, long_ago)])
            await new.sync_history(timeout=30)
            await old.sync_history(timeout=30)
            for client in (old, new):
                assert decisions(client) == {ALICE: (taken, long_ago), BOB: (taken, long_ago)}

    run(main)


def test_a_decision_outlives_an_older_archive(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old", sync_interval=None), await here.open("new", sync_interval=None)
            await meet(old, new)
            await decide(old, ALICE, ALLOWED)
            await old.send_sync_archive("older", ArchiveOptions(elements=(ArchiveElement.CONSENT,)))
            await decide(new, ALICE, DENIED)
            await new.sync_all_device_sync_groups()
            assert (await new.process_sync_archive("older")).duplicate.consents == 1
            await meet(old, new, old)
            assert await new.preferences.get_consent_state(INBOX, ALICE) is DENIED
            assert decisions(old) == decisions(new)

    run(main)


def test_an_archive_of_a_clock_that_is_ahead(tmp_path: Path) -> None:
    """A decision of tomorrow does not stand until then where it came by archive."""

    async def main() -> None:
        async with world(tmp_path) as here:
            ahead, new, third = [await here.open(name) for name in ("ahead", "new", "third")]
            await meet(ahead, new, third)
            # As if it had been taken by a clock that is ahead, and was not told yet.
            ahead.history.set_consents([Consent(INBOX, DENIED, ALICE, time.time_ns() + DAY_NS)])
            await new.sync_history(timeout=30)
            await until(lambda: ALICE in decisions(new))
            assert decisions(new)[ALICE][1] <= time.time_ns()
            await decide(third, ALICE, ALLOWED)
            await until(lambda: decisions(new)[ALICE] == decisions(third)[ALICE])

    run(main)


def test_a_lone_clock_that_was_ahead(tmp_path: Path) -> None:
    """What was decided by it before there was anybody to tell does not stand against later decisions."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            old.history.set_consents([Consent(INBOX, DENIED, ALICE, time.time_ns() + DAY_NS)])
            new = await here.open("new")
            await meet(old, new)
            await new.sync_history(timeout=30)
            for client, state in ((new, ALLOWED), (old, UNKNOWN), (new, DENIED)):
                await decide(client, ALICE, state)
                await until(lambda: decisions(new)[ALICE] == decisions(old)[ALICE])
                assert decisions(old)[ALICE][0] == state

    run(main)


# --- clocks that are wrong --------------------------------------------------------------------------------------------

_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);

static int moved(clockid_t id, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *skew = getenv("TEST_CLOCK_SKEW_S");
    if (!result && id == CLOCK_REALTIME && skew) now->tv_sec += atoll(skew);
    return result;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    return moved(id, now);
}

int gettimeofday(struct timeval *restrict when, void *restrict zone) {
    struct timespec now;
    int result = moved(CLOCK_REALTIME, &now);
    when->tv_sec = now.tv_sec;
    when->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *where) {
    struct timespec now;
    moved(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""

#: An installation that does what it is told, line by line.
_SKEWED = """
import asyncio, json, sys, time
from client.clients import Wallet, create
from client.sync_world import quick
from xmtp_history import Consent, ConsentEntityType, ConsentState, EoaSigner

INBOX = ConsentEntityType.INBOX_ID

async def main(node, server, path, key):
    options = {"history_sync_url": server, "auto_history_sync": False, "sync_interval": 0.1}
    with quick():
        async with await create(node, Wallet(EoaSigner.from_key(key)), path, **options) as client:
            print(json.dumps(time.time_ns()), flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                name, *arguments = json.loads(line)
                answer = None
                if name == "decide":
                    entity, state = arguments
                    await client.preferences.set_consent_states([Consent(INBOX, ConsentState(state), entity, 0)])
                elif name == "decisions":
                    answer = {each.entity: [each.state, each.consented_at_ns] for each in client.history.consents()}
                elif name == "sync":
                    await client.preferences.sync()
                elif name == "sync_history":
                    answer = (await client.sync_history(timeout=30)).imported.new.messages
                print(json.dumps(answer), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that moves a process's clock."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("clocks are moved by a library that is compiled for Linux")
    source = tmp_path_factory.mktemp("shim") / "clock.c"
    source.write_text(_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", source.with_suffix(".so"), source, "-ldl"], check=True)
    return source.with_suffix(".so")


class Skewed:
    """An installation in a process of its own, whose clock is wrong."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def do(self, *step: Any) -> Any:
        """Has it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        return await self.answer()

    async def answer(self) -> Any:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.timeout(30):
            line = await asyncio.to_thread(self._process.stdout.readline)
            assert line, await asyncio.to_thread(self._process.stderr.read)
        return json.loads(line)


def _start(here: World, shim: Path, skew_s: int, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    with monkeypatch.context() as patch:
        patch.setenv("LD_PRELOAD", os.fspath(shim))
        patch.setenv("TEST_CLOCK_SKEW_S", str(skew_s))
        return child.start(_SKEWED, here.node_url, here.url, here.path / "skewed", here.key)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_a_day_off(tmp_path: Path, shim: Path, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """History comes and goes, and the last decision stands, on whichever installation it was taken."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            with _start(here, shim, days * 86_400, monkeypatch) as process:
                try:
                    skewed = Skewed(process)
                    assert abs(await skewed.answer() - time.time_ns() - days * DAY_NS) < DAY_NS / 10
                    await meet(old)
                    assert await skewed.do("sync_history") == MANY

                    async def agree(entity: str, state: ConsentState) -> None:
                        async def agreed() -> bool:
                            theirs = (await skewed.do("decisions")).get(entity)
                            ours = decisions(old).get(entity)
                            return theirs is not None and ours == tuple(theirs) and ours[0] == state

                        await until(agreed)
                        assert decisions(old)[entity][1] <= time.time_ns()

                    for state in (DENIED, ALLOWED):
                        await skewed.do("decide", ALICE, state)
                        await agree(ALICE, state)
                        other = ALLOWED if state is DENIED else DENIED
                        await decide(old, ALICE, other)
                        await agree(ALICE, other)
                    # Whoever comes later gets what all agree on, from both.
                    new = await here.open("new")
                    await meet(old, new)
                    await skewed.do("sync")
                    await new.sync_history(timeout=30)
                    await until(lambda: new.metrics().payload_processed == 2)
                    assert_same(old, new)
                finally:
                    process.kill()

    run(main, 60)
