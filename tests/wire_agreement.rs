//! The hand-written codec and prost agree: on what is valid, on every value, and on the encoded bytes.

mod support;

use proptest::prelude::*;
use prost::Message as _;
use support::oracle::{
    BackupElement, BackupMetadataSave, ConsentSave, GroupMessageSave, GroupSave, ImmutableMetadataSave,
    MutableMetadataSave, OracleElement, assert_agreement, encode, to_oracle,
};
use xmtp_history::wire::content::{ContentError, EncodedContent};
use xmtp_history::wire::{DecodeError, Element, MAX_LIST_ENTRIES, decode_element};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

/// Small, large and negative numbers, so that every varint length occurs.
fn number() -> impl Strategy<Value = i64> {
    (any::<i64>(), 0..64_u32).prop_map(|(value, shift)| value >> shift)
}

fn enumeration() -> impl Strategy<Value = i32> {
    prop_oneof![-1..6, any::<i32>()]
}

prop_compose! {
    fn metadata()(
        elements in prop::collection::vec(enumeration(), 0..5), exported_at_ns in number(),
        start_ns in prop::option::of(number()), end_ns in prop::option::of(number()),
    ) -> BackupMetadataSave {
        BackupMetadataSave { elements, exported_at_ns, start_ns, end_ns }
    }
}

prop_compose! {
    fn group()(
        (id, created_at_ns, membership_state, installations_last_checked, added_by_inbox_id, welcome_id)
            in (bytes(), number(), enumeration(), number(), text(), prop::option::of(number())),
        (rotated_at_ns, conversation_type, dm_id, last_message_ns)
            in (number(), enumeration(), prop::option::of(text()), prop::option::of(number())),
        (message_disappear_from_ns, message_disappear_in_ns)
            in (prop::option::of(number()), prop::option::of(number())),
        metadata in prop::option::of(text()),
        mutable_metadata in prop::option::of((
            prop::collection::btree_map(text(), text(), 0..24),
            prop::collection::vec(text(), 0..3), prop::collection::vec(text(), 0..3),
        )),
        paused_for_version in prop::option::of(text()),
    ) -> GroupSave {
        GroupSave {
            id, created_at_ns, membership_state, installations_last_checked, added_by_inbox_id, welcome_id,
            rotated_at_ns, conversation_type, dm_id, last_message_ns, message_disappear_from_ns,
            message_disappear_in_ns, paused_for_version,
            metadata: metadata.map(|creator_inbox_id| ImmutableMetadataSave { creator_inbox_id }),
            mutable_metadata: mutable_metadata.map(|(attributes, admin_list, super_admin_list)| {
                MutableMetadataSave { attributes, admin_list, super_admin_list }
            }),
        }
    }
}

prop_compose! {
    fn message()(
        (id, group_id, decrypted_message_bytes, sent_at_ns, kind) in (bytes(), bytes(), bytes(), number(), enumeration()),
        (sender_installation_id, sender_inbox_id, delivery_status, content_type_save)
            in (bytes(), text(), enumeration(), enumeration()),
        (version_major, version_minor, authority_id) in (enumeration(), enumeration(), text()),
        (reference_id, sequence_id, originator_id, content_type)
            in (prop::option::of(bytes()), prop::option::of(number()), prop::option::of(number()), text()),
    ) -> GroupMessageSave {
        GroupMessageSave {
            id, group_id, decrypted_message_bytes, sent_at_ns, kind, sender_installation_id, sender_inbox_id,
            delivery_status, content_type_save, version_major, version_minor, authority_id, reference_id, sequence_id,
            originator_id, content_type,
        }
    }
}

prop_compose! {
    fn consent()(
        entity_type in enumeration(), state in enumeration(), entity in text(), consented_at_ns in number(),
    ) -> ConsentSave {
        ConsentSave { entity_type, state, entity, consented_at_ns }
    }
}

fn record() -> impl Strategy<Value = OracleElement> {
    prop_oneof![
        metadata().prop_map(OracleElement::Metadata),
        group().prop_map(OracleElement::Group),
        message().prop_map(OracleElement::GroupMessage),
        consent().prop_map(OracleElement::Consent),
    ]
}

fn encoded(record: OracleElement) -> Vec<u8> {
    BackupElement { element: Some(record) }.encode_to_vec()
}

