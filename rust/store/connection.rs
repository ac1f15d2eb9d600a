//! Connections to one encrypted database file, and the two places they are kept.
//!
//! SQLite in WAL mode has one writer and any number of readers, so a [`Slot`] lends the single writing connection and a
//! [`Pool`] lends reading ones. Both lend by value: what borrows a connection may outlive any stack frame (an import lives
//! across many calls from Python), and gives it back, rolled back, when dropped.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use super::error::Error;

/// Bytes of a page. Larger pages mean fewer page MACs; 8 KiB is where a single small write does not yet pay for it.
const PAGE_BYTES: u32 = 8192;
/// Memory that a connection may use for pages, KiB.
const CACHE_KIB: u32 = 16 * 1024;
/// Size to which the write-ahead log is cut back after a large transaction, bytes.
const LOG_BYTES: u32 = 16 * 1024 * 1024;
/// Pages in the write-ahead log from which on a commit copies them into the file; 8 MiB.
pub(super) const CHECKPOINT_PAGES: u32 = 1000;
/// Pause between attempts where SQLite does not wait by itself.
const RETRY: Duration = Duration::from_millis(10);
/// Reading connections kept open while nobody uses them.
const IDLE_READERS: usize = 2;

/// Where a database is and what opens it.
pub(super) struct Location {
    path: std::path::PathBuf,
    /// The pragma that hands SQLCipher the raw key: 64 hex digits, so no key derivation takes place.
    key_pragma: Zeroizing<String>,
    pub(super) timeout: Duration,
}

impl Location {
    pub(super) fn new(path: &Path, key: &[u8], timeout: Duration) -> Result<Self, Error> {
        if key.len() != 32 {
            return Err(Error::KeyLength(key.len()));
        }
        let mut key_pragma = Zeroizing::new(String::with_capacity(96));
        key_pragma.push_str("PRAGMA key = \"x'");
        for byte in key {
            for digit in [byte >> 4, byte & 15] {
                key_pragma.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
            }
        }
        key_pragma.push_str("'\";");
        Ok(Self { path: path.to_owned(), key_pragma, timeout })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file, readable by its owner alone, if there is none.
    pub(super) fn ensure_file(&self) -> Result<(), Error> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(&self.path) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::CannotOpen(error.to_string())),
        }
    }

    /// Opens a connection and proves that the key fits.
    ///
    /// Two processes may create the same file at the same moment, each with a salt of its own; the loser finds a database
    /// that its key does not fit, and succeeds when it reads the winner's salt. So a file that was empty is tried again.
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        let was_empty = std::fs::metadata(&self.path).is_ok_and(|file| file.len() == 0);
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.try_connect() {
                Err(Error::Locked) if Instant::now() < deadline => std::thread::sleep(RETRY),
                Err(Error::WrongKey) if was_empty && Instant::now() < deadline => std::thread::sleep(RETRY),
                result => return result,
            }
        }
    }

    fn try_connect(&self) -> Result<Connection, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.timeout)?;
        connection.execute_batch(&self.key_pragma)?;
        // SQLCipher would otherwise write to the process's stderr. The first key of a process resets this, so it comes after.
        connection.execute_batch("PRAGMA cipher_log_level = NONE;")?;
        connection.execute_batch(&format!(
            "PRAGMA cipher_page_size = {PAGE_BYTES};
             PRAGMA cipher_hmac_algorithm = HMAC_SHA256;"
        ))?;
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
        connection.execute_batch(&format!(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -{CACHE_KIB};
             PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};
             PRAGMA journal_size_limit = {LOG_BYTES};"
        ))?;
        connection.set_prepared_statement_cache_capacity(64);
        Ok(connection)
    }
}

/// The one writing connection of a store.
pub(super) struct Slot {
    connection: Mutex<Option<Connection>>,
    returned: Condvar,
}

impl Slot {
    pub(super) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self { connection: Mutex::new(Some(connection)), returned: Condvar::new() })
    }

    /// Borrows the connection, waiting for it as long as `timeout`.
    pub(super) fn lend(self: &Arc<Self>, timeout: Duration) -> Result<Writer, Error> {
        let guard = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut guard, _) = self
            .returned
            .wait_timeout_while(guard, timeout, |connection| connection.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let connection = guard.take().ok_or(Error::Locked)?;
        Ok(Writer { connection: Some(connection), home: Arc::clone(self) })
    }
}

/// The writing connection, borrowed. Dropping it undoes what was not committed.
pub(super) struct Writer {
    connection: Option<Connection>,
    home: Arc<Slot>,
}

impl std::ops::Deref for Writer {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only drop takes the connection out")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            roll_back(&connection);
            *self.home.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
            self.home.returned.notify_one();
        }
    }
}

/// Reading connections of a store.
pub(super) struct Pool {
    location: Arc<Location>,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(location: Arc<Location>) -> Arc<Self> {
        Arc::new(Self { location, idle: Mutex::new(Vec::new()) })
    }

    /// Borrows an idle connection or opens one.
    pub(super) fn lend(self: &Arc<Self>) -> Result<Reader, Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = self.location.connect()?;
                connection.execute_batch("PRAGMA query_only = ON;")?;
                connection
            }
        };
        Ok(Reader { connection: Some(connection), home: Arc::clone(self) })
    }
}

/// A reading connection, borrowed. Dropping it ends its snapshot.
pub(super) struct Reader {
    connection: Option<Connection>,
    home: Arc<Pool>,
}

impl std::ops::Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only drop takes the connection out")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            roll_back(&connection);
            let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_READERS {
                idle.push(connection);
            }
        }
    }
}

fn roll_back(connection: &Connection) {
    if !connection.is_autocommit() {
        // A failed rollback leaves nothing behind either: SQLite discards the transaction with the connection.
        let _ = connection.execute_batch("ROLLBACK");
    }
}
