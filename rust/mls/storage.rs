//! What OpenMLS keeps, in the installation's own database and in the caller's transaction.
//!
//! OpenMLS asks for some thirty kinds of values by key; here all are rows of one table, under a label and the encoded key.
//! Writes are held back: what one message changed is first `current`, and either accepted when its outcome stands or
//! discarded, so that a commit that is refused leaves no trace; what was accepted reaches the table once, however many
//! messages a batch has. Encoded in MessagePack, because OpenMLS's own types need a format that describes itself.

use std::cell::RefCell;
use std::collections::HashMap;

use openmls_traits::storage::{CURRENT_VERSION, StorageProvider, traits};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// A value could not be read or written. What SQLite said is kept in the [`Storage`] ([`Storage::failure`]), because OpenMLS
/// wraps errors until nobody can tell a full disk from a forged message.
#[derive(Debug, thiserror::Error)]
#[error("the group's state cannot be read or written")]
pub struct StorageError;

/// What a value is; the first byte of its key. Numbers are only ever added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Label {
    JoinConfig = 1,
    Tree = 2,
    InterimTranscriptHash = 3,
    Context = 4,
    ConfirmationTag = 5,
    GroupState = 6,
    MessageSecrets = 7,
    ResumptionPsks = 8,
    OwnLeafIndex = 9,
    EpochSecrets = 10,
    OwnLeafNodes = 11,
    ProposalRefs = 12,
    Proposal = 13,
    SignatureKeyPair = 14,
    EncryptionKeyPair = 15,
    EpochKeyPairs = 16,
    KeyPackage = 17,
    Psk = 18,
}

/// Values by key; none is a value that was deleted.
type Changes = HashMap<Vec<u8>, Option<Zeroizing<Vec<u8>>>>;

#[derive(Default)]
struct Overlay {
    current: Changes,
    accepted: Changes,
    failure: Option<rusqlite::Error>,
    /// Whether message secrets are not written for the time being.
    puts_off: bool,
    /// Whether some were not.
    owes: bool,
}

/// OpenMLS's values in one transaction.
pub struct Storage<'c> {
    connection: &'c Connection,
    overlay: RefCell<Overlay>,
}

impl<'c> Storage<'c> {
    /// The values as the connection's transaction sees them.
    #[must_use]
    pub fn new(connection: &'c Connection) -> Self {
        Self { connection, overlay: RefCell::default() }
    }

    /// Keeps what was changed since the last call of this or of [`Self::discard`].
    pub fn accept(&self) {
        let Overlay { current, accepted, .. } = &mut *self.overlay.borrow_mut();
        accepted.extend(current.drain());
    }

    /// Forgets what was changed since; groups in memory that it came from have to be loaded again.
    pub fn discard(&self) {
        self.overlay.borrow_mut().current.clear();
    }

    /// Writes everything that was accepted to the table. The transaction is the caller's to commit.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn flush(&self) -> Result<(), rusqlite::Error> {
        let accepted = std::mem::take(&mut self.overlay.borrow_mut().accepted);
        let mut write = self.connection.prepare_cached(
            "INSERT INTO mls_state (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?;
        let mut delete = self.connection.prepare_cached("DELETE FROM mls_state WHERE key = ?1")?;
        for (key, value) in &accepted {
            match value {
                Some(value) => write.execute((key, value.as_slice()))?,
                None => delete.execute([key])?,
            };
        }
        Ok(())
    }

    /// From now on message secrets are not written. OpenMLS writes all of a group's for every message that it decrypts, though
    /// it has them in memory as well; with many members that takes longer than everything else.
    pub fn put_off_secrets(&self) {
        self.overlay.borrow_mut().puts_off = true;
    }

    /// From now on message secrets are written again. Returns whether the caller has to make OpenMLS do so, because it has
    /// changed them meanwhile.
    pub fn ask_for_secrets(&self) -> bool {
        let mut overlay = self.overlay.borrow_mut();
        overlay.puts_off = false;
        std::mem::take(&mut overlay.owes)
    }

    /// What the database said when a value could not be had, taken out.
    pub fn failure(&self) -> Option<rusqlite::Error> {
        self.overlay.borrow_mut().failure.take()
    }

