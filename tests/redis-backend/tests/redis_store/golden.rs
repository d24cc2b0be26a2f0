//! The keys of schema versions 1 and 2: the store and the queue write them byte for byte, and read
//! them.
//!
//! The golden file contains each key without its prefix, and its value. Names replace random
//! values: the call that created a record, and the ids of messages.

use std::collections::BTreeMap;

use harness::clock::StoppedClock;
use serde_json::{Map, Value, json};
use shared::{
    liveness::{Liveness, ProcessId},
    queue::{Lane, Outgoing, Queue, redis::RedisQueue},
    status::Status,
    store::{Applications, DeadLetterFilter, golden},
};

use super::*;

const FILE: &str = "redis.json";

/// The keys of targets.
const TARGETS: &str = "redis_targets.json";

/// The keys of messages, deliveries and applications.
const OF_SCHEMA_2: &str = "schema_2/redis.json";

/// What a process with a heartbeat holds: a claim and a message.
const HELD: &str = "redis_held.json";

/// That process.
const PROCESS: ProcessId = 7;

/// Store and queue of a process, under its name if it has one.
fn open(behind: &Behind, process: Option<ProcessId>) -> (RedisStore, RedisQueue) {
    let clock: Arc<dyn Clock> = Arc::new(StoppedClock(golden::NOW));
    let liveness = Arc::new(Liveness::default());
    if let Some(process) = process {
        liveness.begin(process);
    }
    let connection = |part| Connection::new(&behind.url, &behind.prefix, part).unwrap();
    (
        RedisStore::of_process(
            connection("status"),
            Arc::clone(&clock) as _,
            Arc::clone(&liveness),
        ),
        RedisQueue::of_process(connection("queue"), clock, liveness),
    )
}

/// Every key with its value, sorted.
async fn dump(behind: &Behind) -> String {
    let mut keys: Vec<String> = behind.ask(cmd("KEYS").arg("*")).await.unwrap();
    keys.sort();
    let mut dumped = Map::new();
    for key in keys {
        let kind: String = behind.ask(cmd("TYPE").arg(&key)).await.unwrap();
        let value = match kind.as_str() {
            "hash" => {
                let fields: BTreeMap<String, String> =
                    behind.ask(cmd("HGETALL").arg(&key)).await.unwrap();
                json!(fields)
            }
            "zset" => {
                let command = &mut cmd("ZRANGE");
                let command = command.arg(&key).arg(0).arg(-1).arg("WITHSCORES");
                let members: Vec<(String, String)> = behind.ask(command).await.unwrap();
                json!(members)
            }
            kind => panic!("{key} is a {kind}"),
        };
        dumped.insert(key, value);
    }
    name_random_values(&mut dumped);
    serde_json::to_string_pretty(&dumped).unwrap()
}

fn name_random_values(dumped: &mut Map<String, Value>) {
    let mut ids = BTreeMap::new();
    for (key, value) in &*dumped {
        for (id, body) in value.as_object().into_iter().flatten() {
            if key.ends_with(":body") {
                ids.insert(format!("{key}{body}"), id.clone());
            }
        }
    }
    let mut text = Value::Object(std::mem::take(dumped)).to_string();
    for (number, id) in ids.values().enumerate() {
        text = text.replace(id.as_str(), &format!("message-{number}"));
    }
    *dumped = serde_json::from_str(&text).unwrap();
    for (_, value) in dumped.iter_mut().filter(|(key, _)| key.contains(":w:")) {
        if let Some(call) = value.get_mut("t") {
            assert_eq!(call.as_str().map(str::len), Some(16));
            *call = json!("call");
        }
    }
    for (_, value) in dumped.iter_mut() {
        if let Some(members) = value.as_array_mut() {
            members.sort_by_key(Value::to_string);
        }
    }
}

async fn load(behind: &Behind, file: &str) {
    let golden: Map<String, Value> = serde_json::from_str(&golden::read(file)).unwrap();
    for (key, value) in golden {
        let mut command = cmd(if value.is_object() { "HSET" } else { "ZADD" });
        command.arg(&key);
        for (field, text) in value.as_object().into_iter().flatten() {
            command.arg(field).arg(text.as_str().unwrap());
        }
        for member in value.as_array().into_iter().flatten() {
            command.arg(member[1].as_str().unwrap()).arg(member[0].as_str().unwrap());
        }
        behind.ask::<()>(&command).await.unwrap();
    }
}

#[tokio::test]
async fn every_key_is_written_as_in_schema_1() {
    let world = World::on(RedisServer::start().unwrap());
    let (store, queue) = open(&world.behind, None);
    golden::write_all(&store, &queue).await;
    let mut golden: Map<String, Value> = serde_json::from_str(&golden::read(FILE)).unwrap();
    // Older versions wrote circuits.
    golden.retain(|key, _| !key.contains(":circuits"));
    let golden = serde_json::to_string_pretty(&golden).unwrap();
    let mut written: Map<String, Value> = serde_json::from_str(&dump(&world.behind).await).unwrap();
    // The position of the audit that knows messages is in the file of schema 2.
    let sweep = written["{posthaste-status}:sweep"].as_object_mut().unwrap();
    let position = sweep.remove("messages_audited_until");
    assert_eq!(position, Some(json!(golden::NOW.as_millis().to_string())));
    golden::assert_same(FILE, &golden, &serde_json::to_string_pretty(&written).unwrap());
}

