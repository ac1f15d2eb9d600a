//! The updates that we publish ourselves (identity specification, sections 1.2 and 1.6).
//!
//! A draft gives the text for the wallet, takes the wallet's signature, and is finished with the installation's key. It is
//! made of its arguments alone, so a caller that cannot keep it while the user signs may make it again.

use super::contract::{ContractSignature, ContractVerdicts, parse_account};
use super::error::{Error, Rule};
use super::identifier::{Identifier, Member, is_inbox_id, parse_address};
use super::signature::{Checked, check, installation_id, sign_text};
use super::text::SignedText;
use crate::wire::proto::identity::associations::{
    AddAssociation, CreateInbox, IdentityAction, IdentityUpdate, RecoverableEcdsaSignature,
    RecoverableEd25519Signature, RecoverablePasskeySignature, RevokeAssociation, Signature,
    SmartContractWalletSignature, identity_action, signature,
};
use prost::Message as _;

/// A wallet's signature of the text of a draft (identity specification, section 1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalletSignature {
    /// The 65 bytes `r ‖ s ‖ v` of a personal message (EIP-191).
    Personal(Vec<u8>),
    /// That of a smart contract wallet (EIP-1271, EIP-6492).
    Contract {
        /// The wallet with its chain: `eip155:<chain>:<address>` (CAIP-10).
        account_id: String,
        /// A recent block, at which everybody will ask the wallet.
        block_number: u64,
        /// What the wallet gave.
        signature: Vec<u8>,
    },
    /// That of a passkey.
    Passkey(RecoverablePasskeySignature),
}

impl From<WalletSignature> for Signature {
    fn from(signature: WalletSignature) -> Self {
        use signature::Signature as Wire;
        let wire = match signature {
            WalletSignature::Personal(bytes) => Wire::Erc191(RecoverableEcdsaSignature { bytes }),
            WalletSignature::Contract { account_id, block_number, signature } => {
                Wire::Erc6492(SmartContractWalletSignature { account_id, block_number, signature })
            }
            WalletSignature::Passkey(signature) => Wire::Passkey(signature),
        };
        Self { signature: Some(wire) }
    }
}

/// An update with all its signatures, ready to be published.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedUpdate(IdentityUpdate);

impl SignedUpdate {
    /// The update.
    #[must_use]
    pub fn update(&self) -> &IdentityUpdate {
        &self.0
    }

    /// The update, taken out.
    #[must_use]
    pub fn into_update(self) -> IdentityUpdate {
        self.0
    }

    /// The update's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }
}

/// An update that still lacks its signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateDraft {
    update: IdentityUpdate,
    text: String,
    /// Who must sign.
    wallet: Identifier,
    /// The installation that must sign as well.
    installation: Option<[u8; 32]>,
}

impl UpdateDraft {
    /// Creates an inbox and adds its first installation (identity specification, section 1.2).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the owner's address is malformed.
    pub fn create_inbox(
        owner: &Identifier,
        nonce: u64,
        installation: [u8; 32],
        timestamp_ns: u64,
    ) -> Result<Self, Error> {
        let owner = lower_case(owner)?;
        let inbox_id = owner.inbox_id(nonce)?;
        let create = identity_action::Kind::CreateInbox(CreateInbox {
            initial_identifier: owner.to_string(),
            nonce,
            initial_identifier_signature: None,
            initial_identifier_kind: owner.kind().into(),
            relying_party: None,
        });
        Self::new(inbox_id, owner, Some(installation), vec![create, grant(installation)], timestamp_ns)
    }

    /// Adds an installation to an inbox that has this wallet as a member or as its recovery identifier.
    ///
    /// Whoever asks for it must first make sure that the inbox has fewer than
    /// [`MAX_INSTALLATIONS`](super::MAX_INSTALLATIONS).
    ///
    /// # Errors
    /// [`Error::Invalid`] when the inbox id or the wallet's address is malformed.
    pub fn add_installation(
        inbox_id: &str,
        wallet: &Identifier,
        installation: [u8; 32],
        timestamp_ns: u64,
    ) -> Result<Self, Error> {
        let wallet = lower_case(wallet)?;
        Self::new(checked(inbox_id)?, wallet, Some(installation), vec![grant(installation)], timestamp_ns)
    }

    /// Revokes installations; the recovery identifier signs.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is nothing to revoke, or when the inbox id or the recovery address is malformed.
    pub fn revoke_installations(
        inbox_id: &str,
        recovery: &Identifier,
        installations: &[[u8; 32]],
        timestamp_ns: u64,
    ) -> Result<Self, Error> {
        if installations.is_empty() {
            return Err(Rule::Missing("installations").into());
        }
        let revoke = |id: &[u8; 32]| {
            identity_action::Kind::Revoke(RevokeAssociation {
                member_to_revoke: Some(Member::Installation(*id).to_wire()),
                recovery_identifier_signature: None,
            })
        };
        let actions = installations.iter().map(revoke).collect();
        Self::new(checked(inbox_id)?, lower_case(recovery)?, None, actions, timestamp_ns)
    }

