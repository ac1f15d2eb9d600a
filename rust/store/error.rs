//! What can go wrong in a store.

use super::rules::InvalidRecord;
use crate::archive;

/// An error of the store, or of the archive that was being moved in or out of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is not 32 bytes long.
    #[error("a store key has exactly 32 bytes; this one has {0}")]
    KeyLength(usize),
    /// The key does not open the file, or the file is something else.
    #[error("the key does not open this store, or the file is not a history store")]
    WrongKey,
    /// Another writer held the store for longer than the timeout.
    #[error("another writer holds the store; try again when it has finished")]
    Locked,
    /// The file was written by a newer release.
    #[error("the store has schema {found}, made by a newer release; this one knows up to {known}: please upgrade")]
    NewerSchema {
        /// Schema of the file.
        found: i64,
        /// Newest schema of this release.
        known: i64,
    },
    /// The disk is full, or the file may not grow.
    #[error("no space left for the store; nothing was changed")]
    Full,
    /// The store may not be written.
    #[error("the store is read-only")]
    ReadOnly,
    /// The file could not be opened.
    #[error("the store cannot be opened: {0}")]
    CannotOpen(String),
    /// A record given by the caller breaks the rules of the format.
    #[error("record {}: {}: {}", .0.element, .0.field, .0.reason)]
    Invalid(InvalidRecord),
    /// A strict import met invalid records; nothing was stored.
    #[error("{count} of the archive's records are invalid, so nothing was imported; a lenient import skips them")]
    InvalidRecords {
        /// How many there are.
        count: u64,
        /// The first of them.
        first: Vec<InvalidRecord>,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system's random generator failed; try again")]
    NoRandomness,
    /// The operating system gave no thread.
    #[error("no thread could be started: {0}")]
    NoThread(String),
    /// The other half of an import or export died.
    #[error("internal error: the import or export was interrupted; please report what you did")]
    Interrupted,
    /// The archive is at fault.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// Anything else that SQLite reports.
    #[error("the store failed: {0}")]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, NotADatabase, ReadOnly};
        match error.sqlite_error_code() {
            Some(DatabaseBusy | DatabaseLocked) => Self::Locked,
            Some(NotADatabase) => Self::WrongKey,
            Some(DiskFull) => Self::Full,
            Some(ReadOnly) => Self::ReadOnly,
            Some(CannotOpen) => Self::CannotOpen(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }
}