/// A dead letter of the message that has one delivery.
fn dead_letter() -> Webhook {
    let [.., (_, dead)] = golden::records();
    let message = golden::applications::published();
    let unstarted = Rules::delivery(&message, message.plan[0].endpoint).unwrap();
    Webhook {
        schema: unstarted.schema,
        id: unstarted.id,
        application: unstarted.application,
        referenced: false,
        destination: unstarted.destination,
        ..dead
    }
}

#[tokio::test]
async fn every_key_is_written_as_in_schema_2() {
    let world = World::on(RedisServer::start().unwrap());
    let (store, _) = open(&world.behind, None);
    golden::applications::write_all(&store).await;
    let dead = dead_letter();
    store.write(&Webhook { revision: 0, ..dead.clone() }, &dead).await.unwrap();
    store.advance_audit(None, golden::NOW).await.unwrap();
    golden::check(OF_SCHEMA_2, &dump(&world.behind).await);
}

#[tokio::test]
async fn every_key_of_schema_2_is_read() {
    let world = World::on(RedisServer::start().unwrap());
    load(&world.behind, OF_SCHEMA_2).await;
    let (store, _) = open(&world.behind, None);
    golden::applications::assert_all_read(&store).await;
    assert_eq!(store.audited_until().await.unwrap(), Some(golden::NOW));
    let dead = dead_letter();
    let endpoint = dead.id.endpoint.unwrap();
    for filter in [
        DeadLetterFilter::All,
        DeadLetterFilter::Endpoint(dead.application.clone().unwrap(), endpoint),
    ] {
        let letters = store.dead_letters(&filter, None, 10).await.unwrap().items;
        let letters = letters.into_iter().map(|listed| listed.webhook).collect::<Vec<_>>();
        assert_eq!(letters, std::slice::from_ref(&dead));
    }
    let filter = Filter { status: Some(Status::Failed), ..Filter::default() };
    assert_eq!(store.list(&filter, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.counts().await.unwrap(), [0, 0, 1, 0, 1]);
    let applications = store.applications(None, 10).await.unwrap().items;
    assert_eq!(applications.len(), golden::applications::applications().len());
}

#[tokio::test]
async fn every_target_is_written_and_read_as_in_schema_1() {
    let world = World::on(RedisServer::start().unwrap());
    let (store, _) = open(&world.behind, None);
    golden::write_targets(&store).await;
    golden::check(TARGETS, &dump(&world.behind).await);
    let world = World::on(RedisServer::start().unwrap());
    load(&world.behind, TARGETS).await;
    golden::assert_targets_read(&open(&world.behind, None).0).await;
}

#[tokio::test]
async fn every_key_of_schema_1_is_read() {
    let world = World::on(RedisServer::start().unwrap());
    load(&world.behind, FILE).await;
    let (store, queue) = open(&world.behind, None);
    golden::assert_all_read(&store, &queue).await;
}

/// The record of the claim, and the message.
fn held() -> (Webhook, Outgoing) {
    let [_, (_, claimed), ..] = golden::records();
    let [(_, message), ..] = golden::messages();
    let body = message.to_json();
    (claimed, Outgoing { body, delay: Duration::ZERO, group: "g".to_owned() })
}

#[tokio::test]
async fn what_a_process_holds_is_written_as_in_schema_1() {
    let world = World::on(RedisServer::start().unwrap());
    let (store, queue) = open(&world.behind, Some(PROCESS));
    let (claimed, message) = held();
    let pending = Webhook {
        revision: claimed.revision - 1,
        status: Status::Pending,
        claim: None,
        ..claimed.clone()
    };
    store.create(&pending, &golden::content(&pending)).await.unwrap();
    store.write_and_open(&pending, &claimed).await.unwrap();
    queue.send(Lane::Webhooks, &[message]).await.unwrap();
    let visibility = Duration::from_secs(360);
    let received = queue.receive(Lane::Webhooks, 1, visibility, Duration::ZERO).await.unwrap();
    assert_eq!(received.len(), 1);
    golden::check(HELD, &dump(&world.behind).await);
}

/// Tested by another process, which recovers the claim and the message.
#[tokio::test]
async fn what_a_process_of_schema_1_holds_is_read() {
    let world = World::on(RedisServer::start().unwrap());
    load(&world.behind, HELD).await;
    let (store, queue) = open(&world.behind, None);
    let (claimed, message) = held();
    assert_eq!(store.get(&claimed.id).await.unwrap(), Some(claimed));
    let depth = queue.depth(Lane::Webhooks).await.unwrap();
    assert_eq!((depth.ready, depth.in_flight, depth.delayed), (0, 1, 0));
    for recovered in [1, 0] {
        assert_eq!(store.end_leases_of(PROCESS, golden::NOW).await.unwrap(), recovered);
        assert_eq!(queue.release_all_of(PROCESS, golden::NOW).await.unwrap(), recovered);
    }
    let received = queue.receive(Lane::Webhooks, 10, Duration::ZERO, Duration::ZERO).await.unwrap();
    let received = received.into_iter().map(|one| (one.body, one.sent_at));
    assert_eq!(received.collect::<Vec<_>>(), [(message.body, golden::NOW)]);
}
