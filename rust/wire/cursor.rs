//! Reading protobuf primitives from a slice, borrowed and bounds-checked.
//!
//! Accepts and refuses exactly what prost does, so that our reader and the reference agree on every input.

use super::DecodeError;

/// A varint has at most ten bytes, and the tenth carries one bit.
const VARINT_BYTES: usize = 10;
/// How deep messages and groups may nest, the outermost message included.
pub(super) const NESTING_LIMIT: u32 = 100;

/// How a field's value is laid out; the low three bits of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Delimited,
    StartGroup,
    EndGroup,
    Fixed32,
}

/// A field's number and layout, with the position it began at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub number: u32,
    pub wire_type: WireType,
    /// Everything from this key on, to cut the raw field out of.
    from: &'a [u8],
}

impl Key<'_> {
    #[inline]
    fn expect(self, wire_type: WireType) -> Result<(), DecodeError> {
        if self.wire_type == wire_type { Ok(()) } else { Err(DecodeError::WrongWireType { field: self.number }) }
    }
}

/// A position within one message.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's key, or `None` at the end of the message.
    #[inline]
    pub(super) fn next_key(&mut self) -> Result<Option<Key<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let from = self.rest;
        let key = u32::try_from(self.varint()?).map_err(|_| DecodeError::InvalidKey)?;
        let wire_type = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Delimited,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            _ => return Err(DecodeError::InvalidKey),
        };
        match key >> 3 {
            0 => Err(DecodeError::InvalidKey),
            number => Ok(Some(Key { number, wire_type, from })),
        }
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for (position, &byte) in self.rest.iter().take(VARINT_BYTES).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * position);
            if byte < 0x80 {
                if position + 1 == VARINT_BYTES && byte > 1 {
                    break;
                }
                self.rest = self.rest.get(position + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(DecodeError::InvalidVarint)
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(length).map_err(|_| DecodeError::Truncated)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An int64 field's value.
    #[inline]
    pub(super) fn int64(&mut self, key: Key<'_>) -> Result<i64, DecodeError> {
        key.expect(WireType::Varint)?;
        Ok(self.varint()?.cast_signed())
    }

    /// An int32 or enum field's value.
    #[inline]
    pub(super) fn int32(&mut self, key: Key<'_>) -> Result<i32, DecodeError> {
        key.expect(WireType::Varint)?;
        Ok(truncate(self.varint()?))
    }

    /// The content of a bytes or message field.
    #[inline]
    pub(super) fn bytes(&mut self, key: Key<'_>) -> Result<&'a [u8], DecodeError> {
        key.expect(WireType::Delimited)?;
        let length = self.varint()?;
        self.take(length)
    }

    /// The content of a string field.
    #[inline]
    pub(super) fn string(&mut self, key: Key<'_>) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(key)?).map_err(|_| DecodeError::InvalidUtf8)
    }

    /// One occurrence of a repeated enum field, packed or not; every value goes to `each`.
    pub(super) fn repeated_int32(
        &mut self,
        key: Key<'_>,
        mut each: impl FnMut(i32) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if key.wire_type != WireType::Delimited {
            return each(self.int32(key)?);
        }
        let mut packed = Cursor::new(self.bytes(key)?);
        while !packed.rest.is_empty() {
            each(truncate(packed.varint()?))?;
        }
        Ok(())
    }

    /// Skips the field and appends its raw bytes, key included, to `unknown`.
    ///
    /// `depth` is how many levels may still be entered from the message the field stands in.
    pub(super) fn keep_unknown(&mut self, key: Key<'_>, depth: u32, unknown: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.skip(key, depth)?;
        let length = key.from.len() - self.rest.len();
        unknown.extend_from_slice(key.from.get(..length).unwrap_or_default());
        Ok(())
    }

    /// Skips the field whose key was just read.
    pub(super) fn skip(&mut self, key: Key<'_>, depth: u32) -> Result<(), DecodeError> {
        let deeper = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
        let length = match key.wire_type {
            WireType::Varint => return self.varint().map(drop),
            WireType::Fixed64 => 8,
            WireType::Fixed32 => 4,
            WireType::Delimited => self.varint()?,
            WireType::StartGroup => return self.skip_group(key.number, deeper),
            WireType::EndGroup => return Err(DecodeError::UnexpectedEndGroup),
        };
        self.take(length).map(drop)
    }

    fn skip_group(&mut self, number: u32, depth: u32) -> Result<(), DecodeError> {
        loop {
            let key = self.next_key()?.ok_or(DecodeError::Truncated)?;
            if key.wire_type == WireType::EndGroup {
                return if key.number == number { Ok(()) } else { Err(DecodeError::UnexpectedEndGroup) };
            }
            self.skip(key, depth)?;
        }
    }
}

/// Protobuf's rule for numbers wider than their field: the upper bits are dropped.
#[expect(clippy::cast_possible_truncation, reason = "dropping the upper bits is the rule")]
fn truncate(value: u64) -> i32 {
    value as i32
}
