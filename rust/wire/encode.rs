//! Encoding records as whole `BackupElement`s (spec section 2), appended to the caller's buffer.
//!
//! Fields ascend by number, zero values are left out, optional ones are written whenever set, unknown ones come last.

use super::sink::{self, Fields, Sink};
use super::{Consent, Group, GroupMetadata, Message, Metadata, MutableMetadata};

// Member numbers of BackupElement (spec 2.1).
const METADATA: u32 = 1;
const GROUP: u32 = 2;
const MESSAGE: u32 = 3;
const CONSENT: u32 = 4;

/// Room for the member's key and length in front of a record.
const PREFIX_BYTES: usize = 11;

/// Appends a metadata element (spec 2.2) to `out`.
pub fn encode_metadata(metadata: &Metadata, out: &mut Vec<u8>) {
    element(METADATA, metadata, out);
}

/// Appends a group element (spec 2.3) to `out`.
pub fn encode_group(group: &Group<'_>, out: &mut Vec<u8>) {
    element(GROUP, group, out);
}

/// Appends a message element (spec 2.5) to `out`.
pub fn encode_message(message: &Message<'_>, out: &mut Vec<u8>) {
    element(MESSAGE, message, out);
}

/// Appends a consent element (spec 2.4) to `out`.
pub fn encode_consent(consent: &Consent<'_>, out: &mut Vec<u8>) {
    element(CONSENT, consent, out);
}

#[inline]
fn element(member: u32, record: &impl Fields, out: &mut Vec<u8>) {
    let length = sink::length(record);
    out.reserve(length + PREFIX_BYTES);
    sink::delimited(out, member, length);
    record.fields(out);
}

impl Fields for Metadata {
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self { elements, exported_at_ns, start_ns, end_ns, unknown } = self;
        sink::packed(sink, 2, elements);
        sink::integer(sink, 3, *exported_at_ns);
        sink::optional_integer(sink, 4, *start_ns);
        sink::optional_integer(sink, 5, *end_ns);
        sink.raw(unknown);
    }
}

impl Fields for Group<'_> {
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self {
            id,
            created_at_ns,
            membership_state,
            installations_last_checked,
            added_by_inbox_id,
            welcome_id,
            rotated_at_ns,
            conversation_type,
            dm_id,
            last_message_ns,
            message_disappear_from_ns,
            message_disappear_in_ns,
            metadata,
            mutable_metadata,
            paused_for_version,
            unknown,
        } = self;
        sink::bytes(sink, 1, id);
        sink::integer(sink, 2, *created_at_ns);
        sink::integer(sink, 3, *membership_state);
        sink::integer(sink, 4, *installations_last_checked);
        sink::bytes(sink, 5, added_by_inbox_id.as_bytes());
        sink::optional_integer(sink, 6, *welcome_id);
        sink::integer(sink, 7, *rotated_at_ns);
        sink::integer(sink, 8, *conversation_type);
        sink::optional_bytes(sink, 9, dm_id.map(str::as_bytes));
        sink::optional_integer(sink, 10, *last_message_ns);
        sink::optional_integer(sink, 11, *message_disappear_from_ns);
        sink::optional_integer(sink, 12, *message_disappear_in_ns);
        if let Some(part) = metadata {
            sink::message(sink, 13, part);
        }
        if let Some(part) = mutable_metadata {
            sink::message(sink, 14, part);
        }
        sink::optional_bytes(sink, 15, paused_for_version.map(str::as_bytes));
        sink.raw(unknown);
    }
}

impl Fields for GroupMetadata<'_> {
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self { creator_inbox_id, unknown } = self;
        sink::bytes(sink, 1, creator_inbox_id.as_bytes());
        sink.raw(unknown);
    }
}

impl Fields for MutableMetadata<'_> {
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self { attributes, admin_list, super_admin_list, unknown } = self;
        for attribute in attributes {
            sink::message(sink, 1, attribute);
        }
        for admin in admin_list {
            sink::present_bytes(sink, 2, admin.as_bytes());
        }
        for admin in super_admin_list {
            sink::present_bytes(sink, 3, admin.as_bytes());
        }
        sink.raw(unknown);
    }
}

/// A map entry: key and value.
impl Fields for (&str, &str) {
    fn fields<S: Sink>(&self, sink: &mut S) {
        sink::bytes(sink, 1, self.0.as_bytes());
        sink::bytes(sink, 2, self.1.as_bytes());
    }
}

impl Fields for Message<'_> {
    #[inline]
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self {
            id,
            group_id,
            decrypted_message_bytes,
            sent_at_ns,
            kind,
            sender_installation_id,
            sender_inbox_id,
            delivery_status,
            content_type_save,
            version_major,
            version_minor,
            authority_id,
            reference_id,
            sequence_id,
            originator_id,
            content_type,
            unknown,
        } = self;
        sink::bytes(sink, 1, id);
        sink::bytes(sink, 2, group_id);
        sink::bytes(sink, 3, decrypted_message_bytes);
        sink::integer(sink, 4, *sent_at_ns);
        sink::integer(sink, 5, *kind);
        sink::bytes(sink, 6, sender_installation_id);
        sink::bytes(sink, 7, sender_inbox_id.as_bytes());
        sink::integer(sink, 8, *delivery_status);
        sink::integer(sink, 9, *content_type_save);
        sink::integer(sink, 10, *version_major);
        sink::integer(sink, 11, *version_minor);
        sink::bytes(sink, 12, authority_id.as_bytes());
        sink::optional_bytes(sink, 13, *reference_id);
        sink::optional_integer(sink, 14, *sequence_id);
        sink::optional_integer(sink, 15, *originator_id);
        sink::bytes(sink, 16, content_type.as_bytes());
        sink.raw(unknown);
    }
}

impl Fields for Consent<'_> {
    fn fields<S: Sink>(&self, sink: &mut S) {
        let Self { entity_type, state, entity, consented_at_ns, unknown } = self;
        sink::integer(sink, 1, *entity_type);
        sink::integer(sink, 2, *state);
        sink::bytes(sink, 3, entity.as_bytes());
        sink::integer(sink, 4, *consented_at_ns);
        sink.raw(unknown);
    }
}
