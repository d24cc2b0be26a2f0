//! Deliveries in the routes of operators, which show them as webhooks.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    circuit::Settings,
    clock::Clock,
    id::MessageId,
    status::Status,
    store::{Activity, DestinationActivity},
    traffic::target::{Target, TargetKey},
};

use crate::{
    customers::{create_endpoint, delivery_ids, get, operate, post, publish, put, stack, text},
    harness::{Stack, URL, ids, parse},
};

/// A stack with an endpoint. Returns its path, and the IDs of a direct webhook and of a delivery.
async fn with_both() -> (Stack, String, String, String) {
    let stack = stack().await;
    put(&stack, "acme").await;
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    let body = json!({"url": "https://direct.example/", "payload": 1});
    let direct = text(&post(&stack, "/webhooks", &body).await.json(202), "webhook_id");
    stack.clock.advance(Duration::from_millis(1));
    let delivery = delivery_ids(&publish(&stack, "acme", "order.paid").await).remove(0);
    (stack, path, direct, delivery)
}

#[tokio::test]
async fn a_delivery_is_a_webhook_with_its_application_and_endpoint() {
    let (stack, path, direct, delivery) = with_both().await;
    let endpoint = path.rsplit('/').next().unwrap();
    let listed = get(&stack, "/webhook-statuses").await.json(200);
    assert_eq!(ids(&listed), [&*delivery, &*direct]);
    let shown = get(&stack, &format!("/webhook-status/{delivery}?include=payload")).await.json(200);
    for view in [&listed["items"][0], &shown] {
        assert_eq!(
            (&view["application_id"], &view["endpoint_id"], &view["url"], &view["status"]),
            (&json!("acme"), &json!(endpoint), &json!(URL), &json!("pending"))
        );
        assert_eq!(
            (&view["max_attempts"], &view["event_type"]),
            (&json!(10), &json!("order.paid"))
        );
    }
    assert_eq!(shown["payload"], json!({"n": 1}));
    let other = &listed["items"][1];
    assert_eq!(
        (&other["application_id"], &other["endpoint_id"], &other["url"]),
        (&Value::Null, &Value::Null, &json!("https://direct.example/"))
    );
    let filtered = get(&stack, "/webhook-statuses?status=pending").await.json(200);
    assert_eq!(ids(&filtered).len(), 2);
    let reference = text(&shown, "reference_id");
    let by_reference = get(&stack, &format!("/webhook-statuses?reference_id={reference}")).await;
    assert!(ids(&by_reference.json(200)).is_empty(), "it finds direct webhooks only");
    get(&stack, &format!("/webhooks/{delivery}/explain")).await.json(200);
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    let shown = get(&stack, &format!("/webhook-status/{delivery}")).await.json(200);
    assert_eq!(shown["url"], Value::Null);
}

