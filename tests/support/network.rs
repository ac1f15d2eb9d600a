//! A node in memory, and installations that are synced with it as the Python client does.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use xmtp_history::identity::{Identifier, WalletSignature};
use xmtp_history::mls::{Error, GroupRow, Installation, Received, Update, Welcomed};
use xmtp_history::store::{ConversationQuery, MessageQuery, Store};
use xmtp_history::wire::proto::identity::api::v1 as identity_api;
use xmtp_history::wire::proto::identity::api::v1::get_identity_updates_response::{IdentityUpdateLog, Response};
use xmtp_history::wire::proto::mls::api::v1 as api;
use xmtp_history::wire::proto::mls::message_contents as contents;

use crate::identity_support::{address, personal, wallet};

#[path = "peer.rs"]
mod peer;
#[allow(unused_imports, reason = "not every test has one")]
pub use peer::Peer;

pub const STORE_KEY: [u8; 32] = [7; 32];
const PAGE: usize = 100;

pub fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

// --- the node ---------------------------------------------------------------------------------------------------------

/// What a node keeps (node specification, sections 2 to 4), under one counter.
#[derive(Default)]
pub struct Node {
    last_id: Cell<u64>,
    pub messages: RefCell<Vec<api::group_message::V1>>,
    pub welcomes: RefCell<Vec<api::welcome_message::V1>>,
    pub logs: RefCell<BTreeMap<String, Vec<IdentityUpdateLog>>>,
    pub packages: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// How many requests with messages came, repetitions included.
    pub sends: Cell<usize>,
    /// How long a page is; zero for what the node specification says.
    pub page: Cell<usize>,
}

impl Node {
    pub fn new() -> Rc<Self> {
        Rc::new(Self::default())
    }

