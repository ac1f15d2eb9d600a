//! What the fuzzers of an installation do with an input, and what must hold. The groups are real and made anew in every
//! process, so an input is not a recording but says what becomes of a genuine answer.
#![allow(dead_code, reason = "each fuzzer uses one")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use openmls::prelude::KeyPackage;
use xmtp_history::mls::extensions::ConversationType;
use xmtp_history::mls::{Error, GroupState, envelope, welcome};
use xmtp_history::wire::proto::mls::api::v1 as api;

use crate::network::{Client, Node, Peer, answer, text, welcome_answer};

/// Makes bytes of other bytes: `input` is a list of a place (two bytes), how many go, how many come, and those.
pub fn edited(bytes: &[u8], mut input: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    while let [high, low, gone, come, rest @ ..] = input {
        let (new, rest) = rest.split_at(usize::from(*come).min(rest.len()));
        let start = usize::from(u16::from_be_bytes([*high, *low])) % (bytes.len() + 1);
        let end = (start + usize::from(*gone)).min(bytes.len());
        bytes.splice(start..end, new.iter().copied());
        input = rest;
    }
    bytes
}

/// What became of an input, for whoever wants to know how deep it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is no answer.
    Malformed,
    /// It was taken, and nothing came of it.
    Nothing,
    /// It was believed.
    Believed,
}

fn malformed(error: &Error) -> Outcome {
    assert!(matches!(error, Error::MalformedAnswer(_)), "{error}");
    Outcome::Malformed
}

/// An installation that knows one inbox with two installations, and forgets its log every time.
pub struct IdentityLogs {
    client: Client,
    name: String,
    ids: BTreeSet<[u8; 32]>,
    genuine: Vec<u8>,
}

impl IdentityLogs {
    pub fn new() -> Self {
        let node = Node::new();
        let client = Client::register(&node, 1);
        let alice = [Peer::new(&node, 2, 5), Peer::new(&node, 2, 6)];
        let name = alice[0].inbox_id().to_owned();
        let genuine = node.identity(&[(name.clone(), 0)]);
        Self { client, name, ids: alice.iter().map(Peer::id).collect(), genuine }
    }

    /// No log is believed in which somebody is named whom the inbox does not have.
    pub fn run(&self, input: &[u8]) -> Outcome {
        let [mode, rest @ ..] = input else { return Outcome::Nothing };
        let bytes = if mode % 2 == 0 { rest.to_vec() } else { edited(&self.genuine, rest) };
        let ingested = match self.client.get().ingest_identity(&bytes) {
            Ok(ingested) => ingested,
            Err(error) => return malformed(&error),
        };
        if ingested.grown.is_empty() {
            return Outcome::Nothing;
        }
        assert!(ingested.grown.iter().eq([&self.name]));
        let state = self.client.get().inbox_state(&self.name).unwrap().unwrap();
        assert!(state.installations().iter().all(|id| self.ids.contains(id)));
        self.client.execute(&format!(
            "DELETE FROM identity_updates WHERE inbox_id = '{0}'; DELETE FROM association_states WHERE inbox_id = '{0}'",
            self.name
        ));
        Outcome::Believed
    }
}

/// An installation that is welcomed to one group, and forgets every time that it has joined.
pub struct Welcomes {
    client: Client,
    node: Rc<Node>,
    inner: Vec<u8>,
    package: KeyPackage,
    group_id: Vec<u8>,
    last_id: Cell<u64>,
    fresh: BTreeSet<String>,
}

impl Welcomes {
    pub fn new() -> Self {
        let node = Node::new();
        let client = Client::register(&node, 1);
        let mut alice = Peer::new(&node, 2, 5);
        let context = alice.context(ConversationType::Group);
        let group_id = alice.create(&context);
        let package = alice.fetched(&client.id());
        let (_, inner) = alice.prepare(alice.adding(&[client.id()], &[&client.inbox_id()]));
        let fresh = BTreeSet::from([client.inbox_id(), alice.inbox_id().to_owned()]);
        client.fetch(&fresh);
        let last_id = Cell::new(1 << 20);
        Self { client, node, inner: inner.unwrap(), package, group_id, last_id, fresh }
    }

    fn wrapped(&self, inner: &[u8]) -> Vec<u8> {
        let init_key = self.package.hpke_init_key().as_slice();
        let wrapped = welcome::wrap(inner, 1, &self.client.id(), init_key).unwrap();
        let Some(api::welcome_message_input::Version::V1(wrapped)) = wrapped.version else { panic!("another version") };
        self.last_id.set(self.last_id.get() + 1);
        let welcome = api::welcome_message::V1 {
            id: self.last_id.get(),
            created_ns: 1,
            installation_key: wrapped.installation_key,
            data: wrapped.data,
            hpke_public_key: wrapped.hpke_public_key,
            wrapper_algorithm: wrapped.wrapper_algorithm,
            welcome_metadata: wrapped.welcome_metadata,
        };
        welcome_answer(vec![welcome], 100)
    }

    fn take(&self, bytes: &[u8]) -> Outcome {
        let welcomed = match self.client.get().receive_welcomes(bytes, &self.fresh, false) {
            Ok(welcomed) => welcomed,
            Err(error) => return malformed(&error),
        };
        self.client.execute("UPDATE installation SET welcome_cursor = 0; DELETE FROM mls_groups");
        if welcomed.joined.is_empty() {
            return Outcome::Nothing;
        }
        assert!(welcomed.joined.iter().all(|id| *id == self.group_id));
        Outcome::Believed
    }

