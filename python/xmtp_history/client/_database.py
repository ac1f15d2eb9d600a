"""Where an installation lives: the file of its history, and the key that opens it."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from xmtp_history._ffi import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from xmtp_history._ffi import BytesLike

#: A file; None for one that is gone with the client; or what names the file of an inbox.
DbPath: TypeAlias = "str | os.PathLike[str] | Callable[[str], str | os.PathLike[str]] | None"

#: How long a write waits for other writers of the file, milliseconds.
_TIMEOUT_MS = 5000


class Database:
    """An open store, and the temporary folder that it is in, if it is."""

    def __init__(self, path: str | os.PathLike[str] | None, key: BytesLike | None) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="xmtp-history-")
            path, key = Path(self._folder.name) / "installation.db3", secrets.token_bytes(32)
        elif key is None:
            raise ValueError("db_encryption_key is missing: 32 random bytes, to be kept as safe as a wallet's key")
        self.store = Store(os.fsencode(path), key, _TIMEOUT_MS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store; a temporary one is gone then."""
        self.store.close()
        if self._folder is not None:
            self._folder.cleanup()


def key_of(key: BytesLike | str | None) -> BytesLike | None:
    """A key as it is, or from its 64 hexadecimal digits.

    Raises:
        ValueError: it is no such string. The message does not repeat it.
    """
    if not isinstance(key, str):
        return key
    try:
        return bytes.fromhex(key.removeprefix("0x"))
    except ValueError:
        raise ValueError("db_encryption_key is 32 bytes, or 64 hexadecimal digits") from None


def path_of(db_path: DbPath, inbox_id: str) -> str | os.PathLike[str] | None:
    """The file of an inbox's installation."""
    return db_path(inbox_id) if callable(db_path) else db_path
