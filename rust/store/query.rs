//! Reading the store, a page at a time.
//!
//! Every page is one statement that starts after the last row of the page before, so its cost does not depend on how far a
//! listing has come. `CROSS JOIN` keeps SQLite to the order of the tables as written: from the few to the many, through the
//! timeline. Expired messages are never shown, deleted from the file or not (section 5.3).

use std::collections::HashMap;

use foldhash::fast::RandomState;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use super::error::Error;
use super::group::StoredGroup;
use super::merge::message_key;
use super::report::Counts;
use super::{Store, now_ns};
use crate::wire::{Consent, Group, Message};

/// The state in `mls_groups` of a group that the installation was removed from.
const GROUP_REMOVED: i64 = 2;
/// Message headers and conversation ids remembered between rows.
const REMEMBERED: usize = 64 * 1024;

/// Where a listing goes on; `None` once it is at its end.
pub type Page<C> = Option<C>;

/// Which conversations to list, newest activity first.
#[derive(Debug, Clone, Default)]
pub struct ConversationQuery {
    /// Only this kind (wire number).
    pub conversation_type: Option<i32>,
    /// Go on after this activity (ns) and id.
    pub after: Option<(i64, Vec<u8>)>,
    /// At most this many.
    pub limit: u32,
}

/// Which messages of a conversation to list, by time.
#[derive(Debug, Clone, Default)]
pub struct MessageQuery {
    /// The conversation.
    pub group_id: Vec<u8>,
    /// Only messages sent after this time, ns, exclusive.
    pub after_ns: Option<i64>,
    /// Only messages sent before this time, ns, exclusive.
    pub before_ns: Option<i64>,
    /// Newest first.
    pub descending: bool,
    /// Go on after this time (ns) and key.
    pub after: Option<(i64, i64)>,
    /// At most this many.
    pub limit: u32,
    /// End the page early once it has this many bytes of content.
    pub content_bytes: usize,
}

/// A conversation as it stands in the store.
#[derive(Debug)]
pub struct ConversationView<'a> {
    /// The record, with the effective membership state and activity.
    pub group: Group<'a>,
    /// False while the conversation is only restored from an archive.
    pub is_active: bool,
}

/// A message as it stands in the store.
#[derive(Debug)]
pub struct MessageView<'a> {
    /// The record.
    pub message: Message<'a>,
    /// When it disappears, ns.
    pub expire_at_ns: Option<i64>,
    /// Who deleted it for everybody.
    pub deleted_by_inbox_id: Option<&'a str>,
}

/// What messages share, see `message_headers`.
#[derive(Debug)]
pub(super) struct Header {
    pub kind: i32,
    pub sender_inbox_id: String,
    pub sender_installation_id: Vec<u8>,
    pub content_type: String,
    pub content_type_save: i32,
    pub version_major: i32,
    pub version_minor: i32,
    pub authority_id: String,
}

/// Message headers by key, read on demand.
#[derive(Default)]
pub(super) struct Headers(HashMap<i64, Header, RandomState>);

impl Headers {
    pub fn get(&mut self, connection: &Connection, key: i64) -> Result<&Header, Error> {
        if !self.0.contains_key(&key) {
            if self.0.len() >= REMEMBERED {
                self.0.clear();
            }
            let header = connection
                .prepare_cached(
                    "SELECT kind, sender_inbox_id, sender_installation_id, content_type, content_type_save,
                            version_major, version_minor, authority_id
                       FROM message_headers WHERE key = ?1",
                )?
                .query_row([key], |row| {
                    Ok(Header {
                        kind: row.get(0)?,
                        sender_inbox_id: row.get(1)?,
                        sender_installation_id: row.get(2)?,
                        content_type: row.get(3)?,
                        content_type_save: row.get(4)?,
                        version_major: row.get(5)?,
                        version_minor: row.get(6)?,
                        authority_id: row.get(7)?,
                    })
                })?;
            self.0.insert(key, header);
        }
        Ok(self.0.get(&key).expect("it was inserted above"))
    }
}

/// The columns that [`message_of`] reads, in its order.
pub(super) const MESSAGE_COLUMNS: &str = "message.key, message.group_key, message.header_key, message.id,
    message.sent_at_ns, message.delivery_status, message.decrypted_message_bytes, message.reference_id,
    message.sequence_id, message.originator_id";

/// Builds a message from a row of [`MESSAGE_COLUMNS`].
pub(super) fn message_of<'a>(row: &'a Row<'_>, group_id: &'a [u8], header: &'a Header) -> Result<Message<'a>, Error> {
    Ok(Message {
        id: blob(row, 3)?,
        group_id,
        decrypted_message_bytes: blob(row, 6)?,
        sent_at_ns: row.get(4)?,
        kind: header.kind,
        sender_installation_id: &header.sender_installation_id,
        sender_inbox_id: &header.sender_inbox_id,
        delivery_status: row.get(5)?,
        content_type_save: header.content_type_save,
        version_major: header.version_major,
        version_minor: header.version_minor,
        authority_id: &header.authority_id,
        reference_id: row.get_ref(7)?.as_blob_or_null().map_err(rusqlite::Error::from)?,
        sequence_id: row.get(8)?,
        originator_id: row.get(9)?,
        content_type: &header.content_type,
        unknown: Vec::new(),
    })
}

