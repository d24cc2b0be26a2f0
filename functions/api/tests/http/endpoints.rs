//! Endpoints: fields, changes, limits, races, and a store that fails.

use std::collections::BTreeSet;

use futures_util::future::{join, join_all};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    customers::{
        OPERATOR, call, call_with, create_endpoint, create_key, get, kind, operate, post, put,
        stack,
    },
    faulty::Fault,
    harness::{Answer, Stack, URL},
};

const ENDPOINTS: &str = "/applications/acme/endpoints";

async fn with_acme() -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    stack
}

async fn patch(stack: &Stack, path: &str, body: Value) -> Answer {
    operate(stack, Method::PATCH, path, &body).await
}

async fn count_changes(stack: &Stack) -> usize {
    let list = get(stack, "/applications/acme/changes").await.json(200);
    list["items"].as_array().unwrap().len()
}

fn names(answer: &Answer) -> BTreeSet<String> {
    answer.problem(422).into_iter().collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn an_endpoint_has_its_fields_and_defaults() {
    let stack = with_acme().await;
    let fields = json!({
        "event_types": ["order.*", "invoice.paid"], "headers": {"X-Shop": "7"},
        "retry": {"max_attempts": 5}, "timeout_ms": 5000, "description": "Orders",
        "metadata": {"team": "a"}, "enabled": true,
    });
    let (path, created) = create_endpoint(&stack, "acme", fields).await;
    let mut shown = get(&stack, &path).await.json(200);
    assert_eq!(shown["headers"], json!({"X-Shop": "***"}));
    assert_eq!(shown["retry"], json!({"max_attempts": 5}));
    let id = created["endpoint_id"].as_str().unwrap();
    assert!(id.starts_with("ep-") && id.len() == 19);
    for member in ["secret", "applies_from"] {
        shown[member] = created[member].clone();
    }
    assert_eq!(shown, created);
    let (plain, created) = create_endpoint(&stack, "acme", json!({"enabled": null})).await;
    let expected = json!({
        "endpoint_id": created["endpoint_id"], "url": URL, "event_types": null, "headers": {},
        "retry": null, "timeout_ms": null, "description": null, "metadata": {}, "enabled": true,
        "disabled": null, "created_at": created["created_at"],
        "updated_at": created["updated_at"],
    });
    assert_eq!(get(&stack, &plain).await.json(200), expected);
    operate(&stack, Method::DELETE, &plain, &Value::Null).await;
    get(&stack, &plain).await.problem(404);
    operate(&stack, Method::DELETE, &plain, &Value::Null).await.problem(404);
    get(&stack, &path).await.json(200);
}

#[tokio::test]
async fn a_change_keeps_what_it_does_not_name_and_null_removes() {
    let stack = with_acme().await;
    let fields = json!({"event_types": ["a"], "headers": {"x": "1"}, "timeout_ms": 5000,
        "retry": {"jitter": 0.5}, "description": "d", "metadata": {"a": "b"}, "enabled": false});
    let (path, _) = create_endpoint(&stack, "acme", fields).await;
    let changed = patch(&stack, &path, json!({"description": "other"})).await.json(200);
    assert!(changed["applies_from"].is_string() && changed.get("secret").is_none());
    assert_eq!((&changed["description"], &changed["timeout_ms"]), (&json!("other"), &json!(5000)));
    assert_eq!(changed["headers"], json!({"x": "***"}));
    let all =
        ["event_types", "headers", "timeout_ms", "retry", "description", "metadata", "enabled"];
    let removed: Map<String, Value> =
        all.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
    let changed = patch(&stack, &path, Value::Object(removed)).await.json(200);
    let defaults =
        [json!(null), json!({}), json!(null), json!(null), json!(null), json!({}), json!(true)];
    for (name, default) in all.iter().zip(defaults) {
        assert_eq!(changed[name], default, "{name}");
    }
    let before = count_changes(&stack).await;
    for same in [json!({}), json!({"enabled": true}), json!({"retry": {}})] {
        assert_eq!(patch(&stack, &path, same).await.json(200)["updated_at"], changed["updated_at"]);
    }
    assert_eq!(count_changes(&stack).await, before, "nothing was written");
}

#[tokio::test]
async fn every_invalid_field_is_named() {
    let stack = with_acme().await;
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    let wrong = json!({
        "url": 1, "event_types": ["order*", "ok", ""], "headers": {"webhook-id": "x", "b": 1},
        "secret": "short", "retry": {"factor": 1000, "x": 1}, "timeout_ms": 1, "description": [],
        "metadata": {"a": {}}, "enabled": 1, "filter": {},
    });
    let refused = post(&stack, ENDPOINTS, &wrong).await;
    let expected = [
        "url",
        "event_types[0]",
        "event_types[2]",
        "headers.webhook-id",
        "headers.b",
        "secret",
        "retry.factor",
        "retry.x",
        "timeout_ms",
        "description",
        "metadata",
        "enabled",
        "filter",
    ];
    assert_eq!(names(&refused), set(expected));
    // A secret that only looks wrong is not repeated.
    assert!(!refused.text.contains("short"));
    assert_eq!(names(&patch(&stack, &path, wrong).await), set(expected));
    for (body, name) in [
        (json!({}), "url"),
        (json!({"url": null}), "url"),
        (json!({"url": "ftp://example.com"}), "url"),
        (json!({"url": "http://127.0.0.1/"}), "url"),
        (json!({"url": "https://user:pw@example.com/"}), "url"),
        (json!({"url": format!("https://example.com/{}", "x".repeat(2048))}), "url"),
        (json!({"url": URL, "event_types": []}), "event_types"),
        (json!({"url": URL, "event_types": vec!["a"; 51]}), "event_types"),
        (json!({"url": URL, "event_types": "a"}), "event_types"),
        (json!({"url": URL, "headers": {"a": "x".repeat(8192)}}), "headers"),
        (json!({"url": URL, "headers": {"a": "x", "A": "y"}}), "headers.a"),
        (json!({"url": URL, "headers": {"a": "x\ny"}}), "headers.a"),
        (json!({"url": URL, "timeout_ms": 30_001}), "timeout_ms"),
        (json!({"url": URL, "description": "x".repeat(1025)}), "description"),
        (json!({"url": URL, "metadata": {"a": "x".repeat(2048)}}), "metadata"),
        (
            json!({"url": URL, "retry": {"max_attempts": 3, "schedule_ms": [1]}}),
            "retry.schedule_ms",
        ),
        (json!({"url": URL, "retry": 1}), "retry"),
        (json!({"url": URL, "secret": "whsk_AAAA"}), "secret"),
        (json!({"url": URL, "secret": 5}), "secret"),
    ] {
        assert_eq!(post(&stack, ENDPOINTS, &body).await.problem(422), [name], "{body}");
    }
    let many: Map<String, Value> = (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    let many = json!({"url": URL, "headers": many});
    assert_eq!(post(&stack, ENDPOINTS, &many).await.problem(422), ["headers"]);
    assert_eq!(patch(&stack, &path, json!({"url": null})).await.problem(422), ["url"]);
    let rotation = patch(&stack, &path, json!({"secret": null})).await;
    assert_eq!(rotation.problem(422), ["secret"]);
    assert!(rotation.text.contains("rotation is not available yet"), "{}", rotation.text);
    for malformed in ["{", "[1", ""] {
        let request = stack.request(Method::POST, ENDPOINTS).header("x-api-key", OPERATOR);
        let request = request.header("content-type", "application/json").body(malformed);
        stack.call(request).await.problem(400);
    }
    let big = json!({"url": URL, "description": "x".repeat(70_000)});
    post(&stack, ENDPOINTS, &big).await.problem(413);
    let items = get(&stack, ENDPOINTS).await.json(200)["items"].as_array().unwrap().len();
    assert_eq!(items, 1);
}

/// What is absent is a 404, whatever the body has, and without a trace of its kind.
#[tokio::test]
async fn an_absent_endpoint_is_a_404() {
    let stack = with_acme().await;
    let (_, created) = create_endpoint(&stack, "acme", json!({})).await;
    let id = created["endpoint_id"].as_str().unwrap();
    put(&stack, "globex").await;
    let mut texts = BTreeSet::new();
    for path in [
        format!("{ENDPOINTS}/ep-aaaaaaaaaaaaaaaa"),
        format!("{ENDPOINTS}/nonsense"),
        format!("/applications/globex/endpoints/{id}"),
    ] {
        for (method, suffix) in [
            (Method::GET, ""),
            (Method::PATCH, ""),
            (Method::DELETE, ""),
            (Method::POST, "/enable"),
            (Method::POST, "/disable"),
            (Method::GET, "/secret"),
        ] {
            let body = if method == Method::PATCH { json!({"url": 1}) } else { Value::Null };
            let answer = operate(&stack, method, &format!("{path}{suffix}"), &body).await;
            answer.problem(404);
            texts.insert(answer.text);
        }
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
    post(&stack, "/applications/nobody/endpoints", &json!({"url": 1})).await.problem(404);
}

#[tokio::test]
async fn enabling_and_disabling_says_who_and_writes_once() {
    let stack = with_acme().await;
    let (_, key) = create_key(&stack, "acme", &["manage"]).await;
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    let disabled =
        call(&stack, &key, Method::POST, &format!("{path}/disable"), &json!({})).await.json(200);
    assert_eq!(
        (&disabled["enabled"], &disabled["disabled"]["why"]),
        (&json!(false), &json!("customer"))
    );
    let again = post(&stack, &format!("{path}/disable"), &Value::Null).await.json(200);
    assert_eq!(again["disabled"], disabled["disabled"], "time and reason stay");
    let recover = post(&stack, &format!("{path}/enable"), &json!({"recover": true})).await;
    assert_eq!(recover.problem(422), ["recover"]);
    let enabled = post(&stack, &format!("{path}/enable"), &Value::Null).await.json(200);
    assert_eq!((&enabled["enabled"], &enabled["disabled"]), (&json!(true), &Value::Null));
    for omitted in ["", " null ", "{}"] {
        let request = stack.request(Method::POST, &format!("{path}/enable"));
        let request = request.header("x-api-key", OPERATOR);
        let request = request.header("content-type", "application/json").body(omitted);
        stack.call(request).await.json(200);
    }
    patch(&stack, &path, json!({"enabled": false})).await.json(200);
    assert_eq!(get(&stack, &path).await.json(200)["disabled"]["why"], "operator");
}

#[tokio::test]
async fn a_list_shows_the_oldest_first_on_pages() {
    let stack = with_acme().await;
    let mut created = Vec::new();
    for _ in 0..5 {
        let (_, endpoint) = create_endpoint(&stack, "acme", json!({})).await;
        created.push(endpoint["endpoint_id"].clone());
        stack.clock.advance(std::time::Duration::from_millis(1));
    }
    let mut shown = Vec::new();
    let mut path = format!("{ENDPOINTS}?page_size=2");
    loop {
        let page = get(&stack, &path).await.json(200);
        shown.extend(page["items"].as_array().unwrap().iter().map(|it| it["endpoint_id"].clone()));
        // A page that follows one whose last endpoint was deleted goes on behind it.
        let last = shown.last().unwrap().as_str().unwrap().to_owned();
        operate(&stack, Method::DELETE, &format!("{ENDPOINTS}/{last}"), &Value::Null).await;
        let Some(next) = page["next_cursor"].as_str() else { break };
        path = format!("{ENDPOINTS}?page_size=2&cursor={next}");
    }
    assert_eq!(shown, created);
    let foreign = get(&stack, "/applications").await.json(200);
    assert!(foreign["next_cursor"].is_null());
    assert_eq!(get(&stack, &format!("{ENDPOINTS}?cursor=e30")).await.problem(400), ["cursor"]);
}

#[tokio::test]
async fn an_application_has_at_most_100_endpoints() {
    let stack = with_acme().await;
    for _ in 0..100 {
        create_endpoint(&stack, "acme", json!({})).await;
    }
    let full = post(&stack, ENDPOINTS, &json!({"url": URL})).await;
    full.problem(409);
    assert_eq!(kind(&full), "application-full");
    assert!(full.text.contains("100 endpoints"));
    let list = get(&stack, &format!("{ENDPOINTS}?page_size=100")).await.json(200);
    let first = list["items"][0]["endpoint_id"].as_str().unwrap().to_owned();
    operate(&stack, Method::DELETE, &format!("{ENDPOINTS}/{first}"), &Value::Null).await;
    post(&stack, ENDPOINTS, &json!({"url": URL})).await.json(201);
}

/// A document that would be too large is refused. What makes it smaller, or only disables an
/// endpoint, is not.
#[tokio::test]
async fn a_document_has_at_most_128_kib() {
    let stack = with_acme().await;
    let mut last = String::new();
    let full = loop {
        // Sealed values do not deflate.
        let headers: Map<String, Value> =
            (0..8).map(|n| (format!("x-{n}"), json!("v".repeat(1000)))).collect();
        let answer = post(&stack, ENDPOINTS, &json!({"url": URL, "headers": headers})).await;
        if answer.status != 201 {
            break answer;
        }
        last = answer.json(201)["endpoint_id"].as_str().unwrap().to_owned();
    };
    full.problem(409);
    assert_eq!(kind(&full), "application-full");
    let path = format!("{ENDPOINTS}/{last}");
    post(&stack, &format!("{path}/disable"), &Value::Null).await.json(200);
    operate(&stack, Method::DELETE, &path, &Value::Null).await;
    post(&stack, ENDPOINTS, &json!({"url": URL})).await.json(201);
}

/// Each of eight concurrent changes is made, because each round has a winner.
#[tokio::test]
async fn concurrent_changes_are_all_made() {
    let stack = with_acme().await;
    let (path, _) = create_endpoint(&stack, "acme", json!({})).await;
    let changes = [
        json!({"event_types": ["a"]}),
        json!({"headers": {"x": "1"}}),
        json!({"retry": {"jitter": 0.5}}),
        json!({"timeout_ms": 5000}),
        json!({"description": "d"}),
        json!({"metadata": {"a": "b"}}),
        json!({"enabled": false}),
        json!({"url": "https://receiver.example/other"}),
    ];
    // All of them compute their change from the same document.
    stack.faults.take_calls();
    stack.faults.set("write_application", Fault::Held);
    let patches = changes.iter().map(|change| patch(&stack, &path, change.clone()));
    let release = async {
        stack.faults.called("write_application", changes.len()).await;
        stack.faults.heal();
    };
    for answer in join(join_all(patches), release).await.0 {
        answer.json(200);
    }
    let shown = get(&stack, &path).await.json(200);
    for change in changes {
        for (name, value) in change.as_object().unwrap() {
            let value = if name == "headers" { &json!({"x": "***"}) } else { value };
            assert_eq!(&shown[name], value, "{name}");
        }
    }
}

/// A repeat with the same key gets the same endpoint and secret, whichever step failed.
#[tokio::test]
async fn a_repeated_create_makes_one_endpoint() {
    let body = json!({"url": URL});
    for (call_name, fault) in [
        ("application", Fault::Down),
        ("reserve", Fault::AnswerLost),
        ("write_application", Fault::Down),
        ("write_application", Fault::AnswerLost),
        ("replace_reservation", Fault::Down),
        ("replace_reservation", Fault::AnswerLost),
    ] {
        let stack = with_acme().await;
        let key = [("idempotency-key", "first")];
        let create = || call_with(&stack, OPERATOR, Method::POST, ENDPOINTS, &body, &key);
        stack.faults.set(call_name, fault);
        let failed = create().await;
        stack.faults.heal();
        if call_name == "replace_reservation" {
            failed.json(201);
        } else {
            failed.problem(503);
        }
        let created = create().await.json(201);
        let repeated = create().await;
        assert_eq!(repeated.json(201), created, "{call_name} {fault:?}");
        assert_eq!(repeated.header("idempotent-replayed"), Some("true"));
        if call_name == "replace_reservation" {
            assert_eq!(failed.json(201)["secret"], created["secret"]);
        }
        let list = get(&stack, ENDPOINTS).await.json(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{call_name} {fault:?}");
        let other = call_with(
            &stack,
            OPERATOR,
            Method::POST,
            ENDPOINTS,
            &json!({"url": URL, "enabled": false}),
            &key,
        )
        .await;
        other.problem(409);
        assert_eq!(kind(&other), "idempotency-key-reused");
    }
}

/// The ID of a deleted endpoint is not used again, although the repeated request has it.
#[tokio::test]
async fn a_repeated_create_does_not_bring_a_deleted_endpoint_back() {
    for others in [0, 110] {
        let stack = with_acme().await;
        let key = [("idempotency-key", "first")];
        let body = json!({"url": URL});
        let create = || call_with(&stack, OPERATOR, Method::POST, ENDPOINTS, &body, &key);
        stack.faults.set("write_application", Fault::AnswerLost);
        create().await.problem(503);
        stack.faults.heal();
        stack.clock.advance(std::time::Duration::from_secs(2));
        let list = get(&stack, ENDPOINTS).await.json(200);
        let id = list["items"][0]["endpoint_id"].as_str().unwrap();
        operate(&stack, Method::DELETE, &format!("{ENDPOINTS}/{id}"), &Value::Null).await;
        for number in 0..others {
            let name = json!({"name": number.to_string()});
            operate(&stack, Method::PUT, "/applications/acme", &name).await.json(200);
        }
        create().await.problem(409);
        assert_eq!(get(&stack, ENDPOINTS).await.json(200)["items"], json!([]));
    }
}

/// The application owns its idempotency keys, whichever of its keys calls.
#[tokio::test]
async fn idempotency_keys_belong_to_the_application() {
    let stack = with_acme().await;
    put(&stack, "globex").await;
    let (_, one) = create_key(&stack, "acme", &["manage"]).await;
    let (_, two) = create_key(&stack, "acme", &["manage", "read"]).await;
    let (_, other) = create_key(&stack, "globex", &["manage"]).await;
    let body = json!({"url": URL});
    let key = [("idempotency-key", "same")];
    let mut created = Vec::new();
    for caller in [OPERATOR, &one, &two] {
        created
            .push(call_with(&stack, caller, Method::POST, ENDPOINTS, &body, &key).await.json(201));
    }
    assert!(created[0] == created[1] && created[1] == created[2]);
    let path = "/applications/globex/endpoints";
    let theirs = call_with(&stack, &other, Method::POST, path, &body, &key).await;
    assert_eq!(theirs.header("idempotent-replayed"), None);
    assert_ne!(theirs.json(201)["endpoint_id"], created[0]["endpoint_id"]);
}
