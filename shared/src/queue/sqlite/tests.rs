//! The parts of this backend beyond the contract: wake-ups, two handles on one file, and the
//! recovery.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::atomic::{AtomicI64, Ordering},
};

use tempfile::TempDir;

use super::*;
use crate::{
    clock::SystemClock,
    message::{Look, Message},
    queue::MAX_RECEIVES,
    store::DueId,
    transition::testing::webhook,
};

/// A clock that stands still until it is set.
#[derive(Debug)]
struct SetClock(AtomicI64);

#[async_trait]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed) as u64)
    }

    async fn sleep(&self, _wait: Duration) {
        std::future::pending::<()>().await;
    }
}

const BEGIN: i64 = 1_700_000_000_000;
const VISIBILITY: Duration = Duration::from_secs(360);
/// Longer than any test takes. A test that waits so long has failed.
const LONG: Duration = Duration::from_secs(60);

fn file() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    (folder, path)
}

fn stopped() -> (TempDir, Arc<SetClock>, SqliteQueue) {
    let (folder, path) = file();
    let clock = Arc::new(SetClock(AtomicI64::new(BEGIN)));
    let queue =
        SqliteQueue::new(Database::open(&path).unwrap(), Arc::clone(&clock) as Arc<dyn Clock>);
    (folder, clock, queue)
}

fn outgoing(body: &str, delay_ms: u64) -> Outgoing {
    Outgoing {
        body: body.to_owned(),
        delay: Duration::from_millis(delay_ms),
        group: "g".to_owned(),
    }
}

async fn receive(queue: &SqliteQueue, lane: Lane) -> Vec<Received> {
    queue.receive(lane, MAX_BATCH, VISIBILITY, Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn a_delay_is_kept_to_the_millisecond_and_depth_tells_why_it_is_hidden() {
    let (_folder, clock, queue) = stopped();
    queue.send(Lane::Webhooks, &[outgoing("now", 0), outgoing("later", 1500)]).await.unwrap();
    assert_eq!(receive(&queue, Lane::Webhooks).await[0].body, "now");
    assert_eq!(
        queue.depth(Lane::Webhooks).await.unwrap(),
        Depth { ready: 0, in_flight: 1, delayed: 1 }
    );
    clock.0.store(BEGIN + 1499, Ordering::Relaxed);
    assert_eq!(receive(&queue, Lane::Webhooks).await, []);
    clock.0.store(BEGIN + 1500, Ordering::Relaxed);
    assert_eq!(
        queue.depth(Lane::Webhooks).await.unwrap(),
        Depth { ready: 1, in_flight: 1, delayed: 0 }
    );
    assert_eq!(receive(&queue, Lane::Webhooks).await[0].body, "later");
}

#[tokio::test]
async fn what_is_too_long_or_no_receipt_is_refused_and_the_rest_is_done() {
    let (_folder, _clock, queue) = stopped();
    let messages = [
        outgoing("good", 0),
        outgoing(&"x".repeat(crate::queue::MAX_BODY_BYTES + 1), 0),
        outgoing("late", 900_001),
    ];
    assert_eq!(queue.send(Lane::Webhooks, &messages).await.unwrap_err().failed, [1, 2]);
    let received = receive(&queue, Lane::Webhooks).await;
    assert_eq!(received.len(), 1);
    let garbage = ["", "1.2", "1.2.3.4", "a.b.c"].map(str::to_owned);
    queue.acknowledge(Lane::Webhooks, &garbage).await.unwrap();
    queue.release(Lane::Webhooks, &garbage, Duration::ZERO).await.unwrap();
    queue
        .acknowledge(Lane::Webhooks, &[garbage[0].clone(), received[0].receipt.clone()])
        .await
        .unwrap();
    assert_eq!(queue.depth(Lane::Webhooks).await.unwrap(), Depth::default());
}

/// The last receive was in the other lane at the same time. Its receipt must not affect the message
/// in this lane.
#[tokio::test]
async fn a_receipt_of_before_the_move_does_nothing() {
    let (_folder, clock, queue) = stopped();
    queue.send(Lane::Webhooks, &[outgoing("poison", 0)]).await.unwrap();
    let mut last = None;
    for _ in 0..MAX_RECEIVES {
        last = receive(&queue, Lane::Webhooks).await.pop();
        clock.0.fetch_add(VISIBILITY.as_millis() as i64, Ordering::Relaxed);
    }
    let last = last.unwrap();
    assert_eq!((last.receives, receive(&queue, Lane::Webhooks).await.len()), (MAX_RECEIVES, 0));
    let dead = receive(&queue, Lane::DeadLetters).await.pop().unwrap();
    assert_eq!((&dead.id, dead.receives, dead.sent_at), (&last.id, 1, last.sent_at));
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        queue.acknowledge(lane, std::slice::from_ref(&last.receipt)).await.unwrap();
    }
    assert_eq!(queue.depth(Lane::DeadLetters).await.unwrap().in_flight, 1);
    queue.acknowledge(Lane::DeadLetters, &[dead.receipt]).await.unwrap();
    assert_eq!(queue.depth(Lane::DeadLetters).await.unwrap(), Depth::default());
}

/// Each of 400 messages is received once. Tested with eight receivers on two handles, as of two
/// processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_never_receive_the_same() {
    let (_folder, path) = file();
    let queues = [0, 1]
        .map(|_| Arc::new(SqliteQueue::new(Database::open(&path).unwrap(), Arc::new(SystemClock))));
    let messages: Vec<_> = (0..400).map(|n| outgoing(&format!("{n}"), 0)).collect();
    queues[0].send(Lane::Webhooks, &messages).await.unwrap();
    let receivers: Vec<_> = (0..8)
        .map(|n| {
            let queue = Arc::clone(&queues[n % 2]);
            tokio::spawn(async move {
                let mut bodies = Vec::new();
                loop {
                    let batch = receive(&queue, Lane::Webhooks).await;
                    if batch.is_empty() {
                        return bodies;
                    }
                    bodies.extend(batch.into_iter().map(|message| message.body));
                }
            })
        })
        .collect();
    let mut bodies = Vec::new();
    for receiver in receivers {
        bodies.extend(receiver.await.unwrap());
    }
    assert_eq!((bodies.len(), bodies.iter().collect::<BTreeSet<_>>().len()), (400, 400));
}

