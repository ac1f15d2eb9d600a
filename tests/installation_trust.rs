//! Which sync groups, and who in them, an installation believes (device sync specification, section 2.7, rules F1 to F6).

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::rc::Rc;

use mls::Change;
use network::{Client, Node, Peer, inbox_of};
use xmtp_history::mls::extensions::ConversationType;
use xmtp_history::mls::rules::{MemberRight, Policy};
use xmtp_history::mls::{Error, GroupState, envelope};
use xmtp_history::wire::proto::mls::message_contents as contents;

/// The wallet whose inbox the tests are about.
const OWN: u8 = 1;
/// A stranger's.
const STRANGER: u8 = 2;

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
fn f1_foreign_sync_groups_are_dropped() {
    type Twist = fn(&mut xmtp_history::mls::extensions::GroupExtensions, &str, &str);
    let (_, own) = inbox_of(OWN);
    let (_, stranger) = inbox_of(STRANGER);
    let plain: Twist = |_, _, _| {};
    let cases: [(&str, u8, Twist, bool); 6] = [
        ("made and added by a stranger", STRANGER, plain, false),
        (
            "said to be made by the inbox, added by a stranger",
            STRANGER,
            |context, own, _| {
                context.metadata.creator_inbox_id = own.to_owned();
                context.mutable_metadata.super_admins = vec![own.to_owned()];
            },
            false,
        ),
        (
            "added by the inbox, made by a stranger",
            OWN,
            |context, _, stranger| context.metadata.creator_inbox_id = stranger.to_owned(),
            false,
        ),
        (
            "with a stranger among the admins",
            OWN,
            |context, _, stranger| context.mutable_metadata.super_admins.push(stranger.to_owned()),
            false,
        ),
        (
            "with other permissions",
            OWN,
            |context, _, _| context.permissions.add_member = Policy::Base(MemberRight::Nobody),
            false,
        ),
        ("plain", OWN, plain, true),
    ];
    for (name, wallet, twist, accepted) in cases {
        let node = Node::new();
        let client = Client::register(&node, OWN);
        Peer::new(&node, STRANGER, 8);
        let mut peer = Peer::new(&node, wallet, 5);
        let mut context = peer.context(ConversationType::Sync);
        twist(&mut context, &own, &stranger);
        let group_id = peer.create(&context);
        peer.add(&[&client]);
        let pass = client.sync_sync_groups(false);
        assert_eq!((pass.joined.len() == 1, pass.dropped.len() == 1), (accepted, !accepted), "{name}: {pass:?}");
        assert_eq!(client.get().sync_groups().unwrap().primary.is_some(), accepted, "{name}");
        assert_eq!(client.get().group(&group_id).unwrap().is_some(), accepted, "{name}");
        assert_eq!(client.get().welcome_cursor().unwrap(), node.welcomes.borrow()[0].id, "{name}");
    }
}

#[test]
fn f1_a_foreign_leaf_or_member_is_enough() {
    for with_leaf in [true, false] {
        let node = Node::new();
        let client = Client::register(&node, OWN);
        let stranger = Peer::new(&node, STRANGER, 8);
        let mut peer = Peer::new(&node, OWN, 5);
        let context = peer.context(ConversationType::Sync);
        peer.create(&context);
        let ids = if with_leaf { vec![client.id(), stranger.id()] } else { vec![client.id()] };
        let mut change = peer.adding(&ids, &[&client.inbox_id(), stranger.inbox_id()]);
        if !with_leaf {
            change.extensions = peer.changed(|extensions| {
                let members = &mut extensions.membership.members;
                members.insert(client.inbox_id(), node.sequence_id(&client.inbox_id()));
                members.insert(stranger.inbox_id().to_owned(), node.sequence_id(stranger.inbox_id()));
                extensions.membership.failed_installations.insert(stranger.id().to_vec());
            });
        }
        peer.commit(change);
        let pass = client.sync_sync_groups(false);
        assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1), "{pass:?}");
        assert_eq!(client.get().groups().unwrap(), vec![]);
    }
}

