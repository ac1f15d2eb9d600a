//! The rules of commits, welcomes and sync groups, against real MLS groups and against what a real client wrote.

#[path = "support/mls.rs"]
mod mls;

use std::collections::{BTreeMap, BTreeSet};

use mls::{Change, Member, States, capabilities, context, inbox};
use openmls::prelude::*;
use openmls::schedule::{ExternalPsk, PreSharedKeyId, Psk};
use openmls_traits::storage::StorageProvider as _;
use proptest::prelude::*;
use prost::Message as _;
use xmtp_history::mls::extensions::{self, Error, GroupExtensions, Membership, Metadata, MutableMetadata, Unsupported};
use xmtp_history::mls::group_updated;
use xmtp_history::mls::rules::credential::credential;
use xmtp_history::mls::rules::{
    CommitChanges, FieldChange, MemberRight, Permissions, Policy, RankRight, Refusal, Rule, SyncGroupBreach, check_dm,
    check_sync_commit, check_sync_group, leaf_inbox_id, paused_by, validate_commit, validate_membership,
};
use xmtp_history::wire::proto::mls::message_contents as proto;

const A: u64 = 10;
const B: u64 = 20;
const C: u64 = 30;

/// Alice, who made the group and is its super admin; Bob, who acts in most tests; Carol, who judges.
struct Bench {
    alice: Member,
    bob: Member,
    carol: Member,
    states: States,
}

impl Bench {
    fn new() -> Self {
        Self::with(context(&[('a', A), ('b', B), ('c', C)]))
    }

    fn with(context: GroupExtensions) -> Self {
        Self::with_members(context, [Member::new('a', 1), Member::new('b', 2), Member::new('c', 3)])
    }

    fn with_members(context: GroupExtensions, [mut alice, mut bob, mut carol]: [Member; 3]) -> Self {
        alice.create(context.to_extensions().unwrap());
        let adds = vec![bob.key_package(), carol.key_package()];
        let (_, welcome) = alice.commit_with_welcome(Change { adds, ..Change::default() });
        alice.group.as_mut().unwrap().merge_pending_commit(&alice.provider).unwrap();
        bob.join(welcome.clone().unwrap());
        carol.join(welcome.unwrap());
        let states = States::default().with('a', A, &[&alice]).with('b', B, &[&bob]).with('c', C, &[&carol]);
        Self { alice, bob, carol, states }
    }

    /// The context with something changed.
    fn changed(&self, change: impl FnOnce(&mut GroupExtensions)) -> Extensions<GroupContext> {
        let mut context = self.carol.extensions();
        change(&mut context);
        context.to_extensions().unwrap()
    }

    fn bob_sets(&mut self, change: impl FnOnce(&mut GroupExtensions)) -> Result<CommitChanges, Refusal> {
        let extensions = Some(self.changed(change));
        self.bob_does(Change { extensions, ..Change::default() })
    }

    fn alice_sets(&mut self, change: impl FnOnce(&mut GroupExtensions)) -> Result<CommitChanges, Refusal> {
        let extensions = Some(self.changed(change));
        self.alice_does(Change { extensions, ..Change::default() })
    }

    fn bob_does(&mut self, change: Change) -> Result<CommitChanges, Refusal> {
        let commit = self.bob.commit(change);
        self.carol.judge(&commit, &self.states).0
    }

    fn alice_does(&mut self, change: Change) -> Result<CommitChanges, Refusal> {
        let commit = self.alice.commit(change);
        self.carol.judge(&commit, &self.states).0
    }
}

fn member(context: &mut GroupExtensions, letter: char, sequence_id: u64) {
    context.membership.members.insert(inbox(letter), sequence_id);
}

fn leave(context: &mut GroupExtensions, letter: char) {
    context.membership.members.remove(&inbox(letter));
}

#[track_caller]
fn refused(verdict: Result<CommitChanges, Refusal>, expected: Rule) -> String {
    match verdict {
        Err(Refusal::Invalid { rule, reason }) if rule == expected => reason,
        other => panic!("{expected:?} expected, {other:?} found"),
    }
}

fn ids<const N: usize>(members: [&Member; N]) -> BTreeSet<Vec<u8>> {
    members.map(Member::id).into()
}

// --- commits ----------------------------------------------------------------------------------------------------------

#[test]
fn a_new_key_alone_is_accepted() {
    let mut bench = Bench::new();
    let changes = bench.bob_does(Change::default()).unwrap();
    assert_eq!(changes.actor_inbox_id, inbox('b'));
    assert_eq!(changes.actor_installation_id, bench.bob.id());
    assert!(changes.added_inboxes.is_empty() && changes.added_installations.is_empty() && !changes.self_removed);
    assert_eq!(changes.membership, bench.carol.extensions().membership);
    assert_eq!(group_updated::of_commit(&changes, &BTreeSet::new()), None);
}

#[test]
fn our_own_pending_commit_passes_the_same_rules() {
    let mut bench = Bench::new();
    let extensions = Some(bench.changed(|context| {
        context.mutable_metadata.attributes.insert("group_name".into(), "ours".into());
    }));
    bench.bob.commit_with_welcome(Change { extensions, ..Change::default() });
    let group = bench.bob.group();
    let sender = Sender::Member(group.own_leaf_index());
    let changes = validate_commit(group, group.pending_commit().unwrap(), &sender, &bench.states).unwrap();
    assert_eq!(changes.actor_installation_id, bench.bob.id());
    assert_eq!(changes.field_changes.len(), 1);
}

#[test]
fn a_member_adds_an_inbox() {
    let mut bench = Bench::new();
    let (dave, dave2) = (Member::new('d', 4), Member::new('d', 5));
    bench.states = bench.states.with('d', 40, &[&dave, &dave2]);
    let extensions = bench.changed(|context| {
        context.membership.members.insert(inbox('d'), 40);
        context.membership.failed_installations.insert(dave2.id());
    });
    let adds = vec![dave.key_package()];
    let changes = bench.bob_does(Change { adds, extensions: Some(extensions), ..Change::default() }).unwrap();
    assert_eq!(changes.added_inboxes, [inbox('d')]);
    assert_eq!(changes.added_installations, BTreeMap::from([(inbox('d'), ids([&dave]))]));
    assert!(changes.misnamed_installations.is_empty());
    assert_eq!(changes.membership.members.get(&inbox('d')), Some(&40));
}

#[test]
fn an_installation_may_stay_out_without_being_named_as_failed() {
    let mut bench = Bench::new();
    let (dave, dave2) = (Member::new('d', 4), Member::new('d', 5));
    bench.states = bench.states.with('d', 40, &[&dave, &dave2]);
    let extensions = Some(bench.changed(|context| member(context, 'd', 40)));
    let adds = vec![dave.key_package()];
    let (commit, welcome) = bench.alice.commit_with_welcome(Change { adds, extensions, ..Change::default() });
    let (verdict, _) = bench.carol.judge(&commit, &bench.states);
    assert!(verdict.is_ok());
    // Whoever joins by it refuses.
    let staged = dave.stage_welcome(welcome.unwrap());
    let membership = GroupExtensions::parse(staged.group_context().extensions()).unwrap().membership;
    let verdict = validate_membership(staged.members(), &membership, &bench.states);
    assert!(matches!(verdict, Err(Refusal::Invalid { rule: Rule::Membership, .. })));
    let failed = Membership { failed_installations: ids([&dave2]), ..membership };
    assert_eq!(validate_membership(staged.members(), &failed, &bench.states), Ok(()));
}

