//! Signatures of passkeys: a `WebAuthn` assertion whose challenge is the text (identity specification, section 1.4).

use super::error::Rule;
use super::signature::SignatureKind;
use crate::crypto::Sha256;
use crate::wire::proto::identity::associations::RecoverablePasskeySignature;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::Deserialize;

const REFUSED: Rule = Rule::BadSignature(SignatureKind::Passkey);
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What is read of the client data (Web Authentication, section 5.8.1); other members are signed, but mean nothing here.
#[derive(Deserialize)]
struct ClientData {
    // libxmtp takes the origin for the relying party, which no rule depends on; it refuses client data without one.
    #[serde(rename = "origin")]
    _origin: String,
    challenge: String,
}

/// Verifies the assertion and returns the signature as `r ‖ s`, which is how it is remembered.
pub(super) fn verify(signature: &RecoverablePasskeySignature, text: &str) -> Result<[u8; 64], Rule> {
    let client_data: ClientData = serde_json::from_slice(&signature.client_data_json).map_err(|_| REFUSED)?;
    if client_data.challenge != base64_url(text.as_bytes()) {
        return Err(REFUSED);
    }
    let key = VerifyingKey::from_sec1_bytes(&signature.public_key).map_err(|_| REFUSED)?;
    let parsed = Signature::from_der(&signature.signature).map_err(|_| REFUSED)?;
    let mut hash = Sha256::new();
    hash.update(&signature.client_data_json);
    let signed = [signature.authenticator_data.as_slice(), &hash.finish()].concat();
    key.verify(&signed, &parsed).map_err(|_| REFUSED)?;
    Ok(parsed.to_bytes().into())
}

/// RFC 4648, section 5, without padding.
fn base64_url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..=chunk.len() {
            let index = group >> (18 - 6 * position) & 63;
            let letter = BASE64_URL.get(index as usize).copied().unwrap_or_default();
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64_url;

    #[test]
    fn base64_matches_the_rfc() {
        // RFC 4648, section 10, without the padding.
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64_url(plain.as_bytes()), encoded);
        }
        assert_eq!(base64_url(&[0xfb, 0xef, 0xff]), "--__");
    }
}
