//! Signers of every kind and the updates they sign, built without the code under test except for the text.

#![allow(dead_code, reason = "each test binary uses a part")]

use k256::ecdsa::SigningKey as WalletKey;
use p256::ecdsa::SigningKey as PasskeyKey;
use p256::ecdsa::signature::Signer as _;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use xmtp_history::identity::{
    AssociationState, ContractVerdicts, Error, Identifier, Member, Rule, inbox_id, installation_id,
    personal_message_hash, sign_text, signature_text,
};
use xmtp_history::wire::proto::identity::api::v1::get_identity_updates_response::IdentityUpdateLog;
use xmtp_history::wire::proto::identity::associations::{
    AddAssociation, ChangeRecoveryAddress, CreateInbox, IdentityAction, IdentityUpdate, LegacyDelegatedSignature,
    RecoverableEcdsaSignature, RecoverableEd25519Signature, RecoverablePasskeySignature, RevokeAssociation, Signature,
    SmartContractWalletSignature, identity_action, signature,
};

/// One second in the unit of timestamps.
pub const SECOND: u64 = 1_000_000_000;
/// The chain of contract wallets.
pub const CHAIN: u64 = 8453;

/// Somebody who can sign; the number is the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Wallet(u8),
    Installation(u8),
    Passkey(u8),
    /// A smart contract wallet on a chain.
    Contract(u8, u64),
    /// A V2 key that the wallet of this number has approved.
    Legacy(u8),
}

impl Key {
    pub fn member(self) -> Member {
        match self {
            Self::Wallet(secret) | Self::Legacy(secret) => Member::Address(address(&wallet(secret))),
            Self::Installation(secret) => Member::Installation(installation_id(&[secret; 32])),
            Self::Passkey(secret) => {
                Member::Passkey(passkey(secret).verifying_key().to_encoded_point(true).as_bytes().to_vec())
            }
            Self::Contract(number, _) => Member::Address(contract_address(number)),
        }
    }

    pub fn identifier(self) -> Identifier {
        self.member().wallet().unwrap()
    }

    pub fn inbox(self, nonce: u64) -> String {
        inbox_id(&self.identifier().to_string(), nonce)
    }

    pub fn sign(self, text: &str) -> Signature {
        use signature::Signature as Wire;
        let signature = match self {
            Self::Wallet(secret) => Wire::Erc191(RecoverableEcdsaSignature { bytes: personal(&wallet(secret), text) }),
            Self::Installation(secret) => Wire::InstallationKey(RecoverableEd25519Signature {
                bytes: sign_text(&[secret; 32], text).to_vec(),
                public_key: installation_id(&[secret; 32]).to_vec(),
            }),
            Self::Passkey(secret) => Wire::Passkey(assertion(secret, text)),
            Self::Contract(number, chain) => Wire::Erc6492(SmartContractWalletSignature {
                account_id: format!("eip155:{chain}:{}", contract_address(number)),
                block_number: 1000,
                signature: [b"contract ", text.as_bytes()].concat(),
            }),
            Self::Legacy(secret) => Wire::DelegatedErc191(LegacyDelegatedSignature {
                delegated_key: approved_key(&wallet(secret), &legacy(secret)),
                signature: Some(RecoverableEcdsaSignature { bytes: personal(&legacy(secret), text) }),
            }),
        };
        Signature { signature: Some(signature) }
    }
}

pub fn wallet(secret: u8) -> WalletKey {
    WalletKey::from_slice(&[secret + 1; 32]).unwrap()
}

fn legacy(secret: u8) -> WalletKey {
    WalletKey::from_slice(&[secret + 101; 32]).unwrap()
}

pub fn passkey(secret: u8) -> PasskeyKey {
    PasskeyKey::from_slice(&[secret + 1; 32]).unwrap()
}

fn contract_address(number: u8) -> String {
    format!("0xc0{}", hex::encode([number; 19]))
}

