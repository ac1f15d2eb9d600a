"""Stores that send and receive, servers that stop in between, and what has to be true after a transfer that failed."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support import public
from support.build import BOB, KEY, STORE_KEY, consent, dm, encoded, group, group_id, message, metadata
from support.faulty_server import Exchange, Fault, FaultyServer, Hangup, cut, on
from support.store import import_elements, snapshot
from xmtp_history import Counts, History
from xmtp_history.sync import _transfer

MESSAGES: Final = 300
COUNTS: Final = Counts(2, MESSAGES, 2)
RECORDS: Final = MESSAGES + 4

#: Bytes of a request or an answer that take a test somewhere: the import has not begun, and it has.
EARLY, LATE = 20_000, 950_000


@dataclass(frozen=True)
class Sample:
    """A store with something in it.

    Attributes:
        path: where it is.
        archive: an archive of it, of about a megabyte, sealed with :data:`support.build.KEY`.
        content: what a store holds that has imported it.
    """

    path: Path
    archive: bytes = field(repr=False)
    content: dict[str, Any] = field(repr=False)


def make_sample(folder: Path, *, content_bytes: int = 3200) -> Sample:
    """Makes a store. All of it was imported once, so that those who import it from there have the same."""
    some = random.Random(8)
    path = folder / "sample.db3"
    with History.open(path, STORE_KEY) as history:
        import_elements(
            history,
            [
                metadata(),
                group(1),
                dm(2),
                *(
                    message(number, 1 + number % 2, content=encoded("text", some.randbytes(content_bytes)))
                    for number in range(MESSAGES)
                ),
                consent(group_id(1)),
                consent(BOB, 3, entity_type=2),
            ],
        )
        history.create_archive(folder / "sample.xmtp", KEY)
        return Sample(path, (folder / "sample.xmtp").read_bytes(), snapshot(history))


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[History]:
    """A store of a test's."""
    with History.open(path, STORE_KEY, **options) as history:
        yield history


def threads() -> set[str]:
    """Threads that work for a transfer."""
    names = {thread.name for thread in threading.enumerate() if thread.name.startswith("xmtp-transfer")}
    for name in Path("/proc/self/task").glob("*/comm"):
        try:
            text = name.read_text().strip()
        except OSError:
            continue
        if text in {"xmtp-import", "xmtp-export"}:
            names.add(text)
    return names


def writable(path: Path) -> None:
    """Somebody else can write to a store at once."""
    with opened(path, timeout=0.0) as other:
        other.set_consents([public.consent(consent("f0" * 32, entity_type=2)[1])])
        assert other.counts().consents >= 1


def check_untouched(history: History, path: Path) -> None:
    """Nothing arrived, and nothing goes on. Writes something."""
    assert threads() == set()
    assert history.counts() == Counts()
    writable(path)
    history.add_messages([public.message(message(1)[1])])


class Gate:
    """Where a test holds a server up."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def _pass(self, server: FaultyServer) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.reached.set()
        # Whoever waits here does not notice that the client has gone.
        server._stalled.add(task)
        await self.open.wait()
        server._stalled.discard(task)

    def answering(self, after: int) -> Fault:
        """A download that stops after so many bytes."""

        async def fault(server: FaultyServer, exchange: Exchange) -> None:
            code, headers, body = server.content(exchange, server.files[exchange.name])
            await exchange.answer(code, headers, body[:after], length=len(body))
            await self._pass(server)
            await exchange.send(body[after:])
            raise Hangup

        return on("GET", fault)

    def taking(self, after: int) -> Fault:
        """An upload in one request that is not read on after so many bytes."""

        async def fault(server: FaultyServer, exchange: Exchange) -> None:
            body = exchange.body

            async def slowly() -> AsyncIterator[bytes]:
                async for piece in body():
                    if exchange.received >= after and not self.reached.is_set():
                        await self._pass(server)
                    yield piece

            exchange.body = slowly  # type: ignore[method-assign]
            await server.answer(exchange)

        return on("POST", fault)


def cuts(*places: int) -> list[Fault]:
    """Downloads that break off after so many bytes of what was asked for."""
    return [on("GET", cut(place)) for place in places]


async def settled(server: FaultyServer) -> None:
    """Waits until the server has noticed, and no thread is left."""
    await server.settled()
    assert threads() == set()


def small_steps(monkeypatch: Any) -> None:
    """Transfers in small pieces, so that there are many in a small archive; one read can be 384 KiB, though."""
    monkeypatch.setattr(_transfer, "_EXPORT_BYTES", 30_000)
    monkeypatch.setattr(_transfer, "_IMPORT_BYTES", 30_000)
    monkeypatch.setattr(_transfer, "_ARRIVED_AHEAD", 2)
