"""History servers that are down, slow, refuse, forget, break off, or lead elsewhere (device sync specification, section 7).

Between what one installation has and what another one gets stands only the server; whatever it does, an archive comes
whole or not at all, and who asked hears of it where it does not come.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.sync_world import (
    MANY,
    REPLY,
    REQUEST,
    World,
    assert_nothing,
    assert_same,
    fill,
    following,
    hasty,
    heard,
    late,
    meet,
    reply,
    request,
    run,
    say,
    tasks,
    until,
    world,
)
from support.build import T0
from support.faulty_server import (
    Exchange,
    Fault,
    FaultyServer,
    cut,
    drop,
    early,
    lose,
    on,
    raw,
    stall,
    status,
)
from support.node_client import quiet_port
from xmtp_history import (
    ArchiveError,
    ArchiveExpired,
    ArchiveNotFound,
    ArchiveOptions,
    ArchivePolicy,
    ArchiveRefused,
    ArchiveSent,
    Client,
    HistoryImported,
    HistoryServer,
    HistorySyncFailed,
    LocalStorage,
    NetworkError,
    NoHistoryServer,
    SyncError,
    SyncPhase,
    SyncRefused,
    SyncTimeout,
)
from xmtp_history.client import _answers, _imports

TENTHS = range(1, 10)


async def two(here: World, *, size: int = 0, **options: Any) -> tuple[Client, Client]:
    """An installation with a history, and a new one that knows it."""
    old = await here.open("old", **options)
    fill(old.history, size=size)
    new = await here.open("new", **options)
    await meet(old, new)
    return old, new


def always(server: FaultyServer, method: str, fault: Fault) -> None:
    """From now on, every request with this method meets a fault."""

    async def again(server: FaultyServer, exchange: Exchange) -> None:
        server.faults.append(on(method, again))
        await fault(server, exchange)

    server.faults.append(on(method, again))


def posts(server: FaultyServer) -> list[Exchange]:
    return [request for request in server.requests if request.method == "POST"]


# --- the answering side -----------------------------------------------------------------------------------------------


def test_down_when_an_answer_is_due(tmp_path: Path) -> None:
    """It is tried again until the server is back; who asked is waiting for another device."""

    async def main() -> None:
        port = quiet_port()
        async with world(tmp_path) as here:
            old, new = await two(here, history_sync_url=f"http://127.0.0.1:{port}")
            syncing = asyncio.ensure_future(new.sync_history(timeout=30))
            (task,) = await until(_attempted, old, 2)
            assert task["kind"] == "answer"
            state = new.sync_status()
            assert (state.phase, state.pending_requests, state.other_installations) == (SyncPhase.WAITING, 1, 1)
            assert not syncing.done()
            async with HistoryServer(LocalStorage(tmp_path / "late"), port=port):
                report = await syncing
            assert (report.archives, report.imported.new.messages, report.refused) == (1, MANY, ())
            assert_same(old, new)
            assert len(await heard(new, REPLY)) == 1
            assert await tasks(old) == await tasks(new) == []
            assert new.sync_status().phase is SyncPhase.DONE

    run(main)


async def _attempted(client: Client, times: int) -> list[dict[str, Any]]:
    return [task for task in await tasks(client) if task["attempts"] >= times]


@pytest.mark.parametrize(("method", "module"), [("POST", _answers), ("GET", _imports)])
def test_it_is_given_up_in_the_end(tmp_path: Path, method: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been tried for days is said not to come, to whoever asked for it."""

    async def main() -> None:
        monkeypatch.setattr(module, "_EXPIRY_NS", 0)
        monkeypatch.setattr(module, "_FEWEST_TRIES", 3)
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            always(here.server, method, status(503))
            async with following(new) as events:
                with pytest.raises(SyncRefused if method == "POST" else ArchiveExpired):
                    await new.sync_history(timeout=20)
                failed = await events.first(HistorySyncFailed)
                assert (failed.sent_by_installation, failed.reason) == (old.installation_id, "expired")
            assert await tasks(old) == await tasks(new) == []
            assert_nothing(new)

    run(main)


@pytest.mark.parametrize("codes", [[500, 503], [408, 425, 429], [502, 504]])
def test_errors_of_the_server_pass(tmp_path: Path, codes: list[int]) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            # More than one upload tries by itself, and then some on the way down.
            here.server.faults = [on(method, status(code)) for method in ("POST", "GET") for code in codes * 5]
            report = await new.sync_history(timeout=30)
            assert report.archives == 1
            assert_same(old, new)
            assert len(posts(here.server)) == len(codes) * 5 + 1
            assert len(await heard(new, REPLY)) == 1

    run(main)


