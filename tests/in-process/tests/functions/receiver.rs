//! One receiver with several paths, processes that send to it, and a clock that a test moves.

use std::{
    fmt,
    future::Future,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use conformance::TestClock;
use deliver::Deliver;
use shared::{
    clock::{Clock, Timestamp},
    message::Message,
    model::Webhook,
    queue::Lane,
    sender::{Answer, Lookup, Request, Sender},
    status::Status,
    store::TargetState,
    traffic::target::TargetKey,
};
use tokio::sync::Barrier;

use crate::world::{World, status};

/// The origin of the receiver.
pub(crate) const ORIGIN: &str = "https://example.com:443";

/// How far the clock moves in a millisecond while a batch runs.
const STEP: Duration = Duration::from_millis(20);

/// How long a batch may take.
const BOUND: Duration = Duration::from_secs(60);

/// A clock whose waits end when the test has moved it.
#[derive(Debug)]
struct MovedClock(Arc<TestClock>);

#[async_trait]
impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, wait: Duration) {
        let end = self.monotonic().saturating_add(wait);
        while self.monotonic() < end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) at: Timestamp,
    pub(crate) path: String,
}

/// The receiver, and a world whose webhooks go to it.
pub(crate) struct Receiver {
    pub(crate) world: World,
    /// The process that [`Receiver::run`] uses.
    pub(crate) deliver: Deliver,
    arrived: Arc<Mutex<Vec<Arrived>>>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("arrived", &self.arrived()).finish_non_exhaustive()
    }
}

impl Receiver {
    /// A receiver that answers each request with the status code that `code` returns for its path,
    /// and for the number of requests that arrived before.
    pub(crate) fn with(
        settings: &[(&str, &str)],
        code: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::changed(settings, code, |_| {})
    }

    /// The same, after this change of the world.
    pub(crate) fn changed(
        settings: &[(&str, &str)],
        code: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
        change: impl FnOnce(&mut World),
    ) -> Self {
        let mut world = World::with(settings);
        let clock = Arc::clone(&world.clock);
        world.context.clock = Arc::new(MovedClock(Arc::clone(&clock)));
        change(&mut world);
        let arrived = Arc::<Mutex<Vec<Arrived>>>::default();
        let log = Arc::clone(&arrived);
        world.destination.decide(move |request: &Request<'_>| {
            let path = request.url.strip_prefix(ORIGIN).unwrap().to_owned();
            let mut log = log.lock().unwrap();
            let before = log.iter().filter(|arrived| arrived.path == path).count();
            let answer = code(&path, before);
            log.push(Arrived { at: clock.now(), path });
            answer
        });
        let deliver = world.deliver();
        Self { world, deliver, arrived }
    }

    /// A receiver that answers when this many requests have arrived.
    pub(crate) fn gathering(
        requests: usize,
        settings: &[(&str, &str)],
        code: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
        change: impl FnOnce(&mut World),
    ) -> Self {
        Self::changed(settings, code, |world| {
            let (inner, all) = (Arc::clone(&world.sender), Barrier::new(requests));
            world.sender = Arc::new(Gathering { inner, all });
            change(world);
        })
    }

    /// The requests that arrived.
    pub(crate) fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }

    /// The number of requests that arrived for this path.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.arrived().iter().filter(|arrived| arrived.path == path).count()
    }

    /// Accepts a webhook for this path, and sends its message as the API does.
    pub(crate) async fn accept(&self, path: &str) -> Webhook {
        let webhook = self.world.accepted_at(ORIGIN, path).await;
        self.world.send(Lane::Webhooks, &Message::with_seen(&webhook).to_json()).await;
        webhook
    }

    /// Accepts a webhook for this path, and runs a batch.
    pub(crate) async fn send(&self, path: &str) -> Webhook {
        let webhook = self.accept(path).await;
        self.run().await;
        self.world.stored(&webhook).await
    }

    /// Runs a batch.
    pub(crate) async fn run(&self) {
        self.run_in(&self.deliver).await;
    }

    /// Runs a batch in this process, while time passes.
    pub(crate) async fn run_in(&self, deliver: &Deliver) {
        let back = self.while_time_passes(self.world.run(deliver)).await;
        assert!(back.is_empty(), "nothing is handed back");
    }

    /// Lets time pass until `work` is done.
    pub(crate) async fn while_time_passes<T>(&self, work: impl Future<Output = T>) -> T {
        let passes = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                self.world.clock.advance(STEP);
            }
        };
        tokio::select! {
            done = tokio::time::timeout(BOUND, work) => done.expect("it takes too long"),
            () = passes => unreachable!("it never ends"),
        }
    }

    /// Runs batches and sweeps, with the clock moved by `step` after each, until these webhooks
    /// have ended.
    pub(crate) async fn run_until_ended(&self, webhooks: &[&Webhook], step: Duration) {
        for _ in 0..2_000 {
            self.run().await;
            self.world.run_sweep().await;
            let mut ended = 0;
            for webhook in webhooks {
                ended += usize::from(self.world.stored(webhook).await.status.is_finished());
            }
            if ended == webhooks.len() {
                assert!(self.world.run_dlq().await.is_empty());
                return;
            }
            self.world.clock.advance(step);
        }
        panic!("they do not end");
    }

    /// The stored state of the target of this path. Empty: of the origin.
    pub(crate) async fn target(&self, path: &str) -> TargetState {
        self.world.context.store.target(&key(path)).await.unwrap()
    }
}

/// The key of the target of this path. Empty: of the origin.
pub(crate) fn key(path: &str) -> TargetKey {
    if path.is_empty() {
        return TargetKey::origin(ORIGIN);
    }
    TargetKey::url(ORIGIN, &shared::traffic::target::path_hash(path))
}

/// An answer that asks for fewer requests.
pub(crate) fn refusal(code: u16, retry_after_s: u64) -> Answer {
    Answer { retry_after: Some(Duration::from_secs(retry_after_s)), ..status(code) }
}

/// Asserts that the webhook was delivered with one attempt that counts.
pub(crate) fn assert_delivered(webhook: &Webhook) {
    assert_eq!((webhook.status, webhook.budget.attempts), (Status::Delivered, 1), "{webhook:?}");
}

/// Holds back answers until all requests of a batch have arrived.
#[derive(Debug)]
struct Gathering {
    inner: Arc<dyn Sender>,
    all: Barrier,
}

#[async_trait]
impl Lookup for Gathering {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.inner.lookup(host).await
    }
}

#[async_trait]
impl Sender for Gathering {
    async fn send(&self, request: &Request<'_>, deadline: Duration) -> Answer {
        let answer = self.inner.send(request, deadline).await;
        self.all.wait().await;
        answer
    }
}
