//! `Idempotency-Key` of messages: a repeated publish has the effect and the plan of one, whatever
//! happened in between.

use std::{sync::Arc, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    customers::{
        OPERATOR, call_with, create_endpoint, create_key, delivery_ids, get, operate, put, stack,
        text,
    },
    faulty::Fault,
    harness::{Answer, Stack},
};

const MESSAGES: &str = "/applications/acme/messages";
const KEY: [(&str, &str); 1] = [("idempotency-key", "k-1")];

async fn with_endpoint() -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    create_endpoint(&stack, "acme", json!({})).await;
    stack
}

async fn publish_as(stack: &Stack, caller: &str, payload: u32) -> Answer {
    let body = json!({"event_type": "order.paid", "payload": payload});
    call_with(stack, caller, Method::POST, MESSAGES, &body, &KEY).await
}

async fn publish(stack: &Stack, payload: u32) -> Answer {
    publish_as(stack, OPERATOR, payload).await
}

async fn stored(stack: &Stack) -> Vec<String> {
    let page = get(stack, &format!("{MESSAGES}?page_size=100")).await.json(200);
    page["items"].as_array().unwrap().iter().map(|item| text(item, "message_id")).collect()
}

#[tokio::test]
async fn a_repeated_publish_gets_the_first_response_and_has_no_effect() {
    let stack = with_endpoint().await;
    let first = publish(&stack, 1).await;
    let id = text(&first.json(202), "message_id");
    assert_eq!(stack.take_messages().await, delivery_ids(&first.json(202)));
    create_endpoint(&stack, "acme", json!({})).await;
    stack.faults.take_calls();
    let second = publish(&stack, 1).await;
    assert_eq!((second.status, &second.text), (first.status, &first.text));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(stack.faults.take_calls(), [("reserve", 1)]);
    assert!(stack.take_messages().await.is_empty());
    publish(&stack, 2).await.problem(409);
    assert_eq!(stored(&stack).await, [id]);
    stack.clock.advance(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(publish(&stack, 2).await.header("idempotent-replayed"), None);
}

/// Whichever of its keys calls, and the operator, share the idempotency keys of an application.
/// Another application has its own.
#[tokio::test]
async fn idempotency_keys_belong_to_the_application() {
    let stack = with_endpoint().await;
    let (_, one) = create_key(&stack, "acme", &["publish"]).await;
    let (_, two) = create_key(&stack, "acme", &["publish", "read"]).await;
    let first = publish_as(&stack, &one, 1).await;
    first.json(202);
    for caller in [&two, OPERATOR] {
        assert_eq!(publish_as(&stack, caller, 1).await.text, first.text);
    }
    assert_eq!(stored(&stack).await.len(), 1);
    put(&stack, "globex").await;
    create_endpoint(&stack, "globex", json!({})).await;
    let body = json!({"event_type": "order.paid", "payload": 1});
    let path = "/applications/globex/messages";
    let other = call_with(&stack, OPERATOR, Method::POST, path, &body, &KEY).await;
    assert_eq!(other.header("idempotent-replayed"), None);
    assert_eq!(other.json(202)["application_id"], "globex");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_publishes_with_one_key_store_one_message() {
    let stack = Arc::new(with_endpoint().await);
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let stack = Arc::clone(&stack);
            tokio::spawn(async move { publish(&stack, 1).await })
        })
        .collect();
    let mut texts = Vec::new();
    for call in calls {
        let answer = call.await.unwrap();
        answer.json(202);
        texts.push(answer.text);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    let stored = stored(&stack).await;
    assert_eq!(stored.len(), 1);
    let queued = stack.take_messages().await;
    assert!(!queued.is_empty() && queued.iter().all(|look| look.starts_with(&stored[0])));
}

/// Whatever step a try dies after, the next one continues. There is one message, with the plan that
/// was stored first, and a look is queued.
#[tokio::test]
async fn a_retry_continues_a_publish_that_died() {
    for (call, fault, exists) in [
        ("application", Fault::Down, false),
        ("reserve", Fault::Down, false),
        ("reserve", Fault::AnswerLost, false),
        ("create_message", Fault::Down, false),
        ("create_message", Fault::AnswerLost, true),
    ] {
        let stack = with_endpoint().await;
        stack.clock.advance(Duration::from_secs(3));
        stack.faults.set(call, fault);
        let failed = publish(&stack, 1).await;
        failed.problem(503);
        assert!(failed.header("retry-after").is_some());
        stack.faults.heal();
        let before = stored(&stack).await;
        assert_eq!(before.len(), usize::from(exists), "{call} {fault:?}");
        create_endpoint(&stack, "acme", json!({})).await;
        let again = publish(&stack, 1).await;
        let answer = again.json(202);
        let id = text(&answer, "message_id");
        let planned = delivery_ids(&answer);
        assert_eq!(planned.len(), if exists { 1 } else { 2 }, "{call} {fault:?}");
        assert_eq!(stored(&stack).await, [id.as_str()], "{call} {fault:?}");
        assert!(before.iter().all(|before| *before == id));
        let mut queued = stack.take_messages().await;
        let mut expected = if exists { vec![id] } else { planned };
        queued.sort_unstable();
        expected.sort_unstable();
        assert_eq!(queued, expected, "{call} {fault:?}");
        assert_eq!(publish(&stack, 1).await.text, again.text);
    }
}

/// The response could not be stored. The caller gets its 202, and a retry gets the same bytes,
/// although the endpoints have changed since.
#[tokio::test]
async fn a_response_that_was_not_stored_is_built_from_the_stored_plan() {
    let stack = with_endpoint().await;
    stack.faults.set("replace_reservation", Fault::Down);
    let first = publish(&stack, 1).await;
    let id = text(&first.json(202), "message_id");
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    operate(&stack, Method::POST, &format!("{path}/disable"), &Value::Null).await.json(200);
    stack.take_messages().await;
    assert_eq!(publish(&stack, 1).await.text, first.text);
    assert_eq!(stack.take_messages().await, [id.as_str()], "nobody knows which looks are lost");
    stack.clock.advance(Duration::from_millis(60_001));
    assert_eq!(publish(&stack, 1).await.text, first.text, "the ID is too old for a create");
    stack.faults.heal();
    let path = format!("{MESSAGES}/{id}");
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    stack.take_messages().await;
    let deleted = publish(&stack, 1).await.json(202);
    assert_eq!(text(&deleted, "message_id"), id, "it stays deleted");
    assert!(stack.take_messages().await.is_empty());
    get(&stack, &path).await.problem(404);
}

/// After a minute the ID is too old for a create: the audit may have read its minute.
#[tokio::test]
async fn an_old_reservation_gets_a_new_id() {
    let stack = with_endpoint().await;
    stack.faults.set("create_message", Fault::Down);
    publish(&stack, 1).await.problem(503);
    stack.faults.heal();
    stack.clock.advance(Duration::from_millis(60_001));
    let answer = publish(&stack, 1).await.json(202);
    let id: shared::id::MessageId = text(&answer, "message_id").parse().unwrap();
    assert_eq!(id.task.created_at(), stack.context.clock.now(), "minted anew");
    assert_eq!(publish(&stack, 1).await.header("idempotent-replayed"), Some("true"));
    assert_eq!(stored(&stack).await.len(), 1);
}

/// A try that stalls before its create continues after its ID has become too old and another try
/// has taken over. There is one message, and both get the same response.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_too_late_has_no_effect() {
    let stack = Arc::new(with_endpoint().await);
    stack.faults.set("create_message", Fault::Held);
    let call = || {
        let stack = Arc::clone(&stack);
        tokio::spawn(async move { publish(&stack, 1).await })
    };
    let first = call();
    stack.faults.called("create_message", 1).await;
    stack.clock.advance(Duration::from_millis(60_001));
    let second = call();
    stack.faults.called("create_message", 2).await;
    stack.faults.heal();
    let (first, second) = (first.await.unwrap(), second.await.unwrap());
    assert_eq!(first.text, second.text);
    assert_eq!(stored(&stack).await, [text(&first.json(202), "message_id")]);
}