def test_a_server_that_never_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            here.server.faults = [on("POST", stall)] * 2 + [on("GET", stall)] * 2
            with hasty(0.15):
                assert (await new.sync_history(timeout=30)).archives == 1
            assert_same(old, new)

    run(main)


def test_a_slow_server(tmp_path: Path) -> None:
    """It gets there, and what it does meanwhile can be seen."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)

            async def slow_up(server: FaultyServer, exchange: Exchange) -> None:
                await asyncio.sleep(0.3)
                await server.answer(exchange)

            here.server.faults = [on("POST", slow_up), on("GET", _dripping)]
            seen: list[Any] = []
            states: list[Any] = []

            def watch(progress: Any) -> None:
                seen.append(progress)
                states.append(new.sync_status())

            report = await new.sync_history(timeout=30, on_progress=watch)
            assert_same(old, new)
            downloading = [state for state in states if state.phase is SyncPhase.DOWNLOADING]
            assert len({state.bytes_done for state in downloading}) > 3
            done = [progress.bytes_done for progress in seen]
            assert done == sorted(done)
            assert done[-1] == report.bytes
            assert {state.bytes_total for state in downloading} == {None, report.bytes}

    run(main)


async def _dripping(server: FaultyServer, exchange: Exchange) -> None:
    code, headers, body = server.content(exchange, server.files[exchange.name])
    await exchange.answer(code, headers, b"", length=len(body))
    step = len(body) // 8 + 1
    for start in range(0, len(body), step):
        await exchange.send(body[start : start + step])
        await asyncio.sleep(0.08)


@pytest.mark.parametrize("fault", ["413", "413 early", "400 of the reference", "by ours", "by the policy"])
def test_too_large(tmp_path: Path, fault: str) -> None:
    """It is not tried again, and who asked is told why there is no answer, without waiting for it."""

    async def main() -> None:
        server = FaultyServer(tus=False) if fault[0] == "4" else None
        async with world(tmp_path, server, max_file_bytes=100_000) as here:
            policy = ArchivePolicy(max_bytes=100_000) if fault == "by the policy" else ArchivePolicy()
            size = 16_000 if fault == "400 of the reference" else 0
            old, new = await two(here, size=size, archive_policy=policy)
            if server is not None:
                server.faults = [on("POST", early(413) if "early" in fault else status(int(fault[:3])))]
            async with following(old) as at_old, following(new) as at_new:
                with pytest.raises(SyncRefused) as caught:
                    await new.sync_history(timeout=30)
                (refusal,) = caught.value.refusals
                assert (refusal.installation_id, refusal.reason) == (old.installation_id, "too_large")
                refused = await at_old.first(ArchiveRefused)
                assert (refused.requested_by_installation, refused.reason) == (new.installation_id, "too_large")
                failed = await at_new.first(HistorySyncFailed)
                assert (failed.sent_by_installation, failed.reason) == (old.installation_id, "too_large")
            assert server is None or len(posts(server)) == 1
            assert await tasks(old) == await tasks(new) == []
            assert await heard(new, REPLY) == []
            assert_nothing(new)
            assert new.sync_status().pending_requests == 0
            if fault != "413 early":
                # A part of it may be asked for.
                part = ArchiveOptions(end_ns=T0 + 1000 + 100)
                assert (await new.sync_history(timeout=30, options=part)).imported.new.messages == 101

    run(main)


def test_refused_for_good(tmp_path: Path) -> None:
    """Answers that are the same next time are not waited for, by nobody."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            _, new = await two(here, archive_policy=ArchivePolicy(burst=100))
            for number, code in enumerate([400, 401, 403, 404, 405, 409, 507, 307, 308], 1):
                elsewhere = {"Location": f"{here.url}/elsewhere"} if code < 400 else {}
                here.server.faults = [on("POST", status(code, b"", **elsewhere))]
                with pytest.raises(SyncRefused) as caught:
                    await new.sync_history(timeout=10)
                (refusal,) = caught.value.refusals
                assert refusal.reason == ("no_server" if code in {404, 405} else "failed")
                assert len(posts(here.server)) == number
            # Answers that say that all is well, with ids that nobody could fetch.
            for answer in (b"", b"<html>Login</html>", b"../../etc/passwd", b"\xff" * 40, b"a" * 5000):
                here.server.faults = [on("POST", status(200, answer))]
                with pytest.raises(SyncRefused) as caught:
                    await new.sync_history(timeout=10)
                assert caught.value.refusals[0].reason == "no_server"
            assert await heard(new, REPLY) == []
            assert_nothing(new)

    run(main)


