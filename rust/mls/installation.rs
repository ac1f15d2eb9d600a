//! One installation: its keys, who may use it, and what the other modules of this room work with.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openmls_rust_crypto::RustCrypto;
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::error::Error;
use super::groups::GroupRow;
use super::hmac::RootKey;
use super::inboxes::{Inboxes, Ingested};
use super::join::load;
use super::keys::InstallationKey;
use super::provider::Provider;
use super::rules;
use crate::identity::{self, AssociationState};
use crate::store::{Store, Transaction, now_ns};

/// An installation of an inbox, living in a store.
///
/// Every call that changes something is one transaction. It may be used from several threads, which wait for each other.
pub struct Installation {
    pub(super) store: Arc<Store>,
    pub(super) key: InstallationKey,
    pub(super) inbox_id: String,
    crypto: RustCrypto,
    // Two calls at a time would advance the same ratchets.
    turn: Mutex<()>,
    _in_use: File,
}

/// A group from the inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupDetails {
    /// Inbox id and installation id of each member.
    pub members: Vec<(String, Vec<u8>)>,
    /// The epoch authenticator (RFC 9420, section 8.7).
    pub epoch_authenticator: Vec<u8>,
}

/// What a call works with: its turn, its transaction, and OpenMLS's view of it.
pub(super) struct Work<'i> {
    pub(super) transaction: Transaction,
    pub(super) now_ns: i64,
    crypto: &'i RustCrypto,
    _turn: MutexGuard<'i, ()>,
}

impl Work<'_> {
    pub(super) fn connection(&self) -> &Connection {
        self.transaction.connection()
    }

    pub(super) fn provider(&self) -> Provider<'_> {
        Provider::new(self.crypto, self.connection())
    }

    pub(super) fn inboxes(&self) -> Inboxes<'_> {
        Inboxes::new(self.connection())
    }

    pub(super) fn commit(self) -> Result<(), Error> {
        self.transaction.commit()?;
        Ok(())
    }
}

impl Installation {
    /// Opens the installation in a store. If there is none and `inbox_id` says whose it is to be, its keys are made.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NoInstallation`], [`Error::OtherInbox`], or any error of the store.
    pub fn open(store: Arc<Store>, inbox_id: Option<&str>) -> Result<Self, Error> {
        let in_use = lock(&store.path())?;
        let transaction = store.transaction()?;
        let stored: Option<(String, Zeroizing<Vec<u8>>)> = transaction
            .connection()
            .query_row("SELECT inbox_id, private_key FROM installation", [], |row| {
                Ok((row.get(0)?, Zeroizing::new(row.get(1)?)))
            })
            .optional()?;
        let (inbox_id, key) = match (stored, inbox_id) {
            (Some((stored, _)), Some(wanted)) if stored != wanted => return Err(Error::OtherInbox),
            (Some((inbox_id, seed)), _) => (inbox_id, InstallationKey::from_seed(&seed)?),
            (None, None) => return Err(Error::NoInstallation),
            (None, Some(inbox_id)) => {
                if !identity::is_inbox_id(inbox_id) {
                    return Err(Error::Argument("an inbox id has 64 lower-case hexadecimal digits"));
                }
                let key = InstallationKey::generate()?;
                transaction.connection().execute(
                    "INSERT INTO installation (key, inbox_id, private_key, installation_id) VALUES (1, ?1, ?2, ?3)",
                    params![inbox_id, key.seed(), key.public_key()],
                )?;
                (inbox_id.to_owned(), key)
            }
        };
        transaction.commit()?;
        let crypto = RustCrypto::default();
        let installation = Self { store, key, inbox_id, crypto, turn: Mutex::default(), _in_use: in_use };
        installation.revalidate_sync_groups()?;
        Ok(installation)
    }

    /// The inbox.
    #[must_use]
    pub fn inbox_id(&self) -> &str {
        &self.inbox_id
    }

    /// The installation's public key.
    #[must_use]
    pub fn installation_id(&self) -> [u8; 32] {
        self.key.public_key()
    }

