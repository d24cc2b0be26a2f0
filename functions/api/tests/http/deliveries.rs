//! Deliveries of an application: lists, states, explanations and resends.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    circuit::Settings,
    clock::Clock,
    model::Function,
    status::Status,
    traffic::target::{Target, TargetKey},
    transition::GiveUp,
};

use crate::{
    customers::{
        OPERATOR, call_with, create_endpoint, delivery_ids, get, operate, post, publish, put,
        stack, text,
    },
    harness::{Stack, URL, parse},
};

const DELIVERIES: &str = "/applications/acme/deliveries";

async fn with_endpoints(count: usize) -> (Stack, Vec<String>) {
    let stack = stack().await;
    put(&stack, "acme").await;
    let mut endpoints = Vec::new();
    for _ in 0..count {
        let (_, created) = create_endpoint(&stack, "acme", json!({})).await;
        endpoints.push(text(&created, "endpoint_id"));
    }
    (stack, endpoints)
}

async fn list(stack: &Stack, query: &str) -> Vec<String> {
    let page = get(stack, &format!("{DELIVERIES}?{query}")).await.json(200);
    page["items"].as_array().unwrap().iter().map(|item| text(item, "delivery_id")).collect()
}

/// Deliveries of a message from the greatest endpoint ID to the least, as the list has them.
fn listed(published: &Value) -> Vec<String> {
    let mut ids = delivery_ids(published);
    ids.sort_unstable();
    ids.reverse();
    ids
}

#[tokio::test]
async fn a_delivery_is_shown_from_its_message_on() {
    let (stack, endpoints) = with_endpoints(1).await;
    let published = publish(&stack, "acme", "order.paid").await;
    let id = delivery_ids(&published).remove(0);
    let path = format!("{DELIVERIES}/{id}");
    let shown = get(&stack, &path).await.json(200);
    let created_at = stack.record(&id).await.created_at.to_string();
    let expected = json!({
        "delivery_id": id, "endpoint_id": endpoints[0], "message_id": published["message_id"],
        "application_id": "acme", "reference_id": published["reference_id"],
        "event_type": "order.paid", "correlation_id": stack.record(&id).await.correlation_id,
        "url": URL, "status": "pending", "dead_letter": false, "attempt_count": 0,
        "max_attempts": 10, "created_at": created_at, "updated_at": created_at,
        "next_attempt_at": created_at, "delivered_at": null, "failed_at": null,
        "last_error": null, "attempts": [],
    });
    assert_eq!(shown, expected);
    stack.conclude(&id, 200).await;
    let shown = get(&stack, &format!("{path}?include=payload")).await.json(200);
    assert_eq!((&shown["status"], &shown["payload"]), (&json!("delivered"), &json!({"n": 1})));
    assert_eq!(shown["attempts"][0]["status_code"], 200);
    let message = text(&published, "message_id");
    for absent in [&*message, "a_b", &id.replace("ep-", "ep-a"), &format!("{message}.ep-1")] {
        get(&stack, &format!("{DELIVERIES}/{absent}")).await.problem(404);
        get(&stack, &format!("{DELIVERIES}/{absent}/explain")).await.problem(404);
    }
    let other = format!("{message}.ep-aaaaaaaaaaaaaaaa");
    get(&stack, &format!("{DELIVERIES}/{other}")).await.problem(404);
}

/// An endpoint's retry policy, URL and deletion show in its deliveries.
#[tokio::test]
async fn a_delivery_shows_what_its_endpoint_is_now() {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (path, _) = create_endpoint(&stack, "acme", json!({"retry": {"max_attempts": 4}})).await;
    let id = delivery_ids(&publish(&stack, "acme", "a").await).remove(0);
    let shown = async || get(&stack, &format!("{DELIVERIES}/{id}")).await.json(200);
    assert_eq!(shown().await["max_attempts"], 4);
    let changed = json!({"url": "https://other.example/"});
    operate(&stack, Method::PATCH, &path, &changed).await.json(200);
    assert_eq!(shown().await["url"], "https://other.example/");
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    assert_eq!((&shown().await["url"], &shown().await["max_attempts"]), (&Value::Null, &json!(10)));
}