def test_cut_off_on_the_way_up(tmp_path: Path) -> None:
    """At each tenth, and at each again, which is more than one upload tries by itself."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            size = (await old.send_sync_archive("size")).size
            here.server.requests.clear()
            here.server.faults = [on("POST", drop(size * tenth // 10)) for tenth in [*TENTHS] * 2]
            report = await new.sync_history(timeout=30)
            assert (report.archives, len(here.server.files)) == (1, 2)
            assert len(posts(here.server)) == 2 * len(TENTHS) + 1
            assert_same(old, new)
            assert len(await heard(new, REPLY)) == 2, "with the one that was for its size only"

    run(main)


def test_a_large_archive_is_resumed_on_the_way_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer()) as here:
            old, new = await two(here, size=12_000)
            here.server.faults = [on("PATCH", drop(1_200_000)) for _ in TENTHS]
            report = await new.sync_history(timeout=30)
            assert report.archives == 1
            assert_same(old, new)
            sent = sum(request.received for request in here.server.requests if request.method == "PATCH")
            assert report.bytes <= sent < report.bytes * 1.5
            assert len(here.server.files) == 1

    run(main)


def test_an_answer_to_an_upload_is_lost(tmp_path: Path) -> None:
    """The server has the archive and nobody knows: it is sent again, and told once."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            here.server.faults = [on("POST", lose)]
            assert (await new.sync_history(timeout=30)).archives == 1
            assert_same(old, new)
            assert len(await heard(new, REPLY)) == 1

    run(main)


# --- the asking side --------------------------------------------------------------------------------------------------


def test_a_fresh_archive_may_not_be_there_yet(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(*[on("GET", status(404))] * 5, tus=False)) as here:
            old, new = await two(here)
            async with following(new) as events:
                assert (await new.sync_history(timeout=30)).archives == 1
                assert events.of(HistorySyncFailed) == []
            assert_same(old, new)

    run(main)


