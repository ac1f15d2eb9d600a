//! Errors on their way to Python: the name of the exception class, a sentence, and the details as JSON.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;

use super::buffer::XhBuffer;
use crate::archive::{self, ErrorKind, ZstdProblem};
use crate::crypto;
use crate::identity;
use crate::mls;
use crate::store;
use crate::store::rules::InvalidRecord;

/// An error, to be given back with [`xh_error_take`].
#[derive(Debug, Default, Serialize)]
pub struct XhError {
    class: &'static str,
    message: String,
    reason: &'static str,
    element: Option<u64>,
    offset: Option<u64>,
    records: Vec<(u64, &'static str, &'static str, String)>,
}

impl XhError {
    pub(super) fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), ..Self::default() }
    }

    /// A handle was used after it had finished or failed.
    pub(super) fn closed() -> Self {
        Self::new("ValueError", "already closed")
    }
}

impl From<archive::Error> for XhError {
    fn from(error: archive::Error) -> Self {
        let class = match &error.kind {
            ErrorKind::NotAnArchive => "NotAnArchive",
            ErrorKind::UnsupportedVersion(_) => "UnsupportedArchiveVersion",
            ErrorKind::WrongKeyOrCorrupt => "ArchiveKeyError",
            ErrorKind::HeaderTruncated | ErrorKind::TruncatedElement | ErrorKind::Zstd(ZstdProblem::Truncated) => {
                "ArchiveTruncated"
            }
            ErrorKind::ElementTooLarge { .. } | ErrorKind::Zstd(ZstdProblem::WindowTooLarge) => "ArchiveLimitExceeded",
            _ => "ArchiveCorrupted",
        };
        Self {
            class,
            message: error.to_string(),
            reason: error.kind.name(),
            element: error.element,
            offset: error.offset,
            records: Vec::new(),
        }
    }
}

impl From<crypto::KeyLength> for XhError {
    fn from(error: crypto::KeyLength) -> Self {
        Self { reason: "KeyLength", ..Self::new("ArchiveKeyError", error.to_string()) }
    }
}

impl From<store::Error> for XhError {
    fn from(error: store::Error) -> Self {
        let class = match error {
            store::Error::Archive(error) => return error.into(),
            store::Error::InvalidRecords { ref first, .. } => {
                return Self {
                    reason: "InvalidRecord",
                    records: rows_of(first),
                    ..Self::new("InvalidRecords", error.to_string())
                };
            }
            store::Error::KeyLength(_) | store::Error::WrongKey => "StoreKeyError",
            store::Error::Locked => "StoreLocked",
            store::Error::Invalid(_) => "ValueError",
            _ => "StoreError",
        };
        Self::new(class, error.to_string())
    }
}

impl From<identity::Error> for XhError {
    fn from(error: identity::Error) -> Self {
        Self::new("IdentityError", error.to_string())
    }
}

impl From<mls::Error> for XhError {
    fn from(error: mls::Error) -> Self {
        let class = match error {
            mls::Error::Store(error) => return error.into(),
            mls::Error::Identity(error) => return error.into(),
            mls::Error::InUse => "InstallationInUse",
            mls::Error::NoInstallation | mls::Error::IdentityMissing(_) => "NotRegistered",
            mls::Error::OtherInbox | mls::Error::Argument(_) => "ValueError",
            mls::Error::MalformedAnswer(_) => "NetworkError",
            mls::Error::NoSuchGroup => "GroupError",
            mls::Error::CannotLock(_) => "StoreError",
            _ => "XmtpHistoryError",
        };
        Self::new(class, error.to_string())
    }
}

/// Invalid records in the order of Python's `InvalidRecord`.
pub(super) fn rows_of(records: &[InvalidRecord]) -> Vec<(u64, &'static str, &'static str, String)> {
    records.iter().map(|record| (record.element, record.kind, record.field, record.reason.clone())).collect()
}

/// Runs the body of an exported function: an error becomes a pointer, and so does a panic.
pub(super) fn guard(body: impl FnOnce() -> Result<(), XhError>) -> *mut XhError {
    let error = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return std::ptr::null_mut(),
        Ok(Err(error)) => error,
        Err(_) => XhError::new("XmtpHistoryError", "internal error: please report what you did"),
    };
    Box::into_raw(Box::new(error))
}

/// Turns an error into JSON and frees it.
///
/// # Safety
/// `error` came from this library, is not null, and is given back once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_error_take(error: *mut XhError) -> XhBuffer {
    // SAFETY: made by `guard` from a box, given back once.
    let error = unsafe { Box::from_raw(error) };
    serde_json::to_vec(&*error).unwrap_or_default().into()
}
