//! Messages of a group: decrypting, checking, storing and following commits (identity specification, sections 4.3 and 4.4).

use std::collections::BTreeSet;

use openmls::group::{MlsGroup, ProcessMessageError, StagedCommit};
use openmls::prelude::tls_codec::DeserializeBytes as _;
use openmls::prelude::{MlsMessageIn, ProcessedMessage, ProcessedMessageContent, Sender};
use openmls_traits::OpenMlsProvider as _;
use prost::Message as _;

use super::conversations::{Said, time};
use super::device_sync::News;
use super::envelope::{self, Envelope};
use super::error::Error;
use super::extensions::{ConversationType, GroupExtensions};
use super::framing::{ContentType, Framing};
use super::groups::{GroupRow, GroupState};
use super::inboxes::{Inboxes, States};
use super::installation::{Installation, Work};
use super::intents::{self, Intent, Kind};
use super::join::{MAX_PAST_EPOCHS, load};
use super::provider::Provider;
use super::rules::{self, CommitChanges, Refusal};
use crate::crypto::Sha256;
use crate::identity::AssociationState;
use crate::wire::proto::mls::api::v1::{QueryGroupMessagesResponse, group_message};

/// What became of a page of a group's messages.
#[derive(Debug)]
pub struct Received {
    /// How many messages the page held.
    pub count: usize,
    /// Whether the node has more.
    pub more: bool,
    /// The group after it.
    pub group: GroupRow,
    /// Messages that are new in the history.
    pub messages: Vec<[u8; 32]>,
    /// Messages of a sync group that rules F1 to F6 let through.
    pub sync_messages: Vec<[u8; 32]>,
    /// What these say.
    pub news: News,
    /// How many commits were applied.
    pub commits: usize,
    /// Commits that break a rule, by message id, and which; members all skip them.
    pub refused: Vec<(u64, String)>,
    /// Identity updates that are needed before the next message can be handled.
    pub missing: Vec<(String, u64)>,
}

/// Whether to go on after a message.
enum Step {
    Done,
    /// The message has to be seen again.
    Stop,
}

/// One page of one group.
struct Page<'p, 'w> {
    installation: &'p Installation,
    work: &'p Work<'w>,
    provider: &'p Provider<'p>,
    fresh: &'p BTreeSet<String>,
    group: MlsGroup,
    has_intents: bool,
    /// The inbox's own state, once a message of a sync group asked for it.
    own_state: Option<AssociationState>,
    received: Received,
}

impl Installation {
    /// Handles a `QueryGroupMessagesResponse`, or single messages of a stream in the same form, in one transaction:
    /// messages are decrypted and stored, commits followed, and the cursor moves behind what was handled.
    ///
    /// It stops before a commit for which identity updates are `missing`; after they were fetched, the same answer is given
    /// again, with the inboxes that were fetched as `fresh`.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], [`Error::MalformedAnswer`], or any error of the database; nothing is changed then.
    pub fn receive_messages(
        &self,
        group_id: &[u8],
        answer: &[u8],
        fresh: &BTreeSet<String>,
    ) -> Result<Received, Error> {
        let answer = QueryGroupMessagesResponse::decode(answer)
            .map_err(|_| Error::MalformedAnswer("messages cannot be decoded"))?;
        let count = answer.messages.len();
        let more = count > 0 && answer.paging_info.is_some_and(|paging| paging.id_cursor != 0);
        let mut messages = Vec::with_capacity(count);
        for message in answer.messages {
            match message.version {
                Some(group_message::Version::V1(message)) if message.group_id == group_id => messages.push(message),
                // Its id must not move this group's cursor.
                Some(_) => return Err(Error::MalformedAnswer("it is about another group")),
                None => return Err(Error::MalformedAnswer("a message of no known version")),
            }
        }
        messages.sort_by_key(|message| message.id);
        let work = self.work()?;
        let mut row = GroupRow::load(work.connection(), group_id)?.ok_or(Error::NoSuchGroup)?;
        let provider = work.provider();
        let following = row.state.is_followed() && messages.last().is_some_and(|message| message.id > row.cursor);
        let received = |group| Received {
            count,
            more,
            group,
            messages: Vec::new(),
            sync_messages: Vec::new(),
            news: News::default(),
            commits: 0,
            refused: Vec::new(),
            missing: Vec::new(),
        };
        if !following {
            return Ok(received(row));
        }
        let group = load(&provider, group_id)?;
        if row.state == GroupState::Paused {
            let extensions = GroupExtensions::parse(group.extensions());
            if extensions.is_ok_and(|group| rules::paused_by(&group.mutable_metadata).is_some()) {
                return Ok(received(row));
            }
            // A newer release does what the group asks for.
            row.mark(GroupState::Active, "");
        }
        let has_intents = intents::any_prepared(work.connection(), group_id)?;
        let mut page = Page {
            installation: self,
            work: &work,
            provider: &provider,
            fresh,
            group,
            has_intents,
            own_state: None,
            received: received(row),
        };
        for message in messages {
            if message.id <= page.received.group.cursor {
                continue;
            }
            match page.message(&message)? {
                Step::Done => page.received.group.cursor = message.id,
                Step::Stop => break,
            }
            if !page.received.group.state.is_followed() {
                break;
            }
        }
        page.write_secrets()?;
        let received = page.received;
        provider.storage().flush()?;
        received.group.save(work.connection())?;
        drop(provider);
        work.commit()?;
        Ok(received)
    }
}

