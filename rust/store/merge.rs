//! Merging records into the store: what is new, what is known already, what wins.
//!
//! The rules are those of the archive specification, sections 4.6, 4.9 and 5.3. A [`Merge`] lives as long as its
//! transaction and remembers what it must settle at the end; a [`Target`] borrows it together with the connection and the
//! prepared statements, for one run of records.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::Record;
use super::error::Error;
use super::group::{StoredGroup, consent_record_id, save_unknown, unknown};
use super::report::ImportReport;
use super::rules::{self, InvalidRecord, STATUS_PUBLISHED};
use crate::crypto;
use crate::wire::{Consent, Group, Message};

/// Timeline entries gathered before they are written in sorted order; 3 MiB.
const TIMELINE_RUN: usize = 128 * 1024;
/// Conversations remembered between records; a hostile archive may have any number.
const GROUPS_REMEMBERED: usize = 64 * 1024;
/// Message headers remembered between records.
const HEADERS_REMEMBERED: usize = 16 * 1024;
/// Type id of the content that deletes another message.
const DELETE_MESSAGE: &str = "deleteMessage";

/// Where records come from, which decides how they are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The application's own knowledge.
    Native,
    /// An archive; `inbox_id` says whose it is, which tells foreign DMs apart and dates decisions no later than now.
    Archive { lenient: bool, inbox_id: Option<String> },
}

/// What a merge remembers of a conversation.
#[derive(Debug, Clone, Copy)]
struct GroupEntry {
    key: i64,
    /// Whether more than messages spoke of it.
    known: bool,
    /// `message_disappear_from_ns` and `message_disappear_in_ns`.
    disappearing: (Option<i64>, Option<i64>),
    /// Newest `sent_at_ns` among the messages this merge stored.
    newest: Option<i64>,
}

/// The state of a merge between runs of records.
pub(super) struct Merge {
    origin: Origin,
    now_ns: i64,
    groups: HashMap<[u8; rules::GROUP_ID_BYTES], GroupEntry, RandomState>,
    headers: HashMap<Vec<u8>, i64, RandomState>,
    header_scratch: Vec<u8>,
    /// (group, time, message), to be written in sorted runs.
    timeline: Vec<(i64, i64, i64)>,
    /// Conversations that messages were waiting for, or whose disappearing settings are new.
    settled_groups: Vec<i64>,
    /// Whether any message lives under another key than its id's first bytes.
    has_overflow: Option<bool>,
    report: ImportReport,
}

impl Merge {
    pub(super) fn native(now_ns: i64) -> Self {
        Self::new(Origin::Native, now_ns)
    }

    pub(super) fn new(origin: Origin, now_ns: i64) -> Self {
        let report = ImportReport {
            foreign_dms: match &origin {
                Origin::Archive { inbox_id: Some(_), .. } => Some(0),
                _ => None,
            },
            ..ImportReport::default()
        };
        Self {
            origin,
            now_ns,
            groups: HashMap::default(),
            headers: HashMap::default(),
            header_scratch: Vec::new(),
            timeline: Vec::new(),
            settled_groups: Vec::new(),
            has_overflow: None,
            report,
        }
    }

    /// Prepares the statements for a run of records.
    pub(super) fn target<'c>(&'c mut self, connection: &'c Connection) -> Result<Target<'c>, Error> {
        let has_overflow = match self.has_overflow {
            Some(known) => known,
            None => connection.query_row("SELECT EXISTS (SELECT 1 FROM message_key_overflow)", [], |row| row.get(0))?,
        };
        self.has_overflow = Some(has_overflow);
        Ok(Target {
            insert_message: connection.prepare_cached(
                "INSERT INTO group_messages (key, id, group_key, header_key, sent_at_ns, delivery_status, sequence_id,
                        originator_id, inserted_at_ns, decrypted_message_bytes, reference_id, expire_at_ns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
                 ON CONFLICT (key) DO NOTHING",
            )?,
            connection,
            merge: self,
        })
    }

    /// How many records were new so far.
    pub(super) fn new_records(&self) -> u64 {
        self.report.new.conversations + self.report.new.messages + self.report.new.consents
    }

    /// The one time that everything this merge stores is dated with.
    pub(super) fn now_ns(&self) -> i64 {
        self.now_ns
    }

