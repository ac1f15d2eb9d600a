"""The rival: what a careful Python user writes with ``cryptography``, ``zstandard`` and ``protobuf``.

It is meant to be beaten fairly. It streams, buffers its reads and writes, uses protobuf's compiled backend, keeps one
cipher and one zstd context, and gives the same answer as the library where it is measured against it. It checks less:
no nonce modes, no limits, no trailing data. On the store side it has SQLite from the standard library, in one transaction
and without encryption, which is all that Python brings along.
"""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal import api_implementation

_COUNTER = 1 << 96
_BUFFER = 1 << 18
_PACKAGE = "benches.rival"

# Field tables of the format: name, number, type, and "*" repeated, "?" with presence, ":Name" of another message.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Metadata": (
        ("elements", 2, "int32*"),
        ("exported_at_ns", 3, "int64"),
        ("start_ns", 4, "int64?"),
        ("end_ns", 5, "int64?"),
    ),
    "Immutable": (("creator_inbox_id", 1, "string"),),
    "Attribute": (("key", 1, "string"), ("value", 2, "string")),
    "Mutable": (
        ("attributes", 1, "message*:Attribute"),
        ("admin_list", 2, "string*"),
        ("super_admin_list", 3, "string*"),
    ),
    "Group": (
        ("id", 1, "bytes"),
        ("created_at_ns", 2, "int64"),
        ("membership_state", 3, "int32"),
        ("installations_last_checked", 4, "int64"),
        ("added_by_inbox_id", 5, "string"),
        ("welcome_id", 6, "int64?"),
        ("rotated_at_ns", 7, "int64"),
        ("conversation_type", 8, "int32"),
        ("dm_id", 9, "string?"),
        ("last_message_ns", 10, "int64?"),
        ("message_disappear_from_ns", 11, "int64?"),
        ("message_disappear_in_ns", 12, "int64?"),
        ("metadata", 13, "message:Immutable"),
        ("mutable_metadata", 14, "message:Mutable"),
        ("paused_for_version", 15, "string?"),
    ),
    "Message": (
        ("id", 1, "bytes"),
        ("group_id", 2, "bytes"),
        ("decrypted_message_bytes", 3, "bytes"),
        ("sent_at_ns", 4, "int64"),
        ("kind", 5, "int32"),
        ("sender_installation_id", 6, "bytes"),
        ("sender_inbox_id", 7, "string"),
        ("delivery_status", 8, "int32"),
        ("content_type_save", 9, "int32"),
        ("version_major", 10, "int32"),
        ("version_minor", 11, "int32"),
        ("authority_id", 12, "string"),
        ("reference_id", 13, "bytes?"),
        ("sequence_id", 14, "int64?"),
        ("originator_id", 15, "int64?"),
        ("content_type", 16, "string"),
    ),
    "Consent": (
        ("entity_type", 1, "int32"),
        ("state", 2, "int32"),
        ("entity", 3, "string"),
        ("consented_at_ns", 4, "int64"),
    ),
    "Element": (
        ("metadata", 1, "message:Metadata"),
        ("group", 2, "message:Group"),
        ("group_message", 3, "message:Message"),
        ("consent", 4, "message:Consent"),
    ),
}


