//! Messages and their deliveries: what expiry leaves, foreign keys, a full memory, replicas, and
//! the claims of a process that died.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use harness::redis_server::{RedisCluster, RedisServer};
use redis::{InfoDict, cmd};
use serde_json::value::RawValue;
use shared::{
    applications::{
        application::Application,
        id::{ApplicationId, EndpointId},
        matching::Plan,
        message::{KEY_OCCUPIED, PublishedMessage},
        standing::{Found, Standing},
    },
    clock::Timestamp,
    id::{MessageId, TaskId, WebhookId},
    liveness::{Liveness, ProcessId},
    model::{ClaimId, Content, ErrorKind, InvalidRecord, Webhook},
    redis::Connection,
    store::{
        Applications, CreateMessageError, DeadLetterFilter, Filter, ListPosition, Lists,
        MessageFilter, Messages, StoreError, Webhooks, WriteApplicationError, WriteError, golden,
        redis::RedisStore,
    },
    transition::{NewMessage, Rules},
};

use crate::{DATABASE, PREFIX, World, limits::confirmed};

const APPLICATION: &str = "cust-7";

fn application_id() -> ApplicationId {
    APPLICATION.parse().unwrap()
}

fn new_message(now: Timestamp, endpoints: usize) -> NewMessage {
    let endpoints = (0..endpoints).map(|_| EndpointId::mint(rand::random()));
    NewMessage {
        id: MessageId {
            reference: "order-7".parse().unwrap(),
            task: TaskId::mint(now, rand::random()),
        },
        application: application_id(),
        referenced: true,
        correlation_id: "cor-1".to_owned(),
        event_type: "order.paid".parse().unwrap(),
        trace: None,
        deliver_at: None,
        plan: Plan { planned: endpoints.collect(), off: Vec::new() },
    }
}

pub(crate) fn payload() -> Content {
    let payload = RawValue::from_string("1".to_owned()).unwrap();
    Content { url: String::new(), headers: Vec::new(), payload }
}

pub(crate) fn unstarted(message: &PublishedMessage, index: usize) -> Webhook {
    Rules::delivery(message, message.plan[index].endpoint).unwrap()
}

pub(crate) fn same_key(message: &PublishedMessage) -> WebhookId {
    WebhookId::direct(message.id.reference.clone(), message.id.task)
}

fn new_application() -> Application {
    let [(_, least), _] = golden::applications::applications();
    Application { id: application_id(), ..least }
}

fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

impl<S> World<S> {
    pub(crate) async fn published(&self, endpoints: usize) -> PublishedMessage {
        let message = self.rules.publish(new_message(self.now(), endpoints), self.now());
        self.store.create_message(&message, &payload()).await.unwrap();
        message
    }

    /// The key of a message's or delivery's record.
    pub(crate) async fn place(&self, id: &WebhookId) -> String {
        self.behind.key("w", ListPosition::of(id)).await.unwrap().unwrap()
    }

    async fn fields(&self, key: &str) -> BTreeMap<String, String> {
        self.behind.ask(cmd("HGETALL").arg(key)).await.unwrap()
    }

    /// All keys but the counts, without the tag of their shard.
    async fn names(&self) -> Vec<String> {
        let keys = self.keys().await.into_iter();
        let names = keys.map(|key| key.split_once("}:").unwrap().1.to_owned());
        names.filter(|name| name != "counts").collect()
    }
}

