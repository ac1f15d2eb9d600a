//! Keys, key packages, welcomes and envelopes against bytes that real clients sent and accepted, and against damage.
//!
//! The replays use the MLS library as it comes, in memory, to show that it follows what real clients did.

mod support;

use openmls::key_packages::KeyPackageBundle;
use openmls::prelude::tls_codec::{DeserializeBytes as _, Serialize as _};
use openmls::prelude::*;
use openmls_rust_crypto::OpenMlsRustCrypto;
use openmls_traits::signatures::Signer as _;
use openmls_traits::storage::StorageProvider as _;
use openmls_traits::types::HpkePrivateKey;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};
use xmtp_history::mls::envelope::{self, Envelope};
use xmtp_history::mls::extensions;
use xmtp_history::mls::hmac::{self, RootKey, RootKeyLength};
use xmtp_history::mls::key_package::{self, CIPHERSUITE, Error};
use xmtp_history::mls::keys::{self, InstallationKey};
use xmtp_history::mls::rules::{CredentialError, leaf_inbox_id};
use xmtp_history::mls::welcome::{self, WrappedWelcome};
use xmtp_history::wire::content::{ContentTypeId, EncodedContent};
use xmtp_history::wire::proto::mls::api::v1::welcome_message_input::{V1, Version};
use xmtp_history::wire::proto::mls::message_contents::{PlaintextEnvelope, plaintext_envelope};

const INBOX: &str = "71934639494ca1fbae974a8530369c3b94f3fc0b4ff08a2fb5277fa267737971";

// --- vectors ----------------------------------------------------------------------------------------------------------

