//! Ordinary groups and DMs of a real installation: joining, reading, following, being removed, paused, forked or restored, and
//! what of it ends up in the history (identity specification, section 4).

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::collections::BTreeSet;
use std::rc::Rc;

use mls::Change;
use network::{Client, Node, Pass, Peer, inbox_of, text, welcome_answer};
use xmtp_history::mls::extensions::{ConversationType, GROUP_NAME, MESSAGE_DISAPPEAR_FROM_NS, MESSAGE_DISAPPEAR_IN_NS};
use xmtp_history::mls::{GroupState, envelope, group_updated};
use xmtp_history::store::Record;
use xmtp_history::wire::Group;

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

// --- joining and reading ----------------------------------------------------------------------------------------------

#[test]
fn a_joined_group_is_a_conversation_with_its_messages() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let welcome = node.welcomes.borrow()[0].clone();
    let row = client.row(&group_id);
    assert_eq!((row.state, row.epoch, row.conversation_type), (GroupState::Active, 1, 1));
    assert_eq!((row.cursor, row.welcome_id), (node.messages_of(&group_id)[0].id, Some(welcome.id)));
    let conversation = client.conversation(&group_id).unwrap();
    assert!(conversation.is_active);
    assert_eq!(conversation.added_by, alice.inbox_id());
    assert_eq!(conversation.creator, alice.inbox_id());
    assert_eq!((conversation.conversation_type, conversation.dm_id), (1, None));
    assert_eq!(conversation.super_admins, vec![alice.inbox_id().to_owned()]);
    assert_eq!(conversation.welcome_id, Some(i64::try_from(welcome.id).unwrap()));
    assert_eq!(client.consents(), vec![], "nobody has decided yet");

    alice.say("one");
    alice.say("two");
    let pass = client.sync_conversations();
    let messages = node.messages_of(&group_id);
    let stored = client.stored(&group_id);
    assert_eq!(stored.len(), 3);
    // The message that stands for having been added.
    let content = group_updated::of_joining(&client.inbox_id(), alice.inbox_id());
    let created_ns = i64::try_from(welcome.created_ns).unwrap();
    let key = group_updated::joined_idempotency_key(created_ns);
    assert_eq!(stored[0].id, envelope::message_id(&group_id, &key, &content));
    assert_eq!((stored[0].kind, stored[0].sent_at_ns, &stored[0].content), (2, created_ns, &content));
    assert_eq!(stored[0].sender_installation_id, alice.id());
    assert_eq!((stored[0].sequence_id, stored[0].originator_id), (Some(i64::try_from(row.cursor).unwrap()), Some(0)));
    for (index, said) in ["one", "two"].into_iter().enumerate() {
        let (stored, posted) = (&stored[index + 1], &messages[index + 1]);
        let id = envelope::message_id(&group_id, &(index + 1).to_string(), &text(said));
        assert_eq!(stored.id, id);
        assert_eq!(pass.messages[index], id);
        assert_eq!((stored.kind, &stored.content), (1, &text(said)));
        assert_eq!((stored.sender_inbox_id.as_str(), stored.content_type.as_str()), (alice.inbox_id(), "text"));
        assert_eq!(stored.sender_installation_id, alice.id());
        assert_eq!(stored.sent_at_ns, i64::try_from(posted.created_ns).unwrap());
        assert_eq!(stored.sequence_id, Some(i64::try_from(posted.id).unwrap()));
        assert_eq!((stored.originator_id, stored.expire_at_ns), (Some(10), None));
    }
    assert_eq!(client.row(&group_id).cursor, messages.last().unwrap().id);
    // Everything again: nothing is new.
    let mut again = Pass::default();
    client.take(&group_id, &node.query(&group_id, 0), &mut again).unwrap();
    client.take_welcomes(&node.query_welcomes(&client.id(), 0), &mut again).unwrap();
    assert_eq!((again.messages.len(), again.joined.len(), again.dropped.len()), (0, 0, 0));
    assert_eq!(client.stored(&group_id), stored);
}

