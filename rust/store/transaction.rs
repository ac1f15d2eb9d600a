//! A transaction that a higher room fills: records are merged as the application's own, beside whatever else it writes.

use std::cell::RefCell;

use rusqlite::Connection;

use super::connection::Writer;
use super::error::Error;
use super::merge::Merge;
use super::report::ImportReport;
use super::{Record, now_ns};

/// A write transaction. Dropping it undoes it.
pub struct Transaction {
    writer: Writer,
    merge: RefCell<Merge>,
}

impl Transaction {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, merge: RefCell::new(Merge::native(now_ns())) }
    }

    /// The connection, for the tables of other rooms.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.writer
    }

    /// Merges a record, as [`Store::add`](super::Store::add) does. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is stored, or any error of the database.
    pub fn add(&self, record: &Record<'_>) -> Result<bool, Error> {
        let mut merge = self.merge.borrow_mut();
        let before = merge.new_records();
        merge.target(&self.writer)?.add(0, record)?;
        Ok(merge.new_records() > before)
    }

    /// Commits everything.
    ///
    /// # Errors
    /// Any error of the database; nothing is stored then.
    pub fn commit(self) -> Result<ImportReport, Error> {
        let report = self.merge.into_inner().finish(&self.writer)?;
        self.writer.execute_batch("COMMIT")?;
        Ok(report)
    }
}
