//! The budgets that can end a webhook besides its retry policy. No limit of Posthaste fails a
//! webhook that was never attempted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::{
    message::Message,
    model::{ErrorKind, Why},
    queue::{Lane, MAX_RECEIVES},
    random::{Random, SystemRandom},
    status::Status,
    transition::next_look,
};

use conformance::TestClock;

use crate::world::{World, no_answer, status};

/// While `deliver` is throttled for days, the queue counts receives that no function sees, and
/// gives up repeatedly. The webhook waits, and is delivered once `deliver` runs.
#[tokio::test]
async fn a_throttled_deliver_fails_nothing() {
    let world = World::new();
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    let mut waits = Vec::new();
    for _ in 0..6 {
        for _ in 0..MAX_RECEIVES {
            assert!(
                !world.received(Lane::Webhooks).await.is_empty(),
                "received, but not processed"
            );
            world.clock.advance(Duration::from_secs(361));
        }
        // The queue moves it at the next receive.
        world.received(Lane::Webhooks).await;
        assert!(world.run_dlq().await.is_empty());
        let stored = world.stored(&webhook).await;
        assert_eq!(
            (stored.status, stored.budget.rescues),
            (Status::Pending, 0),
            "no rescue is spent"
        );
        waits.push(stored.due_at.unwrap().since(stored.updated_at).as_secs() / 60);
        world.advance_past(stored.due_at.unwrap());
        assert_eq!(world.run_sweep().await.requeued, 1);
    }
    assert_eq!(waits, [0, 15, 30, 60, 120, 240]);
    while world.stored(&webhook).await.status == Status::Pending {
        assert!(world.run_deliver().await.is_empty());
        world.clock.advance(Duration::from_secs(361));
    }
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
}

/// The host limit and the circuit have separate budgets: with the former used up, an open circuit
/// still defers.
#[tokio::test]
async fn an_open_circuit_defers_a_webhook_that_used_up_its_host_limit_deferrals() {
    let world = World::with(&[("CIRCUIT_FAILURES", "1"), ("MAX_DEFER_MS", "600000")]);
    world.destination.answer([no_answer(ErrorKind::Network)]);
    let webhook = world.accepted().await;
    let (now, most) = (world.now(), Duration::from_secs(600));
    let deferred =
        world.context.rules.defer(&webhook, now.plus(most), Why::RateLimit, now).unwrap();
    let webhook = world.put(&webhook, deferred).await;
    world.clock.advance(most);
    let failing = world.accepted().await;
    world.queued(&failing).await;
    assert!(world.run_deliver().await.is_empty());
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    let deferred = world.stored(&webhook).await;
    assert_eq!(
        (deferred.status, deferred.attempt_count, deferred.budget.host_deferred_ms),
        (Status::Retrying, 0, 600_000)
    );
    assert!((1..600_000).contains(&deferred.budget.deferred_ms), "{:?}", deferred.budget);
}

/// An untried webhook is attempted despite an open circuit, and its success closes the circuit.
#[tokio::test]
async fn an_untried_webhook_can_close_an_open_circuit() {
    let world = World::with(&[("CIRCUIT_FAILURES", "1"), ("MAX_DEFER_MS", "0")]);
    world.destination.answer([no_answer(ErrorKind::Network)]);
    let failing = world.accepted().await;
    world.queued(&failing).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.targets().await.len(), 1);
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&webhook).await.status, Status::Delivered);
    assert_eq!(world.targets().await, []);
}

/// After the first interruption the next attempt starts at once. After the second the webhook
/// waits, with a message and in the due index.
#[tokio::test]
async fn an_attempt_that_is_interrupted_again_waits() {
    let world = World::new();
    let mut webhook = world.accepted().await;
    for claim in 1..=2 {
        let claimed = world
            .context
            .rules
            .claim(&webhook, shared::model::ClaimId(claim), world.now())
            .unwrap();
        webhook = world.put(&webhook, claimed).await;
        world.clock.advance(Duration::from_secs(45));
    }
    let resumes_at = world.context.rules.resumes_at(&webhook).unwrap();
    world.queued(&webhook).await;
    assert!(world.run_deliver().await.is_empty(), "its message is acknowledged");
    let waiting = world.stored(&webhook).await;
    assert_eq!(
        (waiting.status, waiting.allowed_at, waiting.attempts.len()),
        (Status::Retrying, Some(resumes_at), 2)
    );
    assert!(waiting.due_at > waiting.allowed_at && world.destination.attempts().is_empty());
    assert_eq!(world.messages(Lane::Webhooks).await, (0, 1, 0));
    world.advance_past(resumes_at);
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    assert_eq!((stored.status, stored.budget.interrupted), (Status::Delivered, 0));
    assert_eq!(world.destination.attempts(), [3]);
    world.assert_settled(&[&webhook]).await;
}

