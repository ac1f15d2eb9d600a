//! Peers: members of OpenMLS alone, of this inbox or another, who do what real clients do and what they never would.

use std::collections::BTreeMap;
use std::rc::Rc;

use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::*;
use prost::Message as _;
use xmtp_history::identity::{UpdateDraft, WalletSignature, installation_id};
use xmtp_history::mls::extensions::{ConversationType, GroupExtensions, MutableMetadata};
use xmtp_history::mls::rules::Permissions;
use xmtp_history::mls::{envelope, welcome};
use xmtp_history::wire::proto::identity::api::v1 as identity_api;
use xmtp_history::wire::proto::mls::api::v1 as api;

use super::{Client, Node, inbox_of, now_ns, text};
use crate::identity_support::{personal, wallet};
use crate::mls::{Change, Member as Leaf, context};

/// A member of groups that is OpenMLS alone.
pub struct Peer {
    pub node: Rc<Node>,
    pub leaf: Leaf,
    pub wallet: u8,
    pub cursor: u64,
    sent: u64,
}

impl Peer {
    /// Makes an inbox with one installation, or adds an installation to one.
    pub fn new(node: &Rc<Node>, wallet_secret: u8, seed: u8) -> Self {
        let (identifier, inbox_id) = inbox_of(wallet_secret);
        let id = installation_id(&[seed; 32]);
        let exists = node.logs.borrow().contains_key(&inbox_id);
        let draft = if exists {
            UpdateDraft::add_installation(&inbox_id, &identifier, id, now_ns()).unwrap()
        } else {
            UpdateDraft::create_inbox(&identifier, 0, id, now_ns()).unwrap()
        };
        let signature = WalletSignature::Personal(personal(&wallet(wallet_secret), draft.text()));
        let update = draft.finish(signature, Some(&[seed; 32])).unwrap().into_update();
        let request = identity_api::PublishIdentityUpdateRequest { identity_update: Some(update) };
        node.publish_identity(&request.encode_to_vec());
        let leaf = Leaf { inbox_id, ..Leaf::new('0', seed) };
        let peer = Self { node: Rc::clone(node), leaf, wallet: wallet_secret, cursor: 0, sent: 0 };
        peer.upload();
        peer
    }

    pub fn id(&self) -> [u8; 32] {
        self.leaf.id().try_into().unwrap()
    }

    pub fn inbox_id(&self) -> &str {
        &self.leaf.inbox_id
    }

    pub fn upload(&self) {
        self.node.upload(&self.leaf.key_package().tls_serialize_detached().unwrap());
    }

    /// Revokes installations of its inbox.
    pub fn revoke(&self, installations: &[[u8; 32]]) {
        let (identifier, inbox_id) = inbox_of(self.wallet);
        let draft = UpdateDraft::revoke_installations(&inbox_id, &identifier, installations, now_ns()).unwrap();
        let signature = WalletSignature::Personal(personal(&wallet(self.wallet), draft.text()));
        let update = draft.finish(signature, None).unwrap().into_update();
        let request = identity_api::PublishIdentityUpdateRequest { identity_update: Some(update) };
        self.node.publish_identity(&request.encode_to_vec());
    }

    /// The context of a new group of this peer's.
    pub fn context(&self, kind: ConversationType) -> GroupExtensions {
        let own = self.leaf.inbox_id.clone();
        let mut extensions = context(&[('a', 1)]);
        extensions.metadata.conversation_type = kind;
        extensions.metadata.creator_inbox_id.clone_from(&own);
        extensions.mutable_metadata = MutableMetadata { super_admins: vec![own.clone()], ..Default::default() };
        extensions.membership.members = BTreeMap::from([(own.clone(), self.node.sequence_id(&own))]);
        extensions.permissions = Permissions::all_members();
        extensions
    }

    /// The context of a new DM with another inbox.
    pub fn dm_context(&self, other: &str) -> GroupExtensions {
        let mut extensions = self.context(ConversationType::Dm);
        extensions.metadata.dm_members = Some([self.leaf.inbox_id.clone(), other.to_owned()]);
        extensions.mutable_metadata.super_admins.clear();
        extensions.permissions = Permissions::dm();
        extensions
    }

    pub fn create(&mut self, extensions: &GroupExtensions) -> Vec<u8> {
        self.leaf.create(extensions.to_extensions().unwrap());
        self.cursor = 0;
        self.group_id()
    }

    pub fn group_id(&self) -> Vec<u8> {
        self.leaf.group().group_id().as_slice().to_vec()
    }

    pub fn extensions(&self) -> GroupExtensions {
        self.leaf.extensions()
    }

    pub fn authenticator(&self) -> Vec<u8> {
        self.leaf.group().epoch_authenticator().as_slice().to_vec()
    }

    /// The context with something changed.
    pub fn changed(&self, change: impl FnOnce(&mut GroupExtensions)) -> Option<Extensions<GroupContext>> {
        let mut extensions = self.extensions();
        change(&mut extensions);
        Some(extensions.to_extensions().unwrap())
    }

