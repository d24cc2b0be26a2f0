//! The store on Redis: a hash for each webhook and one for its content, and sorted sets for the
//! indexes.
//!
//! Every change is one script, so a record and its index entries change together. What the keys are
//! called, and what they hold, stands at the top of `prelude.lua`; every script is given all keys
//! that it touches.
//!
//! **Slots.** What changes together has to share a slot of Redis Cluster, and slots are shared by
//! hash tag:
//!
//! | tag | holds |
//! |---|---|
//! | `{PREFIX-status-0}` … `{PREFIX-status-15}` | a sixteenth of the webhooks, by a hash of their task ids: records, contents, and all their index entries; and idempotency keys, by a hash of the key |
//! | `{PREFIX-status}` | totals, circuits, and what the sweep remembers: written once per call of a function, not per webhook |
//!
//! So a cluster spreads webhooks over up to 16 nodes; a seventeenth would stand idle. Who reads an
//! index asks all shards at once, which is sixteen small commands in one round trip, and merges;
//! lists are read so by people, the due index by the sweep, and by nobody on the way of a webhook.
//! The keys are the same on a single server, so that what one holds can be moved to a cluster.
//!
//! **Expiry.** What has expired is gone for readers at once. It goes with the next writes, two with
//! each create and up to [`MAX_READ`] with each sweep, led by an index of what expires, as far as
//! [`PurgeHorizon`] allows. Records and contents have no time to live of Redis' own: a server whose
//! clock is ahead for a moment would delete them.
//!
//! **A full memory.** From 90 % of `maxmemory` on nothing new is taken in ([`StoreError::Full`]).
//! All else goes on, also when the memory is full: what is accepted is brought to its end, and can
//! be deleted.
//!
//! | module | what it does |
//! |---|---|
//! | `shard` | which key is where |
//! | `records` | one webhook as it is stored |
//! | `merged` | an index over all shards, read as one |
//! | `lists`, `due` | many webhooks |
//! | `expiry` | what has expired |
//! | `leases` | the claims of a process whose heartbeat stopped |
//! | `memory` | how full the server is |
//! | `totals` | counters, destinations, circuits |

mod due;
mod expiry;
mod leases;
mod lists;
mod memory;
mod merged;
mod records;
mod shard;
mod totals;
mod warnings;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::redis::cmd;
use async_trait::async_trait;
use futures_util::{TryFutureExt, future::try_join_all};

use self::records::{
    Row, conflict, content, failed, full, headers_to_json, malformed, parse, unavailable,
};
use super::{
    Activity, CreateError, DeadLetterPosition, DeadLetters, DestinationTotals, DueCursor, DuePage,
    Filter, IdState, Listed, MAX_READ, Page, PurgeHorizon, Reservation, Store, StoreError,
    SweepReport, Tombstone, WriteError, tombstone_expires_at,
};
use crate::{
    circuit::Circuit,
    clock::{Clock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    liveness::Liveness,
    model::{Content, Webhook},
    random::{Random, SystemRandom},
    redis::{Call, Connection, scripts},
    status::Status,
};

/// A reservation's key goes by itself this long after its time.
const LINGER: Duration = Duration::from_secs(3600);

/// What `create` and `reserve` answer instead of taking something in.
const FULL: &str = "full";

scripts!("redis": circuits, create, destinations, due, open, replace, reserve, tombstone_id;
    even_when_full: activity, advance, circuit, delete, forget, mark, report, write,
);

/// The store on a Redis server, or on a cluster.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
    clock: Arc<dyn Clock>,
    liveness: Arc<Liveness>,
    expired: expiry::Seen,
    memory: memory::Gauge,
    horizon: PurgeHorizon,
}

/// What a create came to: the record that is there already, what has expired in the same shard,
/// whether that is in the way, and why the id is retired, or [`FULL`].
type Created = (Option<String>, Vec<String>, bool, Option<String>);

