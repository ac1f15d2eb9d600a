//! What can go wrong with an installation, apart from single messages, which are skipped and counted.

use super::{envelope, hmac, key_package, keys, welcome};
use crate::{crypto, identity, store};

/// An error of an installation. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database is at fault.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An identity update, or an inbox's log, breaks a rule.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// Another process, or another client of this one, has the installation open.
    #[error("another client uses this installation; one installation can be open only once at a time")]
    InUse,
    /// The file beside the database that says who uses it cannot be written.
    #[error("the installation cannot be locked: {0}")]
    CannotLock(std::io::Error),
    /// The database has no installation yet, and none is to be created.
    #[error("there is no installation in this database; create one with a signer")]
    NoInstallation,
    /// The database has the installation of somebody else.
    #[error("the installation in this database belongs to another inbox; use a database of its own for each inbox")]
    OtherInbox,
    /// The node's answer is not what such an answer looks like.
    #[error("the node's answer is malformed: {0}")]
    MalformedAnswer(&'static str),
    /// A group that the installation does not have, or is not an active member of.
    #[error("the installation is not an active member of this group")]
    NoSuchGroup,
    /// The node does not have identity updates that are needed.
    #[error("the node's identity logs are incomplete; try again later")]
    IdentityMissing(Vec<(String, u64)>),
    /// An argument of the caller's.
    #[error("{0}")]
    Argument(&'static str),
    /// OpenMLS failed where nothing from outside should make it fail.
    #[error("the MLS library failed while {0}; please report what you did")]
    Library(&'static str),
    /// A key package of ours could not be made.
    #[error(transparent)]
    KeyPackage(#[from] key_package::Error),
    /// A key is not what it should be.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// A welcome could not be sealed.
    #[error(transparent)]
    Welcome(#[from] welcome::Error),
    /// The HMAC root key has the wrong length.
    #[error(transparent)]
    HmacKey(#[from] hmac::RootKeyLength),
    /// An application message is not an envelope.
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] crypto::RandomFailed),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
