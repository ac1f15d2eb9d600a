//! Who belongs to an inbox after a prefix of its log (identity specification, section 1.5).

use super::contract::{ContractSignature, ContractVerdicts};
use super::error::{Error, Rule};
use super::identifier::{Identifier, Member};
use super::signature::Signer;
use super::{compact, rules};
use crate::wire::proto::identity::api::v1::get_identity_updates_response::IdentityUpdateLog;
use crate::wire::proto::identity::associations::IdentityUpdate;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a member beside its name (identity specification, section 1.5, rules 3 and 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Who added it; `None` for the identifier that created the inbox.
    pub added_by: Option<Member>,
    /// The client's clock in the update that added it; `None` for the identifier that created the inbox.
    pub client_timestamp_ns: Option<u64>,
    /// The chain on which a smart contract wallet signed when it was added.
    pub chain_id: Option<u64>,
}

/// The members of an inbox after some update of its log, and what later updates are judged by.
///
/// It can be stored with serde; the form may change between releases, so what cannot be read back is folded anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssociationState {
    pub(super) inbox_id: String,
    #[serde(with = "compact::pairs")]
    pub(super) members: BTreeMap<Member, MemberRecord>,
    pub(super) recovery: Identifier,
    /// Digests of all signatures of the log, sorted.
    #[serde(with = "compact::digests")]
    seen: Vec<[u8; 32]>,
    last_sequence_id: u64,
}

/// How the installations of an inbox differ between two states, both lists in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstallationChange {
    /// Installations that only the later state has.
    pub added: Vec<[u8; 32]>,
    /// Installations that only the earlier state has.
    pub removed: Vec<[u8; 32]>,
}

impl AssociationState {
    /// Folds a whole log, as a node gives it, into the state after its last entry.
    ///
    /// # Errors
    /// [`Error::Refused`] for the first update that breaks a rule: then nothing of the log counts.
    /// [`Error::Unverified`] with every signature of the log that needs a verdict. [`Error::NotRising`] when the log is out
    /// of order, [`Error::EmptyLog`] when it is empty.
    pub fn fold(inbox_id: &str, log: &[IdentityUpdateLog], verdicts: &ContractVerdicts) -> Result<Self, Error> {
        run(None, inbox_id, log, verdicts)
    }

    /// Folds a log up to the entry with this sequence id: the state that a group's membership refers to.
    ///
    /// # Errors
    /// Those of [`fold`](Self::fold), and [`Error::NotInLog`] when there is no such entry.
    pub fn fold_to(
        inbox_id: &str,
        log: &[IdentityUpdateLog],
        sequence_id: u64,
        verdicts: &ContractVerdicts,
    ) -> Result<Self, Error> {
        let position = log.iter().position(|entry| entry.sequence_id == sequence_id);
        let prefix = position.and_then(|position| log.get(..=position)).ok_or(Error::NotInLog(sequence_id))?;
        Self::fold(inbox_id, prefix, verdicts)
    }

    /// Applies the entries that follow in the log, all or none.
    ///
    /// # Errors
    /// Those of [`fold`](Self::fold), except that no entries are fine; the state is then as it was.
    pub fn extend(&mut self, log: &[IdentityUpdateLog], verdicts: &ContractVerdicts) -> Result<(), Error> {
        let inbox_id = self.inbox_id.clone();
        *self = run(Some(self.clone()), &inbox_id, log, verdicts)?;
        Ok(())
    }

    /// The state after the first update of a log.
    ///
    /// # Errors
    /// Those of [`apply`](Self::apply).
    pub fn start(sequence_id: u64, update: &IdentityUpdate, verdicts: &ContractVerdicts) -> Result<Self, Error> {
        step(None, sequence_id, update, verdicts)
    }

    /// Applies the next update of the log.
    ///
    /// # Errors
    /// [`Error::Refused`] when it breaks a rule, [`Error::Unverified`] when it needs verdicts, [`Error::NotRising`] when its
    /// sequence id is not above the last one; the state is then as it was.
    pub fn apply(
        &mut self,
        sequence_id: u64,
        update: &IdentityUpdate,
        verdicts: &ContractVerdicts,
    ) -> Result<(), Error> {
        *self = step(Some(self.clone()), sequence_id, update, verdicts)?;
        Ok(())
    }

    /// The id of the inbox.
    #[must_use]
    pub fn inbox_id(&self) -> &str {
        &self.inbox_id
    }

    /// The sequence id of the last update applied.
    #[must_use]
    pub fn last_sequence_id(&self) -> u64 {
        self.last_sequence_id
    }

    /// Who may revoke members and name another recovery identifier; it need not be a member.
    #[must_use]
    pub fn recovery(&self) -> &Identifier {
        &self.recovery
    }

