//! Who may speak for an inbox: its append-only log of identity updates, verified and folded into a list of members
//! (identity specification, section 1).
//!
//! A log comes from a node that need not be honest, so nothing in it is believed without its signature. Signatures of
//! smart contract wallets are the exception that cannot be checked here: they live on a chain. Folding lists them, the
//! caller asks a node, and folds again with the [`ContractVerdicts`].
//!
//! [`AssociationState`] is the result of a log; [`UpdateDraft`] makes the updates that we publish ourselves. Both stand on
//! [`signature_text`] and [`verify`]. The room does no input or output.

mod compact;
mod contract;
mod draft;
mod error;
mod identifier;
mod legacy;
mod passkey;
mod rules;
mod signature;
mod state;
mod text;

pub use contract::{ContractSignature, ContractVerdicts};
pub use draft::{SignedUpdate, UpdateDraft, WalletSignature};
pub use error::{Error, Rule};
pub use identifier::{Identifier, Member, inbox_id, is_inbox_id, parse_address};
pub use signature::{SignatureKind, Signer, installation_id, sign_text, verify};
pub use state::{AssociationState, InstallationChange, MemberRecord, decode_update};
pub use text::{personal_message_hash, signature_text};

/// How many installations an inbox may have; libxmtp refuses to start another one from this number on, so a client must
/// not register an eleventh (identity specification, section 1.5).
pub const MAX_INSTALLATIONS: usize = 10;
/// How many updates a node stores for an inbox (identity specification, section 1.5).
///
/// Folding does not enforce it: a node that stores more is followed, as libxmtp does.
pub const MAX_UPDATES: usize = 256;
