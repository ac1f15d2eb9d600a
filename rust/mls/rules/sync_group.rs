//! Which sync groups are ours (device synchronisation, section 2.7: F1, F2 and F6).
//!
//! The reference checks nothing of this: an inbox that adds another's installations to its own sync group gets the other's
//! whole history.

use openmls::group::Member;

use super::{CommitChanges, leaf_inbox_id};
use crate::mls::extensions::{ConversationType, GroupExtensions};

/// Why a sync group is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyncGroupBreach {
    /// It is another type of group.
    #[error("the group is not a sync group")]
    Type,
    /// Another inbox made it.
    #[error("the sync group was made by another inbox")]
    Creator,
    /// Another inbox added us.
    #[error("another inbox added us to the sync group")]
    Adder,
    /// A leaf is another inbox's.
    #[error("the sync group has a member of another inbox")]
    Leaf,
    /// The membership names another inbox.
    #[error("the sync group's membership names another inbox")]
    Membership,
    /// Others than our inbox are admins, or it is not.
    #[error("the sync group has other admins than our inbox")]
    Admins,
    /// The policies are not those of a new sync group.
    #[error("the sync group has other permissions than it was made with")]
    Permissions,
    /// Extension 0xf000 is not what it was.
    #[error("the sync group was turned into another group")]
    Metadata,
}

/// Whether a sync group is ours alone: at a welcome (F1), and for a stored group before it is used (F6). `adder_inbox_id` is
/// that of the leaf that added us; nobody added us to a group that we made.
///
/// # Errors
/// The first breach.
pub fn check_sync_group(
    own_inbox_id: &str,
    adder_inbox_id: Option<&str>,
    members: impl IntoIterator<Item = Member>,
    group: &GroupExtensions,
) -> Result<(), SyncGroupBreach> {
    if group.metadata.conversation_type != ConversationType::Sync {
        return Err(SyncGroupBreach::Type);
    }
    if group.metadata.creator_inbox_id != own_inbox_id {
        return Err(SyncGroupBreach::Creator);
    }
    if adder_inbox_id.is_some_and(|adder| adder != own_inbox_id) {
        return Err(SyncGroupBreach::Adder);
    }
    if members.into_iter().any(|member| leaf_inbox_id(&member.credential).as_deref() != Ok(own_inbox_id)) {
        return Err(SyncGroupBreach::Leaf);
    }
    if group.membership.members.keys().any(|inbox_id| inbox_id != own_inbox_id) {
        return Err(SyncGroupBreach::Membership);
    }
    let metadata = &group.mutable_metadata;
    if !metadata.admins.is_empty() || metadata.super_admins != [own_inbox_id] {
        return Err(SyncGroupBreach::Admins);
    }
    if !group.permissions.is_all_members() {
        return Err(SyncGroupBreach::Permissions);
    }
    Ok(())
}

/// Whether a sync group is still ours after a commit that the rules allow (F2). The commit is applied either way; after a
/// breach the group is never used again.
///
/// # Errors
/// The first breach.
pub fn check_sync_commit(own_inbox_id: &str, changes: &CommitChanges) -> Result<(), SyncGroupBreach> {
    let foreign = |inbox_id: &String| inbox_id != own_inbox_id;
    if foreign(&changes.actor_inbox_id)
        || !changes.misnamed_installations.is_empty()
        || changes.added_installations.keys().any(foreign)
    {
        return Err(SyncGroupBreach::Leaf);
    }
    if changes.added_inboxes.iter().any(foreign) || changes.membership.members.keys().any(foreign) {
        return Err(SyncGroupBreach::Membership);
    }
    if ![&changes.admins_added, &changes.admins_removed, &changes.super_admins_added, &changes.super_admins_removed]
        .into_iter()
        .all(Vec::is_empty)
    {
        return Err(SyncGroupBreach::Admins);
    }
    if changes.permissions_changed {
        return Err(SyncGroupBreach::Permissions);
    }
    if changes.metadata_replaced {
        return Err(SyncGroupBreach::Metadata);
    }
    Ok(())
}
