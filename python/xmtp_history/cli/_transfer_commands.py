"""Commands that talk to a history server: upload, download, delete."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from xmtp_history.cli import _options as options
from xmtp_history.cli._output import print_fields, print_json, print_line, warn
from xmtp_history.cli._progress import ProgressBar
from xmtp_history.cli._running import run
from xmtp_history.cli._secrets import CAPABILITY, TOKEN, write_secret

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from typing import BinaryIO

_READ_BYTES = 256 * 1024
# That of the library, which is not loaded for --help.
_MAX_BYTES = 4 * 1024**3

_token = click.option(
    "--token-file",
    type=options.FILE,
    metavar="FILE",
    help="File with the server's token; else XMTP_HISTORY_TOKEN holds it.",
)
_url = click.argument("url", metavar="URL")


@click.command
@click.argument("file", metavar="FILE", type=options.FILE)
@click.option(
    "--server",
    required=True,
    envvar="XMTP_HISTORY_SYNC_URL",
    show_envvar=True,
    metavar="URL",
    help="The history server.",
)
@_token
@click.option(
    "--capability-file",
    type=options.FILE,
    metavar="FILE",
    help='Write what "delete" asks for to this file, which is new.',
)
@options.as_json
def upload(*, file: Path, server: str, token_file: Path | None, capability_file: Path | None, as_json: bool) -> None:
    """Upload an archive to a history server.

    Prints its URL: whoever knows it can fetch the archive, and with the archive's key also read it. An upload that
    breaks off goes on where it was, if the server can do that. "-" as FILE reads standard input.
    """
    from xmtp_history import upload_archive

    token = TOKEN.load(token_file)
    if capability_file is not None:
        options.new_file(capability_file, replace=False)
    with ProgressBar() as bar:
        uploaded = run(upload_archive(_source(file), server, token=token, on_progress=bar))
    if as_json:
        print_json(
            {
                "path": str(file),
                "url": uploaded.url,
                "archive_bytes": uploaded.size,
                "sha256": uploaded.sha256,
                "delete_capability": uploaded.delete_capability,
            },
        )
    else:
        print_line(uploaded.url)
    if capability_file is not None:
        if uploaded.delete_capability is None:
            warn("the server gave no delete capability")
        else:
            write_secret(capability_file, uploaded.delete_capability)


@click.command
@_url
@options.target
@_token
@options.force
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    default=_MAX_BYTES,
    show_default="4 GiB",
    metavar="N",
    help="Refuse a larger archive.",
)
@options.as_json
def download(*, url: str, target: Path, token_file: Path | None, force: bool, max_bytes: int, as_json: bool) -> None:
    """Download an archive from a history server.

    A download that breaks off goes on where it was. TARGET appears complete or not at all.
    """
    from xmtp_history import download_archive

    options.new_file(target, replace=force)
    token = TOKEN.load(token_file)
    with ProgressBar() as bar:
        report = run(download_archive(url, target, token=token, max_bytes=max_bytes, on_progress=bar))
    if as_json:
        print_json(
            {
                "path": str(target),
                "archive_bytes": report.size,
                "sha256": report.sha256,
                "verified": report.verified,
            },
        )
    else:
        print_fields(
            [
                ("Archive", str(target)),
                ("Size", f"{report.size:,} bytes"),
                ("SHA-256", report.sha256 + (", as the server says" if report.verified else "")),
            ]
        )


@click.command
@_url
@click.option(
    "--capability-file",
    type=options.FILE,
    metavar="FILE",
    help="File with the archive's delete capability; else XMTP_DELETE_CAPABILITY holds it.",
)
@_token
@options.as_json
def delete(*, url: str, capability_file: Path | None, token_file: Path | None, as_json: bool) -> None:
    """Delete an archive from a history server before it expires.

    The delete capability is what "upload" got: with --capability-file, or in its JSON.
    """
    from xmtp_history import delete_archive

    capability, token = CAPABILITY.require(capability_file), TOKEN.load(token_file)
    run(delete_archive(url, capability, token=token))
    if as_json:
        print_json({"deleted": True})
    else:
        print_line("Deleted")


def _source(path: Path) -> Path | BinaryIO | AsyncGenerator[bytes]:
    """The archive to upload; ``-`` stands for standard input."""
    if str(path) != "-":
        return path if path.is_file() else _as_it_comes(io.FileIO(path))
    source = options.source(path)
    try:
        regular = stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except io.UnsupportedOperation:
        return source
    return source if regular else _as_it_comes(io.FileIO(sys.stdin.fileno(), closefd=False))


async def _as_it_comes(file: io.FileIO) -> AsyncGenerator[bytes]:
    """What comes through a pipe or from a terminal, read when it is there: an interrupt need not wait for more."""
    with file:
        while data := await _read(file.fileno()):
            yield data


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    # What cannot be waited for, such as /dev/null, does not need to be.
    with contextlib.suppress(PermissionError):
        loop.add_reader(descriptor, _set, ready)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, _READ_BYTES)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


COMMANDS = (upload, download, delete)
