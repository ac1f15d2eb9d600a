"""Keys: read from a file or from the environment, never from the command line, never shown.

No message here repeats any part of what was read.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from xmtp_history.cli._output import warn

KEY_BYTES = 32
_HEX_KEY = re.compile(rb"(?:0x)?([0-9a-fA-F]{64})")
# More than any valid key file, so that a wrong file (or an endless device) is noticed without reading it all.
_MOST_READ = 256


class KeyProblem(Exception):
    """A key is missing or malformed."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where one of the command's keys comes from: an option, or else an environment variable."""

    what: str
    option: str
    variable: str

    def load(self, file: Path | None) -> bytes:
        """The key: from the file if one is given, otherwise from the environment.

        Raises:
            KeyProblem: there is none, or it is not 32 bytes.
            OSError: the file cannot be read.
        """
        if file is not None:
            return _read_file(file)
        value = os.environ.get(self.variable, "").strip()
        if not value:
            raise KeyProblem(f"no key for {self.what}: give {self.option} FILE or set {self.variable}")
        key = _from_hex(os.fsencode(value))
        if key is None:
            raise KeyProblem(f"{self.variable} must hold a key of {2 * KEY_BYTES} hexadecimal characters")
        return key


ARCHIVE_KEY = KeySource("the archive", "--key-file", "XMTP_ARCHIVE_KEY")
TARGET_KEY = KeySource("the new archive", "--target-key-file", "XMTP_TARGET_ARCHIVE_KEY")
STORE_KEY = KeySource("the store", "--store-key-file", "XMTP_DB_ENCRYPTION_KEY")


def write_new_key(file: Path) -> None:
    """Writes a new random key in hexadecimal that only the user can read; the file appears whole or not at all.

    Raises:
        FileExistsError: the file exists; a key is never overwritten.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(KEY_BYTES) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def is_shown_to_others(descriptor: int, file: Path) -> bool:
    """Whether an open file can be read by other users, as far as its mode tells.

    Pipes and devices, as in --key-file <(command), have modes that say nothing; and so have credentials of systemd, which
    are guarded by an access list and by the folder that they are in.
    """
    mode = os.fstat(descriptor).st_mode
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if not stat.S_ISREG(mode) or (credentials and file.parent == Path(credentials)):
        return False
    return bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _read_file(file: Path) -> bytes:
    with file.open("rb") as stream:
        shown = is_shown_to_others(stream.fileno(), file)
        content = stream.read(_MOST_READ)
    if shown:
        warn(f"other users may read the key file {file}: run chmod 600 on it")
    # Raw first: 32 random bytes may begin or end with what looks like a line end.
    key = content if len(content) == KEY_BYTES else _from_hex(content.strip())
    if key is None:
        message = (
            f"{file} does not hold a key: {KEY_BYTES} raw bytes or {2 * KEY_BYTES} hexadecimal characters are expected"
        )
        raise KeyProblem(message)
    return key


def _from_hex(text: bytes) -> bytes | None:
    match = _HEX_KEY.fullmatch(text)
    return bytes.fromhex(match[1].decode("ascii")) if match else None
