//! What an application message holds once MLS has opened it (identity spec 4.4), and what of it a store files it under.

use prost::Message as _;
use serde::Deserialize;

use crate::crypto::Sha256;
use crate::wire::content::{ContentTypeId, EncodedContent};
use crate::wire::proto::mls::message_contents::{PlaintextEnvelope, plaintext_envelope};

/// Stands between the parts of a message id's preimage.
const SEPARATOR: &[u8] = b"\t";
/// What the reference files content under that it cannot read (archive spec 2.5).
const UNKNOWN_TYPE: &str = "unknown";

/// Who defines the content type of device sync messages (device sync specification, section 3.1).
const DEVICE_SYNC_AUTHORITY: &str = "xmtp.org";
/// The content type of device sync messages.
const DEVICE_SYNC_TYPE: &str = "application/x-protobuf";

/// What can be wrong with a message that MLS opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not this protobuf message.
    #[error("the message is not an XMTP envelope; its sender is faulty, skip it")]
    NotAnEnvelope,
    /// An envelope around nothing.
    #[error("the message is an empty XMTP envelope; its sender is faulty, skip it")]
    Empty,
}

/// An opened application message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Envelope {
    /// A message.
    V1 {
        /// The `EncodedContent`, as bytes, since its id is over them.
        content: Vec<u8>,
        /// What makes the id unique: by custom the decimal nanoseconds at which it was sent.
        idempotency_key: String,
    },
    /// An envelope of the second version, which nobody sends any more: to be ignored.
    Obsolete,
}

/// The envelope around `content`, for MLS to encrypt.
#[must_use]
pub fn encode(content: &[u8], idempotency_key: &str) -> Vec<u8> {
    let v1 = plaintext_envelope::V1 { content: content.to_vec(), idempotency_key: idempotency_key.to_owned() };
    PlaintextEnvelope { content: Some(plaintext_envelope::Content::V1(v1)) }.encode_to_vec()
}

/// Takes the envelope off.
///
/// # Errors
/// [`Error`] when the bytes are no envelope; the failure is permanent.
pub fn decode(bytes: &[u8]) -> Result<Envelope, Error> {
    let envelope = PlaintextEnvelope::decode(bytes).map_err(|_| Error::NotAnEnvelope)?;
    match envelope.content.ok_or(Error::Empty)? {
        plaintext_envelope::Content::V1(v1) => {
            Ok(Envelope::V1 { content: v1.content, idempotency_key: v1.idempotency_key })
        }
        plaintext_envelope::Content::V2(_) => Ok(Envelope::Obsolete),
    }
}

/// The id under which every client knows the message (identity spec 4.4).
#[must_use]
pub fn message_id(group_id: &[u8], idempotency_key: &str, content: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [group_id, SEPARATOR, idempotency_key.as_bytes(), SEPARATOR, content] {
        hash.update(part);
    }
    hash.finish()
}

/// The content type of `content`, if it is an `EncodedContent` and names one.
#[must_use]
pub fn content_type(content: &[u8]) -> Option<ContentTypeId> {
    EncodedContent::decode(content).ok()?.r#type
}

/// Whether the content is a device sync message: `xmtp.org/application/x-protobuf`, version 1.x (device-sync spec, F5).
#[must_use]
pub fn is_device_sync(content_type: &ContentTypeId) -> bool {
    content_type.authority_id == DEVICE_SYNC_AUTHORITY
        && content_type.type_id == DEVICE_SYNC_TYPE
        && content_type.version_major == 1
}

/// The `DeviceSyncContent` in an `EncodedContent`, if that is what it says it holds (rule F5).
#[must_use]
pub fn device_sync_content(content: &[u8]) -> Option<Vec<u8>> {
    let content = <EncodedContent as prost::Message>::decode(content).ok()?;
    content.r#type.as_ref().is_some_and(is_device_sync).then_some(content.content)
}