    /// A key package as the node has it.
    pub fn fetched(&self, installation: &[u8]) -> KeyPackage {
        let packages = self.node.packages.borrow();
        let package = KeyPackageIn::tls_deserialize_exact_bytes(&packages[installation]).unwrap();
        package.validate(self.leaf.provider.crypto(), ProtocolVersion::Mls10).unwrap()
    }

    /// Prepares a commit, which stays pending: its bytes, and the welcome to it.
    pub fn prepare(&mut self, change: Change) -> (Vec<u8>, Option<Vec<u8>>) {
        let (commit, welcome) = self.leaf.commit_with_welcome(change);
        let bytes = |message: MlsMessageOut| message.tls_serialize_detached().unwrap();
        (bytes(commit), welcome.map(bytes))
    }

    pub fn merge(&mut self) {
        self.leaf.group.as_mut().unwrap().merge_pending_commit(&self.leaf.provider).unwrap();
    }

    /// Publishes a commit and follows it. Returns its id.
    pub fn commit(&mut self, change: Change) -> u64 {
        let packages = change.adds.clone();
        let (commit, welcome) = self.prepare(change);
        let id = self.node.post(&self.group_id(), &commit);
        self.cursor = id;
        self.merge();
        for package in &packages {
            self.welcome(welcome.as_ref().unwrap(), id, package);
        }
        id
    }

    /// Publishes a commit that the others are going to refuse, and does not follow it.
    pub fn commit_in_vain(&mut self, change: Change) -> u64 {
        let (commit, _) = self.prepare(change);
        self.leaf.group.as_mut().unwrap().clear_pending_commit(self.leaf.provider.storage()).unwrap();
        self.node.post(&self.group_id(), &commit)
    }

    pub fn welcome(&self, welcome: &[u8], commit_id: u64, package: &KeyPackage) {
        let id: [u8; 32] = package.leaf_node().signature_key().as_slice().try_into().unwrap();
        let wrapped = welcome::wrap(welcome, commit_id, &id, package.hpke_init_key().as_slice()).unwrap();
        self.node.send_welcomes(&api::SendWelcomeMessagesRequest { messages: vec![wrapped] }.encode_to_vec());
    }

    /// The commit by which real clients add installations of inboxes: the membership is brought up to date as well.
    pub fn adding(&self, installations: &[[u8; 32]], inboxes: &[&str]) -> Change {
        let adds = installations.iter().map(|id| self.fetched(id)).collect();
        let extensions = self.changed(|extensions| {
            for inbox_id in inboxes {
                let sequence_id = self.node.sequence_id(inbox_id);
                extensions.membership.members.insert((*inbox_id).to_owned(), sequence_id);
            }
        });
        Change { adds, extensions, ..Change::default() }
    }

    pub fn add(&mut self, clients: &[&Client]) -> u64 {
        let ids: Vec<[u8; 32]> = clients.iter().map(|client| client.id()).collect();
        let inboxes: Vec<String> = clients.iter().map(|client| client.inbox_id()).collect();
        let change = self.adding(&ids, &inboxes.iter().map(String::as_str).collect::<Vec<_>>());
        self.commit(change)
    }

    pub fn add_peers(&mut self, peers: &[&Self]) -> u64 {
        let ids: Vec<[u8; 32]> = peers.iter().map(|peer| peer.id()).collect();
        let change = self.adding(&ids, &peers.iter().map(|peer| peer.inbox_id()).collect::<Vec<_>>());
        self.commit(change)
    }

    pub fn removing(&self, inbox_id: &str) -> Change {
        let members = self.leaf.group().members();
        let removals = members
            .filter(|member| xmtp_history::mls::rules::leaf_inbox_id(&member.credential).unwrap() == inbox_id)
            .map(|member| member.index)
            .collect();
        let extensions = self.changed(|extensions| {
            extensions.membership.members.remove(inbox_id);
        });
        Change { removals, extensions, ..Change::default() }
    }

    pub fn remove(&mut self, inbox_id: &str) -> u64 {
        let change = self.removing(inbox_id);
        self.commit(change)
    }

    pub fn update(&mut self, change: impl FnOnce(&mut GroupExtensions)) -> u64 {
        let extensions = self.changed(change);
        self.commit(Change { extensions, ..Change::default() })
    }

    pub fn update_key(&mut self) -> u64 {
        self.commit(Change::default())
    }

