"""``xmtp-history serve``, as an operator meets it: configured, started, used, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import tomllib
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import child
from support.command import Running, serving, start
from support.serve_command import fetch, fresh_home, one_sentence, run

ANY_PORT = ("--port", "0", "--metrics-port", "0")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return fresh_home(tmp_path)


# --- starting and stopping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_serves_without_any_configuration(home: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    with serving("serve", *ANY_PORT, environment=home) as running:
        url, archives = running.urls["history_sync_url"], tmp_path / "data" / "xmtp-history" / "archives"
        assert running.urls["storage"] == str(archives)
        file_id = fetch(f"{url}/upload", b"archive").decode()
        assert fetch(f"{url}/files/{file_id}") == b"archive"
        assert b"\nxmtp_history_files " in fetch(running.urls["metrics_url"])
        assert (archives / file_id[:2] / file_id).exists()
        code, err = running.stop(number)
        assert code == 0
        assert [json.loads(line) for line in err.splitlines()]
    # It is there after the next start.
    with serving("serve", *ANY_PORT, environment=home) as running:
        assert fetch(f"{running.urls['history_sync_url']}/files/{file_id}") == b"archive"


def test_without_a_directory_for_data_it_is_below_the_home(home: dict[str, str], tmp_path: Path) -> None:
    code, out, _ = run("--print-config", environment=home | {"XDG_DATA_HOME": ""})
    assert code == 0
    assert tomllib.loads(out)["storage"] == str(tmp_path / ".local" / "share" / "xmtp-history" / "archives")
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


def test_a_file_that_is_missing_is_refused(home: dict[str, str], tmp_path: Path) -> None:
    for option, expected in (("--config", 10), ("--upload-tokens", 10)):
        code, out, err = run(*ANY_PORT, option, tmp_path / "missing", environment=home)
        assert (code, out) == (expected, "")
        assert "missing" in one_sentence(err)


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
