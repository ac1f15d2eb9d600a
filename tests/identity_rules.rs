//! Every rule by which identity logs are judged has cases that it lets through and cases that it stops (identity
//! specification, section 1.5).

mod identity_support;

use identity_support::{
    Act, CHAIN, Key, SECOND, accepted, add, address, assertion, change, create, entries, fold, log, personal, refused,
    revoke, rule_of_last, sign, signed_assertion, update, wallet,
};
use xmtp_history::identity::{
    AssociationState, ContractSignature, ContractVerdicts, Error, Identifier, Member, Rule, SignatureKind, Signer,
    UpdateDraft, WalletSignature, installation_id, personal_message_hash, signature_text, verify,
};
use xmtp_history::wire::proto::identity::api::v1::verify_smart_contract_wallet_signatures_response::ValidationResponse;
use xmtp_history::wire::proto::identity::associations::{
    IdentityAction, IdentityUpdate, MemberIdentifier, RecoverableEcdsaSignature, RecoverableEd25519Signature,
    RecoverablePasskeySignature, Signature, SmartContractWalletSignature, identity_action, member_identifier,
    signature,
};

const OWNER: Key = Key::Wallet(1);
const OTHER: Key = Key::Wallet(2);
const STRANGER: Key = Key::Wallet(3);
const PHONE: Key = Key::Installation(1);
const LAPTOP: Key = Key::Installation(2);
const PASSKEY: Key = Key::Passkey(1);
const CONTRACT: Key = Key::Contract(1, CHAIN);

fn members(state: &AssociationState) -> Vec<Member> {
    state.members().map(|(member, _)| member.clone()).collect()
}

fn sorted(keys: &[Key]) -> Vec<Member> {
    let mut members: Vec<Member> = keys.iter().map(|key| key.member()).collect();
    members.sort();
    members
}

fn kind_of(update: &mut IdentityUpdate, index: usize) -> &mut identity_action::Kind {
    update.actions[index].kind.as_mut().unwrap()
}

/// The rule that a second update breaks, after one that creates the owner's inbox.
fn rule_of_second(second: IdentityUpdate) -> Rule {
    let first = update(&OWNER.inbox(0), SECOND, &[create(OWNER)]);
    rule_of_last(&OWNER.inbox(0), &entries([first, second]))
}

// Rule 1: creation

#[test]
fn an_inbox_begins_with_its_creation() {
    let state = accepted(OWNER, &[vec![create(OWNER)]]);
    assert_eq!(members(&state), [OWNER.member()]);
    assert_eq!(state.recovery(), &OWNER.identifier());
    assert_eq!(state.last_sequence_id(), 1);
    let record = state.member(&OWNER.member()).unwrap();
    assert_eq!((&record.added_by, record.client_timestamp_ns, record.chain_id), (&None, None, None));
    for owner in [PASSKEY, CONTRACT, Key::Legacy(1)] {
        assert_eq!(members(&accepted(owner, &[vec![create(owner)]])), [owner.member()]);
    }

    assert_eq!(refused(OWNER, &[vec![add(PHONE, OWNER)]]), Rule::NotCreated);
    assert_eq!(refused(OWNER, &[vec![revoke(PHONE, OWNER)]]), Rule::NotCreated);
    assert_eq!(refused(OWNER, &[vec![add(PHONE, OWNER), create(OWNER)]]), Rule::NotCreated);
    assert_eq!(refused(OWNER, &[vec![]]), Rule::NotCreated);
    assert_eq!(fold(&OWNER.inbox(0), &[]), Err(Error::EmptyLog));
}

#[test]
fn an_inbox_is_created_once() {
    assert_eq!(refused(OWNER, &[vec![create(OWNER)], vec![create(OWNER)]]), Rule::AlreadyCreated);
    assert_eq!(refused(OWNER, &[vec![create(OWNER), create(OWNER)]]), Rule::AlreadyCreated);
}

#[test]
fn the_creator_signs() {
    for by in [OTHER, PHONE, PASSKEY, CONTRACT] {
        assert_eq!(refused(OWNER, &[vec![Act::Create { owner: OWNER, nonce: 0, by }]]), Rule::NotOwner);
    }
    // An address that only differs in case is nobody's: signers are recovered in lower case.
    let acts = [create(OWNER)];
    let mut upper = update(&OWNER.inbox(0), SECOND, &acts);
    let identity_action::Kind::CreateInbox(action) = kind_of(&mut upper, 0) else { unreachable!() };
    action.initial_identifier = action.initial_identifier.to_uppercase().replacen("0X", "0x", 1);
    assert_eq!(rule_of_last(&OWNER.inbox(0), &entries([sign(upper, &acts)])), Rule::NotOwner);
}

#[test]
fn the_inbox_id_is_derived_from_the_creator() {
    let nonce = Act::Create { owner: OWNER, nonce: 7, by: OWNER };
    let inbox = OWNER.inbox(7);
    let state = fold(&inbox, &entries([update(&inbox, SECOND, std::slice::from_ref(&nonce))])).unwrap();
    assert_eq!(state.inbox_id(), inbox);

    assert_eq!(refused(OWNER, &[vec![nonce]]), Rule::WrongInboxId);
    let foreign = entries([
        update(&OWNER.inbox(0), SECOND, &[create(OWNER)]),
        update(&OTHER.inbox(0), 2 * SECOND, &[add(PHONE, OWNER)]),
    ]);
    assert_eq!(rule_of_last(&OWNER.inbox(0), &foreign), Rule::WrongInboxId);
    // A whole log of another inbox than the one asked for.
    let other = log(OTHER, &[vec![create(OTHER)]]);
    assert_eq!(rule_of_last(&OWNER.inbox(0), &other), Rule::WrongInboxId);
    // Without a fold, which compares before.
    let mut state = accepted(OWNER, &[vec![create(OWNER)]]);
    let update = foreign[1].update.as_ref().unwrap();
    let refused = state.apply(2, update, &ContractVerdicts::new());
    assert_eq!(refused, Err(Error::Refused { sequence_id: 2, rule: Rule::WrongInboxId }));
}

