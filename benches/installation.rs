//! What an installation does with what a node says, and the limits of it: each task is timed alone, on one thread.
//!
//! `installation FOLDER [TASK…]` prints a line of JSON for each task named; with `-` as only task it reads names from
//! standard input, so that a bench run can take turns. Inputs are made when a task first needs them and stay in the folder,
//! so that a later process can be measured without having made them. Peers are real MLS members in memory; their inboxes
//! have real, signed identity logs. Everybody is in the group with one installation.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer as _, SigningKey, Verifier as _};
use k256::ecdsa::SigningKey as WalletKey;
use openmls::group::{
    MlsGroup, MlsGroupCreateConfig, MlsGroupJoinConfig, PURE_CIPHERTEXT_WIRE_FORMAT_POLICY, StagedWelcome,
};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::{
    GroupId, KeyPackage, LeafNodeParameters, MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProcessedMessageContent,
    SenderRatchetConfiguration,
};
use openmls_rust_crypto::{OpenMlsRustCrypto, RustCrypto};
use openmls_traits::OpenMlsProvider;
use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use prost::Message as _;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;
use sha3::{Digest as _, Keccak256};
use xmtp_history::identity::{
    AssociationState, ContractVerdicts, Identifier, UpdateDraft, WalletSignature, installation_id,
    personal_message_hash, sign_text, signature_text,
};
use xmtp_history::mls::extensions::{ConversationType, GroupExtensions, Membership, Metadata, MutableMetadata};
use xmtp_history::mls::key_package::{self, CIPHERSUITE};
use xmtp_history::mls::keys::InstallationKey;
use xmtp_history::mls::rules::Permissions;
use xmtp_history::mls::{Installation, Update, envelope, welcome};
use xmtp_history::store::{Record, Store};
use xmtp_history::wire::content::{ContentTypeId, EncodedContent};
use xmtp_history::wire::proto::identity::api::v1::get_identity_updates_response::{IdentityUpdateLog, Response};
use xmtp_history::wire::proto::identity::api::v1::{GetIdentityUpdatesResponse, PublishIdentityUpdateRequest};
use xmtp_history::wire::proto::identity::associations::{
    AddAssociation, IdentityAction, IdentityUpdate, MemberIdentifier, RecoverableEcdsaSignature,
    RecoverableEd25519Signature, RevokeAssociation, Signature, identity_action, member_identifier, signature,
};
use xmtp_history::wire::proto::mls::api::v1::{
    GroupMessage, GroupMessageInput, QueryGroupMessagesResponse, QueryWelcomeMessagesResponse,
    SendGroupMessagesRequest, SendWelcomeMessagesRequest, WelcomeMessage, group_message, group_message_input,
    welcome_message, welcome_message_input,
};
use xmtp_history::wire::{Group, Message};

type Outcome<T> = Result<T, Box<dyn Error>>;

const STORE_KEY: [u8; 32] = [7; 32];
const TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGES: u64 = 20_000;
const PAGE: usize = 100;
const SECOND_NS: u64 = 1_000_000_000;
/// As many as real clients keep; ordinary groups have seen commits.
const PAST_EPOCHS: usize = 3;
const GROUPS: usize = 1_000;
/// Members of each of the many groups.
const SMALL: usize = 3;
/// Inboxes and updates of each, for folding.
const INBOXES: u64 = 250;
const UPDATES_EACH: u64 = 4;
const UPDATES_MOST: u64 = 256;
/// The installation that is measured; peers count from 0.
const OWN: u16 = 9_999;

/// What a task did.
struct Figure {
    elapsed: Duration,
    count: u64,
    right: bool,
    /// What all threads worked meanwhile, where that is looked at.
    processor: f64,
}

