//! The second layer of encryption around a welcome, which hides from the node what group it leads to (identity spec 3.3).
//!
//! Only the wrapping to a key package's own init key is here: it is all we advertise, and every real client takes it.

use hpke_rs::{Hpke, HpkePrivateKey, HpkePublicKey, Mode};
use hpke_rs_crypto::HpkeCrypto;
use hpke_rs_crypto::types::{AeadAlgorithm, KdfAlgorithm, KemAlgorithm};
use hpke_rs_rust_crypto::HpkeRustCrypto;
use prost::Message as _;

use super::keys;
use super::tls::Cursor;
use crate::wire::proto::mls::api::v1::{WelcomeMessageInput, welcome_message_input};
use crate::wire::proto::mls::message_contents::{WelcomeMetadata, WelcomeWrapperAlgorithm};

/// Bytes of an init key, private or public, and of the encapsulated secret (X25519).
pub const INIT_KEY_BYTES: usize = 32;
/// HPKE's `info`: the label `MLS 1.0 MLS_WELCOME` and an empty context, both as TLS vectors (identity spec 3.3).
const INFO: &[u8] = b"\x13MLS 1.0 MLS_WELCOME\x00";
/// Length prefixes of a TLS vector reach up to 30 bits (RFC 9420, section 2.1.2).
const MAX_VECTOR_BYTES: usize = (1 << 30) - 1;

/// What can be wrong with a wrapped welcome or its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A wrapping that our key packages do not offer: 2 is X-Wing, 3 the symmetric one behind a welcome pointer.
    #[error("the welcome is wrapped with algorithm {0}, which our key package does not offer; its sender is faulty")]
    UnsupportedWrapper(i32),
    /// The data is not two TLS vectors, or the encapsulated secret in it has the wrong length.
    #[error("the wrapped welcome is malformed; its sender is faulty, skip it")]
    Malformed,
    /// An init key of another length.
    #[error("an init key has exactly 32 bytes, this one has {given}; take it from the key package")]
    KeyLength {
        /// Length of the rejected key in bytes.
        given: usize,
    },
    /// The private key is not the one that the welcome says it is for.
    #[error("the welcome is for another init key; look up the private key by the welcome's hpke_public_key")]
    OtherInitKey,
    /// The welcome or its metadata does not open.
    #[error("the wrapped welcome does not open with this key, or was changed; skip it")]
    OpenFailed,
    /// The welcome does not fit in a TLS vector.
    #[error("the welcome has {given} bytes, more than fit in a message; add fewer members at once")]
    TooLarge {
        /// Length of the rejected welcome in bytes.
        given: usize,
    },
    /// Sealing failed, which a public key that is not a point of the curve's large group causes.
    #[error("nothing can be encrypted to this init key; count its installation as failed")]
    UnusableInitKey,
}

/// What a node delivers of a welcome (`WelcomeMessage.V1`), as far as unwrapping needs it.
#[derive(Debug, Clone, Copy)]
pub struct WrappedWelcome<'a> {
    /// The encapsulated secret and the sealed welcome, each as a TLS vector.
    pub data: &'a [u8],
    /// The init key that it is sealed to.
    pub hpke_public_key: &'a [u8],
    /// The number of a `WelcomeWrapperAlgorithm`; unknown ones are read as 1 (identity spec 4.2).
    pub wrapper_algorithm: i32,
    /// The sealed `WelcomeMetadata`; empty where there is none.
    pub welcome_metadata: &'a [u8],
}

/// What was inside of a wrapped welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrapped {
    /// The MLSMessage that holds the welcome; still encrypted to the init key by MLS itself.
    pub welcome_bytes: Vec<u8>,
    /// The node's id of the commit that added us, behind which to read on; absent where the sender did not say it.
    pub message_cursor: Option<u64>,
}

