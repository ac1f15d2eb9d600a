//! One commit: who acts, what it changes, and whether that is allowed (identity specification, section 4.3).

use std::collections::{BTreeMap, BTreeSet};

use openmls::credentials::Credential;
use openmls::extensions::Extensions;
use openmls::framing::Sender;
use openmls::group::{GroupContext, MlsGroup, StagedCommit};
use openmls::messages::proposals::Proposal;
use openmls::prelude::LeafNodeIndex;

use super::expected::{InboxDiff, InstallationDiff, Lookup};
use super::policy::Rank;
use super::{InboxStates, Refusal, Rule, leaf_inbox_id, version};
use crate::mls::extensions::{
    APP_DATA, DESCRIPTION, GROUP_IMAGE_URL_SQUARE, GROUP_NAME, GroupExtensions, IMMUTABLE_METADATA,
    MINIMUM_SUPPORTED_PROTOCOL_VERSION, MUTABLE_METADATA, Membership, MutableMetadata, data, exact_vector,
    parse_membership, parse_mutable_metadata, parse_permissions, unsupported,
};

/// How many bytes the text of an attribute may have.
const TEXT_LIMITS: [(&str, usize); 4] =
    [(DESCRIPTION, 1000), (GROUP_NAME, 100), (GROUP_IMAGE_URL_SQUARE, 2048), (APP_DATA, 8192)];

/// Installations under their inbox ids.
pub type InstallationsByInbox = BTreeMap<String, BTreeSet<Vec<u8>>>;

/// A changed attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Its name.
    pub field: String,
    /// What it was.
    pub old: Option<String>,
    /// What it is.
    pub new: Option<String>,
}

/// What an accepted commit changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitChanges {
    /// Whose installation acted.
    pub actor_inbox_id: String,
    /// The installation that acted.
    pub actor_installation_id: Vec<u8>,
    /// Inboxes that came, in order.
    pub added_inboxes: Vec<String>,
    /// Inboxes that went, in order.
    pub removed_inboxes: Vec<String>,
    /// Installations that came, by inbox.
    pub added_installations: InstallationsByInbox,
    /// Installations that went, by the inbox that their leaf named; an unreadable leaf is under the empty name.
    pub removed_installations: InstallationsByInbox,
    /// Installations that a super admin took out and put back, or failed to put back, to mend a fork.
    pub readded_installations: BTreeSet<Vec<u8>>,
    /// Installations that came with a credential which does not name the inbox that has them. The reference lets them in; what
    /// they send must not be taken for the other inbox's word.
    pub misnamed_installations: BTreeSet<Vec<u8>>,
    /// Changed attributes, by name.
    pub field_changes: Vec<FieldChange>,
    /// New admins, in the order of the new list.
    pub admins_added: Vec<String>,
    /// Former admins, in the order of the old list.
    pub admins_removed: Vec<String>,
    /// New super admins, in the order of the new list.
    pub super_admins_added: Vec<String>,
    /// Former super admins, in the order of the old list.
    pub super_admins_removed: Vec<String>,
    /// Whether extension 0xff02 says something else.
    pub permissions_changed: bool,
    /// Whether extension 0xf000, which no client lets one change, was replaced; the reference does not look.
    pub metadata_replaced: bool,
    /// The version that the group asks for after the commit, not more than ours.
    pub minimum_version: Option<String>,
    /// Whether our leaf went: the group is over for us, unless a welcome brings us back.
    pub self_removed: bool,
    /// The membership after the commit.
    pub membership: Membership,
}

