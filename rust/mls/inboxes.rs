//! The identity logs of inboxes, as far as they were fetched: verified when they come, kept, and asked for the state after
//! any of their entries (identity specification, section 1.5).

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Error;
use super::rules::{InboxStates, StateError};
use crate::identity::{self, AssociationState, ContractSignature, ContractVerdicts};
use crate::store;
use crate::wire::proto::identity::api::v1::get_identity_updates_response::IdentityUpdateLog;
use crate::wire::proto::identity::api::v1::{
    GetIdentityUpdatesResponse, VerifySmartContractWalletSignaturesRequest, VerifySmartContractWalletSignaturesResponse,
};
use crate::wire::proto::identity::associations::IdentityUpdate;

/// What became of a node's answer about identity logs.
#[derive(Debug, Default)]
pub struct Ingested {
    /// Inboxes whose logs have grown.
    pub grown: BTreeSet<String>,
    /// Inboxes whose new entries break a rule and were not kept, and which rule.
    pub refused: BTreeMap<String, String>,
    /// Inboxes whose new entries were not kept because nobody has said yet whether such signatures in them hold.
    pub undecided: BTreeSet<String>,
    /// Signatures of smart contract wallets that a node has to be asked about before the answer is given here again.
    pub unverified: Vec<ContractSignature>,
}

/// The logs in one transaction.
pub(super) struct Inboxes<'c> {
    connection: &'c Connection,
}

impl<'c> Inboxes<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// The last entry that is known of an inbox; 0 for none.
    pub(super) fn cursor(&self, inbox_id: &str) -> Result<u64, Error> {
        let cursor: i64 = self
            .connection
            .prepare_cached("SELECT coalesce(max(sequence_id), 0) FROM identity_updates WHERE inbox_id = ?1")?
            .query_row([inbox_id], |row| row.get(0))?;
        Ok(cursor.unsigned_abs())
    }

    /// The state after the last entry that is known; none for an inbox without any.
    pub(super) fn latest(&self, inbox_id: &str) -> Result<Option<AssociationState>, Error> {
        match self.cursor(inbox_id)? {
            0 => Ok(None),
            cursor => self.state_at(inbox_id, cursor),
        }
    }

    /// The state after an entry; none if the entry is not known.
    pub(super) fn state_at(&self, inbox_id: &str, sequence_id: u64) -> Result<Option<AssociationState>, Error> {
        let Ok(wanted) = i64::try_from(sequence_id) else { return Ok(None) };
        let mut state = self.snapshot(inbox_id, wanted)?;
        let known = state.as_ref().map_or(0, AssociationState::last_sequence_id);
        if known == sequence_id {
            return Ok(state);
        }
        let log = self.log(inbox_id, known, wanted)?;
        if log.last().is_none_or(|entry| entry.sequence_id != sequence_id) {
            return Ok(None);
        }
        let state = fold(&mut state, inbox_id, &log, &self.verdicts()?)?.clone();
        self.keep_snapshot(&state)?;
        Ok(Some(state))
    }

    /// Verifies what a node says and keeps it. What does not verify is not kept.
    pub(super) fn ingest(&self, answer: &[u8]) -> Result<Ingested, Error> {
        let answer = GetIdentityUpdatesResponse::decode(answer)
            .map_err(|_| Error::MalformedAnswer("identity updates cannot be decoded"))?;
        let verdicts = self.verdicts()?;
        let mut ingested = Ingested::default();
        for response in answer.responses {
            let inbox_id = response.inbox_id;
            if !identity::is_inbox_id(&inbox_id) {
                return Err(Error::MalformedAnswer("an inbox id has another form"));
            }
            let known = self.cursor(&inbox_id)?;
            let log: Vec<_> = response.updates.into_iter().filter(|entry| entry.sequence_id > known).collect();
            if log.is_empty() {
                continue;
            }
            let mut state = if known == 0 { None } else { self.state_at(&inbox_id, known)? };
            match fold(&mut state, &inbox_id, &log, &verdicts) {
                Ok(state) => {
                    self.keep(&inbox_id, &log)?;
                    self.keep_snapshot(state)?;
                    ingested.grown.insert(inbox_id);
                }
                Err(identity::Error::Unverified(signatures)) => {
                    ingested.unverified.extend(signatures);
                    ingested.undecided.insert(inbox_id);
                }
                Err(error) => {
                    ingested.refused.insert(inbox_id, error.to_string());
                }
            }
        }
        Ok(ingested)
    }

    /// Keeps what a node says of smart contract wallets' signatures. A refusal that it could not judge is not kept.
    pub(super) fn ingest_verdicts(&self, request: &[u8], answer: &[u8]) -> Result<(), Error> {
        let malformed = |_| Error::MalformedAnswer("verdicts on signatures cannot be decoded");
        let request = VerifySmartContractWalletSignaturesRequest::decode(request).map_err(malformed)?;
        let answer = VerifySmartContractWalletSignaturesResponse::decode(answer).map_err(malformed)?;
        let mut asked = Vec::new();
        for signature in request.signatures {
            asked.push(ContractSignature {
                account_id: signature.account_id,
                block_number: signature.block_number.unwrap_or(0),
                signature: signature.signature,
                hash: signature.hash.try_into().map_err(|_| Error::Argument("a hash has 32 bytes"))?,
            });
        }
        let mut verdicts = ContractVerdicts::new();
        verdicts.insert_answer(&asked, &answer.responses)?;
        let mut insert = self.connection.prepare_cached("INSERT OR REPLACE INTO contract_verdicts VALUES (?1, ?2)")?;
        for signature in &asked {
            if let Some(is_valid) = verdicts.get(signature) {
                insert.execute(params![signature.digest(), is_valid])?;
            }
        }
        Ok(())
    }

    fn verdicts(&self) -> Result<ContractVerdicts, Error> {
        let mut verdicts = ContractVerdicts::new();
        let mut select = self.connection.prepare_cached("SELECT digest, is_valid FROM contract_verdicts")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            verdicts.insert_digest(row.get(0)?, row.get(1)?);
        }
        Ok(verdicts)
    }

    /// The newest state that is kept, up to an entry. One that this release cannot read does not count.
    fn snapshot(&self, inbox_id: &str, sequence_id: i64) -> Result<Option<AssociationState>, Error> {
        let bytes: Option<Vec<u8>> = self
            .connection
            .prepare_cached(
                "SELECT state FROM association_states WHERE inbox_id = ?1 AND sequence_id <= ?2
                  ORDER BY sequence_id DESC LIMIT 1",
            )?
            .query_row(params![inbox_id, sequence_id], |row| row.get(0))
            .optional()?;
        Ok(bytes.and_then(|bytes| rmp_serde::from_slice(&bytes).ok()))
    }

    fn keep_snapshot(&self, state: &AssociationState) -> Result<(), Error> {
        let bytes = rmp_serde::to_vec(state).map_err(|_| Error::Library("keeping the state of an inbox"))?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO association_states VALUES (?1, ?2, ?3)")?
            .execute(params![state.inbox_id(), state.last_sequence_id().cast_signed(), bytes])?;
        Ok(())
    }

    /// Entries after one and up to another.
    fn log(&self, inbox_id: &str, after: u64, up_to: i64) -> Result<Vec<IdentityUpdateLog>, Error> {
        let mut select = self.connection.prepare_cached(
            "SELECT sequence_id, server_timestamp_ns, bytes FROM identity_updates
              WHERE inbox_id = ?1 AND sequence_id > ?2 AND sequence_id <= ?3 ORDER BY sequence_id",
        )?;
        let mut rows = select.query(params![inbox_id, after.cast_signed(), up_to])?;
        let mut log = Vec::new();
        while let Some(row) = rows.next()? {
            let update = IdentityUpdate::decode(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)
                .map_err(|_| Error::Library("reading an identity update"))?;
            log.push(IdentityUpdateLog {
                sequence_id: row.get::<_, i64>(0)?.cast_unsigned(),
                server_timestamp_ns: row.get::<_, i64>(1)?.cast_unsigned(),
                update: Some(update),
            });
        }
        Ok(log)
    }

    fn keep(&self, inbox_id: &str, log: &[IdentityUpdateLog]) -> Result<(), Error> {
        let mut insert = self.connection.prepare_cached("INSERT INTO identity_updates VALUES (?1, ?2, ?3, ?4)")?;
        for entry in log {
            let sequence_id = i64::try_from(entry.sequence_id)
                .map_err(|_| Error::MalformedAnswer("a sequence id has more than 63 bits"))?;
            let bytes = entry.update.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
            insert.execute(params![inbox_id, sequence_id, entry.server_timestamp_ns.cast_signed(), bytes])?;
        }
        Ok(())
    }

    /// The newest entry below one.
    fn newest_before(&self, inbox_id: &str, sequence_id: u64) -> Result<Option<u64>, Error> {
        let newest: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(sequence_id) FROM identity_updates WHERE inbox_id = ?1 AND sequence_id < ?2")?
            .query_row(params![inbox_id, i64::try_from(sequence_id).unwrap_or(i64::MAX)], |row| row.get(0))?;
        Ok(newest.map(i64::cast_unsigned))
    }
}