/// Nothing of a message or delivery stays once it has expired, and a delivery's key stays occupied
/// for 20 days more. The test has a delivery that is delivered, a dead letter and one that is
/// deleted, in each of ten messages, and looks at the keys with the clock put forward.
async fn what_has_expired_leaves_nothing_behind<S>(world: World<S>) {
    let mut delivered = Vec::new();
    for _ in 0..10 {
        let message = world.published(3).await;
        delivered.push(world.finish(&unstarted(&message, 0), None).await);
        world.finish(&unstarted(&message, 1), Some(ErrorKind::HttpStatus)).await;
        world.store.delete_unchanged(&unstarted(&message, 2)).await.unwrap();
    }
    assert_eq!(world.store.counts().await.unwrap(), [0, 0, 0, 10, 10]);
    world.maintained().await;
    for delivered in &delivered {
        assert_eq!(world.store.get(&delivered.id).await.unwrap().as_ref(), Some(delivered));
    }
    world.clock.advance(world.rules.limits.retention);
    world.maintained().await;
    assert_eq!(world.store.counts().await.unwrap(), [0; 5]);
    let until = delivered[0].expires_at.unwrap().plus(KEY_OCCUPIED);
    let expected = BTreeMap::from(
        [("u", until.as_millis().to_string()), ("z", "expired".to_owned())]
            .map(|(name, value)| (name.to_owned(), value)),
    );
    let found = world.fields(&world.place(&delivered[0].id).await).await;
    assert_eq!(found, expected);
    let names = world.names().await;
    let of = |kind: &str| names.iter().filter(|name| name.starts_with(kind)).count();
    assert_eq!((of("c:"), of("w:")), (10, 30), "the markers are gone: {names:?}");
    for gone in ["dead2", "status2", "due2"] {
        assert!(!names.iter().any(|name| name.starts_with(gone)), "{gone}: {names:?}");
    }
    // The messages expire 45 days after they were allowed, and the keys are free 50 days after the
    // deliveries finished.
    world.clock.advance(days(16));
    world.maintained().await;
    let names = world.names().await;
    assert!(
        names
            .iter()
            .all(|name| name == "expiry2" || name.starts_with("w:") && name.contains("/ep-")),
        "{names:?}"
    );
    assert_eq!(names.iter().filter(|name| name.starts_with("w:")).count(), 20);
    world.clock.advance(days(5));
    world.maintained().await;
    assert_eq!(world.names().await, [""; 0]);
}

#[tokio::test]
async fn what_has_expired_leaves_nothing_behind_on_a_server() {
    what_has_expired_leaves_nothing_behind(World::on(RedisServer::start().unwrap())).await;
}

#[tokio::test]
async fn what_has_expired_leaves_nothing_behind_on_a_cluster() {
    what_has_expired_leaves_nothing_behind(World::on_cluster(RedisCluster::start().unwrap())).await;
}

/// An expired message that a delivery holds does not keep housekeeping from others, and goes after
/// the delivery. Tested with more such messages than one call looks at, an expired one behind them,
/// and the deletion of a delivery, which lets its message go.
#[tokio::test]
async fn messages_that_deliveries_hold_keep_no_other_from_its_end() {
    let world = World::on(RedisServer::start().unwrap());
    let mut held = Vec::new();
    for _ in 0..1200 {
        let message = world.published(1).await;
        let first = unstarted(&message, 0);
        let claimed = world.rules.claim(&first, ClaimId(1), world.now()).unwrap();
        held.push((world.written(&first, claimed).await, message));
    }
    world.clock.advance(Duration::from_secs(60));
    let last = world.published(0).await;
    world.clock.advance(days(46));
    let key = world.place(&same_key(&last)).await;
    for _ in 0..2 {
        world.maintained().await;
    }
    let exists: bool = world.behind.ask(cmd("EXISTS").arg(&key)).await.unwrap();
    assert!(!exists, "the last one is gone");
    let (delivery, message) = held.pop().unwrap();
    assert!(world.store.open_message(&message.id).await.unwrap().is_some());
    world.store.delete(&delivery.id).await.unwrap();
    assert_eq!(world.store.open_message(&message.id).await.unwrap(), None);
    let key = world.place(&same_key(&message)).await;
    world.clock.advance(days(2));
    for _ in 0..2 {
        world.maintained().await;
    }
    assert!(!world.behind.ask::<bool>(cmd("EXISTS").arg(&key)).await.unwrap());
    let (delivery, message) = held.pop().unwrap();
    let opened = world.store.open(&delivery.id).await.unwrap();
    assert_eq!(opened, Some((delivery, payload())), "{}", message.id);
}

fn is_malformed(error: &StoreError, name: &str) -> bool {
    matches!(error, StoreError::Unreadable { id, source: InvalidRecord::Malformed(_) }
        if id == name)
}

