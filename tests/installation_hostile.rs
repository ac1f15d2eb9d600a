//! Installations against damage: bytes that were cut, bent or made up, and a database that fails in the middle. Nothing panics,
//! nothing is lost that comes afterwards, and what fails changes nothing.

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use network::{Client, Node, Pass, Peer, STORE_KEY, answer, inbox_of, text, welcome_answer};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use xmtp_history::mls::extensions::ConversationType;
use xmtp_history::mls::{Error, GroupState, Installation, envelope, welcome};
use xmtp_history::store::{self, Store};
use xmtp_history::wire::proto::mls::api::v1 as api;

const OWN: u8 = 1;
const ALICE: u8 = 2;

fn joined(node: &Rc<Node>) -> (Client, Peer, Vec<u8>) {
    let client = Client::register(node, OWN);
    let mut alice = Peer::new(node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    alice.add(&[&client]);
    assert_eq!(client.sync_conversations().joined, vec![group_id.clone()]);
    (client, alice, group_id)
}

/// Every truncation and one flipped bit in every byte.
fn damaged(bytes: &[u8]) -> Vec<Vec<u8>> {
    let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    let bent = (0..bytes.len()).map(|position| {
        let mut bent = bytes.to_vec();
        bent[position] ^= 1 << (position % 8);
        bent
    });
    cut.chain(bent).chain([[bytes, &[0]].concat()]).collect()
}

// --- bytes ------------------------------------------------------------------------------------------------------------

#[test]
fn damaged_messages_and_commits_never_hide_the_real_ones() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let key = alice.next_key();
    let said = alice.encrypt(&envelope::encode(&text("said"), &key));
    let (commit, _) = alice.prepare(mls::Change::default());
    alice.merge();
    let key = alice.next_key();
    let after = alice.encrypt(&envelope::encode(&text("after"), &key));
    let mut posted = 0;
    for original in [&said, &commit, &after] {
        for damage in damaged(original) {
            node.post(&group_id, &damage);
            posted += 1;
        }
        node.post(&group_id, original);
    }
    client.sync_conversations();
    let row = client.row(&group_id);
    assert_eq!(client.texts(&group_id), ["said", "after"]);
    assert_eq!(client.authenticator(&group_id), alice.authenticator());
    assert_eq!(row.cursor, node.messages_of(&group_id).last().unwrap().id);
    assert!(row.undecryptable > posted / 2, "{} of {posted}", row.undecryptable);
    assert_eq!(row.epoch, 2);
    // Bent epochs say that a commit was lost, until one comes that was not.
    alice.update_key();
    client.sync_conversations();
    assert_eq!(client.row(&group_id).state, GroupState::Active);
}

#[test]
fn damaged_welcomes_never_hide_the_real_one() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut alice = Peer::new(&node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    let package = alice.fetched(&client.id());
    let change = alice.adding(&[client.id()], &[&client.inbox_id()]);
    let (commit, inner) = alice.prepare(change);
    let commit_id = node.post(&group_id, &commit);
    alice.merge();
    let inner = inner.unwrap();
    let init_key = package.hpke_init_key().as_slice();
    let wrap = |inner: &[u8]| {
        let wrapped = welcome::wrap(inner, commit_id, &client.id(), init_key).unwrap();
        let Some(api::welcome_message_input::Version::V1(wrapped)) = wrapped.version else { panic!() };
        wrapped
    };
    let wrapped = wrap(&inner);
    for data in damaged(&wrapped.data) {
        node.post_welcome(api::welcome_message_input::V1 { data, ..wrapped.clone() });
    }
    for welcome_metadata in damaged(&wrapped.welcome_metadata).into_iter().filter(|metadata| !metadata.is_empty()) {
        // Another sealing each, as the node keeps equal data once.
        node.post_welcome(api::welcome_message_input::V1 { welcome_metadata, ..wrap(&inner) });
    }
    for hpke_public_key in damaged(&wrapped.hpke_public_key) {
        node.post_welcome(api::welcome_message_input::V1 { hpke_public_key, ..wrap(&inner) });
    }
    for wrapper_algorithm in [2, 3] {
        node.post_welcome(api::welcome_message_input::V1 { wrapper_algorithm, ..wrap(&inner) });
    }
    for damage in damaged(&inner) {
        node.post_welcome(wrap(&damage));
    }
    let count = node.welcomes.borrow().len();
    node.post_welcome(wrap(&inner));
    alice.say("inside");
    let pass = client.sync_conversations();
    assert_eq!((pass.joined.len(), pass.dropped.len()), (1, count));
    assert_eq!(pass.joined, vec![group_id.clone()]);
    assert_eq!(client.get().welcome_cursor().unwrap(), node.welcomes.borrow().last().unwrap().id);
    assert_eq!(client.texts(&group_id), ["inside"]);
    assert_eq!(client.get().groups().unwrap().len(), 1);
}