    pub fn next_id(&self) -> u64 {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    pub fn publish_identity(&self, request: &[u8]) -> u64 {
        let update = identity_api::PublishIdentityUpdateRequest::decode(request).unwrap().identity_update.unwrap();
        let id = self.next_id();
        let entry = IdentityUpdateLog { sequence_id: id, server_timestamp_ns: now_ns(), update: Some(update.clone()) };
        self.logs.borrow_mut().entry(update.inbox_id).or_default().push(entry);
        id
    }

    pub fn identity(&self, requests: &[(String, u64)]) -> Vec<u8> {
        let logs = self.logs.borrow();
        let responses = requests
            .iter()
            .map(|(inbox_id, after)| Response {
                inbox_id: inbox_id.clone(),
                updates: logs
                    .get(inbox_id)
                    .into_iter()
                    .flatten()
                    .filter(|entry| entry.sequence_id > *after)
                    .cloned()
                    .collect(),
            })
            .collect();
        identity_api::GetIdentityUpdatesResponse { responses }.encode_to_vec()
    }

    /// The last entry of an inbox's log.
    pub fn sequence_id(&self, inbox_id: &str) -> u64 {
        self.logs.borrow()[inbox_id].last().unwrap().sequence_id
    }

    pub fn upload(&self, package: &[u8]) {
        self.packages.borrow_mut().insert(package[71..103].to_vec(), package.to_vec());
    }

    pub fn key_packages(&self, installations: &[[u8; 32]]) -> Vec<u8> {
        let packages = self.packages.borrow();
        let key_packages = installations
            .iter()
            .map(|id| api::fetch_key_packages_response::KeyPackage {
                key_package_tls_serialized: packages.get(&id[..]).cloned().unwrap_or_default(),
            })
            .collect();
        api::FetchKeyPackagesResponse { key_packages }.encode_to_vec()
    }

    /// Takes messages as a node does: a repetition changes nothing.
    pub fn send(&self, request: &[u8]) -> Vec<u64> {
        self.sends.set(self.sends.get() + 1);
        let request = api::SendGroupMessagesRequest::decode(request).unwrap();
        request
            .messages
            .into_iter()
            .map(|message| {
                let Some(api::group_message_input::Version::V1(message)) = message.version else { panic!() };
                assert!(!message.should_push && message.sender_hmac.len() == 32);
                let front = &message.data[..30];
                assert_eq!(front[..5], [0, 1, 0, 2, 16], "a private message of a group with 16 bytes in its id");
                let known = self.messages.borrow().iter().find(|known| known.data == message.data).map(|m| m.id);
                known.unwrap_or_else(|| self.post(&front[5..21], &message.data))
            })
            .collect()
    }

    /// Posts anything under any group's id, as everybody can.
    pub fn post(&self, group_id: &[u8], data: &[u8]) -> u64 {
        let id = self.next_id();
        self.messages.borrow_mut().push(api::group_message::V1 {
            id,
            created_ns: now_ns(),
            group_id: group_id.to_vec(),
            data: data.to_vec(),
            sender_hmac: vec![0; 32],
            should_push: true,
            is_commit: data.get(29) == Some(&3),
        });
        id
    }

    pub fn messages_of(&self, group_id: &[u8]) -> Vec<api::group_message::V1> {
        self.messages.borrow().iter().filter(|message| message.group_id == group_id).cloned().collect()
    }

    fn page_size(&self) -> usize {
        if self.page.get() == 0 { PAGE } else { self.page.get() }
    }

    pub fn query(&self, group_id: &[u8], cursor: u64) -> Vec<u8> {
        let mut messages = self.messages_of(group_id);
        messages.retain(|message| message.id > cursor);
        messages.truncate(self.page_size());
        answer(messages, self.page_size())
    }

    pub fn send_welcomes(&self, request: &[u8]) {
        for message in api::SendWelcomeMessagesRequest::decode(request).unwrap().messages {
            let Some(api::welcome_message_input::Version::V1(message)) = message.version else { panic!() };
            self.post_welcome(message);
        }
    }

    pub fn post_welcome(&self, message: api::welcome_message_input::V1) {
        let known = self.welcomes.borrow().iter().any(|known| known.data == message.data);
        if known {
            return;
        }
        let id = self.next_id();
        self.welcomes.borrow_mut().push(api::welcome_message::V1 {
            id,
            created_ns: now_ns(),
            installation_key: message.installation_key,
            data: message.data,
            hpke_public_key: message.hpke_public_key,
            wrapper_algorithm: message.wrapper_algorithm,
            welcome_metadata: message.welcome_metadata,
        });
    }

    pub fn welcomes_of(&self, installation: &[u8]) -> Vec<api::welcome_message::V1> {
        self.welcomes.borrow().iter().filter(|welcome| welcome.installation_key == installation).cloned().collect()
    }

    pub fn query_welcomes(&self, installation: &[u8], cursor: u64) -> Vec<u8> {
        let mut welcomes = self.welcomes_of(installation);
        welcomes.retain(|welcome| welcome.id > cursor);
        welcomes.truncate(self.page_size());
        welcome_answer(welcomes, self.page_size())
    }
}

fn paging(ids: impl ExactSizeIterator<Item = u64>, limit: usize) -> Option<api::PagingInfo> {
    let id_cursor = if ids.len() < limit { 0 } else { ids.last().unwrap_or(0) };
    Some(api::PagingInfo { direction: 1, limit: u32::try_from(limit).unwrap(), id_cursor })
}

/// A node's answer with messages.
pub fn answer(messages: Vec<api::group_message::V1>, limit: usize) -> Vec<u8> {
    let paging_info = paging(messages.iter().map(|message| message.id), limit);
    let wrap = |message| api::GroupMessage { version: Some(api::group_message::Version::V1(message)) };
    api::QueryGroupMessagesResponse { messages: messages.into_iter().map(wrap).collect(), paging_info }.encode_to_vec()
}

/// A node's answer with welcomes.
pub fn welcome_answer(welcomes: Vec<api::welcome_message::V1>, limit: usize) -> Vec<u8> {
    let paging_info = paging(welcomes.iter().map(|welcome| welcome.id), limit);
    let wrap = |welcome| api::WelcomeMessage { version: Some(api::welcome_message::Version::V1(welcome)) };
    api::QueryWelcomeMessagesResponse { messages: welcomes.into_iter().map(wrap).collect(), paging_info }
        .encode_to_vec()
}

// --- installations ----------------------------------------------------------------------------------------------------

/// A wallet's identifier and the inbox of its nonce 0.
pub fn inbox_of(secret: u8) -> (Identifier, String) {
    let identifier = Identifier::address(&address(&wallet(secret))).unwrap();
    let inbox_id = identifier.inbox_id(0).unwrap();
    (identifier, inbox_id)
}

/// An installation in a file, and the node it talks to.
pub struct Client {
    pub node: Rc<Node>,
    pub directory: tempfile::TempDir,
    wallet: u8,
    installation: RefCell<Option<Installation>>,
    /// Opens the installation anew before every single call.
    pub restarts: Cell<bool>,
    /// Forgets after every request that the node has taken it, once.
    pub crashes: Cell<bool>,
}

/// What a pass over groups has done.
#[derive(Default, Debug)]
pub struct Pass {
    pub joined: Vec<Vec<u8>>,
    pub dropped: Vec<(u64, String)>,
    pub messages: Vec<[u8; 32]>,
    pub sync_messages: Vec<[u8; 32]>,
    pub refused: Vec<(u64, String)>,
    pub commits: usize,
}

impl Client {
    /// An installation that is not registered.
    pub fn unregistered(node: &Rc<Node>, wallet: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client = Self {
            node: Rc::clone(node),
            directory,
            wallet,
            installation: RefCell::new(None),
            restarts: Cell::new(false),
            crashes: Cell::new(false),
        };
        client.reopen();
        client
    }