impl RedisStore {
    /// The store behind this connection. The clock says what has expired.
    pub fn new(connection: Connection, clock: Arc<dyn Clock>) -> Self {
        Self::of_process(connection, clock, Arc::default())
    }

    /// The same, and claims are made under this process's name while it has one.
    pub fn of_process(
        connection: Connection,
        clock: Arc<dyn Clock>,
        liveness: Arc<Liveness>,
    ) -> Self {
        let (expired, memory, horizon) = Default::default();
        Self { connection, clock, liveness, expired, memory, horizon }
    }

    /// Deletes the webhook, if it has this revision where one is given.
    async fn remove(&self, id: &WebhookId, revision: &str) -> Result<bool, StoreError> {
        let keys = shard::keys(&self.connection, id.task, Some(&id.reference));
        let mut call = SCRIPTS.delete.on(&keys);
        call.arg(self.clock.now().as_millis())
            .arg(id.task.to_string())
            .arg(id.to_string())
            .arg(revision);
        call.arg(tombstone_expires_at(id.task).as_millis());
        self.connection.run_durably(&call, false).await.map_err(|error| failed(id, error))
    }

    async fn put(
        &self,
        before: &Webhook,
        after: &Webhook,
        with_content: bool,
    ) -> Result<Option<Content>, WriteError> {
        debug_assert!(
            before.id == after.id && before.revision < after.revision,
            "not made by a transition"
        );
        let row = Row::of(after);
        let mut call = SCRIPTS.write.on(&self.keys(after));
        call.arg(self.clock.now().as_millis())
            .arg(&row.task)
            .arg(&row.id)
            .arg(before.revision)
            .arg(u8::from(with_content));
        row.add_to(&mut call);
        // Content is asked for by claims alone.
        call.arg(if with_content {
            leases::holder(self.liveness.id(), after)
        } else {
            String::new()
        });
        // Resend and redrive are acceptances, and as durable as one.
        let accepts = after.status == Status::Pending && before.status != Status::Pending;
        let answer: Result<Vec<Option<String>>, _> = if accepts {
            self.connection.run_durably(&call, true).await
        } else {
            self.connection.run(&call).await
        };
        let answer = answer.map_err(|error| failed(&after.id, error))?;
        let mut answer = answer.into_iter();
        match answer.next().flatten().as_deref() {
            Some("done") if with_content => Ok(Some(content(&after.id, &mut answer)?)),
            Some("done") => Ok(None),
            Some("conflict") => {
                Err(conflict(&after.id, &answer.next().flatten().unwrap_or_default()))
            }
            _ => Err(WriteError::Missing),
        }
    }

    /// All keys that a change of this webhook can touch.
    fn keys(&self, webhook: &Webhook) -> Vec<String> {
        shard::keys(
            &self.connection,
            webhook.id.task,
            webhook.referenced.then_some(&webhook.id.reference),
        )
    }

    /// Creates it, and takes along what the last create in this shard saw expired, at the same
    /// time.
    async fn try_create(&self, webhook: &Webhook, call: &Call<'_>) -> Result<Created, StoreError> {
        let shard = shard::of(webhook.id.task);
        let until = self.horizon.look(&*self.clock);
        let expired = until.map_or_else(Vec::new, |_| self.expired.take(shard));
        let forget = expiry::forget(&self.connection, shard, &expired, until.unwrap_or_default());
        let forget = forget
            .unwrap_or_else(|error| tracing::debug!(%error, "What has expired stays for now"));
        let (created, ()) =
            tokio::join!(self.connection.run_durably::<Created>(call, true), forget);
        let created = created.map_err(|error| failed(&webhook.id, error))?;
        self.expired.put(shard, created.1.clone());
        Ok(created)
    }

    /// A task id alone is unique; who asks with another reference id asks for something that is not
    /// there.
    fn is_there(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }

