"""Running what a command does on an event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xmtp_history import XmtpHistoryError

if TYPE_CHECKING:
    from collections.abc import Coroutine

_Result = TypeVar("_Result")


def keep_grpc_quiet() -> None:
    """What concerns the user is an exception. gRPC would say it before, in its own words, with file and line."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs what a command does on the network. Arguments that it cannot use were used wrongly."""
    keep_grpc_quiet()
    try:
        return asyncio.run(work)
    except ValueError as error:
        if isinstance(error, XmtpHistoryError):
            raise
        raise click.UsageError(str(error)) from None
