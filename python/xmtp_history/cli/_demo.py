"""What the demo does: two installations of one user, an old one with a history and a new one that gets it.

Each ``Peer`` is a kind of old installation: one of this package, or real libxmtp in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from xmtp_history import (
    Client,
    Consent,
    ConsentEntityType,
    ConsentState,
    Conversation,
    ConversationType,
    DeliveryStatus,
    EoaSigner,
    History,
    MembershipState,
    Message,
    MessageKind,
)
from xmtp_history.testing import run_local_xmtp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from xmtp_history import Progress, SyncReport
    from xmtp_history.testing import LocalXmtp

#: How long anything in the demo may take, seconds.
_PATIENCE = 120.0
_SECOND_NS = 10**9
_DAY_NS = 86_400 * _SECOND_NS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo came to.

    Attributes:
        peer: what the old installation was.
        seconds: what took how long.
        report: the sync's own report.
        conversations: conversations that both have.
        messages: messages that both have.
        differences: what one has and the other has not; empty if all went well.
    """

    peer: str
    seconds: dict[str, float]
    report: SyncReport
    conversations: int
    messages: int
    differences: tuple[str, ...]


class _Peer(Protocol):
    """The old installation."""

    async def deny(self, inbox_id: str) -> None: ...


class _Ours:
    """An old installation of this package."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def deny(self, inbox_id: str) -> None:
        """Decides about an inbox."""
        await self._client.preferences.set_consent_states([_denied(inbox_id)])


class _Libxmtp:
    """An old installation of the real library."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def deny(self, inbox_id: str) -> None:
        """Decides about an inbox."""
        await _say(self._process, inbox_id)


