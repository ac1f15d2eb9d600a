"""Killed without notice, or out of disk: what was answered with success is there, once, and ids go on rising."""

from __future__ import annotations

import itertools
import random
import threading
from typing import TYPE_CHECKING

import grpc
import pytest

from support.node_client import (
    KeyPackage,
    NodeClient,
    NodeProcess,
    at_once,
    check_alive,
    commit_log_input,
    created_inbox,
    fresh,
    new_address,
    new_group,
    new_key,
    pointer_input,
    private_message,
    refused,
    sized_message,
    wait_until,
    welcome_input,
)

if TYPE_CHECKING:
    from pathlib import Path

_SENDERS = 4


class _Sent:
    """What clients have sent, and what of it they know to be stored."""

    def __init__(self) -> None:
        self.group_ids = [new_group() for _ in range(3)]
        self.lock = threading.Lock()
        self.number = itertools.count()
        self.acknowledged: list[bytes] = []
        #: Of each call that had no answer, what was new in it.
        self.in_doubt: list[list[bytes]] = []

    def send_until_it_fails(self, url: str) -> None:
        """Sends messages to all groups, now and then one again, until the node is gone."""
        choice = random.Random(fresh(8))
        with NodeClient(url) as client:
            while True:
                group_id = choice.choice(self.group_ids)
                batch = [private_message(group_id, b"%d" % next(self.number)) for _ in range(choice.randint(1, 30))]
                again = [choice.choice(self.acknowledged)] if self.acknowledged and choice.random() < 0.1 else []
                try:
                    client.send(*batch, *again)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    with self.lock:
                        self.in_doubt.append(batch)
                    return
                with self.lock:
                    self.acknowledged += batch

    def check(self, client: NodeClient) -> int:
        """Compares with what is stored, and returns the highest id."""
        messages = [message for group_id in self.group_ids for message in client.messages(group_id)]
        stored = [message.data for message in messages]
        assert len(stored) == len(set(stored)), "nothing is there twice"
        assert set(self.acknowledged) <= set(stored), "everything that was acknowledged is there"
        for batch in self.in_doubt:
            assert len(set(batch) & set(stored)) in {0, len(batch)}, "all or none"
        assert set(stored) <= {*self.acknowledged, *itertools.chain(*self.in_doubt)}
        ids = [message.id for message in messages]
        assert len(ids) == len(set(ids))
        return max(ids)


def test_killed_while_clients_send_a_node_has_every_acknowledged_message_once(tmp_path: Path) -> None:
    sent = _Sent()
    highest = 0
    for number in range(3):
        enough = len(sent.acknowledged) + 900 + 500 * number
        with NodeProcess.start(tmp_path) as process:
            with NodeClient(process.url) as client:
                if highest:
                    assert sent.check(client) >= highest
                group_id = new_group()
                client.send(private_message(group_id))
                (first,) = client.messages(group_id)
                assert first.id > highest, "ids go on rising"
            url = process.url
            with at_once(*[lambda url=url: sent.send_until_it_fails(url)] * _SENDERS):
                try:
                    wait_until(lambda enough=enough: len(sent.acknowledged) >= enough)
                finally:
                    process.kill()
        with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
            highest = sent.check(client)
            # Clients repeat what they had no answer to.
            for batch in sent.in_doubt:
                client.send(*batch)
                sent.acknowledged += batch
            sent.in_doubt.clear()
            highest = sent.check(client)
            process.kill()


def test_killed_right_after_an_answer_a_node_has_what_it_answered_for(tmp_path: Path) -> None:
    group_id, key = new_group(), new_key()
    package = KeyPackage()
    sent = created_inbox(new_address())
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        client.send(private_message(group_id))
        client.welcome(welcome_input(key, b"welcome"), pointer_input(key, b"pointer"))
        client.upload(KeyPackage(package.signature_key, init_key=fresh(32)).encode())
        client.upload(package.encode())
        client.publish(sent)
        client.publish_commit_log(commit_log_input(group_id, b"entry"))
        process.kill()
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        assert len(client.messages(group_id)) == 1
        assert len(client.welcomes(key)) == 2
        assert client.fetch(package.signature_key) == [package.encode()]
        assert client.log(sent.inbox_id) == [sent]
        assert client.inbox_ids(sent.actions[0].create_inbox.initial_identifier) == [sent.inbox_id]
        assert len(client.commit_log(group_id)[0].commit_log_entries) == 1
        process.stop()


def test_a_stream_goes_on_after_the_node_was_killed(tmp_path: Path) -> None:
    group_id = new_group()
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        client.send(*(private_message(group_id, b"%d" % number) for number in range(5)))
        stream = client.follow({group_id: 0})
        cursor = stream.take(3)[-1].id
        process.kill()
        assert stream.end() is grpc.StatusCode.UNAVAILABLE
        port = int(process.url.rpartition(":")[2])
    with NodeProcess.start(tmp_path, port) as process, NodeClient(process.url) as client:
        with client.follow({group_id: cursor}) as stream:
            client.send(private_message(group_id, b"5"))
            assert stream.take(3) == client.messages(group_id)[3:]
        process.stop()


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [20_000, 300_000])
def test_on_a_full_disk_writing_is_unavailable_and_reading_goes_on(tmp_path: Path, size: int) -> None:
    group_id = new_group()
    acknowledged, in_doubt = [], []
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        with client.follow({group_id: 0}) as stream:
            acknowledged = [sized_message(group_id, size, number) for number in range(3)]
            client.send(*acknowledged)
            sent = created_inbox(new_address())
            client.publish(sent)
            process.limit_files(max(path.stat().st_size for path in tmp_path.iterdir()) + 3 * size)
            for number in range(3, 1000):
                data = sized_message(group_id, size, number)
                try:
                    client.send(data)
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    in_doubt.append(data)
                    break
                acknowledged.append(data)
            assert in_doubt, "there is a limit"
            for number in range(3):
                with refused(grpc.StatusCode.UNAVAILABLE):
                    client.send(in_doubt[0])
                with refused(grpc.StatusCode.UNAVAILABLE):
                    # This one is not sent again, and so must not be there in the end.
                    client.send(private_message(group_id, b"never %d" % number), sized_message(group_id, size, 2000))
                assert [message.data for message in client.messages(group_id)] == acknowledged
                assert client.log(sent.inbox_id) == [sent]
            process.limit_files(None)
            client.send(*in_doubt)
            assert [message.data for message in stream.take(len(acknowledged) + 1)] == [*acknowledged, *in_doubt]
        ids = [message.id for message in client.messages(group_id)]
        assert ids == sorted(set(ids))
        check_alive(client)
        process.kill()
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        assert [message.data for message in client.messages(group_id)] == [*acknowledged, *in_doubt]
        check_alive(client)
        process.stop()
