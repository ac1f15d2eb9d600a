"""How many requests a client makes at most."""

from __future__ import annotations

import asyncio

import pytest

from network.faulty_node import FaultyNode
from support.node_client import new_key
from xmtp_history.network import NodeApi, NodeError, _throttle
from xmtp_history.network._throttle import Throttle


class Clock:
    """Time that passes only by waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(_throttle, "_clock", lambda: self.now)
        monkeypatch.setattr(_throttle, "_sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def test_no_minute_sees_more_than_5000_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        clock = Clock(monkeypatch)
        throttle = Throttle()
        times = []
        for number in range(12_000):
            if number == 8_000:
                clock.now += 300
            await throttle.take()
            times.append(clock.now)
        assert times[999] == 0
        assert 0 < times[1000] < 0.1
        assert all(later - earlier >= 59.9 for earlier, later in zip(times, times[5_000:], strict=False))
        # It does not slow down more than it has to.
        assert times[7_999] == pytest.approx(7_000 / 4_000 * 60, rel=0.01)

    asyncio.run(main())


def test_those_who_wait_get_their_turn_in_order() -> None:
    async def main() -> None:
        throttle = Throttle(burst=1, a_minute=60_000)
        order = []

        async def ask(number: int) -> None:
            await throttle.take()
            order.append(number)

        await asyncio.gather(*map(ask, range(50)))
        assert order == list(range(50))

    asyncio.run(main())


def test_who_gives_up_takes_nothing() -> None:
    async def main() -> None:
        throttle = Throttle(burst=1, a_minute=60)
        await throttle.take()
        waiting = [asyncio.create_task(throttle.take()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        async with asyncio.timeout(5):
            await throttle.take()

    asyncio.run(main())


def test_a_client_that_asks_too_much() -> None:
    async def main() -> None:
        async with FaultyNode() as node, NodeApi(node.url, timeout=0.2) as api:
            api._throttle = api._mls._throttle = Throttle(burst=2, a_minute=1)
            node.answer("FetchKeyPackages", b"")
            await api.fetch_key_packages([new_key()])
            await api.fetch_key_packages([new_key()])
            with pytest.raises(NodeError, match="this client makes more requests") as caught:
                await api.fetch_key_packages([new_key()])
            assert caught.value.transient
            assert len(node.calls) == 2

    asyncio.run(main())
