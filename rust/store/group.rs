//! A stored conversation: reading it whole, writing it whole, filling it from an archive.

use rusqlite::{Connection, OptionalExtension, params};

use super::error::Error;
use super::query::ConversationView;
use super::rules::MEMBERSHIP_RESTORED;
use crate::wire::{Group, GroupMetadata, MutableMetadata};

/// Role of an admin in `group_admins`.
pub(super) const ROLE_ADMIN: i64 = 1;
/// Role of a super admin in `group_admins`.
pub(super) const ROLE_SUPER_ADMIN: i64 = 2;

/// Kinds of records in `unknown_fields`.
pub(super) mod unknown {
    /// A group.
    pub const GROUP: i64 = 1;
    /// A group's immutable metadata.
    pub const GROUP_METADATA: i64 = 2;
    /// A group's mutable metadata.
    pub const MUTABLE_METADATA: i64 = 3;
    /// A message.
    pub const MESSAGE: i64 = 4;
    /// A consent record.
    pub const CONSENT: i64 = 5;
}

/// The mutable metadata of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoredMutableMetadata {
    pub attributes: Vec<(String, String)>,
    pub admins: Vec<String>,
    pub super_admins: Vec<String>,
    pub unknown: Vec<u8>,
}

/// A conversation as the store keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StoredGroup {
    pub id: Vec<u8>,
    pub created_at_ns: i64,
    pub membership_state: i32,
    pub archived_membership_state: Option<i32>,
    pub installations_last_checked: i64,
    pub added_by_inbox_id: String,
    pub welcome_sequence_id: Option<i64>,
    pub rotated_at_ns: i64,
    pub conversation_type: i32,
    pub dm_id: Option<String>,
    pub last_message_ns: Option<i64>,
    pub archived_last_message_ns: Option<i64>,
    pub message_disappear_from_ns: Option<i64>,
    pub message_disappear_in_ns: Option<i64>,
    pub paused_for_version: Option<String>,
    pub creator: Option<(String, Vec<u8>)>,
    pub mutable_metadata: Option<StoredMutableMetadata>,
    pub unknown: Vec<u8>,
}

impl StoredGroup {
    /// A conversation the store sees for the first time. One from an archive is restored: readable, but nobody has added
    /// this installation to it yet (section 4.7).
    pub fn new(group: &Group<'_>, from_archive: bool) -> Self {
        Self {
            id: group.id.to_vec(),
            created_at_ns: group.created_at_ns,
            membership_state: if from_archive { MEMBERSHIP_RESTORED } else { group.membership_state },
            archived_membership_state: from_archive.then_some(group.membership_state),
            installations_last_checked: group.installations_last_checked,
            added_by_inbox_id: group.added_by_inbox_id.to_owned(),
            welcome_sequence_id: group.welcome_id,
            rotated_at_ns: group.rotated_at_ns,
            conversation_type: group.conversation_type,
            dm_id: group.dm_id.map(str::to_owned),
            last_message_ns: group.last_message_ns,
            archived_last_message_ns: group.last_message_ns.filter(|_| from_archive),
            message_disappear_from_ns: group.message_disappear_from_ns,
            message_disappear_in_ns: group.message_disappear_in_ns,
            paused_for_version: group.paused_for_version.map(str::to_owned),
            creator: group
                .metadata
                .as_ref()
                .map(|metadata| (metadata.creator_inbox_id.to_owned(), metadata.unknown.clone())),
            mutable_metadata: group.mutable_metadata.as_ref().map(|metadata| StoredMutableMetadata {
                attributes: owned_pairs(&metadata.attributes),
                admins: owned(&metadata.admin_list),
                super_admins: owned(&metadata.super_admin_list),
                unknown: metadata.unknown.clone(),
            }),
            unknown: group.unknown.clone(),
        }
    }

    /// Whether the conversation came from an archive and was not activated since.
    pub fn is_restored(&self) -> bool {
        self.membership_state == MEMBERSHIP_RESTORED && self.archived_membership_state.is_some()
    }

