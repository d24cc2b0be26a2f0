//! The records in the store of a world.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    applications::{
        application::Application,
        id::ApplicationId,
        message::PublishedMessage,
        standing::{Found, Standing},
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    model::{Content, InvalidRecord, SCHEMA, Webhook},
    status::Status,
    store::{
        Activity, DueId, ListPosition, Reservation, StoreError, SweepReport, TargetState, Tombstone,
    },
    traffic::target::TargetKey,
};

/// Everything that the store holds.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Direct webhooks, and deliveries with a record. The content of a delivery is its message's.
    pub(crate) webhooks: BTreeMap<ListPosition, (Webhook, Content)>,
    /// Published messages.
    pub(crate) published: BTreeMap<TaskId, (PublishedMessage, Content)>,
    /// Until when the marker of a delivery occupies its key.
    pub(crate) markers: BTreeMap<ListPosition, Timestamp>,
    pub(crate) applications: BTreeMap<ApplicationId, Application>,
    pub(crate) due: BTreeSet<(Timestamp, ListPosition)>,
    pub(crate) audited_until: Option<Timestamp>,
    pub(crate) report: Option<SweepReport>,
    pub(crate) reservations: BTreeMap<String, Reservation>,
    pub(crate) targets: BTreeMap<TargetKey, TargetState>,
    pub(crate) tombstones: BTreeMap<TaskId, Tombstone>,
    /// Webhooks that a newer version has written to.
    pub(crate) newer: BTreeSet<TaskId>,
    /// The same for deliveries.
    pub(crate) newer_deliveries: BTreeSet<ListPosition>,
    /// The totals that the functions added.
    pub(crate) totals: Activity,
}

impl Records {
    /// The stored record of a webhook, expired or not.
    pub(crate) fn stored(&self, id: &WebhookId) -> Option<&(Webhook, Content)> {
        self.webhooks.get(&ListPosition::of(id))
    }

    /// The stored record of the direct webhook with this task ID.
    pub(crate) fn direct(&self, task: TaskId) -> Option<&(Webhook, Content)> {
        self.webhooks.get(&ListPosition::at(task))
    }

    pub(crate) fn get(&self, id: &WebhookId, now: Timestamp) -> Option<&(Webhook, Content)> {
        self.stored(id).filter(|(webhook, _)| webhook.id == *id && !webhook.is_expired(now))
    }

    /// Like [`get`](Self::get). Fails if a newer version has written to the record.
    pub(crate) fn read(
        &self,
        id: &WebhookId,
        now: Timestamp,
    ) -> Result<Option<(Webhook, Content)>, StoreError> {
        if self.is_unreadable(ListPosition::of(id)) && self.stored(id).is_some() {
            return Err(too_new(id));
        }
        Ok(self.get(id, now).cloned())
    }

    /// Whether a newer version has written to the record under this key.
    pub(crate) fn is_unreadable(&self, position: ListPosition) -> bool {
        match position.endpoint {
            None => self.newer.contains(&position.task),
            Some(_) => self.newer_deliveries.contains(&position),
        }
    }

    /// Whether the world has applications.
    pub(crate) fn has_applications(&self) -> bool {
        !self.applications.is_empty()
    }

    pub(crate) fn put(&mut self, webhook: Webhook, content: Content) {
        let position = ListPosition::of(&webhook.id);
        self.remove(position);
        self.due.extend(webhook.due_at.map(|at| (at, position)));
        self.webhooks.insert(position, (webhook, content));
    }

    pub(crate) fn remove(&mut self, position: ListPosition) -> Option<Webhook> {
        let (webhook, _) = self.webhooks.remove(&position)?;
        if let Some(at) = webhook.due_at {
            self.due.remove(&(at, position));
        }
        Some(webhook)
    }

    /// The message with this ID, for readers and writers. An expired one exists as long as a
    /// delivery of it is unfinished or a dead letter.
    pub(crate) fn message(
        &self,
        id: &MessageId,
        now: Timestamp,
    ) -> Option<&(PublishedMessage, Content)> {
        let found = self.published.get(&id.task)?;
        let exists = !found.0.is_expired(now) || self.has_open_delivery(id.task, now);
        Some(found).filter(|(message, _)| message.id == *id && exists)
    }