// Rule 2: kinds of signatures

#[test]
fn legacy_keys_serve_the_inbox_of_nonce_zero_only() {
    let legacy = Key::Legacy(1);
    let state = accepted(OWNER, &[vec![create(legacy), add(PHONE, legacy)]]);
    assert_eq!(members(&state), sorted(&[OWNER, PHONE]));
    // A later signature with the same approval counts as replay, since the wallet's signature is what is remembered.
    assert_eq!(refused(OWNER, &[vec![create(legacy)], vec![add(PHONE, legacy)]]), Rule::Replay);
    // The wallet itself created it, the legacy key adds.
    accepted(OWNER, &[vec![create(OWNER)], vec![add(PHONE, legacy)]]);

    let inbox = OWNER.inbox(1);
    let acts = [Act::Create { owner: OWNER, nonce: 1, by: legacy }];
    assert_eq!(rule_of_last(&inbox, &entries([update(&inbox, SECOND, &acts)])), Rule::LegacyNotAllowed);
    let acts = [Act::Create { owner: OWNER, nonce: 1, by: OWNER }, add(PHONE, legacy)];
    assert_eq!(rule_of_last(&inbox, &entries([update(&inbox, SECOND, &acts)])), Rule::LegacyNotAllowed);
    // Neither as new nor as existing member of another wallet's inbox.
    assert_eq!(
        refused(OTHER, &[vec![create(OTHER), add(OWNER, OTHER)], vec![add(PHONE, legacy)]]),
        Rule::LegacyNotAllowed
    );
    accepted(OTHER, &[vec![create(OTHER), add(legacy, OTHER)]]);
    let inbox = OTHER.inbox(3);
    let acts = [Act::Create { owner: OTHER, nonce: 3, by: OTHER }, add(legacy, OTHER)];
    assert_eq!(rule_of_last(&inbox, &entries([update(&inbox, SECOND, &acts)])), Rule::LegacyNotAllowed);
}

#[test]
fn legacy_keys_never_revoke_nor_change_recovery() {
    let legacy = Key::Legacy(1);
    let begin = vec![create(OWNER), add(PHONE, OWNER)];
    assert_eq!(refused(OWNER, &[begin.clone(), vec![revoke(PHONE, legacy)]]), Rule::LegacyNotAllowed);
    assert_eq!(refused(OWNER, &[begin, vec![change(OTHER, legacy)]]), Rule::LegacyNotAllowed);
    // Nor do they add for a recovery identifier that is no member.
    let left = vec![create(OWNER), add(OTHER, OWNER), revoke(OWNER, OWNER)];
    accepted(OWNER, &[left.clone(), vec![add(PHONE, OWNER)]]);
    assert_eq!(refused(OWNER, &[left, vec![add(PHONE, legacy)]]), Rule::LegacyNotAllowed);
}

// Rule 3: additions

#[test]
fn members_of_all_kinds_are_added_with_their_history() {
    let acts = vec![
        vec![create(OWNER), add(PHONE, OWNER), add(OTHER, OWNER)],
        vec![add(PASSKEY, OTHER), add(CONTRACT, PASSKEY)],
        vec![add(LAPTOP, CONTRACT), add(STRANGER, LAPTOP)],
    ];
    let state = accepted(OWNER, &acts);
    assert_eq!(members(&state), sorted(&[OWNER, PHONE, OTHER, PASSKEY, CONTRACT, LAPTOP, STRANGER]));
    let record = |key: Key| state.member(&key.member()).unwrap();
    assert_eq!(record(LAPTOP).added_by, Some(CONTRACT.member()));
    assert_eq!(record(LAPTOP).client_timestamp_ns, Some(3 * SECOND));
    assert_eq!((record(CONTRACT).chain_id, record(LAPTOP).chain_id), (Some(CHAIN), None));
    let ids = [PHONE, LAPTOP].map(|key| match key.member() {
        Member::Installation(id) => id,
        _ => unreachable!(),
    });
    assert_eq!(state.installations(), ids);
    assert!(state.is_installation(&ids[0]) && !state.is_installation(&[0; 32]));
    assert_eq!(state.wallets().len(), 5);
}

#[test]
fn the_new_member_signs_for_itself() {
    let acts = [create(OWNER), add(PHONE, OWNER)];
    let mut named = update(&OWNER.inbox(0), SECOND, &acts);
    let identity_action::Kind::Add(action) = kind_of(&mut named, 1) else { unreachable!() };
    action.new_member_identifier = Some(LAPTOP.member().to_wire());
    assert_eq!(rule_of_last(&OWNER.inbox(0), &entries([sign(named, &acts)])), Rule::NotNewMember);
}

#[test]
fn nobody_adds_itself() {
    assert_eq!(refused(OWNER, &[vec![create(OWNER)], vec![add(OWNER, OWNER)]]), Rule::AddsItself);
    assert_eq!(refused(OWNER, &[vec![create(OWNER), add(PHONE, OWNER)], vec![add(PHONE, PHONE)]]), Rule::AddsItself);
}

