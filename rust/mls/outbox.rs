//! What is to be told to the inbox's other installations, kept until it has become messages of a sync group, which in turn
//! are kept until they have come back (see `intents`). So nothing that was set without a network is lost.

use rusqlite::params;

use super::device_sync::{encoded, notice};
use super::error::Error;
use super::groups::{GroupRow, GroupState};
use super::hmac::RootKey;
use super::installation::{Installation, Work};
use super::intents;
use super::join::load;
use crate::wire::proto::device_sync::consent_backup::ConsentSave;
use crate::wire::proto::device_sync::content::device_sync_content::Content;
use crate::wire::proto::device_sync::content::history_notice::Notice;
use crate::wire::proto::device_sync::content::preference_update::Update;
use crate::wire::proto::device_sync::content::{HmacKeyUpdate, PreferenceUpdate, PreferenceUpdates, RecordedMessages};

/// Decisions in one message.
const UPDATES_AT_ONCE: usize = 500;
/// Bytes of recorded messages in one message; nodes take a megabyte and more.
const RECORDED_BYTES: usize = 256 * 1024;

/// What is waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Decisions about consent.
    pub consents: u64,
    /// Messages that the application recorded.
    pub messages: u64,
    /// Whether a new root key for HMACs is to be made.
    pub hmac_due: bool,
    /// Messages and commits for groups that have not come back yet.
    pub intents: u64,
    /// Those that were given up after many attempts.
    pub failed: u64,
}

/// What has become messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Decisions about consent.
    pub consents: usize,
    /// Messages that the application recorded.
    pub messages: usize,
    /// Whether there is a new root key for HMACs.
    pub hmac: bool,
}

impl Installation {
    /// What is waiting to be told.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn outbox(&self) -> Result<Waiting, Error> {
        self.store.read(|connection| {
            let waiting = connection.query_row(
                "SELECT (SELECT count(*) FROM consents_to_send), (SELECT count(*) FROM messages_to_send),
                        (SELECT hmac_cycle_due FROM installation),
                        (SELECT count(*) FROM intents WHERE state <> ?1),
                        (SELECT count(*) FROM intents WHERE state = ?1)",
                [intents::State::Failed as i64],
                |row| {
                    Ok(Waiting {
                        consents: row.get(0)?,
                        messages: row.get(1)?,
                        hmac_due: row.get(2)?,
                        intents: row.get(3)?,
                        failed: row.get(4)?,
                    })
                },
            )?;
            Ok(waiting)
        })
    }

    /// Makes messages of a sync group of everything that is waiting. Where there is nobody to tell, it is forgotten: who comes
    /// later gets an archive.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], or any error of the database; nothing has changed then.
    pub fn flush_outbox(&self, group_id: &[u8]) -> Result<Flushed, Error> {
        let waiting = self.outbox()?;
        if waiting.consents == 0 && waiting.messages == 0 && !waiting.hmac_due {
            return Ok(Flushed::default());
        }
        let work = self.work()?;
        let row = GroupRow::load(work.connection(), group_id)?.filter(|row| row.is_sync_group());
        if row.is_none_or(|row| row.state != GroupState::Active) {
            return Err(Error::NoSuchGroup);
        }
        let mut flushed = Flushed::default();
        let is_alone = load(&work.provider(), group_id)?.members().count() == 1
            && !intents::adds_installations(work.connection(), group_id)?;
        let due: bool = work.connection().query_row("SELECT hmac_cycle_due FROM installation", [], |row| row.get(0))?;
        if due {
            let update = new_hmac_root(&work)?;
            flushed.hmac = true;
            if !is_alone {
                self.tell(&work, group_id, vec![PreferenceUpdate { update: Some(Update::Hmac(update)) }])?;
            }
        }
        if is_alone {
            work.connection().execute("DELETE FROM consents_to_send", [])?;
            work.transaction.forget_recorded()?;
            work.commit()?;
            return Ok(flushed);
        }
        let updates = decisions(&work)?;
        flushed.consents = updates.len();
        for updates in updates.chunks(UPDATES_AT_ONCE) {
            self.tell(&work, group_id, updates.to_vec())?;
        }
        work.connection().execute("DELETE FROM consents_to_send", [])?;
        while let Some(recorded) = work.transaction.take_recorded(RECORDED_BYTES)? {
            flushed.messages += recorded.messages;
            if recorded.messages > 0 {
                let recorded = Notice::Recorded(RecordedMessages { elements: recorded.elements });
                self.say(&work, group_id, &notice(recorded))?;
            }
        }
        work.commit()?;
        Ok(flushed)
    }

    fn tell(&self, work: &Work<'_>, group_id: &[u8], updates: Vec<PreferenceUpdate>) -> Result<(), Error> {
        self.say(work, group_id, &encoded(Content::PreferenceUpdates(PreferenceUpdates { updates })))?;
        Ok(())
    }
}

/// The decisions that are to be told, as they stand now; what others have decided since is known to them.
fn decisions(work: &Work<'_>) -> Result<Vec<PreferenceUpdate>, Error> {
    let mut select = work.connection().prepare_cached(
        "SELECT entity_type, entity, state, consented_at_ns
           FROM consents_to_send JOIN consent_records USING (entity_type, entity)
          WHERE sequence_id = 0 ORDER BY consented_at_ns",
    )?;
    let updates = select.query_map([], |row| {
        let save = ConsentSave {
            entity_type: row.get(0)?,
            entity: row.get(1)?,
            state: row.get(2)?,
            consented_at_ns: row.get(3)?,
        };
        Ok(PreferenceUpdate { update: Some(Update::Consent(save)) })
    })?;
    Ok(updates.collect::<Result<_, _>>()?)
}

/// Makes a new root key. It is newer than the one before, whatever the clock says.
fn new_hmac_root(work: &Work<'_>) -> Result<HmacKeyUpdate, Error> {
    let root = RootKey::generate()?;
    let before: i64 =
        work.connection().query_row("SELECT hmac_cycled_at_ns FROM installation", [], |row| row.get(0))?;
    let cycled_at_ns = before.saturating_add(1).max(work.now_ns);
    work.connection().execute(
        "UPDATE installation SET hmac_cycle_due = 0, hmac_key = ?1, hmac_cycled_at_ns = ?2",
        params![root.as_bytes().as_slice(), cycled_at_ns],
    )?;
    Ok(HmacKeyUpdate { key: root.as_bytes().to_vec(), cycled_at_ns })
}
