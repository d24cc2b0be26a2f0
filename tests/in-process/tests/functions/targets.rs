//! Circuits isolate the right thing: a URL that answers 5xx, or an origin that gives no answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    circuit::Settings,
    message::Message,
    model::{ErrorKind, Webhook},
    queue::Lane,
    status::Status,
    store::StoreError,
    traffic::target::{Target, TargetKey},
    transition::next_look,
};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    receiver::{ORIGIN, Receiver, assert_delivered, key, refusal},
    world::{no_answer, status},
};

/// No retry, so that each webhook makes one attempt.
const ONE_ATTEMPT: (&str, &str) = ("RETRY_MAX_ATTEMPTS", "1");

/// Six webhooks to a path that answers 500 for each one to a healthy path of the same host: the
/// healthy ones are delivered at once, and only the circuit of the broken URL opens.
#[tokio::test]
async fn a_path_that_answers_5xx_does_not_hold_up_a_healthy_path_of_its_host() {
    let receiver = Receiver::with(&[("CIRCUIT_FAILURES", "3"), ONE_ATTEMPT], |path, _| {
        status(if path == "/broken" { 500 } else { 200 })
    });
    for _ in 0..4 {
        for _ in 0..6 {
            receiver.accept("/broken").await;
        }
        let healthy = receiver.accept("/healthy").await;
        receiver.run().await;
        assert_delivered(&receiver.world.stored(&healthy).await);
    }
    assert_eq!(receiver.count("/healthy"), 4);
    let open: Vec<_> = receiver.world.targets().await.into_iter().map(|open| open.key).collect();
    assert_eq!(open, [key("/broken")]);
    let deferred = receiver.send("/broken").await;
    assert_eq!((deferred.status, deferred.attempt_count), (Status::Retrying, 0));
}

/// Failures to get any answer open the circuit of the origin, for all its paths.
#[tokio::test]
async fn an_origin_that_gives_no_answer_holds_up_all_its_paths() {
    let receiver = Receiver::with(&[("CIRCUIT_FAILURES", "3"), ONE_ATTEMPT], |_, _| {
        no_answer(ErrorKind::Network)
    });
    for path in ["/a", "/b", "/c"] {
        assert_eq!(receiver.send(path).await.status, Status::Failed);
    }
    let deferred = receiver.send("/d").await;
    assert_eq!((deferred.status, deferred.attempt_count), (Status::Retrying, 0));
    let open: Vec<_> = receiver.world.targets().await.into_iter().map(|open| open.key).collect();
    assert_eq!(open, [key("")]);
}

/// The first failure in a row stays in memory. The second one writes both.
#[tokio::test]
async fn a_target_that_fails_once_is_not_written() {
    let receiver = Receiver::with(&[ONE_ATTEMPT], |_, before| {
        status(if [0, 2, 3].contains(&before) { 500 } else { 200 })
    });
    for failures in [0, 0, 0, 2, 0] {
        receiver.send("/hook").await;
        let target = receiver.target("/hook").await.target;
        assert_eq!(target.map_or(0, |target| target.circuit.failures), failures);
        assert_eq!(receiver.target("").await.target, None, "the origin answers");
    }
}

/// Answers that arrive at the same time are all counted: a batch of five failures opens the circuit
/// of five.
#[tokio::test]
async fn concurrent_failures_are_all_counted() {
    let settings = [("CIRCUIT_FAILURES", "5"), ONE_ATTEMPT];
    let receiver = Receiver::gathering(5, &settings, |_, _| status(500), |_| {});
    for _ in 0..5 {
        receiver.accept("/hook").await;
    }
    receiver.run().await;
    let circuit = receiver.target("/hook").await.target.unwrap().circuit;
    assert_eq!((circuit.failures, circuit.openings), (5, 1));
}

/// A gateway that answers 5xx for all of many URLs: after 20 such answers from five paths, webhooks
/// whose latest attempt got a 5xx wait, and first attempts still go. A probe that gets a 2xx closes
/// the circuit.
#[tokio::test]
async fn an_origin_that_answers_5xx_on_many_paths_holds_up_retries_only() {
    let settings =
        [("RETRY_SCHEDULE", "60s"), ("RETRY_JITTER", "0"), ("CIRCUIT_OPEN_MS", "120000")];
    let receiver =
        Receiver::with(&settings, |_, before| status(if before == 0 { 500 } else { 200 }));
    let mut failed = Vec::new();
    for n in 0..20 {
        assert_eq!(receiver.target("").await.target, None, "{n} answers");
        failed.push(receiver.send(&format!("/unique-{n}")).await);
    }
    let opened = receiver.target("").await.target.unwrap();
    assert!(opened.circuit.retries_only && opened.circuit.open_until.is_some());

    assert_eq!(receiver.send("/new").await.attempt_count, 1, "a first attempt goes");
    let still = receiver.target("").await.target.unwrap();
    assert_eq!(still.circuit.open_until, opened.circuit.open_until, "its 5xx changes nothing");
    receiver.world.advance_past(next_look(&failed[0]));
    while receiver.world.messages(Lane::Webhooks).await.0 > 0 {
        receiver.run().await;
    }
    let waiting = receiver.world.stored(&failed[0]).await;
    assert_eq!((waiting.attempt_count, waiting.budget.deferrals), (1, 1), "a retry waits");
    let all: Vec<&Webhook> = failed.iter().collect();
    receiver.run_until_ended(&all, Duration::from_secs(5)).await;
    assert_eq!(receiver.world.targets().await, [], "the probe was answered");
}

