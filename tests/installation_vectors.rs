//! What a real client did, replayed through an installation: two groups of the vectors, from welcome to last message.
//!
//! The vectors hold the private keys of the installation that took part, and not the inboxes' logs. So the keys are written into
//! the store as an installation of ours writes them, and the states after the logs' entries as they are kept.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openmls::key_packages::KeyPackageBundle;
use openmls::prelude::OpenMlsProvider as _;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::types::HpkePrivateKey;
use prost::Message as _;
use rusqlite::params;
use serde_json::{Value, json};
use xmtp_history::identity::{Identifier, Member, MemberRecord};
use xmtp_history::mls::keys::InstallationKey;
use xmtp_history::mls::{GroupState, Installation, key_package, welcome};
use xmtp_history::store::{MessageQuery, Store};
use xmtp_history::wire::proto::mls::api::v1 as api;

fn vector(name: &str) -> Value {
    let path = support::data().join("vectors").join(name).with_extension("json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The installation of a vector, in a store of its own.
struct Replay {
    _directory: tempfile::TempDir,
    store: Arc<Store>,
    installation: Installation,
    init_key: Vec<u8>,
}

impl Replay {
    fn new(keys: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("db"), &[1; 32], Duration::from_secs(5)).unwrap());
        let bytes = hex(&keys["key_package"]);
        let verified = key_package::parse_and_verify(&bytes, now()).unwrap();
        drop(Installation::open(Arc::clone(&store), Some(&verified.inbox_id)).unwrap());
        let key = InstallationKey::from_seed(&hex(&keys["signature_seed"])).unwrap();
        let private = |name: &str| serde_json::to_value(HpkePrivateKey::from(hex(&keys[name]))).unwrap();
        let bundle: KeyPackageBundle = serde_json::from_value(json!({
            "key_package": serde_json::to_value(&verified.key_package).unwrap(),
            "private_init_key": private("init_private_key"),
            "private_encryption_key": { "key": private("leaf_encryption_private_key") },
        }))
        .unwrap();
        let provider = OpenMlsRustCrypto::default();
        let reference = key_package::reference(&bytes, provider.crypto()).unwrap();
        let mut name = vec![17];
        rmp_serde::encode::write(&mut name, &reference).unwrap();
        let init_key = verified.key_package.hpke_init_key().as_slice().to_vec();
        let transaction = store.transaction().unwrap();
        let connection = transaction.connection();
        connection
            .execute(
                "UPDATE installation SET private_key = ?1, installation_id = ?2",
                params![key.seed(), key.public_key()],
            )
            .unwrap();
        connection.execute("INSERT INTO key_packages VALUES (?1, ?2, 0, 1, NULL)", params![init_key, bytes]).unwrap();
        connection
            .execute("INSERT INTO mls_state VALUES (?1, ?2)", params![name, rmp_serde::to_vec_named(&bundle).unwrap()])
            .unwrap();
        transaction.commit().unwrap();
        let installation = Installation::open(Arc::clone(&store), None).unwrap();
        assert_eq!(installation.installation_id(), key.public_key());
        Self { _directory: directory, store, installation, init_key }
    }

    /// What an inbox is after an entry of its log.
    fn state(&self, inbox_id: &str, sequence_id: u64, installations: &[Vec<u8>]) {
        let record = |_| MemberRecord { added_by: None, client_timestamp_ns: None, chain_id: None };
        let members: Vec<(Member, MemberRecord)> = installations
            .iter()
            .map(|id| (Member::Installation(id.as_slice().try_into().unwrap()), record(id)))
            .collect();
        let recovery = Identifier::address("0x1111111111111111111111111111111111111111").unwrap();
        // The fields of an `AssociationState` in their order; the digests are one run of bytes, here none.
        let state = rmp_serde::to_vec(&(inbox_id, members, recovery, Bytes, sequence_id)).unwrap();
        let transaction = self.store.transaction().unwrap();
        let connection = transaction.connection();
        let number = i64::try_from(sequence_id).unwrap();
        connection
            .execute("INSERT INTO association_states VALUES (?1, ?2, ?3)", params![inbox_id, number, state])
            .unwrap();
        // The log's last entry is looked up in the log.
        connection.execute("INSERT INTO identity_updates VALUES (?1, ?2, 0, x'')", params![inbox_id, number]).unwrap();
        transaction.commit().unwrap();
    }

    fn join(&self, welcome: api::welcome_message::V1) -> Vec<Vec<u8>> {
        let version = Some(api::welcome_message::Version::V1(welcome));
        let answer =
            api::QueryWelcomeMessagesResponse { messages: vec![api::WelcomeMessage { version }], paging_info: None };
        let welcomed = self.installation.receive_welcomes(&answer.encode_to_vec(), &BTreeSet::new(), false).unwrap();
        assert_eq!((&welcomed.dropped, &welcomed.missing), (&vec![], &vec![]));
        welcomed.joined
    }

    fn receive(&self, group_id: &[u8], message: &Value) -> xmtp_history::mls::Received {
        let number = |name: &str| message[name].as_u64().unwrap();
        let version = Some(api::group_message::Version::V1(api::group_message::V1 {
            id: number("message_id"),
            created_ns: number("created_ns"),
            group_id: group_id.to_vec(),
            data: hex(&message["data"]),
            ..Default::default()
        }));
        let answer =
            api::QueryGroupMessagesResponse { messages: vec![api::GroupMessage { version }], paging_info: None };
        self.installation.receive_messages(group_id, &answer.encode_to_vec(), &BTreeSet::new()).unwrap()
    }

    fn authenticator(&self, group_id: &[u8]) -> Vec<u8> {
        self.installation.group_details(group_id).unwrap().epoch_authenticator
    }
}