/// The `EncodedContent` around a `DeviceSyncContent` (device sync specification, section 3.1).
#[must_use]
pub fn encode_device_sync(content: &[u8]) -> Vec<u8> {
    EncodedContent {
        r#type: Some(ContentTypeId {
            authority_id: DEVICE_SYNC_AUTHORITY.to_owned(),
            type_id: DEVICE_SYNC_TYPE.to_owned(),
            version_major: 1,
            version_minor: 0,
        }),
        content: content.to_vec(),
        ..EncodedContent::default()
    }
    .encode()
}

/// What a message is found by in a store; the fields are those of an archive (archive spec 2.5, fields 10 to 16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryFields {
    /// The type's bare name as the sender wrote it. The reference keeps it only if it knows it, and exports
    /// `unknown` otherwise.
    pub content_type: String,
    /// Version of the content type.
    pub version_major: i32,
    /// Version of the content type.
    pub version_minor: i32,
    /// Who defines the content type.
    pub authority_id: String,
    /// The message that a reply, a reaction or a deletion refers to.
    pub reference_id: Option<Vec<u8>>,
}

/// Derives what a received or sent message is filed under, with the results of libxmtp 1.10 (archive spec 2.5, 2.6).
///
/// Content that is no `EncodedContent` is legal and filed as `unknown`. A reference that cannot be read is none.
#[must_use]
pub fn query_fields(content: &[u8]) -> QueryFields {
    // Not EncodedContent::decode of `wire`: without a type the message is filed all the same.
    let Ok(content) = <EncodedContent as prost::Message>::decode(content) else {
        return QueryFields {
            content_type: UNKNOWN_TYPE.to_owned(),
            version_major: 0,
            version_minor: 0,
            authority_id: String::new(),
            reference_id: None,
        };
    };
    let id = content.r#type.clone().unwrap_or_default();
    let reference_id = reference(&content, &id).and_then(|reference| hex::decode(reference).ok());
    QueryFields {
        content_type: if id.type_id.is_empty() { UNKNOWN_TYPE.to_owned() } else { id.type_id },
        // An archive has signed fields here, and the reference reinterprets what does not fit.
        version_major: id.version_major.cast_signed(),
        version_minor: id.version_minor.cast_signed(),
        authority_id: id.authority_id,
        reference_id,
    }
}

/// The reference as the content has it: hex digits, if its sender was well-behaved.
///
/// Types count whoever their authority is; what a type holds is checked in full, because what the reference cannot
/// decode refers to nothing.
fn reference(content: &EncodedContent, id: &ContentTypeId) -> Option<String> {
    let body = content.content.as_slice();
    match (id.type_id.as_str(), id.version_major) {
        ("reply", 1) => {
            <EncodedContent as prost::Message>::decode(body).ok()?;
            Some(content.parameters.get("reference").cloned().unwrap_or_default())
        }
        ("reaction", 2..) => Some(Reaction::decode(body).ok()?.reference),
        ("reaction", _) => Some(serde_json::from_slice::<LegacyReaction>(body).ok()?.reference),
        ("deleteMessage", 1) => Some(DeleteMessage::decode(body).ok()?.message_id),
        _ => None,
    }
}

/// A reaction from version 2 on; all fields, so that a malformed one is noticed.
#[derive(Clone, PartialEq, prost::Message)]
struct Reaction {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    reference_inbox_id: String,
    #[prost(int32, tag = "3")]
    action: i32,
    #[prost(string, tag = "4")]
    content: String,
    #[prost(int32, tag = "5")]
    schema: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteMessage {
    #[prost(string, tag = "1")]
    message_id: String,
}

/// A reaction before version 2, which is JSON; all fields, so that a malformed one is noticed.
#[derive(Deserialize)]
#[expect(dead_code, reason = "there to be checked")]
struct LegacyReaction {
    action: String,
    reference: String,
    #[serde(rename = "referenceInboxId")]
    reference_inbox_id: Option<String>,
    schema: String,
    content: String,
}
