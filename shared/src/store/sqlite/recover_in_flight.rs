//! The recovery at a stack's start, while it holds the lock of its data folder. No other process
//! works on the store then, so webhooks in flight need not wait for leases and grace periods.

use std::sync::Arc;

use rusqlite::{Connection, Row as SqlRow};

use super::{
    RecoveredInFlight, SqliteStore,
    keys::{Key, Kind, position},
    message_rows,
    records::{self, Row},
    unavailable,
};
use crate::{
    applications::{
        message::{PlanEntry, PublishedMessage},
        standing::Standing,
    },
    clock::Timestamp,
    id::WebhookId,
    model::{Function, Webhook, Why},
    sqlite::{DatabaseError, Durability, Transaction},
    status::Status,
    store::{DueId, StoreError},
    transition::{Rules, next_look},
};

/// Rows of one transaction.
const CHUNK: usize = 500;

impl SqliteStore {
    /// Recovers the webhooks that the last run left in flight. Call it before any other call, and
    /// only if no other process can work on the store.
    ///
    /// Ends every lease and makes its webhook due. The next claim records the attempt as
    /// interrupted.
    ///
    /// `looks` are the webhooks and published messages with a queue message, in a queue that is as
    /// durable as this store ([`SqliteQueue::recover_in_flight`]). Every other webhook that is
    /// neither delivered nor archived enters the due index, or moves forward in it, to when a
    /// worker can work on it. A published message does so for its deliveries without a record.
    /// `None`: the queue is another one and keeps its messages itself.
    ///
    /// Costs a few microseconds for each webhook that is neither delivered nor archived. A run that
    /// was cut short can be repeated.
    ///
    /// [`SqliteQueue::recover_in_flight`]: crate::queue::sqlite::SqliteQueue::recover_in_flight
    pub async fn recover_in_flight(
        &self,
        now: Timestamp,
        looks: Option<Vec<DueId>>,
    ) -> Result<RecoveredInFlight, StoreError> {
        let mut taken = RecoveredInFlight {
            leases: self.pass(Pass::Leased, Arc::default(), now).await?,
            unsent: 0,
        };
        if let Some(mut looks) = looks {
            looks.sort_unstable();
            let looks: Arc<[DueId]> = looks.into();
            for pass in [Pass::Unindexed, Pass::Waiting] {
                taken.unsent += self.pass(pass, Arc::clone(&looks), now).await?;
            }
        }
        Ok(taken)
    }

    async fn pass(
        &self,
        pass: Pass,
        looks: Arc<[DueId]>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        let mut position = Some(Position { due_at: now.as_millis(), key: Key::start() });
        while let Some(after) = position {
            let looks = Arc::clone(&looks);
            let chunk = self
                .database
                .write(Durability::Crash, move |tx| run(tx, pass, &looks, now, &after));
            let chunk = chunk.await.map_err(|error: DatabaseError| unavailable(error))?;
            changed += chunk.changed;
            position = chunk.next;
        }
        Ok(changed)
    }
}

/// Which rows a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Those in progress.
    Leased,
    /// Those pending that are not in the due index, and messages with pending deliveries.
    Unindexed,
    /// Those in the due index with a later time.
    Waiting,
}

