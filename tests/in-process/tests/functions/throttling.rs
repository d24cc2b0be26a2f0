//! Pauses: a receiver that answers 429, or 503 with `Retry-After`, gets no request before its pause
//! ends, and no webhook spends an attempt by that.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::{
    circuit::Settings,
    message::Message,
    model::{ErrorKind, Webhook, Why},
    queue::Lane,
    sender::{Answer, Lookup, Request, Sender},
    status::Status,
    store::StoreError,
    traffic::target::Target,
};
use tokio::sync::Semaphore;

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    receiver::{Receiver, assert_delivered, key, refusal},
    world::{World, status},
};

/// A receiver that refuses the first request for `/limited` with this answer.
fn refusing_once(settings: &[(&str, &str)], code: u16, retry_after_s: u64) -> Receiver {
    Receiver::with(settings, move |path, before| {
        if path == "/limited" && before == 0 { refusal(code, retry_after_s) } else { status(200) }
    })
}

/// The refused webhook spends no attempt. Its siblings are not attempted before the pause ends, in
/// this process and in another one. Another path of the host is. In the end all are delivered.
#[tokio::test]
async fn a_refused_webhook_spends_no_attempt_and_its_siblings_wait() {
    for code in [429, 503] {
        let receiver = refusing_once(&[], code, 60);
        let refused = receiver.send("/limited").await;
        assert_eq!((refused.status, refused.attempt_count), (Status::Retrying, 1));
        let (budget, listed) = (refused.budget, refused.attempts.len());
        assert_eq!((budget.attempts, budget.throttled, listed), (0, 1, 1));
        assert!(budget.paused_ms > 0 && refused.slot.is_some());
        assert_eq!(refused.history.last().unwrap().why, Some(Why::RetryAfter));
        let pace = receiver.target("/limited").await.target.unwrap().pace.unwrap();

        let mut siblings = Vec::new();
        for n in 0..4 {
            siblings.push(receiver.accept("/limited").await);
            if n == 2 {
                receiver.run_in(&receiver.world.deliver()).await;
            }
        }
        assert_delivered(&receiver.send("/free").await);
        let mut all = vec![&refused];
        all.extend(&siblings);
        receiver.run_until_ended(&all, Duration::from_secs(1)).await;
        for webhook in all {
            let stored = receiver.world.stored(webhook).await;
            assert_delivered(&stored);
            let attempts = 1 + u32::from(webhook.id == refused.id);
            assert_eq!(stored.attempt_count, attempts, "no attempt is wasted");
        }
        let arrived = receiver.arrived();
        let early = arrived.iter().filter(|one| one.path == "/limited" && one.at < pace.resume_at);
        assert_eq!(early.count(), 1, "only the refused one");
        receiver.world.assert_settled(&[&refused]).await;
    }
}

/// A 503 without `Retry-After` is a failure like any other.
#[tokio::test]
async fn a_503_without_retry_after_pauses_nothing() {
    let receiver = Receiver::with(&[], |_, before| status(if before == 0 { 503 } else { 200 }));
    let failed = receiver.send("/limited").await;
    assert_eq!((failed.status, failed.budget.attempts), (Status::Retrying, 1));
    assert_eq!(receiver.target("/limited").await.target, None);
    assert_delivered(&receiver.send("/limited").await);
}

/// The pause takes the place of the circuit, also if the refused request was its probe.
#[tokio::test]
async fn a_pause_closes_the_circuit_of_its_url() {
    let receiver = refusing_once(&[], 429, 5);
    let settings = Settings { failures: 1, open: Duration::from_secs(1), ..Settings::default() };
    let open = Target::idle(key("/limited")).failed(1, &settings, receiver.world.now());
    receiver.world.context.store.write_target(None, &open).await.unwrap();
    receiver.world.clock.advance(Duration::from_secs(2));
    let refused = receiver.send("/limited").await;
    let target = receiver.target("/limited").await.target.unwrap();
    assert!(target.circuit.is_idle() && target.pace.is_some(), "{target:?}");
    receiver.run_until_ended(&[&refused], Duration::from_secs(1)).await;
    assert_delivered(&receiver.world.stored(&refused).await);
}

