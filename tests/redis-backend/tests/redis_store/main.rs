//! What only Redis can show, on a server and on a cluster: foreign keys, what is left once webhooks
//! have expired, restarts, TLS, and settings with which it loses webhooks; what a process that died
//! held (`recovery`), replicas and a full memory (`limits`), messages and their deliveries
//! (`messages`), and the previous release on their keys (`roll_back`).

#![allow(clippy::unwrap_used, reason = "these are tests: their panics are verdicts")]

mod golden;
mod limits;
mod messages;
mod recovery;
mod roll_back;

use std::{sync::Arc, time::Duration};

use conformance::TestClock;
use harness::redis_server::{Behind, RedisCluster, RedisServer};
use redis::cmd;
use serde_json::value::RawValue;
use shared::{
    clock::{Clock, Timestamp},
    config::RedisUrl,
    id::TaskId,
    model::{ClaimId, Content, ErrorKind, InvalidRecord, Webhook},
    redis::Connection,
    retry::Outcome,
    store::{
        Filter, IDEMPOTENCY_TTL, IdempotencyKeys, Lists, Reservation, Store, StoreError,
        SweepReport, SweepState, Unindexed, Webhooks, WriteError, redis::RedisStore,
    },
    transition::{Report, Rules, testing::new_webhook},
};

const DATABASE: u32 = 2;

const PREFIX: &str = "posthaste";

/// A store, and what it is on.
struct World<S> {
    server: S,
    behind: Behind,
    store: RedisStore,
    clock: Arc<TestClock>,
    rules: Rules,
}

impl World<RedisServer> {
    fn on(server: RedisServer) -> Self {
        let url = server.url(DATABASE);
        Self::at(server, RedisUrl::parse(&url).unwrap())
    }
}

impl World<RedisCluster> {
    fn on_cluster(cluster: RedisCluster) -> Self {
        let url = cluster.url();
        Self::at(cluster, RedisUrl::parse(&url).unwrap())
    }
}

