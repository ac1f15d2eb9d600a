"""The documentation says what is there: options, variables, metrics, errors, links and examples."""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import xmtp_history
import xmtp_history.client
from support.history_server import serving
from xmtp_history.cli._app import cli
from xmtp_history.cli._serve_command import serve
from xmtp_history.testing import LocalXmtp, run_local_xmtp

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
SERVER = ROOT / "docs" / "history-server.md"
OPERATIONS = ROOT / "docs" / "operations.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
INSTALLATION = ROOT / "docs" / "installation.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], key=str)
SOURCES = Path(xmtp_history.__file__).parent / "server"

#: What serve.toml sets to something else than the default.
OUR_CHOICE = {"storage", "trusted_proxy", "max_total_bytes", "min_free_bytes"}

#: What makes an error that clients see.
MAKES_ERRORS = {"Refused", "unavailable", "too_many"}

_METRIC = re.compile(r"\bxmtp_history_[a-z_]+[a-z]")
_LINK = re.compile(r"\]\(([^)#\s:]*)(#[^)\s]+)?\)")


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def configured(*arguments: str) -> dict[str, object]:
    """What ``serve --print-config`` says."""
    result = CliRunner().invoke(cli, ["serve", "--print-config", *arguments])
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.output)


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def metrics(path: Path) -> set[str]:
    async def get() -> str:
        async with serving(path, metrics_port=0, max_total_bytes=1) as (server, client):
            assert server.metrics_url is not None
            async with client.get(server.metrics_url) as response:
                return await response.text()

    found = re.findall(r"^# HELP (\S+)", asyncio.run(get()), re.MULTILINE)
    return {name for name in found if not name.endswith("_created")}


def test_every_option_of_serve_is_documented() -> None:
    text = SERVER.read_text()
    options = {name for option in serve.params if isinstance(option, click.Option) for name in option.opts}
    assert sorted(name for name in options if f"`{name}`" not in text and f"`{name} " not in text) == []


def test_every_variable_in_the_documentation_is_one_of_an_option() -> None:
    variables = {f"XMTP_HISTORY_SERVER_{option.name}".upper() for option in serve.params}
    for page in [*PAGES, *EXAMPLES.iterdir()]:
        if page.is_file():
            assert set(re.findall(r"XMTP_HISTORY_SERVER_\w+", page.read_text())) - {"XMTP_HISTORY_SERVER_"} <= variables


def test_metrics_are_documented_and_no_others(tmp_path: Path) -> None:
    there = metrics(tmp_path)
    assert set(re.findall(r"^\| `(xmtp_history_\w+)`", OPERATIONS.read_text(), re.MULTILINE)) == there
    assert set(_METRIC.findall((EXAMPLES / "alerts.yml").read_text())) <= there


