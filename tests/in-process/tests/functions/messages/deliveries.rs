//! A look at a delivery: what its record is as long as nothing has started, and what must not start
//! again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    applications::message::{KEY_OCCUPIED, PublishedMessage, START_WITHIN},
    message::Message,
    model::ErrorKind,
    queue::Lane,
    status::Status,
    store::StoreError,
    transition::Rules,
};

use super::tenant::{Tenant, assert_no_effect, endpoint, signed_by};
use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::status,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Without a record in the look, the record follows from the message.
#[tokio::test]
async fn a_look_without_a_record_finds_the_delivery_in_its_message() {
    let tenant = Tenant::new(2).await;
    let message = tenant.publish(2).await;
    tenant.look_at_delivery(&message, 2).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    assert_eq!(tenant.statuses(&message, 2).await, [None, Some(Status::Delivered)]);
    assert_eq!(tenant.endpoints.arrived()[0].signatures, Some(signed_by(&[2])));
}

#[derive(Debug, Default)]
struct Reads(AtomicUsize);

#[async_trait]
impl Interceptor for Reads {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if matches!(call, Call::Read(_) | Call::ReadDelivery) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The record of revision 0 in a look saves the read, on the first receive alone.
#[tokio::test]
async fn the_record_in_a_look_saves_the_read() {
    let mut tenant = Tenant::new(1).await;
    let reads = Arc::new(Reads::default());
    let (inner, interceptor) = (Arc::clone(&tenant.world.context.store), Arc::clone(&reads) as _);
    tenant.world.context.store = Arc::new(Intercepted { inner, interceptor });
    let message = tenant.accept(1).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    assert_eq!(reads.0.load(Ordering::SeqCst), 0);
    tenant.send_looks(&message).await;
    assert!(tenant.world.run_deliver().await.is_empty());
    assert_eq!(reads.0.load(Ordering::SeqCst), 1, "its claim is refused, and the record decides");
    assert_eq!(tenant.endpoints.arrived().len(), 1);
}

/// Holds back the outcome until a claim follows those of the four looks, for at most 200 ms.
#[derive(Debug, Default)]
struct HeldOutcome {
    claims: AtomicUsize,
}

#[async_trait]
impl Interceptor for HeldOutcome {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::Claim(_) => {
                self.claims.fetch_add(1, Ordering::SeqCst);
            }
            Call::Write(webhook) if webhook.status == Status::Delivered => {
                let waits = 0..200;
                for _ in waits.take_while(|_| self.claims.load(Ordering::SeqCst) <= 4) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Looks at one delivery that several workers receive at once make one attempt: the first write
/// takes the vacant key, and the others find its claim.
#[tokio::test]
async fn concurrent_looks_at_a_delivery_make_one_attempt() {
    let mut tenant = Tenant::new(1).await;
    let held = Arc::new(HeldOutcome::default());
    let (inner, interceptor) = (Arc::clone(&tenant.world.context.store), Arc::clone(&held) as _);
    tenant.world.context.store = Arc::new(Intercepted { inner, interceptor });
    let message = tenant.publish(1).await;
    for _ in 0..4 {
        tenant.send_looks(&message).await;
    }
    tenant.world.run_deliver().await;
    assert_eq!(tenant.endpoints.arrived().len(), 1);
    assert_eq!(held.claims.load(Ordering::SeqCst), 4, "each of them tried");
    tenant.world.clock.advance(Duration::from_secs(361));
    tenant.drain().await;
    assert_eq!(tenant.endpoints.arrived().len(), 1);
    tenant.world.assert_settled(&[]).await;
}

/// Neither a marker nor an expired record is ever taken for a delivery that has not started, with
/// or without a record in the look.
#[tokio::test]
async fn a_deleted_delivery_and_an_expired_one_never_start_again() {
    let tenant = Tenant::with(&[("RETENTION_DAYS", "1")], 3).await;
    let message = tenant.publish(3).await;
    let deleted = message.id.delivery(endpoint(1));
    let until = tenant.world.now().plus(KEY_OCCUPIED);
    tenant.world.context.store.put_marker(&deleted, until).await.unwrap();
    tenant.look_at_delivery(&message, 2).await;
    tenant.look_at_delivery(&message, 3).await;
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take().len(), 2);
    let finished = tenant.delivery(&message, 2).await.unwrap();
    tenant.world.advance_past(finished.expires_at.unwrap());
    assert_eq!(tenant.statuses(&message, 3).await, [None; 3], "expired");
    assert_no_effect(&tenant, &message).await;
    tenant.look_at(&message).await;
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take(), [], "nor by way of the message");
}

/// After the keys are vacant again, the age of the message alone tells that its deliveries
/// finished.
#[tokio::test]
async fn a_delivery_that_finished_long_ago_never_starts_again() {
    let tenant = Tenant::with(&[("RETENTION_DAYS", "10")], 1).await;
    let message = tenant.publish(1).await;
    tenant.world.clock.advance(KEY_OCCUPIED + Duration::from_secs(1));
    assert!(tenant.message(&message).await.is_some(), "the message lives");
    assert_no_effect(&tenant, &message).await;
    tenant.look_at(&message).await;
    tenant.drain().await;
    assert_eq!((tenant.endpoints.take(), tenant.delivery(&message, 1).await), (vec![], None));
}

/// A delivery that did not start in time becomes a dead letter, whatever its look says.
#[tokio::test]
async fn a_delivery_that_did_not_start_in_time_fails() {
    let tenant = Tenant::new(2).await;
    let message = tenant.accept(2).await;
    tenant.world.clock.advance(START_WITHIN);
    tenant.drain().await;
    assert_eq!(tenant.endpoints.take(), [], "the record in its look is not used");
    for n in [1, 2] {
        let failed = tenant.delivery(&message, n).await.unwrap();
        assert!(failed.is_dead_letter());
        assert_eq!(failed.last_error.unwrap().kind, ErrorKind::Undeliverable);
    }
    tenant.world.assert_settled(&[]).await;
}

/// The plan alone decides where a message goes, and nothing of a message that is being deleted
/// starts.
#[tokio::test]
async fn nothing_starts_outside_the_plan_or_of_a_message_that_is_deleting() {
    let tenant = Tenant::new(3).await;
    let message = tenant.publish(2).await;
    tenant.look_at_delivery(&message, 3).await;
    tenant.drain().await;
    assert_eq!((tenant.endpoints.take(), tenant.delivery(&message, 3).await), (vec![], None));
    let waiting = tenant.claimed_elsewhere(&message, 2).await;
    tenant.world.clock.advance(Duration::from_secs(46));
    let now = tenant.world.now();
    let deleting = tenant.world.context.rules.start_deleting(&message, now).unwrap();
    tenant.world.context.store.write_message(&message, &deleting).await.unwrap();
    tenant.look_at_delivery(&message, 1).await;
    tenant.look_at_delivery(&message, 2).await;
    assert!(tenant.world.run_deliver().await.is_empty(), "the message is due: acknowledged");
    assert_eq!(tenant.endpoints.take(), []);
    assert_eq!(tenant.delivery(&message, 2).await.unwrap(), waiting);
    assert_eq!(tenant.delivery(&message, 1).await, None);
}

/// A retry takes the payload from the message each time.
#[tokio::test]
async fn a_failed_attempt_is_repeated_by_the_endpoints_policy() {
    // Direct webhooks get one attempt here.
    let tenant =
        Tenant::with(&[("RETRY_MAX_ATTEMPTS", "1"), ("ENDPOINT_RETRY_SCHEDULE", "30s,3h")], 1)
            .await;
    tenant.endpoints.decide(|request| status(if request.attempt < 3 { 500 } else { 200 }));
    let message = tenant.accept(1).await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        tenant.drain().await;
        let stored = tenant.delivery(&message, 1).await.unwrap();
        if let Some(at) = stored.allowed_at {
            waits.push(at.since(stored.updated_at).as_secs());
            tenant.world.advance_past(at);
            tenant.world.run_sweep().await;
            // A delay counts from the send.
            tenant.world.clock.advance(Duration::from_secs(2));
        }
    }
    assert_eq!(tenant.statuses(&message, 1).await, [Some(Status::Delivered)]);
    assert_eq!(waits.len(), 2);
    assert!((24..=36).contains(&waits[0]) && (8_000..=13_000).contains(&waits[1]), "{waits:?}");
    tenant.run_until_settled(Duration::from_secs(60)).await;
}

/// A record in a look is not trusted with another message's payload, age or place.
#[tokio::test]
async fn a_look_with_a_record_of_another_delivery_is_read_from_the_store() {
    let tenant = Tenant::new(2).await;
    let message = tenant.publish(1).await;
    let other = PublishedMessage { plan: tenant.publish(2).await.plan, ..message.clone() };
    let outside = Rules::delivery(&other, endpoint(2)).unwrap();
    let look =
        Message { webhook_id: message.id.delivery(endpoint(1)), ..Message::with_seen(&outside) };
    tenant.world.send(Lane::Webhooks, &look.to_json()).await;
    tenant.drain().await;
    assert_eq!(tenant.statuses(&message, 2).await, [Some(Status::Delivered), None]);
    tenant.world.clock.advance(DAY);
}
