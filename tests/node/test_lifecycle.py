"""Starting, stopping, starting again; what a node needs, and what it does not share."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support import child
from support.node_client import (
    COMMIT,
    KeyPackage,
    NodeClient,
    NodeProcess,
    add,
    at_once,
    check_alive,
    commit_log_input,
    created_inbox,
    group_topic,
    installation_member,
    kinds_of,
    message_input,
    new_address,
    new_group,
    new_key,
    paging,
    pointer_input,
    private_message,
    refused,
    running_loop,
    serving,
    sized_message,
    update,
    wait_until,
    welcome_input,
)
from xmtp_history import LocalNode, StoreError, StoreLocked
from xmtp_history._proto import mls_api_pb2 as mls_api
from xmtp_history.testing import run_local_xmtp

# --- starting again ---------------------------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    group_id, key, address = new_group(), new_key(), new_address()
    package = KeyPackage()
    sent = created_inbox(address)

    def everything(client: NodeClient) -> list[Any]:
        return [
            client.messages(group_id),
            client.newest(group_id, content=True),
            client.newest(group_id),
            client.welcomes(key),
            client.fetch(package.signature_key),
            client.updates(sent.inbox_id),
            client.inbox_ids(address),
            client.commit_log(group_id),
        ]

    with serving(tmp_path) as client:
        client.send(*(private_message(group_id, b"%d" % number) for number in range(150)))
        client.send(private_message(group_id, content_type=COMMIT))
        client.welcome(welcome_input(key, b"welcome"), pointer_input(key, b"pointer"))
        client.upload(package.encode())
        client.publish(sent)
        client.publish_commit_log(commit_log_input(group_id, b"entry"))
        before = everything(client)
    for _ in range(2):
        with serving(tmp_path) as client:
            assert everything(client) == before
    assert [len(entries) for entries in before] == [151, 1, 1, 2, 1, 1, 1, 1]


def test_ids_and_times_go_on_rising(tmp_path: Path) -> None:
    ids, times = [], []
    for number in range(4):
        with serving(tmp_path) as client:
            group_id, key = new_group(), new_key()
            client.send(private_message(group_id))
            client.welcome(welcome_input(key, b"%d" % number))
            sent = created_inbox(new_address())
            client.publish(sent)
            client.publish_commit_log(commit_log_input(group_id, b"entry"))
            (message,), (welcome,), ((entry,),) = (
                client.messages(group_id),
                client.welcomes(key),
                client.updates(sent.inbox_id),
            )
            reported = client.commit_log(group_id)[0].commit_log_entries[0]
            ids += [message.id, welcome.v1.id, entry.sequence_id, reported.sequence_id]
            times += [message.created_ns, welcome.v1.created_ns, entry.server_timestamp_ns]
    assert ids == sorted(set(ids))
    assert times == sorted(times)


def test_times_never_fall_whatever_the_clock_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group_id = new_group()
    now = time.time_ns()
    for number, seconds in enumerate((0, 10, -3600, 5, 60)):
        monkeypatch.setattr(time, "time_ns", lambda seconds=seconds: now + seconds * 10**9)
        with serving(tmp_path) as client:
            client.send(private_message(group_id, b"%d" % number))
            times = [message.created_ns for message in client.messages(group_id)]
    assert len(times) == 5
    assert times == sorted(times)
    assert times[-1] == now + 60 * 10**9


def test_cursors_are_valid_after_a_restart(tmp_path: Path) -> None:
    group_id = new_group()
    with serving(tmp_path) as client:
        client.send(*(private_message(group_id, b"%d" % number) for number in range(10)))
        cursor = client.messages(group_id)[6].id
    with serving(tmp_path) as client:
        with client.follow({group_id: cursor}) as stream, client.mutable() as mutable:
            mutable.started()
            mutable.mutate({group_topic(group_id): cursor})
            client.send(private_message(group_id, b"10"))
            expected = client.messages(group_id)[7:]
            assert stream.take(4) == expected
            frames = mutable.until(lambda frame: frame.HasField("messages"))
            assert frames[-1].messages.group_messages[0].v1 == expected[0]
        assert client.messages(group_id, cursor) == expected
        assert [message.v1 for message in client.page(group_id, paging(limit=1, cursor=cursor)).messages] == expected[
            :1
        ]


def test_what_was_stored_before_a_restart_is_not_stored_again(tmp_path: Path) -> None:
    group_id, key = new_group(), new_key()
    data = private_message(group_id)
    sent = created_inbox(new_address())
    for _ in range(3):
        with serving(tmp_path) as client:
            client.send(data)
            client.welcome(welcome_input(key, b"welcome"), pointer_input(key, b"pointer"))
            client.publish(sent)
            assert len(client.messages(group_id)) == 1
            assert len(client.welcomes(key)) == 2
            assert client.log(sent.inbox_id) == [sent]


def test_a_node_object_may_be_started_again(tmp_path: Path) -> None:
    node = LocalNode(tmp_path, port=0)
    group_id = new_group()
    with running_loop() as run:
        for number in range(3):
            run(node.start())
            with NodeClient(node.url) as client:
                client.send(private_message(group_id, b"%d" % number))
                assert len(client.messages(group_id)) == number + 1
            run(node.aclose())


def test_in_memory_nothing_is_kept() -> None:
    group_id = new_group()
    with serving() as client:
        client.send(private_message(group_id))
        assert len(client.messages(group_id)) == 1
    with serving() as client:
        assert client.messages(group_id) == []


def test_two_nodes_share_nothing() -> None:
    group_id = new_group()
    with serving() as first, serving() as second:
        first.send(private_message(group_id))
        assert second.messages(group_id) == []
        check_alive(second)
        assert len(first.messages(group_id)) == 1


# --- what a node needs ------------------------------------------------------------------------------------------------


def test_a_second_node_on_a_directory_is_locked_out(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        with pytest.raises(StoreLocked), serving(tmp_path):
            pass
        check_alive(client)
    with serving(tmp_path) as client:
        check_alive(client)


def test_a_node_of_another_process_locks_a_directory_too(tmp_path: Path) -> None:
    with NodeProcess.start(tmp_path) as process:
        with pytest.raises(StoreLocked), serving(tmp_path):
            pass
        with NodeClient(process.url) as client:
            check_alive(client)
        process.kill()
    with serving(tmp_path) as client:
        check_alive(client)


def test_a_port_in_use_is_an_error_and_the_directory_stays_free(tmp_path: Path) -> None:
    with serving(tmp_path / "first") as client:
        port = int(client.url.rpartition(":")[2])
        with pytest.raises(OSError), serving(tmp_path / "second", port=port):
            pass
        check_alive(client)
    with serving(tmp_path / "second", port=port) as client:
        assert client.url == f"http://127.0.0.1:{port}"
        check_alive(client)


def test_a_port_that_somebody_else_listens_on_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError), serving(port=port):
            pass


def test_an_address_of_another_machine_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), serving(tmp_path, host="192.0.2.1"):
        pass


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    for path in (file, file / "node"):
        with pytest.raises(OSError), serving(path):
            pass
    assert file.read_bytes() == b"precious"


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (value)")
    connection.close()


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def _no_database(path: Path) -> None:
    path.write_bytes(b"precious" * 1000)


@pytest.mark.parametrize("spoil", [_foreign, _newer, _no_database])
def test_a_directory_with_other_data_is_an_error_and_is_left_alone(tmp_path: Path, spoil: Any) -> None:
    database = tmp_path / "node.db3"
    if spoil is _newer:
        with serving(tmp_path) as client:
            check_alive(client)
    spoil(database)
    before = database.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreError) as caught, serving(tmp_path):
            pass
        assert not isinstance(caught.value, StoreLocked)
    assert database.read_bytes() == before


def test_a_damaged_database_is_an_error(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        check_alive(client)
    database = tmp_path / "node.db3"
    data = database.read_bytes()
    database.write_bytes(data[:1000] + os.urandom(len(data) - 1000))
    with pytest.raises(StoreError), serving(tmp_path):
        pass


@pytest.mark.parametrize(
    "options",
    [
        *({"port": port} for port in (-1, 65_536)),
        *({"retain_days": days} for days in (0, -1, 1e9, float("nan"), float("inf"))),
        *({"max_message_bytes": size} for size in (0, -1)),
        *({"keepalive_s": seconds} for seconds in (0, -1, float("nan"), float("inf"), 1e9)),
    ],
)
def test_options_out_of_range_are_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LocalNode(**options)


def test_a_larger_or_smaller_limit_of_messages() -> None:
    for limit in (1000, 6 << 20):
        with serving(max_message_bytes=limit) as client:
            group_id = new_group()
            client.send(sized_message(group_id, limit))
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                client.send(sized_message(group_id, limit + 1))
            assert len(client.messages(group_id)) == 1


def test_localhost_is_every_loopback_address_of_the_machine() -> None:
    with serving(host="localhost") as client:
        assert client.url.startswith("http://localhost:")
        port = int(client.url.rpartition(":")[2])
        for address in _loopback_addresses():
            host = f"[{address}]" if ":" in address else address
            with NodeClient(f"http://{host}:{port}") as other:
                check_alive(other)


def _loopback_addresses() -> list[str]:
    out = ["127.0.0.1"]
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return out
    return [*out, "::1"]


def test_a_url_needs_a_running_node() -> None:
    node = LocalNode(port=0)
    with pytest.raises(RuntimeError):
        _ = node.url
    with running_loop() as run:
        run(node.start())
        assert node.url.startswith("http://127.0.0.1:")
        run(node.aclose())
    with pytest.raises(RuntimeError):
        _ = node.url


def test_a_node_is_started_once_and_closed_as_often_as_one_likes() -> None:
    with running_loop() as run:
        node = LocalNode(port=0)
        run(node.aclose())
        run(node.start())
        with pytest.raises(RuntimeError):
            run(node.start())
        with NodeClient(node.url) as client:
            check_alive(client)
        run(node.aclose())
        run(node.aclose())


def test_a_node_in_the_program_s_own_loop(tmp_path: Path) -> None:
    group_id = new_group()

    async def main() -> None:
        async with LocalNode(tmp_path, port=0) as node, grpc.aio.insecure_channel(node.url[7:]) as channel:
            send = channel.unary_unary("/xmtp.mls.api.v1.MlsApi/SendGroupMessages")
            request = mls_api.SendGroupMessagesRequest(messages=[message_input(private_message(group_id))])
            await send(request.SerializeToString())

    asyncio.run(main())
    with serving(tmp_path) as client:
        assert len(client.messages(group_id)) == 1


def test_a_local_xmtp_may_be_run_again_on_its_directory_and_port(tmp_path: Path) -> None:
    group_id = new_group()
    with run_local_xmtp(tmp_path) as first:
        port = int(first.node_url.rpartition(":")[2])
        with NodeClient(first.node_url) as client:
            client.send(private_message(group_id))
    with run_local_xmtp(tmp_path, node_port=port) as second, NodeClient(second.node_url) as client:
        assert second.node_url == first.node_url
        assert len(client.messages(group_id)) == 1


def test_a_local_xmtp_ends_with_the_error_of_its_block() -> None:
    urls = []

    def fail() -> None:
        with run_local_xmtp() as running:
            urls.append(running.node_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with NodeClient(urls[0]) as client, refused(grpc.StatusCode.UNAVAILABLE):
        check_alive(client)


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_streams_end_with_unavailable_when_the_node_stops(tmp_path: Path) -> None:
    group_id = new_group()
    with running_loop() as run:
        node = LocalNode(tmp_path, port=0)
        run(node.start())
        with NodeClient(node.url) as client:
            client.send(private_message(group_id))
            streams = [client.follow({group_id: 0}), client.follow({}), client.follow_welcomes({new_key(): 0})]
            for stream in streams:
                stream.headers()
            streams[0].take(1)
            mutable = client.mutable()
            mutable.started()
            mutable.until_complete(mutable.mutate({group_topic(group_id): 0}))
            started = time.monotonic()
            run(node.aclose())
            assert time.monotonic() - started < 2
            for ended in (*streams, mutable):
                assert ended.end() is grpc.StatusCode.UNAVAILABLE
            with refused(grpc.StatusCode.UNAVAILABLE):
                client.messages(group_id)


def test_a_client_that_does_not_read_does_not_hold_up_stopping(tmp_path: Path) -> None:
    group_id = new_group()
    with running_loop() as run:
        node = LocalNode(tmp_path, port=0)
        run(node.start())
        with NodeClient(node.url) as client:
            for number in range(40):
                client.send(sized_message(group_id, 1 << 20, number))
            stalled = client.follow({group_id: 0})
            stalled.take(1)
            mutable = client.mutable()
            mutable.started()
            mutable.mutate({group_topic(group_id): 0})
            mutable.frame()
            started = time.monotonic()
            run(node.aclose())
            assert time.monotonic() - started < 10
            for ended in (stalled, mutable):
                assert ended.end() is grpc.StatusCode.UNAVAILABLE
    with serving(tmp_path) as client:
        assert len(client.messages(group_id)) == 40


def test_calls_under_way_end_in_order_when_the_node_stops(tmp_path: Path) -> None:
    group_ids = [new_group() for _ in range(4)]
    acknowledged: list[bytes] = []
    # gRPC itself cancels a call that has arrived and is not yet handed to the node.
    expected = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

    def send(group_id: bytes, url: str) -> None:
        with NodeClient(url) as client:
            for number in itertools.count():
                data = private_message(group_id, b"%d" % number)
                try:
                    client.send(data)
                except grpc.RpcError as error:
                    assert error.code() in expected
                    return
                acknowledged.append(data)

    with running_loop() as run:
        node = LocalNode(tmp_path, port=0)
        run(node.start())
        url = node.url
        with at_once(*(lambda group_id=group_id: send(group_id, url) for group_id in group_ids)):
            try:
                wait_until(lambda: len(acknowledged) >= 200)
            finally:
                run(node.aclose())
    with serving(tmp_path) as client:
        stored = [message.data for group_id in group_ids for message in client.messages(group_id)]
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


_NEVER_CLOSED = """
import asyncio, sys
from support.node_client import NodeClient, check_alive
from xmtp_history import LocalNode

