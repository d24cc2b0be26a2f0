//! Visibility: a hidden message becomes visible at its time, not before, and only the latest
//! receipt is valid.
//!
//! Servers use their own clock here, so these cases let real seconds pass: as few as the coarsest
//! backend can measure.

use std::time::Duration;

use shared::queue::{Lane, Outgoing};
use tokio::time::Instant;

use super::{
    Case, Fixture, area,
    queue::{LONG, expect_depth, message, receive_none, receive_one},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_delay_is_honored_and_not_rounded_up,
        an_unacknowledged_message_is_received_again,
        an_outdated_receipt_has_no_effect,
        the_latest_receipt_is_valid_after_its_timeout,
        a_released_message_is_visible_at_once,
        a_message_released_with_a_delay_is_visible_after_it,
        the_receipt_of_a_released_message_is_invalid,
        a_second_acknowledgement_has_no_effect,
    ]
}

/// The error of a server that counts time in ticks.
const TICK: Duration = Duration::from_millis(100);

/// A delayed message becomes visible soon after its delay, and not before the delay in whole
/// seconds, rounded down. The case uses a delay with a fraction, in both lanes.
async fn a_delay_is_honored_and_not_rounded_up(fixture: Fixture) {
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        let message = Outgoing { delay: Duration::from_millis(1500), ..message("later") };
        let started = Instant::now();
        fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
        receive_none(&*fixture.queue, lane).await;
        receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
        let took = started.elapsed();
        assert!(took + TICK >= Duration::from_secs(1), "{took:?}");
        assert!(took < Duration::from_secs(8), "{took:?}");
    }
}

/// A worker that dies loses no message. After the visibility timeout the same message is received
/// again, with a higher count. The case repeats this three times, through both handles.
async fn an_unacknowledged_message_is_received_again(fixture: Fixture) {
    let message = message("again");
    fixture.queue.send(Lane::Webhooks, std::slice::from_ref(&message)).await.unwrap();
    let mut received_at = Instant::now();
    let first =
        receive_one(&*fixture.queue, Lane::Webhooks, &message.body, Duration::from_secs(1)).await;
    receive_none(&*fixture.other_queue, Lane::Webhooks).await;
    for receives in 2..=4 {
        let again = receive_one(
            &*fixture.other_queue,
            Lane::Webhooks,
            &message.body,
            Duration::from_secs(1),
        )
        .await;
        assert!(
            received_at.elapsed() + TICK >= Duration::from_secs(1),
            "visible too early: {:?}",
            received_at.elapsed()
        );
        received_at = Instant::now();
        assert_eq!(
            (&again.id, again.receives, again.sent_at),
            (&first.id, receives, first.sent_at)
        );
    }
}

/// A slow worker cannot acknowledge or release a message that another worker has received since.
/// The case uses the first receipt after the second receive. The message stays hidden, and the
/// second receipt stays valid.
async fn an_outdated_receipt_has_no_effect(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("late");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let first = receive_one(&*fixture.queue, lane, &message.body, Duration::from_secs(1)).await;
    let second = receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
    assert_ne!(first.receipt, second.receipt);
    fixture
        .queue
        .release(lane, std::slice::from_ref(&first.receipt), Duration::ZERO)
        .await
        .unwrap();
    receive_none(&*fixture.queue, lane).await;
    fixture.queue.acknowledge(lane, std::slice::from_ref(&first.receipt)).await.unwrap();
    expect_depth(&*fixture.queue, lane, 0, 1, 0).await;
    fixture
        .other_queue
        .release(lane, std::slice::from_ref(&second.receipt), Duration::ZERO)
        .await
        .unwrap();
    let third = receive_one(&*fixture.queue, lane, &message.body, LONG).await;
    assert_eq!(third.receives, 3);
    fixture.queue.acknowledge(lane, &[third.receipt]).await.unwrap();
    expect_depth(&*fixture.queue, lane, 0, 0, 0).await;
}

/// A slow worker can acknowledge its message after the visibility timeout, while no other worker
/// has received it. The case acknowledges once the message is visible again.
async fn the_latest_receipt_is_valid_after_its_timeout(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("slow");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let received = receive_one(&*fixture.queue, lane, &message.body, Duration::from_secs(1)).await;
    expect_depth(&*fixture.queue, lane, 1, 0, 0).await;
    fixture.other_queue.acknowledge(lane, &[received.receipt]).await.unwrap();
    expect_depth(&*fixture.queue, lane, 0, 0, 0).await;
    receive_none(&*fixture.queue, lane).await;
}

/// A released message is visible at once, and an older received message stays hidden. The case uses
/// two messages.
async fn a_released_message_is_visible_at_once(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let (kept, back) = (message("kept"), message("back"));
    fixture.queue.send(lane, std::slice::from_ref(&kept)).await.unwrap();
    receive_one(&*fixture.queue, lane, &kept.body, LONG).await;
    fixture.queue.send(lane, std::slice::from_ref(&back)).await.unwrap();
    let first = receive_one(&*fixture.queue, lane, &back.body, LONG).await;
    fixture.queue.release(lane, &[first.receipt], Duration::ZERO).await.unwrap();
    let again = receive_one(&*fixture.other_queue, lane, &back.body, LONG).await;
    assert_eq!((again.id, again.receives), (first.id, 2));
}

/// A message that is released with a delay stays hidden for that delay, whatever its visibility
/// timeout was. The case releases for one second after a long timeout.
async fn a_message_released_with_a_delay_is_visible_after_it(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("later");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let first = receive_one(&*fixture.queue, lane, &message.body, LONG).await;
    let released = Instant::now();
    fixture.queue.release(lane, &[first.receipt], Duration::from_secs(1)).await.unwrap();
    receive_none(&*fixture.queue, lane).await;
    let again = receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
    assert!(released.elapsed() + TICK >= Duration::from_secs(1), "{:?}", released.elapsed());
    assert!(released.elapsed() < Duration::from_secs(8), "{:?}", released.elapsed());
    assert_eq!((again.id, again.receives), (first.id, 2));
}

/// A receipt is invalid once its message was released and received again. The case uses the first
/// receipt after that.
async fn the_receipt_of_a_released_message_is_invalid(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("released");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let first = receive_one(&*fixture.queue, lane, &message.body, LONG).await;
    fixture
        .queue
        .release(lane, std::slice::from_ref(&first.receipt), Duration::ZERO)
        .await
        .unwrap();
    receive_one(&*fixture.other_queue, lane, &message.body, LONG).await;
    fixture.queue.acknowledge(lane, std::slice::from_ref(&first.receipt)).await.unwrap();
    fixture.queue.release(lane, &[first.receipt], Duration::ZERO).await.unwrap();
    expect_depth(&*fixture.queue, lane, 0, 1, 0).await;
    receive_none(&*fixture.queue, lane).await;
}

/// A client that lost the response acknowledges again. The case does so, and a second message in
/// the lane stays.
async fn a_second_acknowledgement_has_no_effect(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("twice");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let received = receive_one(&*fixture.queue, lane, &message.body, LONG).await;
    fixture.queue.acknowledge(lane, std::slice::from_ref(&received.receipt)).await.unwrap();
    fixture.queue.send(lane, &[super::queue::message("another")]).await.unwrap();
    fixture.other_queue.acknowledge(lane, std::slice::from_ref(&received.receipt)).await.unwrap();
    fixture.other_queue.release(lane, &[received.receipt], Duration::ZERO).await.unwrap();
    expect_depth(&*fixture.queue, lane, 1, 0, 0).await;
}
