//! Signatures of keys that a wallet approved in XMTP V2 (identity specification, section 1.4: legacy delegated).
//!
//! The wallet had signed a text that holds the key; the key signs the update in its place. What counts against replay is
//! the wallet's signature, so that a key serves once.

use super::error::Rule;
use super::signature::{SignatureKind, address_of, recover};
use super::text::personal_message_hash;
use crate::wire::proto::identity::associations::LegacyDelegatedSignature;
use k256::ecdsa::VerifyingKey;
use prost::Message;

const REFUSED: Rule = Rule::BadSignature(SignatureKind::LegacyDelegated);

/// `xmtp.message_contents.SignedPublicKey` of XMTP V2
#[derive(Clone, PartialEq, Message)]
struct SignedPublicKey {
    /// An [`UnsignedPublicKey`].
    #[prost(bytes = "vec", tag = "1")]
    key_bytes: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    signature: Option<WalletSignature>,
}

/// `xmtp.message_contents.Signature` of XMTP V2
#[derive(Clone, PartialEq, Message)]
struct WalletSignature {
    #[prost(oneof = "Form", tags = "1, 2")]
    form: Option<Form>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Form {
    #[prost(message, tag = "1")]
    Ecdsa(Compact),
    #[prost(message, tag = "2")]
    WalletEcdsa(Compact),
}

#[derive(Clone, PartialEq, Message)]
struct Compact {
    /// r and s: 64 bytes.
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
    #[prost(uint32, tag = "2")]
    recovery: u32,
}

/// `xmtp.message_contents.UnsignedPublicKey` of XMTP V2, as far as it is read
#[derive(Clone, PartialEq, Message)]
struct UnsignedPublicKey {
    #[prost(message, optional, tag = "3")]
    secp256k1_uncompressed: Option<Point>,
}

#[derive(Clone, PartialEq, Message)]
struct Point {
    /// SEC1 point on secp256k1.
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// Verifies both signatures; returns the wallet's address and its normalised signature.
pub(super) fn verify(
    signature: &LegacyDelegatedSignature,
    personal_hash: &[u8; 32],
) -> Result<(String, [u8; 65]), Rule> {
    let by_key = signature.signature.as_ref().ok_or(Rule::Missing("signature of the legacy key"))?;
    let (key_address, _) = recover(&by_key.bytes, personal_hash).ok_or(REFUSED)?;

    let approved = SignedPublicKey::decode(signature.delegated_key.as_slice()).map_err(|_| REFUSED)?;
    let (Form::Ecdsa(by_wallet) | Form::WalletEcdsa(by_wallet)) =
        approved.signature.and_then(|signature| signature.form).ok_or(REFUSED)?;
    let mut by_wallet_bytes = by_wallet.bytes;
    // libxmtp keeps the lowest byte of the recovery number.
    let [recovery, ..] = by_wallet.recovery.to_le_bytes();
    by_wallet_bytes.push(recovery);
    let approval = personal_message_hash(&approval_text(&approved.key_bytes));
    let (wallet, normalised) = recover(&by_wallet_bytes, &approval).ok_or(REFUSED)?;

    let key = UnsignedPublicKey::decode(approved.key_bytes.as_slice()).map_err(|_| REFUSED)?;
    let point = key.secp256k1_uncompressed.ok_or(REFUSED)?;
    let key = VerifyingKey::from_sec1_bytes(&point.bytes).map_err(|_| REFUSED)?;
    if address_of(&key) != key_address {
        return Err(REFUSED);
    }
    Ok((wallet, normalised))
}

/// What a wallet signed in XMTP V2 to approve a key.
fn approval_text(key_bytes: &[u8]) -> String {
    format!("XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/", hex::encode(key_bytes))
}
