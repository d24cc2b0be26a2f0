//! Batches: each item is accepted or refused on its own.

use api::Access;
use serde_json::{Value, json};

use crate::{
    faulty::Fault,
    harness::{Stack, URL},
};

#[tokio::test]
async fn each_item_has_its_own_result() {
    let stack = Stack::with(&[("MAX_PAYLOAD_BYTES", "100")], Access::Loopback).await;
    let items = json!({"webhooks": [
        {"url": URL, "payload": 1, "reference_id": "a"},
        {"url": "ftp://x/", "payload": 1, "headers": {"Host": "x"}},
        7,
        {"url": URL, "payload": "x".repeat(100)},
        {"url": URL, "payload": null, "ulr": 1},
        {"url": URL, "payload": {"z": 1}},
    ]});
    let answer = stack
        .post_with("/webhooks/batch", items.to_string(), &[("x-correlation-id", "cor-1")])
        .await
        .json(202);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    let fields = |index: usize| -> (u64, Vec<&str>) {
        let error = &results[index]["error"];
        let fields = error["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|error| error["field"].as_str().unwrap())
            .collect();
        (error["status"].as_u64().unwrap(), fields)
    };
    assert_eq!(results[0]["reference_id"], "a");
    assert_eq!(fields(1), (422, vec!["webhooks[1].url", "webhooks[1].headers.Host"]));
    assert_eq!(fields(2), (422, vec!["webhooks[2]"]));
    assert_eq!(fields(3), (413, vec!["webhooks[3].payload"]));
    assert_eq!(fields(4), (422, vec!["webhooks[4].ulr"]));
    assert_eq!(
        (&results[5]["status"], &results[5]["correlation_id"]),
        (&"pending".into(), &"cor-1".into())
    );
    let mut queued = stack.take_messages().await;
    let mut accepted =
        [0, 5].map(|index| results[index]["webhook_id"].as_str().unwrap().to_owned()).to_vec();
    queued.sort_unstable();
    accepted.sort_unstable();
    assert_eq!(queued, accepted);
}

#[tokio::test]
async fn a_batch_has_1_to_100_webhooks() {
    let stack = Stack::start().await;
    let batch = |count: usize| {
        json!({"webhooks": vec![json!({"url": URL, "payload": 1}); count]}).to_string()
    };
    for body in [
        batch(0),
        batch(101),
        batch(5000),
        "{}".to_owned(),
        "[]".to_owned(),
        r#"{"webhooks": 1}"#.to_owned(),
        r#"{"webhooks": null}"#.to_owned(),
        r#"{"webhooks": [{}], "more": 1}"#.to_owned(),
    ] {
        assert_eq!(stack.post("/webhooks/batch", body).await.problem(422).len(), 1);
    }
    stack.faults.take_calls();
    let answer = stack.post("/webhooks/batch", batch(100)).await.json(202);
    // A queue call sends ten messages.
    assert_eq!(stack.faults.take_calls(), [("create", 100), ("send", 10)]);
    assert_eq!(answer["results"].as_array().unwrap().len(), 100);
    assert_eq!(stack.take_messages().await.len(), 100);
}

/// Without the store, the whole batch is refused. Without the queue, it is only delayed.
#[tokio::test]
async fn outages_affect_a_batch_like_a_single_webhook() {
    let stack = Stack::start().await;
    let body =
        json!({"webhooks": [{"url": URL, "payload": 1}, {"url": "x", "payload": 1}]}).to_string();
    stack.faults.set("create", Fault::Down);
    stack.post("/webhooks/batch", body.clone()).await.problem(503);
    stack.faults.heal();
    stack.faults.set("send", Fault::Down);
    let answer: Value = stack.post("/webhooks/batch", body).await.json(202);
    let id = answer["results"][0]["webhook_id"].as_str().unwrap();
    assert_eq!(answer["results"][1]["error"]["status"], 422);
    assert_eq!(stack.record(id).await.due_at, Some(stack.context.clock.now()));
}
