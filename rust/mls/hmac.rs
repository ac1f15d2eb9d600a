//! The tag by which a push service knows an inbox's own messages (identity spec 4.5); receivers ignore it.

use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{self, RandomFailed};

/// Bytes of the root key, and of the keys derived from it (identity spec 4.5).
pub const KEY_BYTES: usize = 42;
const SALT: &[u8] = b"libXMTP HKDF salt!";
/// How long a derived key serves: 30 days.
const EPOCH_SECONDS: i64 = 30 * 24 * 60 * 60;
const NS_IN_SECOND: i64 = 1_000_000_000;

/// The root key was not exactly 42 bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HMAC root key has exactly 42 bytes, this one has {given}; ignore it and keep the one in use")]
pub struct RootKeyLength {
    /// Length of the rejected key in bytes.
    pub given: usize,
}

/// The key that an inbox's installations share through their sync groups; wiped when dropped, never printed.
pub struct RootKey([u8; KEY_BYTES]);

impl RootKey {
    /// Takes a key that another installation announced, or a stored one.
    ///
    /// The caller's own copy stays the caller's to wipe.
    ///
    /// # Errors
    /// [`RootKeyLength`] for any other length than 42 bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, RootKeyLength> {
        let given = bytes.len();
        bytes.try_into().map(Self).map_err(|_| RootKeyLength { given })
    }

    /// Makes a key, for when no installation has announced one.
    ///
    /// # Errors
    /// [`RandomFailed`] when the system has no randomness to give.
    pub fn generate() -> Result<Self, RandomFailed> {
        let mut key = Self([0; KEY_BYTES]);
        crypto::fill_random(&mut key.0)?;
        Ok(key)
    }

    /// The secret bytes, to be announced or stored encrypted.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Drop for RootKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RootKey(..)")
    }
}

/// The number of the 30 days since 1970 that a time lies in.
#[must_use]
pub fn epoch_at(now_ns: i64) -> i64 {
    now_ns.div_euclid(NS_IN_SECOND).div_euclid(EPOCH_SECONDS)
}

/// The key for one group and one epoch, which a push service is given to recognise the inbox's own messages.
#[must_use]
pub fn hmac_key(root: &RootKey, group_id: &[u8], epoch: i64) -> Zeroizing<[u8; KEY_BYTES]> {
    let input = Zeroizing::new([root.as_bytes(), group_id].concat());
    let info = [group_id, &epoch.to_le_bytes()].concat();
    crypto::hkdf_sha256(SALT, &input, &info)
}

/// The tag for a message as it is sent: `data` is the whole MLSMessage.
#[must_use]
pub fn sender_hmac(root: &RootKey, group_id: &[u8], data: &[u8], now_ns: i64) -> [u8; 32] {
    crypto::hmac_sha256(hmac_key(root, group_id, epoch_at(now_ns)).as_slice(), data)
}
