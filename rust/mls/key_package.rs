//! Key packages: with ours others add us to their groups, with theirs we add them (identity spec 2).
//!
//! A package of ours that peers can fetch but not add blocks their sending into every group with our inbox, so none is
//! handed out that did not first join a group like theirs on this machine.

use std::time::{Duration, UNIX_EPOCH};

use openmls::ciphersuite::hash_ref::HashReference;
use openmls::extensions::errors::InvalidExtensionError;
use openmls::key_packages::errors::KeyPackageVerifyError;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    ApplicationIdExtension, Capabilities, Ciphersuite, CredentialType, Extension, ExtensionType, Extensions,
    GroupContext, KeyPackage, KeyPackageIn, LeafNode, LeafNodeParameters, Lifetime, MlsGroup, ProposalType,
    ProtocolVersion, UnknownExtension,
};
use openmls::storage::OpenMlsProvider;
use openmls::treesync::errors::LifetimeError;
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use openmls_traits::crypto::OpenMlsCrypto;

use super::extensions::{
    GROUP_MEMBERSHIP, GROUP_PERMISSIONS, IMMUTABLE_METADATA, MUTABLE_METADATA, required_capabilities,
};
use super::keys::{self, InstallationKey};
use super::rules::leaf_inbox_id;

/// The only ciphersuite of XMTP: 0x0003 (identity spec 2).
pub const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

/// How long others may use a key package. With the margin it is the 84 days of real clients (identity spec 2.1), and no
/// longer range is acceptable.
pub const LIFETIME_SECONDS: u64 = 82 * 24 * 60 * 60;
/// How far a key package is valid into the past: for clocks that are behind, and for our own if it is ahead. With the hour
/// of real clients, a clock that is a day off would keep an installation out of every group.
pub const CLOCK_MARGIN_SECONDS: u64 = 2 * 24 * 60 * 60;
/// More than this no key package has: a real one has 1659 bytes, and keys after quantum computers add few thousand.
const MAX_BYTES: usize = 1 << 16;

/// What can be wrong with a key package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not exactly one key package, or unreasonably many.
    #[error("the bytes are not a key package; count its installation as failed")]
    Malformed,
    /// A ciphersuite other than 0x0003.
    #[error("the key package has another ciphersuite than XMTP; count its installation as failed")]
    OtherCiphersuite,
    /// A protocol version other than MLS 1.0.
    #[error("the key package has another protocol version than MLS 1.0; count its installation as failed")]
    OtherVersion,
    /// The leaf in the package was made for a group.
    #[error("the leaf of the key package was not made for one; count its installation as failed")]
    OtherLeafSource,
    /// A signature of the leaf or of the package does not match.
    #[error("a signature in the key package is wrong; count its installation as failed")]
    BadSignature,
    /// One key serves as init key and as encryption key.
    #[error("the key package uses one key for two purposes; count its installation as failed")]
    RepeatedKey,
    /// An extension that the leaf's capabilities do not name, or that has no place in a package.
    #[error("the key package has an extension that it may not have; count its installation as failed")]
    BadExtension,
    /// The lifetime is over.
    #[error("the key package has expired; its installation must upload a new one")]
    Expired {
        /// End of the lifetime, in seconds since 1970.
        not_after: u64,
    },
    /// The lifetime has not begun.
    #[error("the key package is not valid yet; compare the clock of this machine with the real time")]
    NotYetValid {
        /// Beginning of the lifetime, in seconds since 1970.
        not_before: u64,
    },
    /// The credential does not name an inbox, or the signature key is no installation's.
    #[error("the key package does not name its inbox and installation; count its installation as failed")]
    BadCredential,
    /// The package is sound, but a group of today's clients cannot take it.
    #[error("no group can take the key package: {0}; do not upload it, and add no one with it")]
    NotAddable(String),
    /// The private keys could not be stored.
    #[error("the key package's private keys could not be stored; free some space and try again")]
    Storage,
    /// The inbox id, or the randomness for a key.
    #[error(transparent)]
    Keys(#[from] keys::Error),
    /// The MLS library failed in a way that its input cannot cause.
    #[error("the MLS library failed while {0}; report this as a bug")]
    Library(&'static str),
}

/// A key package of ours, ready to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKeyPackage {
    /// The bare KeyPackage, as `UploadKeyPackage` takes it.
    pub bytes: Vec<u8>,
    /// Its public init key, by which welcomes name it.
    pub init_key: Vec<u8>,
}

