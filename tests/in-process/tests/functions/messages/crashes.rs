//! A process dies between two steps: after each row, everything is delivered or given up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    applications::message::PublishedMessage,
    queue::{Lane, MAX_RECEIVES},
    status::Status,
    store::StoreError,
};

use super::tenant::Tenant;
use crate::intercepted::{Call, Intercepted, Interceptor};

const MINUTE: Duration = Duration::from_secs(60);

/// Removes what is visible from the queue, as if it was lost.
async fn lose_looks(tenant: &Tenant) {
    loop {
        let lost = tenant.world.received(Lane::Webhooks).await;
        if lost.is_empty() {
            return;
        }
        let receipts: Vec<String> = lost.into_iter().map(|message| message.receipt).collect();
        tenant.world.context.queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
    }
}

async fn assert_delivered(tenant: &Tenant, message: &PublishedMessage, endpoints: usize) {
    tenant.run_until_settled(5 * MINUTE).await;
    let delivered = vec![Some(Status::Delivered); endpoints];
    assert_eq!(tenant.statuses(message, endpoints).await, delivered);
    tenant.world.assert_settled(&[]).await;
}

/// Publish dies after the message was written: none of its looks was sent, or some were lost. The
/// audit finds it.
#[tokio::test]
async fn looks_that_were_lost_are_found_by_the_audit() {
    let tenant = Tenant::new(3).await;
    tenant.world.run_sweep().await;
    let message = tenant.publish(3).await;
    tenant.look_at_delivery(&message, 2).await;
    tenant.drain().await;
    assert_eq!(tenant.world.run_sweep().await.adopted, 0, "too young for the audit");
    tenant.world.clock.advance(17 * MINUTE);
    assert_eq!(tenant.world.run_sweep().await.adopted, 1);
    assert_eq!(tenant.world.run_sweep().await.adopted, 0, "read once");
    let held = tenant.message(&message).await.unwrap();
    assert!(held.due_at.is_some(), "{held:?}");
    assert_delivered(&tenant, &message, 3).await;
    assert_eq!(tenant.endpoints.arrived().len(), 3);
}

/// The worker dies before the claim: nothing is stored, and the look returns. If the queue gives up
/// on the look, `dlq` stores the delivery.
#[tokio::test]
async fn a_worker_that_dies_before_the_claim_leaves_the_look() {
    let tenant = Tenant::new(1).await;
    let message = tenant.accept(1).await;
    for _ in 0..MAX_RECEIVES {
        assert_eq!(tenant.world.received(Lane::Webhooks).await.len(), 1, "it comes back");
        tenant.world.clock.advance(6 * MINUTE + Duration::from_secs(1));
    }
    assert!(tenant.world.received(Lane::Webhooks).await.is_empty(), "the queue gave up");
    assert_eq!(tenant.delivery(&message, 1).await, None);
    assert!(tenant.world.run_dlq().await.is_empty());
    let rescued = tenant.delivery(&message, 1).await.unwrap();
    assert!(rescued.status == Status::Pending && rescued.due_at.is_some());
    assert_delivered(&tenant, &message, 1).await;
}

/// The worker dies after the claim, and its look is lost too: once the lease is over, the audit and
/// a look at the message find the delivery.
#[tokio::test]
async fn a_worker_that_dies_after_the_claim_is_noticed() {
    let tenant = Tenant::new(2).await;
    tenant.world.run_sweep().await;
    let message = tenant.publish(2).await;
    tenant.claimed_elsewhere(&message, 1).await;
    tenant.look_at_delivery(&message, 2).await;
    tenant.drain().await;
    tenant.world.clock.advance(17 * MINUTE);
    assert_eq!(tenant.world.run_sweep().await.adopted, 1);
    assert_delivered(&tenant, &message, 2).await;
    let delivery = tenant.delivery(&message, 1).await.unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (2, 2), "one was interrupted");
}

/// The worker dies in a look at the message: after the looks were sent, or with looks that are
/// lost. The message is due, so the sweep comes again.
#[tokio::test]
async fn a_worker_that_dies_in_a_look_at_a_message_leaves_it_due() {
    for loses in [true, false] {
        let tenant = Tenant::new(3).await;
        let at = tenant.world.now().plus(30 * MINUTE);
        let message = tenant.publish_at(3, Some(at)).await;
        tenant.world.advance_past(at);
        assert_eq!(tenant.world.run_sweep().await.requeued, 1, "a look at the message");
        if loses {
            lose_looks(&tenant).await;
        }
        assert!(tenant.world.run_deliver().await.is_empty());
        lose_looks(&tenant).await;
        assert!(tenant.message(&message).await.unwrap().due_at.is_some());
        assert_delivered(&tenant, &message, 3).await;
        assert_eq!(tenant.message(&message).await.unwrap().settled, 3);
    }
}

/// Fails the write number `at` of messages and deliveries, before or after it took effect.
#[derive(Debug)]
struct FailingWrites {
    at: usize,
    writes: AtomicUsize,
}

#[async_trait]
impl Interceptor for FailingWrites {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        let is_write = matches!(call, Call::WriteMessage | Call::Write(_) | Call::Claim(_));
        if is_write && self.writes.fetch_add(1, Ordering::SeqCst) == self.at {
            return Err(StoreError::Unavailable("a crash".into()));
        }
        Ok(())
    }
}

/// Each single write on the way from a scheduled message to its settlement fails once.
#[tokio::test]
async fn a_write_that_fails_delays_and_loses_nothing() {
    let mut at = 0;
    loop {
        let mut tenant = Tenant::new(2).await;
        let due_at = tenant.world.now().plus(MINUTE);
        let message = tenant.publish_at(2, Some(due_at)).await;
        tenant.world.advance_past(due_at);
        let inner = Arc::clone(&tenant.world.context.store);
        let failing = Arc::new(FailingWrites { at, writes: AtomicUsize::default() });
        let interceptor = Arc::clone(&failing) as _;
        tenant.world.context.store = Arc::new(Intercepted { inner, interceptor });
        for _ in 0..50 {
            // A run that a failure ends is followed by another one.
            let until = tenant.world.now().plus(MINUTE);
            let _ = sweep::handle(&tenant.world.context, until).await;
            tenant.drain().await;
            tenant.world.clock.advance(6 * MINUTE + Duration::from_secs(1));
        }
        assert_delivered(&tenant, &message, 2).await;
        assert_eq!(tenant.message(&message).await.unwrap().settled, 2, "write {at}");
        if failing.writes.load(Ordering::SeqCst) <= at {
            break;
        }
        at += 1;
    }
    assert!(at >= 6, "{at}: two claims, two outcomes, a requeue, a settlement");
}
