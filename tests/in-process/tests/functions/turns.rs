//! The limit on attempts at one destination: what exceeds it waits where turns are short, and is
//! put off where they are not, at no attempt and no receive.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use shared::{
    model::{Transition, Webhook, Why},
    queue::Lane,
    sender::{Answer, Lookup, NoLookup, Request, Sender},
    status::Status,
};
use tokio::sync::{Semaphore, watch};

use crate::world::{World, event, status};

/// Longer than anybody waits for a turn.
const LONG: Duration = Duration::from_secs(2);

/// The end of an invocation that no test reaches.
const NEVER: Duration = Duration::from_secs(1_000_000);

/// A condition that should come at once.
const BOUND: Duration = Duration::from_secs(20);

/// A destination that holds each attempt until it is let go, and tells how many it holds.
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

    /// The most that it held at a time.
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

/// A world with this limit, such a destination, and so many webhooks for it in the queue.
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

/// The longest first wait after so much silence.
fn silence(since_asked: Duration) -> Duration {
    since_asked.clamp(Duration::from_secs(2), Duration::from_secs(16))
}

/// Lets time pass, whoever begins to wait when.
async fn time_passes(world: &World) {
    loop {
        world.clock.advance(LONG / 20);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets time pass until so many of them were put off.
async fn put_off(world: &World, webhooks: &[Webhook], count: usize) -> Vec<Webhook> {
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
        found = tokio::time::timeout(BOUND, look) => found.expect("not as many were put off"),
        () = time_passes(world) => unreachable!("it never ends"),
    }
}

#[tokio::test]
async fn what_exceeds_the_limit_of_a_destination_that_hangs_is_put_off_at_no_cost() {
    let (world, holding, webhooks) = world("2", &[], 5).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let (start, until) = (world.now(), world.now().plus(NEVER));
    let running = tokio::spawn(async move { deliver.handle(event(&batch), until).await });
    holding.holds(2).await;
    let deferred = put_off(&world, &webhooks, 3).await;
    for webhook in &deferred {
        let wait = webhook.allowed_at.unwrap().since(webhook.updated_at);
        let longest = silence(webhook.updated_at.since(start));
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

/// Each time that a webhook finds no turn it waits longer, so that those of a destination that
/// hangs for hours cost ever fewer looks.
#[tokio::test]
async fn the_waits_double() {
    let (world, holding, webhooks) = world("1", &[], 2).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let batch = world.received(Lane::Webhooks).await;
    let first = tokio::spawn({
        let (deliver, batch) = (deliver.clone(), batch[..1].to_vec());
        async move { deliver.handle(event(&batch), until).await }
    });
    let before = world.now();
    holding.holds(1).await;
    let after = world.now();
    world.clock.advance(LONG);
    let mut waits = Vec::new();
    let waiting = &webhooks[usize::from(batch[0].body.contains(&webhooks[0].id.to_string()))];
    for _ in 0..12 {
        let message = batch[1..].to_vec();
        assert!(deliver.handle(event(&message), until).await.batch_item_failures.is_empty());
        let stored = world.stored(waiting).await;
        let longest = [after, before].map(|asked| silence(stored.updated_at.since(asked)));
        waits.push((
            stored.allowed_at.unwrap().since(stored.updated_at).as_secs_f64(),
            longest.map(|first| first.as_secs_f64()),
        ));
        world.advance_past(stored.allowed_at.unwrap());
    }
    for (index, (wait, first)) in waits.iter().enumerate() {
        let [least, most] = first.map(|first| (first * f64::from(1 << index)).min(600.0));
        assert!(
            (least / 2.0 - 0.01..=most).contains(wait),
            "deferral {}: {wait} s of {most} s; {waits:?}",
            index + 1
        );
    }
    assert!(waits[0].1[1] < 4.0 && waits[3].1[0] > 15.0, "silence counts: {waits:?}");
    holding.let_go.add_permits(2);
    first.await.unwrap();
}

/// Where attempts end soon, nobody is put off, however many there are: no write, and no second
/// message.
#[tokio::test]
async fn a_destination_that_answers_is_waited_for() {
    let (world, holding, webhooks) = world("2", &[], 9).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running = tokio::spawn(async move { deliver.handle(event(&batch), until).await });
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

/// Once its deferrals are used up a webhook is not failed for a limit of ours: it goes ahead,
/// beyond the limit.
#[tokio::test]
async fn no_webhook_fails_by_the_limit() {
    let (world, holding, webhooks) = world("1", &[("MAX_DEFER_MS", "0")], 3).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running = tokio::spawn(async move { deliver.handle(event(&batch), until).await });
    tokio::select! {
        () = holding.holds(3) => {}
        () = time_passes(&world) => unreachable!("it never ends"),
    }
    holding.let_go.add_permits(3);
    assert!(running.await.unwrap().batch_item_failures.is_empty());
    for webhook in &webhooks {
        assert_eq!(world.stored(webhook).await.status, Status::Delivered);
    }
}

/// The limit is each destination's own.
#[tokio::test]
async fn another_destination_has_turns_of_its_own() {
    let (world, holding, _) = world("1", &[], 1).await;
    let elsewhere = world.accepted_for("https://other.example:443").await;
    world.queued(&elsewhere).await;
    let batch = world.received(Lane::Webhooks).await;
    let deliver = world.deliver();
    let until = world.now().plus(NEVER);
    let running = tokio::spawn(async move { deliver.handle(event(&batch), until).await });
    holding.holds(2).await;
    holding.let_go.add_permits(2);
    assert!(running.await.unwrap().batch_item_failures.is_empty());
}
