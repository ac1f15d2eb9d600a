//! Sending: what is intended becomes bytes, and stays until it has come back (see `intents`).

use openmls::group::MlsGroup;
use openmls::prelude::tls_codec::Serialize as _;
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;
use rusqlite::params;

use super::conversations::Said;
use super::envelope;
use super::error::Error;
use super::groups::{GroupRow, GroupState};
use super::installation::{Installation, Work};
use super::intents::{self, Intent, Kind, State};
use super::join::{failure, load};
use super::provider::Provider;
use super::{hmac, welcome};
use crate::crypto::Sha256;
use crate::wire::proto::mls::api::v1::{
    GroupMessageInput, SendGroupMessagesRequest, SendWelcomeMessagesRequest, WelcomeMessageInput, group_message_input,
};

/// Welcomes in one request (node specification, section 4).
const WELCOMES_AT_ONCE: i64 = 50;

/// A request to be sent, and what to say when the node has taken it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// For [`Installation::published`] or [`Installation::welcomes_sent`].
    pub keys: Vec<i64>,
    /// `SendGroupMessagesRequest` or `SendWelcomeMessagesRequest`.
    pub request: Vec<u8>,
}

impl Installation {
    /// Intends to say something in one of the inbox's sync groups, and keeps it as said. Returns the message's id.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`] unless it is an active, trusted sync group (F3), or any error of the database.
    pub fn send_sync_message(&self, group_id: &[u8], content: &[u8]) -> Result<[u8; 32], Error> {
        let work = self.work()?;
        let id = self.say(&work, group_id, content)?;
        work.commit()?;
        Ok(id)
    }

    /// As [`Self::send_sync_message`], in a transaction that does more.
    pub(super) fn say(&self, work: &Work<'_>, group_id: &[u8], content: &[u8]) -> Result<[u8; 32], Error> {
        let row = GroupRow::load(work.connection(), group_id)?.filter(|row| row.is_sync_group());
        if row.is_none_or(|row| row.state != GroupState::Active) {
            return Err(Error::NoSuchGroup);
        }
        let encoded = envelope::encode_device_sync(content);
        // Two messages must not have one key, whatever the clock does.
        let mut moment = work.now_ns;
        let mut id = envelope::message_id(group_id, &moment.to_string(), &encoded);
        while work.connection().query_row(
            "SELECT EXISTS (SELECT 1 FROM sync_group_messages WHERE id = ?1)",
            [id.as_slice()],
            |row| row.get::<_, bool>(0),
        )? {
            moment = moment.saturating_add(1);
            id = envelope::message_id(group_id, &moment.to_string(), &encoded);
        }
        let idempotency_key = moment.to_string();
        intents::add(work.connection(), group_id, Kind::Message, &encoded, &idempotency_key)?;
        let said = Said {
            sender_inbox_id: &self.inbox_id,
            sender_installation_id: &self.installation_id(),
            idempotency_key: &idempotency_key,
            content: &encoded,
            sent_at_ns: moment,
            sequence_id: 0,
        };
        intents::store_sync_message(work.connection(), &id, group_id, &said, content)?;
        Ok(id)
    }

