//! The contract of [`SweepState`] on the table `sweep`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};

use super::{SqliteStore, unavailable};
use crate::{
    clock::Timestamp,
    sqlite::{Durability, Transaction},
    store::{AdvanceAuditError, FIRST_OVERLAP, StoreError, SweepReport, SweepState},
};

/// The position of versions that knew no messages.
const OLD_AUDITED_UNTIL: &str = "audited_until";
const AUDITED_UNTIL: &str = "messages_audited_until";
const REPORT: &str = "report";

#[async_trait]
impl SweepState for SqliteStore {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.database.read(audited_until).await.map_err(unavailable)
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        let advance = move |tx: &mut Transaction<'_>| {
            if audited_until(tx.connection())? != from {
                return Ok(false);
            }
            for name in [AUDITED_UNTIL, OLD_AUDITED_UNTIL] {
                keep(tx, name, to.as_millis())?;
            }
            Ok(true)
        };
        let is_moved =
            self.database.write(Durability::Crash, advance).await.map_err(unavailable)?;
        if is_moved { Ok(()) } else { Err(AdvanceAuditError::Moved) }
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let json = serde_json::to_string(report)
            .unwrap_or_else(|_| unreachable!("a report has only string keys"));
        let write = self.database.write(Durability::Crash, move |tx| keep(tx, REPORT, json));
        write.await.map_err(unavailable)
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.database.read(last_report).await.map_err(unavailable)
    }
}

/// The position of the audit that knows messages.
pub(super) fn audited_until(connection: &Connection) -> rusqlite::Result<Option<Timestamp>> {
    let mut statement = connection.prepare_cached("SELECT value FROM sweep WHERE name = ?1")?;
    let mut position = |name: &str| {
        statement.query_row([name], |row| row.get(0).map(Timestamp::from_millis)).optional()
    };
    if let Some(own) = position(AUDITED_UNTIL)? {
        return Ok(Some(own));
    }
    Ok(position(OLD_AUDITED_UNTIL)?.map(|old| old.minus(FIRST_OVERLAP)))
}

fn last_report(connection: &Connection) -> rusqlite::Result<Option<SweepReport>> {
    let mut statement = connection.prepare_cached("SELECT value FROM sweep WHERE name = ?1")?;
    let json: Option<String> = statement.query_row([REPORT], |row| row.get(0)).optional()?;
    Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
}

fn keep(tx: &Transaction<'_>, name: &str, value: impl rusqlite::ToSql) -> rusqlite::Result<()> {
    tx.execute("INSERT OR REPLACE INTO sweep (name, value) VALUES (?1, ?2)", (name, value))
        .map(drop)
}
