//! Identity against bytes of the network: updates that libxmtp 1.10.0 published, and an own one that it accepted
//! (identity specification, section 10).

use k256::ecdsa::SigningKey;
use prost::Message as _;
use serde_json::Value;
use xmtp_history::identity::{
    AssociationState, ContractVerdicts, Error, Identifier, Member, Rule, SignatureKind, UpdateDraft, WalletSignature,
    decode_update, inbox_id, installation_id, personal_message_hash, sign_text, signature_text, verify,
};
use xmtp_history::wire::proto::identity::api::v1::get_identity_updates_response::IdentityUpdateLog;
use xmtp_history::wire::proto::identity::associations::{
    IdentityUpdate, RecoverableEcdsaSignature, RecoverableEd25519Signature, Signature, signature,
};

fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/data/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap()
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    hex::decode(text(value, name)).unwrap()
}

fn key(value: &Value, name: &str) -> [u8; 32] {
    bytes(value, name).try_into().unwrap()
}

fn personal(secret: &[u8], text: &str) -> Vec<u8> {
    let key = SigningKey::from_slice(secret).unwrap();
    let (signature, recovery) = key.sign_prehash_recoverable(&personal_message_hash(text)).unwrap();
    [signature.to_bytes().as_slice(), &[27 + recovery.to_byte()]].concat()
}

fn update(value: &Value) -> IdentityUpdate {
    decode_update(&bytes(value, "identity_update_proto")).unwrap()
}

fn log(updates: &[IdentityUpdate]) -> Vec<IdentityUpdateLog> {
    let entry = |(sequence_id, update): (u64, &IdentityUpdate)| IdentityUpdateLog {
        sequence_id,
        server_timestamp_ns: 0,
        update: Some(update.clone()),
    };
    (10..).step_by(7).zip(updates).map(entry).collect()
}

#[test]
fn inbox_ids_match() {
    for case in vectors("identity")["inbox_ids"].as_array().unwrap() {
        let (address, nonce) = (text(case, "address"), case["nonce"].as_u64().unwrap());
        assert_eq!(inbox_id(address, nonce), text(case, "inbox_id"));
        let upper = address.to_uppercase().replacen("0X", "0x", 1);
        assert_eq!(inbox_id(&upper, nonce), text(case, "inbox_id"));
        assert_eq!(Identifier::address(&upper).unwrap().inbox_id(nonce).unwrap(), text(case, "inbox_id"));
    }
}

#[test]
fn real_updates_have_these_texts_and_signers() {
    let vectors = vectors("identity");
    let real = &vectors["real"];
    for case in real["updates"].as_array().unwrap().iter().chain([&vectors["own"]]) {
        let update = update(case);
        assert_eq!(update.encode_to_vec(), bytes(case, "identity_update_proto"), "nothing was dropped");
        assert_eq!(update.client_timestamp_ns, case["client_timestamp_ns"].as_u64().unwrap());
        let rebuilt = signature_text(&update).unwrap();
        assert_eq!(rebuilt, text(case, "signature_text"));

        let verify = |signature| {
            let signature = Signature { signature: Some(signature) };
            verify(&signature, &rebuilt, &ContractVerdicts::new()).unwrap()
        };
        let wallet = RecoverableEcdsaSignature { bytes: bytes(case, "wallet_signature") };
        let signer = verify(signature::Signature::Erc191(wallet));
        let address = case.get("address").or(real.get("address")).unwrap().as_str().unwrap();
        assert_eq!((signer.member, signer.kind), (Member::Address(address.into()), SignatureKind::Wallet));
        let public_key = key(case, "installation_public_key");
        let installation = RecoverableEd25519Signature {
            bytes: bytes(case, "installation_signature"),
            public_key: public_key.to_vec(),
        };
        let signer = verify(signature::Signature::InstallationKey(installation));
        assert_eq!((signer.member, signer.kind), (Member::Installation(public_key), SignatureKind::Installation));
    }
}

