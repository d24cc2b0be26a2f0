//! `Idempotency-Key`: a repeated request has the effect of one, whatever happened in between.

use std::{sync::Arc, time::Duration};

use api::Access;
use serde_json::{Value, json};
use shared::{config::KeyHash, status::Status, store::Filter};

use crate::{
    faulty::Fault,
    harness::{Answer, Stack, URL, ids, parse},
};

const KEY: (&str, &str) = ("idempotency-key", "k-1");

fn body(n: u32) -> String {
    json!({"url": URL, "payload": n}).to_string()
}

async fn post(stack: &Stack, n: u32) -> Answer {
    stack.post_with("/webhooks", body(n), &[KEY]).await
}

async fn webhooks(stack: &Stack) -> Vec<String> {
    let page = stack.context.store.list(&Filter::default(), None, 1000).await.unwrap();
    page.items.iter().map(|listed| listed.webhook.id.to_string()).collect()
}

#[tokio::test]
async fn a_repeated_request_gets_the_first_response_and_has_no_effect() {
    let stack = Stack::start().await;
    let first = post(&stack, 1).await;
    let id = first.json(202)["webhook_id"].as_str().unwrap().to_owned();
    assert_eq!(first.header("idempotent-replayed"), None);
    assert_eq!(stack.take_messages().await, [id.as_str()]);
    stack.conclude(&id, 200).await;
    stack.faults.take_calls();
    let second = post(&stack, 1).await;
    assert_eq!((second.status, &second.text), (first.status, &first.text));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(stack.faults.take_calls(), [("reserve", 1)]);
    assert!(stack.take_messages().await.is_empty());
    assert_eq!(webhooks(&stack).await, [id]);
}

#[tokio::test]
async fn a_different_body_is_a_conflict_and_a_different_key_route_or_day_is_not() {
    let stack = Stack::start().await;
    post(&stack, 1).await.json(202);
    post(&stack, 2).await.problem(409);
    assert_eq!(webhooks(&stack).await.len(), 1);
    let test = |url: &str| format!("/test-webhook?webhook_url={url}");
    stack.post_with(&test(URL), body(1), &[KEY]).await.json(202);
    stack.post_with(&test("https://other.example/"), body(1), &[KEY]).await.problem(409);
    stack.post_with("/webhooks", body(2), &[("idempotency-key", "k-2")]).await.json(202);
    stack.clock.advance(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(post(&stack, 2).await.header("idempotent-replayed"), None);
    assert_eq!(webhooks(&stack).await.len(), 4);
}

/// An API key can be rotated between two tries of one request.
#[tokio::test]
async fn callers_with_different_api_keys_share_their_idempotency_keys() {
    let access = Access::Keys(["one", "two"].map(|key| KeyHash::of(key.as_bytes())).to_vec());
    let stack = Stack::with(&[], access).await;
    let as_caller = async |key| {
        stack.post_with("/webhooks", body(1), &[KEY, ("x-api-key", key)]).await.json(202)
    };
    assert_eq!(as_caller("one").await, as_caller("two").await);
    assert_eq!(webhooks(&stack).await.len(), 1);
}

#[tokio::test]
async fn a_malformed_key_is_refused() {
    let stack = Stack::start().await;
    let long = "x".repeat(256);
    for bad in ["", "a b", &long] {
        let named =
            stack.post_with("/webhooks", body(1), &[("idempotency-key", bad)]).await.problem(400);
        assert_eq!(named, ["Idempotency-Key"], "{bad}");
    }
    stack.post_with("/webhooks", body(1), &[KEY, ("idempotency-key", "k-2")]).await.problem(400);
    stack.post_with("/webhooks", body(1), &[("idempotency-key", &long[1..])]).await.json(202);
}

/// Many concurrent requests create one webhook and get the same response.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_with_one_key_create_one_webhook() {
    let stack = Arc::new(Stack::start().await);
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let stack = Arc::clone(&stack);
            tokio::spawn(async move { post(&stack, 1).await })
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
    let webhooks = webhooks(&stack).await;
    assert_eq!(webhooks.len(), 1);
    let queued = stack.take_messages().await;
    assert!(!queued.is_empty() && queued.iter().all(|id| *id == webhooks[0]));
}

