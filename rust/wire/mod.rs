//! The protobuf messages inside an archive (spec section 2): borrowed records, and a codec without detours.
//!
//! `record` holds the types, `decode` and `encode` the hand-written codec for the backup records, `cursor` and `sink`
//! the primitives under them. `proto` is the generated codec for all the rest, and `content` the one message of it that
//! archives hold: the content of a message, which is looked into rarely.
//! The `.proto` files beside this one describe the same records; the code generated from them checks ours in tests.

pub mod content;
mod cursor;
mod decode;
mod encode;
mod error;
pub mod proto;
mod record;
mod sink;

pub use decode::{MAX_LIST_ENTRIES, decode_element};
pub use encode::{encode_consent, encode_group, encode_message, encode_metadata};
pub use error::DecodeError;
pub use record::{Consent, Element, Group, GroupMetadata, Message, Metadata, MutableMetadata};
