"""Clients that do not read, or are gone: they cost the node little, and nobody else anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.node_client import NodeClient, NodeProcess, check_alive, group_topic, new_group, sized_message

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def process(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node alone in a process, on disk."""
    with NodeProcess.start(tmp_path) as running:
        yield running
        running.stop()


def test_a_stream_that_is_not_read_costs_no_memory_and_loses_nothing(process: NodeProcess) -> None:
    group_id, count, size = new_group(), 400, 256 << 10
    with NodeClient(process.url) as sender, NodeClient(process.url) as reader:
        for number in range(20):
            sender.send(sized_message(new_group(), size, number))
        streams = [reader.follow({group_id: 0}) for _ in range(2)]
        for stream in streams:
            stream.headers()
        mutable = reader.mutable()
        mutable.started()
        mutable.mutate({group_topic(group_id): 0})
        before = process.greatest_size()
        for number in range(count):
            sender.send(sized_message(group_id, size, number))
        # 100 MiB were sent to each of three. What HTTP/2 has under way for each is a few MiB.
        assert process.greatest_size() - before < 32 << 20
        for stream in streams:
            for number in range(count):
                assert stream.next().data == sized_message(group_id, size, number)
            stream.cancel()
        found = 0
        while found < count:
            for entry in mutable.frame().messages.group_messages:
                assert entry.v1.data == sized_message(group_id, size, found)
                found += 1
        mutable.cancel()
        assert process.greatest_size() - before < 48 << 20
        check_alive(sender)


def test_clients_that_vanish_leave_nothing_behind(process: NodeProcess) -> None:
    group_ids = [new_group() for _ in range(1000)]

    def round_of_clients() -> None:
        connections = [NodeClient(process.url) for _ in range(4)]
        for connection in connections:
            streams = [connection.follow(dict.fromkeys(group_ids, 0)) for _ in range(10)]
            mutable = connection.mutable()
            mutable.started()
            mutable.mutate(dict.fromkeys(map(group_topic, group_ids), 0))
            for stream in streams:
                stream.headers()
        for connection in connections:
            connection.close()

    with NodeClient(process.url) as client:
        for _ in range(2):
            round_of_clients()
        check_alive(client)
        before = process.greatest_size()
        # Each round would leave some MB.
        for _ in range(5):
            round_of_clients()
            check_alive(client)
        assert process.greatest_size() - before < 8 << 20
