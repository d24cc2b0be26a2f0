//! The store on Amazon DynamoDB: one table, on demand, paid per request.
//!
//! `dynamodb/item.rs` describes the items of a webhook, `dynamodb/message_item.rs` those of a
//! message and its deliveries. The other items of the table:
//!
//! | item | `p` | `s` |
//! |---|---|---|
//! | a day with webhooks | `days` | `DAY`, eight digits |
//! | the audit's position, the sweep's report | `sweep` | `audit`, `report` |
//! | an idempotency key | `key/KEY` | `-` |
//! | an application | `app/{id}` | `-` |
//! | a target | `target/0` … `target/3` | its key |
//! | an invocation's counts | `activity`, `activity/1` … `activity/3` | time, random part |
//! | the sums of that | `totals` | `totals`, `1` … `3` |
//!
//! **Indexes.** The table has the string keys `p` and `s`, the time-to-live attribute `x`, and
//! four global secondary indexes of keys only: `work` (`i`, `j`), `reference` (`r`, `s`),
//! `dead_reference` (`l`, `j`) and `application` (`a`, `s`). `infra/template.yaml` creates it.
//!
//! **What makes the due index sparse.** The due index is the part of `work` whose `i` is
//! `due/SHARD` or `due2/SHARD`. DynamoDB enters an item in an index only if the item has the
//! index's key attributes, and a write removes `i` and `j` from a record that is neither due nor a
//! dead letter (`places` in `dynamodb/item.rs`). So a webhook that succeeds at once never enters
//! `work`, and the sweep reads and pays for due webhooks alone.
//!
//! **Shards.** `SHARD` is a hash of the task id, from 0 to 15 (`store/shard.rs`). It spreads a day
//! and an index over 16 partitions, because one partition takes 1,000 write units a second.
//! `dynamodb/shards.rs` reads all of them as one.
//!
//! **Cost.** A write unit pays for 1 KiB of the whole item, and one more for each index entry that
//! appears or disappears. A webhook that succeeds at once costs 3 writes of its record and one of
//! its content, unless both fit into 1 KiB. A message costs one write and its entry in
//! `application`, and each delivery at once two writes, because it enters no index. A claim reads
//! only the content, first eventually consistent, which is safe because a content never changes.
//! Nothing scans.
//!
//! **Conditional writes.** A create puts the item if there is none. A write updates it at its
//! revision. A delete puts the tombstone in its place, in one transaction with the items of its
//! content. A refusal returns the stored item. A create or write that finds its own result, because
//! the client sent it twice, succeeds.
//!
//! **Consistency.** A read by id is strongly consistent. An index trails the table by milliseconds.
//! So a list reads the record of each index entry and judges that, and a reader of the due index
//! does the same. Lists read eventually consistent: an entry may be missing from a list for a
//! moment. The audit reads the table itself, consistently and in the order of the keys, because it
//! judges a message by its deliveries.
//!
//! **Expiry.** DynamoDB deletes expired items within a few days, by its own clock. Readers skip
//! them at once. The store itself deletes nothing by time. A clock of ours that is ahead writes
//! times to live that are too long. One that is behind never writes one that ends before its
//! webhook.
//!
//! | module | holds |
//! |---|---|
//! | `webhooks`, on `item` | one webhook: create, read, conditional write, delete |
//! | `messages`, on `message_item` | messages, first writes of deliveries |
//! | `delete` | tombstones and markers |
//! | `applications` | the documents of applications |
//! | `lists`, on `shards` and `newest` | lists, the due index, counts |
//! | `unindexed` | the audit's read |
//! | `sweep_state` | the audit's position, the sweep's latest report |
//! | `idempotency_keys` | reservations |
//! | `totals` | counters and destinations |
//! | `targets` | circuits, pauses and slot counters of targets |
//! | `table` | the calls to DynamoDB and their failures |

mod applications;
mod delete;
#[cfg(test)]
mod golden;
mod idempotency_keys;
mod item;
mod lists;
mod message_item;
mod messages;
mod newest;
mod shards;
mod sweep_state;
mod table;
mod targets;
mod totals;
mod unindexed;
mod webhooks;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;

use super::{DiskUsage, Store, StoreError};
use crate::{
    clock::{Clock, Timestamp},
    transition::{Limits, Rules},
};

/// The store on a table.
#[derive(Debug)]
pub struct DynamoStore {
    table: table::Table,
    clock: Arc<dyn Clock>,
    /// How long a finished webhook is kept.
    retention: Duration,
    /// The rules, for [`Rules::prolong`] alone.
    rules: Rules,
    /// The days that this process has marked. A std mutex: it is held for a look-up, never across
    /// an await.
    marked_days: Mutex<HashSet<i64>>,
}

impl DynamoStore {
    /// Opens the store in this table. The clock decides what has expired. A content's time to live
    /// is chosen by `retention`, which is how long a finished webhook is kept, so that it seldom
    /// has to be extended.
    pub fn new(
        client: Client,
        table_name: &str,
        clock: Arc<dyn Clock>,
        retention: Duration,
    ) -> Self {
        Self {
            table: table::Table::new(client, table_name),
            clock,
            retention,
            rules: Rules { limits: Limits { retention, ..Limits::default() }, ..Rules::default() },
            marked_days: Mutex::default(),
        }
    }
}

#[async_trait]
impl Store for DynamoStore {
    /// Writes, because missing rights and a table in creation show only then. One write unit.
    async fn ping(&self) -> Result<(), StoreError> {
        self.table.put(item::key("ping", "-")).await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        totals::sum_up(&self.table, now, || self.clock.now() >= until).await
    }
}
