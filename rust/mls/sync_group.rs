//! Sync groups: making them, which one is the primary, and which are not to be trusted (device sync specification, section 2).

use std::collections::BTreeMap;

use openmls::group::{MlsGroup, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::{GroupId, KeyPackage};
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;
use rusqlite::params;

use super::error::Error;
use super::extensions::GroupExtensions;
use super::groups::{CONVERSATION_SYNC, GroupRow, GroupState};
use super::installation::{Installation, Work};
use super::intents::{self, Kind};
use super::join::{MAX_PAST_EPOCHS, failure, load, ratchet_config};
use super::preferences::hmac_cycle_due;
use super::{key_package, rules};
use crate::crypto::random_bytes;
use crate::wire::proto::mls::api::v1::FetchKeyPackagesResponse;

/// The inbox's sync groups, as this installation sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncGroups {
    /// Where everything is sent: the trusted one that was made or joined last.
    pub primary: Option<Vec<u8>>,
    /// Why a new one has to be made; none if it need not.
    pub wanted: Option<&'static str>,
}

/// Why a sync group is to be replaced by a fresh one.
const REVOKED: &str = "an installation of the sync group was revoked";
/// As [`REVOKED`]: the others may be listening in the one that is not to be used.
const DISTRUSTED: &str = "a newer sync group is not to be trusted";

/// Something that was said in a sync group.
#[derive(Clone, PartialEq, Eq)]
pub struct SyncMessage {
    /// The message's id.
    pub id: Vec<u8>,
    /// The sync group.
    pub group_id: Vec<u8>,
    /// The node's number; 0 for one of ours that was not seen there yet.
    pub sequence_id: u64,
    /// The node's time, ns; ours until it was seen there.
    pub sent_at_ns: i64,
    /// Who said it.
    pub sender_inbox_id: String,
    /// Who said it.
    pub sender_installation_id: Vec<u8>,
    /// A `DeviceSyncContent`, which may hold the key of an archive: never print it.
    pub content: Vec<u8>,
}