/// A fetched key package that passed all checks.
#[derive(Debug, Clone)]
pub struct VerifiedKeyPackage {
    /// The package, to be added to a group.
    pub key_package: KeyPackage,
    /// The installation that it adds.
    pub installation_key: [u8; keys::KEY_BYTES],
    /// The inbox it says it belongs to; nobody but the inbox's own log can confirm that.
    pub inbox_id: String,
}

/// Makes the key package that is recommended for us (identity spec 2.2), with its private keys in the provider's storage.
///
/// It is valid from two days before `now_seconds` (since 1970) for 84 days, usable for any number of welcomes, and has
/// passed [`check_in_throwaway_group`]. If this fails, the storage may hold private keys that nobody needs.
///
/// # Errors
/// [`Error::Keys`] for a malformed inbox id, [`Error::Storage`], and [`Error::Expired`] or [`Error::NotYetValid`] if the
/// clock of the machine is not near `now_seconds`.
pub fn build<Provider: OpenMlsProvider>(
    provider: &Provider,
    key: &InstallationKey,
    inbox_id: &str,
    now_seconds: u64,
) -> Result<NewKeyPackage, Error> {
    let credential = key.credential(inbox_id)?;
    let failed = |_| Error::Library("building a key package");
    let bundle = KeyPackage::builder()
        .leaf_node_capabilities(key_package_capabilities())
        .leaf_node_extensions(application_id(inbox_id).map_err(failed)?)
        .key_package_lifetime(Lifetime::init(
            now_seconds.saturating_sub(CLOCK_MARGIN_SECONDS),
            now_seconds.saturating_add(LIFETIME_SECONDS),
        ))
        .mark_as_last_resort()
        .build(CIPHERSUITE, provider, key, credential)
        .map_err(|error| match error {
            openmls::key_packages::errors::KeyPackageNewError::StorageError => Error::Storage,
            _ => Error::Library("building a key package"),
        })?;
    let package = bundle.key_package();
    let bytes = package.tls_serialize_detached().map_err(|_| Error::Library("encoding a key package"))?;
    check_in_throwaway_group(&bytes)?;
    Ok(NewKeyPackage { bytes, init_key: package.hpke_init_key().as_slice().to_vec() })
}

/// The reference of a key package, under which the provider's storage holds its private keys (RFC 9420, section 5.2).
///
/// # Errors
/// [`Error::Library`] when hashing fails, which nothing makes it do.
pub fn reference(bytes: &[u8], crypto: &impl OpenMlsCrypto) -> Result<HashReference, Error> {
    HashReference::new(bytes, CIPHERSUITE, crypto, b"MLS 1.0 KeyPackage Reference")
        .map_err(|_| Error::Library("hashing a key package"))
}

/// Checks a fetched key package in every way that real clients do (identity spec 2.2), at `now_seconds` since 1970.
///
/// The clock of the machine counts as well, because the MLS library looks at it. That a group can take the package is
/// another matter: [`check_in_throwaway_group`].
///
/// # Errors
/// [`Error`], the first check that fails.
pub fn parse_and_verify(bytes: &[u8], now_seconds: u64) -> Result<VerifiedKeyPackage, Error> {
    let key_package = verify(bytes)?;
    let now = UNIX_EPOCH.checked_add(Duration::from_secs(now_seconds)).ok_or(Error::Library("reading the time"))?;
    // Cannot panic: no package is verified whose leaf has another source than a package, and so a lifetime.
    key_package.life_time().validate_with_time(now).map_err(|error| lifetime_error(&error))?;
    let leaf = key_package.leaf_node();
    let inbox_id = leaf_inbox_id(leaf.credential()).map_err(|_| Error::BadCredential)?;
    let installation_key = leaf.signature_key().as_slice().try_into().map_err(|_| Error::BadCredential)?;
    Ok(VerifiedKeyPackage { key_package, installation_key, inbox_id })
}

