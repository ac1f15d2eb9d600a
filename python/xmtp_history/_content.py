"""Opening a message's content (archive specification, section 2.6)."""

from __future__ import annotations

import zlib

from xmtp_history import _ffi
from xmtp_history._errors import ContentError
from xmtp_history._types import ContentType, DecodedContent

#: Types whose body is text.
_TEXT_TYPES = frozenset({"text", "markdown"})

#: Largest body that a compressed content may have, bytes.
_MAX_BODY_BYTES = 64 * 1024 * 1024

#: ``wbits`` of zlib for the two compressions of the format: deflate (a zlib stream) and gzip.
_COMPRESSIONS = {0: zlib.MAX_WBITS, 1: zlib.MAX_WBITS | 16}


def decode_content(content: bytes) -> DecodedContent:
    """Opens an EncodedContent; see :meth:`xmtp_history.Message.decoded`."""
    description, body = _ffi.decode_content(content)
    compression = description["compression"]
    if compression is not None:
        body = _decompress(body, compression)
    content_type = ContentType(*description["type"])
    text: str | bytes = body
    if content_type.authority_id == "xmtp.org" and content_type.type_id in _TEXT_TYPES:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            msg = "the text is not valid UTF-8"
            raise ContentError(msg) from None
    return DecodedContent(content_type, description["parameters"], description["fallback"], text)


def _decompress(body: bytes, compression: int) -> bytes:
    if compression not in _COMPRESSIONS:
        msg = f"compression {compression} is not known"
        raise ContentError(msg)
    inflater = zlib.decompressobj(_COMPRESSIONS[compression])
    try:
        plain = inflater.decompress(body, _MAX_BODY_BYTES)
    except zlib.error:
        msg = "the compressed content is damaged"
        raise ContentError(msg) from None
    if inflater.unconsumed_tail:
        msg = f"the content decompresses to more than {_MAX_BODY_BYTES} bytes"
        raise ContentError(msg)
    if not inflater.eof:
        msg = "the compressed content is incomplete"
        raise ContentError(msg)
    return plain
