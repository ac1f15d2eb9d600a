"""Archives go both ways between real libxmtp 1.10 and xmtp_history."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from independent import read, write
from independent.elements import Element, plain
from interop.account import User
from interop.world import KEY, World
from support.build import BOB, STORE_KEY, T0, consent, dm, group, message, metadata, text_content
from support.public import listing
from support.store import exported_records, import_elements
from xmtp_history import (
    ArchiveElement,
    ArchiveOptions,
    Consent,
    ConsentState,
    Conversation,
    ConversationType,
    DeliveryStatus,
    History,
    MembershipState,
    Message,
    archive_metadata,
    rewrite_archive,
    verify_archive,
)
from xmtp_history.testing import LocalXmtp

#: How libxmtp's names read here.
TYPES = {"group": ConversationType.GROUP, "dm": ConversationType.DM}
STATES = {"unknown": ConsentState.UNKNOWN, "allowed": ConsentState.ALLOWED, "denied": ConsentState.DENIED}
STATUSES = {
    "unpublished": DeliveryStatus.UNPUBLISHED,
    "published": DeliveryStatus.PUBLISHED,
    "failed": DeliveryStatus.FAILED,
}

_generator = random.Random(20260101)


def _id(size: int) -> str:
    return _generator.randbytes(size).hex()


def _messages_of(real: dict[str, Any]) -> dict[str, list[Any]]:
    """The messages that archives carry: application messages only."""
    return {mid: facts for mid, facts in real["messages"].items() if facts[2] == "application"}


def _same_messages(ours: dict[str, Message], real: dict[str, Any]) -> None:
    """Every message of a conversation, as the real library lists it, is the one we have."""
    theirs = _messages_of(real)
    assert set(ours) == set(theirs)
    for mid, (sent_at_ns, sender, _, status, content) in theirs.items():
        mine = ours[mid]
        assert (mine.sent_at_ns, mine.sender_inbox_id, mine.content.hex()) == (sent_at_ns, sender, content)
        assert mine.delivery_status == STATUSES[status]


def _messages(history: History, conversation_id: str) -> dict[str, Message]:
    return {entry.id: entry for entry in history.messages(conversation_id)}


# --- from libxmtp to us ----------------------------------------------------------------------------------------------


@pytest.fixture
def imported(world: World, history: History) -> History:
    """Our store after importing Alice's archive."""
    history.import_archive(world.archive, KEY, inbox_id=world.alice_inbox)
    return history


def test_we_read_what_it_writes(world: World, imported: History) -> None:
    stored = {entry.id: entry for entry in imported.conversations()}
    assert set(stored) == set(world.listing) == {world.group, world.empty_group, world.dm}
    for conversation_id, real in world.listing.items():
        mine = stored[conversation_id]
        assert mine.conversation_type == TYPES[real["type"]]
        if real["type"] == "group":
            assert [mine.name, mine.description, mine.image_url_square] == real["names"]
        _same_messages(_messages(imported, conversation_id), real)
    assert stored[world.dm].dm_id == "dm:" + ":".join(sorted((world.alice_inbox, world.bob_inbox)))
    assert {stored[world.group].creator_inbox_id, *stored[world.group].super_admins} == {world.alice_inbox}


def test_we_read_its_consents(world: World, imported: History) -> None:
    states = {(entry.entity_type, entry.entity): entry.state for entry in imported.consents()}
    assert states[1, world.dm] == ConsentState.DENIED
    assert states[1, world.empty_group] == ConsentState.UNKNOWN
    assert states[1, world.group] == ConsentState.ALLOWED
    assert states[2, world.bob_inbox] == ConsentState.ALLOWED


def test_we_see_what_it_deleted(world: World, imported: History) -> None:
    deleted = {mid for mid, entry in _messages(imported, world.group).items() if entry.deleted_by_inbox_id}
    assert deleted == {world.deleted}


def test_we_agree_with_the_independent_reader(world: World, imported: History) -> None:
    archive = read(world.archive, KEY)
    assert exported_records(imported) == [(kind, plain(record)) for kind, record in archive.records]
    assert verify_archive(world.archive, KEY).legacy is False


# --- from us to libxmtp ----------------------------------------------------------------------------------------------


@pytest.fixture
def carol(node: LocalXmtp, tmp_path: Path) -> User:
    """A user with no history."""
    return User(f"carol {tmp_path.name}", node.node_url, tmp_path)