#[test]
fn an_addition_needs_a_raised_sequence_id() {
    let mut bench = Bench::new();
    let bob2 = Member::new('b', 5);
    bench.states = bench.states.with('b', 21, &[&bench.bob, &bob2]);
    let adds = vec![bob2.key_package()];
    refused(bench.bob_does(Change { adds: adds.clone(), ..Change::default() }), Rule::Installations);
    let extensions = Some(bench.changed(|context| member(context, 'b', 21)));
    let changes = bench.bob_does(Change { adds, extensions, ..Change::default() }).unwrap();
    assert_eq!(changes.added_installations, BTreeMap::from([(inbox('b'), ids([&bob2]))]));
    assert!(changes.added_inboxes.is_empty());
    // Only inboxes make a message.
    assert_eq!(group_updated::of_commit(&changes, &BTreeSet::new()), None);
}

#[test]
fn an_installation_of_nobody_is_refused() {
    let mut bench = Bench::new();
    let (dave, eve) = (Member::new('d', 4), Member::new('e', 5));
    bench.states = bench.states.with('d', 40, &[&dave]);
    let extensions = Some(bench.changed(|context| member(context, 'd', 40)));
    let adds = vec![dave.key_package(), eve.key_package()];
    refused(bench.bob_does(Change { adds, extensions, ..Change::default() }), Rule::Installations);
}

#[test]
fn a_key_package_under_a_false_name_is_let_in_and_reported() {
    let mut bench = Bench::new();
    let dave = Member::new('d', 4);
    bench.states = bench.states.with('d', 40, &[&dave]);
    let extensions = Some(bench.changed(|context| member(context, 'd', 40)));
    let adds = vec![dave.key_package_naming(credential(&inbox('a')))];
    let changes = bench.bob_does(Change { adds, extensions, ..Change::default() }).unwrap();
    assert_eq!(changes.misnamed_installations, ids([&dave]));
    assert_eq!(changes.added_installations, BTreeMap::from([(inbox('d'), ids([&dave]))]));
    assert_eq!(check_sync_commit(&inbox('d'), &changes), Err(SyncGroupBreach::Leaf));
}

#[test]
fn removals_are_exactly_those_that_the_membership_gives_up() {
    let mut bench = Bench::new();
    let bob_leaf = bench.alice.leaf_of(&bench.bob);
    let without_bob = bench.changed(|context| leave(context, 'b'));
    // The inbox goes and its leaf stays; the leaf goes and its inbox stays.
    refused(
        bench.alice_does(Change { extensions: Some(without_bob.clone()), ..Change::default() }),
        Rule::Installations,
    );
    refused(bench.alice_does(Change { removals: vec![bob_leaf], ..Change::default() }), Rule::Installations);
    let changes = bench
        .alice_does(Change { removals: vec![bob_leaf], extensions: Some(without_bob), ..Change::default() })
        .unwrap();
    assert_eq!(changes.removed_inboxes, [inbox('b')]);
    assert_eq!(changes.removed_installations, BTreeMap::from([(inbox('b'), ids([&bench.bob]))]));
    assert!(!changes.self_removed);
}

#[test]
fn a_failed_installation_need_not_be_removed() {
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    let bob2 = Member::new('b', 5);
    context.membership.failed_installations.insert(bob2.id());
    let mut bench = Bench::with(context);
    bench.states = bench.states.with('b', B, &[&bench.bob, &bob2]);
    let bob_leaf = bench.alice.leaf_of(&bench.bob);
    let extensions = Some(bench.changed(|context| leave(context, 'b')));
    let removals = vec![bob_leaf];
    assert!(bench.alice_does(Change { removals: removals.clone(), extensions, ..Change::default() }).is_ok());
    let extensions = Some(bench.changed(|context| {
        context.membership.members.remove(&inbox('b'));
        context.membership.failed_installations.clear();
    }));
    refused(bench.alice_does(Change { removals, extensions, ..Change::default() }), Rule::Installations);
}

#[test]
fn only_admins_remove_members_and_nobody_a_super_admin() {
    let mut bench = Bench::new();
    let removals = |bench: &Bench, whom: &Member| vec![bench.bob.leaf_of(whom)];
    let leaves = removals(&bench, &bench.carol);
    let extensions = Some(bench.changed(|context| leave(context, 'c')));
    let change = Change { removals: leaves.clone(), extensions, ..Change::default() };
    refused(bench.bob_does(change), Rule::Permission);

    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata.admins.push(inbox('b'));
    let mut bench = Bench::with(context);
    let extensions = Some(bench.changed(|context| leave(context, 'c')));
    let changes = bench.bob_does(Change { removals: leaves, extensions, ..Change::default() }).unwrap();
    assert!(changes.self_removed, "Carol herself was removed");
    assert_eq!(changes.removed_inboxes, [inbox('c')]);
    let leaves = removals(&bench, &bench.alice);
    let extensions = Some(bench.changed(|context| leave(context, 'a')));
    let reason =
        refused(bench.bob_does(Change { removals: leaves, extensions, ..Change::default() }), Rule::Permission);
    assert!(reason.contains("super admin"), "{reason}");
}

#[test]
fn sequence_ids_only_rise() {
    let mut bench = Bench::new();
    bench.states = bench.states.with('b', 19, &[&bench.bob]);
    refused(bench.bob_sets(|context| member(context, 'b', 19)), Rule::SequenceId);
}

#[test]
fn an_update_that_does_not_exist_is_treated_as_the_reference_treats_it() {
    let mut bench = Bench::new();
    bench.states = bench.states.with('a', 12, &[&bench.alice]);
    // Nothing happened between 20 and 25: nothing changes. But whoever acts is looked up at exactly that id.
    assert!(bench.alice_sets(|context| member(context, 'b', 25)).is_ok());
    assert!(bench.alice_sets(|context| member(context, 'b', u64::MAX)).is_ok());
    refused(bench.bob_sets(|context| member(context, 'b', 25)), Rule::Credential);
    // Something happened at 12, and 13 is not the end of it.
    refused(bench.bob_sets(|context| member(context, 'a', 13)), Rule::Installations);
    // A new inbox must be there.
    for id in [0, 41, u64::MAX] {
        refused(bench.bob_sets(|context| member(context, 'd', id)), Rule::Installations);
    }
}

#[test]
fn missing_identity_updates_are_named_all_at_once() {
    let mut bench = Bench::new();
    let (dave, eve) = (Member::new('d', 4), Member::new('e', 5));
    bench.states = bench.states.with('d', 40, &[&dave]).with('e', 50, &[&eve]);
    let extensions = bench.changed(|context| {
        context.membership.members.insert(inbox('d'), 40);
        context.membership.members.insert(inbox('e'), 50);
    });
    let adds = vec![dave.key_package(), eve.key_package()];
    let commit = bench.bob.commit(Change { adds, extensions: Some(extensions), ..Change::default() });
    let known = bench.states.clone();
    bench.states.unknown = BTreeSet::from([inbox('b'), inbox('d'), inbox('e')]);
    // The messages are opened once each: the verdict is asked for twice.
    let group = bench.carol.group.as_mut().unwrap();
    let message = mls::read(&commit).try_into_protocol_message().unwrap();
    let processed = group.process_message(&bench.carol.provider, message).unwrap();
    let sender = processed.sender().clone();
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else { panic!() };
    let missing = vec![(inbox('b'), B), (inbox('d'), 40), (inbox('e'), 50)];
    let verdict = validate_commit(bench.carol.group(), &staged, &sender, &bench.states);
    assert_eq!(verdict, Err(Refusal::MissingIdentity(missing)));
    bench.states.unknown.clear();
    bench.states.invalid.insert(inbox('e'));
    refused(validate_commit(bench.carol.group(), &staged, &sender, &bench.states), Rule::Installations);
    assert!(validate_commit(bench.carol.group(), &staged, &sender, &known).is_ok());
}

