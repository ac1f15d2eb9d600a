"""Hostile and damaged archives: always one typed error, never a change, never more memory than granted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from independent import assemble, encode_element, frame, nonce_at, seal, seal_all, write
from independent.elements import Element
from independent.protobuf import field_bytes
from support import child
from support.build import KEY, consent, group, message, metadata, small
from support.files import Drips
from support.store import import_elements, snapshot
from xmtp_history import (
    ArchiveCorrupted,
    ArchiveError,
    ArchiveKeyError,
    ArchiveLimitExceeded,
    ArchiveTruncated,
    Counts,
    History,
    NotAnArchive,
    UnsupportedArchiveVersion,
    open_archive,
    verify_archive,
)

NONCE = bytes(range(12))


def _archive(elements: list[Element] | None = None, **options: Any) -> bytes:
    return write(None, KEY, small() if elements is None else elements, nonce=NONCE, **options)


def _parts() -> tuple[list[bytes], list[bytes]]:
    """A sound archive's plaintexts and sealed elements, for putting together wrongly."""
    plaintexts = [encode_element(element) for element in small()]
    return plaintexts, seal_all(KEY, NONCE, plaintexts)


def _join(sealed: list[bytes]) -> bytes:
    return assemble(NONCE, frame(b"".join(sealed)))


@pytest.fixture
def filled(history: History) -> History:
    """A store with something in it that must not change."""
    import_elements(history, [metadata(), group(9), message(90, 9), consent("someone")])
    return history


# --- cut and flipped -------------------------------------------------------------------------------------------------


def test_cut_anywhere(filled: History) -> None:
    data = _archive()
    before = snapshot(filled)
    for length in range(len(data)):
        for read_it in (verify_archive, filled.import_archive):
            # The magic comes first, so 15 to 17 bytes could be the start of anything; they still are too few.
            with pytest.raises(ArchiveTruncated) as caught:
                read_it(data[:length], KEY)
            assert caught.value.reason == ("HeaderTruncated" if length < 14 else "Zstd"), length
    assert snapshot(filled) == before


def test_cut_anywhere_with_blocks_of_one_byte() -> None:
    """Here every cut falls behind a whole number of inflated bytes, often behind a whole element."""
    data = _archive([metadata(), consent("a"), consent("b")], block_bytes=1)
    for length in range(14, len(data)):
        with pytest.raises(ArchiveTruncated):
            verify_archive(data[:length], KEY)


def test_any_flipped_byte(filled: History) -> None:
    """Only a flip in the zstd header's size fields may go unnoticed, and then the content is the same."""
    data = _archive()
    sound = verify_archive(data, KEY)
    before = snapshot(filled)
    unnoticed = []
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            flipped = bytearray(data)
            flipped[at] ^= bit
            try:
                assert verify_archive(bytes(flipped), KEY) == sound
            except ArchiveError as error:
                assert error.reason
                with pytest.raises(type(error)):
                    filled.import_archive(bytes(flipped), KEY)
                if at < 2:
                    assert type(error) is UnsupportedArchiveVersion
                elif at < 14:
                    assert type(error) is ArchiveKeyError
                elif at < 18:
                    assert type(error) is NotAnArchive
            else:
                unnoticed.append(at)
    assert set(unnoticed) <= {18, 19}
    assert snapshot(filled) == before


def test_any_flipped_byte_inside_the_frame_of_elements() -> None:
    """The same behind the compression: every byte of prefix, ciphertext and tag is checked."""
    _, sealed = _parts()
    payload = b"".join(sealed)
    generator = random.Random(2)
    for at in range(len(payload)):
        flipped = bytearray(payload)
        flipped[at] ^= 1 << generator.randrange(8)
        with pytest.raises(ArchiveError):
            verify_archive(assemble(NONCE, frame(bytes(flipped))), KEY)


# --- put together wrongly --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", range(1, 7))
def test_swapped_elements(first: int) -> None:
    _, sealed = _parts()
    sealed[first], sealed[first + 1] = sealed[first + 1], sealed[first]
    with pytest.raises(ArchiveCorrupted) as caught:
        verify_archive(_join(sealed), KEY)
    assert (caught.value.reason, caught.value.element) == ("AuthFailed", first)


@pytest.mark.parametrize("at", range(8))
def test_repeated_elements(at: int) -> None:
    _, sealed = _parts()
    sealed.insert(at, sealed[at])
    with pytest.raises(ArchiveCorrupted) as caught:
        verify_archive(_join(sealed), KEY)
    # A second metadata element looks like a legacy archive at first.
    assert (caught.value.reason, caught.value.element) == ("AuthFailed", at + 1 if at else 2)


