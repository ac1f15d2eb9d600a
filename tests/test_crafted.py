"""110 hand-made archives: each is accepted or refused as the format requires, and a refused one leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from independent import read
from independent.elements import plain
from support import public
from support.data import CraftedCase, crafted, crafted_cases, crafted_inbox, crafted_key
from support.store import exported_records, snapshot
from xmtp_history import (
    ArchiveCorrupted,
    ArchiveElement,
    ArchiveError,
    ArchiveKeyError,
    ArchiveLimitExceeded,
    ArchiveTruncated,
    Counts,
    History,
    ImportReport,
    InvalidRecords,
    MembershipState,
    NotAnArchive,
    UnsupportedArchiveVersion,
    archive_metadata,
    open_archive,
    verify_archive,
)

KEY = crafted_key()

#: The exception for each condition of the format. "Zstd" says several things, so those cases are listed by name.
CLASSES: dict[str, type[ArchiveError]] = {
    "HeaderTruncated": ArchiveTruncated,
    "TruncatedElement": ArchiveTruncated,
    "UnsupportedVersion": UnsupportedArchiveVersion,
    "WrongKeyOrCorrupt": ArchiveKeyError,
    "AuthFailed": ArchiveCorrupted,
    "BadElementLength": ArchiveCorrupted,
    "Decode": ArchiveCorrupted,
    "MissingMetadata": ArchiveCorrupted,
    "TrailingData": ArchiveCorrupted,
    "ElementTooLarge": ArchiveLimitExceeded,
}
ZSTD_CLASSES: dict[str, type[ArchiveError]] = {
    "checksum_bad": ArchiveCorrupted,
    "windowlog28": ArchiveLimitExceeded,
    "windowlog30": ArchiveLimitExceeded,
    "windowlog31": ArchiveLimitExceeded,
    "skippable_first": NotAnArchive,
    "not_zstd": NotAnArchive,
    "gzip": NotAnArchive,
    "flip_zstd_magic": NotAnArchive,
    "hdr14_only": ArchiveTruncated,
    "flip_zstd_fhd": ArchiveCorrupted,
    # the flag of the last block is gone, so the frame never ends
    "flip_block_hdr": ArchiveTruncated,
}

ACCEPTED = [case for case in crafted_cases() if case.accepted]
REFUSED = [case for case in crafted_cases() if not case.accepted]
SOUND = [case for case in ACCEPTED if not case.name.startswith("rec_")]
RECORDS = [case for case in ACCEPTED if case.name.startswith("rec_")]

by_name = pytest.mark.parametrize


def _name(case: CraftedCase) -> str:
    return case.name


def _classes(case: CraftedCase) -> tuple[type[ArchiveError], ...]:
    if case.reasons == ("Zstd",):
        return (ZSTD_CLASSES[case.name],)
    return tuple(CLASSES[reason] for reason in case.reasons)


def test_all_cases_are_here() -> None:
    assert len(crafted_cases()) == 110
    assert (len(SOUND), len(RECORDS), len(REFUSED)) == (27, 16, 67)


# --- refused ---------------------------------------------------------------------------------------------------------


def _drain(case: CraftedCase) -> None:
    with open_archive(case.data, KEY) as reader:
        list(reader)


@pytest.mark.parametrize("read_it", [_drain, lambda case: verify_archive(case.data, KEY)], ids=["open", "verify"])
@pytest.mark.parametrize("case", REFUSED, ids=_name)
def test_refused_when_read(case: CraftedCase, read_it: Callable[[CraftedCase], Any]) -> None:
    with pytest.raises(_classes(case)) as caught:
        read_it(case)
    error = caught.value
    assert type(error) in _classes(case), "not one of its subclasses"
    assert error.reason in (*case.reasons, "NotAnArchive")
    if "element >= 1" in case.required:
        assert error.element is not None
        assert error.element >= 1
    elif "element 0" in case.required:
        assert error.element == 0


@pytest.mark.parametrize("case", REFUSED, ids=_name)
def test_refused_at_import_without_a_trace(case: CraftedCase, history: History) -> None:
    history.import_archive(crafted("drop_last").data, KEY)
    before = snapshot(history)
    with pytest.raises(_classes(case)):
        history.import_archive(case.data, KEY)
    with pytest.raises(_classes(case)):
        history.import_archive(case.data, KEY, lenient=True)
    assert snapshot(history) == before


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("flip_el1_ct", 1),
        ("flip_el1_tag", 1),
        ("flip_el2_ct", 2),
        ("flip_el4_tag", 4),
        ("replay_meta", 2),  # a repeated first element looks like the second one of a legacy archive
        ("zero_len_first", 0),
        ("zero_len_end", 5),
        ("trail_plain1", 5),
        ("trail_len_nobody", 5),
        ("len_ffffffff", 5),
        ("len15_elem", 5),
        ("inc_then_const", None),
        ("drop_elem", None),
        ("swap_elem", None),
        ("gap", None),
        ("bad_proto", None),
    ],
)
def test_errors_say_where(name: str, element: int | None) -> None:
    """The element, and an offset in the inflated stream that is where the independent reader finds it."""
    case = crafted(name)
    with pytest.raises(ArchiveError) as caught:
        verify_archive(case.data, KEY)
    if element is None:
        from independent import ArchiveFaultError

        with pytest.raises(ArchiveFaultError) as fault:
            read(case.data, KEY)
        element = fault.value.index
    assert caught.value.element == element
    assert caught.value.offset is not None
    assert caught.value.offset >= 0


# --- accepted --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SOUND, ids=_name)
def test_accepted(case: CraftedCase, history: History) -> None:
    """The same records as the independent reader finds, in the reader's order, in the store and in an export of it."""
    archive = read(case.data, KEY)
    with open_archive(case.data, KEY) as reader:
        assert list(reader) == [public.public(element) for element in archive.records]
        assert reader.metadata == public.metadata(archive.metadata)
    report = history.import_archive(case.data, KEY)
    found = [len(archive.of_kind(kind)) for kind in ("group", "group_message", "consent")]
    assert report.new == Counts(*found)
    assert history.counts() == Counts(*found)
    groups = [public.restored(record) for record in archive.of_kind("group")]
    newest = max((record["sent_at_ns"] for record in archive.of_kind("group_message")), default=None)
    assert [entry.id for entry in history.conversations()] == [entry.id for entry in groups]
    assert all(entry.last_message_ns == newest for entry in history.conversations())
    # What stands beside a record is no part of it; what stands in it is.
    records = [plain(record) for _, record in archive.records]
    inside = [{k: v for k, v in record.items() if k != "element_unknown_fields"} for record in records]
    assert [record for _, record in exported_records(history)] == inside
    assert report.legacy is archive.legacy
    assert report.unknown_elements == sum(kind in ("unknown", "event") for kind, _ in archive.elements)
    assert verify_archive(case.data, KEY).unknown_elements == report.unknown_elements


