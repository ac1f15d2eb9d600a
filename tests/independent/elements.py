"""Elements of an archive as plain JSON, in the shape of the fixtures' ``expected`` section.

Bytes are hex, an enum is ``{"number": n, "name": "…"}``, an absent optional field is an absent key, and a message's
content is described beside its bytes. Two keys go beyond the fixtures: ``unknown_fields`` (hex) where a
record has any, and a ``decrypted_message_bytes`` that is always there; :func:`abridged` takes it out as fixtures do.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from independent.protobuf import UNKNOWN, DecodeError, Kind, Record, Schema
from independent.schema import BACKUP_ELEMENT, ENCODED_CONTENT, ENUM_NAMES

#: An element: its kind and its content. Kinds are the oneof's members, "empty" (no bytes at all) and "unknown".
Element = tuple[str, Record]

#: Contents longer than this appear in the fixtures by size and hash only.
INLINE_BYTES: Final = 4096

_DERIVED: Final = ("decrypted_message_sha256", "decrypted_message_len", "encoded_content")


def decode_element(plaintext: bytes) -> Element:
    """Decodes one element.

    Raises:
        DecodeError: the bytes are not a BackupElement.
    """
    if not plaintext:
        return "empty", {}
    element = BACKUP_ELEMENT.decode(plaintext)
    beside = {UNKNOWN: element[UNKNOWN].hex()} if UNKNOWN in element else {}
    for field in BACKUP_ELEMENT.fields:
        if field.name in element:
            assert isinstance(field.kind, Schema)
            record = _to_json(field.kind, element[field.name])
            if field.name == "group_message":
                record |= _describe(bytes.fromhex(record["decrypted_message_bytes"]))
            if beside:
                record["element_unknown_fields"] = beside[UNKNOWN]
            return field.name, record
    return "unknown", beside


def encode_element(element: Element | bytes) -> bytes:
    """Encodes one element; bytes are taken as the plaintext itself."""
    if isinstance(element, bytes):
        return element
    kind, record = element
    if kind == "empty":
        return b""
    if kind == "unknown":
        return bytes.fromhex(record[UNKNOWN])
    schema = next(field.kind for field in BACKUP_ELEMENT.fields if field.name == kind)
    assert isinstance(schema, Schema)
    plain = {key: value for key, value in record.items() if key not in _DERIVED}
    beside = bytes.fromhex(plain.pop("element_unknown_fields", ""))
    return BACKUP_ELEMENT.encode({kind: _from_json(schema, plain)}) + beside


def abridged(record: Record) -> Record:
    """A message as the fixtures write it: long contents by size and hash only."""
    if record.get("decrypted_message_len", 0) <= INLINE_BYTES:
        return record
    return {key: value for key, value in record.items() if key != "decrypted_message_bytes"}


def number_of(value: int | dict[str, Any]) -> int:
    """The number of an enum value, given as in the fixtures or plainly."""
    return int(value["number"]) if isinstance(value, dict) else int(value)


def _to_json(schema: Schema, record: Record) -> Record:
    out: Record = {}
    for field in schema.fields:
        if field.name not in record:
            continue
        value = record[field.name]
        if isinstance(field.kind, Schema):
            value = _to_json(field.kind, value)
        elif field.kind is Kind.BYTES:
            value = value.hex()
        elif field.kind is Kind.ENUM and field.name in ENUM_NAMES:
            name = ENUM_NAMES[field.name].get(value)
            value = {"number": value} if name is None else {"number": value, "name": name}
        out[field.name] = value
    if UNKNOWN in record:
        out[UNKNOWN] = record[UNKNOWN].hex()
    return out


def _from_json(schema: Schema, record: Record) -> Record:
    known = {field.name for field in schema.fields} | {UNKNOWN}
    if extra := record.keys() - known:
        raise ValueError(f"no such field: {sorted(extra)}")
    out: Record = {}
    for field in schema.fields:
        if field.name not in record:
            continue
        value = record[field.name]
        if isinstance(field.kind, Schema):
            value = _from_json(field.kind, value)
        elif field.kind is Kind.BYTES:
            value = bytes.fromhex(value)
        elif field.kind is Kind.ENUM and field.name in ENUM_NAMES:
            value = number_of(value)
        out[field.name] = value
    if UNKNOWN in record:
        out[UNKNOWN] = bytes.fromhex(record[UNKNOWN])
    return out


def _describe(content: bytes) -> Record:
    """What the fixtures say about a message's content: hash, size, and the EncodedContent in it."""
    return {
        "decrypted_message_sha256": hashlib.sha256(content).hexdigest(),
        "decrypted_message_len": len(content),
        "encoded_content": describe_content(content),
    }


def describe_content(content: bytes) -> Record:
    """The EncodedContent in a message's bytes, or a note that there is none."""
    try:
        encoded = ENCODED_CONTENT.decode(content)
    except DecodeError as error:
        return {"undecodable": str(error)}
    out: Record = {}
    if "type" in encoded:
        kind = encoded["type"]
        out["type"] = f"{kind['authority_id']}/{kind['type_id']}:{kind['version_major']}.{kind['version_minor']}"
    if encoded["parameters"]:
        out["parameters"] = encoded["parameters"]
    for key in ("fallback", "compression"):
        if key in encoded:
            out[key] = encoded[key]
    try:
        if "compression" not in encoded:
            out["content_text"] = encoded["content"].decode()
    except UnicodeDecodeError:
        pass
    return out | {"content_len": len(encoded["content"])}


def plain(record: Record) -> Record:
    """A record without what can be derived: enums as numbers, no description of the content. Good for comparing."""
    return {key: _plain_value(key, value) for key, value in record.items() if key not in _DERIVED}


def _plain_value(key: str, value: Any) -> Any:
    if isinstance(value, dict) and "number" in value:
        return value["number"]
    return plain(value) if key in {"metadata", "mutable_metadata"} else value