impl<S> World<S> {
    /// Replaces a key by a list.
    async fn replace(&self, key: &str) {
        self.behind.ask::<()>(cmd("DEL").arg(key)).await.unwrap();
        self.behind.ask::<()>(cmd("LPUSH").arg(key).arg("not ours")).await.unwrap();
    }
}

/// A key of another program affects one message, delivery or application alone. Tested with a list
/// in place of a message, of a delivery's record, of a content and of a document.
async fn a_foreign_key_affects_one_record_alone<S>(world: World<S>) {
    let (stays, foreign) = (world.published(2).await, world.published(2).await);
    let (partly, without) = (world.published(2).await, world.published(1).await);
    let orphan = world.finish(&unstarted(&foreign, 0), Some(ErrorKind::HttpStatus)).await;
    let hidden = world.finish(&unstarted(&partly, 0), Some(ErrorKind::HttpStatus)).await;
    world.replace(&world.place(&same_key(&foreign)).await).await;
    world.replace(&world.place(&hidden.id).await).await;
    let content = world.behind.key("c", without.id.task).await.unwrap().unwrap();
    world.replace(&content).await;

    let id = foreign.id.to_string();
    assert!(is_malformed(&world.store.message(&foreign.id).await.unwrap_err(), &id));
    assert!(is_malformed(&world.store.standing(&foreign.id).await.unwrap_err(), &id));
    let first = unstarted(&foreign, 1);
    let claimed = world.rules.claim(&first, ClaimId(1), world.now()).unwrap();
    let written = world.store.write(&first, &claimed).await;
    assert!(matches!(written, Err(WriteError::Store(_))), "{written:?}");
    let redriven = world.rules.redrive(&orphan, world.now()).unwrap();
    world.written(&orphan, redriven).await;
    world.store.delete(&orphan.id).await.unwrap();
    world.store.put_marker(&first.id, world.now().plus(KEY_OCCUPIED)).await.unwrap();

    let name = hidden.id.to_string();
    assert!(is_malformed(&world.store.get(&hidden.id).await.unwrap_err(), &name));
    let standing = world.store.standing(&partly.id).await.unwrap().unwrap();
    let endpoint = hidden.id.endpoint.unwrap();
    assert_eq!(standing.found, BTreeMap::from([(endpoint, Found::Unreadable)]));
    let error = world.store.open_message(&without.id).await.unwrap_err();
    assert!(is_malformed(&error, &without.id.to_string()));

    let listed = world.store.list(&Filter::default(), None, 10).await.unwrap().items;
    let listed: Vec<Webhook> = listed.into_iter().map(|listed| listed.webhook).collect();
    let mut expected = vec![unstarted(&stays, 0), unstarted(&stays, 1), unstarted(&partly, 1)];
    expected.push(unstarted(&without, 0));
    expected.sort_by_key(|webhook| std::cmp::Reverse(ListPosition::of(&webhook.id)));
    assert_eq!(listed, expected, "a delivery's URL is not in the content");
    let letters = world.store.dead_letters(&DeadLetterFilter::All, None, 9).await.unwrap().items;
    assert!(letters.is_empty(), "{letters:?}");
    let messages = world.store.list_messages(&MessageFilter::all(application_id()), None, 9).await;
    let mut expected = vec![stays.clone(), partly.clone(), without];
    expected.sort_by_key(|message| std::cmp::Reverse(message.id.task));
    assert_eq!(messages.unwrap().items, expected);
    let (from, until) = (world.now().minus(days(1)), world.now().plus(days(1)));
    let audited = world.store.list_unindexed(from, until, None).await.unwrap().items;
    assert_eq!(audited.len(), 3, "{audited:?}");

    world.store.delete(&hidden.id).await.unwrap();
    let stored = world.store.delivery(&hidden.id).await.unwrap().unwrap();
    assert_eq!(stored.found, Some(Found::Marker));
}

#[tokio::test]
async fn a_foreign_key_on_a_server_affects_one_record_alone() {
    a_foreign_key_affects_one_record_alone(World::on(RedisServer::start().unwrap())).await;
}

