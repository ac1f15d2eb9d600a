//! What is to be sent to groups: kept until it is seen there, whatever happens in between.
//!
//! An intent waits, is prepared (its bytes exist, and are sent again unchanged after a crash), is published, and is gone
//! when it comes back. A commit that another one beats waits again, and is made anew from the new state.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::conversations::Said;
use super::error::Error;

/// How long a leaf's key is used before it is replaced: 30 days, ns (identity specification, section 4.3).
pub(super) const KEY_UPDATE_NS: i64 = 30 * 24 * 3600 * 1_000_000_000;
/// How often an own commit may lose before it is given up.
const MAX_ATTEMPTS: i64 = 10;

/// What is intended. The numbers are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An application message.
    Message = 1,
    /// A commit that replaces the leaf's key.
    KeyUpdate = 2,
    /// The first commit of a sync group, which adds the inbox's other installations.
    AddInstallations = 3,
}

/// How far it is. The numbers are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting = 1,
    Prepared = 2,
    Published = 3,
    Failed = 4,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Intent {
    pub key: i64,
    pub group_id: Vec<u8>,
    pub kind: Kind,
    pub content: Vec<u8>,
    pub idempotency_key: String,
    pub payload: Option<Vec<u8>>,
    pub sender_hmac: Option<Vec<u8>>,
}

const COLUMNS: &str = "key, group_id, kind, content, idempotency_key, payload, sender_hmac";

impl Intent {
    fn from_row(row: &Row<'_>) -> Result<Self, rusqlite::Error> {
        Ok(Self {
            key: row.get(0)?,
            group_id: row.get(1)?,
            kind: match row.get::<_, i64>(2)? {
                1 => Kind::Message,
                2 => Kind::KeyUpdate,
                _ => Kind::AddInstallations,
            },
            content: row.get(3)?,
            idempotency_key: row.get(4)?,
            payload: row.get(5)?,
            sender_hmac: row.get(6)?,
        })
    }

    pub(super) fn is_commit(&self) -> bool {
        self.kind != Kind::Message
    }
}

/// Adds an intent that waits. Returns its key.
pub(super) fn add(
    connection: &Connection,
    group_id: &[u8],
    kind: Kind,
    content: &[u8],
    idempotency_key: &str,
) -> Result<i64, Error> {
    connection
        .prepare_cached(
            "INSERT INTO intents (group_id, kind, state, content, idempotency_key) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![group_id, kind as i64, State::Waiting as i64, content, idempotency_key])?;
    Ok(connection.last_insert_rowid())
}

/// Whether anything that was prepared for a group has not been seen there.
pub(super) fn any_prepared(connection: &Connection, group_id: &[u8]) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM intents WHERE group_id = ?1 AND payload IS NOT NULL)")?
        .query_row([group_id], |row| row.get(0))?)
}

/// Whether the first commit of a sync group, which adds the other installations, is still to come.
pub(super) fn adds_installations(connection: &Connection, group_id: &[u8]) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM intents WHERE group_id = ?1 AND kind = ?2 AND state <> ?3)")?
        .query_row(params![group_id, Kind::AddInstallations as i64, State::Failed as i64], |row| row.get(0))?)
}

/// The intent whose payload has this hash.
pub(super) fn by_payload(connection: &Connection, sha256: &[u8; 32]) -> Result<Option<Intent>, Error> {
    Ok(connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM intents WHERE payload_sha256 = ?1"))?
        .query_row([sha256.as_slice()], Intent::from_row)
        .optional()?)
}

/// A group's commit that has a payload but has not come back; there is at most one.
pub(super) fn commit_under_way(connection: &Connection, group_id: &[u8]) -> Result<Option<i64>, Error> {
    Ok(connection
        .prepare_cached("SELECT key FROM intents WHERE group_id = ?1 AND kind <> ?2 AND payload IS NOT NULL")?
        .query_row(params![group_id, Kind::Message as i64], |row| row.get(0))
        .optional()?)
}

/// Intents of a group in a state, in the order in which they came, commits first.
pub(super) fn in_state(connection: &Connection, group_id: &[u8], state: State) -> Result<Vec<Intent>, Error> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM intents WHERE group_id = ?1 AND state = ?2 ORDER BY kind = ?3, key"
    ))?;
    let intents = select.query_map(params![group_id, state as i64, Kind::Message as i64], Intent::from_row)?;
    Ok(intents.collect::<Result<_, _>>()?)
}

