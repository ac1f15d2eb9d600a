//! What installations of an inbox ask of each other and keep in step: requests, answers, refusals, decisions about consent, the
//! root key for HMACs, and recorded messages (device sync specification, sections 3 to 5).

mod identity_support;
#[path = "support/mls.rs"]
mod mls;
#[path = "support/network.rs"]
mod network;

use std::collections::BTreeMap;
use std::rc::Rc;

use network::{Client, Node, Pass};
use proptest::prelude::*;
use prost::Message as _;
use xmtp_history::mls::{ArchiveOptions, BackupMetadataSave, Error, Flushed, Subject};
use xmtp_history::store::{MessageQuery, Record};
use xmtp_history::wire::proto::device_sync::consent_backup::ConsentSave;
use xmtp_history::wire::proto::device_sync::content::device_sync_content::Content;
use xmtp_history::wire::proto::device_sync::content::preference_update::Update;
use xmtp_history::wire::proto::device_sync::content::{
    DeviceSyncContent, DeviceSyncReply, DeviceSyncRequest, HmacKeyUpdate, PreferenceUpdate, PreferenceUpdates,
};
use xmtp_history::wire::{Consent, Group, Message};

const OWN: u8 = 1;
const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;
const UNKNOWN: i32 = 1;
const ALLOWED: i32 = 2;
const DENIED: i32 = 3;
const INBOX: i32 = 2;
const SOMEBODY: &str = "00ff";

fn devices<const N: usize>(node: &Rc<Node>) -> [Client; N] {
    let clients = std::array::from_fn(|_| {
        let client = Client::register(node, OWN);
        client.sync_sync_groups(true);
        client
    });
    settle(&clients);
    clients
}

/// Tells what is waiting, and reads what others have told.
fn step(client: &Client) -> Pass {
    let mut pass = client.sync_sync_groups(true);
    let primary = client.sync_group();
    client.get().flush_outbox(&primary).unwrap();
    client.flush();
    pass.sync_messages.extend(client.sync_sync_groups(false).sync_messages);
    pass
}

/// Until nobody has anything to say.
fn settle(clients: &[Client]) {
    for _ in 0..3 {
        for client in clients {
            step(client);
        }
    }
}

fn decide(client: &Client, state: i32) -> i64 {
    let changed = client.get().set_consents(&[(INBOX, SOMEBODY.to_owned(), state)]).unwrap();
    changed.first().map_or(0, |(.., at_ns)| *at_ns)
}

fn decision(client: &Client) -> Option<(i32, i64)> {
    client.get().consent(INBOX, SOMEBODY).unwrap()
}

/// Makes the next decision of a client one of a clock that is ahead.
fn be_ahead(client: &Client, by_ns: i64, now_ns: i64) {
    let consent = Consent {
        entity_type: INBOX,
        state: UNKNOWN,
        entity: SOMEBODY,
        consented_at_ns: now_ns + by_ns,
        unknown: vec![],
    };
    client.get().store().add([Record::Consent(consent)]).unwrap();
}

fn say(client: &Client, content: Content) {
    client.say(&DeviceSyncContent { content: Some(content), notice: None }.encode_to_vec());
}

fn metadata() -> BackupMetadataSave {
    BackupMetadataSave { elements: vec![1, 2], exported_at_ns: 5, start_ns: None, end_ns: Some(7) }
}

fn options() -> ArchiveOptions {
    ArchiveOptions { elements: vec![1, 2], start_ns: Some(3), end_ns: None, exclude_disappearing_messages: true }
}

fn request(client: &Client) -> String {
    let primary = client.sync_group();
    let (pin, _) = client.get().send_sync_request(&primary, "http://history", options(), false).unwrap();
    client.flush();
    pin
}

fn answer_task(client: &Client) -> Vec<u8> {
    let tasks = client.get().sync_tasks().unwrap();
    assert_eq!(tasks.len(), 1);
    tasks[0].message_id.clone()
}

// --- requests and answers -----------------------------------------------------------------------------------------------