#[test]
fn damaged_identity_logs_are_not_believed() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let alice = Peer::new(&node, ALICE, 5);
    let name = alice.inbox_id().to_owned();
    let genuine = node.identity(&[(name.clone(), 0)]);
    let ids = BTreeSet::from([alice.id().to_vec()]);
    let mut believed = 0;
    for damage in damaged(&genuine) {
        let Ok(ingested) = client.get().ingest_identity(&damage) else { continue };
        if ingested.grown.is_empty() {
            continue;
        }
        believed += 1;
        // What is not signed may be bent: the node's own number and time.
        let state = client.get().inbox_state(&name).unwrap().unwrap();
        let found: BTreeSet<Vec<u8>> = state.installations().into_iter().map(Vec::from).collect();
        assert_eq!((ingested.grown.len(), found), (1, ids.clone()));
        client.execute(&format!("DELETE FROM identity_updates WHERE inbox_id = '{name}'"));
        client.execute(&format!("DELETE FROM association_states WHERE inbox_id = '{name}'"));
    }
    assert!(believed < 40, "{believed}");
    assert!(client.get().ingest_identity(&genuine).unwrap().grown.contains(&name));
    let own = client.inbox_id();
    assert!(client.get().inbox_state(&own).unwrap().unwrap().is_installation(&client.id()));
}

#[test]
fn an_identity_log_out_of_order_or_repeated_is_taken_once_or_not_at_all() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let alice = Peer::new(&node, ALICE, 5);
    let second = Peer::new(&node, ALICE, 6);
    let name = alice.inbox_id().to_owned();
    node.logs.borrow_mut().get_mut(&name).unwrap().reverse();
    let ingested = client.get().ingest_identity(&node.identity(&[(name.clone(), 0)])).unwrap();
    assert!(ingested.grown.is_empty() && ingested.refused.contains_key(&name));
    assert_eq!(client.get().identity_cursors(std::slice::from_ref(&name)).unwrap(), [0]);
    node.logs.borrow_mut().get_mut(&name).unwrap().reverse();
    let twice = node.identity(&[(name.clone(), 0), (name.clone(), 0)]);
    for expected in [true, false] {
        let ingested = client.get().ingest_identity(&twice).unwrap();
        assert_eq!((ingested.grown.contains(&name), ingested.refused.len()), (expected, 0));
    }
    let state = client.get().inbox_state(&name).unwrap().unwrap();
    assert!(state.is_installation(&alice.id()) && state.is_installation(&second.id()));
    // An id that no log can have.
    node.logs.borrow_mut().get_mut(&name).unwrap()[1].sequence_id = u64::MAX;
    let other = Client::register(&node, OWN);
    assert!(matches!(
        other.get().ingest_identity(&node.identity(&[(name.clone(), 0)])),
        Err(Error::MalformedAnswer(_))
    ));
    assert_eq!(other.get().identity_cursors(&[name]).unwrap(), [0]);
}