/// Groups that have something to be prepared, published or seen.
pub(super) fn groups(connection: &Connection) -> Result<Vec<Vec<u8>>, Error> {
    let mut select = connection.prepare_cached("SELECT DISTINCT group_id FROM intents WHERE state <> ?1")?;
    Ok(select.query_map([State::Failed as i64], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Notes the bytes that an intent has become.
pub(super) fn prepared(
    connection: &Connection,
    key: i64,
    payload: &[u8],
    sha256: &[u8; 32],
    sender_hmac: &[u8],
    epoch: u64,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "UPDATE intents SET state = ?2, payload = ?3, payload_sha256 = ?4, sender_hmac = ?5, epoch = ?6
              WHERE key = ?1",
        )?
        .execute(params![key, State::Prepared as i64, payload, sha256.as_slice(), sender_hmac, epoch.cast_signed()])?;
    Ok(())
}

/// The node has it.
pub(super) fn published(connection: &Connection, key: i64) -> Result<(), Error> {
    connection.prepare_cached("UPDATE intents SET state = ?2 WHERE key = ?1 AND state = ?3")?.execute(params![
        key,
        State::Published as i64,
        State::Prepared as i64
    ])?;
    Ok(())
}

/// It came too late to be read, and is said again.
pub(super) fn again(connection: &Connection, key: i64) -> Result<(), Error> {
    connection
        .prepare_cached(
            "UPDATE intents SET state = CASE WHEN attempts + 1 >= ?3 THEN ?4 ELSE ?2 END, attempts = attempts + 1,
                    payload = NULL, payload_sha256 = NULL, sender_hmac = NULL, epoch = NULL
              WHERE key = ?1",
        )?
        .execute(params![key, State::Waiting as i64, MAX_ATTEMPTS, State::Failed as i64])?;
    Ok(())
}

/// A message has come back: it is done, and has a place and a time.
pub(super) fn seen(connection: &Connection, intent: &Intent, sequence_id: u64, sent_at_ns: i64) -> Result<(), Error> {
    let id = super::envelope::message_id(&intent.group_id, &intent.idempotency_key, &intent.content);
    connection
        .prepare_cached("UPDATE sync_group_messages SET sequence_id = ?2, sent_at_ns = ?3 WHERE id = ?1")?
        .execute(params![id.as_slice(), sequence_id.cast_signed(), sent_at_ns])?;
    connection.prepare_cached("DELETE FROM intents WHERE key = ?1")?.execute([intent.key])?;
    Ok(())
}

/// A commit has won: its welcomes may go out. Keys of intents are used again, so welcomes whose commit has won belong to an
/// earlier one.
pub(super) fn won(connection: &Connection, intent: &Intent, commit_id: u64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE welcomes_to_send SET commit_id = ?2 WHERE intent_key = ?1 AND commit_id IS NULL")?
        .execute(params![intent.key, commit_id.cast_signed()])?;
    connection.prepare_cached("DELETE FROM intents WHERE key = ?1")?.execute([intent.key])?;
    Ok(())
}

/// The group has gone on without what we had prepared to commit. What could only have been the first commit is given up.
pub(super) fn lost(connection: &Connection, group_id: &[u8]) -> Result<(), Error> {
    let Some(key) = commit_under_way(connection, group_id)? else { return Ok(()) };
    connection.execute("DELETE FROM welcomes_to_send WHERE intent_key = ?1 AND commit_id IS NULL", [key])?;
    again(connection, key)?;
    connection.execute(
        "UPDATE intents SET state = ?2 WHERE key = ?1 AND kind = ?3",
        params![key, State::Failed as i64, Kind::AddInstallations as i64],
    )?;
    Ok(())
}

/// Keeps a message of a sync group. The first of an id stays. Returns whether it is new.
pub(super) fn store_sync_message(
    connection: &Connection,
    id: &[u8],
    group_id: &[u8],
    said: &Said<'_>,
    content: &[u8],
) -> Result<bool, Error> {
    let stored = connection
        .prepare_cached("INSERT OR IGNORE INTO sync_group_messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            id,
            group_id,
            said.sequence_id.cast_signed(),
            said.sent_at_ns,
            said.sender_inbox_id,
            said.sender_installation_id,
            content,
        ])?;
    Ok(stored > 0)
}
