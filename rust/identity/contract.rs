//! Signatures of smart contract wallets (EIP-1271, EIP-6492): only a chain can tell whether they hold, so a node is asked
//! and its verdicts are given to the folding (identity specification, section 1.4).

use super::error::{Error, Rule};
use super::identifier::parse_address;
use crate::crypto::Sha256;
use crate::wire::proto::identity::api::v1::verify_smart_contract_wallet_signatures_response::ValidationResponse;
use crate::wire::proto::identity::api::v1::{
    VerifySmartContractWalletSignatureRequestSignature, VerifySmartContractWalletSignaturesRequest,
};
use crate::wire::proto::identity::associations::SmartContractWalletSignature;
use std::collections::BTreeMap;

/// One question to a node: has this account signed this hash, as of this block?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContractSignature {
    /// The wallet with its chain (CAIP-10), as it stands in the log.
    pub account_id: String,
    /// The block at which the wallet is asked.
    pub block_number: u64,
    /// What the wallet is asked about (EIP-1271, or EIP-6492 before the wallet is deployed).
    pub signature: Vec<u8>,
    /// The personal-message hash of the update's text (EIP-191).
    pub hash: [u8; 32],
}

impl ContractSignature {
    pub(super) fn new(signature: &SmartContractWalletSignature, hash: [u8; 32]) -> Self {
        Self {
            account_id: signature.account_id.clone(),
            block_number: signature.block_number,
            signature: signature.signature.clone(),
            hash,
        }
    }

    /// A digest of all four fields, for whoever stores verdicts: the answer to a question about a given block is final.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for field in [self.account_id.as_bytes(), &self.block_number.to_be_bytes(), &self.signature] {
            // Lengths keep the fields apart.
            hash.update(&(field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        hash.update(&self.hash);
        hash.finish()
    }

    /// The request that asks a node about signatures; it answers in the same order.
    #[must_use]
    pub fn request(signatures: &[Self]) -> VerifySmartContractWalletSignaturesRequest {
        let signatures = signatures.iter().map(|signature| VerifySmartContractWalletSignatureRequestSignature {
            account_id: signature.account_id.clone(),
            block_number: Some(signature.block_number),
            signature: signature.signature.clone(),
            hash: signature.hash.to_vec(),
        });
        VerifySmartContractWalletSignaturesRequest { signatures: signatures.collect() }
    }
}

/// What nodes have said about signatures of smart contract wallets, found by their digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContractVerdicts(BTreeMap<[u8; 32], bool>);

impl ContractVerdicts {
    /// No verdicts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a verdict; a later one about the same signature replaces it.
    pub fn insert(&mut self, signature: &ContractSignature, valid: bool) {
        self.0.insert(signature.digest(), valid);
    }

    /// Notes a verdict that was stored under its [digest](ContractSignature::digest).
    pub fn insert_digest(&mut self, digest: [u8; 32], valid: bool) {
        self.0.insert(digest, valid);
    }

    /// Notes a node's answer to [`ContractSignature::request`].
    ///
    /// A refusal that carries an error text is not noted, since the node may just not have reached the chain: such a
    /// signature stays without verdict, and folding lists it again. Returns how many verdicts were noted.
    ///
    /// # Errors
    /// [`Error::VerdictCount`] when there is not one answer for each signature; nothing is noted then.
    pub fn insert_answer(
        &mut self,
        asked: &[ContractSignature],
        answer: &[ValidationResponse],
    ) -> Result<usize, Error> {
        if asked.len() != answer.len() {
            return Err(Error::VerdictCount { asked: asked.len(), given: answer.len() });
        }
        let mut noted = 0;
        for (signature, response) in asked.iter().zip(answer) {
            let failed = response.error.as_ref().is_some_and(|error| !error.is_empty());
            if response.is_valid || !failed {
                self.insert(signature, response.is_valid);
                noted += 1;
            }
        }
        Ok(noted)
    }

    /// The verdict about a signature, if there is one.
    #[must_use]
    pub fn get(&self, signature: &ContractSignature) -> Option<bool> {
        self.0.get(&signature.digest()).copied()
    }
}

/// The chain and the address in an account id (CAIP-10, for the namespace `eip155` of CAIP-2).
///
/// As in libxmtp, the address may lack its `0x`; it then stands for another member than with it.
pub(super) fn parse_account(account_id: &str) -> Result<(u64, String), Rule> {
    let mut parts = account_id.split(':');
    let (Some("eip155"), Some(chain), Some(address), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Rule::AccountForm);
    };
    if chain.len() > 32 || !chain.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Rule::AccountForm);
    }
    let chain = chain.parse().map_err(|_| Rule::AccountForm)?;
    let address = match parse_address(address) {
        Ok(address) => address,
        Err(_) if address.len() == 40 && address.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            address.to_ascii_lowercase()
        }
        Err(_) => return Err(Rule::AccountForm),
    };
    Ok((chain, address))
}
