//! What keeps an installation from following a group: newer clients, broken rules, missing logs, lost commits, expired key packages
//! (identity specification, sections 4.3, 6 and 8).

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use mls::Change;
use network::{Client, Node, Peer};
use openmls::prelude::tls_codec::Serialize as _;
use openmls::prelude::*;
use xmtp_history::mls::extensions::{ConversationType, GROUP_NAME, MINIMUM_SUPPORTED_PROTOCOL_VERSION};
use xmtp_history::mls::{Error, GroupState};

const OWN: u8 = 1;
const ALICE: u8 = 2;
const BOB: u8 = 3;

/// An installation in a group that Alice has made.
fn joined(node: &Rc<Node>) -> (Client, Peer, Vec<u8>) {
    let client = Client::register(node, OWN);
    let mut alice = Peer::new(node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    alice.add(&[&client]);
    let pass = client.sync_conversations();
    assert_eq!((pass.joined, pass.dropped), (vec![group_id.clone()], vec![]));
    (client, alice, group_id)
}

fn set(name: &'static str, value: &str) -> impl FnOnce(&mut xmtp_history::mls::extensions::GroupExtensions) {
    move |extensions| drop(extensions.mutable_metadata.attributes.insert(name.into(), value.into()))
}

#[test]
fn a_group_that_asks_for_a_newer_client_is_paused_before_the_commit() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let said = alice.say("before");
    alice.update(set(MINIMUM_SUPPORTED_PROTOCOL_VERSION, "99.0.0"));
    alice.say("not for us");
    for _ in 0..3 {
        client.sync_conversations();
        let row = client.row(&group_id);
        assert_eq!((row.state, row.reason.as_str(), row.cursor), (GroupState::Paused, "99.0.0", said));
        assert_eq!(row.undecryptable, 0);
        assert_eq!(client.conversation(&group_id).unwrap().paused.as_deref(), Some("99.0.0"));
        assert!(matches!(client.get().prepare(&group_id, false), Err(Error::NoSuchGroup)));
        client.reopen();
    }
    assert_eq!(client.texts(&group_id), ["before"]);
}

#[test]
fn a_group_that_asks_for_a_newer_client_is_paused_when_it_is_joined() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut alice = Peer::new(&node, ALICE, 5);
    let mut context = alice.context(ConversationType::Group);
    set(MINIMUM_SUPPORTED_PROTOCOL_VERSION, "1.11.0")(&mut context);
    let group_id = alice.create(&context);
    alice.add(&[&client]);
    alice.say("not for us");
    client.sync_conversations();
    let row = client.row(&group_id);
    assert_eq!((row.state, row.reason.as_str()), (GroupState::Paused, "1.11.0"));
    assert_eq!(row.cursor, node.messages_of(&group_id)[0].id);
    assert_eq!(client.conversation(&group_id).unwrap().paused.as_deref(), Some("1.11.0"));
    assert_eq!(client.texts(&group_id), Vec::<String>::new());
    // What we already are is no reason to pause.
    let mut context = alice.context(ConversationType::Group);
    set(MINIMUM_SUPPORTED_PROTOCOL_VERSION, "1.10.0")(&mut context);
    let group_id = alice.create(&context);
    alice.add(&[&client]);
    alice.say("for us");
    client.sync_conversations();
    assert_eq!(client.texts(&group_id), ["for us"]);
}

#[test]
fn a_migrated_group_is_marked_and_left_alone() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let said = alice.say("before");
    let mut migrated = alice.leaf.group().extensions().clone();
    migrated.remove(ExtensionType::Unknown(0xff01)).unwrap();
    let left = [0xf000, 0xff00, 0xff02].map(ExtensionType::Unknown);
    let required = RequiredCapabilitiesExtension::new(&left, &[], &[CredentialType::Basic]);
    migrated.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
    alice.commit(Change { extensions: Some(migrated), ..Change::default() });
    alice.say("not for us");
    client.sync_conversations();
    let row = client.row(&group_id);
    assert_eq!((row.state, row.cursor), (GroupState::Unsupported, said));
    assert!(!row.reason.is_empty());
    client.reopen();
    client.sync_conversations();
    assert_eq!(client.row(&group_id), row);
    assert_eq!(client.texts(&group_id), ["before"]);
}

