//! Recovery from a process whose heartbeat stopped: all its leases and messages, and no others.

use std::sync::Arc;

use conformance::TestClock;
use futures_util::future::join_all;
use harness::redis_server::{RedisCluster, RedisServer};
use shared::{
    clock::{Clock, Timestamp},
    config::RedisUrl,
    id::TaskId,
    liveness::{Liveness, ProcessId},
    model::{ClaimId, Webhook},
    queue::{Lane, Outgoing, Queue, Received, redis::RedisQueue},
    redis::Connection,
    retry::Outcome,
    status::Status,
    store::{Webhooks, WriteError, redis::RedisStore},
    transition::{Report, Rules, testing::new_webhook},
};
use std::time::Duration;

use crate::{PREFIX, content};

const DEAD: ProcessId = 7;
const ALIVE: ProcessId = 70;

/// The store and queue of a process, with its name if it has one.
struct Process {
    store: RedisStore,
    queue: RedisQueue,
    rules: Rules,
    clock: Arc<TestClock>,
}

impl Process {
    fn new(url: &str, name: Option<ProcessId>) -> Self {
        let (clock, liveness) = (Arc::new(TestClock::default()), Arc::new(Liveness::default()));
        if let Some(name) = name {
            liveness.begin(name);
        }
        let url = RedisUrl::parse(url).unwrap();
        let connection = |part| Connection::new(&url, PREFIX, part).unwrap();
        Self {
            store: RedisStore::of_process(
                connection("status"),
                Arc::clone(&clock) as _,
                Arc::clone(&liveness),
            ),
            queue: RedisQueue::of_process(connection("queue"), Arc::clone(&clock) as _, liveness),
            rules: Rules::default(),
            clock,
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn claimed(&self, claim: u64) -> Webhook {
        let now = self.now();
        let created = self.rules.create(new_webhook(TaskId::mint(now, rand::random())), now);
        self.store.create(&created, &content()).await.unwrap();
        self.claim(&created, claim, now).await
    }

    async fn claim(&self, seen: &Webhook, claim: u64, now: Timestamp) -> Webhook {
        let claimed = self.rules.claim(seen, ClaimId(claim), now).unwrap();
        self.store.write_and_open(seen, &claimed).await.unwrap();
        claimed
    }

    async fn deliver(&self, claimed: &Webhook) -> Result<(), WriteError> {
        let outcome = Outcome { error: None, status_code: Some(200), retry_after: None };
        let report =
            Report { outcome, duration: Duration::ZERO, message: None, response_excerpt: None };
        let id = claimed.claim.as_ref().unwrap().id;
        let delivered = self.rules.conclude(claimed, id, &report, self.now(), 0.5).unwrap();
        self.store.write(claimed, &delivered).await
    }

    async fn receive(&self, n: usize) -> Vec<Received> {
        self.queue
            .receive(Lane::Webhooks, n, Duration::from_secs(360), Duration::ZERO)
            .await
            .unwrap()
    }
}

/// Recovery ends every lease of a dead process, even if several processes recover it at once. It
/// ends no lease of a live or unnamed process and no later one. An outcome that the dead process
/// writes meanwhile is kept. The test races all of them.
async fn the_leases_of_a_dead_process_end(url: &str) {
    let (dead, alive, unnamed) =
        (Process::new(url, Some(DEAD)), Process::new(url, Some(ALIVE)), Process::new(url, None));
    let (mut held, mut late, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for claim in 0..20 {
        held.push(dead.claimed(claim).await);
        late.push(dead.claimed(claim).await);
        others.push(alive.claimed(claim).await);
        others.push(unnamed.claimed(claim).await);
        // A claim of the dead process, replaced by one of an unnamed process.
        let before = dead.claimed(claim).await;
        let after_lease = before.claim.as_ref().unwrap().lease_until;
        others.push(unnamed.claim(&before, claim + 100, after_lease).await);
    }
    let now = alive.now();
    let outcomes = join_all(late.iter().map(|webhook| dead.deliver(webhook)));
    let (first, second, outcomes) = tokio::join!(
        alive.store.end_leases_of(DEAD, now),
        unnamed.store.end_leases_of(DEAD, now),
        outcomes
    );
    let recorded = outcomes.iter().filter(|outcome| outcome.is_ok()).count() as u64;
    // Two processes that write the same record both count it.
    assert!(
        first.unwrap() + second.unwrap() + recorded >= 40,
        "each lease ended or has an outcome"
    );
    for webhook in held.iter().chain(&late) {
        let stored = alive.store.get(&webhook.id).await.unwrap().unwrap();
        if stored.status == Status::Delivered {
            continue;
        }
        assert!(
            stored.claim.as_ref().unwrap().lease_until <= now && stored.due_at <= Some(now),
            "{stored:?}"
        );
        alive.claim(&stored, 1000, alive.now()).await;
        assert!(dead.deliver(webhook).await.is_err(), "a late outcome is refused");
    }
    for webhook in &others {
        assert_eq!(
            alive.store.get(&webhook.id).await.unwrap().as_ref(),
            Some(webhook),
            "the claim is unchanged"
        );
    }
    assert_eq!(alive.store.end_leases_of(DEAD, alive.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn the_leases_of_a_dead_process_end_on_a_server() {
    the_leases_of_a_dead_process_end(&RedisServer::start().unwrap().url(2)).await;
}

#[tokio::test]
async fn the_leases_of_a_dead_process_end_on_a_cluster() {
    the_leases_of_a_dead_process_end(&RedisCluster::start().unwrap().url()).await;
}

/// The messages that a dead process holds become visible, and no others. Its receipts stay valid
/// until the messages are received again.
#[tokio::test]
async fn the_messages_of_a_dead_process_become_visible() {
    let server = RedisServer::start().unwrap();
    let (dead, alive) =
        (Process::new(&server.url(1), Some(DEAD)), Process::new(&server.url(1), Some(ALIVE)));
    let unnamed = Process::new(&server.url(1), None);
    let message =
        |n: usize| Outgoing { body: n.to_string(), delay: Duration::ZERO, group: String::new() };
    let messages: Vec<Outgoing> = (0..8).map(message).collect();
    dead.queue.send(Lane::Webhooks, &messages).await.unwrap();
    let (held, others) =
        (dead.receive(4).await, [alive.receive(2).await, unnamed.receive(2).await].concat());
    assert_eq!((held.len(), others.len()), (4, 4));
    // A message that was released with a delay keeps its delay.
    dead.queue
        .release(Lane::Webhooks, &[held[3].receipt.clone()], Duration::from_secs(60))
        .await
        .unwrap();
    let released = tokio::join!(
        alive.queue.release_all_of(DEAD, alive.now()),
        unnamed.queue.release_all_of(DEAD, alive.now())
    );
    assert_eq!(released.0.unwrap() + released.1.unwrap(), 3);
    dead.queue.acknowledge(Lane::Webhooks, &[held[0].receipt.clone()]).await.unwrap();
    let again = alive.receive(10).await;
    let mut ids: Vec<&str> = again.iter().map(|message| &*message.id).collect();
    let mut expected = [&*held[1].id, &*held[2].id];
    ids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ids, expected);
    assert!(again.iter().all(|message| message.receives == 2));
    dead.queue.acknowledge(Lane::Webhooks, &[held[1].receipt.clone()]).await.unwrap();
    let depth = alive.queue.depth(Lane::Webhooks).await.unwrap();
    assert_eq!(
        (depth.ready, depth.in_flight + depth.delayed),
        (0, 7),
        "an outdated receipt has no effect"
    );
    assert_eq!(alive.queue.release_all_of(DEAD, alive.now()).await.unwrap(), 0);
    assert_eq!(alive.queue.release_all_of(ALIVE, alive.now()).await.unwrap(), 4);
}
