"""``xmtp-history register``, ``sync``, ``status`` and ``keep``, as a user meets them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import pty
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from independent import write
from support import child
from support.build import KEY, STORE_KEY, consent, group, group_id, message, metadata
from support.command import Running, serving, start
from support.outcome import Outcome
from support.signing import Wallet
from support.store import snapshot
from xmtp_history import (
    ArchiveOptions,
    ArchiveRequest,
    Client,
    Counts,
    History,
    SyncPhase,
    SyncStatus,
)
from xmtp_history.cli import _client_logging, _progress
from xmtp_history.cli._app import cli
from xmtp_history.cli._ask import Program
from xmtp_history.cli._client_options import origin
from xmtp_history.testing import LocalXmtp, run_local_xmtp

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = ("register", "sync", "status", "keep")
WALLET_KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
#: Nothing of the machine's own.
NOTHING: dict[str, str | None] = dict.fromkeys(
    f"XMTP_{name}" for name in ("API_URL", "DB_DIRECTORY", "DB_ENCRYPTION_KEY", "ENV", "HISTORY_SYNC_URL", "WALLET_KEY")
)
RECORDS = [group(1), group(2), *(message(number) for number in range(300)), message(300, 2)]
CONSENTS = [consent(group_id(1)), consent("b0" * 32, 3, entity_type=2)]
HELD = Counts(conversations=2, messages=301, consents=2)
# A clear screen, a title, a line of its own, a reversal of direction.
HOSTILE = "\x1b[2Jclear \x1b]0;title\x07 new\r\nline \u202eesrever"


class Signer:
    """A wallet whose key is in the test's hands; those of the extra take seconds to load."""

    _made = 0

    def __init__(self) -> None:
        Signer._made += 1
        self._wallet = Wallet(b"command line %d" % Signer._made)

    def get_identifier(self) -> str:
        return self._wallet.address

    def sign_message(self, text: str) -> bytes:
        return self._wallet.sign_raw(text)


@dataclass
class Owner:
    """A user with installations of their own, at the node of the tests."""

    folder: Path
    local: LocalXmtp
    signer: Signer

    @property
    def environment(self) -> dict[str, str]:
        return {
            "XMTP_ENV": "local",
            "XMTP_API_URL": self.local.node_url,
            "XMTP_HISTORY_SYNC_URL": self.local.history_sync_url,
            "XMTP_DB_ENCRYPTION_KEY": STORE_KEY.hex(),
        }

    def register(self, name: str, *, held: bool = False) -> Path:
        """Makes an installation without the command line, with or without a history."""

        async def make() -> str:
            async with await Client.create(
                self.signer, env="local", api_url=self.local.node_url, history_sync_url=self.local.history_sync_url,
                db_path=path, db_encryption_key=STORE_KEY, auto_history_sync=False, sync_interval=None,
            ) as client:  # fmt: skip
                return client.installation_id

        path = self.folder / name
        self.ids[name] = asyncio.run(make())
        if held:
            with History.open(path, STORE_KEY) as history:
                history.import_archive(write(None, KEY, [metadata(), *RECORDS, *CONSENTS]), KEY)
        return path

    def __post_init__(self) -> None:
        self.ids: dict[str, str] = {}

    def run(self, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> Outcome:
        """Runs a command to its end."""
        with start(*map(os.fspath, arguments), environment={**self.environment, **(environment or {})}) as process:
            out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
        outcome = Outcome(process.returncode, out, err)
        check_secrets(out + err)
        return outcome

    @contextlib.contextmanager
    def keep(self, path: Path, *arguments: str) -> Iterator[Running]:
        """A keeper."""
        with serving("keep", "--db", os.fspath(path), *arguments, environment=self.environment) as running:
            yield running


def check_secrets(text: str) -> None:
    for secret in (STORE_KEY.hex(), WALLET_KEY):
        assert secret not in text.lower()
    assert "Traceback" not in text


def here(*arguments: str | Path, environment: Mapping[str, str | None] | None = None) -> Outcome:
    """Runs a command in this process: what it says before it asks anybody."""
    result = CliRunner().invoke(
        cli, [str(argument) for argument in arguments], env={**NOTHING, **(environment or {})}, prog_name="xmtp-history"
    )
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    check_secrets(result.stdout + result.stderr)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def records_of(path: Path) -> dict[str, Any]:
    with History.open(path, STORE_KEY) as history:
        return snapshot(history)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalXmtp]:
    with run_local_xmtp() as running:
        yield running


