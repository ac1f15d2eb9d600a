//! What installations ask of each other in sync groups: requests for history, answers, refusals, and the tasks that follow from
//! them (device sync specification, sections 3 to 5).
//!
//! A task is written with the message that asks for it, in one transaction, so no crash can lose one or do one twice.

use prost::Message as _;
use rusqlite::{Connection, Row, params};

use super::conversations::Said;
use super::error::Error;
use super::installation::{Installation, Work};
use crate::crypto::random_bytes;
use crate::wire::proto::device_sync::content::device_sync_content::Content;
use crate::wire::proto::device_sync::content::device_sync_key_type::Key;
use crate::wire::proto::device_sync::content::history_notice::Notice;
use crate::wire::proto::device_sync::content::{
    ArchiveRefusal, DeviceSyncAcknowledge, DeviceSyncContent, DeviceSyncKeyType, DeviceSyncReply, DeviceSyncRequest,
    HistoryNotice,
};
pub use crate::wire::proto::device_sync::{ArchiveOptions, BackupMetadataSave};

/// Characters of a pin, and what they are taken from (section 3.2).
const PIN_LENGTH: usize = 5;
const PIN_ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Longer pins and URLs are not looked at; releases up to 1.9 had pins of 32 characters.
const LONGEST_PIN: usize = 128;
const LONGEST_URL: usize = 2048;
/// Of what somebody else says about a failure, so many bytes are kept.
const LONGEST_DETAIL: usize = 256;
/// Bytes of an archive's key.
const KEY_BYTES: usize = 32;

/// Nothing is answered twice.
const TASK_IS_DONE: Error = Error::Argument("there is no such task, or it is done");

/// What a task is. The numbers are those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskKind {
    /// Another installation asks for history.
    Answer = 1,
    /// Another installation has sent what this one asked for.
    Import = 2,
}

/// How far a task is. The numbers are those of the table, and of the reference's.
#[derive(Debug, Clone, Copy)]
enum TaskState {
    Pending = 0,
    Processed = 1,
    Failed = 2,
}

/// Why an answer does not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The request's pin.
    pub pin: String,
    /// Who refuses.
    pub installation_id: Vec<u8>,
    /// One word.
    pub reason: String,
    /// For people.
    pub detail: String,
}

/// What the messages of a page say to this installation, beside what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// How many tasks are new.
    pub tasks: usize,
    /// Decisions about consent that changed something: entity type, entity, state, time in ns.
    pub consents: Vec<(i32, String, i32, i64)>,
    /// Whether the inbox has another root key for HMACs.
    pub hmac: bool,
    /// Messages that another installation recorded and that are new here: conversation and id.
    pub recorded: Vec<(Vec<u8>, Vec<u8>)>,
    /// Why requests are not answered.
    pub refusals: Vec<Refusal>,
}

/// A request of this installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// By which answers are known.
    pub pin: String,
    /// When it was made, ns.
    pub sent_at_ns: i64,
    /// The history server that it names.
    pub server_url: String,
    /// Whether it was made without being asked for.
    pub automatic: bool,
    /// How many answers were imported.
    pub imported: u64,
    /// How many are waiting to be imported.
    pub pending: u64,
    /// Which installations said that they will not answer, and why.
    pub refused: Vec<Refusal>,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The message that asks for it.
    pub message_id: Vec<u8>,
    /// The sync group that it came in.
    pub group_id: Vec<u8>,
    /// The node's number of it.
    pub sequence_id: u64,
    /// The node's time of it, ns.
    pub sent_at_ns: i64,
    /// Who sent it.
    pub installation_id: Vec<u8>,
    /// How often it failed.
    pub attempts: u32,
    /// When it is to be tried again, ns.
    pub next_attempt_at_ns: i64,
    /// What it is about.
    pub subject: Subject,
}

/// What a task is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// An archive is to be sent.
    Request(DeviceSyncRequest),
    /// An archive is to be imported.
    Reply(Reply),
}

/// An archive that another installation has sent.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// The message.
    pub message_id: Vec<u8>,
    /// Who sent it.
    pub installation_id: Vec<u8>,
    /// The node's time of it, ns.
    pub sent_at_ns: i64,
    /// The request's pin, or one that the sender chose.
    pub pin: String,
    /// Where it is.
    pub url: String,
    /// What it says to hold.
    pub metadata: Option<BackupMetadataSave>,
    /// What opens it.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reply").field("installation_id", &self.installation_id).finish_non_exhaustive()
    }
}

