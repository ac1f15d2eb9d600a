//! Archives of the reference decode to what an independent decoder found in them (spec section 7).

mod support;

use serde_json::{Map, Value, json};
use support::{fixtures, read};
use xmtp_history::archive::{Error, Limits, Reader};
use xmtp_history::crypto::Sha256;
use xmtp_history::wire::content::EncodedContent;
use xmtp_history::wire::{self, Consent, Element, Group, Message, Metadata};

/// What the fixtures say about messages beyond their fields.
const DERIVED: [&str; 3] = ["decrypted_message_sha256", "decrypted_message_len", "encoded_content"];

#[test]
fn every_fixture_has_the_expected_content() {
    for fixture in fixtures() {
        let (elements, summary) = read(&fixture.key, &fixture.archive);
        let summary = summary.unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        let expected = &fixture.json["expected"];
        let mut found = Found::default();
        for kept in &elements {
            let (element, unknown) = wire::decode_element(&kept.plaintext).unwrap();
            assert!(unknown.is_empty());
            found.add(&element);
        }
        assert_eq!(json!(found.order), expected["element_order"], "{}", fixture.name);
        assert_eq!(found.metadata, expected["metadata"], "{}", fixture.name);
        for (kind, records) in [("groups", &found.groups), ("messages", &found.messages), ("consents", &found.consents)]
        {
            let expected = expected[kind].as_array().cloned().unwrap_or_default();
            assert_eq!(records.len(), expected.len(), "{} {kind}", fixture.name);
            for (record, expected) in records.iter().zip(expected) {
                assert_record(record, &expected, &fixture.name);
            }
        }
        assert_eq!(summary.archive_bytes, fixture.archive.len() as u64);
        assert_eq!(summary.elements, elements.len() as u64);
        assert_eq!(summary.inflated_bytes, summary.plaintext_bytes + 20 * summary.elements);
        assert_eq!(
            (summary.legacy, summary.empty_elements, summary.unknown_elements, summary.with_unknown_fields),
            (false, 0, 0, 0)
        );
    }
}

#[test]
fn every_fixture_is_encoded_again_byte_for_byte() {
    for fixture in fixtures() {
        for kept in read(&fixture.key, &fixture.archive).0 {
            let (element, _) = wire::decode_element(&kept.plaintext).unwrap();
            let mut again = Vec::new();
            support::oracle::encode(&element, &mut again);
            assert_eq!(again, kept.plaintext, "{} element {}", fixture.name, kept.index);
        }
    }
}

#[test]
fn metadata_is_known_as_soon_as_its_element_arrived() {
    let fixture = fixtures().into_iter().find(|fixture| fixture.name == "big-message").unwrap();
    let mut reader = Reader::new(&fixture.key, Limits::default());
    assert!(reader.metadata().is_none());
    reader.push(&fixture.archive[..100], |_| Ok::<_, Error>(())).unwrap();
    let exported_at_ns = fixture.json["expected"]["metadata"]["exported_at_ns"].as_i64().unwrap();
    assert_eq!(reader.metadata().unwrap().exported_at_ns, exported_at_ns);
}