@pytest.fixture
def owner(local: LocalXmtp, tmp_path: Path) -> Owner:
    return Owner(tmp_path, local, Signer())


# --- register ----------------------------------------------------------------------------------------------------------


def test_registering_again_opens_the_same_installation(owner: Owner) -> None:
    folder = owner.folder / "new" / "folder"
    environment = {"XMTP_DB_DIRECTORY": os.fspath(folder), "XMTP_WALLET_KEY": f"0x{WALLET_KEY}"}
    first = owner.run("register", "--json", environment=environment)
    assert (first.code, first.err) == (0, "")
    inbox_id, installation_id = first.json["inbox_id"], first.json["installation_id"]
    database = folder / f"xmtp-local-{inbox_id}.db3"
    assert first.json == {
        "inbox_id": inbox_id,
        "installation_id": installation_id,
        "other_installations": [],
        "database": str(database),
        "env": "local",
    }
    assert database.exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    again = owner.run("register", environment=environment)
    assert (again.code, again.err) == (0, "")
    assert f"Inbox                {inbox_id}\n" in again.out
    assert f"Installation         {installation_id}\n" in again.out
    assert again.out.endswith("xmtp-history keep\n")

    (owner.folder / "wallet.key").write_text(WALLET_KEY)
    (owner.folder / "db.key").write_bytes(STORE_KEY)
    for name in ("wallet.key", "db.key"):
        (owner.folder / name).chmod(0o600)
    files = ("--wallet-key-file", owner.folder / "wallet.key", "--db-key-file", owner.folder / "db.key")
    other = owner.run("register", "--json", "--db", owner.folder / "b", *files, environment={"XMTP_WALLET_KEY": "bad"})
    assert other.json["inbox_id"] == inbox_id
    assert other.json["other_installations"] == [installation_id]
    assert other.json["database"] == str(owner.folder / "b")


@pytest.mark.parametrize(
    ("wallet", "code", "named"),
    [
        (None, 12, "--wallet-key-file FILE or set XMTP_WALLET_KEY"),
        ("12345", 12, "64 hexadecimal"),
        ("ff" * 32, 12, "curve"),
    ],
)
def test_register_needs_a_wallet(tmp_path: Path, wallet: str | None, code: int, named: str) -> None:
    environment = {"XMTP_DB_ENCRYPTION_KEY": STORE_KEY.hex(), "XMTP_WALLET_KEY": wallet}
    result = here("register", "--db", tmp_path / "a", environment=environment)
    assert result.code == code
    assert named in result.sentence
    assert wallet is None or wallet not in result.sentence
    assert list(tmp_path.iterdir()) == []


def test_register_needs_a_package(owner: Owner) -> None:
    blocked = owner.folder / "blocked"
    blocked.mkdir()
    (blocked / "eth_account.py").write_text("raise ImportError('blocked')\n")
    path = os.pathsep.join([os.fspath(blocked), child.environment()["PYTHONPATH"]])
    result = owner.run(
        "register", "--db", owner.folder / "a", environment={"XMTP_WALLET_KEY": WALLET_KEY, "PYTHONPATH": path}
    )
    assert result.code == 2
    assert "pip install 'xmtp-history[eth]'" in result.sentence


# --- sync and keep -----------------------------------------------------------------------------------------------------


