//! Records as they cross the C ABI: JSON arrays in the field order of Python's dataclasses, beside one blob.
//!
//! A batch is a JSON list of three: conversation ids, message headers, and runs, `[kind, [row, …]]`, with the kinds `"g"`,
//! `"m"` and `"c"`. A message's row refers by number to its conversation and to its header, which many messages share, so
//! that Python parses them once. Of its content the row holds the end in the blob; it begins where the one before ended. Ids
//! are lower-case hexadecimal.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::error::XhError;
use crate::store::{ConversationView, MessageView, Record, rules};
use crate::wire::{Consent, Group, GroupMetadata, Message, MutableMetadata};

/// Attributes that are fields of Python's `Conversation`, in their order there.
const NAMED_ATTRIBUTES: [&str; 4] = ["group_name", "description", "group_image_url_square", "app_data"];

/// Content types by the number of the deprecated `content_type_save` (archive specification, section 2.5).
const LEGACY_CONTENT_TYPES: [&str; 11] = [
    "",
    "",
    "text",
    "group_membership_change",
    "group_updated",
    "reaction",
    "readReceipt",
    "reply",
    "attachment",
    "remoteStaticAttachment",
    "transactionReference",
];

/// Values that rows refer to by number.
#[derive(Default)]
struct Shared {
    numbers: HashMap<Vec<u8>, usize, RandomState>,
    json: Vec<u8>,
}

impl Shared {
    /// The number of the value that `key` identifies; `write` puts it into the list the first time.
    fn number(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if let Some(&number) = self.numbers.get(key) {
            return number;
        }
        let number = self.numbers.len();
        self.numbers.insert(key.to_vec(), number);
        write(&mut self.json);
        self.json.push(b',');
        number
    }

    /// Appends the values as a JSON list, and forgets them.
    fn take(&mut self, out: &mut Vec<u8>) {
        out.push(b'[');
        out.extend_from_slice(self.json.strip_suffix(b",").unwrap_or_default());
        out.extend_from_slice(b"],");
        *self = Self::default();
    }
}

/// Records waiting to be taken by Python.
#[derive(Default)]
pub(super) struct Batch {
    groups: Shared,
    headers: Shared,
    header_key: Vec<u8>,
    runs: Vec<u8>,
    blob: Vec<u8>,
    run: Option<char>,
}

impl Batch {
    /// Memory in use, bytes.
    pub fn len(&self) -> usize {
        self.groups.json.len() + self.headers.json.len() + self.runs.len() + self.blob.len()
    }

