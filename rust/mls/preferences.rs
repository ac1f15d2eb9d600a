//! What installations of an inbox keep in step: consent, and the root key for HMACs (device sync specification, section 5e).

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension, params};
use zeroize::Zeroizing;

use super::conversations::Said;
use super::device_sync::News;
use super::error::Error;
use super::hmac::{self, RootKey};
use super::installation::{Installation, Work};
use crate::store::{Decision, rules};
use crate::wire::Consent;
use crate::wire::proto::device_sync::consent_backup::ConsentSave;
use crate::wire::proto::device_sync::content::device_sync_content::Content;
use crate::wire::proto::device_sync::content::preference_update::Update;
use crate::wire::proto::device_sync::content::{DeviceSyncContent, PreferenceUpdates};

/// Longer entities are no ids of anything.
const LONGEST_ENTITY: usize = 128;

/// By how much a clock may be ahead to be believed: 30 days, ns.
const MOST_AHEAD_NS: i64 = 30 * 24 * 3600 * 1_000_000_000;

/// The inbox's root key for HMACs, and when it was made, ns.
pub type HmacRoot = (Zeroizing<Vec<u8>>, i64);
/// Keys for HMACs of one conversation: the number of the 30 days, and the key.
pub type HmacKeys = Vec<(i64, Zeroizing<[u8; hmac::KEY_BYTES]>)>;

impl Installation {
    /// Takes decisions about consent, here and now: entity type, entity, state. They are to be told to the other
    /// installations. Returns those that changed something, with their times.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no decision, before anything is stored; or any error of the database.
    pub fn set_consents(&self, records: &[(i32, String, i32)]) -> Result<Vec<(i32, String, i32, i64)>, Error> {
        let work = self.work()?;
        let mut changed = Vec::new();
        for (entity_type, entity, state) in records {
            let entity = entity.to_ascii_lowercase();
            let consent = Consent {
                entity_type: *entity_type,
                state: *state,
                entity: &entity,
                consented_at_ns: work.now_ns,
                unknown: Vec::new(),
            };
            if rules::check_consent(&consent).is_err() || !is_entity(&entity) {
                return Err(Error::Argument("a consent is about the hexadecimal id of a conversation or an inbox"));
            }
            if let Some(at_ns) = work.transaction.decide_consent(&consent)? {
                work.connection()
                    .prepare_cached("INSERT OR IGNORE INTO consents_to_send VALUES (?1, ?2)")?
                    .execute(params![entity_type, entity])?;
                changed.push((*entity_type, entity, *state, at_ns));
            }
        }
        if !changed.is_empty() {
            work.commit()?;
        }
        Ok(changed)
    }

