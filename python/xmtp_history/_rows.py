"""Records and reports between their rows (see ``rust/ffi/rows.rs``) and their dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, make_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from xmtp_history._types import (
    ArchiveElement,
    ArchiveMetadata,
    ArchiveReport,
    Consent,
    ConsentEntityType,
    ConsentState,
    Conversation,
    ConversationType,
    Counts,
    DeliveryStatus,
    ImportReport,
    InvalidRecord,
    MembershipState,
    Message,
    MessageKind,
)

if TYPE_CHECKING:
    import enum
    from collections.abc import Iterable, Iterator

_Record = TypeVar("_Record", Conversation, Message, Consent)


# A frozen dataclass sets its fields one by one through object.__setattr__, which takes five times as long as a plain one. So
# messages, of which there can be millions, are made as a plain twin with the same slots, and then become what they are.
_new_message: Any = make_dataclass(
    "_MessageTwin", [(field.name, Any, None) for field in fields(Message)], slots=True, eq=False, repr=False
)


def _by_number(kind: type[enum.Enum]) -> dict[int, Any]:
    return {member.value: member for member in kind}


# A lookup is several times faster than calling the enumeration, and lets unknown numbers through.
_ELEMENTS = _by_number(ArchiveElement)
_CONVERSATION_TYPES = _by_number(ConversationType)
_MEMBERSHIP_STATES = _by_number(MembershipState)
_MESSAGE_KINDS = _by_number(MessageKind)
_DELIVERY_STATUSES = _by_number(DeliveryStatus)
_ENTITY_TYPES = _by_number(ConsentEntityType)
_CONSENT_STATES = _by_number(ConsentState)


def records(batch: list[Any], blob: bytes) -> Iterator[Conversation | Message | Consent]:
    """The records of a batch, in order."""
    groups, headers, runs = batch
    for header in headers:
        header[0] = _MESSAGE_KINDS.get(header[0], header[0])
    start = 0
    for kind, rows in runs:
        if kind == "m":
            for row in rows:
                message, start = _message(row, groups, headers, blob, start)
                yield message
        elif kind == "g":
            yield from map(_conversation, rows)
        else:
            for entity_type, state, entity, consented_at_ns in rows:
                yield Consent(
                    _ENTITY_TYPES.get(entity_type, entity_type),
                    _CONSENT_STATES.get(state, state),
                    entity,
                    consented_at_ns,
                )


def _message(
    row: list[Any], groups: list[str], headers: list[list[Any]], blob: bytes, start: int
) -> tuple[Message, int]:
    """A message, and where in the blob its content ends."""
    id_, group, sent_at_ns, header, status, end, reference_id, expire_at_ns, sequence_id, originator_id, deleted_by = (
        row
    )
    kind, inbox_id, installation_id, content_type, authority_id, major, minor, content_type_save = headers[header]
    message = _new_message(
        id_,
        groups[group],
        sent_at_ns,
        kind,
        inbox_id,
        installation_id,
        _DELIVERY_STATUSES.get(status, status),
        content_type,
        blob[start:end],
        reference_id,
        expire_at_ns,
        sequence_id,
        originator_id,
        authority_id,
        major,
        minor,
        content_type_save,
        deleted_by,
    )
    message.__class__ = Message
    return message, end


def _conversation(row: list[Any]) -> Conversation:
    row[1] = _CONVERSATION_TYPES.get(row[1], row[1])
    row[11], row[12] = tuple(row[11]), tuple(row[12])
    row[13] = _MEMBERSHIP_STATES.get(row[13], row[13])
    return Conversation(*row)


def _checked(records: Iterable[_Record], kind: type[_Record]) -> Iterator[_Record]:
    """The records, if they are of the right kind."""
    for index, record in enumerate(records):
        if not isinstance(record, kind):
            msg = f"record {index} is a {type(record).__name__}, not a {kind.__name__}"
            raise TypeError(msg)
        yield record


#: Fields that the format keeps in 32 bits; all other integers have 64.
_NARROW = frozenset(
    {
        "conversation_type",
        "membership_state",
        "kind",
        "delivery_status",
        "version_major",
        "version_minor",
        "content_type_save",
        "entity_type",
        "state",
    }
)


def misfit(records: Iterable[Any]) -> str | None:
    """Names the first field whose value cannot be stored.

    The native library refuses such a list, but cannot say more than that; so this is only asked then.
    """
    for index, record in enumerate(records):
        for field in fields(record):
            value = getattr(record, field.name)
            kind = str(field.type)
            if value is None and kind.endswith("None"):
                continue
            problem = _number_problem(field.name, value) if "int" in kind.split() else _text_problem(kind, value)
            if problem is not None:
                return f"record {index}: {field.name}: {problem}"
    return None


def _number_problem(name: str, value: object) -> str | None:
    if not isinstance(value, int):
        return f"must be an integer, not {type(value).__name__}"
    limit = 2 ** (31 if name in _NARROW else 63)
    return None if -limit <= value < limit else "out of range"


def _text_problem(kind: str, value: object) -> str | None:
    texts: Iterable[object] = ()
    if kind.startswith("str"):
        texts = (value,)
    elif isinstance(value, Mapping):
        texts = (*value.keys(), *value.values())
    elif isinstance(value, tuple | list):
        texts = value
    for text in texts:
        if not isinstance(text, str):
            return f"must be text, not {type(text).__name__}"
        if not text.isprintable() and text != text.encode(errors="ignore").decode():
            return "has characters that are not Unicode"
    return None


def conversation_rows(conversations: Iterable[Conversation]) -> list[list[Any]]:
    """Rows of conversations."""
    return [
        [
            record.id,
            record.conversation_type,
            record.name,
            record.description,
            record.image_url_square,
            record.app_data,
            record.created_at_ns,
            record.last_message_ns,
            record.dm_id,
            record.creator_inbox_id,
            record.added_by_inbox_id,
            record.admins,
            record.super_admins,
            record.membership_state,
            record.is_active,
            record.message_disappear_from_ns,
            record.message_disappear_in_ns,
            record.installations_last_checked,
            record.rotated_at_ns,
            record.welcome_id,
            record.paused_for_version,
            dict(record.attributes),
        ]
        for record in _checked(conversations, Conversation)
    ]


def message_rows(messages: Iterable[Message]) -> tuple[list[list[Any]], bytes]:
    """Rows of messages, and the blob with their content."""
    rows: list[list[Any]] = []
    contents: list[bytes] = []
    end = 0
    for record in _checked(messages, Message):
        contents.append(record.content)
        end += len(record.content)
        rows.append(
            [
                record.id,
                record.conversation_id,
                record.sent_at_ns,
                record.kind,
                record.sender_inbox_id,
                record.sender_installation_id,
                record.delivery_status,
                record.content_type,
                end,
                record.reference_id,
                record.expire_at_ns,
                record.sequence_id,
                record.originator_id,
                record.authority_id,
                record.version_major,
                record.version_minor,
                record.content_type_save,
                record.deleted_by_inbox_id,
            ]
        )
    return rows, b"".join(contents)


def consent_rows(consents: Iterable[Consent]) -> list[list[Any]]:
    """Rows of consent records."""
    return [
        [record.entity_type, record.state, record.entity, record.consented_at_ns]
        for record in _checked(consents, Consent)
    ]


def metadata(row: list[Any]) -> ArchiveMetadata:
    """An archive's metadata."""
    version, elements, exported_at_ns, start_ns, end_ns = row
    return ArchiveMetadata(
        version,
        tuple(_ELEMENTS.get(number, number) for number in elements),
        exported_at_ns,
        start_ns,
        end_ns,
    )


def _invalid(rows: list[Any]) -> tuple[InvalidRecord, ...]:
    return tuple(InvalidRecord(*row) for row in rows)


def archive_report(report: dict[str, Any]) -> ArchiveReport:
    """What an archive holds."""
    report["metadata"] = metadata(report["metadata"])
    report["counts"] = Counts(*report["counts"])
    report["invalid_records"] = _invalid(report["invalid_records"])
    return ArchiveReport(**report)


def import_report(report: dict[str, Any]) -> ImportReport:
    """What an import did."""
    for name in ("new", "duplicate", "updated", "skipped"):
        report[name] = Counts(*report[name])
    report["invalid_records"] = _invalid(report["invalid_records"])
    if report["metadata"] is not None:
        report["metadata"] = metadata(report["metadata"])
    return ImportReport(**report)