    /// Registers an installation of the wallet's inbox, which is made if there is none (specification, section 1.6).
    pub fn register(node: &Rc<Node>, wallet: u8) -> Self {
        let client = Self::unregistered(node, wallet);
        let inbox_id = client.inbox_id();
        client.fetch(&BTreeSet::from([inbox_id.clone()]));
        client.upload_key_package();
        let exists = client.get().inbox_state(&inbox_id).unwrap().is_some();
        client.publish(&if exists { Update::Add } else { Update::Create { nonce: 0 } });
        client.fetch(&BTreeSet::from([inbox_id]));
        assert!(client.get().registered_at_ns().unwrap().is_some());
        client
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("history.db")
    }

    pub fn reopen(&self) {
        self.reopen_with(Duration::from_secs(5));
    }

    /// Opens it anew; `timeout` is how long it waits for other writers.
    pub fn reopen_with(&self, timeout: Duration) {
        *self.installation.borrow_mut() = None;
        let store = Store::open(&self.path(), &STORE_KEY, timeout).unwrap();
        let installation = Installation::open(Arc::new(store), Some(&inbox_of(self.wallet).1)).unwrap();
        *self.installation.borrow_mut() = Some(installation);
    }

    pub fn close(&self) {
        *self.installation.borrow_mut() = None;
    }

    pub fn get(&self) -> Ref<'_, Installation> {
        Ref::map(self.installation.borrow(), |installation| installation.as_ref().unwrap())
    }

    /// One call of the installation, as a process of its own where that is asked for.
    pub fn step<T>(&self, call: impl FnOnce(&Installation) -> T) -> T {
        if self.restarts.get() {
            self.reopen();
        }
        call(&self.get())
    }

    pub fn inbox_id(&self) -> String {
        inbox_of(self.wallet).1
    }

    pub fn id(&self) -> [u8; 32] {
        self.get().installation_id()
    }

    pub fn publish(&self, update: &Update) -> u64 {
        let (identifier, _) = inbox_of(self.wallet);
        let time = now_ns();
        let text = self.step(|i| i.signature_text(update, &identifier, time)).unwrap();
        let signature = WalletSignature::Personal(personal(&wallet(self.wallet), &text));
        let request = self.step(|i| i.signed_update(update, &identifier, time, signature)).unwrap();
        self.node.publish_identity(&request)
    }

    pub fn revoke(&self, installations: &[[u8; 32]]) {
        self.publish(&Update::Revoke { installations: installations.to_vec() });
        self.fetch(&BTreeSet::from([self.inbox_id()]));
    }

    pub fn upload_key_package(&self) -> bool {
        let Some(upload) = self.step(|i| i.key_package_to_upload()).unwrap() else { return false };
        self.node.upload(&upload.bytes);
        self.step(|i| i.key_package_uploaded(&upload.init_key)).unwrap();
        true
    }

