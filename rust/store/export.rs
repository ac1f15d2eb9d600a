//! Exporting to an archive: records out of one snapshot, bytes out.
//!
//! The selection is that of the archive specification, section 3. A thread of the export's own reads and encodes rows, by
//! key, from a read transaction that it keeps open, so others may write meanwhile; the caller's thread seals them. What is
//! in memory are a few batches.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use foldhash::fast::RandomState;
use rusqlite::{OptionalExtension, params};

use super::batch::{BATCHES_WAITING, Batch};
use super::connection::Reader;
use super::error::Error;
use super::group::{StoredGroup, consent_record_id, load_unknown, unknown};
use super::query::{Headers, MESSAGE_COLUMNS, message_of, visit_consents};
use super::report::ArchiveReport;
use super::rules::KIND_APPLICATION;
use super::{Store, now_ns};
use crate::archive::Writer;
use crate::crypto::ArchiveKey;
use crate::wire::{self, Metadata};

/// Conversations or consent records fetched at a time.
const PAGE_RECORDS: u32 = 256;
/// Conversation ids remembered between messages.
const GROUPS_REMEMBERED: usize = 64 * 1024;

/// A section of an archive (`BackupElementSelection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Conversations, then messages.
    Messages = 1,
    /// Consent records.
    Consent = 2,
}

/// What to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The sections, in this order.
    pub sections: Vec<Section>,
    /// Start of the time window, ns, exclusive.
    pub start_ns: Option<i64>,
    /// End of the time window, ns, inclusive.
    pub end_ns: Option<i64>,
    /// Leave out messages that have an expiry.
    pub exclude_disappearing_messages: bool,
    /// Also write conversations outside the window that a written message belongs to.
    pub include_context_groups: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            sections: vec![Section::Messages, Section::Consent],
            start_ns: None,
            end_ns: None,
            exclude_disappearing_messages: false,
            include_context_groups: true,
        }
    }
}

/// An export under way.
pub struct Exporter {
    writer: Writer,
    batches: Option<Receiver<Delivery>>,
    thread: Option<JoinHandle<()>>,
    report: ArchiveReport,
}

/// What the reading thread delivers: a batch and the report so far, or its end. An end that is missing is a failure.
enum Delivery {
    Batch(Batch, ArchiveReport),
    End(Result<ArchiveReport, Error>),
}

impl Store {
    /// Starts an export of what the store holds now, sealed with `key`.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn export(&self, key: &ArchiveKey, options: ExportOptions) -> Result<Exporter, Error> {
        let writer = Writer::new(key)?;
        let reader = self.reader()?;
        // A deferred transaction gets its snapshot with its first read, which has to be before this returns.
        reader.execute_batch("BEGIN")?;
        let has_unknown_messages = reader.query_row(
            "SELECT EXISTS (SELECT 1 FROM unknown_fields WHERE record_kind = ?1)",
            [unknown::MESSAGE],
            |row| row.get(0),
        )?;
        let (sender, batches) = sync_channel(BATCHES_WAITING);
        let selection = Selection {
            options,
            groups: HashMap::default(),
            headers: Headers::default(),
            has_unknown_messages,
            now_ns: now_ns(),
            batch: Batch::default(),
            report: ArchiveReport::default(),
            batches: sender,
        };
        let thread = std::thread::Builder::new()
            .name("xmtp-export".into())
            .spawn(move || selection.deliver(&reader))
            .map_err(|error| Error::NoThread(error.to_string()))?;
        Ok(Exporter { writer, batches: Some(batches), thread: Some(thread), report: ArchiveReport::default() })
    }
}

