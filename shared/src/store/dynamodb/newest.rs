//! All records, newest first: day by day, and within a day all shards together.

use super::{
    DynamoStore,
    item::{Item, day, day_of, position_of, text_of},
    message_item::Group,
    shards::{Merge, newest_of_day},
    table::Range,
};
use crate::store::{ListPosition, MAX_READ, StoreError};

/// The most index entries whose records one call reads.
pub(super) const CHUNK: usize = 100;

/// Reads all records, newest first.
pub(super) struct Newest<'a> {
    store: &'a DynamoStore,
    /// The sort key before which it reads.
    end: String,
    chunk: usize,
    days: Merge<'a>,
    today: Option<Merge<'a>>,
    /// The first part of the next group.
    pending: Option<Group>,
    /// Records read.
    pub(super) read: usize,
}

impl<'a> Newest<'a> {
    pub(super) fn before(store: &'a DynamoStore, end: ListPosition, limit: usize) -> Self {
        let last_day = day(end.task.created_at());
        let days = Range {
            index: None,
            keys: ("p", "s"),
            partition: "days".to_owned(),
            between: ("0".to_owned(), format!("{last_day:08}")),
            backwards: true,
            filter: None,
            consistent: false,
        };
        // A shard has a sixteenth of the records. A larger chunk reads too much, a smaller one
        // takes more calls.
        let chunk = (limit / 8).clamp(2, MAX_READ / 16);
        Self {
            store,
            end: end.to_string(),
            chunk,
            days: Merge::new(&store.table, vec![days], CHUNK),
            today: None,
            pending: None,
            read: 0,
        }
    }

    /// The next item.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, StoreError> {
        loop {
            if let Some(today) = &mut self.today {
                let read_before = today.read;
                let item = today.next().await?;
                self.read += today.read - read_before;
                match item {
                    Some(item) if text_of(&item, "s").is_some_and(|at| at >= self.end.as_str()) => {
                        continue;
                    }
                    Some(item) => return Ok(Some(item)),
                    None => self.today = None,
                }
            }
            let Some(marker) = self.days.next().await? else { return Ok(None) };
            let Some(day) = day_of(&marker) else { continue };
            self.today = Some(newest_of_day(&self.store.table, day, &self.end, self.chunk));
        }
    }

    /// The next direct webhook, or the next message with its deliveries.
    ///
    /// The deliveries come before the message, because the order is descending.
    pub(super) async fn next_group(&mut self) -> Result<Option<Group>, StoreError> {
        let mut group = match self.pending.take() {
            Some(group) if group.head.is_some() => return Ok(Some(group)),
            pending => pending,
        };
        while let Some(item) = self.next().await? {
            let Some(position) = position_of(&item) else { continue };
            let ended = group.take_if(|group| group.task != position.task);
            let open = group.get_or_insert_with(|| Group::new(position.task));
            open.add(position, item);
            if ended.is_some() {
                self.pending = group;
                return Ok(ended);
            }
            if position.endpoint.is_none() {
                return Ok(group);
            }
        }
        Ok(group)
    }
}