#[tokio::test]
async fn filters_narrow_the_list_of_deliveries() {
    let (stack, endpoints) = with_endpoints(2).await;
    let (first, second) = (publish(&stack, "acme", "a").await, publish(&stack, "acme", "b").await);
    let all = [listed(&second), listed(&first)].concat();
    assert_eq!(list(&stack, "").await, all);
    assert_eq!(list(&stack, "status=&endpoint_id=&cursor=&page_size=").await, all);
    let of = |endpoint: &str| -> Vec<String> {
        all.iter().filter(|id| id.ends_with(endpoint)).cloned().collect()
    };
    for endpoint in &endpoints {
        assert_eq!(list(&stack, &format!("endpoint_id={endpoint}")).await, of(endpoint));
    }
    stack.conclude(&all[0], 200).await;
    stack.conclude(&all[1], 500).await;
    stack.conclude(&all[2], 410).await;
    stack.bury(&all[3]).await;
    for (status, expected) in [
        ("delivered", &all[..1]),
        ("retrying", &all[1..2]),
        ("failed", &all[2..]),
        ("dead", &all[3..]),
        ("pending", &[]),
    ] {
        assert_eq!(list(&stack, &format!("status={status}")).await, expected, "{status}");
    }
    let ends = |id: &str| id.rsplit('.').next().unwrap().to_owned();
    let dead = format!("status=dead&endpoint_id={}", ends(&all[3]));
    assert_eq!(list(&stack, &dead).await, all[3..]);
    let none = format!("status=dead&endpoint_id={}", ends(&all[2]));
    assert_eq!(list(&stack, &none).await, [""; 0]);
    for (query, field) in [("status=gone", "status"), ("endpoint_id=x", "endpoint_id")] {
        assert_eq!(get(&stack, &format!("{DELIVERIES}?{query}")).await.problem(422), [field]);
    }
    get(&stack, "/applications/nobody/deliveries").await.problem(404);
}

/// Each delivery is on one page, also where a page ends within a message, and where many messages
/// lie between two deliveries that match.
#[tokio::test]
async fn each_delivery_is_on_one_page() {
    let (stack, _) = with_endpoints(3).await;
    let mut all = Vec::new();
    for _ in 0..25 {
        all.splice(0..0, listed(&publish(&stack, "acme", "a").await));
    }
    let pages = async |query: &str| {
        let (mut cursor, mut seen, mut calls) = (String::new(), Vec::new(), 0);
        loop {
            let path = format!("{DELIVERIES}?{query}&cursor={cursor}");
            let page = get(&stack, &path).await.json(200);
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| text(item, "delivery_id")));
            calls += 1;
            assert!(calls <= 100, "the pages do not end");
            let Some(next) = page["next_cursor"].as_str() else { return (seen, calls) };
            next.clone_into(&mut cursor);
        }
    };
    for size in [1, 2, 3, 7, 74, 75, 76, 100] {
        let (seen, calls) = pages(&format!("page_size={size}")).await;
        assert_eq!(seen, all, "{size}");
        assert!(calls <= 75_usize.div_ceil(size) + 1, "{size}: {calls}");
    }
    stack.conclude(&all[74], 200).await;
    assert_eq!(pages("status=delivered&page_size=1").await.0, all[74..]);
    for id in &all[3..6] {
        stack.bury(id).await;
    }
    let endpoint = all[3].rsplit('.').next().unwrap();
    let letter = publish(&stack, "acme", "a").await;
    let letter = delivery_ids(&letter).into_iter().find(|id| id.ends_with(endpoint)).unwrap();
    stack.bury(&letter).await;
    let dead = pages(&format!("status=dead&endpoint_id={endpoint}&page_size=1")).await;
    assert_eq!(dead.0, [letter, all[3].clone()], "the latest archived first");
    let cursor = get(&stack, &format!("{DELIVERIES}?page_size=1")).await.json(200);
    let cursor = text(&cursor, "next_cursor");
    let foreign = format!("{DELIVERIES}?status=dead&endpoint_id={endpoint}&cursor={cursor}");
    assert_eq!(get(&stack, &foreign).await.problem(400), ["cursor"]);
}