impl Page<'_, '_> {
    fn message(&mut self, message: &group_message::V1) -> Result<Step, Error> {
        // Anybody may post anything under a group's id.
        let Some(framing) = Framing::read(&message.data) else { return Ok(self.unreadable()) };
        if framing.group_id != self.received.group.id {
            return Ok(self.unreadable());
        }
        if self.has_intents {
            let mut hash = Sha256::new();
            hash.update(&message.data);
            if let Some(intent) = intents::by_payload(self.work.connection(), &hash.finish())? {
                return self.own(message, &framing, &intent);
            }
        }
        let epoch = self.group.epoch().as_u64();
        match framing.content_type {
            // Standalone proposals mean nothing in groups that can be followed (section 4.3).
            ContentType::Proposal => return Ok(Step::Done),
            ContentType::Commit if framing.epoch < epoch => return Ok(Step::Done),
            ContentType::Application if framing.epoch.saturating_add(MAX_PAST_EPOCHS) < epoch => {
                return Ok(self.unreadable());
            }
            ContentType::Commit | ContentType::Application => {}
        }
        if framing.epoch > epoch {
            // Either a commit was lost, or somebody posted rubbish, which anybody can: the group is suspected, but goes on. The
            // next commit that is valid here clears it.
            if self.received.group.state == GroupState::Active && self.received.group.reason.is_empty() {
                self.received.group.reason = format!(
                    "a message of epoch {} came in epoch {epoch}, so a commit may have been lost",
                    framing.epoch
                );
            }
            return Ok(self.unreadable());
        }
        let parsed = MlsMessageIn::tls_deserialize_exact_bytes(&message.data)
            .ok()
            .and_then(|parsed| parsed.try_into_protocol_message().ok());
        let Some(parsed) = parsed else { return Ok(self.unreadable()) };
        if framing.content_type == ContentType::Application {
            self.provider.storage().put_off_secrets();
        } else {
            // If a commit is refused, the group is loaded again.
            self.write_secrets()?;
        }
        match self.group.process_message(self.provider, parsed) {
            Ok(processed) => self.processed(message, processed),
            Err(error) => self.unprocessed(framing.content_type, &error),
        }
    }

    /// Has the secrets written that messages have changed since that was put off.
    fn write_secrets(&mut self) -> Result<(), Error> {
        if self.provider.storage().ask_for_secrets() {
            // Of all that makes OpenMLS write them, this changes nothing else.
            let unchanged = self.group.past_epoch_deletion_policy().clone();
            if self.group.set_past_epoch_deletion_policy(self.provider, unchanged).is_err() {
                return Err(super::join::failure(self.provider, "keeping the secrets of a group"));
            }
            self.provider.storage().accept();
        }
        Ok(())
    }

    fn unreadable(&mut self) -> Step {
        self.received.group.undecryptable += 1;
        Step::Done
    }

