//! What the audit finds: one walk over the rows of its minutes.

use rusqlite::{Connection, Row};

use super::{
    keys::{Key, Kind, position},
    message_rows,
    records::{self, readable},
};
use crate::{
    applications::{id::EndpointId, message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::TaskId,
    status::Status,
    store::{MAX_READ, Page, Unindexed},
};

/// Reads at most [`MAX_READ`] rows, and the rest of the last message.
pub(super) fn list_unindexed(
    connection: &Connection,
    from: Timestamp,
    until: Timestamp,
    after: Option<TaskId>,
    now: Timestamp,
) -> rusqlite::Result<Page<Unindexed, TaskId>> {
    let read = connection.unchecked_transaction()?;
    let begin = after.map_or_else(|| Key::task(TaskId::first_at(from)), Key::behind);
    let end = Key::task(TaskId::first_at(until));
    let mut statement = read.prepare_cached(&sql())?;
    let mut rows = statement.query((begin.bytes(), end.bytes()))?;
    let mut walk = Walk { connection: &read, now, items: Vec::new(), message: None };
    let (mut count, mut last) = (0, None);
    while let Some(row) = rows.next()? {
        let at = position(row, 0)?;
        if last.is_some_and(|last| last != at.task) {
            walk.end_message()?;
            if count >= MAX_READ {
                return Ok(Page { items: walk.items, next: last });
            }
        }
        count += 1;
        last = Some(at.task);
        walk.take(row, at.endpoint)?;
    }
    walk.end_message()?;
    Ok(Page { items: walk.items, next: None })
}

/// SQLite reads a record only if the row is wanted.
pub(super) fn sql() -> String {
    format!(
        "SELECT task, kind, CASE WHEN kind < 2 AND due_at IS NULL AND (kind = 1 OR {unfinished}) \
         THEN record END, due_at IS NULL AND {unfinished}
         FROM webhooks WHERE task >= ?1 AND task < ?2 ORDER BY task",
        unfinished =
            format_args!("status NOT IN ({}, {})", Status::Delivered.code(), Status::Failed.code())
    )
}

struct Walk<'a> {
    connection: &'a Connection,
    now: Timestamp,
    items: Vec<Unindexed>,
    /// The message whose rows are being read, if it is not due.
    message: Option<Candidate>,
}

/// A message that is not due, and what the columns of its deliveries say.
struct Candidate {
    message: PublishedMessage,
    occupied: Vec<EndpointId>,
    /// Whether a delivery is unfinished and not due.
    is_any_at_large: bool,
}

impl Candidate {
    /// Whether the message may be unheld. The records of its deliveries decide.
    fn may_be_unheld(&self) -> bool {
        let Self { message, occupied, is_any_at_large } = self;
        let is_unstarted = |(index, endpoint): (usize, EndpointId)| {
            !message.is_settled(index) && !occupied.contains(&endpoint)
        };
        let endpoints = message.plan.iter().map(|entry| entry.endpoint);
        *is_any_at_large || message.deleting || endpoints.enumerate().any(is_unstarted)
    }
}

impl Walk<'_> {
    fn take(&mut self, row: &Row<'_>, endpoint: Option<EndpointId>) -> rusqlite::Result<()> {
        let is_wanted = row.get_ref(2)?.as_str_or_null()?.is_some();
        match (row.get(1)?, endpoint) {
            (Kind::Direct, _) if is_wanted => {
                let webhook = readable(row, 2, Kind::Direct)?;
                self.items.extend(webhook.map(|webhook| Unindexed::Webhook(Box::new(webhook))));
            }
            (Kind::Message, _) if is_wanted => self.message = candidate(row)?,
            (kind, Some(endpoint)) => {
                let is_at_large = kind == Kind::Delivery && row.get(3)?;
                if let Some(message) = &mut self.message {
                    message.occupied.push(endpoint);
                    message.is_any_at_large |= is_at_large;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn end_message(&mut self) -> rusqlite::Result<()> {
        let Some(candidate) = self.message.take().filter(Candidate::may_be_unheld) else {
            return Ok(());
        };
        let Candidate { message, .. } = candidate;
        let rows = message_rows::standing_in(self.connection, message.id.task, self.now)?;
        // It may have expired.
        let Some(rows) = rows else { return Ok(()) };
        let standing = Standing { message, found: rows.found, audited_until: rows.audited_until };
        if standing.is_unheld() {
            self.items.push(Unindexed::Message(Box::new(standing)));
        }
        Ok(())
    }
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Option<Candidate>> {
    match records::parse_message(row.get_ref(2)?.as_str()?) {
        Ok(message) => {
            Ok(Some(Candidate { message, occupied: Vec::new(), is_any_at_large: false }))
        }
        Err(error) => {
            tracing::warn!(task_id = %position(row, 0)?, %error,
                "Skipped a message that cannot be read");
            Ok(None)
        }
    }
}