/// With the breaker off, a refusal still pauses.
#[tokio::test]
async fn without_circuits_there_are_pauses() {
    let receiver = refusing_once(&[("CIRCUIT_FAILURES", "0")], 429, 60);
    receiver.send("/limited").await;
    let waiting = receiver.send("/limited").await;
    assert_eq!((waiting.attempt_count, receiver.count("/limited")), (0, 1));
}

/// Once the test says so: holds back refusals until two requests have arrived, and successes until
/// the test lets them go.
#[derive(Debug)]
struct SlowSuccesses {
    inner: Arc<dyn Sender>,
    is_on: AtomicBool,
    arrived: AtomicUsize,
    let_go: Semaphore,
}

#[async_trait]
impl Lookup for SlowSuccesses {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.inner.lookup(host).await
    }
}

#[async_trait]
impl Sender for SlowSuccesses {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let answer = self.inner.send(request, deadline).await;
        if !self.is_on.load(Ordering::SeqCst) {
            return answer;
        }
        self.arrived.fetch_add(1, Ordering::SeqCst);
        if answer.status_code == Some(200) {
            self.let_go.acquire().await.unwrap().forget();
        }
        while self.arrived.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answer
    }
}

/// An answer that arrives after a newer pause was written leaves the pause as it is, also in the
/// memory of the process. Tested with two requests within a learned rate: one is refused, and the
/// other one succeeds after the refusal was recorded.
#[tokio::test]
async fn a_late_success_does_not_end_a_newer_pause() {
    let mut slow = None;
    let receiver = Receiver::changed(
        &[],
        |path, before| match (path, before) {
            ("/limited", 0) => refusal(429, 1),
            ("/limited", 2) => refusal(429, 300),
            _ => status(200),
        },
        |world| {
            let (inner, is_on) = (Arc::clone(&world.sender), AtomicBool::new(false));
            let (arrived, let_go) = (AtomicUsize::new(0), Semaphore::new(0));
            let sender = Arc::new(SlowSuccesses { inner, is_on, arrived, let_go });
            world.sender = Arc::clone(&sender) as _;
            slow = Some(sender);
        },
    );
    let slow = slow.unwrap();
    let first = receiver.send("/limited").await;
    receiver.run_until_ended(&[&first], Duration::from_secs(1)).await;
    receiver.world.clock.advance(Duration::from_secs(20));
    slow.is_on.store(true, Ordering::SeqCst);
    let pair = [receiver.accept("/limited").await, receiver.accept("/limited").await];
    let refused = async {
        loop {
            for webhook in &pair {
                if receiver.world.stored(webhook).await.budget.throttled == 1 {
                    slow.let_go.add_permits(1);
                    return;
                }
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused);
    let (_, refused) = tokio::join!(receiver.world.run(&receiver.deliver), refused);
    refused.unwrap();
    assert_eq!(receiver.count("/limited"), 4);
    slow.is_on.store(false, Ordering::SeqCst);
    receiver.send("/limited").await;
    assert_eq!(receiver.count("/limited"), 4, "the process knows of the pause");
}

/// A batch that is refused as a whole writes the pause once.
#[tokio::test]
async fn a_batch_of_refusals_writes_one_pause() {
    let calls = Arc::new(Calls::default());
    let counting = Arc::clone(&calls);
    let answer = |_: &str, _| refusal(429, 60);
    let receiver = Receiver::gathering(8, &[], answer, |world| count_calls(world, counting));
    for _ in 0..8 {
        receiver.accept("/limited").await;
    }
    // No time passes: a later refusal would extend the pause.
    let run = receiver.world.run(&receiver.deliver);
    let back = tokio::time::timeout(Duration::from_secs(60), run).await;
    assert!(back.expect("it takes too long").is_empty());
    assert_eq!(receiver.count("/limited"), 8);
    assert_eq!(calls.target_writes.load(Ordering::SeqCst), 1);
}

#[derive(Debug, Default)]
struct Calls {
    writes: AtomicUsize,
    target_writes: AtomicUsize,
}

#[async_trait]
impl Interceptor for Calls {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::Write(_) => self.writes.fetch_add(1, Ordering::SeqCst),
            Call::WriteTarget => self.target_writes.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Ok(())
    }
}

fn count_calls(world: &mut World, calls: Arc<Calls>) {
    let inner = Arc::clone(&world.context.store);
    world.context.store = Arc::new(Intercepted { inner, interceptor: calls });
}

/// A webhook that waits for up to 600 s writes nothing. Its message carries its slot, how often it
/// waited and for how long. After eight messages, a write takes over, and charges all of it.
#[tokio::test]
async fn a_short_wait_writes_nothing_and_keeps_its_slot() {
    let calls = Arc::new(Calls::default());
    let counting = Arc::clone(&calls);
    let answer = |_: &str, _| refusal(429, 3_000);
    let receiver = Receiver::changed(&[], answer, |world| count_calls(world, counting));
    receiver.send("/limited").await;
    let generation = receiver.target("/limited").await.target.unwrap().pace.unwrap().generation();
    let written = calls.writes.load(Ordering::SeqCst);
    let waiting = receiver.send("/limited").await;
    let mut last = Message::look_at(waiting.id.clone());
    for relays in 1..=3 {
        let sent = next_message(&receiver, &waiting).await;
        assert_eq!(sent.relays, relays);
        assert!(sent.paused_ms >= last.paused_ms + 1_000, "{}", sent.paused_ms);
        assert_eq!(sent.slot.as_ref().unwrap().generation, generation);
        assert!(relays == 1 || sent.slot == last.slot, "it keeps its slot");
        receiver.world.send(Lane::Webhooks, &sent.to_json()).await;
        receiver.run().await;
        last = sent;
    }
    assert_eq!(receiver.world.stored(&waiting).await, waiting);
    assert_eq!(calls.writes.load(Ordering::SeqCst), written, "nothing is written");

    let relayed = Message { relays: 8, ..last.clone() };
    receiver.world.send(Lane::Webhooks, &relayed.to_json()).await;
    receiver.run().await;
    let deferred = receiver.world.stored(&waiting).await;
    assert_eq!((deferred.status, deferred.attempt_count), (Status::Retrying, 0));
    assert_eq!(deferred.slot, last.slot);
    let wait = deferred.allowed_at.unwrap().since(deferred.updated_at);
    assert_eq!(
        u128::from(deferred.budget.paused_ms),
        u128::from(last.paused_ms) + wait.as_millis()
    );
}

/// Takes the next message of this webhook from the queue, when its delay is over. Messages of other
/// webhooks stay in flight.
async fn next_message(receiver: &Receiver, webhook: &Webhook) -> Message {
    for _ in 0..600 {
        for received in receiver.world.received(Lane::Webhooks).await {
            let message = message(&received.body);
            if message.webhook_id == webhook.id {
                let queue = &receiver.world.context.queue;
                queue.acknowledge(Lane::Webhooks, &[received.receipt]).await.unwrap();
                return message;
            }
        }
        receiver.world.clock.advance(Duration::from_secs(1));
    }
    panic!("it has no message");
}

fn message(body: &str) -> Message {
    Message::from_json(body).unwrap()
}

/// Waiting for a pause is bounded by `MAX_DEFER_MS`. Then a webhook that was never attempted makes
/// an attempt. After it, both it and the refused one fail.
#[tokio::test]
async fn after_the_longest_wait_an_attempt_is_made_and_then_the_webhook_fails() {
    let settings = [("MAX_DEFER_MS", "60000"), ("RETRY_MAX_ATTEMPTS", "3")];
    let receiver = Receiver::with(&settings, |_, _| refusal(429, 600));
    let accepted_at = receiver.world.now();
    let refused = receiver.send("/limited").await;
    let waiting = receiver.accept("/limited").await;
    let all: [&Webhook; 2] = [&refused, &waiting];
    receiver.run_until_ended(&all, Duration::from_secs(1)).await;
    let given_up = receiver.world.stored(&refused).await;
    assert_eq!((given_up.status, given_up.attempt_count), (Status::Failed, 1));
    assert_eq!(given_up.last_error.unwrap().kind, ErrorKind::CircuitOpen);
    let tried = receiver.world.stored(&waiting).await;
    // The refused attempt is spent, unless the webhook waited so briefly that it may wait again.
    let made = tried.budget.attempts + tried.budget.throttled;
    assert_eq!((tried.status, tried.attempt_count), (Status::Failed, made));
    assert!((1..=3).contains(&made) && tried.budget.throttled <= 1, "{tried:?}");
    let arrived = receiver.arrived();
    let waited = arrived[1].at.since(accepted_at);
    assert!((Duration::from_secs(5)..Duration::from_secs(64)).contains(&waited), "{waited:?}");
    receiver.world.assert_settled(&all).await;
}
