//! Everything that bytes flow through: one handle and one set of functions for reading, verifying, rewriting, importing and
//! exporting archives.
//!
//! Input is pushed in and says how much of it was taken; output is taken out as archive bytes or as batches of records.
//! A stream that failed or finished has given up what it held, so a failed import is already undone when its error arrives.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::buffer::XhBuffer;
use super::bytes;
use super::error::{XhError, guard, rows_of};
use super::rows::{Batch, archived_conversation, archived_message};
use super::store::XhStore;
use crate::archive::{self, Limits, Reader, Rewriter, Summary};
use crate::crypto::ArchiveKey;
use crate::store::{
    ArchiveReport, Counts, ExportOptions, Exporter, ImportOptions, ImportReport, Importer, Section, Tally,
};
use crate::wire::{Element, Metadata};

/// Input handled between two looks at how much output has gathered. An archive can inflate by a factor of 30,000, so this
/// bounds what a push may produce.
const PIECE_BYTES: usize = 1024;
/// Output gathered before a push ends.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// A stream of archive bytes.
pub struct XhStream(Mutex<Option<Box<dyn Stream>>>);

/// What the handle does; a stream supports what its kind needs.
trait Stream: Send {
    /// Takes input; returns how many bytes.
    fn push(&mut self, _input: &[u8]) -> Result<usize, XhError> {
        Err(unsupported())
    }

    /// Fills `out` with archive bytes; returns how many.
    fn read(&mut self, _out: &mut [u8]) -> Result<usize, XhError> {
        Err(unsupported())
    }

    /// Takes the records gathered: JSON and blob.
    fn take(&mut self) -> Result<(Vec<u8>, Vec<u8>), XhError> {
        Err(unsupported())
    }

    /// The archive's metadata and whether it is a legacy one, as JSON; null as long as they were not met.
    fn head(&self) -> Value {
        Value::Null
    }

    /// Records handled so far.
    fn records(&self) -> u64;

    /// Ends the stream; the report is JSON.
    fn finish(self: Box<Self>) -> Result<Vec<u8>, XhError>;
}

fn unsupported() -> XhError {
    XhError::new("ValueError", "this stream does not go that way")
}

struct Records {
    reader: Reader,
    batch: Batch,
    elements: u64,
    records: u64,
}

impl Stream for Records {
    fn push(&mut self, input: &[u8]) -> Result<usize, XhError> {
        let mut taken = 0;
        for piece in input.chunks(PIECE_BYTES) {
            let Self { reader, batch, elements, records } = self;
            reader.push(piece, |opened| {
                *elements += 1;
                *records += 1;
                match opened.element {
                    Element::Group(group) => batch.conversation(&archived_conversation(group)),
                    Element::Message(message) => batch.message(&archived_message(message)),
                    Element::Consent(consent) => batch.consent(&consent),
                    _ => *records -= 1,
                }
                Ok::<_, archive::Error>(())
            })?;
            taken += piece.len();
            if self.batch.len() >= OUTPUT_BYTES {
                break;
            }
        }
        Ok(taken)
    }

    fn take(&mut self) -> Result<(Vec<u8>, Vec<u8>), XhError> {
        Ok(self.batch.take())
    }

    fn head(&self) -> Value {
        let Some(metadata) = self.reader.metadata() else { return Value::Null };
        let legacy = (self.elements > 1).then(|| self.reader.legacy());
        json!([metadata_json(metadata), legacy])
    }

    fn records(&self) -> u64 {
        self.records
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<u8>, XhError> {
        let summary = self.reader.finish()?;
        Ok(json!({ "legacy": summary.legacy }).to_string().into_bytes())
    }
}

/// Reads an archive to its end and says what it holds.
struct Verify {
    reader: Reader,
    tally: Tally,
}

impl Stream for Verify {
    fn push(&mut self, input: &[u8]) -> Result<usize, XhError> {
        let tally = &mut self.tally;
        self.reader.push(input, |opened| {
            tally.note(&opened);
            Ok::<_, archive::Error>(())
        })?;
        Ok(input.len())
    }

