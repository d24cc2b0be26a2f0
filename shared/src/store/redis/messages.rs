//! The contract of [`Messages`]: each call is one script. `list_messages` reads an index over all
//! shards, and then the records.

use ::redis::{RedisResult, cmd};
use async_trait::async_trait;
use futures_util::future::join_all;

use super::{
    FULL, RedisStore, SCRIPTS, deliveries, expiry, keys,
    lists::{CHUNK, unless_foreign},
    merged::{self, IndexRange, Order},
    records::{content, failed, full, headers_to_json, millis, readable, unavailable},
    webhooks::{Barred, deleted},
};
use crate::{
    applications::{id::EndpointId, message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::{MessageId, ReferenceId, TaskId, WebhookId},
    model::Content,
    random::write_name,
    record::Record,
    redis::Call,
    store::{
        CreateMessageError, DeleteError, ListPosition, MAX_READ, MessageFilter, MessageIdState,
        Messages, Page, StoreError, StoredDelivery, SweepState, Tombstone, WriteMessageError,
        tombstone_expires_at,
    },
};

/// How often a message is read again whose plan gets longer.
const MAX_TRIES: u32 = 8;

/// What `create_message.lua` returns: the record that exists, expired entries of the same shard,
/// and why the id is barred or [`FULL`].
type Created = (Option<String>, Vec<String>, Option<String>);

/// A message, and the fields `r` and `z` of deliveries' keys.
type Keys = (PublishedMessage, Vec<(Option<Vec<u8>>, Option<Vec<u8>>)>);

#[async_trait]
impl Messages for RedisStore {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        debug_assert!(
            content.url.is_empty() && headers_to_json(content).is_empty(),
            "a message's content has no URL and no headers"
        );
        let id = &message.id;
        let mut call = SCRIPTS.create_message.on(&self.keys_of_message(message));
        call.arg(self.clock.now().as_millis())
            .arg(id.task.to_string())
            .arg(id.to_string())
            .arg(message.application.as_str())
            .arg(if message.referenced { "1" } else { "" });
        // Distinguishes another try of this call from another call.
        call.arg(write_name());
        call.arg(message.revision)
            .arg(millis(message.due_at))
            .arg(millis(message.expires_at))
            .arg(to_json(message))
            .arg(message.plan.len())
            .arg(content.payload.get())
            .arg(u8::from(self.memory.is_full(&self.connection)));
        match self.try_create_message(id, &call).await? {
            (Some(record), ..) => Err(CreateMessageError::Conflict(parse(id, &record)?)),
            (None, _, Some(why)) if why == FULL => Err(full().into()),
            (None, _, Some(why)) => {
                Err(CreateMessageError::Tombstone(Tombstone::from_stored(&why)))
            }
            (None, _, None) => Ok(()),
        }
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        let message = match self.bar(id, id.task).await? {
            Barred::Tombstone(why) => return Ok(MessageIdState::Tombstone(why)),
            Barred::Record(json) => match read(id, &json)? {
                // A webhook has the id. So no message gets it.
                None => return Ok(MessageIdState::Tombstone(Tombstone::Unused)),
                Some(message) => message,
            },
        };
        if !message.is_expired(self.clock.now()) || self.message(&message.id).await?.is_some() {
            return Ok(MessageIdState::Message(message));
        }
        Ok(MessageIdState::Tombstone(Tombstone::Deleted))
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        Ok(self.keys_of(id, &[]).await?.map(|(message, _)| message))
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        let mut call = SCRIPTS.open_message.on(&self.read_keys(id, &[]));
        call.arg(self.clock.now().as_millis());
        let found: Vec<Option<String>> =
            self.connection.run(&call).await.map_err(|error| failed(id, error))?;
        let mut found = found.into_iter();
        let Some(json) = found.next().flatten() else { return Ok(None) };
        match read(id, &json)?.filter(|message| message.id == *id) {
            Some(message) => Ok(Some((*message, content(id, &mut found)?))),
            None => Ok(None),
        }
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
        let id = &after.id;
        let mut call = SCRIPTS.write_message.on(&self.keys_of_message(after));
        call.arg(self.clock.now().as_millis())
            .arg(id.task.to_string())
            .arg(id.to_string())
            .arg(before.revision)
            .arg(after.revision)
            .arg(millis(after.due_at))
            .arg(millis(after.expires_at))
            .arg(to_json(after))
            .arg(after.plan.len().saturating_sub(before.plan.len()));
        let answer: RedisResult<Vec<String>> = self.connection.run(&call).await;
        let answer = answer.map_err(|error| failed(id, error))?;
        match answer.first().map(String::as_str) {
            Some("done") => Ok(()),
            Some("conflict") => {
                let stored = answer.get(1).map_or("", String::as_str);
                Err(WriteMessageError::Conflict(parse(id, stored)?))
            }
            _ => Err(WriteMessageError::Missing),
        }
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        let Some((message_id, endpoint)) = id.message_id().zip(id.endpoint) else {
            return Ok(None);
        };
        let Some((message, keys)) = self.keys_of(&message_id, &[endpoint]).await? else {
            return Ok(None);
        };
        let now = self.clock.now();
        let found = keys.first().and_then(|(record, why)| {
            deliveries::found(id, record.as_deref(), why.as_deref(), now)
        });
        Ok(Some(StoredDelivery { message, found }))
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        let audited_until = self.audited_until().await?;
        match self.message(id).await? {
            Some(message) => self.standing_of(message, audited_until).await,
            None => Ok(None),
        }
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        match self.mark(id, until, "", true).await {
            Err(DeleteError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        let mut call = SCRIPTS.delete_message.on(&self.keys_of_message(seen));
        call.arg(self.clock.now().as_millis())
            .arg(seen.id.task.to_string())
            .arg(seen.id.to_string())
            .arg(seen.revision)
            .arg(tombstone_expires_at(seen.id.task).as_millis())
            .arg(Tombstone::Deleted.as_str());
        let answer: Result<String, _> = self.connection.run_durably(&call, false).await;
        deleted(&answer.map_err(|error| failed(&seen.id, error))?)
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        // The index by reference has no entry of a generated reference id, which names its task.
        if let Some(task) = filter.reference.as_ref().and_then(ReferenceId::generated_for) {
            let is_next = after.is_none_or(|after| task < after);
            let found = if is_next { self.listed(task, filter).await? } else { None };
            let items = found.filter(|message| !message.referenced).into_iter().collect();
            return Ok(Page { items, next: None });
        }
        let index = match &filter.reference {
            Some(reference) => keys::messages_with(&filter.application, reference),
            None => keys::messages_of(&filter.application),
        };
        let until = filter.until.map(TaskId::first_at);
        let end = [after, until].into_iter().flatten().min();
        let from = end.map_or_else(|| "+".to_owned(), |end| format!("({end}"));
        let to = filter
            .since
            .map_or_else(|| "-".to_owned(), |since| format!("[{}", TaskId::first_at(since)));
        let range = merged::read(&self.connection, &[&index], &from, &to, Order::Descending).await;
        let IndexRange { members, next } = range.map_err(unavailable)?;
        let limit = limit.clamp(1, MAX_READ);
        let (mut items, mut examined) = (Vec::new(), 0);
        while examined < members.len() && items.len() < limit {
            let chunk = (limit - items.len()).clamp(CHUNK.0, CHUNK.1);
            let chunk = &members[examined..members.len().min(examined + chunk)];
            let read = async |member: &String| match merged::task(member) {
                Some(task) => self.listed(task, filter).await,
                None => Ok(None),
            };
            for found in join_all(chunk.iter().map(read)).await {
                if items.len() == limit {
                    break;
                }
                examined += 1;
                items.extend(found?);
            }
        }
        let next = if examined < members.len() { members.get(examined - 1).cloned() } else { next };
        Ok(Page { items, next: next.as_deref().and_then(merged::task) })
    }
}

impl RedisStore {
    /// Creates the message. At the same time deletes what the last create in this shard found
    /// expired.
    async fn try_create_message(
        &self,
        id: &MessageId,
        call: &Call<'_>,
    ) -> Result<Created, StoreError> {
        let shard = keys::shard_of(id.task);
        let until = self.horizon.look(&*self.clock);
        let expired = until.map_or_else(Vec::new, |_| self.expired_of_schema_2.take(shard));
        let forget = async {
            let until = until.unwrap_or_default();
            let forgotten =
                expiry::forget_of_schema_2(&self.connection, shard, &expired, until).await;
            forgotten.unwrap_or_else(|error| {
                tracing::debug!(%error, "Expired messages stay for now: Redis did not delete them");
            });
        };
        let (created, ()) =
            tokio::join!(self.connection.run_durably::<Created>(call, true), forget);
        let created = created.map_err(|error| failed(id, error))?;
        self.expired_of_schema_2.put(shard, created.1.clone());
        Ok(created)
    }

    /// Reads the keys of the deliveries of a message whose record was read before. The record tells
    /// the keys. If its plan has got longer since, reads again.
    pub(super) async fn standing_of(
        &self,
        message: PublishedMessage,
        audited_until: Option<Timestamp>,
    ) -> Result<Option<Standing>, StoreError> {
        let id = message.id.clone();
        let mut known = message;
        for _ in 0..MAX_TRIES {
            let endpoints: Vec<EndpointId> =
                known.plan.iter().map(|entry| entry.endpoint).collect();
            let Some((message, keys)) = self.keys_of(&id, &endpoints).await? else {
                return Ok(None);
            };
            if message.plan.len() != endpoints.len() {
                known = message;
                continue;
            }
            let now = self.clock.now();
            let found = endpoints.into_iter().zip(keys).filter_map(|(endpoint, (record, why))| {
                let id = id.delivery(endpoint);
                let found = deliveries::found(&id, record.as_deref(), why.as_deref(), now);
                Some((endpoint, found?))
            });
            return Ok(Some(Standing { found: found.collect(), message, audited_until }));
        }
        Err(StoreError::Unavailable("the plan changed again and again".into()))
    }

    /// The message, if it exists, and the keys of its deliveries to these endpoints, of one moment.
    async fn keys_of(
        &self,
        id: &MessageId,
        endpoints: &[EndpointId],
    ) -> Result<Option<Keys>, StoreError> {
        let mut call = SCRIPTS.standing.on(&self.read_keys(id, endpoints));
        call.arg(self.clock.now().as_millis());
        let fields: Vec<Option<Vec<u8>>> =
            self.connection.run(&call).await.map_err(|error| failed(id, error))?;
        let mut fields = fields.into_iter();
        let Some(record) = fields.next().flatten() else { return Ok(None) };
        let record =
            String::from_utf8(record).map_err(|_| StoreError::malformed(id, "it is not text"))?;
        let Some(message) = read(id, &record)?.filter(|message| message.id == *id) else {
            return Ok(None);
        };
        let mut keys = Vec::with_capacity(endpoints.len());
        while let (Some(record), Some(why)) = (fields.next(), fields.next()) {
            keys.push((record, why));
        }
        Ok(Some((*message, keys)))
    }

    /// A message of a list, if it exists and matches.
    async fn listed(
        &self,
        task: TaskId,
        filter: &MessageFilter,
    ) -> Result<Option<PublishedMessage>, StoreError> {
        let key = keys::record_key(&self.connection, ListPosition::at(task));
        let record: RedisResult<Option<Vec<u8>>> =
            self.connection.ask(cmd("HGET").arg(key).arg("r")).await;
        let record = unless_foreign(task, record)?.flatten();
        let Some(Record::Message(message)) = record.as_deref().and_then(readable) else {
            return Ok(None);
        };
        if !filter.matches(&message) {
            return Ok(None);
        }
        if message.is_expired(self.clock.now()) {
            return self.message(&message.id).await;
        }
        Ok(Some(*message))
    }

    /// All keys that a change of this message can touch.
    fn keys_of_message(&self, message: &PublishedMessage) -> Vec<String> {
        let PublishedMessage { id: MessageId { reference, task }, application, .. } = message;
        let mut keys = keys::index_keys_of_schema_2(&self.connection, keys::shard_of(*task));
        keys.extend(keys::own_keys_of_message(&self.connection, *task, application, reference));
        keys
    }

    /// The keys of a message and of these deliveries, as the scripts that only read take them.
    fn read_keys(&self, id: &MessageId, endpoints: &[EndpointId]) -> Vec<String> {
        let message = ListPosition::at(id.task);
        let mut keys = keys::index_keys_of_schema_2(&self.connection, keys::shard_of(id.task));
        keys.push(keys::record_key(&self.connection, message));
        keys.push(keys::content_key(&self.connection, id.task));
        keys.extend(endpoints.iter().map(|endpoint| {
            let place = ListPosition { endpoint: Some(*endpoint), ..message };
            keys::record_key(&self.connection, place)
        }));
        keys
    }
}

fn to_json(message: &PublishedMessage) -> String {
    serde_json::to_string(message)
        .unwrap_or_else(|_| unreachable!("a message has only string keys"))
}

/// The record of a message. `None`: a webhook has the key.
fn read(id: &MessageId, json: &str) -> Result<Option<Box<PublishedMessage>>, StoreError> {
    match Record::from_json(json).map_err(|source| StoreError::unreadable(id, source))? {
        Record::Message(message) => Ok(Some(message)),
        Record::Webhook(_) => Ok(None),
    }
}

/// The record of a message, where a webhook under the key is a fault.
fn parse(id: &MessageId, json: &str) -> Result<Box<PublishedMessage>, StoreError> {
    read(id, json)?.ok_or_else(|| StoreError::malformed(id, "a webhook has the ID"))
}