fn figure(elapsed: Duration, count: u64, right: bool) -> Outcome<Figure> {
    Ok(Figure { elapsed, count, right, processor: 0.0 })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn seed(kind: u8, number: u16) -> [u8; 32] {
    let mut seed = [kind; 32];
    if let Some(end) = seed.last_chunk_mut() {
        *end = number.to_be_bytes();
    }
    seed
}

// --- identities -----------------------------------------------------------------------------------------------------------

/// An account.
struct Wallet {
    key: WalletKey,
    identifier: Identifier,
}

impl Wallet {
    fn new(number: u16) -> Outcome<Self> {
        let key = WalletKey::from_slice(&seed(1, number))?;
        let point = key.verifying_key().to_encoded_point(false);
        let digest = Keccak256::digest(point.as_bytes().get(1..).ok_or("point")?);
        let address = format!("0x{}", hex::encode(digest.get(12..).ok_or("digest")?));
        let identifier = Identifier::address(&address).map_err(|rule| format!("{rule:?}"))?;
        Ok(Self { key, identifier })
    }

    fn personal(&self, text: &str) -> Outcome<Vec<u8>> {
        let (signature, recovery) = self.key.sign_prehash_recoverable(&personal_message_hash(text))?;
        Ok([signature.to_bytes().as_slice(), &[27 + recovery.to_byte()]].concat())
    }

    fn signature(&self, text: &str) -> Outcome<Signature> {
        let bytes = self.personal(text)?;
        Ok(Signature { signature: Some(signature::Signature::Erc191(RecoverableEcdsaSignature { bytes })) })
    }

    fn inbox_id(&self) -> Outcome<String> {
        self.identifier.inbox_id(0).map_err(|rule| format!("{rule:?}").into())
    }
}

fn entry(sequence_id: u64, update: IdentityUpdate) -> IdentityUpdateLog {
    IdentityUpdateLog { sequence_id, server_timestamp_ns: sequence_id * SECOND_NS, update: Some(update) }
}

fn identity_answer(logs: impl IntoIterator<Item = (String, Vec<IdentityUpdateLog>)>) -> Vec<u8> {
    let responses = logs.into_iter().map(|(inbox_id, updates)| Response { inbox_id, updates }).collect();
    GetIdentityUpdatesResponse { responses }.encode_to_vec()
}

/// A log of `count` updates: one creates the inbox with an installation, the others add one and revoke one in turn.
fn log_of(wallet: &Wallet, number: u16, first: u64, count: u64) -> Outcome<Vec<IdentityUpdateLog>> {
    let inbox_id = wallet.inbox_id()?;
    let key = |index: u64| -> Outcome<[u8; 32]> {
        let mut key = seed(3, number);
        key[..8].copy_from_slice(&index.to_be_bytes());
        Ok(key)
    };
    let mut log = Vec::new();
    for index in 0..count {
        let time = (index + 1) * SECOND_NS;
        let update = if index == 0 {
            let draft = UpdateDraft::create_inbox(&wallet.identifier, 0, installation_id(&key(0)?), time)?;
            draft.finish(WalletSignature::Personal(wallet.personal(draft.text())?), Some(&key(0)?))?.into_update()
        } else {
            let member = |index| -> Outcome<Option<MemberIdentifier>> {
                let kind = member_identifier::Kind::InstallationPublicKey(installation_id(&key(index)?).to_vec());
                Ok(Some(MemberIdentifier { kind: Some(kind) }))
            };
            let kind = if index % 2 == 1 {
                identity_action::Kind::Add(AddAssociation {
                    new_member_identifier: member(index)?,
                    ..Default::default()
                })
            } else {
                let member_to_revoke = member(index - 1)?;
                identity_action::Kind::Revoke(RevokeAssociation { member_to_revoke, ..Default::default() })
            };
            let actions = vec![IdentityAction { kind: Some(kind) }];
            let mut update = IdentityUpdate { actions, client_timestamp_ns: time, inbox_id: inbox_id.clone() };
            let text = signature_text(&update)?;
            match update.actions.first_mut().and_then(|action| action.kind.as_mut()) {
                Some(identity_action::Kind::Add(add)) => {
                    add.existing_member_signature = Some(wallet.signature(&text)?);
                    let bytes = sign_text(&key(index)?, &text).to_vec();
                    let public_key = installation_id(&key(index)?).to_vec();
                    let signed =
                        signature::Signature::InstallationKey(RecoverableEd25519Signature { bytes, public_key });
                    add.new_member_signature = Some(Signature { signature: Some(signed) });
                }
                Some(identity_action::Kind::Revoke(revoke)) => {
                    revoke.recovery_identifier_signature = Some(wallet.signature(&text)?);
                }
                _ => return Err("an action of another kind".into()),
            }
            update
        };
        log.push(entry(first + index, update));
    }
    Ok(log)
}

// --- peers ----------------------------------------------------------------------------------------------------------------

/// Where OpenMLS may keep what it likes: nothing is kept. Groups that are in memory work with it as long as no commit comes.
struct NoStorage;

/// OpenMLS's cryptography without its storage.
#[derive(Default)]
struct Bare(RustCrypto);

impl OpenMlsProvider for Bare {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = NoStorage;

    fn storage(&self) -> &NoStorage {
        &NoStorage
    }

    fn crypto(&self) -> &RustCrypto {
        &self.0
    }

    fn rand(&self) -> &RustCrypto {
        &self.0
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unreachable")]
struct Never;

macro_rules! storage {
    ($(fn $name:ident<$($parameter:ident: $bound:ident),*>($($argument:ident: $type:ty),*) -> $result:ty = $value:expr;)*) => {
        impl StorageProvider<CURRENT_VERSION> for NoStorage {
            type Error = Never;
            $(fn $name<$($parameter: traits::$bound<CURRENT_VERSION>),*>(&self, $($argument: $type),*) -> Result<$result, Never> {
                Ok($value)
            })*
        }
    };
}

storage! {
    fn write_mls_join_config<K: GroupId, V: MlsGroupJoinConfig>(_k: &K, _v: &V) -> () = ();
    fn write_tree<K: GroupId, V: TreeSync>(_k: &K, _v: &V) -> () = ();
    fn write_interim_transcript_hash<K: GroupId, V: InterimTranscriptHash>(_k: &K, _v: &V) -> () = ();
    fn write_context<K: GroupId, V: GroupContext>(_k: &K, _v: &V) -> () = ();
    fn write_confirmation_tag<K: GroupId, V: ConfirmationTag>(_k: &K, _v: &V) -> () = ();
    fn write_group_state<V: GroupState, K: GroupId>(_k: &K, _v: &V) -> () = ();
    fn write_message_secrets<K: GroupId, V: MessageSecrets>(_k: &K, _v: &V) -> () = ();
    fn write_resumption_psk_store<K: GroupId, V: ResumptionPskStore>(_k: &K, _v: &V) -> () = ();
    fn write_own_leaf_index<K: GroupId, V: LeafNodeIndex>(_k: &K, _v: &V) -> () = ();
    fn write_group_epoch_secrets<K: GroupId, V: GroupEpochSecrets>(_k: &K, _v: &V) -> () = ();
    fn write_signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair>(_k: &K, _v: &V) -> () = ();
    fn write_encryption_key_pair<K: EncryptionKey, V: HpkeKeyPair>(_k: &K, _v: &V) -> () = ();
    fn write_key_package<K: HashReference, V: KeyPackage>(_k: &K, _v: &V) -> () = ();
    fn write_psk<K: PskId, V: PskBundle>(_k: &K, _v: &V) -> () = ();
    fn mls_group_join_config<K: GroupId, V: MlsGroupJoinConfig>(_k: &K) -> Option<V> = None;
    fn tree<K: GroupId, V: TreeSync>(_k: &K) -> Option<V> = None;
    fn interim_transcript_hash<K: GroupId, V: InterimTranscriptHash>(_k: &K) -> Option<V> = None;
    fn group_context<K: GroupId, V: GroupContext>(_k: &K) -> Option<V> = None;
    fn confirmation_tag<K: GroupId, V: ConfirmationTag>(_k: &K) -> Option<V> = None;
    fn group_state<V: GroupState, K: GroupId>(_k: &K) -> Option<V> = None;
    fn message_secrets<K: GroupId, V: MessageSecrets>(_k: &K) -> Option<V> = None;
    fn resumption_psk_store<K: GroupId, V: ResumptionPskStore>(_k: &K) -> Option<V> = None;
    fn own_leaf_index<K: GroupId, V: LeafNodeIndex>(_k: &K) -> Option<V> = None;
    fn group_epoch_secrets<K: GroupId, V: GroupEpochSecrets>(_k: &K) -> Option<V> = None;
    fn signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair>(_k: &K) -> Option<V> = None;
    fn encryption_key_pair<V: HpkeKeyPair, K: EncryptionKey>(_k: &K) -> Option<V> = None;
    fn key_package<K: HashReference, V: KeyPackage>(_k: &K) -> Option<V> = None;
    fn psk<V: PskBundle, K: PskId>(_k: &K) -> Option<V> = None;
    fn delete_group_config<K: GroupId>(_k: &K) -> () = ();
    fn delete_tree<K: GroupId>(_k: &K) -> () = ();
    fn delete_interim_transcript_hash<K: GroupId>(_k: &K) -> () = ();
    fn delete_context<K: GroupId>(_k: &K) -> () = ();
    fn delete_confirmation_tag<K: GroupId>(_k: &K) -> () = ();
    fn delete_group_state<K: GroupId>(_k: &K) -> () = ();
    fn delete_message_secrets<K: GroupId>(_k: &K) -> () = ();
    fn delete_all_resumption_psk_secrets<K: GroupId>(_k: &K) -> () = ();
    fn delete_own_leaf_index<K: GroupId>(_k: &K) -> () = ();
    fn delete_group_epoch_secrets<K: GroupId>(_k: &K) -> () = ();
    fn delete_own_leaf_nodes<K: GroupId>(_k: &K) -> () = ();
    fn delete_signature_key_pair<K: SignaturePublicKey>(_k: &K) -> () = ();
    fn delete_encryption_key_pair<K: EncryptionKey>(_k: &K) -> () = ();
    fn delete_key_package<K: HashReference>(_k: &K) -> () = ();
    fn delete_psk<K: PskId>(_k: &K) -> () = ();
    fn append_own_leaf_node<K: GroupId, V: LeafNode>(_k: &K, _v: &V) -> () = ();
    fn own_leaf_nodes<K: GroupId, V: LeafNode>(_k: &K) -> Vec<V> = Vec::new();
    fn queue_proposal<K: GroupId, R: ProposalRef, V: QueuedProposal>(_k: &K, _r: &R, _v: &V) -> () = ();
    fn queued_proposal_refs<K: GroupId, R: ProposalRef>(_k: &K) -> Vec<R> = Vec::new();
    fn queued_proposals<K: GroupId, R: ProposalRef, V: QueuedProposal>(_k: &K) -> Vec<(R, V)> = Vec::new();
    fn remove_proposal<K: GroupId, R: ProposalRef>(_k: &K, _r: &R) -> () = ();
    fn clear_proposal_queue<K: GroupId, R: ProposalRef>(_k: &K) -> () = ();
    fn write_encryption_epoch_key_pairs<K: GroupId, E: EpochKey, V: HpkeKeyPair>(_k: &K, _e: &E, _l: u32, _v: &[V]) -> () = ();
    fn encryption_epoch_key_pairs<K: GroupId, E: EpochKey, V: HpkeKeyPair>(_k: &K, _e: &E, _l: u32) -> Vec<V> = Vec::new();
    fn delete_encryption_epoch_key_pairs<K: GroupId, E: EpochKey>(_k: &K, _e: &E, _l: u32) -> () = ();
}

/// Another inbox with one installation, whose log has one entry.
struct Peer {
    inbox_id: String,
    key: InstallationKey,
    provider: OpenMlsRustCrypto,
    package: KeyPackage,
    log: IdentityUpdateLog,
}

impl Peer {
    fn new(number: u16) -> Outcome<Self> {
        let wallet = Wallet::new(number)?;
        let key = InstallationKey::from_seed(&seed(2, number))?;
        let draft = UpdateDraft::create_inbox(&wallet.identifier, 0, key.public_key(), SECOND_NS)?;
        let signed = draft.finish(WalletSignature::Personal(wallet.personal(draft.text())?), Some(key.seed()))?;
        let provider = OpenMlsRustCrypto::default();
        let inbox_id = wallet.inbox_id()?;
        let package = key_package::build(&provider, &key, &inbox_id, now())?;
        let package = key_package::parse_and_verify(&package.bytes, now())?.key_package;
        Ok(Self { inbox_id, key, provider, package, log: entry(u64::from(number) + 1, signed.into_update()) })
    }

    fn create(&self, group_id: [u8; 16], members: &BTreeMap<String, u64>) -> Outcome<MlsGroup> {
        let context = GroupExtensions {
            metadata: Metadata {
                conversation_type: ConversationType::Group,
                creator_inbox_id: self.inbox_id.clone(),
                dm_members: None,
                oneshot_message: None,
            },
            mutable_metadata: MutableMetadata { super_admins: vec![self.inbox_id.clone()], ..Default::default() },
            membership: Membership { members: members.clone(), failed_installations: BTreeSet::new() },
            permissions: Permissions::all_members(),
        };
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(CIPHERSUITE)
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .capabilities(key_package::creator_capabilities())
            .use_ratchet_tree_extension(true)
            .max_past_epochs(PAST_EPOCHS)
            .sender_ratchet_configuration(ratchets())
            .with_group_context_extensions(context.to_extensions()?)
            .build();
        let credential = self.key.credential(&self.inbox_id)?;
        let id = GroupId::from_slice(&group_id);
        Ok(MlsGroup::new_with_group_id(&self.provider, &self.key, &config, id, credential)?)
    }

    /// Joins as OpenMLS alone does it.
    fn join(&self, welcome: &[u8]) -> Outcome<MlsGroup> {
        let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact_bytes(welcome)?.extract() else {
            return Err("not a welcome".into());
        };
        let config = MlsGroupJoinConfig::builder()
            .wire_format_policy(PURE_CIPHERTEXT_WIRE_FORMAT_POLICY)
            .max_past_epochs(PAST_EPOCHS)
            .use_ratchet_tree_extension(true)
            .sender_ratchet_configuration(ratchets())
            .build();
        let staged = StagedWelcome::build_from_welcome(&self.provider, &config, welcome)?
            .skip_lifetime_validation()
            .replace_old_group()
            .build()?;
        Ok(staged.into_group(&self.provider)?)
    }
}

fn ratchets() -> SenderRatchetConfiguration {
    SenderRatchetConfiguration::new(5, 1_000)
}

fn bytes_of(message: &MlsMessageOut) -> Outcome<Vec<u8>> {
    Ok(message.tls_serialize_detached()?)
}

/// A text message as applications send it.
fn text(number: u64) -> Vec<u8> {
    let content = EncodedContent {
        r#type: Some(ContentTypeId {
            authority_id: "xmtp.org".to_owned(),
            type_id: "text".to_owned(),
            version_major: 1,
            version_minor: 0,
        }),
        parameters: [("encoding".to_owned(), "UTF-8".to_owned())].into(),
        content: format!("message {number} of an ordinary conversation, about as long as messages are").into_bytes(),
        ..EncodedContent::default()
    };
    content.encode_to_vec()
}

fn created_ns(id: u64) -> u64 {
    1_700_000_000 * SECOND_NS + id * 1_000_000
}

fn page<'a>(group_id: &[u8], messages: impl IntoIterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
    let message = |(id, data): (u64, &[u8])| GroupMessage {
        version: Some(group_message::Version::V1(group_message::V1 {
            id,
            created_ns: created_ns(id),
            group_id: group_id.to_vec(),
            data: data.to_vec(),
            sender_hmac: vec![0; 32],
            should_push: true,
            ..Default::default()
        })),
    };
    QueryGroupMessagesResponse { messages: messages.into_iter().map(message).collect(), paging_info: None }
        .encode_to_vec()
}

