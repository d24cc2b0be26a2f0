-- Ids under which no webhook is created any more: deleted or barred. Only as long as an idempotency key may stand for them.
CREATE TABLE retired (
    task BLOB PRIMARY KEY,
    why TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX retired_expiring ON retired (expires_at);

-- JSON: of a batch that was given a new id, the ids of the items that an earlier one had settled; NULL if there are none.
ALTER TABLE reservations ADD COLUMN settled TEXT;
