//! What can be wrong with an archive, in words that say what to do; never content, never a key (spec 1.8).

use crate::wire::DecodeError;

/// A failure while reading or writing an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The element it happened in, counted from 0, where there is one.
    pub element: Option<u64>,
    /// Where: for an element, the position of its length prefix in the inflated stream; for the container
    /// (`Zstd`, `TrailingData`), the position in the archive itself. Both in bytes.
    pub offset: Option<u64>,
}

/// The kinds of failure; named as in spec 1.8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fewer than the 14 bytes of the header.
    #[error("the archive ends within its first 14 bytes; copy or download it again")]
    HeaderTruncated,
    /// No zstd frame where an archive has one.
    #[error("this is not an XMTP archive; choose an .xmtp file")]
    NotAnArchive,
    /// A format version this library does not know.
    #[error("the archive has format version {0}, and only version 0 is known; update this library")]
    UnsupportedVersion(u16),
    /// The compressed frame around the elements is unusable.
    #[error("{0}")]
    Zstd(#[from] ZstdProblem),
    /// Element 0 does not open.
    #[error("the key does not open this archive, or its beginning is damaged; check the key first")]
    WrongKeyOrCorrupt,
    /// Element 0 does not exist or is not the metadata.
    #[error("the archive does not begin with its metadata; export it again")]
    MissingMetadata,
    /// The frame ended within an element.
    #[error("the archive ends within an element; export it again")]
    TruncatedElement,
    /// An element is longer than allowed.
    #[error("an element has {announced} bytes and only {limit} are allowed; raise the limit if you trust its origin")]
    ElementTooLarge {
        /// Sealed bytes of the element, as its prefix announces or as it would take.
        announced: u64,
        /// [`Limits::max_element_bytes`](super::Limits::max_element_bytes).
        limit: u32,
    },
    /// A length prefix below the 16 bytes of a tag.
    #[error("an element announces {0} bytes, and none is shorter than 16; the archive is damaged, export it again")]
    BadElementLength(u32),
    /// An element after the first does not open.
    #[error("an element was changed, moved or removed; do not trust the archive, export it again")]
    AuthFailed,
    /// An element opens, but does not hold a record.
    #[error("an element is not a valid record: {0}; report this to the maker of the exporting app")]
    Decode(#[from] DecodeError),
    /// Bytes after the end of the frame.
    #[error("something follows the end of the archive; export it again")]
    TrailingData,
    /// The receiver of an earlier element failed, which ended the reading.
    #[error("an earlier failure ended this archive; start over")]
    Aborted,
    /// A finished writer was asked to write.
    #[error("the archive is finished already; start a new one")]
    AlreadyFinished,
    /// The operating system gave no random nonce.
    #[error("the operating system's random generator failed; try again")]
    NoRandomness,
}

/// What is wrong with the zstd frame (spec 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZstdProblem {
    /// The input ended before the frame did.
    #[error("the archive is incomplete; copy or download it again")]
    Truncated,
    /// The frame breaks the rules of zstd, its checksum does not match, or it needs a dictionary.
    #[error("the archive's compressed frame is damaged; copy or download it again")]
    BadFrame,
    /// The frame asks for more memory than [`Limits::max_window_log`](super::Limits::max_window_log) allows.
    #[error("the archive asks for too much memory to decompress; export it again with a window of at most 2 MiB")]
    WindowTooLarge,
}

impl Error {
    /// A failure of the whole archive.
    pub(super) fn whole(kind: impl Into<ErrorKind>) -> Self {
        Self { kind: kind.into(), element: None, offset: None }
    }

    /// A failure at a byte of the archive.
    pub(super) fn container(kind: impl Into<ErrorKind>, offset: u64) -> Self {
        Self { kind: kind.into(), element: None, offset: Some(offset) }
    }

    /// A failure in an element.
    pub(super) fn element(kind: impl Into<ErrorKind>, index: u64, offset: u64) -> Self {
        Self { kind: kind.into(), element: Some(index), offset: Some(offset) }
    }
}

impl ErrorKind {
    /// The stable name of the kind, as the format's documentation uses it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HeaderTruncated => "HeaderTruncated",
            Self::NotAnArchive => "NotAnArchive",
            Self::UnsupportedVersion(_) => "UnsupportedVersion",
            Self::Zstd(_) => "Zstd",
            Self::WrongKeyOrCorrupt => "WrongKeyOrCorrupt",
            Self::MissingMetadata => "MissingMetadata",
            Self::TruncatedElement => "TruncatedElement",
            Self::ElementTooLarge { .. } => "ElementTooLarge",
            Self::BadElementLength(_) => "BadElementLength",
            Self::AuthFailed => "AuthFailed",
            Self::Decode(_) => "Decode",
            Self::TrailingData => "TrailingData",
            Self::Aborted => "Aborted",
            Self::AlreadyFinished => "AlreadyFinished",
            Self::NoRandomness => "NoRandomness",
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.element, self.offset) {
            (Some(element), Some(offset)) => {
                write!(formatter, "{} (element {element}, byte {offset} after inflating)", self.kind)
            }
            (None, Some(offset)) => {
                write!(formatter, "{} (byte {offset} of the archive)", self.kind)
            }
            _ => write!(formatter, "{}", self.kind),
        }
    }
}

impl std::error::Error for Error {}