#[test]
fn a_request_is_a_task_of_all_others_until_it_is_answered() {
    let node = Node::new();
    let [asking, first, second] = devices(&node);
    let pin = request(&asking);
    assert!(pin.len() == 5 && pin.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    for other in [&first, &second] {
        step(other);
        let tasks = other.get().sync_tasks().unwrap();
        assert_eq!(tasks.len(), 1);
        assert_eq!((tasks[0].installation_id.as_slice(), tasks[0].attempts), (&asking.id()[..], 0));
        let Subject::Request(asked) = &tasks[0].subject else { panic!() };
        assert_eq!((&asked.pin, asked.server_url.as_str(), &asked.options), (&pin, "http://history", &Some(options())));
    }
    step(&asking);
    assert_eq!(asking.get().sync_tasks().unwrap(), vec![], "nobody answers himself");

    let task = answer_task(&first);
    let primary = first.sync_group();
    first.get().task_retry(&task, "the server is down", 17).unwrap();
    first.reopen();
    let tasks = first.get().sync_tasks().unwrap();
    assert_eq!((tasks[0].attempts, tasks[0].next_attempt_at_ns), (1, 17));
    let send =
        |key: &[u8]| first.get().send_sync_reply(&primary, &pin, "http://a/files/1", key, metadata(), Some(&task));
    assert!(matches!(send(&[7; 31]), Err(Error::Argument(_))));
    send(&[7; 32]).unwrap();
    assert!(matches!(send(&[7; 32]), Err(Error::Argument(_))), "nothing is answered twice");
    assert_eq!(first.get().sync_tasks().unwrap(), vec![]);
    first.flush();

    // Only whoever has asked imports it.
    settle(&[first, second]);
    step(&asking);
    let tasks = asking.get().sync_tasks().unwrap();
    assert_eq!(tasks.len(), 1);
    let Subject::Reply(reply) = &tasks[0].subject else { panic!() };
    assert_eq!(
        (reply.pin.as_str(), reply.url.as_str(), reply.key.as_slice()),
        (pin.as_str(), "http://a/files/1", &[7; 32][..])
    );
    assert!(!format!("{reply:?}").contains("http"), "what opens an archive is not printed");
    assert_eq!(asking.get().sync_requests().unwrap()[0].pending, 1);
    asking.get().task_done(&tasks[0].message_id).unwrap();
    let requests = asking.get().sync_requests().unwrap();
    assert_eq!((requests.len(), requests[0].imported, requests[0].pending), (1, 1, 0));
}

#[test]
fn an_answer_counts_in_whichever_group_it_comes() {
    let node = Node::new();
    let [asking, other] = devices(&node);
    let pin = request(&asking);
    step(&other);
    // A third one registers in between, and its sync group is where everything goes now.
    let third = Client::register(&node, OWN);
    third.sync_sync_groups(true);
    step(&other);
    step(&asking);
    let primary = other.sync_group();
    assert_eq!(primary, third.sync_group());
    let task = answer_task(&other);
    other.get().send_sync_reply(&primary, &pin, "http://a/files/1", &[7; 32], metadata(), Some(&task)).unwrap();
    other.flush();
    step(&asking);
    assert_eq!(asking.get().sync_tasks().unwrap().len(), 1);
    step(&third);
    assert_eq!(third.get().sync_tasks().unwrap(), vec![], "it has asked for nothing");
    assert_eq!(third.get().sync_replies(0).unwrap().len(), 1);
}

#[test]
fn answers_of_several_are_all_imported_and_those_of_one_once() {
    let node = Node::new();
    let [asking, first, second] = devices(&node);
    let pin = request(&asking);
    for other in [&first, &second, &first] {
        let primary = other.sync_group();
        other.get().send_sync_reply(&primary, &pin, "http://a/files/1", &[7; 32], metadata(), None).unwrap();
        other.flush();
    }
    step(&asking);
    let tasks = asking.get().sync_tasks().unwrap();
    assert_eq!(tasks.len(), 3);
    let of_first = tasks.iter().find(|task| task.installation_id == first.id()).unwrap();
    asking.get().task_done(&of_first.message_id).unwrap();
    let left = asking.get().sync_tasks().unwrap();
    assert_eq!(left.iter().map(|task| task.installation_id.clone()).collect::<Vec<_>>(), [second.id().to_vec()]);
}

#[test]
fn unasked_archives_are_listed_and_malformed_answers_say_so() {
    let node = Node::new();
    let [one, other] = devices(&node);
    let primary = other.sync_group();
    for (pin, key) in [("first", [1; 32]), ("second", [2; 32])] {
        other.get().send_sync_reply(&primary, pin, "http://a/files/1", &key, metadata(), None).unwrap();
    }
    other.flush();
    step(&one);
    assert_eq!(one.get().sync_tasks().unwrap(), vec![]);
    let replies = one.get().sync_replies(0).unwrap();
    assert_eq!(replies.iter().map(|reply| reply.pin.as_str()).collect::<Vec<_>>(), ["second", "first"]);
    assert_eq!(one.get().sync_reply(&replies[1].message_id).unwrap().unwrap().key, [1; 32]);
    assert_eq!(one.get().sync_replies(i64::MAX).unwrap(), vec![]);
    assert_eq!(other.get().sync_replies(0).unwrap(), vec![], "one's own are no news");

    let pin = request(&one);
    say(
        &other,
        Content::Reply(DeviceSyncReply { request_id: pin.clone(), url: "http://a".to_owned(), ..Default::default() }),
    );
    // Of the first generation: nobody can read it, and nobody has to know.
    say(&other, Content::Reply(DeviceSyncReply { request_id: pin.clone(), kind: 1, ..Default::default() }));
    say(&other, Content::Request(DeviceSyncRequest { pin: "\u{1b}[2J".to_owned(), ..Default::default() }));
    other.say(b"\xff\xff\xff");
    step(&one);
    assert_eq!(one.get().sync_tasks().unwrap(), vec![]);
    let refused = &one.get().sync_requests().unwrap()[0].refused;
    assert_eq!(refused.iter().map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>(), ["malformed"]);
}

#[test]
fn a_refusal_ends_the_task_and_is_told() {
    let node = Node::new();
    let [asking, other] = devices(&node);
    let pin = request(&asking);
    step(&other);
    let (task, primary) = (answer_task(&other), other.sync_group());
    let long = "x".repeat(300) + "\u{1b}[2J";
    other.get().send_refusal(&primary, &pin, "too_large", &long, Some(&task)).unwrap();
    other.get().send_refusal(&primary, "another pin", "too_large", "", None).unwrap();
    other.flush();
    assert_eq!(other.get().sync_tasks().unwrap(), vec![]);
    step(&asking);
    let requests = asking.get().sync_requests().unwrap();
    assert_eq!(requests[0].refused.len(), 1);
    let refusal = &requests[0].refused[0];
    assert_eq!((refusal.reason.as_str(), refusal.detail.len()), ("too_large", 256));
    assert_eq!(refusal.installation_id, other.id());
}

#[test]
fn what_a_revoked_installation_asks_is_no_task() {
    let node = Node::new();
    let [revoked, one] = devices(&node);
    one.revoke(&[revoked.id()]);
    request(&revoked);
    step(&one);
    assert_eq!(one.get().sync_tasks().unwrap(), vec![]);
}

// --- consent --------------------------------------------------------------------------------------------------------------

#[test]
fn a_decision_reaches_the_others_with_its_time() {
    let node = Node::new();
    let [one, other] = devices(&node);
    let at_ns = decide(&one, DENIED);
    assert_eq!(one.get().outbox().unwrap().consents, 1);
    assert_eq!(decide(&one, DENIED), 0, "the same again is nothing new");
    one.reopen();
    step(&one);
    step(&other);
    assert_eq!((decision(&one), decision(&other)), (Some((DENIED, at_ns)), Some((DENIED, at_ns))));
    let later = decide(&other, ALLOWED);
    assert!(later > at_ns);
    step(&other);
    step(&one);
    assert_eq!((decision(&one), decision(&other)), (Some((ALLOWED, later)), Some((ALLOWED, later))));
    // What others have decided is not told again.
    assert_eq!((one.get().outbox().unwrap().consents, one.get().outbox().unwrap().intents), (0, 0));
}

#[test]
fn many_decisions_while_nobody_listens_are_told_as_they_stand() {
    let node = Node::new();
    let [one, other] = devices(&node);
    for state in [DENIED, ALLOWED, UNKNOWN, DENIED] {
        decide(&one, state);
    }
    let others: Vec<_> = (0..1200).map(|n| (INBOX, format!("{n:064x}"), ALLOWED)).collect();
    one.get().set_consents(&others).unwrap();
    let primary = one.sync_group();
    assert_eq!(one.get().flush_outbox(&primary).unwrap(), Flushed { consents: 1201, messages: 0, hmac: false });
    assert_eq!(one.get().outbox().unwrap().intents, 3);
    settle(&[one, other]);
}

#[test]
fn what_is_no_decision_is_skipped_and_what_is_beside_it_counts() {
    let node = Node::new();
    let [one, other] = devices(&node);
    let consent = |entity_type, state, entity: &str| PreferenceUpdate {
        update: Some(Update::Consent(ConsentSave {
            entity_type,
            state,
            entity: entity.to_owned(),
            consented_at_ns: 9,
        })),
    };
    let hmac = |length| PreferenceUpdate {
        update: Some(Update::Hmac(HmacKeyUpdate { key: vec![1; length], cycled_at_ns: i64::MAX })),
    };
    let before = one.get().hmac_root_key().unwrap();
    let updates = vec![
        consent(3, DENIED, SOMEBODY),
        consent(INBOX, 0, SOMEBODY),
        consent(INBOX, 4, SOMEBODY),
        consent(INBOX, DENIED, "not hexadecimal"),
        consent(INBOX, DENIED, &"0".repeat(1000)),
        PreferenceUpdate { update: None },
        hmac(41),
        hmac(43),
        consent(INBOX, DENIED, "00FF"),
    ];
    say(&other, Content::PreferenceUpdates(PreferenceUpdates { updates }));
    step(&one);
    assert_eq!(decision(&one), Some((DENIED, 9)));
    assert_eq!(one.consents().len(), 1);
    assert_eq!(one.get().hmac_root_key().unwrap(), before);
    assert!(matches!(one.get().set_consents(&[(INBOX, "x".to_owned(), DENIED)]), Err(Error::Argument(_))));
    assert!(matches!(one.get().set_consents(&[(9, SOMEBODY.to_owned(), DENIED)]), Err(Error::Argument(_))));
}

#[test]
fn a_clock_that_is_ahead_does_not_decide_for_ever() {
    let node = Node::new();
    let [ahead, other] = devices(&node);
    be_ahead(&ahead, DAY_NS, now_ns());
    decide(&ahead, DENIED);
    // The other one decides later than it was said, but before it has heard of it.
    step(&ahead);
    decide(&other, ALLOWED);
    settle_both(&ahead, &other);
    assert_eq!(decision(&ahead).unwrap().0, ALLOWED);
    assert!(decision(&ahead).unwrap().1 <= now_ns());
}

#[test]
fn explicit_decisions_beat_those_that_were_only_noted() {
    let node = Node::new();
    let [one, other] = devices(&node);
    let noted = Consent { entity_type: INBOX, state: ALLOWED, entity: SOMEBODY, consented_at_ns: 0, unknown: vec![] };
    for client in [&one, &other] {
        client.get().store().add([Record::Consent(noted.clone())]).unwrap();
    }
    let ancient = ConsentSave { entity_type: INBOX, state: DENIED, entity: SOMEBODY.to_owned(), consented_at_ns: -5 };
    let updates = vec![PreferenceUpdate { update: Some(Update::Consent(ancient)) }];
    say(&other, Content::PreferenceUpdates(PreferenceUpdates { updates }));
    step(&one);
    assert_eq!(decision(&one), Some((DENIED, 1)));
    // Taken by somebody, also if it says what was noted.
    assert!(decide(&other, ALLOWED) > 0);
}

fn settle_both(one: &Client, other: &Client) {
    for _ in 0..3 {
        step(one);
        step(other);
    }
    assert_eq!(decision(one), decision(other));
}

fn now_ns() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap()
}

