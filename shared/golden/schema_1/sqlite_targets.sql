CREATE TABLE targets (
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
CREATE INDEX targets_by_use ON targets (used_at);
CREATE INDEX targets_restricting ON targets (restricts_until DESC)
WHERE restricts_until IS NOT NULL;
INSERT INTO targets VALUES ('https://down.example.com:443#b8LQUXrd0pU', 7, '{"k":"https://down.example.com:443#b8LQUXrd0pU","r":7,"c":{"f":5,"o":2,"u":4000000060007,"p":4000000105007,"r":true},"p":{"t":4000000000007,"k":127.69245908261114,"p":4000000031007,"r":36.20386719675124,"s":429,"g":0.3016988933062603,"f":4000000151007},"t":4000000030007}', 4000086430007, '10/1', 17971200000, 17971199990, 4000000000000);
INSERT INTO targets VALUES ('https://down.example.com:443#vy-u4llgJmI', 1, '{"k":"https://down.example.com:443#vy-u4llgJmI","r":1,"c":{"f":1},"t":4000000030007}', NULL, NULL, NULL, NULL, 4000000030007);