#[tokio::test]
async fn a_foreign_key_on_a_cluster_affects_one_record_alone() {
    a_foreign_key_affects_one_record_alone(World::on_cluster(RedisCluster::start().unwrap())).await;
}

/// A key of another program affects one application alone. Tested with a list in place of a
/// document.
#[tokio::test]
async fn a_foreign_document_affects_one_application_alone() {
    let world = World::on(RedisServer::start().unwrap());
    let (stays, foreign) =
        (new_application(), Application { id: "other".parse().unwrap(), ..new_application() });
    for application in [&stays, &foreign] {
        world.store.write_application(None, application).await.unwrap();
    }
    world.replace(&world.behind.key("app", &foreign.id).await.unwrap().unwrap()).await;
    assert!(is_malformed(&world.store.application(&foreign.id).await.unwrap_err(), "other"));
    let next = Application { revision: 2, ..foreign.clone() };
    for before in [None, Some(1)] {
        match world.store.write_application(before, &next).await {
            Err(WriteApplicationError::Store(error)) => assert!(is_malformed(&error, "other")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.store.applications(None, 10).await.unwrap().items, [stays]);
}

/// Beyond `maxmemory` no message and no application is created. Everything else goes on: first
/// writes of deliveries, later ones, markers, deletes, housekeeping, and changes of applications.
/// Tested on a server that refuses whatever may take memory.
#[tokio::test]
async fn a_full_memory_refuses_new_messages_and_applications_alone() {
    let world = World::on(RedisServer::start().unwrap());
    let (message, deletable) = (world.published(3).await, world.published(1).await);
    let application = new_application();
    world.store.write_application(None, &application).await.unwrap();
    let info: InfoDict = world.behind.ask(cmd("INFO").arg("memory")).await.unwrap();
    let limit = info.get::<u64>("used_memory").unwrap() / 2;
    world.behind.ask::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit)).await.unwrap();

    let new = world.rules.publish(new_message(world.now(), 1), world.now());
    let refused = world.store.create_message(&new, &payload()).await;
    assert!(matches!(refused, Err(CreateMessageError::Store(StoreError::Full(_)))), "{refused:?}");
    let other = Application { id: "other".parse().unwrap(), ..application.clone() };
    let refused = world.store.write_application(None, &other).await;
    assert!(
        matches!(refused, Err(WriteApplicationError::Store(StoreError::Full(_)))),
        "{refused:?}"
    );
    let next = Application { revision: 2, ..application };
    world.store.write_application(Some(1), &next).await.unwrap();
    assert_eq!(world.store.application(&next.id).await.unwrap(), Some(next));

    let letter = world.finish(&unstarted(&message, 0), Some(ErrorKind::HttpStatus)).await;
    world.finish(&unstarted(&message, 1), None).await;
    world.store.delete_unchanged(&unstarted(&message, 2)).await.unwrap();
    world.store.delete(&letter.id).await.unwrap();
    let standing = Standing::of_new(message.clone());
    let due = world.rules.adopt_message(&standing, world.now(), world.now()).unwrap();
    world.store.write_message(&message, &due).await.unwrap();
    let standing = world.store.standing(&message.id).await.unwrap().unwrap();
    let settled = world.rules.settle(&standing, world.now()).unwrap();
    world.store.write_message(&due, &settled).await.unwrap();
    let first = unstarted(&deletable, 0);
    world.store.put_marker(&first.id, world.now().plus(KEY_OCCUPIED)).await.unwrap();
    world.store.delete_message(&deletable).await.unwrap();
    world.clock.advance(days(100));
    world.maintained().await;
    world.clock.advance(days(100));
    world.maintained().await;
    let tombstone = format!("w:{}", deletable.id.task);
    let mut names = world.names().await;
    names.retain(|name| *name != tombstone);
    assert_eq!(names, [&format!("app:{APPLICATION}"), "applications"]);
}