    pub fn fetch(&self, inboxes: &BTreeSet<String>) -> BTreeSet<String> {
        let wanted: Vec<String> = inboxes.iter().cloned().collect();
        let cursors = self.step(|i| i.identity_cursors(&wanted)).unwrap();
        let answer = self.node.identity(&wanted.into_iter().zip(cursors).collect::<Vec<_>>());
        let ingested = self.step(|i| i.ingest_identity(&answer)).unwrap();
        assert!(ingested.unverified.is_empty());
        inboxes.clone()
    }

    /// Hands something to the installation until it misses no more identity logs; what came before is told once.
    fn with_identities<T>(
        &self,
        mut call: impl FnMut(&Installation, &BTreeSet<String>) -> Result<T, Error>,
        missing: impl Fn(&T) -> &Vec<(String, u64)>,
        mut each: impl FnMut(&T),
    ) -> Result<T, Error> {
        let mut fresh = BTreeSet::new();
        loop {
            let result = self.step(|i| call(i, &fresh))?;
            each(&result);
            let wanted: BTreeSet<String> = missing(&result).iter().map(|(inbox_id, _)| inbox_id.clone()).collect();
            let wanted = wanted.difference(&fresh).cloned().collect::<BTreeSet<_>>();
            if wanted.is_empty() {
                return Ok(result);
            }
            fresh.extend(self.fetch(&wanted));
        }
    }

    pub fn take_welcomes(&self, answer: &[u8], pass: &mut Pass) -> Result<Welcomed, Error> {
        self.with_identities(
            |i, fresh| i.receive_welcomes(answer, fresh, false),
            |welcomed| &welcomed.missing,
            |welcomed| {
                pass.joined.extend(welcomed.joined.iter().cloned());
                pass.dropped.extend(welcomed.dropped.iter().cloned());
            },
        )
    }

    pub fn take(&self, group_id: &[u8], answer: &[u8], pass: &mut Pass) -> Result<Received, Error> {
        self.with_identities(
            |i, fresh| i.receive_messages(group_id, answer, fresh),
            |received| &received.missing,
            |received| {
                pass.messages.extend(&received.messages);
                pass.sync_messages.extend(&received.sync_messages);
                pass.refused.extend(received.refused.iter().cloned());
                pass.commits += received.commits;
            },
        )
    }

    pub fn welcomes(&self) -> Pass {
        let mut pass = Pass::default();
        loop {
            let cursor = self.step(|i| i.welcome_cursor()).unwrap();
            let answer = self.node.query_welcomes(&self.id(), cursor);
            let welcomed = self.take_welcomes(&answer, &mut pass).unwrap();
            if !welcomed.missing.is_empty() || !welcomed.more || welcomed.cursor == cursor {
                break;
            }
        }
        self.upload_key_package();
        pass
    }

    pub fn receive(&self, group_id: &[u8]) -> Pass {
        let mut pass = Pass::default();
        loop {
            let cursor = self.row(group_id).cursor;
            let answer = self.node.query(group_id, cursor);
            let received = self.take(group_id, &answer, &mut pass).unwrap();
            if !received.missing.is_empty() || !received.more || received.group.cursor <= cursor {
                return pass;
            }
        }
    }

    pub fn row(&self, group_id: &[u8]) -> GroupRow {
        self.step(|i| i.group(group_id)).unwrap().expect("the group is known")
    }

    /// Fetches welcomes, and the messages of the followed groups of one kind.
    pub fn sync(&self, sync_groups: bool) -> Pass {
        self.fetch(&BTreeSet::from([self.inbox_id()]));
        let mut pass = self.welcomes();
        for group in self.step(|i| i.groups()).unwrap() {
            if group.is_sync_group() == sync_groups && group.state.is_followed() {
                let received = self.receive(&group.id);
                pass.messages.extend(received.messages);
                pass.sync_messages.extend(received.sync_messages);
                pass.refused.extend(received.refused);
                pass.commits += received.commits;
            }
        }
        pass
    }

    pub fn sync_conversations(&self) -> Pass {
        self.sync(false)
    }

    pub fn sync_sync_groups(&self, create: bool) -> Pass {
        let pass = self.sync(true);
        if create {
            self.sync_group();
        }
        self.flush();
        pass
    }

