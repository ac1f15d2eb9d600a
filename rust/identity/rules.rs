//! What an action does to an inbox, and when it may (identity specification, section 1.5).
//!
//! The rules are neither stricter nor laxer than libxmtp's: an inbox that only one side accepts would split groups.

use super::contract::{ContractSignature, ContractVerdicts};
use super::error::Rule;
use super::identifier::{Identifier, Member};
use super::signature::{Checked, SignatureKind, Signer, check};
use super::state::{AssociationState, MemberRecord};
use super::text::SignedText;
use crate::wire::proto::identity::associations::{
    AddAssociation, ChangeRecoveryAddress, CreateInbox, IdentityAction, IdentityUpdate, MemberIdentifier,
    RevokeAssociation, Signature, identity_action, member_identifier, signature,
};

/// Verifies an update and applies it to the state before it; `None` is the state of an inbox that is not yet created.
pub(super) fn advance(
    mut state: Option<AssociationState>,
    update: &IdentityUpdate,
    verdicts: &ContractVerdicts,
) -> Result<AssociationState, Rule> {
    let mut signers = Signers { text: SignedText::of(update)?, verdicts, digests: Vec::new() };
    for action in &update.actions {
        let kind = action.kind.as_ref().ok_or(Rule::Missing("action"))?;
        state = Some(match (kind, state) {
            (identity_action::Kind::CreateInbox(create), None) => create_inbox(create, &mut signers)?,
            (identity_action::Kind::CreateInbox(_), Some(_)) => return Err(Rule::AlreadyCreated),
            (_, None) => return Err(Rule::NotCreated),
            (identity_action::Kind::Add(action), Some(state)) => {
                add(state, action, update.client_timestamp_ns, &mut signers)?
            }
            (identity_action::Kind::Revoke(action), Some(state)) => revoke(state, action, &mut signers)?,
            (identity_action::Kind::ChangeRecoveryAddress(action), Some(state)) => {
                change_recovery(state, action, &mut signers)?
            }
        });
    }
    let mut state = state.ok_or(Rule::NotCreated)?;
    if state.inbox_id != update.inbox_id {
        return Err(Rule::WrongInboxId);
    }
    // Only now: within one update the same signature serves several actions (rule 6).
    state.remember(signers.digests);
    Ok(state)
}

/// Appends the signatures of smart contract wallets that have no verdict yet.
pub(super) fn list_unverified(
    update: &IdentityUpdate,
    verdicts: &ContractVerdicts,
    unverified: &mut Vec<ContractSignature>,
) -> Result<(), Rule> {
    let is_contract = |signature: &&Signature| matches!(signature.signature, Some(signature::Signature::Erc6492(_)));
    let mut signatures = update.actions.iter().flat_map(signatures).filter(is_contract).peekable();
    if signatures.peek().is_none() {
        return Ok(());
    }
    let text = SignedText::of(update)?;
    for signature in signatures {
        if let Checked::Unverified(question) = check(signature, &text, verdicts)? {
            unverified.push(question);
        }
    }
    Ok(())
}

fn signatures(action: &IdentityAction) -> impl Iterator<Item = &Signature> {
    let (first, second) = match action.kind.as_ref() {
        None => (None, None),
        Some(identity_action::Kind::CreateInbox(create)) => (create.initial_identifier_signature.as_ref(), None),
        Some(identity_action::Kind::Add(add)) => {
            (add.existing_member_signature.as_ref(), add.new_member_signature.as_ref())
        }
        Some(identity_action::Kind::Revoke(revoke)) => (revoke.recovery_identifier_signature.as_ref(), None),
        Some(identity_action::Kind::ChangeRecoveryAddress(change)) => {
            (change.existing_recovery_identifier_signature.as_ref(), None)
        }
    };
    first.into_iter().chain(second)
}

/// Verifies the signatures of one update and collects them.
struct Signers<'a> {
    text: SignedText,
    verdicts: &'a ContractVerdicts,
    digests: Vec<[u8; 32]>,
}

impl Signers<'_> {
    fn verify(&mut self, signature: Option<&Signature>, field: &'static str) -> Result<Signer, Rule> {
        match check(signature.ok_or(Rule::Missing(field))?, &self.text, self.verdicts)? {
            Checked::Signer(signer) => {
                self.digests.push(signer.digest);
                Ok(signer)
            }
            // Folding asks for all verdicts first; without one a signature never counts.
            Checked::Unverified(_) => Err(Rule::BadSignature(SignatureKind::Contract)),
        }
    }
}

