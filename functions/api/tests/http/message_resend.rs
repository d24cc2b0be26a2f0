//! Resending a message: one delivery of it, or all that failed.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shared::{model::Transition, status::Status};

use crate::{
    customers::{
        OPERATOR, call_with, create_endpoint, delivery_ids, operate, post, publish, put, stack,
        text,
    },
    faulty::Fault,
    harness::Stack,
};

/// A message to some endpoints.
struct Sent {
    stack: Stack,
    /// The paths of the endpoints.
    endpoints: Vec<String>,
    deliveries: Vec<String>,
    resend: String,
    id: String,
}

async fn sent_to(count: usize) -> Sent {
    let stack = stack().await;
    put(&stack, "acme").await;
    let mut endpoints = Vec::new();
    for _ in 0..count {
        endpoints.push(create_endpoint(&stack, "acme", json!({})).await.0);
    }
    let published = publish(&stack, "acme", "order.paid").await;
    stack.take_messages().await;
    let id = text(&published, "message_id");
    let resend = format!("/applications/acme/messages/{id}/resend");
    Sent { stack, endpoints, deliveries: delivery_ids(&published), resend, id }
}

fn endpoint_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

#[tokio::test]
async fn all_failed_deliveries_are_resent_and_no_others() {
    let sent = sent_to(4).await;
    let stack = &sent.stack;
    stack.conclude(&sent.deliveries[0], 200).await;
    stack.bury(&sent.deliveries[1]).await;
    stack.conclude(&sent.deliveries[2], 410).await;
    let answer = operate(stack, Method::POST, &sent.resend, &Value::Null).await.json(202);
    assert_eq!(delivery_ids(&answer), sent.deliveries[1..3]);
    assert_eq!(
        (text(&answer, "message_id"), &answer["application_id"], &answer["skipped"]),
        (sent.id.clone(), &json!("acme"), &json!([]))
    );
    let mut queued = stack.take_messages().await;
    queued.sort_unstable();
    let mut resent = sent.deliveries[1..3].to_vec();
    resent.sort_unstable();
    assert_eq!(queued, resent);
    assert_eq!(stack.record(&sent.deliveries[0]).await.status, Status::Delivered);
    assert_eq!(stack.record(&sent.deliveries[3]).await.revision, 0);
    let again = post(stack, &sent.resend, &json!({"endpoint_id": null})).await.json(202);
    assert_eq!(again["deliveries"], json!([]), "nothing has failed since");
}

#[tokio::test]
async fn one_delivery_is_resent_if_it_is_finished_and_its_endpoint_receives() {
    let sent = sent_to(2).await;
    let stack = &sent.stack;
    let first = endpoint_of(&sent.endpoints[0]);
    let body = json!({"endpoint_id": first});
    post(stack, &sent.resend, &body).await.problem(409);
    stack.conclude(&sent.deliveries[0], 200).await;
    let answer = post(stack, &sent.resend, &body).await.json(202);
    assert_eq!(delivery_ids(&answer), sent.deliveries[..1]);
    assert_eq!(stack.take_messages().await, sent.deliveries[..1]);
    stack.conclude(&sent.deliveries[0], 200).await;

    let (later, _) = create_endpoint(stack, "acme", json!({})).await;
    let outside = json!({"endpoint_id": endpoint_of(&later)});
    let refused = post(stack, &sent.resend, &outside).await;
    refused.problem(409);
    assert!(refused.text.contains("not published to this endpoint"));
    operate(stack, Method::POST, &format!("{}/disable", sent.endpoints[0]), &Value::Null).await;
    let refused = post(stack, &sent.resend, &body).await;
    refused.problem(409);
    assert!(refused.text.contains("is disabled"), "{}", refused.text);
    operate(stack, Method::DELETE, &sent.endpoints[0], &Value::Null).await;
    let refused = post(stack, &sent.resend, &body).await;
    refused.problem(409);
    assert!(refused.text.contains("was deleted"), "{}", refused.text);
    for bad in [json!({"endpoint_id": "ep-1"}), json!({"endpoint_id": 7}), json!({"endpoint": 1})] {
        assert_eq!(post(stack, &sent.resend, &bad).await.problem(422).len(), 1, "{bad}");
    }
    // A delivery that was deleted is gone.
    let second = json!({"endpoint_id": endpoint_of(&sent.endpoints[1])});
    let path = format!("/webhook-status/{}", sent.deliveries[1]);
    assert_eq!(operate(stack, Method::DELETE, &path, &Value::Null).await.status, 204);
    post(stack, &sent.resend, &second).await.problem(404);
}

