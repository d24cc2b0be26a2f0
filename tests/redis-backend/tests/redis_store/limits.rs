//! Replicas that have to confirm, a memory that is full, and rows of destinations that callers
//! choose.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use conformance::TestClock;
use harness::redis_server::{RedisCluster, RedisServer};
use redis::{InfoDict, cmd};
use shared::{
    circuit::Settings,
    clock::{Clock, Timestamp},
    config::RedisUrl,
    id::TaskId,
    lane::Lane,
    model::{ClaimId, Webhook},
    queue::{Outgoing, Queue, redis::RedisQueue},
    redis::Connection,
    store::{
        Activity, CreateError, DestinationActivity, IDEMPOTENCY_TTL, IdempotencyKeys, Reservation,
        ReserveError, Store, StoreError, SweepReport, SweepState, TARGET_TTL, TakenSlots, Targets,
        Totals, Webhooks, redis::RedisStore,
    },
    traffic::{
        slots::{Counters, Take},
        target::{Target, TargetKey},
    },
    transition::{Rules, testing::new_webhook},
};

use crate::{DATABASE, PREFIX, World, content};

/// A store whose answers wait for one replica.
pub(crate) fn confirmed(url: &str) -> RedisStore {
    let url = RedisUrl::parse(url).unwrap();
    let connection =
        Connection::new(&url, PREFIX, "status").unwrap().confirmed_by(&url, 1).unwrap();
    RedisStore::new(connection, Arc::new(TestClock::default()))
}

fn new() -> Webhook {
    let now = TestClock::default().now();
    Rules::default().create(new_webhook(TaskId::mint(now, rand::random())), now)
}

/// What is answered as done is on a replica. While none confirms, creates and deletes are not
/// answered as done, also when an earlier try had taken effect; claims go on. Tested with a replica
/// that is stopped for a while.
#[tokio::test]
async fn what_promises_durability_waits_for_a_replica() {
    let primary = RedisServer::start().unwrap();
    let replica = RedisServer::replica_of(&primary).unwrap();
    let (store, webhook) = (confirmed(&primary.url(DATABASE)), new());
    store.create(&webhook, &content()).await.unwrap();
    replica.pause().unwrap();
    let unconfirmed = new();
    for _ in 0..2 {
        let error = store.create(&unconfirmed, &content()).await.unwrap_err();
        assert!(matches!(error, CreateError::Store(StoreError::Unavailable(_))), "{error:?}");
    }
    // Another process, whose connection has written nothing.
    let error =
        confirmed(&primary.url(DATABASE)).create(&unconfirmed, &content()).await.unwrap_err();
    assert!(matches!(error, CreateError::Store(StoreError::Unavailable(_))), "{error:?}");
    let claimed = Rules::default().claim(&webhook, ClaimId(1), TestClock::default().now()).unwrap();
    store.write_and_open(&webhook, &claimed).await.unwrap();
    assert!(store.delete(&webhook.id).await.is_err());
    replica.resume().unwrap();
    let found = store.create(&unconfirmed, &content()).await.unwrap_err();
    assert!(
        matches!(found, CreateError::Conflict(record) if *record == unconfirmed),
        "it stands, and is confirmed now"
    );
    replica.promote().unwrap();
    let promoted = World::on(replica);
    assert_eq!(promoted.store.get(&unconfirmed.id).await.unwrap(), Some(unconfirmed));
    assert_eq!(promoted.store.get(&webhook.id).await.unwrap(), None);
}

