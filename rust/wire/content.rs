//! The content inside a message (spec 2.6), decoded by generated code: it is looked into one message at a time.
//!
//! Only for looking: map order is not canonical, so content is always stored and copied as the bytes it came in.

use prost::Message as _;

pub use super::proto::mls::message_contents::{Compression, ContentTypeId, EncodedContent};

/// The bytes are not an `EncodedContent`. Arbitrary bytes are legal in a message, so this is a finding, not a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The bytes are not this protobuf message.
    #[error("the content is not an encoded content message")]
    NotEncodedContent,
    /// The message names no content type.
    #[error("the content has no type")]
    MissingType,
}

impl EncodedContent {
    /// Decodes the content of a message; `type` is always set in the result.
    ///
    /// # Errors
    /// [`ContentError`] when the bytes are something else, or carry no type.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContentError> {
        let content = <Self as prost::Message>::decode(bytes).map_err(|_| ContentError::NotEncodedContent)?;
        if content.r#type.is_none() {
            return Err(ContentError::MissingType);
        }
        Ok(content)
    }

    /// Encodes the content as a new message would carry it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
