//! Reading an archive that is pushed in piece by piece (spec 1.5, 1.7).
//!
//! Elements are opened where they were inflated. Only one that is longer than the buffer is gathered elsewhere, in
//! memory that grows with the data that really arrived, not with the length it announces.

use super::frame::Inflater;
use super::inflated::{BUFFER_BYTES, Inflated};
use super::nonce::Nonce;
use super::{Error, ErrorKind, Limits};
use crate::crypto::{ArchiveKey, Cipher, TAG_BYTES};
use crate::wire::{self, Element, Metadata};

/// Bytes of an element's length (spec 1.1).
const PREFIX_BYTES: usize = 4;
/// Memory kept for the next element that is longer than the buffer.
const KEPT_BYTES: usize = 1 << 20;

/// One element, opened and decoded.
#[derive(Debug)]
pub struct Opened<'a> {
    /// Number of the element, the metadata being 0.
    pub index: u64,
    /// Position of its length prefix in the inflated stream, in bytes.
    pub offset: u64,
    /// The decrypted bytes.
    pub plaintext: &'a [u8],
    /// What they say.
    pub element: Element<'a>,
    /// Raw fields of unknown number in the element itself; those of records are in the record.
    pub unknown: Vec<u8>,
}

/// What a whole archive turned out to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// All elements, metadata and empty ones included.
    pub elements: u64,
    /// Size of the archive.
    pub archive_bytes: u64,
    /// Size of its inflated frame.
    pub inflated_bytes: u64,
    /// Size of all decrypted elements together.
    pub plaintext_bytes: u64,
    /// Sealed with one constant nonce, as writers before November 2025 did: export it again (spec 1.5).
    pub legacy: bool,
    /// Elements of zero bytes.
    pub empty_elements: u64,
    /// Elements of a kind that this version does not know.
    pub unknown_elements: u64,
    /// Deprecated event elements.
    pub events: u64,
    /// Metadata elements after the first.
    pub extra_metadata: u64,
    /// Elements with fields that this version does not know, at any level but map entries.
    pub with_unknown_fields: u64,
}

/// Why a push ended early: the archive, or the receiver of its elements.
enum Stop<E> {
    Archive(Error),
    Sink(E),
}

impl<E> From<Error> for Stop<E> {
    fn from(error: Error) -> Self {
        Self::Archive(error)
    }
}

/// Reads one archive. Push its bytes in order, in pieces of any size, then call [`finish`](Self::finish).
///
/// **Until `finish` has returned a summary nothing is certain**: a cut archive gives its first elements like a whole
/// one. After an error every later call fails too.
pub struct Reader {
    inflater: Inflater,
    inflated: Inflated,
    /// An element longer than the buffer, prefix excluded, and its sealed length; 0 while there is none.
    large: Vec<u8>,
    large_length: usize,
    opener: Opener,
    max_element_bytes: u32,
    failed: Option<Error>,
}

impl Reader {
    /// Prepares to read an archive that was sealed with `key`.
    #[must_use]
    pub fn new(key: &ArchiveKey, limits: Limits) -> Self {
        Self {
            inflater: Inflater::new(limits),
            inflated: Inflated::new(),
            large: Vec::new(),
            large_length: 0,
            opener: Opener::new(Cipher::new(key)),
            max_element_bytes: limits.max_element_bytes,
            failed: None,
        }
    }

