//! Messages that an application recorded here, on their way to the inbox's other installations.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::error::Error;
use super::group::{StoredGroup, load_unknown, unknown};
use super::merge::message_key;
use super::query::{Headers, MESSAGE_COLUMNS, message_of};
use super::rules::KIND_APPLICATION;
use super::transaction::Transaction;
use crate::wire;

/// More messages than this in one call are not told one by one.
pub(super) const MOST_TOLD: usize = 1000;

/// Messages and their conversations, as elements of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The elements.
    pub elements: Vec<Vec<u8>>,
    /// How many of them are messages.
    pub messages: usize,
}

/// Notes messages that are to be told.
pub(super) fn tell(connection: &Connection, ids: &[Vec<u8>]) -> Result<(), Error> {
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO messages_to_send (message_id) VALUES (?1)")?;
    for id in ids {
        insert.execute([id])?;
    }
    Ok(())
}

impl Transaction {
    /// Takes messages that are to be told, in the order in which they were recorded, until there are `budget` bytes of
    /// elements; none if none is left. What is larger than that by itself only travels by archive.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn take_recorded(&self, budget: usize) -> Result<Option<Recorded>, Error> {
        let connection = self.connection();
        let mut headers = Headers::default();
        let mut groups = HashSet::new();
        let mut recorded = Recorded::default();
        let mut bytes = 0;
        let mut taken = false;
        loop {
            let next: Option<(i64, Vec<u8>)> = connection
                .prepare_cached("SELECT key, message_id FROM messages_to_send ORDER BY key LIMIT 1")?
                .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((key, id)) = next else { break };
            let elements = elements_of(connection, &mut headers, &groups, &id)?;
            let size: usize = elements.iter().map(|(_, element)| element.len()).sum();
            if bytes > 0 && bytes + size > budget {
                break;
            }
            connection.prepare_cached("DELETE FROM messages_to_send WHERE key = ?1")?.execute([key])?;
            taken = true;
            if size > budget {
                continue;
            }
            bytes += size;
            for (group, element) in elements {
                match group {
                    Some(group) => {
                        groups.insert(group);
                    }
                    None => recorded.messages += 1,
                }
                recorded.elements.push(element);
            }
        }
        Ok(taken.then_some(recorded))
    }

    /// Forgets all messages that are to be told.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn forget_recorded(&self) -> Result<(), Error> {
        self.connection().execute("DELETE FROM messages_to_send", [])?;
        Ok(())
    }
}

/// The key of the conversation that an element is, or none if it is a message; and the element.
type Recordable = (Option<i64>, Vec<u8>);

/// A message as an element, after its conversation if that is not among `groups`, by its key.
fn elements_of(
    connection: &Connection,
    headers: &mut Headers,
    groups: &HashSet<i64>,
    id: &[u8],
) -> Result<Vec<Recordable>, Error> {
    let key = message_key(connection, id)?;
    let mut select = connection.prepare_cached(&format!(
        "SELECT {MESSAGE_COLUMNS}, groups.id, groups.known FROM group_messages AS message
           JOIN groups ON groups.key = message.group_key
          WHERE message.key = ?1 AND message.id = ?2 AND message.expire_at_ns IS NULL"
    ))?;
    let mut rows = select.query(params![key, id])?;
    let mut elements = Vec::new();
    // It may have been deleted since, or disappear: then it is nobody's business any more.
    let Some(row) = rows.next()? else { return Ok(elements) };
    let header = headers.get(connection, row.get(2)?)?;
    if header.kind != KIND_APPLICATION {
        return Ok(elements);
    }
    let group_key: i64 = row.get(1)?;
    let group_id: Vec<u8> = row.get(10)?;
    if row.get(11)? && !groups.contains(&group_key) {
        let mut element = Vec::new();
        wire::encode_group(&StoredGroup::load(connection, group_key)?.to_wire(), &mut element);
        elements.push((Some(group_key), element));
    }
    let mut message = message_of(row, &group_id, header)?;
    message.unknown = load_unknown(connection, unknown::MESSAGE, id)?;
    let mut element = Vec::new();
    wire::encode_message(&message, &mut element);
    elements.push((None, element));
    Ok(elements)
}
