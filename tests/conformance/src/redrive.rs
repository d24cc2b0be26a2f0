//! The dead-letter lane: the queue gives up on a message after so many receives, and loses nothing
//! by it.

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
        after_its_last_receive_a_message_becomes_a_dead_letter,
        a_message_whose_workers_die_becomes_a_dead_letter,
        what_is_acknowledged_on_its_last_receive_is_gone,
        a_dead_letter_is_never_given_up,
    ]
}

/// Receives the message from the dead-letter lane. Looks into the webhook lane too, where it must
/// not come again; some servers move a message only when somebody looks there.
async fn receive_letter(queue: &dyn Queue, body: &str) -> Received {
    let started = Instant::now();
    loop {
        let again = queue.receive(Lane::Webhooks, MAX_BATCH, LONG, Duration::ZERO).await.unwrap();
        assert_eq!(again, [], "the webhook lane is done with it");
        let wait = Duration::from_secs(1);
        if let Some(letter) =
            queue.receive(Lane::DeadLetters, MAX_BATCH, LONG, wait).await.unwrap().pop()
        {
            assert_eq!(letter.body, body);
            return letter;
        }
        assert!(started.elapsed() < BOUND, "it was lost");
    }
}

/// A message that is handed back on each receive moves to the other lane as it is: its body, its
/// name, the time of its sending. Proved by handing it back as often as is allowed.
async fn after_its_last_receive_a_message_becomes_a_dead_letter(fixture: Fixture) {
    let message = message("nobody wants it");
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

/// The same for a message that nobody hands back, since its workers die: its visibility timeouts
/// count as much. Proved by letting the last two run out.
async fn a_message_whose_workers_die_becomes_a_dead_letter(fixture: Fixture) {
    let message = message("it kills");
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

/// The last receive is as good as any. Proved by acknowledging then, after which neither lane holds
/// anything.
async fn what_is_acknowledged_on_its_last_receive_is_gone(fixture: Fixture) {
    let message = message("at last");
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

/// Behind the dead-letter lane there is nothing, so it keeps what it has, however often that is
/// handed back. Proved with twice the receives that the other lane allows.
async fn a_dead_letter_is_never_given_up(fixture: Fixture) {
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
