//! Real MLS groups in memory, whose members have XMTP's credentials and capabilities.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::{BTreeMap, BTreeSet};

use ed25519_dalek::{Signer as _, SigningKey};
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::*;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::{Signer, SignerError};
use xmtp_history::mls::extensions::{
    ConversationType, GroupExtensions, Membership, Metadata, MutableMetadata, required_capabilities,
};
use xmtp_history::mls::rules::credential::credential;
use xmtp_history::mls::rules::{CommitChanges, InboxStates, Permissions, Refusal, StateError, validate_commit};

pub const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

pub struct Key(SigningKey);

impl Signer for Key {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign(payload).to_bytes().to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// An inbox id that is easy to read.
pub fn inbox(letter: char) -> String {
    std::iter::repeat_n(letter, 64).collect()
}

pub fn capabilities(extra: &[u16]) -> Capabilities {
    let required = required_capabilities();
    let mut extensions = required.extension_types().to_vec();
    extensions.extend(extra.iter().map(|number| ExtensionType::Unknown(*number)));
    Capabilities::new(
        None,
        Some(&[SUITE]),
        Some(&extensions),
        Some(required.proposal_types()),
        Some(required.credential_types()),
    )
}

/// An installation.
pub struct Member {
    pub inbox_id: String,
    pub key: Key,
    pub provider: OpenMlsRustCrypto,
    pub capabilities: Capabilities,
    pub group: Option<MlsGroup>,
}

impl Member {
    pub fn new(letter: char, seed: u8) -> Self {
        Self {
            inbox_id: inbox(letter),
            key: Key(SigningKey::from_bytes(&[seed; 32])),
            provider: OpenMlsRustCrypto::default(),
            capabilities: capabilities(&[]),
            group: None,
        }
    }

    pub fn id(&self) -> Vec<u8> {
        self.key.0.verifying_key().to_bytes().to_vec()
    }

    pub fn with_key(&self, credential: Credential) -> CredentialWithKey {
        CredentialWithKey { credential, signature_key: self.id().into() }
    }

    pub fn key_package(&self) -> KeyPackage {
        self.key_package_naming(credential(&self.inbox_id))
    }

    pub fn key_package_naming(&self, credential: Credential) -> KeyPackage {
        KeyPackage::builder()
            .leaf_node_capabilities(self.capabilities.clone())
            .mark_as_last_resort()
            .build(SUITE, &self.provider, &self.key, self.with_key(credential))
            .unwrap()
            .key_package()
            .clone()
    }

    pub fn create(&mut self, extensions: Extensions<GroupContext>) {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(SUITE)
            .capabilities(self.capabilities.clone())
            .use_ratchet_tree_extension(true)
            .max_past_epochs(3)
            .with_group_context_extensions(extensions)
            .build();
        let with_key = self.with_key(credential(&self.inbox_id));
        self.group = Some(MlsGroup::new(&self.provider, &self.key, &config, with_key).unwrap());
    }

    pub fn stage_welcome(&self, welcome: MlsMessageOut) -> StagedWelcome {
        let MlsMessageBodyIn::Welcome(welcome) = read(&welcome).extract() else { panic!("not a welcome") };
        let config = MlsGroupJoinConfig::builder().use_ratchet_tree_extension(true).build();
        StagedWelcome::build_from_welcome(&self.provider, &config, welcome)
            .unwrap()
            .skip_lifetime_validation()
            .build()
            .unwrap()
    }

    pub fn join(&mut self, welcome: MlsMessageOut) {
        self.group = Some(self.stage_welcome(welcome).into_group(&self.provider).unwrap());
    }

    pub fn group(&self) -> &MlsGroup {
        self.group.as_ref().unwrap()
    }

    pub fn extensions(&self) -> GroupExtensions {
        GroupExtensions::parse(self.group().extensions()).unwrap()
    }

    /// A commit that is published and never merged here.
    pub fn commit(&mut self, change: Change) -> MlsMessageOut {
        let (commit, _) = self.commit_with_welcome(change);
        self.group.as_mut().unwrap().clear_pending_commit(self.provider.storage()).unwrap();
        commit
    }