/// Whatever step a try dies after, the next one continues. There is one webhook, and it is queued.
#[tokio::test]
async fn a_retry_continues_a_request_that_died() {
    for (call, fault, exists) in [
        ("reserve", Fault::Down, false),
        ("reserve", Fault::AnswerLost, false),
        ("create", Fault::Down, false),
        ("create", Fault::AnswerLost, true),
    ] {
        let stack = Stack::start().await;
        stack.faults.set(call, fault);
        let failed = post(&stack, 1).await;
        failed.problem(503);
        assert!(failed.header("retry-after").is_some());
        stack.faults.heal();
        let before = webhooks(&stack).await;
        assert_eq!(before.len(), usize::from(exists), "{call} {fault:?}");
        let again = post(&stack, 1).await;
        let id = again.json(202)["webhook_id"].as_str().unwrap().to_owned();
        assert_eq!(webhooks(&stack).await, [id.as_str()], "{call} {fault:?}");
        assert!(before.iter().all(|before| *before == id));
        assert_eq!(stack.take_messages().await, [id]);
        assert_eq!(post(&stack, 1).await.text, again.text);
    }
}

/// The response could not be stored. The caller gets its 202, and a retry gets the same bytes
/// although it has another correlation ID.
#[tokio::test]
async fn a_response_that_was_not_stored_is_built_again() {
    let stack = Stack::start().await;
    stack.faults.set("replace_reservation", Fault::Down);
    let first = post(&stack, 1).await;
    let id = first.json(202)["webhook_id"].as_str().unwrap().to_owned();
    stack.conclude(&id, 200).await;
    stack.take_messages().await;
    stack.faults.heal();
    assert_eq!(post(&stack, 1).await.text, first.text);
    assert!(stack.take_messages().await.is_empty(), "it is delivered");
    assert_eq!(webhooks(&stack).await, [id]);
}

/// After a minute the ID is too old for a create: the audit may have read its minute.
#[tokio::test]
async fn an_old_reservation_finds_its_webhook_or_gets_a_new_id() {
    let stack = Stack::start().await;
    stack.faults.set("create", Fault::Down);
    post(&stack, 1).await.problem(503);
    stack.faults.heal();
    stack.clock.advance(Duration::from_millis(60_001));
    let answer = post(&stack, 1).await.json(202);
    let id = parse(answer["webhook_id"].as_str().unwrap());
    assert_eq!(id.task.created_at(), stack.context.clock.now(), "minted anew");
    assert_eq!(post(&stack, 1).await.header("idempotent-replayed"), Some("true"));

    let stack = Stack::start().await;
    stack.faults.set("create", Fault::AnswerLost);
    post(&stack, 1).await.problem(503);
    stack.faults.heal();
    let created = webhooks(&stack).await;
    stack.clock.advance(Duration::from_millis(60_001));
    assert_eq!(post(&stack, 1).await.json(202)["webhook_id"], created[0].as_str());
    assert_eq!(webhooks(&stack).await, created);
}

fn batch(count: u32) -> String {
    json!({"webhooks": (0..count).map(|n| json!({"url": URL, "payload": n})).collect::<Vec<_>>()})
        .to_string()
}