def _element_class() -> Any:
    """Builds the message classes as protoc's generated code would, without generated code."""
    file = descriptor_pb2.FileDescriptorProto(name="benches/rival.proto", package=_PACKAGE, syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "Element":
            message.oneof_decl.add(name="kind")
        for field_name, number, spec in fields:
            scalar, _, referred = spec.partition(":")
            field = message.field.add(name=field_name, number=number, label=kinds.LABEL_OPTIONAL)
            field.type = getattr(kinds, f"TYPE_{scalar.rstrip('*?').upper()}")
            if referred:
                field.type_name = f".{_PACKAGE}.{referred}"
            if scalar.endswith("*"):
                field.label = kinds.LABEL_REPEATED
            elif scalar.endswith("?"):
                field.proto3_optional = True
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
            elif name == "Element":
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Element"))


Element: Any = _element_class()
BACKEND = api_implementation.Type()


class Sink(Protocol):
    """Where an archive is written to."""

    def write(self, data: bytes, /) -> Any: ...


@dataclass(slots=True)
class Report:
    """What an archive holds; the counterpart of the library's ArchiveReport."""

    conversations: int = 0
    messages: int = 0
    consents: int = 0
    elements: int = 0
    plaintext_bytes: int = 0
    first_sent_at_ns: int | None = None
    last_sent_at_ns: int | None = None


@contextlib.contextmanager
def archive_file(target: Path) -> Iterator[Sink]:
    """A file that appears under its name only when it is complete and on the disk."""
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read_elements(source: Path, key: bytes) -> Iterator[tuple[Any, int]]:
    """Every element of an archive that is not empty, with its size."""
    decrypt = AESGCM(key).decrypt
    with source.open("rb") as file:
        header = file.read(14)
        if len(header) != 14 or header[:2] != b"\0\0":
            raise ValueError("not an archive of version 0")
        nonce = int.from_bytes(header[2:], "little")
        inflated = zstandard.ZstdDecompressor().stream_reader(file, read_size=_BUFFER)
        with io.BufferedReader(inflated, _BUFFER) as stream:
            read = stream.read
            while prefix := read(4):
                length = int.from_bytes(prefix, "little")
                plain = decrypt(nonce.to_bytes(12, "little"), read(length), None)
                nonce = (nonce + 1) % _COUNTER
                if plain:
                    yield Element.FromString(plain), len(plain)


class Writer:
    """Seals elements into an archive."""

    def __init__(self, sink: Sink, key: bytes, nonce: int) -> None:
        self._sink = sink
        self._encrypt = AESGCM(key).encrypt
        self._nonce = nonce
        # What zstd sees is ciphertext; more effort than the least is wasted.
        self._stream = zstandard.ZstdCompressor(level=1).compressobj()
        self._pending = bytearray()
        sink.write(b"\0\0" + nonce.to_bytes(12, "little"))

    def write(self, element: Any) -> None:
        sealed = self._encrypt(self._nonce.to_bytes(12, "little"), element.SerializeToString(), None)
        self._nonce = (self._nonce + 1) % _COUNTER
        self._pending += len(sealed).to_bytes(4, "little")
        self._pending += sealed
        if len(self._pending) >= _BUFFER:
            self._sink.write(self._stream.compress(self._pending))
            self._pending.clear()

    def finish(self) -> None:
        self._sink.write(self._stream.compress(self._pending))
        self._sink.write(self._stream.flush())


def decode(source: Path, key: bytes) -> Report:
    """Reads everything and says what is there; the counterpart of ``verify_archive``."""
    report = Report()
    first, last = None, None
    for element, size in read_elements(source, key):
        report.elements += 1
        report.plaintext_bytes += size
        kind = element.WhichOneof("kind")
        if kind == "group_message":
            report.messages += 1
            sent = element.group_message.sent_at_ns
            if first is None or sent < first:
                first = sent
            if last is None or sent > last:
                last = sent
        elif kind == "group":
            report.conversations += 1
        elif kind == "consent":
            report.consents += 1
    report.first_sent_at_ns, report.last_sent_at_ns = first, last
    return report


def rewrite(source: Path, key: bytes, target: Sink, target_key: bytes) -> int:
    """Decodes everything and writes it again, like ``rewrite_archive``. Returns the number of elements."""
    writer = Writer(target, target_key, nonce=12345)
    elements = 0
    for element, _ in read_elements(source, key):
        writer.write(element)
        elements += 1
    writer.finish()
    return elements


# The store of this rival: every field of the format, with the indexes for a conversation's page and for its replies.
_SCHEMA = """
CREATE TABLE groups(id BLOB PRIMARY KEY, element BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE consents(entity_type INTEGER, entity TEXT, state INTEGER, consented_at_ns INTEGER,
    PRIMARY KEY(entity_type, entity)) WITHOUT ROWID;
CREATE TABLE messages(id BLOB PRIMARY KEY, group_id BLOB, content BLOB, sent_at_ns INTEGER, kind INTEGER,
    sender_installation_id BLOB, sender_inbox_id TEXT, delivery_status INTEGER, content_type_save INTEGER,
    version_major INTEGER, version_minor INTEGER, authority_id TEXT, reference_id BLOB, sequence_id INTEGER,
    originator_id INTEGER, content_type TEXT);
CREATE INDEX by_time ON messages(group_id, sent_at_ns, id);
CREATE INDEX by_reference ON messages(reference_id) WHERE reference_id IS NOT NULL;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection with the settings one would choose for a durable store."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    return connection


def create_store(path: Path) -> sqlite3.Connection:
    """A new database."""
    connection = connect(path)
    connection.executescript(_SCHEMA)
    return connection


def _message_row(m: Any) -> tuple[Any, ...]:
    has = m.HasField
    return (
        m.id,
        m.group_id,
        m.decrypted_message_bytes,
        m.sent_at_ns,
        m.kind,
        m.sender_installation_id,
        m.sender_inbox_id,
        m.delivery_status,
        m.content_type_save,
        m.version_major,
        m.version_minor,
        m.authority_id,
        m.reference_id if has("reference_id") else None,
        m.sequence_id if has("sequence_id") else None,
        m.originator_id if has("originator_id") else None,
        m.content_type,
    )


def import_archive(connection: sqlite3.Connection, source: Path, key: bytes) -> Report:
    """Puts an archive into the store in one transaction; the counterpart of ``History.import_archive``."""
    report = Report()
    groups: list[tuple[bytes, bytes]] = []
    consents: list[tuple[int, str, int, int]] = []

    def messages() -> Iterator[tuple[Any, ...]]:
        for element, _ in read_elements(source, key):
            kind = element.WhichOneof("kind")
            if kind == "group_message":
                report.messages += 1
                yield _message_row(element.group_message)
            elif kind == "group":
                groups.append((element.group.id, element.group.SerializeToString()))
            elif kind == "consent":
                c = element.consent
                consents.append((c.entity_type, c.entity, c.state, c.consented_at_ns))

    connection.execute("BEGIN IMMEDIATE")
    marks = ",".join("?" * len(_MESSAGES["Message"]))
    connection.executemany(f"INSERT OR IGNORE INTO messages VALUES({marks})", messages())
    connection.executemany("INSERT OR IGNORE INTO groups VALUES(?,?)", groups)
    connection.executemany(
        "INSERT INTO consents VALUES(?,?,?,?) ON CONFLICT DO UPDATE SET state=excluded.state, "
        "consented_at_ns=excluded.consented_at_ns WHERE excluded.consented_at_ns > consented_at_ns",
        consents,
    )
    connection.execute("COMMIT")
    report.conversations, report.consents = len(groups), len(consents)
    return report


def create_archive(connection: sqlite3.Connection, target: Sink, key: bytes, exported_at_ns: int) -> int:
    """Writes the store as an archive; the counterpart of ``History.create_archive``. Returns the number of elements."""
    writer = Writer(target, key, nonce=54321)
    connection.execute("BEGIN")
    metadata = Element()
    metadata.metadata.elements.extend((1, 2))
    metadata.metadata.exported_at_ns = exported_at_ns
    writer.write(metadata)
    elements = 1
    for (raw,) in connection.execute("SELECT element FROM groups ORDER BY id"):
        element = Element()
        element.group.ParseFromString(raw)
        writer.write(element)
        elements += 1
    message_class = type(Element().group_message)
    names = tuple(name for name, _, _ in _MESSAGES["Message"])
    for row in connection.execute("SELECT * FROM messages ORDER BY id"):
        fields = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        writer.write(Element(group_message=message_class(**fields)))
        elements += 1
    query = "SELECT entity_type, entity, state, consented_at_ns FROM consents ORDER BY entity_type, entity"
    for entity_type, entity, state, consented_at_ns in connection.execute(query):
        element = Element()
        c = element.consent
        c.entity_type, c.entity, c.state, c.consented_at_ns = entity_type, entity, state, consented_at_ns
        writer.write(element)
        elements += 1
    connection.execute("COMMIT")
    writer.finish()
    return elements