fn welcomes(inputs: Vec<welcome_message_input::V1>, first: u64) -> Vec<u8> {
    let message = |(id, input): (u64, welcome_message_input::V1)| WelcomeMessage {
        version: Some(welcome_message::Version::V1(welcome_message::V1 {
            id,
            created_ns: created_ns(id),
            installation_key: input.installation_key,
            data: input.data,
            hpke_public_key: input.hpke_public_key,
            wrapper_algorithm: input.wrapper_algorithm,
            welcome_metadata: input.welcome_metadata,
        })),
    };
    QueryWelcomeMessagesResponse { messages: (first..).zip(inputs).map(message).collect(), paging_info: None }
        .encode_to_vec()
}

// --- the installation that is measured ------------------------------------------------------------------------------------

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-installation"] {
        // A file that is not there is as good as removed.
        let _ = std::fs::remove_file(beside(path, suffix));
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn open(path: &Path) -> Outcome<Installation> {
    let store = Arc::new(Store::open(path, &STORE_KEY, TIMEOUT)?);
    Ok(Installation::open(store, None)?)
}

/// A registered installation with an uploaded key package; returns that and the log of its inbox.
fn register(path: &Path) -> Outcome<(Installation, KeyPackage, IdentityUpdateLog)> {
    remove(path);
    let wallet = Wallet::new(OWN)?;
    let store = Arc::new(Store::open(path, &STORE_KEY, TIMEOUT)?);
    let own = Installation::open(store, Some(&wallet.inbox_id()?))?;
    let update = Update::Create { nonce: 0 };
    let to_sign = own.signature_text(&update, &wallet.identifier, SECOND_NS)?;
    let signed = WalletSignature::Personal(wallet.personal(&to_sign)?);
    let request = own.signed_update(&update, &wallet.identifier, SECOND_NS, signed)?;
    let update = PublishIdentityUpdateRequest::decode(request.as_slice())?.identity_update.ok_or("no update")?;
    let log = entry(u64::from(OWN) + 1, update);
    own.ingest_identity(&identity_answer([(own.inbox_id().to_owned(), vec![log.clone()])]))?;
    let upload = own.key_package_to_upload()?.ok_or("no key package")?;
    own.key_package_uploaded(&upload.init_key)?;
    let package = key_package::parse_and_verify(&upload.bytes, now())?.key_package;
    Ok((own, package, log))
}

