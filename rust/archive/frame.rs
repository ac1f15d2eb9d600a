//! The outside of an archive: the 14-byte header and the zstd frame, inflated block by block (spec 1.1, 1.4).
//!
//! The frame's structure is walked here, and libzstd is fed one header or block at a time. That makes the end of the
//! frame exact, shows skippable frames and oversized windows for what they are, and keeps results independent of how
//! the input is cut: otherwise an error in one block would swallow the good blocks that came in the same piece.

use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::{Error, ErrorKind, HEADER_BYTES, Limits, VERSION, ZstdProblem};
use crate::crypto::NONCE_BYTES;

/// The first bytes of a zstd frame (RFC 8878, 3.1.1).
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frame descriptor and window of a frame of ours: no size, no checksum, no dictionary, a window of 2 MiB.
pub(super) const DESCRIPTOR: [u8; 2] = [0x00, 0x58];
/// The most a block may hold (RFC 8878, 3.1.1.2).
pub(super) const MAX_BLOCK_BYTES: usize = 128 << 10;

const BLOCK_HEADER_BYTES: usize = 3;
/// The kinds of block whose content is not compressed: as it is, and one byte to be repeated.
const RAW_BLOCK: u32 = 0;
const RUN_BLOCK: u32 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Header, magic, descriptor, window 1, dictionary id 4, content size 8.
const MAX_PREAMBLE_BYTES: usize = HEADER_BYTES + 18;
const MAGIC_END: usize = HEADER_BYTES + MAGIC.len();
/// Versions up to here are believed to be versions even when no zstd frame follows.
const PLAUSIBLE_VERSION: u16 = 15;
/// The window exponents libzstd can be asked for.
const WINDOW_LOGS: std::ops::RangeInclusive<u32> = 10..=31;

/// A block header as it stands in front of a raw block (RFC 8878, 3.1.1.2).
pub(super) fn raw_block_header(length: usize, last: bool) -> [u8; BLOCK_HEADER_BYTES] {
    let [low, middle, high, ..] = ((length << 3) | usize::from(last)).to_le_bytes();
    [low, middle, high]
}

enum Stage {
    /// Gathering the header and the frame's header.
    Preamble,
    BlockHeader,
    /// Feeding a block's content, of which `left` bytes are still to come; then flushing it.
    ///
    /// A raw block's content comes out as it goes in, yet what goes in together with a fault does not come out. Only
    /// the end of the frame can be at fault there, so the last byte of the last raw block goes in alone.
    Block {
        left: usize,
        last: bool,
        raw: bool,
    },
    Checksum {
        left: usize,
    },
    End,
}

/// Turns an archive's bytes into the inflated stream of elements.
pub(super) struct Inflater {
    decoder: Decoder<'static>,
    limits: Limits,
    stage: Stage,
    /// A header that may arrive in pieces, and how much of it is there.
    gathered: [u8; MAX_PREAMBLE_BYTES],
    have: usize,
    nonce: [u8; NONCE_BYTES],
    has_checksum: bool,
    /// Bytes of the archive consumed, and how many of them lie before the current header or block.
    consumed: u64,
    stage_start: u64,
}

impl Inflater {
    pub(super) fn new(limits: Limits) -> Self {
        let mut decoder = Decoder::new().expect("a new context takes the empty dictionary");
        let window_log = limits.max_window_log.clamp(*WINDOW_LOGS.start(), *WINDOW_LOGS.end());
        decoder.set_parameter(DParameter::WindowLogMax(window_log)).expect("the exponent was clamped to what is valid");
        Self {
            decoder,
            limits,
            stage: Stage::Preamble,
            gathered: [0; MAX_PREAMBLE_BYTES],
            have: 0,
            nonce: [0; NONCE_BYTES],
            has_checksum: false,
            consumed: 0,
            stage_start: 0,
        }
    }

