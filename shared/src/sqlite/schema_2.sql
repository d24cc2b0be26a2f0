-- Tombstones: IDs of deleted and unused webhooks, which cannot be created again. A row expires with
-- the idempotency keys that can refer to it.
CREATE TABLE retired (
    task BLOB PRIMARY KEY,
    why TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX retired_expiring ON retired (expires_at);

-- For a batch that got a new ID: the IDs of the items that an earlier run settled, as JSON. NULL if
-- there are none.
ALTER TABLE reservations ADD COLUMN settled TEXT;
