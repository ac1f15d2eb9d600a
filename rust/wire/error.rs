//! Why bytes were refused as protobuf; never says anything about their content.

/// The reason a record could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A number runs past the end of its message, past ten bytes, or past 64 bits.
    #[error("a number is cut off or too long")]
    InvalidVarint,
    /// A field key with number 0, above 2^29 - 1, or with a wire type that does not exist.
    #[error("a field key is not valid")]
    InvalidKey,
    /// A known field came with a wire type that its declared type never has.
    #[error("field {field} has the wrong wire type")]
    WrongWireType {
        /// The field's number within its message.
        field: u32,
    },
    /// A length points past the end of its message.
    #[error("a field is longer than the message around it")]
    Truncated,
    /// A string field holds bytes that are not UTF-8.
    #[error("a text field is not UTF-8")]
    InvalidUtf8,
    /// A group is closed that was not opened.
    #[error("a group ends that never began")]
    UnexpectedEndGroup,
    /// Unknown groups are nested deeper than 100 levels.
    #[error("fields are nested too deeply")]
    TooDeep,
    /// A list has more entries than [`MAX_LIST_ENTRIES`](super::MAX_LIST_ENTRIES).
    #[error("a list has too many entries")]
    TooManyEntries,
}