/// The same number of answers, but from four paths: these have circuits of their own.
#[tokio::test]
async fn four_failing_paths_do_not_open_their_origin() {
    let receiver = Receiver::with(&[("CIRCUIT_FAILURES", "100"), ONE_ATTEMPT], |_, _| status(500));
    for n in 0..40 {
        receiver.send(&format!("/{}", n % 4)).await;
    }
    assert_eq!(receiver.target("").await.target, None);
}

/// First attempts that get no answer open a circuit for all that was open for retries only, after
/// as many failures as any other. One does not.
#[tokio::test]
async fn a_circuit_for_retries_only_stays_one_after_a_single_failure() {
    let settings = Settings { failures: 3, ..Settings::default() };
    let receiver = Receiver::with(&[("CIRCUIT_FAILURES", "3"), ONE_ATTEMPT], |_, _| {
        no_answer(ErrorKind::Timeout)
    });
    let now = receiver.world.now();
    let open = Target::idle(key("")).opened_for_retries(&settings, now);
    receiver.world.context.store.write_target(None, &open).await.unwrap();
    for attempts in [1, 1, 1, 0] {
        assert_eq!(receiver.send("/hook").await.attempt_count, attempts);
    }
    assert!(!receiver.target("").await.target.unwrap().circuit.retries_only);
}

/// Both targets are half-open or open: the probe of the origin is leased first, then the URL
/// refuses. The lease does not stay.
#[tokio::test]
async fn a_probe_is_released_if_the_other_target_refuses() {
    let receiver = Receiver::with(&[], |_, _| status(200));
    let now = receiver.world.now();
    let store = &receiver.world.context.store;
    let settings = Settings { failures: 1, open: Duration::from_secs(1), ..Settings::default() };
    let origin = Target::idle(key("")).failed(1, &settings, now);
    store.write_target(None, &origin).await.unwrap();
    let url = Target::idle(key("/hook")).failed(1, &settings, now);
    let url = url.failed(1, &settings, url.circuit.open_until.unwrap());
    store.write_target(None, &url).await.unwrap();
    receiver.world.clock.advance(Duration::from_millis(1_200));
    let deferred = receiver.send("/hook").await;
    assert_eq!((deferred.status, deferred.attempt_count), (Status::Retrying, 0));
    assert_eq!(receiver.target("").await.target.unwrap().circuit.probe_until, None);
    assert_delivered(&receiver.send("/other").await);
    assert_eq!(receiver.target("").await.target, None, "another webhook was the probe");
}

/// A success that closes the circuit of a URL closes that of its origin in the same attempt, and
/// leaves no probe behind.
#[tokio::test]
async fn one_attempt_can_probe_both_targets() {
    let receiver = Receiver::with(&[], |_, _| status(404));
    let now = receiver.world.now();
    let settings = Settings { failures: 1, open: Duration::from_secs(1), ..Settings::default() };
    for path in ["", "/hook"] {
        let open = Target::idle(key(path)).failed(1, &settings, now);
        receiver.world.context.store.write_target(None, &open).await.unwrap();
    }
    receiver.world.clock.advance(Duration::from_secs(2));
    assert_eq!(receiver.send("/hook").await.attempt_count, 1);
    assert_eq!(receiver.world.targets().await, [], "an answer below 500 closes both");
}

/// A record of an older version has no hash of its path: its origin alone admits it, and a refusal
/// is a failure like any other.
#[tokio::test]
async fn a_record_without_a_path_hash_has_one_target() {
    let receiver = Receiver::with(&[], |_, _| refusal(429, 5));
    let webhook = receiver.world.accepted_with(ORIGIN, "/hook", None).await;
    receiver.world.send(Lane::Webhooks, &Message::with_seen(&webhook).to_json()).await;
    receiver.run().await;
    let stored = receiver.world.stored(&webhook).await;
    assert_eq!((stored.status, stored.budget.attempts), (Status::Retrying, 1));
    assert_eq!(receiver.world.targets().await, []);
}

/// Counts the reads of targets.
#[derive(Debug, Default)]
struct Reads(AtomicUsize);

#[async_trait]
impl Interceptor for Reads {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if matches!(call, Call::ReadTargets) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// With 100 other failing targets, the list lacks the one of a webhook. It is read by its key, once
/// for a batch, and again after two seconds: then another process has closed its circuit.
#[tokio::test]
async fn a_target_that_a_full_list_lacks_is_read_by_its_key() {
    let reads = Arc::new(Reads::default());
    let counting = Arc::clone(&reads) as _;
    let receiver = Receiver::changed(
        &[],
        |_, _| status(200),
        |world| {
            let inner = Arc::clone(&world.context.store);
            world.context.store = Arc::new(Intercepted { inner, interceptor: counting });
        },
    );
    let (now, store) = (receiver.world.now(), &receiver.world.context.store);
    let settings = Settings { failures: 1, ..Settings::default() };
    for n in 0..100 {
        let other = Target::idle(TargetKey::origin(&format!("https://{n}.example:443")));
        let open = other.failed(1, &settings, now.plus(Duration::from_secs(1)));
        store.write_target(None, &open).await.unwrap();
    }
    let open = Target::idle(key("/hook")).failed(1, &settings, now);
    store.write_target(None, &open).await.unwrap();
    for _ in 0..10 {
        receiver.accept("/hook").await;
    }
    receiver.run().await;
    assert_eq!(receiver.count("/hook"), 0);
    assert_eq!(reads.0.load(Ordering::SeqCst), 3, "the list, the origin and the URL");
    store.write_target(Some(open.revision), &open.succeeded(now)).await.unwrap();
    receiver.world.clock.advance(Duration::from_millis(2_100));
    assert_delivered(&receiver.send("/hook").await);
}