#[derive(Debug, Clone)]
enum Doing {
    Decide(i32),
    BeAhead,
    Tell,
    Listen,
    Both,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever decides what, by whichever clock, and whenever it is told and heard: in the end all say the same.
    #[test]
    fn all_agree_in_the_end(script in prop::collection::vec((0..3usize, prop_oneof![
        3 => (UNKNOWN..=DENIED).prop_map(Doing::Decide),
        1 => Just(Doing::BeAhead),
        2 => Just(Doing::Tell),
        2 => Just(Doing::Listen),
        1 => Just(Doing::Both),
    ]), 1..30)) {
        let node = Node::new();
        let clients: [Client; 3] = devices(&node);
        for (index, doing) in script {
            let client = &clients[index];
            match doing {
                Doing::Decide(state) => {
                    decide(client, state);
                }
                // Only before anything was decided there: it stands for the clock, not for a decision.
                Doing::BeAhead => {
                    if decision(client).is_none() {
                        be_ahead(client, DAY_NS, now_ns());
                        decide(client, DENIED);
                    }
                }
                Doing::Tell => {
                    let primary = client.sync_group();
                    client.get().flush_outbox(&primary).unwrap();
                    // Published, and not looked at yet.
                    while let Some(outgoing) = client.get().prepare(&primary, false).unwrap() {
                        node.send(&outgoing.request);
                        client.get().published(&outgoing.keys).unwrap();
                    }
                }
                Doing::Listen => {
                    client.sync_sync_groups(false);
                }
                Doing::Both => {
                    step(client);
                }
            }
        }
        settle(&clients);
        prop_assert_eq!(decision(&clients[0]), decision(&clients[1]));
        prop_assert_eq!(decision(&clients[0]), decision(&clients[2]));
    }
}