@pytest.mark.parametrize("code", [404, 410])
def test_an_archive_that_is_gone(tmp_path: Path, code: int) -> None:
    """One may ask again, and is told so."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            always(here.server, "GET", status(code))
            async with following(new) as events:
                with late(), pytest.raises(SyncError):
                    await new.sync_history(timeout=30)
                failed = await events.first(HistorySyncFailed)
                assert (failed.sent_by_installation, failed.reason) == (old.installation_id, "expired")
            assert await tasks(new) == []
            assert_nothing(new)
            with pytest.raises(ArchiveNotFound if code == 404 else ArchiveExpired):
                await new.process_sync_archive(failed.pin)
            # It is asked for again.
            here.server.faults.clear()
            assert (await new.sync_history(timeout=30)).archives == 1
            assert_same(old, new)

    run(main)


def test_410_is_not_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            _, new = await two(here)
            always(here.server, "GET", status(410))
            async with following(new) as events:
                with pytest.raises(SyncError):
                    await new.sync_history(timeout=30)
                assert (await events.first(HistorySyncFailed)).reason == "expired"
            assert here.server.methods().count("GET") == 1

    run(main)


def test_expired_at_a_real_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, retention_seconds=0.3, sweep_seconds=0.05) as here:
            old, new = await two(here, sync_interval=None)
            await old.send_sync_archive("later")
            await new.sync_all_device_sync_groups()
            (url,) = [said.fields[2].decode() for said in await heard(new, REPLY)]

            async def gone() -> bool:
                return not any((tmp_path / "archives").rglob(url.rpartition("/")[2] + "*"))

            await until(gone)
            with pytest.raises((ArchiveNotFound, ArchiveExpired)):
                await new.process_sync_archive("later")
            assert_nothing(new)

    run(main)


@pytest.mark.parametrize("kind", ["ranges", "no ranges", "chunks", "resets"])
def test_cut_off_on_the_way_down(tmp_path: Path, kind: str) -> None:
    """At each tenth, one after the other: the download goes on where it was, and brings everything once."""

    async def main() -> None:
        server = FaultyServer(tus=False, ranges=kind != "no ranges")
        async with world(tmp_path, server) as here:
            old, new = await two(here)
            size = (await old.send_sync_archive("size")).size
            ranged = kind != "no ranges"
            # What is left of it each time, or all of it from the start.
            step = size // 10
            server.faults = [
                on("GET", cut(step if ranged else step * tenth, reset=kind == "resets", chunked=kind == "chunks"))
                for tenth in TENTHS
            ]
            report = await new.sync_history(timeout=30)
            assert (report.archives, report.bytes) == (1, size)
            assert server.methods().count("GET") == 10
            assert_same(old, new)

    run(main)


def test_cut_off_for_good_at_each_tenth(tmp_path: Path) -> None:
    """Nothing is half imported, however far it came; the next call brings all of it."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, sync_interval=None)
            sent = await old.send_sync_archive("by hand")
            await new.sync_all_device_sync_groups()
            for tenth in TENTHS:
                here.server.ranges = tenth % 2 == 0
                always(here.server, "GET", cut(0 if here.server.ranges else sent.size * tenth // 10))
                here.server.faults.insert(0, on("GET", cut(sent.size * tenth // 10)))
                with pytest.raises(NetworkError):
                    await new.process_sync_archive("by hand")
                assert_nothing(new)
                # Others can write meanwhile.
                here.server.faults.clear()
            assert (await new.process_sync_archive("by hand")).new.messages == MANY
            assert_same(old, new)

    run(main)


def test_an_upload_by_hand_is_cut_off_for_good_at_each_tenth(tmp_path: Path) -> None:
    """Nobody is told of an archive that is not there."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, sync_interval=None)
            size = (await old.send_sync_archive("size")).size
            for tenth in TENTHS:
                always(here.server, "POST", drop(size * tenth // 10))
                with pytest.raises(NetworkError):
                    await old.send_sync_archive(f"tenth {tenth}")
                here.server.faults.clear()
            await old.send_sync_archive("whole")
            await new.sync_all_device_sync_groups()
            assert [archive.pin for archive in new.list_available_archives()] == ["whole", "size"]
            assert len(here.server.files) == 2
            await new.process_sync_archive("whole")
            assert_same(old, new)

    run(main)


def test_the_server_of_an_archive_is_down(tmp_path: Path) -> None:
    """An error that names the server, at once on explicit calls."""

    async def main() -> None:
        port = quiet_port()
        async with world(tmp_path) as here:
            old, new = await two(here, sync_interval=None)
            url = f"http://127.0.0.1:{port}"
            with pytest.raises(NetworkError, match=re.escape(url)):
                await old.send_sync_archive("pin", server_url=url)
            await say(old, reply("pin", f"{url}/files/{'1' * 36}", bytes(32)))
            await new.sync_all_device_sync_groups()
            with pytest.raises(NetworkError, match=re.escape(url)):
                await new.process_sync_archive("pin")
            assert_nothing(new)

    run(main)


# --- damage -----------------------------------------------------------------------------------------------------------


def _flipped(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "altered": _flipped,
    "truncated": lambda data: data[: len(data) // 2],
    "short": lambda data: data[:100],
    "empty": lambda _: b"",
    "longer": lambda data: data + b"more",
    "something else": lambda _: b"<html>not an archive</html>" * 10,
}


def test_damaged_archives(tmp_path: Path) -> None:
    """They are damaged for good: nothing is stored, nothing is tried again, and it is said."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, archive_policy=ArchivePolicy(burst=100))
            for number, damage in enumerate(DAMAGES.values(), 1):
                here.server.faults = [on("GET", _damaged(damage))]
                async with following(new) as events:
                    with pytest.raises(ArchiveError):
                        await new.sync_history(timeout=10)
                    failed = await events.first(HistorySyncFailed)
                    assert len(events.of(HistorySyncFailed)) == 1
                    assert (failed.sent_by_installation, failed.reason) == (old.installation_id, "unreadable")
                assert here.server.methods().count("GET") == number
                assert await tasks(new) == []
                assert_nothing(new)
                state = new.sync_status()
                assert (state.phase, state.pending_requests) == (SyncPhase.FAILED, 0)
                assert state.reason
            await new.sync_history(timeout=30)
            assert_same(old, new)

    run(main)


def _damaged(damage: Callable[[bytes], bytes]) -> Fault:
    async def fault(server: FaultyServer, exchange: Exchange) -> None:
        await exchange.answer(200, {}, damage(server.files[exchange.name]))

    return fault


def test_damaged_on_the_way(tmp_path: Path) -> None:
    """The server names another digest than what arrives has: the archive itself may be whole, and is fetched again."""

    async def main() -> None:
        async def damaged(server: FaultyServer, exchange: Exchange) -> None:
            data = server.files[exchange.name]
            await exchange.answer(200, server.tag(data), _flipped(data))

        async with world(tmp_path, FaultyServer(on("GET", damaged), tus=False)) as here:
            old, new = await two(here)
            async with following(new) as events:
                try:
                    await new.sync_history(timeout=30)
                except (ArchiveError, SyncError):
                    # What is wrong with it showed before it was complete.
                    assert_nothing(new)
                    assert (await events.first(HistorySyncFailed)).sent_by_installation == old.installation_id
                else:
                    assert_same(old, new)

    run(main)


def test_a_wrong_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            url = (await old.send_sync_archive("for its file")).url
            async with following(new) as events:
                pin = await _asked(old, new)
                await say(old, reply(pin, url, bytes(range(32))))
                failed = await events.first(HistorySyncFailed)
                assert (failed.pin, failed.reason) == (pin, "unreadable")
            assert here.server.methods().count("GET") == 1
            assert_nothing(new)

    run(main)


async def _asked(old: Client, new: Client) -> str:
    """A request that nobody can answer but the test: what is asked to be sent to is nowhere."""
    pin = await new.send_sync_request(server_url=f"http://127.0.0.1:{quiet_port()}")
    await until(_attempted, old, 1)
    return pin


def test_keys_of_other_lengths(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            url = (await old.send_sync_archive("for its file")).url
            async with following(new) as events:
                for number, length in enumerate([0, 16, 31, 33, 64], 1):
                    pin = await _asked(old, new)
                    await say(old, reply(pin, url, bytes(length)))
                    assert (await events.first(HistorySyncFailed, number)).pin == pin
            assert {task["kind"] for task in await tasks(new)} <= {"answer"}
            assert here.server.methods().count("GET") == 0, "there is nothing to fetch it for"
            assert_nothing(new)
            # The next one is fine.
            assert (await new.process_sync_archive("for its file")).new.messages == MANY

    run(main)


async def _heard(client: Client, replies: int) -> bool:
    return len(await heard(client, REPLY)) == replies


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_slashes_at_the_end(tmp_path: Path) -> None:
    """They are taken off when sending, and do not matter when others left them on."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here, history_sync_url=here.url + "//")
            assert (await new.sync_history(timeout=30)).archives == 1
            assert_same(old, new)
            (asked,) = await heard(old, REQUEST)
            assert asked.fields[2].decode() == here.url
            (answered,) = await heard(new, REPLY)
            assert answered.fields[2].decode().startswith(f"{here.url}/files/")
            # As the reference does it, verbatim.
            before = len(await heard(new, REPLY))
            await say(new, request("slash", here.url + "/"))
            await until(_heard, new, before + 1)
            second = (await heard(new, REPLY))[-1]
            assert second.fields[2].decode().startswith(f"{here.url}/files/")
            await say(old, reply("double", second.fields[2].replace(b"/files", b"//files"), _key(second.fields)))
            await new.sync_all_device_sync_groups()
            assert (await new.process_sync_archive("double")).duplicate.messages == MANY
            targets = [exchange.target for exchange in here.server.requests]
            assert {target[:7] for target in targets} == {"/upload", "/files/"}

    run(main)


def _key(fields: dict[int, Any]) -> bytes:
    key: bytes = fields[3][2:]
    assert len(key) == 32
    return key


def test_no_server(tmp_path: Path) -> None:
    """Nothing is sent for which there is no server."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old = await here.open("old")
            fill(old.history)
            news = [await here.open(f"new {url}", history_sync_url=url) for url in (None, "")]
            await meet(old, *news)
            for new in news:
                for call in (new.sync_history, new.sync_messages, new.sync_consent, new.send_sync_request):
                    with pytest.raises(NoHistoryServer):
                        await call()
                with pytest.raises(NoHistoryServer):
                    await new.send_sync_archive("pin")
            assert await heard(old, REQUEST, REPLY) == []
            # One may be named with the call, if the others are asked to send there.
            for new in news:
                async with following(new) as events:
                    await new.send_sync_request(server_url=here.url)
                    await events.first(HistoryImported)
                assert_same(old, new)

    run(main)


NO_URLS = ["/relative", "ftp://example.org", "http://", "file:///etc/passwd", "history.example.org", "http://a b/"]


def test_urls_that_are_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            for url in ["", *NO_URLS, "x" * 70_000]:
                with pytest.raises((ValueError, NoHistoryServer)):
                    await new.send_sync_request(server_url=url)
                with pytest.raises((ValueError, NoHistoryServer)):
                    await old.send_sync_archive("pin", server_url=url)
                if url:
                    with pytest.raises(ValueError):
                        await here.open("third", history_sync_url=url)
            assert await heard(new, REQUEST, REPLY) == []

    run(main)


@pytest.mark.parametrize("own", [True, False])
def test_requests_with_urls_that_are_none(tmp_path: Path, own: bool) -> None:
    """They are answered with a refusal, and not tried again."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            options = {} if own else {"history_sync_url": None}
            old = await here.open("old", archive_policy=ArchivePolicy(burst=100), **options)
            new = await here.open("new", sync_interval=None)
            await meet(old, new)
            urls = [*NO_URLS, "\x00", "http://127.0.0.1:1?query"] + ([] if own else ["", here.url])
            async with following(old) as events:
                for number, url in enumerate(urls):
                    await say(new, request(f"odd {number}", url))
                await until(lambda: len(events.of(ArchiveRefused)) == len(urls))
                refused = {event.pin: event.reason for event in events.of(ArchiveRefused)}
                assert refused == {f"odd {number}": "no_server" for number in range(len(urls))}
            assert await tasks(old) == []
            assert here.server.requests == []
            await meet(old, new)
            assert await heard(new, REPLY) == []

    run(main)


def test_a_request_without_a_url_goes_to_the_own_server(tmp_path: Path) -> None:
    """As installations up to 1.9 ask."""

    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here)
            async with following(old) as events:
                await say(new, request("old", ""))
                sent = await until(lambda: [*events.of(ArchiveSent), *events.of(ArchiveRefused)])
                assert isinstance(sent[0], ArchiveSent)

    run(main)


def test_redirects_to_another_scheme(tmp_path: Path) -> None:
    """They are not followed, and given up."""

    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            _, new = await two(here, archive_policy=ArchivePolicy(burst=100))
            for target in ("https://127.0.0.1:1/files/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "gopher:x"):
                here.server.faults = []
                always(here.server, "GET", status(302, Location=target))
                before = here.server.methods().count("GET")
                async with following(new) as events:
                    with pytest.raises(SyncError):
                        await new.sync_history(timeout=10)
                    failed = await events.first(HistorySyncFailed)
                    assert failed.reason == "failed"
                    assert target not in repr(failed)
                assert here.server.methods().count("GET") <= before + 3
                assert await tasks(new) == []
            assert_nothing(new)

    run(main)


def test_redirects_to_another_server_are_followed(tmp_path: Path) -> None:
    async def main() -> None:
        async with FaultyServer(tus=False) as elsewhere, world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)

            async def moved(server: FaultyServer, exchange: Exchange) -> None:
                url = elsewhere.add(server.files[exchange.name])
                await exchange.answer(302, {"Location": url})

            here.server.faults = [on("GET", moved)]
            await new.sync_history(timeout=30)
            assert_same(old, new)

    run(main)


def test_what_is_not_http(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(tus=False)) as here:
            old, new = await two(here)
            here.server.faults = [on(method, raw(b"SSH-2.0-OpenSSH_9.2\r\n")) for method in ("POST", "GET") * 3]
            await new.sync_history(timeout=30)
            assert_same(old, new)

    run(main)


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_timeout_says_what_was_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as here:
            old, new = await two(here, history_sync_url=f"http://127.0.0.1:{quiet_port()}")
            with pytest.raises(SyncTimeout, match="1 other installation has not answered") as caught:
                await new.sync_history(timeout=0.5)
            assert isinstance(caught.value, TimeoutError)
            # It comes all the same, if it comes later.
            assert new.sync_status().pending_requests == 1
            assert len(await tasks(old)) == 1

    run(main)


def test_a_timeout_while_it_comes_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path, FaultyServer(on("GET", stall), tus=False)) as here:
            old, new = await two(here)
            with pytest.raises(SyncTimeout):
                await new.sync_history(timeout=0.5)
            assert_nothing(new)
            assert old.history.counts().messages == MANY

    run(main)