impl<S> World<S> {
    fn at(server: S, url: RedisUrl) -> Self {
        let clock = Arc::new(TestClock::default());
        let store = RedisStore::new(
            Connection::new(&url, PREFIX, "status").unwrap(),
            Arc::clone(&clock) as _,
        );
        Self {
            server,
            behind: Behind { url, prefix: PREFIX.to_owned() },
            store,
            clock,
            rules: Rules::default(),
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The key of a webhook's record (`w`) or content (`c`).
    async fn key(&self, kind: &str, webhook: &Webhook) -> String {
        self.behind.key(kind, webhook.id.task).await.unwrap().unwrap()
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
        let created = self.created().await;
        self.finish(&created, error).await
    }

    /// Leads a pending webhook there.
    async fn finish(&self, pending: &Webhook, error: Option<ErrorKind>) -> Webhook {
        let now = self.now();
        let claimed =
            self.written(pending, self.rules.claim(pending, ClaimId(1), now).unwrap()).await;
        let status_code = Some(if error.is_some() { 410 } else { 200 });
        let outcome = Outcome { error, status_code, retry_after: None };
        let report =
            Report { outcome, duration: Duration::ZERO, message: None, response_excerpt: None };
        let concluded = self.rules.conclude(&claimed, ClaimId(1), &report, now, 0.5).unwrap();
        let concluded = self.written(&claimed, concluded).await;
        if error.is_none() {
            return concluded;
        }
        self.written(&concluded, self.rules.archive(&concluded, now).unwrap()).await
    }

    /// Runs housekeeping so often that it may delete what has expired.
    async fn maintained(&self) {
        for _ in 0..3 {
            self.store.maintain(self.now(), self.now()).await.unwrap();
            self.clock.advance(Duration::from_secs(61));
        }
    }

    /// All keys, behind the store's back: only a test may ask so.
    async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.behind.ask(cmd("KEYS").arg("*")).await.unwrap();
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

/// A key of another program affects one webhook alone: its calls fail with an error, lists and the
/// audit skip it, and it can be deleted. Tested with a list in place of a record, of a content
/// and of a list of references, and with bytes that are not text.
async fn a_foreign_key_is_an_error_for_its_webhook_only<S>(world: World<S>) {
    let (stays, foreign, bytes) =
        (world.created().await, world.created().await, world.created().await);
    let foreign_content = world.created().await;
    for (kind, webhook) in [("w", &foreign), ("c", &foreign_content)] {
        let key = world.key(kind, webhook).await;
        world.behind.ask::<()>(cmd("DEL").arg(&key)).await.unwrap();
        world.behind.ask::<()>(cmd("LPUSH").arg(&key).arg("not ours")).await.unwrap();
    }
    let key = world.key("w", &bytes).await;
    world.behind.ask::<()>(cmd("HSET").arg(key).arg("r").arg(&[0xff_u8, 0xfe][..])).await.unwrap();
    for webhook in [&foreign, &bytes] {
        assert_unreadable(webhook, &world.store.get(&webhook.id).await.unwrap_err());
        assert_unreadable(webhook, &world.store.open(&webhook.id).await.unwrap_err());
    }
    assert_unreadable(&foreign_content, &world.store.open(&foreign_content.id).await.unwrap_err());
    let claimed = world.rules.claim(&foreign, ClaimId(1), world.now()).unwrap();
    let Err(WriteError::Store(error)) = world.store.write(&foreign, &claimed).await else {
        panic!("it is not written")
    };
    assert_unreadable(&foreign, &error);
    let list = async || {
        let items = world.store.list(&Filter::default(), None, 10).await.unwrap().items;
        items.into_iter().map(|listed| listed.webhook).collect::<Vec<Webhook>>()
    };
    assert_eq!(list().await, std::slice::from_ref(&stays));
    let (from, until) =
        (world.now().minus(Duration::from_secs(60)), world.now().plus(Duration::from_secs(60)));
    let audited = world.store.list_unindexed(from, until, None).await.unwrap().items;
    assert!(
        audited.contains(&Unindexed::Webhook(Box::new(stays.clone()))) && audited.len() == 2,
        "the content is not looked at: {audited:?}"
    );
    for webhook in [&foreign, &bytes, &foreign_content] {
        world.store.delete(&webhook.id).await.unwrap();
    }
    assert_eq!(list().await, [stays]);
    assert_eq!(
        world.store.counts().await.unwrap()[0],
        2,
        "nothing told the status of the one whose record was gone"
    );
}

fn assert_unreadable(webhook: &Webhook, error: &StoreError) {
    let is_named = matches!(error, StoreError::Unreadable { id,
        source: InvalidRecord::Malformed(_) } if *id == webhook.id.to_string());
    assert!(is_named, "{error:?}");
}

#[tokio::test]
async fn a_foreign_key_on_a_server_is_an_error_for_its_webhook_only() {
    a_foreign_key_is_an_error_for_its_webhook_only(World::on(RedisServer::start().unwrap())).await;
}

#[tokio::test]
async fn a_foreign_key_on_a_cluster_is_an_error_for_its_webhook_only() {
    a_foreign_key_is_an_error_for_its_webhook_only(World::on_cluster(
        RedisCluster::start().unwrap(),
    ))
    .await;
}

/// A report of the sweep that this version cannot read counts as none, and the next one replaces
/// it. Tested with reports of another shape, written behind the store's back.
#[tokio::test]
async fn an_unreadable_report_of_the_sweep_counts_as_none() {
    let world = World::on(RedisServer::start().unwrap());
    let report = SweepReport { ran_at: world.now(), ..SweepReport::default() };
    for unreadable in ["", r#"{"another":"shape"}"#] {
        let mut write = cmd("HSET");
        write.arg("{posthaste-status}:sweep").arg("report").arg(unreadable);
        world.behind.ask::<()>(&write).await.unwrap();
        assert_eq!(world.store.last_sweep().await.unwrap(), None, "{unreadable}");
        world.store.report_sweep(&report).await.unwrap();
        assert_eq!(world.store.last_sweep().await.unwrap().as_ref(), Some(&report));
    }
}

/// Webhooks are spread over the nodes of a cluster, so each carries its share. Tested by what each
/// node holds.
#[tokio::test]
async fn webhooks_are_spread_over_the_nodes_of_a_cluster() {
    let world = World::on_cluster(RedisCluster::start().unwrap());
    for _ in 0..200 {
        world.created().await;
    }
    for mut node in world.server.connections().unwrap() {
        let keys: Vec<String> = cmd("KEYS").arg("*:w:*").query(&mut node).unwrap();
        assert!(keys.len() > 10, "one node has {} of 200", keys.len());
    }
    assert_eq!(world.store.counts().await.unwrap()[0], 200);
}

/// A node that dies costs its share while it is away, and nothing that was acknowledged. Tested by
/// killing each node and starting it again on its own disk, with webhooks from before.
#[tokio::test]
async fn a_restart_of_a_cluster_s_node_is_passed_over() {
    let mut world = World::on_cluster(RedisCluster::durable().unwrap());
    let mut created = Vec::new();
    for _ in 0..50 {
        created.push(world.created().await);
    }
    for node in world.server.nodes_mut() {
        node.crash_and_restart().unwrap();
    }
    world.server.wait_until_agreed().unwrap();
    for webhook in &created {
        let claimed = world.rules.claim(webhook, ClaimId(1), world.now()).unwrap();
        assert_eq!(world.store.write_and_open(webhook, &claimed).await.unwrap(), content());
    }
    assert_eq!(world.store.counts().await.unwrap(), [0, 50, 0, 0, 0]);
}

/// `rediss://` is TLS, judged by the private CA that was given: right on a server that the CA
/// vouches for, refused without it and by the name. Tested on a server with a certificate made for
/// the test.
#[tokio::test]
async fn tls_is_judged_by_the_private_ca() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let (certificate, key) =
            (folder.path().join(format!("{name}.pem")), folder.path().join(format!("{name}.key")));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (certificate, key)
    };
    let (certificate, key) = made("localhost");
    let ca = std::fs::read(&certificate).unwrap();
    let (server, port) = RedisServer::tls(&certificate, &key).unwrap();
    let url = |host: &str| RedisUrl::parse(&format!("rediss://{host}:{port}/{DATABASE}")).unwrap();
    let world = World::at(server, url("localhost").with_ca(&ca));
    let created = world.created().await;
    assert_eq!(world.store.open(&created.id).await.unwrap().unwrap().0, created);
    let stranger = std::fs::read(made("stranger").0).unwrap();
    for (why, refused) in [
        ("the public roots do not know it", url("localhost")),
        ("another CA does not know it", url("localhost").with_ca(&stranger)),
        ("it is made for another name", url("127.0.0.1").with_ca(&ca)),
    ] {
        let store = RedisStore::new(
            Connection::new(&refused, PREFIX, "status").unwrap(),
            Arc::clone(&world.clock) as _,
        );
        let error = store.ping().await.expect_err(why);
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("certificate"), "{why}: {source}");
    }
}

