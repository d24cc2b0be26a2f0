//! The contract of [`Lists`]. Each query walks one index, in its order, over at most [`MAX_READ`]
//! entries.

use async_trait::async_trait;
use rusqlite::{Connection, Row};

use super::{
    SqliteStore,
    audit::list_unindexed,
    keys::{Key, Kind, position},
    list_webhooks::list,
    listed_rows::{COLUMNS, Wanted},
    records::id_of,
    unavailable,
};
use crate::{
    clock::Timestamp,
    id::{MessageId, ReferenceId, TaskId},
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
        let read =
            self.database.read(move |connection| list(connection, &filter, after, limit, now));
        read.await.map_err(unavailable)
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let (filter, now) = (filter.clone(), self.clock.now());
        let read = self
            .database
            .read(move |connection| dead_letters(connection, &filter, after, limit, now));
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
        let now = self.clock.now();
        let read = self
            .database
            .read(move |connection| list_unindexed(connection, from, until, after, now));
        read.await.map_err(unavailable)
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let totals = self.database.read(crate::sqlite::totals).await.map_err(unavailable)?;
        Ok(Status::ALL.map(|status| totals[Total::Webhooks(status).slot()]))
    }
}

fn dead_letters(
    connection: &Connection,
    which: &DeadLetterFilter,
    after: Option<DeadLetterPosition>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<DeadLetters> {
    let read = connection.unchecked_transaction()?;
    let reference = match which {
        DeadLetterFilter::Reference(reference) => Some(reference.clone()),
        DeadLetterFilter::All | DeadLetterFilter::Endpoint(..) => None,
    };
    let filter = Filter { reference, status: Some(Status::Failed), created_before: None };
    let wanted = Wanted { filter: &filter, now, limit: limit.clamp(1, MAX_READ) };
    let end = after.map_or((i64::MAX, Key::last()), |after| {
        let at = ListPosition { task: after.task, endpoint: after.endpoint };
        (after.archived_at.as_millis(), Key::at(at))
    });
    let place = |row: &Row<'_>| {
        let ListPosition { task, endpoint } = position(row, 0)?;
        let archived_at = Timestamp::from_millis(row.get(5)?);
        Ok(DeadLetterPosition { archived_at, task, endpoint })
    };
    let sql = dead_letters_sql(which);
    let (at, key) = (end.0, end.1.bytes());
    match which {
        DeadLetterFilter::All => wanted.collect(&read, &sql, (at, key), place),
        DeadLetterFilter::Endpoint(application, endpoint) => {
            let endpoint = endpoint.to_string().into_bytes();
            wanted.collect(&read, &sql, (at, key, application.as_str(), endpoint), place)
        }
        DeadLetterFilter::Reference(reference) => {
            let page = wanted.collect(&read, &sql, (at, key, reference.as_str()), place)?;
            wanted.insert_generated(&read, reference, page, &end)
        }
    }
}

fn dead_letters_sql(which: &DeadLetterFilter) -> String {
    let condition = match which {
        DeadLetterFilter::All => "",
        DeadLetterFilter::Reference(_) => "AND reference = ?3",
        // SQLite uses the index only for this very expression.
        DeadLetterFilter::Endpoint(..) => {
            "AND kind = 2 AND application = ?3 AND substr(task, 17) = ?4"
        }
    };
    format!(
        "SELECT {COLUMNS} FROM webhooks WHERE archived_at IS NOT NULL AND (archived_at, task) < \
         (?1, ?2) {condition}
         ORDER BY archived_at DESC, task DESC LIMIT {MAX_READ}"
    )
}

impl Wanted<'_> {
    /// Adds the dead letter that the reference id was generated for, if it belongs to this page.
    fn insert_generated(
        &self,
        connection: &Connection,
        reference: &ReferenceId,
        mut page: DeadLetters,
        end: &(i64, Key),
    ) -> rusqlite::Result<DeadLetters> {
        let place = |listed: &Listed| DeadLetterPosition {
            archived_at: listed.webhook.archived_at.unwrap_or_default(),
            task: listed.webhook.id.task,
            endpoint: listed.webhook.id.endpoint,
        };
        let generated = self.generated(connection, reference)?;
        if let Some(listed) = generated.filter(|listed| listed.webhook.is_dead_letter()) {
            let found = place(&listed);
            let fits = (found.archived_at.as_millis(), Key::task(found.task)) < *end;
            if fits && page.next.is_none_or(|next| found >= next) {
                let index = page.items.partition_point(|item| place(item) > found);
                page.items.insert(index, listed);
                if page.items.len() > self.limit {
                    page.items.truncate(self.limit);
                    page.next = page.items.last().map(place);
                }
            }
        }
        Ok(page)
    }
}

