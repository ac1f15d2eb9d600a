//! What a group's state and messages become in the history.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension as _;

use super::envelope;
use super::error::Error;
use super::extensions::{GroupExtensions, MESSAGE_DISAPPEAR_FROM_NS, MESSAGE_DISAPPEAR_IN_NS};
use super::group_updated;
use super::groups::{GroupRow, GroupState};
use super::installation::Work;
use super::rules::CommitChanges;
use crate::store::{self, Record, rules};
use crate::wire::{Consent, Group, GroupMetadata, Message, MutableMetadata};

/// Where in the network a commit's number comes from (archive specification, section 2.5).
const ORIGINATOR_COMMITS: i64 = 0;
/// Where in the network an application message's number comes from.
const ORIGINATOR_APPLICATION: i64 = 10;
/// Membership states of a conversation (archive specification, section 2.3).
const MEMBERSHIP_ALLOWED: i32 = 1;
const MEMBERSHIP_PENDING: i32 = 3;
/// Consent states and entity types (archive specification, section 2.4).
const CONSENT_ALLOWED: i32 = 2;
const ENTITY_CONVERSATION: i32 = 1;

/// Who said something, where, and when.
pub(super) struct Said<'a> {
    pub sender_inbox_id: &'a str,
    pub sender_installation_id: &'a [u8],
    pub idempotency_key: &'a str,
    pub content: &'a [u8],
    /// The node's time, ns.
    pub sent_at_ns: i64,
    /// The node's number.
    pub sequence_id: u64,
}

