//! The text that the signers of an update sign (identity specification, section 1.3).
//!
//! It is rebuilt from the update and never carried along, so that nobody can be made to sign another one than they see.

use super::error::{Error, Rule};
use super::identifier::Identifier;
use crate::wire::proto::identity::associations::{IdentityAction, IdentityUpdate, MemberIdentifier};
use crate::wire::proto::identity::associations::{identity_action, member_identifier};
use sha2::{Digest as _, Sha512};
use sha3::Keccak256;
use std::fmt::Write as _;

const HEADER: &str = "XMTP : Authenticate to inbox";
const FOOTER: &str = "For more info: https://xmtp.org/signatures";

/// The text of an update, rebuilt from its content (identity specification, section 1.3).
///
/// # Errors
/// [`Error::Invalid`] when the update lacks an action or an identifier, or writes a passkey in anything but hexadecimal
/// digits. Signatures may be missing.
pub fn signature_text(update: &IdentityUpdate) -> Result<String, Error> {
    Ok(build(update)?)
}

pub(super) fn build(update: &IdentityUpdate) -> Result<String, Rule> {
    let mut text = String::with_capacity(256);
    text.push_str(HEADER);
    text.push_str("\n\nInbox ID: ");
    text.push_str(&update.inbox_id);
    text.push_str("\nCurrent time: ");
    push_time(&mut text, update.client_timestamp_ns);
    text.push_str("\n\n");
    for (index, action) in update.actions.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        push_action(&mut text, action)?;
    }
    text.push_str("\n\n");
    text.push_str(FOOTER);
    Ok(text)
}

fn push_action(text: &mut String, action: &IdentityAction) -> Result<(), Rule> {
    let (title, label, name) = match action.kind.as_ref() {
        None => return Err(Rule::Missing("action")),
        Some(identity_action::Kind::CreateInbox(create)) => {
            let owner = Identifier::from_wire(&create.initial_identifier, create.initial_identifier_kind)?;
            ("Create inbox", "Owner", owner.to_string())
        }
        Some(identity_action::Kind::Add(add)) => {
            let (label, name) = label(add.new_member_identifier.as_ref())?;
            let title = match label {
                "ID" => "Grant messaging access to app",
                "Address" => "Link address to inbox",
                _ => "Link passkey to inbox",
            };
            (title, label, name)
        }
        Some(identity_action::Kind::Revoke(revoke)) => {
            let (label, name) = label(revoke.member_to_revoke.as_ref())?;
            let title = match label {
                "ID" => "Revoke messaging access from app",
                "Address" => "Unlink address from inbox",
                _ => "Unlink passkey from inbox",
            };
            (title, label, name)
        }
        Some(identity_action::Kind::ChangeRecoveryAddress(change)) => {
            let recovery = Identifier::from_wire(&change.new_recovery_identifier, change.new_recovery_identifier_kind)?;
            ("Change inbox recovery address", "Address", recovery.to_string())
        }
    };
    for part in ["- ", title, "\n  (", label, ": ", &name, ")"] {
        text.push_str(part);
    }
    Ok(())
}

/// How a member is introduced, and its name. An installation id of a wrong length still has a text, since a revocation of
/// it has an effect on nobody but is valid.
fn label(identifier: Option<&MemberIdentifier>) -> Result<(&'static str, String), Rule> {
    let kind = identifier.and_then(|identifier| identifier.kind.as_ref());
    match kind.ok_or(Rule::Missing("member identifier"))? {
        member_identifier::Kind::EthereumAddress(address) => Ok(("Address", address.clone())),
        member_identifier::Kind::InstallationPublicKey(key) => Ok(("ID", hex::encode(key))),
        member_identifier::Kind::Passkey(passkey) => Ok(("Passkey", hex::encode(&passkey.key))),
    }
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, whole seconds.
fn push_time(text: &mut String, timestamp_ns: u64) {
    // libxmtp reads the unsigned field as a signed number, so times past the year 2262 lie before 1970 in its texts.
    let seconds = timestamp_ns.cast_signed().div_euclid(1_000_000_000);
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    write!(text, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
        .expect("writing to a string cannot fail");
}

/// The date of a day counted from 1970-01-01 in the Gregorian calendar.
///
/// Years are taken to begin in March, so that the leap day is the last one; 719468 days lie between 0000-03-01 and 1970.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// The hash of a text that Ethereum wallets sign as a personal message (EIP-191, version 0x45).
#[must_use]
pub fn personal_message_hash(text: &str) -> [u8; 32] {
    use sha3::Digest as _;
    let mut hash = Keccak256::new();
    hash.update(b"\x19Ethereum Signed Message:\n");
    hash.update(text.len().to_string().as_bytes());
    hash.update(text.as_bytes());
    hash.finalize().into()
}

/// A text with the hashes that its signers sign, computed once: an update may carry thousands of signatures of a text
/// that is as long as the update.
pub(super) struct SignedText {
    pub text: String,
    /// What wallets sign.
    pub personal_hash: [u8; 32],
    /// What installations sign (RFC 8032, section 5.1).
    pub prehash: Sha512,
}

impl SignedText {
    pub fn new(text: String) -> Self {
        let personal_hash = personal_message_hash(&text);
        let prehash = Sha512::new_with_prefix(text.as_bytes());
        Self { text, personal_hash, prehash }
    }

    pub fn of(update: &IdentityUpdate) -> Result<Self, Rule> {
        build(update).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(timestamp_ns: u64) -> String {
        let mut text = String::new();
        push_time(&mut text, timestamp_ns);
        text
    }

    #[test]
    fn times_are_cut_to_whole_seconds() {
        // The expected values are those of `date -u -d @seconds`.
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(1_795_384_723_999_999_999), "2026-11-22T21:58:43Z");
        assert_eq!(time(951_782_399_000_000_000), "2000-02-28T23:59:59Z");
        assert_eq!(time(951_868_799_000_000_000), "2000-02-29T23:59:59Z");
        assert_eq!(time(4_107_542_400_000_000_000), "2100-03-01T00:00:00Z");
        assert_eq!(time(i64::MAX.cast_unsigned()), "2262-04-11T23:47:16Z");
        assert_eq!(time(i64::MAX.cast_unsigned() + 1), "1677-09-21T00:12:43Z");
        assert_eq!(time(u64::MAX), "1969-12-31T23:59:59Z");
    }
}
