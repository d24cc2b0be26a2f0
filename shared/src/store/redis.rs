//! The store on Redis, on one server or on a cluster: a hash for each webhook and message, a hash
//! for its content, and sorted sets for the indexes.
//!
//! Every change is one Lua script, so a record and its index entries change together. The top of
//! `redis/prelude.lua` describes every key. A script receives all keys that it touches.
//!
//! **Shards.** Keys that change together must share a slot of Redis Cluster. A slot is chosen by
//! hash tag:
//!
//! | hash tag | holds |
//! |---|---|
//! | `{PREFIX-status-0}` … `{PREFIX-status-15}` | records, their indexes, idempotency keys |
//! | `{PREFIX-status}` | totals, targets, the state of the sweep |
//!
//! `keys` computes the tag of a webhook with the hash of `store/shard.rs`. A cluster spreads
//! webhooks over up to 16 nodes. A reader of an index asks all shards at once and merges. The keys
//! are the same on a single server, so its data can move to a cluster. A message, its content and
//! its deliveries are in one shard, so one script reads or changes them.
//!
//! **The due index** is two sorted sets for each shard, by due time: `due` for direct webhooks,
//! `due2` for messages and deliveries. It is sparse: a record without `due_at` has no member.
//!
//! **Versions before applications** can run on the same data, during an update and after a
//! roll-back. Their lists, their due index, their recovery of leases and their housekeeping read
//! the indexes `status`, `due`, `dead` and `expiry`, so nothing of messages and deliveries is
//! there. Messages alone are in `time`. These versions skip an entry whose record they cannot read,
//! and their audit an entry without a status. They never touch the keys of deliveries and
//! applications. Their scripts find a message's record under a task id with another field for its
//! id, so they answer that there is no such webhook, or that the id is taken. Both count deliveries
//! in `counts`.
//!
//! **Deliveries.** The first write of a delivery is refused if anything occupies its key, or if its
//! message does not exist. An expired record and a marker occupy the key until housekeeping removes
//! them. That is at their time or later, so a clock that is ahead does not free a key. A message's
//! record lists the deliveries that hold it, so a script needs no key of another delivery to decide
//! whether an expired message still exists.
//!
//! **Expiry.** An expired record does not exist for readers. An index of expiry times leads to its
//! bytes. Each create deletes two expired webhooks, or as much of messages and deliveries as it
//! will leave itself. [`Store::maintain`] deletes up to [`MAX_READ`] webhooks and as much of the
//! others, as far as [`PurgeHorizon`] allows. Records and contents have no time to live, because a
//! server whose clock is ahead for a moment would delete them.
//!
//! **Full memory.** From 90 % of `maxmemory` on, the store refuses new webhooks, messages and
//! applications ([`StoreError::Full`]). Everything else continues, even at 100 %: accepted webhooks
//! are delivered and can be deleted.
//!
//! | module | holds |
//! |---|---|
//! | `webhooks`, on `records` | one webhook: create, read, conditional write, delete |
//! | `messages`, on `deliveries` | messages, and the keys of their deliveries |
//! | `applications` | the documents of applications |
//! | `lists`, on `pages`, `merged` and `due` | lists, the due index, the audit, counts |
//! | `sweep_state` | the audit's position, the sweep's latest report |
//! | `idempotency_keys` | reservations |
//! | `totals` | counters and destinations |
//! | `targets` | circuits, pauses and slot counters of targets |
//! | `keys` | which key, and which shard, holds what |
//! | `expiry` | the deletion of expired webhooks and messages |
//! | `leases` | the claims of a process whose heartbeat stopped |
//! | `memory`, `warnings` | how full the server is, and settings with which it may lose data |

mod applications;
mod deliveries;
mod due;
mod expiry;
mod idempotency_keys;
mod keys;
mod leases;
mod lists;
mod memory;
mod merged;
mod messages;
mod pages;
mod records;
mod sweep_state;
mod targets;
mod totals;
mod warnings;
mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::{DiskUsage, MAX_READ, PurgeHorizon, Store, StoreError};
use crate::{
    clock::{Clock, Timestamp},
    liveness::Liveness,
    redis::{Connection, scripts},
};

/// What `create.lua`, `create_message.lua`, `create_application.lua` and `reserve.lua` return when
/// memory is nearly full.
const FULL: &str = "full";

scripts!("redis": create, create_application, create_message, destinations, due, open, open_message,
    replace, reserve, restricting, standing, tombstone_id;
    even_when_full: activity, advance, application, delete, delete_message, forget, forget_schema_2,
    mark, replace_counters, report, take, target, write, write_message,
);

/// The store on a Redis server or a cluster.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
    clock: Arc<dyn Clock>,
    liveness: Arc<Liveness>,
    expired: expiry::Seen,
    expired_of_schema_2: expiry::Seen,
    memory: memory::Gauge,
    horizon: PurgeHorizon,
}

impl RedisStore {
    /// Opens the store behind this connection. The clock decides what has expired.
    pub fn new(connection: Connection, clock: Arc<dyn Clock>) -> Self {
        Self::of_process(connection, clock, Arc::default())
    }

    /// Does the same, and makes claims under this process's name while it has one.
    pub fn of_process(
        connection: Connection,
        clock: Arc<dyn Clock>,
        liveness: Arc<Liveness>,
    ) -> Self {
        let (expired, expired_of_schema_2, memory, horizon) = Default::default();
        Self { connection, clock, liveness, expired, expired_of_schema_2, memory, horizon }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn ping(&self) -> Result<(), StoreError> {
        let ping =
            async |shard| self.connection.ping(&self.connection.key_of_shard(shard, "ping")).await;
        let pings = try_join_all((0..keys::SHARDS).map(ping)).await;
        pings.map(drop).map_err(records::unavailable)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        warnings::warnings(&self.connection).await
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    async fn maintain(&self, _now: Timestamp, _until: Timestamp) -> Result<(), StoreError> {
        let Some(until) = self.horizon.look(&*self.clock) else { return Ok(()) };
        expiry::purge(&self.connection, until).await.map_err(records::unavailable)
    }
}

#[cfg(test)]
mod tests {
    use crate::status::Status;

    #[test]
    fn the_scripts_know_every_status_by_its_code() {
        let prelude = include_str!("redis/prelude.lua");
        let (_, table) = prelude.split_once("local STATUS = {").expect("the table begins");
        let (table, _) = table.split_once('}').expect("the table ends");
        let entries: Vec<&str> =
            table.split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
        let expected = Status::ALL.map(|status| format!("{status} = '{}'", status.code()));
        assert_eq!(entries, expected);
    }
}
