//! The records in the store of a world.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::{Content, InvalidRecord, SCHEMA, Webhook},
    store::{Activity, Reservation, StoreError, SweepReport, TargetState, Tombstone},
    traffic::target::TargetKey,
};

/// Everything that the store holds.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) webhooks: BTreeMap<TaskId, (Webhook, Content)>,
    pub(crate) due: BTreeSet<(Timestamp, TaskId)>,
    pub(crate) audited_until: Option<Timestamp>,
    pub(crate) report: Option<SweepReport>,
    pub(crate) reservations: BTreeMap<String, Reservation>,
    pub(crate) targets: BTreeMap<TargetKey, TargetState>,
    pub(crate) tombstones: BTreeMap<TaskId, Tombstone>,
    /// Webhooks that a newer version has written to.
    pub(crate) newer: BTreeSet<TaskId>,
    /// The totals that the functions added.
    pub(crate) totals: Activity,
}

impl Records {
    pub(crate) fn get(&self, id: &WebhookId, now: Timestamp) -> Option<&(Webhook, Content)> {
        self.webhooks
            .get(&id.task)
            .filter(|(webhook, _)| webhook.id == *id && !webhook.is_expired(now))
    }

    /// Like [`get`](Self::get). Fails if a newer version has written to the record.
    pub(crate) fn read(
        &self,
        id: &WebhookId,
        now: Timestamp,
    ) -> Result<Option<(Webhook, Content)>, StoreError> {
        if self.newer.contains(&id.task) && self.webhooks.contains_key(&id.task) {
            return Err(too_new(id));
        }
        Ok(self.get(id, now).cloned())
    }

    pub(crate) fn put(&mut self, webhook: Webhook, content: Content) {
        let task = webhook.id.task;
        self.remove(task);
        self.due.extend(webhook.due_at.map(|at| (at, task)));
        self.webhooks.insert(task, (webhook, content));
    }

    pub(crate) fn remove(&mut self, task: TaskId) -> Option<Webhook> {
        let (webhook, _) = self.webhooks.remove(&task)?;
        if let Some(at) = webhook.due_at {
            self.due.remove(&(at, task));
        }
        Some(webhook)
    }
}

pub(crate) fn too_new(id: &WebhookId) -> StoreError {
    StoreError::unreadable(id, InvalidRecord::TooNew { found: SCHEMA + 1 })
}

/// The name of a webhook in traces and messages: the last digits of its task ID.
pub(crate) fn short(webhook: &Webhook) -> String {
    short_id(&webhook.id)
}

/// The same for an ID.
pub(crate) fn short_id(id: &WebhookId) -> String {
    let text = id.task.to_string();
    format!("webhook …{}", &text[text.len() - 6..])
}
