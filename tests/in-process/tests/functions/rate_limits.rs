//! Configured rates: the processes share them by slots in the store.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use local::events;
use shared::{
    message::Message,
    model::{Slot, Webhook, Why},
    queue::Lane,
    status::Status,
    store::{Store, StoreError},
    traffic::slots::Counters,
};
use tokio::sync::{Semaphore, watch};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    receiver::{Arrived, ORIGIN, Receiver, assert_delivered, refusal},
    world::{World, status},
};

const TEN_A_SECOND: (&str, &str) = ("RATE_LIMITS", "example.com=10/1s");

fn intercept(world: &mut World, interceptor: Arc<dyn Interceptor>) {
    let inner = Arc::clone(&world.context.store);
    world.context.store = Arc::new(Intercepted { inner, interceptor });
}

fn healthy(settings: &[(&str, &str)]) -> Receiver {
    Receiver::with(settings, |_, _| status(200))
}

/// The most requests that arrived within a window of this length.
fn most_within(arrived: &[Arrived], window: Duration) -> usize {
    let starts = arrived.iter().map(|first| first.at);
    let within = starts.map(|start| {
        arrived.iter().filter(|one| one.at >= start && one.at < start.plus(window)).count()
    });
    within.max().unwrap_or(0)
}

/// Five processes share a rate of 10 a second. In no window of `w` seconds do more than
/// `R (w + 10) + burst + 1` requests arrive, and in no second more than `2 R + burst`.
#[tokio::test]
async fn several_processes_keep_a_rate_together() {
    let receiver = healthy(&[TEN_A_SECOND]);
    let processes: Vec<_> = (0..5).map(|_| receiver.world.deliver()).collect();
    let mut webhooks = Vec::new();
    for n in 0..150 {
        webhooks.push(receiver.accept(&format!("/{}", n % 3)).await);
    }
    let start = receiver.world.now();
    let worker = |deliver: deliver::Deliver| {
        let receiver = &receiver;
        async move {
            while receiver.arrived().len() < 150 {
                assert!(receiver.world.run(&deliver).await.is_empty());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let workers = futures_util::future::join_all(processes.into_iter().map(worker));
    receiver.while_time_passes(workers).await;
    let arrived = receiver.arrived();
    assert_eq!(arrived.len(), 150, "each once");
    for window_s in 0..20_usize {
        let window = Duration::from_secs(window_s as u64) + Duration::from_millis(1);
        assert!(most_within(&arrived, window) <= 10 * (window_s + 10) + 11, "{window_s} s");
    }
    assert!(most_within(&arrived, Duration::from_secs(1)) <= 30);
    let took = arrived.last().unwrap().at.since(start);
    assert!(took >= Duration::from_secs(13), "{took:?}");
    for webhook in &webhooks {
        assert_delivered(&receiver.world.stored(webhook).await);
    }
    let webhooks: Vec<_> = webhooks.iter().collect();
    receiver.world.assert_settled(&webhooks).await;
}

#[derive(Debug, Default)]
struct SlotCalls {
    takes: AtomicUsize,
    replaces: AtomicUsize,
}

#[async_trait]
impl Interceptor for SlotCalls {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::TakeSlots(_) => self.takes.fetch_add(1, Ordering::SeqCst),
            Call::ReplaceCounters(_) => self.replaces.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Ok(())
    }
}

/// The webhooks of a batch take their slots with one call. The first call for a rate replaces the
/// counters as well.
#[tokio::test]
async fn a_batch_takes_its_slots_with_one_call() {
    let calls = Arc::new(SlotCalls::default());
    let counting = Arc::clone(&calls);
    let receiver = Receiver::changed(
        &[("RATE_LIMITS", "example.com=1000/1s")],
        |_, _| status(200),
        |world| intercept(world, counting),
    );
    for batches in 1..=3 {
        for _ in 0..10 {
            receiver.accept("/hook").await;
        }
        receiver.run().await;
        assert_eq!(receiver.count("/hook"), 10 * batches);
        assert_eq!(calls.takes.load(Ordering::SeqCst), batches);
    }
    let counters = receiver.target("").await.counters.unwrap();
    assert_eq!(
        (counters.generation.as_str(), counters.last_late < counters.last),
        ("1000/1", true)
    );
    assert!(calls.replaces.load(Ordering::SeqCst) <= 3);
}

/// A slot that is days away: the webhook enters the due index, and its record keeps the slot.
#[tokio::test]
async fn a_long_wait_enters_the_due_index_with_its_slot() {
    let receiver = healthy(&[("RATE_LIMITS", "example.com=1/86400s")]);
    // At noon, the next slot is twelve hours away.
    let day_ms = 86_400_000;
    let since_noon = (receiver.world.now().as_millis() - day_ms / 2).rem_euclid(day_ms);
    let until_noon = u64::try_from(day_ms - since_noon).unwrap();
    receiver.world.clock.advance(Duration::from_millis(until_noon));
    let deferred = receiver.send("/hook").await;
    let slot = deferred.slot.clone().unwrap();
    assert_eq!(slot.generation, "1/86400");
    assert_eq!((deferred.status, deferred.due_at), (Status::Retrying, deferred.allowed_at));
    let (wait, budget) = (deferred.allowed_at.unwrap().since(deferred.updated_at), deferred.budget);
    assert_eq!((u128::from(budget.rate_limited_ms), budget.paused_ms), (wait.as_millis(), 0));
    assert_eq!(deferred.history.last().unwrap().why, Some(Why::RateLimit));
    assert_eq!(receiver.world.messages(Lane::Webhooks).await, (0, 0, 0));
    let before = receiver.target("").await.counters;
    receiver.world.advance_past(deferred.allowed_at.unwrap());
    assert_eq!(receiver.world.run_sweep().await.requeued, 1);
    receiver.run().await;
    assert_delivered(&receiver.world.stored(&deferred).await);
    assert!(receiver.arrived()[0].at.as_millis() >= slot.number * day_ms);
    assert_eq!(receiver.target("").await.counters, before, "it had its slot");
}

/// The audit sends a message for a webhook that has no entry in the due index. So a wait that ends
/// after the audit's look enters the index, although it is short enough for a delayed message.
#[tokio::test]
async fn a_wait_that_the_audit_would_double_enters_the_due_index() {
    for (audit_age_ms, waiting) in [("900000", Status::Pending), ("300000", Status::Retrying)] {
        let settings = [("RATE_LIMITS", "example.com=1/400s"), ("AUDIT_AGE_MS", audit_age_ms)];
        let receiver = healthy(&settings);
        // The next slot is 380 s away.
        let since_slot_ms = receiver.world.now().as_millis().rem_euclid(400_000);
        let until_slot_ms = u64::try_from(420_000 - since_slot_ms).unwrap();
        receiver.world.clock.advance(Duration::from_millis(until_slot_ms));
        let webhook = receiver.send("/hook").await;
        assert_eq!((webhook.status, webhook.attempt_count), (waiting, 0), "{audit_age_ms}");
        assert_eq!(webhook.due_at.is_some(), waiting == Status::Retrying);
    }
}

/// A webhook that comes long after its slot takes another one, from the counter of late webhooks.
/// One that comes in time uses its own.
#[tokio::test]
async fn a_late_webhook_takes_a_late_slot() {
    let receiver = healthy(&[TEN_A_SECOND]);
    receiver.send("/hook").await;
    let before = receiver.target("").await.counters.unwrap();
    for (age_s, is_late) in [(3, false), (60, true)] {
        let webhook = receiver.world.accepted_at(ORIGIN, "/hook").await;
        let number = (receiver.world.now().as_millis() / 1000 - age_s) * 10;
        let slot = Some(Slot { generation: "10/1".to_owned(), number });
        let message = Message { slot, relays: 1, ..Message::with_seen(&webhook) };
        receiver.world.send(Lane::Webhooks, &message.to_json()).await;
        receiver.run().await;
        assert_delivered(&receiver.world.stored(&webhook).await);
        let after = receiver.target("").await.counters.unwrap();
        assert_eq!(after.last, before.last);
        assert_eq!(after.last_late > before.last_late, is_late, "{age_s} s late");
    }
}

/// Late webhooks together are no burst: they go at the rate, too.
#[tokio::test]
async fn a_backlog_of_late_webhooks_is_no_burst() {
    let receiver = healthy(&[TEN_A_SECOND]);
    let number = (receiver.world.now().as_millis() / 1000 - 60) * 10;
    for n in 0..60 {
        let webhook = receiver.world.accepted_at(ORIGIN, "/hook").await;
        let slot = Some(Slot { generation: "10/1".to_owned(), number: number + n });
        let message = Message { slot, relays: 1, ..Message::with_seen(&webhook) };
        receiver.world.send(Lane::Webhooks, &message.to_json()).await;
    }
    for _ in 0..1_000 {
        receiver.run().await;
        if receiver.count("/hook") == 60 {
            break;
        }
        receiver.world.clock.advance(Duration::from_millis(100));
    }
    assert_eq!(receiver.count("/hook"), 60);
    assert!(most_within(&receiver.arrived(), Duration::from_secs(1)) <= 20);
}

/// Another worker that is always first.
#[derive(Debug)]
struct AlwaysFirst {
    store: Arc<dyn Store>,
    is_on: AtomicBool,
    rounds: AtomicUsize,
}

#[async_trait]
impl Interceptor for AlwaysFirst {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if let (Call::TakeSlots(key) | Call::ReplaceCounters(key), true) =
            (call, self.is_on.load(Ordering::SeqCst))
        {
            let round = self.rounds.fetch_add(1, Ordering::SeqCst);
            let stored = self.store.target(key).await?.counters;
            let other = Counters { generation: format!("{round}/7"), last: 1, last_late: 1 };
            self.store.replace_counters(key, stored.as_ref(), &other).await.unwrap();
        }
        Ok(())
    }
}

/// A webhook that always loses the race for a slot waits, without an attempt and without a slot.
#[tokio::test]
async fn contention_lets_no_webhook_through() {
    let mut others = None;
    let receiver = Receiver::changed(
        &[TEN_A_SECOND],
        |_, _| status(200),
        |world| {
            let store = Arc::clone(&world.context.store);
            let is_on = AtomicBool::new(true);
            let first = Arc::new(AlwaysFirst { store, is_on, rounds: AtomicUsize::new(0) });
            others = Some(Arc::clone(&first));
            intercept(world, first);
        },
    );
    let others = others.unwrap();
    let mut webhook = receiver.send("/hook").await;
    for _ in 0..12 {
        assert_eq!((webhook.attempt_count, receiver.count("/hook")), (0, 0));
        assert_eq!(webhook.slot, None);
        receiver.world.clock.advance(Duration::from_millis(1_200));
        receiver.run().await;
        receiver.world.run_sweep().await;
        webhook = receiver.world.stored(&webhook).await;
    }
    let rounds = others.rounds.load(Ordering::SeqCst);
    assert!((12 * 2..=14 * 8).contains(&rounds), "{rounds}");
    others.is_on.store(false, Ordering::SeqCst);
    receiver.run_until_ended(&[&webhook], Duration::from_secs(1)).await;
    assert_delivered(&receiver.world.stored(&webhook).await);
}

/// A store in which all calls for targets fail.
#[derive(Debug)]
struct NoTargets;

#[async_trait]
impl Interceptor for NoTargets {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        match call {
            Call::Read(_) | Call::Write(_) | Call::Claim(_) | Call::Maintain => Ok(()),
            _ => Err(StoreError::Unavailable("on purpose".into())),
        }
    }
}

