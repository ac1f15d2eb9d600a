//! Decoding one element's plaintext into a borrowed record (spec section 2).
//!
//! Each message is a loop over its fields; a field that comes again replaces or merges by protobuf's rules. Messages
//! cost no allocation. Lists are bounded, because two bytes of a hostile file become a 32-byte entry.

use std::collections::HashMap;

use super::cursor::{Cursor, NESTING_LIMIT};
use super::{Consent, DecodeError, Element, Group, GroupMetadata, Message, Metadata, MutableMetadata};

/// The most entries a repeated field or map may have; real ones have a few hundred.
pub const MAX_LIST_ENTRIES: usize = 1 << 18;

// Levels that may still be entered from within a message of each rank.
const IN_ELEMENT: u32 = NESTING_LIMIT;
const IN_RECORD: u32 = IN_ELEMENT - 1;
const IN_PART: u32 = IN_RECORD - 1;
const IN_ENTRY: u32 = IN_PART - 1;

/// Above this many attributes, duplicates are looked up in a table instead of one by one.
const FEW_ATTRIBUTES: usize = 16;

/// Decodes a `BackupElement` (spec 2.1); also returns its own unknown fields, raw.
///
/// Follows protobuf where one element names several members: the same member again is merged into the first, another
/// member replaces it.
///
/// # Errors
/// [`DecodeError`] for bytes that are not this message, exactly where the reference refuses them too, and for lists
/// of more than [`MAX_LIST_ENTRIES`].
pub fn decode_element(plaintext: &[u8]) -> Result<(Element<'_>, Vec<u8>), DecodeError> {
    if plaintext.is_empty() {
        return Ok((Element::Empty, Vec::new()));
    }
    let mut element = Element::Unknown;
    let mut unknown = Vec::new();
    let mut cursor = Cursor::new(plaintext);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => {
                if !matches!(element, Element::Metadata(_)) {
                    element = Element::Metadata(Metadata::default());
                }
                if let Element::Metadata(metadata) = &mut element {
                    merge_metadata(metadata, cursor.bytes(key)?)?;
                }
            }
            2 => {
                if !matches!(element, Element::Group(_)) {
                    element = Element::Group(Group::default());
                }
                if let Element::Group(group) = &mut element {
                    merge_group(group, cursor.bytes(key)?)?;
                }
            }
            3 => {
                if !matches!(element, Element::Message(_)) {
                    element = Element::Message(Message::default());
                }
                if let Element::Message(message) = &mut element {
                    merge_message(message, cursor.bytes(key)?)?;
                }
            }
            4 => {
                if !matches!(element, Element::Consent(_)) {
                    element = Element::Consent(Consent::default());
                }
                if let Element::Consent(consent) = &mut element {
                    merge_consent(consent, cursor.bytes(key)?)?;
                }
            }
            5 => {
                let event = cursor.bytes(key)?;
                check_event(event)?;
                element = Element::Event(event);
            }
            _ => cursor.keep_unknown(key, IN_ELEMENT, &mut unknown)?,
        }
    }
    if let Element::Group(Group { mutable_metadata: Some(part), .. }) = &mut element {
        keep_last_values(&mut part.attributes);
    }
    Ok((element, unknown))
}

fn merge_metadata(metadata: &mut Metadata, body: &[u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            2 => cursor.repeated_int32(key, |value| add(&mut metadata.elements, value))?,
            3 => metadata.exported_at_ns = cursor.int64(key)?,
            4 => metadata.start_ns = Some(cursor.int64(key)?),
            5 => metadata.end_ns = Some(cursor.int64(key)?),
            _ => cursor.keep_unknown(key, IN_RECORD, &mut metadata.unknown)?,
        }
    }
    Ok(())
}

fn merge_group<'a>(group: &mut Group<'a>, body: &'a [u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => group.id = cursor.bytes(key)?,
            2 => group.created_at_ns = cursor.int64(key)?,
            3 => group.membership_state = cursor.int32(key)?,
            4 => group.installations_last_checked = cursor.int64(key)?,
            5 => group.added_by_inbox_id = cursor.string(key)?,
            6 => group.welcome_id = Some(cursor.int64(key)?),
            7 => group.rotated_at_ns = cursor.int64(key)?,
            8 => group.conversation_type = cursor.int32(key)?,
            9 => group.dm_id = Some(cursor.string(key)?),
            10 => group.last_message_ns = Some(cursor.int64(key)?),
            11 => group.message_disappear_from_ns = Some(cursor.int64(key)?),
            12 => group.message_disappear_in_ns = Some(cursor.int64(key)?),
            13 => merge_group_metadata(group.metadata.get_or_insert_default(), cursor.bytes(key)?)?,
            14 => merge_mutable_metadata(group.mutable_metadata.get_or_insert_default(), cursor.bytes(key)?)?,
            15 => group.paused_for_version = Some(cursor.string(key)?),
            _ => cursor.keep_unknown(key, IN_RECORD, &mut group.unknown)?,
        }
    }
    Ok(())
}