#[test]
fn what_is_forbidden_is_refused_before_anything_is_fetched() {
    let mut bench = Bench::new();
    bench.states.unknown = ['a', 'b', 'c'].map(inbox).into();
    refused(bench.bob_sets(|context| context.mutable_metadata.super_admins.push(inbox('b'))), Rule::Permission);
}

#[test]
fn whoever_acts_must_be_an_installation_of_its_inbox() {
    let mut bench = Bench::new();
    let states = bench.states.clone().with('b', B, &[]);
    let commit = bench.bob.commit(Change::default());
    refused(bench.carol.judge(&commit, &states).0, Rule::Credential);
    // Nor can a leaf take another name.
    for credential in [credential(&inbox('a')), credential(&inbox('d')), credential("b"), credential(&inbox('B'))] {
        refused(bench.bob_does(Change { own_credential: Some(credential), ..Change::default() }), Rule::Credential);
    }
}

#[test]
fn pre_shared_keys_are_refused() {
    let mut bench = Bench::new();
    let psk = Psk::External(ExternalPsk::new(b"key".to_vec()));
    let id = PreSharedKeyId::new(mls::SUITE, bench.bob.provider.rand(), psk).unwrap();
    for member in [&bench.bob, &bench.carol] {
        id.store(&member.provider, b"secret").unwrap();
    }
    let proposals = vec![Proposal::PreSharedKey(Box::new(PreSharedKeyProposal::new(id)))];
    refused(bench.bob_does(Change { proposals, ..Change::default() }), Rule::Psk);
}

#[test]
fn proposals_of_another_member_are_refused() {
    let mut bench = Bench::new();
    let carol_leaf = bench.alice.leaf_of(&bench.carol);
    let alice = bench.alice.group.as_mut().unwrap();
    let (proposal, _) = alice.propose_remove_member(&bench.alice.provider, &bench.alice.key, carol_leaf).unwrap();
    for member in [&mut bench.bob, &mut bench.carol] {
        let message = mls::read(&proposal).try_into_protocol_message().unwrap();
        let group = member.group.as_mut().unwrap();
        let processed = group.process_message(&member.provider, message).unwrap();
        let ProcessedMessageContent::ProposalMessage(queued) = processed.into_content() else { panic!() };
        group.store_pending_proposal(member.provider.storage(), *queued).unwrap();
    }
    refused(bench.bob_does(Change::default()), Rule::Actor);
}

#[test]
fn outsiders_are_refused() {
    let mut bench = Bench::new();
    let commit = bench.bob.commit(Change::default());
    let (_, staged) = bench.carol.judge(&commit, &bench.states);
    for sender in [Sender::NewMemberCommit, Sender::NewMemberProposal, Sender::Member(LeafNodeIndex::new(77))] {
        refused(validate_commit(bench.carol.group(), &staged, &sender, &bench.states), Rule::Actor);
    }
}

#[test]
fn a_super_admin_may_take_installations_out_and_put_them_back() {
    let mut bench = Bench::new();
    let bob_again = Member::new('b', 2);
    let removals = vec![bench.alice.leaf_of(&bench.bob)];
    let change = |bench: &Bench| Change {
        adds: vec![bob_again.key_package()],
        removals: vec![bench.carol.leaf_of(&bench.bob)],
        ..Change::default()
    };
    let changes = bench.alice_does(change(&bench)).unwrap();
    assert_eq!(changes.readded_installations, ids([&bob_again]));
    assert!(changes.removed_inboxes.is_empty());
    // One whose package is bad is taken out all the same.
    let extensions = Some(bench.changed(|context| {
        context.membership.failed_installations.insert(bob_again.id());
    }));
    let changes = bench.alice_does(Change { removals, extensions, ..Change::default() }).unwrap();
    assert_eq!(changes.readded_installations, ids([&bob_again]));

    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata =
        MutableMetadata { admins: vec![inbox('a')], super_admins: vec![inbox('c')], ..Default::default() };
    let mut bench = Bench::with(context);
    let change = change(&bench);
    refused(bench.alice_does(change), Rule::Installations);
}

#[test]
fn odd_removals_are_judged_as_the_reference_judges_them() {
    // Taken out for good and not put back: the failed list cannot excuse it at the same time.
    let mut bench = Bench::new();
    let removals = vec![bench.alice.leaf_of(&bench.bob)];
    let extensions = Some(bench.changed(|context| {
        leave(context, 'b');
        context.membership.failed_installations.insert(bench.bob.id());
    }));
    refused(bench.alice_does(Change { removals, extensions, ..Change::default() }), Rule::Installations);

    // Revoked, taken out, and put back by a plain member: it was a member, so it may come.
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata.super_admins = vec![inbox('c')];
    let mut bench = Bench::with(context);
    bench.states = bench.states.with('b', 21, &[]);
    let adds = vec![Member::new('b', 2).key_package()];
    let removals = vec![bench.alice.leaf_of(&bench.bob)];
    let extensions = Some(bench.changed(|context| member(context, 'b', 21)));
    assert!(bench.alice_does(Change { adds, removals, extensions, ..Change::default() }).is_ok());
}

fn set(field: &str, value: &str) -> impl FnOnce(&mut GroupExtensions) + use<> {
    let (field, value) = (field.to_owned(), value.to_owned());
    move |context| drop(context.mutable_metadata.attributes.insert(field, value))
}

#[test]
fn metadata_follows_the_policies() {
    // What a plain member, an admin and a super admin may change, under three policies.
    let nothing = Permissions { update_metadata: BTreeMap::new(), ..Permissions::all_members() };
    let admins = Permissions {
        update_metadata: Permissions::all_members()
            .update_metadata
            .into_keys()
            .map(|name| (name, Policy::Base(MemberRight::Admins)))
            .collect(),
        ..Permissions::all_members()
    };
    for (permissions, field, [plain, admin, super_admin]) in [
        (Permissions::all_members(), "group_name", [true, true, true]),
        (Permissions::all_members(), "message_disappear_in_ns", [false, true, true]),
        (Permissions::all_members(), "minimum_supported_protocol_version", [false, false, true]),
        (Permissions::all_members(), "a_later_field", [false, true, true]),
        (Permissions::all_members(), "_commit_log_signer", [false, false, true]),
        (admins.clone(), "group_name", [false, true, true]),
        (nothing, "group_name", [false, true, true]),
        (Permissions::dm(), "minimum_supported_protocol_version", [true, true, true]),
    ] {
        for (rank, allowed) in [plain, admin, super_admin].into_iter().enumerate() {
            let mut context = context(&[('a', A), ('b', B), ('c', C)]);
            context.permissions = permissions.clone();
            context.mutable_metadata.admins.extend((rank == 1).then(|| inbox('b')));
            context.mutable_metadata.super_admins.extend((rank == 2).then(|| inbox('b')));
            let mut bench = Bench::with(context);
            let verdict = bench.bob_sets(set(field, "1.9.0"));
            if allowed {
                let change = FieldChange { field: field.into(), old: None, new: Some("1.9.0".into()) };
                assert_eq!(verdict.unwrap().field_changes, [change], "{field} {rank}");
            } else {
                refused(verdict, Rule::Permission);
            }
        }
    }
}

