"""Many clients for a while, with a node that is killed now and then: nothing lost, nothing repeated, order kept.

A few seconds; as many as the environment variable NODE_SOAK_SECONDS says.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc

from support.node_client import (
    NodeClient,
    NodeProcess,
    add,
    at_once,
    check_alive,
    created_inbox,
    group_topic,
    installation_member,
    messages_of,
    new_address,
    new_group,
    new_key,
    paging,
    private_message,
    quiet_port,
    update,
    wait_until,
    welcome_input,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.node_client import IdleConnection

SECONDS = float(os.environ.get("NODE_SOAK_SECONDS", "5"))
KILL_EVERY_S = 1.5
#: How calls and streams end when the node is killed, or when their time is over.
INTERRUPTED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        assert error.code() in INTERRUPTED, (error.code(), error.details())


class _Soak:
    """What all clients share."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.group_ids = [new_group() for _ in range(5)]
        self.keys = [new_key() for _ in range(3)]
        self.stop_sending = threading.Event()
        self.lock = threading.Lock()
        self.sent: dict[bytes, set[bytes]] = {topic: set() for topic in (*self.group_ids, *self.keys)}
        self.final: dict[bytes, list[int]] = {}
        self.given_up = False

    def insist(self, call: Callable[[NodeClient], None]) -> None:
        """Makes a call until it has succeeded."""
        while True:
            with _interruptions(), NodeClient(self.url) as client:
                call(client)
                return
            time.sleep(0.01)

    # --- senders

    def send(self, seed: int) -> None:
        """Sends to all groups, and repeats some calls, until told to stop. What was begun is brought to its end."""
        choice = random.Random(seed)
        number = 0
        recent: list[bytes] = []
        while not self.stop_sending.is_set():
            with _interruptions(), NodeClient(self.url) as client:
                for _ in range(choice.randint(1, 200)):
                    if self.stop_sending.is_set():
                        break
                    if choice.random() < 0.15 and recent:
                        client.send(choice.choice(recent))
                    number += 1
                    group_id = choice.choice(self.group_ids)
                    data = private_message(group_id, b"%d %d" % (seed, number))
                    with self.lock:
                        self.sent[group_id].add(data)
                    recent = [*recent[-20:], data]
                    client.send(data)
            # The last one may have been interrupted.
            if recent:
                last = recent[-1]
                self.insist(lambda client, last=last: client.send(last))

    def welcome(self, seed: int) -> None:
        """Sends welcomes until told to stop."""
        choice = random.Random(seed)
        number = 0
        while not self.stop_sending.is_set():
            number += 1
            key, data = choice.choice(self.keys), b"%d %d" % (seed, number)
            with self.lock:
                self.sent[key].add(data)
            self.insist(lambda client, key=key, data=data: client.welcome(welcome_input(key, data)))

    def identify(self, _seed: int) -> None:
        """Makes inboxes and changes them; each log has to be what was sent."""
        while not self.stop_sending.is_set():
            log = [created_inbox(new_address())]
            inbox_id = log[0].inbox_id
            log += [update(inbox_id, add(installation_member(new_key()))) for _ in range(5)]
            for sent in log:
                self.insist(lambda client, sent=sent: client.publish(sent))

            def check(client: NodeClient, inbox_id: str = inbox_id, log: list[Any] = log) -> None:
                assert client.log(inbox_id) == log

            self.insist(check)

    # --- readers

    def _finished(self, cursors: dict[bytes, int], topics: list[bytes]) -> bool:
        if not self.final:
            return self.given_up
        return all(cursors.get(topic, 0) >= (self.final[topic] or [0])[-1] for topic in topics)

    def follow(self, seed: int) -> None:
        """Follows groups, disconnecting at random and coming back with its cursors."""
        choice = random.Random(seed)
        have: dict[bytes, list[int]] = {group_id: [] for group_id in self.group_ids}
        while not self._finished(cursors := _cursors(have), self.group_ids):
            chosen = choice.sample(self.group_ids, choice.randint(1, len(self.group_ids)))
            with _interruptions(), NodeClient(self.url) as client:
                stream = client.follow(
                    {group_id: cursors[group_id] for group_id in chosen}, timeout=choice.uniform(0.05, 1.0)
                )
                for _ in range(choice.choice([1, 10, 100, 10_000])):
                    message = stream.next()
                    have[message.group_id].append(message.id)
                    if self._finished(_cursors(have), chosen):
                        break
                if choice.random() < 0.5:
                    stream.cancel()
        self._compare(have)

    def follow_welcomes(self, seed: int) -> None:
        """The same for welcomes."""
        choice = random.Random(seed)
        have: dict[bytes, list[int]] = {key: [] for key in self.keys}
        while not self._finished(_cursors(have), self.keys):
            with _interruptions(), NodeClient(self.url) as client:
                stream = client.follow_welcomes(_cursors(have), timeout=choice.uniform(0.05, 1.0))
                for _ in range(choice.choice([1, 5, 50])):
                    if self._finished(_cursors(have), self.keys):
                        break
                    message = stream.next()
                    have[message.installation_key].append(message.id)
                stream.cancel()
        self._compare(have)

    def mutate(self, seed: int) -> None:
        """The same with a mutable stream, whose topics come one after the other."""
        choice = random.Random(seed)
        have: dict[bytes, list[int]] = {group_id: [] for group_id in self.group_ids}
        while not self._finished(_cursors(have), self.group_ids):
            with _interruptions(), NodeClient(self.url) as client:
                stream = client.mutable(timeout=choice.uniform(0.1, 1.5))
                try:
                    stream.started()
                    for group_id in choice.sample(self.group_ids, len(self.group_ids)):
                        stream.mutate({group_topic(group_id): have[group_id][-1] if have[group_id] else 0})
                        if choice.random() < 0.5:
                            self._take(have, stream.frame())
                    for _ in range(choice.choice([1, 20, 10_000])):
                        if self._finished(_cursors(have), self.group_ids):
                            break
                        self._take(have, stream.frame())
                finally:
                    stream.cancel()
        self._compare(have)

    @staticmethod
    def _take(have: dict[bytes, list[int]], frame: Any) -> None:
        for _, message in messages_of([frame]):
            have[message.group_id].append(message.id)

    def query(self, seed: int) -> None:
        """Reads pages; what was read once stays as it is, and more comes behind it only."""
        choice = random.Random(seed)
        have: dict[bytes, list[int]] = {group_id: [] for group_id in self.group_ids}
        while not self._finished(_cursors(have), self.group_ids):
            with _interruptions(), NodeClient(self.url) as client:
                for _ in range(20):
                    group_id = choice.choice(self.group_ids)
                    known = have[group_id]
                    cursor = known[-1] if known else 0
                    known += [message.id for message in client.messages(group_id, cursor)]
                    if known:
                        assert client.newest(group_id)[0].group_message.v1.id >= known[-1]
                    if choice.random() < 0.1:
                        whole = [message.id for message in client.messages(group_id)]
                        assert whole[: len(known)] == known
        self._compare(have)

    def _compare(self, have: dict[bytes, list[int]]) -> None:
        for topic, ids in have.items():
            assert ids == self.final.get(topic)

    # --- the end

    def settle(self, client: NodeClient) -> None:
        """When nobody sends any more: what is stored is what was sent, once. Readers then have to come as far."""
        final = {}
        for group_id in self.group_ids:
            messages = client.messages(group_id)
            stored = [message.data for message in messages]
            assert len(stored) == len(set(stored))
            assert set(stored) == self.sent[group_id]
            final[group_id] = [message.id for message in messages]
        for key in self.keys:
            ids, contents, cursor = [], [], 0
            while page := client.welcome_page(key, paging(cursor=cursor)).messages:
                ids += [message.v1.id for message in page]
                contents += [message.v1.data for message in page]
                cursor = ids[-1]
            assert len(contents) == len(set(contents))
            assert set(contents) == self.sent[key]
            final[key] = ids
        every = [one for ids in final.values() for one in ids]
        assert len(every) == len(set(every))
        for ids in final.values():
            assert ids == sorted(ids)
        self.final = final


