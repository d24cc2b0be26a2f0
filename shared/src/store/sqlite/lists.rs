//! The contract of [`Lists`]. Each query walks one index, in its order, over at most [`MAX_READ`]
//! entries.

use async_trait::async_trait;
use rusqlite::{Connection, Params, Row, types::Type};

use super::{SqliteStore, records::id_of, unavailable};
use crate::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    sqlite::Total,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DueEntry, DueId, DuePage,
        DuePlace, Filter, ListPosition, Listed, Lists, MAX_READ, Page, StoreError, Unindexed,
    },
};

#[async_trait]
impl Lists for SqliteStore {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        let (filter, now) = (filter.clone(), self.clock.now());
        let after = after.map(|after| after.task);
        let read =
            self.database.read(move |connection| list(connection, &filter, after, limit, now));
        let page = read.await.map_err(unavailable)?;
        Ok(Page { items: page.items, next: page.next.map(ListPosition::at) })
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let reference = match filter {
            DeadLetterFilter::Reference(reference) => Some(reference),
            _ => None,
        };
        let (reference, now) = (reference.cloned(), self.clock.now());
        let read = self.database.read(move |connection| {
            dead_letters(connection, reference.as_ref(), after, limit, now)
        });
        read.await.map_err(unavailable)
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let after = after.map(|cursor| cursor.part(0)).unwrap_or_default();
        let read = self.database.read(move |connection| due(connection, until, &after, limit));
        read.await.map_err(unavailable)
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        let read =
            self.database.read(move |connection| list_unindexed(connection, from, until, after));
        let page = read.await.map_err(unavailable)?;
        let items = page.items.into_iter();
        let items = items.map(|webhook| Unindexed::Webhook(Box::new(webhook))).collect();
        Ok(Page { items, next: page.next })
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let totals = self.database.read(crate::sqlite::totals).await.map_err(unavailable)?;
        Ok(Status::ALL.map(|status| totals[Total::Webhooks(status).slot()]))
    }
}

/// The columns that every list reads, in this order.
const COLUMNS: &str = "task, status, expires_at, content, record, archived_at";

/// Above all task ids.
const LAST: [u8; 16] = [0xff; 16];

/// Which entries of its index a list returns, and how many.
struct Wanted<'a> {
    filter: &'a Filter,
    now: Timestamp,
    limit: usize,
}

fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<TaskId>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Page<Listed, TaskId>> {
    let read = connection.unchecked_transaction()?;
    let before = [after, filter.created_before.map(TaskId::first_at)].into_iter().flatten().min();
    let end = before.as_ref().map_or(&LAST, TaskId::as_bytes);
    let wanted = Wanted { filter, now, limit: limit.clamp(1, MAX_READ) };
    let sql = list_sql(filter);
    let Some(reference) = &filter.reference else {
        return wanted.collect(&read, &sql, [end], |row| task(row, 0));
    };
    let mut page = wanted.collect(&read, &sql, (end, reference.as_str()), |row| task(row, 0))?;
    if let Some(listed) = wanted.generated(&read, reference)? {
        let found = listed.webhook.id.task;
        // Only if it belongs to this page, and not to an earlier or later one.
        if found.as_bytes() < end && page.next.is_none_or(|next| found >= next) {
            insert(&mut page, listed, wanted.limit);
        }
    }
    Ok(page)
}

/// The query over the index that serves the filter best. The limit counts the rows that are read.
fn list_sql(filter: &Filter) -> String {
    let condition = match (&filter.reference, filter.status) {
        (Some(_), _) => "task < ?1 AND reference = ?2".to_owned(),
        // No index holds delivered webhooks. Most webhooks are delivered, so the order of creation
        // serves as well.
        (None, Some(Status::Delivered) | None) => "task < ?1".to_owned(),
        // SQLite uses the partial index only if the query repeats its condition.
        (None, Some(status)) => format!(
            "task < ?1 AND status = {} AND status <> {}",
            status.code(),
            Status::Delivered.code()
        ),
    };
    format!("SELECT {COLUMNS} FROM webhooks WHERE {condition} ORDER BY task DESC LIMIT {MAX_READ}")
}

/// Inserts a webhook whose reference id was generated: the index by reference has no entry for it.
fn insert(page: &mut Page<Listed, TaskId>, listed: Listed, limit: usize) {
    let place = page.items.partition_point(|item| item.webhook.id.task > listed.webhook.id.task);
    page.items.insert(place, listed);
    if page.items.len() > limit {
        page.items.truncate(limit);
        page.next = page.items.last().map(|item| item.webhook.id.task);
    }
}

