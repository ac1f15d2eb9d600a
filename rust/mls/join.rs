//! Welcomes: unwrapping, checking and joining (identity specification, section 4.2).

use std::collections::BTreeSet;

use openmls::group::{MlsGroup, MlsGroupJoinConfig, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, StagedWelcome};
use openmls::key_packages::KeyPackageBundle;
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageBodyIn, MlsMessageIn, SenderRatchetConfiguration};
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::storage::StorageProvider as _;
use prost::Message as _;
use rusqlite::{OptionalExtension, params};

use super::conversations::time;
use super::error::Error;
use super::extensions::{ConversationType, GroupExtensions};
use super::groups::{GroupRow, GroupState};
use super::inboxes::{Inboxes, States};
use super::installation::{Installation, Work};
use super::key_package;
use super::preferences::hmac_cycle_due;
use super::provider::Provider;
use super::rules::{self, Refusal};
use super::welcome::{self, WrappedWelcome};
use crate::wire::proto::mls::api::v1::{QueryWelcomeMessagesResponse, welcome_message};

/// Epochs back whose messages can still be read (identity specification, section 3.1).
pub(super) const MAX_PAST_EPOCHS: u64 = 3;
/// Messages of one sender that may come in another order, and that may be skipped (identity specification, section 3.1).
const OUT_OF_ORDER_TOLERANCE: u32 = 5;
const MAXIMUM_FORWARD_DISTANCE: u32 = 1000;

/// What became of a page of welcomes.
#[derive(Debug, Default)]
pub struct Welcomed {
    /// How many welcomes the page held.
    pub count: usize,
    /// Whether the node has more.
    pub more: bool,
    /// The highest id that was handled.
    pub cursor: u64,
    /// Groups that were joined, also again.
    pub joined: Vec<Vec<u8>>,
    /// Welcomes that lead nowhere, by id, and why.
    pub dropped: Vec<(u64, String)>,
    /// Identity updates that are needed before the next welcome can be handled.
    pub missing: Vec<(String, u64)>,
}

/// What to do with one welcome.
enum Outcome {
    Joined(Vec<u8>),
    Dropped(String),
    Missing(Vec<(String, u64)>),
}

/// How groups are followed, whether joined or created.
pub(super) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(usize::try_from(MAX_PAST_EPOCHS).unwrap_or(usize::MAX))
        .use_ratchet_tree_extension(true)
        .sender_ratchet_configuration(ratchet_config())
        .build()
}

pub(super) fn ratchet_config() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(OUT_OF_ORDER_TOLERANCE, MAXIMUM_FORWARD_DISTANCE)
}

impl Installation {
    /// Handles a `QueryWelcomeMessagesResponse` in one transaction: joins groups and drops what is not acceptable.
    ///
    /// It stops before a welcome for which identity updates are `missing`; after they were fetched, the same answer is
    /// given again, with the inboxes that were fetched as `fresh`. If they cannot be had, `give_up` drops that one welcome, so
    /// that nobody can hold up the others by adding this installation to a group with an inbox that cannot be verified.
    ///
    /// # Errors
    /// [`Error::MalformedAnswer`], or any error of the database; nothing is changed then.
    pub fn receive_welcomes(
        &self,
        answer: &[u8],
        fresh: &BTreeSet<String>,
        mut give_up: bool,
    ) -> Result<Welcomed, Error> {
        let answer = QueryWelcomeMessagesResponse::decode(answer)
            .map_err(|_| Error::MalformedAnswer("welcomes cannot be decoded"))?;
        let work = self.work()?;
        let cursor: i64 =
            work.connection().query_row("SELECT welcome_cursor FROM installation", [], |row| row.get(0))?;
        let count = answer.messages.len();
        let more = count > 0 && answer.paging_info.is_some_and(|paging| paging.id_cursor != 0);
        let mut welcomed = Welcomed { count, more, cursor: cursor.cast_unsigned(), ..Welcomed::default() };
        let own = self.installation_id();
        let mut welcomes = Vec::new();
        for message in answer.messages {
            match message.version {
                Some(welcome_message::Version::V1(welcome)) if welcome.installation_key == own => {
                    welcomes.push((welcome.id, Some(welcome)));
                }
                Some(welcome_message::Version::WelcomePointer(pointer)) if pointer.installation_key == own => {
                    welcomes.push((pointer.id, None));
                }
                // Its id must not move our cursor.
                Some(_) => return Err(Error::MalformedAnswer("it is about another installation")),
                None => return Err(Error::MalformedAnswer("a welcome of no known version")),
            }
        }
        welcomes.sort_by_key(|(id, _)| *id);
        let provider = work.provider();
        for (id, welcome) in welcomes {
            if id <= welcomed.cursor {
                continue;
            }
            let outcome = match &welcome {
                Some(welcome) => self.join(&work, &provider, welcome, fresh)?,
                None => Outcome::Dropped("welcome pointers are not offered by our key packages".to_owned()),
            };
            match outcome {
                Outcome::Joined(group_id) => {
                    provider.storage().accept();
                    welcomed.joined.push(group_id);
                }
                Outcome::Dropped(reason) => {
                    provider.storage().discard();
                    welcomed.dropped.push((id, reason));
                }
                Outcome::Missing(missing) if give_up => {
                    provider.storage().discard();
                    give_up = false;
                    let reason = format!("the identity updates of {} inboxes cannot be had", missing.len());
                    welcomed.dropped.push((id, reason));
                }
                Outcome::Missing(missing) => {
                    provider.storage().discard();
                    welcomed.missing = missing;
                    break;
                }
            }
            welcomed.cursor = id;
        }
        provider.storage().flush()?;
        work.connection().execute("UPDATE installation SET welcome_cursor = ?1", [welcomed.cursor.cast_signed()])?;
        if welcomed.count > 0 {
            // A last-resort package serves many welcomes, but a fresh one is better for secrecy (section 2.3).
            work.connection().execute(
                "UPDATE installation SET rotate_key_package_at_ns = min(rotate_key_package_at_ns, ?1)",
                [work.now_ns],
            )?;
        }
        drop(provider);
        work.commit()?;
        Ok(welcomed)
    }

