"""The container of an archive: header, zstd frame, sealed elements (section 1 of the format's description).

:func:`read` and :func:`write` are the whole; the functions between them are the single steps, so that a test can do any
one of them wrongly.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from independent.elements import Element, decode_element, encode_element
from independent.protobuf import DecodeError, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VERSION: Final = 0
HEADER_BYTES: Final = 14
TAG_BYTES: Final = 16
ELEMENT_OVERHEAD: Final = 4 + TAG_BYTES
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
MAX_WINDOW: Final = 2**27
MAX_ELEMENT_BYTES: Final = 64 * 1024 * 1024
#: Read-ahead that the cure keeps in front of a large element (section 6.2).
CURE_STEP: Final = 512


class ArchiveFaultError(Exception):
    """The bytes are not a sound archive.

    Attributes:
        reason: name of the condition in the format's description.
        index: index of the element at fault, or None.
    """

    def __init__(self, reason: str, index: int | None = None) -> None:
        super().__init__(reason if index is None else f"{reason} in element {index}")
        self.reason = reason
        self.index = index


@dataclass(slots=True)
class Archive:
    """An archive, taken apart."""

    version: int
    nonce: bytes
    legacy: bool
    metadata: Record
    #: Every element but the first, in order, the ones without a record included.
    elements: list[Element]
    #: The decrypted bytes of every element, the first included.
    plaintexts: list[bytes] = field(repr=False)

    def of_kind(self, kind: str) -> list[Record]:
        """The records of one kind, in archive order."""
        return [record for element, record in self.elements if element == kind]

    @property
    def records(self) -> list[Element]:
        """The elements that carry a conversation, a message or a consent, in archive order."""
        return [element for element in self.elements if element[0] in ("group", "group_message", "consent")]


# --- reading ---------------------------------------------------------------------------------------------------------


def read(source: str | os.PathLike[str] | bytes, key: bytes, *, max_element_bytes: int = MAX_ELEMENT_BYTES) -> Archive:
    """Reads a whole archive.

    Raises:
        ArchiveFaultError: something is wrong with it.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    version, nonce = _read_header(data)
    if len(key) != 32:
        raise ArchiveFaultError("KeyLength")

    # What is wrong with the frame counts only once the elements in front of it are used up, as in a streaming reader.
    inflated, frame_fault = _inflate(data[HEADER_BYTES:])
    plaintexts: list[bytes] = []
    elements: list[Element] = []
    cipher, legacy, at = AESGCM(key), False, 0
    while at < len(inflated):
        index = len(elements)
        sealed = _sealed_at(inflated, at, index, frame_fault, max_element_bytes)
        at += 4 + len(sealed)
        plaintext = _open(cipher, nonce, sealed, index, legacy=legacy)
        if plaintext is None and index == 1:
            legacy = True
            plaintext = _open(cipher, nonce, sealed, index, legacy=True)
        if plaintext is None:
            raise ArchiveFaultError("AuthFailed" if index else "WrongKeyOrCorrupt", index)
        try:
            elements.append(decode_element(plaintext))
        except DecodeError:
            raise ArchiveFaultError("Decode", index) from None
        plaintexts.append(plaintext)
        if elements[0][0] != "metadata":
            raise ArchiveFaultError("MissingMetadata", 0)
    if frame_fault is not None:
        raise frame_fault
    if not elements:
        raise ArchiveFaultError("MissingMetadata", 0)
    return Archive(version, nonce, legacy, elements[0][1], elements[1:], plaintexts)


def _read_header(data: bytes) -> tuple[int, bytes]:
    if len(data) < HEADER_BYTES:
        raise ArchiveFaultError("HeaderTruncated")
    version = int.from_bytes(data[:2], "little")
    if version != VERSION:
        raise ArchiveFaultError("UnsupportedVersion")
    return version, data[2:HEADER_BYTES]


def _inflate(data: bytes) -> tuple[bytes, ArchiveFaultError | None]:
    """Inflates the one frame: what can be had, and what is wrong with the frame."""
    if not data.startswith(ZSTD_MAGIC):
        return b"", ArchiveFaultError("Zstd")
    inflater = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
    out, step = bytearray(), 1024
    try:
        for at in range(0, len(data), step):
            out += inflater.decompress(data[at : at + step])
            if inflater.eof:
                rest = inflater.unused_data or data[at + step :]
                return bytes(out), ArchiveFaultError("TrailingData") if rest else None
    except zstandard.ZstdError:
        pass
    return bytes(out), ArchiveFaultError("Zstd")