impl Installation {
    /// Takes from a message of a sync group, which another installation of the inbox sent, what it asks of this one.
    pub(super) fn heard(
        &self,
        work: &Work<'_>,
        message_id: &[u8],
        said: &Said<'_>,
        content: &[u8],
        news: &mut News,
    ) -> Result<(), Error> {
        let Ok(content) = DeviceSyncContent::decode(content) else { return Ok(()) };
        let own = said.sender_installation_id == self.installation_id();
        match content.content {
            Some(Content::PreferenceUpdates(updates)) => self.merge_preferences(work, &updates, said, news),
            // A copy of this installation's database has said it; that must not happen, and is not made worse here.
            _ if own => Ok(()),
            Some(Content::Request(request)) if is_pin(&request.pin) => {
                add_task(work.connection(), message_id, TaskKind::Answer, &request.pin, said)?;
                news.tasks += 1;
                Ok(())
            }
            Some(Content::Reply(reply)) => replied(work.connection(), message_id, said, &reply, news),
            Some(Content::Request(_)) => Ok(()),
            // No known client sends acknowledgements any more.
            Some(Content::Acknowledge(_)) | None => match content.notice.and_then(|notice| notice.notice) {
                Some(Notice::Recorded(recorded)) => {
                    let elements = recorded.elements.iter().map(Vec::as_slice);
                    news.recorded.extend(work.transaction.merge_elements(elements)?);
                    Ok(())
                }
                Some(Notice::Refusal(refusal)) => refused(work.connection(), message_id, said, &refusal, news),
                None => Ok(()),
            },
        }
    }

    /// Asks the other installations for their history, in a sync group. Returns the request's pin and message id.
    ///
    /// # Errors
    /// [`Error::NoSuchGroup`], [`Error::NoRandomness`], or any error of the database.
    pub fn send_sync_request(
        &self,
        group_id: &[u8],
        server_url: &str,
        options: ArchiveOptions,
        automatic: bool,
    ) -> Result<(String, [u8; 32]), Error> {
        let work = self.work()?;
        let pin = new_pin()?;
        let request = DeviceSyncRequest {
            pin: pin.clone(),
            server_url: server_url.to_owned(),
            options: Some(options),
            ..DeviceSyncRequest::default()
        };
        let message_id = self.say(&work, group_id, &encoded(Content::Request(request)))?;
        work.connection().execute(
            "INSERT INTO sync_requests VALUES (?1, ?2, ?3, ?4, ?5)",
            params![pin, message_id, work.now_ns, server_url, automatic],
        )?;
        if automatic {
            work.connection().execute("UPDATE installation SET history_asked = 1", [])?;
        }
        work.commit()?;
        Ok((pin, message_id))
    }