#[test]
fn combined_policies_are_evaluated() {
    let admins = || Policy::Base(MemberRight::Admins);
    let everybody = || Policy::Base(MemberRight::Everybody);
    for (policy, allowed) in [
        (Policy::All(vec![everybody(), admins()]), false),
        (Policy::Any(vec![admins(), everybody()]), true),
        (Policy::All(vec![Policy::Any(vec![everybody()]), everybody()]), true),
        (Policy::Base(MemberRight::Nobody), false),
    ] {
        let mut context = context(&[('a', A), ('b', B), ('c', C)]);
        context.permissions.update_metadata.insert("group_name".into(), policy);
        let mut bench = Bench::with(context);
        assert_eq!(bench.bob_sets(set("group_name", "x")).is_ok(), allowed);
    }
}

#[test]
fn texts_have_limits_in_bytes() {
    let mut bench = Bench::new();
    for (field, limit) in
        [("group_name", 100), ("description", 1000), ("group_image_url_square", 2048), ("app_data", 8192)]
    {
        assert!(bench.bob_sets(set(field, &"x".repeat(limit))).is_ok());
        refused(bench.bob_sets(set(field, &"x".repeat(limit + 1))), Rule::TextLimit);
        refused(bench.bob_sets(set(field, &"ä".repeat(limit / 2 + 1))), Rule::TextLimit);
    }
    assert!(bench.alice_sets(set("another", &"x".repeat(100_000))).is_ok());
}

#[test]
fn ranks_are_given_by_super_admins() {
    let mut bench = Bench::new();
    let (b, c) = (inbox('b'), inbox('c'));
    refused(bench.bob_sets(|context| context.mutable_metadata.admins.push(inbox('b'))), Rule::Permission);
    refused(bench.bob_sets(|context| context.mutable_metadata.super_admins.push(inbox('b'))), Rule::Permission);
    refused(bench.bob_sets(|context| context.mutable_metadata.super_admins.clear()), Rule::Permission);
    // Not even a super admin leaves the group without one.
    refused(bench.alice_sets(|context| context.mutable_metadata.super_admins.clear()), Rule::Permission);
    let changes = bench
        .alice_sets(|context| {
            context.mutable_metadata.admins.extend([inbox('c'), inbox('b')]);
            context.mutable_metadata.super_admins = vec![inbox('b')];
        })
        .unwrap();
    assert_eq!(changes.admins_added, [c.clone(), b.clone()]);
    assert_eq!(changes.super_admins_added, [b]);
    assert_eq!(changes.super_admins_removed, [inbox('a')]);

    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata.admins.push(inbox('b'));
    context.permissions.add_admin = Policy::Base(RankRight::Admins);
    let mut bench = Bench::with(context);
    assert!(bench.bob_sets(|context| context.mutable_metadata.admins.push(inbox('c'))).is_ok());
    refused(bench.bob_sets(|context| context.mutable_metadata.admins.clear()), Rule::Permission);
    refused(bench.bob_sets(|context| context.mutable_metadata.super_admins.push(c)), Rule::Permission);
}

#[test]
fn permissions_are_changed_by_super_admins_only() {
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata.admins.push(inbox('b'));
    context.permissions.update_permissions = Policy::Base(RankRight::Admins);
    let mut bench = Bench::with(context);
    let close = |context: &mut GroupExtensions| context.permissions.add_member = Policy::Base(MemberRight::Admins);
    refused(bench.bob_sets(close), Rule::Permission);
    assert!(bench.alice_sets(close).unwrap().permissions_changed);
}

#[test]
fn adding_follows_the_policy() {
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.permissions.add_member = Policy::Base(MemberRight::Admins);
    let mut bench = Bench::with(context);
    let dave = Member::new('d', 4);
    bench.states = bench.states.with('d', 40, &[&dave]);
    let add = |bench: &Bench| Change {
        adds: vec![dave.key_package()],
        extensions: Some(bench.changed(|context| member(context, 'd', 40))),
        ..Change::default()
    };
    let change = add(&bench);
    refused(bench.bob_does(change), Rule::Permission);
    let change = add(&bench);
    assert!(bench.alice_does(change).is_ok());
}

#[test]
fn the_partner_of_a_dm_may_be_added_whatever_the_policy() {
    let dm = |one, two| {
        let mut context = context(&[('a', A), ('b', B), ('c', C)]);
        context.metadata.conversation_type = extensions::ConversationType::Dm;
        context.metadata.dm_members = Some([inbox(one), inbox(two)]);
        context.mutable_metadata.super_admins.clear();
        context.permissions = Permissions::dm();
        context
    };
    for (one, two, allowed) in [('b', 'd', true), ('d', 'b', true), ('a', 'd', true), ('a', 'b', false)] {
        let mut bench = Bench::with(dm(one, two));
        let dave = Member::new('d', 4);
        bench.states = bench.states.with('d', 40, &[&dave]);
        let change = Change {
            adds: vec![dave.key_package()],
            extensions: Some(bench.changed(|context| member(context, 'd', 40))),
            ..Change::default()
        };
        let verdict = bench.bob_does(change);
        assert_eq!(verdict.is_ok(), allowed, "{one} {two}");
        assert!(bench.bob_sets(set("group_name", "x")).is_ok());
    }
    // But not oneself.
    let mut context = dm('b', 'd');
    leave(&mut context, 'b');
    refused(Bench::with(context).bob_sets(|context| member(context, 'b', B)), Rule::Permission);
}

#[test]
fn a_minimum_version_pauses_the_group() {
    let mut bench = Bench::new();
    let version = |minimum: &str| set("minimum_supported_protocol_version", minimum);
    let changes = bench.alice_sets(version("1.10.0")).unwrap();
    assert_eq!(changes.minimum_version.as_deref(), Some("1.10.0"));
    assert_eq!(bench.alice_sets(version("1.11.0-dev")), Err(Refusal::Paused { minimum: "1.11.0-dev".into() }));
    refused(bench.alice_sets(version("soon")), Rule::Version);
    refused(bench.bob_sets(version("1.11.0")), Rule::Permission);

    // And it stays paused: any later commit says so, and an own one makes a message even if it changes nothing.
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    version("2.0.0")(&mut context);
    assert_eq!(paused_by(&context.mutable_metadata), Some("2.0.0"));
    let mut bench = Bench::with(context.clone());
    assert_eq!(bench.bob_does(Change::default()), Err(Refusal::Paused { minimum: "2.0.0".into() }));
    version("1.0.0")(&mut context);
    assert_eq!(paused_by(&context.mutable_metadata), None);
    let changes = Bench::with(context.clone()).bob_does(Change::default()).unwrap();
    assert!(group_updated::of_commit(&changes, &BTreeSet::new()).is_some());
    version("no version")(&mut context);
    assert_eq!(paused_by(&context.mutable_metadata), None);
    refused(Bench::with(context).bob_does(Change::default()), Rule::Version);
}

// --- the context ------------------------------------------------------------------------------------------------------

fn without(extensions: &Extensions<GroupContext>, number: u16) -> Extensions<GroupContext> {
    let mut extensions = extensions.clone();
    extensions.remove(ExtensionType::Unknown(number)).unwrap();
    extensions
}