/// Opens a welcome with the private init key that belongs to its `hpke_public_key` (identity spec 3.3).
///
/// # Errors
/// [`Error`], each kind permanent: the same welcome fails in the same way again.
pub fn unwrap(input: &WrappedWelcome<'_>, init_private_key: &[u8]) -> Result<Unwrapped, Error> {
    match WelcomeWrapperAlgorithm::try_from(input.wrapper_algorithm) {
        Ok(WelcomeWrapperAlgorithm::XwingMlkem768Draft6 | WelcomeWrapperAlgorithm::SymmetricKey) => {
            return Err(Error::UnsupportedWrapper(input.wrapper_algorithm));
        }
        Ok(WelcomeWrapperAlgorithm::Unspecified | WelcomeWrapperAlgorithm::Curve25519) | Err(_) => {}
    }
    if init_private_key.len() != INIT_KEY_BYTES {
        return Err(Error::KeyLength { given: init_private_key.len() });
    }
    let public_key = HpkeRustCrypto::secret_to_public(KemAlgorithm::DhKem25519, init_private_key)
        .map_err(|_| Error::KeyLength { given: init_private_key.len() })?;
    if public_key != input.hpke_public_key {
        return Err(Error::OtherInitKey);
    }
    let mut cursor = Cursor::new(input.data);
    let encapsulated = cursor.vector().filter(|secret| secret.len() == INIT_KEY_BYTES).ok_or(Error::Malformed)?;
    let sealed = cursor.vector().filter(|_| cursor.is_at_end()).ok_or(Error::Malformed)?;
    let mut context = hpke()
        .setup_receiver(encapsulated, &HpkePrivateKey::from(init_private_key), INFO, None, None, None)
        .map_err(|_| Error::OpenFailed)?;
    // One context for both: the metadata has sequence number 1, so it opens behind the welcome only.
    let welcome_bytes = context.open(&[], sealed).map_err(|_| Error::OpenFailed)?;
    let message_cursor = if input.welcome_metadata.is_empty() {
        None
    } else {
        let metadata = context.open(&[], input.welcome_metadata).map_err(|_| Error::OpenFailed)?;
        // The reference goes on without metadata that opens and says nothing it can read, and so do we.
        let metadata = WelcomeMetadata::decode(metadata.as_slice()).ok().filter(|_| !metadata.is_empty());
        metadata.map(|metadata| metadata.message_cursor)
    };
    Ok(Unwrapped { welcome_bytes, message_cursor })
}

/// Seals a welcome for an installation, as the node takes it in `SendWelcomeMessages` (identity spec 3.3).
///
/// `welcome_bytes` is the MLSMessage that holds the welcome, `message_cursor` the node's id of the commit that adds the
/// installation, and `init_public_key` the init key of the key package that it was added with.
///
/// # Errors
/// [`Error::KeyLength`], [`Error::UnusableInitKey`] and [`Error::TooLarge`].
pub fn wrap(
    welcome_bytes: &[u8],
    message_cursor: u64,
    installation_key: &[u8; keys::KEY_BYTES],
    init_public_key: &[u8],
) -> Result<WelcomeMessageInput, Error> {
    if init_public_key.len() != INIT_KEY_BYTES {
        return Err(Error::KeyLength { given: init_public_key.len() });
    }
    let (encapsulated, mut context) = hpke()
        .setup_sender(&HpkePublicKey::from(init_public_key), INFO, None, None, None)
        .map_err(|_| Error::UnusableInitKey)?;
    let sealed = context.seal(&[], welcome_bytes).map_err(|_| Error::TooLarge { given: welcome_bytes.len() })?;
    let metadata = WelcomeMetadata { message_cursor }.encode_to_vec();
    let welcome_metadata = context.seal(&[], &metadata).map_err(|_| Error::UnusableInitKey)?;
    let mut data = Vec::with_capacity(encapsulated.len() + sealed.len() + 8);
    for part in [&encapsulated, &sealed] {
        put_vector(&mut data, part).ok_or(Error::TooLarge { given: welcome_bytes.len() })?;
    }
    Ok(WelcomeMessageInput {
        version: Some(welcome_message_input::Version::V1(welcome_message_input::V1 {
            installation_key: installation_key.to_vec(),
            data,
            hpke_public_key: init_public_key.to_vec(),
            wrapper_algorithm: WelcomeWrapperAlgorithm::Curve25519.into(),
            welcome_metadata,
        })),
    })
}

fn hpke() -> Hpke<HpkeRustCrypto> {
    let (kem, kdf) = (KemAlgorithm::DhKem25519, KdfAlgorithm::HkdfSha256);
    Hpke::new(Mode::Base, kem, kdf, AeadAlgorithm::ChaCha20Poly1305)
}

/// Appends a TLS vector; `None` if it is too long for one.
fn put_vector(target: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= MAX_VECTOR_BYTES)?;
    match length {
        0..0x40 => target.push(u8::try_from(length).ok()?),
        0x40..0x4000 => target.extend_from_slice(&(u16::try_from(length).ok()? | 0x4000).to_be_bytes()),
        _ => target.extend_from_slice(&(length | 0x8000_0000).to_be_bytes()),
    }
    target.extend_from_slice(bytes);
    Some(())
}