    fn records(&self) -> u64 {
        self.tally.records()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<u8>, XhError> {
        let summary = self.reader.finish()?;
        let metadata = self.reader.metadata().cloned().unwrap_or_default();
        Ok(archive_report_json(&self.tally.finish(&metadata, &summary)))
    }
}

/// Reads one archive and writes its elements into another. An empty push is the end of the input.
struct Rewrite {
    rewriter: Rewriter,
    tally: Tally,
    summary: Option<Summary>,
}

impl Stream for Rewrite {
    fn push(&mut self, input: &[u8]) -> Result<usize, XhError> {
        if input.is_empty() {
            self.summary = Some(self.rewriter.finish()?);
        }
        let mut taken = 0;
        for piece in input.chunks(PIECE_BYTES) {
            let tally = &mut self.tally;
            self.rewriter.push(piece, |opened| tally.note(opened))?;
            taken += piece.len();
            if self.rewriter.output().len() >= OUTPUT_BYTES {
                break;
            }
        }
        Ok(taken)
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, XhError> {
        let ready = self.rewriter.output();
        let length = ready.len().min(out.len());
        if let (Some(target), Some(source)) = (out.get_mut(..length), ready.get(..length)) {
            target.copy_from_slice(source);
        }
        ready.drain(..length);
        Ok(length)
    }

    fn records(&self) -> u64 {
        self.tally.records()
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>, XhError> {
        let summary = self.summary.ok_or_else(|| XhError::new("ValueError", "the input has not ended yet"))?;
        let metadata = self.rewriter.metadata().cloned().unwrap_or_default();
        Ok(archive_report_json(&self.tally.finish(&metadata, &summary)))
    }
}

impl Stream for Importer {
    fn push(&mut self, input: &[u8]) -> Result<usize, XhError> {
        Self::push(self, input)?;
        Ok(input.len())
    }

    fn records(&self) -> u64 {
        Self::records(self)
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>, XhError> {
        Ok(report_json(&Self::finish(*self)?))
    }
}

impl Stream for Exporter {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, XhError> {
        Ok(Self::read(self, out)?)
    }

    fn records(&self) -> u64 {
        Self::records(self)
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>, XhError> {
        Ok(archive_report_json(self.report()))
    }
}

fn counts_json(counts: Counts) -> Value {
    json!([counts.conversations, counts.messages, counts.consents])
}

fn metadata_json(metadata: &Metadata) -> Value {
    json!([archive::VERSION, metadata.elements, metadata.exported_at_ns, metadata.start_ns, metadata.end_ns])
}

fn archive_report_json(report: &ArchiveReport) -> Vec<u8> {
    json!({
        "metadata": metadata_json(&report.metadata),
        "counts": counts_json(report.counts),
        "elements": report.elements,
        "archive_bytes": report.archive_bytes,
        "plaintext_bytes": report.plaintext_bytes,
        "first_sent_at_ns": report.first_sent_at_ns,
        "last_sent_at_ns": report.last_sent_at_ns,
        "legacy": report.legacy,
        "unknown_elements": report.unknown_elements,
        "invalid_records": rows_of(&report.invalid),
    })
    .to_string()
    .into_bytes()
}

/// An import report as JSON, for Python's `ImportReport`.
pub(super) fn report_json(report: &ImportReport) -> Vec<u8> {
    json!({
        "new": counts_json(report.new),
        "duplicate": counts_json(report.duplicate),
        "updated": counts_json(report.updated),
        "skipped": counts_json(report.skipped),
        "expired": report.expired,
        "invalid_records": rows_of(&report.invalid),
        "orphans": report.orphans,
        "foreign_dms": report.foreign_dms,
        "unknown_elements": report.unknown_elements,
        "legacy": report.legacy,
        "metadata": report.metadata.as_ref().map(metadata_json),
    })
    .to_string()
    .into_bytes()
}

/// What to open, as JSON.
#[derive(Deserialize)]
#[serde(tag = "stream", rename_all = "snake_case")]
enum Request {
    Records {
        max_element_bytes: u32,
    },
    Verify,
    Rewrite,
    Import {
        lenient: bool,
        inbox_id: Option<String>,
    },
    Export {
        elements: Vec<i32>,
        start_ns: Option<i64>,
        end_ns: Option<i64>,
        exclude_disappearing_messages: bool,
        include_context_groups: bool,
    },
}

fn open(request: Request, store: Option<&XhStore>, key: &[u8], target_key: &[u8]) -> Result<Box<dyn Stream>, XhError> {
    let key = ArchiveKey::new(key)?;
    let limits = Limits::default();
    let store = || store.ok_or_else(|| XhError::new("ValueError", "this stream needs a store")).and_then(XhStore::get);
    Ok(match request {
        Request::Records { max_element_bytes } => Box::new(Records {
            reader: Reader::new(&key, Limits { max_element_bytes, ..limits }),
            batch: Batch::default(),
            elements: 0,
            records: 0,
        }),
        Request::Verify => Box::new(Verify { reader: Reader::new(&key, limits), tally: Tally::default() }),
        Request::Rewrite => Box::new(Rewrite {
            rewriter: Rewriter::new(&key, &ArchiveKey::new(target_key)?, limits)?,
            tally: Tally::default(),
            summary: None,
        }),
        Request::Import { lenient, inbox_id } => {
            Box::new(store()?.import(&key, ImportOptions { lenient, inbox_id, limits })?)
        }
        Request::Export { elements, start_ns, end_ns, exclude_disappearing_messages, include_context_groups } => {
            let options = ExportOptions {
                sections: elements.into_iter().map(section).collect::<Result<_, _>>()?,
                start_ns,
                end_ns,
                exclude_disappearing_messages,
                include_context_groups,
            };
            Box::new(store()?.export(&key, options)?)
        }
    })
}

fn section(number: i32) -> Result<Section, XhError> {
    match number {
        1 => Ok(Section::Messages),
        2 => Ok(Section::Consent),
        _ => Err(XhError::new("ValueError", format!("{number} is not a section of an archive"))),
    }
}

impl XhStream {
    /// Runs `body` on the stream; an error ends it.
    fn with<T>(&self, body: impl FnOnce(&mut dyn Stream) -> Result<T, XhError>) -> Result<T, XhError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out while it works, so that a panic ends it too.
        let mut stream = slot.take().ok_or_else(XhError::closed)?;
        let result = body(&mut *stream)?;
        *slot = Some(stream);
        Ok(result)
    }
}

/// Opens a stream: what kind it is, and its options, are in `request` (JSON). `store` is null where none is needed, and
/// `target_key` empty.
///
/// # Safety
/// `store` is null or open; the other pointers are valid for their lengths, and `out` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_open(
    request: *const u8,
    request_length: usize,
    store: *const XhStore,
    key: *const u8,
    key_length: usize,
    target_key: *const u8,
    target_key_length: usize,
    out: *mut *mut XhStream,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (request, store, key, target_key) = unsafe {
            (
                bytes(request, request_length),
                store.as_ref(),
                bytes(key, key_length),
                bytes(target_key, target_key_length),
            )
        };
        let request = serde_json::from_slice(request).map_err(|error| XhError::new("ValueError", error.to_string()))?;
        let stream = XhStream(Mutex::new(Some(open(request, store, key, target_key)?)));
        // SAFETY: promised by the caller.
        unsafe { *out = Box::into_raw(Box::new(stream)) };
        Ok(())
    })
}

/// Pushes input; `taken` gets how many bytes were used. What is left is to be pushed again, once the output gathered was
/// taken.
///
/// # Safety
/// `stream` is open, `input` valid for its length, and `taken` for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_push(
    stream: *const XhStream,
    input: *const u8,
    input_length: usize,
    taken: *mut usize,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (stream, input) = unsafe { (&*stream, bytes(input, input_length)) };
        let count = stream.with(|stream| stream.push(input))?;
        // SAFETY: promised by the caller.
        unsafe { *taken = count };
        Ok(())
    })
}

