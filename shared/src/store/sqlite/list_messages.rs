//! The lists of an application's messages.

use rusqlite::{Connection, Row};

use super::{
    keys::{Key, position},
    message_holders,
    records::{self, message_reference},
};
use crate::{
    applications::message::PublishedMessage,
    clock::Timestamp,
    id::TaskId,
    store::{MAX_READ, MessageFilter, Page},
};

pub(super) fn list_messages(
    connection: &Connection,
    filter: &MessageFilter,
    after: Option<TaskId>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Page<PublishedMessage, TaskId>> {
    let read = connection.unchecked_transaction()?;
    let end = [after, filter.until.map(TaskId::first_at)].into_iter().flatten().min();
    let end = end.map_or_else(Key::last, Key::task);
    let begin = filter.since.map_or(Key::start(), |since| Key::task(TaskId::first_at(since)));
    let application = filter.application.as_str();
    let name = filter.reference.as_ref().map_or_else(
        || application.to_owned(),
        |reference| message_reference(application, reference.as_str()),
    );
    let limit = limit.clamp(1, MAX_READ);
    let mut statement = read.prepare_cached(sql(filter.reference.is_some()))?;
    let mut rows = statement.query((begin.bytes(), end.bytes(), name))?;
    let (mut items, mut count, mut last, mut next) = (Vec::new(), 0, None, None);
    while let Some(row) = rows.next()? {
        if items.len() == limit || count == MAX_READ {
            next = last;
            break;
        }
        count += 1;
        last = Some(position(row, 0)?.task);
        items.extend(take(&read, row, filter, now)?);
    }
    let mut page = Page { items, next };
    if let Some(message) = generated(&read, filter, now)? {
        let found = message.id.task;
        // Only if it belongs to this page, and not to an earlier or later one.
        if Key::task(found) < end && page.next.is_none_or(|next| found >= next) {
            let place = page.items.partition_point(|item| item.id.task > found);
            page.items.insert(place, message);
            if page.items.len() > limit {
                page.items.truncate(limit);
                page.next = page.items.last().map(|item| item.id.task);
            }
        }
    }
    Ok(page)
}

/// The query over the index that serves the filter. Messages share the index by reference with
/// direct webhooks, whose texts differ.
pub(super) const fn sql(by_reference: bool) -> &'static str {
    if by_reference {
        "SELECT task, record FROM webhooks WHERE reference = ?3 AND task >= ?1 AND task < ?2
         ORDER BY task DESC"
    } else {
        "SELECT task, record FROM webhooks
         WHERE application = ?3 AND kind = 1 AND task >= ?1 AND task < ?2 ORDER BY task DESC"
    }
}

/// The message that this reference id was generated for: the index by reference has no entry.
fn generated(
    connection: &Connection,
    filter: &MessageFilter,
    now: Timestamp,
) -> rusqlite::Result<Option<PublishedMessage>> {
    let task = filter.reference.as_ref().and_then(crate::id::ReferenceId::generated_for);
    let Some(task) = task else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "SELECT task, record FROM webhooks WHERE task = ?1 AND kind = 1 AND reference IS NULL",
    )?;
    let mut rows = statement.query([task.as_bytes()])?;
    rows.next()?.map_or(Ok(None), |row| take(connection, row, filter, now))
}

/// The row's message, if it exists and matches.
fn take(
    connection: &Connection,
    row: &Row<'_>,
    filter: &MessageFilter,
    now: Timestamp,
) -> rusqlite::Result<Option<PublishedMessage>> {
    let message = match records::parse_message(row.get_ref(1)?.as_str()?) {
        Ok(message) => message,
        Err(error) => {
            tracing::warn!(task_id = %position(row, 0)?, %error,
                "Skipped a message that cannot be read");
            return Ok(None);
        }
    };
    if !filter.matches(&message) || !exists(connection, &message, now)? {
        return Ok(None);
    }
    Ok(Some(message))
}

/// Whether the stored message exists for readers.
pub(super) fn exists(
    connection: &Connection,
    message: &PublishedMessage,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    Ok(!message.is_expired(now)
        || message_holders::hold_message(connection, &Key::task(message.id.task), now)?)
}