/// Adds a key package to a group that exists in memory only, which requires what real groups do (identity spec 3.1).
///
/// For ours before they are uploaded, since a bad one blocks all peers, and for others' before a commit with them is
/// built, since a bad one fails the whole commit (identity spec 2.2).
///
/// # Errors
/// [`Error::NotAddable`] if the group cannot take it, and those of [`parse_and_verify`].
pub fn check_in_throwaway_group(bytes: &[u8]) -> Result<(), Error> {
    let key_package = verify(bytes)?;
    let failed = |_| Error::Library("making a group to try a key package in");
    let provider = OpenMlsRustCrypto::default();
    let key = InstallationKey::generate()?;
    let credential = key.credential(&"0".repeat(64))?;
    let mut extensions = [IMMUTABLE_METADATA, MUTABLE_METADATA, GROUP_MEMBERSHIP, GROUP_PERMISSIONS]
        .map(|id| Extension::Unknown(id, UnknownExtension(Vec::new())))
        .to_vec();
    extensions.push(Extension::RequiredCapabilities(required_capabilities()));
    let mut group = MlsGroup::builder()
        .ciphersuite(CIPHERSUITE)
        .with_capabilities(creator_capabilities())
        .with_group_context_extensions(Extensions::<GroupContext>::from_vec(extensions).map_err(failed)?)
        .build(&provider, &key, credential)
        .map_err(|_| Error::Library("making a group to try a key package in"))?;
    group.add_members(&provider, &key, &[key_package]).map_err(|error| not_addable(&error))?;
    group.merge_pending_commit(&provider).map_err(|error| not_addable(&error))?;
    // Only now something is encrypted to the leaf's own key: an unusable one fails not the commit that adds it, but
    // every later one of every other member.
    let update = group.self_update(&provider, &key, LeafNodeParameters::default());
    update.map(|_| ()).map_err(|error| not_addable(&error))
}

fn not_addable(error: &impl std::error::Error) -> Error {
    Error::NotAddable(error.to_string().trim_end().to_owned())
}

/// The extensions that a member of an XMTP group must know: those of the group's context, and two that real groups list
/// though they stand in key packages and leaves.
fn extension_types() -> [ExtensionType; 6] {
    [
        ExtensionType::LastResort,
        ExtensionType::ApplicationId,
        ExtensionType::Unknown(GROUP_PERMISSIONS),
        ExtensionType::Unknown(MUTABLE_METADATA),
        ExtensionType::Unknown(GROUP_MEMBERSHIP),
        ExtensionType::Unknown(IMMUTABLE_METADATA),
    ]
}

/// What the leaf in our key packages can do: as in real ones, but without welcomes for quantum computers and welcome
/// pointers (identity spec 2.1 and 2.2).
#[must_use]
pub fn key_package_capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        Some(&extension_types()),
        Some(&[ProposalType::GroupContextExtensions]),
        Some(&[CredentialType::Basic]),
    )
}

/// What our leaf can do in a group that we create (identity spec 3.1: ours may list one ciphersuite).
#[must_use]
pub fn creator_capabilities() -> Capabilities {
    key_package_capabilities()
}

/// The extension of our leaves that names the inbox (identity spec 2.1).
fn application_id(inbox_id: &str) -> Result<Extensions<LeafNode>, InvalidExtensionError> {
    Extensions::single(Extension::ApplicationId(ApplicationIdExtension::new(inbox_id.as_bytes())))
}

/// Every check that needs neither a group nor a time of the caller's.
fn verify(bytes: &[u8]) -> Result<KeyPackage, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::Malformed);
    }
    let parsed = KeyPackageIn::tls_deserialize_exact_bytes(bytes).map_err(|_| Error::Malformed)?;
    // What is signed, hashed and compared is our own encoding of what was read, so there must be no other.
    if parsed.tls_serialize_detached().map_err(|_| Error::Malformed)? != bytes {
        return Err(Error::Malformed);
    }
    if bytes.get(2..4) != Some(&u16::from(CIPHERSUITE).to_be_bytes()) {
        return Err(Error::OtherCiphersuite);
    }
    parsed.validate(&RustCrypto::default(), ProtocolVersion::Mls10).map_err(|error| match error {
        KeyPackageVerifyError::InvalidProtocolVersion => Error::OtherVersion,
        KeyPackageVerifyError::InvalidLeafNodeSourceType | KeyPackageVerifyError::MissingLifetime => {
            Error::OtherLeafSource
        }
        KeyPackageVerifyError::InvalidSignature | KeyPackageVerifyError::InvalidLeafNodeSignature => {
            Error::BadSignature
        }
        KeyPackageVerifyError::InitKeyEqualsEncryptionKey => Error::RepeatedKey,
        KeyPackageVerifyError::UnsupportedExtension | KeyPackageVerifyError::ExtensionTypeNotValidInKeyPackage(_) => {
            Error::BadExtension
        }
        KeyPackageVerifyError::LifetimeError(error) => lifetime_error(&error),
        KeyPackageVerifyError::LibraryError(_) => Error::Library("verifying a key package"),
    })
}

fn lifetime_error(error: &LifetimeError) -> Error {
    match error {
        LifetimeError::Expired { not_after, .. } => Error::Expired { not_after: *not_after },
        LifetimeError::NotValidYet { not_before, .. } => Error::NotYetValid { not_before: *not_before },
        _ => Error::Library("reading the time"),
    }
}
