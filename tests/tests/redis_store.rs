//! What only a Redis server can show: keys of somebody else, what is left once webhooks have expired, a restart, and settings with which
//! it loses webhooks.

#![allow(clippy::unwrap_used, reason = "these are tests: their panics are verdicts")]

use std::{sync::Arc, time::Duration};

use posthaste_tests::{conformance::TestClock, redis_server::RedisServer};
use redis::{AsyncCommands, aio::MultiplexedConnection};
use serde_json::value::RawValue;
use shared::{
    clock::{Clock, Timestamp},
    config::RedisUrl,
    id::TaskId,
    model::{ClaimId, Content, ErrorKind, InvalidRecord, Webhook},
    redis::Connection,
    retry::Outcome,
    store::{Filter, IDEMPOTENCY_TTL, Reservation, Store, StoreError, SweepReport, redis::RedisStore},
    transition::{Report, Rules, testing::new_webhook},
};

const DATABASE: u32 = 2;

struct World {
    server: RedisServer,
    store: RedisStore,
    clock: Arc<TestClock>,
    rules: Rules,
}

impl World {
    fn on(server: RedisServer) -> Self {
        let clock = Arc::new(TestClock::default());
        let url = RedisUrl::parse(&server.url(DATABASE)).unwrap();
        let store = RedisStore::new(Connection::new(&url, "posthaste", "status").unwrap(), Arc::clone(&clock) as _);
        Self { server, store, clock, rules: Rules::default() }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn raw(&self) -> MultiplexedConnection {
        redis::Client::open(self.server.url(DATABASE)).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    async fn created(&self) -> Webhook {
        let now = self.now();
        let webhook = self.rules.create(new_webhook(TaskId::mint(now, rand::random())), now);
        self.store.create(&webhook, &content()).await.unwrap();
        webhook
    }

    async fn written(&self, before: &Webhook, after: Webhook) -> Webhook {
        self.store.write(before, &after).await.unwrap();
        after
    }

    /// Delivered, or archived as a dead letter.
    async fn finished(&self, error: Option<ErrorKind>) -> Webhook {
        let (created, now) = (self.created().await, self.now());
        let claimed = self.written(&created, self.rules.claim(&created, ClaimId(1), now).unwrap()).await;
        let status_code = Some(if error.is_some() { 410 } else { 200 });
        let outcome = Outcome { error, status_code, retry_after: None };
        let report = Report { outcome, duration: Duration::ZERO, message: None, response_excerpt: None };
        let concluded = self.rules.conclude(&claimed, ClaimId(1), &report, now, 0.5).unwrap();
        let concluded = self.written(&claimed, concluded).await;
        if error.is_none() {
            return concluded;
        }
        self.written(&concluded, self.rules.archive(&concluded, now).unwrap()).await
    }

    /// All keys, behind the store's back: only a test may ask so.
    async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.raw().await.keys("*").await.unwrap();
        keys.sort();
        keys
    }
}

fn content() -> Content {
    Content {
        url: "https://example.com/".to_owned(),
        headers: Vec::new(),
        payload: RawValue::from_string("1".to_owned()).unwrap(),
    }
}

fn key(kind: &str, webhook: &Webhook) -> String {
    format!("{{posthaste-status}}:{kind}:{}", webhook.id.task)
}

/// A key that somebody else wrote is one webhook's trouble: its calls say so, lists go on without it, and it can be deleted. Proved with a
/// list in place of a record and with bytes that are not text.
#[tokio::test]
async fn a_foreign_key_is_an_error_for_its_webhook_only() {
    let world = World::on(RedisServer::start().unwrap());
    let (stays, foreign, bytes) = (world.created().await, world.created().await, world.created().await);
    let mut raw = world.raw().await;
    let _: u64 = raw.del(key("w", &foreign)).await.unwrap();
    let _: u64 = raw.lpush(key("w", &foreign), "not ours").await.unwrap();
    let _: u64 = raw.hset(key("w", &bytes), "r", &[0xff_u8, 0xfe][..]).await.unwrap();
    for webhook in [&foreign, &bytes] {
        let error = world.store.get(&webhook.id).await.unwrap_err();
        let is_named =
            matches!(&error, StoreError::Unreadable { id, source: InvalidRecord::Malformed(_) } if *id == webhook.id.to_string());
        assert!(is_named, "{error:?}");
        assert!(world.store.open(&webhook.id).await.is_err());
    }
    let claimed = world.rules.claim(&foreign, ClaimId(1), world.now()).unwrap();
    assert!(world.store.write(&foreign, &claimed).await.is_err());
    let list = async || world.store.list(&Filter::default(), None, 10).await.unwrap().items;
    let listed: Vec<Webhook> = list().await.into_iter().map(|listed| listed.webhook).collect();
    assert_eq!(listed, [stays]);
    assert!(world.store.delete(&foreign.id).await.unwrap() && world.store.delete(&bytes.id).await.unwrap());
    assert_eq!(list().await.len(), 1);
    assert_eq!(world.store.counts().await.unwrap()[0], 2, "nothing told the status of the one whose record was gone");
}

/// Nothing of what has expired stays: neither records, contents, nor index entries. Proved by the keys that are left after a sweep, for
/// delivered webhooks and dead letters, with the clock put forward.
#[tokio::test]
async fn what_has_expired_leaves_nothing_behind() {
    let world = World::on(RedisServer::start().unwrap());
    for _ in 0..10 {
        world.finished(None).await;
        world.finished(Some(ErrorKind::HttpStatus)).await;
    }
    assert_eq!(world.store.counts().await.unwrap(), [0, 0, 0, 10, 10]);
    let report = SweepReport { ran_at: world.now(), lag_ms: 0, counts: [0; 5] };
    world.store.report_sweep(&report).await.unwrap();
    assert!(world.keys().await.len() > 40, "records and contents are there");
    world.clock.advance(world.rules.limits.retention);
    world.store.report_sweep(&report).await.unwrap();
    assert_eq!(world.keys().await, ["{posthaste-status}:counts", "{posthaste-status}:sweep"]);
    assert_eq!(world.store.counts().await.unwrap(), [0; 5]);
}

/// Redis lets go of what has expired by itself too, if nobody writes: the record some time after its end, its content after it, and both
/// not at all while it is unfinished. Proved by the times that the server says, over a resend.
#[tokio::test]
async fn what_is_finished_expires_by_itself_and_what_is_resent_does_not() {
    let world = World::on(RedisServer::start().unwrap());
    let delivered = world.finished(None).await;
    let mut raw = world.raw().await;
    let mut times = Vec::new();
    for kind in ["w", "c"] {
        times.push(raw.pexpire_time::<_, i64>(key(kind, &delivered)).await.unwrap());
    }
    let expires_at = delivered.expires_at.unwrap().as_millis();
    assert!(expires_at < times[0] && times[0] < times[1], "{expires_at} {times:?}");
    world.written(&delivered, world.rules.resend(&delivered, world.now()).unwrap()).await;
    for kind in ["w", "c"] {
        assert_eq!(raw.pexpire_time::<_, i64>(key(kind, &delivered)).await.unwrap(), -1, "it never expires");
    }
    let reservation = Reservation {
        task: delivered.id.task,
        fingerprint: String::new(),
        answer: None,
        expires_at: world.now().plus(IDEMPOTENCY_TTL),
    };
    world.store.reserve("key", &reservation).await.unwrap();
    assert!(raw.pexpire_time::<_, i64>("{posthaste-status}:reservation:key").await.unwrap() > 0);
}

/// A server that died comes back with everything, and the store goes on with the next call, though the server knows no script any more.
#[tokio::test]
async fn a_restart_of_the_server_is_passed_over() {
    let mut world = World::on(RedisServer::durable().unwrap());
    let created = world.created().await;
    world.server.crash_and_restart().unwrap();
    let claimed = world.rules.claim(&created, ClaimId(1), world.now()).unwrap();
    assert_eq!(world.store.write_and_open(&created, &claimed).await.unwrap(), content());
    world.server.crash_and_restart().unwrap();
    world.created().await;
    assert_eq!(world.store.counts().await.unwrap(), [1, 1, 0, 0, 0]);
}

/// Health tells with which settings a server loses webhooks. Proved on servers with and without them.
#[tokio::test]
async fn settings_that_lose_webhooks_are_told() {
    let warnings = async |server: RedisServer| World::on(server).store.warnings().await.unwrap();
    assert_eq!(warnings(RedisServer::durable().unwrap()).await, [""; 0]);
    let off = warnings(RedisServer::start().unwrap()).await;
    assert!(off.len() == 1 && off[0].contains("persistence is off"), "{off:?}");
    let evicting = RedisServer::with(&["--save", "3600 1", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let evicts = warnings(evicting).await;
    assert!(evicts.len() == 1 && evicts[0].contains("maxmemory-policy is allkeys-lru"), "{evicts:?}");
}
