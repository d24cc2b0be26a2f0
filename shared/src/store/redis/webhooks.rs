//! The contract of [`Webhooks`]: each call is one script or one command.

use std::fmt::Display;

use ::redis::cmd;
use async_trait::async_trait;

use super::{
    FULL, RedisStore, SCRIPTS, expiry, keys, leases,
    records::{Row, conflict, content, failed, full, headers_to_json, parse, parse_webhook},
};
use crate::{
    id::{TaskId, WebhookId},
    model::{Content, Webhook},
    random::write_name,
    redis::Call,
    status::Status,
    store::{
        CreateError, DeleteError, IdState, ListPosition, StoreError, Tombstone, Webhooks,
        WriteError, tombstone_expires_at,
    },
};

/// What has an id that [`RedisStore::bar`] barred unless there is a record.
pub(super) enum Barred {
    Record(String),
    Tombstone(Tombstone),
}

/// The answer of `delete.lua`, `delete_message.lua` and `mark.lua`.
pub(super) fn deleted(answer: &str) -> Result<(), DeleteError> {
    match answer {
        "deleted" => Ok(()),
        "changed" => Err(DeleteError::Changed),
        _ => Err(DeleteError::Missing),
    }
}

/// What `create.lua` returns: the record that exists, expired webhooks of the same shard, whether
/// one of those has the id, and why the id is barred or [`FULL`].
type Created = (Option<String>, Vec<String>, bool, Option<String>);