#[test]
fn a_dm_names_its_two_inboxes() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut alice = Peer::new(&node, ALICE, 5);
    let context = alice.dm_context(&client.inbox_id());
    let group_id = alice.create(&context);
    alice.add(&[&client]);
    alice.say("hello");
    assert_eq!(client.sync_conversations().dropped, vec![]);
    let conversation = client.conversation(&group_id).unwrap();
    let mut pair = [client.inbox_id(), alice.inbox_id().to_owned()];
    pair.sort();
    assert_eq!(conversation.dm_id, Some(format!("dm:{}:{}", pair[0], pair[1])));
    assert_eq!(conversation.conversation_type, 2);
    assert_eq!(client.texts(&group_id), ["hello"]);
    assert_eq!(client.consents(), vec![]);
}

#[test]
fn a_dm_of_others_is_dropped() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let bob = Peer::new(&node, BOB, 6);
    let mut alice = Peer::new(&node, ALICE, 5);
    let own = client.inbox_id();
    for twist in 0..4 {
        let mut context = alice.dm_context(if twist == 0 { bob.inbox_id() } else { &own });
        match twist {
            1 => context.mutable_metadata.super_admins = vec![alice.inbox_id().to_owned()],
            2 => context.metadata.dm_members = None,
            3 => context.metadata.dm_members = Some([own.clone(), own.clone()]),
            _ => {}
        }
        let group_id = alice.create(&context);
        alice.add(&[&client]);
        let pass = client.sync_conversations();
        assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1), "{twist}");
        assert!(client.conversation(&group_id).is_none());
    }
}

#[test]
fn a_dm_of_our_own_with_somebody_who_cannot_exist_is_dropped() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut phone = Peer::new(&node, OWN, 7);
    let context = phone.dm_context("nobody");
    phone.create(&context);
    phone.add(&[&client]);
    // What comes behind it still arrives.
    let mut alice = Peer::new(&node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    let change = adding_with_failed(&alice, &client, &[&phone]);
    alice.commit(change);
    let pass = client.sync_conversations();
    assert_eq!((pass.joined, pass.dropped.len()), (vec![group_id], 1));
}

/// Adds an installation, and notes others of its inbox as failed.
fn adding_with_failed(peer: &Peer, client: &Client, failed: &[&Peer]) -> Change {
    let extensions = peer.changed(|extensions| {
        let sequence_id = peer.node.sequence_id(&client.inbox_id());
        extensions.membership.members.insert(client.inbox_id(), sequence_id);
        extensions.membership.failed_installations.extend(failed.iter().map(|peer| peer.id().to_vec()));
    });
    Change { extensions, ..peer.adding(&[client.id()], &[]) }
}

#[test]
fn what_another_installation_of_the_inbox_has_made_is_allowed() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let alice = Peer::new(&node, ALICE, 5);
    let mut phone = Peer::new(&node, OWN, 7);
    let context = phone.context(ConversationType::Group);
    let group_id = phone.create(&context);
    let change = phone.adding(&[client.id(), alice.id()], &[&client.inbox_id(), alice.inbox_id()]);
    phone.commit(change);
    client.sync_conversations();
    assert_eq!(client.consents(), vec![(1, hex::encode(&group_id), 2, 0)]);
    // A decision that is there stays.
    let context = phone.context(ConversationType::Group);
    let second = phone.create(&context);
    client
        .get()
        .store()
        .add([Record::Consent(xmtp_history::wire::Consent {
            entity_type: 1,
            state: 3,
            entity: &hex::encode(&second),
            consented_at_ns: 5,
            unknown: vec![],
        })])
        .unwrap();
    let change = phone.adding(&[client.id()], &[&client.inbox_id()]);
    phone.commit(change);
    assert_eq!(client.sync_conversations().joined, vec![second.clone()]);
    assert!(client.consents().contains(&(1, hex::encode(&second), 3, 5)));
}

#[test]
fn messages_of_three_past_epochs_are_read_and_older_ones_counted() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let mut bob = Peer::new(&node, BOB, 6);
    alice.add_peers(&[&bob]);
    bob.join();
    let late: Vec<Vec<u8>> = (0..5)
        .map(|index| {
            let data = bob.encrypt(&envelope::encode(&text(&format!("from epoch {index}")), &format!("late{index}")));
            alice.update_key();
            bob.receive();
            data
        })
        .collect();
    for data in &late {
        node.post(&group_id, data);
    }
    let pass = client.sync_conversations();
    // Five commits after the first: messages 0 and 1 are five and four epochs old.
    assert_eq!(client.texts(&group_id), ["from epoch 2", "from epoch 3", "from epoch 4"]);
    assert_eq!((client.row(&group_id).undecryptable, pass.commits), (2, 6));
    assert_eq!(client.row(&group_id).state, GroupState::Active);
    assert_eq!(client.authenticator(&group_id), alice.authenticator());
}

