//! The queue's basics: a message is received unchanged, through any handle, until it is
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
        a_message_is_received_unchanged_and_removed_when_acknowledged,
        a_batch_is_sent_whole_and_received_in_parts,
        a_body_is_kept_byte_for_byte,
        the_lanes_are_separate,
        a_message_over_a_limit_is_refused_alone,
        a_receive_on_an_empty_lane_returns_when_its_wait_ends,
        a_send_wakes_a_waiting_receive,
        a_send_by_another_process_wakes_a_waiting_receive,
        the_depth_counts_ready_in_flight_and_delayed,
    ]
}

/// A visibility timeout that does not end within a case.
pub(super) const LONG: Duration = Duration::from_secs(300);

/// A unique message.
pub(super) fn message(text: &str) -> Outgoing {
    Outgoing {
        body: format!(r#"{{"text":"{text}","id":"{:016x}"}}"#, rand::random::<u64>()),
        delay: Duration::ZERO,
        group: "https://example.com:443".to_owned(),
    }
}

/// Receives until the message with this body arrives. Fails on any other message.
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
        assert!(received.len() <= 1, "more than one message: {received:?}");
        if let Some(received) = received.pop() {
            assert_eq!(received.body, body);
            return received;
        }
        assert!(started.elapsed() < BOUND, "the message did not arrive");
    }
}

/// Checks that no message is visible now.
pub(super) async fn receive_none(queue: &dyn Queue, lane: Lane) {
    let received = queue.receive(lane, MAX_BATCH, LONG, Duration::ZERO).await.unwrap();
    assert_eq!(received, [], "a message is visible");
}

/// Waits until the lane has this depth.
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

/// A message is received unchanged in both lanes, and an acknowledgement removes it. The case sends
/// through one handle and receives through the other. It checks body, receive count, send time and
/// the depth afterwards.
async fn a_message_is_received_unchanged_and_removed_when_acknowledged(fixture: Fixture) {
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        let message = message("one");
        let before = fixture.now();
        fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
        let received = receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
        assert_eq!(received.receives, 1);
        assert!(!received.id.is_empty() && !received.receipt.is_empty());
        // The server's clock may differ, and may count whole seconds.
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

/// One call sends ten messages. A receive returns at most the requested number. One acknowledgement
/// removes all. The case receives one to ten messages at a time, and sends and acknowledges an
/// empty batch.
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
            assert!(bodies.insert(message.body), "a message was received twice");
            receipts.push(message.receipt);
        }
        if bodies.len() == MAX_BATCH {
            break;
        }
        assert!(started.elapsed() < BOUND, "{} of {MAX_BATCH} arrived", bodies.len());
    }
    assert_eq!(bodies, messages.into_iter().map(|message| message.body).collect());
    fixture.queue.acknowledge(Lane::Webhooks, &[]).await.unwrap();
    fixture.queue.acknowledge(Lane::Webhooks, &receipts).await.unwrap();
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
}

/// A body is returned byte for byte. The case uses quotes, line ends, astral characters, and 200
/// KiB.
async fn a_body_is_kept_byte_for_byte(fixture: Fixture) {
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

/// A message over a limit is refused alone. The case sends one over the delay limit and one over
/// the size limit, among messages within the limits.
async fn a_message_over_a_limit_is_refused_alone(fixture: Fixture) {
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

/// A message stays in the lane it was sent to. The case receives from the other lane and checks
/// both depths.
async fn the_lanes_are_separate(fixture: Fixture) {
    let message = message("letter");
    fixture.queue.send(Lane::DeadLetters, std::slice::from_ref(&message)).await.unwrap();
    receive_none(&*fixture.queue, Lane::Webhooks).await;
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
    expect_depth(&*fixture.queue, Lane::DeadLetters, 1, 0, 0).await;
    receive_one(&*fixture.queue, Lane::DeadLetters, &message.body, LONG).await;
}

/// A receive on an empty lane returns at once without a wait, and otherwise when its wait ends. The
/// case measures the time. The upper limits allow for slow machines.
async fn a_receive_on_an_empty_lane_returns_when_its_wait_ends(fixture: Fixture) {
    for (wait, least, most) in [(0, 0, 5000), (1000, 800, 10_000)] {
        let started = Instant::now();
        let received = fixture
            .queue
            .receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::from_millis(wait))
            .await
            .unwrap();
        assert_eq!(received, []);
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(least), "returned too early: {took:?}");
        assert!(took <= Duration::from_millis(most), "returned too late: {took:?}");
    }
}

/// A waiting receive returns as soon as a message is sent. The case makes sure that the receive
/// waits before the send, and that it returns long before its wait ends.
async fn a_send_wakes_a_waiting_receive(fixture: Fixture) {
    check_wake_up(&fixture, &*fixture.queue, Lane::Webhooks).await;
    check_wake_up(&fixture, &*fixture.queue, Lane::DeadLetters).await;
}

/// The same when another process sends.
async fn a_send_by_another_process_wakes_a_waiting_receive(fixture: Fixture) {
    check_wake_up(&fixture, &*fixture.other_queue, Lane::Webhooks).await;
}

async fn check_wake_up(fixture: &Fixture, sender: &dyn Queue, lane: Lane) {
    let message = message("wake up");
    let receive = fixture.queue.receive(lane, MAX_BATCH, LONG, Duration::from_secs(20));
    tokio::pin!(receive);
    timeout(Duration::from_millis(300), &mut receive).await.expect_err("the receive does not wait");
    sender.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let received = timeout(Duration::from_secs(10), receive)
        .await
        .expect("the receive does not return before its wait ends")
        .unwrap();
    assert_eq!(received.iter().map(|received| &received.body).collect::<Vec<_>>(), [&message.body]);
}

/// The depths that the health page shows become correct. The case has messages in each of the three
/// states and reads the depth through the other handle.
async fn the_depth_counts_ready_in_flight_and_delayed(fixture: Fixture) {
    let lane = Lane::Webhooks;
    fixture
        .queue
        .send(lane, &[message("1"), message("2"), message("3"), message("4")])
        .await
        .unwrap();
    fixture.queue.send(lane, &[Outgoing { delay: LONG, ..message("later") }]).await.unwrap();
    expect_depth(&*fixture.other_queue, lane, 4, 0, 1).await;
    let received = eventually("a message arrives", || async {
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
