//! The store or the queue fails during the work: unfinished messages are handed back, and nothing
//! is lost or done twice.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::world::{World, status};
use async_trait::async_trait;
use shared::{
    message::Message,
    queue::{Depth, Lane, MAX_RECEIVES, Outgoing, Queue, QueueError, Received, SendError},
    status::Status,
};

/// A queue that refuses messages while the test says so.
#[derive(Debug)]
struct Moody {
    inner: Arc<dyn Queue>,
    refuses: AtomicBool,
}

#[async_trait]
impl Queue for Moody {
    async fn ping(&self) -> Result<(), QueueError> {
        self.inner.ping().await
    }

    async fn warnings(&self) -> Result<Vec<String>, QueueError> {
        self.inner.warnings().await
    }

    async fn send(&self, lane: Lane, messages: &[Outgoing]) -> Result<(), SendError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(SendError {
                failed: (0..messages.len()).collect(),
                source: QueueError("told to".into()),
            });
        }
        self.inner.send(lane, messages).await
    }

    async fn receive(
        &self,
        lane: Lane,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Received>, QueueError> {
        self.inner.receive(lane, max, visibility, wait).await
    }

    async fn acknowledge(&self, lane: Lane, receipts: &[String]) -> Result<(), QueueError> {
        self.inner.acknowledge(lane, receipts).await
    }

    async fn release(
        &self,
        lane: Lane,
        receipts: &[String],
        delay: Duration,
    ) -> Result<(), QueueError> {
        self.inner.release(lane, receipts, delay).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.inner.depth(lane).await
    }
}

fn moody(world: &mut World) -> Arc<Moody> {
    let moody = Arc::new(Moody {
        inner: Arc::clone(&world.context.queue),
        refuses: AtomicBool::new(false),
    });
    world.context.queue = Arc::clone(&moody) as _;
    moody
}

#[tokio::test]
async fn a_retry_that_cannot_be_queued_is_handed_back_and_not_lost() {
    let mut world = World::new();
    let queue = moody(&mut world);
    world.destination.answer([status(500)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    queue.refuses.store(true, Ordering::SeqCst);
    assert_eq!(world.run_deliver().await.len(), 1, "handed back");
    let stored = world.stored(&webhook).await;
    assert_eq!((stored.status, stored.attempt_count), (Status::Retrying, 1));
    assert!(stored.due_at.is_some(), "and the due index holds it");
    queue.refuses.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(361));
    assert!(world.run_deliver().await.is_empty(), "the message came back");
    assert_eq!(world.destination.attempts(), [1, 2]);
    world.assert_settled(&[&webhook]).await;
}

/// A message that waits for its slot carries it. If the queue refuses the message, the record keeps
/// the slot, since the next look would take another one.
#[tokio::test]
async fn a_slot_is_kept_if_its_message_cannot_be_queued() {
    let mut world = World::with(&[("RATE_LIMITS", "example.com=1/60s")]);
    let queue = moody(&mut world);
    world.destination.answer([status(200)]);
    let mut webhooks = Vec::new();
    for _ in 0..3 {
        let webhook = world.accepted().await;
        world.queued(&webhook).await;
        webhooks.push(webhook);
    }
    queue.refuses.store(true, Ordering::SeqCst);
    // The messages may be handed back. The due index holds the webhooks in any case.
    world.run_deliver().await;
    let mut numbers = BTreeSet::new();
    for webhook in &webhooks {
        let stored = world.stored(webhook).await;
        if stored.status != Status::Delivered {
            assert_eq!(stored.status, Status::Retrying);
            assert!(stored.due_at.is_some(), "{stored:?}");
            numbers.insert(stored.slot.unwrap().number);
        }
    }
    assert!(numbers.len() >= 2, "{numbers:?}");
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_queued_is_sent_again() {
    let mut world = World::new();
    let queue = moody(&mut world);
    world.destination.answer([status(410)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    queue.refuses.store(true, Ordering::SeqCst);
    assert_eq!(world.run_deliver().await.len(), 1, "handed back");
    queue.refuses.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(361));
    assert!(world.run_deliver().await.is_empty());
    assert!(world.run_dlq().await.is_empty());
    assert!(world.stored(&webhook).await.is_dead_letter());
    assert_eq!(world.destination.attempts(), [1]);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_due_webhook_stays_due_until_the_queue_takes_its_message() {
    let mut world = World::new();
    let queue = moody(&mut world);
    let webhook = world.accepted().await;
    let now = world.now();
    let due = world.context.rules.rescue(&webhook, now).unwrap();
    world.put(&webhook, due.clone()).await;
    queue.refuses.store(true, Ordering::SeqCst);
    let until = world.now().plus(Duration::from_secs(60));
    assert!(sweep::handle(&world.context, until).await.is_err());
    assert_eq!(world.stored(&webhook).await, due, "it did not move on");
    queue.refuses.store(false, Ordering::SeqCst);
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert!(world.run_deliver().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_message_that_the_queue_gives_up_on_leads_to_a_rescue() {
    // After this many receives without an acknowledgement, the queue moves the message to the
    // dead-letter lane.
    let world = World::new();
    let webhook = world.accepted().await;
    world.send(Lane::Webhooks, &Message::look_at(webhook.id.clone()).to_json()).await;
    for _ in 0..MAX_RECEIVES {
        assert_eq!(world.received(Lane::Webhooks).await.len(), 1);
        world.clock.advance(Duration::from_secs(361));
    }
    assert!(world.received(Lane::Webhooks).await.is_empty());
    assert!(world.run_dlq().await.is_empty());
    assert_eq!(world.run_sweep().await.requeued, 1);
    assert!(world.run_deliver().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}
