//! Every row of `deliver`'s table: its action on a message, by the record.

use std::time::Duration;

use crate::world::{World, no_answer, status};
use shared::{
    apply::apply,
    message::Message,
    model::{APPLICATIONS_SCHEMA, ClaimId, ErrorKind, Function, Webhook},
    queue::Lane,
    status::Status,
    store::DeadLetterFilter,
    transition::{Refusal, next_look},
};

/// A claim of another worker, whose lease is live.
async fn claimed_elsewhere(world: &World) -> Webhook {
    let webhook = world.accepted().await;
    world.put(&webhook, world.context.rules.claim(&webhook, ClaimId(7), world.now()).unwrap()).await
}

/// A webhook that failed and is not archived.
async fn failed(world: &World) -> Webhook {
    let webhook = world.accepted().await;
    let failed = world
        .context
        .rules
        .give_up(&webhook, shared::transition::GiveUp::Unreadable, Function::Dlq, world.now())
        .unwrap();
    world.put(&webhook, failed).await
}

#[tokio::test]
async fn a_pending_webhook_is_attempted_and_delivered() {
    let world = World::new();
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!(
        (stored.status, stored.attempt_count, stored.attempts.len()),
        (Status::Delivered, 1, 1)
    );
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn the_record_in_a_message_saves_the_read_and_is_not_trusted() {
    // The message carries the record as it was created; the stored one has been delivered since.
    let world = World::new();
    let webhook = world.accepted().await;
    let hint = Message::with_seen(&webhook).to_json();
    world.send(Lane::Webhooks, &hint).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1]);
    world.send(Lane::Webhooks, &hint).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(
        world.destination.attempts(),
        [1],
        "a duplicate message costs a look, and no attempt"
    );
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_message_of_a_deleted_webhook_is_acknowledged() {
    let world = World::new();
    let deleted = world.accepted().await;
    world.context.store.delete(&deleted.id).await.unwrap();
    world.queued(&deleted).await;
    world.send(Lane::Webhooks, &Message::with_seen(&deleted).to_json()).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [0_u32; 0]);
    world.assert_settled(&[&deleted]).await;
}

#[tokio::test]
async fn a_failed_webhook_goes_to_the_dead_letter_queue_until_it_is_archived() {
    let world = World::new();
    let webhook = failed(&world).await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.messages(Lane::DeadLetters).await, (1, 0, 0));
    assert!(world.run_dlq().await.is_empty());
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_live_lease_is_respected_and_the_message_stays_the_holder_unless_the_index_is() {
    let world = World::new();
    let webhook = claimed_elsewhere(&world).await;
    world.queued(&webhook).await;
    let back = world.run_deliver().await;
    assert_eq!(back.len(), 1, "only the message holds it: handed back");
    let now = world.now();
    let adopted = world.context.rules.rescue(&webhook, now).unwrap();
    let webhook = world.put(&webhook, adopted).await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty(), "the due index holds it: acknowledged");
    assert!(world.destination.attempts().is_empty());
}