#[test]
fn messages_of_one_sender_may_come_in_another_order_within_limits() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let data: Vec<Vec<u8>> = (0..8)
        .map(|index| alice.encrypt(&envelope::encode(&text(&index.to_string()), &format!("key{index}"))))
        .collect();
    for index in [4, 0, 1, 2, 3, 7, 6, 5] {
        node.post(&group_id, &data[index]);
    }
    client.sync_conversations();
    let mut texts = client.texts(&group_id);
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    assert_eq!(client.row(&group_id).undecryptable, 0);
    // One that was posted twice is one message, and read once only.
    node.post(&group_id, &data[6]);
    client.sync_conversations();
    assert_eq!((client.texts(&group_id).len(), client.row(&group_id).undecryptable), (8, 1));
}

/// What messages consume is written at the end of a page, and where a commit might have the group loaded again.
#[test]
fn what_is_read_does_not_depend_on_the_pages_it_comes_in() {
    let node = Node::new();
    let sizes = [1, 2, 3, 5, 100];
    let clients: Vec<Client> = (10..).zip(sizes).map(|(wallet, _)| Client::register(&node, wallet)).collect();
    let mut alice = Peer::new(&node, ALICE, 5);
    let carol = Peer::new(&node, 4, 8);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    alice.add(&clients.iter().collect::<Vec<_>>());
    for said in ["1", "2", "3"] {
        alice.say(said);
    }
    let twice = alice.encrypt(&envelope::encode(&text("4"), "twice"));
    let late = alice.encrypt(&envelope::encode(&text("5"), "late"));
    node.post(&group_id, &twice);
    let mut refused = Vec::new();
    refused.push(alice.commit_in_vain(alice.adding(&[carol.id()], &[])));
    node.post(&group_id, &twice);
    alice.say("6");
    let mut broken = alice.encrypt(&envelope::encode(&text("broken"), "broken"));
    *broken.last_mut().unwrap() ^= 1;
    node.post(&group_id, &broken);
    alice.say("7");
    alice.update_key();
    alice.say("8");
    node.post(&group_id, &late);
    refused.push(alice.commit_in_vain(alice.adding(&[carol.id()], &[])));
    alice.say("9");
    let all: Vec<Vec<u8>> = node.messages_of(&group_id).into_iter().map(|message| message.data).collect();
    let read = |client: &Client, size| {
        node.page.set(size);
        let pass = client.sync_conversations();
        node.page.set(0);
        client.reopen();
        let refused: Vec<u64> = pass.refused.iter().map(|(id, _)| *id).collect();
        (client.texts(&group_id), client.row(&group_id).undecryptable, refused)
    };
    let texts: Vec<String> = (1..10).map(|number| number.to_string()).collect();
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    for (client, size) in clients.iter().zip(sizes) {
        let (said, undecryptable, refusals) = read(client, size);
        assert_eq!((sorted(said), undecryptable, refusals), (texts.clone(), 2, refused.clone()), "pages of {size}");
        assert_eq!(client.authenticator(&group_id), alice.authenticator());
    }
    // What was read once cannot be read again, also not after a restart; what comes then can.
    for data in &all {
        node.post(&group_id, data);
    }
    alice.say("last");
    for (client, size) in clients.iter().zip(sizes) {
        let (said, undecryptable, _) = read(client, size);
        assert_eq!((said.len(), said.last().unwrap().as_str()), (10, "last"), "pages of {size}");
        // The application messages of before, and the commits are of an old epoch but for the refused one.
        assert_eq!(undecryptable, 2 + 11, "pages of {size}");
    }
}

// --- following --------------------------------------------------------------------------------------------------------