    /// Takes the batch: JSON and blob.
    pub fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        let mut json = Vec::with_capacity(self.len() - self.blob.len() + 16);
        json.push(b'[');
        self.groups.take(&mut json);
        self.headers.take(&mut json);
        json.push(b'[');
        json.append(&mut self.runs);
        json.extend_from_slice(if self.run.take().is_some() { b"]]]]" } else { b"]]" });
        (json, std::mem::take(&mut self.blob))
    }

    pub fn conversation(&mut self, view: &ConversationView<'_>) {
        let group = &view.group;
        let metadata = group.mutable_metadata.as_ref();
        let attributes = metadata.map_or(&[][..], |metadata| &metadata.attributes);
        let mut row = self.begin('g');
        row.hex(group.id).value(&group.conversation_type);
        for name in NAMED_ATTRIBUTES {
            row.value(&attributes.iter().find(|(key, _)| *key == name).map(|(_, value)| value));
        }
        row.value(&group.created_at_ns)
            .value(&group.last_message_ns)
            .value(&group.dm_id)
            .value(&group.metadata.as_ref().map(|metadata| metadata.creator_inbox_id))
            .value(&group.added_by_inbox_id)
            .value(&metadata.map_or(&[][..], |metadata| &metadata.admin_list))
            .value(&metadata.map_or(&[][..], |metadata| &metadata.super_admin_list))
            .value(&group.membership_state)
            .value(&view.is_active)
            .value(&group.message_disappear_from_ns)
            .value(&group.message_disappear_in_ns)
            .value(&group.installations_last_checked)
            .value(&group.rotated_at_ns)
            .value(&group.welcome_id)
            .value(&group.paused_for_version)
            .value(
                &attributes
                    .iter()
                    .filter(|(key, _)| !NAMED_ATTRIBUTES.contains(key))
                    .copied()
                    .collect::<BTreeMap<_, _>>(),
            );
        row.end();
    }

    pub fn message(&mut self, view: &MessageView<'_>) {
        let message = &view.message;
        self.blob.extend_from_slice(message.decrypted_message_bytes);
        let content_end = self.blob.len();
        // Archives from before 2026 say the type only by number.
        let content_type = if message.content_type.is_empty() {
            usize::try_from(message.content_type_save)
                .ok()
                .and_then(|number| LEGACY_CONTENT_TYPES.get(number))
                .unwrap_or(&"")
        } else {
            message.content_type
        };
        let group = self.groups.number(message.group_id, |json| {
            write_hex(json, message.group_id);
        });
        let header = self.header(message, content_type);
        let mut row = self.begin('m');
        row.hex(message.id)
            .value(&group)
            .value(&message.sent_at_ns)
            .value(&header)
            .value(&message.delivery_status)
            .value(&content_end)
            .value(&message.reference_id.map(hex::encode))
            .value(&view.expire_at_ns)
            .value(&message.sequence_id)
            .value(&message.originator_id)
            .value(&view.deleted_by_inbox_id);
        row.end();
    }

    /// The number of a message's header: kind, sender and content type.
    fn header(&mut self, message: &Message<'_>, content_type: &str) -> usize {
        let numbers = [message.kind, message.content_type_save, message.version_major, message.version_minor];
        let texts = [
            message.sender_inbox_id.as_bytes(),
            message.sender_installation_id,
            content_type.as_bytes(),
            message.authority_id.as_bytes(),
        ];
        self.header_key.clear();
        self.header_key.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        for text in texts {
            self.header_key.extend_from_slice(&text.len().to_le_bytes());
            self.header_key.extend_from_slice(text);
        }
        self.headers.number(&self.header_key, |json| {
            json.push(b'[');
            let mut row = Row(json);
            row.value(&message.kind)
                .value(&message.sender_inbox_id)
                .hex(message.sender_installation_id)
                .value(&content_type)
                .value(&message.authority_id)
                .value(&message.version_major)
                .value(&message.version_minor)
                .value(&message.content_type_save);
            row.end();
        })
    }

    pub fn consent(&mut self, consent: &Consent<'_>) {
        let mut row = self.begin('c');
        row.value(&consent.entity_type).value(&consent.state).value(&consent.entity).value(&consent.consented_at_ns);
        row.end();
    }

    fn begin(&mut self, kind: char) -> Row<'_> {
        match self.run {
            Some(run) if run == kind => self.runs.push(b','),
            run => {
                self.runs.extend_from_slice(if run.is_some() { b"]],[\"" } else { b"[\"" });
                self.runs.push(kind as u8);
                self.runs.extend_from_slice(b"\",[");
                self.run = Some(kind);
            }
        }
        self.runs.push(b'[');
        Row(&mut self.runs)
    }
}

/// A JSON array being written.
struct Row<'a>(&'a mut Vec<u8>);

impl Row<'_> {
    fn value(&mut self, value: &(impl Serialize + ?Sized)) -> &mut Self {
        // Writing to memory does not fail, and no row has a map whose keys are not strings.
        let _ = serde_json::to_writer(&mut *self.0, value);
        self.0.push(b',');
        self
    }

    fn hex(&mut self, bytes: &[u8]) -> &mut Self {
        write_hex(self.0, bytes);
        self.0.push(b',');
        self
    }

    /// Closes the array in place of the last comma.
    fn end(&mut self) {
        if let Some(last) = self.0.last_mut() {
            *last = b']';
        }
    }
}