/// A group of peers and the installation, from the side of the peer that made it.
struct Conversation {
    id: [u8; 16],
    group: MlsGroup,
    /// The welcome for everybody, unwrapped.
    welcome: Vec<u8>,
    wrapped: welcome_message_input::V1,
}

fn converse(id: [u8; 16], peers: &[Peer], own: &Installation, package: &KeyPackage) -> Outcome<Conversation> {
    let mut members: BTreeMap<String, u64> =
        peers.iter().map(|peer| (peer.inbox_id.clone(), peer.log.sequence_id)).collect();
    members.insert(own.inbox_id().to_owned(), u64::from(OWN) + 1);
    let (maker, others) = peers.split_first().ok_or("no peers")?;
    let mut group = maker.create(id, &members)?;
    let mut packages: Vec<KeyPackage> = others.iter().map(|peer| peer.package.clone()).collect();
    packages.push(package.clone());
    let (_, welcome, _) = group.add_members(&maker.provider, &maker.key, &packages)?;
    group.merge_pending_commit(&maker.provider)?;
    let welcome = bytes_of(&welcome)?;
    let wrapped = welcome::wrap(&welcome, 1, &own.installation_id(), package.hpke_init_key().as_slice())?;
    let Some(welcome_message_input::Version::V1(wrapped)) = wrapped.version else { return Err("no welcome".into()) };
    Ok(Conversation { id, group, welcome, wrapped })
}

/// Somebody who has an inbox on a node.
#[derive(Deserialize)]
struct Guest {
    inbox_id: String,
    sequence_id: u64,
    /// Hexadecimal.
    key_package: String,
}

/// What is asked for in JSON: what peers say to a node that others are on.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Request {
    /// `PublishIdentityUpdateRequest`s of so many peers.
    Peers { count: usize },
    /// A group of so many peers, of whose identity logs the node has given these numbers, and of guests.
    Invite { id: u64, sequence_ids: Vec<u64>, guests: Vec<Guest> },
    /// A file of `SendGroupMessagesRequest`s, each behind its length, with so many messages to that group.
    Say { count: u64 },
}

