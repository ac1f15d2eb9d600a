//! Sync groups of real installations: making, joining, talking, losing races and restarting (identity specification, sections 3
//! and 4; device sync specification, section 2).

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::collections::BTreeSet;
use std::rc::Rc;

use network::{Client, Node, Peer, answer};
use xmtp_history::identity::MAX_INSTALLATIONS;
use xmtp_history::mls::extensions::ConversationType;
use xmtp_history::mls::{Error, GroupState, envelope, framing};

/// The wallet whose inbox the tests are about.
const OWN: u8 = 1;
/// A stranger's.
const STRANGER: u8 = 2;

fn epochs_and_types(node: &Node, group_id: &[u8]) -> Vec<(u64, framing::ContentType)> {
    let messages = node.messages_of(group_id);
    let read = |data: &[u8]| framing::Framing::read(data).map(|framing| (framing.epoch, framing.content_type)).unwrap();
    messages.iter().map(|message| read(&message.data)).collect()
}

/// Two installations of one inbox, the second of which has made a sync group with the first.
fn pair(node: &Rc<Node>) -> (Client, Client, Vec<u8>) {
    let first = Client::register(node, OWN);
    let second = Client::register(node, OWN);
    second.sync_sync_groups(true);
    let group_id = second.get().sync_groups().unwrap().primary.unwrap();
    assert_eq!(first.sync_sync_groups(false).joined, vec![group_id.clone()]);
    (first, second, group_id)
}

// --- making and joining -----------------------------------------------------------------------------------------------

#[test]
fn one_installation_alone_makes_a_group_of_itself() {
    let node = Node::new();
    let only = Client::register(&node, OWN);
    assert!(only.get().sync_groups().unwrap().wanted.is_some());
    only.sync_sync_groups(true);
    let groups = only.get().sync_groups().unwrap();
    assert_eq!(groups.wanted, None);
    let row = only.row(&groups.primary.clone().unwrap());
    assert_eq!((row.epoch, row.state, row.welcome_id, row.id.len()), (1, GroupState::Active, None, 16));
    assert_eq!(row.creator_inbox_id, only.inbox_id());
    assert!(node.welcomes.borrow().is_empty());
    assert_eq!(only.get().outgoing_groups().unwrap(), Vec::<Vec<u8>>::new());
    // Nothing is made twice.
    only.sync_sync_groups(true);
    assert_eq!(only.get().groups().unwrap().len(), 1);
    assert_eq!(only.get().sync_groups().unwrap(), groups);
}

#[test]
fn all_others_are_added_and_can_talk_in_both_directions() {
    let node = Node::new();
    let others = [Client::register(&node, OWN), Client::register(&node, OWN), Client::register(&node, OWN)];
    let maker = Client::register(&node, OWN);
    maker.sync_sync_groups(true);
    let group_id = maker.get().sync_groups().unwrap().primary.unwrap();
    let commit_id = node.messages_of(&group_id)[0].id;
    for other in &others {
        assert_eq!(other.sync_sync_groups(true).joined, vec![group_id.clone()]);
        let row = other.row(&group_id);
        assert_eq!((row.cursor, row.epoch, row.conversation_type), (commit_id, 1, 3));
        assert_eq!(row.added_by_inbox_id, maker.inbox_id());
        assert_eq!(other.get().sync_groups().unwrap().primary.as_ref(), Some(&group_id));
        assert_eq!(other.authenticator(&group_id), maker.authenticator(&group_id));
        // A sync group is no conversation, and needs no consent.
        assert_eq!((other.conversation(&group_id), other.consents()), (None, vec![]));
    }
    let details = maker.get().group_details(&group_id).unwrap();
    assert_eq!(details.members.len(), 4);
    assert!(details.members.iter().all(|(inbox_id, _)| *inbox_id == maker.inbox_id()));

    maker.say(b"from the maker");
    others[0].say(b"from another");
    maker.say(b"again");
    for client in others.iter().chain([&maker]) {
        client.sync_sync_groups(false);
        let expected = [(&maker, b"from the maker".to_vec()), (&others[0], b"from another".to_vec())];
        let mut expected: Vec<_> = expected.map(|(client, said)| (client.id().to_vec(), said)).into();
        expected.push((maker.id().to_vec(), b"again".to_vec()));
        assert_eq!(client.said(&group_id), expected);
        let numbers: Vec<u64> =
            client.get().sync_messages(None, 0, 100).unwrap().iter().map(|message| message.sequence_id).collect();
        assert!(numbers.is_sorted() && numbers.iter().all(|number| *number > commit_id), "{numbers:?}");
        assert_eq!(client.row(&group_id).undecryptable, 0);
    }
}