/// No bytes, as a run of bytes.
struct Bytes;

impl serde::Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&[])
    }
}

#[test]
fn the_sync_group_of_a_real_client_is_joined_and_read() {
    let vector = vector("sync_group_joined");
    let replay = Replay::new(&vector["keys"]);
    let own = replay.installation.inbox_id().to_owned();
    let leaves: Vec<Vec<u8>> = vector["tree"]
        .as_array()
        .unwrap()
        .iter()
        .map(|leaf| {
            let key = hex(&leaf["signature_key"]);
            // One of them stands there behind its length.
            key[key.len() - 32..].to_vec()
        })
        .collect();
    replay.state(&own, 222, &leaves);
    let wrapped = &vector["wrapped"];
    let joined = replay.join(api::welcome_message::V1 {
        id: wrapped["id"].as_u64().unwrap(),
        created_ns: 1,
        installation_key: hex(&wrapped["installation_key"]),
        data: hex(&wrapped["data"]),
        hpke_public_key: hex(&wrapped["hpke_public_key"]),
        wrapper_algorithm: i32::try_from(wrapped["wrapper_algorithm"].as_i64().unwrap()).unwrap(),
        welcome_metadata: hex(&wrapped["welcome_metadata"]),
    });
    let group_id = hex(&vector["group_context"]["group_id"]);
    assert_eq!(joined, vec![group_id.clone()]);
    let row = replay.installation.group(&group_id).unwrap().unwrap();
    assert_eq!((row.state, row.epoch, row.conversation_type), (GroupState::Active, 1, 3));
    assert_eq!(Some(row.cursor), vector["message_cursor"].as_u64());
    assert_eq!(replay.authenticator(&group_id), hex(&vector["epoch_authenticator"]));
    assert_eq!(replay.installation.sync_groups().unwrap().primary, Some(group_id.clone()));

    let message = &vector["messages"][0];
    let received = replay.receive(&group_id, message);
    assert_eq!(
        received.sync_messages.iter().map(|id| id.to_vec()).collect::<Vec<_>>(),
        [hex(&message["xmtp_message_id"])]
    );
    let said = replay.installation.sync_messages(Some(&group_id), 0, 10).unwrap();
    assert_eq!(said[0].content, hex(&message["encoded_content"]["content"]));
    assert_eq!((said[0].sequence_id, said[0].sender_inbox_id.as_str()), (226, own.as_str()));
    assert_eq!(said[0].sender_installation_id, leaves[0]);
    assert_eq!(Some(said[0].sent_at_ns), message["created_ns"].as_i64());
}