    /// The primary sync group; a new one where one is wanted.
    pub fn sync_group(&self) -> Vec<u8> {
        let groups = self.step(|i| i.sync_groups()).unwrap();
        if groups.wanted.is_none() {
            return groups.primary.unwrap();
        }
        let others = self.step(|i| i.other_installations()).unwrap();
        let packages = self.node.key_packages(&others);
        self.step(|i| i.create_sync_group(&others, &packages)).unwrap()
    }

    pub fn say(&self, content: &[u8]) -> [u8; 32] {
        self.fetch(&BTreeSet::from([self.inbox_id()]));
        self.welcomes();
        let primary = self.sync_group();
        let id = self.step(|i| i.send_sync_message(&primary, content)).unwrap();
        self.flush();
        id
    }

    pub fn flush(&self) {
        for group_id in self.step(|i| i.outgoing_groups()).unwrap() {
            self.flush_group(&group_id);
        }
        self.flush_welcomes();
    }

    pub fn flush_group(&self, group_id: &[u8]) {
        for _ in 0..20 {
            let Ok(prepared) = self.step(|i| i.prepare(group_id, false)) else { return };
            if let Some(outgoing) = prepared {
                self.node.send(&outgoing.request);
                if self.crashes.get() {
                    self.reopen();
                    let again = self.get().prepare(group_id, false).unwrap().unwrap();
                    assert_eq!(again, outgoing, "what was prepared stays as it is");
                    self.node.send(&again.request);
                }
                self.step(|i| i.published(&outgoing.keys)).unwrap();
                continue;
            }
            if !self.step(|i| i.outgoing_groups()).unwrap().contains(&group_id.to_vec()) {
                return;
            }
            let before = self.row(group_id).cursor;
            self.receive(group_id);
            if self.row(group_id).cursor == before {
                return;
            }
        }
    }

    pub fn flush_welcomes(&self) {
        while let Some(outgoing) = self.step(|i| i.prepare_welcomes()).unwrap() {
            self.node.send_welcomes(&outgoing.request);
            if self.crashes.get() {
                self.reopen();
                let again = self.get().prepare_welcomes().unwrap().unwrap();
                self.node.send_welcomes(&again.request);
            }
            self.step(|i| i.welcomes_sent(&outgoing.keys)).unwrap();
        }
    }

    /// What was said in a sync group: by whom, and what.
    pub fn said(&self, group_id: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let messages = self.step(|i| i.sync_messages(Some(group_id), 0, 1000)).unwrap();
        messages.into_iter().map(|message| (message.sender_installation_id, message.content)).collect()
    }

    pub fn authenticator(&self, group_id: &[u8]) -> Vec<u8> {
        self.step(|i| i.group_details(group_id)).unwrap().epoch_authenticator
    }

    /// The stored messages of a conversation, oldest first.
    pub fn stored(&self, group_id: &[u8]) -> Vec<Stored> {
        let mut stored = Vec::new();
        let query = MessageQuery {
            group_id: group_id.to_vec(),
            limit: 1000,
            content_bytes: usize::MAX,
            ..MessageQuery::default()
        };
        self.get()
            .store()
            .messages(&query, &mut |view| {
                let message = view.message;
                stored.push(Stored {
                    id: message.id.to_vec(),
                    kind: message.kind,
                    content: message.decrypted_message_bytes.to_vec(),
                    content_type: message.content_type.to_owned(),
                    sender_inbox_id: message.sender_inbox_id.to_owned(),
                    sender_installation_id: message.sender_installation_id.to_vec(),
                    sent_at_ns: message.sent_at_ns,
                    sequence_id: message.sequence_id,
                    originator_id: message.originator_id,
                    expire_at_ns: view.expire_at_ns,
                });
            })
            .unwrap();
        stored
    }

    /// The texts among them.
    pub fn texts(&self, group_id: &[u8]) -> Vec<String> {
        let texts = self.stored(group_id).into_iter().filter(|message| message.content_type == "text");
        texts.map(|message| text_of(&message.content)).collect()
    }

    /// The changes among them.
    pub fn changes(&self, group_id: &[u8]) -> Vec<contents::GroupUpdated> {
        let changes = self.stored(group_id).into_iter().filter(|message| message.content_type == "group_updated");
        changes
            .map(|message| {
                let content = contents::EncodedContent::decode(message.content.as_slice()).unwrap();
                contents::GroupUpdated::decode(content.content.as_slice()).unwrap()
            })
            .collect()
    }