/// A waiting receiver wakes long before its wait is over: for a message through its own handle or
/// another one, and for a message that becomes visible.
#[tokio::test]
async fn a_waiting_receiver_is_woken() {
    let (_folder, path) = file();
    let open = || Arc::new(SqliteQueue::new(Database::open(&path).unwrap(), Arc::new(SystemClock)));
    let (own, other) = (open(), open());
    for (sender, delay_ms) in [(&own, 0), (&other, 0), (&own, 30), (&other, 30)] {
        let queue = Arc::clone(&own);
        let waiting =
            tokio::spawn(async move { queue.receive(Lane::Webhooks, 1, VISIBILITY, LONG).await });
        tokio::task::yield_now().await;
        sender.send(Lane::Webhooks, &[outgoing("wake up", delay_ms)]).await.unwrap();
        let received =
            tokio::time::timeout(LONG / 2, waiting).await.expect("not woken").unwrap().unwrap();
        assert_eq!(received.len(), 1);
    }
}

/// A burst wakes as many receivers as it has messages. Each receives one.
#[tokio::test]
async fn a_burst_wakes_all_who_wait() {
    let (_folder, _clock, queue) = stopped();
    let queue = Arc::new(queue);
    let receivers: Vec<_> = (0..5)
        .map(|_| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.receive(Lane::Webhooks, 1, VISIBILITY, LONG).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let burst: Vec<_> = (0..5).map(|n| outgoing(&format!("{n}"), 0)).collect();
    queue.send(Lane::Webhooks, &burst).await.unwrap();
    for receiver in receivers {
        let received =
            tokio::time::timeout(LONG / 2, receiver).await.expect("not woken").unwrap().unwrap();
        assert_eq!(received.len(), 1);
    }
}

/// The queue does not give up on a message over which the stack died ten times. A delayed message
/// stays delayed.
#[tokio::test]
async fn a_recovery_shows_what_was_hidden_and_does_not_count_it() {
    let (_folder, clock, queue) = stopped();
    let webhook = webhook(Timestamp::from_millis(BEGIN));
    let body = Message::with_seen(&webhook).to_json();
    queue.send(Lane::Webhooks, &[outgoing(&body, 0), outgoing("not ours", 60_000)]).await.unwrap();
    let mut receipts = Vec::new();
    for crash in 0..10 {
        let received = receive(&queue, Lane::Webhooks).await;
        assert_eq!((received.len(), received[0].receives), (1, 1), "crash {crash}");
        receipts.push(received[0].receipt.clone());
        clock.0.fetch_add(1, Ordering::Relaxed);
        let taken = queue.recover_in_flight(clock.now()).await.unwrap();
        assert_eq!((taken.released, taken.looks), (1, vec![DueId::Webhook(webhook.id.clone())]));
    }
    queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
    assert_eq!(
        queue.depth(Lane::Webhooks).await.unwrap(),
        Depth { ready: 1, in_flight: 0, delayed: 1 }
    );
    let released = receive(&queue, Lane::Webhooks).await;
    queue
        .release(Lane::Webhooks, &[released[0].receipt.clone()], Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(
        queue.recover_in_flight(clock.now()).await.unwrap().released,
        0,
        "handed back with a delay, which stays"
    );
    assert_eq!(
        queue.depth(Lane::Webhooks).await.unwrap(),
        Depth { ready: 0, in_flight: 1, delayed: 1 }
    );
}

/// A recovery names the webhooks, deliveries and messages that queue messages ask to look at.
#[tokio::test]
async fn a_recovery_names_what_it_found_looks_at() {
    let (_folder, clock, queue) = stopped();
    let direct = webhook(Timestamp::from_millis(BEGIN)).id;
    let message: crate::id::MessageId = direct.to_string().parse().unwrap();
    let delivery = message.delivery(crate::applications::id::EndpointId::mint([7; 10]));
    for look in [
        Look::Webhook(Message::look_at(direct.clone())),
        Look::Webhook(Message::look_at(delivery.clone())),
        Look::Message(message.clone()),
    ] {
        queue.send(Lane::Webhooks, &[outgoing(&look.to_json(), 0)]).await.unwrap();
    }
    let mut looks = queue.recover_in_flight(clock.now()).await.unwrap().looks;
    looks.sort();
    let expected = [DueId::Webhook(direct), DueId::Webhook(delivery), DueId::Message(message)];
    assert_eq!(looks, expected);
}

/// A receiver that stops waiting before its turn leaves the message to others.
#[tokio::test]
async fn a_receive_that_nobody_waits_for_hides_nothing() {
    let (_folder, _clock, queue) = stopped();
    queue.send(Lane::Webhooks, &[outgoing("precious", 0)]).await.unwrap();
    let mut receive_once = Box::pin(queue.receive(Lane::Webhooks, 1, VISIBILITY, Duration::ZERO));
    let (release, released) = std::sync::mpsc::channel::<()>();
    let held_up = queue.database.write(Durability::Crash, move |_| Ok(released.recv().is_err()));
    let mut held_up = Box::pin(held_up);
    // One poll each. The first job blocks the writer, and the second waits behind it.
    assert!(futures_util::poll!(&mut held_up).is_pending());
    assert!(futures_util::poll!(&mut receive_once).is_pending());
    drop(receive_once);
    drop(release);
    held_up.await.unwrap();
    assert_eq!(receive(&queue, Lane::Webhooks).await.len(), 1);
}

/// Periodic polls would find the messages too, only later. So this test checks the signal itself.
#[tokio::test]
async fn what_becomes_visible_is_announced() {
    let (_folder, clock, queue) = stopped();
    let announced = |lane| tokio::time::timeout(LONG / 2, queue.database.arrivals(lane).notified());
    queue.send(Lane::Webhooks, &[outgoing("poison", 0)]).await.unwrap();
    announced(Lane::Webhooks).await.expect("sent");
    for _ in 0..MAX_RECEIVES {
        let received = queue.receive(Lane::Webhooks, 2, VISIBILITY, Duration::ZERO).await.unwrap();
        queue
            .release(Lane::Webhooks, &[received[0].receipt.clone()], Duration::ZERO)
            .await
            .unwrap();
        announced(Lane::Webhooks).await.expect("released");
    }
    receive(&queue, Lane::Webhooks).await;
    announced(Lane::DeadLetters).await.expect("moved");
    clock.0.fetch_add(1, Ordering::Relaxed);
    receive(&queue, Lane::DeadLetters).await;
    queue.recover_in_flight(clock.now()).await.unwrap();
    announced(Lane::DeadLetters).await.expect("recovered");
}
