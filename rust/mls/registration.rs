//! Becoming an installation of an inbox, revoking others, and the key packages by which others add this one (identity
//! specification, sections 1.6 and 2.3).

use openmls_traits::OpenMlsProvider as _;
use openmls_traits::storage::StorageProvider as _;
use prost::Message as _;
use rusqlite::{OptionalExtension, params};

use super::error::Error;
use super::installation::Installation;
use super::key_package;
use crate::identity::{Identifier, UpdateDraft, WalletSignature};
use crate::wire::proto::identity::api::v1::PublishIdentityUpdateRequest;

/// How long a key package is used: 30 days, ns.
const ROTATION_NS: i64 = 30 * 24 * 3600 * 1_000_000_000;
/// How long the private keys of a replaced key package are kept, because somebody may have fetched it: 14 days, ns.
const KEEP_REPLACED_NS: i64 = 14 * 24 * 3600 * 1_000_000_000;

/// A key package to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPackageUpload {
    /// For [`Installation::key_package_uploaded`].
    pub init_key: Vec<u8>,
    /// The key package.
    pub bytes: Vec<u8>,
}

/// What an identity update of ours is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Create the inbox, with this nonce, and add this installation.
    Create {
        /// The nonce of the inbox id.
        nonce: u64,
    },
    /// Add this installation to the inbox.
    Add,
    /// Revoke installations of the inbox.
    Revoke {
        /// Their ids.
        installations: Vec<[u8; 32]>,
    },
}

impl Installation {
    /// The text that a wallet has to sign for an update. The same `timestamp_ns` belongs to the signature.
    ///
    /// # Errors
    /// [`Error::Identity`] for an address that is none, or [`Error::OtherInbox`].
    pub fn signature_text(&self, update: &Update, wallet: &Identifier, timestamp_ns: u64) -> Result<String, Error> {
        Ok(self.draft(update, wallet, timestamp_ns)?.text().to_owned())
    }

    /// The `PublishIdentityUpdateRequest` for an update that a wallet has signed.
    ///
    /// # Errors
    /// [`Error::Identity`] when the signature is not the wallet's.
    pub fn signed_update(
        &self,
        update: &Update,
        wallet: &Identifier,
        timestamp_ns: u64,
        signature: WalletSignature,
    ) -> Result<Vec<u8>, Error> {
        let draft = self.draft(update, wallet, timestamp_ns)?;
        let signed = draft.finish(signature, Some(self.key.seed()))?;
        Ok(PublishIdentityUpdateRequest { identity_update: Some(signed.into_update()) }.encode_to_vec())
    }

    fn draft(&self, update: &Update, wallet: &Identifier, timestamp_ns: u64) -> Result<UpdateDraft, Error> {
        let own = self.installation_id();
        let draft = match update {
            Update::Create { nonce } => UpdateDraft::create_inbox(wallet, *nonce, own, timestamp_ns)?,
            Update::Add => UpdateDraft::add_installation(&self.inbox_id, wallet, own, timestamp_ns)?,
            Update::Revoke { installations } => {
                UpdateDraft::revoke_installations(&self.inbox_id, wallet, installations, timestamp_ns)?
            }
        };
        if draft.inbox_id() == self.inbox_id { Ok(draft) } else { Err(Error::OtherInbox) }
    }

    /// A key package that is to be uploaded now; none as long as the current one is fresh enough.
    ///
    /// # Errors
    /// [`Error::KeyPackage`], or any error of the database.
    pub fn key_package_to_upload(&self) -> Result<Option<KeyPackageUpload>, Error> {
        let work = self.work()?;
        let connection = work.connection();
        let pending = connection
            .query_row(
                "SELECT init_key, key_package FROM key_packages WHERE uploaded = 0 AND created_at_ns > ?1",
                [work.now_ns.saturating_sub(ROTATION_NS)],
                |row| Ok(KeyPackageUpload { init_key: row.get(0)?, bytes: row.get(1)? }),
            )
            .optional()?;
        if pending.is_some() {
            return Ok(pending);
        }
        let due_at_ns: i64 =
            connection.query_row("SELECT rotate_key_package_at_ns FROM installation", [], |row| row.get(0))?;
        if due_at_ns > work.now_ns {
            return Ok(None);
        }
        let now_seconds = u64::try_from(work.now_ns / 1_000_000_000).unwrap_or(0);
        let provider = work.provider();
        let package = key_package::build(&provider, &self.key, &self.inbox_id, now_seconds)?;
        provider.storage().accept();
        provider.storage().flush()?;
        drop(provider);
        connection.execute(
            "INSERT INTO key_packages (init_key, key_package, created_at_ns) VALUES (?1, ?2, ?3)",
            params![package.init_key, package.bytes, work.now_ns],
        )?;
        work.commit()?;
        Ok(Some(KeyPackageUpload { init_key: package.init_key, bytes: package.bytes }))
    }

    /// The node has the key package. Those before it are kept for a while, and deleted when nobody can use them any more.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn key_package_uploaded(&self, init_key: &[u8]) -> Result<(), Error> {
        let work = self.work()?;
        let connection = work.connection();
        connection.execute("UPDATE key_packages SET uploaded = 1 WHERE init_key = ?1", [init_key])?;
        connection.execute(
            "UPDATE key_packages SET delete_at_ns = ?2 WHERE init_key <> ?1 AND delete_at_ns IS NULL",
            params![init_key, work.now_ns.saturating_add(KEEP_REPLACED_NS)],
        )?;
        connection.execute(
            "UPDATE installation SET rotate_key_package_at_ns = ?1",
            [work.now_ns.saturating_add(ROTATION_NS)],
        )?;
        let provider = work.provider();
        let mut select = connection.prepare_cached("SELECT key_package FROM key_packages WHERE delete_at_ns <= ?1")?;
        let expired: Vec<Vec<u8>> = select.query_map([work.now_ns], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for bytes in expired {
            let reference = key_package::reference(&bytes, provider.crypto())?;
            provider
                .storage()
                .delete_key_package(&reference)
                .map_err(|_| super::join::failure(&provider, "deleting a key package"))?;
        }
        provider.storage().accept();
        provider.storage().flush()?;
        drop((select, provider));
        connection.execute("DELETE FROM key_packages WHERE delete_at_ns <= ?1", [work.now_ns])?;
        work.commit()
    }

    /// Asks for a new key package at the next opportunity.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn rotate_key_package(&self) -> Result<(), Error> {
        let work = self.work()?;
        work.connection().execute("UPDATE installation SET rotate_key_package_at_ns = ?1", [work.now_ns])?;
        work.commit()
    }
}