#[test]
fn damaged_key_packages_count_as_failed() {
    let node = Node::new();
    let other = Client::register(&node, OWN);
    let maker = Client::register(&node, OWN);
    let genuine = node.packages.borrow()[&other.id()[..]].clone();
    let id = other.id();
    for (index, damage) in damaged(&genuine).into_iter().enumerate() {
        // Making a group takes a while.
        if index % 9 != 0 {
            continue;
        }
        node.packages.borrow_mut().insert(id.to_vec(), damage);
        let group_id = maker.get().create_sync_group(&[id], &node.key_packages(&[id])).unwrap();
        maker.flush_group(&group_id);
        assert_eq!((maker.row(&group_id).epoch, maker.row(&group_id).state), (1, GroupState::Active));
        assert_eq!(maker.get().group_details(&group_id).unwrap().members.len(), 1);
    }
    assert!(maker.get().prepare_welcomes().unwrap().is_none());
    node.packages.borrow_mut().insert(id.to_vec(), genuine);
    let answer = node.key_packages(&[id]);
    for damage in damaged(&answer).into_iter().step_by(50) {
        let _ = maker.get().create_sync_group(&[id], &damage);
    }
    let group_id = maker.get().create_sync_group(&[id], &answer).unwrap();
    maker.flush();
    assert!(other.welcomes().joined.contains(&group_id));
}

#[test]
fn answers_of_another_form_change_nothing() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say("unread");
    let before = client.dump();
    let none = BTreeSet::new();
    let nothing = api::QueryGroupMessagesResponse { messages: vec![api::GroupMessage::default()], paging_info: None };
    let page = [node.query(&group_id, 0), nothing.encode_to_vec()].concat();
    for bytes in [&b"\xff"[..], b"\x0a\x05\x0a", &page] {
        let received = client.get().receive_messages(&group_id, bytes, &none);
        assert!(matches!(received, Err(Error::MalformedAnswer(_))), "{received:?}");
    }
    assert!(matches!(client.get().receive_messages(&[9; 16], &page[..0], &none), Err(Error::NoSuchGroup)));
    // What is about somebody else must not move our cursors.
    let elsewhere = api::group_message::V1 { id: 1_000_000, group_id: vec![9; 16], ..Default::default() };
    let received = client.get().receive_messages(&group_id, &answer(vec![elsewhere], 100), &none);
    assert!(matches!(received, Err(Error::MalformedAnswer(_))), "{received:?}");
    let other = api::welcome_message::V1 { id: 1_000_000, installation_key: vec![9; 32], ..Default::default() };
    let received = client.get().receive_welcomes(&welcome_answer(vec![other], 100), &none, false);
    assert!(matches!(received, Err(Error::MalformedAnswer(_))), "{received:?}");
    let nothing =
        api::QueryWelcomeMessagesResponse { messages: vec![api::WelcomeMessage::default()], paging_info: None };
    for bytes in [&b"\xff"[..], &nothing.encode_to_vec()] {
        assert!(matches!(client.get().receive_welcomes(bytes, &none, false), Err(Error::MalformedAnswer(_))));
    }
    for bytes in [&b"\xff"[..], b"\x0a\x04\x0a\x02no"] {
        assert!(matches!(client.get().ingest_identity(bytes), Err(Error::MalformedAnswer(_))));
    }
    assert!(client.get().ingest_verdicts(b"\xff", b"").is_err());
    assert_eq!(client.dump(), before);
    client.sync_conversations();
    assert_eq!(client.texts(&group_id), ["unread"]);
}

#[test]
fn numbers_at_their_limits_are_survived() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    // A welcome pointer, and a welcome whose metadata names a commit far away.
    let pointer = api::welcome_message::WelcomePointer {
        id: node.next_id(),
        installation_key: client.id().to_vec(),
        ..Default::default()
    };
    let pointer = api::WelcomeMessage { version: Some(api::welcome_message::Version::WelcomePointer(pointer)) };
    let page = api::QueryWelcomeMessagesResponse { messages: vec![pointer], paging_info: None }.encode_to_vec();
    let mut pass = Pass::default();
    client.take_welcomes(&page, &mut pass).unwrap();
    assert_eq!(pass.dropped.len(), 1);
    let context = alice.context(ConversationType::Group);
    let far = alice.create(&context);
    let package = alice.fetched(&client.id());
    let change = alice.adding(&[client.id()], &[&client.inbox_id()]);
    let (_, inner) = alice.prepare(change);
    alice.merge();
    alice.welcome(&inner.unwrap(), u64::MAX, &package);
    let pass = client.sync_conversations();
    assert_eq!((pass.joined, client.row(&far).cursor), (vec![far.clone()], u64::MAX));
    client.reopen();
    assert_eq!(client.row(&far).cursor, u64::MAX);
    // A time that no clock shows.
    alice.create(&context);
    let third = alice.group_id();
    alice.add(&[&client]);
    alice.say("at the end of time");
    node.messages.borrow_mut().last_mut().unwrap().created_ns = u64::MAX;
    node.welcomes.borrow_mut().last_mut().unwrap().created_ns = u64::MAX;
    client.sync_conversations();
    assert_eq!(client.texts(&third), ["at the end of time"]);
    assert!(client.stored(&third).iter().all(|message| message.sent_at_ns == i64::MAX));
    let _ = group_id;
}