def _cursors(have: dict[bytes, list[int]]) -> dict[bytes, int]:
    return {topic: ids[-1] if ids else 0 for topic, ids in have.items()}


def test_many_clients_and_a_node_that_is_killed_now_and_then(tmp_path: Path) -> None:
    choice = random.Random(5556)
    port = quiet_port()
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(NodeProcess.start(tmp_path, port))
        soak = _Soak(process.url)
        senders = [lambda seed=seed: soak.send(seed) for seed in range(3)]
        senders += [lambda: soak.welcome(3), lambda: soak.identify(4)]
        readers = [lambda seed=seed: soak.follow(seed) for seed in range(5, 7)]
        readers += [
            lambda: soak.follow_welcomes(8),
            lambda: soak.mutate(9),
            lambda: soak.mutate(10),
            lambda: soak.query(11),
        ]
        with at_once(*readers):
            try:
                with at_once(*senders):
                    try:
                        end = time.monotonic() + SECONDS
                        while (left := end - time.monotonic()) > 0:
                            moment = min(end, time.monotonic() + choice.uniform(0.5, 1.5) * KILL_EVERY_S)
                            wait_until(lambda moment=moment: time.monotonic() >= moment, "time")
                            if left > KILL_EVERY_S:
                                process.kill()
                                process = stack.enter_context(NodeProcess.start(tmp_path, port))
                    finally:
                        soak.stop_sending.set()
                with NodeClient(soak.url) as client:
                    soak.settle(client)
            finally:
                # Readers need not wait for what does not come.
                soak.given_up = not soak.final
        with NodeClient(soak.url) as client:
            check_alive(client)
        process.stop()
    assert sum(map(len, soak.final.values())) > 100


def test_clients_that_only_ping_are_let(idle_connections: list[IdleConnection]) -> None:
    """The client's library pings every 16 s of silence, with and without a stream open (see the fixture)."""
    for connection in idle_connections:
        connection.check()
