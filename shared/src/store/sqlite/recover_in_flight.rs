//! The recovery at a stack's start, while it holds the lock of its data folder. No other process
//! works on the store then, so webhooks in flight need not wait for leases and grace periods.

use std::sync::Arc;

use rusqlite::{Connection, Row as SqlRow};

use super::{
    RecoveredInFlight, SqliteStore,
    lists::task,
    records::{self, Row},
    unavailable,
};
use crate::{
    clock::Timestamp,
    id::TaskId,
    model::{Function, Webhook, Why},
    sqlite::{DatabaseError, Durability, Transaction},
    status::Status,
    store::StoreError,
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
    /// `messages` are the webhooks with a message in a queue that is as durable as this store
    /// ([`SqliteQueue::recover_in_flight`]). Every other webhook that is neither delivered nor
    /// archived enters the due index, or moves forward in it, to when a worker can work on it.
    /// `None`: the queue is another one and keeps its messages itself.
    ///
    /// Costs a few microseconds for each webhook that is neither delivered nor archived. A run that
    /// was cut short can be repeated.
    ///
    /// [`SqliteQueue::recover_in_flight`]: crate::queue::sqlite::SqliteQueue::recover_in_flight
    pub async fn recover_in_flight(
        &self,
        now: Timestamp,
        messages: Option<Vec<TaskId>>,
    ) -> Result<RecoveredInFlight, StoreError> {
        let mut taken = RecoveredInFlight {
            leases: self.pass(Pass::Leased, Arc::default(), now).await?,
            unsent: 0,
        };
        if let Some(mut messages) = messages {
            messages.sort_unstable();
            let messages: Arc<[TaskId]> = messages.into();
            for pass in [Pass::Unindexed, Pass::Waiting] {
                taken.unsent += self.pass(pass, Arc::clone(&messages), now).await?;
            }
        }
        Ok(taken)
    }

    async fn pass(
        &self,
        pass: Pass,
        messages: Arc<[TaskId]>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        let mut position = Some(Position { due_at: now.as_millis(), task: [0; 16] });
        while let Some(after) = position {
            let messages = Arc::clone(&messages);
            let chunk = self
                .database
                .write(Durability::Crash, move |tx| run(tx, pass, &messages, now, after));
            let chunk = chunk.await.map_err(|error: DatabaseError| unavailable(error))?;
            changed += chunk.changed;
            position = chunk.next;
        }
        Ok(changed)
    }
}

/// Which webhooks a pass reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Those in progress.
    Leased,
    /// Those pending that are not in the due index.
    Unindexed,
    /// Those in the due index with a later time.
    Waiting,
}

impl Pass {
    /// The query walks an index, after a position. Its columns: task, due time, record.
    fn sql(self) -> String {
        // The index `webhooks_by_status` applies only to a query that repeats its condition.
        let of_status = |status: Status, condition: &str| {
            format!(
                "SELECT task, due_at, record FROM webhooks
                 WHERE status = {} AND status <> {} AND task > ?2 {condition} AND ?1 IS NOT NULL
                 ORDER BY task LIMIT ?3",
                status.code(),
                Status::Delivered.code()
            )
        };
        match self {
            Self::Leased => of_status(Status::InProgress, ""),
            Self::Unindexed => of_status(Status::Pending, "AND due_at IS NULL"),
            Self::Waiting => "SELECT task, due_at, record FROM webhooks
                 WHERE due_at IS NOT NULL AND (due_at, task) > (?1, ?2)
                 ORDER BY due_at, task LIMIT ?3"
                .to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Position {
    due_at: i64,
    task: [u8; 16],
}

struct Chunk {
    changed: u64,
    next: Option<Position>,
}

fn run(
    tx: &mut Transaction<'_>,
    pass: Pass,
    messages: &[TaskId],
    now: Timestamp,
    after: Position,
) -> rusqlite::Result<Chunk> {
    let rows = read(tx.connection(), pass, after)?;
    let next = if rows.len() == CHUNK { rows.last().map(|(position, _)| *position) } else { None };
    let mut changed = 0;
    for webhook in rows.into_iter().filter_map(|(_, webhook)| webhook) {
        let after = match pass {
            Pass::Leased => Some(end_lease(&webhook, now)),
            _ if messages.binary_search(&webhook.id.task).is_ok() => None,
            _ => look_again(&webhook, now),
        };
        if let Some(after) = after {
            records::replace(tx, &Row::of(&after), webhook.revision, now)?;
            changed += 1;
        }
    }
    Ok(Chunk { changed, next })
}

fn read(
    connection: &Connection,
    pass: Pass,
    after: Position,
) -> rusqlite::Result<Vec<(Position, Option<Webhook>)>> {
    let mut statement = connection.prepare_cached(&pass.sql())?;
    statement.query_map((after.due_at, after.task, CHUNK as i64), read_row)?.collect()
}

fn read_row(row: &SqlRow<'_>) -> rusqlite::Result<(Position, Option<Webhook>)> {
    let task = task(row, 0)?;
    let position = Position {
        due_at: row.get::<_, Option<i64>>(1)?.unwrap_or_default(),
        task: *task.as_bytes(),
    };
    let webhook = Webhook::from_json(row.get_ref(2)?.as_str()?)
        .inspect_err(|error| {
            tracing::warn!(task_id = %task, %error,
                "Did not recover a webhook that cannot be read");
        })
        .ok();
    Ok((position, webhook))
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
