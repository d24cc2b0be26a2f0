//! What keeps a message although it has expired.

use rusqlite::Connection;

use super::keys::Key;
use crate::clock::Timestamp;

/// Whether a delivery of the message is unfinished, or a dead letter. Then the message exists, even
/// if it has expired.
pub(super) fn hold_message(
    connection: &Connection,
    message: &Key,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached(HOLDERS_SQL)?;
    statement.exists((message.bytes(), message.behind_all().bytes(), now.as_millis()))
}

/// Status 3 is delivered.
pub(super) const HOLDERS_SQL: &str = "SELECT 1 FROM webhooks WHERE task > ?1 AND task < ?2 AND \
    kind = 2 AND status <> 3 AND (expires_at IS NULL OR expires_at > ?3) LIMIT 1";