def _full_store(history: History, own_inbox: str, sizes: tuple[int, ...]) -> None:
    """Groups, a DM and messages of given sizes, added as an application would."""
    conversations = [
        Conversation(
            id=_id(16),
            name="Träger 組 🚀",
            description="two\nlines",
            image_url_square="https://e.org/ø.png",
            app_data="{}",
            created_at_ns=T0,
            creator_inbox_id=own_inbox,
            added_by_inbox_id=own_inbox,
            super_admins=(own_inbox,),
        ),
        Conversation(
            id=_id(16),
            conversation_type=ConversationType.DM,
            dm_id="dm:" + ":".join(sorted((own_inbox, BOB))),
            created_at_ns=T0 + 1,
            creator_inbox_id=BOB,
            added_by_inbox_id=BOB,
            membership_state=MembershipState.PENDING,
        ),
    ]
    history.add_conversations(conversations)
    texts = ["", "x", "ünï ☃ \U0001f680", *("y" * size for size in sizes)]
    history.add_messages(
        Message(
            id=_id(32),
            conversation_id=conversations[number % 2].id,
            sent_at_ns=T0 + 1000 + number,
            kind=1,
            sender_inbox_id=own_inbox if number % 3 else BOB,
            sender_installation_id=_id(32),
            delivery_status=DeliveryStatus.PUBLISHED,
            content_type="text",
            content=text_content(text),
            authority_id="xmtp.org",
            version_major=1,
            sequence_id=number,
            originator_id=10,
        )
        for number, text in enumerate(texts)
    )
    history.set_consents(
        [
            Consent(1, ConsentState.ALLOWED, conversations[0].id, T0),
            Consent(2, ConsentState.DENIED, BOB, T0 + 1),
        ]
    )


def _assert_it_has(user: User, archive: Path, history: History, *, db: str = "first") -> dict[str, Any]:
    """Lets the real library import an archive, and compares what it lists with a store of ours."""
    (_, real) = user.run(("import_archive", os.fspath(archive), KEY.hex()), ("listing",), db=db)
    stored = {entry.id: entry for entry in history.conversations()}
    assert set(real) == set(stored)
    for conversation_id, theirs in real.items():
        mine = stored[conversation_id]
        assert TYPES[theirs["type"]] == mine.conversation_type
        if theirs["type"] == "group":
            assert theirs["names"] == [mine.name or "", mine.description or "", mine.image_url_square or ""]
        assert theirs["is_active"] is False
        _same_messages(_messages(history, conversation_id), theirs)
    found: dict[str, Any] = real
    return found


