"""History between installations of one inbox: asked for, sent, imported; by themselves and step by step."""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.clients import build, create
from client.sync_world import (
    MANY,
    assert_nothing,
    assert_same,
    fill,
    following,
    held,
    meet,
    run,
    tasks,
    until,
    world,
)
from support.build import message, message_id
from support.public import public
from xmtp_history import (
    ArchiveElement,
    ArchiveKeyError,
    ArchiveNotFound,
    ArchiveOptions,
    ArchivePolicy,
    ArchiveRefused,
    ArchiveRequest,
    ArchiveSent,
    Counts,
    HistoryImported,
    HistoryRequested,
    HistorySyncFailed,
    MessagesShared,
    NoHistoryServer,
    NoOtherInstallation,
    PayloadTooLarge,
    Progress,
    SyncPhase,
    SyncRefused,
    SyncTimeout,
)
from xmtp_history.client import _database

#: A worker that never ticks while a test runs: what happens, happens because of the streams.
STREAMS_ONLY = {"sync_interval": 3600.0}


# --- by itself --------------------------------------------------------------------------------------------------------


def test_a_new_installation_asks_by_itself_and_only_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", **STREAMS_ONLY)
            fill(old.history)
            async with following(old) as sent:
                new = await here.open("new", auto_history_sync=True, **STREAMS_ONLY)
                async with following(new) as events:
                    imported = await events.first(HistoryImported)
                    assert imported.report.new.messages == MANY
                    assert imported.sent_by_installation == old.installation_id
                    await until(lambda: new.sync_status().phase is SyncPhase.DONE)
                    assert all(event.automatic for event in events.of(HistoryRequested))
                told = await sent.first(ArchiveSent)
                assert (told.pin, told.requested_by_installation) == (imported.pin, new.installation_id)
            assert_same(old, new)
            status = new.sync_status()
            assert (status.pending_requests, status.other_installations, status.reason) == (0, 1, "")
            await new.aclose()
            again = await here.reopen("new", auto_history_sync=True, **STREAMS_ONLY)
            await until(lambda: again.metrics().init)
            assert again.metrics().request_sent == 0
            assert again.sync_status().phase is SyncPhase.DONE

    run(main)