    /// Settles what only the end can decide. The transaction is the caller's to commit.
    pub(super) fn finish(mut self, connection: &Connection) -> Result<ImportReport, Error> {
        if self.report.invalid_count > 0 && !matches!(self.origin, Origin::Archive { lenient: true, .. }) {
            return Err(Error::InvalidRecords { count: self.report.invalid_count, first: self.report.invalid });
        }
        self.write_timeline(connection)?;
        self.write_activity(connection)?;
        for key in std::mem::take(&mut self.settled_groups) {
            self.rebuild_expiry(connection, key)?;
            // Only now is it known which of the messages stay, and so which is the newest.
            let newest: Option<i64> = connection.query_row(
                "SELECT max(sent_at_ns) FROM group_timeline WHERE group_key = ?1",
                [key],
                |row| row.get(0),
            )?;
            if let Some(newest) = newest {
                self.raise_activity(connection)?.execute([key, newest])?;
            }
        }
        connection.execute(
            "UPDATE message_deletions SET is_super_admin_deletion = EXISTS (
                    SELECT 1 FROM group_admins AS admin
                     WHERE admin.group_key = message_deletions.group_key AND admin.role = 2
                       AND admin.inbox_id = message_deletions.deleted_by_inbox_id)
              WHERE is_super_admin_deletion IS NULL AND group_key IN (SELECT key FROM groups WHERE known = 1)",
            [],
        )?;
        self.report.orphans = connection.query_row(
            "SELECT count(*) FROM groups
              CROSS JOIN group_timeline AS entry ON entry.group_key = groups.key
              CROSS JOIN group_messages AS message ON message.key = entry.message_key
              WHERE groups.known = 0 AND message.inserted_at_ns = ?1",
            [self.now_ns],
            |row| row.get(0),
        )?;
        Ok(self.report)
    }

    /// Writes the gathered timeline entries in order, so that each page of the index is visited once.
    fn write_timeline(&mut self, connection: &Connection) -> Result<(), Error> {
        self.timeline.sort_unstable();
        let mut insert = connection.prepare_cached("INSERT INTO group_timeline VALUES (?1, ?2, ?3)")?;
        for (group, time, message) in self.timeline.drain(..) {
            insert.execute([group, time, message])?;
        }
        Ok(())
    }

    /// Writes the newest messages stored to their conversations, and forgets the conversations.
    fn write_activity(&mut self, connection: &Connection) -> Result<(), Error> {
        let mut update = self.raise_activity(connection)?;
        for (_, group) in self.groups.drain() {
            if let Some(newest) = group.newest {
                update.execute([group.key, newest])?;
            }
        }
        Ok(())
    }

    /// The statement that raises `last_message_ns` of a conversation (section 4.9.5). What the application adds counts for
    /// later exports too; a restored conversation otherwise keeps the archive's figure for them.
    fn raise_activity<'c>(&self, connection: &'c Connection) -> Result<CachedStatement<'c>, Error> {
        Ok(connection.prepare_cached(match self.origin {
            Origin::Native => {
                "UPDATE groups SET last_message_ns = ?2, archived_last_message_ns = ?2
                  WHERE key = ?1 AND (last_message_ns IS NULL OR last_message_ns < ?2)"
            }
            Origin::Archive { .. } => {
                "UPDATE groups SET last_message_ns = ?2
                  WHERE key = ?1 AND (last_message_ns IS NULL OR last_message_ns < ?2)"
            }
        })?)
    }

    /// Gives the messages of a conversation their expiry (section 4.9.8), and drops those whose time has come.
    fn rebuild_expiry(&mut self, connection: &Connection, key: i64) -> Result<(), Error> {
        let (from, lifetime): (Option<i64>, Option<i64>) = connection.query_row(
            "SELECT message_disappear_from_ns, message_disappear_in_ns FROM groups WHERE key = ?1",
            [key],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let (Some(from), Some(lifetime)) = (from, lifetime) else {
            return Ok(());
        };
        if from <= 0 || lifetime <= 0 {
            return Ok(());
        }
        connection.execute(
            "UPDATE group_messages
                SET expire_at_ns = CASE WHEN sent_at_ns > 9223372036854775807 - ?3 THEN 9223372036854775807
                                        ELSE sent_at_ns + ?3 END
              WHERE key IN (SELECT message_key FROM group_timeline WHERE group_key = ?1 AND sent_at_ns >= ?2)
                AND expire_at_ns IS NULL AND delivery_status = ?4
                AND header_key IN (SELECT key FROM message_headers WHERE kind = ?5)",
            params![key, from, lifetime, STATUS_PUBLISHED, rules::KIND_APPLICATION],
        )?;
        let expired: u64 = connection.query_row(
            "SELECT count(*) FROM group_messages WHERE expire_at_ns <= ?1 AND group_key = ?2 AND inserted_at_ns = ?1",
            [self.now_ns, key],
            |row| row.get(0),
        )?;
        connection
            .execute("DELETE FROM group_messages WHERE expire_at_ns <= ?1 AND group_key = ?2", [self.now_ns, key])?;
        self.report.new.messages = self.report.new.messages.saturating_sub(expired);
        self.report.skipped.messages += expired;
        self.report.expired += expired;
        Ok(())
    }
}

