//! A transaction that a higher room fills: records are merged as the application's own, beside whatever else it writes.

use std::cell::RefCell;

use rusqlite::Connection;

use super::connection::Writer;
use super::error::Error;
use super::merge::{Merge, Origin, stored_consent, write_consent};
use super::report::ImportReport;
use super::rules;
use super::{Record, now_ns};
use crate::wire::{self, Consent, Element};

/// A message's conversation and its id.
pub type MessagePlace = (Vec<u8>, Vec<u8>);

/// What became of a decision about consent that somebody else took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The stored one is later, or the same.
    Older,
    /// It is later, and says the same.
    Confirmed,
    /// It is later, and says something else.
    Changed,
}

/// A write transaction. Dropping it undoes it.
pub struct Transaction {
    writer: Writer,
    merge: RefCell<Merge>,
}

impl Transaction {
    pub(super) fn new(writer: Writer) -> Self {
        Self { writer, merge: RefCell::new(Merge::native(now_ns())) }
    }

    /// The connection, for the tables of other rooms.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.writer
    }

    /// Merges a record, as [`Store::add`](super::Store::add) does. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is stored, or any error of the database.
    pub fn add(&self, record: &Record<'_>) -> Result<bool, Error> {
        let mut merge = self.merge.borrow_mut();
        let before = merge.new_records();
        merge.target(&self.writer)?.add(0, record)?;
        Ok(merge.new_records() > before)
    }

    /// Stores a decision about consent that is taken here and now. It is the last one, whatever clocks say: its time is
    /// moved behind that of the stored one if need be. Returns the time, or none if it says what is stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is stored, or any error of the database.
    pub fn decide_consent(&self, consent: &Consent<'_>) -> Result<Option<i64>, Error> {
        check(consent)?;
        let mut decided = consent.clone();
        match stored_consent(&self.writer, consent)? {
            // A decision that somebody took outlives one that was only noted, also if it says the same.
            Some((state, at_ns, _)) if state == consent.state && at_ns > 0 => return Ok(None),
            Some((_, at_ns, _)) => decided.consented_at_ns = consent.consented_at_ns.max(at_ns.saturating_add(1)),
            None => {}
        }
        write_consent(&self.writer, &decided, 0)?;
        Ok(Some(decided.consented_at_ns))
    }

    /// Merges a decision that a message of a sync group brought: the later one stays, by time and then by the message's
    /// number, so that it does not matter in which order they come (device sync specification, section 5e).
    ///
    /// # Errors
    /// [`Error::Invalid`] before anything is stored, or any error of the database.
    pub fn merge_consent(&self, consent: &Consent<'_>, sequence_id: i64) -> Result<Decision, Error> {
        check(consent)?;
        let stored = stored_consent(&self.writer, consent)?;
        if stored.is_some_and(|(_, at_ns, from)| (at_ns, from) >= (consent.consented_at_ns, sequence_id)) {
            return Ok(Decision::Older);
        }
        write_consent(&self.writer, consent, sequence_id)?;
        let same = stored.is_some_and(|(state, _, _)| state == consent.state);
        Ok(if same { Decision::Confirmed } else { Decision::Changed })
    }

    /// Gives the decision that was taken here its time and number, now that its message has come back. Returns whether it is
    /// still the stored one.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn date_consent(&self, consent: &Consent<'_>, at_ns: i64, sequence_id: i64) -> Result<bool, Error> {
        let stored = stored_consent(&self.writer, consent)?;
        if stored != Some((consent.state, consent.consented_at_ns, 0)) {
            return Ok(false);
        }
        let mut dated = consent.clone();
        dated.consented_at_ns = at_ns;
        write_consent(&self.writer, &dated, sequence_id)?;
        Ok(true)
    }

    /// Merges elements of an archive that came by another way; what is not valid is left out. Returns the conversation
    /// and the id of each message that is new.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn merge_elements<'e>(&self, elements: impl IntoIterator<Item = &'e [u8]>) -> Result<Vec<MessagePlace>, Error> {
        let mut merge = Merge::new(Origin::Archive { lenient: true, inbox_id: None }, now_ns());
        let mut new = Vec::new();
        let mut target = merge.target(&self.writer)?;
        for (index, element) in (0..).zip(elements) {
            match wire::decode_element(element) {
                Ok((Element::Group(group), _)) => target.group(index, &group)?,
                Ok((Element::Message(message), _)) => {
                    let before = target.new_records();
                    target.message(index, &message)?;
                    if target.new_records() > before {
                        new.push((message.group_id.to_vec(), message.id.to_vec()));
                    }
                }
                _ => {}
            }
        }
        drop(target);
        merge.finish(&self.writer)?;
        Ok(new)
    }

    /// Commits everything.
    ///
    /// # Errors
    /// Any error of the database; nothing is stored then.
    pub fn commit(self) -> Result<ImportReport, Error> {
        let report = self.merge.into_inner().finish(&self.writer)?;
        self.writer.execute_batch("COMMIT")?;
        Ok(report)
    }
}

fn check(consent: &Consent<'_>) -> Result<(), Error> {
    rules::check_consent(consent)
        .map_err(|(field, reason)| Error::Invalid(rules::InvalidRecord { element: 0, kind: "consent", field, reason }))
}
