//! The contract of [`Messages`] on the rows of `records` and `deliveries`.

use async_trait::async_trait;

use super::{
    SqliteStore, deliveries,
    keys::{Key, Kind},
    list_messages::list_messages,
    message_rows,
    purge::PurgeTimer,
    records::{self, Deletion, Occupied, Row, StoredContent, Written},
    unavailable,
    webhooks::read_content,
};
use crate::{
    applications::{message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::Content,
    sqlite::Durability,
    store::{
        CreateMessageError, DeleteError, MessageFilter, MessageIdState, Messages, Page, StoreError,
        StoredDelivery, Tombstone, WriteMessageError,
    },
};

#[async_trait]
impl Messages for SqliteStore {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        let row = Row::of_message(message);
        let (stored, now) = (StoredContent::of(content), self.clock.now());
        let purge = PurgeTimer::ticket(&self.purge, &*self.clock);
        let existing = self
            .database
            .write(Durability::PowerLoss, move |tx| {
                purge.redeem(tx)?;
                records::create(tx, &row, &stored, now)
            })
            .await
            .map_err(unavailable)?;
        let id = &message.id;
        match existing {
            None => Ok(()),
            Some(Occupied::Taken(record)) => {
                Err(CreateMessageError::Conflict(Box::new(parse(id, &record)?)))
            }
            Some(Occupied::Other) => {
                Err(StoreError::malformed(id, "a webhook has this task ID").into())
            }
            Some(Occupied::Tombstone(why)) => Err(CreateMessageError::Tombstone(why)),
        }
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        let (task, now) = (id.task, self.clock.now());
        let found = self
            .database
            .write(Durability::PowerLoss, move |tx| {
                records::tombstone_id(tx, task, Kind::Message, now)
            })
            .await
            .map_err(unavailable)?;
        Ok(match found {
            Occupied::Taken(record) => MessageIdState::Message(Box::new(parse(id, &record)?)),
            // No message can be created under the id of a webhook.
            Occupied::Other => MessageIdState::Tombstone(Tombstone::Unused),
            Occupied::Tombstone(why) => MessageIdState::Tombstone(why),
        })
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        let (key, now) = (Key::task(id.task), self.clock.now());
        let read = self.database.read(move |connection| deliveries::message(connection, &key, now));
        read_message(id, read.await.map_err(unavailable)?)
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        let (key, now) = (Key::task(id.task), self.clock.now());
        let read = self.database.read(move |connection| message_rows::open(connection, &key, now));
        let Some((record, stored)) = read.await.map_err(unavailable)? else { return Ok(None) };
        let Some(message) = read_message(id, Some(record))? else { return Ok(None) };
        Ok(Some((message, read_content(id, stored)?)))
    }

    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        debug_assert!(
            before.id == after.id && before.revision < after.revision,
            "not made by a transition"
        );
        let (row, before_revision, now) =
            (Row::of_message(after), before.revision, self.clock.now());
        let added = after.plan.len() as i64 - before.plan.len() as i64;
        // A longer plan is accepted like a message. A deletion that has begun must not be undone.
        let accepts = added > 0 || (after.deleting && !before.deleting);
        let durability = if accepts { Durability::PowerLoss } else { Durability::Crash };
        let write = self.database.write(durability, move |tx| {
            message_rows::replace(tx, &row, before_revision, added, now)
        });
        match write.await.map_err(unavailable)? {
            Written::Done { .. } => Ok(()),
            Written::Missing => Err(WriteMessageError::Missing),
            Written::Conflict { record } => match read_message(&after.id, Some(record))? {
                Some(stored) => Err(WriteMessageError::Conflict(Box::new(stored))),
                None => Err(WriteMessageError::Missing),
            },
        }
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        let Some(message_id) = id.message_id() else { return Ok(None) };
        let (key, now) = (Key::of(id), self.clock.now());
        let read = self.database.read(move |connection| deliveries::read(connection, &key, now));
        let Some((record, found)) = read.await.map_err(unavailable)? else { return Ok(None) };
        let message = read_message(&message_id, Some(record))?;
        Ok(message.map(|message| StoredDelivery { message, found }))
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        let (task, now) = (id.task, self.clock.now());
        let read =
            self.database.read(move |connection| message_rows::standing(connection, task, now));
        let Some(read) = read.await.map_err(unavailable)? else { return Ok(None) };
        let Some(message) = read_message(id, Some(read.record))? else { return Ok(None) };
        Ok(Some(Standing { message, found: read.found, audited_until: read.audited_until }))
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        let key = Key::of(id);
        let write = self
            .database
            .write(Durability::PowerLoss, move |tx| deliveries::put_marker(tx, &key, until));
        write.await.map_err(unavailable)
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        let id = WebhookId::direct(seen.id.reference.clone(), seen.id.task);
        let (revision, now) = (Some(seen.revision), self.clock.now());
        let write = self.database.write(Durability::PowerLoss, move |tx| {
            records::delete(tx, &id, Kind::Message, revision, now)
        });
        match write.await.map_err(unavailable)? {
            Deletion::Done => Ok(()),
            Deletion::Missing => Err(DeleteError::Missing),
            Deletion::Changed => Err(DeleteError::Changed),
        }
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        let (filter, now) = (filter.clone(), self.clock.now());
        let read = self
            .database
            .read(move |connection| list_messages(connection, &filter, after, limit, now));
        read.await.map_err(unavailable)
    }
}

fn parse(id: &MessageId, record: &str) -> Result<PublishedMessage, StoreError> {
    records::parse_message(record).map_err(|source| StoreError::unreadable(id, source))
}

/// The message in the record, if this is its whole id.
fn read_message(
    id: &MessageId,
    record: Option<String>,
) -> Result<Option<PublishedMessage>, StoreError> {
    let message = record.map(|record| parse(id, &record)).transpose()?;
    Ok(message.filter(|message| message.id == *id))
}
