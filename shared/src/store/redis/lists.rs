//! The contract of [`Lists`]. A list reads a range of one index over all shards, or of the same
//! index of direct webhooks and of deliveries, at most [`MAX_READ`] entries, and then the records,
//! which decide (`pages`). `due` reads the due index.

use ::redis::{RedisError, RedisResult, cmd};
use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    RedisStore, due, keys,
    merged::{self, IndexRange, Order},
    records::{is_foreign, readable, unavailable},
};
use crate::{
    applications::standing::Standing,
    clock::Timestamp,
    id::TaskId,
    record::Record,
    status::Status,
    store::{
        DeadLetterFilter, DeadLetterPosition, DeadLetters, DueCursor, DuePage, Filter,
        ListPosition, Listed, Lists, MAX_READ, Page, StoreError, SweepState, Unindexed,
    },
};

#[async_trait]
impl Lists for RedisStore {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<Page<Listed, ListPosition>, StoreError> {
        self.list_webhooks(filter, after, limit.clamp(1, MAX_READ)).await
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        self.list_dead_letters(filter, after, limit.clamp(1, MAX_READ)).await
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
    ) -> Result<Page<Unindexed, TaskId>, StoreError> {
        let audited_until = self.audited_until().await?;
        let begin = after
            .map_or_else(|| format!("[{}", TaskId::first_at(from)), |after| format!("({after}"));
        let end = format!("({}", TaskId::first_at(until));
        let read = merged::read(&self.connection, &["time"], &begin, &end, Order::Ascending).await;
        let IndexRange { members, next } = read.map_err(unavailable)?;
        let tasks = members.iter().filter_map(|member| merged::task(member));
        let heads = join_all(tasks.map(|task| self.unindexed_head(task))).await;
        let heads = heads.into_iter().collect::<Result<Vec<_>, StoreError>>()?;
        let heads = heads.into_iter().flatten();
        let found = join_all(heads.map(|head| self.unindexed(head, audited_until))).await;
        let items = found.into_iter().collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Page {
            items: items.into_iter().flatten().collect(),
            next: next.as_deref().and_then(merged::task),
        })
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        let read = |shard| {
            let mut command = cmd("HMGET");
            command.arg(self.connection.key_of_shard(shard, "counts"));
            for status in Status::ALL {
                command.arg(status.code());
            }
            command
        };
        let found: Vec<Vec<Option<i64>>> =
            merged::of_each_shard(&self.connection, read).await.map_err(unavailable)?;
        let count = |status: Status| -> i64 {
            found.iter().filter_map(|counts| counts.get(status.index()).copied().flatten()).sum()
        };
        Ok(Status::ALL.map(|status| count(status).max(0) as u64))
    }
}

/// The fewest and the most records that one round trip reads.
pub(super) const CHUNK: (usize, usize) = (16, 100);

/// What may be unindexed, as its indexed fields say.
enum Head {
    Webhook(TaskId),
    Message(TaskId),
}

impl RedisStore {
    /// Reads only the status and the due time of a direct webhook, because most are finished.
    async fn unindexed_head(&self, task: TaskId) -> Result<Option<Head>, StoreError> {
        type Fields = (Option<String>, Option<String>, Option<String>);
        let mut command = cmd("HMGET");
        command.arg(keys::record_key(&self.connection, ListPosition::at(task)));
        command.arg("s").arg("d").arg("m");
        let found = unless_foreign(task, self.connection.ask::<Fields>(&command).await)?;
        let Some((status, due_at, message)) = found else { return Ok(None) };
        if due_at.is_some_and(|due_at| !due_at.is_empty()) {
            return Ok(None);
        }
        Ok(match status {
            _ if message.is_some() => Some(Head::Message(task)),
            Some(status) if !is_finished(&status) => Some(Head::Webhook(task)),
            _ => None,
        })
    }

    async fn unindexed(
        &self,
        head: Head,
        audited_until: Option<Timestamp>,
    ) -> Result<Option<Unindexed>, StoreError> {
        match head {
            Head::Webhook(task) => {
                let key = keys::record_key(&self.connection, ListPosition::at(task));
                let record: RedisResult<Option<Vec<u8>>> =
                    self.connection.ask(cmd("HGET").arg(key).arg("r")).await;
                let record = unless_foreign(task, record)?.flatten();
                let Some(Record::Webhook(webhook)) = record.as_deref().and_then(readable) else {
                    return Ok(None);
                };
                let is_unindexed = !webhook.status.is_finished() && webhook.due_at.is_none();
                Ok(is_unindexed.then_some(Unindexed::Webhook(webhook)))
            }
            Head::Message(task) => self.unindexed_message(task, audited_until).await,
        }
    }

    /// Reads the keys of the deliveries only if the record names one that is unstarted or
    /// unfinished, because most messages have none.
    async fn unindexed_message(
        &self,
        task: TaskId,
        audited_until: Option<Timestamp>,
    ) -> Result<Option<Unindexed>, StoreError> {
        let key = keys::record_key(&self.connection, ListPosition::at(task));
        let fields: RedisResult<Vec<(Vec<u8>, Vec<u8>)>> =
            self.connection.ask(cmd("HGETALL").arg(key)).await;
        let Some(fields) = unless_foreign(task, fields)? else { return Ok(None) };
        let record = fields.iter().find(|(name, _)| name == b"r");
        let Some(Record::Message(message)) = record.and_then(|(_, json)| readable(json)) else {
            return Ok(None);
        };
        let is_open = fields.iter().any(|(name, value)| {
            name.starts_with(b"h:") || name == b"n" && !matches!(value.first(), Some(b'0' | b'-'))
        });
        if !is_open && !message.deleting {
            return Ok(None);
        }
        let standing = self.standing_of_listed(*message, audited_until).await?;
        let standing = standing.filter(Standing::is_unheld);
        Ok(standing.map(|standing| Unindexed::Message(Box::new(standing))))
    }
}

/// `None` if another program wrote under the key. Such a key must not hide other webhooks.
pub(super) fn unless_foreign<T>(
    task: TaskId,
    answer: RedisResult<T>,
) -> Result<Option<T>, StoreError> {
    let left_out = |error: &RedisError| {
        tracing::warn!(%task, %error,
            "Skipped a webhook: another program wrote under its key");
    };
    match answer {
        Err(error) if is_foreign(&error) => Ok(None).inspect(|_: &Option<T>| left_out(&error)),
        answer => answer.map(Some).map_err(unavailable),
    }
}

fn is_finished(status: &str) -> bool {
    [Status::Delivered, Status::Failed]
        .into_iter()
        .any(|finished| finished.code().to_string() == status)
}