fn dead_letters(
    connection: &Connection,
    reference: Option<&ReferenceId>,
    after: Option<DeadLetterPosition>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<DeadLetters> {
    let read = connection.unchecked_transaction()?;
    let filter = Filter {
        reference: reference.cloned(),
        status: Some(Status::Failed),
        created_before: None,
    };
    let wanted = Wanted { filter: &filter, now, limit: limit.clamp(1, MAX_READ) };
    let end = after
        .map_or((i64::MAX, LAST), |after| (after.archived_at.as_millis(), *after.task.as_bytes()));
    let position = |row: &Row<'_>| {
        Ok(DeadLetterPosition {
            archived_at: Timestamp::from_millis(row.get(5)?),
            task: task(row, 0)?,
            endpoint: None,
        })
    };
    let sql = dead_letters_sql(reference.is_some());
    let Some(reference) = reference else {
        return wanted.collect(&read, &sql, end, position);
    };
    let mut page = wanted.collect(&read, &sql, (end.0, end.1, reference.as_str()), position)?;
    let place = |listed: &Listed| DeadLetterPosition {
        archived_at: listed.webhook.archived_at.unwrap_or_default(),
        task: listed.webhook.id.task,
        endpoint: listed.webhook.id.endpoint,
    };
    if let Some(listed) =
        wanted.generated(&read, reference)?.filter(|listed| listed.webhook.is_dead_letter())
    {
        let found = place(&listed);
        let fits = (found.archived_at.as_millis(), *found.task.as_bytes()) < end;
        if fits && page.next.is_none_or(|next| found >= next) {
            let index = page.items.partition_point(|item| place(item) > found);
            page.items.insert(index, listed);
            if page.items.len() > wanted.limit {
                page.items.truncate(wanted.limit);
                page.next = page.items.last().map(place);
            }
        }
    }
    Ok(page)
}

fn dead_letters_sql(by_reference: bool) -> String {
    let reference = if by_reference { "AND reference = ?3" } else { "" };
    format!(
        "SELECT {COLUMNS} FROM webhooks WHERE archived_at IS NOT NULL AND (archived_at, task) < \
         (?1, ?2) {reference}
         ORDER BY archived_at DESC, task DESC LIMIT {MAX_READ}"
    )
}

impl Wanted<'_> {
    /// Reads the query's rows until the page is full. The query limits how many it reads.
    fn collect<P: Copy>(
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
    fn take(&self, connection: &Connection, row: &Row<'_>) -> rusqlite::Result<Option<Listed>> {
        let (status, expires_at): (u8, Option<i64>) = (row.get(1)?, row.get(2)?);
        let expired = expires_at.is_some_and(|at| at <= self.now.as_millis());
        if expired || self.filter.status.is_some_and(|wanted| wanted.code() != status) {
            return Ok(None);
        }
        let Some(webhook) = readable(row, 4)? else { return Ok(None) };
        if !self.filter.matches(&webhook, self.now) {
            return Ok(None);
        }
        let mut statement = connection.prepare_cached("SELECT url FROM contents WHERE id = ?1")?;
        let url = statement.query_row([row.get::<_, i64>(3)?], |row| row.get(0))?;
        Ok(Some(Listed { webhook, url }))
    }

    /// The webhook that this reference id was generated for.
    fn generated(
        &self,
        connection: &Connection,
        reference: &ReferenceId,
    ) -> rusqlite::Result<Option<Listed>> {
        let Some(task) = reference.generated_for() else { return Ok(None) };
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE task = ?1 AND reference IS NULL");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([task.as_bytes()])?;
        rows.next()?.map_or(Ok(None), |row| self.take(connection, row))
    }
}

