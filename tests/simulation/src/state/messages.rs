//! The messages in the queue of a world.

use std::{collections::BTreeMap, time::Duration};

use shared::{
    clock::Timestamp,
    id::WebhookId,
    message::Look,
    queue::{Lane, Outgoing},
    store::DueId,
};

/// A message of a newer version.
pub(crate) const NEWER: &str = r#"{"v":9,"look":"elsewhere"}"#;

/// The messages of both lanes.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) waiting: BTreeMap<u64, Waiting>,
    last: u64,
    /// The number of messages that were sent to the webhook lane.
    pub(crate) taken: u64,
}

/// A message, visible or hidden.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) lane: Lane,
    pub(crate) body: String,
    /// What it is a look at.
    pub(crate) looks_at: Option<DueId>,
    pub(crate) visible_at: Timestamp,
    pub(crate) sent_at: Timestamp,
    pub(crate) receives: u32,
}

impl Messages {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds a message that no function sent.
    pub(crate) fn plant(&mut self, lane: Lane, body: &str, now: Timestamp) {
        let message =
            Outgoing { body: body.to_owned(), delay: Duration::ZERO, group: String::new() };
        self.put(lane, &message, Duration::ZERO, now);
    }

    /// Removes the messages of the newer version. Returns their number.
    pub(crate) fn take_newer(&mut self) -> u64 {
        let before = self.waiting.len();
        self.waiting.retain(|_, message| message.body != NEWER);
        (before - self.waiting.len()) as u64
    }

    /// The number of messages of the lane, visible or hidden.
    pub(crate) fn in_lane(&self, lane: Lane) -> usize {
        self.waiting.values().filter(|message| message.lane == lane).count()
    }

    /// Whether there is a message for this webhook.
    pub(crate) fn has_message_for(&self, id: &WebhookId) -> bool {
        let is_for = |looks_at: &DueId| *looks_at == *id;
        self.waiting.values().any(|message| message.looks_at.as_ref().is_some_and(is_for))
    }

    /// When the next message of the lane becomes visible.
    pub(crate) fn next_visible(&self, lane: Lane) -> Option<Timestamp> {
        self.waiting
            .values()
            .filter(|message| message.lane == lane)
            .map(|message| message.visible_at)
            .min()
    }

    pub(crate) fn put(&mut self, lane: Lane, message: &Outgoing, delay: Duration, now: Timestamp) {
        self.last += 1;
        let looks_at = Look::from_json(&message.body).ok().map(|look| match look {
            Look::Webhook(message) => DueId::Webhook(message.webhook_id),
            Look::Message(id) => DueId::Message(id),
        });
        let visible_at = now.plus(delay);
        let waiting = Waiting {
            lane,
            body: message.body.clone(),
            looks_at,
            visible_at,
            sent_at: now,
            receives: 0,
        };
        self.waiting.insert(self.last, waiting);
    }

    pub(crate) fn restore(&mut self, number: u64, visible_at: Timestamp) {
        if let Some(message) = self.waiting.get_mut(&number) {
            message.visible_at = visible_at;
        }
    }
}