#[test]
fn commits_are_followed_and_told() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    let bob = Peer::new(&node, BOB, 6);
    alice.update(set(GROUP_NAME, "a name"));
    alice.add_peers(&[&bob]);
    let admin = bob.inbox_id().to_owned();
    alice.update(|extensions| extensions.mutable_metadata.admins.push(admin.clone()));
    alice.update_key();
    client.sync_conversations();
    assert_eq!(client.authenticator(&group_id), alice.authenticator());
    let conversation = client.conversation(&group_id).unwrap();
    assert_eq!(conversation.attributes[GROUP_NAME], "a name");
    assert_eq!(conversation.admins, vec![admin.clone()]);
    assert_eq!(client.get().group_details(&group_id).unwrap().members.len(), 3);
    let alices = alice.inbox_id().to_owned();
    alice.update(|extensions| {
        extensions.mutable_metadata.admins.clear();
        extensions.mutable_metadata.super_admins.push(admin.clone());
        extensions.mutable_metadata.super_admins.sort();
    });
    alice.update(|extensions| extensions.mutable_metadata.super_admins = vec![alices.clone()]);
    alice.remove(&admin);
    alice.say("still here");
    client.sync_conversations();
    assert_eq!(client.texts(&group_id), ["still here"]);
    let conversation = client.conversation(&group_id).unwrap();
    assert_eq!((conversation.admins, conversation.super_admins), (vec![], vec![alices.clone()]));
    assert_eq!(client.get().group_details(&group_id).unwrap().members.len(), 2);

    let names = |inboxes: &[xmtp_history::wire::proto::mls::message_contents::Inbox]| {
        inboxes.iter().map(|inbox| inbox.inbox_id.clone()).collect::<Vec<_>>()
    };
    let (changes, alone) = (client.changes(&group_id), [admin]);
    assert_eq!(changes.len(), 7, "one for the welcome, none for the new key");
    assert!(changes.iter().all(|change| change.initiated_by_inbox_id == alices));
    assert_eq!(names(&changes[0].added_inboxes), [client.inbox_id()]);
    let field = &changes[1].metadata_field_changes[0];
    assert_eq!((field.field_name.as_str(), field.new_value.as_deref()), (GROUP_NAME, Some("a name")));
    assert_eq!(names(&changes[2].added_inboxes), alone);
    assert_eq!(names(&changes[3].added_admin_inboxes), alone);
    assert_eq!(names(&changes[4].removed_admin_inboxes), alone);
    assert_eq!(names(&changes[4].added_super_admin_inboxes), alone);
    assert_eq!(names(&changes[5].removed_super_admin_inboxes), alone);
    assert_eq!(names(&changes[6].removed_inboxes), alone);
    // Each stands where its commit stands.
    let commits: BTreeSet<i64> = node
        .messages_of(&group_id)
        .iter()
        .filter(|message| message.is_commit)
        .map(|message| i64::try_from(message.id).unwrap())
        .collect();
    for stored in client.stored(&group_id).iter().filter(|stored| stored.kind == 2) {
        assert!(commits.contains(&stored.sequence_id.unwrap()));
        assert_eq!(stored.originator_id, Some(0));
    }
}

#[test]
fn after_being_removed_nothing_is_processed_until_a_welcome_comes() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say("before");
    let removal = alice.remove(&client.inbox_id());
    alice.say("unheard");
    let pass = client.sync_conversations();
    assert_eq!(pass.commits, 1);
    let row = client.row(&group_id);
    assert_eq!((row.state, row.cursor), (GroupState::Removed, removal));
    assert_eq!(client.changes(&group_id)[1].removed_inboxes[0].inbox_id, client.inbox_id());
    // Also if somebody hands it over.
    let mut again = Pass::default();
    client.take(&group_id, &node.query(&group_id, 0), &mut again).unwrap();
    assert_eq!((client.row(&group_id), again.messages.len()), (row, 0));
    client.reopen();
    assert_eq!(client.texts(&group_id), ["before"]);
    assert!(client.get().group_details(&group_id).is_ok());

    let back = alice.add(&[&client]);
    alice.say("welcome back");
    let pass = client.sync_conversations();
    assert_eq!(pass.joined, vec![group_id.clone()]);
    let row = client.row(&group_id);
    assert_eq!((row.state, row.reason.as_str()), (GroupState::Active, ""));
    assert!(row.cursor > back);
    assert_eq!(client.texts(&group_id), ["before", "welcome back"]);
    assert_eq!(client.authenticator(&group_id), alice.authenticator());
    assert_eq!(client.changes(&group_id).len(), 3, "added, removed, added");
}