#[test]
fn only_members_and_the_recovery_identifier_add() {
    for stranger in [STRANGER, LAPTOP, PASSKEY, CONTRACT] {
        assert_eq!(refused(OWNER, &[vec![create(OWNER)], vec![add(OTHER, stranger)]]), Rule::NotMember);
    }
    let change_only = vec![create(OWNER), change(STRANGER, OWNER)];
    accepted(OWNER, &[change_only.clone(), vec![add(PHONE, STRANGER)]]);
    accepted(OWNER, &[change_only, vec![add(PHONE, OWNER)]]);
    // Revoked members do not add any more.
    let left = vec![create(OWNER), add(OTHER, OWNER), revoke(OTHER, OWNER)];
    assert_eq!(refused(OWNER, &[left, vec![add(PHONE, OTHER)]]), Rule::NotMember);
}

#[test]
fn installations_add_wallets_but_no_installations() {
    let begin = vec![create(OWNER), add(PHONE, OWNER)];
    accepted(OWNER, &[begin.clone(), vec![add(OTHER, PHONE)]]);
    assert_eq!(refused(OWNER, &[begin, vec![add(LAPTOP, PHONE)]]), Rule::InstallationAddsInstallation);
}

#[test]
fn adding_a_member_again_renews_its_history() {
    let state = accepted(OWNER, &[vec![create(OWNER), add(PHONE, OWNER), add(OTHER, OWNER)], vec![add(PHONE, OTHER)]]);
    let record = state.member(&PHONE.member()).unwrap();
    assert_eq!((&record.added_by, record.client_timestamp_ns), (&Some(OTHER.member()), Some(2 * SECOND)));
}

// Rule 4: revocations

#[test]
fn a_revocation_takes_the_installations_of_the_member_along() {
    let begin = vec![create(OWNER), add(OTHER, OWNER), add(PHONE, OTHER), add(STRANGER, OTHER), add(LAPTOP, STRANGER)];
    let state = accepted(OWNER, &[begin.clone(), vec![revoke(OTHER, OWNER)]]);
    assert_eq!(members(&state), sorted(&[OWNER, STRANGER, LAPTOP]), "wallets stay, and what they added");
    let again = accepted(OWNER, &[begin.clone(), vec![revoke(OTHER, OWNER)], vec![revoke(OTHER, OWNER)]]);
    assert_eq!(members(&again), members(&state));
    let nobody = accepted(OWNER, &[begin.clone(), vec![revoke(PASSKEY, OWNER)]]);
    assert_eq!(nobody.members().len(), 5);
    let phone = accepted(OWNER, &[begin.clone(), vec![revoke(PHONE, OWNER)]]);
    assert!(phone.member(&PHONE.member()).is_none());
    assert_eq!(phone.members().len(), 4);
    // Even the recovery identifier can leave; it may still revoke.
    let left = accepted(OWNER, &[begin, vec![revoke(OWNER, OWNER)], vec![revoke(OTHER, OWNER)]]);
    assert_eq!(members(&left), sorted(&[STRANGER, LAPTOP]));
}

#[test]
fn only_the_recovery_identifier_revokes() {
    let begin = vec![create(OWNER), add(OTHER, OWNER), add(PHONE, OWNER)];
    for by in [OTHER, PHONE, STRANGER, PASSKEY, CONTRACT] {
        assert_eq!(refused(OWNER, &[begin.clone(), vec![revoke(PHONE, by)]]), Rule::NotRecovery);
    }
    let changed = vec![begin, vec![change(STRANGER, OWNER)]];
    accepted(OWNER, &[changed.clone(), vec![vec![revoke(PHONE, STRANGER)]]].concat());
    assert_eq!(refused(OWNER, &[changed, vec![vec![revoke(PHONE, OWNER)]]].concat()), Rule::NotRecovery);
}

#[test]
fn revoking_a_malformed_installation_id_changes_nothing() {
    let odd = MemberIdentifier { kind: Some(member_identifier::Kind::InstallationPublicKey(vec![1; 31])) };
    let acts = [revoke(PHONE, OWNER)];
    let mut revocation = update(&OWNER.inbox(0), 2 * SECOND, &acts);
    let identity_action::Kind::Revoke(action) = kind_of(&mut revocation, 0) else { unreachable!() };
    action.member_to_revoke = Some(odd.clone());
    let first = update(&OWNER.inbox(0), SECOND, &[create(OWNER), add(PHONE, OWNER)]);
    let state = fold(&OWNER.inbox(0), &entries([first, sign(revocation, &acts)])).unwrap();
    assert_eq!(state.members().len(), 2);

    let acts = [add(PHONE, OWNER)];
    let mut addition = update(&OWNER.inbox(0), 2 * SECOND, &acts);
    let identity_action::Kind::Add(action) = kind_of(&mut addition, 0) else { unreachable!() };
    action.new_member_identifier = Some(odd);
    assert_eq!(rule_of_second(sign(addition, &acts)), Rule::InstallationForm);
}

// Rule 5: chains

#[test]
fn a_contract_wallet_keeps_to_its_chain() {
    let elsewhere = Key::Contract(1, 1);
    let changed = Rule::ChainChanged { recorded: Some(CHAIN), signed: Some(1) };
    let begin = vec![create(CONTRACT), add(PHONE, CONTRACT)];
    accepted(CONTRACT, &[begin.clone(), vec![add(OTHER, CONTRACT), revoke(PHONE, CONTRACT)]]);
    for act in [add(LAPTOP, elsewhere), revoke(PHONE, elsewhere), change(OTHER, elsewhere)] {
        assert_eq!(refused(CONTRACT, &[begin.clone(), vec![act]]), changed);
    }
    // A recovery identifier that is no member has no chain on record.
    let left = vec![create(CONTRACT), add(OTHER, CONTRACT), revoke(CONTRACT, CONTRACT)];
    accepted(CONTRACT, &[left, vec![add(PHONE, elsewhere)]]);
    // Adding it again records the new chain.
    let renewed = vec![create(OTHER), add(CONTRACT, OTHER)];
    let state = accepted(OTHER, &[renewed, vec![add(elsewhere, OTHER)]]);
    assert_eq!(state.member(&CONTRACT.member()).unwrap().chain_id, Some(1));
}

