"""Fuzzes what a history server reads of strangers' bytes itself: ``python tests/fuzz/history_requests.py CORPUS``.

The first byte chooses the parser. Whatever the bytes are, the outcome has to be a value or the exception that the parser
names, and it must not depend on how the bytes were torn apart on their way.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["xmtp_history.server"]):
    from xmtp_history.server._access import _walk
    from xmtp_history.server._downloads import _RANGE
    from xmtp_history.server._framing import BrokenFraming, Chunked, Unclear, split
    from xmtp_history.server._ids import parse_id
    from xmtp_history.server._limits import client_key
    from xmtp_history.server._problems import Refused
    from xmtp_history.server._tus import _Checksum


def _chunks(data: bytes) -> None:
    assert _content(data, len(data)) == _content(data, 1) == _content(data, 7)


def _content(data: bytes, size: int) -> tuple[bytes, bytes] | None:
    body, content = Chunked(), b""
    try:
        for at in range(0, len(data), max(1, size)):
            taken, rest = body.take(data[at : at + size])
            content += taken
            if rest is not None:
                return content, rest + data[at + size :]
    except BrokenFraming:
        return None
    return content, b""


def _head(data: bytes) -> None:
    try:
        head, framing = split(b"POST /upload HTTP/1.1\r\n" + data + b"\r\n\r\n")
    except Unclear:
        return
    if framing is not None:
        assert split(head) == (head, None), "aiohttp would see a body as well"


def _id(data: bytes) -> None:
    text = data.decode("latin-1")
    found = parse_id(text)
    assert found is None or found.hex in text.lower().replace("-", "")


def _range(data: bytes) -> None:
    found = _RANGE.fullmatch(data.decode("latin-1"))
    assert found is None or all(part == "" or int(part) >= 0 for part in found.groups())


def _checksum(data: bytes) -> None:
    try:
        checksum = _Checksum(data.decode("latin-1"))
        checksum.update(b"content")
        checksum.check()
    except Refused:
        return


def _addresses(data: bytes) -> None:
    first, *others = data.decode("latin-1").split(",")
    assert _walk(first, others, []) == first
    client_key(first)


TARGETS = (_chunks, _head, _id, _range, _checksum, _addresses)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
