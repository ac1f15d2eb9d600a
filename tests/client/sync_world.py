"""Installations of one inbox with a node and a history server between them, what they hold, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from client.clients import KEY, Wallet, build, create
from independent.protobuf import field_bytes, wire_fields
from support.build import consent, dm, encoded, group, group_id, message, text_content
from support.faulty_server import FaultyServer
from support.history_server import make_server
from support.node_client import quiet_port
from support.public import listing, public
from xmtp_history import Client, EoaSigner, History, HistoryServer, LocalNode, Message
from xmtp_history.client import _imports, _requests, _tasks, _transfers, _worker
from xmtp_history.sync import _retry

_Result = TypeVar("_Result")

#: Nothing in these suites takes as long. What has not come by then does not come.
DEADLINE_S = 40.0
#: Nor does any step of them.
PATIENCE_S = 20.0
#: More messages in one call are not told one by one: they come by archive, or not at all.
MANY = 1001

REQUEST, ACKNOWLEDGE, REPLY, PREFERENCES, NOTICE = 1, 2, 3, 4, 10417


def run(main: Callable[[], Awaitable[_Result]], seconds: float = DEADLINE_S) -> _Result:
    """Runs a test in a loop of its own, not for ever."""

    async def timed() -> _Result:
        async with asyncio.timeout(seconds):
            return await main()

    return asyncio.run(timed())


async def until(condition: Callable[..., Any], *arguments: Any) -> Any:
    """Waits until something is so, or what is awaited is; returns it."""
    end = time.monotonic() + PATIENCE_S
    while True:
        value = condition(*arguments)
        value = await value if isinstance(value, Awaitable) else value
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail("it does not happen")
        await asyncio.sleep(0.01)


# --- installations ----------------------------------------------------------------------------------------------------


class World:
    """A node, a history server, and a wallet with any number of installations.

    Attributes:
        path: where everything is.
        node: the node.
        node_url: where it is, also while it is down.
        server: the history server.
        key: the private key of the wallet.
        wallet: of all installations.
    """

    def __init__(self, path: Path, node: LocalNode, server: Any, stack: AsyncExitStack) -> None:
        self.path, self.node, self.server = path, node, server
        self.node_url = node.url
        self.key = random.randbytes(32).hex()
        self.wallet = Wallet(EoaSigner.from_key(self.key))
        self._stack = stack

    @property
    def url(self) -> str:
        """The history server's."""
        return str(self.server.url)

    async def open(self, name: str, *, node: str | None = None, **options: Any) -> Client:
        """Opens an installation, or registers it. Its worker looks often; it asks for nothing by itself."""
        client = await create(node or self.node_url, self.wallet, self.path / name, **self._options(options))
        return await self._stack.enter_async_context(client)

    async def reopen(self, name: str, *, node: str | None = None, **options: Any) -> Client:
        """Opens an installation that is there, without its wallet and without asking the node."""
        client = await build(node or self.node_url, self.path / name, **self._options(options))
        return await self._stack.enter_async_context(client)

    async def stop_node(self) -> None:
        """Takes the node down."""
        await self.node.aclose()

    async def start_node(self) -> None:
        """Brings it back, with everything that it had."""
        self.node = LocalNode(self.path / "node", port=int(self.node_url.rpartition(":")[2]))
        await self.node.start()

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"history_sync_url": self.url, "auto_history_sync": False, "sync_interval": 0.3} | options

    def store(self, name: str) -> History:
        """The store of an installation, opened beside it."""
        return History.open(self.path / name, KEY)


