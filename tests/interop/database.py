"""What real libxmtp keeps in its database and its bindings do not tell. The tests have it written without encryption.

It is read in a process of its own. Where one process has two SQLite libraries, and the bindings bring their own, closing a
file with one of them takes away the locks of the other, after which writes are lost and memory maps break (SQLite, "How To
Corrupt An SQLite Database File", 2.2).
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final, NamedTuple

_READER: Final = """
import contextlib, json, sqlite3, sys
for line in sys.stdin:
    query, values = json.loads(line)
    values = [bytes.fromhex(value) for value in values]
    with contextlib.closing(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True, timeout=10)) as connection:
        print(json.dumps(connection.execute(query, values).fetchall()), flush=True)
"""

_TYPES: Final = {1: "group", 2: "dm", 3: "sync", 4: "oneshot"}
_STATES: Final = {1: "allowed", 2: "rejected", 3: "pending", 4: "restored", 5: "pending_remove"}
_SUCCESS: Final = 1


class Commit(NamedTuple):
    """A line of the library's own log of what it has done with commits.

    Attributes:
        sequence_id: the commit's id at the node; 0 where the installation made the group or came by a welcome.
        result: 1 where it was applied, other numbers for reasons why not.
        epoch: of the group afterwards.
        before: the authenticator of the epoch before, hexadecimal; none where the installation was not there.
        authenticator: of the epoch.
        kind: such as "Welcome", "KeyUpdate", "UpdateGroupMembership", "MetadataUpdate".
        sender: the inbox that made it.
        error: why it was not applied.
    """

    sequence_id: int
    result: int
    epoch: int
    before: str
    authenticator: str
    kind: str | None
    sender: str | None
    error: str | None

    @property
    def applied(self) -> bool:
        """Whether it led the installation to another epoch.

        The one that takes the installation out of the group is a success without a new authenticator.
        """
        return self.result == _SUCCESS and self.authenticator != self.before


class Database:
    """A database of libxmtp, in use or not; only read."""

    def __init__(self, path: str) -> None:
        # It ends with the process that has started it, whose end of the pipe is closed then.
        self._reader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def groups(self) -> dict[str, dict[str, Any]]:
        """All groups by id, those of devices as well; the one that was stored last is the last one."""
        rows = self._rows(
            "SELECT lower(hex(id)), conversation_type, created_at_ns, membership_state, added_by_inbox_id, maybe_forked,"
            " paused_for_version FROM groups ORDER BY created_at_ns"
        )
        return {
            group_id: {
                "type": _TYPES[kind],
                "created_at_ns": created,
                "membership": _STATES[state],
                "adder": adder,
                "maybe_forked": bool(forked),
                "paused_for_version": paused,
            }
            for group_id, kind, created, state, adder, forked, paused in rows
        }

    def commits(self, group_id: str) -> list[Commit]:
        """What became of a group's commits, in the order in which the installation met them."""
        rows = self._rows(
            "SELECT commit_sequence_id, commit_result, applied_epoch_number,"
            " lower(hex(last_epoch_authenticator)), lower(hex(applied_epoch_authenticator)), commit_type, sender_inbox_id,"
            " error_message FROM local_commit_log WHERE group_id = ? ORDER BY rowid",
            group_id,
        )
        return [Commit(*row) for row in rows]

    def epoch(self, group_id: str) -> tuple[int, str]:
        """The epoch that the installation is in, and its authenticator."""
        last = [commit for commit in self.commits(group_id) if commit.applied][-1]
        return last.epoch, last.authenticator

    def cursor(self, group_id: str) -> int:
        """The id of the last message at the node that the installation has dealt with."""
        rows = self._rows("SELECT max(sequence_id) FROM refresh_state WHERE entity_id = ?", group_id)
        return int(rows[0][0] or 0)

    def messages(self, group_id: str) -> dict[str, dict[str, Any]]:
        """What is stored of a group, by message id, in the node's order; what is not published yet comes first."""
        rows = self._rows(
            "SELECT lower(hex(id)), sequence_id, sent_at_ns, kind, sender_inbox_id, lower(hex(sender_installation_id)),"
            " delivery_status, lower(hex(decrypted_message_bytes)) FROM group_messages WHERE group_id = ?"
            " ORDER BY sequence_id, sent_at_ns",
            group_id,
        )
        names = ("sequence_id", "sent_at_ns", "kind", "sender_inbox_id", "sender_installation_id", "status", "content")
        out = {}
        for message_id, *values in rows:
            facts = dict(zip(names, values, strict=True))
            facts["kind"] = {1: "application", 2: "membership_change"}[facts["kind"]]
            facts["status"] = {1: "unpublished", 2: "published", 3: "failed"}[facts["status"]]
            out[message_id] = facts
        return out

    def hmac_root(self) -> tuple[str, int] | None:
        """The key that the inbox's installations share, and when it was made; None before there is one."""
        rows = self._rows("SELECT lower(hex(hmac_key)), hmac_key_cycled_at_ns FROM user_preferences")
        return next(((key, cycled or 0) for key, cycled in rows if key), None)

    def device_messages(self) -> dict[str, int]:
        """Messages of groups of devices by id: 0 to be dealt with, 1 done, 2 given up."""
        rows = self._rows(
            "SELECT lower(hex(m.id)), coalesce(p.state, 0) FROM group_messages m JOIN groups g ON g.id = m.group_id"
            " LEFT JOIN processed_device_sync_messages p ON p.message_id = m.id WHERE g.conversation_type = 3"
        )
        return dict(rows)

    def _rows(self, query: str, *values: str) -> list[Any]:
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        print(json.dumps([query, values]), file=self._reader.stdin, flush=True)
        rows: list[Any] = json.loads(self._reader.stdout.readline())
        return rows