    fn new(
        inbox_id: String,
        wallet: Identifier,
        installation: Option<[u8; 32]>,
        actions: Vec<identity_action::Kind>,
        client_timestamp_ns: u64,
    ) -> Result<Self, Error> {
        let actions = actions.into_iter().map(|kind| IdentityAction { kind: Some(kind) }).collect();
        let update = IdentityUpdate { actions, client_timestamp_ns, inbox_id };
        let text = super::text::signature_text(&update)?;
        Ok(Self { update, text, wallet, installation })
    }

    /// The text that the wallet is to sign.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The id of the inbox that the update is for.
    #[must_use]
    pub fn inbox_id(&self) -> &str {
        &self.update.inbox_id
    }

    /// The wallet that is to sign.
    #[must_use]
    pub fn wallet(&self) -> &Identifier {
        &self.wallet
    }

    /// The question to ask a node about a smart contract wallet's signature, which cannot be verified here; `None` for
    /// other signatures.
    #[must_use]
    pub fn question(&self, wallet: &WalletSignature) -> Option<ContractSignature> {
        match wallet {
            WalletSignature::Contract { account_id, block_number, signature } => Some(ContractSignature {
                account_id: account_id.clone(),
                block_number: *block_number,
                signature: signature.clone(),
                hash: super::text::personal_message_hash(&self.text),
            }),
            _ => None,
        }
    }

    /// Finishes the update: verifies the wallet's signature and signs with the key of the installation that it adds, given
    /// as its 32-byte seed.
    ///
    /// The signature of a smart contract wallet is only compared by its account; ask the [`question`](Self::question)
    /// first, or let the node refuse it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the wallet's signature is malformed, [`Error::WrongWallet`] when it is somebody else's,
    /// [`Error::WrongInstallationKey`] when the seed is missing or not that of the installation.
    pub fn finish(&self, wallet: WalletSignature, seed: Option<&[u8; 32]>) -> Result<SignedUpdate, Error> {
        let wallet = Signature::from(wallet);
        self.check_wallet(&wallet)?;
        let installation = match (self.installation, seed) {
            (None, _) => None,
            (Some(id), Some(seed)) if installation_id(seed) == id => {
                let bytes = sign_text(seed, &self.text).to_vec();
                let signature = RecoverableEd25519Signature { bytes, public_key: id.to_vec() };
                Some(Signature { signature: Some(signature::Signature::InstallationKey(signature)) })
            }
            (Some(_), _) => return Err(Error::WrongInstallationKey),
        };
        let mut update = self.update.clone();
        for kind in update.actions.iter_mut().filter_map(|action| action.kind.as_mut()) {
            match kind {
                identity_action::Kind::CreateInbox(create) => {
                    create.initial_identifier_signature = Some(wallet.clone());
                }
                identity_action::Kind::Add(add) => {
                    add.existing_member_signature = Some(wallet.clone());
                    add.new_member_signature.clone_from(&installation);
                }
                identity_action::Kind::Revoke(revoke) => revoke.recovery_identifier_signature = Some(wallet.clone()),
                identity_action::Kind::ChangeRecoveryAddress(change) => {
                    change.existing_recovery_identifier_signature = Some(wallet.clone());
                }
            }
        }
        Ok(SignedUpdate(update))
    }

    fn check_wallet(&self, signature: &Signature) -> Result<(), Error> {
        let text = SignedText::new(self.text.clone());
        let signed = match check(signature, &text, &ContractVerdicts::new())? {
            Checked::Signer(signer) => signer.member,
            Checked::Unverified(question) => Member::Address(parse_account(&question.account_id)?.1),
        };
        if signed.is_wallet(&self.wallet) {
            return Ok(());
        }
        Err(Error::WrongWallet { expected: self.wallet.to_string(), signed: signed.to_string() })
    }
}

fn grant(installation: [u8; 32]) -> identity_action::Kind {
    identity_action::Kind::Add(AddAssociation {
        new_member_identifier: Some(Member::Installation(installation).to_wire()),
        existing_member_signature: None,
        new_member_signature: None,
        relying_party: None,
    })
}

fn checked(inbox_id: &str) -> Result<String, Rule> {
    if is_inbox_id(inbox_id) { Ok(inbox_id.to_owned()) } else { Err(Rule::InboxIdForm) }
}

/// Signers are recovered in lower case, so anything else could never be matched.
fn lower_case(wallet: &Identifier) -> Result<Identifier, Rule> {
    match wallet {
        Identifier::Address(address) => parse_address(address).map(Identifier::Address),
        Identifier::Passkey(_) => Ok(wallet.clone()),
    }
}