@asynccontextmanager
async def world(path: Path, server: FaultyServer | HistoryServer | None = None, **limits: Any) -> AsyncIterator[World]:
    """A node and a history server without faults, or the server given."""
    with quick():
        async with server or make_server(path / "archives", **limits) as running:
            node = LocalNode(path / "node", port=quiet_port())
            await node.start()
            here = None
            try:
                async with AsyncExitStack() as stack:
                    here = World(path, node, running, stack)
                    yield here
            finally:
                await (node if here is None else here.node).aclose()


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Short waits between the tries of a transfer, of a task, and of the worker, and for further answers."""
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        await real(min(seconds / 100, 0.01))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_retry, "_sleep", sleep)
        patch.setattr(_tasks, "_delay", lambda attempts: 0.02 * attempts)
        patch.setattr(_tasks, "_LONGEST_SLEEP", 0.05)
        patch.setattr(_requests, "_GRACE_SECONDS", 0.3)
        patch.setattr(_worker, "_RESTART_SECONDS", 0.05)
        patch.setattr(_worker, "_LONGEST_RESTART_SECONDS", 0.2)
        yield


@contextlib.contextmanager
def hasty(seconds: float = 0.3) -> Iterator[None]:
    """Transfers do not wait for long where nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_transfers, "STALL_SECONDS", seconds)
        yield


@contextlib.contextmanager
def late(seconds: float = 0.0) -> Iterator[None]:
    """An archive that is not there counts as gone after so many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_imports, "_FRESH_SECONDS", seconds)
        yield


async def meet(*clients: Client) -> None:
    """All installations come to know the sync group that was made last."""
    for _ in range(2):
        for client in clients:
            await client.sync_all_device_sync_groups()


async def arrived(client: Client, messages: int = MANY) -> None:
    """Waits until a client has so many messages."""
    await until(lambda: client.history.counts().messages == messages)


class Following:
    """What a stream has given so far; streams begin when they are asked for."""

    def __init__(self, stream: AsyncIterator[Any]) -> None:
        self.all: list[Any] = []
        self._stream = stream
        self._task = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for item in self._stream:
            self.all.append(item)

    def of(self, kind: type[_Result]) -> list[_Result]:
        """Those of a kind."""
        return [item for item in self.all if isinstance(item, kind)]

    async def first(self, kind: type[_Result], number: int = 1) -> _Result:
        """Waits for the first of a kind, or the so-many-th."""

        def found() -> list[_Result]:
            if self._task.done():
                self._task.result()
            return self.of(kind)[number - 1 :]

        result: _Result = (await until(found))[0]
        return result

    async def ended(self) -> None:
        """Waits until the stream has come to its end."""
        await self._task

    async def close(self) -> None:
        """Leaves the stream."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@asynccontextmanager
async def following(client: Client) -> AsyncIterator[Following]:
    """A client's events, from now on."""
    events = Following(client.stream_events())
    try:
        yield events
    finally:
        await events.close()


async def tasks(client: Client) -> list[dict[str, Any]]:
    """What sync groups' messages ask a client to do, and what it has not done yet."""
    rows: list[dict[str, Any]] = await client._parts.core.ask("sync_tasks")
    return rows


# --- what they hold ---------------------------------------------------------------------------------------------------

#: Whom consent is about, beside the conversations.
SPAMMER = "5b" * 32


def fill(history: History, *, first: int = 0, count: int = MANY, size: int = 0) -> None:
    """A group and a DM with many messages, and decisions about them and a person. Nothing of it is told one by one.

    Args:
        history: the store.
        first: the number of the first message.
        count: how many messages.
        size: how many bytes of content each of them has; a short text if 0.
    """
    history.add_conversations([public(group(first + 1)), public(dm(first + 2))])  # type: ignore[list-item]
    history.add_messages(_messages(first, count, size))
    decisions = [consent(group_id(first + 1)), consent(group_id(first + 2), 3), consent(SPAMMER, 3, entity_type=2)]
    history.set_consents([public(each) for each in decisions])  # type: ignore[misc]


@lru_cache(maxsize=4)
def _messages(first: int, count: int, size: int) -> list[Message]:
    choice = random.Random(first)
    contents = (
        encoded("attachment", choice.randbytes(size)) if size else text_content(f"message {number}")
        for number in range(first, first + count)
    )
    records = (message(first + n, first + 1 + n % 2, content=content) for n, content in enumerate(contents))
    return [public(record) for record in records]  # type: ignore[misc]