#[test]
fn thousands_of_useless_entries_are_taken_in_one_go() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let mut rubbish = alice.encrypt(b"rubbish");
    let length = rubbish.len();
    rubbish[length - 1] ^= 1;
    let mut messages: Vec<_> = (0..10_000)
        .map(|index| api::group_message::V1 {
            id: 1_000_000 + index,
            group_id: group_id.clone(),
            data: if index % 2 == 0 { vec![0; 40] } else { rubbish.clone() },
            ..Default::default()
        })
        .collect();
    let key = alice.next_key();
    let data = alice.encrypt(&envelope::encode(&text("found"), &key));
    messages.push(api::group_message::V1 { id: 2_000_000, group_id: group_id.clone(), data, ..Default::default() });
    let mut pass = Pass::default();
    client.take(&group_id, &answer(messages, 100_000), &mut pass).unwrap();
    assert_eq!((client.row(&group_id).undecryptable, client.row(&group_id).cursor), (10_000, 2_000_000));
    assert_eq!(client.texts(&group_id), ["found"]);
    let welcomes = (0..5_000)
        .map(|index| api::welcome_message::V1 {
            id: 1_000_000 + index,
            data: vec![1; 100],
            installation_key: client.id().to_vec(),
            ..Default::default()
        })
        .collect();
    client.take_welcomes(&welcome_answer(welcomes, 100_000), &mut pass).unwrap();
    assert_eq!(pass.dropped.len(), 5_000);
    let unknown: Vec<(String, u64)> = (0..2_000).map(|index| (format!("{index:064x}"), 0)).collect();
    assert!(client.get().ingest_identity(&node.identity(&unknown)).unwrap().grown.is_empty());
}

/// What is done to a page: where, how much goes, and what comes.
fn edits() -> impl Strategy<Value = Vec<(usize, usize, Vec<u8>)>> {
    prop::collection::vec((any::<usize>(), 0..8_usize, prop::collection::vec(any::<u8>(), 0..8)), 1..6)
}

fn edited(bytes: &[u8], edits: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, gone, come) in edits {
        let start = at % (bytes.len() + 1);
        let end = (start + gone).min(bytes.len());
        bytes.splice(start..end, come.iter().copied());
    }
    bytes
}

#[test]
fn edited_pages_never_panic_and_hide_nothing_for_good() {
    let node = Node::new();
    let (client, alice, group_id) = joined(&node);
    let alice = RefCell::new(alice);
    let round = std::cell::Cell::new(0);
    let none = BTreeSet::new();
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&edits(), |edits| {
            round.set(round.get() + 1);
            let said = format!("round {}", round.get());
            let mut alice = alice.borrow_mut();
            alice.say(&said);
            let key = alice.next_key();
            let data = alice.encrypt(&envelope::encode(&text("edited"), &key));
            let messages = node.messages_of(&group_id);
            let cursor = client.row(&group_id).cursor;
            let mut page: Vec<_> = messages.into_iter().filter(|message| message.id > cursor).collect();
            // An edited number must not be above those to come, or the client would rightly skip them.
            for message in &mut page {
                message.data = edited(&data, &edits);
            }
            let bytes = edited(&answer(page, 100), &edits);
            match client.get().receive_messages(&group_id, &bytes, &none) {
                Ok(received) if received.group.cursor > cursor => {
                    client.execute(&format!("UPDATE mls_groups SET cursor = {cursor}"));
                }
                Ok(_) | Err(Error::MalformedAnswer(_)) => {}
                Err(error) => panic!("{error}"),
            }
            alice.update_key();
            client.sync_conversations();
            let row = client.row(&group_id);
            prop_assert_eq!(row.state, GroupState::Active);
            let texts = client.texts(&group_id);
            prop_assert!(texts.contains(&said), "{:?}", texts);
            Ok(())
        })
        .unwrap();
}

