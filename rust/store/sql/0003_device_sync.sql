-- Schema 3. What the inbox's installations ask of each other and tell each other (device sync specification, sections 4 and 5).

-- The message of a sync group that brought the decision; 0: taken here, or brought by an archive.
ALTER TABLE consent_records ADD COLUMN sequence_id INTEGER NOT NULL DEFAULT 0;

ALTER TABLE installation ADD COLUMN hmac_cycle_due INTEGER NOT NULL DEFAULT 0;  -- a new root key is to be made and announced
ALTER TABLE installation ADD COLUMN history_asked INTEGER NOT NULL DEFAULT 0;   -- the first request for history is settled

-- The requests for history of this installation.
CREATE TABLE sync_requests (
    pin        TEXT    PRIMARY KEY,
    message_id BLOB    NOT NULL,
    sent_at_ns INTEGER NOT NULL,
    server_url TEXT    NOT NULL,
    automatic  INTEGER NOT NULL
) WITHOUT ROWID;

-- What messages of sync groups ask to be done: archives to be sent and to be imported. A row is written with its message, in
-- one transaction, and stays, so that nothing is done twice.
CREATE TABLE sync_tasks (
    message_id         BLOB    PRIMARY KEY,
    kind               INTEGER NOT NULL,            -- 1 answer a request, 2 import an archive
    state              INTEGER NOT NULL DEFAULT 0,  -- 0 pending, 1 processed, 2 failed
    pin                TEXT    NOT NULL,
    installation_id    BLOB    NOT NULL,            -- who sent the message
    attempts           INTEGER NOT NULL DEFAULT 0,
    next_attempt_at_ns INTEGER NOT NULL DEFAULT 0,
    reason             TEXT    NOT NULL DEFAULT ''  -- what went wrong last
) WITHOUT ROWID;
CREATE INDEX sync_tasks_pending ON sync_tasks (message_id) WHERE state = 0;
CREATE INDEX sync_tasks_by_pin ON sync_tasks (pin);

-- Why an answer to one of our requests does not come.
CREATE TABLE sync_refusals (
    message_id      BLOB PRIMARY KEY,
    pin             TEXT NOT NULL,
    installation_id BLOB NOT NULL,
    reason          TEXT NOT NULL,
    detail          TEXT NOT NULL
) WITHOUT ROWID;

-- What is to be told to the other installations: decisions taken here, messages that the application recorded here.
CREATE TABLE consents_to_send (
    entity_type INTEGER NOT NULL,
    entity      TEXT    NOT NULL,
    PRIMARY KEY (entity_type, entity)
) WITHOUT ROWID;
CREATE TABLE messages_to_send (
    key        INTEGER PRIMARY KEY,
    message_id BLOB    NOT NULL UNIQUE
);