#[test]
fn a_joiner_updates_its_key_before_its_first_message() {
    let node = Node::new();
    let (first, second, group_id) = pair(&node);
    first.say(b"one");
    first.say(b"two");
    use framing::ContentType::{Application, Commit};
    let expected = vec![(0, Commit), (1, Commit), (2, Application), (2, Application)];
    assert_eq!(epochs_and_types(&node, &group_id), expected);
    // The maker's own leaf is new already.
    second.sync_sync_groups(false);
    second.say(b"three");
    assert_eq!(epochs_and_types(&node, &group_id)[4..], [(2, Application)]);
}

#[test]
fn installations_without_a_usable_key_package_are_noted_as_failed() {
    let node = Node::new();
    let good = Client::register(&node, OWN);
    let absent = Client::register(&node, OWN);
    let broken = Client::register(&node, OWN);
    let swapped = Client::register(&node, OWN);
    let foreign = Peer::new(&node, STRANGER, 9);
    node.packages.borrow_mut().remove(&absent.id()[..]);
    node.packages.borrow_mut().get_mut(&broken.id()[..]).unwrap()[200] ^= 1;
    let other = node.packages.borrow()[&foreign.id()[..]].clone();
    node.packages.borrow_mut().insert(swapped.id().to_vec(), other);
    let maker = Client::register(&node, OWN);
    maker.sync_sync_groups(true);
    let group_id = maker.get().sync_groups().unwrap().primary.unwrap();
    let members: BTreeSet<Vec<u8>> =
        maker.get().group_details(&group_id).unwrap().members.into_iter().map(|(_, id)| id).collect();
    assert_eq!(members, BTreeSet::from([good.id().to_vec(), maker.id().to_vec()]));
    // Whoever joins accepts the group without them, which needs them to be noted.
    assert_eq!(good.sync_sync_groups(false).joined, vec![group_id.clone()]);
    assert_eq!(node.welcomes.borrow().len(), 1);
    good.say(b"there");
    maker.sync_sync_groups(false);
    assert_eq!(maker.said(&group_id), vec![(good.id().to_vec(), b"there".to_vec())]);
}

#[test]
fn only_the_inboxs_other_live_installations_are_added() {
    let node = Node::new();
    let good = Client::register(&node, OWN);
    let late = Client::register(&node, OWN);
    let revoked = Client::register(&node, OWN);
    let maker = Client::register(&node, OWN);
    maker.revoke(&[revoked.id()]);
    // The caller asked before the log had grown: one too many, one twice, itself, and one too few.
    let asked = [good.id(), revoked.id(), good.id(), maker.id()];
    let group_id = maker.get().create_sync_group(&asked, &node.key_packages(&asked)).unwrap();
    maker.flush();
    assert_eq!((maker.row(&group_id).state, maker.row(&group_id).epoch), (GroupState::Active, 1));
    assert_eq!(good.sync_sync_groups(false).joined, vec![group_id.clone()]);
    assert_eq!(late.sync_sync_groups(false).joined, Vec::<Vec<u8>>::new());
    assert_eq!(revoked.welcomes().joined, Vec::<Vec<u8>>::new());
    assert_eq!(maker.get().group_details(&group_id).unwrap().members.len(), 2);
}

#[test]
fn ten_installations_fit_and_welcomes_are_sealed_to_each() {
    let node = Node::new();
    let others: Vec<Client> = (1..MAX_INSTALLATIONS).map(|_| Client::register(&node, OWN)).collect();
    let maker = Client::register(&node, OWN);
    maker.sync_sync_groups(true);
    assert_eq!(node.welcomes.borrow().len(), others.len());
    let group_id = maker.get().sync_groups().unwrap().primary.unwrap();
    for other in &others {
        assert_eq!(other.sync_sync_groups(false).joined, vec![group_id.clone()]);
    }
}

