//! Whether a welcome is accepted (identity specification, section 4.2).

use std::collections::{BTreeMap, BTreeSet};

use openmls::group::Member;

use super::expected::Lookup;
use super::{InboxStates, Permissions, Refusal, Rule, leaf_inbox_id};
use crate::identity::is_inbox_id;
use crate::mls::extensions::{ConversationType, GroupExtensions, Membership};

/// Whether the tree of a group holds exactly the installations that its membership names (step 4): each leaf is one of its
/// inbox's, once, and each installation without a leaf is among the failed ones.
///
/// # Errors
/// [`Refusal::Invalid`] with [`Rule::Membership`], or [`Refusal::MissingIdentity`].
pub fn validate_membership<S: InboxStates + ?Sized>(
    members: impl IntoIterator<Item = Member>,
    membership: &Membership,
    states: &S,
) -> Result<(), Refusal> {
    let mut lookup = Lookup::new(states);
    let mut expected: BTreeMap<&str, BTreeSet<Vec<u8>>> = BTreeMap::new();
    for (inbox_id, sequence_id) in &membership.members {
        expected.insert(inbox_id, lookup.installations(inbox_id, *sequence_id, Rule::Membership)?);
    }
    lookup.finish()?;
    for member in members {
        let inbox_id = leaf_inbox_id(&member.credential)?;
        let installations = expected
            .get_mut(inbox_id.as_str())
            .ok_or_else(|| Refusal::invalid(Rule::Membership, "a leaf's inbox is not in the membership"))?;
        if !installations.remove(&member.signature_key) {
            return Err(Refusal::invalid(Rule::Membership, "a leaf is not an installation of its inbox"));
        }
    }
    if expected.into_values().flatten().any(|installation| !membership.failed_installations.contains(&installation)) {
        return Err(Refusal::invalid(Rule::Membership, "an installation of the membership is not in the group"));
    }
    Ok(())
}

/// Whether a DM is one that we can be in (step 6).
///
/// # Errors
/// [`Refusal::Invalid`] with [`Rule::Dm`].
pub fn check_dm(own_inbox_id: &str, adder_inbox_id: &str, group: &GroupExtensions) -> Result<(), Refusal> {
    let refuse = |reason: &str| Err(Refusal::invalid(Rule::Dm, reason));
    if group.metadata.conversation_type != ConversationType::Dm {
        return refuse("the group is not a DM");
    }
    let Some([one, two]) = &group.metadata.dm_members else { return refuse("the DM does not name its two inboxes") };
    if adder_inbox_id == own_inbox_id {
        // Another installation of ours made it: nothing more is asked of it than that it can be kept.
        let ours = one == own_inbox_id || two == own_inbox_id;
        return if ours && is_inbox_id(one) && is_inbox_id(two) { Ok(()) } else { refuse("the DM is not ours") };
    }
    let pair = [one.as_str(), two.as_str()];
    if pair != [adder_inbox_id, own_inbox_id] && pair != [own_inbox_id, adder_inbox_id] {
        return refuse("the DM is not between us and whoever added us");
    }
    if !group.mutable_metadata.admins.is_empty() || !group.mutable_metadata.super_admins.is_empty() {
        return refuse("the DM has admins");
    }
    // As in the reference, which refuses only if none of the five is as it should be.
    let (policies, usual) = (&group.permissions, Permissions::dm());
    if policies.add_member != usual.add_member
        && policies.remove_member != usual.remove_member
        && policies.add_admin != usual.add_admin
        && policies.remove_admin != usual.remove_admin
        && policies.update_permissions != usual.update_permissions
    {
        return refuse("the DM has the policies of a group");
    }
    Ok(())
}
