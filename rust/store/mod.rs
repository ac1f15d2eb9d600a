//! The encrypted history store: one SQLCipher file with conversations, messages and consent, and what an installation on
//! the network keeps beside them.
//!
//! Every write is one transaction; readers see a snapshot and never wait for a writer. The schema and its reasons are in
//! `sql/`, the rules for merging records in `merge.rs`, after the archive specification, sections 4
//! and 5.

mod batch;
mod connection;
mod error;
mod export;
mod group;
mod import;
mod merge;
mod query;
mod recorded;
mod report;
pub mod rules;
mod transaction;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use self::connection::{Location, Pool, Reader, Slot, Writer};
pub use self::error::Error;
pub use self::export::{ExportOptions, Exporter, Section};
pub use self::import::{ImportOptions, Importer};
use self::merge::Merge;
pub use self::query::{ConversationQuery, ConversationView, MessageQuery, MessageView, Page};
pub use self::recorded::Recorded;
pub use self::report::{ArchiveReport, Counts, ImportReport};
pub use self::transaction::{Decision, MessagePlace, Transaction};
pub use self::verify::Tally;
use crate::wire::{Consent, Group, Message};

/// The schema, one step for every version. Steps are only ever added.
const MIGRATIONS: &[&str] = &[
    include_str!("sql/0001_initial.sql"),
    include_str!("sql/0002_installation.sql"),
    include_str!("sql/0003_device_sync.sql"),
];

/// Marks the file as ours ("XMTP").
const APPLICATION_ID: i64 = 0x584d_5450;

/// A history store. Can be used from several threads at once; several processes may open the same file.
pub struct Store {
    shared: Arc<Shared>,
    writer: Arc<Slot>,
    readers: Arc<Pool>,
}

/// What outlives a call: imports hand their last piece of work over to it.
struct Shared {
    location: Arc<Location>,
    background: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    /// Keeps a thread that still has something to do, until the store is closed.
    fn in_background(&self, thread: JoinHandle<()>) {
        let mut threads = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }
}

impl Drop for Store {
    /// Waits for work in the background, so that the file may be moved or deleted afterwards.
    fn drop(&mut self) {
        for thread in self.shared.background.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

/// One record of any kind, for [`Store::add`].
pub enum Record<'a> {
    /// A group or DM, with its state as the caller knows it.
    Group(Group<'a>),
    /// A message; the second field is its expiry, ns.
    Message(Message<'a>, Option<i64>),
    /// A consent decision, which replaces any stored one.
    Consent(Consent<'a>),
}

impl Store {
    /// Opens the store at `path`, creating it (readable by its owner alone) if there is none, and brings its schema up to
    /// date. `key` has 32 bytes and is used as it is. `timeout` is how long a write waits for other writers.
    ///
    /// # Errors
    /// [`Error::KeyLength`], [`Error::WrongKey`], [`Error::NewerSchema`], [`Error::CannotOpen`], [`Error::Locked`].
    pub fn open(path: &Path, key: &[u8], timeout: Duration) -> Result<Self, Error> {
        let location = Arc::new(Location::new(path, key, timeout)?);
        location.ensure_file()?;
        let connection = location.connect()?;
        migrate(&connection)?;
        let readers = Pool::new(Arc::clone(&location));
        let shared = Arc::new(Shared { location, background: Mutex::default() });
        let store = Self { shared, writer: Slot::new(connection), readers };
        match store.delete_expired() {
            // Reads hide what has expired, so the sweep can wait for the next opening.
            Err(Error::Locked | Error::ReadOnly | Error::Full) => {}
            result => result?,
        }
        Ok(store)
    }

    /// Adds records as one transaction; `invalid` records fail the whole call. Conversations replace stored ones of the
    /// same id, messages keep the first of an id, consents are set unconditionally.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the index of the record, or any error of the database; nothing is stored then.
    pub fn add<'a>(&self, records: impl IntoIterator<Item = Record<'a>>) -> Result<ImportReport, Error> {
        self.add_all(records, false)
    }

    /// As [`Self::add`]; the messages that are new are to be told to the inbox's other installations, unless there are more
    /// than [`recorded::MOST_TOLD`]: that many travel by archive.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub fn add_and_tell<'a>(&self, records: impl IntoIterator<Item = Record<'a>>) -> Result<ImportReport, Error> {
        self.add_all(records, true)
    }

    fn add_all<'a>(&self, records: impl IntoIterator<Item = Record<'a>>, tell: bool) -> Result<ImportReport, Error> {
        let writer = self.begin()?;
        let mut merge = Merge::native(now_ns());
        let mut new = Vec::new();
        {
            let mut target = merge.target(&writer)?;
            for (index, record) in (0..).zip(records) {
                let before = target.new_records();
                target.add(index, &record)?;
                if let Record::Message(message, _) = &record
                    && tell
                    && target.new_records() > before
                    && new.len() <= recorded::MOST_TOLD
                {
                    new.push(message.id.to_vec());
                }
            }
        }
        let report = merge.finish(&writer)?;
        if new.len() <= recorded::MOST_TOLD {
            recorded::tell(&writer, &new)?;
        }
        writer.execute_batch("COMMIT")?;
        Ok(report)
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.shared.location.path().to_owned()
    }

    /// Starts a transaction that another room fills.
    ///
    /// # Errors
    /// [`Error::Locked`], or any error of the database.
    pub fn transaction(&self) -> Result<Transaction, Error> {
        Ok(Transaction::new(self.begin()?))
    }

    /// Lends a connection that reads one snapshot of everything.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn read<T, E: From<Error>>(&self, body: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E> {
        body(&*self.reader()?)
    }

    /// Deletes messages whose time has come.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn delete_expired(&self) -> Result<(), Error> {
        let now = now_ns();
        let expired: bool = self.reader()?.query_row(
            "SELECT EXISTS (SELECT 1 FROM group_messages WHERE expire_at_ns <= ?1)",
            [now],
            |row| row.get(0),
        )?;
        if expired {
            let writer = self.begin()?;
            writer.execute("DELETE FROM group_messages WHERE expire_at_ns <= ?1", [now])?;
            writer.execute_batch("COMMIT")?;
        }
        Ok(())
    }

    /// Starts a write transaction.
    fn begin(&self) -> Result<Writer, Error> {
        let writer = self.writer.lend(self.shared.location.timeout)?;
        writer.execute_batch("BEGIN IMMEDIATE")?;
        Ok(writer)
    }

    fn reader(&self) -> Result<Reader, Error> {
        self.readers.lend()
    }
}

fn migrate(connection: &Connection) -> Result<(), Error> {
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = version(connection)?;
    if found > known {
        return Err(Error::NewerSchema { found, known });
    }
    if found == known {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let migrated = (|| {
        // Another process may have migrated while this one waited for the lock.
        let found = version(connection)?;
        for (number, step) in (1_i64..).zip(MIGRATIONS) {
            if number > found {
                connection.execute_batch(step)?;
            }
        }
        connection
            .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known}; COMMIT"))
    })();
    if migrated.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    Ok(migrated?)
}

/// The wall clock, ns since 1970.
pub(crate) fn now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_nanos()).ok())
        .unwrap_or(0)
}
