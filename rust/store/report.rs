//! What an import or an export did, in numbers.

use super::rules::InvalidRecord;
use crate::wire::Metadata;

/// Invalid records remembered one by one; beyond it they are only counted.
pub const INVALID_LISTED: usize = 1000;

/// A number for each kind of record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Groups and DMs.
    pub conversations: u64,
    /// Messages.
    pub messages: u64,
    /// Consent records.
    pub consents: u64,
}

impl Counts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.conversations + self.messages + self.consents
    }
}

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct ImportReport {
    /// Records that the store did not have.
    pub new: Counts,
    /// Records that it had.
    pub duplicate: Counts,
    /// Stored records that were changed.
    pub updated: Counts,
    /// Records left out: expired messages and, in a lenient import, invalid records.
    pub skipped: Counts,
    /// Expired messages among the skipped.
    pub expired: u64,
    /// The first invalid records.
    pub invalid: Vec<InvalidRecord>,
    /// How many invalid records there were.
    pub invalid_count: u64,
    /// Messages stored for a conversation that is not known yet.
    pub orphans: u64,
    /// DMs that the inbox given is not a member of.
    pub foreign_dms: Option<u64>,
    /// Elements of an unknown kind.
    pub unknown_elements: u64,
    /// Whether the archive used one nonce throughout.
    pub legacy: bool,
    /// The archive's metadata.
    pub metadata: Option<Metadata>,
}

impl ImportReport {
    pub(super) fn note_invalid(&mut self, record: InvalidRecord) {
        self.invalid_count += 1;
        if self.invalid.len() < INVALID_LISTED {
            self.invalid.push(record);
        }
    }
}

/// What an archive holds.
#[derive(Debug, Clone, Default)]
pub struct ArchiveReport {
    /// The metadata element.
    pub metadata: Metadata,
    /// Records per kind.
    pub counts: Counts,
    /// Elements, the metadata included and empty ones left out.
    pub elements: u64,
    /// Size of the archive.
    pub archive_bytes: u64,
    /// Size of the records before encryption.
    pub plaintext_bytes: u64,
    /// Time of the oldest message.
    pub first_sent_at_ns: Option<i64>,
    /// Time of the newest message.
    pub last_sent_at_ns: Option<i64>,
    /// Whether the archive used one nonce throughout.
    pub legacy: bool,
    /// Elements of an unknown kind, and deprecated events.
    pub unknown_elements: u64,
    /// The first invalid records.
    pub invalid: Vec<InvalidRecord>,
}

impl ArchiveReport {
    pub(super) fn note_time(&mut self, sent_at_ns: i64) {
        self.first_sent_at_ns = Some(self.first_sent_at_ns.map_or(sent_at_ns, |first| first.min(sent_at_ns)));
        self.last_sent_at_ns = self.last_sent_at_ns.max(Some(sent_at_ns));
    }
}
