//! The contract of [`Messages`].

use async_trait::async_trait;
use serde_json::value::RawValue;
use shared::{
    applications::{message::PublishedMessage, standing::Standing},
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, InvalidRecord, SCHEMA},
    planted::{self, Bug},
    store::{
        CreateMessageError, DeleteError, ListPosition, MAX_READ, MessageFilter, MessageIdState,
        Messages, Page, StoreError, StoredDelivery, Tombstone, WriteMessageError,
    },
};

use crate::{
    state::{
        State,
        records::{short_id, short_message},
    },
    world::{Process, Services},
};

/// The record under this task ID is a webhook's.
fn is_webhook(id: &MessageId) -> StoreError {
    let found = InvalidRecord::TooNew { found: SCHEMA + 1 };
    StoreError::unreadable(WebhookId::direct(id.reference.clone(), id.task), found)
}

fn create(
    state: &mut State,
    process: &Process,
    message: PublishedMessage,
    content: Content,
) -> Result<(), CreateMessageError> {
    let task = message.id.task;
    if state.records.direct(task).is_some() {
        return Err(is_webhook(&message.id).into());
    }
    if let Some((stored, _)) = state.records.published.get(&task) {
        return Err(CreateMessageError::Conflict(Box::new(stored.clone())));
    }
    if let Some(why) = state.records.tombstones.get(&task).copied() {
        let name = short_message(&message.id);
        state.note(process, || format!("is refused to create {name}: {}", why.as_str()));
        return Err(CreateMessageError::Tombstone(why));
    }
    state.note(process, || {
        let (planned, off) = (message.plan.len(), message.off.len());
        format!("creates {} with {planned} endpoints, {off} off", short_message(&message.id))
    });
    state.message_created(process, &message, &content);
    state.records.put_message(message, content);
    Ok(())
}

fn write(
    state: &mut State,
    process: &Process,
    revision: u64,
    after: PublishedMessage,
) -> Result<(), WriteMessageError> {
    let now = process.local_now();
    let found = state.records.message(&after.id, now).cloned();
    if planted::is(Bug::SettleUnconditional) && after.settled as usize == after.plan.len() {
        let (stored, content) = found.unwrap_or_else(|| (after.clone(), no_content()));
        state.message_written(process, &stored, &after);
        state.records.put_message(after, content);
        return Ok(());
    }
    let Some((stored, content)) = found else { return Err(WriteMessageError::Missing) };
    if stored == after {
        return Ok(());
    }
    if stored.revision != revision {
        let name = short_message(&after.id);
        state.note(process, || format!("write of {name} refused: the record has changed"));
        return Err(WriteMessageError::Conflict(Box::new(stored)));
    }
    state.note(process, || describe_write(&stored, &after));
    state.message_written(process, &stored, &after);
    state.records.put_message(after, content);
    Ok(())
}

/// The content of a message that was deleted.
fn no_content() -> Content {
    Content { url: String::new(), headers: Vec::new(), payload: RawValue::NULL.to_owned() }
}

fn describe_write(stored: &PublishedMessage, after: &PublishedMessage) -> String {
    let shown = |time: Option<Timestamp>| time.map_or("-".to_owned(), |at| at.to_string());
    format!(
        "writes {}: settled {} -> {}, due {} -> {}{}",
        short_message(&after.id),
        stored.settled,
        after.settled,
        shown(stored.due_at),
        shown(after.due_at),
        if after.deleting { ", deleting" } else { "" },
    )
}

fn delete(
    state: &mut State,
    process: &Process,
    id: &MessageId,
    revision: u64,
) -> Result<(), DeleteError> {
    let Some((stored, _)) = state.records.message(id, process.local_now()) else {
        return Err(DeleteError::Missing);
    };
    if stored.revision != revision {
        return Err(DeleteError::Changed);
    }
    let stored = stored.clone();
    state.note(process, || format!("deletes {}", short_message(id)));
    state.message_deleted(process, &stored);
    state.records.remove_message(id.task);
    state.records.tombstones.insert(id.task, Tombstone::Deleted);
    Ok(())
}

/// Puts a marker in place of the delivery's record, until this time or that of an earlier marker.
pub(super) fn mark(state: &mut State, process: &Process, id: &WebhookId, until: Timestamp) {
    let position = ListPosition::of(id);
    state.note(process, || format!("puts the marker of {}", short_id(id)));
    state.delivery_marked(process, id);
    state.records.remove(position);
    let marker = state.records.markers.entry(position).or_insert(until);
    *marker = until.max(*marker);
    if planted::is(Bug::MarkerForgotten) {
        state.records.markers.remove(&position);
    }
}