    /// An encrypted message that is not published.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let group = self.leaf.group.as_mut().unwrap();
        let message = group.create_message(&self.leaf.provider, &self.leaf.key, plaintext).unwrap();
        message.tls_serialize_detached().unwrap()
    }

    /// The idempotency key of the next message.
    pub fn next_key(&mut self) -> String {
        self.sent += 1;
        self.sent.to_string()
    }

    pub fn say(&mut self, said: &str) -> u64 {
        self.say_content(&text(said))
    }

    pub fn say_content(&mut self, content: &[u8]) -> u64 {
        let key = self.next_key();
        let data = self.encrypt(&envelope::encode(content, &key));
        self.node.post(&self.group_id(), &data)
    }

    /// Joins what it was welcomed to last.
    pub fn join(&mut self) {
        let welcomes = self.node.welcomes_of(&self.id());
        let last = welcomes.last().expect("there is a welcome");
        let bundle = self.bundle(&last.hpke_public_key);
        let input = welcome::WrappedWelcome {
            data: &last.data,
            hpke_public_key: &last.hpke_public_key,
            wrapper_algorithm: last.wrapper_algorithm,
            welcome_metadata: &last.welcome_metadata,
        };
        let unwrapped = welcome::unwrap(&input, bundle.init_private_key()).unwrap();
        let message = MlsMessageIn::tls_deserialize_exact_bytes(&unwrapped.welcome_bytes).unwrap();
        let MlsMessageBodyIn::Welcome(welcome) = message.extract() else { panic!("not a welcome") };
        let config = MlsGroupJoinConfig::builder().use_ratchet_tree_extension(true).max_past_epochs(3).build();
        let staged = StagedWelcome::build_from_welcome(&self.leaf.provider, &config, welcome)
            .unwrap()
            .skip_lifetime_validation()
            .build()
            .unwrap();
        self.leaf.group = Some(staged.into_group(&self.leaf.provider).unwrap());
        self.cursor = unwrapped.message_cursor.unwrap();
    }

    fn bundle(&self, init_key: &[u8]) -> openmls::key_packages::KeyPackageBundle {
        let storage = self.leaf.provider.storage();
        let packages = self.node.packages.borrow();
        let package = &packages[&self.leaf.id()];
        let reference = xmtp_history::mls::key_package::reference(package, self.leaf.provider.crypto()).unwrap();
        let bundle: openmls::key_packages::KeyPackageBundle =
            openmls_traits::storage::StorageProvider::key_package(storage, &reference).unwrap().unwrap();
        assert_eq!(bundle.key_package().hpke_init_key().as_slice(), init_key);
        bundle
    }

    /// Follows what the node has, without judging it. Returns what was said, as contents.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        for message in self.node.messages_of(&self.group_id()) {
            if message.id <= self.cursor {
                continue;
            }
            self.cursor = message.id;
            let parsed = MlsMessageIn::tls_deserialize_exact_bytes(&message.data).unwrap();
            let group = self.leaf.group.as_mut().unwrap();
            let Ok(processed) = group.process_message(&self.leaf.provider, parsed.try_into_protocol_message().unwrap())
            else {
                continue;
            };
            match processed.into_content() {
                ProcessedMessageContent::ApplicationMessage(bytes) => {
                    let envelope::Envelope::V1 { content, .. } = envelope::decode(&bytes.into_bytes()).unwrap() else {
                        continue;
                    };
                    said.push(content);
                }
                ProcessedMessageContent::StagedCommitMessage(commit) => {
                    group.merge_staged_commit(&self.leaf.provider, *commit).unwrap();
                }
                _ => {}
            }
        }
        said
    }
}

/// What only somebody hostile does.
impl Peer {
    /// Makes a group under an id that somebody else's group has; with `unsupported`, one that asks for a newer client.
    pub fn create_with_id(&mut self, extensions: &GroupExtensions, id: &[u8], unsupported: bool) {
        let mut context = extensions.to_extensions().unwrap();
        if unsupported {
            context.remove(ExtensionType::Unknown(0xff01)).unwrap();
            let required = RequiredCapabilitiesExtension::new(&[], &[], &[CredentialType::Basic]);
            context.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
        }
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(crate::mls::SUITE)
            .capabilities(self.leaf.capabilities.clone())
            .use_ratchet_tree_extension(true)
            .with_group_context_extensions(context)
            .build();
        let with_key = self.leaf.with_key(xmtp_history::mls::rules::credential::credential(&self.leaf.inbox_id));
        // A provider of its own, since this one may know the group already.
        let group_id = GroupId::from_slice(id);
        let (provider, key) = (&self.leaf.provider, &self.leaf.key);
        if let Ok(Some(mut old)) = MlsGroup::load(provider.storage(), &group_id) {
            old.delete(provider.storage()).unwrap();
        }
        self.leaf.group = Some(MlsGroup::new_with_group_id(provider, key, &config, group_id, with_key).unwrap());
    }

    /// Adds an installation to such a group, and leaves out another of its inbox.
    pub fn adding_in_place(&self, client: &Client, left_out: &Self, unsupported: bool) -> Change {
        if unsupported {
            return Change { adds: vec![self.fetched(&client.id())], ..Change::default() };
        }
        let extensions = self.changed(|extensions| {
            let sequence_id = self.node.sequence_id(&client.inbox_id());
            extensions.membership.members.insert(client.inbox_id(), sequence_id);
            extensions.membership.failed_installations.insert(left_out.id().to_vec());
        });
        Change { extensions, ..self.adding(&[client.id()], &[]) }
    }
}
