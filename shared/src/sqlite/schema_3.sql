-- Applications, published messages, and their deliveries. The table `webhooks` has rows of five
-- kinds:
--
-- | kind | row | task | record | content |
-- |---|---|---|---|---|
-- | 0 | a direct webhook | 16 bytes | its own | its own |
-- | 1 | a published message | 16 bytes | its own | its own |
-- | 2 | a delivery | those of its message, then the endpoint ID | its own | its message's |
-- | 3 | a marker: the delivery was deleted | the same | empty | 0 |
-- | 4 | the key of a delivery that has expired | the same | empty | 0 |
--
-- `expires_at` is when the purge looks at the row. It turns kind 2 into kind 4 then, and keeps a
-- message with a delivery that is unfinished or a dead letter.
--
-- The status of a message is 0 as long as it has deliveries without a row, which are pending, and 3
-- afterwards. That of kinds 3 and 4 is 3. So the index by status has no useless entries. The
-- reference of a message is that of its application, '/', and the caller's reference ID.
ALTER TABLE webhooks ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;
-- Of messages and deliveries.
ALTER TABLE webhooks ADD COLUMN application TEXT;
-- Of messages: the number of planned deliveries that never had a row.
ALTER TABLE webhooks ADD COLUMN unstarted INTEGER;
-- Of messages: when it expires.
ALTER TABLE webhooks ADD COLUMN hidden_at INTEGER;

CREATE INDEX messages_by_application ON webhooks (application) WHERE kind = 1;
CREATE INDEX dead_letters_by_endpoint ON webhooks (application, substr(task, 17), archived_at)
    WHERE archived_at IS NOT NULL AND kind = 2;

-- The documents of applications, as JSON.
CREATE TABLE applications (
    id TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    document TEXT NOT NULL
) WITHOUT ROWID, STRICT;