    /// Groups for which something is to be sent, or to be seen.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn outgoing_groups(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.store.read(intents::groups)
    }

    /// The next thing to be published to a group; none if there is nothing, or if the group has to be read first because a
    /// commit of ours is under way.
    ///
    /// It is the same bytes until [`Self::published`] was called; for the node that is one message. What was published but
    /// does not come back is given once more with `again`.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], or any error of the database.
    pub fn prepare(&self, group_id: &[u8], again: bool) -> Result<Option<Outgoing>, Error> {
        let work = self.work()?;
        let connection = work.connection();
        let Some(mut row) = GroupRow::load(connection, group_id)?.filter(|row| row.state == GroupState::Active) else {
            return Err(Error::NoSuchGroup);
        };
        if let Some(intent) = intents::in_state(connection, group_id, State::Prepared)?.first() {
            return Ok(Some(Outgoing::message(intent)));
        }
        if again && let Some(intent) = intents::in_state(connection, group_id, State::Published)?.first() {
            return Ok(Some(Outgoing::message(intent)));
        }
        if intents::commit_under_way(connection, group_id)?.is_some() {
            return Ok(None);
        }
        let waiting = intents::in_state(connection, group_id, State::Waiting)?;
        let Some(next) = waiting.into_iter().next() else { return Ok(None) };
        let provider = work.provider();
        let mut group = load(&provider, group_id)?;
        let due = row.key_update_due_at_ns.is_some_and(|due| due <= work.now_ns);
        let (key, payload) = if next.kind == Kind::Message && due {
            let key = intents::add(connection, group_id, Kind::KeyUpdate, &[], "")?;
            row.key_update_due_at_ns = Some(work.now_ns.saturating_add(intents::KEY_UPDATE_NS));
            row.save(connection)?;
            (key, self.key_update(&provider, &mut group)?)
        } else if next.is_commit() {
            (next.key, self.key_update(&provider, &mut group)?)
        } else {
            (next.key, self.encrypt(&provider, &mut group, &next)?)
        };
        provider.storage().accept();
        provider.storage().flush()?;
        drop(provider);
        self.keep_payload(&work, group_id, key, &payload, group.epoch().as_u64())?;
        let outgoing = intents::in_state(connection, group_id, State::Prepared)?.first().map(Outgoing::message);
        work.commit()?;
        Ok(outgoing)
    }

    /// The node has taken what [`Self::prepare`] gave.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn published(&self, keys: &[i64]) -> Result<(), Error> {
        let work = self.work()?;
        for key in keys {
            intents::published(work.connection(), *key)?;
        }
        work.commit()
    }

    /// Welcomes whose commits have won, up to fifty; none if there are none. They are the same bytes every time, until
    /// [`Self::welcomes_sent`] was called.
    ///
    /// # Errors
    /// Any error of the database. A welcome that cannot be sealed is forgotten.
    pub fn prepare_welcomes(&self) -> Result<Option<Outgoing>, Error> {
        let work = self.work()?;
        let connection = work.connection();
        let mut unsealed = connection.prepare_cached(
            "SELECT key, welcome, commit_id, installation_id, init_key FROM welcomes_to_send
              WHERE commit_id IS NOT NULL AND message IS NULL",
        )?;
        let mut rows = unsealed.query([])?;
        while let Some(row) = rows.next()? {
            let (key, bytes, commit_id): (i64, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let (installation_id, init_key): ([u8; 32], Vec<u8>) = (row.get(3)?, row.get(4)?);
            match welcome::wrap(&bytes, commit_id.cast_unsigned(), &installation_id, &init_key) {
                Ok(message) => connection.execute(
                    "UPDATE welcomes_to_send SET message = ?2 WHERE key = ?1",
                    params![key, message.encode_to_vec()],
                )?,
                Err(_) => connection.execute("DELETE FROM welcomes_to_send WHERE key = ?1", [key])?,
            };
        }
        drop(rows);
        drop(unsealed);
        let mut keys = Vec::new();
        let mut messages = Vec::new();
        let mut sealed = connection.prepare_cached(
            "SELECT key, message FROM welcomes_to_send WHERE message IS NOT NULL ORDER BY key LIMIT ?1",
        )?;
        let mut rows = sealed.query([WELCOMES_AT_ONCE])?;
        while let Some(row) = rows.next()? {
            keys.push(row.get(0)?);
            messages.push(
                WelcomeMessageInput::decode(row.get_ref(1)?.as_blob()?)
                    .map_err(|_| Error::Library("reading a sealed welcome"))?,
            );
        }
        drop(rows);
        drop(sealed);
        work.commit()?;
        if keys.is_empty() {
            return Ok(None);
        }
        Ok(Some(Outgoing { keys, request: SendWelcomeMessagesRequest { messages }.encode_to_vec() }))
    }

    /// The node has taken welcomes.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn welcomes_sent(&self, keys: &[i64]) -> Result<(), Error> {
        let work = self.work()?;
        for key in keys {
            work.connection().execute("DELETE FROM welcomes_to_send WHERE key = ?1", params![key])?;
        }
        work.commit()
    }

    fn encrypt(&self, provider: &Provider<'_>, group: &mut MlsGroup, intent: &Intent) -> Result<Vec<u8>, Error> {
        let envelope = envelope::encode(&intent.content, &intent.idempotency_key);
        group
            .create_message(provider, &self.key, &envelope)
            .map_err(|_| failure(provider, "encrypting a message"))?
            .tls_serialize_detached()
            .map_err(|_| Error::Library("encoding a message"))
    }

    /// A commit that does nothing but replace the leaf's key.
    fn key_update(&self, provider: &Provider<'_>, group: &mut MlsGroup) -> Result<Vec<u8>, Error> {
        let doing = "updating a key";
        let bundle = group
            .commit_builder()
            .force_self_update(true)
            .load_psks(provider.storage())
            .map_err(|_| failure(provider, doing))?
            .build(provider.rand(), provider.crypto(), &self.key, |_| false)
            .map_err(|_| failure(provider, doing))?
            .stage_commit(provider)
            .map_err(|_| failure(provider, doing))?;
        bundle.commit().tls_serialize_detached().map_err(|_| Error::Library("encoding a commit"))
    }

    /// Keeps what an intent has become, to be sent until it has come back.
    pub(super) fn keep_payload(
        &self,
        work: &Work<'_>,
        group_id: &[u8],
        key: i64,
        payload: &[u8],
        epoch: u64,
    ) -> Result<(), Error> {
        let mut hash = Sha256::new();
        hash.update(payload);
        let root = self.hmac_root(work.connection())?;
        let sender_hmac = hmac::sender_hmac(&root, group_id, payload, work.now_ns);
        intents::prepared(work.connection(), key, payload, &hash.finish(), &sender_hmac, epoch)
    }
}

impl Outgoing {
    fn message(intent: &Intent) -> Self {
        let message = GroupMessageInput {
            version: Some(group_message_input::Version::V1(group_message_input::V1 {
                data: intent.payload.clone().unwrap_or_default(),
                sender_hmac: intent.sender_hmac.clone().unwrap_or_default(),
                // Neither commits nor what devices tell each other is for people (section 4.5).
                should_push: false,
            })),
        };
        Self { keys: vec![intent.key], request: SendGroupMessagesRequest { messages: vec![message] }.encode_to_vec() }
    }
}