    fn join(
        &self,
        work: &Work<'_>,
        provider: &Provider<'_>,
        message: &welcome_message::V1,
        fresh: &BTreeSet<String>,
    ) -> Result<Outcome, Error> {
        let dropped = |reason: &dyn std::fmt::Display| Ok(Outcome::Dropped(reason.to_string()));
        let key_package: Option<Vec<u8>> = work
            .connection()
            .prepare_cached("SELECT key_package FROM key_packages WHERE init_key = ?1")?
            .query_row([&message.hpke_public_key], |row| row.get(0))
            .optional()?;
        let Some(key_package) = key_package else {
            return dropped(&"it is for a key package that is not ours or not any more");
        };
        let hash_reference = key_package::reference(&key_package, provider.crypto())?;
        let bundle: Option<KeyPackageBundle> =
            provider.storage().key_package(&hash_reference).map_err(|_| failure(provider, "reading a key package"))?;
        let Some(bundle) = bundle else { return dropped(&"the private keys of its key package are gone") };
        let wrapped = WrappedWelcome {
            data: &message.data,
            hpke_public_key: &message.hpke_public_key,
            wrapper_algorithm: message.wrapper_algorithm,
            welcome_metadata: &message.welcome_metadata,
        };
        let unwrapped = match welcome::unwrap(&wrapped, bundle.init_private_key()) {
            Ok(unwrapped) => unwrapped,
            Err(error) => return dropped(&error),
        };
        let Ok(message_in) = MlsMessageIn::tls_deserialize_exact_bytes(&unwrapped.welcome_bytes) else {
            return dropped(&"it is malformed");
        };
        let MlsMessageBodyIn::Welcome(welcome) = message_in.extract() else {
            return dropped(&"it holds something else");
        };
        let builder = match StagedWelcome::build_from_welcome(provider, &join_config(), welcome) {
            Ok(builder) => builder,
            Err(error) => return self.refused(provider, &error),
        };
        if !builder.processed_welcome().psks().is_empty() {
            return dropped(&"it uses pre-shared keys");
        }
        let staged = match builder.skip_lifetime_validation().replace_old_group().build() {
            Ok(staged) => staged,
            Err(error) => return self.refused(provider, &error),
        };
        self.enter(work, provider, message, unwrapped.message_cursor, staged, fresh)
    }