    fn key(label: Label, parts: &[&dyn ErasedKey]) -> Result<Vec<u8>, StorageError> {
        let mut key = vec![label as u8];
        for part in parts {
            part.append(&mut key)?;
        }
        Ok(key)
    }

    fn write(&self, key: Vec<u8>, value: &impl Serialize) -> Result<(), StorageError> {
        let value = Zeroizing::new(rmp_serde::to_vec_named(value).map_err(|_| StorageError)?);
        self.overlay.borrow_mut().current.insert(key, Some(value));
        Ok(())
    }

    fn delete(&self, key: Vec<u8>) {
        self.overlay.borrow_mut().current.insert(key, None);
    }

    fn read<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<V>, StorageError> {
        let mut overlay = self.overlay.borrow_mut();
        let changed = overlay.current.get(key).or_else(|| overlay.accepted.get(key));
        if let Some(value) = changed {
            return value.as_ref().map(|value| decode(value)).transpose();
        }
        let stored = self
            .connection
            .prepare_cached("SELECT value FROM mls_state WHERE key = ?1")
            .and_then(|mut select| select.query_row([key], |row| row.get::<_, Vec<u8>>(0)).optional());
        match stored {
            Ok(stored) => stored.map(|value| decode(&Zeroizing::new(value))).transpose(),
            Err(error) => {
                overlay.failure = Some(error);
                Err(StorageError)
            }
        }
    }

    fn read_list<V: DeserializeOwned>(&self, key: &[u8]) -> Result<Vec<V>, StorageError> {
        Ok(self.read(key)?.unwrap_or_default())
    }
}

fn decode<V: DeserializeOwned>(value: &[u8]) -> Result<V, StorageError> {
    rmp_serde::from_slice(value).map_err(|_| StorageError)
}

/// A part of a key, whatever its type is.
trait ErasedKey {
    fn append(&self, key: &mut Vec<u8>) -> Result<(), StorageError>;
}

impl<K: Serialize> ErasedKey for K {
    fn append(&self, key: &mut Vec<u8>) -> Result<(), StorageError> {
        rmp_serde::encode::write(key, self).map_err(|_| StorageError)
    }
}

/// Writes one value under one key. The order of the type parameters is OpenMLS's own.
macro_rules! writers {
    ($($name:ident<$($parameter:ident: $bound:ident),*> as $label:ident;)*) => {$(
        fn $name<$($parameter: traits::$bound<CURRENT_VERSION>),*>(&self, key: &K, value: &V) -> Result<(), StorageError> {
            self.write(Self::key(Label::$label, &[key])?, value)
        }
    )*};
}

/// Reads one value under one key.
macro_rules! readers {
    ($($name:ident<$($parameter:ident: $bound:ident),*> as $label:ident;)*) => {$(
        fn $name<$($parameter: traits::$bound<CURRENT_VERSION>),*>(&self, key: &K) -> Result<Option<V>, StorageError> {
            self.read(&Self::key(Label::$label, &[key])?)
        }
    )*};
}

/// Deletes what is under one key.
macro_rules! deleters {
    ($($name:ident<K: $bound:ident> as $label:ident;)*) => {$(
        fn $name<K: traits::$bound<CURRENT_VERSION>>(&self, key: &K) -> Result<(), StorageError> {
            self.delete(Self::key(Label::$label, &[key])?);
            Ok(())
        }
    )*};
}

