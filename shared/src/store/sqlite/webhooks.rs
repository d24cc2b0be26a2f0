//! The contract of [`Webhooks`] on the rows of `records`.

use std::fmt::Display;

use async_trait::async_trait;

use super::{
    SqliteStore, deliveries,
    keys::{Key, Kind},
    purge::PurgeTimer,
    records::{self, Deletion, Occupied, Row, StoredContent, Written},
    unavailable,
};
use crate::{
    id::WebhookId,
    model::{Content, InvalidRecord, Webhook},
    sqlite::Durability,
    status::Status,
    store::{CreateError, DeleteError, IdState, StoreError, Tombstone, Webhooks, WriteError},
};

#[async_trait]
impl Webhooks for SqliteStore {
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
            Some(Occupied::Other) => {
                Err(StoreError::malformed(&webhook.id, "a message has this task ID").into())
            }
            Some(Occupied::Tombstone(why)) => Err(CreateError::Tombstone(why)),
        }
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let (task, now) = (id.task, self.clock.now());
        let found = self
            .database
            .write(Durability::PowerLoss, move |tx| {
                records::tombstone_id(tx, task, Kind::Direct, now)
            })
            .await
            .map_err(unavailable)?;
        match found {
            Occupied::Taken(record) => Ok(IdState::Webhook(Box::new(parse(id, &record)?))),
            // No webhook can be created under the id of a message.
            Occupied::Other => Ok(IdState::Tombstone(Tombstone::Unused)),
            Occupied::Tombstone(why) => Ok(IdState::Tombstone(why)),
        }
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let (key, kind) = (Key::of(id), Kind::of(id));
        let record = self
            .database
            .read(move |connection| records::record(connection, &key, kind))
            .await
            .map_err(unavailable)?;
        Ok(record
            .map(|json| parse(id, &json))
            .transpose()?
            .filter(|webhook| self.exists(webhook, id)))
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let (key, kind) = (Key::of(id), Kind::of(id));
        let found = self
            .database
            .read(move |connection| records::open(connection, &key, kind))
            .await
            .map_err(unavailable)?;
        let Some((json, stored)) = found else { return Ok(None) };
        let webhook = parse(id, &json)?;
        // The content of a delivery is its message's, which may be deleted.
        if !self.exists(&webhook, id) || (id.is_delivery() && stored.is_none()) {
            return Ok(None);
        }
        Ok(Some((webhook, read_content(id, stored)?)))
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.replace(before, after, false).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        let stored = self.replace(before, after, true).await?;
        Ok(read_content(&after.id, stored)?)
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        self.remove(id, None).await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        self.remove(&seen.id, Some(seen)).await
    }
}

impl SqliteStore {
    async fn replace(
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
        // A resend and a redrive accept the webhook again, so they are synced like a create.
        let accepts = after.status == Status::Pending && before.status != Status::Pending;
        let durability = if accepts { Durability::PowerLoss } else { Durability::Crash };
        let written = self
            .database
            .write(durability, move |tx| {
                let written = deliveries::write(tx, &row, before_revision, now)?;
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

    async fn remove(&self, id: &WebhookId, seen: Option<&Webhook>) -> Result<(), DeleteError> {
        let (id, now) = (id.clone(), self.clock.now());
        let revision = seen.map(|seen| seen.revision);
        let allowed_at = seen.and_then(|seen| seen.allowed_at);
        // Synced, because the answer promises that no attempt starts any more.
        let work = self.database.write(Durability::PowerLoss, move |tx| {
            if id.is_delivery() {
                deliveries::delete(tx, &id, revision, allowed_at, now)
            } else {
                records::delete(tx, &id, Kind::Direct, revision, now)
            }
        });
        match work.await.map_err(unavailable)? {
            Deletion::Done => Ok(()),
            Deletion::Missing => Err(DeleteError::Missing),
            Deletion::Changed => Err(DeleteError::Changed),
        }
    }

    /// Whether a reader of this id finds the record. The task id alone finds the row, so the
    /// reference id has to match too.
    fn exists(&self, webhook: &Webhook, id: &WebhookId) -> bool {
        webhook.id == *id && !webhook.is_expired(self.clock.now())
    }
}

fn parse(id: &WebhookId, json: &str) -> Result<Webhook, StoreError> {
    records::parse_webhook(Kind::of(id), json).map_err(|source| StoreError::unreadable(id, source))
}

fn conflict(id: &WebhookId, json: &str) -> WriteError {
    match parse(id, json) {
        Ok(stored) => WriteError::Conflict(Box::new(stored)),
        Err(error) => error.into(),
    }
}

/// The content of the webhook or message.
pub(super) fn read_content(
    id: &impl Display,
    stored: Option<StoredContent>,
) -> Result<Content, StoreError> {
    stored
        .ok_or_else(|| StoreError::malformed(id, "its content is missing"))?
        .read()
        .map_err(|source| StoreError::unreadable(id, InvalidRecord::Malformed(source)))
}