#[test]
fn whoever_is_not_registered_makes_no_group() {
    let node = Node::new();
    let client = Client::unregistered(&node, OWN);
    let empty = node.key_packages(&[]);
    assert!(matches!(client.get().create_sync_group(&[], &empty), Err(Error::IdentityMissing(_))));
    let client = Client::register(&node, OWN);
    let answer = node.key_packages(&[[1; 32]]);
    assert!(matches!(client.get().create_sync_group(&[], &answer), Err(Error::MalformedAnswer(_))));
    assert!(matches!(client.get().create_sync_group(&[], b"\xff"), Err(Error::MalformedAnswer(_))));
    assert_eq!(client.get().groups().unwrap(), vec![]);
    // A revoked one neither.
    let other = Client::register(&node, OWN);
    other.revoke(&[client.id()]);
    client.fetch(&BTreeSet::from([client.inbox_id()]));
    assert!(matches!(client.get().create_sync_group(&[], &empty), Err(Error::IdentityMissing(_))));
}

// --- which is the primary ---------------------------------------------------------------------------------------------

#[test]
fn the_group_that_came_last_is_the_primary() {
    let node = Node::new();
    let (first, second, older) = pair(&node);
    let third = Client::register(&node, OWN);
    third.sync_sync_groups(true);
    let newer = third.get().sync_groups().unwrap().primary.unwrap();
    assert_eq!(first.get().sync_groups().unwrap().primary.as_ref(), Some(&older));
    for client in [&first, &second] {
        client.sync_sync_groups(true);
        assert_eq!(client.get().sync_groups().unwrap().primary.as_ref(), Some(&newer));
    }
    // Joining later than another's creation counts, not the group's own age.
    let groups = first.get().groups().unwrap();
    let made = |id: &[u8]| groups.iter().find(|group| group.id == id).unwrap().created_at_ns;
    assert!(made(&older) < made(&newer));
    // The older one is listened to all the same.
    second.get().send_sync_message(&older, b"in the older one").unwrap();
    second.flush();
    first.sync_sync_groups(false);
    assert_eq!(first.said(&older), vec![(second.id().to_vec(), b"in the older one".to_vec())]);
}

// --- races ------------------------------------------------------------------------------------------------------------

/// An installation in a sync group that a peer of the same inbox has made.
fn with_peer(node: &Rc<Node>) -> (Client, Peer, Vec<u8>) {
    let client = Client::register(node, OWN);
    let mut peer = Peer::new(node, OWN, 5);
    let context = peer.context(ConversationType::Sync);
    let group_id = peer.create(&context);
    peer.add(&[&client]);
    assert_eq!(client.sync_sync_groups(false).joined, vec![group_id.clone()]);
    (client, peer, group_id)
}

#[test]
fn a_message_arrives_although_another_commit_was_faster() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    let id = client.get().send_sync_message(&group_id, b"hello").unwrap();
    // The key update is prepared and published behind a commit of the peer's.
    let prepared = client.get().prepare(&group_id, false).unwrap().unwrap();
    peer.update_key();
    let lost = node.send(&prepared.request);
    client.get().published(&prepared.keys).unwrap();
    client.flush();
    assert_eq!(client.get().outgoing_groups().unwrap(), Vec::<Vec<u8>>::new());
    assert!(client.row(&group_id).cursor > lost[0]);
    assert_eq!(peer.receive(), vec![envelope::encode_device_sync(b"hello")]);
    assert_eq!(client.authenticator(&group_id), peer.authenticator());
    let said = client.get().sync_messages(None, 0, 10).unwrap();
    assert_eq!((said.len(), said[0].id.as_slice()), (1, id.as_slice()));
    assert_eq!(said[0].sequence_id, node.messages_of(&group_id).last().unwrap().id);
    assert_eq!(client.row(&group_id).undecryptable, 0);
}

