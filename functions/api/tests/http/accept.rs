//! Creating a webhook: the response, the record and the message.

use std::time::Duration;

use serde_json::{Value, json};
use shared::{status::Status, store::Filter};

use crate::harness::{Stack, URL, parse};

/// A webhook costs one create and one send. The message names it, and record and content match the
/// request.
#[tokio::test]
async fn a_webhook_costs_one_create_and_one_send_and_keeps_its_bytes() {
    let stack = Stack::start().await;
    let payload = r#"{"a":1.0, "b":"\u00e9",  "a":[1e2,{}]}"#;
    let body = format!(
        r#" {{ "url" : "{URL}", "payload" : {payload} , "reference_id":"order_7",
            "headers":{{"X-A":"1"}}, "event_type":"order.paid" }} "#
    );
    let answer = stack.post_with("/webhooks", body, &[("x-correlation-id", "cor-1")]).await;
    assert_eq!(stack.faults.take_calls(), [("create", 1), ("send", 1)]);
    assert_eq!(answer.header("x-correlation-id"), Some("cor-1"));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let answer = answer.json(202);
    let id = answer["webhook_id"].as_str().unwrap();
    let task = answer["task_id"].as_str().unwrap();
    assert_eq!(id, format!("order_7_{task}"));
    let expected = json!({
        "webhook_id": id, "reference_id": "order_7", "task_id": task, "correlation_id": "cor-1",
        "status": "pending",
    });
    assert_eq!(answer, expected);
    let (webhook, content) = stack.context.store.open(&parse(id)).await.unwrap().unwrap();
    assert_eq!(content.payload.get(), payload);
    assert_eq!(
        (content.url.as_str(), content.headers),
        (URL, vec![("X-A".to_owned(), "1".to_owned())])
    );
    assert_eq!(
        (webhook.correlation_id.as_str(), webhook.event_type.as_deref()),
        ("cor-1", Some("order.paid"))
    );
    assert_eq!(
        (webhook.destination.as_str(), webhook.referenced),
        ("https://receiver.example:443", true)
    );
    assert_eq!(stack.take_messages().await, [id]);

    let shown = stack.get(&format!("/webhook-status/{id}")).await.json(200);
    assert_eq!(
        (&shown["status"], &shown["url"], &shown["max_attempts"]),
        (&"pending".into(), &URL.into(), &3.into())
    );
}

#[tokio::test]
async fn a_generated_reference_id_finds_its_webhook() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({"reference_id": null, "headers": null, "event_type": null})).await;
    let record = stack.record(&id).await;
    assert!(!record.referenced);
    assert_eq!(record.id.reference.generated_for(), Some(record.id.task));
    let list = stack
        .get(&format!("/webhook-statuses?reference_id={}", record.id.reference))
        .await
        .json(200);
    assert_eq!(list["items"][0]["webhook_id"], id.as_str());
    // Another webhook cannot have a generated one.
    let body = json!({"url": URL, "payload": 1, "reference_id": record.id.reference.as_str()});
    assert_eq!(stack.post("/webhooks", body.to_string()).await.problem(422), ["reference_id"]);
}

/// It enters the due index, and no message is sent. A time in the past means now.
#[tokio::test]
async fn a_scheduled_webhook_waits_in_the_due_index() {
    let stack = Stack::start().await;
    let now = stack.context.clock.now();
    let at = now.plus(Duration::from_secs(3600));
    let id = stack.accept(json!({"deliver_at": at.to_string()})).await;
    let record = stack.record(&id).await;
    assert_eq!(
        (record.status, record.due_at, record.allowed_at),
        (Status::Pending, Some(at), Some(at))
    );
    assert!(stack.take_messages().await.is_empty());
    let past = now.minus(Duration::from_secs(3600));
    let id = stack.accept(json!({"deliver_at": past.to_string()})).await;
    assert_eq!(stack.record(&id).await.due_at, None);
    assert_eq!(stack.take_messages().await, [id]);
}