#[test]
fn the_group_of_a_real_client_is_followed_through_every_commit() {
    let vector = vector("ordinary_group");
    let replay = Replay::new(&vector["keys"]);
    let own = replay.installation.inbox_id().to_owned();
    let id = replay.installation.installation_id();
    let messages = vector["messages"].as_array().unwrap();
    let commits: Vec<&Value> = messages.iter().filter(|message| message["is_commit"] == true).collect();
    let added = |commit: &Value| hex(&commit["proposals"][0]["add_signature_key"]);
    let creator = hex(&commits[0]["path_leaf"]["signature_key"]);
    let creator_inbox_id = "6b643d2adcb1a00be158bcded3bf89a83a683a33f1d7d9ccef5c5828b15b93ab";
    replay.state(creator_inbox_id, 237, std::slice::from_ref(&creator));
    // What the commits did to our own inbox: one installation came, another came for it.
    let sequence_id = |commit: &Value| {
        let membership = commit["proposals"][1]["membership"].as_str().unwrap();
        let (_, behind) = membership.split_once(&own).unwrap();
        let digits = behind.split_once("value: ").unwrap().1;
        digits.split(|character: char| !character.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    replay.state(&own, 236, &[id.to_vec()]);
    replay.state(&own, sequence_id(commits[0]), &[id.to_vec(), added(commits[0])]);
    replay.state(&own, sequence_id(commits[1]), &[id.to_vec(), added(commits[1])]);

    let cursor = vector["message_cursor"].as_u64().unwrap();
    let wrapped = welcome::wrap(&hex(&vector["mls_message_welcome"]), cursor, &id, &replay.init_key).unwrap();
    let Some(api::welcome_message_input::Version::V1(wrapped)) = wrapped.version else { panic!() };
    let joined = replay.join(api::welcome_message::V1 {
        id: 239,
        created_ns: 1,
        installation_key: wrapped.installation_key,
        data: wrapped.data,
        hpke_public_key: wrapped.hpke_public_key,
        wrapper_algorithm: wrapped.wrapper_algorithm,
        welcome_metadata: wrapped.welcome_metadata,
    });
    let group_id = hex(&vector["group_context"]["group_id"]);
    assert_eq!(joined, vec![group_id.clone()]);
    assert_eq!(replay.authenticator(&group_id), hex(&vector["epoch_authenticator"]));

    for message in messages {
        let received = replay.receive(&group_id, message);
        if received.group.state == GroupState::Forked {
            // The vector's own key packages last 84 days; afterwards this is the test of that.
            assert!(message["message_id"] == 247 || message["message_id"] == 242, "{}", received.group.reason);
            assert!(received.group.reason.contains("key package"));
            let made = message["created_ns"].as_u64().unwrap() / 1_000_000_000;
            assert!(now() > made + 83 * 24 * 3600);
            return;
        }
        assert_eq!((&received.missing, &received.refused), (&vec![], &vec![]), "{}", message["message_id"]);
        assert_eq!((received.group.state, received.group.undecryptable), (GroupState::Active, 0));
        assert_eq!(Some(received.group.cursor), message["message_id"].as_u64());
        if message["is_commit"] == true {
            assert_eq!(received.commits, 1);
            assert_eq!(replay.authenticator(&group_id), hex(&message["after"]["epoch_authenticator"]));
        } else {
            let ids: Vec<Vec<u8>> = received.messages.iter().map(|id| id.to_vec()).collect();
            assert_eq!(ids, [hex(&message["xmtp_message_id"])]);
        }
    }
    let members: BTreeSet<Vec<u8>> =
        replay.installation.group_details(&group_id).unwrap().members.into_iter().map(|(_, id)| id).collect();
    assert_eq!(members, BTreeSet::from([creator, id.to_vec(), added(commits[1])]));
    let mut contents = Vec::new();
    let query = MessageQuery { group_id, limit: 100, content_bytes: usize::MAX, ..MessageQuery::default() };
    replay
        .store
        .messages(&query, &mut |view| {
            if view.message.content_type == "text" {
                assert_eq!(view.message.sender_inbox_id, creator_inbox_id);
                contents.push(view.message.decrypted_message_bytes.to_vec());
            }
        })
        .unwrap();
    let expected: Vec<Vec<u8>> = messages
        .iter()
        .filter(|message| message["is_commit"] == false)
        .map(|message| hex(&message["plaintext_envelope"]["v1.content"]))
        .collect();
    assert_eq!(contents.len(), 4);
    assert_eq!(contents, expected);
}
