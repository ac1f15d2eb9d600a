//! Which commits a group accepts (identity specification, section 4.3).
//!
//! The rules are the reference's own, with its oddities: whoever refuses a commit that the others accept, or the other way
//! round, is alone in another epoch from then on. Where we want to be stricter than that, as in sync groups, the commit is
//! applied and the group is given up ([`sync_group`]).

pub mod commit;
pub mod credential;
mod expected;
pub mod join;
pub mod policy;
pub mod sync_group;
pub mod version;

pub use commit::{CommitChanges, FieldChange, InstallationsByInbox, validate_commit};
pub use credential::{CredentialError, leaf_inbox_id};
pub use join::{check_dm, validate_membership};
pub use policy::{MemberRight, Permissions, Policy, Rank, RankRight};
pub use sync_group::{SyncGroupBreach, check_sync_commit, check_sync_group};
pub use version::{OWN_VERSION, paused_by};

use std::collections::BTreeSet;

use super::extensions::{Error, Unsupported};

/// What is known of other inboxes; the identity room answers.
pub trait InboxStates {
    /// The installations of an inbox after the identity update of exactly this id (section 4.2). The id is at least 1 and fits
    /// in an `i64`.
    ///
    /// # Errors
    /// [`StateError`].
    fn installations_at(&self, inbox_id: &str, sequence_id: u64) -> Result<BTreeSet<Vec<u8>>, StateError>;
}

/// Why [`InboxStates`] has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The updates up to this id have not been asked of the node yet.
    #[error("the identity updates have not been fetched")]
    Missing,
    /// They have, and none has exactly this id.
    #[error("there is no identity update of this id")]
    NoSuchUpdate {
        /// The id of the inbox's last update before it, if it has one.
        newest_before: Option<u64>,
    },
    /// They have, and one of them is not valid.
    #[error("the identity updates are not valid")]
    Invalid,
}

/// Which rule is broken (section 4.3, in its order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The group's context, before or after, can be read.
    Extensions,
    /// Name, description, picture and application data are not too long.
    TextLimit,
    /// One member speaks, and nobody from outside.
    Actor,
    /// No pre-shared keys.
    Psk,
    /// Sequence ids only rise.
    SequenceId,
    /// Exactly the right installations come and go.
    Installations,
    /// Whoever acts is an installation of its inbox.
    Credential,
    /// Whoever acts may.
    Permission,
    /// The minimum version is a version.
    Version,
    /// The tree of a group that one joins holds what its membership says.
    Membership,
    /// A DM is between us and whoever added us.
    Dm,
}

/// Why a commit or a welcome is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It breaks a rule, and always will: it is skipped and the cursor moves on.
    #[error("{reason}")]
    Invalid {
        /// Which rule.
        rule: Rule,
        /// How, in a sentence.
        reason: String,
    },
    /// Identity updates are missing: they are fetched, and it is tried again; the cursor stays.
    #[error("the identity updates of {} inboxes must be fetched first", .0.len())]
    MissingIdentity(Vec<(String, u64)>),
    /// The group asks for a newer client: it is paused and the commit stays unread, the cursor before it.
    #[error("the group asks for version {minimum} or newer")]
    Paused {
        /// The version that the group asks for.
        minimum: String,
    },
    /// The group turns into one that cannot be followed.
    #[error("the group cannot be followed: {0}")]
    Unsupported(Unsupported),
}

impl Refusal {
    pub(crate) fn invalid(rule: Rule, reason: impl Into<String>) -> Self {
        Self::Invalid { rule, reason: reason.into() }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Unsupported(reason) => Self::Unsupported(reason),
            other => Self::invalid(Rule::Extensions, other.to_string()),
        }
    }
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        Self::invalid(Rule::Credential, error.to_string())
    }
}