/// Appends bytes as a JSON string of hexadecimal digits.
fn write_hex(json: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    json.push(b'"');
    json.extend(
        bytes.iter().flat_map(|byte| {
            [byte >> 4, byte & 15].map(|digit| DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0'))
        }),
    );
    json.push(b'"');
}

/// A conversation from Python.
#[derive(Deserialize)]
pub(super) struct GroupRow<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    conversation_type: i32,
    name: Option<String>,
    description: Option<String>,
    image_url_square: Option<String>,
    app_data: Option<String>,
    created_at_ns: i64,
    last_message_ns: Option<i64>,
    dm_id: Option<String>,
    creator_inbox_id: Option<String>,
    added_by_inbox_id: String,
    admins: Vec<String>,
    super_admins: Vec<String>,
    membership_state: i32,
    // What is active follows from the membership state; it is in the row because the dataclass has it.
    #[serde(rename = "is_active")]
    _is_active: bool,
    message_disappear_from_ns: Option<i64>,
    message_disappear_in_ns: Option<i64>,
    installations_last_checked: i64,
    rotated_at_ns: i64,
    welcome_id: Option<i64>,
    paused_for_version: Option<String>,
    attributes: BTreeMap<String, String>,
}

/// A message from Python.
#[derive(Deserialize)]
pub(super) struct MessageRow<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    conversation_id: Cow<'a, str>,
    sent_at_ns: i64,
    kind: i32,
    #[serde(borrow)]
    sender_inbox_id: Cow<'a, str>,
    #[serde(borrow)]
    sender_installation_id: Cow<'a, str>,
    delivery_status: i32,
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    content_end: usize,
    reference_id: Option<String>,
    expire_at_ns: Option<i64>,
    sequence_id: Option<i64>,
    originator_id: Option<i64>,
    #[serde(borrow)]
    authority_id: Cow<'a, str>,
    version_major: i32,
    version_minor: i32,
    content_type_save: i32,
    // Who deleted a message follows from the deletions in the store.
    #[serde(rename = "deleted_by_inbox_id")]
    _deleted_by_inbox_id: Option<String>,
}

/// A consent record from Python.
#[derive(Deserialize)]
pub(super) struct ConsentRow<'a> {
    entity_type: i32,
    state: i32,
    #[serde(borrow)]
    entity: Cow<'a, str>,
    consented_at_ns: i64,
}