fn identities(peers: &[Peer]) -> Vec<u8> {
    identity_answer(peers.iter().map(|peer| (peer.inbox_id.clone(), vec![peer.log.clone()])))
}

/// The group of so many members that is measured.
fn group_of(members: usize) -> [u8; 16] {
    let mut id = [1; 16];
    id[..8].copy_from_slice(&(members as u64).to_be_bytes());
    id
}

/// A peer's group as it is before the messages come; it stays in that peer's memory.
struct Listener {
    peer: Peer,
    id: GroupId,
}

/// What tasks need, made once.
#[derive(Default)]
struct Inputs {
    peers: Vec<Peer>,
    listeners: BTreeMap<usize, Listener>,
    logs: BTreeMap<&'static str, Vec<(String, Vec<IdentityUpdateLog>)>>,
    /// The group that was last made for guests.
    invited: Option<MlsGroup>,
}

impl Inputs {
    fn peers(&mut self, count: usize) -> Outcome<&[Peer]> {
        while self.peers.len() < count {
            self.peers.push(Peer::new(u16::try_from(self.peers.len())?)?);
        }
        Ok(self.peers.get(..count).ok_or("peers")?)
    }

    fn logs(&mut self, name: &'static str) -> Outcome<&[(String, Vec<IdentityUpdateLog>)]> {
        if !self.logs.contains_key(name) {
            let (inboxes, updates) = if name == "many" { (INBOXES, UPDATES_EACH) } else { (1, UPDATES_MOST) };
            let mut logs = Vec::new();
            for number in 0..u16::try_from(inboxes)? {
                let wallet = Wallet::new(number)?;
                logs.push((wallet.inbox_id()?, log_of(&wallet, number, u64::from(number) * updates + 1, updates)?));
            }
            self.logs.insert(name, logs);
        }
        Ok(self.logs.get(name).ok_or("logs")?)
    }
}

/// The tasks, the folder they work in, and their inputs.
struct Tasks {
    folder: PathBuf,
    inputs: RefCell<Inputs>,
    groups: Cell<u64>,
}