/// Nothing matches, so nothing is stored, not even the key: a repeat is matched anew. But a key
/// that is reserved belongs to a message that may exist, and the repeat gets that one.
#[tokio::test]
async fn an_unmatched_message_is_matched_anew_unless_its_key_is_reserved() {
    let stack = stack().await;
    put(&stack, "acme").await;
    stack.clock.advance(Duration::from_secs(1));
    stack.faults.take_calls();
    assert_eq!(publish(&stack, 1).await.json(202)["kept"], false);
    assert_eq!(stack.faults.take_calls(), [("application", 1), ("reservation", 1)]);
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    stack.faults.set("create_message", Fault::AnswerLost);
    publish(&stack, 1).await.problem(503);
    stack.faults.heal();
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    let answer = publish(&stack, 1).await.json(202);
    assert_eq!(delivery_ids(&answer).len(), 1, "the stored plan");
    assert_eq!(stored(&stack).await, [text(&answer, "message_id")]);
    let body = json!({"event_type": "order.paid", "payload": 2});
    let key = [("idempotency-key", "k-2")];
    let unmatched = call_with(&stack, OPERATOR, Method::POST, MESSAGES, &body, &key).await;
    assert_eq!(unmatched.json(202)["kept"], false);
    // With the key of another request, it is still that other request's.
    let conflict = call_with(&stack, OPERATOR, Method::POST, MESSAGES, &body, &KEY).await;
    conflict.problem(409);
}

#[tokio::test]
async fn a_store_that_cannot_read_the_reservation_is_a_503() {
    let stack = stack().await;
    put(&stack, "acme").await;
    stack.faults.set("reservation", Fault::Down);
    publish(&stack, 1).await.problem(503);
}
