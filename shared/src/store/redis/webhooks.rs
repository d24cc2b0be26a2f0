//! The contract of [`Webhooks`]: each call is one script or one command.

use ::redis::cmd;
use async_trait::async_trait;

use super::{
    FULL, RedisStore, SCRIPTS, expiry, keys, leases,
    records::{Row, conflict, content, failed, full, headers_to_json, parse},
};
use crate::{
    id::WebhookId,
    model::{Content, Webhook},
    random::write_name,
    redis::Call,
    status::Status,
    store::{
        CreateError, DeleteError, IdState, StoreError, Tombstone, Webhooks, WriteError,
        tombstone_expires_at,
    },
};

/// What `create.lua` returns: the record that exists, expired webhooks of the same shard, whether
/// one of those has the id, and why the id is barred or [`FULL`].
type Created = (Option<String>, Vec<String>, bool, Option<String>);

#[async_trait]
impl Webhooks for RedisStore {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let row = Row::of(webhook);
        let mut call = SCRIPTS.create.on(&self.keys(webhook));
        call.arg(self.clock.now().as_millis()).arg(&row.task).arg(&row.id).arg(&row.reference);
        // Distinguishes another try of this call from another call.
        call.arg(write_name());
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
        let now = self.clock.now();
        let mut call = SCRIPTS.tombstone_id.on(&keys::keys(&self.connection, id.task, None));
        call.arg(now.as_millis()).arg(tombstone_expires_at(id.task).as_millis());
        call.arg(Tombstone::Unused.as_str());
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
        let command = cmd("HGET").arg(keys::record_key(&self.connection, id.task)).arg("r").clone();
        let record: Option<String> =
            self.connection.ask(&command).await.map_err(|error| failed(id, error))?;
        Ok(record
            .map(|json| parse(id, &json))
            .transpose()?
            .filter(|webhook| self.exists(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let mut call = SCRIPTS.open.on(&keys::keys(&self.connection, id.task, None));
        call.arg(self.clock.now().as_millis());
        let found: Vec<Option<String>> =
            self.connection.run(&call).await.map_err(|error| failed(id, error))?;
        let mut found = found.into_iter();
        let Some(json) = found.next().flatten() else { return Ok(None) };
        let webhook = parse(id, &json)?;
        if !self.exists(&webhook, id) {
            return Ok(None);
        }
        Ok(Some((webhook, content(id, &mut found)?)))
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
        self.remove(id, "").await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        self.remove(&seen.id, &seen.revision.to_string()).await
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
            .arg(&row.task)
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
        let keys = keys::keys(&self.connection, id.task, Some(&id.reference));
        let mut call = SCRIPTS.delete.on(&keys);
        call.arg(self.clock.now().as_millis())
            .arg(id.task.to_string())
            .arg(id.to_string())
            .arg(revision)
            .arg(tombstone_expires_at(id.task).as_millis())
            .arg(Tombstone::Deleted.as_str());
        let answer: Result<String, _> = self.connection.run_durably(&call, false).await;
        match answer.map_err(|error| failed(id, error))?.as_str() {
            "deleted" => Ok(()),
            "changed" => Err(DeleteError::Changed),
            _ => Err(DeleteError::Missing),
        }
    }

    /// All keys that a change of this webhook can touch.
    fn keys(&self, webhook: &Webhook) -> Vec<String> {
        keys::keys(
            &self.connection,
            webhook.id.task,
            webhook.referenced.then_some(&webhook.id.reference),
        )
    }

    /// Whether a reader of this id finds the record. The task id alone finds the key, so the
    /// reference id has to match too.
    fn exists(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }
}