pub fn address(key: &WalletKey) -> String {
    use sha3::Digest as _;
    let point = key.verifying_key().to_encoded_point(false);
    format!("0x{}", hex::encode(&sha3::Keccak256::digest(&point.as_bytes()[1..])[12..]))
}

/// `r ‖ s ‖ v` of a personal message.
pub fn personal(key: &WalletKey, text: &str) -> Vec<u8> {
    let (signature, recovery) = key.sign_prehash_recoverable(&personal_message_hash(text)).unwrap();
    [signature.to_bytes().as_slice(), &[27 + recovery.to_byte()]].concat()
}

/// A passkey's assertion, as an authenticator makes it.
pub fn assertion(secret: u8, text: &str) -> RecoverablePasskeySignature {
    let client_data = format!(
        r#"{{"type":"webauthn.get","challenge":"{}","origin":"https://example.org","crossOrigin":false}}"#,
        base64_url(text.as_bytes())
    );
    signed_assertion(secret, client_data)
}

pub fn signed_assertion(secret: u8, client_data: String) -> RecoverablePasskeySignature {
    let authenticator_data = vec![7; 37];
    let signed = [authenticator_data.as_slice(), &Sha256::digest(client_data.as_bytes())].concat();
    let signature: p256::ecdsa::Signature = passkey(secret).sign(&signed);
    RecoverablePasskeySignature {
        public_key: passkey(secret).verifying_key().to_encoded_point(true).as_bytes().to_vec(),
        signature: signature.to_der().as_bytes().to_vec(),
        authenticator_data,
        client_data_json: client_data.into_bytes(),
    }
}

fn base64_url(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)).collect();
    let letter = |six: &[u8]| {
        let index = (0..6).fold(0, |index, at| index << 1 | usize::from(six.get(at).copied().unwrap_or(0)));
        char::from(LETTERS[index])
    };
    bits.chunks(6).map(letter).collect()
}

fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encode_length_delimiter(content.len(), &mut bytes).unwrap();
    bytes.extend_from_slice(content);
    bytes
}

/// A `SignedPublicKey` of XMTP V2.
fn approved_key(wallet: &WalletKey, key: &WalletKey) -> Vec<u8> {
    let point = key.verifying_key().to_encoded_point(false);
    let key_bytes = [vec![1 << 3, 5], field(3, &field(1, point.as_bytes()))].concat();
    let text =
        format!("XMTP : Create Identity\n{}\n\nFor more info: https://xmtp.org/signatures/", hex::encode(&key_bytes));
    let by_wallet = personal(wallet, &text);
    let compact = [field(1, &by_wallet[..64]), vec![2 << 3, by_wallet[64] - 27]].concat();
    [field(1, &key_bytes), field(2, &field(2, &compact))].concat()
}

/// An action and who signs it.
#[derive(Debug, Clone)]
pub enum Act {
    Create { owner: Key, nonce: u64, by: Key },
    Add { new: Key, by: Key },
    Revoke { member: Member, by: Key },
    Change { recovery: Identifier, by: Key },
}

pub fn create(owner: Key) -> Act {
    Act::Create { owner, nonce: 0, by: owner }
}

pub fn add(new: Key, by: Key) -> Act {
    Act::Add { new, by }
}

pub fn revoke(member: Key, by: Key) -> Act {
    Act::Revoke { member: member.member(), by }
}

pub fn change(recovery: Key, by: Key) -> Act {
    Act::Change { recovery: recovery.identifier(), by }
}

