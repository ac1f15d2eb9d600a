"""HTTP/2 pings, and nothing else: what a client does on a connection on which nothing happens."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ACK: Final = 1
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def may_ping(url: str, *, every: float, seconds: float) -> bool:
    """Pings a server for some time. Says whether it answers every ping and does not hang up."""
    end = time.monotonic() + seconds
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=every) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS))
        while time.monotonic() < end:
            connection.sendall(_frame(_PING, payload=bytes(8)))
            answered = False
            for kind, flags in _frames_until(connection, min(time.monotonic() + every, end)):
                if kind == _GOAWAY:
                    return False
                answered |= kind == _PING and flags == _ACK
                if kind == _SETTINGS and flags != _ACK:
                    connection.sendall(_frame(_SETTINGS, _ACK))
            if not answered:
                return False
    return True


def _frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, 0) + payload


def _frames_until(connection: socket.socket, due: float) -> Iterator[tuple[int, int]]:
    """Type and flags of the frames that arrive until a point in time."""
    with contextlib.suppress(TimeoutError):
        while (left := due - time.monotonic()) > 0:
            connection.settimeout(left)
            head = connection.recv(9, socket.MSG_WAITALL)
            if len(head) < 9:
                yield _GOAWAY, 0
                return
            size = int.from_bytes(head[:3], "big")
            if size:
                connection.recv(size, socket.MSG_WAITALL)
            yield head[3], head[4]