async def main():
    node = LocalNode(sys.argv[1], port=0)
    await node.start()
    with NodeClient(node.url) as client:
        await asyncio.to_thread(check_alive, client)
        print(len(sys.argv))

asyncio.run(main())
"""


def test_a_program_that_never_closes_its_node_ends_nevertheless(tmp_path: Path) -> None:
    for _ in range(2):
        assert child.run(_NEVER_CLOSED, tmp_path).split() == ["2"]
    with serving(tmp_path) as client:
        check_alive(client)


# --- what every server has --------------------------------------------------------------------------------------------

_SERVICES = ("xmtp.mls.api.v1.MlsApi", "xmtp.identity.api.v1.IdentityApi")


@pytest.mark.parametrize("name", ["", *_SERVICES])
def test_health(client: NodeClient, name: str) -> None:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    for _ in range(3):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_what_is_not_there(client: NodeClient) -> None:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    with refused(grpc.StatusCode.NOT_FOUND):
        stub.Check(health_pb2.HealthCheckRequest(service="xmtp.Nothing"), timeout=10)


def test_reflection_lists_the_services_and_describes_them(client: NodeClient) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        *(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in _SERVICES),
    ]
    listed, *described = stub.ServerReflectionInfo(iter(requests), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {*_SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    for answer in described:
        assert answer.file_descriptor_response.file_descriptor_proto


def test_two_thousand_calls_at_once(client: NodeClient) -> None:
    group_id = new_group()
    client.send(private_message(group_id))
    request = mls_api.QueryGroupMessagesRequest(group_id=group_id)
    calls = [client.future("QueryGroupMessages", request) for _ in range(2000)]
    assert all(len(call.result().messages) == 1 for call in calls)


def test_clients_that_come_back_all_at_once(client: NodeClient, node_url: str) -> None:
    group_ids = [new_group() for _ in range(50)]
    client.send(*(private_message(group_id) for group_id in group_ids))
    connections = [NodeClient(node_url) for _ in range(25)]
    streams = [connection.follow(dict.fromkeys(group_ids, 0)) for connection in connections for _ in range(4)]
    for stream in streams:
        assert len(stream.take(50)) == 50
    for connection in connections:
        connection.close()


def test_a_mutable_stream_says_that_it_started_before_anything_is_asked(client: NodeClient) -> None:
    opened = [client.mutable() for _ in range(20)]
    for stream in opened:
        assert kinds_of([stream.frame()]) == ["started"]
        stream.cancel()


def test_an_update_is_stored_before_it_is_answered(tmp_path: Path) -> None:
    with NodeProcess.start(tmp_path) as process, NodeClient(process.url) as client:
        sent = created_inbox(new_address())
        later = update(sent.inbox_id, add(installation_member(new_key())))
        client.publish(sent)
        client.publish(later)
        process.kill()
    with serving(tmp_path) as client:
        assert client.log(sent.inbox_id) == [sent, later]
        assert client.inbox_ids(sent.actions[0].create_inbox.initial_identifier) == [sent.inbox_id]


def test_the_log_of_the_database_does_not_grow_for_ever(tmp_path: Path) -> None:
    """It is copied into the database while messages come in, and begins anew."""
    group_id, size = new_group(), 256 << 10
    largest = 0
    with serving(tmp_path) as client:
        for number in range(600):
            client.send(sized_message(group_id, size, number))
            largest = max(largest, (tmp_path / "node.db3-wal").stat().st_size)
        assert len(client.messages(group_id)) == 600
    assert largest < 600 * size / 4
    assert not (tmp_path / "node.db3-wal").exists(), "when the node has stopped, all is in one file"
    with serving(tmp_path) as client:
        assert len(client.messages(group_id)) == 600