#[derive(Default)]
struct Found {
    order: Vec<(&'static str, u64)>,
    metadata: Value,
    groups: Vec<Value>,
    messages: Vec<Value>,
    consents: Vec<Value>,
}

impl Found {
    fn add(&mut self, element: &Element<'_>) {
        let kind = match element {
            Element::Metadata(metadata) => {
                self.metadata = metadata_json(metadata);
                "metadata"
            }
            Element::Group(group) => {
                self.groups.push(group_json(group));
                "group"
            }
            Element::Message(message) => {
                self.messages.push(message_json(message));
                "group_message"
            }
            Element::Consent(consent) => {
                self.consents.push(consent_json(consent));
                "consent"
            }
            other => panic!("fixtures hold no {other:?}"),
        };
        match self.order.last_mut() {
            Some((last, count)) if *last == kind => *count += 1,
            _ => self.order.push((kind, 1)),
        }
    }
}

fn assert_record(record: &Value, expected: &Value, name: &str) {
    let expected = expected.as_object().unwrap();
    for (field, value) in record.as_object().unwrap() {
        let value_expected = expected.get(field).map_or(&Value::Null, |value| value.get("number").unwrap_or(value));
        let zero = json!("") == *value || json!(0) == *value || value.is_null();
        match (field.as_str(), value_expected) {
            // Long contents are given by their hash alone.
            ("decrypted_message_bytes", Value::Null) => {}
            // Present fields only; absent plain fields are zero.
            (_, Value::Null) => assert!(zero, "{name} {field}: {value} is not expected"),
            _ => assert_eq!(value, value_expected, "{name} {field}"),
        }
    }
    for field in expected.keys() {
        let known = record.get(field).is_some() || DERIVED.contains(&field.as_str());
        assert!(known, "{name} {field} is expected");
    }
    let Some(content) = record.get("decrypted_message_bytes") else {
        return;
    };
    let content = hex::decode(content.as_str().unwrap()).unwrap();
    let mut hash = Sha256::new();
    hash.update(&content);
    assert_eq!(expected["decrypted_message_sha256"], hex::encode(hash.finish()), "{name}");
    assert_eq!(expected["decrypted_message_len"], content.len(), "{name}");
    if let Some(expected) = expected.get("encoded_content").filter(|expected| expected["type"].is_string()) {
        let decoded = EncodedContent::decode(&content).unwrap();
        let kind = decoded.r#type.as_ref().unwrap();
        let kind = format!("{}/{}:{}.{}", kind.authority_id, kind.type_id, kind.version_major, kind.version_minor);
        assert_eq!(expected["type"], kind, "{name}");
        assert_eq!(expected["content_len"], decoded.content.len(), "{name}");
    }
}

fn metadata_json(metadata: &Metadata) -> Value {
    let mut fields = Map::new();
    fields.insert("elements".into(), json!(metadata.elements));
    fields.insert("exported_at_ns".into(), json!(metadata.exported_at_ns));
    fields.extend(metadata.start_ns.map(|value| ("start_ns".into(), json!(value))));
    fields.extend(metadata.end_ns.map(|value| ("end_ns".into(), json!(value))));
    Value::Object(fields)
}

fn group_json(group: &Group<'_>) -> Value {
    json!({
        "id": hex::encode(group.id),
        "created_at_ns": group.created_at_ns,
        "membership_state": group.membership_state,
        "installations_last_checked": group.installations_last_checked,
        "added_by_inbox_id": group.added_by_inbox_id,
        "welcome_id": group.welcome_id,
        "rotated_at_ns": group.rotated_at_ns,
        "conversation_type": group.conversation_type,
        "dm_id": group.dm_id,
        "last_message_ns": group.last_message_ns,
        "message_disappear_from_ns": group.message_disappear_from_ns,
        "message_disappear_in_ns": group.message_disappear_in_ns,
        "metadata": group.metadata.as_ref().map(|part| json!({"creator_inbox_id": part.creator_inbox_id})),
        "mutable_metadata": group.mutable_metadata.as_ref().map(|part| json!({
            "attributes": part.attributes.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            "admin_list": part.admin_list,
            "super_admin_list": part.super_admin_list,
        })),
        "paused_for_version": group.paused_for_version,
    })
}

fn message_json(message: &Message<'_>) -> Value {
    json!({
        "id": hex::encode(message.id),
        "group_id": hex::encode(message.group_id),
        "decrypted_message_bytes": hex::encode(message.decrypted_message_bytes),
        "sent_at_ns": message.sent_at_ns,
        "kind": message.kind,
        "sender_installation_id": hex::encode(message.sender_installation_id),
        "sender_inbox_id": message.sender_inbox_id,
        "delivery_status": message.delivery_status,
        "content_type_save": message.content_type_save,
        "version_major": message.version_major,
        "version_minor": message.version_minor,
        "authority_id": message.authority_id,
        "reference_id": message.reference_id.map(hex::encode),
        "sequence_id": message.sequence_id,
        "originator_id": message.originator_id,
        "content_type": message.content_type,
    })
}

fn consent_json(consent: &Consent<'_>) -> Value {
    json!({
        "entity_type": consent.entity_type,
        "state": consent.state,
        "entity": consent.entity,
        "consented_at_ns": consent.consented_at_ns,
    })
}