    /// Only the genuine group is joined, and it still is after whatever came before.
    pub fn run(&self, input: &[u8]) -> Outcome {
        let [mode, rest @ ..] = input else { return Outcome::Nothing };
        let outcome = self.take(&match mode % 4 {
            0 => rest.to_vec(),
            1 => edited(&self.wrapped(&self.inner), rest),
            2 => self.wrapped(rest),
            _ => self.wrapped(&edited(&self.inner, rest)),
        });
        assert_eq!(self.take(&self.wrapped(&self.inner)), Outcome::Believed);
        outcome
    }
}

/// An installation in a group.
pub struct GroupMessages {
    client: Client,
    alice: Peer,
    group_id: Vec<u8>,
    last_id: u64,
}

impl GroupMessages {
    pub fn new() -> Self {
        let node = Node::new();
        let client = Client::register(&node, 1);
        let mut alice = Peer::new(&node, 2, 5);
        let context = alice.context(ConversationType::Group);
        let group_id = alice.create(&context);
        alice.add(&[&client]);
        client.sync_conversations();
        Self { client, alice, group_id, last_id: 1 << 20 }
    }

    fn page(&mut self, data: Vec<u8>) -> Vec<u8> {
        self.last_id += 1;
        let group_id = self.group_id.clone();
        answer(
            vec![api::group_message::V1 { id: self.last_id, created_ns: 1, group_id, data, ..Default::default() }],
            100,
        )
    }

    fn said(&mut self) -> Vec<u8> {
        let key = self.alice.next_key();
        self.alice.encrypt(&envelope::encode(&text("said"), &key))
    }

    fn take(&self, bytes: &[u8]) -> Outcome {
        let none = BTreeSet::new();
        let received = match self.client.get().receive_messages(&self.group_id, bytes, &none) {
            Ok(received) => received,
            Err(error) => return malformed(&error),
        };
        assert!(matches!(received.group.state, GroupState::Active | GroupState::Forked));
        assert_eq!((received.commits, received.group.epoch), (0, 1));
        self.client.execute("UPDATE mls_groups SET cursor = 1");
        if received.messages.is_empty() { Outcome::Nothing } else { Outcome::Believed }
    }

    /// Whatever came before, a genuine message is read.
    pub fn run(&mut self, input: &[u8]) -> Outcome {
        let [mode, rest @ ..] = input else { return Outcome::Nothing };
        let bytes = match mode % 5 {
            0 => rest.to_vec(),
            1 => {
                let said = self.said();
                edited(&self.page(said), rest)
            }
            2 => {
                let said = edited(&self.said(), rest);
                self.page(said)
            }
            3 => {
                let data = self.alice.encrypt(rest);
                self.page(data)
            }
            _ => {
                let (commit, _) = self.alice.prepare(crate::mls::Change::default());
                let group = self.alice.leaf.group.as_mut().unwrap();
                let storage = openmls::prelude::OpenMlsProvider::storage(&self.alice.leaf.provider);
                group.clear_pending_commit(storage).unwrap();
                // The commit itself would be followed.
                let commit = edited(&commit, rest);
                let length = commit.len();
                self.page(commit[..length.saturating_sub(1)].to_vec())
            }
        };
        let outcome = self.take(&bytes);
        let said = self.said();
        let page = self.page(said);
        assert_eq!(self.take(&page), Outcome::Believed);
        outcome
    }
}

/// An installation that makes sync groups, and forgets them.
pub struct KeyPackages {
    maker: Client,
    other: [u8; 32],
    answer: Vec<u8>,
    package: Vec<u8>,
    node: Rc<Node>,
}

impl KeyPackages {
    pub fn new() -> Self {
        let node = Node::new();
        let other = Client::register(&node, 1).id();
        let maker = Client::register(&node, 1);
        let package = node.packages.borrow()[&other[..]].clone();
        Self { maker, other, answer: node.key_packages(&[other]), package, node }
    }

    /// A group is made with whoever has a usable package, and its commit can be published.
    pub fn run(&self, input: &[u8]) -> Outcome {
        let [mode, rest @ ..] = input else { return Outcome::Nothing };
        let bytes = match mode % 3 {
            0 => rest.to_vec(),
            1 => edited(&self.answer, rest),
            _ => {
                self.node.packages.borrow_mut().insert(self.other.to_vec(), edited(&self.package, rest));
                self.node.key_packages(&[self.other])
            }
        };
        let group_id = match self.maker.get().create_sync_group(&[self.other], &bytes) {
            Ok(group_id) => group_id,
            Err(error) => return malformed(&error),
        };
        self.maker.flush_group(&group_id);
        let row = self.maker.row(&group_id);
        assert_eq!((row.epoch, row.state), (1, GroupState::Active));
        let members = self.maker.get().group_details(&group_id).unwrap().members.len();
        let welcomes = self.maker.get().prepare_welcomes().unwrap().is_some();
        assert_eq!((members == 2, members == 1), (welcomes, !welcomes));
        self.maker.execute(
            "DELETE FROM mls_groups; DELETE FROM mls_state; DELETE FROM intents; DELETE FROM welcomes_to_send",
        );
        self.node.messages.borrow_mut().clear();
        if welcomes { Outcome::Believed } else { Outcome::Nothing }
    }
}