#[test]
fn f2_a_group_that_lets_others_in_is_given_up() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    let stranger = Peer::new(&node, STRANGER, 8);
    client.say(b"before");
    peer.receive();
    peer.add_peers(&[&stranger]);
    peer.say_content(&envelope::encode_device_sync(b"after"));
    client.sync_sync_groups(false);
    assert_eq!(client.row(&group_id).state, GroupState::Untrusted);
    assert_eq!(client.get().sync_groups().unwrap().primary, None);
    assert!(client.get().sync_groups().unwrap().wanted.is_some());
    assert!(matches!(client.get().send_sync_message(&group_id, b"no"), Err(Error::NoSuchGroup)));
    assert!(matches!(client.get().prepare(&group_id, false), Err(Error::NoSuchGroup)));
    assert_eq!(client.said(&group_id).len(), 1);
    // For good: also when the stranger is gone again, and after a restart.
    peer.remove(stranger.inbox_id());
    client.reopen();
    client.sync_sync_groups(false);
    assert_eq!(client.row(&group_id).state, GroupState::Untrusted);
}

#[test]
fn f2_other_admins_and_permissions_end_the_trust_and_other_changes_do_not() {
    let (_, stranger) = inbox_of(STRANGER);
    type Twist = fn(&mut xmtp_history::mls::extensions::GroupExtensions, &str);
    let cases: [(&str, Twist, GroupState); 5] = [
        (
            "an admin",
            |context, stranger| context.mutable_metadata.admins.push(stranger.to_owned()),
            GroupState::Untrusted,
        ),
        (
            "a super admin",
            |context, stranger| context.mutable_metadata.super_admins.push(stranger.to_owned()),
            GroupState::Untrusted,
        ),
        (
            "permissions",
            |context, _| {
                context.permissions.add_member = Policy::Base(MemberRight::Nobody);
            },
            GroupState::Untrusted,
        ),
        (
            "another type",
            |context, _| context.metadata.conversation_type = ConversationType::Group,
            GroupState::Untrusted,
        ),
        (
            "a name",
            |context, _| {
                context.mutable_metadata.attributes.insert("group_name".into(), "mine".into());
            },
            GroupState::Active,
        ),
    ];
    for (name, twist, state) in cases {
        let node = Node::new();
        let (client, mut peer, group_id) = with_peer(&node);
        peer.update(|context| twist(context, &stranger));
        client.sync_sync_groups(false);
        assert_eq!(client.row(&group_id).state, state, "{name}: {}", client.row(&group_id).reason);
        assert_eq!(client.get().sync_groups().unwrap().primary.is_some(), state == GroupState::Active, "{name}");
    }
}

