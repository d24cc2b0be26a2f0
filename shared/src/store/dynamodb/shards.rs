//! Reads over all shards: the due index, and lists by time or by archiving.
//!
//! `item::shard` places a webhook in a shard.

use std::collections::VecDeque;

use futures_util::future::try_join_all;

use super::{
    item::{Item, due_partition, key, partition, position_of, sortable, text, text_of},
    table::{Found, Range, Table},
};
use crate::{
    clock::Timestamp,
    id::{MessageId, ReferenceId, TaskId, WebhookId},
    store::{DueCursor, DueEntry, DueId, DuePage, DuePlace, MAX_READ, StoreError, shard::SHARDS},
};

/// Sorts after every sort key of the store.
pub(super) const END: &str = "~";

/// The parts of the due index: the shards of schema 1, then those of schema 2.
fn due_partitions() -> impl Iterator<Item = (bool, u8)> {
    [false, true].into_iter().flat_map(|schema_2| (0..SHARDS).map(move |shard| (schema_2, shard)))
}

/// Reads the due index up to `until`: of each part the oldest entries after the cursor.
pub(super) async fn due(
    table: &Table,
    until: Timestamp,
    after: Option<&DueCursor>,
    limit: usize,
) -> Result<DuePage, StoreError> {
    let limit = limit.clamp(1, MAX_READ);
    let parts = due_partitions().enumerate().map(|(index, (schema_2, shard))| async move {
        let partition = due_partition(schema_2, shard);
        let (low, start) = match after.map(|cursor| cursor.part(index)).unwrap_or_default() {
            DuePlace::Start => ("0".to_owned(), None),
            DuePlace::After { due_at, name } => (sortable(due_at), start_after(&partition, &name)),
            DuePlace::End => return Ok(Vec::new()),
        };
        let range = Range {
            index: Some("work"),
            keys: ("i", "j"),
            partition,
            between: (low, format!("{}/{END}", sortable(until))),
            backwards: false,
            filter: None,
            consistent: false,
        };
        read_up_to(table, &range, limit, start).await
    });
    let mut page = DuePage::default();
    let mut places = Vec::with_capacity(2 * usize::from(SHARDS));
    for (found, (schema_2, _)) in try_join_all(parts).await?.into_iter().zip(due_partitions()) {
        let last = found.last().and_then(|item| Some((due_time(item)?, name(item)?)));
        places.push(DuePlace::after(last, found.len() >= limit));
        for item in &found {
            if let Some(entry) = due_entry(item, schema_2) {
                page.entries.push(entry);
            } else {
                tracing::warn!(
                    key = text_of(item, "s"),
                    "Skipped an entry of the due index that names no webhook"
                );
                page.nameless += 1;
            }
        }
    }
    page.next = DueCursor::new(places).unfinished();
    Ok(page)
}

/// The cursor's name of an entry: the keys that `Query` continues after.
fn name(entry: &Item) -> Option<String> {
    Some(format!("{} {} {}", text_of(entry, "p")?, text_of(entry, "s")?, text_of(entry, "j")?))
}

/// The keys in the cursor's name of an entry.
fn start_after(partition: &str, name: &str) -> Option<Item> {
    let mut parts = name.splitn(3, ' ');
    let mut start = key(parts.next()?, parts.next()?);
    start.insert("i".to_owned(), text(partition));
    start.insert("j".to_owned(), text(parts.next()?));
    Some(start)
}

fn due_time(entry: &Item) -> Option<Timestamp> {
    let (due_at, _) = text_of(entry, "j")?.split_once('/')?;
    Some(Timestamp::from_millis(due_at.parse().ok()?))
}

fn due_entry(item: &Item, schema_2: bool) -> Option<DueEntry> {
    let (_, reference) = text_of(item, "j")?.split_once('/')?;
    let (position, reference) = (position_of(item)?, reference.parse::<ReferenceId>().ok()?);
    let message = || MessageId { reference: reference.clone(), task: position.task };
    let id = match (schema_2, position.endpoint) {
        (true, Some(endpoint)) => DueId::Webhook(message().delivery(endpoint)),
        (true, None) => DueId::Message(message()),
        (false, None) => DueId::Webhook(WebhookId::direct(reference, position.task)),
        (false, Some(_)) => return None,
    };
    Some(DueEntry { id, due_at: due_time(item)? })
}