// Rule 6: replay

#[test]
fn a_signature_serves_one_update() {
    let begin = update(&OWNER.inbox(0), SECOND, &[create(OWNER), add(PHONE, OWNER)]);
    for act in [add(LAPTOP, OWNER), revoke(PHONE, OWNER), change(OTHER, OWNER)] {
        let next = update(&OWNER.inbox(0), 2 * SECOND, &[act]);
        fold(&OWNER.inbox(0), &entries([begin.clone(), next.clone()])).unwrap();
        assert_eq!(rule_of_last(&OWNER.inbox(0), &entries([begin.clone(), next.clone(), next])), Rule::Replay);
    }
    // One of two signatures suffices: the text is the same within a second, and so are the signatures.
    let first = update(&OWNER.inbox(0), 2 * SECOND, &[add(LAPTOP, OWNER)]);
    let second = update(&OWNER.inbox(0), 2 * SECOND + 5, &[add(LAPTOP, OTHER)]);
    let third = [update(&OWNER.inbox(0), SECOND, &[create(OWNER), add(OTHER, OWNER)]), first, second];
    assert_eq!(rule_of_last(&OWNER.inbox(0), &entries(third)), Rule::Replay);
}

#[test]
fn a_signature_may_serve_many_actions_of_its_update() {
    let state = accepted(OWNER, &[vec![create(OWNER), add(PHONE, OWNER), add(LAPTOP, OWNER), revoke(PHONE, OWNER)]]);
    assert_eq!(members(&state), sorted(&[OWNER, LAPTOP]));
}

#[test]
fn the_other_form_of_a_wallet_signature_is_a_replay() {
    let first = update(&OWNER.inbox(0), SECOND, &[create(OWNER)]);
    let second = update(&OWNER.inbox(0), 2 * SECOND, &[revoke(PHONE, OWNER)]);
    let mut third = second.clone();
    let identity_action::Kind::Revoke(action) = kind_of(&mut third, 0) else { unreachable!() };
    let Some(Signature { signature: Some(signature::Signature::Erc191(signature)) }) =
        action.recovery_identifier_signature.as_mut()
    else {
        unreachable!()
    };
    signature.bytes = high_s(&signature.bytes);
    fold(&OWNER.inbox(0), &entries([first.clone(), third.clone()])).expect("it is a valid signature");
    assert_eq!(rule_of_last(&OWNER.inbox(0), &entries([first, second, third])), Rule::Replay);
}

/// The signature with s in the high half and the same v.
fn high_s(bytes: &[u8]) -> Vec<u8> {
    let signature = k256::ecdsa::Signature::from_slice(&bytes[..64]).unwrap();
    let (r, s) = signature.split_scalars();
    let negated = -s;
    let flipped = k256::ecdsa::Signature::from_scalars(r.to_bytes(), negated.to_bytes()).unwrap();
    [flipped.to_bytes().as_slice(), &bytes[64..]].concat()
}

// Rule 7: recovery

#[test]
fn the_recovery_identifier_changes_hands() {
    let state = accepted(OWNER, &[vec![create(OWNER)], vec![change(PASSKEY, OWNER)], vec![change(CONTRACT, PASSKEY)]]);
    assert_eq!(state.recovery(), &CONTRACT.identifier());
    assert_eq!(members(&state), [OWNER.member()], "it need not be a member");
    for by in [STRANGER, PHONE, OTHER] {
        let begin = vec![create(OWNER), add(PHONE, OWNER), add(OTHER, OWNER)];
        assert_eq!(refused(OWNER, &[begin, vec![change(OTHER, by)]]), Rule::NotRecovery);
    }
}

// Forms

#[test]
fn what_is_missing_or_unknown_is_refused() {
    let missing = |name| Rule::Missing(name);
    let unsigned = |act: Act| update(&OWNER.inbox(0), 2 * SECOND, &[act]);

    let mut nothing = unsigned(add(PHONE, OWNER));
    nothing.actions[0] = IdentityAction { kind: None };
    assert_eq!(rule_of_second(nothing.clone()), missing("action"));
    assert_eq!(signature_text(&nothing), Err(Error::Invalid(missing("action"))));

    let mut addition = unsigned(add(PHONE, OWNER));
    let identity_action::Kind::Add(action) = kind_of(&mut addition, 0) else { unreachable!() };
    let whole = action.clone();
    action.new_member_identifier = None;
    assert_eq!(rule_of_second(addition.clone()), missing("member identifier"));
    *kind_of(&mut addition, 0) = identity_action::Kind::Add(whole.clone());
    let identity_action::Kind::Add(action) = kind_of(&mut addition, 0) else { unreachable!() };
    action.new_member_identifier = Some(MemberIdentifier { kind: None });
    assert_eq!(rule_of_second(addition.clone()), missing("member identifier"));
    let mut action = whole.clone();
    action.existing_member_signature = None;
    *kind_of(&mut addition, 0) = identity_action::Kind::Add(action);
    assert_eq!(rule_of_second(addition.clone()), missing("existing_member_signature"));
    let mut action = whole.clone();
    action.new_member_signature = None;
    *kind_of(&mut addition, 0) = identity_action::Kind::Add(action);
    assert_eq!(rule_of_second(addition.clone()), missing("new_member_signature"));
    let mut action = whole;
    action.new_member_signature = Some(Signature { signature: None });
    *kind_of(&mut addition, 0) = identity_action::Kind::Add(action);
    assert_eq!(rule_of_second(addition), missing("signature"));

    let mut revocation = unsigned(revoke(PHONE, OWNER));
    let identity_action::Kind::Revoke(action) = kind_of(&mut revocation, 0) else { unreachable!() };
    action.recovery_identifier_signature = None;
    assert_eq!(rule_of_second(revocation), missing("recovery_identifier_signature"));
    let mut changed = unsigned(change(OTHER, OWNER));
    let identity_action::Kind::ChangeRecoveryAddress(action) = kind_of(&mut changed, 0) else { unreachable!() };
    action.existing_recovery_identifier_signature = None;
    assert_eq!(rule_of_second(changed), missing("existing_recovery_identifier_signature"));
    let mut creation = update(&OWNER.inbox(0), SECOND, &[create(OWNER)]);
    let identity_action::Kind::CreateInbox(action) = kind_of(&mut creation, 0) else { unreachable!() };
    action.initial_identifier_signature = None;
    let rule = rule_of_last(&OWNER.inbox(0), &entries([creation]));
    assert_eq!(rule, missing("initial_identifier_signature"));

    let mut log = log(OWNER, &[vec![create(OWNER)], vec![add(PHONE, OWNER)]]);
    log[1].update = None;
    assert_eq!(rule_of_last(&OWNER.inbox(0), &log), missing("update"));
}