impl StorageProvider<CURRENT_VERSION> for Storage<'_> {
    type Error = StorageError;

    writers! {
        write_mls_join_config<K: GroupId, V: MlsGroupJoinConfig> as JoinConfig;
        write_tree<K: GroupId, V: TreeSync> as Tree;
        write_interim_transcript_hash<K: GroupId, V: InterimTranscriptHash> as InterimTranscriptHash;
        write_context<K: GroupId, V: GroupContext> as Context;
        write_confirmation_tag<K: GroupId, V: ConfirmationTag> as ConfirmationTag;
        write_group_state<V: GroupState, K: GroupId> as GroupState;
        write_resumption_psk_store<K: GroupId, V: ResumptionPskStore> as ResumptionPsks;
        write_own_leaf_index<K: GroupId, V: LeafNodeIndex> as OwnLeafIndex;
        write_group_epoch_secrets<K: GroupId, V: GroupEpochSecrets> as EpochSecrets;
        write_signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair> as SignatureKeyPair;
        write_encryption_key_pair<K: EncryptionKey, V: HpkeKeyPair> as EncryptionKeyPair;
        write_key_package<K: HashReference, V: KeyPackage> as KeyPackage;
        write_psk<K: PskId, V: PskBundle> as Psk;
    }

    readers! {
        mls_group_join_config<K: GroupId, V: MlsGroupJoinConfig> as JoinConfig;
        tree<K: GroupId, V: TreeSync> as Tree;
        interim_transcript_hash<K: GroupId, V: InterimTranscriptHash> as InterimTranscriptHash;
        group_context<K: GroupId, V: GroupContext> as Context;
        confirmation_tag<K: GroupId, V: ConfirmationTag> as ConfirmationTag;
        group_state<V: GroupState, K: GroupId> as GroupState;
        message_secrets<K: GroupId, V: MessageSecrets> as MessageSecrets;
        resumption_psk_store<K: GroupId, V: ResumptionPskStore> as ResumptionPsks;
        own_leaf_index<K: GroupId, V: LeafNodeIndex> as OwnLeafIndex;
        group_epoch_secrets<K: GroupId, V: GroupEpochSecrets> as EpochSecrets;
        signature_key_pair<K: SignaturePublicKey, V: SignatureKeyPair> as SignatureKeyPair;
        encryption_key_pair<V: HpkeKeyPair, K: EncryptionKey> as EncryptionKeyPair;
        key_package<K: HashReference, V: KeyPackage> as KeyPackage;
        psk<V: PskBundle, K: PskId> as Psk;
    }

    deleters! {
        delete_group_config<K: GroupId> as JoinConfig;
        delete_tree<K: GroupId> as Tree;
        delete_interim_transcript_hash<K: GroupId> as InterimTranscriptHash;
        delete_context<K: GroupId> as Context;
        delete_confirmation_tag<K: GroupId> as ConfirmationTag;
        delete_group_state<K: GroupId> as GroupState;
        delete_message_secrets<K: GroupId> as MessageSecrets;
        delete_all_resumption_psk_secrets<K: GroupId> as ResumptionPsks;
        delete_own_leaf_index<K: GroupId> as OwnLeafIndex;
        delete_group_epoch_secrets<K: GroupId> as EpochSecrets;
        delete_own_leaf_nodes<K: GroupId> as OwnLeafNodes;
        delete_signature_key_pair<K: SignaturePublicKey> as SignatureKeyPair;
        delete_encryption_key_pair<K: EncryptionKey> as EncryptionKeyPair;
        delete_key_package<K: HashReference> as KeyPackage;
        delete_psk<K: PskId> as Psk;
    }

    fn write_message_secrets<K: traits::GroupId<CURRENT_VERSION>, V: traits::MessageSecrets<CURRENT_VERSION>>(
        &self,
        group_id: &K,
        secrets: &V,
    ) -> Result<(), StorageError> {
        {
            let mut overlay = self.overlay.borrow_mut();
            if overlay.puts_off {
                overlay.owes = true;
                return Ok(());
            }
        }
        self.write(Self::key(Label::MessageSecrets, &[group_id])?, secrets)
    }

    fn append_own_leaf_node<K: traits::GroupId<CURRENT_VERSION>, V: traits::LeafNode<CURRENT_VERSION>>(
        &self,
        group_id: &K,
        leaf_node: &V,
    ) -> Result<(), StorageError> {
        let key = Self::key(Label::OwnLeafNodes, &[group_id])?;
        // Kept as they were encoded, because what can be written here need not be something that can be cloned.
        let mut nodes: Vec<Vec<u8>> = self.read_list(&key)?;
        nodes.push(rmp_serde::to_vec_named(leaf_node).map_err(|_| StorageError)?);
        self.write(key, &nodes)
    }

    fn own_leaf_nodes<K: traits::GroupId<CURRENT_VERSION>, V: traits::LeafNode<CURRENT_VERSION>>(
        &self,
        group_id: &K,
    ) -> Result<Vec<V>, StorageError> {
        let nodes: Vec<Vec<u8>> = self.read_list(&Self::key(Label::OwnLeafNodes, &[group_id])?)?;
        nodes.iter().map(|node| decode(node)).collect()
    }

    fn queue_proposal<
        K: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        V: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &K,
        proposal_ref: &R,
        proposal: &V,
    ) -> Result<(), StorageError> {
        let key = Self::key(Label::ProposalRefs, &[group_id])?;
        let mut refs: Vec<Vec<u8>> = self.read_list(&key)?;
        refs.push(rmp_serde::to_vec_named(proposal_ref).map_err(|_| StorageError)?);
        self.write(key, &refs)?;
        self.write(Self::key(Label::Proposal, &[group_id, proposal_ref])?, proposal)
    }

    fn queued_proposal_refs<K: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        group_id: &K,
    ) -> Result<Vec<R>, StorageError> {
        let refs: Vec<Vec<u8>> = self.read_list(&Self::key(Label::ProposalRefs, &[group_id])?)?;
        refs.iter().map(|proposal_ref| decode(proposal_ref)).collect()
    }

    fn queued_proposals<
        K: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        V: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        group_id: &K,
    ) -> Result<Vec<(R, V)>, StorageError> {
        let refs: Vec<R> = self.queued_proposal_refs(group_id)?;
        refs.into_iter()
            .map(|proposal_ref| {
                let proposal = self.read(&Self::key(Label::Proposal, &[group_id, &proposal_ref])?)?;
                Ok((proposal_ref, proposal.ok_or(StorageError)?))
            })
            .collect()
    }

    fn remove_proposal<K: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        group_id: &K,
        proposal_ref: &R,
    ) -> Result<(), StorageError> {
        let key = Self::key(Label::ProposalRefs, &[group_id])?;
        let mut refs: Vec<Vec<u8>> = self.read_list(&key)?;
        let removed = rmp_serde::to_vec_named(proposal_ref).map_err(|_| StorageError)?;
        refs.retain(|present| *present != removed);
        self.write(key, &refs)?;
        self.delete(Self::key(Label::Proposal, &[group_id, proposal_ref])?);
        Ok(())
    }

    fn clear_proposal_queue<K: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        group_id: &K,
    ) -> Result<(), StorageError> {
        for proposal_ref in self.queued_proposal_refs::<K, R>(group_id)? {
            self.delete(Self::key(Label::Proposal, &[group_id, &proposal_ref])?);
        }
        self.delete(Self::key(Label::ProposalRefs, &[group_id])?);
        Ok(())
    }

    fn write_encryption_epoch_key_pairs<
        K: traits::GroupId<CURRENT_VERSION>,
        E: traits::EpochKey<CURRENT_VERSION>,
        V: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &K,
        epoch: &E,
        leaf_index: u32,
        key_pairs: &[V],
    ) -> Result<(), StorageError> {
        self.write(Self::key(Label::EpochKeyPairs, &[group_id, epoch, &leaf_index])?, &key_pairs)
    }

    fn encryption_epoch_key_pairs<
        K: traits::GroupId<CURRENT_VERSION>,
        E: traits::EpochKey<CURRENT_VERSION>,
        V: traits::HpkeKeyPair<CURRENT_VERSION>,
    >(
        &self,
        group_id: &K,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<Vec<V>, StorageError> {
        self.read_list(&Self::key(Label::EpochKeyPairs, &[group_id, epoch, &leaf_index])?)
    }

    fn delete_encryption_epoch_key_pairs<K: traits::GroupId<CURRENT_VERSION>, E: traits::EpochKey<CURRENT_VERSION>>(
        &self,
        group_id: &K,
        epoch: &E,
        leaf_index: u32,
    ) -> Result<(), StorageError> {
        self.delete(Self::key(Label::EpochKeyPairs, &[group_id, epoch, &leaf_index])?);
        Ok(())
    }
}