#[tokio::test]
async fn explain_tells_what_holds_a_delivery_back() {
    let (stack, endpoints) = with_endpoints(1).await;
    let id = delivery_ids(&publish(&stack, "acme", "a").await).remove(0);
    let explain =
        async |id: &str| get(&stack, &format!("{DELIVERIES}/{id}/explain")).await.json(200);
    let told = explain(&id).await;
    assert_eq!(
        told["steps"][0]["why"],
        "The message was published, and planned for this endpoint."
    );
    let what = text(&told["next"], "what");
    assert!(what.contains("first look") && what.contains("audit"), "{what}");
    assert_eq!(
        (&told["next"]["by"], &told["budget"]["attempts"]["of"]),
        (&json!("deliver"), &json!(10))
    );

    // The endpoint's circuit.
    let store = &stack.context.store;
    let key = TargetKey::endpoint(&"acme".parse().unwrap(), endpoints[0].parse().unwrap());
    let settings = Settings { failures: 1, ..Settings::default() };
    let open = Target::idle(key).failed(1, &settings, stack.clock.now());
    store.write_target(None, &open).await.unwrap();
    let told = explain(&id).await;
    let what = text(&told["next"], "what");
    assert!(what.contains("The circuit of its endpoint is open until"), "{what}");
    assert_eq!(told["traffic"]["targets"][0]["target"], format!("acme/{}", endpoints[0]));
    assert_eq!(told["next"]["at"], open.circuit.open_until.unwrap().to_string());

    // Scheduled, and due.
    let at = stack.clock.now().plus(Duration::from_secs(3600));
    let body = json!({"event_type": "a", "payload": 1, "deliver_at": at.to_string()});
    let later = post(&stack, "/applications/acme/messages", &body).await.json(202);
    let later = delivery_ids(&later).remove(0);
    let told = explain(&later).await;
    assert!(text(&told["steps"][0], "why").contains("for a later time"));
    assert_eq!(
        (&told["next"]["by"], &told["next"]["at"]),
        (&json!("sweep"), &json!(at.to_string()))
    );
    stack.clock.advance(Duration::from_secs(3601));
    let told = explain(&later).await;
    assert!(text(&told["next"], "what").contains("Its message is due"), "{told}");

    // The endpoint receives nothing.
    let path = format!("/applications/acme/endpoints/{}", endpoints[0]);
    operate(&stack, Method::POST, &format!("{path}/disable"), &Value::Null).await.json(200);
    let what = text(&explain(&later).await["next"], "what");
    assert!(what.contains("Its endpoint is disabled"), "{what}");
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    let what = text(&explain(&later).await["next"], "what");
    assert!(what.contains("Its endpoint was deleted"), "{what}");

    // It failed for that reason, and cannot be sent again.
    let (pending, now) = (stack.record(&later).await, stack.clock.now());
    let rules = &stack.context.rules;
    let failed = rules.give_up(&pending, GiveUp::EndpointDeleted, Function::Deliver, now).unwrap();
    store.write(&pending, &failed).await.unwrap();
    let archived = rules.archive(&failed, now).unwrap();
    store.write(&failed, &archived).await.unwrap();
    let told = explain(&later).await;
    let why = text(&told["steps"][1], "why");
    assert_eq!(why, "Failed without a further attempt: the endpoint was deleted.");
    assert!(text(&told["next"], "what").contains("cannot be sent again"));
}

#[tokio::test]
async fn only_a_finished_delivery_to_a_receiving_endpoint_is_resent() {
    let (stack, endpoints) = with_endpoints(1).await;
    let published = publish(&stack, "acme", "a").await;
    let id = delivery_ids(&published).remove(0);
    let path = format!("{DELIVERIES}/{id}/resend");
    let resend = async || operate(&stack, Method::POST, &path, &Value::Null).await;
    resend().await.problem(409);
    stack.conclude(&id, 500).await;
    resend().await.problem(409);
    stack.clock.advance(Duration::from_secs(600));
    stack.conclude(&id, 410).await;
    stack.take_messages().await;
    let expected = json!({
        "delivery_id": id, "endpoint_id": endpoints[0], "message_id": published["message_id"],
        "application_id": "acme", "status": "pending",
    });
    let key = [("idempotency-key", "k-1")];
    let keyed = || call_with(&stack, OPERATOR, Method::POST, &path, &Value::Null, &key);
    let first = keyed().await;
    assert_eq!(first.json(202), expected);
    assert_eq!(keyed().await.header("idempotent-replayed"), Some("true"));
    assert_eq!(stack.take_messages().await, [id.as_str()]);
    let record = stack.record(&id).await;
    assert_eq!((record.status, record.budget.attempts), (Status::Pending, 0));
    stack.bury(&id).await;
    let endpoint = format!("/applications/acme/endpoints/{}", endpoints[0]);
    operate(&stack, Method::POST, &format!("{endpoint}/disable"), &Value::Null).await.json(200);
    resend().await.problem(409);
    operate(&stack, Method::POST, &format!("{endpoint}/enable"), &json!({})).await.json(200);
    resend().await.json(202);
    stack.context.store.delete(&parse(&id)).await.unwrap();
    resend().await.problem(404);
}