def test_sync_brings_everything_that_a_keeper_has(owner: Owner) -> None:
    old, new = owner.register("old", held=True), owner.register("new")
    with owner.keep(old, "--summary", "0.001") as keeper:
        assert keeper.urls == {
            "inbox_id": keeper.urls["inbox_id"],
            "installation_id": owner.ids["old"],
            "database": str(old),
            "env": "local",
            "node": owner.local.node_url,
            "history_server": owner.local.history_sync_url,
        }
        result = owner.run("sync", "--db", new, "--json")
        assert (result.code, result.err) == (0, "")
        shown = result.json
        assert (shown["archives"], shown["refused"], shown["seconds"] > 0) == (1, [], True)
        assert shown["new"] == {"conversations": 2, "messages": 301, "consents": 2}
        assert shown["counts"] == {"conversations": 2, "messages": 301, "consents": 2}
        assert shown["archive_bytes"] > 1000
        assert not {"pin", "metadata"} & shown.keys()
        again = owner.run("sync", "--db", new)
        assert again.code == 0
        assert re.search(r"^Messages +0 +301 +0 +0$", again.out, re.MULTILINE)
        assert "Here now  2 conversations, 301 messages, 2 decisions on consent\n" in again.out
        code, err = keeper.stop(signal.SIGTERM)
    assert code == 0
    check_secrets(err)
    lines = [json.loads(line) for line in err.splitlines()]
    assert all({"time", "level", "logger"} <= line.keys() for line in lines)
    assert "stopping" in [line["message"] for line in lines[-3:]]
    summaries = [line for line in lines if line.get("message") == "summary"]
    assert summaries[-1]["payload_sent"] == 2
    assert summaries[-1]["messages"] == 301
    assert not any(pin in err for pin in pins_of(new))
    assert records_of(old) == records_of(new)


def pins_of(path: Path) -> list[str]:
    async def look() -> list[str]:
        async with await Client.build(
            env="local", db_path=path, db_encryption_key=STORE_KEY, auto_history_sync=False, sync_interval=None
        ) as client:
            return [request["pin"] for request in await client._parts.core.ask("sync_requests")]

    pins = asyncio.run(look())
    assert pins
    return pins


def test_sync_fetches_what_it_is_asked_for(owner: Owner) -> None:
    old = owner.register("old", held=True)
    first = message(0)[1]["sent_at_ns"]
    cases: dict[str, tuple[tuple[str, ...], Counts]] = {
        "consent": (("--consent",), Counts(consents=2)),
        "messages": (("--messages",), Counts(conversations=2, messages=301)),
        "end": (("--messages", "--end", iso(first + 9)), Counts(conversations=2, messages=10)),
    }
    with owner.keep(old):
        for name, (arguments, expected) in cases.items():
            new = owner.register(name)
            result = owner.run("sync", "--db", new, "--json", *arguments)
            assert (result.code, result.err) == (0, "")
            with History.open(new, STORE_KEY) as history:
                assert history.counts() == expected


def iso(ns: int) -> str:
    seconds, fraction = divmod(ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09d}Z"


def test_nobody_to_ask(owner: Owner) -> None:
    result = owner.run("sync", "--db", owner.register("only"), "--timeout", "5")
    assert result.code == 19
    assert "no other installation" in result.sentence


def test_nobody_who_answers(owner: Owner) -> None:
    owner.register("old")
    new = owner.register("new")
    result = owner.run("sync", "--db", new, "--timeout", "2")
    assert result.code == 19
    assert "1 other installation has not answered" in result.sentence
    assert not any(pin in result.sentence for pin in pins_of(new))
    # The request stays.
    shown = owner.run("status", "--db", new, "--offline", "--json").json
    assert shown["pending_requests"] == 1


def test_what_comes_later_is_added_by_a_keeper(owner: Owner) -> None:
    old, new = owner.register("old", held=True), owner.register("new")
    assert owner.run("sync", "--db", new, "--timeout", "2").code == 19
    # To answer is for keepers.
    assert owner.run("sync", "--db", old, "--timeout", "1").code == 19
    assert owner.run("sync", "--db", new, "--timeout", "0.5").code == 19
    assert counts(new) == Counts()
    with owner.keep(old), owner.keep(new, "--no-sync"):
        wait_until(lambda: counts(new) == HELD)