/// Traffic control only protects the destination: without its state, webhooks are delivered. A
/// refusal still costs no attempt.
#[tokio::test]
async fn a_store_error_fails_no_delivery() {
    let receiver = Receiver::changed(
        &[TEN_A_SECOND],
        |path, before| match (path, before) {
            ("/limited", 0) => refusal(429, 3),
            ("/broken", 0..2) => status(500),
            _ => status(200),
        },
        |world| intercept(world, Arc::new(NoTargets)),
    );
    assert_delivered(&receiver.send("/hook").await);
    let refused = receiver.send("/limited").await;
    assert_eq!((refused.status, refused.budget.attempts), (Status::Retrying, 0));
    assert!(refused.allowed_at.unwrap().since(refused.updated_at) > Duration::from_secs(1));
    let failing = [receiver.send("/broken").await, receiver.send("/broken").await];
    receiver.run_until_ended(&[&refused, &failing[0], &failing[1]], Duration::from_secs(5)).await;
    assert_delivered(&receiver.world.stored(&refused).await);
    for webhook in &failing {
        assert_eq!(receiver.world.stored(webhook).await.status, Status::Delivered);
    }
}

/// Webhooks that a pause has made wait for as long as it may go ahead untried. They still keep the
/// configured rate.
#[tokio::test]
async fn webhooks_that_a_pause_no_longer_holds_up_keep_the_configured_rate() {
    const WEBHOOKS: usize = 12;
    let settings = [
        ("MAX_DEFER_MS", "60000"),
        ("RATE_LIMITS", "example.com=1/10s"),
        ("RETRY_MAX_ATTEMPTS", "1"),
    ];
    let receiver = Receiver::with(&settings, |_, _| refusal(429, 3600));
    let mut webhooks = vec![receiver.send("/limited").await];
    while receiver.count("/limited") == 0 {
        receiver.world.clock.advance(Duration::from_secs(1));
        receiver.run().await;
    }
    for _ in 1..WEBHOOKS {
        webhooks.push(receiver.accept("/limited").await);
    }
    let all: Vec<&Webhook> = webhooks.iter().collect();
    receiver.run_until_ended(&all, Duration::from_secs(1)).await;
    // In `w` seconds at most `R (w + 10) + burst + 1`, with `R` 0.1 and a burst of 1.
    let most = most_within(&receiver.arrived(), Duration::from_secs(20));
    assert!(receiver.count("/limited") >= WEBHOOKS && most <= 5, "{most} requests");
}

