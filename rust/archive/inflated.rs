//! The buffer between inflating and opening: filled behind, taken in front, elements opened where they lie.
//!
//! What is taken is only stepped over. The rest moves to the front when the end is reached, so every byte moves at
//! most a few times, however small the pieces are.
#![expect(clippy::indexing_slicing, reason = "start <= end <= buffer.len() holds after every method")]

/// Large enough for a zstd block and nearly every element, small enough to stay in the cache.
pub(super) const BUFFER_BYTES: usize = 128 << 10;

pub(super) struct Inflated {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inflated {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Free room behind the data; empty only while the data fill the whole buffer.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start.., 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Declares the first `count` bytes of the room as data.
    pub(super) fn filled(&mut self, count: usize) {
        self.end = self.buffer.len().min(self.end + count);
    }

    /// The data not taken yet.
    pub(super) fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes up to `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> &mut [u8] {
        let from = self.start;
        self.start = self.end.min(from + count);
        &mut self.buffer[from..self.start]
    }
}
