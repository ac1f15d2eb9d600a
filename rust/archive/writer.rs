//! Writing an archive (spec 1.1 to 1.4, 6.2): elements are encoded, sealed and framed in one buffer.
//!
//! Ciphertext does not compress, so the frame is written here, as raw blocks: any zstd reader takes it, and it costs
//! one copy where the least effort of libzstd costs several times that.

use super::frame::{DESCRIPTOR, MAGIC, MAX_BLOCK_BYTES, raw_block_header};
use super::nonce::Nonce;
use super::{Error, ErrorKind, Limits, VERSION};
use crate::crypto::{self, ArchiveKey, Cipher, NONCE_BYTES, TAG_BYTES};

/// Bytes of an element's length (spec 1.1).
const PREFIX_BYTES: usize = 4;
/// Bytes of an element without plaintext.
const EMPTY_BYTES: usize = PREFIX_BYTES + TAG_BYTES;
/// Length prefix of such an element: the tag alone.
const EMPTY_PREFIX: [u8; PREFIX_BYTES] = 16_u32.to_le_bytes();
/// How far the reference reads ahead for each element, on the safe side (spec 6.2, G).
const READ_AHEAD: i64 = 512;
/// Elements gathered before they are cut into blocks.
const BATCH_BYTES: usize = 64 << 10;
/// Memory kept for the next batch after a large element.
const KEPT_BYTES: usize = 1 << 20;

/// Writes one archive.
///
/// Call [`write`](Self::write) for every element, the metadata first, and drain [`output`](Self::output) in between.
/// **Without [`finish`](Self::finish) the archive is incomplete**, and every reader will say so: that is how an export
/// that failed halfway shows.
pub struct Writer {
    cipher: Cipher,
    /// The nonce of the next element.
    nonce: Nonce,
    elements: u64,
    max_element_bytes: u32,
    /// Bytes the reference has read beyond the elements written so far (spec 6.2).
    credit: i64,
    /// Sealed elements not yet in a block.
    batch: Vec<u8>,
    output: Vec<u8>,
    state: State,
}

#[derive(Debug)]
enum State {
    Open,
    Finished,
    Failed(Error),
}

impl Writer {
    /// Starts an archive under a random nonce.
    ///
    /// # Errors
    /// `NoRandomness` when the operating system gives none.
    pub fn new(key: &ArchiveKey) -> Result<Self, Error> {
        let nonce = crypto::random_bytes().map_err(|_| Error::whole(ErrorKind::NoRandomness))?;
        Ok(Self::with_nonce(key, nonce))
    }

    /// Starts an archive under a chosen nonce. Only for tests: a nonce used twice with one key gives content away.
    #[must_use]
    pub fn with_nonce(key: &ArchiveKey, nonce: [u8; NONCE_BYTES]) -> Self {
        let mut output = Vec::with_capacity(2 * MAX_BLOCK_BYTES);
        output.extend_from_slice(&VERSION.to_le_bytes());
        output.extend_from_slice(&nonce);
        output.extend_from_slice(&MAGIC);
        output.extend_from_slice(&DESCRIPTOR);
        Self {
            cipher: Cipher::new(key),
            nonce: Nonce::new(nonce),
            elements: 0,
            max_element_bytes: Limits::default().max_element_bytes,
            credit: 0,
            batch: Vec::with_capacity(2 * BATCH_BYTES),
            output,
            state: State::Open,
        }
    }