def test_legacy_is_reported() -> None:
    assert verify_archive(crafted("legacy_const").data, KEY).legacy is True
    assert verify_archive(crafted("ok").data, KEY).legacy is False
    assert verify_archive(crafted("meta_only").data, KEY).legacy is False


def test_unknown_selection_numbers_are_kept() -> None:
    assert archive_metadata(crafted("meta_unknown_enum").data, KEY).elements == (ArchiveElement.MESSAGES, 9)


def test_an_empty_element_is_counted_as_an_element_only() -> None:
    ok, padded = (verify_archive(crafted(name).data, KEY) for name in ("ok", "empty_plain_elem"))
    assert padded.counts == ok.counts
    assert padded.unknown_elements == 0


# --- records ---------------------------------------------------------------------------------------------------------


def _records(name: str, kind: str) -> list[dict[str, Any]]:
    return read(crafted(name).data, KEY).of_kind(kind)


def _import(history: History, name: str, **options: Any) -> ImportReport:
    return history.import_archive(crafted(name).data, KEY, **options)


def _refused(history: History, name: str) -> list[tuple[int, str, str]]:
    """Imports strictly, expects a refusal without a trace, and returns element, kind and field of each record."""
    with pytest.raises(InvalidRecords) as caught:
        _import(history, name)
    assert history.counts() == Counts()
    assert exported_records(history) == []
    assert caught.value.reason == "InvalidRecord"
    assert caught.value.element == caught.value.records[0].element
    found = [(record.element, record.kind, record.field) for record in caught.value.records]
    reported = verify_archive(crafted(name).data, KEY).invalid_records
    assert [(record.element, record.kind, record.field) for record in reported] == found
    return found


