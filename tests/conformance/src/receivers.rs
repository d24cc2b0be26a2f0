//! Many concurrent senders and receivers over two handles.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use shared::queue::{Lane, MAX_BATCH, Outgoing, Queue};
use tokio::time::Instant;

use super::{
    Case, Fixture, area,
    fixture::BOUND,
    queue::{LONG, expect_depth, message, receive_none},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        concurrent_receivers_never_share_a_message,
        concurrent_senders_and_receivers_lose_no_message,
        messages_released_during_receives_are_not_lost,
    ]
}

const MESSAGES: usize = 200;

/// Alternates between the two handles.
fn handle(fixture: &Fixture, index: usize) -> Arc<dyn Queue> {
    Arc::clone(if index.is_multiple_of(2) { &fixture.queue } else { &fixture.other_queue })
}

fn messages(group: usize, count: usize) -> Vec<Outgoing> {
    (0..count)
        .map(|index| Outgoing {
            group: format!("https://d{group}.example:443"),
            ..message(&index.to_string())
        })
        .collect()
}

/// A received message belongs to one worker until its visibility timeout ends. In the case, eight
/// receivers empty the lane together, and each message is received once.
async fn concurrent_receivers_never_share_a_message(fixture: Fixture) {
    for chunk in messages(0, MESSAGES).chunks(MAX_BATCH) {
        fixture.queue.send(Lane::Webhooks, chunk).await.unwrap();
    }
    let seen = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let started = Instant::now();
    let receivers: Vec<_> = (0..8)
        .map(|index| {
            let (queue, seen) = (handle(&fixture, index), Arc::clone(&seen));
            tokio::spawn(async move {
                while seen.lock().unwrap().len() < MESSAGES && started.elapsed() < BOUND {
                    for received in
                        queue.receive(Lane::Webhooks, 3, LONG, Duration::ZERO).await.unwrap()
                    {
                        assert_eq!(received.receives, 1);
                        *seen.lock().unwrap().entry(received.id).or_default() += 1;
                    }
                }
            })
        })
        .collect();
    for receiver in receivers {
        receiver.await.unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    receive_none(&*fixture.queue, Lane::Webhooks).await;
}

/// Every accepted message is received, and an acknowledgement removes it. The case runs ten senders
/// and four receivers at the same time, and then checks the depth.
async fn concurrent_senders_and_receivers_lose_no_message(fixture: Fixture) {
    let mut sent = BTreeMap::<String, u32>::new();
    let mut senders = Vec::new();
    for index in 0..10 {
        let own = messages(index, MESSAGES / 10);
        sent.extend(own.iter().map(|message| (message.body.clone(), 1)));
        let queue = handle(&fixture, index);
        senders.push(tokio::spawn(async move {
            for chunk in own.chunks(3) {
                queue.send(Lane::Webhooks, chunk).await.unwrap();
            }
        }));
    }
    let received = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let started = Instant::now();
    let receivers: Vec<_> = (0..4)
        .map(|index| {
            let (queue, all) = (handle(&fixture, index), Arc::clone(&received));
            tokio::spawn(async move {
                while all.lock().unwrap().len() < MESSAGES && started.elapsed() < BOUND {
                    let batch = queue
                        .receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::from_millis(200))
                        .await
                        .unwrap();
                    let receipts: Vec<String> =
                        batch.iter().map(|received| received.receipt.clone()).collect();
                    queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
                    for message in batch {
                        *all.lock().unwrap().entry(message.body).or_default() += 1;
                    }
                }
            })
        })
        .collect();
    for task in senders.into_iter().chain(receivers) {
        task.await.unwrap();
    }
    assert_eq!(*received.lock().unwrap(), sent);
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        expect_depth(&*fixture.queue, lane, 0, 0, 0).await;
    }
}

/// Messages that are released while other workers receive are neither lost nor duplicated. In the
/// case, each message is received exactly twice, and acknowledged the second time.
async fn messages_released_during_receives_are_not_lost(fixture: Fixture) {
    for chunk in messages(0, MESSAGES).chunks(MAX_BATCH) {
        fixture.queue.send(Lane::Webhooks, chunk).await.unwrap();
    }
    let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<u32>>::new()));
    let done = Arc::new(AtomicUsize::new(0));
    let started = Instant::now();
    let receivers: Vec<_> = (0..4)
        .map(|index| {
            let (queue, other) = (handle(&fixture, index), handle(&fixture, index + 1));
            let (seen, done) = (Arc::clone(&seen), Arc::clone(&done));
            tokio::spawn(async move {
                while done.load(Ordering::SeqCst) < MESSAGES && started.elapsed() < BOUND {
                    let batch = queue
                        .receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::ZERO)
                        .await
                        .unwrap();
                    let (first, second): (Vec<_>, Vec<_>) =
                        batch.into_iter().partition(|received| received.receives == 1);
                    for received in first.iter().chain(&second) {
                        seen.lock()
                            .unwrap()
                            .entry(received.id.clone())
                            .or_default()
                            .push(received.receives);
                    }
                    let receipts = |of: &[shared::queue::Received]| {
                        of.iter().map(|one| one.receipt.clone()).collect::<Vec<_>>()
                    };
                    other.release(Lane::Webhooks, &receipts(&first), Duration::ZERO).await.unwrap();
                    other.acknowledge(Lane::Webhooks, &receipts(&second)).await.unwrap();
                    done.fetch_add(second.len(), Ordering::SeqCst);
                }
            })
        })
        .collect();
    for receiver in receivers {
        receiver.await.unwrap();
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), MESSAGES);
    assert!(seen.values().all(|receives| *receives == [1, 2]), "{seen:?}");
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
}
