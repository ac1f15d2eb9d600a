"""Import, export, decode independently: what comes out is what went in."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest
from hypothesis import given

from independent import read, write
from independent.elements import Element, plain
from support import public
from support.build import BOB, KEY, T0, consent, dm, group, group_id, message, metadata, number_of_id, small
from support.data import FIXTURE_NAMES, Fixture, fixture
from support.model import Model, expiry
from support.store import export, exported_records, import_elements, new_store
from support.strategies import archives
from xmtp_history import (
    ArchiveElement,
    ArchiveOptions,
    History,
    Progress,
    open_archive,
    rewrite_archive,
    verify_archive,
)

NAMES = (*FIXTURE_NAMES, "legacy-shaped")
SECTIONS = {"group": 1, "group_message": 2, "consent": 3}


@pytest.fixture(params=NAMES)
def known(request: pytest.FixtureRequest) -> Fixture:
    return fixture(request.param)


def _still_there(elements: list[Element]) -> list[Element]:
    """Without the messages that have disappeared since the fixture was made."""
    groups = {record["id"]: record for kind, record in elements if kind == "group"}
    now = time.time_ns()

    def gone(kind: str, record: dict[str, object]) -> bool:
        at = expiry(groups.get(str(record["group_id"])), record) if kind == "group_message" else None
        return at is not None and at <= now

    return [(kind, record) for kind, record in elements if not gone(kind, record)]


def test_every_fixture_comes_out_as_it_went_in(known: Fixture, history: History) -> None:
    archive = read(known.path, known.key)
    history.import_archive(known.path, known.key)
    expected = _still_there([(kind, plain(record)) for kind, record in archive.records])
    # The reference writes the sections in the order asked for; by default that is messages, then consent.
    assert exported_records(history) == sorted(expected, key=lambda element: SECTIONS[element[0]])


def test_an_export_can_be_verified_and_read_again(known: Fixture, history: History, tmp_path: Path) -> None:
    history.import_archive(known.path, known.key)
    target = tmp_path / "again.xmtp"
    before = time.time_ns()
    written = history.create_archive(target, KEY)
    after = time.time_ns()
    assert verify_archive(target, KEY) == written
    assert written.archive_bytes == target.stat().st_size
    assert before <= written.metadata.exported_at_ns <= after
    assert written.legacy is False
    assert written.counts == history.counts() or known.name == "time-window"
    with open_archive(target, KEY) as reader:
        got = list(reader)
    assert got == [public.public(element) for element in read(target, KEY).records]


def test_the_frame_is_as_the_format_asks(history: History) -> None:
    """One frame, a window of at most 2 MiB, no dictionary: the things other readers rely on."""
    history.import_archive(fixture("big-message").path, fixture("big-message").key)
    target = io.BytesIO()
    history.create_archive(target, KEY)
    descriptor, window = target.getvalue()[18], target.getvalue()[19]
    assert descriptor & 0b11 == 0, "no dictionary"
    assert not descriptor & 0b100000, "a single segment would be its own window"
    exponent, mantissa = window >> 3, window & 7
    assert (1 << (10 + exponent)) * (8 + mantissa) // 8 <= 2 * 1024 * 1024


def test_nonces_are_not_repeated(history: History) -> None:
    import_elements(history, small())
    targets = [io.BytesIO() for _ in range(20)]
    for target in targets:
        history.create_archive(target, KEY)
    assert len({target.getvalue()[2:14] for target in targets}) == len(targets)


def test_large_elements_have_the_cure_in_front(history: History) -> None:
    """Without it libxmtp 1.10 hangs on archives with messages of more than about a kilobyte (section 6.2)."""
    import_elements(history, [metadata(), group(1), *(message(n, content=bytes(size)) for n, size in enumerate(SIZES))])
    ahead = 0
    for plaintext in export(history).plaintexts:
        ahead += 512 - (len(plaintext) + 20)
        assert ahead >= 0


SIZES = (0, 10, 400, 600, 1500, 100_000, 3, 1500, 1500)


@given(elements=archives())
def test_any_archive_comes_out_as_the_model_says(elements: list[Element]) -> None:
    model = Model()
    model.import_elements(elements)
    with new_store() as history:
        report = import_elements(history, elements)
        assert public.listing(history) == model.listing()
        assert [(kind, plain(record)) for kind, record in export(history).records] == model.exported()
        assert report.orphans == model.orphans
        assert report.new.consents == len(model.consents)
        assert report.new.conversations == len(model.groups)
        assert report.new.messages == len(model.messages)
        assert report.expired == report.skipped.messages


@given(elements=archives())
def test_any_archive_is_read_as_it_was_written(elements: list[Element]) -> None:
    with open_archive(write(None, KEY, elements), KEY) as reader:
        assert list(reader) == [public.public(element) for element in elements[1:]]


@given(elements=archives())
def test_a_second_generation_equals_the_first(elements: list[Element]) -> None:
    with new_store() as first, new_store() as second:
        import_elements(first, elements)
        archive = io.BytesIO()
        first.create_archive(archive, KEY)
        second.import_archive(archive.getvalue(), KEY)
        assert exported_records(second) == exported_records(first)


@given(elements=archives())
def test_a_rewritten_archive_has_the_same_bytes_inside(elements: list[Element]) -> None:
    strange: list[Element] = [("unknown", {"unknown_fields": "fa0103616263"}), ("event", {"event": "x"}), ("empty", {})]
    source = write(None, KEY, [*elements, *strange], legacy=True)
    target, new_key = io.BytesIO(), bytes(range(1, 33))
    report = rewrite_archive(source, KEY, target, new_key)
    before, after = read(source, KEY), read(target.getvalue(), new_key)
    assert [plain for plain in after.plaintexts if plain] == [plain for plain in before.plaintexts if plain]
    assert not after.legacy
    assert after.nonce != before.nonce
    assert report == verify_archive(source, KEY), "it says what the old archive held"


def test_rewriting_renews_the_cure() -> None:
    elements = [metadata(), group(1), ("empty", {}), ("empty", {}), message(1, content=bytes(5000)), ("empty", {})]
    target = io.BytesIO()
    rewrite_archive(write(None, KEY, elements), KEY, target, KEY)
    plaintexts = read(target.getvalue(), KEY).plaintexts
    sizes = [len(plaintext) for plaintext in plaintexts]
    large = next(index for index, size in enumerate(sizes) if size > 5000)
    assert sizes[large - 1] == 0
    assert sizes[-1] != 0, "the empty element that served nothing is gone"


# --- options ---------------------------------------------------------------------------------------------------------


def _ids(elements: list[Element], kind: str) -> list[str]:
    return [record["id"] for element, record in elements if element == kind]


@pytest.fixture
def windowed(history: History) -> History:
    """Two groups created at T0+10 and T0+20 with messages at T0+10, 20 and 30 each."""
    import_elements(
        history,
        [
            metadata(),
            group(1, created_at_ns=T0 + 10),
            group(2, created_at_ns=T0 + 20),
            *(message(n * 10 + of, of, sent_at_ns=T0 + n * 10) for n in (1, 2, 3) for of in (1, 2)),
            consent(group_id(1), at=T0),
            consent(group_id(7), 1, at=T0 + 99),
        ],
    )
    return history


@pytest.mark.parametrize(
    ("start", "end", "groups", "messages"),
    [
        (None, None, [1, 2], [11, 12, 21, 22, 31, 32]),
        (T0 + 10, None, [2], [21, 22, 31, 32]),  # the start is exclusive
        (None, T0 + 10, [1], [11, 12]),  # the end is inclusive
        (T0 + 9, T0 + 10, [1], [11, 12]),
        (T0 + 10, T0 + 20, [2], [21, 22]),
        (T0 + 20, T0 + 20, [], []),
        (T0 + 30, T0 + 10, [], []),
        (-(2**63), 2**63 - 1, [1, 2], [11, 12, 21, 22, 31, 32]),
        (-5, -1, [], []),
    ],
)
def test_time_window(
    windowed: History, start: int | None, end: int | None, groups: list[int], messages: list[int]
) -> None:
    options = ArchiveOptions(start_ns=start, end_ns=end, include_context_groups=False)
    archive = export(windowed, options)
    assert _ids(archive.records, "group") == [group_id(number) for number in groups]
    assert [number_of_id(mid) for mid in _ids(archive.records, "group_message")] == messages
    assert len(archive.of_kind("consent")) == 2, "consents know no window"
    assert (archive.metadata.get("start_ns"), archive.metadata.get("end_ns")) == (start, end)


def test_context_groups_come_along_unless_declined(windowed: History) -> None:
    options = ArchiveOptions(start_ns=T0 + 20, end_ns=T0 + 30)
    assert _ids(export(windowed, options).records, "group") == [group_id(1), group_id(2)]
    without = ArchiveOptions(start_ns=T0 + 20, end_ns=T0 + 30, include_context_groups=False)
    assert _ids(export(windowed, without).records, "group") == []
    nothing = ArchiveOptions(start_ns=T0 + 30)
    assert _ids(export(windowed, nothing).records, "group") == []


@pytest.mark.parametrize(
    ("elements", "kinds", "numbers"),
    [
        ((), [], []),
        ((ArchiveElement.MESSAGES,), ["group", "group_message"], [1]),
        ((ArchiveElement.CONSENT,), ["consent"], [2]),
        ((ArchiveElement.MESSAGES, ArchiveElement.CONSENT), ["group", "group_message", "consent"], [1, 2]),
        ((ArchiveElement.CONSENT, ArchiveElement.MESSAGES), ["consent", "group", "group_message"], [2, 1]),
    ],
)
def test_sections(history: History, elements: tuple[ArchiveElement, ...], kinds: list[str], numbers: list[int]) -> None:
    import_elements(history, small())
    archive = export(history, ArchiveOptions(elements=elements))
    assert list(dict.fromkeys(kind for kind, _ in archive.records)) == kinds
    assert archive.metadata["elements"] == numbers


def test_a_section_asked_for_twice_is_written_twice(history: History) -> None:
    import_elements(history, small())
    archive = export(history, ArchiveOptions(elements=(ArchiveElement.CONSENT, ArchiveElement.CONSENT)))
    assert archive.metadata["elements"] == [2, 2]
    assert len(archive.of_kind("consent")) == 4


def test_exclude_disappearing_messages(history: History) -> None:
    far = 10**9 * 86400 * 36500
    import_elements(
        history,
        [
            metadata(),
            group(1, message_disappear_from_ns=T0 + 5000, message_disappear_in_ns=far),
            message(1, sent_at_ns=T0 + 4999),
            message(2, sent_at_ns=T0 + 5000),
            message(3, sent_at_ns=T0 + 6000, delivery_status=1),
        ],
    )
    every = export(history)
    kept = export(history, ArchiveOptions(exclude_disappearing_messages=True))
    assert [number_of_id(mid) for mid in _ids(every.records, "group_message")] == [1, 2, 3]
    assert [number_of_id(mid) for mid in _ids(kept.records, "group_message")] == [1, 3]
    assert kept.of_kind("group") == every.of_kind("group"), "the settings stay"


def test_membership_changes_are_kept_but_not_exported(history: History) -> None:
    import_elements(history, [metadata(), group(1), message(1), message(2, kind=2)])
    assert len(list(history.messages(group_id(1)))) == 2
    assert [number_of_id(mid) for mid in _ids(export(history).records, "group_message")] == [1]


def test_order_of_sections_is_by_id(history: History) -> None:
    ids = ["ff" * 16, "00" * 16, "80" * 16, "7f" * 16]
    elements = [metadata()]
    elements += [group(1, id=mid) for mid in ids]
    elements += [message(1, id=mid * 2, group_id=ids[0]) for mid in ids]
    elements += [consent(entity, entity_type=kind) for kind in (2, 1) for entity in ("b", "a", "Z", "é", "z")]
    import_elements(history, elements)
    archive = export(history)
    assert _ids(archive.records, "group") == sorted(ids)
    assert _ids(archive.records, "group_message") == sorted(mid * 2 for mid in ids)
    order = [(record["entity_type"]["number"], record["entity"]) for record in archive.of_kind("consent")]
    assert order == sorted(order, key=lambda pair: (pair[0], pair[1].encode()))


def test_dms_with_one_dm_id_stay_apart(history: History) -> None:
    import_elements(history, [metadata(), dm(1), dm(2), dm(3, second="cc" * 32), message(1, 1), message(2, 2)])
    assert _ids(export(history).records, "group") == [group_id(n) for n in (1, 2, 3)]
    assert {entry.dm_id for entry in history.conversations()} == {
        dm(1)[1]["dm_id"],
        dm(3, second="cc" * 32)[1]["dm_id"],
    }
    assert BOB in str(dm(1)[1]["dm_id"])


def test_progress_of_an_export_and_an_import(history: History, tmp_path: Path) -> None:
    known = fixture("many-pages")
    seen: list[Progress] = []
    history.import_archive(known.path, known.key, on_progress=seen.append)
    assert seen
    assert {step.phase for step in seen} == {"import"}
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[-1].bytes_done == known.facts["file_size"]
    assert seen[-1].bytes_total == known.facts["file_size"]
    seen.clear()
    history.create_archive(tmp_path / "out.xmtp", KEY, on_progress=seen.append)
    assert seen
    assert {step.phase for step in seen} == {"export"}
    assert seen[-1].done == sum(known.counts.values())
    assert seen[-1].bytes_done == (tmp_path / "out.xmtp").stat().st_size