impl Exporter {
    /// Fills `out` with the next bytes of the archive and returns how many; 0 means that it is complete.
    ///
    /// # Errors
    /// Any error of the database. The archive is not complete then, and cannot look so: its frame has no end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        while let Some(batches) = &self.batches
            && self.writer.output().len() < out.len()
        {
            let bytes = self.report.archive_bytes;
            match batches.recv() {
                Ok(Delivery::Batch(batch, report)) => {
                    for (_, plaintext) in batch.iter() {
                        self.writer.write(|out| out.extend_from_slice(plaintext))?;
                    }
                    self.report = report;
                }
                Ok(Delivery::End(report)) => {
                    self.report = report?;
                    self.writer.finish()?;
                    self.batches = None;
                }
                Err(_) => return Err(Error::Interrupted),
            }
            self.report.archive_bytes = bytes;
        }
        let ready = self.writer.output();
        let length = ready.len().min(out.len());
        if let (Some(target), Some(source)) = (out.get_mut(..length), ready.get(..length)) {
            target.copy_from_slice(source);
        }
        ready.drain(..length);
        self.report.archive_bytes += length as u64;
        Ok(length)
    }

    /// Records written so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.report.counts.total()
    }

    /// What was written so far.
    #[must_use]
    pub fn report(&self) -> &ArchiveReport {
        &self.report
    }
}

impl Drop for Exporter {
    /// Ends the reading thread, and with it the snapshot.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why the reading thread stops early.
enum Stop {
    Failed(Error),
    /// Nobody wants the archive any more.
    Dropped,
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// The rows of an export, on their way out.
struct Selection {
    options: ExportOptions,
    groups: HashMap<i64, Option<Vec<u8>>, RandomState>,
    headers: Headers,
    has_unknown_messages: bool,
    now_ns: i64,
    batch: Batch,
    report: ArchiveReport,
    batches: SyncSender<Delivery>,
}

impl Selection {
    fn deliver(mut self, reader: &Reader) {
        let end = match self.write_all(reader) {
            Ok(()) => Ok(self.report),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Dropped) => return,
        };
        let _ = self.batches.send(Delivery::End(end));
    }

    fn write_all(&mut self, reader: &Reader) -> Result<(), Stop> {
        let metadata = Metadata {
            elements: self.options.sections.iter().map(|&section| section as i32).collect(),
            exported_at_ns: self.now_ns,
            start_ns: self.options.start_ns,
            end_ns: self.options.end_ns,
            unknown: Vec::new(),
        };
        self.write(|out| wire::encode_metadata(&metadata, out))?;
        self.report.metadata = metadata;
        for section in self.options.sections.clone() {
            match section {
                Section::Messages => {
                    self.write_groups(reader)?;
                    self.write_messages(reader)?;
                }
                Section::Consent => self.write_consents(reader)?,
            }
        }
        self.hand_over()
    }

    fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Stop> {
        self.report.elements += 1;
        self.batch.encode(encode);
        if self.batch.is_full() { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> Result<(), Stop> {
        let batch = std::mem::take(&mut self.batch);
        self.report.plaintext_bytes += batch.len() as u64;
        self.batches.send(Delivery::Batch(batch, self.report.clone())).map_err(|_| Stop::Dropped)
    }

    /// Conversations, by id: those created in the window, and those that a message in the window belongs to.
    fn write_groups(&mut self, reader: &Reader) -> Result<(), Stop> {
        let has_window = self.options.start_ns.is_some() || self.options.end_ns.is_some();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page: Vec<(i64, Vec<u8>)> = reader
                .prepare_cached(
                    "SELECT key, id FROM groups
                      WHERE known = 1 AND conversation_type IN (1, 2) AND (?1 IS NULL OR id > ?1)
                        AND ((created_at_ns > ?2 OR ?2 IS NULL) AND (created_at_ns <= ?3 OR ?3 IS NULL)
                             OR ?6 AND EXISTS (
                                SELECT 1 FROM group_timeline AS entry
                                 CROSS JOIN group_messages AS message ON message.key = entry.message_key
                                 CROSS JOIN message_headers AS header ON header.key = message.header_key
                                 WHERE entry.group_key = groups.key
                                   AND (entry.sent_at_ns > ?2 OR ?2 IS NULL)
                                   AND (entry.sent_at_ns <= ?3 OR ?3 IS NULL)
                                   AND header.kind = 1
                                   AND (message.expire_at_ns IS NULL OR (message.expire_at_ns > ?4 AND NOT ?5))))
                      ORDER BY id LIMIT ?7",
                )?
                .query_map(
                    params![
                        after,
                        self.options.start_ns,
                        self.options.end_ns,
                        self.now_ns,
                        self.options.exclude_disappearing_messages,
                        has_window && self.options.include_context_groups,
                        PAGE_RECORDS,
                    ],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?
                .collect::<Result<_, _>>()?;
            for (key, _) in &page {
                let group = StoredGroup::load(reader, *key)?;
                self.report.counts.conversations += 1;
                self.write(|out| wire::encode_group(&group.to_wire(), out))?;
            }
            if page.len() < PAGE_RECORDS as usize {
                return Ok(());
            }
            after = page.into_iter().next_back().map(|(_, id)| id);
        }
    }

    /// Messages, by key, which is the order of their ids.
    fn write_messages(&mut self, reader: &Reader) -> Result<(), Stop> {
        let mut statement = reader.prepare_cached(&format!(
            "SELECT {MESSAGE_COLUMNS} FROM group_messages AS message
              WHERE (expire_at_ns IS NULL OR (expire_at_ns > ?1 AND NOT ?2))
                AND (sent_at_ns > ?3 OR ?3 IS NULL) AND (sent_at_ns <= ?4 OR ?4 IS NULL)
              ORDER BY key"
        ))?;
        let mut rows = statement.query(params![
            self.now_ns,
            self.options.exclude_disappearing_messages,
            self.options.start_ns,
            self.options.end_ns,
        ])?;
        while let Some(row) = rows.next()? {
            let group_key = row.get(1)?;
            if !self.groups.contains_key(&group_key) {
                if self.groups.len() >= GROUPS_REMEMBERED {
                    self.groups.clear();
                }
                // A conversation that is not known yet (its kind is 0) is exported as its messages say; what is
                // neither group nor DM is no conversation of the user's.
                let id = reader
                    .prepare_cached("SELECT id FROM groups WHERE key = ?1 AND conversation_type IN (0, 1, 2)")?
                    .query_row([group_key], |row| row.get(0))
                    .optional()?;
                self.groups.insert(group_key, id);
            }
            let header = self.headers.get(reader, row.get(2)?)?;
            let group_id = self.groups.get(&group_key).and_then(Option::as_deref);
            let (Some(group_id), KIND_APPLICATION) = (group_id, header.kind) else { continue };
            let mut message = message_of(row, group_id, header)?;
            if self.has_unknown_messages {
                message.unknown = load_unknown(reader, unknown::MESSAGE, message.id)?;
            }
            self.report.counts.messages += 1;
            self.report.elements += 1;
            self.report.note_time(message.sent_at_ns);
            self.batch.encode(|out| wire::encode_message(&message, out));
            if self.batch.is_full() {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Consent records, by entity type and entity.
    fn write_consents(&mut self, reader: &Reader) -> Result<(), Stop> {
        let mut after: Option<(i32, String)> = None;
        loop {
            let mut page = Vec::new();
            let from = after.as_ref().map(|(entity_type, entity)| (*entity_type, entity.as_str()));
            let (count, last) = visit_consents(reader, from, PAGE_RECORDS, |mut consent| {
                let id = consent_record_id(consent.entity_type, consent.entity);
                consent.unknown = load_unknown(reader, unknown::CONSENT, &id)?;
                let mut encoded = Vec::new();
                wire::encode_consent(&consent, &mut encoded);
                page.push(encoded);
                Ok(())
            })?;
            for encoded in page {
                self.report.counts.consents += 1;
                self.write(|out| out.extend_from_slice(&encoded))?;
            }
            if count < PAGE_RECORDS {
                return Ok(());
            }
            after = last;
        }
    }
}
