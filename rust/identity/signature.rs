//! The signatures in an update: who signed its text (identity specification, section 1.4).

use super::contract::{ContractSignature, ContractVerdicts, parse_account};
use super::error::{Error, Rule};
use super::identifier::Member;
use super::text::SignedText;
use super::{legacy, passkey};
use crate::crypto::Sha256;
use crate::wire::proto::identity::associations::{RecoverableEd25519Signature, Signature, signature};
use ed25519_dalek::{SigningKey, VerifyingKey};
use k256::ecdsa::{RecoveryId, Signature as EcdsaSignature, VerifyingKey as EcdsaKey};
use sha2::{Digest as _, Sha512};
use sha3::Keccak256;
use std::fmt;

/// The Ed25519ph context of identity updates (identity specification, section 1.4; RFC 8032, section 5.1).
const CONTEXT: &[u8] = b"IDENTITY UPDATE SIGNATURE";

/// How something was signed (identity specification, section 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignatureKind {
    /// A wallet's personal message (EIP-191).
    Wallet,
    /// A smart contract wallet's (EIP-1271, EIP-6492).
    Contract,
    /// An installation key's (Ed25519ph of RFC 8032).
    Installation,
    /// That of a key which a wallet approved in XMTP V2.
    LegacyDelegated,
    /// A passkey's (`WebAuthn` over P-256).
    Passkey,
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Wallet => "wallet",
            Self::Contract => "smart contract wallet",
            Self::Installation => "installation",
            Self::LegacyDelegated => "legacy",
            Self::Passkey => "passkey",
        })
    }
}

/// Who made a verified signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The signer as a member. Its kind follows from the kind of the signature, so a signer that equals an identifier has
    /// signed in a way which fits it (identity specification, section 1.5, rule 2).
    pub member: Member,
    /// How it signed.
    pub kind: SignatureKind,
    /// The chain of a smart contract wallet.
    pub chain_id: Option<u64>,
    /// SHA-256 of the normalised signature, which is what is remembered against replay (section 1.5, rule 6).
    pub digest: [u8; 32],
}

/// Verifies one signature of a text and says who made it (identity specification, section 1.4).
///
/// # Errors
/// [`Error::Invalid`] when the signature does not hold, [`Error::Unverified`] when it is one of a smart contract wallet
/// without a verdict.
pub fn verify(signature: &Signature, text: &str, verdicts: &ContractVerdicts) -> Result<Signer, Error> {
    let text = SignedText::new(text.to_owned());
    match check(signature, &text, verdicts)? {
        Checked::Signer(signer) => Ok(signer),
        Checked::Unverified(question) => Err(Error::Unverified(vec![question])),
    }
}

/// The outcome of a check that found nothing wrong.
pub(super) enum Checked {
    Signer(Signer),
    Unverified(ContractSignature),
}

pub(super) fn check(signature: &Signature, text: &SignedText, verdicts: &ContractVerdicts) -> Result<Checked, Rule> {
    use signature::Signature as Wire;
    let (member, kind, chain_id, digest) = match signature.signature.as_ref().ok_or(Rule::Missing("signature"))? {
        Wire::Erc191(signature) => {
            let kind = SignatureKind::Wallet;
            let (address, normalised) =
                recover(&signature.bytes, &text.personal_hash).ok_or(Rule::BadSignature(kind))?;
            (Member::Address(address), kind, None, digest(&normalised))
        }
        Wire::Erc6492(signature) => {
            let kind = SignatureKind::Contract;
            let (chain_id, address) = parse_account(&signature.account_id)?;
            let question = ContractSignature::new(signature, text.personal_hash);
            match verdicts.get(&question) {
                None => return Ok(Checked::Unverified(question)),
                Some(false) => return Err(Rule::BadSignature(kind)),
                Some(true) => (Member::Address(address), kind, Some(chain_id), digest(&signature.signature)),
            }
        }
        Wire::InstallationKey(signature) => {
            let kind = SignatureKind::Installation;
            let key = verify_installation(signature, &text.prehash).ok_or(Rule::BadSignature(kind))?;
            (Member::Installation(key), kind, None, digest(&signature.bytes))
        }
        Wire::DelegatedErc191(signature) => {
            let (address, normalised) = legacy::verify(signature, &text.personal_hash)?;
            (Member::Address(address), SignatureKind::LegacyDelegated, None, digest(&normalised))
        }
        Wire::Passkey(signature) => {
            let bytes = passkey::verify(signature, &text.text)?;
            (Member::Passkey(signature.public_key.clone()), SignatureKind::Passkey, None, digest(&bytes))
        }
    };
    Ok(Checked::Signer(Signer { member, kind, chain_id, digest }))
}