class Demo:
    """The demo, with everything in a folder.

    Args:
        folder: for databases.
        peer: ``xmtp-history`` or ``libxmtp``.
        on_step: is told what comes next, in words.
        on_progress: the sync's.

    Raises:
        ValueError: the bindings of libxmtp are not installed.
        ImportError: the extra for wallets is not installed.
    """

    def __init__(
        self, folder: Path, peer: str, *, on_step: Callable[[str], None], on_progress: Callable[[Progress], None]
    ) -> None:
        if peer == "libxmtp" and find_spec("xmtp_bindings") is None:
            raise ValueError("the real library is not installed: pip install xmtp-bindings==0.1.8")
        self._folder = folder
        self._peer = peer
        self._on_step = on_step
        self._on_progress = on_progress
        self._seconds: dict[str, float] = {}
        self._wallet_key = secrets.token_bytes(32)
        self._wallet = EoaSigner.from_key(self._wallet_key)

    async def run(self, messages: int, conversations: int) -> Outcome:
        """Runs it, with so many messages in so many conversations."""
        self._on_step("A local XMTP node and a history server")
        async with contextlib.AsyncExitStack() as stack:
            local = stack.enter_context(run_local_xmtp())
            source = stack.enter_context(History.open(self._folder / "source.db", secrets.token_bytes(32)))
            self._on_step(
                f"An old installation with {messages:,} messages in {conversations:,} conversations ({self._peer})"
            )
            with self._timed("fill the old installation"):
                _fill(source, messages, conversations)
                opened = self._libxmtp if self._peer == "libxmtp" else self._ours
                old = await stack.enter_async_context(opened(local, source))
            self._on_step("A new installation of the same user registers, and asks for the history")
            with self._timed("register the new installation"):
                new = await stack.enter_async_context(await self._client(local, "new.db"))
            with self._timed("sync"):
                report = await new.sync_history(timeout=_PATIENCE, on_progress=self._on_progress)
            self._on_step("Do both hold the same?")
            with self._timed("compare"):
                there, here = _listing(source), _listing(new.history)
            differences = [f"conversation {key}" for key in there.keys() ^ here.keys()]
            differences += [f"messages of {key}" for key in there.keys() & here.keys() if there[key] != here[key]]
            self._on_step("The old one blocks somebody; the new one hears of it")
            if not await self._is_heard(old, new):
                differences.append("consent")
            count = sum(messages for messages, _ in here.values())
            return Outcome(self._peer, self._seconds, report, len(here), count, tuple(sorted(differences)))

    async def _is_heard(self, old: _Peer, new: Client) -> bool:
        somebody = secrets.token_hex(32)
        async with new.preferences.stream_consent() as decisions, asyncio.timeout(_PATIENCE):
            with self._timed("consent, old to new"):
                await old.deny(somebody)
                async for changed in decisions:
                    if any(consent.entity == somebody for consent in changed):
                        break
        state = await new.preferences.get_consent_state(ConsentEntityType.INBOX_ID, somebody)
        return state is ConsentState.DENIED

    async def _client(self, local: LocalXmtp, name: str) -> Client:
        return await Client.create(
            self._wallet,
            env="local",
            api_url=local.node_url,
            history_sync_url=local.history_sync_url,
            auto_history_sync=False,
            db_path=self._folder / name,
            db_encryption_key=secrets.token_bytes(32),
        )

    @contextlib.asynccontextmanager
    async def _ours(self, local: LocalXmtp, source: History) -> AsyncIterator[_Peer]:
        path, key = self._archive(source)
        async with await self._client(local, "old.db") as client:
            await client.import_archive(path, key)
            yield _Ours(client)

    @contextlib.asynccontextmanager
    async def _libxmtp(self, local: LocalXmtp, source: History) -> AsyncIterator[_Peer]:
        path, key = self._archive(source)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "xmtp_history.cli._demo_libxmtp",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        request = {
            "node": local.node_url,
            "db": str(self._folder / "libxmtp.db"),
            "wallet_key": self._wallet_key.hex(),
            "archive": str(path),
            "archive_key": key.hex(),
        }
        try:
            await _say(process, request)
            async with asyncio.timeout(_PATIENCE):
                if process.stdout is None or not await process.stdout.readline():
                    raise OSError("libxmtp ended before it had imported the history")
            yield _Libxmtp(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _archive(self, source: History) -> tuple[Path, bytes]:
        """The history to begin with, by which both kinds of installation get it."""
        path, key = self._folder / "old.xmtp", secrets.token_bytes(32)
        source.create_archive(path, key)
        return path, key

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[what] = time.perf_counter() - start


async def _say(process: asyncio.subprocess.Process, what: object) -> None:
    if process.stdin is None:
        raise OSError("libxmtp has no input")
    process.stdin.write(json.dumps(what).encode() + b"\n")
    await process.stdin.drain()


def _denied(inbox_id: str) -> Consent:
    return Consent(ConsentEntityType.INBOX_ID, ConsentState.DENIED, inbox_id, time.time_ns())


def _listing(history: History) -> dict[str, tuple[int, str]]:
    """For each conversation, how many messages it has, and a digest of everything in them."""
    listing = {}
    for conversation in history.conversations():
        digest, count = hashlib.sha256(conversation.name.encode() if conversation.name else b""), 0
        for message in history.messages(conversation.id):
            fields: tuple[Any, ...] = (message.id, message.sent_at_ns, message.sender_inbox_id, message.content)
            digest.update(repr(fields).encode())
            count += 1
        listing[conversation.id] = count, digest.hexdigest()
    return listing


def _fill(history: History, messages: int, conversations: int) -> None:
    """Some made-up years of talk."""
    now = time.time_ns()
    people = [secrets.token_hex(32) for _ in range(20)]
    groups = [
        Conversation(
            id=secrets.token_hex(16),
            conversation_type=ConversationType.GROUP,
            name=f"Conversation {number + 1}",
            created_at_ns=now - 90 * _DAY_NS + number,
            creator_inbox_id=people[0],
            added_by_inbox_id=people[0],
            super_admins=(people[0],),
            membership_state=MembershipState.ALLOWED,
        )
        for number in range(conversations)
    ]
    history.add_conversations(groups)
    pace = 80 * _DAY_NS // max(1, messages)
    history.add_messages(
        Message(
            id=secrets.token_hex(32),
            conversation_id=groups[number % conversations].id,
            sent_at_ns=now - 85 * _DAY_NS + number * pace,
            kind=MessageKind.APPLICATION,
            sender_inbox_id=people[number % len(people)],
            sender_installation_id=people[number % len(people)],
            delivery_status=DeliveryStatus.PUBLISHED,
            content_type="text",
            content=_text(f"This is message number {number + 1:,} of a long history."),
            authority_id="xmtp.org",
            version_major=1,
        )
        for number in range(messages)
    )
    history.set_consents(
        Consent(ConsentEntityType.CONVERSATION_ID, ConsentState.ALLOWED, group.id, now) for group in groups
    )


def _text(text: str) -> bytes:
    """An EncodedContent of XMTP's content type for text, in which every length is below 128."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    content_type = field(1, b"xmtp.org") + field(2, b"text") + b"\x18\x01"
    encoding = field(1, b"encoding") + field(2, b"UTF-8")
    return field(1, content_type) + field(2, encoding) + field(4, text.encode())