/// Fills `out` with archive bytes; `filled` gets how many. 0 is the end of an export.
///
/// # Safety
/// `stream` is open, `out` valid for writes of `out_length` bytes that nobody else looks at meanwhile, and `filled` for a
/// write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_read(
    stream: *const XhStream,
    out: *mut u8,
    out_length: usize,
    filled: *mut usize,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller; Python hands over the bytes of a bytearray, which are initialised.
        let (stream, out) = unsafe { (&*stream, std::slice::from_raw_parts_mut(out, out_length)) };
        let count = stream.with(|stream| stream.read(out))?;
        // SAFETY: promised by the caller.
        unsafe { *filled = count };
        Ok(())
    })
}

/// Takes the batch of records gathered.
///
/// # Safety
/// `stream` is open, and the out-pointers are valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_take(
    stream: *const XhStream,
    json: *mut XhBuffer,
    blob: *mut XhBuffer,
) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let (rows, content) = unsafe { &*stream }.with(|stream| stream.take())?;
        // SAFETY: promised by the caller.
        unsafe {
            *json = rows.into();
            *blob = content.into();
        }
        Ok(())
    })
}

/// The metadata of the archive being read and whether it is a legacy one, as JSON; null while they were not met.
///
/// # Safety
/// `stream` is open, and `out` valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_head(stream: *const XhStream, out: *mut XhBuffer) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let head = unsafe { &*stream }.with(|stream| Ok(stream.head()))?;
        // SAFETY: promised by the caller.
        unsafe { *out = head.to_string().into_bytes().into() };
        Ok(())
    })
}

/// How many records the stream has handled; 0 after its end.
///
/// # Safety
/// `stream` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_records(stream: *const XhStream) -> u64 {
    // SAFETY: promised by the caller.
    unsafe { &*stream }.with(|stream| Ok(stream.records())).unwrap_or(0)
}

/// Ends the stream: commits an import, completes a verification. `out` gets the report as JSON.
///
/// # Safety
/// `stream` is open, and `out` valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_finish(stream: *const XhStream, out: *mut XhBuffer) -> *mut XhError {
    guard(|| {
        // SAFETY: promised by the caller.
        let stream = unsafe { &*stream };
        let stream = stream.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(XhError::closed)?;
        let report = stream.finish()?;
        // SAFETY: promised by the caller.
        unsafe { *out = report.into() };
        Ok(())
    })
}

/// Closes a stream, after a call that still uses it: an import that was not finished is undone. Later calls fail.
///
/// # Safety
/// `stream` came from [`xh_stream_open`] and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_close(stream: *const XhStream) {
    // SAFETY: promised by the caller.
    let stream = unsafe { &*stream };
    let closed =
        catch_unwind(AssertUnwindSafe(|| drop(stream.0.lock().unwrap_or_else(PoisonError::into_inner).take())));
    debug_assert!(closed.is_ok(), "dropping a stream does not panic");
}

/// Frees a stream, closing it first.
///
/// # Safety
/// `stream` came from [`xh_stream_open`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xh_stream_free(stream: *mut XhStream) {
    // SAFETY: promised by the caller.
    drop(unsafe { Box::from_raw(stream) });
}
