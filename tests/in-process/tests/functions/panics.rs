//! A panic over one webhook, which is a bug in Posthaste, stops the work on that webhook only.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    circuit::Circuit,
    clock::Timestamp,
    id::{ReferenceId, TaskId, WebhookId},
    message::Message,
    model::{Content, Webhook},
    queue::Lane,
    status::Status,
    store::{
        Activity, AdvanceAuditError, CreateError, DeadLetterPosition, DeadLetters, DeleteError,
        DestinationTotals, DiskUsage, DueCursor, DuePage, Filter, IdState, IdempotencyKeys, Listed,
        Lists, Page, ReplaceReservationError, Reservation, ReserveError, Store, StoreError,
        StoredReservation, SweepReport, SweepState, Totals, Webhooks, WriteCircuitError,
        WriteError,
    },
};

use crate::world::World;

/// A store that panics over one webhook.
#[derive(Debug)]
struct Panicking {
    inner: Arc<dyn Store>,
    over: WebhookId,
    /// Whether it panics at reads or at writes.
    at_reads: bool,
}

impl Panicking {
    fn check(&self, id: &WebhookId, is_read: bool) {
        assert!(*id != self.over || is_read != self.at_reads, "on purpose");
    }
}

#[async_trait]
impl Store for Panicking {
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        self.inner.warnings().await
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, StoreError> {
        self.inner.disk_usage().await
    }

    async fn maintain(&self, now: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        self.inner.maintain(now, until).await
    }
}

#[async_trait]
impl Webhooks for Panicking {
    async fn create(&self, webhook: &Webhook, content: &Content) -> Result<(), CreateError> {
        self.inner.create(webhook, content).await
    }

    async fn tombstone_id(&self, id: &WebhookId) -> Result<IdState, StoreError> {
        self.inner.tombstone_id(id).await
    }

    async fn get(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        self.check(id, true);
        self.inner.get(id).await
    }

    async fn open(&self, id: &WebhookId) -> Result<Option<(Webhook, Content)>, StoreError> {
        self.inner.open(id).await
    }

    async fn write(&self, before: &Webhook, after: &Webhook) -> Result<(), WriteError> {
        self.check(&before.id, false);
        self.inner.write(before, after).await
    }

    async fn write_and_open(
        &self,
        before: &Webhook,
        after: &Webhook,
    ) -> Result<Content, WriteError> {
        self.inner.write_and_open(before, after).await
    }

    async fn delete(&self, id: &WebhookId) -> Result<(), DeleteError> {
        self.inner.delete(id).await
    }

    async fn delete_unchanged(&self, seen: &Webhook) -> Result<(), DeleteError> {
        self.inner.delete_unchanged(seen).await
    }
}

#[async_trait]
impl Lists for Panicking {
    async fn list(
        &self,
        filter: &Filter,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Page<Listed, TaskId>, StoreError> {
        self.inner.list(filter, after, limit).await
    }

    async fn dead_letters(
        &self,
        reference: Option<&ReferenceId>,
        after: Option<DeadLetterPosition>,
        limit: usize,
    ) -> Result<DeadLetters, StoreError> {
        self.inner.dead_letters(reference, after, limit).await
    }

    async fn due(
        &self,
        until: Timestamp,
        after: Option<&DueCursor>,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.inner.due(until, after, limit).await
    }

    async fn list_unindexed(
        &self,
        from: Timestamp,
        until: Timestamp,
        after: Option<TaskId>,
    ) -> Result<Page<Webhook, TaskId>, StoreError> {
        self.inner.list_unindexed(from, until, after).await
    }

    async fn counts(&self) -> Result<[u64; Status::ALL.len()], StoreError> {
        self.inner.counts().await
    }
}

#[async_trait]
impl SweepState for Panicking {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.audited_until().await
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        self.inner.advance_audit(from, to).await
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        self.inner.report_sweep(report).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        self.inner.last_sweep().await
    }
}

#[async_trait]
impl IdempotencyKeys for Panicking {
    async fn reserve(
        &self,
        key: &str,
        reservation: &Reservation,
    ) -> Result<StoredReservation, ReserveError> {
        self.inner.reserve(key, reservation).await
    }

    async fn replace_reservation(
        &self,
        key: &str,
        before: &StoredReservation,
        after: &Reservation,
    ) -> Result<StoredReservation, ReplaceReservationError> {
        self.inner.replace_reservation(key, before, after).await
    }
}

#[async_trait]
impl Totals for Panicking {
    async fn add_activity(&self, activity: &Activity, now: Timestamp) -> Result<(), StoreError> {
        self.inner.add_activity(activity, now).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.inner.counters().await
    }

    async fn destinations(&self, now: Timestamp) -> Result<Vec<DestinationTotals>, StoreError> {
        self.inner.destinations(now).await
    }

    async fn circuit(&self, destination: &str) -> Result<Option<Circuit>, StoreError> {
        self.inner.circuit(destination).await
    }

    async fn write_circuit(
        &self,
        before: Option<u64>,
        after: &Circuit,
    ) -> Result<(), WriteCircuitError> {
        self.inner.write_circuit(before, after).await
    }

    async fn circuits(&self) -> Result<Vec<Circuit>, StoreError> {
        self.inner.circuits().await
    }
}

/// Three webhooks, and a store that panics over the first of them. The second value is the store
/// without the panics.
async fn unlucky(at_reads: bool) -> (World, Arc<dyn Store>, Vec<Webhook>) {
    let mut world = World::new();
    let webhooks = vec![world.accepted().await, world.accepted().await, world.accepted().await];
    let inner = Arc::clone(&world.context.store);
    let over = webhooks[0].id.clone();
    world.context.store = Arc::new(Panicking { inner: Arc::clone(&inner), over, at_reads });
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
/// ahead has written. Proved with webhooks in the due index and with ones outside it.
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
            world.context.store = Arc::new(Panicking { inner, over, at_reads });
            // Webhooks outside the due index are listed, not read one by one.
            let expected = if at_reads && !is_indexed { 3 } else { 2 };
            let summary = world.run_sweep().await;
            assert_eq!(summary.taken_back, expected, "{is_indexed} {at_reads} {summary:?}");
        }
    }
}