/// Nothing of what has expired stays: neither records, contents, nor index entries. Tested by the
/// keys that are left after housekeeping, for delivered webhooks and dead letters, with the clock
/// put forward.
#[tokio::test]
async fn what_has_expired_leaves_nothing_behind() {
    let world = World::on(RedisServer::start().unwrap());
    for _ in 0..10 {
        world.finished(None).await;
        world.finished(Some(ErrorKind::HttpStatus)).await;
    }
    assert_eq!(world.store.counts().await.unwrap(), [0, 0, 0, 10, 10]);
    let maintain = async || world.store.maintain(world.now(), world.now()).await.unwrap();
    maintain().await;
    assert!(world.keys().await.len() > 40, "records and contents are there");
    world.clock.advance(world.rules.limits.retention);
    let before = world.keys().await;
    for _ in 0..2 {
        maintain().await;
        world.clock.advance(Duration::from_secs(59));
    }
    assert_eq!(world.keys().await, before, "two looks that are not a minute apart");
    world.clock.advance(Duration::from_secs(1));
    maintain().await;
    let left = world.keys().await;
    assert!(left.iter().all(|key| key.ends_with("}:counts")), "{left:?}");
    assert_eq!(world.store.counts().await.unwrap(), [0; 5]);
}

/// The server's clock deletes no webhook: it may be ahead too, and then would delete all of them at
/// once. An idempotency key goes by itself, as long from now as it is valid, however far the
/// server's clock and ours are apart. Tested by the times that the server says, with a clock of
/// ours that is 40 days ahead, and with the time to live that an earlier version gave, which a
/// resend takes away.
#[tokio::test]
async fn no_webhook_has_a_time_to_live_and_a_key_s_is_counted_from_now() {
    let world = World::on(RedisServer::start().unwrap());
    let delivered = world.finished(None).await;
    let (record, content) = (world.key("w", &delivered).await, world.key("c", &delivered).await);
    let time =
        async |key: &str| world.behind.ask::<i64>(cmd("PEXPIRETIME").arg(key)).await.unwrap();
    for key in [&record, &content] {
        assert_eq!(time(key).await, -1, "it never expires");
        world.behind.ask::<()>(cmd("PEXPIRE").arg(key).arg(3_600_000)).await.unwrap();
    }
    world.written(&delivered, world.rules.resend(&delivered, world.now()).unwrap()).await;
    for key in [&record, &content] {
        assert_eq!(time(key).await, -1, "it never expires");
    }
    for (name, ahead) in [("key", Duration::ZERO), ("ahead", 40 * Duration::from_secs(24 * 3600))] {
        world.clock.set_ahead(ahead);
        let reservation = Reservation {
            task: delivered.id.task,
            fingerprint: String::new(),
            settled: Vec::new(),
            answer: None,
            expires_at: world.now().plus(IDEMPOTENCY_TTL),
        };
        world.store.reserve(name, &reservation).await.unwrap();
        let keys = world.keys().await;
        let reserved =
            keys.iter().find(|key| key.ends_with(&format!(":reservation:{name}"))).unwrap();
        let left = world.behind.ask::<i64>(cmd("PTTL").arg(reserved)).await.unwrap();
        assert!((24 * 3_600_000..=25 * 3_600_000).contains(&left), "{name}: {left} ms");
    }
}

