//! The store on Redis: a hash for each webhook and one for its content, and sorted sets for the indexes.
//!
//! Every change is one script, so a record and its index entries change together. What the keys are called, and what they hold, stands
//! at the top of `prelude.lua`. All carry the same hash tag: on Redis Cluster a store is one slot, thus one node's.
//!
//! **Expiry.** What has expired is gone for readers at once. Its index entries go with the next writes, two with each create and up to
//! `PURGE` with each sweep, led by an index of what expires; its bytes go by Redis' own expiry if nobody writes.
//!
//! | module | what it does |
//! |---|---|
//! | `records` | one webhook as it is stored |
//! | `lists` | many webhooks |
//! | `totals` | counters, destinations, circuits |

mod lists;
mod records;
mod totals;
mod warnings;

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use ::redis::{Script, ScriptInvocation, cmd};
use async_trait::async_trait;

use self::records::{Row, conflict, content, failed, headers_to_json, parse, record_key, unavailable};
use super::{
    Activity, DeadLetterPosition, DeadLetters, DestinationTotals, DueEntry, Filter, Listed, MAX_READ, Page, Reservation, Store,
    StoreError, SweepReport, WriteError,
};
use crate::{
    circuit::Circuit,
    clock::{Clock, Timestamp},
    id::{ReferenceId, TaskId, WebhookId},
    model::{Content, Webhook},
    redis::{Connection, is_dropped},
    status::Status,
};

/// Expired webhooks that one sweep forgets.
const PURGE: usize = 1000;

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// What runs on the server.
        struct Scripts {
            $($name: Script),+
        }

        static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
            $($name: Script::new(concat!(
                include_str!("redis/prelude.lua"),
                include_str!(concat!("redis/", stringify!($name), ".lua")),
            ))),+
        });
    };
}
scripts!(activity, advance, circuit, circuits, create, delete, destinations, list, open, replace, report, reserve, unheld, write);

/// The store on a Redis server.
#[derive(Debug)]
pub struct RedisStore {
    connection: Connection,
    clock: Arc<dyn Clock>,
}

impl RedisStore {
    /// The store behind this connection. The clock says what has expired.
    pub fn new(connection: Connection, clock: Arc<dyn Clock>) -> Self {
        Self { connection, clock }
    }

    /// Deletes the webhook, if it has this revision where one is given.
    async fn remove(&self, id: &WebhookId, revision: &str) -> Result<bool, StoreError> {
        let script = self.call(&SCRIPTS.delete, &[&id.task.to_string(), &id.to_string(), id.reference.as_str(), revision]);
        self.connection.once(&script).await.map_err(|error| failed(id, error))
    }

