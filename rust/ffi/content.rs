//! Opening a message's EncodedContent for Python.

use serde_json::json;

use super::buffer::XhBuffer;
use super::bytes;
use super::error::{XhError, guard};
use crate::wire::content::EncodedContent;

/// Decodes an EncodedContent: `json` gets type, parameters, fallback and compression, `body` the content, still compressed.
///
/// # Safety
/// `content` is valid for its length, and the out-pointers for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_content_decode(
    content: *const u8,
    content_length: usize,
    json: *mut XhBuffer,
    body: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let bytes = unsafe { bytes(content, content_length) };
        let invalid = || XhError::new("ContentError", "the content is not a valid EncodedContent");
        let content = EncodedContent::decode(bytes).map_err(|_| invalid())?;
        let content_type = content.r#type.ok_or_else(invalid)?;
        let description = json!({
            "type": [
                content_type.authority_id,
                content_type.type_id,
                content_type.version_major,
                content_type.version_minor,
            ],
            "parameters": content.parameters,
            "fallback": content.fallback,
            "compression": content.compression,
        });
        // SAFETY: promised by the caller.
        unsafe {
            *json = description.to_string().into_bytes().into();
            *body = content.content.into();
        }
        Ok(())
    })
}