    /// Changes the largest sealed element, by default that of [`Limits`], so that our own readers take every archive.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.max_element_bytes = limits.max_element_bytes;
        self
    }

    /// Appends the element that `encode` writes at the end of the buffer it is given.
    ///
    /// `encode` must only append. Filler elements are put in front where the reference needs them (spec 6.2).
    ///
    /// # Errors
    /// `ElementTooLarge` for an element above the limit, `AlreadyFinished` after `finish`. A writer that failed stays
    /// failed, so its archive never becomes complete.
    ///
    /// # Panics
    /// If `encode` shortens the buffer.
    pub fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Error> {
        self.check_open()?;
        let prefix_start = self.batch.len();
        self.batch.extend_from_slice(&[0; PREFIX_BYTES]);
        let plaintext_start = self.batch.len();
        encode(&mut self.batch);
        let plaintext_bytes = self.batch.len().saturating_sub(plaintext_start);

        let sealed_bytes = plaintext_bytes + TAG_BYTES;
        let length = match u32::try_from(sealed_bytes) {
            Ok(length) if length <= self.max_element_bytes => length,
            _ => return Err(self.fail(sealed_bytes)),
        };
        let filler = self.filler_bytes(PREFIX_BYTES + sealed_bytes);
        if filler > 0 {
            self.insert_filler(prefix_start, filler);
        }
        let prefix_start = prefix_start + filler;
        if let Some(prefix) = self.batch.get_mut(prefix_start..prefix_start + PREFIX_BYTES) {
            prefix.copy_from_slice(&length.to_le_bytes());
        }
        let nonce = self.take_nonce();
        self.cipher.seal(nonce, &mut self.batch, prefix_start + PREFIX_BYTES);
        self.elements += 1;
        if self.batch.len() >= BATCH_BYTES {
            self.write_blocks(false);
        }
        Ok(())
    }

    /// The finished bytes, for the caller to take out (`clear`, `drain`, `std::mem::take`).
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Ends the frame; the last bytes are then in [`output`](Self::output).
    ///
    /// # Errors
    /// `MissingMetadata` if nothing was written, `AlreadyFinished` the second time, and any earlier failure.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.check_open()?;
        if self.elements == 0 {
            let error = Error::whole(ErrorKind::MissingMetadata);
            self.state = State::Failed(error.clone());
            return Err(error);
        }
        self.write_blocks(true);
        self.state = State::Finished;
        Ok(())
    }

    fn check_open(&self) -> Result<(), Error> {
        match &self.state {
            State::Open => Ok(()),
            State::Finished => Err(Error::whole(ErrorKind::AlreadyFinished)),
            State::Failed(error) => Err(error.clone()),
        }
    }

    fn fail(&mut self, sealed_bytes: usize) -> Error {
        let limit = self.max_element_bytes;
        let kind = ErrorKind::ElementTooLarge { announced: sealed_bytes as u64, limit };
        let error = Error { kind, element: Some(self.elements), offset: None };
        self.batch = Vec::new();
        self.state = State::Failed(error.clone());
        error
    }

    fn take_nonce(&mut self) -> [u8; NONCE_BYTES] {
        let nonce = self.nonce;
        self.nonce = nonce.next();
        nonce.bytes()
    }

    /// How many bytes of empty elements must come before an element of this size (spec 6.2).
    ///
    /// The reference hangs when an element is not yet in its read-ahead. Every element, however small, makes it read
    /// ahead once more, so small ones in front of a large one gain the credit that the large one uses up.
    fn filler_bytes(&mut self, element_bytes: usize) -> usize {
        let cost = i64::try_from(element_bytes).unwrap_or(i64::MAX);
        let mut filler = 0;
        if self.elements > 0 {
            let gain = READ_AHEAD - const { EMPTY_BYTES as i64 };
            let count = (cost - READ_AHEAD - self.credit + gain - 1).div_euclid(gain).max(0);
            self.credit += count * gain;
            filler = usize::try_from(count).unwrap_or(0) * EMPTY_BYTES;
        }
        self.credit += READ_AHEAD - cost;
        filler
    }

    /// Moves what was just encoded back by `filler` bytes and puts sealed empty elements in the gap.
    fn insert_filler(&mut self, at: usize, filler: usize) {
        let end = self.batch.len();
        self.batch.resize(end + filler, 0);
        self.batch.copy_within(at..end, at + filler);
        for offset in (at..at + filler).step_by(EMPTY_BYTES) {
            let nonce = self.take_nonce();
            let tag = self.cipher.seal_detached(nonce, &mut []);
            if let Some((prefix, rest)) = self.batch.get_mut(offset..).and_then(<[u8]>::split_first_chunk_mut) {
                *prefix = EMPTY_PREFIX;
                if let Some(target) = rest.first_chunk_mut() {
                    *target = tag;
                }
            }
            self.elements += 1;
        }
    }

    /// Puts the batch into raw blocks; a last block may be empty.
    fn write_blocks(&mut self, last: bool) {
        let mut rest = self.batch.as_slice();
        self.output.reserve(rest.len() + 3 * (rest.len() / MAX_BLOCK_BYTES + 1));
        loop {
            let (block, later) = rest.split_at_checked(MAX_BLOCK_BYTES).unwrap_or((rest, &[]));
            rest = later;
            if block.is_empty() && !last {
                break;
            }
            self.output.extend_from_slice(&raw_block_header(block.len(), last && rest.is_empty()));
            self.output.extend_from_slice(block);
            if rest.is_empty() {
                break;
            }
        }
        self.batch.clear();
        self.batch.shrink_to(KEPT_BYTES);
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { elements, state, .. } = self;
        formatter.debug_struct("Writer").field("elements", elements).field("state", state).finish_non_exhaustive()
    }
}
