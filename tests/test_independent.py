"""The independent reader and writer, checked against everything the reference left behind.

They are the second opinion on ``xmtp_history``, so they have to be right first.
"""

from __future__ import annotations

import random

import pytest

from independent import (
    ArchiveFaultError,
    assemble,
    decode_element,
    encode_element,
    frame,
    nonce_at,
    read,
    seal,
    seal_all,
    with_cure,
    write,
)
from independent.elements import abridged, plain
from independent.protobuf import DecodeError, encode_varint, read_varint
from support.build import KEY, dm, group, message, metadata, small
from support.data import FIXTURE_NAMES, CraftedCase, crafted_cases, crafted_key, fixture

NAMES = (*FIXTURE_NAMES, "legacy-shaped")


def _comparable(record: dict[str, object]) -> dict[str, object]:
    """Without what two decoders may say differently: their words about content that is no EncodedContent."""
    out = abridged({key: value for key, value in record.items() if value is not None})
    content = out.get("encoded_content")
    if isinstance(content, dict) and "undecodable" in content:
        out = out | {"encoded_content": "undecodable"}
    return out


@pytest.mark.parametrize("name", NAMES)
def test_reads_every_fixture(name: str) -> None:
    known = fixture(name)
    archive = read(known.path, known.key)
    assert archive.metadata == known.expected["metadata"]
    assert archive.nonce.hex() == known.facts["header"]["nonce_hex"]
    assert archive.legacy == (name == "legacy-shaped")
    expected = known.expected_elements()
    assert [kind for kind, _ in archive.elements] == [kind for kind, _ in expected]
    for (_, got), (_, wanted) in zip(archive.elements, expected, strict=True):
        assert _comparable(got) == _comparable(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_encodes_every_record_as_the_reference_did(name: str) -> None:
    known = fixture(name)
    for plaintext in read(known.path, known.key).plaintexts:
        assert encode_element(decode_element(plaintext)) == plaintext


@pytest.mark.parametrize("case", crafted_cases(), ids=lambda case: case.name)
def test_judges_every_crafted_archive_as_required(case: CraftedCase) -> None:
    if case.accepted:
        assert read(case.data, crafted_key()).elements is not None
    else:
        with pytest.raises(ArchiveFaultError) as caught:
            read(case.data, crafted_key())
        assert caught.value.reason in case.reasons
        if "element >= 1" in case.required:
            assert caught.value.index is not None
            assert caught.value.index >= 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level": -5},
        {"level": 19, "checksum": True},
        {"content_size": True},
        {"window_log": 27},
        {"block_bytes": 1},
        {"block_bytes": 700},
        {"legacy": True},
        {"cure": True},
        {"nonce": b"\xff" * 12},
    ],
    ids=str,
)
def test_reads_what_it_writes(options: dict[str, object]) -> None:
    elements = [*small(), message(9, content=bytes(5000))]
    archive = read(write(None, KEY, elements, **options), KEY)  # type: ignore[arg-type]
    wanted = [plain(record) for _, record in elements]
    assert [plain(archive.metadata), *(plain(record) for _, record in archive.records)] == wanted
    assert archive.legacy == ("legacy" in options)


def test_the_worked_example_of_the_format() -> None:
    key = bytes.fromhex("fd8c412bdcdae3c1443b92acca9af6759f5310cd5a9271e3cb959868b0a08b42")
    nonce = bytes.fromhex("7bb41b94877e7701fa2366f3")
    plaintext = bytes.fromhex("0a0e1202010218b483e7f8ce84a0f518")
    assert encode_element(("metadata", {"elements": [1, 2], "exported_at_ns": 1795388297579184564})) == plaintext
    sealed = bytes.fromhex("20000000d90d03d288f90930691ffe1f717f6176209b7703264081ba7841dbe61523e64b")
    assert seal(key, nonce, plaintext) == sealed
    # zstd's header and block header of the reference, which stores the block as it is
    by_hand = assemble(nonce, bytes.fromhex("28b52ffd0058210100") + sealed)
    assert by_hand == fixture("empty").data


def test_the_nonce_counts_in_little_endian_and_wraps() -> None:
    assert nonce_at(b"\xff" + bytes(11), 1) == b"\x00\x01" + bytes(10)
    assert nonce_at(b"\xff" * 12, 1) == bytes(12)
    assert nonce_at(b"\xff" * 12, 2) == b"\x01" + bytes(11)


def test_legacy_and_counting_nonces_do_not_mix() -> None:
    plaintexts = [encode_element(element) for element in small()]
    nonce = bytes(range(12))
    counting, constant = seal_all(KEY, nonce, plaintexts), seal_all(KEY, nonce, plaintexts, legacy=True)
    for mixed in (counting[:3] + constant[3:], constant[:3] + counting[3:]):
        with pytest.raises(ArchiveFaultError) as caught:
            read(assemble(nonce, frame(b"".join(mixed))), KEY)
        assert (caught.value.reason, caught.value.index) == ("AuthFailed", 3)


def test_the_cure_keeps_the_read_ahead_in_front() -> None:
    """However many inflated bytes the reference takes per element, 512 of them are always enough."""
    sizes = random.Random(1).choices((0, 40, 491, 492, 493, 512, 3000, 100_000), k=60)
    plaintexts = [bytes(size) for size in (16, *sizes)]
    cured = with_cure(plaintexts)
    assert [plain for plain in cured if plain] == [plain for plain in plaintexts if plain]
    assert cured[0] == plaintexts[0]
    ahead = 0
    for plaintext in cured:
        ahead += 512 - (len(plaintext) + 20)
        assert ahead >= 0
    first = bytes(492)
    assert with_cure([first, bytes(492)]) == [first, bytes(492)]
    assert with_cure([first, bytes(493)]) == [first, b"", bytes(493)]
    assert with_cure([bytes(9000)]) == [bytes(9000)], "never in front of the metadata"


def test_unknown_fields_and_numbers_survive() -> None:
    strange = [
        metadata(1, 9, start_ns=0, end_ns=-1),
        group(1, membership_state=-7, unknown_fields="fa0103616263", welcome_id=0, last_message_ns=-(2**63)),
        dm(2, dm_id="", metadata=None, mutable_metadata=None),
        message(1, content_type_save=99, version_major=-(2**31), sequence_id=2**63 - 1, reference_id=""),
        ("unknown", {"unknown_fields": "fa0103616263"}),
        ("empty", {}),
    ]
    archive = read(write(None, KEY, strange), KEY)
    got = [("metadata", plain(archive.metadata)), *((kind, plain(record)) for kind, record in archive.elements)]
    assert got == strange


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**31, 2**63, 2**64 - 1])
def test_varints(value: int) -> None:
    encoded = encode_varint(value)
    assert read_varint(encoded, 0) == (value, len(encoded))


@pytest.mark.parametrize(
    "data",
    ["80", "ff" * 10 + "01", "ff" * 9 + "02", "0a05616263", "0b", "0f", "00", "12032a01ff", "12021200"],
)
def test_bad_protobuf_is_refused(data: str) -> None:
    with pytest.raises(DecodeError):
        decode_element(bytes.fromhex(data))
