//! The archive format, version 0 (spec section 1): a plain header, one zstd frame, and in it sealed elements.
//!
//! ```text
//! file     = version u16 = 0 ‖ start nonce, 12 bytes ‖ zstd frame
//! inflated = element*
//! element  = length u32 ‖ AES-256-GCM ciphertext ‖ tag, 16 bytes        (length counts ciphertext and tag)
//! ```
//!
//! All integers are little-endian. Element *i* is sealed under start nonce + *i*. [`Reader`], [`Writer`] and
//! [`Rewriter`] do no input or output: bytes are pushed in and taken out, in pieces of any size, so files, memory and
//! HTTP bodies all go the same way.

mod error;
mod frame;
mod inflated;
mod nonce;
mod reader;
mod rewrite;
mod writer;

pub use error::{Error, ErrorKind, ZstdProblem};
pub use reader::{Opened, Reader, Summary};
pub use rewrite::Rewriter;
pub use writer::Writer;

/// Bytes in front of the zstd frame: version and start nonce (spec 1.1).
pub const HEADER_BYTES: usize = 14;
/// The only format version there is (spec 1.1).
pub const VERSION: u16 = 0;

/// What a reader takes from strangers before it gives up (spec 1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest sealed element in bytes, tag included.
    pub max_element_bytes: u32,
    /// Largest zstd window as a power of two; the window is memory that the file asks for.
    pub max_window_log: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_element_bytes: 64 << 20, max_window_log: 27 }
    }
}