/// Neither store nor queue passes the health check on a server that takes no writes, though it
/// answers reads. Tested on a replica, before and after its promotion.
#[tokio::test]
async fn a_read_only_replica_does_not_pass_the_health_check() {
    let primary = RedisServer::start().unwrap();
    let replica = World::on(RedisServer::replica_of(&primary).unwrap());
    let connection = Connection::new(&replica.behind.url, PREFIX, "queue").unwrap();
    let queue = RedisQueue::new(connection, Arc::clone(&replica.clock) as _);
    let message =
        Outgoing { body: "1".to_owned(), delay: Duration::ZERO, group: "group".to_owned() };
    let message = std::slice::from_ref(&message);
    assert_eq!(queue.depth(Lane::Webhooks).await.unwrap().ready, 0, "it answers reads");
    queue.send(Lane::Webhooks, message).await.unwrap_err();
    queue.ping().await.unwrap_err();
    replica.store.ping().await.unwrap_err();
    replica.server.promote().unwrap();
    queue.ping().await.unwrap();
    replica.store.ping().await.unwrap();
    assert_eq!(queue.depth(Lane::Webhooks).await.unwrap().ready, 0, "a ping is no message");
    queue.send(Lane::Webhooks, message).await.unwrap();
}

/// On a cluster the node that took the write is the one whose replica is waited for. Tested by
/// stopping one replica of three: webhooks of its node are not answered as done, all others are.
#[tokio::test]
async fn on_a_cluster_the_replica_of_the_node_that_took_the_write_is_waited_for() {
    let cluster = RedisCluster::with_replicas().unwrap();
    let store = confirmed(&cluster.url());
    let creates = async |n: usize| {
        let (mut done, mut undone) = (Vec::new(), 0);
        for webhook in std::iter::repeat_with(new).take(n) {
            match store.create(&webhook, &content()).await {
                Ok(()) => done.push(webhook),
                Err(_) => undone += 1,
            }
        }
        (done, undone)
    };
    assert_eq!(creates(30).await.1, 0);
    cluster.nodes()[4].pause().unwrap();
    let (done, undone) = creates(12).await;
    cluster.nodes()[4].resume().unwrap();
    assert!(!done.is_empty() && undone > 0, "{} done, {undone} not", done.len());
    let on_second = |webhook: &Webhook| {
        let keys: Vec<String> = cluster.nodes()[1]
            .command(0, cmd("KEYS").arg(format!("*:w:{}", webhook.id.task)))
            .unwrap();
        !keys.is_empty()
    };
    assert!(
        done.iter().all(|webhook| !on_second(webhook)),
        "the second node's replica confirmed nothing"
    );
}

/// Beyond `maxmemory` every step of a webhook's life goes on but its creation, and what it has is
/// forgotten in the end. Tested on a server that refuses whatever may take memory.
#[tokio::test]
async fn a_full_memory_refuses_what_is_new_and_nothing_else() {
    let world = World::on(RedisServer::start().unwrap());
    let (claimable, deletable) = (world.created().await, world.created().await);
    let used: u64 = world
        .behind
        .ask::<InfoDict>(cmd("INFO").arg("memory"))
        .await
        .unwrap()
        .get("used_memory")
        .unwrap();
    world.behind.ask::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(used / 2)).await.unwrap();
    let error = world.store.create(&new(), &content()).await.unwrap_err();
    assert!(matches!(error, CreateError::Store(StoreError::Full(_))), "{error:?}");
    let reservation = Reservation {
        task: claimable.id.task,
        fingerprint: String::new(),
        settled: Vec::new(),
        answer: None,
        expires_at: world.now().plus(IDEMPOTENCY_TTL),
    };
    let error = world.store.reserve("key", &reservation).await.unwrap_err();
    assert!(matches!(error, ReserveError::Store(StoreError::Full(_))), "{error:?}");
    let claimed = world.rules.claim(&claimable, ClaimId(1), world.now()).unwrap();
    world.store.write_and_open(&claimable, &claimed).await.unwrap();
    world.store.delete(&deletable.id).await.unwrap();
    world.store.ping().await.unwrap();
    assert!(
        world.store.warnings().await.unwrap().iter().any(|warning| warning.contains("90 % full"))
    );
    let counters = BTreeMap::from([("made".to_owned(), 1)]);
    world
        .store
        .add_activity(&Activity { counters, ..Activity::default() }, world.now())
        .await
        .unwrap();
    let open = failed("https://down", 5, world.now());
    world.store.write_target(None, &open).await.unwrap();
    assert_eq!(world.store.targets(world.now()).await.unwrap().len(), 1);
    world.store.replace_counters(&open.key, None, &slot_counters()).await.unwrap();
    let taken = world.store.take_slots(&open.key, &take()).await.unwrap();
    assert_eq!(taken, TakenSlots::Taken { last: 1, target: Some(open.clone()) });
    let closed = open.succeeded(world.now());
    world.store.write_target(Some(open.revision), &closed).await.unwrap();
    assert_eq!(world.store.target(&open.key).await.unwrap().target, None);
    world.store.advance_audit(None, world.now()).await.unwrap();
    let report = SweepReport { ran_at: world.now(), ..SweepReport::default() };
    world.store.report_sweep(&report).await.unwrap();
    assert_eq!(world.store.last_sweep().await.unwrap(), Some(report));
    assert_eq!(world.store.end_leases_of(1, world.now()).await.unwrap(), 0);
}