/// A signed update.
pub fn update(inbox: &str, time: u64, acts: &[Act]) -> IdentityUpdate {
    let unsigned = |act: &Act| IdentityAction {
        kind: Some(match act {
            Act::Create { owner, nonce, .. } => identity_action::Kind::CreateInbox(CreateInbox {
                initial_identifier: owner.identifier().to_string(),
                nonce: *nonce,
                initial_identifier_kind: owner.identifier().kind().into(),
                ..CreateInbox::default()
            }),
            Act::Add { new, .. } => identity_action::Kind::Add(AddAssociation {
                new_member_identifier: Some(new.member().to_wire()),
                ..AddAssociation::default()
            }),
            Act::Revoke { member, .. } => identity_action::Kind::Revoke(RevokeAssociation {
                member_to_revoke: Some(member.to_wire()),
                ..RevokeAssociation::default()
            }),
            Act::Change { recovery, .. } => identity_action::Kind::ChangeRecoveryAddress(ChangeRecoveryAddress {
                new_recovery_identifier: recovery.to_string(),
                new_recovery_identifier_kind: recovery.kind().into(),
                ..ChangeRecoveryAddress::default()
            }),
        }),
    };
    let actions = acts.iter().map(unsigned).collect();
    let update = IdentityUpdate { actions, client_timestamp_ns: time, inbox_id: inbox.to_owned() };
    sign(update, acts)
}

/// Signs the actions of an update, whatever they have become since.
pub fn sign(mut update: IdentityUpdate, acts: &[Act]) -> IdentityUpdate {
    let text = signature_text(&update).unwrap();
    for (action, act) in update.actions.iter_mut().zip(acts) {
        match (action.kind.as_mut().unwrap(), act) {
            (identity_action::Kind::CreateInbox(create), Act::Create { by, .. }) => {
                create.initial_identifier_signature = Some(by.sign(&text));
            }
            (identity_action::Kind::Add(add), Act::Add { new, by }) => {
                add.existing_member_signature = Some(by.sign(&text));
                add.new_member_signature = Some(new.sign(&text));
            }
            (identity_action::Kind::Revoke(revoke), Act::Revoke { by, .. }) => {
                revoke.recovery_identifier_signature = Some(by.sign(&text));
            }
            (identity_action::Kind::ChangeRecoveryAddress(change), Act::Change { by, .. }) => {
                change.existing_recovery_identifier_signature = Some(by.sign(&text));
            }
            _ => panic!("the acts are those of the update"),
        }
    }
    update
}

/// A log with one update for each list of acts, a second apart, all for the inbox that `owner` creates with nonce 0.
pub fn log(owner: Key, updates: &[Vec<Act>]) -> Vec<IdentityUpdateLog> {
    let inbox = owner.inbox(0);
    let updates = (1..).zip(updates).map(|(index, acts)| update(&inbox, index * SECOND, acts));
    entries(updates)
}

pub fn entries(updates: impl IntoIterator<Item = IdentityUpdate>) -> Vec<IdentityUpdateLog> {
    let entry = |(sequence_id, update)| IdentityUpdateLog { sequence_id, server_timestamp_ns: 1, update: Some(update) };
    (1..).zip(updates).map(entry).collect()
}

/// Folds, letting a node approve every contract wallet.
pub fn fold(inbox: &str, log: &[IdentityUpdateLog]) -> Result<AssociationState, Error> {
    let mut verdicts = ContractVerdicts::new();
    match AssociationState::fold(inbox, log, &verdicts) {
        Err(Error::Unverified(questions)) => {
            for question in &questions {
                verdicts.insert(question, true);
            }
            AssociationState::fold(inbox, log, &verdicts)
        }
        result => result,
    }
}

/// The state after these updates.
pub fn accepted(owner: Key, updates: &[Vec<Act>]) -> AssociationState {
    fold(&owner.inbox(0), &log(owner, updates)).unwrap()
}

/// The rule that the last of these updates breaks; those before it are fine.
pub fn refused(owner: Key, updates: &[Vec<Act>]) -> Rule {
    let log = log(owner, updates);
    rule_of_last(&owner.inbox(0), &log)
}

/// The rule that the last entry breaks; those before it are fine.
pub fn rule_of_last(inbox: &str, log: &[IdentityUpdateLog]) -> Rule {
    let last = log.last().unwrap().sequence_id;
    match fold(inbox, log) {
        Err(Error::Refused { sequence_id, rule }) if sequence_id == last => rule,
        other => panic!("expected the last update to be refused, got {other:?}"),
    }
}

/// An update's bytes.
pub fn encode(update: &IdentityUpdate) -> Vec<u8> {
    update.encode_to_vec()
}