/// Holds the calls for slots until the test lets them go.
#[derive(Debug)]
struct HeldCalls {
    held: watch::Sender<usize>,
    let_go: Semaphore,
}

#[async_trait]
impl Interceptor for HeldCalls {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if matches!(call, Call::TakeSlots(_)) {
            self.held.send_modify(|held| *held += 1);
            self.let_go.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}

/// Webhooks that share a call are served although the one that would make it is cancelled. Tested
/// with a first call that hangs, a second webhook that is to make the next one and is cancelled,
/// and a third one that waits for it.
#[tokio::test]
async fn a_cancelled_webhook_does_not_strand_those_that_share_its_call() {
    let calls = Arc::new(HeldCalls { held: watch::Sender::new(0), let_go: Semaphore::new(0) });
    let holding = Arc::clone(&calls) as _;
    let receiver =
        Receiver::changed(&[TEN_A_SECOND], |_, _| status(200), |world| intercept(world, holding));
    let mut running = Vec::new();
    let mut webhooks = Vec::new();
    let until = receiver.world.now().plus(Duration::from_secs(600));
    for path in ["/a", "/b", "/c"] {
        webhooks.push(receiver.accept(path).await);
        let batch = receiver.world.received(Lane::Webhooks).await;
        let deliver = receiver.deliver.clone();
        running.push(tokio::spawn(async move {
            deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await
        }));
        let mut held = calls.held.subscribe();
        let is_held = held.wait_for(|held| *held >= 1);
        tokio::time::timeout(Duration::from_secs(20), is_held).await.unwrap().unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let third = running.pop().unwrap();
    running.pop().unwrap().abort();
    calls.let_go.add_permits(2);
    let first = running.pop().unwrap();
    for handle in [first, third] {
        let done = receiver.while_time_passes(handle).await.unwrap();
        assert!(done.batch_item_failures.is_empty());
    }
    assert_eq!(["/a", "/b", "/c"].map(|path| receiver.count(path)), [1, 0, 1]);
    assert_eq!(*calls.held.borrow(), 2, "the third one made a call of its own");
    for webhook in [&webhooks[0], &webhooks[2]] {
        assert_delivered(&receiver.world.stored(webhook).await);
    }
}

/// A webhook behind an open circuit takes no slot of the rate that it shares with other paths.
#[tokio::test]
async fn a_webhook_behind_an_open_circuit_takes_no_slot() {
    let settings = [TEN_A_SECOND, ("CIRCUIT_FAILURES", "1"), ("RETRY_MAX_ATTEMPTS", "1")];
    let receiver =
        Receiver::with(&settings, |path, _| status(if path == "/broken" { 500 } else { 200 }));
    receiver.send("/broken").await;
    let before = receiver.target("").await.counters;
    for _ in 0..5 {
        assert_eq!(receiver.send("/broken").await.attempt_count, 0);
    }
    assert_eq!(receiver.target("").await.counters, before);
    assert_delivered(&receiver.send("/healthy").await);
}
