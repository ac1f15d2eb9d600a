//! What can be wrong with an identity log, by the rule it breaks.

use super::contract::ContractSignature;
use super::signature::SignatureKind;

/// A rule that an update breaks (identity specification, sections 1.1 to 1.5).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// A field that must be there is not, or is of a kind this release does not know.
    #[error("the field `{0}` is missing or of an unknown kind")]
    Missing(&'static str),
    /// An Ethereum address is not `0x` and 40 hexadecimal digits (section 1.1).
    #[error("an Ethereum address has `0x` and 40 hexadecimal digits; this one does not")]
    AddressForm,
    /// An inbox id is not 64 lower-case hexadecimal digits (section 1.1).
    #[error("an inbox id has 64 lower-case hexadecimal digits; this one does not")]
    InboxIdForm,
    /// A passkey is not written in hexadecimal digits (section 1.1).
    #[error("a passkey is written in hexadecimal digits; this one is not")]
    PasskeyForm,
    /// An installation id is not 32 bytes long (section 1.1).
    #[error("an installation id has 32 bytes; this one does not")]
    InstallationForm,
    /// A smart contract wallet's account is not a CAIP-10 account of an Ethereum chain (section 1.4).
    #[error("the account of a smart contract wallet is not of the form `eip155:<chain>:<address>`")]
    AccountForm,
    /// A signature does not belong to the text, or is malformed (section 1.4).
    #[error("the {0} signature is malformed or does not belong to the update's text")]
    BadSignature(SignatureKind),
    /// The log does not begin with the creation of the inbox (section 1.5, rule 1).
    #[error("the inbox is used before it is created")]
    NotCreated,
    /// The log creates the inbox again (section 1.5, rule 1).
    #[error("the inbox is created a second time")]
    AlreadyCreated,
    /// The creation is not signed by the initial identifier (section 1.5, rule 1).
    #[error("the creation of the inbox is not signed by its first identifier")]
    NotOwner,
    /// The update is for another inbox, or its inbox id is not derived from the first identifier (section 1.5, rule 1).
    #[error("the update carries the id of another inbox")]
    WrongInboxId,
    /// A legacy key was used for something that needs the wallet itself (section 1.5, rule 2).
    #[error("a legacy key may not sign this")]
    LegacyNotAllowed,
    /// A new member did not sign for itself (section 1.5, rule 3).
    #[error("the new member did not sign the update itself")]
    NotNewMember,
    /// A member adds itself (section 1.5, rule 3).
    #[error("a member cannot add itself")]
    AddsItself,
    /// Neither a member nor the recovery identifier signed for the new member (section 1.5, rule 3).
    #[error("whoever adds the new member is neither a member nor the recovery identifier")]
    NotMember,
    /// An installation adds an installation (section 1.5, rule 3).
    #[error("an installation cannot add another installation")]
    InstallationAddsInstallation,
    /// Somebody else than the recovery identifier signed (section 1.5, rules 4 and 7).
    #[error("the update is not signed by the recovery identifier")]
    NotRecovery,
    /// A wallet signed on another chain than it was added on (section 1.5, rule 5); `None` is a wallet that is no contract.
    #[error("the wallet was added on another chain than it signs on now")]
    ChainChanged {
        /// Chain on which the wallet was added.
        recorded: Option<u64>,
        /// Chain on which it signed now.
        signed: Option<u64>,
    },
    /// A signature of an earlier update was used again (section 1.5, rule 6).
    #[error("a signature of an earlier update is used again")]
    Replay,
}

/// An error of the identity room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An update of a log breaks a rule, so the whole log is refused.
    #[error("the identity update {sequence_id} is refused: {rule}")]
    Refused {
        /// The node's number of the update.
        sequence_id: u64,
        /// What is wrong with it.
        rule: Rule,
    },
    /// A single update, identifier or signature breaks a rule.
    #[error("{0}")]
    Invalid(#[from] Rule),
    /// The log holds signatures of smart contract wallets without a verdict: all of them, each once. Ask a node, add its
    /// answers to the [`ContractVerdicts`](super::ContractVerdicts), and try again.
    #[error("{} signatures of smart contract wallets must first be verified by a node", .0.len())]
    Unverified(Vec<ContractSignature>),
    /// The log is not in the order of its sequence ids, or an update is applied twice.
    #[error("the identity update {given} does not come after the update {last}")]
    NotRising {
        /// The last update applied.
        last: u64,
        /// The update that should have been newer.
        given: u64,
    },
    /// The log is empty: the node knows no such inbox.
    #[error("the inbox has no identity updates")]
    EmptyLog,
    /// The log ends before the update that was asked for, or does not hold it.
    #[error("the identity update {0} is not in the log; fetch the log again")]
    NotInLog(u64),
    /// The bytes are not an identity update.
    #[error("the data is not an identity update")]
    Malformed,
    /// The wallet that signed is not the one that the update needs.
    #[error("the signature comes from {signed}, but the update needs the one of {expected}")]
    WrongWallet {
        /// The wallet that must sign.
        expected: String,
        /// The wallet that did sign, as recovered from the signature.
        signed: String,
    },
    /// The installation key is not the one in the draft, or is missing.
    #[error("the update needs the key of the installation that it adds")]
    WrongInstallationKey,
    /// A node answered with another number of verdicts than it was asked for.
    #[error("the node gave {given} verdicts for {asked} signatures")]
    VerdictCount {
        /// Number of signatures asked about.
        asked: usize,
        /// Number of verdicts given.
        given: usize,
    },
}
