//! Records in the encoding of the archive, gathered for the other thread.
//!
//! An import opens the archive on one thread and writes to the database on another; an export reads the database on one and
//! seals on the other. What crosses is a batch, because a channel costs far more than a record.

use crate::archive;

/// Bytes after which a batch is handed over.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

/// Batches that may wait in the channel. A batch can hold one element of the largest size, so few bound the memory.
pub(super) const BATCHES_WAITING: usize = 2;

/// Plaintexts of elements, one after the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Index of each element in its archive, and where it ends.
    elements: Vec<(u64, usize)>,
}

impl Batch {
    /// Adds an element that an archive holds.
    pub fn push(&mut self, opened: &archive::Opened<'_>) {
        self.bytes.extend_from_slice(opened.plaintext);
        self.elements.push((opened.index, self.bytes.len()));
    }

    /// Adds an element that `encode` writes at the end of what it is given.
    pub fn encode(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.bytes);
        self.elements.push((0, self.bytes.len()));
    }

    /// Whether it is time to hand it over.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES
    }

    /// Size of the plaintexts, bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The elements: index and plaintext.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.elements.iter().map(move |&(index, end)| {
            let plaintext = self.bytes.get(start..end).unwrap_or_default();
            start = end;
            (index, plaintext)
        })
    }
}