    /// A commit that stays pending, and the welcome to it.
    pub fn commit_with_welcome(&mut self, change: Change) -> (MlsMessageOut, Option<MlsMessageOut>) {
        let group = self.group.as_mut().unwrap();
        let mut leaf = LeafNodeParameters::builder();
        if let Some(credential) = change.own_credential {
            let signature_key = self.key.0.verifying_key().to_bytes().to_vec().into();
            leaf = leaf.with_credential_with_key(CredentialWithKey { credential, signature_key });
        }
        let mut builder = group
            .commit_builder()
            .leaf_node_parameters(leaf.build())
            .force_self_update(true)
            .propose_adds(change.adds)
            .propose_removals(change.removals);
        if let Some(extensions) = change.extensions {
            builder = builder.propose_group_context_extensions(extensions).unwrap();
        }
        let (commit, welcome, _) = builder
            .add_proposals(change.proposals)
            .load_psks(self.provider.storage())
            .unwrap()
            .build(self.provider.rand(), self.provider.crypto(), &self.key, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap()
            .into_messages();
        (commit, welcome)
    }

    /// What this member makes of a commit, and the commit.
    pub fn judge(&mut self, commit: &MlsMessageOut, states: &States) -> (Result<CommitChanges, Refusal>, StagedCommit) {
        let group = self.group.as_mut().unwrap();
        let message = read(commit).try_into_protocol_message().unwrap();
        let processed = group.process_message(&self.provider, message).unwrap();
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
            panic!("not a commit")
        };
        (validate_commit(group, &staged, &sender, states), *staged)
    }

    pub fn merge(&mut self, staged: StagedCommit) {
        self.group.as_mut().unwrap().merge_staged_commit(&self.provider, staged).unwrap();
    }

    pub fn leaf_of(&self, other: &Self) -> LeafNodeIndex {
        self.group().members().find(|member| member.signature_key == other.id()).unwrap().index
    }
}

pub fn read(message: &MlsMessageOut) -> MlsMessageIn {
    MlsMessageIn::tls_deserialize_exact_bytes(&message.tls_serialize_detached().unwrap()).unwrap()
}

/// What a commit does.
#[derive(Default)]
pub struct Change {
    pub adds: Vec<KeyPackage>,
    pub removals: Vec<LeafNodeIndex>,
    pub extensions: Option<Extensions<GroupContext>>,
    pub proposals: Vec<Proposal>,
    pub own_credential: Option<Credential>,
}

/// Identity logs that have been fetched, as far as they are known.
#[derive(Default, Clone)]
pub struct States {
    pub logs: BTreeMap<String, BTreeMap<u64, BTreeSet<Vec<u8>>>>,
    /// Inboxes that were not asked for yet.
    pub unknown: BTreeSet<String>,
    pub invalid: BTreeSet<String>,
}

impl States {
    pub fn with(mut self, letter: char, sequence_id: u64, installations: &[&Member]) -> Self {
        let ids = installations.iter().map(|member| member.id()).collect();
        self.logs.entry(inbox(letter)).or_default().insert(sequence_id, ids);
        self
    }
}

impl InboxStates for States {
    fn installations_at(&self, inbox_id: &str, sequence_id: u64) -> Result<BTreeSet<Vec<u8>>, StateError> {
        assert!(sequence_id > 0 && i64::try_from(sequence_id).is_ok(), "no log has the id {sequence_id}");
        if self.unknown.contains(inbox_id) {
            return Err(StateError::Missing);
        }
        if self.invalid.contains(inbox_id) {
            return Err(StateError::Invalid);
        }
        let log = self.logs.get(inbox_id);
        log.and_then(|log| log.get(&sequence_id)).cloned().ok_or_else(|| StateError::NoSuchUpdate {
            newest_before: log.and_then(|log| log.range(..sequence_id).next_back()).map(|(id, _)| *id),
        })
    }
}

/// The context of a group of these inboxes whose maker is the first.
pub fn context(members: &[(char, u64)]) -> GroupExtensions {
    let creator = inbox(members.first().unwrap().0);
    GroupExtensions {
        metadata: Metadata {
            conversation_type: ConversationType::Group,
            creator_inbox_id: creator.clone(),
            dm_members: None,
            oneshot_message: None,
        },
        mutable_metadata: MutableMetadata { super_admins: vec![creator], ..Default::default() },
        membership: Membership {
            members: members.iter().map(|(letter, sequence_id)| (inbox(*letter), *sequence_id)).collect(),
            failed_installations: BTreeSet::new(),
        },
        permissions: Permissions::all_members(),
    }
}
