"""Logs of commands that serve: one line for each event, for people or for programs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime


class _JsonLines(logging.Formatter):
    """A JSON object on each line."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        described = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        if fields is None:
            described["message"] = record.getMessage()
        else:
            described |= fields
        if record.exc_info:
            described["exception"] = self.formatException(record.exc_info)
        return json.dumps(described)


class _Seldom(logging.Filter):
    """Lets a message that comes again and again through once a second: without descriptors, there are a thousand at once."""

    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[str, float] = ("", 0.0)

    def filter(self, record: logging.LogRecord) -> bool:
        message, moment = self._last
        if record.getMessage() == message and record.created - moment < 1.0:
            return False
        self._last = (record.getMessage(), record.created)
        return True


def log_to_stderr(level: str, *, as_json: bool) -> None:
    """Sends the package's logs to standard error, and what asyncio complains about."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(_JsonLines() if as_json else text)
    logger = logging.getLogger("xmtp_history")
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    # Without a handler its complaints would be there as well, but not in this format.
    complaints = logging.getLogger("asyncio")
    complaints.addHandler(handler)
    complaints.addFilter(_Seldom())
    complaints.setLevel(logging.WARNING)