/// Records of one kind from Python, ids decoded.
pub(super) enum Rows<'a> {
    Groups(Vec<(GroupRow<'a>, Vec<u8>)>),
    Messages(Vec<(MessageRow<'a>, MessageIds)>, &'a [u8]),
    Consents(Vec<ConsentRow<'a>>),
}

/// The binary ids of a message.
pub(super) struct MessageIds {
    id: Vec<u8>,
    group_id: Vec<u8>,
    sender_installation_id: Vec<u8>,
    reference_id: Option<Vec<u8>>,
}

impl<'a> Rows<'a> {
    /// Reads rows of the kind that `kind` names (`g`, `m`, `c`).
    pub fn parse(kind: u8, json: &'a [u8], blob: &'a [u8]) -> Result<Self, XhError> {
        match kind {
            b'g' => parse_rows(json, |row: GroupRow<'a>, index| {
                let id = unhex(&row.id, index, "id")?;
                Ok((row, id))
            })
            .map(Self::Groups),
            b'm' => parse_rows(json, |row: MessageRow<'a>, index| {
                let ids = MessageIds {
                    id: unhex(&row.id, index, "id")?,
                    group_id: unhex(&row.conversation_id, index, "conversation_id")?,
                    sender_installation_id: unhex(&row.sender_installation_id, index, "sender_installation_id")?,
                    reference_id: row
                        .reference_id
                        .as_deref()
                        .map(|reference_id| unhex(reference_id, index, "reference_id"))
                        .transpose()?,
                };
                Ok((row, ids))
            })
            .map(|rows| Self::Messages(rows, blob)),
            _ => parse_rows(json, |row, _| Ok(row)).map(Self::Consents),
        }
    }

    /// The rows as records of the store.
    pub fn records(&self) -> Box<dyn Iterator<Item = Record<'_>> + '_> {
        match self {
            Self::Groups(rows) => Box::new(rows.iter().map(|(row, id)| Record::Group(group_of(row, id)))),
            Self::Messages(rows, blob) => {
                let mut content_start = 0;
                Box::new(rows.iter().map(move |(row, ids)| {
                    let content = blob.get(content_start..row.content_end).unwrap_or_default();
                    content_start = row.content_end;
                    Record::Message(message_of(row, ids, content), row.expire_at_ns)
                }))
            }
            Self::Consents(rows) => Box::new(rows.iter().map(|row| {
                Record::Consent(Consent {
                    entity_type: row.entity_type,
                    state: row.state,
                    entity: &row.entity,
                    consented_at_ns: row.consented_at_ns,
                    unknown: Vec::new(),
                })
            })),
        }
    }
}

fn parse_rows<'a, R: Deserialize<'a>, T>(
    json: &'a [u8],
    mut convert: impl FnMut(R, usize) -> Result<T, XhError>,
) -> Result<Vec<T>, XhError> {
    let rows: Vec<&serde_json::value::RawValue> =
        serde_json::from_slice(json).map_err(|error| unreadable(0, &error))?;
    rows.into_iter()
        .enumerate()
        .map(|(index, raw)| {
            let row = serde_json::from_str(raw.get()).map_err(|error| unreadable(index, &error))?;
            convert(row, index)
        })
        .collect()
}

/// A value of the wrong type or out of range. serde names what it expected, and of what it found only the type or number.
fn unreadable(index: usize, error: &serde_json::Error) -> XhError {
    XhError::new("ValueError", format!("record {index}: a field has the wrong type or is out of range ({error})"))
}

fn unhex(text: &str, index: usize, field: &str) -> Result<Vec<u8>, XhError> {
    hex::decode(text)
        .map_err(|_| XhError::new("ValueError", format!("record {index}: {field}: not a hexadecimal string")))
}

fn group_of<'a>(row: &'a GroupRow<'_>, id: &'a [u8]) -> Group<'a> {
    let named = [&row.name, &row.description, &row.image_url_square, &row.app_data];
    let mut attributes: Vec<_> = NAMED_ATTRIBUTES
        .into_iter()
        .zip(named)
        .filter_map(|(key, value)| value.as_deref().map(|value| (key, value)))
        .collect();
    attributes.extend(row.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let has_mutable_metadata = !(attributes.is_empty() && row.admins.is_empty() && row.super_admins.is_empty());
    Group {
        id,
        created_at_ns: row.created_at_ns,
        membership_state: row.membership_state,
        installations_last_checked: row.installations_last_checked,
        added_by_inbox_id: &row.added_by_inbox_id,
        welcome_id: row.welcome_id,
        rotated_at_ns: row.rotated_at_ns,
        conversation_type: row.conversation_type,
        dm_id: row.dm_id.as_deref(),
        last_message_ns: row.last_message_ns,
        message_disappear_from_ns: row.message_disappear_from_ns,
        message_disappear_in_ns: row.message_disappear_in_ns,
        metadata: row
            .creator_inbox_id
            .as_deref()
            .map(|creator_inbox_id| GroupMetadata { creator_inbox_id, unknown: Vec::new() }),
        mutable_metadata: has_mutable_metadata.then(|| MutableMetadata {
            attributes,
            admin_list: row.admins.iter().map(String::as_str).collect(),
            super_admin_list: row.super_admins.iter().map(String::as_str).collect(),
            unknown: Vec::new(),
        }),
        paused_for_version: row.paused_for_version.as_deref(),
        unknown: Vec::new(),
    }
}

fn message_of<'a>(row: &'a MessageRow<'_>, ids: &'a MessageIds, content: &'a [u8]) -> Message<'a> {
    Message {
        id: &ids.id,
        group_id: &ids.group_id,
        decrypted_message_bytes: content,
        sent_at_ns: row.sent_at_ns,
        kind: row.kind,
        sender_installation_id: &ids.sender_installation_id,
        sender_inbox_id: &row.sender_inbox_id,
        delivery_status: row.delivery_status,
        content_type_save: row.content_type_save,
        version_major: row.version_major,
        version_minor: row.version_minor,
        authority_id: &row.authority_id,
        reference_id: ids.reference_id.as_deref(),
        sequence_id: row.sequence_id,
        originator_id: row.originator_id,
        content_type: &row.content_type,
        unknown: Vec::new(),
    }
}

/// A conversation straight from an archive.
pub(super) fn archived_conversation(group: Group<'_>) -> ConversationView<'_> {
    let is_active = group.membership_state != rules::MEMBERSHIP_RESTORED;
    ConversationView { group, is_active }
}

/// A message straight from an archive, which knows neither expiry nor deletion.
pub(super) fn archived_message(message: Message<'_>) -> MessageView<'_> {
    MessageView { message, expire_at_ns: None, deleted_by_inbox_id: None }
}