/// Reads the due index. It has one part, and a cursor names an entry by its key in hexadecimal.
fn due(
    connection: &Connection,
    until: Timestamp,
    after: &DuePlace,
    limit: usize,
) -> rusqlite::Result<DuePage> {
    let (begin, key_before) = match after {
        DuePlace::Start => (i64::MIN, Vec::new()),
        DuePlace::After { due_at, name } => (due_at.as_millis(), from_hex(name)),
        DuePlace::End => return Ok(DuePage::default()),
    };
    let limit = limit.clamp(1, MAX_READ);
    let mut statement = connection.prepare_cached(DUE_SQL)?;
    let mut rows = statement.query((until.as_millis(), limit as i64, begin, key_before))?;
    let (mut page, mut read, mut last) = (DuePage::default(), 0, None);
    while let Some(row) = rows.next()? {
        read += 1;
        let (due_at, at) = (Timestamp::from_millis(row.get(0)?), position(row, 2)?);
        last = Some((due_at, to_hex(&Key::at(at))));
        // Only the id matters here. The worker finds out whether the record can be read.
        let kind: Kind = row.get(3)?;
        if let Some(id) = id_of(row.get_ref(1)?.as_str()?) {
            let id = match kind {
                Kind::Message => {
                    DueId::Message(MessageId { reference: id.reference, task: id.task })
                }
                _ => DueId::Webhook(id),
            };
            page.entries.push(DueEntry { id, due_at });
        } else {
            tracing::warn!(task_id = %at, "Skipped a due entry: its record has no readable id");
            page.nameless += 1;
        }
    }
    page.next = DueCursor::new(vec![DuePlace::after(last, read == limit)]).unfinished();
    Ok(page)
}

fn to_hex(key: &Key) -> String {
    hex::encode(key.bytes())
}

/// The bytes, as far as the text is hexadecimal. The cursor of another version is at worst before
/// the place that it means.
fn from_hex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).map(|pair| {
        std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
    });
    digits.map_while(|byte| byte).collect()
}

const DUE_SQL: &str = "SELECT due_at, record, task, kind FROM webhooks
     WHERE due_at <= ?1 AND due_at IS NOT NULL AND (due_at, task) > (?3, ?4) ORDER BY due_at, task \
     LIMIT ?2";

#[cfg(test)]
pub(super) mod plans {
    //! Every query that lists, for the test that each has its index.

    use super::{
        super::{
            applications, audit, deliveries, list_messages, list_webhooks::list_sql,
            message_holders, purge,
        },
        *,
    };

    pub(in super::super) fn all() -> Vec<(String, &'static str)> {
        let reference = "order-7".parse().ok();
        let by_reference = Filter { reference, ..Filter::default() };
        let mut all = vec![
            (list_sql(&Filter::default()), "PRIMARY KEY (task<?)"),
            (list_sql(&by_reference), "webhooks_by_reference (reference=? AND task<?)"),
            (
                dead_letters_sql(&DeadLetterFilter::All),
                "dead_letters (archived_at>? AND (archived_at,task)<(?,?))",
            ),
            (
                dead_letters_sql(&DeadLetterFilter::Reference("order-7".parse().unwrap())),
                "dead_letters_by_reference (reference=? AND archived_at>? AND \
                 (archived_at,task)<(?,?))",
            ),
            (
                dead_letters_sql(&DeadLetterFilter::Endpoint(
                    "cust-7".parse().unwrap(),
                    "ep-aaaaaaaaaaaaaaaa".parse().unwrap(),
                )),
                "dead_letters_by_endpoint (application=? AND <expr>=? AND archived_at>? AND \
                 (archived_at,task)<(?,?))",
            ),
            (audit::sql(), "PRIMARY KEY (task>? AND task<?)"),
            (deliveries::ALL_SQL.to_owned(), "PRIMARY KEY (task>? AND task<?)"),
            (deliveries::OCCUPIED_SQL.to_owned(), "PRIMARY KEY (task>? AND task<?)"),
            (message_holders::HOLDERS_SQL.to_owned(), "PRIMARY KEY (task>? AND task<?)"),
            (
                list_messages::sql(false).to_owned(),
                "messages_by_application (application=? AND task>? AND task<?)",
            ),
            (
                list_messages::sql(true).to_owned(),
                "webhooks_by_reference (reference=? AND task>? AND task<?)",
            ),
            (applications::LIST_SQL.to_owned(), "PRIMARY KEY (id>?)"),
            (purge::EXPIRED_SQL.to_owned(), "webhooks_expiring (expires_at<?)"),
            (DUE_SQL.to_owned(), "webhooks_due ((due_at,task)>(?,?) AND due_at<?)"),
        ];
        for status in [Status::Pending, Status::InProgress, Status::Retrying, Status::Failed] {
            let by_status = Filter { status: Some(status), ..Filter::default() };
            all.push((list_sql(&by_status), "webhooks_by_status (status=? AND task<?)"));
        }
        all
    }
}
