"""What the client logs, on standard error; with what others say in it made safe for a terminal."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from xmtp_history.cli._logging import log_to_stderr
from xmtp_history.cli._output import printable, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from logging import LogRecord

_PACKAGE = "xmtp_history"


class _Warnings(logging.Handler):
    """Warnings as those of the command itself."""

    def emit(self, record: LogRecord) -> None:
        warn(record.getMessage())


class _Safe(logging.Filter):
    """Escapes what could steer a terminal."""

    def filter(self, record: LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), ()
        return True


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """For commands that end by themselves: shows what the user should know, and nothing else."""
    logger, handler = logging.getLogger(_PACKAGE), _Warnings(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def show_log(level: str, *, as_json: bool) -> None:
    """For commands that run until they are stopped: shows all of it."""
    log_to_stderr(level, as_json=as_json)
    if not as_json:
        for handler in logging.getLogger(_PACKAGE).handlers:
            handler.addFilter(_Safe())