def _sealed_at(
    inflated: bytes, at: int, index: int, frame_fault: ArchiveFaultError | None, max_element_bytes: int
) -> bytes:
    """The sealed bytes of the element whose length prefix is at a position."""
    cut_off = frame_fault or ArchiveFaultError("TruncatedElement", index)
    if len(inflated) - at < 4:
        raise cut_off
    length = int.from_bytes(inflated[at : at + 4], "little")
    if length < TAG_BYTES:
        raise ArchiveFaultError("BadElementLength", index)
    if length > max_element_bytes:
        raise ArchiveFaultError("ElementTooLarge", index)
    if len(inflated) - at - 4 < length:
        raise cut_off
    return inflated[at + 4 : at + 4 + length]


def _open(cipher: AESGCM, nonce: bytes, sealed: bytes, index: int, *, legacy: bool) -> bytes | None:
    try:
        return cipher.decrypt(nonce if legacy else nonce_at(nonce, index), sealed, None)
    except InvalidTag:
        return None


# --- writing ---------------------------------------------------------------------------------------------------------


def write(
    target: str | os.PathLike[str] | None,
    key: bytes,
    elements: Iterable[Element | bytes],
    *,
    nonce: bytes | None = None,
    legacy: bool = False,
    cure: bool = False,
    level: int = 3,
    checksum: bool = False,
    content_size: bool = False,
    window_log: int | None = None,
    block_bytes: int | None = None,
) -> bytes:
    """Writes an archive and returns its bytes; without a target it only returns them.

    Args:
        target: path of the file, or None.
        key: 32 bytes.
        elements: the elements, the metadata first; bytes stand for an element's plaintext.
        nonce: start nonce, random by default.
        legacy: seal every element with the start nonce, as writers did before November 2025.
        cure: insert the empty elements that keep the reference's reader from hanging.
        level: zstd level.
        checksum: put zstd's checksum at the end of the frame.
        content_size: announce the inflated size in the frame's header.
        window_log: zstd window.
        block_bytes: end a zstd block after that many bytes.
    """
    plaintexts = [encode_element(element) for element in elements]
    nonce = os.urandom(12) if nonce is None else nonce
    sealed = seal_all(key, nonce, with_cure(plaintexts) if cure else plaintexts, legacy=legacy)
    zstd = frame(
        b"".join(sealed),
        level=level,
        checksum=checksum,
        content_size=content_size,
        window_log=window_log,
        block_bytes=block_bytes,
    )
    data = assemble(nonce, zstd)
    if target is not None:
        Path(target).write_bytes(data)
    return data


def nonce_at(nonce: bytes, index: int) -> bytes:
    """The nonce of an element: a 96-bit little-endian counter that wraps."""
    return ((int.from_bytes(nonce, "little") + index) % 2**96).to_bytes(12, "little")


def seal(key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """One element as it stands in the inflated stream: length prefix, ciphertext, tag."""
    sealed = AESGCM(key).encrypt(nonce, plaintext, None)
    return struct.pack("<I", len(sealed)) + sealed


def seal_all(key: bytes, nonce: bytes, plaintexts: Sequence[bytes], *, legacy: bool = False) -> list[bytes]:
    """Seals elements with consecutive nonces, or with one nonce throughout."""
    return [seal(key, nonce if legacy else nonce_at(nonce, i), plain) for i, plain in enumerate(plaintexts)]


def with_cure(plaintexts: Sequence[bytes]) -> list[bytes]:
    """Puts empty elements in front of large ones, by the credit rule of section 6.2."""
    out: list[bytes] = []
    credit = 0
    for plaintext in plaintexts:
        size = len(plaintext) + ELEMENT_OVERHEAD
        while out and credit + CURE_STEP < size:
            out.append(b"")
            credit += CURE_STEP - ELEMENT_OVERHEAD
        out.append(plaintext)
        credit += CURE_STEP - size
    return out


def frame(
    payload: bytes,
    *,
    level: int = 3,
    checksum: bool = False,
    content_size: bool = False,
    window_log: int | None = None,
    block_bytes: int | None = None,
) -> bytes:
    """One zstd frame; the arguments are those of :func:`write`."""
    changes = {} if window_log is None else {"window_log": window_log}
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_checksum=checksum, write_content_size=content_size, **changes
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    out = io.BytesIO()
    with compressor.stream_writer(out, size=len(payload) if content_size else -1, closefd=False) as writer:
        step = block_bytes or len(payload) or 1
        for at in range(0, len(payload), step):
            writer.write(payload[at : at + step])
            if block_bytes:
                writer.flush(zstandard.FLUSH_BLOCK)
    return out.getvalue()


def assemble(nonce: bytes, zstd: bytes, *, version: int = VERSION) -> bytes:
    """Puts the header in front of a frame."""
    return version.to_bytes(2, "little") + nonce + zstd