#[test]
fn a_message_overtaken_by_too_many_commits_is_said_again() {
    for overtaken in 1..=5_u64 {
        let node = Node::new();
        let (client, mut peer, group_id) = with_peer(&node);
        client.say(b"first, with the key update");
        peer.receive();
        let id = client.get().send_sync_message(&group_id, b"late").unwrap();
        let prepared = client.get().prepare(&group_id, false).unwrap().unwrap();
        for _ in 0..overtaken {
            peer.update_key();
        }
        node.send(&prepared.request);
        client.get().published(&prepared.keys).unwrap();
        let before = node.messages_of(&group_id).len();
        client.flush();
        let again = usize::from(overtaken > 3);
        assert_eq!(node.messages_of(&group_id).len(), before + again, "{overtaken} epochs");
        assert_eq!(peer.receive(), vec![envelope::encode_device_sync(b"late")], "{overtaken} epochs");
        let said = client.get().sync_messages(Some(&group_id), 0, 10).unwrap();
        assert_eq!((said.len(), said[1].id.as_slice()), (2, id.as_slice()));
        assert_eq!(said[1].sequence_id, node.messages_of(&group_id).last().unwrap().id);
        assert_eq!(client.get().outgoing_groups().unwrap(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn whoever_always_loses_goes_on_later_and_gives_up_in_the_end() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    client.get().send_sync_message(&group_id, b"patience").unwrap();
    let mut attempts = 0;
    while let Some(prepared) = client.get().prepare(&group_id, false).unwrap() {
        let framing::ContentType::Commit = kind_of(&prepared.request) else { break };
        attempts += 1;
        assert!(attempts < 100);
        peer.update_key();
        node.send(&prepared.request);
        client.get().published(&prepared.keys).unwrap();
        client.receive(&group_id);
    }
    assert_eq!(attempts, 10);
    assert_eq!(client.get().outbox().unwrap().failed, 1);
    // The message itself goes out, with the old leaf.
    client.flush();
    assert_eq!(peer.receive(), vec![envelope::encode_device_sync(b"patience")]);
}

fn kind_of(request: &[u8]) -> framing::ContentType {
    use prost::Message as _;
    use xmtp_history::wire::proto::mls::api::v1::{SendGroupMessagesRequest, group_message_input::Version};
    let request = SendGroupMessagesRequest::decode(request).unwrap();
    let Some(Version::V1(message)) = &request.messages[0].version else { panic!() };
    framing::Framing::read(&message.data).unwrap().content_type
}

#[test]
fn many_messages_keep_their_order() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    let said: Vec<Vec<u8>> = (0..30_u8).map(|number| vec![number]).collect();
    for content in &said {
        client.get().send_sync_message(&group_id, content).unwrap();
    }
    client.flush();
    let expected: Vec<Vec<u8>> = said.iter().map(|content| envelope::encode_device_sync(content)).collect();
    // One round has its limits; the next pass goes on.
    client.flush();
    assert_eq!(peer.receive(), expected);
    assert_eq!(client.said(&group_id).into_iter().map(|(_, said)| said).collect::<Vec<_>>(), said);
}

#[test]
fn two_messages_with_one_content_have_two_ids() {
    let node = Node::new();
    let (client, _, group_id) = with_peer(&node);
    let ids: BTreeSet<_> = (0..20).map(|_| client.get().send_sync_message(&group_id, b"same").unwrap()).collect();
    assert_eq!(ids.len(), 20);
}

// --- restarts and repetitions -----------------------------------------------------------------------------------------

/// A whole life of three installations; what it leaves.
fn life(restarts: bool, crashes: bool, page: usize) -> (Vec<String>, usize) {
    let node = Node::new();
    node.page.set(page);
    let first = Client::register(&node, OWN);
    let second = Client::register(&node, OWN);
    let third = Client::register(&node, OWN);
    let clients = [&first, &second, &third];
    for client in clients {
        client.restarts.set(restarts);
        client.crashes.set(crashes);
    }
    third.sync_sync_groups(true);
    first.sync_sync_groups(true);
    second.sync_sync_groups(true);
    for round in 0..3_u8 {
        for client in clients {
            client.say(&[round]);
        }
    }
    let mut told = Vec::new();
    for client in clients {
        client.sync_sync_groups(true);
        client.sync_sync_groups(true);
        let groups = client.step(|i| i.groups()).unwrap();
        assert_eq!(groups.len(), 1);
        assert_eq!(client.step(|i| i.outgoing_groups()).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(client.authenticator(&groups[0].id), first.authenticator(&groups[0].id));
        let who = |id: &[u8]| clients.iter().position(|client| client.id() == id).unwrap();
        let said: Vec<_> = client.said(&groups[0].id).into_iter().map(|(id, content)| (who(&id), content)).collect();
        let row = &groups[0];
        told.push(format!("{said:?} {:?} {} {}", row.state, row.epoch, row.undecryptable));
    }
    (told, node.messages.borrow().len())
}

#[test]
fn restarts_between_all_steps_change_nothing_and_repeat_nothing() {
    let plain = life(false, false, 0);
    assert_eq!(plain.0[0], plain.0[2]);
    assert_eq!(
        (plain.0[0].matches("])").count(), plain.1),
        (9, 13),
        "nine messages and four commits, one of them in vain: {}",
        plain.0[0]
    );
    assert_eq!(plain, life(true, false, 0), "opened anew before every call");
    assert_eq!(plain, life(false, true, 0), "died after every request");
    assert_eq!(plain, life(true, true, 0));
    assert_eq!(plain, life(true, false, 1), "pages of one message");
}

#[test]
fn repeated_and_disordered_deliveries_count_once() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    let from = client.row(&group_id).cursor;
    for number in 0..6 {
        if number % 2 == 0 {
            peer.update_key();
        }
        peer.say_content(&envelope::encode_device_sync(&[number]));
    }
    let mut messages = node.messages_of(&group_id);
    messages.retain(|message| message.id > from);
    let welcomes = node.query_welcomes(&client.id(), 0);
    let mut pass = network::Pass::default();
    // Backwards and twice over: a page counts by its ids.
    let mut page: Vec<_> = messages.iter().rev().cloned().collect();
    page.extend(messages.iter().cloned());
    client.take(&group_id, &answer(page, 100), &mut pass).unwrap();
    assert_eq!((pass.sync_messages.len(), pass.commits), (6, 3));
    let state = client.row(&group_id);
    // All of it once more, in every way.
    for page in [messages.clone(), messages[..3].to_vec(), vec![messages[4].clone()], vec![]] {
        client.take(&group_id, &answer(page, 100), &mut pass).unwrap();
    }
    client.take_welcomes(&welcomes, &mut pass).unwrap();
    assert_eq!((pass.sync_messages.len(), pass.commits, pass.joined.len()), (6, 3, 0));
    assert_eq!(client.row(&group_id), state);
    assert_eq!(state.undecryptable, 0);
    assert_eq!(client.authenticator(&group_id), peer.authenticator());
    let said: Vec<_> = client.said(&group_id).into_iter().map(|(_, said)| said).collect();
    assert_eq!(said, (0..6).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn welcomes_keep_the_cursor_of_their_own_commit() {
    let node = Node::new();
    let other = Client::register(&node, OWN);
    let maker = Client::register(&node, OWN);
    let mut groups = Vec::new();
    for _ in 0..2 {
        let others = maker.get().other_installations().unwrap();
        let group_id = maker.get().create_sync_group(&others, &node.key_packages(&others)).unwrap();
        // The process ends each time before the welcomes go out.
        maker.flush_group(&group_id);
        maker.get().send_sync_message(&group_id, b"said before anybody joined").unwrap();
        maker.flush_group(&group_id);
        maker.reopen();
        groups.push(group_id);
    }
    maker.flush();
    assert_eq!(other.sync_sync_groups(false).joined, groups);
    for group_id in &groups {
        let commit = node.messages_of(group_id)[0].id;
        let welcome_at = other.row(group_id).welcome_id.unwrap();
        assert!(commit < welcome_at);
        assert_eq!(other.row(group_id).epoch, 1);
        assert_eq!(other.said(group_id), vec![(maker.id().to_vec(), b"said before anybody joined".to_vec())]);
    }
}