    /// Takes the next piece of the archive and hands every element it completes to `sink`, the metadata included.
    ///
    /// # Errors
    /// Whatever `sink` returns, and [`Error`] for an archive that breaks the rules of spec 1.8. How the archive is cut
    /// into pieces changes neither the elements nor the error.
    pub fn push<E: From<Error>>(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(Opened<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(error) = &self.failed {
            return Err(error.clone().into());
        }
        // Stands until this call succeeds, so a sink that panics leaves a reader that refuses to go on.
        self.failed = Some(Error::whole(ErrorKind::Aborted));
        match self.advance(&mut input, &mut sink) {
            Ok(()) => {
                self.failed = None;
                Ok(())
            }
            Err(Stop::Archive(error)) => {
                self.failed = Some(error.clone());
                Err(error.into())
            }
            Err(Stop::Sink(error)) => Err(error),
        }
    }

    /// Declares the end of the input and returns what it held.
    ///
    /// # Errors
    /// [`Error`] when the archive is not complete, or when an earlier call failed.
    pub fn finish(&mut self) -> Result<Summary, Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Err(error) = self.inflater.finish() {
            self.failed = Some(error.clone());
            return Err(error);
        }
        Ok(Summary {
            archive_bytes: self.inflater.consumed(),
            inflated_bytes: self.opener.offset,
            legacy: self.legacy(),
            ..self.opener.summary
        })
    }