// --- the root key for HMACs ---------------------------------------------------------------------------------------------

#[test]
fn all_derive_the_same_keys_and_a_revoked_installation_others() {
    let node = Node::new();
    let clients: [Client; 3] = devices(&node);
    let id = vec![5; 16];
    let keys = |client: &Client| client.get().hmac_keys(std::slice::from_ref(&id)).unwrap().remove(0);
    let [one, other, gone] = clients.each_ref().map(keys);
    assert!(one == other && other == gone);
    assert_eq!(one.iter().map(|(epoch, _)| epoch - one[0].0).collect::<Vec<_>>(), [0, 1, 2]);

    clients[0].revoke(&[clients[2].id()]);
    settle(&clients[..2]);
    clients[2].sync_sync_groups(false);
    let [again, other, gone] = clients.each_ref().map(keys);
    assert_eq!(again, other);
    assert_ne!(again, one);
    assert_eq!(gone, one, "it hears nothing of the new one");
}

// --- recorded messages ----------------------------------------------------------------------------------------------------

fn recorded<'a>(id: &'a [u8; 32], group_id: &'a [u8; 16], content: &'a [u8]) -> Record<'a> {
    let message = Message {
        id,
        group_id,
        decrypted_message_bytes: content,
        sent_at_ns: 11,
        kind: 1,
        sender_installation_id: &[9; 32],
        sender_inbox_id: "cc",
        delivery_status: 2,
        content_type: "text",
        authority_id: "xmtp.org",
        ..Message::default()
    };
    Record::Message(message, None)
}