    /// OpenMLS does not take a message, which leaves no trace in the group.
    fn unprocessed<E: std::error::Error + 'static>(
        &mut self,
        content_type: ContentType,
        error: &ProcessMessageError<E>,
    ) -> Result<Step, Error> {
        self.provider.storage().discard();
        if let Some(failure) = self.provider.storage().failure() {
            return Err(failure.into());
        }
        if content_type == ContentType::Commit && is_about_lifetime(error) {
            // Real clients do not look at the lifetime here and go on without us (section 8).
            let reason = "a commit adds a key package that is not valid at this time, so it cannot be followed";
            self.received.group.mark(GroupState::Forked, reason);
            return Ok(Step::Stop);
        }
        Ok(self.unreadable())
    }

    fn processed(&mut self, message: &group_message::V1, processed: ProcessedMessage) -> Result<Step, Error> {
        let sender = processed.sender().clone();
        let credential = processed.credential().clone();
        match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(bytes) => {
                // What was consumed stays consumed, also if the content turns out to be nothing.
                self.provider.storage().accept();
                let Sender::Member(leaf) = sender else { return Ok(self.unreadable()) };
                let Some(member) = self.group.member_at(leaf).filter(|member| member.credential == credential) else {
                    return Ok(self.unreadable());
                };
                let Ok(inbox_id) = rules::leaf_inbox_id(&member.credential) else { return Ok(self.unreadable()) };
                self.application(message, &inbox_id, &member.signature_key, &bytes.into_bytes())?;
                Ok(Step::Done)
            }
            ProcessedMessageContent::StagedCommitMessage(commit) => self.commit(message, *commit, &sender),
            // Our own come back under a payload that is known; others of ours were sent by a copy of the database.
            _ => {
                self.provider.storage().discard();
                Ok(Step::Done)
            }
        }
    }

    fn application(
        &mut self,
        message: &group_message::V1,
        inbox_id: &str,
        installation_id: &[u8],
        bytes: &[u8],
    ) -> Result<(), Error> {
        let Ok(Envelope::V1 { content, idempotency_key }) = envelope::decode(bytes) else { return Ok(()) };
        let said = Said {
            sender_inbox_id: inbox_id,
            sender_installation_id: installation_id,
            idempotency_key: &idempotency_key,
            content: &content,
            sent_at_ns: time(message.created_ns),
            sequence_id: message.id,
        };
        let group_id = &self.received.group.id;
        if !self.received.group.is_sync_group() {
            self.received.messages.extend(self.work.store_message(group_id, &said)?);
            return Ok(());
        }
        if inbox_id != self.installation.inbox_id || !self.is_own_installation(installation_id)? {
            // F4: neither strangers nor installations that were revoked.
            return Ok(());
        }
        let id = envelope::message_id(&self.received.group.id, &idempotency_key, &content);
        if let Some(content) = envelope::device_sync_content(&content) {
            let is_new =
                intents::store_sync_message(self.work.connection(), &id, &self.received.group.id, &said, &content)?;
            if is_new {
                self.installation.heard(self.work, &id, &said, &content, &mut self.received.news)?;
                self.received.sync_messages.push(id);
            }
        }
        Ok(())
    }

    fn is_own_installation(&mut self, installation_id: &[u8]) -> Result<bool, Error> {
        if self.own_state.is_none() {
            self.own_state = self.work.inboxes().latest(&self.installation.inbox_id)?;
        }
        let Ok(installation_id) = <[u8; 32]>::try_from(installation_id) else { return Ok(false) };
        Ok(self.own_state.as_ref().is_some_and(|state| state.is_installation(&installation_id)))
    }

    fn commit(&mut self, message: &group_message::V1, commit: StagedCommit, sender: &Sender) -> Result<Step, Error> {
        let inboxes = Inboxes::new(self.work.connection());
        let states = States::new(&inboxes, self.fresh);
        let validated = rules::validate_commit(&self.group, &commit, sender, &states);
        if let Some(error) = states.failure.take() {
            return Err(error);
        }
        let changes = match validated {
            Ok(changes) => changes,
            Err(refusal) => return self.refuse(message, refusal),
        };
        if self.group.merge_staged_commit(self.provider, commit).is_err() {
            return Err(super::join::failure(self.provider, "applying a commit"));
        }
        self.provider.storage().accept();
        // Whatever we had prepared for this epoch has lost.
        intents::lost(self.work.connection(), &self.received.group.id)?;
        self.applied(message, &changes)?;
        Ok(Step::Done)
    }

    /// The rules do not let a commit through. OpenMLS has consumed a key for it, which is undone.
    fn refuse(&mut self, message: &group_message::V1, refusal: Refusal) -> Result<Step, Error> {
        self.provider.storage().discard();
        self.group = load(self.provider, &self.received.group.id)?;
        match refusal {
            Refusal::MissingIdentity(missing) => {
                self.received.missing = missing;
                Ok(Step::Stop)
            }
            Refusal::Paused { minimum } => {
                self.received.group.mark(GroupState::Paused, minimum);
                self.conversation()?;
                Ok(Step::Stop)
            }
            Refusal::Unsupported(reason) => {
                self.received.group.mark(GroupState::Unsupported, reason.to_string());
                Ok(Step::Stop)
            }
            refusal => {
                self.received.refused.push((message.id, refusal.to_string()));
                Ok(Step::Done)
            }
        }
    }

    /// Takes over what a commit has changed.
    fn applied(&mut self, message: &group_message::V1, changes: &CommitChanges) -> Result<(), Error> {
        self.received.commits += 1;
        let row = &mut self.received.group;
        row.epoch = self.group.epoch().as_u64();
        // A commit of this very epoch is valid, so none had been lost.
        row.mark(GroupState::Active, "");
        if row.is_sync_group() {
            if let Err(breach) = rules::check_sync_commit(&self.installation.inbox_id, changes) {
                row.mark(GroupState::Untrusted, breach.to_string());
            }
        } else {
            self.work.store_group_updated(&row.id, changes, message.created_ns, message.id)?;
        }
        if changes.self_removed {
            self.received.group.mark(GroupState::Removed, "the installation was removed");
        }
        self.conversation()
    }

    /// Writes the conversation as the group stands.
    fn conversation(&mut self) -> Result<(), Error> {
        let row = &self.received.group;
        if row.is_sync_group() {
            return Ok(());
        }
        match GroupExtensions::parse(self.group.extensions()) {
            Ok(mut group) => {
                // Any member may replace extension 0xf000, and real clients do not look; whose DM it is does not change.
                group.metadata.dm_members = self.work.dm_members(&row.id)?;
                if row.conversation_type == ConversationType::Dm as i32 && group.metadata.dm_members.is_none() {
                    return Ok(());
                }
                self.work.store_conversation(&self.installation.inbox_id, row, &group)
            }
            // The rules let no commit through that ends like this.
            Err(_) => Ok(()),
        }
    }

    /// Something of ours has come back.
    fn own(&mut self, message: &group_message::V1, framing: &Framing<'_>, intent: &Intent) -> Result<Step, Error> {
        self.write_secrets()?;
        let connection = self.work.connection();
        let epoch = self.group.epoch().as_u64();
        if !intent.is_commit() {
            if framing.epoch.saturating_add(MAX_PAST_EPOCHS) < epoch {
                // Nobody can read it any more, so it is said again.
                intents::again(connection, intent.key)?;
            } else {
                let sent_at_ns = time(message.created_ns);
                intents::seen(connection, intent, message.id, sent_at_ns)?;
                if let Some(content) = envelope::device_sync_content(&intent.content) {
                    let news = &mut self.received.news;
                    self.installation.preferences_seen(self.work, &content, sent_at_ns, message.id, news)?;
                }
            }
            return Ok(Step::Done);
        }
        if framing.epoch != epoch || self.group.pending_commit().is_none() {
            // Another commit won, and has sent it back to be prepared again.
            return Ok(Step::Done);
        }
        let inboxes = Inboxes::new(connection);
        let states = States::new(&inboxes, self.fresh);
        let own = Sender::Member(self.group.own_leaf_index());
        let validated = match self.group.pending_commit() {
            Some(commit) => rules::validate_commit(&self.group, commit, &own, &states),
            None => return Ok(Step::Done),
        };
        if let Some(error) = states.failure.take() {
            return Err(error);
        }
        match validated {
            Ok(changes) => {
                if self.group.merge_pending_commit(self.provider).is_err() {
                    return Err(super::join::failure(self.provider, "applying an own commit"));
                }
                self.provider.storage().accept();
                intents::won(connection, intent, message.id)?;
                self.received.group.key_update_due_at_ns =
                    Some(self.work.now_ns.saturating_add(intents::KEY_UPDATE_NS));
                self.applied(message, &changes)?;
                Ok(Step::Done)
            }
            Err(Refusal::MissingIdentity(missing)) => {
                self.received.missing = missing;
                Ok(Step::Stop)
            }
            Err(refusal) => {
                // The others refuse it as well.
                self.received.refused.push((message.id, refusal.to_string()));
                if intent.kind == Kind::AddInstallations {
                    self.received.group.mark(GroupState::Removed, refusal.to_string());
                }
                if self.group.clear_pending_commit(self.provider.storage()).is_err() {
                    return Err(super::join::failure(self.provider, "forgetting an own commit"));
                }
                self.provider.storage().accept();
                intents::lost(connection, &self.received.group.id)?;
                Ok(Step::Done)
            }
        }
    }
}

/// Whether a lifetime is what OpenMLS does not like in a commit. Its error for key packages stands behind several others that
/// show only its text.
fn is_about_lifetime<E: std::error::Error + 'static>(error: &ProcessMessageError<E>) -> bool {
    matches!(error, ProcessMessageError::ValidationError(_) | ProcessMessageError::InvalidCommit(_))
        && error.to_string().starts_with("Lifetime is in the ")
}
