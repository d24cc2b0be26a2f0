//! The embedded store: tables of a [`Database`].
//!
//! A record is JSON in one column of the table `webhooks`. The columns beside it are what the
//! indexes and the preconditions of a write need. The indexes by status and by due time are
//! partial: a delivered webhook is in neither. `sqlite/schema_1.sql` and the later ones (beside
//! [`crate::sqlite`]) have the tables. The same table has messages and deliveries: `keys` tells
//! how.
//!
//! | module | holds |
//! |---|---|
//! | `webhooks`, on `records` | one webhook: create, read, conditional write, delete |
//! | `messages`, on `message_rows`, `deliveries`, `list_messages` | messages, deliveries' keys |
//! | `applications` | the documents of applications |
//! | `lists`, `list_webhooks`, `audit` | lists, the due index, the audit, counts |
//! | `sweep_state` | the audit's position, the sweep's latest report |
//! | `idempotency_keys` | reservations |
//! | `totals` | counters and destinations |
//! | `targets` | circuits, pauses and slot counters of targets |
//! | `purge` | the deletion of expired rows, a few at a time |
//! | `recover_in_flight` | what a stack does at its start, while it has the data folder to itself |
//!
//! **Writes** go through the one writer thread of the [`Database`], many in one transaction. A
//! create, a delete, a resend and a redrive are synced to the disk before they return. Every other
//! write survives a crash of the process.

mod applications;
mod audit;
mod deliveries;
#[cfg(test)]
mod golden;
mod idempotency_keys;
mod keys;
mod list_messages;
mod list_webhooks;
mod listed_rows;
mod lists;
mod message_holders;
mod message_rows;
mod messages;
mod purge;
mod records;
mod recover_in_flight;
mod sweep_state;
mod targets;
#[cfg(test)]
mod tests;
mod totals;
mod webhooks;

use std::sync::Arc;

use async_trait::async_trait;

use super::{DiskUsage, Store, StoreError};
use crate::{
    clock::{Clock, Timestamp},
    sqlite::{Database, DatabaseError, Durability},
};

/// The store in a database file.
#[derive(Debug)]
pub struct SqliteStore {
    database: Database,
    clock: Arc<dyn Clock>,
    purge: Arc<purge::PurgeTimer>,
}

/// What [`SqliteStore::recover_in_flight`] recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveredInFlight {
    /// Attempts that were in flight. Their leases ended.
    pub leases: u64,
    /// Webhooks without a message in the queue. They moved forward in the due index.
    pub unsent: u64,
}

impl SqliteStore {
    /// Opens the store in this database. The clock decides what has expired.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock, purge: Arc::default() }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.database.ping().await.map_err(unavailable)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.database.warnings())
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        let usage = self.database.disk_usage();
        usage.map(Some).map_err(|error| StoreError::Unavailable(Box::new(error)))
    }

    async fn maintain(&self, _now: Timestamp, _until: Timestamp) -> Result<(), StoreError> {
        let purge = purge::PurgeTimer::ticket(&self.purge, &*self.clock);
        let write = self.database.write(Durability::Crash, move |tx| purge.redeem(tx));
        write.await.map_err(unavailable)
    }
}

fn unavailable(error: DatabaseError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
