//! The keys of schema version 1: the store and the queue write them byte for byte, and read them.
//!
//! The golden file contains each key without its prefix, and its value. Names replace random
//! values: the call that created a record, and the ids of messages.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use shared::{
    id::WebhookId,
    queue::{Lane, Outgoing, Queue, redis::RedisQueue},
    store::{IdState, Tombstone, golden},
};

use super::*;

const FILE: &str = "redis.json";

/// A clock with a fixed time.
#[derive(Debug)]
struct FixedClock;

#[async_trait]
impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        golden::NOW
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, _wait: Duration) {
        std::future::pending::<()>().await;
    }
}

fn open(behind: &Behind) -> (RedisStore, RedisQueue) {
    let clock: Arc<dyn Clock> = Arc::new(FixedClock);
    let connection = |part| Connection::new(&behind.url, &behind.prefix, part).unwrap();
    let store = RedisStore::new(connection("status"), Arc::clone(&clock));
    (store, RedisQueue::new(connection("queue"), clock))
}

fn pending(n: u8) -> Webhook {
    let (_, pending) = &golden::records()[0];
    Webhook { id: WebhookId { task: golden::task(n), ..pending.id.clone() }, ..pending.clone() }
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

async fn load(behind: &Behind) {
    let golden: Map<String, Value> = serde_json::from_str(&golden::read(FILE)).unwrap();
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
    let (store, queue) = open(&world.behind);
    for (_, record) in golden::records() {
        store.create(&record, &golden::content(&record)).await.unwrap();
    }
    let (deleted, unused) = (pending(8), pending(9));
    store.create(&deleted, &golden::content(&deleted)).await.unwrap();
    store.delete(&deleted.id).await.unwrap();
    store.tombstone_id(&unused.id).await.unwrap();
    store.advance_audit(None, golden::NOW).await.unwrap();
    for (_, report) in golden::sweep_reports() {
        store.report_sweep(&report).await.unwrap();
    }
    for (name, reservation) in golden::reservations() {
        store.reserve(name, &reservation).await.unwrap();
    }
    store.add_activity(&golden::activity(), golden::NOW).await.unwrap();
    store.write_circuit(None, &golden::circuit()).await.unwrap();
    for (lane, (_, message)) in
        [Lane::Webhooks, Lane::Webhooks, Lane::DeadLetters].into_iter().zip(golden::messages())
    {
        let body = message.to_json();
        let message = Outgoing { body, delay: Duration::ZERO, group: "g".to_owned() };
        queue.send(lane, &[message]).await.unwrap();
    }
    golden::check(FILE, &dump(&world.behind).await);
}

#[tokio::test]
async fn every_key_of_schema_1_is_read() {
    let world = World::on(RedisServer::start().unwrap());
    load(&world.behind).await;
    let (store, queue) = open(&world.behind);
    for (name, record) in golden::records() {
        let read = store.open(&record.id).await.unwrap().unwrap();
        assert_eq!(read, (record.clone(), golden::content(&record)), "{name}");
    }
    for (webhook, why) in [(pending(8), Tombstone::Deleted), (pending(9), Tombstone::Unused)] {
        assert_eq!(store.tombstone_id(&webhook.id).await.unwrap(), IdState::Tombstone(why));
    }
    assert_eq!(store.counts().await.unwrap(), [1; 5]);
    let due = store.due(golden::NOW.plus(Duration::from_secs(3600)), None, 10).await.unwrap();
    assert_eq!(due.entries.len(), 2);
    assert_eq!(store.dead_letters(None, None, 10).await.unwrap().items.len(), 1);
    assert_eq!(store.audited_until().await.unwrap(), Some(golden::NOW));
    let [_, (_, report)] = golden::sweep_reports();
    assert_eq!(store.last_sweep().await.unwrap(), Some(report));
    let activity = golden::activity();
    assert_eq!(store.counters().await.unwrap(), activity.counters);
    let destinations = store.destinations(golden::NOW).await.unwrap();
    let destinations = destinations.into_iter().map(|one| (one.destination, one.activity));
    assert_eq!(destinations.collect::<BTreeMap<_, _>>(), activity.destinations);
    assert_eq!(store.circuits().await.unwrap(), [golden::circuit()]);
    for (lane, ready) in [(Lane::Webhooks, 2), (Lane::DeadLetters, 1)] {
        assert_eq!(queue.depth(lane).await.unwrap().ready, ready);
        for message in queue.receive(lane, 10, Duration::ZERO, Duration::ZERO).await.unwrap() {
            let bodies = golden::messages().map(|(_, message)| message.to_json());
            assert!(bodies.contains(&message.body), "{}", message.body);
        }
    }
}