/// A merge, its connection and its statements.
pub(super) struct Target<'c> {
    merge: &'c mut Merge,
    connection: &'c Connection,
    insert_message: CachedStatement<'c>,
}

impl Target<'_> {
    /// How many records were new so far.
    pub(super) fn new_records(&self) -> u64 {
        self.merge.new_records()
    }

    /// Merges a record of the application.
    pub(super) fn add(&mut self, index: u64, record: &Record<'_>) -> Result<(), Error> {
        let (kind, checked) = match record {
            Record::Group(group) => ("conversation", rules::check_group(group)),
            Record::Message(message, _) => ("message", rules::check_message(message)),
            Record::Consent(consent) => ("consent", rules::check_consent(consent)),
        };
        if let Err((field, reason)) = checked {
            return Err(Error::Invalid(InvalidRecord { element: index, kind, field, reason }));
        }
        match record {
            Record::Group(group) => self.merge_group(group),
            Record::Message(message, expire_at_ns) => self.merge_message(message, *expire_at_ns),
            Record::Consent(consent) => self.set_consent(consent),
        }
    }

    /// Merges a conversation of an archive.
    pub(super) fn group(&mut self, element: u64, group: &Group<'_>) -> Result<(), Error> {
        if self.accept(element, "conversation", rules::check_group(group)) {
            self.merge_group(group)?;
            self.count_foreign(group);
        }
        Ok(())
    }

    /// Merges a message of an archive.
    pub(super) fn message(&mut self, element: u64, message: &Message<'_>) -> Result<(), Error> {
        if self.accept(element, "message", rules::check_message(message)) {
            self.merge_message(message, None)?;
        }
        Ok(())
    }

    /// Merges a consent record of an archive: the newer decision wins, and the stored one wins a tie (section 4.6).
    pub(super) fn consent(&mut self, element: u64, consent: &Consent<'_>) -> Result<(), Error> {
        if !self.accept(element, "consent", rules::check_consent(consent)) {
            return Ok(());
        }
        let mut consent = consent.clone();
        if matches!(self.merge.origin, Origin::Archive { inbox_id: Some(_), .. }) {
            // The user's own, among installations that agree on who decided last: nobody decides in the future.
            consent.consented_at_ns = consent.consented_at_ns.min(self.merge.now_ns);
        }
        let consent = &consent;
        match stored_consent(self.connection, consent)? {
            None => self.merge.report.new.consents += 1,
            Some((_, stored_at_ns, _)) if consent.consented_at_ns > stored_at_ns => {
                self.merge.report.updated.consents += 1;
            }
            Some(_) => {
                self.merge.report.duplicate.consents += 1;
                return Ok(());
            }
        }
        write_consent(self.connection, consent, 0)
    }

    /// Notes an invalid record. A strict import that met one is going to fail, so it only goes on checking.
    fn accept(&mut self, element: u64, kind: &'static str, checked: Result<(), rules::Violation>) -> bool {
        let report = &mut self.merge.report;
        if let Err((field, reason)) = checked {
            report.note_invalid(InvalidRecord { element, kind, field, reason });
            match kind {
                "conversation" => report.skipped.conversations += 1,
                "message" => report.skipped.messages += 1,
                _ => report.skipped.consents += 1,
            }
            return false;
        }
        report.invalid_count == 0 || matches!(self.merge.origin, Origin::Archive { lenient: true, .. })
    }

    fn count_foreign(&mut self, group: &Group<'_>) {
        if let (Origin::Archive { inbox_id: Some(own), .. }, Some(count), Some((first, second))) = (
            &self.merge.origin,
            &mut self.merge.report.foreign_dms,
            group.dm_id.filter(|_| group.conversation_type == rules::CONVERSATION_DM).and_then(rules::dm_members),
        ) && first != own
            && second != own
        {
            *count += 1;
        }
    }

    fn merge_group(&mut self, group: &Group<'_>) -> Result<(), Error> {
        let native = self.merge.origin == Origin::Native;
        let incoming = StoredGroup::new(group, !native);
        let stored: Option<(i64, bool)> = self
            .connection
            .prepare_cached("SELECT key, known FROM groups WHERE id = ?1")?
            .query_row([group.id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        // What was remembered is of the conversation as it was; its activity must not get lost.
        let id = <[u8; rules::GROUP_ID_BYTES]>::try_from(group.id).ok();
        let mut newest = id.and_then(|id| self.merge.groups.remove(&id)).and_then(|entry| entry.newest);
        match stored {
            None => {
                self.merge.report.new.conversations += 1;
                incoming.save(self.connection)?;
            }
            Some((key, false)) => {
                self.merge.report.new.conversations += 1;
                incoming.save(self.connection)?;
                self.merge.settled_groups.push(key);
            }
            Some((key, true)) => {
                let before = StoredGroup::load(self.connection, key)?;
                let mut after = before.clone();
                if native {
                    after = incoming;
                    after.last_message_ns = after.last_message_ns.max(before.last_message_ns);
                } else if before.is_restored() {
                    after.fill(incoming);
                } else {
                    after.last_message_ns = after.last_message_ns.max(group.last_message_ns);
                }
                if after == before {
                    self.merge.report.duplicate.conversations += 1;
                } else {
                    self.merge.report.updated.conversations += 1;
                    after.save(self.connection)?;
                    if !native {
                        self.merge.settled_groups.push(key);
                        newest = None;
                    }
                }
            }
        }
        if newest.is_some() {
            self.group_entry(group.id)?.newest = newest;
        }
        Ok(())
    }

    fn merge_message(&mut self, message: &Message<'_>, expire_at_ns: Option<i64>) -> Result<(), Error> {
        let group = *self.group_entry(message.group_id)?;
        let expire_at_ns = expire_at_ns
            .or_else(|| rules::expiry(group.disappearing, message.kind, message.delivery_status, message.sent_at_ns));
        if expire_at_ns.is_some_and(|at| at <= self.merge.now_ns) {
            self.merge.report.skipped.messages += 1;
            self.merge.report.expired += 1;
            return Ok(());
        }
        let header_key = self.header_key(message)?;
        let key = match self.place(message, group.key, header_key, expire_at_ns)? {
            Placed::New(key) => {
                self.merge.report.new.messages += 1;
                key
            }
            Placed::Known(key) => {
                return self.merge_duplicate(message, key, group.key, header_key, expire_at_ns);
            }
        };
        if message.content_type == DELETE_MESSAGE
            && message.kind == rules::KIND_APPLICATION
            && let Some(deleted_message_id) = message.reference_id
        {
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO message_deletions VALUES (?1, ?2, ?3, ?4, NULL, ?5)")?
                .execute(params![key, group.key, deleted_message_id, message.sender_inbox_id, message.sent_at_ns])?;
        }
        if !message.unknown.is_empty() {
            save_unknown(self.connection, unknown::MESSAGE, message.id, &message.unknown)?;
        }
        self.note_time(message, group.key, key)
    }

    /// Puts a message's time where it is found by, and remembers the conversation's activity.
    fn note_time(&mut self, message: &Message<'_>, group_key: i64, key: i64) -> Result<(), Error> {
        let entry = self.group_entry(message.group_id)?;
        if entry.known {
            entry.newest = entry.newest.max(Some(message.sent_at_ns));
        }
        self.merge.timeline.push((group_key, message.sent_at_ns, key));
        if self.merge.timeline.len() >= TIMELINE_RUN {
            self.merge.write_timeline(self.connection)?;
        }
        Ok(())
    }

    /// Inserts a message under the key that its id asks for, or another where that one is taken by another id.
    fn place(
        &mut self,
        message: &Message<'_>,
        group_key: i64,
        header_key: i64,
        expire_at_ns: Option<i64>,
    ) -> Result<Placed, Error> {
        if self.merge.has_overflow == Some(true)
            && let Some(key) = overflow_key(self.connection, message.id)?
        {
            return Ok(Placed::Known(key));
        }
        let mut key = preferred_key(message.id);
        // Ids that only differ in a later part keep their order by it, which made-up ones tend to need.
        let mut alternatives = message.id.chunks_exact(8).skip(1);
        loop {
            let inserted = self.insert_message.execute(params![
                key,
                message.id,
                group_key,
                header_key,
                message.sent_at_ns,
                message.delivery_status,
                message.sequence_id,
                message.originator_id,
                self.merge.now_ns,
                message.decrypted_message_bytes,
                message.reference_id,
                expire_at_ns,
            ])?;
            if inserted == 1 {
                if key != preferred_key(message.id) {
                    self.merge.has_overflow = Some(true);
                    self.connection
                        .prepare_cached("INSERT INTO message_key_overflow VALUES (?1, ?2)")?
                        .execute(params![message.id, key])?;
                }
                return Ok(Placed::New(key));
            }
            let occupant: Vec<u8> = self
                .connection
                .prepare_cached("SELECT id FROM group_messages WHERE key = ?1")?
                .query_row([key], |row| row.get(0))?;
            if occupant == message.id {
                return Ok(Placed::Known(key));
            }
            key = match alternatives.next() {
                Some(part) => preferred_key(part),
                None => i64::from_be_bytes(crypto::random_bytes().map_err(|_| Error::NoRandomness)?),
            };
        }
    }

    /// The first of an id wins, but one that the network has replaces one that it does not have (section 4.9.6).
    fn merge_duplicate(
        &mut self,
        message: &Message<'_>,
        key: i64,
        group_key: i64,
        header_key: i64,
        expire_at_ns: Option<i64>,
    ) -> Result<(), Error> {
        let (stored_group, stored_status, stored_time): (i64, i32, i64) = self
            .connection
            .prepare_cached("SELECT group_key, delivery_status, sent_at_ns FROM group_messages WHERE key = ?1")?
            .query_row([key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        if stored_status == STATUS_PUBLISHED || message.delivery_status != STATUS_PUBLISHED || stored_group != group_key
        {
            self.merge.report.duplicate.messages += 1;
            return Ok(());
        }
        self.merge.report.updated.messages += 1;
        self.merge.write_timeline(self.connection)?;
        self.connection
            .prepare_cached("DELETE FROM group_timeline WHERE group_key = ?1 AND sent_at_ns = ?2 AND message_key = ?3")?
            .execute([group_key, stored_time, key])?;
        self.connection
            .prepare_cached(
                "UPDATE group_messages SET header_key = ?2, sent_at_ns = ?3, delivery_status = ?4, sequence_id = ?5,
                        originator_id = ?6, decrypted_message_bytes = ?7, reference_id = ?8, expire_at_ns = ?9
                  WHERE key = ?1",
            )?
            .execute(params![
                key,
                header_key,
                message.sent_at_ns,
                message.delivery_status,
                message.sequence_id,
                message.originator_id,
                message.decrypted_message_bytes,
                message.reference_id,
                expire_at_ns,
            ])?;
        save_unknown(self.connection, unknown::MESSAGE, message.id, &message.unknown)?;
        self.note_time(message, group_key, key)
    }

    /// Finds a conversation, or makes a place for one that only messages speak of so far.
    fn group_entry(&mut self, id: &[u8]) -> Result<&mut GroupEntry, Error> {
        let id: [u8; rules::GROUP_ID_BYTES] =
            id.try_into().expect("the rules for messages were checked before, and fix the length");
        if !self.merge.groups.contains_key(&id) {
            if self.merge.groups.len() >= GROUPS_REMEMBERED {
                self.merge.write_activity(self.connection)?;
            }
            let stored = self
                .connection
                .prepare_cached(
                    "SELECT key, known, message_disappear_from_ns, message_disappear_in_ns FROM groups WHERE id = ?1",
                )?
                .query_row([&id[..]], |row| {
                    let disappearing = (row.get(2)?, row.get(3)?);
                    Ok(GroupEntry { key: row.get(0)?, known: row.get(1)?, disappearing, newest: None })
                })
                .optional()?;
            let entry = match stored {
                Some(entry) => entry,
                None => GroupEntry {
                    key: self
                        .connection
                        .prepare_cached("INSERT INTO groups (id, known) VALUES (?1, 0) RETURNING key")?
                        .query_row([&id[..]], |row| row.get(0))?,
                    known: false,
                    disappearing: (None, None),
                    newest: None,
                },
            };
            self.merge.groups.insert(id, entry);
        }
        Ok(self.merge.groups.get_mut(&id).expect("it was inserted above"))
    }

    /// The key of what this message shares with others.
    fn header_key(&mut self, message: &Message<'_>) -> Result<i64, Error> {
        let merge = &mut *self.merge;
        let scratch = &mut merge.header_scratch;
        scratch.clear();
        for number in [message.kind, message.content_type_save, message.version_major, message.version_minor] {
            scratch.extend_from_slice(&number.to_le_bytes());
        }
        for text in [
            message.sender_installation_id,
            message.sender_inbox_id.as_bytes(),
            message.content_type.as_bytes(),
            message.authority_id.as_bytes(),
        ] {
            scratch.extend_from_slice(&text.len().to_le_bytes());
            scratch.extend_from_slice(text);
        }
        if let Some(&key) = merge.headers.get(scratch.as_slice()) {
            return Ok(key);
        }
        let values = params![
            message.kind,
            message.sender_inbox_id,
            message.sender_installation_id,
            message.content_type,
            message.content_type_save,
            message.version_major,
            message.version_minor,
            message.authority_id,
        ];
        let stored: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT key FROM message_headers
                  WHERE kind = ?1 AND sender_inbox_id = ?2 AND sender_installation_id = ?3 AND content_type = ?4
                    AND content_type_save = ?5 AND version_major = ?6 AND version_minor = ?7 AND authority_id = ?8",
            )?
            .query_row(values, |row| row.get(0))
            .optional()?;
        let key = match stored {
            Some(key) => key,
            None => self
                .connection
                .prepare_cached(
                    "INSERT INTO message_headers (kind, sender_inbox_id, sender_installation_id, content_type,
                            content_type_save, version_major, version_minor, authority_id)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING key",
                )?
                .query_row(values, |row| row.get(0))?,
        };
        if merge.headers.len() >= HEADERS_REMEMBERED {
            merge.headers.clear();
        }
        merge.headers.insert(scratch.clone(), key);
        Ok(key)
    }

    /// Sets a consent as the application asks, whatever was stored.
    fn set_consent(&mut self, consent: &Consent<'_>) -> Result<(), Error> {
        match stored_consent(self.connection, consent)? {
            None => self.merge.report.new.consents += 1,
            Some((state, at_ns, _)) if (state, at_ns) == (consent.state, consent.consented_at_ns) => {
                self.merge.report.duplicate.consents += 1;
            }
            Some(_) => self.merge.report.updated.consents += 1,
        }
        write_consent(self.connection, consent, 0)
    }
}

/// State, time and sequence id of the stored decision about the same entity.
pub(super) fn stored_consent(connection: &Connection, consent: &Consent<'_>) -> Result<Option<(i32, i64, i64)>, Error> {
    Ok(connection
        .prepare_cached(
            "SELECT state, consented_at_ns, sequence_id FROM consent_records WHERE entity_type = ?1 AND entity = ?2",
        )?
        .query_row(params![consent.entity_type, consent.entity], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?)
}

/// Writes a decision: state, time and where it came from always together.
pub(super) fn write_consent(connection: &Connection, consent: &Consent<'_>, sequence_id: i64) -> Result<(), Error> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO consent_records VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![consent.entity_type, consent.entity, consent.state, consent.consented_at_ns, sequence_id])?;
    let id = consent_record_id(consent.entity_type, consent.entity);
    save_unknown(connection, unknown::CONSENT, &id, &consent.unknown)
}

/// Where a message is.
enum Placed {
    New(i64),
    Known(i64),
}

/// The key that a message's id asks for: its first eight bytes, as the signed number that keeps their order.
pub(super) fn preferred_key(id: &[u8]) -> i64 {
    let prefix = id.first_chunk().copied().unwrap_or_default();
    i64::from_be_bytes(prefix) ^ i64::MIN
}

/// The key under which the message of this id is, if it is there.
pub(super) fn message_key(connection: &Connection, id: &[u8]) -> Result<i64, Error> {
    Ok(overflow_key(connection, id)?.unwrap_or_else(|| preferred_key(id)))
}

fn overflow_key(connection: &Connection, id: &[u8]) -> Result<Option<i64>, Error> {
    Ok(connection
        .prepare_cached("SELECT key FROM message_key_overflow WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?)
}
