"""What a client tells: inboxes, groups, and what was said among the user's installations. No behaviour."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstallationInfo:
    """An installation of an inbox.

    Attributes:
        id: its public key, hexadecimal.
        added_at_ns: when it was added, by the clock of whoever did it; None where the log does not say.
    """

    id: str
    added_at_ns: int | None


@dataclass(frozen=True, slots=True)
class InboxState:
    """Who belongs to an inbox, verified from its log (identity specification, section 1.5).

    Attributes:
        inbox_id: the inbox.
        recovery_identifier: the address or passkey that may revoke members.
        identifiers: its addresses and passkeys.
        installations: its installations, the oldest first.
        sequence_id: the last entry of the log that was counted.
    """

    inbox_id: str
    recovery_identifier: str
    identifiers: tuple[str, ...]
    installations: tuple[InstallationInfo, ...]
    sequence_id: int


class GroupState(enum.Enum):
    """Where an MLS group stands for this installation."""

    #: It is a member, and follows.
    ACTIVE = "active"
    #: It was removed. Whoever adds it again brings it back.
    REMOVED = "removed"
    #: The group asks for a newer client; nothing of it is read until there is one.
    PAUSED = "paused"
    #: A commit could not be followed, so what comes after it cannot be read. Being added again brings it back.
    FORKED = "forked"
    #: The group uses what this release cannot follow.
    UNSUPPORTED = "unsupported"
    #: A sync group that others than the inbox have to do with; it is never used.
    UNTRUSTED = "untrusted"


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """An MLS group of the installation: a conversation, or one of the inbox's sync groups.

    Attributes:
        id: the group, which is also the conversation's id.
        conversation_type: 1 group, 2 DM, 3 sync group.
        state: where it stands.
        reason: why it is not active, or why it may be forked, for people; empty where there is nothing to say.
        maybe_forked: whether a commit was lost, or may have been. Anybody can post a message that looks like it, so an
            active group goes on; the next commit clears it.
        epoch: of MLS; every commit is one.
        cursor: the id of the last message at the node that was handled.
        created_at_ns: when it was created or joined here.
        creator_inbox_id: who made it.
        added_by_inbox_id: who added this installation.
        undecryptable: how many messages could not be read.
        members: inbox id and installation id of each member; None where it was not asked for.
        epoch_authenticator: a value that only members of the same epoch share; None where it was not asked for.
    """

    id: str
    conversation_type: int
    state: GroupState
    reason: str
    maybe_forked: bool
    epoch: int
    cursor: int
    created_at_ns: int
    creator_inbox_id: str
    added_by_inbox_id: str
    undecryptable: int
    members: tuple[tuple[str, str], ...] | None = None
    epoch_authenticator: str | None = None

    @property
    def is_sync_group(self) -> bool:
        """Whether it is one of the inbox's sync groups."""
        return self.conversation_type == _SYNC


#: The conversation type of sync groups.
_SYNC = 3


@dataclass(frozen=True, slots=True)
class SyncGroupMessage:
    """Something that was said in a sync group, by this installation or another one of the inbox.

    Attributes:
        id: the message.
        group_id: the sync group.
        sequence_id: the node's number; 0 for an own one that was not seen there yet.
        sent_at_ns: the node's time; the own clock until then.
        sender_inbox_id: the inbox.
        sender_installation_id: who of it.
        content: a serialised ``DeviceSyncContent``. It may hold the key of an archive, and is not shown.
    """

    id: str
    group_id: str
    sequence_id: int
    sent_at_ns: int
    sender_inbox_id: str
    sender_installation_id: str
    content: bytes

    def __repr__(self) -> str:
        return f"<SyncGroupMessage {self.id} of {self.sender_installation_id}, {len(self.content)} bytes>"


@dataclass(frozen=True, slots=True)
class GroupSyncSummary:
    """What a sync of groups came to.

    Attributes:
        num_eligible: groups that there are to be synced.
        num_synced: those that had something new and were read to the end of it.
    """

    num_eligible: int
    num_synced: int
