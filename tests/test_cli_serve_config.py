"""The configuration of ``xmtp-history serve``: flags, environment and file, and what is printed of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.command import serving
from support.serve_command import fetch, fresh_home, one_sentence, run
from xmtp_history import ServerLimits
from xmtp_history.cli import _serve_options

NAME = "XMTP_HISTORY_SERVER_"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return fresh_home(tmp_path)


def config(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    code, out, err = run(*arguments, "--print-config", environment=environment)
    assert (code, err) == (0, "")
    return tomllib.loads(out)


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


def test_the_command_is_installed() -> None:
    program = Path(sys.executable).with_name("xmtp-history")
    shown = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for name in OPTIONS:
        assert f"--{name.replace('_', '-')}" in shown