    /// The start nonce, once the frame has begun.
    pub(super) fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.nonce
    }

    /// Bytes of the archive consumed.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether the frame is complete and flushed.
    pub(super) fn ended(&self) -> bool {
        matches!(self.stage, Stage::End)
    }

    /// Consumes input up to the end of one header or block, and returns how much of `output` was filled.
    ///
    /// All is done when the input is empty and the output was not filled to its end.
    pub(super) fn step(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, Error> {
        match self.stage {
            Stage::Preamble => self.step_preamble(input, output).map(|()| 0),
            Stage::BlockHeader => self.step_block_header(input, output).map(|()| 0),
            Stage::Block { left, last, raw } => {
                let most = if raw && last && left > 1 { left - 1 } else { left };
                let (fed, written) = self.step_body(most, input, output)?;
                let left = left - fed;
                self.stage = Stage::Block { left, last, raw };
                if left == 0 && written < output.len() {
                    self.block_done(last);
                }
                Ok(written)
            }
            Stage::Checksum { left } => {
                let (fed, written) = self.step_body(left, input, output)?;
                let left = left - fed;
                self.enter(if left == 0 { Stage::End } else { Stage::Checksum { left } });
                Ok(written)
            }
            Stage::End if input.is_empty() => Ok(0),
            Stage::End => Err(Error::container(ErrorKind::TrailingData, self.consumed)),
        }
    }

    /// Why the input so far is not a whole archive, if it is not.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let truncated = Error::container(ZstdProblem::Truncated, self.consumed);
        match self.stage {
            Stage::End => Ok(()),
            Stage::Preamble if self.have < HEADER_BYTES => Err(Error::whole(ErrorKind::HeaderTruncated)),
            Stage::Preamble if self.have < MAGIC_END => {
                let magic = self.gathered.get(HEADER_BYTES..self.have).unwrap_or_default();
                Err(match self.version() {
                    VERSION if MAGIC.starts_with(magic) => truncated,
                    VERSION => Error::whole(ErrorKind::NotAnArchive),
                    version => Error::whole(ErrorKind::UnsupportedVersion(version)),
                })
            }
            _ => Err(truncated),
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.have = 0;
    }

    fn block_done(&mut self, last: bool) {
        self.stage_start = self.consumed;
        self.enter(match (last, self.has_checksum) {
            (false, _) => Stage::BlockHeader,
            (true, true) => Stage::Checksum { left: CHECKSUM_BYTES },
            (true, false) => Stage::End,
        });
    }

    /// Moves input into `gathered` until it holds `need` bytes; whether it does.
    fn gather(&mut self, need: usize, input: &mut &[u8]) -> bool {
        let target = self.gathered.get_mut(self.have..need).unwrap_or_default();
        let count = target.len().min(input.len());
        let (now, later) = input.split_at(count);
        for (target, &byte) in target.iter_mut().zip(now) {
            *target = byte;
        }
        *input = later;
        self.have += count;
        self.consumed += count as u64;
        self.have >= need
    }

    fn version(&self) -> u16 {
        let [low, high, ..] = self.gathered;
        u16::from_le_bytes([low, high])
    }

    fn step_preamble(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<(), Error> {
        if !self.gather(HEADER_BYTES, input) {
            return Ok(());
        }
        let version = self.version();
        if (VERSION + 1..=PLAUSIBLE_VERSION).contains(&version) {
            return Err(Error::whole(ErrorKind::UnsupportedVersion(version)));
        }
        if !self.gather(MAGIC_END, input) {
            return Ok(());
        }
        if self.gathered.get(HEADER_BYTES..MAGIC_END) != Some(&MAGIC[..]) {
            return Err(Error::whole(ErrorKind::NotAnArchive));
        }
        if version != VERSION {
            return Err(Error::whole(ErrorKind::UnsupportedVersion(version)));
        }
        if !self.gather(MAGIC_END + 1, input) {
            return Ok(());
        }
        let layout = FrameLayout::of(self.gathered.get(MAGIC_END).copied().unwrap_or_default());
        let end = MAGIC_END + 1 + layout.window_bytes + layout.dictionary_bytes + layout.size_bytes;
        if !self.gather(end, input) {
            return Ok(());
        }
        self.stage_start = HEADER_BYTES as u64;
        let fields = self.gathered.get(MAGIC_END + 1..end).unwrap_or_default();
        if layout.window(fields) > 1_u64.checked_shl(self.limits.max_window_log).unwrap_or(u64::MAX) {
            return Err(self.problem(ZstdProblem::WindowTooLarge));
        }
        for (target, &byte) in self.nonce.iter_mut().zip(self.gathered.iter().skip(2)) {
            *target = byte;
        }
        self.has_checksum = layout.has_checksum;
        self.feed_gathered(HEADER_BYTES..end, output)?;
        self.stage_start = self.consumed;
        self.enter(Stage::BlockHeader);
        Ok(())
    }

    fn step_block_header(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<(), Error> {
        if !self.gather(BLOCK_HEADER_BYTES, input) {
            return Ok(());
        }
        self.feed_gathered(0..BLOCK_HEADER_BYTES, output)?;
        let [low, middle, high, ..] = self.gathered;
        let header = u32::from_le_bytes([low, middle, high, 0]);
        let last = header & 1 == 1;
        let kind = header >> 1 & 3;
        let left = if kind == RUN_BLOCK { 1 } else { usize::try_from(header >> 3).unwrap_or(usize::MAX) };
        match left {
            0 => self.block_done(last),
            _ => self.enter(Stage::Block { left, last, raw: kind == RAW_BLOCK }),
        }
        Ok(())
    }

    /// Feeds a header that is complete; a header yields no output.
    fn feed_gathered(&mut self, range: std::ops::Range<usize>, output: &mut [u8]) -> Result<(), Error> {
        let header = self.gathered.get(range).unwrap_or_default();
        let mut input = InBuffer::around(header);
        let mut output = OutBuffer::around(output);
        let fed = self.decoder.run(&mut input, &mut output);
        if fed.is_err() || input.pos() != header.len() || output.pos() != 0 {
            return Err(self.problem(ZstdProblem::BadFrame));
        }
        Ok(())
    }

    /// Feeds up to `most` bytes; returns how many went in, and how many came out.
    fn step_body(&mut self, most: usize, input: &mut &[u8], output: &mut [u8]) -> Result<(usize, usize), Error> {
        let body = input.get(..most).unwrap_or(input);
        let mut fed = InBuffer::around(body);
        let mut filled = OutBuffer::around(output);
        if self.decoder.run(&mut fed, &mut filled).is_err() {
            return Err(self.problem(ZstdProblem::BadFrame));
        }
        *input = input.get(fed.pos()..).unwrap_or_default();
        self.consumed += fed.pos() as u64;
        Ok((fed.pos(), filled.pos()))
    }

    fn problem(&self, problem: ZstdProblem) -> Error {
        Error::container(problem, self.stage_start)
    }
}

/// Which fields a frame header has, by its descriptor byte (RFC 8878, 3.1.1.1.1).
struct FrameLayout {
    window_bytes: usize,
    dictionary_bytes: usize,
    size_bytes: usize,
    has_checksum: bool,
}

impl FrameLayout {
    fn of(descriptor: u8) -> Self {
        let single_segment = descriptor & 0x20 != 0;
        Self {
            window_bytes: usize::from(!single_segment),
            dictionary_bytes: match descriptor & 3 {
                0 => 0,
                1 => 1,
                2 => 2,
                _ => 4,
            },
            size_bytes: match descriptor >> 6 {
                0 => usize::from(single_segment),
                1 => 2,
                2 => 4,
                _ => 8,
            },
            has_checksum: descriptor & 0x04 != 0,
        }
    }

    /// The window in bytes; a frame that is one segment uses its whole content as window.
    fn window(&self, fields: &[u8]) -> u64 {
        if let (1, Some(&byte)) = (self.window_bytes, fields.first()) {
            let base = 1_u64 << (10 + (byte >> 3));
            return base + base / 8 * u64::from(byte & 7);
        }
        let size = fields.iter().skip(self.dictionary_bytes).rev().fold(0, |size, &byte| size << 8 | u64::from(byte));
        // Two-byte sizes count from 256, as smaller ones fit in one byte.
        if self.size_bytes == 2 { size + 256 } else { size }
    }
}