def test_every_kind_of_error_is_documented() -> None:
    kinds = set()
    for source in SOURCES.glob("*.py"):
        for call in ast.walk(ast.parse(source.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in MAKES_ERRORS:
                values = (one.value for one in call.args if isinstance(one, ast.Constant))
                kinds.update([value for value in values if isinstance(value, str)][:1])
    documented = set(re.findall(r"^\| \d{3} \| `([a-z-]+)` \|", SERVER.read_text(), re.MULTILINE))
    assert documented == kinds


def test_the_complete_configuration_is_one() -> None:
    given = tomllib.loads((EXAMPLES / "serve.toml").read_text())
    commented = re.findall(r"^# (\w+) = ", (EXAMPLES / "serve.toml").read_text(), re.MULTILINE)
    assert {*given, *commented} == {option.name for option in serve.params} - {"config", "print_config", "as_json"}
    ours, default = configured("--config", str(EXAMPLES / "serve.toml")), configured()
    assert {name for name in {*ours, *default} if ours.get(name) != default.get(name)} == OUR_CHOICE


def test_the_other_examples_parse() -> None:
    rules = json.loads((EXAMPLES / "s3-lifecycle.json").read_text())["Rules"]
    assert len({rule["ID"] for rule in rules}) == len(rules)
    alerts = (EXAMPLES / "alerts.yml").read_text()
    assert "\t" not in alerts
    assert alerts.count("- alert: ") == alerts.count("expr: ") == alerts.count("summary: ")
    unit = (EXAMPLES / "xmtp-history.service").read_text()
    assert re.findall(r"^\[(\w+)\]$", unit, re.MULTILINE) == ["Unit", "Service", "Install"]
    proxy = (EXAMPLES / "nginx.conf").read_text()
    assert proxy.count("{") == proxy.count("}")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in _LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor[1:] in anchors(target), path + anchor


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_examples_in_the_text_parse(page: Path) -> None:
    text = page.read_text()
    for code in _blocks("python", text):
        compile(code, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for code in _blocks("toml", text):
        tomllib.loads(code)
    for code in _blocks("json", text):
        for one in re.split(r"\n(?=\{)", code):
            json.loads(one)


# --- installations ----------------------------------------------------------------------------------------------------


def test_the_ten_lines_of_the_readme_sync_an_installation_and_open_it_again(tmp_path: Path) -> None:
    (code,) = (code for code in _blocks("python", (ROOT / "README.md").read_text()) if "Client.create" in code)
    assert len([line for line in code.splitlines() if line]) <= 10
    assert 'env="local"' in code
    (tmp_path / "store.key").write_text("12" * 32)
    key = "0x" + "34" * 32
    account = {**os.environ, "XMTP_WALLET_KEY": key}

    async def other_device(running: LocalXmtp) -> list[subprocess.CompletedProcess[str]]:
        places = {"api_url": running.node_url, "history_sync_url": running.history_sync_url}
        wallet = xmtp_history.EoaSigner.from_key(key)
        async with await xmtp_history.Client.create(wallet, env="local", db_path=None, **places):
            named = ", ".join(f"{name}={url!r}" for name, url in places.items())
            command = [sys.executable, "-c", code.replace('env="local"', f'env="local", {named}')]
            return [
                await asyncio.to_thread(
                    subprocess.run, command, cwd=tmp_path, env=account, capture_output=True, check=False, text=True
                )
                for _ in range(2)
            ]

    with run_local_xmtp() as running:
        runs = asyncio.run(other_device(running))
    assert [(run.returncode, run.stderr) for run in runs] == [(0, "")] * 2
    inbox_id, installation_id, _ = runs[0].stdout.split(" ", 2)
    assert [len(inbox_id), len(installation_id)] == [64, 64]
    assert runs[1].stdout.split(" ", 2)[:2] == [inbox_id, installation_id]


def test_what_the_page_on_installations_calls_is_there() -> None:
    text = INSTALLATION.read_text()
    inboxes = text.partition("## Inboxes")[2].partition("\n## ")[0]
    for name in {*re.findall(r"\b[cC]lient\.(\w+)", text), *re.findall(r"`(\w+)\(", inboxes)}:
        assert hasattr(xmtp_history.Client, name), name
    for part, kind in (("conversations", xmtp_history.client.Conversations), ("history", xmtp_history.History)):
        for name in re.findall(rf"\bclient\.{part}\.(\w+)", text):
            assert hasattr(kind, name), name


def test_every_option_of_a_client_is_documented() -> None:
    rows = INSTALLATION.read_text().partition("| option | |")[2].partition("\n\n")[0]
    options = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", rows, re.MULTILINE)))
    assert {"signer", *options} == {*inspect.signature(xmtp_history.Client.create).parameters}


def test_every_state_of_a_group_is_documented() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", INSTALLATION.read_text().partition("| state |")[2], re.MULTILINE)
    states = [state.value for state in xmtp_history.GroupState]
    assert documented[: len(states)] == states


def test_exceptions_that_the_pages_name_are_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`([A-Z]\w+(?:Error|InUse|Registered|Installations|Locked))`", page.read_text()):
            assert hasattr(xmtp_history, name) or hasattr(builtins, name), f"{page.name}: {name}"


def test_every_table_of_the_store_is_documented() -> None:
    tables = set()
    for step in (ROOT / "rust" / "store" / "sql").glob("*.sql"):
        tables |= set(
            re.findall(r"^CREATE (?:VIRTUAL )?TABLE (?:IF NOT EXISTS )?(\w+)", step.read_text(), re.MULTILINE)
        )
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "store.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == tables


def test_the_modules_that_the_architecture_names_are_there() -> None:
    text = ARCHITECTURE.read_text()
    there = [path.as_posix() for path in (ROOT / "python").rglob("*.py")]
    for name in re.findall(r"`((?:\w+/)?_?\w+\.py)`", text):
        assert any(path.endswith(f"/{name}") for path in there), name
    rooms = re.findall(r"^\| (`.*?) \|", text.partition("## Rooms in Rust")[2].partition("## ")[0], re.MULTILINE)
    for name in re.findall(r"`(\w+)/?`", "".join(rooms)):
        assert list((ROOT / "rust").rglob(name)) or list((ROOT / "rust").rglob(f"{name}.rs")), name