#: What the real importer does not survive from its own exporter (section 6.2 of the format's description).
SIZES = {
    "small": (10, 100, 300),
    "above a kilobyte": (1500,) * 200,
    "mixed": tuple(size for _ in range(12) for size in (20, 3000, 900, 100_000, 1100)),
    "one hundred kilobytes": (100_000,) * 10,
    "two megabytes": (2_000_000,),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_it_reads_what_we_write(history: History, carol: User, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    (inbox,) = carol.run(("inbox_id",))
    _full_store(history, inbox, sizes)
    target = tmp_path / "ours.xmtp"
    history.create_archive(target, KEY)
    real = _assert_it_has(carol, target, history)
    (dm_id,) = (cid for cid, entry in real.items() if entry["type"] == "dm")
    (group_id,) = (cid for cid, entry in real.items() if entry["type"] == "group")
    (group_state, bob) = carol.run(("get_consent", "conversation", group_id), ("get_consent", "inbox", BOB))
    assert (group_state, bob) == ("allowed", "denied")
    assert real[dm_id]["consent"] in ("allowed", "denied"), "libxmtp allows every DM that it restores"


def test_it_reads_our_metadata(history: History, carol: User, tmp_path: Path) -> None:
    import_elements(history, [metadata(), group(1), message(1), consent("x")])
    target = tmp_path / "ours.xmtp"
    sections = (ArchiveElement.CONSENT, ArchiveElement.MESSAGES)
    history.create_archive(target, KEY, ArchiveOptions(elements=sections, start_ns=-5, end_ns=2**62))
    (theirs,) = carol.run(("archive_metadata", os.fspath(target), KEY.hex()))
    ours = archive_metadata(target, KEY)
    assert theirs == {
        "backup_version": ours.backup_version,
        "elements": ["CONSENT", "MESSAGES"],
        "exported_at_ns": ours.exported_at_ns,
        "start_ns": -5,
        "end_ns": 2**62,
    }


@pytest.mark.parametrize("sections", [(ArchiveElement.CONSENT, ArchiveElement.MESSAGES), (ArchiveElement.CONSENT,), ()])
def test_it_reads_any_choice_of_sections(
    history: History, carol: User, tmp_path: Path, sections: tuple[ArchiveElement, ...]
) -> None:
    import_elements(history, [metadata(), group(1), message(1), consent("00" * 15 + "01", 3)])
    target = tmp_path / "ours.xmtp"
    history.create_archive(target, KEY, ArchiveOptions(elements=sections))
    (_, real, state) = carol.run(
        ("import_archive", os.fspath(target), KEY.hex()),
        ("listing",),
        ("get_consent", "conversation", "00" * 15 + "01"),
    )
    assert len(real) == (ArchiveElement.MESSAGES in sections)
    assert state == ("denied" if ArchiveElement.CONSENT in sections else "unknown")


def test_a_time_window_loses_nothing_on_its_way(history: History, carol: User, tmp_path: Path) -> None:
    """The reference exports messages of a window without their older conversation, and then drops them at import."""
    import_elements(
        history, [metadata(), group(1, created_at_ns=T0), *(message(n, sent_at_ns=T0 + n) for n in (10, 20, 30))]
    )
    target = tmp_path / "window.xmtp"
    history.create_archive(target, KEY, ArchiveOptions(start_ns=T0 + 10, end_ns=T0 + 30))
    (_, real) = carol.run(("import_archive", os.fspath(target), KEY.hex()), ("listing",))
    (theirs,) = real.values()
    assert [facts[0] for facts in theirs["messages"].values()] == [T0 + 20, T0 + 30]


def test_a_rewritten_archive_can_be_imported_where_the_original_hangs(node: LocalXmtp, tmp_path: Path) -> None:
    """Libxmtp's own archive with large messages, and the same records rewritten."""
    dora = User("dora", node.node_url, tmp_path)
    (chat,) = dora.run(("group", [], {"name": "large"}))
    original, rewritten = tmp_path / "original.xmtp", tmp_path / "rewritten.xmtp"
    dora.run(
        ("keep", chat, "a" * 1500, 100),
        ("keep", chat, "b" * 100_000, 5),
        ("export_archive", os.fspath(original), KEY.hex()),
    )
    rewrite_archive(original, KEY, rewritten, KEY)
    assert read(rewritten, KEY).records == read(original, KEY).records
    (_, real) = dora.run(("import_archive", os.fspath(rewritten), KEY.hex()), ("listing",), db="second")
    assert len(_messages_of(real[chat])) == 105


# --- there and back --------------------------------------------------------------------------------------------------


def test_real_to_ours_to_real(world: World, imported: History, node: LocalXmtp, tmp_path: Path) -> None:
    """Alice's second installation gets through us what her first one wrote."""
    again = tmp_path / "again.xmtp"
    imported.create_archive(again, KEY)
    second = _assert_it_has(world.alice, again, imported, db=f"second {tmp_path.name}")
    for conversation_id, real in world.listing.items():
        assert _messages_of(second[conversation_id]) == _messages_of(real)
        assert second[conversation_id]["type"] == real["type"]
        assert second[conversation_id]["names"] == real["names"]


def test_what_it_exports_after_a_restore_is_nothing_new(world: World, imported: History, tmp_path: Path) -> None:
    """Libxmtp's restore loses much; taking it back must not lose it here."""
    ours, theirs = tmp_path / "ours.xmtp", tmp_path / "theirs.xmtp"
    imported.create_archive(ours, KEY)
    world.alice.run(
        ("import_archive", os.fspath(ours), KEY.hex()),
        ("export_archive", os.fspath(theirs), KEY.hex()),
        db=f"third {tmp_path.name}",
    )
    before = listing(imported)
    report = imported.import_archive(theirs, KEY)
    after = listing(imported)
    assert (report.new.conversations, report.new.messages) == (0, 0)
    assert after["messages"] == before["messages"]
    for conversation_id, entry in before["conversations"].items():
        assert after["conversations"][conversation_id].created_at_ns == entry.created_at_ns
        assert after["conversations"][conversation_id].super_admins == entry.super_admins
        assert after["conversations"][conversation_id].name == entry.name


def test_hostile_records_do_not_travel(history: History, carol: User, tmp_path: Path) -> None:
    """A dm_id that makes the real library abort is refused here, and left out by a lenient import."""
    (inbox,) = carol.run(("inbox_id",))
    elements: list[Element] = [
        metadata(),
        dm(1, dm_id="dm:ab"),
        dm(2, first=inbox),
        message(2, 2),
    ]
    poisoned = tmp_path / "poisoned.xmtp"
    write(poisoned, KEY, elements)
    report = history.import_archive(poisoned, KEY, lenient=True)
    assert report.skipped.conversations == 1
    target = tmp_path / "clean.xmtp"
    history.create_archive(target, KEY)
    (_, real) = carol.run(("import_archive", os.fspath(target), KEY.hex()), ("listing",))
    assert list(real) == [dm(2)[1]["id"]]


def test_the_store_key_is_not_the_archive_key(imported: History, tmp_path: Path) -> None:
    """Nothing of one key is in what the other one locks."""
    target = tmp_path / "out.xmtp"
    imported.create_archive(target, KEY)
    with pytest.raises(ValueError, match="key"):
        verify_archive(target, STORE_KEY)
