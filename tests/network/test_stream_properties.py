"""Streams under load, while groups come and go and connections break: against a model of what has to come."""

from __future__ import annotations

import asyncio
import collections
import random

import pytest

from network.requests import sending, until
from network.tcp_proxy import TcpProxy
from support.node_client import mls_api, new_group, private_message
from xmtp_history import LocalNode
from xmtp_history.network import GroupStream, NodeApi, _connection, _stream

GROUPS, MESSAGES = 12, 40


@pytest.mark.parametrize("seed", range(4))
def test_every_message_comes_once_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stream, "_APART_S", 0.02)
    # A small window: messages are under way on every connection when something happens to it.
    monkeypatch.setattr(_connection, "_AHEAD_BYTES", 1 << 16)

    async def main() -> None:
        async with (
            LocalNode(port=0) as node,
            TcpProxy(node.url) as proxy,
            NodeApi(node.url) as direct,
            NodeApi(proxy.url, keepalive_s=0.2) as api,
            api.group_stream() as stream,
        ):
            await World(random.Random(seed), stream, direct, proxy).run()

    asyncio.run(main())


class World:
    """Publishers, a reader, somebody who changes the groups, and somebody who breaks connections."""

    def __init__(self, rng: random.Random, stream: GroupStream, direct: NodeApi, proxy: TcpProxy) -> None:
        self.rng, self.stream, self.direct, self.proxy = rng, stream, direct, proxy
        self.groups = [new_group() for _ in range(GROUPS)]
        #: For each time that a group was in the stream: after which id, and what came.
        self.lives: dict[bytes, list[tuple[int, list[int]]]] = collections.defaultdict(list)
        #: What comes of the groups that are in the stream.
        self.current: dict[bytes, list[int]] = {}
        self.publishing = True

    async def run(self) -> None:
        reader = asyncio.create_task(self.read())
        others = [asyncio.create_task(self.change()), asyncio.create_task(self.disturb())]
        await asyncio.gather(*map(self.publish, self.groups))
        self.publishing = False
        await asyncio.gather(*others)
        stored = {group_id: await self.stored(group_id) for group_id in self.groups}
        newest = {group_id: ids[-1] for group_id, ids in stored.items()}
        await until(lambda: self.stream.cursors == newest or reader.done(), 20)
        await self.stream.aclose()
        await reader
        for group_id, ids in stored.items():
            self.check(group_id, ids)

    def check(self, group_id: bytes, ids: list[int]) -> None:
        """Checks what came of a group."""
        for cursor, got in self.lives[group_id]:
            expected = [message_id for message_id in ids if message_id > cursor]
            # Of a life that ended early, the beginning.
            assert got == expected[: len(got)]
            if got is self.current[group_id]:
                assert got == expected

    async def stored(self, group_id: bytes) -> list[int]:
        """What the node has of a group."""
        answer = mls_api.QueryGroupMessagesResponse.FromString(await self.direct.query_group_messages(group_id, 0))
        assert len(answer.messages) == MESSAGES
        return [message.v1.id for message in answer.messages]

    async def publish(self, group_id: bytes) -> None:
        for number in range(MESSAGES):
            body = b"%d" % number + bytes(self.rng.choice([0, 0, 5_000]))
            await self.direct.send_group_messages(sending(private_message(group_id, body)))
            await asyncio.sleep(self.rng.random() * 0.01)

    async def read(self) -> None:
        async for message in self.stream:
            # Nothing comes of a group that is not there.
            self.current[message.topic].append(message.id)
            if self.rng.random() < 0.02:
                await asyncio.sleep(0.005)

    async def change(self) -> None:
        while self.publishing:
            group_id = self.rng.choice(self.groups)
            if group_id not in self.current:
                self.add(group_id)
            elif self.rng.random() < 0.3:
                del self.current[group_id]
                self.stream.remove(group_id)
            await asyncio.sleep(self.rng.random() * 0.01)
        for group_id in self.groups:
            if group_id not in self.current:
                self.add(group_id)

    def add(self, group_id: bytes) -> None:
        """Adds a group, from the beginning or from something that came before."""
        known = [message_id for _, ids in self.lives[group_id] for message_id in ids]
        cursor = self.rng.choice([0, *known])
        self.current[group_id] = []
        self.lives[group_id].append((cursor, self.current[group_id]))
        self.stream.add(group_id, cursor)

    async def disturb(self) -> None:
        await until(lambda: self.stream.state.connected)
        self.proxy.cut()
        while self.publishing:
            await asyncio.sleep(0.05 + self.rng.random() * 0.2)
            self.rng.choice([self.proxy.cut, self.proxy.cut, self.proxy.freeze, lambda: None])()
