"""Options of ``serve``: sizes and times as people write them, and a file and an environment with the options' names."""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xmtp_history.cli import _options as options

if TYPE_CHECKING:
    from collections.abc import Callable

#: Environment variables are called this and the option's name in capitals.
ENVIRONMENT = "XMTP_HISTORY_SERVER"

_SIZES = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES |= {f"{unit}b": size for unit, size in _SIZES.items() if size > 1}
_SIZES |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_TIMES = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_NUMBER = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", re.ASCII)
_NONE = "none"


class _Amount(click.ParamType[Any]):
    """A number with a unit; with ``none`` for "no limit" where that makes sense."""

    def __init__(self, name: str, units: dict[str, float], example: str, *, none: bool) -> None:
        self.name = name
        self._units = units
        self._example = f"{example} or {_NONE}" if none else example
        self._none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        text = str(value).strip().lower()
        if self._none and text == _NONE:
            return None
        found = _NUMBER.fullmatch(text)
        if found is None or found[2] not in self._units:
            self.fail(f"{value!r}: expected for example {self._example}", param, ctx)
        return float(found[1]) * self._units[found[2]]


class _Size(_Amount):
    def __init__(self, *, none: bool = False) -> None:
        super().__init__("size", dict(_SIZES), "500MB", none=none)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        size = super().convert(value, param, ctx)
        return None if size is None else int(size)


class _Time(_Amount):
    def __init__(self, *, none: bool = False) -> None:
        super().__init__("time", _TIMES, "30s, 24h, 7d", none=none)


class _Count(click.ParamType[Any]):
    name = "number"

    def __init__(self, *, none: bool = False) -> None:
        self._none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        text = str(value).strip().lower()
        if self._none and text == _NONE:
            return None
        if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
            self.fail(f"{value!r}: expected a whole number" + (f" or {_NONE}" if self._none else ""), param, ctx)
        return int(text)


@dataclasses.dataclass(frozen=True)
class _Limit:
    """An option for a field of ``ServerLimits``."""

    field: str
    kind: click.ParamType[Any]
    default: str
    text: str

    @property
    def name(self) -> str:
        """The option's name: it takes any unit of time."""
        return re.sub("_seconds$", "_timeout", self.field)


#: The defaults are those of ``ServerLimits``, which this module must not load; a test compares them.
LIMITS = (
    _Limit("max_file_bytes", _Size(none=True), "16GiB", "Largest upload."),
    _Limit("max_total_bytes", _Size(none=True), _NONE, "Most bytes that all files may have."),
    _Limit("min_free_bytes", _Size(), "64MiB", "Bytes of the file system to leave free."),
    _Limit("max_uploads", _Count(), "1000", "Uploads at the same time."),
    _Limit("max_uploads_per_client", _Count(), "64", "Uploads of one client at the same time."),
    _Limit("uploads_per_minute", _Count(none=True), "600", "Uploads that one client may begin in a minute."),
    _Limit("max_downloads", _Count(), "1000", "Downloads at the same time."),
    _Limit("max_connections", _Count(), "4000", "Connections at the same time."),
    _Limit("head_seconds", _Time(), "10s", "Time for the head of a request."),
    _Limit("idle_seconds", _Time(), "30s", "Time without a byte of an upload."),
    _Limit("min_bytes_per_second", _Count(), "1024", "Slowest pace of an upload that takes over a minute."),
    _Limit("stall_seconds", _Time(), "120s", "Time without a download getting on."),
    _Limit("keep_alive_seconds", _Time(), "60s", "Time that an unused connection stays open."),
    _Limit("shutdown_seconds", _Time(), "30s", "Time for running transfers when the server stops."),
)


def default_storage() -> Path:
    """The user's directory for data."""
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "xmtp-history" / "archives"


def _read_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Makes the file's values the defaults of all other options."""
    if value is None:
        return None
    try:
        with value.open("rb") as file:
            given = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise click.BadParameter(f"{value} is not TOML: {error}", ctx, param) from None
    known = {option.name for option in ctx.command.params} - {"config", "print_config", "as_json"}
    named = {name.replace("-", "_"): setting for name, setting in given.items()}
    if unknown := named.keys() - known:
        raise click.BadParameter(f"{value} has an unknown setting: {min(unknown)}", ctx, param)
    ctx.default_map = named
    return value


_PORT = click.IntRange(0, 65_535)

_OPTIONS = (
    click.option(
        "--config",
        type=options.FILE,
        metavar="FILE",
        is_eager=True,
        callback=_read_config,
        help="TOML file with options, by their names.",
    ),
    click.option(
        "--storage",
        metavar="DIR|URL",
        help="Directory, or a bucket such as s3://bucket/prefix.  [default: a directory of the user's data]",
    ),
    click.option("--host", default="localhost", show_default=True, help="Address to listen on; 0.0.0.0 for all."),
    click.option("--port", type=_PORT, default=5558, show_default=True, help="Port to listen on; 0 for any."),
    click.option("--prefix", default="", help="Path below which everything is served."),
    click.option("--metrics-host", default="localhost", show_default=True, help="Address of the port for metrics."),
    click.option("--metrics-port", type=_PORT, default=9558, show_default=True, help="Port for metrics; 0 for any."),
    click.option("--no-metrics", is_flag=True, help="Open no port for metrics."),
    click.option(
        "--retention", type=_Time(none=True), default="7d", show_default=True, help="Age at which files expire."
    ),
    click.option(
        "--resumable-retention",
        type=_Time(),
        default="24h",
        show_default=True,
        help="Age at which unfinished resumable uploads expire.",
    ),
    click.option(
        "--sweep", type=_Time(), default="5m", show_default=True, help="How often what has expired is deleted."
    ),
    click.option("--delete-after-download", is_flag=True, help="Delete a file after its first complete download."),
    click.option(
        "--upload-tokens", type=options.FILE, metavar="FILE", help="TOML file of tokens that uploads have to show."
    ),
    click.option("--token-for-downloads", is_flag=True, help="Downloads have to show a token too."),
    click.option(
        "--trusted-proxy",
        multiple=True,
        metavar="NETWORK",
        help="Proxy whose X-Forwarded-For is believed; may be repeated.",
    ),
    click.option("--redirect", is_flag=True, help="Send clients to the bucket for downloads."),
    click.option(
        "--redirect-lifetime",
        type=_Time(),
        default="5m",
        show_default=True,
        help="How long the URL that clients are sent to is good.",
    ),
    click.option("--spool", type=options.FILE, metavar="DIR", help="Where uploads to a bucket wait for their end."),
    *(
        click.option(
            f"--{limit.name.replace('_', '-')}",
            type=limit.kind,
            default=limit.default,
            show_default=True,
            help=limit.text,
        )
        for limit in LIMITS
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="What is logged; info has a line for each request.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["auto", "text", "json"]),
        default="auto",
        show_default=True,
        help="How; auto is text on a terminal, else JSON.",
    ),
    click.option("--print-config", is_flag=True, help="Print the configuration, as a file for --config, and exit."),
    options.as_json,
)


def serve_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds all options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def as_toml(values: dict[str, Any]) -> list[str]:
    """Lines for ``--config``, which give the values again."""
    return [f"{name} = {_toml(value)}" for name, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return f'"{_NONE}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, int | float):
        return str(int(value) if value == int(value) else value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    # TOML takes control characters only as escapes.
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", text) + '"'