@pytest.mark.parametrize("at", range(7))
def test_dropped_elements(at: int) -> None:
    _, sealed = _parts()
    del sealed[at]
    with pytest.raises(ArchiveKeyError if at == 0 else ArchiveCorrupted) as caught:
        verify_archive(_join(sealed), KEY)
    assert caught.value.element == at


def test_dropped_last_element_cannot_be_seen(history: History) -> None:
    _, sealed = _parts()
    assert history.import_archive(_join(sealed[:-1]), KEY).new.consents == 1


@pytest.mark.parametrize("start", [2, 3, 7])
def test_mixed_nonce_modes(start: int) -> None:
    plaintexts, sealed = _parts()
    constant = seal_all(KEY, NONCE, plaintexts, legacy=True)
    for mixed in (sealed[:start] + constant[start:], constant[:start] + sealed[start:]):
        with pytest.raises(ArchiveCorrupted) as caught:
            verify_archive(_join(mixed), KEY)
        assert (caught.value.reason, caught.value.element) == ("AuthFailed", start)


@pytest.mark.parametrize("offset", [-1, 1, 2, 2**95])
def test_nonce_gaps(offset: int) -> None:
    plaintexts, sealed = _parts()
    for at in range(len(sealed)):
        wrong = [*sealed]
        wrong[at] = seal(KEY, nonce_at(NONCE, at + offset), plaintexts[at])
        expected = 2 if (at, offset) == (1, -1) else at  # the former looks like a legacy archive for one element
        with pytest.raises(ArchiveKeyError if at == 0 else ArchiveCorrupted) as caught:
            verify_archive(_join(wrong), KEY)
        assert caught.value.element == expected


@pytest.mark.parametrize("length", [0, 1, 15])
@pytest.mark.parametrize("at", [0, 1, 8])
def test_impossible_lengths(length: int, at: int) -> None:
    _, sealed = _parts()
    sealed.insert(at, length.to_bytes(4, "little") + bytes(length))
    with pytest.raises(ArchiveCorrupted) as caught:
        verify_archive(_join(sealed), KEY)
    assert (caught.value.reason, caught.value.element) == ("BadElementLength", at)


@pytest.mark.parametrize(
    "tail", [b"\0", b"\0\0\0", b"\x20\0\0\0", b"\x20\0\0\0" + bytes(31), b"\x64\0\0\0" + bytes(10)]
)
def test_stray_bytes_inside_the_frame(tail: bytes) -> None:
    _, sealed = _parts()
    with pytest.raises(ArchiveTruncated) as caught:
        verify_archive(_join([*sealed, tail]), KEY)
    assert (caught.value.reason, caught.value.element) == ("TruncatedElement", len(sealed))


@pytest.mark.parametrize(
    "tail", [b"\0", b"\n", b"garbage", frame(b""), frame(b"more"), b"\x50\x2a\x4d\x18\x04\0\0\0abcd"], ids=repr
)
def test_anything_behind_the_frame(filled: History, tail: bytes) -> None:
    before = snapshot(filled)
    for read_it in (verify_archive, filled.import_archive):
        with pytest.raises(ArchiveCorrupted) as caught:
            read_it(_archive() + tail, KEY)
        assert caught.value.reason == "TrailingData"
    # Not only where the two come in one piece.
    with pytest.raises(ArchiveCorrupted):
        filled.import_archive(Drips(_archive() + tail, 1), KEY)
    assert snapshot(filled) == before


@pytest.mark.parametrize(
    "plaintext",
    [
        b"\xff",
        b"\x12\x05abc",
        b"\x0a\x02\x18",
        field_bytes(2, field_bytes(5, b"\xff\xfe")),
        field_bytes(3, field_bytes(1, 7)),
        b"\xff" * 11,
        field_bytes(2, field_bytes(14, field_bytes(1, b"\x0a\x05abc"))),
    ],
    ids=bytes.hex,
)
def test_bad_protobuf(filled: History, plaintext: bytes) -> None:
    before = snapshot(filled)
    data = write(None, KEY, [metadata(), group(1), plaintext, message(1)])
    for read_it in (verify_archive, filled.import_archive):
        with pytest.raises(ArchiveCorrupted) as caught:
            read_it(data, KEY)
        assert (caught.value.reason, caught.value.element) == ("Decode", 2)
    assert snapshot(filled) == before


def test_deep_nesting_of_unknown_fields_is_only_bytes() -> None:
    nested = b""
    for _ in range(5000):
        nested = field_bytes(99, nested)
    assert verify_archive(write(None, KEY, [metadata(), nested]), KEY).unknown_elements == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08\0" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        b"SQLite format 3\0" + bytes(100),
        bytes(14) + b"\x1f\x8b\x08\0" + bytes(100),
        bytes(14) + b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + frame(b"x"),
        bytes(1000),
    ],
    ids=lambda data: data[:6].hex(),
)
def test_something_else_entirely(data: bytes) -> None:
    """Not an archive of a version to come: that would still be zstd behind the header."""
    with pytest.raises(NotAnArchive):
        verify_archive(data, KEY)