impl Installation {
    /// What was said in one sync group, or in all, in the order of the node. `after` is the sequence id to start behind.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_messages(&self, group_id: Option<&[u8]>, after: u64, limit: u32) -> Result<Vec<SyncMessage>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT id, group_id, sequence_id, sent_at_ns, sender_inbox_id, sender_installation_id, content
                   FROM sync_group_messages WHERE (?1 IS NULL OR group_id = ?1) AND (?2 = 0 OR sequence_id > ?2)
                  ORDER BY sequence_id, sent_at_ns LIMIT ?3",
            )?;
            let messages = select.query_map(params![group_id, after.cast_signed(), limit], |row| {
                Ok(SyncMessage {
                    id: row.get(0)?,
                    group_id: row.get(1)?,
                    sequence_id: row.get::<_, i64>(2)?.cast_unsigned(),
                    sent_at_ns: row.get(3)?,
                    sender_inbox_id: row.get(4)?,
                    sender_installation_id: row.get(5)?,
                    content: row.get(6)?,
                })
            })?;
            Ok(messages.collect::<Result<_, _>>()?)
        })
    }

    /// The inbox's sync groups, judged by what is known of the inbox's log. A sync group with a revoked installation is
    /// still listened to, but a fresh one is to take its place (device sync specification, section 2.6).
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_groups(&self) -> Result<SyncGroups, Error> {
        let work = self.work()?;
        let Some(primary) = primary(&work)? else {
            return Ok(SyncGroups { primary: None, wanted: Some("there is no sync group yet") });
        };
        let provider = work.provider();
        let group = load(&provider, &primary.id)?;
        let state = work.inboxes().latest(&self.inbox_id)?;
        let stale = group.members().any(|member| {
            let id = <[u8; 32]>::try_from(member.signature_key.as_slice());
            !id.is_ok_and(|id| state.as_ref().is_some_and(|state| state.is_installation(&id)))
        });
        // Its first commit, which has not come back yet, is going to add the others.
        let stale = stale && primary.epoch > 0;
        let distrusted = GroupRow::list(work.connection())?.iter().any(|row| {
            row.is_sync_group() && row.state == GroupState::Untrusted && row.created_at_ns > primary.created_at_ns
        });
        let wanted = if stale { Some(REVOKED) } else { distrusted.then_some(DISTRUSTED) };
        Ok(SyncGroups { primary: Some(primary.id), wanted })
    }

    /// The installations that a new sync group has to add: all of the inbox but this one.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn other_installations(&self) -> Result<Vec<[u8; 32]>, Error> {
        let state = self.inbox_state(&self.inbox_id)?;
        let mut others = state.map(|state| state.installations()).unwrap_or_default();
        others.retain(|id| *id != self.installation_id());
        Ok(others)
    }

    /// Makes a sync group with other installations of the inbox, by a node's answer with their key packages in the same
    /// order. Those without a usable package are noted in the group as failed. Returns the group's id.
    ///
    /// The group exists from now on; its first commit and the welcomes are sent by [`Self::prepare`] and
    /// [`Self::prepare_welcomes`].
    ///
    /// # Errors
    /// [`Error::IdentityMissing`] while the inbox's log does not name this installation, [`Error::MalformedAnswer`], or any
    /// error of the database.
    pub fn create_sync_group(&self, others: &[[u8; 32]], key_packages: &[u8]) -> Result<Vec<u8>, Error> {
        let answer = FetchKeyPackagesResponse::decode(key_packages)
            .map_err(|_| Error::MalformedAnswer("key packages cannot be decoded"))?;
        if answer.key_packages.len() != others.len() {
            return Err(Error::MalformedAnswer("there are not as many key packages as were asked for"));
        }
        let work = self.work()?;
        let state = work.inboxes().latest(&self.inbox_id)?;
        let Some(state) = state.filter(|state| self.is_in(Some(state))) else {
            return Err(Error::IdentityMissing(vec![(self.inbox_id.clone(), 0)]));
        };
        let mut extensions = GroupExtensions::sync_group(&self.inbox_id, Some(random_bytes()?));
        let mut usable: BTreeMap<[u8; 32], KeyPackage> = BTreeMap::new();
        // The log may have grown since the packages were asked for. Joiners want to see exactly those of its last entry.
        let mut live = state.installations();
        live.retain(|id| *id != self.installation_id());
        for (id, answer) in others.iter().zip(&answer.key_packages).filter(|(id, _)| live.contains(id)) {
            if let Some(package) = self.usable_key_package(id, &answer.key_package_tls_serialized, work.now_ns) {
                usable.insert(*id, package);
            }
        }
        let failed = live.iter().filter(|id| !usable.contains_key(*id)).map(|id| id.to_vec());
        let provider = work.provider();
        let doing = "making a sync group";
        let id: [u8; 16] = random_bytes()?;
        let context = extensions.to_extensions().map_err(|_| Error::Library(doing))?;
        let mut group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(&id))
            .ciphersuite(key_package::CIPHERSUITE)
            .with_wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(usize::try_from(MAX_PAST_EPOCHS).unwrap_or(usize::MAX))
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(ratchet_config())
            .with_capabilities(key_package::creator_capabilities())
            .with_group_context_extensions(context.clone())
            .build(&provider, &self.key, self.key.credential(&self.inbox_id)?)
            .map_err(|_| failure(&provider, doing))?;
        extensions.membership.members.insert(self.inbox_id.clone(), state.last_sequence_id());
        extensions.membership.failed_installations.extend(failed);
        let context = extensions.membership.replace_in(&context).map_err(|_| Error::Library(doing))?;
        let bundle = group
            .commit_builder()
            .propose_adds(usable.values().cloned())
            .propose_group_context_extensions(context)
            .map_err(|_| Error::Library(doing))?
            .load_psks(provider.storage())
            .map_err(|_| failure(&provider, doing))?
            .build(provider.rand(), provider.crypto(), &self.key, |_| true)
            .map_err(|_| failure(&provider, doing))?
            .stage_commit(&provider)
            .map_err(|_| failure(&provider, doing))?;
        let (commit, welcome, _) = bundle.into_messages();
        let commit = commit.tls_serialize_detached().map_err(|_| Error::Library(doing))?;
        provider.storage().accept();
        provider.storage().flush()?;
        if GroupRow::list(work.connection())?.iter().any(GroupRow::is_sync_group) {
            // It takes the place of another one, because somebody had to be left out.
            hmac_cycle_due(work.connection())?;
        }
        let row = GroupRow {
            id: id.to_vec(),
            conversation_type: CONVERSATION_SYNC,
            state: GroupState::Active,
            reason: String::new(),
            cursor: 0,
            epoch: 0,
            created_at_ns: work.now_ns,
            creator_inbox_id: self.inbox_id.clone(),
            added_by_inbox_id: self.inbox_id.clone(),
            welcome_id: None,
            key_update_due_at_ns: Some(work.now_ns.saturating_add(intents::KEY_UPDATE_NS)),
            undecryptable: 0,
        };
        row.save(work.connection())?;
        let intent = intents::add(work.connection(), &id, Kind::AddInstallations, &[], "")?;
        if let Some(welcome) = welcome {
            let welcome = welcome.tls_serialize_detached().map_err(|_| Error::Library(doing))?;
            for (installation_id, package) in &usable {
                work.connection().execute(
                    "INSERT INTO welcomes_to_send (intent_key, installation_id, init_key, welcome)
                     VALUES (?1, ?2, ?3, ?4)",
                    params![intent, installation_id, package.hpke_init_key().as_slice(), welcome],
                )?;
            }
        }
        drop(provider);
        self.keep_payload(&work, &id, intent, &commit, 0)?;
        work.commit()?;
        Ok(id.to_vec())
    }

    /// A key package of another installation of the inbox, if the group can take it.
    fn usable_key_package(&self, id: &[u8; 32], bytes: &[u8], now_ns: i64) -> Option<KeyPackage> {
        let now_seconds = u64::try_from(now_ns / 1_000_000_000).unwrap_or(0);
        let package = key_package::parse_and_verify(bytes, now_seconds).ok()?;
        if package.installation_key != *id || package.inbox_id != self.inbox_id {
            return None;
        }
        // A package that cannot be added would fail the whole commit.
        key_package::check_in_throwaway_group(bytes).ok()?;
        Some(package.key_package)
    }

    /// Judges all stored sync groups anew (F6).
    pub(super) fn revalidate_sync_groups(&self) -> Result<(), Error> {
        let work = self.work()?;
        let mut changed = false;
        for mut row in GroupRow::list(work.connection())? {
            if !row.is_sync_group() || !row.state.is_followed() {
                continue;
            }
            let provider = work.provider();
            let group = load(&provider, &row.id)?;
            let judged =
                GroupExtensions::parse(group.extensions()).map_err(|error| error.to_string()).and_then(|extensions| {
                    rules::check_sync_group(&self.inbox_id, Some(&row.added_by_inbox_id), group.members(), &extensions)
                        .map_err(|breach| breach.to_string())
                });
            if let Err(reason) = judged {
                row.mark(GroupState::Untrusted, reason);
                row.save(work.connection())?;
                changed = true;
            }
        }
        if changed { work.commit() } else { Ok(()) }
    }
}

fn primary(work: &Work<'_>) -> Result<Option<GroupRow>, Error> {
    let groups = GroupRow::list(work.connection())?;
    Ok(groups
        .into_iter()
        .filter(|row| row.is_sync_group() && row.state == GroupState::Active)
        // Groups that came with one answer have one time; the later welcome is the later group then.
        .max_by_key(|row| (row.created_at_ns, row.welcome_id)))
}
