"""Hypothesis strategies for archives: valid records with every value that the format allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from independent.elements import Element
from independent.protobuf import field_bytes
from support.build import ALICE, BOB, T0, encoded, metadata

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)

#: Around the edges, and where real archives are.
TIMES = st.one_of(st.integers(T0, T0 + 50), st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]), INT64)

INBOXES = st.sampled_from([ALICE, BOB, "c0" * 32])
WORDS = st.text(max_size=12)

#: Fields from a later version of the format, serialized.
UNKNOWN_FIELDS = st.lists(
    st.tuples(st.integers(100, 2**20), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=20))),
    min_size=1,
    max_size=3,
).map(lambda fields: b"".join(field_bytes(number, value) for number, value in fields).hex())

GROUP_IDS = tuple(f"{number:02x}" * 16 for number in (0x00, 0x80, 0xFF))

#: Messages disappear since before or during their time, at once or not in this century; or the settings mean nothing.
DISAPPEARING: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({"message_disappear_from_ns": T0 + 1, "message_disappear_in_ns": 1}),
    st.just({}),
    st.fixed_dictionaries(
        {
            "message_disappear_from_ns": st.sampled_from([1, T0 + 25]),
            "message_disappear_in_ns": st.sampled_from([1, 10**9 * 86400 * 36500, 2**63 - 1]),
        }
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "message_disappear_from_ns": st.sampled_from([-1, 0, 1, 2**63 - 1]),
            "message_disappear_in_ns": st.sampled_from([-1, 0, 1]),
        },
    ),
)

#: Ids that stand close together, on both sides of the sign of a number, and at both ends of the order.
MESSAGE_IDS = st.one_of(
    st.integers(0, 40).map(lambda number: f"{number:016x}" + 48 * "0"),
    st.integers(0, 255).map(lambda number: f"{number:02x}" * 32),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
)

_MUTABLE_METADATA = st.fixed_dictionaries(
    {
        "attributes": st.dictionaries(
            st.one_of(
                st.sampled_from(
                    ["group_name", "description", "group_image_url_square", "app_data", "_commit_log_signer"]
                ),
                WORDS,
            ),
            WORDS,
            max_size=5,
        ),
        "admin_list": st.lists(INBOXES, max_size=2),
        "super_admin_list": st.lists(INBOXES, max_size=2),
    },
    optional={"unknown_fields": UNKNOWN_FIELDS},
)


def _dm_id(pair: tuple[str, str]) -> str:
    low, high = sorted(pair)
    return f"dm:{low}:{high}"


@st.composite
def groups(draw: st.DrawFn, group_id: str) -> Element:
    """A group or a DM."""
    is_dm = draw(st.booleans())
    record: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "created_at_ns": TIMES,
                "membership_state": st.one_of(st.integers(0, 5), INT32),
                "installations_last_checked": INT64,
                "added_by_inbox_id": WORDS,
                "rotated_at_ns": INT64,
            },
            optional={
                "welcome_id": INT64,
                "dm_id": WORDS,
                "last_message_ns": TIMES,
                "metadata": st.fixed_dictionaries(
                    {"creator_inbox_id": WORDS}, optional={"unknown_fields": UNKNOWN_FIELDS}
                ),
                "mutable_metadata": _MUTABLE_METADATA,
                "paused_for_version": WORDS,
                "unknown_fields": UNKNOWN_FIELDS,
            },
        )
    )
    record |= {"id": group_id, "conversation_type": 2 if is_dm else 1} | draw(DISAPPEARING)
    if is_dm:
        record["dm_id"] = _dm_id(draw(st.tuples(INBOXES, INBOXES)))
    return "group", record


@st.composite
def messages(draw: st.DrawFn, message_id: str, undeleted: list[str]) -> Element:
    """A message in a conversation that the archive may or may not hold; now and then one that deletes another.

    Nothing is deleted twice, as it is open who has done it then.
    """
    record: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {
                "group_id": st.sampled_from(GROUP_IDS),
                "decrypted_message_bytes": st.binary(max_size=60).map(bytes.hex),
                "sent_at_ns": st.one_of(st.integers(T0, T0 + 50), TIMES),
                "kind": st.sampled_from([1, 1, 1, 2]),
                "sender_installation_id": st.one_of(st.just("17" * 32), st.binary(max_size=40).map(bytes.hex)),
                "sender_inbox_id": st.one_of(INBOXES, WORDS),
                "delivery_status": st.sampled_from([2, 2, 2, 1, 3]),
                "content_type_save": st.one_of(st.just(0), INT32),
                "version_major": st.one_of(st.just(1), INT32),
                "version_minor": st.one_of(st.just(0), INT32),
                "authority_id": WORDS,
                "content_type": st.one_of(st.just("text"), WORDS),
            },
            optional={
                "reference_id": st.binary(max_size=40).map(bytes.hex),
                "sequence_id": INT64,
                "originator_id": INT64,
                "unknown_fields": UNKNOWN_FIELDS,
            },
        )
    )
    record["id"] = message_id
    if undeleted and draw(st.integers(0, 4)) == 0:
        target = draw(st.sampled_from(undeleted))
        undeleted.remove(target)
        content = encoded("deleteMessage", field_bytes(1, target.encode()))
        record |= {
            "content_type": "deleteMessage",
            "reference_id": target,
            "decrypted_message_bytes": content.hex(),
            "kind": 1,
            "delivery_status": 2,
        }
    return "group_message", record


@st.composite
def consents(draw: st.DrawFn, entity_type: int, entity: str) -> Element:
    """A decision about an entity."""
    record = draw(
        st.fixed_dictionaries(
            {"state": st.integers(1, 3), "consented_at_ns": TIMES}, optional={"unknown_fields": UNKNOWN_FIELDS}
        )
    )
    return "consent", record | {"entity_type": entity_type, "entity": entity}


@st.composite
def records(draw: st.DrawFn) -> list[Element]:
    """Records of one archive: no conversation, message or consent occurs twice, so their order cannot matter."""
    group_ids = draw(st.lists(st.sampled_from(GROUP_IDS), unique=True, min_size=1))
    message_ids = draw(st.lists(MESSAGE_IDS, unique_by=lambda message_id: message_id[:16], max_size=10))
    entities = draw(
        st.lists(st.tuples(st.integers(1, 2), st.one_of(st.sampled_from(GROUP_IDS), WORDS)), unique=True, max_size=4)
    )
    out = [draw(groups(group_id)) for group_id in group_ids]
    undeleted = list(message_ids)
    out += [draw(messages(message_id, undeleted)) for message_id in message_ids]
    return out + [draw(consents(*entity)) for entity in entities]


@st.composite
def archives(draw: st.DrawFn) -> list[Element]:
    """All elements of an archive, in any order behind the metadata."""
    return [metadata(), *draw(st.permutations(draw(records())))]
