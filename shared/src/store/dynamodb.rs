//! The store on Amazon DynamoDB: one table, on demand, paid per request.
//!
//! Keys and attributes are told at the top of `item`; besides webhooks the table holds
//!
//! | item | `p` | `s` |
//! |---|---|---|
//! | a day on which webhooks were created | `days` | `DAY`, eight digits |
//! | the audit's position, the sweep's latest report | `sweep` | `audit`, `report` |
//! | what an idempotency key stands for | `key/KEY` | `-` |
//! | a circuit; by the same `i` also in the index `work` | `circuit`, `circuit/1` … `circuit/3` | destination |
//! | what an invocation counted, not yet summed up | `activity`, `activity/1` … `activity/3` | time and a random part |
//! | the sums of each of those | `totals` | `totals`, `1` … `3` |
//!
//! The table has the string keys `p` and `s`, the time-to-live attribute `x`, and three indexes,
//! all of keys only and sparse: `work` (`i`, `j`), `reference` (`r`, `s`) and `dead_reference`
//! (`l`, `j`). `infra/template.yaml` makes it.
//!
//! **What it costs.** A write unit is 1 KiB of the whole item, and one more for each index entry
//! that is made or removed. A webhook that succeeds at once is 3 writes of its record and one of
//! its content, unless both fit into 1 KiB. A claim reads nothing but the content, eventually
//! consistent, which is right since a content never changes; if it is not there yet, again and
//! consistent. Nothing scans.
//!
//! **Conditional writes.** Each is one `UpdateItem` on the revision, which answers a refusal with
//! the stored record. One that finds its own result there, because the client sent it twice, counts
//! as done.
//!
//! **Consistency.** What is asked for by id is read consistently. Indexes trail by some
//! milliseconds, so what they name is judged by its record. Lists and the audit read eventually: an
//! entry may be missing from a list for a moment, and the audit reads what is 15 minutes old.
//!
//! **Expiry.** DynamoDB deletes what has expired within a few days, by its own clock; readers leave
//! it out at once. Nothing here deletes by time. A clock of ours that is ahead writes times to live
//! that are too long; one that is behind, none that ends before its webhook's time.
//!
//! | module | what it does |
//! |---|---|
//! | `item` | a webhook as items |
//! | `table` | the calls, and what they fail with |
//! | `records` | one webhook |
//! | `lists`, `shards` | many webhooks |
//! | `totals` | counters and destinations |
//! | `circuits`, `sweep`, `reservations` | what their names say |

mod circuits;
mod item;
mod lists;
mod records;
mod reservations;
mod shards;
mod sweep;
mod table;
mod totals;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;

use self::table::Table;
use super::{
    Activity, CreateError, DeadLetterPosition, DeadLetters, DestinationTotals, DueCursor, DuePage,
    Filter, IdState, Listed, Page, Reservation, Store, StoreError, SweepReport, WriteError,
};
use crate::{
    circuit::Circuit,
    clock::{Clock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
    status::Status,
};

/// The store on a table.
#[derive(Debug)]
pub struct DynamoStore {
    table: Table,
    clock: Arc<dyn Clock>,
    /// How long a finished webhook is kept.
    retention: Duration,
    /// The days that this process knows to be marked. A std mutex: it is held for a look-up, never
    /// across an await.
    marked_days: Mutex<HashSet<i64>>,
}

impl DynamoStore {
    /// The store in this table. The clock says what has expired; `retention` is how long a finished
    /// webhook is kept, by which a content's time to live is chosen such that it is seldom lifted.
    pub fn new(
        client: Client,
        table_name: &str,
        clock: Arc<dyn Clock>,
        retention: Duration,
    ) -> Self {
        Self {
            table: Table::new(client, table_name),
            clock,
            retention,
            marked_days: Mutex::default(),
        }
    }
}

#[async_trait]
impl Store for DynamoStore {
    async fn ping(&self) -> Result<(), StoreError> {
        sweep::ping(&self.table).await
    }

    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        self.create_webhook(webhook, content).await
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        self.bar_id(id).await
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        Ok(self.find(id).await?.map(|(webhook, _)| webhook))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let Some((webhook, item)) = self.find(id).await? else { return Ok(None) };
        match self.content_of(id, &item).await? {
            Some(content) => Ok(Some((webhook, content))),
            // Deleted since, or never whole.
            None => match self.find(id).await? {
                Some(_) => Err(item::malformed(id, "its content is missing")),
                None => Ok(None),
            },
        }
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.replace(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let item = self.replace(before, after, true).await?;
        match self.content_of(&after.id, &item).await? {
            Some(content) => Ok(content),
            None => match self.find(&after.id).await? {
                Some(_) => Err(item::malformed(&after.id, "its content is missing").into()),
                None => Err(WriteError::Missing),
            },
        }
    }

    async fn delete(&self, id: &WebhookId) -> Result<bool, StoreError> {
        self.remove(id, None).await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<bool, StoreError> {
        self.remove(&seen.id, Some(seen.revision)).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        self.list_webhooks(filter, after, limit).await
    }

    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        self.list_dead_letters(reference, after, limit).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        shards::due(&self.table, until, after, limit).await
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        shards::list_unindexed(&self.table, from, until, after).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        self.count_newest().await
    }

    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        sweep::audited_until(&self.table).await
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<bool, StoreError> {
        sweep::advance_audit(&self.table, from, to).await
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        sweep::report(&self.table, report).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        sweep::last(&self.table).await
    }

    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        totals::sum_up(&self.table, now, || self.clock.now() >= until).await
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<Option<Reservation>, StoreError> {
        reservations::reserve(&self.table, key, reservation, self.clock.now()).await
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &Reservation,
        after: &Reservation,
    ) -> Result<bool, StoreError> {
        reservations::replace(&self.table, key, before, after, self.clock.now()).await
    }

    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        totals::add(&self.table, activity, now).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        totals::counters(&self.table, self.clock.now()).await
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        totals::destinations(&self.table, now).await
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        circuits::get(&self.table, destination).await
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<bool, StoreError> {
        circuits::write(&self.table, before, after).await
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        circuits::all(&self.table).await
    }
}
