//! What a change of the membership means for installations: who must leave, who may come (identity specification, section
//! 4.3, "expected diff").

use std::collections::{BTreeMap, BTreeSet};

use super::{InboxStates, Refusal, Rule, StateError};
use crate::mls::extensions::Membership;

/// Asks for states and collects what is missing, so that one fetch gets all of it.
pub(super) struct Lookup<'a, S: ?Sized> {
    states: &'a S,
    missing: BTreeSet<(String, u64)>,
}

impl<'a, S: InboxStates + ?Sized> Lookup<'a, S> {
    pub(super) fn new(states: &'a S) -> Self {
        Self { states, missing: BTreeSet::new() }
    }

    fn ask(&mut self, inbox_id: &str, sequence_id: u64) -> Result<BTreeSet<Vec<u8>>, StateError> {
        // No log has such ids. The reference sees the large ones as negative, hence as before the first.
        if sequence_id == 0 || i64::try_from(sequence_id).is_err() {
            return Err(StateError::NoSuchUpdate { newest_before: None });
        }
        self.states.installations_at(inbox_id, sequence_id)
    }

    /// The installations, or nothing if they are missing so far.
    pub(super) fn installations(
        &mut self,
        inbox_id: &str,
        sequence_id: u64,
        rule: Rule,
    ) -> Result<BTreeSet<Vec<u8>>, Refusal> {
        match self.ask(inbox_id, sequence_id) {
            Ok(installations) => Ok(installations),
            Err(StateError::Missing) => {
                self.missing.insert((inbox_id.to_owned(), sequence_id));
                Ok(BTreeSet::new())
            }
            Err(StateError::NoSuchUpdate { .. }) => {
                Err(Refusal::invalid(rule, "the membership names an identity update that does not exist"))
            }
            Err(StateError::Invalid) => {
                Err(Refusal::invalid(rule, "the membership names an inbox whose identity updates are not valid"))
            }
        }
    }

    /// The installations at `new`, when those at `old` are known to be `before`.
    ///
    /// The reference applies the updates between the two ids, and does not mind if there are none: a raised id that no update
    /// bears then changes nothing, whereas one that cuts a run of updates short fails.
    fn installations_after(
        &mut self,
        inbox_id: &str,
        (old, before): (u64, &BTreeSet<Vec<u8>>),
        new: u64,
    ) -> Result<BTreeSet<Vec<u8>>, Refusal> {
        if i64::try_from(new).is_err() {
            return Ok(before.clone());
        }
        match self.ask(inbox_id, new) {
            Err(StateError::NoSuchUpdate { newest_before: Some(newest) }) if newest <= old => Ok(before.clone()),
            _ => self.installations(inbox_id, new, Rule::Installations),
        }
    }

    /// Ends the questions.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        if self.missing.is_empty() {
            return Ok(());
        }
        Err(Refusal::MissingIdentity(self.missing.into_iter().collect()))
    }
}

/// Which inboxes a change of the membership touches.
#[derive(Debug, Default)]
pub(super) struct InboxDiff {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    updated: Vec<String>,
}

impl InboxDiff {
    /// # Errors
    /// [`Rule::SequenceId`].
    pub(super) fn between(old: &Membership, new: &Membership) -> Result<Self, Refusal> {
        let mut diff = Self::default();
        for (inbox_id, before) in &old.members {
            match new.members.get(inbox_id) {
                None => diff.removed.push(inbox_id.clone()),
                Some(after) if after < before => {
                    return Err(Refusal::invalid(Rule::SequenceId, "a sequence id of the membership goes back"));
                }
                Some(after) if after > before => diff.updated.push(inbox_id.clone()),
                Some(_) => {}
            }
        }
        diff.added = new.members.keys().filter(|inbox_id| !old.members.contains_key(*inbox_id)).cloned().collect();
        Ok(diff)
    }

    /// What these inboxes bring and take; incomplete if `lookup` misses something.
    pub(super) fn installations<S: InboxStates + ?Sized>(
        &self,
        old: &Membership,
        new: &Membership,
        lookup: &mut Lookup<'_, S>,
    ) -> Result<InstallationDiff, Refusal> {
        let at = |membership: &Membership, inbox_id: &String| membership.members.get(inbox_id).copied().unwrap_or(0);
        let mut diff = InstallationDiff::default();
        for inbox_id in self.added.iter().chain(&self.updated) {
            let (from, to) = (at(old, inbox_id), at(new, inbox_id));
            let (before, after) = if from == 0 {
                (BTreeSet::new(), lookup.installations(inbox_id, to, Rule::Installations)?)
            } else {
                let before = lookup.installations(inbox_id, from, Rule::Installations)?;
                let after = lookup.installations_after(inbox_id, (from, &before), to)?;
                (before, after)
            };
            diff.added.extend(after.difference(&before).map(|id| (id.clone(), inbox_id.clone())));
            diff.removed.extend(before.difference(&after).cloned());
        }
        for inbox_id in &self.removed {
            diff.removed.extend(lookup.installations(inbox_id, at(old, inbox_id), Rule::Installations)?);
        }
        Ok(diff)
    }
}

/// Which installations a change of the membership touches.
#[derive(Debug, Default)]
pub(super) struct InstallationDiff {
    /// Whose they are, by installation.
    pub(super) added: BTreeMap<Vec<u8>, String>,
    pub(super) removed: BTreeSet<Vec<u8>>,
}
