//! The records of an archive as borrowed views: every field of spec 2.1 to 2.5 under its own name.
//!
//! Enums stay the raw numbers they are on the wire, also unknown ones. `Option` means explicit presence: an absent
//! value and a zero are different. `unknown` holds the raw bytes, keys included and in their order, of fields this
//! version does not know, so that they survive being read and written again.

/// One element of an archive (spec 2.1).
#[derive(Debug, Clone, PartialEq)]
pub enum Element<'a> {
    /// What the archive holds and when it was made; always element 0.
    Metadata(Metadata),
    /// A conversation.
    Group(Group<'a>),
    /// A message.
    Message(Message<'a>),
    /// A consent decision.
    Consent(Consent<'a>),
    /// A deprecated event, checked but not decoded; of several in one element the last.
    Event(&'a [u8]),
    /// Zero bytes of plaintext: filler that readers skip (spec 6.2).
    Empty,
    /// Fields only of kinds this version does not know.
    Unknown,
}

/// `BackupMetadataSave` (spec 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Selections in the exporter's order, duplicates and unknown numbers kept.
    pub elements: Vec<i32>,
    /// Wall clock at export in nanoseconds since 1970.
    pub exported_at_ns: i64,
    /// Start of the time window in nanoseconds, exclusive.
    pub start_ns: Option<i64>,
    /// End of the time window in nanoseconds, inclusive.
    pub end_ns: Option<i64>,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

/// `GroupSave` (spec 2.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group<'a> {
    /// MLS group id, normally 16 bytes.
    pub id: &'a [u8],
    /// Creation, or when the welcome was processed, in nanoseconds.
    pub created_at_ns: i64,
    /// 1 allowed, 2 rejected, 3 pending, 4 restored, 5 pending remove.
    pub membership_state: i32,
    /// Last check for new installations in nanoseconds.
    pub installations_last_checked: i64,
    /// Inbox that added the user.
    pub added_by_inbox_id: &'a str,
    /// Sequence id of the welcome.
    pub welcome_id: Option<i64>,
    /// Last leaf key rotation in nanoseconds.
    pub rotated_at_ns: i64,
    /// 1 group, 2 dm, 3 sync.
    pub conversation_type: i32,
    /// `dm:` and the two inbox ids, for a dm.
    pub dm_id: Option<&'a str>,
    /// Last activity in nanoseconds.
    pub last_message_ns: Option<i64>,
    /// From when on messages disappear, in nanoseconds.
    pub message_disappear_from_ns: Option<i64>,
    /// Lifetime of a disappearing message in nanoseconds.
    pub message_disappear_in_ns: Option<i64>,
    /// Immutable metadata.
    pub metadata: Option<GroupMetadata<'a>>,
    /// Mutable metadata.
    pub mutable_metadata: Option<MutableMetadata<'a>>,
    /// Client version the group waits for.
    pub paused_for_version: Option<&'a str>,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

/// A group's immutable metadata (spec 2.3, field 13).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupMetadata<'a> {
    /// Inbox that created the group.
    pub creator_inbox_id: &'a str,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

/// A group's mutable metadata (spec 2.3, field 14).
///
/// The attribute `_commit_log_signer` is a secret key: never print a value of this type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MutableMetadata<'a> {
    /// Attributes in order of first appearance; every key once, with its last value.
    pub attributes: Vec<(&'a str, &'a str)>,
    /// Admins in order.
    pub admin_list: Vec<&'a str>,
    /// Super admins in order.
    pub super_admin_list: Vec<&'a str>,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

/// `ConsentSave` (spec 2.4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consent<'a> {
    /// 1 conversation id, 2 inbox id, 3 address (deprecated).
    pub entity_type: i32,
    /// 1 unknown, 2 allowed, 3 denied.
    pub state: i32,
    /// Group id or inbox id in lower-case hex.
    pub entity: &'a str,
    /// Time of the decision in nanoseconds.
    pub consented_at_ns: i64,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

/// `GroupMessageSave` (spec 2.5).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message<'a> {
    /// Message id, normally 32 bytes.
    pub id: &'a [u8],
    /// The group it belongs to.
    pub group_id: &'a [u8],
    /// Content exactly as sent, normally an [`EncodedContent`](super::content::EncodedContent).
    pub decrypted_message_bytes: &'a [u8],
    /// Server time once published, local time before, in nanoseconds.
    pub sent_at_ns: i64,
    /// 1 application, 2 membership change.
    pub kind: i32,
    /// The sender's 32-byte installation key.
    pub sender_installation_id: &'a [u8],
    /// The sender's inbox.
    pub sender_inbox_id: &'a str,
    /// 1 unpublished, 2 published, 3 failed.
    pub delivery_status: i32,
    /// Deprecated number of the content type, in archives before 2026.
    pub content_type_save: i32,
    /// Major version of the content type.
    pub version_major: i32,
    /// Minor version of the content type.
    pub version_minor: i32,
    /// Authority of the content type.
    pub authority_id: &'a str,
    /// The message that this one replies to, reacts to or deletes.
    pub reference_id: Option<&'a [u8]>,
    /// Network cursor: position.
    pub sequence_id: Option<i64>,
    /// Network cursor: originator.
    pub originator_id: Option<i64>,
    /// Type id of the content, without authority and version.
    pub content_type: &'a str,
    /// Raw fields of unknown number.
    pub unknown: Vec<u8>,
}

impl Element<'_> {
    /// Whether the record, or one of the messages inside it, holds fields this version does not know.
    #[must_use]
    pub fn has_unknown_fields(&self) -> bool {
        match self {
            Self::Metadata(metadata) => !metadata.unknown.is_empty(),
            Self::Group(group) => {
                !group.unknown.is_empty()
                    || group.metadata.as_ref().is_some_and(|part| !part.unknown.is_empty())
                    || group.mutable_metadata.as_ref().is_some_and(|part| !part.unknown.is_empty())
            }
            Self::Message(message) => !message.unknown.is_empty(),
            Self::Consent(consent) => !consent.unknown.is_empty(),
            Self::Event(_) | Self::Empty | Self::Unknown => false,
        }
    }
}