fn merge_group_metadata<'a>(part: &mut GroupMetadata<'a>, body: &'a [u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => part.creator_inbox_id = cursor.string(key)?,
            _ => cursor.keep_unknown(key, IN_PART, &mut part.unknown)?,
        }
    }
    Ok(())
}

fn merge_mutable_metadata<'a>(part: &mut MutableMetadata<'a>, body: &'a [u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => add(&mut part.attributes, decode_attribute(cursor.bytes(key)?)?)?,
            2 => add(&mut part.admin_list, cursor.string(key)?)?,
            3 => add(&mut part.super_admin_list, cursor.string(key)?)?,
            _ => cursor.keep_unknown(key, IN_PART, &mut part.unknown)?,
        }
    }
    Ok(())
}

/// A map entry. Its own unknown fields are dropped, as a map has no place for them.
fn decode_attribute(body: &[u8]) -> Result<(&str, &str), DecodeError> {
    let mut entry = ("", "");
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => entry.0 = cursor.string(key)?,
            2 => entry.1 = cursor.string(key)?,
            _ => cursor.skip(key, IN_ENTRY)?,
        }
    }
    Ok(entry)
}

fn merge_message<'a>(message: &mut Message<'a>, body: &'a [u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => message.id = cursor.bytes(key)?,
            2 => message.group_id = cursor.bytes(key)?,
            3 => message.decrypted_message_bytes = cursor.bytes(key)?,
            4 => message.sent_at_ns = cursor.int64(key)?,
            5 => message.kind = cursor.int32(key)?,
            6 => message.sender_installation_id = cursor.bytes(key)?,
            7 => message.sender_inbox_id = cursor.string(key)?,
            8 => message.delivery_status = cursor.int32(key)?,
            9 => message.content_type_save = cursor.int32(key)?,
            10 => message.version_major = cursor.int32(key)?,
            11 => message.version_minor = cursor.int32(key)?,
            12 => message.authority_id = cursor.string(key)?,
            13 => message.reference_id = Some(cursor.bytes(key)?),
            14 => message.sequence_id = Some(cursor.int64(key)?),
            15 => message.originator_id = Some(cursor.int64(key)?),
            16 => message.content_type = cursor.string(key)?,
            _ => cursor.keep_unknown(key, IN_RECORD, &mut message.unknown)?,
        }
    }
    Ok(())
}

fn merge_consent<'a>(consent: &mut Consent<'a>, body: &'a [u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 => consent.entity_type = cursor.int32(key)?,
            2 => consent.state = cursor.int32(key)?,
            3 => consent.entity = cursor.string(key)?,
            4 => consent.consented_at_ns = cursor.int64(key)?,
            _ => cursor.keep_unknown(key, IN_RECORD, &mut consent.unknown)?,
        }
    }
    Ok(())
}

/// Refuses what is not an `EventSave` (spec 2.8); its values are of no use to anyone.
fn check_event(body: &[u8]) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(body);
    while let Some(key) = cursor.next_key()? {
        match key.number {
            1 | 5 => drop(cursor.int64(key)?),
            2 | 6 => drop(cursor.string(key)?),
            3 | 4 => drop(cursor.bytes(key)?),
            _ => cursor.skip(key, IN_RECORD)?,
        }
    }
    Ok(())
}

fn add<T>(list: &mut Vec<T>, entry: T) -> Result<(), DecodeError> {
    if list.len() >= MAX_LIST_ENTRIES {
        return Err(DecodeError::TooManyEntries);
    }
    list.push(entry);
    Ok(())
}

/// Leaves every key once, at its first place, with its last value.
fn keep_last_values<'a>(attributes: &mut Vec<(&'a str, &'a str)>) {
    let mut kept: Vec<(&str, &str)> = Vec::with_capacity(attributes.len());
    // The table's hash is seeded at random, so chosen keys cannot make this quadratic.
    let mut places = HashMap::new();
    let few = attributes.len() <= FEW_ATTRIBUTES;
    for &(key, value) in attributes.iter() {
        let place = if few {
            kept.iter().position(|known| known.0 == key).unwrap_or(kept.len())
        } else {
            *places.entry(key).or_insert(kept.len())
        };
        match kept.get_mut(place) {
            Some(known) => known.1 = value,
            None => kept.push((key, value)),
        }
    }
    *attributes = kept;
}
