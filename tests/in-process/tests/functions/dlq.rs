//! Every row of `dlq`'s table.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use shared::{
    message::Message,
    model::{ClaimId, ErrorKind},
    queue::Lane,
    status::Status,
    store::DeadLetterFilter,
};
use tracing::{
    Event, Id, Level, Metadata, Subscriber,
    span::{Attributes, Record},
};

use crate::world::{World, status};

async fn given_up_by_the_queue(world: &World, webhook: &shared::model::Webhook) {
    world.send(Lane::DeadLetters, &Message::look_at(webhook.id.clone()).to_json()).await;
}

/// A worker claims the webhook and is killed. Its lease expires.
async fn claimed_and_killed(world: &World, webhook: &shared::model::Webhook) {
    let stored = world.stored(webhook).await;
    world.put(&stored, world.context.rules.claim(&stored, ClaimId(1), world.now()).unwrap()).await;
    world.clock.advance(Duration::from_secs(300));
}

#[tokio::test]
async fn messages_of_finished_or_missing_webhooks_are_acknowledged() {
    let world = World::new();
    let delivered = world.accepted().await;
    world.queued(&delivered).await;
    assert!(world.run_deliver().await.is_empty());
    let deleted = world.accepted().await;
    world.context.store.delete(&deleted.id).await.unwrap();
    for webhook in [&delivered, &deleted] {
        given_up_by_the_queue(&world, webhook).await;
    }
    let before = world.stored(&delivered).await;
    assert!(world.run_dlq().await.is_empty());
    assert_eq!(world.stored(&delivered).await, before);
    world.assert_settled(&[&delivered, &deleted]).await;
}

#[tokio::test]
async fn a_failure_is_archived_once_with_its_thirty_days() {
    let world = World::new();
    world.destination.answer([status(410)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert!(world.run_dlq().await.is_empty());
    let archived = world.stored(&webhook).await;
    let archived_at = archived.archived_at.unwrap();
    assert_eq!(archived.expires_at.unwrap().since(archived_at).as_secs(), 30 * 24 * 3600);
    given_up_by_the_queue(&world, &webhook).await;
    assert!(world.run_dlq().await.is_empty());
    assert_eq!(world.stored(&webhook).await, archived, "a second message changes nothing");
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn an_unfinished_webhook_is_rescued_three_times_and_then_fails() {
    let world = World::new();
    let webhook = world.accepted().await;
    for rescue in 1..=3 {
        claimed_and_killed(&world, &webhook).await;
        given_up_by_the_queue(&world, &webhook).await;
        assert!(world.run_dlq().await.is_empty());
        let stored = world.stored(&webhook).await;
        assert_eq!((stored.status, stored.budget.rescues), (Status::InProgress, rescue));
        assert!(stored.due_at.unwrap() <= world.now(), "due at once");
    }
    claimed_and_killed(&world, &webhook).await;
    given_up_by_the_queue(&world, &webhook).await;
    assert!(world.run_dlq().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert!(stored.is_dead_letter());
    assert_eq!(stored.last_error.unwrap().kind, ErrorKind::Undeliverable);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn archive_requests_of_a_resent_webhook_are_outdated() {
    // While `dlq` was down, the sweep requested the archive repeatedly. Then an operator resent the
    // webhook.
    let world = World::new();
    world.destination.answer([status(410)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    for _ in 0..4 {
        let due_at = world.stored(&webhook).await.due_at.unwrap();
        world.advance_past(due_at);
        assert_eq!(world.run_sweep().await.requeued, 1);
    }
    let failed = world.stored(&webhook).await;
    world.put(&failed, world.context.rules.resend(&failed, world.now()).unwrap()).await;
    world.queued(&webhook).await;
    assert!(world.run_dlq().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!((stored.status, stored.budget.rescues), (Status::Pending, 0));
    assert!(world.run_deliver().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_rescued_webhook_is_delivered() {
    let world = World::new();
    let webhook = world.accepted().await;
    given_up_by_the_queue(&world, &webhook).await;
    assert!(world.run_dlq().await.is_empty());
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn an_unreadable_message_is_kept_once_however_often_it_comes() {
    let world = World::new();
    world.send(Lane::DeadLetters, "\u{1}garbage").await;
    let batch = world.received(Lane::DeadLetters).await;
    for _ in 0..2 {
        let response =
            dlq::handle(&world.context, local::events::sqs(Lane::DeadLetters, &batch)).await;
        assert!(response.batch_item_failures.is_empty());
    }
    let letters =
        world.context.store.dead_letters(&DeadLetterFilter::All, None, 10).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].url, "", "it cannot be sent anywhere");
}

/// The levels of what this thread logs.
#[derive(Clone, Debug, Default)]
struct Levels(Arc<Mutex<Vec<Level>>>);

impl Subscriber for Levels {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(*event.metadata().level());
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A message whose dead letter was never stored stays in the queue, and the log has an error.
/// Tested by retiring the dead letter's ID beforehand; another world tells which one that is.
#[tokio::test]
async fn an_unreadable_message_that_cannot_be_kept_is_handed_back() {
    let (world, other) = (World::new(), World::new());
    world.send(Lane::DeadLetters, "\u{1}garbage").await;
    let batch = world.received(Lane::DeadLetters).await;
    dlq::handle(&other.context, local::events::sqs(Lane::DeadLetters, &batch)).await;
    let kept =
        other.context.store.dead_letters(&DeadLetterFilter::All, None, 10).await.unwrap().items;
    world.context.store.tombstone_id(&kept[0].webhook.id).await.unwrap();
    let log = Levels::default();
    let response = {
        let _logged = tracing::subscriber::set_default(log.clone());
        dlq::handle(&world.context, local::events::sqs(Lane::DeadLetters, &batch)).await
    };
    assert_eq!(*log.0.lock().unwrap(), [Level::ERROR], "an operator must act");
    let failed: Vec<&str> = response
        .batch_item_failures
        .iter()
        .map(|failure| failure.item_identifier.as_str())
        .collect();
    assert_eq!(failed, [batch[0].id.as_str()]);
}
