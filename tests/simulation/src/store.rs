//! The store: the contract of [`shared::store`] over ordered maps. Its calls can fail, be slow, or
//! take effect after their caller has died.
//!
//! | module | contents |
//! |---|---|
//! | `calls` | a call of the store, with its faults |
//! | `webhooks`, `messages`, `applications`, `lists`, `sweep_state`, `idempotency_keys`,
//! `targets`, `totals` | the traits of the store |

mod applications;
mod calls;
mod idempotency_keys;
mod lists;
mod messages;
mod sweep_state;
mod targets;
mod totals;
mod webhooks;

use async_trait::async_trait;
use shared::{
    applications::message::{PublishedMessage, occupied_until},
    clock::Timestamp,
    model::Webhook,
    store::{DiskUsage, ListPosition, Store, StoreError},
};

use crate::{
    state::{
        State,
        records::{short, short_message},
    },
    world::{Process, Services},
};

/// Whether the record has expired and, if it is a delivery's, no longer occupies its key.
fn is_over(webhook: &Webhook, until: Timestamp) -> bool {
    let over_at = webhook.expires_at.map(|at| match webhook.id.endpoint {
        Some(_) => occupied_until(at),
        None => at,
    });
    over_at.is_some_and(|at| at <= until)
}

/// Purges markers and messages. A message stays as long as a delivery of it is unfinished or a dead
/// letter.
fn purge_messages(state: &mut State, process: &Process, until: Timestamp) {
    state.records.markers.retain(|_, marked_until| *marked_until > until);
    let messages = state.records.published.values().map(|(message, _)| message);
    let expired = messages.filter(|message| message.is_expired(until));
    let over = expired.filter(|message| !state.records.has_open_delivery(message.id.task, until));
    let over: Vec<PublishedMessage> = over.cloned().collect();
    for message in over {
        state.note(process, || format!("purges {}", short_message(&message.id)));
        state.message_purged(process, &message);
        state.records.remove_message(message.id.task);
    }
}

#[async_trait]
impl Store for Services {
    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", |_, _| ()).await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        Ok(None)
    }

    async fn maintain(&self, _: Timestamp, _: Timestamp) -> Result<(), StoreError> {
        let Some(until) = self.0.world.horizon.look(self) else { return Ok(()) };
        let purge = move |state: &mut State, process: &Process| {
            let webhooks = state.records.webhooks.values().map(|(webhook, _)| webhook);
            let expired: Vec<Webhook> =
                webhooks.filter(|webhook| is_over(webhook, until)).cloned().collect();
            let now = state.now();
            for webhook in expired {
                state.note(process, || format!("purges {}", short(&webhook)));
                state.checks.purged(process, &webhook, now);
                state.records.remove(ListPosition::of(&webhook.id));
            }
            purge_messages(state, process, until);
        };
        self.call("maintain", purge).await
    }
}
