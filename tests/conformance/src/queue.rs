//! The queue's basics: what is sent is received as it was sent, by anybody, until it is
//! acknowledged.

use std::{collections::BTreeSet, time::Duration};

use shared::queue::{Depth, Lane, MAX_BATCH, MAX_BODY_BYTES, MAX_DELAY, Outgoing, Queue, Received};
use tokio::time::{Instant, timeout};

use super::{
    Case, Fixture, area,
    fixture::{BOUND, eventually, same},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_message_is_received_as_it_was_sent_and_gone_once_acknowledged,
        a_batch_is_sent_whole_and_received_in_parts,
        every_byte_of_a_body_is_kept,
        the_lanes_are_apart,
        a_message_beyond_the_limits_is_refused_and_named,
        an_empty_lane_answers_within_the_wait,
        who_waits_is_woken_by_a_send,
        who_waits_is_woken_by_another_process,
        the_depth_tells_ready_in_flight_and_delayed,
    ]
}

/// Long enough that nothing becomes visible again within a case.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// A message that nobody else sends.
pub(super) fn message(text: &str) -> Outgoing {
    Outgoing {
        body: format!(r#"{{"text":"{text}","id":"{:016x}"}}"#, rand::random::<u64>()),
        delay: Duration::ZERO,
        group: "https://example.com:443".to_owned(),
    }
}

/// Receives until the one message with this body comes, and fails on any other.
pub(super) async fn receive_one(
    queue: &dyn Queue,
    lane: Lane,
    body: &str,
    visibility: Duration,
) -> Received {
    let started = Instant::now();
    loop {
        let mut received =
            queue.receive(lane, MAX_BATCH, visibility, Duration::from_secs(2)).await.unwrap();
        assert!(received.len() <= 1, "there is one message: {received:?}");
        if let Some(received) = received.pop() {
            assert_eq!(received.body, body);
            return received;
        }
        assert!(started.elapsed() < BOUND, "it never came");
    }
}

/// Receives nothing, now.
pub(super) async fn receive_none(queue: &dyn Queue, lane: Lane) {
    let received = queue.receive(lane, MAX_BATCH, LONG, Duration::ZERO).await.unwrap();
    assert_eq!(received, [], "nothing is visible");
}

/// The lane comes to hold so much, and by that nothing else.
pub(super) async fn expect_depth(
    queue: &dyn Queue,
    lane: Lane,
    ready: u64,
    in_flight: u64,
    delayed: u64,
) {
    let expected = Depth { ready, in_flight, delayed };
    eventually("the depth", || async { same(&queue.depth(lane).await.unwrap(), &expected) }).await;
}

/// The way of every message, in both lanes. Proved by sending through one handle and receiving
/// through the other: body, first receive, time of sending; and by the depth that the
/// acknowledgement leaves.
async fn a_message_is_received_as_it_was_sent_and_gone_once_acknowledged(fixture: Fixture) {
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        let message = message("one");
        let before = fixture.now();
        fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
        let received = receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
        assert_eq!(received.receives, 1);
        assert!(!received.id.is_empty() && !received.receipt.is_empty());
        // The server's clock may be another one, and may count whole seconds.
        let skew = Duration::from_secs(6);
        assert!(
            received.sent_at >= before.minus(skew) && received.sent_at <= fixture.now().plus(skew),
            "{received:?}"
        );
        receive_none(&*fixture.queue, lane).await;
        fixture.queue.acknowledge(lane, &[received.receipt]).await.unwrap();
        expect_depth(&*fixture.other_queue, lane, 0, 0, 0).await;
        receive_none(&*fixture.queue, lane).await;
    }
}

/// Ten messages go in one call; a receive takes no more than it was asked for; an acknowledgement
/// takes them together. Proved with sizes from one to ten, and with none.
async fn a_batch_is_sent_whole_and_received_in_parts(fixture: Fixture) {
    fixture.queue.send(Lane::Webhooks, &[]).await.unwrap();
    let messages: Vec<Outgoing> = (0..MAX_BATCH).map(|index| message(&index.to_string())).collect();
    fixture.queue.send(Lane::Webhooks, &messages).await.unwrap();
    let mut bodies = BTreeSet::new();
    let mut receipts = Vec::new();
    let started = Instant::now();
    for max in [1, 2, 3].into_iter().chain(std::iter::repeat(MAX_BATCH)) {
        let received = fixture
            .other_queue
            .receive(Lane::Webhooks, max, LONG, Duration::from_secs(1))
            .await
            .unwrap();
        assert!(received.len() <= max);
        for message in received {
            assert!(bodies.insert(message.body), "each once");
            receipts.push(message.receipt);
        }
        if bodies.len() == MAX_BATCH {
            break;
        }
        assert!(started.elapsed() < BOUND, "{} of {MAX_BATCH} came", bodies.len());
    }
    assert_eq!(bodies, messages.into_iter().map(|message| message.body).collect());
    fixture.queue.acknowledge(Lane::Webhooks, &[]).await.unwrap();
    fixture.queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
}