/// Advances the clock when the next random number is drawn, just before a claim is written. This
/// simulates a suspended process or a slow store.
#[derive(Debug)]
struct SlowClaim {
    clock: Arc<TestClock>,
    takes: Duration,
    done: AtomicBool,
}

impl Random for SlowClaim {
    fn next_u64(&self) -> u64 {
        if !self.done.swap(true, Ordering::SeqCst) {
            self.clock.advance(self.takes);
        }
        SystemRandom.next_u64()
    }
}

/// A claim that takes most of the attempt's time is no fault of the destination: nothing is sent,
/// and neither the destination nor the webhook is charged.
#[tokio::test]
async fn a_slow_claim_is_no_timeout_of_the_destination() {
    for takes in [23, 31, 44] {
        let mut world = World::with(&[("CIRCUIT_FAILURES", "1")]);
        let slow = SlowClaim {
            clock: Arc::clone(&world.clock),
            takes: Duration::from_secs(takes),
            done: AtomicBool::new(false),
        };
        let webhook = world.accepted().await;
        world.context.random = Arc::new(slow);
        world.queued(&webhook).await;
        assert!(world.run_deliver().await.is_empty());
        let waiting = world.stored(&webhook).await;
        assert!(world.destination.attempts().is_empty() && world.targets().await.is_empty());
        assert_eq!(
            (waiting.status, waiting.budget.attempts, waiting.budget.interrupted),
            (Status::Retrying, 0, 0)
        );
        let noted = waiting.attempts[0].message.as_deref().unwrap();
        assert!(noted.starts_with("nothing was sent: the claim took "), "{noted}");
        world.advance_past(next_look(&waiting));
        assert!(world.run_deliver().await.is_empty());
        let stored = world.stored(&webhook).await;
        assert_eq!(
            (stored.status, stored.attempt_count, stored.budget.attempts),
            (Status::Delivered, 2, 1)
        );
        world.assert_settled(&[&webhook]).await;
    }
}

/// The claim of a probe that sent nothing gives its lease back: the next webhook probes.
#[tokio::test]
async fn a_probe_whose_claim_took_too_long_lets_the_next_webhook_probe() {
    let world = World::with(&[
        ("CIRCUIT_FAILURES", "1"),
        ("CIRCUIT_OPEN_MS", "1000"),
        ("RETRY_MAX_ATTEMPTS", "1"),
    ]);
    world.destination.answer([no_answer(ErrorKind::Network)]);
    let failing = world.accepted().await;
    world.queued(&failing).await;
    assert!(world.run_deliver().await.is_empty());
    world.clock.advance(Duration::from_secs(3));
    let (probe, next) = (world.accepted().await, world.accepted().await);
    let slow = SlowClaim {
        clock: Arc::clone(&world.clock),
        takes: Duration::from_secs(31),
        done: AtomicBool::new(false),
    };
    let mut context = world.context.clone();
    context.random = Arc::new(slow);
    world.queued(&probe).await;
    let batch = world.received(Lane::Webhooks).await;
    let until = world.now().plus(Duration::from_secs(200));
    let deliver = deliver::Deliver::new(context, Arc::clone(&world.sender));
    assert!(
        deliver
            .handle(local::events::sqs(Lane::Webhooks, &batch[..1]), until)
            .await
            .batch_item_failures
            .is_empty()
    );
    let [target] = &world.targets().await[..] else { panic!("one target") };
    assert_eq!((target.circuit.failures, target.circuit.probe_until), (1, None));
    world.send(Lane::Webhooks, &Message::look_at(next.id.clone()).to_json()).await;
    assert!(world.run_deliver().await.is_empty());
    assert_eq!(world.stored(&next).await.status, Status::Delivered);
}

/// A process that stands still in the middle of an attempt tells nothing of the destination either.
/// Whether the request arrived is not known, so that attempt is interrupted.
#[tokio::test]
async fn a_standstill_during_an_attempt_is_no_timeout_of_the_destination() {
    let world = World::with(&[("CIRCUIT_FAILURES", "1")]);
    world.destination.answer([no_answer(ErrorKind::Timeout), status(200)]);
    let clock = Arc::clone(&world.clock);
    let stopped = AtomicBool::new(false);
    world.destination.during(move |_| {
        if !stopped.swap(true, Ordering::SeqCst) {
            clock.advance(Duration::from_secs(36));
        }
    });
    let webhook = world.accepted().await;
    world.queued(&webhook).await;
    assert_eq!(world.run_deliver().await.len(), 1, "handed back");
    assert_eq!(world.targets().await, []);
    world.clock.advance(Duration::from_secs(361));
    assert!(world.run_deliver().await.is_empty());
    let stored = world.stored(&webhook).await;
    let errors: Vec<_> = stored.attempts.iter().map(|attempt| attempt.error).collect();
    assert_eq!(
        (stored.status, errors),
        (Status::Delivered, vec![Some(ErrorKind::Interrupted), None])
    );
    world.assert_settled(&[&webhook]).await;
}
