//! The list of direct webhooks and deliveries, newest first. Deliveries without a record follow
//! from the rows of their messages.

use rusqlite::{Connection, Row};

use super::{
    deliveries,
    keys::{Key, Kind, position},
    list_messages::exists,
    listed_rows::{COLUMNS, Wanted},
    records,
};
use crate::{
    applications::{message::PublishedMessage, standing::visible_delivery},
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    status::Status,
    store::{Filter, ListPosition, Listed, MAX_READ, Page},
};

pub(super) fn list(
    connection: &Connection,
    filter: &Filter,
    after: Option<ListPosition>,
    limit: usize,
    now: Timestamp,
) -> rusqlite::Result<Page<Listed, ListPosition>> {
    let read = connection.unchecked_transaction()?;
    let before = filter.created_before.map(|time| Key::task(TaskId::first_at(time)));
    let end = [after.map(Key::at), before].into_iter().flatten().min().unwrap_or_else(Key::last);
    let wanted = Wanted { filter, now, limit: limit.clamp(1, MAX_READ) };
    match &filter.reference {
        Some(reference) => by_reference(&wanted, &read, reference, &end),
        None => Walk::new(&wanted, &read, &end).run(),
    }
}

/// The query over the index that serves the filter best. With a reference id it limits the rows.
pub(super) fn list_sql(filter: &Filter) -> String {
    let condition = match (&filter.reference, filter.status) {
        (Some(_), _) => {
            return format!(
                "SELECT {COLUMNS} FROM webhooks WHERE task < ?1 AND reference = ?2 ORDER BY task \
                 DESC LIMIT {MAX_READ}"
            );
        }
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
    format!("SELECT {COLUMNS} FROM webhooks WHERE {condition} ORDER BY task DESC")
}

/// Direct webhooks alone: the reference id of a message is another text.
fn by_reference(
    wanted: &Wanted<'_>,
    connection: &Connection,
    reference: &ReferenceId,
    end: &Key,
) -> rusqlite::Result<Page<Listed, ListPosition>> {
    let sql = list_sql(wanted.filter);
    let place = |row: &Row<'_>| position(row, 0);
    let mut page = wanted.collect(connection, &sql, (end.bytes(), reference.as_str()), place)?;
    if let Some(listed) = wanted.generated(connection, reference)? {
        let found = ListPosition::of(&listed.webhook.id);
        // Only if it belongs to this page, and not to an earlier or later one.
        if Key::at(found) < *end && page.next.is_none_or(|next| found >= next) {
            page.items.push(listed);
            order(&mut page.items);
            page.next = cut(&mut page.items, wanted.limit).or(page.next);
        }
    }
    Ok(page)
}

/// Sorts the newest first.
fn order(items: &mut [Listed]) {
    items.sort_by_key(|listed| std::cmp::Reverse(ListPosition::of(&listed.webhook.id)));
}

/// Drops what is above the limit. Returns where the next page begins then.
fn cut(items: &mut Vec<Listed>, limit: usize) -> Option<ListPosition> {
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().map(|listed| ListPosition::of(&listed.webhook.id))
}

/// A walk over the rows before a key, message by message. It reads at most [`MAX_READ`] rows, and
/// the rest of the last message.
struct Walk<'a> {
    wanted: &'a Wanted<'a>,
    connection: &'a Connection,
    end: &'a Key,
    items: Vec<Listed>,
    /// The webhooks of the latest task id. They are not in order.
    group: Vec<Listed>,
    task: Option<TaskId>,
}

impl<'a> Walk<'a> {
    const fn new(wanted: &'a Wanted<'a>, connection: &'a Connection, end: &'a Key) -> Self {
        Self { wanted, connection, end, items: Vec::new(), group: Vec::new(), task: None }
    }

    fn run(mut self) -> rusqlite::Result<Page<Listed, ListPosition>> {
        let mut statement = self.connection.prepare_cached(&list_sql(self.wanted.filter))?;
        let mut rows = statement.query([self.end.bytes()])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            let task = position(row, 0)?.task;
            if let Some(last) = self.task.filter(|last| *last != task) {
                self.end_group();
                let is_full = self.items.len() >= self.wanted.limit || read >= MAX_READ;
                if is_full {
                    let next = cut(&mut self.items, self.wanted.limit);
                    let next = next.or(Some(ListPosition::at(last)));
                    return Ok(Page { items: self.items, next });
                }
            }
            self.task = Some(task);
            read += 1;
            self.take(row)?;
        }
        self.end_group();
        let next = cut(&mut self.items, self.wanted.limit);
        Ok(Page { items: self.items, next })
    }

    fn end_group(&mut self) {
        order(&mut self.group);
        self.items.append(&mut self.group);
    }

    fn take(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        match row.get(6)? {
            Kind::Direct | Kind::Delivery => {
                self.group.extend(self.wanted.take(self.connection, row)?);
            }
            Kind::Message
                if row.get::<_, Option<i64>>(7)?.is_some_and(|unstarted| unstarted > 0) =>
            {
                self.take_unstarted(row)?;
            }
            Kind::Message | Kind::Marker | Kind::Expired => {}
        }
        Ok(())
    }

    /// Adds the message's deliveries that have no record and are before the end.
    fn take_unstarted(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        if self.wanted.filter.status.is_some_and(|status| status != Status::Pending) {
            return Ok(());
        }
        let message = match records::parse_message(row.get_ref(4)?.as_str()?) {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(task_id = %position(row, 0)?, %error,
                    "Skipped a message that cannot be read");
                return Ok(());
            }
        };
        if exists(self.connection, &message, self.wanted.now)? {
            let unstarted = self.unstarted(&message)?;
            self.group.extend(unstarted);
        }
        Ok(())
    }

    fn unstarted(&self, message: &PublishedMessage) -> rusqlite::Result<Vec<Listed>> {
        let occupied = deliveries::occupied(self.connection, message)?;
        let Wanted { now, filter, .. } = *self.wanted;
        let endpoints = message.plan.iter().map(|entry| entry.endpoint);
        let vacant = endpoints.filter(|endpoint| !occupied.contains(endpoint));
        let visible = vacant.filter_map(|endpoint| visible_delivery(message, endpoint, None, now));
        let wanted = visible
            .filter(|webhook| Key::of(&webhook.id) < *self.end && filter.matches(webhook, now));
        Ok(wanted.map(|webhook| Listed { webhook, url: String::new() }).collect())
    }
}