fn vector(name: &str) -> Value {
    let path = support::data().join("vectors").join(name).with_extension("json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// The inbox that `0a 40` and 64 characters name.
fn inbox_in(credential_identity: &Value) -> String {
    String::from_utf8(hex(credential_identity)[2..].to_vec()).unwrap()
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

// --- keys -------------------------------------------------------------------------------------------------------------

#[test]
fn keys_match_those_of_the_vectors_and_sign() {
    for (name, pointer) in [("key_package", "/minimal_accepted_by_libxmtp_1_10"), ("ordinary_group", "/keys")] {
        let keys = vector(name).pointer(pointer).unwrap().clone();
        let key = InstallationKey::from_seed(&hex(&keys["signature_seed"])).unwrap();
        let package = hex(keys.get("tls").unwrap_or(&keys["key_package"]));
        let verified = key_package::parse_and_verify(&package, now()).unwrap();
        assert_eq!(verified.installation_key, key.public_key());
        assert_eq!(key.seed().as_slice(), hex(&keys["signature_seed"]));
        let signature = ed25519_dalek::Signature::from_slice(&key.sign(b"payload").unwrap()).unwrap();
        key.signing_key().verify_strict(b"payload", &signature).unwrap();
    }
}

#[test]
fn keys_differ_and_show_no_secret() {
    let (one, other) = (InstallationKey::generate().unwrap(), InstallationKey::generate().unwrap());
    assert_ne!(one.seed(), other.seed());
    let key = InstallationKey::from_seed(&[0x33; 32]).unwrap();
    let public = "17cb79fb2b4120f2b1ec65e4198d6e08b28e813feb01e4a400839b85e18080ce";
    assert_eq!(format!("{key:?}"), format!("InstallationKey({public})"));
    for given in [0, 31, 33, 64] {
        assert_eq!(InstallationKey::from_seed(&vec![1; given]).unwrap_err(), keys::Error::SeedLength { given });
    }
}

#[test]
fn credentials_name_their_inbox() {
    let key = InstallationKey::from_seed(&[0x33; 32]).unwrap();
    let credential = key.credential(INBOX).unwrap();
    let real = &vector("key_package")["minimal_accepted_by_libxmtp_1_10"]["parsed"]["leaf_node"];
    assert_eq!(credential.credential.serialized_content(), hex(&real["credential_identity"]));
    assert_eq!(credential.signature_key.as_slice(), key.public_key());
    assert_eq!(leaf_inbox_id(&credential.credential).unwrap(), INBOX);
    for wrong in ["", &INBOX[1..], &INBOX.to_uppercase(), &INBOX.replace('7', "g"), &INBOX.replace("71", "é")] {
        assert_eq!(key.credential(wrong).unwrap_err(), keys::Error::NotAnInboxId, "{wrong}");
    }
    let of = |content: &[u8]| leaf_inbox_id(&BasicCredential::new(content.to_vec()).into());
    for content in [&b""[..], b"\x0a\x40short", b"\x0a\x02\xff\xff", INBOX.as_bytes()] {
        assert!(of(content).is_err());
    }
    let x509 = Credential::new(CredentialType::X509, Vec::new());
    assert_eq!(leaf_inbox_id(&x509), Err(CredentialError::NotXmtp));
}

// --- key packages -----------------------------------------------------------------------------------------------------

#[test]
fn real_key_packages_are_read() {
    let vectors = vector("key_package");
    for name in ["real_libxmtp_1_10", "minimal_accepted_by_libxmtp_1_10"] {
        let parsed = &vectors[name]["parsed"];
        let leaf = &parsed["leaf_node"];
        let bytes = hex(&vectors[name]["tls"]);
        let not_after = number(&leaf["not_after"]);
        if now() >= not_after {
            // The real package lasts 84 days.
            assert_eq!(key_package::parse_and_verify(&bytes, now()).unwrap_err(), Error::Expired { not_after });
            continue;
        }
        let verified = key_package::parse_and_verify(&bytes, now()).unwrap();
        let package = &verified.key_package;
        assert_eq!(verified.installation_key.as_slice(), hex(&leaf["signature_key"]));
        assert_eq!(verified.inbox_id, inbox_in(&leaf["credential_identity"]));
        assert_eq!(package.hpke_init_key().as_slice(), hex(&parsed["init_key"]));
        assert_eq!(
            package.leaf_node().encryption_key().tls_serialize_detached().unwrap()[1..],
            hex(&leaf["encryption_key"])
        );
        let provider = OpenMlsRustCrypto::default();
        assert_eq!(package.hash_ref(provider.crypto()).unwrap().as_slice(), hex(&parsed["key_package_ref"]));
        assert_eq!(package.life_time().not_before(), number(&leaf["not_before"]));
        assert_eq!(package.life_time().not_after(), not_after);
        assert!(package.last_resort());
        let types = package.extensions().iter().map(|extension| u16::from(extension.extension_type()));
        let expected = parsed["extensions"].as_array().unwrap().iter().map(|extension| &extension[0]);
        let expected = expected.map(|id| u16::from_str_radix(&id.as_str().unwrap()[2..], 16).unwrap());
        assert!(types.eq(expected));
        assert_eq!(package.tls_serialize_detached().unwrap(), bytes);
        key_package::check_in_throwaway_group(&bytes).unwrap();
    }
}

#[test]
fn times_outside_of_the_lifetime_are_refused() {
    let bytes = new_package(|builder| builder);
    let lifetime = *key_package::parse_and_verify(&bytes, now()).unwrap().key_package.life_time();
    let (not_before, not_after) = (lifetime.not_before(), lifetime.not_after());
    for time in [not_before, not_after - 1] {
        key_package::parse_and_verify(&bytes, time).unwrap();
    }
    for time in [0, not_before - 1] {
        assert_eq!(key_package::parse_and_verify(&bytes, time).unwrap_err(), Error::NotYetValid { not_before });
    }
    for time in [not_after, 1 << 60] {
        assert_eq!(key_package::parse_and_verify(&bytes, time).unwrap_err(), Error::Expired { not_after });
    }
    assert!(key_package::parse_and_verify(&bytes, u64::MAX).is_err());
    // The clock of the machine counts too, and here as well.
    let late = new_package(|builder| builder.key_package_lifetime(Lifetime::init(now() + 4000, u64::MAX)));
    for error in [
        key_package::parse_and_verify(&late, now() + 5000).unwrap_err(),
        key_package::check_in_throwaway_group(&late).unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotYetValid { .. }));
    }
}

#[test]
fn our_package_is_the_recommended_one() {
    let (provider, key) = (OpenMlsRustCrypto::default(), InstallationKey::from_seed(&[0x33; 32]).unwrap());
    let time = now();
    let new = key_package::build(&provider, &key, INBOX, time).unwrap();
    let verified = key_package::parse_and_verify(&new.bytes, time).unwrap();
    assert_eq!((verified.inbox_id.as_str(), verified.installation_key), (INBOX, key.public_key()));
    let package = verified.key_package;
    assert_eq!(package.life_time().not_before(), time - 2 * 24 * 3600);
    assert_eq!(package.life_time().not_after(), time + 82 * 24 * 3600);
    assert_eq!(package.hpke_init_key().as_slice(), new.init_key);
    let reference = key_package::reference(&new.bytes, provider.crypto()).unwrap();
    assert_eq!(package.hash_ref(provider.crypto()).unwrap(), reference);
    // All that is neither random nor a time stands as in the package that a real client accepted.
    let accepted = hex(&vector("key_package")["minimal_accepted_by_libxmtp_1_10"]["tls"]);
    assert_eq!(new.bytes.len(), accepted.len());
    let accepted = key_package::parse_and_verify(&accepted, time).unwrap().key_package;
    assert_eq!(package.extensions(), accepted.extensions());
    assert_eq!(package.leaf_node().extensions(), accepted.leaf_node().extensions());
    assert_eq!(package.leaf_node().capabilities(), accepted.leaf_node().capabilities());
    assert_eq!(key_package::build(&provider, &key, "inbox", time).unwrap_err(), Error::Keys(keys::Error::NotAnInboxId));
    let wrong_clock = key_package::build(&provider, &key, INBOX, 0).unwrap_err();
    assert!(matches!(wrong_clock, Error::Expired { .. }));
}

#[test]
fn required_capabilities_are_those_of_real_groups() {
    let extension = Extension::RequiredCapabilities(extensions::required_capabilities());
    let bytes = extension.tls_serialize_detached().unwrap();
    assert_eq!(hex::encode(bytes), "0003130cff01ff00ff02f000000a0001020007020001");
}

/// A package as ours, but for what the closure changes.
fn new_package(change: impl FnOnce(KeyPackageBuilder) -> KeyPackageBuilder) -> Vec<u8> {
    let (provider, key) = (OpenMlsRustCrypto::default(), InstallationKey::generate().unwrap());
    let capabilities = key_package::key_package_capabilities();
    let builder = KeyPackage::builder().leaf_node_capabilities(capabilities).mark_as_last_resort();
    let credential = key.credential(INBOX).unwrap();
    let bundle = change(builder).build(CIPHERSUITE, &provider, &key, credential).unwrap();
    bundle.key_package().tls_serialize_detached().unwrap()
}

/// Our capabilities without an extension, or without credential type 1.
fn without(extension: u16, credential: Option<u16>) -> Capabilities {
    let ours = key_package::key_package_capabilities();
    let extensions: Vec<_> = ours.extensions().iter().copied().filter(|id| u16::from(*id) != extension).collect();
    let credentials = credential.map_or_else(|| ours.credentials().to_vec(), |other| vec![other.into()]);
    Capabilities::new(None, Some(&[CIPHERSUITE]), Some(&extensions), Some(ours.proposals()), Some(&credentials))
}

#[test]
fn packages_that_block_peers_fail_in_the_throwaway_group() {
    let package = |capabilities: Capabilities| new_package(|builder| builder.leaf_node_capabilities(capabilities));
    for extension in [0xf000, 0xff00, 0xff01, 0xff02] {
        let bytes = package(without(extension, None));
        // Real clients fetch it without complaint, and so do we.
        key_package::parse_and_verify(&bytes, now()).unwrap();
        let error = key_package::check_in_throwaway_group(&bytes).unwrap_err();
        assert!(matches!(error, Error::NotAddable(_)), "{extension:#x}: {error}");
    }
    // Credential type 2 instead of 1.
    let bytes = with_capabilities(&without(0, Some(2)));
    key_package::parse_and_verify(&bytes, now()).unwrap();
    let error = key_package::check_in_throwaway_group(&bytes).unwrap_err();
    assert!(matches!(error, Error::NotAddable(_)), "{error}");
    // What real clients do add.
    for accepted in [without(0, None), without(0x0001, None)] {
        key_package::check_in_throwaway_group(&package(accepted)).unwrap();
    }
    // The package's own extension is not in the capabilities.
    let bytes = package(without(0x000a, None));
    assert_eq!(key_package::parse_and_verify(&bytes, now()).unwrap_err(), Error::BadExtension);
}

/// The fields of a package whose signatures this file makes itself: the library builds no wrong ones.
struct Crafted {
    version: u16,
    ciphersuite: u16,
    init_key: Vec<u8>,
    encryption_key: Vec<u8>,
    credential: Vec<u8>,
    capabilities: Capabilities,
    source: Vec<u8>,
}

impl Crafted {
    fn new() -> Self {
        let lifetime = [0_u64.to_be_bytes(), u64::MAX.to_be_bytes()].concat();
        let credential = InstallationKey::generate().unwrap().credential(INBOX).unwrap().credential;
        Self {
            version: 1,
            ciphersuite: 3,
            init_key: vec![9; 32],
            encryption_key: vec![8; 32],
            credential: credential.tls_serialize_detached().unwrap(),
            capabilities: key_package::key_package_capabilities(),
            source: [vec![1], lifetime].concat(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let key = InstallationKey::generate().unwrap();
        let vec = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap();
            match length {
                0..64 => [&[u8::try_from(length).unwrap()][..], bytes].concat(),
                _ => [&(length | 0x4000).to_be_bytes()[..], bytes].concat(),
            }
        };
        // RFC 9420, section 5.1.2.
        let signed = |label: &str, content: &[u8]| {
            let payload = [vec(format!("MLS 1.0 {label}").as_bytes()), vec(content)].concat();
            [content, &vec(&key.sign(&payload).unwrap())].concat()
        };
        let capabilities = self.capabilities.tls_serialize_detached().unwrap();
        let [encryption_key, signature_key] = [vec(&self.encryption_key), vec(&key.public_key())];
        let leaf =
            [encryption_key, signature_key, self.credential.clone(), capabilities, self.source.clone(), vec(&[])];
        let leaf = signed("LeafNodeTBS", &leaf.concat());
        let head = [self.version, self.ciphersuite].map(u16::to_be_bytes).concat();
        signed("KeyPackageTBS", &[head, vec(&self.init_key), leaf, vec(&[])].concat())
    }
}

fn with_capabilities(capabilities: &Capabilities) -> Vec<u8> {
    Crafted { capabilities: capabilities.clone(), ..Crafted::new() }.bytes()
}

#[test]
fn crafted_packages_get_the_right_error() {
    let error = |package: Crafted| key_package::parse_and_verify(&package.bytes(), now()).unwrap_err();
    let x509 = Credential::new(CredentialType::X509, Vec::new()).tls_serialize_detached().unwrap();
    let nobody = Credential::from(BasicCredential::new(b"nobody".to_vec())).tls_serialize_detached().unwrap();
    key_package::parse_and_verify(&Crafted::new().bytes(), now()).unwrap();
    assert_eq!(error(Crafted { version: 2, ..Crafted::new() }), Error::OtherVersion);
    assert_eq!(error(Crafted { ciphersuite: 1, ..Crafted::new() }), Error::OtherCiphersuite);
    assert_eq!(error(Crafted { encryption_key: vec![9; 32], ..Crafted::new() }), Error::RepeatedKey);
    assert_eq!(error(Crafted { source: vec![2], ..Crafted::new() }), Error::OtherLeafSource);
    assert_eq!(error(Crafted { source: vec![3, 0], ..Crafted::new() }), Error::OtherLeafSource);
    assert_eq!(error(Crafted { credential: x509, ..Crafted::new() }), Error::BadCredential);
    assert_eq!(error(Crafted { credential: nobody, ..Crafted::new() }), Error::BadCredential);
    let long = vec![0; (1 << 16) + 1];
    assert_eq!(key_package::parse_and_verify(&long, now()).unwrap_err(), Error::Malformed);
}

#[test]
fn packages_with_unusable_keys_fail_in_the_throwaway_group() {
    key_package::check_in_throwaway_group(&Crafted::new().bytes()).unwrap();
    for key in [vec![], vec![0; 32], vec![1; 31], vec![1; 33], vec![1; 900]] {
        let init = Crafted { init_key: key.clone(), ..Crafted::new() };
        let encryption = Crafted { encryption_key: key.clone(), ..Crafted::new() };
        for package in [init, encryption] {
            let error = key_package::check_in_throwaway_group(&package.bytes()).unwrap_err();
            assert!(matches!(error, Error::NotAddable(_)), "{} bytes: {error}", key.len());
        }
    }
}

#[test]
fn every_truncated_or_changed_package_is_refused() {
    let bytes = hex(&vector("key_package")["minimal_accepted_by_libxmtp_1_10"]["tls"]);
    key_package::parse_and_verify(&bytes, now()).unwrap();
    for length in 0..bytes.len() {
        assert_eq!(key_package::parse_and_verify(&bytes[..length], now()).unwrap_err(), Error::Malformed);
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(key_package::parse_and_verify(&longer, now()).unwrap_err(), Error::Malformed);
    for position in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[position] ^= 1 << (position % 8);
        key_package::parse_and_verify(&changed, now()).unwrap_err();
        key_package::check_in_throwaway_group(&changed).unwrap_err();
    }
}

// --- welcomes ---------------------------------------------------------------------------------------------------------

/// The wrapped welcome of a group, whether the vector has it or has to have it made.
fn wrapped(vector: &Value) -> V1 {
    let Some(wrapped) = vector.get("wrapped") else {
        let verified = key_package::parse_and_verify(&hex(&vector["keys"]["key_package"]), now()).unwrap();
        let init_key = verified.key_package.hpke_init_key().as_slice();
        return wrap(&hex(&vector["mls_message_welcome"]), number(&vector["message_cursor"]), init_key);
    };
    V1 {
        installation_key: hex(&wrapped["installation_key"]),
        data: hex(&wrapped["data"]),
        hpke_public_key: hex(&wrapped["hpke_public_key"]),
        wrapper_algorithm: i32::try_from(number(&wrapped["wrapper_algorithm"])).unwrap(),
        welcome_metadata: hex(&wrapped["welcome_metadata"]),
    }
}

fn wrap(welcome: &[u8], cursor: u64, init_key: &[u8]) -> V1 {
    match welcome::wrap(welcome, cursor, &[5; 32], init_key).unwrap().version {
        Some(Version::V1(v1)) => v1,
        other => panic!("{other:?}"),
    }
}

fn unwrap(wrapped: &V1, private_key: &[u8]) -> Result<welcome::Unwrapped, welcome::Error> {
    let input = WrappedWelcome {
        data: &wrapped.data,
        hpke_public_key: &wrapped.hpke_public_key,
        wrapper_algorithm: wrapped.wrapper_algorithm,
        welcome_metadata: &wrapped.welcome_metadata,
    };
    welcome::unwrap(&input, private_key)
}

#[test]
fn welcomes_of_the_vectors_open() {
    for name in ["sync_group_joined", "ordinary_group"] {
        let vector = vector(name);
        let private_key = hex(&vector["keys"]["init_private_key"]);
        let mut wrapped = wrapped(&vector);
        let unwrapped = unwrap(&wrapped, &private_key).unwrap();
        assert_eq!(unwrapped.welcome_bytes, hex(&vector["mls_message_welcome"]));
        assert_eq!(unwrapped.message_cursor, vector["message_cursor"].as_u64());
        for unspecified_or_unknown in [0, 4, 99, -1, i32::MIN] {
            wrapped.wrapper_algorithm = unspecified_or_unknown;
            assert_eq!(unwrap(&wrapped, &private_key), Ok(unwrapped.clone()));
        }
        wrapped.welcome_metadata.clear();
        assert_eq!(unwrap(&wrapped, &private_key).unwrap().message_cursor, None);
        for other in [2, 3] {
            wrapped.wrapper_algorithm = other;
            assert_eq!(unwrap(&wrapped, &private_key), Err(welcome::Error::UnsupportedWrapper(other)));
        }
    }
}

#[test]
fn the_x_wing_welcome_is_refused_as_such() {
    let vector = vector("welcome_wrapper_xwing");
    let wrapped = V1 {
        data: hex(&vector["data"]),
        hpke_public_key: hex(&vector["public_key"]),
        wrapper_algorithm: 2,
        welcome_metadata: hex(&vector["welcome_metadata"]),
        ..V1::default()
    };
    assert_eq!(unwrap(&wrapped, &[1; 32]), Err(welcome::Error::UnsupportedWrapper(2)));
    // Called by the wrong name it is malformed, as its encapsulated secret is long.
    let public_key = hex(&crate::vector("sync_group_joined")["wrapped"]["hpke_public_key"]);
    let private_key = hex(&crate::vector("sync_group_joined")["unwrap_private_key"]);
    let misnamed = V1 { wrapper_algorithm: 1, hpke_public_key: public_key, ..wrapped };
    assert_eq!(unwrap(&misnamed, &private_key), Err(welcome::Error::Malformed));
}

#[test]
fn what_is_wrapped_unwraps() {
    let keys = &vector("sync_group_joined")["keys"];
    let private_key = hex(&keys["init_private_key"]);
    let public_key = hex(&vector("sync_group_joined")["wrapped"]["hpke_public_key"]);
    // On both sides of each length at which the prefix of the sealed welcome grows.
    for length in [0, 1, 47, 48, 16367, 16368, 70000] {
        let welcome = vec![0x5a; length];
        for cursor in [1, u64::MAX] {
            let wrapped = wrap(&welcome, cursor, &public_key);
            assert_eq!((wrapped.installation_key.as_slice(), wrapped.wrapper_algorithm), (&[5; 32][..], 1));
            let unwrapped = unwrap(&wrapped, &private_key).unwrap();
            assert_eq!((unwrapped.welcome_bytes, unwrapped.message_cursor), (welcome.clone(), Some(cursor)));
        }
    }
    // Zero is what protobuf leaves out: sealed nothing says nothing.
    assert_eq!(unwrap(&wrap(b"", 0, &public_key), &private_key).unwrap().message_cursor, None);
    assert_ne!(wrap(b"", 1, &public_key).data, wrap(b"", 1, &public_key).data);
}

#[test]
fn unusable_init_keys_are_named() {
    for given in [0, 31, 33] {
        let error = welcome::wrap(b"", 1, &[5; 32], &vec![1; given]).unwrap_err();
        assert_eq!(error, welcome::Error::KeyLength { given });
        let wrapped = wrapped(&vector("sync_group_joined"));
        assert_eq!(unwrap(&wrapped, &vec![1; given]), Err(welcome::Error::KeyLength { given }));
    }
    // The curve's points of small order share nothing secret.
    assert_eq!(welcome::wrap(b"", 1, &[5; 32], &[0; 32]).unwrap_err(), welcome::Error::UnusableInitKey);
    assert_eq!(unwrap(&wrapped(&vector("sync_group_joined")), &[1; 32]), Err(welcome::Error::OtherInitKey));
}

#[test]
fn every_truncated_or_changed_welcome_is_refused() {
    let vector = vector("sync_group_joined");
    let private_key = hex(&vector["unwrap_private_key"]);
    let wrapped = wrapped(&vector);
    let damaged = |field: fn(&mut V1) -> &mut Vec<u8>, damage: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = wrapped.clone();
        damage(field(&mut damaged));
        unwrap(&damaged, &private_key).unwrap_err()
    };
    let fields: [fn(&mut V1) -> &mut Vec<u8>; 3] =
        [|v1| &mut v1.data, |v1| &mut v1.hpke_public_key, |v1| &mut v1.welcome_metadata];
    for field in fields {
        let length = field(&mut wrapped.clone()).len();
        for position in 0..length {
            damaged(field, &|bytes| bytes[position] ^= 1 << (position % 8));
            // No metadata at all is not a damage.
            damaged(field, &|bytes| bytes.truncate(position.max(1).min(length - 1)));
        }
        damaged(field, &|bytes| bytes.push(0));
    }
    // The same length in a longer form, and one that only other protocols have.
    assert_eq!(damaged(|v1| &mut v1.data, &|data| _ = data.splice(..1, [0x40, 32])), welcome::Error::Malformed);
    assert_eq!(damaged(|v1| &mut v1.data, &|data| _ = data.splice(..1, [0x80, 0, 0, 32])), welcome::Error::Malformed);
    let eight = [0xc0, 0, 0, 0, 0, 0, 0, 32];
    assert_eq!(damaged(|v1| &mut v1.data, &|data| _ = data.splice(..1, eight)), welcome::Error::Malformed);
}

// --- envelopes --------------------------------------------------------------------------------------------------------

/// Every application message of the vectors: the group, the plaintext, and the vector's reading of it.
fn application_messages() -> Vec<(Vec<u8>, Vec<u8>, Value)> {
    let messages = [
        ("sync_group_joined", "/messages", "/group_context/group_id"),
        ("sync_group_created", "/messages_from_real", "/group_context_after/group_id"),
        ("ordinary_group", "/messages", "/group_context/group_id"),
    ];
    let messages = messages.into_iter().flat_map(|(name, messages, group_id)| {
        let vector = vector(name);
        let group_id = hex(vector.pointer(group_id).unwrap());
        let messages = vector.pointer(messages).unwrap().as_array().unwrap().clone();
        messages.into_iter().map(move |message| (group_id.clone(), message))
    });
    let applications = messages.filter(|(_, message)| message["is_commit"] == false);
    applications.map(|(group_id, message)| (group_id, hex(&message["application_data"]), message)).collect()
}

#[test]
fn envelopes_and_ids_of_the_vectors_match() {
    let messages = application_messages();
    assert_eq!(messages.len(), 6);
    for (group_id, bytes, message) in messages {
        let Ok(Envelope::V1 { content, idempotency_key }) = envelope::decode(&bytes) else { panic!("{message}") };
        assert_eq!(content, hex(&message["plaintext_envelope"]["v1.content"]));
        assert_eq!(idempotency_key, message["plaintext_envelope"]["v1.idempotency_key"].as_str().unwrap());
        assert_eq!(envelope::encode(&content, &idempotency_key), bytes);
        let id = envelope::message_id(&group_id, &idempotency_key, &content);
        assert_eq!(id.as_slice(), hex(&message["xmtp_message_id"]));

        let expected = &message["encoded_content"];
        let content_type = envelope::content_type(&content).unwrap();
        assert_eq!(content_type.authority_id, expected["authority_id"].as_str().unwrap());
        assert_eq!(content_type.type_id, expected["type_id"].as_str().unwrap());
        assert_eq!((content_type.version_major, content_type.version_minor), (1, 0));
        assert_eq!(envelope::is_device_sync(&content_type), message.get("device_sync_content").is_some());
        let fields = envelope::query_fields(&content);
        assert_eq!((fields.content_type, fields.authority_id), (content_type.type_id, content_type.authority_id));
        assert_eq!((fields.version_major, fields.version_minor, fields.reference_id), (1, 0, None));

        for length in 0..bytes.len() {
            // Cut between its two fields it says less, as protobuf has it; elsewhere it is damaged.
            let cut = envelope::decode(&bytes[..length]);
            assert!(matches!(cut, Err(envelope::Error::NotAnEnvelope | envelope::Error::Empty)), "{length}");
        }
    }
}

#[test]
fn other_envelopes_are_told_apart() {
    let obsolete = PlaintextEnvelope { content: Some(plaintext_envelope::Content::V2(vec![8, 1])) };
    assert_eq!(envelope::decode(&obsolete.encode_to_vec()), Ok(Envelope::Obsolete));
    assert_eq!(envelope::decode(b""), Err(envelope::Error::Empty));
    assert_eq!(envelope::decode(b"\x0a\x04\x12\x02\xff\xff"), Err(envelope::Error::NotAnEnvelope));
    assert_eq!(envelope::content_type(b""), None);
    assert_eq!(envelope::content_type(b"no protobuf"), None);
    for (authority_id, type_id, version_major, expected) in [
        ("xmtp.org", "application/x-protobuf", 1, true),
        ("xmtp.org", "application/x-protobuf", 2, false),
        ("xmtp.org", "text", 1, false),
        ("example.org", "application/x-protobuf", 1, false),
    ] {
        let content_type = ContentTypeId {
            authority_id: authority_id.to_owned(),
            type_id: type_id.to_owned(),
            version_major,
            version_minor: 7,
        };
        assert_eq!(envelope::is_device_sync(&content_type), expected);
    }
}

/// An `EncodedContent` of a type of `xmtp.org`.
fn content(type_id: &str, version_major: u32, reference: Option<&str>, body: &[u8]) -> Vec<u8> {
    let id = ContentTypeId {
        authority_id: "xmtp.org".to_owned(),
        type_id: type_id.to_owned(),
        version_major,
        version_minor: 3,
    };
    let parameters = reference.map(|reference| ("reference".to_owned(), reference.to_owned()));
    EncodedContent {
        r#type: Some(id),
        parameters: parameters.into_iter().collect(),
        content: body.to_vec(),
        ..EncodedContent::default()
    }
    .encode()
}

#[test]
fn references_are_found_where_the_reference_client_finds_them() {
    let text = content("text", 1, None, b"hello");
    let v2 = b"\x0a\x04abcd\x12\x05inbox\x18\x01\x22\x01+\x28\x01";
    let legacy = br#"{"action":"added","reference":"abcd","schema":"unicode","content":"+","more":[1]}"#;
    let with_inbox = br#"{"action":"a","reference":"ABCD","referenceInboxId":null,"schema":"","content":""}"#;
    let incomplete = br#"{"reference":"abcd"}"#;
    let found = Some(vec![0xab, 0xcd]);
    for (type_id, major, parameter, body, expected) in [
        ("reply", 1, Some("abcd"), &text[..], found.clone()),
        ("reply", 1, Some("abcd"), b"", found.clone()),
        // An inner content that is none, another version, no reference, and one that is not hexadecimal.
        ("reply", 1, Some("abcd"), b"\xff", None),
        ("reply", 2, Some("abcd"), &text, None),
        ("reply", 1, None, &text, Some(vec![])),
        ("reply", 1, Some("xyz"), &text, None),
        ("reaction", 2, None, v2, found.clone()),
        ("reaction", 9, None, v2, found.clone()),
        ("reaction", 2, None, b"\x0a\x04abcd\x12\x01\xff", None),
        ("reaction", 1, None, legacy, found.clone()),
        ("reaction", 0, None, with_inbox, found.clone()),
        ("reaction", 1, None, incomplete, None),
        ("reaction", 1, None, v2, None),
        ("deleteMessage", 1, None, b"\x0a\x04abcd", found),
        ("deleteMessage", 2, None, b"\x0a\x04abcd", None),
        ("deleteMessage", 1, None, b"\x0a\x03abc", None),
        ("text", 1, Some("abcd"), b"hello", None),
    ] {
        let fields = envelope::query_fields(&content(type_id, major, parameter, body));
        assert_eq!(fields.reference_id, expected, "{type_id} {major} {body:?}");
        assert_eq!((fields.content_type.as_str(), fields.authority_id.as_str()), (type_id, "xmtp.org"));
        assert_eq!((fields.version_major, fields.version_minor), (i32::try_from(major).unwrap(), 3));
    }
}

#[test]
fn unreadable_content_is_filed_as_unknown() {
    for bytes in [&b"no protobuf"[..], b"", b"\x22\x05hello"] {
        let fields = envelope::query_fields(bytes);
        assert_eq!((fields.content_type.as_str(), fields.authority_id.as_str()), ("unknown", ""));
        assert_eq!((fields.version_major, fields.version_minor, fields.reference_id), (0, 0, None));
    }
    assert_eq!(envelope::query_fields(&content("own/type", u32::MAX, None, b"")).content_type, "own/type");
    assert_eq!(envelope::query_fields(&content("text", u32::MAX, None, b"")).version_major, -1);
}

// --- HMAC -------------------------------------------------------------------------------------------------------------

#[test]
fn the_sender_hmac_of_the_vector_matches() {
    let vector = &vector("sync_group_created")["sender_hmac"];
    let (group_id, data) = (hex(&vector["group_id"]), hex(&vector["data"]));
    let root = RootKey::new(&hex(&vector["root_key"])).unwrap();
    let epoch = vector["hmac_epoch"].as_i64().unwrap();
    assert_eq!(hmac::hmac_key(&root, &group_id, epoch).as_slice(), hex(&vector["derived_key_42"]));
    let epoch_ns = 2_592_000_000_000_000;
    for now_ns in [epoch * epoch_ns, (epoch + 1) * epoch_ns - 1] {
        let tag = hmac::sender_hmac(&root, &group_id, &data, now_ns);
        assert_eq!(tag.as_slice(), hex(&vector["sender_hmac"]));
    }
    assert_eq!([0, -1, (epoch + 1) * epoch_ns].map(hmac::epoch_at), [0, -1, epoch + 1]);
    assert_eq!([i64::MIN, i64::MAX].map(hmac::epoch_at), [-3559, 3558]);
}

#[test]
fn root_keys_have_42_bytes_and_are_not_shown() {
    for given in [0, 32, 41, 43] {
        assert_eq!(RootKey::new(&vec![1; given]).unwrap_err(), RootKeyLength { given });
    }
    let (one, other) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
    assert_ne!(one.as_bytes(), other.as_bytes());
    assert_eq!(format!("{one:?}"), "RootKey(..)");
}

// --- groups -----------------------------------------------------------------------------------------------------------

/// A provider that holds the private keys of a vector's key package, as if it had made them.
fn provider_with(keys: &Value) -> OpenMlsRustCrypto {
    let verified = key_package::parse_and_verify(&hex(&keys["key_package"]), now()).unwrap();
    let private = |name: &str| serde_json::to_value(HpkePrivateKey::from(hex(&keys[name]))).unwrap();
    let bundle: KeyPackageBundle = serde_json::from_value(json!({
        "key_package": serde_json::to_value(&verified.key_package).unwrap(),
        "private_init_key": private("init_private_key"),
        "private_encryption_key": { "key": private("leaf_encryption_private_key") },
    }))
    .unwrap();
    let provider = OpenMlsRustCrypto::default();
    let hash_ref = verified.key_package.hash_ref(provider.crypto()).unwrap();
    provider.storage().write_key_package(&hash_ref, &bundle).unwrap();
    provider
}

fn join(provider: &OpenMlsRustCrypto, welcome: &[u8]) -> MlsGroup {
    let MlsMessageBodyIn::Welcome(welcome) = MlsMessageIn::tls_deserialize_exact_bytes(welcome).unwrap().extract()
    else {
        panic!("no welcome");
    };
    let config = MlsGroupJoinConfig::builder().max_past_epochs(3).use_ratchet_tree_extension(true).build();
    let staged = StagedWelcome::build_from_welcome(provider, &config, welcome).unwrap();
    staged.skip_lifetime_validation().build().unwrap().into_group(provider).unwrap()
}

/// What a message says, if it is for applications; a commit is applied, and yields when the packages in it expire.
fn receive(provider: &OpenMlsRustCrypto, group: &mut MlsGroup, data: &[u8]) -> Result<Received, LibraryError> {
    let message = MlsMessageIn::tls_deserialize_exact_bytes(data).unwrap();
    let processed = group.process_message(provider, message.try_into_protocol_message().unwrap());
    match processed.map_err(|error| format!("{error:?}"))?.into_content() {
        ProcessedMessageContent::ApplicationMessage(message) => Ok(Received::Application(message.into_bytes())),
        ProcessedMessageContent::StagedCommitMessage(commit) => {
            let added = commit.add_proposals().map(|add| add.add_proposal().key_package().life_time().not_after());
            let expires = added.min();
            group.merge_staged_commit(provider, *commit).unwrap();
            Ok(Received::Commit { expires })
        }
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, PartialEq)]
enum Received {
    Application(Vec<u8>),
    Commit { expires: Option<u64> },
}

/// The library's error, in its own words: it has a type parameter that says nothing here.
type LibraryError = String;

fn assert_state(group: &MlsGroup, state: &Value, authenticator: &Value) {
    assert_eq!(group.epoch().as_u64(), number(&state["epoch"]));
    assert_eq!(group.public_group().group_context().tree_hash(), hex(&state["tree_hash"]));
    assert_eq!(group.epoch_authenticator().as_slice(), hex(authenticator));
}

/// Joins a vector's group from its wrapped welcome and follows it.
///
/// A commit may add a package that has expired since, on whose life the library insists (identity spec 8): the index of
/// such a message and when. The group can then not be followed any further.
fn replay(name: &str, expires: Option<(usize, u64)>) {
    let vector = vector(name);
    let provider = provider_with(&vector["keys"]);
    let unwrapped = unwrap(&wrapped(&vector), &hex(&vector["keys"]["init_private_key"])).unwrap();
    let mut group = join(&provider, &unwrapped.welcome_bytes);
    assert_eq!(group.group_id().as_slice(), hex(&vector["group_context"]["group_id"]));
    assert_eq!(u64::from(group.own_leaf_index().u32()), number(&vector["own_leaf"]));
    assert_state(&group, &vector["group_context"], &vector["epoch_authenticator"]);
    for (index, message) in vector["messages"].as_array().unwrap().iter().enumerate() {
        let received = receive(&provider, &mut group, &hex(&message["data"]));
        let not_after = expires.filter(|(commit, _)| *commit == index).map(|(_, not_after)| not_after);
        if not_after.is_some_and(|not_after| now() >= not_after) {
            let error = received.unwrap_err();
            assert!(error.contains("Lifetime") && error.contains("Expired"), "{error}");
            return;
        }
        match received.unwrap() {
            Received::Application(bytes) => assert_eq!(bytes, hex(&message["application_data"])),
            Received::Commit { expires } => {
                assert!(not_after.is_none() || expires == not_after, "{expires:?}");
                assert_state(&group, &message["after"], &message["after"]["epoch_authenticator"]);
            }
        }
    }
}

#[test]
fn the_joined_sync_group_replays() {
    replay("sync_group_joined", None);
}

#[test]
fn the_ordinary_group_replays_until_a_package_expires() {
    // The fourth message adds a real client, whose package lasts 84 days.
    replay("ordinary_group", Some((3, 1_802_643_949)));
}

#[test]
fn a_package_of_ours_joins_through_a_wrapped_welcome() {
    let (provider, key) = (OpenMlsRustCrypto::default(), InstallationKey::generate().unwrap());
    let new = key_package::build(&provider, &key, INBOX, now()).unwrap();
    let verified = key_package::parse_and_verify(&new.bytes, now()).unwrap();

    let (adder, adder_key) = (OpenMlsRustCrypto::default(), InstallationKey::generate().unwrap());
    let mut group = MlsGroup::builder()
        .ciphersuite(CIPHERSUITE)
        .with_capabilities(key_package::creator_capabilities())
        .use_ratchet_tree_extension(true)
        .build(&adder, &adder_key, adder_key.credential(INBOX).unwrap())
        .unwrap();
    let (_, welcome, _) = group.add_members(&adder, &adder_key, &[verified.key_package]).unwrap();
    group.merge_pending_commit(&adder).unwrap();
    let wrapped = wrap(&welcome.tls_serialize_detached().unwrap(), 77, &new.init_key);

    // As a client finds its private key: by the reference that it stored beside the init key.
    let hash_ref = verified_reference(&provider, &new.bytes);
    assert_eq!(hash_ref, key_package::reference(&new.bytes, provider.crypto()).unwrap());
    for _ in 0..2 {
        // Last resort: the keys outlive the first join.
        let bundle: KeyPackageBundle = provider.storage().key_package(&hash_ref).unwrap().unwrap();
        let unwrapped = unwrap(&wrapped, bundle.init_private_key()).unwrap();
        assert_eq!(unwrapped.message_cursor, Some(77));
        let mut joined = join(&provider, &unwrapped.welcome_bytes);
        assert_eq!(joined.epoch_authenticator().as_slice(), group.epoch_authenticator().as_slice());
        joined.delete(provider.storage()).unwrap();
    }
}

fn verified_reference(provider: &OpenMlsRustCrypto, bytes: &[u8]) -> KeyPackageRef {
    let package = key_package::parse_and_verify(bytes, now()).unwrap().key_package;
    package.hash_ref(provider.crypto()).unwrap()
}

// --- any bytes --------------------------------------------------------------------------------------------------------

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// A real input with some bytes replaced, taken out or put in.
fn damaged(input: &[u8], damage: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for (position, byte, kind) in damage {
        let position = position % (bytes.len() + 1);
        match kind % 3 {
            0 if position < bytes.len() => bytes[position] = *byte,
            1 if position < bytes.len() => _ = bytes.remove(position),
            _ => bytes.insert(position, *byte),
        }
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    prop::collection::vec(any::<(usize, u8, u8)>(), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_anything_panic(bytes in any_bytes(), more in any_bytes(), algorithm in any::<i32>()) {
        let input = WrappedWelcome {
            data: &bytes, hpke_public_key: &more, wrapper_algorithm: algorithm, welcome_metadata: &more,
        };
        prop_assert!(welcome::unwrap(&input, &[1; 32]).is_err());
        prop_assert!(key_package::parse_and_verify(&bytes, now()).is_err());
        let _ = envelope::decode(&bytes);
        let _ = envelope::query_fields(&bytes);
        let _ = envelope::content_type(&bytes);
        let _ = leaf_inbox_id(&BasicCredential::new(bytes).into());
    }

    #[test]
    fn no_body_makes_a_reference_panic(body in any_bytes(), reference in ".{0,70}", major in any::<u32>()) {
        for type_id in ["reply", "reaction", "deleteMessage"] {
            for major in [major, 1, 2] {
                let _ = envelope::query_fields(&content(type_id, major, Some(&reference), &body));
            }
        }
    }

    #[test]
    fn damaged_inputs_are_refused(damage in damage()) {
        let package = hex(&vector("key_package")["minimal_accepted_by_libxmtp_1_10"]["tls"]);
        let changed = damaged(&package, &damage);
        prop_assert!(changed == package || key_package::parse_and_verify(&changed, now()).is_err());

        let joined = vector("sync_group_joined");
        let private_key = hex(&joined["unwrap_private_key"]);
        let real = wrapped(&joined);
        let changed = V1 { data: damaged(&real.data, &damage), ..real.clone() };
        prop_assert!(changed.data == real.data || unwrap(&changed, &private_key).is_err());
        let changed = V1 { welcome_metadata: damaged(&real.welcome_metadata, &damage), ..real.clone() };
        prop_assert!(changed.welcome_metadata == real.welcome_metadata || unwrap(&changed, &private_key).is_err());

        for (_, bytes, _) in application_messages() {
            let changed = damaged(&bytes, &damage);
            if let Ok(Envelope::V1 { content, .. }) = envelope::decode(&changed) {
                let _ = envelope::query_fields(&content);
            }
        }
    }

    #[test]
    fn envelopes_come_back(content in any_bytes(), key in ".{0,40}") {
        let decoded = envelope::decode(&envelope::encode(&content, &key)).unwrap();
        prop_assert_eq!(decoded, Envelope::V1 { content, idempotency_key: key });
    }
}