#[test]
fn kinds_of_identifiers_read_as_in_libxmtp() {
    // Unset and future kinds are Ethereum.
    for kind in [0, 1, 3, -1, i32::MAX] {
        let acts = [create(OWNER), change(OTHER, OWNER)];
        let mut creation = update(&OWNER.inbox(0), SECOND, &acts);
        let identity_action::Kind::CreateInbox(action) = kind_of(&mut creation, 0) else { unreachable!() };
        action.initial_identifier_kind = kind;
        let identity_action::Kind::ChangeRecoveryAddress(action) = kind_of(&mut creation, 1) else { unreachable!() };
        action.new_recovery_identifier_kind = kind;
        let state = fold(&OWNER.inbox(0), &entries([sign(creation, &acts)])).unwrap();
        assert_eq!(state.recovery(), &OTHER.identifier());
    }
    let mut creation = update(&OWNER.inbox(0), SECOND, &[create(OWNER)]);
    let identity_action::Kind::CreateInbox(action) = kind_of(&mut creation, 0) else { unreachable!() };
    action.initial_identifier_kind = 2;
    assert_eq!(rule_of_last(&OWNER.inbox(0), &entries([creation.clone()])), Rule::PasskeyForm);
    // A passkey is printed anew, so its digits' case does not matter.
    let acts = [create(PASSKEY)];
    let mut creation = update(&PASSKEY.inbox(0), SECOND, &acts);
    let identity_action::Kind::CreateInbox(action) = kind_of(&mut creation, 0) else { unreachable!() };
    action.initial_identifier = action.initial_identifier.to_uppercase();
    let creation = sign(creation, &acts);
    assert!(signature_text(&creation).unwrap().contains(&PASSKEY.identifier().to_string()));
    fold(&PASSKEY.inbox(0), &entries([creation])).unwrap();
}

#[test]
fn sequence_ids_rise_and_failures_change_nothing() {
    let log = log(OWNER, &[vec![create(OWNER)], vec![add(PHONE, OWNER)], vec![add(LAPTOP, STRANGER)]]);
    let none = ContractVerdicts::new();
    let mut state = fold(&OWNER.inbox(0), &log[..1]).unwrap();
    let before = state.clone();
    assert_eq!(state.apply(1, log[1].update.as_ref().unwrap(), &none), Err(Error::NotRising { last: 1, given: 1 }));
    assert_eq!(state.extend(&log[..2], &none), Err(Error::NotRising { last: 1, given: 1 }));
    let refused = Error::Refused { sequence_id: 3, rule: Rule::NotMember };
    assert_eq!(state.extend(&log[1..], &none), Err(refused.clone()));
    assert_eq!(state.apply(3, log[2].update.as_ref().unwrap(), &none), Err(refused.clone()));
    assert_eq!(state, before);
    state.extend(&[], &none).unwrap();
    assert_eq!(state, before);
    state.extend(&log[1..2], &none).unwrap();
    assert_eq!(state, fold(&OWNER.inbox(0), &log[..2]).unwrap());
    let mut applied = AssociationState::start(1, log[0].update.as_ref().unwrap(), &none).unwrap();
    applied.apply(2, log[1].update.as_ref().unwrap(), &none).unwrap();
    assert_eq!(applied, state);

    let swapped = [log[1].clone(), log[0].clone()];
    assert_eq!(fold(&OWNER.inbox(0), &swapped), Err(Error::NotRising { last: 2, given: 1 }));
    // A state at an entry does not depend on what comes after it, however bad.
    assert_eq!(AssociationState::fold_to(&OWNER.inbox(0), &log, 2, &none), Ok(state));
    assert_eq!(AssociationState::fold_to(&OWNER.inbox(0), &log, 4, &none), Err(Error::NotInLog(4)));
    assert_eq!(AssociationState::fold_to(&OWNER.inbox(0), &log, 3, &none), Err(refused));
}

#[test]
fn changes_of_installations_are_listed() {
    let log = log(
        OWNER,
        &[vec![create(OWNER), add(PHONE, OWNER)], vec![revoke(PHONE, OWNER), add(LAPTOP, OWNER), add(OTHER, OWNER)]],
    );
    let (first, second) = (fold(&OWNER.inbox(0), &log[..1]).unwrap(), fold(&OWNER.inbox(0), &log).unwrap());
    let change = second.installation_change(Some(&first));
    assert_eq!(change.added, [installation_id(&[2; 32])]);
    assert_eq!(change.removed, [installation_id(&[1; 32])]);
    let all = second.installation_change(None);
    assert_eq!((all.added, all.removed.len()), (change.added, 0));
}