#[test]
fn the_real_log_folds_to_its_members() {
    let real = &vectors("identity")["real"];
    let updates: Vec<IdentityUpdate> = real["updates"].as_array().unwrap().iter().map(update).collect();
    let inbox = &updates[0].inbox_id;
    let log = log(&updates);
    let state = AssociationState::fold(inbox, &log, &ContractVerdicts::new()).unwrap();

    let owner = Identifier::address(text(real, "address")).unwrap();
    let keys: Vec<[u8; 32]> =
        real["updates"].as_array().unwrap().iter().map(|update| key(update, "installation_public_key")).collect();
    assert_eq!(state.inbox_id(), inbox);
    assert_eq!(state.recovery(), &owner);
    assert_eq!(state.wallets(), std::slice::from_ref(&owner));
    assert_eq!(state.installations(), keys);
    assert_eq!(state.members().len(), 3);
    assert_eq!(state.last_sequence_id(), 17);
    let record = state.member(&Member::Installation(keys[1])).unwrap();
    assert_eq!(record.added_by, Some(Member::from(owner)));
    assert_eq!(record.client_timestamp_ns, Some(updates[1].client_timestamp_ns));

    let first = AssociationState::fold_to(inbox, &log, 10, &ContractVerdicts::new()).unwrap();
    assert_eq!(first.installations(), keys[..1]);
    assert_eq!(state.installation_change(Some(&first)).added, keys[1..]);

    let mut replayed = log.clone();
    replayed.push(IdentityUpdateLog { sequence_id: 24, ..log[1].clone() });
    let refused = AssociationState::fold(inbox, &replayed, &ContractVerdicts::new());
    assert_eq!(refused, Err(Error::Refused { sequence_id: 24, rule: Rule::Replay }));
}

#[test]
fn our_update_is_reproduced_to_the_byte() {
    let vectors = vectors("identity");
    let own = &vectors["own"];
    let seed = key(own, "installation_seed");
    assert_eq!(installation_id(&seed), key(own, "installation_public_key"));
    assert_eq!(sign_text(&seed, text(own, "signature_text")).to_vec(), bytes(own, "installation_signature"));

    let owner = Identifier::address(text(own, "address")).unwrap();
    let time = own["client_timestamp_ns"].as_u64().unwrap();
    let draft =
        UpdateDraft::create_inbox(&owner, own["nonce"].as_u64().unwrap(), installation_id(&seed), time).unwrap();
    assert_eq!(draft.inbox_id(), text(own, "inbox_id"));
    assert_eq!(draft.text(), text(own, "signature_text"));
    let wallet = personal(&bytes(own, "wallet_private_key"), draft.text());
    assert_eq!(wallet, bytes(own, "wallet_signature"));
    let signed = draft.finish(WalletSignature::Personal(wallet), Some(&seed)).unwrap();
    assert_eq!(hex::encode(signed.to_bytes()), text(own, "identity_update_proto"));
}

#[test]
fn real_wallet_signatures_are_deterministic() {
    let vectors = vectors("identity");
    let real = &vectors["real"];
    let secret = bytes(real, "wallet_private_key");
    for case in real["updates"].as_array().unwrap() {
        assert_eq!(personal(&secret, text(case, "signature_text")), bytes(case, "wallet_signature"));
    }
}

#[test]
fn revocation_texts_match() {
    let identity = vectors("identity");
    let example = text(&identity, "revoke_text_example");
    let owner = Identifier::address(text(&identity["real"], "address")).unwrap();
    let inbox = text(&identity["real"]["updates"][0], "inbox_id");
    let draft = UpdateDraft::revoke_installations(inbox, &owner, &[[0xab; 32]], 1_700_000_000_000_000_000).unwrap();
    assert_eq!(draft.text(), example);

    let group = vectors("ordinary_group");
    let expected = text(&group, "revoke_signature_text");
    let line = |prefix: &str| expected.lines().find_map(|line| line.strip_prefix(prefix)).unwrap();
    let revoked: [u8; 32] = hex::decode(line("  (ID: ").trim_end_matches(')')).unwrap().try_into().unwrap();
    assert_eq!(line("Current time: "), "2026-11-22T22:25:49Z");
    let time = 1_795_386_349_999_999_999;
    let draft = UpdateDraft::revoke_installations(line("Inbox ID: "), &owner, &[revoked], time).unwrap();
    assert_eq!(draft.text(), expected);
}
