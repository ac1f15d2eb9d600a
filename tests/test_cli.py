"""The command line, as a user meets it: output, exit codes, keys, interruptions, hostile content."""

from __future__ import annotations

import io
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from independent import write
from support.build import KEY, STORE_KEY, T0, consent, group, group_id, message, message_id, metadata, small
from support.data import FIXTURE_NAMES, crafted, crafted_key, fixture
from support.outcome import Outcome
from xmtp_history import History, Progress, StoreLocked
from xmtp_history.cli import _progress
from xmtp_history.cli._app import EXIT_CODES, cli
from xmtp_history.cli._output import printable

NO_KEYS = {"XMTP_ARCHIVE_KEY": None, "XMTP_DB_ENCRYPTION_KEY": None, "XMTP_TARGET_ARCHIVE_KEY": None}
NAMES = (*FIXTURE_NAMES, "legacy-shaped")
# A clear screen, a change of colour in one byte, a title, a line of its own, a reversal of direction.
HOSTILE = "\x1b[2Jclear \x9b31mred \x1b]0;title\x07 new\r\nline \u202eesrever"


def run(*args: str | Path, keys: dict[str, bytes] | None = None, stdin: bytes | None = None) -> Outcome:
    """Runs a command in this process; ``keys`` are given by environment variable."""
    env = NO_KEYS | {variable: key.hex() for variable, key in (keys or {}).items()}
    result = CliRunner().invoke(cli, [str(arg) for arg in args], env=env, input=stdin)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    outcome = Outcome(result.exit_code, result.stdout, result.stderr)
    for key in (keys or {}).values():
        assert key.hex() not in outcome.out + outcome.err
    return outcome


def archive_key(key: bytes = KEY) -> dict[str, bytes]:
    return {"XMTP_ARCHIVE_KEY": key}


def both_keys(key: bytes = KEY) -> dict[str, bytes]:
    return archive_key(key) | {"XMTP_DB_ENCRYPTION_KEY": STORE_KEY}


def start(*args: str | Path, keys: dict[str, bytes], **streams: Any) -> subprocess.Popen[bytes]:
    """Runs a command in a process of its own."""
    env = {**os.environ, **{variable: key.hex() for variable, key in keys.items()}}
    return subprocess.Popen([sys.executable, "-m", "xmtp_history", *map(str, args)], env=env, **streams)