/// Failed deliveries whose endpoints receive nothing are skipped, and told.
#[tokio::test]
async fn deliveries_to_endpoints_that_receive_nothing_are_skipped() {
    let sent = sent_to(3).await;
    let stack = &sent.stack;
    for delivery in &sent.deliveries {
        stack.bury(delivery).await;
    }
    operate(stack, Method::DELETE, &sent.endpoints[0], &Value::Null).await;
    operate(stack, Method::POST, &format!("{}/disable", sent.endpoints[1]), &Value::Null).await;
    let answer = post(stack, &sent.resend, &json!({})).await.json(202);
    assert_eq!(delivery_ids(&answer), sent.deliveries[2..]);
    let skipped: Vec<String> = answer["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|delivery| text(delivery, "delivery_id"))
        .collect();
    assert_eq!(skipped, sent.deliveries[..2]);
    post(stack, &sent.resend, &json!({})).await.problem(409);
}

#[tokio::test]
async fn a_message_that_is_being_deleted_is_not_resent() {
    let sent = sent_to(1).await;
    let stack = &sent.stack;
    stack.bury(&sent.deliveries[0]).await;
    stack.faults.set("put_marker", Fault::Down);
    let path = format!("/applications/acme/messages/{}", sent.id);
    operate(stack, Method::DELETE, &path, &Value::Null).await.problem(503);
    for body in [json!({}), json!({"endpoint_id": endpoint_of(&sent.endpoints[0])})] {
        let refused = post(stack, &sent.resend, &body).await;
        refused.problem(409);
        assert!(refused.text.contains("being deleted"));
    }
    let single = format!("/applications/acme/deliveries/{}/resend", sent.deliveries[0]);
    let refused = operate(stack, Method::POST, &single, &Value::Null).await;
    refused.problem(409);
    let shown = crate::customers::get(stack, &path).await.json(200);
    assert_eq!(shown["deleting"], true);
    stack.faults.heal();
    assert_eq!(operate(stack, Method::DELETE, &path, &Value::Null).await.status, 204);
}

/// The resend is done, but its response is lost. The second try finds it done, and answers the
/// same.
#[tokio::test]
async fn a_resend_with_a_key_happens_once() {
    let sent = sent_to(2).await;
    let stack = &sent.stack;
    for delivery in &sent.deliveries {
        stack.bury(delivery).await;
    }
    let key = [("idempotency-key", "k-1")];
    let resend = || call_with(stack, OPERATOR, Method::POST, &sent.resend, &Value::Null, &key);
    stack.faults.set("replace_reservation", Fault::Down);
    let first = resend().await;
    assert_eq!(delivery_ids(&first.json(202)), sent.deliveries);
    stack.faults.heal();
    stack.clock.advance(Duration::from_secs(1));
    assert_eq!(resend().await.text, first.text);
    let again = resend().await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    for delivery in &sent.deliveries {
        let history = stack.record(delivery).await.history;
        let resends = history.iter().filter(|step| step.transition == Transition::Resend);
        assert_eq!(resends.count(), 1);
    }
}

/// Some deliveries cannot be written. The call fails, the others are on their way, and a repeat
/// resends the rest.
#[tokio::test]
async fn a_resend_that_fails_halfway_can_be_repeated() {
    let sent = sent_to(3).await;
    let stack = &sent.stack;
    for delivery in &sent.deliveries {
        stack.bury(delivery).await;
    }
    stack.faults.take_calls();
    stack.faults.set("write", Fault::DownAfter(1));
    post(stack, &sent.resend, &json!({})).await.problem(503);
    stack.faults.heal();
    assert_eq!(stack.take_messages().await.len(), 1);
    let answer = post(stack, &sent.resend, &json!({})).await.json(202);
    assert_eq!(delivery_ids(&answer).len(), 2);
}