#[async_trait]
impl Webhooks for RedisStore {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let row = Row::of(webhook);
        let mut call = SCRIPTS.create.on(&self.keys(webhook));
        call.arg(self.clock.now().as_millis()).arg(&row.place).arg(&row.id).arg(&row.reference);
        // Distinguishes another try of this call from another call.
        call.arg(write_name());
        row.add_to(&mut call);
        call.arg(&content.url).arg(headers_to_json(content)).arg(content.payload.get());
        call.arg(u8::from(self.memory.is_full(&self.connection)));
        for _ in 0..2 {
            match self.try_create(webhook, &call).await? {
                (Some(record), ..) => {
                    return Err(CreateError::Conflict(Box::new(parse_webhook(
                        &webhook.id,
                        &record,
                    )?)));
                }
                (None, .., Some(why)) if why == FULL => return Err(full().into()),
                (None, .., Some(why)) => {
                    return Err(CreateError::Tombstone(Tombstone::from_stored(&why)));
                }
                (None, _, false, None) => return Ok(()),
                // An expired webhook has the id. Delete it, then try again.
                (None, expired, true, None) => {
                    let shard = keys::shard_of(webhook.id.task);
                    let now = self.clock.now();
                    let forget = expiry::forget(&self.connection, shard, &expired, now).await;
                    forget.map_err(|error| failed(&webhook.id, error))?;
                }
            }
        }
        Err(StoreError::malformed(
            &webhook.id,
            "it has expired and the expiry index does not name it",
        )
        .into())
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        if id.is_delivery() {
            return self.bar_delivery(id).await;
        }
        let found = match self.bar(id, id.task).await? {
            Barred::Record(json) => parse(id, &json)?,
            Barred::Tombstone(why) => return Ok(IdState::Tombstone(why)),
        };
        Ok(match found {
            Some(webhook) if webhook.is_expired(self.clock.now()) => {
                IdState::Tombstone(Tombstone::Deleted)
            }
            Some(webhook) => IdState::Webhook(Box::new(webhook)),
            // A message has the id. So no webhook gets it.
            None => IdState::Tombstone(Tombstone::Unused),
        })
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let key = keys::record_key(&self.connection, ListPosition::of(id));
        let record: Result<Option<String>, _> =
            self.connection.ask(cmd("HGET").arg(key).arg("r")).await;
        let Some(json) = record.map_err(|error| failed(id, error))? else { return Ok(None) };
        Ok(parse(id, &json)?.filter(|webhook| self.exists(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let mut call = SCRIPTS.open.on(&keys::keys(&self.connection, id, false));
        call.arg(self.clock.now().as_millis());
        let found: Vec<Option<String>> =
            self.connection.run(&call).await.map_err(|error| failed(id, error))?;
        let mut found = found.into_iter();
        let Some(json) = found.next().flatten() else { return Ok(None) };
        match parse(id, &json)?.filter(|webhook| self.exists(webhook, id)) {
            Some(webhook) => Ok(Some((webhook, content(id, &mut found)?))),
            None => Ok(None),
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
        let opened = self.replace(before, after, true).await?;
        opened.ok_or_else(|| unreachable!("the script returns the content if it is asked to"))
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        if id.is_delivery() {
            return self.delete_delivery(id).await;
        }
        self.remove(id, "").await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        let revision = seen.revision.to_string();
        if seen.id.is_delivery() {
            let until = self.marker_until(seen.allowed_at);
            return self.mark(&seen.id, until, &revision, false).await;
        }
        self.remove(&seen.id, &revision).await
    }
}

impl RedisStore {
    /// Creates the webhook. At the same time deletes what the last create in this shard found
    /// expired.
    async fn try_create(&self, webhook: &Webhook, call: &Call<'_>) -> Result<Created, StoreError> {
        let shard = keys::shard_of(webhook.id.task);
        let until = self.horizon.look(&*self.clock);
        let expired = until.map_or_else(Vec::new, |_| self.expired.take(shard));
        let forget = async {
            let until = until.unwrap_or_default();
            let forgotten = expiry::forget(&self.connection, shard, &expired, until).await;
            forgotten.unwrap_or_else(|error| {
                tracing::debug!(%error, "Expired webhooks stay for now: Redis did not delete them");
            });
        };
        let (created, ()) =
            tokio::join!(self.connection.run_durably::<Created>(call, true), forget);
        let created = created.map_err(|error| failed(&webhook.id, error))?;
        self.expired.put(shard, created.1.clone());
        Ok(created)
    }

    async fn replace(
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
            .arg(&row.place)
            .arg(&row.id)
            .arg(before.revision)
            .arg(u8::from(with_content));
        row.add_to(&mut call);
        // Only a claim asks for the content.
        call.arg(if with_content {
            leases::holder(self.liveness.id(), after)
        } else {
            String::new()
        });
        call.arg(&row.application);
        // A resend and a redrive accept the webhook again, so they are as durable as a create.
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

    /// Deletes the webhook, if it has this revision where one is given.
    async fn remove(&self, id: &WebhookId, revision: &str) -> Result<(), DeleteError> {
        let mut call = SCRIPTS.delete.on(&keys::keys(&self.connection, id, true));
        call.arg(self.clock.now().as_millis())
            .arg(id.task.to_string())
            .arg(id.to_string())
            .arg(revision)
            .arg(tombstone_expires_at(id.task).as_millis())
            .arg(Tombstone::Deleted.as_str());
        let answer: Result<String, _> = self.connection.run_durably(&call, false).await;
        deleted(&answer.map_err(|error| failed(id, error))?)
    }

    /// All keys that a change of this webhook can touch.
    fn keys(&self, webhook: &Webhook) -> Vec<String> {
        keys::keys(&self.connection, &webhook.id, webhook.referenced)
    }

    /// Bars the id of a direct webhook or message.
    pub(super) async fn bar(&self, id: &impl Display, task: TaskId) -> Result<Barred, StoreError> {
        let mut keys = keys::index_keys(&self.connection, keys::shard_of(task));
        keys.extend(keys::own_keys(&self.connection, task, None));
        let mut call = SCRIPTS.tombstone_id.on(&keys);
        call.arg(self.clock.now().as_millis()).arg(tombstone_expires_at(task).as_millis());
        call.arg(Tombstone::Unused.as_str());
        let found: Result<(Option<String>, Option<String>), _> =
            self.connection.run_durably(&call, true).await;
        Ok(match found.map_err(|error| failed(id, error))? {
            (Some(json), _) => Barred::Record(json),
            (None, why) => Barred::Tombstone(
                why.map_or(Tombstone::Deleted, |why| Tombstone::from_stored(&why)),
            ),
        })
    }

    /// Whether a reader of this id finds the record. The task id alone finds the key, so the
    /// reference id has to match too.
    fn exists(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }
}
