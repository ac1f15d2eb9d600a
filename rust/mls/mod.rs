//! An installation and its MLS groups, as XMTP uses them (RFC 9420; identity specification, sections 2 to 5).
//!
//! [`Installation`] is the whole: it lives in a [`Store`](crate::store::Store), gets what a node answered, and gives what is
//! to be sent. It does no input or output, and every call is one transaction, so what was decrypted, what was stored and
//! the cursor never disagree. Everything from outside is hostile: what breaks a rule is skipped with a reason.

mod conversations;
mod device_sync;
pub mod envelope;
mod error;
pub mod extensions;
pub mod framing;
pub mod group_updated;
mod groups;
pub mod hmac;
mod inboxes;
mod installation;
mod intents;
mod join;
pub mod key_package;
pub mod keys;
mod outbox;
mod preferences;
mod provider;
mod receive;
mod registration;
pub mod rules;
mod send;
mod storage;
mod sync_group;
mod tls;
pub mod welcome;

pub use device_sync::{ArchiveOptions, BackupMetadataSave, News, Refusal, Reply, Request, Subject, Task, TaskKind};
pub use error::Error;
pub use groups::{CONVERSATION_SYNC, GroupRow, GroupState};
pub use inboxes::Ingested;
pub use installation::{GroupDetails, Installation};
pub use join::Welcomed;
pub use outbox::{Flushed, Waiting};
pub use preferences::{HmacKeys, HmacRoot};
pub use receive::Received;
pub use registration::{KeyPackageUpload, Update};
pub use send::Outgoing;
pub use sync_group::{SyncGroups, SyncMessage};