/// A server that died comes back with everything, and the store goes on with the next call, though
/// the server knows no script any more.
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

/// Health tells with which settings a server loses webhooks. Tested on servers with and without
/// them.
#[tokio::test]
async fn settings_that_lose_webhooks_are_told() {
    let warnings = async |server: RedisServer| World::on(server).store.warnings().await.unwrap();
    assert_eq!(warnings(RedisServer::durable().unwrap()).await, [""; 0]);
    let off = warnings(RedisServer::start().unwrap()).await;
    assert!(off.len() == 1 && off[0].contains("persistence is off"), "{off:?}");
    let evicting =
        RedisServer::with(&["--save", "3600 1", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let evicts = warnings(evicting).await;
    assert!(
        evicts.len() == 1 && evicts[0].contains("maxmemory-policy is allkeys-lru"),
        "{evicts:?}"
    );
    let world = World::on_cluster(RedisCluster::durable().unwrap());
    assert_eq!(world.store.warnings().await.unwrap(), [""; 0]);
    let mut node = world.server.connections().unwrap().pop().unwrap();
    cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory-policy")
        .arg("volatile-ttl")
        .query::<()>(&mut node)
        .unwrap();
    let one_evicts = world.store.warnings().await.unwrap();
    assert!(
        one_evicts.len() == 1 && one_evicts[0].contains("maxmemory-policy is volatile-ttl"),
        "{one_evicts:?}"
    );
}
