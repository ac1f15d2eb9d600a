-- Schema 2. An installation on the network lives in the file of its history, so that decrypting a message, storing it and
-- advancing the cursor is one transaction. A store that is only a history leaves these tables empty.

-- The one installation. Keys are raw; the file is encrypted as a whole.
CREATE TABLE installation (
    key                     INTEGER PRIMARY KEY CHECK (key = 1),
    inbox_id                TEXT    NOT NULL,
    private_key             BLOB    NOT NULL,            -- Ed25519 seed
    installation_id         BLOB    NOT NULL,            -- Ed25519 public key
    registered_at_ns        INTEGER,                     -- null: the identity log does not name it yet
    welcome_cursor          INTEGER NOT NULL DEFAULT 0,  -- highest welcome id that was handled
    rotate_key_package_at_ns INTEGER NOT NULL DEFAULT 0, -- when a new key package is due
    hmac_key                BLOB,                        -- the inbox's root key, 42 bytes
    hmac_cycled_at_ns       INTEGER NOT NULL DEFAULT 0
);

-- Key packages by their init keys, which welcomes are addressed to. The private parts are in mls_state.
CREATE TABLE key_packages (
    init_key      BLOB    PRIMARY KEY,
    key_package   BLOB    NOT NULL,
    created_at_ns INTEGER NOT NULL,
    uploaded      INTEGER NOT NULL DEFAULT 0,
    delete_at_ns  INTEGER                                -- null: the current one
);

-- The identity logs of inboxes, as the node has them, and the states after entries that were asked for.
CREATE TABLE identity_updates (
    inbox_id            TEXT    NOT NULL,
    sequence_id         INTEGER NOT NULL,
    server_timestamp_ns INTEGER NOT NULL,
    bytes               BLOB    NOT NULL,
    PRIMARY KEY (inbox_id, sequence_id)
) WITHOUT ROWID;
CREATE TABLE association_states (
    inbox_id    TEXT    NOT NULL,
    sequence_id INTEGER NOT NULL,
    state       BLOB    NOT NULL,
    PRIMARY KEY (inbox_id, sequence_id)
);
-- What a node said of smart contract wallets' signatures.
CREATE TABLE contract_verdicts (
    digest   BLOB    PRIMARY KEY,
    is_valid INTEGER NOT NULL
) WITHOUT ROWID;

-- What OpenMLS keeps.
CREATE TABLE mls_state (
    key   BLOB PRIMARY KEY,
    value BLOB NOT NULL
);

-- The MLS groups of the installation; sync groups are here alone, conversations in groups as well.
CREATE TABLE mls_groups (
    id                   BLOB    PRIMARY KEY,
    conversation_type    INTEGER NOT NULL,               -- 1 group, 2 DM, 3 sync group
    state                INTEGER NOT NULL,               -- 1 active, 2 removed, 3 paused, 4 forked, 5 unsupported, 6 untrusted
    reason               TEXT    NOT NULL DEFAULT '',    -- why it is in that state
    cursor               INTEGER NOT NULL,               -- highest message id that was handled
    epoch                INTEGER NOT NULL,
    created_at_ns        INTEGER NOT NULL,               -- when it was created or joined here
    creator_inbox_id     TEXT    NOT NULL,
    added_by_inbox_id    TEXT    NOT NULL,
    welcome_id           INTEGER,                        -- null: created here
    key_update_due_at_ns INTEGER,                        -- before sending after this time, the leaf's key is updated
    undecryptable        INTEGER NOT NULL DEFAULT 0      -- messages that could not be read
);
CREATE INDEX mls_groups_of_devices ON mls_groups (created_at_ns DESC) WHERE conversation_type = 3;

-- What is to be sent to a group, until it is seen there. At most one commit of a group has a payload at a time.
CREATE TABLE intents (
    key            INTEGER PRIMARY KEY,
    group_id       BLOB    NOT NULL,
    kind           INTEGER NOT NULL,                     -- 1 message, 2 key update, 3 add installations
    state          INTEGER NOT NULL,                     -- 1 waiting, 2 prepared, 3 published, 4 failed
    content        BLOB    NOT NULL,                     -- of a message: its EncodedContent
    idempotency_key TEXT   NOT NULL,
    payload        BLOB,
    payload_sha256 BLOB,
    sender_hmac    BLOB,
    epoch          INTEGER,
    attempts       INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX intents_by_group ON intents (group_id, key);
CREATE INDEX intents_by_payload ON intents (payload_sha256) WHERE payload_sha256 IS NOT NULL;

-- Welcomes to be sent after their commit has won.
CREATE TABLE welcomes_to_send (
    key             INTEGER PRIMARY KEY,
    intent_key      INTEGER NOT NULL,
    installation_id BLOB    NOT NULL,
    init_key        BLOB    NOT NULL,
    welcome         BLOB    NOT NULL,
    commit_id       INTEGER,                             -- null: the commit has not come back yet
    message         BLOB                                 -- sealed once, so that sending it again is no second welcome
);

-- What was said in sync groups, by us too. Only what rules F1 to F6 let through is here.
CREATE TABLE sync_group_messages (
    id                     BLOB    PRIMARY KEY,
    group_id               BLOB    NOT NULL,
    sequence_id            INTEGER NOT NULL,             -- 0: ours, not seen on the network yet
    sent_at_ns             INTEGER NOT NULL,
    sender_inbox_id        TEXT    NOT NULL,
    sender_installation_id BLOB    NOT NULL,
    content                BLOB    NOT NULL              -- a DeviceSyncContent
);
CREATE INDEX sync_group_messages_by_group ON sync_group_messages (group_id, sequence_id);