    /// Takes over from an archive what is missing here (section 4.9.4).
    pub fn fill(&mut self, other: Self) {
        fn number(mine: &mut i64, theirs: i64) {
            if *mine == 0 {
                *mine = theirs;
            }
        }
        fn option<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if mine.is_none() {
                *mine = theirs;
            }
        }
        fn list<T>(mine: &mut Vec<T>, theirs: Vec<T>) {
            if mine.is_empty() {
                *mine = theirs;
            }
        }
        number(&mut self.created_at_ns, other.created_at_ns);
        number(&mut self.installations_last_checked, other.installations_last_checked);
        number(&mut self.rotated_at_ns, other.rotated_at_ns);
        if self.added_by_inbox_id.is_empty() {
            self.added_by_inbox_id = other.added_by_inbox_id;
        }
        option(&mut self.welcome_sequence_id, other.welcome_sequence_id);
        option(&mut self.dm_id, other.dm_id);
        self.last_message_ns = self.last_message_ns.max(other.last_message_ns);
        self.archived_last_message_ns = self.archived_last_message_ns.max(other.archived_last_message_ns);
        option(&mut self.message_disappear_from_ns, other.message_disappear_from_ns);
        option(&mut self.message_disappear_in_ns, other.message_disappear_in_ns);
        option(&mut self.paused_for_version, other.paused_for_version);
        option(&mut self.creator, other.creator);
        list(&mut self.unknown, other.unknown);
        match (&mut self.mutable_metadata, other.mutable_metadata) {
            (Some(mine), Some(theirs)) => {
                for (key, value) in theirs.attributes {
                    if !mine.attributes.iter().any(|(present, _)| *present == key) {
                        mine.attributes.push((key, value));
                    }
                }
                list(&mut mine.admins, theirs.admins);
                list(&mut mine.super_admins, theirs.super_admins);
                list(&mut mine.unknown, theirs.unknown);
            }
            (mine, theirs) => option(mine, theirs),
        }
    }

    /// The record to put in an archive: what the archive said that it came from, unless it lives on here.
    pub fn to_wire(&self) -> Group<'_> {
        Group {
            id: &self.id,
            created_at_ns: self.created_at_ns,
            membership_state: match self.archived_membership_state {
                Some(archived) if self.is_restored() => archived,
                _ => self.membership_state,
            },
            installations_last_checked: self.installations_last_checked,
            added_by_inbox_id: &self.added_by_inbox_id,
            welcome_id: self.welcome_sequence_id,
            rotated_at_ns: self.rotated_at_ns,
            conversation_type: self.conversation_type,
            dm_id: self.dm_id.as_deref(),
            last_message_ns: if self.archived_membership_state.is_some() {
                self.archived_last_message_ns
            } else {
                self.last_message_ns
            },
            message_disappear_from_ns: self.message_disappear_from_ns,
            message_disappear_in_ns: self.message_disappear_in_ns,
            metadata: self
                .creator
                .as_ref()
                .map(|(creator_inbox_id, unknown)| GroupMetadata { creator_inbox_id, unknown: unknown.clone() }),
            mutable_metadata: self.mutable_metadata.as_ref().map(|metadata| MutableMetadata {
                attributes: metadata.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
                admin_list: metadata.admins.iter().map(String::as_str).collect(),
                super_admin_list: metadata.super_admins.iter().map(String::as_str).collect(),
                unknown: metadata.unknown.clone(),
            }),
            paused_for_version: self.paused_for_version.as_deref(),
            unknown: self.unknown.clone(),
        }
    }

    /// The conversation as it stands here.
    pub fn view(&self) -> ConversationView<'_> {
        ConversationView {
            group: Group {
                membership_state: self.membership_state,
                last_message_ns: self.last_message_ns,
                ..self.to_wire()
            },
            is_active: self.membership_state != MEMBERSHIP_RESTORED,
        }
    }

    /// Reads the conversation under `key`.
    pub fn load(connection: &Connection, key: i64) -> Result<Self, Error> {
        let mut group = connection
            .prepare_cached(
                "SELECT id, created_at_ns, membership_state, archived_membership_state, installations_last_checked,
                        added_by_inbox_id, welcome_sequence_id, rotated_at_ns, conversation_type, dm_id,
                        last_message_ns, archived_last_message_ns, message_disappear_from_ns,
                        message_disappear_in_ns, paused_for_version, creator_inbox_id, has_mutable_metadata
                   FROM groups WHERE key = ?1",
            )?
            .query_row([key], |row| {
                Ok(Self {
                    id: row.get(0)?,
                    created_at_ns: row.get(1)?,
                    membership_state: row.get(2)?,
                    archived_membership_state: row.get(3)?,
                    installations_last_checked: row.get(4)?,
                    added_by_inbox_id: row.get(5)?,
                    welcome_sequence_id: row.get(6)?,
                    rotated_at_ns: row.get(7)?,
                    conversation_type: row.get(8)?,
                    dm_id: row.get(9)?,
                    last_message_ns: row.get(10)?,
                    archived_last_message_ns: row.get(11)?,
                    message_disappear_from_ns: row.get(12)?,
                    message_disappear_in_ns: row.get(13)?,
                    paused_for_version: row.get(14)?,
                    creator: row.get::<_, Option<String>>(15)?.map(|creator| (creator, Vec::new())),
                    mutable_metadata: row.get::<_, bool>(16)?.then(StoredMutableMetadata::default),
                    unknown: Vec::new(),
                })
            })?;
        group.unknown = load_unknown(connection, unknown::GROUP, &group.id)?;
        if let Some((_, bytes)) = &mut group.creator {
            *bytes = load_unknown(connection, unknown::GROUP_METADATA, &group.id)?;
        }
        if let Some(metadata) = &mut group.mutable_metadata {
            metadata.unknown = load_unknown(connection, unknown::MUTABLE_METADATA, &group.id)?;
            metadata.attributes = connection
                .prepare_cached("SELECT key, value FROM group_attributes WHERE group_key = ?1 ORDER BY key")?
                .query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            metadata.admins = load_admins(connection, key, ROLE_ADMIN)?;
            metadata.super_admins = load_admins(connection, key, ROLE_SUPER_ADMIN)?;
        }
        Ok(group)
    }

    /// Writes the conversation, replacing what is stored under its id, and returns its key. `last_message_ns` is never
    /// lowered.
    pub fn save(&self, connection: &Connection) -> Result<i64, Error> {
        let key: i64 = connection
            .prepare_cached(
                "INSERT INTO groups (id, known, created_at_ns, membership_state, archived_membership_state,
                        installations_last_checked, added_by_inbox_id, welcome_sequence_id, rotated_at_ns,
                        conversation_type, dm_id, last_message_ns, archived_last_message_ns,
                        message_disappear_from_ns, message_disappear_in_ns, paused_for_version, creator_inbox_id,
                        has_mutable_metadata)
                 VALUES (?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
                 ON CONFLICT (id) DO UPDATE SET
                        known = 1,
                        created_at_ns = excluded.created_at_ns,
                        membership_state = excluded.membership_state,
                        archived_membership_state = excluded.archived_membership_state,
                        installations_last_checked = excluded.installations_last_checked,
                        added_by_inbox_id = excluded.added_by_inbox_id,
                        welcome_sequence_id = excluded.welcome_sequence_id,
                        rotated_at_ns = excluded.rotated_at_ns,
                        conversation_type = excluded.conversation_type,
                        dm_id = excluded.dm_id,
                        last_message_ns = coalesce(max(last_message_ns, excluded.last_message_ns),
                                                   last_message_ns, excluded.last_message_ns),
                        archived_last_message_ns = excluded.archived_last_message_ns,
                        message_disappear_from_ns = excluded.message_disappear_from_ns,
                        message_disappear_in_ns = excluded.message_disappear_in_ns,
                        paused_for_version = excluded.paused_for_version,
                        creator_inbox_id = excluded.creator_inbox_id,
                        has_mutable_metadata = excluded.has_mutable_metadata
                 RETURNING key",
            )?
            .query_row(
                params![
                    self.id,
                    self.created_at_ns,
                    self.membership_state,
                    self.archived_membership_state,
                    self.installations_last_checked,
                    self.added_by_inbox_id,
                    self.welcome_sequence_id,
                    self.rotated_at_ns,
                    self.conversation_type,
                    self.dm_id,
                    self.last_message_ns,
                    self.archived_last_message_ns,
                    self.message_disappear_from_ns,
                    self.message_disappear_in_ns,
                    self.paused_for_version,
                    self.creator.as_ref().map(|(creator, _)| creator),
                    self.mutable_metadata.is_some(),
                ],
                |row| row.get(0),
            )?;
        connection.prepare_cached("DELETE FROM group_attributes WHERE group_key = ?1")?.execute([key])?;
        connection.prepare_cached("DELETE FROM group_admins WHERE group_key = ?1")?.execute([key])?;
        save_unknown(connection, unknown::GROUP, &self.id, &self.unknown)?;
        let creator_unknown = self.creator.as_ref().map_or(&[][..], |(_, unknown)| unknown);
        save_unknown(connection, unknown::GROUP_METADATA, &self.id, creator_unknown)?;
        let mutable_unknown = self.mutable_metadata.as_ref().map_or(&[][..], |metadata| &metadata.unknown);
        save_unknown(connection, unknown::MUTABLE_METADATA, &self.id, mutable_unknown)?;
        if let Some(metadata) = &self.mutable_metadata {
            let mut insert = connection.prepare_cached("INSERT INTO group_attributes VALUES (?1, ?2, ?3)")?;
            for (name, value) in &metadata.attributes {
                insert.execute(params![key, name, value])?;
            }
            let mut insert = connection.prepare_cached("INSERT INTO group_admins VALUES (?1, ?2, ?3, ?4)")?;
            for (role, inbox_ids) in [(ROLE_ADMIN, &metadata.admins), (ROLE_SUPER_ADMIN, &metadata.super_admins)] {
                for (position, inbox_id) in (0_i64..).zip(inbox_ids) {
                    insert.execute(params![key, role, position, inbox_id])?;
                }
            }
        }
        Ok(key)
    }
}