    /// Whether the first request for history was made, or found to be needless.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn history_asked(&self) -> Result<bool, Error> {
        self.store.read(|connection| {
            Ok(connection.query_row("SELECT history_asked FROM installation", [], |row| row.get(0))?)
        })
    }

    /// Notes that no first request for history is needed.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn set_history_asked(&self) -> Result<(), Error> {
        let work = self.work()?;
        work.connection().execute("UPDATE installation SET history_asked = 1", [])?;
        work.commit()
    }

    /// The requests of this installation, the newest first.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_requests(&self) -> Result<Vec<Request>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT pin, sent_at_ns, server_url, automatic,
                        (SELECT count(*) FROM sync_tasks AS task
                          WHERE task.pin = request.pin AND task.kind = ?1 AND task.state = ?2),
                        (SELECT count(*) FROM sync_tasks AS task
                          WHERE task.pin = request.pin AND task.kind = ?1 AND task.state = ?3)
                   FROM sync_requests AS request ORDER BY sent_at_ns DESC",
            )?;
            let states = params![TaskKind::Import as i64, TaskState::Processed as i64, TaskState::Pending as i64];
            let requests = select.query_map(states, |row| {
                Ok(Request {
                    pin: row.get(0)?,
                    sent_at_ns: row.get(1)?,
                    server_url: row.get(2)?,
                    automatic: row.get(3)?,
                    imported: row.get(4)?,
                    pending: row.get(5)?,
                    refused: Vec::new(),
                })
            })?;
            let mut requests: Vec<Request> = requests.collect::<Result<_, _>>()?;
            let mut select = connection
                .prepare_cached("SELECT pin, installation_id, reason, detail FROM sync_refusals WHERE pin = ?1")?;
            for request in &mut requests {
                let refusals = select.query_map([&request.pin], |row| {
                    Ok(Refusal {
                        pin: row.get(0)?,
                        installation_id: row.get(1)?,
                        reason: row.get(2)?,
                        detail: row.get(3)?,
                    })
                })?;
                request.refused = refusals.collect::<Result<_, _>>()?;
            }
            Ok(requests)
        })
    }

    /// What is to be done, in the order of the node.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_tasks(&self) -> Result<Vec<Task>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT message.id, message.sender_installation_id, message.sent_at_ns, message.content,
                        message.group_id, message.sequence_id, task.attempts, task.next_attempt_at_ns
                   FROM sync_tasks AS task JOIN sync_group_messages AS message ON message.id = task.message_id
                  WHERE task.state = ?1 ORDER BY message.sequence_id",
            )?;
            let mut rows = select.query([TaskState::Pending as i64])?;
            let mut tasks = Vec::new();
            while let Some(row) = rows.next()? {
                let Some(subject) = subject(row)? else { continue };
                tasks.push(Task {
                    message_id: row.get(0)?,
                    installation_id: row.get(1)?,
                    sent_at_ns: row.get(2)?,
                    group_id: row.get(4)?,
                    sequence_id: row.get::<_, i64>(5)?.cast_unsigned(),
                    attempts: row.get(6)?,
                    next_attempt_at_ns: row.get(7)?,
                    subject,
                });
            }
            Ok(tasks)
        })
    }

    /// A task is done. Other archives that the same installation sent for the same request need not be imported then.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn task_done(&self, message_id: &[u8]) -> Result<(), Error> {
        let work = self.work()?;
        settle(work.connection(), message_id, TaskState::Processed, "")?;
        work.connection().execute(
            "UPDATE sync_tasks SET state = ?2
              WHERE state = ?3 AND kind = ?4 AND (pin, installation_id) =
                    (SELECT pin, installation_id FROM sync_tasks WHERE message_id = ?1 AND kind = ?4)",
            params![message_id, TaskState::Processed as i64, TaskState::Pending as i64, TaskKind::Import as i64],
        )?;
        work.commit()
    }

    /// A task will never be done.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn task_failed(&self, message_id: &[u8], reason: &str) -> Result<(), Error> {
        let work = self.work()?;
        settle(work.connection(), message_id, TaskState::Failed, reason)?;
        work.commit()
    }

    /// A task is to be tried again.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn task_retry(&self, message_id: &[u8], reason: &str, next_attempt_at_ns: i64) -> Result<(), Error> {
        let work = self.work()?;
        work.connection().execute(
            "UPDATE sync_tasks SET attempts = attempts + 1, next_attempt_at_ns = ?2, reason = ?3
              WHERE message_id = ?1 AND state = ?4",
            params![message_id, next_attempt_at_ns, kept(reason), TaskState::Pending as i64],
        )?;
        work.commit()
    }

    /// Says where an archive is, and what opens it. If it answers a request, that task is done with it.
    ///
    /// # Errors
    /// [`Error::Argument`] if the key has not 32 bytes, or the task was done before; [`Error::NoSuchGroup`], or any error of
    /// the database.
    pub fn send_sync_reply(
        &self,
        group_id: &[u8],
        pin: &str,
        url: &str,
        key: &[u8],
        metadata: BackupMetadataSave,
        task: Option<&[u8]>,
    ) -> Result<[u8; 32], Error> {
        if key.len() != KEY_BYTES {
            return Err(Error::Argument("an archive's key has 32 bytes"));
        }
        if !is_pin(pin) {
            return Err(Error::Argument("a pin has 1 to 128 characters, none of them a control character"));
        }
        let work = self.work()?;
        if let Some(task) = task
            && !settle(work.connection(), task, TaskState::Processed, "")?
        {
            return Err(TASK_IS_DONE);
        }
        let reply = DeviceSyncReply {
            request_id: pin.to_owned(),
            url: url.to_owned(),
            encryption_key: Some(DeviceSyncKeyType { key: Some(Key::Aes256Gcm(key.to_vec())) }),
            metadata: Some(metadata),
            ..DeviceSyncReply::default()
        };
        let id = self.say(&work, group_id, &encoded(Content::Reply(reply)))?;
        work.commit()?;
        Ok(id)
    }

    /// Says that a request will not be answered, in words that only installations of this library understand. The task has
    /// failed with it.
    ///
    /// # Errors
    /// As for [`Self::send_sync_reply`].
    pub fn send_refusal(
        &self,
        group_id: &[u8],
        pin: &str,
        reason: &str,
        detail: &str,
        task: Option<&[u8]>,
    ) -> Result<[u8; 32], Error> {
        let work = self.work()?;
        if let Some(task) = task
            && !settle(work.connection(), task, TaskState::Failed, reason)?
        {
            return Err(TASK_IS_DONE);
        }
        let refusal = ArchiveRefusal { request_id: pin.to_owned(), reason: kept(reason), detail: kept(detail) };
        let id = self.say(&work, group_id, &notice(Notice::Refusal(refusal)))?;
        work.commit()?;
        Ok(id)
    }

    /// Archives that other installations have sent, unasked or not, since a time: the newest first.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_replies(&self, since_ns: i64) -> Result<Vec<Reply>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT id, sender_installation_id, sent_at_ns, content FROM sync_group_messages
                  WHERE sent_at_ns >= ?1 AND sender_installation_id <> ?2
                  ORDER BY sent_at_ns DESC, sequence_id DESC",
            )?;
            let mut rows = select.query(params![since_ns, self.installation_id()])?;
            let mut replies = Vec::new();
            while let Some(row) = rows.next()? {
                replies.extend(reply_of(row)?.filter(|reply| reply.metadata.is_some()));
            }
            Ok(replies)
        })
    }

    /// One archive that another installation has sent.
    ///
    /// # Errors
    /// Any error of the database.
    pub fn sync_reply(&self, message_id: &[u8]) -> Result<Option<Reply>, Error> {
        self.store.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT id, sender_installation_id, sent_at_ns, content FROM sync_group_messages WHERE id = ?1",
            )?;
            let mut rows = select.query([message_id])?;
            match rows.next()? {
                Some(row) => reply_of(row),
                None => Ok(None),
            }
        })
    }
}

