"""Archives to measure with: the same bytes for the same size, as an XMTP client would export them.

Fifty groups, eight senders, text messages of mixed length, a consent record for every group and every sender. Ids
ascend, as in the reference's exports, so messages are in no order of time. Every element stays below 1 KiB on the wire,
because the reference's reader hangs on longer ones.

The records are put together by hand from prepared parts and not through a protobuf library: a million of them take
seconds that way. The result is kept in a cache folder; delete the folder to make the archives anew.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path

import plan
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# Counts up when the generator's output changes, so that nobody measures with the archives of an older one.
GENERATION = 2
KEY = bytes(range(32))
GROUPS = 50
SENDERS = 8
TEXTS = 4_096
START_NS = 1_735_689_600 * 10**9
SPAN_NS = 365 * 24 * 3600 * 10**9
TEXT_LENGTHS = (4, 12, 25, 40, 60, 90, 130, 200, 320, 480)
PROSE = (
    "the meeting moves to friday please check your wallet before noon thanks everyone grüße 👍 where did we leave "
    "the contract draft it is in the shared folder can you sign today maybe later ok great see you there what about "
    "the gas fees they were lower yesterday let me look again done sent confirmed"
)
_COUNTER = 1 << 96
_FLUSH = 1 << 20


@dataclass(frozen=True, slots=True)
class Dataset:
    """An archive and what is in it.

    Attributes:
        path: where the archive is.
        messages: how many messages it holds.
        conversations: how many conversations.
        consents: how many consent records.
        elements: all of these and the metadata.
        plaintext_bytes: size of the records before encryption.
        archive_bytes: size of the file.
        first_sent_at_ns: time of the oldest message.
        last_sent_at_ns: time of the newest message.
    """

    path: Path
    messages: int
    conversations: int
    consents: int
    elements: int
    plaintext_bytes: int
    archive_bytes: int
    first_sent_at_ns: int
    last_sent_at_ns: int


def dataset(messages: int, folder: Path | None = None) -> Dataset:
    """The archive with this many messages, from the cache or made now."""
    folder = folder or plan.cache()
    path = folder / f"bench-{GENERATION}-{messages}.xmtp"
    facts = path.with_suffix(".json")
    if not (path.exists() and facts.exists()):
        partial = path.with_suffix(f".{os.getpid()}.partial")
        made = _write(partial, messages)
        facts.write_text(json.dumps({k: v for k, v in asdict(made).items() if k != "path"}))
        partial.replace(path)
    return Dataset(path=path, **json.loads(facts.read_text()))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _text(chooser: random.Random, length: int) -> bytes:
    """Words up to exactly this many bytes of valid UTF-8."""
    words = PROSE.split()
    text = ""
    while len(text.encode()) < length:
        text += chooser.choice(words) + " "
    cut = text.encode()[:length].decode(errors="ignore").encode()
    return cut + b"." * (length - len(cut))


def _content(text: bytes) -> bytes:
    """An EncodedContent of type ``xmtp.org/text:1.0``."""
    kind = _bytes(1, "xmtp.org") + _bytes(2, "text") + _number(3, 1)
    return _bytes(1, kind) + _bytes(2, _bytes(1, "encoding") + _bytes(2, "UTF-8")) + _bytes(4, text)


def _group(group_id: bytes, name: str, owner: str, member: str, last_message_ns: int) -> bytes:
    # An empty value is not written.
    empty = b"".join(_bytes(1, _bytes(1, key)) for key in ("description", "group_image_url_square", "app_data"))
    attributes = _bytes(1, _bytes(1, "group_name") + _bytes(2, name)) + empty
    record = (
        _bytes(1, group_id)
        + _number(2, START_NS)
        + _number(3, 1)
        + _number(4, START_NS)
        + _bytes(5, owner)
        + _number(7, START_NS)
        + _number(8, 1)
        + _number(10, last_message_ns)
        + _bytes(13, _bytes(1, owner))
        + _bytes(14, attributes + _bytes(2, member) + _bytes(3, owner))
    )
    return _bytes(2, record)


class _Writer:
    """Seals elements one after the other and feeds the zstd stream, with the reference's own parameters."""

    def __init__(self, path: Path, nonce: int) -> None:
        self.elements = self.plaintext_bytes = 0
        self._file = path.open("wb")
        self._nonce = nonce
        self._seal = AESGCM(KEY).encrypt
        effort = zstandard.ZstdCompressionParameters.from_level(3, window_log=21, write_content_size=False)
        self._stream = zstandard.ZstdCompressor(compression_params=effort).compressobj()
        self._pending = bytearray()
        self._file.write(struct.pack("<H", 0) + nonce.to_bytes(12, "little"))

    def element(self, plain: bytes) -> None:
        nonce = ((self._nonce + self.elements) % _COUNTER).to_bytes(12, "little")
        self._pending += (len(plain) + 16).to_bytes(4, "little")
        self._pending += self._seal(nonce, plain, None)
        self.elements += 1
        self.plaintext_bytes += len(plain)
        if len(self._pending) >= _FLUSH:
            self._file.write(self._stream.compress(bytes(self._pending)))
            self._pending.clear()

    def finish(self) -> int:
        self._file.write(self._stream.compress(bytes(self._pending)) + self._stream.flush())
        size = self._file.tell()
        self._file.close()
        return size