    /// The reservation's script with what `reserve` and `replace` begin with.
    fn reservation<'a>(
        &self,
        script: &'a crate::redis::Script,
        key: &str,
        reservation: &Reservation,
    ) -> Call<'a> {
        let key = self.connection.key_of_shard(shard::of_name(key), &format!("reservation:{key}"));
        let mut call = script.on(&[key]);
        let now = self.clock.now();
        call.arg(to_json(reservation)).arg(reservation.expires_at.as_millis()).arg(now.as_millis());
        // From now on, so that it does not matter how far apart our clock and the server's are.
        call.arg((reservation.expires_at.since(now) + LINGER).as_millis() as u64);
        call
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn ping(&self) -> Result<(), StoreError> {
        // A write, so that a replica shows. A full memory is among the warnings: it can still be
        // read, and emptied.
        let ping = async |shard| {
            self.connection
                .run::<()>(&SCRIPTS.mark.on(&[self.connection.key_of_shard(shard, "ping")]))
                .await
        };
        try_join_all((0..shard::SHARDS).map(ping)).await.map(drop).map_err(unavailable)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        warnings::warnings(&self.connection).await
    }

    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let row = Row::of(webhook);
        let mut call = SCRIPTS.create.on(&self.keys(webhook));
        call.arg(self.clock.now().as_millis()).arg(&row.task).arg(&row.id).arg(&row.reference);
        // Tells another try of this call from another call.
        call.arg(format!("{:016x}", SystemRandom.next_u64()));
        row.add_to(&mut call);
        call.arg(&content.url).arg(headers_to_json(content)).arg(content.payload.get());
        call.arg(u8::from(self.memory.is_full(&self.connection)));
        for _ in 0..2 {
            match self.try_create(webhook, &call).await? {
                (Some(record), ..) => {
                    return Err(CreateError::Conflict(Box::new(parse(&webhook.id, &record)?)));
                }
                (None, .., Some(why)) if why == FULL => return Err(full().into()),
                (None, .., Some(why)) => {
                    return Err(CreateError::Tombstone(Tombstone::from_stored(&why)));
                }
                (None, _, false, None) => return Ok(()),
                // The next try takes it along.
                (None, expired, true, None) => {
                    let shard = shard::of(webhook.id.task);
                    let now = self.clock.now();
                    let forget = expiry::forget(&self.connection, shard, &expired, now).await;
                    forget.map_err(|error| failed(&webhook.id, error))?;
                }
            }
        }
        Err(malformed(&webhook.id, "it has expired and is in no index of what expires").into())
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let now = self.clock.now();
        let mut call = SCRIPTS.tombstone_id.on(&shard::keys(&self.connection, id.task, None));
        call.arg(now.as_millis()).arg(tombstone_expires_at(id.task).as_millis());
        let found: Result<(Option<String>, Option<String>), _> =
            self.connection.run_durably(&call, true).await;
        let found = found.map_err(|error| failed(id, error))?;
        let webhook = found.0.map(|json| parse(id, &json)).transpose()?;
        Ok(match webhook.filter(|webhook| !webhook.is_expired(now)) {
            Some(webhook) => IdState::Webhook(Box::new(webhook)),
            None => IdState::Tombstone(
                found.1.map_or(Tombstone::Deleted, |why| Tombstone::from_stored(&why)),
            ),
        })
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let command =
            cmd("HGET").arg(shard::record_key(&self.connection, id.task)).arg("r").clone();
        let record: Option<String> =
            self.connection.ask(&command).await.map_err(|error| failed(id, error))?;
        Ok(record
            .map(|json| parse(id, &json))
            .transpose()?
            .filter(|webhook| self.is_there(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let mut call = SCRIPTS.open.on(&shard::keys(&self.connection, id.task, None));
        call.arg(self.clock.now().as_millis());
        let found: Vec<Option<String>> =
            self.connection.run(&call).await.map_err(|error| failed(id, error))?;
        let mut found = found.into_iter();
        let Some(json) = found.next().flatten() else { return Ok(None) };
        let webhook = parse(id, &json)?;
        if !self.is_there(&webhook, id) {
            return Ok(None);
        }
        Ok(Some((webhook, content(id, &mut found)?)))
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.put(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let opened = self.put(before, after, true).await?;
        opened.ok_or_else(|| {
            unreachable!("a write that is done answers the content that was asked for")
        })
    }

    async fn delete(&self, id: &WebhookId) -> Result<bool, StoreError> {
        self.remove(id, "").await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<bool, StoreError> {
        self.remove(&seen.id, &seen.revision.to_string()).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        lists::list(&self.connection, filter, after, limit, self.clock.now()).await
    }

    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        lists::dead_letters(&self.connection, reference, after, limit, self.clock.now()).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        due::read(&self.connection, until, after, limit).await.map_err(unavailable)
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        lists::list_unindexed(&self.connection, from, until, after).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let read = |shard| {
            let mut command = cmd("HMGET");
            command.arg(self.connection.key_of_shard(shard, "counts"));
            for status in Status::ALL {
                command.arg(status as u8);
            }
            command
        };
        let found: Vec<Vec<Option<i64>>> =
            merged::of_each_shard(&self.connection, read).await.map_err(unavailable)?;
        let count = |status: Status| {
            found
                .iter()
                .filter_map(|counts| counts.get(status as usize).copied().flatten())
                .sum::<i64>()
        };
        Ok(Status::ALL.map(|status| count(status).max(0) as u64))
    }

    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let command = cmd("HGET").arg(self.connection.key("sweep")).arg("audited_until").clone();
        let millis: Option<i64> = self.connection.ask(&command).await.map_err(unavailable)?;
        Ok(millis.map(Timestamp::from_millis))
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<bool, StoreError> {
        let from = from.map_or_else(String::new, |from| from.as_millis().to_string());
        let mut call = SCRIPTS.advance.on(&[self.connection.key("sweep")]);
        call.arg(from).arg(to.as_millis());
        self.connection.once(&call).await.map_err(unavailable)
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let json = serde_json::to_string(report)
            .unwrap_or_else(|_| unreachable!("a report has only string keys"));
        let mut call = SCRIPTS.report.on(&[self.connection.key("sweep")]);
        self.connection.run::<()>(call.arg(json)).await.map_err(unavailable)?;
        match self.horizon.look(&*self.clock) {
            Some(until) => expiry::purge(&self.connection, until).await.map_err(unavailable),
            None => Ok(()),
        }
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        let command = cmd("HGET").arg(self.connection.key("sweep")).arg("report").clone();
        let json: Option<String> = self.connection.ask(&command).await.map_err(unavailable)?;
        // What another version wrote and this one cannot read is as if the sweep had not run yet;
        // it will within the minute.
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }

    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<Option<Reservation>, StoreError> {
        let mut call = self.reservation(&SCRIPTS.reserve, key, reservation);
        call.arg(u8::from(self.memory.is_full(&self.connection)));
        let existing: Option<String> =
            self.connection.run_durably(&call, true).await.map_err(unavailable)?;
        if existing.as_deref() == Some(FULL) {
            return Err(full());
        }
        let existing: Option<Reservation> = existing
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        // Its task is random, so one like it is what an earlier try of this call left.
        Ok(existing.filter(|existing| existing != reservation))
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &Reservation,
        after: &Reservation,
    ) -> Result<bool, StoreError> {
        let mut call = self.reservation(&SCRIPTS.replace, key, after);
        self.connection.once(call.arg(to_json(before))).await.map_err(unavailable)
    }

    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        totals::add(&self.connection, activity, now).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        totals::counters(&self.connection).await
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        totals::destinations(&self.connection, now).await
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        totals::circuit(&self.connection, destination).await
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<bool, StoreError> {
        totals::write_circuit(&self.connection, before, after).await
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        totals::circuits(&self.connection).await
    }
}

fn to_json(reservation: &Reservation) -> String {
    serde_json::to_string(reservation)
        .unwrap_or_else(|_| unreachable!("a reservation has only string keys"))
}