/// Reads the due index. It has one part, and a cursor names an entry by its task id in hexadecimal.
fn due(
    connection: &Connection,
    until: Timestamp,
    after: &DuePlace,
    limit: usize,
) -> rusqlite::Result<DuePage> {
    let (begin, task_before) = match after {
        DuePlace::Start => (i64::MIN, Vec::new()),
        DuePlace::After { due_at, name } => (due_at.as_millis(), from_hex(name)),
        DuePlace::End => return Ok(DuePage::default()),
    };
    let limit = limit.clamp(1, MAX_READ);
    let mut statement = connection.prepare_cached(DUE_SQL)?;
    let mut rows = statement.query((until.as_millis(), limit as i64, begin, task_before))?;
    let (mut page, mut read, mut last) = (DuePage::default(), 0, None);
    while let Some(row) = rows.next()? {
        read += 1;
        let (due_at, task) = (Timestamp::from_millis(row.get(0)?), task(row, 2)?);
        last = Some((due_at, to_hex(task)));
        // Only the id matters here. The worker finds out whether the record can be read.
        if let Some(id) = id_of(row.get_ref(1)?.as_str()?) {
            page.entries.push(DueEntry { id: DueId::Webhook(id), due_at });
        } else {
            tracing::warn!(task_id = %task,
                "Skipped a due webhook: its record has no readable id");
            page.nameless += 1;
        }
    }
    page.next = DueCursor::new(vec![DuePlace::after(last, read == limit)]).unfinished();
    Ok(page)
}

fn to_hex(task: TaskId) -> String {
    task.as_bytes().iter().fold(String::with_capacity(32), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The bytes, as far as the text is hexadecimal. The cursor of another version is at worst before
/// the place that it means.
fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).map(|pair| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    digits.map_while(|byte| byte).collect()
}

const DUE_SQL: &str = "SELECT due_at, record, task FROM webhooks
     WHERE due_at <= ?1 AND due_at IS NOT NULL AND (due_at, task) > (?3, ?4) ORDER BY due_at, task \
     LIMIT ?2";

fn list_unindexed(
    connection: &Connection,
    from: Timestamp,
    until: Timestamp,
    after: Option<TaskId>,
) -> rusqlite::Result<Page<Webhook, TaskId>> {
    // SQLite reads a record only if the row is wanted.
    let from_on = if after.is_some() { ">" } else { ">=" };
    let sql = format!(
        "SELECT task, CASE WHEN status NOT IN ({}, {}) AND due_at IS NULL THEN record END
         FROM webhooks WHERE task {from_on} ?1 AND task < ?2 ORDER BY task LIMIT {MAX_READ}",
        Status::Delivered.code(),
        Status::Failed.code()
    );
    let (begin, end) = (after.unwrap_or(TaskId::first_at(from)), TaskId::first_at(until));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((begin.as_bytes(), end.as_bytes()))?;
    let (mut items, mut read, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        read += 1;
        last = Some(task(row, 0)?);
        if row.get_ref(1)?.as_str_or_null()?.is_some() {
            items.extend(readable(row, 1)?);
        }
    }
    Ok(Page { items, next: last.filter(|_| read == MAX_READ) })
}

/// The record in this column. Logs an unreadable one, which lists leave out.
fn readable(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Webhook>> {
    match Webhook::from_json(row.get_ref(column)?.as_str()?) {
        Ok(webhook) => Ok(Some(webhook)),
        Err(error) => {
            tracing::warn!(task_id = %task(row, 0)?, error = %error,
                "Skipped a webhook that cannot be read");
            Ok(None)
        }
    }
}

/// The task id in this column.
pub(super) fn task(row: &Row<'_>, column: usize) -> rusqlite::Result<TaskId> {
    let bytes = row.get_ref(column)?.as_blob()?;
    let malformed =
        || rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, "not a task id".into());
    TaskId::from_bytes(bytes).ok_or_else(malformed)
}

#[cfg(test)]
pub(super) mod plans {
    //! Every query that lists, for the test that each has its index.

    use super::*;

    pub(in super::super) fn all() -> Vec<(String, &'static str)> {
        let reference = "order-7".parse().ok();
        let by_reference = Filter { reference, ..Filter::default() };
        let mut all = vec![
            (list_sql(&Filter::default()), "PRIMARY KEY (task<?)"),
            (list_sql(&by_reference), "webhooks_by_reference (reference=? AND task<?)"),
            (dead_letters_sql(false), "dead_letters (archived_at>? AND (archived_at,task)<(?,?))"),
            (
                dead_letters_sql(true),
                "dead_letters_by_reference (reference=? AND archived_at>? AND \
                 (archived_at,task)<(?,?))",
            ),
            (DUE_SQL.to_owned(), "webhooks_due ((due_at,task)>(?,?) AND due_at<?)"),
        ];
        for status in [Status::Pending, Status::InProgress, Status::Retrying, Status::Failed] {
            let by_status = Filter { status: Some(status), ..Filter::default() };
            all.push((list_sql(&by_status), "webhooks_by_status (status=? AND task<?)"));
        }
        all
    }
}
