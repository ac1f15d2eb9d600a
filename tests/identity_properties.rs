//! Identity logs at large: random histories against a plain model, changed bits, and bytes of any kind.

mod identity_support;

use identity_support::{
    Act, CHAIN, Key, SECOND, add, assertion, change, create, encode, entries, fold, log, revoke, update,
};
use proptest::prelude::*;
use xmtp_history::identity::{
    AssociationState, ContractVerdicts, Error, Identifier, Member, decode_update, signature_text, verify,
};
use xmtp_history::wire::proto::identity::api::v1::get_identity_updates_response::IdentityUpdateLog;
use xmtp_history::wire::proto::identity::associations::{
    IdentityUpdate, LegacyDelegatedSignature, RecoverableEcdsaSignature, RecoverableEd25519Signature,
    RecoverablePasskeySignature, Signature, SmartContractWalletSignature, signature,
};

const OWNER: Key = Key::Wallet(1);

/// All that the histories are about.
const KEYS: [Key; 9] = [
    OWNER,
    Key::Wallet(2),
    Key::Wallet(3),
    Key::Passkey(1),
    Key::Contract(1, CHAIN),
    Key::Installation(1),
    Key::Installation(2),
    Key::Installation(3),
    Key::Installation(4),
];

fn is_installation(key: Key) -> bool {
    matches!(key, Key::Installation(_))
}

/// The rules of section 1.5 in as few words as possible; histories of it hold no replays and no second chain.
#[derive(Debug, Clone)]
struct Model {
    /// Who, added by whom, and when.
    members: Vec<(Key, Option<Key>, Option<u64>)>,
    recovery: Key,
}

impl Model {
    fn has(&self, key: Key) -> bool {
        self.members.iter().any(|(member, ..)| *member == key)
    }

    fn apply(&mut self, act: &Act, time: u64) -> bool {
        match act {
            Act::Create { .. } => false,
            Act::Add { new, by } => {
                let legal = new != by
                    && (self.has(*by) || self.recovery == *by)
                    && !(is_installation(*new) && is_installation(*by));
                if legal {
                    self.members.retain(|(member, ..)| member != new);
                    self.members.push((*new, Some(*by), Some(time)));
                }
                legal
            }
            Act::Revoke { member, by } => {
                if self.recovery == *by {
                    self.members.retain(|(key, added_by, _)| {
                        let by_revoked = added_by.is_some_and(|added_by| added_by.member() == *member);
                        key.member() != *member && !(is_installation(*key) && by_revoked)
                    });
                }
                self.recovery == *by
            }
            Act::Change { recovery, by } => {
                let legal = self.recovery == *by;
                if legal {
                    self.recovery = *KEYS.iter().find(|key| key.member().is_wallet(recovery)).unwrap();
                }
                legal
            }
        }
    }

    fn assert_equals(&self, state: &AssociationState) {
        assert_eq!(state.recovery(), &self.recovery.identifier());
        assert_eq!(state.members().len(), self.members.len());
        for (key, added_by, time) in &self.members {
            let record = state.member(&key.member()).expect("a member of the model");
            assert_eq!(record.added_by, added_by.map(Key::member));
            assert_eq!(record.client_timestamp_ns, *time);
        }
        let mut installations: Vec<_> = self.members.iter().filter(|(key, ..)| is_installation(*key)).collect();
        installations.sort_by_key(|(key, _, time)| (*time, key.member()));
        let ids = state.installations().into_iter().map(Member::Installation);
        assert!(ids.eq(installations.iter().map(|(key, ..)| key.member())));
    }
}

fn any_key() -> impl Strategy<Value = Key> {
    prop::sample::select(KEYS.to_vec())
}

fn any_act() -> impl Strategy<Value = Act> {
    // The owner signs often, or few acts would be legal.
    let by = || prop_oneof![Just(OWNER), any_key()];
    let wallet = prop::sample::select(KEYS[..5].to_vec());
    prop_oneof![
        6 => (any_key(), by()).prop_map(|(new, by)| add(new, by)),
        3 => (any_key(), by()).prop_map(|(member, by)| revoke(member, by)),
        1 => (wallet, by()).prop_map(|(recovery, by)| change(recovery, by)),
        1 => Just(create(OWNER)),
    ]
}

/// Who was added by whom, and on which chain.
type Members = Vec<(Member, Option<Member>, Option<u64>)>;

