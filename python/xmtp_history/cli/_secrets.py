"""Tokens and delete capabilities: like keys, read from a file or from the environment, never from the command line.

No message here repeats any part of what was read.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xmtp_history.cli._keys import KeyProblem, is_shown_to_others
from xmtp_history.cli._output import warn

if TYPE_CHECKING:
    from pathlib import Path

_SECRET = re.compile(rb"[\x21-\x7e]+")
# More than any token, so that a wrong file (or an endless device) is noticed without reading it all.
_MOST_READ = 4096


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a text that only some may know comes from: an option, or else an environment variable."""

    what: str
    option: str
    variable: str

    def load(self, file: Path | None) -> str | None:
        """The text: from the file if one is given, otherwise from the environment; None if it is in neither.

        Raises:
            KeyProblem: it is empty, or has spaces or characters outside of ASCII.
            OSError: the file cannot be read.
        """
        if file is not None:
            return _checked(_read(file, self.what), str(file))
        value = os.environ.get(self.variable, "").strip()
        return _checked(os.fsencode(value), self.variable) if value else None

    def require(self, file: Path | None) -> str:
        """The text, as :meth:`load` finds it.

        Raises:
            KeyProblem: also if there is none.
        """
        value = self.load(file)
        if value is None:
            raise KeyProblem(f"no {self.what}: give {self.option} FILE or set {self.variable}")
        return value


TOKEN = SecretSource("token", "--token-file", "XMTP_HISTORY_TOKEN")
CAPABILITY = SecretSource("delete capability", "--capability-file", "XMTP_DELETE_CAPABILITY")


def write_secret(file: Path, text: str) -> None:
    """Writes a text to a new file that only the user can read; the file appears whole or not at all.

    Raises:
        FileExistsError: the file exists.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _read(file: Path, what: str) -> bytes:
    with file.open("rb") as stream:
        shown = is_shown_to_others(stream.fileno(), file)
        content = stream.read(_MOST_READ)
    if shown:
        warn(f"other users may read the {what} in {file}: run chmod 600 on it")
    return content.strip()


def _checked(text: bytes, where: str) -> str:
    if not _SECRET.fullmatch(text) or len(text) >= _MOST_READ:
        raise KeyProblem(f"{where} must hold one word of printable ASCII characters")
    return text.decode("ascii")
