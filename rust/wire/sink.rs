//! Writing protobuf primitives, either for real or only to learn how long they are.
//!
//! A record lists its fields once, against [`Sink`]; run over a [`Length`] that gives the length prefix, run over a
//! `Vec<u8>` the bytes. So nothing is built in a temporary buffer, and length and content cannot disagree.

/// Where encoded bytes go.
pub(super) trait Sink {
    fn varint(&mut self, value: u64);
    fn raw(&mut self, bytes: &[u8]);
}

/// Counts bytes instead of keeping them.
#[derive(Default)]
pub(super) struct Length(pub usize);

impl Sink for Length {
    #[inline]
    fn varint(&mut self, value: u64) {
        // Seven bits a byte, and zero takes a byte too.
        let bits = 64 - (value | 1).leading_zeros();
        self.0 += bits.div_ceil(7) as usize;
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

impl Sink for Vec<u8> {
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.push(value.to_le_bytes()[0]);
    }

    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A message that can list its fields, ascending by number, unknown ones last.
pub(super) trait Fields {
    fn fields<S: Sink>(&self, sink: &mut S);
}

const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

/// The length of a message's encoding in bytes.
pub(super) fn length(message: &impl Fields) -> usize {
    let mut length = Length::default();
    message.fields(&mut length);
    length.0
}

/// A message field, always written.
#[inline]
pub(super) fn message<S: Sink>(sink: &mut S, number: u32, message: &impl Fields) {
    delimited(sink, number, length(message));
    message.fields(sink);
}

/// The key and length of a field whose content follows.
#[inline]
pub(super) fn delimited<S: Sink>(sink: &mut S, number: u32, length: usize) {
    sink.varint(u64::from(number) << 3 | DELIMITED);
    sink.varint(length as u64);
}

/// A bytes field that exists: optional and set, or an entry of a list.
#[inline]
pub(super) fn present_bytes<S: Sink>(sink: &mut S, number: u32, value: &[u8]) {
    delimited(sink, number, value.len());
    sink.raw(value);
}

/// A plain bytes or string field, left out when empty.
#[inline]
pub(super) fn bytes<S: Sink>(sink: &mut S, number: u32, value: &[u8]) {
    if !value.is_empty() {
        present_bytes(sink, number, value);
    }
}

/// An optional bytes or string field, written whenever set.
#[inline]
pub(super) fn optional_bytes<S: Sink>(sink: &mut S, number: u32, value: Option<&[u8]>) {
    if let Some(value) = value {
        present_bytes(sink, number, value);
    }
}

/// A plain int64, int32 or enum field, left out when zero.
#[inline]
pub(super) fn integer<S: Sink>(sink: &mut S, number: u32, value: impl Into<i64>) {
    let value = value.into();
    if value != 0 {
        optional_integer(sink, number, Some(value));
    }
}

/// An optional integer field, written whenever set.
#[inline]
pub(super) fn optional_integer<S: Sink>(sink: &mut S, number: u32, value: Option<i64>) {
    if let Some(value) = value {
        sink.varint(u64::from(number) << 3 | VARINT);
        sink.varint(value.cast_unsigned());
    }
}

/// A repeated enum field in packed form, left out when empty.
pub(super) fn packed<S: Sink>(sink: &mut S, number: u32, values: &[i32]) {
    if values.is_empty() {
        return;
    }
    let mut length = Length::default();
    for &value in values {
        length.varint(i64::from(value).cast_unsigned());
    }
    delimited(sink, number, length.0);
    for &value in values {
        sink.varint(i64::from(value).cast_unsigned());
    }
}
