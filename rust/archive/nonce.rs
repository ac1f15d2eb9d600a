//! The nonce of an archive's elements: a 96-bit little-endian counter that wraps (spec 1.2).

use crate::crypto::NONCE_BYTES;

/// A position of the counter, in the lower 96 bits; what carries beyond them is never looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nonce(u128);

impl Nonce {
    pub(super) fn new(bytes: [u8; NONCE_BYTES]) -> Self {
        let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte));
        Self(value)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    pub(super) fn bytes(self) -> [u8; NONCE_BYTES] {
        let mut bytes = [0; NONCE_BYTES];
        for (target, byte) in bytes.iter_mut().zip(self.0.to_le_bytes()) {
            *target = byte;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_from_the_first_byte_up() {
        let bytes = [0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(Nonce::new(bytes).bytes(), bytes);
        assert_eq!(Nonce::new(bytes).next().bytes(), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn wraps_from_all_ones_to_zero() {
        assert_eq!(Nonce::new([0xff; 12]).next().bytes(), [0; 12]);
    }
}
