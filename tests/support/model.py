"""What an import must leave behind, worked out the slow and obvious way (sections 4.9, 5.3 and 3 of the format).

A model takes elements one by one and keeps them in dictionaries; nothing in it is clever enough to share a mistake with
the store. It covers archives whose conversations do not contradict each other: filling in and refusing have tests of
their own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from independent.elements import Element, number_of, plain
from support import public
from xmtp_history import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_TIME = 2**63 - 1

Record = dict[str, Any]


def expiry(group: Record | None, message: Record) -> int | None:
    """When a message disappears, by its conversation's settings."""
    if group is None:
        return None
    begin, lifetime = group.get("message_disappear_from_ns"), group.get("message_disappear_in_ns")
    if begin is None or lifetime is None or begin <= 0 or lifetime <= 0:
        return None
    if number_of(message["kind"]) != 1 or number_of(message["delivery_status"]) != 2 or message["sent_at_ns"] < begin:
        return None
    return int(min(message["sent_at_ns"] + lifetime, _MAX_TIME))


class Model:
    """A store's content after importing archives into an empty one."""

    def __init__(self) -> None:
        self.groups: dict[str, Record] = {}
        self.messages: dict[str, Record] = {}
        self.consents: dict[tuple[int, str], Record] = {}

    def import_elements(self, elements: Iterable[Element]) -> None:
        """Takes over every record, whatever their order."""
        for kind, record in ((kind, plain(record)) for kind, record in elements):
            if kind == "group":
                self.groups.setdefault(record["id"], record)
            elif kind == "group_message":
                stored = self.messages.get(record["id"])
                if stored is None or (stored["delivery_status"] != 2 and record["delivery_status"] == 2):
                    self.messages[record["id"]] = record
            elif kind == "consent":
                key = (record["entity_type"], record["entity"])
                if key not in self.consents or record["consented_at_ns"] > self.consents[key]["consented_at_ns"]:
                    self.consents[key] = record
        now = time.time_ns()
        self.messages = {key: record for key, record in self.messages.items() if not self._is_expired(record, now)}

    def listing(self) -> dict[str, Any]:
        """What :func:`support.public.listing` gives for the store."""
        conversations = {
            key: public.restored(record, last_message_ns=self._activity(record)) for key, record in self.groups.items()
        }
        messages = {
            key: public.message(
                record,
                expire_at_ns=expiry(self.groups[record["group_id"]], record),
                deleted_by_inbox_id=self._deleted_by(record),
            )
            for key, record in self.messages.items()
            if record["group_id"] in self.groups
        }
        consents = {key: public.consent(record) for key, record in self.consents.items()}
        return {
            "counts": Counts(len(conversations), len(messages), len(consents)),
            "conversations": conversations,
            "messages": messages,
            "consents": consents,
        }

    def exported(self) -> list[Element]:
        """What an export without options contains, in its order."""
        groups = sorted(self.groups.values(), key=lambda record: bytes.fromhex(record["id"]))
        messages = sorted(self.messages.values(), key=lambda record: bytes.fromhex(record["id"]))
        consents = sorted(self.consents.values(), key=lambda record: (record["entity_type"], record["entity"].encode()))
        return [
            *(("group", record) for record in groups),
            *(("group_message", record) for record in messages if record["kind"] == 1),
            *(("consent", record) for record in consents),
        ]

    @property
    def orphans(self) -> int:
        """Messages of conversations that are not known."""
        return sum(record["group_id"] not in self.groups for record in self.messages.values())

    def _is_expired(self, record: Record, now: int) -> bool:
        at = expiry(self.groups.get(record["group_id"]), record)
        return at is not None and at <= now

    def _activity(self, group: Record) -> int | None:
        times = [record["sent_at_ns"] for record in self.messages.values() if record["group_id"] == group["id"]]
        if (archived := group.get("last_message_ns")) is not None:
            times.append(archived)
        return max(times, default=None)

    def _deleted_by(self, target: Record) -> str | None:
        """Who deleted a message: its sender or a super admin, by a deleteMessage in the same conversation."""
        group = self.groups[target["group_id"]]
        entitled = {target["sender_inbox_id"], *group.get("mutable_metadata", {}).get("super_admin_list", ())}
        deleters = [
            record
            for record in self.messages.values()
            if record["content_type"] == "deleteMessage"
            and record["kind"] == 1
            and record.get("reference_id") == target["id"]
            and record["group_id"] == target["group_id"]
            and record["sender_inbox_id"] in entitled
        ]
        return str(deleters[0]["sender_inbox_id"]) if deleters else None