    /// All members, in the order of their kinds and names.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (&Member, &MemberRecord)> {
        self.members.iter()
    }

    /// What is known of a member; `None` for whoever is not one.
    #[must_use]
    pub fn member(&self, member: &Member) -> Option<&MemberRecord> {
        self.members.get(member)
    }

    /// The installations, oldest first by their clients' clocks, equal times in the order of their ids.
    #[must_use]
    pub fn installations(&self) -> Vec<[u8; 32]> {
        let mut found: Vec<(Option<u64>, [u8; 32])> = self
            .members
            .iter()
            .filter_map(|(member, record)| installation(member).map(|id| (record.client_timestamp_ns, id)))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The wallets that are members.
    #[must_use]
    pub fn wallets(&self) -> Vec<Identifier> {
        self.members.keys().filter_map(Member::wallet).collect()
    }

    /// Whether this installation is a member.
    #[must_use]
    pub fn is_installation(&self, id: &[u8; 32]) -> bool {
        self.members.contains_key(&Member::Installation(*id))
    }

    /// What changed among the installations since an earlier state; since `None`, all were added.
    #[must_use]
    pub fn installation_change(&self, earlier: Option<&Self>) -> InstallationChange {
        let missing_in = |from: &Self, other: Option<&Self>| -> Vec<[u8; 32]> {
            let is_missing = |id: &[u8; 32]| !other.is_some_and(|other| other.is_installation(id));
            from.members.keys().filter_map(installation).filter(is_missing).collect()
        };
        InstallationChange {
            added: missing_in(self, earlier),
            removed: earlier.map(|earlier| missing_in(earlier, Some(self))).unwrap_or_default(),
        }
    }

    pub(super) fn created(inbox_id: String, owner: Identifier, record: MemberRecord) -> Self {
        let members = BTreeMap::from([(Member::from(owner.clone()), record)]);
        Self { inbox_id, members, recovery: owner, seen: Vec::new(), last_sequence_id: 0 }
    }

    pub(super) fn refuse_replay(&self, signer: &Signer) -> Result<(), Rule> {
        if self.seen.binary_search(&signer.digest).is_ok() { Err(Rule::Replay) } else { Ok(()) }
    }

    /// Refuses a member that signs on another chain than the one it was added on; others are not judged.
    pub(super) fn refuse_other_chain(&self, signer: &Signer) -> Result<(), Rule> {
        match self.members.get(&signer.member) {
            Some(record) if record.chain_id != signer.chain_id => {
                Err(Rule::ChainChanged { recorded: record.chain_id, signed: signer.chain_id })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn remember(&mut self, digests: Vec<[u8; 32]>) {
        self.seen.extend(digests);
        self.seen.sort_unstable();
        self.seen.dedup();
    }
}

fn installation(member: &Member) -> Option<[u8; 32]> {
    match member {
        Member::Installation(id) => Some(*id),
        _ => None,
    }
}

fn step(
    state: Option<AssociationState>,
    sequence_id: u64,
    update: &IdentityUpdate,
    verdicts: &ContractVerdicts,
) -> Result<AssociationState, Error> {
    let refused = |rule| Error::Refused { sequence_id, rule };
    check_rising(state.as_ref().map(AssociationState::last_sequence_id), sequence_id)?;
    let mut unverified = Vec::new();
    rules::list_unverified(update, verdicts, &mut unverified).map_err(refused)?;
    none_unverified(unverified)?;
    let mut state = rules::advance(state, update, verdicts).map_err(refused)?;
    state.last_sequence_id = sequence_id;
    Ok(state)
}

fn run(
    mut state: Option<AssociationState>,
    inbox_id: &str,
    log: &[IdentityUpdateLog],
    verdicts: &ContractVerdicts,
) -> Result<AssociationState, Error> {
    let mut last = state.as_ref().map(AssociationState::last_sequence_id);
    let mut unverified = Vec::new();
    for (sequence_id, update) in log.iter().map(parts) {
        let refused = |rule| Error::Refused { sequence_id, rule };
        check_rising(last, sequence_id)?;
        last = Some(sequence_id);
        let update = update.map_err(refused)?;
        if update.inbox_id != inbox_id {
            return Err(refused(Rule::WrongInboxId));
        }
        rules::list_unverified(update, verdicts, &mut unverified).map_err(refused)?;
    }
    none_unverified(unverified)?;
    for (sequence_id, update) in log.iter().map(parts) {
        let advanced = update.and_then(|update| rules::advance(state, update, verdicts));
        let mut advanced = advanced.map_err(|rule| Error::Refused { sequence_id, rule })?;
        advanced.last_sequence_id = sequence_id;
        state = Some(advanced);
    }
    state.ok_or(Error::EmptyLog)
}

fn parts(entry: &IdentityUpdateLog) -> (u64, Result<&IdentityUpdate, Rule>) {
    (entry.sequence_id, entry.update.as_ref().ok_or(Rule::Missing("update")))
}

fn check_rising(last: Option<u64>, given: u64) -> Result<(), Error> {
    match last {
        Some(last) if given <= last => Err(Error::NotRising { last, given }),
        _ => Ok(()),
    }
}

fn none_unverified(mut unverified: Vec<ContractSignature>) -> Result<(), Error> {
    if unverified.is_empty() {
        return Ok(());
    }
    // One wallet signature usually stands in several places.
    let mut asked = BTreeSet::new();
    unverified.retain(|signature| asked.insert(signature.digest()));
    Err(Error::Unverified(unverified))
}

/// Reads an update from its bytes (identity specification, section 1.2).
///
/// # Errors
/// [`Error::Malformed`] when they are not an update; whether it holds is for [`AssociationState`] to say.
pub fn decode_update(bytes: &[u8]) -> Result<IdentityUpdate, Error> {
    IdentityUpdate::decode(bytes).map_err(|_| Error::Malformed)
}
