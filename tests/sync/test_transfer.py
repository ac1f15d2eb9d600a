"""Archives between a store and a history server: both directions, and everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from independent import write
from support import child, public
from support.build import ALICE, KEY, T0, dm, group, message, metadata
from support.faulty_server import Exchange, Fault, FaultyServer, drop, early, names, on, stall, status, until
from support.files import BoomError
from support.history_server import download, serving
from support.store import new_store, snapshot
from support.transfers import (
    COUNTS,
    EARLY,
    LATE,
    RECORDS,
    Gate,
    Sample,
    check_untouched,
    cuts,
    make_sample,
    opened,
    settled,
    small_steps,
    threads,
    writable,
)
from xmtp_history import (
    ArchiveElement,
    ArchiveExpired,
    ArchiveKeyError,
    ArchiveNotFound,
    ArchiveOptions,
    ArchiveTruncated,
    Counts,
    History,
    NetworkError,
    NoHistoryServer,
    PayloadTooLarge,
    Progress,
    StoreError,
    StoreLocked,
    SyncError,
    XmtpHistoryError,
    verify_archive,
)
from xmtp_history.sync import _progress, _retry, _sources, _transfer, _upload
from xmtp_history.sync._transfer import ReceivedArchive, SentArchive, receive_archive, send_archive

TENTHS = range(11)
ALL = ArchiveOptions()
OTHER_KEY = bytes(range(1, 33))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture
def source(sample: Sample) -> Iterator[History]:
    with opened(sample.path) as history:
        yield history


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    small_steps(monkeypatch)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads in pieces of 100,000 bytes, which a small archive has many of."""
    monkeypatch.setattr(_sources, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(_upload, "PIECE_BYTES", 100_000)
    monkeypatch.setattr(_sources, "BLOCK_BYTES", 10_000)


def send(server: FaultyServer, history: History, options: ArchiveOptions = ALL, **more: Any) -> SentArchive:
    """Sends a store, in a loop of its own, and checks that nothing is left behind."""

    async def main() -> SentArchive:
        async with server:
            try:
                return await send_archive(history, server.url, KEY, options, **more)
            finally:
                await settled(server)

    return asyncio.run(main())


def receive(server: FaultyServer, history: History, archive: bytes, key: bytes = KEY, **more: Any) -> ReceivedArchive:
    """The same, for receiving."""

    async def main() -> ReceivedArchive:
        async with server:
            try:
                return await receive_archive(history, server.add(archive), key, **more)
            finally:
                await server.settled()

    return asyncio.run(main())


def check_sent(server: FaultyServer, sent: SentArchive, sample: Sample) -> None:
    """All of the sample is on the server."""
    data = server.files[sent.url.rpartition("/")[2]]
    assert (sent.size, sent.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (sent.report.counts, sent.report.archive_bytes) == (COUNTS, len(data))
    with new_store() as copy:
        assert copy.import_archive(data, KEY).new == COUNTS
        assert snapshot(copy) == sample.content


# --- without faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_bytes", [500, 30_000])
def test_there_and_back(tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch, content_bytes: int) -> None:
    """9 MB as well, which go up in several pieces."""
    sample = make_sample(tmp_path, content_bytes=content_bytes)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    seen: list[set[str]] = []

    def look(_: Progress) -> None:
        found = names(tmp_path) | names(tmp_path / "temporary")
        seen.append({name for name in found if not name.endswith(("-wal", "-shm"))})

    async def main() -> None:
        async with serving(tmp_path / "server") as (server, client):
            with opened(sample.path) as source:
                look(Progress("", 0, None, 0))
                sent = await send_archive(source, server.url, KEY, ALL, on_progress=look)
            data = await download(client, sent.url.rpartition("/")[2])
            assert (sent.size, sent.sha256) == (len(data), hashlib.sha256(data).hexdigest())
            assert sent.report == verify_archive(data, KEY)

            received = await receive_archive(history, sent.url, KEY, inbox_id=ALICE, on_progress=look)
            assert (received.report.new, received.report.foreign_dms) == (COUNTS, 0)
            assert received.report.metadata == sent.report.metadata
            assert (received.size, received.verified) == (sent.size, True)
            assert snapshot(history) == sample.content
            again = await receive_archive(history, sent.url, KEY)
            assert (again.report.new, again.report.duplicate) == (Counts(), COUNTS)

    asyncio.run(main())
    # Nothing appears beside the stores or where temporary files are.
    assert len(seen) > 4
    assert all(found == seen[0] for found in seen)


def test_an_empty_store(history: History) -> None:
    with new_store() as source:
        sent = send(FaultyServer(), source)
    assert (sent.report.counts, sent.report.elements) == (Counts(), 1)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        (ArchiveOptions(elements=(ArchiveElement.CONSENT,)), Counts(consents=2)),
        (ArchiveOptions(elements=(ArchiveElement.MESSAGES,)), Counts(2, 300)),
        (ArchiveOptions(start_ns=T0 + 1099, end_ns=T0 + 1199), Counts(2, 100, 2)),
        (ArchiveOptions(start_ns=T0 + 1199, include_context_groups=False), Counts(0, 100, 2)),
        (ArchiveOptions(elements=()), Counts()),
    ],
    ids=["consent", "messages", "window", "without-context", "nothing"],
)
def test_options(source: History, history: History, options: ArchiveOptions, counts: Counts) -> None:
    server = FaultyServer()
    seen: list[Progress] = []
    sent = send(server, source, options, on_progress=seen.append)
    assert sent.report.counts == counts
    assert (sent.report.metadata.elements, sent.report.metadata.start_ns) == (options.elements, options.start_ns)
    whole = options.start_ns is None
    total = counts.conversations + counts.messages + counts.consents
    assert {step.total for step in seen[:-1]} == {total if whole else None}
    assert (seen[-1].done, seen[-1].total) == (total, total)

    async def main() -> None:
        async with server:
            url = server.url + "/files/" + next(iter(server.files))
            assert (await receive_archive(history, url, KEY)).report.new == counts

    asyncio.run(main())


