//! The installation: its Ed25519 key, which signs everything that it says in MLS, and the credential that names its inbox.

use ed25519_dalek::{Signer as _, SigningKey};
use openmls::prelude::{CredentialWithKey, SignaturePublicKey};
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use zeroize::Zeroizing;

use super::rules::credential::credential;
use crate::crypto::{self, RandomFailed};
use crate::identity;

/// Bytes of an Ed25519 seed, of an installation's public key, and so of an installation id (identity spec 1.1).
pub const KEY_BYTES: usize = 32;

/// What can be wrong with keys and credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A seed of another length (neither cut nor padded).
    #[error("the seed of an installation key has exactly 32 bytes, this one has {given}; pass the one that was stored")]
    SeedLength {
        /// Length of the rejected seed in bytes.
        given: usize,
    },
    /// Not 64 lower-case hex digits.
    #[error("an inbox id has 64 lower-case hex digits; pass it as the network gave it")]
    NotAnInboxId,
    /// The operating system gave no random seed.
    #[error(transparent)]
    NoRandomness(#[from] RandomFailed),
}

/// The private key of an installation; wiped when dropped, never printed.
///
/// The same key signs MLS structures, which the [`Signer`] here does with plain Ed25519 (identity spec 2), and identity
/// updates, which need Ed25519ph (identity spec 1.4) and get it through [`signing_key`](Self::signing_key).
pub struct InstallationKey(SigningKey);

impl InstallationKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::NoRandomness`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        crypto::fill_random(seed.as_mut_slice())?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Takes the seed that [`seed`](Self::seed) gave when the key was stored.
    ///
    /// The caller's own copy stays the caller's to wipe.
    ///
    /// # Errors
    /// [`Error::SeedLength`] for any other length than 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Result<Self, Error> {
        let seed = seed.try_into().map_err(|_| Error::SeedLength { given: seed.len() })?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }

    /// The secret seed of RFC 8032, to be stored encrypted.
    #[must_use]
    pub fn seed(&self) -> &[u8; KEY_BYTES] {
        self.0.as_bytes()
    }

    /// The public key, which is the installation id (identity spec 1.1).
    #[must_use]
    pub fn public_key(&self) -> [u8; KEY_BYTES] {
        self.0.verifying_key().to_bytes()
    }

    /// The key as the signature library wants it, for the kinds of signature that MLS does not know.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    /// The credential with which this installation stands in groups and key packages for its inbox (identity spec 2).
    ///
    /// # Errors
    /// [`Error::NotAnInboxId`] for anything but 64 lower-case hex digits.
    pub fn credential(&self, inbox_id: &str) -> Result<CredentialWithKey, Error> {
        if !identity::is_inbox_id(inbox_id) {
            return Err(Error::NotAnInboxId);
        }
        Ok(CredentialWithKey {
            credential: credential(inbox_id),
            signature_key: SignaturePublicKey::from(self.public_key().as_slice()),
        })
    }
}

impl Signer for InstallationKey {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = self.0.try_sign(payload).map_err(|_| SignerError::SigningError)?;
        Ok(signature.to_bytes().to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl std::fmt::Debug for InstallationKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "InstallationKey({})", hex::encode(self.public_key()))
    }
}
