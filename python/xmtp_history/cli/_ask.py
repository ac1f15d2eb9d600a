"""A program of the user's that decides who gets the history."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import click

from xmtp_history.cli._client_records import request_json

if TYPE_CHECKING:
    from xmtp_history import ArchiveRequest

_logger = logging.getLogger("xmtp_history.keep")

_YES, _NO = 0, 1
#: It has to decide about them, not to have them.
_SECRETS = (
    "XMTP_ARCHIVE_KEY",
    "XMTP_DB_ENCRYPTION_KEY",
    "XMTP_DELETE_CAPABILITY",
    "XMTP_HISTORY_TOKEN",
    "XMTP_TARGET_ARCHIVE_KEY",
    "XMTP_WALLET_KEY",
)


class Program:
    """Runs a program for each request: without a shell, with the request as a line of JSON on its standard input.

    Only exit code 0 is a yes. Whoever waits no longer, as after a time limit, ends it.
    """

    def __init__(self, name: str) -> None:
        path = shutil.which(name)
        if path is None:
            raise click.UsageError(f"--ask: {name} is not a program that can be run")
        self._path = path

    async def __call__(self, request: ArchiveRequest) -> bool:
        """Whether the history may be sent."""
        environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        try:
            process = await asyncio.create_subprocess_exec(self._path, stdin=PIPE, stdout=DEVNULL, env=environment)
        except OSError as error:
            _logger.warning("the program of --ask cannot be started, which is a no: %s", error.strerror)
            return False
        try:
            # Who reads nothing may decide all the same; communicate() does not mind.
            await process.communicate(json.dumps(request_json(request)).encode() + b"\n")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode not in {_YES, _NO}:
            _logger.warning("the program of --ask ended with %d, which is a no", process.returncode)
        return process.returncode == _YES