/// Rule 1.
fn create_inbox(create: &CreateInbox, signers: &mut Signers<'_>) -> Result<AssociationState, Rule> {
    let owner = Identifier::from_wire(&create.initial_identifier, create.initial_identifier_kind)?;
    let signer = signers.verify(create.initial_identifier_signature.as_ref(), "initial_identifier_signature")?;
    if !signer.member.is_wallet(&owner) {
        return Err(Rule::NotOwner);
    }
    if signer.kind == SignatureKind::LegacyDelegated && create.nonce != 0 {
        return Err(Rule::LegacyNotAllowed);
    }
    let inbox_id = owner.inbox_id(create.nonce)?;
    let record = MemberRecord { added_by: None, client_timestamp_ns: None, chain_id: signer.chain_id };
    Ok(AssociationState::created(inbox_id, owner, record))
}

/// Rules 2, 3, 5 and 6.
fn add(
    mut state: AssociationState,
    action: &AddAssociation,
    client_timestamp_ns: u64,
    signers: &mut Signers<'_>,
) -> Result<AssociationState, Rule> {
    let identifier = action.new_member_identifier.as_ref().ok_or(Rule::Missing("new_member_identifier"))?;
    let new_member = Member::from_wire(identifier)?;
    let existing = signers.verify(action.existing_member_signature.as_ref(), "existing_member_signature")?;
    let new = signers.verify(action.new_member_signature.as_ref(), "new_member_signature")?;
    state.refuse_replay(&existing)?;
    state.refuse_replay(&new)?;
    if new.member != new_member {
        return Err(Rule::NotNewMember);
    }
    if new.member == existing.member {
        return Err(Rule::AddsItself);
    }
    let is_legacy = |signer: &Signer| signer.kind == SignatureKind::LegacyDelegated;
    if (is_legacy(&existing) || is_legacy(&new))
        && let Some(wallet) = existing.member.wallet()
        && wallet.inbox_id(0)? != state.inbox_id
    {
        return Err(Rule::LegacyNotAllowed);
    }
    if state.member(&existing.member).is_some() {
        state.refuse_other_chain(&existing)?;
    } else if !existing.member.is_wallet(&state.recovery) {
        return Err(Rule::NotMember);
    } else if is_legacy(&existing) {
        return Err(Rule::LegacyNotAllowed);
    }
    if matches!((&existing.member, &new.member), (Member::Installation(_), Member::Installation(_))) {
        return Err(Rule::InstallationAddsInstallation);
    }
    let record = MemberRecord {
        added_by: Some(existing.member),
        client_timestamp_ns: Some(client_timestamp_ns),
        chain_id: new.chain_id,
    };
    state.members.insert(new.member, record);
    Ok(state)
}

/// Rules 4, 5 and 6.
fn revoke(
    mut state: AssociationState,
    action: &RevokeAssociation,
    signers: &mut Signers<'_>,
) -> Result<AssociationState, Rule> {
    let identifier = action.member_to_revoke.as_ref().ok_or(Rule::Missing("member_to_revoke"))?;
    let signature = action.recovery_identifier_signature.as_ref();
    refuse_others_than_recovery(&state, signature, "recovery_identifier_signature", signers)?;
    let Some(revoked) = revoked_member(identifier)? else { return Ok(state) };
    state.members.remove(&revoked);
    state.members.retain(|member, record| {
        !(matches!(member, Member::Installation(_)) && record.added_by.as_ref() == Some(&revoked))
    });
    Ok(state)
}

/// An installation id of a wrong length names nobody, and revoking nobody is allowed.
fn revoked_member(identifier: &MemberIdentifier) -> Result<Option<Member>, Rule> {
    match identifier.kind.as_ref() {
        Some(member_identifier::Kind::InstallationPublicKey(key)) if key.len() != 32 => Ok(None),
        _ => Member::from_wire(identifier).map(Some),
    }
}

/// Rules 5, 6 and 7.
fn change_recovery(
    mut state: AssociationState,
    action: &ChangeRecoveryAddress,
    signers: &mut Signers<'_>,
) -> Result<AssociationState, Rule> {
    let recovery = Identifier::from_wire(&action.new_recovery_identifier, action.new_recovery_identifier_kind)?;
    let signature = action.existing_recovery_identifier_signature.as_ref();
    refuse_others_than_recovery(&state, signature, "existing_recovery_identifier_signature", signers)?;
    state.recovery = recovery;
    Ok(state)
}

fn refuse_others_than_recovery(
    state: &AssociationState,
    signature: Option<&Signature>,
    field: &'static str,
    signers: &mut Signers<'_>,
) -> Result<(), Rule> {
    let signer = signers.verify(signature, field)?;
    state.refuse_replay(&signer)?;
    state.refuse_other_chain(&signer)?;
    if signer.kind == SignatureKind::LegacyDelegated {
        return Err(Rule::LegacyNotAllowed);
    }
    if !signer.member.is_wallet(&state.recovery) {
        return Err(Rule::NotRecovery);
    }
    Ok(())
}
