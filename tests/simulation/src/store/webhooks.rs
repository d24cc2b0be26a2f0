//! The records of webhooks.

use async_trait::async_trait;
use shared::{
    clock::Timestamp,
    id::WebhookId,
    model::{Content, Webhook},
    store::{CreateError, DeleteError, IdState, StoreError, Tombstone, Webhooks, WriteError},
};

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
            .call("write", move |state, process| write(state, process, revision, after))
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
    after: Webhook,
) -> Result<Content, WriteError> {
    let Some((stored, content)) = state.records.read(&after.id, process.local_now())? else {
        return Err(WriteError::Missing);
    };
    if stored == after {
        state.checks.identical_writes += 1;
        return Ok(content);
    }
    if stored.revision != revision {
        state.note(process, || {
            format!("write of {} refused: the record has changed", short(&after))
        });
        return Err(WriteError::Conflict(Box::new(stored)));
    }
    state.note(process, || format!("writes {}", describe_write(&stored, &after)));
    let now = state.now();
    state.checks.written(process, &stored, &after, &state.destinations, &state.records, now);
    state.records.put(after, content.clone());
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
    let Some((stored, _)) = state.records.get(id, process.local_now()).cloned() else {
        return Err(DeleteError::Missing);
    };
    if revision.is_some_and(|revision| revision != stored.revision) {
        return Err(DeleteError::Changed);
    }
    state.note(process, || format!("deletes {}, {}", short(&stored), stored.status));
    state.checks.deleted(process, &stored);
    state.records.remove(id.task);
    state.records.tombstones.insert(id.task, Tombstone::Deleted);
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
            if let Some((stored, _)) = state.records.webhooks.get(&webhook.id.task) {
                return Err(CreateError::Conflict(Box::new(stored.clone())));
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
            if let Some((webhook, _)) = state.records.webhooks.get(&task) {
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
