//! To whom a leaf belongs: the credential of an installation (identity specification, section 2).

use openmls::credentials::{BasicCredential, Credential};
use prost::Message as _;

use crate::identity;
use crate::wire::proto::identity::MlsCredential;

/// Why a credential names nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// Not a basic credential that holds an `MlsCredential`.
    #[error("a credential is not one of XMTP's")]
    NotXmtp,
    /// It holds something else than an inbox id.
    #[error("a credential does not name an inbox")]
    NotAnInbox,
}

/// The inbox that a leaf's credential names. It is a claim: only an identity log proves it.
///
/// # Errors
/// [`CredentialError`].
pub fn leaf_inbox_id(credential: &Credential) -> Result<String, CredentialError> {
    let basic = BasicCredential::try_from(credential.clone()).map_err(|_| CredentialError::NotXmtp)?;
    let inbox_id = MlsCredential::decode(basic.identity()).map_err(|_| CredentialError::NotXmtp)?.inbox_id;
    if identity::is_inbox_id(&inbox_id) { Ok(inbox_id) } else { Err(CredentialError::NotAnInbox) }
}

/// The credential of an installation of ours.
#[must_use]
pub fn credential(inbox_id: &str) -> Credential {
    BasicCredential::new(MlsCredential { inbox_id: inbox_id.into() }.encode_to_vec()).into()
}
