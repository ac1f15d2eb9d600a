//! Which records are valid (archive specification, sections 1.8, 2 and 4).
//!
//! The container says that bytes are authentic; these rules say that a record means something. They are checked before a
//! record reaches the database.

use crate::wire::{Consent, Group, Message};

/// Length of a conversation id, bytes.
pub const GROUP_ID_BYTES: usize = 16;
/// Length of a message id, bytes.
pub const MESSAGE_ID_BYTES: usize = 32;
/// Wire number of a group conversation.
pub const CONVERSATION_GROUP: i32 = 1;
/// Wire number of a DM.
pub const CONVERSATION_DM: i32 = 2;
/// Wire number of a membership state given by an import.
pub const MEMBERSHIP_RESTORED: i32 = 4;
/// Wire number of an application message.
pub const KIND_APPLICATION: i32 = 1;
/// Wire number of a membership-change message.
pub const KIND_MEMBERSHIP_CHANGE: i32 = 2;
/// Wire number of a message that is not on the network yet.
pub const STATUS_UNPUBLISHED: i32 = 1;
/// Wire number of a message that the network has.
pub const STATUS_PUBLISHED: i32 = 2;
/// Wire number of a message that could not be sent.
pub const STATUS_FAILED: i32 = 3;

/// A record that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRecord {
    /// Index of the archive element, or of the record in the caller's list.
    pub element: u64,
    /// `conversation`, `message` or `consent`.
    pub kind: &'static str,
    /// The field at fault, by its name in the format.
    pub field: &'static str,
    /// One sentence, without content.
    pub reason: String,
}

/// The field at fault and why.
pub type Violation = (&'static str, String);

fn id_length(field: &'static str, id: &[u8], expected: usize) -> Result<(), Violation> {
    if id.len() == expected {
        return Ok(());
    }
    Err((field, format!("{} bytes long, must be {expected}", id.len())))
}

/// Checks a conversation.
///
/// # Errors
/// The first rule it breaks.
pub fn check_group(group: &Group<'_>) -> Result<(), Violation> {
    id_length("id", group.id, GROUP_ID_BYTES)?;
    match group.conversation_type {
        CONVERSATION_GROUP => Ok(()),
        CONVERSATION_DM => match group.dm_id {
            None => Err(("dm_id", "a DM without dm_id".into())),
            Some(dm_id) if dm_members(dm_id).is_none() => {
                Err(("dm_id", "not `dm:` and two sorted inbox ids joined by a colon".into()))
            }
            Some(_) => Ok(()),
        },
        3 => Err(("conversation_type", "a sync group is not a conversation".into())),
        other => Err(("conversation_type", format!("{other} is not a kind of conversation"))),
    }
}

/// The two inbox ids of a well-formed `dm_id` (section 2.7).
#[must_use]
pub fn dm_members(dm_id: &str) -> Option<(&str, &str)> {
    let (first, second) = dm_id.strip_prefix("dm:")?.split_once(':')?;
    (is_inbox_id(first) && is_inbox_id(second) && first <= second).then_some((first, second))
}

fn is_inbox_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Checks a message.
///
/// # Errors
/// The first rule it breaks.
pub fn check_message(message: &Message<'_>) -> Result<(), Violation> {
    id_length("id", message.id, MESSAGE_ID_BYTES)?;
    id_length("group_id", message.group_id, GROUP_ID_BYTES)?;
    if !matches!(message.kind, KIND_APPLICATION | KIND_MEMBERSHIP_CHANGE) {
        return Err(("kind", format!("{} is not a kind of message", message.kind)));
    }
    if !matches!(message.delivery_status, STATUS_UNPUBLISHED | STATUS_PUBLISHED | STATUS_FAILED) {
        return Err(("delivery_status", format!("{} is not a delivery status", message.delivery_status)));
    }
    Ok(())
}

/// Checks a consent record.
///
/// # Errors
/// The first rule it breaks.
pub fn check_consent(consent: &Consent<'_>) -> Result<(), Violation> {
    if !matches!(consent.entity_type, 1 | 2) {
        return Err(("entity_type", format!("{} is neither conversation nor inbox", consent.entity_type)));
    }
    if !matches!(consent.state, 1..=3) {
        return Err(("state", format!("{} is not a consent state", consent.state)));
    }
    Ok(())
}

/// When a message disappears, or `None` (sections 4.9.8 and 5.3): the conversation's settings are on, and the message is a
/// published application message sent after they were set.
#[must_use]
pub fn expiry(settings: (Option<i64>, Option<i64>), kind: i32, status: i32, sent_at_ns: i64) -> Option<i64> {
    match settings {
        (Some(from), Some(lifetime))
            if from > 0
                && lifetime > 0
                && kind == KIND_APPLICATION
                && status == STATUS_PUBLISHED
                && sent_at_ns >= from =>
        {
            Some(sent_at_ns.saturating_add(lifetime))
        }
        _ => None,
    }
}
