//! What the sweep remembers.

use rusqlite::{Connection, OptionalExtension};

use crate::{clock::Timestamp, sqlite::Transaction, store::SweepReport};

const AUDITED_UNTIL: &str = "audited_until";
const REPORT: &str = "report";

pub(super) fn audited_until(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached("SELECT value FROM sweep WHERE name = ?1")?;
    statement.query_row([AUDITED_UNTIL], |row| row.get(0).map(Timestamp::from_millis)).optional()
}

pub(super) fn advance_audit(
    tx: &mut Transaction<'_>,
    from: Option<Timestamp>,
    to: Timestamp,
) -> rusqlite::Result<bool> {
    if audited_until(tx.connection())? != from {
        return Ok(false);
    }
    keep(tx, AUDITED_UNTIL, to.as_millis())?;
    Ok(true)
}

pub(super) fn to_json(report: &SweepReport) -> String {
    serde_json::to_string(report).unwrap_or_else(|_| unreachable!("a report has only string keys"))
}

pub(super) fn keep_report(tx: &mut Transaction<'_>, report: &str) -> rusqlite::Result<()> {
    keep(tx, REPORT, report)
}

/// What another version wrote and this one cannot read is as if the sweep had not run yet; it will
/// within the minute.
pub(super) fn last_report(connection: &Connection) -> rusqlite::Result<Option<SweepReport>> {
    let mut statement = connection.prepare_cached("SELECT value FROM sweep WHERE name = ?1")?;
    let json: Option<String> = statement.query_row([REPORT], |row| row.get(0)).optional()?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

fn keep(tx: &Transaction<'_>, name: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    tx.execute("INSERT OR REPLACE INTO sweep (name, value) VALUES (?1, ?2)", (name, value))
        .map(drop)
}