    /// The archive's metadata, once element 0 was read.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.opener.metadata.as_ref()
    }

    /// Whether the archive reuses one nonce (spec 1.5); known once element 1 was read.
    #[must_use]
    pub fn legacy(&self) -> bool {
        self.opener.legacy
    }

    fn advance<E>(
        &mut self,
        input: &mut &[u8],
        sink: &mut impl FnMut(Opened<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        loop {
            let was_complete = self.inflater.ended();
            let room = self.inflated.room();
            let room_bytes = room.len();
            let written = self.inflater.step(input, room)?;
            self.inflated.filled(written);
            self.open_whole_elements(sink)?;
            if self.inflater.ended() && !was_complete {
                self.check_frame_end()?;
            }
            if input.is_empty() && written < room_bytes {
                return Ok(());
            }
        }
    }

    fn open_whole_elements<E>(&mut self, sink: &mut impl FnMut(Opened<'_>) -> Result<(), E>) -> Result<(), Stop<E>> {
        loop {
            if self.large_length > 0 && !self.gather_large(sink)? {
                return Ok(());
            }
            let data = self.inflated.data();
            let Some((&prefix, sealed)) = data.split_first_chunk::<PREFIX_BYTES>() else {
                return Ok(());
            };
            let length = self.check_length(u32::from_le_bytes(prefix))?;
            if sealed.len() >= length {
                self.inflated.take(PREFIX_BYTES);
                let sealed = self.inflated.take(length);
                self.opener.open(self.inflater.nonce(), sealed, sink)?;
            } else if PREFIX_BYTES + length > BUFFER_BYTES {
                self.inflated.take(PREFIX_BYTES);
                self.large_length = length;
            } else {
                return Ok(());
            }
        }
    }

    fn check_length(&self, announced: u32) -> Result<usize, Error> {
        let limit = self.max_element_bytes;
        let kind = if usize::try_from(announced).is_ok_and(|length| length < TAG_BYTES) {
            ErrorKind::BadElementLength(announced)
        } else if announced > limit {
            ErrorKind::ElementTooLarge { announced: announced.into(), limit }
        } else {
            return Ok(announced as usize);
        };
        Err(self.opener.error(kind))
    }

    /// Moves data into the large element; opens it and returns true when it is complete.
    fn gather_large<E>(&mut self, sink: &mut impl FnMut(Opened<'_>) -> Result<(), E>) -> Result<bool, Stop<E>> {
        let arrived = self.inflated.take(self.large_length - self.large.len());
        let needed = self.large.len() + arrived.len();
        if needed > self.large.capacity() {
            // Doubles like a vector would, but never beyond the element.
            let target = needed.max(2 * self.large.capacity()).min(self.large_length);
            self.large.reserve_exact(target - self.large.len());
        }
        self.large.extend_from_slice(arrived);
        if self.large.len() < self.large_length {
            return Ok(false);
        }
        self.opener.open(self.inflater.nonce(), &mut self.large, sink)?;
        self.large.clear();
        self.large.shrink_to(KEPT_BYTES);
        self.large_length = 0;
        Ok(true)
    }

    fn check_frame_end(&self) -> Result<(), Error> {
        if self.large_length > 0 || !self.inflated.data().is_empty() {
            return Err(self.opener.error(ErrorKind::TruncatedElement));
        }
        if self.opener.metadata.is_none() {
            return Err(self.opener.error(ErrorKind::MissingMetadata));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reader").field("element", &self.opener.index).finish_non_exhaustive()
    }
}

/// Opens elements in order and keeps count of them.
struct Opener {
    cipher: Cipher,
    /// The nonce of the current element.
    nonce: Nonce,
    legacy: bool,
    index: u64,
    offset: u64,
    metadata: Option<Metadata>,
    summary: Summary,
}

impl Opener {
    fn new(cipher: Cipher) -> Self {
        Self {
            cipher,
            nonce: Nonce::new([0; 12]),
            legacy: false,
            index: 0,
            offset: 0,
            metadata: None,
            summary: Summary::default(),
        }
    }

    /// A failure in the current element.
    fn error(&self, kind: impl Into<ErrorKind>) -> Error {
        Error::element(kind, self.index, self.offset)
    }

    fn open<E>(
        &mut self,
        start_nonce: [u8; 12],
        sealed: &mut [u8],
        sink: &mut impl FnMut(Opened<'_>) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        let sealed_length = sealed.len();
        let plaintext = self.decrypt(Nonce::new(start_nonce), sealed)?;
        let (element, unknown) = wire::decode_element(plaintext).map_err(|error| self.error(error))?;
        self.count(&element, plaintext.len(), !unknown.is_empty())?;

        let (index, offset) = (self.index, self.offset);
        self.index += 1;
        self.offset += (PREFIX_BYTES + sealed_length) as u64;
        sink(Opened { index, offset, plaintext, element, unknown }).map_err(Stop::Sink)
    }

    /// Decrypts by the rule of spec 1.5: element 1 decides whether the nonce counts or stands still.
    fn decrypt<'a>(&mut self, start: Nonce, sealed: &'a mut [u8]) -> Result<&'a [u8], Error> {
        match self.index {
            0 => {
                self.nonce = start;
                let opened = self.cipher.open(start.bytes(), sealed);
                return opened.map_err(|_| self.error(ErrorKind::WrongKeyOrCorrupt));
            }
            1 => {
                // A failed attempt may destroy what it tried to open.
                let mut copy = sealed.to_vec();
                if self.cipher.open(start.next().bytes(), &mut copy).is_err() {
                    self.legacy = true;
                }
            }
            _ => {}
        }
        if !self.legacy {
            self.nonce = self.nonce.next();
        }
        let opened = self.cipher.open(self.nonce.bytes(), sealed);
        if opened.is_err() && self.index == 1 {
            self.legacy = false;
        }
        opened.map_err(|_| self.error(ErrorKind::AuthFailed))
    }

    fn count(&mut self, element: &Element<'_>, plaintext_bytes: usize, unknown_fields: bool) -> Result<(), Error> {
        match (element, &self.metadata) {
            (Element::Metadata(metadata), None) => self.metadata = Some(metadata.clone()),
            (_, None) => return Err(self.error(ErrorKind::MissingMetadata)),
            (Element::Metadata(_), Some(_)) => self.summary.extra_metadata += 1,
            (Element::Event(_), _) => self.summary.events += 1,
            (Element::Empty, _) => self.summary.empty_elements += 1,
            (Element::Unknown, _) => self.summary.unknown_elements += 1,
            (Element::Group(_) | Element::Message(_) | Element::Consent(_), _) => {}
        }
        self.summary.elements += 1;
        self.summary.plaintext_bytes += plaintext_bytes as u64;
        self.summary.with_unknown_fields += u64::from(unknown_fields || element.has_unknown_fields());
        Ok(())
    }
}