    /// The script with prefix and time.
    fn call<'a>(&self, script: &'a Script, arguments: &[&str]) -> ScriptInvocation<'a> {
        let mut invocation = self.connection.call(script, &[&self.clock.now().as_millis().to_string()]);
        for argument in arguments {
            invocation.arg(*argument);
        }
        invocation
    }

    async fn put(&self, before: &Webhook, after: &Webhook, with_content: bool) -> Result<Option<Content>, WriteError> {
        debug_assert!(before.id == after.id && before.revision < after.revision, "not made by a transition");
        let row = Row::of(after);
        let mut script = self.call(&SCRIPTS.write, &[&row.task, &row.id, &before.revision.to_string()]);
        row.add_to(&mut script);
        script.arg(u8::from(with_content));
        let answer: Vec<Option<String>> = self.connection.run(&script).await.map_err(|error| failed(&after.id, error))?;
        let mut answer = answer.into_iter();
        match answer.next().flatten().as_deref() {
            Some("done") if with_content => Ok(Some(content(&after.id, &mut answer)?)),
            Some("done") => Ok(None),
            Some("conflict") => Err(conflict(&after.id, &answer.next().flatten().unwrap_or_default())),
            _ => Err(WriteError::Missing),
        }
    }

    /// A task id alone is unique; who asks with another reference id asks for something that is not there.
    fn is_there(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn ping(&self) -> Result<(), StoreError> {
        // A write, so that a full memory or a replica shows.
        let key = self.connection.key("ping");
        self.connection.ask::<()>(cmd("SET").arg(key).arg(1)).await.map_err(unavailable)
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        warnings::warnings(&self.connection).await
    }

    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), WriteError> {
        let (row, headers) = (Row::of(webhook), headers_to_json(content));
        let script = |tried_before: bool| {
            let mut script = self.call(&SCRIPTS.create, &[&row.task, &row.id, &row.reference]);
            row.add_to(&mut script);
            script.arg(&content.url).arg(&headers).arg(content.payload.get()).arg(u8::from(tried_before));
            script
        };
        let existing = match self.connection.once::<Option<String>>(&script(false)).await {
            Err(error) if is_dropped(&error) => self.connection.once(&script(true)).await,
            answer => answer,
        };
        match existing.map_err(|error| failed(&webhook.id, error))? {
            None => Ok(()),
            Some(record) => Err(conflict(&webhook.id, &record)),
        }
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let key = self.connection.key(&record_key(id.task));
        let record: Option<String> =
            self.connection.ask(cmd("HGET").arg(key).arg("r")).await.map_err(|error| failed(id, error))?;
        Ok(record.map(|json| parse(id, &json)).transpose()?.filter(|webhook| self.is_there(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let script = self.call(&SCRIPTS.open, &[&id.task.to_string()]);
        let found: Vec<Option<String>> = self.connection.run(&script).await.map_err(|error| failed(id, error))?;
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

    async fn write_and_open(&self, before: &Webhook, after: &Webhook) -> Result<Content, WriteError> {
        let opened = self.put(before, after, true).await?;
        opened.ok_or_else(|| unreachable!("a write that is done answers the content that was asked for"))
    }

    async fn delete(&self, id: &WebhookId) -> Result<bool, StoreError> {
        self.remove(id, "").await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<bool, StoreError> {
        self.remove(&seen.id, &seen.revision.to_string()).await
    }

    async fn list(&self, filter: &Filter, after: Option<TaskId>, limit: usize) -> Result<Page<Listed, TaskId>, StoreError> {
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

    async fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<DueEntry>, StoreError> {
        let mut command = cmd("ZRANGE");
        command.arg(self.connection.key("due")).arg("-inf").arg(until.as_millis()).arg("BYSCORE");
        command.arg("LIMIT").arg(0).arg(limit.min(MAX_READ)).arg("WITHSCORES");
        let found: Vec<(String, f64)> = self.connection.ask(&command).await.map_err(unavailable)?;
        let entry = |(id, due_at): (String, f64)| {
            let parsed = id.parse().inspect_err(|_| tracing::warn!(id, "an entry of the due index names no webhook: left out"));
            Some(DueEntry { id: parsed.ok()?, due_at: Timestamp::from_millis(due_at as i64) })
        };
        Ok(found.into_iter().filter_map(entry).collect())
    }

    async fn unheld(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        lists::unheld(&self.connection, from, until, after, self.clock.now()).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let mut command = cmd("HMGET");
        command.arg(self.connection.key("counts"));
        for status in Status::ALL {
            command.arg(status as u8);
        }
        let found: Vec<Option<i64>> = self.connection.ask(&command).await.map_err(unavailable)?;
        Ok(Status::ALL.map(|status| found.get(status as usize).copied().flatten().map_or(0, |n| n.max(0) as u64)))
    }

    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let command = cmd("HGET").arg(self.connection.key("sweep")).arg("audited_until").clone();
        let millis: Option<i64> = self.connection.ask(&command).await.map_err(unavailable)?;
        Ok(millis.map(Timestamp::from_millis))
    }

    async fn advance_audit(&self, from: Option<Timestamp>, to: Timestamp) -> Result<bool, StoreError> {
        let from = from.map_or_else(String::new, |from| from.as_millis().to_string());
        let script = self.call(&SCRIPTS.advance, &[&from, &to.as_millis().to_string()]);
        self.connection.once(&script).await.map_err(unavailable)
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        let json = serde_json::to_string(report).unwrap_or_else(|_| unreachable!("a report has only string keys"));
        let script = self.call(&SCRIPTS.report, &[&json, &PURGE.to_string()]);
        self.connection.run::<usize>(&script).await.map(drop).map_err(unavailable)
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        let command = cmd("HGET").arg(self.connection.key("sweep")).arg("report").clone();
        let json: Option<String> = self.connection.ask(&command).await.map_err(unavailable)?;
        // What another version wrote and this one cannot read is as if the sweep had not run yet; it will within the minute.
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }

    async fn reserve(&self, key: &str, reservation: &Reservation) -> Result<Option<Reservation>, StoreError> {
        let mut script = self.call(&SCRIPTS.reserve, &[&to_json(reservation), &reservation.expires_at.as_millis().to_string()]);
        script.key(self.connection.key(&format!("reservation:{key}")));
        let existing: Option<String> = self.connection.run(&script).await.map_err(unavailable)?;
        let existing: Option<Reservation> = existing
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|error| StoreError::Unavailable(Box::new(error)))?;
        // Its task is random, so one like it is what an earlier try of this call left.
        Ok(existing.filter(|existing| existing != reservation))
    }

    async fn replace_reservation(&self, key: &str, before: &Reservation, after: &Reservation) -> Result<bool, StoreError> {
        let expires_at = after.expires_at.as_millis().to_string();
        let mut script = self.call(&SCRIPTS.replace, &[&to_json(before), &to_json(after), &expires_at]);
        script.key(self.connection.key(&format!("reservation:{key}")));
        self.connection.once(&script).await.map_err(unavailable)
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

    async fn write_circuit(&self, before: Option<u64>, after: &Circuit) -> Result<bool, StoreError> {
        totals::write_circuit(&self.connection, before, after, self.clock.now()).await
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        totals::circuits(&self.connection, self.clock.now()).await
    }
}

fn to_json(reservation: &Reservation) -> String {
    serde_json::to_string(reservation).unwrap_or_else(|_| unreachable!("a reservation has only string keys"))
}
