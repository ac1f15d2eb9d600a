//! Reading the little of TLS syntax that is not OpenMLS's to read (RFC 8446, section 3; RFC 9420, section 2.1.2).

/// Reads numbers and vectors from the front of some bytes.
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.array()?))
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    /// A vector of bytes behind its length, which has 1, 2 or 4 bytes and is as short as it can be.
    pub(super) fn vector(&mut self) -> Option<&'a [u8]> {
        let first = self.u8()?;
        let (more, shortest) = match first >> 6 {
            0 => (0, 0),
            1 => (1, 1 << 6),
            2 => (3, 1 << 14),
            _ => return None,
        };
        let mut length = usize::from(first & 0x3f);
        for byte in self.take(more)? {
            length = (length << 8) | usize::from(*byte);
        }
        if length < shortest {
            return None;
        }
        self.take(length)
    }

    /// Whether everything has been read.
    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}
