"""Protobuf, proto3, by hand: the wire format and declarative message schemas.

Unlike the usual runtimes it keeps what matters for checking an archive: whether an optional field was present, the raw
number of an unknown enum value, and the exact bytes of unknown fields.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT: Final = 0
FIXED64: Final = 1
LENGTH: Final = 2
FIXED32: Final = 5

#: Key under which a decoded message keeps the bytes of the fields that its schema does not name.
UNKNOWN: Final = "unknown_fields"

Record: TypeAlias = dict[str, Any]


class DecodeError(ValueError):
    """The bytes are not a valid protobuf message."""


# --- wire format -----------------------------------------------------------------------------------------------------


def encode_varint(value: int) -> bytes:
    """Encodes a number the way protobuf does: negative ones as 64-bit two's complement."""
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the unsigned 64-bit number at a position and the position after it."""
    value = 0
    for length in range(10):
        if at >= len(data):
            raise DecodeError("varint is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * length)
        if byte < 0x80:
            if value >= 2**64:
                break
            return value, at
    raise DecodeError("varint is longer than 64 bits")


def field_bytes(number: int, value: int | bytes) -> bytes:
    """One field as it stands on the wire: a varint for an int, length-delimited for bytes."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value)
    return encode_varint(number << 3 | LENGTH) + encode_varint(len(value)) + value


def wire_fields(data: bytes) -> Iterator[tuple[int, int, int | bytes, bytes]]:
    """Yields number, wire type, value and the field's own bytes, in order."""
    at = 0
    while at < len(data):
        start = at
        tag, at = read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise DecodeError("field number out of range")
        value: int | bytes
        if wire_type == VARINT:
            value, at = read_varint(data, at)
        else:
            if wire_type == LENGTH:
                size, at = read_varint(data, at)
            elif wire_type in (FIXED64, FIXED32):
                size = 8 if wire_type == FIXED64 else 4
            else:
                raise DecodeError(f"wire type {wire_type} is not used in proto3")
            value = data[at : at + size]
            if len(value) != size:
                raise DecodeError("field is cut off")
            at += size
        yield number, wire_type, value, data[start:at]


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


# --- schemas ---------------------------------------------------------------------------------------------------------


class Kind(enum.Enum):
    """Type of a scalar field."""

    INT64 = "int64"
    INT32 = "int32"
    UINT32 = "uint32"
    ENUM = "enum"
    STRING = "string"
    BYTES = "bytes"


class Label(enum.Enum):
    """How often a field occurs, and what its absence means."""

    IMPLICIT = "implicit"  # absent is the zero value, and the zero value is not written
    OPTIONAL = "optional"  # absent is not the zero value; every message field is of this kind
    REPEATED = "repeated"
    MAP = "map"  # string to string


_ZERO: Final[dict[Kind, Any]] = {
    Kind.INT64: 0,
    Kind.INT32: 0,
    Kind.UINT32: 0,
    Kind.ENUM: 0,
    Kind.STRING: "",
    Kind.BYTES: b"",
}


def _encode_scalar(kind: Kind, value: Any) -> int | bytes:
    if kind is Kind.STRING:
        return str(value).encode()
    return bytes(value) if kind is Kind.BYTES else int(value)


def _decode_scalar(kind: Kind, value: int | bytes) -> Any:
    if kind is Kind.STRING:
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise DecodeError("string is not UTF-8") from None
    if isinstance(value, bytes):
        return value
    if kind is Kind.UINT32:
        return value & 0xFFFFFFFF
    return _signed(value, 64 if kind is Kind.INT64 else 32)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: a scalar of some kind, or a message of its own."""

    number: int
    name: str
    kind: Kind | Schema
    label: Label = Label.IMPLICIT

    @property
    def wire_type(self) -> int:
        text = isinstance(self.kind, Schema) or self.kind in (Kind.STRING, Kind.BYTES) or self.label is Label.MAP
        return LENGTH if text else VARINT


class Schema:
    """A message type. Records are dictionaries by field name; absent optional fields are absent keys."""

    def __init__(self, *fields: Field, oneof: bool = False) -> None:
        self.fields = fields
        self._by_number = {field.number: field for field in fields}
        self._oneof = oneof

    def encode(self, record: Record) -> bytes:
        """Serializes a record in field order, unknown fields last."""
        out = bytearray()
        for field in self.fields:
            if field.name in record:
                out += self._encode_field(field, record[field.name])
        return bytes(out + record.get(UNKNOWN, b""))

    def decode(self, data: bytes) -> Record:
        """Parses a record by proto3's rules: the last scalar wins, repeated messages merge.

        Raises:
            DecodeError: the bytes are not a valid message of this type.
        """
        record: Record = {}
        self._merge(record, data)
        self._fill(record)
        return record

    @staticmethod
    def _encode_field(field: Field, value: Any) -> bytes:
        if isinstance(field.kind, Schema):
            return field_bytes(field.number, field.kind.encode(value))
        if field.label is Label.MAP:
            return b"".join(field_bytes(field.number, _ENTRY.encode({"key": k, "value": v})) for k, v in value.items())
        if field.label is Label.REPEATED:
            items = [_encode_scalar(field.kind, item) for item in value]
            if field.wire_type == LENGTH:
                return b"".join(field_bytes(field.number, item) for item in items)
            return field_bytes(field.number, b"".join(encode_varint(int(item)) for item in items)) if items else b""
        if field.label is Label.IMPLICIT and value == _ZERO[field.kind]:
            return b""
        return field_bytes(field.number, _encode_scalar(field.kind, value))

    def _merge(self, record: Record, data: bytes) -> None:
        for number, wire_type, value, raw in wire_fields(data):
            field = self._by_number.get(number)
            if field is None:
                record[UNKNOWN] = record.get(UNKNOWN, b"") + raw
                continue
            packed = field.label is Label.REPEATED and field.wire_type == VARINT and wire_type == LENGTH
            if wire_type != field.wire_type and not packed:
                raise DecodeError(f"field {field.name} has wire type {wire_type}")
            if self._oneof:
                for other in self.fields:
                    if other is not field:
                        record.pop(other.name, None)
            self._merge_field(record, field, value, packed=packed)

    @staticmethod
    def _merge_field(record: Record, field: Field, value: int | bytes, *, packed: bool) -> None:
        if isinstance(field.kind, Schema):
            field.kind._merge(record.setdefault(field.name, {}), bytes(value))
        elif field.label is Label.MAP:
            entry = _ENTRY.decode(bytes(value))
            record.setdefault(field.name, {})[entry["key"]] = entry["value"]
        elif packed:
            at, items = 0, bytes(value)
            numbers = record.setdefault(field.name, [])
            while at < len(items):
                item, at = read_varint(items, at)
                numbers.append(_decode_scalar(field.kind, item))
        elif field.label is Label.REPEATED:
            record.setdefault(field.name, []).append(_decode_scalar(field.kind, value))
        else:
            record[field.name] = _decode_scalar(field.kind, value)

    def _fill(self, record: Record) -> None:
        for field in self.fields:
            if isinstance(field.kind, Schema):
                if field.name in record:
                    field.kind._fill(record[field.name])
            elif field.label is Label.MAP:
                record.setdefault(field.name, {})
            elif field.label is Label.REPEATED:
                record.setdefault(field.name, [])
            elif field.label is Label.IMPLICIT:
                record.setdefault(field.name, _ZERO[field.kind])


_ENTRY: Final = Schema(Field(1, "key", Kind.STRING), Field(2, "value", Kind.STRING))
