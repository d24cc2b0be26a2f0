//! Keys of applications: how they are made, checked and revoked, in one process and in another.

use std::time::Duration;

use api::Access;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    customers::{
        CACHE_MS, MASTER_KEY, OPERATOR, access, call, call_with, create_key, get, kind, operate,
        post, put, stack,
    },
    faulty::Fault,
    harness::{Answer, Stack},
};

const KEYS: &str = "/applications/acme/keys";
const APPLICATION: &str = "/applications/acme";

async fn with_acme() -> Stack {
    let stack = stack().await;
    put(&stack, "acme").await;
    stack
}

async fn read(stack: &Stack, key: &str) -> Answer {
    call(stack, key, Method::GET, APPLICATION, &Value::Null).await
}

/// A route that does not read the document itself.
async fn health(process: &Stack, key: &str) -> Answer {
    call(process, key, Method::GET, "/health", &Value::Null).await
}

async fn revoke(stack: &Stack, key_id: &str) {
    let path = format!("{KEYS}/{key_id}");
    assert_eq!(operate(stack, Method::DELETE, &path, &Value::Null).await.status, 204);
}

#[tokio::test]
async fn a_key_is_shown_once_and_works_in_either_header() {
    let stack = with_acme().await;
    let body = json!({"name": "shop", "scopes": ["manage", "publish", "manage"],
        "expires_at": "2027-02-01T00:00:00Z"});
    let created = post(&stack, KEYS, &body).await.json(201);
    let key = created["key"].as_str().unwrap();
    let key_id = created["key_id"].as_str().unwrap();
    assert!(key.starts_with(&format!("pha.acme.{key_id}.")), "{key}");
    let shown = json!({"key_id": key_id, "name": "shop", "scopes": ["publish", "manage"],
        "expires_at": "2027-02-01T00:00:00.000Z"});
    assert_eq!(get(&stack, KEYS).await.json(200), json!({"items": [shown]}));
    read(&stack, key).await.json(200);
    let bearer = stack.request(Method::GET, APPLICATION).bearer_auth(key);
    stack.call(bearer).await.json(200);
    for wrong in [
        format!("{key}A"),
        key[..key.len() - 1].to_owned(),
        key.to_uppercase(),
        key.replace("acme", "globex"),
        key.replace(key_id, "key-0000000000000000"),
        format!("pha.acme.{key_id}.{}", "A".repeat(43)),
        format!("pha.acme.{key_id}"),
        "pha.".to_owned(),
        key_id.to_owned(),
    ] {
        let answer = read(&stack, &wrong).await;
        answer.problem(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{wrong}");
        assert_eq!(answer.text, read(&stack, "any other text").await.text, "{wrong}");
    }
}

#[tokio::test]
async fn every_invalid_field_of_a_key_is_named() {
    let stack = with_acme().await;
    for (body, names) in [
        (json!({}), &["name", "scopes"][..]),
        (json!({"name": null, "scopes": null}), &["name", "scopes"]),
        (json!({"name": "", "scopes": []}), &["name", "scopes"]),
        (json!({"name": "x".repeat(65), "scopes": ["read", "write"]}), &["name", "scopes"]),
        (json!({"name": 1, "scopes": "read", "key": "x"}), &["key", "name", "scopes"]),
        (json!({"name": "a\u{7}", "scopes": [1]}), &["scopes", "name"]),
        (json!({"name": "n", "scopes": ["read"], "expires_at": "soon"}), &["expires_at"]),
        (
            json!({"name": "n", "scopes": ["read"], "expires_at": "2027-01-15T08:00:00Z"}),
            &["expires_at"],
        ),
    ] {
        assert_eq!(post(&stack, KEYS, &body).await.problem(422), names, "{body}");
    }
    assert_eq!(get(&stack, KEYS).await.json(200), json!({"items": []}));
    operate(&stack, Method::DELETE, &format!("{KEYS}/key-1"), &Value::Null).await.problem(404);
    let absent = format!("{KEYS}/key-0000000000000000");
    operate(&stack, Method::DELETE, &absent, &Value::Null).await.problem(404);
    post(&stack, "/applications/nobody/keys", &json!({})).await.problem(404);
}

#[tokio::test]
async fn an_application_has_at_most_20_keys() {
    let stack = with_acme().await;
    let mut last = String::new();
    for _ in 0..20 {
        (last, _) = create_key(&stack, "acme", &["read"]).await;
    }
    let full = post(&stack, KEYS, &json!({"name": "n", "scopes": ["read"]})).await;
    full.problem(409);
    assert_eq!(kind(&full), "application-full");
    assert!(full.text.contains("20 keys"));
    revoke(&stack, &last).await;
    create_key(&stack, "acme", &["read"]).await;
}

#[tokio::test]
async fn an_expired_key_is_invalid_from_its_time_on() {
    let stack = with_acme().await;
    let body = json!({"name": "n", "scopes": ["read"], "expires_at": "2027-01-15T08:00:10Z"});
    let key = post(&stack, KEYS, &body).await.json(201)["key"].as_str().unwrap().to_owned();
    stack.clock.advance(Duration::from_millis(9_999));
    read(&stack, &key).await.json(200);
    stack.clock.advance(Duration::from_millis(1));
    read(&stack, &key).await.problem(401);
}

/// The process that revokes a key refuses it at once, others within `ENDPOINT_CACHE_MS`.
#[tokio::test]
async fn a_revoked_key_stops_within_the_cache_time() {
    let stack = with_acme().await;
    let other = stack.another_process(access()).await;
    let (key_id, key) = create_key(&stack, "acme", &["publish"]).await;
    health(&other, &key).await.json(200);
    revoke(&stack, &key_id).await;
    health(&stack, &key).await.problem(401);
    stack.clock.advance(Duration::from_millis(CACHE_MS - 1));
    health(&other, &key).await.json(200);
    stack.clock.advance(Duration::from_millis(1));
    health(&other, &key).await.problem(401);
}

/// A key works at once, although another process has a copy of the document that lacks it.
#[tokio::test]
async fn a_new_key_works_at_once_in_another_process() {
    let stack = with_acme().await;
    let other = stack.another_process(access()).await;
    let (_, first) = create_key(&stack, "acme", &["read"]).await;
    health(&other, &first).await.json(200);
    let (_, second) = create_key(&stack, "acme", &["read"]).await;
    // The copy counts as recent for 100 ms.
    stack.clock.advance(Duration::from_millis(101));
    stack.faults.take_calls();
    health(&other, &second).await.json(200);
    let reads = |stack: &Stack| {
        let calls = stack.faults.take_calls();
        calls.iter().find(|(call, _)| *call == "application").map_or(0, |(_, times)| *times)
    };
    assert_eq!(reads(&stack), 1);
    // Wrong keys read the document at most once in 100 ms.
    let wrong = format!("{}{}", &second[..second.len() - 43], "A".repeat(43));
    for _ in 0..10 {
        health(&other, &wrong).await.problem(401);
    }
    assert_eq!(reads(&stack), 0);
    stack.clock.advance(Duration::from_millis(101));
    for _ in 0..10 {
        health(&other, &wrong).await.problem(401);
    }
    assert_eq!(reads(&stack), 1);
    health(&other, &first).await.json(200);
}

/// An application key gets the summary that a caller without a key gets.
#[tokio::test]
async fn health_with_an_application_key_is_as_without_a_key() {
    let stack = with_acme().await;
    let (_, key) = create_key(&stack, "acme", &["read", "manage", "publish"]).await;
    let health = call(&stack, &key, Method::GET, "/health", &Value::Null).await;
    assert_eq!(health.json(200), json!({"status": "healthy"}));
    stack.clock.advance(Duration::from_secs(10));
    stack.faults.store_down();
    call(&stack, &key, Method::GET, APPLICATION, &Value::Null).await.problem(503);
    stack.faults.heal();
}

/// A platform or a machine that admits its callers is narrowed by a key, and an invalid key does
/// not fall back to full access.
#[tokio::test]
async fn a_key_narrows_callers_that_need_none() {
    for rule in [Access::Platform, Access::Loopback] {
        let stack = Stack::with(&[("MASTER_KEY", MASTER_KEY)], rule).await;
        let open = |method, path: &'static str, key: Option<String>, body: Value| {
            let mut request = stack.request(method, path);
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            if !body.is_null() {
                request = request.header("content-type", "application/json").body(body.to_string());
            }
            stack.call(request)
        };
        open(Method::PUT, APPLICATION, None, json!({})).await.json(201);
        let body = json!({"name": "n", "scopes": ["read"]});
        let created = open(Method::POST, KEYS, None, body).await.json(201);
        let key = created["key"].as_str().unwrap().to_owned();
        open(Method::GET, APPLICATION, Some(key.clone()), Value::Null).await.json(200);
        open(Method::GET, KEYS, Some(key.clone()), Value::Null).await.problem(403);
        open(Method::GET, "/webhook-statuses", Some(key.clone()), Value::Null).await.problem(403);
        let bearer = stack.request(Method::GET, KEYS).bearer_auth(&key);
        stack.call(bearer).await.problem(403);
        for wrong in [format!("{key}A"), "pha.".to_owned(), key.replace("acme", "other")] {
            open(Method::GET, APPLICATION, Some(wrong), Value::Null).await.problem(401);
        }
        open(Method::GET, APPLICATION, Some("another key".to_owned()), Value::Null).await.json(200);
        let changes = open(Method::GET, "/applications/acme/changes", None, Value::Null).await;
        let by = changes.json(200)["items"][0]["by"].clone();
        assert!(by == "iam" || by == "local", "{by}");
    }
}