fn with(extensions: &Extensions<GroupContext>, number: u16, data: &[u8]) -> Extensions<GroupContext> {
    let mut extensions = extensions.clone();
    extensions.add_or_replace(Extension::Unknown(number, UnknownExtension(data.to_vec()))).unwrap();
    extensions
}

#[test]
fn a_migrated_group_is_unsupported() {
    let usual = context(&[('a', A)]).to_extensions().unwrap();
    let unsupported = |extensions: &Extensions<GroupContext>| match GroupExtensions::parse(extensions) {
        Err(Error::Unsupported(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(unsupported(&without(&usual, 0xff01)), Unsupported::NoMembership);
    assert_eq!(unsupported(&with(&usual, 6, b"")), Unsupported::Dictionary);
    assert_eq!(unsupported(&Extensions::empty()), Unsupported::NoMembership);
    for required in [
        RequiredCapabilitiesExtension::new(&[ExtensionType::Unknown(6)], &[], &[]),
        RequiredCapabilitiesExtension::new(&[], &[ProposalType::Custom(8)], &[]),
    ] {
        let mut extensions = usual.clone();
        extensions.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
        assert_eq!(unsupported(&extensions), Unsupported::RequiredCapabilities);
    }
    for (number, missing) in [(0xf000, "immutable metadata"), (0xff00, "mutable metadata"), (0xff02, "permissions")] {
        assert_eq!(GroupExtensions::parse(&without(&usual, number)), Err(Error::Missing(missing)));
    }
}

#[test]
fn a_migration_is_the_super_admins_to_make() {
    let members = || {
        [('a', 1), ('b', 2), ('c', 3)].map(|(letter, seed)| {
            let mut member = Member::new(letter, seed);
            member.capabilities = capabilities(&[6]);
            member
        })
    };
    let migrated = |bench: &Bench| {
        let mut extensions = without(&bench.changed(|_| {}), 0xff00);
        let required = extensions::required_capabilities();
        let mut kinds = required.extension_types().to_vec();
        kinds.push(ExtensionType::Unknown(6));
        let required =
            RequiredCapabilitiesExtension::new(&kinds, required.proposal_types(), required.credential_types());
        extensions.add_or_replace(Extension::RequiredCapabilities(required)).unwrap();
        Some(with(&extensions, 6, b"dictionary"))
    };
    let mut bench = Bench::with_members(context(&[('a', A), ('b', B), ('c', C)]), members());
    let change = Change { extensions: migrated(&bench), ..Change::default() };
    assert_eq!(bench.alice_does(change), Err(Refusal::Unsupported(Unsupported::Dictionary)));
    let change = Change { extensions: migrated(&bench), ..Change::default() };
    refused(bench.bob_does(change), Rule::Extensions);
}

#[test]
fn a_commit_must_leave_a_readable_context() {
    let mut bench = Bench::new();
    let usual = bench.changed(|_| {});
    let mut context = |extensions: Extensions<GroupContext>| {
        bench.alice_does(Change { extensions: Some(extensions), ..Change::default() })
    };
    assert!(context(usual.clone()).is_ok());
    refused(context(without(&usual, 0xff00)), Rule::Extensions);
    refused(context(without(&usual, 0xff02)), Rule::Extensions);
    refused(context(with(&usual, 0xff00, b"")), Rule::Extensions);
    refused(context(with(&usual, 0xff01, b"\xff")), Rule::Extensions);
    refused(context(with(&usual, 0xff02, b"")), Rule::Extensions);
    // The reference's library reads a vector here, and nobody looks into it.
    refused(context(with(&usual, 0xf000, b"")), Rule::Extensions);
    refused(context(with(&usual, 0xf000, b"\x02a")), Rule::Extensions);
    refused(context(with(&usual, 0xf000, b"\x01ab")), Rule::Extensions);
    refused(context(with(&usual, 0xf000, b"\x40\x01a")), Rule::Extensions);
    refused(context(with(&usual, 0xf000, b"\xc0\0\0\0\0\0\0\x01a")), Rule::Extensions);
    assert!(context(with(&usual, 0xf000, b"\x01a")).unwrap().metadata_replaced);
    assert!(context(without(&usual, 0xf000)).unwrap().metadata_replaced);
}

#[test]
fn a_replaced_membership_comes_last() {
    let usual = context(&[('a', A)]).to_extensions().unwrap();
    let numbers = |extensions: &Extensions<GroupContext>| -> Vec<u16> {
        extensions.iter().map(|extension| extension.extension_type().into()).collect()
    };
    assert_eq!(numbers(&usual), [0xf000, 0xff00, 0xff01, 0xff02, 3]);
    let membership = Membership { members: BTreeMap::from([(inbox('a'), 11)]), ..Membership::default() };
    let replaced = membership.replace_in(&usual).unwrap();
    assert_eq!(numbers(&replaced), [0xf000, 0xff00, 0xff02, 3, 0xff01]);
    assert_eq!(GroupExtensions::parse(&replaced).unwrap().membership, membership);
}

#[test]
fn credentials_are_read_strictly() {
    let good = inbox('0');
    assert_eq!(leaf_inbox_id(&credential(&good)).as_deref(), Ok(good.as_str()));
    for bad in ["", "0", &inbox('A'), &inbox('g'), &format!("{good}0")] {
        assert!(leaf_inbox_id(&credential(bad)).is_err(), "{bad}");
    }
    assert!(leaf_inbox_id(&BasicCredential::new(b"\xff".to_vec()).into()).is_err());
    assert!(leaf_inbox_id(&Credential::new(CredentialType::X509, good.into_bytes())).is_err());
}

// --- joining ----------------------------------------------------------------------------------------------------------

#[test]
fn a_joined_tree_holds_what_the_membership_says() {
    let bench = Bench::new();
    let members = || bench.carol.group().members();
    let membership = bench.carol.extensions().membership;
    let judge = |membership: &Membership, states: &States| validate_membership(members(), membership, states);
    assert_eq!(judge(&membership, &bench.states), Ok(()));
    let invalid =
        |verdict| assert!(matches!(verdict, Err(Refusal::Invalid { rule: Rule::Membership, .. })), "{verdict:?}");
    for id in [0, 9, 11, u64::MAX] {
        let mut wrong = membership.clone();
        wrong.members.insert(inbox('a'), id);
        invalid(judge(&wrong, &bench.states));
    }
    let mut fewer = membership.clone();
    fewer.members.remove(&inbox('b'));
    invalid(judge(&fewer, &bench.states));
    let other = Member::new('b', 9);
    invalid(judge(&membership, &bench.states.clone().with('b', B, &[&other])));
    invalid(judge(&membership, &bench.states.clone().with('b', B, &[&bench.bob, &other])));
    let twice = members().chain(members());
    invalid(validate_membership(twice, &membership, &bench.states));
    let unknown = States { unknown: [inbox('a'), inbox('c')].into(), ..bench.states.clone() };
    assert_eq!(judge(&membership, &unknown), Err(Refusal::MissingIdentity(vec![(inbox('a'), A), (inbox('c'), C)])));
}

#[test]
fn a_dm_is_between_us_and_whoever_added_us() {
    let mut dm = context(&[('a', A), ('b', B)]);
    dm.metadata.conversation_type = extensions::ConversationType::Dm;
    dm.metadata.dm_members = Some([inbox('a'), inbox('b')]);
    dm.mutable_metadata.super_admins.clear();
    dm.permissions = Permissions::dm();
    let (a, b, c) = (inbox('a'), inbox('b'), inbox('c'));
    for (own, adder, accepted) in
        [(&a, &b, true), (&b, &a, true), (&a, &a, true), (&c, &c, false), (&a, &c, false), (&c, &a, false)]
    {
        assert_eq!(check_dm(own, adder, &dm).is_ok(), accepted);
    }
    let check = |change: fn(&mut GroupExtensions)| {
        let mut dm = dm.clone();
        change(&mut dm);
        check_dm(&inbox('a'), &inbox('b'), &dm)
    };
    assert!(check(|dm| dm.metadata.dm_members = None).is_err());
    assert!(check(|dm| dm.metadata.conversation_type = extensions::ConversationType::Group).is_err());
    assert!(check(|dm| dm.mutable_metadata.admins.push(inbox('b'))).is_err());
    assert!(check(|dm| dm.mutable_metadata.super_admins.push(inbox('b'))).is_err());
    assert!(check(|dm| dm.permissions = Permissions::all_members()).is_err());
    assert!(check(|dm| dm.permissions.add_member = Policy::Base(MemberRight::Everybody)).is_ok());
}

// --- sync groups ------------------------------------------------------------------------------------------------------

/// Three installations of one inbox in its sync group.
fn sync_bench() -> Bench {
    let mut context = GroupExtensions::sync_group(&inbox('a'), Some([7; 32]));
    context.membership.members.insert(inbox('a'), A);
    let mut bench = Bench::with_members(context, [Member::new('a', 1), Member::new('a', 2), Member::new('a', 3)]);
    bench.states = States::default().with('a', A, &[&bench.alice, &bench.bob, &bench.carol]);
    bench
}

#[test]
fn a_sync_group_is_ours_alone() {
    let bench = sync_bench();
    let (own, other) = (inbox('a'), inbox('b'));
    let members = || bench.carol.group().members();
    let context = bench.carol.extensions();
    assert_eq!(check_sync_group(&own, Some(&own), members(), &context), Ok(()));
    assert_eq!(check_sync_group(&own, None, members(), &context), Ok(()));
    assert_eq!(check_sync_group(&own, Some(&other), members(), &context), Err(SyncGroupBreach::Adder));
    assert_eq!(check_sync_group(&other, Some(&other), members(), &context), Err(SyncGroupBreach::Creator));
    let foreign = Bench::new();
    let check = |change: fn(&mut GroupExtensions)| {
        let mut context = context.clone();
        change(&mut context);
        check_sync_group(&inbox('a'), None, members(), &context).unwrap_err()
    };
    assert_eq!(check_sync_group(&own, None, foreign.carol.group().members(), &context), Err(SyncGroupBreach::Leaf));
    assert_eq!(
        check(|context| context.metadata.conversation_type = extensions::ConversationType::Group),
        SyncGroupBreach::Type
    );
    assert_eq!(check(|context| member(context, 'b', 1)), SyncGroupBreach::Membership);
    assert_eq!(check(|context| context.mutable_metadata.admins.push(inbox('a'))), SyncGroupBreach::Admins);
    assert_eq!(check(|context| context.mutable_metadata.super_admins.clear()), SyncGroupBreach::Admins);
    assert_eq!(check(|context| context.mutable_metadata.super_admins.push(inbox('b'))), SyncGroupBreach::Admins);
    assert_eq!(
        check(|context| context.permissions.remove_member = Policy::Base(MemberRight::Everybody)),
        SyncGroupBreach::Permissions
    );
    assert_eq!(
        check(|context| {
            let policy = Policy::Base(MemberRight::Everybody);
            context.permissions.update_metadata.insert("minimum_supported_protocol_version".into(), policy);
        }),
        SyncGroupBreach::Permissions
    );
    // Another version knows other fields.
    let mut later = context.clone();
    later.permissions.update_metadata.remove("app_data");
    later.permissions.update_metadata.insert("later".into(), Policy::Base(MemberRight::Everybody));
    assert_eq!(check_sync_group(&own, None, members(), &later), Ok(()));
}

#[test]
fn a_sync_group_that_changes_hands_is_given_up() {
    let mut bench = sync_bench();
    let judge = |changes: Result<CommitChanges, Refusal>| check_sync_commit(&inbox('a'), &changes.unwrap());
    assert_eq!(judge(bench.bob_does(Change::default())), Ok(()));
    assert_eq!(judge(bench.bob_sets(set("group_name", "x"))), Ok(()));
    // Our own next installation.
    let fourth = Member::new('a', 4);
    bench.states = bench.states.with('a', 11, &[&bench.alice, &bench.bob, &bench.carol, &fourth]);
    let extensions = Some(bench.changed(|context| member(context, 'a', 11)));
    let adds = vec![fourth.key_package()];
    assert_eq!(judge(bench.bob_does(Change { adds, extensions, ..Change::default() })), Ok(()));
    let dave = Member::new('d', 4);
    bench.states = bench.states.with('d', 40, &[&dave]);
    let extensions = Some(bench.changed(|context| member(context, 'd', 40)));
    let adds = vec![dave.key_package()];
    assert!(judge(bench.bob_does(Change { adds, extensions, ..Change::default() })).is_err());
    assert_eq!(judge(bench.bob_sets(|context| member(context, 'd', 40))), Err(SyncGroupBreach::Membership));
    assert_eq!(
        judge(bench.bob_sets(|context| context.mutable_metadata.admins.push(inbox('d')))),
        Err(SyncGroupBreach::Admins)
    );
    assert_eq!(
        judge(bench.bob_sets(|context| context.permissions.add_member = Policy::Base(MemberRight::Admins))),
        Err(SyncGroupBreach::Permissions)
    );
    assert_eq!(
        judge(bench.bob_sets(|context| context.metadata.creator_inbox_id = inbox('d'))),
        Err(SyncGroupBreach::Metadata)
    );
}

// --- messages about commits -------------------------------------------------------------------------------------------

fn update(content: &[u8]) -> proto::GroupUpdated {
    let encoded = proto::EncodedContent::decode(content).unwrap();
    let kind = encoded.r#type.unwrap();
    assert_eq!((kind.authority_id.as_str(), kind.type_id.as_str()), ("xmtp.org", "group_updated"));
    assert_eq!((kind.version_major, kind.version_minor), (1, 0));
    assert!(encoded.parameters.is_empty() && encoded.fallback.is_none() && encoded.compression.is_none());
    proto::GroupUpdated::decode(encoded.content.as_slice()).unwrap()
}

#[test]
fn a_commit_is_told_as_a_message() {
    let mut context = context(&[('a', A), ('b', B), ('c', C)]);
    context.mutable_metadata.attributes.insert("description".into(), "old".into());
    let mut bench = Bench::with(context);
    let removals = vec![bench.alice.leaf_of(&bench.bob)];
    let extensions = Some(bench.changed(|context| {
        context.membership.members.remove(&inbox('b'));
        context.mutable_metadata.attributes = BTreeMap::from([("group_name".into(), "new".into())]);
        context.mutable_metadata.admins.push(inbox('c'));
    }));
    let changes = bench.alice_does(Change { removals, extensions, ..Change::default() }).unwrap();
    let message = update(&group_updated::of_commit(&changes, &BTreeSet::new()).unwrap());
    let one = |letter| vec![proto::Inbox { inbox_id: inbox(letter) }];
    let field = |name: &str, old: Option<&str>, new: Option<&str>| proto::group_updated::MetadataFieldChange {
        field_name: name.into(),
        old_value: old.map(Into::into),
        new_value: new.map(Into::into),
    };
    let expected = proto::GroupUpdated {
        initiated_by_inbox_id: inbox('a'),
        removed_inboxes: one('b'),
        metadata_field_changes: vec![field("description", Some("old"), None), field("group_name", None, Some("new"))],
        added_admin_inboxes: one('c'),
        ..Default::default()
    };
    assert_eq!(message, expected);
    // Bob had asked to leave.
    let message = update(&group_updated::of_commit(&changes, &BTreeSet::from([inbox('b')])).unwrap());
    assert_eq!(message, proto::GroupUpdated { removed_inboxes: vec![], left_inboxes: one('b'), ..expected });
}

#[test]
fn joining_is_told_as_a_message() {
    let content = group_updated::of_joining(&inbox('b'), &inbox('a'));
    let mut expected = hex::decode("0a1b0a08786d74702e6f7267120d67726f75705f75706461746564180122").unwrap();
    expected.extend([0x86, 0x01, 0x0a, 0x40]);
    expected.extend(inbox('a').bytes());
    expected.extend([0x12, 0x42, 0x0a, 0x40]);
    expected.extend(inbox('b').bytes());
    assert_eq!(content, expected);
    assert_eq!(group_updated::commit_idempotency_key(1_795_386_333_388_066_385), "1795386333388066385");
    assert_eq!(
        group_updated::joined_idempotency_key(1_795_386_333_388_066_000),
        "2026-11-22 22:25:33.388066 UTC_welcome_added"
    );
}

// --- what a real client wrote -----------------------------------------------------------------------------------------

fn vector(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/data/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn group_context(value: &serde_json::Value) -> GroupContext {
    use openmls::prelude::tls_codec::DeserializeBytes as _;
    GroupContext::tls_deserialize_exact_bytes(&bytes(&value["group_context_tls"])).unwrap()
}

#[test]
fn our_sync_group_equals_a_real_clients() {
    for (name, key) in [("sync_group_joined", "group_context"), ("sync_group_created", "group_context_after")] {
        let vector = vector(name);
        let context = group_context(&vector[key]);
        let real = GroupExtensions::parse(context.extensions()).unwrap();
        let own = real.metadata.creator_inbox_id.clone();
        let signer = real
            .mutable_metadata
            .attributes
            .get("_commit_log_signer")
            .map(|seed| <[u8; 32]>::try_from(hex::decode(seed).unwrap()).unwrap());
        assert!(signer.is_some());
        let mut ours = GroupExtensions::sync_group(&own, signer);
        assert_eq!(ours.membership.members, BTreeMap::from([(own.clone(), 0)]));
        ours.membership = real.membership.clone();
        assert_eq!(ours, real);
        assert!(real.permissions.is_all_members());
        // Byte for byte, a map's order apart. (The other context was first written by a client that spells out empty values.)
        let written = real.membership.replace_in(&ours.to_extensions().unwrap()).unwrap();
        let numbers = |extensions: &Extensions<GroupContext>| -> Vec<u16> {
            extensions.iter().map(|extension| extension.extension_type().into()).collect()
        };
        assert_eq!(numbers(&written), numbers(context.extensions()));
        assert_eq!(written.required_capabilities(), context.extensions().required_capabilities());
        let required = written.required_capabilities().unwrap();
        use openmls::prelude::tls_codec::Serialize as _;
        assert_eq!(hex::encode(required.tls_serialize_detached().unwrap()), "0cff01ff00ff02f000000a0001020007020001");
        let numbers: &[u16] = if name == "sync_group_joined" { &[0xf000, 0xff00, 0xff01, 0xff02] } else { &[] };
        for &number in numbers {
            let (mut ours, mut theirs) =
                (written.unknown(number).unwrap().0.clone(), context.extensions().unknown(number).unwrap().0.clone());
            if matches!(number, 0xff00 | 0xff02) {
                ours.sort_unstable();
                theirs.sort_unstable();
            }
            assert_eq!(ours, theirs, "{number:x}");
        }
        let leaves = vector["tree"].as_array().unwrap();
        assert!(leaves.iter().all(|leaf| {
            let credential = BasicCredential::new(bytes(&leaf["credential_identity"])).into();
            leaf_inbox_id(&credential).as_deref() == Ok(own.as_str())
        }));
    }
}

#[test]
fn a_real_group_is_read() {
    let vector = vector("ordinary_group");
    let context = group_context(&vector["group_context"]);
    let group = GroupExtensions::parse(context.extensions()).unwrap();
    assert_eq!(group.metadata.conversation_type, extensions::ConversationType::Group);
    assert_eq!(group.mutable_metadata.super_admins.as_slice(), std::slice::from_ref(&group.metadata.creator_inbox_id));
    assert_eq!(group.membership.members.len(), 2);
    assert!(group.permissions.is_all_members());
    assert_eq!(paused_by(&group.mutable_metadata), None);
}

/// The array of bytes inside a serialised secret gives way to others.
fn replace_bytes(value: &mut serde_json::Value, bytes: &[u8]) {
    match value {
        serde_json::Value::Array(_) => *value = bytes.into(),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(|field| replace_bytes(field, bytes)),
        other => panic!("{other}"),
    }
}

#[test]
fn the_commits_of_a_real_client_are_accepted() {
    use openmls::prelude::tls_codec::DeserializeBytes as _;
    let vector = vector("ordinary_group");
    let ours = Member::new('0', 1);
    let provider = &ours.provider;
    let package = KeyPackageIn::tls_deserialize_exact_bytes(&bytes(&vector["keys"]["key_package"])).unwrap();
    let package = package.validate(provider.crypto(), ProtocolVersion::Mls10).unwrap();
    let own_id = package.leaf_node().signature_key().as_slice().to_vec();
    let own_inbox = leaf_inbox_id(package.leaf_node().credential()).unwrap();
    // The library lets nobody put a bundle together, but reads one.
    let other =
        KeyPackage::builder().build(mls::SUITE, provider, &ours.key, ours.with_key(credential(&own_inbox))).unwrap();
    let mut bundle = serde_json::to_value(&other).unwrap();
    bundle["key_package"] = serde_json::to_value(&package).unwrap();
    replace_bytes(&mut bundle["private_init_key"], &bytes(&vector["keys"]["init_private_key"]));
    replace_bytes(&mut bundle["private_encryption_key"], &bytes(&vector["keys"]["leaf_encryption_private_key"]));
    let bundle: KeyPackageBundle = serde_json::from_value(bundle).unwrap();
    provider.storage().write_key_package(&package.hash_ref(provider.crypto()).unwrap(), &bundle).unwrap();

    let welcome = MlsMessageIn::tls_deserialize_exact_bytes(&bytes(&vector["mls_message_welcome"])).unwrap();
    let MlsMessageBodyIn::Welcome(welcome) = welcome.extract() else { panic!("not a welcome") };
    let config = MlsGroupJoinConfig::builder().use_ratchet_tree_extension(true).max_past_epochs(3).build();
    let staged = StagedWelcome::build_from_welcome(provider, &config, welcome)
        .unwrap()
        .skip_lifetime_validation()
        .build()
        .unwrap();
    let adder = staged.welcome_sender().unwrap();
    let (peer_inbox, peer_id) = (leaf_inbox_id(adder.credential()).unwrap(), adder.signature_key().as_slice().to_vec());
    let added = |message: usize| bytes(&vector["messages"][message]["proposals"][0]["add_signature_key"]);
    let (second, third) = (added(1), added(3));
    let states = States {
        logs: BTreeMap::from([
            (peer_inbox.clone(), BTreeMap::from([(237, [peer_id.clone()].into())])),
            (
                own_inbox.clone(),
                BTreeMap::from([
                    (236, [own_id.clone()].into()),
                    (241, [own_id.clone(), second.clone()].into()),
                    (246, [own_id.clone(), third.clone()].into()),
                ]),
            ),
        ]),
        ..States::default()
    };
    let membership = GroupExtensions::parse(staged.group_context().extensions()).unwrap().membership;
    assert_eq!(validate_membership(staged.members(), &membership, &states), Ok(()));
    let mut group = staged.into_group(provider).unwrap();

    let mut commits = Vec::new();
    for message in vector["messages"].as_array().unwrap() {
        let read = MlsMessageIn::tls_deserialize_exact_bytes(&bytes(&message["data"])).unwrap();
        let processed = match group.process_message(provider, read.try_into_protocol_message().unwrap()) {
            // The library wants added key packages to be valid today (section 8): the rest is out of reach in 2027.
            Err(error) if format!("{error:?}").contains("Lifetime") => break,
            processed => processed.unwrap(),
        };
        let sender = processed.sender().clone();
        let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else { continue };
        let changes = validate_commit(&group, &staged, &sender, &states).unwrap();
        assert_eq!((&changes.actor_inbox_id, &changes.actor_installation_id), (&peer_inbox, &peer_id));
        assert!(!changes.permissions_changed && !changes.metadata_replaced && !changes.self_removed);
        assert!(changes.misnamed_installations.is_empty() && changes.readded_installations.is_empty());
        commits.push(changes);
        group.merge_staged_commit(provider, *staged).unwrap();
        assert_eq!(group.epoch_authenticator().as_slice(), bytes(&message["after"]["epoch_authenticator"]));
    }
    let one = |id: Vec<u8>| BTreeMap::from([(own_inbox.clone(), BTreeSet::from([id]))]);
    assert!(!commits.is_empty());
    for (commit, (added, removed, fields)) in commits.iter().zip([
        (one(second.clone()), BTreeMap::new(), 0),
        (one(third), one(second), 0),
        (BTreeMap::new(), BTreeMap::new(), 1),
    ]) {
        assert_eq!((&commit.added_installations, &commit.removed_installations), (&added, &removed));
        assert_eq!(commit.field_changes.len(), fields);
        assert_eq!(group_updated::of_commit(commit, &BTreeSet::new()).is_some(), fields == 1);
    }
}

// --- arbitrary bytes --------------------------------------------------------------------------------------------------

fn member_policy() -> impl Strategy<Value = Policy<MemberRight>> {
    let base = prop_oneof![
        Just(MemberRight::Everybody),
        Just(MemberRight::Nobody),
        Just(MemberRight::Admins),
        Just(MemberRight::SuperAdmins)
    ];
    nested(base.prop_map(Policy::Base))
}

fn rank_policy() -> impl Strategy<Value = Policy<RankRight>> {
    let base = prop_oneof![Just(RankRight::Nobody), Just(RankRight::Admins), Just(RankRight::SuperAdmins)];
    nested(base.prop_map(Policy::Base))
}

fn nested<R: Clone + std::fmt::Debug + 'static>(
    base: impl Strategy<Value = Policy<R>> + 'static,
) -> impl Strategy<Value = Policy<R>> {
    base.prop_recursive(4, 12, 3, |inner| {
        let list = prop::collection::vec(inner, 1..4);
        prop_oneof![list.clone().prop_map(Policy::All), list.prop_map(Policy::Any)]
    })
}

prop_compose! {
    fn any_extensions()(
        kind in 1..=4,
        creator in ".{0,20}",
        dm_members in prop::option::of([".{0,20}", ".{0,20}"]),
        oneshot_message in prop::option::of(prop::collection::vec(any::<u8>(), 0..20_000)),
        attributes in prop::collection::btree_map(".{0,20}", ".{0,200}", 0..5),
        admins in prop::collection::vec(".{0,10}", 0..4),
        super_admins in prop::collection::vec(".{0,10}", 0..4),
        members in prop::collection::btree_map(".{0,20}", any::<u64>(), 0..5),
        failed_installations in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..33), 0..4),
        (add_member, remove_member) in (member_policy(), member_policy()),
        update_metadata in prop::collection::btree_map(".{0,20}", member_policy(), 0..4),
        (add_admin, remove_admin, update_permissions) in (rank_policy(), rank_policy(), rank_policy()),
    ) -> GroupExtensions {
        use extensions::ConversationType::{Dm, Group, Oneshot, Sync};
        let conversation_type = *[Group, Dm, Sync, Oneshot].iter().find(|found| **found as i32 == kind).unwrap();
        GroupExtensions {
            metadata: Metadata { conversation_type, creator_inbox_id: creator, dm_members, oneshot_message },
            mutable_metadata: MutableMetadata { attributes, admins, super_admins },
            membership: Membership { members, failed_installations },
            permissions: Permissions {
                add_member, remove_member, update_metadata, add_admin, remove_admin, update_permissions,
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back(group in any_extensions()) {
        prop_assert_eq!(GroupExtensions::parse(&group.to_extensions().unwrap()), Ok(group));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..300), number in 0..4_usize) {
        let usual = context(&[('a', A)]).to_extensions().unwrap();
        let number = [0xf000, 0xff00, 0xff01, 0xff02][number];
        let _ = GroupExtensions::parse(&with(&usual, number, &data));
        let _ = leaf_inbox_id(&BasicCredential::new(data.clone()).into());
        let _ = leaf_inbox_id(&Credential::new(CredentialType::from(u16::from(data.len() as u8)), data));
    }

    #[test]
    fn damaged_extensions_are_read_without_a_panic(
        group in any_extensions(), at in any::<prop::sample::Index>(), byte in any::<u8>(), number in 0..4_usize
    ) {
        let usual = group.to_extensions().unwrap();
        let number = [0xf000, 0xff00, 0xff01, 0xff02][number];
        let mut data = usual.unknown(number).unwrap().0.clone();
        if !data.is_empty() {
            *at.get_mut(&mut data) = byte;
        }
        let _ = GroupExtensions::parse(&with(&usual, number, &data));
    }
}

#[test]
fn deeply_nested_policies_are_refused() {
    let field = |tag: u8, inner: &[u8]| {
        let mut bytes = vec![tag];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend_from_slice(inner);
        bytes
    };
    let nested = |depth: usize| {
        let mut policy = vec![0x08, 0x01];
        for _ in 0..depth {
            policy = field(0x1a, &field(0x0a, &policy));
        }
        // A repeated field adds to the first: the usual policies, whose first one becomes this.
        let mut data = Permissions::all_members().write();
        data.extend(field(0x0a, &field(0x0a, &policy)));
        Permissions::parse(&data)
    };
    let depth = |mut policy: &Policy<MemberRight>| {
        let mut depth = 0;
        while let Policy::Any(list) = policy {
            policy = &list[0];
            depth += 1;
        }
        depth
    };
    // The decoder goes 100 messages deep: the permissions, their policies, and two for each step.
    assert_eq!(depth(&nested(48).unwrap().add_member), 48);
    for too_deep in [50, 60, 5_000] {
        assert!(nested(too_deep).is_err(), "{too_deep}");
    }
}
