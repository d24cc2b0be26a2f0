//! The dead-letter lane: after its last receive, a message moves there and is not lost.

use std::time::Duration;

use shared::queue::{Lane, MAX_BATCH, MAX_RECEIVES, Queue, Received};
use tokio::time::Instant;

use super::{
    Case, Fixture, area,
    fixture::BOUND,
    queue::{LONG, expect_depth, message, receive_one},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_message_becomes_a_dead_letter_after_its_last_receive,
        a_message_becomes_a_dead_letter_after_its_last_timeout,
        a_message_can_be_acknowledged_on_its_last_receive,
        a_dead_letter_has_no_receive_limit,
    ]
}

/// Receives the message from the dead-letter lane. Also polls the webhook lane, where it must not
/// appear again. Some servers move a message only when that lane is polled.
async fn receive_letter(queue: &dyn Queue, body: &str) -> Received {
    let started = Instant::now();
    loop {
        let again = queue.receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::ZERO).await.unwrap();
        assert_eq!(again, [], "the message is back in the webhook lane");
        let wait = Duration::from_secs(1);
        if let Some(letter) =
            queue.receive(Lane::DeadLetters, MAX_BATCH, LONG, wait).await.unwrap().pop()
        {
            assert_eq!(letter.body, body);
            return letter;
        }
        assert!(started.elapsed() < BOUND, "the message was lost");
    }
}

/// A message that is released after each receive moves to the dead-letter lane with its body, id
/// and send time. The case releases it as often as is allowed.
async fn a_message_becomes_a_dead_letter_after_its_last_receive(fixture: Fixture) {
    let message = message("always released");
    fixture.queue.send(Lane::Webhooks, std::slice::from_ref(&message)).await.unwrap();
    let mut last = None;
    for receives in 1..=MAX_RECEIVES {
        let received = receive_one(&*fixture.queue, Lane::Webhooks, &message.body, LONG).await;
        assert_eq!(received.receives, receives);
        fixture
            .other_queue
            .release(Lane::Webhooks, std::slice::from_ref(&received.receipt), Duration::ZERO)
            .await
            .unwrap();
        last = Some(received);
    }
    let last = last.unwrap();
    let letter = receive_letter(&*fixture.queue, &message.body).await;
    assert_eq!((&letter.id, letter.sent_at), (&last.id, last.sent_at));
    expect_depth(&*fixture.queue, Lane::Webhooks, 0, 0, 0).await;
    expect_depth(&*fixture.queue, Lane::DeadLetters, 0, 1, 0).await;
    fixture.queue.acknowledge(Lane::DeadLetters, &[letter.receipt]).await.unwrap();
    expect_depth(&*fixture.queue, Lane::DeadLetters, 0, 0, 0).await;
}

/// Visibility timeouts count as receives, as when workers die. The case lets the last two run out.
async fn a_message_becomes_a_dead_letter_after_its_last_timeout(fixture: Fixture) {
    let message = message("never acknowledged");
    fixture.queue.send(Lane::Webhooks, std::slice::from_ref(&message)).await.unwrap();
    for receives in 1..=MAX_RECEIVES {
        let received =
            receive_one(&*fixture.queue, Lane::Webhooks, &message.body, Duration::from_secs(1))
                .await;
        assert_eq!(received.receives, receives);
        if receives + 2 <= MAX_RECEIVES {
            fixture
                .queue
                .release(Lane::Webhooks, &[received.receipt], Duration::ZERO)
                .await
                .unwrap();
        }
    }
    receive_letter(&*fixture.other_queue, &message.body).await;
}

/// A message can be acknowledged on its last receive. Afterwards both lanes are empty.
async fn a_message_can_be_acknowledged_on_its_last_receive(fixture: Fixture) {
    let message = message("acknowledged last");
    fixture.queue.send(Lane::Webhooks, std::slice::from_ref(&message)).await.unwrap();
    for receives in 1..=MAX_RECEIVES {
        let received = receive_one(&*fixture.queue, Lane::Webhooks, &message.body, LONG).await;
        if receives < MAX_RECEIVES {
            fixture
                .queue
                .release(Lane::Webhooks, &[received.receipt], Duration::ZERO)
                .await
                .unwrap();
        } else {
            fixture.queue.acknowledge(Lane::Webhooks, &[received.receipt]).await.unwrap();
        }
    }
    for lane in [Lane::Webhooks, Lane::DeadLetters] {
        expect_depth(&*fixture.other_queue, lane, 0, 0, 0).await;
    }
}

/// A message in the dead-letter lane stays there, however often it is released. The case uses twice
/// the receives that the webhook lane allows.
async fn a_dead_letter_has_no_receive_limit(fixture: Fixture) {
    let message = message("a letter");
    fixture.queue.send(Lane::DeadLetters, std::slice::from_ref(&message)).await.unwrap();
    for receives in 1..=2 * MAX_RECEIVES {
        let received = receive_one(&*fixture.queue, Lane::DeadLetters, &message.body, LONG).await;
        assert_eq!(received.receives, receives);
        fixture
            .queue
            .release(Lane::DeadLetters, &[received.receipt], Duration::ZERO)
            .await
            .unwrap();
    }
    expect_depth(&*fixture.queue, Lane::DeadLetters, 1, 0, 0).await;
}
