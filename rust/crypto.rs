//! The one seam to the cryptography library: AES-256-GCM, SHA-256, HMAC, HKDF, randomness, and a key that wipes itself.
//!
//! Nothing here knows what an archive is. Swapping the library behind it means changing this file only.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::{digest, hkdf, hmac};
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an archive key (spec 1.1).
pub const KEY_BYTES: usize = 32;
/// Bytes of an AES-GCM nonce (spec 1.1).
pub const NONCE_BYTES: usize = 12;
/// Bytes of the authentication tag that follows every ciphertext (spec 1.1).
pub const TAG_BYTES: usize = 16;

/// The key was not exactly 32 bytes long (spec 1.1: neither cut nor padded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an archive key has exactly 32 bytes, this one has {given}; pass the key the archive was made with")]
pub struct KeyLength {
    /// Length of the rejected key in bytes.
    pub given: usize,
}

/// The ciphertext is not what was sealed under this key and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data does not belong to this key, or was changed")]
pub struct OpenFailed;

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator failed; try again")]
pub struct RandomFailed;

/// The 32-byte secret of an archive; wiped when dropped, never printed.
pub struct ArchiveKey([u8; KEY_BYTES]);

impl ArchiveKey {
    /// Takes a key of exactly 32 bytes (spec 1.1).
    ///
    /// The caller's own copy stays the caller's to wipe.
    ///
    /// # Errors
    /// [`KeyLength`] for any other length.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyLength> {
        let given = bytes.len();
        bytes.try_into().map(Self).map_err(|_| KeyLength { given })
    }
}

impl Drop for ArchiveKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for ArchiveKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ArchiveKey(..)")
    }
}

/// AES-256-GCM without associated data, its key schedule computed once (spec 1.1).
pub struct Cipher {
    key: LessSafeKey,
}

impl Cipher {
    /// Expands the key for any number of `seal` and `open` calls.
    #[must_use]
    pub fn new(key: &ArchiveKey) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &key.0).expect("AES-256 takes any 32 bytes as a key");
        Self { key: LessSafeKey::new(key) }
    }

    /// Encrypts `buffer[start..]` in place and appends the 16-byte tag.
    ///
    /// # Panics
    /// If `start` lies past the end of the buffer.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], buffer: &mut Vec<u8>, start: usize) {
        let plaintext = buffer.get_mut(start..).expect("start lies within the buffer");
        let tag = self.seal_detached(nonce, plaintext);
        buffer.extend_from_slice(&tag);
    }

    /// Encrypts `plaintext` in place and returns the tag that belongs behind it.
    pub fn seal_detached(&self, nonce: [u8; NONCE_BYTES], plaintext: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), plaintext);
        let tag = sealed.expect("AES-GCM seals everything below 64 GiB");
        tag.as_ref().try_into().expect("AES-256-GCM was set up with 16-byte tags")
    }

    /// Checks and decrypts `ciphertext ‖ tag` in place; the plaintext is the returned front part.
    ///
    /// # Errors
    /// [`OpenFailed`] when the tag does not match; what `sealed` then holds is unspecified.
    pub fn open<'a>(&self, nonce: [u8; NONCE_BYTES], sealed: &'a mut [u8]) -> Result<&'a [u8], OpenFailed> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plaintext = self.key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| OpenFailed)?;
        Ok(plaintext)
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Cipher(..)")
    }
}

/// Fills `target` from the operating system's generator.
///
/// # Errors
/// [`RandomFailed`] when the system has no randomness to give.
pub fn fill_random(target: &mut [u8]) -> Result<(), RandomFailed> {
    SystemRandom::new().fill(target).map_err(|_| RandomFailed)
}

/// Returns `N` random bytes.
///
/// # Errors
/// [`RandomFailed`] as for [`fill_random`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomFailed> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// SHA-256 over data that arrives in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Starts an empty hash.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Appends a piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of everything appended.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("SHA-256 yields 32 bytes")
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sha256(..)")
    }
}

/// HMAC-SHA256 (RFC 2104) of `data` under a key of any length.
#[must_use]
pub fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().expect("HMAC-SHA256 yields 32 bytes")
}

/// Tells HKDF how much to derive; the library keeps that in a type.
struct OutputBytes(usize);

impl hkdf::KeyType for OutputBytes {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869): extracts from `input` with `salt`, and expands to `N` bytes with `info`.
///
/// More than the 8160 bytes that HKDF can yield does not compile.
#[must_use]
pub fn hkdf_sha256<const N: usize>(salt: &[u8], input: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 yields at most 8160 bytes") };
    let mut output = Zeroizing::new([0; N]);
    let pseudorandom_key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(input);
    pseudorandom_key
        .expand(&[info], OutputBytes(N))
        .and_then(|derived| derived.fill(output.as_mut_slice()))
        .expect("the length was checked when compiling");
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_other_lengths_are_refused() {
        for length in [0, 31, 33, 64] {
            assert_eq!(ArchiveKey::new(&vec![7; length]).err(), Some(KeyLength { given: length }));
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let key = ArchiveKey::new(&[0xab; 32]).unwrap();
        assert_eq!(format!("{key:?} {:?}", Cipher::new(&key)), "ArchiveKey(..) Cipher(..)");
    }

    #[test]
    fn sealing_matches_the_published_gcm_vector() {
        // McGrew and Viega's AES-GCM test case 14: zero key, zero nonce, one block of zeros.
        let cipher = Cipher::new(&ArchiveKey::new(&[0; 32]).unwrap());
        let mut buffer = b"kept".to_vec();
        buffer.extend_from_slice(&[0; 16]);
        cipher.seal([0; 12], &mut buffer, 4);
        let sealed = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919";
        assert_eq!(buffer, [b"kept".to_vec(), hex::decode(sealed).unwrap()].concat());
        assert_eq!(cipher.open([0; 12], &mut buffer[4..]), Ok(&[0; 16][..]));
    }

    #[test]
    fn opening_fails_on_change_wrong_nonce_and_short_input() {
        let cipher = Cipher::new(&ArchiveKey::new(&[1; 32]).unwrap());
        let mut sealed = b"content".to_vec();
        cipher.seal([9; 12], &mut sealed, 0);
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert_eq!(cipher.open([9; 12], &mut changed), Err(OpenFailed));
        }
        assert_eq!(cipher.open([8; 12], &mut sealed.clone()), Err(OpenFailed));
        assert_eq!(cipher.open([9; 12], &mut sealed[..15].to_vec()), Err(OpenFailed));
    }

    #[test]
    fn sha256_does_not_depend_on_the_pieces() {
        let mut hash = Sha256::new();
        hash.update(b"a");
        hash.update(b"bc");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(hash.finish()), expected);
    }

    #[test]
    fn hmac_and_hkdf_match_the_published_vectors() {
        // RFC 4231, test case 2; RFC 5869, test case 1.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(hmac_sha256(b"Jefe", b"what do ya want for nothing?")), expected);
        let (salt, info): (Vec<u8>, Vec<u8>) = ((0..=0x0c).collect(), (0xf0..=0xf9).collect());
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(hex::encode(*hkdf_sha256::<42>(&salt, &[0x0b; 22], &info)), expected);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random_bytes::<32>().unwrap(), random_bytes::<32>().unwrap());
    }
}