impl Pass {
    /// The query walks an index, after a position. Its columns: key, due time, record, kind.
    fn sql(self) -> String {
        // The index `webhooks_by_status` applies only to a query that repeats its condition.
        let of_status = |status: Status, condition: &str| {
            format!(
                "SELECT task, due_at, record, kind FROM webhooks
                 WHERE status = {} AND status <> {} AND task > ?2 {condition} AND ?1 IS NOT NULL
                 ORDER BY task LIMIT ?3",
                status.code(),
                Status::Delivered.code()
            )
        };
        match self {
            Self::Leased => of_status(Status::InProgress, ""),
            Self::Unindexed => of_status(Status::Pending, "AND due_at IS NULL"),
            Self::Waiting => "SELECT task, due_at, record, kind FROM webhooks
                 WHERE due_at IS NOT NULL AND (due_at, task) > (?1, ?2)
                 ORDER BY due_at, task LIMIT ?3"
                .to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
struct Position {
    due_at: i64,
    key: Key,
}

/// A record that the pass read.
enum Found {
    Webhook(Box<Webhook>),
    Message(Box<PublishedMessage>),
}

struct Chunk {
    changed: u64,
    next: Option<Position>,
}

fn run(
    tx: &mut Transaction<'_>,
    pass: Pass,
    looks: &[DueId],
    now: Timestamp,
    after: &Position,
) -> rusqlite::Result<Chunk> {
    let mut rows = read(tx.connection(), pass, after)?;
    let next = if rows.len() == CHUNK { rows.last().map(|row| row.0.clone()) } else { None };
    let mut changed = 0;
    for found in rows.drain(..).filter_map(|(_, found)| found) {
        changed += u64::from(match found {
            Found::Webhook(webhook) => recover_webhook(tx, pass, looks, now, &webhook)?,
            Found::Message(message) => recover_message(tx, looks, now, *message)?,
        });
    }
    Ok(Chunk { changed, next })
}

/// Returns whether it changed the record.
fn recover_webhook(
    tx: &mut Transaction<'_>,
    pass: Pass,
    looks: &[DueId],
    now: Timestamp,
    webhook: &Webhook,
) -> rusqlite::Result<bool> {
    let has_look = |id: &WebhookId| looks.binary_search(&DueId::Webhook(id.clone())).is_ok();
    let after = match pass {
        Pass::Leased => Some(end_lease(webhook, now)),
        _ if has_look(&webhook.id) => None,
        _ => look_again(webhook, now),
    };
    let Some(after) = after else { return Ok(false) };
    records::replace(tx, &Row::of(&after), webhook.revision, now)?;
    Ok(true)
}

/// Enters the message in the due index, or moves it forward there, unless a look at it or looks at
/// all its deliveries without a record are in the queue. Returns whether it changed the record.
fn recover_message(
    tx: &mut Transaction<'_>,
    looks: &[DueId],
    now: Timestamp,
    message: PublishedMessage,
) -> rusqlite::Result<bool> {
    let has_look = |id: DueId| looks.binary_search(&id).is_ok();
    if has_look(DueId::Message(message.id.clone())) {
        return Ok(false);
    }
    let rows = message_rows::standing_in(tx.connection(), message.id.task, now)?;
    let Some(rows) = rows else { return Ok(false) };
    let standing = Standing { message, found: rows.found, audited_until: rows.audited_until };
    let message = &standing.message;
    let has_its_look = |(index, entry): (usize, &PlanEntry)| {
        standing.found.contains_key(&entry.endpoint)
            || !message.is_unstarted(index, now)
            || has_look(DueId::Webhook(message.id.delivery(entry.endpoint)))
    };
    if !message.is_due() && message.plan.iter().enumerate().all(has_its_look) {
        return Ok(false);
    }
    let due_at = message.allowed_at.max(now);
    let Ok(after) = Rules::default().adopt_message(&standing, due_at, now) else {
        return Ok(false);
    };
    message_rows::replace(tx, &Row::of_message(&after), message.revision, 0, now)?;
    Ok(true)
}

fn read(
    connection: &Connection,
    pass: Pass,
    after: &Position,
) -> rusqlite::Result<Vec<(Position, Option<Found>)>> {
    let mut statement = connection.prepare_cached(&pass.sql())?;
    statement.query_map((after.due_at, after.key.bytes(), CHUNK as i64), read_row)?.collect()
}

fn read_row(row: &SqlRow<'_>) -> rusqlite::Result<(Position, Option<Found>)> {
    let at = position(row, 0)?;
    let due_at = row.get::<_, Option<i64>>(1)?.unwrap_or_default();
    let json = row.get_ref(2)?.as_str()?;
    let found = match row.get(3)? {
        Kind::Message => {
            records::parse_message(json).map(|message| Found::Message(Box::new(message)))
        }
        kind => records::parse_webhook(kind, json).map(|webhook| Found::Webhook(Box::new(webhook))),
    };
    let found = found.inspect_err(|error| {
        tracing::warn!(task_id = %at, %error, "Did not recover a record that cannot be read");
    });
    Ok((Position { due_at, key: Key::at(at) }, found.ok()))
}

/// Ends the lease of a worker that is gone.
fn end_lease(webhook: &Webhook, now: Timestamp) -> Webhook {
    let mut next = due(webhook, webhook.due_at.map_or(now, |at| at.min(now)), now);
    if let Some(claim) = next.claim.as_mut() {
        claim.lease_until = claim.lease_until.min(now);
    }
    next
}

/// Moves a webhook without a message forward in the due index. `None` if it is early enough.
fn look_again(webhook: &Webhook, now: Timestamp) -> Option<Webhook> {
    let look_at = next_look(webhook).max(now);
    if webhook.status != Status::Failed {
        return Rules::default().adopt(webhook, look_at, (Function::Sweep, Why::Unsent), now).ok();
    }
    webhook.due_at.filter(|at| *at > look_at).map(|_| due(webhook, look_at, now))
}

fn due(webhook: &Webhook, due_at: Timestamp, now: Timestamp) -> Webhook {
    Webhook {
        due_at: Some(due_at),
        revision: webhook.revision.saturating_add(1),
        updated_at: now,
        ..webhook.clone()
    }
}