#[test]
fn f3_nothing_is_said_in_other_groups() {
    let node = Node::new();
    let client = Client::register(&node, OWN);
    let mut stranger = Peer::new(&node, STRANGER, 8);
    let context = stranger.context(ConversationType::Group);
    let group_id = stranger.create(&context);
    stranger.add(&[&client]);
    client.sync_conversations();
    assert_eq!(client.row(&group_id).state, GroupState::Active);
    assert!(matches!(client.get().send_sync_message(&group_id, b"no"), Err(Error::NoSuchGroup)));
    assert!(matches!(client.get().send_sync_message(&[1; 16], b"no"), Err(Error::NoSuchGroup)));
    assert_eq!(client.get().outgoing_groups().unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn f4_the_revoked_are_not_heard_and_a_fresh_group_does_without_them() {
    let node = Node::new();
    let (client, mut peer, old) = with_peer(&node);
    peer.say_content(&envelope::encode_device_sync(b"while it was one of us"));
    client.sync_sync_groups(true);
    assert_eq!(client.get().sync_groups().unwrap().wanted, None);
    client.revoke(&[peer.id()]);
    let groups = client.get().sync_groups().unwrap();
    assert_eq!((groups.primary.as_ref(), groups.wanted.is_some()), (Some(&old), true));
    let cursor = client.row(&old).cursor;
    peer.say_content(&envelope::encode_device_sync(b"afterwards"));
    client.sync_sync_groups(true);
    assert_eq!(client.said(&old), vec![(peer.id().to_vec(), b"while it was one of us".to_vec())]);
    assert!(client.row(&old).cursor > cursor);
    let groups = client.get().sync_groups().unwrap();
    let fresh = groups.primary.unwrap();
    assert_ne!(fresh, old);
    assert_eq!(groups.wanted, None);
    let members = client.get().group_details(&fresh).unwrap().members;
    assert_eq!(members, vec![(client.inbox_id(), client.id().to_vec())]);
    assert!(node.welcomes_of(&peer.id()).is_empty());
    client.say(b"among ourselves");
    assert!(client.said(&fresh).len() == 1 && client.said(&old).len() == 1);
}

#[test]
fn f5_other_contents_are_not_kept() {
    let node = Node::new();
    let (client, mut peer, group_id) = with_peer(&node);
    let content = |authority: &str, name: &str, major: u32, minor: u32| {
        use prost::Message as _;
        contents::EncodedContent {
            r#type: Some(contents::ContentTypeId {
                authority_id: authority.into(),
                type_id: name.into(),
                version_major: major,
                version_minor: minor,
            }),
            content: b"content".to_vec(),
            ..Default::default()
        }
        .encode_to_vec()
    };
    for other in [
        content("xmtp.org", "text", 1, 0),
        content("xmtp.org", "group_updated", 1, 0),
        content("example.org", "application/x-protobuf", 1, 0),
        content("xmtp.org", "application/x-protobuf", 2, 0),
        content("xmtp.org", "application/x-protobuf", 0, 0),
        b"no content at all".to_vec(),
        Vec::new(),
    ] {
        peer.say_content(&other);
    }
    // Neither what is no envelope, nor one of the second version.
    for bytes in [&b"\xff\xff"[..], b"", b"\x12\x00", b"\x0a\x00"] {
        let data = peer.encrypt(bytes);
        node.post(&group_id, &data);
    }
    let kept = peer.say_content(&content("xmtp.org", "application/x-protobuf", 1, 7));
    let pass = client.sync_sync_groups(false);
    assert_eq!(pass.sync_messages.len(), 1);
    assert_eq!(client.said(&group_id), vec![(peer.id().to_vec(), b"content".to_vec())]);
    assert_eq!((client.row(&group_id).cursor, client.row(&group_id).undecryptable), (kept, 0));
    assert_eq!(client.get().store().counts().unwrap().messages, 0);
}

#[test]
fn f6_stored_groups_are_judged_anew_when_they_are_opened() {
    for state in [GroupState::Active, GroupState::Forked] {
        let node = Node::new();
        let (client, mut peer, group_id) = with_peer(&node);
        let changed = client.execute(&format!(
            "UPDATE mls_groups SET added_by_inbox_id = '{}', state = {}",
            inbox_of(STRANGER).1,
            state as i64
        ));
        assert_eq!(changed, 1);
        client.reopen();
        assert_eq!(client.row(&group_id).state, GroupState::Untrusted, "{state:?}");
        assert_eq!(client.get().sync_groups().unwrap().primary, None);
        peer.update_key();
        peer.say_content(&envelope::encode_device_sync(b"unheard"));
        client.sync_sync_groups(false);
        assert_eq!(client.row(&group_id).state, GroupState::Untrusted, "{state:?}");
        assert_eq!(client.said(&group_id), vec![]);
    }
}

#[test]
fn our_own_sync_group_cannot_be_replaced_by_a_group_of_another_kind() {
    let node = Node::new();
    let (client, peer, group_id) = with_peer(&node);
    let row = client.row(&group_id);
    // Whoever knows the group's id makes a group of the same id, in a later epoch, of a kind that rule F1 is not for.
    let mut stranger = Peer::new(&node, STRANGER, 8);
    for unsupported in [false, true] {
        let context = stranger.context(ConversationType::Group);
        stranger.create_with_id(&context, &group_id, unsupported);
        for _ in 0..5 {
            let (_, _) = stranger.prepare(Change::default());
            stranger.merge();
        }
        let change = stranger.adding_in_place(&client, &peer, unsupported);
        let package = stranger.fetched(&client.id());
        let (_, welcome) = stranger.prepare(change);
        stranger.merge();
        stranger.welcome(&welcome.unwrap(), 1, &package);
        let pass = client.sync_sync_groups(false);
        assert_eq!((pass.joined.len(), pass.dropped.len()), (0, 1), "{pass:?}");
        assert_eq!(client.row(&group_id), row);
        assert_eq!(client.get().sync_groups().unwrap().primary.as_ref(), Some(&group_id));
    }
    client.say(b"still here");
    assert_eq!(client.said(&group_id).len(), 1);
}
