//! The store across the C ABI: queries take a JSON request and give JSON or a batch of rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use super::buffer::XhBuffer;
use super::bytes;
use super::error::{XhError, guard};
use super::rows::{Batch, Rows};
use super::stream::report_json;
use crate::store::{ConversationQuery, MessageQuery, Store};

/// A history store, until it is closed.
pub struct XhStore(Mutex<Option<Arc<Store>>>);

impl XhStore {
    /// The store, kept open for as long as the result is.
    pub(super) fn get(&self) -> Result<Arc<Store>, XhError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(XhError::closed)
    }
}

/// A JSON request.
#[derive(Deserialize)]
#[serde(tag = "list", rename_all = "snake_case")]
enum Request {
    Conversations {
        conversation_type: Option<i32>,
        after: Option<(i64, String)>,
        limit: u32,
    },
    Conversation {
        id: String,
    },
    Messages {
        conversation_id: String,
        after_ns: Option<i64>,
        before_ns: Option<i64>,
        descending: bool,
        after: Option<(i64, i64)>,
        limit: u32,
    },
    Message {
        id: String,
    },
    Consents {
        after: Option<(i32, String)>,
        limit: u32,
    },
}

/// Content in a page of messages after which it ends early, bytes.
const PAGE_CONTENT_BYTES: usize = 1024 * 1024;

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> Result<&Path, XhError> {
    Ok(Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes)))
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> Result<&Path, XhError> {
    let text = std::str::from_utf8(bytes).map_err(|_| XhError::new("ValueError", "the path is not valid Unicode"))?;
    Ok(Path::new(text))
}

/// Opens a store.
///
/// # Safety
/// The pointers are valid for their lengths, and `out` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_open(
    path: *const u8,
    path_length: usize,
    key: *const u8,
    key_length: usize,
    timeout_ms: u32,
    out: *mut *mut XhStore,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (path, key) = unsafe { (bytes(path, path_length), bytes(key, key_length)) };
        let store = Store::open(path_of(path)?, key, Duration::from_millis(timeout_ms.into()))?;
        // SAFETY: promised by the caller.
        unsafe { *out = Box::into_raw(Box::new(XhStore(Mutex::new(Some(Arc::new(store)))))) };
        Ok(())
    })
}

/// Closes a store, when calls that still use it have ended. Imports and exports started from it go on; later calls fail.
///
/// # Safety
/// `store` came from [`xh_store_open`] and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_close(store: *const XhStore) {
    // SAFETY: promised by the caller.
    let store = unsafe { &*store };
    let closed = catch_unwind(AssertUnwindSafe(|| drop(store.0.lock().unwrap_or_else(PoisonError::into_inner).take())));
    debug_assert!(closed.is_ok(), "dropping a store does not panic");
}

/// Frees a store, closing it first.
///
/// # Safety
/// `store` came from [`xh_store_open`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_free(store: *mut XhStore) {
    // SAFETY: promised by the caller.
    drop(unsafe { Box::from_raw(store) });
}

/// Counts the records, as JSON `[conversations, messages, consents]`.
///
/// # Safety
/// `store` is open, and `out` valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_counts(store: *const XhStore, out: *mut XhBuffer) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let counts = unsafe { &*store }.get()?.counts()?;
        let json = serde_json::json!([counts.conversations, counts.messages, counts.consents]);
        // SAFETY: promised by the caller.
        unsafe { *out = json.to_string().into_bytes().into() };
        Ok(())
    })
}

/// Lists records: a batch of rows, and as JSON where the next page begins (null at the end).
///
/// # Safety
/// `store` is open, `request` valid for its length, and the out-pointers for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_list(
    store: *const XhStore,
    request: *const u8,
    request_length: usize,
    json: *mut XhBuffer,
    blob: *mut XhBuffer,
    next: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (store, request) = unsafe { ((*store).get()?, bytes(request, request_length)) };
        let request = serde_json::from_slice(request).map_err(|error| XhError::new("ValueError", error.to_string()))?;
        let mut batch = Batch::default();
        let after = list(&store, request, &mut batch)?;
        let (rows, content) = batch.take();
        // SAFETY: promised by the caller.
        unsafe {
            *json = rows.into();
            *blob = content.into();
            *next = after.to_string().into_bytes().into();
        }
        Ok(())
    })
}

fn list(store: &Store, request: Request, batch: &mut Batch) -> Result<serde_json::Value, XhError> {
    let unhex = |id: &str| hex::decode(id).map_err(|_| XhError::new("ValueError", "an id is not a hexadecimal string"));
    Ok(match request {
        Request::Conversations { conversation_type, after, limit } => {
            let after = after.map(|(time, id)| Ok::<_, XhError>((time, unhex(&id)?))).transpose()?;
            let query = ConversationQuery { conversation_type, after, limit };
            let next = store.conversations(&query, &mut |view| batch.conversation(&view))?;
            serde_json::json!(next.map(|(time, id)| (time, hex::encode(id))))
        }
        Request::Conversation { id } => {
            store.conversation(&unhex(&id)?, &mut |view| batch.conversation(&view))?;
            serde_json::Value::Null
        }
        Request::Messages { conversation_id, after_ns, before_ns, descending, after, limit } => {
            let query = MessageQuery {
                group_id: unhex(&conversation_id)?,
                after_ns,
                before_ns,
                descending,
                after,
                limit,
                content_bytes: PAGE_CONTENT_BYTES,
            };
            serde_json::json!(store.messages(&query, &mut |view| batch.message(&view))?)
        }
        Request::Message { id } => {
            store.message(&unhex(&id)?, &mut |view| batch.message(&view))?;
            serde_json::Value::Null
        }
        Request::Consents { after, limit } => {
            let after = after.as_ref().map(|(entity_type, entity)| (*entity_type, entity.as_str()));
            serde_json::json!(store.consents(after, limit, &mut |consent| batch.consent(&consent))?)
        }
    })
}

/// Adds records of one kind (`g`, `m` or `c`) as one transaction; `out` gets the report as JSON. `t` are messages that are
/// also to be told to the inbox's other installations.
///
/// # Safety
/// `store` is open, the input pointers are valid for their lengths, and `out` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_store_add(
    store: *const XhStore,
    kind: u8,
    json: *const u8,
    json_length: usize,
    blob: *const u8,
    blob_length: usize,
    out: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (store, json, blob) = unsafe { ((*store).get()?, bytes(json, json_length), bytes(blob, blob_length)) };
        let tell = kind == b't';
        let rows = Rows::parse(if tell { b'm' } else { kind }, json, blob)?;
        let report = if tell { store.add_and_tell(rows.records())? } else { store.add(rows.records())? };
        // SAFETY: promised by the caller.
        unsafe { *out = report_json(&report).into() };
        Ok(())
    })
}
