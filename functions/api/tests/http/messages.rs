//! Publishing a message: the plan, the record and the looks, and what becomes of the message.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use shared::{
    applications::message::PublishedMessage,
    clock::Clock,
    id::MessageId,
    message::{Look, Message},
    queue::Lane,
    transition::Rules,
};

use crate::{
    customers::{
        CACHE_MS, OPERATOR, access, call_with, create_endpoint, delivery_ids, get, operate, post,
        publish, put, stack, text,
    },
    harness::{Stack, URL},
};

const MESSAGES: &str = "/applications/acme/messages";

async fn with_acme() -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    stack
}

/// An endpoint for these event types. Returns its ID.
async fn endpoint(stack: &Stack, event_types: &[&str]) -> String {
    let (_, created) = create_endpoint(stack, "acme", json!({"event_types": event_types})).await;
    text(&created, "endpoint_id")
}

async fn stored(stack: &Stack, id: &str) -> PublishedMessage {
    let id: MessageId = id.parse().unwrap();
    stack.context.store.message(&id).await.unwrap().unwrap()
}

/// The queued looks, which stay invisible for a minute.
async fn looks(stack: &Stack) -> Vec<Look> {
    let (queue, minute) = (&stack.context.queue, Duration::from_secs(60));
    let mut looks = Vec::new();
    loop {
        let received = queue.receive(Lane::Webhooks, 10, minute, Duration::ZERO).await.unwrap();
        if received.is_empty() {
            return looks;
        }
        looks.extend(received.iter().map(|message| Look::from_json(&message.body).unwrap()));
    }
}