def test_what_is_written_meanwhile_is_not_in_the_archive(tmp_path: Path, steps: None) -> None:
    sample = make_sample(tmp_path)
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(gate.taking(1000)) as server:
            with opened(sample.path) as source:
                sending = asyncio.ensure_future(send_archive(source, server.url, KEY, ALL))
                await gate.reached.wait()
                source.add_messages([public.message(message(999)[1])])
                gate.open.set()
                check_sent(server, await sending, sample)

    asyncio.run(main())


def test_slashes_that_other_clients_leave(sample: Sample, history: History) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(sample.archive).replace("/files/", "//files/")
            assert (await receive_archive(history, url, KEY)).report.new == COUNTS
            assert server.requests[0].target.startswith("/files/")

    asyncio.run(main())


def test_invalid_records_are_left_out_and_reported(history: History) -> None:
    archive = write(None, KEY, [metadata(), group(1), message(1), message(2, id="beef"), dm(2, id="")])
    received = receive(FaultyServer(), history, archive)
    assert received.report.new == Counts(1, 1, 0)
    assert received.report.skipped == Counts(1, 1, 0)
    assert [(record.kind, record.field) for record in received.report.invalid_records] == [
        ("message", "id"),
        ("conversation", "id"),
    ]


def test_several_at_once(sample: Sample, history: History, source: History) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(sample.archive)
            *received, sent = await asyncio.gather(
                *(receive_archive(history, url, KEY) for _ in range(4)), send_archive(source, server.url, KEY, ALL)
            )
            new = sorted(got.report.new.messages for got in received if isinstance(got, ReceivedArchive))
            assert new == [0, 0, 0, COUNTS.messages]
            assert isinstance(sent, SentArchive)
            check_sent(server, sent, sample)

    asyncio.run(main())
    assert snapshot(history) == sample.content


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_of_sending(source: History, steps: None, small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "_PROGRESS_INTERVAL", 0)
    monkeypatch.setattr(_progress, "_INTERVAL", 0)
    seen: list[Progress] = []
    sent = send(FaultyServer(), source, on_progress=seen.append)
    phases = [step.phase for step in seen]
    assert phases == sorted(phases)
    assert set(phases) == {"export", "upload"}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    for phase in ("export", "upload"):
        done = [step.bytes_done for step in seen if step.phase == phase]
        assert done == sorted(done)
        assert len(set(done)) > 3
    assert {step.total for step in seen} == {RECORDS}
    assert seen[-1] == Progress("upload", RECORDS, RECORDS, sent.size, sent.size)


