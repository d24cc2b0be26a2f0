//! The concurrency limit of one destination. An attempt over the limit waits if attempts are short.
//! Otherwise its webhook is deferred, and no attempt and no receive is spent.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use local::events;
use shared::{
    circuit::Settings,
    model::{ErrorKind, Transition, Webhook, Why},
    queue::Lane,
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    status::Status,
    store::StoreError,
    traffic::target::{Target, TargetKey},
};
use tokio::sync::{Semaphore, watch};

use crate::{
    intercepted::{Call, Intercepted, Interceptor},
    world::{World, status},
};

/// Longer than any wait for a permit.
const LONG: Duration = Duration::from_secs(2);

/// The end of an invocation that no test reaches.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// The bound of a condition that should hold at once.
const BOUND: Duration = Duration::from_secs(20);

/// A destination that holds each attempt until the test lets it go, and counts those it holds.
#[derive(Debug)]
struct Holding {
    held: watch::Sender<usize>,
    most: watch::Sender<usize>,
    let_go: Semaphore,
}

impl Holding {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            held: watch::Sender::new(0),
            most: watch::Sender::new(0),
            let_go: Semaphore::new(0),
        })
    }

    async fn holds(&self, attempts: usize) {
        let mut held = self.held.subscribe();
        let reached = tokio::time::timeout(BOUND, held.wait_for(|held| *held == attempts)).await;
        assert!(reached.is_ok(), "{} attempts are held, not {attempts}", *self.held.borrow());
    }

    /// The maximum number that it held at a time.
    fn most(&self) -> usize {
        *self.most.borrow()
    }
}

#[async_trait]
impl Lookup for Holding {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        NoLookup.lookup(host).await
    }
}

#[async_trait]
impl Sender for Holding {
    async fn send(&self, _: &Request<'_>, _: Duration) -> Answer {
        self.held.send_modify(|held| *held += 1);
        let now = *self.held.borrow();
        self.most.send_modify(|most| *most = now.max(*most));
        self.let_go.acquire().await.unwrap().forget();
        self.held.send_modify(|held| *held -= 1);
        status(200)
    }
}

/// A world with this limit, a holding destination, and this number of webhooks for it in the queue.
async fn world(
    limit: &str,
    more: &[(&str, &str)],
    webhooks: usize,
) -> (World, Arc<Holding>, Vec<Webhook>) {
    let mut world = World::with(&[&[("DELIVER_HOST_CONCURRENCY", limit)], more].concat());
    let holding = Holding::new();
    world.sender = Arc::clone(&holding) as _;
    let mut all = Vec::new();
    for _ in 0..webhooks {
        let webhook = world.accepted().await;
        world.queued(&webhook).await;
        all.push(webhook);
    }
    (world, holding, all)
}

/// The longest wait of a webhook that has been deferred this many times, at a destination that has
/// been silent for this long.
fn longest_wait(silence: Duration, deferrals: u32) -> Duration {
    let counted = silence.min(Duration::from_secs(16));
    counted.max(Duration::from_secs(2) * 2_u32.pow(deferrals)).min(Duration::from_secs(600))
}