fn contents(client: &Client, group_id: &[u8]) -> BTreeMap<Vec<u8>, usize> {
    let mut contents = BTreeMap::new();
    let query =
        MessageQuery { group_id: group_id.to_vec(), limit: 10_000, content_bytes: usize::MAX, ..Default::default() };
    client
        .get()
        .store()
        .messages(&query, &mut |view| {
            contents.insert(view.message.id.to_vec(), view.message.decrypted_message_bytes.len());
        })
        .unwrap();
    contents
}

#[test]
fn what_an_application_records_reaches_the_others_with_its_conversation() {
    let node = Node::new();
    let [one, other] = devices(&node);
    let group_id = [4; 16];
    let group = Group { id: &group_id, conversation_type: 1, created_at_ns: 3, ..Group::default() };
    one.get().store().add([Record::Group(group)]).unwrap();
    let ids: Vec<[u8; 32]> = (0..40).map(|n| [n; 32]).collect();
    // More than one message holds, and one that is too large for any.
    let sizes = |n: usize| if n == 7 { 300_000 } else { 20_000 };
    let bodies: Vec<Vec<u8>> = (0..ids.len()).map(|n| vec![b'x'; sizes(n)]).collect();
    one.get().store().add_and_tell(ids.iter().zip(&bodies).map(|(id, body)| recorded(id, &group_id, body))).unwrap();
    assert_eq!(one.get().outbox().unwrap().messages, 40);
    // What it has already is not told again.
    one.get().store().add_and_tell([recorded(&ids[0], &group_id, b"again")]).unwrap();
    one.reopen();
    step(&one);
    assert_eq!(one.get().outbox().unwrap().messages, 0);
    step(&other);
    let mut expected = contents(&one, &group_id);
    assert_eq!(expected.remove(&ids[7][..]), Some(300_000));
    assert_eq!(contents(&other, &group_id), expected);
    // It is not sent back, nor on.
    assert_eq!(other.get().outbox().unwrap().messages, 0);
}

#[test]
fn masses_of_messages_travel_by_archive() {
    let node = Node::new();
    let [one, _other] = devices(&node);
    let group_id = [4; 16];
    let ids: Vec<[u8; 32]> = (0..1001u32).map(|n| std::array::from_fn(|at| n.to_be_bytes()[at % 4])).collect();
    one.get().store().add_and_tell(ids.iter().map(|id| recorded(id, &group_id, b"x"))).unwrap();
    assert_eq!(one.get().outbox().unwrap().messages, 0);
}

#[test]
fn who_is_alone_tells_nobody() {
    let node = Node::new();
    let [only] = devices(&node);
    decide(&only, DENIED);
    only.get().store().add_and_tell([recorded(&[1; 32], &[4; 16], b"x")]).unwrap();
    only.get().cycle_hmac().unwrap();
    step(&only);
    let outbox = only.get().outbox().unwrap();
    assert_eq!((outbox.consents, outbox.messages, outbox.hmac_due, outbox.intents), (0, 0, false, 0));
    assert_eq!(only.said(&only.sync_group()), vec![]);
    // Whoever comes next knows nothing of it: that is what archives are for.
    let next = Client::register(&node, OWN);
    next.sync_sync_groups(true);
    settle(&[only, next]);
}