def held(history: History) -> dict[str, Any]:
    """All conversations, messages and decisions, in a form that is the same on every installation."""
    everything = listing(history)
    return {
        "conversations": set(everything["conversations"]),
        "messages": everything["messages"],
        "consents": {key: (each.state, each.consented_at_ns) for key, each in everything["consents"].items()},
    }


def assert_same(*clients: Client) -> None:
    """All installations hold the same, and that is something."""
    first, *others = [held(client.history) for client in clients]
    assert first["messages"]
    for other in others:
        assert other["conversations"] == first["conversations"]
        assert other["messages"] == first["messages"]
        assert other["consents"] == first["consents"]


def assert_nothing(*clients: Client) -> None:
    """Nothing of an archive has come to a client."""
    for client in clients:
        counts = client.history.counts()
        assert (counts.conversations, counts.messages, counts.consents) == (0, 0, 0)


# --- what they say ----------------------------------------------------------------------------------------------------


class Said(NamedTuple):
    """Something that was said in a sync group.

    Attributes:
        kind: number of the variant of DeviceSyncContent.
        fields: its fields; of those that come more than once the last.
        sender: the installation.
        sent_at_ns: the node's time.
        sequence_id: the node's number.
        group_id: the sync group.
        content: all of it.
    """

    kind: int
    fields: dict[int, Any]
    sender: str
    sent_at_ns: int
    sequence_id: int
    group_id: str
    content: bytes


async def heard(client: Client, *kinds: int) -> list[Said]:
    """What a client has heard and said in sync groups, in the node's order; only of these kinds, if any are given."""
    found = []
    for each in await client.sync_group_messages():
        for number, _, value, _ in wire_fields(each.content):
            if not kinds or number in kinds:
                fields = fields_of(value) if isinstance(value, bytes) else {}
                who = (each.sender_installation_id, each.sent_at_ns, each.sequence_id, each.group_id)
                found.append(Said(number, fields, *who, each.content))
    return found


def fields_of(data: bytes) -> dict[int, Any]:
    """A message's fields by number, the last of each."""
    return {number: value for number, _, value, _ in wire_fields(data)}


async def say(client: Client, content: bytes) -> str:
    """Says anything to the other installations."""
    return await client.send_sync_message(content)


def request(pin: str | bytes, server_url: str | bytes, *, elements: bytes = b"\x01\x02", more: bytes = b"") -> bytes:
    """A DeviceSyncRequest."""
    options = field_bytes(1, elements) if elements else b""
    return field_bytes(
        REQUEST, field_bytes(1, _bytes(pin)) + field_bytes(2, _bytes(server_url)) + field_bytes(4, options) + more
    )


def reply(pin: str | bytes, url: str | bytes, key: bytes, *, more: bytes = b"") -> bytes:
    """A DeviceSyncReply with the metadata that responders send."""
    metadata = field_bytes(2, b"\x01\x02") + field_bytes(3, time.time_ns())
    return field_bytes(
        REPLY,
        field_bytes(1, _bytes(pin))
        + field_bytes(2, _bytes(url))
        + field_bytes(3, field_bytes(1, key))
        + field_bytes(6, metadata)
        + more,
    )


def preferences(*updates: bytes) -> bytes:
    """A PreferenceUpdates with updates as they are."""
    return field_bytes(PREFERENCES, b"".join(field_bytes(1, update) for update in updates))


def consent_update(entity: str | bytes, state: int, at_ns: int, *, entity_type: int = 2) -> bytes:
    """A PreferenceUpdate with a decision."""
    fields: list[tuple[int, int | bytes]] = [(1, entity_type), (2, state), (3, _bytes(entity)), (4, at_ns)]
    return field_bytes(1, b"".join(field_bytes(number, value) for number, value in fields))


def hmac_update(key: bytes, at_ns: int) -> bytes:
    """A PreferenceUpdate with a root key."""
    return field_bytes(2, field_bytes(1, key) + field_bytes(2, at_ns))


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