    /// The decision about an entity: its state and time in ns.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn consent(&self, entity_type: i32, entity: &str) -> Result<Option<(i32, i64)>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT state, consented_at_ns FROM consent_records WHERE entity_type = ?1 AND entity = ?2",
            )?;
            let entity = entity.to_ascii_lowercase();
            Ok(select.query_row(params![entity_type, entity], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
        })
    }

    /// The keys by which a push service knows the inbox's own messages in each conversation: of the last 30 days' period, of
    /// this one and of the next one.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn hmac_keys(&self, group_ids: &[Vec<u8>]) -> Result<Vec<HmacKeys>, Error> {
        let work = self.work()?;
        let root = self.hmac_root(work.connection())?;
        let epoch = hmac::epoch_at(work.now_ns);
        let keys = |id: &Vec<u8>| {
            [epoch - 1, epoch, epoch + 1].into_iter().map(|epoch| (epoch, hmac::hmac_key(&root, id, epoch))).collect()
        };
        let keys = group_ids.iter().map(keys).collect();
        work.commit()?;
        Ok(keys)
    }

    /// The root key for HMACs as others announced it, or as it was announced to them, and when it was made.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn hmac_root_key(&self) -> Result<Option<HmacRoot>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached("SELECT hmac_key, hmac_cycled_at_ns FROM installation")?;
            let (key, at_ns): (Option<Vec<u8>>, i64) = select.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(key.map(|key| (Zeroizing::new(key), at_ns)))
        })
    }

    /// Asks for a new root key for HMACs, which is made and announced with what else is to be sent.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn cycle_hmac(&self) -> Result<(), Error> {
        let work = self.work()?;
        hmac_cycle_due(work.connection())?;
        work.commit()
    }

    /// Merges what another installation decided.
    pub(super) fn merge_preferences(
        &self,
        work: &Work<'_>,
        updates: &PreferenceUpdates,
        said: &Said<'_>,
        news: &mut News,
    ) -> Result<(), Error> {
        for update in &updates.updates {
            match &update.update {
                Some(Update::Consent(save)) => merge_consent(work, save, said.sent_at_ns, said.sequence_id, news)?,
                // One of another length is skipped, and what is beside it counts. The greatest time wins, as with real clients;
                // but one that no clock can show would keep all others from being taken for ever.
                Some(Update::Hmac(announced)) => {
                    let is_possible = announced.cycled_at_ns <= said.sent_at_ns.saturating_add(MOST_AHEAD_NS);
                    if let Ok(root) = RootKey::new(&announced.key)
                        && is_possible
                    {
                        news.hmac |= adopt_hmac_root(work.connection(), &root, announced.cycled_at_ns)?;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    /// A message of our own has come back, and with it its decisions have a place among those of the others. A clock that
    /// is ahead may have kept others' decisions from being taken over; these get their due now.
    pub(super) fn preferences_seen(
        &self,
        work: &Work<'_>,
        content: &[u8],
        sent_at_ns: i64,
        sequence_id: u64,
        news: &mut News,
    ) -> Result<(), Error> {
        let Some(updates) = preference_updates(content) else { return Ok(()) };
        let mut again = Vec::new();
        for update in updates.updates {
            let Some(Update::Consent(save)) = update.update else { continue };
            let Some(entity) = entity_of(&save) else { continue };
            let consent = consent_of(&save, &entity, save.consented_at_ns);
            let at_ns = clamped(save.consented_at_ns, sent_at_ns);
            if !work.transaction.date_consent(&consent, at_ns, sequence_id.cast_signed())? {
                merge_consent(work, &save, sent_at_ns, sequence_id, news)?;
            } else if at_ns < save.consented_at_ns {
                again.push((save.entity_type, entity));
            }
        }
        if !again.is_empty() {
            let mut select = work.connection().prepare_cached(
                "SELECT content, sent_at_ns, sequence_id FROM sync_group_messages WHERE sequence_id > 0
                  ORDER BY sequence_id",
            )?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let content = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                let Some(updates) = preference_updates(content) else { continue };
                for update in updates.updates {
                    let Some(Update::Consent(save)) = update.update else { continue };
                    let of = entity_of(&save).map(|entity| (save.entity_type, entity));
                    if of.is_some_and(|of| again.contains(&of)) {
                        merge_consent(work, &save, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned(), news)?;
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn hmac_cycle_due(connection: &Connection) -> Result<(), Error> {
    connection.execute("UPDATE installation SET hmac_cycle_due = 1", [])?;
    Ok(())
}

/// Takes over a root key, unless a newer one is known. Returns whether it is another one than before.
fn adopt_hmac_root(connection: &Connection, root: &RootKey, cycled_at_ns: i64) -> Result<bool, Error> {
    let before: Option<Zeroizing<Vec<u8>>> = connection
        .query_row("SELECT hmac_key FROM installation", [], |row| row.get::<_, Option<Vec<u8>>>(0))?
        .map(Zeroizing::new);
    let adopted = connection.execute(
        "UPDATE installation SET hmac_key = ?1, hmac_cycled_at_ns = ?2 WHERE hmac_cycled_at_ns <= ?2",
        params![root.as_bytes().as_slice(), cycled_at_ns],
    )?;
    Ok(adopted > 0 && before.is_none_or(|before| before.as_slice() != root.as_bytes().as_slice()))
}

fn merge_consent(
    work: &Work<'_>,
    save: &ConsentSave,
    sent_at_ns: i64,
    sequence_id: u64,
    news: &mut News,
) -> Result<(), Error> {
    let Some(entity) = entity_of(save) else { return Ok(()) };
    // Nobody decides in the future. The time of the message is the same for everybody.
    let at_ns = clamped(save.consented_at_ns, sent_at_ns);
    let consent = consent_of(save, &entity, at_ns);
    // A stored time that is still to come is that of a clock that is ahead. If its decision is on its way, it gets its due when
    // it comes back; and if it is still to be told, it is later than this one.
    work.connection()
        .prepare_cached(
            "UPDATE consent_records SET consented_at_ns = 0
              WHERE entity_type = ?1 AND entity = ?2 AND sequence_id = 0 AND consented_at_ns > ?3
                AND NOT EXISTS (SELECT 1 FROM consents_to_send WHERE entity_type = ?1 AND entity = ?2)",
        )?
        .execute(params![save.entity_type, entity, sent_at_ns])?;
    if work.transaction.merge_consent(&consent, sequence_id.cast_signed())? == Decision::Changed {
        news.consents.push((save.entity_type, entity, save.state, at_ns));
    }
    Ok(())
}

/// The time that counts for a decision. Whatever somebody decides is later than what was only noted, which has the time 0.
fn clamped(consented_at_ns: i64, sent_at_ns: i64) -> i64 {
    consented_at_ns.min(sent_at_ns).max(1)
}

/// The entity of a decision, or none if it is not about anything.
fn entity_of(save: &ConsentSave) -> Option<String> {
    let entity = save.entity.to_ascii_lowercase();
    let consent = consent_of(save, &entity, save.consented_at_ns);
    (rules::check_consent(&consent).is_ok() && is_entity(&entity)).then_some(entity)
}

fn consent_of<'e>(save: &ConsentSave, entity: &'e str, at_ns: i64) -> Consent<'e> {
    Consent { entity_type: save.entity_type, state: save.state, entity, consented_at_ns: at_ns, unknown: Vec::new() }
}

fn is_entity(entity: &str) -> bool {
    !entity.is_empty() && entity.len() <= LONGEST_ENTITY && entity.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn preference_updates(content: &[u8]) -> Option<PreferenceUpdates> {
    match DeviceSyncContent::decode(content) {
        Ok(DeviceSyncContent { content: Some(Content::PreferenceUpdates(updates)), .. }) => Some(updates),
        _ => None,
    }
}