def test_progress_of_receiving(sample: Sample, history: History, steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transfer, "_PROGRESS_INTERVAL", 0)
    seen: list[Progress] = []
    receive(FaultyServer(), history, sample.archive, on_progress=seen.append)
    size = len(sample.archive)
    phases = [step.phase for step in seen]
    assert phases == sorted(phases)
    assert set(phases) == {"download", "import"}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert [step.bytes_done for step in seen] == sorted(step.bytes_done for step in seen)
    assert all(step.bytes_done == size for step in seen if step.phase == "import")
    assert {step.total for step in seen[:-1]} == {None}
    assert {step.bytes_total for step in seen} == {size}
    assert seen[-1] == Progress("import", RECORDS, RECORDS, size, size)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_progress_comes_ten_times_a_second(
    sample: Sample, source: History, history: History, steps: None, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    clock = type("Clock", (), {"monotonic": lambda: now[0]})
    monkeypatch.setattr(_transfer, "time", clock)
    monkeypatch.setattr(_progress, "time", clock)
    seen: list[float] = []
    if direction == "up":
        send(FaultyServer(), source, on_progress=lambda _: seen.append(now[0]))
    else:
        receive(FaultyServer(), history, sample.archive, on_progress=lambda _: seen.append(now[0]))
    assert seen == [0.0, 0.0]


@pytest.mark.parametrize("kind", [BoomError, OSError, asyncio.CancelledError, TimeoutError])
@pytest.mark.parametrize(("phase", "number"), [("export", 0), ("export", 3), ("upload", 0), ("upload", 3)])
def test_a_callback_that_raises_ends_sending(
    source: History,
    steps: None,
    small_pieces: None,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    number: int,
    kind: type[BaseException],
) -> None:
    server = FaultyServer()
    with pytest.raises(kind):
        send(server, source, on_progress=raising(monkeypatch, phase, number, kind))
    assert not server.files
    assert not server.uploads


@pytest.mark.parametrize("kind", [BoomError, OSError, asyncio.CancelledError, TimeoutError])
@pytest.mark.parametrize(("phase", "number"), [("download", 0), ("download", 2), ("import", 0)])
def test_a_callback_that_raises_ends_receiving(
    sample: Sample,
    history: History,
    store_path: Path,
    steps: None,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
    number: int,
    kind: type[BaseException],
) -> None:
    with pytest.raises(kind):
        receive(FaultyServer(), history, sample.archive, on_progress=raising(monkeypatch, phase, number, kind))
    check_untouched(history, store_path)


def raising(
    monkeypatch: pytest.MonkeyPatch, phase: str, number: int, kind: type[BaseException]
) -> Callable[[Progress], None]:
    """A callback that is called always, and raises at that call of a phase."""
    monkeypatch.setattr(_transfer, "_PROGRESS_INTERVAL", 0)
    monkeypatch.setattr(_progress, "_INTERVAL", 0)
    seen: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        if progress.phase == phase:
            seen.append(progress)
            if len(seen) > number:
                raise kind

    return on_progress


# --- connections that break ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("tenth", TENTHS)
def test_a_download_that_is_cut_goes_on(
    sample: Sample, history: History, steps: None, tenth: int, ranges: bool
) -> None:
    place = len(sample.archive) * tenth // 10
    server = FaultyServer(*cuts(place, 100_000, 0), ranges=ranges)
    received = receive(server, history, sample.archive)
    assert (received.report.new, received.verified) == (COUNTS, True)
    assert server.methods().count("GET") >= (1 if tenth == 10 else 2)
    assert snapshot(history) == sample.content


@pytest.mark.parametrize("tenth", TENTHS)
def test_a_download_that_is_cut_for_good_leaves_nothing(
    sample: Sample, history: History, store_path: Path, steps: None, tenth: int
) -> None:
    place = max(0, len(sample.archive) * tenth // 10 - 1)
    server = FaultyServer(*cuts(place), *[on("GET", status(503))] * 20)
    with pytest.raises(NetworkError, match="status 503"):
        receive(server, history, sample.archive)
    check_untouched(history, store_path)


@pytest.mark.parametrize("tenth", TENTHS)
def test_an_upload_in_pieces_that_is_cut_goes_on(
    sample: Sample, source: History, steps: None, small_pieces: None, tenth: int
) -> None:
    server = FaultyServer(*[on("PATCH", drop(tenth * 10_000))] * 5)
    check_sent(server, send(server, source), sample)
    assert server.faults == []
    assert server.methods().count("HEAD") >= (0 if tenth == 10 else 3)


@pytest.mark.parametrize("tenth", TENTHS)
def test_an_upload_in_one_request_that_is_cut_begins_again(
    sample: Sample, source: History, steps: None, tenth: int
) -> None:
    server = FaultyServer(*[on("POST", drop(len(sample.archive) * tenth // 10))] * 3)
    check_sent(server, send(server, source), sample)
    assert server.methods() == ["POST"] * 4


@pytest.mark.parametrize("tus", [True, False])
@pytest.mark.parametrize("tenth", range(0, 10, 3))
def test_an_upload_that_is_cut_for_good(
    source: History, steps: None, small_pieces: None, tenth: int, tus: bool
) -> None:
    server = FaultyServer(on("PATCH", drop(tenth * 10_000)), tus=tus)
    server.faults += [on("HEAD", status(500))] * 20 if tus else [on("POST", drop(tenth * 10_000))] * 20
    with pytest.raises(NetworkError):
        send(server, source)
    assert not server.files


# --- answers that say no ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [(404, ArchiveNotFound), (410, ArchiveExpired), (413, PayloadTooLarge), (403, SyncError), (500, NetworkError)],
)
def test_a_server_that_has_nothing(
    sample: Sample, history: History, store_path: Path, code: int, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        receive(FaultyServer(*[status(code)] * 20), history, sample.archive)
    assert type(caught.value) is error
    check_untouched(history, store_path)


def test_a_server_that_lost_it_meanwhile(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    with pytest.raises(ArchiveNotFound):
        receive(FaultyServer(*cuts(LATE), on("GET", status(404))), history, sample.archive)
    check_untouched(history, store_path)


def test_an_archive_that_changes_meanwhile(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    async def change(server: FaultyServer, exchange: Exchange) -> None:
        server.files[exchange.name] = sample.archive[::-1]
        await server.answer(exchange)

    with pytest.raises(SyncError, match="changed"):
        receive(FaultyServer(*cuts(LATE), on("GET", change)), history, sample.archive)
    check_untouched(history, store_path)


@pytest.mark.parametrize(
    ("code", "error"),
    [(404, NoHistoryServer), (413, PayloadTooLarge), (403, SyncError), (507, SyncError), (503, NetworkError)],
)
@pytest.mark.parametrize("answering", [status, early])
def test_a_server_that_takes_nothing(
    source: History, steps: None, code: int, error: type[Exception], answering: Callable[[int], Fault]
) -> None:
    server = FaultyServer(*[answering(code)] * 20)
    with pytest.raises(error) as caught:
        send(server, source)
    assert type(caught.value) is error


def test_limits(sample: Sample, source: History, history: History, store_path: Path, steps: None) -> None:
    size = len(sample.archive)
    with pytest.raises(PayloadTooLarge, match="400,000"):
        receive(FaultyServer(), history, sample.archive, max_bytes=400_000)
    check_untouched(history, store_path)
    server = FaultyServer()
    with pytest.raises(PayloadTooLarge, match="400,000"):
        send(server, source, max_bytes=400_000)
    assert server.requests == []
    assert send(FaultyServer(), source, max_bytes=size + 1000).report.counts == COUNTS


def test_a_limit_of_the_server(source: History, steps: None, small_pieces: None) -> None:
    server = FaultyServer()
    server.max_bytes = 400_000
    with pytest.raises(PayloadTooLarge, match="400,000"):
        send(server, source)
    assert not server.files
    assert not server.uploads


def test_what_cannot_be(history: History, source: History, sample: Sample, store_path: Path) -> None:
    with pytest.raises(ArchiveKeyError):
        receive(FaultyServer(), history, sample.archive, b"short")

    async def main() -> None:
        with pytest.raises(ArchiveKeyError):
            await send_archive(source, "http://127.0.0.1:9", b"short", ALL)
        for url in ("", "ftp://127.0.0.1/x", "//files/x"):
            with pytest.raises(ValueError):
                await send_archive(source, url, KEY, ALL)
            with pytest.raises(ValueError):
                await receive_archive(history, url, KEY)
        source.close()
        with pytest.raises(ValueError, match="closed"):
            await send_archive(source, "http://127.0.0.1:9", KEY, ALL)

    asyncio.run(main())
    check_untouched(history, store_path)


# --- archives that are not what they should be -----------------------------------------------------------------------


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("place", [EARLY, LATE, -1])
def test_a_truncated_archive(
    sample: Sample, history: History, store_path: Path, steps: None, tags: bool, place: int
) -> None:
    with pytest.raises(ArchiveTruncated):
        receive(FaultyServer(tags=tags), history, sample.archive[:place])
    check_untouched(history, store_path)


def test_another_key(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    with pytest.raises(ArchiveKeyError):
        receive(FaultyServer(), history, sample.archive, OTHER_KEY)
    check_untouched(history, store_path)


def test_another_key_ends_the_download_at_once(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    gate = Gate()
    with pytest.raises(ArchiveKeyError):
        receive(FaultyServer(gate.answering(LATE)), history, sample.archive, OTHER_KEY)
    check_untouched(history, store_path)


class Lying(FaultyServer):
    """A server that names another digest than its files have."""

    def tag(self, data: bytes) -> dict[str, str]:
        return super().tag(data + b"x")


def test_a_whole_archive_that_is_another_one(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    """It is in order from the first to the last frame; but not what the server was given."""
    with pytest.raises(SyncError, match="SHA-256"):
        receive(Lying(), history, sample.archive)
    check_untouched(history, store_path)


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("tenth", range(10))
def test_a_damaged_byte(
    sample: Sample, history: History, store_path: Path, steps: None, tenth: int, tags: bool
) -> None:
    data = bytearray(sample.archive)
    data[min(len(data) - 1, 200 + len(data) * tenth // 9)] ^= 1
    server = FaultyServer(tags=False)
    if tags:
        right = hashlib.sha256(sample.archive).hexdigest()
        server.tag = lambda _: {"ETag": f'"{right}"'}  # type: ignore[method-assign]
    with pytest.raises(XmtpHistoryError):
        receive(server, history, bytes(data))
    check_untouched(history, store_path)


# --- being cancelled -------------------------------------------------------------------------------------------------


async def cancelled(running: Awaitable[Any]) -> None:
    """Cancels what runs, which has to be over at once."""
    task = asyncio.ensure_future(running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threads() == set()


@pytest.mark.parametrize("place", [None, 0, EARLY, 300_000, LATE])
def test_receiving_is_cancelled(
    sample: Sample, history: History, store_path: Path, steps: None, place: int | None
) -> None:
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(stall if place is None else gate.answering(place)) as server:
            receiving = asyncio.ensure_future(receive_archive(history, server.add(sample.archive), KEY))
            if place is None:
                await until(lambda: server.requests)
            else:
                await gate.reached.wait()
            if place == LATE:
                await until(lambda: "xmtp-import" in threads())
            await cancelled(receiving)
            check_untouched(history, store_path)

    asyncio.run(main())


@pytest.mark.parametrize("place", [None, 0, EARLY, 300_000, LATE])
def test_sending_is_cancelled(tmp_path: Path, steps: None, place: int | None) -> None:
    sample = make_sample(tmp_path)
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(on("POST", stall) if place is None else gate.taking(place)) as server:
            with opened(sample.path) as source:
                sending = asyncio.ensure_future(send_archive(source, server.url, KEY, ALL))
                if place is None:
                    await until(lambda: server.requests)
                else:
                    await gate.reached.wait()
                await cancelled(sending)
                writable(sample.path)
            assert not server.files

    asyncio.run(main())


@pytest.mark.parametrize("piece", range(8))
def test_sending_in_pieces_is_cancelled(source: History, steps: None, small_pieces: None, piece: int) -> None:
    async def main() -> None:
        async def hold(server: FaultyServer, exchange: Exchange) -> None:
            if exchange.headers["upload-offset"] == str(piece * 100_000):
                sending.cancel()
                await server.stall()
            server.faults.append(on("PATCH", hold))
            await server.answer(exchange)

        async with FaultyServer(on("PATCH", hold)) as server:
            sending = asyncio.ensure_future(send_archive(source, server.url, KEY, ALL))
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert threads() == set()
            assert not server.files
            # The server was told that nothing more comes.
            assert not server.uploads

    asyncio.run(main())


def test_being_cancelled_at_any_step(sample: Sample, source: History, steps: None) -> None:
    """After so many turns of the event loop, wherever that is; every other time again and again."""
    ends: list[Counts] = []

    async def main() -> None:
        async with FaultyServer() as server:
            url = server.add(sample.archive)
            for turns in [*range(12), *range(12, 3000, 71)]:
                with new_store() as history:
                    tasks = [
                        asyncio.ensure_future(receive_archive(history, url, KEY)),
                        asyncio.ensure_future(send_archive(source, server.url, KEY, ALL)),
                    ]
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    for _ in range(1 + 3 * (turns % 2)):
                        for task in tasks:
                            task.cancel()
                        await asyncio.sleep(0)
                    received, _ = await asyncio.gather(*tasks, return_exceptions=True)
                    # An import that was committed has something to do afterwards.
                    assert threads() <= {"xmtp-import"}
                    ends.append(history.counts())
                    assert ends[-1] == COUNTS or not isinstance(received, ReceivedArchive)
                    assert ends[-1] in {COUNTS, Counts()}
                    history.add_messages([public.message(message(999)[1])])
            await server.settled()

    asyncio.run(main())
    assert Counts() in ends


def test_being_cancelled_while_a_failure_is_cleared_up(
    sample: Sample, history: History, store_path: Path, steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_push(monkeypatch, 0.2)

    async def main() -> None:
        async with FaultyServer(*cuts(LATE), on("GET", status(404))) as server:
            receiving = asyncio.ensure_future(receive_archive(history, server.add(sample.archive), KEY))
            await until(lambda: len(server.requests) == 2)
            await asyncio.sleep(0.05)
            receiving.cancel()
            with pytest.raises((ArchiveNotFound, asyncio.CancelledError)):
                await receiving
            check_untouched(history, store_path)

    asyncio.run(main())


def slow_push(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Importing a piece takes so long."""
    real = _transfer._push

    def push(*arguments: Any) -> int:
        time.sleep(seconds)
        return real(*arguments)

    monkeypatch.setattr(_transfer, "_push", push)


@pytest.mark.parametrize("call", [0, 1, 4])
def test_a_store_that_cannot_be_read(
    source: History, steps: None, call: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was asked for ahead fails with it, and is not complained about."""
    real = _transfer._read
    calls: list[None] = []

    def read(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) > call:
            raise StoreError("the disk is on fire")
        return real(*arguments)

    monkeypatch.setattr(_transfer, "_read", read)
    server = FaultyServer()
    with pytest.raises(StoreError, match="fire"):
        send(server, source)
    assert not server.files
    gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


# --- others who write ------------------------------------------------------------------------------------------------


def test_a_slow_server_keeps_nobody_from_writing(sample: Sample, history: History, steps: None) -> None:
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(gate.answering(EARLY)) as server:
            receiving = asyncio.ensure_future(receive_archive(history, server.add(sample.archive), KEY))
            await gate.reached.wait()
            for number in range(3):
                await asyncio.sleep(0.02)
                history.add_messages([public.message(message(1000 + number)[1])])
            gate.open.set()
            assert (await receiving).report.new == COUNTS

    asyncio.run(main())
    assert history.counts().messages == COUNTS.messages + 3


def test_once_it_imports_others_wait(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    """Also so many that all threads of the application wait."""
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(gate.answering(LATE)) as server:
            receiving = asyncio.ensure_future(receive_archive(history, server.add(sample.archive), KEY))
            await gate.reached.wait()
            await until(lambda: "xmtp-import" in threads())
            with opened(store_path, timeout=0.0) as other, pytest.raises(StoreLocked):
                other.set_consents([])
            adding = [
                asyncio.ensure_future(asyncio.to_thread(history.add_messages, [public.message(message(number)[1])]))
                for number in range(1000, 1040)
            ]
            await asyncio.sleep(0.05)
            assert history.counts() == Counts()
            gate.open.set()
            assert (await receiving).report.new == COUNTS
            assert {(await added).new.messages for added in adding} == {1}

    start = time.monotonic()
    asyncio.run(main())
    # They would wait for five seconds.
    assert time.monotonic() - start < 4


def test_somebody_else_writes_for_too_long(sample: Sample, store_path: Path, steps: None) -> None:
    gate = Gate()

    async def main() -> None:
        with opened(store_path) as other, opened(store_path, timeout=0.1) as history:
            async with FaultyServer(gate.answering(LATE)) as server:
                url = server.add(sample.archive)
                holding = asyncio.ensure_future(receive_archive(other, url, KEY))
                await gate.reached.wait()
                await until(lambda: "xmtp-import" in threads())
                with pytest.raises(StoreLocked):
                    await receive_archive(history, url, KEY)
                gate.open.set()
                assert (await holding).report.new == COUNTS

    asyncio.run(main())


def test_the_time_that_others_wait_is_limited(sample: Sample, history: History, store_path: Path, steps: None) -> None:
    gate = Gate()

    async def main() -> None:
        async with FaultyServer(gate.answering(LATE)) as server:
            url = server.add(sample.archive)
            with pytest.raises(NetworkError, match=r"does not arrive within 0\.3 s"):
                await receive_archive(history, url, KEY, max_seconds=0.3)
            check_untouched(history, store_path)
            # Before nobody waits, it is not counted.
            slow = Gate()
            server.faults.append(slow.answering(EARLY))
            receiving = asyncio.ensure_future(receive_archive(history, url, KEY, max_seconds=0.6))
            await slow.reached.wait()
            await asyncio.sleep(0.7)
            slow.open.set()
            assert (await receiving).report.new.messages == COUNTS.messages - 1

    asyncio.run(main())


def test_the_commit_is_not_part_of_the_time(
    sample: Sample, history: History, steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _transfer._imported

    def imported(*arguments: Any) -> Any:
        time.sleep(0.6)
        return real(*arguments)

    monkeypatch.setattr(_transfer, "_imported", imported)
    assert receive(FaultyServer(), history, sample.archive, max_seconds=0.5).report.new == COUNTS


# --- what must not come out ------------------------------------------------------------------------------------------


def test_keys_are_never_shown(
    sample: Sample,
    source: History,
    history: History,
    steps: None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(_retry, "_TRIES", 2)
    said = [repr(send(FaultyServer(on("POST", drop(1000))), source))]
    said.append(repr(receive(FaultyServer(*cuts(1000)), history, sample.archive)))
    for failing in (
        lambda: receive(FaultyServer(), history, sample.archive, OTHER_KEY),
        lambda: receive(FaultyServer(), history, sample.archive[:-1]),
        lambda: receive(FaultyServer(*[status(500)] * 9), history, sample.archive),
        lambda: send(FaultyServer(*[status(500)] * 9), source),
        lambda: send(FaultyServer(), source, on_progress=lambda _: 1 / 0),
    ):
        with pytest.raises((XmtpHistoryError, ZeroDivisionError)) as caught:
            failing()
        error: BaseException | None = caught.value
        while error is not None:
            said.append(f"{error!r} {error} {vars(error)}")
            error = error.__cause__ or error.__context__
    text = "\n".join([*said, caplog.text]).lower()
    assert "trying again" in text
    for key in (KEY, OTHER_KEY):
        assert key.hex()[:16] not in text
        assert repr(key)[2:20].lower() not in text


# --- memory ----------------------------------------------------------------------------------------------------------

_MEMORY = """
import asyncio, sys
from pathlib import Path
from support.memory import peak_bytes
from xmtp_history import ArchiveOptions, History, HistoryServer, LocalStorage, Message
from xmtp_history.sync._transfer import receive_archive, send_archive

COUNT, KEY, folder = 15_000, bytes(32), Path(sys.argv[1])

def fill(history, numbers):
    history.add_messages([Message(
        id=number.to_bytes(32).hex(), conversation_id="01" * 16, sent_at_ns=number, kind=1, sender_inbox_id="",
        sender_installation_id="", delivery_status=2, content_type="text", content=bytes(4400),
    ) for number in numbers])

async def main(sent):
    async with HistoryServer(LocalStorage(folder / "server"), port=0) as server:
        with History.open(folder / f"store{len(sent)}.db3", KEY) as history:
            fill(history, range(1))
            url = (await send_archive(history, server.url, KEY, ArchiveOptions())).url
            await receive_archive(history, url, KEY)
            if sent:
                before = peak_bytes()
                report = (await receive_archive(history, f"{server.url}/files/{sent[0]}", KEY)).report
                assert report.new.messages == COUNT - 1
                print(peak_bytes() - before)
            else:
                for start in range(0, COUNT, 1000):
                    fill(history, range(start, start + 1000))
                before = peak_bytes()
                archive = await send_archive(history, server.url, KEY, ArchiveOptions())
                print(peak_bytes() - before, archive.size, archive.url.rpartition("/")[2])

asyncio.run(main(sys.argv[2:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_a_transfer_holds_a_small_part_of_the_archive(tmp_path: Path) -> None:
    up, size, file_id = child.run(_MEMORY, tmp_path).split()
    down = child.run(_MEMORY, tmp_path, file_id)
    assert int(size) > 66_000_000
    assert 0 < int(up) < 56_000_000
    assert 0 < int(down) < 56_000_000
