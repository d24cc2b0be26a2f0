//! The store: the contract of [`shared::store`] over ordered maps. Its calls can fail, be slow, or
//! take effect after their caller has died.
//!
//! | module | contents |
//! |---|---|
//! | `calls` | a call of the store, with its faults |
//! | `webhooks`, `lists`, `sweep_state`, `idempotency_keys`, `totals` | the traits of the store |

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
    clock::Timestamp,
    model::Webhook,
    store::{DiskUsage, Store, StoreError},
};

use crate::{
    state::{State, records::short},
    world::{Process, Services},
};

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
                webhooks.filter(|webhook| webhook.is_expired(until)).cloned().collect();
            let now = state.now();
            for webhook in expired {
                state.note(process, || format!("purges {}", short(&webhook)));
                state.checks.purged(process, &webhook, now);
                state.records.remove(webhook.id.task);
            }
        };
        self.call("maintain", purge).await
    }
}