#[test]
fn a_welcome_to_a_migrated_group_is_noted_by_name_only() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut alice = Peer::new(&node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    alice.create_with_id(&context, &[3; 16], true);
    let package = alice.fetched(&client.id());
    alice.commit(Change { adds: vec![package], ..Change::default() });
    let pass = client.sync_conversations();
    assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1));
    let row = client.row(&[3; 16]);
    assert_eq!(row.state, GroupState::Unsupported);
    assert!(client.conversation(&[3; 16]).is_none());
    assert!(matches!(client.get().group_details(&[3; 16]), Err(Error::NoSuchGroup)));
    client.reopen();
    client.sync_conversations();
}

#[test]
fn a_refused_commit_is_skipped_and_a_later_valid_one_of_its_epoch_followed() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let mut bob = Peer::new(&node, BOB, 6);
    let carol = Peer::new(&node, 4, 8);
    alice.add_peers(&[&bob]);
    bob.join();
    client.sync_conversations();
    // Bob may not change the permissions, remove anybody, make admins, or add without raising an id.
    let admin = bob.inbox_id().to_owned();
    let change = Change {
        extensions: bob.changed(|extensions| extensions.mutable_metadata.admins.push(admin)),
        ..Change::default()
    };
    let mut refused = vec![bob.commit_in_vain(change)];
    let change = bob.removing(&client.inbox_id());
    refused.push(bob.commit_in_vain(change));
    let change = bob.adding(&[carol.id()], &[]);
    refused.push(bob.commit_in_vain(change));
    let said = alice.say("in between");
    let valid = bob.update_key();
    // She follows whatever comes, so the others are not shown to her.
    alice.cursor = said;
    alice.receive();
    alice.say("and after it");
    let pass = client.sync_conversations();
    assert_eq!(pass.refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), refused);
    assert_eq!(pass.commits, 1);
    assert!(said < valid);
    assert_eq!(client.texts(&group_id), ["in between", "and after it"]);
    assert_eq!(client.row(&group_id).undecryptable, 0);
    assert_eq!(client.conversation(&group_id).unwrap().admins, Vec::<String>::new());
}

#[test]
fn a_losing_commit_of_the_same_epoch_is_skipped() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let mut bob = Peer::new(&node, BOB, 6);
    alice.add_peers(&[&bob]);
    bob.join();
    let (commit, _) = bob.prepare(Change::default());
    let won = alice.update(set(GROUP_NAME, "won"));
    node.post(&group_id, &commit);
    alice.say("after");
    let pass = client.sync_conversations();
    assert_eq!((pass.commits, pass.refused.len()), (2, 0));
    assert!(client.row(&group_id).cursor > won);
    assert_eq!(client.row(&group_id).state, GroupState::Active);
    assert_eq!(client.texts(&group_id), ["after"]);
    assert_eq!(client.authenticator(&group_id), alice.authenticator());
}

#[test]
fn identity_logs_that_are_missing_are_asked_for_and_then_used() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let bob = Peer::new(&node, BOB, 6);
    let commit = alice.add_peers(&[&bob]);
    alice.say("after bob came");
    let page = node.query(&group_id, client.row(&group_id).cursor);
    let none = BTreeSet::new();
    for _ in 0..2 {
        let received = client.get().receive_messages(&group_id, &page, &none).unwrap();
        assert_eq!(received.missing, vec![(bob.inbox_id().to_owned(), node.sequence_id(bob.inbox_id()))]);
        assert!(received.group.cursor < commit);
        assert_eq!(client.row(&group_id).cursor, received.group.cursor);
    }
    client.fetch(&BTreeSet::from([bob.inbox_id().to_owned()]));
    let fresh = BTreeSet::from([bob.inbox_id().to_owned()]);
    let received = client.get().receive_messages(&group_id, &page, &fresh).unwrap();
    assert_eq!((received.missing, received.commits, received.messages.len()), (vec![], 1, 1));
    assert_eq!(client.texts(&group_id), ["after bob came"]);
}

