//! The embedded store: tables of a [`Database`].
//!
//! A record is JSON in one column; beside it stands what the indexes and the conditions of a write
//! need. What succeeds at once enters two small indexes: by status while it is unfinished, and by
//! the time at which it expires.
//!
//! | module | what it does |
//! |---|---|
//! | `records` | one webhook: create, read, conditional write, delete |
//! | `lists` | many webhooks |
//! | `reservations`, `activity`, `circuits`, `sweep` | what else must outlive a process |
//! | `purge` | what has expired goes, a little at a time |
//! | `recover_in_flight` | what a stack does at start, when it knows that nobody else is at work |

mod activity;
mod circuits;
mod lists;
mod purge;
mod records;
mod recover_in_flight;
mod reservations;
mod sweep;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

pub use recover_in_flight::RecoveredInFlight;

use self::{
    purge::PurgeTimer,
    records::{Occupied, Row, StoredContent, Written},
};
use super::{
    Activity, CreateError, DeadLetterPosition, DeadLetters, DestinationTotals, DiskUsage,
    DueCursor, DuePage, Filter, IdState, Listed, Page, Reservation, Store, StoreError, SweepReport,
    Tombstone, WriteError,
};
use crate::{
    circuit::Circuit,
    clock::{Clock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, InvalidRecord, Webhook},
    sqlite::{Database, DatabaseError, Durability, Total},
    status::Status,
};

/// The store in a database file.
#[derive(Debug)]
pub struct SqliteStore {
    database: Database,
    clock: Arc<dyn Clock>,
    purge: Arc<PurgeTimer>,
}

impl SqliteStore {
    /// The store in this file. The clock says what has expired.
    pub fn new(database: Database, clock: Arc<dyn Clock>) -> Self {
        Self { database, clock, purge: Arc::default() }
    }

    async fn remove(&self, id: &WebhookId, revision: Option<u64>) -> Result<bool, StoreError> {
        let (id, now) = (id.clone(), self.clock.now());
        // Synced: an operator is told that no attempt starts any more.
        let work = self
            .database
            .write(Durability::PowerLoss, move |tx| records::delete(tx, &id, revision, now));
        work.await.map_err(unavailable)
    }