/// Lets time pass for waits that start at any time.
async fn time_passes(world: &World) {
    loop {
        world.clock.advance(LONG / 20);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets time pass until this number of webhooks is deferred.
async fn deferred(world: &World, webhooks: &[Webhook], count: usize) -> Vec<Webhook> {
    let look = async {
        loop {
            let mut found = Vec::new();
            for webhook in webhooks {
                let stored = world.stored(webhook).await;
                if stored.status == Status::Retrying {
                    found.push(stored);
                }
            }
            if found.len() == count {
                return found;
            }
        }
    };
    tokio::select! {
        found = tokio::time::timeout(BOUND, look) => found.expect("too few were deferred"),
        () = time_passes(world) => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn webhooks_over_the_limit_of_a_hanging_destination_are_deferred_at_no_cost() {
    let (world, holding, webhooks) = world("2", &[], 5).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let (start, until) = (world.now(), world.now().plus(NEVER));
    let running =
        tokio::spawn(
            async move { deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await },
        );
    holding.holds(2).await;
    let deferred = deferred(&world, &webhooks, 3).await;
    for webhook in &deferred {
        let wait = webhook.allowed_at.unwrap().since(webhook.updated_at);
        let longest = longest_wait(webhook.updated_at.since(start), 0);
        assert!((Duration::from_millis(999)..=longest).contains(&wait), "{wait:?} of {longest:?}");
        assert!(
            webhook.due_at > webhook.allowed_at,
            "the due index holds it, and its message comes first"
        );
        assert_eq!(
            (webhook.attempt_count, webhook.budget.attempts, webhook.budget.deferrals),
            (0, 0, 1)
        );
        let step = webhook.history.last().unwrap();
        assert_eq!((step.transition, step.why), (Transition::Defer, Some(Why::RateLimit)));
    }
    assert_eq!(holding.most(), 2);
    holding.let_go.add_permits(5);
    let response = running.await.unwrap();
    assert!(response.batch_item_failures.is_empty(), "no receive is spent: {response:?}");
    assert_eq!(
        world.messages(Lane::Webhooks).await.1,
        3,
        "each has a message that waits for its time"
    );
}

/// The wait of a webhook without a permit doubles with each deferral, so that a destination that
/// hangs for hours costs ever fewer looks.
#[tokio::test]
async fn the_waits_double() {
    let (world, holding, webhooks) = world("1", &[], 2).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let batch = world.received(Lane::Webhooks).await;
    let first = tokio::spawn({
        let (deliver, batch) = (deliver.clone(), batch[..1].to_vec());
        async move { deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await }
    });
    let before = world.now();
    holding.holds(1).await;
    let after = world.now();
    world.clock.advance(LONG);
    let mut waits = Vec::new();
    let waiting = &webhooks[usize::from(batch[0].body.contains(&webhooks[0].id.to_string()))];
    for deferrals in 0..12 {
        let message = batch[1..].to_vec();
        assert!(
            deliver
                .handle(events::sqs(Lane::Webhooks, &message), until)
                .await
                .batch_item_failures
                .is_empty()
        );
        let stored = world.stored(waiting).await;
        // The destination has been silent since its only attempt started: between these times.
        let longest = [after, before].map(|started_at| {
            longest_wait(stored.updated_at.since(started_at), deferrals).as_secs_f64()
        });
        waits.push((stored.allowed_at.unwrap().since(stored.updated_at).as_secs_f64(), longest));
        world.advance_past(stored.allowed_at.unwrap());
    }
    for (deferrals, (wait, [least, most])) in waits.iter().enumerate() {
        assert!(
            (least / 2.0 - 0.01..=*most).contains(wait),
            "deferral {deferrals}: {wait} s of {most} s; {waits:?}",
        );
    }
    assert!(waits[6].0 > 63.9 && waits[6].1[1] < 128.1, "later waits only double: {waits:?}");

    // A webhook that arrives later waits for as long as the destination has been silent, but the
    // silence is not doubled.
    let late = world.accepted().await;
    world.queued(&late).await;
    for deferrals in 0..3 {
        let messages = world.received(Lane::Webhooks).await;
        let id = late.id.to_string();
        let message: Vec<_> =
            messages.into_iter().filter(|message| message.body.contains(&id)).collect();
        assert!(!message.is_empty());
        assert!(
            deliver
                .handle(events::sqs(Lane::Webhooks, &message), until)
                .await
                .batch_item_failures
                .is_empty()
        );
        let stored = world.stored(&late).await;
        assert_eq!(stored.budget.deferrals, deferrals + 1);
        let wait = stored.allowed_at.unwrap().since(stored.updated_at).as_secs_f64();
        assert!((7.9..=16.1).contains(&wait), "deferral {deferrals}: {wait} s");
        world.advance_past(stored.allowed_at.unwrap().plus(Duration::from_secs(1)));
    }
    holding.let_go.add_permits(3);
    first.await.unwrap();
}

/// Where attempts are short, no webhook is deferred: no write, and no second message.
#[tokio::test]
async fn attempts_wait_for_a_destination_that_answers() {
    let (world, holding, webhooks) = world("2", &[], 9).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running =
        tokio::spawn(
            async move { deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await },
        );
    holding.holds(2).await;
    holding.let_go.add_permits(9);
    assert!(running.await.unwrap().batch_item_failures.is_empty());
    assert_eq!(holding.most(), 2, "two at a time");
    for webhook in &webhooks {
        let stored = world.stored(webhook).await;
        assert_eq!(
            (stored.status, stored.attempt_count, stored.budget.deferrals),
            (Status::Delivered, 1, 0)
        );
    }
    assert_eq!(world.messages(Lane::Webhooks).await.1, 0);
}

/// A webhook whose deferrals are used up does not fail because of the limit. It is attempted beyond
/// the limit, and no circuit is blamed.
#[tokio::test]
async fn no_webhook_fails_by_the_limit() {
    let (world, holding, webhooks) = world("1", &[("MAX_DEFER_MS", "0")], 3).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running =
        tokio::spawn(
            async move { deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await },
        );
    tokio::select! {
        () = holding.holds(3) => {}
        () = time_passes(&world) => unreachable!("it never ends"),
    }
    holding.let_go.add_permits(3);
    assert!(running.await.unwrap().batch_item_failures.is_empty());
    for webhook in &webhooks {
        let stored = world.stored(webhook).await;
        assert_eq!((stored.status, stored.last_error), (Status::Delivered, None));
        let steps: Vec<Transition> = stored.history.iter().map(|step| step.transition).collect();
        assert!(!steps.contains(&Transition::Defer), "{steps:?}");
    }
}

/// Each destination has its own limit.
#[tokio::test]
async fn another_destination_has_its_own_limit() {
    let (world, holding, _) = world("1", &[], 1).await;
    let elsewhere = world.accepted_for("https://other.example:443").await;
    world.queued(&elsewhere).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running =
        tokio::spawn(
            async move { deliver.handle(events::sqs(Lane::Webhooks, &batch), until).await },
        );
    holding.holds(2).await;
    holding.let_go.add_permits(2);
    assert!(running.await.unwrap().batch_item_failures.is_empty());
}

/// A store in which each write of a deferral waits until the test lets it go.
#[derive(Debug)]
struct HeldDeferrals {
    held: watch::Sender<usize>,
    let_go: Semaphore,
}

#[async_trait]
impl Interceptor for HeldDeferrals {
    async fn before(&self, call: Call<'_>) -> Result<(), StoreError> {
        if matches!(call, Call::Write(webhook) if webhook.status == Status::Retrying) {
            self.held.send_modify(|held| *held += 1);
            self.let_go.acquire().await.unwrap().forget();
        }
        Ok(())
    }
}

/// A webhook that is being deferred holds its slot and its host permit until the deferral is
/// written. Tested with two slots and one host permit: the circuit is open for the first webhook,
/// and the second one finds no host permit.
#[tokio::test]
async fn a_deferral_holds_its_slot_and_its_host_permit_until_it_is_written() {
    let (mut world, _, webhooks) =
        world("1", &[("DELIVER_CONCURRENCY", "2"), ("BATCH_SIZE", "2")], 2).await;
    let settings = Settings { failures: 1, ..Settings::default() };
    let origin = Target::idle(TargetKey::origin(&webhooks[0].destination));
    let open = origin.failed(1, &settings, world.now());
    world.context.store.write_target(None, &open).await.unwrap();
    let deferrals =
        Arc::new(HeldDeferrals { held: watch::Sender::new(0), let_go: Semaphore::new(0) });
    let inner = Arc::clone(&world.context.store);
    let interceptor = Arc::clone(&deferrals) as _;
    world.context.store = Arc::new(Intercepted { inner, interceptor });

    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let mut held = deferrals.held.subscribe();
    let mut running = Vec::new();
    for (index, message) in world.received(Lane::Webhooks).await.into_iter().enumerate() {
        let deliver = deliver.clone();
        running.push(tokio::spawn(async move {
            deliver.handle(events::sqs(Lane::Webhooks, &[message]), until).await
        }));
        let reached = held.wait_for(|held| *held == index + 1);
        tokio::select! {
            reached = tokio::time::timeout(BOUND, reached) => drop(reached.unwrap().unwrap()),
            () = time_passes(&world) => unreachable!("it never ends"),
        }
    }
    assert!(deliver.free_slots().now_or_never().is_none(), "both slots are held");
    deferrals.let_go.add_permits(2);
    for running in running {
        assert!(running.await.unwrap().batch_item_failures.is_empty());
    }
    assert_eq!(deliver.free_slots().now_or_never(), Some(2));
    let mut reasons = Vec::new();
    for webhook in &webhooks {
        reasons.push(world.stored(webhook).await.history.last().unwrap().why);
    }
    reasons.sort_by_key(|why| *why == Some(Why::RateLimit));
    let by_circuit = Some(Why::Error(ErrorKind::CircuitOpen));
    assert_eq!(reasons, [by_circuit, Some(Why::RateLimit)]);
}