fn digest(signature: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(signature);
    hash.finish()
}

/// The address whose key signed a hash, and the signature with s in its low half (EIP-2).
///
/// As in libxmtp, moving s into the low half leaves v alone: the second form of a signature that has s in the high half
/// is the one with the same v.
pub(super) fn recover(signature: &[u8], hash: &[u8; 32]) -> Option<(String, [u8; 65])> {
    let signature: &[u8; 65] = signature.try_into().ok()?;
    let (scalars, &[v]) = signature.split_first_chunk::<64>()? else { return None };
    let parsed = EcdsaSignature::from_slice(scalars).ok()?;
    let parsed = parsed.normalize_s().unwrap_or(parsed);
    let is_y_odd = match v {
        0 | 1 => v == 1,
        27 | 28 => v == 28,
        // EIP-155, which libxmtp's parser takes as well.
        35.. => v % 2 == 0,
        _ => return None,
    };
    let key = EcdsaKey::recover_from_prehash(hash, &parsed, RecoveryId::new(is_y_odd, false)).ok()?;
    let mut normalised = [v; 65];
    normalised.first_chunk_mut::<64>()?.copy_from_slice(&parsed.to_bytes());
    Some((address_of(&key), normalised))
}

/// The Ethereum address of a key: the last 20 bytes of the Keccak-256 hash of its point, in lower case.
pub(super) fn address_of(key: &EcdsaKey) -> String {
    use sha3::Digest as _;
    let point = key.to_encoded_point(false);
    let coordinates = point.as_bytes().strip_prefix(&[4]).unwrap_or_default();
    let hash: [u8; 32] = Keccak256::digest(coordinates).into();
    let address = hash.last_chunk::<20>().map(hex::encode).unwrap_or_default();
    format!("0x{address}")
}

fn verify_installation(signature: &RecoverableEd25519Signature, prehash: &Sha512) -> Option<[u8; 32]> {
    let key = VerifyingKey::from_bytes(signature.public_key.as_slice().try_into().ok()?).ok()?;
    let bytes: &[u8; 64] = signature.bytes.as_slice().try_into().ok()?;
    // Not the strict variant: what libxmtp accepts must be accepted, and no trust rests on an installation's key alone,
    // since a wallet has to sign for it.
    key.verify_prehashed(prehash.clone(), Some(CONTEXT), &ed25519_dalek::Signature::from_bytes(bytes)).ok()?;
    Some(key.to_bytes())
}

/// The id of the installation that has a key: its Ed25519 public key (identity specification, section 1.1).
#[must_use]
pub fn installation_id(seed: &[u8; 32]) -> [u8; 32] {
    // The signing key wipes itself when dropped.
    SigningKey::from_bytes(seed).verifying_key().to_bytes()
}

/// Signs the text of an update with an installation key, given as its 32-byte seed (identity specification, section 1.4:
/// Ed25519ph with a context, RFC 8032, section 5.1).
#[must_use]
pub fn sign_text(seed: &[u8; 32], text: &str) -> [u8; 64] {
    let key = SigningKey::from_bytes(seed);
    let signature = key.sign_prehashed(Sha512::new_with_prefix(text.as_bytes()), Some(CONTEXT));
    signature.expect("the context is shorter than 256 bytes").to_bytes()
}
