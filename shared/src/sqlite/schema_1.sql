-- Version 1. Times are milliseconds since the epoch. Status 3 is delivered.
--
-- SQLite stores the text of each statement, including the comments inside it. Never change those.

-- One row per webhook: the record as JSON, and the columns that the indexes need.
CREATE TABLE webhooks (
    task BLOB PRIMARY KEY,      -- 16 bytes; their order is the order of creation
    revision INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reference TEXT,             -- only if the caller gave it
    due_at INTEGER,
    archived_at INTEGER,        -- only of dead letters
    expires_at INTEGER,
    content INTEGER NOT NULL,   -- contents.id
    record TEXT NOT NULL
) WITHOUT ROWID, STRICT;

CREATE INDEX webhooks_by_reference ON webhooks (reference) WHERE reference IS NOT NULL;
CREATE INDEX webhooks_by_status ON webhooks (status) WHERE status <> 3;
CREATE INDEX webhooks_due ON webhooks (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhooks_expiring ON webhooks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX dead_letters ON webhooks (archived_at) WHERE archived_at IS NOT NULL;
CREATE INDEX dead_letters_by_reference ON webhooks (reference, archived_at)
    WHERE archived_at IS NOT NULL AND reference IS NOT NULL;

-- URL, headers, and payload. A claim does not copy them, since they are not part of the record.
-- Lists read only the URL, which comes first.
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    url TEXT NOT NULL,
    headers TEXT,               -- JSON; NULL if there are none
    payload TEXT NOT NULL
) STRICT;

-- The messages of both lanes. The key orders them by visibility. A receipt is the key at the latest
-- receive.
CREATE TABLE messages (
    lane INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    id INTEGER NOT NULL,        -- random
    held INTEGER NOT NULL,      -- 0: as sent, 1: received, 2: released with a delay
    receives INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (lane, visible_at, id)
) WITHOUT ROWID, STRICT;

-- The number of webhooks per status (slots 0 to 4) and of messages per lane (slots 5 and 6).
CREATE TABLE totals (
    slot INTEGER PRIMARY KEY,
    n INTEGER NOT NULL
) STRICT;
INSERT INTO totals (slot, n) VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0);

-- The state of the sweep.
CREATE TABLE sweep (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE reservations (
    key TEXT PRIMARY KEY,
    task BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    answer TEXT,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX reservations_expiring ON reservations (expires_at);

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    n INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- The outcomes of each destination per hour since the epoch. Old hours are deleted.
CREATE TABLE destination_hours (
    hour INTEGER NOT NULL,
    destination TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    error_at INTEGER,
    error TEXT,
    PRIMARY KEY (hour, destination)
) WITHOUT ROWID, STRICT;
CREATE INDEX destination_hours_by_failed ON destination_hours (hour, failed);

CREATE TABLE destinations (
    destination TEXT PRIMARY KEY,
    waiting INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

CREATE TABLE circuits (
    destination TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    opened INTEGER NOT NULL,    -- 1: open or half-open
    touched_at INTEGER NOT NULL,
    circuit TEXT NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX circuits_latest_first ON circuits (opened DESC, touched_at DESC);
CREATE INDEX circuits_by_age ON circuits (touched_at);