/// Names of destinations are the callers' to choose, so what is kept of one ends: its row when
/// nothing has changed for long, also a row of an older version.
#[tokio::test]
async fn what_is_kept_of_a_destination_ends() {
    let world = World::on(RedisServer::start().unwrap());
    let waits = async |name: &str| {
        let seen = DestinationActivity { waiting: 1, failed: 1, ..DestinationActivity::default() };
        let activity = Activity {
            destinations: BTreeMap::from([(name.to_owned(), seen)]),
            ..Activity::default()
        };
        world.store.add_activity(&activity, world.now()).await.unwrap();
    };
    let rows = async || {
        world
            .behind
            .ask::<Vec<String>>(cmd("HKEYS").arg("{posthaste-status}:waiting"))
            .await
            .unwrap()
    };
    world
        .behind
        .ask::<()>(cmd("HSET").arg("{posthaste-status}:waiting").arg("https://older").arg(1))
        .await
        .unwrap();
    waits("https://gone").await;
    waits("https://gone").await;
    assert_eq!(rows().await.len(), 2);
    world.clock.advance(Duration::from_secs(9 * 24 * 3600));
    waits("https://here").await;
    assert_eq!(rows().await, ["https://here"]);
}

fn failed(origin: &str, count: u32, now: Timestamp) -> Target {
    Target::idle(TargetKey::origin(origin)).failed(count, &Settings::default(), now)
}

fn slot_counters() -> Counters {
    Counters { generation: "1".to_owned(), last: 0, last_late: 0 }
}

fn take() -> Take {
    Take { generation: "1".to_owned(), floor: 0, count: 1, is_late: false }
}

/// Whether what is stored of the origin is there: its target, and its counters.
async fn has<S>(world: &World<S>, origin: &str) -> [bool; 2] {
    let state = world.store.target(&TargetKey::origin(origin)).await.unwrap();
    [state.target.is_some(), state.counters.is_some()]
}

/// The key of this name ends by itself, in no less than the time to live of a target.
async fn assert_ends<S>(world: &World<S>, name: &str) {
    let key = format!("{{posthaste-status}}:{name}");
    let left_s: i64 = world.behind.ask(cmd("TTL").arg(&key)).await.unwrap();
    assert!(left_s >= TARGET_TTL.as_secs() as i64, "{key} ends by itself: {left_s}");
}

/// The members of a sorted set.
async fn members<S>(world: &World<S>, name: &str) -> Vec<String> {
    let key = format!("{{posthaste-status}}:{name}");
    world.behind.ask(cmd("ZRANGE").arg(&key).arg(0).arg(-1)).await.unwrap()
}

