//! The rows of a list: which of them it returns, and how many.

use rusqlite::{Connection, Params, Row};

use super::{keys::Kind, records::readable};
use crate::{
    clock::Timestamp,
    id::ReferenceId,
    store::{Filter, Listed, MAX_READ, Page},
};

/// The columns that every list reads, in this order.
pub(super) const COLUMNS: &str =
    "task, status, expires_at, content, record, archived_at, kind, unstarted";

/// Which entries of its index a list returns, and how many.
pub(super) struct Wanted<'a> {
    pub(super) filter: &'a Filter,
    pub(super) now: Timestamp,
    pub(super) limit: usize,
}

impl Wanted<'_> {
    /// Reads the query's rows until the page is full. The query limits how many it reads.
    pub(super) fn collect<P: Copy>(
        &self,
        connection: &Connection,
        sql: &str,
        params: impl Params,
        position: impl Fn(&Row<'_>) -> rusqlite::Result<P>,
    ) -> rusqlite::Result<Page<Listed, P>> {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let (mut items, mut read, mut last) = (Vec::new(), 0, None);
        while let Some(row) = rows.next()? {
            if items.len() == self.limit {
                return Ok(Page { items, next: last });
            }
            read += 1;
            last = Some(position(row)?);
            items.extend(self.take(connection, row)?);
        }
        Ok(Page { items, next: last.filter(|_| read == MAX_READ) })
    }

    /// The row's webhook, if it matches. The columns decide that mostly, so few records are parsed
    /// in vain.
    pub(super) fn take(
        &self,
        connection: &Connection,
        row: &Row<'_>,
    ) -> rusqlite::Result<Option<Listed>> {
        let (status, expires_at): (u8, Option<i64>) = (row.get(1)?, row.get(2)?);
        let kind: Kind = row.get(6)?;
        let expired = expires_at.is_some_and(|at| at <= self.now.as_millis());
        let is_other_status = self.filter.status.is_some_and(|wanted| wanted.code() != status);
        if expired || is_other_status || !kind.is_webhook() {
            return Ok(None);
        }
        let Some(webhook) = readable(row, 4, kind)? else { return Ok(None) };
        if !self.filter.matches(&webhook, self.now) {
            return Ok(None);
        }
        if kind == Kind::Delivery {
            return Ok(Some(Listed { webhook, url: String::new() }));
        }
        let mut statement = connection.prepare_cached("SELECT url FROM contents WHERE id = ?1")?;
        let url = statement.query_row([row.get::<_, i64>(3)?], |row| row.get(0))?;
        Ok(Some(Listed { webhook, url }))
    }

    /// The webhook that this reference id was generated for.
    pub(super) fn generated(
        &self,
        connection: &Connection,
        reference: &ReferenceId,
    ) -> rusqlite::Result<Option<Listed>> {
        let Some(task) = reference.generated_for() else { return Ok(None) };
        let sql = format!(
            "SELECT {COLUMNS} FROM webhooks WHERE task = ?1 AND kind = 0 AND reference IS NULL"
        );
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([task.as_bytes()])?;
        rows.next()?.map_or(Ok(None), |row| self.take(connection, row))
    }
}
