//! Visibility: what is hidden comes back, not before its time, and only the latest receipt counts.
//!
//! Servers go by their own clock here, so these cases let real seconds pass, as few as the coarsest
//! backend can tell apart. They wait for what must come, never for what must not.

use std::time::Duration;

use shared::queue::{Lane, Outgoing};
use tokio::time::Instant;

use super::{
    Case, Fixture, area,
    queue::{LONG, expect_depth, message, receive_none, receive_one},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_delay_is_kept_and_not_rounded_up,
        what_is_not_acknowledged_comes_back,
        a_late_receipt_does_nothing,
        the_latest_receipt_counts_also_after_its_time,
        what_is_released_comes_back_at_once,
        what_is_released_with_a_delay_comes_back_after_it,
        a_released_message_s_receipt_is_used_up,
        acknowledging_twice_harms_nobody,
    ]
}

/// What a server may lose by counting in its own ticks.
const TICK: Duration = Duration::from_millis(100);

/// A delayed message is not seen before its delay, rounded down to whole seconds, and soon after
/// it. Proved with one that has a fraction, in both lanes.
async fn a_delay_is_kept_and_not_rounded_up(fixture: Fixture) {
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

/// A worker that dies loses no message: after the visibility timeout it comes again, as the same
/// message, received once more. Proved through both handles, three times over.
async fn what_is_not_acknowledged_comes_back(fixture: Fixture) {
    let message = message("again");
    fixture.queue.send(Lane::Webhooks, std::slice::from_ref(&message)).await.unwrap();
    let mut asked = Instant::now();
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
            asked.elapsed() + TICK >= Duration::from_secs(1),
            "hidden for its time: {:?}",
            asked.elapsed()
        );
        asked = Instant::now();
        assert_eq!(
            (&again.id, again.receives, again.sent_at),
            (&first.id, receives, first.sent_at)
        );
    }
}

/// A worker that was too slow must not acknowledge or release what another works on now. Proved
/// with the first receipt after the second receive: the message stays hidden, and the second
/// receipt still counts.
async fn a_late_receipt_does_nothing(fixture: Fixture) {
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

/// A worker that was slow, but not so slow that another took the message, is done with it. Proved
/// by acknowledging once the message is seen to be visible again.
async fn the_latest_receipt_counts_also_after_its_time(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("slow");
    fixture.queue.send(lane, std::slice::from_ref(&message)).await.unwrap();
    let received = receive_one(&*fixture.queue, lane, &message.body, Duration::from_secs(1)).await;
    expect_depth(&*fixture.queue, lane, 1, 0, 0).await;
    fixture.other_queue.acknowledge(lane, &[received.receipt]).await.unwrap();
    expect_depth(&*fixture.queue, lane, 0, 0, 0).await;
    receive_none(&*fixture.queue, lane).await;
}

/// A message that is handed back is there for the next worker at once, and the others of its batch
/// stay hidden. Proved with two.
async fn what_is_released_comes_back_at_once(fixture: Fixture) {
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

/// A message that is handed back for later stays hidden until then, whatever its visibility timeout
/// was. Proved with one second after a long timeout.
async fn what_is_released_with_a_delay_comes_back_after_it(fixture: Fixture) {
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

/// Once it was handed back and taken by another, a message is that one's alone. Proved with the
/// first receipt after a release.
async fn a_released_message_s_receipt_is_used_up(fixture: Fixture) {
    let lane = Lane::Webhooks;
    let message = message("handed back");
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

/// A client that lost the answer acknowledges again. Proved by doing so, with another message in
/// the lane that must stay.
async fn acknowledging_twice_harms_nobody(fixture: Fixture) {
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