#[test]
fn a_welcome_to_a_group_that_is_followed_changes_nothing() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    // The same welcome under another id: somebody else may store it again.
    let mut welcome = node.welcomes.borrow()[0].clone();
    welcome.id = node.next_id();
    let row = client.row(&group_id);
    let mut pass = Pass::default();
    client.take_welcomes(&welcome_answer(vec![welcome.clone()], 100), &mut pass).unwrap();
    assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1));
    assert_eq!(client.row(&group_id), row);
    // Nor does it after the group has gone on.
    alice.update_key();
    alice.say("later");
    client.sync_conversations();
    let row = client.row(&group_id);
    welcome.id = node.next_id();
    client.take_welcomes(&welcome_answer(vec![welcome], 100), &mut pass).unwrap();
    assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 2));
    assert_eq!(client.row(&group_id), row);
    alice.say("latest");
    client.sync_conversations();
    assert_eq!(client.texts(&group_id), ["later", "latest"]);
}

// --- the history ------------------------------------------------------------------------------------------------------

#[test]
fn a_restored_conversation_becomes_active_and_keeps_its_age() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut alice = Peer::new(&node, ALICE, 5);
    let context = alice.context(ConversationType::Group);
    let group_id = alice.create(&context);
    let creator = alice.inbox_id().to_owned();
    let restored = Group {
        id: &group_id,
        created_at_ns: 1234,
        membership_state: 4,
        conversation_type: 1,
        added_by_inbox_id: &creator,
        metadata: Some(xmtp_history::wire::GroupMetadata { creator_inbox_id: &creator, unknown: vec![] }),
        mutable_metadata: Some(xmtp_history::wire::MutableMetadata::default()),
        ..Group::default()
    };
    client.get().store().add([Record::Group(restored)]).unwrap();
    alice.add(&[&client]);
    alice.say("live");
    client.sync_conversations();
    let conversation = client.conversation(&group_id).unwrap();
    assert!(conversation.is_active);
    assert_eq!(conversation.created_at_ns, 1234);
    assert_eq!(client.texts(&group_id), ["live"]);
    // Later commits do not make it younger either.
    alice.update(set(GROUP_NAME, "a name"));
    client.sync_conversations();
    let conversation = client.conversation(&group_id).unwrap();
    assert_eq!((conversation.created_at_ns, conversation.attributes[GROUP_NAME].as_str()), (1234, "a name"));
}

#[test]
fn messages_disappear_as_the_group_says() {
    let node = Node::new();
    let (client, mut alice, group_id) = joined(&node);
    alice.say("stays");
    alice.update(|extensions| {
        let attributes = &mut extensions.mutable_metadata.attributes;
        attributes.insert(MESSAGE_DISAPPEAR_FROM_NS.into(), "1".into());
        attributes.insert(MESSAGE_DISAPPEAR_IN_NS.into(), "3600000000000".into());
    });
    alice.say("goes");
    // In one page and in two it is the same.
    client.sync_conversations();
    alice.say("goes too");
    client.sync_conversations();
    assert_eq!(client.conversation(&group_id).unwrap().disappear, (Some(1), Some(3_600_000_000_000)));
    let expiries: Vec<bool> = client
        .stored(&group_id)
        .into_iter()
        .filter(|message| message.content_type == "text")
        .map(|message| message.expire_at_ns == Some(message.sent_at_ns + 3_600_000_000_000))
        .collect();
    assert_eq!(expiries, [false, true, true]);
}

#[test]
fn a_conversation_with_another_settings_extension_is_kept_as_it_was() {
    for twist in 0..4 {
        let node = Node::new();
        let client = Client::register(&node, OWN);
        let mut alice = Peer::new(&node, ALICE, 5);
        let context = alice.dm_context(&client.inbox_id());
        let group_id = alice.create(&context);
        alice.add(&[&client]);
        client.sync_conversations();
        let before = client.conversation(&group_id).unwrap();
        // Nobody checks that extension 0xf000 stays what it was; whoever is in a DM may replace it.
        alice.update(|extensions| match twist {
            0 => extensions.metadata.dm_members = None,
            1 => extensions.metadata.dm_members = Some(["x".into(), "y".into()]),
            2 => extensions.metadata.conversation_type = ConversationType::Group,
            _ => extensions.metadata.creator_inbox_id = inbox_of(BOB).1,
        });
        alice.say("goes on");
        client.sync_conversations();
        assert_eq!(client.texts(&group_id), ["goes on"], "{twist}");
        assert_eq!(client.authenticator(&group_id), alice.authenticator());
        let after = client.conversation(&group_id).unwrap();
        assert_eq!((&after.dm_id, &after.creator), (&before.dm_id, &before.creator), "{twist}");
        assert_eq!(after.conversation_type, 2);
    }
}