// Signatures

#[test]
fn wallet_signatures_come_with_any_usual_v() {
    let text = "any text";
    let key = wallet(1);
    let bytes = personal(&key, text);
    let signer = |bytes: Vec<u8>| {
        let signature = signature::Signature::Erc191(RecoverableEcdsaSignature { bytes });
        verify(&Signature { signature: Some(signature) }, text, &ContractVerdicts::new())
    };
    let with_v = |v: u8| [&bytes[..64], &[v]].concat();
    let parity = bytes[64] - 27;
    let expected = Member::Address(address(&key));
    for v in [parity, 27 + parity, 35 + parity, 253 + parity] {
        assert_eq!(signer(with_v(v)).unwrap().member, expected, "{v}");
    }
    for v in [1 - parity, 28 - parity] {
        assert_ne!(signer(with_v(v)).map(|signer| signer.member), Ok(expected.clone()));
    }
    let bad = Err(Error::Invalid(Rule::BadSignature(SignatureKind::Wallet)));
    for v in (2..27).chain(29..35) {
        assert_eq!(signer(with_v(v)), bad);
    }
    for length in [0, 1, 63, 64, 66] {
        assert_eq!(signer(vec![27; length]), bad);
    }
    assert_eq!(signer([vec![0; 64], vec![27]].concat()), bad);
    assert_eq!(signer([vec![0xff; 64], vec![27]].concat()), bad);
}

#[test]
fn installation_signatures_are_checked() {
    let text = "any text";
    let valid = match PHONE.sign(text).signature {
        Some(signature::Signature::InstallationKey(signature)) => signature,
        _ => unreachable!(),
    };
    let signer = |signature: RecoverableEd25519Signature, text: &str| {
        let signature = Signature { signature: Some(signature::Signature::InstallationKey(signature)) };
        verify(&signature, text, &ContractVerdicts::new())
    };
    assert_eq!(signer(valid.clone(), text).unwrap().member, PHONE.member());
    let bad = Err(Error::Invalid(Rule::BadSignature(SignatureKind::Installation)));
    assert_eq!(signer(valid.clone(), "other text"), bad);
    for length in [0, 31, 33] {
        assert_eq!(signer(RecoverableEd25519Signature { public_key: vec![1; length], ..valid.clone() }, text), bad);
    }
    for length in [0, 63, 65] {
        assert_eq!(signer(RecoverableEd25519Signature { bytes: vec![1; length], ..valid.clone() }, text), bad);
    }
    // Plain Ed25519, and Ed25519ph without the context, are other signatures.
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let plain = ed25519_dalek::Signer::sign(&key, text.as_bytes()).to_bytes().to_vec();
    assert_eq!(signer(RecoverableEd25519Signature { bytes: plain, ..valid.clone() }, text), bad);
    let prehash = <sha2::Sha512 as sha2::Digest>::new_with_prefix(text);
    let bytes = key.sign_prehashed(prehash, None).unwrap().to_bytes().to_vec();
    assert_eq!(signer(RecoverableEd25519Signature { bytes, ..valid }, text), bad);
}

#[test]
fn passkey_signatures_are_checked() {
    let text = "any text, with ÿ and longer than a block";
    let signer = |signature: RecoverablePasskeySignature| {
        let signature = Signature { signature: Some(signature::Signature::Passkey(signature)) };
        verify(&signature, text, &ContractVerdicts::new())
    };
    let valid = assertion(1, text);
    assert_eq!(signer(valid.clone()).unwrap().member, PASSKEY.member());
    let bad = Err(Error::Invalid(Rule::BadSignature(SignatureKind::Passkey)));
    assert_eq!(signer(assertion(1, "other text")), bad);
    let mut changed = valid.clone();
    changed.authenticator_data[0] ^= 1;
    assert_eq!(signer(changed), bad);
    let other = RecoverablePasskeySignature { public_key: assertion(2, text).public_key, ..valid.clone() };
    assert_eq!(signer(other), bad);
    assert_eq!(signer(RecoverablePasskeySignature { signature: vec![0; 64], ..valid.clone() }), bad);
    let client_data = String::from_utf8(valid.client_data_json).unwrap();
    for changed in [
        client_data.replace("\"origin\"", "\"place\""),
        client_data.replace("\"challenge\"", "\"dare\""),
        client_data.replace("\",\"origin\"", "=\",\"origin\""),
        format!("{client_data}x"),
        "[]".into(),
        String::new(),
        "[".repeat(100_000),
    ] {
        assert_eq!(signer(signed_assertion(1, changed)), bad);
    }
}

#[test]
fn legacy_signatures_are_checked() {
    let text = "any text";
    let valid = match Key::Legacy(1).sign(text).signature {
        Some(signature::Signature::DelegatedErc191(signature)) => signature,
        _ => unreachable!(),
    };
    let check = |signature, text: &str| {
        let signature = Signature { signature: Some(signature::Signature::DelegatedErc191(signature)) };
        verify(&signature, text, &ContractVerdicts::new())
    };
    let Signer { member, kind, .. } = check(valid.clone(), text).unwrap();
    assert_eq!((member, kind), (OWNER.member(), SignatureKind::LegacyDelegated));
    let bad = Err(Error::Invalid(Rule::BadSignature(SignatureKind::LegacyDelegated)));
    assert_eq!(check(valid.clone(), "other text"), bad);
    let mut unsigned = valid.clone();
    unsigned.signature = None;
    assert_eq!(check(unsigned, text), Err(Error::Invalid(Rule::Missing("signature of the legacy key"))));
    // Whatever is changed in the approved key, it is not this wallet's any more.
    for position in 0..valid.delegated_key.len() {
        let mut changed = valid.clone();
        changed.delegated_key[position] ^= 4;
        assert_ne!(check(changed, text).map(|signer| signer.member), Ok(OWNER.member()), "{position}");
        let mut cut = valid.clone();
        cut.delegated_key.truncate(position);
        assert_eq!(check(cut, text), bad);
    }
}

