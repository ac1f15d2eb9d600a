"""Opening a message's content: what is in it, and what is refused."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from independent.elements import describe_content
from independent.protobuf import field_bytes
from independent.schema import ENCODED_CONTENT
from support import public
from support.build import encoded, message, text_content
from xmtp_history import ContentError, ContentType, DecodedContent

DEFLATE, GZIP = 0, 1


def _decode(content: bytes) -> DecodedContent:
    return public.message(message(1)[1], content=content).decoded()


def _compressed(type_id: str, data: bytes, compression: int) -> bytes:
    packed = zlib.compress(data) if compression == DEFLATE else gzip.compress(data)
    return encoded(type_id, packed, compression=compression)


def test_a_text() -> None:
    decoded = _decode(text_content("grüße \U0001f680"))
    assert decoded == DecodedContent(
        ContentType("xmtp.org", "text", 1, 0), {"encoding": "UTF-8"}, None, "grüße \U0001f680"
    )
    assert str(decoded.type) == "xmtp.org/text:1.0"


def test_everything_else_is_bytes() -> None:
    content = encoded("thing", b"\x00\xff", authority="example.org", fallback="a thing", parameters={"a": "", "": "b"})
    assert _decode(content) == DecodedContent(
        ContentType("example.org", "thing", 1, 0), {"a": "", "": "b"}, "a thing", b"\x00\xff"
    )
    assert _decode(encoded("text", b"\xff", authority="example.org")).body == b"\xff", "somebody else's type"


def test_an_empty_fallback_is_not_an_absent_one() -> None:
    assert _decode(encoded("x", b"", fallback="")).fallback == ""
    assert _decode(encoded("x", b"")).fallback is None


@pytest.mark.parametrize("compression", [DEFLATE, GZIP])
def test_compressed_content(compression: int) -> None:
    assert _decode(_compressed("text", b"again " * 1000, compression)).body == "again " * 1000
    assert _decode(_compressed("thing", b"", compression)).body == b""


@pytest.mark.parametrize("compression", [DEFLATE, GZIP])
def test_damaged_compression(compression: int) -> None:
    sound = zlib.compress(b"x" * 5000) if compression == DEFLATE else gzip.compress(b"x" * 5000)
    for packed in (b"", b"rubbish", sound[:-1], sound[: len(sound) // 2], b"\0" + sound):
        with pytest.raises(ContentError):
            _decode(encoded("thing", packed, compression=compression))


@pytest.mark.parametrize("compression", [2, -1, 99])
def test_unknown_compression(compression: int) -> None:
    with pytest.raises(ContentError):
        _decode(encoded("thing", b"x", compression=compression))


@pytest.mark.parametrize("compression", [DEFLATE, GZIP])
def test_a_decompression_bomb(compression: int) -> None:
    """100 kB that would become more than 64 MiB."""
    with pytest.raises(ContentError, match="more than"):
        _decode(_compressed("thing", bytes(64 * 1024 * 1024 + 1), compression))


@pytest.mark.parametrize(
    "content",
    [
        b"not protobuf at all",
        b"\xff",
        text_content("x")[:-1],
        encoded("text", b"\xff\xfe"),  # no UTF-8
        field_bytes(1, b"\x0a\x05abc"),
        field_bytes(4, 7),  # another wire type
    ],
    ids=bytes.hex,
)
def test_what_is_no_encoded_content(content: bytes) -> None:
    with pytest.raises(ContentError) as caught:
        _decode(content)
    assert isinstance(caught.value, ValueError)


def test_the_last_field_wins_and_messages_merge() -> None:
    first = ENCODED_CONTENT.encode({"type": {"authority_id": "a", "type_id": "b"}, "content": b"1"})
    second = ENCODED_CONTENT.encode({"type": {"type_id": "c", "version_major": 2}, "content": b"2"})
    decoded = _decode(first + second)
    assert (str(decoded.type), decoded.body) == ("a/c:2.0", b"2")


@given(content=st.binary(max_size=60))
@example(content=b"")
def test_any_bytes_decode_or_are_refused(content: bytes) -> None:
    """As the independent decoder sees it; nothing else is ever raised."""
    described = describe_content(content)
    try:
        decoded = _decode(content)
    except ContentError:
        return
    assert "undecodable" not in described
    assert str(decoded.type) == described.get("type", "/:0.0")
