//! A panic over one webhook, which is a bug in Posthaste, stops the work on that webhook only.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    id::WebhookId,
    message::Message,
    model::Webhook,
    queue::Lane,
    store::{Store, StoreError},
};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::World,
};

/// A store that panics over one webhook.
#[derive(Debug)]
struct Panicking {
    over: WebhookId,
    /// Whether it panics at reads or at writes.
    at_reads: bool,
}

#[async_trait]
impl Interceptor for Panicking {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        let panics = match call {
            Call::Read(id) => self.at_reads && *id == self.over,
            Call::Write(webhook) => !self.at_reads && webhook.id == self.over,
            _ => false,
        };
        assert!(!panics, "on purpose");
        Ok(())
    }
}

fn panicking(inner: Arc<dyn Store>, over: WebhookId, at_reads: bool) -> Arc<dyn Store> {
    Arc::new(Intercepted { inner, interceptor: Arc::new(Panicking { over, at_reads }) })
}

/// Three webhooks, and a store that panics over the first of them. The second value is the store
/// without the panics.
async fn unlucky(at_reads: bool) -> (World, Arc<dyn Store>, Vec<Webhook>) {
    let mut world = World::new();
    let webhooks = vec![world.accepted().await, world.accepted().await, world.accepted().await];
    let inner = Arc::clone(&world.context.store);
    let over = webhooks[0].id.clone();
    world.context.store = panicking(Arc::clone(&inner), over, at_reads);
    (world, inner, webhooks)
}

#[tokio::test]
async fn dlq_hands_back_the_message_over_which_it_panicked_and_no_other() {
    for at_reads in [true, false] {
        let (world, _, webhooks) = unlucky(at_reads).await;
        for webhook in &webhooks {
            world.send(Lane::DeadLetters, &Message::look_at(webhook.id.clone()).to_json()).await;
        }
        let back = world.run_dlq().await;
        let back: Vec<WebhookId> =
            back.iter().map(|one| Message::from_json(&one.body).unwrap().webhook_id).collect();
        assert_eq!(back, [webhooks[0].id.clone()]);
        for webhook in &webhooks[1..] {
            assert!(world.stored(webhook).await.due_at.is_some(), "rescued");
        }
    }
}

#[tokio::test]
async fn the_sweep_continues_with_the_others() {
    for at_reads in [true, false] {
        let (world, inner, webhooks) = unlucky(at_reads).await;
        world.clock.advance(Duration::from_secs(20 * 60));
        let audited = world.run_sweep().await.adopted;
        assert_eq!(audited, if at_reads { 3 } else { 2 }, "the audit reads no single webhook");
        for webhook in &webhooks {
            let stored = inner.get(&webhook.id).await.unwrap().unwrap();
            if stored.due_at.is_none() {
                let held = world.context.rules.audit(&stored, world.now()).unwrap();
                inner.write(&stored, &held).await.unwrap();
            }
        }
        world.clock.advance(Duration::from_secs(20 * 60));
        assert_eq!(world.run_sweep().await.requeued, 2);
        for webhook in &webhooks[1..] {
            assert_eq!(inner.get(&webhook.id).await.unwrap().unwrap().budget.requeues, 1);
        }
    }
}

/// One webhook's panic does not stop the sweep from taking back the times that a clock which was
/// ahead has written. The next run takes back that webhook's. Tested with webhooks in the due index
/// and with ones outside it.
#[tokio::test]
async fn the_sweep_takes_back_the_times_of_the_others() {
    let month = Duration::from_secs(30 * 24 * 3600);
    for is_indexed in [true, false] {
        for at_reads in [true, false] {
            let mut world = World::new();
            world.run_sweep().await;
            world.clock.set_ahead(month);
            let webhooks =
                vec![world.accepted().await, world.accepted().await, world.accepted().await];
            if is_indexed {
                for webhook in &webhooks {
                    let held = world.context.rules.audit(webhook, world.now()).unwrap();
                    world.put(webhook, held).await;
                }
                world.run_sweep().await;
            }
            world.clock.set_ahead(Duration::ZERO);
            let inner = Arc::clone(&world.context.store);
            let over = webhooks[0].id.clone();
            world.context.store = panicking(Arc::clone(&inner), over, at_reads);
            // Webhooks outside the due index are listed, not read one by one.
            let expected = if at_reads && !is_indexed { 3 } else { 2 };
            let summary = world.run_sweep().await;
            assert_eq!(summary.taken_back, expected, "{is_indexed} {at_reads} {summary:?}");

            world.context.store = inner;
            let summary = world.run_sweep().await;
            assert_eq!(summary.taken_back, 3 - expected, "{is_indexed} {at_reads} {summary:?}");
            let report = world.context.store.last_sweep().await.unwrap().unwrap();
            assert!(report.clock_fault.unwrap().left.is_none(), "{is_indexed} {at_reads}");
        }
    }
}