    async fn put(
        &self,
        before: &Webhook,
        after: &Webhook,
        with_content: bool,
    ) -> Result<Option<StoredContent>, WriteError> {
        debug_assert!(
            before.id == after.id && before.revision < after.revision,
            "not made by a transition"
        );
        let (row, before_revision, now) = (Row::of(after), before.revision, self.clock.now());
        // Resend and redrive are acceptances, and synced like one.
        let accepts = after.status == Status::Pending && before.status != Status::Pending;
        let durability = if accepts { Durability::PowerLoss } else { Durability::Crash };
        let written = self
            .database
            .write(durability, move |tx| {
                let written = records::replace(tx, &row, before_revision, now)?;
                let content = match &written {
                    Written::Done { content } if with_content => {
                        records::content(tx.connection(), *content)?
                    }
                    _ => None,
                };
                Ok((written, content))
            })
            .await
            .map_err(unavailable)?;
        match written {
            (Written::Done { .. }, content) => Ok(content),
            (Written::Conflict { record }, _) => Err(conflict(&after.id, &record)),
            (Written::Missing, _) => Err(WriteError::Missing),
        }
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
        let space =
            self.database.disk_usage().map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        Ok(Some(DiskUsage {
            free_bytes: space.free_bytes,
            database_bytes: space.database_bytes,
            log_bytes: space.log_bytes,
        }))
    }

    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let (row, stored, now) = (Row::of(webhook), StoredContent::of(content), self.clock.now());
        let purge = PurgeTimer::ticket(&self.purge, &*self.clock);
        let existing = self
            .database
            .write(Durability::PowerLoss, move |tx| {
                purge.redeem(tx)?;
                records::create(tx, &row, &stored, now)
            })
            .await
            .map_err(unavailable)?;
        match existing {
            None => Ok(()),
            Some(Occupied::Taken(record)) => {
                Err(CreateError::Conflict(Box::new(parse(&webhook.id, &record)?)))
            }
            Some(Occupied::Tombstone(why)) => Err(CreateError::Tombstone(why)),
        }
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let (task, now) = (id.task, self.clock.now());
        let found = self
            .database
            .write(Durability::PowerLoss, move |tx| records::tombstone_id(tx, task, now))
            .await
            .map_err(unavailable)?;
        match found {
            Occupied::Taken(record) => Ok(match parse(id, &record)? {
                webhook if webhook.is_expired(now) => IdState::Tombstone(Tombstone::Deleted),
                webhook => IdState::Webhook(Box::new(webhook)),
            }),
            Occupied::Tombstone(why) => Ok(IdState::Tombstone(why)),
        }
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let task = id.task;
        let record = self
            .database
            .read(move |connection| records::record(connection, task))
            .await
            .map_err(unavailable)?;
        Ok(record
            .map(|json| parse(id, &json))
            .transpose()?
            .filter(|webhook| self.is_there(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let task = id.task;
        let found = self
            .database
            .read(move |connection| records::open(connection, task))
            .await
            .map_err(unavailable)?;
        let Some((json, stored)) = found else { return Ok(None) };
        let webhook = parse(id, &json)?;
        if !self.is_there(&webhook, id) {
            return Ok(None);
        }
        Ok(Some((webhook, read_content(id, stored)?)))
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.put(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let stored = self.put(before, after, true).await?;
        Ok(read_content(&after.id, stored)?)
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
        let (filter, now) = (filter.clone(), self.clock.now());
        let read = self
            .database
            .read(move |connection| lists::list(connection, &filter, after, limit, now));
        read.await.map_err(unavailable)
    }

    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        let (reference, now) = (reference.cloned(), self.clock.now());
        let read = self.database.read(move |connection| {
            lists::dead_letters(connection, reference.as_ref(), after, limit, now)
        });
        read.await.map_err(unavailable)
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let after = after.map(|cursor| cursor.part(0)).unwrap_or_default();
        self.database
            .read(move |connection| lists::due(connection, until, &after, limit))
            .await
            .map_err(unavailable)
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        self.database
            .read(move |connection| lists::list_unindexed(connection, from, until, after))
            .await
            .map_err(unavailable)
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let totals = self.database.read(crate::sqlite::totals).await.map_err(unavailable)?;
        Ok(Status::ALL.map(|status| totals[Total::Webhooks(status).slot()]))
    }

    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.database.read(sweep::audited_until).await.map_err(unavailable)
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<bool, StoreError> {
        self.database
            .write(Durability::Crash, move |tx| sweep::advance_audit(tx, from, to))
            .await
            .map_err(unavailable)
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let report = sweep::to_json(report);
        let purge = PurgeTimer::ticket(&self.purge, &*self.clock);
        let write = self.database.write(Durability::Crash, move |tx| {
            purge.redeem(tx)?;
            sweep::keep_report(tx, &report)
        });
        write.await.map_err(unavailable)
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.database.read(sweep::last_report).await.map_err(unavailable)
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<Option<Reservation>, StoreError> {
        let (key, reservation, now) = (key.to_owned(), reservation.clone(), self.clock.now());
        let write = self.database.write(Durability::PowerLoss, move |tx| {
            reservations::reserve(tx, &key, &reservation, now)
        });
        write.await.map_err(unavailable)
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &Reservation,
        after: &Reservation,
    ) -> Result<bool, StoreError> {
        let (key, before, after, now) =
            (key.to_owned(), before.clone(), after.clone(), self.clock.now());
        let write = self.database.write(Durability::Crash, move |tx| {
            reservations::replace(tx, &key, &before, &after, now)
        });
        write.await.map_err(unavailable)
    }

    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        let activity = activity.clone();
        self.database
            .write(Durability::Crash, move |tx| activity::add(tx, &activity, now))
            .await
            .map_err(unavailable)
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.database.read(activity::counters).await.map_err(unavailable)
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        self.database
            .read(move |connection| activity::destinations(connection, now))
            .await
            .map_err(unavailable)
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        let destination = destination.to_owned();
        self.database
            .read(move |connection| circuits::circuit(connection, &destination))
            .await
            .map_err(unavailable)
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<bool, StoreError> {
        let after = after.clone();
        self.database
            .write(Durability::Crash, move |tx| circuits::write(tx, before, &after))
            .await
            .map_err(unavailable)
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        self.database.read(circuits::all).await.map_err(unavailable)
    }
}

impl SqliteStore {
    /// A task id alone is unique; who asks with another reference id asks for something that is not
    /// there.
    fn is_there(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }
}

fn unavailable(error: DatabaseError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

fn parse(id: &WebhookId, json: &str) -> Result<Webhook, StoreError> {
    Webhook::from_json(json).map_err(|source| StoreError::Unreadable { id: id.to_string(), source })
}

fn conflict(id: &WebhookId, json: &str) -> WriteError {
    match parse(id, json) {
        Ok(stored) => WriteError::Conflict(Box::new(stored)),
        Err(error) => error.into(),
    }
}

fn read_content(id: &WebhookId, stored: Option<StoredContent>) -> Result<Content, StoreError> {
    let malformed = |source| StoreError::Unreadable {
        id: id.to_string(),
        source: InvalidRecord::Malformed(source),
    };
    stored
        .ok_or_else(|| malformed(serde::de::Error::custom("its content is missing")))?
        .read()
        .map_err(malformed)
}