impl Tasks {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("installation-{name}"))
    }

    /// The installation in a group that waits for messages, and the messages. Made unless an earlier process did.
    fn waiting(&self, members: usize) -> Outcome<(PathBuf, PathBuf)> {
        let (database, pages) = (self.path(&format!("{members}.db")), self.path(&format!("{members}.pages")));
        if pages.exists() {
            return Ok((database, pages));
        }
        let mut inputs = self.inputs.borrow_mut();
        let listener = Peer::new(5_000)?;
        inputs.peers(members - 2)?;
        let mut peers: Vec<Peer> = inputs.peers.drain(..members - 2).collect();
        let (own, package, _) = register(&database)?;
        peers.push(listener);
        own.ingest_identity(&identities(&peers))?;
        let Conversation { id, mut group, welcome, wrapped } = converse(group_of(members), &peers, &own, &package)?;
        let joined = own.receive_welcomes(&welcomes(vec![wrapped], 1), &BTreeSet::new(), false)?;
        if joined.joined.len() != 1 {
            return Err(format!("the welcome was not taken: {joined:?}").into());
        }
        let listener = peers.pop().ok_or("no listener")?;
        let mut listening = listener.join(&welcome)?;
        let maker = peers.first().ok_or("no maker")?;
        // The welcome says that it was made with the message of id 1.
        let mut message_id = 1;
        for _ in 0..PAST_EPOCHS {
            message_id += 1;
            let update = group.self_update(&maker.provider, &maker.key, LeafNodeParameters::default())?;
            let commit = bytes_of(&update.into_commit())?;
            group.merge_pending_commit(&maker.provider)?;
            let received =
                own.receive_messages(&id, &page(&id, [(message_id, commit.as_slice())]), &BTreeSet::new())?;
            if received.commits != 1 {
                return Err(format!("the commit was not followed: {received:?}").into());
            }
            let message = MlsMessageIn::tls_deserialize_exact_bytes(&commit)?.try_into_protocol_message()?;
            let processed = listening.process_message(&listener.provider, message)?;
            let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
                return Err("not a commit".into());
            };
            listening.merge_staged_commit(&listener.provider, *staged)?;
        }
        drop(own);
        let making = beside(&pages, "-making");
        let mut file = BufWriter::new(File::create(&making)?);
        let bare = Bare::default();
        let mut rest = MESSAGES;
        while rest > 0 {
            let mut messages = Vec::new();
            while rest > 0 && messages.len() < PAGE {
                rest -= 1;
                message_id += 1;
                let plain = envelope::encode(&text(message_id), &created_ns(message_id).to_string());
                messages.push((message_id, bytes_of(&group.create_message(&bare, &maker.key, &plain)?)?));
            }
            let page = page(&id, messages.iter().map(|(id, data)| (*id, data.as_slice())));
            file.write_all(&u32::try_from(page.len())?.to_le_bytes())?;
            file.write_all(&page)?;
        }
        file.flush()?;
        std::fs::rename(making, &pages)?;
        inputs.listeners.insert(members, Listener { peer: listener, id: GroupId::from_slice(&id) });
        peers.append(&mut inputs.peers);
        inputs.peers = peers;
        Ok((database, pages))
    }

    /// The id of a group that no peer has been in.
    fn unused_id(&self) -> [u8; 16] {
        self.groups.set(self.groups.get() + 1);
        let mut id = [5; 16];
        id[..8].copy_from_slice(&self.groups.get().to_be_bytes());
        id
    }

    /// Reads pages one by one, so that they are not all in memory.
    fn each_page(pages: &Path, mut work: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
        let mut file = BufReader::new(File::open(pages)?);
        let (mut length, mut page) = ([0; 4], Vec::new());
        while file.read_exact(&mut length).is_ok() {
            page.resize(usize::try_from(u32::from_le_bytes(length))?, 0);
            file.read_exact(&mut page)?;
            work(&page)?;
        }
        Ok(())
    }

    /// Decrypting and storing: what is sought.
    fn receive(&self, members: usize) -> Outcome<Figure> {
        let (prepared, pages) = self.waiting(members)?;
        let database = self.path("receive.db");
        remove(&database);
        std::fs::copy(&prepared, &database)?;
        let own = open(&database)?;
        let (mut elapsed, mut count) = (Duration::ZERO, 0);
        let none = BTreeSet::new();
        let before = processor_seconds();
        Self::each_page(&pages, |page| {
            let started = Instant::now();
            let received = own.receive_messages(&group_of(members), page, &none)?;
            elapsed += started.elapsed();
            count += received.messages.len() as u64;
            Ok(())
        })?;
        let processor = processor_seconds() - before;
        let kept = own.group(&group_of(members))?.ok_or("no group")?;
        let right = count == MESSAGES && kept.undecryptable == 0 && own.store().counts()?.messages >= MESSAGES;
        drop(own);
        remove(&database);
        Ok(Figure { processor, ..figure(elapsed, count, right)? })
    }

    /// The same messages through OpenMLS alone, which keeps nothing.
    fn process(&self, members: usize) -> Outcome<Figure> {
        let (_, pages) = self.waiting(members)?;
        let inputs = self.inputs.borrow();
        let Listener { peer, id } = inputs.listeners.get(&members).ok_or("another process has the listener")?;
        let mut group = MlsGroup::load(peer.provider.storage(), id)?.ok_or("no group")?;
        let bare = Bare::default();
        let (mut elapsed, mut count) = (Duration::ZERO, 0);
        Self::each_page(&pages, |page| {
            let page = QueryGroupMessagesResponse::decode(page)?;
            let started = Instant::now();
            for message in &page.messages {
                let Some(group_message::Version::V1(message)) = &message.version else { continue };
                let message = MlsMessageIn::tls_deserialize_exact_bytes(&message.data)?.try_into_protocol_message()?;
                let processed = group.process_message(&bare, message)?;
                if let ProcessedMessageContent::ApplicationMessage(plain) = processed.into_content() {
                    black_box(plain);
                    count += 1;
                }
            }
            elapsed += started.elapsed();
            Ok(())
        })?;
        figure(elapsed, count, count == MESSAGES)
    }

    /// As many Ed25519 signatures of something as long as a framed message.
    fn verify() -> Outcome<Figure> {
        let key = SigningKey::from_bytes(&[3; 32]);
        let signed = vec![5; 700];
        let signature = key.sign(&signed).to_bytes();
        let public = key.verifying_key().to_bytes();
        let started = Instant::now();
        for _ in 0..MESSAGES {
            let public = ed25519_dalek::VerifyingKey::from_bytes(black_box(&public))?;
            public.verify(black_box(&signed), &ed25519_dalek::Signature::from_bytes(&signature))?;
        }
        figure(started.elapsed(), MESSAGES, true)
    }

    /// As many messages into the store, a transaction for each page.
    fn store(&self) -> Outcome<Figure> {
        let database = self.path("store.db");
        remove(&database);
        let store = Store::open(&database, &STORE_KEY, TIMEOUT)?;
        let inbox = "a".repeat(64);
        // Of a conversation that is not known messages are counted again for every transaction.
        store.add([Record::Group(Group {
            id: &[1; 16],
            conversation_type: 1,
            membership_state: 1,
            ..Group::default()
        })])?;
        let (mut elapsed, mut id) = (Duration::ZERO, 0);
        while id < MESSAGES {
            let rows: Vec<_> = (0..PAGE as u64)
                .map(|index| {
                    let content = text(id + index);
                    let key = created_ns(id + index);
                    (envelope::message_id(&[1; 16], &key.to_string(), &content), content, id + index)
                })
                .collect();
            let started = Instant::now();
            let transaction = store.transaction()?;
            for (message_id, content, id) in &rows {
                transaction.add(&Record::Message(
                    Message {
                        id: message_id,
                        group_id: &[1; 16],
                        decrypted_message_bytes: content,
                        sent_at_ns: created_ns(*id).cast_signed(),
                        kind: 1,
                        sender_installation_id: &[2; 32],
                        sender_inbox_id: &inbox,
                        delivery_status: 2,
                        version_major: 1,
                        authority_id: "xmtp.org",
                        sequence_id: Some(id.cast_signed()),
                        originator_id: Some(10),
                        content_type: "text",
                        ..Message::default()
                    },
                    None,
                ))?;
            }
            transaction.commit()?;
            elapsed += started.elapsed();
            id += rows.len() as u64;
        }
        let right = store.counts()?.messages == MESSAGES;
        drop(store);
        remove(&database);
        figure(elapsed, MESSAGES, right)
    }

    /// As many commits as pages, each with one row changed.
    fn commit(&self) -> Outcome<Figure> {
        let database = self.path("commit.db");
        let (own, ..) = register(&database)?;
        let started = Instant::now();
        for number in 0..MESSAGES / PAGE as u64 {
            let transaction = own.store().transaction()?;
            transaction
                .connection()
                .execute("UPDATE installation SET hmac_cycled_at_ns = ?1", [number.cast_signed()])?;
            transaction.commit()?;
        }
        let elapsed = started.elapsed();
        drop(own);
        remove(&database);
        figure(elapsed, MESSAGES, true)
    }

    /// Joining a group of 100 members. Unknown identity logs come in one answer, and are verified.
    fn join(&self, known: bool) -> Outcome<Figure> {
        let mut inputs = self.inputs.borrow_mut();
        let peers = inputs.peers(99)?;
        let database = self.path("join.db");
        let (own, package, _) = register(&database)?;
        let conversation = converse(self.unused_id(), peers, &own, &package)?;
        let (answer, identities) = (welcomes(vec![conversation.wrapped], 1), identities(peers));
        if known {
            own.ingest_identity(&identities)?;
        }
        let started = Instant::now();
        let mut welcomed = own.receive_welcomes(&answer, &BTreeSet::new(), false)?;
        let missing = welcomed.missing.len();
        if !known {
            own.ingest_identity(&identities)?;
            let fresh = welcomed.missing.into_iter().map(|(inbox_id, _)| inbox_id).collect();
            welcomed = own.receive_welcomes(&answer, &fresh, false)?;
        }
        let elapsed = started.elapsed();
        let right = welcomed.joined.len() == 1
            && missing == if known { 0 } else { 99 }
            && own.group_details(&conversation.id)?.members.len() == 100;
        drop(own);
        remove(&database);
        figure(elapsed, 1, right)
    }

    /// The same welcome through OpenMLS alone, with its own storage in memory.
    fn join_bare(&self) -> Outcome<Figure> {
        let mut inputs = self.inputs.borrow_mut();
        let peers = inputs.peers(99)?;
        let database = self.path("join.db");
        let (own, package, _) = register(&database)?;
        let conversation = converse(self.unused_id(), peers, &own, &package)?;
        let peer = peers.last().ok_or("no peers")?;
        let started = Instant::now();
        let group = peer.join(&conversation.welcome)?;
        let elapsed = started.elapsed();
        let right = group.members().count() == 100;
        drop(own);
        remove(&database);
        figure(elapsed, 1, right)
    }

    /// An installation in many groups. Made unless an earlier process did.
    fn crowded(&self) -> Outcome<PathBuf> {
        let database = self.path("groups.db");
        if database.exists() {
            return Ok(database);
        }
        let mut inputs = self.inputs.borrow_mut();
        let peers = inputs.peers(SMALL - 1)?;
        let making = self.path("groups-making.db");
        let (own, package, _) = register(&making)?;
        own.ingest_identity(&identities(peers))?;
        for first in (0..GROUPS).step_by(PAGE) {
            let mut wrapped = Vec::new();
            for number in first..(first + PAGE).min(GROUPS) {
                let mut id = [4; 16];
                id[..8].copy_from_slice(&(number as u64).to_be_bytes());
                wrapped.push(converse(id, peers, &own, &package)?.wrapped);
            }
            own.receive_welcomes(&welcomes(wrapped, first as u64 + 1), &BTreeSet::new(), false)?;
        }
        if own.groups()?.len() != GROUPS {
            return Err("not all groups were joined".into());
        }
        drop(own);
        std::fs::rename(&making, &database)?;
        remove(&making);
        Ok(database)
    }

    fn open_crowded(&self) -> Outcome<Figure> {
        let database = self.crowded()?;
        let started = Instant::now();
        let own = open(&database)?;
        let groups = own.groups()?.len();
        let elapsed = started.elapsed();
        figure(elapsed, 1, groups == GROUPS)
    }

    /// SQLCipher alone opens the file and reads the groups.
    fn open_bare(&self) -> Outcome<Figure> {
        let database = self.crowded()?;
        let started = Instant::now();
        let connection = Connection::open(&database)?;
        connection.execute_batch(&format!(
            "PRAGMA key = \"x'{}'\"; PRAGMA cipher_page_size = 8192; PRAGMA cipher_hmac_algorithm = HMAC_SHA256",
            hex::encode(STORE_KEY)
        ))?;
        let mut select = connection.prepare("SELECT * FROM mls_groups ORDER BY rowid")?;
        let mut rows = select.query([])?;
        let mut groups = 0;
        while let Some(row) = rows.next()? {
            black_box((row.get_ref(0)?, row.get_ref(11)?));
            groups += 1;
        }
        let elapsed = started.elapsed();
        figure(elapsed, 1, groups == GROUPS)
    }

    fn fold(&self, name: &'static str) -> Outcome<Figure> {
        let mut inputs = self.inputs.borrow_mut();
        let logs = inputs.logs(name)?;
        let (mut count, mut installations) = (0, 0);
        let verdicts = ContractVerdicts::new();
        let started = Instant::now();
        for (inbox_id, log) in logs {
            let state = AssociationState::fold(inbox_id, log, &verdicts)?;
            installations += state.installations().len();
            count += log.len() as u64;
        }
        // The last update of each adds an installation.
        figure(started.elapsed(), count, installations == 2 * logs.len())
    }

    /// As an answer of a node: decoded, verified and stored.
    fn ingest(&self, name: &'static str) -> Outcome<Figure> {
        let mut inputs = self.inputs.borrow_mut();
        let logs = inputs.logs(name)?;
        let answer = identity_answer(logs.iter().cloned());
        let database = self.path("ingest.db");
        let (own, ..) = register(&database)?;
        let started = Instant::now();
        let ingested = own.ingest_identity(&answer)?;
        let elapsed = started.elapsed();
        drop(own);
        remove(&database);
        let count = logs.iter().map(|(_, log)| log.len() as u64).sum();
        figure(elapsed, count, ingested.grown.len() == logs.len())
    }

    /// The signatures alone: the wallet's recovered, the installations' verified, nothing looked at twice.
    fn recover(&self, name: &'static str) -> Outcome<Figure> {
        let mut inputs = self.inputs.borrow_mut();
        let logs = inputs.logs(name)?;
        let wallet = Wallet::new(0)?;
        let hash = personal_message_hash("something to sign");
        let (by_wallet, recovery) = wallet.key.sign_prehash_recoverable(&hash)?;
        let key = SigningKey::from_bytes(&[3; 32]);
        let public = key.verifying_key().to_bytes();
        let by_installation = key.sign(&hash);
        let updates = logs.iter().flat_map(|(_, log)| log).filter_map(|entry| entry.update.as_ref());
        let actions: Vec<bool> =
            updates.flat_map(|update| &update.actions).map(|action| adds(action.kind.as_ref())).collect();
        let creations = logs.len();
        let count = logs.iter().map(|(_, log)| log.len() as u64).sum();
        let mut found = 0;
        let started = Instant::now();
        // A creation and the addition beside it have the same signature of the wallet.
        for _ in 0..actions.len() - creations {
            let key = k256::ecdsa::VerifyingKey::recover_from_prehash(black_box(&hash), &by_wallet, recovery)?;
            found += u64::from(key == *wallet.key.verifying_key());
        }
        for _ in actions.iter().filter(|adds| **adds) {
            let public = ed25519_dalek::VerifyingKey::from_bytes(black_box(&public))?;
            public.verify(black_box(&hash), &by_installation)?;
        }
        figure(started.elapsed(), count, found == (actions.len() - creations) as u64)
    }

    fn task(&self, name: &str) -> Outcome<Figure> {
        match name {
            "receive 3" => self.receive(3),
            "receive 100" => self.receive(100),
            "process 3" => self.process(3),
            "process 100" => self.process(100),
            "verify" => Self::verify(),
            "store" => self.store(),
            "commit" => self.commit(),
            "join known" => self.join(true),
            "join unknown" => self.join(false),
            "join bare" => self.join_bare(),
            "open" => self.open_crowded(),
            "open bare" => self.open_bare(),
            "fold many" => self.fold("many"),
            "fold one" => self.fold("one"),
            "ingest many" => self.ingest("many"),
            "ingest one" => self.ingest("one"),
            "recover many" => self.recover("many"),
            "recover one" => self.recover("one"),
            _ => Err(format!("no task is called {name}").into()),
        }
    }

    fn answer(&self, request: Request) -> Outcome<serde_json::Value> {
        let mut inputs = self.inputs.borrow_mut();
        match request {
            Request::Peers { count } => {
                let publish = |peer: &Peer| {
                    hex::encode(
                        PublishIdentityUpdateRequest { identity_update: peer.log.update.clone() }.encode_to_vec(),
                    )
                };
                let peers = inputs.peers(count)?;
                let inbox_ids: Vec<_> = peers.iter().map(|peer| &peer.inbox_id).collect();
                Ok(json!({ "inbox_ids": inbox_ids, "updates": peers.iter().map(publish).collect::<Vec<_>>() }))
            }
            Request::Invite { id, sequence_ids, guests } => {
                let peers = inputs.peers(sequence_ids.len())?;
                let mut members: BTreeMap<String, u64> =
                    peers.iter().map(|peer| peer.inbox_id.clone()).zip(sequence_ids).collect();
                members.extend(guests.iter().map(|guest| (guest.inbox_id.clone(), guest.sequence_id)));
                let (maker, others) = peers.split_first().ok_or("no peers")?;
                let mut group_id = [6; 16];
                group_id[..8].copy_from_slice(&id.to_be_bytes());
                let mut group = maker.create(group_id, &members)?;
                let mut packages: Vec<KeyPackage> = others.iter().map(|peer| peer.package.clone()).collect();
                let mut invited = Vec::new();
                for guest in &guests {
                    invited.push(key_package::parse_and_verify(&hex::decode(&guest.key_package)?, now())?);
                }
                packages.extend(invited.iter().map(|guest| guest.key_package.clone()));
                let (_, welcome, _) = group.add_members(&maker.provider, &maker.key, &packages)?;
                group.merge_pending_commit(&maker.provider)?;
                let welcome = bytes_of(&welcome)?;
                let mut messages = Vec::new();
                for guest in &invited {
                    let init_key = guest.key_package.hpke_init_key().as_slice();
                    messages.push(welcome::wrap(&welcome, 0, &guest.installation_key, init_key)?);
                }
                let request = SendWelcomeMessagesRequest { messages };
                inputs.invited = Some(group);
                Ok(json!({ "group_id": hex::encode(group_id), "welcomes": hex::encode(request.encode_to_vec()) }))
            }
            Request::Say { count } => {
                let path = self.path("said");
                let mut file = BufWriter::new(File::create(&path)?);
                let mut group = inputs.invited.take().ok_or("no group")?;
                let maker = inputs.peers(1)?.first().ok_or("no peers")?;
                let bare = Bare::default();
                let numbers: Vec<u64> = (0..count).collect();
                for numbers in numbers.chunks(PAGE) {
                    let mut messages = Vec::new();
                    for number in numbers {
                        let plain = envelope::encode(&text(*number), &created_ns(*number).to_string());
                        let data = bytes_of(&group.create_message(&bare, &maker.key, &plain)?)?;
                        let v1 = group_message_input::V1 { data, sender_hmac: vec![0; 32], should_push: true };
                        messages.push(GroupMessageInput { version: Some(group_message_input::Version::V1(v1)) });
                    }
                    let request = SendGroupMessagesRequest { messages }.encode_to_vec();
                    file.write_all(&u32::try_from(request.len())?.to_le_bytes())?;
                    file.write_all(&request)?;
                }
                file.flush()?;
                Ok(json!({ "file": path }))
            }
        }
    }

    fn report(&self, name: &str) -> Outcome<()> {
        if name.starts_with('{') {
            let mut output = std::io::stdout().lock();
            writeln!(output, "{}", self.answer(serde_json::from_str(name)?)?)?;
            return Ok(output.flush()?);
        }
        let Figure { elapsed, count, right, processor } = self.task(name)?;
        let line = json!({
            "task": name,
            "seconds": elapsed.as_secs_f64(),
            "count": count,
            "right": right,
            "processor": processor,
            "peak": peak_bytes(),
        });
        let mut output = std::io::stdout().lock();
        writeln!(output, "{line}")?;
        Ok(output.flush()?)
    }
}

fn adds(kind: Option<&identity_action::Kind>) -> bool {
    matches!(kind, Some(identity_action::Kind::Add(_)))
}

/// Time of all threads, in steps of 10 ms.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Outcome<()> {
    // Cargo adds `--bench` to what it runs.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(folder) = arguments.next() else {
        println!("usage: installation FOLDER TASK…");
        return Ok(());
    };
    let tasks = Tasks { folder: PathBuf::from(folder), inputs: RefCell::default(), groups: Cell::default() };
    let names: Vec<String> = arguments.collect();
    if names == ["-"] {
        for name in std::io::stdin().lock().lines() {
            tasks.report(name?.trim())?;
        }
    } else {
        for name in names {
            tasks.report(&name)?;
        }
    }
    Ok(())
}
