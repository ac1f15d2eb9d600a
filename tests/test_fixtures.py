"""Archives that libxmtp 1.10 wrote, read by xmtp_history."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from independent import read
from support import public
from support.data import FIXTURE_NAMES, Fixture, fixture
from xmtp_history import (
    ArchiveElement,
    ContentError,
    Conversation,
    ConversationType,
    Counts,
    Message,
    archive_metadata,
    open_archive,
    verify_archive,
)

NAMES = (*FIXTURE_NAMES, "legacy-shaped")


@pytest.fixture(params=NAMES)
def known(request: pytest.FixtureRequest) -> Fixture:
    return fixture(request.param)


def test_content(known: Fixture) -> None:
    """Every record, in archive order, with every field: from the independent reader, with the hashes of the file."""
    expected = [public.public(element) for element in read(known.path, known.key).records]
    with open_archive(known.path, known.key) as reader:
        got = list(reader)
    assert got == expected
    hashes = [
        record["decrypted_message_sha256"] for kind, record in known.expected_elements() if kind == "group_message"
    ]
    assert [hashlib.sha256(record.content).hexdigest() for record in got if isinstance(record, Message)] == hashes


def test_metadata(known: Fixture) -> None:
    expected = public.metadata(known.expected["metadata"])
    assert archive_metadata(known.path, known.key) == expected
    with open_archive(known.path, known.key) as reader:
        assert reader.metadata == expected
    assert verify_archive(known.path, known.key).metadata == expected


def test_verify(known: Fixture) -> None:
    report = verify_archive(known.path, known.key)
    counts = known.counts
    assert report.counts == Counts(counts["groups"], counts["messages"], counts["consents"])
    assert report.elements == 1 + sum(counts.values())
    assert report.archive_bytes == known.facts["file_size"]
    assert report.plaintext_bytes == sum(map(len, read(known.path, known.key).plaintexts))
    times = [record["sent_at_ns"] for record in known.expected["messages"]]
    assert report.first_sent_at_ns == min(times, default=None)
    assert report.last_sent_at_ns == max(times, default=None)
    assert report.unknown_elements == 0
    assert report.invalid_records == ()


def test_legacy_flag(known: Fixture) -> None:
    legacy = known.name == "legacy-shaped"
    assert verify_archive(known.path, known.key).legacy is legacy
    with open_archive(known.path, known.key) as reader:
        list(reader)
        assert reader.legacy is legacy


def test_decoded_content(known: Fixture) -> None:
    """What the fixture's decoder said about each EncodedContent, :meth:`Message.decoded` says too."""
    described = [record["encoded_content"] for record in known.expected["messages"]]
    with open_archive(known.path, known.key) as reader:
        messages = [record for record in reader if isinstance(record, Message)]
    for message, wanted in zip(messages, described, strict=True):
        if "undecodable" in wanted:
            with pytest.raises(ContentError):
                message.decoded()
            continue
        decoded = message.decoded()
        assert str(decoded.type) == wanted["type"]
        assert decoded.parameters == wanted.get("parameters", {})
        assert decoded.fallback == wanted.get("fallback")
        text = decoded.type.type_id in ("text", "markdown")
        assert isinstance(decoded.body, str if text else bytes)
        body = decoded.body.encode() if isinstance(decoded.body, str) else decoded.body
        if "compression" in wanted:
            assert len(body) > wanted["content_len"], "compressed content comes out decompressed"
        else:
            assert len(body) == wanted["content_len"]
            if "content_text" in wanted:
                assert body.decode() == wanted["content_text"]


def test_sources_of_all_kinds(known: Fixture) -> None:
    expected = verify_archive(known.path, known.key)
    data = known.data
    with known.path.open("rb") as file:
        for source in (str(known.path), data, bytearray(data), memoryview(data), file):
            assert verify_archive(source, known.key) == expected


def test_unicode_survives() -> None:
    known = fixture("text-unicode")
    with open_archive(known.path, known.key) as reader:
        records = list(reader)
    assert any(isinstance(r, Conversation) and r.name == 'Träger 組 🚀 "quoted"' for r in records)
    assert any(isinstance(r, Message) and r.decoded().body == "你好，世界" for r in records)


def test_enums_and_times_have_their_types() -> None:
    known = fixture("dms-consents")
    with open_archive(known.path, known.key) as reader:
        dms = [record for record in reader if isinstance(record, Conversation)]
    assert all(record.conversation_type is ConversationType.DM for record in dms)
    assert {record.dm_id for record in dms if record.dm_id} != set()
    window = archive_metadata(fixture("time-window").path, fixture("time-window").key)
    assert window.start_ns is not None
    assert window.end_ns is not None
    assert window.elements == (ArchiveElement.MESSAGES, ArchiveElement.CONSENT)


def test_the_data_is_what_was_delivered() -> None:
    """A fixture changed by accident would quietly weaken every other test."""
    for name in NAMES:
        known = fixture(name)
        assert hashlib.sha256(Path(known.path).read_bytes()).hexdigest() == known.facts["file_sha256"]
    assert len(FIXTURE_NAMES) == 12