/// Whether a group accepts a commit, ours or another's. `group` is as it was before it, `sender` that of the processed message
/// (for our own pending commit, our own leaf).
///
/// # Errors
/// [`Refusal`], which says what becomes of the cursor. A permanent one is found before identity updates are asked for where
/// that is possible.
pub fn validate_commit<S: InboxStates + ?Sized>(
    group: &MlsGroup,
    commit: &StagedCommit,
    sender: &Sender,
    states: &S,
) -> Result<CommitChanges, Refusal> {
    let before = GroupExtensions::parse(group.extensions())?;
    let after = commit.group_context().extensions();
    let actor = Actor::find(group, commit, sender, &before.mutable_metadata)?;
    if let Some(reason) = unsupported(after)
        // From anybody else this is no migration; the rules below decide.
        && actor.rank.super_admin
    {
        return Err(Refusal::Unsupported(reason));
    }
    let metadata = MetadataChanges::between(&before.mutable_metadata, group.extensions(), after)?;
    let metadata_replaced = immutable_metadata_replaced(group.extensions(), after)?;
    let permissions_changed = before.permissions != parse_permissions(after)?;
    if commit.psk_proposals().next().is_some() {
        return Err(Refusal::invalid(Rule::Psk, "the commit brings in a pre-shared key"));
    }
    let proposed = Proposed::read(group, commit)?;
    let membership = new_membership(commit)?;
    let inboxes = InboxDiff::between(&before.membership, &membership)?;
    check_permissions(&before, &actor, &inboxes, &metadata, permissions_changed)?;

    let mut lookup = Lookup::new(states);
    let expected = inboxes.installations(&before.membership, &membership, &mut lookup)?;
    let to_verify = proposed.updated.iter().map(|(inbox_id, installation)| (inbox_id, installation));
    let mut verified = Vec::new();
    for (inbox_id, installation) in to_verify.chain([(&actor.inbox_id, &actor.installation_id)]) {
        let sequence_id = membership.members.get(inbox_id).copied().ok_or_else(|| {
            Refusal::invalid(Rule::Credential, "the commit comes from an inbox that is not in the group")
        })?;
        let installations = lookup.installations(inbox_id, sequence_id, Rule::Credential)?;
        verified.push(installations.contains(installation));
    }
    lookup.finish()?;
    let readded = check_installations(group, &actor, &proposed, &expected, &membership)?;
    if verified.contains(&false) {
        return Err(Refusal::invalid(
            Rule::Credential,
            "the commit comes from an installation that its inbox does not have",
        ));
    }
    if let Some(minimum) = &metadata.minimum_version {
        match version::is_too_old_for(minimum) {
            None => return Err(Refusal::invalid(Rule::Version, "the group's minimum version is not a version")),
            Some(true) => return Err(Refusal::Paused { minimum: minimum.clone() }),
            Some(false) => {}
        }
    }

    let (added_installations, misnamed_installations) = proposed.additions_by_inbox(&expected);
    Ok(CommitChanges {
        actor_inbox_id: actor.inbox_id,
        actor_installation_id: actor.installation_id,
        added_inboxes: inboxes.added,
        removed_inboxes: inboxes.removed,
        added_installations,
        removed_installations: proposed.removals_by_inbox(),
        readded_installations: readded,
        misnamed_installations,
        field_changes: metadata.field_changes,
        admins_added: metadata.admins_added,
        admins_removed: metadata.admins_removed,
        super_admins_added: metadata.super_admins_added,
        super_admins_removed: metadata.super_admins_removed,
        permissions_changed,
        metadata_replaced,
        minimum_version: metadata.minimum_version,
        self_removed: commit.self_removed(),
        membership,
    })
}

/// Who made the commit, and which ranks it had before.
struct Actor {
    inbox_id: String,
    installation_id: Vec<u8>,
    rank: Rank,
}

impl Actor {
    /// The member whose new leaf the commit brings, else the one that made its proposals; they must be the same.
    fn find(
        group: &MlsGroup,
        commit: &StagedCommit,
        sender: &Sender,
        metadata: &MutableMetadata,
    ) -> Result<Self, Refusal> {
        let outsider = || Refusal::invalid(Rule::Actor, "the commit does not come from a member");
        let Sender::Member(sender) = sender else { return Err(outsider()) };
        group.member_at(*sender).ok_or_else(outsider)?;
        let mut author: Option<LeafNodeIndex> = None;
        for proposal in commit.queued_proposals() {
            let Sender::Member(index) = proposal.sender() else { return Err(outsider()) };
            if *author.get_or_insert(*index) != *index {
                return Err(Refusal::invalid(Rule::Actor, "the commit holds proposals of several members"));
            }
        }
        let author = author.map(|index| group.member_at(index).ok_or_else(outsider)).transpose()?;
        let (credential, key): (&Credential, &[u8]) = match (commit.update_path_leaf_node(), &author) {
            (Some(leaf), Some(author)) if leaf.signature_key().as_slice() != author.signature_key => {
                return Err(Refusal::invalid(Rule::Actor, "the commit holds proposals of another than its sender"));
            }
            (Some(leaf), _) => (leaf.credential(), leaf.signature_key().as_slice()),
            (None, Some(author)) => (&author.credential, &author.signature_key),
            (None, None) => return Err(Refusal::invalid(Rule::Actor, "the commit is empty")),
        };
        let inbox_id = leaf_inbox_id(credential)?;
        let rank = Rank { admin: metadata.is_admin(&inbox_id), super_admin: metadata.is_super_admin(&inbox_id) };
        Ok(Self { inbox_id, installation_id: key.to_vec(), rank })
    }
}

/// What the commit does to extension 0xff00.
#[derive(Default)]
struct MetadataChanges {
    field_changes: Vec<FieldChange>,
    admins_added: Vec<String>,
    admins_removed: Vec<String>,
    super_admins_added: Vec<String>,
    super_admins_removed: Vec<String>,
    no_super_admin_left: bool,
    minimum_version: Option<String>,
}

