"""Files of a local storage: how one looks on the disk, and how it becomes durable. All of this blocks.

A stored file is the content and, behind it, a trailer with what is known of it: so both become durable with one sync and
visible with one rename, and the content can go from the file to a socket within the kernel.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xmtp_history._io import write_all
from xmtp_history.server.storage._base import FileInfo

if TYPE_CHECKING:
    from pathlib import Path

_TRAILER = struct.Struct("<16s32s32s")
TRAILER_BYTES = _TRAILER.size
_MARK = b"xmtp-history 1\r\n"

#: Bytes hashed or read at a time.
_PIECE_BYTES = 256 * 1024

#: Files up to this size are read when they are opened: clients get them in one piece, and without another thread.
SMALL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A stored file, opened and looked at."""

    file: io.FileIO
    info: FileInfo
    content: bytes | None


def open_stored(path: Path) -> OpenFile | None:
    """Opens a stored file; None if there is none, or something else."""
    try:
        # Not waiting: what has been put there may be a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    found = os.fstat(descriptor)
    size = found.st_size - _TRAILER.size
    if not stat.S_ISREG(found.st_mode) or size < 0:
        os.close(descriptor)
        return None
    file = io.FileIO(descriptor, "rb")
    try:
        small = size <= SMALL_BYTES
        start = 0 if small else size
        data = os.pread(descriptor, found.st_size - start, start)
        mark, sha256, capability_sha256 = _TRAILER.unpack(data[-_TRAILER.size :])
        if mark == _MARK:
            info = FileInfo(size, sha256, capability_sha256, found.st_mtime)
            return OpenFile(file, info, data[:size] if small else None)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def finish(file: io.FileIO, sha256: bytes, capability_sha256: bytes) -> None:
    """Writes the trailer behind the content, and syncs the file."""
    with memoryview(_TRAILER.pack(_MARK, sha256, capability_sha256)) as trailer:
        write_all(file, trailer)
    os.fsync(file.fileno())


def hash_file(file: io.FileIO) -> bytes:
    """The SHA-256 of a whole file."""
    digest = hashlib.sha256()
    position = 0
    while data := os.pread(file.fileno(), _PIECE_BYTES, position):
        digest.update(data)
        position += len(data)
    return digest.digest()


def read_piece(file: io.FileIO, start: int, end: int) -> bytes:
    """Some of a file's bytes from ``start`` on, not beyond ``end``."""
    data = os.pread(file.fileno(), min(end - start, _PIECE_BYTES), start)
    if not data:
        raise OSError("the file is shorter than it was")
    return data


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