// --- the database -----------------------------------------------------------------------------------------------------

#[test]
fn an_installation_is_open_once() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let open = |inbox_id: Option<&str>| {
        let store = Store::open(&client.path(), &STORE_KEY, Duration::from_secs(1)).unwrap();
        Installation::open(Arc::new(store), inbox_id)
    };
    let own = client.inbox_id();
    assert!(matches!(open(Some(&own)), Err(Error::InUse)));
    assert!(matches!(open(None), Err(Error::InUse)));
    let id = client.id();
    client.close();
    assert!(matches!(open(Some(&inbox_of(ALICE).1)), Err(Error::OtherInbox)));
    let again = open(None).unwrap();
    assert_eq!((again.installation_id(), again.inbox_id()), (id, own.as_str()));
    assert!(matches!(open(None), Err(Error::InUse)));
    drop(again);
    drop(open(Some(&own)).unwrap());
    // A store without one.
    let directory = tempfile::tempdir().unwrap();
    let open = |inbox_id: Option<&str>| {
        let store = Store::open(&directory.path().join("db"), &STORE_KEY, Duration::from_secs(1)).unwrap();
        Installation::open(Arc::new(store), inbox_id)
    };
    assert!(matches!(open(None), Err(Error::NoInstallation)));
    assert!(matches!(open(Some("inbox")), Err(Error::Argument(_))));
    assert!(matches!(open(None), Err(Error::NoInstallation)));
}

#[test]
fn while_another_writer_holds_the_store_nothing_changes() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say("waits");
    client.reopen_with(Duration::from_millis(20));
    let before = client.dump();
    let other = Store::open(&client.path(), &STORE_KEY, Duration::from_secs(1)).unwrap();
    let held = other.transaction().unwrap();
    let none = BTreeSet::new();
    let locked = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Store(store::Error::Locked))));
    let installation = client.get();
    locked(installation.receive_messages(&group_id, &node.query(&group_id, 0), &none).map(drop));
    locked(installation.receive_welcomes(&node.query_welcomes(&client.id(), 0), &none, false).map(drop));
    locked(installation.ingest_identity(&node.identity(&[])).map(drop));
    locked(installation.create_sync_group(&[], &node.key_packages(&[])).map(drop));
    locked(installation.key_package_to_upload().map(drop));
    locked(installation.prepare(&group_id, false).map(drop));
    locked(installation.published(&[1]));
    // What only reads needs no writer.
    assert_eq!(installation.groups().unwrap().len(), 1);
    drop(installation);
    assert_eq!(client.dump(), before);
    drop(held);
    client.sync_conversations();
    assert_eq!(client.texts(&group_id), ["waits"]);
}

/// One thing that an installation does, from one state of the database.
type Act<'a> = (&'a str, Box<dyn Fn(&Installation) -> Result<(), Error> + 'a>);

/// Does it with every table failing in every way; the database must be as it was after each failure, and everything must work
/// in the end.
fn fails_without_a_trace(client: &Client, (name, act): &Act<'_>) -> usize {
    let before = client.dump();
    let mut failures = 0;
    for table in before.keys().filter(|table| !table.starts_with("sqlite_")) {
        for operation in ["INSERT", "UPDATE", "DELETE"] {
            client.execute(&format!(
                "CREATE TRIGGER fails BEFORE {operation} ON {table} BEGIN SELECT RAISE(ABORT, 'it fails'); END"
            ));
            let result = act(&client.get());
            let after = client.dump();
            client.execute("DROP TRIGGER fails");
            match result {
                Err(error) => {
                    failures += 1;
                    assert!(matches!(error, Error::Store(_)), "{name}, {operation} {table}: {error}");
                    assert_eq!(after, before, "{name}, {operation} {table}");
                }
                // It does nothing of this kind, so it did its work. Once is enough.
                Ok(()) => restore(client, &before),
            }
        }
        // Nor may it be taken for a fault of the sender's that something cannot be read.
        client.execute(&format!("PRAGMA legacy_alter_table = ON; ALTER TABLE {table} RENAME TO hidden"));
        let result = act(&client.get());
        client.execute(&format!("PRAGMA legacy_alter_table = ON; ALTER TABLE hidden RENAME TO {table}"));
        match result {
            Err(error) => {
                failures += 1;
                assert!(matches!(error, Error::Store(_)), "{name}, reading {table}: {error}");
                assert_eq!(client.dump(), before, "{name}, reading {table}");
            }
            Ok(()) => restore(client, &before),
        }
    }
    act(&client.get()).unwrap();
    assert_ne!(client.dump(), before, "{name} does something");
    failures
}

