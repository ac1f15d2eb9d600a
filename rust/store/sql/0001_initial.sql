-- Schema 1. Column names are the format's (archive specification, sections 2 and 5.1).
-- Enumerations hold the raw number of the format; times are nanoseconds; ids are raw bytes.

-- Groups and DMs. A row with known = 0 stands for a conversation that so far only messages speak of: it is never listed,
-- and becomes a real one as soon as the conversation arrives.
CREATE TABLE groups (
    key                        INTEGER PRIMARY KEY,
    id                         BLOB    NOT NULL UNIQUE,
    known                      INTEGER NOT NULL,
    created_at_ns              INTEGER NOT NULL DEFAULT 0,
    membership_state           INTEGER NOT NULL DEFAULT 0,
    archived_membership_state  INTEGER,            -- null: the conversation did not come from an archive
    installations_last_checked INTEGER NOT NULL DEFAULT 0,
    added_by_inbox_id          TEXT    NOT NULL DEFAULT '',
    welcome_sequence_id        INTEGER,
    welcome_originator_id      INTEGER,
    rotated_at_ns              INTEGER NOT NULL DEFAULT 0,
    conversation_type          INTEGER NOT NULL DEFAULT 0,
    dm_id                      TEXT,
    last_message_ns            INTEGER,
    archived_last_message_ns   INTEGER,
    message_disappear_from_ns  INTEGER,
    message_disappear_in_ns    INTEGER,
    paused_for_version         TEXT,
    creator_inbox_id           TEXT,               -- null: the immutable metadata are absent
    has_mutable_metadata       INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX groups_by_activity ON groups (coalesce(last_message_ns, created_at_ns) DESC, id DESC) WHERE known = 1;
CREATE INDEX groups_unknown ON groups (key) WHERE known = 0;
CREATE INDEX groups_by_dm_id ON groups (dm_id) WHERE dm_id IS NOT NULL;

CREATE TABLE group_attributes (
    group_key INTEGER NOT NULL,
    key       TEXT    NOT NULL,
    value     TEXT    NOT NULL,
    PRIMARY KEY (group_key, key)
) WITHOUT ROWID;

CREATE TABLE group_admins (
    group_key INTEGER NOT NULL,
    role      INTEGER NOT NULL,                    -- 1 admin, 2 super admin
    position  INTEGER NOT NULL,
    inbox_id  TEXT    NOT NULL,
    PRIMARY KEY (group_key, role, position)
) WITHOUT ROWID;

-- What most messages share: who sent them, and of which type they are. A history has few of these rows and many messages.
CREATE TABLE message_headers (
    key                    INTEGER PRIMARY KEY,
    kind                   INTEGER NOT NULL,
    sender_inbox_id        TEXT    NOT NULL,
    sender_installation_id BLOB    NOT NULL,
    content_type           TEXT    NOT NULL,
    content_type_save      INTEGER NOT NULL,
    version_major          INTEGER NOT NULL,
    version_minor          INTEGER NOT NULL,
    authority_id           TEXT    NOT NULL,
    UNIQUE (sender_installation_id, content_type, sender_inbox_id, kind, content_type_save, version_major,
            version_minor, authority_id)
);

-- The key of a message is the first eight bytes of its id, so that the table is ordered by id: archives are in this order
-- too, and importing one is appending, exporting one is reading straight through. Where two ids begin alike, the later one
-- lives under another key, made from its later bytes, that message_key_overflow knows.
CREATE TABLE group_messages (
    key                     INTEGER PRIMARY KEY,
    id                      BLOB    NOT NULL,
    group_key               INTEGER NOT NULL,
    header_key              INTEGER NOT NULL,
    sent_at_ns              INTEGER NOT NULL,
    delivery_status         INTEGER NOT NULL,
    sequence_id             INTEGER,
    originator_id           INTEGER,
    inserted_at_ns          INTEGER NOT NULL,
    decrypted_message_bytes BLOB    NOT NULL,
    reference_id            BLOB,
    expire_at_ns            INTEGER
);
CREATE INDEX group_messages_by_reference ON group_messages (reference_id) WHERE reference_id IS NOT NULL;
CREATE INDEX group_messages_by_expiry ON group_messages (expire_at_ns) WHERE expire_at_ns IS NOT NULL;

CREATE TABLE message_key_overflow (
    id  BLOB PRIMARY KEY,
    key INTEGER NOT NULL
) WITHOUT ROWID;

-- The index of a conversation's messages by time. It is a table so that an import can fill it in sorted runs, which keeps
-- the cost of a message the same at a million messages as at ten thousand.
CREATE TABLE group_timeline (
    group_key   INTEGER NOT NULL,
    sent_at_ns  INTEGER NOT NULL,
    message_key INTEGER NOT NULL,
    PRIMARY KEY (group_key, sent_at_ns, message_key)
) WITHOUT ROWID;

-- A deleteMessage and what it deletes. Whether its sender was a super admin is decided once the conversation is known.
CREATE TABLE message_deletions (
    message_key             INTEGER PRIMARY KEY,
    group_key               INTEGER NOT NULL,
    deleted_message_id      BLOB    NOT NULL,
    deleted_by_inbox_id     TEXT    NOT NULL,
    is_super_admin_deletion INTEGER,
    deleted_at_ns           INTEGER NOT NULL
);
CREATE INDEX message_deletions_by_message ON message_deletions (deleted_message_id);
CREATE INDEX message_deletions_undecided ON message_deletions (group_key) WHERE is_super_admin_deletion IS NULL;

CREATE TRIGGER group_messages_deleted AFTER DELETE ON group_messages BEGIN
    DELETE FROM group_timeline
     WHERE group_key = old.group_key AND sent_at_ns = old.sent_at_ns AND message_key = old.key;
    DELETE FROM message_key_overflow WHERE id = old.id;
    DELETE FROM message_deletions WHERE message_key = old.key;
    DELETE FROM unknown_fields WHERE record_kind = 4 AND record_id = old.id;
END;

CREATE TABLE consent_records (
    entity_type     INTEGER NOT NULL,
    entity          TEXT    NOT NULL,
    state           INTEGER NOT NULL,
    consented_at_ns INTEGER NOT NULL,
    PRIMARY KEY (entity_type, entity)
) WITHOUT ROWID;

-- Protobuf fields that this release does not know, for lossless export. Kinds: 1 group, 2 its immutable metadata,
-- 3 its mutable metadata, 4 message, 5 consent.
CREATE TABLE unknown_fields (
    record_kind INTEGER NOT NULL,
    record_id   BLOB    NOT NULL,
    bytes       BLOB    NOT NULL,
    PRIMARY KEY (record_kind, record_id)
) WITHOUT ROWID;

-- One row for every archive imported.
CREATE TABLE imports (
    key             INTEGER PRIMARY KEY,
    imported_at_ns  INTEGER NOT NULL,
    archive_sha256  BLOB    NOT NULL,
    archive_bytes   INTEGER NOT NULL,
    backup_version  INTEGER NOT NULL,
    legacy          INTEGER NOT NULL,
    exported_at_ns  INTEGER NOT NULL,
    start_ns        INTEGER,
    end_ns          INTEGER,
    new_records     INTEGER NOT NULL,
    skipped_records INTEGER NOT NULL,
    orphan_messages INTEGER NOT NULL
);