/// A repeat gets the same key. If its response was lost before it was stored, the key is named.
#[tokio::test]
async fn a_repeated_create_makes_one_key() {
    let body = json!({"name": "n", "scopes": ["read"]});
    for (fault, is_lost) in [
        (None, false),
        (Some(("write_application", Fault::Down)), false),
        (Some(("write_application", Fault::AnswerLost)), true),
        (Some(("replace_reservation", Fault::Down)), true),
        (Some(("replace_reservation", Fault::AnswerLost)), false),
    ] {
        let stack = with_acme().await;
        let once = [("idempotency-key", "first")];
        let create = || call_with(&stack, OPERATOR, Method::POST, KEYS, &body, &once);
        if let Some((call, fault)) = fault {
            stack.faults.set(call, fault);
        }
        let first = create().await;
        stack.faults.heal();
        let repeated = create().await;
        let keys = get(&stack, KEYS).await.json(200);
        assert_eq!(keys["items"].as_array().unwrap().len(), 1, "{fault:?}");
        let key_id = keys["items"][0]["key_id"].as_str().unwrap();
        if is_lost {
            repeated.problem(409);
            assert!(repeated.text.contains(key_id), "{}", repeated.text);
            revoke(&stack, key_id).await;
            create().await.problem(409);
            assert_eq!(get(&stack, KEYS).await.json(200), json!({"items": []}));
            continue;
        }
        let created = repeated.json(201);
        if first.status == 201 {
            assert_eq!(first.json(201), created);
        }
        read(&stack, created["key"].as_str().unwrap()).await.json(200);
        assert_eq!(create().await.json(201), created);
    }
}
