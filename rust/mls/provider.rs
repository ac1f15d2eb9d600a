//! What OpenMLS works with: RustCrypto for cryptography, and [`Storage`] for what it keeps.

use openmls_rust_crypto::RustCrypto;
use openmls_traits::OpenMlsProvider;
use rusqlite::Connection;

use super::storage::Storage;

/// OpenMLS's provider for the time of one transaction.
pub(super) struct Provider<'c> {
    crypto: &'c RustCrypto,
    storage: Storage<'c>,
}

impl<'c> Provider<'c> {
    pub(super) fn new(crypto: &'c RustCrypto, connection: &'c Connection) -> Self {
        Self { crypto, storage: Storage::new(connection) }
    }
}

impl<'c> OpenMlsProvider for Provider<'c> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = Storage<'c>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        self.crypto
    }
}