#[test]
fn an_identity_update_that_does_not_exist_is_a_permanent_refusal() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let bob = Peer::new(&node, BOB, 6);
    let name = bob.inbox_id().to_owned();
    let future = node.sequence_id(&name) + 1000;
    let mut change = alice.adding(&[bob.id()], &[]);
    let raised = [(name, future)];
    change.extensions = alice.changed(|extensions| extensions.membership.members.extend(raised));
    let refused = alice.commit_in_vain(change);
    alice.say("goes on");
    let pass = client.sync_conversations();
    assert_eq!(pass.refused.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [refused]);
    assert_eq!(client.texts(&group_id), ["goes on"]);
    // The same in a welcome.
    let context = alice.context(ConversationType::Group);
    alice.create(&context);
    let mut change = alice.adding(&[client.id()], &[]);
    let raised = [(client.inbox_id(), future)];
    change.extensions = alice.changed(|extensions| extensions.membership.members.extend(raised));
    alice.commit(change);
    let pass = client.sync_conversations();
    assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1));
    assert_eq!(client.get().welcome_cursor().unwrap(), node.welcomes.borrow().last().unwrap().id);
}

#[test]
fn a_lost_commit_is_reported() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say("before");
    let lost = alice.update_key();
    node.messages.borrow_mut().retain(|message| message.id != lost);
    let unread = alice.say("cannot be read");
    let after = alice.update_key();
    client.sync_conversations();
    let row = client.row(&group_id);
    assert_eq!((row.maybe_forked(), row.epoch, row.cursor), (true, 1, after));
    assert_eq!((row.undecryptable, unread < after), (2, true));
    assert!(row.reason.contains("epoch 2"), "{}", row.reason);
    assert_eq!(client.texts(&group_id), ["before"]);
    // A welcome at any epoch brings the installation back.
    alice.remove(&client.inbox_id());
    alice.add(&[&client]);
    alice.say("mended");
    assert_eq!(client.sync_conversations().joined, vec![group_id.clone()]);
    assert!(!client.row(&group_id).maybe_forked());
    assert_eq!(client.texts(&group_id), ["before", "mended"]);
}

#[test]
fn rubbish_of_a_future_epoch_is_mended_by_the_next_valid_commit() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let mut rubbish = alice.encrypt(b"anything");
    rubbish[21..29].copy_from_slice(&u64::MAX.to_be_bytes());
    node.post(&group_id, &rubbish);
    alice.say("read all the same");
    client.sync_conversations();
    // Anybody can post this, so it must not stop anything.
    let row = client.row(&group_id);
    assert_eq!((row.state, row.maybe_forked()), (GroupState::Active, true));
    assert_eq!(client.texts(&group_id), ["read all the same"]);
    alice.update_key();
    alice.say("and this");
    client.sync_conversations();
    let row = client.row(&group_id);
    assert_eq!((row.state, row.reason.as_str(), row.undecryptable), (GroupState::Active, "", 1));
    assert_eq!(client.texts(&group_id), ["read all the same", "and this"]);
}

#[test]
fn a_commit_with_an_expired_key_package_stops_the_group() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let bob = Peer::new(&node, BOB, 6);
    let credential = xmtp_history::mls::rules::credential::credential(bob.inbox_id());
    let package = KeyPackage::builder()
        .leaf_node_capabilities(bob.leaf.capabilities.clone())
        .key_package_lifetime(Lifetime::init(0, now_seconds() + 2))
        .mark_as_last_resort()
        .build(mls::SUITE, &bob.leaf.provider, &bob.leaf.key, bob.leaf.with_key(credential))
        .unwrap()
        .key_package()
        .clone();
    node.upload(&package.tls_serialize_detached().unwrap());
    let said = alice.say("before");
    alice.add_peers(&[&bob]);
    alice.say("cannot be read");
    std::thread::sleep(Duration::from_secs(4));
    for _ in 0..2 {
        client.sync_conversations();
        let row = client.row(&group_id);
        assert_eq!((row.state, row.cursor, row.undecryptable), (GroupState::Forked, said, 0), "{}", row.reason);
        assert!(row.reason.contains("key package"), "{}", row.reason);
        client.reopen();
    }
    assert_eq!(client.texts(&group_id), ["before"]);
}

fn now_seconds() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}