    /// The store it lives in.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn work(&self) -> Result<Work<'_>, Error> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Work { transaction: self.store.transaction()?, now_ns: now_ns(), crypto: &self.crypto, _turn: turn })
    }

    /// When the installation was first seen in its inbox's log, ns; none if it was not yet.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn registered_at_ns(&self) -> Result<Option<i64>, Error> {
        self.store.read(|connection| {
            Ok(connection.query_row("SELECT registered_at_ns FROM installation", [], |row| row.get(0))?)
        })
    }

    /// The highest id of a welcome that was handled.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn welcome_cursor(&self) -> Result<u64, Error> {
        self.store.read(|connection| {
            let cursor: i64 = connection.query_row("SELECT welcome_cursor FROM installation", [], |row| row.get(0))?;
            Ok(cursor.cast_unsigned())
        })
    }

    /// All groups, in the order in which they came.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn groups(&self) -> Result<Vec<GroupRow>, Error> {
        self.store.read(GroupRow::list)
    }

    /// One group.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn group(&self, id: &[u8]) -> Result<Option<GroupRow>, Error> {
        self.store.read(|connection| GroupRow::load(connection, id))
    }

    /// Who is in a group, and a value that only members of the same epoch share.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], or any error of the database.
    pub fn group_details(&self, id: &[u8]) -> Result<GroupDetails, Error> {
        let work = self.work()?;
        let group = load(&work.provider(), id)?;
        let members = group
            .members()
            .map(|member| (rules::leaf_inbox_id(&member.credential).unwrap_or_default(), member.signature_key));
        let epoch_authenticator = group.epoch_authenticator().as_slice().to_vec();
        Ok(GroupDetails { members: members.collect(), epoch_authenticator })
    }

    /// The last entries that are known of inboxes' logs; 0 for none.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn identity_cursors(&self, inbox_ids: &[String]) -> Result<Vec<u64>, Error> {
        self.store.read(|connection| {
            let inboxes = Inboxes::new(connection);
            inbox_ids.iter().map(|inbox_id| inboxes.cursor(inbox_id)).collect()
        })
    }

    /// The state of an inbox after the last entry of its log that is known; none if nothing is.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn inbox_state(&self, inbox_id: &str) -> Result<Option<AssociationState>, Error> {
        self.work()?.inboxes().latest(inbox_id)
    }

    /// Verifies a `GetIdentityUpdatesResponse` and keeps it.
    ///
    /// # Errors
    /// [`Error::MalformedAnswer`], or any error of the database. A log that breaks a rule is no error but named in the
    /// result.
    pub fn ingest_identity(&self, answer: &[u8]) -> Result<Ingested, Error> {
        let work = self.work()?;
        let ingested = work.inboxes().ingest(answer)?;
        if ingested.grown.contains(&self.inbox_id) && self.is_in(work.inboxes().latest(&self.inbox_id)?.as_ref()) {
            work.connection().execute(
                "UPDATE installation SET registered_at_ns = ?1 WHERE registered_at_ns IS NULL",
                [work.now_ns],
            )?;
        }
        work.commit()?;
        Ok(ingested)
    }

    /// Keeps a node's answer to a request about smart contract wallets' signatures.
    ///
    /// # Errors
    /// [`Error::MalformedAnswer`], or any error of the database.
    pub fn ingest_verdicts(&self, request: &[u8], answer: &[u8]) -> Result<(), Error> {
        let work = self.work()?;
        work.inboxes().ingest_verdicts(request, answer)?;
        work.commit()
    }

    /// Whether this installation is in a state of its inbox.
    pub(super) fn is_in(&self, state: Option<&AssociationState>) -> bool {
        state.is_some_and(|state| state.is_installation(&self.key.public_key()))
    }

    /// The root key for HMACs; made at random when none is known (identity specification, section 4.5).
    pub(super) fn hmac_root(&self, connection: &Connection) -> Result<RootKey, Error> {
        let stored: Option<Zeroizing<Vec<u8>>> = connection
            .query_row("SELECT hmac_key FROM installation", [], |row| row.get::<_, Option<Vec<u8>>>(0))?
            .map(Zeroizing::new);
        if let Some(stored) = stored {
            return Ok(RootKey::new(&stored)?);
        }
        let root = RootKey::generate()?;
        connection.execute("UPDATE installation SET hmac_key = ?1", [root.as_bytes().as_slice()])?;
        Ok(root)
    }
}

/// Takes the installation for this client. The lock is the kernel's, so it ends with the process however that ends. It is
/// a file of its own, because SQLite has locks of another kind on the database.
fn lock(database: &Path) -> Result<File, Error> {
    let mut name = database.as_os_str().to_owned();
    name.push("-installation");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&name).map_err(Error::CannotLock)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse),
        Err(TryLockError::Error(error)) => Err(Error::CannotLock(error)),
    }
}