@pytest.mark.parametrize("case", RECORDS, ids=_name)
def test_records_can_be_read_whatever_they_hold(case: CraftedCase) -> None:
    """A reader shows what is there; only an import has to mean something by it."""
    with open_archive(case.data, KEY) as reader:
        assert list(reader) == [public.public(element) for element in read(case.data, KEY).records]


def test_rec_group_all_fields(history: History) -> None:
    _import(history, "rec_group_all_fields")
    (record,) = _records("rec_group_all_fields", "group")
    stored = history.conversation(record["id"])
    assert stored == public.restored(record)
    assert stored is not None
    assert (stored.creator_inbox_id, stored.welcome_id, stored.paused_for_version) == ("someone else", 77, "9.9")
    assert (stored.message_disappear_from_ns, stored.message_disappear_in_ns, stored.last_message_ns) == (10, 20, 123)
    assert exported_records(history) == [("group", plain(record))], "membership state 2 comes back at export"


def test_rec_group_half_disappearing(history: History) -> None:
    _import(history, "rec_group_half_disappearing")
    (stored,) = history.conversations()
    assert (stored.message_disappear_from_ns, stored.message_disappear_in_ns) == (None, 20)


def test_rec_group_enum_values(history: History) -> None:
    invalid = [(element, "conversation", "conversation_type") for element in (1, 2, 3)]
    assert _refused(history, "rec_group_enum_values") == invalid
    report = _import(history, "rec_group_enum_values", lenient=True)
    assert report.new == Counts(conversations=2)
    assert report.skipped == Counts(conversations=3)
    assert [(record.element, record.kind, record.field) for record in report.invalid_records] == invalid
    assert {entry.id for entry in history.conversations()} == {"04" * 16, "05" * 16}
    assert {entry.membership_state for entry in history.conversations()} == {MembershipState.RESTORED}
    states = [record["membership_state"] for _, record in exported_records(history)]
    assert states == [0, 99], "raw numbers are kept"


def test_rec_group_id_sizes(history: History) -> None:
    count = len(_records("rec_group_id_sizes", "group"))
    assert _refused(history, "rec_group_id_sizes") == [(n, "conversation", "id") for n in range(1, count + 1)]
    assert _import(history, "rec_group_id_sizes", lenient=True).skipped == Counts(conversations=count)
    assert history.counts() == Counts()


def test_rec_dm_ok(history: History) -> None:
    report = _import(history, "rec_dm_ok", inbox_id=crafted_inbox())
    (record,) = _records("rec_dm_ok", "group")
    assert list(history.conversations()) == [public.restored(record)]
    assert list(history.consents()) == [], "importing a DM is not allowing it"
    assert report.foreign_dms == 0


def test_rec_dm_no_dmid(history: History) -> None:
    assert _refused(history, "rec_dm_no_dmid") == [(1, "conversation", "dm_id")]
    report = _import(history, "rec_dm_no_dmid", lenient=True)
    (message,) = _records("rec_dm_no_dmid", "group_message")
    assert (report.skipped, report.orphans) == (Counts(conversations=1), 1)
    assert history.counts() == Counts()
    assert exported_records(history) == [("group_message", plain(message))]


def test_rec_dm_of_two_strangers(history: History) -> None:
    report = _import(history, "rec_dm_of_two_strangers", inbox_id=crafted_inbox())
    assert report.foreign_dms == 1
    assert report.new == Counts(conversations=1, messages=1)
    (stored,) = history.conversations()
    assert stored.dm_id == "dm:" + "a" * 64 + ":" + "b" * 64
    assert list(history.consents()) == []


def test_foreign_dms_are_not_judged_without_an_inbox(history: History) -> None:
    assert _import(history, "rec_dm_of_two_strangers").foreign_dms is None