/// The first `limit` entries of a range after `start`. One page of DynamoDB ends at 1 MB.
async fn read_up_to(
    table: &Table,
    range: &Range,
    limit: usize,
    mut start: Option<Item>,
) -> Result<Vec<Item>, StoreError> {
    let mut items = Vec::new();
    loop {
        let Found { items: more, last, .. } =
            table.query(range, limit - items.len(), start).await?;
        items.extend(more);
        if last.is_none() || items.len() >= limit {
            return Ok(items);
        }
        start = last;
    }
}

/// The records of a day's shard between these sort keys, both inclusive.
pub(super) fn created(day: i64, shard: u8, low: String, high: String) -> Range {
    Range {
        index: None,
        keys: ("p", "s"),
        partition: partition(day, shard),
        between: (low, high),
        backwards: false,
        filter: None,
        consistent: false,
    }
}

/// Several ranges, read as one: the greatest sort key first.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    table: &'a Table,
    parts: Vec<Part>,
    /// The entries that one query reads from each range.
    chunk: usize,
    /// Entries read so far.
    pub(super) read: usize,
}

#[derive(Debug)]
struct Part {
    range: Range,
    buffer: VecDeque<Item>,
    /// The key after which the next query begins.
    start: Option<Item>,
    is_at_end: bool,
}

impl<'a> Merge<'a> {
    /// Merges the ranges, which must be backwards and have the same sort key. Reads nothing yet.
    pub(super) fn new(table: &'a Table, ranges: Vec<Range>, chunk: usize) -> Self {
        let part = |range| Part { range, buffer: VecDeque::new(), start: None, is_at_end: false };
        Self { table, parts: ranges.into_iter().map(part).collect(), chunk, read: 0 }
    }

    /// The next entry.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, StoreError> {
        self.fill().await?;
        let first =
            |part: &Part| text_of(part.buffer.front()?, part.range.keys.1).map(str::to_owned);
        let greatest = self
            .parts
            .iter_mut()
            .filter(|part| !part.buffer.is_empty())
            .max_by_key(|part| first(part));
        Ok(greatest.and_then(|part| part.buffer.pop_front()))
    }

    /// Reads from every range whose buffer is empty, all at once.
    async fn fill(&mut self) -> Result<(), StoreError> {
        while self.parts.iter().any(|part| part.buffer.is_empty() && !part.is_at_end) {
            let (table, chunk) = (self.table, self.chunk);
            let reads =
                self.parts.iter_mut().filter(|part| part.buffer.is_empty() && !part.is_at_end).map(
                    |part| async move {
                        let found = table.query(&part.range, chunk, part.start.take()).await?;
                        part.is_at_end = found.last.is_none();
                        part.start = found.last;
                        part.buffer.extend(found.items);
                        Ok::<usize, StoreError>(found.read)
                    },
                );
            self.read += try_join_all(reads).await?.into_iter().sum::<usize>();
        }
        Ok(())
    }
}

/// The records of a day, newest first, up to and including the sort key `end`.
pub(super) fn newest_of_day<'a>(
    table: &'a Table,
    today: i64,
    end: &str,
    chunk: usize,
) -> Merge<'a> {
    let first = TaskId::first_at(Timestamp::from_millis(0));
    let ranges = (0..SHARDS).map(|shard| Range {
        backwards: true,
        ..created(today, shard, first.to_string(), end.to_owned())
    });
    Merge::new(table, ranges.collect(), chunk)
}

/// The key of an index entry's record.
pub(super) fn base_key(entry: &Item) -> Item {
    let part = |name: &str| entry.get(name).map(|value| (name.to_owned(), value.clone()));
    [part("p"), part("s")].into_iter().flatten().collect()
}

/// Dead letters before this place in the index, the latest archived first.
pub(super) fn latest_archived<'a>(table: &'a Table, before: &str, chunk: usize) -> Merge<'a> {
    let ranges = (0..SHARDS).map(|shard| archived("work", "i", format!("dead/{shard}"), before));
    Merge::new(table, ranges.collect(), chunk)
}

/// A part of an index of dead letters.
pub(super) fn archived(
    index: &'static str,
    key: &'static str,
    partition: String,
    before: &str,
) -> Range {
    Range {
        index: Some(index),
        keys: (key, "j"),
        partition,
        between: ("0".to_owned(), before.to_owned()),
        backwards: true,
        filter: None,
        consistent: false,
    }
}