/// What must be equal for an update to have the same effect.
fn effect(state: &AssociationState) -> (String, Identifier, Members) {
    let members = state.members().map(|(member, record)| (member.clone(), record.added_by.clone(), record.chain_id));
    (state.inbox_id().to_owned(), state.recovery().clone(), members.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn histories_end_as_in_the_model(history in prop::collection::vec(prop::collection::vec(any_act(), 1..4), 0..12)) {
        let inbox = OWNER.inbox(0);
        let first = update(&inbox, SECOND, &[create(OWNER)]);
        let mut log = entries([first]);
        let mut state = fold(&inbox, &log).unwrap();
        let mut model = Model { members: vec![(OWNER, None, None)], recovery: OWNER };
        for (index, acts) in (2..).zip(&history) {
            let time = index * SECOND;
            let mut next = model.clone();
            let legal = acts.iter().all(|act| next.apply(act, time));
            let mut longer = log.clone();
            longer.extend(entries([update(&inbox, time, acts)]).into_iter().map(|mut entry| {
                entry.sequence_id = index;
                entry
            }));
            match fold(&inbox, &longer) {
                Ok(folded) => {
                    prop_assert!(legal, "{acts:?} is not legal");
                    let verdicts = approve(&inbox, &longer);
                    state.extend(&longer[log.len()..], &verdicts).unwrap();
                    prop_assert_eq!(&state, &folded);
                    (log, model) = (longer, next);
                }
                Err(Error::Refused { sequence_id, .. }) => {
                    prop_assert!(!legal, "{acts:?} is legal");
                    prop_assert_eq!(sequence_id, index);
                    let before = state.clone();
                    prop_assert!(state.extend(&longer[log.len()..], &approve(&inbox, &longer)).is_err());
                    prop_assert_eq!(&state, &before);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
            model.assert_equals(&state);
        }
        // Every accepted update is refused the second time, unless it holds no signature that is checked for replay.
        for entry in log.iter().skip(1) {
            let again = entry.update.as_ref().unwrap();
            prop_assert!(state.clone().apply(1000, again, &approve(&inbox, &log)).is_err());
        }
    }

    #[test]
    fn states_survive_serialisation(history in prop::collection::vec(any_act(), 0..12)) {
        let mut updates = vec![vec![create(OWNER)]];
        let mut model = Model { members: vec![(OWNER, None, None)], recovery: OWNER };
        updates.extend(history.into_iter().filter(|act| model.apply(act, 0)).map(|act| vec![act]));
        let state = fold(&OWNER.inbox(0), &log(OWNER, &updates)).unwrap();
        let packed = rmp_serde::to_vec(&state).unwrap();
        prop_assert_eq!(&rmp_serde::from_slice::<AssociationState>(&packed).unwrap(), &state);
        let json = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(&serde_json::from_str::<AssociationState>(&json).unwrap(), &state);
        for end in 0..packed.len() {
            prop_assert!(rmp_serde::from_slice::<AssociationState>(&packed[..end]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(update) = decode_update(&bytes) {
            prop_assert!(fold(&update.inbox_id.clone(), &entries([update])).is_err());
        }
    }

    #[test]
    fn spliced_updates_never_panic(at in any::<prop::sample::Index>(), put in prop::collection::vec(any::<u8>(), 0..9),
                                   cut in 0..9usize, which in 0..3usize) {
        let mut bytes = encode(&samples()[which]);
        let start = at.index(bytes.len());
        let end = (start + cut).min(bytes.len());
        bytes.splice(start..end, put);
        if let Ok(update) = decode_update(&bytes) {
            let _ = signature_text(&update);
            let _ = fold(&update.inbox_id.clone(), &entries([update]));
        }
    }

    #[test]
    fn any_signature_is_refused_without_panic(first in prop::collection::vec(any::<u8>(), 0..100),
                                              second in prop::collection::vec(any::<u8>(), 0..100),
                                              length in 0..70usize, account in ".{0,60}", number in any::<u64>()) {
        use signature::Signature as Wire;
        let mut exact = first.clone();
        exact.resize(length, 0x42);
        let client_data_json = assertion(1, "text").client_data_json;
        let (public_key, authenticator_data) = (second.clone(), first.clone());
        for (signature, may_hold) in [
            // Nearly any 64 bytes with a good v are somebody's signature, only nobody knows whose.
            (Wire::Erc191(RecoverableEcdsaSignature { bytes: exact.clone() }), true),
            (Wire::InstallationKey(RecoverableEd25519Signature { bytes: first.clone(), public_key: exact.clone() }), false),
            (Wire::InstallationKey(RecoverableEd25519Signature { bytes: exact.clone(), public_key: second.clone() }), false),
            (Wire::DelegatedErc191(LegacyDelegatedSignature {
                delegated_key: first.clone(), signature: Some(RecoverableEcdsaSignature { bytes: exact.clone() })
            }), false),
            (Wire::Passkey(RecoverablePasskeySignature {
                public_key, signature: exact.clone(), authenticator_data, client_data_json
            }), false),
            (Wire::Erc6492(SmartContractWalletSignature {
                account_id: account, block_number: number, signature: exact
            }), false),
        ] {
            let signature = Signature { signature: Some(signature) };
            prop_assert!(may_hold || verify(&signature, "text", &ContractVerdicts::new()).is_err());
        }
    }
}

fn approve(inbox: &str, log: &[IdentityUpdateLog]) -> ContractVerdicts {
    let mut verdicts = ContractVerdicts::new();
    if let Err(Error::Unverified(questions)) = AssociationState::fold(inbox, log, &verdicts) {
        for question in &questions {
            verdicts.insert(question, true);
        }
    }
    verdicts
}

/// First updates of logs, between them with every kind of action and of signature.
fn samples() -> [IdentityUpdate; 3] {
    let owner = [create(OWNER), add(Key::Installation(1), OWNER), add(Key::Wallet(2), Key::Installation(1))];
    let passkey = Key::Passkey(1);
    let passkeys = [create(passkey), add(Key::Contract(1, CHAIN), passkey), revoke(passkey, passkey)];
    let legacy = [
        create(Key::Legacy(1)),
        add(Key::Passkey(2), OWNER),
        change(Key::Passkey(2), OWNER),
        revoke(OWNER, Key::Passkey(2)),
    ];
    [
        update(&OWNER.inbox(0), SECOND, &owner),
        update(&passkey.inbox(0), SECOND, &passkeys),
        update(&OWNER.inbox(0), SECOND, &legacy),
    ]
}

#[test]
fn a_changed_bit_is_refused_or_without_effect() {
    for sample in samples() {
        let bytes = encode(&sample);
        let text = signature_text(&sample).unwrap();
        let expected = effect(&fold(&sample.inbox_id, &entries([sample.clone()])).unwrap());
        // The verdicts are those about the true update: a node would not give others.
        let verdicts = approve(&sample.inbox_id, &entries([sample.clone()]));
        let (mut decoded, mut harmless) = (0, 0);
        // A part of the bits, among them each of the eight places and some of every field.
        for bit in (0..bytes.len() * 8).step_by(19) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(update) = decode_update(&changed) else { continue };
            decoded += 1;
            if let Ok(state) = AssociationState::fold(&update.inbox_id.clone(), &entries([update.clone()]), &verdicts) {
                harmless += 1;
                assert_eq!(effect(&state), expected, "bit {bit}");
                assert_eq!(signature_text(&update).unwrap(), text, "bit {bit}");
            }
        }
        // Harmless are fractions of a second, other ways to write v, and fields or kinds that read as the default.
        assert!(decoded > 100 && harmless < 20, "{harmless} of {decoded}");
    }
}

#[test]
fn a_cut_update_is_refused() {
    for sample in samples() {
        let bytes = encode(&sample);
        for end in 0..bytes.len() {
            if let Ok(update) = decode_update(&bytes[..end]) {
                assert!(fold(&sample.inbox_id, &entries([update])).is_err(), "{end}");
            }
        }
    }
}

#[test]
fn bits_of_a_signature_and_of_its_text_matter() {
    let text = "a text";
    for key in [Key::Installation(1), Key::Passkey(1), Key::Legacy(1), OWNER] {
        let signature = key.sign(text);
        let signer = |signature: &Signature, text: &str| {
            verify(signature, text, &ContractVerdicts::new()).map(|signer| signer.member).ok()
        };
        assert_eq!(signer(&signature, text), Some(key.member()));
        for bit in 0..text.len() * 8 {
            let mut bytes = text.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert_ne!(signer(&signature, &changed), Some(key.member()), "{key:?} {bit}");
        }
    }
    for bit in 0..64 * 8 {
        for key in [Key::Installation(1), OWNER] {
            let mut signature = key.sign(text);
            match signature.signature.as_mut().unwrap() {
                signature::Signature::InstallationKey(signature) => signature.bytes[bit / 8] ^= 1 << (bit % 8),
                signature::Signature::Erc191(signature) => signature.bytes[bit / 8] ^= 1 << (bit % 8),
                _ => unreachable!(),
            }
            let signer = verify(&signature, text, &ContractVerdicts::new()).map(|signer| signer.member).ok();
            assert_ne!(signer, Some(key.member()), "{key:?} {bit}");
        }
    }
}

#[test]
fn a_full_log_folds_and_is_small_when_stored() {
    let mut updates = vec![vec![create(OWNER)]];
    for index in 0..255 {
        let key = Key::Installation(10 + index / 4);
        updates.push(vec![if index % 2 == 0 { add(key, OWNER) } else { revoke(key, OWNER) }]);
    }
    updates[255] = (0..9).map(|index| add(Key::Installation(index + 1), OWNER)).collect();
    assert_eq!(updates.len(), xmtp_history::identity::MAX_UPDATES);
    let state = fold(&OWNER.inbox(0), &log(OWNER, &updates)).unwrap();
    assert_eq!(state.installations().len(), 9);
    let packed = rmp_serde::to_vec(&state).unwrap();
    // 256 wallet signatures and 137 of installations, 32 bytes each, and ten members.
    assert!(packed.len() < 15_000, "{}", packed.len());
}
