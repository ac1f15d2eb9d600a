//! Saying what an archive holds, and whether an import would take it, without a store.

use super::report::{ArchiveReport, INVALID_LISTED};
use super::rules::{self, InvalidRecord, Violation};
use crate::archive::{Opened, Summary};
use crate::wire::{Element, Metadata};

/// What an archive holds, counted as it is read.
#[derive(Debug, Default)]
pub struct Tally(ArchiveReport);

impl Tally {
    /// Counts and checks one element.
    pub fn note(&mut self, opened: &Opened<'_>) {
        let report = &mut self.0;
        let (kind, checked): (_, Result<(), Violation>) = match &opened.element {
            Element::Group(group) => {
                report.counts.conversations += 1;
                ("conversation", rules::check_group(group))
            }
            Element::Message(message) => {
                report.counts.messages += 1;
                report.note_time(message.sent_at_ns);
                ("message", rules::check_message(message))
            }
            Element::Consent(consent) => {
                report.counts.consents += 1;
                ("consent", rules::check_consent(consent))
            }
            _ => return,
        };
        if let Err((field, reason)) = checked
            && report.invalid.len() < INVALID_LISTED
        {
            report.invalid.push(InvalidRecord { element: opened.index, kind, field, reason });
        }
    }

    /// Records met so far.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.0.counts.total()
    }

    /// The report, with what the reader says of the whole archive.
    #[must_use]
    pub fn finish(self, metadata: &Metadata, summary: &Summary) -> ArchiveReport {
        ArchiveReport {
            metadata: metadata.clone(),
            elements: summary.elements - summary.empty_elements,
            archive_bytes: summary.archive_bytes,
            plaintext_bytes: summary.plaintext_bytes,
            legacy: summary.legacy,
            unknown_elements: summary.unknown_elements + summary.events,
            ..self.0
        }
    }
}
