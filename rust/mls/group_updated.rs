//! The message that stands for a commit in a conversation: who changed what (identity specification, section 4.3).
//!
//! Every client makes it for itself, and its id is a hash over these bytes. They are therefore written as the reference writes
//! them, except where it does so in random order: several inboxes at once, and several metadata fields at once. There, names
//! are sorted.

use std::collections::BTreeSet;

use prost::Message as _;

use super::rules::CommitChanges;
use crate::wire::proto::mls::message_contents as proto;

/// The content type's authority.
pub const AUTHORITY_ID: &str = "xmtp.org";
/// The content type's name.
pub const TYPE_ID: &str = "group_updated";
/// The content type's major version; the minor one is 0.
pub const VERSION_MAJOR: u32 = 1;

/// The `EncodedContent` of the message for a commit, or `None` for one that has no message: it changes neither inboxes nor
/// metadata, and the group asks for no minimum version. (With a minimum version even a new key makes a message, in the
/// reference as here.)
///
/// `leaving` are the inboxes that asked to be removed. The message's idempotency key is [`commit_idempotency_key`], its sender
/// the commit's actor.
#[must_use]
pub fn of_commit(changes: &CommitChanges, leaving: &BTreeSet<String>) -> Option<Vec<u8>> {
    let empty = changes.added_inboxes.is_empty()
        && changes.removed_inboxes.is_empty()
        && changes.field_changes.is_empty()
        && changes.admins_added.is_empty()
        && changes.admins_removed.is_empty()
        && changes.super_admins_added.is_empty()
        && changes.super_admins_removed.is_empty()
        && changes.minimum_version.is_none();
    if empty {
        return None;
    }
    let (left, removed): (Vec<&String>, Vec<&String>) =
        changes.removed_inboxes.iter().partition(|inbox_id| leaving.contains(*inbox_id));
    Some(encode(proto::GroupUpdated {
        initiated_by_inbox_id: changes.actor_inbox_id.clone(),
        added_inboxes: inboxes(&changes.added_inboxes),
        removed_inboxes: inboxes(removed),
        metadata_field_changes: changes
            .field_changes
            .iter()
            .map(|change| proto::group_updated::MetadataFieldChange {
                field_name: change.field.clone(),
                old_value: change.old.clone(),
                new_value: change.new.clone(),
            })
            .collect(),
        left_inboxes: inboxes(left),
        added_admin_inboxes: inboxes(&changes.admins_added),
        removed_admin_inboxes: inboxes(&changes.admins_removed),
        added_super_admin_inboxes: inboxes(&changes.super_admins_added),
        removed_super_admin_inboxes: inboxes(&changes.super_admins_removed),
    }))
}

/// The `EncodedContent` of the message that a joiner keeps for the welcome: whoever added it, and itself as the only one added.
///
/// Its idempotency key is [`joined_idempotency_key`], its sender the installation that added us, its time the welcome's, its
/// cursor that of the commit which the welcome names.
#[must_use]
pub fn of_joining(own_inbox_id: &str, adder_inbox_id: &str) -> Vec<u8> {
    encode(proto::GroupUpdated {
        initiated_by_inbox_id: adder_inbox_id.into(),
        added_inboxes: inboxes([&own_inbox_id.to_owned()]),
        ..Default::default()
    })
}

/// What takes the place of an idempotency key in the id of a commit's message: the node's time of the commit.
#[must_use]
pub fn commit_idempotency_key(created_ns: u64) -> String {
    created_ns.to_string()
}

/// What takes the place of an idempotency key in the id of a joiner's message: the node's time of the welcome as the reference
/// prints it, `2026-11-22 21:58:43.123456789 UTC_welcome_added`.
#[must_use]
pub fn joined_idempotency_key(created_ns: i64) -> String {
    format!("{}_welcome_added", utc(created_ns))
}

/// A time as the `chrono` crate displays it: the fraction has 0, 3, 6 or 9 digits, whatever it takes.
fn utc(ns: i64) -> String {
    const SECOND: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;
    let (seconds, fraction) = (ns.div_euclid(SECOND), ns.rem_euclid(SECOND));
    let (day, time) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    // Days since 1 March of the year 0, in eras of 400 years; the year begins in March, so that a leap day is its last.
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let fraction = match fraction {
        0 => String::new(),
        _ if fraction % 1_000_000 == 0 => format!(".{:03}", fraction / 1_000_000),
        _ if fraction % 1_000 == 0 => format!(".{:06}", fraction / 1_000),
        _ => format!(".{fraction:09}"),
    };
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction} UTC")
}

fn inboxes<'a>(inbox_ids: impl IntoIterator<Item = &'a String>) -> Vec<proto::Inbox> {
    inbox_ids.into_iter().map(|inbox_id| proto::Inbox { inbox_id: inbox_id.clone() }).collect()
}

fn encode(update: proto::GroupUpdated) -> Vec<u8> {
    proto::EncodedContent {
        r#type: Some(proto::ContentTypeId {
            authority_id: AUTHORITY_ID.into(),
            type_id: TYPE_ID.into(),
            version_major: VERSION_MAJOR,
            version_minor: 0,
        }),
        content: update.encode_to_vec(),
        ..Default::default()
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_look_as_the_reference_prints_them() {
        for (ns, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (1_795_386_343_624_215_626, "2026-11-22 22:25:43.624215626 UTC"),
            (951_782_400_000_000_000, "2000-02-29 00:00:00 UTC"),
            (1_735_689_599_100_000_000, "2024-12-31 23:59:59.100 UTC"),
            (1_735_689_600_000_010_000, "2025-01-01 00:00:00.000010 UTC"),
            (-1, "1969-12-31 23:59:59.999999999 UTC"),
            (i64::MIN, "1677-09-21 00:12:43.145224192 UTC"),
            (i64::MAX, "2262-04-11 23:47:16.854775807 UTC"),
        ] {
            assert_eq!(utc(ns), text);
        }
    }
}
