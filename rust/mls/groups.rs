//! The groups of an installation: what is kept of each beside OpenMLS's own state.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::Error;

/// Where a group stands for this installation. The numbers are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// A member that follows.
    Active = 1,
    /// Removed; a new welcome may bring the installation back.
    Removed = 2,
    /// The group asks for a newer client; nothing is processed until there is one.
    Paused = 3,
    /// A commit could not be followed that the others follow: what comes after it cannot be read.
    Forked = 4,
    /// The group uses what this release cannot follow.
    Unsupported = 5,
    /// A sync group that does not belong to the inbox alone (device sync specification, section 2.7).
    Untrusted = 6,
}

impl GroupState {
    fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Active,
            2 => Self::Removed,
            3 => Self::Paused,
            4 => Self::Forked,
            5 => Self::Unsupported,
            _ => Self::Untrusted,
        }
    }

    /// The state in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Removed => "removed",
            Self::Paused => "paused",
            Self::Forked => "forked",
            Self::Unsupported => "unsupported",
            Self::Untrusted => "untrusted",
        }
    }

    /// Whether messages of the group are processed.
    #[must_use]
    pub fn is_followed(self) -> bool {
        matches!(self, Self::Active | Self::Forked | Self::Paused)
    }
}

/// The number of a sync group among conversation types (identity specification, section 3.1).
pub const CONVERSATION_SYNC: i32 = 3;

/// A group as the table keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRow {
    /// MLS group id.
    pub id: Vec<u8>,
    /// 1 group, 2 DM, 3 sync group.
    pub conversation_type: i32,
    /// Where it stands.
    pub state: GroupState,
    /// Why it is not active, or why an active one may be forked; empty where there is nothing to say.
    pub reason: String,
    /// Highest message id that was handled.
    pub cursor: u64,
    /// The epoch it is in.
    pub epoch: u64,
    /// When it was created or joined here, ns.
    pub created_at_ns: i64,
    /// Who created it.
    pub creator_inbox_id: String,
    /// Who added this installation.
    pub added_by_inbox_id: String,
    /// The welcome it was joined by; none for one created here.
    pub welcome_id: Option<u64>,
    /// From when on the leaf's key is updated before something is sent, ns; none for never.
    pub key_update_due_at_ns: Option<i64>,
    /// How many messages could not be read.
    pub undecryptable: u64,
}

const COLUMNS: &str = "id, conversation_type, state, reason, cursor, epoch, created_at_ns, creator_inbox_id,
    added_by_inbox_id, welcome_id, key_update_due_at_ns, undecryptable";

impl GroupRow {
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            id: row.get(0)?,
            conversation_type: row.get(1)?,
            state: GroupState::from_number(row.get(2)?),
            reason: row.get(3)?,
            cursor: row.get::<_, i64>(4)?.cast_unsigned(),
            epoch: row.get::<_, i64>(5)?.cast_unsigned(),
            created_at_ns: row.get(6)?,
            creator_inbox_id: row.get(7)?,
            added_by_inbox_id: row.get(8)?,
            welcome_id: row.get::<_, Option<i64>>(9)?.map(i64::cast_unsigned),
            key_update_due_at_ns: row.get(10)?,
            undecryptable: row.get::<_, i64>(11)?.cast_unsigned(),
        })
    }

    pub(super) fn load(connection: &Connection, id: &[u8]) -> Result<Option<Self>, Error> {
        let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM mls_groups WHERE id = ?1"))?;
        Ok(select.query_row([id], Self::from_row).optional()?)
    }

    pub(super) fn list(connection: &Connection) -> Result<Vec<Self>, Error> {
        let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM mls_groups ORDER BY rowid"))?;
        Ok(select.query_map([], Self::from_row)?.collect::<Result<_, _>>()?)
    }

    pub(super) fn save(&self, connection: &Connection) -> Result<(), Error> {
        connection
            .prepare_cached(&format!(
                "INSERT INTO mls_groups ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (id) DO UPDATE SET
                        conversation_type = excluded.conversation_type, state = excluded.state,
                        reason = excluded.reason, cursor = excluded.cursor, epoch = excluded.epoch,
                        created_at_ns = excluded.created_at_ns, creator_inbox_id = excluded.creator_inbox_id,
                        added_by_inbox_id = excluded.added_by_inbox_id, welcome_id = excluded.welcome_id,
                        key_update_due_at_ns = excluded.key_update_due_at_ns,
                        undecryptable = excluded.undecryptable"
            ))?
            .execute(params![
                self.id,
                self.conversation_type,
                self.state as i64,
                self.reason,
                self.cursor.cast_signed(),
                self.epoch.cast_signed(),
                self.created_at_ns,
                self.creator_inbox_id,
                self.added_by_inbox_id,
                self.welcome_id.map(u64::cast_signed),
                self.key_update_due_at_ns,
                self.undecryptable.cast_signed(),
            ])?;
        Ok(())
    }

    /// Whether a commit was lost, or may have been.
    #[must_use]
    pub fn maybe_forked(&self) -> bool {
        self.state == GroupState::Forked || (self.state == GroupState::Active && !self.reason.is_empty())
    }

    /// Whether it is one of the inbox's sync groups.
    #[must_use]
    pub fn is_sync_group(&self) -> bool {
        self.conversation_type == CONVERSATION_SYNC
    }

    pub(super) fn mark(&mut self, state: GroupState, reason: impl Into<String>) {
        self.state = state;
        self.reason = reason.into();
    }
}