/// Reads the unknown fields of a record; none is an empty vector.
pub(super) fn load_unknown(connection: &Connection, kind: i64, id: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(connection
        .prepare_cached("SELECT bytes FROM unknown_fields WHERE record_kind = ?1 AND record_id = ?2")?
        .query_row(params![kind, id], |row| row.get(0))
        .optional()?
        .unwrap_or_default())
}

/// Keeps the unknown fields of a record, in place of any kept before.
pub(super) fn save_unknown(connection: &Connection, kind: i64, id: &[u8], bytes: &[u8]) -> Result<(), Error> {
    if bytes.is_empty() {
        connection
            .prepare_cached("DELETE FROM unknown_fields WHERE record_kind = ?1 AND record_id = ?2")?
            .execute(params![kind, id])?;
    } else {
        connection
            .prepare_cached("INSERT OR REPLACE INTO unknown_fields VALUES (?1, ?2, ?3)")?
            .execute(params![kind, id, bytes])?;
    }
    Ok(())
}

/// The id under which a consent record's unknown fields are kept.
pub(super) fn consent_record_id(entity_type: i32, entity: &str) -> Vec<u8> {
    let mut id = entity_type.to_be_bytes().to_vec();
    id.extend_from_slice(entity.as_bytes());
    id
}

fn load_admins(connection: &Connection, key: i64, role: i64) -> Result<Vec<String>, Error> {
    Ok(connection
        .prepare_cached("SELECT inbox_id FROM group_admins WHERE group_key = ?1 AND role = ?2 ORDER BY position")?
        .query_map([key, role], |row| row.get(0))?
        .collect::<Result<_, _>>()?)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn owned_pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    pairs.sort();
    pairs
}