/// What [`message_view`] reads after [`MESSAGE_COLUMNS`].
const VIEW_COLUMNS: &str = "message.expire_at_ns,
    (SELECT deletion.deleted_by_inbox_id FROM message_deletions AS deletion
      CROSS JOIN message_headers AS header ON header.key = message.header_key
      WHERE deletion.deleted_message_id = message.id AND deletion.group_key = message.group_key
        AND (deletion.is_super_admin_deletion = 1 OR deletion.deleted_by_inbox_id = header.sender_inbox_id)
      LIMIT 1)";

fn message_view<'a>(row: &'a Row<'_>, group_id: &'a [u8], header: &'a Header) -> Result<MessageView<'a>, Error> {
    Ok(MessageView {
        message: message_of(row, group_id, header)?,
        expire_at_ns: row.get(10)?,
        deleted_by_inbox_id: row.get_ref(11)?.as_str_or_null().map_err(rusqlite::Error::from)?,
    })
}

fn blob<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], Error> {
    Ok(row.get_ref(column)?.as_blob().map_err(rusqlite::Error::from)?)
}

impl Store {
    /// How many records of each kind can be listed.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn counts(&self) -> Result<Counts, Error> {
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        let count = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, u64>(0));
        let hidden = reader.query_row(
            "SELECT (SELECT count(*) FROM groups
                      CROSS JOIN group_timeline AS entry ON entry.group_key = groups.key WHERE groups.known = 0)
                  + (SELECT count(*) FROM group_messages AS message
                      CROSS JOIN groups ON groups.key = message.group_key
                      WHERE message.expire_at_ns <= ?1 AND groups.known = 1)",
            [now_ns()],
            |row| row.get::<_, u64>(0),
        )?;
        Ok(Counts {
            conversations: count("SELECT count(*) FROM groups WHERE known = 1")?,
            messages: count("SELECT count(*) FROM group_timeline")?.saturating_sub(hidden),
            consents: count("SELECT count(*) FROM consent_records")?,
        })
    }

    /// Gives a page of conversations to `visit`, newest activity first.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn conversations(
        &self,
        query: &ConversationQuery,
        visit: &mut dyn FnMut(ConversationView<'_>),
    ) -> Result<Page<(i64, Vec<u8>)>, Error> {
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        let mut sql = String::from(
            "SELECT key, coalesce(last_message_ns, created_at_ns), id FROM groups
              WHERE known = 1 AND conversation_type ",
        );
        let mut values: Vec<Value> = Vec::new();
        match query.conversation_type {
            Some(conversation_type) => {
                sql.push_str("= ?");
                values.push(i64::from(conversation_type).into());
            }
            None => sql.push_str("IN (1, 2)"),
        }
        if let Some((activity, id)) = &query.after {
            sql.push_str(" AND (coalesce(last_message_ns, created_at_ns), id) < (?, ?)");
            values.extend([Value::from(*activity), Value::from(id.clone())]);
        }
        sql.push_str(" ORDER BY coalesce(last_message_ns, created_at_ns) DESC, id DESC LIMIT ?");
        values.push(i64::from(query.limit).into());
        let found: Vec<(i64, i64, Vec<u8>)> = reader
            .prepare_cached(&sql)?
            .query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (key, _, _) in &found {
            visit(view(&reader, &StoredGroup::load(&reader, *key)?)?);
        }
        Ok(if found.len() < query.limit as usize {
            None
        } else {
            found.into_iter().next_back().map(|row| (row.1, row.2))
        })
    }

    /// Gives the conversation of this id to `visit`, if there is one.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn conversation(&self, id: &[u8], visit: &mut dyn FnMut(ConversationView<'_>)) -> Result<(), Error> {
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        let key: Option<i64> = reader
            .prepare_cached("SELECT key FROM groups WHERE id = ?1 AND known = 1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if let Some(key) = key {
            visit(view(&reader, &StoredGroup::load(&reader, key)?)?);
        }
        Ok(())
    }

    /// Gives a page of a conversation's messages to `visit`, by time. A conversation that is not known has none.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn messages(
        &self,
        query: &MessageQuery,
        visit: &mut dyn FnMut(MessageView<'_>),
    ) -> Result<Page<(i64, i64)>, Error> {
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        let (comparison, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
        let mut sql = format!(
            "SELECT {MESSAGE_COLUMNS}, {VIEW_COLUMNS}
               FROM groups
              CROSS JOIN group_timeline AS entry ON entry.group_key = groups.key
              CROSS JOIN group_messages AS message ON message.key = entry.message_key
              WHERE groups.id = ? AND groups.known = 1
                AND (message.expire_at_ns IS NULL OR message.expire_at_ns > ?)"
        );
        let mut values: Vec<Value> = vec![query.group_id.clone().into(), now_ns().into()];
        for (bound, condition) in
            [(query.after_ns, " AND entry.sent_at_ns > ?"), (query.before_ns, " AND entry.sent_at_ns < ?")]
        {
            if let Some(bound) = bound {
                sql.push_str(condition);
                values.push(bound.into());
            }
        }
        if let Some((time, key)) = query.after {
            sql.push_str(&format!(" AND (entry.sent_at_ns, entry.message_key) {comparison} (?, ?)"));
            values.extend([Value::from(time), Value::from(key)]);
        }
        sql.push_str(&format!(" ORDER BY entry.sent_at_ns {order}, entry.message_key {order} LIMIT ?"));
        values.push(i64::from(query.limit).into());

        let mut headers = Headers::default();
        let mut statement = reader.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let (mut count, mut content_bytes, mut last) = (0, 0, None);
        while let Some(row) = rows.next()? {
            let header = headers.get(&reader, row.get(2)?)?;
            let view = message_view(row, &query.group_id, header)?;
            last = Some((view.message.sent_at_ns, row.get(0)?));
            count += 1;
            content_bytes += view.message.decrypted_message_bytes.len();
            visit(view);
            if content_bytes >= query.content_bytes {
                return Ok(last);
            }
        }
        Ok(if count < query.limit { None } else { last })
    }

    /// Gives the message of this id to `visit`, if there is one and its conversation is known.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn message(&self, id: &[u8], visit: &mut dyn FnMut(MessageView<'_>)) -> Result<(), Error> {
        let reader = self.reader()?;
        reader.execute_batch("BEGIN")?;
        let key = message_key(&reader, id)?;
        let mut headers = Headers::default();
        let mut statement = reader.prepare_cached(&format!(
            "SELECT {MESSAGE_COLUMNS}, {VIEW_COLUMNS}, groups.id FROM group_messages AS message
               JOIN groups ON groups.key = message.group_key
              WHERE message.key = ?1 AND message.id = ?2 AND groups.known = 1
                AND (message.expire_at_ns IS NULL OR message.expire_at_ns > ?3)"
        ))?;
        let mut rows = statement.query(params![key, id, now_ns()])?;
        if let Some(row) = rows.next()? {
            let group_id: Vec<u8> = row.get(12)?;
            let header = headers.get(&reader, row.get(2)?)?;
            visit(message_view(row, &group_id, header)?);
        }
        Ok(())
    }

    /// Gives a page of consent records to `visit`, by entity type and entity.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn consents(
        &self,
        after: Option<(i32, &str)>,
        limit: u32,
        visit: &mut dyn FnMut(Consent<'_>),
    ) -> Result<Page<(i32, String)>, Error> {
        let reader = self.reader()?;
        let (count, last) = visit_consents(&reader, after, limit, |consent| {
            visit(consent);
            Ok(())
        })?;
        Ok(if count < limit { None } else { last })
    }
}