/// Nothing starts after the response, whether or not the delivery had a record.
#[tokio::test]
async fn a_deleted_delivery_leaves_a_marker_and_its_message() {
    for attempted in [false, true] {
        let (stack, _, _, delivery) = with_both().await;
        let unstarted = stack.record(&delivery).await;
        if attempted {
            stack.conclude(&delivery, 500).await;
        }
        let path = format!("/webhook-status/{delivery}");
        let deleted = operate(&stack, Method::DELETE, &path, &Value::Null).await;
        assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""));
        get(&stack, &path).await.problem(404);
        operate(&stack, Method::DELETE, &path, &Value::Null).await.problem(404);
        post(&stack, &format!("/webhooks/{delivery}/resend"), &Value::Null).await.problem(404);
        let rules = &stack.context.rules;
        let claim = shared::model::ClaimId(7);
        let claimed = rules.claim(&unstarted, claim, stack.clock.now()).unwrap();
        assert!(stack.context.store.write(&unstarted, &claimed).await.is_err());
        let message: MessageId = parse(&delivery).message_id().unwrap();
        assert!(stack.context.store.message(&message).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn the_id_of_a_message_leads_to_its_route() {
    let (stack, _, _, delivery) = with_both().await;
    let message = parse(&delivery).message_id().unwrap();
    for path in [format!("/webhook-status/{message}"), format!("/webhooks/{message}/explain")] {
        let answer = get(&stack, &path).await;
        answer.problem(404);
        let hint = format!("/applications/acme/messages/{message}");
        assert!(answer.text.contains(&hint), "{}", answer.text);
        get(&stack, &hint).await.json(200);
    }
    let resend = post(&stack, &format!("/webhooks/{message}/resend"), &Value::Null).await;
    resend.problem(404);
    assert!(resend.text.contains("published message"));
    let path = format!("/webhook-status/{message}");
    operate(&stack, Method::DELETE, &path, &Value::Null).await.problem(404);
    assert!(stack.context.store.message(&message).await.unwrap().is_some());
}

#[tokio::test]
async fn a_resend_needs_a_finished_delivery_and_a_receiving_endpoint() {
    let (stack, path, _, delivery) = with_both().await;
    let resend = format!("/webhooks/{delivery}/resend");
    post(&stack, &resend, &Value::Null).await.problem(409);
    stack.conclude(&delivery, 200).await;
    stack.take_messages().await;
    let answer = post(&stack, &resend, &Value::Null).await.json(202);
    assert_eq!((&answer["webhook_id"], &answer["status"]), (&json!(delivery), &json!("pending")));
    assert_eq!(stack.take_messages().await, [delivery.as_str()]);
    stack.bury(&delivery).await;
    operate(&stack, Method::POST, &format!("{path}/disable"), &Value::Null).await.json(200);
    post(&stack, &resend, &Value::Null).await.problem(409);
    let redrive = format!("/dead-letters/{delivery}/redrive");
    post(&stack, &redrive, &Value::Null).await.problem(409);
    operate(&stack, Method::POST, &format!("{path}/enable"), &Value::Null).await.json(200);
    post(&stack, &redrive, &Value::Null).await.json(202);
    assert_eq!(stack.record(&delivery).await.status, Status::Pending);
}

/// Dead letters of both kinds are listed and redriven together. One whose endpoint receives nothing
/// stays a dead letter.
#[tokio::test]
async fn dead_letters_of_both_kinds_are_redriven() {
    let (stack, path, direct, delivery) = with_both().await;
    let (off, _) = create_endpoint(&stack, "acme", json!({})).await;
    let more = delivery_ids(&publish(&stack, "acme", "order.paid").await);
    let to_off = more.iter().find(|id| id.ends_with(off.rsplit('/').next().unwrap())).unwrap();
    for id in [&direct, &delivery, to_off] {
        stack.bury(id).await;
    }
    operate(&stack, Method::DELETE, &off, &Value::Null).await;
    let letters = get(&stack, "/dead-letters").await.json(200);
    assert_eq!(ids(&letters), [&**to_off, &*delivery, &*direct]);
    let urls: Vec<&Value> =
        letters["items"].as_array().unwrap().iter().map(|letter| &letter["url"]).collect();
    assert_eq!(urls, [&Value::Null, &json!(URL), &json!("https://direct.example/")]);
    assert_eq!(letters["items"][1]["endpoint_id"], path.rsplit('/').next().unwrap());
    let one = get(&stack, &format!("/dead-letters/{delivery}")).await.json(200);
    assert_eq!((&one["payload"], &one["application_id"]), (&json!({"n": 1}), &json!("acme")));
    stack.take_messages().await;
    let redriven = post(&stack, "/dead-letters/redrive", &Value::Null).await.json(202);
    assert_eq!(redriven, json!({"redriven": 2, "more": false}));
    let mut queued = stack.take_messages().await;
    queued.sort_unstable();
    let mut expected = [direct, delivery.clone()];
    expected.sort_unstable();
    assert_eq!(queued, expected);
    assert_eq!(ids(&get(&stack, "/dead-letters").await.json(200)), [&**to_off]);
    let path = format!("/dead-letters/{to_off}");
    assert_eq!(operate(&stack, Method::DELETE, &path, &Value::Null).await.status, 204);
    operate(&stack, Method::DELETE, &path, &Value::Null).await.problem(404);
}

#[tokio::test]
async fn a_cleanup_deletes_deliveries_too() {
    let (stack, _, direct, delivery) = with_both().await;
    stack.conclude(&delivery, 200).await;
    let clean = async |query: &str| {
        let path = format!("/webhook-cleanup?{query}");
        post(&stack, &path, &Value::Null).await.json(200)["deleted"].clone()
    };
    stack.clock.advance(Duration::from_secs(60));
    assert_eq!(clean("older_than_days=0").await, 1);
    get(&stack, &format!("/webhook-status/{delivery}")).await.problem(404);
    let second = delivery_ids(&publish(&stack, "acme", "a").await).remove(0);
    stack.clock.advance(Duration::from_secs(60));
    assert_eq!(clean("status=pending").await, 2, "one has no record yet");
    for id in [second, direct] {
        get(&stack, &format!("/webhook-status/{id}")).await.problem(404);
    }
}

/// The overview counts deliveries, also those whose message is due in their place.
#[tokio::test]
async fn the_overview_counts_deliveries() {
    let (stack, _, direct, delivery) = with_both().await;
    stack.conclude(&direct, 200).await;
    let shown = get(&stack, "/overview").await.json(200);
    let minutes = shown["last_hour"]["minutes"].as_array().unwrap();
    let sum = |member: &str| -> u64 {
        minutes.iter().map(|minute| minute[member].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("waiting"), sum("delivered")), (1, 1));
    assert_eq!(shown["oldest_waiting"]["webhook_id"], delivery.as_str());
    stack.faults.set("send", crate::faulty::Fault::Down);
    publish(&stack, "acme", "a").await;
    stack.faults.heal();
    let shown = get(&stack, "/overview").await.json(200);
    assert_eq!(shown["oldest_waiting"]["webhook_id"], delivery.as_str());
}

/// An endpoint is a destination of its own. No metric has a label of a tenant.
#[tokio::test]
async fn an_endpoint_is_a_destination_and_no_label() {
    let (stack, path, _, _) = with_both().await;
    let endpoint = path.rsplit('/').next().unwrap();
    let destination = format!("acme/{endpoint}");
    let (store, now) = (&stack.context.store, stack.clock.now());
    let activity = DestinationActivity { delivered: 3, failed: 1, ..Default::default() };
    let activity =
        Activity { destinations: [(destination.clone(), activity)].into(), ..Activity::default() };
    store.add_activity(&activity, now).await.unwrap();
    let key = TargetKey::endpoint(&"acme".parse().unwrap(), endpoint.parse().unwrap());
    let settings = Settings { failures: 1, ..Settings::default() };
    store.write_target(None, &Target::idle(key).failed(1, &settings, now)).await.unwrap();
    let shown = get(&stack, "/destinations").await.json(200);
    let item = &shown["items"][0];
    assert_eq!(
        (&item["destination"], &item["application_id"], &item["endpoint_id"], &item["circuit"]),
        (&json!(destination), &json!("acme"), &json!(endpoint), &json!("open"))
    );
    assert_eq!((&item["attempts"], &item["host"]), (&json!(4), &json!("")));
    let metrics = get(&stack, "/metrics").await.text;
    assert!(metrics.contains("webhook_delivery_total") && !metrics.contains("acme"), "{metrics}");
}
