"""The mutable stream's pings: who is silent is asked, and who does not answer is gone (XIP-83)."""

from __future__ import annotations

import itertools
import threading
import time

import grpc
import pytest

from support.node_client import (
    group_topic,
    kinds_of,
    messages_of,
    new_group,
    private_message,
    serving,
)


def test_a_silent_stream_is_asked_with_a_new_nonce_each_time() -> None:
    with serving(keepalive_s=0.1) as client, client.mutable() as opened:
        assert opened.started().keepalive_interval_ms == 100
        nonces = set()
        for _ in range(5):
            frame = opened.frame()
            assert frame.WhichOneof("response") == "ping"
            nonces.add(frame.ping.nonce)
            opened.pong(frame.ping.nonce)
        assert len(nonces) == 5


def test_answered_pings_keep_a_stream_open() -> None:
    with serving(keepalive_s=0.05) as client, client.mutable() as opened:
        opened.started()
        group_id = new_group()
        opened.until_complete(opened.mutate({group_topic(group_id): 0}))
        for _ in range(20):
            opened.pong(opened.frame().ping.nonce)
        client.send(private_message(group_id))
        frames = opened.until(lambda frame: frame.HasField("messages"))
        assert len(messages_of(frames)) == 1


def test_unanswered_pings_end_a_stream() -> None:
    with serving(keepalive_s=0.05) as client, client.mutable() as opened:
        assert set(kinds_of(opened.rest())) == {"started", "ping"}
        assert opened.end() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "ping" in opened.details(), "it is not the client's own deadline"


@pytest.mark.parametrize("answer", ["wrong pong", "ping", "change"])
def test_only_the_right_pong_answers_a_ping(answer: str) -> None:
    """Whoever never reads a ping may still be sending."""
    with serving(keepalive_s=0.1) as client, client.mutable() as opened:
        opened.started()
        ended = threading.Event()

        def chatter() -> None:
            while not ended.wait(0.02):
                if answer == "wrong pong":
                    opened.pong(2**64 - 1)
                elif answer == "ping":
                    # Now and then: each is answered, and a stream that has just sent something is not silent.
                    ended.wait(0.3)
                    opened.ping(1)
                else:
                    ended.wait(0.3)
                    opened.mutate()

        thread = threading.Thread(target=chatter)
        thread.start()
        try:
            assert opened.end() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "ping" in opened.details(), "it is not the client's own deadline"
        finally:
            ended.set()
            thread.join()


def test_messages_put_pings_off() -> None:
    with serving(keepalive_s=0.5) as client, client.mutable() as opened:
        opened.started()
        group_id = new_group()
        opened.until_complete(opened.mutate({group_topic(group_id): 0}))
        started = time.monotonic()
        kinds = []
        for number in itertools.count():
            client.send(private_message(group_id, b"%d" % number))
            kinds.append(opened.frame().WhichOneof("response"))
            if time.monotonic() - started > 0.8:
                break
        assert set(kinds) == {"messages"}