def wait_until(condition: Any) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A small archive under ``KEY``."""
    path = tmp_path / "small.xmtp"
    path.write_bytes(write(None, KEY, small()))
    return path


@pytest.fixture
def store(store_path: Path, archive: Path) -> Path:
    """A store with the small archive in it."""
    with History.open(store_path, STORE_KEY) as history:
        history.import_archive(archive, KEY)
    return store_path


# --- inspect -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_inspect_shows_the_metadata_of_an_archive(name: str) -> None:
    known = fixture(name)
    result = run("inspect", known.path, "--json", keys=archive_key(known.key))
    assert (result.code, result.err) == (0, "")
    assert result.json["path"] == str(known.path)
    assert result.json["archive_bytes"] == known.path.stat().st_size
    assert result.json["legacy"] in {None, name == "legacy-shaped"}
    shown = result.json["metadata"]
    expected = known.expected["metadata"]
    assert shown["backup_version"] == 0
    assert shown["elements"] == [{1: "messages", 2: "consent"}[number] for number in expected["elements"]]
    assert shown["exported_at_ns"] == expected["exported_at_ns"]
    assert (shown["start_ns"], shown["end_ns"]) == (expected.get("start_ns"), expected.get("end_ns"))


def test_inspect_reads_only_the_beginning(archive: Path) -> None:
    archive.write_bytes(write(None, KEY, [metadata(), *(message(number) for number in range(20_000))])[:-1])
    assert run("inspect", archive, keys=archive_key()).code == 0
    assert run("verify", archive, keys=archive_key()).code == 13


def test_inspect_in_text(archive: Path) -> None:
    result = run("inspect", archive, keys=archive_key())
    assert result.code == 0
    assert "Exported        2023-11-14 22:13:20 UTC\n" in result.out
    assert "Sections        messages, consent\n" in result.out


def test_inspect_lists_the_newest_conversations_of_a_store(store: Path) -> None:
    keys = {"XMTP_DB_ENCRYPTION_KEY": STORE_KEY}
    result = run("inspect", "--store", store, "--json", keys=keys)
    assert result.code == 0
    assert result.json["counts"] == {"conversations": 2, "messages": 3, "consents": 2}
    assert [row["id"] for row in result.json["conversations"]] == [group_id(2), group_id(1)]
    one = run("inspect", "--store", store, "--limit", "1", keys=keys)
    assert group_id(2) in one.out
    assert group_id(1) not in one.out


# --- verify ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_verify_counts_what_is_there(name: str) -> None:
    known = fixture(name)
    result = run("verify", known.path, "--json", keys=archive_key(known.key))
    assert (result.code, result.json["ok"]) == (0, True)
    counts = known.counts
    assert result.json["counts"] == {
        "conversations": counts["groups"],
        "messages": counts["messages"],
        "consents": counts["consents"],
    }
    assert result.json["archive_bytes"] == known.path.stat().st_size


def test_verify_warns_of_a_legacy_archive() -> None:
    known = fixture("legacy-shaped")
    result = run("verify", known.path, keys=archive_key(known.key))
    assert result.code == 0
    assert result.err.startswith("Warning: ")


def test_invalid_records_fail_verify_and_import_but_not_a_lenient_import(archive: Path, store_path: Path) -> None:
    archive.write_bytes(write(None, KEY, [*small(), message(9, kind=0)]))
    checked = run("verify", archive, "--json", keys=archive_key())
    assert (checked.code, checked.json["ok"]) == (14, False)
    assert [row["kind"] for row in checked.json["invalid_records"]] == ["message"]
    assert "Invalid message in element 8" in run("verify", archive, keys=archive_key()).out

    assert run("import", archive, "--store", store_path, keys=both_keys()).code == 14
    lenient = run("import", archive, "--store", store_path, "--lenient", "--json", keys=both_keys())
    assert lenient.code == 0
    assert lenient.json["skipped"] == {"conversations": 0, "messages": 1, "consents": 0}
    assert len(lenient.json["invalid_records"]) == 1


# --- dump --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_dump_writes_every_record_in_order(name: str) -> None:
    known = fixture(name)
    result = run("dump", known.path, keys=archive_key(known.key))
    assert result.code == 0
    assert result.out.isascii()
    kinds = {"group": "conversation", "group_message": "message", "consent": "consent"}
    assert [(line["kind"], line.get("id", line.get("entity"))) for line in result.lines] == [
        (kinds[kind], record.get("id", record.get("entity"))) for kind, record in known.expected_elements()
    ]


def test_dump_decodes_content() -> None:
    known = fixture("rich-content")
    lines = run("dump", known.path, keys=archive_key(known.key)).lines
    contents = [line["content"] for line in lines if line["kind"] == "message"]
    text = next(content for content in contents if content and content.get("body") == "target message")
    assert text == {
        "type": "xmtp.org/text:1.0",
        "parameters": {"encoding": "UTF-8"},
        "fallback": None,
        "body": "target message",
    }
    assert any("body_base64" in content for content in contents if content)
    raw = [line for line in lines if line["kind"] == "message" and line["content"] is None]
    assert raw
    assert all("content_base64" in line for line in raw)


def test_a_line_of_each_kind(store: Path) -> None:
    lines = run("dump", "--store", store, keys={"XMTP_DB_ENCRYPTION_KEY": STORE_KEY}).lines
    assert [line["kind"] for line in lines] == ["conversation"] * 2 + ["message"] * 3 + ["consent"] * 2
    dm, first = lines[0], lines[2]
    assert (dm["conversation_type"], dm["membership_state"], dm["name"]) == ("dm", "restored", None)
    assert first["sent_at_ns"] == T0 + 1003
    assert first["sent_at"] == "2023-11-14T22:13:20.000001003Z"
    assert (first["message_kind"], first["delivery_status"]) == ("application", "published")
    assert (lines[-1]["entity_type"], lines[-1]["state"]) == ("inbox_id", "denied")


def test_dump_of_one_conversation(archive: Path, store: Path) -> None:
    expected = [("conversation", group_id(1)), ("message", message_id(1)), ("message", message_id(2))]
    for arguments in ([archive], ["--store", store]):
        result = run("dump", *arguments, "--conversation", group_id(1), keys=both_keys())
        assert [(line["kind"], line["id"]) for line in result.lines] == expected


def test_numbers_that_the_format_does_not_name_stay_numbers(archive: Path) -> None:
    archive.write_bytes(write(None, KEY, [metadata(1, 2, 77), message(1, kind=9)]))
    (line,) = run("dump", archive, keys=archive_key()).lines
    assert line["message_kind"] == 9
    shown = run("inspect", archive, "--json", keys=archive_key()).json
    assert shown["metadata"]["elements"] == ["messages", "consent", 77]


@pytest.mark.parametrize("name", NAMES)
def test_signing_keys_are_never_printed(name: str, store_path: Path) -> None:
    known = fixture(name)
    run("import", known.path, "--store", store_path, keys=both_keys(known.key))
    outputs = [
        run("dump", known.path, keys=archive_key(known.key)),
        run("dump", "--store", store_path, keys=both_keys()),
        run("inspect", "--store", store_path, "--json", keys=both_keys()),
    ]
    for record in known.expected["groups"]:
        secret = (
            record.get("mutable_metadata", {}).get("attributes", {}).get("_commit_log_signer", "_commit_log_signer")
        )
        assert not any(secret in output.out for output in outputs)


# --- import and export -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rich-content", "many-pages", "dms-consents", "legacy-shaped"])
def test_import_then_export_then_verify(name: str, store_path: Path, tmp_path: Path) -> None:
    known = fixture(name)
    target = tmp_path / "again.xmtp"
    imported = run("import", known.path, "--store", store_path, "--json", keys=both_keys(known.key))
    assert imported.code == 0
    repeated = run("import", known.path, "--store", store_path, "--json", keys=both_keys(known.key))
    assert set(repeated.json["new"].values()) == {0}
    exported = run("export", "--store", store_path, target, "--json", keys=both_keys())
    assert exported.code == 0
    assert exported.json["archive_bytes"] == target.stat().st_size
    verified = run("verify", target, "--json", keys=archive_key())
    assert verified.json["counts"] == exported.json["counts"]
    assert verified.json["counts"]["messages"] == imported.json["new"]["messages"]


def test_import_in_text(archive: Path, store_path: Path) -> None:
    result = run("import", archive, "--store", store_path, keys=both_keys())
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "               new  duplicate  updated  skipped\n"
        "Conversations    2          0        0        0\n"
        "Messages         3          0        0        0\n"
        "Consents         2          0        0        0\n"
    )


def test_import_counts_the_dms_of_others(archive: Path, store_path: Path) -> None:
    result = run("import", archive, "--store", store_path, "--inbox-id", "cc" * 32, "--json", keys=both_keys())
    assert result.json["foreign_dms"] == 1


def test_archives_come_from_standard_input_too(archive: Path, store_path: Path) -> None:
    data = archive.read_bytes()
    for arguments in (["inspect", "-"], ["verify", "-"], ["dump", "-"], ["import", "-", "--store", store_path]):
        result = run(*arguments, "--json", keys=both_keys(), stdin=data)
        assert (result.code, result.err) == (0, "")


def exported(store: Path, target: Path, *options: str) -> dict[str, int]:
    """What an export with these options contains."""
    result = run("export", "--store", store, target, "--force", "--json", *options, keys=both_keys())
    assert result.code == 0, result.err
    counts: dict[str, int] = result.json["counts"]
    return counts


def test_export_options(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "part.xmtp"
    everything = {"conversations": 2, "messages": 3, "consents": 2}
    assert exported(store, target) == everything
    assert exported(store, target, "--element", "messages") == everything | {"consents": 0}
    assert exported(store, target, "--element", "consent") == everything | {"conversations": 0, "messages": 0}
    # Message 1 was sent at T0 + 1001: the start is exclusive, the end inclusive.
    window = everything | {"conversations": 1, "messages": 1}
    assert exported(store, target, "--start-ns", str(T0 + 1001), "--end-ns", str(T0 + 1002)) == window
    times = ("--start", "2023-11-14T22:13:20.000001001Z", "--end", "2023-11-14T23:13:20.000001002+01:00")
    assert exported(store, target, *times) == window
    assert exported(store, target, *times, "--no-context-groups") == window | {"conversations": 0}
    assert exported(store, target, "--start", "2023-11-15") == everything | {"conversations": 0, "messages": 0}


def test_export_leaves_out_what_disappears(archive: Path, store_path: Path, tmp_path: Path) -> None:
    lasting = {"message_disappear_from_ns": 1, "message_disappear_in_ns": 2**62}
    archive.write_bytes(write(None, KEY, [metadata(), group(1, **lasting), group(2), message(1, 1), message(2, 2)]))
    assert run("import", archive, "--store", store_path, keys=both_keys()).code == 0
    assert exported(store_path, tmp_path / "all.xmtp")["messages"] == 2
    assert exported(store_path, tmp_path / "lasting.xmtp", "--exclude-disappearing")["messages"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--start", "yesterday"),
        ("--start", "20231114"),
        ("--start", "2023-11-14T22:13:20.0000010011Z"),
        ("--end", "2263-01-01"),
        ("--end-ns", str(2**63)),
        ("--start", "2023-11-14", "--start-ns", "1"),
        ("--element", "events"),
    ],
)
def test_export_refuses_options_that_make_no_sense(store: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run("export", "--store", store, tmp_path / "never.xmtp", *options, keys=both_keys())
    assert result.code == 2
    assert not (tmp_path / "never.xmtp").exists()


def test_existing_files_are_replaced_only_with_force(archive: Path, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    for command in (["export", "--store", store], ["rewrite", archive]):
        target.write_text("precious")
        keys = both_keys() | {"XMTP_TARGET_ARCHIVE_KEY": STORE_KEY}
        refused = run(*command, target, keys=keys)
        assert refused.code == 16
        assert target.read_text() == "precious"
        assert run(*command, target, "--force", keys=keys).code == 0
        assert target.read_bytes()[:2] == b"\0\0"


def test_a_store_is_not_exported_onto_itself(store: Path) -> None:
    assert run("export", "--store", store, store, "--force", keys=both_keys()).code == 2
    assert run("inspect", "--store", store, keys=both_keys()).code == 0


def test_rewrite_gives_a_legacy_archive_a_new_key(tmp_path: Path) -> None:
    known, target = fixture("legacy-shaped"), tmp_path / "new.xmtp"
    keys = {"XMTP_ARCHIVE_KEY": known.key, "XMTP_TARGET_ARCHIVE_KEY": KEY}
    assert run("rewrite", known.path, target, keys=keys).code == 0
    assert run("verify", target, keys=archive_key(known.key)).code == 12
    new = run("verify", target, "--json", keys=archive_key())
    assert (new.json["legacy"], new.json["counts"]["messages"]) == (False, known.counts["messages"])
    before = run("dump", known.path, keys=archive_key(known.key))
    assert run("dump", target, keys=archive_key()).out == before.out


# --- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [KEY, KEY.hex().encode(), KEY.hex().upper().encode() + b"\n", b"0x" + KEY.hex().encode() + b"\r\n"],
    ids=["raw", "hex", "line", "prefix"],
)
def test_key_files(archive: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    result = run("verify", archive, "--key-file", file)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    "content",
    [b"", KEY[:31], KEY + b"\n", KEY.hex().encode()[:63], b"z" * 64, KEY.hex().encode() * 9],
)
def test_malformed_keys_are_not_repeated(archive: Path, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    file.chmod(0o600)
    result = run("verify", archive, "--key-file", file)
    assert result.code == 12
    assert result.err.count("\n") == 1
    assert "zzz" not in result.err
    assert KEY.hex()[:8] not in result.err


def test_keys_from_the_environment_must_be_hexadecimal(archive: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(archive)], env=NO_KEYS | {"XMTP_ARCHIVE_KEY": "not so secret"})
    assert result.exit_code == 12
    assert "not so secret" not in result.output


def test_a_key_file_goes_before_the_environment(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY)
    file.chmod(0o600)
    assert run("verify", archive, "--key-file", file, keys=archive_key(STORE_KEY)).code == 0


def test_a_missing_key_is_asked_for_in_one_sentence(archive: Path, store: Path) -> None:
    result = run("verify", archive)
    assert (result.code, result.err) == (
        12,
        "Error: no key for the archive: give --key-file FILE or set XMTP_ARCHIVE_KEY\n",
    )
    result = run("export", "--store", store, archive.with_name("new.xmtp"), keys=archive_key())
    assert (result.code, result.err) == (
        12,
        "Error: no key for the store: give --store-key-file FILE or set XMTP_DB_ENCRYPTION_KEY\n",
    )


def test_a_key_file_that_others_may_read_gets_a_warning(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(KEY)
    file.chmod(0o640)
    result = run("verify", archive, "--key-file", file)
    assert result.code == 0
    assert result.err.startswith("Warning: other users may read the key file")


def test_keygen(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.key"
    result = run("keygen", file)
    key = bytes.fromhex(file.read_text())
    assert result.code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(key) == 32
    assert key.hex() not in result.out
    assert run("keygen", file).code == 16
    assert bytes.fromhex(file.read_text()) == key
    assert run("verify", archive, "--key-file", file).code == 12


# --- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ok", 0),
        ("version1", 11),
        ("not_zstd", 11),
        ("flip_nonce", 12),
        ("empty_file", 13),
        ("flip_el1_tag", 13),
        ("trail_plain1", 13),
        ("trailing_garbage", 13),
        ("len_ffffffff", 13),
        ("rec_dm_no_dmid", 14),
    ],
)
def test_crafted_archives(name: str, code: int, archive: Path) -> None:
    archive.write_bytes(crafted(name).data)
    assert run("verify", archive, keys=archive_key(crafted_key())).code == code


def test_damage_has_its_codes(archive: Path) -> None:
    data = archive.read_bytes()
    for damaged, code in (
        (data[:-1], 13),
        (data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], 13),
        (data + b"more", 13),
        (b"\x07\0" + data[2:], 11),
        (b"SQLite format 3\0" * 8, 11),
    ):
        archive.write_bytes(damaged)
        result = run("verify", archive, keys=archive_key())
        assert result.code == code
        assert result.out == ""
        assert result.err.startswith("Error: ")
        assert result.err.count("\n") == 1


def test_other_failures_have_their_codes(archive: Path, store: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    wrong = both_keys(STORE_KEY) | {"XMTP_DB_ENCRYPTION_KEY": KEY}
    for arguments, keys, code in (
        (["inspect", missing], both_keys(), 10),
        (["verify", archive, "--key-file", missing], both_keys(), 10),
        (["dump", "--store", missing], both_keys(), 10),
        (["export", "--store", missing, tmp_path / "new.xmtp"], both_keys(), 10),
        (["export", "--store", store, missing / "new.xmtp"], both_keys(), 10),
        (["verify", tmp_path], both_keys(), 1),
        (["inspect", archive], wrong, 12),
        (["inspect", "--store", store], wrong, 12),
        (["inspect"], both_keys(), 2),
        (["dump", archive, "--store", store], both_keys(), 2),
        (["dump", "--store", store, "--conversation", "general"], both_keys(), 2),
        (["import", archive, "--store", store, "--inbox-id", "0x12"], both_keys(), 2),
        (["export", "--store", store, "-"], both_keys(), 2),
        (["unknown"], both_keys(), 2),
    ):
        result = run(*arguments, keys=keys)
        assert result.code == code, arguments
        assert "Error: " in result.err
        assert "Traceback" not in result.err
    assert not missing.exists()


def test_a_wrong_archive_leaves_no_new_store_behind(archive: Path, store_path: Path) -> None:
    assert run("import", archive, "--store", store_path, keys=both_keys(STORE_KEY)).code == 12
    assert run("import", archive.with_name("x"), "--store", store_path, keys=both_keys()).code == 10
    assert not store_path.exists()


def test_a_locked_store_has_its_code(archive: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(*_args: object, **_options: object) -> None:
        raise StoreLocked("somebody else is writing")

    monkeypatch.setattr(History, "import_archive", locked)
    assert run("import", archive, "--store", store, keys=both_keys()).code == 15


def test_every_error_of_the_package_has_a_code() -> None:
    import xmtp_history

    errors = [
        value for value in vars(xmtp_history).values() if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert errors
    assert all(any(ancestor in EXIT_CODES for ancestor in error.__mro__) for error in errors)


# --- interruptions -----------------------------------------------------------------------------------------------------


def test_a_reader_that_stops_is_no_error(archive: Path) -> None:
    archive.write_bytes(write(None, KEY, [metadata(), *(message(number) for number in range(2_000))]))
    with start("dump", archive, keys=archive_key(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b'{"kind": "message"')
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported(archive: Path) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        start("inspect", archive, keys=archive_key(), stdout=full, stderr=subprocess.PIPE) as process,
    ):
        assert process.stderr is not None
        assert process.stderr.read() == b"Error: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    data = write(None, KEY, [metadata(), *(message(number) for number in range(50_000))])
    work = tmp_path / "work"
    work.mkdir()
    keys = archive_key() | {"XMTP_TARGET_ARCHIVE_KEY": STORE_KEY}
    # The archive never ends, so the command is in the middle of its work for as long as it takes.
    with start("rewrite", "-", work / "new", keys=keys, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[:-1])
        process.stdin.flush()
        wait_until(lambda: any(work.iterdir()))
        process.send_signal(number)
        assert process.stderr is not None
        assert process.stderr.read().count(b"\n") == 1
    assert process.returncode == code
    assert list(work.iterdir()) == []


def test_an_interrupted_import_changes_nothing(store: Path) -> None:
    data = write(None, KEY, [metadata(), *(message(number) for number in range(50_000))])
    with start("import", "-", "--store", store, keys=both_keys(), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        # Returns when the command has taken almost all of it.
        process.stdin.write(data[:-1])
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    shown = run("inspect", "--store", store, "--json", keys=both_keys())
    assert shown.json["counts"] == {"conversations": 2, "messages": 3, "consents": 2}


# --- terminals ---------------------------------------------------------------------------------------------------------


def test_hostile_names_do_not_reach_the_terminal(archive: Path, store_path: Path) -> None:
    attributes = {"group_name": HOSTILE}
    archive.write_bytes(write(None, KEY, [metadata(), group(1, attributes=attributes), consent(group_id(1))]))
    run("import", archive, "--store", store_path, keys=both_keys())
    text = run("inspect", "--store", store_path, keys=both_keys())
    assert all(line.isprintable() for line in text.out.splitlines())
    assert r"\x1b[2Jclear \x9b31mred" in text.out
    (line, _) = run("dump", "--store", store_path, keys=both_keys()).lines
    assert line["name"] == HOSTILE


def test_ordinary_text_stays_readable() -> None:
    family = "\N{WOMAN}\u200d\N{GIRL}"
    assert printable(f"naïve 日本語 {family}") == f"naïve 日本語 {family}"
    assert printable(HOSTILE).isprintable()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_the_progress_bar_is_for_terminals(stream: io.StringIO, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(_progress, "_SHOW_AFTER_SECONDS", 0.0)
    with _progress.ProgressBar() as bar:
        bar(Progress("import", 1_234, None, 50, 100))
    assert ("Importing" in stream.getvalue()) is drawn


# --- installation ------------------------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_the_extra_the_command_says_what_to_install() -> None:
    result = python("import sys; sys.modules['click'] = None; from xmtp_history.__main__ import main; main()")
    assert result.returncode == 1
    assert result.stderr.endswith("pip install 'xmtp-history[cli]'\n")
    assert result.stderr.count("\n") == 1


def test_the_library_needs_no_command_line() -> None:
    result = python("import sys, xmtp_history; print({'click', 'rich'} & set(sys.modules))")
    assert result.stdout == "set()\n"


def test_help_draws_on_little() -> None:
    assert "rich" not in python("import sys, xmtp_history.cli._app; print(*sys.modules)").stdout.split()
    assert run("--help").code == 0
    assert run("--version").out.startswith("xmtp-history ")
