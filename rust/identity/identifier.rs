//! The names of wallets, installations and inboxes (identity specification, section 1.1).

use super::compact;
use super::error::Rule;
use crate::crypto::Sha256;
use crate::wire::proto::identity::associations::{IdentifierKind, MemberIdentifier, member_identifier};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a wallet is known by: the owner or the recovery identifier of an inbox (identity specification, section 1.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Identifier {
    /// An Ethereum address as it stands in the log; it is compared to signers in lower case, letter by letter.
    Address(String),
    /// A passkey: a P-256 point in SEC1 form.
    Passkey(#[serde(with = "compact::bytes")] Vec<u8>),
}

impl Identifier {
    /// An Ethereum address given by a user, in lower case from here on.
    ///
    /// # Errors
    /// [`Rule::AddressForm`] for anything but `0x` and 40 hexadecimal digits.
    pub fn address(text: &str) -> Result<Self, Rule> {
        parse_address(text).map(Self::Address)
    }

    /// The id of the inbox that this identifier creates with a nonce (identity specification, section 1.1).
    ///
    /// # Errors
    /// [`Rule::AddressForm`] when the address has not the form that inbox ids are derived from.
    pub fn inbox_id(&self, nonce: u64) -> Result<String, Rule> {
        if let Self::Address(address) = self {
            parse_address(address)?;
        }
        Ok(derive(&self.to_string(), nonce))
    }

    /// The number of this kind of identifier on the wire.
    #[must_use]
    pub fn kind(&self) -> IdentifierKind {
        match self {
            Self::Address(_) => IdentifierKind::Ethereum,
            Self::Passkey(_) => IdentifierKind::Passkey,
        }
    }

    /// Reads the text and kind that updates carry; kinds of the future read as Ethereum, as they do in libxmtp.
    pub(super) fn from_wire(text: &str, kind: i32) -> Result<Self, Rule> {
        if kind == IdentifierKind::Passkey as i32 {
            return hex::decode(text).map(Self::Passkey).map_err(|_| Rule::PasskeyForm);
        }
        Ok(Self::Address(text.to_owned()))
    }
}

/// The form in which identifiers stand in texts and in inbox ids.
impl fmt::Display for Identifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => formatter.write_str(address),
            Self::Passkey(key) => formatter.write_str(&hex::encode(key)),
        }
    }
}

/// One that belongs to an inbox (identity specification, section 1.2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Member {
    /// An Ethereum wallet, by its address.
    Address(String),
    /// An installation, by its Ed25519 public key.
    Installation(#[serde(with = "compact::key")] [u8; 32]),
    /// A passkey, by its P-256 point in SEC1 form.
    Passkey(#[serde(with = "compact::bytes")] Vec<u8>),
}

impl Member {
    /// Reads the member that an update names.
    pub(super) fn from_wire(identifier: &MemberIdentifier) -> Result<Self, Rule> {
        match identifier.kind.as_ref() {
            Some(member_identifier::Kind::EthereumAddress(address)) => Ok(Self::Address(address.clone())),
            Some(member_identifier::Kind::InstallationPublicKey(key)) => {
                key.as_slice().try_into().map(Self::Installation).map_err(|_| Rule::InstallationForm)
            }
            Some(member_identifier::Kind::Passkey(passkey)) => Ok(Self::Passkey(passkey.key.clone())),
            None => Err(Rule::Missing("member identifier")),
        }
    }

    /// The message that stands for this member on the wire.
    #[must_use]
    pub fn to_wire(&self) -> MemberIdentifier {
        use crate::wire::proto::identity::associations::Passkey;
        let kind = match self {
            Self::Address(address) => member_identifier::Kind::EthereumAddress(address.clone()),
            Self::Installation(key) => member_identifier::Kind::InstallationPublicKey(key.to_vec()),
            Self::Passkey(key) => member_identifier::Kind::Passkey(Passkey { key: key.clone(), relying_party: None }),
        };
        MemberIdentifier { kind: Some(kind) }
    }

    /// The wallet that this member is, unless it is an installation.
    #[must_use]
    pub fn wallet(&self) -> Option<Identifier> {
        match self {
            Self::Address(address) => Some(Identifier::Address(address.clone())),
            Self::Passkey(key) => Some(Identifier::Passkey(key.clone())),
            Self::Installation(_) => None,
        }
    }

    /// Whether this member is that wallet.
    #[must_use]
    pub fn is_wallet(&self, wallet: &Identifier) -> bool {
        match (self, wallet) {
            (Self::Address(own), Identifier::Address(other)) => own == other,
            (Self::Passkey(own), Identifier::Passkey(other)) => own == other,
            _ => false,
        }
    }
}

impl From<Identifier> for Member {
    fn from(identifier: Identifier) -> Self {
        match identifier {
            Identifier::Address(address) => Self::Address(address),
            Identifier::Passkey(key) => Self::Passkey(key),
        }
    }
}

/// The form in which members stand in texts.
impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => formatter.write_str(address),
            Self::Installation(key) => formatter.write_str(&hex::encode(key)),
            Self::Passkey(key) => formatter.write_str(&hex::encode(key)),
        }
    }
}

/// The id of the inbox that an identifier creates with a nonce (identity specification, section 1.1).
///
/// The identifier is put into lower case first. The id of an inbox that exists already is asked of a node instead: nobody
/// knows which nonce it was created with.
#[must_use]
pub fn inbox_id(identifier: &str, nonce: u64) -> String {
    derive(&identifier.to_ascii_lowercase(), nonce)
}

fn derive(identifier: &str, nonce: u64) -> String {
    let mut hash = Sha256::new();
    hash.update(identifier.as_bytes());
    hash.update(nonce.to_string().as_bytes());
    hex::encode(hash.finish())
}

/// Whether a text has the form of an inbox id: 64 lower-case hexadecimal digits (identity specification, section 1.1).
#[must_use]
pub fn is_inbox_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// An Ethereum address in the form that identity updates carry: `0x` and 40 lower-case hexadecimal digits.
///
/// # Errors
/// [`Rule::AddressForm`] for anything that has not this form in upper or lower case.
pub fn parse_address(text: &str) -> Result<String, Rule> {
    let digits = text.strip_prefix("0x").ok_or(Rule::AddressForm)?;
    if digits.len() != 40 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Rule::AddressForm);
    }
    Ok(text.to_ascii_lowercase())
}