def _write(path: Path, messages: int) -> Dataset:
    """Writes the archive; the order of the draws below is what makes it deterministic."""
    chooser = random.Random(messages)
    groups = sorted(chooser.randbytes(16) for _ in range(GROUPS))
    inboxes = sorted(chooser.randbytes(32).hex() for _ in range(SENDERS))
    installations = [chooser.randbytes(32) for _ in range(SENDERS)]
    contents = [_bytes(3, _content(_text(chooser, chooser.choice(TEXT_LENGTHS)))) for _ in range(TEXTS)]
    raw = chooser.randbytes(32 * messages)
    ids = sorted(raw[at : at + 32] for at in range(0, len(raw), 32))
    drawn = array("Q", chooser.randbytes(8 * messages))
    times = [START_NS + value % SPAN_NS for value in drawn]
    in_group = chooser.choices(range(GROUPS), k=messages)
    by_sender = chooser.choices(range(SENDERS), k=messages)
    with_content = chooser.choices(contents, k=messages)
    # The network numbers messages in the order it receives them.
    numbers = [0] * messages
    for number, at in enumerate(sorted(range(messages), key=times.__getitem__), 1):
        numbers[at] = number
    newest = [START_NS] * GROUPS
    for group, sent in zip(in_group, times, strict=True):
        newest[group] = max(newest[group], sent)

    writer = _Writer(path, nonce=int.from_bytes(chooser.randbytes(12), "little"))
    writer.element(_bytes(1, _bytes(2, b"\x01\x02") + _number(3, START_NS + SPAN_NS)))
    for at, group_id in enumerate(groups):
        writer.element(_group(group_id, f"Conversation {at}", inboxes[0], inboxes[1 + at % (SENDERS - 1)], newest[at]))

    group_parts = [_bytes(2, group_id) for group_id in groups]
    sender_parts = [
        _number(5, 1) + _bytes(6, key) + _bytes(7, inbox) + _number(8, 2) + _number(10, 1) + _bytes(12, "xmtp.org")
        for key, inbox in zip(installations, inboxes, strict=True)
    ]
    tail = _number(15, 10) + _bytes(16, "text")
    for at, message_id in enumerate(ids):
        record = b"".join(
            (
                b"\x0a\x20",
                message_id,
                group_parts[in_group[at]],
                with_content[at],
                b"\x20",
                _varint(times[at]),
                sender_parts[by_sender[at]],
                b"\x70",
                _varint(numbers[at]),
                tail,
            )
        )
        writer.element(b"\x1a" + _varint(len(record)) + record)

    entities = [(1, group_id.hex()) for group_id in groups] + [(2, inbox) for inbox in inboxes]
    for entity_type, entity in entities:
        record = _number(1, entity_type) + _number(2, 2) + _bytes(3, entity) + _number(4, START_NS)
        writer.element(_bytes(4, record))
    archive_bytes = writer.finish()
    return Dataset(
        path=path,
        messages=messages,
        conversations=GROUPS,
        consents=len(entities),
        elements=writer.elements,
        plaintext_bytes=writer.plaintext_bytes,
        archive_bytes=archive_bytes,
        first_sent_at_ns=min(times, default=0),
        last_sent_at_ns=max(times, default=0),
    )


if __name__ == "__main__":
    for count in [int(text) for text in sys.argv[1:]] or plan.sizes():
        print(dataset(count))