/// What the callers of messages and applications are told as done is on a replica. Tested with a
/// replica that is stopped: nothing is answered as done but the first write of a delivery.
#[tokio::test]
async fn what_promises_durability_of_messages_waits_for_a_replica() {
    let primary = World::on(RedisServer::start().unwrap());
    let replica = RedisServer::replica_of(&primary.server).unwrap();
    let store = confirmed(&primary.server.url(DATABASE));
    let (message, application) = (primary.published(2).await, new_application());
    store.write_application(None, &application).await.unwrap();
    replica.pause().unwrap();
    let new = primary.rules.publish(new_message(primary.now(), 1), primary.now());
    store.create_message(&new, &payload()).await.unwrap_err();
    let next = Application { revision: 2, ..application };
    store.write_application(Some(1), &next).await.unwrap_err();
    let first = unstarted(&message, 0);
    let claimed = primary.rules.claim(&first, ClaimId(1), primary.now()).unwrap();
    store.write_and_open(&first, &claimed).await.unwrap();
    let until = primary.now().plus(KEY_OCCUPIED);
    store.put_marker(&unstarted(&message, 1).id, until).await.unwrap_err();
    store.delete(&first.id).await.unwrap_err();
    store.delete_message(&message).await.unwrap_err();
    replica.resume().unwrap();
    let found = store.create_message(&new, &payload()).await.unwrap_err();
    assert!(
        matches!(&found, CreateMessageError::Conflict(found) if **found == new),
        "it stands, and is confirmed now: {found:?}"
    );
    store.write_application(Some(1), &next).await.unwrap();
    store.put_marker(&unstarted(&message, 1).id, until).await.unwrap();
    replica.promote().unwrap();
    let promoted = World::on(replica);
    assert_eq!(promoted.store.message(&new.id).await.unwrap(), Some(new));
    assert_eq!(promoted.store.message(&message.id).await.unwrap(), None);
    assert_eq!(promoted.store.application(&next.id).await.unwrap(), Some(next));
}

/// Recovery ends the leases of a dead process on deliveries, and no others. Tested with claims of a
/// dead process, of one that lives and of one without a name, on a server and on a cluster.
async fn the_leases_of_a_dead_process_on_deliveries_end<S>(world: World<S>) {
    const DEAD: ProcessId = 7;
    let process = |name: Option<ProcessId>| {
        let liveness = Arc::new(Liveness::default());
        if let Some(name) = name {
            liveness.begin(name);
        }
        let connection = Connection::new(&world.behind.url, PREFIX, "status").unwrap();
        RedisStore::of_process(connection, Arc::clone(&world.clock) as _, liveness)
    };
    let (dead, alive, unnamed) = (process(Some(DEAD)), process(Some(70)), process(None));
    let (mut held, mut others) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let message = world.published(4).await;
        let claim = async |store: &RedisStore, index: usize| {
            let first = unstarted(&message, index);
            let claimed = world.rules.claim(&first, ClaimId(1), world.now()).unwrap();
            store.write_and_open(&first, &claimed).await.unwrap();
            claimed
        };
        held.push(claim(&dead, 0).await);
        others.extend([claim(&alive, 1).await, claim(&unnamed, 2).await]);
        let finished = world.finish(&unstarted(&message, 3), None).await;
        others.push(finished);
    }
    assert_eq!(alive.end_leases_of(DEAD, world.now()).await.unwrap(), 20);
    let due = world.store.due(world.now(), None, 100).await.unwrap().entries;
    for claimed in &held {
        let stored = world.store.get(&claimed.id).await.unwrap().unwrap();
        assert!(stored.claim.unwrap().lease_until <= world.now());
        assert!(due.iter().any(|entry| entry.id == claimed.id), "{due:?}");
    }
    for other in &others {
        assert_eq!(world.store.get(&other.id).await.unwrap().as_ref(), Some(other));
    }
    assert_eq!((due.len(), alive.end_leases_of(DEAD, world.now()).await.unwrap()), (20, 0));
}

#[tokio::test]
async fn the_leases_of_a_dead_process_on_deliveries_end_on_a_server() {
    the_leases_of_a_dead_process_on_deliveries_end(World::on(RedisServer::start().unwrap())).await;
}

#[tokio::test]
async fn the_leases_of_a_dead_process_on_deliveries_end_on_a_cluster() {
    let world = World::on_cluster(RedisCluster::start().unwrap());
    the_leases_of_a_dead_process_on_deliveries_end(world).await;
}