/// A field with any number and layout, valid more often than not.
fn field() -> impl Strategy<Value = Vec<u8>> {
    let key = |number: u32, wire_type: u32| {
        let mut key = Vec::new();
        prost::encoding::encode_varint(u64::from(number << 3 | wire_type), &mut key);
        key
    };
    let number = prop_oneof![8 => 1..18_u32, 1 => Just(1000), 1 => Just((1 << 29) - 1)];
    let value = prop_oneof![
        any::<u64>().prop_map(|value| {
            let mut varint = Vec::new();
            prost::encoding::encode_varint(value, &mut varint);
            (0, varint)
        }),
        any::<[u8; 8]>().prop_map(|value| (1, value.to_vec())),
        any::<[u8; 4]>().prop_map(|value| (5, value.to_vec())),
        prop::collection::vec(any::<u8>(), 0..20)
            .prop_map(|value| { (2, [vec![u8::try_from(value.len()).unwrap()], value].concat()) }),
    ];
    (number, value).prop_map(move |(number, (wire_type, value))| [key(number, wire_type), value].concat())
}

/// Fields wrapped in the member of an element.
fn wrapped() -> impl Strategy<Value = Vec<u8>> {
    (1..7_u8, prop::collection::vec(field(), 0..6)).prop_map(|(member, fields)| {
        let body = fields.concat();
        let mut element = vec![member << 3 | 2];
        prost::encoding::encode_varint(body.len() as u64, &mut element);
        [element, body].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn valid_records_decode_to_the_same_and_encode_to_the_same_bytes(record in record()) {
        let plaintext = encoded(record.clone());
        let (element, unknown) = decode_element(&plaintext).unwrap();
        prop_assert_eq!(to_oracle(&element), Some(record));
        prop_assert!(unknown.is_empty() && !element.has_unknown_fields());
        let mut again = b"kept".to_vec();
        encode(&element, &mut again);
        prop_assert_eq!(again, [b"kept".to_vec(), plaintext].concat());
    }

    #[test]
    fn repeated_members_merge_or_replace_alike(records in prop::collection::vec(record(), 0..4)) {
        assert_agreement(&records.into_iter().flat_map(encoded).collect::<Vec<_>>());
    }

    #[test]
    fn changed_records_are_judged_alike(
        records in prop::collection::vec(record(), 1..3),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length: prop::sample::Index,
        cut: bool,
    ) {
        let mut plaintext: Vec<u8> = records.into_iter().flat_map(encoded).collect();
        if !plaintext.is_empty() {
            for (index, value) in changes {
                let position = index.index(plaintext.len());
                plaintext[position] = value;
            }
            if cut {
                plaintext.truncate(length.index(plaintext.len()));
            }
        }
        assert_agreement(&plaintext);
    }

    #[test]
    fn any_fields_are_judged_alike(elements in prop::collection::vec(prop_oneof![wrapped(), field()], 0..4)) {
        assert_agreement(&elements.concat());
    }

    #[test]
    fn any_bytes_are_judged_alike(plaintext in prop::collection::vec(any::<u8>(), 0..64)) {
        assert_agreement(&plaintext);
    }

    #[test]
    fn unknown_fields_survive_in_order(record in record(), fields in prop::collection::vec(field(), 1..5)) {
        // Each under number 1023, which nothing here knows.
        let unknown: Vec<u8> = fields.iter().flat_map(|field| [vec![0xfa], prefixed(0x3f, field)].concat()).collect();
        let plaintext = encoded(record);
        let mut body = &plaintext[1..];
        prost::encoding::decode_varint(&mut body).unwrap();
        let extended = prefixed(plaintext[0], &[body, &unknown].concat());

        let (element, of_element) = decode_element(&extended).unwrap();
        prop_assert!(element.has_unknown_fields() && of_element.is_empty());
        let mut again = Vec::new();
        encode(&element, &mut again);
        prop_assert_eq!(again, extended);
    }
}

#[test]
fn varints_end_where_prost_ends_them() {
    for last in 0..=0xff_u8 {
        for count in 0..12 {
            let value = [vec![0xff; count], vec![last]].concat();
            let body = [vec![0x20], value].concat();
            assert_agreement(&[vec![0x1a, u8::try_from(body.len()).unwrap()], body].concat());
        }
    }
}

#[test]
fn groups_nest_as_deep_as_prost_lets_them() {
    let nested = |depth: usize, inner: &[u8]| [vec![0x7b; depth], inner.to_vec(), vec![0x7c; depth]].concat();
    for depth in 95..105 {
        for inner in [&[][..], &[0x08, 1], &[0x0a, 1, 0]] {
            let fields = nested(depth, inner);
            assert_agreement(&fields);
            for member in [0x0a, 0x12, 0x1a, 0x22, 0x2a] {
                // Field 15 is known in groups and messages, so wrap once more under number 100 there.
                let fields = [&[0xa3, 0x06][..], &fields, &[0xa4, 0x06]].concat();
                let length =
                    [u8::try_from(fields.len() & 0x7f | 0x80).unwrap(), u8::try_from(fields.len() >> 7).unwrap()];
                let record = [&[member][..], &length, &fields].concat();
                assert_agreement(&record);
            }
        }
    }
    assert_eq!(decode_element(&nested(101, &[])), Err(DecodeError::TooDeep));
    assert_eq!(decode_element(&[0x7c]), Err(DecodeError::UnexpectedEndGroup));
    assert_eq!(decode_element(&[0x7b, 0x74]), Err(DecodeError::UnexpectedEndGroup));
}

#[test]
fn unknown_fields_in_parts_of_a_group_nest_alike() {
    for (part, entry) in [(0x6a, false), (0x72, false), (0x72, true)] {
        for depth in 90..101 {
            let mut body = [vec![0x7b; depth], vec![0x7c; depth]].concat();
            if entry {
                body = prefixed(0x0a, &body);
            }
            assert_agreement(&prefixed(0x12, &prefixed(part, &body)));
        }
    }
}

fn prefixed(key: u8, body: &[u8]) -> Vec<u8> {
    let mut field = vec![key];
    prost::encoding::encode_varint(body.len() as u64, &mut field);
    [&field, body].concat()
}

#[test]
fn every_key_is_judged_alike() {
    for key in 0..=u16::MAX {
        let mut varint = Vec::new();
        prost::encoding::encode_varint(u64::from(key), &mut varint);
        for member in [0x0a, 0x12, 0x1a, 0x22, 0x2a] {
            let body = [&varint[..], &[0, 0, 0, 0, 0, 0, 0, 0]].concat();
            assert_agreement(&prefixed(member, &body));
            if key > 1000 {
                break;
            }
        }
    }
    for key in [u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let mut varint = Vec::new();
        prost::encoding::encode_varint(key, &mut varint);
        assert_agreement(&[&varint[..], &[0; 8]].concat());
    }
}

#[test]
fn the_last_of_several_attributes_wins_at_the_place_of_the_first() {
    for count in [3, 100] {
        let attribute = |key: &str, value: &str| {
            prefixed(0x0a, &[prefixed(0x0a, key.as_bytes()), prefixed(0x12, value.as_bytes())].concat())
        };
        let names: Vec<_> = (0..count).map(|number| format!("key {number}")).collect();
        let mut part: Vec<u8> = names.iter().flat_map(|name| attribute(name, "first")).collect();
        part.extend(attribute("key 1", "last"));
        part.extend(attribute("", ""));
        let plaintext = prefixed(0x12, &prefixed(0x72, &part));
        let (Element::Group(group), _) = decode_element(&plaintext).unwrap() else { panic!("a group") };
        let attributes = group.mutable_metadata.unwrap().attributes;
        assert_eq!(attributes.len(), count + 1);
        assert_eq!(attributes[..3], [("key 0", "first"), ("key 1", "last"), ("key 2", "first")]);
        assert_eq!(attributes[count], ("", ""));
        assert_agreement(&plaintext);
    }
}

#[test]
fn lists_are_bounded() {
    let full = |entries: usize| prefixed(0x12, &prefixed(0x72, &[0x12, 0].repeat(entries)));
    assert!(decode_element(&full(MAX_LIST_ENTRIES)).is_ok());
    assert_eq!(decode_element(&full(MAX_LIST_ENTRIES + 1)), Err(DecodeError::TooManyEntries));
    let packed = prefixed(0x0a, &prefixed(0x12, &vec![1; MAX_LIST_ENTRIES + 1]));
    assert_eq!(decode_element(&packed), Err(DecodeError::TooManyEntries));
}

#[test]
fn nothing_is_empty_and_the_unknown_is_unknown() {
    assert_eq!(decode_element(&[]), Ok((Element::Empty, Vec::new())));
    assert_eq!(decode_element(&[0x32, 1, 9]), Ok((Element::Unknown, vec![0x32, 1, 9])));
}

#[test]
fn contents_need_a_type() {
    assert_eq!(EncodedContent::decode(&[]), Err(ContentError::MissingType));
    assert_eq!(EncodedContent::decode(b"raw bytes"), Err(ContentError::NotEncodedContent));
    let content =
        EncodedContent::decode(&hex::decode("0a0c0a08786d74702e6f726718012202686928 00".replace(' ', "")).unwrap());
    let content = content.unwrap();
    assert_eq!((content.content.as_slice(), content.compression), (&b"hi"[..], Some(0)));
    assert_eq!(EncodedContent::decode(&content.encode()), Ok(content));
}
