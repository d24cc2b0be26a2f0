//! The audit's read: what was created in a range of time and has no entry in the due index.
//!
//! The read is consistent and goes from key to key: a message, then its deliveries. So it finds
//! each message as [`Standing`] requires.

use super::{
    DynamoStore,
    item::{Item, day, position_of, readable_webhook, shard},
    message_item::Group,
    shards::{END, created},
};
use crate::{
    applications::{message::MAX_PLAN, standing::Standing},
    clock::Timestamp,
    id::TaskId,
    store::{MAX_READ, Page, StoreError, SweepState, Unindexed, shard::SHARDS},
};

/// The entries after which a read ends with the message that it is at, so that it reads at most
/// [`MAX_READ`].
const ENOUGH: usize = MAX_READ - MAX_PLAN;

/// Unfinished direct webhooks have no index entry and no expiry. Messages and all of their
/// deliveries have a `k`.
const FILTER: &str = "attribute_exists(k) OR (attribute_not_exists(i) AND attribute_not_exists(x))";

impl DynamoStore {
    /// Lists what is not in the due index, day by day and shard by shard. `after` is the last
    /// webhook or message that was read.
    pub(super) async fn read_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        if from >= until {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let (first, end) = (TaskId::first_at(from), TaskId::first_at(until));
        // Before the rest: see the contract of `Standing`.
        let audited_until = self.audited_until().await?;
        let now = self.clock.now();
        let mut audit = Audit { audited_until, now, end, group: None, items: Vec::new() };
        let mut read = 0;
        let last_day = day(Timestamp::from_millis(until.as_millis() - 1));
        let begin = after.map_or((day(from), 0), |after| (day(after.created_at()), shard(after)));
        for today in begin.0..=last_day {
            let first_shard = if today == begin.0 { begin.1 } else { 0 };
            for part in first_shard..SHARDS {
                let resumed = after.filter(|_| (today, part) == begin);
                let low = resumed.map_or_else(|| first.to_string(), |at| format!("{at}/{END}"));
                let mut range = created(today, part, low, end.to_string());
                range.filter = Some(FILTER);
                range.consistent = true;
                let mut start = None;
                loop {
                    // DynamoDB returns the last key whenever it reached the limit, so the bound
                    // holds.
                    let left = ENOUGH.saturating_sub(read);
                    let found = self.table.query(&range, left, start).await?;
                    read += found.read;
                    audit.add(found.items);
                    let Some(last) = found.last else { break };
                    let position = position_of(&last).filter(|_| read >= ENOUGH);
                    if let Some(position) = position {
                        // The deliveries of the message belong to the same page.
                        range.between.1 = format!("{}/{END}", position.task);
                        let mut start = Some(last);
                        while let Some(key) = start {
                            let found = self.table.query(&range, MAX_PLAN, Some(key)).await?;
                            audit.add(found.items);
                            start = found.last;
                        }
                        audit.end_group();
                        return Ok(Page { items: audit.items, next: Some(position.task) });
                    }
                    start = Some(last);
                }
                audit.end_group();
            }
        }
        Ok(Page { items: audit.items, next: None })
    }
}

struct Audit {
    audited_until: Option<Timestamp>,
    now: Timestamp,
    end: TaskId,
    /// The message that the read is at, with its deliveries so far.
    group: Option<Group>,
    items: Vec<Unindexed>,
}

impl Audit {
    /// Adds items in the order of their keys.
    fn add(&mut self, items: Vec<Item>) {
        for item in items {
            // The upper bound of the range is inclusive.
            let Some(position) = position_of(&item).filter(|at| at.task < self.end) else {
                continue;
            };
            if position.endpoint.is_some() {
                if let Some(group) = self.group.as_mut().filter(|group| group.task == position.task)
                {
                    group.add(position, item);
                }
                continue;
            }
            self.end_group();
            if item.contains_key("k") {
                self.group.insert(Group::new(position.task)).add(position, item);
                continue;
            }
            let webhook = readable_webhook(&item).filter(|webhook| {
                !webhook.status.is_finished()
                    && webhook.due_at.is_none()
                    && !webhook.is_expired(self.now)
            });
            self.items.extend(webhook.map(|webhook| Unindexed::Webhook(Box::new(webhook))));
        }
    }

    fn end_group(&mut self) {
        let group = self.group.take();
        let standing = group.and_then(|group| group.standing(self.audited_until, self.now));
        let unheld = standing.filter(Standing::is_unheld);
        self.items.extend(unheld.map(|standing| Unindexed::Message(Box::new(standing))));
    }
}