/// A body comes back byte for byte. Proved with quotes, line ends, astral characters, and 200 KiB.
async fn every_byte_of_a_body_is_kept(fixture: Fixture) {
    let bodies = [
        "{\"a\": \"é😀\u{fffd} &amp; <x> \\u0000\"}\r\n\t ".to_owned(),
        "plain".to_owned(),
        "0123456789abcdef".repeat(200 * 64),
        "é😀".repeat(30_000),
    ];
    for body in bodies {
        let message = Outgoing { body: body.clone(), ..message("") };
        fixture.queue.send(Lane::Webhooks, &[message]).await.unwrap();
        let received = receive_one(&*fixture.other_queue, Lane::Webhooks, &body, LONG).await;
        fixture.queue.acknowledge(Lane::Webhooks, &[received.receipt]).await.unwrap();
    }
}

/// A message beyond the limits is refused alone. Proved with a delay and a body over the limit
/// among messages at the limit.
async fn a_message_beyond_the_limits_is_refused_and_named(fixture: Fixture) {
    let late = Outgoing { delay: MAX_DELAY + Duration::from_secs(1), ..message("late") };
    let latest = Outgoing { delay: MAX_DELAY, ..message("latest") };
    let large = Outgoing { body: "x".repeat(MAX_BODY_BYTES + 1), ..message("") };
    let good = message("good");
    let all = [late, latest, large, good.clone()];
    let error = fixture.queue.send(Lane::Webhooks, &all).await.unwrap_err();
    let mut failed = error.failed;
    failed.sort_unstable();
    assert_eq!(failed, [0, 2]);
    receive_one(&*fixture.queue, Lane::Webhooks, &good.body, LONG).await;
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 1, 1).await;
}

/// A message stays in the lane that it was sent to. Proved by looking into the other one, and by
/// their depths.
async fn the_lanes_are_apart(fixture: Fixture) {
    let message = message("letter");
    fixture.queue.send(Lane::DeadLetters, std::slice::from_ref(&message)).await.unwrap();
    receive_none(&*fixture.queue, Lane::Webhooks).await;
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
    expect_depth(&*fixture.queue, Lane::DeadLetters, 1, 0, 0).await;
    receive_one(&*fixture.queue, Lane::DeadLetters, &message.body, LONG).await;
}

/// A worker that finds nothing gets its answer when it expects it: at once without a wait, else
/// once that is over. Proved by the time that passes; the upper bounds are generous, for slow
/// machines.
async fn an_empty_lane_answers_within_the_wait(fixture: Fixture) {
    for (wait, least, most) in [(0, 0, 5000), (1000, 800, 10_000)] {
        let started = Instant::now();
        let received = fixture
            .queue
            .receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::from_millis(wait))
            .await
            .unwrap();
        assert_eq!(received, []);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(least), "it waits: {took:?}");
        assert!(took <= Duration::from_millis(most), "and not for longer: {took:?}");
    }
}

/// A message does not wait for the next poll: a receive that waits answers as soon as one is sent.
/// Proved by a receive that is seen to wait before the send and is done long before its wait is
/// over.
async fn who_waits_is_woken_by_a_send(fixture: Fixture) {
    wakes(&fixture, &*fixture.queue, Lane::Webhooks).await;
    wakes(&fixture, &*fixture.queue, Lane::DeadLetters).await;
}

/// The same when another process sends.
async fn who_waits_is_woken_by_another_process(fixture: Fixture) {
    wakes(&fixture, &*fixture.other_queue, Lane::Webhooks).await;
}

async fn wakes(fixture: &Fixture, sender: &dyn Queue, lane: Lane) {
    let message = message("wake up");
    let receive = fixture.queue.receive(lane, MAX_BATCH, LONG, Duration::from_secs(20));
    tokio::pin!(receive);
    timeout(Duration::from_millis(300), &mut receive).await.expect_err("it waits for a message");
    sender.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let received = timeout(Duration::from_secs(10), receive)
        .await
        .expect("it answers long before its wait is over")
        .unwrap();
    assert_eq!(received.iter().map(|received| &received.body).collect::<Vec<_>>(), [&message.body]);
}

/// What the health page says of a lane becomes true. Proved with messages in each of the three
/// states, and through the other handle.
async fn the_depth_tells_ready_in_flight_and_delayed(fixture: Fixture) {
    let lane = Lane::Webhooks;
    fixture
        .queue
        .send(lane, &[message("1"), message("2"), message("3"), message("4")])
        .await
        .unwrap();
    fixture.queue.send(lane, &[Outgoing { delay: LONG, ..message("later") }]).await.unwrap();
    expect_depth(&*fixture.other_queue, lane, 4, 0, 1).await;
    let received = eventually("one comes", || async {
        fixture
            .queue
            .receive(lane, 1, LONG, Duration::from_secs(1))
            .await
            .unwrap()
            .pop()
            .ok_or_else(|| "none".to_owned())
    })
    .await;
    expect_depth(&*fixture.other_queue, lane, 3, 1, 1).await;
    fixture
        .queue
        .release(lane, std::slice::from_ref(&received.receipt), Duration::ZERO)
        .await
        .unwrap();
    expect_depth(&*fixture.other_queue, lane, 4, 0, 1).await;
}
