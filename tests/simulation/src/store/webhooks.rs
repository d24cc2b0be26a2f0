//! The records of webhooks.

use async_trait::async_trait;
use shared::{
    applications::{message::KEY_OCCUPIED, standing::Found},
    clock::Timestamp,
    id::WebhookId,
    model::{Content, Webhook},
    planted::{self, Bug},
    store::{
        CreateError, DeleteError, IdState, ListPosition, StoreError, Tombstone, Webhooks,
        WriteError,
    },
    transition::Rules,
};

use super::messages::mark;
use crate::{
    state::{
        State,
        records::{short, too_new},
    },
    world::{Process, Services},
};

impl Services {
    /// Makes a conditional write. Returns the content of the webhook.
    async fn replace(&self, before: &Webhook, after: &Webhook) -> Result<Content, WriteError> {
        let (revision, after) = (before.revision, after.clone());
        let written = self
            .call("write", move |state, process| write(state, process, revision, &after))
            .await?;
        if written.is_err() {
            self.0.note_failure();
        }
        written
    }
}

fn write(
    state: &mut State,
    process: &Process,
    revision: u64,
    after: &Webhook,
) -> Result<Content, WriteError> {
    let Some((stored, content)) = state.records.read(&after.id, process.local_now())? else {
        return first_write(state, process, revision, after);
    };
    if stored == *after {
        state.checks.identical_writes += 1;
        return Ok(content);
    }
    if stored.revision != revision {
        state
            .note(process, || format!("write of {} refused: the record has changed", short(after)));
        return Err(WriteError::Conflict(Box::new(stored)));
    }
    state.note(process, || format!("writes {}", describe_write(&stored, after)));
    let now = state.now();
    state.checks.written(process, &stored, after, &state.destinations, &state.records, now);
    state.records.put(after.clone(), content.clone());
    state.delivery_written(process, after);
    Ok(content)
}

/// Writes the first record of a delivery, from revision 0, if its key is vacant.
fn first_write(
    state: &mut State,
    process: &Process,
    revision: u64,
    after: &Webhook,
) -> Result<Content, WriteError> {
    let (now, position) = (process.local_now(), ListPosition::of(&after.id));
    let message_id = after.id.message_id().filter(|_| revision == 0);
    let message = message_id.and_then(|id| state.records.message(&id, now));
    let Some((message, content)) = message.cloned() else { return Err(WriteError::Missing) };
    let mut found = state.records.occupant(position, now);
    if planted::is(Bug::FirstWriteUnconditional) {
        found = None;
    }
    if let Some(found) = found {
        state.note(process, || {
            let found = if found == Found::Marker { "a marker" } else { "an expired record" };
            format!("first write of {} refused by {found}", short(after))
        });
        return Err(WriteError::Missing);
    }
    let endpoint = after.id.endpoint;
    let unstarted = endpoint.and_then(|endpoint| Rules::delivery(&message, endpoint));
    state.delivery_begun(process, &message, unstarted.as_ref(), after);
    let Some(unstarted) = unstarted else { return Err(WriteError::Missing) };
    state.note(process, || format!("first writes {}", describe_write(&unstarted, after)));
    state.checks.written(process, &unstarted, after, &state.destinations, &state.records, now);
    state.records.put(after.clone(), content.clone());
    state.delivery_written(process, after);
    Ok(content)
}

fn describe_write(stored: &Webhook, after: &Webhook) -> String {
    let step = after.history.last().map_or("?", |step| step.transition.as_str());
    let times = |webhook: &Webhook| {
        let shown = |time: Option<Timestamp>| {
            time.map_or("-".to_owned(), |at| {
                format!("{at}").split('T').next_back().unwrap_or("").to_owned()
            })
        };
        format!("allowed {} due {}", shown(webhook.allowed_at), shown(webhook.due_at))
    };
    format!(
        "{}: {step}, {} -> {}, attempt {}, {}",
        short(after),
        stored.status,
        after.status,
        after.attempt_count,
        times(after)
    )
}