/// So are the names of targets. A write deletes those that were not used for long. Nothing is left
/// of one that works and has no counters.
#[tokio::test]
async fn what_is_kept_of_a_target_ends() {
    let world = World::on(RedisServer::start().unwrap());
    let write = async |origin: &str| {
        world.store.write_target(None, &failed(origin, 5, world.now())).await.unwrap();
    };
    let restart = async |origin: &str| {
        let key = TargetKey::origin(origin);
        world.store.replace_counters(&key, None, &slot_counters()).await.unwrap();
    };
    for origin in ["a", "b", "c"] {
        write(origin).await;
        restart(origin).await;
    }
    world.clock.advance(TARGET_TTL);
    world.store.take_slots(&TargetKey::origin("b"), &take()).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    write("d").await;
    assert_eq!([has(&world, "a").await, has(&world, "c").await], [[false; 2]; 2]);
    assert_eq!(has(&world, "b").await, [true; 2], "its counters were used");
    assert_eq!(members(&world, "targets:until").await, ["b", "d"]);
    // Its revision is gone, too, so it can be written again.
    write("a").await;
    world.clock.advance(TARGET_TTL + Duration::from_millis(1));
    restart("e").await;
    for origin in ["a", "b", "d"] {
        assert_eq!(has(&world, origin).await, [false; 2], "{origin}");
    }

    let open = failed("f", 5, world.now());
    world.store.write_target(None, &open).await.unwrap();
    let closed = open.succeeded(world.now());
    world.store.write_target(Some(open.revision), &closed).await.unwrap();
    assert_eq!(members(&world, "targets:used").await, ["e"]);
    assert_eq!(members(&world, "targets:until").await, [""; 0]);
}

/// All of it ends by itself when no target is written. Checks the time to live after each first
/// write, and after a refused one: each script begins with the removal of a time to live.
#[tokio::test]
async fn what_is_kept_of_targets_ends_by_itself() {
    let world = World::on(RedisServer::start().unwrap());
    let open = failed("a", 5, world.now());
    let other_rate = Take { generation: "2".to_owned(), ..take() };
    world.store.write_target(None, &open).await.unwrap();
    for name in ["targets", "targets:revision", "targets:until", "targets:used"] {
        assert_ends(&world, name).await;
    }
    world.store.write_target(None, &open).await.unwrap_err();
    assert_ends(&world, "targets").await;
    world.store.replace_counters(&open.key, None, &slot_counters()).await.unwrap();
    assert_ends(&world, "targets:counters").await;
    world.store.replace_counters(&open.key, None, &slot_counters()).await.unwrap_err();
    assert_ends(&world, "targets:counters").await;
    let refused = world.store.take_slots(&open.key, &other_rate).await.unwrap();
    assert!(matches!(refused, TakenSlots::Refused(_)), "{refused:?}");
    assert_ends(&world, "targets:counters").await;
    let soon = cmd("PEXPIRE").arg("{posthaste-status}:targets:used").arg(60_000).clone();
    world.behind.ask::<()>(&soon).await.unwrap();
    world.store.take_slots(&open.key, &take()).await.unwrap();
    for name in ["targets:counters", "targets:used"] {
        assert_ends(&world, name).await;
    }
}

/// Taking slots alone must not keep a target beyond its revision: it could not be written then.
#[tokio::test]
async fn a_target_and_its_revision_end_together() {
    let world = World::on(RedisServer::start().unwrap());
    let open = failed("a", 5, world.now());
    world.store.write_target(None, &open).await.unwrap();
    let ends =
        |name: &'static str| cmd("PEXPIRETIME").arg(format!("{{posthaste-status}}:{name}")).clone();
    let deadline = cmd("PEXPIRE").arg("{posthaste-status}:targets").arg(60_000).clone();
    world.behind.ask::<()>(&deadline).await.unwrap();
    let before: u64 = world.behind.ask(&ends("targets")).await.unwrap();
    world.store.replace_counters(&open.key, None, &slot_counters()).await.unwrap();
    world.store.take_slots(&open.key, &take()).await.unwrap();
    assert_eq!(world.behind.ask::<u64>(&ends("targets")).await.unwrap(), before);
    assert!(world.behind.ask::<u64>(&ends("targets:counters")).await.unwrap() > before);
}