#[tokio::test]
async fn an_expired_lease_is_recorded_as_interrupted_and_claimed_again() {
    let world = World::new();
    let webhook = claimed_elsewhere(&world).await;
    world.clock.advance(Duration::from_secs(46));
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!(stored.status, Status::Delivered);
    assert_eq!(
        stored.attempts.iter().map(|attempt| attempt.error).collect::<Vec<_>>(),
        [Some(ErrorKind::Interrupted), None]
    );
    assert_eq!(world.destination.attempts(), [2]);
    // The previous worker is still alive. Its outcome is refused.
    let report = shared::transition::Report {
        outcome: shared::retry::Outcome { error: None, status_code: Some(200), retry_after: None },
        duration: Duration::ZERO,
        message: None,
        response_excerpt: None,
    };
    let late =
        world.context.rules.conclude(&webhook, ClaimId(7), &report, world.now(), 0.5).unwrap();
    assert!(world.context.store.write(&webhook, &late).await.is_err());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn five_interrupted_attempts_fail_the_webhook() {
    let world = World::new();
    let webhook = world.accepted().await;
    for round in 1..=5_u64 {
        let stored = world.stored(&webhook).await;
        world
            .put(&stored, world.context.rules.claim(&stored, ClaimId(round), world.now()).unwrap())
            .await;
        world.clock.advance(Duration::from_secs(300));
    }
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!((stored.status, stored.attempts.len()), (Status::Failed, 5));
    assert_eq!(stored.last_error.unwrap().kind, ErrorKind::Interrupted);
    assert!(world.destination.attempts().is_empty());
    assert!(world.run_dlq().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_retry_is_queued_by_deliver_itself_and_held_by_the_due_index_too() {
    let world = World::new();
    world.destination.answer([status(500), status(500)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    let (allowed_at, due_at) = (stored.allowed_at.unwrap(), stored.due_at.unwrap());
    assert_eq!(due_at.since(allowed_at), Duration::from_secs(900));
    assert_eq!(world.messages(Lane::Webhooks).await, (0, 1, 0), "with a delay");
    // Another message comes too early. The due index holds the webhook, so it is acknowledged.
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1]);
    world.clock.advance(Duration::from_secs(7));
    assert!(world.run_deliver().await.is_empty());
    world.clock.advance(Duration::from_secs(13));
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    assert_eq!(world.destination.attempts(), [1, 2, 3]);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_long_wait_is_left_to_the_sweep() {
    let world = World::with(&[("RETRY_SCHEDULE", "10m"), ("RETRY_JITTER", "0")]);
    world.destination.answer([status(503)]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!(stored.due_at, stored.allowed_at);
    assert_eq!(world.messages(Lane::Webhooks).await, (0, 0, 0));
    world.clock.advance(Duration::from_secs(9 * 60 + 10));
    assert_eq!(world.run_sweep().await.requeued, 1, "it falls due within the next minute");
    assert_eq!(world.messages(Lane::Webhooks).await, (0, 1, 0));
    world.clock.advance(Duration::from_secs(50));
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn deliver_queues_a_webhook_itself_eight_times_in_its_life() {
    // The platform stops function-queue-function loops after 16 hops. The sweep starts a new chain.
    let world = World::with(&[
        ("RETRY_MAX_ATTEMPTS", "12"),
        ("RETRY_MAX_DELAY_MS", "5000"),
        ("CIRCUIT_FAILURES", "0"),
    ]);
    world.destination.answer((0..12).map(|_| status(500)));
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    for attempt in 1..=12 {
        assert!(world.run_deliver().await.is_empty());
        let stored = world.stored(&webhook).await;
        assert_eq!(stored.attempt_count, attempt);
        if attempt < 12 {
            assert_eq!(stored.due_at > stored.allowed_at, attempt <= 8, "attempt {attempt}");
            world.advance_past(next_look(&stored));
            world.run_sweep().await;
        }
    }
    assert!(world.run_dlq().await.is_empty());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_becomes_a_dead_letter_and_does_not_block_its_batch() {
    let world = World::new();
    let webhook = world.accepted().await;
    world.send(Lane::Webhooks, "not json").await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    assert!(world.run_dlq().await.is_empty());
    let letters =
        world.context.store.dead_letters(&DeadLetterFilter::All, None, 10).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    let (record, content) =
        world.context.store.open(&letters[0].webhook.id).await.unwrap().unwrap();
    assert_eq!(content.payload.get(), "\"not json\"");
    assert_eq!(record.last_error.unwrap().kind, ErrorKind::Undeliverable);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn messages_of_a_newer_version_are_handed_back() {
    let world = World::new();
    let newer = format!(r#"{{"v":{},"webhook_id":"x"}}"#, APPLICATIONS_SCHEMA + 1);
    world.send(Lane::Webhooks, &newer).await;
    assert_eq!(world.run_deliver().await.len(), 1);
    world.send(Lane::DeadLetters, &newer).await;
    assert_eq!(world.run_dlq().await.len(), 1);
}

#[tokio::test]
async fn no_claim_is_made_with_less_than_a_lease_left() {
    let world = World::new();
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    let batch = world.received(Lane::Webhooks).await;
    let until = world.now().plus(Duration::from_secs(44));
    let response = world.deliver().handle(local::events::sqs(Lane::Webhooks, &batch), until).await;
    assert_eq!(response.batch_item_failures.len(), 1);
    assert_eq!(world.stored(&webhook).await, webhook);
}

#[tokio::test]
async fn after_a_delete_an_outcome_brings_nothing_back() {
    // The operator deletes the webhook during its attempt.
    let world = World::new();
    let webhook = world.accepted().await;
    let (store, id) = (world.context.store.clone(), webhook.id.clone());
    world.destination.during(move |_| {
        let (store, id) = (store.clone(), id.clone());
        let delete = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(
                async {
                    store.delete(&id).await.unwrap();
                },
            );
        });
        delete.join().unwrap();
    });
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.destination.attempts(), [1]);
    assert!(world.context.store.get(&webhook.id).await.unwrap().is_none());
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn an_open_circuit_defers_without_an_attempt_and_one_probe_closes_it() {
    let world = World::with(&[("CIRCUIT_FAILURES", "2"), ("RETRY_MAX_ATTEMPTS", "1")]);
    world.destination.answer([no_answer(ErrorKind::Network), no_answer(ErrorKind::Timeout)]);
    // One process: it keeps the first failure in memory.
    let deliver = world.deliver();
    for _ in 0..2 {
        let webhook = world.accepted().await;
        world.queued(&webhook).await;
        assert!(world.run(&deliver).await.is_empty());
    }
    let open_until = world.targets().await[0].circuit.open_until.expect("it is open");
    let deferred = world.accepted().await;
    world.queued(&deferred).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&deferred).await;
    assert_eq!(
        (stored.status, stored.attempt_count, stored.budget.deferrals),
        (Status::Retrying, 0, 1)
    );
    assert!(stored.allowed_at.unwrap() >= open_until);
    assert_eq!(world.destination.attempts().len(), 2, "no attempt while it is open");
    world.advance_past(next_look(&stored));
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&deferred).await.status, Status::Delivered);
    assert_eq!(world.targets().await, [], "a closed circuit is not stored");
}

#[tokio::test]
async fn an_interrupted_attempt_at_an_open_circuit_is_recorded_and_deferred() {
    // As after a crash: the lease has expired, and the circuit opened before.
    let world = World::with(&[
        ("CIRCUIT_FAILURES", "1"),
        ("RETRY_MAX_ATTEMPTS", "1"),
        ("CIRCUIT_OPEN_MS", "600000"),
    ]);
    let interrupted = claimed_elsewhere(&world).await;
    world.clock.advance(Duration::from_secs(46));
    world.destination.answer([no_answer(ErrorKind::Network)]);
    let failing = world.accepted().await;
    world.queued(&failing).await;
    assert!(world.run_deliver().await.is_empty());
    world.queued(&interrupted).await;
    assert!(world.run_deliver().await.is_empty(), "not handed back");
    let stored = world.stored(&interrupted).await;
    assert_eq!(
        (stored.status, stored.budget.interrupted, stored.budget.deferrals),
        (Status::Retrying, 1, 1)
    );
    assert_eq!(stored.attempts[0].error, Some(ErrorKind::Interrupted));
    assert_eq!(world.destination.attempts().len(), 1, "no attempt while it is open");
}

#[tokio::test]
async fn a_fault_of_this_machine_is_not_charged_to_the_destination() {
    let world = World::with(&[("CIRCUIT_FAILURES", "1")]);
    world
        .destination
        .answer([shared::sender::Answer { is_our_fault: true, ..no_answer(ErrorKind::Network) }]);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty(), "it waits, with a message and in the due index");
    assert_eq!(world.targets().await, []);
    let waiting = world.stored(&webhook).await;
    assert_eq!(
        (waiting.status, waiting.budget.attempts, waiting.budget.interrupted),
        (Status::Retrying, 0, 0)
    );
    assert_eq!(waiting.attempts[0].message.as_deref(), Some("nothing was sent: as the test says"));
    world.advance_past(next_look(&waiting));
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    world.assert_settled(&[&webhook]).await;
}

#[tokio::test]
async fn a_probe_without_an_attempt_lets_the_next_webhook_probe() {
    // The probe's webhook is deleted between the look and the claim.
    let world = World::with(&[
        ("CIRCUIT_FAILURES", "1"),
        ("RETRY_MAX_ATTEMPTS", "1"),
        ("CIRCUIT_OPEN_MS", "1000"),
    ]);
    world.destination.answer([no_answer(ErrorKind::Network)]);
    let failing = world.accepted().await;
    world.queued(&failing).await;
    assert!(world.run_deliver().await.is_empty());
    world.clock.advance(Duration::from_secs(2));
    let (deleted, next) = (world.accepted().await, world.accepted().await);
    world.context.store.delete(&deleted.id).await.unwrap();
    world.send(Lane::Webhooks, &Message::with_seen(&deleted).to_json()).await;
    assert!(world.run_deliver().await.is_empty());
    world.queued(&next).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&next).await.status, Status::Delivered, "it was the probe");
}

#[tokio::test]
async fn a_webhook_that_was_deferred_for_too_long_fails_after_an_attempt() {
    let world = World::with(&[
        ("CIRCUIT_FAILURES", "1"),
        ("MAX_DEFER_MS", "1000"),
        ("RETRY_CLIENT_ERROR_MAX_ATTEMPTS", "1"),
    ]);
    world.destination.answer([no_answer(ErrorKind::Network), no_answer(ErrorKind::Network)]);
    let first = world.accepted().await;
    world.queued(&first).await;
    assert!(world.run_deliver().await.is_empty());
    let second = world.accepted().await;
    world.queued(&second).await;
    assert!(world.run_deliver().await.is_empty());
    let tried = world.stored(&second).await;
    assert_eq!(
        (tried.status, tried.attempt_count),
        (Status::Retrying, 1),
        "it is attempted, because it has had no attempt"
    );
    for webhook in [&first, &second] {
        world.advance_past(next_look(&world.stored(webhook).await));
        assert!(world.run_deliver().await.is_empty());
        let stored = world.stored(webhook).await;
        assert_eq!((stored.status, stored.attempt_count), (Status::Failed, 1));
        assert_eq!(stored.last_error.unwrap().kind, ErrorKind::CircuitOpen);
    }
    assert!(world.run_dlq().await.is_empty());
    world.assert_settled(&[&first, &second]).await;
}

#[tokio::test]
async fn an_operator_may_resend_while_a_stale_message_is_still_around() {
    // Delivered, then resent: attempt numbers continue, and the budget is reset.
    let world = World::new();
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let delivered = world.stored(&webhook).await;
    let now = world.now();
    apply(&*world.context.store, delivered, |webhook| world.context.rules.resend(webhook, now))
        .await
        .unwrap();
    world.queued(&webhook).await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!(
        (stored.status, stored.attempt_count, stored.budget.attempts),
        (Status::Delivered, 2, 1)
    );
    assert_eq!(
        world.context.rules.claim(&stored, ClaimId(1), world.now()),
        Err(Refusal::Finished(Status::Delivered))
    );
    world.assert_settled(&[&webhook]).await;
}

/// A panic over one webhook does not affect the rest of its batch. Its own attempt counts as
/// interrupted, and the next one starts once the lease is over.
#[tokio::test]
async fn a_panic_over_one_webhook_does_not_end_the_attempts_of_its_batch() {
    let world = World::new();
    let mut webhooks = Vec::new();
    for _ in 0..3 {
        let webhook = world.accepted().await;
        world.queued(&webhook).await;
        webhooks.push(webhook);
    }
    let unlucky = webhooks[0].id.clone();
    world.destination.during(move |request| {
        assert!(*request.webhook_id != unlucky || request.attempt > 1, "on purpose");
    });
    let back = world.run_deliver().await;
    assert_eq!(back.len(), 1);
    assert_eq!(Message::from_json(&back[0].body).unwrap().webhook_id, webhooks[0].id);
    for webhook in &webhooks[1..] {
        assert_eq!(world.stored(webhook).await.status, Status::Delivered);
    }
    world.clock.advance(Duration::from_secs(361));
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhooks[0]).await;
    let errors: Vec<_> = stored.attempts.iter().map(|attempt| attempt.error).collect();
    assert_eq!(
        (stored.status, errors),
        (Status::Delivered, vec![Some(ErrorKind::Interrupted), None])
    );
    world.assert_settled(&webhooks.iter().collect::<Vec<_>>()).await;
}