/// A message costs one create and one send, and goes to the enabled endpoints that match. Each look
/// has the record that its delivery has by definition.
#[tokio::test]
async fn a_message_costs_one_create_and_one_send_and_keeps_its_bytes() {
    let stack = with_acme().await;
    let every = endpoint(&stack, &["*"]).await;
    let orders = endpoint(&stack, &["order.*"]).await;
    endpoint(&stack, &["order", "invoice.paid"]).await;
    let (off, created) = create_endpoint(&stack, "acme", json!({"enabled": false})).await;
    let off = off.rsplit('/').next().map(str::to_owned).unwrap();
    assert_eq!(created["enabled"], false);
    let payload = r#"{"a":1.0, "b":"\u00e9",  "a":[1e2,{}]}"#;
    let body = format!(
        r#" {{ "event_type" : "order.paid", "payload" : {payload} , "reference_id":"order_7" }} "#
    );
    stack.faults.take_calls();
    let answer = stack
        .post_with(MESSAGES, body, &[("x-api-key", OPERATOR), ("x-correlation-id", "cor-1")])
        .await;
    assert_eq!(stack.faults.take_calls(), [("create_message", 1), ("send", 1)]);
    let answer = answer.json(202);
    let id = text(&answer, "message_id");
    let delivery = |endpoint: &str| {
        json!({
            "delivery_id": format!("{id}.{endpoint}"), "endpoint_id": endpoint,
        })
    };
    let expected = json!({
        "message_id": id, "application_id": "acme", "reference_id": "order_7",
        "event_type": "order.paid", "kept": true,
        "deliveries": [delivery(&every), delivery(&orders)], "disabled": [off],
    });
    assert_eq!(answer, expected);
    let parsed: MessageId = id.parse().unwrap();
    let (message, content) = stack.context.store.open_message(&parsed).await.unwrap().unwrap();
    assert_eq!(content.payload.get(), payload);
    assert!(content.url.is_empty() && content.headers.is_empty());
    assert_eq!((message.correlation_id.as_str(), message.referenced), ("cor-1", true));
    assert_eq!((message.due_at, message.allowed_at), (None, stack.clock.now()));
    let expected: Vec<Look> = message
        .plan
        .iter()
        .map(|entry| Rules::delivery(&message, entry.endpoint).unwrap())
        .map(|delivery| Look::Webhook(Message::with_seen(&delivery)))
        .collect();
    let sorted = |looks: &[Look]| {
        let mut texts: Vec<String> = looks.iter().map(Look::to_json).collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(sorted(&looks(&stack).await), sorted(&expected));
}

#[tokio::test]
async fn a_message_of_another_kind_is_looked_at_when_it_is_due() {
    let stack = with_acme().await;
    endpoint(&stack, &["*"]).await;
    let now = stack.clock.now();
    let at = |hours: i64| {
        let hour = Duration::from_secs(3600);
        if hours > 0 { now.plus(hour) } else { now.minus(hour) }
    };
    for hours in [1, -1] {
        let body = json!({"event_type": "a", "payload": null, "deliver_at": at(hours).to_string()});
        let published = post(&stack, MESSAGES, &body).await.json(202);
        let id = text(&published, "message_id");
        let message = stored(&stack, &id).await;
        if hours > 0 {
            assert_eq!((message.due_at, message.allowed_at), (Some(at(1)), at(1)));
            assert!(stack.take_messages().await.is_empty());
            let shown = get(&stack, &format!("{MESSAGES}/{id}")).await.json(200);
            assert_eq!(shown["deliver_at"], at(1).to_string());
            assert_eq!(shown["deliveries"][0]["next_attempt_at"], at(1).to_string());
        } else {
            assert_eq!((message.due_at, message.allowed_at), (None, now), "the past means now");
            assert_eq!(stack.take_messages().await, delivery_ids(&published));
        }
    }
}

/// Without a match nothing is written. With `keep_unmatched` or a disabled endpoint that matches,
/// the message is stored, and nothing is sent.
#[tokio::test]
async fn a_message_without_a_match_is_stored_only_if_somebody_wants_it() {
    let stack = with_acme().await;
    let (path, _) = create_endpoint(&stack, "acme", json!({"event_types": ["order.*"]})).await;
    stack.clock.advance(Duration::from_millis(200));
    stack.faults.take_calls();
    let body = json!({"event_type": "order", "payload": 1, "reference_id": "r"});
    let expected = json!({
        "message_id": null, "application_id": "acme", "reference_id": "r", "event_type": "order",
        "kept": false, "deliveries": [], "disabled": [],
    });
    assert_eq!(post(&stack, MESSAGES, &body).await.json(202), expected);
    assert_eq!(stack.faults.take_calls(), [("application", 1)]);
    assert_eq!(publish(&stack, "acme", "order").await["reference_id"], Value::Null);
    assert_eq!(get(&stack, MESSAGES).await.json(200)["items"], json!([]));

    operate(&stack, Method::POST, &format!("{path}/disable"), &Value::Null).await.json(200);
    let kept = publish(&stack, "acme", "order.paid").await;
    assert_eq!((&kept["kept"], &kept["deliveries"]), (&json!(true), &json!([])));
    assert_eq!(kept["disabled"].as_array().unwrap().len(), 1);
    let settings = json!({"keep_unmatched": true});
    operate(&stack, Method::PUT, "/applications/acme", &settings).await.json(200);
    let kept = publish(&stack, "acme", "order").await;
    assert_eq!((&kept["kept"], &kept["disabled"]), (&json!(true), &json!([])));
    stored(&stack, &text(&kept, "message_id")).await;
    assert!(stack.take_messages().await.is_empty());
}

/// A copy of the document serves for `ENDPOINT_CACHE_MS`. But that nothing matches is concluded
/// from a recent one, so a new endpoint gets the next message.
#[tokio::test]
async fn another_process_plans_by_a_document_of_the_last_two_seconds() {
    let stack = with_acme().await;
    let other = stack.another_process(access()).await;
    assert_eq!(publish(&other, "acme", "a").await["kept"], false);
    let first = endpoint(&stack, &["a"]).await;
    stack.clock.advance(Duration::from_millis(101));
    let planned = async |event_type| {
        let published = publish(&other, "acme", event_type).await;
        published["deliveries"].as_array().unwrap().len()
    };
    assert_eq!(planned("a").await, 1, "{first}");
    endpoint(&stack, &["a", "b"]).await;
    stack.clock.advance(Duration::from_millis(101));
    assert_eq!(planned("a").await, 1, "the copy is old, and it matches");
    assert_eq!(planned("b").await, 1, "the copy is old, and nothing matches");
    endpoint(&stack, &["a"]).await;
    assert_eq!(planned("a").await, 2);
    stack.clock.advance(Duration::from_millis(CACHE_MS));
    assert_eq!(planned("a").await, 3);
}

#[tokio::test]
async fn every_invalid_field_is_named() {
    let stack = with_acme().await;
    let nested = |levels: usize| {
        let payload = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        format!(r#"{{"event_type":"a","payload":{payload}}}"#)
    };
    for (body, fields) in [
        ("{}".to_owned(), &["payload", "event_type"][..]),
        (r#"{"event_type":null,"payload":null}"#.to_owned(), &["event_type"]),
        (r#"{"event_type":7,"payload":null}"#.to_owned(), &["event_type"]),
        (r#"{"event_type":"a b","payload":null}"#.to_owned(), &["event_type"]),
        (format!(r#"{{"event_type":"{}","payload":1}}"#, "x".repeat(129)), &["event_type"]),
        (r#"{"event_type":"a","payload":1,"url":"x"}"#.to_owned(), &["url"]),
        (r#"{"event_type":"a","payload":1,"payload":2}"#.to_owned(), &["payload"]),
        (r#"{"event_type":"a","payload":1,"reference_id":"a b"}"#.to_owned(), &["reference_id"]),
        (
            r#"{"event_type":"a","payload":1,"reference_id":"auto-AYkKXayWd0u8zrMCCZqAVw"}"#
                .to_owned(),
            &["reference_id"],
        ),
        (r#"{"event_type":"a","payload":1,"deliver_at":"soon"}"#.to_owned(), &["deliver_at"]),
        (nested(129), &["payload"]),
        ("[]".to_owned(), &["body"]),
    ] {
        let key = [("x-api-key", OPERATOR)];
        assert_eq!(stack.post_with(MESSAGES, body.clone(), &key).await.problem(422), fields);
    }
    let key = [("x-api-key", OPERATOR)];
    stack.post_with(MESSAGES, "{", &key).await.problem(400);
    stack.post_with(MESSAGES, nested(128), &key).await.json(202);
    let large = json!({"event_type": "a", "payload": "x".repeat(256 * 1024)}).to_string();
    assert_eq!(stack.post_with(MESSAGES, large, &key).await.problem(413), ["payload"]);
    let query = format!("{MESSAGES}?event_type=a");
    assert_eq!(stack.post_with(&query, nested(1), &key).await.problem(422), ["event_type"]);
    let absent = "/applications/nobody/messages";
    stack.post_with(absent, nested(1), &key).await.problem(404);
}

#[tokio::test]
async fn a_message_shows_the_states_of_its_deliveries() {
    let stack = with_acme().await;
    for _ in 0..3 {
        endpoint(&stack, &["*"]).await;
    }
    let published = publish(&stack, "acme", "order.paid").await;
    let (id, deliveries) = (text(&published, "message_id"), delivery_ids(&published));
    stack.conclude(&deliveries[0], 200).await;
    stack.bury(&deliveries[1]).await;
    let path = format!("{MESSAGES}/{id}");
    let shown = get(&stack, &path).await.json(200);
    let states: Vec<(&Value, &Value)> = shown["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|delivery| (&delivery["status"], &delivery["dead_letter"]))
        .collect();
    assert_eq!(
        states,
        [
            (&json!("delivered"), &json!(false)),
            (&json!("failed"), &json!(true)),
            (&json!("pending"), &json!(false)),
        ]
    );
    assert_eq!(shown["deliveries"][1]["last_error"]["status_code"], 410);
    assert_eq!((&shown["deleting"], shown.get("payload")), (&json!(false), None));
    let with_payload = get(&stack, &format!("{path}?include=payload")).await.json(200);
    assert_eq!(with_payload["payload"], json!({"n": 1}));
    assert_eq!(get(&stack, &format!("{path}?include=x")).await.problem(422), ["include"]);
    for absent in ["a_b", &id.replace("auto-", "auto_"), &deliveries[0]] {
        get(&stack, &format!("{MESSAGES}/{absent}")).await.problem(404);
    }
}

/// Everything about a deleted message is gone at once, and nothing starts from a late look.
#[tokio::test]
async fn a_deleted_message_is_gone_with_its_deliveries() {
    let stack = with_acme().await;
    endpoint(&stack, &["*"]).await;
    endpoint(&stack, &["*"]).await;
    let published = publish(&stack, "acme", "a").await;
    let (id, deliveries) = (text(&published, "message_id"), delivery_ids(&published));
    let claimed = stack.record(&deliveries[1]).await;
    stack.conclude(&deliveries[0], 200).await;
    let path = format!("{MESSAGES}/{id}");
    let deleted = operate(&stack, Method::DELETE, &path, &Value::Null).await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""));
    operate(&stack, Method::DELETE, &path, &Value::Null).await.problem(404);
    get(&stack, &path).await.problem(404);
    post(&stack, &format!("{path}/resend"), &json!({})).await.problem(404);
    for delivery in &deliveries {
        get(&stack, &format!("/applications/acme/deliveries/{delivery}")).await.problem(404);
        get(&stack, &format!("/webhook-status/{delivery}")).await.problem(404);
    }
    let next = stack.context.rules.claim(&claimed, shared::model::ClaimId(1), stack.clock.now());
    let late = stack.context.store.write(&claimed, &next.unwrap()).await;
    assert!(late.is_err(), "a marker bars the key");
    assert_eq!(get(&stack, MESSAGES).await.json(200)["items"], json!([]));
    assert_eq!(get(&stack, "/applications/acme/deliveries").await.json(200)["items"], json!([]));
}

#[tokio::test]
async fn filters_narrow_the_list_of_messages() {
    let stack = with_acme().await;
    let orders = endpoint(&stack, &["order.*"]).await;
    endpoint(&stack, &["*"]).await;
    let mut all = Vec::new();
    for (event_type, reference) in [("order.paid", "r1"), ("invoice", "r2"), ("order.paid", "r2")] {
        let body = json!({"event_type": event_type, "payload": 1, "reference_id": reference});
        all.insert(0, text(&post(&stack, MESSAGES, &body).await.json(202), "message_id"));
        stack.clock.advance(Duration::from_secs(1));
    }
    let list = async |query: &str| -> Vec<String> {
        let page = get(&stack, &format!("{MESSAGES}?{query}")).await.json(200);
        page["items"].as_array().unwrap().iter().map(|item| text(item, "message_id")).collect()
    };
    let now = stack.clock.now();
    let before = |seconds| now.minus(Duration::from_secs(seconds));
    assert_eq!(list("").await, all);
    assert_eq!(list("event_type=&reference_id=&since=&until=&endpoint_id=").await, all);
    assert_eq!(list("event_type=invoice").await, all[1..2]);
    assert_eq!(list("reference_id=r2").await, all[..2]);
    assert_eq!(list("reference_id=r2&event_type=order.paid").await, all[..1]);
    assert_eq!(list(&format!("endpoint_id={orders}")).await, [&*all[0], &*all[2]]);
    assert_eq!(list(&format!("since={}", before(2))).await, all[..2]);
    assert_eq!(list(&format!("until={}", before(2))).await, all[2..]);
    assert_eq!(list(&format!("since={}&until={}", before(2), before(1))).await, all[1..2]);
    for bad in ["event_type=a%20b", "endpoint_id=ep-1", "since=soon", "until=1", "reference_id=."] {
        let field = bad.split('=').next().unwrap();
        assert_eq!(get(&stack, &format!("{MESSAGES}?{bad}")).await.problem(422), [field], "{bad}");
    }
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    loop {
        let page = get(&stack, &format!("{MESSAGES}?page_size=1&cursor={cursor}")).await.json(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|item| text(item, "message_id")));
        assert!(items.iter().all(|item| item["deliveries"].is_array()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(seen, all);
    let foreign = get(&stack, "/webhook-statuses?page_size=1").await.json(200);
    let foreign = text(&foreign, "next_cursor");
    assert_eq!(get(&stack, &format!("{MESSAGES}?cursor={foreign}")).await.problem(400), ["cursor"]);
}

/// It goes to the endpoint alone, whatever matches, once a second in each process.
#[tokio::test]
async fn a_test_message_goes_to_one_endpoint_once_a_second() {
    let stack = with_acme().await;
    let (path, created) = create_endpoint(&stack, "acme", json!({"event_types": ["none"]})).await;
    let (other, _) = create_endpoint(&stack, "acme", json!({})).await;
    let test = format!("{path}/test");
    let published = operate(&stack, Method::POST, &test, &Value::Null).await.json(202);
    let id = text(&published, "message_id");
    assert_eq!(published["event_type"], "posthaste.test");
    assert_eq!(delivery_ids(&published), [format!("{id}.{}", text(&created, "endpoint_id"))]);
    assert_eq!(stack.take_messages().await, delivery_ids(&published));
    let parsed: MessageId = id.parse().unwrap();
    let (_, content) = stack.context.store.open_message(&parsed).await.unwrap().unwrap();
    assert_eq!(content.payload.get(), r#"{"test": true}"#);

    let body = json!({"event_type": "order.paid", "payload": [1]});
    let limited = post(&stack, &test, &body).await;
    limited.problem(429);
    assert_eq!(limited.header("retry-after"), Some("1"));
    post(&stack, &format!("{other}/test"), &body).await.json(202);
    stack.clock.advance(Duration::from_secs(1));
    let published = post(&stack, &test, &body).await.json(202);
    let shown = format!("{MESSAGES}/{}?include=payload", text(&published, "message_id"));
    let message = get(&stack, &shown).await.json(200);
    assert_eq!((&message["event_type"], &message["payload"]), (&json!("order.paid"), &json!([1])));
    // A repeat with its key is not another test.
    let key = [("idempotency-key", "k-1")];
    stack.clock.advance(Duration::from_secs(1));
    let keyed = || call_with(&stack, OPERATOR, Method::POST, &test, &body, &key);
    let first = keyed().await;
    first.json(202);
    assert_eq!(keyed().await.text, first.text);

    let wrong = json!({"event_type": "a b", "payload": 1, "url": URL});
    assert_eq!(post(&stack, &test, &wrong).await.problem(422), ["url", "event_type"]);
    stack.clock.advance(Duration::from_secs(1));
    operate(&stack, Method::POST, &format!("{path}/disable"), &Value::Null).await.json(200);
    post(&stack, &test, &body).await.problem(409);
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    post(&stack, &test, &body).await.problem(404);
    post(&stack, "/applications/acme/endpoints/ep-1/test", &body).await.problem(404);
}