    pub fn conversation(&self, group_id: &[u8]) -> Option<Conversation> {
        let mut found = None;
        let query = ConversationQuery { limit: 1000, ..ConversationQuery::default() };
        self.get()
            .store()
            .conversations(&query, &mut |view| {
                if view.group.id != group_id {
                    return;
                }
                let metadata = view.group.mutable_metadata.as_ref().unwrap();
                let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
                found = Some(Conversation {
                    is_active: view.is_active,
                    conversation_type: view.group.conversation_type,
                    created_at_ns: view.group.created_at_ns,
                    added_by: view.group.added_by_inbox_id.to_owned(),
                    creator: view.group.metadata.as_ref().unwrap().creator_inbox_id.to_owned(),
                    dm_id: view.group.dm_id.map(str::to_owned),
                    attributes: metadata
                        .attributes
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect(),
                    admins: list(&metadata.admin_list),
                    super_admins: list(&metadata.super_admin_list),
                    paused: view.group.paused_for_version.map(str::to_owned),
                    disappear: (view.group.message_disappear_from_ns, view.group.message_disappear_in_ns),
                    welcome_id: view.group.welcome_id,
                });
            })
            .unwrap();
        found
    }

    pub fn consents(&self) -> Vec<(i32, String, i32, i64)> {
        let mut found = Vec::new();
        self.get()
            .store()
            .consents(None, 1000, &mut |consent| {
                found.push((consent.entity_type, consent.entity.to_owned(), consent.state, consent.consented_at_ns));
            })
            .unwrap();
        found
    }

    /// Everything that is in the database, but for when it was written.
    pub fn dump(&self) -> BTreeMap<String, Vec<String>> {
        let dumped: Result<_, xmtp_history::store::Error> = self.get().store().read(|connection| {
            let mut select = connection.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")?;
            let names: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut tables = BTreeMap::new();
            for name in names {
                let mut select = connection.prepare(&format!("SELECT * FROM {name}"))?;
                let columns = select.column_count();
                let rows = select.query_map([], |row| {
                    let values: Result<Vec<_>, _> =
                        (0..columns).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect();
                    Ok(format!("{:?}", values?))
                })?;
                let mut rows: Vec<String> = rows.collect::<Result<_, _>>()?;
                rows.sort();
                tables.insert(name, rows);
            }
            Ok(tables)
        });
        dumped.unwrap()
    }

    /// Changes the database behind the installation's back.
    pub fn execute(&self, sql: &str) -> u64 {
        let installation = self.get();
        let transaction = installation.store().transaction().unwrap();
        let connection = transaction.connection();
        connection.execute_batch(sql).unwrap();
        let changed = connection.changes();
        // The store's own way to commit looks at tables that may be hidden just now.
        connection.execute_batch("COMMIT; BEGIN").unwrap();
        changed
    }
}

/// A message as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub id: Vec<u8>,
    pub kind: i32,
    pub content: Vec<u8>,
    pub content_type: String,
    pub sender_inbox_id: String,
    pub sender_installation_id: Vec<u8>,
    pub sent_at_ns: i64,
    pub sequence_id: Option<i64>,
    pub originator_id: Option<i64>,
    pub expire_at_ns: Option<i64>,
}

/// A conversation as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    pub is_active: bool,
    pub conversation_type: i32,
    pub created_at_ns: i64,
    pub added_by: String,
    pub creator: String,
    pub dm_id: Option<String>,
    pub attributes: BTreeMap<String, String>,
    pub admins: Vec<String>,
    pub super_admins: Vec<String>,
    pub paused: Option<String>,
    pub disappear: (Option<i64>, Option<i64>),
    pub welcome_id: Option<i64>,
}

/// The `EncodedContent` of a text.
pub fn text(text: &str) -> Vec<u8> {
    contents::EncodedContent {
        r#type: Some(contents::ContentTypeId {
            authority_id: "xmtp.org".into(),
            type_id: "text".into(),
            version_major: 1,
            version_minor: 0,
        }),
        content: text.into(),
        ..Default::default()
    }
    .encode_to_vec()
}

pub fn text_of(content: &[u8]) -> String {
    String::from_utf8(contents::EncodedContent::decode(content).unwrap().content).unwrap()
}