/// The bytes of a `DeviceSyncContent`.
pub(super) fn encoded(content: Content) -> Vec<u8> {
    DeviceSyncContent { content: Some(content), notice: None }.encode_to_vec()
}

/// The bytes of a message that only installations of this library understand.
pub(super) fn notice(notice: Notice) -> Vec<u8> {
    DeviceSyncContent {
        content: Some(Content::Acknowledge(DeviceSyncAcknowledge::default())),
        notice: Some(HistoryNotice { notice: Some(notice) }),
    }
    .encode_to_vec()
}

fn add_task(
    connection: &Connection,
    message_id: &[u8],
    kind: TaskKind,
    pin: &str,
    said: &Said<'_>,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO sync_tasks (message_id, kind, pin, installation_id) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![message_id, kind as i64, pin, said.sender_installation_id])?;
    Ok(())
}

/// Ends a task, if it is pending; returns whether it was.
fn settle(connection: &Connection, message_id: &[u8], state: TaskState, reason: &str) -> Result<bool, Error> {
    let settled = connection.execute(
        "UPDATE sync_tasks SET state = ?2, reason = ?3 WHERE message_id = ?1 AND state = ?4",
        params![message_id, state as i64, kept(reason), TaskState::Pending as i64],
    )?;
    Ok(settled > 0)
}

