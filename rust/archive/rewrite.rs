//! Re-sealing an archive: same elements byte for byte, another key or nonce, today's nonce rule and filler.

use super::{Error, Limits, Opened, Reader, Summary, Writer};
use crate::crypto::ArchiveKey;
use crate::wire::{Element, Metadata};

/// Reads any valid archive, legacy ones too, and writes its elements into a new one.
///
/// Plaintexts are copied untouched, so unknown kinds and unknown fields survive. Empty elements are dropped, and the
/// writer puts its own where they are needed.
#[derive(Debug)]
pub struct Rewriter {
    reader: Reader,
    writer: Writer,
}

impl Rewriter {
    /// Prepares to open with `key_in` and seal with `key_out`, which may be the same key: the nonce is a new one.
    ///
    /// # Errors
    /// `NoRandomness` as for [`Writer::new`].
    pub fn new(key_in: &ArchiveKey, key_out: &ArchiveKey, limits: Limits) -> Result<Self, Error> {
        let writer = Writer::new(key_out)?.with_limits(limits);
        Ok(Self { reader: Reader::new(key_in, limits), writer })
    }

    /// Takes the next piece of the old archive, and shows `observe` each element that goes into the new one.
    ///
    /// # Errors
    /// As for [`Reader::push`].
    pub fn push(&mut self, input: &[u8], mut observe: impl FnMut(&Opened<'_>)) -> Result<(), Error> {
        let writer = &mut self.writer;
        self.reader.push(input, |opened| match opened.element {
            Element::Empty => Ok(()),
            _ => {
                observe(&opened);
                writer.write(|out| out.extend_from_slice(opened.plaintext))
            }
        })
    }

    /// The metadata, once they were read.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.reader.metadata()
    }

    /// The finished bytes of the new archive, for the caller to take out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.writer.output()
    }

    /// Ends both archives, and returns what the old one held.
    ///
    /// # Errors
    /// [`Error`] when the old archive is not complete; the new one is then left incomplete too.
    pub fn finish(&mut self) -> Result<Summary, Error> {
        let summary = self.reader.finish()?;
        self.writer.finish()?;
        Ok(summary)
    }
}