impl MetadataChanges {
    fn between(
        old: &MutableMetadata,
        old_extensions: &Extensions<GroupContext>,
        new_extensions: &Extensions<GroupContext>,
    ) -> Result<Self, Refusal> {
        let unchanged = data(old_extensions, MUTABLE_METADATA) == data(new_extensions, MUTABLE_METADATA);
        let parsed = if unchanged { None } else { Some(parse_mutable_metadata(new_extensions)?) };
        let new = parsed.as_ref().unwrap_or(old);
        let fields: BTreeSet<&String> = old.attributes.keys().chain(new.attributes.keys()).collect();
        let field_changes: Vec<FieldChange> = fields
            .into_iter()
            .map(|field| FieldChange {
                field: field.clone(),
                old: old.attributes.get(field).cloned(),
                new: new.attributes.get(field).cloned(),
            })
            .filter(|change| change.old != change.new)
            .collect();
        for change in &field_changes {
            let limit = TEXT_LIMITS.iter().find(|(field, _)| *field == change.field);
            if let (Some((field, limit)), Some(text)) = (limit, &change.new)
                && text.len() > *limit
            {
                return Err(Refusal::invalid(Rule::TextLimit, format!("`{field}` is longer than {limit} bytes")));
            }
        }
        Ok(Self {
            field_changes,
            admins_added: missing_from(&old.admins, &new.admins),
            admins_removed: missing_from(&new.admins, &old.admins),
            super_admins_added: missing_from(&old.super_admins, &new.super_admins),
            super_admins_removed: missing_from(&new.super_admins, &old.super_admins),
            no_super_admin_left: new.super_admins.is_empty(),
            minimum_version: new.attributes.get(MINIMUM_SUPPORTED_PROTOCOL_VERSION).cloned(),
        })
    }
}

/// What `list` has and `other` lacks, in the order of `list`, repetitions included.
fn missing_from(other: &[String], list: &[String]) -> Vec<String> {
    let other: BTreeSet<&String> = other.iter().collect();
    list.iter().filter(|entry| !other.contains(entry)).cloned().collect()
}

/// Nobody checks that extension 0xf000 stays what it was, but the reference's MLS library cannot read one of another form.
fn immutable_metadata_replaced(
    old: &Extensions<GroupContext>,
    new: &Extensions<GroupContext>,
) -> Result<bool, Refusal> {
    let new = data(new, IMMUTABLE_METADATA);
    if new.is_some_and(|new| exact_vector(new).is_none()) {
        return Err(Refusal::invalid(Rule::Extensions, "the immutable metadata is not a vector"));
    }
    Ok(data(old, IMMUTABLE_METADATA) != new)
}

/// The membership as the commit's proposal states it, else as it stands.
fn new_membership(commit: &StagedCommit) -> Result<Membership, Refusal> {
    let proposed = commit.queued_proposals().find_map(|proposal| match proposal.proposal() {
        Proposal::GroupContextExtensions(extensions) => Some(extensions.extensions()),
        _ => None,
    });
    Ok(parse_membership(proposed.unwrap_or_else(|| commit.group_context().extensions()))?)
}

/// An installation as a leaf names it; nobody if the credential is not readable.
type Named = BTreeMap<Vec<u8>, Option<String>>;

/// What the commit's proposals do to the tree.
struct Proposed {
    added: Named,
    removed: Named,
    updated: Vec<(String, Vec<u8>)>,
}

impl Proposed {
    fn read(group: &MlsGroup, commit: &StagedCommit) -> Result<Self, Refusal> {
        let mut proposed = Self { added: Named::new(), removed: Named::new(), updated: Vec::new() };
        for proposal in commit.queued_proposals() {
            match proposal.proposal() {
                Proposal::Add(add) => {
                    let leaf = add.key_package().leaf_node();
                    // The reference does not look at this credential: the key alone decides.
                    let inbox_id = leaf_inbox_id(leaf.credential()).ok();
                    proposed.added.insert(leaf.signature_key().as_slice().to_vec(), inbox_id);
                }
                Proposal::Remove(remove) => {
                    let member = group.member_at(remove.removed()).ok_or_else(|| {
                        Refusal::invalid(Rule::Installations, "the commit removes a leaf that is not there")
                    })?;
                    proposed.removed.insert(member.signature_key, leaf_inbox_id(&member.credential).ok());
                }
                Proposal::Update(update) => {
                    let leaf = update.leaf_node();
                    let inbox_id = leaf_inbox_id(leaf.credential())?;
                    proposed.updated.push((inbox_id, leaf.signature_key().as_slice().to_vec()));
                }
                _ => {}
            }
        }
        Ok(proposed)
    }