impl Work<'_> {
    /// Stores a conversation as its group stands, keeping what only the history knows of it.
    pub(super) fn store_conversation(
        &self,
        own_inbox_id: &str,
        row: &GroupRow,
        group: &GroupExtensions,
    ) -> Result<(), Error> {
        let attributes = &group.mutable_metadata.attributes;
        let number = |name: &str| attributes.get(name).and_then(|value| value.parse::<i64>().ok());
        let dm_id = group.metadata.dm_members.as_ref().map(|members| {
            let [mut first, mut second] = members.each_ref();
            if first > second {
                (first, second) = (second, first);
            }
            format!("dm:{first}:{second}")
        });
        // An archive may have brought the conversation before its welcome came; it knows better how old it is.
        let created_at_ns: i64 = self
            .connection()
            .prepare_cached(
                "SELECT coalesce(min(created_at_ns), ?2) FROM groups WHERE id = ?1 AND known = 1 AND created_at_ns > 0",
            )?
            .query_row(rusqlite::params![row.id, row.created_at_ns], |row| row.get(0))?;
        let own = row.added_by_inbox_id == own_inbox_id;
        let stored = self.transaction.add(&Record::Group(Group {
            id: &row.id,
            created_at_ns,
            membership_state: if own { MEMBERSHIP_ALLOWED } else { MEMBERSHIP_PENDING },
            added_by_inbox_id: &row.added_by_inbox_id,
            welcome_id: row.welcome_id.map(u64::cast_signed),
            conversation_type: row.conversation_type,
            dm_id: dm_id.as_deref(),
            message_disappear_from_ns: number(MESSAGE_DISAPPEAR_FROM_NS),
            message_disappear_in_ns: number(MESSAGE_DISAPPEAR_IN_NS),
            metadata: Some(GroupMetadata { creator_inbox_id: &row.creator_inbox_id, unknown: Vec::new() }),
            mutable_metadata: Some(MutableMetadata {
                attributes: attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                admin_list: group.mutable_metadata.admins.iter().map(String::as_str).collect(),
                super_admin_list: group.mutable_metadata.super_admins.iter().map(String::as_str).collect(),
                unknown: Vec::new(),
            }),
            paused_for_version: (row.state == GroupState::Paused).then_some(row.reason.as_str()),
            ..Group::default()
        }));
        match stored {
            // Members may write what they like into a group. What the history cannot keep must not hold up its messages.
            Err(store::Error::Invalid(_)) => Ok(()),
            stored => Ok(stored.map(|_| ())?),
        }
    }

    /// The two inboxes of a stored DM.
    pub(super) fn dm_members(&self, group_id: &[u8]) -> Result<Option<[String; 2]>, Error> {
        let dm_id: Option<String> = self
            .connection()
            .prepare_cached("SELECT dm_id FROM groups WHERE id = ?1 AND known = 1")?
            .query_row([group_id], |row| row.get(0))
            .optional()?
            .flatten();
        let members = dm_id.as_deref().and_then(rules::dm_members);
        Ok(members.map(|(one, two)| [one.to_owned(), two.to_owned()]))
    }

    /// Notes that a conversation is allowed because the inbox itself made it. Dated 0, so that every decision that somebody
    /// takes is newer (device sync specification, section 5e).
    pub(super) fn allow_own_conversation(&self, group_id: &[u8]) -> Result<(), Error> {
        let entity = hex::encode(group_id);
        let decided: bool = self.connection().query_row(
            "SELECT EXISTS (SELECT 1 FROM consent_records WHERE entity_type = ?1 AND entity = ?2)",
            rusqlite::params![ENTITY_CONVERSATION, entity],
            |row| row.get(0),
        )?;
        if !decided {
            self.transaction.add(&Record::Consent(Consent {
                entity_type: ENTITY_CONVERSATION,
                state: CONSENT_ALLOWED,
                entity: &entity,
                consented_at_ns: 0,
                unknown: Vec::new(),
            }))?;
        }
        Ok(())
    }

    /// Stores an application message. Returns its id, if it was not there.
    pub(super) fn store_message(&self, group_id: &[u8], said: &Said<'_>) -> Result<Option<[u8; 32]>, Error> {
        let id = envelope::message_id(group_id, said.idempotency_key, said.content);
        let kind = rules::KIND_APPLICATION;
        Ok(self.store_row(&id, group_id, said, kind, ORIGINATOR_APPLICATION)?.then_some(id))
    }

    /// Stores the message that stands for a commit.
    pub(super) fn store_group_updated(
        &self,
        group_id: &[u8],
        changes: &CommitChanges,
        created_ns: u64,
        sequence_id: u64,
    ) -> Result<(), Error> {
        let leaving = self.leaving(group_id, &changes.removed_inboxes)?;
        let Some(content) = group_updated::of_commit(changes, &leaving) else { return Ok(()) };
        let key = group_updated::commit_idempotency_key(created_ns);
        let id = envelope::message_id(group_id, &key, &content);
        let said = Said {
            sender_inbox_id: &changes.actor_inbox_id,
            sender_installation_id: &changes.actor_installation_id,
            idempotency_key: &key,
            content: &content,
            sent_at_ns: time(created_ns),
            sequence_id,
        };
        self.store_row(&id, group_id, &said, rules::KIND_MEMBERSHIP_CHANGE, ORIGINATOR_COMMITS)?;
        Ok(())
    }

    /// Stores the message that stands for having been added.
    pub(super) fn store_joined(
        &self,
        own_inbox_id: &str,
        row: &GroupRow,
        adder_installation_id: &[u8],
        welcomed_at_ns: i64,
    ) -> Result<(), Error> {
        let content = group_updated::of_joining(own_inbox_id, &row.added_by_inbox_id);
        let key = group_updated::joined_idempotency_key(welcomed_at_ns);
        let id = envelope::message_id(&row.id, &key, &content);
        let said = Said {
            sender_inbox_id: &row.added_by_inbox_id,
            sender_installation_id: adder_installation_id,
            idempotency_key: &key,
            content: &content,
            sent_at_ns: welcomed_at_ns,
            sequence_id: row.cursor,
        };
        self.store_row(&id, &row.id, &said, rules::KIND_MEMBERSHIP_CHANGE, ORIGINATOR_COMMITS)?;
        Ok(())
    }

    fn store_row(
        &self,
        id: &[u8],
        group_id: &[u8],
        said: &Said<'_>,
        kind: i32,
        originator_id: i64,
    ) -> Result<bool, Error> {
        let fields = envelope::query_fields(said.content);
        let message = Message {
            id,
            group_id,
            decrypted_message_bytes: said.content,
            sent_at_ns: said.sent_at_ns,
            kind,
            sender_installation_id: said.sender_installation_id,
            sender_inbox_id: said.sender_inbox_id,
            delivery_status: rules::STATUS_PUBLISHED,
            version_major: fields.version_major,
            version_minor: fields.version_minor,
            authority_id: &fields.authority_id,
            reference_id: fields.reference_id.as_deref(),
            sequence_id: Some(said.sequence_id.cast_signed()),
            originator_id: Some(originator_id),
            content_type: &fields.content_type,
            ..Message::default()
        };
        Ok(self.transaction.add(&Record::Message(message, None))?)
    }

    /// Which of the inboxes that a commit removes had asked for it.
    fn leaving(&self, group_id: &[u8], removed: &[String]) -> Result<BTreeSet<String>, Error> {
        let mut leaving = BTreeSet::new();
        for inbox_id in removed {
            let asked: bool = self
                .connection()
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM groups
                       CROSS JOIN group_timeline AS entry ON entry.group_key = groups.key
                       CROSS JOIN group_messages AS message ON message.key = entry.message_key
                       CROSS JOIN message_headers AS header ON header.key = message.header_key
                      WHERE groups.id = ?1 AND header.sender_inbox_id = ?2 AND header.content_type = 'leave_request')",
                )?
                .query_row(rusqlite::params![group_id, inbox_id], |row| row.get(0))?;
            if asked {
                leaving.insert(inbox_id.clone());
            }
        }
        Ok(leaving)
    }
}

/// A node's time as the store keeps it.
pub(super) fn time(created_ns: u64) -> i64 {
    i64::try_from(created_ns).unwrap_or(i64::MAX)
}