# --- size ------------------------------------------------------------------------------------------------------------


def test_an_element_above_the_limit() -> None:
    data = _archive([metadata(), message(1, content=bytes(5000))])
    with open_archive(data, KEY, max_element_bytes=10_000) as reader:
        assert len(list(reader)) == 1
    with pytest.raises(ArchiveLimitExceeded) as caught, open_archive(data, KEY, max_element_bytes=5000) as reader:
        list(reader)
    assert (caught.value.reason, caught.value.element) == ("ElementTooLarge", 1)


#: Runs in a child that may map 400 MB more than it has after loading everything, and says how much it really took.
_BOUNDED = """
import resource, sys
from pathlib import Path
from support.memory import peak_bytes
from xmtp_history import ArchiveLimitExceeded, ArchiveError, History, verify_archive
path, store = sys.argv[1:3]
key = bytes(range(32))
history = History.open(store, key)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
peak = peak_bytes()
for read_it in (verify_archive, history.import_archive):
    try:
        read_it(path, key)
        print("accepted")
    except ArchiveError as error:
        print(type(error).__name__, error.reason, error.element)
assert history.counts().messages == 0
print(peak_bytes() - peak)
"""


def _bounded(tmp_path: Path, payload: bytes) -> tuple[list[str], int]:
    path = tmp_path / "bomb.xmtp"
    path.write_bytes(assemble(NONCE, frame(payload, level=1)))
    *lines, peak = child.run(_BOUNDED, path, tmp_path / "store.db3").splitlines()
    return lines, int(peak)


def test_an_announced_64_mib_element_of_zeros_costs_no_more_than_that(tmp_path: Path) -> None:
    head = seal(KEY, NONCE, encode_element(metadata()))
    bomb = head + (64 * 1024 * 1024).to_bytes(4, "little") + bytes(64 * 1024 * 1024)
    lines, grown = _bounded(tmp_path, bomb)
    assert lines == ["ArchiveCorrupted AuthFailed 1"] * 2
    assert (tmp_path / "bomb.xmtp").stat().st_size < 10_000
    assert grown < 200_000_000, "the element, and as much again because element 1 is tried under two nonces"


def test_an_element_announced_above_the_limit_costs_nothing(tmp_path: Path) -> None:
    head = seal(KEY, NONCE, encode_element(metadata()))
    bomb = head + (64 * 1024 * 1024 + 1).to_bytes(4, "little") + bytes(64 * 1024 * 1024 + 1)
    lines, grown = _bounded(tmp_path, bomb)
    assert lines == ["ArchiveLimitExceeded ElementTooLarge 1"] * 2
    assert grown < 30_000_000


def test_announced_but_absent_bytes_cost_nothing(tmp_path: Path) -> None:
    head = seal(KEY, NONCE, encode_element(metadata()))
    lines, grown = _bounded(tmp_path, head + (64 * 1024 * 1024).to_bytes(4, "little") + bytes(100))
    assert lines == ["ArchiveTruncated TruncatedElement 1"] * 2
    assert grown < 30_000_000


def test_a_bomb_of_empty_elements_is_streamed(tmp_path: Path) -> None:
    """Half a million elements of nothing: much work for its size, but no memory."""
    plaintexts = [encode_element(metadata())] + [b""] * 500_000
    lines, grown = _bounded(tmp_path, b"".join(seal_all(KEY, NONCE, plaintexts)))
    assert lines == ["accepted"] * 2
    assert grown < 60_000_000


def test_many_messages_are_streamed(tmp_path: Path) -> None:
    """120 MB of invalid records, refused without holding them."""
    elements = [metadata(), *(message(n, kind=0, content=bytes(60_000)) for n in range(2000))]
    lines, grown = _bounded(tmp_path, b"".join(seal_all(KEY, NONCE, [encode_element(e) for e in elements])))
    assert lines[1] == "InvalidRecords InvalidRecord 1"
    assert grown < 100_000_000


def test_at_most_a_thousand_invalid_records_are_listed(history: History) -> None:
    elements = [metadata(), *(message(n, kind=0) for n in range(1500))]
    report = import_elements(history, elements, lenient=True)
    assert len(report.invalid_records) == 1000
    assert report.skipped == Counts(messages=1500)
    assert len(verify_archive(write(None, KEY, elements), KEY).invalid_records) == 1000