    /// Joins the group of a welcome that MLS accepts, if XMTP's rules do.
    fn enter(
        &self,
        work: &Work<'_>,
        provider: &Provider<'_>,
        message: &welcome_message::V1,
        message_cursor: Option<u64>,
        staged: StagedWelcome,
        fresh: &BTreeSet<String>,
    ) -> Result<Outcome, Error> {
        let dropped = |reason: &dyn std::fmt::Display| Ok(Outcome::Dropped(reason.to_string()));
        let group_id = staged.group_context().group_id().as_slice().to_vec();
        let Ok(adder) = staged.welcome_sender() else { return dropped(&"whoever sent it is not a member") };
        let Ok(adder_inbox_id) = rules::leaf_inbox_id(adder.credential()) else {
            return dropped(&"whoever sent it names no inbox");
        };
        let adder_installation_id = adder.signature_key().as_slice().to_vec();
        let known = GroupRow::load(work.connection(), &group_id)?;
        if known.as_ref().is_some_and(|known| {
            matches!(known.state, GroupState::Active | GroupState::Paused)
                && known.epoch >= staged.group_context().epoch().as_u64()
        }) {
            return dropped(&"the group is known already");
        }
        if group_id.len() != crate::store::rules::GROUP_ID_BYTES {
            return dropped(&"the group's id has not 16 bytes");
        }
        let mut row = GroupRow {
            id: group_id.clone(),
            conversation_type: 0,
            state: GroupState::Active,
            reason: String::new(),
            cursor: message_cursor.unwrap_or(0),
            epoch: staged.group_context().epoch().as_u64(),
            created_at_ns: work.now_ns,
            creator_inbox_id: String::new(),
            added_by_inbox_id: adder_inbox_id,
            welcome_id: Some(message.id),
            key_update_due_at_ns: Some(work.now_ns),
            undecryptable: 0,
        };
        let group = match GroupExtensions::parse(staged.group_context().extensions()) {
            Ok(group) => group,
            // Anybody can make a group with the id of one that is followed.
            Err(super::extensions::Error::Unsupported(reason))
                if known.as_ref().is_none_or(|known| !known.state.is_followed()) =>
            {
                // Kept by name only, so that the application can say why nothing is heard of the group.
                row.conversation_type = known.map_or(1, |known| known.conversation_type);
                row.mark(GroupState::Unsupported, reason.to_string());
                row.save(work.connection())?;
                return Ok(Outcome::Dropped(format!("the group cannot be followed: {reason}")));
            }
            Err(error) => return dropped(&error),
        };
        row.conversation_type = group.metadata.conversation_type as i32;
        row.creator_inbox_id.clone_from(&group.metadata.creator_inbox_id);
        if known.as_ref().is_some_and(|known| {
            known.state != GroupState::Unsupported
                && (known.conversation_type, &known.creator_inbox_id) != (row.conversation_type, &row.creator_inbox_id)
        }) {
            return dropped(&"another group with the same id is known");
        }
        let adder = row.added_by_inbox_id.as_str();
        let accepted = match group.metadata.conversation_type {
            ConversationType::Sync => {
                if let Err(breach) = rules::check_sync_group(&self.inbox_id, Some(adder), staged.members(), &group) {
                    return dropped(&breach);
                }
                Ok(())
            }
            ConversationType::Dm => rules::check_dm(&self.inbox_id, adder, &group),
            ConversationType::Group => Ok(()),
            ConversationType::Oneshot => return dropped(&"one-shot groups carry nothing that is kept"),
        };
        let inboxes = Inboxes::new(work.connection());
        let states = States::new(&inboxes, fresh);
        let accepted = accepted.and_then(|()| rules::validate_membership(staged.members(), &group.membership, &states));
        if let Some(error) = states.failure.take() {
            return Err(error);
        }
        match accepted {
            Ok(()) => {}
            Err(Refusal::MissingIdentity(missing)) => return Ok(Outcome::Missing(missing)),
            Err(refusal) => return dropped(&refusal),
        }
        // Real clients look at this in groups alone; others are paused by their next commit.
        if group.metadata.conversation_type == ConversationType::Group
            && let Some(minimum) = rules::paused_by(&group.mutable_metadata)
        {
            row.mark(GroupState::Paused, minimum);
        }
        let group_in_mls = match staged.into_group(provider) {
            Ok(group) => group,
            Err(error) => return self.refused(provider, &error),
        };
        debug_assert_eq!(group_in_mls.group_id().as_slice(), group_id);
        row.save(work.connection())?;
        work.connection().execute("DELETE FROM intents WHERE group_id = ?1", params![group_id])?;
        if row.is_sync_group() {
            // The newcomer does not know the key, and somebody who left may know the last one (device sync spec, section 5e).
            hmac_cycle_due(work.connection())?;
        } else {
            work.store_conversation(&self.inbox_id, &row, &group)?;
            if row.creator_inbox_id == self.inbox_id {
                work.allow_own_conversation(&group_id)?;
            }
            work.store_joined(&self.inbox_id, &row, &adder_installation_id, time(message.created_ns))?;
        }
        Ok(Outcome::Joined(group_id))
    }

    /// MLS does not accept a welcome, unless it was the database that failed.
    fn refused(&self, provider: &Provider<'_>, error: &dyn std::fmt::Display) -> Result<Outcome, Error> {
        match provider.storage().failure() {
            Some(error) => Err(error.into()),
            None => Ok(Outcome::Dropped(error.to_string())),
        }
    }
}

/// The error when OpenMLS failed in something that does not depend on anybody else.
pub(super) fn failure(provider: &Provider<'_>, doing: &'static str) -> Error {
    provider.storage().failure().map_or(Error::Library(doing), Error::from)
}

/// Loads a group's MLS state.
pub(super) fn load(provider: &Provider<'_>, group_id: &[u8]) -> Result<MlsGroup, Error> {
    let group_id = openmls::prelude::GroupId::from_slice(group_id);
    MlsGroup::load(provider.storage(), &group_id)
        .map_err(|_| failure(provider, "loading a group"))?
        .ok_or(Error::NoSuchGroup)
}