/// An archive has come. Only those that were asked for are imported by themselves; it does not matter in which group.
fn replied(
    connection: &Connection,
    message_id: &[u8],
    said: &Said<'_>,
    reply: &DeviceSyncReply,
    news: &mut News,
) -> Result<(), Error> {
    // Kinds were numbered in the first generation of device sync, whose archives nobody can read any more.
    if reply.kind != 0 || !has_request(connection, &reply.request_id)? {
        return Ok(());
    }
    let has_another: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sync_tasks WHERE pin = ?1 AND installation_id = ?2 AND kind = ?3 AND state = ?4)",
        )?
        .query_row(
            params![
                reply.request_id,
                said.sender_installation_id,
                TaskKind::Import as i64,
                TaskState::Processed as i64
            ],
            |row| row.get(0),
        )?;
    if has_another {
        return Ok(());
    }
    if reply.url.len() > LONGEST_URL || key_of(reply).is_none_or(|key| key.len() != KEY_BYTES) {
        let refusal = ArchiveRefusal {
            request_id: reply.request_id.clone(),
            reason: "malformed".to_owned(),
            detail: "the answer has no usable key or URL".to_owned(),
        };
        return refused(connection, message_id, said, &refusal, news);
    }
    add_task(connection, message_id, TaskKind::Import, &reply.request_id, said)?;
    news.tasks += 1;
    Ok(())
}

fn refused(
    connection: &Connection,
    message_id: &[u8],
    said: &Said<'_>,
    refusal: &ArchiveRefusal,
    news: &mut News,
) -> Result<(), Error> {
    if !has_request(connection, &refusal.request_id)? {
        return Ok(());
    }
    let refusal = Refusal {
        pin: refusal.request_id.clone(),
        installation_id: said.sender_installation_id.to_vec(),
        reason: kept(&refusal.reason),
        detail: kept(&refusal.detail),
    };
    connection.prepare_cached("INSERT OR IGNORE INTO sync_refusals VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        message_id,
        refusal.pin,
        refusal.installation_id,
        refusal.reason,
        refusal.detail
    ])?;
    news.refusals.push(refusal);
    Ok(())
}

fn has_request(connection: &Connection, pin: &str) -> Result<bool, Error> {
    Ok(connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM sync_requests WHERE pin = ?1)")?
        .query_row([pin], |row| row.get(0))?)
}

fn subject(row: &Row<'_>) -> Result<Option<Subject>, Error> {
    let content = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(match DeviceSyncContent::decode(content).ok().and_then(|content| content.content) {
        Some(Content::Request(request)) => Some(Subject::Request(request)),
        _ => reply_of(row)?.map(Subject::Reply),
    })
}

/// The reply in a row of id, sender, time and content.
fn reply_of(row: &Row<'_>) -> Result<Option<Reply>, Error> {
    let content = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
    let Ok(DeviceSyncContent { content: Some(Content::Reply(reply)), .. }) = DeviceSyncContent::decode(content) else {
        return Ok(None);
    };
    if reply.kind != 0 || !is_pin(&reply.request_id) || reply.url.len() > LONGEST_URL {
        return Ok(None);
    }
    Ok(Some(Reply {
        message_id: row.get(0)?,
        installation_id: row.get(1)?,
        sent_at_ns: row.get(2)?,
        key: key_of(&reply).unwrap_or_default().to_vec(),
        pin: reply.request_id,
        url: reply.url,
        metadata: reply.metadata,
    }))
}

fn key_of(reply: &DeviceSyncReply) -> Option<&[u8]> {
    let Key::Aes256Gcm(key) = reply.encryption_key.as_ref()?.key.as_ref()?;
    Some(key)
}

fn is_pin(pin: &str) -> bool {
    !pin.is_empty() && pin.len() <= LONGEST_PIN && !pin.chars().any(char::is_control)
}

/// As much of a text as is kept, without what could steer a terminal.
fn kept(text: &str) -> String {
    let mut kept: String = text.chars().filter(|character| !character.is_control()).collect();
    let end = (0..=LONGEST_DETAIL.min(kept.len())).rev().find(|end| kept.is_char_boundary(*end)).unwrap_or(0);
    kept.truncate(end);
    kept
}

fn new_pin() -> Result<String, Error> {
    let mut pin = String::new();
    while pin.len() < PIN_LENGTH {
        let bytes: [u8; 16] = random_bytes()?;
        // Only numbers below the largest multiple of 62, so that all characters are as likely.
        let characters = bytes.iter().filter(|byte| **byte < 248).map(|byte| usize::from(*byte) % PIN_ALPHABET.len());
        let characters = characters.filter_map(|index| PIN_ALPHABET.get(index)).map(|byte| char::from(*byte));
        pin.extend(characters.take(PIN_LENGTH - pin.len()));
    }
    Ok(pin)
}