#[test]
fn contract_wallets_need_the_verdict_of_a_node() {
    let inbox = CONTRACT.inbox(0);
    let second = Key::Contract(2, CHAIN);
    let log = log(CONTRACT, &[vec![create(CONTRACT), add(PHONE, CONTRACT)], vec![add(second, CONTRACT)]]);
    let mut verdicts = ContractVerdicts::new();
    let Err(Error::Unverified(questions)) = AssociationState::fold(&inbox, &log, &verdicts) else {
        panic!("nobody has verified anything");
    };
    // The first update's signature stands in two places.
    assert_eq!(questions.len(), 3);
    let text = signature_text(log[0].update.as_ref().unwrap()).unwrap();
    let expected = ContractSignature {
        account_id: format!("eip155:{CHAIN}:{}", CONTRACT.identifier()),
        block_number: 1000,
        signature: [b"contract ", text.as_bytes()].concat(),
        hash: personal_message_hash(&text),
    };
    assert_eq!(questions[0], expected);
    let request = ContractSignature::request(&questions);
    assert_eq!(request.signatures.len(), 3);
    assert_eq!(request.signatures[0].block_number, Some(1000));
    assert_eq!(request.signatures[0].hash, expected.hash);

    let answer = |is_valid, error: Option<&str>| ValidationResponse {
        is_valid,
        block_number: None,
        error: error.map(str::to_owned),
    };
    let few = verdicts.insert_answer(&questions, &[answer(true, None)]);
    assert_eq!(few, Err(Error::VerdictCount { asked: 3, given: 1 }));
    // The node could not reach a chain for the second: it stays open.
    let answers = [answer(true, None), answer(false, Some("no provider")), answer(true, None)];
    assert_eq!(verdicts.insert_answer(&questions, &answers), Ok(2));
    let open = AssociationState::fold(&inbox, &log, &verdicts);
    assert_eq!(open, Err(Error::Unverified(vec![questions[1].clone()])));
    verdicts.insert_digest(questions[1].digest(), true);
    let state = AssociationState::fold(&inbox, &log, &verdicts).unwrap();
    assert_eq!(members(&state), sorted(&[CONTRACT, PHONE, second]));

    verdicts.insert(&questions[1], false);
    let bad = Rule::BadSignature(SignatureKind::Contract);
    let refused = Err(Error::Refused { sequence_id: 2, rule: bad });
    assert_eq!(AssociationState::fold(&inbox, &log, &verdicts), refused);
}

#[test]
fn verdicts_belong_to_one_question() {
    let question =
        ContractSignature { account_id: "eip155:1:0x00".into(), block_number: 1, signature: vec![1, 2], hash: [3; 32] };
    let mut verdicts = ContractVerdicts::new();
    verdicts.insert(&question, true);
    assert_eq!(verdicts.get(&question), Some(true));
    for other in [
        ContractSignature { account_id: "eip155:2:0x00".into(), ..question.clone() },
        ContractSignature { block_number: 2, ..question.clone() },
        ContractSignature { signature: vec![1], ..question.clone() },
        ContractSignature { hash: [4; 32], ..question.clone() },
    ] {
        assert_eq!(verdicts.get(&other), None);
    }
}

#[test]
fn accounts_have_the_form_of_ethereum_accounts() {
    let address = "0x00112233445566778899aAbBcCdDeEfF00112233";
    let signer = |account_id: &str| {
        let signature =
            SmartContractWalletSignature { account_id: account_id.into(), block_number: 0, signature: vec![] };
        let signature = Signature { signature: Some(signature::Signature::Erc6492(signature)) };
        let mut verdicts = ContractVerdicts::new();
        match verify(&signature, "text", &verdicts) {
            Err(Error::Unverified(questions)) => {
                verdicts.insert(&questions[0], true);
                verify(&signature, "text", &verdicts)
            }
            other => other,
        }
    };
    let signed = signer(&format!("eip155:1:{address}")).unwrap();
    assert_eq!((signed.member, signed.chain_id), (Member::Address(address.to_lowercase()), Some(1)));
    let bare = signer(&format!("eip155:1:{}", &address[2..])).unwrap();
    assert_eq!(bare.member, Member::Address(address[2..].to_lowercase()));
    for account in [
        String::new(),
        address.to_owned(),
        format!("eip155:{address}"),
        format!("eip155::{address}"),
        format!("eip155:+1:{address}"),
        format!("eip155:1:{address}:"),
        format!("eip155:18446744073709551616:{address}"),
        format!("eip155:{}1:{address}", "0".repeat(32)),
        format!("solana:1:{address}"),
        format!("EIP155:1:{address}"),
        "eip155:1:0x00".to_owned(),
        format!("eip155:1:{}", address.replace("0x", "0X")),
        format!("eip155:1:{}", address.replace('a', "g")),
    ] {
        assert_eq!(signer(&account), Err(Error::Invalid(Rule::AccountForm)), "{account}");
    }
}

// Drafts