/// Visits consent records in key order after `after`.
pub(super) fn visit_consents(
    connection: &Connection,
    after: Option<(i32, &str)>,
    limit: u32,
    mut visit: impl FnMut(Consent<'_>) -> Result<(), Error>,
) -> Result<(u32, Option<(i32, String)>), Error> {
    let mut statement = connection.prepare_cached(
        "SELECT entity_type, entity, state, consented_at_ns FROM consent_records
          WHERE (entity_type, entity) > (?1, ?2) ORDER BY entity_type, entity LIMIT ?3",
    )?;
    // Entity types are positive, so this is before all of them.
    let (entity_type, entity) = after.unwrap_or((0, ""));
    let mut rows = statement.query(rusqlite::params![entity_type, entity, limit])?;
    let (mut count, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let entity = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let entity_type = row.get(0)?;
        visit(Consent { entity_type, state: row.get(2)?, entity, consented_at_ns: row.get(3)?, unknown: Vec::new() })?;
        count += 1;
        last = Some((entity_type, entity.to_owned()));
    }
    Ok((count, last))
}

/// The conversation as it stands here. It is active unless it came from an archive alone, or the installation was removed
/// from its group.
fn view<'a>(reader: &Connection, group: &'a StoredGroup) -> Result<ConversationView<'a>, Error> {
    let removed: bool = reader
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM mls_groups WHERE id = ?1 AND state = ?2)")?
        .query_row(params![group.id, GROUP_REMOVED], |row| row.get(0))?;
    let mut view = group.view();
    view.is_active &= !removed;
    Ok(view)
}