def test_it_does_not_ask_if_it_is_told_not_to(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.open("old")
            new = await here.open("new", **STREAMS_ONLY)
            await until(lambda: new.metrics().init)
            assert new.metrics().request_sent == 0
            assert new.sync_status().phase is SyncPhase.IDLE

    run(main)


def test_the_first_installation_asks_nobody_and_not_later_either(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first = await here.open("first", auto_history_sync=True, **STREAMS_ONLY)
            await until(lambda: first.metrics().init)
            await here.open("second", **STREAMS_ONLY)
            await until(lambda: first.sync_status().other_installations == 1)
            await first.aclose()
            first = await here.reopen("first", auto_history_sync=True, **STREAMS_ONLY)
            await until(lambda: first.metrics().init)
            assert first.metrics().request_sent == 0

    run(main)


def test_whoever_asks_at_once_shares_the_request_that_goes_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", **STREAMS_ONLY)
            fill(old.history)
            for name in ("early", "late"):
                new = await here.open(name, auto_history_sync=True, **STREAMS_ONLY)
                if name == "late":
                    await until(lambda client=new: client.metrics().init)
                    await new.sync_history(timeout=20)
                else:
                    one, other = await asyncio.gather(new.sync_history(timeout=20), new.sync_history(timeout=20))
                    assert {one.pin, other.pin}
                assert 1 <= new.metrics().request_sent <= 2
                assert_same(old, new)

    run(main)


# --- in one call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"disable_device_sync": True}, {"sync_interval": None}])
def test_sync_history(tmp_path: Path, options: dict[str, Any]) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", **STREAMS_ONLY)
            fill(old.history)
            new = await here.open("new", **{**STREAMS_ONLY, **options})
            assert new.sync_status().phase is (SyncPhase.OFF if options else SyncPhase.IDLE)
            progress: list[Progress] = []
            report = await new.sync_history(timeout=20, on_progress=progress.append)
            assert report.imported.new == Counts(conversations=2, messages=MANY, consents=3)
            assert (report.archives, report.refused) == (1, ())
            assert report.bytes == progress[-1].bytes_done == progress[-1].bytes_total
            assert progress[-1].done == progress[-1].total == MANY + 5
            assert {each.phase for each in progress} == {"download", "import"}
            assert 0 < report.seconds < 20
            assert new.sync_status().phase is SyncPhase.DONE
            assert_same(old, new)
            again = await new.sync_history(timeout=20)
            assert again.pin != report.pin
            assert again.imported.new == Counts()
            assert again.imported.duplicate.messages == MANY
            metrics = new.metrics()
            assert (metrics.request_sent, metrics.payload_processed) == (2, 2)
            assert metrics.download_bytes == report.bytes + again.bytes == old.metrics().upload_bytes
            assert old.metrics().payload_sent == old.metrics().messages_payload_sent == 2
            assert old.metrics().consent_payload_sent == new.metrics().consent_payload_processed == 2

    run(main)


def test_parts_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            new = await here.open("new")
            consents = await new.sync_consent(timeout=20)
            assert consents.imported.new == Counts(consents=3)
            messages = await new.sync_messages(timeout=20)
            assert messages.imported.new == Counts(conversations=2, messages=MANY)
            await new.aclose()
            some = await here.open("some")
            times = sorted(each.sent_at_ns for each in held(old.history)["messages"].values())
            options = ArchiveOptions(elements=(ArchiveElement.MESSAGES,), start_ns=times[9], end_ns=times[19])
            report = await some.sync_history(timeout=20, options=options)
            assert report.imported.new.messages == 10
            assert report.imported.metadata is not None
            assert (report.imported.metadata.start_ns, report.imported.metadata.end_ns) == (times[9], times[19])
            # Nothing is asked for, and nothing comes, but an archive.
            empty = await some.sync_history(timeout=20, options=ArchiveOptions(elements=()))
            assert empty.imported.new == Counts()

    run(main)


def test_all_others_answer_and_everything_is_imported(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            first, second = await here.open("first"), await here.open("second")
            fill(first.history)
            fill(second.history, first=5000)
            new = await here.open("new")
            async with following(new) as events:
                report = await new.sync_history(timeout=20)
                assert report.archives in {1, 2}
                await until(lambda: len(events.of(HistoryImported)) == 2)
                senders = {event.sent_by_installation for event in events.of(HistoryImported)}
                assert senders == {first.installation_id, second.installation_id}
            assert new.history.counts().messages == 2 * MANY

    run(main)


def test_nobody_to_ask(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            alone = await here.open("alone")
            with pytest.raises(NoOtherInstallation):
                await alone.sync_history(timeout=20)
            other = await here.open("other")
            assert await other.revoke_all_other_installations() == (alone.installation_id,)
            with pytest.raises(NoOtherInstallation):
                await other.sync_history(timeout=20)

    run(main)


@pytest.mark.parametrize("nothing", [None, ""])
def test_switched_off(tmp_path: Path, nothing: str | None) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            off = await here.open("off", history_sync_url=nothing, auto_history_sync=True)
            await until(lambda: off.metrics().init)
            assert off.metrics().request_sent == 0
            for call in (
                off.sync_history(),
                off.sync_consent(),
                off.send_sync_request(),
                off.send_sync_archive("pin"),
                off.send_sync_request(server_url=""),
            ):
                with pytest.raises(NoHistoryServer, match="history_sync_url"):
                    await call
            # It does not send its history either, and says so.
            new = await here.open("new")
            await old.aclose()
            async with following(off) as refused, following(new) as events:
                pin = await new.send_sync_request()
                told = await events.first(HistorySyncFailed)
                assert (told.pin, told.sent_by_installation, told.reason) == (pin, off.installation_id, "no_server")
                mine = await refused.first(ArchiveRefused)
                assert (mine.requested_by_installation, mine.reason) == (new.installation_id, "no_server")
            # Whoever names a server can do all of it.
            old = await here.reopen("old")
            await off.send_sync_request(server_url=here.url)
            await until(lambda: off.history.counts().messages == MANY)

    run(main)


@pytest.mark.parametrize("url", ["/nowhere", "ftp://nowhere", "http://", "http://a b", "http://nowhere?x=1"])
def test_urls_that_are_none(tmp_path: Path, url: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            client = await here.open("a")
            for call in (
                here.open("b", history_sync_url=url),
                client.send_sync_request(server_url=url),
                client.send_sync_archive("pin", server_url=url),
            ):
                with pytest.raises(ValueError) as caught:
                    await call
                assert url not in str(caught.value)
            assert client.sync_status().pending_requests == 0

    run(main)


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_slashes_at_the_end_of_the_url(tmp_path: Path, slashes: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", history_sync_url=here.url + slashes)
            fill(old.history)
            new = await here.open("new", history_sync_url=here.url + slashes)
            await new.sync_history(timeout=20)
            await old.send_sync_archive("unasked", server_url=here.url + slashes)
            await new.sync_all_device_sync_groups()
            report = await new.process_sync_archive("unasked")
            assert report.duplicate.messages == MANY

    run(main)


def test_nobody_answers_in_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", sync_interval=None)
            fill(old.history)
            new = await here.open("new")
            with pytest.raises(SyncTimeout, match="1 other installation has not answered") as caught:
                await new.sync_history(timeout=0.5)
            assert isinstance(caught.value, TimeoutError)
            status = new.sync_status()
            assert (status.phase, status.pending_requests) == (SyncPhase.WAITING, 1)
            # The answer is imported whenever it comes.
            await old.aclose()
            await here.reopen("old")
            await until(lambda: new.sync_status().phase is SyncPhase.DONE)
            assert new.history.counts().messages == MANY
            assert new.sync_status().pending_requests == 0

    run(main)


def test_a_request_outlives_whoever_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", sync_interval=None)
            fill(old.history)
            new = await here.open("new")
            waiting = asyncio.create_task(new.sync_history())
            await until(lambda: new.sync_status().pending_requests)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await new.aclose()
            # Offline it is known from the database.
            async with await build(here.node_url, here.path / "new", history_sync_url=here.url) as quiet:
                status = quiet.sync_status()
                assert (status.phase, status.pending_requests) == (SyncPhase.WAITING, 1)
                assert status.other_installations == 1
            await old.aclose()
            await here.reopen("old")
            new = await here.reopen("new")
            await until(lambda: new.history.counts().messages == MANY)

    run(main)


def test_closing_ends_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            await here.open("old", sync_interval=None)
            new = await here.open("new")
            waiting = asyncio.create_task(new.sync_history(timeout=None))
            await until(lambda: new.sync_status().pending_requests)
            await new.aclose()
            with pytest.raises(RuntimeError, match="closed"):
                await waiting
            for call in (new.sync_history(), new.send_sync_request(), new.outbox(), new.process_sync_archive()):
                with pytest.raises((RuntimeError, ValueError), match="closed"):
                    await call
            for stream in (new.stream_events, new.preferences.stream_consent, new.list_available_archives):
                with pytest.raises(RuntimeError, match="closed"):
                    stream()

    run(main)


def test_a_callback_that_fails_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            new = await here.open("new")

            def fails(_progress: Progress) -> None:
                raise KeyError("not ours")

            await new.sync_history(timeout=20, on_progress=fails)
            assert_same(old, new)

    run(main)


# --- who gets it ------------------------------------------------------------------------------------------------------


async def _sleeps(_request: ArchiveRequest) -> bool:
    await asyncio.sleep(60)
    return True


def _fails(_request: ArchiveRequest) -> bool:
    raise KeyError("not ours")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (ArchivePolicy(allow=["ab" * 32]), "refused"),
        (ArchivePolicy(ask=lambda _request: False), "refused"),
        (ArchivePolicy(ask=_fails), "refused"),
        (ArchivePolicy(ask=_sleeps, ask_timeout=0.05), "refused"),
        (ArchivePolicy(max_bytes=100), "too_large"),
    ],
)
def test_policies_that_refuse(tmp_path: Path, policy: ArchivePolicy, reason: str) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", archive_policy=policy)
            fill(old.history)
            new = await here.open("new")
            with pytest.raises(SyncRefused, match=reason) as caught:
                await new.sync_history(timeout=20)
            (refusal,) = caught.value.refusals
            assert (refusal.installation_id, refusal.reason) == (old.installation_id, reason)
            assert refusal.detail
            await until(lambda: new.sync_status().phase is SyncPhase.FAILED)
            assert new.sync_status().pending_requests == 0
            assert new.sync_status().reason == refusal.detail
            assert_nothing(new)
            assert not await tasks(old)
            await until(lambda: old.metrics().refusals_sent == new.metrics().refusals_received == 1)

    run(main)


def test_policies_that_allow(tmp_path: Path) -> None:
    async def main() -> None:
        asked: list[ArchiveRequest] = []

        async def ask(request: ArchiveRequest) -> bool:
            await asyncio.sleep(0)
            asked.append(request)
            return True

        async with world(tmp_path) as here:
            ids: list[str] = []
            old = await here.open("old", archive_policy=ArchivePolicy(allow=ids, ask=ask))
            fill(old.history)
            new = await here.open("new")
            ids.append(new.installation_id.upper())
            report = await new.sync_messages(timeout=20)
            (request,) = asked
            assert (request.pin, request.installation_id) == (report.pin, new.installation_id)
            assert request.options == ArchiveOptions(elements=(ArchiveElement.MESSAGES,))
            assert request.server_url == here.url
            assert here.url not in repr(request)
            assert abs(request.sent_at_ns - time.time_ns()) < 60e9

    run(main)


def test_one_refuses_and_another_one_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            refuses = await here.open("a", archive_policy=ArchivePolicy(allow=()))
            answers = await here.open("b")
            fill(answers.history)
            new = await here.open("c")
            report = await new.sync_history(timeout=20)
            assert report.imported.new.messages == MANY
            await until(lambda: new.metrics().refusals_received)
            assert [each.installation_id for each in report.refused] in ([], [refuses.installation_id])

    run(main)


def test_requests_above_the_rate_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", archive_policy=ArchivePolicy(burst=2, interval=1.0))
            fill(old.history)
            new, other = await here.open("new"), await here.open("other")
            for _ in range(3):
                await new.send_sync_request()
            began = time.monotonic()
            await until(lambda: old.metrics().payload_sent >= 2)
            assert time.monotonic() - began < 1.0
            # The one that waits holds up nobody else.
            await other.send_sync_request()
            await until(lambda: other.history.counts().messages)
            await until(lambda: old.metrics().payload_sent == 4)
            assert time.monotonic() - began > 0.8
            await until(lambda: new.metrics().payload_processed >= 3)

    run(main)


def test_old_requests_are_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old", archive_policy=ArchivePolicy(max_age_days=0.0))
            new = await here.open("new")
            await new.send_sync_request()
            await until(lambda: old.metrics().request_received)

            async def nothing_is_left() -> bool:
                return not await tasks(old)

            await until(nothing_is_left)
            assert (old.metrics().payload_sent, old.metrics().refusals_sent) == (0, 0)

    run(main)


@pytest.mark.parametrize(
    "wrong",
    [{"burst": 0}, {"interval": -1.0}, {"max_bytes": -1}, {"ask_timeout": -1.0}, {"max_age_days": float("nan")}],
)
def test_policies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ArchivePolicy(**wrong)


# --- step by step -----------------------------------------------------------------------------------------------------


def test_archives_that_nobody_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old", sync_interval=None), await here.open("new", sync_interval=None)
            fill(old.history)
            assert new.list_available_archives() == []
            with pytest.raises(ArchiveNotFound):
                await new.process_sync_archive()
            await meet(old, new)
            progress: list[Progress] = []
            sent = await old.send_sync_archive("everything", on_progress=progress.append)
            assert sent.url.startswith(f"{here.url}/files/")
            assert progress[-1].bytes_done == sent.size
            assert sent.report.counts == Counts(conversations=2, messages=MANY, consents=3)
            await old.send_sync_archive("consent", ArchiveOptions(elements=(ArchiveElement.CONSENT,)))
            await new.sync_all_device_sync_groups()
            newest, oldest = new.list_available_archives()
            assert (newest.pin, oldest.pin) == ("consent", "everything")
            assert newest.metadata.elements == (ArchiveElement.CONSENT,)
            assert newest.metadata.backup_version == 65535
            assert newest.metadata.exported_at_ns > oldest.metadata.exported_at_ns
            assert newest.sent_by_installation == old.installation_id
            assert newest.sent_at_ns > oldest.sent_at_ns
            # They are not imported by themselves, and not one's own.
            assert_nothing(new)
            assert old.list_available_archives() == []
            assert new.list_available_archives(0) == new.list_available_archives(-1) == []
            assert (await new.process_sync_archive()).new == Counts(consents=3)
            with pytest.raises(ArchiveNotFound):
                await new.process_sync_archive("another")
            report = await new.process_sync_archive("everything", on_progress=progress.append)
            assert report.new == Counts(conversations=2, messages=MANY)
            assert progress[-1].phase == "import"
            assert_same(old, new)
            for pin in ("", "x" * 129, "a\nb"):
                with pytest.raises(ValueError, match="pin"):
                    await old.send_sync_archive(pin)

    run(main)


def test_a_request_and_its_answer_step_by_step(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            new = await here.open("new", sync_interval=None)
            pin = await new.send_sync_request()
            assert len(pin) == 5
            assert new.sync_status().pending_requests == 1
            await until(lambda: old.metrics().payload_sent)
            await new.sync_all_device_sync_groups()
            (archive,) = new.list_available_archives()
            assert archive.pin == pin
            assert_nothing(new)
            await new.process_sync_archive(pin)
            assert_same(old, new)

    run(main)


def test_an_archive_that_the_server_does_not_take(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, max_file_bytes=1000) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            with pytest.raises(PayloadTooLarge):
                await old.send_sync_archive("pin")
            with pytest.raises(SyncRefused, match="too_large"):
                await new.sync_history(timeout=20)

    run(main)


# --- files ------------------------------------------------------------------------------------------------------------


def test_files(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history)
            key, path = bytes(range(32)), tmp_path / "archive.xmtp"
            loop, progress = asyncio.get_running_loop(), []

            def note(each: Progress) -> None:
                assert asyncio.get_running_loop() is loop
                progress.append(each)

            report = await old.create_archive(path, key, on_progress=note)
            assert report.counts.messages == MANY
            metadata = await new.archive_metadata(path, key)
            assert metadata == report.metadata
            imported = await new.import_archive(path, key, on_progress=note)
            assert imported.new.messages == MANY
            await until(lambda: {each.phase for each in progress} == {"export", "import"})
            assert_same(old, new)
            with pytest.raises(ArchiveKeyError):
                await new.import_archive(path, bytes(32))

    run(main)


def test_files_of_the_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("xmtp_history._io._PROGRESS_INTERVAL", 0.0)
        async with world(tmp_path) as here:
            old, new = await here.open("old"), await here.open("new")
            fill(old.history, count=60_000)
            path, whole = tmp_path / "archive.xmtp", tmp_path / "whole.xmtp"
            await old.create_archive(whole, bytes(32))
            for work, begun in (
                (lambda note: old.create_archive(path, bytes(32), on_progress=note), "export"),
                (lambda note: new.import_archive(whole, bytes(32), on_progress=note), "import"),
            ):
                tasks_of: list[asyncio.Task[Any]] = []
                phases: list[str] = []

                def note(
                    each: Progress, phases: list[str] = phases, tasks_of: list[asyncio.Task[Any]] = tasks_of
                ) -> None:
                    phases.append(each.phase)
                    tasks_of[0].cancel()

                tasks_of.append(asyncio.create_task(work(note)))
                with pytest.raises(asyncio.CancelledError):
                    await tasks_of[0]
                assert phases[0] == begun
            assert not path.exists()
            assert [name for name in os.listdir(tmp_path) if "partial" in name] == []  # noqa: PTH208
            assert_nothing(new)
            await new.preferences.sync()

    run(main)


# --- recorded messages ------------------------------------------------------------------------------------------------


def test_recorded_messages_are_shared(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            one, other = await here.open("one", **STREAMS_ONLY), await here.open("other", **STREAMS_ONLY)
            await meet(one, other)
            fill(one.history, count=0)
            records = [public(message(number)) for number in range(3)]
            async with following(other) as events, following(one) as own:
                # From any thread.
                report = await asyncio.to_thread(one.history.add_messages, records)  # type: ignore[arg-type]
                assert report.new.messages == 3
                await until(lambda: sum(len(event.message_ids) for event in events.of(MessagesShared)) == 3)
                shared = events.of(MessagesShared)
                assert {each for event in shared for each in event.message_ids} == {message_id(n) for n in range(3)}
                assert [len(event.conversation_ids) for event in shared] == [len(each.message_ids) for each in shared]
                # With their conversation, which was not there.
                assert other.history.counts() == Counts(conversations=1, messages=3)
                # They are not told back, and not told again.
                one.history.add_messages(records)  # type: ignore[arg-type]
                await meet(one, other)
                assert own.of(MessagesShared) == []
                assert len(events.of(MessagesShared)) == len(shared)
            assert (one.metrics().messages_sent, other.metrics().messages_received) == (3, 3)
            assert (await one.outbox()).messages == 0

    run(main)


# --- beside an import -------------------------------------------------------------------------------------------------


def test_calls_wait_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmtp_history._errors import StoreLocked
    from xmtp_history._ffi import Stream

    async def main() -> None:
        monkeypatch.setattr(_database, "_TIMEOUT_MS", 100)
        async with world(tmp_path) as here:
            client = await here.open("a", sync_interval=None)
            core = client._parts.core
            with here.store("a") as beside:
                import_beside = partial(
                    Stream, "import", bytes(32), store=beside._store, lenient=True, inbox_id=client.inbox_id
                )
                with import_beside():
                    with pytest.raises(StoreLocked):
                        await core.ask("rotate_key_package")
                    with core.importing():
                        calls = [asyncio.create_task(core.ask("rotate_key_package")) for _ in range(3)]
                        await asyncio.sleep(0.3)
                        assert not any(call.done() for call in calls)
                        # What only reads does not wait.
                        async with asyncio.timeout(1):
                            assert (await core.ask("status"))["inbox_id"] == client.inbox_id
                        calls[0].cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert [call.cancelled() for call in calls] == [True, False, False]
                # An import that has ended and released the store a little later.
                with import_beside():
                    with core.importing():
                        call = asyncio.create_task(core.ask("rotate_key_package"))
                        await asyncio.sleep(0.2)
                    with pytest.raises(StoreLocked):
                        await call

    run(main)


def test_an_open_client_needs_its_own_options(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            for wrong in (0, 0.01, -1, 1e9, float("nan")):
                with pytest.raises(ValueError, match="sync_interval"):
                    await create(here.node_url, here.wallet, sync_interval=wrong)

    run(main)