fn accepted(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap().iter();
    results.map(|result| result["webhook_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_batch_is_accepted_once() {
    let stack = Stack::start().await;
    let post = || stack.post_with("/webhooks/batch", batch(12), &[KEY]);
    stack.faults.set("create", Fault::AnswerLost);
    post().await.problem(503);
    stack.faults.heal();
    let first = post().await;
    assert_eq!(accepted(&first.json(202)).len(), 12);
    let second = post().await;
    assert_eq!((&second.text, second.header("idempotent-replayed")), (&first.text, Some("true")));
    let mut all = webhooks(&stack).await;
    let mut queued = stack.take_messages().await;
    all.sort_unstable();
    queued.sort_unstable();
    assert_eq!((all.len(), &all), (12, &queued));
    stack.post_with("/webhooks/batch", batch(11), &[KEY]).await.problem(409);
}

/// Some webhooks of an old batch exist, or were deleted since. Only the others are created.
#[tokio::test]
async fn an_old_batch_is_completed() {
    let stack = Stack::start().await;
    stack.faults.set("create", Fault::DownAfter(2));
    stack.post_with("/webhooks/batch", batch(3), &[KEY]).await.json(202);
    stack.faults.heal();
    let created = webhooks(&stack).await;
    assert_eq!(created.len(), 2);
    stack.context.store.delete(&parse(&created[0])).await.unwrap();
    stack.clock.advance(Duration::from_millis(60_001));
    let answer = stack.post_with("/webhooks/batch", batch(3), &[KEY]).await;
    let accepted = accepted(&answer.json(202));
    assert_eq!(accepted.iter().filter(|id| created.contains(id)).count(), 2);
    assert_eq!(
        webhooks(&stack).await.len(),
        2,
        "the third is made, and the deleted one stays deleted"
    );
    assert_eq!(stack.post_with("/webhooks/batch", batch(3), &[KEY]).await.text, answer.text);
}

/// Each try of a batch creates two webhooks before it dies. The next try, a minute later, gives the
/// others new IDs. In the end each webhook was created once, and each response named the same ID.
#[tokio::test]
async fn an_old_batch_whose_tries_die_is_created_once() {
    let stack = Stack::start().await;
    let mut told = vec![None; 7];
    for round in 1..=4 {
        stack.faults.take_calls();
        stack.faults.set("create", Fault::DownAfter(2));
        let answer = stack.post_with("/webhooks/batch", batch(7), &[KEY]).await.json(202);
        for (told, result) in told.iter_mut().zip(answer["results"].as_array().unwrap()) {
            let id = result["webhook_id"].as_str().map(str::to_owned);
            assert!(told.is_none() || *told == id, "round {round}: {told:?}, then {id:?}");
            *told = id;
        }
        assert_eq!(webhooks(&stack).await.len(), usize::min(7, 2 * round));
        stack.clock.advance(Duration::from_millis(60_001));
    }
    let mut told: Vec<String> = told.into_iter().flatten().collect();
    let mut made = webhooks(&stack).await;
    told.sort_unstable();
    made.sort_unstable();
    assert_eq!(told, made);
}

/// A deleted webhook stays deleted when its request is repeated, soon or late. The response names
/// it like the first one.
#[tokio::test]
async fn a_deleted_webhook_is_not_created_again_by_a_retry() {
    for wait in [Duration::ZERO, Duration::from_millis(60_001), Duration::from_secs(23 * 3600)] {
        let stack = Stack::start().await;
        stack.faults.set("replace_reservation", Fault::Down);
        let first = post(&stack, 1).await.json(202);
        stack.faults.heal();
        let id = parse(first["webhook_id"].as_str().unwrap());
        stack.context.store.delete(&id).await.unwrap();
        stack.clock.advance(wait);
        let second = post(&stack, 1).await.json(202);
        assert_eq!(second["webhook_id"], first["webhook_id"], "{wait:?}");
        assert_eq!(webhooks(&stack).await, [""; 0], "{wait:?}");
        assert_eq!(post(&stack, 1).await.header("idempotent-replayed"), Some("true"));
    }
}

/// A try that stalls before its create continues after its ID has become too old and another try
/// has taken over. There is one webhook, and both get the same response.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_too_late_has_no_effect() {
    for (path, body) in [("/webhooks", body(1)), ("/webhooks/batch", batch(1))] {
        let stack = Arc::new(Stack::start().await);
        stack.faults.set("create", Fault::Held);
        let call = || {
            let (stack, body) = (Arc::clone(&stack), body.clone());
            tokio::spawn(async move { stack.post_with(path, body, &[KEY]).await })
        };
        let first = call();
        stack.faults.called("create", 1).await;
        stack.clock.advance(Duration::from_millis(60_001));
        let second = call();
        stack.faults.called("create", 2).await;
        stack.faults.heal();
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        let id = |answer: &Answer| match answer.json(202) {
            Value::Object(batch) if batch.contains_key("results") => {
                batch["results"][0]["webhook_id"].clone()
            }
            single => single["webhook_id"].clone(),
        };
        assert_eq!(webhooks(&stack).await, [id(&first).as_str().unwrap()], "{path}");
        assert_eq!(id(&first), id(&second), "{path}");
    }
}

#[tokio::test]
async fn a_resend_with_a_key_happens_once() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({})).await;
    stack.conclude(&id, 200).await;
    stack.take_messages().await;
    let path = format!("/webhooks/{id}/resend");
    let resend = || stack.post_with(&path, "", &[KEY]);
    // The resend is done, but its response is lost. The second try finds it done.
    stack.faults.set("replace_reservation", Fault::Down);
    let first = resend().await;
    first.json(202);
    stack.faults.heal();
    assert_eq!(resend().await.text, first.text);
    stack.conclude(&id, 200).await;
    assert_eq!(resend().await.header("idempotent-replayed"), Some("true"));
    assert_eq!(stack.record(&id).await.status, Status::Delivered);
    // Another key is another resend.
    stack.post_with(&path, "", &[("idempotency-key", "k-2")]).await.json(202);
    assert_eq!(stack.record(&id).await.status, Status::Pending);
}

#[tokio::test]
async fn a_repeated_cleanup_gets_the_first_response() {
    let stack = Stack::start().await;
    let id = stack.accept(json!({})).await;
    stack.conclude(&id, 200).await;
    let clean = || stack.post_with("/webhook-cleanup?status=delivered", "", &[KEY]);
    let first = clean().await;
    assert_eq!(first.json(200), json!({"deleted": 1, "more": false}));
    let other = stack.accept(json!({})).await;
    stack.conclude(&other, 200).await;
    let second = clean().await;
    assert_eq!((second.status.as_u16(), &second.text), (200, &first.text));
    assert_eq!(ids(&stack.get("/webhook-statuses").await.json(200)), [other]);
}
