-- The state of targets and their slot counters. Applied at each start and not a schema version of
-- its own: an older version ignores the table, so a roll-back works. Rows are short-lived.
CREATE TABLE IF NOT EXISTS targets (
    key TEXT PRIMARY KEY,
    -- The target as JSON and its revision. NULL if only its counters are stored.
    revision INTEGER,
    target TEXT,
    -- When it no longer restricts attempts. NULL if it restricts none.
    restricts_until INTEGER,
    -- The slot counters. NULL if no slot was taken.
    generation TEXT,
    last INTEGER,
    last_late INTEGER,
    used_at INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
CREATE INDEX IF NOT EXISTS targets_restricting ON targets (restricts_until DESC)
WHERE restricts_until IS NOT NULL;
CREATE INDEX IF NOT EXISTS targets_by_use ON targets (used_at);
