"""``xmtp-history upload``, ``download`` and ``delete``, as a user meets them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from support import child
from support.faulty_server import FaultyServer, cut, names, on, stall, status, until
from support.outcome import Outcome
from xmtp_history import Progress
from xmtp_history.cli import _progress
from xmtp_history.cli._app import EXIT_CODES, cli
from xmtp_history.sync import _retry

DATA = random.Random(3).randbytes(100_000)
DIGEST = hashlib.sha256(DATA).hexdigest()
NOTHING = dict.fromkeys(("XMTP_HISTORY_TOKEN", "XMTP_DELETE_CAPABILITY", "XMTP_HISTORY_SYNC_URL", "http_proxy"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.sleep
    monkeypatch.setattr(_retry, "_sleep", lambda _seconds: real(0))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.xmtp"
    path.write_bytes(DATA)
    return path


async def run(*arguments: str | Path, stdin: bytes | None = None, **environment: str) -> Outcome:
    """Runs a command on a thread, while the server of the test runs here."""

    def work() -> Outcome:
        env = NOTHING | environment
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], env=env, input=stdin)
        if not isinstance(result.exception, SystemExit | None):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return await asyncio.to_thread(work)


def with_server(test: Callable[[FaultyServer], Awaitable[None]], *faults: Any) -> FaultyServer:
    server = FaultyServer(*faults)

    async def main() -> None:
        async with server:
            await test(server)

    asyncio.run(main())
    return server


# --- what works ------------------------------------------------------------------------------------------------------


def test_up_down_and_away(archive: Path, tmp_path: Path) -> None:
    capability, target = tmp_path / "capability", tmp_path / "copy.xmtp"

    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url, "--capability-file", capability)
        assert (up.code, up.err) == (0, "")
        url = up.out.strip()
        assert url.startswith(f"{server.url}/files/")
        assert "\n" not in url
        assert capability.stat().st_mode & 0o777 == 0o600

        down = await run("download", url, target)
        assert (down.code, down.err) == (0, "")
        assert target.read_bytes() == DATA
        assert DIGEST in down.out
        assert "100,000 bytes" in down.out

        gone = await run("delete", url, "--capability-file", capability)
        assert (gone.code, gone.out, gone.err) == (0, "Deleted\n", "")
        assert server.files == {}
        assert (await run("download", url, target, "--force")).code == 10

    with_server(test)


def test_the_same_in_json(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.xmtp"

    async def test(server: FaultyServer) -> None:
        up = (await run("upload", archive, "--json", XMTP_HISTORY_SYNC_URL=server.url)).json
        assert up == {
            "path": str(archive),
            "url": up["url"],
            "archive_bytes": len(DATA),
            "sha256": DIGEST,
            "delete_capability": server.capability,
        }
        down = (await run("download", up["url"], target, "--json")).json
        assert down == {"path": str(target), "archive_bytes": len(DATA), "sha256": DIGEST, "verified": True}
        gone = await run("delete", up["url"], "--json", XMTP_DELETE_CAPABILITY=up["delete_capability"])
        assert gone.json == {"deleted": True}

    with_server(test)


def test_the_capability_is_only_shown_to_those_who_ask(archive: Path) -> None:
    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url)
        assert server.capability not in up.out + up.err

    with_server(test)


def test_a_server_without_capabilities(archive: Path, tmp_path: Path) -> None:
    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url, "--capability-file", tmp_path / "capability")
        assert up.code == 0
        assert up.err == "Warning: the server gave no delete capability\n"
        assert not (tmp_path / "capability").exists()

    with_server(test, status(200, b"0123456789"))


@pytest.mark.parametrize("by", ["file", "environment"])
def test_tokens(archive: Path, tmp_path: Path, by: str) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-token\n")
    token.chmod(0o600)

    async def test(server: FaultyServer) -> None:
        arguments: tuple[Any, ...] = ("--token-file", token) if by == "file" else ()
        environment = {"XMTP_HISTORY_TOKEN": "s3cret-token" if by == "environment" else "another"}
        up = await run("upload", archive, "--server", server.url, *arguments, **environment)
        assert (up.code, up.err) == (0, "")
        await run("download", up.out.strip(), tmp_path / "copy", *arguments, **environment)
        await run("delete", up.out.strip(), *arguments, **environment, XMTP_DELETE_CAPABILITY=server.capability)
        assert [request.method for request in server.requests] == ["POST", "GET", "DELETE"]
        assert {request.headers["authorization"] for request in server.requests} == {"Bearer s3cret-token"}

    with_server(test)


def test_a_token_that_others_may_read_gets_a_warning(archive: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-token")
    token.chmod(0o644)

    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url, "--token-file", token)
        assert up.code == 0
        assert up.err.startswith("Warning: other users may read")
        assert "s3cret" not in up.err

    with_server(test)


def test_standard_input(archive: Path) -> None:
    async def test(server: FaultyServer) -> None:
        up = await run("upload", "-", "--server", server.url, stdin=DATA)
        assert up.code == 0
        assert list(server.files.values()) == [DATA]

    with_server(test)


def test_a_named_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def test(server: FaultyServer) -> None:
        up, _ = await asyncio.gather(
            run("upload", pipe, "--server", server.url), asyncio.to_thread(pipe.write_bytes, DATA)
        )
        assert up.code == 0
        assert list(server.files.values()) == [DATA]

    with_server(test)


@pytest.mark.parametrize("kind", ["pipe", "file", "null"])
def test_standard_input_of_a_process(archive: Path, kind: str) -> None:
    async def test(server: FaultyServer) -> None:
        stdin = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL}.get(kind)
        with archive.open("rb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "xmtp_history", "upload", "-", "--server", server.url,
                stdin=file if stdin is None else stdin, stdout=subprocess.PIPE, env=child.environment(),
            )  # fmt: skip
        out, _ = await process.communicate(DATA if kind == "pipe" else None)
        assert process.returncode == 0
        assert out.decode().startswith(server.url)
        assert list(server.files.values()) == [b"" if kind == "null" else DATA]

    with_server(test)


def test_interruptions_are_bridged(archive: Path, tmp_path: Path) -> None:
    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url)
        down = await run("download", up.out.strip(), tmp_path / "copy")
        assert (up.code, down.code) == (0, 0)
        assert (tmp_path / "copy").read_bytes() == DATA

    server = with_server(test, on("POST", status(503)), on("GET", cut(50_000)), on("GET", status(429)))
    assert server.faults == []


# --- what does not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        ([status(404)], 10),
        ([status(410)], 10),
        ([status(503)] * 20, 17),
        ([status(401)], 18),
        ([status(507)], 18),
        ([status(302, Location="ftp://x/")], 18),
    ],
)
def test_exit_codes_of_downloads(tmp_path: Path, faults: list[Any], code: int) -> None:
    async def test(server: FaultyServer) -> None:
        url = server.add(DATA)
        down = await run("download", url, tmp_path / "copy")
        assert (down.code, down.out) == (code, "")
        assert down.err.startswith("Error: ")
        assert down.err.count("\n") == 1
        assert url not in down.err
        assert names(tmp_path) == set()

    with_server(test, *faults)


@pytest.mark.parametrize(
    ("faults", "code"),
    [([status(404)], 18), ([status(413)], 18), ([status(403)], 18), ([status(200)], 18), ([status(500)] * 20, 17)],
)
def test_exit_codes_of_uploads(archive: Path, faults: list[Any], code: int) -> None:
    async def test(server: FaultyServer) -> None:
        up = await run("upload", archive, "--server", server.url)
        assert (up.code, up.out) == (code, "")
        assert up.err.startswith("Error: ")

    with_server(test, *faults)


def test_nobody_there(archive: Path) -> None:
    async def main() -> None:
        async with FaultyServer() as server:
            url = server.url
        up = await run("upload", archive, "--server", url)
        assert up.code == 17
        assert "refused" in up.err.lower()

    asyncio.run(main())


def test_the_codes_are_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    for code in set(EXIT_CODES.values()):
        assert f"\n| {code} | " in text


def test_files_that_exist_stay(archive: Path, tmp_path: Path) -> None:
    async def test(server: FaultyServer) -> None:
        url = server.add(b"new")
        assert (await run("download", url, archive)).code == 16
        assert (await run("upload", archive, "--server", server.url, "--capability-file", archive)).code == 16
        assert server.requests == []

    async def forced(server: FaultyServer) -> None:
        assert (await run("download", server.add(b"new"), archive, "--force")).code == 0

    with_server(test)
    assert archive.read_bytes() == DATA
    with_server(forced)
    assert archive.read_bytes() == b"new"


def test_the_limit(tmp_path: Path) -> None:
    async def test(server: FaultyServer) -> None:
        url = server.add(DATA)
        down = await run("download", url, tmp_path / "copy", "--max-bytes", str(len(DATA) - 1))
        assert down.code == 18
        assert "99,999" in down.err
        assert (await run("download", url, tmp_path / "copy", "--max-bytes", str(len(DATA)))).code == 0

    with_server(test)


@pytest.mark.parametrize(
    "arguments",
    [
        ("upload", "x"),
        ("upload", "--server", "http://h"),
        ("upload", "{archive}", "--server", "history.example.org"),
        ("upload", "{archive}", "--server", "http://user:secret@h/?q=secret"),
        ("download", "http://h/files/x"),
        ("download", "not a url", "{new}"),
        ("download", "http://h/files/x", "-"),
        ("download", "http://h/files/x", "{new}", "--max-bytes", "0"),
        ("delete",),
    ],
)
def test_wrong_usage(archive: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    filled = [argument.format(archive=archive, new=tmp_path / "new") for argument in arguments]
    outcome = asyncio.run(run(*filled))
    assert outcome.code == 2
    assert "secret" not in outcome.err
    assert list(tmp_path.iterdir()) == [archive]


def test_a_missing_file() -> None:
    assert asyncio.run(run("upload", "missing.xmtp", "--server", "http://127.0.0.1:1")).code == 10
    assert asyncio.run(run("upload", "x", "--server", "http://h", "--token-file", "missing")).code == 10


def test_delete_without_a_capability() -> None:
    outcome = asyncio.run(run("delete", "http://127.0.0.1:1/files/x"))
    assert outcome.code == 12
    assert "--capability-file" in outcome.err


@pytest.mark.parametrize("content", [b"", b"two words", b"s3cret\xff", b"s" * 10_000])
def test_tokens_that_are_none(archive: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(0o600)
    outcome = asyncio.run(run("upload", archive, "--server", "http://127.0.0.1:1", "--token-file", file))
    assert outcome.code == 12
    assert "s3cret" not in outcome.err


def test_a_wrong_capability() -> None:
    async def test(server: FaultyServer) -> None:
        outcome = await run("delete", server.add(DATA), XMTP_DELETE_CAPABILITY="0" * 32)
        assert outcome.code == 18
        assert "delete capability" in outcome.err

    with_server(test)


# --- interrupted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["upload", "download", "pipe"])
def test_interrupted(tmp_path: Path, archive: Path, command: str, number: signal.Signals) -> None:
    async def stalled(server: FaultyServer, exchange: Any) -> None:
        if exchange.method == "GET":
            await exchange.answer(200, {}, DATA[:50_000], length=len(DATA))
        await stall(server, exchange)

    async def test(server: FaultyServer) -> None:
        target = tmp_path / "target.xmtp"
        arguments = {
            "upload": ("upload", archive, "--server", server.url),
            "download": ("download", server.add(DATA), target),
            # Nothing ever comes through it.
            "pipe": ("upload", "-", "--server", server.url),
        }[command]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "xmtp_history", *map(os.fspath, arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child.environment(),
        )  # fmt: skip
        await until(lambda: command == "pipe" or not server.faults)
        # Long enough to have begun to wait.
        await asyncio.sleep(1.5 if command == "pipe" else 0.2)
        process.send_signal(number)
        _, err = await asyncio.wait_for(process.communicate(), 60)
        code = 130 if number == signal.SIGINT else 143
        assert (process.returncode, err.decode()) == (
            code, f"Error: {'interrupted' if code == 130 else 'terminated'}\n"
        )  # fmt: skip
        assert names(tmp_path) == {archive.name}

    with_server(test, stalled)


# --- the progress bar ------------------------------------------------------------------------------------------------


def test_the_bar_counts_bytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_progress, "_SHOW_AFTER_SECONDS", 0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for phase, word, total in (("upload", "Uploading", None), ("download", "Downloading", 4_000_000)):
        with _progress.ProgressBar() as bar:
            bar(Progress(phase, 0, None, 1_500_000, total))
            assert bar._bar is not None
            (task,) = bar._bar.tasks
            assert (task.description, task.completed, task.total) == (word, 1_500_000, total)
            assert task.fields["records"] == "1.5 MB"