fn fold<'s>(
    state: &'s mut Option<AssociationState>,
    inbox_id: &str,
    log: &[IdentityUpdateLog],
    verdicts: &ContractVerdicts,
) -> Result<&'s AssociationState, identity::Error> {
    match state {
        Some(state) => {
            state.extend(log, verdicts)?;
            Ok(state)
        }
        none => Ok(none.insert(AssociationState::fold(inbox_id, log, verdicts)?)),
    }
}

/// The logs as the rules for commits and welcomes ask for them.
pub(super) struct States<'a, 'c> {
    pub(super) inboxes: &'a Inboxes<'c>,
    /// Inboxes whose logs were fetched after the message in question: what they do not have does not exist.
    pub(super) fresh: &'a BTreeSet<String>,
    /// What went wrong in the database, which the rules have no word for.
    pub(super) failure: std::cell::RefCell<Option<Error>>,
}

impl<'a, 'c> States<'a, 'c> {
    pub(super) fn new(inboxes: &'a Inboxes<'c>, fresh: &'a BTreeSet<String>) -> Self {
        Self { inboxes, fresh, failure: std::cell::RefCell::default() }
    }

    fn failed<T>(&self, result: Result<T, Error>) -> Result<T, StateError> {
        result.map_err(|error| match error {
            Error::Identity(_) => StateError::Invalid,
            error => {
                *self.failure.borrow_mut() = Some(error);
                StateError::Missing
            }
        })
    }
}

impl InboxStates for States<'_, '_> {
    fn installations_at(&self, inbox_id: &str, sequence_id: u64) -> Result<BTreeSet<Vec<u8>>, StateError> {
        match self.failed(self.inboxes.state_at(inbox_id, sequence_id))? {
            Some(state) => Ok(state.installations().into_iter().map(Vec::from).collect()),
            None if self.fresh.contains(inbox_id) => {
                let newest_before = self.failed(self.inboxes.newest_before(inbox_id, sequence_id))?;
                Err(StateError::NoSuchUpdate { newest_before })
            }
            None => Err(StateError::Missing),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for Error {
    fn from(error: rusqlite::types::FromSqlError) -> Self {
        Self::Store(store::Error::from(rusqlite::Error::from(error)))
    }
}
