"""``xmtp-history serve``, as an operator meets it: configured, started, used, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support import child
from support.command import Running, serving, start
from xmtp_history import ServerLimits
from xmtp_history.cli import _serve_options

ANY_PORT = ("--port", "0", "--metrics-port", "0")
NAME = "XMTP_HISTORY_SERVER_"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has never configured anything."""
    return {"HOME": os.fspath(tmp_path), "XDG_DATA_HOME": os.fspath(tmp_path / "data")}


def run(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    with start("serve", *map(os.fspath, arguments), environment=environment) as process:
        out, err = process.communicate(timeout=child.DEADLINE_SECONDS)
        return process.returncode, out, err


def config(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    code, out, err = run(*arguments, "--print-config", environment=environment)
    assert (code, err) == (0, "")
    return tomllib.loads(out)


def fetch(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, body, timeout=30) as answer:  # noqa: S310 - a URL of ours
        content: bytes = answer.read()
    return content


def one_sentence(err: str) -> str:
    """What is said of an error is one line, and no traceback; with wrong usage, below how to use the command."""
    lines = err.splitlines()
    assert lines[-1].startswith("Error: "), err
    assert len(lines) == 1 or lines[0].startswith("Usage: xmtp-history serve"), err
    assert "Traceback" not in err
    return lines[-1].removeprefix("Error: ")


# --- starting and stopping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_serves_without_any_configuration(home: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with serving("serve", *ANY_PORT, environment=home) as running:
        url, archives = running.urls["history_sync_url"], tmp_path / "data" / "xmtp-history" / "archives"
        assert running.urls["storage"] == str(archives)
        file_id = fetch(f"{url}/upload", b"archive").decode()
        assert fetch(f"{url}/files/{file_id}") == b"archive"
        assert b"xmtp_history_files 1.0" in fetch(running.urls["metrics_url"])
        assert (archives / file_id[:2] / file_id).exists()
        code, err = running.stop(number)
        assert code == 0
        assert [json.loads(line) for line in err.splitlines()]
    # It is there after the next start.
    with serving("serve", *ANY_PORT, environment=home) as running:
        assert fetch(f"{running.urls['history_sync_url']}/files/{file_id}") == b"archive"


def test_without_a_directory_for_data_it_is_below_the_home(home: dict[str, str], tmp_path: Path) -> None:
    found = config(environment=home | {"XDG_DATA_HOME": ""})
    assert found["storage"] == str(tmp_path / ".local" / "share" / "xmtp-history" / "archives")
    assert not (tmp_path / ".local").exists(), "printing changes nothing"


def test_text_says_where_and_how_to_stop(home: dict[str, str], tmp_path: Path) -> None:
    for arguments, metrics in ((ANY_PORT, "http://"), (("--port", "0", "--no-metrics"), "none")):
        with start("serve", *arguments, environment=home) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=child.DEADLINE_SECONDS)
        values = dict(line.rstrip("\n").split("  ", 1) for line in lines[:3])
        assert {name: value.strip() for name, value in values.items()} == {
            "history server": values["history server"].strip(),
            "metrics": values["metrics"].strip(),
            "storage": str(tmp_path / "data" / "xmtp-history" / "archives"),
        }
        assert values["history server"].strip().startswith("http://")
        assert values["metrics"].strip().startswith(metrics)
        assert lines[3] == "Press Ctrl-C to stop.\n"


@contextlib.contextmanager
def _unfinished(running: Running) -> Iterator[socket.socket]:
    """An upload that is going on."""
    host, _, port = running.urls["history_sync_url"].removeprefix("http://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=30) as connection:
        connection.sendall(b"POST /upload HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"100000\r\n" + bytes(2**20) + b"\r\n")
        folder = Path(running.urls["storage"]) / "partial"
        deadline = time.monotonic() + child.DEADLINE_SECONDS
        while not list(folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield connection


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_transfer_that_is_going_on_may_end(home: dict[str, str], number: signal.Signals) -> None:
    with serving("serve", *ANY_PORT, environment=home) as running, _unfinished(running) as connection:
        running.process.send_signal(number)
        _wait_until_it_stops(running)
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        running.process.communicate(timeout=child.DEADLINE_SECONDS)
        assert running.process.returncode == 0
        assert len([path for path in Path(running.urls["storage"]).rglob("*") if path.is_file()]) == 1


def _wait_until_it_stops(running: Running) -> None:
    """Until nobody new is let in."""
    deadline = time.monotonic() + child.DEADLINE_SECONDS
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            fetch(running.urls["history_sync_url"])
            time.sleep(0.01)
    assert running.process.poll() is None


@pytest.mark.parametrize("how", ["second signal", "time"])
def test_a_transfer_that_does_not_end_is_broken_off(home: dict[str, str], how: str) -> None:
    patience = "0.2s" if how == "time" else "1h"
    with (
        serving("serve", *ANY_PORT, "--shutdown-timeout", patience, environment=home) as running,
        _unfinished(running) as connection,
    ):
        running.process.send_signal(signal.SIGTERM)
        if how == "second signal":
            _wait_until_it_stops(running)
            running.process.send_signal(signal.SIGTERM)
        running.process.communicate(timeout=child.DEADLINE_SECONDS)
        assert running.process.returncode == 0
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65_536) == b""
        assert [path for path in Path(running.urls["storage"]).rglob("*") if path.is_file()] == []


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--port", "65536"), "--port"),
        (("--port", "x"), "--port"),
        (("--max-file-bytes", "many"), "500MB"),
        (("--max-file-bytes", "-1"), "500MB"),
        (("--max-file-bytes", "1XB"), "500MB"),
        (("--max-total-bytes", ""), "500MB or none"),
        (("--min-free-bytes", "none"), "500MB"),
        (("--retention", "soon"), "7d"),
        (("--retention", "0"), "retention_seconds must be positive"),
        (("--sweep", "0s"), "sweep_seconds must be positive"),
        (("--idle-timeout", "none"), "30s"),
        (("--max-uploads", "1.5"), "whole number"),
        (("--max-uploads", "none"), "whole number"),
        (("--uploads-per-minute", "-1"), "whole number or none"),
        (("--prefix", "history"), "prefix must begin with a slash"),
        (("--trusted-proxy", "localhost"), "localhost"),
        (("--token-for-downloads",), "upload_tokens"),
        (("--redirect",), "--redirect needs a bucket"),
        (("--storage", "s3://bucket", "--redirect", "--delete-after-download"), "leave out --delete-after-download"),
        (("--storage", "ftp://host/path"), "s3://"),
        (("--log-level", "loud"), "--log-level"),
        (("--unknown",), "--unknown"),
        (("extra",), "extra"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage(home: dict[str, str], arguments: tuple[str, ...], named: str) -> None:
    code, out, err = run(*ANY_PORT[2:], *arguments, environment=home)
    assert (code, out) == (2, "")
    assert named in one_sentence(err)


def test_a_port_in_use_is_refused(home: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        here = ("--host", "127.0.0.1", "--metrics-host", "127.0.0.1")
        for arguments in (("--port", port, "--metrics-port", "0"), ("--port", "0", "--metrics-port", port)):
            code, out, err = run(*here, *arguments, environment=home)
            assert (code, out) == (1, "")
            assert port in one_sentence(err)


def test_a_storage_that_is_no_directory_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    for place in (file, file / "below"):
        code, out, err = run(*ANY_PORT, "--storage", place, environment=home)
        assert (code in {1, 16}, out) == (True, "")
        assert str(file) in one_sentence(err)
    assert file.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = ", "is not TOML"),
        ("prot = 5558", "unknown setting: prot"),
        ("config = 'x'", "unknown setting: config"),
        ("print-config = true", "unknown setting: print_config"),
        ("json = true", "unknown setting: json"),
        ("port = 'x'", "--port"),
        ("max-file-bytes = 'many'", "500MB"),
        ("retention = true", "7d"),
        ("[limits]\nmax-uploads = 1", "unknown setting: limits"),
        ("delete-after-download = 'maybe'", "--delete-after-download"),
    ],
)
def test_a_file_that_is_wrong_is_refused(home: dict[str, str], tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    code, out, err = run("--config", file, environment=home)
    assert (code, out) == (2, "")
    assert named in one_sentence(err)


def test_a_file_that_is_missing_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    for option, expected in (("--config", 10), ("--upload-tokens", 10)):
        code, out, err = run(*ANY_PORT, option, tmp_path / "missing", environment=home)
        assert (code, out) == (expected, "")
        assert "missing" in one_sentence(err)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_library() -> None:
    limits = ServerLimits()
    for limit in _serve_options.LIMITS:
        assert limit.kind.convert(limit.default, None, None) == getattr(limits, limit.field), limit.field
    assert {limit.field for limit in _serve_options.LIMITS} == set(ServerLimits.__dataclass_fields__)


def test_flags_go_before_the_environment_and_that_before_the_file(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('port = 1\nmetrics-port = 1\nmax-uploads = 1\nprefix = "/file"\ntrusted-proxy = ["10.0.0.1"]\n')
    environment = home | {f"{NAME}PORT": "2", f"{NAME}METRICS_PORT": "2", f"{NAME}STORAGE": "/environment"}
    found = config("--config", file, "--port", "3", environment=environment)
    expected = {"port": 3, "metrics_port": 2, "max_uploads": 1, "prefix": "/file", "storage": "/environment"}
    assert {name: found[name] for name in expected} == expected
    assert found["trusted_proxy"] == ["10.0.0.1"]


def test_the_file_may_be_named_by_the_environment(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("port = 1")
    assert config(environment=home | {f"{NAME}CONFIG": str(file)})["port"] == 1


OPTIONS: dict[str, tuple[str, object]] = {
    "storage": ("/somewhere", "/somewhere"),
    "host": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - nobody listens
    "port": ("1234", 1234),
    "prefix": ("/below", "/below"),
    "metrics_host": ("::1", "::1"),
    "metrics_port": ("1235", 1235),
    "no_metrics": ("true", True),
    "retention": ("none", "none"),
    "resumable_retention": ("1.5h", 5_400),
    "sweep": ("90", 90),
    "delete_after_download": ("true", True),
    "upload_tokens": ("/tokens.toml", "/tokens.toml"),
    "token_for_downloads": ("true", True),
    "trusted_proxy": ("10.0.0.0/8", ["10.0.0.0/8"]),
    "redirect": ("true", True),
    "redirect_lifetime": ("2min", 120),
    "spool": ("/spool", "/spool"),
    "max_file_bytes": ("500MB", 500_000_000),
    "max_total_bytes": ("1.5 GiB", 3 * 2**29),
    "min_free_bytes": ("0", 0),
    "max_uploads": ("5", 5),
    "max_uploads_per_client": ("6", 6),
    "uploads_per_minute": ("none", "none"),
    "max_downloads": ("8", 8),
    "max_connections": ("7", 7),
    "head_timeout": ("1m", 60),
    "idle_timeout": ("0.5s", 0.5),
    "min_bytes_per_second": ("0", 0),
    "stall_timeout": ("1d", 86_400),
    "keep_alive_timeout": ("2h", 7_200),
    "shutdown_timeout": ("0", 0),
    "log_level": ("debug", "debug"),
    "log_format": ("text", "text"),
}
_FLAGS = {name for name, (text, _) in OPTIONS.items() if text == "true"}


def test_all_three_ways_have_the_same_names(home: dict[str, str], tmp_path: Path) -> None:
    """And what is printed is understood again."""
    file = tmp_path / "config.toml"
    expected = {name: value for name, (_, value) in OPTIONS.items()}
    flags = [f"--{name.replace('_', '-')}" + ("" if name in _FLAGS else f"={OPTIONS[name][0]}") for name in OPTIONS]
    assert config(*flags, environment=home) == expected
    by_name = {f"{NAME}{name.upper()}": text for name, (text, _) in OPTIONS.items()}
    assert config(environment=home | by_name) == expected
    for style in (str, lambda name: name.replace("_", "-")):
        lines = []
        for name, (text, value) in OPTIONS.items():
            written = json.dumps(value if name in _FLAGS or isinstance(value, list) else text)
            lines.append(f"{style(name)} = {written}\n")
        file.write_text("".join(lines))
        assert config("--config", file, environment=home) == expected


def test_what_is_printed_gives_the_same_again(home: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    strange = '/a "quoted" path\\with\ttabs and ümläuts'
    for arguments in ((), ("--storage", strange, "--retention", "none", "--idle-timeout", "0.123456789s")):
        code, out, err = run(*arguments, "--print-config", environment=home)
        assert (code, err) == (0, "")
        file.write_text(out, encoding="utf-8")
        assert run("--config", file, "--print-config", environment=home) == (0, out, "")
    assert config("--config", file, environment=home)["storage"] == strange


def test_what_is_configured_is_what_happens(home: dict[str, str], tmp_path: Path) -> None:
    tokens, file = tmp_path / "tokens.toml", tmp_path / "config.toml"
    tokens.write_text('[tokens.fleet]\ntoken = "0123456789abcdef"\n')
    file.write_text(
        f'port = 0\nno-metrics = true\nprefix = "/below"\nmax-file-bytes = "10B"\nupload-tokens = "{tokens}"\n'
    )
    with serving("serve", "--config", os.fspath(file), environment=home) as running:
        url = running.urls["history_sync_url"]
        assert running.urls["metrics_url"] is None
        assert url.endswith("/below")
        for path, size, expected in (("/upload", 1, 401), ("/t/0123456789abcdef/upload", 11, 413)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                fetch(url + path, bytes(size))
            caught.value.close()
            assert caught.value.code == expected
        assert len(fetch(f"{url}/t/0123456789abcdef/upload", bytes(10))) == 36


# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_format", ["json", "auto", "text"])
def test_logs(home: dict[str, str], log_format: str) -> None:
    arguments = ("--log-format", log_format, "--log-level", "info", *ANY_PORT)
    with serving("serve", *arguments, environment=home) as running:
        url = running.urls["history_sync_url"]
        file_id = fetch(f"{url}/upload?secret=1", b"archive").decode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(f"{url}/files/{file_id[:-1]}?secret=1")
        caught.value.close()
        code, err = running.stop()
    assert code == 0
    assert file_id not in err
    assert "secret" not in err
    if log_format == "text":
        assert f"id={file_id[:8]}" in err
        assert "status=404" in err
        return
    lines = [json.loads(line) for line in err.splitlines()]
    assert all({"time", "level", "logger"} <= line.keys() for line in lines)
    first, second = [line for line in lines if line["logger"] == "xmtp_history.server.requests"]
    assert (first["route"], first["method"], first["status"], first["received"]) == ("upload", "POST", 200, 7)
    assert first["id"] == file_id[:8]
    assert (second["route"], second["status"]) == ("file", 404)
    assert any("stopping" in line.get("message", "") for line in lines)


def test_a_quiet_server_logs_no_requests(home: dict[str, str]) -> None:
    with serving("serve", "--log-level", "warning", *ANY_PORT, environment=home) as running:
        fetch(f"{running.urls['history_sync_url']}/upload", b"archive")
        assert running.stop() == (0, "")


# --- buckets ---------------------------------------------------------------------------------------------------------

#: Nothing of the machine's own configuration.
NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret-0123456789",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


def test_a_bucket_needs_a_package(home: dict[str, str], tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "obstore.py").write_text("raise ImportError('blocked')\n")
    path = os.pathsep.join([os.fspath(blocked), child.environment()["PYTHONPATH"]])
    code, out, err = run(*ANY_PORT, "--storage", "s3://bucket", environment=home | {"PYTHONPATH": path})
    assert (code, out) == (2, "")
    assert "pip install 'xmtp-history[s3]'" in one_sentence(err)


def test_a_bucket_that_is_not_reached_is_refused_in_time(home: dict[str, str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        began = time.monotonic()
        code, out, err = run(*ANY_PORT, "--storage", "s3://bucket/prefix", environment=home | NO_CREDENTIALS | endpoint)
    assert time.monotonic() - began < child.DEADLINE_SECONDS
    assert (code, out) == (1, "")
    sentence = one_sentence(err)
    assert len(sentence) > 10
    assert "secret-0123456789" not in err


def test_a_bucket_works(home: dict[str, str], tmp_path: Path) -> None:
    from support.s3 import s3_server

    with s3_server(tmp_path / "s3") as s3:
        environment = home | s3.environment()
        with serving("serve", *ANY_PORT, "--storage", s3.url, environment=environment) as running:
            url = running.urls["history_sync_url"]
            file_id = fetch(f"{url}/upload", b"archive").decode()
            assert fetch(f"{url}/files/{file_id}") == b"archive"
            code, err = running.stop()
            assert code == 0
            assert s3.secret_key not in err
        assert not (tmp_path / "data").exists(), "nothing is kept here"


def test_the_command_is_in_the_path() -> None:
    program = shutil.which("xmtp-history")
    if program is None:
        pytest.skip("the package is not installed")
    shown = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for name in OPTIONS:
        assert f"--{name.replace('_', '-')}" in shown