#[test]
fn drafts_make_updates_that_fold() {
    let owner = OWNER.identifier();
    let draft = UpdateDraft::create_inbox(&owner, 0, installation_id(&[1; 32]), SECOND).unwrap();
    assert_eq!((draft.wallet(), draft.inbox_id()), (&owner, OWNER.inbox(0).as_str()));
    let sign = |draft: &UpdateDraft, seed: Option<[u8; 32]>| {
        let signature = WalletSignature::Personal(personal(&wallet(1), draft.text()));
        assert_eq!(draft.question(&signature), None);
        draft.finish(signature, seed.as_ref()).unwrap().into_update()
    };
    let first = sign(&draft, Some([1; 32]));
    let inbox = OWNER.inbox(0);
    let draft = UpdateDraft::add_installation(&inbox, &owner, installation_id(&[2; 32]), 2 * SECOND).unwrap();
    let second = sign(&draft, Some([2; 32]));
    let ids = [installation_id(&[1; 32]), installation_id(&[2; 32])];
    let draft = UpdateDraft::revoke_installations(&inbox, &owner, &ids, 3 * SECOND).unwrap();
    let third = sign(&draft, None);
    let log = entries([first, second, third]);
    assert_eq!(fold(&inbox, &log[..2]).unwrap().installations(), ids);
    assert_eq!(fold(&inbox, &log).unwrap().installations(), [[0; 32]; 0]);
}

#[test]
fn drafts_refuse_other_signers() {
    let owner = OWNER.identifier();
    let draft = UpdateDraft::create_inbox(&owner, 0, installation_id(&[1; 32]), SECOND).unwrap();
    let by_owner = WalletSignature::Personal(personal(&wallet(1), draft.text()));
    let by_other = WalletSignature::Personal(personal(&wallet(2), draft.text()));
    let expected = Error::WrongWallet { expected: owner.to_string(), signed: OTHER.identifier().to_string() };
    assert_eq!(draft.finish(by_other, Some(&[1; 32])), Err(expected));
    let of_other_text = WalletSignature::Personal(personal(&wallet(1), "other text"));
    assert!(matches!(draft.finish(of_other_text, Some(&[1; 32])), Err(Error::WrongWallet { .. })));
    let malformed = Err(Error::Invalid(Rule::BadSignature(SignatureKind::Wallet)));
    assert_eq!(draft.finish(WalletSignature::Personal(vec![1; 64]), Some(&[1; 32])), malformed);
    assert_eq!(draft.finish(by_owner.clone(), None), Err(Error::WrongInstallationKey));
    assert_eq!(draft.finish(by_owner.clone(), Some(&[2; 32])), Err(Error::WrongInstallationKey));
    draft.finish(by_owner, Some(&[1; 32])).unwrap();
}

#[test]
fn drafts_take_contract_wallets_and_passkeys() {
    let draft = UpdateDraft::create_inbox(&CONTRACT.identifier(), 0, installation_id(&[1; 32]), SECOND).unwrap();
    let contract = |key: Key| match key.sign(draft.text()).signature {
        Some(signature::Signature::Erc6492(signature)) => WalletSignature::Contract {
            account_id: signature.account_id,
            block_number: signature.block_number,
            signature: signature.signature,
        },
        _ => unreachable!(),
    };
    let question = draft.question(&contract(CONTRACT)).unwrap();
    assert_eq!(question.hash, personal_message_hash(draft.text()));
    let signed = draft.finish(contract(CONTRACT), Some(&[1; 32])).unwrap();
    let log = entries([signed.into_update()]);
    let unverified = AssociationState::fold(draft.inbox_id(), &log, &ContractVerdicts::new());
    assert_eq!(unverified, Err(Error::Unverified(vec![question])));
    assert_eq!(members(&fold(draft.inbox_id(), &log).unwrap()), sorted(&[CONTRACT, PHONE]));
    let other = draft.finish(contract(Key::Contract(2, CHAIN)), Some(&[1; 32]));
    assert!(matches!(other, Err(Error::WrongWallet { .. })));

    let draft = UpdateDraft::create_inbox(&PASSKEY.identifier(), 4, installation_id(&[1; 32]), SECOND).unwrap();
    let signed = draft.finish(WalletSignature::Passkey(assertion(1, draft.text())), Some(&[1; 32])).unwrap();
    let state = fold(draft.inbox_id(), &entries([signed.update().clone()])).unwrap();
    assert_eq!(members(&state), sorted(&[PASSKEY, PHONE]));
}

#[test]
fn drafts_check_what_they_are_made_of() {
    let owner = OWNER.identifier();
    let bad = Identifier::Address("0x12".into());
    let form = Err(Error::Invalid(Rule::AddressForm));
    assert_eq!(UpdateDraft::create_inbox(&bad, 0, [1; 32], 1), form);
    assert_eq!(UpdateDraft::add_installation(&OWNER.inbox(0), &bad, [1; 32], 1), form);
    assert_eq!(UpdateDraft::revoke_installations(&OWNER.inbox(0), &bad, &[[1; 32]], 1), form);
    let form = Err(Error::Invalid(Rule::InboxIdForm));
    for inbox in ["", "ab", &OWNER.inbox(0).to_uppercase(), &"g".repeat(64), &"ä".repeat(32)] {
        assert_eq!(UpdateDraft::add_installation(inbox, &owner, [1; 32], 1), form);
        assert_eq!(UpdateDraft::revoke_installations(inbox, &owner, &[[1; 32]], 1), form);
    }
    let nothing = UpdateDraft::revoke_installations(&OWNER.inbox(0), &owner, &[], 1);
    assert_eq!(nothing, Err(Error::Invalid(Rule::Missing("installations"))));
    // Users paste addresses with a checksum in their case.
    let upper = Identifier::Address(owner.to_string().to_uppercase().replacen("0X", "0x", 1));
    let draft = UpdateDraft::create_inbox(&upper, 0, [1; 32], 1).unwrap();
    assert_eq!((draft.inbox_id(), draft.wallet()), (OWNER.inbox(0).as_str(), &owner));
    for bad in ["", "0x", "00112233445566778899aabbccddeeff00112233", &"0x".repeat(21), "0xä"] {
        assert_eq!(Identifier::address(bad), Err(Rule::AddressForm));
    }
}
