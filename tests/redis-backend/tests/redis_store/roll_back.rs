//! The previous release on the keys of messages and deliveries: it neither sees nor changes them.
//! The scripts in `previous_release` are its scripts about one webhook. They are frozen.

use std::collections::BTreeMap;

use harness::redis_server::RedisServer;
use redis::{Value, cmd};
use shared::{
    id::WebhookId,
    model::{ClaimId, ErrorKind, Function, Webhook, Why},
    store::{
        Applications, CreateError, DeleteError, IdState, Lists, Messages, Tombstone, Webhooks,
        golden,
    },
    transition::{Rules, testing::new_webhook},
};

use crate::{
    World, content,
    messages::{same_key, unstarted},
};

macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("previous_release/prelude.lua"),
            include_str!(concat!("previous_release/", $name, ".lua"))
        )
    };
}

/// Every key with its value as the server stores it.
async fn dump(world: &World<RedisServer>) -> BTreeMap<String, Vec<u8>> {
    let mut dumped = BTreeMap::new();
    for key in world.keys().await {
        let value: Vec<u8> = world.behind.ask(cmd("DUMP").arg(&key)).await.unwrap();
        dumped.insert(key, value);
    }
    dumped
}

/// Publishes messages that together have everything that this version stores of one.
async fn write_everything(world: &World<RedisServer>) -> Vec<WebhookId> {
    let message = world.published(6).await;
    world.finish(&unstarted(&message, 0), None).await;
    world.finish(&unstarted(&message, 1), Some(ErrorKind::HttpStatus)).await;
    let first = unstarted(&message, 2);
    let claimed = world.rules.claim(&first, ClaimId(1), world.now()).unwrap();
    world.written(&first, claimed).await;
    world.store.delete_unchanged(&unstarted(&message, 3)).await.unwrap();
    let why = (Function::Api, Why::Unsent);
    let first = unstarted(&message, 4);
    let held = world.rules.adopt(&first, world.now(), why, world.now()).unwrap();
    world.written(&first, held).await;
    let due = world.published(1).await;
    let deleting = world.rules.start_deleting(&due, world.now()).unwrap();
    world.store.write_message(&due, &deleting).await.unwrap();
    for (_, application) in golden::applications::applications() {
        world.store.write_application(None, &application).await.unwrap();
    }
    vec![same_key(&message), same_key(&due)]
}

/// No index of the previous release has an entry of a message or delivery but the one by time, of
/// messages alone, and its audit finds no status there.
#[tokio::test]
async fn the_previous_release_finds_messages_by_time_alone() {
    let world = World::on(RedisServer::start().unwrap());
    let ids = write_everything(&world).await;
    let keys = world.keys().await;
    for name in ["status", "due", "dead", "expiry"] {
        let is_there = keys.iter().any(|key| key.ends_with(&format!("}}:{name}")));
        assert!(!is_there, "{name}: {keys:?}");
    }
    let is_of_reference = |key: &String| key.contains(":ref:") && !key.contains('/');
    assert!(!keys.iter().any(|key| is_of_reference(key) || key.contains(":dead:")), "{keys:?}");
    let mut found = Vec::new();
    for key in keys.iter().filter(|key| key.ends_with("}:time")) {
        let members: Vec<String> =
            world.behind.ask(cmd("ZRANGE").arg(key).arg(0).arg(-1)).await.unwrap();
        found.extend(members);
    }
    found.sort();
    let mut expected: Vec<String> = ids.iter().map(|id| id.task.to_string()).collect();
    expected.sort();
    assert_eq!(found, expected);
    for id in &ids {
        let key = world.place(id).await;
        let read = cmd("HMGET").arg(key).arg("s").arg("i").arg("r").clone();
        let (status, name, record): (Option<String>, Option<String>, String) =
            world.behind.ask(&read).await.unwrap();
        assert_eq!((status, name), (None, None));
        assert!(Webhook::from_json(&record).is_err());
    }
    let counted: u64 = world.store.counts().await.unwrap().iter().sum();
    assert_eq!(counted, 4, "both versions count deliveries that have a record");
}

/// Calls of the previous release with the task id of a message change nothing: no write, no
/// delete, no create and no tombstone. Tested by its scripts, and by every key before and after.
#[tokio::test]
async fn the_previous_release_changes_no_message() {
    let world = World::on(RedisServer::start().unwrap());
    let ids = write_everything(&world).await;
    let before = dump(&world).await;
    let now = world.now().as_millis();
    for id in &ids {
        let message = world.place(id).await;
        let (tag, _) = message.split_once("}:").unwrap();
        let key = |name: &str| format!("{tag}}}:{name}");
        let mut keys: Vec<String> =
            ["time", "status", "due", "dead", "expiry", "counts"].map(key).to_vec();
        keys.extend([format!("w:{}", id.task), format!("c:{}", id.task)].map(|name| key(&name)));
        keys.extend(
            [format!("ref:{}", id.reference), format!("dead:{}", id.reference)]
                .map(|name| key(&name)),
        );
        let run = async |script: &str, arguments: Vec<&str>| {
            let mut call = cmd("EVAL");
            call.arg(script).arg(keys.len()).arg(&keys).arg(now).arg(arguments);
            world.behind.ask::<Value>(&call).await.unwrap()
        };
        let (task, name) = (id.task.to_string(), id.to_string());
        let text = |value: &str| Value::BulkString(value.as_bytes().to_vec());
        for revision in ["", "1", "2"] {
            let deleted =
                run(script!("delete"), vec![&task, &name, revision, "9999999999999", "deleted"]);
            assert_eq!(deleted.await, text("missing"));
        }
        let written = run(
            script!("write"),
            vec![&task, &name, "1", "1", "2", "3", "", "", "9", "{}", "process.1"],
        );
        assert_eq!(written.await, Value::Array(vec![text("missing")]));
        let created = run(
            script!("create"),
            vec![&task, &name, "order-7", "call", "1", "0", "", "", "", "{}", "u", "", "1", "0"],
        );
        let Value::Array(created) = created.await else { panic!("a list") };
        let record = match &created[0] {
            Value::BulkString(record) => String::from_utf8(record.clone()).unwrap(),
            other => panic!("the record that exists: {other:?}"),
        };
        assert!(Webhook::from_json(&record).is_err());
        let barred = run(script!("tombstone_id"), vec!["9999999999999", "barred"]);
        assert_eq!(barred.await, Value::Array(vec![text(&record), Value::Nil]));
    }
    assert_eq!(dump(&world).await, before);
}

/// This version's calls about webhooks find no message under its id, and a message's id is taken.
#[tokio::test]
async fn no_webhook_has_the_id_of_a_message() {
    let world = World::on(RedisServer::start().unwrap());
    let ids = write_everything(&world).await;
    let before = dump(&world).await;
    for id in &ids {
        assert_eq!(world.store.get(id).await.unwrap(), None);
        assert_eq!(world.store.open(id).await.unwrap(), None);
        let deleted = world.store.delete(id).await;
        assert!(matches!(deleted, Err(DeleteError::Missing)), "{deleted:?}");
        let mut new = new_webhook(id.task);
        new.id = id.clone();
        let webhook = Rules::default().create(new, world.now());
        let created = world.store.create(&webhook, &content()).await;
        assert!(matches!(created, Err(CreateError::Store(_))), "{created:?}");
        let barred = world.store.tombstone_id(id).await.unwrap();
        assert_eq!(barred, IdState::Tombstone(Tombstone::Unused));
    }
    assert_eq!(dump(&world).await, before);
}
