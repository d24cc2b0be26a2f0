//! What `dlq` does with looks at messages and deliveries that the queue gave up on.

use std::time::Duration;

use shared::{
    applications::message::{KEY_OCCUPIED, PublishedMessage, START_WITHIN},
    message::{Look, Message},
    model::ErrorKind,
    queue::Lane,
    status::Status,
};

use super::tenant::{Tenant, endpoint};
use crate::world::status;

async fn given_up(tenant: &Tenant, look: &Look) {
    tenant.world.send(Lane::DeadLetters, &look.to_json()).await;
    assert!(tenant.world.run_dlq().await.is_empty());
}

fn at_delivery(message: &PublishedMessage, n: usize) -> Look {
    Look::Webhook(Message::look_at(message.id.delivery(endpoint(n))))
}

/// The queue gave up on a look at a message: it is due now, and its deliveries are made. One that
/// is scheduled, or whose deliveries are all over, stays as it is.
#[tokio::test]
async fn a_message_is_due_at_once() {
    let tenant = Tenant::new(2).await;
    let message = tenant.publish(2).await;
    let later = tenant.world.now().plus(Duration::from_secs(3600));
    let scheduled = tenant.publish_at(2, Some(later)).await;
    let over = tenant.accept(2).await;
    tenant.drain().await;
    for message in [&message, &scheduled, &over] {
        given_up(&tenant, &Look::Message(message.id.clone())).await;
    }
    let due = tenant.message(&message).await.unwrap();
    assert!(due.due_at.unwrap() <= tenant.world.now());
    assert_eq!(tenant.message(&scheduled).await.unwrap(), scheduled);
    assert_eq!(tenant.message(&over).await.unwrap(), over);
    tenant.run_until_settled(Duration::from_secs(300)).await;
    assert_eq!(tenant.endpoints.arrived().len(), 6);
    tenant.world.context.store.delete_message(&over).await.unwrap();
    given_up(&tenant, &Look::Message(over.id.clone())).await;
    tenant.world.assert_settled(&[]).await;
}

/// A delivery that was never worked on gets its first record by the rescue: due at once, without a
/// rescue spent, and later each time.
#[tokio::test]
async fn a_delivery_without_a_record_is_rescued() {
    let tenant = Tenant::new(2).await;
    let message = tenant.publish(2).await;
    given_up(&tenant, &at_delivery(&message, 1)).await;
    let rescued = tenant.delivery(&message, 1).await.unwrap();
    assert_eq!((rescued.revision, rescued.status), (1, Status::Pending));
    assert_eq!((rescued.budget.rescues, rescued.budget.unworked_rescues), (0, 1));
    assert!(rescued.due_at.unwrap() <= tenant.world.now());
    given_up(&tenant, &at_delivery(&message, 1)).await;
    let again = tenant.delivery(&message, 1).await.unwrap();
    assert!(again.due_at.unwrap() > tenant.world.now().plus(Duration::from_secs(800)));
    // A request to archive it is outdated.
    let archive = Message::archive(message.id.delivery(endpoint(2)));
    given_up(&tenant, &Look::Webhook(archive)).await;
    assert_eq!(tenant.delivery(&message, 2).await, None);
    tenant.look_at_delivery(&message, 2).await;
    tenant.run_until_settled(Duration::from_secs(300)).await;
    assert_eq!(tenant.statuses(&message, 2).await, [Some(Status::Delivered); 2]);
}

/// Nothing is created in place of a delivery that is over, or of one that is not planned.
#[tokio::test]
async fn a_delivery_that_is_over_is_not_rescued() {
    let tenant = Tenant::with(&[("RETENTION_DAYS", "10")], 4).await;
    let message = tenant.publish(3).await;
    let until = tenant.world.now().plus(2 * KEY_OCCUPIED);
    let marked = message.id.delivery(endpoint(1));
    tenant.world.context.store.put_marker(&marked, until).await.unwrap();
    tenant.look_at_delivery(&message, 2).await;
    tenant.drain().await;
    let delivered = tenant.delivery(&message, 2).await.unwrap();
    for n in [1, 2, 4] {
        given_up(&tenant, &at_delivery(&message, n)).await;
    }
    assert_eq!(tenant.delivery(&message, 2).await, Some(delivered));
    tenant.world.clock.advance(KEY_OCCUPIED);
    for n in 1..=4 {
        given_up(&tenant, &at_delivery(&message, n)).await;
    }
    assert_eq!(tenant.statuses(&message, 4).await, [None; 4]);
    assert_eq!(tenant.endpoints.arrived().len(), 1);
}

/// A delivery that did not start in time is a dead letter at once.
#[tokio::test]
async fn a_delivery_that_did_not_start_in_time_is_archived() {
    let tenant = Tenant::new(1).await;
    let message = tenant.publish(1).await;
    tenant.world.clock.advance(START_WITHIN);
    given_up(&tenant, &at_delivery(&message, 1)).await;
    let failed = tenant.delivery(&message, 1).await.unwrap();
    assert!(failed.is_dead_letter());
    assert_eq!(failed.last_error.unwrap().kind, ErrorKind::Undeliverable);
    tenant.world.assert_settled(&[]).await;
}

/// A delivery that failed is archived, and its record is the dead letter.
#[tokio::test]
async fn a_failed_delivery_is_archived() {
    let tenant = Tenant::with(&[("ENDPOINT_RETRY_SCHEDULE", "1s")], 1).await;
    tenant.endpoints.decide(|_| status(404));
    let message = tenant.accept(1).await;
    tenant.run_until_settled(Duration::from_secs(30)).await;
    let failed = tenant.delivery(&message, 1).await.unwrap();
    assert!(failed.is_dead_letter());
    assert_eq!((failed.attempts.len(), tenant.endpoints.arrived().len()), (2, 2));
}

/// A record that cannot be read, and a delivery that only this clock finds early, are not lost.
#[tokio::test]
async fn what_cannot_be_decided_is_kept() {
    let tenant = Tenant::new(2).await;
    let message = tenant.publish(2).await;
    tenant.claimed_elsewhere(&message, 1).await;
    let id = message.id.delivery(endpoint(1));
    let row = [&message.id.task.as_bytes()[..], endpoint(1).to_string().as_bytes()].concat();
    tenant.world.plant_record(&row, &format!(r#"{{"v":3,"id":"{id}"}}"#));
    let look = at_delivery(&message, 1);
    tenant.world.send(Lane::DeadLetters, &look.to_json()).await;
    assert_eq!(tenant.world.run_dlq().await.len(), 1, "handed back");
    tenant.world.send(Lane::Webhooks, &look.to_json()).await;
    assert_eq!(tenant.world.run_deliver().await.len(), 1, "handed back");
    tenant.world.clock.set_ahead(Duration::from_secs(3600));
    let early = tenant.publish(1).await;
    tenant.world.clock.set_ahead(Duration::ZERO);
    given_up(&tenant, &at_delivery(&early, 1)).await;
    let held = tenant.delivery(&early, 1).await.unwrap();
    assert_eq!((held.status, held.due_at), (Status::Pending, Some(early.allowed_at)));
}