fn delete(
    state: &mut State,
    process: &Process,
    id: &WebhookId,
    revision: Option<u64>,
) -> Result<(), DeleteError> {
    let now = process.local_now();
    let Some((stored, _)) = state.records.get(id, now).cloned() else {
        return delete_unstarted(state, process, id, revision);
    };
    if revision.is_some_and(|revision| revision != stored.revision) {
        return Err(DeleteError::Changed);
    }
    state.note(process, || format!("deletes {}, {}", short(&stored), stored.status));
    state.checks.deleted(process, &stored);
    if id.is_delivery() {
        let from = stored.allowed_at.unwrap_or(now).max(now);
        mark(state, process, id, from.plus(KEY_OCCUPIED));
        return Ok(());
    }
    state.records.remove(ListPosition::of(id));
    state.records.tombstones.insert(id.task, Tombstone::Deleted);
    Ok(())
}

/// Puts the marker of a delivery that has no record, if the caller saw it so.
fn delete_unstarted(
    state: &mut State,
    process: &Process,
    id: &WebhookId,
    revision: Option<u64>,
) -> Result<(), DeleteError> {
    let now = process.local_now();
    let message_id = id.message_id().filter(|_| revision == Some(0));
    let message = message_id.and_then(|id| state.records.message(&id, now));
    let unstarted = message.zip(id.endpoint).and_then(|((message, _), endpoint)| {
        let vacant = state.records.occupant(ListPosition::of(id), now).is_none();
        Rules::delivery(message, endpoint).filter(|_| vacant)
    });
    let Some(unstarted) = unstarted else { return Err(DeleteError::Missing) };
    state.note(process, || format!("deletes {}, which has no record", short(&unstarted)));
    state.checks.deleted(process, &unstarted);
    let from = unstarted.allowed_at.unwrap_or(now).max(now);
    mark(state, process, id, from.plus(KEY_OCCUPIED));
    Ok(())
}

#[async_trait]
impl Webhooks for Services {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        let (webhook, content) = (webhook.clone(), content.clone());
        let created = move |state: &mut State, process: &Process| {
            if state.records.newer.contains(&webhook.id.task) {
                return Err(too_new(&webhook.id).into());
            }
            if let Some((stored, _)) = state.records.direct(webhook.id.task) {
                return Err(CreateError::Conflict(Box::new(stored.clone())));
            }
            if state.records.published.contains_key(&webhook.id.task) {
                return Err(too_new(&webhook.id).into());
            }
            if let Some(why) = state.records.tombstones.get(&webhook.id.task).copied() {
                state.note(process, || {
                    format!("is refused to create {}: {}", short(&webhook), why.as_str())
                });
                return Err(CreateError::Tombstone(why));
            }
            state.note(process, || format!("creates {}", short(&webhook)));
            state.checks.created(process, &webhook, &content, state.records.audited_until);
            state.records.put(webhook, content);
            Ok(())
        };
        self.call("create", created).await?
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        let (task, id) = (id.task, id.clone());
        let tombstone_id = move |state: &mut State, process: &Process| {
            if state.records.newer.contains(&task) {
                return Err(too_new(&id));
            }
            if state.records.published.contains_key(&task) {
                return Err(too_new(&id));
            }
            if let Some((webhook, _)) = state.records.direct(task) {
                return Ok(IdState::Webhook(Box::new(webhook.clone())));
            }
            let why = *state.records.tombstones.entry(task).or_insert(Tombstone::Unused);
            state.note(process, || {
                format!("writes a tombstone for an id that was {}", why.as_str())
            });
            Ok(IdState::Tombstone(why))
        };
        self.call("tombstone_id", tombstone_id).await?
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let id = id.clone();
        let found = move |state: &mut State, process: &Process| {
            state
                .records
                .read(&id, process.local_now())
                .map(|found| found.map(|(webhook, _)| webhook))
        };
        self.call("get", found).await?
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        let id = id.clone();
        self.call("open", move |state, process| state.records.read(&id, process.local_now()))
            .await?
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.replace(before, after).await.map(drop)
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        self.replace(before, after).await
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        let id = id.clone();
        self.call("delete", move |state, process| delete(state, process, &id, None)).await?
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        let (id, revision) = (seen.id.clone(), seen.revision);
        self.call("delete", move |state, process| delete(state, process, &id, Some(revision)))
            .await?
    }
}