    /// Whether a delivery of the message is unfinished or a dead letter.
    pub(crate) fn has_open_delivery(&self, task: TaskId, now: Timestamp) -> bool {
        self.deliveries(task)
            .any(|webhook| webhook.status != Status::Delivered && !webhook.is_expired(now))
    }

    /// The deliveries of a message that have a record, expired or not.
    pub(crate) fn deliveries(&self, task: TaskId) -> impl Iterator<Item = &Webhook> {
        let of_task = self.webhooks.range(ListPosition::at(task)..);
        let of_task = of_task.take_while(move |(position, _)| position.task == task);
        of_task.map(|(_, (webhook, _))| webhook).filter(|webhook| webhook.id.is_delivery())
    }

    pub(crate) fn put_message(&mut self, message: PublishedMessage, content: Content) {
        let task = message.id.task;
        self.remove_message(task);
        self.due.extend(message.due_at.map(|at| (at, ListPosition::at(task))));
        self.published.insert(task, (message, content));
    }

    pub(crate) fn remove_message(&mut self, task: TaskId) -> Option<PublishedMessage> {
        let (message, _) = self.published.remove(&task)?;
        if let Some(at) = message.due_at {
            self.due.remove(&(at, ListPosition::at(task)));
        }
        Some(message)
    }

    /// What occupies the key of a delivery.
    pub(crate) fn occupant(&self, position: ListPosition, now: Timestamp) -> Option<Found> {
        let marker = self.markers.get(&position);
        let record = self.webhooks.get(&position).map(|(webhook, _)| match webhook {
            _ if self.is_unreadable(position) => Found::Unreadable,
            // Nothing takes its place until a purge has removed it: a clock may be ahead.
            webhook if webhook.is_expired(now) => Found::Expired,
            webhook => Found::Record(Box::new(webhook.clone())),
        });
        record.or(marker.map(|_| Found::Marker))
    }

    /// The message and the keys of its deliveries.
    pub(crate) fn standing(
        &self,
        message: &PublishedMessage,
        audited_until: Option<Timestamp>,
        now: Timestamp,
    ) -> Standing {
        let task = message.id.task;
        let stored = self.deliveries(task).map(|webhook| ListPosition::of(&webhook.id));
        let markers = self.markers.range(ListPosition::at(task)..).map(|(position, _)| *position);
        let markers = markers.take_while(|position| position.task == task);
        let found = stored
            .chain(markers)
            .filter_map(|position| Some((position.endpoint?, self.occupant(position, now)?)));
        Standing { message: message.clone(), found: found.collect(), audited_until }
    }

    /// What an entry of the due index names.
    pub(crate) fn named(&self, position: ListPosition) -> Option<DueId> {
        if let Some((webhook, _)) = self.webhooks.get(&position) {
            return Some(DueId::Webhook(webhook.id.clone()));
        }
        let message = position.endpoint.is_none().then(|| self.published.get(&position.task));
        message.flatten().map(|(message, _)| DueId::Message(message.id.clone()))
    }
}

pub(crate) fn too_new(id: &WebhookId) -> StoreError {
    StoreError::unreadable(id, InvalidRecord::TooNew { found: SCHEMA + 1 })
}

/// Whether nothing but a queue message or a worker holds the webhook.
pub(crate) fn is_at_large(webhook: &Webhook) -> bool {
    !webhook.status.is_finished() && webhook.due_at.is_none()
}

/// The name of a webhook in traces and messages: the last digits of its task ID.
pub(crate) fn short(webhook: &Webhook) -> String {
    short_id(&webhook.id)
}

/// The same for an ID.
pub(crate) fn short_id(id: &WebhookId) -> String {
    let task = last(&id.task.to_string(), 6);
    match id.endpoint {
        None => format!("webhook …{task}"),
        Some(endpoint) => format!("delivery …{task}.{}", last(&endpoint.to_string(), 4)),
    }
}

/// The same for a message.
pub(crate) fn short_message(id: &MessageId) -> String {
    format!("message …{}", last(&id.task.to_string(), 6))
}

fn last(text: &str, count: usize) -> String {
    text[text.len() - count..].to_owned()
}