/// Puts the copy of the file back.
fn restore(client: &Client, before: &BTreeMap<String, Vec<String>>) {
    client.close();
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", client.path().display()));
    }
    std::fs::copy(client.directory.path().join("copy"), client.path()).unwrap();
    client.reopen();
    assert_eq!(client.dump(), *before);
}

fn keep_copy(client: &Client) {
    client.close();
    // Opened once more and closed, so that everything is in the one file.
    drop(Store::open(&client.path(), &STORE_KEY, Duration::from_secs(1)).unwrap());
    std::fs::copy(client.path(), client.directory.path().join("copy")).unwrap();
    client.reopen();
}

#[test]
fn a_database_that_fails_anywhere_leaves_everything_as_it_was() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let bob = Peer::new(&node, 3, 6);
    let fresh = BTreeSet::from([bob.inbox_id().to_owned(), client.inbox_id(), alice.inbox_id().to_owned()]);
    client.fetch(&fresh);
    alice.add_peers(&[&bob]);
    alice.say("to be read");
    let page = node.query(&group_id, client.row(&group_id).cursor);
    keep_copy(&client);
    let read: Act<'_> = ("messages", Box::new(|i| i.receive_messages(&group_id, &page, &fresh).map(drop)));
    assert!(fails_without_a_trace(&client, &read) > 10);
    assert_eq!(client.texts(&group_id), ["to be read"]);
    assert_eq!(client.row(&group_id).undecryptable, 0);

    let context = alice.context(ConversationType::Group);
    let second = alice.create(&context);
    alice.add(&[&client]);
    let welcomes = node.query_welcomes(&client.id(), client.get().welcome_cursor().unwrap());
    keep_copy(&client);
    let join: Act<'_> = ("welcomes", Box::new(|i| i.receive_welcomes(&welcomes, &fresh, false).map(drop)));
    assert!(fails_without_a_trace(&client, &join) > 10);
    assert_eq!(client.row(&second).state, GroupState::Active);

    keep_copy(&client);
    let package: Act<'_> = ("key packages", Box::new(|i| i.key_package_to_upload().map(drop)));
    assert!(fails_without_a_trace(&client, &package) > 2);

    let nobody = node.key_packages(&[]);
    keep_copy(&client);
    let make: Act<'_> = ("making", Box::new(|i| i.create_sync_group(&[], &nobody).map(drop)));
    assert!(fails_without_a_trace(&client, &make) > 4);
    let sync_group = client.get().sync_groups().unwrap().primary.unwrap();
    client.flush();
    client.get().send_sync_message(&sync_group, b"content").unwrap();
    keep_copy(&client);
    let prepare: Act<'_> = ("sending", Box::new(|i| i.prepare(&sync_group, false).map(drop)));
    assert!(fails_without_a_trace(&client, &prepare) > 3);
    client.flush();
    assert_eq!(client.said(&sync_group).len(), 1);
    assert_eq!(client.get().outgoing_groups().unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn a_full_disk_changes_nothing() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say_content(&text(&"long ".repeat(20_000)));
    let before = client.dump();
    client.execute("PRAGMA max_page_count = 1");
    let page = node.query(&group_id, 0);
    let received = client.get().receive_messages(&group_id, &page, &BTreeSet::new());
    assert!(matches!(received, Err(Error::Store(store::Error::Full))), "{received:?}");
    assert_eq!(client.dump(), before);
    client.reopen();
    client.sync_conversations();
    assert_eq!(client.texts(&group_id).len(), 1);
}