    fn additions_by_inbox(&self, expected: &InstallationDiff) -> (InstallationsByInbox, BTreeSet<Vec<u8>>) {
        let mut by_inbox = InstallationsByInbox::new();
        let mut misnamed = BTreeSet::new();
        for (installation, named) in &self.added {
            let owner = expected.added.get(installation);
            // An installation that comes back was a member under its name before; whose it is, the membership does not say.
            if named.is_none() || owner.is_some_and(|owner| named.as_ref() != Some(owner)) {
                misnamed.insert(installation.clone());
            }
            if let Some(inbox_id) = owner.or(named.as_ref()) {
                by_inbox.entry(inbox_id.clone()).or_default().insert(installation.clone());
            }
        }
        (by_inbox, misnamed)
    }

    fn removals_by_inbox(&self) -> InstallationsByInbox {
        let mut by_inbox = InstallationsByInbox::new();
        for (installation, named) in &self.removed {
            by_inbox.entry(named.clone().unwrap_or_default()).or_default().insert(installation.clone());
        }
        by_inbox
    }
}

/// Exactly the expected installations go, and none but expected ones come; the ones that come may be fewer. Returns those that
/// a super admin took out and put back.
fn check_installations(
    group: &MlsGroup,
    actor: &Actor,
    proposed: &Proposed,
    expected: &InstallationDiff,
    membership: &Membership,
) -> Result<BTreeSet<Vec<u8>>, Refusal> {
    let mut added: BTreeSet<&Vec<u8>> = proposed.added.keys().collect();
    let mut removed: BTreeSet<&Vec<u8>> = proposed.removed.keys().collect();
    let mut failed: BTreeSet<&Vec<u8>> = membership.failed_installations.iter().collect();
    let mut readded = BTreeSet::new();
    if actor.rank.super_admin {
        let back: Vec<&Vec<u8>> = added.intersection(&removed).copied().collect();
        for installation in back {
            added.remove(installation);
            removed.remove(installation);
            readded.insert(installation.clone());
        }
        let not_back: Vec<&Vec<u8>> = failed.intersection(&removed).copied().collect();
        for installation in not_back {
            failed.remove(installation);
            removed.remove(installation);
            readded.insert(installation.clone());
        }
    }
    let members: BTreeSet<Vec<u8>> = group.members().map(|member| member.signature_key).collect();
    if added.iter().any(|installation| !expected.added.contains_key(*installation) && !members.contains(*installation))
    {
        return Err(Refusal::invalid(
            Rule::Installations,
            "the commit adds an installation that the membership does not hold",
        ));
    }
    let leaving: BTreeSet<&Vec<u8>> = expected.removed.iter().filter(|id| !failed.contains(id)).collect();
    if removed != leaving {
        return Err(Refusal::invalid(
            Rule::Installations,
            "the commit removes other installations than the membership gives up",
        ));
    }
    Ok(readded)
}

/// Whether the actor may do all of it.
fn check_permissions(
    before: &GroupExtensions,
    actor: &Actor,
    inboxes: &InboxDiff,
    metadata: &MetadataChanges,
    permissions_changed: bool,
) -> Result<(), Refusal> {
    let policies = &before.permissions;
    let rank = actor.rank;
    // Either side of a DM may bring in the other, whatever the policies say.
    let dm_partner = match (&before.metadata.dm_members, inboxes.added.as_slice()) {
        (Some(pair), [added]) => pair.contains(added) && *added != actor.inbox_id,
        _ => false,
    };
    let super_admin_removed = inboxes.removed.iter().any(|inbox_id| before.mutable_metadata.is_super_admin(inbox_id));
    let denied = [
        (!inboxes.added.is_empty() && !dm_partner && !policies.add_member.allows(rank), "add members"),
        (!inboxes.removed.is_empty() && !policies.remove_member.allows(rank), "remove members"),
        (super_admin_removed, "remove a super admin"),
        (
            metadata.field_changes.iter().any(|change| !policies.may_update(&change.field, rank)),
            "change this of the group's metadata",
        ),
        (!metadata.admins_added.is_empty() && !policies.add_admin.allows(rank), "make admins"),
        (!metadata.admins_removed.is_empty() && !policies.remove_admin.allows(rank), "unmake admins"),
        (!metadata.super_admins_added.is_empty() && !rank.super_admin, "make super admins"),
        (
            !metadata.super_admins_removed.is_empty() && (!rank.super_admin || metadata.no_super_admin_left),
            "unmake this super admin",
        ),
        (permissions_changed && !rank.super_admin, "change the permissions"),
    ];
    match denied.into_iter().find(|(denied, _)| *denied) {
        Some((_, what)) => Err(Refusal::invalid(Rule::Permission, format!("whoever made the commit may not {what}"))),
        None => Ok(()),
    }
}