def test_a_keeper_fetches_the_history_by_itself_at_first(owner: Owner) -> None:
    old, new = owner.register("old", held=True), owner.register("new")
    with owner.keep(old), owner.keep(new):
        wait_until(lambda: counts(new) == HELD)


def counts(path: Path) -> Counts:
    with History.open(path, STORE_KEY) as history:
        return history.counts()


def wait_until(condition: Any) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + child.DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# --- who gets the history ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--allow", "ab" * 32), "refused"),
        (("--max-archive-bytes", "1000"), "too_large"),
        (("--history-sync-url", ""), "no_server"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_keeper_that_refuses(owner: Owner, arguments: tuple[str, ...], reason: str) -> None:
    old, new = owner.register("old", held=True), owner.register("new")
    with owner.keep(old, *arguments, "--log-format", "text") as keeper:
        result = owner.run("sync", "--db", new)
        code, err = keeper.stop()
    assert result.code == 20
    assert reason in result.sentence
    assert f"Warning: installation {owner.ids['old'][:8]} does not send its history" in result.err
    assert counts(new) == Counts()
    assert code == 0
    assert f"WARNING installation {owner.ids['new'][:8]} does not get the history: {reason}" in err
    check_secrets(err)


def test_a_keeper_that_allows_one(owner: Owner) -> None:
    old, friend = owner.register("old", held=True), owner.register("friend")
    with owner.keep(old, "--allow", "ab" * 32, "--allow", owner.ids["friend"].upper()):
        assert owner.run("sync", "--db", friend).code == 0
    assert counts(friend) == HELD


def test_a_program_decides(owner: Owner) -> None:
    old, new = owner.register("old", held=True), owner.register("new")
    program = script(owner.folder / "ask", f"cat > {shlex.quote(str(owner.folder / 'request'))}")
    with owner.keep(old, "--ask", os.fspath(program)):
        assert owner.run("sync", "--db", new, "--end", "2024-01-01").code == 0
        script(program, "exit 1")
        assert owner.run("sync", "--db", new).code == 20
    request = json.loads((owner.folder / "request").read_text())
    assert request == {
        "installation_id": owner.ids["new"],
        "sent_at_ns": request["sent_at_ns"],
        "sent_at": iso(request["sent_at_ns"]),
        "elements": ["messages", "consent"],
        "start_ns": None,
        "start": None,
        "end_ns": 1704067200000000000,
        "end": "2024-01-01T00:00:00.000000000Z",
        "exclude_disappearing_messages": False,
        "server_url": owner.local.history_sync_url,
    }


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


REQUEST = ArchiveRequest("a pin", "ab" * 32, 1, ArchiveOptions(), "https://history.example.org")


@pytest.mark.parametrize(
    ("text", "answer", "warning"),
    [
        ("exit 0", True, ""),
        ("exit 1", False, ""),
        ("exit 2", False, "ended with 2"),
        ("kill -9 $$", False, "ended with -9"),
        ('test -z "$XMTP_DB_ENCRYPTION_KEY$XMTP_WALLET_KEY" && test -n "$XMTP_ENV"', True, ""),
        ("grep -q pin", False, ""),
    ],
)
def test_what_a_program_says(
    tmp_path: Path,
    text: str,
    answer: bool,
    warning: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("XMTP_DB_ENCRYPTION_KEY", STORE_KEY.hex())
    monkeypatch.setenv("XMTP_WALLET_KEY", WALLET_KEY)
    monkeypatch.setenv("XMTP_ENV", "local")
    assert asyncio.run(Program(str(script(tmp_path / "ask", text)))(REQUEST)) is answer
    assert warning in caplog.text
    assert bool(warning) is bool(caplog.text)


def test_a_program_that_does_not_decide_is_ended(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def main() -> None:
        async with asyncio.timeout(0.5):
            await Program(str(script(tmp_path / "ask", f"echo $$ > {started}; exec sleep 1000")))(REQUEST)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    if started.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)


def test_a_program_that_is_gone_says_no(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = script(tmp_path / "ask", "exit 0")
    program = Program(str(path))
    path.unlink()
    assert asyncio.run(program(REQUEST)) is False
    assert "cannot be started" in caplog.text


# --- status ------------------------------------------------------------------------------------------------------------


def test_status(owner: Owner) -> None:
    path, other = owner.register("a", held=True), owner.register("b")
    result = owner.run("status", "--db", path, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json == {
        "database": str(path),
        "env": "local",
        "node": owner.local.node_url,
        "history_server": owner.local.history_sync_url,
        "in_use": False,
        "inbox_id": result.json["inbox_id"],
        "installation_id": owner.ids["a"],
        "registered": True,
        "other_installations": [owner.ids["b"]],
        "conversation_groups": {},
        "sync_groups": {"active": 1},
        "pending_requests": 0,
        "outbox": {"consents": 0, "messages": 0, "hmac_due": result.json["outbox"]["hmac_due"], "intents": 0},
        "counts": {"conversations": 2, "messages": 301, "consents": 2},
    }
    # What is known here, with a node that does not answer and a server that nobody may know all of.
    known = here(
        "status", "--db", other, "--offline",
        environment=owner.environment
        | {"XMTP_API_URL": "http://127.0.0.1:1", "XMTP_HISTORY_SYNC_URL": "https://user:secret@history.example.org/token"},
    )  # fmt: skip
    assert (known.code, known.err) == (0, "")
    assert "Registered             yes\n" in known.out
    assert f"Other installations    {owner.ids['a']}\n" in known.out
    assert "History server         https://history.example.org/…\n" in known.out
    assert "secret" not in known.out
    assert "token" not in known.out


def test_status_of_a_keeper(owner: Owner) -> None:
    path = owner.register("a", held=True)
    with owner.keep(path):
        shown = owner.run("status", "--db", path, "--json").json
        assert shown["in_use"] is True
        assert {shown[name] for name in ("inbox_id", "registered", "other_installations", "outbox")} == {None}
        assert shown["counts"] == {"conversations": 2, "messages": 301, "consents": 2}
        assert "Another process" in here("status", "--db", path, environment=owner.environment).out
        second = owner.run("sync", "--db", path)
        assert second.code == 15
        assert second.sentence


def test_a_revoked_installation(owner: Owner) -> None:
    path, other = owner.register("a"), owner.register("b")

    async def revoke() -> None:
        async with await Client.create(
            owner.signer, env="local", api_url=owner.local.node_url, history_sync_url=owner.local.history_sync_url,
            db_path=other, db_encryption_key=STORE_KEY, auto_history_sync=False, sync_interval=None,
        ) as client:  # fmt: skip
            await client.revoke_installations([owner.ids["a"]])

    with start("keep", "--db", os.fspath(path), "--json", environment=owner.environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        asyncio.run(revoke())
        # It notices when it next asks the node.
        out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
    assert (process.returncode, out) == (21, "")
    assert err.splitlines()[-1].startswith("Error: ")
    for command in ("sync", "keep"):
        assert owner.run(command, "--db", path).code == 21
    assert owner.run("status", "--db", path, "--json").json["registered"] is False


# --- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sync", "status", "keep"])
def test_a_database_that_is_not_there(command: str, tmp_path: Path) -> None:
    key = {"XMTP_DB_ENCRYPTION_KEY": STORE_KEY.hex()}
    missing = here(command, "--db", tmp_path / "missing", environment=key)
    assert missing.code == 10
    assert "missing: " in missing.sentence
    assert "xmtp-history register" in missing.sentence
    assert list(tmp_path.iterdir()) == []
    neither = here(command, environment=key)
    assert neither.code == 2
    assert "--db FILE or set XMTP_DB_DIRECTORY" in neither.sentence
    with History.open(tmp_path / "store", STORE_KEY):
        pass
    empty = here(command, "--db", tmp_path / "store", environment=key)
    assert empty.code == 21
    assert "xmtp-history register" in empty.sentence
    wrong = here(command, "--db", tmp_path / "store", environment={"XMTP_DB_ENCRYPTION_KEY": KEY.hex()})
    assert wrong.code == 12
    none = here(command, "--db", tmp_path / "store")
    assert none.code == 12
    assert "--db-key-file FILE or set XMTP_DB_ENCRYPTION_KEY" in none.sentence
    short = here(command, "--db", tmp_path / "store", environment={"XMTP_DB_ENCRYPTION_KEY": "abcdef"})
    assert short.code == 12
    assert "abcdef" not in short.sentence


def test_the_database_is_the_only_one_of_its_network(owner: Owner) -> None:
    directory = owner.folder / "databases"
    environment = owner.environment | {"XMTP_DB_DIRECTORY": os.fspath(directory)}
    for make in (None, directory.mkdir):
        if make is not None:
            make()
        result = here("status", environment=environment)
        assert result.code == 10
        assert f"{directory}: there is no database of env local" in result.sentence
    one = directory / f"xmtp-local-{'ab' * 32}.db3"
    owner.register("a").rename(one)
    for other in (f"xmtp-dev-{'ab' * 32}.db3", f"{one.name}-wal", "xmtp-local-x.db3"):
        (directory / other).touch()
    (directory / f"{one.name}-wal").unlink()
    assert here("status", "--offline", "--json", environment=environment).json["database"] == str(one)
    (directory / f"xmtp-local-{'cd' * 32}.db3").touch()
    several = here("status", environment=environment)
    assert several.code == 2
    assert "holds 2 databases of env local: name one with --db" in several.sentence


def test_without_a_history_server(owner: Owner) -> None:
    owner.register("old")
    path = owner.register("a")
    for arguments, environment in (((), {"XMTP_HISTORY_SYNC_URL": ""}), (("--history-sync-url", ""), {})):
        shown = here(
            "status", "--db", path, "--offline", "--json", *arguments, environment=owner.environment | environment
        )
        assert shown.json["history_server"] is None
        result = here("sync", "--db", path, *arguments, environment=owner.environment | environment)
        assert result.code == 18
        assert "history server" in result.sentence


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("sync", "--timeout", "0"), "--timeout"),
        (("sync", "--start", "yesterday"), "2026-11-22"),
        (("sync", "--env", "testnet"), "--env"),
        (("sync", "--api-url", "nonsense"), "URL"),
        (("sync", "--history-sync-url", "ftp://secret/"), "URL"),
        (("keep", "--allow", "ab"), "64 hexadecimal"),
        (("keep", "--ask", "/no/such/program"), "/no/such/program"),
        (("keep", "--burst", "0"), "--burst"),
        (("keep", "--interval", "-1"), "--interval"),
        (("keep", "--max-archive-bytes", "0"), "--max-archive-bytes"),
        (("keep", "--log-level", "loud"), "--log-level"),
        (("status", "extra"), "extra"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(owner: Owner, arguments: tuple[str, ...], named: str) -> None:
    path = owner.folder / "a"
    path.touch()
    result = here(*arguments, "--db", path, environment=owner.environment)
    assert result.code == 2
    assert named in result.sentence
    assert "secret" not in result.sentence


# --- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_progress_is_shown_on_a_terminal(owner: Owner, number: signal.Signals, code: int, said: str) -> None:
    owner.register("old")
    path = owner.register("new")
    master, slave = pty.openpty()
    shown = b""
    with subprocess.Popen(
        [sys.executable, "-m", "xmtp_history", "sync", "--db", path, "--timeout", "60"],
        env={**child.environment(), **owner.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        with contextlib.suppress(OSError):
            while data := os.read(master, 65_536):
                if b"other)" in data and b"other)" not in shown:
                    process.send_signal(number)
                shown += data
        out, _ = process.communicate(timeout=child.DEADLINE_SECONDS)
    os.close(master)
    assert (process.returncode, out) == (code, b"")
    assert "Waiting for another installation (1 other)…" in shown.decode()
    assert shown.decode().rstrip().endswith(f"Error: {said}")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_the_bar_follows_a_sync(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_SHOW_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(_progress, "_ASK_EVERY_SECONDS", 0.0)
    states = [
        SyncStatus(SyncPhase.WAITING, 1, 2),
        SyncStatus(SyncPhase.DOWNLOADING, 1, 2, 100, None, 1_500_000, 3_000_000),
        SyncStatus(SyncPhase.IMPORTING, 1, 2, 200, 400, 3_000_000, 3_000_000),
    ]
    seen: list[tuple[str, float, float | None, str]] = []

    async def main() -> None:
        ended = asyncio.Event()
        remaining = iter(states)

        def status() -> SyncStatus:
            if bar._bar is not None:
                (task,) = bar._bar.tasks
                seen.append((task.description, task.completed, task.total, task.fields["records"]))
            state = next(remaining, None)
            if state is None:
                ended.set()
            return state or states[-1]

        async with bar.following(status):
            if stream.isatty():
                await ended.wait()

    with _progress.SyncBar() as bar:
        asyncio.run(main())
    if not stream.isatty():
        assert (seen, stream.getvalue()) == ([], "")
        return
    assert seen[:3] == [
        ("Waiting for another installation (2 others)…", 0, None, ""),
        ("Downloading", 1_500_000, 3_000_000, "1.5 MB, 100 records"),
        ("Importing", 200, 400, "200 records"),
    ]


@pytest.mark.parametrize("how", ["warnings", "log"])
def test_what_others_say_does_not_reach_the_terminal(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("xmtp_history.client")
    package = logging.getLogger("xmtp_history")
    before, level = [*package.handlers], package.level
    try:
        with _client_logging.warnings_shown() if how == "warnings" else contextlib.nullcontext():
            if how == "log":
                _client_logging.show_log("warning", as_json=False)
            logger.warning("installation %s does not send its history: %s", "ab", HOSTILE)
    finally:
        package.handlers[:] = before
        package.setLevel(level)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert r"does not send its history: \x1b[2Jclear" in err


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://history.example.org", "https://history.example.org"),
        ("https://history.example.org/", "https://history.example.org"),
        ("http://user:password@localhost:5558/token/", "http://localhost:5558/…"),
        ("http://[::1]:5558", "http://[::1]:5558"),
        ("http://x:port/token", "not a URL"),
        ("token", "not a URL"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert origin(url) == shown


# --- documentation -----------------------------------------------------------------------------------------------------


def options_of(command: str) -> set[str]:
    return {
        name for option in cli.commands[command].params if isinstance(option, click.Option) for name in option.opts
    } - {"--json"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str) -> None:
    text = (DOCS / "cli.md").read_text().partition("\n## Installations\n")[2].partition("\n## ")[0]
    assert sorted(name for name in options_of(command) if f"`{name}`" not in text and f"`{name} " not in text) == []


def test_the_unit_runs_what_is_there() -> None:
    unit = (DOCS / "examples" / "xmtp-history-keep.service").read_text()
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    _, command, *arguments = shlex.split(line)
    assert command == "keep"
    assert {argument for argument in arguments if argument.startswith("--")} <= options_of("keep")
    assert "XMTP_DB_DIRECTORY=/var/lib/xmtp-keep\n" in unit
    server = (DOCS / "examples" / "xmtp-history.service").read_text()
    # What hardens one hardens the other.
    assert unit.partition("UMask=")[2] == server.partition("UMask=")[2]
