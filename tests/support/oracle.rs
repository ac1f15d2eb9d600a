//! The backup records as prost decodes and encodes them, and how ours compare with them.
//!
//! Also used by the fuzz targets.

use xmtp_history::wire::{self, Element};

#[allow(dead_code, missing_docs)]
pub mod device_sync {
    include!("../../rust/wire/generated/xmtp.device_sync.rs");
    pub mod group_backup {
        include!("../../rust/wire/generated/xmtp.device_sync.group_backup.rs");
    }
    pub mod message_backup {
        include!("../../rust/wire/generated/xmtp.device_sync.message_backup.rs");
    }
    pub mod consent_backup {
        include!("../../rust/wire/generated/xmtp.device_sync.consent_backup.rs");
    }
    pub mod event_backup {
        include!("../../rust/wire/generated/xmtp.device_sync.event_backup.rs");
    }
}

pub use device_sync::backup_element::Element as OracleElement;
pub use device_sync::consent_backup::ConsentSave;
pub use device_sync::group_backup::{GroupSave, ImmutableMetadataSave, MutableMetadataSave};
pub use device_sync::message_backup::GroupMessageSave;
pub use device_sync::{BackupElement, BackupMetadataSave};

/// Our record as the oracle's type, without its unknown fields; `None` for kinds the oracle has no value for.
pub fn to_oracle(element: &Element<'_>) -> Option<OracleElement> {
    let text = |text: &Option<&str>| text.map(str::to_owned);
    Some(match element {
        Element::Metadata(metadata) => OracleElement::Metadata(BackupMetadataSave {
            elements: metadata.elements.clone(),
            exported_at_ns: metadata.exported_at_ns,
            start_ns: metadata.start_ns,
            end_ns: metadata.end_ns,
        }),
        Element::Group(group) => OracleElement::Group(GroupSave {
            id: group.id.to_vec(),
            created_at_ns: group.created_at_ns,
            membership_state: group.membership_state,
            installations_last_checked: group.installations_last_checked,
            added_by_inbox_id: group.added_by_inbox_id.to_owned(),
            welcome_id: group.welcome_id,
            rotated_at_ns: group.rotated_at_ns,
            conversation_type: group.conversation_type,
            dm_id: text(&group.dm_id),
            last_message_ns: group.last_message_ns,
            message_disappear_from_ns: group.message_disappear_from_ns,
            message_disappear_in_ns: group.message_disappear_in_ns,
            metadata: group
                .metadata
                .as_ref()
                .map(|part| ImmutableMetadataSave { creator_inbox_id: part.creator_inbox_id.to_owned() }),
            mutable_metadata: group.mutable_metadata.as_ref().map(|part| MutableMetadataSave {
                attributes: part.attributes.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
                admin_list: part.admin_list.iter().map(|&admin| admin.into()).collect(),
                super_admin_list: part.super_admin_list.iter().map(|&admin| admin.into()).collect(),
            }),
            paused_for_version: text(&group.paused_for_version),
        }),
        Element::Message(message) => OracleElement::GroupMessage(GroupMessageSave {
            id: message.id.to_vec(),
            group_id: message.group_id.to_vec(),
            decrypted_message_bytes: message.decrypted_message_bytes.to_vec(),
            sent_at_ns: message.sent_at_ns,
            kind: message.kind,
            sender_installation_id: message.sender_installation_id.to_vec(),
            sender_inbox_id: message.sender_inbox_id.to_owned(),
            delivery_status: message.delivery_status,
            content_type_save: message.content_type_save,
            version_major: message.version_major,
            version_minor: message.version_minor,
            authority_id: message.authority_id.to_owned(),
            reference_id: message.reference_id.map(<[u8]>::to_vec),
            sequence_id: message.sequence_id,
            originator_id: message.originator_id,
            content_type: message.content_type.to_owned(),
        }),
        Element::Consent(consent) => OracleElement::Consent(ConsentSave {
            entity_type: consent.entity_type,
            state: consent.state,
            entity: consent.entity.to_owned(),
            consented_at_ns: consent.consented_at_ns,
        }),
        Element::Event(_) | Element::Empty | Element::Unknown => return None,
    })
}

/// Encodes any record element again.
pub fn encode(element: &Element<'_>, out: &mut Vec<u8>) {
    match element {
        Element::Metadata(metadata) => wire::encode_metadata(metadata, out),
        Element::Group(group) => wire::encode_group(group, out),
        Element::Message(message) => wire::encode_message(message, out),
        Element::Consent(consent) => wire::encode_consent(consent, out),
        Element::Event(_) | Element::Empty | Element::Unknown => {}
    }
}

/// Both decoders must agree on any bytes: accepted or refused, and on the value.
pub fn assert_agreement(plaintext: &[u8]) {
    let theirs = <BackupElement as prost::Message>::decode(plaintext);
    match wire::decode_element(plaintext) {
        Err(wire::DecodeError::TooManyEntries) => {}
        Err(ours) => assert!(theirs.is_err(), "only we refuse, with {ours:?}"),
        Ok((element, unknown)) => {
            let theirs = theirs.expect("only prost refuses").element;
            match &element {
                Element::Event(_) => assert!(matches!(theirs, Some(OracleElement::Event(_)))),
                _ => assert_eq!(to_oracle(&element), theirs),
            }
            // What we kept must survive another round, unknown fields included.
            let mut again = Vec::new();
            encode(&element, &mut again);
            again.extend_from_slice(&unknown);
            if !matches!(element, Element::Event(_)) {
                assert_eq!(wire::decode_element(&again), Ok((empty_if_nothing(element, &again), unknown)));
            }
        }
    }
}

/// Encoding nothing gives the empty element.
fn empty_if_nothing<'a>(element: Element<'a>, encoded: &[u8]) -> Element<'a> {
    if encoded.is_empty() { Element::Empty } else { element }
}