def test_rec_dm_short_dmid(history: History) -> None:
    assert _refused(history, "rec_dm_short_dmid") == [(2, "conversation", "dm_id")]
    report = _import(history, "rec_dm_short_dmid", lenient=True)
    assert (report.new, report.skipped) == (Counts(consents=2), Counts(conversations=1))
    assert {entry.entity for entry in history.consents()} == {"e" * 32, "f" * 32}


def test_rec_group_type_with_dmid(history: History) -> None:
    _import(history, "rec_group_type_with_dmid")
    (record,) = _records("rec_group_type_with_dmid", "group")
    assert list(history.conversations()) == [public.restored(record)]
    assert record["dm_id"]


def test_rec_message_without_group(history: History) -> None:
    report = _import(history, "rec_message_without_group")
    orphan, message = _records("rec_message_without_group", "group_message")
    assert report.orphans == 1
    assert history.counts() == Counts(conversations=1, messages=1)
    assert list(history.messages(orphan["group_id"])) == []
    assert list(history.messages(message["group_id"])) == [public.message(message)]
    assert [record for kind, record in exported_records(history) if kind == "group_message"] == [
        plain(orphan),
        plain(message),
    ]


def test_rec_message_before_its_group(history: History) -> None:
    report = _import(history, "rec_message_before_its_group")
    (message,) = _records("rec_message_before_its_group", "group_message")
    assert report.orphans == 0
    assert list(history.messages(message["group_id"])) == [public.message(message)]
    (stored,) = history.conversations()
    assert stored.last_message_ns == message["sent_at_ns"]


def test_rec_message_enums(history: History) -> None:
    invalid = [(2, "kind"), (4, "delivery_status"), (7, "kind"), (8, "delivery_status")]
    wanted = [(element, "message", field) for element, field in invalid]
    assert _refused(history, "rec_message_enums") == wanted
    report = _import(history, "rec_message_enums", lenient=True)
    assert (report.new, report.skipped) == (Counts(1, 3), Counts(messages=4))
    records = _records("rec_message_enums", "group_message")
    stored = list(history.messages("01" * 16))
    assert stored == [public.message(records[index]) for index in (1, 3, 4)]


def test_rec_message_content_types(history: History) -> None:
    _import(history, "rec_message_content_types")
    records = _records("rec_message_content_types", "group_message")
    assert list(history.messages("01" * 16)) == [public.message(record) for record in records]
    kept = [
        (record["content_type"], record["content_type_save"])
        for kind, record in exported_records(history)
        if kind == "group_message"
    ]
    assert kept == [(record["content_type"], plain(record)["content_type_save"]) for record in records]
    assert ("custom/type:1.0", 0) in kept
    assert ("", 99) in kept


def test_rec_message_duplicate_id(history: History) -> None:
    report = _import(history, "rec_message_duplicate_id")
    first, _second = _records("rec_message_duplicate_id", "group_message")
    assert list(history.messages("01" * 16)) == [public.message(first)]
    assert (report.new.messages, report.duplicate.messages) == (1, 1)
    (stored,) = history.conversations()
    assert stored.last_message_ns == first["sent_at_ns"], "what is not stored is no activity"


def test_rec_consents(history: History) -> None:
    invalid = [(4, "entity_type"), (5, "state"), (6, "entity_type")]
    assert _refused(history, "rec_consents") == [(element, "consent", field) for element, field in invalid]
    report = _import(history, "rec_consents", lenient=True)
    stored = {(entry.entity, entry.state, entry.consented_at_ns) for entry in history.consents()}
    now = 1_700_000_000_000_000_000
    assert stored == {("A", 2, now), ("B", 1, now), ("C", 2, 1_800_000_000_000_000_000)}
    assert (report.new.consents, report.updated.consents) == (3, 1)
    assert (report.duplicate.consents, report.skipped.consents) == (2, 3)


def test_rec_last_message_ns(history: History) -> None:
    _import(history, "rec_last_message_ns")
    newest = {entry.id: entry.last_message_ns for entry in history.conversations()}
    assert newest == {"01" * 16: 1_700_000_001_000_000_001, "02" * 16: 1_700_000_001_000_000_002}
    archived = [record.get("last_message_ns") for kind, record in exported_records(history) if kind == "group"]
    assert archived == [5, None], "an export gives back what the archive said"