#[async_trait]
impl Messages for Services {
    async fn create_message(
        &self,
        message: &PublishedMessage,
        content: &Content,
    ) -> Result<(), CreateMessageError> {
        let (message, content) = (message.clone(), content.clone());
        let created =
            move |state: &mut State, process: &Process| create(state, process, message, content);
        self.call("create_message", created).await?
    }

    async fn tombstone_message_id(&self, id: &MessageId) -> Result<MessageIdState, StoreError> {
        let id = id.clone();
        let tombstone = move |state: &mut State, process: &Process| {
            if state.records.direct(id.task).is_some() {
                return Err(is_webhook(&id));
            }
            if let Some((message, _)) = state.records.published.get(&id.task) {
                return Ok(MessageIdState::Message(Box::new(message.clone())));
            }
            let why = *state.records.tombstones.entry(id.task).or_insert(Tombstone::Unused);
            state.note(process, || {
                format!("writes a tombstone for an id that was {}", why.as_str())
            });
            Ok(MessageIdState::Tombstone(why))
        };
        self.call("tombstone_message_id", tombstone).await?
    }

    async fn message(&self, id: &MessageId) -> Result<Option<PublishedMessage>, StoreError> {
        Ok(self.open_message(id).await?.map(|(message, _)| message))
    }

    async fn open_message(
        &self,
        id: &MessageId,
    ) -> Result<Option<(PublishedMessage, Content)>, StoreError> {
        let id = id.clone();
        self.call("open_message", move |state, process| {
            state.records.message(&id, process.local_now()).cloned()
        })
        .await
    }

    async fn write_message(
        &self,
        before: &PublishedMessage,
        after: &PublishedMessage,
    ) -> Result<(), WriteMessageError> {
        let (revision, after) = (before.revision, after.clone());
        let written = self
            .call("write_message", move |state, process| write(state, process, revision, after))
            .await?;
        if written.is_err() {
            self.0.note_failure();
        }
        written
    }

    async fn delivery(&self, id: &WebhookId) -> Result<Option<StoredDelivery>, StoreError> {
        let Some(message_id) = id.message_id() else { return Ok(None) };
        let position = ListPosition::of(id);
        self.call("delivery", move |state, process| {
            let now = process.local_now();
            let (message, _) = state.records.message(&message_id, now)?;
            let found = state.records.occupant(position, now);
            Some(StoredDelivery { message: message.clone(), found })
        })
        .await
    }

    async fn standing(&self, id: &MessageId) -> Result<Option<Standing>, StoreError> {
        let audited_until =
            self.call("audited_until", |state, _| state.records.audited_until).await?;
        let id = id.clone();
        self.call("standing", move |state, process| {
            let now = process.local_now();
            let (message, _) = state.records.message(&id, now)?;
            Some(state.records.standing(message, audited_until, now))
        })
        .await
    }

    async fn put_marker(&self, id: &WebhookId, until: Timestamp) -> Result<(), StoreError> {
        let id = id.clone();
        self.call("put_marker", move |state, process| mark(state, process, &id, until)).await
    }

    async fn delete_message(&self, seen: &PublishedMessage) -> Result<(), DeleteError> {
        let (id, revision) = (seen.id.clone(), seen.revision);
        self.call("delete_message", move |state, process| delete(state, process, &id, revision))
            .await?
    }

    async fn list_messages(
        &self,
        filter: &MessageFilter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<PublishedMessage, TaskId>, StoreError> {
        let filter = filter.clone();
        let page = move |state: &mut State, process: &Process| {
            let now = process.local_now();
            let all = state.records.published.values().rev().map(|(message, _)| message);
            let known = all.filter(|message| {
                after.is_none_or(|after| message.id.task < after)
                    && state.records.message(&message.id, now).is_some()
            });
            let wanted = known.filter(|message| filter.matches(message));
            let limit = limit.min(MAX_READ);
            let mut items: Vec<PublishedMessage> = wanted.take(limit + 1).cloned().collect();
            let more = items.len() > limit;
            items.truncate(limit);
            Page { next: items.last().filter(|_| more).map(|last| last.id.task), items }
        };
        self.call("list_messages", page).await
    }
}