#[tokio::test]
async fn retry_overrides_are_stored() {
    let stack = Stack::start().await;
    let id = stack
        .accept(
            json!({"retry": {"max_attempts": 7, "base_delay_ms": 10, "jitter": 0, "factor": null}}),
        )
        .await;
    let retry = stack.record(&id).await.retry.unwrap();
    assert_eq!(
        (retry.max_attempts, retry.base_delay_ms, retry.jitter, retry.factor),
        (Some(7), Some(10), Some(0.0), None)
    );
    assert_eq!(stack.get(&format!("/webhook-status/{id}")).await.json(200)["max_attempts"], 7);
    let id = stack.accept(json!({"retry": {"schedule_ms": [1, 2, 3, 4]}})).await;
    assert_eq!(stack.get(&format!("/webhook-status/{id}")).await.json(200)["max_attempts"], 5);
    let id = stack.accept(json!({"retry": {}})).await;
    assert_eq!(stack.record(&id).await.retry, None);
}

#[tokio::test]
async fn a_test_webhook_has_its_documented_response() {
    let stack = Stack::start().await;
    let answer = stack
        .post(
            &format!("/test-webhook?webhook_url={URL}"),
            r#" {"test_payload": {"key": "value"}} "#,
        )
        .await
        .json(202);
    let (id, task) = (answer["webhook_id"].as_str().unwrap(), answer["task_id"].as_str().unwrap());
    let reference = answer["reference_id"].as_str().unwrap();
    assert!(reference.len() == 13 && reference.starts_with("TEST-"), "{reference}");
    let expected = json!({
        "status": "webhook_queued", "webhook_id": format!("{reference}_{task}"),
        "reference_id": reference, "task_id": task,
        "message": "Test webhook queued for delivery",
    });
    assert_eq!(answer, expected);
    let (webhook, content) = stack.context.store.open(&parse(id)).await.unwrap().unwrap();
    assert_eq!(
        (content.payload.get(), webhook.referenced),
        (r#"{"test_payload": {"key": "value"}}"#, true)
    );
    let list = stack.get(&format!("/webhook-statuses?reference_id={reference}")).await.json(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(stack.take_messages().await, [id]);
    for payload in ["null", "1", "[]", "\"x\""] {
        stack.post(&format!("/test-webhook?webhook_url={URL}"), payload).await.json(202);
    }
}

/// Concurrent callers, as in a benchmark: each gets its own ID, and each webhook is queued once.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_get_different_ids() {
    let stack = std::sync::Arc::new(Stack::start().await);
    let calls = (0..64).map(|n| {
        let stack = std::sync::Arc::clone(&stack);
        tokio::spawn(async move {
            stack.post("/webhooks", json!({"url": URL, "payload": n}).to_string()).await.json(202)
        })
    });
    let mut answered: Vec<String> = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        let answer: Value = call.await.unwrap();
        answered.push(answer["webhook_id"].as_str().unwrap().to_owned());
    }
    let mut queued = stack.take_messages().await;
    answered.sort_unstable();
    queued.sort_unstable();
    assert_eq!(answered, queued);
    answered.dedup();
    assert_eq!(answered.len(), 64);
    assert_eq!(
        stack.context.store.list(&Filter::default(), None, 100).await.unwrap().items.len(),
        64
    );
}

/// `5.0` is an integer, as in JSON Schema. `5.5` is not, and neither is a number too large for an
/// exact floating-point value.
#[tokio::test]
async fn an_integer_may_have_a_fraction_of_zero() {
    let stack = Stack::start().await;
    let body = |retry: &str| format!(r#"{{"url":"{URL}","payload":1,"retry":{retry}}}"#);
    let id = stack
        .post("/webhooks", body(r#"{"max_attempts":7.0,"base_delay_ms":1e1}"#))
        .await
        .json(202);
    let retry = stack.record(id["webhook_id"].as_str().unwrap()).await.retry.unwrap();
    assert_eq!((retry.max_attempts, retry.base_delay_ms), (Some(7), Some(10)));
    let id = stack.post("/webhooks", body(r#"{"schedule_ms":[5e3,1,2.0]}"#)).await.json(202);
    assert_eq!(
        stack.record(id["webhook_id"].as_str().unwrap()).await.retry.unwrap().schedule_ms,
        Some(vec![5000, 1, 2])
    );
    for bad in ["5.5", "-1.0", "1e300", "\"5\"", "[5]"] {
        let retry = format!(r#"{{"base_delay_ms":{bad},"schedule_ms":[{bad}]}}"#);
        assert_eq!(
            stack.post("/webhooks", body(&retry)).await.problem(422),
            ["retry.base_delay_ms", "retry.schedule_ms"],
            "{bad}"
        );
    }
}
